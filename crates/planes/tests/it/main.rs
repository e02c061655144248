//! The product's own data planes, judged by the suites for Services and policies: in the simulator, and in the kernel with real packets; and
//! faults planted into them, which packets must see. Packets need root.
// Helpers of tests are tests as well.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod cases;
mod planted;
mod policed;
#[path = "../../../desired/tests/policies/mod.rs"]
mod policies;
mod proxied;
mod simulated;

use std::collections::BTreeMap;

use ripstop_conformance::Outcome;
use ripstop_conformance::services::scene::Scene;
use ripstop_conformance::services::{DataPlane, Stop, cases, run};
use ripstop_planes::Compiler;

/// Whether this kernel has IPVS; says why not.
fn has_ipvs() -> bool {
    let found = ripstop_kernel::has_ipvs();
    if !found {
        println!("SKIPPED: this kernel has no IPVS, or its module ip_vs is not loaded");
    }
    found
}

fn is_long() -> bool {
    std::env::var("RIPSTOP_TEST_TIER").is_ok_and(|tier| tier == "long")
}

/// What was made, or why not.
fn made<T>(outcome: Result<T, Stop>) -> Option<T> {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: network namespaces need root");
        return None;
    }
    outcome.map_err(|stop| println!("SKIPPED: {stop:?}")).ok()
}

/// A scene in whose node the product serves by a compiler; says why there is none.
fn scene(compiler: Compiler) -> Option<Scene<'static>> {
    made(ripstop_planes::scene(compiler))
}

fn judged(plane: &mut dyn DataPlane) {
    let rows = run(plane, &[], &|_| ()).unwrap();
    let count = |outcome| rows.iter().filter(|row| row.outcome == outcome).count();
    let failed: Vec<String> = rows
        .iter()
        .filter(|row| row.outcome == Outcome::Fail)
        .map(|row| format!("{}: {}", row.id, row.reason.as_deref().unwrap_or_default()))
        .collect();
    println!("{} passed, {} failed, {} skipped", count(Outcome::Pass), failed.len(), count(Outcome::Skip));
    let mut why: BTreeMap<&str, usize> = BTreeMap::new();
    rows.iter()
        .filter(|row| row.outcome == Outcome::Skip)
        .for_each(|row| *why.entry(row.reason.as_deref().unwrap()).or_default() += 1);
    for (reason, count) in why {
        println!("SKIPPED {count}: {reason}");
    }
    assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), rows.len(), failed.join("\n"));
    assert!(count(Outcome::Pass) > cases().unwrap().len() / 2);
}
