//! The account of one flow: what was sent, what came back, how late, in which order. Pure; times are nanoseconds.

use std::collections::VecDeque;

use super::LIFETIME;

/// How long a probe is remembered: longer than it lives, so that duplicates and late echoes are told apart from noise.
const MEMORY: u64 = LIFETIME_NS + 500_000_000;
pub(super) const LIFETIME_NS: u64 = LIFETIME.as_secs() * 1_000_000_000;

/// One flow's account.
#[derive(Debug, Clone, Default)]
pub(super) struct Flow {
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) dup: u64,
    pub(super) reordered: u64,
    pub(super) max_gap: u64,
    /// When the first and the last of those were sent that have no echo, as far as that is known.
    pub(super) unanswered: Option<(u64, u64)>,
    pub(super) delays: Histogram,
    /// Probes from `base` on, oldest first.
    window: VecDeque<Slot>,
    /// Probes in the window whose echo has not come.
    open: usize,
    base: u64,
    next_expected: u64,
    last_arrival: Option<u64>,
    last_sent: u64,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    sent: u64,
    back: bool,
}

impl Flow {
    /// A probe is about to be sent; answers its number.
    pub(super) fn send(&mut self, now: u64) -> u64 {
        while let Some(slot) = self.window.front().copied().filter(|slot| now.saturating_sub(slot.sent) > MEMORY) {
            if !slot.back {
                self.open -= 1;
                self.unanswered = Some(with(self.unanswered, slot.sent));
            }
            self.window.pop_front();
            self.base += 1;
        }
        self.open += 1;
        self.window.push_back(Slot { sent: now, back: false });
        self.last_sent = now;
        // The wait for the first echo is a gap like any other.
        self.last_arrival.get_or_insert(now);
        self.sent += 1;
        self.sent - 1
    }

    /// An echo came; answers whether it was the first, in time.
    pub(super) fn arrive(&mut self, seq: u64, now: u64) -> bool {
        let slot = seq.checked_sub(self.base).and_then(|at| self.window.get_mut(usize::try_from(at).ok()?));
        let Some(slot) = slot else { return false };
        if slot.back {
            self.dup += 1;
            return false;
        }
        slot.back = true;
        self.open -= 1;
        let delay = now.saturating_sub(slot.sent);
        if delay > LIFETIME_NS {
            return false;
        }
        self.received += 1;
        self.delays.add(delay);
        if seq < self.next_expected {
            self.reordered += 1;
        }
        self.next_expected = self.next_expected.max(seq + 1);
        let gap = now.saturating_sub(self.last_arrival.unwrap_or(now));
        self.max_gap = self.max_gap.max(gap);
        self.last_arrival = Some(now);
        true
    }

    /// How many probes are under way or lost of late.
    pub(super) fn open(&self) -> usize {
        self.open
    }

    /// Whether an echo may still come.
    pub(super) fn pending(&self, now: u64) -> bool {
        self.received < self.sent
            && self.window.iter().any(|slot| !slot.back && now.saturating_sub(slot.sent) <= LIFETIME_NS)
    }

    /// How many probes are lost, given that none is under way any more.
    pub(super) fn lost(&self) -> u64 {
        self.sent - self.received
    }

    /// Closes the account. If the last probes were lost, the time since the last echo is a gap.
    pub(super) fn close(&mut self) {
        for slot in self.window.iter().filter(|slot| !slot.back) {
            self.unanswered = Some(with(self.unanswered, slot.sent));
        }
        if let Some(last) = self.last_arrival
            && self.window.back().is_some_and(|slot| !slot.back)
        {
            self.max_gap = self.max_gap.max(self.last_sent.saturating_sub(last));
        }
    }
}

/// First and last, with one more behind them.
fn with(so_far: Option<(u64, u64)>, sent: u64) -> (u64, u64) {
    (so_far.map_or(sent, |(first, _)| first), sent)
}

/// Counts of values in buckets that are at most 1/16 of their value wide.
#[derive(Debug, Clone, Default)]
pub(super) struct Histogram {
    buckets: Vec<u64>,
    total: u64,
}

const SUB: u32 = 4;

impl Histogram {
    pub(super) fn add(&mut self, value: u64) {
        let bucket = bucket_of(value);
        if self.buckets.len() <= bucket {
            self.buckets.resize(bucket + 1, 0);
        }
        self.buckets[bucket] += 1;
        self.total += 1;
    }

