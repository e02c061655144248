//! From a pod's ADD to the routes that lead to it in the kernels of all other nodes: each pod here needs a block of its own, which BGP
//! carries to the others.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use ripstop_lab::{Backend, Lab, Options, RangeMode, space};
use serde_json::json;

use super::watch::Watch;
use super::{Part, goal};
use crate::cpu::ms;
use crate::plugin::{Plugin, address};
use crate::report::Table;
use crate::scene::{Programs, checkpoint, wait_for};
use crate::stat::{Spread, quantile};

const NODES: u32 = 10;
const LIMIT: Duration = Duration::from_secs(10);

/// Measures it with 20 pods a round.
pub fn pods(programs: &Programs, rounds: usize) -> Result<Part> {
    let options = Options {
        nodes: NODES,
        backend: Backend::Bgp,
        range_mode: RangeMode::Blocks,
        network_spec: json!({
            "ranges": ["10.99.0.0/16"],
            "blocks": { "len": { "v4": 32 }, "nodeRanges": ["10.98.0.0/24"], "maxPerNode": 1000 },
        }),
        ripstop: Some(programs.ripstop.clone()),
        plugin: Some(programs.plugin.clone()),
        replace: true,
        ..Options::named("bench-bgp")
    };
    let lab = Lab::up(&options)?;
    for node in 1..=NODES {
        wait_for("sessions of all nodes", Duration::from_secs(60), || {
            sessions(&lab, node) == Some(NODES as usize - 1)
        })?;
    }
    let layout = lab.layout();
    let plugins: Vec<Plugin> = (1..=NODES)
        .map(|node| Plugin::ripstop(&programs.plugin, &layout.machine_dir(&format!("n{node}")).join("run/cni.sock")))
        .collect();
    let watches = (1..=NODES).map(|node| Watch::start(&layout.netns_path(&format!("n{node}")), &["route"]));
    let watches = watches.collect::<Result<Vec<_>>>()?;
    let watched = Instant::now();
    std::thread::sleep(Duration::from_millis(500));
    let (mut calls, mut farthest) = (Vec::new(), Vec::new());
    let first = NODES as usize;
    for pod in 0..first + 20 * rounds.max(5) {
        checkpoint()?;
        let node = pod % NODES as usize;
        let name = format!("p{pod}");
        space::netns_add(&layout.netns(&name))?;
        let begun = Instant::now();
        let taken = plugins[node].call("ADD", &name, Some(&layout.netns_path(&name)))?;
        if pod < first {
            // A node has a block before its first pod.
            continue;
        }
        let block = address(&taken.printed)?.to_string();
        let is = |line: &str| line.starts_with(&format!("{block} ")) && line.contains("nhid");
        let others = watches.iter().enumerate().filter(|(n, _)| *n != node);
        let heard = others.map(|(_, watch)| watch.wait(&block, watched, LIMIT, is)).collect::<Result<Vec<_>>>()?;
        calls.push(ms(taken.wall));
        // Where a block was claimed ahead its route was there before.
        let last = heard.into_iter().max().context("no other node")?;
        farthest.push(ms(last.saturating_duration_since(begun)));
    }
    lab.down()?;
    let mut table = Table::new(&["a pod's block to 9 other nodes by BGP, ms", "p50", "p99", "min / median / max"]);
    for (what, values) in [("ADD's answer", &calls), ("route in the last kernel", &farthest)] {
        let [p50, p99] = [0.5, 0.99].map(|q| format!("{:.1}", quantile(values, q)));
        table.row(&[what.into(), p50, p99, Spread::of(values).text(1)]);
    }
    let p99 = quantile(&farthest, 0.99);
    let ours = format!("{p99:.1} ms; p50 {:.1}", quantile(&farthest, 0.5));
    let what = "pod route from ADD to the kernel of the farthest of 10 nodes";
    Ok((vec![goal(what, "p99 ≤ 50 ms", ours, "–".into(), "–".into(), p99 <= 50.0)], vec![table]))
}

/// How many sessions of a node stand.
fn sessions(lab: &Lab, node: u32) -> Option<usize> {
    let rows = lab.agent_json(node, "/v1/bgp/peers").ok()?;
    Some(rows.as_array()?.iter().filter(|row| row["state"] == "established").count())
}
