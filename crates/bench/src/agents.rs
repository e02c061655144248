//! The agent alone: memory and CPU time while nothing happens, and the time until a node that joins knows its peers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ripstop_lab::{Lab, Options, PodSpec, ip_batch, space};
use serde_json::{Value, json};

use crate::cpu::{self, ms};
use crate::peers::{Peers, Signs};
use crate::plugin::Plugin;
use crate::report::{Goal, Section, Table, verdict};
use crate::scene::{Programs, Scene, checkpoint};
use crate::stat::{Spread, ratios};

const NODES: u32 = 10;
const PODS_A_NODE: u32 = 10;
/// What new agents and pods still have to do is over after this.
const CALM: Duration = Duration::from_secs(5);
const IDLE: Duration = Duration::from_secs(30);
/// The kernel takes a dropped namespace with its routes apart in the background; it is done with that after this.
const RUBBLE: Duration = Duration::from_millis(300);
/// How often an agent gives a sign of life, unless configured otherwise.
const SIGN: Duration = Duration::from_secs(2);

/// 10 nodes with 10 pods each, by the lab: every agent is one measurement.
pub fn cluster(programs: &Programs) -> Result<Section> {
    let options = Options {
        nodes: NODES,
        ripstop: Some(programs.ripstop.clone()),
        plugin: Some(programs.plugin.clone()),
        replace: true,
        ..Options::named("bench")
    };
    let lab = Lab::up(&options)?;
    for pod in 0..NODES * PODS_A_NODE {
        checkpoint()?;
        lab.pod_add(&PodSpec::new(&format!("pod{pod}"), pod % NODES + 1))?;
    }
    let agents = (1..=NODES).map(|node| Ok(lab.node(node).agent()?.context("no agent")?.pid.cast_unsigned()));
    let agents = agents.collect::<Result<Vec<u32>>>()?;
    thread::sleep(CALM);
    let mut idle = vec![0.0; agents.len()];
    share(&agents, IDLE, &mut idle)?;
    let memory = agents.iter().map(|pid| cpu::memory(*pid, "VmRSS")).collect::<Result<Vec<_>>>()?;
    lab.down()?;
    let (memory, idle) = (Spread::of(&memory), Spread::of(&idle));
    let mut table = Table::new(&["agent at 10 nodes, 100 pods", "10 agents: min / median / max"]);
    table.row(&["resident MiB".into(), memory.text(1)]);
    table.row(&["CPU, idle for 30 s, thousandths of a CPU".into(), idle.to_string()]);
    let goal = |what: &str, reach: &str, ours: String, good: bool| {
        alone(&format!("agent at 10 nodes, 100 pods: {what}"), reach, ours, good)
    };
    let goals = vec![
        goal("memory", "≤ 24 MiB", format!("{} MiB", memory.text(1)), memory.max <= 24.0),
        goal("CPU idle", "≤ 2 mCPU", format!("{idle} mCPU"), idle.median <= 2.0),
    ];
    Ok(Section { id: "cluster", title: "The agent in a small cluster", goals, tables: vec![table] })
}

/// Thousandths of a CPU that processes use over a time.
pub fn share(pids: &[u32], over: Duration, shares: &mut [f64]) -> Result<()> {
    let before = pids.iter().map(|pid| cpu::of_process(*pid)).collect::<Result<Vec<_>>>()?;
    let begun = Instant::now();
    while begun.elapsed() < over {
        checkpoint()?;
        thread::sleep(Duration::from_millis(100).min(over.saturating_sub(begun.elapsed())));
    }
    let took = begun.elapsed().as_secs_f64();
    for ((pid, before), share) in pids.iter().zip(before).zip(shares) {
        *share = (cpu::of_process(*pid)? - before).as_secs_f64() / took * 1e3;
    }
    Ok(())
}

/// A node among simulated peers.
struct Crowd {
    scene: Scene,
    peers: Peers,
    socket: PathBuf,
    count: u32,
}

/// What one join took.
struct Join {
    /// Milliseconds from the agent's start to 99 % of the peers' routes.
    most: f64,
    /// To all of them.
    all: f64,
    /// CPU milliseconds of the agent until then.
    cpu: f64,
    /// MiB resident then.
    memory: f64,
}

