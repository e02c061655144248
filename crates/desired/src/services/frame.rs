//! The tables of Services, as far as they are the same whatever gets packets to endpoints.
//!
//! The first packet of a connection is looked up once, in `frontends`, by its destination. Whether its source is rewritten is asked when
//! it leaves, by where its connection went at first, so that packets need no mark.

use ripstop_netmodel::NFT_SERVICES_TABLE;
use ripstop_nft::model::{Chain, Hook, Name, Rule, Set, Table, TableFamily, Type, build::*, priority};
use ripstop_objects::service::Protocol;
use ripstop_types::Family;

use super::Rules;
use crate::ruleset::address_type;

/// The family of the table for a family's packets.
pub(crate) fn table_family(family: Family) -> TableFamily {
    TableFamily::of(family)
}

pub(super) fn table_name() -> Name {
    Name::from(NFT_SERVICES_TABLE)
}

/// The table of a family without what leads to endpoints, which is where the verdicts of its maps go. `leaving` are chains that see what
/// leaves for one.
pub(super) fn frame(family: Family, rules: &Rules, leaving: &[&'static str]) -> Table {
    let ip = address_type(family);
    let verdicts = || Set::vmap([ip, Type::InetProto, Type::InetService]);
    let mut table = Table::new(table_family(family), NFT_SERVICES_TABLE)
        .set("frontends", verdicts().comment("what becomes of packets to a Service"))
        .set("permitted", verdicts().comment("the same, behind the look at where they come from"))
        .set("inside", verdicts().comment("external policy Local: for this node and its pods"))
        .set("outside", verdicts().comment("external policy Local: for all others"))
        .set("sources", Set::of([ip, Type::InetProto, Type::InetService, ip]).interval())
        .set("cluster-ips", Set::of([ip]))
        .set("others-ips", Set::of([ip]).comment("ClusterIPs that are no business of this proxy"))
        .set("service-ranges", Set::of([ip]).interval())
        .set("pods", Set::of([ip]).interval().comment("this node's pods"))
        .set("hairpin", Set::of([ip, ip]).comment("pods that reach themselves"));
    for protocol in Protocol::ALL {
        table = table
            .set(masqueraded(protocol), Set::of([ip, Type::InetService]))
            .set(masqueraded_own(protocol), Set::of([ip, Type::InetService]));
    }
    for (hook, chain) in [(Hook::Prerouting, "prerouting"), (Hook::Output, "output")] {
        table = table.chain(chain, Chain::nat(hook, priority::DSTNAT).rule(Rule::new([jump("services")])));
    }
    let leaving = leaving.iter().copied().chain(["masqueraded"]).map(translated);
    table
        .chain("services", services(family))
        .chain("refuse", Chain::regular().rule(Rule::new([reject()])))
        .chain("restricted", restricted(family))
        .chain("from-anywhere", from_anywhere(family, rules))
        .chain(
            "from-inside",
            Chain::regular().rules([Rule::new([frontend(family).vmap("inside")]), Rule::new([drop()])]),
        )
        .chain("forward", forwarded(rules))
        .chain("postrouting", Chain::nat(Hook::Postrouting, priority::SRCNAT).rules(leaving))
        .chain("masqueraded", masquerading(family, rules))
}

/// The set of frontends whose packets all leave with the node's address.
pub(super) fn masqueraded(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "masquerade-tcp",
        Protocol::Udp => "masquerade-udp",
        Protocol::Sctp => "masquerade-sctp",
    }
}

/// The set of frontends of which only the node's own packets do.
pub(super) fn masqueraded_own(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "masquerade-own-tcp",
        Protocol::Udp => "masquerade-own-udp",
        Protocol::Sctp => "masquerade-own-sctp",
    }
}

/// The frontend that a packet goes to.
pub(super) fn frontend(family: Family) -> Concat {
    concat((daddr(family), meta::l4proto(), th::dport()))
}

/// nft wants to know that a rule is about packets with ports.
pub(crate) fn with_ports() -> ripstop_nft::model::Statement {
    meta::l4proto().one_of(WITH_PORTS)
}

/// The protocols that have ports.
pub(crate) const WITH_PORTS: [Proto; 3] = [Proto::TCP, Proto::UDP, Proto::SCTP];

fn services(family: Family) -> Chain {
    Chain::regular().rules([
        Rule::new([frontend(family).vmap("frontends")]),
        Rule::new([daddr(family).in_set("cluster-ips"), goto("refuse")]).comment("no Service has this port"),
        Rule::new([daddr(family).in_set("service-ranges"), daddr(family).not_in_set("others-ips"), drop()])
            .comment("no Service has this address"),
    ])
}

/// Frontends that take packets from some sources only.
fn restricted(family: Family) -> Chain {
    let permitted = concat((daddr(family), meta::l4proto(), th::dport(), saddr(family))).in_set("sources");
    Chain::regular().rules([
        Rule::new([permitted, frontend(family).vmap("permitted")]),
        Rule::new([counter(), drop()]).comment("not within loadBalancerSourceRanges"),
    ])
}

/// Frontends of Services whose external policy is Local.
fn from_anywhere(family: Family, rules: &Rules) -> Chain {
    Chain::regular().rules([
        Rule::new([of_pods(family, rules), goto("from-inside")]),
        Rule::new([fib::saddr_type().is(FibAddrType::LOCAL), goto("from-inside")]),
        Rule::new([frontend(family).vmap("outside")]),
        Rule::new([drop()]),
    ])
}

/// Packets of this node's pods. That they are told by a link where they leave, too, takes Linux 5.7.
fn of_pods(family: Family, rules: &Rules) -> ripstop_nft::model::Statement {
    match &rules.pod_links {
        None => saddr(family).in_set("pods"),
        Some(links) => meta::iifname().is(links.clone()),
    }
}

/// What connection tracking takes for out of its window reaches the client untranslated, which then resets the connection.
fn forwarded(rules: &Rules) -> Chain {
    let chain = Chain::filter(Hook::Forward, priority::FILTER);
    if rules.liberal {
        return chain;
    }
    chain.rule(Rule::new([ct::state().any(CtState::INVALID), drop()]).comment("would be passed on untranslated"))
}

/// What goes to an endpoint.
pub(super) fn translated(chain: &'static str) -> Rule {
    Rule::new([ct::status().any(CtStatus::DNAT), jump(chain)])
}

fn masquerading(family: Family, rules: &Rules) -> Chain {
    let cluster = || original_daddr(family).in_set("cluster-ips");
    let hairpin = concat((saddr(family), daddr(family))).in_set("hairpin");
    let mut chain = Chain::regular().rule(Rule::new([hairpin, masquerade_fully_random()]));
    if !rules.masquerade_all {
        chain = chain.rule(Rule::new([cluster(), of_pods(family, rules), ret()]));
    }
    chain = chain.rule(Rule::new([cluster(), masquerade_fully_random()]).comment("to a ClusterIP"));
    for protocol in Protocol::ALL {
        let is = || meta::l4proto().is(protocol.number());
        let of = |set: &'static str| concat((original_daddr(family), ct::original_proto_dst())).in_set(set);
        let own = fib::saddr_type().is(FibAddrType::LOCAL);
        chain = chain.rules([
            Rule::new([is(), of(masqueraded(protocol)), masquerade_fully_random()]),
            Rule::new([is(), of(masqueraded_own(protocol)), own, masquerade_fully_random()]),
        ]);
    }
    chain
}
