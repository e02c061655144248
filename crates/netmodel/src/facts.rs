//! What a node is given: links, addresses and settings that are not ours and that decisions read.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ripstop_types::{Family, IfName, Mac};
use serde::{Deserialize, Serialize};

use crate::iptables::IptablesBackend;

/// Everything observed about the host that is not ours.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// Links that are not ours, by name; loopback left out.
    pub links: BTreeMap<IfName, HostLink>,
    /// The link of the default route with the lowest metric, by family.
    pub default_links: BTreeMap<Family, IfName>,
    /// Whether bridged packets pass netfilter; `None` where the kernel has no br_netfilter.
    pub bridge_netfilter: Option<bool>,
    /// Chains of others that drop forwarded packets, in order.
    pub foreign_drops: Vec<ForeignDrop>,
    /// Whether the kernel has IPv6 at all.
    pub ipv6: bool,
    /// Families with a table `filter` of legacy iptables (x_tables), of which only the name can be seen.
    #[serde(default)]
    pub legacy_filters: BTreeSet<Family>,
    /// The kernel's limits of neighbour tables, by family; none where they cannot be changed here.
    #[serde(default)]
    pub neighbour_limits: BTreeMap<Family, NeighbourLimits>,
    /// Settings of connection tracking (`net.netfilter.nf_conntrack_*`) that some raise, by what follows in their names; none where the
    /// kernel has no connection tracking.
    #[serde(default)]
    pub conntrack: BTreeMap<Arc<str>, Limit>,
    /// Whether connection tracking holds about as many connections as it may: new ones are dropped then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub conntrack_full: bool,
    /// Count of CPUs.
    #[serde(default)]
    pub cpus: u64,
    /// Whether a forwarder of the backend `udp` answers, or did so a moment ago.
    #[serde(default)]
    pub forwarder: bool,
    /// Where iptables' rules are on this node, as far as it can be told: kubelet's, or else anybody's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iptables: Option<IptablesBackend>,
    /// A program that iptables' rules cannot be written without and that is not on this node, by backend.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub iptables_lacks: BTreeMap<IptablesBackend, Arc<str>>,
    /// Whether the kernel can make devices that shape what a link receives (ifb).
    #[serde(default)]
    pub ifb: bool,
    /// Whether the kernel has devices for IPIP, or a module that makes them.
    #[serde(default)]
    pub ipip: bool,
    /// Whether the kernel takes programs of ours at links (tcx).
    #[serde(default)]
    pub tcx: bool,
    /// Whether the kernel has IPVS (the module ip_vs is loaded, or built in).
    #[serde(default)]
    pub ipvs: bool,
}

/// A link that is not ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostLink {
    /// Up and with carrier.
    pub running: bool,
    /// Maximum transmission unit in bytes.
    pub mtu: u32,
    /// Hardware address, for links that have one.
    pub mac: Option<Mac>,
    /// Global addresses with their prefix lengths, in order; link-local ones left out.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Whether router advertisements are taken (`net.ipv6.conf.*.accept_ra`): 0 never, 1 unless it forwards, 2 always.
    #[serde(default)]
    pub accept_ra: Option<u8>,
    /// Driver's name of a virtual link, as `ip -d link` shows it: `bridge`, `veth`, `bond`. None of a physical device.
    #[serde(default)]
    pub kind: Option<Arc<str>>,
    /// Links that are its ports, of a bridge.
    #[serde(default)]
    pub ports: u32,
    /// Whether it bears [`crate::TAKEN_MARK`].
    #[serde(default)]
    pub taken: bool,
}

/// A base chain of another owner, on the forward hook, that drops what it does not know.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ForeignDrop {
    /// Table family, as nft writes it.
    pub family: Arc<str>,
    /// Table name.
    pub table: Arc<str>,
    /// Chain name.
    pub chain: Arc<str>,
    /// Whether it is the chain FORWARD of iptables' own table `filter`, which takes one jump of ours.
    pub iptables: bool,
    /// Whether it jumps to DOCKER-USER, the chain of that table in which Docker leaves room for others.
    #[serde(default)]
    pub docker_user: bool,
}

/// A setting that is a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// How great it is.
    pub value: u64,
    /// Whether it can be set here: some are the whole machine's, and not every namespace has them.
    pub writable: bool,
}

/// Counts of learned neighbours (`net.ipv4.neigh.default.gc_thresh1` to `3`): below the first none is forgotten, above the
/// third none is learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeighbourLimits(pub [u32; 3]);
