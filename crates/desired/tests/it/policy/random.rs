//! Clusters, changes and packets that nobody thought of.

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use ripstop_conformance::policy::{Change, DataPlane, Scenario, Stop, compare, differ, scenarios};
use ripstop_desired::policy::Source;
use ripstop_netmodel::{Entry, Model};
use ripstop_policy::Policies;

use crate::policies::Cluster;

#[test]
fn the_tables_judge_many_packets_as_the_oracle_does() {
    let is_long = std::env::var("RIPSTOP_TEST_TIER").is_ok_and(|tier| tier == "long");
    let packets = if is_long { 10_000_000 } else { 200_000 };
    let make = || -> Result<Box<dyn DataPlane>, Stop> { Ok(Box::new(Cluster::new(None))) };
    match compare(&make, 2, 7, packets) {
        Ok(sent) => println!("{sent} packets, no difference"),
        Err(divergence) => panic!("{divergence}"),
    }
}

/// The objects of a node, each made anew.
fn made_anew(policies: &Policies) -> Model {
    let entries = |source: &Source| -> Vec<Entry> { source.objects(policies) };
    let mut model = Model::new();
    Source::all(policies).iter().flat_map(entries).for_each(|entry| drop(model.insert_entry(entry.into())));
    model
}

/// Packets whose fate is what the oracle says, while the cluster changes; and what follows changes is what is made at once.
fn run(scenario: &Scenario) -> Result<(), TestCaseError> {
    let mut cluster = Cluster::new(None);
    if let Err(stop) = differ(&mut cluster, scenario) {
        return Err(TestCaseError::fail(format!("{scenario}{stop:?}")));
    }
    let mut cluster = Cluster::new(None);
    let start = [Change::all_of(&scenario.world)];
    for changes in start.iter().chain(scenario.steps.iter().map(|step| &step.changes)) {
        cluster.follow(changes).unwrap();
        for node in &cluster.nodes {
            prop_assert!(made_anew(&node.policies) == *node.compiled.model(), "{scenario}what follows changes differs");
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
