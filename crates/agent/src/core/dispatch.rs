//! From touched keys to plans, and from results back to what is known to be there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ripstop_ipam::Attachment;
use ripstop_netmodel::{Entry, Key, Kind, LinkKind, Model, NFT_POOLS_TABLE, Ns, Object, RecordScope};
use ripstop_objects::ObjectKind;
use ripstop_plan::{Action, Plan, Step};
use ripstop_tables::{Change, StepFault};
use ripstop_types::Millis;

use super::{Core, Level, Output};

/// Longest pause between two tries, in milliseconds.
const LONGEST_PAUSE_MS: u64 = 5_000;

/// The try at which the log is told that something still fails.
pub(super) const STUBBORN: u32 = 8;

/// A plan that is under way.
#[derive(Debug)]
pub(super) struct Running {
    /// Its steps, as they were sent out.
    plan: Arc<Plan>,
    /// The number of each in the journal.
    numbers: Vec<usize>,
    /// The keys it was made for, also those without a step.
    pub scope: BTreeSet<Key>,
    /// On whose behalf it runs.
    pub purpose: Purpose,
    /// When it was sent out.
    pub since: Millis,
    /// Whether something of it is of Services.
    pub is_of_services: bool,
    /// Whether something of it is of policies.
    is_of_policies: bool,
    /// Whether something of it is of iptables.
    is_of_iptables: bool,
}

impl Running {
    /// The steps with their numbers in the journal.
    pub fn steps(&self) -> impl Iterator<Item = (usize, &Step)> {
        self.numbers.iter().copied().zip(&self.plan.steps)
    }
}

/// What a plan is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To bring what is to what should be.
    Model,
    /// The same, all or nothing, for a CNI call that waits for it.
    Call(u64),
    /// The store's operation of the range engine.
    Operation(u64),
    /// A sign of life.
    Beat,
}

/// What could not be done, and when it is tried again.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub why: String,
    pub attempts: u32,
    /// When it failed first.
    pub since: Millis,
    pub due: Millis,
}

impl Core {
    /// Makes plans of what is dirty and not under way.
    pub(super) fn dispatch(&mut self) {
        if self.held || self.must_wait() {
            return;
        }
        self.forget_who_left();
        let dirty = std::mem::take(&mut self.dirty);
        // Each run of programs of iptables costs as much as there is already: what comes meanwhile goes along with the next.
        let waits = !self.desired.is_whole() || self.running.values().any(|running| running.is_of_iptables);
        let may_go = |key: &Key| !(waits && is_of_iptables(key)) && self.is_free(key);
        // In order, from which a tree is made at once.
        let (ready, later): (Vec<Key>, Vec<Key>) = dirty.into_iter().partition(may_go);
        self.dirty = later.into_iter().collect();
        if !ready.is_empty() {
            self.run(ready.into_iter().collect());
        }
    }

    /// Whether a key may be in a plan.
    pub(super) fn is_free(&self, key: &Key) -> bool {
        !self.is_held_up(key) && !self.failed.contains_key(key) && self.means_something(key)
    }

    /// Whether a key waits for the end of what is under way.
    pub(super) fn is_held_up(&self, key: &Key) -> bool {
        self.busy.contains(key) || key.is_of_policies() && (self.policies_run() || self.guards_who_leaves(key))
    }

    /// Whether it is known what is wanted under a key: what is not may be of a peer whose part is not made yet.
    pub(super) fn means_something(&self, key: &Key) -> bool {
        self.desired.is_whole()
            || key.kind() == Kind::Connection
            || self.desired.model().get(key).is_some()
            || self.leaving.values().any(|keys| keys.contains(key))
    }

    /// Plans these keys and runs the plan. Whether anything runs.
    pub(super) fn run(&mut self, scope: BTreeSet<Key>) -> bool {
        let (store, local) = by_lane(self.diff(&scope));
        let mut of_kernel = scope;
        let of_store: BTreeSet<Key> = of_kernel.extract_if(.., is_cluster_record).collect();
        let any = !store.is_empty() || local.iter().any(|step| step.action != Action::Refuse);
        // Calls wait for plans of policies, and for no other.
        let (policies, others) = local.into_iter().partition(|step| step.key.is_of_policies());
        let of_policies: BTreeSet<Key> = of_kernel.extract_if(.., |key| key.is_of_policies()).collect();
        self.launch(store, of_store, Purpose::Model);
        self.launch(policies, of_policies, Purpose::Model);
        self.launch(others, of_kernel, Purpose::Model);
        any
    }

