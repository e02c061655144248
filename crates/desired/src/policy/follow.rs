//! What policies decide, followed from the node's tables change by change.
//!
//! Nothing is decided before everything is known that policies hang on: half of it would close, for a moment, what is open. Nor is there
//! anything where no policy is enforced.
//!
//! A pod of this node has the addresses of its interfaces from the moment its ADD gives them, whatever its object says. One whose object is
//! not known, where policies may be about it, is closed until it is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ripstop_netmodel::{Key, Model};
use ripstop_objects::policy::PolicyName;
use ripstop_objects::{KubeNamespace, NAMESPACE_NAME_LABEL, ObjectKind, StoreConfig};
use ripstop_policy::Policies;
use ripstop_policy::revoke::Affected;
use ripstop_tables::{Change, Concern, Knowledge, StoreKind, StoreState, Tables, Withdrawn};
use ripstop_types::{NodeName, PodName};

use super::seen::{Attached, Seen, node_of};
use super::{Parts, Source};

/// Which policies there are is told by these.
const POLICIES: [ObjectKind; 2] = [ObjectKind::NetworkPolicy, ObjectKind::ClusterNetworkPolicy];

/// What must be known before what policies ask of a new pod's packets is; `None` if it is.
#[must_use]
pub fn missing(tables: &Tables) -> Option<&'static str> {
    // Where nobody says what there is, what there was counts.
    let is_away = tables.cluster.away.is_some() || matches!(tables.store, StoreState::Away(_));
    let there_were_none = || POLICIES.into_iter().all(|kind| tables.cluster.knowledge(kind) == Knowledge::Snapshot);
    if is_away && there_were_none() { None } else { unread(tables) }
}

/// What must be read before it is known what policies want of this node; `None` if it is.
pub(crate) fn unread(tables: &Tables) -> Option<&'static str> {
    let are_read = POLICIES.into_iter().all(|kind| tables.cluster.knows(kind));
    match are_read {
        false => Some("policies have not been read yet"),
        true if tables.cluster.policies.any_enforced() && !is_read(tables, |kind| tables.cluster.knows(kind)) => {
            Some("not all that policies are about has been read yet")
        }
        true => None,
    }
}

/// Whether everything is read that the policies there are hang on.
fn is_read(tables: &Tables, is_read: impl Fn(ObjectKind) -> bool) -> bool {
    let kinds = [ObjectKind::Node, ObjectKind::Namespace, ObjectKind::Pod, ObjectKind::PeerPod];
    let objects = kinds.into_iter().chain(POLICIES).all(is_read);
    objects && (in_kubernetes(tables) || tables.knowledge(StoreKind::PodAddresses) == Knowledge::Synced)
}

pub(super) fn in_kubernetes(tables: &Tables) -> bool {
    matches!(tables.config.store, StoreConfig::Kubernetes(_))
}

/// What policies decide, and its objects.
#[derive(Debug, Default)]
pub(crate) struct Followed {
    /// `None`: nothing is enforced, or not all is known.
    decided: Option<Decided>,
    parts: Parts,
    /// Whose connections may be permitted no more, since that was last asked.
    affected: Affected,
}

#[derive(Debug)]
struct Decided {
    policies: Policies,
    attached: Attached,
    /// Pods whose object is not known.
    unknown: BTreeSet<PodName>,
    /// Namespaces that are taken to be there though they have no object.
    implied: BTreeSet<Arc<str>>,
}

impl Followed {
    /// Brings the model up to date; answers with the keys of objects that differ.
    pub(crate) fn update(&mut self, tables: &Tables, changes: &BTreeSet<Change>, model: &mut Model) -> BTreeSet<Key> {
        let is_wanted = tables.withdrawn != Withdrawn::Everything && tables.cluster.policies.any_enforced();
        match (&mut self.decided, is_wanted) {
            (None, false) => BTreeSet::new(),
            (Some(_), false) => {
                self.decided = None;
                self.affected = Affected::default();
                self.parts.clear(model)
            }
            (None, true) if !is_read(tables, |kind| tables.cluster.is_whole(kind)) => BTreeSet::new(),
            (None, true) => {
                let decided = self.decided.insert(Decided::of(tables));
                // What was permitted before, also by the agent that was here before this one, nobody knows.
                self.affected.add(Affected::all(&decided.policies));
                self.parts.make_all(&decided.policies, model)
            }
            (Some(decided), true) => {
                decided.follow(tables, changes);
                let differing = decided.policies.decide();
                self.affected.add(Affected::by(&decided.policies, &differing));
                self.parts.update(&decided.policies, &differing, model)
            }
        }
    }

    /// What is decided; `None` where nothing is enforced, or not all is known.
    pub(crate) fn policies(&self) -> Option<&Policies> {
        self.decided.as_ref().map(|decided| &decided.policies)
    }

