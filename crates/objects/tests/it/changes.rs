//! Rules that need more than the object.

use ripstop_objects::{
    NodeAddress, NodeRecord, Record, check_change, check_network_against_host, check_networks, check_node_name,
    check_pod_cidrs,
};
use ripstop_types::Prefix;

use crate::records::node;
use crate::{lines, network};

fn prefixes(list: &[&str]) -> Vec<Prefix> {
    list.iter().map(|text| text.parse().unwrap()).collect()
}

const OLD: &str = "{ranges: [10.244.0.0/16, 'fd00:10:244::/48'], backend: vxlan}";
const IN_USE: &[&str] = &["10.244.3.0/24", "10.244.3.9/32", "fd00:10:244:3::/64"];

fn change(new: &str, in_use: &[&str]) -> Vec<String> {
    let (old, new) = (network("default", OLD).unwrap(), network("default", new).unwrap());
    match check_change(&old, &new, &prefixes(in_use)) {
        Ok(()) => Vec::new(),
        Err(faults) => lines(&faults),
    }
}

#[test]
fn what_tears_nothing_may_change_under_pods() {
    for new in [
        OLD,
        "{ranges: [10.244.0.0/16, 'fd00:10:244::/48'], backend: host-gw}",
        "{ranges: [10.244.0.0/16, 'fd00:10:244::/48'], backend: {type: auto, mtu: 1400}, masquerade: false}",
        "{ranges: [10.240.0.0/12, 'fd00:10:244::/48'], backend: vxlan}",
        "{ranges: [10.244.0.0/18, 'fd00:10:244::/48'], backend: vxlan}",
        "{ranges: [10.244.0.0/16, 'fd00:10:244::/48'], backend: vxlan, exclude: [10.244.4.0/24, 10.244.3.8/32]}",
        "{ranges: [10.244.0.0/16, 'fd00:10:244::/48'], backend: vxlan, rangeMin: {v4: 10.244.3.0}, rangeMax: {v4: 10.244.3.0}}",
        "{ranges: [10.244.0.0/16, 'fd00:10:244::/48'], backend: {type: host-gw, vni: 9}}",
    ] {
        assert_eq!(change(new, IN_USE), [""; 0], "{new}");
    }
}

#[test]
fn what_tears_something_waits_until_nothing_is_in_use() {
    for (new, paths) in [
        ("{ranges: [10.0.0.0/16, 'fd00:10:244::/48'], backend: vxlan}", &["spec.ranges[0]"][..]),
        ("{ranges: [10.244.0.0/16], backend: vxlan}", &["spec.ranges"]),
        ("{ranges: ['fd00:10:244:8000::/49'], backend: vxlan}", &["spec.ranges", "spec.ranges[0]"]),
        (
            "{ranges: [10.244.0.0/16, 'fd00:10:244::/48'], nodeRangeLen: {v4: 25, v6: 80}, wiring: bridge, backend: {type: auto, vni: 2, port: 4789}}",
            &["spec.backend.port", "spec.backend.vni", "spec.nodeRangeLen.v4", "spec.nodeRangeLen.v6", "spec.wiring"],
        ),
        ("{ranges: [10.244.0.0/16, 'fd00:10:244::/48'], rangeMode: pod-cidr, backend: vxlan}", &["spec.rangeMode"]),
        ("{ranges: [10.244.0.0/16, 'fd00:10:244::/48'], backend: vxlan, exclude: [10.244.3.8/29]}", &["spec.exclude"]),
        (
            "{ranges: [10.244.0.0/16, 'fd00:10:244::/48'], backend: vxlan, rangeMin: {v4: 10.244.4.0}}",
            &["spec.rangeMin.v4"],
        ),
        (
            "{ranges: [10.244.0.0/16, 'fd00:10:244::/48'], backend: vxlan, rangeMax: {v6: 'fd00:10:244:2::'}}",
            &["spec.rangeMax.v6"],
        ),
    ] {
        let faults = change(new, IN_USE);
        let mut found: Vec<&str> = faults.iter().filter_map(|fault| fault.split(": ").nth(1)).collect();
        found.dedup();
        assert_eq!(found, paths, "{new}: {faults:#?}");
        assert_eq!(change(new, &[]), [""; 0], "{new}");
    }
}

#[test]
fn an_exclusion_that_was_there_stays_allowed() {
    let old = network("default", "{ranges: [10.244.0.0/16], exclude: [10.244.3.8/30]}").unwrap();
    let new = network("default", "{ranges: [10.244.0.0/16], exclude: [10.244.3.8/30, 10.244.9.0/24]}").unwrap();
    assert!(check_change(&old, &new, &prefixes(&["10.244.3.9/32"])).is_ok());
    assert!(check_change(&old, &new, &prefixes(&["10.244.9.9/32"])).is_err());
}

#[test]
fn a_refused_change_says_why() {
    let faults = change("{ranges: [10.244.0.0/16, 'fd00:10:244::/48'], backend: vxlan, wiring: bridge}", IN_USE);
    assert_eq!(
        faults,
        ["network/default: spec.wiring: found bridge, accepted: routed, as long as 3 ranges or addresses are in use"]
    );
}

