//! Clusters, changes and packets that nobody thought of.

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use ripstop_conformance::policy::{Change, Scenario, scenarios};
use ripstop_netmodel::Model;

use super::{Cluster, entries};

/// Packets whose fate is what the oracle says, while the cluster changes; and what follows changes is what is made at once.
fn run(scenario: &Scenario) -> Result<(), TestCaseError> {
    let mut cluster = Cluster::new();
    let start = (Change::all_of(&scenario.world), Vec::new());
    let steps = scenario.steps.iter().map(|step| (step.changes.clone(), step.packets.clone()));
    for (changes, packets) in [start].into_iter().chain(steps) {
        cluster.follow(&changes, None);
        if let Some(why) = packets.iter().find_map(|packet| cluster.differs(packet)) {
            return Err(TestCaseError::fail(format!("{scenario}{why}")));
        }
        for node in &cluster.nodes {
            let mut anew = Model::new();
            for entry in entries(&node.policies) {
                anew.insert_entry(entry.into());
            }
            prop_assert!(anew == *node.compiled.model(), "{scenario}what follows changes differs");
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn packets_fare_as_the_oracle_says(scenario in scenarios()) {
        run(&scenario)?;
    }
}
