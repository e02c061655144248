//! The agent without IO: inputs go in, outputs come out.
//!
//! [`Core::handle`] takes one stamped [`Input`] and answers with [`Output`]s: plans to run, questions to ask, answers to
//! CNI calls. Everything an agent decides is decided here, so a recording of its inputs gives the same plans again.
//!
//! Life of an input: tables take it in and name what changed; engines (ranges, leases, liveness) turn it into rows and
//! actions; the model is brought up to date; touched keys are compared with what was last applied; the difference is a
//! plan. A key is in one plan at a time. What failed is tried again with growing pauses.
//!
//! Not here: sockets, files, netlink, clocks. The shell in `crate::run` carries outputs out.

mod call;
mod describe;
mod dispatch;
mod pods;
mod ranges;
mod status;
mod view;

pub use status::Status;
pub use view::{IpamView, LeaseView, NetworkView, NodeView, PathView, PodView, Problem, RouteView};

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use ripstop_cni_spec::wire::Response;
use ripstop_desired::{Desired, Source};
use ripstop_ipam::ranges::{ClaimKey, Claimant, Liveness, RangeEngine, Slot, Stored};
use ripstop_ipam::{Attachment, LeaseBook, OwnRange};
use ripstop_netmodel::{Entry, Key, Kind, LinkKind, Model, Ns, Object};
use ripstop_objects::AliveRecord;
use ripstop_plan::{Plan, StepView};
use ripstop_tables::{Change, Input, Moment, PodRow, PodState, Snapshot, Start, StoreInput, StoreKind, Tables};
use ripstop_types::Millis;

use self::call::Pending;
use self::dispatch::{Failure, Running};

/// How long a released address rests before it is given again, unless nothing else is free.
const COOLDOWN_MS: u64 = 30_000;

/// How long a CNI call waits inside the agent for what it needs (a range, a peer's objects).
const CALL_PATIENCE_MS: u64 = 5_000;

/// Something to carry out.
#[derive(Debug, Clone)]
pub enum Output {
    /// Run these steps on the kernel and this node's files, in order, and answer with [`Input::Applied`].
    Apply {
        /// The plan's number.
        plan: u64,
        /// The steps.
        steps: Plan,
        /// Stop at the first failure instead of going on.
        stop_on_error: bool,
    },
    /// Run these steps on the store and answer with [`Input::Stored`].
    Store {
        /// The plan's number.
        plan: u64,
        /// The steps.
        steps: Plan,
    },
    /// Read these keys, a pod's namespace included, and answer with [`Input::Inspected`].
    Inspect {
        /// The call on whose behalf.
        call: u64,
        /// What to read.
        keys: BTreeSet<Key>,
    },
    /// Read everything of ours of these kinds and answer with [`Input::Observed`].
    Observe {
        /// The kinds.
        kinds: BTreeSet<Kind>,
    },
    /// Answer a CNI call.
    Reply {
        /// The call.
        call: u64,
        /// The answer.
        response: Response,
    },
    /// Answer an operator.
    Answer {
        /// The call.
        call: u64,
        /// Done, or the sentence of the refusal.
        result: Result<(), String>,
    },
    /// Write the snapshot before anything else and answer with [`Input::Saved`].
    Save {
        /// Number to give back.
        generation: u64,
    },
    /// Something for the log.
    Log {
        /// Who should read it.
        level: Level,
        /// A sentence.
        text: String,
    },
}

/// Who reads a line of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Someone should look.
    Warn,
    /// What an operator wants to have happened.
    Info,
    /// What a developer wants to know.
    Debug,
}

/// The state of an agent.
#[derive(Debug)]
pub struct Core {
    tables: Tables,
    desired: Desired,
    /// What is in the kernel, the store and this node's files, as last read or written.
    applied: Model,
    engine: RangeEngine,
    book: LeaseBook,
    liveness: Liveness,
    /// Keys to compare.
    dirty: BTreeSet<Key>,
    running: BTreeMap<u64, Running>,
    busy: BTreeSet<Key>,
    failed: BTreeMap<Key, Failure>,
    refused: BTreeMap<Key, String>,
    pending: VecDeque<Pending>,
    /// Pods that were removed and whose objects are not gone yet.
    leaving: BTreeMap<Attachment, BTreeSet<Key>>,
    /// Operators' releases of other nodes' ranges: the call of each operation.
    releasing: BTreeMap<u64, u64>,
    wanted_slots: BTreeSet<Slot>,
    book_ranges: Vec<OwnRange>,
    /// Claims named so far by a list that is not complete.
    listed: BTreeMap<ClaimKey, Stored>,
    listing_claims: bool,
    journal: VecDeque<StepView>,
    held: bool,
    next_plan: u64,
    alive_due: Millis,
    look_due: Millis,
    sweep_due: Millis,
    snapshot_due: bool,
    outputs: Vec<Output>,
    at: Moment,
}

