//! Records of the store.

use ripstop_objects::{
    AliveRecord, Encapsulation, Network, NodeRecord, RangeClaim, Receive, Record, claim_key, parse_claim_key,
};
use ripstop_types::{Family, StoreKind};
use serde_json::{Value, json};

use crate::{lines, name, network};

pub(crate) fn node() -> Value {
    json!({
        "name": "n1",
        "identity": {"machineId": "m1", "bootId": "b1"},
        "addresses": [{"ip": "192.0.2.1", "prefix": "192.0.2.0/24"}, {"ip": "2001:db8::1", "prefix": "2001:db8::/64"}],
        "receives": [
            {"type": "plain"},
            {"type": "vxlan", "vni": 1, "port": 8472, "mac": "0a:00:00:00:00:01", "outerV4": "192.0.2.1", "innerV4": "10.244.1.0"},
        ],
        "prefers": ["vxlan", "host-gw"],
        "podMtu": 1450,
        "networks": {"default": 7},
        "version": "0.1.0",
        "labels": {"zone": "a"},
    })
}

#[test]
fn a_node_record_is_read_and_written() {
    let record = NodeRecord::decode("n1", &node()).unwrap();
    assert_eq!(record.encode(), node());
    assert_eq!(record.key(), "n1");
    assert!(record.receives_plain());
    assert_eq!(record.address(Family::V6).unwrap().ip.to_string(), "2001:db8::1");
    let vxlan = record.vxlan(1).unwrap();
    assert_eq!(vxlan.outer(Family::V4).unwrap().to_string(), "192.0.2.1");
    assert_eq!(vxlan.inner(Family::V4).unwrap().to_string(), "10.244.1.0");
    assert_eq!((vxlan.outer(Family::V6), record.vxlan(2)), (None, None));
    assert_eq!(record.prefers, [Encapsulation::Vxlan, Encapsulation::None]);
}

#[test]
fn where_a_forwarder_receives_is_read_and_written() {
    let mut value = node();
    value["forwarder"] = json!(true);
    value["receives"].as_array_mut().unwrap().push(json!({"type": "udp", "port": 8285, "outerV4": "192.0.2.1"}));
    let record = NodeRecord::decode("n1", &value).unwrap();
    assert_eq!(record.encode(), value);
    let udp = record.udp().unwrap();
    assert_eq!((udp.port, udp.outer(Family::V4).unwrap().to_string()), (8285, "192.0.2.1".into()));
    assert_eq!((udp.outer(Family::V6), record.forwarder), (None, true));
    value["receives"][2]["port"] = json!(0);
    let faults = lines(&NodeRecord::decode("n1", &value).unwrap_err());
    assert_eq!(faults, ["nodes/n1: receives[2].port: found 0, accepted: a number from 1 to 65535"]);
    // Who does not know this way to receive passes it over, as it does every other.
    value["receives"][2]["type"] = json!("udp-later");
    assert_eq!(NodeRecord::decode("n1", &value).unwrap().udp(), None);
}

#[test]
fn what_a_newer_version_adds_is_passed_over() {
    let mut value = node();
    value["shoeSize"] = json!(43);
    value["identity"]["tpm"] = json!({});
    value["receives"].as_array_mut().unwrap().push(json!({"type": "wireguard", "key": "…"}));
    value["receives"][1]["gbp"] = json!(true);
    value["prefers"] = json!(["wireguard", "vxlan", "host-gw"]);
    let record = NodeRecord::decode("n1", &value).unwrap();
    assert_eq!(record, NodeRecord::decode("n1", &node()).unwrap());
    assert_eq!(record.receives.iter().filter(|receive| **receive == Receive::Plain).count(), 1);
}

