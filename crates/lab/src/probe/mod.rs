//! UDP probes between pods: sent at a steady rate, echoed by the other side, counted.
//!
//! A probe is lost if its echo did not come back within [`LIFETIME`]. All sockets of a prober are in this process: made in
//! the pods' namespaces, served by one or two threads, so that all pairs at 1 kHz cost little beside the packets
//! themselves. A prober that falls behind leaves probes out (they are not sent, so they cannot be lost) instead of sending
//! a burst.

mod engine;
mod flow;
mod report;
mod wire;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use rustix::net::sockopt;

use crate::error::{Attempt, LabError, Result};
use crate::lab::Lab;
use crate::options::Families;
use crate::space;
use crate::target::Target;

use engine::{Counters, Outcome, Share, Worker};
pub use report::{PairReport, Report};

/// An echo that comes later than this is lost.
pub const LIFETIME: Duration = Duration::from_secs(2);
/// Socket buffers, so large that a stall of the prober loses nothing.
const BUFFER: usize = 8 << 20;
/// From so many packets a second on, two threads serve the sockets.
const BUSY: u64 = 20_000;

/// One side of a pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its name in the report.
    pub name: String,
    /// Its network namespace.
    pub netns: PathBuf,
    /// Its addresses; the first of each family is used.
    pub ips: Vec<IpAddr>,
    /// Whether it is a pod. Between pods nothing may rewrite addresses, and what did is counted.
    pub pod: bool,
}

/// Which pairs to probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pairs {
    /// Every pod with every other.
    All,
    /// These. The first of a pair sends, the second echoes.
    Of(Vec<(Target, Target)>),
}

/// A prober at work. It stops when this value goes.
#[derive(Debug)]
pub struct Prober {
    shared: Arc<Shared>,
    started: Instant,
    workers: Vec<JoinHandle<Outcome>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    counters: Counters,
}

impl Prober {
    /// Probes each pair at `rate` a second, in every family both sides have, until it is stopped.
    pub fn start(rate: u32, pairs: &[(Endpoint, Endpoint)]) -> Result<Self> {
        Self::begin(rate, pairs, false)
    }

    /// As [`Prober::start`], with probes as long as their way takes, at most 1500 bytes, that nothing may fragment.
    pub fn start_long(rate: u32, pairs: &[(Endpoint, Endpoint)]) -> Result<Self> {
        Self::begin(rate, pairs, true)
    }

    fn begin(rate: u32, pairs: &[(Endpoint, Endpoint)], long: bool) -> Result<Self> {
        if !(1..=100_000).contains(&rate) {
            return Err(LabError::usage(format!("--rate {rate} is out of range: 1 to 100000")));
        }
        let plan = Plan::of(pairs)?;
        let shared = Arc::new(Shared::default());
        let packets = u64::from(rate) * 2 * plan.flows.len() as u64;
        let count = if packets > BUSY && plan.sockets.len() > 1 { 2 } else { 1 };
        let shares = plan.divide(rate, count, long)?;
        shared.counters.busy.store(shares.len(), Ordering::Relaxed);
        let started = Instant::now();
        let spawn = |share: Share| {
            let shared = Arc::clone(&shared);
            thread::Builder::new()
                .name("prober".into())
                .spawn(move || Worker::new(share, started).run(&shared.stop, &shared.counters))
                .attempt(|| "start a prober thread".into())
        };
        let workers = shares.into_iter().map(spawn).collect::<Result<_>>()?;
        Ok(Self { shared, started, workers })
    }

