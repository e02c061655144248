//! Faults of every kind: whole sets of patterns for three nodes, random histories for up to six; and rules broken on purpose,
//! which these must find.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};

use super::world::{Event, MS, Planted, Setting, World, address, node, pairs, table};
use crate::Timing;

/// Events at their times, then rest; then everything works again and comes back.
fn history(setting: &Setting, events: &[(u64, Event)]) -> Result<World, String> {
    let mut world = World::new(setting.clone());
    for (pause, event) in events {
        world.run(*pause)?;
        world.happen(event);
    }
    (0..setting.nodes).for_each(|n| world.happen(&Event::Freeze(n, 0)));
    world.run(setting.back_within().max(500))?;
    let punctual = setting.lost == 0 && setting.delay.1 <= 4;
    if punctual && majorities(setting.nodes).iter().any(|group| world.reached(group) && world.serves_alone(group)) {
        world.owned()?;
    }
    world.happen(&Event::Links(u32::MAX));
    for n in 0..setting.nodes {
        world.happen(&Event::Start(n));
        world.happen(&Event::Leaves(n, false));
    }
    // Messages that take long, and back, make grants end before they come.
    if punctual {
        world.run(3 * setting.back_within())?;
        world.owned()?;
    }
    Ok(world)
}

/// Sets of nodes that are a majority.
fn majorities(nodes: usize) -> Vec<BTreeSet<usize>> {
    let all = (0..1u32 << nodes).map(|bits| (0..nodes).filter(|n| bits >> n & 1 == 1).collect());
    all.filter(|group: &BTreeSet<usize>| group.len() > nodes / 2).collect()
}

/// How much to search: `RIPSTOP_SEARCH=10` searches ten times as much.
fn effort() -> u32 {
    std::env::var("RIPSTOP_SEARCH").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

fn short(nodes: usize) -> Setting {
    let mut setting = Setting::of(nodes);
    setting.timing = Timing::of(60 * MS);
    setting
}

/// Three nodes: every set of links that work, followed by every other one, is 4,096 histories.
#[test]
fn no_two_patterns_of_links_make_two_owners_of_three_nodes() {
    let setting = short(3);
    for first in 0..64u32 {
        for second in 0..64u32 {
            let events = [(400, Event::Links(first)), (90 + u64::from(first % 7) * 31, Event::Links(second))];
            if let Err(broken) = history_without_return(&setting, &events) {
                panic!("links {first:06b}, then {second:06b}: {broken}");
            }
        }
    }
}

fn history_without_return(setting: &Setting, events: &[(u64, Event)]) -> Result<(), String> {
    let mut world = World::new(setting.clone());
    for (pause, event) in events {
        world.run(*pause)?;
        world.happen(event);
    }
    world.run(300)
}

/// Three nodes: every set of links, and each node killed, frozen for a while or drained before or after; clocks differ.
#[test]
fn no_fault_of_a_node_and_links_makes_two_owners_of_three() {
    for (n, links) in (0..3).flat_map(|n| (0..64u32).map(move |links| (n, links))) {
        let faults = [
            Event::Kill(n),
            Event::Freeze(n, 30),
            Event::Freeze(n, 100),
            Event::Freeze(n, 300),
            Event::Leaves(n, true),
        ];
        for fault in faults {
            for swapped in [false, true] {
                let mut setting = short(3);
                setting.rates = [1000, 1050, 950].to_vec();
                setting.rates.rotate_left(n);
                let mut events = [fault.clone(), Event::Links(links)];
                events.rotate_left(usize::from(swapped));
                let [one, two] = events;
                if let Err(broken) = history(&setting, &[(400, one.clone()), (45, two.clone())]) {
                    panic!("{one:?}, then {two:?}: {broken}");
                }
            }
        }
    }
}

/// Every set of links that work among three nodes, and many among four and five: as long as one node and a majority hear each other, each
/// address has an owner.
#[test]
fn a_node_that_reaches_a_majority_means_an_owner_within_the_bound() {
    for nodes in [3usize, 4, 5] {
        let all = 1u32 << pairs(nodes).count();
        // Those of three are 64; those of more at odd steps, so that every link differs.
        let step = ((all / (350 * effort())) | 1) as usize;
        let (mut lived, mut tried) = (0, 0);
        for links in (0..all).step_by(step) {
            let mut world = World::new(Setting { addresses: 6, ..short(nodes) });
            world.run(300).unwrap();
            world.happen(&Event::Links(links));
            tried += 1;
            if !(0..nodes).any(|n| world.reaches_majority(n)) {
                continue;
            }
            lived += 1;
            world.run(world.setting.back_within()).unwrap();
            world.owned().unwrap_or_else(|broken| panic!("{nodes} nodes, links {links:b}: {broken}"));
        }
        println!("{nodes} nodes: {lived} of {tried} sets of links leave one that reaches a majority");
        assert!(lived > 20);
    }
}

/// Links that work where the segment falls in two: a bit of `sides` for each node.
fn split(nodes: usize, sides: u32) -> u32 {
    let together = |(a, b): (usize, usize)| sides >> a & 1 == sides >> b & 1;
    pairs(nodes).enumerate().filter(|(_, pair)| together(*pair)).fold(0, |bits, (bit, _)| bits | 1 << (bit % 32))
}

fn events(nodes: usize) -> impl Strategy<Value = Vec<(u64, Event)>> {
    let event = prop_oneof![
        4 => any::<u32>().prop_map(Event::Links),
        4 => any::<u32>().prop_map(move |sides| Event::Links(split(nodes, sides))),
        // Most links work.
        4 => (any::<u32>(), any::<u32>()).prop_map(|(a, b)| Event::Links(a | b)),
        2 => Just(Event::Links(u32::MAX)),
        2 => (0..nodes).prop_map(Event::Kill),
        3 => (0..nodes, 5..400u64).prop_map(|(n, time)| Event::Freeze(n, time)),
        3 => (0..nodes).prop_map(Event::Start),
        2 => (0..nodes, any::<bool>()).prop_map(|(n, leaves)| Event::Leaves(n, leaves)),
    ];
    prop::collection::vec((0..250u64, event), 1..14)
}

fn settings(nodes: usize, planted: Option<Planted>) -> impl Strategy<Value = Setting> {
    let rates = prop::collection::vec(950..=1050u64, nodes);
    (rates, any::<u64>(), 0..300u64, 0..2u64, 0..25u64).prop_map(move |(rates, seed, lost, least, varies)| Setting {
        rates,
        seed,
        lost: if lost < 100 { 0 } else { lost },
        delay: (least, least + if seed % 2 == 0 { varies % 4 } else { varies }),
        addresses: 2,
        planted,
        timing: Timing::of(if seed % 3 == 0 { 200 } else { 60 } * MS),
        ..short(nodes)
    })
}

/// What is broken, in what setting, after what.
type Found = (String, Setting, Vec<(u64, Event)>);

fn search(nodes: usize, planted: Option<Planted>, cases: u32) -> Option<Found> {
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 300, ..Config::default() };
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &[nodes as u8; 32]);
    let mut runner = TestRunner::new_with_rng(config, random);
    let all = (settings(nodes, planted), events(nodes));
    let ended = runner.run(&all, |(setting, events)| {
        let world = history(&setting, &events);
        world.map(drop).map_err(TestCaseError::fail)
    });
    match ended {
        Ok(()) => None,
        Err(TestError::Fail(why, (setting, events))) => Some((why.to_string(), setting, events)),
        Err(TestError::Abort(why)) => panic!("{why}"),
    }
}

