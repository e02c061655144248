//! Ways between two pods on two machines, built at once and left standing: by the product, by hand, and in Flannel's shape.
//!
//! Every way has machines of its own on one direct wire, so that the wire costs as little as possible and differences show
//! at their largest. What is made by hand has the addresses 10.244.1.0/24 and 10.244.2.0/24.

use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ripstop_lab::{ip_batch, settings, space};
use serde_json::json;

use crate::load::{Course, Test};
use crate::plugin::{self, Plugin};
use crate::scene::{Agent, NODES, Programs, Scene};

/// How packets travel between the machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Backend {
    HostGw,
    Vxlan,
}

impl Backend {
    /// Its name in the product's configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::HostGw => "host-gw",
            Self::Vxlan => "vxlan",
        }
    }

    fn mtu(self) -> u32 {
        match self {
            Self::HostGw => 1500,
            Self::Vxlan => 1450,
        }
    }
}

/// Who made the way, and as what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shape {
    /// The product, routed wiring.
    Ours,
    /// The same devices and routes by hand, with connection tracking and a masquerade rule.
    Hand,
    /// The same without any rule, so without connection tracking.
    Bare,
    /// Flannel's: the bridge `cni0`, `flannel.1`, its iptables rules.
    Flannel,
}

impl Shape {
    /// All, in the order in which they are shown.
    pub const ALL: [Self; 4] = [Self::Ours, Self::Hand, Self::Bare, Self::Flannel];

    /// In a table.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Ours => "ripstop, routed",
            Self::Hand => "by hand, routed, conntrack + masquerade",
            Self::Bare => "by hand, routed, no rules",
            Self::Flannel => "Flannel's shape: cni0, masquerade",
        }
    }
}

/// A standing way.
pub struct Variant {
    pub backend: Backend,
    pub shape: Shape,
    pub course: Course,
    _agents: Vec<Agent>,
    _scene: Scene,
}

impl Variant {
    /// Builds one, and checks that packets take the way it says.
    pub fn build(backend: Backend, shape: Shape, programs: &Programs, cpu: usize) -> Result<Self> {
        let mut scene = Scene::new(&format!("{}-{shape:?}", backend.name()).to_lowercase(), programs)?;
        let (one, two) = scene.machines("n1", "n2")?;
        let nodes = [one, two];
        let pods = [scene.netns("a")?, scene.netns("b")?];
        let mut agents = Vec::new();
        let server: IpAddr = match shape {
            Shape::Ours => ours(&mut scene, backend.name(), &nodes, &pods, &mut agents)?,
            _ => {
                for number in 1..=2 {
                    by_hand(backend, shape, number, &nodes[number - 1], &pods[number - 1])?;
                }
                [10, 244, 2, 2].into()
            }
        };
        let tracked = shape != Shape::Bare;
        for node in &nodes {
            // Thousands of closed connections a second must not fill the table of any variant.
            settings(node, &[("net/netfilter/nf_conntrack_tcp_timeout_time_wait", "1")])?;
        }
        let mut course = Course::open(&pods[0], &pods[1], server)?;
        let device = match (backend, shape) {
            (Backend::HostGw, _) => "eth0",
            (Backend::Vxlan, Shape::Ours) => "ript1",
            (Backend::Vxlan, _) => "flannel.1",
        };
        wait_until_open(&mut course, cpu)?;
        check(&nodes[0], device, tracked, &mut course, cpu)
            .with_context(|| format!("{} of {}", backend.name(), shape.title()))?;
        Ok(Self { backend, shape, course, _agents: agents, _scene: scene })
    }
}

