//! The kind `Network`.

use ripstop_objects::{BackendKind, Network, NetworkSpec, RangeMode, Ranges, ToNodes, Wiring};
use ripstop_types::Family;

use crate::{lines, network};

fn faults(spec: &str) -> Vec<String> {
    lines(&network("default", spec).unwrap_err())
}

#[test]
fn a_range_alone_is_a_complete_network() {
    let network = network("default", "{ranges: [10.244.0.0/16]}").unwrap();
    let expected = NetworkSpec::of(Ranges { v4: Some("10.244.0.0/16".parse().unwrap()), v6: None });
    assert_eq!(network.spec, expected);
    assert_eq!(network.spec.node_range_len.get(Family::V4), 24);
    assert_eq!(network.spec.wiring, Wiring::Routed);
    assert_eq!(network.spec.backend.kind, BackendKind::Auto);
    assert!(network.spec.masquerade.enabled);
    assert_eq!(network.owner().as_str(), "network/default");
}

#[test]
fn every_field_is_read() {
    let text = "
apiVersion: ripstop.io/v1alpha1
kind: Network
metadata:
  name: blue
  labels: {team: net, example.com/tier: \"1\"}
spec:
  ranges: [fd00:10::/48, 10.10.0.0/16]
  rangeMode: lease
  nodeRangeLen: {v4: 25, v6: 80}
  rangeMin: {v4: 10.10.4.0}
  rangeMax: {v4: 10.10.5.128, v6: 'fd00:10:0:ffff::'}
  exclude: [10.10.9.0/24, 10.10.4.7/32]
  wiring: bridge
  backend: {type: vxlan, vni: 77, port: 4789, learning: false, mtu: 1400}
  masquerade: {enabled: false, toNodes: never}
";
    let Network { name, labels, spec, migration } = Network::decode(text).unwrap();
    assert_eq!(migration, None, "it begins by what changes, never by a document alone");
    assert_eq!(name.as_str(), "blue");
    assert_eq!(labels.len(), 2);
    let ranges: Vec<String> = spec.ranges.iter().map(|range| range.to_string()).collect();
    assert_eq!(ranges, ["10.10.0.0/16", "fd00:10::/48"]);
    assert_eq!(spec.range_mode, RangeMode::Lease);
    assert_eq!((spec.node_range_len.v4, spec.node_range_len.v6), (25, 80));
    assert_eq!(spec.first_node_range(Family::V4).unwrap().to_string(), "10.10.4.0/25");
    assert_eq!(spec.last_node_range(Family::V4).unwrap().to_string(), "10.10.5.128/25");
    assert_eq!(spec.first_node_range(Family::V6).unwrap().to_string(), "fd00:10::/80");
    let exclude: Vec<String> = spec.exclude.iter().map(ToString::to_string).collect();
    assert_eq!(exclude, ["10.10.4.7/32", "10.10.9.0/24"]);
    assert!(spec.excludes("10.10.9.200".parse().unwrap()) && !spec.excludes("10.10.4.8".parse().unwrap()));
    assert!(spec.contains("fd00:10::1".parse().unwrap()) && !spec.contains("10.11.0.0".parse().unwrap()));
    assert_eq!(spec.wiring, Wiring::Bridge);
    assert_eq!((spec.backend.vni, spec.backend.port, spec.backend.mtu), (77, 4789, Some(1400)));
    assert_eq!((spec.masquerade.enabled, spec.masquerade.to_nodes), (false, ToNodes::Never));
}

#[test]
fn short_forms_mean_the_same() {
    let short = network("default", "{ranges: [10.244.0.0/16], backend: vxlan, masquerade: false}").unwrap();
    let long = "{ranges: [10.244.0.0/16], backend: {type: vxlan}, masquerade: {enabled: false}}";
    assert_eq!(short, network("default", long).unwrap());
}

#[test]
fn host_bits_name_the_range_that_was_meant() {
    assert_eq!(
        faults("{ranges: [10.244.0.1/16]}"),
        ["network/default: spec.ranges[0]: found 10.244.0.1/16, accepted: no bits behind the prefix: 10.244.0.0/16"]
    );
}

#[test]
fn all_faults_come_at_once() {
    let spec = "{ranges: [10.244.0.1/16, fd00::/48], wirring: routed, rangeMode: stripes, nodeRangeLen: {v4: 31},
        backend: {type: wireguard, vni: 0, port: 70000, learning: true, mtu: 600}, masquerade: {toNodes: maybe}}";
    assert_eq!(
        faults(spec),
        [
            "network/default: spec.backend.learning: found true, accepted: false: forwarding entries come from the nodes' records alone",
            "network/default: spec.backend.mtu: found 600, accepted: a number from 1280 to 65535",
            "network/default: spec.backend.port: found 70000, accepted: a number from 1 to 65535",
            "network/default: spec.backend.type: found wireguard, which is not available yet, accepted: auto, host-gw, vxlan, udp, ipip, ipip-cross-subnet, bgp",
            "network/default: spec.backend.vni: found 0, accepted: a number from 1 to 16777215",
            "network/default: spec.masquerade.toNodes: found maybe, accepted: auto, always, never",
            "network/default: spec.nodeRangeLen.v4: found 31, accepted: a number from 1 to 30",
            "network/default: spec.rangeMode: found stripes, accepted: lease, pod-cidr, blocks",
            "network/default: spec.ranges[0]: found 10.244.0.1/16, accepted: no bits behind the prefix: 10.244.0.0/16",
            "network/default: spec.wirring: found an unknown field, accepted: wiring (the nearest field), of ranges, \
             rangeMode, nodeRangeLen, rangeMin, rangeMax, exclude, blocks, cooldownSeconds, wiring, backend, masquerade",
        ]
    );
}

