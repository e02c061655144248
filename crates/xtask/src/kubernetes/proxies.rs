//! Kubernetes' own kube-proxy, judged by the suite of Services: each of its modes is a stage.
//!
//! Where it differs, the case says why; a difference that no case explains fails the stage, and so does an explanation that is no
//! longer true.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{Folders, Stage, text};
use crate::checks::Tally;
use crate::process;
use crate::workspace::Workspace;

const MODES: [&str; 2] = ["kube-proxy-nftables", "kube-proxy-iptables"];
/// The most that a mode may take: it takes three minutes where nothing else runs.
const LIMIT: Duration = Duration::from_secs(15 * 60);

/// Runs both modes with the binary in target/debug.
///
/// # Errors
/// If it cannot be started.
pub fn run(workspace: &Workspace, folders: &Folders) -> Result<Vec<Stage>> {
    MODES.into_iter().map(|mode| one(workspace, folders, mode)).collect()
}

fn one(workspace: &Workspace, folders: &Folders, mode: &str) -> Result<Stage> {
    let begun = Instant::now();
    let name = format!("services, {mode}");
    if let Some(missing) =
        ["kube-apiserver", "kube-proxy", "kubectl"].iter().find(|name| !folders.program(name).is_file())
    {
        println!("SKIPPED {name}: {missing} is not built");
        return Ok(Stage::told(name, Tally { skipped: 1, ..Tally::default() }, begun.elapsed()));
    }
    let mut command = Command::new(workspace.target.join("debug/ripstop"));
    command.args(["conformance", "services", "--data-plane", mode, "--kubernetes", &text(&folders.kubernetes)]);
    let log = workspace.target.join(format!("xtask/services-{mode}.log"));
    let ran = process::run(&mut command, &log, LIMIT).context("ripstop conformance services")?;
    let mut tally = count(&ran.output);
    for line in ran.output.lines().filter(|line| line.starts_with("fail ")) {
        println!("{line}");
    }
    if !ran.good() && tally.failed == 0 {
        println!("{name}: {}: {}", ran.end(), ran.tail(5).join("\n"));
        tally.failed = 1;
    }
    Ok(Stage::told(name, tally, begun.elapsed()))
}

/// What the report says of its cases. A difference that is explained is what was expected.
fn count(report: &str) -> Tally {
    let rows = report.lines().skip_while(|line| !line.starts_with("RESULT"));
    let mut tally = Tally::default();
    for line in rows {
        match line.split_whitespace().next() {
            Some("pass" | "differs") => tally.passed += 1,
            Some("fail") => tally.failed += 1,
            Some("skip") => tally.skipped += 1,
            _ => {}
        }
    }
    tally
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_counted_and_lines_before_them_are_not() {
        let report = "fail a/b: why\nRESULT   ID\npass     a/a   3\ndiffers  a/c   2   why\nfail     a/b   1   why\n4 cases: …\n";
        let tally = count(report);
        assert_eq!((tally.passed, tally.failed, tally.skipped), (2, 1, 0));
    }
}
