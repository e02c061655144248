//! Pods and nodes as policies see them: what is said of them, with the addresses that this node gives its own.
//!
//! Not here: what follows (`follow`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ripstop_ipam::Attachment;
use ripstop_objects::{KubeNamespace, KubeNode, KubePod};
use ripstop_tables::{PodRow, PodState, Tables};
use ripstop_types::{NodeName, PodName};

use super::follow::{implied, in_kubernetes};

/// How policies see a pod.
#[derive(Debug, Clone)]
pub enum Seen {
    /// So.
    Pod(Box<KubePod>),
    /// One of this node with these addresses whose object is not known, where policies may be about it.
    Closed(Vec<IpAddr>),
    /// The same where no policy can be about it.
    Unknown,
    /// It is not there, or nobody knows an address of it.
    Nothing,
}

/// Which pods have interfaces here.
#[derive(Debug, Default)]
pub struct Attached {
    /// Interfaces with their pods and addresses, as they were taken in.
    rows: BTreeMap<Attachment, (PodName, Vec<IpAddr>)>,
    of: BTreeMap<PodName, BTreeSet<Attachment>>,
}

impl Attached {
    /// As they are now.
    #[must_use]
    pub fn of(tables: &Tables) -> Self {
        let mut this = Self::default();
        for attachment in tables.pods.keys() {
            this.take_row(tables, attachment);
        }
        this
    }

    /// The pods that have one, in order.
    pub fn pods(&self) -> impl Iterator<Item = &PodName> {
        self.of.keys()
    }

    /// How policies see a pod.
    #[must_use]
    pub fn seen(&self, tables: &Tables, name: &PodName) -> Seen {
        let ips = self.own_addresses(name);
        if ips.is_empty() {
            return self.pod_elsewhere(tables, name).map_or(Seen::Nothing, |pod| Seen::Pod(Box::new(pod)));
        }
        let node = Some(tables.node.clone());
        match tables.cluster.pods.get(name) {
            Some(pod) => Seen::Pod(Box::new(KubePod { node, ips, ..pod.clone() })),
            None if !in_kubernetes(tables) => Seen::Pod(Box::new(bare(name, node, ips))),
            None if tables.cluster.policies.may_concern(&name.namespace) => Seen::Closed(ips),
            None => Seen::Unknown,
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
        let rows = self.of.get(name).into_iter().flatten().filter_map(|attachment| self.rows.get(attachment));
        rows.flat_map(|(_, ips)| ips.iter().copied()).collect()
    }

    /// Takes in an interface as it is now; answers with the pods that this may be about.
    pub(super) fn take_row(&mut self, tables: &Tables, attachment: &Attachment) -> BTreeSet<PodName> {
        let row = tables.pods.get(attachment).filter(|row| row.state != PodState::Gone);
        let new = row.and_then(|row| Some((pod_of(tables, row)?, row.ips.clone())));
        if new.as_ref() == self.rows.get(attachment) {
            return BTreeSet::new();
        }
        let mut pods = BTreeSet::new();
        let mut ips: BTreeSet<IpAddr> = new.iter().flat_map(|(_, ips)| ips.iter().copied()).collect();
        if let Some((name, old)) = self.rows.remove(attachment) {
            ips.extend(old);
            if let Some(attached) = self.of.get_mut(&name) {
                attached.remove(attachment);
                if attached.is_empty() {
                    self.of.remove(&name);
                }
            }
            pods.insert(name);
        }
        if let Some((name, ips)) = new {
            self.of.entry(name.clone()).or_default().insert(attachment.clone());
            pods.insert(name.clone());
            self.rows.insert(attachment.clone(), (name, ips));
        }
        let own = tables.cluster.pods.values();
        pods.extend(own.filter(|pod| pod.ips.iter().any(|ip| ips.contains(ip))).map(|pod| pod.name.clone()));
        pods
    }

    /// Takes in interfaces whose runtime named no pod: an object may say now whose they are.
    pub(super) fn nameless(&mut self, tables: &Tables) -> BTreeSet<PodName> {
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
#[must_use]
pub fn node_of(tables: &Tables, name: &NodeName) -> Option<KubeNode> {
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

/// A namespace as policies see it: outside of Kubernetes it need not have an object for pods to be in it.
#[must_use]
pub fn namespace_of(tables: &Tables, name: &Arc<str>) -> Option<KubeNamespace> {
    let object = tables.cluster.namespaces.get(name).cloned();
    object.or_else(|| (!in_kubernetes(tables)).then(|| implied(name)))
}
