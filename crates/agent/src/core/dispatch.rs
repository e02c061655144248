//! From touched keys to plans, and from results back to what is known to be there.

use std::collections::{BTreeMap, BTreeSet};

use ripstop_ipam::Attachment;
use ripstop_netmodel::{Entry, Key, Kind, LinkKind, Ns, Object, RecordScope};
use ripstop_plan::{Action, Plan, Step, StepView};
use ripstop_tables::{Change, StepFault, StoreResult};
use ripstop_types::Millis;

use super::{Core, Level, Output};

/// Steps kept for those who ask what ran.
const JOURNAL: usize = 2_000;

/// Longest pause between two tries, in milliseconds.
const LONGEST_PAUSE_MS: u64 = 5_000;

/// A plan that is under way.
#[derive(Debug)]
pub(super) struct Running {
    plan: Plan,
    /// The keys it was made for, also those without a step.
    scope: BTreeSet<Key>,
    /// The CNI call that waits for it.
    call: Option<u64>,
    /// The store's operation of the range engine.
    operation: Option<u64>,
}

/// What could not be done, and when it is tried again.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub why: String,
    pub attempts: u32,
    pub due: Millis,
}

impl Core {
    /// Makes plans of what is dirty and not under way.
    pub(super) fn dispatch(&mut self) {
        if self.held {
            return;
        }
        let ready: BTreeSet<Key> = self
            .dirty
            .iter()
            .filter(|key| !self.busy.contains(*key) && !self.failed.contains_key(*key))
            .cloned()
            .collect();
        if ready.is_empty() {
            return;
        }
        self.dirty.retain(|key| !ready.contains(key));
        self.run(ready, None);
    }

    /// Plans these keys and runs the plan; on behalf of a call, all or nothing. Whether anything runs.
    pub(super) fn run(&mut self, scope: BTreeSet<Key>, call: Option<u64>) -> bool {
        let plan = ripstop_plan::diff(&self.applied, self.desired.model(), &scope, &|key: &Key, entry: &Entry| {
            ripstop_desired::may_delete(&self.tables, key, entry)
        });
        for key in &scope {
            self.refused.remove(key);
        }
        let (mut local, mut store) = (Vec::new(), Vec::new());
        for step in plan.steps {
            if step.action == Action::Refuse {
                self.refused.insert(step.key.clone(), step.reason.to_string());
            } else if is_cluster_record(&step.key) {
                store.push(step);
            } else {
                local.push(step);
            }
        }
        let (of_store, of_kernel): (BTreeSet<Key>, BTreeSet<Key>) = scope.into_iter().partition(is_cluster_record);
        let mut any = false;
        if !store.is_empty() {
            self.launch(Plan { steps: store }, of_store, None, None, true);
            any = true;
        }
        if !local.is_empty() {
            self.launch(Plan { steps: local }, of_kernel, call, None, false);
            any = true;
        }
        any
    }

    /// Sends one step of the range engine to the store.
    pub(super) fn run_operation(&mut self, step: Step, operation: u64) {
        let scope = BTreeSet::from([step.key.clone()]);
        self.launch(Plan { steps: vec![step] }, scope, None, Some(operation), true);
    }

    fn launch(&mut self, plan: Plan, scope: BTreeSet<Key>, call: Option<u64>, operation: Option<u64>, store: bool) {
        let number = self.next_plan;
        self.next_plan += 1;
        // The engine's own operations are not the model's: they may run beside a plan.
        if operation.is_none() {
            self.busy.extend(scope.iter().cloned());
        }
        let steps = plan.clone();
        self.running.insert(number, Running { plan, scope, call, operation });
        self.outputs.push(if store {
            Output::Store { plan: number, steps }
        } else {
            Output::Apply { plan: number, steps, stop_on_error: call.is_some() }
        });
    }