impl Crowd {
    fn new(name: &str, programs: &Programs, backend: &str, count: u32) -> Result<Self> {
        let mut scene = Scene::new(name, programs)?;
        let socket = scene.store()?;
        let peers = Peers::connect(&socket)?;
        let (netns, _) = scene.machines("pattern", "pattern2")?;
        // The pattern of all peers: a real node, gone before anything is measured.
        let agent = scene.agent("pattern", &netns, &spec(backend))?;
        agent.wait_ready()?;
        peers.write("pattern", backend, 0..count)?;
        drop(agent);
        peers.forget("pattern")?;
        scene.drop_netns("pattern")?;
        scene.drop_netns("pattern2")?;
        Ok(Self { scene, peers, socket, count })
    }

    /// A new node joins, and leaves when it knows everybody.
    fn join(&mut self, backend: &str) -> Result<Join> {
        let (netns, _) = self.scene.machines("n1", "n2")?;
        let agent = self.scene.agent("n1", &netns, &spec(backend))?;
        let (most, all) = space::in_netns(&netns, || await_routes(agent.started, self.count))??;
        let join = Join {
            most: ms(most),
            all: ms(all),
            cpu: ms(cpu::of_process(agent.pid())?),
            memory: cpu::memory(agent.pid(), "VmRSS")?,
        };
        if backend == "vxlan" {
            check_fdb(&netns, self.count)?;
        }
        drop(agent);
        self.peers.forget("n1")?;
        self.scene.drop_netns("n1")?;
        self.scene.drop_netns("n2")?;
        thread::sleep(RUBBLE);
        Ok(join)
    }
}

fn spec(backend: &str) -> Value {
    json!({ "ranges": ["10.0.0.0/8"], "backend": { "type": backend } })
}

/// 1,000 simulated peers.
pub fn thousand(programs: &Programs, rounds: usize) -> Result<Section> {
    const PEERS: u32 = 1_000;
    let backend = "vxlan";
    let mut crowd = Crowd::new("thousand", programs, backend, PEERS)?;
    let joins = (0..rounds).map(|_| crowd.join(backend)).collect::<Result<Vec<_>>>()?;
    let (netns, _) = crowd.scene.machines("n1", "n2")?;
    let agent = crowd.scene.agent("n1", &netns, &spec(backend))?;
    space::in_netns(&netns, || await_routes(agent.started, PEERS))??;
    agent.wait_ready()?;
    let plugin = Plugin::ripstop(&programs.plugin, &agent.cni_socket());
    for pod in 0..PODS_A_NODE {
        let name = format!("p{pod}");
        let pod_netns = crowd.scene.netns(&name)?;
        space::in_netns(&netns, || plugin.call("ADD", &name, Some(&pod_netns)))??;
    }
    let pids = [agent.pid(), crowd.scene.store_pid().context("no store")?];
    thread::sleep(CALM);
    let mut quiet = [0.0; 2];
    share(&pids, IDLE, &mut quiet)?;
    let signs = Signs::start(&crowd.socket, PEERS, SIGN);
    thread::sleep(CALM);
    let mut alive = [0.0; 2];
    share(&pids, IDLE, &mut alive)?;
    let given = signs.stop()?;
    let least = u64::from(PEERS) * (IDLE + CALM).as_secs() / SIGN.as_secs();
    ensure!(given * 10 >= least * 9, "only {given} signs of life were given, not {least}");
    let memory = cpu::memory(agent.pid(), "VmRSS")?;
    Ok(section_thousand(&joins, quiet, alive, memory))
}

