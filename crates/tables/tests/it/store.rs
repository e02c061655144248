//! Lists, watches and broken records.

use std::collections::BTreeSet;
use std::sync::Arc;

use ripstop_objects::{ClaimState, ClusterObject, ObjectKind, Record};
use ripstop_tables::{Change, Knowledge, ObjectInput, StoreInput, StoreKind, StoreState, StoreValue};
use ripstop_types::{Family, Revision};
use serde_json::json;

use crate::scenario::{
    Scenario, alive, claim, claim_key_of, facts, host_link, name, network, network_name, node, node_record, prefix,
};

fn changes<const N: usize>(changes: [Change; N]) -> BTreeSet<Change> {
    changes.into()
}

fn of_node(text: &str) -> Change {
    Change::Node(node(text))
}

fn of_claim(text: &str) -> Change {
    Change::Claim(node(text))
}

fn of_network(text: &str) -> Change {
    Change::Network(network_name(text))
}

#[test]
fn a_kind_is_unknown_until_its_list_is_complete() {
    let mut s = Scenario::new();
    s.put(&node_record("n2", &["172.30.1.12/24"]));
    assert_eq!(s.tables.knowledge(StoreKind::Nodes), Knowledge::Unknown);
    assert!(s.tables.nodes.contains_key(&node("n2")), "what is read so far counts already");
    assert_eq!(s.tables.store, StoreState::Connecting);
    let known = s.sync(StoreKind::Nodes);
    assert_eq!(known, changes([Change::Known(StoreKind::Nodes), Change::Store]));
    assert_eq!(s.tables.knowledge(StoreKind::Nodes), Knowledge::Synced);
    assert!(!s.tables.knows(StoreKind::Claims), "each kind for itself");
    assert_eq!(s.sync(StoreKind::Nodes), changes([]), "knowing it twice is no change");
}

#[test]
fn a_list_removes_what_it_does_not_name() {
    let mut s = Scenario::new();
    for peer in ["n2", "n3", "n4"] {
        s.put(&node_record(peer, &["172.30.1.12/24"]));
    }
    s.sync(StoreKind::Nodes);
    s.say(StoreInput::Reset { kind: StoreKind::Nodes });
    assert_eq!(s.tables.nodes.len(), 3, "nothing goes while the list runs");
    assert_eq!(s.put(&node_record("n3", &["172.30.1.12/24"])), changes([]), "as it was, so no change");
    s.put(&node_record("n5", &["172.30.1.15/24"]));
    assert_eq!(s.sync(StoreKind::Nodes), changes([of_node("n2"), of_node("n4")]));
    let left: Vec<&str> = s.tables.nodes.keys().map(|name| name.as_str()).collect();
    assert_eq!(left, ["n3", "n5"]);
    // Behind the list, the watch: what it does not name stays.
    s.put(&node_record("n6", &["172.30.1.16/24"]));
    assert_eq!(s.sync(StoreKind::Nodes), changes([]));
    assert_eq!(s.tables.nodes.len(), 3);
}

#[test]
fn a_list_that_breaks_off_is_begun_anew() {
    let mut s = Scenario::synced();
    s.put(&node_record("n2", &["172.30.1.12/24"]));
    s.say(StoreInput::Reset { kind: StoreKind::Nodes });
    s.put(&node_record("n3", &["172.30.1.13/24"]));
    s.say(StoreInput::Away { reason: "broken pipe".into() });
    s.say(StoreInput::Back);
    s.say(StoreInput::Reset { kind: StoreKind::Nodes });
    s.put(&node_record("n2", &["172.30.1.12/24"]));
    assert_eq!(s.sync(StoreKind::Nodes), changes([of_node("n3")]), "only the second list counts");
}

#[test]
fn each_kind_has_its_own_list() {
    let mut s = Scenario::synced().own("default", "10.244.1.0/24");
    s.put(&node_record("n2", &["172.30.1.12/24"]));
    s.say(StoreInput::Reset { kind: StoreKind::Nodes });
    assert_eq!(s.sync(StoreKind::Claims), changes([]), "no list of claims runs: nothing is missing");
    assert_eq!(s.tables.claims.len(), 1);
    assert_eq!(s.sync(StoreKind::Nodes), changes([of_node("n2")]));
}

