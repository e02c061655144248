//! ADD and DEL, one by one and 250 at once: the product beside Debian's `bridge` and `ptp` with `host-local`.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ripstop_lab::space;
use serde_json::json;

use crate::cpu::{self, ms};
use crate::plugin::Plugin;
use crate::report::{Goal, Section, Table, verdict};
use crate::scene::{Agent, Programs, Scene};
use crate::stat::{Spread, quantile, ratios};

/// Pods of one plugin in one round.
const PODS: usize = 40;
const AT_ONCE: usize = 250;
/// The agent's own work after its answers (snapshot, sweeps) belongs to the calls before it.
const SETTLE: Duration = Duration::from_millis(300);

/// A node with the three plugins.
struct Bench {
    scene: Scene,
    node: PathBuf,
    agent: Agent,
    plugins: [Plugin; 3],
}

impl Bench {
    fn new(programs: &Programs) -> Result<Self> {
        let mut scene = Scene::new("cni", programs)?;
        let (node, _) = scene.machines("n1", "n2")?;
        let agent =
            scene.agent("n1", &node, &json!({ "ranges": ["10.244.0.0/16"], "backend": { "type": "vxlan" } }))?;
        agent.wait_ready()?;
        let plugins = [
            Plugin::ripstop(&programs.plugin, &agent.cni_socket()),
            Plugin::reference("bridge", 1, &scene.run()),
            Plugin::reference("ptp", 2, &scene.run()),
        ];
        Ok(Self { scene, node, agent, plugins })
    }

    /// Runs on a thread in the node.
    fn inside<T: Send>(&self, run: impl FnOnce(&Self) -> Result<T> + Send) -> Result<T> {
        space::in_netns(&self.node, || run(self))?
    }

    fn pods(&self, count: usize) -> Result<Vec<(String, PathBuf)>> {
        (0..count).map(|pod| Ok((format!("p{pod}"), self.scene.netns(&format!("p{pod}"))?))).collect()
    }

    fn drop_pods(&self, pods: &[(String, PathBuf)]) -> Result<()> {
        pods.iter().try_for_each(|(name, _)| self.scene.drop_netns(name))
    }

    /// The order of a round: each plugin is first, second and last equally often.
    fn order(&self, round: usize) -> impl Iterator<Item = usize> {
        (0..self.plugins.len()).map(move |turn| (round + turn) % 3)
    }
}

/// What the calls of one kind took, round by round.
#[derive(Default)]
struct Calls {
    /// Milliseconds of every call.
    all: Vec<f64>,
    /// Median of each round.
    rounds: Vec<f64>,
    /// CPU milliseconds a call, of each round.
    cpu: Vec<f64>,
}

impl Calls {
    fn round(&mut self, walls: &[f64], cpu: Duration) {
        self.all.extend(walls);
        self.rounds.push(quantile(walls, 0.5));
        #[allow(clippy::cast_precision_loss)]
        self.cpu.push(ms(cpu) / walls.len() as f64);
    }
}

/// ADD, DEL with the pod's namespace standing, DEL with the namespace going.
const VERBS: [&str; 3] = ["ADD", "DEL", "DEL, namespace going"];

/// Measures calls one by one.
pub fn one_by_one(programs: &Programs, rounds: usize) -> Result<Section> {
    let bench = Bench::new(programs)?;
    // By plugin and verb.
    let mut calls: [[Calls; 3]; 3] = Default::default();
    bench.inside(|bench| {
        // A round that does not count: page cache, sets and bridge are there afterwards.
        for plugin in 0..3 {
            bench.round(plugin, &mut Default::default())?;
        }
        for round in 0..rounds {
            for plugin in bench.order(round) {
                bench.round(plugin, &mut calls[plugin])?;
            }
        }
        Ok(())
    })?;
    Ok(section_one_by_one(&calls))
}

