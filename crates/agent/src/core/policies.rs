//! Policies and this agent: what a new pod waits for, what is published of this node's pods, and what people are told.
//!
//! An ADD begins once it is known what policies ask of the pod's packets, and is answered once that is in the kernel: with what was decided
//! before it, and is still on its way.
//!
//! Not here: what policies say (`ripstop_policy`), and which objects follow (`ripstop_desired::policy`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ripstop_cni_spec::TypedCall;
use ripstop_desired::policy;
use ripstop_netmodel::{Key, Kind, RecordGuard};
use ripstop_objects::policy::{Direction, Policy, PolicyName, PolicyRule, PortMatch};
use ripstop_objects::{About, Notice, StoreConfig};
use ripstop_plan::Step;
use ripstop_tables::{Change, Knowledge, PodAddresses, PodRow, PodState, StoreKind, StoreState, Withdrawn};
use ripstop_types::{NodeName, Owner};
use serde::Serialize;
use serde_json::json;

use super::Core;
use super::dispatch::Purpose;
use super::status::MOST_IN_STATUS;
use super::withdraw::{record_removal, record_write};

/// Plans of policies, counted. One runs at a time, made of what the one before has left: a part of a table goes once nothing leads there, and
/// what leads to a part is written once that is there. What comes meanwhile goes along with the next.
#[derive(Debug, Default)]
pub(super) struct Plans {
    begun: u64,
    ended: u64,
    /// How many steps the last one has, with what parts are filled with.
    steps: usize,
}

/// A plan of so many steps takes longer than any policy may wait to be decided about.
const LONG: usize = 20_000;

impl Plans {
    pub(super) fn begin(&mut self, steps: usize) {
        self.begun += 1;
        self.steps = steps;
    }

    pub(super) fn end(&mut self) {
        self.ended += 1;
    }
}

/// What was on its way to the kernel at a time: the plan of policies that brings the last of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Guard(u64);

/// A pod that leaves, and what is asked of its packets.
#[derive(Debug)]
pub(super) struct Leaving {
    link: Key,
    subjects: BTreeSet<Key>,
}

/// A policy of either kind.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct PolicyView {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<u16>,
    /// The directions that it has rules for or isolates pods in.
    pub directions: Vec<String>,
    /// How many pods of this node it is about, and of all nodes.
    pub pods: usize,
    pub all: usize,
    pub generation: u64,
    /// Packets that it refused at this node since the agent runs.
    pub drops: u64,
    /// Whether this node's kernel has what follows from this generation.
    pub realised: bool,
    /// Why it does not, and what deserves a look.
    pub reason: Option<String>,
}

impl Core {
    /// Why it is not known what policies ask of a new pod's packets.
    pub(super) fn policies_missing(&self, typed: &TypedCall) -> Option<String> {
        let away = || self.tables.cluster.away.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        if let Some(missing) = self.undecided() {
            return Some(format!("{missing}{}, and a pod starts behind them", away()));
        }
        let in_kubernetes = matches!(self.tables.config.store, StoreConfig::Kubernetes(_));
        let args = typed.call.args().filter(|_| in_kubernetes)?;
        let pod = args.pod.as_ref()?;
        if !self.tables.cluster.policies.may_concern(&pod.namespace) {
            return None;
        }
        let is_it = |uid: &str| args.pod_uid.as_ref().is_none_or(|own| **own == *uid);
        match self.tables.cluster.pods.get(pod) {
            Some(object) if is_it(&object.uid) => None,
            _ => Some(format!(
                "pod {pod}: its object is not known on this node yet{}, and its labels say which policies are about it",
                away()
            )),
        }
    }

