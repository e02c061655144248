//! A thousand Services of type LoadBalancer on three nodes, and then nothing happens: what is written to the store, what agents use, and
//! what goes over the segment.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ripstop_lab::layout::etcd_endpoint;
use ripstop_lab::{Capture, Lab, Options, StoreKind, Target, space};
use serde_json::Value;

use super::ripstop::{Objects, owners};
use super::site::{NODES, Site};
use crate::agents::{alone, share};
use crate::cpu;
use crate::report::{Section, Table};
use crate::scene::{self, Programs, wait_for};
use crate::stat::Spread;

const SERVICES: u32 = 1_000;
/// Services a manifest: an agent writes what it says one after the other, and who applies it waits.
const BATCH: u32 = 50;
const QUIET: Duration = Duration::from_secs(60);
const LIMIT: Duration = Duration::from_secs(300);
/// What follows of the last assignment is over after this.
const CALM: Duration = Duration::from_secs(10);
/// The records that are signs of life: a node's own, as often as without any Service.
const SIGNS: &str = "/ripstop/alive/";

/// Measures it on etcd.
pub fn many(programs: &Programs) -> Result<Section> {
    let options = Options { store: StoreKind::Etcd, ..Site::options("bench-lb-many") };
    let site = Site::build(programs, options)?;
    let lab = &site.lab;
    let before = agents(lab)?.iter().map(|pid| cpu::memory(*pid, "VmRSS")).collect::<Result<Vec<_>>>()?;
    let begun = Instant::now();
    for first in (0..SERVICES).step_by(BATCH as usize) {
        let objects = Objects { services: first..first + BATCH, ..Objects::on_segment("10.77.0.1-10.77.3.254") };
        scene::apply(programs, &lab.layout().agent_socket(1), &objects.manifest())?;
    }
    let mut assigned = None;
    wait_for("an owner of each address", LIMIT, || {
        std::thread::sleep(Duration::from_millis(50));
        if assigned.is_none() && given(lab) == SERVICES as usize {
            assigned = Some(begun.elapsed());
        }
        (1..=NODES).all(|node| owners(lab, node).is_some_and(|owners| owners.len() == SERVICES as usize))
    })?;
    let owned = begun.elapsed();
    std::thread::sleep(CALM);
    let found = Found { assigned: assigned.unwrap_or(owned), owned, before, ..quiet(&site)? };
    Ok(found.section())
}

fn agents(lab: &Lab) -> Result<Vec<u32>> {
    (1..=NODES).map(|node| Ok(lab.node(node).agent()?.context("no agent")?.pid.cast_unsigned())).collect()
}

/// How many addresses were given.
fn given(lab: &Lab) -> usize {
    let rows = lab.agent_json(1, "/v1/loadbalancers").unwrap_or_default();
    rows.as_array().map_or(0, |rows| rows.iter().filter(|row: &&Value| row["ip"].is_string()).count())
}

/// What happens while nothing does.
fn quiet(site: &Site) -> Result<Found> {
    let pids = agents(&site.lab)?;
    let file = site.scene.run().join("writes");
    let etcd = etcd_endpoint("http", 0, 1, true);
    let mut command = Command::new("etcdctl");
    command.args(["--endpoints", &etcd, "watch", "--prefix", ""]).env("ETCDCTL_API", "3");
    command.stdin(Stdio::null()).stdout(File::create(&file).context("make a file")?);
    let watch = site.lab.spawn(&Target::Router, &mut command)?;
    let capture = Capture::within(&site.beside, Some("eth0"))?;
    let sent = sent(site)?;
    let begun = Instant::now();
    let mut shares = vec![0.0; pids.len()];
    share(&pids, QUIET, &mut shares)?;
    let seconds = begun.elapsed().as_secs_f64();
    let after = self::sent(site)?;
    let frames = capture.stop()?;
    drop(watch);
    let told = frames.iter().filter(|frame| ripstop_election::neighbour::read(&frame.data).is_some()).count();
    let writes = writes(&fs::read_to_string(&file).context("read a file")?);
    let signs = writes.iter().filter(|(key, _)| key.starts_with(SIGNS)).map(|(_, count)| count).sum();
    // Whoever writes nothing at all was not heard.
    ensure!(signs > 0, "no sign of life was seen at etcd: {writes:?}");
    Ok(Found {
        shares,
        told: rate(told, seconds),
        sent: rate(usize::try_from(after - sent).unwrap_or(0), seconds * f64::from(NODES)),
        signs,
        writes: writes.into_iter().filter(|(key, _)| !key.starts_with(SIGNS)).collect(),
        memory: pids.iter().map(|pid| cpu::memory(*pid, "VmRSS")).collect::<Result<Vec<_>>>()?,
        ..Found::default()
    })
}