impl Bench {
    /// Adds pods with one plugin and deletes them again.
    fn round(&self, plugin: usize, calls: &mut [Calls; 3]) -> Result<()> {
        let pods = self.pods(PODS)?;
        let (stay, go) = pods.split_at(PODS / 2);
        self.phase(plugin, "ADD", &pods, true, &mut calls[0])?;
        self.phase(plugin, "DEL", stay, true, &mut calls[1])?;
        self.drop_pods(go)?;
        self.phase(plugin, "DEL", go, false, &mut calls[2])?;
        self.drop_pods(stay)
    }

    fn phase(
        &self,
        plugin: usize,
        verb: &str,
        pods: &[(String, PathBuf)],
        named: bool,
        calls: &mut Calls,
    ) -> Result<()> {
        let ours = plugin == 0;
        let before = cpu::of_process(self.agent.pid())?;
        let (mut walls, mut used) = (Vec::new(), Duration::ZERO);
        for (name, netns) in pods {
            let taken = self.plugins[plugin].call(verb, name, named.then_some(netns.as_path()))?;
            walls.push(ms(taken.wall));
            used += taken.cpu;
        }
        if ours {
            thread::sleep(SETTLE);
            used += cpu::of_process(self.agent.pid())? - before;
        }
        calls.round(&walls, used);
        Ok(())
    }
}

fn section_one_by_one(calls: &[[Calls; 3]; 3]) -> Section {
    let mut table = Table::new(&[
        "call",
        "plugin",
        "p50 ms",
        "p99 ms",
        "p50 of a round: min / median / max",
        "CPU ms a call: min / median / max",
    ]);
    for (verb, title) in VERBS.iter().enumerate() {
        for (plugin, name) in ["ripstop", "bridge + host-local", "ptp + host-local"].iter().enumerate() {
            let of = &calls[plugin][verb];
            table.row(&[
                (*title).into(),
                (*name).into(),
                format!("{:.2}", quantile(&of.all, 0.5)),
                format!("{:.2}", quantile(&of.all, 0.99)),
                Spread::of(&of.rounds).to_string(),
                Spread::of(&of.cpu).to_string(),
            ]);
        }
    }
    let goals = VERBS
        .iter()
        .enumerate()
        .map(|(verb, title)| goal(title, &calls[0][verb], &calls[1][verb], verb == 0))
        .collect();
    Section { id: "cni", title: "CNI calls, one by one, process start included", goals, tables: vec![table] }
}

fn goal(title: &str, ours: &Calls, rival: &Calls, add: bool) -> Goal {
    let (p50, p99) = (quantile(&ours.all, 0.5), quantile(&ours.all, 0.99));
    let ratio = Spread::of(&ratios(&ours.rounds, &rival.rounds));
    let good = if add { p50 <= 2.5 && p99 <= 10.0 && ratio.median <= 1.0 / 6.0 } else { p50 <= 2.5 };
    Goal {
        what: format!("{title}, one by one"),
        reach: if add {
            "p50 ≤ 2.5 ms, p99 ≤ 10 ms, ratio ≤ 0.167"
        } else {
            "p50 ≤ 2.5 ms where the namespace is going"
        }
        .into(),
        ours: format!("p50 {p50:.2} ms, p99 {p99:.2} ms"),
        rival: format!(
            "bridge + host-local: p50 {:.2} ms, p99 {:.2} ms",
            quantile(&rival.all, 0.5),
            quantile(&rival.all, 0.99)
        ),
        ratio: ratio.text(3),
        met: verdict(good),
    }
}