#[test]
fn no_random_history_makes_two_owners() {
    for (nodes, cases) in [(3, 150), (4, 100), (5, 60), (6, 40)] {
        if let Some((broken, setting, events)) = search(nodes, None, cases * effort()) {
            panic!("{broken} in {setting:?} after {events:?}");
        }
    }
}

/// The searches must be able to fail: each broken rule is found.
#[test]
fn every_broken_rule_is_found() {
    use Planted::*;
    for planted in [NoWait, MajorityLess, EchoOfNow, Unasked] {
        let found = [3, 4].into_iter().find_map(|nodes| search(nodes, Some(planted), 400 * effort()));
        let (broken, _, events) = found.unwrap_or_else(|| panic!("{planted:?} is not found"));
        println!("{planted:?}: {broken}, after {} events", events.len());
    }
}

/// All but the owner know that it may not have its address any more, before they do not hear it: what they granted must end first.
#[test]
fn electors_that_hear_the_owner_are_waited_for() {
    let broken = |planted| {
        let timing = Timing::of(200 * MS);
        let mut world = World::new(Setting { timing, planted, ..Setting::of(5) });
        world.run(2_000).unwrap();
        let owner = world.owned().unwrap()[0];
        let mut without = table(5, 1);
        without.addresses.insert(address(0), Some((0..5).filter(|n| *n != owner).map(node).collect()));
        (0..5).filter(|n| *n != owner).for_each(|n| world.learn(n, without.clone()));
        // Nor does it hear who asks.
        world.cut_off(owner);
        world.run(world.setting.back_within())?;
        assert_ne!(world.owned()?[0], owner);
        Ok::<_, String>(())
    };
    assert_eq!(broken(None), Ok(()));
    assert!(broken(Some(Planted::AllSilent)).is_err(), "it cannot fail");
}
