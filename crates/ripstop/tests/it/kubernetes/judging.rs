//! The suite of policies on clusters that a kubeconfig names: one of ours, and one whose network holds no packet to any policy.

use ripstop_lab::{Cni, Families, Lab, Options, Target};
use serde_json::Value;

use super::{cluster, kubectl, takes_down, turn};

/// Of each group some: pods that come and go and get other labels, names of ports, blocks of addresses.
const PASS: [&str; 11] = [
    "netpol/tcp/should support a 'default-deny-all' policy",
    "netpol/tcp/should allow egress access on one named port",
    "netpol/tcp/should allow ingress access from updated namespace",
    "netpol/tcp/should deny ingress access to updated pod",
    "netpol/tcp/should stop enforcing policies after they are deleted",
    "netpol/tcp/should enforce except clause while egress access to server in CIDR block",
    "netpol/udp/should enforce policy based on Ports",
    "cyclonus/peers/22: ipblock with except",
    "cyclonus/action/196: Create/delete namespace",
    "cyclonus/action/198: Create/delete pod",
    "advisory/GHSA-hxv8-4j4r-cqgv",
];
/// What the suite cannot show there.
const SKIP: [&str; 2] = ["netpol/sctp/should support a 'default-deny-ingress' policy", "cnp/CNPAdminTierPriorityField"];
/// What no network without policies does.
pub const DENIES: &str = "netpol/tcp/should support a 'default-deny-ingress' policy";

/// So many of all cases pass there at least.
const LEAST: usize = 278;

/// The command for this cluster; begun by other words.
fn conformance(lab: &Lab, first: &[&str], cases: &[&str]) -> std::process::Output {
    let config = lab.kubeconfig().display().to_string();
    let ripstop = [env!("CARGO_BIN_EXE_ripstop"), "conformance", "policy", "-o", "json", "--kubeconfig", &config];
    let only = cases.iter().flat_map(|case| ["--only", case]);
    let argv: Vec<&str> = first.iter().copied().chain(ripstop).chain(only).collect();
    lab.output(&Target::Control, &argv).unwrap()
}

/// How it ended, and of each case the result and the reason.
pub fn judged(lab: &Lab, cases: &[&str]) -> (Option<i32>, Vec<(String, String, String)>) {
    let output = conformance(lab, &[], cases);
    let talk = String::from_utf8_lossy(&output.stderr);
    let rows: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {talk}"));
    for row in &rows {
        println!("{} {}: {} ms", row["result"], row["id"], row["ms"]);
    }
    let text = |row: &Value, field: &str| row[field].as_str().unwrap_or_default().to_owned();
    let row = |row: &Value| (text(row, "id"), text(row, "result"), text(row, "reason"));
    (output.status.code(), rows.iter().map(row).collect())
}

/// Nothing that the suite makes is there.
pub fn nothing_is_left(lab: &Lab) {
    let left = kubectl(lab, &["get", "namespaces", "-l", "ripstop.io/conformance", "-o", "name"]).unwrap();
    assert_eq!(left, "");
}

#[test]
#[ignore = "long: a real Kubernetes, make test-k8s"]
fn policies_of_a_cluster_are_judged_by_its_kubeconfig() {
    let _turn = turn();
    let options = Options { nodes: 3, families: Families::Dual, ..Options::named("t-k8s-judged") };
    let Some(lab) = cluster(options, Cni::Ripstop) else { return };
    if std::env::var("RIPSTOP_TEST_TIER").is_ok_and(|tier| tier == "long") {
        every_case_is_as_it_should_be(&lab);
    }
    let (code, rows) = judged(&lab, &[&PASS[..], &SKIP].concat());
    let wanted = |id: &str| if SKIP.contains(&id) { "skip" } else { "pass" };
    let wrong: Vec<_> = rows.iter().filter(|(id, result, _)| result != wanted(id)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!((code, rows.len()), (Some(0), PASS.len() + SKIP.len()));
    nothing_is_left(&lab);
    an_interrupted_run_leaves_nothing(&lab);
    takes_down(lab);
}

/// What is skipped is what no cluster shows: ClusterNetworkPolicies are about all namespaces, a kernel may have no sockets of SCTP, and some
/// packets only a lab can send.
fn every_case_is_as_it_should_be(lab: &Lab) {
    let (code, rows) = judged(lab, &[]);
    let failed: Vec<_> = rows.iter().filter(|(_, result, _)| result == "fail").collect();
    assert!(failed.is_empty(), "{failed:#?}");
    let passed = rows.iter().filter(|(_, result, _)| result == "pass").count();
    println!("{passed} of {} cases passed", rows.len());
    assert!(code == Some(0) && passed >= LEAST, "{passed} of {}", rows.len());
    nothing_is_left(lab);
}

fn an_interrupted_run_leaves_nothing(lab: &Lab) {
    let after = ["timeout", "--preserve-status", "--signal=INT", "10"];
    let output = conformance(lab, &after, &["cyclonus"]);
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    nothing_is_left(lab);
}