    /// Plans these keys and runs the plan, with a last step, on behalf of a call: all or nothing.
    pub(super) fn run_for_call(&mut self, scope: BTreeSet<Key>, last: Step, call: u64) {
        let mut steps = self.diff(&scope).steps;
        // What the call is for is tried: the kernel says best why it cannot be.
        for step in steps.iter_mut().filter(|step| step.action == Action::Refuse && step.after.is_some()) {
            step.action = Action::Create;
        }
        steps.push(last);
        self.launch(steps, scope, Purpose::Call(call));
    }

    /// Plans again what was refused for a reason that may be gone: what was kept because a kind was not known, or because
    /// a pod stands.
    pub(super) fn reconsider_after(&mut self, changes: &BTreeSet<Change>) {
        // Of Services what was kept as well, once they are known.
        let services_known = |change: &Change| {
            matches!(change, Change::Object(kind) if kind.is_of_services()) || *change == Change::Proxy
        };
        if changes.iter().any(services_known) {
            self.reconsider(|_, key| key.is_of_services());
        }
        let pools_known =
            |change: &Change| matches!(change, Change::Object(ObjectKind::AddressPool | ObjectKind::Metallb(_)));
        if changes.iter().any(pools_known) {
            self.reconsider(|_, key| key.table() == Some(NFT_POOLS_TABLE));
        }
        // Of policies too, once all that they hang on is.
        if changes.iter().any(|change| matches!(change, Change::Object(_) | Change::Policies(_))) {
            self.reconsider(|_, key| key.is_of_policies());
        }
        if changes.iter().any(|change| matches!(change, Change::Known(_))) {
            self.reconsider(|_, _| true);
        } else if changes.iter().any(|change| matches!(change, Change::Pod(_))) {
            self.reconsider(|_, key| matches!(key.ns(), Some(Ns::Path(_))));
        }
    }

    /// Plans again what is wanted and was refused, and what only it kept: a link that had what it needs may have gone or
    /// given it up.
    pub(super) fn reconsider_wanted(&mut self) {
        if !std::mem::take(&mut self.denied) {
            return;
        }
        let may_go = |key: &Key| {
            self.applied.get(key).is_some_and(|is| ripstop_desired::may_delete(&self.tables, key, is).is_ok())
        };
        let desired = self.desired.model();
        let again = self.refused.keys().filter(|key| desired.get(key).is_some() || may_go(key));
        self.dirty.extend(again.cloned());
    }

    fn reconsider(&mut self, which: impl Fn(&Model, &Key) -> bool) {
        let desired = self.desired.model();
        self.dirty.extend(self.refused.keys().filter(|key| which(desired, key)).cloned());
    }

    pub(super) fn diff(&self, scope: &BTreeSet<Key>) -> Plan {
        ripstop_plan::diff(&self.applied, self.desired.model(), scope, &|key: &Key, entry: &Entry| {
            ripstop_desired::may_delete(&self.tables, key, entry)
        })
    }

    /// Sends one step of the range engine to the store, or keeps it until there is no more holding.
    pub(super) fn run_operation(&mut self, step: Step, operation: u64) {
        if self.held {
            self.withheld.push((step, operation));
        } else {
            // The engine's own operations are not the model's: they may run beside a plan.
            self.launch(vec![step], BTreeSet::new(), Purpose::Operation(operation));
        }
    }

    /// Lets what is held back run.
    pub(super) fn resume(&mut self) {
        self.held = false;
        for (step, operation) in std::mem::take(&mut self.withheld) {
            self.run_operation(step, operation);
        }
    }

