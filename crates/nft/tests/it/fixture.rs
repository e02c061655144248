//! Tables with every statement the model has.

#![allow(clippy::too_many_lines)] // A list is as long as what it lists.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ripstop_nft::model::build::*;
use ripstop_nft::model::*;
use ripstop_types::{Family, Mac, Prefix};

pub type Elements = BTreeMap<ElementKey, ElementBody>;

pub fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

pub fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn mac(text: &str) -> Mac {
    text.parse().unwrap()
}

fn name(text: &'static str) -> Value {
    IfPattern::from(text).into()
}

fn rules(statements: impl IntoIterator<Item = Statement>) -> Vec<Rule> {
    statements.into_iter().map(|one| Rule::new([one, accept()])).collect()
}

/// An inet table with every match.
pub fn matches() -> Table {
    let state = CtState::ESTABLISHED | CtState::RELATED;
    let simple = rules([
        meta::iifname().is("rip*"),
        meta::iifname().is("rip0"),
        meta::iifname().is_not("rip*"),
        meta::oifname().one_of(["rip1", "eth0", "a"]),
        meta::oif().is(77),
        meta::l4proto().is_not(Proto::TCP),
        meta::nfproto().is(NfProto::IPV6),
        meta::protocol().is(EtherType::IPV4),
        meta::mark().is(0x10),
        meta::mark().is_not(0x10),
        meta::mark().mask(0xff).is(1),
        meta::mark().mask(0xff).is_not(1),
        meta::mark().any(Mark(0xf0)),
        meta::mark().none(Mark(0xf0)),
        meta::mark().one_of([1, 2]),
        meta::pkttype().one_of([PktType::BROADCAST, PktType::MULTICAST]),
        ip::saddr().is(std::net::Ipv4Addr::new(10, 0, 0, 1)),
        ip::saddr().is_not(std::net::Ipv4Addr::new(10, 0, 0, 1)),
        ip::saddr().within(prefix("10.0.0.0/8")),
        ip::saddr().outside(prefix("10.128.0.0/9")),
        ip::daddr().within(prefix("10.1.2.128/25")),
        ip::saddr().between(std::net::Ipv4Addr::new(10, 0, 0, 1), std::net::Ipv4Addr::new(10, 0, 0, 9)),
        ip::saddr().within_any([
            prefix("10.0.0.0/24"),
            prefix("10.0.2.0/24"),
            prefix("0.0.0.0/8"),
            prefix("255.0.0.0/8"),
        ]),
        ip::saddr().outside_all([prefix("192.168.0.0/16"), prefix("1.2.3.4/32")]),
        ip::daddr().in_set("v4"),
        ip::daddr().not_in_set("v4"),
        ip::protocol().is(Proto::SCTP),
        ip6::saddr().within(prefix("fd00::/64")),
        ip6::daddr().within(prefix("fd00::/9")),
        ip6::daddr().in_set("v6"),
        ip6::nexthdr().is(Proto::TCP),
        saddr(Family::V6).is(address("fd00::1")),
        ether::saddr().is(mac("00:11:22:33:44:55")),
        ether::kind().is(EtherType::ARP),
        tcp::dport().is(80),
        tcp::dport().is_not(80),
        tcp::dport().between(1000, 2000),
        tcp::sport().one_of([80, 443]),
        tcp::flags().mask(TcpFlags::SYN | TcpFlags::ACK).is(TcpFlags::SYN),
        tcp::flags().any(TcpFlags::SYN | TcpFlags::ACK),
        tcp::flags().is(TcpFlags::SYN),
        udp::dport().is(53),
        icmp::kind().is(IcmpType::ECHO_REQUEST),
        icmpv6::kind().one_of([Icmpv6Type::ND_NEIGHBOR_SOLICIT, Icmpv6Type::ND_NEIGHBOR_ADVERT]),
        ct::state().any(state),
        ct::state().none(CtState::NEW),
        ct::state().is(CtState::NEW),
        ct::state().one_of([CtState::NEW, CtState::ESTABLISHED]),
        ct::status().any(CtStatus::DNAT),
        ct::status().none(CtStatus::SNAT),
        ct::mark().mask(0xf0).is_not(0x10),
        ct::direction().is(CtDirection::REPLY),
        ct::original_ip_daddr().is(std::net::Ipv4Addr::new(1, 2, 3, 4)),
        ct::original_ip6_daddr().is("fd00::1".parse::<std::net::Ipv6Addr>().unwrap()),
        fib::daddr_type().is(FibAddrType::LOCAL),
        fib::daddr_type().one_of([FibAddrType::LOCAL, FibAddrType::BROADCAST]),
        fib::daddr_iif_type().is(FibAddrType::LOCAL),
        fib::saddr_iif_oif().is(0),
        fib::saddr_iif_oif().is_not(0),
        concat((meta::iifname(), ip::saddr())).in_set("pods"),
        concat((meta::iifname(), ip::saddr())).not_in_set("pods"),
        concat((ip::daddr(), th::dport(), meta::l4proto())).in_set("services"),
        limit(10, TimeUnit::Second),
    ]);
    let several = [
        Rule::new([meta::nfproto().is(NfProto::IPV4), ip::saddr().is(std::net::Ipv4Addr::new(1, 2, 3, 4)), drop()]),
        Rule::new([meta::l4proto().one_of([Proto::TCP, Proto::UDP]), th::dport().is(53), accept()]),
        Rule::new([meta::l4proto().is(Proto::TCP), th::dport().is(53), accept()]),
        Rule::new([ip::saddr().within(prefix("10.0.0.0/8")), tcp::dport().is(80), counter(), drop()])
            .comment("pod/default/web"),
        Rule::new([meta::l4proto().is(Proto::TCP), ct::original_proto_dst().is(80), accept()]),
    ];
    Table::new(TableFamily::Inet, "ripstop")
        .comment("node/n1")
        .set("v4", Set::of([Type::Ipv4Addr]).interval())
        .set("v6", Set::of([Type::Ipv6Addr]).interval().comment("six"))
        .set("pods", Set::of([Type::IfName, Type::Ipv4Addr]))
        .set("services", Set::of([Type::Ipv4Addr, Type::InetService, Type::InetProto]).interval())
        .chain(
            "every",
            Chain::filter(Hook::Prerouting, -50)
                .policy(Policy::Drop)
                .comment("every match")
                .rules(simple)
                .rules(several),
        )
}