/// The way that the product makes by a backend; answers the second pod's address.
pub fn ours(
    scene: &mut Scene,
    backend: &str,
    nodes: &[PathBuf; 2],
    pods: &[PathBuf; 2],
    agents: &mut Vec<Agent>,
) -> Result<IpAddr> {
    let spec = json!({ "ranges": ["10.244.0.0/16"], "wiring": "routed", "backend": { "type": backend } });
    let mut server = None;
    for (number, (node, pod)) in nodes.iter().zip(pods).enumerate() {
        let agent = scene.agent(&format!("n{}", number + 1), node, &spec)?;
        agent.wait_ready()?;
        let plugin = Plugin::ripstop(&scene.programs().plugin, &agent.cni_socket());
        let taken = space::in_netns(node, || plugin.call("ADD", &format!("pod{number}"), Some(pod)))??;
        server = Some(plugin::address(&taken.printed)?);
        agents.push(agent);
    }
    server.context("no pod")
}

/// Builds one machine's side of a way by hand.
pub fn by_hand(backend: Backend, shape: Shape, number: usize, node: &Path, pod: &Path) -> Result<()> {
    let all = ["net/ipv4/conf/all/rp_filter", "net/ipv4/conf/default/rp_filter", "net/ipv4/conf/eth0/rp_filter"];
    settings(node, &all.map(|name| (name, "0")))?;
    settings(node, &[("net/ipv4/ip_forward", "1"), ("net/bridge/bridge-nf-call-iptables", "0")])?;
    let mut script = pod_link(backend, shape, number, pod)?;
    script += &uplink(backend, number);
    ip_batch(node, &script)?;
    if backend == Backend::Vxlan {
        let peer = 3 - number;
        let entry = format!("fdb add {} dev flannel.1 dst {} self permanent\n", vtep(peer), NODES[peer - 1]);
        run_in(node, "bridge", &["-batch", "-"], &entry)?;
    }
    ip_batch(pod, &pod_side(shape, number))?;
    match shape {
        Shape::Hand => run_in(node, "nft", &["-f", "-"], &masquerade(number)),
        Shape::Flannel => run_in(node, "iptables-restore", &[], &flannel_rules(number)),
        Shape::Ours | Shape::Bare => Ok(()),
    }
}

/// The machine's side of a pod's link; the pod's end has its final name, address and MTU.
fn pod_link(backend: Backend, shape: Shape, number: usize, pod: &Path) -> Result<String> {
    let mtu = backend.mtu();
    let pod = pod.file_name().and_then(|name| name.to_str()).context("a namespace without a name")?;
    let link = format!(
        "link add h0 address 0a:00:00:00:0{number}:01 mtu {mtu} type veth \
         peer name eth0 address 0a:00:00:00:0{number}:02 mtu {mtu} netns {pod}\n"
    );
    Ok(match shape {
        Shape::Flannel => format!(
            "link add cni0 address 0a:00:00:00:0{number}:03 mtu {mtu} type bridge\n\
             addr add 10.244.{number}.1/24 dev cni0\nlink set cni0 up\n{link}\
             link set h0 master cni0 up\nlink set h0 type bridge_slave hairpin on\n"
        ),
        _ => format!(
            "{link}link set h0 up\nroute add 10.244.{number}.2/32 dev h0\nroute add unreachable 10.244.{number}.0/24\n"
        ),
    })
}

fn pod_side(shape: Shape, number: usize) -> String {
    let up = "link set lo up\nlink set eth0 up\n";
    match shape {
        Shape::Flannel => {
            format!("{up}addr add 10.244.{number}.2/24 dev eth0\nroute add default via 10.244.{number}.1\n")
        }
        _ => format!(
            "{up}addr add 10.244.{number}.2/32 dev eth0\nroute add 169.254.1.1 dev eth0 scope link\n\
             route add default via 169.254.1.1\n\
             neigh add 169.254.1.1 lladdr 0a:00:00:00:0{number}:01 dev eth0 nud permanent\n"
        ),
    }
}

/// The way to the other machine's pods.
fn uplink(backend: Backend, number: usize) -> String {
    let peer = 3 - number;
    match backend {
        Backend::HostGw => format!("route add 10.244.{peer}.0/24 via {}\n", NODES[peer - 1]),
        Backend::Vxlan => format!(
            "link add flannel.1 address {} mtu 1450 type vxlan id 1 local {} dev eth0 dstport 8472 nolearning\n\
             addr add 10.244.{number}.0/32 dev flannel.1\nlink set flannel.1 up\n\
             neigh add 10.244.{peer}.0 lladdr {} dev flannel.1 nud permanent\n\
             route add 10.244.{peer}.0/24 via 10.244.{peer}.0 dev flannel.1 onlink\n",
            vtep(number),
            NODES[number - 1],
            vtep(peer)
        ),
    }
}