impl Core {
    /// An agent that starts, and the first things to do. With `held` it plans and does nothing until it is told to.
    #[must_use]
    pub fn start(at: Moment, start: Start, held: bool) -> (Self, Vec<Output>) {
        let boot: Arc<str> = start.identity.boot_id.as_str().into();
        let me = Claimant {
            node: start.node.clone(),
            machine: start.identity.machine_id.as_str().into(),
            boot: boot.clone(),
            run: start.run,
        };
        let ranges = start.snapshot.as_ref().and_then(|snapshot| snapshot.ranges.clone());
        let observed: Model = start.observed.iter().cloned().collect();
        let timings = start.config.timings;
        let (pods, notes) = pods::admit(&boot, &start.pods, &observed);
        let book_rows = pods.iter().map(|row| pods::lease_of(row));
        let (book, book_notes) = LeaseBook::import(&boot, COOLDOWN_MS, book_rows);
        let tables = Tables::new(Start { pods, ..start });
        let mut core = Self {
            desired: Desired::default(),
            applied: observed,
            engine: RangeEngine::new(me, ranges.as_ref()),
            book,
            liveness: Liveness::new(timings.stale_after),
            dirty: BTreeSet::new(),
            running: BTreeMap::new(),
            busy: BTreeSet::new(),
            failed: BTreeMap::new(),
            refused: BTreeMap::new(),
            pending: VecDeque::new(),
            leaving: BTreeMap::new(),
            releasing: BTreeMap::new(),
            wanted_slots: BTreeSet::new(),
            book_ranges: Vec::new(),
            listed: BTreeMap::new(),
            listing_claims: true,
            journal: VecDeque::new(),
            held,
            next_plan: 1,
            alive_due: at.now,
            look_due: at.now.plus(timings.orphan_interval),
            sweep_due: at.now.plus(timings.sweep_interval),
            snapshot_due: false,
            outputs: Vec::new(),
            at,
            tables,
        };
        for note in notes {
            core.log(Level::Info, note);
        }
        for note in book_notes {
            core.log(Level::Warn, note.to_string());
        }
        core.note_pod_files();
        core.refresh_realised();
        core.want_ranges();
        core.sync_ranges();
        core.desired = Desired::of(&core.tables);
        let everything: BTreeSet<Key> = core.applied.keys().chain(core.desired.model().keys()).cloned().collect();
        core.dirty.extend(everything);
        core.settle(BTreeSet::new());
        let outputs = std::mem::take(&mut core.outputs);
        (core, outputs)
    }

    /// Takes in one input and says what to do.
    pub fn handle(&mut self, at: Moment, input: Input) -> Vec<Output> {
        self.at = at;
        let changes = match input {
            // A start comes once, to `Core::start`; a second one in a recording is passed over.
            Input::Start(_) => BTreeSet::new(),
            Input::Store(input) => self.take_store(&input),
            Input::Facts(facts) => self.tables.apply_facts(facts),
            Input::Observed { kinds, entries } => self.take_observed(&kinds, entries),
            Input::Inspected { call, found } => {
                self.finish_check(call, found);
                BTreeSet::new()
            }
            Input::Cni { call, request } => {
                self.take_call(call, &request);
                BTreeSet::new()
            }
            Input::Applied { plan, results } => self.take_applied(plan, results),
            Input::Stored { plan, results } => self.take_stored(plan, results),
            Input::Release { call, claim } => {
                self.release_range(call, &claim);
                BTreeSet::new()
            }
            Input::Saved { generation } => {
                self.range_event(&ripstop_ipam::ranges::RangeEvent::Saved { generation });
                BTreeSet::new()
            }
            Input::Resume => {
                self.held = false;
                BTreeSet::new()
            }
            Input::Tick => self.tick(),
        };
        self.settle(changes);
        std::mem::take(&mut self.outputs)
    }

    /// When [`Input::Tick`] should come next, at the latest.
    pub fn next_tick(&self) -> Millis {
        let retries = self.failed.values().map(|failure| failure.due);
        let calls = self.pending.iter().map(|pending| pending.deadline);
        retries
            .chain(calls)
            .chain([self.alive_due, self.look_due, self.at.now.plus(1_000)])
            .min()
            .unwrap_or(self.at.now)
    }

