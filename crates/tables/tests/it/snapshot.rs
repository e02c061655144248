//! What a start finds of the last run.

use ripstop_ipam::ranges::{ClaimKey, Claimant, RangeSnapshot};
use ripstop_objects::{ClaimState, Record};
use ripstop_tables::{
    Knowledge, SNAPSHOT_VERSION, Snapshot, SnapshotFault, Start, StoreInput, StoreKind, StoreState, Tables,
};
use ripstop_types::{Family, Revision};
use serde_json::json;

use crate::scenario::{Scenario, alive, claim, facts, kept, network, network_name, node, node_record, prefix, start};

fn held_ranges() -> RangeSnapshot {
    let claimant = Claimant { node: node("n1"), machine: "machine-n1".into(), boot: "boot-n1".into(), run: 1 };
    let key = ClaimKey::new("default", prefix("10.244.1.0/24"));
    RangeSnapshot { claimant, held: vec![(key, Revision(7))], releasing: Vec::new(), last: Vec::new() }
}

/// A cluster of three nodes, known whole.
fn last_run() -> Scenario {
    let mut s = Scenario::synced()
        .network("default", &["10.244.0.0/16", "fd00:10::/48"], |_| {})
        .network("storage", &["10.9.0.0/16"], |_| {})
        .own("default", "10.244.1.0/24")
        .peer("n2", &["172.30.1.12/24", "fd00:30:1::12/64"], &["10.244.2.0/24", "fd00:10:0:2::/64"])
        .peer("n3", &["172.30.2.13/24"], &["10.244.3.0/24"]);
    s.put(&claim("n4", "default", "10.244.4.0/24", ClaimState::Tentative));
    s.put(&alive("n2", 5));
    s
}

fn encode(snapshot: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(snapshot).unwrap()
}

fn restart(snapshot: Snapshot) -> Tables {
    Tables::new(Start { snapshot: Some(snapshot), ..start(facts()) })
}

#[test]
fn the_next_run_knows_what_the_last_one_knew() {
    let last = last_run().tables;
    let written = last.snapshot(Some(held_ranges()));
    let read = kept(&last, Some(held_ranges()));
    assert_eq!(serde_json::to_value(&read).unwrap(), serde_json::to_value(&written).unwrap());
    let next = restart(read);
    assert_eq!(next.networks, last.networks);
    assert_eq!(next.nodes, last.nodes);
    assert_eq!(next.claims, last.claims);
    assert_eq!(next.ranges_of, last.ranges_of);
    assert_eq!(next.nexthop_ids, last.nexthop_ids, "a kernel nexthop never changes its meaning");
    for kind in [StoreKind::Networks, StoreKind::Nodes, StoreKind::Claims] {
        assert_eq!(next.knowledge(kind), Knowledge::Snapshot);
    }
    // Signs of life say something about now.
    assert!(next.alive.is_empty() && !next.knows(StoreKind::Alive));
    assert_eq!(next.store, StoreState::Connecting);
    assert!(next.own_ranges.is_empty(), "which ranges may be used is the engine's to say");
    assert_eq!(next.snapshot(Some(held_ranges())), written, "and would write the same again");
}

#[test]
fn a_kind_that_was_not_complete_is_not_taken_for_known() {
    let mut s = Scenario::new();
    s.put(&network("default", &["10.244.0.0/16"], |_| {}));
    s.sync(StoreKind::Networks);
    s.put(&node_record("n2", &["172.30.1.12/24"]));
    let next = restart(kept(&s.tables, None));
    assert_eq!(next.knowledge(StoreKind::Networks), Knowledge::Snapshot);
    assert_eq!(next.knowledge(StoreKind::Nodes), Knowledge::Unknown);
    assert_eq!(next.nodes.len(), 1, "what was read is kept all the same");
}