#[test]
fn each_tunnel_has_a_port_of_its_own() {
    let backend = |text: &str| network("default", &format!("{{ranges: [10.244.0.0/16], backend: {text}}}")).unwrap();
    let ports = |text: &str| (backend(text).spec.backend.udp_port, backend(text).spec.backend.port);
    assert_eq!(ports("udp"), (8285, 8472));
    assert_eq!(ports("{type: udp, port: 9000}"), (9000, 8472));
    assert_eq!(ports("{type: udp, port: 4789, udpPort: 9000}"), (9000, 4789));
    assert_eq!(ports("{type: vxlan, port: 4789}"), (8285, 4789));
    for text in ["udp", "{type: udp, port: 9000}", "vxlan", "{type: vxlan, udpPort: 9000}"] {
        let written = serde_json::to_string(&backend(text)).unwrap();
        let read: ripstop_objects::Network = serde_json::from_str(&written).unwrap();
        assert_eq!(read, backend(text), "{written}");
    }
}

#[test]
fn backends_to_come_are_refused_by_name() {
    let later = faults("{ranges: [10.244.0.0/16], backend: wireguard}");
    assert_eq!(later.len(), 1, "{later:?}");
    assert!(later[0].contains("wireguard, which is not available yet"), "{later:?}");
    let faults = faults("{ranges: [10.244.0.0/16], backend: vxlam}");
    assert!(
        faults[0].ends_with("accepted: auto, host-gw, vxlan, udp, ipip, ipip-cross-subnet, bgp (did you mean vxlan?)"),
        "{faults:?}"
    );
}

#[test]
fn the_wrong_type_is_named() {
    assert_eq!(
        faults("{ranges: 10.244.0.0/16, exclude: {}, wiring: 4, backend: [], nodeRangeLen: 24}"),
        [
            "network/default: spec.backend: found a list, accepted: a map with type, vni, port, udpPort, learning, mtu",
            "network/default: spec.exclude: found a map, accepted: a list of an address range, as in 10.244.0.0/16 or fd00:10:244::/48",
            "network/default: spec.nodeRangeLen: found 24, accepted: a map with v4, v6",
            "network/default: spec.ranges: found 10.244.0.0/16, accepted: a list of at most one range a family, as in [10.244.0.0/16]",
            "network/default: spec.wiring: found 4 without quotes, accepted: text: routed, bridge",
        ]
    );
}

