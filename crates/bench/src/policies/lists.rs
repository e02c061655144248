//! A list of a million blocks of addresses: how soon it is in the kernel, what it costs there, and what packets of who is in it cost.
//!
//! One object has no room for so many, so they are spread over policies that select the same pods; in the kernel they are one map.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ripstop_lab::{ip_batch, space};

use super::packets::{self, Case};
use super::site::Site;
use super::{Part, alone, objects};
use crate::cpu;
use crate::report::{Goal, Table, verdict};
use crate::scene::{Programs, checkpoint};
use crate::services::load::Draw;
use crate::stat::{Spread, ratios};

const BLOCKS: u32 = 1_000_000;
/// Where all pods are.
const PODS: &str = "10.244.0.0/16";
/// The least share of the rate without policies.
const LEAST: f64 = 0.95;
/// Connections of one visit, each from another address.
const VISIT: u32 = 1_000;
const PORT: u16 = 7100;
/// What is freed behind a grace period is free after this.
const FREED: Duration = Duration::from_secs(2);

/// What it took until the list was in force.
struct Loaded {
    /// Seconds of writing the policies, and from the last write's answer on.
    written: f64,
    behind: f64,
    /// CPU seconds of the first node's agent.
    cpu: f64,
    /// Seconds from the start of an agent that finds all in the store and nothing in the kernel.
    cold: f64,
}

/// Measures it.
pub fn lists(programs: &Programs, rounds: usize) -> Result<Part> {
    let none = Case::new("no policy".into(), Site::build("unlisted", programs, [])?, false)?;
    let mut site = Site::build("listed", programs, [])?;
    let loaded = load(&mut site)?;
    let title = format!("{BLOCKS} blocks in {} policies", objects::blocks(BLOCKS, PODS).count());
    let mut cases = [none, Case::new(title, site, true)?];
    let costs = packets::costs(&mut cases, rounds)?;
    let titles: Vec<&str> = cases.iter().map(|case| case.title.as_str()).collect();
    let outside = outside(&cases, rounds)?;
    let mut goals = vec![alone(
        &format!("{BLOCKS} blocks in the kernel after the last write"),
        "≤ 5 s",
        format!("{:.1} s", loaded.behind),
        loaded.behind <= 5.0,
    )];
    goals.extend(packets::goals(&costs, 1, &titles, LEAST));
    let share = Spread::of(&ratios(&outside[0], &outside[1]));
    let median = |times: &[f64]| format!("{:.1} µs", Spread::of(times).median);
    goals.push(Goal {
        what: format!("policies: connects from outside, from all over {BLOCKS} blocks"),
        reach: format!("≥ {LEAST:.2} ×"),
        ours: median(&outside[1]),
        rival: format!("no policy: {}", median(&outside[0])),
        ratio: share.to_string(),
        met: verdict(share.median >= LEAST),
    });
    let mut tables = packets::tables(&costs, &titles);
    let [_, listed] = cases;
    tables.push(costs_of(&loaded, listed.into_site().context("a site")?)?);
    Ok((goals, tables))
}

fn load(site: &mut Site) -> Result<Loaded> {
    let agent = site.agents[0].pid();
    let (used, begun) = (cpu::of_process(agent)?, Instant::now());
    objects::blocks(BLOCKS, PODS).try_for_each(|policy| site.records.put(&policy))?;
    let written = begun.elapsed().as_secs_f64();
    let behind = site.wait_realised()?.as_secs_f64();
    let cpu = (cpu::of_process(agent)? - used).as_secs_f64();
    let begun = Instant::now();
    site.restart(0, delete_tables)?;
    site.wait_realised()?;
    Ok(Loaded { written, behind, cpu, cold: begun.elapsed().as_secs_f64() })
}

/// Microseconds of a connect from addresses drawn all over the list, from the other machine; one median a round, of each case.
fn outside(cases: &[Case; 2], rounds: usize) -> Result<[Vec<f64>; 2]> {
    let mut visits = [Vec::new(), Vec::new()];
    let mut servers = Vec::new();
    for site in cases.iter().filter_map(Case::site) {
        ip_batch(&site.nodes[1], &format!("route add local {} dev lo\n", objects::LISTED))?;
        let server = space::in_netns(&site.near.netns, || std::net::TcpListener::bind(("0.0.0.0", PORT)))??;
        servers.push(server);
    }
    let mut draw = Draw(1);
    for round in 0..rounds {
        let from: Vec<Ipv4Addr> = (0..VISIT).map(|_| objects::listed(1 + draw.below(BLOCKS - 1))).collect();
        for turn in 0..2 {
            checkpoint()?;
            let number = (round + turn) % 2;
            let (site, server) = (cases[number].site().context("a site")?, &servers[number]);
            let to = SocketAddr::new(site.near.ip, PORT);
            let times = space::in_netns(&site.nodes[1], || connects(&from, to, server))??;
            visits[number].push(Spread::of(&times).median);
        }
    }
    Ok(visits)
}

fn connects(from: &[Ipv4Addr], to: SocketAddr, server: &std::net::TcpListener) -> Result<Vec<f64>> {
    cpu::pin(cpu::last())?;
    let connect = |from: &Ipv4Addr| {
        let begun = Instant::now();
        let stream = crate::load::connect_from(IpAddr::V4(*from), to)?;
        let took = begun.elapsed().as_secs_f64() * 1e6;
        drop((server.accept()?, stream));
        Ok(took)
    };
    from.iter().map(connect).collect()
}

fn costs_of(loaded: &Loaded, site: Site) -> Result<Table> {
    let agent = cpu::memory(site.agents[0].pid(), "VmRSS")?;
    let Site { agents, nodes, scene: _scene, .. } = site;
    drop(agents);
    let with = cpu::kernel_memory()?;
    delete_tables(&nodes[0])?;
    thread::sleep(FREED);
    let kernel = with - cpu::kernel_memory()?;
    let mut table = Table::new(&["a list of blocks", "measured"]);
    let mut row = |what: &str, value: String| table.row(&[what.into(), value]);
    row("the policies are written, s", format!("{:.1}", loaded.written));
    row("from then on until it is in both kernels, s", format!("{:.1}", loaded.behind));
    row("CPU seconds of one agent from the first write on", format!("{:.1}", loaded.cpu));
    row("from an agent's start, nothing in the kernel, s", format!("{:.1}", loaded.cold));
    row("resident MiB of an agent", format!("{agent:.0}"));
    row("MiB in the kernel of a node", format!("{kernel:.0}"));
    Ok(table)
}

/// Takes away what policies have in a node's kernel.
fn delete_tables(node: &Path) -> Result<()> {
    for family in ["ip", "ip6"] {
        let mut command = Command::new("nft");
        command.args(["delete", "table", family, "ripstop-policy"]).stdout(Stdio::null());
        let status = space::Place::host().in_netns(node)?.spawn(&mut command)?.wait().context("nft")?;
        ensure!(status.success(), "nft: {status}");
    }
    Ok(())
}