/// An inet table with every action.
pub fn actions() -> Table {
    let v4 = || vec![KeyPart::from(Value::Ipv4([1, 2, 3, 4].into()))];
    let inline = Statement::CtMark(MarkSource::Map {
        key: vec![Selector::IpSaddr],
        map: MapRef::Inline(vec![
            (v4(), Value::Mark(5).into()),
            (vec![prefix("10.0.0.0/8").into()], Value::Mark(7).into()),
        ]),
    });
    let general = [
        Rule::new([ip::daddr().vmap("verdicts")]),
        Rule::new([concat((meta::iifname(), ip::saddr())).vmap("paired")]),
        Rule::new([ct::state().verdicts([
            (CtState::NEW, Verdict::Accept),
            (CtState::INVALID, Verdict::Drop),
            (CtState::ESTABLISHED, Verdict::Jump("sub".into())),
        ])]),
        Rule::new([set_mark(0x10)]),
        Rule::new([set_mark_bits(1, 0xffff)]),
        Rule::new([Statement::MetaMark(MarkSource::Change { keep: 0xff, set: 0 })]),
        Rule::new([Statement::MetaMark(MarkSource::Change { keep: !0xff, set: 0xff })]),
        Rule::new([set_mark_map(ip::saddr(), "marks")]),
        Rule::new([set_mark_random(4)]),
        Rule::new([Statement::MetaMark(MarkSource::Number(NumGen { random: false, modulus: 4, offset: 100 }))]),
        Rule::new([set_ct_mark(5)]),
        Rule::new([save_mark()]),
        Rule::new([restore_mark()]),
        Rule::new([Statement::MetaMark(MarkSource::Ct(0xff))]),
        Rule::new([inline]),
        Rule::new([update_set("seen", (ip::saddr(), meta::mark()), Some(5))]),
        Rule::new([Statement::SetUpdate(SetUpdate {
            set: "chosen".into(),
            key: vec![Selector::IpSaddr],
            data: vec![Selector::IpDaddr],
            timeout: Some(60),
            refresh: false,
            counter: false,
        })]),
        Rule::new([count_in("counted", (ip::saddr(), ip::daddr(), meta::l4proto(), th::dport())), drop()]),
        Rule::new([ip::saddr().vmap("verdicts"), goto("sub")]),
        Rule::new([log("dropped: ")]),
        Rule::new([Statement::Log(Log { prefix: None, group: Some(5) })]),
        Rule::new([
            Statement::Limit(Limit { rate: 10, unit: TimeUnit::Minute, burst: 20, over: true }),
            counter(),
            drop(),
        ]),
        Rule::new([reject()]),
        Rule::new([Statement::Reject(RejectWith::AdminProhibited)]),
        Rule::new([Statement::Reject(RejectWith::HostUnreachable)]),
        Rule::new([Statement::Reject(RejectWith::NoRoute)]),
        Rule::new([reject_tcp_reset()]),
        Rule::new([tcp::dport().is(80), reject_tcp_reset()]),
        Rule::new([goto("sub")]),
    ];
    let dnat_chain = [
        Rule::new([dnat_port_map(Family::V4, (ip::daddr(), tcp::dport()), "to4")]),
        Rule::new([dnat_port_map(Family::V6, (ip6::daddr(), tcp::dport()), "to6")]),
        Rule::new([dnat_map(Family::V4, ip::daddr(), "plain4")]),
        Rule::new([dnat(address("1.2.3.4"), None)]),
        Rule::new([tcp::dport().is(80), dnat(address("1.2.3.4"), Some(8080))]),
        Rule::new([tcp::dport().is(80), dnat(address("fd00::1"), Some(8080))]),
        Rule::new([meta::l4proto().is(Proto::UDP), redirect(Some(53))]),
        Rule::new([redirect(None)]),
    ];
    let snat_chain = [
        Rule::new([ip::saddr().within(prefix("10.0.0.0/8")), ip::daddr().not_in_set("v4"), masquerade_fully_random()])
            .comment("network/default"),
        Rule::new([ct::status().any(CtStatus::DNAT), masquerade()]),
        Rule::new([snat(address("1.2.3.4"), None)]),
        Rule::new([snat_map(Family::V4, ip::saddr(), "plain4")]),
    ];
    let counted = Set::of([Type::Ipv4Addr, Type::Ipv4Addr, Type::InetProto, Type::InetService]);
    Table::new(TableFamily::Inet, "actions")
        .set("v4", Set::of([Type::Ipv4Addr]).interval())
        .set("verdicts", Set::vmap([Type::Ipv4Addr]))
        .set("paired", Set::vmap([Type::IfName, Type::Ipv4Addr]))
        .set("marks", Set::map([Type::Ipv4Addr], [Type::Mark]).interval())
        .set("seen", Set::of([Type::Ipv4Addr, Type::Mark]).dynamic().timeout().size(65_535))
        .set("counted", counted.dynamic().default_timeout(60).size(4_096))
        .set("chosen", Set::map([Type::Ipv4Addr], [Type::Ipv4Addr]).dynamic().default_timeout(10_800).size(1_000))
        .set("to4", Set::map([Type::Ipv4Addr, Type::InetService], [Type::Ipv4Addr, Type::InetService]))
        .set("to6", Set::map([Type::Ipv6Addr, Type::InetService], [Type::Ipv6Addr, Type::InetService]))
        .set("plain4", Set::map([Type::Ipv4Addr], [Type::Ipv4Addr]))
        .chain("sub", Chain::regular().comment("below").rule(Rule::new([ret()])))
        .chain("general", Chain::filter(Hook::Input, priority::FILTER).rules(general))
        .chain("raw", Chain::filter(Hook::Prerouting, priority::RAW + 10).rule(Rule::new([notrack()])))
        .chain("inwards", Chain::nat(Hook::Prerouting, priority::DSTNAT).rules(dnat_chain))
        .chain("outwards", Chain::nat(Hook::Postrouting, priority::SRCNAT + 5).rules(snat_chain))
        .chain("again", Chain::route(priority::MANGLE).rule(Rule::new([set_mark(1)])))
        .chain("early", Chain::ingress("lo".parse().unwrap(), 5).rule(Rule::new([ip::saddr().in_set("v4"), drop()])))
}

