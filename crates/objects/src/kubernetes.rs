//! Objects of Kubernetes, as far as anything here looks at them: a pod of some kilobytes becomes some hundred bytes.
//!
//! They were checked by the API server, so what is not as it should be is left out, and named where somebody needs it.
//! Text in them (labels, names) is carried as it is and never interpreted.

mod flannel_node;

pub use flannel_node::FlannelNode;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ripstop_types::{NodeName, PodName, Prefix, StoreKind};
use serde::{Deserialize, Serialize};

use crate::bgp::{BgpConfiguration, BgpFilter, BgpPeer};
use crate::decode::pod::RawPod;
use crate::metallb::{MetallbKind, MetallbObject};
use crate::policy::{ClusterNetworkPolicy, NetworkPolicy, Policy};
use crate::pool::AddressPool;
use crate::service::{EndpointSlice, Protocol, Service};
use crate::{API_VERSION, Faults};

/// Labels as an object has them.
pub type ObjectLabels = BTreeMap<Arc<str>, Arc<str>>;

/// The kinds of object that an agent reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ObjectKind {
    /// This node; beside Flannel, and where there are policies, every node.
    Node,
    /// Namespaces.
    Namespace,
    /// Pods of this node.
    Pod,
    /// Services, where they are served or pools have addresses for them.
    Service,
    /// Their endpoints.
    EndpointSlice,
    /// NetworkPolicies.
    NetworkPolicy,
    /// ClusterNetworkPolicies.
    ClusterNetworkPolicy,
    /// Pools of addresses for Services of type LoadBalancer.
    AddressPool,
    /// Pods of other nodes, where there are policies.
    PeerPod,
    /// What holds for BGP of all nodes.
    BgpConfiguration,
    /// What is taken from peers of BGP and told to them.
    BgpFilter,
    /// Peers of BGP outside of the cluster.
    BgpPeer,
    /// What MetalLB was told of pools, where it was there before.
    Metallb(MetallbKind),
}

impl ObjectKind {
    /// Every kind, in the order in which they are read.
    pub const ALL: [Self; 16] = [
        Self::Node,
        Self::Namespace,
        Self::Pod,
        Self::Service,
        Self::EndpointSlice,
        Self::NetworkPolicy,
        Self::ClusterNetworkPolicy,
        Self::AddressPool,
        Self::PeerPod,
        Self::BgpConfiguration,
        Self::BgpFilter,
        Self::BgpPeer,
        Self::Metallb(MetallbKind::Pool),
        Self::Metallb(MetallbKind::L2),
        Self::Metallb(MetallbKind::Bgp),
        Self::Metallb(MetallbKind::Community),
    ];

    /// Whether it is read only where Services are served, or pools have addresses for them.
    pub fn is_of_services(self) -> bool {
        matches!(self, Self::Service | Self::EndpointSlice)
    }

    /// Whether it is a kind of policy.
    pub fn is_policy(self) -> bool {
        matches!(self, Self::NetworkPolicy | Self::ClusterNetworkPolicy)
    }

    /// Whether it is of BGP.
    pub fn is_of_bgp(self) -> bool {
        matches!(self, Self::BgpConfiguration | Self::BgpFilter | Self::BgpPeer)
    }

    /// Whether only a definition makes an API server know it.
    pub fn is_defined(self) -> bool {
        matches!(self, Self::ClusterNetworkPolicy | Self::AddressPool | Self::Metallb(_)) || self.is_of_bgp()
    }

    /// Whether it lies in namespaces.
    pub fn has_namespace(self) -> bool {
        let in_none = matches!(self, Self::Node | Self::Namespace | Self::ClusterNetworkPolicy | Self::AddressPool);
        !in_none && !self.is_of_bgp()
    }

