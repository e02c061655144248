//! The way to a peer.
//!
//! This node is n1 at 172.30.1.11/24 and fd00:30:1::11/64. A near peer is in both subnets, a far one in neither.

use ripstop_fabric::egress::{always_plain, sees_pods};
use ripstop_fabric::paths::{carries_its_family, mtu, path, tunnel_mac, vxlan_link};
use ripstop_fabric::probing::{Ways, askers, ways};
use ripstop_objects::{
    BackendKind, ClaimState, Encapsulation, IpipReceive, Network, NodeRecord, Receive, ToNodes, UdpReceive,
    VxlanReceive,
};
use ripstop_tables::{BgpInput, Reach};
use ripstop_types::Family::{self, V4, V6};

use crate::scenario::{Scenario, claim, host_link, ip, name, network, network_name, node, node_record, prefix};

const NEAR: &[&str] = &["172.30.1.12/24", "fd00:30:1::12/64"];
const FAR: &[&str] = &["172.30.2.12/24", "fd00:30:2::12/64"];

/// One network of both families with this backend, and the peer n2 with a range in each.
fn cluster(kind: BackendKind, addresses: &[&str], change: impl FnOnce(&mut NodeRecord)) -> Scenario {
    Scenario::synced()
        .network("default", &["10.244.0.0/16", "fd00:10::/48"], |spec| spec.backend.kind = kind)
        .own("default", "10.244.1.0/24")
        .peer_with("n2", addresses, &["10.244.2.0/24", "fd00:10:0:2::/64"], change)
}

fn default_network(s: &Scenario) -> Network {
    (*s.tables.networks[&network_name("default")].value).clone()
}

/// The path to n2 in a line, or the refusal.
fn way(s: &Scenario, family: Family) -> String {
    let peer = s.tables.nodes[&node("n2")].value.clone();
    match path(&s.tables, &default_network(s), &peer, family) {
        Err(refusal) => refusal.to_string(),
        Ok(path) => {
            assert_eq!((path.peer.as_str(), path.family), ("n2", family));
            let station = |mac: Option<ripstop_types::Mac>| mac.map_or(String::new(), |mac| format!(" to {mac}"));
            let tunnel = path.tunnel.map_or(String::new(), |end| format!("{} at {}", station(end.mac), end.outer));
            format!("{} by {} via {}{tunnel}", path.encapsulation, path.link, path.gateway)
        }
    }
}

fn vtep(record: &mut NodeRecord, change: impl FnOnce(&mut VxlanReceive)) {
    for receive in &mut record.receives {
        if let Receive::Vxlan(vxlan) = receive {
            return change(vxlan);
        }
    }
}

fn no_vtep(record: &mut NodeRecord) {
    record.receives = vec![Receive::Plain];
}

fn no_plain(record: &mut NodeRecord) {
    record.receives.retain(|receive| *receive != Receive::Plain);
}

const PLAIN_V4: &str = "host-gw by eth0 via 172.30.1.12";
const PLAIN_V6: &str = "host-gw by eth0 via fd00:30:1::12";
const NEAR_V4: &str = "vxlan by ript1 via 10.244.2.1 to 0a:00:00:00:01:32 at 172.30.1.12";
const NEAR_V6: &str = "vxlan by ript1 via fe80::800:ff:fe00:132 to 0a:00:00:00:01:32 at 172.30.1.12";
const FAR_V4: &str = "vxlan by ript1 via 10.244.2.1 to 0a:00:00:00:01:32 at 172.30.2.12";
const FAR_V6: &str = "vxlan by ript1 via fe80::800:ff:fe00:132 to 0a:00:00:00:01:32 at 172.30.2.12";
const BEHIND_V4: &str = "n2 at 172.30.2.12 is not in this node's subnet 172.30.1.0/24, so a router that does not know the \
                         pods is between: use the backend auto or vxlan";
const BEHIND_V6: &str = "n2 at fd00:30:2::12 is not in this node's subnet fd00:30:1::/64, so a router that does not know \
                         the pods is between: use the backend auto or vxlan";

