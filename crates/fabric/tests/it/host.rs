//! Uplinks, addresses, and the MTU of pods.

use ripstop_fabric::host::{address, addresses, outer_family, pod_mtu, uplink, uplink_to};
use ripstop_objects::{BackendKind, UplinkConfig};
use ripstop_tables::Tables;
use ripstop_types::Family::{self, V4, V6};

use crate::scenario::{Scenario, facts, host_link, ip, name, network, start};

/// eth0 with the default routes, eth1 with more addresses, and eth2 without a carrier.
fn host(config: UplinkConfig) -> Tables {
    let mut begin = start(facts());
    begin.facts.links.insert(name("eth1"), host_link(9000, &["192.0.2.1/25", "192.0.2.7/25", "2001:db8::1/64"]));
    let mut dead = host_link(1500, &["198.51.100.1/24"]);
    dead.running = false;
    begin.facts.links.insert(name("eth2"), dead);
    begin.config.uplink = config;
    Tables::new(begin)
}

fn shown(tables: &Tables, family: Family) -> String {
    let link = uplink(tables, family).map_or("no link".into(), ToString::to_string);
    let address = address(tables, family).map_or("no address".into(), |a| format!("{} in {}", a.ip, a.prefix));
    format!("{link}: {address}")
}

fn configured(interface: Option<&str>, addresses: &[&str]) -> UplinkConfig {
    UplinkConfig { interface: interface.map(name), addresses: addresses.iter().map(|text| ip(text)).collect() }
}

#[test]
fn the_uplink_is_the_default_routes_unless_told_otherwise() {
    let cases = [
        (None, &[][..], "eth0: 172.30.1.11 in 172.30.1.0/24", "eth0: fd00:30:1::11 in fd00:30:1::/64"),
        (Some("eth1"), &[], "eth1: 192.0.2.1 in 192.0.2.0/25", "eth1: 2001:db8::1 in 2001:db8::/64"),
        (Some("eth2"), &[], "eth2: 198.51.100.1 in 198.51.100.0/24", "eth2: no address"),
        (Some("eth9"), &[], "no link: no address", "no link: no address"),
        // An address tells the link of its family, the other family is found as usual.
        (None, &["192.0.2.7"], "eth1: 192.0.2.7 in 192.0.2.0/25", "eth0: fd00:30:1::11 in fd00:30:1::/64"),
        (None, &["192.0.2.9"], "no link: no address", "eth0: fd00:30:1::11 in fd00:30:1::/64"),
        (Some("eth1"), &["192.0.2.7"], "eth1: 192.0.2.7 in 192.0.2.0/25", "eth1: 2001:db8::1 in 2001:db8::/64"),
        (Some("eth0"), &["192.0.2.7"], "eth0: no address", "eth0: fd00:30:1::11 in fd00:30:1::/64"),
    ];
    for (interface, addresses, v4, v6) in cases {
        let tables = host(configured(interface, addresses));
        assert_eq!((shown(&tables, V4), shown(&tables, V6)), (v4.into(), v6.into()), "{interface:?} {addresses:?}");
    }
}

/// Without a default route: the first link by name that is up and has an address. One without a carrier has none to give.
#[test]
fn without_a_default_route_a_link_that_runs_is_the_uplink() {
    let mut tables = host(UplinkConfig::default());
    tables.facts.default_links.clear();
    assert_eq!(shown(&tables, V4), "eth0: 172.30.1.11 in 172.30.1.0/24");
    tables.facts.links.remove(&name("eth0"));
    assert_eq!(shown(&tables, V4), "eth1: 192.0.2.1 in 192.0.2.0/25");
    tables.facts.links.remove(&name("eth1"));
    assert_eq!(shown(&tables, V4), "no link: no address");
    // A default route by a link that has no address of the family leads to the next.
    let mut tables = host(UplinkConfig::default());
    tables.facts.links.insert(name("eth0"), host_link(1500, &["fd00:30:1::11/64"]));
    assert_eq!(shown(&tables, V4), "eth1: 192.0.2.1 in 192.0.2.0/25");
    assert_eq!(shown(&tables, V6), "eth0: fd00:30:1::11 in fd00:30:1::/64");
}

#[test]
fn a_node_is_reached_by_an_address_of_each_subnet_and_prefers_ipv4_for_outer_packets() {
    let tables = host(UplinkConfig::default());
    let found = |tables: &Tables| addresses(tables).iter().map(|a| a.ip).collect::<Vec<_>>();
    assert_eq!(found(&tables), ["172.30.1.11", "192.0.2.1", "fd00:30:1::11", "2001:db8::1"].map(ip));
    let told = host(configured(Some("eth0"), &[]));
    assert_eq!(found(&told), ["172.30.1.11", "fd00:30:1::11"].map(ip), "what is configured is all there is");
    let told = host(configured(None, &["192.0.2.7"]));
    assert_eq!(found(&told), ["192.0.2.7", "fd00:30:1::11", "2001:db8::1"].map(ip));
    assert_eq!(outer_family(&tables), Some(V4));
    let mut v6 = tables.clone();
    v6.facts.links.retain(|link, _| link.as_str() == "eth0");
    v6.facts.links.insert(name("eth0"), host_link(1500, &["fd00:30:1::11/64"]));
    assert_eq!(outer_family(&v6), Some(V6));
    v6.facts.links.clear();
    assert_eq!((outer_family(&v6), addresses(&v6)), (None, vec![]));
}

