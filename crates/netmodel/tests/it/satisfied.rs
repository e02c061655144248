//! When what the kernel shows is what was asked for, and whether a change in place can make it so.

use ripstop_netmodel::{
    Address, BridgePort, Fdb, Link, LinkKind, Neighbour, Nexthop, NftElement, NftPart, NftTable, NftValues, Ns, Object,
    Qdisc, Record, RecordGuard, RecordScope, Resource, Route, RouteTarget, Scope, Sysctl, Veth,
};
use ripstop_nft::model::{Chain, Data, ElementBody, Part, Rule, Set, Table, TableFamily, Type, Value, build};

use crate::{element, ip, link, mac, name, pod, prefix};

/// What is found beside what is wanted.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Fine,
    /// To be changed in place.
    Change,
    /// To be removed and made again.
    Remake,
}
use Found::{Change, Fine, Remake};

fn judge(wanted: impl Into<Object>, found: impl Into<Object>) -> Found {
    let (wanted, found) = (wanted.into(), found.into());
    assert!(wanted.satisfied_by(&wanted), "an object is what it asks for");
    assert!(wanted.can_update(&wanted));
    match (wanted.satisfied_by(&found), wanted.can_update(&found)) {
        (true, can_update) => {
            assert!(can_update, "what is fine needs no remaking");
            Fine
        }
        (false, true) => Change,
        (false, false) => Remake,
    }
}

#[test]
fn links() {
    let bridge = || link(&Ns::Host, "rip0", LinkKind::Bridge);
    let cases: [(&str, Link, Found); 9] = [
        ("mtu", Link { mtu: Some(1450), ..bridge() }, Change),
        ("mac", Link { mac: Some(mac(2)), ..bridge() }, Change),
        ("down", Link { up: false, ..bridge() }, Change),
        ("in a bridge", Link { master: Some(name("rip9")), ..bridge() }, Change),
        ("a name that nobody asked for", Link { altname: Some("other".into()), ..bridge() }, Fine),
        ("no automatic address", Link { no_link_local: true, ..bridge() }, Fine),
        ("another kind", Link { kind: LinkKind::Ifb { index: 0x4000_0001 }, ..bridge() }, Remake),
        ("a kind we never make", Link { kind: LinkKind::Other("dummy".into()), ..bridge() }, Remake),
        ("a veth", Link { kind: veth(pod(1), "eth0"), ..bridge() }, Remake),
    ];
    for (what, found, expected) in cases {
        assert_eq!(judge(bridge(), found), expected, "{what}");
    }
    // What is left open is not compared.
    let open = Link { mtu: None, mac: None, ..bridge() };
    assert_eq!(judge(open.clone(), Link { mtu: Some(9000), mac: Some(mac(7)), ..bridge() }), Fine);
    assert_eq!(judge(Link { mtu: Some(9000), ..open }, bridge()), Change);
    // What is asked for and cannot be seen is missing.
    assert_eq!(judge(Link { altname: Some("ripstop.x".into()), ..bridge() }, bridge()), Change);
    assert_eq!(judge(Link { no_link_local: true, ..bridge() }, bridge()), Change);
}

fn veth(ns: Ns, end: &str) -> LinkKind {
    LinkKind::Veth(Veth { ns, name: name(end), mac: mac(9) })
}

/// The kernel does not show in which namespace a pair's other end is: an observed pair has it as it is, or not at all.
#[test]
fn pairs() {
    let first = |kind| link(&Ns::Host, "rippa", kind);
    assert_eq!(judge(first(veth(pod(1), "eth0")), first(LinkKind::VethPeer)), Fine);
    assert_eq!(judge(first(veth(pod(1), "eth0")), first(veth(pod(2), "net1"))), Fine);
    assert_eq!(judge(first(LinkKind::VethPeer), first(veth(pod(1), "eth0"))), Fine);
    assert_eq!(judge(first(veth(pod(1), "eth0")), first(LinkKind::Bridge)), Remake);
    let port = |learning| Link {
        master: Some(name("rip0")),
        port: Some(BridgePort { hairpin: true, learning }),
        ..first(LinkKind::VethPeer)
    };
    assert_eq!(judge(port(true), port(true)), Fine);
    assert_eq!(judge(port(true), port(false)), Change);
    assert_eq!(judge(port(true), Link { master: None, port: None, ..port(true) }), Change);
    // Settings that nobody asked for stay as they are.
    assert_eq!(judge(Link { port: None, ..port(true) }, port(true)), Fine);
}

