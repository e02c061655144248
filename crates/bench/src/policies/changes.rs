//! How soon a change counts: from the write of an object to the first packet that goes by it.
//!
//! Datagrams are sent about ten times a millisecond, and which of them arrive says when the verdict changed.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use ripstop_lab::ip_batch;
use serde_json::json;

use super::objects::{self, MEASURED};
use super::probe::{Clock, Ear, Mouth, ms};
use super::site::Site;
use super::{MANY, Part, SELECTING, alone};
use crate::cpu;
use crate::records::New;
use crate::report::Table;
use crate::scene::{Programs, checkpoint};
use crate::stat::quantile;

/// How often something is changed.
const EVENTS: u32 = 400;
/// Between two changes, some more each time.
const PAUSE: Duration = Duration::from_millis(20);
const LIMIT: Duration = Duration::from_secs(10);
/// Where the verdict on pods changes, and where that on who comes and goes.
const PORTS: [u16; 2] = [6000, 6001];
/// A pod of a node that is not there.
const VISITOR: &str = "visitor";
const VISITOR_IP: Ipv4Addr = Ipv4Addr::new(10, 244, 200, 10);

/// What a kind of change took each time, in ms.
#[derive(Debug, Default)]
struct Delays {
    /// From before the write.
    whole: Vec<f64>,
    /// From the store's answer.
    answered: Vec<f64>,
    /// CPU ms of the node's agent for each.
    cpu: f64,
}

impl Delays {
    fn cells(&self) -> [String; 6] {
        let of = |times: &[f64], q| format!("{:.2}", quantile(times, q));
        [
            of(&self.whole, 0.5),
            of(&self.whole, 0.99),
            of(&self.answered, 0.5),
            of(&self.answered, 0.99),
            format!("{:.2}", self.cpu),
            self.whole.len().to_string(),
        ]
    }

    fn ours(&self) -> String {
        format!("{:.2} ms, p50 {:.2}", self.p99(), quantile(&self.whole, 0.5))
    }

    fn p99(&self) -> f64 {
        quantile(&self.whole, 0.99)
    }
}

/// Measures it.
pub fn changes(programs: &Programs) -> Result<Part> {
    let mut table = Table::new(&[
        &format!("one change among {MANY} policies"),
        "select the pod",
        "from the write, ms: p50",
        "p99",
        "from its answer: p50",
        "p99",
        "CPU ms of the agent",
        "how many",
    ]);
    let mut goals = Vec::new();
    for selecting in SELECTING {
        let visitor = [objects::pod(VISITOR, "n9", VISITOR), guard()];
        let all = objects::others().chain(objects::policies(MANY, selecting)).chain(visitor);
        let site = Site::build(&format!("changed-{selecting}"), programs, all)?;
        site.check(true)?;
        let of_policy = of_policy(&site).context("a policy's change")?;
        let of_peer = of_peer(&site).context("a peer's change")?;
        for (what, delays) in [("a policy's verdict", &of_policy), ("a peer's address comes or goes", &of_peer)] {
            table.row(&[&[what.to_owned(), selecting.to_string()][..], &delays.cells()].concat());
        }
        let what = |what: &str| format!("{what}, {selecting} of {MANY} select the pod, p99");
        let reach = ["≤ 10 ms", "≤ 2 ms"];
        goals.push(alone(&what("write to first packet"), reach[0], of_policy.ours(), of_policy.p99() <= 10.0));
        goals.push(alone(&what("address of a peer to first packet"), reach[1], of_peer.ours(), of_peer.p99() <= 2.0));
    }
    Ok((goals, vec![table]))
}

/// A policy lets the measured pods talk at a port, or others.
fn of_policy(site: &Site) -> Result<Delays> {
    let clock = Clock::start();
    let ear = Ear::open(&site.near.netns, PORTS[0])?;
    let to = SocketAddr::new(site.near.ip, PORTS[0]);
    let mouth = Mouth::open(&site.client.netns, any(), clock, move || vec![to])?;
    let record = |is_open| {
        let peer = if is_open { MEASURED } else { VISITOR };
        let ports = json!([{ "port": PORTS[0], "protocol": "UDP" }]);
        objects::policy("verdict", &objects::both_ways(MEASURED, peer, &ports))
    };
    site.records.put(&record(false))?;
    delays(site, clock, (&ear, &mouth), |is_open| site.records.put(&record(is_open)))
}

/// A pod of another node comes and goes, which a policy lets in.
fn of_peer(site: &Site) -> Result<Delays> {
    ip_batch(&site.nodes[1], &format!("addr add {VISITOR_IP}/32 dev lo\n"))?;
    let clock = Clock::start();
    let ear = Ear::open(&site.near.netns, PORTS[1])?;
    let to = SocketAddr::new(site.near.ip, PORTS[1]);
    let mouth = Mouth::open(&site.nodes[1], (VISITOR_IP, 0).into(), clock, move || vec![to])?;
    let there: New = objects::addresses(VISITOR, IpAddr::V4(VISITOR_IP));
    let (kind, key, _) = &there;
    delays(site, clock, (&ear, &mouth), |is_open| {
        if is_open { site.records.put(&there) } else { site.records.delete(*kind, key) }
    })
}

/// Lets the visitor in.
fn guard() -> New {
    let spec = json!({
        "podSelector": { "matchLabels": { "role": MEASURED } }, "policyTypes": ["Ingress"],
        "ingress": [{ "from": [objects::selector(VISITOR)], "ports": [{ "port": PORTS[1], "protocol": "UDP" }] }],
    });
    objects::policy("guard", &spec)
}

fn any() -> SocketAddr {
    (Ipv4Addr::UNSPECIFIED, 0).into()
}

/// Opens and closes in turn.
fn delays(
    site: &Site,
    clock: Clock,
    (ear, mouth): (&Ear, &Mouth),
    write: impl Fn(bool) -> Result<()>,
) -> Result<Delays> {
    let mut delays = Delays::default();
    // One that does not count: whatever was begun is over.
    write(true)?;
    ear.first_from(clock.now(), LIMIT)?;
    write(false)?;
    ear.last_from(0, mouth, LIMIT)?;
    let used = cpu::of_process(site.agents[0].pid())?;
    for event in 0..EVENTS {
        checkpoint()?;
        thread::sleep(PAUSE + Duration::from_micros(u64::from(event % 7) * 1_300));
        let is_open = event.is_multiple_of(2);
        ear.clear();
        let written = clock.now();
        write(is_open)?;
        let answered = clock.now();
        // Of what is closed the last that passed counts: the next did not.
        let changed = if is_open { ear.first_from(written, LIMIT)? } else { ear.last_from(written, mouth, LIMIT)? };
        delays.whole.push(ms(changed.saturating_sub(written)));
        delays.answered.push(ms(changed.saturating_sub(answered)));
    }
    delays.cpu = cpu::ms(cpu::of_process(site.agents[0].pid())? - used) / f64::from(EVENTS);
    Ok(delays)
}
