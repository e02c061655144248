//! Upstream's cases, by their names: what they expect, what the oracle says, and what packets do.

use std::collections::BTreeSet;

use ripstop_conformance::policy::{UPSTREAM, cases};
use ripstop_oracle::policy::judge;

use super::Cluster;

#[test]
fn each_case_of_upstream_is_there() {
    let listed: BTreeSet<String> = UPSTREAM.lines().map(str::to_owned).collect();
    let mut there = BTreeSet::new();
    for case in cases().unwrap() {
        let named: Vec<&String> = case.steps.iter().filter_map(|step| step.name.as_ref()).collect();
        there.extend(named.iter().map(|name| format!("{}/{name}", case.id)));
        there.extend(named.is_empty().then(|| case.id.clone()));
    }
    assert_eq!(listed, there);
    let count = |begin: &str| cases().unwrap().iter().filter(|case| case.id.starts_with(begin)).count();
    assert_eq!((count("netpol/tcp/"), count("netpol/udp/"), count("netpol/sctp/"), count("cnp/")), (42, 3, 3, 24));
    assert_eq!(there.iter().filter(|id| id.starts_with("cnp/")).count(), 92);
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
