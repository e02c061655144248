//! AddressPools: what is read, and what is refused.

use ripstop_objects::Manifest;
use ripstop_objects::pool::{AddressPool, LeaveOut};
use serde_json::{Value, json};

use crate::lines;

fn read(spec: Value) -> (AddressPool, Vec<String>) {
    let text = json!({"metadata": {"name": "public"}, "spec": spec}).to_string();
    let (pool, faults) = AddressPool::decode(&text).unwrap();
    (pool, lines(&faults))
}

#[test]
fn a_pool_reads_as_it_is_written() {
    let spec = json!({"addresses": ["192.0.2.10-192.0.2.20", "2001:db8::/120", "198.51.100.0/24"], "leaveOut": "zero-and-255",
        "autoAssign": false, "priority": 7, "namespaces": ["shop"], "serviceSelectors": [{"matchLabels": {"app": "web"}}],
        "ipMode": "Proxy", "announce": [{"by": "l2", "interfaces": ["eth1"], "nodeSelectors": [{"matchLabels": {"edge": ""}}]}]});
    let (pool, faults) = read(spec);
    assert_eq!(faults, Vec::<String>::new());
    let ranges: Vec<String> = pool.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(ranges, ["192.0.2.10-192.0.2.20", "198.51.100.0/24", "2001:db8::/120"]);
    assert_eq!((pool.leave_out, pool.auto_assign, pool.priority), (LeaveOut::ZeroAnd255, false, 7));
    assert_eq!((pool.size(), pool.is_proxied, pool.announce.len()), (11 + 254 + 256, true, 1));
    assert!(!pool.gives("198.51.100.255".parse().unwrap()) && pool.gives("2001:db8::ff".parse().unwrap()));
    let text = serde_json::to_string(&pool).unwrap();
    assert_eq!(serde_json::from_str::<AddressPool>(&text).unwrap(), pool);
    let (plain, faults) = read(json!({"addresses": ["192.0.2.7"]}));
    assert!(faults.is_empty() && plain.auto_assign && plain.announce.len() == 1);
}

#[test]
fn what_is_wrong_with_a_pool_is_named() {
    let range = "192.0.2.0/24, 192.0.2.10-192.0.2.20 or 192.0.2.10, or the same of IPv6";
    for (spec, sentence) in [
        (json!({}), format!("spec.addresses: found nothing, accepted: {range}")),
        (json!({"addresses": []}), format!("spec.addresses: found an empty list, accepted: one range or more, as {range}")),
        (json!({"addresses": ["192.0.2.9/24"]}), format!("spec.addresses[0]: found 192.0.2.9/24, accepted: {range}")),
        (json!({"addresses": ["192.0.2.9-192.0.2.1"]}), format!("spec.addresses[0]: found 192.0.2.9-192.0.2.1, accepted: {range}")),
        (
            json!({"addresses": ["127.0.0.0/24"]}),
            "spec.addresses[0]: found 127.0.0.0/24, accepted: addresses of hosts, and none of 127.0.0.0/8".into(),
        ),
        (
            json!({"addresses": ["192.0.2.0/28", "192.0.2.15"]}),
            "spec.addresses: found 192.0.2.15/32, which shares addresses with 192.0.2.0/28, accepted: each address once".into(),
        ),
        (
            json!({"addresses": ["192.0.2.1"], "priorty": 1}),
            "spec.priorty: found an unknown field, accepted: priority (the nearest field), of addresses, leaveOut, autoAssign, \
             priority, namespaces, namespaceSelectors, serviceSelectors, ipMode, announce"
                .into(),
        ),
        (
            json!({"addresses": ["192.0.2.1"], "announce": [{"by": "rip"}]}),
            "spec.announce[0].by: found rip, accepted: l2, bgp".into(),
        ),
        (
            json!({"addresses": ["192.0.2.1"], "announce": [{"by": "bgp", "aggregationLength": 33}]}),
            "spec.announce[0].aggregationLength: found 33, accepted: a number from 1 to 32".into(),
        ),
        (
            json!({"addresses": ["192.0.2.1"], "announce": [{"by": "bgp", "interfaces": ["eth1"]}]}),
            "spec.announce[0].interfaces: found an unknown field, accepted: by, nodeSelectors, aggregationLength, aggregationLengthV6, \
             communities, peers"
                .into(),
        ),
        (
            json!({"addresses": ["192.0.2.1"], "leaveOut": "ends"}),
            "spec.leaveOut: found ends, accepted: nothing, first-and-last, zero-and-255".into(),
        ),
    ] {
        let (pool, faults) = read(spec.clone());
        assert_eq!(faults, [format!("addresspool/public: {sentence}")], "{spec}");
        assert_eq!(pool.refused.len(), 1);
    }
    for none in [json!({}), json!({"metadata": {"name": "A b"}, "spec": {}})] {
        assert!(AddressPool::decode(&none.to_string()).is_err());
    }
}

#[test]
fn a_manifest_has_pools() {
    let text = "apiVersion: ripstop.io/v1alpha1\nkind: AddressPool\nmetadata: {name: public}\nspec: {addresses: [192.0.2.0/28]}\n";
    let manifest = Manifest::decode(text).unwrap();
    assert_eq!(manifest.objects[0].name(), "addresspool/public");
    let faults = Manifest::decode(&text.replace("v1alpha1", "v1")).unwrap_err();
    assert_eq!(lines(&faults), ["addresspool/public: apiVersion: found ripstop.io/v1, accepted: ripstop.io/v1alpha1"]);
}
