//! Simulator and kernel agree: real packets through a router, and the same packets through the simulator.

#![allow(clippy::too_many_lines)] // A list is as long as what it lists.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ripstop_nft::decode::Message;
use ripstop_nft::encode::dump_elements;
use ripstop_nft::model::build::*;
use ripstop_nft::model::*;
use ripstop_nft::sim::{Connection, Fate, Ruleset, Tracking, Transport, Walk};
use ripstop_types::Family;

use crate::fixture::{Elements, address, mac, prefix};
use crate::kernel::{Socket, in_namespace};
use crate::router::{A, B, From, Router, Shot, shot, udp};

/// A rule that counts before its last statement.
fn counted_rule(statements: impl IntoIterator<Item = Statement>) -> Rule {
    let mut statements: Vec<_> = statements.into_iter().collect();
    statements.insert(statements.len() - 1, counter());
    Rule::new(statements)
}

/// The same, where the last statement is no verdict and may fail.
fn counted_behind(statements: impl IntoIterator<Item = Statement>) -> Rule {
    Rule::new(statements.into_iter().chain([counter()]))
}

/// A router's table with a bit of everything.
fn tested() -> (Table, Elements) {
    let table = Table::new(TableFamily::Inet, "tested")
        .set("pods", Set::of([Type::IfName, Type::Ipv4Addr]))
        .set("cluster", Set::of([Type::Ipv4Addr]).interval())
        .set("ports", Set::of([Type::Ipv4Addr, Type::InetService, Type::InetProto]).interval())
        .set("marks", Set::map([Type::Ipv4Addr], [Type::Mark]).interval())
        .set("services", Set::map([Type::Ipv4Addr, Type::InetService], [Type::Ipv4Addr, Type::InetService]))
        .set("ways", Set::vmap([Type::Ipv4Addr]))
        .set("met", Set::of([Type::Ipv4Addr, Type::InetService]).dynamic().timeout().size(999))
        .chain(
            "raw",
            Chain::filter(Hook::Prerouting, priority::RAW).rules([
                counted_rule([udp::dport().is(7001), notrack()]),
                counted_behind([ct::state().any(CtState::INVALID)]),
            ]),
        )
        .chain(
            "mangle",
            Chain::filter(Hook::Prerouting, priority::MANGLE).rules([
                counted_behind([ct::state().any(CtState::UNTRACKED)]),
                counted_behind([ct::state().any(CtState::NEW), set_mark_map(ip::saddr(), "marks")]),
                counted_behind([
                    meta::iifname().is("r*"),
                    tcp::dport().between(7100, 7199),
                    set_mark_bits(0x100, 0xff00),
                ]),
                counted_behind([meta::mark().any(Mark(0xff00)), save_mark()]),
                counted_behind([ct::state().any(CtState::ESTABLISHED), ct::mark().is_not(0), restore_mark()]),
                counted_behind([fib::daddr_type().is(FibAddrType::LOCAL)]),
                counted_behind([fib::saddr_iif_oif().is(0)]),
                counted_behind([ether::saddr().is(mac("02:00:00:00:01:02"))]),
            ]),
        )
        .chain(
            "early",
            Chain::nat(Hook::Prerouting, -110)
                .rule(counted_rule([udp::dport().is(7206), dnat(address("10.2.0.2"), Some(7207))])),
        )
        .chain(
            "to",
            Chain::nat(Hook::Prerouting, priority::DSTNAT).rules([
                Rule::new([dnat_port_map(Family::V4, (ip::daddr(), tcp::dport()), "services")]),
                counted_rule([udp::dport().one_of([7200, 7206]), dnat(address("10.2.0.2"), Some(7201))]),
                counted_rule([udp::dport().is(7202), redirect(Some(7203))]),
                counted_rule([tcp::dport().is(7204), dnat(address("fd02::2"), Some(7205))]),
                counted_rule([meta::mark().is(0x33), ret()]),
                counted_behind([ip::daddr().within(prefix("10.9.0.0/16"))]),
                counted_rule([ip::daddr().within(prefix("10.9.0.0/16")), dnat(address("10.2.0.2"), None)]),
            ]),
        )
        .chain(
            "after",
            Chain::filter(Hook::Prerouting, -50).rules([
                counted_behind([ct::status().any(CtStatus::DNAT)]),
                counted_behind([ct::original_ip_daddr().within(prefix("10.9.0.0/16"))]),
            ]),
        )
        .chain(
            "input",
            Chain::filter(Hook::Input, priority::FILTER).rules([
                Rule::new([ct::state().verdicts([
                    (CtState::ESTABLISHED, Verdict::Accept),
                    (CtState::NEW, Verdict::Jump("fresh".into())),
                    (CtState::UNTRACKED, Verdict::Goto("fresh".into())),
                ])]),
                counted_behind([meta::pkttype().is(PktType::HOST)]),
                counted_rule([udp::dport().is(7010), drop()]),
            ]),
        )
        .chain(
            "fresh",
            Chain::regular().rules([
                counted_rule([meta::l4proto().is(Proto::TCP), th::dport().is(7012), reject_tcp_reset()]),
                counted_rule([udp::dport().is(7011), accept()]),
                counted_rule([udp::dport().is(7013), ret()]),
                counted_behind([meta::l4proto().is_not(Proto::ICMP)]),
            ]),
        )
        .chain(
            "policed",
            Chain::filter(Hook::Forward, priority::FILTER).policy(Policy::Drop).rules([
                counted_rule([ct::state().any(CtState::ESTABLISHED | CtState::RELATED), accept()]),
                counted_rule([ct::status().any(CtStatus::DNAT), accept()]),
                counted_behind([concat((meta::iifname(), ip::saddr())).not_in_set("pods")]),
                Rule::new([ip::daddr().vmap("ways")]),
                counted_rule([concat((ip::daddr(), th::dport(), meta::l4proto())).in_set("ports"), accept()]),
                counted_rule([udp::dport().is(7020), reject()]),
                counted_rule([udp::dport().is(7021), Statement::Reject(RejectWith::AdminProhibited)]),
                counted_rule([tcp::dport().is(7022), reject_tcp_reset()]),
                counted_rule([
                    tcp::flags().mask(TcpFlags::SYN | TcpFlags::ACK).is(TcpFlags::SYN),
                    tcp::dport().is(7023),
                    accept(),
                ]),
                counted_rule([icmp::kind().is(IcmpType::ECHO_REQUEST), accept()]),
                counted_rule([
                    ip6::saddr().within(prefix("fd01::/64")),
                    meta::oifname().is("rb"),
                    udp::dport().is_not(7024),
                    accept(),
                ]),
                counted_behind([ip::saddr().outside_all([prefix("10.0.0.0/8"), prefix("192.168.0.0/16")])]),
                counted_rule([udp::dport().between(7300, 7399), accept()]),
                counted_behind([concat((ip::saddr(), udp::dport())).in_set("met")]),
                counted_behind([update_set("met", (ip::saddr(), udp::dport()), Some(60))]),
                counted_rule([concat((ip::saddr(), udp::dport())).in_set("met"), udp::dport().is(7030), accept()]),
            ]),
        )
        .chain(
            "also",
            Chain::filter(Hook::Forward, priority::FILTER).rule(counted_behind([meta::nfproto().is(NfProto::IPV6)])),
        )
        .chain(
            "way",
            Chain::regular().rules([
                counted_rule([udp::dport().is(7040), goto("end")]),
                counted_rule([udp::dport().is(7041), jump("end")]),
                counted_behind([meta::mark().mask(0xff).is_not(1)]),
            ]),
        )
        .chain("end", Chain::regular().rule(counted_behind([meta::iif().is_not(0)])))
        .chain(
            "from",
            Chain::nat(Hook::Postrouting, priority::SRCNAT).rules([
                counted_rule([udp::dport().is(7301), snat(address("10.2.0.99"), Some(4_000))]),
                counted_rule([udp::dport().is(7302), snat(address("10.2.0.99"), None)]),
                counted_rule([
                    ip::saddr().within(prefix("10.1.0.0/16")),
                    ip::daddr().not_in_set("cluster"),
                    masquerade(),
                ]),
                counted_rule([
                    ct::status().any(CtStatus::DNAT),
                    ip6::daddr().is("fd02::2".parse::<std::net::Ipv6Addr>().unwrap()),
                    masquerade(),
                ]),
            ]),
        )
        .chain(
            "last",
            Chain::filter(Hook::Postrouting, 300).rules([
                counted_behind([ip::saddr().is([10, 2, 0, 99])]),
                counted_behind([ct::status().any(CtStatus::SNAT)]),
                counted_behind([meta::iifname().is("ra")]),
            ]),
        )
        .chain(
            "output",
            Chain::filter(Hook::Output, priority::FILTER).rules([
                counted_behind([meta::iifname().is_not("ra")]),
                counted_behind([meta::iif().is(0)]),
                counted_behind([ct::status().any(CtStatus::DNAT)]),
                counted_rule([udp::dport().is(7402), drop()]),
                counted_rule([udp::dport().is(7403), reject()]),
                counted_behind([ct::direction().is(CtDirection::ORIGINAL), set_ct_mark(9)]),
            ]),
        )
        .chain(
            "sent",
            Chain::nat(Hook::Output, -100).rules([
                counted_rule([udp::dport().is(7400), dnat(address("10.2.0.2"), Some(7401))]),
                counted_rule([udp::dport().is(7404), dnat(address("10.1.0.2"), None)]),
            ]),
        );
    let key = |parts: &[KeyPart]| Key::new(false, parts.iter().cloned());
    let v4 = |text: &str| KeyPart::from(address(text));
    let port = |n: u16| KeyPart::from(Value::Service(n));
    let endpoint = |ip: &str, port| ElementBody {
        data: Some(Data::Values(vec![address(ip).into(), Value::Service(port)])),
        ..ElementBody::default()
    };
    let plain = ElementBody::default;
    let range = |first, last| KeyPart::range(Value::Service(first), Value::Service(last));
    let elements = [
        table.element("pods", key(&[KeyPart::from(IfPattern::from("ra")), v4("10.1.0.2")]), plain()),
        table.element("cluster", key(&[prefix("10.1.0.0/16").into()]), plain()),
        table.element("cluster", key(&[KeyPart::range(address("10.2.0.128"), address("10.2.0.200"))]), plain()),
        table.element(
            "ports",
            key(&[prefix("10.2.0.0/24").into(), range(7050, 7059), Value::Proto(17).into()]),
            plain(),
        ),
        table.element("ports", key(&[v4("10.2.0.2"), port(7060), Value::Proto(6).into()]), plain()),
        table.element("marks", key(&[prefix("10.1.0.0/24").into()]), ElementBody::data(Value::Mark(1))),
        table.element("marks", key(&[v4("10.2.0.2")]), ElementBody::data(Value::Mark(2))),
        table.element("services", key(&[v4("10.96.0.1"), port(80)]), endpoint("10.2.0.2", 8080)),
        table.element("services", key(&[v4("10.1.0.1"), port(81)]), endpoint("10.2.0.2", 8081)),
        table.element("ways", key(&[v4("10.2.0.3")]), ElementBody::data(Verdict::Jump("way".into()))),
        table.element("ways", key(&[v4("10.2.0.4")]), ElementBody::data(Verdict::Goto("end".into()))),
        table.element("ways", key(&[v4("10.2.0.5")]), ElementBody::data(Verdict::Accept)),
    ];
    (table, elements.into())
}