    /// What outlives the process.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.tables.snapshot(Some(self.engine.snapshot()))
    }

    /// Whether the snapshot changed since it was last asked.
    pub fn snapshot_changed(&mut self) -> bool {
        std::mem::take(&mut self.snapshot_due)
    }

    /// The tables.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// The model of what should be.
    pub fn desired(&self) -> &Model {
        self.desired.model()
    }

    /// The model of what is, as last read or written.
    pub fn applied(&self) -> &Model {
        &self.applied
    }

    /// What would be done now.
    #[must_use]
    pub fn plan(&self) -> Plan {
        let keys: BTreeSet<Key> = self.applied.keys().chain(self.desired.model().keys()).cloned().collect();
        ripstop_plan::diff(&self.applied, self.desired.model(), &keys, &|key: &Key, entry: &Entry| {
            ripstop_desired::may_delete(&self.tables, key, entry)
        })
    }

    /// The last steps that ran.
    pub fn journal(&self) -> impl Iterator<Item = &StepView> {
        self.journal.iter()
    }

    fn log(&mut self, level: Level, text: impl Into<String>) {
        self.outputs.push(Output::Log { level, text: text.into() });
    }

    /// Brings model and plans up to date until nothing more follows.
    fn settle(&mut self, mut changes: BTreeSet<Change>) {
        loop {
            if !changes.is_empty() {
                self.snapshot_due |= changes.iter().any(outlives);
                if changes.iter().any(|change| matches!(change, Change::Network(_) | Change::Known(_))) {
                    self.want_ranges();
                }
            }
            changes.append(&mut self.sync_ranges());
            if self.refresh_realised() {
                changes.insert(Change::Realised);
            }
            if changes.is_empty() {
                break;
            }
            let touched = self.desired.update(&self.tables, &changes);
            for key in touched {
                // A record that this node no longer proposes is the store's, and stays there.
                if dispatch::is_cluster_record(&key) && self.desired.model().get(&key).is_none() {
                    self.applied.remove(&key);
                    self.dirty.remove(&key);
                } else {
                    self.dirty.insert(key);
                }
            }
            changes.clear();
        }
        self.advance_calls();
        self.dispatch();
    }

    fn take_store(&mut self, input: &StoreInput) -> BTreeSet<Change> {
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
        self.note_own_records(input);
        changes
    }

    /// Keeps `applied` true for this node's records: the store's word is what is there.
    fn note_own_records(&mut self, input: &StoreInput) {
        let (kind, key) = match input {
            StoreInput::Put { kind, key, .. } | StoreInput::Delete { kind, key, .. } => (*kind, key.clone()),
            StoreInput::Synced { .. } => {
                self.dirty.extend(self.desired.keys_of(&Source::Records).cloned());
                return;
            }
            _ => return,
        };
        let key = Key::Record { scope: ripstop_netmodel::RecordScope::Cluster(kind.as_str().into()), key };
        match input {
            StoreInput::Put { value, .. } => {
                // Only what this node writes itself is compared; the rest lives in the tables.
                if let Some(wanted) = self.desired.model().get(&key).cloned()
                    && let Object::Record(record) = &wanted.object
                {
                    let mut record = record.clone();
                    record.value = value.to_string().into();
                    self.applied.insert(record, wanted.owner.clone());
                    self.dirty.insert(key);
                }
            }
            _ => {
                if self.applied.remove(&key).is_some() {
                    self.dirty.insert(key);
                }
            }
        }
    }

    /// The kernel as it stands, for whole kinds.
    fn take_observed(&mut self, kinds: &BTreeSet<Kind>, entries: Vec<Entry>) -> BTreeSet<Change> {
        let found: Model = entries.into_iter().collect();
        let gone: Vec<Key> = self
            .applied
            .keys()
            .filter(|key| kinds.contains(&key.kind()) && key.ns() == Some(&Ns::Host) && found.get(key).is_none())
            .cloned()
            .collect();
        for key in gone {
            self.applied.remove(&key);
            self.dirty.insert(key);
        }
        for (key, entry) in found.iter() {
            let same = self.applied.get(key).is_some_and(|there| there.object == entry.object);
            if !same {
                self.dirty.insert(key.clone());
                self.applied.insert_entry(entry.clone());
            }
        }
        if kinds.contains(&Kind::Link) { self.note_lost_pods() } else { BTreeSet::new() }
    }

    /// Which links of ours that the node's record speaks of are there. Whether that changed.
    fn refresh_realised(&mut self) -> bool {
        let shared = |entry: &Entry| match &entry.object {
            Object::Link(link) if link.ns == Ns::Host => match link.kind {
                LinkKind::Bridge | LinkKind::Vxlan { .. } => Some(link.name.clone()),
                _ => None,
            },
            _ => None,
        };
        // Links come in one stretch of the order, few beside those of pods.
        let mut realised = BTreeSet::new();
        for row in self.tables.networks.values() {
            let names = [
                Some(ripstop_fabric::wiring::node_link(&row.value.name)),
                ripstop_fabric::paths::tunnel_link(&row.value),
            ];
            for name in names.into_iter().flatten() {
                let key = Key::Link { ns: Ns::Host, name };
                realised.extend(self.applied.get(&key).and_then(|entry| shared(entry)));
            }
        }
        if realised == self.tables.realised {
            return false;
        }
        self.tables.realised = realised;
        true
    }

    fn tick(&mut self) -> BTreeSet<Change> {
        let now = self.at.now;
        let mut changes = BTreeSet::new();
        let timings = self.tables.config.timings;
        self.liveness.advance(now);
        self.range_event(&ripstop_ipam::ranges::RangeEvent::Tick);
        self.retry_failed();
        if now >= self.alive_due {
            self.alive_due = now.plus(timings.alive_interval);
            let sequence = self.tables.own_alive.as_ref().map_or(self.at.wall.0, |alive| alive.sequence + 1);
            if self.tables.knows(StoreKind::Nodes) {
                self.tables.own_alive = Some(AliveRecord {
                    node: self.tables.node.clone(),
                    sequence,
                    boot_id: self.tables.identity.boot_id.clone(),
                });
                changes.insert(Change::Alive(self.tables.node.clone()));
            }
        }
        if now >= self.look_due {
            self.look_due = now.plus(timings.orphan_interval);
            changes.append(&mut self.look_for_orphans());
        }
        if now >= self.sweep_due {
            self.sweep_due = now.plus(timings.sweep_interval);
            self.outputs.push(Output::Observe { kinds: host_kinds() });
        }
        changes
    }

    /// Puts the pods' files into `applied`: they were read, so they are there.
    fn note_pod_files(&mut self) {
        let rows: Vec<Arc<PodRow>> = self.tables.pods.values().cloned().collect();
        for row in rows {
            for entry in pods::remembered(&self.tables, &row) {
                self.applied.insert_entry(Arc::new(entry));
            }
        }
    }

    /// Pods whose interface went without a DEL.
    fn note_lost_pods(&mut self) -> BTreeSet<Change> {
        let lost: Vec<Arc<PodRow>> = self
            .tables
            .pods
            .values()
            .filter(|row| row.state == PodState::Ready && self.applied.get(&row.host_key()).is_none())
            .filter(|row| !self.busy.contains(&row.host_key()))
            .cloned()
            .collect();
        let mut changes = BTreeSet::new();
        for row in lost {
            let gone = PodRow { state: PodState::Gone, ..(*row).clone() };
            self.forget_namespace(&row);
            self.log(Level::Debug, format!("{}'s interface {} is gone without a DEL", row.owner(), row.host_link));
            changes.insert(Change::Pod(row.attachment.clone()));
            self.tables.pods.insert(row.attachment.clone(), Arc::new(gone));
        }
        changes
    }

    /// What was known of a pod's namespace went with its interface.
    fn forget_namespace(&mut self, row: &PodRow) {
        let keys: Vec<Key> = ripstop_desired::inspect_keys(&self.tables, row)
            .into_iter()
            .filter(|key| matches!(key.ns(), Some(Ns::Path(_))))
            .collect();
        for key in keys {
            self.applied.remove(&key);
        }
    }
}

/// The kinds of which everything of ours in the host's namespace can be read.
pub(crate) fn host_kinds() -> BTreeSet<Kind> {
    BTreeSet::from([
        Kind::Sysctl,
        Kind::NftTable,
        Kind::NftElement,
        Kind::Link,
        Kind::Address,
        Kind::Neighbour,
        Kind::Fdb,
        Kind::Nexthop,
        Kind::Route,
        Kind::Qdisc,
    ])
}

/// Whether a change is worth a new snapshot.
fn outlives(change: &Change) -> bool {
    match change {
        Change::Network(_) | Change::Node(_) | Change::Claim(_) | Change::Known(_) => true,
        Change::Alive(_) | Change::Facts | Change::Pod(_) | Change::Store | Change::Realised => false,
    }
}
