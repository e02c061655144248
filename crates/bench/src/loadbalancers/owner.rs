//! An owner is lost: until another speaks, how long a client waits, and how long two are seen.
//!
//! A run is one fault; an address of either family of the node that it hits is watched. The times are those of packets at the kernel, from
//! just before the fault is made.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::flow;
use super::keepalived::{self, Keepalived};
use super::ripstop::Ripstop;
use super::segment::Told;
use super::site::{Fault, Site, now};
use crate::report::{Goal, Section, Table, verdict};
use crate::scene::{Programs, checkpoint};
use crate::stat::{Spread, quantile};

/// Runs at the usual number of rounds.
const RUNS: usize = 200;
const ROUNDS: usize = 15;
/// Before a fault, while it lasts, and behind it.
const WARM: Duration = Duration::from_millis(300);
const LASTS: Duration = Duration::from_secs(1);
const AFTER: Duration = Duration::from_millis(500);

/// Who owns addresses.
pub trait Side {
    /// In a table.
    fn title(&self) -> &'static str;
    fn site(&self) -> &Site;
    /// Waits until all is well, and names who is hit in this run.
    fn victim(&mut self, run: usize) -> Result<Victim>;
    fn freeze(&mut self, node: u32) -> Result<()>;
    fn wake(&mut self, node: u32) -> Result<()>;
    fn kill(&mut self, node: u32) -> Result<()>;
    fn revive(&mut self, node: u32) -> Result<()>;
    /// All that was wrong is mended.
    fn healed(&mut self);
}

/// A node, and an address of IPv4 and of IPv6 that it owns.
#[derive(Debug, Clone, Copy)]
pub struct Victim {
    pub node: u32,
    pub addresses: [IpAddr; 2],
}

/// What one run showed of one address, in milliseconds; endless where it did not come while it was watched.
#[derive(Debug, Clone, Copy)]
struct Seen {
    speaks: f64,
    gap: f64,
    two: f64,
}

/// By who owns, what happened, and whether it is IPv4.
type Found = BTreeMap<(&'static str, Fault, bool), Vec<Seen>>;

/// Measures it.
pub fn lost(programs: &Programs, rounds: usize) -> Result<Section> {
    let mut sides: Vec<Box<dyn Side>> = vec![Box::new(Ripstop::start(programs)?)];
    if keepalived::is_there() {
        sides.push(Box::new(Keepalived::start(programs)?));
    } else {
        eprintln!("bench: loadbalancers-owner: SKIPPED beside keepalived: package keepalived is not installed");
    }
    let mut found = Found::new();
    let runs = (RUNS * rounds).div_ceil(ROUNDS).next_multiple_of(Fault::ALL.len());
    for run in 0..runs {
        let fault = Fault::ALL[run % Fault::ALL.len()];
        for turn in 0..sides.len() {
            checkpoint()?;
            let which = (run / Fault::ALL.len() + turn) % sides.len();
            let side = sides[which].as_mut();
            for (address, seen) in strike(side, fault, run / Fault::ALL.len())? {
                found.entry((side.title(), fault, address.is_ipv4())).or_default().push(seen);
            }
        }
    }
    Ok(section(&found))
}

/// One run.
fn strike(side: &mut dyn Side, fault: Fault, run: usize) -> Result<Vec<(IpAddr, Seen)>> {
    let Victim { node, addresses } = side.victim(run)?;
    let [segment, outside] = side.site().captures()?;
    let asking = side.site().ask(&addresses)?;
    let client = flow::client(&side.site().outside(), &addresses)?;
    thread::sleep(WARM);
    let begun = now();
    match fault {
        Fault::Frozen => side.freeze(node)?,
        Fault::Killed => side.kill(node)?,
        Fault::PortDown => side.site().plug(node, false)?,
        Fault::Partition => side.site().part(node, true)?,
    }
    thread::sleep(LASTS);
    let over = now();
    match fault {
        Fault::Frozen => side.wake(node)?,
        Fault::Killed => side.revive(node)?,
        Fault::PortDown => side.site().plug(node, true)?,
        Fault::Partition => side.site().part(node, false)?,
    }
    thread::sleep(AFTER);
    drop((asking, client));
    let (segment, outside) = (segment.stop()?, outside.stop()?);
    side.healed();
    let mac = Site::mac(node)?;
    let ms = |nanos: u64| Duration::from_nanos(nanos).as_secs_f64() * 1e3;
    let seen = |address: IpAddr| {
        let told = Told::of(address, begun, &segment);
        let speaks = told.other_than(mac).map_or(f64::INFINITY, |at| ms(at - begun));
        let gap = flow::gap(address, [begun - 50_000_000, over], &outside).map_or(f64::INFINITY, ms);
        (address, Seen { speaks, gap, two: ms(told.two_owners()) })
    };
    Ok(addresses.map(seen).into())
}

fn section(found: &Found) -> Section {
    let mut table = Table::new(&[
        "owner lost",
        "address of",
        "by",
        "runs",
        "another speaks, ms: min / median / p99 / max",
        "longest gap of a client, ms",
        "two owners seen, ms",
    ]);
    let mut rows: Vec<_> = found.iter().collect();
    rows.sort_by_key(|((title, fault, v4), _)| (*fault, !v4, *title != "ripstop"));
    for ((title, fault, v4), seen) in rows {
        let of = |field: fn(&Seen) -> f64| text(&seen.iter().map(field).collect::<Vec<_>>());
        table.row(&[
            fault.title().into(),
            if *v4 { "IPv4" } else { "IPv6" }.into(),
            (*title).into(),
            seen.len().to_string(),
            of(|seen| seen.speaks),
            of(|seen| seen.gap),
            of(|seen| seen.two),
        ]);
    }
    Section {
        id: "loadbalancers-owner",
        title: "LoadBalancer addresses: an owner is lost",
        goals: goals(found),
        tables: vec![table],
    }
}

/// `min / median / p99 / max`.
fn text(values: &[f64]) -> String {
    let Spread { min, median, max } = Spread::of(values);
    format!("{min:.1} / {median:.1} / {:.1} / {max:.1}", quantile(values, 0.99))
}

fn goals(found: &Found) -> Vec<Goal> {
    let all = |side: &str, faults: &[Fault], field: fn(&Seen) -> f64| -> Vec<f64> {
        let of = found.iter().filter(|((title, fault, _), _)| *title == side && faults.contains(fault));
        of.flat_map(|(_, seen)| seen).map(field).collect()
    };
    let goal = |what: &str, reach: &str, faults: &[Fault], field: fn(&Seen) -> f64, q: f64, most: f64| {
        let (ours, theirs) = (all("ripstop", faults, field), all("keepalived", faults, field));
        let rival =
            if theirs.is_empty() { "not installed".into() } else { format!("keepalived: {} ms", text(&theirs)) };
        Goal {
            what: format!("LoadBalancer: {what}"),
            reach: reach.into(),
            ours: format!("{} ms", text(&ours)),
            rival,
            ratio: "–".into(),
            met: verdict(!ours.is_empty() && quantile(&ours, q) <= most),
        }
    };
    let lost = &[Fault::Frozen, Fault::Killed, Fault::PortDown];
    vec![
        goal("owner frozen, killed, or cut off: another speaks", "p99 ≤ 150 ms", lost, |seen| seen.speaks, 0.99, 150.0),
        goal("the same: longest gap of a client", "≤ 250 ms", lost, |seen| seen.gap, 1.0, 250.0),
        goal("the same, and a partition: two owners seen", "≤ 100 ms", &Fault::ALL, |seen| seen.two, 1.0, 100.0),
    ]
}
