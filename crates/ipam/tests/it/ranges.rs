//! Two nodes never use one range, whatever happens to store, network and machines.

use ripstop_ipam::RangeRequest;
use ripstop_ipam::ranges::start_of;
use ripstop_types::NodeName;

use super::ranges_words::{Budget, Mutant, Part, Setting, Step};
use super::ranges_world::World;
use super::search::{Found, every, walk};

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
    Setting {
        parts: rivals(u128::from(ranges), nodes).into_iter().map(part).collect(),
        mutant: None,
        spare_others: false,
        namesakes: false,
    }
}

/// Nodes that read the network's definition before and after its length was changed.
fn mixed_lengths(lengths: &[u8]) -> Setting {
    let part = |(n, len): (usize, &u8)| Part {
        node: format!("n{n}"),
        request: RangeRequest::new("default", "10.244.0.0/23".parse().unwrap(), *len),
    };
    Setting {
        parts: lengths.iter().enumerate().map(part).collect(),
        mutant: None,
        spare_others: false,
        namesakes: false,
    }
}

/// Two equal nodes for one range, of which the first is the one that things happen to.
fn pair() -> Setting {
    Setting { spare_others: true, ..same_length(2, 1) }
}

/// The same, of machines that all have one name.
fn namesakes(setting: Setting) -> Setting {
    Setting { namesakes: true, ..setting }
}

fn with(mut setting: Setting, mutant: Mutant) -> Setting {
    setting.mutant = Some(mutant);
    setting
}

/// How much to search: `RIPSTOP_SEARCH=10` searches ten times as much.
fn effort() -> usize {
    std::env::var("RIPSTOP_SEARCH").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

fn explored(what: &str, setting: &Setting, budget: Budget, limit: usize) -> Found<Step> {
    let found = every(World::new(setting, budget), setting, limit * effort());
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
        if let Err((broken, history)) = walk(World::new(setting, budget), setting, seed, length) {
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

/// Searched to the end, each of these; together they are every fault, alone and with those it could conspire with.
fn exhausted(what: &str, setting: &Setting, budget: Budget) {
    let found = explored(what, setting, budget, 400_000);
    assert!(found.whole && found.states > 1_000, "{what}: {} states are not all", found.states);
}

#[test]
fn no_history_without_faults_shares_a_range() {
    exhausted("three nodes, one range", &same_length(3, 1), NONE);
    explored("three nodes, three ranges", &same_length(3, 3), NONE, 60_000);
}

#[test]
fn lost_and_delayed_answers_share_no_range() {
    let budget = Budget { lost: 1, delayed: 1, ..NONE };
    exhausted("two nodes, one range, an answer lost, a write delayed", &same_length(2, 1), budget);
    let budget = Budget { delayed: 1, release: 1, ..NONE };
    exhausted("two nodes, one range, a write delayed, a release", &same_length(2, 1), budget);
    explored("three nodes, three ranges, the same", &same_length(3, 3), budget, 60_000);
}

#[test]
fn stale_and_repeated_views_share_no_range() {
    let budget = Budget { stale: 1, relist: 1, repeat: 1, ..NONE };
    exhausted("two nodes, one range, stale views", &same_length(2, 1), budget);
    let budget = Budget { stale: 1, release: 1, ..NONE };
    exhausted("two nodes, one range, a stale list, a release", &same_length(2, 1), budget);
}

#[test]
fn agents_that_die_share_no_range() {
    exhausted("two nodes, one range, a kill, a release", &pair(), Budget { kill: 1, release: 1, ..NONE });
    let budget = Budget { kill: 1, amnesia: 1, stale: 1, ..NONE };
    exhausted("two nodes, one range, a kill, no snapshot, a stale list", &pair(), budget);
}

#[test]
fn machines_that_come_back_share_no_range() {
    let budget = Budget { off: 1, operator: 1, ..NONE };
    exhausted("two nodes, one range, off and on, freed by an operator", &pair(), budget);
}

/// A machine installed anew has the name of one that may be off, dead, cut off or alive: neither takes what the other has.
#[test]
fn machines_of_one_name_share_no_range() {
    let pair = namesakes(pair());
    exhausted("two of one name, an answer lost", &namesakes(same_length(2, 1)), Budget { lost: 1, ..NONE });
    exhausted("two of one name, a kill, no snapshot", &pair, Budget { kill: 1, amnesia: 1, ..NONE });
    exhausted("two of one name, off and on, freed by an operator", &pair, Budget { off: 1, operator: 1, ..NONE });
    wandered("three of one name, three ranges", &namesakes(same_length(3, 3)), STORM, 300, 250);
    wandered("three of one name, lengths mixed", &namesakes(mixed_lengths(&[23, 23, 24])), STORM, 300, 250);
}

#[test]
fn ranges_of_different_length_do_not_overlap() {
    exhausted("a /23 beside a /24", &mixed_lengths(&[23, 24]), Budget { lost: 1, ..NONE });
    exhausted("a /23 beside a /24, a kill", &mixed_lengths(&[23, 24]), Budget { kill: 1, amnesia: 1, ..NONE });
    explored("a /23 beside two /24", &mixed_lengths(&[23, 24, 24]), NONE, 60_000);
}

/// Larger worlds, as far as there is time: `RIPSTOP_SEARCH` says how far.
#[test]
fn the_near_histories_of_many_faults_share_no_range() {
    let pair = same_length(2, 1);
    for (what, budget) in [
        ("kill, release, delay, no snapshot", Budget { kill: 1, amnesia: 1, release: 1, delayed: 1, ..NONE }),
        ("two kills, stale list, no snapshot", Budget { kill: 2, amnesia: 1, stale: 1, ..NONE }),
        (
            "off, operator, kill, delay, stale list",
            Budget { off: 1, operator: 1, kill: 1, delayed: 1, stale: 1, ..NONE },
        ),
    ] {
        explored(what, &pair, budget, 20_000);
    }
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
    let (pair, lengths) = (pair(), mixed_lengths(&[23, 24]));
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
        let found = every(World::new(&setting, budget), &setting, 2_000_000);
        let (broken, history) = found.broken.unwrap_or_else(|| panic!("{mutant:?}: not in {} states", found.states));
        println!("{mutant:?}: {broken}, in {} steps, after {} states", history.len(), found.states);
        let storm = (0..4_000).find_map(|seed| {
            walk(World::new(&setting, STORM), &setting, seed, 250).err().map(|(broken, _)| (seed, broken))
        });
        let (seed, broken) = storm.unwrap_or_else(|| panic!("{mutant:?}: no storm finds it"));
        assert!(broken.contains("occupies"), "{mutant:?}: {broken}");
        println!("{mutant:?}: storm {seed}");
    }
}