#[test]
fn tunnels_cannot_change_what_they_were_made_with() {
    let tunnel = |vni, port, local: &str| link(&Ns::Host, "ript1", LinkKind::Vxlan { vni, port, local: ip(local) });
    let wanted = || tunnel(1, 8472, "192.0.2.1");
    assert_eq!(judge(wanted(), Link { mtu: Some(1450), ..wanted() }), Change);
    assert_eq!(judge(wanted(), tunnel(2, 8472, "192.0.2.1")), Remake);
    assert_eq!(judge(wanted(), tunnel(1, 4789, "192.0.2.1")), Remake);
    // Another source of the same family is a setting: a node's new address costs no packet.
    assert_eq!(judge(wanted(), tunnel(1, 8472, "192.0.2.9")), Change);
    assert_eq!(judge(wanted(), tunnel(1, 8472, "0.0.0.0")), Change);
    assert_eq!(judge(wanted(), tunnel(1, 8472, "2001:db8::1")), Remake);
    let ipip = |local: &str| link(&Ns::Host, "ripipip0", LinkKind::Ipip { local: local.parse().unwrap() });
    assert_eq!(judge(ipip("192.0.2.1"), ipip("192.0.2.1")), Fine);
    assert_eq!(judge(ipip("192.0.2.1"), ipip("192.0.2.9")), Change);
    assert_eq!(judge(ipip("192.0.2.1"), link(&Ns::Host, "ripipip0", LinkKind::Tun)), Remake);
}

#[test]
fn addresses_cannot_change_their_length_or_scope() {
    let address = |text: &str, len, scope| Address { ns: Ns::Host, link: name("rip0"), ip: ip(text), len, scope };
    let v4 = |len, scope| address("10.0.0.1", len, scope);
    assert_eq!(judge(v4(24, Scope::Global), v4(24, Scope::Global)), Fine);
    assert_eq!(judge(v4(24, Scope::Global), v4(32, Scope::Global)), Remake);
    assert_eq!(judge(v4(24, Scope::Global), v4(24, Scope::Link)), Remake);
    // IPv6 derives the scope from the address and takes no other.
    let v6 = |len, scope| address("fe80::1", len, scope);
    assert_eq!(judge(v6(64, Scope::Link), v6(64, Scope::Global)), Fine);
    assert_eq!(judge(v6(64, Scope::Link), v6(128, Scope::Link)), Remake);
}

#[test]
fn neighbours_and_forwarding_entries_change_in_place() {
    let neighbour = |last| Neighbour { ns: Ns::Host, link: name("ript1"), ip: ip("10.0.0.1"), mac: mac(last) };
    assert_eq!(judge(neighbour(1), neighbour(1)), Fine);
    assert_eq!(judge(neighbour(1), neighbour(2)), Change);
    let fdb = |dst: &str| Fdb { link: name("ript1"), mac: mac(1), dst: ip(dst) };
    assert_eq!(judge(fdb("192.0.2.1"), fdb("192.0.2.1")), Fine);
    assert_eq!(judge(fdb("192.0.2.1"), fdb("192.0.2.2")), Change);
}

/// A peer moves by one change of its nexthop, also to another link; only its family is fixed.
#[test]
fn nexthops_move_within_their_family() {
    let nexthop = |dev: &str, gateway: &str, onlink| Nexthop { id: 1, link: name(dev), gateway: ip(gateway), onlink };
    let wanted = || nexthop("eth0", "192.0.2.2", false);
    assert_eq!(judge(wanted(), nexthop("eth0", "192.0.2.2", false)), Fine);
    assert_eq!(judge(wanted(), nexthop("eth0", "192.0.2.3", false)), Change);
    assert_eq!(judge(wanted(), nexthop("ript1", "10.244.2.1", true)), Change);
    assert_eq!(judge(wanted(), nexthop("eth0", "2001:db8::2", false)), Remake);
}

#[test]
fn routes_change_in_place_whatever_they_lead_to() {
    let route = |target, src: Option<&str>, mtu| Route {
        ns: Ns::Host,
        table: 254,
        dst: prefix("10.244.2.0/24"),
        metric: 0,
        target,
        src: src.map(ip),
        mtu,
    };
    let wanted = || route(RouteTarget::Nexthop(1), Some("10.244.1.1"), None);
    assert_eq!(judge(wanted(), wanted()), Fine);
    for found in [
        route(RouteTarget::Nexthop(2), Some("10.244.1.1"), None),
        route(RouteTarget::Unreachable, Some("10.244.1.1"), None),
        route(RouteTarget::Link(name("rip0")), Some("10.244.1.1"), None),
        route(RouteTarget::Nexthop(1), None, None),
        route(RouteTarget::Nexthop(1), Some("10.244.1.1"), Some(1400)),
    ] {
        assert_eq!(judge(wanted(), found.clone()), Change, "{found:?}");
    }
}

