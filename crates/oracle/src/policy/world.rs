//! What an answer depends on: nodes, namespaces, pods, policies; and the packet that is asked about.

use std::net::IpAddr;

use ripstop_objects::policy::{ClusterNetworkPolicy, NetworkPolicy};
use ripstop_objects::service::Protocol;
use ripstop_objects::{KubeNamespace, KubeNode, KubePod};
use serde::{Deserialize, Serialize};

/// A cluster. No two objects of a kind have one name; their order means nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct World {
    /// Its nodes, with all their addresses.
    pub nodes: Vec<KubeNode>,
    /// Its namespaces. One that is not here has no labels that a selector could ask for, and no selector takes it.
    pub namespaces: Vec<KubeNamespace>,
    /// Its pods.
    pub pods: Vec<KubePod>,
    /// NetworkPolicies.
    pub policies: Vec<NetworkPolicy>,
    /// ClusterNetworkPolicies.
    pub cluster_policies: Vec<ClusterNetworkPolicy>,
}

impl World {
    /// The pod that has an address: one on its node's network has none of its own, and one that has finished has none any more. Where two
    /// say that they have it, it is the first by name.
    #[must_use]
    pub fn pod_at(&self, ip: IpAddr) -> Option<&KubePod> {
        let has_it = |pod: &&KubePod| !pod.host_network && !pod.has_finished() && pod.ips.contains(&ip);
        self.pods.iter().filter(has_it).min_by_key(|pod| &pod.name)
    }

    /// Whether an address is one of the node that a pod runs on.
    #[must_use]
    pub fn is_own_node(&self, pod: &KubePod, ip: IpAddr) -> bool {
        self.nodes.iter().any(|node| Some(&node.name) == pod.node.as_ref() && node.addresses.contains(&ip))
    }

    /// A namespace.
    #[must_use]
    pub fn namespace(&self, name: &str) -> Option<&KubeNamespace> {
        self.namespaces.iter().find(|namespace| &*namespace.name == name)
    }
}

/// One packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Packet {
    /// Its source address.
    pub source: IpAddr,
    /// Its destination, of the same family.
    pub destination: IpAddr,
    /// What it carries.
    pub traffic: Traffic,
    /// What connection tracking says of it.
    #[serde(default)]
    pub state: State,
    /// Whether the client sent it to a Service. What a pod sends to its own address never leaves it otherwise.
    #[serde(default)]
    pub by_service: bool,
}

/// What a packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Traffic {
    /// A transport with ports, and its destination's.
    Port(Protocol, u16),
    /// Another protocol, by its number: ICMP is one.
    Other(u8),
    /// Neighbour discovery (RFC 4861): without it no other packet would go.
    Discovery,
}

/// What connection tracking says of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The first of a connection.
    #[default]
    New,
    /// A later one in either direction, or an error of ICMP about it. The connection was judged when it began, and is ended when what
    /// permitted it is gone.
    Known,
}