#[test]
fn the_store_away_leaves_everything_as_it_is() {
    let mut s = Scenario::synced().network("default", &["10.244.0.0/16"], |_| {});
    let before = s.tables.networks.clone();
    let reason = "connection refused".to_owned();
    assert_eq!(s.say(StoreInput::Away { reason: reason.clone() }), changes([Change::Store]));
    assert_eq!(s.tables.store, StoreState::Away(reason));
    assert_eq!((&s.tables.networks, s.tables.knowledge(StoreKind::Networks)), (&before, Knowledge::Synced));
    assert_eq!(s.say(StoreInput::Back), changes([Change::Store]));
    assert_eq!(s.say(StoreInput::Back), changes([]));
}

#[test]
fn a_row_keeps_the_revision_it_came_with() {
    let mut s = Scenario::synced();
    let record = node_record("n2", &["172.30.1.12/24"]);
    assert_eq!(s.put(&record), changes([of_node("n2")]));
    assert_eq!(s.tables.nodes[&node("n2")].revision, Revision(1));
    assert_eq!(s.put(&record), changes([]), "written again as it was");
    assert_eq!(s.tables.nodes[&node("n2")].revision, Revision(2), "a conditional write needs the newest");
    assert_eq!(s.delete(StoreKind::Nodes, "n2"), changes([of_node("n2")]));
    assert_eq!(s.delete(StoreKind::Nodes, "n2"), changes([]));
}

/// What this node says of a network, and with which revision it writes its own record, follows the revision alone.
#[test]
fn a_new_revision_of_what_this_node_speaks_of_is_a_change() {
    let mut s = Scenario::synced();
    let (own, network) = (node_record("n1", &["172.30.1.11/24"]), network("default", &["10.244.0.0/16"], |_| {}));
    s.put(&own);
    s.put(&network);
    assert_eq!(s.put(&own), changes([of_node("n1")]));
    assert_eq!(s.put(&network), changes([of_network("default")]));
    // The same revision again, as a list repeats it, is none.
    let revision = s.tables.networks[&network_name("default")].revision;
    let again =
        StoreInput::Put { kind: StoreKind::Networks, key: "default".into(), value: network.encode().into(), revision };
    assert_eq!(s.say(again), changes([]));
}

#[test]
fn a_broken_record_keeps_the_last_good_value() {
    let mut s = Scenario::synced().network("default", &["10.244.0.0/16"], |_| {});
    let good = s.tables.networks[&network_name("default")].clone();
    let mut broken = good.value.encode();
    broken["spec"]["ranges"] = json!(["10.244.0.0/99", 7]);
    s.put_json(StoreKind::Networks, "default", broken);
    assert_eq!(s.tables.networks[&network_name("default")], good);
    let fault = &s.tables.faults[&(StoreKind::Networks, "default".into())];
    assert!(fault.contains("network/default") || fault.contains("networks/default"), "{fault}");
    assert!(fault.contains("10.244.0.0/99") && fault.contains('7'), "every fault is named: {fault}");
    // Mended, it counts again.
    s.put(&network("default", &["10.244.0.0/16"], |spec| spec.backend.vni = 9));
    assert!(s.tables.faults.is_empty());
    assert_eq!(s.tables.networks[&network_name("default")].value.spec.backend.vni, 9);
}

#[test]
fn a_record_under_another_ones_key_is_not_taken() {
    let mut s = Scenario::synced();
    let record = node_record("n3", &["172.30.1.13/24"]);
    s.put_json(StoreKind::Nodes, "n2", record.encode());
    assert!(s.tables.nodes.is_empty());
    assert!(s.tables.faults[&(StoreKind::Nodes, "n2".into())].contains("n3"));
    s.put_json(StoreKind::Claims, "no key of a claim", json!({}));
    s.put_json(StoreKind::Alive, "../../etc", json!("x"));
    assert_eq!(s.tables.faults.len(), 3);
    // What goes takes its fault along, by a deletion as by a list.
    s.delete(StoreKind::Nodes, "n2");
    for kind in [StoreKind::Claims, StoreKind::Alive] {
        s.say(StoreInput::Reset { kind });
        s.sync(kind);
    }
    assert!(s.tables.faults.is_empty(), "{:?}", s.tables.faults);
}

