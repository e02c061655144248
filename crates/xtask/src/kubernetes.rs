//! Tests on a real Kubernetes in namespaces: the project's own, and Kubernetes' end-to-end tests of networks, with the
//! product and with the CNI project's plugins between the pods.

mod conformance;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::checks::Tally;
use crate::testrun;
use crate::workspace::Workspace;

/// The tests' names begin so, in every crate that has some.
const TESTS: &str = "kubernetes::";
/// The one that shows the most.
const SMOKE: &str = "kubernetes::pods_of_our_network_reach_each_other_and_services";

/// What to run.
#[derive(Debug, PartialEq, Eq)]
struct Choice {
    smoke: bool,
    /// Kubernetes' tests alone, with what is in target/debug.
    conformance: bool,
    cni: Vec<String>,
}

/// `cargo xtask test-k8s [--smoke|--conformance] [--cni ripstop,reference]`; true where nothing failed.
///
/// # Errors
/// If an argument is unknown, or a program cannot be built or started.
pub fn command(workspace: &Workspace, args: &[String]) -> Result<bool> {
    let choice = parse(args)?;
    let folders = Folders::find(workspace)?;
    if choice.smoke {
        if let Some(missing) = folders.missing() {
            println!("cluster smoke test SKIPPED: {} is not built; make k8s builds it", missing.display());
            return Ok(true);
        }
        return Ok(summary(&testrun::filtered(workspace, SMOKE)?));
    }
    let built = Command::new(workspace.root.join("scripts/programs")).status().context("scripts/programs")?;
    ensure!(built.success(), "scripts/programs: {built}");
    let mut tally = Tally::default();
    if !choice.conformance {
        tally = testrun::filtered(workspace, TESTS)?;
    }
    if tally.failed == 0 {
        let more = conformance::run(workspace, &folders, &choice.cni)?;
        tally.passed += more.passed;
        tally.failed += more.failed;
        tally.skipped += more.skipped;
    }
    Ok(summary(&tally))
}

fn summary(tally: &Tally) -> bool {
    println!("{} passed, {} failed, {} skipped", tally.passed, tally.failed, tally.skipped);
    tally.failed == 0
}

fn parse(args: &[String]) -> Result<Choice> {
    let mut choice =
        Choice { smoke: false, conformance: false, cni: ["ripstop", "reference"].map(str::to_owned).into() };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--smoke" => choice.smoke = true,
            "--conformance" => choice.conformance = true,
            "--cni" => {
                let list = args.next().context("--cni: which?")?;
                choice.cni = list.split(',').map(str::to_owned).collect();
            }
            other => bail!("{other}: unknown argument, known are --smoke, --conformance and --cni A,B"),
        }
    }
    Ok(choice)
}

/// Where programs of others are.
struct Folders {
    kubernetes: PathBuf,
    coredns: PathBuf,
}

impl Folders {
    fn find(workspace: &Workspace) -> Result<Self> {
        let folder = |set: &str| -> Result<PathBuf> {
            let output = Command::new(workspace.root.join("scripts/programs"))
                .args(["--where", set])
                .output()
                .context("scripts/programs")?;
            ensure!(output.status.success(), "scripts/programs: {}", String::from_utf8_lossy(&output.stderr).trim());
            Ok(String::from_utf8_lossy(&output.stdout).trim().into())
        };
        Ok(Self { kubernetes: folder("kubernetes")?, coredns: folder("coredns")? })
    }

    /// A program that a cluster needs and that is not there.
    fn missing(&self) -> Option<PathBuf> {
        let names = ["agnhost", "kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl"];
        let own = names.iter().chain(&["kubelet"]).map(|name| self.kubernetes.join(name));
        own.chain([self.coredns.join("coredns")]).find(|path| !path.is_file())
    }

    fn program(&self, name: &str) -> PathBuf {
        self.kubernetes.join(name)
    }
}

/// A path as text for a command line.
fn text(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read() {
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(parse(&words("--cni reference")).unwrap().cni, ["reference"]);
        assert!(parse(&words("--smoke")).unwrap().smoke);
        assert!(parse(&words("--all")).is_err() && parse(&words("--cni")).is_err());
    }
}
