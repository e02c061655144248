//! Ports of the host that lead to pods (`hostPort`), in `inet ripstop`.
//!
//! A port at all of the host's addresses is an element by protocol and port, one at a single address has that before them. What comes for an
//! address of the host, from anywhere or from the host itself, is looked up among the second kind first. The source is kept; only a pod
//! that reaches itself, and what the host sends from a loopback address, gets the host's own.
//!
//! Not here: whose a port is, and who serves Services: host ports are there whoever does.

use std::net::{IpAddr, Ipv6Addr};

use ripstop_netmodel::{NFT_TABLE, NftElement};
use ripstop_nft::model::{
    Chain, Data, ElementBody, ElementKey, Hook, Key as ElementValue, KeyPart, Name, Rule, Set, Table, TableFamily,
    Type, Value, build::*, priority,
};
use ripstop_tables::PodRow;
use ripstop_types::{Family, Prefix};

use crate::Part;
use crate::ruleset::address_type;

/// Maps and sets of a family.
struct Sets {
    /// Of ports at all addresses.
    ports: &'static str,
    /// Of ports at one.
    addresses: &'static str,
    /// Pods that may reach themselves.
    hairpin: &'static str,
}

fn sets(family: Family) -> Sets {
    match family {
        Family::V4 => Sets { ports: "host-ports4", addresses: "host-addresses4", hairpin: "host-hairpin4" },
        Family::V6 => Sets { ports: "host-ports6", addresses: "host-addresses6", hairpin: "host-hairpin6" },
    }
}

/// Whether elements of a set are pods' own, which lead to host ports.
pub(crate) fn is_one_of(set: &str) -> bool {
    Family::BOTH.map(sets).iter().any(|sets| [sets.ports, sets.addresses, sets.hairpin].contains(&set))
}

/// The table with what leads to host ports.
pub(crate) fn add_to(mut table: Table) -> Table {
    for family in Family::BOTH {
        let (sets, ip) = (sets(family), address_type(family));
        let port = [Type::InetProto, Type::InetService];
        table = table
            .set(sets.ports, Set::map(port, [ip, Type::InetService]))
            .set(sets.addresses, Set::map([ip, Type::InetProto, Type::InetService], [ip, Type::InetService]))
            .set(sets.hairpin, Set::of([ip, ip]));
    }
    for (hook, chain) in [(Hook::Prerouting, "to-host"), (Hook::Output, "from-host")] {
        let rule = Rule::new([fib::daddr_type().is(FibAddrType::LOCAL), jump("host-ports")]);
        table = table.chain(chain, Chain::nat(hook, priority::DSTNAT).rule(rule));
    }
    let mut leading = Chain::regular();
    for family in Family::BOTH {
        let sets = sets(family);
        let at_one = (daddr(family), meta::l4proto(), th::dport());
        let with_ports = || meta::l4proto().one_of([Proto::TCP, Proto::UDP, Proto::SCTP]);
        leading = leading.rule(Rule::new([with_ports(), dnat_port_map(family, at_one, sets.addresses)]));
        let is_family = match family {
            Family::V4 => meta::nfproto().is(NfProto::IPV4),
            // Linux lets nothing leave from there.
            Family::V6 => daddr(family).is_not(IpAddr::from(Ipv6Addr::LOCALHOST)),
        };
        let at_all = (meta::l4proto(), th::dport());
        leading = leading.rule(Rule::new([is_family, with_ports(), dnat_port_map(family, at_all, sets.ports)]));
    }
    table.chain("host-ports", leading)
}

/// What gets the host's address on its way to a pod.
pub(crate) fn masqueraded() -> Vec<Rule> {
    let led = || ct::status().any(CtStatus::DNAT);
    let mut rules: Vec<Rule> = Family::BOTH
        .into_iter()
        .map(|family| {
            let itself = concat((saddr(family), daddr(family))).in_set(sets(family).hairpin);
            Rule::new([led(), itself, masquerade_fully_random()]).comment("a pod that reaches itself by a host port")
        })
        .collect();
    // RFC 1122, 3.2.1.3.
    if let Some(loopback) = Prefix::containing(IpAddr::from([127, 0, 0, 1]), 8) {
        rules.push(Rule::new([led(), saddr(Family::V4).within(loopback), masquerade_fully_random()]));
    }
    rules
}

/// The elements of a pod.
pub(crate) fn add(part: &mut Part, row: &PodRow) {
    for ip in &row.ips {
        let family = Family::of(*ip);
        let sets = sets(family);
        let ports: Vec<_> = row.host_ports.iter().filter(|port| port.is_of(family)).collect();
        for port in &ports {
            let proto = KeyPart::Value(Proto(port.protocol.number()).into());
            let mut key = vec![proto, KeyPart::Value(Value::Service(port.port))];
            let set = match port.only_at() {
                None => sets.ports,
                Some(at) => {
                    key.insert(0, at.into());
                    sets.addresses
                }
            };
            let to = Data::Values(vec![(*ip).into(), Value::Service(port.to)]);
            part.add(element(part, set, key, Some(to)));
        }
        if !ports.is_empty() {
            part.add(element(part, sets.hairpin, vec![(*ip).into(), (*ip).into()], None));
        }
    }
}

fn element(part: &Part, set: &'static str, parts: Vec<KeyPart>, data: Option<Data>) -> NftElement {
    NftElement {
        key: ElementKey {
            family: TableFamily::Inet,
            table: Name::from(NFT_TABLE),
            set: Name::from(set),
            key: ElementValue { interval: false, parts: parts.into() },
        },
        body: ElementBody { data, ..ElementBody::comment(&part.owner) },
    }
}
