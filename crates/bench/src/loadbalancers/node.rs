//! A node is lost that a router spreads flows over: how long its flows wait, and which flows of the others go on as they were.
//!
//! The endpoint answers with the address and port that it sees a flow come from: the node's by which it came, as its connection tracking made
//! them. A flow with another one behind the loss would be broken if it were a connection.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ripstop_lab::layout::node_v4;
use ripstop_lab::space;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::flow::PORT;
use super::router::{BFD, Router};
use super::site::NODES;
use crate::agents::alone;
use crate::report::{Section, Table};
use crate::scene::{Programs, checkpoint};
use crate::stat::Spread;

const FLOWS: u64 = 10_000;
/// Flows that are on the way at one time while all are asked.
const TOGETHER: usize = 100;
/// Flows of the lost node that are timed.
const TIMED: usize = 50;
const PAUSE: Duration = Duration::from_millis(5);
const ANSWER: Duration = Duration::from_millis(500);
const WARM: Duration = Duration::from_millis(500);
const LASTS: Duration = Duration::from_secs(2);
const TRIES: usize = 5;

/// Measures it where there is BIRD.
pub fn lost(programs: &Programs, rounds: usize) -> Result<Section> {
    let title = "LoadBalancer addresses: a node is lost, by BGP and BFD";
    let mut section = Section { id: "loadbalancers-node", title, goals: Vec::new(), tables: Vec::new() };
    if !Router::is_there() {
        eprintln!("bench: loadbalancers-node: SKIPPED: BIRD (package bird2) is not installed");
        return Ok(section);
    }
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(2 * FLOWS).max(2 * FLOWS);
    setrlimit(Resource::Nofile, Rlimit { current: Some(2 * FLOWS), maximum: Some(most) })
        .context("open many sockets")?;
    let head = format!("one of {NODES} nodes is lost, BFD {BFD} ms × 3, {FLOWS} flows of UDP");
    let mut table = Table::new(&[
        &head,
        "nodes lost",
        "longest gap of 50 of its flows, ms",
        "its flows",
        "others' that stay",
        "others' that another node gets",
        "without an answer behind it",
    ]);
    for (what, keeps) in
        [("a router that spreads flows by their hash", false), ("one that keeps flows where they are", true)]
    {
        let router = Router::build(programs, "bench-lb-node")?;
        let _keeper = if keeps { Some(router.keep_flows()?) } else { None };
        let count = NODES.max(u32::try_from(rounds / 5)?);
        let losses = (0..count).map(|round| lose(&router, round % NODES + 1)).collect::<Result<Vec<_>>>()?;
        let of = |field: fn(&Loss) -> f64| Spread::of(&losses.iter().map(field).collect::<Vec<_>>());
        let gap = of(|loss| loss.gap);
        let counts = [of(|loss| loss.its), of(|loss| loss.kept), of(|loss| loss.moved), of(|loss| loss.silent)];
        let counts = counts.map(|count| count.text(0));
        table.row(&[&[what.to_owned(), count.to_string(), gap.text(1)][..], &counts].concat());
        let goal = |asked: &str, reach: &str, ours, good| {
            alone(&format!("LoadBalancer, node lost, {what}: {asked}"), reach, ours, good)
        };
        let all = losses.iter().all(|loss| loss.moved == 0.0 && loss.silent == 0.0);
        let [its, kept, ..] = counts;
        let ours = format!("{kept}, {its} were the lost node's");
        // The other one's group follows its route by a thread of this program, whose time is nobody's.
        if !keeps {
            section.goals.push(goal("gap of its flows", "≤ 200 ms", format!("{} ms", gap.text(1)), gap.max <= 200.0));
        }
        section.goals.push(goal("flows of 10,000 that stay as they were", "all but the node's own", ours, all));
    }
    section.tables.push(table);
    Ok(section)
}

/// What the loss of a node did.
struct Loss {
    gap: f64,
    its: f64,
    kept: f64,
    moved: f64,
    silent: f64,
}

