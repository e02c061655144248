//! The programs on another kernel, in an emulated machine: a cluster of two nodes on the kernel of Debian's stable release, booted
//! once; there too the tests of IPVS, which that kernel has (a live switch to it, its repair, faults planted into it), and the rules for
//! Services. On newer kernels the rules alone, and a cluster whose nodes carry packets by IPIP each in its own way.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::checks::{Outcome, Tally};
use crate::process::{self, Ran};
use crate::workspace::Workspace;

/// Longer than the emulated machine takes beside a build; by itself it takes five minutes.
const LIMIT: Duration = Duration::from_secs(25 * 60);

/// What `tools/altkernel/run` ends with where there is no machine to run in.
const NO_MACHINE: i32 = 125;

/// The crates whose test programs have tests of what this kernel may lack: of IPVS their names say so.
pub const PACKAGES: [&str; 3] = ["ripstop-kernel", "ripstop-agent", RULES];

/// The one that judges the rules for Services.
pub const RULES: &str = "ripstop-planes";

/// Where Debian has newer kernels: 6.12, and the newest.
pub const NEWER: [&str; 2] = ["trixie", "trixie-backports"];

/// Boots and judges the programs in target/debug, and these test programs by their tests of what the kernel has.
///
/// # Errors
/// If the script cannot be started.
pub fn stage(workspace: &Workspace, tests: &[&Path], tier: &str) -> Result<Tally> {
    let tools = workspace.root.join("tools/altkernel");
    let mut command = Command::new(tools.join("run"));
    command.env("RIPSTOP_TEST_TIER", tier).args(["-t", "1440", "--"]);
    command.arg(tools.join("smoke")).arg(workspace.target.join("debug")).args(tests);
    let ran = process::run(&mut command, &workspace.log("test-altkernel"), LIMIT).context("tools/altkernel/run")?;
    Ok(report("altkernel", &ran))
}

/// Boots a newer kernel and judges the rules for Services there, with this test program.
///
/// # Errors
/// If the script cannot be started.
pub fn rules(workspace: &Workspace, suite: &str, test: &Path) -> Result<Tally> {
    on(workspace, suite, &format!("altkernel-{suite}"), "rules", &[test.as_os_str()])
}

/// Boots a newer kernel, which takes programs of ours: there they carry one node's packets by IPIP, and the device another's.
///
/// # Errors
/// If the script cannot be started.
pub fn mixed(workspace: &Workspace, suite: &str) -> Result<Tally> {
    let folder = workspace.target.join("debug");
    on(workspace, suite, &format!("altkernel-{suite}-ipip"), "ipip", &[folder.as_os_str(), OsStr::new("mixed")])
}

fn on(workspace: &Workspace, suite: &str, name: &str, script: &str, args: &[&OsStr]) -> Result<Tally> {
    let tools = workspace.root.join("tools/altkernel");
    let mut command = Command::new(tools.join("run"));
    command.args(["-k", suite, "-t", "1440", "--"]).arg(tools.join(script)).args(args);
    let log = workspace.log(&format!("test-{name}"));
    let ran = process::run(&mut command, &log, LIMIT).context("tools/altkernel/run")?;
    Ok(report(name, &ran))
}

fn report(name: &str, ran: &Ran) -> Tally {
    let took = ran.took.as_secs_f64();
    match judge(ran) {
        Outcome::Ok => {
            println!("test {name} OK {took:.1} s");
            Tally { passed: 1, ..Tally::default() }
        }
        Outcome::Skipped(why) => {
            println!("test {name} SKIPPED: {why} {took:.1} s");
            Tally { skipped: 1, ..Tally::default() }
        }
        Outcome::Failed(lines) => {
            println!("test {name} FAILED {took:.1} s: {}", ran.end());
            lines.iter().for_each(|line| println!("    {line}"));
            Tally { failed: 1, ..Tally::default() }
        }
    }
}

/// A kernel that cannot be had is no fault; one that did not survive is.
fn judge(ran: &Ran) -> Outcome {
    let died = ran.output.contains("guest ended without a status");
    match ran.status.and_then(|status| status.code()) {
        Some(0) => Outcome::Ok,
        Some(NO_MACHINE) if !died => Outcome::Skipped(ran.tail(1).concat()),
        _ => Outcome::Failed(ran.tail(40)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(script: &str) -> Outcome {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        judge(&process::run(command.args(["-c", script]), &dir.path().join("log"), LIMIT).unwrap())
    }

    #[test]
    fn a_kernel_that_cannot_be_had_is_told_from_one_that_dies() {
        assert_eq!(judged("exit 0"), Outcome::Ok);
        assert_eq!(judged("echo a; echo no mirror; exit 125"), Outcome::Skipped("no mirror".into()));
        assert!(matches!(judged("echo guest ended without a status; exit 125"), Outcome::Failed(_)));
        assert!(matches!(judged("echo lost packets; exit 1"), Outcome::Failed(_)));
    }
}