    pub(super) fn merge(&mut self, other: &Self) {
        if self.buckets.len() < other.buckets.len() {
            self.buckets.resize(other.buckets.len(), 0);
        }
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += theirs;
        }
        self.total += other.total;
    }

    /// The value that this many of a thousand do not exceed; none if there is no value.
    pub(super) fn per_mille(&self, share: u64) -> Option<u64> {
        let wanted = (self.total * share).div_ceil(1000).max(1);
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return Some(top_of(bucket));
            }
        }
        None
    }
}

fn bucket_of(value: u64) -> usize {
    let bits = 64 - value.leading_zeros();
    let shift = bits.saturating_sub(SUB + 1);
    // Below 2^(SUB+1) each value is a bucket; above, each power of two is cut into 2^SUB.
    (shift as usize) * (1 << SUB) + (value >> shift) as usize
}

fn top_of(bucket: usize) -> u64 {
    let size = 1_usize << SUB;
    let shift = (bucket / size).saturating_sub(1);
    let head = bucket - shift * size;
    ((head as u64) << shift) + ((1 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn what_comes_back_in_time_is_received() {
        let mut flow = Flow::default();
        for n in 0..3 {
            assert_eq!(flow.send(n * MS), n);
        }
        assert!(flow.arrive(0, MS) && flow.arrive(2, 3 * MS) && flow.pending(3 * MS));
        assert!(flow.arrive(1, 4 * MS) && !flow.pending(4 * MS));
        assert_eq!((flow.sent, flow.received, flow.lost(), flow.reordered, flow.dup), (3, 3, 0, 1, 0));
        assert!(!flow.arrive(1, 5 * MS));
        assert_eq!((flow.dup, flow.open()), (1, 0));
        assert!(!flow.arrive(99, 5 * MS), "never sent");
    }

    #[test]
    fn late_is_lost() {
        let mut flow = Flow::default();
        flow.send(0);
        assert!(!flow.arrive(0, LIFETIME_NS + 1));
        assert_eq!((flow.received, flow.lost()), (0, 1));
        assert!(!flow.pending(LIFETIME_NS + 1));
    }

    #[test]
    fn the_gap_is_the_longest_time_without_an_echo() {
        let mut flow = Flow::default();
        for n in 0..100 {
            flow.send(n * MS);
            if !(40..60).contains(&n) {
                flow.arrive(n, n * MS);
            }
        }
        flow.close();
        assert_eq!((flow.lost(), flow.max_gap), (20, 21 * MS));
        assert_eq!(flow.unanswered, Some((40 * MS, 59 * MS)));
        for n in 100..150 {
            flow.send(n * MS);
        }
        flow.close();
        assert_eq!(flow.max_gap, 50 * MS, "also at the end");
    }

    #[test]
    fn memory_is_bounded_and_losses_stay_counted() {
        let mut flow = Flow::default();
        for n in 0..10_000 {
            flow.send(n * MS);
        }
        assert!(flow.window.len() as u64 <= MEMORY / MS + 1);
        assert_eq!(flow.open(), flow.window.len());
        assert_eq!(flow.lost(), 10_000);
        assert!(!flow.arrive(0, 10_000 * MS), "forgotten");
        assert!(flow.arrive(9_999, 10_000 * MS));
    }

    #[test]
    fn percentiles_are_right_to_a_sixteenth() {
        let mut delays = Histogram::default();
        assert_eq!(delays.per_mille(500), None);
        for value in 1..=1000_u64 {
            delays.add(value * 1000);
        }
        for (share, exact) in [(500, 500_000), (990, 990_000), (1000, 1_000_000), (0, 1_000)] {
            let found = delays.per_mille(share).unwrap();
            assert!(found >= exact && found <= exact + exact / 15, "{share}: {found}");
        }
        let mut other = Histogram::default();
        other.add(u64::MAX);
        other.add(3);
        delays.merge(&other);
        assert_eq!(delays.per_mille(1000), Some(u64::MAX));
        assert_eq!(delays.per_mille(0), Some(3));
    }

    #[test]
    fn buckets_hold_their_values() {
        for value in (0..4096).chain([u64::MAX / 3, u64::MAX - 1, u64::MAX]) {
            let top = top_of(bucket_of(value));
            assert!(top >= value && top - value <= value / 16, "{value} {top}");
        }
    }
}
