//! Two nodes never use one range, whatever happens to store, network and machines.

use ripstop_ipam::RangeRequest;
use ripstop_ipam::ranges::start_of;
use ripstop_types::NodeName;

use super::ranges_search::{Found, every, walk};
use super::ranges_words::{Budget, Mutant, Part, Setting};

/// Names whose search starts at the same one of `count` ranges, so that all want the same.
fn rivals(count: u128, how_many: usize) -> Vec<String> {
    let names = (0..).map(|n| format!("n{n}"));
    names.filter(|name| start_of(&name.parse::<NodeName>().unwrap(), count) == 0).take(how_many).collect()
}

/// `nodes` rivals for `ranges` ranges of one length.
fn same_length(nodes: usize, ranges: u8) -> Setting {
    let mut request = RangeRequest::new("default", "10.244.0.0/22".parse().unwrap(), 24);
    request.max = Some(format!("10.244.{}.0", ranges - 1).parse().unwrap());
    let part = |node: String| Part { node, request: request.clone() };
    Setting { parts: rivals(u128::from(ranges), nodes).into_iter().map(part).collect(), mutant: None }
}

/// Nodes that read the network's definition before and after its length was changed.
fn mixed_lengths(lengths: &[u8]) -> Setting {
    let part = |(n, len): (usize, &u8)| Part {
        node: format!("n{n}"),
        request: RangeRequest::new("default", "10.244.0.0/23".parse().unwrap(), *len),
    };
    Setting { parts: lengths.iter().enumerate().map(part).collect(), mutant: None }
}

fn with(mut setting: Setting, mutant: Mutant) -> Setting {
    setting.mutant = Some(mutant);
    setting
}

