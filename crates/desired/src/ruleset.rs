//! The base of the node's ruleset: two tables whose elements networks, peers and pods add.
//!
//! `inet ripstop`: a pod sends only from its own addresses; tunnel packets are taken only from current nodes and never
//! from pods; what leaves the cluster is masqueraded. `bridge ripstop`, only where a network is bridged: the same for
//! frames, ARP and neighbour discovery, which never pass the first.
//!
//! The rules do not depend on how many pods and peers there are: only elements change.

use std::collections::BTreeSet;

use ripstop_fabric::wiring;
use ripstop_nft::model::{Chain, Hook, IfPattern, Rule, Set, Statement, Table, TableFamily, Type, build::*, priority};
use ripstop_objects::{BackendKind, Network, Wiring};
use ripstop_tables::Tables;
use ripstop_types::Family;

/// Sets of the tables.
pub(crate) struct Sets {
    /// Interface and source address pairs of pods.
    pub pods: &'static str,
    /// Addresses from which tunnel packets are taken.
    pub nodes: &'static str,
    /// This node's pod ranges.
    pub local: &'static str,
    /// Destinations that see a pod's own address.
    pub plain: &'static str,
}

/// The sets of a family in `inet ripstop`.
pub(crate) fn sets(family: Family) -> Sets {
    match family {
        Family::V4 => Sets { pods: "pods4", nodes: "nodes4", local: "local4", plain: "plain4" },
        Family::V6 => Sets { pods: "pods6", nodes: "nodes6", local: "local6", plain: "plain6" },
    }
}

/// Set of `bridge ripstop`: interface and hardware address pairs.
pub(crate) const PORTS: &str = "ports";

/// Sets of `bridge ripstop`: interface and address pairs.
pub(crate) fn bridge_set(family: Family) -> &'static str {
    match family {
        Family::V4 => "pods4",
        Family::V6 => "pods6",
    }
}

/// The tables for these networks: the first always, the second where a network is bridged.
pub fn ruleset(tables: &Tables) -> Vec<Table> {
    let networks: Vec<&Network> = tables.networks.values().map(|row| &*row.value).collect();
    let mut all = vec![inet(&networks)];
    if networks.iter().any(|network| network.spec.wiring == Wiring::Bridge) {
        all.push(bridge());
    }
    all
}

fn address_type(family: Family) -> Type {
    match family {
        Family::V4 => Type::Ipv4Addr,
        Family::V6 => Type::Ipv6Addr,
    }
}

fn pod_links() -> Statement {
    meta::iifname().is("ripp*")
}

fn inet(networks: &[&Network]) -> Table {
    let mut table = Table::new(TableFamily::Inet, ripstop_netmodel::NFT_TABLE);
    for family in Family::BOTH {
        let names = sets(family);
        let ip = address_type(family);
        table = table
            .set(names.pods, Set::of([Type::IfName, ip]))
            .set(names.nodes, Set::of([ip]))
            .set(names.local, Set::of([ip]).interval())
            .set(names.plain, Set::of([ip]).interval());
    }
    let tunnel_ports: BTreeSet<u16> = networks
        .iter()
        .filter(|network| network.spec.backend.kind != BackendKind::HostGw)
        .map(|network| network.spec.backend.port)
        .collect();
    table
        .chain("prerouting", prerouting(&tunnel_ports, networks))
        .chain("from-pod", from_pod(&tunnel_ports))
        .chain("to-tunnel", to_tunnel(&tunnel_ports))
        .chain("postrouting", postrouting(networks.iter().any(|network| network.spec.masquerade.enabled)))
}

/// Before connection tracking, so that what is dropped leaves no trace there.
fn prerouting(tunnel_ports: &BTreeSet<u16>, networks: &[&Network]) -> Chain {
    let mut chain = Chain::filter(Hook::Prerouting, priority::RAW)
        .rule(Rule::new([pod_links(), goto("from-pod")]).comment("what pods send"));
    if !tunnel_ports.is_empty() {
        // Bridged pods come in by their bridge; their source was checked there.
        let bridges = networks.iter().filter(|network| network.spec.wiring == Wiring::Bridge);
        let bridges: Vec<IfPattern> = bridges.map(|network| wiring::node_link(&network.name).into()).collect();
        if !bridges.is_empty() {
            chain = chain.rule(
                Rule::new([meta::iifname().one_of(bridges), goto("to-tunnel")]).comment("what bridged pods send"),
            );
        }
        for family in Family::BOTH {
            chain = chain.rule(
                Rule::new([
                    udp::dport().one_of(tunnel_ports.iter().copied()),
                    saddr(family).not_in_set(sets(family).nodes),
                    // Only what this node would take out of its wrapping: pods may use the port among themselves.
                    fib::daddr_type().is(FibAddrType::LOCAL),
                    counter(),
                    drop(),
                ])
                .comment("tunnel packets come from nodes only"),
            );
        }
    }
    chain
}

