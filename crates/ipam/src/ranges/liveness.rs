//! Fresh or stale: signs of life on the time this node itself observed.

use std::collections::BTreeMap;
use std::fmt;

use ripstop_types::{Millis, NodeName, Revision};
use serde::{Deserialize, Serialize};

/// What is known of a node's life. Stale frees nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Life {
    /// No sign was seen, and it was not watched long enough to call that a finding.
    Unknown,
    /// Its record changed this many observed milliseconds ago.
    Fresh(u64),
    /// Its record did not change for this many observed milliseconds.
    Stale(u64),
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("not watched long enough"),
            Self::Fresh(ms) => write!(f, "fresh, last sign of life {} s ago", ms / 1000),
            Self::Stale(ms) => write!(f, "stale, no sign of life for {} s", ms / 1000),
        }
    }
}

/// Ages of the nodes' `alive` records.
///
/// Only *changes* of a record count, and only time during which this node was watching: a store that is away, an agent
/// that was stopped and a clock that jumps age nobody. The time given is meant to be monotonic; a step back counts as
/// nothing, a step of more than [`Liveness::LONGEST_STEP_MS`] as that much.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Liveness {
    stale_after_ms: u64,
    watching: bool,
    last: Millis,
    /// Milliseconds watched so far.
    observed: u64,
    nodes: BTreeMap<NodeName, Seen>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Seen {
    revision: Revision,
    /// On the observed time.
    at: u64,
    /// Whether a change was seen. The record as first read may be from long ago.
    changed: bool,
}

impl Liveness {
    /// The most that one step of the clock can age a node.
    pub const LONGEST_STEP_MS: u64 = 5_000;

    /// A tracker that calls a node stale after this much observed time without a change. It does not watch yet.
    #[must_use]
    pub fn new(stale_after_ms: u64) -> Self {
        Self { stale_after_ms, watching: false, last: Millis::default(), observed: 0, nodes: BTreeMap::new() }
    }

    /// The watch on the records is complete and current from now on.
    pub fn watch_up(&mut self, now: Millis) {
        self.advance(now);
        self.watching = true;
    }

    /// The watch is broken: nobody ages until it is up again.
    pub fn watch_down(&mut self, now: Millis) {
        self.advance(now);
        self.watching = false;
    }

    /// A node's record has this revision. The same revision again is no sign of life.
    pub fn observe(&mut self, node: &NodeName, revision: Revision, now: Millis) {
        self.advance(now);
        let at = self.observed;
        match self.nodes.get_mut(node) {
            None => {
                self.nodes.insert(node.clone(), Seen { revision, at, changed: false });
            }
            Some(seen) if seen.revision != revision => *seen = Seen { revision, at, changed: true },
            Some(_) => {}
        }
    }

    /// The node's record was deleted: nothing is known of it any more.
    pub fn forget(&mut self, node: &NodeName) {
        self.nodes.remove(node);
    }

    /// Lets time pass. Call it at least every [`Self::LONGEST_STEP_MS`].
    pub fn advance(&mut self, now: Millis) {
        if self.watching {
            self.observed += now.since(self.last).min(Self::LONGEST_STEP_MS);
        }
        self.last = now;
    }

    /// What is known of a node at the last moment given. A node without a record is stale once the records were
    /// watched for the whole time; a record not seen to change yet is unknown until then.
    #[must_use]
    pub fn life(&self, node: &NodeName) -> Life {
        let (age, changed) = match self.nodes.get(node) {
            Some(seen) => (self.observed.saturating_sub(seen.at), seen.changed),
            None => (self.observed, false),
        };
        match (age >= self.stale_after_ms, changed) {
            (true, _) => Life::Stale(age),
            (false, true) => Life::Fresh(age),
            (false, false) => Life::Unknown,
        }
    }

    /// All nodes with a record, in order.
    pub fn nodes(&self) -> impl Iterator<Item = (&NodeName, Life)> {
        self.nodes.keys().map(|node| (node, self.life(node)))
    }
}