/// Whether this node proposes a network of its own depends on a broken one that has the name: it must be told.
#[test]
fn a_network_that_breaks_or_goes_broken_is_a_change() {
    let mut s = Scenario::synced();
    assert_eq!(s.put_json(StoreKind::Networks, "default", json!({"spec": 1})), changes([of_network("default")]));
    assert_eq!(s.put_json(StoreKind::Networks, "default", json!({"spec": 2})), changes([]), "broken as before");
    assert_eq!(s.delete(StoreKind::Networks, "default"), changes([of_network("default")]));
}

#[test]
fn a_range_counts_when_its_claim_is_held() {
    let mut s = Scenario::synced();
    let owned = |s: &Scenario, owner: &str| -> Vec<String> {
        let (owner, network) = (node(owner), network_name("default"));
        s.tables.ranges(&owner, &network, Family::V4).map(|range| range.to_string()).collect()
    };
    let put = |s: &mut Scenario, owner: &str, state| s.put(&claim(owner, "default", "10.244.2.0/24", state));
    assert_eq!(put(&mut s, "n2", ClaimState::Tentative), changes([]), "nobody uses a tentative range");
    assert!(owned(&s, "n2").is_empty() && s.tables.ranges_of.is_empty());
    assert_eq!(s.tables.claims.len(), 1, "but it is known");
    assert_eq!(put(&mut s, "n2", ClaimState::Held), changes([of_claim("n2")]));
    assert_eq!(owned(&s, "n2"), ["10.244.2.0/24"]);
    assert_eq!(put(&mut s, "n2", ClaimState::Held), changes([]));
    // Taken over by another node, at once or by way of a tentative claim.
    assert_eq!(put(&mut s, "n3", ClaimState::Held), changes([of_claim("n2"), of_claim("n3")]));
    assert_eq!((owned(&s, "n2"), owned(&s, "n3")), (vec![], vec!["10.244.2.0/24".to_owned()]));
    assert_eq!(put(&mut s, "n2", ClaimState::Tentative), changes([of_claim("n3")]));
    assert!(owned(&s, "n3").is_empty() && owned(&s, "n2").is_empty());
    put(&mut s, "n2", ClaimState::Held);
    assert_eq!(s.delete(StoreKind::Claims, &claim_key_of("default", "10.244.2.0/24")), changes([of_claim("n2")]));
    assert!(s.tables.ranges_of.is_empty() && s.tables.claims.is_empty());
}

#[test]
fn ranges_are_told_apart_by_network_and_family() {
    let mut s = Scenario::synced();
    for (network, range) in [("a", "10.1.2.0/24"), ("a", "10.1.1.0/24"), ("a", "fd00::/64"), ("b", "10.2.1.0/24")] {
        s.put(&claim("n2", network, range, ClaimState::Held));
    }
    let ranges =
        |network: &str, family| -> Vec<_> { s.tables.ranges(&node("n2"), &network_name(network), family).collect() };
    assert_eq!(ranges("a", Family::V4), [prefix("10.1.1.0/24"), prefix("10.1.2.0/24")], "in order");
    assert_eq!(ranges("a", Family::V6), [prefix("fd00::/64")]);
    assert_eq!(ranges("b", Family::V4), [prefix("10.2.1.0/24")]);
    assert!(ranges("b", Family::V6).is_empty());
}

#[test]
fn the_node_itself_is_no_peer() {
    let mut s = Scenario::synced();
    for name in ["n1", "n2", "n3"] {
        s.put(&node_record(name, &["172.30.1.12/24"]));
    }
    let peers: Vec<&str> = s.tables.peers().map(|row| row.value.name.as_str()).collect();
    assert_eq!(peers, ["n2", "n3"]);
}

#[test]
fn signs_of_life_are_rows_like_others() {
    let mut s = Scenario::synced();
    assert_eq!(s.put(&alive("n2", 1)), changes([Change::Alive(node("n2"))]));
    assert_eq!(s.put(&alive("n2", 2)), changes([Change::Alive(node("n2"))]));
    assert_eq!(s.tables.alive[&node("n2")].value.sequence, 2);
    assert_eq!(s.delete(StoreKind::Alive, "n2"), changes([Change::Alive(node("n2"))]));
}

#[test]
fn facts_are_a_change_when_they_differ() {
    let mut s = Scenario::new();
    assert_eq!(s.tables.apply_facts(facts()), changes([]));
    let mut other = facts();
    other.links.insert(name("eth1"), host_link(9000, &[]));
    assert_eq!(s.tables.apply_facts(other), changes([Change::Facts]));
}

