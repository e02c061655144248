//! Upstream's cases, by their names: what they expect, what the oracle says, and what packets do.

use std::collections::BTreeSet;

use ripstop_conformance::policy::{UPSTREAM, cases};
use ripstop_oracle::policy::judge;

use super::Cluster;

#[test]
fn each_case_of_upstream_is_there() {
    let listed: BTreeSet<&str> = UPSTREAM.lines().collect();
    let there: BTreeSet<&str> = cases().unwrap().iter().map(|case| &*case.id).collect();
    assert_eq!(listed, there);
    let count = |begin: &str| there.iter().filter(|id| id.starts_with(begin)).count();
    assert_eq!((count("netpol/tcp/"), count("netpol/udp/"), count("netpol/sctp/")), (42, 3, 3));
}

#[test]
fn packets_fare_as_the_cases_say() {
    let (mut wrong, mut probes) = (Vec::new(), 0);
    for case in cases().unwrap() {
        let mut cluster = Cluster::new();
        for (place, step) in case.steps.iter().enumerate() {
            cluster.follow(&step.changes, None);
            for probe in &step.probes {
                probes += 1;
                let judged = judge(&cluster.world, &probe.packet);
                let mut tell =
                    |who: &str| wrong.push(format!("{}, step {place}: {}: {who}: {judged:?}", case.id, probe.name));
                if judged.is_accepted() != probe.arrives {
                    tell("the oracle");
                }
                if cluster.pass(&probe.packet) != probe.arrives {
                    tell("the tables");
                }
            }
        }
    }
    println!("{} cases, {probes} probes", cases().unwrap().len());
    assert!(wrong.is_empty(), "{} of {probes}:\n{}", wrong.len(), wrong[..wrong.len().min(20)].join("\n"));
}