fn from_pod(tunnel_ports: &BTreeSet<u16>) -> Chain {
    let mut chain = Chain::regular();
    for family in Family::BOTH {
        let source = match family {
            Family::V4 => concat((meta::iifname(), ip::saddr())).not_in_set(sets(family).pods),
            Family::V6 => concat((meta::iifname(), ip6::saddr())).not_in_set(sets(family).pods),
        };
        chain = chain.rule(Rule::new([source, counter(), drop()]).comment("a pod sends from its own addresses"));
    }
    if tunnel_ports.is_empty() { chain } else { chain.rule(Rule::new([goto("to-tunnel")])) }
}

/// Packets of pods that a node would take for a tunnel's.
fn to_tunnel(tunnel_ports: &BTreeSet<u16>) -> Chain {
    let mut chain = Chain::regular();
    if !tunnel_ports.is_empty() {
        let ports = || udp::dport().one_of(tunnel_ports.iter().copied());
        for family in Family::BOTH {
            chain = chain.rule(
                Rule::new([ports(), daddr(family).in_set(sets(family).nodes), counter(), drop()])
                    .comment("pods send no tunnel packets to nodes"),
            );
        }
        chain = chain.rule(
            Rule::new([ports(), fib::daddr_type().is(FibAddrType::LOCAL), counter(), drop()])
                .comment("pods send no tunnel packets to nodes"),
        );
    }
    chain
}

fn postrouting(masquerade: bool) -> Chain {
    let mut chain = Chain::nat(Hook::Postrouting, priority::SRCNAT);
    if masquerade {
        for family in Family::BOTH {
            let names = sets(family);
            chain = chain.rule(
                Rule::new([
                    saddr(family).in_set(names.local),
                    daddr(family).not_in_set(names.plain),
                    masquerade_fully_random(),
                ])
                .comment("pods leave the cluster with the node's address"),
            );
        }
    }
    chain
}

fn bridge() -> Table {
    let own_ip = |kind: EtherType, source: Statement| {
        Rule::new([ether::kind().is(kind), source, counter(), drop()]).comment("a pod sends from its own addresses")
    };
    let from_pod = Chain::regular()
        .rule(
            Rule::new([ether::kind().none_of([EtherType::IPV4, EtherType::IPV6, EtherType::ARP]), counter(), drop()])
                .comment("a pod sends nothing whose source cannot be checked"),
        )
        .rule(
            Rule::new([concat((meta::iifname(), ether::saddr())).not_in_set(PORTS), counter(), drop()])
                .comment("a pod sends from its own hardware address"),
        )
        .rule(own_ip(EtherType::IPV4, concat((meta::iifname(), ip::saddr())).not_in_set(bridge_set(Family::V4))))
        .rule(own_ip(EtherType::IPV6, concat((meta::iifname(), ip6::saddr())).not_in_set(bridge_set(Family::V6))))
        .rule(own_ip(EtherType::ARP, concat((meta::iifname(), arp::saddr_ip())).not_in_set(bridge_set(Family::V4))))
        .rule(own_ip(EtherType::ARP, concat((meta::iifname(), arp::saddr_ether())).not_in_set(PORTS)))
        .rule(
            Rule::new([
                ether::kind().is(EtherType::IPV6),
                icmpv6::kind().is(Icmpv6Type::ND_NEIGHBOR_ADVERT),
                concat((meta::iifname(), icmpv6::nd_target())).not_in_set(bridge_set(Family::V6)),
                counter(),
                drop(),
            ])
            .comment("a pod answers for its own addresses"),
        )
        .rule(
            Rule::new([
                ether::kind().is(EtherType::IPV6),
                icmpv6::kind().one_of([Icmpv6Type::ND_ROUTER_ADVERT, Icmpv6Type::ND_REDIRECT]),
                counter(),
                drop(),
            ])
            .comment("a pod is no router"),
        );
    Table::new(TableFamily::Bridge, ripstop_netmodel::NFT_TABLE)
        .set(PORTS, Set::of([Type::IfName, Type::EtherAddr]))
        .set(bridge_set(Family::V4), Set::of([Type::IfName, Type::Ipv4Addr]))
        .set(bridge_set(Family::V6), Set::of([Type::IfName, Type::Ipv6Addr]))
        .chain(
            "prerouting",
            Chain::filter(Hook::Prerouting, priority::RAW)
                .rule(Rule::new([pod_links(), goto("from-pod")]).comment("what pods send")),
        )
        .chain("from-pod", from_pod)
}
