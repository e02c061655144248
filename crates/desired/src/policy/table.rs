//! The tables: what every packet that is forwarded is asked.

use ripstop_netmodel::{ENDED_SET, Entry, NFT_POLICY_TABLE, NftTable, RefusedSet, UDP, ended_set};
use ripstop_nft::model::{Chain, Hook, Rule, Set, Statement, Table, build::*, priority};
use ripstop_policy::Gate;
use ripstop_types::{Family, Owner};

use crate::Part;
use crate::ruleset::address_type;
use crate::services::frame::{WITH_PORTS, table_family, with_ports};

/// The tables of both families.
pub fn base() -> Vec<Entry> {
    let mut part = Part::of(Owner::agent());
    for family in Family::BOTH {
        part.add(NftTable { table: table(family) });
    }
    part.entries
}

/// The map that leads pods at a gate to what is asked.
pub fn map_of(gate: Gate) -> &'static str {
    match gate {
        Gate::Egress => "egress",
        Gate::Ingress => "ingress",
        Gate::EgressNear => "egress-near",
        Gate::IngressNear => "ingress-near",
    }
}

/// IPVS looks at priority 99 at the input hook (`NF_IP_PRI_NAT_SRC - 1`).
const BEHIND_IPVS: i32 = priority::SRCNAT + 10;

/// Where everything goes that is refused.
const REFUSED: &str = "refused";

/// The end of a rule that looks up what becomes of a packet: where a map says that the rule goes on, the packet is refused. So no
/// element leads to a chain for it, and the kernel need not look where.
pub fn refuse() -> Statement {
    goto(REFUSED)
}

fn table(family: Family) -> Table {
    let ip = address_type(family);
    let mut table = Table::new(table_family(family), NFT_POLICY_TABLE)
        .set(ENDED_SET, ended_set(family).comment("flows whose answers begin no others"))
        .set("itself", Set::of([ip, ip]).comment("pods that reach themselves by a Service"));
    for gate in Gate::ALL {
        table = table.set(map_of(gate), Set::vmap([ip]));
    }
    for set in RefusedSet::ALL {
        table = table.set(set.name(), set.declaration(family));
    }
    let ask = |gate: Gate| {
        let subject = if matches!(gate, Gate::Egress | Gate::EgressNear) { saddr(family) } else { daddr(family) };
        Rule::new([subject.vmap(map_of(gate)), refuse()])
    };
    let near = Chain::regular().rules([ask(Gate::EgressNear), ask(Gate::IngressNear)]);
    let both = || {
        let itself = Rule::new([concat((saddr(family), daddr(family))).in_set("itself"), goto("near")]);
        [itself.comment("no NetworkPolicy keeps a pod from itself"), ask(Gate::Egress), ask(Gate::Ingress)]
    };
    let ends = || concat((saddr(family), th::sport(), daddr(family), th::dport()));
    let over = || Rule::new([meta::l4proto().is(UDP), ends().in_set(ENDED_SET), refuse()]);
    let forward = Chain::filter(Hook::Forward, priority::FILTER).rules(passing(family)).rule(over()).rules(both());
    // Nobody is asked about what comes from the node itself. But what IPVS sends on passes here and not by `forward`.
    let own = Rule::new([fib::saddr_type().is(FibAddrType::LOCAL), accept()]);
    let output = Chain::filter(Hook::Output, priority::FILTER)
        .rules(passing(family))
        .rule(own.comment("from the node itself"))
        .rule(over())
        .rules(both());
    // What a pod sends to its own node, behind the place where IPVS takes what is for one of its servers, whose address is local, too.
    let input = Chain::filter(Hook::Input, BEHIND_IPVS).rules(passing(family)).rules([ask(Gate::EgressNear)]);
    table
        .chain("near", near)
        .chain("forward", forward)
        .chain("output", output)
        .chain("input", input)
        .chain(REFUSED, refused(family))
}

/// Counts a packet by its ends, or where there is no room by its protocol, and drops it whether or not that went well.
fn refused(family: Family) -> Chain {
    let (ends, protocol) = (|| (saddr(family), daddr(family)), meta::l4proto);
    let with_port = (ends().0, ends().1, protocol(), th::dport());
    let without = (ends().0, ends().1, protocol());
    Chain::regular().rules([
        Rule::new([with_ports(), count_in(RefusedSet::Ports.name(), with_port), drop()]),
        Rule::new([protocol().none_of(WITH_PORTS), count_in(RefusedSet::Portless.name(), without), drop()]),
        Rule::new([count_in(RefusedSet::Unnamed.name(), protocol())]),
        Rule::new([drop()]),
    ])
}

/// What nobody is asked about.
fn passing(family: Family) -> Vec<Rule> {
    let known = Rule::new([ct::state().any(CtState::ESTABLISHED | CtState::RELATED), accept()]);
    let discovery = [
        Icmpv6Type::ND_ROUTER_SOLICIT,
        Icmpv6Type::ND_ROUTER_ADVERT,
        Icmpv6Type::ND_NEIGHBOR_SOLICIT,
        Icmpv6Type::ND_NEIGHBOR_ADVERT,
        Icmpv6Type::ND_REDIRECT,
    ];
    let mut rules = vec![known.comment("a connection is judged when it begins")];
    if family == Family::V6 {
        rules.push(Rule::new([icmpv6::kind().one_of(discovery), accept()]).comment("neighbour discovery"));
    }
    rules
}
