//! Kubernetes' own tests that a conforming network has to pass, and the page that says which did.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Folders, text};
use crate::checks::Tally;
use crate::process;
use crate::workspace::Workspace;

const LAB: &str = "conformance";
const NODES: &str = "3";
/// They wait most of the time.
const PROCESSES: &str = "6";
const FOCUS: [&str; 2] = ["[sig-network]", "[Conformance]"];
/// The version of the tests, for the page.
const VERSION: &str = "1.36.2";
const PAGE: &str = "docs/conformance.md";
const UP_LIMIT: Duration = Duration::from_secs(5 * 60);
const RUN_LIMIT: Duration = Duration::from_secs(60 * 60);

/// Verdicts by test: `pass`, `fail`, or why it was skipped.
type Results = BTreeMap<String, String>;

/// Runs them with each of these between the pods, and writes the page where both were asked for.
pub fn run(workspace: &Workspace, folders: &Folders, cnis: &[String]) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut columns = Vec::new();
    for cni in cnis {
        let results = one(workspace, folders, cni)?;
        for (test, verdict) in &results {
            match verdict.as_str() {
                "pass" => tally.passed += 1,
                "fail" => {
                    tally.failed += 1;
                    println!("    FAILED {cni}: {test}");
                }
                why => {
                    tally.skipped += 1;
                    println!("    SKIPPED {cni}: {test}: {why}");
                }
            }
        }
        columns.push((cni.as_str(), results));
    }
    if columns.len() > 1 {
        let path = workspace.root.join(PAGE);
        std::fs::write(&path, page(&columns)).with_context(|| text(&path))?;
    }
    Ok(tally)
}

fn one(workspace: &Workspace, folders: &Folders, cni: &str) -> Result<Results> {
    let ripstop = workspace.target.join("debug/ripstop");
    let lab = || {
        let mut command = Command::new(&ripstop);
        command.args(["lab", "--name", LAB]);
        command
    };
    let log = |what: &str| workspace.log(&format!("conformance-{cni}-{what}"));
    let up =
        process::run(lab().args(["k8s", "up", "--replace", "--nodes", NODES, "--cni", cni]), &log("up"), UP_LIMIT)?;
    ensure!(up.good(), "a cluster with --cni {cni}: {}", up.tail(20).join("\n"));
    let reports = workspace.target.join("xtask").join(format!("conformance-{cni}"));
    std::fs::create_dir_all(&reports).with_context(|| text(&reports))?;
    let report = reports.join("report.json");
    let _ = std::fs::remove_file(&report);
    let config =
        up.output.lines().find_map(|line| line.strip_prefix("KUBECONFIG=")).context("no KUBECONFIG")?.to_owned();
    let mut tests = lab();
    tests.args(["exec", "control", "--"]).args(arguments(workspace, folders, &reports, &config));
    let ran = process::run(&mut tests, &log("run"), RUN_LIMIT);
    let down = process::run(lab().args(["k8s", "down"]), &log("down"), UP_LIMIT)?;
    let ran = ran?;
    ensure!(down.good(), "the cluster with --cni {cni} was not taken down: {}", down.tail(5).join("\n"));
    ensure!(report.is_file(), "{} {}: no report: {}", cni, ran.end(), ran.tail(20).join("\n"));
    let results = read(&std::fs::read_to_string(&report)?)?;
    let passed = results.values().filter(|verdict| *verdict == "pass").count();
    println!("test conformance --cni {cni}: {passed} of {} pass {:.0} s", results.len(), ran.took.as_secs_f64());
    ensure!(!results.is_empty(), "no test was run");
    Ok(results)
}

/// The command that runs the tests on the control plane's machine.
fn arguments(workspace: &Workspace, folders: &Folders, reports: &Path, config: &str) -> Vec<String> {
    let images = workspace.root.join("tools/programs/kubernetes/images.yaml");
    let focus = FOCUS.map(|word| word.replace('[', r"\[").replace(']', r"\]")).join(".*");
    let words = [
        "env".to_owned(),
        format!("KUBE_TEST_REPO_LIST={}", text(&images)),
        text(&folders.program("ginkgo")),
        format!("--procs={PROCESSES}"),
        "--timeout=55m".into(),
        "--keep-going".into(),
        "--no-color".into(),
        format!("--output-dir={}", text(reports)),
        "--json-report=report.json".into(),
        format!("--focus={focus}"),
        text(&folders.program("e2e.test")),
        "--".into(),
        format!("--kubeconfig={config}"),
        format!("--kubectl-path={}", text(&folders.program("kubectl"))),
        "--provider=skeleton".into(),
        format!("--num-nodes={NODES}"),
        "--dns-domain=cluster.local".into(),
        "--disable-log-dump".into(),
    ];
    words.into()
}

