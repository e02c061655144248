//! BGP as people configure it: BgpConfiguration, BgpPeer and BgpFilter. Names and fields are those that Calico's users know, as far as
//! they mean the same.
//!
//! Not here: which nodes an object concerns, and what follows for a session; passwords themselves, of which an object says only
//! where they are.
//!
//! Invariants: a decoded object has no field that means nothing here; every number is within what the protocol has.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use ripstop_types::{IfName, NodeName, Prefix};
use serde::{Deserialize, Serialize};

use crate::policy::Selector;

/// The AS of a cluster that says nothing else, as Calico has it.
pub const DEFAULT_AS: u32 = 64_512;

/// The port of BGP.
pub const DEFAULT_PORT: u16 = 179;

/// The name of the only BgpConfiguration that is looked at.
pub const CONFIGURATION: &str = "default";

/// What holds for all nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpConfiguration {
    /// Its name.
    pub name: Arc<str>,
    /// The AS of all nodes (`asNumber`).
    pub as_number: u32,
    /// The port at which nodes wait for peers (`listenPort`).
    pub listen_port: u16,
    /// Each node has a session with each other one (`nodeToNodeMeshEnabled`).
    pub mesh: bool,
    /// Nodes that pass on to the others what these tell; with them there is no mesh (`routeReflectors`).
    pub reflectors: Option<Reflectors>,
    /// Seconds without a message after which a session between nodes is dead (`holdTimeSeconds`).
    pub hold_time: u16,
    /// Seconds within which a node's agent is back after it was away (`gracefulRestartSeconds`).
    pub graceful_restart: u16,
    /// BFD between nodes.
    pub bfd: Option<Bfd>,
    /// The password of sessions between nodes (`nodeMeshPassword`).
    pub password: Option<PasswordSource>,
    /// Communities that routes of nodes are told with, by what they are inside of (`prefixAdvertisements`).
    pub advertisements: Vec<Advertisement>,
}

impl Default for BgpConfiguration {
    /// That of a cluster where nobody wrote one.
    fn default() -> Self {
        Self {
            name: CONFIGURATION.into(),
            as_number: DEFAULT_AS,
            listen_port: DEFAULT_PORT,
            mesh: true,
            reflectors: None,
            hold_time: 90,
            graceful_restart: 120,
            bfd: None,
            password: None,
            advertisements: Vec::new(),
        }
    }
}

/// Which nodes are reflectors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reflectors {
    /// Nodes with these labels.
    pub nodes: Selector,
    /// The cluster that they are of; each one is of its own if there is none.
    pub cluster_id: Option<Ipv4Addr>,
}

/// How fast BFD is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bfd {
    /// Milliseconds between packets that are sent (`transmitIntervalMs`).
    pub transmit: u32,
    /// Milliseconds between packets that can be received (`receiveIntervalMs`).
    pub receive: u32,
    /// So many may be lost.
    pub multiplier: u8,
}

/// Where a password is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PasswordSource {
    /// In a file of each node.
    File(Arc<str>),
    /// In a Secret of the namespace that the product is in.
    Secret {
        /// Its name.
        name: Arc<str>,
        /// Which of its values.
        key: Arc<str>,
    },
}

/// A community of either kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Community {
    /// Of RFC 1997.
    Standard(u32),
    /// Of RFC 8092.
    Large(u32, u32, u32),
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Standard(value) => write!(f, "{}:{}", value >> 16, value & 0xffff),
            Self::Large(one, two, three) => write!(f, "{one}:{two}:{three}"),
        }
    }
}

/// What routes inside of a range are told with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Advertisement {
    /// The range.
    pub cidr: Prefix,
    /// The communities.
    pub communities: Vec<Community>,
}

/// A peer, or several that connect from a range.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpPeer {
    /// Its name.
    pub name: Arc<str>,
    /// Whose peer it is.
    pub nodes: PeerNodes,
    /// Where it is.
    pub place: PeerPlace,
    /// Of which AS.
    pub as_number: PeerAs,
    /// As which AS nodes come to it, if not as that of the cluster (`localASNumber`).
    pub local_as: Option<u32>,
    /// The password of both ends.
    pub password: Option<PasswordSource>,
    /// The address that is spoken from; none: as the kernel chooses (`sourceAddress`).
    pub source: Option<IpAddr>,
    /// How often the own AS may be in paths that it sends (`numAllowedLocalASNumbers`).
    pub allowed_local_as: u8,
    /// It is at most so many hops away, and packets that came further are refused (`ttlSecurity`).
    pub security_hops: Option<u8>,
    /// Hops that packets to it may take; none: it is a neighbour (`multihop`).
    pub multihop: Option<u8>,
    /// Seconds without a message after which a session is dead (`holdTimeSeconds`).
    pub hold_time: u16,
    /// As many paths are taken from it (`maxPrefixes`).
    pub max_prefixes: u32,
    /// What is taken and told, in order; what none is about is refused. Without, it is told the ranges of the cluster, and nothing is
    /// taken.
    pub filters: Vec<Arc<str>>,
    /// BFD to it.
    pub bfd: Option<Bfd>,
    /// It connects, and is not connected to.
    pub passive: bool,
    /// It is passed on what other internal peers tell, and the other way round (`reflectorClient`).
    pub reflector_client: bool,
    /// It is told this node as next hop even if it is internal (`nextHopMode: Self`).
    pub next_hop_self: bool,
    /// There is no session with it, and why (`shutdown`).
    pub shutdown: Option<Arc<str>>,
}

/// Whose peer it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PeerNodes {
    /// One node's.
    One(NodeName),
    /// Of nodes with these labels; of all, where none are named.
    Matching(Selector),
}

/// Where a peer is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PeerPlace {
    /// At an address, on a link if that is link-local.
    At(SocketAddr, Option<IfName>),
    /// On a link, at the address that is found there.
    OnLink(IfName),
    /// Somewhere in a range, as many as that.
    Range(Prefix, u16),
}

/// Of which AS a peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PeerAs {
    /// This one.
    Is(u32),
    /// Any but the own one.
    External,
    /// The own one.
    Internal,
}

/// What is taken from peers and told to them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpFilter {
    /// Its name.
    pub name: Arc<str>,
    /// What is taken, of both families: a rule is about prefixes of its own.
    pub import: Vec<FilterRule>,
    /// What is told.
    pub export: Vec<FilterRule>,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FilterRule {
    /// Whether what it is about is taken.
    pub accept: bool,
    /// The prefixes that it is about; a rule that names none is about all of its family.
    pub within: Prefix,
    /// Shortest length.
    pub least: u8,
    /// Longest length.
    pub most: u8,
    /// It is about all others of the family (`matchOperator: NotEqual, NotIn`).
    pub others: bool,
    /// It is about routes with one of these.
    pub communities: Vec<Community>,
    /// It is about routes through one of these (`asPath`).
    pub through: Vec<u32>,
    /// What becomes of what is taken.
    pub operations: Vec<Operation>,
}

/// A change of a route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Operation {
    /// LOCAL_PREF.
    LocalPreference(u32),
    /// MULTI_EXIT_DISC.
    Med(u32),
    /// ASes before the path.
    PrependAsPath(Vec<u32>),
    /// One community more.
    AddCommunity(Community),
    /// One less.
    RemoveCommunity(Community),
}