/// Elements for every named set of [`matches`] and [`actions`], plain ones and ranges at both ends of the numbers.
pub fn elements() -> Elements {
    let (matches, actions) = (matches(), actions());
    let key = |parts: Vec<KeyPart>| Key::new(false, parts);
    let of = |table: &Table, set: &'static str, parts: Vec<KeyPart>, body| table.element(set, key(parts), body);
    let plain = ElementBody::default;
    let v4 = |text: &str| KeyPart::from(address(text));
    let port = |n| KeyPart::from(Value::Service(n));
    let mut out = Elements::new();
    for table in [&matches, &actions] {
        out.extend([
            of(table, "v4", vec![prefix("0.0.0.0/8").into()], plain()),
            of(table, "v4", vec![prefix("10.0.0.0/24").into()], ElementBody::comment("node/n1")),
            of(table, "v4", vec![prefix("10.0.1.0/24").into()], ElementBody::comment("node/n2")),
            of(table, "v4", vec![KeyPart::range(address("10.3.0.1"), address("10.3.0.5"))], plain()),
            of(table, "v4", vec![v4("192.168.0.1")], plain()),
            of(table, "v4", vec![prefix("255.0.0.0/8").into()], ElementBody::comment("the last")),
        ]);
    }
    out.extend([
        of(&matches, "v6", vec![prefix("fd00::/64").into()], plain()),
        of(&matches, "v6", vec![v4("::1")], plain()),
        of(&matches, "pods", vec![name("rip0").into(), v4("10.0.0.2")], ElementBody::comment("pod/default/web")),
        of(&matches, "pods", vec![name("rip1").into(), v4("10.0.0.3")], plain()),
        of(&matches, "services", vec![prefix("10.96.0.0/16").into(), port(80), Value::Proto(6).into()], plain()),
        of(
            &matches,
            "services",
            vec![v4("10.97.0.1"), KeyPart::range(Value::Service(80), Value::Service(90)), Value::Proto(17).into()],
            ElementBody::comment("range"),
        ),
        of(&actions, "verdicts", vec![v4("1.2.3.4")], ElementBody::data(Verdict::Jump("sub".into()))),
        of(&actions, "verdicts", vec![v4("1.2.3.5")], ElementBody::data(Verdict::Drop).with_comment("gone")),
        of(&actions, "verdicts", vec![v4("1.2.3.6")], ElementBody::data(Verdict::Goto("sub".into()))),
        of(&actions, "paired", vec![name("rip0").into(), v4("1.2.3.4")], ElementBody::data(Verdict::Accept)),
        of(&actions, "marks", vec![prefix("10.0.0.0/8").into()], ElementBody::data(Value::Mark(0x105))),
        of(
            &actions,
            "to4",
            vec![v4("10.96.0.1"), port(80)],
            ElementBody {
                data: Some(Data::Values(vec![Value::Ipv4([10, 0, 0, 2].into()), Value::Service(8080)])),
                ..plain()
            },
        ),
        of(
            &actions,
            "to6",
            vec![v4("fd96::1"), port(80)],
            ElementBody { data: Some(Data::Values(vec![address("fd00::2").into(), Value::Service(8080)])), ..plain() },
        ),
        of(&actions, "plain4", vec![v4("1.2.3.4")], ElementBody::data(address("5.6.7.8"))),
    ]);
    out
}

