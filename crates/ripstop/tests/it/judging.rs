//! The suite of Services on our own rules: the command, with real packets.

use serde_json::Value;

use crate::fake::run;

const CASES: [&str; 4] = [
    "cluster-ip/tcp/pod-over-ipv6",
    "hairpin/udp",
    "source-ranges/outside-is-dropped",
    "affinity/tcp/the-second-connection-follows",
];

/// What became of the cases, with the reasons of those that were skipped.
fn judged(more: &[&str]) -> Vec<(String, String)> {
    let only = CASES.iter().flat_map(|case| ["--only", case]);
    let args: Vec<&str> =
        ["conformance", "services", "-o", "json"].into_iter().chain(only).chain(more.iter().copied()).collect();
    let ended = run(&args);
    assert_eq!(ended.code, Some(0), "{more:?}: {}{}", ended.stdout, ended.stderr);
    let rows: Vec<Value> = serde_json::from_str(&ended.stdout).unwrap();
    let text = |row: &Value, field: &str| row[field].as_str().unwrap_or_default().to_owned();
    assert_eq!(rows.len(), CASES.len());
    rows.iter().map(|row| (text(row, "result"), text(row, "reason"))).collect()
}

#[test]
fn our_own_rules_are_judged_by_each_proxy_that_this_machine_has() {
    if !rustix::process::geteuid().is_root() {
        return println!("SKIPPED: network namespaces need root");
    }
    let pass = vec![("pass".to_owned(), String::new()); CASES.len()];
    for more in [
        &["--data-plane", "nftables"][..],
        &["--data-plane", "iptables"],
        &["--data-plane", "iptables", "--iptables-backend", "legacy"],
    ] {
        assert_eq!(judged(more), pass, "{more:?}");
    }
    let by_ipvs = judged(&["--data-plane", "ipvs"]);
    if std::path::Path::new("/proc/net/ip_vs").exists() {
        assert_eq!(by_ipvs, pass);
    } else {
        let says_why = |(result, why): &(String, String)| result == "skip" && why.contains("`modprobe ip_vs`");
        assert!(by_ipvs.iter().all(says_why), "{by_ipvs:?}");
    }
}

#[test]
fn who_may_not_make_namespaces_is_told_so_and_an_option_belongs_to_its_data_plane() {
    let wrong = run(&["conformance", "services", "--data-plane", "nftables", "--iptables-backend", "nft"]);
    assert_eq!(wrong.code, Some(2), "{}", wrong.stderr);
    let dir = tempfile::tempdir().unwrap();
    let ended = crate::fake::as_nobody(dir.path(), &["conformance", "services", "--data-plane", "nftables"]);
    assert_eq!(ended.code, Some(4), "{}", ended.stderr);
}
