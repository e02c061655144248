//! The store's side of the core: its news, this node's own records, and its sign of life.

use std::collections::BTreeSet;
use std::sync::Arc;

use ripstop_netmodel::{Entry, Key, Object, Record as ModelRecord, RecordGuard, RecordScope, Resource};
use ripstop_objects::{AliveRecord, NetworkName, Record};
use ripstop_plan::{Action, Step};
use ripstop_tables::{Change, Moment, StoreInput, StoreKind, StoreResult, StoreState, StoreValue, Withdrawn};
use ripstop_types::{Millis, NodeName, Owner, Revision};

use super::dispatch::{Purpose, STUBBORN};
use super::{Core, Level};

/// This node's sign of life.
#[derive(Debug)]
pub(super) struct Beat {
    /// When the next is to be given.
    pub due: Millis,
    sequence: u64,
    /// The last one is not answered yet.
    under_way: bool,
}

impl Beat {
    pub(super) fn new(at: Moment) -> Self {
        // Greater than those of every earlier run, as far as the clock goes forward.
        Self { due: at.now, sequence: at.wall.0, under_way: false }
    }
}

impl Core {
    pub(super) fn take_store(&mut self, input: &StoreInput) -> BTreeSet<Change> {
        if let StoreInput::Put { kind, revision, .. }
        | StoreInput::Delete { kind, revision, .. }
        | StoreInput::Synced { kind, revision } = input
        {
            let seen = self.seen.entry(*kind).or_default();
            *seen = (*seen).max(*revision);
        }
        let changes = self.tables.apply_store(input);
        self.range_store_event(input);
        match input {
            StoreInput::Put { kind: StoreKind::Alive, key, revision, .. } => {
                if let Ok(node) = key.parse() {
                    self.liveness.observe(&node, *revision, self.at.now);
                }
            }
            StoreInput::Delete { kind: StoreKind::Alive, key, .. } => {
                if let Ok(node) = key.parse() {
                    self.liveness.forget(&node);
                }
            }
            StoreInput::Synced { kind: StoreKind::Alive, .. } => self.liveness.watch_up(self.at.now),
            StoreInput::Away { reason } => {
                self.liveness.watch_down(self.at.now);
                self.log(Level::Warn, format!("the store is away: {reason}; forwarding and pods of this node go on"));
            }
            StoreInput::Back => {
                self.liveness.watch_up(self.at.now);
                self.log(Level::Info, "the store is back");
            }
            _ => {}
        }
        changes
    }

    /// Compares a record of this node with what the store has: the tables' word is what is there.
    pub(super) fn compare_with_store(&mut self, key: Key) {
        let Some(wanted) = self.desired.model().get(&key) else {
            // A record that this node no longer proposes is the store's, and stays there.
            self.applied.remove(&key);
            self.dirty.remove(&key);
            return;
        };
        match (self.stored_value(&key), &wanted.object) {
            (Some(value), Object::Record(record)) => {
                let there = ModelRecord { value, ..record.clone() };
                self.applied.insert(there, wanted.owner.clone());
            }
            _ => {
                self.applied.remove(&key);
            }
        }
        self.dirty.insert(key);
    }

    fn stored_value(&self, key: &Key) -> Option<Arc<str>> {
        let (kind, key) = store_key(key)?;
        let value = match kind {
            StoreKind::Nodes => self.tables.nodes.get(&key.parse::<NodeName>().ok()?)?.value.encode(),
            StoreKind::Networks => self.tables.networks.get(&key.parse::<NetworkName>().ok()?)?.value.encode(),
            _ => return None,
        };
        Some(value.to_string().into())
    }