#[test]
fn a_network_over_the_nodes_own_subnet_is_refused() {
    let network = network("default", "{ranges: [10.244.0.0/16, 'fd00:10:244::/48']}").unwrap();
    let address = |ip: &str, prefix: &str| NodeAddress { ip: ip.parse().unwrap(), prefix: prefix.parse().unwrap() };
    assert!(check_network_against_host(&network, &[address("192.0.2.1", "192.0.2.0/24")]).is_ok());
    let host = [
        address("10.244.7.1", "10.244.7.0/24"),
        address("10.1.2.3", "10.0.0.0/8"),
        address("fd00:10:244::1", "fd00:10:244::1/128"),
    ];
    assert_eq!(
        lines(&check_network_against_host(&network, &host).unwrap_err()),
        [
            "network/default: spec.ranges[0]: found 10.244.0.0/16, which overlaps the node's own subnet 10.0.0.0/8 of 10.1.2.3, accepted: a range that no node's subnet shares addresses with",
            "network/default: spec.ranges[0]: found 10.244.0.0/16, which overlaps the node's own subnet 10.244.7.0/24 of 10.244.7.1, accepted: a range that no node's subnet shares addresses with",
            "network/default: spec.ranges[1]: found fd00:10:244::/48, which overlaps the node's own subnet fd00:10:244::1/128 of fd00:10:244::1, accepted: a range that no node's subnet shares addresses with",
        ]
    );
}

#[test]
fn pod_cidrs_belong_to_a_network() {
    let networks = [
        network("a", "{ranges: [10.1.0.0/16, 'fd00:1::/48'], rangeMode: pod-cidr}").unwrap(),
        network("b", "{ranges: [10.2.0.0/16]}").unwrap(),
    ];
    assert!(check_pod_cidrs(&prefixes(&["10.1.3.0/24", "fd00:1:0:3::/64"]), &networks).is_ok());
    let faults = check_pod_cidrs(&prefixes(&["10.1.3.0/24", "10.1.4.0/24", "10.2.3.0/24"]), &networks).unwrap_err();
    assert_eq!(
        lines(&faults),
        [
            "config: podCIDRs[1]: found 10.1.4.0/24, accepted: one IPv4 range of network/a; 10.1.3.0/24 stands before",
            "config: podCIDRs[2]: found 10.2.3.0/24, accepted: a range inside a network of rangeMode pod-cidr",
        ]
    );
}

#[test]
fn two_machines_with_one_name_are_told_apart() {
    let own = NodeRecord::decode("n1", &node()).unwrap();
    let mut other = own.clone();
    other.identity.boot_id = "b2".into();
    assert!(check_node_name(&own, &other).is_ok(), "the same machine after a boot");
    other.identity.machine_id = "m2".into();
    assert_eq!(
        lines(&check_node_name(&own, &other).unwrap_err()),
        [
            "node/n1: name: found the name of another machine, m2 at 192.0.2.1, 2001:db8::1, accepted: a name of its own for each machine, or the other machine's record deleted first"
        ]
    );
}

#[test]
fn a_move_between_tunnels_keeps_both_ports() {
    let of = |backend: &str| network("default", &format!("{{ranges: [10.244.0.0/16], backend: {backend}}}")).unwrap();
    let moved = |from: &str, to: &str| of(to).succeeding(&of(from));
    let to_udp = moved("{type: vxlan, vni: 7, port: 4789}", "{type: udp, port: 9000}").unwrap();
    let backend = to_udp.spec.backend;
    assert_eq!((backend.vni, backend.port, backend.udp_port), (7, 4789, 9000));
    assert_eq!(moved("{type: udp, port: 9000}", "vxlan").unwrap().spec.backend.udp_port, 9000);
    let fault = moved("{type: vxlan, port: 4789}", "{type: udp, port: 4789}").unwrap_err().to_string();
    assert!(fault.starts_with("network/default: spec.backend.udpPort: found 4789 for vxlan and for udp"), "{fault}");
    assert!(moved("host-gw", "{type: udp, port: 8472}").is_ok(), "no vxlan, no contest");
}

#[test]
fn networks_share_the_forwarders_port_and_no_vxlan_device_has_it() {
    let of = |name: &str, range: &str, backend: &str| {
        network(name, &format!("{{ranges: [{range}], backend: {backend}}}")).unwrap()
    };
    let fault = |a: &str, b: &str| {
        let faults = check_networks(&[of("a", "10.1.0.0/16", a), of("b", "10.2.0.0/16", b)]);
        faults.err().map(|faults| lines(&faults).join("\n")).unwrap_or_default()
    };
    assert_eq!(fault("udp", "udp"), "");
    assert_eq!(fault("udp", "{type: host-gw, udpPort: 9000}"), "");
    assert!(
        fault("udp", "{type: udp, port: 9000}")
            .contains("network/b: spec.backend.udpPort: found 9000, but network/a has 8285")
    );
    assert!(fault("vxlan", "{type: udp, port: 8472}").contains("found 8472, on which network/a has vxlan"));
    assert!(fault("udp", "{type: vxlan, port: 8285}").contains("found 8285, on which network/a has udp"));
}
