//! Flannel's net-conf.json.

use ripstop_objects::{BackendKind, Network, Note};
use ripstop_types::Family;

use crate::{lines, name};

fn decode(text: &str) -> (Network, Vec<Note>) {
    Network::from_flannel(name("default"), text).unwrap_or_else(|faults| panic!("{faults}"))
}

fn faults(text: &str) -> Vec<String> {
    lines(&Network::from_flannel(name("default"), text).unwrap_err())
}

#[test]
fn the_manifest_that_flannel_ships_is_accepted() {
    let (network, notes) =
        decode(r#"{"Network": "10.244.0.0/16", "EnableNFTables": false, "Backend": {"Type": "vxlan"}}"#);
    let spec = &network.spec;
    assert_eq!(spec.ranges.v4.unwrap().to_string(), "10.244.0.0/16");
    assert_eq!(spec.backend.kind, BackendKind::Vxlan);
    assert_eq!((spec.backend.vni, spec.backend.port, spec.backend.mtu), (1, 8472, None));
    assert_eq!(spec.node_range_len.v4, 24);
    assert_eq!(spec.first_node_range(Family::V4).unwrap().to_string(), "10.244.1.0/24", "Flannel skips the first");
    assert_eq!(spec.last_node_range(Family::V4).unwrap().to_string(), "10.244.255.0/24");
    assert_eq!(notes.len(), 1);
    assert!(notes[0].to_string().starts_with("network/default: EnableNFTables: has no effect"), "{notes:?}");
}

#[test]
fn every_key_is_read() {
    let (network, notes) = decode(
        r#"{"Network": "10.0.0.0/8", "SubnetLen": 20, "SubnetMin": "10.10.0.0", "SubnetMax": "10.99.0.0",
            "EnableIPv6": true, "IPv6Network": "fc00::/48", "IPv6SubnetLen": 80, "IPv6SubnetMin": "fc00::1:0:0:0",
            "IPv6SubnetMax": "fc00::2:0:0:0",
            "Backend": {"Type": "vxlan", "VNI": 7, "Port": 4789, "DirectRouting": true, "Learning": false, "GBP": false, "MTU": 1400}}"#,
    );
    let spec = &network.spec;
    assert!(notes.is_empty(), "{notes:?}");
    assert_eq!((spec.node_range_len.v4, spec.node_range_len.v6), (20, 80));
    assert_eq!(spec.first_node_range(Family::V4).unwrap().to_string(), "10.10.0.0/20");
    assert_eq!(spec.last_node_range(Family::V4).unwrap().to_string(), "10.99.0.0/20");
    assert_eq!(spec.first_node_range(Family::V6).unwrap().to_string(), "fc00::1:0:0:0/80");
    assert_eq!(spec.last_node_range(Family::V6).unwrap().to_string(), "fc00::2:0:0:0/80");
    assert_eq!(spec.backend.kind, BackendKind::Auto, "direct routing");
    assert_eq!((spec.backend.vni, spec.backend.port, spec.backend.mtu), (7, 4789, Some(1400)));
}

#[test]
fn a_family_that_is_off_is_noted() {
    let (network, notes) = decode(
        r#"{"EnableIPv4": false, "Network": "10.0.0.0/8", "SubnetMin": "10.1.0.0", "EnableIPv6": true,
            "IPv6Network": "fc00::/48", "Backend": {"Type": "host-gw"}}"#,
    );
    assert_eq!(network.spec.ranges.v4, None);
    assert_eq!(network.spec.ranges.v6.unwrap().to_string(), "fc00::/48");
    let paths: Vec<&str> = notes.iter().map(|note| note.path.as_str()).collect();
    assert_eq!(paths, ["Network", "SubnetMin"]);
    let (network, notes) =
        decode(r#"{"Network": "10.0.0.0/8", "IPv6Network": "fc00::/48", "Backend": {"Type": "host-gw"}}"#);
    assert_eq!((network.spec.ranges.v6, notes.len()), (None, 1));
    assert!(
        faults(r#"{"EnableIPv4": false, "Network": "10.0.0.0/8", "Backend": {"Type": "host-gw"}}"#)[0]
            .contains("no family that is enabled")
    );
}

#[test]
fn zero_is_flannels_word_for_nothing() {
    let zeros = r#"{"Network": "10.0.0.0/8", "SubnetLen": 0, "Backend": {"Type": "vxlan", "Port": 0, "MTU": 0}}"#;
    assert_eq!(decode(zeros), decode(r#"{"Network": "10.0.0.0/8", "Backend": {"Type": "vxlan"}}"#));
}

#[test]
fn udp_is_flannels_first_backend() {
    let port = |text: &str| {
        let backend = decode(text).0.spec.backend;
        (backend.kind, backend.udp_port, backend.port)
    };
    assert_eq!(port(r#"{"Network": "10.0.0.0/8"}"#), (BackendKind::Udp, 8285, 8472));
    let own = r#"{"Network": "10.0.0.0/8", "Backend": {"Type": "udp", "Port": 7890}}"#;
    assert_eq!(port(own), (BackendKind::Udp, 7890, 8472));
    assert!(faults(&own.replace("7890", "70000"))[0].contains("Backend.Port: found 70000"));
    assert!(faults(&own.replace("Port", "VNI"))[0].contains("Backend.VNI: found an unknown field"));
}

#[test]
fn other_backends_are_refused_by_name() {
    for kind in ["ipip", "wireguard", "ipsec", "alloc", "extension", "tencent-vpc"] {
        let faults = faults(&format!(r#"{{"Network": "10.0.0.0/8", "Backend": {{"Type": "{kind}", "PSK": "x"}}}}"#));
        let expected = format!(
            "network/default: Backend.Type: found {kind}, which is not available yet, accepted: vxlan, host-gw, udp"
        );
        assert_eq!(faults, [expected]);
    }
    assert!(faults(r#"{"Network": "10.0.0.0/8", "Backend": {}}"#)[0].contains("Backend.Type: found nothing"));
}

#[test]
fn faults_have_flannels_names() {
    let text = r#"{"Network": "10.0.0.1/8", "SubnetLen": 31, "EnableIPv6": true, "SubnettMin": "10.1.0.0",
        "Backend": {"Type": "vxlan", "VNI": 0, "Learning": true, "GBP": true, "Vni": 3}}"#;
    let faults = faults(text);
    let paths: Vec<&str> = faults.iter().filter_map(|fault| fault.split(": ").nth(1)).collect();
    let expected = [
        "Backend.GBP",
        "Backend.Learning",
        "Backend.VNI",
        "Backend.Vni",
        "IPv6Network",
        "Network",
        "SubnetLen",
        "SubnettMin",
    ];
    assert_eq!(paths, expected, "{faults:#?}");
    let text = r#"{"Network": "10.0.0.0/16", "SubnetLen": 12, "SubnetMin": "11.0.0.0", "Backend": {"Type": "host-gw", "VNI": 3}}"#;
    let faults = self::faults(text);
    let paths: Vec<&str> = faults.iter().filter_map(|fault| fault.split(": ").nth(1)).collect();
    assert_eq!(paths, ["Backend.VNI", "SubnetLen", "SubnetMin"], "{faults:#?}");
}
