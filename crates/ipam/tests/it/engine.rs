//! What the range engine does, step by step, in the histories that people meet.

use std::collections::BTreeMap;

use ripstop_ipam::{
    Answer, Claim, ClaimKey, ClaimState, Claimant, RangeAction, RangeEngine, RangeEvent, RangeFault, RangeRequest,
    Slot, StopReason, Stored,
};
use ripstop_types::{Prefix, Revision};

use super::choose::claimant;

fn key(range: &str) -> ClaimKey {
    ClaimKey::new("default", range.parse().unwrap())
}

fn request() -> RangeRequest {
    let mut request = RangeRequest::new("default", "10.244.0.0/16".parse().unwrap(), 24);
    request.preferred = Some("10.244.5.0/24".parse().unwrap());
    request
}

fn slot() -> Slot {
    Slot::of(&request())
}

fn run(me: &Claimant, run: u64) -> Claimant {
    Claimant { run, ..me.clone() }
}

fn claim(claimant: &Claimant, state: ClaimState) -> Claim {
    Claim::new(claimant.clone(), state)
}

fn listed(revision: u64, claims: &[(&str, u64, Claim)]) -> RangeEvent {
    let row = |(range, revision, claim): &(&str, u64, Claim)| {
        (key(range), Stored { revision: Revision(*revision), claim: claim.clone() })
    };
    RangeEvent::Listed { revision: Revision(revision), claims: claims.iter().map(row).collect() }
}

fn changed(range: &str, revision: u64, claim: Option<Claim>) -> RangeEvent {
    RangeEvent::Changed { key: key(range), revision: Revision(revision), claim }
}

fn done(op: u64, revision: u64) -> RangeEvent {
    RangeEvent::Answer { op, answer: Answer::Done(Revision(revision)) }
}

fn put(op: u64, range: &str, claim: Claim, expect: Option<u64>) -> RangeAction {
    RangeAction::ClaimPut { op, key: key(range), claim, expect: expect.map(Revision) }
}

/// An engine that holds 10.244.5.0/24 at revision 2, and its actions so far.
fn holding(me: &Claimant) -> RangeEngine {
    let mut engine = RangeEngine::new(me.clone(), None);
    assert_eq!(engine.on(&RangeEvent::Want(request())), []);
    let tentative = claim(me, ClaimState::Tentative);
    assert_eq!(engine.on(&listed(0, &[])), [put(1, "10.244.5.0/24", tentative.clone(), None)]);
    assert_eq!(engine.on(&done(1, 1)), []);
    let held = claim(me, ClaimState::Held);
    let confirm = put(2, "10.244.5.0/24", held.clone(), Some(1));
    assert_eq!(engine.on(&changed("10.244.5.0/24", 1, Some(tentative))), [confirm]);
    assert_eq!(engine.on(&done(2, 2)), [RangeAction::UseRange(key("10.244.5.0/24"))]);
    assert_eq!(engine.on(&changed("10.244.5.0/24", 2, Some(held))), []);
    assert_eq!(engine.used().collect::<Vec<_>>(), [&key("10.244.5.0/24")]);
    engine
}

#[test]
fn a_range_is_used_after_two_writes_and_a_look() {
    holding(&claimant("n1"));
}

#[test]
fn an_agent_of_the_same_boot_uses_its_range_with_the_store_away() {
    let me = claimant("n1");
    let snapshot = holding(&me).snapshot();
    let mut engine = RangeEngine::new(run(&me, 2), Some(&snapshot));
    assert_eq!(engine.on(&RangeEvent::Want(request())), [RangeAction::UseRange(key("10.244.5.0/24"))]);
    assert_eq!(engine.on(&RangeEvent::Tick), []);
    // The claim bears the run before: that is no contradiction.
    assert_eq!(engine.on(&listed(2, &[("10.244.5.0/24", 2, claim(&me, ClaimState::Held))])), []);
}