fn rate(count: usize, seconds: f64) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "a minute's packets")]
    let count = count as f64;
    count / seconds
}

/// Packets that all nodes have sent by their uplinks.
fn sent(site: &Site) -> Result<u64> {
    (1..=NODES).try_fold(0, |sum, node| {
        let text = space::in_netns(&site.lab.node(node).netns(), || {
            fs::read_to_string(Path::new("/proc/thread-self/net/dev"))
        })??;
        let line = text.lines().find_map(|line| line.trim().strip_prefix("eth0:")).context("no eth0")?;
        let packets: u64 = line.split_whitespace().nth(9).context("no packets")?.parse()?;
        Ok(sum + packets)
    })
}

/// Keys that were written, and how often, by what `etcdctl watch` printed: an event, a key and a value, each on a line.
fn writes(text: &str) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if matches!(line, "PUT" | "DELETE")
            && let Some(key) = lines.next()
        {
            *found.entry(key.to_owned()).or_default() += 1;
        }
    }
    found
}

#[derive(Debug, Default)]
struct Found {
    assigned: Duration,
    owned: Duration,
    before: Vec<f64>,
    shares: Vec<f64>,
    told: f64,
    sent: f64,
    signs: usize,
    writes: BTreeMap<String, usize>,
    memory: Vec<f64>,
}

impl Found {
    fn section(&self) -> Section {
        let writes: usize = self.writes.values().sum();
        if writes > 0 {
            eprintln!("bench: loadbalancers-many: written: {:?}", self.writes);
        }
        let mut table = Table::new(&["1,000 LoadBalancer Services on three nodes, etcd", "measured"]);
        let mut row = |what: &str, found: String| table.row(&[what.into(), found]);
        row("first write to the last address given, s", format!("{:.2}", self.assigned.as_secs_f64()));
        row("to an owner of each that all nodes know, s", format!("{:.2}", self.owned.as_secs_f64()));
        row("written to etcd in 60 quiet seconds, signs of life apart", writes.to_string());
        row("signs of life in that time, three nodes", self.signs.to_string());
        let (cpu, memory) = (Spread::of(&self.shares), Spread::of(&self.memory));
        row("an agent's CPU in that time, mCPU: min / median / max", cpu.text(2));
        row("frames of ARP and NDP that a machine on the segment sees, a second", format!("{:.2}", self.told));
        row("packets that a node sends, a second", format!("{:.1}", self.sent));
        row("resident MiB of an agent without Services: min / median / max", Spread::of(&self.before).text(1));
        row("resident MiB then: min / median / max", memory.text(1));
        let goal = |what: &str, reach: &str, ours, good| {
            alone(&format!("LoadBalancer, 1,000 Services: {what}"), reach, ours, good)
        };
        let goals = vec![
            goal("writes to the store after assignment, in 60 s", "0", writes.to_string(), writes == 0),
            goal("CPU of an agent", "≤ 5 mCPU", format!("{} mCPU", cpu.text(2)), cpu.max <= 5.0),
        ];
        let title = "LoadBalancer addresses: a thousand Services";
        Section { id: "loadbalancers-many", title, goals, tables: vec![table] }
    }
}

#[cfg(test)]
mod tests {
    use super::writes;

    #[test]
    fn what_was_written_is_counted_by_key() {
        let found = writes("PUT\n/ripstop/alive/n1\n{\"PUT\": 1}\nDELETE\n/ripstop/alive/n1\n\nPUT\n/a\nPUT\n");
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [("/a".into(), 1), ("/ripstop/alive/n1".into(), 2)]);
    }
}