#[test]
fn what_is_wrong_is_not() {
    let mut value = node();
    value["identity"]["bootId"] = json!("a\nb");
    value["addresses"][0]["prefix"] = json!("198.51.100.0/24");
    value["addresses"][1]["ip"] = json!("::1");
    value["receives"][1]["mac"] = json!("ff:ff:ff:ff:ff:ff");
    value["receives"][1]["port"] = json!("8472");
    value["networks"] = json!({"Default": 1, "blue": -1});
    value["podMtu"] = json!(10.5);
    value["version"] = json!(1);
    let faults = lines(&NodeRecord::decode("n1", &value).unwrap_err());
    let paths: Vec<&str> = faults.iter().filter_map(|fault| fault.split(": ").nth(1)).collect();
    let expected = [
        "addresses[0].prefix",
        "addresses[1].ip",
        "addresses[1].prefix",
        "identity.bootId",
        "networks.Default",
        "networks.blue",
        "podMtu",
        "receives[1].mac",
        "receives[1].port",
        "version",
    ];
    assert_eq!(paths, expected, "{faults:#?}");
    assert!(faults.iter().all(|fault| fault.starts_with("nodes/n1: ")), "{faults:#?}");
}

#[test]
fn a_record_belongs_to_its_key() {
    let faults = lines(&NodeRecord::decode("n2", &node()).unwrap_err());
    assert_eq!(faults, ["nodes/n2: found the record of n1, accepted: the record that its key names"]);
    let claim = json!({"network": "default", "range": "10.244.3.0/24", "node": "n1", "machine": "m1", "boot": "b1", "run": 1, "state": "held"});
    assert!(RangeClaim::decode("default/10.244.3.0_24", &claim).is_ok());
    assert!(RangeClaim::decode("default/10.244.4.0_24", &claim).is_err());
    let mut unknown = claim;
    unknown["state"] = json!("expired");
    let faults = lines(&RangeClaim::decode("default/10.244.3.0_24", &unknown).unwrap_err());
    assert_eq!(
        faults,
        [
            "claims/default/10.244.3.0_24: state: found expired, accepted: tentative, held, offering, offered, borrowed, asked, refused"
        ]
    );
}

#[test]
fn claim_keys_are_read_as_written() {
    for range in ["10.244.3.0/24", "fd00:10:244::/64"] {
        let key = claim_key(&name("default"), range.parse().unwrap());
        assert_eq!(parse_claim_key(&key), Some((name("default"), range.parse().unwrap())));
        assert_eq!(key.matches('/').count(), 1);
    }
    for bad in ["", "default", "default/10.244.3.0", "default/10.244.3.1_24", "a/b/10.0.0.0_8", "default/fd00:0::_64"] {
        assert_eq!(parse_claim_key(bad), None, "{bad}");
    }
}

#[test]
fn the_other_kinds_are_read_and_written() {
    let alive = json!({"node": "n1", "sequence": 9, "bootId": "b1"});
    assert_eq!(AliveRecord::decode("n1", &alive).unwrap().encode(), alive);
    let blue = network("blue", "{ranges: [10.0.0.0/16], exclude: [10.0.0.0/30], backend: {mtu: 1400}}").unwrap();
    assert_eq!(Network::decode("blue").map_err(|faults| faults.len()), Err(1), "text and records are told apart");
    assert_eq!(<Network as Record>::decode("blue", &blue.encode()).unwrap(), blue);
    let mut newer = blue.encode();
    newer["spec"]["colour"] = json!("blue");
    newer["status"] = json!({});
    assert_eq!(<Network as Record>::decode("blue", &newer).unwrap(), blue);
    newer["spec"]["wiring"] = json!("underlay");
    let faults = lines(&<Network as Record>::decode("blue", &newer).unwrap_err());
    assert!(
        faults[0].starts_with("networks/blue: spec.wiring: found underlay, which is not available yet"),
        "{faults:?}"
    );
}

#[test]
fn kinds_have_the_stores_names() {
    assert_eq!(
        [Network::KIND, NodeRecord::KIND, RangeClaim::KIND, AliveRecord::KIND].map(StoreKind::as_str),
        ["networks", "nodes", "claims", "alive"]
    );
}