    /// The API that it is of: group and version.
    pub fn api_version(self) -> &'static str {
        match self {
            Self::Node | Self::Namespace | Self::Pod | Self::PeerPod | Self::Service => "v1",
            Self::EndpointSlice => "discovery.k8s.io/v1",
            Self::NetworkPolicy => "networking.k8s.io/v1",
            Self::ClusterNetworkPolicy => "policy.networking.k8s.io/v1alpha2",
            Self::AddressPool | Self::BgpConfiguration | Self::BgpFilter | Self::BgpPeer => API_VERSION,
            Self::Metallb(_) => MetallbKind::API_VERSION,
        }
    }

    /// The kind of its record in a store that is not Kubernetes.
    pub fn store_kind(self) -> StoreKind {
        match self {
            Self::Node => StoreKind::NodeLabels,
            Self::Namespace => StoreKind::Namespaces,
            Self::Pod | Self::PeerPod => StoreKind::Pods,
            Self::Service => StoreKind::Services,
            Self::EndpointSlice => StoreKind::EndpointSlices,
            Self::NetworkPolicy => StoreKind::NetworkPolicies,
            Self::ClusterNetworkPolicy => StoreKind::ClusterNetworkPolicies,
            // Applied there, MetalLB's objects are pools of ours.
            Self::AddressPool | Self::Metallb(_) => StoreKind::AddressPools,
            Self::BgpConfiguration => StoreKind::BgpConfigurations,
            Self::BgpFilter => StoreKind::BgpFilters,
            Self::BgpPeer => StoreKind::BgpPeers,
        }
    }
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Node => "Node",
            Self::Namespace => "Namespace",
            Self::Pod | Self::PeerPod => "Pod",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::ClusterNetworkPolicy => "ClusterNetworkPolicy",
            Self::AddressPool => "AddressPool",
            Self::BgpConfiguration => "BgpConfiguration",
            Self::BgpFilter => "BgpFilter",
            Self::BgpPeer => "BgpPeer",
            Self::Metallb(kind) => return kind.fmt(f),
        })
    }
}

/// One object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClusterObject {
    /// A node.
    Node(KubeNode),
    /// A namespace.
    Namespace(KubeNamespace),
    /// A pod.
    Pod(Box<KubePod>),
    /// A Service.
    Service(Box<Service>),
    /// Some of its endpoints.
    EndpointSlice(Box<EndpointSlice>),
    /// A NetworkPolicy.
    NetworkPolicy(Arc<Policy<NetworkPolicy>>),
    /// A ClusterNetworkPolicy.
    ClusterNetworkPolicy(Arc<Policy<ClusterNetworkPolicy>>),
    /// A pool of addresses.
    AddressPool(Arc<AddressPool>),
    /// A pod of another node.
    PeerPod(Box<KubePod>),
    /// A BgpConfiguration.
    BgpConfiguration(Arc<BgpConfiguration>),
    /// A BgpFilter.
    BgpFilter(Arc<BgpFilter>),
    /// A BgpPeer.
    BgpPeer(Arc<BgpPeer>),
    /// An object of MetalLB's.
    Metallb(Arc<MetallbObject>),
}

/// A node as Kubernetes has it; what this project's agent says of one is a [`crate::NodeRecord`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KubeNode {
    /// Its name.
    pub name: NodeName,
    /// What tells it from another of the same name, earlier or later.
    #[serde(default)]
    pub uid: Arc<str>,
    /// `spec.podCIDRs`: the ranges that Kubernetes gives its pods.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<Prefix>,
    /// Its labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: ObjectLabels,
    /// Its addresses, as its status has them: those by which nodes and others reach it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// Label `topology.kubernetes.io/zone`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<Arc<str>>,
    /// Whether it is about to go: it is being deleted, or the autoscaler has tainted it as one that will be
    /// (`ToBeDeletedByClusterAutoscaler`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaving: bool,
    /// What flanneld says of it, by annotations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flannel: Option<FlannelNode>,
}

/// A namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KubeNamespace {
    /// Its name.
    pub name: Arc<str>,
    /// Its labels. That of its name ([`NAMESPACE_NAME_LABEL`]) is always there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: ObjectLabels,
}

/// Label of every namespace that has its name.
pub const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KubePod {
    /// Its namespace and name.
    pub name: PodName,
    /// What tells it from another of the same name, earlier or later.
    pub uid: Arc<str>,
    /// Its labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: ObjectLabels,
    /// The node it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// Its addresses, as its status has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<IpAddr>,
    /// Whether it has the node's network and none of ours.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub host_network: bool,
    /// `status.phase`: `Pending`, `Running`, `Succeeded`, `Failed`.
    #[serde(default)]
    pub phase: Arc<str>,
    /// Ports of its containers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PodPort>,
    /// Probes that say whether it is ready, of all its containers. Beside Kubernetes kubelet carries them out, elsewhere the
    /// agent of the pod's node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<ReadinessProbe>,
}

/// A port of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodPort {
    /// Its name; may be empty.
    #[serde(default)]
    pub name: Arc<str>,
    /// Its protocol.
    #[serde(default)]
    pub protocol: Protocol,
    /// Its number.
    pub port: u16,
}