    /// Sends steps of one lane out. Refusals among them are noted, and not sent.
    pub(super) fn launch(&mut self, steps: Vec<Step>, scope: BTreeSet<Key>, purpose: Purpose) {
        let before: BTreeMap<Key, String> = scope.iter().filter_map(|key| self.refused.remove_entry(key)).collect();
        let (mut numbers, mut sent) = (Vec::with_capacity(steps.len()), Vec::with_capacity(steps.len()));
        for step in steps {
            if step.action == Action::Refuse {
                self.denied |= step.after.is_some();
                let why = step.reason.to_string();
                if before.get(&step.key) != Some(&why) {
                    self.journal.note(&step, "refused");
                }
                self.refused.insert(step.key.clone(), why);
            } else {
                let number = if purpose == Purpose::Beat { 0 } else { self.journal.note(&step, "running") };
                numbers.push(number);
                sent.push(step);
            }
        }
        let is_of_policies = scope.iter().any(Key::is_of_policies);
        if is_of_policies {
            self.policy_plans.begin(sent.iter().map(|step| 1 + step.filling()).sum());
        }
        let Some(first) = sent.first() else {
            // Nothing was to be done.
            if is_of_policies {
                self.policy_plans.end();
            }
            return;
        };
        let of_store = is_cluster_record(&first.key);
        self.busy.extend(scope.iter().cloned());
        let plan = self.next_plan;
        self.next_plan += 1;
        let steps = Arc::new(Plan { steps: sent });
        let running = Running {
            plan: steps.clone(),
            numbers,
            purpose,
            since: self.at.now,
            is_of_services: scope.iter().any(Key::is_of_services),
            is_of_policies,
            is_of_iptables: scope.iter().any(is_of_iptables),
            scope,
        };
        self.running.insert(plan, running);
        self.outputs.push(if of_store {
            Output::Store { plan, steps }
        } else {
            Output::Apply { plan, steps, stop_on_error: matches!(purpose, Purpose::Call(_)) }
        });
    }

    pub(super) fn take_applied(&mut self, plan: u64, results: Vec<Option<Result<(), StepFault>>>) -> BTreeSet<Change> {
        let Some(running) = self.running.remove(&plan) else { return BTreeSet::new() };
        self.release_keys(&running.scope);
        if running.is_of_policies {
            self.policy_plans.end();
        }
        let mut fault = None;
        let mut kinds = BTreeSet::new();
        let results = results.into_iter().chain(std::iter::repeat(None));
        for ((number, step), result) in running.steps().zip(results) {
            match result {
                Some(Ok(())) => {
                    self.note_done(step);
                    self.journal.settle(number, "done", None);
                }
                Some(Err(why)) => {
                    self.journal.settle(number, "failed", Some(why.text.clone()));
                    // Rules of iptables are written together and fail together: one says why.
                    let is_repeated = step.key.kind() == Kind::Iptables && kinds.contains(&Kind::Iptables);
                    kinds.insert(step.key.kind());
                    if step.key.kind() == Kind::Route {
                        // It may be what it leads to that went.
                        kinds.extend([Kind::Nexthop, Kind::NexthopGroup]);
                    }
                    if running.purpose == Purpose::Model {
                        let told: &[u32] = if is_repeated { &[] } else { &[1, STUBBORN] };
                        self.note_failure(step, why.text.clone(), told);
                    }
                    fault.get_or_insert(why);
                }
                None => {
                    self.journal.settle(number, "skipped", None);
                    self.dirty.insert(step.key.clone());
                }
            }
        }
        if running.steps().any(|(_, step)| step.key.kind() == Kind::Link && step.action != Action::Create) {
            self.reconsider_wanted();
        }
        // What was believed to be there may not be: read it again before the next try.
        kinds.retain(|kind| super::host_kinds().contains(kind));
        if !kinds.is_empty() {
            self.outputs.push(Output::Observe { kinds });
        }
        let changes = match running.purpose {
            Purpose::Call(call) => self.plan_of_call_ran(call, fault, &running.scope),
            _ => BTreeSet::new(),
        };
        self.forget_unwanted(&running.scope);
        changes
    }

    pub(super) fn release_keys(&mut self, scope: &BTreeSet<Key>) {
        for key in scope {
            self.busy.remove(key);
        }
    }

    fn note_done(&mut self, step: &Step) {
        self.failed.remove(&step.key);
        match &step.after {
            Some(entry) => {
                if matches!(step.key.kind(), Kind::NftTable) {
                    self.forget_children(&step.key);
                }
                self.applied.insert_entry(entry.clone());
            }
            None => {
                self.applied.remove(&step.key);
                self.forget_children(&step.key);
                if let Some(before) = &step.before {
                    self.forget_other_end(before);
                }
            }
        }
    }

