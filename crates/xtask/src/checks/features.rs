//! Tests and programs are one build: a crate that tests take with other features than programs would be compiled once
//! for each, and everything above it as well.

use anyhow::Result;

use super::Outcome;
use crate::workspace::Workspace;

/// Judges what cargo would build for the programs and for the tests.
///
/// # Errors
/// If cargo does not give the graph.
pub fn check(workspace: &Workspace) -> Result<Outcome> {
    let programs = workspace.features("normal,build")?;
    let tests = workspace.features("normal,build,dev")?;
    Ok(Outcome::of(faults(&programs, &tests)))
}

/// Lines `NAME VERSION [FEATURES]` of the programs that the tests do not have.
fn faults(programs: &[String], tests: &[String]) -> Vec<String> {
    let package = |line: &str| line.split(" [").next().unwrap_or_default().to_owned();
    let differs = programs.iter().filter(|line| !tests.contains(line));
    let other = |line: &str| tests.iter().find(|test| package(test) == package(line)).cloned().unwrap_or_default();
    differs.map(|line| format!("{line} is built again for tests, as {}", other(line))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_feature_that_only_tests_ask_for_is_found() {
        let lines = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
        let programs = lines(&["a v1.0.0 [std]", "b v1.0.0 []"]);
        let tests = lines(&["a v1.0.0 [extra,std]", "b v1.0.0 []", "c v1.0.0 []"]);
        assert_eq!(faults(&programs, &tests), ["a v1.0.0 [std] is built again for tests, as a v1.0.0 [extra,std]"]);
        assert!(faults(&programs, &programs).is_empty());
    }
}