fn shots() -> Vec<Shot> {
    let mut out = Vec::new();
    let mut next = 20_000;
    let mut port = || {
        next += 1;
        next
    };
    // Through the router, to its addresses and to services, from A and from a source that is nobody's.
    let targets =
        ["10.2.0.2", "10.2.0.3", "10.2.0.4", "10.2.0.5", "10.2.0.150", "10.1.0.1", "10.96.0.1", "10.9.1.1", "10.2.0.1"];
    for dst in targets {
        for dport in [80, 7001, 7011, 7013, 7020, 7021, 7030, 7040, 7041, 7055, 7200, 7206, 7301, 7302, 7303] {
            out.push(shot(From::A, A[0], dst, udp(port(), dport)));
        }
        for dport in [80, 81, 7012, 7022, 7023, 7060, 7150, 7204] {
            out.push(shot(From::A, A[0], dst, Transport::syn(port(), dport)));
        }
    }
    for (src, dport) in [("10.1.0.77", 7055), ("192.168.7.7", 7303), ("172.16.0.1", 7303), ("10.2.0.2", 7055)] {
        out.push(shot(From::A, src, "10.2.0.2", udp(port(), dport)));
    }
    for dport in [7010, 7011, 7012, 7020, 7024, 7030, 7200, 7202] {
        out.push(shot(From::A, A[1], "fd02::2", udp(port(), dport)));
        out.push(shot(From::A, A[1], "fd01::1", udp(port(), dport)));
        out.push(shot(From::B, B[0], "10.1.0.2", udp(port(), dport)));
        out.push(shot(From::B, B[0], "10.2.0.1", udp(port(), dport)));
    }
    for dst in ["fd02::2", "fd01::1", "fd09::9"] {
        out.push(shot(From::A, A[1], dst, Transport::syn(port(), 7204)));
        out.push(shot(From::A, A[1], dst, Transport::syn(port(), 7022)));
    }
    let echo = |kind| Transport::Icmp { kind, target: None };
    out.push(shot(From::A, A[0], "10.2.0.2", echo(8)));
    out.push(shot(From::A, A[1], "fd02::2", echo(128)));
    // From the router itself.
    for dport in [7400, 7402, 7403, 7404, 7405, 7301] {
        out.push(shot(From::Router, "10.2.0.1", "10.2.0.2", udp(port(), dport)));
        out.push(shot(From::Router, "fd02::1", "fd02::2", udp(port(), dport)));
    }
    out
}

