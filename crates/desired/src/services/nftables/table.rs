//! Chains, sets and maps by which endpoints are drawn.

use ripstop_nft::model::{Chain, Hook, Rule, Set, Table, Type, build::*, priority};
use ripstop_objects::service::Protocol;
use ripstop_types::Family;

use super::chain_of;
use crate::ruleset::address_type;
use crate::services::frame::{frame, translated, with_ports};
use crate::services::{Rules, Scope};

/// For up to so many endpoints the chains are there from the start: a chain that comes makes the kernel look at all maps again. Not for
/// more: for each endpoint that comes it looks at all rules that look endpoints up, which are two for each number.
pub const PREPARED: usize = 64;

/// The table of a family.
#[must_use]
pub fn table(family: Family, rules: &Rules) -> Table {
    let ip = address_type(family);
    let verdicts = || Set::vmap([ip, Type::InetProto, Type::InetService]);
    let endpoints = Set::map([ip, Type::InetProto, Type::InetService, Type::Mark], [ip, Type::InetService]);
    let mut table = frame(family, rules, &["learning"])
        .set("chosen", verdicts().comment("session affinity: for a client without an entry"))
        .set("chosen-local", verdicts().comment("the same, among endpoints of this node"))
        .set("endpoints", endpoints.comment("by frontend and slot"))
        .chain("input", Chain::nat(Hook::Input, priority::SRCNAT).rule(translated("learning")))
        .chain("learning", learning_chain(family));
    for protocol in Protocol::ALL {
        table = table.set(learning(protocol), Set::vmap([ip, Type::InetService]));
    }
    for count in 1..=PREPARED {
        for scope in [Scope::Inside, Scope::Outside] {
            let Some(name) = chain_of(count, scope) else { continue };
            table = table.chain(name, draw(family, count, scope));
        }
    }
    table
}

/// The chain that sends a packet to one of so many endpoints.
pub(super) fn draw(family: Family, count: usize, scope: Scope) -> Chain {
    let modulus = u32::try_from(count).unwrap_or(u32::MAX);
    let key = (daddr(family), meta::l4proto(), th::dport(), random(modulus, scope.first()));
    Chain::regular().rules([
        Rule::new([with_ports(), dnat_port_map(family, key, "endpoints")]),
        Rule::new([drop()]).comment("the endpoint has just gone"),
    ])
}

/// The map of frontends with session affinity.
pub(super) fn learning(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "learn-tcp",
        Protocol::Udp => "learn-udp",
        Protocol::Sctp => "learn-sctp",
    }
}

/// What remembers where clients went, by where they wanted to go.
fn learning_chain(family: Family) -> Chain {
    Chain::regular().rules(Protocol::ALL.map(|protocol| {
        let went_to = concat((original_daddr(family), ct::original_proto_dst()));
        Rule::new([meta::l4proto().is(protocol.number()), went_to.vmap(learning(protocol))])
    }))
}