/// Who hands records in may have read them: the tables say the same, and a recording has them as they are.
#[test]
fn a_record_that_was_read_before_says_the_same() {
    let records = [
        (StoreKind::Nodes, "n2".to_owned(), node_record("n2", &["172.30.1.12/24"]).encode()),
        (StoreKind::Claims, claim_key_of("default", "10.244.2.0/24"), held("n2", "10.244.2.0/24")),
        (StoreKind::Alive, "n2".to_owned(), alive("n2", 7).encode()),
        (StoreKind::Networks, "default".to_owned(), network("default", &["10.244.0.0/16"], |_| {}).encode()),
        (StoreKind::Nodes, "n3".to_owned(), node_record("n2", &["172.30.1.12/24"]).encode()),
        (StoreKind::Nodes, "n4".to_owned(), json!({ "name": 4 })),
    ];
    let (mut raw, mut read) = (Scenario::new(), Scenario::new());
    for (n, (kind, key, value)) in (1..).zip(records) {
        let early = StoreValue::read(kind, &key, &value.to_string());
        assert_eq!(serde_json::to_value(&early).unwrap(), value, "{kind}/{key}");
        let input = |value| StoreInput::Put { kind, key: key.as_str().into(), value, revision: Revision(n) };
        assert_eq!(read.say(input(early)), raw.say(input(value.into())), "{kind}/{key}");
    }
    let told = |s: &Scenario| {
        let t = &s.tables;
        format!("{:?}", (&t.nodes, &t.claims, &t.alive, &t.networks, &t.faults, &t.ranges_of, &t.nexthop_ids))
    };
    assert_eq!(told(&read), told(&raw));
    assert_eq!(read.tables.faults.len(), 2);
    // Of a field that comes twice the last counts, whoever reads it; what is no JSON is a text.
    let twice = node_record("n2", &["172.30.1.12/24"]).encode().to_string().replacen('{', r#"{"name":"n1","#, 1);
    let value: serde_json::Value = serde_json::from_str(&twice).unwrap();
    assert_eq!(StoreValue::read(StoreKind::Nodes, "n2", &twice), value.into());
    assert_eq!(StoreValue::read(StoreKind::Nodes, "n2", "{broken"), json!("{broken").into());
}

fn held(node: &str, range: &str) -> serde_json::Value {
    claim(node, "default", range, ClaimState::Held).encode()
}

/// An object that is not as its kind is not as good as gone: what it was before stays, through new lists too, until it is good or gone.
#[test]
fn of_an_object_that_cannot_be_read_the_last_good_state_stays() {
    let text = r#"{"metadata": {"name": "tor"}, "spec": {"peerIP": "192.0.2.1", "asNumber": 65000}}"#;
    let (object, _) = ClusterObject::decode(ObjectKind::BgpPeer, text).unwrap();
    let (kind, revision, name): (_, _, Arc<str>) = (ObjectKind::BgpPeer, Revision(3), "tor".into());
    let put = ObjectInput::Put { object, revision };
    let faulty = ObjectInput::Faulty { kind, name: name.clone(), fault: "a BgpPeer tor that is odd".into() };
    let mut s = Scenario::synced();
    let state = |s: &Scenario| (s.tables.cluster.bgp.peers.len(), s.tables.cluster.faults.len());
    s.tables.apply_object(&put);
    s.tables.apply_object(&faulty);
    assert_eq!(state(&s), (1, 1));
    for input in [ObjectInput::Reset { kind }, faulty.clone(), ObjectInput::Synced { kind, revision }] {
        s.tables.apply_object(&input);
    }
    assert_eq!(state(&s), (1, 1), "a list has it");
    s.tables.apply_object(&put);
    assert_eq!(state(&s), (1, 0));
    s.tables.apply_object(&faulty);
    s.tables.apply_object(&ObjectInput::Delete { kind, name, revision });
    assert_eq!(state(&s), (0, 0));
    s.tables.apply_object(&faulty);
    for input in [ObjectInput::Reset { kind }, ObjectInput::Synced { kind, revision }] {
        s.tables.apply_object(&input);
    }
    assert_eq!(state(&s), (0, 0), "it is gone");
}
