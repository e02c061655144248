//! Pods that start while policies change and send from their first instruction, as soon as the kernel lets them: what gets through that must
//! not, what is kept that must not be, and what an ADD takes beside one without policies.
//!
//! `RIPSTOP_BENCH_STARTS` says how many; otherwise they are a thousand.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use ripstop_lab::space;
use ripstop_store::Kind;
use serde_json::{Value, json};

use super::objects::{self, MEASURED};
use super::probe::{Clock, Ear, Mouth, ms as nanos};
use super::site::{NODES, Site};
use super::{Part, alone};
use crate::cpu;
use crate::plugin::{self, Plugin};
use crate::records::Records;
use crate::report::{Goal, Table, verdict};
use crate::scene::{Programs, checkpoint};
use crate::stat::{Spread, differences, quantile};

const STARTS: usize = 1_000;
/// Starts of a round, on a node with policies and on one without.
const ROUND: usize = 50;
const POLICIES: u32 = 50;
/// A policy is written anew after this.
const CHURN: Duration = Duration::from_millis(20);
const NEW: &str = "new";
/// What a new pod may reach, what its own policies keep it from, and where nobody may reach it.
const OPEN: u16 = 6000;
const SHUT: u16 = 6001;
const INTO: u16 = 6002;
const LIMIT: Duration = Duration::from_secs(5);
/// After so many calls that failed no more pods start: each takes as long as a runtime waits.
const MOST_FAILED: usize = 5;
const TITLES: [&str; 2] = ["with policies", "without"];
/// What is sent after an ADD's answer, to see whether all arrives.
const AFTER: Duration = Duration::from_millis(3);
/// What is on its way arrives meanwhile.
const ARRIVE: Duration = Duration::from_millis(2);
/// So many addresses from the last pod's on a stranger sends to, one of which the next gets.
const GUESSES: u32 = 8;

/// What happened to the pods of one node.
#[derive(Debug, Default)]
struct Found {
    /// Milliseconds of each ADD, and the 99th hundredth of each round.
    adds: Vec<f64>,
    rounds: Vec<f64>,
    /// From the answer of ADD to the first datagram that gets through to the other node, ms.
    far: Vec<f64>,
    /// Datagrams: sent before the answer, sent to the near pod after it, and of those kept.
    early: usize,
    sent: usize,
    kept: usize,
    /// That must not get through: out of new pods, and into them. Without policies that is how many the probe would see.
    out: usize,
    into: usize,
    /// Pods whose ADD or DEL failed.
    failed: Vec<String>,
    /// The last pod's address.
    last: Option<IpAddr>,
}

/// Measures it.
pub fn starts(programs: &Programs) -> Result<Part> {
    let starts = match std::env::var("RIPSTOP_BENCH_STARTS") {
        Ok(text) => text.parse().with_context(|| format!("RIPSTOP_BENCH_STARTS={text}"))?,
        Err(_) => STARTS,
    };
    let sites = [Site::build("started", programs, policies())?, Site::build("free", programs, [])?];
    let mut found: [Found; 2] = Default::default();
    let is_over = AtomicBool::new(false);
    let socket = sites[0].scene.run().join("store.sock");
    let agents = || sites.iter().map(|site| cpu::of_process(site.agents[0].pid())).collect::<Result<Vec<_>>>();
    let before = agents()?;
    let changes = thread::scope(|scope| -> Result<u32> {
        let churn = scope.spawn(|| churn(&socket, &is_over));
        let done = all(&sites, &mut found, starts);
        is_over.store(true, Ordering::Relaxed);
        let changes = churn.join().unwrap_or_else(|_| Err(anyhow!("the changes ended early")))?;
        done.map(|()| changes)
    })?;
    let used: Vec<f64> = agents()?.iter().zip(before).map(|(now, before)| (*now - before).as_secs_f64()).collect();
    let free = &found[1];
    ensure!(
        free.out > 0 && free.into > 0,
        "without policies {} and {} get through: nothing was probed",
        free.out,
        free.into
    );
    Ok((goals(&found), vec![table(&found, changes, &used)]))
}

/// By turns, some on each site.
fn all(sites: &[Site; 2], found: &mut [Found; 2], starts: usize) -> Result<()> {
    for round in 0..starts.div_ceil(ROUND) {
        for turn in 0..2 {
            let number = (round + turn) % 2;
            let of_round = found[number].adds.len();
            for _ in 0..ROUND.min(starts - round * ROUND) {
                checkpoint()?;
                start(&sites[number], &mut found[number]).context(TITLES[number])?;
                if found[number].failed.len() >= MOST_FAILED {
                    return Ok(());
                }
            }
            let p99 = quantile(&found[number].adds[of_round..], 0.99);
            found[number].rounds.push(p99);
        }
    }
    Ok(())
}

