//! Services: who decides about them on this node, and the compilers of what is decided, of which a node uses one, and two while it is
//! switched from one to another (`By`).
//!
//! - [`nftables`]: a table of each family.
//! - [`iptables`]: chains in the tables of iptables.
//! - [`ipvs`]: virtual servers of the kernel's load balancer, with tables for what it cannot do.
//! - `frame`, `elements`: what tables of nftables have in common, and what a Service adds to them.

mod elements;
pub(crate) mod frame;
pub mod iptables;
pub mod ipvs;
pub mod nftables;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ripstop_fabric::host;
use ripstop_netmodel::{
    CONNTRACK_SETTINGS, Entry, IptablesBackend, IptablesTable, Key, Model, NFT_IPVS_TABLE, NFT_LOOPBACK_TABLE,
    NFT_SERVICES_TABLE, NftTable, Object, ROUTE_LOCALNET,
};
use ripstop_nft::model::{Chain, Hook, IfPattern, Rule, Table, TableFamily, build::*, priority};
use ripstop_objects::{DetectLocal, IptablesChoice, ObjectKind, Proxy};
pub use ripstop_services::decide;
use ripstop_services::{Decision, Node, conntrack};
use ripstop_tables::{HostPort, Knowledge, PodRow, PodState, Stage, Tables};
use ripstop_types::{Family, Owner, Prefix, ServiceName};

use crate::Part;
use crate::node::setting;

/// How much of a proxy is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// All of it.
    Whole,
    /// What Services need. What no Service has may be one's that is not written yet, or not yet again, and that the other proxy serves.
    Beside,
    /// All but what leads there: what packets need that are on their way through it. One that looks for an element of a table that goes
    /// finds none, and would be refused.
    Parting,
}

/// By what Services are served.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct By(Vec<(Proxy, Extent)>);

impl By {
    fn of(tables: &Tables) -> Self {
        let extent = if tables.is_proxy_coming() { Extent::Beside } else { Extent::Whole };
        let leaving = tables.proxies.leaving.filter(|leaving| leaving.proxy != Proxy::Ipvs || tables.facts.ipvs);
        let leaving = leaving.map(|leaving| match leaving.stage {
            Stage::Serving => (leaving.proxy, Extent::Beside),
            Stage::Closing | Stage::Closed(_) => (leaving.proxy, Extent::Parting),
        });
        Self([(tables.proxy(), extent)].into_iter().chain(leaving).collect())
    }

    /// As far as objects of Services differ by it: they need of both all, unless one is parting.
    fn for_services(mut self) -> Self {
        for (_, extent) in self.0.iter_mut().filter(|(_, extent)| *extent == Extent::Beside) {
            *extent = Extent::Whole;
        }
        self
    }
}

/// Whether an object is one by which packets come to a proxy, or which speaks of those that come to none.
fn leads_there(entry: &Entry) -> bool {
    match &entry.object {
        Object::NftElement(element) => {
            ["frontends", "cluster-ips", "others-ips", "service-ranges"].contains(&element.key.set.as_str())
        }
        Object::IptablesRules(rules) => {
            rules.key.table == IptablesTable::Nat && ["PREROUTING", "OUTPUT"].contains(&&*rules.key.chain)
        }
        _ => false,
    }
}

/// What the objects of all Services hang on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Serving {
    /// What decides; `None` where none are served.
    pub node: Option<Node>,
    /// Where iptables writes.
    place: iptables::Place,
    by: By,
}

impl Serving {
    pub(crate) fn of(tables: &Tables) -> Self {
        Self { node: node(tables), place: place(tables), by: By::of(tables).for_services() }
    }
}

/// Whether an object is one by which this proxy serves.
#[must_use]
pub fn is_of(proxy: Proxy, key: &Key) -> bool {
    match key {
        Key::Iptables(_) | Key::FrontendFlows { .. } => proxy == Proxy::Iptables,
        Key::IpvsService { .. } | Key::IpvsDestination { .. } => proxy == Proxy::Ipvs,
        Key::Route { .. } => proxy == Proxy::Ipvs && key.is_of_services(),
        _ => match proxy {
            Proxy::Nftables => key.table() == Some(NFT_SERVICES_TABLE),
            Proxy::Ipvs => key.table() == Some(NFT_IPVS_TABLE),
            Proxy::None | Proxy::Iptables => false,
        },
    }
}