#[test]
fn each_backend_near_and_far_in_both_families() {
    use BackendKind::{Auto, HostGw, Vxlan};
    let cases = [
        (HostGw, NEAR, PLAIN_V4, PLAIN_V6),
        (HostGw, FAR, BEHIND_V4, BEHIND_V6),
        (Vxlan, NEAR, NEAR_V4, NEAR_V6),
        (Vxlan, FAR, FAR_V4, FAR_V6),
        (Auto, NEAR, PLAIN_V4, PLAIN_V6),
        (Auto, FAR, FAR_V4, FAR_V6),
    ];
    for (kind, addresses, v4, v6) in cases {
        let s = cluster(kind, addresses, |_| {});
        assert_eq!(way(&s, V4), v4, "{kind:?} {addresses:?}");
        assert_eq!(way(&s, V6), v6, "{kind:?} {addresses:?}");
    }
}

/// Flannel's DirectRouting and Calico's CrossSubnet judge each family by itself.
#[test]
fn auto_may_be_plain_in_one_family_and_encapsulated_in_the_other() {
    let s = cluster(BackendKind::Auto, &["172.30.1.12/24", "fd00:30:2::12/64"], |_| {});
    assert_eq!(way(&s, V4), PLAIN_V4);
    assert_eq!(way(&s, V6), NEAR_V6);
}

#[test]
fn host_gw_refuses_with_the_reason() {
    let kind = BackendKind::HostGw;
    let s = cluster(kind, &["fd00:30:1::12/64"], |_| {});
    assert_eq!(way(&s, V4), "n2 has published no IPv4 address, which host-gw needs");
    assert_eq!(way(&s, V6), PLAIN_V6);
    let s = cluster(kind, NEAR, no_plain);
    assert_eq!(way(&s, V4), "n2 does not take packets without encapsulation");
    let s = cluster(kind, NEAR, |_| {}).facts(|facts| facts.links.clear());
    assert_eq!(way(&s, V4), "this node has no IPv4 address on its uplink, which host-gw needs");
    assert_eq!(way(&s, V6), "this node has no IPv6 address on its uplink, which host-gw needs");
}

#[test]
fn vxlan_refuses_with_the_reason() {
    let kind = BackendKind::Vxlan;
    let unpublished = "n2 has not published that it receives vxlan with VNI 1 yet";
    assert_eq!(way(&cluster(kind, NEAR, no_vtep), V4), unpublished);
    let other_vni = cluster(kind, NEAR, |record| vtep(record, |vxlan| vxlan.vni = 2));
    assert_eq!(way(&other_vni, V4), unpublished);
    let other_port = cluster(kind, NEAR, |record| vtep(record, |vxlan| vxlan.port = 4789));
    assert_eq!(
        way(&other_port, V4),
        "n2 receives vxlan on port 4789, this node sends to 8472: the network's backend.port differs"
    );
    let no_outer = cluster(kind, NEAR, |record| vtep(record, |vxlan| vxlan.outer_v4 = None));
    assert_eq!(way(&no_outer, V4), "n2 has no IPv4 address for outer packets, which this node sends");
    let no_uplink = cluster(kind, NEAR, |_| {}).facts(|facts| facts.links.clear());
    assert_eq!(way(&no_uplink, V4), "this node has no address on its uplink, which vxlan needs");
    let no_range = Scenario::synced()
        .network("default", &["10.244.0.0/16", "fd00:10::/48"], |spec| spec.backend.kind = kind)
        .peer("n2", NEAR, &["10.244.2.0/24"]);
    assert_eq!(way(&no_range, V6), "n2 owns no IPv6 range of network default yet");
    assert_eq!(way(&no_range, V4), NEAR_V4, "the other family does not suffer");
}

/// Where plain does not do, the refusal is that of the tunnel, which is what can be mended.
#[test]
fn auto_falls_back_and_refuses_as_vxlan_does() {
    let kind = BackendKind::Auto;
    assert_eq!(way(&cluster(kind, NEAR, no_plain), V4), NEAR_V4);
    assert_eq!(way(&cluster(kind, NEAR, no_vtep), V4), PLAIN_V4, "no tunnel is needed");
    let far_without = cluster(kind, FAR, no_vtep);
    assert_eq!(way(&far_without, V4), "n2 has not published that it receives vxlan with VNI 1 yet");
}