fn lose(router: &Router, node: u32) -> Result<Loss> {
    checkpoint()?;
    router.wait_all()?;
    let outside = router.site.outside();
    let to = SocketAddr::new(router.address.into(), PORT);
    let flows = space::in_netns(&outside, || (0..FLOWS).map(|_| open(to)).collect::<Result<Vec<_>>>())??;
    let before = ask_all(&flows)?;
    ensure!(before.iter().all(Option::is_some), "some flows have no answer though all is well");
    let lost = IpAddr::from(node_v4(node, 1));
    let is_its = |from: &Option<SocketAddr>| from.is_some_and(|from| from.ip() == lost);
    let timed: Vec<&UdpSocket> =
        flows.iter().zip(&before).filter(|(_, from)| is_its(from)).map(|(flow, _)| flow).take(TIMED).collect();
    ensure!(timed.len() == TIMED, "node {node} has few of the flows: {}", timed.len());
    let gap = gap(&timed, || router.site.plug(node, false))?;
    let after = ask_all(&flows)?;
    router.site.plug(node, true)?;
    let pairs = || before.iter().zip(&after);
    let count = |is: &dyn Fn(&Option<SocketAddr>, &Option<SocketAddr>) -> bool| {
        let count = pairs().filter(|(before, after)| is(before, after)).count();
        f64::from(u32::try_from(count).unwrap_or(u32::MAX))
    };
    Ok(Loss {
        gap,
        its: count(&|before, _| is_its(before)),
        kept: count(&|before, after| !is_its(before) && before == after),
        moved: count(&|before, after| !is_its(before) && after.is_some() && before != after),
        silent: count(&|_, after| after.is_none()),
    })
}

fn open(to: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind("0.0.0.0:0").context("open a socket")?;
    socket.connect(to).context("a socket's peer")?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Where the endpoint sees a flow come from; none if there is no answer now.
fn answer(flow: &UdpSocket) -> Option<SocketAddr> {
    let mut buffer = [0; 64];
    let mut last = None;
    while let Ok(length) = flow.recv(&mut buffer) {
        last = std::str::from_utf8(&buffer[..length]).ok().and_then(|text| text.parse().ok());
    }
    last
}

/// Asks each flow once, and those again that do not answer.
fn ask_all(flows: &[UdpSocket]) -> Result<Vec<Option<SocketAddr>>> {
    let mut found = vec![None; flows.len()];
    for _ in 0..TRIES {
        let missing: Vec<usize> = (0..flows.len()).filter(|at| found[*at].is_none()).collect();
        for part in missing.chunks(TOGETHER) {
            checkpoint()?;
            for at in part {
                // What was on the way is no answer to this.
                let _ = answer(&flows[*at]);
                let _ = flows[*at].send(b"?");
            }
            let begun = Instant::now();
            while part.iter().any(|at| found[*at].is_none()) && begun.elapsed() < ANSWER {
                thread::sleep(Duration::from_micros(200));
                for at in part.iter().filter(|at| found[**at].is_none()).copied().collect::<Vec<_>>() {
                    found[at] = answer(&flows[at]);
                }
            }
        }
    }
    Ok(found)
}

/// The longest time in milliseconds that one of some flows waits for an answer while something is done.
fn gap(flows: &[&UdpSocket], act: impl FnOnce() -> Result<()>) -> Result<f64> {
    let begun = Instant::now();
    let (mut act, mut next, mut done) = (Some(act), begun, begun + WARM + LASTS);
    let mut heard = vec![begun; flows.len()];
    let mut longest = Duration::ZERO;
    while Instant::now() < done {
        if begun.elapsed() > WARM
            && let Some(act) = act.take()
        {
            act()?;
            done = Instant::now() + LASTS;
            longest = Duration::ZERO;
        }
        let is_due = Instant::now() >= next;
        next = if is_due { Instant::now() + PAUSE } else { next };
        for (flow, heard) in flows.iter().zip(&mut heard) {
            if answer(flow).is_some() {
                let now = Instant::now();
                longest = longest.max(now - *heard);
                *heard = now;
            }
            if is_due {
                let _ = flow.send(b"?");
            }
        }
        thread::sleep(Duration::from_micros(500));
    }
    let silent = heard.iter().any(|heard| heard.elapsed() > LASTS / 2);
    Ok(if silent { f64::INFINITY } else { longest.as_secs_f64() * 1e3 })
}
