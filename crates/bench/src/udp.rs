//! The udp backend's forwarder, beside one that reads one packet at a time as Flannel's does, and beside no tunnel.
//!
//! All three ways have the same pods, links and routes by hand, without any rule; both forwarders keep to the CPU of the
//! load, so that the rate is one over all CPU time spent.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use ripstop_forwarder::Client;
use ripstop_forwarder::control::{PORT, Peer, Setup};
use ripstop_forwarder::plain::Plain;
use ripstop_lab::{ip_batch, space};

use crate::cpu::{self, Ksoftirqd};
use crate::few::few;
use crate::load::{Clock, Course, Test};
use crate::report::{Goal, Section, Table, verdict};
use crate::scene::{NODES, Programs, Scene, checkpoint, wait_for};
use crate::stat::{Spread, ratios};
use crate::variant::{Backend, Shape, by_hand};

const DEVICE: &str = "ripudp0";
/// The wire's MTU less IPv4 and UDP.
const MTU: u16 = 1472;
/// Datagrams on their way at one time, and their bytes with the IP header.
const IN_FLIGHT: usize = 128;
const PAYLOAD: usize = 36;
const BURSTS: u64 = 800;

/// Who carries packets between the machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Carrier {
    Ours,
    Naive,
    Plain,
}

impl Carrier {
    const ALL: [Self; 3] = [Self::Ours, Self::Naive, Self::Plain];

    /// In a table.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Ours => "ripstop udp-forward",
            Self::Naive => "a forwarder with one packet a read",
            Self::Plain => "host-gw, no tunnel",
        }
    }
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Figure {
    Stream,
    Transaction,
    Datagram,
}

impl Figure {
    const ALL: [Self; 3] = [Self::Stream, Self::Transaction, Self::Datagram];

    fn unit(self) -> &'static str {
        match self {
            Self::Stream => Test::Stream.unit().0,
            Self::Transaction => Test::Transaction.unit().0,
            Self::Datagram => "CPU µs per datagram of 64 bytes, 128 in flight",
        }
    }
}

type Costs = BTreeMap<(Carrier, Figure), Vec<f64>>;

/// Measures all three.
pub fn udp(programs: &Programs, rounds: usize) -> Result<Section> {
    let cpu = cpu::last();
    let mut ways =
        Carrier::ALL.map(|carrier| Way::build(carrier, programs, cpu)).into_iter().collect::<Result<Vec<_>>>()?;
    let mut costs = Costs::new();
    for round in 0..rounds {
        for turn in 0..ways.len() {
            let count = ways.len();
            let way = &mut ways[(round + turn) % count];
            for figure in Figure::ALL {
                checkpoint()?;
                let cost = way.cost(figure, cpu).with_context(|| format!("{:?}, {figure:?}", way.carrier))?;
                costs.entry((way.carrier, figure)).or_default().push(cost);
            }
        }
    }
    drop(ways);
    let mut section = section(&costs);
    let (goals, tables) = few(programs, rounds)?;
    section.goals.extend(goals);
    section.tables.extend(tables);
    Ok(section)
}

fn section(costs: &Costs) -> Section {
    let of = |carrier, figure| costs.get(&(carrier, figure)).map_or(&[][..], Vec::as_slice);
    let digits = |figure| if figure == Figure::Stream { 0 } else { 1 };
    let tables = Figure::ALL.map(|figure| {
        let mut table = Table::new(&[figure.unit(), "min / median / max", "ratio to no tunnel: min / median / max"]);
        for carrier in Carrier::ALL {
            let ratio = ratios(of(carrier, figure), of(Carrier::Plain, figure));
            let spread = Spread::of(of(carrier, figure)).text(digits(figure));
            table.row(&[carrier.title().into(), spread, Spread::of(&ratio).to_string()]);
        }
        table
    });
    let goal = |what: &str, figure, rival: Carrier, reach: &str, limit: f64| {
        let (ours, theirs) = (of(Carrier::Ours, figure), of(rival, figure));
        let ratio = Spread::of(&ratios(ours, theirs));
        let unit = if figure == Figure::Stream { "ms" } else { "µs" };
        let cost = |values: &[f64]| format!("{:.*} {unit}", digits(figure), Spread::of(values).median);
        Goal {
            what: what.into(),
            reach: reach.into(),
            ours: cost(ours),
            rival: format!("{}: {}", rival.title(), cost(theirs)),
            ratio: ratio.to_string(),
            met: verdict(ratio.median <= limit),
        }
    };
    let goals = vec![
        goal("udp: CPU a GB of one stream", Figure::Stream, Carrier::Naive, "≤ 0.20: 5 × as fast", 0.2),
        goal("udp: CPU a GB of one stream", Figure::Stream, Carrier::Plain, "≤ 2.5, aim 2.0", 2.5),
        goal("udp: CPU a small datagram", Figure::Datagram, Carrier::Naive, "≤ 0.50: 2 × as many", 0.5),
    ];
    Section { id: "udp", title: "The udp backend, pod to pod on two machines", goals, tables: tables.into() }
}

