//! The kind `Network`: which addresses pods get, and how their packets reach other nodes.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use ripstop_types::{Family, Invalid, Labels, Owner, Prefix, validate_dns_name};
use serde::{Deserialize, Serialize};

use crate::Migration;

/// The group and version of the project's own kinds.
pub const API_VERSION: &str = "ripstop.io/v1alpha1";

/// How long released addresses rest unless a network says otherwise, in seconds.
pub const DEFAULT_COOLDOWN: u32 = 30;

fn is_default_cooldown(seconds: &u32) -> bool {
    *seconds == DEFAULT_COOLDOWN
}

/// The name of a network: one DNS-1123 label, so it is safe in keys, file names and kernel comments.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NetworkName(Arc<str>);

/// As text. Of thousands of keys with one name most share it.
impl Ord for NetworkName {
    fn cmp(&self, other: &Self) -> Ordering {
        if Arc::ptr_eq(&self.0, &other.0) { Ordering::Equal } else { self.0.cmp(&other.0) }
    }
}

impl PartialOrd for NetworkName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl NetworkName {
    /// The name of the first network: `default`.
    #[must_use]
    pub fn first() -> Self {
        Self("default".into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The owner to write on what this network causes.
    pub fn owner(&self) -> Owner {
        Owner::network(&self.0)
    }
}

impl FromStr for NetworkName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let accepted = "lower-case letters, digits and '-', at most 63, first and last a letter or digit";
        if text.contains('.') || validate_dns_name("a network name", text).is_err() {
            return Err(Invalid::new("a network name", text, accepted));
        }
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for NetworkName {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<NetworkName> for String {
    fn from(name: NetworkName) -> Self {
        name.0.as_ref().into()
    }
}

impl fmt::Display for NetworkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A network: name, labels and what is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Its name, unique in a cluster.
    pub name: NetworkName,
    /// Labels, free for the user.
    pub labels: Labels,
    /// What is wanted.
    pub spec: NetworkSpec,
    /// The move to the backend that is wanted, while it lasts.
    pub migration: Option<Migration>,
}

impl Network {
    /// The owner to write on what this network causes.
    pub fn owner(&self) -> Owner {
        self.name.owner()
    }
}

/// What a network wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkSpec {
    /// All addresses of the network; at least one family is there.
    pub ranges: Ranges,
    /// Where a node's range comes from.
    pub range_mode: RangeMode,
    /// Length of a node's range (mode `lease`).
    pub node_range_len: NodeRangeLen,
    /// First address of the first range that nodes may claim (Flannel's SubnetMin); none: the first in the network.
    #[serde(skip_serializing_if = "Bounds::is_empty")]
    pub range_min: Bounds,
    /// First address of the last range that nodes may claim (Flannel's SubnetMax); none: the last in the network.
    #[serde(skip_serializing_if = "Bounds::is_empty")]
    pub range_max: Bounds,
    /// Addresses that neither nodes nor pods ever get. Sorted, inside the ranges and pools.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<Prefix>,
    /// How blocks are claimed: there in mode `blocks`, and in no other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blocks: Option<Blocks>,
    /// How long a released address rests before it is given again, in seconds, unless nothing else is free. Default 30.
    #[serde(rename = "cooldownSeconds", skip_serializing_if = "is_default_cooldown")]
    pub cooldown: u32,
    /// How a pod is attached to its node.
    pub wiring: Wiring,
    /// How packets reach other nodes.
    pub backend: Backend,
    /// Which packets leave with the node's address.
    pub masquerade: Masquerade,
}

impl NetworkSpec {
    /// A network of these ranges with every default.
    #[must_use]
    pub fn of(ranges: Ranges) -> Self {
        Self {
            ranges,
            range_mode: RangeMode::default(),
            node_range_len: NodeRangeLen::default(),
            range_min: Bounds::default(),
            range_max: Bounds::default(),
            exclude: Vec::new(),
            blocks: None,
            cooldown: DEFAULT_COOLDOWN,
            wiring: Wiring::default(),
            backend: Backend::default(),
            masquerade: Masquerade::default(),
        }
    }

    /// The families the network has, IPv4 first.
    pub fn families(&self) -> impl Iterator<Item = Family> + '_ {
        Family::BOTH.into_iter().filter(|family| self.ranges.get(*family).is_some())
    }

