//! Signs of life, and who may free a range.

use proptest::prelude::*;
use ripstop_ipam::{Claim, ClaimState, Life, Liveness, ReleaseCause, ReleaseFacts, ReleaseRefused, releasable};
use ripstop_types::{Millis, NodeName, Prefix, Revision};

use super::choose::claimant;

fn node(name: &str) -> NodeName {
    name.parse().unwrap()
}

#[test]
fn only_changes_while_watching_count() {
    let mut lives = Liveness::new(30_000);
    lives.observe(&node("a"), Revision(1), Millis(0));
    lives.watch_up(Millis(0));
    assert_eq!(lives.life(&node("a")), Life::Unknown);
    let seconds = |from: u64, to: u64, lives: &mut Liveness| {
        for second in from..=to {
            lives.advance(Millis(second * 1000));
        }
    };
    seconds(1, 10, &mut lives);
    lives.observe(&node("a"), Revision(2), Millis(10_000));
    assert_eq!(lives.life(&node("a")), Life::Fresh(0));
    // The store is away for an hour: nobody ages.
    lives.watch_down(Millis(12_000));
    seconds(13, 3_600, &mut lives);
    assert_eq!(lives.life(&node("a")), Life::Fresh(2_000));
    assert_eq!(lives.life(&node("never-seen")), Life::Unknown);
    lives.watch_up(Millis(3_601_000));
    seconds(3_602, 3_629, &mut lives);
    lives.observe(&node("a"), Revision(2), Millis(3_629_000));
    assert_eq!(lives.life(&node("a")), Life::Stale(30_000));
    assert_eq!(lives.life(&node("never-seen")), Life::Stale(40_000));
    assert_eq!(lives.life(&node("a")).to_string(), "stale, no sign of life for 30 s");
}

proptest! {
    /// Whatever the clock does, a node that gives a sign every ten readings is never stale, and no two readings together age
    /// anybody by more than the longest step.
    #[test]
    fn a_clock_that_jumps_ages_nobody(jumps in prop::collection::vec(any::<u32>(), 1..60)) {
        let mut lives = Liveness::new(60_000);
        lives.watch_up(Millis(u64::from(jumps[0])));
        for (n, now) in jumps.iter().enumerate() {
            let now = Millis(u64::from(*now));
            if n % 10 == 0 {
                lives.observe(&node("a"), Revision(n as u64 + 1), now);
            }
            lives.advance(now);
            let stale = matches!(lives.life(&node("a")), Life::Stale(_));
            prop_assert!(!stale, "after {} readings", n);
        }
        let text = serde_json::to_string(&lives).unwrap();
        prop_assert_eq!(serde_json::from_str::<Liveness>(&text).unwrap(), lives);
    }
}

fn range() -> Prefix {
    "10.244.3.0/24".parse().unwrap()
}

fn asked_on(name: &str, life: Life) -> ReleaseFacts {
    ReleaseFacts {
        asked: node(name),
        machine: format!("m-{name}").into(),
        leases: None,
        example: None,
        life,
        node_exists: Some(true),
    }
}

#[test]
fn silence_alone_frees_nothing_and_life_keeps_everything() {
    let claim = Claim::new(claimant("gone"), ClaimState::Held);
    let ask = |cause, facts: &ReleaseFacts| releasable(range(), &claim, cause, facts);
    let stale = asked_on("n1", Life::Stale(90_000));
    assert!(matches!(ask(ReleaseCause::Owner, &stale), Err(ReleaseRefused::NotOwner { .. })));
    assert!(matches!(ask(ReleaseCause::NodeDeleted, &stale), Err(ReleaseRefused::NodeExists { .. })));
    assert_eq!(ask(ReleaseCause::Operator, &stale), Ok(()));
    let deleted = |life| ReleaseFacts { node_exists: Some(false), ..asked_on("n1", life) };
    assert_eq!(ask(ReleaseCause::NodeDeleted, &deleted(Life::Stale(90_000))), Ok(()));
    let fault = ask(ReleaseCause::NodeDeleted, &deleted(Life::Fresh(2_000))).unwrap_err();
    assert_eq!(
        fault.to_string(),
        "range 10.244.3.0/24: node gone is fresh, last sign of life 2 s ago; ask it itself, there: `ripstop ipam release \
         10.244.3.0/24`"
    );
    assert!(matches!(ask(ReleaseCause::Operator, &asked_on("n1", Life::Unknown)), Err(ReleaseRefused::Unknown { .. })));
    let unsynced = ReleaseFacts { node_exists: None, ..stale };
    assert!(matches!(ask(ReleaseCause::NodeDeleted, &unsynced), Err(ReleaseRefused::Unknown { .. })));
}

#[test]
fn the_owner_gives_back_what_no_pod_has() {
    let claim = Claim::new(claimant("n1"), ClaimState::Held);
    let with = |leases: Option<usize>| ReleaseFacts {
        leases,
        example: Some("pod default/web".into()),
        ..asked_on("n1", Life::Fresh(0))
    };
    for cause in [ReleaseCause::Owner, ReleaseCause::Operator] {
        assert_eq!(releasable(range(), &claim, cause, &with(Some(0))), Ok(()));
        let fault = releasable(range(), &claim, cause, &with(Some(3))).unwrap_err();
        let said = "range 10.244.3.0/24 of node n1 has 3 leases (pod default/web); remove those pods first";
        assert_eq!(fault.to_string(), said);
        assert!(releasable(range(), &claim, cause, &with(None)).is_err());
    }
}

#[test]
fn a_machine_installed_anew_frees_what_its_name_had() {
    let mut claim = Claim::new(claimant("n1"), ClaimState::Held);
    claim.claimant.machine = "before".into();
    let facts = asked_on("n1", Life::Fresh(0));
    assert_eq!(releasable(range(), &claim, ReleaseCause::Operator, &facts), Ok(()));
    assert!(releasable(range(), &claim, ReleaseCause::Owner, &facts).is_err());
}
