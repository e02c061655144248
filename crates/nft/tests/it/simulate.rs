//! The simulator by itself: what it says, and that it says nothing where it cannot know.

use ripstop_nft::model::build::*;
use ripstop_nft::model::*;
use ripstop_nft::sim::{
    Connection, Ether, Fate, Host, Link, Network, Nothing, Packet, Route, Ruleset, Stage, Tracking, Transit, Transport,
    Walk, World,
};
use ripstop_types::Mac;

use crate::fixture::{Elements, actions, address, elements, matches, others, prefix};

fn link(name: &str, index: u32) -> Link {
    Link { name: name.parse().unwrap(), index }
}

/// A node with one pod.
fn node() -> Host {
    let (eth0, pod) = (link("eth0", 2), link("rip0", 3));
    Host {
        links: vec![(eth0.clone(), vec![address("192.0.2.1")]), (pod.clone(), vec![])],
        routes: [(prefix("0.0.0.0/0"), eth0), (prefix("10.244.0.2/32"), pod)].into(),
    }
}

fn from_pod(dst: &str, transport: Transport) -> Packet {
    Packet::received(link("rip0", 3), address("10.244.0.2"), address(dst), transport)
}

fn udp(dst: u16) -> Transport {
    Transport::Udp { src: 1_000, dst }
}

fn forward(rules: impl IntoIterator<Item = Rule>) -> Table {
    Table::new(TableFamily::Inet, "t").chain("forward", Chain::filter(Hook::Forward, 0).rules(rules))
}

fn walk(table: &Table, packet: Packet, world: &dyn World) -> Result<Walk, String> {
    let none = Elements::new();
    let ruleset = Ruleset::new([table], &none).unwrap();
    ruleset.receive(packet, world).map_err(|fault| fault.to_string())
}

#[test]
fn a_pods_way_out_is_masqueraded_and_explained() {
    let table = Table::new(TableFamily::Inet, "ripstop")
        .set("pods", Set::of([Type::IfName, Type::Ipv4Addr]))
        .set("cluster", Set::of([Type::Ipv4Addr]).interval())
        .chain(
            "spoof",
            Chain::filter(Hook::Prerouting, priority::RAW).rule(
                Rule::new([
                    meta::iifname().is("rip*"),
                    concat((meta::iifname(), ip::saddr())).not_in_set("pods"),
                    drop(),
                ])
                .comment("agent"),
            ),
        )
        .chain(
            "out",
            Chain::nat(Hook::Postrouting, priority::SRCNAT).rule(
                Rule::new([
                    ip::saddr().in_set("cluster"),
                    ip::daddr().not_in_set("cluster"),
                    masquerade_fully_random(),
                ])
                .comment("network/default"),
            ),
        );
    let parts: [KeyPart; 2] = [IfPattern::from("rip0").into(), address("10.244.0.2").into()];
    let elements: Elements = [
        table.element("pods", Key::new(false, parts), ElementBody::default()),
        table.element("cluster", Key::new(true, [prefix("10.244.0.0/16")]), ElementBody::default()),
    ]
    .into();
    let ruleset = Ruleset::new([&table], &elements).unwrap();
    let world = node();

    let out = ruleset.receive(from_pod("198.51.100.1", udp(53)), &world).unwrap();
    assert_eq!(out.fate, Fate::Accepted);
    assert_eq!(out.transit.masquerade, Some(NatFlags::FULLY_RANDOM));
    assert_eq!(out.transit.packet.source(), Some(address("192.0.2.1")));
    assert!(out.transit.port_open);
    let trail: Vec<_> = out.transit.trail.iter().map(ToString::to_string).collect();
    assert_eq!(
        trail,
        [
            "inet ripstop spoof: policy accept",
            "inet ripstop out 1: ip saddr @cluster ip daddr != @cluster masquerade fully-random comment \"network/default\"",
        ]
    );

    let mut false_source = from_pod("198.51.100.1", udp(53));
    false_source.network = Network::Ip { src: address("10.244.9.9"), dst: address("198.51.100.1"), transport: udp(53) };
    let dropped = ruleset.receive(false_source, &world).unwrap();
    assert_eq!(dropped.fate, Fate::Dropped);
    assert_eq!(dropped.transit.trail.last().and_then(|step| step.comment.clone()), Some("agent".into()));
}

