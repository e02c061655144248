//! A cluster on etcd: the time until a node that joins knows its peers, and what an idle node asks of etcd.
//!
//! The cluster is a lab of two nodes with a real etcd at the router; the other peers are simulated.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ripstop_lab::layout::{etcd_endpoint, etcd_metrics_port};
use ripstop_lab::{Lab, Options, StoreKind, Target, space};
use serde_json::json;

use crate::agents::{alone, await_routes};
use crate::cpu::ms;
use crate::peers::Peers;
use crate::report::{Section, Table};
use crate::scene::{Programs, checkpoint, wait_for};
use crate::stat::Spread;

/// Simulated peers; their addresses in the nodes' subnet begin with .100.
const PEERS: u32 = 100;
const FIRST: u32 = 100;
/// Routes of /24 with a device that a node has besides: to the other real node and to its own subnet.
const MORE: u32 = 2;
/// The node that joins.
const NODE: u32 = 2;
const CALM: Duration = Duration::from_secs(5);
const IDLE: Duration = Duration::from_secs(20);
const LIMIT: Duration = Duration::from_secs(30);

/// Measures both.
pub fn etcd(programs: &Programs, rounds: usize) -> Result<Section> {
    let options = Options {
        nodes: 2,
        store: StoreKind::Etcd,
        ripstop: Some(programs.ripstop.clone()),
        plugin: Some(programs.plugin.clone()),
        replace: true,
        network_spec: json!({ "ranges": ["10.0.0.0/8"] }),
        ..Options::named("bench-etcd")
    };
    let lab = Lab::up(&options)?;
    let router = lab.netns_of(&Target::Router)?;
    let endpoint = etcd_endpoint("http", 0, 1, true);
    space::in_netns(&router, || Peers::connect_etcd(&endpoint)?.write("n1", "vxlan", FIRST..FIRST + PEERS))??;
    let (mut most, mut all) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        checkpoint()?;
        let (first, last) = join(&lab)?;
        most.push(ms(first));
        all.push(ms(last));
    }
    lab.wait_ready(&[1, NODE], LIMIT)?;
    thread::sleep(CALM);
    let (before, begun) = (requests(&lab)?, Instant::now());
    thread::sleep(IDLE);
    let (after, took) = (requests(&lab)?, begun.elapsed().as_secs_f64());
    lab.down()?;
    let more = |method: &String| after[method] - before.get(method).copied().unwrap_or_default();
    let rates = after.keys().map(|method| (method.as_str(), more(method) / took / 2.0));
    let rates: BTreeMap<&str, f64> = rates.filter(|(_, rate)| *rate > 0.0).collect();
    Ok(section(&Spread::of(&most), &Spread::of(&all), &rates))
}

/// A node that never was there joins: times from its agent's start to 99 % and all of the routes.
fn join(lab: &Lab) -> Result<(Duration, Duration)> {
    let node = lab.node(NODE);
    let ripstop = lab.programs().ripstop.display().to_string();
    // An image's folder: no file is removed, only what the agent made.
    let purge = [ripstop.as_str(), "uninstall", "--purge", "--release", "--root", "/run/image"];
    lab.exec(&Target::Node(NODE), &purge)?;
    node.kill_agent(true)?;
    for entry in std::fs::read_dir(lab.layout().machine_dir(&node.name()).join("var")).context("its disk")? {
        std::fs::remove_file(entry?.path())?;
    }
    // The kernel takes what was purged apart in the background.
    thread::sleep(Duration::from_millis(500));
    let netns = node.netns();
    let started = Instant::now();
    node.release_agent()?;
    let times = space::in_netns(&netns, || await_routes(started, PEERS + MORE))??;
    wait_for("the node", LIMIT, || lab.agent_ready(NODE).is_ok())?;
    Ok(times)
}

/// Requests that etcd has taken, by method.
fn requests(lab: &Lab) -> Result<BTreeMap<String, f64>> {
    let url = format!("http://127.0.0.1:{}/metrics", etcd_metrics_port(0));
    let metrics = lab.exec(&Target::Router, &["curl", "-sf", &url])?;
    let started = metrics.lines().filter_map(|line| line.strip_prefix("grpc_server_started_total{"));
    let counted: BTreeMap<String, f64> = started
        .filter_map(|line| {
            let (labels, count) = line.split_once("} ")?;
            let method = labels.split("grpc_method=\"").nth(1)?.split('"').next()?;
            Some((method.to_owned(), count.parse().ok()?))
        })
        .collect();
    ensure!(!counted.is_empty(), "etcd counts no requests");
    Ok(counted)
}

fn section(most: &Spread, all: &Spread, rates: &BTreeMap<&str, f64>) -> Section {
    let signs = rates.get("Put").copied().unwrap_or_default();
    // The sum of nothing is a negative zero.
    let others = 0.0 + rates.iter().filter(|(method, _)| **method != "Put").map(|(_, rate)| rate).sum::<f64>();
    let mut table = Table::new(&["node on etcd among 100 simulated peers, vxlan", "measured"]);
    table.row(&["start to 99 % of the peers' routes, ms: min / median / max".into(), most.text(0)]);
    table.row(&["start to all routes, ms: min / median / max".into(), all.text(0)]);
    table.row(&["requests/s of an idle node: its sign of life".into(), format!("{signs:.2}")]);
    table.row(&["requests/s of an idle node: all others".into(), format!("{others:.2}")]);
    let goals = vec![
        alone(
            "etcd: a node joins 100 nodes (simulated peers), 99 % of peers",
            "≤ 1 s",
            format!("{} ms", most.text(0)),
            most.median <= 1_000.0,
        ),
        alone(
            "etcd: requests of an idle node beside its sign of life",
            "0 a second",
            format!("{others:.2} a second"),
            others == 0.0,
        ),
    ];
    Section { id: "etcd", title: "A cluster on etcd", goals, tables: vec![table] }
}