/// A route to more than ranges of nodes says nothing of pods, and one to some of them not enough.
#[test]
fn auto_goes_by_routers_that_know_all_of_a_peers_ranges() {
    let told = |addresses: &[&str], change: fn(&mut NodeRecord), routes: &[(&str, &str)]| {
        let mut s = cluster(BackendKind::Auto, addresses, change);
        s.put(&claim("n2", "default", "10.244.7.0/24", ClaimState::Held));
        let route = |(dst, via): &(&str, &str)| (prefix(dst), vec![via.parse().unwrap()]);
        let routes = routes.iter().map(route).collect();
        s.tables.apply_bgp(&BgpInput { routes, settled: true, faults: Vec::new() });
        way(&s, V4)
    };
    let router = "172.30.1.1";
    let both = [("10.244.2.0/24", router), ("10.244.4.0/22", router)];
    assert_eq!(told(FAR, |_| {}, &both), "host-gw by eth0 via 172.30.1.1");
    assert_eq!(told(FAR, |_| {}, &both[..1]), FAR_V4, "one of two ranges");
    assert_eq!(told(FAR, |_| {}, &[("10.244.0.0/16", router)]), FAR_V4);
    assert_eq!(told(FAR, |_| {}, &[("0.0.0.0/0", router)]), FAR_V4);
    assert_eq!(told(FAR, |_| {}, &[("10.244.0.0/17", "203.0.113.1")]), FAR_V4, "it leads nowhere");
    assert_eq!(told(FAR, no_plain, &both), FAR_V4);
    assert_eq!(told(NEAR, |_| {}, &both), PLAIN_V4, "no router is needed");
}

#[test]
fn what_the_peer_says_of_its_tunnel_comes_before_what_its_range_suggests() {
    let s = cluster(BackendKind::Vxlan, FAR, |record| {
        vtep(record, |vxlan| {
            vxlan.inner_v4 = Some("10.244.2.0".parse().unwrap());
            vxlan.inner_v6 = Some("fd00:10:0:2::".parse().unwrap());
        });
    });
    assert_eq!(way(&s, V4), "vxlan by ript1 via 10.244.2.0 to 0a:00:00:00:01:32 at 172.30.2.12");
    // The kernel takes an IPv6 gateway of a peer's range only as long as no route leads to it elsewhere.
    assert_eq!(way(&s, V6), FAR_V6);
}

/// A node without IPv4 sends outer packets by IPv6, for pods of both families.
#[test]
fn outer_packets_are_of_the_family_this_node_has() {
    let v6_only = |facts: &mut ripstop_tables::HostFacts| {
        facts.links.values_mut().for_each(|link| link.addresses.retain(|(ip, _)| ip.is_ipv6()));
    };
    let s = cluster(BackendKind::Vxlan, FAR, |_| {}).facts(v6_only);
    assert_eq!(way(&s, V4), "vxlan by ript1 via 10.244.2.1 to 0a:00:00:00:01:32 at fd00:30:2::12");
    let s = cluster(BackendKind::Vxlan, &["172.30.2.12/24"], |_| {}).facts(v6_only);
    assert_eq!(way(&s, V4), "n2 has no IPv6 address for outer packets, which this node sends");
}

#[test]
fn of_several_ranges_the_first_names_the_gateway() {
    let mut s = cluster(BackendKind::Vxlan, NEAR, |_| {});
    s.put(&claim("n2", "default", "10.244.9.0/24", ClaimState::Held));
    assert_eq!(way(&s, V4), NEAR_V4);
    // A range of one address has no second one for the node.
    let tiny = Scenario::synced()
        .network("default", &["10.244.0.0/16"], |spec| spec.backend.kind = BackendKind::Vxlan)
        .peer("n2", NEAR, &["10.244.2.7/32"]);
    assert_eq!(way(&tiny, V4), "n2 owns no IPv4 range of network default yet");
}

fn no_ipip(record: &mut NodeRecord) {
    record.receives.retain(|receive| !matches!(receive, Receive::Ipip(_)));
}

