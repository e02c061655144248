//! Taking what is of ours out of the kernel: the tables want nothing any more, and the same plans as ever make it so.
//!
//! Settings below /proc/sys stay as they are: what they were before is not known, and others may need them by now. Only
//! another start of the agent puts anything back.

use std::collections::BTreeSet;
use std::sync::Arc;

use ripstop_ipam::ranges::{ClaimKey, RangeEvent};
use ripstop_netmodel::{Entry, Key, Kind, Object, Record, RecordGuard, RecordScope, Resource};
use ripstop_plan::{Action, Step};
use ripstop_tables::{Change, StoreKind, StoreState, Withdrawn};
use ripstop_types::{Millis, Owner, Revision};

use super::{Core, Level, Output, status};

/// How long it may take, in milliseconds.
const PATIENCE_MS: u64 = 30_000;

/// Numbers of operations that give a claim of an earlier run back begin here.
const LEFT_OPERATIONS: u64 = 1 << 49;

/// A withdrawal that is not answered yet.
#[derive(Debug)]
pub(super) struct Withdrawal {
    call: u64,
    release: bool,
    /// Ranges and records were asked to go.
    asked: bool,
    deadline: Millis,
}

impl Core {
    /// An operator asks for it.
    pub(super) fn withdraw(&mut self, call: u64, what: Withdrawn, release: bool) -> BTreeSet<Change> {
        let refusal = match (self.held, &self.withdrawal, &self.tables.store) {
            (true, ..) => Some(status::HELD.to_owned()),
            (_, Some(_), _) => Some("it is being done already; ask again in a moment".into()),
            (_, _, state) if release && *state != StoreState::Here => {
                Some(format!("the ranges cannot be given back: {}", status::store_sentence(&self.tables)))
            }
            _ => None,
        };
        if let Some(refusal) = refusal {
            self.outputs.push(Output::Answer { call, result: Err(refusal) });
            return BTreeSet::new();
        }
        let deadline = self.at.now.plus(PATIENCE_MS);
        self.withdrawal = Some(Withdrawal { call, release, asked: false, deadline });
        if what <= self.tables.withdrawn {
            return BTreeSet::new();
        }
        self.tables.withdrawn = what;
        let mut changes = BTreeSet::from([Change::Withdrawn]);
        if what == Withdrawn::Everything {
            self.log(Level::Info, "everything of ours is taken out of the kernel");
            for attachment in self.tables.pods.keys().cloned().collect::<Vec<_>>() {
                changes.append(&mut self.remove_pod(&attachment));
            }
        }
        changes
    }

    /// Answers once nothing is left, or when that takes too long.
    pub(super) fn advance_withdrawal(&mut self) {
        // What is wanted of peers goes part by part.
        let Some(withdrawal) = self.withdrawal.as_ref().filter(|_| self.desired.is_whole()) else { return };
        let (call, release, asked, deadline) =
            (withdrawal.call, withdrawal.release, withdrawal.asked, withdrawal.deadline);
        let mut left = self.left_in_kernel();
        if release && left.is_empty() {
            if !asked {
                self.give_all_back();
                if let Some(withdrawal) = &mut self.withdrawal {
                    withdrawal.asked = true;
                }
            }
            left = self.left_in_store();
        }
        if left.is_empty() {
            self.withdrawal = None;
            if self.tables.withdrawn == Withdrawn::Everything {
                self.outputs.push(Output::Forget);
            }
            self.outputs.push(Output::Answer { call, result: Ok(()) });
        } else if self.at.now >= deadline {
            self.withdrawal = None;
            let text = format!("still there after {} s: {}", PATIENCE_MS / 1000, left.join("; "));
            self.outputs.push(Output::Answer { call, result: Err(text) });
        }
    }

