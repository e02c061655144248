//! Deleting a node: an operator says that its machine is gone for good.
//!
//! Its record goes first, on condition that it is the one that was judged; then its claims, each on the same condition, and
//! its sign of life. A node that shows signs of life is refused: it would come back, and its pods go on sending.

use std::collections::BTreeSet;
use std::sync::Arc;

use ripstop_ipam::ranges::{Answer, ClaimKey, Life, ReleaseCause, ReleaseFacts, Stored, releasable};
use ripstop_netmodel::RecordGuard;
use ripstop_tables::{PodRow, PodState, StoreKind};
use ripstop_types::{NodeName, Owner, Revision};

use super::withdraw::record_removal;
use super::{Core, Output};

/// Numbers of these operations begin here.
const OPERATIONS: u64 = 1 << 50;

/// Why its records go.
const GONE: &str = "an operator says that the node is gone";

/// Operations of one call, at most.
const EACH: u64 = 1 << 20;

/// A deletion that waits for the store.
#[derive(Debug, Clone)]
pub(super) struct Deletion {
    call: u64,
    node: NodeName,
    /// Its claims, as they were judged.
    claims: Vec<(ClaimKey, Revision)>,
}

impl Core {
    /// An operator asks for it.
    pub(super) fn delete_node(&mut self, call: u64, node: &NodeName) {
        match self.judge_deletion(node) {
            Err(refusal) => self.outputs.push(Output::Answer { call, result: Err(refusal) }),
            Ok(claims) => {
                let deletion = Deletion { call, node: node.clone(), claims };
                match self.tables.nodes.get(node).map(|row| row.revision) {
                    Some(revision) => {
                        let operation = OPERATIONS + call * EACH;
                        self.deleting.insert(operation, deletion);
                        self.remove_record(operation, StoreKind::Nodes, node, RecordGuard::Revision(revision.0));
                    }
                    None => self.delete_rest(deletion),
                }
            }
        }
    }

    /// Whether this is known to be nobody's name: there is nothing to delete.
    pub(crate) fn is_no_node(&self, node: &NodeName) -> bool {
        let tables = &self.tables;
        let are_known = [StoreKind::Nodes, StoreKind::Claims].into_iter().all(|kind| tables.knows(kind));
        let is_there = tables.nodes.contains_key(node) || tables.alive.contains_key(node);
        are_known && !is_there && *node != tables.node && self.claims_under(node).is_empty()
    }

    /// Claims under a node's name; under this node's own another machine's alone.
    fn claims_under(&self, node: &NodeName) -> Vec<(ClaimKey, Stored)> {
        let others = self.engine.claims().filter(|(_, stored)| {
            let claimant = &stored.claim.claimant;
            claimant.node == *node
                && (*node != self.tables.node || *claimant.machine != *self.tables.identity.machine_id)
        });
        others.map(|(key, stored)| (key.clone(), stored.clone())).collect()
    }

    /// The claims that go with the node, or why it does not go.
    fn judge_deletion(&self, node: &NodeName) -> Result<Vec<(ClaimKey, Revision)>, String> {
        let tables = &self.tables;
        if let Some(kind) = [StoreKind::Nodes, StoreKind::Claims].into_iter().find(|kind| !tables.knows(*kind)) {
            return Err(format!(
                "node/{node}: {} have not been read yet; try again when the store is here",
                kind.as_str()
            ));
        }
        if *node == tables.node && self.name_conflict().is_none() {
            return Err(format!(
                "node/{node} is the node that was asked; `ripstop uninstall --purge --release` there takes it out of the cluster"
            ));
        }
        let life = self.liveness.life(node);
        let facts = ReleaseFacts {
            asked: tables.node.clone(),
            machine: tables.identity.machine_id.as_str().into(),
            leases: None,
            example: None,
            life,
            // Its record goes before its claims.
            node_exists: Some(false),
        };
        let claims = self.claims_under(node);
        if self.is_no_node(node) {
            return Err(format!("node/{node}: there is no node of this name; `ripstop get nodes` lists them"));
        }
        match life {
            Life::Fresh(_) => return Err(format!("node/{node} is {life}; stop its agent first, or it comes back")),
            Life::Unknown => {
                let seconds = tables.config.timings.stale_after.div_ceil(1000);
                return Err(format!("node/{node}: whether it is alive is not known yet; try again in {seconds} s"));
            }
            Life::Stale(_) => {}
        }
        for (key, stored) in &claims {
            if let Some(row) = self.pod_of_this_machine_in(key, stored) {
                let (range, pod) = (key.range, row.owner());
                return Err(format!(
                    "node/{node} was this machine's name, and {pod} here has an address of its range {range}; remove that pod first"
                ));
            }
            releasable(key.range, &stored.claim, ReleaseCause::NodeDeleted, &facts).map_err(|why| why.to_string())?;
        }
        Ok(claims.into_iter().map(|(key, stored)| (key, stored.revision)).collect())
    }

