//! Whole clusters: real agents in a lab, real packets between pods.
//!
//! Each test makes a lab of its own name, so they run side by side; every wait is bounded. They need root.

mod balancers;
mod balancers_bad;
mod balancers_beside;
mod balancers_cut;
mod balancers_told;
mod bgp;
mod bgp_balancers;
mod bgp_links;
mod bgp_outside;
mod blocks;
mod crash;
mod ipip;
mod migrate;
mod narrow;
mod offload;
mod peers;
mod policies;
pub mod routers;
mod segment;
mod udp;
mod uplinks;
mod wire;

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use ripstop_lab::{Lab, Options, PodSpec, Target};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;

use crate::fake::run;

/// A lab of the programs under test; `None`, with the reason printed, where labs cannot be made.
pub fn lab(options: Options) -> Option<Lab> {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: a lab needs root");
        return None;
    }
    let ripstop = Path::new(env!("CARGO_BIN_EXE_ripstop")).to_owned();
    let plugin = ripstop.with_file_name("ripstop-cni");
    assert!(plugin.exists(), "{} is missing: build the whole workspace first", plugin.display());
    let lab = Lab::up(&Options { ripstop: Some(ripstop), plugin: Some(plugin), replace: true, ..options });
    let lab = lab.unwrap();
    if !lab.state().unwrap().options.agents {
        return Some(lab);
    }
    let nodes: Vec<u32> = lab.state().unwrap().nodes().map(|(number, _)| number).collect();
    for node in &nodes {
        until("every path is settled", || {
            let rows = rows(&lab, *node, "/v1/paths");
            let settled = |row: &Value| {
                row["state"].as_str().is_some_and(|state| state == "realised" || state.starts_with("refused"))
            };
            rows.len() >= nodes.len() - 1 && rows.iter().all(settled)
        });
    }
    Some(lab)
}

/// One pod a node, `p1`, `p2` and so on, and a second one on the first node.
pub fn pods(lab: &Lab) {
    let nodes: Vec<u32> = lab.state().unwrap().nodes().map(|(number, _)| number).collect();
    for node in nodes {
        lab.pod_add(&PodSpec::new(&format!("p{node}"), node)).unwrap();
    }
    lab.pod_add(&PodSpec::new("near", 1)).unwrap();
}

/// An array of the agent's.
pub fn rows(lab: &Lab, node: u32, path: &str) -> Vec<Value> {
    lab.agent_json(node, path).unwrap().as_array().cloned().unwrap_or_default()
}

/// Waits up to ten seconds for something to become true.
pub fn until(what: &str, is: impl FnMut() -> bool) {
    within(Duration::from_secs(10), what, is);
}

/// How long what other programs have a part in may take on a busy machine: runtimes that start, leaders that are chosen.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for something to become true that other programs have a part in.
pub fn patiently(what: &str, is: impl FnMut() -> bool) {
    within(PATIENCE, what, is);
}

fn within(limit: Duration, what: &str, mut is: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A pod's first address.
pub fn ip(lab: &Lab, pod: &str) -> String {
    lab.state().unwrap().pods[pod].ips()[0].to_string()
}

/// Whether a pod hears from another at once.
pub fn talks(lab: &Lab, from: &str, to: &str) -> bool {
    lab.exec(&Target::Pod(from.into()), &["ping", "-c", "1", "-W", "1", &ip(lab, to)]).is_ok()
}

/// Runs something on a thread inside a network namespace.
pub fn inside<T: Send + 'static>(
    netns: &Path,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::thread::JoinHandle<T> {
    let netns = File::open(netns).unwrap();
    std::thread::spawn(move || {
        move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        work()
    })
}

/// Runs ip(8) at the lab's router.
pub fn router(lab: &Lab, line: &str) {
    let output = Command::new("ip").args(["-n", &lab.layout().netns("router")]).args(line.split(' ')).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Applies a manifest at a node.
pub fn apply(lab: &Lab, node: u32, manifest: &str) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(manifest.as_bytes()).unwrap();
    let path = file.path().to_str().unwrap();
    let ended = run(&["apply", "-f", path, "--lab", lab.layout().lab(), "--node", &node.to_string()]);
    assert_eq!(ended.code, Some(0), "{manifest}: {}{}", ended.stdout, ended.stderr);
}

/// The last range of a node.
pub fn range_of(lab: &Lab, node: &str) -> String {
    let nodes = rows(lab, 1, "/v1/nodes");
    let row = nodes.iter().find(|row| row["name"] == node).unwrap();
    row["ranges"].as_array().unwrap().last().unwrap().as_str().unwrap().to_owned()
}

/// Puts a record into the store, as another program would.
pub fn put(lab: &Lab, kind: ripstop_store::Kind, key: &str, value: &Value) {
    use ripstop_store::Store as _;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = ripstop_store::Remote::connect(lab.layout().store_socket()).await.unwrap();
        store.put_if(kind, key, value, ripstop_store::Expect::Any).await.unwrap();
    });
}
