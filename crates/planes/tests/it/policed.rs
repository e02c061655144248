//! The product's rules for policies in the kernels of three nodes, with real packets: what upstream's cases expect, and what the
//! oracle says of clusters, changes and packets that nobody thought of.

use ripstop_conformance::Outcome;
use ripstop_conformance::policy::scene::Scene;
use ripstop_conformance::policy::{DataPlane, Run, Stop, cases, compare, run};
use ripstop_planes::policy_scene;

use crate::{is_long, made};

/// Data planes at once: most of a run is waiting for packets that do not come.
const JOBS: usize = 8;

fn make() -> Result<Box<dyn DataPlane>, Stop> {
    Ok(Box::new(policy_scene()?))
}

/// Whether scenes can be made here; says why not.
fn is_possible() -> bool {
    made(policy_scene()).is_some_and(|_: Scene<'_>| true)
}

#[test]
fn policies_do_in_the_kernel_what_the_cases_say() {
    if !is_possible() {
        return;
    }
    let how = Run { only: &[], jobs: JOBS, every: if is_long() { 1 } else { EVERY } };
    let rows = run(&make, how, &|_| ()).unwrap();
    let wrong: Vec<String> = rows
        .iter()
        .filter(|row| row.outcome != Outcome::Pass)
        .map(|row| format!("{} {}: {}", row.outcome, row.id, row.reason.as_deref().unwrap_or_default()))
        .collect();
    println!("{} of {} cases passed", rows.len() - wrong.len(), rows.len());
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
    assert_eq!(rows.len(), cases().unwrap().len());
}

/// In the normal tier one probe of so many is made.
const EVERY: usize = 5;

/// Packets between which clusters change, in the normal tier and in the long one.
const DRAWN: [usize; 2] = [2_000, 40_000];

#[test]
fn policies_do_in_the_kernel_what_the_oracle_says() {
    if !is_possible() {
        return;
    }
    let outcome = compare(&make, JOBS, 11, DRAWN[usize::from(is_long())]);
    match outcome {
        Ok(sent) => println!("{sent} packets, no difference"),
        Err(divergence) => panic!("{divergence}"),
    }
}
