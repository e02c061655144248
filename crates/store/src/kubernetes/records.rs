//! The watch of records: objects of our kinds as [`Event`]s.

use std::sync::Arc;

use ripstop_types::Revision;
use serde_json::value::RawValue;

use super::Shared;
use super::feed::{Reader, Topic};
use super::judge::Judging;
use super::object::{self, ALIVE_LABEL, Object};
use crate::{Event, Kind, Record};

pub(super) struct Records {
    kinds: Vec<Kind>,
    topics: Vec<Topic>,
    judging: Judging,
}

impl Records {
    pub(super) fn new(shared: Arc<Shared>, kinds: Vec<Kind>) -> Self {
        let topics = kinds.iter().map(|kind| topic(*kind, &shared.options.namespace)).collect();
        Self { kinds, topics, judging: Judging::start(shared) }
    }
}

/// Where the objects of a kind of record are.
pub(super) fn topic(kind: Kind, namespace: &str) -> Topic {
    let selector = match kind {
        // Others have leases, too.
        Kind::Alive => format!("&labelSelector={}", ALIVE_LABEL.replace('=', "%3D").replace('/', "%2F")),
        _ => String::new(),
    };
    Topic { path: object::path(kind, namespace), selector, name: object::full_name(kind), streaming: false }
}

/// Records out of a list, in order of their keys. Objects whose names are no keys' are not among them.
pub(super) fn records(kind: Kind, objects: &[Box<RawValue>]) -> Result<Vec<Record>, String> {
    let read = objects.iter().filter_map(|object| read(object).and_then(|object| object.record(kind)).transpose());
    let mut records: Vec<Record> = read.collect::<Result<_, _>>()?;
    records.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(records)
}

fn read(object: &RawValue) -> Result<Object, String> {
    serde_json::from_str(object.get()).map_err(|fault| format!("an object that cannot be read: {fault}"))
}

impl Reader for Records {
    type Event = Event;

    fn topics(&self) -> &[Topic] {
        &self.topics
    }

    fn reset(&self, topic: usize) -> Event {
        Event::Reset { kind: self.kinds[topic] }
    }

    fn list(&self, topic: usize, objects: Vec<Box<RawValue>>) -> Result<Vec<Event>, String> {
        let kind = self.kinds[topic];
        for object in &objects {
            self.judging.look(kind, object);
        }
        Ok(records(kind, &objects)?.into_iter().map(Event::Put).collect())
    }

    fn synced(&self, topic: usize, revision: u64) -> Event {
        Event::Synced { kind: self.kinds[topic], revision: Revision(revision) }
    }

    fn put(&self, topic: usize, object: &RawValue) -> Result<Option<Event>, String> {
        let kind = self.kinds[topic];
        self.judging.look(kind, object);
        Ok(read(object)?.record(kind)?.map(Event::Put))
    }

    fn delete(&self, topic: usize, object: &RawValue) -> Result<Option<Event>, String> {
        let (kind, object) = (self.kinds[topic], read(object)?);
        let revision = object.revision()?;
        Ok(object.key(kind).map(|key| Event::Delete { kind, key, revision }))
    }

    fn away(&self, reason: String) -> Event {
        Event::Away { reason }
    }

    fn back(&self) -> Event {
        Event::Back
    }
}