    /// Why nothing is decided of policies that there are, or may be.
    pub(super) fn undecided(&self) -> Option<&'static str> {
        let is_open = self.tables.cluster.policies.any_enforced() && self.desired.policies().is_none();
        policy::missing(&self.tables).or(is_open.then_some("what policies say is not decided yet"))
    }

    /// What of policies is on its way to the kernel.
    pub(super) fn guard(&self) -> Guard {
        let waits = |key: &Key| key.is_of_policies() && !self.failed.contains_key(key) && !self.guards_who_leaves(key);
        Guard(self.policy_plans.begun + u64::from(self.dirty.iter().any(waits)))
    }

    /// Whether a plan of policies runs.
    pub(super) fn policies_run(&self) -> bool {
        self.policy_plans.begun > self.policy_plans.ended
    }

    /// Whether one runs that takes seconds.
    pub(super) fn long_policies_run(&self) -> bool {
        self.policies_run() && self.policy_plans.steps >= LONG
    }

    /// A pod is about to leave: what policies ask of its packets stays for as long as its interface does.
    pub(super) fn guard_who_leaves(&mut self, row: &PodRow) {
        let subjects = row.ips.iter().flat_map(|ip| self.desired.keys_of_subject(*ip)).cloned().collect();
        self.guarded.push(Leaving { link: row.host_key(), subjects });
    }

    /// Whether this is asked of the packets of a pod that leaves, or what is asked leads there.
    pub(super) fn guards_who_leaves(&self, key: &Key) -> bool {
        let is_wanted = |key: &Key| self.desired.model().get(key).is_some();
        !self.guarded.is_empty()
            && !is_wanted(key)
            && (self.guarded.iter().any(|leaving| leaving.subjects.contains(key))
                || key.part().is_some_and(|part| !is_wanted(&part)))
    }

    /// Lets go what was asked of pods that are gone.
    pub(super) fn forget_who_left(&mut self) {
        let Self { guarded, applied, busy, .. } = self;
        guarded.retain(|leaving| applied.get(&leaving.link).is_some() || busy.contains(&leaving.link));
    }

    /// Sends what waits of policies on its way, before what follows: a pod is there after what is asked of its packets.
    pub(super) fn send_policies(&mut self) {
        // Without policies what waits may be very much, and none of it is theirs but what goes.
        if self.policies_run() || self.desired.policies().is_none() {
            return;
        }
        let ready: BTreeSet<Key> =
            self.dirty.iter().filter(|key| key.is_of_policies() && self.is_free(key)).cloned().collect();
        self.dirty.retain(|key| !ready.contains(key));
        if !ready.is_empty() {
            self.run(ready);
        }
    }

    /// Why what was on its way is not all in the kernel. A part of a table that nobody wants and that stays says nothing of any packet.
    pub(super) fn not_in_force(&self, guard: Guard) -> Option<String> {
        let counts = |key: &Key| {
            key.is_of_policies() && (key.kind() != Kind::NftPart || self.desired.model().get(key).is_some())
        };
        if let Some((key, failure)) = self.failed.iter().find(|(key, _)| counts(key)) {
            return Some(format!("what policies ask cannot be written ({key}): {}", failure.why));
        }
        self.is_under_way(guard).then(|| "what policies ask is not in the kernel yet".into())
    }

    /// Whether something of what was on its way still is.
    pub(super) fn is_under_way(&self, guard: Guard) -> bool {
        self.policy_plans.ended < guard.0
    }

    /// Notes whether what this node says of its pods may have to change.
    pub(super) fn note_for_policies(&mut self, changes: &BTreeSet<Change>) {
        self.note_for_drops(changes);
        self.addresses_due |= changes.iter().any(|change| {
            matches!(
                change,
                Change::Pod(_) | Change::Policies(_) | Change::Store | Change::Known(_) | Change::Withdrawn
            )
        });
    }

    /// Says in the store which addresses this node's pods have, where no API server does and there are policies.
    pub(super) fn publish_addresses(&mut self) {
        let tables = &self.tables;
        let is_due = self.addresses_due && tables.knowledge(StoreKind::PodAddresses) == Knowledge::Synced;
        if !is_due || matches!(tables.config.store, StoreConfig::Kubernetes(_)) {
            return;
        }
        self.addresses_due = false;
        let can = !self.held && tables.store == StoreState::Here && self.name_conflict().is_none();
        for step in self.address_steps() {
            if !can || self.busy.contains(&step.key) || self.failed.contains_key(&step.key) {
                // Looked at again with the next tick.
                self.addresses_due = true;
                continue;
            }
            let scope = BTreeSet::from([step.key.clone()]);
            self.launch(vec![step], scope, Purpose::Model);
        }
    }

    /// From what is published to what is so.
    fn address_steps(&self) -> Vec<Step> {
        let tables = &self.tables;
        let wants = tables.withdrawn != Withdrawn::Everything && !tables.cluster.policies.is_empty();
        let mut wanted: BTreeMap<Arc<str>, PodAddresses> = BTreeMap::new();
        let rows = tables.pods.values().filter(|row| wants && row.state != PodState::Gone);
        for (row, pod) in rows.filter_map(|row| Some((row, row.pod.clone()?))) {
            let none = PodAddresses { node: tables.node.clone(), pod, ips: Vec::new() };
            wanted.entry(none.key()).or_insert(none).ips.extend(row.ips.iter().copied());
        }
        let own = || tables.cluster.policies.addresses.iter().filter(|(_, row)| row.value.node == tables.node);
        let owner = Owner::node(&tables.node);
        let mut steps = Vec::new();
        for (key, row) in own().filter(|(key, _)| !wanted.contains_key(*key)) {
            let guard = RecordGuard::Revision(row.revision.0);
            steps.push(record_removal(StoreKind::PodAddresses, key, guard, owner.clone(), "its pod is gone"));
        }
        for (key, said) in wanted {
            let row = tables.cluster.policies.addresses.get(&key);
            if row.is_some_and(|row| *row.value == said) {
                continue;
            }
            let guard = row.map_or(RecordGuard::Absent, |row| RecordGuard::Revision(row.revision.0));
            let value = json!(said).to_string();
            let reason = "policies go by pods' addresses";
            steps.push(record_write(StoreKind::PodAddresses, key.to_string(), value, guard, owner.clone(), reason));
        }
        steps
    }

    /// Keys of what a node said of its pods.
    pub(super) fn addresses_of_node(&self, node: &NodeName) -> Vec<String> {
        let rows = self.tables.cluster.policies.addresses.iter();
        rows.filter(|(_, row)| row.value.node == *node).map(|(key, _)| key.to_string()).collect()
    }
}