/// How much to search: `RIPSTOP_SEARCH=10` searches ten times as much.
fn effort() -> usize {
    std::env::var("RIPSTOP_SEARCH").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

fn explored(what: &str, setting: &Setting, budget: Budget, limit: usize) -> Found {
    let found = every(setting, budget, limit * effort());
    let all = if found.whole { "all" } else { "the nearest" };
    println!("{what}: {all} {} states, histories up to {} steps", found.states, found.depth);
    if let Some((broken, history)) = &found.broken {
        panic!("{what}: {broken} after {history:?}");
    }
    found
}

/// Random histories, each followed by rest; all faults at once.
fn wandered(what: &str, setting: &Setting, budget: Budget, walks: usize, length: usize) {
    for seed in 0..(walks * effort()) as u64 {
        if let Err((broken, history)) = walk(setting, budget, seed, length) {
            panic!("{what}, seed {seed}: {broken} after {history:?}");
        }
    }
    println!("{what}: {} histories of up to {length} steps, each brought to rest", walks * effort());
}

/// Everything, often.
const STORM: Budget = Budget {
    lost: 12,
    delayed: 8,
    stale: 6,
    relist: 8,
    repeat: 8,
    kill: 8,
    amnesia: 4,
    off: 4,
    operator: 4,
    release: 4,
};

const NONE: Budget = Budget {
    lost: 0,
    delayed: 0,
    stale: 0,
    relist: 0,
    repeat: 0,
    kill: 0,
    amnesia: 0,
    off: 0,
    operator: 0,
    release: 0,
};

#[test]
fn no_history_without_faults_shares_a_range() {
    let found = explored("three nodes, one range", &same_length(3, 1), NONE, 60_000);
    assert!(found.whole && found.states > 1_000);
    explored("three nodes, three ranges", &same_length(3, 3), NONE, 60_000);
}

#[test]
fn lost_and_delayed_answers_share_no_range() {
    let budget = Budget { lost: 1, delayed: 1, ..NONE };
    let found = explored("two nodes, one range, an answer lost, a write delayed", &same_length(2, 1), budget, 200_000);
    assert!(found.whole);
    explored("three nodes, three ranges, the same", &same_length(3, 3), budget, 60_000);
}

#[test]
fn stale_and_repeated_views_share_no_range() {
    let budget = Budget { stale: 1, relist: 1, repeat: 1, release: 1, ..NONE };
    explored("two nodes, one range, stale views, a release", &same_length(2, 1), budget, 100_000);
}

#[test]
fn agents_that_die_share_no_range() {
    let budget = Budget { kill: 1, amnesia: 1, release: 1, delayed: 1, ..NONE };
    explored("two nodes, one range, a kill, a release", &same_length(2, 1), budget, 100_000);
    let budget = Budget { kill: 2, amnesia: 1, stale: 1, ..NONE };
    explored("two nodes, one range, two kills, a stale list", &same_length(2, 1), budget, 60_000);
}

#[test]
fn machines_that_come_back_share_no_range() {
    let budget = Budget { off: 1, operator: 1, delayed: 1, ..NONE };
    explored("two nodes, one range, off and on, freed by an operator", &same_length(2, 1), budget, 100_000);
    let budget = Budget { off: 1, operator: 1, kill: 1, stale: 1, ..NONE };
    explored("two nodes, one range, the same with a kill", &same_length(2, 1), budget, 60_000);
}

#[test]
fn ranges_of_different_length_do_not_overlap() {
    let found = explored("a /23 beside a /24", &mixed_lengths(&[23, 24]), Budget { lost: 1, ..NONE }, 200_000);
    assert!(found.whole);
    let budget = Budget { kill: 1, amnesia: 1, stale: 1, ..NONE };
    explored("a /23 beside a /24, a kill", &mixed_lengths(&[23, 24]), budget, 60_000);
    explored("a /23 beside two /24", &mixed_lengths(&[23, 24, 24]), NONE, 60_000);
}

#[test]
fn storms_share_no_range_and_come_to_rest() {
    wandered("three nodes, three ranges", &same_length(3, 3), STORM, 600, 250);
    wandered("three nodes, two ranges", &same_length(3, 2), STORM, 600, 250);
    wandered("two /23 and a /24", &mixed_lengths(&[23, 23, 24]), STORM, 600, 250);
}

/// The searches above must be able to fail: each broken rule is found, by exhaustion and by storms.
#[test]
fn every_broken_rule_is_found() {
    use Mutant::*;
    let (pair, lengths) = (same_length(2, 1), mixed_lengths(&[23, 24]));
    let cases = [
        (TrustsExpiry, &pair, Budget { kill: 1, ..NONE }),
        (TrustsItsRequest, &pair, NONE),
        (TrustsOldBoot, &pair, Budget { off: 1, operator: 1, kill: 1, ..NONE }),
        (TrustsLists, &pair, Budget { stale: 1, release: 1, kill: 1, ..NONE }),
        (DeletesBeforeSaving, &pair, Budget { release: 1, kill: 1, ..NONE }),
        (IgnoresOverlap, &lengths, NONE),
        (WritesBlindly, &pair, NONE),
        (DeletesBlindly, &pair, Budget { off: 1, operator: 1, ..NONE }),
        (OperatorGuesses, &pair, Budget { operator: 1, ..NONE }),
    ];
    for (mutant, setting, budget) in cases {
        let setting = with(setting.clone(), mutant);
        let found = every(&setting, budget, 2_000_000);
        let (broken, history) = found.broken.unwrap_or_else(|| panic!("{mutant:?}: not in {} states", found.states));
        assert!(every(&with(setting.clone(), mutant), budget, 1).broken.is_none(), "found without a step");
        println!("{mutant:?}: {broken}, in {} steps, after {} states", history.len(), found.states);
        let storm =
            (0..4_000).find_map(|seed| walk(&setting, STORM, seed, 250).err().map(|(broken, _)| (seed, broken)));
        let (seed, broken) = storm.unwrap_or_else(|| panic!("{mutant:?}: no storm finds it"));
        assert!(broken.contains("occupies"), "{mutant:?}: {broken}");
        println!("{mutant:?}: storm {seed}");
    }
}