/// Why this node cannot serve Services by a proxy.
#[must_use]
pub fn obstacle(tables: &Tables, proxy: Proxy) -> Option<String> {
    match proxy {
        Proxy::Ipvs if !tables.facts.ipvs => {
            Some("this kernel has no IPVS; load its module with `modprobe ip_vs` on the node".into())
        }
        Proxy::Ipvs if tables.config.services.node_port_addresses.localhost => {
            Some("services.nodePortAddresses has localhost, and IPVS sends nothing on from loopback addresses".into())
        }
        Proxy::Iptables => {
            let lacks = tables.facts.iptables_lacks.get(&place(tables).backend)?;
            Some(format!("there is no program {lacks} on this node, by which rules are written"))
        }
        Proxy::None | Proxy::Nftables | Proxy::Ipvs => None,
    }
}

/// What decides about Services on this node; `None` where it serves none. What is served needs both kinds of object: half of
/// them would take away endpoints that are there.
#[must_use]
pub fn node(tables: &Tables) -> Option<Node> {
    let config = &tables.config.services;
    let known = |kind| tables.cluster.knowledge(kind) != Knowledge::Unknown;
    if !tables.serves() || !known(ObjectKind::Service) || !known(ObjectKind::EndpointSlice) {
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
        localhost: config.node_port_addresses.localhost,
        pods: pods(tables),
        pods_by_link: pod_links(tables).is_some(),
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
    let wanted = &tables.config.services.node_port_addresses;
    let is_wanted =
        |ip: &IpAddr| wanted.all && !ip.is_loopback() || wanted.ranges.iter().any(|range| range.contains(*ip));
    let primary = Family::BOTH.into_iter().filter_map(first).filter(|_| wanted.primary);
    let loopback = wanted.localhost.then_some(Ipv4Addr::LOCALHOST.into());
    let served: BTreeSet<IpAddr> = primary.chain(every().filter(is_wanted)).chain(loopback).collect();
    served.into_iter().collect()
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
    (tables.proxy() == Proxy::Ipvs && !tables.facts.ipvs).then_some(ipvs::MISSING)
}

/// How rules are made, whatever the Services.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// Everything that goes to a ClusterIP gets the node's source.
    pub masquerade_all: bool,
    /// Connection tracking takes what is outside of a window for a packet of its connection, so that none is dropped.
    pub liberal: bool,
    /// The links that this node's pods send by; none: they are told by their addresses.
    pub pod_links: Option<IfPattern>,
}

/// What this node's pods send from, where they are told by that.
fn pods(tables: &Tables) -> Vec<Prefix> {
    match &tables.config.services.detect_local {
        DetectLocal::ClusterCidr(ranges) => ranges.clone(),
        _ => tables.networks.keys().flat_map(|name| crate::network::own_ranges(tables, name)).collect(),
    }
}

/// What this node's pods send by, where they are told by that.
fn pod_links(tables: &Tables) -> Option<IfPattern> {
    match &tables.config.services.detect_local {
        DetectLocal::NodeRanges | DetectLocal::ClusterCidr(_) => None,
        DetectLocal::Bridge(bridge) => Some(IfPattern::Exact(bridge.clone())),
        DetectLocal::InterfacePrefix(prefix) => Some(IfPattern::Prefix(prefix.clone())),
    }
}

/// What is there whatever the Services, where they are served.
pub(crate) fn of_node(tables: &Tables) -> Vec<Entry> {
    let config = &tables.config.services;
    if missing(tables).is_some() || !tables.serves() {
        return Vec::new();
    }
    let (pods, rules) = (pods(tables), rules(tables));
    let mut entries = Vec::new();
    for (proxy, extent) in By::of(tables).0 {
        let ranges = if extent == Extent::Whole { &config.service_cidrs[..] } else { &[] };
        let base = match proxy {
            Proxy::None => Vec::new(),
            Proxy::Nftables => nftables::base(&pods, ranges, &rules),
            Proxy::Iptables => iptables::base(place(tables), &node_port_addresses(tables), &pods, ranges, &rules),
            Proxy::Ipvs => ipvs::base(config.ipvs, &pods, ranges, &rules),
        };
        entries.extend(base.into_iter().filter(|entry| extent != Extent::Parting || !leads_there(entry)));
    }
    entries.append(&mut conntrack_settings(tables));
    entries
}

/// What of the rules is as the configuration says.
fn rules(tables: &Tables) -> Rules {
    let config = &tables.config.services;
    let liberal = tables.facts.conntrack.get("tcp_be_liberal").is_some_and(|limit| limit.writable || limit.value != 0);
    Rules {
        masquerade_all: config.masquerade_all,
        liberal: config.conntrack.tcp_be_liberal && liberal,
        pod_links: pod_links(tables),
    }
}

