//! Many pods at once on a real Kubernetes: kubelet and containerd call the plugins, as everywhere.
//!
//! The pods only wait, so what is measured is how soon they run: scheduling, sandbox, network, container.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ripstop_lab::{Cni, Lab, Options, PAUSE, Target};
use serde_json::{Value, json};

use crate::report::{Goal, Section, Table, verdict};
use crate::scene::{Programs, checkpoint};
use crate::stat::Spread;

const NODES: u32 = 3;
const PODS: u32 = 100;
/// How much longer than with the CNI project's plugins it may take: what else the nodes do spreads more than that.
const REACH: f64 = 1.1;
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
}

/// Measures it in several rounds, each on new clusters; nothing where Kubernetes' programs were not built.
pub fn kubernetes(programs: &Programs, rounds: usize) -> Result<Section> {
    let head = format!("{PODS} pods at once over {NODES} nodes of Kubernetes");
    let mut table = Table::new(&[&head, "until all are ready, s", "sandbox with network, ms: mean of a node's pods"]);
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
        table.row(&[(*name).to_owned(), of(|round| round.wall), of(|round| round.sandbox)]);
    }
    if let [ours, rival, ..] = found.as_slice()
        && !ours.is_empty()
        && !rival.is_empty()
    {
        let wall = |rounds: &[Round]| Spread::of(&rounds.iter().map(|round| round.wall).collect::<Vec<_>>());
        let (ours, rival) = (wall(ours), wall(rival));
        let ratio = ours.median / rival.median;
        section.goals.push(Goal {
            what: format!("{PODS} pods at once on Kubernetes, all ready"),
            reach: format!("≤ {REACH} × bridge and static routes"),
            ours: format!("{} s", ours.text(1)),
            rival: format!("{} s", rival.text(1)),
            ratio: format!("{ratio:.2}"),
            met: verdict(ratio <= REACH),
        });
    }
    section.tables.push(table);
    Ok(section)
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
    let before = sandboxes(&lab)?;
    let begun = Instant::now();
    kubectl(&lab, &["create", "--validate=false", "-f", &file.display().to_string()])?;
    kubectl(&lab, &["wait", "--for=condition=Ready", "pod", "-l", "app=many", "--timeout=180s"])?;
    let wall = begun.elapsed().as_secs_f64();
    let after = sandboxes(&lab)?;
    let (seconds, count) = (after.0 - before.0, after.1 - before.1);
    ensure!(count >= f64::from(PODS), "kubelet counts {count} sandboxes");
    lab.down()?;
    Ok(Round { wall, sandbox: seconds / count * 1e3 })
}

/// Seconds that sandboxes took so far, and how many there were: kubelet's own count.
fn sandboxes(lab: &Lab) -> Result<(f64, f64)> {
    let mut sums = (0.0, 0.0);
    for node in 1..=NODES {
        let text = kubectl(lab, &["get", "--raw", &format!("/api/v1/nodes/n{node}/proxy/metrics")])?;
        let value = |end: &str| -> Result<f64> {
            let start = format!("kubelet_run_podsandbox_duration_seconds_{end}");
            let mut lines = text.lines().filter(|line| line.starts_with(&start)).peekable();
            // There is no line before the first pod.
            lines.peek().map_or(Ok(0.0), |line| line.rsplit(' ').next().context("a value")?.parse().context("a number"))
        };
        sums = (sums.0 + value("sum")?, sums.1 + value("count")?);
    }
    Ok(sums)
}

fn kubectl(lab: &Lab, args: &[&str]) -> Result<String> {
    let argv: Vec<String> = lab.kubectl()?.into_iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let argv: Vec<&str> = argv.iter().map(String::as_str).chain(args.iter().copied()).collect();
    Ok(lab.exec(&Target::Control, &argv)?)
}