#[test]
fn what_cannot_be_known_is_an_error_that_says_why() {
    struct Routes;
    impl World for Routes {
        fn route(&self, packet: &Packet) -> Option<Route> {
            node().route(packet)
        }
    }
    let numbers = Statement::MetaMark(MarkSource::Number(NumGen { random: true, modulus: 2, offset: 0 }));
    let random = Rule::new([numbers, counter()]);
    let cases = [
        (Rule::new([limit(1, TimeUnit::Second), accept()]), "the rate is below"),
        (random, "which number is generated"),
        (Rule::new([fib::daddr_type().is(FibAddrType::LOCAL), drop()]), "routing tables hold for 198.51.100.1"),
        (Rule::new([fib::saddr_iif_oif().is(0), drop()]), "routing tables hold for 10.244.0.2"),
        (Rule::new([th::dport().is(53), drop()]), "ports of Other(47)"),
        (Rule::new([th::dport().none_of([53]), drop()]), "ports of Other(47)"),
        (Rule::new([ct::original_proto_dst().is(53), drop()]), "original destination is not given"),
    ];
    for (rule, expected) in cases {
        let text = ripstop_nft::text::rule(TableFamily::Inet, &rule);
        let packet = from_pod("198.51.100.1", Transport::Other(47)).with_connection(Connection::new());
        let fault = walk(&forward([rule]), packet, &Routes).unwrap_err();
        assert!(fault.contains(expected) && fault.contains(&text) && fault.contains("chain inet t forward"), "{fault}");
    }
    let fault = walk(&forward([]), from_pod("198.51.100.1", udp(53)), &Nothing).unwrap_err();
    assert!(fault.contains("does not say where"), "{fault}");
}

#[test]
fn an_unknown_port_does_no_harm_where_no_element_could_be_meant() {
    let table = forward([Rule::new([concat((ip::daddr(), th::dport(), meta::l4proto())).in_set("open"), accept()])])
        .set("open", Set::of([Type::Ipv4Addr, Type::InetService, Type::InetProto]));
    let entry = |protocol| {
        let parts: [KeyPart; 3] =
            [address("198.51.100.1").into(), Value::Service(53).into(), Value::Proto(protocol).into()];
        Elements::from([table.element("open", Key::new(false, parts), ElementBody::default())])
    };
    let packet = || from_pod("198.51.100.1", Transport::Other(47));
    let (other, same) = (entry(17), entry(47));
    let ruleset = Ruleset::new([&table], &other).unwrap();
    assert_eq!(ruleset.receive(packet(), &node()).unwrap().transit.trail.len(), 1, "only the policy");
    let ruleset = Ruleset::new([&table], &same).unwrap();
    assert!(ruleset.receive(packet(), &node()).is_err());
}

#[test]
fn a_masqueraded_source_is_not_guessed() {
    struct NoAddresses;
    impl World for NoAddresses {
        fn route(&self, packet: &Packet) -> Option<Route> {
            node().route(packet)
        }
    }
    let table = Table::new(TableFamily::Inet, "t")
        .chain("from", Chain::nat(Hook::Postrouting, 100).rule(Rule::new([masquerade()])))
        .chain(
            "later",
            Chain::filter(Hook::Postrouting, 200).rule(Rule::new([
                udp::dport().is(53),
                ip::saddr().is([1, 2, 3, 4]),
                drop(),
            ])),
        );
    let asked = walk(&table, from_pod("198.51.100.1", udp(53)), &NoAddresses).unwrap_err();
    assert!(asked.contains("masqueraded"), "{asked}");
    let not_asked = walk(&table, from_pod("198.51.100.1", udp(54)), &NoAddresses).unwrap();
    assert_eq!((not_asked.fate, not_asked.transit.masquerade), (Fate::Accepted, Some(NatFlags::default())));
}

#[test]
fn an_order_nobody_knows_is_an_error() {
    let chain = || Chain::filter(Hook::Forward, 0).rule(Rule::new([counter()]));
    let one = Table::new(TableFamily::Inet, "one").chain("a", chain());
    let two = Table::new(TableFamily::Ip, "two").chain("b", chain());
    let six = Table::new(TableFamily::Ip6, "two").chain("b", chain());
    let none = Elements::new();
    let packet = || from_pod("198.51.100.1", udp(53));
    let fault = Ruleset::new([&one, &two], &none).unwrap().receive(packet(), &node()).unwrap_err();
    assert!(fault.to_string().contains("same priority 0"), "{fault}");
    assert!(Ruleset::new([&one, &six], &none).unwrap().receive(packet(), &node()).is_ok());
    let nat = Table::new(TableFamily::Inet, "t")
        .chain("to", Chain::nat(Hook::Prerouting, -90).rule(Rule::new([udp::dport().is(1), redirect(None)])))
        .chain("mark", Chain::filter(Hook::Prerouting, -100).rule(Rule::new([set_mark(1)])));
    let fault = walk(&nat, packet(), &node()).unwrap_err();
    assert!(fault.contains("priority of address translation"), "{fault}");
}