#[test]
fn a_subnet_is_shared_with_what_lies_in_it() {
    let tables = host(UplinkConfig::default());
    for (text, shared) in [
        ("172.30.1.254", Some("eth0")),
        ("172.30.1.11", None),
        ("172.30.2.1", None),
        ("192.0.2.2", Some("eth1")),
        ("198.51.100.2", None), // Of a link without a carrier.
        ("fd00:30:1::ffff", Some("eth0")),
        ("fd00:30:2::1", None),
    ] {
        assert_eq!(uplink_to(&tables, ip(text)).map(|uplink| uplink.link.as_str()), shared, "{text}");
    }
}

/// Where the first uplink has no carrier any more, the node is named by what it has left.
#[test]
fn an_uplink_without_a_carrier_counts_where_none_has_one() {
    let mut tables = host(UplinkConfig::default());
    tables.facts.links.get_mut(&name("eth0")).unwrap().running = false;
    assert_eq!(shown(&tables, V4), "eth1: 192.0.2.1 in 192.0.2.0/25");
    assert_eq!(addresses(&tables).len(), 2);
    tables.facts.links.get_mut(&name("eth1")).unwrap().running = false;
    assert_eq!(shown(&tables, V4), "eth0: 172.30.1.11 in 172.30.1.0/24");
}

/// Links to this machine's own containers, addresses of services, and ranges of pods are not named to peers.
#[test]
fn what_does_not_lead_to_other_machines_is_no_uplink() {
    let of_kind = |kind: Option<&str>, address: &str| {
        let mut link = host_link(1500, &[address]);
        link.kind = kind.map(Into::into);
        let s = Scenario::synced().network("default", &["10.244.0.0/16"], |_| {});
        let s = s.facts(|facts| drop(facts.links.insert(name("other"), link)));
        addresses(&s.tables).iter().any(|address| address.ip == ip("10.9.0.1") || address.ip == ip("10.244.9.1"))
    };
    for (kind, address, named) in [
        (None, "10.9.0.1/24", true),
        (Some("bond"), "10.9.0.1/24", true),
        (Some("vlan"), "10.9.0.1/24", true),
        (Some("bridge"), "10.9.0.1/24", false),
        (Some("vxlan"), "10.9.0.1/24", false),
        (Some("wireguard"), "10.9.0.1/24", false),
        (None, "10.9.0.1/32", false),
        (Some("veth"), "10.244.9.1/24", false),
    ] {
        assert_eq!(of_kind(kind, address), named, "{kind:?} {address}");
    }
}

/// What the backend may add is left free in every packet, whether or not this peer's path adds it.
#[test]
fn pods_get_the_uplinks_mtu_less_what_the_backend_may_add() {
    let v6_only = |s: Scenario| {
        s.facts(|facts| facts.links.values_mut().for_each(|l| l.addresses.retain(|(ip, _)| ip.is_ipv6())))
    };
    let mtu = |s: &Scenario, kind, wanted| {
        let network = network("default", &["10.244.0.0/16"], |spec| {
            spec.backend.kind = kind;
            spec.backend.mtu = wanted;
        });
        pod_mtu(&s.tables, &network)
    };
    use BackendKind::{Auto, HostGw, Vxlan};
    let dual = Scenario::new();
    assert_eq!([HostGw, Vxlan, Auto].map(|kind| mtu(&dual, kind, None)), [Some(1500), Some(1450), Some(1450)]);
    let v6 = v6_only(Scenario::new());
    assert_eq!([HostGw, Vxlan, Auto].map(|kind| mtu(&v6, kind, None)), [Some(1500), Some(1430), Some(1430)]);
    let jumbo = Scenario::new().facts(|facts| facts.links.get_mut(&name("eth0")).unwrap().mtu = 9000);
    assert_eq!(mtu(&jumbo, Vxlan, None), Some(8950));
    // Two uplinks: the smaller counts.
    let split = Scenario::new().facts(|facts| {
        facts.links.insert(name("eth0"), host_link(9000, &["172.30.1.11/24"]));
        facts.links.insert(name("eth1"), host_link(1500, &["fd00:30:1::11/64"]));
        facts.default_links.insert(V6, name("eth1"));
    });
    assert_eq!(mtu(&split, Vxlan, None), Some(1450));
    // Configured is configured, also where no uplink is there yet.
    let none = Scenario::new().facts(|facts| facts.links.clear());
    assert_eq!(
        [mtu(&dual, Vxlan, Some(1400)), mtu(&none, Vxlan, Some(1400)), mtu(&none, Vxlan, None)],
        [Some(1400), Some(1400), None]
    );
}
