//! Three nodes on one segment, a machine beside them, and what can happen to a node.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use ripstop_lab::layout::{self, OUTSIDE, ROUTER};
use ripstop_lab::{Capture, Families, Lab, Options, ip_batch, space};
use ripstop_types::Mac;
use serde_json::json;

use super::flow::{self, Worker};
use super::segment::{Asker, Asking};
use crate::scene::{Programs, Scene};
use crate::switch::Switch;

pub const NODES: u32 = 3;
/// The machine beside the nodes: it asks, and it is the Services' endpoint.
pub const BESIDE: Asker = Asker {
    mac: Mac([2, 0x52, 0x49, 9, 0, 1]),
    v4: Ipv4Addr::new(172, 30, 1, 2),
    v6: Ipv6Addr::new(0xfd00, 0x30, 1, 0, 0, 0, 0, 2),
};

/// What may happen to an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Its program is stopped, and goes on a second later.
    Frozen,
    /// Its program is killed.
    Killed,
    /// Its cable is pulled.
    PortDown,
    /// It reaches no other node, but clients.
    Partition,
}

impl Fault {
    pub const ALL: [Self; 4] = [Self::Frozen, Self::Killed, Self::PortDown, Self::Partition];

    /// In a table.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Frozen => "frozen, then woken",
            Self::Killed => "killed",
            Self::PortDown => "port down",
            Self::Partition => "cut from the others, not from clients",
        }
    }
}

/// A lab, and a machine at its nodes' switch.
pub struct Site {
    pub lab: Lab,
    /// The machine beside the nodes.
    pub beside: PathBuf,
    pub scene: Scene,
    switch: Switch,
    _echo: Worker,
}

impl Site {
    /// Three nodes on one segment whose agents serve Services.
    pub fn options(name: &str) -> Options {
        let services = json!({"proxy": "nftables", "serviceCIDRs": ["10.96.0.0/16", "fd00:10:96::/112"]});
        Options {
            nodes: NODES,
            families: Families::Dual,
            replace: true,
            agent_config: json!({"services": services}),
            ..Options::named(name)
        }
    }

    /// Makes it.
    pub fn build(programs: &Programs, options: Options) -> Result<Self> {
        let name = options.name.clone();
        let (ripstop, plugin) = (Some(programs.ripstop.clone()), Some(programs.plugin.clone()));
        let options = Options { ripstop, plugin, ..options };
        let lab = Lab::up(&options)?;
        let scene = Scene::new(&name, programs)?;
        let beside = scene.netns("beside")?;
        let router = lab.layout().netns_path(ROUTER);
        let peer = beside.file_name().context("a namespace")?.to_string_lossy().into_owned();
        let mac = BESIDE.mac;
        ip_batch(
            &router,
            &format!(
                "link add beside type veth peer name eth0 address {mac} netns {peer}\nlink set beside master sub1 up\n"
            ),
        )?;
        // Where nodes have no IPv6 it does no harm.
        let lines = [
            format!("addr add {}/24 dev eth0", BESIDE.v4),
            format!("addr add {}/64 dev eth0 nodad", BESIDE.v6),
            "link set lo up".into(),
            "link set eth0 up".into(),
        ];
        ip_batch(&beside, &(lines.join("\n") + "\n"))?;
        let (echo, switch) = (flow::echo(&beside)?, Switch::open(&router)?);
        Ok(Self { lab, beside, scene, switch, _echo: echo })
    }

    /// The hardware address of a node.
    pub fn mac(node: u32) -> Result<Mac> {
        layout::mac(1, node).parse().context("a hardware address")
    }

    /// Where the client is.
    pub fn outside(&self) -> PathBuf {
        self.lab.layout().netns_path(OUTSIDE)
    }

    /// Questions for addresses.
    pub fn ask(&self, addresses: &[IpAddr]) -> Result<Asking> {
        Asking::start(&self.beside, BESIDE, addresses)
    }

    /// What the machine beside sees, and what the client does.
    pub fn captures(&self) -> Result<[Capture<Vec<ripstop_lab::capture::Packet>>; 2]> {
        let beside = Capture::within(&self.beside, Some("eth0"))?;
        Ok([beside, Capture::within(&self.outside(), Some("eth0"))?])
    }

    /// Pulls a node's cable, or plugs it in again.
    pub fn plug(&self, node: u32, plugged: bool) -> Result<()> {
        self.switch.plug(&layout::node_name(node), plugged)
    }

    /// Lets nothing pass between a node and the others, or everything again.
    pub fn part(&self, node: u32, parted: bool) -> Result<()> {
        let name = |node| format!("\"{}\"", layout::node_name(node));
        let others: Vec<String> = (1..=NODES).filter(|other| *other != node).map(name).collect();
        let (node, others) = (name(node), others.join(", "));
        let rules = if parted {
            format!(
                "table bridge parted {{ chain between {{ type filter hook forward priority 0; iifname {node} oifname {{ {others} }} drop; \
                 iifname {{ {others} }} oifname {node} drop; }}; }}\n"
            )
        } else {
            "delete table bridge parted\n".into()
        };
        nft(&self.lab, ROUTER, &rules)
    }
}

/// Rules in a machine.
pub fn nft(lab: &Lab, machine: &str, rules: &str) -> Result<()> {
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = space::Place::host().in_netns(&lab.layout().netns_path(machine))?.spawn(&mut command)?;
    // If it ended early, what it said is the better error.
    let _ = child.stdin.take().map(|mut input| input.write_all(rules.as_bytes()));
    let said = child.wait_with_output().context("run nft")?;
    ensure!(said.status.success(), "nft: {}", String::from_utf8_lossy(&said.stderr));
    Ok(())
}

/// Nanoseconds since 1970, as the kernel gives packets.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}
