//! What a receiver knows from its watch, and a judge of the order of events.

use std::collections::BTreeMap;

use ripstop_types::Revision;

use crate::{Event, Kind, Record};

/// The records of a watch, kept as [`Event`] says they are to be kept. Every breach of the order is an error.
#[derive(Debug)]
pub struct Mirror {
    kinds: BTreeMap<Kind, Known>,
    /// Why the store is away.
    away: Option<String>,
    /// Whether the changes of all kinds are in one order, or those of each kind alone.
    one_order: bool,
    /// The revision of the latest event of all, and of each kind.
    latest: Option<Revision>,
    latest_of: BTreeMap<Kind, Revision>,
    /// Revisions of changes outside of lists.
    changes: Vec<Revision>,
    resets: usize,
    absences: usize,
}

#[derive(Debug, Default)]
struct Known {
    records: BTreeMap<String, Record>,
    /// The list under way; `None` when the kind is complete.
    list: Option<BTreeMap<String, Record>>,
}

impl Mirror {
    /// A receiver of these kinds that knows nothing yet.
    pub fn new(kinds: &[Kind]) -> Self {
        let unknown = || Known { records: BTreeMap::new(), list: Some(BTreeMap::new()) };
        Self {
            kinds: kinds.iter().map(|kind| (*kind, unknown())).collect(),
            away: None,
            one_order: true,
            latest: None,
            latest_of: BTreeMap::new(),
            changes: Vec::new(),
            resets: 0,
            absences: 0,
        }
    }

    /// The same of a store whose changes are in order within each kind only.
    #[must_use]
    pub fn of_each_kind_alone(self) -> Self {
        Self { one_order: false, ..self }
    }

    /// Takes an event.
    ///
    /// # Errors
    /// What about the event breaks the order.
    pub fn take(&mut self, event: Event) -> Result<(), String> {
        let shown = format!("{event:?}").chars().take(200).collect::<String>();
        self.judge(event).map_err(|why| format!("{why}: {shown}"))
    }

    /// Whether all kinds are complete and the store is there.
    pub fn is_synced(&self) -> bool {
        self.away.is_none() && self.kinds.values().all(|known| known.list.is_none())
    }

    /// Whether the store is away.
    pub fn is_away(&self) -> bool {
        self.away.is_some()
    }

    /// Whether everything up to a revision is known.
    pub fn has(&self, revision: Revision) -> bool {
        self.is_synced() && self.latest >= Some(revision)
    }

    /// The records of a kind, in order of their keys.
    pub fn records(&self, kind: Kind) -> Vec<Record> {
        self.kinds.get(&kind).map(|known| known.records.values().cloned().collect()).unwrap_or_default()
    }

    /// The revisions of the changes that came outside of lists.
    pub fn changes(&self) -> &[Revision] {
        &self.changes
    }

    /// How many lists were begun anew.
    pub fn resets(&self) -> usize {
        self.resets
    }

    /// How often the store went away.
    pub fn absences(&self) -> usize {
        self.absences
    }

    fn judge(&mut self, event: Event) -> Result<(), String> {
        if self.away.is_some() && !matches!(event, Event::Back | Event::Away { .. }) {
            return Err("an event while the store is away".into());
        }
        match event {
            Event::Away { reason } => {
                ensure!(!reason.is_empty(), "no reason");
                ensure!(self.away.as_ref() != Some(&reason), "away for the reason that was told");
                self.absences += usize::from(self.away.is_none());
                self.away = Some(reason);
            }
            Event::Back => {
                ensure!(self.away.take().is_some(), "back without having been away");
            }
            Event::Reset { kind } => {
                let known = self.kinds.get_mut(&kind).ok_or("a kind that is not watched")?;
                known.list = Some(BTreeMap::new());
                self.resets += 1;
            }
            Event::Synced { kind, revision } => self.synced(kind, revision)?,
            Event::Put(record) => {
                let known = self.kinds.get_mut(&record.kind).ok_or("a kind that is not watched")?;
                if let Some(list) = &mut known.list {
                    let last = list.last_key_value().map(|(key, _)| key);
                    ensure!(last < Some(&record.key), "not in order of the keys, behind {last:?}");
                    list.insert(record.key.clone(), record);
                    return Ok(());
                }
                let (kind, key, revision) = (record.kind, record.key.clone(), record.revision);
                self.change(kind, revision)?;
                if let Some(known) = self.kinds.get_mut(&kind) {
                    known.records.insert(key, record);
                }
            }
            Event::Delete { kind, key, revision } => {
                self.change(kind, revision)?;
                let known = self.kinds.get_mut(&kind).ok_or("a kind that is not watched")?;
                ensure!(known.records.remove(&key).is_some(), "a record that is not there is gone");
            }
        }
        Ok(())
    }