    /// Whether an address belongs to the network.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.whole(Family::of(ip)).any(|range| range.contains(ip))
    }

    /// Every prefix of the network in a family, those inside others left out: its range, further pools, and where its nodes'
    /// own addresses are. In order.
    pub fn whole(&self, family: Family) -> impl Iterator<Item = Prefix> + use<> {
        let nodes = self.blocks.iter().filter_map(|blocks| blocks.node_ranges.get(family));
        let mut whole: Vec<Prefix> = self.pools(family).map(|pool| pool.range).chain(nodes).collect();
        whole.sort_by_key(|range| (range.len(), range.addr()));
        let inside = |range: &Prefix, others: &[Prefix]| others.iter().any(|other| other.covers(range));
        let outer: Vec<Prefix> =
            (0..whole.len()).filter(|n| !inside(&whole[*n], &whole[..*n])).map(|n| whole[n]).collect();
        outer.into_iter()
    }

    /// Where pods' addresses of a family come from: the range, then the further pools of mode `blocks`.
    pub fn pools(&self, family: Family) -> impl Iterator<Item = Pool> + '_ {
        let first = self.ranges.get(family).map(Pool::open_to_all);
        let further =
            self.blocks.iter().flat_map(|blocks| &blocks.pools).filter(move |pool| pool.range.family() == family);
        first.into_iter().chain(further.cloned())
    }

    /// The pools of a family that a pod gets its address from: those that name its namespace or labels, otherwise those that
    /// name nobody.
    pub fn pools_for(&self, family: Family, namespace: Option<&str>, labels: &BTreeMap<String, String>) -> Vec<Prefix> {
        let pools: Vec<Pool> = self.pools(family).collect();
        let chosen: Vec<Prefix> = pools
            .iter()
            .filter(|pool| pool.selects() && pool.takes(namespace, labels))
            .map(|pool| pool.range)
            .collect();
        if !chosen.is_empty() {
            return chosen;
        }
        pools.iter().filter(|pool| !pool.selects()).map(|pool| pool.range).collect()
    }

    /// The node's own address among ranges that it owns, in mode `blocks`: the claim out of the nodes' range.
    pub fn node_address(&self, family: Family, owned: impl IntoIterator<Item = Prefix>) -> Option<IpAddr> {
        let nodes = self.blocks.as_ref()?.node_ranges.get(family)?;
        let single = |range: &Prefix| nodes.covers(range) && range.len() == family.bits();
        owned.into_iter().find(single).map(|range| range.addr())
    }

    /// Whether a range that a node owns is for its own address, and not for pods'.
    pub fn is_for_nodes(&self, range: &Prefix) -> bool {
        let nodes = self.blocks.as_ref().and_then(|blocks| blocks.node_ranges.get(range.family()));
        nodes.is_some_and(|nodes| nodes.covers(range))
    }

    /// Whether an address is excluded: never handed out.
    pub fn excludes(&self, ip: IpAddr) -> bool {
        self.exclude.iter().any(|prefix| prefix.contains(ip))
    }

    /// First range nodes may claim in a family; `None` where the network lacks the family.
    pub fn first_node_range(&self, family: Family) -> Option<Prefix> {
        let range = self.ranges.get(family)?;
        let start = self.range_min.get(family).unwrap_or(range.addr());
        Prefix::containing(start, self.node_range_len.get(family))
    }

    /// Last range nodes may claim in a family; `None` where the network lacks the family.
    pub fn last_node_range(&self, family: Family) -> Option<Prefix> {
        let range = self.ranges.get(family)?;
        let start = self.range_max.get(family).unwrap_or(range.last());
        Prefix::containing(start, self.node_range_len.get(family))
    }
}

/// How the nodes of a network claim its addresses on demand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Blocks {
    /// Length of a block: 20 to 32, and 116 to 128. Default 26 and 122.
    pub len: NodeRangeLen,
    /// The most blocks of one pool that one node claims. Default 20.
    pub max_per_node: u32,
    /// Whether nodes give addresses of their own blocks only, and lend none. Default no.
    pub strict_affinity: bool,
    /// Where the nodes' own addresses come from, one a node: no pod gets them.
    pub node_ranges: Ranges,
    /// Pools beside the network's ranges.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pools: Vec<Pool>,
}

