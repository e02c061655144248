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

mod announce;
mod asked;
mod balancer_view;
mod balancers;
mod bgp;
mod bgp_view;
mod blocks;
mod borrowing;
mod call;
mod check;
mod claims;
mod describe;
mod dispatch;
mod drops;
mod fixed;
mod follow;
mod health;
mod journal;
mod migration;
mod namesake;
mod nodes;
mod notices;
mod objects;
mod observed;
mod output;
mod patience;
mod pods;
mod policies;
mod pools;
mod probes;
mod proxy;
mod questions;
mod ranges;
mod recover;
mod revoke;
mod services;
mod status;
mod store;
mod view;
mod withdraw;

pub use balancer_view::BalancerView;
pub use balancers::SegmentPlan;
pub use bgp::{BgpPlan, PasswordOf};
pub use claims::{ClaimView, Problem};
pub use drops::DropView;
pub use journal::Row as JournalRow;
pub use migration::{MigrationAction, MigrationRequest, MigrationView};
pub(crate) use observed::{host_kinds, reference};
pub use output::{Level, Output};
pub use policies::PolicyView;
pub use pools::{Assignments, PoolView};
pub use probes::ProbePlan;
pub use proxy::ProxyView;
pub use questions::{POLICY_KINDS, PolicyObjects, PolicyQuestion, Unanswered};
pub(crate) use revoke::tracked;
pub use services::{EndpointView, NamespaceView, ServiceView};
pub use status::Status;
pub use view::{IpamView, LeaseView, NetworkView, NodeView, PathView, PodView, RouteView};

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use ripstop_desired::Desired;
use ripstop_ipam::ranges::{ClaimKey, Liveness, RangeEngine, Slot, Stored};
use ripstop_ipam::{Attachment, LeaseBook, LendingEngine, LendingEvent, OwnRange};
use ripstop_netmodel::{Entry, Key, Model, Ns, Resource};
use ripstop_objects::{NetworkName, ObjectKind};
use ripstop_plan::{Plan, Step};
use ripstop_tables::{Change, ForeignDrop, Input, Moment, PodRow, SnapshotRows, Start, StoreKind, Tables};
use ripstop_types::{Millis, NodeName, Prefix, Revision};

use self::blocks::Blocks;
use self::call::{Pending, Stage};
use self::dispatch::{Failure, Running};
use self::follow::Following;
use self::health::Health;
use self::journal::Journal;
use self::nodes::Deletion;
use self::notices::Notices;
use self::patience::Patience;
use self::probes::Probes;
use self::revoke::Revoking;
use self::store::Beat;
use self::withdraw::Withdrawal;

/// How long a released address rests before it is given again, unless nothing else is free.
const COOLDOWN_MS: u64 = 30_000;

/// How long a CNI call waits inside the agent for what it needs (a range, a peer's objects).
const CALL_PATIENCE_MS: u64 = 5_000;

/// The state of an agent.
#[derive(Debug)]
pub struct Core {
    tables: Tables,
    desired: Desired,
    /// What is in the kernel, the store and this node's files, as last read or written.
    applied: Model,
    engine: RangeEngine,
    lending: LendingEngine,
    blocks: Blocks,
    book: LeaseBook,
    liveness: Liveness,
    /// Keys to compare.
    dirty: BTreeSet<Key>,
    running: BTreeMap<u64, Running>,
    /// Keys that a plan under way is for. Only asked for single keys, and at each of thousands: not in order.
    busy: HashSet<Key>,
    failed: BTreeMap<Key, Failure>,
    refused: BTreeMap<Key, String>,
    /// Whether something wanted was refused since what was refused was last planned again.
    denied: bool,
    pending: VecDeque<Pending>,
    /// Pods that were removed and whose objects are not gone yet.
    leaving: BTreeMap<Attachment, BTreeSet<Key>>,
    /// What policies ask of pods whose interfaces go.
    guarded: Vec<policies::Leaving>,
    /// Operators' releases of other nodes' ranges: the call of each operation.
    releasing: BTreeMap<u64, u64>,
    /// Nodes that operators delete, by the operation that is waited for.
    deleting: BTreeMap<u64, Deletion>,
    wanted_slots: BTreeSet<Slot>,
    /// Ranges this node would rather have than others.
    preferred: Vec<Prefix>,
    book_ranges: Vec<OwnRange>,
    /// Claims named so far by a list that is not complete.
    listed: BTreeMap<ClaimKey, Stored>,
    listing_claims: bool,
    /// The withdrawal that is under way.
    withdrawal: Option<Withdrawal>,
    journal: Journal,
    held: bool,
    /// What the range engine asked of the store while everything is held back.
    withheld: Vec<(Step, u64)>,
    next_plan: u64,
    beat: Beat,
    look_due: Millis,
    sweep_due: Millis,
    snapshot_due: bool,
    reference_due: bool,
    /// Chains of others that the log has spoken of.
    told_drops: BTreeSet<ForeignDrop>,
    patience: Patience,
    /// Addresses that Flannel's pods have.
    flannels: BTreeSet<IpAddr>,
    /// When a stage of a migration that the kernel has reached may be spoken of.
    draining: BTreeMap<(NetworkName, Revision, migration::Stage), Millis>,
    /// What was taken in and has not been acted upon.
    changes: BTreeSet<Change>,
    /// What of it waits until something may be planned.
    put_off: BTreeSet<Change>,
    /// Switches to another proxy that are not written down yet.
    unsaved_switches: u32,
    probes: Probes,
    health: Health,
    following: Following,
    /// Whether the addresses of this node's pods may differ from what it published.
    addresses_due: bool,
    drops: drops::Drops,
    bgp: bgp::Bgp,
    announcing: balancers::Announcing,
    serving: services::Serving,
    revoking: Revoking,
    policy_plans: policies::Plans,
    pooling: pools::Pooling,
    notices: Notices,
    outputs: Vec<Output>,
    at: Moment,
    /// The last revision that the store's watch has brought of each kind.
    seen: BTreeMap<StoreKind, Revision>,
}