fn ipip(record: &mut NodeRecord) {
    record.receives.push(Receive::Ipip(IpipReceive { outer_v4: "172.30.2.12".parse().unwrap() }));
}

/// The gateway is the other end: the device has none of its own. IPv6 has no tunnel, whatever the subnet.
#[test]
fn ipip_leads_ipv4_to_the_peers_address_and_leaves_ipv6_plain() {
    use BackendKind::{Ipip, IpipCrossSubnet};
    const TUNNEL: &str = "ipip by ripipip0 via 172.30.2.12 at 172.30.2.12";
    for (kind, addresses, v4) in
        [(Ipip, NEAR, TUNNEL), (Ipip, FAR, TUNNEL), (IpipCrossSubnet, NEAR, PLAIN_V4), (IpipCrossSubnet, FAR, TUNNEL)]
    {
        let s = cluster(kind, addresses, ipip);
        assert_eq!(way(&s, V4), v4, "{kind:?} {addresses:?}");
        let v6 = if addresses == NEAR {
            PLAIN_V6.to_owned()
        } else {
            format!("ipip carries IPv4 alone, and IPv6 goes as by host-gw: {BEHIND_V6}")
        };
        assert_eq!(way(&s, V6), v6, "{kind:?} {addresses:?}");
    }
    let silent = "n2 has not published that it receives ipip yet";
    assert_eq!(way(&cluster(Ipip, NEAR, no_ipip), V4), silent);
    assert_eq!(way(&cluster(IpipCrossSubnet, FAR, no_ipip), V4), silent);
    assert_eq!(way(&cluster(IpipCrossSubnet, NEAR, no_ipip), V4), PLAIN_V4);
    let no_uplink = cluster(Ipip, NEAR, ipip).facts(|facts| facts.links.clear());
    assert_eq!(way(&no_uplink, V4), "this node has no IPv4 address on its uplink, which ipip needs");
}

fn udp_at(port: u16) -> impl Fn(&mut NodeRecord) {
    move |record| {
        let outer_v4 = Some("172.30.2.12".parse().unwrap());
        record.receives.push(Receive::Udp(UdpReceive { port, outer_v4, outer_v6: None }));
    }
}

#[test]
fn udp_leads_to_the_forwarders_device_wherever_the_peer_is() {
    let by_udp = |change: &dyn Fn(&mut NodeRecord)| cluster(BackendKind::Udp, FAR, change);
    let s = by_udp(&udp_at(8285));
    assert_eq!(way(&s, V4), "udp by ripudp0 via 10.244.2.1 at 172.30.2.12");
    assert!(way(&s, V6).starts_with("udp by ripudp0 via fe80::"), "{}", way(&s, V6));
    assert_eq!(
        way(&by_udp(&udp_at(9000)), V4),
        "n2 receives udp on port 9000, this node sends to 8285: the network's backend.udpPort differs"
    );
    assert_eq!(
        way(&by_udp(&|_| {}), V4),
        "no forwarder runs on n2, so it does not receive udp: start `ripstop udp-forward` there (systemctl enable --now \
         ripstop-udp-forward)"
    );
    assert_eq!(way(&by_udp(&|record| record.forwarder = true), V4), "n2 has not published that it receives udp yet");
}

/// It has an entry before it says that it receives: what it sends first is no stranger's.
#[test]
fn the_forwarder_knows_a_peer_as_soon_as_it_has_an_address() {
    let known = |change: &dyn Fn(&mut NodeRecord)| {
        let s = cluster(BackendKind::Udp, FAR, change);
        let peer = s.tables.nodes[&node("n2")].value.clone();
        ripstop_fabric::forwarder::peer(&s.tables, &default_network(&s), &peer)
    };
    let silent = known(&|_| {}).unwrap();
    assert_eq!((silent.name.as_str(), silent.to), ("default/n2", "172.30.2.12:8285".parse().unwrap()));
    assert_eq!(silent.also_from, [ip("fd00:30:2::12")]);
    assert_eq!(silent.ranges, [prefix("10.244.2.0/24"), prefix("fd00:10:0:2::/64")]);
    assert_eq!(known(&udp_at(9000)).unwrap().to, "172.30.2.12:9000".parse().unwrap());
    assert_eq!(known(&|record| record.addresses.retain(|address| address.ip.is_ipv6())), None);
}