/// What people are told.
impl Core {
    /// The NetworkPolicies of the cluster, and what this node does for them.
    #[must_use]
    pub fn network_policies(&self) -> Vec<PolicyView> {
        let (pending, drops) = (self.policies_pending(), self.drops_by_policy());
        let rows = self.tables.cluster.policies.network.values().map(|row| {
            let policy = &row.value.spec;
            let directions =
                Direction::BOTH.into_iter().filter_map(|direction| Some((direction, policy.rules(direction)?)));
            let directions: Vec<(Direction, &[PolicyRule])> = directions.collect();
            let pods = self.desired.policies().map(|policies| policies.selected(policy));
            let reason = self.reason(&row.value, policy.staged, pods, &directions, pending.as_deref());
            PolicyView {
                namespace: Some(policy.name.namespace.to_string()),
                name: policy.name.name.to_string(),
                drops: drops.get(&PolicyName::Network(policy.name.clone())).copied().unwrap_or_default(),
                tier: None,
                priority: None,
                ..view(&row.value, policy.staged, pods, &directions, pending.is_none(), reason)
            }
        });
        rows.collect()
    }

    /// The ClusterNetworkPolicies, and the same of them.
    #[must_use]
    pub fn cluster_network_policies(&self) -> Vec<PolicyView> {
        let (pending, drops) = (self.policies_pending(), self.drops_by_policy());
        let rows = self.tables.cluster.policies.cluster.values().map(|row| {
            let policy = &row.value.spec;
            let directions = Direction::BOTH.into_iter().map(|direction| (direction, policy.rules(direction)));
            let directions: Vec<(Direction, &[PolicyRule])> =
                directions.filter(|(_, rules)| !rules.is_empty()).collect();
            let pods = self.desired.policies().map(|policies| policies.selected_by_cluster(policy));
            let reason = self.reason(&row.value, policy.staged, pods, &directions, pending.as_deref());
            PolicyView {
                name: policy.name.to_string(),
                drops: drops.get(&PolicyName::Cluster(policy.name.clone())).copied().unwrap_or_default(),
                tier: Some(format!("{:?}", policy.tier)),
                priority: Some(policy.priority),
                ..view(&row.value, policy.staged, pods, &directions, pending.is_none(), reason)
            }
        });
        rows.collect()
    }

