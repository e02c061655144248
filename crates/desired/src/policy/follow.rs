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

use ripstop_ipam::Attachment;
use ripstop_netmodel::{Key, Model};
use ripstop_objects::policy::PolicyName;
use ripstop_objects::{KubeNamespace, KubeNode, KubePod, NAMESPACE_NAME_LABEL, ObjectKind, StoreConfig};
use ripstop_policy::Policies;
use ripstop_policy::revoke::Affected;
use ripstop_tables::{Change, Concern, Knowledge, PodRow, PodState, StoreKind, StoreState, Tables, Withdrawn};
use ripstop_types::{NodeName, PodName};

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

fn in_kubernetes(tables: &Tables) -> bool {
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
    /// Interfaces with their pods and addresses, as they were taken in.
    rows: BTreeMap<Attachment, (PodName, Vec<IpAddr>)>,
    attached: BTreeMap<PodName, BTreeSet<Attachment>>,
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
            rows: BTreeMap::new(),
            attached: BTreeMap::new(),
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
        let mut pods: BTreeSet<PodName> = tables.pods.keys().flat_map(|of| this.take_row(tables, of)).collect();
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
                Change::Pod(attachment) => pods.extend(self.take_row(tables, attachment)),
                Change::Node(name) => self.node(tables, name),
                Change::Policies(Concern::Node(name)) => self.node(tables, name),
                Change::Policies(Concern::Namespace(name)) => self.namespace(tables, name),
                Change::Policies(Concern::Pod(name)) => {
                    pods.extend(self.nameless(tables));
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
        let labels = BTreeMap::from([(NAMESPACE_NAME_LABEL.into(), name.clone())]);
        self.policies.put_namespace(&KubeNamespace { name: name.clone(), labels });
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
        let ips = self.own_addresses(name);
        if ips.is_empty() {
            return match self.pod_elsewhere(tables, name) {
                Some(pod) => self.policies.put_pod(&pod),
                None => self.policies.remove_pod(name),
            };
        }
        let node = Some(tables.node.clone());
        match tables.cluster.pods.get(name) {
            Some(pod) => self.policies.put_pod(&KubePod { node, ips, ..pod.clone() }),
            None if !in_kubernetes(tables) => self.policies.put_pod(&bare(name, node, ips)),
            None => {
                self.unknown.insert(name.clone());
                match tables.cluster.policies.may_concern(&name.namespace) {
                    true => self.policies.put_closed(name, &ips),
                    false => self.policies.remove_pod(name),
                }
            }
        }
    }

    /// A pod that has no interface here: another node's, or one that another network attached.
    fn pod_elsewhere(&self, tables: &Tables, name: &PodName) -> Option<KubePod> {
        let there = &tables.cluster.policies;
        let said: Vec<_> = there.said_of(name, &tables.node).collect();
        let (object, is_peer) = match tables.cluster.pods.get(name) {
            Some(pod) => (Some(pod), false),
            None => (there.peer_pods.get(name), true),
        };
        let mut pod = match (object, said.first()) {
            (Some(pod), _) => pod.clone(),
            (None, Some(first)) => bare(name, Some(first.node.clone()), Vec::new()),
            (None, None) => return None,
        };
        if !said.is_empty() {
            pod.node = said.first().map(|said| said.node.clone());
            pod.ips = said.iter().flat_map(|said| said.ips.iter().copied()).collect();
        } else if !is_peer {
            // What another pod has by now is that one's.
            let taken: BTreeSet<IpAddr> = self.rows.values().flat_map(|(_, ips)| ips.iter().copied()).collect();
            pod.ips.retain(|ip| !taken.contains(ip));
        }
        Some(pod)
    }

    fn own_addresses(&self, name: &PodName) -> Vec<IpAddr> {
        let rows = self.attached.get(name).into_iter().flatten().filter_map(|attachment| self.rows.get(attachment));
        rows.flat_map(|(_, ips)| ips.iter().copied()).collect()
    }

    /// Takes in an interface as it is now; answers with the pods that this may be about.
    fn take_row(&mut self, tables: &Tables, attachment: &Attachment) -> BTreeSet<PodName> {
        let row = tables.pods.get(attachment).filter(|row| row.state != PodState::Gone);
        let new = row.and_then(|row| Some((pod_of(tables, row)?, row.ips.clone())));
        if new.as_ref() == self.rows.get(attachment) {
            return BTreeSet::new();
        }
        let mut pods = BTreeSet::new();
        let mut ips: BTreeSet<IpAddr> = new.iter().flat_map(|(_, ips)| ips.iter().copied()).collect();
        if let Some((name, old)) = self.rows.remove(attachment) {
            ips.extend(old);
            if let Some(attached) = self.attached.get_mut(&name) {
                attached.remove(attachment);
                if attached.is_empty() {
                    self.attached.remove(&name);
                }
            }
            pods.insert(name);
        }
        if let Some((name, ips)) = new {
            self.attached.entry(name.clone()).or_default().insert(attachment.clone());
            pods.insert(name.clone());
            self.rows.insert(attachment.clone(), (name, ips));
        }
        let own = tables.cluster.pods.values();
        pods.extend(own.filter(|pod| pod.ips.iter().any(|ip| ips.contains(ip))).map(|pod| pod.name.clone()));
        pods
    }

    /// Takes in interfaces whose runtime named no pod: an object may say now whose they are.
    fn nameless(&mut self, tables: &Tables) -> BTreeSet<PodName> {
        let nameless = tables.pods.values().filter(|row| row.pod.is_none()).map(|row| row.attachment.clone());
        nameless.collect::<Vec<_>>().iter().flat_map(|attachment| self.take_row(tables, attachment)).collect()
    }
}

/// The pod whose interface this is.
fn pod_of(tables: &Tables, row: &PodRow) -> Option<PodName> {
    if row.pod.is_some() {
        return row.pod.clone();
    }
    // Such a runtime may give its container the pod's uid, or its name.
    let container = row.attachment.container.as_str();
    let is_its =
        |pod: &&KubePod| *pod.uid == *container || *pod.name.namespace == *"default" && *pod.name.name == *container;
    tables.cluster.pods.values().find(is_its).map(|pod| pod.name.clone())
}

/// A pod of which nothing but its addresses is known.
fn bare(name: &PodName, node: Option<NodeName>, ips: Vec<IpAddr>) -> KubePod {
    KubePod {
        name: name.clone(),
        uid: "".into(),
        labels: BTreeMap::new(),
        node,
        ips,
        host_network: false,
        phase: "".into(),
        ports: Vec::new(),
        probes: Vec::new(),
    }
}

/// A node as policies see it: what Kubernetes says of it, or what was said of it here, with the addresses that its agent publishes.
fn node_of(tables: &Tables, name: &NodeName) -> Option<KubeNode> {
    let cluster = &tables.cluster;
    let object = cluster.node.as_ref().filter(|node| node.name == *name).or_else(|| cluster.nodes.get(name)).cloned();
    let record = tables.nodes.get(name).filter(|_| !in_kubernetes(tables));
    let mut node = match (object, record) {
        (Some(node), _) => node,
        (None, Some(_)) => KubeNode {
            name: name.clone(),
            uid: "".into(),
            pod_cidrs: Vec::new(),
            labels: BTreeMap::new(),
            addresses: Vec::new(),
            zone: None,
            leaving: false,
            flannel: None,
        },
        (None, None) => return None,
    };
    if let Some(record) = record {
        if node.addresses.is_empty() {
            node.addresses = record.value.addresses.iter().map(|address| address.ip).collect();
        }
        for (key, value) in &record.value.labels {
            node.labels.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    Some(node)
}