    /// How many probes were sent so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.shared.counters.sent.load(Ordering::Relaxed)
    }

    /// How many echoes came back so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.shared.counters.received.load(Ordering::Relaxed)
    }

    /// Sends no more, waits for what is still under way, at most [`LIFETIME`], and reports.
    pub fn stop(mut self) -> Result<Report> {
        let seconds = self.started.elapsed().as_secs_f64();
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut outcome = Outcome::default();
        for worker in self.workers.drain(..) {
            outcome.add(worker.join().map_err(|_| LabError::failed("a prober thread panicked"))?);
        }
        Ok(Report::of(outcome, seconds))
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl Lab {
    /// A target as one side of a pair.
    pub fn endpoint(&self, target: &Target) -> Result<Endpoint> {
        let (ips, pod) = match target {
            Target::Pod(name) => (self.pod(name)?.ips().to_vec(), true),
            Target::Node(number) => (self.state()?.node(*number)?.addresses().collect(), false),
            Target::Outside => {
                let outside = self.state()?.machines.remove(crate::layout::OUTSIDE);
                (outside.map(|machine| machine.addresses().collect()).unwrap_or_default(), false)
            }
            other => return Err(LabError::usage(format!("{other} cannot be probed: give pods, node/N or outside"))),
        };
        Ok(Endpoint { name: target.to_string(), netns: self.netns_of(target)?, ips, pod })
    }

    /// Both sides of each pair, in these families only.
    pub fn endpoints(&self, pairs: &Pairs, families: Families) -> Result<Vec<(Endpoint, Endpoint)>> {
        let side = |target: &Target| {
            let mut side = self.endpoint(target)?;
            side.ips.retain(|ip| if ip.is_ipv4() { families.v4() } else { families.v6() });
            Ok(side)
        };
        match pairs {
            Pairs::Of(pairs) => pairs.iter().map(|(from, to)| Ok((side(from)?, side(to)?))).collect(),
            Pairs::All => {
                let pods = self.pods()?;
                let attached = pods.iter().filter(|pod| !pod.ips().is_empty());
                let sides = attached.map(|pod| side(&Target::Pod(pod.name.clone()))).collect::<Result<Vec<_>>>()?;
                let mut all = Vec::new();
                for (n, from) in sides.iter().enumerate() {
                    all.extend(sides[n + 1..].iter().map(|to| (from.clone(), to.clone())));
                }
                Ok(all)
            }
        }
    }

    /// Probes pairs of the lab at `rate` a second each, in every family.
    pub fn probe(&self, rate: u32, pairs: &Pairs) -> Result<Prober> {
        Prober::start(rate, &self.endpoints(pairs, Families::Dual)?)
    }

    /// As [`Lab::probe`], with probes as long as their way takes, at most 1500 bytes, that nothing may fragment.
    pub fn probe_long(&self, rate: u32, pairs: &Pairs) -> Result<Prober> {
        Prober::start_long(rate, &self.endpoints(pairs, Families::Dual)?)
    }
}

/// A socket in a namespace, and its number in the plan.
#[derive(Debug)]
struct Ear {
    name: String,
    socket: UdpSocket,
    at: SocketAddr,
}

/// Who probes whom: sockets, and flows between them by number.
#[derive(Debug)]
struct Plan {
    sockets: Vec<Ear>,
    flows: Vec<FlowPlan>,
}

#[derive(Debug, Clone)]
struct FlowPlan {
    from: usize,
    to: usize,
    pair: (String, String),
    between_pods: bool,
}

impl Plan {
    fn of(pairs: &[(Endpoint, Endpoint)]) -> Result<Self> {
        let mut plan = Self { sockets: Vec::new(), flows: Vec::new() };
        for (from, to) in pairs {
            let before = plan.flows.len();
            for v4 in [true, false] {
                let one = |side: &Endpoint| side.ips.iter().copied().find(|ip| ip.is_ipv4() == v4);
                let (Some(source), Some(sink)) = (one(from), one(to)) else { continue };
                let (from_ear, to_ear) = (plan.ear(from, source)?, plan.ear(to, sink)?);
                plan.flows.push(FlowPlan {
                    from: from_ear,
                    to: to_ear,
                    pair: (from.name.clone(), to.name.clone()),
                    between_pods: from.pod && to.pod,
                });
            }
            if plan.flows.len() == before {
                return Err(LabError::failed(format!(
                    "{} and {} have no address family in common",
                    from.name, to.name
                )));
            }
        }
        if plan.flows.is_empty() {
            return Err(LabError::usage("there is no pair to probe: it takes two pods with addresses"));
        }
        Ok(plan)
    }

    /// The socket of an endpoint's address, made where it is the first.
    fn ear(&mut self, side: &Endpoint, ip: IpAddr) -> Result<usize> {
        if let Some(found) = self.sockets.iter().position(|ear| ear.name == side.name && ear.at.ip() == ip) {
            return Ok(found);
        }
        let socket = bind(&side.netns, ip)?;
        let at = socket.local_addr().attempt(|| format!("read the address of a socket of {}", side.name))?;
        self.sockets.push(Ear { name: side.name.clone(), socket, at });
        Ok(self.sockets.len() - 1)
    }

    /// Parts for so many threads. A flow goes with the socket that sends it.
    fn divide(self, rate: u32, count: usize, long: bool) -> Result<Vec<Share>> {
        let run = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
        let run = run ^ std::process::id().rotate_left(16);
        let addresses: Vec<SocketAddr> = self.sockets.iter().map(|ear| ear.at).collect();
        let sources: Arc<[Option<SocketAddr>]> =
            self.flows.iter().map(|flow| flow.between_pods.then(|| addresses[flow.from])).collect();
        let mut shares: Vec<Share> = (0..count).map(|_| Share::new(rate, run, long, Arc::clone(&sources))).collect();
        let mut place = Vec::new();
        for (number, ear) in self.sockets.into_iter().enumerate() {
            let share = number % count;
            place.push((share, shares[share].sockets.len()));
            shares[share].sockets.push(ear.socket);
        }
        for (number, flow) in self.flows.into_iter().enumerate() {
            let (share, socket) = place[flow.from];
            let id = u32::try_from(number).map_err(|_| LabError::usage("too many pairs"))?;
            shares[share].add(id, socket, addresses[flow.to], flow.pair);
        }
        Ok(shares)
    }
}

fn bind(netns: &Path, ip: IpAddr) -> Result<UdpSocket> {
    let doing = || format!("open a socket on {ip} in {}", netns.display());
    let socket = space::in_netns(netns, || UdpSocket::bind((ip, 0)))?.attempt(doing)?;
    socket.set_nonblocking(true).attempt(doing)?;
    // Routers do not fragment IPv6; without this the sender would.
    match ip {
        IpAddr::V4(_) => sockopt::set_ip_mtu_discover(&socket, sockopt::Ipv4PathMtuDiscovery::DO),
        IpAddr::V6(_) => sockopt::set_ipv6_mtu_discover(&socket, sockopt::Ipv6PathMtuDiscovery::DO),
    }
    .attempt(doing)?;
    sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER).attempt(doing)?;
    sockopt::set_socket_send_buffer_size(&socket, BUFFER).attempt(doing)?;
    Ok(socket)
}