    fn synced(&mut self, kind: Kind, revision: Revision) -> Result<(), String> {
        let latest = self.latest_before(kind);
        let known = self.kinds.get_mut(&kind).ok_or("a kind that is not watched")?;
        let list = known.list.take().ok_or("a list that is complete already")?;
        let newest = list.values().map(|record| record.revision).max();
        ensure!(newest <= Some(revision), "a record of revision {newest:?} in the list");
        ensure!(latest <= Some(revision), "the list is older than what was known, {latest:?}");
        for (key, before) in &known.records {
            let now = list.get(key).map(|record| record.revision);
            ensure!(now.is_none_or(|now| now >= before.revision), "{key} went back from {}", before.revision);
        }
        known.records = list;
        self.note(kind, revision);
        Ok(())
    }

    fn change(&mut self, kind: Kind, revision: Revision) -> Result<(), String> {
        let complete = self.kinds.values().all(|known| known.list.is_none());
        ensure!(complete, "a change before the lists are complete");
        let latest = self.latest_before(kind);
        ensure!(latest < Some(revision), "not behind {latest:?}");
        self.note(kind, revision);
        self.changes.push(revision);
        Ok(())
    }

    /// The revision behind which the next event of a kind is.
    fn latest_before(&self, kind: Kind) -> Option<Revision> {
        if self.one_order { self.latest } else { self.latest_of.get(&kind).copied() }
    }

    fn note(&mut self, kind: Kind, revision: Revision) {
        self.latest = self.latest.max(Some(revision));
        self.latest_of.insert(kind, revision);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn put(key: &str, revision: u64) -> Event {
        let (value, revision) = (json!(revision), Revision(revision));
        Event::Put(Record { kind: Kind::Nodes, key: key.into(), value, revision })
    }

    fn gone(key: &str, revision: u64) -> Event {
        Event::Delete { kind: Kind::Nodes, key: key.into(), revision: Revision(revision) }
    }

    fn synced(revision: u64) -> Event {
        Event::Synced { kind: Kind::Nodes, revision: Revision(revision) }
    }

    fn judge(events: &[Event]) -> Result<Mirror, String> {
        let mut mirror = Mirror::new(&[Kind::Nodes]);
        events.iter().try_for_each(|event| mirror.take(event.clone()))?;
        Ok(mirror)
    }

    #[test]
    fn the_judge_lets_good_orders_pass() {
        let reset = Event::Reset { kind: Kind::Nodes };
        let away = Event::Away { reason: "gone".into() };
        let good = [put("a", 3), put("b", 1), synced(5), put("c", 6), gone("a", 7), away, Event::Back, put("b", 9)];
        let mirror = judge(&good).unwrap();
        assert_eq!(mirror.records(Kind::Nodes).len(), 2);
        assert!(mirror.has(Revision(9)) && !mirror.has(Revision(10)));
        let again = [&good[..], &[reset, put("z", 10), synced(11)]].concat();
        assert_eq!(judge(&again).unwrap().records(Kind::Nodes).len(), 1);
    }

    #[test]
    fn the_judge_finds_every_breach() {
        let reset = Event::Reset { kind: Kind::Nodes };
        let away = Event::Away { reason: "gone".into() };
        let other = Event::Synced { kind: Kind::Alive, revision: Revision(1) };
        let bad: [&[Event]; 12] = [
            &[put("b", 1), put("a", 2)],
            &[put("a", 9), synced(5)],
            &[synced(5), put("a", 5)],
            &[synced(5), put("a", 6), put("b", 6)],
            &[synced(5), gone("a", 6)],
            &[gone("a", 6)],
            &[synced(5), synced(6)],
            &[synced(5), put("a", 6), reset, synced(5)],
            &[away.clone(), away.clone()],
            &[away, put("a", 1)],
            &[Event::Back],
            &[other],
        ];
        for events in bad {
            assert!(judge(events).is_err(), "{events:?} passed");
        }
    }
}
