//! The search for the longest packet on the way to one address (RFC 8899, section 5).

use std::collections::{BTreeMap, BTreeSet};

use ripstop_types::Millis;

use crate::{Reach, together};

/// How long an answer is waited for, in milliseconds.
const WAIT_MS: u64 = 250;

/// How often a probe is sent before it counts as lost (`MAX_PROBES`).
const TRIES: u32 = 3;

/// In a search, where many lengths are tried at once and none is in use.
const SEARCH_TRIES: u32 = 2;

/// A peer that does not answer for so long is silent.
const SILENT_MS: u64 = 3_000;

/// Longest pause between two tries to reach a peer that does not answer.
const LONGEST_PAUSE_MS: u64 = 10_000;

/// A longer packet is tried with every so many confirmations.
const RAISE: u32 = 4;

/// Lengths that links and tunnels are known to leave. Each is tried together with the next longer one, so that one round
/// finds it.
const USUAL: [u32; 14] = [576, 1280, 1330, 1360, 1380, 1400, 1420, 1430, 1450, 1460, 1480, 1492, 1500, 8950];

/// Lengths tried at once where none is known.
const SPREAD: u32 = 8;

/// Stands for the shortest probe, which every way carries.
pub(crate) const SHORT: u32 = 0;

/// The way to one address.
#[derive(Debug)]
pub(crate) struct Way {
    /// The longest packet that this node's link takes.
    most: u32,
    /// The shortest that is looked for: what every link of the family must carry, or nearly so.
    floor: u32,
    passed: Option<u32>,
    answers: Option<bool>,
    phase: Phase,
    /// When it goes on.
    pub(crate) due: Millis,
    heard_at: Millis,
    confirmed: u32,
    /// Numbers of the probes of this phase with their lengths.
    sent: BTreeMap<u64, u32>,
    heard: BTreeSet<u32>,
}

#[derive(Debug)]
enum Phase {
    /// Does it answer at all, and does the longest packet come through?
    Base { tries: u32 },
    /// Between a length that passes and one that does not.
    Search { low: u32, high: u32, sizes: Vec<u32>, tries: u32 },
    /// The length is known; nothing is under way.
    Complete,
    /// It is asked whether the length still passes.
    Confirm { tries: u32 },
}

impl Way {
    pub(crate) fn new(most: u32, is_v6: bool, now: Millis, due: Millis) -> Self {
        // Every IPv6 link carries 1,280 bytes (RFC 8200, section 5), every IPv4 host takes 576 (RFC 791, 3.1).
        let floor = if is_v6 { 1280 } else { 576 };
        Self {
            most: most.max(floor),
            floor,
            passed: None,
            answers: None,
            phase: Phase::Base { tries: 0 },
            due,
            heard_at: now,
            confirmed: 0,
            sent: BTreeMap::new(),
            heard: BTreeSet::new(),
        }
    }

    /// The link takes other lengths than before: the search begins anew, with what is known in force.
    pub(crate) fn set_most(&mut self, most: u32, now: Millis) {
        let most = most.max(self.floor);
        if most != self.most {
            self.most = most;
            self.enter(Phase::Base { tries: 0 }, now);
        }
    }

    /// What is known; none before the peer answered or was waited for.
    pub(crate) fn reach(&self) -> Option<Reach> {
        Some(Reach { answers: self.answers?, mtu: self.passed })
    }

    /// It is due: the lengths to probe now.
    pub(crate) fn step(&mut self, now: Millis, interval: u64) -> Vec<u32> {
        if self.answers != Some(false) && now.since(self.heard_at) >= SILENT_MS.max(interval + SILENT_MS / 2) {
            self.answers = Some(false);
        }
        match &mut self.phase {
            Phase::Base { tries } => {
                *tries += 1;
                let tries = *tries;
                if tries > TRIES && self.heard.contains(&SHORT) {
                    return self.search(self.floor, self.most, now);
                }
                let pause = WAIT_MS << tries.saturating_sub(TRIES).min(8);
                self.due = now.plus(pause.min(LONGEST_PAUSE_MS));
                vec![SHORT, self.most]
            }
            Phase::Search { sizes, tries, .. } if *tries < SEARCH_TRIES => {
                *tries += 1;
                let longest = self.heard.last().copied().unwrap_or(SHORT);
                let again = sizes.iter().copied().filter(|size| *size > longest);
                let again = again.chain((longest == SHORT).then_some(SHORT)).collect();
                self.due = now.plus(WAIT_MS);
                again
            }
            Phase::Search { .. } => self.conclude(now, interval),
            Phase::Complete => {
                self.enter(Phase::Confirm { tries: 1 }, now);
                self.confirmed += 1;
                self.due = now.plus(WAIT_MS);
                let passed = self.passed.unwrap_or(self.floor);
                let longer = passed < self.most && self.confirmed.is_multiple_of(RAISE);
                [passed].into_iter().chain(longer.then_some(passed + 1)).collect()
            }
            Phase::Confirm { tries } if *tries < TRIES => {
                *tries += 1;
                self.due = now.plus(WAIT_MS);
                vec![SHORT, self.passed.unwrap_or(self.floor)]
            }
            Phase::Confirm { .. } if self.heard.contains(&SHORT) => {
                // A black hole: what passed before does so no more, and what is short does. It is among what is tried: on a way
                // that loses packets of any length, three in a row say little.
                self.search(self.floor, self.passed.unwrap_or(self.floor), now)
            }
            Phase::Confirm { .. } => {
                self.enter(Phase::Base { tries: TRIES - 1 }, now);
                Vec::new()
            }
        }
    }

