//! The acts.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::ledger::Ledger;
use super::programs;
use crate::error::{LabError, Result};
use crate::init::Program;
use crate::lab::Lab;
use crate::options::{Backend, Families, Options, Wiring};
use crate::pods::PodSpec;
use crate::probe::{Pairs, Report};
use crate::state::Pod;
use crate::target::Target;

/// Probes a second and pair.
const RATE: u32 = 1000;

/// The same through a forwarder: it waits for its turn of the CPU like any process, and its device holds 500 packets meanwhile.
const UDP_RATE: u32 = 200;

/// VXLAN everywhere; then every agent is killed, and a node leaves and another comes.
pub fn vxlan(ledger: &mut Ledger) -> Result<()> {
    let lab = up(ledger, dual("demo-vxlan", Backend::Vxlan, Wiring::Routed))?;
    let pods = Pods::make(&lab, &[("web", 1), ("near", 1), ("far", 2), ("same", 3)])?;
    traffic(ledger, &lab, &pods, &[("near", "same node"), ("same", "same subnet"), ("far", "other subnet")])?;
    speed(ledger, &lab, &pods, "far", "vxlan across the router")?;
    kill_agents(ledger, &lab, RATE)?;
    exchange_node(ledger, &lab)?;
    lab.down()
}

/// host-gw between nodes of one subnet; a peer behind a router is refused with the reason.
pub fn host_gw(ledger: &mut Ledger) -> Result<()> {
    let lab = up(ledger, dual("demo-hostgw", Backend::HostGw, Wiring::Routed))?;
    let pods = Pods::make(&lab, &[("web", 1), ("near", 1), ("same", 3)])?;
    traffic(ledger, &lab, &pods, &[("near", "same node"), ("same", "same subnet")])?;
    speed(ledger, &lab, &pods, "same", "host-gw inside a subnet")?;
    let state = path_state(&lab, 1, "n2")?;
    ledger.check("host-gw to a peer behind a router is refused", state.starts_with("refused:"), state);
    kill_agents(ledger, &lab, RATE)?;
    lab.down()
}

/// The backend is chosen per peer, and pods hang on a bridge.
pub fn auto_bridge(ledger: &mut Ledger) -> Result<()> {
    let lab = up(ledger, dual("demo-auto", Backend::Auto, Wiring::Bridge))?;
    let pods = Pods::make(&lab, &[("web", 1), ("near", 1), ("far", 2), ("same", 3)])?;
    let chosen = (backend(&lab, 1, "n3")?, backend(&lab, 1, "n2")?);
    let right = chosen == ("host-gw".to_owned(), "vxlan".to_owned());
    ledger.check("auto chooses by subnet", right, format!("n3 by {}, n2 by {}", chosen.0, chosen.1));
    traffic(ledger, &lab, &pods, &[("near", "same node"), ("same", "same subnet"), ("far", "other subnet")])?;
    kill_agents(ledger, &lab, RATE)?;
    lab.down()
}

/// Flannel's first backend; agents are killed, then forwarders, which cost a moment.
pub fn udp(ledger: &mut Ledger) -> Result<()> {
    let lab = up(ledger, dual("demo-udp", Backend::Udp, Wiring::Routed))?;
    let pods = Pods::make(&lab, &[("web", 1), ("near", 1), ("far", 2)])?;
    traffic(ledger, &lab, &pods, &[("far", "other subnet")])?;
    speed(ledger, &lab, &pods, "far", "udp across the router")?;
    kill_agents(ledger, &lab, UDP_RATE)?;
    let prober = lab.probe(UDP_RATE, &Pairs::All)?;
    for (node, _) in lab.state()?.nodes() {
        std::thread::sleep(Duration::from_millis(300));
        lab.node(node).signal(Program::Forwarder, libc::SIGKILL, false)?;
    }
    std::thread::sleep(Duration::from_millis(700));
    let report = prober.stop()?;
    let held = report.received > 0 && report.max_gap_ms < 1000.0 && report.errors.is_empty();
    ledger.check("every forwarder killed (kill -9) is back at once", held, packets(&report));
    lab.down()
}

fn dual(name: &str, backend: Backend, wiring: Wiring) -> Options {
    Options { backend, wiring, families: Families::Dual, ..Options::named(name) }
}

/// Three nodes in two subnets.
pub fn up(ledger: &Ledger, options: Options) -> Result<Lab> {
    let begun = Instant::now();
    let lab = Lab::up(&Options { subnets: 2, replace: true, ..options })?;
    ledger.tell(&format!("up in {:.1} s:", begun.elapsed().as_secs_f64()));
    ledger.tell("  n1 ── subnet 1 ─┐            ┌─ subnet 2 ── n2\n  n3 ── subnet 1 ─┴── router ──┴─ outside");
    Ok(lab)
}

fn path_row(lab: &Lab, node: u32, peer: &str) -> Result<serde_json::Value> {
    let paths = lab.agent_json(node, "/v1/paths")?;
    let row = paths.as_array().and_then(|rows| rows.iter().find(|row| row["peer"] == peer));
    row.cloned().ok_or_else(|| LabError::failed(format!("n{node} knows no path to {peer}")))
}

fn path_state(lab: &Lab, node: u32, peer: &str) -> Result<String> {
    Ok(path_row(lab, node, peer)?["state"].as_str().unwrap_or("unknown").to_owned())
}

fn backend(lab: &Lab, node: u32, peer: &str) -> Result<String> {
    Ok(path_row(lab, node, peer)?["backend"].as_str().unwrap_or("none").to_owned())
}

