//! Many pods at once on a real Kubernetes: kubelet and containerd call the plugins, as everywhere.
//!
//! The pods only wait, so what is measured is how soon they run: scheduling, sandbox, network, container; and of it what
//! the network takes, by containerd's own clock around the calls of a sandbox's plugins, loopback included.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ripstop_lab::{Cni, Lab, Options, PAUSE, RUNTIME_METRICS, Target};
use serde_json::{Value, json};

use crate::report::{Goal, Section, Table, verdict};
use crate::scene::{Programs, checkpoint};
use crate::stat::Spread;

const NODES: u32 = 3;
const PODS: u32 = 100;
/// Of the rivals' network time.
const REACH: f64 = 0.25;
const LIMIT: Duration = Duration::from_secs(180);

const RIVALS: [(Cni, &str); 3] = [
    (Cni::Ripstop, "Ripstop, vxlan"),
    (Cni::Reference, "bridge, static routes"),
    (Cni::Flannel, "bridge, flanneld's vxlan"),
];

/// What one cluster took.
struct Round {
    /// Seconds from the request until all pods are ready.
    wall: f64,
    /// Milliseconds of a sandbox with its network, on average.
    sandbox: f64,
    /// Milliseconds of the network of it.
    network: f64,
}

/// Measures it in several rounds, each on new clusters; nothing where Kubernetes' programs were not built.
pub fn kubernetes(programs: &Programs, rounds: usize) -> Result<Section> {
    let head = format!("{PODS} pods at once over {NODES} nodes of Kubernetes");
    let means = ["sandbox with network, ms: mean of a node's pods", "the network of it, ms"];
    let mut table = Table::new(&[&head, "until all are ready, s", means[0], means[1]]);
    let title = "Many pods at once on a real Kubernetes";
    let mut section = Section { id: "kubernetes", title, goals: Vec::new(), tables: Vec::new() };
    let mut found: Vec<Vec<Round>> = RIVALS.iter().map(|_| Vec::new()).collect();
    for round in 0..rounds {
        for turn in 0..RIVALS.len() {
            let index = (round + turn) % RIVALS.len();
            checkpoint()?;
            match planned(programs, RIVALS[index].0) {
                Ok(options) => found[index].push(one(&options)?),
                Err(why) => eprintln!("bench: kubernetes, {}: not measured: {why}", RIVALS[index].1),
            }
        }
    }
    for ((_, name), rounds) in RIVALS.iter().zip(&found).filter(|(_, rounds)| !rounds.is_empty()) {
        let of = |field: fn(&Round) -> f64| Spread::of(&rounds.iter().map(field).collect::<Vec<_>>()).text(1);
        let row = [of(|round| round.wall), of(|round| round.sandbox), of(|round| round.network)];
        table.row(&[&[(*name).to_owned()], &row[..]].concat());
    }
    if let [ours, rivals @ ..] = found.as_slice() {
        let rivals = RIVALS[1..].iter().zip(rivals).filter(|(_, rounds)| !rounds.is_empty() && !ours.is_empty());
        section.goals.extend(rivals.map(|((_, name), rival)| goal(ours, name, rival)));
    }
    section.tables.push(table);
    Ok(section)
}

/// What the network of a pod takes, beside a rival's.
fn goal(ours: &[Round], name: &str, rival: &[Round]) -> Goal {
    let of = |rounds: &[Round]| Spread::of(&rounds.iter().map(|round| round.network).collect::<Vec<_>>());
    let ratios: Vec<f64> = ours.iter().zip(rival).map(|(ours, rival)| ours.network / rival.network).collect();
    let (ours, rival, ratio) = (of(ours), of(rival), Spread::of(&ratios));
    Goal {
        what: format!("{PODS} pods at once on Kubernetes: network time of each, beside {name}"),
        reach: format!("≤ {REACH} × theirs"),
        ours: format!("{} ms", ours.text(1)),
        rival: format!("{name}: {} ms", rival.text(1)),
        ratio: ratio.text(3),
        met: verdict(ratio.median <= REACH),
    }
}