#[test]
fn later_packets_need_their_translation_given() {
    let connection = Connection { status: CtStatus::DNAT.0, ..Connection::established() };
    let table = forward([]);
    let packet = || from_pod("10.96.0.1", Transport::syn(1, 80));
    let fault = walk(&table, packet().with_connection(connection.clone()), &node()).unwrap_err();
    assert!(fault.contains("not given with the connection"), "{fault}");
    let told = Connection { destination_becomes: Some((address("198.51.100.1"), Some(8080))), ..connection };
    let end = walk(&table, packet().with_connection(told), &node()).unwrap().transit.packet;
    assert_eq!(end.destination(), Some(address("198.51.100.1")));
    assert_eq!(end.transport().and_then(Transport::ports), Some((1, 8080)));
}

#[test]
fn connections_are_seen_from_their_place_in_the_order_on() {
    let state = |bits: CtState, mark| Rule::new([ct::state().any(bits), set_mark(mark)]);
    let table = Table::new(TableFamily::Inet, "t")
        .chain(
            "raw",
            Chain::filter(Hook::Prerouting, -300)
                .rules([state(CtState::INVALID, 1), Rule::new([udp::dport().is(9), notrack()])]),
        )
        .chain(
            "mangle",
            Chain::filter(Hook::Prerouting, -150).rules([state(CtState::NEW, 2), state(CtState::UNTRACKED, 3)]),
        );
    for (port, mark) in [(53, 2), (9, 3)] {
        let end = walk(&table, from_pod("198.51.100.1", udp(port)), &node()).unwrap().transit.packet;
        assert_eq!(end.mark, mark);
        assert_eq!(end.tracking == Tracking::Untracked, port == 9);
    }
    let at = Table::new(TableFamily::Inet, "t")
        .chain("same", Chain::filter(Hook::Prerouting, -200).rule(state(CtState::NEW, 2)));
    assert!(walk(&at, from_pod("198.51.100.1", udp(53)), &node()).unwrap_err().contains("same priority"));
    let bridge = Table::new(TableFamily::Bridge, "t")
        .chain("a", Chain::filter(Hook::Prerouting, 0).rule(state(CtState::NEW, 2)));
    let none = Elements::new();
    let ether = Ether { src: Mac([2; 6]), dst: Mac([2; 6]) };
    let frame = Packet::frame(link("p0", 1), ether, from_pod("198.51.100.1", udp(53)).network);
    let at =
        Ruleset::new([&bridge], &none).unwrap().at(Stage::Bridge(Hook::Prerouting), &mut Transit::new(frame), &Nothing);
    assert!(at.unwrap_err().to_string().contains("bridged frames"));
}

#[test]
fn what_a_rule_adds_is_found_by_the_next() {
    let table = forward([
        Rule::new([ip::saddr().in_set("seen"), set_mark(1)]),
        Rule::new([update_set("seen", ip::saddr(), None)]),
        Rule::new([ip::saddr().in_set("seen"), set_mark(2)]),
        Rule::new([Statement::SetUpdate(SetUpdate {
            set: "chosen".into(),
            key: vec![Selector::IpSaddr],
            data: vec![Selector::MetaMark],
            timeout: None,
            refresh: true,
            counter: false,
        })]),
        Rule::new([set_mark(7)]),
        Rule::new([set_mark_map(ip::saddr(), "chosen")]),
    ])
    .set("seen", Set::of([Type::Ipv4Addr]).dynamic())
    .set("chosen", Set::map([Type::Ipv4Addr], [Type::Mark]).dynamic());
    assert_eq!(walk(&table, from_pod("198.51.100.1", udp(53)), &node()).unwrap().transit.packet.mark, 2);
}

#[test]
fn a_rule_ends_where_the_set_that_it_adds_to_is_full() {
    let counting = |size| {
        let set = Set::of([Type::Ipv4Addr]).dynamic().size(size);
        forward([Rule::new([count_in("seen", ip::saddr()), accept()]), Rule::new([drop()])]).set("seen", set)
    };
    let fate = |size, there: &[&str]| {
        let table = counting(size);
        let element = |ip: &&str| table.element("seen", Key::new(false, [address(ip)]), ElementBody::default());
        let elements: Elements = there.iter().map(element).collect();
        let ruleset = Ruleset::new([&table], &elements).unwrap();
        ruleset.receive(from_pod("198.51.100.1", udp(53)), &node()).unwrap().fate
    };
    assert_eq!(fate(1, &[]), Fate::Accepted);
    assert_eq!(fate(1, &["203.0.113.1"]), Fate::Dropped);
    assert_eq!(fate(2, &["203.0.113.1"]), Fate::Accepted);
    assert_eq!(fate(1, &["10.244.0.2"]), Fate::Accepted, "it is there");
}