#[test]
fn a_tunnel_has_one_name_and_address_however_often_it_is_made() {
    let of = |vni: u32, kind| {
        network("default", &["10.244.0.0/16"], |spec| (spec.backend.vni, spec.backend.kind) = (vni, kind))
    };
    let link = |vni, kind| vxlan_link(&of(vni, kind)).map(|link| link.to_string());
    assert_eq!(link(1, BackendKind::HostGw), None);
    assert_eq!(link(1, BackendKind::Vxlan).as_deref(), Some("ript1"));
    assert_eq!(link(16_777_215, BackendKind::Auto).as_deref(), Some("ript16777215"), "fits the kernel's 15 bytes");
    let mac = |name: &str, vni| tunnel_mac(&node(name), &of(vni, BackendKind::Vxlan));
    assert_eq!(mac("n1", 1), mac("n1", 1));
    assert!(mac("n1", 1) != mac("n2", 1) && mac("n1", 1) != mac("n1", 2));
    assert!(mac("n1", 1).is_unicast());
}

/// On a plain path a node's own address answers the pod's; on an encapsulated one the answer would come by another way.
#[test]
fn a_remote_node_sees_the_pods_address_on_plain_paths_only() {
    let sees = |kind, addresses: &[&str], to_nodes, family| {
        let mut s = cluster(kind, addresses, |_| {});
        s.put(&network("default", &["10.244.0.0/16", "fd00:10::/48"], |spec| {
            spec.backend.kind = kind;
            spec.masquerade.to_nodes = to_nodes;
        }));
        let peer = s.tables.nodes[&node("n2")].value.clone();
        let network = default_network(&s);
        let path = path(&s.tables, &network, &peer, family).ok();
        sees_pods(&network, path.as_ref(), peer.address(family).unwrap().ip)
    };
    for family in Family::BOTH {
        assert!(sees(BackendKind::HostGw, NEAR, ToNodes::Auto, family));
        assert!(sees(BackendKind::Auto, NEAR, ToNodes::Auto, family));
        assert!(!sees(BackendKind::Auto, FAR, ToNodes::Auto, family));
        assert!(!sees(BackendKind::Vxlan, NEAR, ToNodes::Auto, family));
        assert!(!sees(BackendKind::HostGw, FAR, ToNodes::Auto, family), "no path at all: as to the outside");
        assert!(sees(BackendKind::Vxlan, FAR, ToNodes::Never, family));
        assert!(!sees(BackendKind::HostGw, NEAR, ToNodes::Always, family));
    }
    let mixed = |family| sees(BackendKind::Auto, &["172.30.1.12/24", "fd00:30:2::12/64"], ToNodes::Auto, family);
    assert!(mixed(V4) && !mixed(V6), "each family for itself");
}

#[test]
fn what_does_not_leave_the_link_is_never_rewritten() {
    let covered = |text: &str| {
        let address = ip(text);
        always_plain(Family::of(address)).any(|prefix| prefix.contains(address))
    };
    for text in ["169.254.1.1", "224.0.0.251", "239.255.255.255", "fe80::1", "ff02::fb"] {
        assert!(covered(text), "{text}");
    }
    for text in ["192.0.2.1", "10.0.0.1", "240.0.0.1", "2001:db8::1", "fd00::1"] {
        assert!(!covered(text), "{text}");
    }
    assert_eq!(always_plain(V4).collect::<Vec<_>>(), [prefix("169.254.0.0/16"), prefix("224.0.0.0/4")]);
}

/// The encapsulation's word is the backend's, which is what people configure.
#[test]
fn encapsulations_are_shown_as_backends() {
    assert_eq!(Encapsulation::None.to_string(), "host-gw");
    assert_eq!(Encapsulation::Vxlan.to_string(), "vxlan");
    assert_eq!(node_record("n2", NEAR).address(V6).unwrap().prefix, prefix("fd00:30:1::/64"));
}

