//! Whole clusters on etcd: real agents, a real etcd at the lab's router, real packets between pods.

mod cluster;
mod flannel;
mod refused;
mod services;
mod trust;

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use ripstop_lab::layout::{etcd_metrics_port, etcd_port};
use ripstop_lab::{Lab, Options, StoreKind, Target};

use crate::cluster::{PATIENCE, lab as any_lab, patiently, pods, rows, until};

/// A lab on etcd; `None`, with the reason printed, where it cannot be made.
fn lab(options: Options) -> Option<Lab> {
    let runs = |program: &str, arg: &str| {
        let mut command = Command::new(program);
        command.arg(arg).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    if !runs("etcd", "--version") || !runs("etcdctl", "version") {
        println!("SKIPPED: etcd-server and etcd-client are not installed");
        return None;
    }
    any_lab(Options { store: StoreKind::Etcd, ..options })
}

/// Runs `etcdctl` as an operator does, and answers what it printed. It asks the first member that lives.
fn ctl(lab: &Lab, args: &[&str]) -> String {
    let members = lab.state().unwrap().options.etcd_members;
    let endpoints: Vec<String> = (0..members).map(|member| format!("127.0.0.1:{}", etcd_port(member))).collect();
    lab.exec(&Target::Router, &[&["etcdctl", "--endpoints", &endpoints.join(",")], args].concat()).unwrap()
}

/// A page that a member shows to its operator.
fn page(lab: &Lab, member: u16, page: &str) -> Option<String> {
    let url = format!("http://127.0.0.1:{}/{page}", etcd_metrics_port(member));
    lab.exec(&Target::Router, &["curl", "-sf", "--max-time", "5", &url]).ok()
}

/// Requests that a member has taken, by method.
fn requests(lab: &Lab, member: u16) -> BTreeMap<String, f64> {
    let metrics = page(lab, member, "metrics").unwrap();
    let started = metrics.lines().filter_map(|line| line.strip_prefix("grpc_server_started_total{"));
    let counted = started.filter_map(|line| {
        let (labels, count) = line.split_once("} ")?;
        let method = labels.split("grpc_method=\"").nth(1)?.split('"').next()?;
        Some((method.to_owned(), count.parse().ok()?))
    });
    counted.collect()
}

/// Waits until an agent says of its store what is expected.
fn store_is(lab: &Lab, node: u32, here: bool) {
    patiently(&format!("node {node}: store here: {here}"), || {
        let status = lab.agent_json(node, "/v1/status").unwrap();
        (status["store"] == "here") == here
    });
}

/// A pod's first address.
fn ip(lab: &Lab, pod: &str) -> String {
    lab.pod(pod).unwrap().ips()[0].to_string()
}

/// Waits until a pod hears from an address.
fn reaches(lab: &Lab, pod: &str, address: &str) {
    patiently(&format!("{pod} reaches {address}"), || {
        lab.exec(&Target::Pod(pod.into()), &["ping", "-c", "1", "-W", "1", address]).is_ok()
    });
}