    /// A pod of this machine in a range that the machine had under another name.
    fn pod_of_this_machine_in(&self, key: &ClaimKey, stored: &Stored) -> Option<&Arc<PodRow>> {
        let own = *stored.claim.claimant.machine == *self.tables.identity.machine_id;
        let inside = |row: &&Arc<PodRow>| {
            row.state != PodState::Gone
                && *row.network.as_str() == *key.network
                && row.ips.iter().any(|ip| key.range.contains(*ip))
        };
        self.tables.pods.values().filter(|_| own).find(inside)
    }

    /// Names that this machine had before and that still have ranges or a record.
    pub(super) fn earlier_names(&self) -> Vec<String> {
        let rows = self.tables.nodes.values().map(|row| &row.value);
        let earlier = rows.filter(|record| {
            record.name != self.tables.node
                && record.identity.machine_id == self.tables.identity.machine_id
                && matches!(self.liveness.life(&record.name), Life::Stale(_))
        });
        let sentence = |name: &NodeName| {
            let ranges = self.tables.ranges_of.get(name).into_iter().flatten().map(|(_, range)| range.to_string());
            let ranges: Vec<String> = ranges.collect();
            let of = if ranges.is_empty() { String::new() } else { format!(", with the ranges {}", ranges.join(", ")) };
            format!(
                "node {name} is this machine under an earlier name{of}: pods that it had then do not reach others; remove \
                 them, and `ripstop delete node {name}` frees what is its own"
            )
        };
        earlier.map(|record| sentence(&record.name)).collect()
    }

    /// The store's answer to one of these operations.
    pub(super) fn advance_deletion(&mut self, operation: u64, answer: &Answer) {
        let Some(deletion) = self.deleting.remove(&operation) else { return };
        let (call, node) = (deletion.call, deletion.node.clone());
        let refusal = match answer {
            Answer::Done(_) if operation.is_multiple_of(EACH) => return self.delete_rest(deletion),
            Answer::Done(_) => None,
            Answer::Conflict(_) => Some(format!("node/{node} changed meanwhile: it is alive")),
            Answer::Failed => {
                Some(format!("node/{node}: the store did not answer; ask again, what is left of it goes then"))
            }
        };
        let waits = self.deleting.values().any(|other| other.call == call);
        match refusal {
            Some(_) => {
                self.deleting.retain(|_, other| other.call != call);
                self.outputs.push(Output::Answer { call, result: refusal.map_or(Ok(()), Err) });
            }
            None if !waits => self.outputs.push(Output::Answer { call, result: Ok(()) }),
            None => {}
        }
    }

    /// Its claims, what it said of its pods, and its sign of life.
    fn delete_rest(&mut self, deletion: Deletion) {
        let mut operations = OPERATIONS + deletion.call * EACH + 1..;
        let mut begun = BTreeSet::new();
        for ((key, revision), operation) in deletion.claims.iter().zip(operations.by_ref()) {
            begun.insert(operation);
            self.delete_claim(operation, key, *revision);
        }
        for (key, operation) in self.slices_of_node(&deletion.node).iter().zip(operations.by_ref()) {
            begun.insert(operation);
            let owner = Owner::node(&deletion.node);
            let step = record_removal(StoreKind::EndpointSlices, key, RecordGuard::Any, owner, GONE);
            self.run_operation(step, operation);
        }
        for (key, operation) in self.addresses_of_node(&deletion.node).iter().zip(operations.by_ref()) {
            begun.insert(operation);
            let step =
                record_removal(StoreKind::PodAddresses, key, RecordGuard::Any, Owner::node(&deletion.node), GONE);
            self.run_operation(step, operation);
        }
        if let Some(operation) = operations.next() {
            begun.insert(operation);
            self.remove_record(operation, StoreKind::Alive, &deletion.node, RecordGuard::Any);
        }
        self.deleting.extend(begun.into_iter().map(|operation| (operation, deletion.clone())));
    }

    fn remove_record(&mut self, operation: u64, kind: StoreKind, node: &NodeName, guard: RecordGuard) {
        let owner = Owner::node(node);
        let step = record_removal(kind, node.as_str(), guard, owner, GONE);
        self.run_operation(step, operation);
    }
}
