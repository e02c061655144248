//! Debian's keepalived as the owner of addresses: VRRP version 3, one instance a family.
//!
//! Nodes send what comes for an address on to the endpoint by rules of nftables, as a proxy would.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use ripstop_lab::layout::node_name;
use ripstop_lab::process::ProcessId;
use ripstop_lab::{Options, settings, space};
use rustix::process::Signal;

use super::flow::PORT;
use super::owner::{Side, Victim};
use super::site::{BESIDE, NODES, Site, nft};
use crate::scene::{Programs, Running, Scene, wait_for};

const PROGRAM: &str = "/usr/sbin/keepalived";
const ADDRESSES: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::new(172, 30, 1, 200)),
    IpAddr::V6(std::net::Ipv6Addr::new(0xfd00, 0x30, 1, 0, 0, 0, 0, 0x200)),
];
/// Seconds between two advertisements. Three that are missed and a little more are an owner lost: the product's detection time.
const INTERVAL: &str = "0.02";
/// The node of the highest priority has the addresses whenever it is well.
const OWNER: u32 = 1;
const LIMIT: Duration = Duration::from_secs(60);
const CALM: Duration = Duration::from_secs(1);

/// keepalived on all nodes.
pub struct Keepalived {
    running: Vec<Running>,
    scene: Scene,
    site: Site,
}

/// Whether it is installed.
#[must_use]
pub fn is_there() -> bool {
    Path::new(PROGRAM).exists()
}

impl Keepalived {
    /// Starts it.
    pub fn start(programs: &Programs) -> Result<Self> {
        let site = Site::build(programs, Options { agents: false, ..Site::options("bench-keepalived") })?;
        let scene = Scene::new("keepalived", programs)?;
        let mut this = Self { running: Vec::new(), scene, site };
        for node in 1..=NODES {
            let netns = this.netns(node);
            settings(&netns, &[("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")])?;
            nft(&this.site.lab, &node_name(node), &rules())?;
            fs::write(this.file(node, "conf"), configuration(node)).context("write a file")?;
            let running = this.run(node)?;
            this.running.push(running);
        }
        Ok(this)
    }

    fn netns(&self, node: u32) -> PathBuf {
        self.site.lab.layout().netns_path(&node_name(node))
    }

    fn file(&self, node: u32, end: &str) -> PathBuf {
        self.scene.run().join(format!("{node}.{end}"))
    }

    fn run(&self, node: u32) -> Result<Running> {
        let mut command = Command::new(PROGRAM);
        command
            .args(["--dont-fork", "--log-console", "--no-syslog", "--vrrp", "--use-file"])
            .arg(self.file(node, "conf"));
        command.arg("--pid").arg(self.file(node, "pid")).arg("--vrrp_pid").arg(self.file(node, "vrrp"));
        Running::start(&space::Place::host().in_netns(&self.netns(node))?, &mut command, &self.file(node, "log"))
    }

    /// How many of the addresses a node has.
    fn has(&self, node: u32) -> usize {
        let said = Command::new("nsenter")
            .arg(format!("--net={}", self.netns(node).display()))
            .args(["ip", "-o", "addr", "show", "dev", "eth0"])
            .output();
        let text = said.map(|said| String::from_utf8_lossy(&said.stdout).into_owned()).unwrap_or_default();
        ADDRESSES.iter().filter(|address| text.contains(&format!(" {address}/"))).count()
    }

    /// The process that speaks VRRP, and the one that watches it.
    fn processes(&self, node: u32) -> Result<[ProcessId; 2]> {
        let text = fs::read_to_string(self.file(node, "vrrp")).context("read a file")?;
        let parent = self.running.get(node as usize - 1).context("a node")?.pid();
        let of = |pid: i32| ProcessId::of(pid).with_context(|| format!("process {pid} is gone"));
        Ok([of(text.trim().parse().context("a process number")?)?, of(parent.cast_signed())?])
    }

    fn signal(&self, node: u32, signal: Signal) -> Result<()> {
        for process in self.processes(node)? {
            process.signal(signal);
        }
        Ok(())
    }
}

impl Side for Keepalived {
    fn title(&self) -> &'static str {
        "keepalived"
    }

    fn site(&self) -> &Site {
        &self.site
    }

    fn victim(&mut self, _: usize) -> Result<Victim> {
        let mut since = Instant::now();
        let log = || fs::read_to_string(self.file(OWNER, "log")).unwrap_or_default();
        let is = || {
            thread::sleep(Duration::from_millis(50));
            if (1..=NODES).any(|node| self.has(node) != if node == OWNER { ADDRESSES.len() } else { 0 }) {
                since = Instant::now();
            }
            since.elapsed() > CALM
        };
        wait_for("an owner of each address", LIMIT, is).with_context(log)?;
        Ok(Victim { node: OWNER, addresses: ADDRESSES })
    }

    fn freeze(&mut self, node: u32) -> Result<()> {
        self.signal(node, Signal::STOP)
    }

    fn wake(&mut self, node: u32) -> Result<()> {
        self.signal(node, Signal::CONT)
    }

    fn kill(&mut self, node: u32) -> Result<()> {
        self.signal(node, Signal::KILL)
    }

    fn revive(&mut self, node: u32) -> Result<()> {
        for end in ["pid", "vrrp"] {
            let _ = fs::remove_file(self.file(node, end));
        }
        self.running[node as usize - 1] = self.run(node)?;
        Ok(())
    }

    fn healed(&mut self) {}
}

fn configuration(node: u32) -> String {
    let priority = 200 - 50 * node;
    let instance = |name: &str, id: u32, address: &IpAddr| {
        let length = if address.is_ipv4() { 32 } else { 128 };
        format!(
            "vrrp_instance {name} {{\n  state BACKUP\n  interface eth0\n  virtual_router_id {id}\n  priority {priority}\n  \
             advert_int {INTERVAL}\n  virtual_ipaddress {{\n    {address}/{length}\n  }}\n}}\n"
        )
    };
    let [v4, v6] = &ADDRESSES;
    format!("global_defs {{\n  router_id n{node}\n  vrrp_version 3\n  vrrp_rt_priority 1\n}}\n")
        + &instance("v4", 51, v4)
        + &instance("v6", 52, v6)
}

fn rules() -> String {
    let [v4, v6] = ADDRESSES;
    format!(
        "table inet lb {{\n chain before {{ type nat hook prerouting priority dstnat;\n  ip daddr {v4} udp dport {PORT} dnat ip to {};\n  \
         ip6 daddr {v6} udp dport {PORT} dnat ip6 to {};\n }}\n chain after {{ type nat hook postrouting priority srcnat;\n  \
         ct status dnat masquerade;\n }}\n}}\n",
        BESIDE.v4, BESIDE.v6
    )
}