#[test]
fn an_agent_of_another_boot_renews_first() {
    let me = claimant("n1");
    let snapshot = holding(&me).snapshot();
    let rebooted = Claimant { boot: "b2".into(), ..run(&me, 2) };
    let mut engine = RangeEngine::new(rebooted.clone(), Some(&snapshot));
    assert_eq!(engine.on(&RangeEvent::Want(request())), []);
    let renewed = claim(&rebooted, ClaimState::Held);
    let list = listed(2, &[("10.244.5.0/24", 2, claim(&me, ClaimState::Held))]);
    assert_eq!(engine.on(&list), [put(1, "10.244.5.0/24", renewed, Some(2))]);
    assert_eq!(engine.on(&done(1, 3)), [RangeAction::UseRange(key("10.244.5.0/24"))]);
}

#[test]
fn a_stale_list_stops_nothing_and_is_looked_into() {
    let me = claimant("n1");
    let mut engine = holding(&me);
    let ask = put(3, "10.244.5.0/24", claim(&me, ClaimState::Tentative), None);
    assert_eq!(engine.on(&listed(1, &[])), [ask]);
    assert_eq!(engine.used().count(), 1);
    let current = Stored { revision: Revision(2), claim: claim(&me, ClaimState::Held) };
    let conflict = RangeEvent::Answer { op: 3, answer: Answer::Conflict(Some(current)) };
    assert_eq!(engine.on(&conflict), []);
    assert_eq!(engine.used().count(), 1);
}

#[test]
fn an_emptied_store_is_filled_again() {
    let me = claimant("n1");
    let mut engine = holding(&me);
    assert_eq!(engine.on(&listed(0, &[])).len(), 1);
    let stop = RangeAction::StopRange { key: key("10.244.5.0/24"), reason: StopReason::ClaimGone };
    assert_eq!(engine.on(&done(3, 1)), [stop]);
    let tentative = claim(&me, ClaimState::Tentative);
    let confirm = put(4, "10.244.5.0/24", claim(&me, ClaimState::Held), Some(1));
    assert_eq!(engine.on(&changed("10.244.5.0/24", 1, Some(tentative))), [confirm]);
    assert_eq!(engine.on(&done(4, 2)), [RangeAction::UseRange(key("10.244.5.0/24"))]);
}

#[test]
fn a_range_that_another_has_is_stopped_and_another_is_chosen() {
    let (me, other) = (claimant("n1"), claimant("n2"));
    let mut engine = holding(&me);
    let actions = engine.on(&changed("10.244.5.0/24", 7, Some(claim(&other, ClaimState::Held))));
    let stop = RangeAction::StopRange { key: key("10.244.5.0/24"), reason: StopReason::ClaimTaken(other) };
    assert_eq!(actions[0], stop);
    assert!(
        matches!(&actions[1..], [RangeAction::ClaimPut { key: k, expect: None, .. }] if *k != key("10.244.5.0/24"))
    );
}

#[test]
fn a_deleted_claim_is_claimed_again() {
    let me = claimant("n1");
    let mut engine = holding(&me);
    let stop = RangeAction::StopRange { key: key("10.244.5.0/24"), reason: StopReason::ClaimGone };
    let again = put(3, "10.244.5.0/24", claim(&me, ClaimState::Tentative), None);
    assert_eq!(engine.on(&changed("10.244.5.0/24", 7, None)), [stop, again]);
}

#[test]
fn a_copy_of_the_machine_ends_it_until_someone_looks() {
    let me = claimant("n1");
    let mut engine = holding(&me);
    let copy = Claimant { boot: "b9".into(), ..me.clone() };
    let stop = RangeAction::StopRange { key: key("10.244.5.0/24"), reason: StopReason::Copied };
    assert_eq!(engine.on(&changed("10.244.5.0/24", 7, Some(claim(&copy, ClaimState::Held)))), [stop]);
    for event in [RangeEvent::Tick, RangeEvent::Want(request()), changed("10.244.5.0/24", 8, None)] {
        assert_eq!(engine.on(&event), []);
    }
    let fault = engine.fault(&slot()).unwrap();
    assert!(matches!(fault, RangeFault::Copied { .. }));
    assert!(fault.to_string().contains("a copied disk?"), "{fault}");
}

