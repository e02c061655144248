//! The clusters of the stories, seen from node n1.

use ripstop_objects::{
    AgentConfig, BackendKind, ClusterObject, FlannelNode, IpipReceive, KubeNode, Migration, Network, NetworkSpec,
    NodeRecord, Receive, UdpReceive, Wiring,
};
use ripstop_tables::{BgpInput, Change, HostLink, ObjectInput, PodState, Shaping, Start};
use ripstop_types::{Mac, Revision};

use crate::scenario::{Scenario, facts, host_link, name, pod_row, prefix, start};

const V4: &[&str] = &["10.244.0.0/16"];
const V6: &[&str] = &["fd00:10::/48"];
const DUAL: &[&str] = &["10.244.0.0/16", "fd00:10::/48"];

fn base(ranges: &[&str], own: &[&str], change: impl FnOnce(&mut NetworkSpec)) -> Scenario {
    let s = Scenario::synced().network("default", ranges, change).realised(&["rip0", "ript1"]);
    own.iter().fold(s, |s, range| s.own("default", range))
}

/// Every story by its name.
pub fn all() -> Vec<(&'static str, Scenario)> {
    vec![
        ("routed-host-gw-v4", routed_host_gw_v4()),
        ("routed-vxlan-dual", routed_vxlan_dual()),
        ("bridge-vxlan", bridge_vxlan()),
        ("bridge-migrating", bridge_migrating()),
        ("auto-two-subnets", auto_two_subnets()),
        ("udp-dual", udp_dual()),
        ("udp-no-forwarder", udp_no_forwarder()),
        ("ipip-dual", ipip_dual()),
        ("ipip-programs", ipip_programs()),
        ("v6-only", v6_only()),
        ("bandwidth", bandwidth()),
        ("bandwidth-without-ifb", without_ifb(bandwidth())),
        ("bgp", bgp()),
        ("bgp-by-links", bgp_by_links()),
        ("peer-refused", peer_refused()),
        ("no-uplink", no_uplink()),
        ("two-networks", two_networks()),
        ("taken-from-flannel", taken_from_flannel()),
    ]
}

/// One subnet, no encapsulation: a pod here, a peer with two ranges.
pub fn routed_host_gw_v4() -> Scenario {
    base(V4, &["10.244.1.0/24"], |spec| spec.backend.kind = BackendKind::HostGw)
        .peer("n2", &["172.30.1.12/24"], &["10.244.2.0/24", "10.244.7.0/24"])
        .pod(pod_row("a", "default", &["10.244.1.7"], Wiring::Routed))
}

/// Everything by VXLAN, pods of both families, outer packets by IPv4.
pub fn routed_vxlan_dual() -> Scenario {
    base(DUAL, &["10.244.1.0/24", "fd00:10:0:1::/64"], |spec| spec.backend.kind = BackendKind::Vxlan)
        .peer("n2", &["172.30.1.12/24", "fd00:30:1::12/64"], &["10.244.2.0/24", "fd00:10:0:2::/64"])
        .pod(pod_row("a", "default", &["10.244.1.7", "fd00:10:0:1::7"], Wiring::Routed))
}

/// A node that flanneld ran: its bridge stands with two pods on it, and another node is still flanneld's.
pub fn taken_from_flannel() -> Scenario {
    let (config, _) = AgentConfig::decode("store: {kubernetes: {flannel: {}}}").unwrap();
    let mut facts = facts();
    let bridge = HostLink { kind: Some("bridge".into()), ports: 2, ..host_link(1450, &["10.244.1.1/24"]) };
    facts.links.insert(name("cni0"), bridge);
    let mut s = Scenario::with(Start { config, ..start(facts) });
    s.sync_all();
    let kube = |node: &str, range: &str, mac: u8| KubeNode {
        name: node.parse().unwrap(),
        uid: "".into(),
        pod_cidrs: vec![prefix(range)],
        labels: Default::default(),
        addresses: Vec::new(),
        zone: None,
        leaving: false,
        flannel: Some(FlannelNode {
            public_ip: "172.30.1.12".parse().unwrap(),
            vni: 1,
            mac: Mac([2, 0, 0, 0, 0, mac]),
        }),
    };
    for node in [kube("n1", "10.244.1.0/24", 1), kube("n2", "10.244.2.0/24", 2)] {
        let object = ClusterObject::Node(node);
        s.tables.apply_object(&ObjectInput::Put { object, revision: Revision(1) });
    }
    s.network("default", V4, |spec| spec.backend.kind = BackendKind::Vxlan)
        .realised(&["rip0", "ript1"])
        .own("default", "10.244.1.0/24")
        .pod(pod_row("a", "default", &["10.244.1.7"], Wiring::Routed))
}

