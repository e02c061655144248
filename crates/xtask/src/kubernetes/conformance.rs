//! Kubernetes' own tests of networks, run on clusters with the product and with the CNI project's plugins between the pods.
//!
//! A report stays in `target/xtask/conformance`, by what connects the pods and set; the page is made of those that lie
//! there, and of what it says itself where there is none: a run of one set renews its columns.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::report::{Columns, Report, Verdict, page};
use super::selection::{SETS, Set};
use super::{Folders, Stage, text};
use crate::checks::Tally;
use crate::process;
use crate::workspace::Workspace;

/// What connects the pods, in the order of the page's columns; behind `+` what serves Services in the place of kube-proxy.
pub const CNIS: [&str; 4] = ["ripstop", "ripstop+nftables", "ripstop+iptables", REFERENCE];
/// What the product is compared with.
const REFERENCE: &str = "reference";

const LAB: &str = "conformance";
/// They wait most of the time.
const PROCESSES: &str = "6";
const PAGE: &str = "docs/conformance.md";
const INTRODUCTION: &str = "\
# Kubernetes' tests of networks

Written by `make test-k8s`. The tests are those of Kubernetes 1.36.2 whose names hold `[sig-network]`, on clusters in
namespaces (`ripstop lab k8s up`) with kube-proxy (nftables), CoreDNS and containerd: of three nodes, for the tests of zones
of six, for those of dual stack with both families. `ripstop`: the product between the pods, VXLAN, routed, installed by its
manifest (`ripstop install --cluster`). `ripstop+nftables`: the same without kube-proxy, Services served by the product
(`--proxy nftables`); `ripstop+iptables`: the same by iptables. `reference`: the CNI project's plugins bridge, host-local and
portmap with static routes; it holds nobody to policies. Addresses of load balancers are of a pool, which agents give; the
tests' client is a machine outside of the nodes' segment. A column is renewed when its tests run.

";
const UP_LIMIT: Duration = Duration::from_secs(5 * 60);
const RUN_LIMIT: Duration = Duration::from_secs(60 * 60);

/// Runs these sets with each of these between the pods, and writes the page.
///
/// # Errors
/// If a program cannot be started, or the page not written. A cluster that does not come up is a failure among others.
pub fn run(workspace: &Workspace, folders: &Folders, cnis: &[&str], sets: &[&'static Set]) -> Result<Vec<Stage>> {
    let mut stages = Vec::new();
    for cni in cnis {
        let sets: Vec<&'static Set> = sets.iter().copied().filter(|set| set.is_for(cni)).collect();
        for group in sets.chunk_by(|a, b| a.kind() == b.kind()) {
            let (family, nodes) = group[0].kind();
            let runner = Runner { workspace, folders, cni, family, nodes };
            stages.extend(runner.cluster(group)?);
        }
    }
    write(workspace)?;
    Ok(stages)
}

/// The page; a set that never ran with one of them has an empty column.
fn write(workspace: &Workspace) -> Result<()> {
    let file = workspace.root.join(PAGE);
    let before = std::fs::read_to_string(&file).unwrap_or_default();
    let mut columns = Vec::new();
    for set in &SETS {
        let mut reports = Vec::new();
        for cni in CNIS.into_iter().filter(|cni| set.is_for(cni)) {
            let path = path(workspace, cni, set);
            let report =
                if path.is_file() { Some(Report::open(&path, set)?) } else { Report::of_page(&before, set, cni) };
            reports.push((cni, report.unwrap_or_default()));
        }
        columns.push(Columns { set, reports });
    }
    std::fs::write(&file, page(INTRODUCTION, &columns)).with_context(|| text(&file))
}

fn folder(workspace: &Workspace) -> PathBuf {
    workspace.target.join("xtask/conformance")
}

fn name(cni: &str, set: &Set) -> String {
    format!("{cni}-{}.json", set.name)
}

fn path(workspace: &Workspace, cni: &str, set: &Set) -> PathBuf {
    folder(workspace).join(name(cni, set))
}

/// One cluster.
struct Runner<'a> {
    workspace: &'a Workspace,
    folders: &'a Folders,
    cni: &'a str,
    family: &'a str,
    nodes: &'a str,
}

