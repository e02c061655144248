//! A silent cut: one of two routers is heard no more, while every link stays up, until the kernel's route goes by the other one alone.
//!
//! The cut is a switch's port that is isolated from another one, so its moment is known, and nobody is told of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ripstop_lab::{ip_batch, settings, space};
use serde_json::json;

use super::speaker::{BIRD, Subject};
use super::watch::Watch;
use super::{Part, apply, goal};
use crate::report::Table;
use crate::scene::{Agent, Programs, Running, Scene, wait_for};
use crate::stat::{Spread, quantile};
use crate::switch::Switch;

const TARGET: &str = "203.0.113.0/24";
const NODE: &str = "172.30.0.1";
const ROUTERS: [&str; 2] = ["172.30.0.2", "172.30.0.3"];
const LIMIT: Duration = Duration::from_secs(20);
const SUBJECTS: [Subject; 2] = [Subject::Ripstop, Subject::Bird];
/// How long a route by both stands before a cut: until BFD has come to its pace.
const SETTLED: Duration = Duration::from_millis(2_500);
/// Cuts with timers of so many milliseconds.
const CUTS: usize = 10;

/// Measures it with BFD at 10 ms × 3 and at 50 ms × 3.
pub fn cut(programs: &Programs, rounds: usize) -> Result<Part> {
    let mut table = Table::new(&["silent cut to the kernel's repaired route, ms", "node", "p50", "min / median / max"]);
    let mut goals = Vec::new();
    for (interval, most, reach) in [(10, 35.0, "median ≤ 35 ms"), (50, 150.0, "worst ≤ 150 ms")] {
        let mut taken = [Vec::new(), Vec::new()];
        for (which, subject) in SUBJECTS.into_iter().enumerate() {
            let site = Site::build(programs, subject, interval)?;
            for _ in 0..CUTS * rounds {
                taken[which].push(site.cut()?);
            }
        }
        for (subject, taken) in SUBJECTS.iter().zip(&taken) {
            let title = format!("BFD {interval} ms × 3");
            table.row(&[
                title,
                subject.title().into(),
                format!("{:.1}", quantile(taken, 0.5)),
                Spread::of(taken).text(1),
            ]);
        }
        let [own, their] = taken.map(|taken| Spread::of(&taken));
        let value = |spread: Spread| if interval == 10 { spread.median } else { spread.max };
        let what = format!("silent cut, BFD {interval} ms × 3, ECMP repaired in the kernel");
        let (ours, rival) = (format!("{} ms", own.text(1)), format!("BIRD: {} ms", their.text(1)));
        goals.push(goal(&what, reach, ours, rival, "–".into(), value(own) <= most));
    }
    Ok((goals, vec![table]))
}

/// A node and two routers at a switch.
struct Site {
    watch: Watch,
    switch: Switch,
    node: PathBuf,
    _agent: Option<Agent>,
    _running: Vec<Running>,
    _scene: Scene,
}

impl Site {
    fn build(programs: &Programs, subject: Subject, interval: u32) -> Result<Self> {
        let mut scene = Scene::new(&format!("bgp-cut-{interval}-{}", subject.title()), programs)?;
        let switch = scene.netns("switch")?;
        ip_batch(&switch, "link add br0 type bridge\nlink set br0 up\n")?;
        let node = machine(&scene, &switch, "node", NODE)?;
        settings(&node, &[("net/ipv4/ip_forward", "1")])?;
        let mut running = Vec::new();
        for (n, address) in ROUTERS.into_iter().enumerate() {
            let name = format!("r{}", n + 1);
            let netns = machine(&scene, &switch, &name, address)?;
            running.push(bird(&scene, &netns, &name, &router(address, interval))?);
        }
        let mut agent = None;
        match subject {
            Subject::Bird => running.push(bird(&scene, &node, "node", &rival(interval))?),
            Subject::Ripstop => {
                let spec = json!({ "ranges": ["10.244.0.0/16"], "backend": { "type": "bgp" } });
                let started = scene.agent("n1", &node, &spec)?;
                started.wait_ready()?;
                apply(&scene, "n1", &manifest(interval))?;
                agent = Some(started);
            }
        }
        let watch = Watch::start(&node, &["route", "nexthop"])?;
        let switch = Switch::open(&switch)?;
        // Isolated ports do not reach each other: the node's is one, and the router that is cut becomes another.
        switch.isolate("node", true)?;
        let site = Self { watch, switch, node, _agent: agent, _running: running, _scene: scene };
        site.wait_both()?;
        Ok(site)
    }

    /// Whether the route goes by each of the routers.
    fn ways(&self) -> [bool; 2] {
        let said = Command::new("nsenter")
            .arg(format!("--net={}", self.node.display()))
            .args(["ip", "route", "show", TARGET])
            .output();
        let text = said.map(|said| String::from_utf8_lossy(&said.stdout).into_owned()).unwrap_or_default();
        ROUTERS.map(|router| text.contains(&format!("via {router} ")))
    }