    /// Whose connections may be permitted no more, since this was last asked.
    pub(crate) fn take_affected(&mut self) -> Affected {
        std::mem::take(&mut self.affected)
    }

    /// The keys of what leads an address of this node's pods to tables.
    pub(crate) fn keys_of(&self, subject: IpAddr) -> &[Key] {
        self.parts.keys_of(&Source::Subject(subject))
    }
}

impl Decided {
    fn of(tables: &Tables) -> Self {
        let mut this = Self {
            policies: Policies::new(Some(tables.node.clone())),
            attached: Attached::default(),
            unknown: BTreeSet::new(),
            implied: BTreeSet::new(),
        };
        let cluster = &tables.cluster;
        cluster.namespaces.keys().for_each(|name| this.namespace(tables, name));
        let nodes = cluster.node.iter().chain(cluster.nodes.values()).map(|node| &node.name).chain(tables.nodes.keys());
        nodes.for_each(|name| this.node(tables, name));
        for row in cluster.policies.network.values() {
            this.policies.put_policy(&row.value.spec);
        }
        for row in cluster.policies.cluster.values() {
            this.policies.put_cluster_policy(&row.value.spec);
        }
        let mut pods: BTreeSet<PodName> =
            tables.pods.keys().flat_map(|of| this.attached.take_row(tables, of)).collect();
        pods.extend(cluster.pods.keys().chain(cluster.policies.peer_pods.keys()).cloned());
        pods.extend(cluster.policies.addresses.values().map(|row| row.value.pod.clone()));
        pods.iter().for_each(|name| this.pod(tables, name));
        this.policies.decide();
        this
    }

    fn follow(&mut self, tables: &Tables, changes: &BTreeSet<Change>) {
        let mut pods = BTreeSet::new();
        for change in changes {
            match change {
                Change::Pod(attachment) => pods.extend(self.attached.take_row(tables, attachment)),
                Change::Node(name) => self.node(tables, name),
                Change::Policies(Concern::Node(name)) => self.node(tables, name),
                Change::Policies(Concern::Namespace(name)) => self.namespace(tables, name),
                Change::Policies(Concern::Pod(name)) => {
                    pods.extend(self.attached.nameless(tables));
                    pods.insert(name.clone());
                }
                Change::Policies(Concern::Policy(name)) => {
                    self.policy(tables, name);
                    // Whether it is about them is not known.
                    pods.extend(self.unknown.iter().cloned());
                }
                _ => {}
            }
        }
        pods.iter().for_each(|name| self.pod(tables, name));
    }

    fn policy(&mut self, tables: &Tables, name: &PolicyName) {
        let there = &tables.cluster.policies;
        match name {
            PolicyName::Network(name) => match there.network.get(name) {
                Some(row) => self.policies.put_policy(&row.value.spec),
                None => self.policies.remove_policy(name),
            },
            PolicyName::Cluster(name) => match there.cluster.get(name) {
                Some(row) => self.policies.put_cluster_policy(&row.value.spec),
                None => self.policies.remove_cluster_policy(name),
            },
        }
    }

    fn namespace(&mut self, tables: &Tables, name: &Arc<str>) {
        match tables.cluster.namespaces.get(name) {
            Some(namespace) => {
                self.implied.remove(name);
                self.policies.put_namespace(namespace);
            }
            None => {
                self.policies.remove_namespace(name);
                self.imply(tables, name);
            }
        }
    }

    /// Outside of Kubernetes a namespace need not have an object for pods to be in it.
    fn imply(&mut self, tables: &Tables, name: &Arc<str>) {
        let is_there = tables.cluster.namespaces.contains_key(name) || self.implied.contains(name);
        if is_there || in_kubernetes(tables) {
            return;
        }
        self.implied.insert(name.clone());
        self.policies.put_namespace(&implied(name));
    }

    fn node(&mut self, tables: &Tables, name: &NodeName) {
        match node_of(tables, name) {
            Some(node) => self.policies.put_node(&node),
            None => self.policies.remove_node(name),
        }
    }

    fn pod(&mut self, tables: &Tables, name: &PodName) {
        self.imply(tables, &name.namespace);
        self.unknown.remove(name);
        match self.attached.seen(tables, name) {
            Seen::Pod(pod) => return self.policies.put_pod(&pod),
            Seen::Nothing => {}
            Seen::Closed(ips) => {
                self.unknown.insert(name.clone());
                return self.policies.put_closed(name, &ips);
            }
            Seen::Unknown => drop(self.unknown.insert(name.clone())),
        }
        self.policies.remove_pod(name);
    }
}

/// A namespace without an object.
pub(super) fn implied(name: &Arc<str>) -> KubeNamespace {
    let labels = BTreeMap::from([(NAMESPACE_NAME_LABEL.into(), name.clone())]);
    KubeNamespace { name: name.clone(), labels }
}