/// The pods of an act, `web` among them.
struct Pods(Vec<Pod>);

impl Pods {
    fn make(lab: &Lab, wanted: &[(&str, u32)]) -> Result<Self> {
        wanted.iter().map(|(name, node)| lab.pod_add(&PodSpec::new(name, *node))).collect::<Result<_>>().map(Self)
    }

    fn ips(&self, name: &str) -> &[IpAddr] {
        self.0.iter().find(|pod| pod.name == name).map_or(&[], Pod::ips)
    }

    fn v4(&self, name: &str) -> Result<IpAddr> {
        let v4 = self.ips(name).iter().find(|ip| ip.is_ipv4());
        v4.copied().ok_or_else(|| LabError::failed(format!("pod {name} has no IPv4 address")))
    }
}

/// nginx in `web`, curl from each other pod, by each family.
fn traffic(ledger: &mut Ledger, lab: &Lab, pods: &Pods, from: &[(&str, &str)]) -> Result<()> {
    let _server = programs::nginx(lab, "web", "hello from a pod")?;
    for (client, place) in from {
        for address in pods.ips("web") {
            let body = programs::curl(lab, &Target::Pod((*client).into()), *address);
            let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
            let figure = match &body {
                Ok(body) => format!("{body:?}"),
                Err(error) => error.to_string(),
            };
            let held = body.is_ok_and(|body| body == "hello from a pod");
            ledger.check(&format!("curl to nginx, {place}, {family}"), held, figure);
        }
    }
    Ok(())
}

/// Throughput by iperf3 and round trips by probes, from `near` to another pod.
fn speed(ledger: &mut Ledger, lab: &Lab, pods: &Pods, to: &str, what: &str) -> Result<()> {
    let _server = programs::iperf_server(lab, to)?;
    let gigabits = programs::iperf(lab, "near", pods.v4(to)?)?;
    let pair = (Target::Pod("near".into()), Target::Pod(to.into()));
    let prober = lab.probe(RATE, &Pairs::Of(vec![pair]))?;
    std::thread::sleep(Duration::from_secs(2));
    let report = prober.stop()?;
    let rtt = match (report.rtt_p50_us, report.rtt_p99_us) {
        (Some(p50), Some(p99)) => format!("round trip p50 {p50:.0} µs, p99 {p99:.0} µs"),
        _ => "no round trip".into(),
    };
    let figure = format!("one stream {gigabits:.1} Gbit/s, {rtt}");
    ledger.check(what, gigabits > 0.0 && report.lost == 0 && report.received > 0, figure);
    Ok(())
}

/// kill -9 of every agent, twice, under probes between all pods.
fn kill_agents(ledger: &mut Ledger, lab: &Lab, rate: u32) -> Result<()> {
    let prober = lab.probe(rate, &Pairs::All)?;
    std::thread::sleep(Duration::from_millis(500));
    for _ in 0..2 {
        let nodes: Vec<u32> = lab.state()?.nodes().map(|(number, _)| number).collect();
        for node in &nodes {
            lab.node(*node).kill_agent(false)?;
        }
        std::thread::sleep(Duration::from_millis(500));
        lab.wait_ready(&nodes, Duration::from_secs(10))?;
    }
    std::thread::sleep(Duration::from_millis(500));
    let report = prober.stop()?;
    ledger.check("every agent killed twice (kill -9)", no_loss(&report), packets(&report));
    let mut steps = Vec::new();
    for (node, _) in lab.state()?.nodes() {
        let plan = lab.agent_json(node, "/v1/plan")?;
        steps.extend(plan.as_array().into_iter().flatten().map(ToString::to_string));
    }
    let figure = if steps.is_empty() { "nothing to do".into() } else { steps.join("; ") };
    ledger.check("the restarted agents' plans are empty", steps.is_empty(), figure);
    Ok(())
}

/// A node goes for good, another comes; the others do not notice.
fn exchange_node(ledger: &mut Ledger, lab: &Lab) -> Result<()> {
    let stay = (Target::Pod("near".into()), Target::Pod("same".into()));
    let prober = lab.probe(RATE, &Pairs::Of(vec![stay]))?;
    lab.pod_del("far")?;
    lab.node(2).remove()?;
    let begun = Instant::now();
    let node = lab.node_add()?;
    let reached = Instant::now();
    let fresh = lab.pod_add(&PodSpec::new("fresh", node))?;
    let _server = programs::nginx(lab, "fresh", "hello from a new node")?;
    let address = fresh.ips().iter().find(|ip| ip.is_ipv4()).copied();
    let body = match address {
        Some(address) => programs::curl(lab, &Target::Pod("near".into()), address),
        None => Err(LabError::failed("the new pod has no IPv4 address")),
    };
    let held = body.as_ref().is_ok_and(|body| body == "hello from a new node");
    let figure = match body {
        Ok(_) => format!("n{node} ready in {:.2} s, its pod answers", (reached - begun).as_secs_f64()),
        Err(error) => error.to_string(),
    };
    ledger.check("a node removed, another added", held, figure);
    let report = prober.stop()?;
    ledger.check("the other nodes meanwhile", no_loss(&report), packets(&report));
    Ok(())
}

fn no_loss(report: &Report) -> bool {
    report.sent > 0 && report.lost == 0 && report.dup == 0 && report.errors.is_empty()
}

fn packets(report: &Report) -> String {
    format!(
        "{} of {} packets lost, {} duplicates, longest gap {:.1} ms",
        report.lost, report.sent, report.dup, report.max_gap_ms
    )
}