    /// A probe of this length got this number.
    pub(crate) fn note_sent(&mut self, id: u64, length: u32) {
        self.sent.insert(id, length);
    }

    /// An answer came; whether it was asked for.
    pub(crate) fn take(&mut self, id: u64, now: Millis, interval: u64) -> bool {
        let Some(length) = self.sent.remove(&id) else { return false };
        self.heard.insert(length);
        self.heard_at = now;
        self.answers = Some(true);
        let passed = self.passed.unwrap_or(0);
        match &self.phase {
            Phase::Base { .. } if length == self.most => self.complete(length, now, interval),
            // The peer is there: what is left of the tries comes at their own pace.
            Phase::Base { tries } if *tries > TRIES => {
                self.phase = Phase::Base { tries: 1 };
                self.due = now.plus(WAIT_MS);
            }
            Phase::Search { sizes, .. } if sizes.iter().all(|size| self.heard.contains(size)) => self.due = now,
            // What is longer than known is told when the end of the search is known.
            Phase::Confirm { .. } | Phase::Complete if length > passed => self.begin_search(length, self.most, now),
            Phase::Confirm { .. } if length == passed => {
                // The answer to a longer one may still be under way: its number stays.
                self.phase = Phase::Complete;
                self.due = together(now, interval);
            }
            _ => {}
        }
        true
    }

    fn enter(&mut self, phase: Phase, now: Millis) {
        self.phase = phase;
        self.due = now;
        self.sent.clear();
        self.heard.clear();
    }

    fn complete(&mut self, passed: u32, now: Millis, interval: u64) {
        self.passed = Some(passed);
        self.confirmed = 0;
        self.enter(Phase::Complete, now);
        self.due = together(now, interval);
    }

    /// Looks for the longest between one that passes and the longest that may; the lengths of the first round.
    fn search(&mut self, low: u32, high: u32, now: Millis) -> Vec<u32> {
        self.begin_search(low, high, now);
        let Phase::Search { sizes, tries, .. } = &mut self.phase else { return Vec::new() };
        *tries = 1;
        let mut first = vec![SHORT];
        first.append(&mut sizes.clone());
        self.due = now.plus(WAIT_MS);
        first
    }

    fn begin_search(&mut self, low: u32, high: u32, now: Millis) {
        let high = high.max(low);
        let usual = USUAL.into_iter().flat_map(|size| [size, size + 1]).filter(|size| (low..=high).contains(size));
        let sizes: BTreeSet<u32> = usual.chain([low, high]).collect();
        self.enter(Phase::Search { low, high, sizes: sizes.into_iter().collect(), tries: 0 }, now);
    }

    /// A round is over.
    fn conclude(&mut self, now: Millis, interval: u64) -> Vec<u32> {
        let Phase::Search { low, high, sizes, .. } = &self.phase else { return Vec::new() };
        if self.heard.is_empty() {
            // Nothing came, not even what is short: the peer is away.
            self.enter(Phase::Base { tries: TRIES - 1 }, now);
            return Vec::new();
        }
        let low = self.heard.last().copied().unwrap_or(SHORT).max(*low);
        let high = sizes.iter().copied().find(|size| *size > low).map_or(*high, |lost| lost.saturating_sub(1)).max(low);
        if low == high {
            self.complete(low, now, interval);
            return Vec::new();
        }
        let step = (high - low).div_ceil(SPREAD).max(1);
        let sizes: BTreeSet<u32> = (1..=SPREAD).map(|n| (low + n * step).min(high)).collect();
        let sizes: Vec<u32> = sizes.into_iter().collect();
        self.enter(Phase::Search { low, high, sizes: sizes.clone(), tries: 1 }, now);
        self.due = now.plus(WAIT_MS);
        [SHORT].into_iter().chain(sizes).collect()
    }
}