    /// What a step still removes, or tried to.
    fn left_in_kernel(&self) -> Vec<String> {
        let everything = self.tables.withdrawn == Withdrawn::Everything;
        let goes = |key: &Key| everything || key.kind() == Kind::ForwardJump;
        let under_way = self.running.values().flat_map(|running| running.steps().map(|(_, step)| step));
        let planned = self.plan().steps;
        let steps = planned.iter().chain(under_way);
        let local =
            steps.filter(|step| step.action == Action::Delete && !super::dispatch::is_cluster_record(&step.key));
        let words = |key: &Key| match self.failed.get(key) {
            Some(failure) => format!("{key} ({})", failure.why),
            None => key.to_string(),
        };
        let mut left: Vec<String> = local.filter(|step| goes(&step.key)).map(|step| words(&step.key)).collect();
        left.sort();
        left.dedup();
        left
    }

    /// Claims of this machine and this node's records, as the store has them.
    fn left_in_store(&self) -> Vec<String> {
        let mut left: Vec<String> = self.own_claims().iter().map(|(key, _)| format!("the claim of {key}")).collect();
        if self.own_record().is_some() {
            left.push("this node's record".into());
        }
        left
    }

    /// Claims of this machine, the engine's and those of earlier runs.
    fn own_claims(&self) -> Vec<(ClaimKey, Revision)> {
        let is_own = |node: &ripstop_types::NodeName, machine: &str| {
            *node == self.tables.node && *machine == *self.tables.identity.machine_id
        };
        let claims = self.engine.claims();
        claims
            .filter(|(_, stored)| is_own(&stored.claim.claimant.node, &stored.claim.claimant.machine))
            .map(|(key, stored)| (key.clone(), stored.revision))
            .collect()
    }

    /// This machine's record, with its revision. A namesake's is not ours to remove.
    fn own_record(&self) -> Option<Revision> {
        let row = self.tables.nodes.get(&self.tables.node)?;
        (row.value.identity.machine_id == self.tables.identity.machine_id).then_some(row.revision)
    }

    /// Gives every range back and takes this node's records out of the store. No pod has an address any more.
    fn give_all_back(&mut self) {
        let held: Vec<ClaimKey> = self.engine.owned().into_iter().map(|owned| owned.key).collect();
        let rest = self.own_claims().into_iter().filter(|(key, _)| !held.contains(key)).collect::<Vec<_>>();
        for key in &held {
            self.range_event(&RangeEvent::Release(key.clone()));
        }
        let mut operations = LEFT_OPERATIONS..;
        for ((key, revision), operation) in rest.iter().zip(operations.by_ref()) {
            self.delete_claim(operation, key, *revision);
        }
        if let Some(revision) = self.own_record() {
            let records = [(StoreKind::Nodes, RecordGuard::Revision(revision.0)), (StoreKind::Alive, RecordGuard::Any)];
            for ((kind, guard), operation) in records.into_iter().zip(operations) {
                let step = self.removal(kind, guard);
                self.run_operation(step, operation);
            }
        }
    }

    fn removal(&self, kind: StoreKind, guard: RecordGuard) -> Step {
        let key = self.tables.node.as_str();
        record_removal(kind, key, guard, Owner::node(&self.tables.node), "the node leaves the cluster")
    }
}

/// The step that writes a record into the store.
pub(super) fn record_write(
    kind: StoreKind,
    key: String,
    value: String,
    guard: RecordGuard,
    owner: Owner,
    reason: &str,
) -> Step {
    let action = if guard == RecordGuard::Absent { Action::Create } else { Action::Update };
    let scope = RecordScope::Cluster(kind.as_str().into());
    let object: Object = Record { scope, key: key.into(), value: value.into(), guard }.into();
    Step {
        action,
        key: object.key(),
        after: Some(Arc::new(Entry { object, owner: Some(owner.clone()) })),
        before: None,
        owner,
        reason: reason.into(),
    }
}

/// The step that takes a record out of the store.
pub(super) fn record_removal(kind: StoreKind, key: &str, guard: RecordGuard, owner: Owner, reason: &str) -> Step {
    let scope = RecordScope::Cluster(kind.as_str().into());
    let object: Object = Record { scope, key: key.into(), value: Arc::from(""), guard }.into();
    Step {
        action: Action::Delete,
        key: object.key(),
        after: None,
        before: Some(Arc::new(Entry { object, owner: Some(owner.clone()) })),
        owner,
        reason: reason.into(),
    }
}
