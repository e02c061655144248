//! The watch of records: objects of our kinds as [`Event`]s.

use std::marker::PhantomData;
use std::sync::Arc;

use ripstop_types::Revision;
use serde_json::value::RawValue;

use super::Shared;
use super::feed::{Reader, Topic};
use super::judge::Judging;
use super::object::{self, ALIVE_LABEL, Object};
use crate::record::Form;
use crate::{Event, Kind, Record};

pub(super) struct Records<V> {
    kinds: Vec<Kind>,
    topics: Vec<Topic>,
    judging: Judging,
    form: PhantomData<fn() -> V>,
}

impl<V> Records<V> {
    pub(super) fn new(shared: Arc<Shared>, kinds: Vec<Kind>) -> Self {
        let topics = kinds.iter().map(|kind| topic(*kind, &shared.options.namespace)).collect();
        Self { kinds, topics, judging: Judging::start(shared), form: PhantomData }
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

impl<V: Form> Reader for Records<V> {
    type Event = Event<V>;

    fn topics(&self) -> &[Topic] {
        &self.topics
    }

    fn reset(&self, topic: usize) -> Event<V> {
        Event::Reset { kind: self.kinds[topic] }
    }

    fn list(&self, topic: usize, objects: Vec<Box<RawValue>>) -> Result<Vec<Event<V>>, String> {
        let kind = self.kinds[topic];
        for object in &objects {
            self.judging.look(kind, object);
        }
        Ok(records(kind, &objects)?.into_iter().map(|record| Event::Put(record.map(V::of_value))).collect())
    }

    fn synced(&self, topic: usize, revision: u64) -> Event<V> {
        Event::Synced { kind: self.kinds[topic], revision: Revision(revision) }
    }

    fn put(&self, topic: usize, object: &RawValue) -> Result<Option<Event<V>>, String> {
        let kind = self.kinds[topic];
        self.judging.look(kind, object);
        Ok(read(object)?.record(kind)?.map(|record| Event::Put(record.map(V::of_value))))
    }

    fn delete(&self, topic: usize, object: &RawValue) -> Result<Option<Event<V>>, String> {
        let (kind, object) = (self.kinds[topic], read(object)?);
        let revision = object.revision()?;
        Ok(object.key(kind).map(|key| Event::Delete { kind, key, revision }))
    }

    fn away(&self, reason: String) -> Event<V> {
        Event::Away { reason }
    }

    fn back(&self) -> Event<V> {
        Event::Back
    }
}