/// Tables of the other families.
pub fn others() -> Vec<Table> {
    let v4 = std::net::Ipv4Addr::new(10, 0, 0, 2);
    let bridge = [
        Rule::new([
            ether::kind().is(EtherType::ARP),
            arp::operation().is(ArpOp::REQUEST),
            arp::saddr_ip().is(v4),
            accept(),
        ]),
        Rule::new([ip::saddr().is(v4), accept()]),
        Rule::new([concat((meta::iifname(), ether::saddr())).not_in_set("macs"), counter(), drop()]),
        Rule::new([concat((meta::iifname(), ether::saddr(), arp::saddr_ip())).not_in_set("arps"), drop()]),
        Rule::new([ether::kind().one_of([EtherType::ARP, EtherType::IPV4, EtherType::IPV6]), accept()]),
        Rule::new([icmpv6::kind().is(Icmpv6Type::ND_NEIGHBOR_ADVERT), accept()]),
        Rule::new([tcp::dport().is(80), accept()]),
        Rule::new([
            icmpv6::kind().is(Icmpv6Type::ND_NEIGHBOR_ADVERT),
            icmpv6::nd_target().is("fd00::1".parse::<std::net::Ipv6Addr>().unwrap()),
            accept(),
        ]),
    ];
    let netdev = [
        Rule::new([ip::saddr().is(v4), udp::dport().is(8472), accept()]),
        Rule::new([arp::saddr_ip().is(v4), accept()]),
        Rule::new([ether::saddr().is(mac("00:11:22:33:44:55")), accept()]),
        Rule::new([ip6::saddr().is("fd00::1".parse::<std::net::Ipv6Addr>().unwrap()), udp::dport().is(8472), accept()]),
        Rule::new([set_mark(5)]),
        Rule::new([ip::saddr().is(v4), fwd("lo".parse().unwrap(), 1)]),
    ];
    vec![
        Table::new(TableFamily::Ip, "t")
            .chain(
                "a",
                Chain::filter(Hook::Input, priority::FILTER).rules([
                    Rule::new([ip::saddr().is(v4), tcp::dport().is(80), accept()]),
                    Rule::new([icmp::kind().is(IcmpType::ECHO_REQUEST), accept()]),
                    Rule::new([reject()]),
                ]),
            )
            .chain("n", Chain::nat(Hook::Output, -100).rule(Rule::new([dnat(address("1.2.3.4"), None)]))),
        Table::new(TableFamily::Ip6, "t").chain(
            "a",
            Chain::filter(Hook::Forward, priority::SECURITY).rules([
                Rule::new([
                    ip6::saddr().within(prefix("fd00::/48")),
                    icmpv6::kind().is(Icmpv6Type::ECHO_REQUEST),
                    accept(),
                ]),
                Rule::new([Statement::Reject(RejectWith::AdminProhibited)]),
            ]),
        ),
        Table::new(TableFamily::Arp, "t").chain(
            "a",
            Chain::filter(Hook::Input, priority::FILTER).rules([
                Rule::new([arp::operation().is(ArpOp::REQUEST), arp::saddr_ip().is(v4), accept()]),
                Rule::new([arp::saddr_ether().is(mac("00:11:22:33:44:55")), accept()]),
            ]),
        ),
        Table::new(TableFamily::Bridge, "t")
            .set("macs", Set::of([Type::IfName, Type::EtherAddr]))
            .set("arps", Set::of([Type::IfName, Type::EtherAddr, Type::Ipv4Addr]))
            .chain("a", Chain::filter(Hook::Prerouting, priority::BRIDGE_DSTNAT).rules(bridge))
            .chain("b", Chain::filter(Hook::Forward, priority::BRIDGE_FILTER).policy(Policy::Drop)),
        Table::new(TableFamily::Netdev, "t").chain("a", Chain::ingress("lo".parse().unwrap(), 0).rules(netdev)),
    ]
}
