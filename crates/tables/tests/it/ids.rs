//! The nexthop ids of peers that come and go.

use std::collections::BTreeMap;

use proptest::prelude::*;
use ripstop_netmodel::NEXTHOP_IDS;
use ripstop_objects::ClaimState;
use ripstop_tables::{NexthopIds, StoreKind};
use ripstop_types::Family;

use crate::scenario::{Scenario, claim, claim_key_of, network_name, node};

fn ids_of(s: &Scenario, peer: &str) -> [Option<u32>; 2] {
    Family::BOTH.map(|family| s.tables.nexthop_ids.get(&network_name("default"), &node(peer), family))
}

#[test]
fn a_peer_has_ids_as_long_as_it_owns_a_range() {
    let mut s = Scenario::synced();
    assert_eq!(ids_of(&s, "n2"), [None, None]);
    s.put(&claim("n2", "default", "10.244.2.0/24", ClaimState::Tentative));
    assert_eq!(ids_of(&s, "n2"), [None, None], "nobody uses a tentative range");
    s.put(&claim("n2", "default", "10.244.2.0/24", ClaimState::Held));
    let ids = ids_of(&s, "n2");
    assert!(ids.iter().flatten().all(|id| NEXTHOP_IDS.contains(id)), "{ids:?}");
    assert!(ids[0].is_some() && ids[1].is_some() && ids[0] != ids[1], "one each family: {ids:?}");
    s.put(&claim("n2", "default", "10.244.7.0/24", ClaimState::Held));
    s.delete(StoreKind::Claims, &claim_key_of("default", "10.244.2.0/24"));
    assert_eq!(ids_of(&s, "n2"), ids, "the other range holds them");
    s.delete(StoreKind::Claims, &claim_key_of("default", "10.244.7.0/24"));
    assert_eq!(ids_of(&s, "n2"), [None, None]);
}

#[test]
fn a_range_of_another_network_holds_no_ids_of_this_one() {
    let mut s = Scenario::synced();
    s.put(&claim("n2", "default", "10.244.2.0/24", ClaimState::Held));
    s.put(&claim("n2", "storage", "10.9.2.0/24", ClaimState::Held));
    s.delete(StoreKind::Claims, &claim_key_of("default", "10.244.2.0/24"));
    assert_eq!(ids_of(&s, "n2"), [None, None]);
    assert!(s.tables.nexthop_ids.get(&network_name("storage"), &node("n2"), Family::V4).is_some());
}

#[test]
fn this_node_needs_no_way_to_itself() {
    let mut s = Scenario::synced();
    s.put(&claim("n1", "default", "10.244.1.0/24", ClaimState::Held));
    assert_eq!(ids_of(&s, "n1"), [None, None]);
}

/// What a snapshot says is believed only as far as it can be true: ids of ours, one owner each, one id each owner.
#[test]
fn ids_that_cannot_be_true_are_left_out() {
    let (a, b) = (NEXTHOP_IDS.start(), NEXTHOP_IDS.start() + 1);
    let rows = serde_json::json!([
        ["default", "n2", "4", a],
        ["default", "n3", "4", a],
        ["default", "n2", "4", b],
        ["default", "n4", "4", 7],
    ]);
    let mut ids: NexthopIds = serde_json::from_value(rows).unwrap();
    let get = |ids: &NexthopIds, peer: &str| ids.get(&network_name("default"), &node(peer), Family::V4);
    assert_eq!(get(&ids, "n2"), Some(*a));
    assert_eq!((get(&ids, "n3"), get(&ids, "n4")), (None, None));
    // Nothing of the rest is remembered: released, the ids are free.
    ids.release(&network_name("default"), &node("n2"));
    assert_eq!(ids, NexthopIds::default());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever comes and goes, no two peers share an id, and a peer keeps its ids while it has them.
    #[test]
    fn ids_are_stable_and_not_shared(moves in prop::collection::vec((0u8..40, any::<bool>()), 0..200)) {
        let network = network_name("default");
        let mut ids = NexthopIds::default();
        let mut given: BTreeMap<u8, [Option<u32>; 2]> = BTreeMap::new();
        for (n, arrives) in moves {
            let peer = node(&format!("n{n}"));
            if arrives {
                ids.assign(&network, &peer);
                let now = Family::BOTH.map(|family| ids.get(&network, &peer, family));
                let before = *given.entry(n).or_insert(now);
                prop_assert_eq!(now, before);
            } else {
                ids.release(&network, &peer);
                given.remove(&n);
            }
            let mut all: Vec<u32> = given.values().flatten().copied().flatten().collect();
            prop_assert_eq!(all.len(), given.len() * 2);
            all.sort_unstable();
            all.dedup();
            prop_assert_eq!(all.len(), given.len() * 2);
        }
        let copy: NexthopIds = serde_json::from_value(serde_json::to_value(&ids).unwrap()).unwrap();
        prop_assert_eq!(copy, ids);
    }
}
