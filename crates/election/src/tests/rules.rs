//! The choice without faults: who is chosen, who watches whom, what is said when.

use std::collections::BTreeSet;

use super::world::{Event, MS, Setting, World, address, mac, node, table};
use crate::{ALL_ELECT, Action, Claim, ELECTORS};

fn settled(setting: Setting) -> World {
    let mut world = World::new(setting);
    world.run(1_000).unwrap();
    world.owned().unwrap();
    world
}

#[test]
fn addresses_are_spread_evenly_and_only_those_of_a_lost_node_move() {
    let table = table(10, 200);
    let all: BTreeSet<_> = table.candidates.keys().cloned().collect();
    let mut owned = std::collections::BTreeMap::new();
    for n in 0..200 {
        *owned.entry(table.winner(address(n), &all).unwrap().clone()).or_insert(0) += 1;
    }
    assert!(owned.len() == 10 && owned.values().all(|count| (8..=36).contains(count)), "{owned:?}");
    let fewer: BTreeSet<_> = all.iter().filter(|name| **name != node(3)).cloned().collect();
    for n in 0..200 {
        let before = table.winner(address(n), &all).unwrap();
        let after = table.winner(address(n), &fewer).unwrap();
        assert!(before == after || *before == node(3));
    }
}

#[test]
fn a_node_without_an_endpoint_that_is_ready_is_no_choice() {
    let mut table = table(4, 1);
    let all: Vec<_> = table.candidates.keys().cloned().collect();
    table.addresses.insert(address(0), Some([node(2)].into()));
    assert_eq!(table.winner(address(0), &all), Some(&node(2)));
    table.addresses.insert(address(0), Some([node(77)].into()));
    assert_eq!(table.winner(address(0), &all), None);
    assert_eq!(table.winner(address(9), &all), None, "no such address");
}

#[test]
fn beyond_sixteen_four_neighbours_watch_each_and_fifteen_elect() {
    for nodes in [2, 5, ALL_ELECT] {
        let table = table(nodes, 1);
        assert!((0..nodes).all(|n| table.watchers(&node(n)).len() == nodes - 1));
        assert_eq!((table.electors().len(), table.majority(false)), (nodes, nodes / 2 + 1));
    }
    for nodes in [ALL_ELECT + 1, 40, 300] {
        let table = table(nodes, 1);
        for n in 0..nodes {
            let watchers = table.watchers(&node(n));
            assert!(watchers.len() == 4 && !watchers.contains(&node(n)));
            assert!(watchers.iter().all(|watcher| table.watched_by(watcher).contains(&node(n))));
        }
        assert_eq!((table.electors().len(), table.majority(true)), (ELECTORS, ELECTORS / 2 + 1));
    }
}

#[test]
fn a_segment_that_starts_has_owners_soon_and_each_is_announced_again_and_again() {
    let mut world = World::new(Setting { addresses: 20, ..Setting::of(5) });
    let within = world.setting.back_within();
    world.run(within).unwrap();
    world.owned().unwrap();
    assert_eq!(world.longest_double, 0);
    world.run(6_000).unwrap();
    for n in 0..20 {
        let said = world.log.iter().filter(|(_, _, action)| *action == Action::Announce(address(n))).count();
        assert_eq!(said, 6);
        let at = |wanted| world.log.iter().find(|(_, _, action)| *action == wanted).unwrap().0;
        assert!(at(Action::Probe(address(n))) + 20 <= at(Action::Speak(address(n))), "asked before it is said");
    }
}

/// 150 ms to detect, wait, ask and speak.
#[test]
fn a_killed_owner_has_a_successor_within_a_hundred_and_fifty_milliseconds() {
    for seed in 0..20 {
        let mut setting = Setting { addresses: 30, seed, delay: (0, 1), ..Setting::of(5) };
        setting.timing = crate::Timing::of(60 * MS);
        let mut world = settled(setting);
        world.run(seed * 7).unwrap();
        world.happen(&Event::Kill(2));
        world.run(150).unwrap();
        assert!(world.owned().unwrap().iter().all(|owner| *owner != 2));
    }
}