impl Core {
    /// An agent that starts, and the first things to do. One that is held plans and does nothing until it is told to.
    #[must_use]
    pub fn start(at: Moment, start: Start) -> (Self, Vec<Output>) {
        let me = ranges::claimant(&start);
        let boot = me.boot.clone();
        let saved = start.snapshot.as_ref();
        let engine = RangeEngine::new(me.clone(), saved.and_then(|saved| saved.ranges.as_ref()));
        let lending = LendingEngine::new(me, saved.and_then(|saved| saved.lending.as_ref()));
        let (inside, observed): (Vec<Entry>, Vec<Entry>) =
            start.observed.iter().cloned().partition(|entry| matches!(entry.object.key().ns(), Some(Ns::Path(_))));
        let (inside, observed): (Model, Model) = (inside.into_iter().collect(), observed.into_iter().collect());
        let held = start.held;
        let (mut pods, notes) = pods::admit(&boot, &start.pods, &observed);
        let (lost, preferred) = (start.lost.clone(), start.preferred.clone());
        let mut tables = Tables::new(Start { pods: Vec::new(), ..start });
        let recovered: Vec<PodRow> = lost.iter().filter_map(|key| recover::row(key, &tables, &observed)).collect();
        let notes = notes.into_iter().map(|note| (Level::Info, note));
        let notes: Vec<_> = notes.chain(recovered.iter().map(|row| (Level::Warn, recover::sentence(row)))).collect();
        pods.extend(recovered);
        let (book, book_notes) = LeaseBook::import(&boot, COOLDOWN_MS, pods.iter().map(pods::lease_of));
        tables.pods = pods.into_iter().map(|row| (row.attachment.clone(), Arc::new(row))).collect();
        let mut core = Self { applied: observed, preferred, held, ..Self::idle(at, tables, book, engine, lending) };
        notes.into_iter().for_each(|(level, note)| core.log(level, note));
        book_notes.into_iter().for_each(|note| core.log(Level::Warn, note.to_string()));
        core.first_plans(&lost, &inside);
        let outputs = std::mem::take(&mut core.outputs);
        (core, outputs)
    }

    /// One that knows nothing but its tables, leases and claims, and has nothing under way.
    fn idle(at: Moment, tables: Tables, book: LeaseBook, engine: RangeEngine, lending: LendingEngine) -> Self {
        let timings = tables.config.timings;
        Self {
            desired: Desired::default(),
            applied: Model::new(),
            engine,
            lending,
            blocks: Blocks::default(),
            book,
            liveness: Liveness::new(timings.stale_after),
            dirty: BTreeSet::new(),
            running: BTreeMap::new(),
            busy: HashSet::new(),
            failed: BTreeMap::new(),
            refused: BTreeMap::new(),
            denied: false,
            pending: VecDeque::new(),
            leaving: BTreeMap::new(),
            guarded: Vec::new(),
            releasing: BTreeMap::new(),
            deleting: BTreeMap::new(),
            wanted_slots: BTreeSet::new(),
            preferred: Vec::new(),
            book_ranges: Vec::new(),
            listed: BTreeMap::new(),
            listing_claims: true,
            withdrawal: None,
            journal: Journal::default(),
            held: false,
            withheld: Vec::new(),
            next_plan: 1,
            beat: Beat::new(at),
            look_due: at.now.plus(timings.orphan_interval),
            sweep_due: at.now.plus(timings.sweep_interval),
            snapshot_due: false,
            reference_due: true,
            told_drops: BTreeSet::new(),
            patience: Patience::new(at.now),
            flannels: BTreeSet::new(),
            draining: BTreeMap::new(),
            changes: BTreeSet::new(),
            put_off: BTreeSet::new(),
            unsaved_switches: 0,
            probes: Probes::default(),
            health: Health::default(),
            bgp: bgp::Bgp::default(),
            announcing: balancers::Announcing::default(),
            following: Following::default(),
            addresses_due: true,
            drops: drops::Drops::default(),
            serving: services::Serving::default(),
            revoking: Revoking::default(),
            policy_plans: policies::Plans::default(),
            pooling: pools::Pooling::default(),
            notices: Notices::default(),
            outputs: Vec::new(),
            at,
            seen: BTreeMap::new(),
            tables,
        }
    }

