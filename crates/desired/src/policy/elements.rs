//! What is decided, as parts and elements.

use std::net::IpAddr;

use ripstop_netmodel::{Entry, NFT_POLICY_TABLE, NftElement, NftPart};
use ripstop_nft::model::{
    Chain, Data, ElementBody, ElementKey, Filling, Key as ElementValue, KeyPart, Name, Part as TablePart, Rule, Set,
    Type, Value, Verdict, build::*,
};
use ripstop_objects::policy::Direction;
use ripstop_objects::service::Protocol;
use ripstop_policy::{Gate, Lead, Policies, PortTable, TableName, Way};
use ripstop_types::{Family, Owner};

use super::table::{map_of, refuse};
use crate::Part;
use crate::ruleset::address_type;
use crate::services::frame::{table_family, with_ports};

/// A table of ports.
pub fn ports(policies: &Policies, name: &TableName) -> Vec<Entry> {
    let (Some(table), Some(names)) = (policies.port_table(name), Names::of_ports(name)) else { return Vec::new() };
    let mut part = Part::of(Owner::agent());
    for family in Family::BOTH {
        ports_of(&mut part, family, table, &names);
    }
    part.entries
}

fn ports_of(part: &mut Part, family: Family, table: &PortTable, names: &Names) {
    let [ports, others] = [&names.first, &names.second];
    let chain = Chain::regular().rules([
        Rule::new([with_ports(), concat((meta::l4proto(), th::dport())).vmap(ports), refuse()]),
        Rule::new([meta::l4proto().vmap(others), refuse()]),
        // Between them they have every packet. Should an element be missing, nothing passes.
        Rule::new([refuse()]),
    ]);
    let definition = TablePart::new(table_family(family), NFT_POLICY_TABLE, &names.chain)
        .set(ports, Set::vmap([Type::InetProto, Type::InetService]).interval())
        .set(others, Set::vmap([Type::InetProto]).interval())
        .chain(&names.chain, chain);
    part.add(NftPart::from(definition));
    for protocol in Protocol::ALL {
        let mut first = 0;
        for (last, way) in table.of(protocol) {
            let range = KeyPart::range(Value::Service(first), Value::Service(*last));
            let key = ElementValue::new(true, [Value::Proto(protocol.number()).into(), range]);
            part.add(element(family, ports, key, verdict(*way)));
            first = last.saturating_add(1);
        }
    }
    let every = KeyPart::range(Value::Proto(0), Value::Proto(u8::MAX));
    part.add(element(family, others, ElementValue::new(true, [every]), verdict(table.others)));
}

/// A table of peers without its exceptions.
pub fn peers(policies: &Policies, name: &TableName) -> Vec<Entry> {
    let (Some(table), Some(names)) = (policies.peer_table(name), Names::of_peers(name)) else { return Vec::new() };
    let mut part = Part::of(Owner::agent());
    for family in Family::BOTH {
        let other = || match table.direction() {
            Direction::Ingress => saddr(family),
            Direction::Egress => daddr(family),
        };
        let ip = address_type(family);
        let [single, blocks] = [&names.first, &names.second];
        let mut chain = Chain::regular().rule(Rule::new([other().vmap(single), refuse()]));
        let mut definition =
            TablePart::new(table_family(family), NFT_POLICY_TABLE, &names.chain).set(single, Set::vmap([ip]));
        let of_family = table.blocks(family);
        if !of_family.is_empty() {
            let filling = Filling { ranges: of_family, data: Data::Verdict(said(!table.otherwise())) };
            definition = definition.filled_set(blocks, Set::vmap([ip]).interval(), filling);
            chain = chain.rule(Rule::new([other().vmap(blocks), refuse()]));
        }
        if !table.otherwise() {
            chain = chain.rule(Rule::new([refuse()]));
        }
        part.add(NftPart::from(definition.chain(&names.chain, chain)));
    }
    part.entries
}

/// What a table of peers says of an address because of who has it.
pub fn exception(policies: &Policies, name: &TableName, ip: IpAddr) -> Vec<Entry> {
    let said_of = policies.peer_table(name).and_then(|table| table.exception(ip));
    let (Some(is_accepted), Some(names)) = (said_of, Names::of_peers(name)) else { return Vec::new() };
    let mut part = Part::of(Owner::agent());
    part.add(element(Family::of(ip), &names.first, ElementValue::new(false, [ip]), said(is_accepted)));
    part.entries
}

/// What leads an address of a pod of this node to tables.
pub fn subject(policies: &Policies, ip: IpAddr) -> Vec<Entry> {
    let Some((name, own)) = policies.pod(ip) else { return Vec::new() };
    let (mut part, family) = (Part::of(Owner::pod(name)), Family::of(ip));
    for gate in Gate::ALL {
        let verdict = match policies.lead(gate, ip) {
            Lead::Way(Way::Accept) => continue,
            Lead::Way(Way::Deny) => REFUSED,
            Lead::Way(Way::Peers(name)) => leading(Names::of_peers(&name)),
            Lead::Ports(name) => leading(Names::of_ports(&name)),
        };
        part.add(element(family, &Name::from(map_of(gate)), ElementValue::new(false, [ip]), verdict));
    }
    if part.entries.is_empty() {
        return part.entries;
    }
    // Other addresses of the pod have the same leads, and pairs of their own.
    for other in own.iter().filter(|other| Family::of(**other) == family) {
        let key = key(family, &Name::from("itself"), ElementValue::new(false, [ip, *other]));
        part.add(NftElement { key, body: ElementBody::comment(&part.owner) });
    }
    part.entries
}

/// The names of a part, of its chain, and of its two sets.
struct Names {
    chain: Name,
    first: Name,
    second: Name,
}

impl Names {
    fn of_ports(table: &TableName) -> Option<Self> {
        Self::of(&format!("ports/{table}"), "ports", "others")
    }

    fn of_peers(table: &TableName) -> Option<Self> {
        Self::of(&format!("peers/{table}"), "single", "blocks")
    }

    fn of(part: &str, first: &str, second: &str) -> Option<Self> {
        let within = |set: &str| format!("{part}/{set}").parse().ok();
        Some(Self { chain: part.parse().ok()?, first: within(first)?, second: within(second)? })
    }
}

/// On to a part's chain and back. A part without a name, which none is, lets nothing pass.
fn leading(names: Option<Names>) -> Verdict {
    names.map_or(Verdict::Drop, |names| Verdict::Jump(names.chain))
}

/// Where a packet goes on is behind what led to the tables: the other end may still be asked.
fn said(is_accepted: bool) -> Verdict {
    if is_accepted { Verdict::Return } else { REFUSED }
}

/// The rule that looked goes on, to where packets are refused.
const REFUSED: Verdict = Verdict::Continue;

fn verdict(way: Way) -> Verdict {
    match way {
        Way::Accept => said(true),
        Way::Deny => said(false),
        Way::Peers(name) => Names::of_peers(&name).map_or(Verdict::Drop, |names| Verdict::Goto(names.chain)),
    }
}

fn element(family: Family, set: &Name, value: ElementValue, verdict: Verdict) -> NftElement {
    NftElement { key: key(family, set, value), body: ElementBody::data(Data::Verdict(verdict)) }
}

fn key(family: Family, set: &Name, key: ElementValue) -> ElementKey {
    ElementKey { family: table_family(family), table: Name::from(NFT_POLICY_TABLE), set: set.clone(), key }
}
