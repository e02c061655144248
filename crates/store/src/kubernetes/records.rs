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
    Topic {
        path: object::path(kind, namespace),
        selector,
        name: object::full_name(kind),
        streaming: false,
        // What an older manifest does not define nobody has claimed.
        optional: kind == Kind::AddressClaims,
        rare: false,
    }
}

/// A record; none of an object whose name is no key's.
pub(super) fn record(kind: Kind, object: &RawValue) -> Result<Option<Record>, String> {
    read(object)?.record(kind)
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

    /// By key.
    fn order(&self, events: &mut Vec<Event<V>>) {
        let key = |event: &Event<V>| if let Event::Put(record) = event { Some(record.key.clone()) } else { None };
        events.sort_by_cached_key(key);
    }

    fn synced(&self, topic: usize, revision: u64) -> Event<V> {
        Event::Synced { kind: self.kinds[topic], revision: Revision(revision) }
    }

    fn put(&self, topic: usize, object: &RawValue) -> Result<Option<Event<V>>, String> {
        let kind = self.kinds[topic];
        self.judging.look(kind, object);
        Ok(record(kind, object)?.map(|record| Event::Put(record.map(V::of_value))))
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