/// Flannel's shape: pods in a bridge, VXLAN between nodes.
pub fn bridge_vxlan() -> Scenario {
    base(DUAL, &["10.244.1.0/24", "fd00:10:0:1::/64"], |spec| {
        spec.backend.kind = BackendKind::Vxlan;
        spec.wiring = Wiring::Bridge;
    })
    .peer("n2", &["172.30.1.12/24"], &["10.244.2.0/24", "fd00:10:0:2::/64"])
    .pod(pod_row("a", "default", &["10.244.1.7", "fd00:10:0:1::7"], Wiring::Bridge))
    .pod(pod_row("b", "default", &["10.244.1.8"], Wiring::Bridge))
}

/// The same on the way there from host-gw: links take what the longer packets need, pods send the shorter, also to pods
/// beside them.
pub fn bridge_migrating() -> Scenario {
    let mut scenario = bridge_vxlan();
    let rows = scenario.tables.networks.values();
    let all: Vec<Network> = rows.map(|row| (*row.value).clone()).collect();
    for network in all {
        scenario.put(&Network { migration: Some(Migration::from(BackendKind::HostGw)), ..network });
    }
    scenario
}

/// Everything by the forwarder.
pub fn udp_dual() -> Scenario {
    let udp = |record: &mut NodeRecord| {
        let outer_v4 = Some("172.30.2.12".parse().unwrap());
        record.receives.push(Receive::Udp(UdpReceive { port: 8285, outer_v4, outer_v6: None }));
    };
    base(DUAL, &["10.244.1.0/24", "fd00:10:0:1::/64"], |spec| spec.backend.kind = BackendKind::Udp)
        .facts(|facts| facts.forwarder = true)
        .realised(&["rip0", "ripudp0"])
        .peer_with("n2", &["172.30.2.12/24", "fd00:30:2::12/64"], &["10.244.2.0/24", "fd00:10:0:2::/64"], udp)
        .pod(pod_row("a", "default", &["10.244.1.7", "fd00:10:0:1::7"], Wiring::Routed))
}

/// IPv4 by IPIP to two peers, also in the subnet; IPv6 plain to the one, and nowhere to the other behind a router.
pub fn ipip_dual() -> Scenario {
    let ipip = |ip: &str| {
        let receive = Receive::Ipip(IpipReceive { outer_v4: ip.parse().unwrap() });
        move |record: &mut NodeRecord| record.receives.push(receive)
    };
    base(DUAL, &["10.244.1.0/24", "fd00:10:0:1::/64"], |spec| spec.backend.kind = BackendKind::Ipip)
        .realised(&["rip0", "ripipip0"])
        .peer_with(
            "n2",
            &["172.30.1.12/24", "fd00:30:1::12/64"],
            &["10.244.2.0/24", "fd00:10:0:2::/64"],
            ipip("172.30.1.12"),
        )
        .peer_with(
            "n3",
            &["172.30.2.13/24", "fd00:30:2::13/64"],
            &["10.244.3.0/24", "fd00:10:0:3::/64"],
            ipip("172.30.2.13"),
        )
        .pod(pod_row("a", "default", &["10.244.1.7", "fd00:10:0:1::7"], Wiring::Routed))
}