#[test]
fn ranges_pods_cannot_live_in_are_refused() {
    for range in ["127.0.0.0/16", "169.254.0.0/16", "224.0.0.0/8", "0.0.0.0/0", "fe80::/64", "ff02::/16", "::/0"] {
        let faults = faults(&format!("{{ranges: ['{range}']}}"));
        assert!(faults.iter().any(|f| f.contains("does not overlap")), "{range}: {faults:?}");
    }
    for range in ["10.0.0.0/31", "10.0.0.1/32", "fd00::/127"] {
        let faults = faults(&format!("{{ranges: ['{range}']}}"));
        assert!(faults.iter().any(|f| f.contains("a range of at most /")), "{range}: {faults:?}");
    }
    assert!(faults("{ranges: []}")[0].contains("an empty list"));
    let twice = faults("{ranges: [10.0.0.0/16, 10.1.0.0/16]}");
    assert_eq!(
        twice,
        [
            "network/default: spec.ranges[1]: found 10.1.0.0/16, accepted: at most one IPv4 range; 10.0.0.0/16 stands before"
        ]
    );
}

#[test]
fn node_ranges_fit_the_network() {
    for (range, len) in [("10.0.0.0/16", 24), ("10.0.0.0/22", 24), ("10.0.0.0/24", 26), ("10.0.0.0/29", 30)] {
        let network = network("default", &format!("{{ranges: [{range}]}}")).unwrap();
        assert_eq!(network.spec.node_range_len.v4, len, "{range}");
    }
    for (range, len) in [("fd00::/48", 64), ("fd00::/64", 66), ("fd00::/126", 126)] {
        let network = network("default", &format!("{{ranges: ['{range}']}}")).unwrap();
        assert_eq!(network.spec.node_range_len.v6, len, "{range}");
    }
    assert!(network("default", "{ranges: [10.0.0.0/24], nodeRangeLen: {v4: 24}}").is_ok(), "one node is a network");
    assert_eq!(
        faults("{ranges: [10.0.0.0/24], nodeRangeLen: {v4: 23}}"),
        [
            "network/default: spec.nodeRangeLen.v4: found 23, accepted: 24 to 30, so that a node's range fits into 10.0.0.0/24"
        ]
    );
}

#[test]
fn bounds_are_in_order_inside_and_aligned() {
    let with = |bounds: &str| faults(&format!("{{ranges: [10.10.0.0/16], {bounds}}}"));
    assert!(
        with("rangeMin: {v4: 10.11.0.0}")[0]
            .contains("spec.rangeMin.v4: found 10.11.0.0, accepted: an address in 10.10.0.0/16")
    );
    assert!(with("rangeMax: {v4: 10.10.3.7}")[0].contains("the first address of a /24, such as 10.10.3.0"));
    assert!(
        with("rangeMin: {v4: 10.10.9.0}, rangeMax: {v4: 10.10.8.0}")[0].contains("spec.rangeMax.v4: found 10.10.8.0")
    );
    assert!(with("rangeMin: {v6: 'fd00::'}")[0].contains("nothing: the network has no IPv6 range"));
    assert!(with("rangeMode: pod-cidr, rangeMin: {v4: 10.10.9.0}")[0].contains("only rangeMode lease"));
    assert!(with("rangeMin: {v4: 'fd00::'}")[0].contains("an IPv4 address"));
}

#[test]
fn exclusions_are_inside_and_leave_something() {
    let with = |exclude: &str| faults(&format!("{{ranges: [10.10.0.0/16], exclude: [10.10.1.0/24, {exclude}]}}"));
    assert!(
        with("10.11.0.0/24")[0].contains("spec.exclude[1]: found 10.11.0.0/24, accepted: a range inside 10.10.0.0/16")
    );
    assert!(with("10.10.0.0/16")[0].contains("a part of 10.10.0.0/16, not all of it"));
    assert!(with("10.0.0.0/8")[0].contains("a part of 10.10.0.0/16, not all of it"));
    assert!(with("'fd00::/64'")[0].contains("which has no IPv6"));
}