/// The kernel keeps a rate as time per byte and rounds it: a thousandth is no difference, a hundredth is.
#[test]
fn a_rate_is_compared_as_closely_as_the_kernel_keeps_it() {
    let qdisc = |rate, burst| Qdisc { ns: Ns::Host, link: name("rippa"), rate, burst, limit: 1 };
    assert_eq!(judge(qdisc(1_000_000, 16_000), qdisc(999_000, 15_999)), Fine);
    assert_eq!(judge(qdisc(1_000_000, 16_000), qdisc(1_001_000, 16_000)), Fine);
    assert_eq!(judge(qdisc(1_000_000, 16_000), qdisc(998_999, 16_000)), Change);
    assert_eq!(judge(qdisc(1_000_000_000, 16_000), qdisc(1_000_000, 16_000)), Change);
}

#[test]
fn settings_and_records_are_their_values() {
    let setting = |value: &str| Sysctl { ns: Ns::Host, link: None, path: "x".into(), value: value.into() };
    assert_eq!(judge(setting("1"), setting("1")), Fine);
    assert_eq!(judge(setting("1"), setting("0")), Change);
    let record = |value: &str, guard| Record {
        scope: RecordScope::Cluster("nodes".into()),
        key: "n1".into(),
        value: value.into(),
        guard,
    };
    // The condition says how a record is written, not what it is.
    assert_eq!(judge(record("{}", RecordGuard::Absent), record("{}", RecordGuard::Revision(7))), Fine);
    assert_eq!(judge(record("{}", RecordGuard::Any), record("[]", RecordGuard::Any)), Change);
}

#[test]
fn tables_are_replaced_whole_and_elements_one_by_one() {
    let table = |port: u16| {
        let rule = Rule::new([build::udp::dport().is(port), build::drop()]);
        NftTable { table: Table::new(TableFamily::Inet, "ripstop").chain("c", Chain::regular().rule(rule)) }
    };
    assert_eq!(judge(table(1), table(1)), Fine);
    assert_eq!(judge(table(1), table(2)), Change);
    let marked = |mark, comment: &str| NftElement {
        key: element(TableFamily::Inet, "ripstop", "map", vec![Value::Service(1).into()]),
        body: ElementBody::data(Data::Values(vec![Value::Mark(mark)])).with_comment(comment),
    };
    // Who caused an element is told by its comment; a change of that alone is not worth a moment without the element.
    assert_eq!(judge(marked(1, "pod/a/b"), marked(1, "pod/c/d")), Fine);
    assert_eq!(judge(marked(1, "x"), marked(2, "x")), Remake);
}

#[test]
fn parts_are_what_they_are_made_of_and_change_in_place() {
    let part = |port: u16, comment: &'static str, size: u32| {
        let rule = Rule::new([build::udp::dport().is(port), build::drop()]);
        let map = Set::map([Type::Ipv4Addr], [Type::Ipv4Addr]).dynamic().size(size);
        let part = Part::new(TableFamily::Inet, "ripstop", "p/1").set("p/1", map);
        NftPart::from(part.chain("p/1", Chain::regular().comment(comment).rule(rule)))
    };
    assert_eq!(judge(part(1, "a", 1), part(1, "b", 1)), Fine);
    assert_eq!(judge(part(1, "a", 1), part(2, "a", 1)), Change);
    assert_eq!(judge(part(1, "a", 1), part(1, "a", 2)), Change);
    let bare = || Part::new(TableFamily::Inet, "ripstop", "p/1").chain("p/1", Chain::regular());
    let found = |of: &NftPart| NftPart::found(bare(), ripstop_nft::encode::part_digest(&of.part));
    assert_eq!(judge(part(1, "a", 1), found(&part(1, "a", 1))), Fine);
    assert_eq!(judge(part(1, "a", 1), found(&part(2, "a", 1))), Change);
}

#[test]
fn a_map_may_have_fewer_values_than_it_might_when_it_is_read() {
    let values = |ports: &[u16], found| NftValues {
        family: TableFamily::Ip,
        table: "t".into(),
        map: "p/1".into(),
        values: ports.iter().map(|port| vec![Value::Service(*port)]).collect(),
        found,
    };
    assert_eq!(judge(values(&[1, 2], false), values(&[1], true)), Fine);
    assert_eq!(judge(values(&[1, 2], false), values(&[1, 3], true)), Change);
    // What was written may have filled it since.
    assert_eq!(judge(values(&[1, 2], false), values(&[1], false)), Change);
    assert_eq!(judge(values(&[1], false), values(&[1, 2], false)), Change);
}

#[test]
fn another_kind_of_object_is_never_what_is_asked_for() {
    let setting: Object = Sysctl { ns: Ns::Host, link: None, path: "x".into(), value: "1".into() }.into();
    let bridge: Object = link(&Ns::Host, "rip0", LinkKind::Bridge).into();
    assert!(!setting.satisfied_by(&bridge) && !setting.can_update(&bridge));
    assert!(!bridge.satisfied_by(&setting) && !bridge.can_update(&setting));
}