/// Two machines with a pod each, and who carries between them.
pub struct Tunnel {
    /// The pods' namespaces; their addresses are [`POD`].
    pub pods: [PathBuf; 2],
    forwarders: Vec<Forwarder>,
    _scene: Scene,
}

/// The pods' addresses.
pub const POD: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 244, 1, 2), Ipv4Addr::new(10, 244, 2, 2)];

impl Tunnel {
    /// Builds one; each machine's forwarder keeps to a CPU.
    pub fn build(name: &str, carrier: Carrier, programs: &Programs, cpus: [usize; 2]) -> Result<Self> {
        let scene = Scene::new(&format!("{name}-{carrier:?}").to_lowercase(), programs)?;
        let (one, two) = scene.machines("n1", "n2")?;
        let pods = [scene.netns("a")?, scene.netns("b")?];
        let mut forwarders = Vec::new();
        for (number, (node, pod)) in (1..).zip([&one, &two].into_iter().zip(&pods)) {
            by_hand(Backend::HostGw, Shape::Bare, number, node, pod)?;
            if carrier != Carrier::Plain {
                ip_batch(pod, &format!("link set eth0 mtu {MTU}\n"))?;
                ip_batch(node, &format!("link set h0 mtu {MTU}\n"))?;
                forwarders.push(Forwarder::start(carrier, &scene, number, node, cpus[number - 1])?);
            }
        }
        Ok(Self { pods, forwarders, _scene: scene })
    }

    /// The processes, other than this one, whose CPU time is the way's.
    pub fn charged(&self) -> Vec<u32> {
        self.forwarders.iter().filter_map(Forwarder::pid).collect()
    }
}

/// A standing way.
struct Way {
    carrier: Carrier,
    course: Course,
    datagrams: [UdpSocket; 2],
    clock: Clock,
    _tunnel: Tunnel,
}

impl Way {
    fn build(carrier: Carrier, programs: &Programs, cpu: usize) -> Result<Self> {
        let tunnel = Tunnel::build("udp", carrier, programs, [cpu; 2])?;
        let mut course = Course::open(&tunnel.pods[0], &tunnel.pods[1], POD[1].into())?;
        let charged = tunnel.charged();
        charged.iter().for_each(|pid| course.charge(*pid));
        let open = |number: usize| -> Result<UdpSocket> {
            let bind = || UdpSocket::bind(SocketAddr::from((POD[number], 7100)));
            let socket = space::in_netns(&tunnel.pods[number], bind)??;
            socket.set_read_timeout(Some(Duration::from_secs(2)))?;
            Ok(socket)
        };
        let datagrams = [open(0)?, open(1)?];
        datagrams[0].connect(datagrams[1].local_addr()?)?;
        wait_for("the way", Duration::from_secs(15), || course.reach().is_ok())?;
        let clock = Clock { softirqd: vec![Ksoftirqd::of(cpu)], charged };
        Ok(Self { carrier, course, datagrams, clock, _tunnel: tunnel })
    }

