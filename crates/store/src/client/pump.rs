//! One watch of a remote store: from the connection of the moment into the receiver's channel.
//!
//! Invariants: the receiver gets `Away` and `Back` in turn; a watch goes on behind a revision only where everything up
//! to it was handed over, and asks for a new list otherwise.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::Shared;
use super::link::{Link, Status};
use crate::record::{Form, Text};
use crate::wire::{self, Ask, From, WINDOW};
use crate::{Event, Kind};

/// What came for a watch, with its bytes on the wire.
pub(super) enum Heard {
    Event(Event<Text>, usize),
    At(u64, usize),
}

/// The receiver is gone.
struct Gone;

struct Pump<V> {
    shared: Arc<Shared>,
    id: u64,
    kinds: Vec<Kind>,
    events: mpsc::Sender<Event<V>>,
    /// The connection the watch is open on; the store may be away all the same.
    link: Option<Arc<Link>>,
    away: bool,
    /// Whether the receiver was handed any record.
    begun: bool,
    place: Place,
    /// Bytes handed over that the server was not told of.
    spent: usize,
}

/// What the receiver has.
#[derive(Debug)]
struct Place {
    /// Kinds whose present list is complete.
    synced: BTreeSet<Kind>,
    /// The opening of the store that gave the revisions.
    epoch: u64,
    /// Everything up to this revision was handed over.
    revision: Option<u64>,
}

/// Runs until the receiver or the client is gone.
pub(super) async fn pump<V: Form>(
    shared: Arc<Shared>,
    id: u64,
    kinds: Vec<Kind>,
    mut heard: mpsc::UnboundedReceiver<Heard>,
    events: mpsc::Sender<Event<V>>,
) {
    let mut status = shared.status.subscribe();
    status.mark_changed();
    let place = Place { synced: BTreeSet::new(), epoch: 0, revision: None };
    let mut pump = Pump { shared, id, kinds, events, link: None, away: false, begun: false, place, spent: 0 };
    loop {
        // What an old connection left is handed over before a new one is looked at.
        let went = tokio::select! {
            biased;
            () = pump.events.closed() => Err(Gone),
            Some(heard) = heard.recv() => pump.hand_over(heard).await,
            changed = status.changed() => {
                let now = status.borrow_and_update().clone();
                if changed.is_err() { Err(Gone) } else { pump.turn(now).await }
            }
        };
        if went.is_err() {
            return pump.close().await;
        }
    }
}

impl<V: Form> Pump<V> {
    async fn hand_over(&mut self, heard: Heard) -> Result<(), Gone> {
        let bytes = match heard {
            Heard::At(revision, bytes) => {
                self.place.pass(revision);
                bytes
            }
            Heard::Event(event, bytes) => {
                self.begun |= matches!(event, Event::Put(_) | Event::Synced { .. });
                self.place.take(&event, &self.kinds);
                match event {
                    Event::Away { reason } => self.lose(reason).await?,
                    Event::Back => self.find().await?,
                    event => self.events.send(event.map(V::of_text)).await.map_err(|_| Gone)?,
                }
                bytes
            }
        };
        self.spent += bytes;
        if self.spent >= WINDOW as usize / 2 {
            let bytes = u32::try_from(std::mem::take(&mut self.spent)).unwrap_or(u32::MAX);
            if let Some(slot) = self.shared.lock().watches.get_mut(&self.id) {
                slot.credit += i64::from(bytes);
            }
            self.say(&Ask::More { watch: self.id, bytes }).await;
        }
        Ok(())
    }

    /// Takes note of what became of the connection.
    async fn turn(&mut self, status: Status) -> Result<(), Gone> {
        match status {
            Status::Untried => Ok(()),
            Status::Closed => Err(Gone),
            Status::Down(fault) => {
                self.link = None;
                self.lose(fault.to_string()).await
            }
            Status::Up(link) => {
                let known = self.link.as_ref().map(|link| link.generation);
                if known == Some(link.generation) {
                    return Ok(());
                }
                if known.is_some() {
                    self.lose("the connection was lost".into()).await?;
                }
                self.find().await?;
                self.open(link).await;
                Ok(())
            }
        }
    }

