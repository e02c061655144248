//! Tests on a real Kubernetes in namespaces: the project's own, and Kubernetes' end-to-end tests of networks, with the
//! product and with the CNI project's plugins between the pods.

mod conformance;
mod proxies;
mod report;
mod selection;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use self::conformance::CNIS;
use self::selection::{SETS, Set};
use crate::checks::Tally;
use crate::testrun;
use crate::workspace::Workspace;

/// The tests' names begin so, in every crate that has some.
const TESTS: &str = "kubernetes::";
/// The one that shows the most.
const SMOKE: &str = "kubernetes::pods_of_our_network_reach_each_other_and_services";
/// What the tests need of others.
const PROGRAMS: [&str; 3] = ["kubernetes", "coredns", "flannel"];

/// What to run.
#[derive(Debug, PartialEq, Eq)]
struct Choice {
    smoke: bool,
    /// Kubernetes' tests alone, with what is in target/debug.
    conformance: bool,
    cnis: Vec<&'static str>,
    sets: Vec<&'static Set>,
}

/// A part of the run: how its tests ended, and how long it took.
struct Stage {
    name: String,
    tally: Tally,
    took: Duration,
}

impl Stage {
    fn new(name: String, tally: Tally, took: Duration) -> Self {
        Self { name, tally, took }
    }

    /// The same, printed.
    fn told(name: String, tally: Tally, took: Duration) -> Self {
        let stage = Self::new(name, tally, took);
        println!("test {}", stage.line());
        stage
    }

    fn line(&self) -> String {
        let (Tally { passed, failed, skipped }, seconds) = (self.tally, self.took.as_secs_f64());
        format!("{}: {passed} passed, {failed} failed, {skipped} skipped, {seconds:.0} s", self.name)
    }
}

/// `cargo xtask test-k8s [--smoke|--conformance] [--cni A,B] [--set A,B]`; true where nothing failed.
///
/// # Errors
/// If an argument is unknown, or a program cannot be built or started.
pub fn command(workspace: &Workspace, args: &[String]) -> Result<bool> {
    let (choice, begun) = (parse(args)?, Instant::now());
    let folders = Folders::find(workspace)?;
    if choice.smoke {
        if let Some(missing) = folders.missing() {
            println!("cluster smoke test SKIPPED: {} is not built; make k8s builds it", missing.display());
            return Ok(true);
        }
        let stage = Stage::new("smoke".into(), testrun::filtered(workspace, SMOKE)?, begun.elapsed());
        return Ok(summary(&[stage], begun.elapsed()));
    }
    let built = Command::new(workspace.root.join("scripts/programs")).args(PROGRAMS).status();
    let built = built.context("scripts/programs")?;
    ensure!(built.success(), "scripts/programs: {built}");
    let mut stages = Vec::new();
    if !choice.conformance {
        let begun = Instant::now();
        stages.push(Stage::new("own tests".into(), testrun::filtered(workspace, TESTS)?, begun.elapsed()));
        stages.extend(proxies::run(workspace, &folders)?);
    }
    stages.extend(conformance::run(workspace, &folders, &choice.cnis, &choice.sets)?);
    Ok(summary(&stages, begun.elapsed()))
}

/// All stages again, and their sum, with the time that the run took: clusters come up and go between stages.
fn summary(stages: &[Stage], took: Duration) -> bool {
    let mut all = Stage::new("test-k8s".into(), Tally::default(), took);
    println!();
    for stage in stages {
        println!("{}", stage.line());
        all.tally.passed += stage.tally.passed;
        all.tally.failed += stage.tally.failed;
        all.tally.skipped += stage.tally.skipped;
    }
    println!("{}", all.line());
    println!("{} passed, {} failed, {} skipped", all.tally.passed, all.tally.failed, all.tally.skipped);
    all.tally.failed == 0
}

fn parse(args: &[String]) -> Result<Choice> {
    let mut choice = Choice { smoke: false, conformance: false, cnis: CNIS.into(), sets: SETS.iter().collect() };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--smoke" => choice.smoke = true,
            "--conformance" => choice.conformance = true,
            "--cni" => choice.cnis = chosen("--cni", args.next(), &CNIS, |cni| cni)?.into_iter().copied().collect(),
            "--set" => choice.sets = chosen("--set", args.next(), &SETS, |set| set.name)?,
            other => {
                bail!("{other}: unknown argument, known are --smoke, --conformance, --cni A,B and --set A,B")
            }
        }
    }
    Ok(choice)
}

/// Those of `all` that a list names, in the order of `all`.
fn chosen<T>(
    option: &str,
    list: Option<&String>,
    all: &'static [T],
    name: impl Fn(&'static T) -> &'static str,
) -> Result<Vec<&'static T>> {
    let known = || all.iter().map(&name).collect::<Vec<_>>().join(", ");
    let list: Vec<&str> = list.with_context(|| format!("{option}: which of {}?", known()))?.split(',').collect();
    if let Some(other) = list.iter().find(|word| !all.iter().any(|one| name(one) == **word)) {
        bail!("{option} {other}: known are {}", known());
    }
    Ok(all.iter().filter(|one| list.contains(&name(one))).collect())
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
        let names = ["kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet"];
        let images = ["agnhost", "regression-issue-74839"];
        let own = names.iter().chain(&images).map(|name| self.kubernetes.join(name));
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
        let names = |line: &str| parse(&words(line)).unwrap().sets.iter().map(|set| set.name).collect::<Vec<_>>();
        assert_eq!(parse(&words("--cni reference")).unwrap().cnis, ["reference"]);
        let all = ["conformance", "network", "policies", "load-balancers", "zones", "dual-stack"];
        assert_eq!(names("--conformance"), all);
        assert_eq!(names("--set dual-stack,conformance"), ["conformance", "dual-stack"]);
        assert!(parse(&words("--smoke")).unwrap().smoke);
        for line in ["--all", "--cni", "--cni flannel", "--set", "--set all"] {
            assert!(parse(&words(line)).is_err(), "{line}");
        }
    }
}
