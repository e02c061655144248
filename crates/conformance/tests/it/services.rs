//! The suite for proxies of Services, on the oracle and on data planes with planted faults.

use ripstop_conformance::Outcome;
use ripstop_conformance::services::{Oracle, run};

#[test]
fn the_oracle_agrees_with_every_expectation() {
    let rows = run(&mut Oracle::default(), &[], &|_| ()).unwrap();
    let wrong: Vec<String> = rows
        .iter()
        .filter(|row| row.outcome != Outcome::Pass)
        .map(|row| format!("{} {}: {}", row.outcome, row.id, row.reason.as_deref().unwrap_or_default()))
        .collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}
