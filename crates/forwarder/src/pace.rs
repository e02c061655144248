//! How a thread waits for the device: until a packet comes, or a moment longer where packets come close together.
//!
//! A thread has a high priority, so that it takes the CPU from whoever sends. That is right for a packet by itself, which
//! somebody waits for; of many small ones it makes as many switches between two threads, and letters of one frame. So a
//! thread that was woken often lets packets gather before it looks again, as network cards moderate their interrupts: about
//! as long as a letter takes to fill, and never longer than [`LONGEST`].
//!
//! Not here: clocks and sleeping. Invariants: without packets there is no pause, so what is idle costs nothing; where a
//! pause gathers little, as between request and answer, ever more packets go without one.

use std::time::{Duration, Instant};

/// Packets that follow each other within this time, on average, are close together.
const CLOSE: Duration = Duration::from_micros(40);
/// The longest pause: of the order to which network cards moderate bulk traffic.
const LONGEST: Duration = Duration::from_micros(125);
/// So many packets fill a letter, for small ones.
const LETTER: u32 = 64;
/// So many packets are worth a pause.
const WORTH: u32 = 8;
/// So many packets, of those that came together, make the average anew.
const MEMORY: u32 = 8;
/// How long there is no pause after one that was not worth it; each further one in a row doubles it.
const SHORTEST_REGRET: Duration = Duration::from_micros(10);
const LONGEST_REGRET: Duration = Duration::from_millis(64);

/// Decides on pauses.
#[derive(Debug)]
pub struct Pace {
    /// When the last packets were taken.
    last: Option<Instant>,
    /// Average time between two packets.
    gap: Duration,
    /// The pause that was told last.
    pause: Option<Duration>,
    /// No pause before.
    not_before: Option<Instant>,
    regret: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { last: None, gap: LONGEST, pause: None, not_before: None, regret: Duration::ZERO }
    }
}

impl Pace {
    /// So many packets were taken from the device, which has no more: how long to let others gather.
    pub fn taken(&mut self, now: Instant, packets: usize) -> Option<Duration> {
        let count = u32::try_from(packets).ok().filter(|count| *count > 0)?;
        let passed = self.last.replace(now).map_or(LONGEST, |last| now.saturating_duration_since(last));
        // What came only after the pause says nothing about it.
        if self.pause.take().is_some_and(|pause| passed < pause * 2) {
            self.judge(now, count);
        }
        let gap = passed.min(LONGEST) / count;
        let share = count.min(MEMORY);
        self.gap = (self.gap * (MEMORY - share) + gap * share) / MEMORY;
        let close = self.gap < CLOSE && self.not_before.is_none_or(|time| now >= time);
        self.pause = close.then(|| (self.gap * LETTER).min(LONGEST));
        self.pause
    }

    /// Looks at what a pause gathered.
    fn judge(&mut self, now: Instant, count: u32) {
        if count >= WORTH {
            self.regret = Duration::ZERO;
            return;
        }
        self.regret = (self.regret * 2).clamp(SHORTEST_REGRET, LONGEST_REGRET);
        self.not_before = Some(now + self.regret);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Duration = Duration::from_micros(1);

    /// Packets come one by one in this time and are taken when the thread is awake; how often it woke, and paused.
    fn steady(gap: Duration, packets: u32) -> (u32, u32) {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        let begun = now;
        let (mut taken, mut wakes, mut pauses) = (0, 0, 0);
        while taken < packets {
            // It sleeps until the next packet is there.
            now = now.max(begun + gap * (taken + 1));
            let here = u32::try_from((now - begun).as_nanos() / gap.as_nanos()).unwrap() - taken;
            taken += here;
            wakes += 1;
            if let Some(pause) = pace.taken(now, here as usize) {
                assert!(pause <= LONGEST);
                now += pause;
                pauses += 1;
            }
        }
        (wakes, pauses)
    }

    #[test]
    fn what_comes_close_together_is_taken_together() {
        for gap in [1, 3, 10] {
            let (wakes, _) = steady(US * gap, 10_000);
            let each = 10_000 / wakes;
            assert!(each >= (100 / gap).min(LETTER - 8), "{each} packets a wake, one in {gap} µs");
        }
    }

    #[test]
    fn a_full_letter_is_not_waited_for_any_longer() {
        let mut pace = Pace::default();
        let mut now = Instant::now();
        let mut pause = Duration::ZERO;
        for _ in 0..50 {
            now += US * 60;
            pause = pace.taken(now, 60).unwrap_or_default();
        }
        assert_eq!(pause, US * LETTER, "a packet each microsecond");
    }

    #[test]
    fn a_packet_by_itself_is_never_waited_behind() {
        assert_eq!(steady(US * 50, 10_000), (10_000, 0));
        let mut pace = Pace::default();
        assert_eq!(pace.taken(Instant::now(), 1), None, "the first");
        assert_eq!(pace.taken(Instant::now(), 0), None, "nothing came");
    }

    /// Requests, each after the answer to the one before: they are close together, and a pause delays only them.
    #[test]
    fn requests_and_answers_are_soon_left_alone() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        let mut pauses = Vec::new();
        for number in 0..100_000 {
            now += US * 25;
            if let Some(pause) = pace.taken(now, 1) {
                pauses.push(number);
                now += pause.saturating_sub(US * 25);
            }
        }
        let late = pauses.iter().filter(|number| **number >= 50_000).count();
        assert!(late * 1000 < 50_000 * 2, "{late} of 50,000 were paused behind, in all {}", pauses.len());
    }

    #[test]
    fn a_burst_is_gathered_from_its_beginning_after_one_that_was() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        for _ in 0..5 {
            now += US * 120;
            pace.taken(now, 40);
        }
        now += Duration::from_millis(1);
        assert!(pace.taken(now, 1).is_some());
    }
}