#[test]
fn a_rule_goes_on_where_a_map_says_so() {
    let table = forward([Rule::new([ip::daddr().vmap("ways"), goto("off")]), Rule::new([accept()])])
        .set("ways", Set::vmap([Type::Ipv4Addr]))
        .chain("off", Chain::regular().rule(Rule::new([drop()])));
    let fate = |verdict: Option<Verdict>| {
        let key = Key::new(false, [address("198.51.100.1")]);
        let elements: Elements =
            verdict.map(|verdict| table.element("ways", key, ElementBody::data(verdict))).into_iter().collect();
        let ruleset = Ruleset::new([&table], &elements).unwrap();
        ruleset.receive(from_pod("198.51.100.1", udp(53)), &node()).unwrap().fate
    };
    assert_eq!(fate(Some(Verdict::Continue)), Fate::Dropped);
    assert_eq!(fate(Some(Verdict::Return)), Fate::Accepted);
    assert_eq!(fate(None), Fate::Accepted);
}

#[test]
fn a_host_that_sends_is_routed_again_after_a_change() {
    let table = Table::new(TableFamily::Inet, "t")
        .chain(
            "sent",
            Chain::nat(Hook::Output, -100)
                .rule(Rule::new([udp::dport().is(53), dnat(address("10.244.0.2"), Some(5353))])),
        )
        .chain("out", Chain::filter(Hook::Postrouting, 0).rule(Rule::new([meta::oifname().is("rip0"), set_mark(1)])));
    let none = Elements::new();
    let ruleset = Ruleset::new([&table], &none).unwrap();
    let packet = Packet::sent(address("192.0.2.1"), address("198.51.100.1"), udp(53));
    let end = ruleset.send(packet, &node()).unwrap().transit.packet;
    assert_eq!((end.oif.clone(), end.mark, end.destination()), (Some(link("rip0", 3)), 1, Some(address("10.244.0.2"))));
    let refused = ruleset.send(Packet::sent(address("fd00::1"), address("fd00::2"), udp(53)), &node()).unwrap();
    assert_eq!(refused.fate, Fate::Unreachable);
}

#[test]
fn chains_of_elements_cannot_lead_in_circles() {
    let table = forward([Rule::new([ip::daddr().vmap("ways")])])
        .set("ways", Set::vmap([Type::Ipv4Addr]))
        .chain("a", Chain::regular().rule(Rule::new([ip::daddr().vmap("ways")])));
    let key = Key::new(false, [KeyPart::from(address("198.51.100.1"))]);
    let elements: Elements = [table.element("ways", key, ElementBody::data(Verdict::Jump("a".into())))].into();
    let fault =
        Ruleset::new([&table], &elements).unwrap().receive(from_pod("198.51.100.1", udp(53)), &node()).unwrap_err();
    assert!(fault.to_string().contains("too deep"), "{fault}");
}

#[test]
fn a_ruleset_with_a_mistake_is_refused() {
    let table = forward([Rule::new([ip::daddr().in_set("nosuch"), drop()])]);
    let none = Elements::new();
    assert!(Ruleset::new([&table], &none).unwrap_err().to_string().contains("nosuch"));
    let table = Table::new(TableFamily::Inet, "t").set("pods", Set::of([Type::Ipv4Addr]));
    let wrong: Elements =
        [table.element("pods", Key::new(false, [KeyPart::from(address("fd00::1"))]), ElementBody::default())].into();
    assert!(Ruleset::new([&table], &wrong).unwrap_err().to_string().contains("set pods"));
}

#[test]
fn every_value_survives_json() {
    let mut tables = others();
    tables.extend([matches(), actions()]);
    for table in tables {
        let text = serde_json::to_string(&table).unwrap();
        assert_eq!(serde_json::from_str::<Table>(&text).unwrap(), table);
    }
    for (key, body) in elements() {
        let text = serde_json::to_string(&(&key, &body)).unwrap();
        assert_eq!(serde_json::from_str::<(ElementKey, ElementBody)>(&text).unwrap(), (key, body));
    }
    let digest = ripstop_nft::encode::digest(&matches());
    assert_eq!(serde_json::from_str::<ripstop_nft::Digest>(&serde_json::to_string(&digest).unwrap()).unwrap(), digest);
    for bad in ["", "+0000000000000000000000000000001", "xyz"] {
        assert!(ripstop_nft::Digest::try_from(bad.to_owned()).is_err());
    }
}