fn section_thousand(joins: &[Join], quiet: [f64; 2], alive: [f64; 2], memory: f64) -> Section {
    let of = |field: fn(&Join) -> f64| Spread::of(&joins.iter().map(field).collect::<Vec<_>>());
    let (most, all) = (of(|join| join.most), of(|join| join.all));
    let mut table = Table::new(&["agent among 1,000 simulated peers, vxlan", "measured"]);
    table.row(&["start to 99 % of the peers' routes, ms: min / median / max".into(), most.text(0)]);
    table.row(&["start to all routes, ms: min / median / max".into(), all.text(0)]);
    table.row(&["the agent's CPU time until then, ms: min / median / max".into(), of(|join| join.cpu).text(0)]);
    table.row(&["resident MiB, after joining: min / median / max".into(), of(|join| join.memory).text(1)]);
    table.row(&["resident MiB, with 10 pods, after 70 s".into(), format!("{memory:.1}")]);
    table.row(&["CPU over 30 s, peers silent, mCPU: agent, store".into(), format!("{:.1}, {:.1}", quiet[0], quiet[1])]);
    table.row(&[
        "CPU over 30 s, each peer alive every 2 s, mCPU: agent, store".into(),
        format!("{:.1}, {:.1}", alive[0], alive[1]),
    ]);
    let goal = |what: &str, reach: &str, ours: String, good: bool| {
        alone(&format!("agent at 1,000 nodes (simulated peers), 10,000 pods: {what}"), reach, ours, good)
    };
    let goals = vec![
        goal("memory", "≤ 64 MiB", format!("{memory:.1} MiB"), memory <= 64.0),
        goal("99 % of peers after joining", "≤ 1 s", format!("{} ms", most.text(0)), most.median <= 1_000.0),
    ];
    Section { id: "thousand", title: "The agent among 1,000 peers", goals, tables: vec![table] }
}

/// 10,000 simulated peers, beside the same routes by hand.
pub fn ten_thousand(programs: &Programs, rounds: usize) -> Result<Section> {
    const PEERS: u32 = 10_000;
    let backends = ["host-gw", "vxlan"];
    let mut crowds = Vec::new();
    for backend in backends {
        crowds.push(Crowd::new(&format!("all-{backend}"), programs, backend, PEERS)?);
    }
    let by_hand = Scene::new("by-hand", programs)?;
    let scripts = [routes_by_gateway(PEERS), routes_by_nexthop(PEERS)];
    let mut joins: [Vec<Join>; 2] = Default::default();
    let mut hand: [Vec<f64>; 2] = Default::default();
    for round in 0..rounds {
        for turn in 0..4 {
            checkpoint()?;
            match (round + turn) % 4 {
                which @ 0..2 => joins[which].push(crowds[which].join(backends[which])?),
                which => hand[which - 2].push(run_script(&by_hand, &scripts[which - 2])?),
            }
        }
    }
    Ok(section_ten_thousand(&joins, &hand))
}

fn section_ten_thousand(joins: &[Vec<Join>; 2], hand: &[Vec<f64>; 2]) -> Section {
    let head = ["10,000 peers from empty", "all routes, ms: min / median / max", "CPU ms: median", "resident MiB: max"];
    let mut table = Table::new(&head);
    for (backend, joins) in ["agent, host-gw", "agent, vxlan"].iter().zip(joins) {
        let of = |field: fn(&Join) -> f64| Spread::of(&joins.iter().map(field).collect::<Vec<_>>());
        let (all, cpu, memory) = (of(|join| join.all), of(|join| join.cpu), of(|join| join.memory));
        table.row(&[(*backend).into(), all.text(0), format!("{:.0}", cpu.median), format!("{:.1}", memory.max)]);
    }
    for (name, values) in
        ["ip -batch, a route by gateway each", "ip -batch, a nexthop object and a route each"].iter().zip(hand)
    {
        table.row(&[(*name).into(), Spread::of(values).text(0), "–".into(), "–".into()]);
    }
    let goals = ["host-gw", "vxlan"].iter().zip(joins).map(|(backend, joins)| {
        let ours: Vec<f64> = joins.iter().map(|join| join.all).collect();
        Goal {
            what: format!("10,000 peers from empty, {backend}, from the agent's start"),
            reach: "≤ 200 ms".into(),
            ours: format!("{} ms", Spread::of(&ours).text(0)),
            rival: format!("ip -batch, routes by gateway: {} ms", Spread::of(&hand[0]).text(0)),
            ratio: Spread::of(&ratios(&ours, &hand[0])).text(3),
            met: verdict(Spread::of(&ours).median <= 200.0),
        }
    });
    Section { id: "ten-thousand", title: "10,000 peers", goals: goals.collect(), tables: vec![table] }
}