/// The range of a machine that had this node's name is that machine's as any other's is: beside it another is chosen, and
/// one that is assigned to both is refused with its holder.
#[test]
fn another_machine_of_the_same_name_keeps_its_range() {
    let me = claimant("n1");
    let twin = Claimant { machine: "other".into(), ..me.clone() };
    let theirs = listed(4, &[("10.244.5.0/24", 4, claim(&twin, ClaimState::Held))]);
    let mut engine = RangeEngine::new(me.clone(), None);
    engine.on(&RangeEvent::Want(RangeRequest { preferred: Some("10.244.5.0/24".parse().unwrap()), ..request() }));
    match engine.on(&theirs).as_slice() {
        [RangeAction::ClaimPut { key: chosen, expect: None, .. }] => assert_ne!(*chosen, key("10.244.5.0/24")),
        other => panic!("{other:?}"),
    }
    let mut engine = RangeEngine::new(me, None);
    engine.on(&RangeEvent::Want(RangeRequest { assigned: Some("10.244.5.0/24".parse().unwrap()), ..request() }));
    assert_eq!(engine.on(&theirs), []);
    assert!(matches!(engine.fault(&slot()), Some(RangeFault::Twin { .. })));
    // Released by the operator: on it goes.
    assert_eq!(engine.on(&changed("10.244.5.0/24", 5, None)).len(), 1);
    assert_eq!(engine.fault(&slot()), None);
}

#[test]
fn a_range_is_given_back_after_the_snapshot() {
    let me = claimant("n1");
    let mut engine = holding(&me);
    let stop = RangeAction::StopRange { key: key("10.244.5.0/24"), reason: StopReason::Released };
    let actions = engine.on(&RangeEvent::Release(key("10.244.5.0/24")));
    assert_eq!(actions, [stop, RangeAction::Save { generation: 1 }]);
    assert_eq!(engine.snapshot().held, []);
    assert_eq!(engine.snapshot().releasing, [(key("10.244.5.0/24"), Revision(2))]);
    // The save failed: it is asked for again, and nothing is deleted meanwhile.
    assert_eq!(engine.on(&RangeEvent::Tick), [RangeAction::Save { generation: 1 }]);
    let delete = RangeAction::ClaimDelete { op: 3, key: key("10.244.5.0/24"), expect: Revision(2) };
    assert_eq!(engine.on(&RangeEvent::Saved { generation: 1 }), [delete]);
    assert_eq!(engine.on(&done(3, 3)), []);
    assert_eq!(engine.on(&changed("10.244.5.0/24", 3, None)), []);
    assert_eq!(engine.owned(), []);
    // It stays without a range until it is wanted again; then it asks for the one it had.
    assert_eq!(engine.on(&RangeEvent::Tick), []);
    let again = put(4, "10.244.5.0/24", claim(&me, ClaimState::Tentative), None);
    assert_eq!(engine.on(&RangeEvent::Want(request())), [again]);
}

#[test]
fn a_changed_network_keeps_the_old_claim_until_it_is_released() {
    let me = claimant("n1");
    let mut engine = holding(&me);
    let mut moved = RangeRequest::new("default", "10.8.0.0/16".parse().unwrap(), 24);
    moved.preferred = Some("10.8.1.0/24".parse().unwrap());
    let stop = RangeAction::StopRange { key: key("10.244.5.0/24"), reason: StopReason::NotOfNetwork };
    let next = put(3, "10.8.1.0/24", claim(&me, ClaimState::Tentative), None);
    assert_eq!(engine.on(&RangeEvent::Want(moved)), [stop, next]);
    assert_eq!(engine.unused().collect::<Vec<_>>(), [&key("10.244.5.0/24")]);
    let actions = engine.on(&RangeEvent::Release(key("10.244.5.0/24")));
    assert_eq!(actions, [RangeAction::Save { generation: 1 }]);
    // The new range goes on.
    engine.on(&done(3, 3));
    let tentative = claim(&me, ClaimState::Tentative);
    assert_eq!(engine.on(&changed("10.8.1.0/24", 3, Some(tentative))).len(), 1);
    assert_eq!(engine.on(&done(4, 4)), [RangeAction::UseRange(key("10.8.1.0/24"))]);
}

