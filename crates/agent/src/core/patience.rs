//! When the agent does not act yet, though it knows what to do.
//!
//! A snapshot may be older than the kernel: what the last process read and did in its last moments is not in it. Two pauses
//! keep an agent that starts from taking such things back:
//!
//! - At its start it waits for the store, for a moment, and until the range it claims is its own: every route to a peer has
//!   an address of it as its source, and would be written twice. Where the store is away, it goes by the snapshot.
//! - A change of a network is in the snapshot before it is in the kernel.
//!
//! A plan of policies that is very long takes seconds, and so does it to decide what it says: what policies come to say meanwhile waits, and is
//! decided at once when it has ended. Otherwise a list of a million blocks that is written in fifty parts would be made fifty times.
//!
//! CNI calls do not wait: what they change is their own. The parts of peers are not made meanwhile: of thousands each would
//! be made once a record, and again with the range.

use std::collections::BTreeSet;

use ripstop_objects::ObjectKind;
use ripstop_tables::{Change, Concern, Knowledge, StoreKind, StoreState};
use ripstop_types::Millis;

use super::{Core, Output};

/// Longest wait for the store at the start, and for the snapshot, in milliseconds.
const PATIENCE_MS: u64 = 1_000;

/// The number of a writing of the snapshot that no range asked for.
const GENERATION: u64 = 0;

/// What is waited for.
#[derive(Debug)]
pub(super) struct Patience {
    store_until: Millis,
    /// Writings of the snapshot that were asked for and not answered.
    unsaved: u32,
    saved_until: Millis,
}

impl Patience {
    pub(super) fn new(now: Millis) -> Self {
        Self { store_until: now.plus(PATIENCE_MS), unsaved: 0, saved_until: now }
    }
}

impl Core {
    /// Whether nothing of the model may be planned now.
    pub(super) fn must_wait(&self) -> bool {
        self.waits_until().is_some()
    }

    /// When it goes on at the latest; `None` where nothing is waited for.
    pub(super) fn waits_until(&self) -> Option<Millis> {
        let patience = &self.patience;
        let is_read = |kind: &StoreKind| self.tables.knowledge(*kind) == Knowledge::Synced;
        let kinds = [StoreKind::Networks, StoreKind::Nodes, StoreKind::Claims];
        let is_away = matches!(self.tables.store, StoreState::Away(_));
        let is_starting = patience.store_until > self.at.now && !is_away;
        // Flannel's nodes are known by Kubernetes' own objects.
        let follows = self.tables.taken_network().is_some();
        let are_peers_read = !follows || self.tables.cluster.knowledge(ObjectKind::Node) == Knowledge::Synced;
        let store = is_starting && (!kinds.iter().all(is_read) || !are_peers_read || self.is_claiming());
        let store = store.then_some(patience.store_until);
        let saved = (patience.unsaved > 0).then_some(patience.saved_until);
        store.into_iter().chain(saved).filter(|until| *until > self.at.now).max()
    }

    /// Whether a range will be this node's soon, as far as it can see.
    fn is_claiming(&self) -> bool {
        self.engine.owned().iter().any(|owned| matches!(owned.phase, "claiming" | "checking" | "confirming"))
    }

    /// Takes out changes of peers while nothing may be planned, and of policies while a long plan of those runs; puts back what waits no more.
    pub(super) fn put_off(&mut self, changes: &mut BTreeSet<Change>) {
        changes.extend(std::mem::take(&mut self.put_off));
        let own = &self.tables.node;
        let (must_wait, is_long) = (self.must_wait(), self.long_policies_run());
        let waits = |change: &Change| match change {
            Change::Node(node) | Change::Claim(node) => must_wait && node != own,
            change => is_long && is_of_policy(change),
        };
        self.put_off.extend(changes.extract_if(.., waits));
    }

    /// Whether something that policies say is not decided because what they said before is still written.
    pub(super) fn policies_wait(&self) -> bool {
        self.put_off.iter().any(is_of_policy)
    }

    /// Has changed networks written before they are acted upon.
    pub(super) fn save_first(&mut self, changes: &BTreeSet<Change>) {
        if changes.iter().any(|change| matches!(change, Change::Network(_))) {
            self.outputs.push(Output::Save { generation: GENERATION });
            self.patience.unsaved += 1;
            self.patience.saved_until = self.at.now.plus(PATIENCE_MS);
        }
    }

    /// The snapshot was written.
    pub(super) fn note_saved(&mut self, generation: u64) {
        if generation == GENERATION {
            self.patience.unsaved = self.patience.unsaved.saturating_sub(1);
        }
    }
}

fn is_of_policy(change: &Change) -> bool {
    matches!(change, Change::Policies(Concern::Policy(_)))
}

/// Whether a change is worth a new snapshot.
pub(super) fn outlives(change: &Change) -> bool {
    match change {
        Change::Network(_) | Change::Node(_) | Change::Claim(_) | Change::Blocks(_) | Change::Known(_) => true,
        // A start without the API server knows what was known.
        Change::Object(_) => true,
        // Routes stand until peers have sent what they know.
        Change::Bgp => true,
        // Routes keep their lengths when the agent starts.
        Change::Reach(_) | Change::Tunnel(_) | Change::Proxy => true,
        Change::Alive(_)
        | Change::Service(_)
        | Change::Policies(_)
        | Change::Withdrawn
        | Change::Facts
        | Change::Pod(_)
        | Change::Store
        | Change::Realised
        | Change::Migration(_) => false,
    }
}