/// Twenty nodes, of which fifteen elect: any of them is replaced, and one that is cut off is silent.
#[test]
fn a_ring_replaces_whom_it_loses() {
    let mut world = settled(Setting { addresses: 40, ..Setting::of(20) });
    let electors = table(20, 0).electors();
    let elects = |n: &usize| electors.contains(&node(*n));
    let owners: BTreeSet<usize> = world.owned().unwrap().into_iter().collect();
    let lost = [owners.iter().copied().find(elects).unwrap(), owners.iter().copied().find(|n| !elects(n)).unwrap()];
    for n in lost {
        world.happen(&Event::Kill(n));
        world.run(world.setting.back_within()).unwrap();
        assert!(!world.owned().unwrap().contains(&n));
    }
    let alone = *owners.iter().find(|n| !lost.contains(n)).unwrap();
    world.cut_off(alone);
    world.run(world.setting.back_within()).unwrap();
    assert!(!world.owned().unwrap().contains(&alone));
}

/// At every moment of a drain somebody answers, and for a moment two do.
#[test]
fn a_drain_leaves_no_gap() {
    let mut world = settled(Setting { addresses: 20, ..Setting::of(4) });
    assert!(world.owned().unwrap().contains(&1));
    world.happen(&Event::Leaves(1, true));
    for _ in 0..500 {
        world.run(1).unwrap();
        for n in 0..20 {
            assert!(!world.speakers(address(n)).is_empty(), "{} at {}", address(n), world.now);
        }
    }
    assert!(!world.owned().unwrap().contains(&1));
    assert!(world.engines[1].as_ref().unwrap().is_silent(), "it may go");
    assert!(world.longest_double <= 5, "{}", world.longest_double);
    // And back, the same way.
    world.happen(&Event::Leaves(1, false));
    for _ in 0..500 {
        world.run(1).unwrap();
        assert!((0..20).all(|n| !world.speakers(address(n)).is_empty()));
    }
    assert!(world.owned().unwrap().contains(&1));
}

/// Two of three are left, and one of them pauses: whoever sees the other come back must not wait until it trusts it.
#[test]
fn a_pause_of_one_of_two_that_are_left_costs_no_more_than_the_loss_of_an_owner() {
    for (lost, pauses) in (0..3).flat_map(|lost| (0..3).filter(move |n| *n != lost).map(move |n| (lost, n))) {
        for pause in [70, 100, 150, 400, 2_000] {
            let mut world = settled(Setting { addresses: 12, ..Setting::of(3) });
            let most = world.setting.back_within();
            world.happen(&Event::Kill(lost));
            world.run(most).unwrap();
            let before = world.owned().unwrap();
            world.happen(&Event::Freeze(pauses, pause));
            world.run(pause + most).unwrap();
            assert_eq!(world.owned().unwrap(), before, "n{lost} is lost, n{pauses} pauses for {pause} ms");
            // Nor does anything move when they trust each other again.
            for _ in 0..6_000 {
                world.pass().unwrap();
                assert_eq!(world.owned().unwrap(), before, "n{lost} is lost, n{pauses} paused for {pause} ms");
            }
        }
    }
}

/// Who was away gets its addresses back when it was there for a while, and without a gap.
#[test]
fn one_that_came_back_waits_until_it_is_trusted() {
    let mut world = settled(Setting { addresses: 12, ..Setting::of(4) });
    let (before, most) = (world.owned().unwrap(), world.setting.back_within());
    assert!(before.contains(&1));
    world.happen(&Event::Freeze(1, 300));
    world.run(300 + most).unwrap();
    let meanwhile = world.owned().unwrap();
    assert!(!meanwhile.contains(&1));
    let settle = u64::try_from(world.setting.timing.settle.as_millis()).unwrap();
    world.run(settle - most - 50).unwrap();
    assert_eq!(world.owned().unwrap(), meanwhile);
    for _ in 0..2 * most {
        world.pass().unwrap();
        assert!((0..12).all(|n| !world.speakers(address(n)).is_empty()));
    }
    assert_eq!(world.owned().unwrap(), before);
}

