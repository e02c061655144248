//! The node's ruleset: one table whose elements networks and peers add, and one for each pod.
//!
//! `inet ripstop`: tunnel packets are taken only from current nodes, and never from pods; what leaves the cluster is
//! masqueraded. Its rules do not depend on how many pods and peers there are: only elements change.
//!
//! `netdev ripstop-LINK`, at the ingress of a pod's link: a pod sends only from its own addresses. There it costs the
//! pod's own packets one look each. A chain at prerouting is passed by every packet of the node, in a tunnel three times:
//! there stands only one look at the port, and only where there is a tunnel.
//! On a bridge frames, ARP and neighbour discovery are looked at too. What passes goes on, or where the pod's rate is limited
//! through the device that holds it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ripstop_fabric::{host, paths, wiring};
use ripstop_netmodel::{NFT_TABLE, NftElement, NftTable, link_table};
use ripstop_nft::model::{
    Chain, Device, ElementBody, ElementKey, Hook, Key as ElementValue, Name, Policy, Rule, Set, Statement, Table,
    TableFamily, Type, Value, build::*, priority,
};
use ripstop_objects::{Encapsulation, Network, Wiring};
use ripstop_tables::{PodRow, Tables};
use ripstop_types::{Family, Mac, Owner, Prefix};

use crate::host_ports;

/// Sets of the node's table.
pub(crate) struct Sets {
    /// Addresses from which tunnel packets are taken.
    pub nodes: &'static str,
    /// This node's pod ranges.
    pub local: &'static str,
    /// Destinations that see a pod's own address: ranges,
    pub plain: &'static str,
    /// and nodes. Of thousands of single addresses the kernel finds one, and takes one in, sooner in a set without ranges.
    pub near: &'static str,
}

/// The sets of a family in `inet ripstop`.
pub(crate) fn sets(family: Family) -> Sets {
    match family {
        Family::V4 => Sets { nodes: "nodes4", local: "local4", plain: "plain4", near: "near4" },
        Family::V6 => Sets { nodes: "nodes6", local: "local6", plain: "plain6", near: "near6" },
    }
}

/// An element of an interval set of `inet ripstop`.
pub(crate) fn interval(set: &'static str, prefix: Prefix, owner: &Owner) -> NftElement {
    element(set, ElementValue::new(true, [prefix]), owner)
}

/// An element of a set of addresses of `inet ripstop`.
pub(crate) fn address(set: &'static str, ip: IpAddr, owner: &Owner) -> NftElement {
    element(set, ElementValue::new(false, [ip]), owner)
}

fn element(set: &'static str, key: ElementValue, owner: &Owner) -> NftElement {
    NftElement {
        key: ElementKey { family: TableFamily::Inet, table: Name::from(NFT_TABLE), set: Name::from(set), key },
        body: ElementBody::comment(owner),
    }
}

/// The node's table for its networks.
pub fn ruleset(tables: &Tables) -> Table {
    let networks: Vec<&Network> = tables.networks.values().map(|row| &*row.value).collect();
    let mut table = Table::new(TableFamily::Inet, NFT_TABLE);
    for family in Family::BOTH {
        let names = sets(family);
        let ip = address_type(family);
        table = table
            .set(names.nodes, Set::of([ip]))
            .set(names.local, Set::of([ip]).interval())
            .set(names.plain, Set::of([ip]).interval())
            .set(names.near, Set::of([ip]));
    }
    let tunnels = Tunnels::of(&networks);
    if !tunnels.is_empty() {
        let own = host::addresses(tables).into_iter().map(|address| address.ip).collect();
        table = tunnel_guard(table, &tunnels, &own);
    }
    host_ports::add_to(table)
        .chain("postrouting", postrouting(networks.iter().any(|network| network.spec.masquerade.enabled)))
}

pub(crate) fn address_type(family: Family) -> Type {
    Type::address(family)
}

/// By what tunnel packets are known.
#[derive(Default)]
struct Tunnels {
    /// UDP ports.
    ports: BTreeSet<Port>,
    /// Whether packets in packets are among them.
    ipip: bool,
}

impl Tunnels {
    fn of(networks: &[&Network]) -> Self {
        let mut tunnels = Self::default();
        for network in networks {
            let backend = network.spec.backend;
            for (encapsulation, _) in paths::tunnel_links(network) {
                match encapsulation {
                    Encapsulation::Udp => _ = tunnels.ports.insert(backend.udp_port.into()),
                    Encapsulation::Vxlan => _ = tunnels.ports.insert(backend.port.into()),
                    Encapsulation::Ipip => tunnels.ipip = true,
                    Encapsulation::None => {}
                }
            }
        }
        tunnels
    }

