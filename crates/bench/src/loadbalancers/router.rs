//! A router that learns by BGP which nodes serve an address, and spreads flows over them: BIRD at the lab's router, with BFD.

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Result;
use ripstop_lab::layout::{ROUTER, node_v4};
use ripstop_lab::{Backend, Families, Options, ip_batch, settings};

use super::ripstop::{LIMIT, Objects};
use super::site::{NODES, Site};
use crate::bgp;
use crate::scene::{self, Programs, Running, wait_for};

/// Milliseconds between two packets of BFD; three that are missed are a node lost.
pub const BFD: u32 = 50;
/// How long all nodes are used before something happens: until BFD has come to its pace.
const SETTLED: Duration = Duration::from_millis(2_500);

/// The nexthop group of a router that keeps flows where they are; its nexthops have the nodes' numbers.
const GROUP: u32 = 100;

/// Nodes, and the router before them.
pub struct Router {
    _bird: Running,
    pub site: Site,
    /// What all nodes announce.
    pub address: Ipv4Addr,
}

impl Router {
    /// Whether BIRD is installed.
    pub fn is_there() -> bool {
        std::path::Path::new(bgp::BIRD).exists()
    }

    /// Starts all of it.
    pub fn build(programs: &Programs, name: &str) -> Result<Self> {
        let options = Options { backend: Backend::Bgp, families: Families::V4, ..Site::options(name) };
        let site = Site::build(programs, options)?;
        let netns = site.lab.layout().netns_path(ROUTER);
        // Flows are told apart by their ports, too.
        settings(&netns, &[("net/ipv4/fib_multipath_hash_policy", "1")])?;
        let bird = bgp::bird(&site.scene, &netns, "router", &configuration())?;
        let objects = Objects { announce: "[{by: bgp}]", ..Objects::on_segment("203.0.113.1") };
        scene::apply(programs, &site.lab.layout().agent_socket(1), &(objects.manifest() + &peer()))?;
        let this = Self { _bird: bird, site, address: Ipv4Addr::new(203, 0, 113, 1) };
        this.wait_all()?;
        Ok(this)
    }

    /// Whether the router's kernel sends packets for the address to each of the nodes.
    pub fn uses(&self) -> Vec<bool> {
        uses(&self.site.lab.layout().netns(ROUTER), self.address)
    }

    /// From now on the router keeps each flow with its node as long as there is one: a nexthop group of type `resilient`, which BIRD does not
    /// make. It loses nodes when BIRD's route does.
    pub fn keep_flows(&self) -> Result<Keeper> {
        let netns = self.site.lab.layout().netns_path(ROUTER);
        let hops: String =
            (1..=NODES).map(|node| format!("nexthop add id {node} via {} dev sub1\n", node_v4(node, 1))).collect();
        let route = format!("{}route add {} metric 1 nhid {GROUP}\n", group(&[true; NODES as usize]), self.address);
        ip_batch(&netns, &(hops + &route))?;
        let ends = Arc::new(AtomicBool::new(false));
        let (over, name, address) = (Arc::clone(&ends), self.site.lab.layout().netns(ROUTER), self.address);
        let follow = move || {
            let mut told = vec![true; NODES as usize];
            while !over.load(Ordering::Relaxed) {
                let uses = uses(&name, address);
                if uses != told && uses.contains(&true) && ip_batch(&netns, &group(&uses)).is_ok() {
                    told = uses;
                }
                thread::sleep(Duration::from_millis(5));
            }
        };
        Ok(Keeper { ends, thread: Some(thread::Builder::new().name("keeper".into()).spawn(follow)?) })
    }

    /// Waits until it uses all of them for a while.
    pub fn wait_all(&self) -> Result<()> {
        let mut since = std::time::Instant::now();
        wait_for("a route by all nodes that stays", LIMIT, || {
            thread::sleep(Duration::from_millis(50));
            if self.uses().contains(&false) {
                since = std::time::Instant::now();
            }
            since.elapsed() > SETTLED
        })
    }
}

/// What has a router's group follow its route. It ends with this value.
pub struct Keeper {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Whether BIRD's route to an address goes by each of the nodes.
fn uses(netns: &str, address: Ipv4Addr) -> Vec<bool> {
    let said = Command::new("ip").args(["-n", netns, "route", "show", &address.to_string(), "proto", "bird"]).output();
    let text = said.map(|said| String::from_utf8_lossy(&said.stdout).into_owned()).unwrap_or_default();
    (1..=NODES).map(|node| text.contains(&format!("via {} ", node_v4(node, 1)))).collect()
}

/// The group of these nodes, as a line of ip(8).
fn group(uses: &[bool]) -> String {
    let numbers = (1..).zip(uses).filter(|(_, is)| **is).map(|(node, _): (u32, _)| node.to_string());
    let members = numbers.collect::<Vec<_>>().join("/");
    format!("nexthop replace id {GROUP} group {members} type resilient buckets 256 idle_timer 3600\n")
}

fn configuration() -> String {
    let node = |node: u32| format!("protocol bgp n{node} from node {{ neighbor {} as 64512; }}\n", node_v4(node, 1));
    let nodes: String = (1..=NODES).map(node).collect();
    format!(
        "log stderr all;\nrouter id 172.30.1.1;\nprotocol device {{}}\nprotocol bfd {{ interface \"*\" {{ interval {BFD} ms; multiplier 3; }}; }}\n\
         protocol kernel {{ merge paths on; ipv4 {{ import none; export where source = RTS_BGP; }}; }}\n\
         template bgp node {{ local 172.30.1.1 as 65000; bfd on; error wait time 1, 2; connect retry time 1; connect delay time 1;\n  \
         ipv4 {{ import all; export none; }}; }}\n{nodes}"
    )
}

fn peer() -> String {
    let bfd = format!("{{transmitIntervalMs: {BFD}, receiveIntervalMs: {BFD}, multiplier: 3}}");
    format!(
        "---\napiVersion: ripstop.io/v1alpha1\nkind: BgpPeer\nmetadata: {{name: router}}\n\
         spec: {{peerIP: 172.30.1.1, asNumber: 65000, bfd: {bfd}}}\n"
    )
}
