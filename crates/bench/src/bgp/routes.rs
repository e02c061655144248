//! A table through a speaker: one peer tells it, another one hears it; then the first one goes.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use ripstop_bgp::wire::{AsPath, Attributes, NextHop, Nlri, announce};
use ripstop_lab::ip_batch;
use ripstop_types::Prefix;

use super::speaker::{Subject, Work};
use super::stub::{Stub, context};
use super::{Part, goal};
use crate::cpu::{self, ms};
use crate::report::Table;
use crate::scene::{NODES, Programs, Scene};
use crate::stat::{Spread, ratios};

/// Who tells and who hears.
const TELLS: (Ipv4Addr, u32) = (Ipv4Addr::new(172, 30, 0, 2), 65_001);
const HEARS: (Ipv4Addr, u32) = (Ipv4Addr::new(172, 30, 0, 3), 65_002);
const LIMIT: Duration = Duration::from_secs(120);
const SUBJECTS: [Subject; 2] = [Subject::Ripstop, Subject::Bird];

/// A table: how many routes, and how many of them have the same attributes.
#[derive(Debug, Clone, Copy)]
struct Shape {
    title: &'static str,
    routes: u32,
    share: u32,
}

const SHAPES: [Shape; 3] = [
    Shape { title: "100,000 routes, one set of attributes", routes: 100_000, share: 100_000 },
    Shape { title: "1,000,000 routes, one set of attributes", routes: 1_000_000, share: 1_000_000 },
    Shape { title: "1,000,000 routes, ten routes a set", routes: 1_000_000, share: 10 },
];

/// What one speaker took for one table.
#[derive(Debug, Clone, Copy, Default)]
struct Run {
    /// Seconds from the connection until all was heard, and from its end until all was heard to be gone.
    come: f64,
    gone: f64,
    /// CPU seconds of both.
    cpu: f64,
    cpu_gone: f64,
    /// MiB when all had been heard.
    memory: f64,
}

/// Measures all tables.
pub fn routes(programs: &Programs, rounds: usize) -> Result<Part> {
    let mut table = Table::new(&[
        "routes from one peer to another",
        "speaker",
        "all heard, s",
        "CPU s",
        "MiB",
        "withdrawn, s",
        "CPU s",
    ]);
    let mut goals = Vec::new();
    for shape in SHAPES {
        let feed = feed(shape);
        let mut runs = [Vec::new(), Vec::new()];
        for round in 0..rounds {
            for turn in 0..2 {
                let which = (round + turn) % 2;
                runs[which].push(run(programs, SUBJECTS[which], shape, &feed)?);
            }
        }
        for (subject, runs) in SUBJECTS.iter().zip(&runs) {
            let of = |field: fn(&Run) -> f64| Spread::of(&runs.iter().map(field).collect::<Vec<_>>());
            table.row(&[
                shape.title.into(),
                subject.title().into(),
                of(|run| run.come).text(2),
                of(|run| run.cpu).text(2),
                of(|run| run.memory).text(0),
                of(|run| run.gone).text(2),
                of(|run| run.cpu_gone).text(2),
            ]);
        }
        goals.extend(judged(shape, &runs));
    }
    Ok((goals, vec![table]))
}

fn judged(shape: Shape, runs: &[Vec<Run>; 2]) -> Vec<crate::report::Goal> {
    let [ours, theirs] = runs;
    let of = |runs: &[Run], field: fn(&Run) -> f64| runs.iter().map(field).collect::<Vec<_>>();
    let beside = |what: &str, unit: &str, decimals: usize, field: fn(&Run) -> f64| {
        let (own, their) = (of(ours, field), of(theirs, field));
        let ratio = Spread::of(&ratios(&own, &their));
        goal(
            &format!("{}: {what}", shape.title),
            "≤ BIRD's",
            format!("{:.decimals$} {unit}", Spread::of(&own).median),
            format!("BIRD: {:.decimals$} {unit}", Spread::of(&their).median),
            ratio.text(2),
            ratio.median <= 1.0,
        )
    };
    let alone = |what: &str, field: fn(&Run) -> f64| {
        let (own, their) = (Spread::of(&of(ours, field)), Spread::of(&of(theirs, field)));
        let (text, rival) = (format!("{:.2} s", own.median), format!("BIRD: {:.2} s", their.median));
        goal(&format!("{}: {what}", shape.title), "≤ 0.5 s", text, rival, "–".into(), own.median <= 0.5)
    };
    let time = if shape.routes < 1_000_000 {
        alone("until all is heard", |run| run.come)
    } else {
        alone("withdrawn", |run| run.gone)
    };
    vec![time, beside("CPU", "s", 2, |run| run.cpu), beside("memory", "MiB", 0, |run| run.memory)]
}

/// UPDATEs that tell the table.
fn feed(shape: Shape) -> Arc<[u8]> {
    let mut bytes = Vec::new();
    for set in 0..shape.routes / shape.share {
        let mut attributes = Attributes {
            as_path: AsPath::sequence(&[TELLS.1, 65_100, 1 + set % 60_000]),
            ..Attributes::new(NextHop::V4(TELLS.0))
        };
        attributes.med = Some(set);
        let host = |n: u32| Prefix::host(Ipv4Addr::from_bits(0x1400_0000 + set * shape.share + n).into());
        let nlri: Vec<Nlri> = (0..shape.share).map(|n| Nlri::of(host(n))).collect();
        // There is room for it, as the tests of the codec show.
        let _ = announce(&mut bytes, &context(false), &attributes, &nlri);
    }
    bytes.into()
}

fn run(programs: &Programs, subject: Subject, shape: Shape, feed: &Arc<[u8]>) -> Result<Run> {
    let scene = Scene::new("bgp-routes", programs)?;
    let (near, far) = scene.machines("near", "far")?;
    ip_batch(&far, &format!("addr add {}/16 dev eth0\n", HEARS.0))?;
    let running = subject.start(&scene, &near, "subject", Work::Transit(&[TELLS, HEARS]))?;
    let used = || cpu::of_process(running.pid()).map(|time| ms(time) / 1e3);
    let mut stub = Stub::new();
    stub.connect(&far, &[HEARS.0], HEARS.1, NODES[0])?;
    stub.all_up(LIMIT)?;
    let all = u64::from(shape.routes);
    let (before, begun) = (used()?, Instant::now());
    stub.connect(&far, &[TELLS.0], TELLS.1, NODES[0])?;
    stub.send(1, feed.clone());
    let heard = stub.until("all routes", LIMIT, |peers| peers[0].announced >= all)?;
    let (come, memory, after) = ((heard - begun).as_secs_f64(), cpu::memory(running.pid(), "VmRSS")?, used()?);
    let ended = Instant::now();
    stub.peers.truncate(1);
    let gone = stub.until("all withdrawals", LIMIT, |peers| peers[0].withdrawn >= all)?;
    let gone = (gone - ended).as_secs_f64();
    Ok(Run { come, gone, cpu: after - before, cpu_gone: used()? - after, memory })
}