    fn is_empty(&self) -> bool {
        self.ports.is_empty() && !self.ipip
    }

    /// What matches them: each is the condition of a rule.
    fn conditions(&self) -> impl Iterator<Item = Statement> {
        let udp = (!self.ports.is_empty()).then(|| any_of(udp::dport(), &self.ports));
        udp.into_iter().chain(self.ipip.then(|| meta::l4proto().is(Proto::IPIP)))
    }
}

/// Tunnel packets come from nodes only: those for this node, and those that it would pass on to another, which would see
/// them come from this one where it masquerades. Among themselves pods may use the port.
///
/// Between nodes they are no connections: nobody translates them, and to track each flow's wrapping costs more than all of
/// this. The look at what is received stands at prerouting because only there can tracking be left out; the kernel is asked
/// what is local only for what comes from no node.
fn tunnel_guard(table: Table, tunnels: &Tunnels, own: &BTreeSet<IpAddr>) -> Table {
    let at = |hook: Hook, chain: &'static str| {
        let rules = tunnels.conditions().map(|is_one| Rule::new([is_one, goto(chain)]));
        Chain::filter(hook, priority::RAW).rules(rules.map(|rule| rule.comment("tunnel packets come from nodes only")))
    };
    let (mut received, mut passed_on) = (Chain::regular(), Chain::regular());
    let mut sent = Chain::filter(Hook::Output, priority::RAW);
    let is_local = || fib::daddr_type().is(FibAddrType::LOCAL);
    for family in Family::BOTH {
        let nodes = sets(family).nodes;
        if let Some(own) = of_family(own, family) {
            let honest = [any_of(daddr(family), &own), saddr(family).in_set(nodes), notrack(), accept()];
            received = received.rule(Rule::new(honest).comment("tunnel packets are no connections"));
        }
        received = received.rule(Rule::new([saddr(family).not_in_set(nodes), is_local(), counter(), drop()]));
        let is_sent = |is_one| Rule::new([is_one, daddr(family).in_set(nodes), notrack()]);
        sent =
            sent.rules(tunnels.conditions().map(|is_one| is_sent(is_one).comment("tunnel packets are no connections")));
        let strange = [saddr(family).not_in_set(nodes), daddr(family).in_set(nodes), counter(), drop()];
        passed_on = passed_on.rule(Rule::new(strange));
    }
    table
        .chain("prerouting", at(Hook::Prerouting, "tunnel-in"))
        .chain("tunnel-in", received)
        .chain("forward", at(Hook::Forward, "tunnel-on"))
        .chain("tunnel-on", passed_on)
        .chain("output", sent)
}

fn postrouting(masquerade: bool) -> Chain {
    let mut chain = Chain::nat(Hook::Postrouting, priority::SRCNAT).rules(host_ports::masqueraded());
    if masquerade {
        for family in Family::BOTH {
            let names = sets(family);
            chain = chain.rule(
                Rule::new([
                    saddr(family).in_set(names.local),
                    daddr(family).not_in_set(names.plain),
                    daddr(family).not_in_set(names.near),
                    masquerade_fully_random(),
                ])
                .comment("pods leave the cluster with the node's address"),
            );
        }
    }
    chain
}

/// The table at the ingress of a pod's link. What no rule takes is dropped, also where rules are missing. `None` for a
/// link that no table can be named after, which none of ours is.
///
/// A pod may send from each of its addresses by each of its interfaces: answers from a further interface's address leave
/// by the first.
pub(crate) fn of_pod(tables: &Tables, row: &PodRow) -> Option<NftTable> {
    let others = tables.interfaces_of(&row.attachment).filter(|other| other.attachment != row.attachment);
    let ips = others.flat_map(|other| other.ips.iter()).chain(&row.ips).copied().collect();
    let pass = || shaper(tables, row).map_or_else(accept, |device| fwd(device.name, device.index));
    let rules = match row.wiring {
        Wiring::Routed => routed(&ips, pass),
        Wiring::Bridge => bridged(row.mac, &ips, pass),
    };
    let dropped = Rule::new([counter(), drop()]).comment("a pod sends from its own addresses");
    let chain = Chain::ingress(row.host_link.clone(), priority::FILTER).policy(Policy::Drop);
    let table = Table::new(TableFamily::Netdev, link_table(&row.host_link)?).comment(comment(row).as_str());
    Some(NftTable { table: table.chain("from-pod", chain.rules(rules).rule(dropped)) })
}

