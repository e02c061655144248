//! MetalLB's pools: what they are here, and what is refused.

use ripstop_objects::Manifest;
use serde_json::{Value, json};

use crate::lines;

/// As `kubectl get -o yaml` prints them.
const FILE: &str = r#"
apiVersion: v1
kind: List
metadata: {resourceVersion: ""}
items:
- apiVersion: metallb.io/v1beta1
  kind: BGPAdvertisement
  metadata: {name: outside, namespace: metallb-system, uid: u, generation: 2}
  spec:
    ipAddressPools: [public, none]
    aggregationLength: 28
    aggregationLengthV6: 120
    localPref: 0
    communities: [vip, "64512:9", "large:64512:1:2"]
    peers: [tor]
- apiVersion: metallb.io/v1beta1
  kind: Community
  metadata: {name: names, namespace: metallb-system}
  spec: {communities: [{name: vip, value: "64512:77"}]}
- apiVersion: metallb.io/v1beta1
  kind: IPAddressPool
  metadata: {name: public, namespace: metallb-system, labels: {zone: a}, annotations: {k: v}}
  spec:
    addresses: [192.0.2.0/28, 198.51.100.7-198.51.100.9, "2001:db8::/120"]
    avoidBuggyIPs: true
    autoAssign: false
    serviceAllocation:
      priority: 50
      namespaces: [shop]
      namespaceSelectors: [{matchLabels: {team: a}}]
      serviceSelectors: [{matchExpressions: [{key: app, operator: Exists}]}]
  status: {assignedIPv4: 3}
- apiVersion: metallb.io/v1beta1
  kind: IPAddressPool
  metadata: {name: inside, namespace: metallb-system}
  spec: {addresses: [203.0.113.0/28]}
- apiVersion: metallb.io/v1beta1
  kind: L2Advertisement
  metadata: {name: everywhere, namespace: metallb-system}
- apiVersion: metallb.io/v1beta1
  kind: L2Advertisement
  metadata: {name: some, namespace: metallb-system}
  spec:
    ipAddressPoolSelectors: [{matchLabels: {zone: a}}]
    interfaces: [eth1]
    nodeSelectors: [{matchLabels: {edge: "true"}}]
"#;

#[test]
fn its_pools_are_ours() {
    let manifest = Manifest::decode(FILE).unwrap();
    let notes: Vec<String> = manifest.notes.iter().map(ToString::to_string).collect();
    assert_eq!(notes.len(), 1);
    assert!(notes[0].contains("bgpadvertisement/outside") && notes[0].contains("no such IPAddressPool"), "{notes:?}");
    let specs: Vec<(&Value, &Value)> =
        manifest.objects.iter().map(|object| (&object.value["metadata"], &object.value["spec"])).collect();
    let public = json!({"addresses": ["192.0.2.0/28", "198.51.100.7-198.51.100.9", "2001:db8::/120"], "autoAssign": false,
        "leaveOut": "zero-and-255", "priority": 50, "namespaces": ["shop"], "namespaceSelectors": [{"matchLabels": {"team": "a"}}],
        "serviceSelectors": [{"matchExpressions": [{"key": "app", "operator": "Exists"}]}], "announce": [
            {"by": "bgp", "aggregationLength": 28, "aggregationLengthV6": 120, "communities": ["64512:1:2", "64512:77", "64512:9"], "peers": ["tor"]},
            {"by": "l2"},
            {"by": "l2", "interfaces": ["eth1"], "nodeSelectors": [{"matchLabels": {"edge": "true"}}]}]});
    let mut specs = specs;
    let mut said = specs[0].1.clone();
    let communities = said["announce"][0]["communities"].as_array_mut().unwrap();
    communities.sort_by_key(ToString::to_string);
    assert_eq!((specs.remove(0).0, said), (&json!({"name": "public", "labels": {"zone": "a"}}), public));
    let inside = json!({"addresses": ["203.0.113.0/28"], "announce": [{"by": "l2"}]});
    assert_eq!(specs, [(&json!({"name": "inside"}), &inside)]);
    // Where no advertisement is for a pool, nobody announces it.
    let alone = FILE.replace(
        "name: everywhere, namespace: metallb-system}",
        "name: everywhere}\n  spec: {ipAddressPools: [public]}",
    );
    let manifest = Manifest::decode(&alone).unwrap();
    assert_eq!(manifest.objects[1].value["spec"]["announce"], json!([]));
}

#[test]
fn what_cannot_be_said_here_is_named() {
    for (before, after, fault) in [
        (
            "localPref: 0",
            "localPref: 200",
            "bgpadvertisement/outside: spec.localPref: found 200, accepted: none: a BgpFilter with setLocalPreference says it to its peers",
        ),
        (
            "interfaces: [eth1]",
            "interface: eth1",
            "l2advertisement/some: spec.interface: found an unknown field, accepted: interfaces (the nearest field), of ipAddressPools, \
             ipAddressPoolSelectors, nodeSelectors, interfaces",
        ),
        (
            "priority: 50",
            "priority: 999",
            "ipaddresspool/public: spec.serviceAllocation.priority: found 999, accepted: a number from 0 to 998",
        ),
        (
            "[203.0.113.0/28]",
            "[203.0.113.1/28]",
            "ipaddresspool/inside: spec.addresses[0]: found 203.0.113.1/28, accepted: 192.0.2.0/24, 192.0.2.10-192.0.2.20 or 192.0.2.10, or the same of IPv6",
        ),
        (
            "kind: Community",
            "kind: BGPPeer",
            "bgppeer/names: kind: found BGPPeer of MetalLB, accepted: IPAddressPool, L2Advertisement, BGPAdvertisement and Community; a peer is a BgpPeer here",
        ),
    ] {
        let text = FILE.replace(before, after);
        assert_ne!(text, FILE);
        let faults = Manifest::decode(&text).unwrap_err();
        assert_eq!(lines(&faults), [fault], "{after}");
    }
}