/// Addresses for some of a network's pods, or for all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Pool {
    /// The addresses.
    pub range: Prefix,
    /// Namespaces whose pods get their address here; empty: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    /// Labels that a pod must have to get its address here.
    #[serde(skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
}

impl Pool {
    /// A pool that names nobody.
    #[must_use]
    pub fn open_to_all(range: Prefix) -> Self {
        Self { range, namespaces: Vec::new(), labels: Labels::default() }
    }

    /// Whether it names any pods.
    pub fn selects(&self) -> bool {
        !self.namespaces.is_empty() || !self.labels.is_empty()
    }

    /// Whether it takes a pod: in one of its namespaces, with all of its labels.
    pub fn takes(&self, namespace: Option<&str>, labels: &BTreeMap<String, String>) -> bool {
        let named = |name: &str| self.namespaces.iter().any(|taken| taken == name);
        (self.namespaces.is_empty() || namespace.is_some_and(named))
            && self.labels.iter().all(|(key, value)| labels.get(&**key).is_some_and(|has| **has == **value))
    }
}

/// At most one range a family. In documents a list: `[10.244.0.0/16, fd00:10:244::/48]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(into = "Vec<Prefix>")]
pub struct Ranges {
    /// The IPv4 range.
    pub v4: Option<Prefix>,
    /// The IPv6 range.
    pub v6: Option<Prefix>,
}

impl Ranges {
    /// The range of a family.
    pub fn get(&self, family: Family) -> Option<Prefix> {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }

    /// Both ranges, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = Prefix> + use<> {
        self.v4.into_iter().chain(self.v6)
    }
}

impl From<Ranges> for Vec<Prefix> {
    fn from(ranges: Ranges) -> Self {
        ranges.iter().collect()
    }
}

/// Where a node's range of a network comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RangeMode {
    /// The node claims a free range in the store, as Flannel's subnets.
    #[default]
    Lease,
    /// The node's configuration or Kubernetes names the range.
    PodCidr,
    /// The node claims blocks as its pods need them, and borrows single addresses where no block is left.
    Blocks,
}

impl RangeMode {
    /// The word used in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lease => "lease",
            Self::PodCidr => "pod-cidr",
            Self::Blocks => "blocks",
        }
    }
}

/// Length of the range each node gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct NodeRangeLen {
    /// IPv4: at most 30. Default 24.
    pub v4: u8,
    /// IPv6: at most 126. Default 64.
    pub v6: u8,
}

impl NodeRangeLen {
    /// The length in a family.
    pub fn get(&self, family: Family) -> u8 {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }
}

impl Default for NodeRangeLen {
    fn default() -> Self {
        Self { v4: 24, v6: 64 }
    }
}

/// An optional address in each family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Bounds {
    /// In IPv4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub v4: Option<Ipv4Addr>,
    /// In IPv6.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub v6: Option<Ipv6Addr>,
}

impl Bounds {
    /// The address in a family.
    pub fn get(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.v4.map(IpAddr::V4),
            Family::V6 => self.v6.map(IpAddr::V6),
        }
    }

    /// Whether neither family has one.
    pub fn is_empty(&self) -> bool {
        self.v4.is_none() && self.v6.is_none()
    }
}

/// How a pod is attached to its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wiring {
    /// A veth with a host route to each pod address; the pod's gateway is 169.254.1.1 and fe80::.
    #[default]
    Routed,
    /// A veth in a Linux bridge that has the gateway's address.
    Bridge,
}

impl Wiring {
    /// The word used in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Routed => "routed",
            Self::Bridge => "bridge",
        }
    }
}

/// How packets reach other nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backend {
    /// Which encapsulation is wanted.
    pub kind: BackendKind,
    /// VXLAN network identifier, 1 to 16777215. Default 1.
    pub vni: u32,
    /// VXLAN's UDP port. Default 8472, Linux' own; IANA's is 4789.
    pub port: u16,
    /// The UDP port of the backend `udp`. Default 8285, Flannel's.
    pub udp_port: u16,
    /// MTU of pods in bytes; none: the uplink's less what the encapsulation adds.
    pub mtu: Option<u32>,
}