    fn forget_children(&mut self, parent: &Key) {
        let children: Vec<Key> = self.applied.children(parent).map(|(key, _)| key.clone()).collect();
        for child in children {
            self.applied.remove(&child);
            self.forget_children(&child);
            if self.desired.model().get(&child).is_some() && !self.busy.contains(&child) {
                self.dirty.insert(child);
            }
        }
    }

    /// With a veth goes its other end and what hung on that.
    fn forget_other_end(&mut self, gone: &Entry) {
        let Object::Link(link) = &gone.object else { return };
        let LinkKind::Veth(peer) = &link.kind else { return };
        let end = Key::Link { ns: peer.ns.clone(), name: peer.name.clone() };
        self.applied.remove(&end);
        self.forget_children(&end);
    }

    /// A step failed; the log is told at these tries.
    pub(super) fn note_failure(&mut self, step: &Step, why: String, told: &[u32]) {
        let before = self.failed.get(&step.key);
        let attempts = before.map_or(0, |failure| failure.attempts) + 1;
        let since = before.map_or(self.at.now, |failure| failure.since);
        // The first pause is that of reading what is there: most failures are of what went meanwhile.
        let pause = (25u64 << attempts.min(8)).min(LONGEST_PAUSE_MS);
        if told.contains(&attempts) {
            self.log(Level::Warn, format!("{} ({}): {why}; trying again", step.key, step.owner));
        }
        self.failed.insert(step.key.clone(), Failure { why, attempts, since, due: self.at.now.plus(pause) });
        self.dirty.insert(step.key.clone());
    }

    /// Ends all pauses: what was in the way may be gone.
    pub(super) fn retry_at_once(&mut self) {
        for failure in self.failed.values_mut() {
            failure.due = self.at.now;
        }
    }

    /// Lets failures whose pause is over be tried again.
    pub(super) fn retry_failed(&mut self) {
        let due: Vec<Key> =
            self.failed.iter().filter(|(_, failure)| failure.due <= self.at.now).map(|(key, _)| key.clone()).collect();
        if due.is_empty() {
            return;
        }
        let ready: BTreeSet<Key> = due.into_iter().filter(|key| !self.is_held_up(key)).collect();
        // The count of tries stays with what fails again; what is fine now is forgotten here.
        let attempts: BTreeMap<Key, Failure> = ready.iter().filter_map(|key| self.failed.remove_entry(key)).collect();
        self.dirty.retain(|key| !ready.contains(key));
        self.run(ready);
        for (key, failure) in attempts {
            if self.busy.contains(&key) {
                self.failed.insert(key, Failure { due: self.at.now.plus(LONGEST_PAUSE_MS), ..failure });
            }
        }
    }

    /// Ends the leases of pods whose objects are all gone.
    pub(super) fn note_left(&mut self) {
        // What another pod wants too (two of one address, read from contradicting files) is that one's now.
        let is_gone = |key: &Key| {
            self.applied.get(key).is_none() && !self.busy.contains(key) || self.desired.model().get(key).is_some()
        };
        let done: Vec<Attachment> = self
            .leaving
            .iter()
            .filter(|(_, keys)| keys.iter().all(is_gone))
            .map(|(attachment, _)| attachment.clone())
            .collect();
        for attachment in done {
            self.leaving.remove(&attachment);
            self.book.release(&attachment, self.at.wall);
        }
    }

    /// Removes what is known of a namespace's objects that nobody wants any more.
    pub(super) fn forget_unwanted(&mut self, scope: &BTreeSet<Key>) {
        for key in scope {
            if matches!(key.ns(), Some(Ns::Path(_))) && self.desired.model().get(key).is_none() {
                self.applied.remove(key);
            }
        }
    }
}

/// Steps for the store, and those for the kernel and this node's files, refusals included.
pub(super) fn by_lane(plan: Plan) -> (Vec<Step>, Vec<Step>) {
    plan.steps.into_iter().partition(|step| is_cluster_record(&step.key) && step.action != Action::Refuse)
}

/// Rules of iptables, and what follows them: connections are held to endpoints once the rules lead there.
fn is_of_iptables(key: &Key) -> bool {
    matches!(key.kind(), Kind::Iptables | Kind::FrontendFlows)
}

pub(super) fn is_cluster_record(key: &Key) -> bool {
    matches!(key, Key::Record { scope: RecordScope::Cluster(_), .. })
}
