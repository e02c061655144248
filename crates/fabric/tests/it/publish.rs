//! What the peers are told: only what is already true of the kernel.

use ripstop_fabric::paths::{path, tunnel_mac};
use ripstop_fabric::publish::record;
use ripstop_objects::{BackendKind, NodeRecord, Receive, Record};
use ripstop_types::{Family, Revision};

use crate::scenario::{Scenario, ip, name, network_name, node, node_record};

fn cluster(kind: BackendKind) -> Scenario {
    Scenario::synced()
        .network("default", &["10.244.0.0/16", "fd00:10::/48"], |spec| spec.backend.kind = kind)
        .own("default", "10.244.1.0/24")
        .own("default", "fd00:10:0:1::/64")
}

#[test]
fn a_node_without_an_address_says_nothing() {
    let s = cluster(BackendKind::Vxlan).facts(|facts| facts.links.clear());
    assert_eq!(record(&s.tables), None);
}

/// A peer that reads of a way to receive may use it at once: it is named when the device is in the kernel, not before.
#[test]
fn what_is_not_in_the_kernel_is_not_told() {
    let s = cluster(BackendKind::Vxlan);
    let before = record(&s.tables).unwrap();
    assert_eq!(before.receives, [Receive::Plain]);
    assert!(before.networks.is_empty());
    let s = s.realised(&["rip0"]);
    let with_link = record(&s.tables).unwrap();
    assert_eq!(with_link.networks.keys().collect::<Vec<_>>(), [&network_name("default")]);
    assert_eq!(with_link.networks[&network_name("default")], Revision(1), "the revision that is realised");
    assert!(with_link.vxlan(1).is_none());
    let s = s.realised(&["rip0", "ript1"]);
    let whole = record(&s.tables).unwrap();
    let vtep = whole.vxlan(1).unwrap();
    assert_eq!((vtep.port, vtep.outer_v4, vtep.outer_v6), (8472, Some("172.30.1.11".parse().unwrap()), None));
    assert_eq!(
        (vtep.inner_v4.map(Into::into), vtep.inner_v6.map(Into::into)),
        (Some(ip("10.244.1.1")), Some(ip("fd00:10:0:1::1")))
    );
    let network = &s.tables.networks[&network_name("default")].value;
    assert_eq!(vtep.mac, tunnel_mac(&node("n1"), network));
}

#[test]
fn a_tunnel_that_is_left_over_is_not_told() {
    let s = cluster(BackendKind::HostGw).realised(&["rip0", "ript1"]);
    assert_eq!(record(&s.tables).unwrap().receives, [Receive::Plain]);
}

/// Its device says nothing yet: without a forwarder that is set up, what is sent there is lost.
#[test]
fn udp_is_told_when_a_forwarder_is_set_up() {
    let s = cluster(BackendKind::Udp);
    let told = record(&s.tables).unwrap();
    assert_eq!((told.udp(), told.forwarder), (None, false));
    let s = s.facts(|facts| facts.forwarder = true);
    let told = record(&s.tables).unwrap();
    assert_eq!((told.udp(), told.forwarder), (None, true));
    let s = s.realised(&["rip0", "ripudp0"]);
    let told = record(&s.tables).unwrap();
    let udp = told.udp().unwrap();
    assert_eq!((udp.port, udp.outer_v4, udp.outer_v6), (8285, Some("172.30.1.11".parse().unwrap()), None));
    let left = cluster(BackendKind::HostGw).realised(&["rip0", "ripudp0"]);
    assert_eq!(record(&left.tables).unwrap().udp(), None, "a device that is left over");
}

#[test]
fn who_and_where_the_node_is() {
    let mut s = cluster(BackendKind::Auto).network("storage", &["10.9.0.0/16"], |spec| spec.backend.mtu = Some(1400));
    s.tables.config.labels.insert("zone".into(), "a".into());
    let told = record(&s.tables).unwrap();
    assert_eq!((told.name.as_str(), &told.identity, told.version.as_str()), ("n1", &s.tables.identity, "1.0.0"));
    let addresses: Vec<_> = told.addresses.iter().map(|a| a.ip).collect();
    assert_eq!(addresses, [ip("172.30.1.11"), ip("fd00:30:1::11")]);
    assert_eq!(told.pod_mtu, Some(1400), "the smallest of all networks");
    assert_eq!(told.labels.get("zone").map(|value| &**value), Some("a"));
    assert_eq!(NodeRecord::decode("n1", &told.encode()).unwrap(), told, "peers read what is told");
}

/// A record that one node tells is a path for the other.
#[test]
fn what_a_node_tells_is_what_its_peer_needs() {
    let told = record(&cluster(BackendKind::Vxlan).realised(&["rip0", "ript1"]).tables).unwrap();
    let mut peer = Scenario::synced()
        .network("default", &["10.244.0.0/16", "fd00:10::/48"], |spec| spec.backend.kind = BackendKind::Vxlan)
        .facts(|facts| facts.links.get_mut(&name("eth0")).unwrap().addresses = vec![(ip("172.30.9.12"), 24)]);
    peer.tables.node = node("n2");
    peer.put(&told);
    let network = peer.tables.networks[&network_name("default")].value.clone();
    for (family, gateway) in [(Family::V4, "10.244.1.1"), (Family::V6, "fe80::817:5aff:fec7:c55c")] {
        let way = path(&peer.tables, &network, &told, family).unwrap();
        assert_eq!(way.gateway, ip(gateway));
        assert_eq!(way.tunnel.unwrap().outer, ip("172.30.1.11"));
    }
    assert!(path(&peer.tables, &network, &node_record("n3", &[]), Family::V4).is_err());
}
