//! What an answer depends on: the node, the settings, the objects; and the packet that is asked about.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ripstop_objects::service::{EndpointSlice, Protocol, Service};
use ripstop_types::{Family, NodeName, Prefix};
use serde::{Deserialize, Serialize};

use super::health::Proxy;
use super::sysctls::Conntrack;

/// One node, and all that its proxy knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct World {
    /// This node.
    pub node: NodeName,
    /// Its label `topology.kubernetes.io/zone`.
    #[serde(default)]
    pub zone: Option<Arc<str>>,
    /// All its addresses but loopback. The first of each family is the primary one.
    pub addresses: Vec<IpAddr>,
    /// Where node ports are served.
    #[serde(default)]
    pub node_port_addresses: NodePortAddresses,
    /// Whether node ports are served at 127.0.0.1, too.
    #[serde(default)]
    pub localhost_node_ports: bool,
    /// By what packets of this node's pods are told from others.
    #[serde(default)]
    pub detect_local: DetectLocal,
    /// The ranges of this node's pods. A source in them is a local pod; every other comes from off the cluster or from elsewhere in it.
    #[serde(default)]
    pub pod_ranges: Vec<Prefix>,
    /// What ClusterIPs are allocated from, if that is known.
    #[serde(rename = "serviceCIDRs", default)]
    pub service_cidrs: Vec<Prefix>,
    /// Whether `spec.externalIPs` are served: whoever may write a Service can otherwise take any address (CVE-2020-8554).
    #[serde(rename = "externalIPs", default)]
    pub external_ips: bool,
    /// Whether everything that goes to a ClusterIP is masqueraded.
    #[serde(default)]
    pub masquerade_all: bool,
    /// The value of `service.kubernetes.io/service-proxy-name` that this proxy serves; none: Services without the label.
    #[serde(default)]
    pub proxy_name: Option<Arc<str>>,
    /// What of the objects has been listed whole.
    #[serde(default)]
    pub listed: Listed,
    /// How the proxy itself is.
    #[serde(default)]
    pub proxy: Proxy,
    /// Settings of connection tracking.
    #[serde(default)]
    pub conntrack: Conntrack,
    /// Services, in any order; no two of one name.
    #[serde(default)]
    pub services: Vec<Service>,
    /// EndpointSlices, in any order; no two of one name.
    #[serde(default)]
    pub slices: Vec<EndpointSlice>,
}

impl World {
    /// The node's primary address of a family.
    #[must_use]
    pub fn primary(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|ip| Family::of(*ip) == family)
    }

    /// Whether node ports are served at an address.
    #[must_use]
    pub fn has_node_ports_at(&self, ip: IpAddr) -> bool {
        self.localhost_node_ports && ip == IpAddr::from(Ipv4Addr::LOCALHOST)
            || self.addresses.contains(&ip)
                && match &self.node_port_addresses {
                    NodePortAddresses::Primary => self.primary(Family::of(ip)) == Some(ip),
                    NodePortAddresses::All => true,
                    NodePortAddresses::Ranges(ranges) => ranges.iter().any(|range| range.contains(ip)),
                }
    }

    /// Whether a packet is one of a pod of this node. A pod whose address is in none of the node's ranges is like anybody outside, unless it is
    /// told by its link.
    #[must_use]
    pub fn is_of_local_pod(&self, packet: &Packet) -> bool {
        let within = |ranges: &[Prefix]| ranges.iter().any(|range| range.contains(packet.source));
        match &self.detect_local {
            DetectLocal::NodeRanges => packet.origin == Origin::Pod && within(&self.pod_ranges),
            DetectLocal::ClusterCidr(ranges) => packet.origin != Origin::Node && within(ranges),
            DetectLocal::Bridge(name) => packet.origin == Origin::Pod && **name == *POD_LINK,
            DetectLocal::InterfacePrefix(prefix) => packet.origin == Origin::Pod && POD_LINK.starts_with(&**prefix),
        }
    }
}

/// The link by which packets of pods come in.
pub const POD_LINK: &str = "pods";

/// By what packets of pods of this node are told from others: kube-proxy's `detectLocalMode`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum DetectLocal {
    /// By the node's ranges (`NodeCIDR`).
    #[default]
    NodeRanges,
    /// By ranges of the whole cluster (`ClusterCIDR`).
    #[serde(rename = "clusterCIDR")]
    ClusterCidr(Vec<Prefix>),
    /// By the link that they come in by (`BridgeInterface`).
    Bridge(Arc<str>),
    /// By what its name begins with (`InterfaceNamePrefix`).
    InterfacePrefix(Arc<str>),
}

/// Where node ports are served: `nodePortAddresses`, by default as kube-proxy's nftables mode has it. Never at loopback addresses.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodePortAddresses {
    /// At the primary address of each family.
    #[default]
    Primary,
    /// At every address of the node.
    All,
    /// At the node's addresses in these ranges.
    Ranges(Vec<Prefix>),
}

/// Which kinds have been listed whole since the proxy started. Before both are, what is known is a part, and no rule follows from a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listed {
    /// Services
    pub services: bool,
    /// EndpointSlices
    pub slices: bool,
}

impl Default for Listed {
    fn default() -> Self {
        Self { services: true, slices: true }
    }
}

impl Listed {
    /// Whether rules may be made of what is known.
    #[must_use]
    pub fn is_whole(self) -> bool {
        self.services && self.slices
    }
}

/// Where a packet comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// A pod of this node with an address in its pod ranges.
    Pod,
    /// This node itself, and its pods in the host's network.
    Node,
    /// Off this node: other nodes, their pods, machines outside of the cluster.
    Outside,
}

/// What connection tracking says of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The first of a connection.
    #[default]
    New,
    /// Of none it knows: outside of the window, too late.
    Invalid,
}

/// One packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Packet {
    /// Where it comes from.
    pub origin: Origin,
    /// Its source address.
    pub source: IpAddr,
    /// Its destination, of the same family.
    pub destination: IpAddr,
    /// Its destination port.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// What connection tracking says of it.
    #[serde(default)]
    pub state: State,
}

impl Packet {
    /// Its family.
    #[must_use]
    pub fn family(&self) -> Family {
        Family::of(self.destination)
    }
}
