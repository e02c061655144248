//! Which endpoints packets to a Service go to, decided once for every data plane.
//!
//! A [`Frontend`] is an address, protocol and port at which packets arrive; its [`Decision`] says which endpoints they may go to, seen
//! from where they come, and whether they keep their source. nftables, iptables and IPVS are compilers of these two.
//!
//! - [`choice`]: which of a Service's endpoints count: conditions, topology, traffic policies.
//! - [`conntrack`]: how far settings of connection tracking are raised.
//! - [`health`]: what is answered who asks how Services are here.
//! - [`remarks`]: what people should know of objects that do not get what they ask for.
//! - [`relay`]: node ports that no rule of the kernel can serve.
//! - [`slots`]: an order of endpoints that a change moves as little as it can.
//!
//! Where no API server is asked, three things more:
//!
//! - [`follow`]: the slices that this node's pods make;
//! - [`readiness`]: which probe of them goes when, and what its outcome means;
//! - [`give`]: the addresses and node ports that a Service gets.
//!
//! And everywhere [`pools`]: the addresses that Services of type LoadBalancer get.
//!
//! Not here: how a packet is matched or rewritten, and what is in the kernel now.
//!
//! Invariants: the same tables give the same decisions; a frontend is decided by one Service only; endpoints of a decision are of the
//! frontend's family, without repeats and in order.
//!
//! Source of what is right: the API's documentation of Service and EndpointSlice; KEP-1669, KEP-2086, KEP-2433, KEP-3015, KEP-1860.

pub mod choice;
pub mod conntrack;
pub mod follow;
pub mod give;
pub mod health;
pub mod pools;
pub mod readiness;
pub mod relay;
pub mod remarks;
pub mod slots;

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ripstop_objects::service::{Protocol, Service, ServiceKind, ServicePort, TrafficPolicy};
use ripstop_tables::{At, Place, ServiceTables};
use ripstop_types::{Family, NodeName, Prefix, ServiceName};

use choice::Chosen;

/// What decisions need to know of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: NodeName,
    /// Its zone (`topology.kubernetes.io/zone`).
    pub zone: Option<Arc<str>>,
    /// Its addresses, the primary one of each family first.
    pub addresses: Vec<IpAddr>,
    /// Those of them at which node ports are served.
    pub node_port_addresses: Vec<IpAddr>,
    /// Whether node ports are served at loopback addresses: 127.0.0.1 is among those then, and `::1` has [`relay`].
    pub localhost: bool,
    /// The ranges of its pods.
    pub pods: Vec<Prefix>,
    /// Its pods are told by the links that their packets come by, and not by those ranges.
    pub pods_by_link: bool,
    /// Whether `spec.externalIPs` are served. Whoever may make a Service can take anybody's address by them (CVE-2020-8554).
    pub external_ips: bool,
    /// The name of this proxy: Services labelled with another are another's.
    pub proxy_name: Option<Arc<str>>,
}

impl Node {
    /// Whether an endpoint may be a pod of this node.
    #[must_use]
    pub fn may_be_here(&self, ip: IpAddr) -> bool {
        self.pods_by_link || self.pods.iter().any(|range| range.contains(ip))
    }
}

/// Where packets arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// The address.
    pub ip: IpAddr,
    /// The protocol.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", SocketAddr::new(self.ip, self.port), self.protocol)
    }
}

/// One endpoint at its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// The address.
    pub ip: IpAddr,
    /// The port.
    pub port: u16,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::new(self.ip, self.port).fmt(f)
    }
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// It goes to one of these; at least one.
    Backends(Arc<BTreeSet<Backend>>),
    /// It is refused: the Service has no endpoint anywhere.
    Reject,
    /// It vanishes: there are endpoints, but not where it may go.
    Drop,
}

/// How a Service is entered by a frontend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Entry {
    /// By its ClusterIP. The source is kept of packets from this node's pods; all others get this node's.
    Cluster,
    /// From outside the cluster, to any endpoint: all packets get this node's source, so that answers come back by it.
    Anywhere,
    /// From outside the cluster, to endpoints of this node: the source is kept. Pods of this node and the node itself are not
    /// outside: they get to all endpoints, the node with an address of its own.
    Local,
}

/// What becomes of packets to one frontend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The Service.
    pub service: ServiceName,
    /// The name of its port.
    pub port: Arc<str>,
    /// How the Service is entered.
    pub entry: Entry,
    /// What becomes of packets from this node and its pods, and by [`Entry::Cluster`] and [`Entry::Anywhere`] of all.
    pub inside: Target,
    /// `inside` is about endpoints of this node only: the Service's internal policy is Local.
    pub inside_is_local: bool,
    /// By [`Entry::Local`], what becomes of packets from elsewhere.
    pub outside: Option<Target>,
    /// Only packets from here are taken, in order and none within another; `None`: all are.
    pub sources: Option<Vec<Prefix>>,
    /// Seconds for which a client keeps its endpoint after a connection.
    pub affinity: Option<u32>,
    /// Whether connections to an endpoint that leaves are reset.
    pub reset: bool,
}

/// What this node does for a Service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decided {
    /// Its frontends, in order.
    pub frontends: Vec<(Frontend, Decision)>,
    /// Its ClusterIPs: at ports that no Service has, packets to them are refused.
    pub cluster_ips: Vec<IpAddr>,
    /// ClusterIPs that are given to it and that are not this proxy's business.
    pub others_ips: Vec<IpAddr>,
    /// Places that it asks for and another Service has, with that one's name.
    pub lost: Vec<(Place, ServiceName)>,
}