    /// Compares everything that is there with everything that should be.
    fn first_plans(&mut self, lost: &[Arc<str>], inside: &Model) {
        self.close_lent();
        self.tell_foreign_drops();
        self.refresh_realised();
        self.refresh_sends();
        self.want_ranges();
        self.sync_ranges();
        self.note_pod_files(lost, inside);
        self.resume_switch();
        self.begin_bgp();
        self.desired = Desired::beside(&self.tables, self.found_slots());
        let everything: BTreeSet<Key> = self.applied.keys().chain(self.desired.model().keys()).cloned().collect();
        self.dirty.extend(everything);
        self.settle(BTreeSet::new());
    }

    /// Which endpoint of a Service has which slot in the kernel.
    fn found_slots(&self) -> Model {
        let found = self.applied.iter().filter(|(key, _)| key.is_of_services());
        found.map(|(_, entry)| Entry::clone(entry)).collect()
    }

    /// Takes in one input and says what to do.
    pub fn handle(&mut self, at: Moment, input: Input) -> Vec<Output> {
        self.take_in(at, input);
        self.conclude()
    }

    /// Takes in one of several inputs: what follows from all of them is decided once, by [`Self::conclude`].
    pub fn take_in(&mut self, at: Moment, input: Input) {
        self.at = at;
        let changes = match input {
            // A start comes once, to `Core::start`; a second one in a recording is passed over.
            Input::Start(_) => BTreeSet::new(),
            Input::Store(input) => self.take_store(&input),
            Input::Object(input) => self.tables.apply_object(&input),
            Input::Facts(facts) => self.take_facts(facts),
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
            Input::DeleteNode { call, node } => {
                self.delete_node(call, &node);
                BTreeSet::new()
            }
            Input::Withdraw { call, what, release } => self.withdraw(call, what, release),
            Input::SwitchProxy { call, proxy } => self.switch_proxy(call, proxy),
            Input::Saved { generation } => {
                self.take_saved(generation);
                BTreeSet::new()
            }
            Input::Resume => {
                self.resume();
                BTreeSet::new()
            }
            Input::Probe(input) => self.take_probe(input),
            Input::Tracked { look, found } => {
                self.take_tracked(look, found);
                BTreeSet::new()
            }
            input @ (Input::Lists { .. } | Input::Unheard { .. } | Input::Noticed { .. }) => {
                self.take_news(input);
                BTreeSet::new()
            }
            Input::Refused(refused) => self.take_refused(refused),
            Input::Announced(found) => {
                self.take_announced(found);
                BTreeSet::new()
            }
            Input::Bgp(input) => self.tables.apply_bgp(&input),
            Input::Tick => self.tick(),
        };
        self.changes.extend(changes);
    }

    /// A snapshot is on disk: whoever waited for it goes on.
    fn take_saved(&mut self, generation: u64) {
        self.note_saved(generation);
        match generation.checked_sub(borrowing::NUMBERS) {
            _ if self.note_switch_saved(generation) => {}
            Some(generation) => self.lending_event(&LendingEvent::Saved { generation }),
            None => self.range_event(&ripstop_ipam::ranges::RangeEvent::Saved { generation }),
        }
    }

    /// Says what to do about what was taken in.
    pub fn conclude(&mut self) -> Vec<Output> {
        let changes = std::mem::take(&mut self.changes);
        self.settle(changes);
        std::mem::take(&mut self.outputs)
    }

    /// When [`Input::Tick`] should come next, at the latest.
    pub fn next_tick(&self) -> Millis {
        if !self.desired.is_whole() {
            return self.at.now;
        }
        // What is under way is ended by its answer, whatever the time.
        let retries = self.failed.iter().filter(|(key, _)| !self.is_held_up(key)).map(|(_, failure)| failure.due);
        let waiting =
            |pending: &&Pending| matches!(pending.stage, Stage::Waiting | Stage::Guarding(..) | Stage::Removing(_));
        let calls = self.pending.iter().filter(waiting).map(|pending| pending.deadline);
        retries
            .chain(calls)
            .chain(self.waits_until())
            .chain(self.stage_due())
            .chain(self.switch_due())
            .chain(self.probes_due())
            .chain(self.look_again())
            .chain(self.pools_due())
            .chain([self.beat.due, self.look_due, self.sweep_due, self.at.now.plus(1_000)])
            .min()
            .unwrap_or(self.at.now)
    }