#[test]
fn packets_meet_the_same_rules_in_the_kernel() {
    in_namespace(|| {
        let mut router = Router::new();
        let (table, elements) = tested();
        router.test(&table, &elements);
        let mut fates = BTreeMap::new();
        for shot in shots() {
            // A dynamic set remembers; the simulator is told what it holds by an element of its own.
            let elements = with_remembered(&mut router.socket, &table, &elements);
            let tables = [&table];
            let ruleset = Ruleset::new(tables, &elements).unwrap();
            let packet = router.simulated(&shot);
            let walk = router.compare(&ruleset, &table, &shot, packet);
            *fates.entry(walk.fate).or_insert(0) += 1;
        }
        // The table is worth something only if all ends are met.
        assert!(fates.len() >= 4 && fates.values().all(|n| *n >= 3), "{fates:?}");
    });
}

fn with_remembered(socket: &mut Socket, table: &Table, elements: &Elements) -> Elements {
    let mut out = elements.clone();
    let dump = socket.dump(|seq| dump_elements(seq, TableFamily::Inet, &table.name, &"met".into()));
    for message in dump {
        let Message::Elements(info) = message else { continue };
        for key in info.elements.into_iter().filter_map(|element| element.key) {
            let ip = IpAddr::from(<[u8; 4]>::try_from(&key[..4]).unwrap());
            let port = Value::Service(u16::from_be_bytes([key[4], key[5]]));
            let key = Key::new(false, [KeyPart::from(ip), port.into()]);
            out.extend([table.element("met", key, ElementBody::default())]);
        }
    }
    out
}