/// Decides for one Service; next to nothing where there is none, or it is not for this proxy.
#[must_use]
pub fn decide(node: &Node, tables: &ServiceTables, name: &ServiceName) -> Decided {
    let Some(service) = tables.service(name) else { return Decided::default() };
    if !is_served(node, service) {
        // What nobody serves is left to nobody: it ends where an address ends that no Service has.
        let others_ips = if service.headless { Vec::new() } else { service.cluster_ips.clone() };
        return Decided { others_ips, ..Decided::default() };
    }
    let mut decided = Decided { cluster_ips: service.cluster_ips.clone(), ..Decided::default() };
    for port in &service.ports {
        // A Service has the families of its ClusterIPs, at every kind of address.
        for family in service.cluster_ips.iter().map(|ip| Family::of(*ip)) {
            let chosen = Chosen::of(node, service, port, family, tables.slices_of(name));
            for (place, ip, kind) in entrances(node, service, port, family) {
                // An address said outright goes before all of the node's.
                let outright = (place.at == At::Node(family)).then_some(Place { at: At::Ip(ip), ..place });
                let lost = [Some(place), outright]
                    .into_iter()
                    .flatten()
                    .find_map(|place| Some((place, anothers(node, tables, &place, name)?.clone())));
                match lost {
                    Some(lost) => decided.lost.push(lost),
                    None => {
                        let frontend = Frontend { ip, protocol: place.protocol, port: place.port };
                        decided.frontends.push((frontend, decision(node, service, port, ip, kind, &chosen)));
                    }
                }
            }
        }
    }
    decided.frontends.sort_by_key(|(frontend, _)| *frontend);
    decided.frontends.dedup_by_key(|(frontend, _)| *frontend);
    decided.lost.sort();
    decided.lost.dedup();
    decided
}

/// Who has a place, if it is another.
fn anothers<'a>(node: &Node, tables: &'a ServiceTables, place: &Place, name: &ServiceName) -> Option<&'a ServiceName> {
    tables.holder(node.proxy_name.as_ref(), node.external_ips, place).filter(|holder| *holder != name)
}

/// Whether this proxy serves it at all.
fn is_served(node: &Node, service: &Service) -> bool {
    !service.headless && service.kind != ServiceKind::ExternalName && service.proxy_name == node.proxy_name
}

/// By which of a Service's addresses packets come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Cluster,
    External,
    LoadBalancer,
}

/// Where a port of a Service can be reached on this node, in one family.
fn entrances(node: &Node, service: &Service, port: &ServicePort, family: Family) -> Vec<(Place, IpAddr, Kind)> {
    let place = |ip| Place { at: At::Ip(ip), protocol: port.protocol, port: port.port };
    let at = |ip: IpAddr, kind| (place(ip), ip, kind);
    let mut entrances: Vec<_> = service.cluster_ips.iter().map(|ip| at(*ip, Kind::Cluster)).collect();
    if node.external_ips {
        entrances.extend(service.external_ips.iter().map(|ip| at(*ip, Kind::External)));
    }
    let balanced = service.ingress.iter().filter(|ingress| !ingress.is_proxied);
    entrances.extend(balanced.map(|ingress| at(ingress.ip, Kind::LoadBalancer)));
    if let Some(node_port) = port.node_port {
        let place = Place { at: At::Node(family), protocol: port.protocol, port: node_port };
        entrances.extend(node.node_port_addresses.iter().map(|ip| (place, *ip, Kind::External)));
    }
    entrances.retain(|(_, ip, _)| Family::of(*ip) == family);
    entrances
}

fn decision(node: &Node, service: &Service, port: &ServicePort, ip: IpAddr, kind: Kind, chosen: &Chosen) -> Decision {
    let (entry, inside, outside) = match (kind, service.external_policy) {
        (Kind::Cluster, _) => (Entry::Cluster, chosen.internal.clone(), None),
        (_, TrafficPolicy::Cluster) => (Entry::Anywhere, chosen.cluster.clone(), None),
        (_, TrafficPolicy::Local) => (Entry::Local, chosen.cluster.clone(), Some(chosen.local.clone())),
    };
    let ranges = service.source_ranges.as_ref().filter(|_| kind == Kind::LoadBalancer);
    let sources = ranges.map(|ranges| sources(node, ip, ranges));
    Decision {
        service: service.name.clone(),
        port: port.name.clone(),
        entry,
        inside,
        inside_is_local: kind == Kind::Cluster && service.internal_policy == TrafficPolicy::Local,
        outside,
        sources,
        affinity: service.affinity,
        reset: service.reset_on_removal,
    }
}

/// Prefixes of a frontend's family without those within others. Where the node is let in, the frontend's own address is, too: where some
/// link of the node has it, what the node sends there has it as its source.
fn sources(node: &Node, frontend: IpAddr, ranges: &[Prefix]) -> Vec<Prefix> {
    let family = Family::of(frontend);
    let mut sources: BTreeSet<Prefix> = ranges.iter().filter(|range| range.family() == family).copied().collect();
    let primary = node.addresses.iter().find(|ip| Family::of(**ip) == family);
    if primary.is_some_and(|ip| sources.iter().any(|range| range.contains(*ip))) {
        sources.insert(Prefix::host(frontend));
    }
    let all = sources.clone();
    sources.retain(|one| !all.iter().any(|other| other != one && other.covers(one)));
    sources.into_iter().collect()
}