/// `readinessProbe` of a container (`core/v1` Probe). Times are in seconds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReadinessProbe {
    /// What is done.
    pub check: ProbeCheck,
    /// Where, if not at the pod's own address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<IpAddr>,
    /// The port there.
    pub port: u16,
    /// `initialDelaySeconds`; by default 0.
    pub delay: u32,
    /// `periodSeconds`; by default 10.
    pub period: u32,
    /// `timeoutSeconds`; by default 1.
    pub timeout: u32,
    /// `successThreshold`: so many successes in a row make it ready; by default 1.
    pub successes: u32,
    /// `failureThreshold`: so many failures in a row end that; by default 3.
    pub failures: u32,
}

/// What a probe does.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProbeCheck {
    /// A connection that is accepted is a success.
    Tcp,
    /// An answer with a status from 200 to 399 is a success.
    Http {
        /// The path that is asked for.
        path: Arc<str>,
    },
}

impl KubePod {
    /// Whether it has ended for good. Its addresses are free then, and may be another pod's already.
    pub fn has_finished(&self) -> bool {
        matches!(&*self.phase, "Succeeded" | "Failed")
    }
}

impl ClusterObject {
    /// Its kind.
    pub fn kind(&self) -> ObjectKind {
        match self {
            Self::Node(_) => ObjectKind::Node,
            Self::Namespace(_) => ObjectKind::Namespace,
            Self::Pod(_) => ObjectKind::Pod,
            Self::Service(_) => ObjectKind::Service,
            Self::EndpointSlice(_) => ObjectKind::EndpointSlice,
            Self::NetworkPolicy(_) => ObjectKind::NetworkPolicy,
            Self::ClusterNetworkPolicy(_) => ObjectKind::ClusterNetworkPolicy,
            Self::AddressPool(_) => ObjectKind::AddressPool,
            Self::PeerPod(_) => ObjectKind::PeerPod,
            Self::BgpConfiguration(_) => ObjectKind::BgpConfiguration,
            Self::BgpFilter(_) => ObjectKind::BgpFilter,
            Self::BgpPeer(_) => ObjectKind::BgpPeer,
            Self::Metallb(object) => ObjectKind::Metallb(object.kind),
        }
    }

    /// Its name; with the namespace before it, if it has one.
    pub fn name(&self) -> Arc<str> {
        match self {
            Self::Node(node) => node.name.as_str().into(),
            Self::Namespace(namespace) => namespace.name.clone(),
            Self::Pod(pod) | Self::PeerPod(pod) => pod.name.to_string().into(),
            Self::Service(service) => service.name.to_string().into(),
            Self::EndpointSlice(slice) => slice.name.to_string().into(),
            Self::NetworkPolicy(policy) => policy.spec.name.to_string().into(),
            Self::ClusterNetworkPolicy(policy) => policy.spec.name.clone(),
            Self::AddressPool(pool) => pool.name.clone(),
            Self::BgpConfiguration(configuration) => configuration.name.clone(),
            Self::BgpFilter(filter) => filter.name.clone(),
            Self::BgpPeer(peer) => peer.name.clone(),
            Self::Metallb(object) => object.name.clone(),
        }
    }

    /// Reads an object as the API server shows it. What is wrong in a Service or its endpoints is left out, what is wrong in a policy
    /// is closed, and both are named by faults.
    ///
    /// # Errors
    /// A sentence, where it is no object of the kind.
    pub fn decode(kind: ObjectKind, text: &str) -> Result<(Self, Faults), String> {
        match kind {
            ObjectKind::Service => Service::decode(text).map(|(read, faults)| (Self::Service(Box::new(read)), faults)),
            ObjectKind::EndpointSlice => {
                EndpointSlice::decode(text).map(|(read, faults)| (Self::EndpointSlice(Box::new(read)), faults))
            }
            ObjectKind::NetworkPolicy => Policy::decode(text, NetworkPolicy::decode)
                .map(|(read, faults)| (Self::NetworkPolicy(Arc::new(read)), faults)),
            ObjectKind::ClusterNetworkPolicy => Policy::decode(text, ClusterNetworkPolicy::decode)
                .map(|(read, faults)| (Self::ClusterNetworkPolicy(Arc::new(read)), faults)),
            ObjectKind::AddressPool => {
                AddressPool::decode(text).map(|(read, faults)| (Self::AddressPool(Arc::new(read)), faults))
            }
            ObjectKind::BgpConfiguration => {
                BgpConfiguration::decode(text).map(|read| (Self::BgpConfiguration(Arc::new(read)), Faults::none()))
            }
            ObjectKind::BgpFilter => {
                BgpFilter::decode(text).map(|read| (Self::BgpFilter(Arc::new(read)), Faults::none()))
            }
            ObjectKind::BgpPeer => BgpPeer::decode(text).map(|read| (Self::BgpPeer(Arc::new(read)), Faults::none())),
            ObjectKind::Metallb(kind) => {
                MetallbObject::decode(kind, text).map(|read| (Self::Metallb(Arc::new(read)), Faults::none()))
            }
            ObjectKind::Pod | ObjectKind::PeerPod => {
                let raw = serde_json::from_str(text).map_err(|fault| format!("a Pod that cannot be read: {fault}"))?;
                // Its probes are kubelet's, and what is wrong with them, too.
                let (read, _) = KubePod::read(raw)?;
                Ok((Self::of_pod(read, kind == ObjectKind::PeerPod), Faults::none()))
            }
            ObjectKind::Node | ObjectKind::Namespace => {
                Self::decode_core(kind, text).map(|read| (read, Faults::none()))
            }
        }
    }

