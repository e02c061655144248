//! Services by IPVS: virtual servers choose endpoints, and tables of nftables do all the rest.
//!
//! What arrives at a frontend is translated by the tables to a *virtual server* of the Service's port, of which there are up to two: for
//! endpoints anywhere, and for those of this node. Its address is the Service's ClusterIP, which a route makes local so that packets come
//! by where IPVS looks at them, and its port is one that the Service has not (`Ports`). So all addresses and node ports of a Service's
//! port share their servers, and with them its clients' affinity; packets from outside to a Service whose external policy is Local go to
//! another server than those of pods; and an address of a load balancer stays what it is at ports that no Service has.
//!
//! IPVS sees the first packet and writes what it chose into the tracked connection (`net.ipv4.vs.conntrack`), which then leads there by
//! itself, until it ends. So an endpoint that leaves is taken out at once: its connections stay as long as both their ends please, and those
//! that must not are forgotten as with the other compilers, for which the set `endpoints` says what leads where.
//!
//! Its tables have a name of their own, `ripstop-ipvs`, so that a node can be switched to another proxy and back with both in place.
//! Connections hang on connection tracking alone, so virtual servers may go as soon as no packet is on its way to one.
//!
//! Not here: packets' sources, refusals, sources that are let in, hairpins: see `frame` and `elements`, which other compilers share.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ripstop_netmodel::{
    Entry, IpvsDestination, IpvsService, NFT_IPVS_TABLE, Ns, Object, RESET_MARK, Route, Sysctl, VirtualServer,
};
use ripstop_nft::model::{Chain, Data, Hook, Name, Rule, Set, Table, Type, Value, Verdict, build::*, priority};
use ripstop_objects::IpvsConfig;
use ripstop_objects::service::{Protocol, Service};
use ripstop_services::{Backend, Decided, Node, decide};
use ripstop_tables::ServiceTables;
use ripstop_types::{Family, Prefix, ServiceName};

use super::elements::{self, Means, To, element, key_of};
use super::frame::{frame, with_ports};
use super::{Reach, Rules, Scope};
use crate::Part;
use crate::ruleset::address_type;

/// Why no Services are served on a node without IPVS.
pub const MISSING: &str = "services.proxy is ipvs and this kernel has no IPVS, so no Service is served: load its module with \
                           `modprobe ip_vs` on the node, or choose another proxy";

/// What IPVS is told: it writes its choice into tracked connections, and what it remembers of an endpoint that has left is void.
const SETTINGS: [(&str, &str); 3] = [
    ("net/ipv4/vs/conntrack", "1"),
    ("net/ipv4/vs/expire_nodest_conn", "1"),
    ("net/ipv4/vs/expire_quiescent_template", "1"),
];

/// What makes links answer for their own addresses alone.
const STRICT_ARP: [(&str, &str); 2] = [("net/ipv4/conf/all/arp_ignore", "1"), ("net/ipv4/conf/all/arp_announce", "2")];

/// The tables and settings, and what they know of this node.
#[must_use]
pub fn base(config: IpvsConfig, pods: &[Prefix], service_ranges: &[Prefix], rules: &Rules) -> Vec<Entry> {
    let mut part = elements::base(pods, service_ranges, |family| table(family, rules));
    let arp = if config.strict_arp { &STRICT_ARP[..] } else { &[] };
    for (path, value) in SETTINGS.iter().chain(arp) {
        part.add(Sysctl { ns: Ns::Host, link: None, path: (*path).into(), value: (*value).into() });
    }
    under_own_name(part.entries)
}

/// In tables that stand beside those of the compiler for nftables.
fn under_own_name(mut entries: Vec<Entry>) -> Vec<Entry> {
    for entry in &mut entries {
        match &mut entry.object {
            Object::NftTable(table) => table.table.name = Name::from(NFT_IPVS_TABLE),
            Object::NftElement(element) => element.key.table = Name::from(NFT_IPVS_TABLE),
            _ => {}
        }
    }
    entries
}

/// The objects of a Service.
#[must_use]
pub fn objects(config: IpvsConfig, node: &Node, tables: &ServiceTables, name: &ServiceName) -> Vec<Entry> {
    let decided = decide(node, tables, name);
    let Some(service) = tables.service(name) else { return Vec::new() };
    let mut servers = Servers::of(service, &decided);
    let mut part = elements::objects(node, name, &decided, &mut servers);
    let addresses: BTreeSet<IpAddr> = servers.wanted.keys().map(|server| server.ip).collect();
    for ip in addresses {
        part.add(Route::local(ip));
    }
    let scheduler = config.scheduler.as_str();
    for (server, (persistence, backends)) in servers.wanted {
        part.add(IpvsService { server, scheduler: scheduler.into(), persistence });
        for backend in backends {
            let to = SocketAddr::new(backend.ip, backend.port);
            part.add(IpvsDestination { server, to, weight: 1, translated: true });
        }
    }
    under_own_name(part.entries)
}

/// The table of a family.
#[must_use]
pub fn table(family: Family, rules: &Rules) -> Table {
    let ip = address_type(family);
    let servers = || Set::map([ip, Type::InetProto, Type::InetService], [ip, Type::InetService]);
    let endpoints = Set::of([ip, Type::InetProto, Type::InetService, ip, Type::InetService]);
    let mut table = frame(family, rules, &[])
        .set("endpoints", endpoints.comment("by frontend, for tracked connections"))
        .chain("input", Chain::filter(Hook::Input, priority::FILTER).rule(invalid(family)));
    for scope in [Scope::Inside, Scope::Outside] {
        let name = map_of(scope);
        let key = (daddr(family), meta::l4proto(), th::dport());
        let to_server = Chain::regular().rules([
            Rule::new([with_ports(), dnat_port_map(family, key, name)]),
            Rule::new([drop()]).comment("the Service has just gone"),
        ]);
        table = table.set(name, servers().comment("virtual servers of IPVS")).chain(name, to_server);
    }
    table
}

