//! What keeps packets for addresses of pools that nobody serves from going round.

use std::collections::BTreeMap;

use ripstop_desired::{Desired, may_delete};
use ripstop_netmodel::{Key, NFT_POOLS_TABLE, Object};
use ripstop_nft::model::TableFamily;
use ripstop_objects::{ClusterObject, ObjectKind};
use ripstop_tables::{ObjectInput, StoreKind};
use ripstop_types::Revision;

use crate::scenario::*;

fn pool(name: &str, spec: &str) -> ObjectInput {
    let text = format!(r#"{{"metadata": {{"name": "{name}"}}, "spec": {spec}}}"#);
    let (object, faults) = ClusterObject::decode(ObjectKind::AddressPool, &text).unwrap();
    assert!(faults.is_empty(), "{faults}");
    ObjectInput::Put { object, revision: Revision(1) }
}

fn key() -> Key {
    Key::NftTable { family: TableFamily::Inet, name: NFT_POOLS_TABLE.into() }
}

/// The rules, as nft prints them.
fn rules(desired: &Desired) -> Vec<String> {
    let Some(entry) = desired.model().get(&key()) else { return Vec::new() };
    let Object::NftTable(table) = &entry.object else { panic!("{entry:?}") };
    let printed = ripstop_nft::text::table(&table.table, &BTreeMap::new());
    printed.lines().filter(|line| line.contains("reject")).map(|line| line.trim().to_owned()).collect()
}

#[test]
fn what_pools_tell_routers_is_refused_and_follows_them() {
    let mut scenario = Scenario::with(start(facts()));
    scenario.sync_all();
    let mut scenario = scenario.network("default", &["10.244.0.0/16"], |_| ()).own("default", "10.244.1.0/24");
    let mut desired = Desired::of(&scenario.tables);
    assert_eq!(rules(&desired), [""; 0]);
    for input in [
        pool(
            "whole",
            r#"{"addresses": ["198.51.100.8-198.51.100.9", "2001:db8::5"], "announce": [{"by": "bgp", "aggregationLength": 29}]}"#,
        ),
        // Inside of an aggregate; by ARP alone; of the node's own subnet, and of pods.
        pool("inside", r#"{"addresses": ["198.51.100.11"], "announce": [{"by": "bgp"}]}"#),
        pool("segment", r#"{"addresses": ["192.0.2.0/28"], "announce": [{"by": "l2"}]}"#),
        pool("near", r#"{"addresses": ["172.30.1.200"], "announce": [{"by": "bgp"}]}"#),
        pool("pods", r#"{"addresses": ["10.244.7.7"], "announce": [{"by": "bgp", "aggregationLength": 8}]}"#),
    ] {
        let changes = scenario.tables.apply_object(&input);
        desired.update(&scenario.tables, &changes);
    }
    let told = rules(&desired);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].contains("ip daddr { 198.51.100.8/29 }") && told[0].contains("host-unreachable"), "{told:?}");
    assert!(told[1].contains("ip6 daddr { 2001:db8::5 }"), "{told:?}");
    let entry = desired.model().get(&key()).unwrap().clone();
    let mut knowing = Scenario::with(start(facts()));
    for kind in [StoreKind::Networks, StoreKind::Nodes, StoreKind::Claims] {
        knowing.sync(kind);
    }
    assert!(may_delete(&knowing.tables, &key(), &entry).is_err_and(|why| why.contains("AddressPools")));
    knowing.sync(StoreKind::AddressPools);
    assert_eq!(may_delete(&knowing.tables, &key(), &entry), Ok(()));
    for name in ["whole", "inside", "near", "pods"] {
        let kind = ObjectKind::AddressPool;
        let changes =
            scenario.tables.apply_object(&ObjectInput::Delete { kind, name: name.into(), revision: Revision(3) });
        desired.update(&scenario.tables, &changes);
    }
    assert_eq!(rules(&desired), [""; 0]);
}