/// The same on a kernel without the device.
pub fn ipip_programs() -> Scenario {
    ipip_dual().facts(|facts| (facts.ipip, facts.tcx, facts.ifb) = (false, true, true))
}

/// The same while nobody forwards: device and routes are there, and nobody can be told of peers.
pub fn udp_no_forwarder() -> Scenario {
    udp_dual().facts(|facts| facts.forwarder = false)
}

/// A near peer without encapsulation, a far one with.
pub fn auto_two_subnets() -> Scenario {
    base(V4, &["10.244.1.0/24"], |spec| spec.backend.kind = BackendKind::Auto)
        .peer("n2", &["172.30.1.12/24"], &["10.244.2.0/24"])
        .peer("n3", &["172.30.2.13/24"], &["10.244.3.0/24"])
        .pod(pod_row("a", "default", &["10.244.1.7"], Wiring::Routed))
}

/// A near peer, one behind two routers and one of whom BGP knows nothing; outside two ways, one by a next hop that a router
/// leads to. What is told for the cluster's own addresses makes no route.
pub fn bgp() -> Scenario {
    let mut s = base(V4, &["10.244.1.0/24"], |spec| spec.backend.kind = BackendKind::Bgp)
        .peer("n2", &["172.30.1.12/24"], &["10.244.2.0/24"])
        .peer("n3", &["172.30.2.13/24"], &["10.244.3.0/24", "10.244.7.0/24"])
        .peer("n4", &["172.30.2.14/24"], &["10.244.4.0/24"]);
    let routes: [(&str, &[&str]); 9] = [
        ("10.244.2.0/24", &["172.30.1.12"]),
        ("10.244.3.0/24", &["172.30.1.1", "172.30.1.2"]),
        ("10.244.7.0/24", &["172.30.1.2", "172.30.1.1"]),
        ("192.0.2.0/24", &["172.30.1.1", "172.30.1.2"]),
        ("198.51.100.0/24", &["192.0.2.7", "172.30.1.2"]),
        ("203.0.113.0/24", &["10.99.0.1"]),
        ("10.244.99.0/24", &["172.30.1.1"]),
        ("172.30.1.128/25", &["172.30.1.1"]),
        ("10.244.1.0/25", &["172.30.1.1"]),
    ];
    let routes = routes.map(|(dst, hops)| (prefix(dst), hops.iter().map(|hop| hop.parse().unwrap()).collect()));
    let changes = s.tables.apply_bgp(&BgpInput { routes: routes.into(), settled: true, faults: Vec::new() });
    assert_eq!(changes, [Change::Bgp].into());
    s
}

/// Next hops that are link-local: one address on two links, beside another family, on links without a carrier or that are not there,
/// and behind a next hop that is none.
pub fn bgp_by_links() -> Scenario {
    let down = HostLink { running: false, ..host_link(1500, &[]) };
    let mut s = base(DUAL, &["10.244.1.0/24", "fd00:10:0:1::/64"], |spec| spec.backend.kind = BackendKind::Bgp)
        .facts(|facts| {
            facts.links.insert(name("eth8"), host_link(9000, &[]));
            facts.links.insert(name("eth9"), host_link(9000, &[]));
            facts.links.insert(name("eth7"), down);
        })
        .peer("n2", &["172.30.2.12/24"], &["10.244.2.0/24", "fd00:10:0:2::/64"]);
    let routes: [(&str, &[&str]); 6] = [
        ("10.244.2.0/24", &["fe80::1%eth8", "fe80::1%eth9"]),
        ("fd00:10:0:2::/64", &["fe80::1%eth9", "fe80::1%eth8"]),
        ("192.0.2.0/24", &["172.30.1.1", "fe80::1%eth8"]),
        ("198.51.100.0/24", &["192.0.2.7"]),
        ("203.0.113.0/24", &["fe80::1%eth7", "fe80::1%eth9", "fe80::1%eth6"]),
        ("2001:db8::/32", &["fe80::1%eth7"]),
    ];
    let routes = routes.map(|(dst, hops)| (prefix(dst), hops.iter().map(|hop| hop.parse().unwrap()).collect()));
    s.tables.apply_bgp(&BgpInput { routes: routes.into(), settled: true, faults: Vec::new() });
    s
}