    /// The same of a value, as a store keeps it.
    ///
    /// # Errors
    /// A sentence, where it is no object of the kind.
    pub fn from_value(kind: ObjectKind, value: &serde_json::Value) -> Result<(Self, Faults), String> {
        if !matches!(kind, ObjectKind::Pod | ObjectKind::PeerPod) {
            return Self::decode(kind, &value.to_string());
        }
        let raw = RawPod::deserialize(value).map_err(|fault| format!("a Pod that cannot be read: {fault}"))?;
        KubePod::read(raw).map(|(read, faults)| (Self::of_pod(read, kind == ObjectKind::PeerPod), faults))
    }

    /// A pod. Of one of another node only what policies are about is kept.
    pub fn of_pod(pod: KubePod, is_peer: bool) -> Self {
        match is_peer {
            true => Self::PeerPod(Box::new(KubePod { probes: Vec::new(), ..pod })),
            false => Self::Pod(Box::new(pod)),
        }
    }

    fn decode_core(kind: ObjectKind, text: &str) -> Result<Self, String> {
        let raw: Raw = serde_json::from_str(text).map_err(|fault| format!("a {kind} that cannot be read: {fault}"))?;
        let Raw { metadata, spec, status } = raw;
        let unnamed = |fault: ripstop_types::Invalid| format!("a {kind} without a name: {fault}");
        Ok(match kind {
            ObjectKind::Node => {
                let cidrs =
                    if spec.pod_cidrs.is_empty() { spec.pod_cidr.into_iter().collect() } else { spec.pod_cidrs };
                let pod_cidrs = cidrs.iter().filter_map(|cidr| cidr.parse().ok()).collect();
                let (name, uid) = (metadata.name.parse().map_err(unnamed)?, metadata.uid.into());
                let flannel = FlannelNode::of(&metadata.annotations);
                let zone = metadata.labels.get(ZONE_LABEL).filter(|zone| !zone.is_empty()).cloned();
                let leaving =
                    metadata.deletion_timestamp.is_some() || spec.taints.iter().any(|taint| taint.key == LEAVING_TAINT);
                let is_reached_by = |at: &&RawAddress| matches!(at.kind.as_str(), "InternalIP" | "ExternalIP");
                let addresses = status.addresses.iter().filter(is_reached_by);
                let addresses = addresses.filter_map(|at| at.address.parse().ok()).collect();
                let labels = metadata.labels;
                Self::Node(KubeNode { name, uid, pod_cidrs, labels, addresses, zone, leaving, flannel })
            }
            _ => {
                let (name, mut labels): (Arc<str>, _) = (metadata.name.into(), metadata.labels);
                labels.insert(NAMESPACE_NAME_LABEL.into(), name.clone());
                Self::Namespace(KubeNamespace { name, labels })
            }
        })
    }
}

/// Taint of a node that the cluster autoscaler takes away.
const LEAVING_TAINT: &str = "ToBeDeletedByClusterAutoscaler";

/// Label of a node that names its zone.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

#[derive(Deserialize)]
struct Raw {
    metadata: RawMetadata,
    #[serde(default)]
    spec: RawSpec,
    #[serde(default)]
    status: RawStatus,
}

/// What every object of Kubernetes begins with.
#[derive(Deserialize)]
pub(crate) struct RawMetadata {
    #[serde(default)]
    pub(crate) namespace: Option<String>,
    #[serde(default)]
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) uid: String,
    #[serde(default)]
    pub(crate) labels: ObjectLabels,
    #[serde(default)]
    pub(crate) annotations: ObjectLabels,
    #[serde(default, rename = "deletionTimestamp")]
    pub(crate) deletion_timestamp: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawSpec {
    #[serde(default, rename = "podCIDR")]
    pod_cidr: Option<String>,
    #[serde(default, rename = "podCIDRs")]
    pod_cidrs: Vec<String>,
    #[serde(default)]
    taints: Vec<RawTaint>,
}