#[test]
fn a_field_twice_is_refused_in_yaml_and_json() {
    let yaml = "apiVersion: ripstop.io/v1alpha1\nkind: Network\nmetadata: {name: a}\nspec:\n  ranges: [10.0.0.0/16]\n  wiring: routed\n  wiring: bridge\n";
    let json = r#"{"apiVersion": "ripstop.io/v1alpha1", "kind": "Network", "metadata": {"name": "a"},
        "spec": {"ranges": ["10.0.0.0/16"], "wiring": "routed", "wiring": "bridge"}}"#;
    for text in [yaml, json] {
        let faults = lines(&Network::decode(text).unwrap_err());
        assert_eq!(faults, ["network/a: spec.wiring: found the field twice, accepted: each field once"], "{text}");
    }
}

#[test]
fn a_merge_key_is_an_unknown_field() {
    let faults = faults("{ranges: &r [10.0.0.0/16], exclude: [], <<: {wiring: bridge}}");
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].starts_with("network/default: spec.<<: found an unknown field"), "{faults:?}");
}

#[test]
fn the_envelope_is_checked() {
    let faults = lines(&Network::decode("apiVersion: v1\nkind: Netwrok\nmetadata: {name: Blue}\n").unwrap_err());
    assert_eq!(
        faults,
        [
            "network: apiVersion: found v1, accepted: ripstop.io/v1alpha1",
            "network: kind: found Netwrok, accepted: Network (did you mean Network?)",
            "network: metadata.name: found Blue, accepted: lower-case letters, digits and '-', at most 63, first and last a letter or digit",
            "network: spec: found nothing, accepted: a map with ranges",
        ]
    );
    let faults = lines(&Network::decode("").unwrap_err());
    assert_eq!(faults, ["network: found an empty text, accepted: one document of kind Network"]);
    assert!(lines(&Network::decode("a: 1\n---\nb: 2\n").unwrap_err())[0].contains("found 2 documents"));
}

#[test]
fn labels_follow_kubernetes() {
    let text = "apiVersion: ripstop.io/v1alpha1\nkind: Network\nmetadata: {name: a, labels: {ok: '', -bad: x, n: 1, v: 'a b'}}\nspec: {ranges: [10.0.0.0/16]}\n";
    let faults = lines(&Network::decode(text).unwrap_err());
    assert_eq!(faults.len(), 3, "{faults:#?}");
    assert!(faults[0].contains("metadata.labels.-bad"), "{faults:#?}");
    assert!(faults[1].contains("metadata.labels.n: found 1 without quotes"), "{faults:#?}");
    assert!(faults[2].contains("metadata.labels.v: found a b"), "{faults:#?}");
}

#[test]
fn control_characters_never_reach_a_sentence() {
    let faults = network("default", "{ranges: [\"10.0.0.0/8\\nroot: owned\\e[31m\"], \"a\\nb\": 1}").unwrap_err();
    assert_eq!(faults.len(), 2);
    assert_eq!(faults.to_string().lines().count(), 2, "{faults}");
    assert!(!faults.to_string().contains('\u{1b}'), "{faults}");
    let long = network("default", &format!("{{ranges: [{}]}}", "9".repeat(5000))).unwrap_err();
    assert!(long.to_string().len() < 400, "{long}");
}

#[test]
fn blocks_are_complete_where_nothing_is_said() {
    let network = network("default", "{ranges: [10.244.0.0/16, 'fd00:10:244::/48'], rangeMode: blocks}").unwrap();
    let blocks = network.spec.blocks.as_ref().unwrap();
    assert_eq!((blocks.len.v4, blocks.len.v6, blocks.max_per_node, blocks.strict_affinity), (26, 122, 20, false));
    let nodes: Vec<String> = blocks.node_ranges.iter().map(|range| range.to_string()).collect();
    assert_eq!(nodes, ["10.244.252.0/22", "fd00:10:244:fc00::/54"], "the last 64th");
    assert_eq!(network.spec.cooldown, 30);
    let whole: Vec<String> = network.spec.whole(Family::V4).map(|range| range.to_string()).collect();
    assert_eq!(whole, ["10.244.0.0/16"]);
}