/// Two uplinks, peers in the subnet of either, of both, or of none.
#[test]
fn of_several_uplinks_the_one_that_shares_the_peers_subnet_carries_its_packets() {
    let two = |kind, addresses: &[&str]| {
        cluster(kind, addresses, |_| {})
            .facts(|facts| drop(facts.links.insert(name("eth1"), host_link(1500, &["192.0.2.11/24"]))))
    };
    let v4 = |kind, addresses: &[&str]| way(&two(kind, addresses), V4);
    use BackendKind::{Auto, HostGw, Vxlan};
    assert_eq!(v4(HostGw, &["192.0.2.12/24"]), "host-gw by eth1 via 192.0.2.12");
    assert_eq!(v4(Auto, &["172.30.2.12/24", "192.0.2.12/24"]), "host-gw by eth1 via 192.0.2.12");
    assert_eq!(
        v4(Auto, &["192.0.2.12/24", "172.30.1.12/24"]),
        PLAIN_V4,
        "both prefer it together as much: the lower subnet"
    );
    assert_eq!(v4(HostGw, &["172.30.1.12/24", "192.0.2.12/24"]), PLAIN_V4);
    assert_eq!(v4(HostGw, &["172.30.2.12/24"]), BEHIND_V4);
    let outer = |addresses: &[&str]| v4(Vxlan, addresses).rsplit(' ').next().unwrap().to_owned();
    assert_eq!(outer(&["172.30.2.12/24", "192.0.2.12/24"]), "192.0.2.12", "no router is between");
    assert_eq!(outer(&["172.30.1.12/24", "192.0.2.12/24"]), "172.30.1.12");
    assert_eq!(outer(&["172.30.2.12/24", "172.30.3.12/24"]), "172.30.2.12");
}

/// A peer answers whom it knows: until then it would drop what comes from an address that is new to it.
#[test]
fn a_further_address_is_used_once_it_answered() {
    let (before, after) = ("172.30.2.12", "192.0.2.12");
    for kind in [BackendKind::Vxlan, BackendKind::Auto] {
        let mut s = cluster(kind, &["172.30.2.12/24", "192.0.2.12/24"], |node| node.probe_port = Some(9468))
            .facts(|facts| drop(facts.links.insert(name("eth1"), host_link(1500, &["192.0.2.11/24"]))));
        let end = |s: &Scenario| way(s, V4).rsplit(' ').next().unwrap().to_owned();
        assert_eq!(end(&s), before);
        s.tables.reaches.insert(ip("192.0.2.12"), Reach { answers: true, mtu: None });
        assert_eq!(end(&s), after);
        s.tables.reaches.insert(ip("192.0.2.12"), Reach { answers: false, mtu: None });
        assert_eq!(end(&s), before);
    }
}

#[test]
fn an_address_that_does_not_answer_comes_last() {
    let silent = |s: &mut Scenario, text: &str, answers| {
        s.tables.reaches.insert(ip(text), Reach { answers, mtu: None });
    };
    for (kind, first, second) in [
        (BackendKind::HostGw, PLAIN_V4, "host-gw by eth1 via 192.0.2.12"),
        (BackendKind::Vxlan, NEAR_V4, "vxlan by ript1 via 10.244.2.1 to 0a:00:00:00:01:32 at 192.0.2.12"),
    ] {
        let mut s = cluster(kind, &["172.30.1.12/24", "192.0.2.12/24"], |_| {})
            .facts(|facts| drop(facts.links.insert(name("eth1"), host_link(1500, &["192.0.2.11/24"]))));
        silent(&mut s, "172.30.1.12", false);
        assert_eq!(way(&s, V4), second);
        silent(&mut s, "192.0.2.12", false);
        assert_eq!(way(&s, V4), first, "where none answers it is as if nobody had asked");
        silent(&mut s, "172.30.1.12", true);
        assert_eq!(way(&s, V4), first);
    }
}

