//! MetalLB's pools: what they are here, and what is refused.

use ripstop_objects::Manifest;
use ripstop_objects::metallb::{MetallbKind, MetallbObject, pools};
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

/// Objects as an API server shows them.
fn live(objects: &[(MetallbKind, Value)]) -> Vec<MetallbObject> {
    let read = |(kind, object): &(MetallbKind, Value)| MetallbObject::decode(*kind, &object.to_string()).unwrap();
    objects.iter().map(read).collect()
}

#[test]
fn in_a_cluster_what_is_wrong_with_one_leaves_that_one_out() {
    use MetallbKind::{Bgp, Community, L2, Pool};
    let named = |name: &str, spec: Value| json!({"metadata": {"name": name, "namespace": "metallb-system", "resourceVersion": "7", "labels": {"zone": name}}, "spec": spec});
    let objects = live(&[
        (Bgp, named("outside", json!({"ipAddressPools": ["b"], "communities": ["vip"], "aggregationLength": 32}))),
        (Bgp, named("bad", json!({"localPref": 200}))),
        (Community, named("names", json!({"communities": [{"name": "vip", "value": "64512:77"}]}))),
        (L2, json!({"metadata": {"name": "all", "namespace": "metallb-system"}})),
        (Pool, named("b", json!({"addresses": ["192.0.2.0/28"], "autoAssign": true, "avoidBuggyIPs": false}))),
        (Pool, named("a", json!({"addresses": ["203.0.113.0/28"]}))),
        (Pool, named("wrong", json!({"addresses": ["203.0.113.1/28"]}))),
    ]);
    let (read, said) = pools(objects.iter());
    let shown: Vec<(&str, usize, bool)> =
        read.iter().map(|pool| (&*pool.name, pool.announce.len(), pool.of_metallb)).collect();
    assert_eq!(shown, [("a", 1, true), ("b", 2, true)]);
    assert_eq!(read[1].announce[0].communities.iter().map(ToString::to_string).collect::<Vec<_>>(), ["64512:77"]);
    assert!(read.iter().all(|pool| pool.refused.is_empty()), "{read:?}");
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].starts_with("bgpadvertisement/bad: spec.localPref: found 200"), "{said:?}");
    assert!(said[1].starts_with("ipaddresspool/wrong: spec.addresses[0]: found 203.0.113.1/28"), "{said:?}");

    // A status, an owner or a new revision is no news; a name in two namespaces is one too many.
    let again = live(&[(
        Pool,
        json!({"metadata": {"name": "a", "namespace": "metallb-system", "resourceVersion": "9", "labels": {"zone": "a"}},
        "spec": {"addresses": ["203.0.113.0/28"]}, "status": {"assignedIPv4": 3}}),
    )]);
    assert_eq!(again[0], objects[5]);
    let twice = live(&["x", "y"].map(|namespace| {
        (Pool, json!({"metadata": {"name": "a", "namespace": namespace}, "spec": {"addresses": ["203.0.113.0/28"]}}))
    }));
    let (read, said) = pools(twice.iter());
    assert!(
        read.len() == 1 && said == ["ipaddresspool/a: found it in two namespaces, accepted: each name once"],
        "{said:?}"
    );
}
