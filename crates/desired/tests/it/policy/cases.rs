//! Upstream's cases, by their names: what they expect, what the oracle says, and what packets do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use ripstop_conformance::policy::{CYCLONUS, Case, CaseStep, Oracle, UPSTREAM, cases, run_case};
use ripstop_oracle::policy::Traffic;
use ripstop_types::Family;

use crate::policies::Cluster;

#[test]
fn each_case_of_upstream_is_there() {
    let listed: BTreeSet<String> = UPSTREAM.lines().map(str::to_owned).collect();
    let mut there = BTreeSet::new();
    let is_of = |case: &&Case| ["netpol/", "cnp/"].iter().any(|group| case.id.starts_with(group));
    for case in cases().unwrap().iter().filter(is_of) {
        let named: Vec<&str> = case.parts().collect();
        there.extend(named.iter().map(|name| format!("{}/{name}", case.id)));
        there.extend(named.is_empty().then(|| case.id.clone()));
    }
    assert_eq!(listed, there);
    assert_eq!(["netpol/tcp", "netpol/udp", "netpol/sctp", "cnp"].map(count), [42, 3, 3, 24]);
    assert_eq!(there.iter().filter(|id| id.starts_with("cnp/")).count(), 92);
}

/// Those of the proof that are about policies.
const ADVISORIES: [&str; 4] = ["CVE-2025-30162", "CVE-2025-30163", "CVE-2026-56743", "GHSA-hxv8-4j4r-cqgv"];

#[test]
fn each_advisory_has_a_case() {
    for number in ADVISORIES {
        assert!(cases().unwrap().iter().any(|case| case.id == format!("advisory/{number}")), "{number}");
    }
    assert_eq!(count("advisory"), ADVISORIES.len());
}

/// How many cases a group has.
fn count(group: &str) -> usize {
    let is_of = |case: &&Case| case.id.strip_prefix(group).is_some_and(|rest| rest.starts_with('/'));
    cases().unwrap().iter().filter(is_of).count()
}

#[test]
fn each_case_of_cyclonus_is_there_and_denies_what_its_own_evaluator_denies() {
    let groups =
        ["peers", "port-protocol", "conflict", "upstream", "action", "target", "rules", "namespace", "example"];
    assert_eq!(groups.map(|group| count(&format!("cyclonus/{group}"))), [112, 70, 16, 13, 6, 6, 4, 2, 1]);
    let mut there: BTreeMap<&str, &Case> = cases().unwrap().iter().map(|case| (case.id.as_str(), case)).collect();
    there.retain(|id, _| id.starts_with("cyclonus/"));
    for line in CYCLONUS.lines() {
        let (id, denied) = line.split_once('\t').unwrap();
        let case = there.remove(id).unwrap_or_else(|| panic!("no case {id}"));
        for family in Family::BOTH {
            let found: Vec<String> = case.steps().unwrap().iter().map(|step| told(step, family)).collect();
            assert_eq!(found.join("; "), denied, "{id}, {family}");
        }
    }
    assert!(there.is_empty(), "not listed: {:?}", there.keys());
}

/// How many packets between different pods are denied, by port, as the list tells it.
fn told(step: &CaseStep, family: Family) -> String {
    let mut denied: BTreeMap<String, usize> = BTreeMap::new();
    for probe in &step.probes {
        let Traffic::Port(protocol, port) = probe.packet.traffic else { panic!("{} has no port", probe.name) };
        let count = denied.entry(format!("{port}/{}", protocol.as_str())).or_default();
        let is_asked = Family::of(probe.packet.source) == family && probe.packet.source != probe.packet.destination;
        *count += usize::from(is_asked && !probe.arrives);
    }
    let told: Vec<String> = denied.into_iter().map(|(port, count)| format!("{port} {count}")).collect();
    told.join(", ")
}

#[test]
fn packets_fare_as_the_cases_say() {
    let (cases, next) = (cases().unwrap(), AtomicUsize::new(0));
    let look = || {
        let (mut wrong, mut probes) = (Vec::new(), 0);
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            probes += case.steps().unwrap().iter().map(|step| step.probes.len()).sum::<usize>();
            let oracle = run_case(&mut Oracle::default(), case).err().map(|stop| format!("the oracle: {stop:?}"));
            let tables = run_case(&mut Cluster::new(None), case).err().map(|stop| format!("the tables: {stop:?}"));
            wrong.extend([oracle, tables].into_iter().flatten().map(|why| format!("{}: {why}", case.id)));
        }
        (wrong, probes)
    };
    let found: Vec<(Vec<String>, usize)> = std::thread::scope(|scope| {
        let workers = [(); 2].map(|()| scope.spawn(look));
        workers.map(|worker| worker.join().unwrap()).into()
    });
    let probes: usize = found.iter().map(|(_, probes)| probes).sum();
    let wrong: Vec<String> = found.into_iter().flat_map(|(wrong, _)| wrong).collect();
    println!("{} cases, {probes} probes", cases.len());
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}
