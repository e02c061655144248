//! The latest changes, kept in memory so that a watch can go on where it stopped.
//!
//! Invariants: the changes kept have contiguous revisions that end at the head; a change is here only after it is on
//! disk; memory is bounded by count and by bytes, the newest change excepted.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use tokio::sync::watch;

use super::Options;
use crate::record::Form;
use crate::{Event, Kind, Record, StoreError};
use ripstop_types::Revision;

/// One change, with the value as its JSON text; `None` is a removal. Also one record of a list.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) revision: u64,
    pub(crate) kind: Kind,
    pub(crate) key: Box<str>,
    pub(crate) text: Option<Box<str>>,
}

impl Change {
    /// What the change weighs in a buffer, in bytes.
    pub(crate) fn weight(&self) -> usize {
        size_of::<Self>() + self.key.len() + self.text.as_ref().map_or(0, |text| text.len())
    }

    /// The change as a watch hands it over. Each text was found to be JSON before it was written, and again when its file
    /// was opened.
    pub(crate) fn to_event<V: Form>(&self) -> Event<V> {
        let (kind, key, revision) = (self.kind, self.key.to_string(), Revision(self.revision));
        match &self.text {
            Some(text) => Event::Put(Record { value: V::of_bytes(text.as_bytes()), kind, key, revision }),
            None => Event::Delete { kind, key, revision },
        }
    }

    /// The record that it made; `None` of a removal.
    pub(super) fn record(&self) -> Result<Option<Record>, StoreError> {
        let Some(text) = &self.text else { return Ok(None) };
        let (kind, key, revision) = (self.kind, self.key.to_string(), Revision(self.revision));
        Ok(Some(Record { value: parse(kind, &key, text.as_bytes())?, kind, key, revision }))
    }
}

/// The value of a record's text.
pub(super) fn parse(kind: Kind, key: &str, text: &[u8]) -> Result<Value, StoreError> {
    serde_json::from_slice(text).map_err(|e| StoreError::Corrupt {
        path: "store".into(),
        cause: format!("the value of {kind}/{key} is no JSON: {e}"),
    })
}

/// Where the store stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// The revision of the latest change on disk.
    pub(super) revision: u64,
    /// Whether the store is closed: no change follows.
    pub(super) closed: bool,
}

/// The log of changes.
#[derive(Debug)]
pub(super) struct Log {
    ring: Mutex<Ring>,
    head: watch::Sender<Head>,
    options: Options,
}

#[derive(Debug)]
struct Ring {
    changes: VecDeque<Arc<Change>>,
    bytes: usize,
    /// The revision before the first change kept.
    floor: u64,
}

/// What the log knows behind a revision.
pub(super) enum Since {
    /// The changes that follow, as many as fit the budget.
    Changes(Vec<Arc<Change>>),
    /// The revision is older than what is kept, or none of this log's.
    Forgotten,
}

impl Log {
    /// An empty log behind `revision`.
    pub(super) fn new(revision: u64, options: Options) -> Self {
        let ring = Ring { changes: VecDeque::new(), bytes: 0, floor: revision };
        Self { ring: Mutex::new(ring), head: watch::Sender::new(Head { revision, closed: false }), options }
    }

    /// Adds changes that are on disk, in order, and wakes who waits.
    pub(super) fn publish(&self, changes: Vec<Arc<Change>>) {
        let Some(last) = changes.last().map(|change| change.revision) else { return };
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            ring.bytes += change.weight();
            ring.changes.push_back(change);
            while ring.changes.len() > 1
                && (ring.changes.len() > self.options.log_changes || ring.bytes > self.options.log_bytes)
            {
                if let Some(oldest) = ring.changes.pop_front() {
                    ring.bytes -= oldest.weight();
                    ring.floor = oldest.revision;
                }
            }
        }
        drop(ring);
        self.head.send_modify(|head| head.revision = last);
    }

    /// The changes behind `revision`, up to about `budget` bytes; none if there are none.
    pub(super) fn since(&self, revision: u64, budget: usize) -> Since {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let skip = match revision.checked_sub(ring.floor).and_then(|n| usize::try_from(n).ok()) {
            Some(skip) if skip <= ring.changes.len() => skip,
            _ => return Since::Forgotten,
        };
        let mut spent = 0;
        let within = |change: &&Arc<Change>| {
            let fits = spent < budget;
            spent += change.weight();
            fits
        };
        Since::Changes(ring.changes.iter().skip(skip).take_while(within).cloned().collect())
    }

    /// Where the store stands, and a way to wait for more.
    pub(super) fn head(&self) -> watch::Receiver<Head> {
        self.head.subscribe()
    }

    /// The revision of the latest change.
    pub(super) fn revision(&self) -> u64 {
        self.head.borrow().revision
    }

    /// Tells everyone that no change follows.
    pub(super) fn close(&self) {
        self.head.send_modify(|head| head.closed = true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(revision: u64, len: usize) -> Arc<Change> {
        let text = Some("x".repeat(len).into());
        Arc::new(Change { revision, kind: Kind::Nodes, key: "k".into(), text })
    }

    fn revisions(log: &Log, after: u64, budget: usize) -> Option<Vec<u64>> {
        match log.since(after, budget) {
            Since::Changes(changes) => Some(changes.iter().map(|c| c.revision).collect()),
            Since::Forgotten => None,
        }
    }

    #[test]
    fn a_log_forgets_the_oldest_first_and_says_so() {
        let log = Log::new(10, Options { log_changes: 3, ..Options::default() });
        assert_eq!(revisions(&log, 10, 1), Some(vec![]));
        assert_eq!(revisions(&log, 9, 1), None);
        assert_eq!(revisions(&log, 11, 1), None);
        log.publish((11..=15).map(|r| change(r, 1)).collect());
        assert_eq!(revisions(&log, 12, 10_000), Some(vec![13, 14, 15]));
        assert_eq!(revisions(&log, 11, 10_000), None);
        assert_eq!(revisions(&log, 12, 1), Some(vec![13]));
        assert_eq!(revisions(&log, 15, 1), Some(vec![]));
    }

    #[test]
    fn a_log_is_bounded_in_bytes_but_keeps_the_newest() {
        let log = Log::new(0, Options { log_bytes: 1000, ..Options::default() });
        log.publish(vec![change(1, 400), change(2, 400), change(3, 400)]);
        assert_eq!(revisions(&log, 1, 10_000), Some(vec![2, 3]));
        log.publish(vec![change(4, 5000)]);
        assert_eq!(revisions(&log, 2, 10_000), None);
        assert_eq!(revisions(&log, 3, 10_000), Some(vec![4]));
    }
}