#[test]
fn a_network_left_before_the_claim_came_through_leaves_nothing() {
    let me = claimant("n1");
    let mut engine = RangeEngine::new(me, None);
    engine.on(&RangeEvent::Want(request()));
    assert_eq!(engine.on(&listed(0, &[])).len(), 1);
    assert_eq!(engine.on(&RangeEvent::Unwant(slot())), []);
    engine.on(&done(1, 1));
    engine.on(&listed(1, &[("10.244.5.0/24", 1, claim(&claimant("n1"), ClaimState::Tentative))]));
    assert_eq!(engine.on(&done(2, 2)), [RangeAction::Save { generation: 1 }]);
    let actions = engine.on(&RangeEvent::Saved { generation: 1 });
    assert!(matches!(actions[..], [RangeAction::ClaimDelete { expect: Revision(2), .. }]), "{actions:?}");
}

#[test]
fn two_families_have_a_range_each() {
    let me = claimant("n1");
    let mut engine = RangeEngine::new(me, None);
    engine.on(&listed(0, &[]));
    let v6 = RangeRequest::new("default", "fd00:244::/48".parse().unwrap(), 64);
    for want in [request(), v6.clone()] {
        assert_eq!(engine.on(&RangeEvent::Want(want)).len(), 1);
    }
    let (first, second) = (key("10.244.5.0/24"), engine.owned()[1].key.clone());
    assert!("fd00:244::/48".parse::<Prefix>().unwrap().covers(&second.range));
    let me = claimant("n1");
    let row = |key: &ClaimKey, revision, state| {
        (key.clone(), Stored { revision: Revision(revision), claim: claim(&me, state) })
    };
    engine.on(&done(1, 1));
    engine.on(&done(2, 2));
    let claims = BTreeMap::from([row(&first, 1, ClaimState::Tentative), row(&second, 2, ClaimState::Tentative)]);
    assert_eq!(engine.on(&RangeEvent::Listed { revision: Revision(2), claims }).len(), 2);
    assert_eq!(engine.on(&done(4, 3)), [RangeAction::UseRange(second)]);
    assert_eq!(engine.on(&done(3, 4)), [RangeAction::UseRange(first)]);
}

#[test]
fn records_and_snapshots_read_as_they_were_written() {
    let me = claimant("n1");
    let claim = claim(&me, ClaimState::Held);
    let json = serde_json::to_string(&claim).unwrap();
    assert_eq!(json, r#"{"node":"n1","machine":"m-n1","boot":"b1","run":1,"state":"held"}"#);
    assert_eq!(serde_json::from_str::<Claim>(&json).unwrap(), claim);
    let snapshot = holding(&me).snapshot();
    let json = serde_json::to_string(&snapshot).unwrap();
    assert_eq!(serde_json::from_str::<ripstop_ipam::RangeSnapshot>(&json).unwrap(), snapshot);
    let conflict = Answer::Conflict(Some(Stored { revision: Revision(4), claim: claim.clone() }));
    for event in [
        RangeEvent::Want(request()),
        RangeEvent::Unwant(slot()),
        RangeEvent::Release(key("10.244.5.0/24")),
        listed(4, &[("10.244.5.0/24", 4, claim.clone()), ("10.244.6.0/24", 3, claim.clone())]),
        changed("10.244.5.0/24", 5, None),
        RangeEvent::Answer { op: 3, answer: conflict },
        RangeEvent::Saved { generation: 2 },
        RangeEvent::Tick,
    ] {
        let json = serde_json::to_string(&event).unwrap();
        assert_eq!(serde_json::from_str::<RangeEvent>(&json).unwrap(), event);
    }
    let taken = RangeAction::StopRange { key: key("10.244.5.0/24"), reason: StopReason::ClaimTaken(me) };
    for action in [put(1, "10.244.5.0/24", claim, Some(4)), taken, RangeAction::Save { generation: 1 }] {
        let json = serde_json::to_string(&action).unwrap();
        assert_eq!(serde_json::from_str::<RangeAction>(&json).unwrap(), action);
    }
}
