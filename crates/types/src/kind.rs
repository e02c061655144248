//! Kinds of record in the cluster's store.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Invalid;

/// What a record is about. Kinds have separate key spaces and share the revision counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StoreKind {
    /// The cluster's networks, by name.
    Networks,
    /// What each node publishes about itself, by node name.
    Nodes,
    /// Which node owns which range. Never expires.
    Claims,
    /// Each node's sign of life, by node name.
    Alive,
    /// Services, by namespace and name: manifests as they were applied, with the addresses and ports that were given.
    Services,
    /// Endpoints of Services, by namespace and name.
    #[serde(rename = "endpointslices")]
    EndpointSlices,
    /// Pods, by namespace and name.
    Pods,
    /// Namespaces, by name.
    Namespaces,
    /// NetworkPolicies, by namespace and name.
    #[serde(rename = "networkpolicies")]
    NetworkPolicies,
    /// ClusterNetworkPolicies, by name.
    #[serde(rename = "clusternetworkpolicies")]
    ClusterNetworkPolicies,
    /// Pools of addresses for Services of type LoadBalancer, by name.
    #[serde(rename = "addresspools")]
    AddressPools,
    /// What holds for BGP of all nodes: one record, `default`.
    #[serde(rename = "bgpconfigurations")]
    BgpConfigurations,
    /// Peers of BGP outside of the cluster, by name.
    #[serde(rename = "bgppeers")]
    BgpPeers,
    /// What is taken from such peers and told to them, by name.
    #[serde(rename = "bgpfilters")]
    BgpFilters,
    /// What is said of nodes beside what they publish themselves, by node name: labels.
    NodeLabels,
    /// Which addresses pods have, by namespace and name. Each node says so of its own, where policies are about them.
    PodAddresses,
    /// Which Service has which address or node port.
    ServiceClaims,
    /// Which Services have which address of a pool.
    AddressClaims,
}

impl StoreKind {
    /// Every kind that all stores keep, in the order in which a watch lists them. Networks and nodes come before what
    /// refers to them.
    pub const ALL: [Self; 4] = [Self::Networks, Self::Nodes, Self::Claims, Self::Alive];

    /// The kinds of objects that stand in Kubernetes' API, and that every other store keeps as they were applied.
    pub const OBJECTS: [Self; 11] = [
        Self::NodeLabels,
        Self::Namespaces,
        Self::Pods,
        Self::Services,
        Self::EndpointSlices,
        Self::NetworkPolicies,
        Self::ClusterNetworkPolicies,
        Self::AddressPools,
        Self::BgpConfigurations,
        Self::BgpFilters,
        Self::BgpPeers,
    ];

    /// Every kind that a store other than Kubernetes keeps, in the order in which a watch lists them.
    pub fn every() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().chain(Self::OBJECTS).chain([Self::PodAddresses, Self::ServiceClaims, Self::AddressClaims])
    }

    /// The kind's name in files, on the wire and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Networks => "networks",
            Self::Nodes => "nodes",
            Self::Claims => "claims",
            Self::Alive => "alive",
            Self::Services => "services",
            Self::EndpointSlices => "endpointslices",
            Self::Pods => "pods",
            Self::Namespaces => "namespaces",
            Self::NetworkPolicies => "networkpolicies",
            Self::ClusterNetworkPolicies => "clusternetworkpolicies",
            Self::AddressPools => "addresspools",
            Self::BgpConfigurations => "bgpconfigurations",
            Self::BgpPeers => "bgppeers",
            Self::BgpFilters => "bgpfilters",
            Self::NodeLabels => "node-labels",
            Self::PodAddresses => "pod-addresses",
            Self::ServiceClaims => "service-claims",
            Self::AddressClaims => "address-claims",
        }
    }

    /// The kind of this name.
    ///
    /// # Errors
    /// [`Invalid`] with the names there are.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        Self::every().find(|kind| kind.as_str() == text).ok_or_else(|| {
            Invalid::new("a kind of record", text, Self::every().map(Self::as_str).collect::<Vec<_>>().join(", "))
        })
    }
}

impl FromStr for StoreKind {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::parse(text)
    }
}

impl fmt::Display for StoreKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
