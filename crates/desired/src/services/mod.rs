//! Services: who decides about them on this node, and the compilers of what is decided, of which a node uses one.
//!
//! - [`nftables`]: a table of each family.
//! - [`iptables`]: chains in the tables of iptables.
//! - [`ipvs`]: virtual servers of the kernel's load balancer, with tables for what it cannot do.
//! - `frame`, `elements`: what tables of nftables have in common, and what a Service adds to them.

mod elements;
mod frame;
pub mod iptables;
pub mod ipvs;
pub mod nftables;

use std::net::IpAddr;

use ripstop_fabric::host;
use ripstop_netmodel::{Entry, IptablesBackend, Model};
use ripstop_objects::{IptablesChoice, NodePortAddresses, ObjectKind, Proxy};
pub use ripstop_services::decide;
use ripstop_services::{Decision, Node};
use ripstop_tables::{Knowledge, Tables};
use ripstop_types::{Family, Prefix, ServiceName};

/// What decides about Services on this node; `None` where it serves none. What is served needs both kinds of object: half of
/// them would take away endpoints that are there.
#[must_use]
pub fn node(tables: &Tables) -> Option<Node> {
    let config = &tables.config.services;
    let known = |kind| tables.cluster.knowledge(kind) != Knowledge::Unknown;
    if config.proxy == Proxy::None || !known(ObjectKind::Service) || !known(ObjectKind::EndpointSlice) {
        return None;
    }
    if missing(tables).is_some() {
        return None;
    }
    Some(Node {
        name: tables.node.clone(),
        zone: tables.cluster.node.as_ref().and_then(|node| node.zone.clone()),
        addresses: addresses(tables),
        node_port_addresses: node_port_addresses(tables),
        pods: pods(tables),
        external_ips: config.external_ips,
        proxy_name: config.proxy_name.as_deref().map(Into::into),
    })
}

/// The node's addresses, the primary one of each family first.
fn addresses(tables: &Tables) -> Vec<IpAddr> {
    host::addresses(tables).into_iter().map(|address| address.ip).collect()
}

/// Those at which node ports are served.
fn node_port_addresses(tables: &Tables) -> Vec<IpAddr> {
    let addresses = addresses(tables);
    let first = |family| addresses.iter().copied().find(|ip| Family::of(*ip) == family);
    let every = || tables.facts.links.values().flat_map(|link| &link.addresses).map(|(ip, _)| *ip);
    match &tables.config.services.node_port_addresses {
        NodePortAddresses::Primary => Family::BOTH.into_iter().filter_map(first).collect(),
        NodePortAddresses::All => every().filter(|ip| !ip.is_loopback()).collect(),
        NodePortAddresses::Within(ranges) => {
            every().filter(|ip| ranges.iter().any(|range| range.contains(*ip))).collect()
        }
    }
}

/// Where iptables writes on this node.
pub(crate) fn place(tables: &Tables) -> iptables::Place {
    let backend = match tables.config.services.iptables_backend {
        IptablesChoice::Auto => tables.facts.iptables.unwrap_or(IptablesBackend::Nft),
        IptablesChoice::Legacy => IptablesBackend::Legacy,
        IptablesChoice::Nft => IptablesBackend::Nft,
    };
    iptables::Place { backend, ipv6: tables.facts.ipv6 }
}

/// What this node's kernel lacks to serve Services as it is asked to, with what to do about it.
#[must_use]
pub fn missing(tables: &Tables) -> Option<&'static str> {
    (tables.config.services.proxy == Proxy::Ipvs && !tables.facts.ipvs).then_some(ipvs::MISSING)
}

/// This node's own ranges.
fn pods(tables: &Tables) -> Vec<Prefix> {
    tables.networks.keys().flat_map(|name| crate::network::own_ranges(tables, name)).collect()
}

/// What is there whatever the Services, where they are served.
pub(crate) fn of_node(tables: &Tables) -> Vec<Entry> {
    let config = &tables.config.services;
    if missing(tables).is_some() {
        return Vec::new();
    }
    let (pods, ranges, all) = (pods(tables), &config.service_cidrs, config.masquerade_all);
    match config.proxy {
        Proxy::None => Vec::new(),
        Proxy::Nftables => nftables::base(&pods, ranges, all),
        Proxy::Iptables => iptables::base(place(tables), &node_port_addresses(tables), &pods, ranges, all),
        Proxy::Ipvs => ipvs::base(config.ipvs, &pods, ranges, all),
    }
}

/// The objects of a Service. `before` is what was wanted or found before.
pub(crate) fn of_service(tables: &Tables, node: &Node, name: &ServiceName, before: &Model) -> Vec<Entry> {
    let services = &tables.cluster.services;
    let config = &tables.config.services;
    match config.proxy {
        Proxy::None => Vec::new(),
        Proxy::Nftables => nftables::objects(node, services, name, before),
        Proxy::Iptables => iptables::objects(place(tables), node, services, name),
        Proxy::Ipvs => ipvs::objects(config.ipvs, node, services, name),
    }
}

/// Which endpoints of a frontend a packet may go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// Those for packets from this node and its pods, and as a rule for all.
    Inside,
    /// Those for packets from elsewhere to a Service whose external policy is Local.
    Outside,
}

impl Scope {
    /// The number of its first slot.
    fn first(self) -> u32 {
        match self {
            Self::Inside => 0,
            Self::Outside => 1 << 16,
        }
    }
}

/// Which of a Service's endpoints some of its packets go to. Whatever the address they arrive at, those of one reach are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reach {
    /// Any.
    Cluster,
    /// Those of this node.
    Local,
}

impl Reach {
    /// Of what a decision says of packets.
    fn of(decision: &Decision, scope: Scope) -> Self {
        if scope == Scope::Outside || decision.inside_is_local { Self::Local } else { Self::Cluster }
    }
}
