//! The product as the owner of addresses.

use std::net::IpAddr;
use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use ripstop_lab::Lab;
use ripstop_lab::process::ProcessId;
use rustix::process::Signal;
use serde_json::Value;

use super::flow::{PORT, WEB};
use super::owner::{Side, Victim};
use super::site::{BESIDE, NODES, Site};
use crate::scene::{self, Programs, checkpoint, wait_for};

/// Services, each with an address of either family: enough that some node owns one of each.
const SERVICES: u32 = 6;
/// Addresses of the nodes' own subnet.
pub const SEGMENT: &str = "172.30.1.200-172.30.1.219, \"fd00:30:1::200-fd00:30:1::219\"";
pub const LIMIT: Duration = Duration::from_secs(60);
/// How long a node that was away passes for new to the others, and a little more (`Timing::settle`).
pub const SETTLED: Duration = Duration::from_millis(5_500);

/// Agents on all nodes.
pub struct Ripstop {
    site: Site,
    agent: Option<ProcessId>,
    healed: Instant,
}

impl Ripstop {
    /// Starts them.
    pub fn start(programs: &Programs) -> Result<Self> {
        let site = Site::build(programs, Site::options("bench-lb"))?;
        let objects = Objects { services: 0..SERVICES, dual: true, ..Objects::on_segment(SEGMENT) };
        scene::apply(programs, &site.lab.layout().agent_socket(1), &objects.manifest())?;
        Ok(Self { site, agent: None, healed: Instant::now() })
    }
}

impl Side for Ripstop {
    fn title(&self) -> &'static str {
        "ripstop"
    }

    fn site(&self) -> &Site {
        &self.site
    }

    fn victim(&mut self, run: usize) -> Result<Victim> {
        thread::sleep(SETTLED.saturating_sub(self.healed.elapsed()));
        let mut owners = Vec::new();
        wait_for("an owner of each address", LIMIT, || {
            thread::sleep(Duration::from_millis(100));
            owners = self::owners(&self.site.lab, 1).unwrap_or_default();
            let all = owners.len() == 2 * SERVICES as usize;
            all && (2..=NODES).all(|node| self::owners(&self.site.lab, node).as_ref() == Some(&owners))
        })?;
        let of = |node: u32, v4: bool| {
            owners
                .iter()
                .find(|(address, owner)| *owner == node && address.is_ipv4() == v4)
                .map(|(address, _)| *address)
        };
        let both = |node: u32| Some(Victim { node, addresses: [of(node, true)?, of(node, false)?] });
        let victims: Vec<Victim> = (1..=NODES).filter_map(both).collect();
        let Some(victim) = victims.get(run % victims.len().max(1)) else {
            bail!("no node owns addresses of both families: {owners:?}")
        };
        self.agent = self.site.lab.node(victim.node).agent()?;
        checkpoint()?;
        Ok(*victim)
    }

    fn freeze(&mut self, _: u32) -> Result<()> {
        self.agent.filter(|agent| agent.signal(Signal::STOP)).context("the agent is gone").map(drop)
    }

    fn wake(&mut self, _: u32) -> Result<()> {
        self.agent.filter(|agent| agent.signal(Signal::CONT)).context("the agent is gone").map(drop)
    }

    fn kill(&mut self, node: u32) -> Result<()> {
        Ok(self.site.lab.node(node).kill_agent(true)?)
    }

    fn revive(&mut self, node: u32) -> Result<()> {
        let node = self.site.lab.node(node);
        node.release_agent()?;
        Ok(node.wait_ready(LIMIT)?)
    }

    fn healed(&mut self) {
        self.healed = Instant::now();
    }
}

/// Addresses and their owners as a node sees them; none where one has none.
pub fn owners(lab: &Lab, node: u32) -> Option<Vec<(IpAddr, u32)>> {
    let rows = lab.agent_json(node, "/v1/loadbalancers").ok()?;
    let row = |row: &Value| {
        let owner = row["owner"].as_str()?.strip_prefix('n')?.parse().ok()?;
        Some((row["ip"].as_str()?.parse().ok()?, owner))
    };
    rows.as_array()?.iter().map(row).collect()
}

/// A pool, and Services that get their addresses of it; their endpoint is the machine beside the nodes.
pub struct Objects {
    pub services: Range<u32>,
    /// Whether Services have an address of either family.
    pub dual: bool,
    /// The pool's addresses.
    pub addresses: String,
    /// How they are announced.
    pub announce: &'static str,
}

impl Objects {
    /// One Service with one address, announced by ARP.
    pub fn on_segment(addresses: &str) -> Self {
        Self { services: 0..1, dual: false, addresses: addresses.into(), announce: "[{by: l2}]" }
    }

    /// All of them.
    pub fn manifest(&self) -> String {
        let pool = format!(
            "{{apiVersion: ripstop.io/v1alpha1, kind: AddressPool, metadata: {{name: pool}}, spec: {{addresses: [{}], announce: {}}}}}\n",
            self.addresses, self.announce
        );
        self.services.clone().fold(pool, |all, number| all + &self.service(&format!("s{number}")))
    }

    fn service(&self, name: &str) -> String {
        let ports = format!("[{{name: echo, port: {PORT}, protocol: UDP}}, {{name: web, port: {WEB}, protocol: TCP}}]");
        let slice = |family: &str, address: &str| {
            format!(
                "---\n{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: {name}-{}, labels: \
                 {{kubernetes.io/service-name: {name}}}}}, addressType: {family}, ports: {ports}, \
                 endpoints: [{{addresses: [\"{address}\"], conditions: {{ready: true}}}}]}}\n",
                family.to_lowercase()
            )
        };
        let policy = if self.dual { "RequireDualStack" } else { "SingleStack" };
        let service = format!(
            "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{type: LoadBalancer, ipFamilyPolicy: {policy}, \
             ports: {ports}}}}}\n"
        );
        let v6 = if self.dual { slice("IPv6", &BESIDE.v6.to_string()) } else { String::new() };
        service + &slice("IPv4", &BESIDE.v4.to_string()) + &v6
    }
}