/// The connection as a later packet finds it, after the first went through like this.
fn later(first: &Shot, walk: &Walk, reply: bool) -> Connection {
    let Tracking::Connection(begun) = &walk.transit.packet.tracking else { panic!("{walk:?}") };
    let end = walk.transit.packet.clone();
    let ports = |transport: Transport| transport.ports().unwrap();
    let (first_ports, end_ports) = (ports(first.transport), ports(end.transport().unwrap()));
    let (source, destination) = if reply {
        ((first.dst, Some(first_ports.1)), (first.src, Some(first_ports.0)))
    } else {
        ((end.source().unwrap(), Some(end_ports.0)), (end.destination().unwrap(), Some(end_ports.1)))
    };
    Connection {
        status: begun.status,
        mark: begun.mark,
        original_destination: Some((first.dst, first_ports.1)),
        source_becomes: begun.status_has(CtStatus::SNAT, CtStatus::DNAT, reply).then_some(source),
        destination_becomes: begun.status_has(CtStatus::DNAT, CtStatus::SNAT, reply).then_some(destination),
        ..if reply { Connection::reply() } else { Connection::established() }
    }
}

trait Status {
    fn status_has(&self, forwards: CtStatus, backwards: CtStatus, reply: bool) -> bool;
}

impl Status for Connection {
    fn status_has(&self, forwards: CtStatus, backwards: CtStatus, reply: bool) -> bool {
        self.status & if reply { backwards.0 } else { forwards.0 } != 0
    }
}

#[test]
fn answers_and_later_packets_are_translated_alike() {
    in_namespace(|| {
        let mut router = Router::new();
        let (table, elements) = tested();
        router.test(&table, &elements);
        let ruleset = Ruleset::new([&table], &elements).unwrap();
        let mut translated = 0;
        let cases = [
            ("10.2.0.2", 7200, 30_001),
            ("10.9.1.1", 7055, 30_002),
            ("10.2.0.2", 7301, 30_003),
            ("10.2.0.150", 7055, 30_004),
            ("10.2.0.2", 7302, 30_005),
        ];
        for (dst, dport, sport) in cases {
            let first = shot(From::A, A[0], dst, udp(sport, dport));
            let packet = router.simulated(&first);
            let begun = router.compare(&ruleset, &table, &first, packet);
            assert_eq!(begun.fate, Fate::Accepted, "{first:?}");
            let end = begun.transit.packet.clone();
            let (src, dst) = end.transport().unwrap().ports().unwrap();
            let answer = Shot {
                from: From::B,
                src: end.destination().unwrap(),
                dst: end.source().unwrap(),
                transport: udp(dst, src),
            };
            let packet = router.simulated(&answer).with_connection(later(&first, &begun, true));
            let answered = router.compare(&ruleset, &table, &answer, packet);
            assert_eq!(answered.transit.packet.destination(), Some(first.src));
            assert_eq!(answered.transit.packet.source(), Some(first.dst));
            translated += usize::from(answer.src != first.dst || answer.dst != first.src);

            let mut again = later(&first, &begun, false);
            let Tracking::Connection(seen) = &answered.transit.packet.tracking else { panic!() };
            again.mark = seen.mark;
            let packet = router.simulated(&first).with_connection(again);
            let once_more = router.compare(&ruleset, &table, &first, packet);
            assert_eq!(once_more.transit.packet.destination(), end.destination());
        }
        assert!(translated >= 4, "{translated}");
    });
}