/// The verdicts in ginkgo's report. A test that the focus left out is none.
fn read(report: &str) -> Result<Results> {
    let suites: Value = serde_json::from_str(report).context("the report is not JSON")?;
    let mut results = Results::new();
    let specs = suites.as_array().into_iter().flatten().filter_map(|suite| suite["SpecReports"].as_array()).flatten();
    for spec in specs.filter(|spec| spec["LeafNodeType"] == "It") {
        let parts = spec["ContainerHierarchyTexts"].as_array().into_iter().flatten().chain([&spec["LeafNodeText"]]);
        let name = parts.filter_map(Value::as_str).collect::<Vec<_>>().join(" ");
        if !FOCUS.iter().all(|word| name.contains(word)) {
            continue;
        }
        let verdict = match spec["State"].as_str().unwrap_or_default() {
            "passed" => "pass".to_owned(),
            "skipped" | "pending" => {
                format!("skipped: {}", spec["Failure"]["Message"].as_str().unwrap_or("no reason given"))
            }
            _ => "fail".to_owned(),
        };
        results.insert(name, verdict);
    }
    Ok(results)
}

fn page(columns: &[(&str, Results)]) -> String {
    let mut text = format!(
        "# Kubernetes' conformance tests of networks\n\n\
         Written by `make test-k8s`. The tests are those of Kubernetes {VERSION} whose names hold `[sig-network]` and\n\
         `[Conformance]`, on a cluster of {NODES} nodes in namespaces (`ripstop lab k8s up`) with kube-proxy (nftables), CoreDNS and\n\
         containerd. `ripstop`: the product between the pods, VXLAN, routed. `reference`: the CNI project's plugins bridge,\n\
         host-local and portmap with static routes.\n\n"
    );
    // Writing to a String cannot fail.
    for (cni, results) in columns {
        let passed = results.values().filter(|verdict| *verdict == "pass").count();
        let _ = writeln!(text, "- `{cni}`: {passed} of {} pass.", results.len());
    }
    let heads: Vec<&str> = columns.iter().map(|(cni, _)| *cni).collect();
    let _ = writeln!(text, "\n| test | {} |\n|---|{}", heads.join(" | "), "---|".repeat(heads.len()));
    let names: BTreeSet<&String> = columns.iter().flat_map(|(_, results)| results.keys()).collect();
    for name in names {
        let verdicts: Vec<&str> =
            columns.iter().map(|(_, results)| results.get(name).map_or("not run", String::as_str)).collect();
        let short = name.replace("[sig-network] ", "").replace(" [Conformance]", "");
        let _ = writeln!(text, "| {} | {} |", short.replace('|', "\\|"), verdicts.join(" | "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_becomes_a_page() {
        let report = r#"[{"SpecReports": [
            {"LeafNodeType": "SynchronizedBeforeSuite", "LeafNodeText": "", "State": "passed"},
            {"LeafNodeType": "It", "ContainerHierarchyTexts": ["[sig-network] DNS"], "LeafNodeText": "a [Conformance]", "State": "passed"},
            {"LeafNodeType": "It", "ContainerHierarchyTexts": ["[sig-network] DNS"], "LeafNodeText": "b [Conformance]", "State": "timedout"},
            {"LeafNodeType": "It", "ContainerHierarchyTexts": ["[sig-network] DNS"], "LeafNodeText": "c", "State": "skipped"},
            {"LeafNodeType": "It", "ContainerHierarchyTexts": ["[sig-network]"], "LeafNodeText": "d [Conformance]", "State": "skipped",
             "Failure": {"Message": "no zones"}}]}]"#;
        let results = read(report).unwrap();
        let verdicts: Vec<&str> = results.values().map(String::as_str).collect();
        assert_eq!(verdicts, ["pass", "fail", "skipped: no zones"]);
        let page = page(&[("ripstop", results), ("reference", Results::new())]);
        assert!(page.contains("- `ripstop`: 1 of 3 pass.\n"), "{page}");
        assert!(page.contains("| DNS b | fail | not run |\n"), "{page}");
    }
}