/// A pod comes, sends, is sent to, and goes.
fn start(site: &Site, found: &mut Found) -> Result<()> {
    let name = format!("s{}", found.adds.len() + found.failed.len());
    let netns = site.scene.netns(&name)?;
    site.records.put(&objects::pod(&name, NODES[0], NEW))?;
    let clock = Clock::start();
    let ears = [
        Ear::open(&site.near.netns, OPEN)?,
        Ear::open(&site.near.netns, SHUT)?,
        Ear::open(&site.far.netns, OPEN)?,
        Ear::open(&netns, INTO)?,
    ];
    let [near, far] = [site.near.ip, site.far.ip];
    let to = vec![SocketAddr::new(near, OPEN), SocketAddr::new(near, SHUT), SocketAddr::new(far, OPEN)];
    let mouth = Mouth::open(&netns, any(), clock, move || to.clone())?;
    // Where the new pod will be is guessed, until it is known.
    let (own, mut turn) = (Arc::new(OnceLock::new()), 0_u32);
    let (known, last) = (Arc::clone(&own), found.last.unwrap_or(near));
    let _stranger = Mouth::open(&site.client.netns, any(), clock, move || {
        turn += 1;
        let ip = known.get().copied().unwrap_or_else(|| behind(last, turn % GUESSES));
        vec![SocketAddr::new(ip, INTO)]
    })?;
    let plugin = Plugin::ripstop(&site.scene.programs().plugin, &site.agents[0].cni_socket());
    let call = |verb| space::in_netns(&site.nodes[0], || plugin.call(verb, &name, Some(&netns)))?;
    let taken = match call("ADD") {
        Ok(taken) => taken,
        Err(fault) => {
            found.failed.push(format!("{fault:#}"));
            let _ = call("DEL");
            return site.scene.drop_netns(&name);
        }
    };
    let answered = clock.now();
    let ip: IpAddr = plugin::address(&taken.printed)?;
    let _ = own.set(ip);
    found.last = Some(ip);
    let first = ears[2].first_from(0, LIMIT).context("to the other node")?;
    thread::sleep(AFTER);
    let sent = mouth.sent_from(0);
    drop(mouth);
    thread::sleep(ARRIVE);
    let heard = ears[0].heard();
    let after: Vec<u64> = sent.iter().copied().filter(|sent| *sent > answered).collect();
    found.adds.push(cpu::ms(taken.wall));
    found.far.push(nanos(first.saturating_sub(answered)));
    found.early += sent.len() - after.len();
    found.sent += after.len();
    found.kept += after.iter().filter(|sent| !heard.contains(sent)).count();
    found.out += ears[1].heard().len();
    found.into += ears[3].heard().len();
    drop(ears);
    found.failed.extend(call("DEL").err().map(|fault| format!("{fault:#}")));
    site.records.delete(Kind::Pods, &format!("default/{name}"))?;
    site.scene.drop_netns(&name)
}

/// An address some places behind another.
fn behind(ip: IpAddr, places: u32) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits().wrapping_add(places)).into(),
        IpAddr::V6(_) => ip,
    }
}

fn any() -> SocketAddr {
    (Ipv4Addr::UNSPECIFIED, 0).into()
}

/// What new pods may do, and many more policies about them and those they talk to.
fn policies() -> Vec<crate::records::New> {
    let udp =
        |ports: &[u16]| ports.iter().map(|port| json!({ "port": port, "protocol": "UDP" })).collect::<Vec<Value>>();
    let of_new = json!({
        "podSelector": { "matchLabels": { "role": NEW } }, "policyTypes": ["Ingress", "Egress"],
        "egress": [{ "to": [objects::selector(MEASURED)], "ports": udp(&[OPEN]) }],
    });
    let of_measured = json!({
        "podSelector": { "matchLabels": { "role": MEASURED } }, "policyTypes": ["Ingress"],
        "ingress": [{ "from": [objects::selector(NEW)], "ports": udp(&[OPEN, SHUT]) }],
    });
    let about = [objects::policy("of-new", &of_new), objects::policy("of-measured", &of_measured)];
    objects::others().chain(about).chain((0..POLICIES - 2).map(changing)).collect()
}