/// The first list of the new run is a full one: what went while the agent was down goes now, and ids of who stays stay.
#[test]
fn the_first_list_after_a_start_removes_what_went_meanwhile() {
    let last = last_run().tables;
    let mut s = Scenario { tables: restart(kept(&last, None)), revision: 100 };
    s.put(&node_record("n2", &["172.30.1.12/24", "fd00:30:1::12/64"]));
    s.put(&claim("n2", "default", "10.244.2.0/24", ClaimState::Held));
    s.sync(StoreKind::Nodes);
    s.sync(StoreKind::Claims);
    let ids = |tables: &Tables, peer: &str| tables.nexthop_ids.get(&network_name("default"), &node(peer), Family::V4);
    assert_eq!(s.tables.nodes.len(), 1);
    assert_eq!(s.tables.claims.len(), 1);
    assert_eq!(ids(&s.tables, "n2"), ids(&last, "n2"));
    assert_eq!(ids(&s.tables, "n3"), None, "released with the last range");
    assert_eq!(s.tables.networks, last.networks, "of networks there was no list yet");
}

#[test]
fn a_snapshot_of_another_version_is_not_read() {
    let mut value = serde_json::to_value(last_run().tables.snapshot(None)).unwrap();
    value["version"] = json!(SNAPSHOT_VERSION + 1);
    let text = serde_json::to_vec(&value).unwrap();
    let fault = Snapshot::decode(&text, &node("n1")).unwrap_err();
    assert_eq!(fault, SnapshotFault::Version { found: SNAPSHOT_VERSION + 1 });
    // Also one of which nothing but the version can be read.
    let fault = Snapshot::decode(br#"{"version":99,"everything":"else"}"#, &node("n1")).unwrap_err();
    assert_eq!(
        fault.to_string(),
        format!("the snapshot has version 99, this agent reads {SNAPSHOT_VERSION}; the store is asked instead")
    );
}

#[test]
fn a_snapshot_of_another_node_is_not_read() {
    let text = encode(&last_run().tables.snapshot(None));
    let fault = Snapshot::decode(&text, &node("n7")).unwrap_err();
    assert_eq!(fault.to_string(), "the snapshot belongs to node n1, this is n7; the store is asked instead");
}

/// Cut anywhere, or with bytes overwritten, it is refused or read; it never ends the agent.
#[test]
fn a_torn_snapshot_is_set_aside() {
    let whole = encode(&last_run().tables.snapshot(Some(held_ranges())));
    for len in 0..whole.len() {
        let fault = Snapshot::decode(&whole[..len], &node("n1")).unwrap_err();
        assert!(matches!(fault, SnapshotFault::Malformed(_)), "cut at {len}: {fault}");
    }
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x15;
        if let Ok(snapshot) = Snapshot::decode(&damaged, &node("n1")) {
            // What still reads well may have records that do not: they are faults, and the rest counts.
            let tables = restart(snapshot);
            assert!(tables.networks.len() <= 2);
        }
    }
    assert!(Snapshot::decode(b"\0\0\0\0", &node("n1")).is_err());
}

#[test]
fn a_record_of_the_snapshot_that_cannot_be_read_is_a_fault_and_the_rest_counts() {
    let mut snapshot = kept(&last_run().tables, None);
    let of_n2 = snapshot.records.iter_mut().find(|record| &*record.key == "n2").unwrap();
    of_n2.value = json!({"name": 7});
    let next = restart(snapshot);
    assert!(!next.nodes.contains_key(&node("n2")) && next.nodes.contains_key(&node("n3")));
    assert_eq!(next.faults.len(), 1);
    // The store's own copy mends it.
    let mut s = Scenario { tables: next, revision: 100 };
    let record = node_record("n2", &["172.30.1.12/24"]);
    let put = StoreInput::Put {
        kind: StoreKind::Nodes,
        key: "n2".into(),
        value: record.encode().into(),
        revision: Revision(101),
    };
    s.say(put);
    assert!(s.tables.faults.is_empty() && s.tables.nodes.contains_key(&node("n2")));
}
