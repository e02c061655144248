//! One watch's way through the store: a list, then the log, and the list again where the log has forgotten.
//!
//! A feed is pulled, and holds nothing but its place: a receiver that is slow costs no memory and stops nobody.
//!
//! Invariants: the list is of one revision, and the log is followed from exactly that revision; after the items of a
//! list comes one `Synced` a kind.

use std::sync::Arc;
use std::time::Duration;

use ripstop_types::Revision;
use tokio::sync::watch;

use super::Core;
use super::database::Snapshot;
use super::log::{Change, Head, Since};
use crate::{Event, Kind};

/// Longest time for which a receiver that takes nothing may keep a list's snapshot. Behind it the file cannot reuse
/// the pages of what was changed since. The list begins anew after it.
pub(crate) const HOLD: Duration = Duration::from_secs(30);
/// Changes of other kinds after which a feed mentions its place.
const SKIPPED: u64 = 256;
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Where a feed begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begin {
    /// With a list.
    Fresh,
    /// With a list to someone who had one: `Reset` before it.
    Anew,
    /// With the changes behind this revision, if they are known; otherwise as `Anew`.
    After(u64),
}

/// What a feed yields.
#[derive(Debug)]
pub(crate) enum Item {
    /// A record of the list, or a change.
    Change(Arc<Change>),
    /// Any other event.
    Event(Event),
    /// The feed has passed this revision, and yielded all there was for it.
    At(u64),
}

/// The state of a watch.
pub(crate) struct Feed {
    core: Arc<Core>,
    head: watch::Receiver<Head>,
    /// In the order of [`Kind::every`], each once.
    kinds: Vec<Kind>,
    place: Place,
    pause: Option<Duration>,
}

enum Place {
    /// Before a list.
    Before { reset: bool },
    /// In a list: at a kind, behind a key. `reset` until that was said.
    List { snapshot: Box<Snapshot>, reset: bool, at: usize, after: Option<Box<str>> },
    /// In the log, with this revision passed, and `told` the last the receiver knows of.
    Log { passed: u64, told: u64 },
}

impl Feed {
    pub(super) fn new(core: Arc<Core>, kinds: &[Kind], begin: Begin) -> Self {
        let kinds = Kind::every().filter(|kind| kinds.contains(kind)).collect();
        let place = match begin {
            Begin::Fresh => Place::Before { reset: false },
            Begin::Anew => Place::Before { reset: true },
            Begin::After(revision) => Place::Log { passed: revision, told: revision },
        };
        Self { head: core.log.head(), core, kinds, place, pause: None }
    }

    /// The next items, at least one and up to about `budget` bytes; waits for a change where there is none. `None` when
    /// the store is closed, or the feed has no kinds.
    ///
    /// May be dropped while it waits: nothing is lost.
    pub(crate) async fn next(&mut self, budget: usize) -> Option<Vec<Item>> {
        while !self.kinds.is_empty() {
            if self.head.borrow().closed {
                return None;
            }
            if let Place::Log { passed, .. } = self.place {
                let moved = self.head.wait_for(|head| head.closed || head.revision != passed).await;
                if moved.is_err() {
                    return None;
                }
            }
            if let Some(pause) = self.pause {
                tokio::time::sleep(pause).await;
            }
            let items = self.advance(budget);
            if !items.is_empty() {
                return Some(items);
            }
        }
        None
    }

    /// Lets go of the snapshot, if the feed has one; the list will begin anew.
    pub(crate) fn release(&mut self) {
        if let Place::List { .. } = self.place {
            self.place = Place::Before { reset: true };
        }
    }

    fn advance(&mut self, budget: usize) -> Vec<Item> {
        match &mut self.place {
            Place::Log { passed, told } => {
                let (from, known) = (*passed, *told);
                self.follow(from, known, budget)
            }
            Place::Before { reset } => {
                let reset = *reset;
                match self.core.snapshot() {
                    Ok(snapshot) => {
                        self.place = Place::List { snapshot: Box::new(snapshot), reset, at: 0, after: None };
                        self.list(budget)
                    }
                    Err(fault) => self.away(fault.to_string(), reset),
                }
            }
            Place::List { .. } => self.list(budget),
        }
    }

    fn follow(&mut self, passed: u64, told: u64, budget: usize) -> Vec<Item> {
        let Since::Changes(changes) = self.core.log.since(passed, budget) else {
            self.place = Place::Before { reset: true };
            return Vec::new();
        };
        let passed = changes.last().map_or(passed, |last| last.revision);
        let mine = changes.into_iter().filter(|change| self.kinds.contains(&change.kind));
        let mut items: Vec<Item> = mine.map(Item::Change).collect();
        let told = match items.last() {
            Some(Item::Change(last)) => last.revision,
            _ => told,
        };
        let silent = passed - told >= SKIPPED;
        if silent {
            items.push(Item::At(passed));
        }
        self.place = Place::Log { passed, told: if silent { passed } else { told } };
        items
    }

    fn list(&mut self, budget: usize) -> Vec<Item> {
        let Place::List { snapshot, reset, at, after } = &mut self.place else { return Vec::new() };
        let Some(kind) = self.kinds.get(*at).copied() else { return Vec::new() };
        let page = match snapshot.page(kind, after.as_deref(), budget) {
            Ok(page) => page,
            // What was handed over of this list is not known to be whole.
            Err(fault) => return self.away(fault.to_string(), true),
        };
        let mut items = Vec::with_capacity(page.len() + 2);
        if self.pause.take().is_some() {
            items.push(Item::Event(Event::Back));
        }
        if std::mem::take(reset) {
            // All at once, so that a receiver never takes a list of one revision and one of another for a whole.
            items.extend(self.kinds.iter().map(|kind| Item::Event(Event::Reset { kind: *kind })));
        }
        match page.last() {
            Some(last) => *after = Some(last.key.clone()),
            None => {
                (*at, *after) = (*at + 1, None);
                items.push(Item::Event(Event::Synced { kind, revision: Revision(snapshot.revision) }));
            }
        }
        if *at == self.kinds.len() {
            self.place = Place::Log { passed: snapshot.revision, told: snapshot.revision };
        }
        items.extend(page.into_iter().map(Item::Change));
        items
    }

    fn away(&mut self, reason: String, reset: bool) -> Vec<Item> {
        let first = self.pause.is_none();
        self.pause = Some(self.pause.map_or(SHORTEST_PAUSE, |pause| (pause * 2).min(LONGEST_PAUSE)));
        self.place = Place::Before { reset };
        if first { vec![Item::Event(Event::Away { reason })] } else { Vec::new() }
    }
}