/// Whether packets from 127.0.0.1 have to leave the node: to node ports, or to a host port of a pod that is there.
pub(crate) fn wants_loopback(tables: &Tables) -> bool {
    let config = &tables.config.services;
    let at_loopback =
        |row: &Arc<PodRow>| row.state == PodState::Ready && row.host_ports.iter().any(HostPort::is_at_loopback);
    tables.serves() && config.node_port_addresses.localhost || tables.pods.values().any(at_loopback)
}

/// What lets packets from 127.0.0.1 leave the node, and guards it: with that setting alone everybody on a link of the node could reach
/// what listens for the node itself (CVE-2020-8558). Of IPv6 there is no such setting.
#[must_use]
pub fn loopback() -> Vec<Entry> {
    let mut part = Part::of(Owner::agent());
    let mut chain = Chain::filter(Hook::Prerouting, priority::RAW);
    for (field, what) in [
        (daddr(Family::V4), "nobody but the node itself reaches its loopback addresses"),
        (saddr(Family::V4), "or sends from them"),
    ] {
        // RFC 1122, 3.2.1.3.
        let Some(range) = Prefix::containing(Ipv4Addr::LOCALHOST.into(), 8) else { continue };
        let strange = [meta::iifname().is_not("lo"), field.within(range), counter(), drop()];
        chain = chain.rule(Rule::new(strange).comment(what));
    }
    part.add(NftTable { table: Table::new(TableFamily::Ip, NFT_LOOPBACK_TABLE).chain("prerouting", chain) });
    part.add(setting(ROUTE_LOCALNET, "1"));
    part.entries
}

/// Settings of connection tracking, as great as they are to be at least.
fn conntrack_settings(tables: &Tables) -> Vec<Entry> {
    let mut part = Part::of(Owner::agent());
    for (name, least) in conntrack::least(&tables.config.services.conntrack, tables.facts.cpus) {
        let can = tables.facts.conntrack.get(name).is_some_and(|limit| limit.writable);
        if can && least > 0 {
            part.add(setting(&format!("{}{name}", CONNTRACK_SETTINGS), &least.to_string()));
        }
    }
    part.entries
}

/// That no connection can be tracked any more, and what to do about it.
#[must_use]
pub fn full(tables: &Tables) -> Option<String> {
    let max = tables.facts.conntrack.get("max").map(|limit| limit.value).filter(|_| tables.facts.conntrack_full)?;
    Some(format!(
        "connection tracking holds about as many connections as it may, {max}: new ones are dropped, those of Services too, until \
         others end; raise net.netfilter.nf_conntrack_max (services.conntrack.maxPerCore)"
    ))
}

/// Settings of connection tracking that are too low and cannot be raised here, in sentences.
#[must_use]
pub fn unraised(tables: &Tables) -> Vec<String> {
    let config = &tables.config.services;
    if !tables.serves() {
        return Vec::new();
    }
    let locked = tables.facts.conntrack.iter().filter(|(_, limit)| !limit.writable);
    let locked: BTreeMap<Arc<str>, u64> = locked.map(|(name, limit)| (name.clone(), limit.value)).collect();
    let raised = conntrack::raised(&config.conntrack, tables.facts.cpus, &locked).into_iter();
    // The table's buckets go by its size.
    let raised = raised.filter(|(name, _)| *name != "buckets");
    let sentence = |(name, least): (&str, u64)| {
        let there = locked.get(name).copied().unwrap_or_default();
        format!(
            "net.netfilter.nf_conntrack_{name} is {there} and cannot be set from here; Services want {least} (services.conntrack)"
        )
    };
    raised.map(sentence).collect()
}

/// The objects of a Service. `before` is what was wanted or found before.
pub(crate) fn of_service(
    tables: &Tables,
    serving: &Serving,
    node: &Node,
    name: &ServiceName,
    before: &Model,
) -> Vec<Entry> {
    let services = &tables.cluster.services;
    let config = &tables.config.services;
    let mut entries = Vec::new();
    for (proxy, extent) in &serving.by.0 {
        let objects = match proxy {
            Proxy::None => Vec::new(),
            Proxy::Nftables => nftables::objects(node, services, name, before),
            Proxy::Iptables => iptables::objects(serving.place, pod_links(tables).as_ref(), node, services, name),
            Proxy::Ipvs => ipvs::objects(config.ipvs, node, services, name),
        };
        entries.extend(objects.into_iter().filter(|entry| *extent != Extent::Parting || !leads_there(entry)));
    }
    entries
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