/// Flannel's port of the backend `udp`.
pub const UDP_PORT: u16 = 8285;

impl Default for Backend {
    fn default() -> Self {
        Self { kind: BackendKind::default(), vni: 1, port: 8472, udp_port: UDP_PORT, mtu: None }
    }
}

impl Serialize for Backend {
    /// `udpPort` stands where it says something: without it, `port` of the type `udp` is read as its own.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Document {
            #[serde(rename = "type")]
            kind: BackendKind,
            vni: u32,
            port: u16,
            #[serde(skip_serializing_if = "Option::is_none")]
            udp_port: Option<u16>,
            #[serde(skip_serializing_if = "Option::is_none")]
            mtu: Option<u32>,
        }
        let Self { kind, vni, port, udp_port, mtu } = *self;
        let says = kind == BackendKind::Udp || udp_port != UDP_PORT;
        Document { kind, vni, port, udp_port: says.then_some(udp_port), mtu }.serialize(serializer)
    }
}

/// Which encapsulation a network wants between nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackendKind {
    /// None to peers in one of the node's subnets, nor to those whose ranges BGP leads to; otherwise VXLAN.
    #[default]
    Auto,
    /// None: a route by way of the peer, which must be in a subnet of the node.
    HostGw,
    /// VXLAN to every peer.
    Vxlan,
    /// The forwarder's UDP datagrams to every peer, one packet a datagram.
    Udp,
    /// IPIP to every peer for IPv4 (RFC 2003). IPv6 has no encapsulation.
    Ipip,
    /// None to peers in one of the node's subnets, otherwise as `Ipip`.
    IpipCrossSubnet,
    /// None: routes that sessions of BGP bring, by whichever routers they lead.
    Bgp,
}

impl BackendKind {
    /// The word used in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::HostGw => "host-gw",
            Self::Vxlan => "vxlan",
            Self::Udp => "udp",
            Self::Ipip => "ipip",
            Self::IpipCrossSubnet => "ipip-cross-subnet",
            Self::Bgp => "bgp",
        }
    }

    /// Whether it may put packets into VXLAN.
    pub fn may_vxlan(self) -> bool {
        matches!(self, Self::Auto | Self::Vxlan)
    }

    /// Whether packets may go where BGP leads.
    pub fn may_bgp(self) -> bool {
        matches!(self, Self::Auto | Self::Bgp)
    }

    /// Whether it may put packets into IPIP.
    pub fn may_ipip(self) -> bool {
        matches!(self, Self::Ipip | Self::IpipCrossSubnet)
    }
}

/// Which packets of pods leave with the node's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Masquerade {
    /// Whether packets to outside the cluster do. Default yes. Without it `to_nodes` has no effect.
    pub enabled: bool,
    /// Whether packets to another node's own address do.
    pub to_nodes: ToNodes,
}

impl Default for Masquerade {
    fn default() -> Self {
        Self { enabled: true, to_nodes: ToNodes::default() }
    }
}

/// Whether a pod's packets to another node's own address get this node's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToNodes {
    /// On encapsulated paths, where the reply would otherwise come by another way; not on plain ones.
    #[default]
    Auto,
    /// On every path.
    Always,
    /// On none.
    Never,
}

impl ToNodes {
    /// The word used in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Always => "always",
            Self::Never => "never",
        }
    }
}

impl Serialize for Network {
    /// The document form: what `apply -f` reads and what is kept in the store.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Document<'a> {
            api_version: &'static str,
            kind: &'static str,
            metadata: Metadata<'a>,
            spec: &'a NetworkSpec,
            #[serde(skip_serializing_if = "Option::is_none")]
            status: Option<Status<'a>>,
        }
        #[derive(Serialize)]
        struct Status<'a> {
            migration: &'a Migration,
        }
        #[derive(Serialize)]
        struct Metadata<'a> {
            name: &'a NetworkName,
            #[serde(skip_serializing_if = "Labels::is_empty")]
            labels: &'a Labels,
        }
        let metadata = Metadata { name: &self.name, labels: &self.labels };
        let status = self.migration.as_ref().map(|migration| Status { migration });
        Document { api_version: API_VERSION, kind: "Network", metadata, spec: &self.spec, status }.serialize(serializer)
    }
}
