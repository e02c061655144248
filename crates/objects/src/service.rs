//! Services and EndpointSlices, as far as a proxy looks at them.
//!
//! Here is what the objects say, and nothing of what it means: which endpoints a packet may go to is decided elsewhere.
//! Sources: `core/v1` Service and `discovery.k8s.io/v1` EndpointSlice.
//!
//! Invariants: an address belongs to no special kind that cannot be served (unspecified, loopback, link-local, multicast); ports are
//! 1 to 65,535; a Service has no two ports of one number and protocol. What breaks these rules is left out of the value and named by
//! a fault.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use ripstop_types::{Family, NodeName, Prefix, ServiceName};
use serde::{Deserialize, Serialize};

use crate::ObjectLabels;

/// A Service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    /// Its namespace and name.
    pub name: ServiceName,
    /// What tells it from another of the same name, earlier or later.
    #[serde(default)]
    pub uid: Arc<str>,
    /// How it is reached.
    pub kind: ServiceKind,
    /// `spec.clusterIP` is `None`: clients find its endpoints by DNS alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub headless: bool,
    /// `spec.clusterIPs`: at most one of each family.
    #[serde(rename = "clusterIPs", default, skip_serializing_if = "Vec::is_empty")]
    pub cluster_ips: Vec<IpAddr>,
    /// Its ports, in the order of the object.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<ServicePort>,
    /// `spec.externalIPs`
    #[serde(rename = "externalIPs", default, skip_serializing_if = "Vec::is_empty")]
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress`, those with an address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ingress: Vec<Ingress>,
    /// `spec.loadBalancerSourceRanges`: whose packets to [`Self::ingress`] are taken; `None`: everybody's. Ranges of one family alone
    /// let nobody of the other in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_ranges: Option<Vec<Prefix>>,
    /// `spec.externalTrafficPolicy`
    #[serde(default)]
    pub external_policy: TrafficPolicy,
    /// `spec.internalTrafficPolicy`
    #[serde(default)]
    pub internal_policy: TrafficPolicy,
    /// `spec.sessionAffinity: ClientIP`, with its timeout in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<u32>,
    /// `spec.healthCheckNodePort`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check_node_port: Option<u16>,
    /// `spec.publishNotReadyAddresses`. Whoever makes slices heeds it; a proxy goes by their conditions.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub publish_not_ready: bool,
    /// Label `service.kubernetes.io/service-proxy-name`: another proxy's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_name: Option<Arc<str>>,
    /// `spec.selector`: the pods that its endpoints are; whoever makes slices heeds it. Empty: somebody else makes them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub selector: ObjectLabels,
    /// Annotation `ripstop.io/on-endpoint-removal: reset`: connections to an endpoint that leaves are reset.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reset_on_removal: bool,
    /// What it asks of whoever gives addresses to Services of type LoadBalancer; none of another type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balancer: Option<Box<Balancer>>,
    /// Its condition [`Assigned::CONDITION`], where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assigned: Option<Box<Assigned>>,
    /// What is wrong with it and was left out, in sentences; few of many.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<Arc<str>>,
}

/// Whether a Service of type LoadBalancer has the addresses that it is to have, as its status says it in a condition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assigned {
    /// `status` of the condition.
    pub holds: bool,
    /// `reason`: one word.
    pub reason: Arc<str>,
    /// `message`
    pub message: Arc<str>,
    /// `lastTransitionTime`; empty: as it is written.
    pub since: Arc<str>,
}

impl Assigned {
    /// The condition's type.
    pub const CONDITION: &str = "ripstop.io/AddressAssigned";

    /// Whether another says the same, whenever that was.
    #[must_use]
    pub fn says_as(&self, other: &Self) -> bool {
        (self.holds, &self.reason, &self.message) == (other.holds, &other.reason, &other.message)
    }
}

/// What a Service of type LoadBalancer asks of whoever gives addresses.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Balancer {
    /// `spec.loadBalancerClass`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<Arc<str>>,
    /// The addresses that it wants, by `spec.loadBalancerIP` or annotation; none: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// The pool that it wants them of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<Arc<str>>,
    /// Services of one key may have one address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sharing: Option<Arc<str>>,
    /// Where the node that has the address decides which endpoints there are (`externalTrafficPolicy: Local`), which pods those are:
    /// Services that share an address then have to have the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<Arc<str>>,
    /// `ipFamilyPolicy` is `RequireDualStack`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub needs_both: bool,
    /// Its labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: ObjectLabels,
}

/// `spec.type`
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[allow(missing_docs)] // Named as Kubernetes names them.
pub enum ServiceKind {
    #[default]
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    NodePort,
    LoadBalancer,
    ExternalName,
}

/// As Kubernetes writes it.
impl fmt::Display for ServiceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::ClusterIp => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
            Self::ExternalName => "ExternalName",
        })
    }
}

/// Which endpoints traffic goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub enum TrafficPolicy {
    /// Those of the whole cluster.
    #[default]
    Cluster,
    /// Those of the node where the packet is.
    Local,
}

/// A transport protocol that Services have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs)]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// Its number in IP headers (IANA, Assigned Internet Protocol Numbers).
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// As Kubernetes writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Protocol {
    type Err = ripstop_types::Invalid;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|protocol| protocol.as_str() == text);
        found.ok_or_else(|| ripstop_types::Invalid::new("a protocol", text, "TCP, UDP or SCTP"))
    }
}

/// One port of a Service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// Its name, by which slices name it, too; empty where there is one port.
    #[serde(default)]
    pub name: Arc<str>,
    /// Its protocol.
    #[serde(default)]
    pub protocol: Protocol,
    /// Its number at the Service's addresses.
    pub port: u16,
    /// Its number at nodes' addresses; none where the Service has no node ports
    /// (`spec.allocateLoadBalancerNodePorts: false`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_port: Option<u16>,
    /// `targetPort`: its number at pods. Whoever makes slices heeds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<PortRef>,
}

/// A port of a pod: by number, or by the name that its container gives it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PortRef {
    /// This one.
    Number(u16),
    /// That of this name.
    Name(Arc<str>),
}

/// As kubectl shows it: `80/TCP`, `80:30080/TCP`.
impl fmt::Display for ServicePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.node_port {
            Some(node_port) => write!(f, "{}:{node_port}/{}", self.port, self.protocol),
            None => write!(f, "{}/{}", self.port, self.protocol),
        }
    }
}

/// An address that a load balancer gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ingress {
    /// The address.
    pub ip: IpAddr,
    /// `ipMode` is `Proxy`: packets come to nodes with an address of theirs, and nobody else answers for this one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_proxied: bool,
}

/// A part of a Service's endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSlice {
    /// Its namespace and name.
    pub name: ServiceName,
    /// Label `kubernetes.io/service-name`: the Service of the same namespace; none where it belongs to none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Arc<str>>,
    /// Label `ripstop.io/node`: the node whose agent made it of its pods; it counts as long as that node is alive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publisher: Option<NodeName>,
    /// `addressType`; none for `FQDN`, which nobody serves.
    pub family: Option<Family>,
    /// Its ports, those with a number.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<EndpointPort>,
    /// Its endpoints.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<Endpoint>,
    /// What is wrong with it and was left out, in sentences; few of many.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<Arc<str>>,
}

/// A port that all endpoints of a slice have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointPort {
    /// The Service's port of this name.
    #[serde(default)]
    pub name: Arc<str>,
    /// Its protocol.
    #[serde(default)]
    pub protocol: Protocol,
    /// Its number at the endpoint.
    pub port: u16,
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// The first of its addresses: what further ones mean is not defined.
    pub ip: IpAddr,
    /// `conditions.ready`; unsaid is yes.
    #[serde(default = "yes", skip_serializing_if = "Clone::clone")]
    pub ready: bool,
    /// `conditions.serving`; unsaid is yes.
    #[serde(default = "yes", skip_serializing_if = "Clone::clone")]
    pub serving: bool,
    /// `conditions.terminating`; unsaid is no.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub terminating: bool,
    /// The node it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// The zone it runs in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<Arc<str>>,
    /// `hints.forZones`
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub for_zones: BTreeSet<Arc<str>>,
    /// `hints.forNodes`
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub for_nodes: BTreeSet<Arc<str>>,
}

fn yes() -> bool {
    true
}

/// Label of a Service that another proxy serves.
pub const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// Label of a Service, or of a slice, that no proxy serves.
pub const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
/// Label of a slice that names its Service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// Label of a slice that names the node whose agent made it.
pub const PUBLISHER_LABEL: &str = "ripstop.io/node";
/// Annotation of a Service that says what becomes of connections to an endpoint that leaves.
pub const ON_REMOVAL_ANNOTATION: &str = "ripstop.io/on-endpoint-removal";
/// `spec.loadBalancerClass` of Services that get their addresses of our pools, also where others are there.
pub const BALANCER_CLASS: &str = "ripstop.io/addresspool";
/// Annotations of a Service that name the addresses it wants, with commas between; the first is ours.
pub const BALANCER_IPS_ANNOTATIONS: [&str; 3] =
    ["ripstop.io/load-balancer-ips", "metallb.io/loadBalancerIPs", "metallb.universe.tf/loadBalancerIPs"];
/// Annotations of a Service that name the pool it wants them of.
pub const POOL_ANNOTATIONS: [&str; 3] =
    ["ripstop.io/address-pool", "metallb.io/address-pool", "metallb.universe.tf/address-pool"];
/// Annotations of a Service that name the key by which it shares an address.
pub const SHARING_ANNOTATIONS: [&str; 3] =
    ["ripstop.io/sharing-key", "metallb.io/allow-shared-ip", "metallb.universe.tf/allow-shared-ip"];