impl Runner<'_> {
    /// Runs these sets on a cluster of their own, one after another.
    fn cluster(&self, sets: &[&'static Set]) -> Result<Vec<Stage>> {
        let kind = format!("cluster --cni {} --family {} --nodes {}", self.cni, self.family, self.nodes);
        let of = format!("{}-{}", self.family, self.nodes);
        let (cni, proxy) = self.cni.split_once('+').unwrap_or((self.cni, "kube-proxy"));
        let words = ["k8s", "up", "--replace", "--nodes", self.nodes, "--cni", cni, "--proxy", proxy];
        let words = words.into_iter().chain(["--family", self.family]);
        let up = process::run(self.lab().args(words), &self.log("up", &of), UP_LIMIT)?;
        let config = up.output.lines().find_map(|line| line.strip_prefix("KUBECONFIG="));
        let Some(config) = config.filter(|_| up.good()) else {
            println!("    FAILED {kind}: {}: {}", up.end(), up.tail(20).join("\n"));
            return Ok(vec![Stage::new(kind, Tally { failed: 1, ..Tally::default() }, up.took)]);
        };
        let config = config.to_owned();
        println!("test {kind} is up: {:.0} s", up.took.as_secs_f64());
        let stages: Result<Vec<Stage>> = sets.iter().map(|set| self.set(set, &config)).collect();
        let down = process::run(self.lab().args(["k8s", "down"]), &self.log("down", &of), UP_LIMIT)?;
        ensure!(down.good(), "{kind} was not taken down: {}", down.tail(5).join("\n"));
        stages
    }

    fn set(&self, set: &Set, config: &str) -> Result<Stage> {
        let (kind, folder) = (format!("conformance --cni {} --set {}", self.cni, set.name), folder(self.workspace));
        std::fs::create_dir_all(&folder).with_context(|| text(&folder))?;
        let report = path(self.workspace, self.cni, set);
        let _ = std::fs::remove_file(&report);
        if let Some(objects) = set.objects {
            self.apply(set, objects, config)?;
        }
        let mut tests = self.lab();
        tests.args(["exec", set.client(), "--"]).args(self.arguments(set, &folder, config));
        let ran = process::run(&mut tests, &self.log("run", set.name), RUN_LIMIT)?;
        let results = if report.is_file() { Report::open(&report, set)?.results } else { Default::default() };
        let mut tally = Tally::default();
        for (test, verdict) in &results {
            match verdict {
                Verdict::Passed => tally.passed += 1,
                Verdict::Failed(why) => {
                    tally.failed += 1;
                    println!("    FAILED {}: {test}: {}", self.cni, beginning(why));
                }
                Verdict::Skipped(why) => {
                    tally.skipped += 1;
                    println!("    SKIPPED {}: {test}: {why}", self.cni);
                }
            }
        }
        if results.is_empty() || (tally.failed == 0 && !ran.good()) {
            tally.failed += 1;
            println!("    FAILED {kind}: {}: {}", ran.end(), ran.tail(20).join("\n"));
        }
        Ok(Stage::told(kind, tally, ran.took))
    }

    /// Makes objects that tests need.
    fn apply(&self, set: &Set, objects: &str, config: &str) -> Result<()> {
        let file = self.log("objects", set.name);
        std::fs::write(&file, objects).with_context(|| text(&file))?;
        let mut command = self.lab();
        command.args(["exec", "control", "--", &text(&self.folders.program("kubectl"))]);
        command.args([&format!("--kubeconfig={config}"), "apply", "-f", &text(&file)]);
        let applied = process::run(&mut command, &self.log("apply", set.name), UP_LIMIT)?;
        ensure!(applied.good(), "{} was not applied: {}", text(&file), applied.tail(5).join("\n"));
        Ok(())
    }

    fn lab(&self) -> Command {
        let mut command = Command::new(self.workspace.target.join("debug/ripstop"));
        command.args(["lab", "--name", LAB]);
        command
    }

    fn log(&self, what: &str, of: &str) -> PathBuf {
        self.workspace.log(&format!("conformance-{}-{of}-{what}", self.cni))
    }

    /// The command that runs the tests.
    fn arguments(&self, set: &Set, reports: &Path, config: &str) -> Vec<String> {
        let images = self.workspace.root.join("tools/programs/kubernetes/images.yaml");
        let [focus, skip] = set.arguments();
        let words = [
            "env".to_owned(),
            format!("KUBE_TEST_REPO_LIST={}", text(&images)),
            text(&self.folders.program("ginkgo")),
            format!("--procs={PROCESSES}"),
            "--timeout=55m".into(),
            "--keep-going".into(),
            "--no-color".into(),
            format!("--output-dir={}", text(reports)),
            format!("--json-report={}", name(self.cni, set)),
            focus,
            skip,
            text(&self.folders.program("e2e.test")),
            "--".into(),
            format!("--kubeconfig={config}"),
            format!("--kubectl-path={}", text(&self.folders.program("kubectl"))),
            "--provider=skeleton".into(),
            format!("--num-nodes={}", self.nodes),
            "--dns-domain=cluster.local".into(),
            "--disable-log-dump".into(),
        ];
        words.into()
    }
}

/// Enough of what a test said to know what it is about.
fn beginning(text: &str) -> String {
    text.chars().take(300).collect()
}
