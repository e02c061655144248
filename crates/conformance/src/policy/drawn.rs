//! Scenarios drawn by number, and made smaller where one shows something.

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::generate::{Scenario, scenarios};
use crate::case::{Stop, Verdict};

/// How often a scenario is tried to be made smaller.
const TRIES: usize = 300;

/// The scenario of a number: always the same.
#[must_use]
pub fn drawn(seed: u64) -> Scenario {
    tree(seed).current()
}

fn tree(seed: u64) -> Box<dyn ValueTree<Value = Scenario>> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut runner = TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    match scenarios().new_tree(&mut runner) {
        Ok(tree) => Box::new(tree),
        Err(why) => unreachable!("every scenario can be drawn: {why}"),
    }
}

/// Asks about the scenario of a number; where that differs, gives the smallest one found that does, and how.
pub(super) fn first_difference(
    seed: u64,
    ask: &mut dyn FnMut(&Scenario) -> Verdict<usize>,
) -> Result<usize, Box<(Scenario, String)>> {
    let mut tree = tree(seed);
    let mut worst = match ask(&tree.current()) {
        Ok(count) => return Ok(count),
        Err(stop) => (tree.current(), told(stop)),
    };
    let mut is_smaller = tree.simplify();
    for _ in 0..TRIES {
        if !is_smaller {
            break;
        }
        let scenario = tree.current();
        is_smaller = match ask(&scenario) {
            Err(Stop::Fail(why)) => {
                worst = (scenario, why);
                tree.simplify()
            }
            _ => tree.complicate(),
        };
    }
    Err(Box::new(worst))
}

fn told(stop: Stop) -> String {
    match stop {
        Stop::Fail(why) | Stop::Skip(why) | Stop::Differs(why) | Stop::Unclaimed(why) => why,
        Stop::Interrupted => "interrupted".into(),
    }
}