    /// Both routers are used, and BFD has come to its pace.
    fn wait_both(&self) -> Result<()> {
        let mut since = Instant::now();
        // On a busy machine a session may go down by itself meanwhile.
        wait_for("a route by both routers that stays", Duration::from_secs(60), || {
            thread::sleep(Duration::from_millis(50));
            if self.ways() != [true, true] {
                since = Instant::now();
            }
            since.elapsed() > SETTLED
        })
    }

    /// Milliseconds from a cut to the repaired route; then all is as before.
    fn cut(&self) -> Result<f64> {
        let begun = Instant::now();
        self.switch.isolate("r1", true)?;
        let [gone, left] = ROUTERS.map(|router| format!("via {router} "));
        let is = |line: &str| {
            let route = line.starts_with(TARGET) && !line.contains(&gone);
            let hops = line.contains(&left) || line.contains("nhid");
            route && hops
        };
        let at = self.watch.wait("a repaired route", begun, LIMIT, is)?;
        ensure!(self.ways() == [false, true], "the route goes by {:?}", self.ways());
        self.switch.isolate("r1", false)?;
        self.wait_both()?;
        Ok((at - begun).as_secs_f64() * 1e3)
    }
}

/// A namespace at the switch.
fn machine(scene: &Scene, switch: &Path, name: &str, address: &str) -> Result<PathBuf> {
    let netns = scene.netns(name)?;
    let peer = netns.file_name().context("a namespace")?.to_string_lossy().into_owned();
    ip_batch(
        switch,
        &format!("link add {name} type veth peer name eth0 netns {peer}\nlink set {name} master br0 up\n"),
    )?;
    let lines = ["link set lo up", "link set eth0 up", &format!("addr add {address}/16 dev eth0")];
    ip_batch(&netns, &(lines.join("\n") + "\n"))?;
    Ok(netns)
}

/// BIRD in a namespace.
pub fn bird(scene: &Scene, netns: &Path, name: &str, conf: &str) -> Result<Running> {
    ensure!(Path::new(BIRD).exists(), "BIRD (package bird2) is not installed");
    let file = |end: &str| scene.run().join(format!("{name}.{end}"));
    fs::write(file("conf"), conf).context("write a file")?;
    let mut command = Command::new(BIRD);
    command.arg("-f").arg("-c").arg(file("conf")).arg("-s").arg(file("ctl")).arg("-P").arg(file("pid"));
    Running::start(&space::Place::host().in_netns(netns)?, &mut command, &file("log"))
}

fn fast(interval: u32) -> String {
    format!("protocol bfd {{ interface \"*\" {{ interval {interval} ms; multiplier 3; }}; }}\n")
}

/// A router that announces the target.
fn router(address: &str, interval: u32) -> String {
    format!(
        "log stderr all;\nrouter id {address};\nprotocol device {{}}\n{}protocol static {{ ipv4; route {TARGET} unreachable; }}\n\
         protocol bgp node {{ local {address} as 65000; neighbor {NODE} as 64512; bfd on; error wait time 1, 2; connect retry time 1;\n  \
         connect delay time 1; ipv4 {{ import all; export where source = RTS_STATIC; next hop self; }}; }}\n",
        fast(interval)
    )
}

/// BIRD in the node's place.
fn rival(interval: u32) -> String {
    let peers: String = ROUTERS
        .iter()
        .enumerate()
        .map(|(n, router)| {
            format!(
                "protocol bgp r{n} {{ local {NODE} as 64512; neighbor {router} as 65000; bfd on; error wait time 1, 2; connect retry time 1; \
                 connect delay time 1; ipv4 {{ import all; export none; }}; }}\n"
            )
        })
        .collect();
    format!(
        "log stderr all;\nrouter id {NODE};\nprotocol device {{}}\n{}protocol kernel {{ merge paths on; ipv4 {{ import none; export where \
         source = RTS_BGP; }}; }}\n{peers}",
        fast(interval)
    )
}

/// The product in the node's place.
fn manifest(interval: u32) -> String {
    let head = |kind: &str, name: &str| {
        format!("---\napiVersion: ripstop.io/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: ")
    };
    let bfd = format!("{{transmitIntervalMs: {interval}, receiveIntervalMs: {interval}, multiplier: 3}}");
    let peers: String = ROUTERS
        .iter()
        .enumerate()
        .map(|(n, router)| {
            let spec = format!("{{peerIP: {router}, asNumber: 65000, filters: [any], bfd: {bfd}}}\n");
            head("BgpPeer", &format!("r{}", n + 1)) + &spec
        })
        .collect();
    let filter = format!("{{importV4: [{{action: Accept, cidr: {TARGET}, matchOperator: In}}]}}\n");
    head("BgpFilter", "any") + &filter + &peers
}