    fn cost(&mut self, figure: Figure, cpu: usize) -> Result<f64> {
        match figure {
            Figure::Stream => self.course.run(Test::Stream, Test::Stream.amount(), cpu),
            Figure::Transaction => self.course.run(Test::Transaction, Test::Transaction.amount(), cpu),
            Figure::Datagram => per_datagram(&self.datagrams, &self.clock, BURSTS, cpu),
        }
    }
}

/// CPU microseconds of a small datagram, of which many are under way at a time; everything on one CPU.
pub fn per_datagram(sockets: &[UdpSocket; 2], clock: &Clock, count: u64, cpu: usize) -> Result<f64> {
    let used = std::thread::scope(|scope| {
        let run = scope.spawn(|| -> Result<Duration> {
            cpu::pin(cpu)?;
            bursts(sockets, count / 10)?;
            let before = clock.now()?;
            bursts(sockets, count)?;
            Ok(clock.now()? - before)
        });
        run.join().map_err(|_| anyhow::anyhow!("the load ended early"))?
    })?;
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    Ok(used.as_secs_f64() * 1e6 / (count * IN_FLIGHT as u64) as f64)
}

/// Sends bursts and waits for the whole of each: a lost datagram is an error.
fn bursts([from, to]: &[UdpSocket; 2], count: u64) -> Result<()> {
    let mut room = [0; 64];
    for burst in 0..count {
        for _ in 0..IN_FLIGHT {
            from.send(&[0x5a; PAYLOAD])?;
        }
        for number in 0..IN_FLIGHT {
            to.recv(&mut room).with_context(|| format!("datagram {number} of burst {burst}"))?;
        }
    }
    Ok(())
}

/// One machine's forwarder; it ends with its value.
enum Forwarder {
    Ours(Child),
    Naive { _thread: Plain },
}

impl Forwarder {
    fn start(carrier: Carrier, scene: &Scene, number: usize, node: &Path, cpu: usize) -> Result<Self> {
        let peer = NODES[2 - number];
        let own = SocketAddr::from((NODES[number - 1], PORT));
        let naive = || -> Result<Plain> {
            cpu::pin(cpu)?;
            Ok(Plain::start(&DEVICE.parse()?, own, (peer, PORT).into())?)
        };
        let naive = match carrier {
            Carrier::Naive => Some(space::in_netns(node, naive)??),
            _ => {
                space::in_netns(node, kept_device)??;
                None
            }
        };
        let remote = 3 - number;
        ip_batch(
            node,
            &format!(
                "link set {DEVICE} mtu {MTU} addrgenmode none txqueuelen 1000 up\n\
                 route replace 10.244.{remote}.0/24 dev {DEVICE}\n"
            ),
        )?;
        if let Some(thread) = naive {
            return Ok(Self::Naive { _thread: thread });
        }
        let file = |name: &str| -> PathBuf { scene.run().join(format!("udp{number}.{name}")) };
        let mut command = Command::new(&scene.programs().ripstop);
        command.arg("udp-forward").arg("--socket").arg(file("sock")).arg("--state").arg(file("json"));
        command.args(["--queues", "1"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(file("log"))?);
        let started = Self::Ours(space::Place::host().in_netns(node)?.spawn(&mut command)?);
        // Before it has a thread that forwards.
        cpu::pin_process(started.pid().context("no process")?, cpu)?;
        let setup = Setup {
            device: DEVICE.parse()?,
            listen: vec![own],
            peers: vec![Peer {
                name: format!("n{remote}"),
                to: (peer, PORT).into(),
                also_from: Vec::new(),
                ranges: vec![format!("10.244.{remote}.0/24").parse()?],
            }],
        };
        wait_for("the forwarder", Duration::from_secs(10), || Client::connect(&file("sock")).is_ok())?;
        Client::connect(&file("sock"))?.set(&setup)?;
        Ok(started)
    }

    fn pid(&self) -> Option<u32> {
        match self {
            Self::Ours(child) => Some(child.id()),
            Self::Naive { .. } => None,
        }
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        if let Self::Ours(child) = self {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn kept_device() -> Result<()> {
    ripstop_forwarder::create(&DEVICE.parse()?).context("make a TUN device")
}