fn planned(programs: &Programs, cni: Cni) -> ripstop_lab::Result<Options> {
    let options = Options {
        nodes: NODES,
        ripstop: Some(programs.ripstop.clone()),
        plugin: Some(programs.plugin.clone()),
        replace: true,
        ready_timeout: LIMIT,
        ..Options::named("bench-k8s")
    };
    options.with_kubernetes(cni)
}

fn one(options: &Options) -> Result<Round> {
    let lab = Lab::up(options)?;
    let pod = |number: u32| {
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("p{number}"), "labels": {"app": "many"}},
            "spec": {
                "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false,
                "containers": [{"name": "pause", "image": PAUSE}],
            },
        })
    };
    let items: Vec<Value> = (0..PODS).map(pod).collect();
    let file = lab.layout().dir().join("pods.json");
    std::fs::write(&file, json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string())?;
    let before = [sandboxes(&lab)?, networks(&lab)?];
    let begun = Instant::now();
    kubectl(&lab, &["create", "--validate=false", "-f", &file.display().to_string()])?;
    kubectl(&lab, &["wait", "--for=condition=Ready", "pod", "-l", "app=many", "--timeout=180s"])?;
    let wall = begun.elapsed().as_secs_f64();
    let after = [sandboxes(&lab)?, networks(&lab)?];
    let mean = |which: usize| -> Result<f64> {
        let (seconds, count) = (after[which].0 - before[which].0, after[which].1 - before[which].1);
        ensure!(count >= f64::from(PODS), "{count} sandboxes are counted for {PODS} pods");
        Ok(seconds / count * 1e3)
    };
    let (sandbox, network) = (mean(0)?, mean(1)?);
    lab.down()?;
    Ok(Round { wall, sandbox, network })
}

/// Seconds that sandboxes took so far, and how many there were: kubelet's own count.
fn sandboxes(lab: &Lab) -> Result<(f64, f64)> {
    let mut sums = (0.0, 0.0);
    for node in 1..=NODES {
        let text = kubectl(lab, &["get", "--raw", &format!("/api/v1/nodes/n{node}/proxy/metrics")])?;
        let name = "kubelet_run_podsandbox_duration_seconds";
        sums = (sums.0 + metric(&text, name, "sum", "")?, sums.1 + metric(&text, name, "count", "")?);
    }
    Ok(sums)
}

/// Seconds that the networks of sandboxes took so far, and how many there were: containerd's own count.
fn networks(lab: &Lab) -> Result<(f64, f64)> {
    let (mut sums, url) = ((0.0, 0.0), format!("http://{RUNTIME_METRICS}/v1/metrics"));
    for node in 1..=NODES {
        let text = lab.exec(&Target::Node(node), &["curl", "-sS", "--max-time", "5", &url])?;
        let (name, of) = ("containerd_cri_network_plugin_operations_duration_seconds", "set_up_pod");
        sums = (sums.0 + metric(&text, name, "sum", of)?, sums.1 + metric(&text, name, "count", of)?);
    }
    Ok(sums)
}

/// One value of a histogram in Prometheus' text form, with a label's value.
fn metric(text: &str, name: &str, end: &str, of: &str) -> Result<f64> {
    let is_it = |line: &&str| {
        let metric = line.split([' ', '{']).next().unwrap_or_default();
        metric.starts_with(name) && metric.ends_with(&format!("_{end}")) && line.contains(of)
    };
    // There is no line before the first pod.
    let Some(line) = text.lines().find(is_it) else { return Ok(0.0) };
    line.rsplit(' ').next().context("a value")?.parse().context("a number")
}

fn kubectl(lab: &Lab, args: &[&str]) -> Result<String> {
    let argv: Vec<String> = lab.kubectl()?.into_iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let argv: Vec<&str> = argv.iter().map(String::as_str).chain(args.iter().copied()).collect();
    Ok(lab.exec(&Target::Control, &argv)?)
}