    async fn open(&mut self, link: Arc<Link>) {
        let from = match self.place.revision {
            Some(revision) => From::After { epoch: self.place.epoch, revision },
            None if self.begun => From::Anew,
            None => From::Start,
        };
        if self.place.revision.is_none() {
            self.place.synced.clear();
        }
        self.place.epoch = link.epoch;
        self.link = Some(link);
        self.spent = 0;
        if let Some(slot) = self.shared.lock().watches.get_mut(&self.id) {
            slot.credit = i64::from(WINDOW);
        }
        let kinds = self.kinds.clone();
        self.say(&Ask::Watch { watch: self.id, kinds, from, window: WINDOW }).await;
    }

    /// Says something on the connection. Where that is lost, its loss is heard of soon.
    async fn say(&self, ask: &Ask<'_>) {
        if let Some(link) = &self.link {
            let mut line = Vec::new();
            wire::line(&mut line, ask);
            let _ = link.lines.send(line).await;
        }
    }

    async fn lose(&mut self, reason: String) -> Result<(), Gone> {
        if std::mem::replace(&mut self.away, true) {
            return Ok(());
        }
        self.events.send(Event::Away { reason }).await.map_err(|_| Gone)
    }

    async fn find(&mut self) -> Result<(), Gone> {
        if !std::mem::replace(&mut self.away, false) {
            return Ok(());
        }
        self.events.send(Event::Back).await.map_err(|_| Gone)
    }

    async fn close(self) {
        self.shared.lock().watches.remove(&self.id);
        self.say(&Ask::Unwatch { watch: self.id }).await;
    }
}

impl Place {
    /// Takes note of an event that is about to be handed over.
    fn take<V>(&mut self, event: &Event<V>, kinds: &[Kind]) {
        match event {
            Event::Put(record) => self.pass(record.revision.0),
            Event::Delete { revision, .. } => self.pass(revision.0),
            Event::Synced { kind, revision } => {
                self.synced.insert(*kind);
                if self.synced.len() == kinds.len() {
                    self.revision = Some(revision.0);
                }
            }
            Event::Reset { kind } => {
                self.synced.remove(kind);
                self.revision = None;
            }
            Event::Away { .. } | Event::Back => {}
        }
    }

    /// Everything up to this revision is handed over, unless a list is under way.
    fn pass(&mut self, revision: u64) {
        if let Some(passed) = &mut self.revision {
            *passed = revision.max(*passed);
        }
    }
}

#[cfg(test)]
mod tests {
    use ripstop_types::Revision;

    use super::*;

    fn after(events: &[Event]) -> Option<u64> {
        let mut place = Place { synced: BTreeSet::new(), epoch: 1, revision: None };
        events.iter().for_each(|event| place.take(event, &[Kind::Nodes, Kind::Claims]));
        place.revision
    }

    #[test]
    fn a_watch_goes_on_only_from_complete_lists() {
        let synced = |kind, revision| Event::Synced { kind, revision: Revision(revision) };
        let gone = |revision| Event::Delete { kind: Kind::Nodes, key: "n".into(), revision: Revision(revision) };
        let reset = |kind| Event::Reset { kind };
        let (nodes, claims) = (Kind::Nodes, Kind::Claims);
        assert_eq!(after(&[gone(3), synced(nodes, 9)]), None);
        assert_eq!(after(&[synced(nodes, 9), synced(claims, 9)]), Some(9));
        assert_eq!(after(&[synced(nodes, 9), synced(claims, 9), gone(12)]), Some(12));
        let begun = [synced(nodes, 9), synced(claims, 9), reset(nodes), reset(claims), synced(nodes, 20)];
        assert_eq!(after(&begun), None);
        assert_eq!(after(&[&begun[..], &[gone(15), synced(claims, 20)]].concat()), Some(20));
        // The list that began anew was itself begun anew.
        assert_eq!(after(&[&begun[..], &[reset(nodes), reset(claims), synced(nodes, 30)]].concat()), None);
    }
}