    /// Why a policy is not in force here, and what of it deserves a look.
    fn reason<P>(
        &self,
        policy: &Policy<P>,
        staged: bool,
        pods: Option<(usize, usize)>,
        directions: &[(Direction, &[PolicyRule])],
        pending: Option<&str>,
    ) -> Option<String> {
        let reason = if staged { Some("staged: it is not enforced") } else { pending };
        let mut said: Vec<String> = reason.map(str::to_owned).into_iter().collect();
        said.extend(policy.closed.iter().map(|fault| format!("closed: {fault}")));
        if pods.is_some_and(|(_, all)| all == 0) {
            said.push("it selects no pod".into());
        }
        let rules = directions.iter().flat_map(|(_, rules)| *rules);
        let names: BTreeSet<&str> = rules.flat_map(|rule| rule.ports.iter().flatten()).filter_map(name_of).collect();
        let policies = self.desired.policies();
        let unknown = names.into_iter().filter(|name| policies.is_some_and(|policies| !policies.has_port(name)));
        said.extend(unknown.map(|name| format!("no pod has a port {name}")));
        (!said.is_empty()).then(|| said.join("; "))
    }

    /// Why this node does not have all that policies ask.
    fn policies_pending(&self) -> Option<String> {
        let undecided = self.undecided().map(str::to_owned);
        let waits = self.policies_wait().then(|| "what they said before is still on its way to the kernel".into());
        undecided.or(waits).or_else(|| self.not_in_force(self.guard()))
    }

    /// Policies of which something could not be read, with what is closed.
    fn closed_policies(&self) -> impl Iterator<Item = (PolicyName, &Arc<str>, &[Arc<str>])> {
        let there = &self.tables.cluster.policies;
        let network = there.network.values().map(|row| {
            let Policy { spec, closed, .. } = &*row.value;
            (PolicyName::Network(spec.name.clone()), &spec.uid, &closed[..])
        });
        let cluster = there.cluster.values().map(|row| {
            let Policy { spec, closed, .. } = &*row.value;
            (PolicyName::Cluster(spec.name.clone()), &spec.uid, &closed[..])
        });
        network.chain(cluster).filter(|(_, _, closed)| !closed.is_empty())
    }

    /// What this node's agent is to tell of policies: all nodes find the same, and one of them tells.
    pub(super) fn policy_notices(&self) -> Vec<Notice> {
        let told = self.closed_policies().take(if self.is_first_node() { MOST_NOTICES } else { 0 });
        let notice = |(name, uid, closed): (PolicyName, &Arc<str>, &[Arc<str>])| Notice {
            about: About::Policy { name, uid: uid.clone() },
            reason: "PolicyClosed",
            note: format!("{}: {CLOSED}", closed.join("; ")).into(),
            times: 1,
        };
        told.map(notice).collect()
    }

    /// What of policies deserves a look, some of it.
    pub(super) fn policy_warnings(&self) -> Vec<String> {
        let faults = self.closed_policies().flat_map(|(_, _, closed)| closed);
        let mut warnings: Vec<String> = faults.take(MOST_IN_STATUS).map(|fault| format!("{fault}: {CLOSED}")).collect();
        warnings.extend(self.policies_pending().filter(|_| !self.tables.cluster.policies.is_empty()));
        warnings
    }
}

/// What becomes of a part of a policy that cannot be read.
const CLOSED: &str = "what stands there matches nothing, or denies";

/// Policies about which something is told at once, at most.
const MOST_NOTICES: usize = 64;

fn name_of(port: &PortMatch) -> Option<&str> {
    if let PortMatch::Named { name, .. } = port { Some(name) } else { None }
}

/// What policies of both kinds show.
fn view<P>(
    policy: &Policy<P>,
    staged: bool,
    pods: Option<(usize, usize)>,
    directions: &[(Direction, &[PolicyRule])],
    is_done: bool,
    reason: Option<String>,
) -> PolicyView {
    let (pods, all) = pods.unwrap_or_default();
    PolicyView {
        namespace: None,
        name: String::new(),
        tier: None,
        priority: None,
        directions: directions.iter().map(|(direction, _)| direction.to_string()).collect(),
        pods,
        all,
        generation: policy.generation,
        drops: 0,
        realised: !staged && is_done,
        reason,
    }
}