#[test]
fn a_foreign_machine_is_reported_once_and_not_fought() {
    let mut world = World::new(Setting { addresses: 2, ..Setting::of(3) });
    let foreign = ripstop_types::Mac([2, 0, 0, 0, 0, 99]);
    world.foreign = Some((address(0), foreign));
    world.run(3_000).unwrap();
    let about = |action: &Action| matches!(action, Action::Conflict(..));
    let conflicts: Vec<_> = world.log.iter().filter(|(_, _, action)| about(action)).collect();
    assert_eq!(conflicts.len(), 1, "{conflicts:?}");
    assert_eq!(conflicts[0].2, Action::Conflict(address(0), foreign));
    assert_eq!((world.speakers(address(0)).len(), world.speakers(address(1)).len()), (0, 1));
    // It is looked for again, and the address taken when it is gone.
    world.foreign = None;
    world.run(11_000).unwrap();
    world.owned().unwrap();
}

#[test]
fn an_address_that_is_new_and_a_foreign_machine_has_already_is_not_spoken_for() {
    let mut world = settled(Setting::of(3));
    let foreign = ripstop_types::Mac([2, 0, 0, 0, 0, 99]);
    world.foreign = Some((address(1), foreign));
    world.setting.addresses = 2;
    (0..3).for_each(|n| world.learn(n, table(3, 2)));
    world.run(1_000).unwrap();
    let said = |wanted: &Action| world.log.iter().any(|(_, _, action)| action == wanted);
    assert!(said(&Action::Conflict(address(1), foreign)));
    assert!(!said(&Action::Speak(address(1))) && !said(&Action::Announce(address(1))));
}

#[test]
fn an_owner_that_hears_a_foreign_machine_stops() {
    let mut world = settled(Setting::of(3));
    let owner = world.owned().unwrap()[0];
    let now = world.clock(owner);
    let foreign = ripstop_types::Mac([2, 0, 0, 0, 0, 99]);
    let engine = world.engines[owner].as_mut().unwrap();
    let actions = engine.heard(now, address(0), foreign);
    assert_eq!(actions, [Action::Conflict(address(0), foreign), Action::Silence(address(0))]);
    assert!(!engine.may_speak(now, address(0)));
    assert_eq!(engine.heard(now, address(0), mac(owner)), [], "its own word is no conflict");
}

/// Electors that know other candidates do not count: whoever knows more waits for the others.
#[test]
fn a_node_with_another_list_has_no_votes() {
    let mut world = World::new(Setting::of(3));
    let now = world.clock(0);
    let other = table(4, 1);
    for n in 0..3 {
        let now = world.clock(n);
        if n != 0 {
            world.engines[n].as_mut().unwrap().set(now, other.clone());
        }
    }
    let _ = now;
    world.run(2_000).unwrap();
    assert!(!world.speaks(0, address(0)));
}

/// A table that changes on all nodes within a detection time takes no address from anybody but who lost it by hash.
#[test]
fn a_new_candidate_interrupts_nobody() {
    let mut world = settled(Setting { addresses: 10, ..Setting::of(3) });
    let before = world.owned().unwrap();
    let other = table(4, 10);
    for n in 0..3 {
        let now = world.clock(n);
        let actions = world.engines[n].as_mut().unwrap().set(now, other.clone());
        assert!(!actions.iter().any(|action| matches!(action, Action::Silence(_))));
        for _ in 0..20 {
            world.pass().unwrap();
            for (n, owner) in before.iter().enumerate() {
                assert!(world.speaks(*owner, address(n as u8)), "{} at {}", address(n as u8), world.now);
            }
        }
    }
}

#[test]
fn an_address_that_goes_is_given_up_and_a_new_one_is_taken_without_a_wait() {
    let mut world = settled(Setting::of(3));
    let owner = world.owned().unwrap()[0];
    for n in 0..3 {
        let now = world.clock(n);
        let mut other = table(3, 2);
        other.addresses.remove(&address(0));
        let actions = world.engines[n].as_mut().unwrap().set(now, other);
        assert_eq!(actions.contains(&Action::Silence(address(0))), n == owner);
        for action in actions {
            if let Action::Send(to, message) = action {
                let to = (0..3).find(|n| node(*n) == to).unwrap();
                let now = world.clock(to);
                world.engines[to].as_mut().unwrap().received(now, &message);
            }
        }
    }
    assert!(world.speakers(address(0)).is_empty());
    world.setting.addresses = 2;
    world.run(120).unwrap();
    assert_eq!(world.speakers(address(1)).len(), 1);
    assert!(
        !world.engines.iter().flatten().any(|engine| engine.claim(address(1)) == Some(Claim::Contested { until: MS }))
    );
}