/// Routes as a program without nexthop objects makes them: a gateway each.
fn routes_by_gateway(peers: u32) -> String {
    (0..peers).map(|peer| format!("route add 10.{}.{}.0/24 via {}\n", peer >> 8, peer & 255, gateway(peer))).collect()
}

fn routes_by_nexthop(peers: u32) -> String {
    let nexthops = (0..peers).map(|peer| format!("nexthop add id {} via {} dev eth0\n", peer + 1, gateway(peer)));
    let routes = (0..peers).map(|peer| format!("route add 10.{}.{}.0/24 nhid {}\n", peer >> 8, peer & 255, peer + 1));
    nexthops.chain(routes).collect()
}

fn gateway(peer: u32) -> std::net::Ipv4Addr {
    std::net::Ipv4Addr::from_bits(std::net::Ipv4Addr::new(172, 30, 1, 0).to_bits() + peer)
}

/// Milliseconds that a script of ip(8) takes in a new machine.
fn run_script(scene: &Scene, script: &str) -> Result<f64> {
    let (netns, _) = scene.machines("n1", "n2")?;
    let begun = Instant::now();
    ip_batch(&netns, script)?;
    let took = ms(begun.elapsed());
    scene.drop_netns("n1")?;
    scene.drop_netns("n2")?;
    thread::sleep(RUBBLE);
    Ok(took)
}

/// Times since `started` at which 99 % and all of `count` /24 routes were in the kernel of the calling thread's namespace.
pub fn await_routes(started: Instant, count: u32) -> Result<(Duration, Duration)> {
    let most = count - count / 100;
    let mut reached = None;
    while started.elapsed() < Duration::from_secs(60) {
        checkpoint()?;
        let begun = Instant::now();
        // The size of the table is cheap to ask for and says when to count.
        if prefixes()? >= most {
            let routes = routes()?;
            let now = started.elapsed();
            if routes >= most {
                reached.get_or_insert(now);
            }
            if let (Some(most), true) = (reached, routes >= count) {
                return Ok((most, now));
            }
        }
        // The kernel walks the whole table for it: who looks leaves the CPU to who is measured for the most part.
        thread::sleep(Duration::from_millis(1).max(begun.elapsed() * 9));
    }
    bail!("after 60 s there are {} routes to {count} peers", routes()?)
}

/// Number of prefixes in the IPv4 routing tables (net/ipv4/fib_trie.c, `fib_triestat`).
fn prefixes() -> Result<u32> {
    let text = fs::read_to_string("/proc/thread-self/net/fib_triestat").context("fib_triestat")?;
    Ok(text.lines().filter_map(|line| line.trim().strip_prefix("Prefixes:")?.trim().parse::<u32>().ok()).sum())
}

/// Number of /24 routes with a device in the main table.
fn routes() -> Result<u32> {
    let text = fs::read_to_string("/proc/thread-self/net/route").context("net/route")?;
    let peers = text.lines().filter(|line| line.contains("\t00FFFFFF\t") && !line.starts_with('*'));
    Ok(u32::try_from(peers.count())?)
}

/// Routes of VXLAN are of no use without the forwarding entries: one a peer.
fn check_fdb(netns: &Path, count: u32) -> Result<()> {
    let place = space::Place::host().in_netns(netns)?;
    let mut command = Command::new("bridge");
    command.args(["fdb", "show"]).stdout(std::process::Stdio::piped());
    let output = place.spawn(&mut command)?.wait_with_output()?;
    let entries = String::from_utf8_lossy(&output.stdout).lines().filter(|line| line.contains(" dst ")).count();
    ensure!(entries == count as usize, "{entries} forwarding entries for {count} peers");
    Ok(())
}

/// A goal for which no rival runs on this machine.
pub fn alone(what: &str, reach: &str, ours: String, good: bool) -> Goal {
    Goal {
        what: what.into(),
        reach: reach.into(),
        ours,
        rival: "none on this machine".into(),
        ratio: "–".into(),
        met: verdict(good),
    }
}