    /// What outlives the process.
    #[must_use]
    pub fn snapshot(&self) -> SnapshotRows {
        self.tables.snapshot(Some(self.engine.snapshot())).with_lending(self.lending.snapshot())
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

    /// Whether the settings and tables that are wanted changed since it was last asked.
    pub fn reference_changed(&mut self) -> bool {
        std::mem::take(&mut self.reference_due)
    }

    /// What would be done now, in the order in which it would run.
    #[must_use]
    pub fn plan(&self) -> Plan {
        let keys = self.applied.keys().chain(self.desired.model().keys());
        let keys: BTreeSet<Key> = keys.filter(|key| self.means_something(key)).cloned().collect();
        let plan = ripstop_plan::diff(&self.applied, self.desired.model(), &keys, &|key: &Key, entry: &Entry| {
            ripstop_desired::may_delete(&self.tables, key, entry)
        });
        let (store, local) = dispatch::by_lane(plan);
        let withheld = self.withheld.iter().map(|(step, _)| step.clone());
        Plan { steps: withheld.chain(store).chain(local).collect() }
    }

    /// The last steps that were sent out, oldest first.
    pub fn journal(&self) -> impl Iterator<Item = JournalRow> {
        self.journal.rows()
    }

    fn log(&mut self, level: Level, text: impl Into<String>) {
        self.outputs.push(Output::Log { level, text: text.into() });
    }

    /// Brings model and plans up to date until nothing more follows.
    fn settle(&mut self, mut changes: BTreeSet<Change>) {
        loop {
            changes.append(&mut self.judge_namesake());
            if !changes.is_empty() {
                self.snapshot_due |= changes.iter().any(patience::outlives);
                self.save_first(&changes);
                let own = |node: &NodeName| *node == self.tables.node;
                if changes.iter().any(|change| match change {
                    Change::Network(_) | Change::Known(_) | Change::Facts => true,
                    Change::Object(kind) => *kind == ObjectKind::Node,
                    Change::Node(node) => own(node),
                    _ => false,
                }) {
                    self.want_ranges();
                }
                self.reconsider_after(&changes);
            }
            self.note_for_prober(&changes);
            self.note_for_health(&changes);
            self.note_for_bgp(&changes);
            self.note_for_slices(&changes);
            self.note_for_policies(&changes);
            self.note_for_pools(&changes);
            self.note_for_announcing(&changes);
            changes.append(&mut self.sync_ranges());
            if self.refresh_realised() {
                changes.insert(Change::Realised);
            }
            changes.append(&mut self.refresh_sends());
            if changes.is_empty() {
                changes = self.refresh_stages();
                changes.append(&mut self.advance_switch());
            }
            self.put_off(&mut changes);
            if changes.is_empty() {
                break;
            }
            let touched = self.desired.update(&self.tables, &changes);
            self.take_touched(touched);
            changes.clear();
        }
        self.note_left();
        self.advance_calls();
        self.serve_blocks();
        // The last pod of a network may have gone.
        let taken = self.tables.take_held_back();
        if !taken.is_empty() {
            return self.settle(taken);
        }
        self.dispatch();
        self.revoke();
        self.follow_pods();
        self.give_addresses();
        self.announce();
        self.publish_addresses();
        self.refresh_probes();
        self.refresh_health();
        self.refresh_bgp();
        self.tell_serving();
        self.advance_withdrawal();
        self.refresh_notices();
    }

    /// Has keys of the model compared.
    fn take_touched(&mut self, touched: BTreeSet<Key>) {
        for key in touched {
            self.reference_due |= observed::is_reference(&key);
            if dispatch::is_cluster_record(&key) {
                self.compare_with_store(key);
            } else {
                self.dirty.insert(key);
            }
        }
    }

    fn tick(&mut self) -> BTreeSet<Change> {
        let now = self.at.now;
        if !self.desired.is_whole() {
            // The rest has time until this is done.
            let touched = self.desired.go_on(&self.tables);
            self.take_touched(touched);
            return BTreeSet::new();
        }
        let (mut changes, timings) = (BTreeSet::new(), self.tables.config.timings);
        self.liveness.advance(now);
        self.range_event(&ripstop_ipam::ranges::RangeEvent::Tick);
        self.tick_blocks();
        self.give_back_pod_cidrs();
        self.retry_failed();
        self.attribute_drops();
        changes.append(&mut self.judge_publishers());
        if now >= self.beat.due {
            self.show_life();
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
}