/// The device that what the pod sends goes through, where its rate is limited and the kernel has such devices.
pub(crate) fn shaper(tables: &Tables, row: &PodRow) -> Option<Device> {
    let link = &row.host_link;
    let device = || Device { name: wiring::shaper_link(link), index: wiring::shaper_index(link) };
    row.bandwidth.egress.filter(|_| tables.facts.ifb).map(|_| device())
}

/// The owner. Of a bridged pod, before it, what nothing else on the host tells: its addresses.
fn comment(row: &PodRow) -> String {
    let owner = row.owner();
    match row.wiring {
        Wiring::Routed => owner.to_string(),
        Wiring::Bridge => {
            let ips: String = row.ips.iter().map(|ip| format!(" {ip}")).collect();
            format!("{}{ips} {owner}", row.mac)
        }
    }
}

/// The addresses of a family, if there are any.
fn of_family(ips: &BTreeSet<IpAddr>, family: Family) -> Option<BTreeSet<IpAddr>> {
    let ips: BTreeSet<IpAddr> = ips.iter().copied().filter(|ip| Family::of(*ip) == family).collect();
    Some(ips).filter(|ips| !ips.is_empty())
}

/// A comparison where one address is all there is: a set costs a look-up.
fn any_of<T: Into<Value> + Copy + Ord>(field: Field<T>, values: &BTreeSet<T>) -> Statement {
    match values.first() {
        Some(only) if values.len() == 1 => field.is(*only),
        _ => field.one_of(values.iter().copied()),
    }
}

fn none_of<T: Into<Value> + Copy + Ord>(field: Field<T>, values: &BTreeSet<T>) -> Statement {
    match values.first() {
        Some(only) if values.len() == 1 => field.is_not(*only),
        _ => field.none_of(values.iter().copied()),
    }
}

/// `pass` is what becomes of packets with a right source.
fn routed(ips: &BTreeSet<IpAddr>, pass: impl Fn() -> Statement) -> Vec<Rule> {
    let mut rules = Vec::new();
    for family in Family::BOTH {
        let Some(ips) = of_family(ips, family) else { continue };
        rules.push(Rule::new([any_of(saddr(family), &ips), pass()]));
        if family == Family::V4 {
            // On a link of two nobody else can be spoken for.
            rules.push(Rule::new([meta::protocol().is(EtherType::ARP), accept()]));
        }
    }
    rules
}

fn bridged(mac: Mac, ips: &BTreeSet<IpAddr>, pass: impl Fn() -> Statement) -> Vec<Rule> {
    let mut rules = vec![
        Rule::new([ether::saddr().is_not(mac), counter(), drop()]).comment("a pod sends from its own hardware address"),
    ];
    if let Some(ips) = of_family(ips, Family::V4) {
        rules.push(Rule::new([ether::kind().is(EtherType::IPV4), any_of(saddr(Family::V4), &ips), pass()]));
        let v4 = ips.iter().filter_map(|ip| if let IpAddr::V4(ip) = ip { Some(*ip) } else { None }).collect();
        rules.push(Rule::new([
            ether::kind().is(EtherType::ARP),
            arp::saddr_ether().is(mac),
            any_of(arp::saddr_ip(), &v4),
            accept(),
        ]));
    }
    if let Some(ips) = of_family(ips, Family::V6) {
        let v6 = || ether::kind().is(EtherType::IPV6);
        let v6_own = ips.iter().filter_map(|ip| if let IpAddr::V6(ip) = ip { Some(*ip) } else { None }).collect();
        let router = icmpv6::kind().one_of([Icmpv6Type::ND_ROUTER_ADVERT, Icmpv6Type::ND_REDIRECT]);
        rules.push(Rule::new([v6(), router, counter(), drop()]).comment("a pod is no router"));
        let advert = icmpv6::kind().is(Icmpv6Type::ND_NEIGHBOR_ADVERT);
        rules.push(
            Rule::new([v6(), advert, none_of(icmpv6::nd_target(), &v6_own), counter(), drop()])
                .comment("a pod answers for its own addresses"),
        );
        rules.push(Rule::new([v6(), any_of(saddr(Family::V6), &ips), pass()]));
    }
    rules
}