    pub(super) fn take_applied(&mut self, plan: u64, results: Vec<Option<Result<(), StepFault>>>) -> BTreeSet<Change> {
        let Some(running) = self.running.remove(&plan) else { return BTreeSet::new() };
        self.release_keys(&running.scope);
        let mut fault = None;
        let mut kinds = BTreeSet::new();
        for (place, step) in running.plan.steps.iter().enumerate() {
            match results.get(place).cloned().flatten() {
                Some(Ok(())) => {
                    self.note_done(step);
                    self.record(step, place, "done");
                }
                Some(Err(why)) => {
                    self.record(step, place, "failed");
                    kinds.insert(step.key.kind());
                    if running.call.is_none() {
                        self.note_failure(step, why.text.clone());
                    }
                    fault.get_or_insert(why);
                }
                None => {
                    self.dirty.insert(step.key.clone());
                }
            }
        }
        // What was believed to be there may not be: read it again before the next try.
        kinds.retain(|kind| super::host_kinds().contains(kind));
        if !kinds.is_empty() {
            self.outputs.push(Output::Observe { kinds });
        }
        let changes = match running.call {
            Some(call) => self.plan_of_call_ran(call, fault, &running.scope),
            None => BTreeSet::new(),
        };
        self.forget_unwanted(&running.scope);
        self.note_left();
        changes
    }

    pub(super) fn take_stored(&mut self, plan: u64, results: Vec<StoreResult>) -> BTreeSet<Change> {
        let Some(running) = self.running.remove(&plan) else { return BTreeSet::new() };
        if let Some(operation) = running.operation {
            for (place, step) in running.plan.steps.iter().enumerate() {
                let done = matches!(results.get(place), Some(StoreResult::Done(_)));
                self.record(step, place, if done { "done" } else { "failed" });
            }
            self.answer_engine(operation, results.into_iter().next());
            return BTreeSet::new();
        }
        self.release_keys(&running.scope);
        for (place, step) in running.plan.steps.iter().enumerate() {
            match results.get(place) {
                Some(StoreResult::Done(_)) => {
                    self.note_done(step);
                    self.record(step, place, "done");
                }
                Some(StoreResult::Conflict(_)) => {
                    // The watch brings what is there; then the step is planned anew on its revision.
                    self.record(step, place, "failed");
                    self.note_failure(step, "another writer was first".into());
                }
                Some(StoreResult::Failed(why)) => {
                    self.record(step, place, "failed");
                    self.note_failure(step, why.clone());
                }
                None => {
                    self.dirty.insert(step.key.clone());
                }
            }
        }
        BTreeSet::new()
    }

    fn release_keys(&mut self, scope: &BTreeSet<Key>) {
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

    fn note_failure(&mut self, step: &Step, why: String) {
        let attempts = self.failed.get(&step.key).map_or(0, |failure| failure.attempts) + 1;
        let pause = (100u64 << attempts.min(6)).min(LONGEST_PAUSE_MS);
        if attempts == 1 || attempts == 8 {
            self.log(Level::Warn, format!("{} ({}): {why}; trying again", step.key, step.owner));
        }
        self.failed.insert(step.key.clone(), Failure { why, attempts, due: self.at.now.plus(pause) });
        self.dirty.insert(step.key.clone());
    }

    /// Lets failures whose pause is over be tried again.
    pub(super) fn retry_failed(&mut self) {
        let due: Vec<Key> =
            self.failed.iter().filter(|(_, failure)| failure.due <= self.at.now).map(|(key, _)| key.clone()).collect();
        if due.is_empty() {
            return;
        }
        let ready: BTreeSet<Key> = due.into_iter().filter(|key| !self.busy.contains(key)).collect();
        // The count of tries stays with what fails again; what is fine now is forgotten here.
        let attempts: BTreeMap<Key, Failure> = ready.iter().filter_map(|key| self.failed.remove_entry(key)).collect();
        self.dirty.retain(|key| !ready.contains(key));
        self.run(ready, None);
        for (key, failure) in attempts {
            if self.busy.contains(&key) {
                self.failed.insert(key, Failure { due: self.at.now.plus(LONGEST_PAUSE_MS), ..failure });
            }
        }
    }

    /// Ends the leases of pods whose objects are all gone.
    pub(super) fn note_left(&mut self) {
        let done: Vec<Attachment> = self
            .leaving
            .iter()
            .filter(|(_, keys)| keys.iter().all(|key| self.applied.get(key).is_none() && !self.busy.contains(key)))
            .map(|(attachment, _)| attachment.clone())
            .collect();
        for attachment in done {
            self.leaving.remove(&attachment);
            self.book.release(&attachment, self.at.now);
        }
    }

    fn record(&mut self, step: &Step, place: usize, state: &str) {
        if self.journal.len() == JOURNAL {
            self.journal.pop_front();
        }
        self.journal.push_back(StepView { state: Some(state.into()), ..step.view(place + 1) });
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

pub(super) fn is_cluster_record(key: &Key) -> bool {
    matches!(key, Key::Record { scope: RecordScope::Cluster(_), .. })
}