#[derive(Default, Deserialize)]
struct RawStatus {
    #[serde(default)]
    addresses: Vec<RawAddress>,
}

#[derive(Deserialize)]
struct RawAddress {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    address: String,
}

#[derive(Deserialize)]
struct RawTaint {
    #[serde(default)]
    key: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_is_read_and_the_rest_passed_over() {
        let text = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "shop", "name": "web-0", "uid": "u-1",
            "labels": {"app": "web"}, "annotations": {"a": "$(reboot)'\"\n"}, "managedFields": [{"manager": "kubelet"}]},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]},
            "status": {"phase": "Running", "podIP": "10.244.1.2", "podIPs": [{"ip": "10.244.1.2"}, {"ip": "fd00::2"}]}}"#;
        let (ClusterObject::Pod(pod), _) = ClusterObject::decode(ObjectKind::Pod, text).unwrap() else { panic!() };
        assert_eq!((pod.name.to_string().as_str(), &*pod.uid, &*pod.phase), ("shop/web-0", "u-1", "Running"));
        assert_eq!(pod.ips.len(), 2);
        assert_eq!(pod.labels["app"].as_ref(), "web");
        let again = serde_json::to_string(&ClusterObject::Pod(pod.clone())).unwrap();
        assert_eq!(serde_json::from_str::<ClusterObject>(&again).unwrap(), ClusterObject::Pod(pod));

        let node = r#"{"metadata": {"name": "n1"}, "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "bad"]}}"#;
        let (ClusterObject::Node(node), _) = ClusterObject::decode(ObjectKind::Node, node).unwrap() else { panic!() };
        assert_eq!((node.pod_cidrs, node.flannel), (vec!["10.244.1.0/24".parse().unwrap()], None));
        for bad in ["", "{}", r#"{"metadata": {"name": "N 1"}}"#, r#"{"metadata": {"name": 1}}"#] {
            assert!(ClusterObject::decode(ObjectKind::Node, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_node_leaves_that_is_tainted_so_or_being_deleted() {
        let leaving = |more: &str| {
            let text = format!(r#"{{"metadata": {{"name": "n1"}}, {more}}}"#);
            let (ClusterObject::Node(node), _) = ClusterObject::decode(ObjectKind::Node, &text).unwrap() else {
                panic!()
            };
            node.leaving
        };
        assert!(leaving(
            r#""spec": {"taints": [{"key": "a", "effect": "NoSchedule"}, {"key": "ToBeDeletedByClusterAutoscaler"}]}"#
        ));
        assert!(!leaving(r#""spec": {"taints": [{"key": "node.kubernetes.io/unschedulable"}]}"#));
        let deleted = r#"{"metadata": {"name": "n1", "deletionTimestamp": "2030-01-01T00:00:00Z"}}"#;
        let (node, _) = ClusterObject::decode(ObjectKind::Node, deleted).unwrap();
        assert!(matches!(node, ClusterObject::Node(KubeNode { leaving: true, .. })));
    }

    #[test]
    fn flannels_annotations_are_read_where_they_are_of_vxlan() {
        let node = |annotations: &str| {
            let text = format!(r#"{{"metadata": {{"name": "n1", "annotations": {annotations}}}}}"#);
            let (ClusterObject::Node(node), _) = ClusterObject::decode(ObjectKind::Node, &text).unwrap() else {
                panic!()
            };
            node.flannel
        };
        let data = r#""flannel.alpha.coreos.com/backend-data": "{\"VNI\":1,\"VtepMAC\":\"ee:29:9f:fa:7f:3b\"}""#;
        let ip = r#""flannel.alpha.coreos.com/public-ip": "192.0.2.7""#;
        let kind = |kind: &str| format!(r#""flannel.alpha.coreos.com/backend-type": "{kind}""#);
        let flannel = node(&format!("{{{data}, {ip}, {}}}", kind("vxlan"))).unwrap();
        assert_eq!((flannel.vni, flannel.mac.to_string()), (1, "ee:29:9f:fa:7f:3b".into()));
        assert_eq!(flannel.public_ip.to_string(), "192.0.2.7");
        for bad in [
            format!("{{{data}, {ip}, {}}}", kind("host-gw")),
            format!("{{{data}, {}}}", kind("vxlan")),
            format!("{{{ip}, {}}}", kind("vxlan")),
            format!("{{{ip}, {}, \"flannel.alpha.coreos.com/backend-data\": \"null\"}}", kind("vxlan")),
            "{}".into(),
        ] {
            assert_eq!(node(&bad), None, "{bad}");
        }
    }
}
