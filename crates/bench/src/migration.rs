//! A cluster of ten nodes goes from one backend to another and back, under probes between all its pods.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ripstop_lab::{Backend, Lab, Options, Pairs, PodSpec};

use crate::agents::alone;
use crate::report::{Section, Table};
use crate::scene::{Programs, checkpoint};
use crate::stat::Spread;

const NODES: u32 = 10;
/// Probes a second of each pair.
const RATE: u32 = 100;

/// Measures it, each round in the other direction.
pub fn migration(programs: &Programs, rounds: usize) -> Result<Section> {
    let options = Options {
        nodes: NODES,
        backend: Backend::Vxlan,
        ripstop: Some(programs.ripstop.clone()),
        plugin: Some(programs.plugin.clone()),
        replace: true,
        ..Options::named("bench-migration")
    };
    let lab = Lab::up(&options)?;
    for node in 1..=NODES {
        lab.pod_add(&PodSpec::new(&format!("p{node}"), node))?;
    }
    let all: Vec<u32> = (1..=NODES).collect();
    lab.wait_paths(&all, &all, Duration::from_secs(30))?;
    let prober = lab.probe(RATE, &Pairs::All)?;
    let mut took = [Vec::new(), Vec::new()];
    for round in 0..rounds.max(2) {
        checkpoint()?;
        let way = round % 2;
        took[way].push(migrate(programs, &lab, ["host-gw", "vxlan"][way])?);
    }
    std::thread::sleep(Duration::from_millis(500));
    let report = prober.stop()?;
    lab.down()?;
    let mut table = Table::new(&["a cluster of 10 nodes, one pod each, under probes of all pairs", "measured"]);
    for (way, seconds) in ["vxlan to host-gw", "host-gw to vxlan"].into_iter().zip(&took) {
        table.row(&[format!("{way}, s: min / median / max"), Spread::of(seconds).text(2)]);
    }
    table.row(&["probes sent".into(), report.sent.to_string()]);
    table.row(&["probes lost".into(), report.lost.to_string()]);
    table.row(&["longest gap of a pair, ms".into(), format!("{:.1}", report.max_gap_ms)]);
    let slowest = took.iter().map(|seconds| Spread::of(seconds).median).fold(0.0, f64::max);
    let held = slowest <= 10.0 && report.lost == 0;
    let ours = format!("{slowest:.2} s, {} of {} probes lost", report.lost, report.sent);
    let goals = vec![alone("migration of 10 nodes", "≤ 10 s, 0 lost", ours, held)];
    Ok(Section { id: "migration", title: "Migration of a running cluster", goals, tables: vec![table] })
}

/// Seconds until the command says that the cluster has the backend.
fn migrate(programs: &Programs, lab: &Lab, backend: &str) -> Result<f64> {
    let begun = Instant::now();
    let output = Command::new(&programs.ripstop)
        .args(["--lab", lab.layout().lab(), "--node", "1", "migrate", "backend", backend, "--timeout", "60s"])
        .stdin(Stdio::null())
        .output()
        .context("start ripstop migrate")?;
    ensure!(output.status.success(), "migrate to {backend}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(begun.elapsed().as_secs_f64())
}
