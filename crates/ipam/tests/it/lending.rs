//! Two machines never have one address, whatever is lent, asked for and given back, and whatever happens meanwhile.

use super::lending_words::{Budget, Mutant, Setting};
use super::lending_world::World;
use super::search::{every, walk};

const NONE: Budget = Budget {
    lost: 0,
    delayed: 0,
    stale: 0,
    relist: 0,
    kill: 0,
    amnesia: 0,
    off: 0,
    pods: 0,
    offers: 0,
    backs: 0,
    borrows: 0,
    asks: 0,
    ticks: 0,
};

/// Everything, often.
const STORM: Budget = Budget {
    lost: 12,
    delayed: 8,
    stale: 6,
    relist: 8,
    kill: 8,
    amnesia: 4,
    off: 4,
    pods: 40,
    offers: 40,
    backs: 30,
    borrows: 40,
    asks: 30,
    ticks: 200,
};

fn setting(machines: usize, addresses: u8) -> Setting {
    Setting { machines, addresses, mutant: None }
}

/// How much to search: `RIPSTOP_SEARCH=10` searches ten times as much.
fn effort() -> usize {
    std::env::var("RIPSTOP_SEARCH").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// Searched to the end, or as far as `limit` states.
fn explored(what: &str, setting: &Setting, budget: Budget, limit: usize) -> bool {
    let found = every(World::started(setting, budget), setting, limit * effort());
    let all = if found.whole { "all" } else { "the nearest" };
    println!("{what}: {all} {} states, histories up to {} steps", found.states, found.depth);
    if let Some((broken, history)) = &found.broken {
        panic!("{what}: {broken} after {history:?}");
    }
    assert!(found.states > 300, "{what}: {} states are not all", found.states);
    found.whole
}

fn exhausted(what: &str, setting: &Setting, budget: Budget) {
    assert!(explored(what, setting, budget, 400_000), "{what}: not searched to the end");
}

#[test]
fn an_address_lent_without_faults_is_one_machines() {
    let one = Budget { pods: 2, offers: 1, backs: 1, borrows: 2, ..NONE };
    exhausted("an offer, taken back and borrowed", &setting(2, 1), one);
    exhausted("an offer that two would take", &setting(3, 1), Budget { pods: 1, offers: 1, borrows: 2, ..NONE });
    exhausted("an address that is asked for", &setting(2, 1), Budget { pods: 2, asks: 2, ..NONE });
    explored("asked for, offered and given to a pod", &setting(3, 1), Budget { asks: 2, borrows: 2, ..one }, 40_000);
}

#[test]
fn lost_and_delayed_answers_lend_nothing_twice() {
    let one = Budget { pods: 1, offers: 1, backs: 1, borrows: 1, ticks: 2, ..NONE };
    explored("an offer, an answer lost", &setting(2, 1), Budget { lost: 1, ..one }, 60_000);
    explored("an offer, a write delayed", &setting(2, 1), Budget { delayed: 1, ..one }, 60_000);
    let ask = Budget { pods: 1, asks: 1, ticks: 2, ..NONE };
    exhausted("asked for, an answer lost", &setting(2, 1), Budget { lost: 1, ..ask });
    exhausted("asked for, a write delayed", &setting(2, 1), Budget { delayed: 1, ..ask });
}

#[test]
fn stale_views_lend_nothing_twice() {
    let one = Budget { pods: 1, offers: 1, borrows: 1, relist: 1, stale: 1, ..NONE };
    exhausted("an offer, a stale list", &setting(2, 1), one);
    let ask = Budget { pods: 1, asks: 1, relist: 1, stale: 1, ..NONE };
    exhausted("asked for, a stale list", &setting(2, 1), ask);
}

#[test]
fn agents_that_die_lend_nothing_twice() {
    let one = Budget { pods: 1, offers: 1, borrows: 1, kill: 1, ..NONE };
    explored("an offer, a kill", &setting(2, 1), one, 120_000);
    explored("an offer, a kill, no snapshot", &setting(2, 1), Budget { amnesia: 1, ..one }, 120_000);
    explored("borrowed again, a kill", &setting(2, 1), Budget { pods: 0, offers: 2, borrows: 2, ..one }, 200_000);
    explored("asked for, a kill", &setting(2, 1), Budget { offers: 0, borrows: 0, asks: 1, ..one }, 120_000);
}

#[test]
fn machines_that_come_back_lend_nothing_twice() {
    let one = Budget { pods: 1, offers: 1, borrows: 1, off: 1, ..NONE };
    explored("an offer, off and on", &setting(2, 1), one, 120_000);
    explored("asked for, off and on", &setting(2, 1), Budget { offers: 0, borrows: 0, asks: 1, ..one }, 120_000);
}

/// All faults at once, then rest: what no pod has is the block's again, the rest is its borrower's.
#[test]
fn storms_lend_nothing_twice_and_leak_nothing() {
    for (machines, addresses) in [(2, 1), (2, 2), (3, 2), (4, 4)] {
        let setting = setting(machines, addresses);
        for seed in 0..(600 * effort()) as u64 {
            if let Err((broken, history)) = walk(World::new(&setting, STORM), &setting, seed, 400) {
                panic!("{machines} machines, {addresses} addresses, seed {seed}: {broken} after {history:?}");
            }
        }
    }
}

/// The searches above must be able to fail: each broken rule is found.
#[test]
fn every_broken_rule_of_lending_is_found() {
    use Mutant::*;
    let one = Budget { pods: 1, offers: 1, borrows: 1, ..NONE };
    for (mutant, machines, budget) in [
        (OffersWhatIsOpen, 2, one),
        (DoesNotSave, 2, Budget { kill: 1, ..one }),
        (OpensAtOnce, 2, Budget { off: 1, stale: 1, ..one }),
        (WritesBlindly, 3, Budget { borrows: 2, ..one }),
        (TrustsItsRequest, 3, Budget { borrows: 2, ..one }),
        (GrantsAnything, 2, Budget { asks: 1, ..one }),
    ] {
        let setting = Setting { mutant: Some(mutant), ..setting(machines, 1) };
        let found = every(World::started(&setting, budget), &setting, 2_000_000);
        let (broken, history) = found.broken.unwrap_or_else(|| panic!("{mutant:?}: not in {} states", found.states));
        println!("{mutant:?}: {broken}, in {} steps, after {} states", history.len(), found.states);
    }
}
