//! Policies, and whom they may be about: pods of other nodes, and addresses that nodes say their pods have.
//!
//! Not here: which policies are about whom, and what follows for packets.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ripstop_objects::KubePod;
use ripstop_objects::policy::{ClusterNetworkPolicy, NetworkPolicy, Policy, PolicyName};
use ripstop_types::{NamespacedName, NodeName, PodName, Revision};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::state::replace;
use crate::{Change, Row};

/// Something that what policies say hangs on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Concern {
    /// A policy.
    Policy(PolicyName),
    /// A pod of any node.
    Pod(PodName),
    /// A namespace.
    Namespace(Arc<str>),
    /// A node as Kubernetes has it, or what was said of it.
    Node(NodeName),
}

/// The rows.
#[derive(Debug, Clone, Default)]
pub struct PolicyTables {
    /// NetworkPolicies.
    pub network: BTreeMap<NamespacedName, Row<Policy<NetworkPolicy>>>,
    /// ClusterNetworkPolicies.
    pub cluster: BTreeMap<Arc<str>, Row<Policy<ClusterNetworkPolicy>>>,
    /// Pods of other nodes.
    pub peer_pods: BTreeMap<PodName, KubePod>,
    /// Which addresses nodes say that their pods have, by the record's key.
    pub addresses: BTreeMap<Arc<str>, Row<PodAddresses>>,
    /// Which nodes say so of a pod: an index of these.
    said_of: BTreeMap<PodName, Vec<NodeName>>,
}

/// What a node says of one of its pods.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodAddresses {
    /// The node.
    pub node: NodeName,
    /// The pod.
    pub pod: PodName,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
}

impl PodAddresses {
    /// The key of its record. Each node has keys of its own.
    #[must_use]
    pub fn key(&self) -> Arc<str> {
        format!("{}/{}", self.node, self.pod).into()
    }

    /// Reads a record.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(key: &str, value: &Value) -> Result<Self, String> {
        let read = Self::deserialize(value).map_err(|fault| format!("pod-addresses/{key}: found {fault}"))?;
        match *read.key() == *key {
            true => Ok(read),
            false => Err(format!("pod-addresses/{key}: found what {} should say", read.key())),
        }
    }
}

impl PolicyTables {
    /// Whether there is any policy, enforced or staged.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.network.is_empty() && self.cluster.is_empty()
    }

    /// Whether one is enforced.
    #[must_use]
    pub fn any_enforced(&self) -> bool {
        self.network.values().any(|row| !row.value.spec.staged)
            || self.cluster.values().any(|row| !row.value.spec.staged)
    }

    /// Whether an enforced policy may be about pods of a namespace.
    #[must_use]
    pub fn may_concern(&self, namespace: &str) -> bool {
        let first = NamespacedName { namespace: namespace.into(), name: "".into() };
        let own = self.network.range(first..).take_while(|(name, _)| *name.namespace == *namespace);
        own.into_iter().any(|(_, row)| !row.value.spec.staged)
            || self.cluster.values().any(|row| !row.value.spec.staged)
    }

    /// What other nodes say that a pod's addresses are.
    pub fn said_of<'t>(&'t self, pod: &'t PodName, own: &'t NodeName) -> impl Iterator<Item = &'t PodAddresses> {
        let nodes = self.said_of.get(pod).into_iter().flatten().filter(move |node| *node != own);
        nodes.filter_map(move |node| Some(&*self.addresses.get(format!("{node}/{pod}").as_str())?.value))
    }

    pub(crate) fn put(&mut self, policy: Arc<Policy<NetworkPolicy>>, revision: Revision) -> Option<Change> {
        let name = policy.spec.name.clone();
        let row = Row { value: counted(policy, revision), revision };
        let name_of = PolicyName::Network(name.clone());
        replace(&mut self.network, name, row).then_some(Change::Policies(Concern::Policy(name_of)))
    }

    pub(crate) fn put_cluster(
        &mut self,
        policy: Arc<Policy<ClusterNetworkPolicy>>,
        revision: Revision,
    ) -> Option<Change> {
        let name = policy.spec.name.clone();
        let row = Row { value: counted(policy, revision), revision };
        let name_of = PolicyName::Cluster(name.clone());
        replace(&mut self.cluster, name, row).then_some(Change::Policies(Concern::Policy(name_of)))
    }

    pub(crate) fn remove(&mut self, name: &NamespacedName) -> Option<Change> {
        self.network.remove(name).map(|_| Change::Policies(Concern::Policy(PolicyName::Network(name.clone()))))
    }

    pub(crate) fn remove_cluster(&mut self, name: &str) -> Option<Change> {
        self.cluster.remove(name).map(|_| Change::Policies(Concern::Policy(PolicyName::Cluster(name.into()))))
    }

    pub(crate) fn put_peer(&mut self, pod: KubePod) -> Option<Change> {
        let name = pod.name.clone();
        let before = self.peer_pods.insert(name.clone(), pod);
        (before.as_ref() != self.peer_pods.get(&name)).then_some(Change::Policies(Concern::Pod(name)))
    }

    pub(crate) fn remove_peer(&mut self, name: &PodName) -> Option<Change> {
        self.peer_pods.remove(name).map(|_| Change::Policies(Concern::Pod(name.clone())))
    }

    pub(crate) fn put_addresses(&mut self, said: PodAddresses, revision: Revision) -> Option<Change> {
        let (key, node, pod) = (said.key(), said.node.clone(), said.pod.clone());
        let differs = replace(&mut self.addresses, key, Row { value: Arc::new(said), revision });
        let nodes = self.said_of.entry(pod.clone()).or_default();
        if let Err(place) = nodes.binary_search(&node) {
            nodes.insert(place, node);
        }
        differs.then_some(Change::Policies(Concern::Pod(pod)))
    }

    pub(crate) fn remove_addresses(&mut self, key: &str) -> Option<Change> {
        let PodAddresses { node, pod, .. } = &*self.addresses.remove(key)?.value;
        if let Some(nodes) = self.said_of.get_mut(pod) {
            nodes.retain(|other| other != node);
            if nodes.is_empty() {
                self.said_of.remove(pod);
            }
        }
        Some(Change::Policies(Concern::Pod(pod.clone())))
    }
}

/// Where nobody counts what a policy said, the store's revisions do.
fn counted<P: Clone>(mut policy: Arc<Policy<P>>, revision: Revision) -> Arc<Policy<P>> {
    if policy.generation == 0 {
        Arc::make_mut(&mut policy).generation = revision.0;
    }
    policy
}