/// A policy that lets somebody else in, at another port each time that it is written.
fn changing(number: u32) -> crate::records::New {
    let place = number % (POLICIES - 2);
    let subject = [NEW, MEASURED][place as usize % 2];
    let spec = json!({
        "podSelector": { "matchLabels": { "role": subject } }, "policyTypes": ["Ingress"],
        "ingress": [{ "from": [objects::selector(&objects::kind(number))], "ports": [{ "port": 10_000 + number % 20_000 }] }],
    });
    objects::policy(&format!("changing-{place:02}"), &spec)
}

/// Writes policies anew, one after the other; answers how many.
fn churn(store: &Path, is_over: &AtomicBool) -> Result<u32> {
    let records = Records::connect(store)?;
    let mut number = POLICIES;
    while !is_over.load(Ordering::Relaxed) {
        records.put(&changing(number))?;
        number += 1;
        thread::sleep(CHURN);
    }
    Ok(number - POLICIES)
}

fn goals(found: &[Found; 2]) -> Vec<Goal> {
    let [ours, free] = found;
    let starts = ours.adds.len();
    let more = Spread::of(&differences(&ours.rounds, &free.rounds));
    let p99 = |found: &Found| format!("p99 {:.2} ms", quantile(&found.adds, 0.99));
    let leaked = ours.out + ours.into;
    for fault in &ours.failed {
        eprintln!("bench: policies-starts: {fault}");
    }
    vec![
        alone(
            &format!("pod starts, {POLICIES} policies that change: calls that failed"),
            "0",
            format!("{} of {}", ours.failed.len(), starts + ours.failed.len()),
            ours.failed.is_empty(),
        ),
        alone(
            &format!("{starts} pod starts, {POLICIES} policies that change: datagrams leaked"),
            "0",
            format!("{leaked} ({} without policies)", free.out + free.into),
            leaked == 0,
        ),
        alone(
            &format!("{starts} pod starts: wrongly denied on one node after ADD"),
            "0",
            format!("{} of {}", ours.kept, ours.sent),
            ours.kept == 0,
        ),
        Goal {
            what: format!("policies: ADD, {starts} pod starts"),
            reach: "p99 ≤ 5 ms more".into(),
            ours: p99(ours),
            rival: format!("no policy: {}", p99(free)),
            ratio: format!("{} ms more", more.text(2)),
            met: verdict(quantile(&ours.adds, 0.99) - quantile(&free.adds, 0.99) <= 5.0),
        },
        Goal {
            what: "policies: ADD's answer to the first datagram across two nodes".into(),
            reach: "–".into(),
            ours: format!("p50 {:.2} ms, p99 {:.2} ms", quantile(&ours.far, 0.5), quantile(&ours.far, 0.99)),
            rival: format!(
                "no policy: p50 {:.2} ms, p99 {:.2} ms",
                quantile(&free.far, 0.5),
                quantile(&free.far, 0.99)
            ),
            ratio: "–".into(),
            met: "–",
        },
    ]
}

fn table(found: &[Found; 2], changes: u32, used: &[f64]) -> Table {
    let with = format!("{POLICIES} policies, {changes} changes");
    let mut table = Table::new(&["pods that start and send at once", &with, "no policy"]);
    let mut row = |what: &str, of: &dyn Fn(&Found) -> String| table.row(&[what.into(), of(&found[0]), of(&found[1])]);
    row("pods", &|found| found.adds.len().to_string());
    row("calls that failed", &|found| found.failed.len().to_string());
    row("ADD, ms: p50", &|found| format!("{:.2}", quantile(&found.adds, 0.5)));
    row("ADD, ms: p99", &|found| format!("{:.2}", quantile(&found.adds, 0.99)));
    row("ADD, p99 of a round, ms: min / median / max", &|found| Spread::of(&found.rounds).to_string());
    row("datagrams sent before ADD had answered", &|found| found.early.to_string());
    row("… after it, to a pod of the node that lets them in", &|found| found.sent.to_string());
    row("… of those kept out", &|found| found.kept.to_string());
    row("… out of the pod, though it may not send them", &|found| found.out.to_string());
    row("… into the pod, though nobody may", &|found| found.into.to_string());
    row("answer to first datagram across two nodes, ms: p50", &|found| format!("{:.2}", quantile(&found.far, 0.5)));
    row("… p99", &|found| format!("{:.2}", quantile(&found.far, 0.99)));
    table.row(&["CPU seconds of the node's agent".into(), format!("{:.1}", used[0]), format!("{:.1}", used[1])]);
    table
}