#[test]
fn pools_name_their_pods() {
    let spec = "{ranges: [10.1.0.0/16], rangeMode: blocks, cooldownSeconds: 5, exclude: [10.60.0.0/28], blocks: {len: {v4: 28}, nodeRanges: [10.9.0.0/24], pools: [
        {range: 10.60.0.0/20, namespaces: [b, a]}, {range: 10.61.0.0/24, labels: {tier: db}}, {range: 10.62.0.0/24}]}}";
    let spec = network("default", spec).unwrap().spec;
    let labels = |tier: &str| std::collections::BTreeMap::from([("tier".to_owned(), tier.to_owned())]);
    let pools = |namespace, tier: &str| -> Vec<String> {
        spec.pools_for(Family::V4, namespace, &labels(tier)).iter().map(ToString::to_string).collect()
    };
    assert_eq!(pools(Some("a"), "web"), ["10.60.0.0/20"]);
    assert_eq!(pools(Some("c"), "db"), ["10.61.0.0/24"]);
    assert_eq!(pools(Some("b"), "db"), ["10.60.0.0/20", "10.61.0.0/24"]);
    assert_eq!(pools(None, "web"), ["10.1.0.0/16", "10.62.0.0/24"]);
    assert!(spec.contains("10.9.0.7".parse().unwrap()) && spec.contains("10.61.0.7".parse().unwrap()));
    let text =
        serde_json::to_string(&network("default", "{ranges: [10.1.0.0/16], rangeMode: blocks}").unwrap()).unwrap();
    assert_eq!(Network::decode(&text).unwrap().spec.blocks.unwrap().len.v4, 26, "what is written is read");
}

#[test]
fn blocks_that_do_not_fit_are_refused_by_field() {
    for (spec, faults_of) in [
        (
            "{ranges: [10.1.0.0/28], rangeMode: blocks}",
            "spec.blocks.len.v4: found 26, accepted: 28 to 32, so that a block fits into 10.1.0.0/28",
        ),
        ("{ranges: [10.1.0.0/16], rangeMode: blocks, blocks: {len: {v4: 19}}}", "spec.blocks.len.v4: found 19"),
        ("{ranges: [10.1.0.0/16], rangeMode: blocks, wiring: bridge}", "spec.wiring: found bridge, accepted: routed"),
        (
            "{ranges: [10.1.0.0/16], blocks: {len: {v4: 26}}}",
            "spec.blocks: found a map, accepted: nothing: only rangeMode blocks has blocks",
        ),
        (
            "{ranges: [10.1.0.0/16], rangeMode: blocks, blocks: {pools: [{range: 10.1.4.0/24}]}}",
            "spec.blocks.pools[0].range: found 10.1.4.0/24, accepted: a range that shares no address with 10.1.0.0/16",
        ),
        (
            "{ranges: [10.1.0.0/16], rangeMode: blocks, blocks: {pools: [{range: 'fd00::/64'}]}}",
            "spec.blocks.pools[0].range: found fd00::/64, accepted: a range in a family of the network",
        ),
        (
            "{ranges: [10.1.0.0/16], rangeMode: blocks, blocks: {nodeRanges: [10.0.0.0/8]}}",
            "spec.blocks.nodeRanges: found 10.0.0.0/8, accepted: a range that leaves addresses of 10.1.0.0/16 to pods",
        ),
        ("{ranges: [10.1.0.0/16], rangeMode: blocks, blocks: {maxPerNode: 0}}", "spec.blocks.maxPerNode: found 0"),
        (
            "{ranges: [10.1.0.0/16], rangeMode: blocks, blocks: {pools: [{range: 10.2.0.0/16, namespaces: [A]}]}}",
            "spec.blocks.pools[0].namespaces[0]",
        ),
    ] {
        let found = faults(spec);
        assert!(found.iter().any(|fault| fault.contains(faults_of)), "{spec}: {found:#?}");
    }
}
