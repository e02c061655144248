//! 1,000 pods over ten nodes of one lab, as when a cluster starts: every runtime calls for its pods, several at a time.

use std::path::PathBuf;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use ripstop_lab::{Lab, Options, Wiring, space};

use crate::agents::alone;
use crate::cpu::{self, ms};
use crate::plugin::Plugin;
use crate::report::{Section, Table};
use crate::scene::{Programs, checkpoint};
use crate::stat::Spread;

const NODES: u32 = 10;
const PODS_A_NODE: u32 = 100;
/// Calls that a node's runtime has under way at a time.
const AT_A_TIME: u32 = 8;

/// A node's plugin, and the namespaces of its pods.
struct Node {
    plugin: Plugin,
    pods: Vec<(String, PathBuf)>,
}

/// What one round took.
pub struct Round {
    /// Seconds until the last answer.
    pub wall: f64,
    /// Milliseconds of each call.
    calls: Vec<f64>,
    /// CPU milliseconds of the agents and plugins, a pod.
    cpu: f64,
}

/// Measures it in several rounds, each on new nodes.
pub fn thousand(programs: &Programs, rounds: usize) -> Result<Section> {
    let rounds = (0..rounds).map(|_| round(programs, Wiring::Routed)).collect::<Result<Vec<_>>>()?;
    let of = |field: fn(&Round) -> f64| Spread::of(&rounds.iter().map(field).collect::<Vec<_>>());
    let calls: Vec<f64> = rounds.iter().flat_map(|round| round.calls.iter().copied()).collect();
    let (wall, cpu) = (of(|round| round.wall), of(|round| round.cpu));
    let mut table = Table::new(&["1,000 ADDs over 10 nodes, 8 at a time a node", "measured"]);
    table.row(&["until the last answer, s: min / median / max".into(), wall.text(2)]);
    table.row(&["one call, ms: p50".into(), format!("{:.1}", crate::stat::quantile(&calls, 0.5))]);
    table.row(&["one call, ms: p99".into(), format!("{:.1}", crate::stat::quantile(&calls, 0.99))]);
    table.row(&["CPU of agents and plugins, ms a pod: min / median / max".into(), cpu.text(2)]);
    let ours = format!("{} s", wall.text(2));
    let goals = vec![alone("1,000 ADDs over 10 lab nodes, all succeed", "≤ 5 s", ours, wall.median <= 5.0)];
    Ok(Section { id: "adds", title: "1,000 pods at once over ten nodes", goals, tables: vec![table] })
}

/// One round, on ten new nodes with pods of this wiring.
pub fn round(programs: &Programs, wiring: Wiring) -> Result<Round> {
    checkpoint()?;
    let options = Options {
        nodes: NODES,
        wiring,
        ripstop: Some(programs.ripstop.clone()),
        plugin: Some(programs.plugin.clone()),
        replace: true,
        ..Options::named("bench-adds")
    };
    let lab = Lab::up(&options)?;
    let nodes = (1..=NODES).map(|number| node(&lab, programs, number)).collect::<Result<Vec<_>>>()?;
    let agents = (1..=NODES).map(|node| Ok(lab.node(node).agent()?.context("no agent")?.pid.cast_unsigned()));
    let agents = agents.collect::<Result<Vec<u32>>>()?;
    let used = || agents.iter().map(|pid| Ok(ms(cpu::of_process(*pid)?))).sum::<Result<f64>>();
    let (before, begun) = (used()?, Instant::now());
    let lanes: Vec<Result<Vec<(f64, f64)>>> = thread::scope(|scope| {
        let lanes = nodes.iter().flat_map(|node| (0..AT_A_TIME).map(move |lane| (node, lane)));
        let running: Vec<_> = lanes.map(|(node, lane)| scope.spawn(move || node.lane(lane))).collect();
        running.into_iter().map(|lane| lane.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a lane died")))).collect()
    });
    let wall = begun.elapsed().as_secs_f64();
    let calls = lanes.into_iter().collect::<Result<Vec<_>>>()?.concat();
    let pods = NODES * PODS_A_NODE;
    ensure!(calls.len() == pods as usize, "{} of {pods} ADDs were made", calls.len());
    let plugins: f64 = calls.iter().map(|(_, cpu)| cpu).sum();
    let cpu = (plugins + used()? - before) / f64::from(pods);
    lab.down()?;
    Ok(Round { wall, calls: calls.into_iter().map(|(wall, _)| wall).collect(), cpu })
}

/// Makes the namespaces of a node's pods, which is the runtime's work and not measured.
fn node(lab: &Lab, programs: &Programs, number: u32) -> Result<Node> {
    let layout = lab.layout();
    let socket = layout.machine_dir(&format!("n{number}")).join("run/cni.sock");
    let pods = (0..PODS_A_NODE).map(|pod| {
        checkpoint()?;
        let name = format!("p{number}-{pod}");
        space::netns_add(&layout.netns(&name))?;
        Ok((name.clone(), layout.netns_path(&name)))
    });
    Ok(Node { plugin: Plugin::ripstop(&programs.plugin, &socket), pods: pods.collect::<Result<_>>()? })
}

impl Node {
    /// Adds every eighth pod, one after the other: milliseconds, and CPU milliseconds, of each call.
    fn lane(&self, lane: u32) -> Result<Vec<(f64, f64)>> {
        let own = self.pods.iter().skip(lane as usize).step_by(AT_A_TIME as usize);
        own.map(|(name, netns)| {
            let taken = self.plugin.call("ADD", name, Some(netns))?;
            Ok((ms(taken.wall), ms(taken.cpu)))
        })
        .collect()
    }
}