/// The map of virtual servers, and the chain that looks into it.
fn map_of(scope: Scope) -> &'static str {
    match scope {
        Scope::Inside => "servers",
        Scope::Outside => "servers-local",
    }
}

/// What connection tracking cannot place is not translated, and must not be answered by this node, whose the ClusterIPs are.
fn invalid(family: Family) -> Rule {
    Rule::new([
        ct::state().any(CtState::INVALID),
        daddr(family).in_set("cluster-ips"),
        fib::saddr_type().is_not(FibAddrType::LOCAL),
        drop(),
    ])
}

/// The virtual servers of a Service.
struct Servers {
    ports: Ports,
    /// Its ports by name and protocol.
    numbers: BTreeMap<(std::sync::Arc<str>, Protocol), u16>,
    cluster_ips: Vec<IpAddr>,
    /// With the seconds for which clients stay, and where they lead.
    wanted: BTreeMap<VirtualServer, (Option<u32>, BTreeSet<Backend>)>,
}

impl Servers {
    fn of(service: &Service, decided: &Decided) -> Self {
        let numbers = service.ports.iter().map(|port| ((port.name.clone(), port.protocol), port.port)).collect();
        let ports = Ports::of(service.ports.iter().map(|port| port.port));
        Self { ports, numbers, cluster_ips: decided.cluster_ips.clone(), wanted: BTreeMap::new() }
    }

    fn server(&self, to: &To<'_>) -> Option<VirtualServer> {
        let protocol = to.frontend.protocol;
        let number = self.numbers.get(&(to.decision.port.clone(), protocol))?;
        let of_family = |ip: &&IpAddr| Family::of(**ip) == Family::of(to.frontend.ip);
        let ip = *self.cluster_ips.iter().find(of_family)?;
        let port = self.ports.port(*number, Reach::of(to.decision, to.scope))?;
        Some(VirtualServer { ip, protocol: protocol.number(), port })
    }
}

impl Means for Servers {
    fn leading(&mut self, part: &mut Part, to: &To<'_>) -> Verdict {
        let Some(server) = self.server(to) else { return Verdict::Drop };
        let (frontend, map) = (to.frontend, map_of(to.scope));
        let address = vec![server.ip.into(), Value::Service(server.port)];
        part.add(element(frontend.ip, map, key_of(frontend), Some(Data::Values(address))));
        let comment = to.decision.reset.then(|| format!("{RESET_MARK}{}", part.owner).as_str().into());
        for backend in to.backends {
            let mut key = key_of(frontend);
            key.extend([backend.ip.into(), elements::port(backend.port)]);
            let mut entry = element(frontend.ip, "endpoints", key, None);
            entry.body.comment.clone_from(&comment);
            part.add(entry);
        }
        let (_, backends) = self.wanted.entry(server).or_insert_with(|| (to.decision.affinity, BTreeSet::new()));
        backends.extend(to.backends.iter().copied());
        Verdict::Goto(Name::from(map))
    }
}

/// The ports of virtual servers at a ClusterIP: the same whatever the endpoints, none of the Service's own, and each for one port of the
/// Service and one [`Reach`].
struct Ports(BTreeMap<(u16, Reach), u16>);

/// The first that a virtual server has: below it IPVS takes port 21 for that of FTP, and clients keep their server whatever the port.
const FIRST: u16 = 1024;

impl Ports {
    fn of(own: impl Iterator<Item = u16>) -> Self {
        let own: BTreeSet<u16> = own.collect();
        let (mut taken, mut ports) = (own.clone(), BTreeMap::new());
        for port in own {
            for (reach, bit) in [(Reach::Cluster, 0x8000), (Reach::Local, 0x4000)] {
                // Far from its own, so that one that comes or goes seldom moves another.
                let first = (port ^ bit).max(FIRST);
                let free = (first..=u16::MAX).chain(FIRST..first).find(|port| !taken.contains(port));
                if let Some(free) = free {
                    taken.insert(free);
                    ports.insert((port, reach), free);
                }
            }
        }
        Self(ports)
    }

    fn port(&self, of: u16, reach: Reach) -> Option<u16> {
        self.0.get(&(of, reach)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_servers_share_a_port_and_none_has_one_of_the_service() {
        let sets: [Vec<u16>; 4] =
            [vec![80], vec![1, 21, 0x8015, 0xc015, 0x4015], (1..=3000).collect(), vec![80, 0x8050, 0x4050, 0xc050]];
        for own in sets {
            let ports = Ports::of(own.iter().copied());
            let given: BTreeSet<u16> = ports.0.values().copied().collect();
            assert_eq!(given.len(), own.len() * 2);
            assert!(own.iter().all(|port| !given.contains(port)) && given.iter().all(|port| *port >= FIRST));
        }
    }

    #[test]
    fn a_port_that_comes_leaves_the_others_their_servers() {
        let (one, two) = (Ports::of([80].into_iter()), Ports::of([80, 443].into_iter()));
        for reach in [Reach::Cluster, Reach::Local] {
            assert_eq!(one.port(80, reach), two.port(80, reach));
        }
    }
}