/// What a way carries, less what goes around a packet, shortens what pods send to that peer and to no other.
#[test]
fn a_narrow_way_shortens_the_packets_of_its_peer() {
    let found = |s: &mut Scenario, text: &str, mtu| {
        s.tables.reaches.insert(ip(text), Reach { answers: true, mtu: Some(mtu) });
    };
    let length = |s: &Scenario, peer: &str, family| {
        let peer = s.tables.nodes[&node(peer)].value.clone();
        let way = path(&s.tables, &default_network(s), &peer, family).unwrap();
        (mtu(&s.tables, &default_network(s), &way), carries_its_family(&s.tables, &way))
    };
    let mut s = cluster(BackendKind::Vxlan, FAR, |_| {}).peer(
        "n3",
        &["172.30.3.13/24"],
        &["10.244.3.0/24", "fd00:10:0:3::/64"],
    );
    assert_eq!(length(&s, "n2", V4), (None, true), "as the device has it");
    found(&mut s, "172.30.2.12", 1500);
    assert_eq!(length(&s, "n2", V4), (None, true));
    found(&mut s, "172.30.2.12", 1400);
    assert_eq!((length(&s, "n2", V4), length(&s, "n2", V6)), ((Some(1350), true), (Some(1350), true)));
    assert_eq!(length(&s, "n3", V4), (None, true));
    found(&mut s, "172.30.2.12", 1300);
    assert_eq!(length(&s, "n2", V4), (Some(1250), true));
    assert_eq!(length(&s, "n2", V6), (Some(1280), false), "IPv6 has no shorter one");
    let mut plain = cluster(BackendKind::HostGw, NEAR, |_| {});
    found(&mut plain, "172.30.1.12", 1400);
    assert_eq!((length(&plain, "n2", V4), length(&plain, "n2", V6)), ((Some(1400), true), (None, true)));
    // A link that takes less than the tunnel's device says so itself.
    let small = cluster(BackendKind::Vxlan, &["192.0.2.12/24"], |_| {})
        .facts(|facts| drop(facts.links.insert(name("eth1"), host_link(1400, &["192.0.2.11/24"]))));
    assert_eq!(length(&small, "n2", V4), (Some(1350), true));
}

#[test]
fn what_paths_lead_to_is_probed_and_whose_tunnel_packets_are_taken_is_answered() {
    let of = |kind, port| {
        let s =
            cluster(kind, &["172.30.2.12/24", "192.0.2.12/24", "fd00:30:1::12/64"], |record| record.probe_port = port);
        let Ways { targets, tunnels } = ways(&s.tables);
        let targets: Vec<String> = targets.iter().map(|t| format!("{} {} {}", t.address, t.port, t.most)).collect();
        let tunnels: Vec<String> = tunnels.iter().map(|t| format!("{} {}", t.link, t.address)).collect();
        (targets, tunnels)
    };
    let (probed, inside) = of(BackendKind::Vxlan, Some(9468));
    assert_eq!(probed, ["172.30.2.12 9468 1500", "192.0.2.12 9468 1500"], "the family of outer packets only");
    assert_eq!(inside, ["ript1 10.244.2.1"]);
    let (probed, inside) = of(BackendKind::HostGw, Some(9468));
    assert_eq!((probed, inside), (vec!["fd00:30:1::12 9468 1500".to_owned()], vec![]));
    assert_eq!(of(BackendKind::Vxlan, None), (vec![], vec![]), "a node of Flannel answers nothing");
    // A router that BGP leads by answers nobody: the peer behind it is asked.
    let mut s = cluster(BackendKind::Bgp, FAR, |record| record.probe_port = Some(9468));
    let routes = vec![(prefix("10.244.2.0/24"), vec!["fe80::1%eth0".parse().unwrap()])];
    s.tables.apply_bgp(&BgpInput { routes, settled: true, faults: Vec::new() });
    let targets: Vec<_> = ways(&s.tables).targets.into_iter().map(|target| target.address).collect();
    assert_eq!(targets, [ip("172.30.2.12")]);
    let s = cluster(BackendKind::Vxlan, FAR, |_| {});
    let peer = s.tables.nodes[&node("n2")].value.clone();
    let answered: Vec<_> = askers(&s.tables, &peer).collect();
    assert_eq!(answered, ["172.30.2.12", "fd00:30:2::12", "10.244.2.1", "fd00:10:0:2::1"].map(ip));
}