fn vtep(number: usize) -> String {
    format!("0a:00:00:00:00:0{number}")
}

/// What leaves the cluster leaves with the machine's address.
fn masquerade(number: usize) -> String {
    format!(
        "table ip byhand {{\nchain postrouting {{\ntype nat hook postrouting priority srcnat; policy accept;\n\
         ip saddr 10.244.{number}.0/24 ip daddr != 10.244.0.0/16 masquerade fully-random\n}}\n}}\n"
    )
}

/// The rules that flanneld makes with `--ip-masq` and its default forwarding, without a Service proxy's.
fn flannel_rules(number: usize) -> String {
    let (all, own) = ("10.244.0.0/16", format!("10.244.{number}.0/24"));
    format!(
        "*nat\n:FLANNEL-POSTRTG - [0:0]\n\
         -A POSTROUTING -m comment --comment \"flanneld masq\" -j FLANNEL-POSTRTG\n\
         -A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -j RETURN\n\
         -A FLANNEL-POSTRTG -s {own} -d {all} -j RETURN\n\
         -A FLANNEL-POSTRTG -s {all} -d {own} -j RETURN\n\
         -A FLANNEL-POSTRTG ! -s {all} -d {own} -j RETURN\n\
         -A FLANNEL-POSTRTG -s {all} ! -d 224.0.0.0/4 -j MASQUERADE --random-fully\n\
         -A FLANNEL-POSTRTG ! -s {all} -d {all} -j MASQUERADE --random-fully\n\
         COMMIT\n*filter\n:FLANNEL-FWD - [0:0]\n\
         -A FORWARD -m comment --comment \"flanneld forward\" -j FLANNEL-FWD\n\
         -A FLANNEL-FWD -s {all} -j ACCEPT\n-A FLANNEL-FWD -d {all} -j ACCEPT\nCOMMIT\n"
    )
}

/// Runs a program in a namespace with a text on its standard input.
pub fn run_in(netns: &Path, program: &str, arguments: &[&str], input: &str) -> Result<()> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = space::Place::host().in_netns(netns)?.spawn(&mut command)?;
    if let Some(mut stdin) = child.stdin.take() {
        // If it ended early, its own message is the better one.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// Peers learn of each other by their agents: the first connection may have to wait.
pub fn wait_until_open(course: &mut Course, cpu: usize) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        match course.reach() {
            Ok(()) => return course.run(Test::Transaction, 10, cpu).map(drop),
            Err(error) if Instant::now() >= deadline => return Err(error.context("the server's pod is not reached")),
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Packets leave the machine by `device`, and connections are tracked or not.
fn check(node: &Path, device: &str, tracked: bool, course: &mut Course, cpu: usize) -> Result<()> {
    let sent = || space::in_netns(node, || transmitted(device))?;
    let before = sent()?;
    course.run(Test::Transaction, 1_000, cpu)?;
    let grown = sent()? - before;
    ensure!(grown >= 1_000, "only {grown} packets of 1000 transactions left by {device}");
    course.run(Test::Connection, 10, cpu)?;
    let count = space::in_netns(node, || fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count"))?;
    let count: u32 = count.context("nf_conntrack_count")?.trim().parse()?;
    if (count > 0) != tracked {
        bail!("{count} connections are tracked");
    }
    Ok(())
}

/// Packets that a device has sent (net/dev, tenth number).
fn transmitted(device: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/thread-self/net/dev")?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix(device)?.strip_prefix(':'));
    let number = line.and_then(|rest| rest.split_whitespace().nth(9));
    Ok(number.with_context(|| format!("no device {device}"))?.parse()?)
}
