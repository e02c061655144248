//! A node is drained while a client makes connections: how many fail.
//!
//! A drain is the end of the node's agent, which hands over first, or the label that takes the node out of load balancers.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use ripstop_lab::layout::node_name;

use super::flow::WEB;
use super::ripstop::{LIMIT, Objects, SEGMENT, SETTLED, owners};
use super::router::Router;
use super::site::{NODES, Site};
use crate::agents::alone;
use crate::report::{Section, Table};
use crate::scene::{self, Programs, wait_for};
use crate::services::load::Server;
use crate::services::under_load;

/// Before the drain, and behind it.
const BEFORE: Duration = Duration::from_secs(1);
const AFTER: Duration = Duration::from_secs(3);
/// What takes a node out of load balancers.
const LABEL: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// How a node is drained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Drain {
    Ends,
    Label,
}

/// Measures it by ARP and, where there is BIRD, by BGP.
pub fn drain(programs: &Programs, rounds: usize) -> Result<Section> {
    let drains = 2 * (rounds / 5).max(1);
    let mut rows = vec![
        ("ARP, the owner's agent ends", by_arp(programs, Drain::Ends, drains)?),
        ("ARP, the owner gets the label", by_arp(programs, Drain::Label, drains)?),
    ];
    if Router::is_there() {
        rows.push(("BGP, a node of three gets the label", by_bgp(programs, drains)?));
    } else {
        eprintln!("bench: loadbalancers-drain: SKIPPED by BGP: BIRD (package bird2) is not installed");
    }
    let mut table = Table::new(&["a node is drained, 2,000 connections a second", "drains", "made", "failed"]);
    for (what, (made, failed)) in &rows {
        table.row(&[(*what).into(), drains.to_string(), made.to_string(), failed.to_string()]);
    }
    let goals = rows.iter().map(|(what, (made, failed))| {
        let ours = format!("{failed} of {}", made + failed);
        alone(&format!("LoadBalancer: drain by {what}: connections that fail"), "0", ours, *failed == 0)
    });
    let goals = goals.collect();
    let title = "LoadBalancer addresses: a node is drained";
    Ok(Section { id: "loadbalancers-drain", title, goals, tables: vec![table] })
}

fn by_arp(programs: &Programs, drain: Drain, drains: usize) -> Result<(u64, u64)> {
    let site = Site::build(programs, Site::options("bench-lb-drain"))?;
    scene::apply(programs, &site.lab.layout().agent_socket(1), &Objects::on_segment(SEGMENT).manifest())?;
    let _server = Server::start(&site.beside)?;
    let mut sum = (0, 0);
    for _ in 0..drains {
        // Of nodes that are new to the others the next may not be chosen.
        thread::sleep(SETTLED);
        let mut owner = None;
        let known = || {
            let seen: Vec<_> = (1..=NODES).map(|node| owners(&site.lab, node)).collect();
            let first = seen.first()?.as_ref()?.iter().find(|(address, _)| address.is_ipv4()).copied();
            first.filter(|_| seen.iter().all(|rows| *rows == seen[0]))
        };
        wait_for("an owner that all know", LIMIT, || {
            thread::sleep(Duration::from_millis(100));
            owner = known();
            owner.is_some()
        })?;
        let (address, node) = owner.context("an owner")?;
        let (made, failed) = under_drain(&site, SocketAddr::new(address, WEB), node, drain)?;
        sum = (sum.0 + made, sum.1 + failed);
    }
    Ok(sum)
}

fn by_bgp(programs: &Programs, drains: usize) -> Result<(u64, u64)> {
    let router = Router::build(programs, "bench-lb-bgp")?;
    let _server = Server::start(&router.site.beside)?;
    let mut sum = (0, 0);
    for round in 0..drains {
        router.wait_all()?;
        let node = u32::try_from(round)? % NODES + 1;
        let to = SocketAddr::new(router.address.into(), WEB);
        let (made, failed) = under_drain(&router.site, to, node, Drain::Label)?;
        sum = (sum.0 + made, sum.1 + failed);
    }
    Ok(sum)
}

/// Connections that were made and that failed while a node was drained; then it is back.
fn under_drain(site: &Site, to: SocketAddr, node: u32, drain: Drain) -> Result<(u64, u64)> {
    let agent = site.lab.node(node);
    let label = |labels: &str| {
        let manifest =
            format!("{{apiVersion: v1, kind: Node, metadata: {{name: {}, labels: {{{labels}}}}}}}\n", node_name(node));
        scene::apply(site.scene.programs(), &site.lab.layout().agent_socket(node), &manifest)
    };
    let tally = under_load(&site.outside(), &[to], || {
        thread::sleep(BEFORE);
        match drain {
            Drain::Ends => agent.stop_agent(true)?,
            Drain::Label => label(&format!("{LABEL}: \"\""))?,
        }
        thread::sleep(AFTER);
        Ok(())
    })?;
    match drain {
        Drain::Ends => {
            agent.release_agent()?;
            agent.wait_ready(LIMIT)?;
        }
        Drain::Label => label("")?,
    }
    Ok(tally)
}