    /// Shows that this node is alive, unless nobody would see it or another machine has the name.
    pub(super) fn show_life(&mut self) {
        self.beat.due = self.at.now.plus(self.tables.config.timings.alive_interval);
        let stays = self.tables.withdrawn != Withdrawn::Everything;
        let can = !self.held && stays && !self.beat.under_way && self.tables.store == StoreState::Here;
        if !can || !self.tables.knows(StoreKind::Nodes) || self.name_conflict().is_some() {
            return;
        }
        self.beat.sequence += 1;
        let alive = AliveRecord {
            node: self.tables.node.clone(),
            sequence: self.beat.sequence,
            boot_id: self.tables.identity.boot_id.clone(),
        };
        let object: Object = ModelRecord {
            scope: RecordScope::Cluster(StoreKind::Alive.as_str().into()),
            key: alive.key().into(),
            value: alive.encode().to_string().into(),
            guard: RecordGuard::Any,
        }
        .into();
        let owner = Owner::node(&self.tables.node);
        let step = Step {
            action: Action::Update,
            key: object.key(),
            after: Some(Arc::new(Entry { object, owner: Some(owner.clone()) })),
            before: None,
            owner,
            reason: "this node is alive".into(),
        };
        self.beat.under_way = true;
        self.launch(vec![step], BTreeSet::new(), Purpose::Beat);
    }

    pub(super) fn take_stored(&mut self, plan: u64, results: Vec<StoreResult>) -> BTreeSet<Change> {
        let Some(running) = self.running.remove(&plan) else { return BTreeSet::new() };
        match running.purpose {
            Purpose::Beat => {
                self.beat.under_way = false;
                return BTreeSet::new();
            }
            Purpose::Operation(operation) => {
                let result = results.into_iter().next();
                for (number, _) in running.steps() {
                    match &result {
                        Some(StoreResult::Done(_)) => self.journal.settle(number, "done", None),
                        other => self.journal.settle(number, "failed", why_not(other.as_ref())),
                    }
                }
                self.answer_engine(operation, result);
                return BTreeSet::new();
            }
            Purpose::Model | Purpose::Call(_) => {}
        }
        self.release_keys(&running.scope);
        let mut changes = BTreeSet::new();
        for ((number, step), result) in running.steps().zip(results.iter().map(Some).chain(std::iter::repeat(None))) {
            match result {
                Some(StoreResult::Done(revision)) => {
                    self.failed.remove(&step.key);
                    self.journal.settle(number, "done", None);
                    changes.append(&mut self.learn_own(step, *revision));
                    self.compare_with_store(step.key.clone());
                }
                Some(failed) => {
                    let why = why_not(Some(failed)).unwrap_or_default();
                    self.journal.settle(number, "failed", Some(why.clone()));
                    // Of what is usual the log is told only when it goes on.
                    let is_usual = matches!(failed, StoreResult::Conflict(_));
                    self.note_failure(step, why, if is_usual { &[STUBBORN] } else { &[1, STUBBORN] });
                }
                None => {
                    self.dirty.insert(step.key.clone());
                }
            }
        }
        changes
    }

    /// An answer that came before the watch's word: the next write builds on this revision.
    fn learn_own(&mut self, step: &Step, revision: Revision) -> BTreeSet<Change> {
        let record = step.after.as_deref().map(|entry| &entry.object);
        let Some((kind, key)) = store_key(&step.key) else { return BTreeSet::new() };
        // What the watch has passed is in the tables, or was there and is gone again.
        if self.seen.get(&kind).is_some_and(|seen| revision <= *seen) {
            return BTreeSet::new();
        }
        let Some(Object::Record(record)) = record else {
            return match step.action {
                Action::Delete => self.tables.apply_store(&StoreInput::Delete { kind, key, revision }),
                _ => BTreeSet::new(),
            };
        };
        match serde_json::from_str::<StoreValue>(&record.value) {
            Ok(value) => self.tables.apply_store(&StoreInput::Put { kind, key, value, revision }),
            Err(_) => BTreeSet::new(),
        }
    }
}

fn why_not(result: Option<&StoreResult>) -> Option<String> {
    Some(match result? {
        StoreResult::Done(_) => return None,
        // The watch brings what is there; then the step is planned anew on its revision.
        StoreResult::Conflict(_) => "another writer was first".into(),
        StoreResult::Failed(why) => why.clone(),
    })
}

fn store_key(key: &Key) -> Option<(StoreKind, Arc<str>)> {
    match key {
        Key::Record { scope: RecordScope::Cluster(kind), key } => Some((StoreKind::parse(kind).ok()?, key.clone())),
        _ => None,
    }
}