/// A node without IPv4.
pub fn v6_only() -> Scenario {
    base(V6, &["fd00:10:0:1::/64"], |spec| spec.backend.kind = BackendKind::Auto)
        .facts(|facts| facts.links.values_mut().for_each(|link| link.addresses.retain(|(ip, _)| ip.is_ipv6())))
        .peer("n2", &["fd00:30:1::12/64"], &["fd00:10:0:2::/64"])
        .peer("n3", &["fd00:30:2::13/64"], &["fd00:10:0:3::/64"])
        .pod(pod_row("a", "default", &["fd00:10:0:1::7"], Wiring::Routed))
}

/// A pod with limits in both directions, one whose container was not named by a pod, and one whose interface went.
pub fn bandwidth() -> Scenario {
    let mut limited = pod_row("a", "default", &["10.244.1.7"], Wiring::Routed);
    limited.bandwidth.ingress = Some(Shaping { rate: 10_000_000, burst: 1_600_000 });
    limited.bandwidth.egress = Some(Shaping { rate: 1_000_000_000, burst: 1 });
    let mut nameless = pod_row("b", "default", &["10.244.1.8"], Wiring::Routed);
    nameless.pod = None;
    let mut gone = pod_row("c", "default", &["10.244.1.9"], Wiring::Routed);
    gone.state = PodState::Gone;
    base(V4, &["10.244.1.0/24"], |spec| spec.backend.kind = BackendKind::HostGw).pod(limited).pod(nameless).pod(gone)
}

/// A kernel that cannot shape what a link receives.
fn without_ifb(scenario: Scenario) -> Scenario {
    scenario.facts(|facts| facts.ifb = false)
}

fn plain_only(record: &mut NodeRecord) {
    record.receives = vec![Receive::Plain];
}

/// host-gw to a peer behind a router, and a peer that takes nothing but VXLAN.
pub fn peer_refused() -> Scenario {
    base(V4, &["10.244.1.0/24"], |spec| spec.backend.kind = BackendKind::HostGw)
        .peer("n2", &["172.30.2.12/24"], &["10.244.2.0/24"])
        .peer_with("n3", &["172.30.1.13/24"], &["10.244.3.0/24"], |record| record.receives.clear())
        .peer_with("n4", &["172.30.1.14/24"], &["10.244.4.0/24"], plain_only)
}

/// The uplink went: what needs none stays, peers are unreachable.
pub fn no_uplink() -> Scenario {
    routed_vxlan_dual().facts(|facts| {
        facts.links.clear();
        facts.default_links.clear();
    })
}

/// A second network with its own wiring and tunnel; a pod in each; one peer in both.
pub fn two_networks() -> Scenario {
    let s = base(V4, &["10.244.1.0/24"], |spec| spec.backend.kind = BackendKind::Vxlan)
        .network("storage", &["10.9.0.0/16"], |spec| {
            spec.wiring = Wiring::Bridge;
            spec.backend.kind = BackendKind::HostGw;
            spec.backend.vni = 2;
            spec.masquerade.enabled = false;
        })
        .own("storage", "10.9.1.0/24")
        .peer("n2", &["172.30.1.12/24"], &["10.244.2.0/24"])
        .pod(pod_row("a", "default", &["10.244.1.7"], Wiring::Routed))
        .pod(pod_row("b", "storage", &["10.9.1.8"], Wiring::Bridge));
    let mut s = s;
    s.put(&crate::scenario::claim("n2", "storage", "10.9.2.0/24", ripstop_objects::ClaimState::Held));
    s
}