/// Measures 250 ADDs at once.
pub fn at_once(programs: &Programs, rounds: usize) -> Result<Section> {
    let bench = Bench::new(programs)?;
    let mut walls: [Vec<f64>; 3] = Default::default();
    let mut cpus: [Vec<f64>; 3] = Default::default();
    let (mut growth, mut peak) = (Vec::new(), Vec::new());
    let before = cpu::memory(bench.agent.pid(), "VmRSS")?;
    bench.inside(|bench| {
        for round in 0..rounds {
            for plugin in bench.order(round) {
                cpu::reset_peak(bench.agent.pid())?;
                let (wall, used) = bench.burst(plugin)?;
                walls[plugin].push(wall);
                cpus[plugin].push(used);
                if plugin == 0 {
                    growth.push(cpu::memory(bench.agent.pid(), "VmRSS")? - before);
                    peak.push(cpu::memory(bench.agent.pid(), "VmHWM")? - before);
                }
                bench.clear(plugin)?;
            }
        }
        Ok(())
    })?;
    let mut table = Table::new(&["plugin", "wall ms: min / median / max", "CPU ms a pod: min / median / max"]);
    for (plugin, name) in ["ripstop", "bridge + host-local", "ptp + host-local"].iter().enumerate() {
        table.row(&[(*name).into(), Spread::of(&walls[plugin]).text(0), Spread::of(&cpus[plugin]).to_string()]);
    }
    let mut memory = Table::new(&["agent's memory, 250 ADDs", "MiB: min / median / max"]);
    memory.row(&["resident after, more than before the first".into(), Spread::of(&growth).text(1)]);
    memory.row(&["peak meanwhile, more than before the first".into(), Spread::of(&peak).text(1)]);
    let (ours, most) = (Spread::of(&walls[0]), Spread::of(&peak));
    let goals = vec![
        Goal {
            what: "250 ADDs at once on a node, all succeed".into(),
            reach: "≤ 1200 ms".into(),
            ours: format!("{} ms", ours.text(0)),
            rival: format!("bridge + host-local: {} ms", Spread::of(&walls[1]).text(0)),
            ratio: Spread::of(&ratios(&walls[0], &walls[1])).text(3),
            met: verdict(ours.median <= 1_200.0),
        },
        Goal {
            what: "250 ADDs at once: the agent grows".into(),
            reach: "≤ 16 MiB".into(),
            ours: format!("{} MiB at the peak", most.text(1)),
            rival: "none: the reference plugins have no agent".into(),
            ratio: "–".into(),
            met: verdict(most.max <= 16.0),
        },
    ];
    Ok(Section { id: "burst", title: "250 ADDs at once", goals, tables: vec![table, memory] })
}

impl Bench {
    /// Starts all processes, then waits for all: milliseconds until the last has ended, and CPU milliseconds a pod.
    fn burst(&self, plugin: usize) -> Result<(f64, f64)> {
        let pods = self.pods(AT_ONCE)?;
        let before = cpu::of_process(self.agent.pid())?;
        let start = Instant::now();
        let calls = pods.iter().map(|(name, netns)| self.plugins[plugin].start("ADD", name, Some(netns)));
        // Collected before the first is waited for.
        let calls: Vec<_> = calls.collect::<Result<_>>()?;
        let mut used = Duration::ZERO;
        let mut failed = Vec::new();
        for call in calls {
            match call.finish() {
                Ok(taken) => used += taken.cpu,
                Err(error) => failed.push(error.to_string()),
            }
        }
        let wall = start.elapsed();
        ensure!(failed.is_empty(), "{} of {AT_ONCE} ADDs at once failed, the first: {}", failed.len(), failed[0]);
        if plugin == 0 {
            thread::sleep(SETTLE);
            used += cpu::of_process(self.agent.pid())? - before;
        }
        #[allow(clippy::cast_precision_loss)]
        Ok((ms(wall), ms(used) / AT_ONCE as f64))
    }

    /// Removes what a burst made. Namespaces go first: it is quicker, and not measured.
    fn clear(&self, plugin: usize) -> Result<()> {
        let pods: Vec<(String, PathBuf)> = (0..AT_ONCE).map(|pod| (format!("p{pod}"), PathBuf::new())).collect();
        self.drop_pods(&pods)?;
        if plugin == 0 {
            for (name, _) in &pods {
                self.plugins[plugin].call("DEL", name, None)?;
            }
        } else {
            forget(&self.scene.run(), self.plugins[plugin].name)?;
        }
        Ok(())
    }
}

/// Gives all addresses of a reference plugin back.
fn forget(folder: &Path, name: &str) -> Result<()> {
    Ok(std::fs::remove_dir_all(folder.join(format!("host-local-{name}")))?)
}
