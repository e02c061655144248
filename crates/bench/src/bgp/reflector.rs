//! A reflector with a thousand clients, each of which tells ten routes and is told those of all others.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::Result;
use ripstop_bgp::wire::{Attributes, NextHop, Nlri, announce};
use ripstop_lab::{ip_batch, settings};
use ripstop_types::Prefix;

use super::speaker::{Subject, Work};
use super::stub::{Stub, context};
use super::{Part, goal};
use crate::cpu::{self, ms};
use crate::report::Table;
use crate::scene::{NODES, Programs, Scene};
use crate::stat::Spread;

const CLIENTS: u32 = 1_000;
const ROUTES: u32 = 10;
const AS: u32 = 64_512;
const LIMIT: Duration = Duration::from_secs(300);
const SUBJECTS: [Subject; 2] = [Subject::Ripstop, Subject::Bird];

struct Run {
    up: f64,
    delivered: f64,
    cpu: f64,
    memory: f64,
}

/// Measures it.
pub fn reflector(programs: &Programs, rounds: usize) -> Result<Part> {
    let mut runs = [Vec::new(), Vec::new()];
    // A rival that cannot do it is told of, and is no reason to have no figures.
    let mut failures = Vec::new();
    for round in 0..rounds {
        for turn in 0..2 {
            let which = (round + turn) % 2;
            match run(programs, SUBJECTS[which]) {
                Ok(run) => runs[which].push(run),
                Err(error) if SUBJECTS[which] == Subject::Bird => failures.push(format!("{error:#}")),
                Err(error) => return Err(error),
            }
        }
    }
    let title = "1,000 clients, 10 routes each to all";
    let mut table = Table::new(&[title, "all sessions, s", "all delivered, s", "CPU s", "MiB"]);
    let mut goals = Vec::new();
    let of = |runs: &[Run], field: fn(&Run) -> f64| Spread::of(&runs.iter().map(field).collect::<Vec<_>>());
    for failure in failures {
        table.row(&["BIRD, a run that failed".into(), failure, "–".into(), "–".into(), "–".into()]);
    }
    for (subject, runs) in SUBJECTS.iter().zip(&runs).filter(|(_, runs)| !runs.is_empty()) {
        table.row(&[
            subject.title().into(),
            of(runs, |run| run.up).text(2),
            of(runs, |run| run.delivered).text(2),
            of(runs, |run| run.cpu).text(2),
            of(runs, |run| run.memory).text(0),
        ]);
    }
    let [ours, theirs] = &runs;
    let mut add = |what: &str, unit: &str, most: f64, decimals: usize, field: fn(&Run) -> f64| {
        let own = of(ours, field).median;
        let text = format!("{own:.decimals$} {unit}");
        let rival = match theirs.is_empty() {
            true => "BIRD: failed".to_owned(),
            false => format!("BIRD: {:.decimals$} {unit}", of(theirs, field).median),
        };
        goals.push(goal(
            &format!("reflector, {title}: {what}"),
            &format!("≤ {most} {unit}"),
            text,
            rival,
            "–".into(),
            own <= most,
        ));
    };
    add("all sessions", "s", 1.0, 2, |run| run.up);
    add("all delivered", "s", 3.0, 2, |run| run.delivered);
    add("memory", "MiB", 100.0, 0, |run| run.memory);
    Ok((goals, vec![table]))
}

fn run(programs: &Programs, subject: Subject) -> Result<Run> {
    let scene = Scene::new("bgp-reflector", programs)?;
    let (near, far) = scene.machines("near", "far")?;
    // Without an entry for each as a neighbour.
    ip_batch(&near, &format!("route add 10.77.0.0/16 via {}\n", NODES[1]))?;
    ip_batch(&far, "route add local 10.77.0.0/16 dev lo\n")?;
    settings(&near, &[("net/ipv4/tcp_max_syn_backlog", "4096")])?;
    let clients: Vec<Ipv4Addr> = (1..=CLIENTS).map(|n| Ipv4Addr::from_bits(0x0a4d_0000 + n)).collect();
    let running = subject.start(&scene, &near, "subject", Work::Reflector(&clients))?;
    let used = || cpu::of_process(running.pid()).map(|time| ms(time) / 1e3);
    let mut stub = Stub::new();
    let (before, begun) = (used()?, Instant::now());
    stub.connect(&far, &clients, AS, NODES[0])?;
    let up = stub.all_up(LIMIT)?;
    let told = Instant::now();
    for (n, client) in clients.iter().enumerate() {
        stub.send(n, feed(u32::try_from(n)?, *client).into());
    }
    let each = u64::from((CLIENTS - 1) * ROUTES);
    let all = stub.until("all routes", LIMIT, |peers| peers.iter().all(|peer| peer.announced >= each))?;
    Ok(Run {
        up: (up - begun).as_secs_f64(),
        delivered: (all - told).as_secs_f64(),
        cpu: used()? - before,
        memory: cpu::memory(running.pid(), "VmRSS")?,
    })
}

/// The UPDATE of a client's routes.
fn feed(client: u32, address: Ipv4Addr) -> Vec<u8> {
    let attributes = Attributes { local_pref: Some(100), ..Attributes::new(NextHop::V4(address)) };
    let block = |n: u32| Prefix::containing(Ipv4Addr::from_bits(0x1400_0000 + (client * ROUTES + n) * 64).into(), 26);
    let nlri: Vec<Nlri> = (0..ROUTES).filter_map(|n| block(n).map(Nlri::of)).collect();
    let mut bytes = Vec::new();
    // There is room for it, as the tests of the codec show.
    let _ = announce(&mut bytes, &context(true), &attributes, &nlri);
    bytes
}
