//! Descriptors and threads: what is open, what runs, and how a set-up replaces another.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ripstop_types::{Family, IfName};
use rustix::event::{EventfdFlags, eventfd};

use crate::control::{Setup, SetupFault, Stats};
use crate::counters::{Counters, PeerCounters};
use crate::frame::join::Offloads;
use crate::routes::Routes;
use crate::sys::{tun, udp};
use crate::worker::Worker;

/// How long threads may take to go over to a set-up before they are reported as stuck.
const RENEWAL: Duration = Duration::from_secs(2);

/// Why a set-up is not in force.
#[derive(Debug, thiserror::Error)]
pub enum EngineFault {
    /// It contradicts itself.
    #[error(transparent)]
    Setup(#[from] SetupFault),
    /// The device cannot be opened.
    #[error(
        "device {device}: {error}; accepted: a TUN device that is there, persistent and with several queues \
         (ip tuntap add {device} mode tun multi_queue)"
    )]
    Device {
        /// Its name.
        device: IfName,
        /// What the system said.
        error: io::Error,
    },
    /// An address cannot be listened on.
    #[error("listen: {address}: {error}{}", remedy(.error))]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// The system does not give what a thread needs.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// A thread does not answer.
    #[error("thread {0} did not take the set-up within {limit} s", limit = RENEWAL.as_secs())]
    Stuck(usize),
}

/// What to do about an address that cannot be listened on.
fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; another program has the port: end it, or give the network's backend another port"
        }
        _ => "",
    }
}

/// What threads forward by. Never changed, only replaced.
#[derive(Default)]
pub struct Generation {
    /// The table.
    pub routes: Routes,
    /// Peers, by number.
    pub peers: Vec<Target>,
    /// Addresses listened on, IPv4 first.
    pub listen: [Option<SocketAddr>; 2],
    /// Sockets by thread, IPv4 first.
    sockets: Vec<[Option<Arc<OwnedFd>>; 2]>,
}

/// A peer as threads see it.
pub struct Target {
    /// Where its datagrams go.
    pub to: SocketAddr,
    /// Its counters.
    pub counters: Arc<PeerCounters>,
}

impl Generation {
    /// A thread's socket of a family.
    #[must_use]
    pub fn socket(&self, thread: usize, family: Family) -> Option<Arc<OwnedFd>> {
        self.sockets.get(thread).and_then(|pair| pair[place(family)].clone())
    }
}

fn place(family: Family) -> usize {
    match family {
        Family::V4 => 0,
        Family::V6 => 1,
    }
}

/// What threads share.
pub struct Shared {
    /// Counters.
    pub counters: Counters,
    /// Threads end when this is set.
    pub stop: AtomicBool,
    /// The device is gone.
    pub lost: AtomicBool,
    /// Number of the newest set-up.
    pub version: AtomicU64,
    /// The number each thread goes by.
    pub seen: Vec<AtomicU64>,
    /// Wakes each thread.
    pub wakes: Vec<OwnedFd>,
    generation: Mutex<Arc<Generation>>,
}

impl Shared {
    /// The newest set-up and its number.
    pub fn current(&self) -> (u64, Arc<Generation>) {
        let generation = self.generation.lock().unwrap_or_else(PoisonError::into_inner);
        (self.version.load(Ordering::Acquire), Arc::clone(&generation))
    }

    fn publish(&self, new: Generation) -> u64 {
        let mut generation = self.generation.lock().unwrap_or_else(PoisonError::into_inner);
        *generation = Arc::new(new);
        self.version.fetch_add(1, Ordering::AcqRel) + 1
    }

    fn wake(&self) {
        for wake in &self.wakes {
            // A counter that is full has woken already.
            let _ = rustix::io::write(wake, &1u64.to_ne_bytes());
        }
    }
}

struct Device {
    name: IfName,
    queues: Vec<Arc<OwnedFd>>,
    /// Keeps the carrier where it is given to another.
    hold: Arc<OwnedFd>,
    offloads: Offloads,
}

impl Device {
    /// Whether the device of that name is still the one whose queues these are.
    fn is_there(&self) -> bool {
        self.queues.iter().all(|queue| tun::is_attached(queue.as_fd()))
    }
}

struct Listener {
    address: SocketAddr,
    sockets: Vec<Arc<OwnedFd>>,
}

/// All a forwarder has open.
pub struct Engine {
    queues: usize,
    setup: Option<Setup>,
    device: Option<Device>,
    listeners: Vec<Listener>,
    threads: Vec<JoinHandle<()>>,
    shared: Arc<Shared>,
}

/// What one forwarder gives another.
pub struct Estate {
    /// The set-up in force.
    pub setup: Setup,
    /// The device's queues.
    pub queues: Vec<OwnedFd>,
    /// What holds its carrier.
    pub hold: OwnedFd,
    /// Sockets for each address of the set-up, one a queue.
    pub sockets: Vec<Vec<OwnedFd>>,
}

impl Engine {
    /// One that forwards nothing yet, with this many threads.
    ///
    /// # Errors
    /// As eventfd(2).
    pub fn new(queues: usize) -> io::Result<Self> {
        let wakes = (0..queues).map(|_| eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK));
        let shared = Shared {
            counters: Counters::default(),
            stop: AtomicBool::new(false),
            lost: AtomicBool::new(false),
            version: AtomicU64::new(0),
            seen: (0..queues).map(|_| AtomicU64::new(0)).collect(),
            wakes: wakes.collect::<Result<_, _>>()?,
            generation: Mutex::default(),
        };
        Ok(Self {
            queues,
            setup: None,
            device: None,
            listeners: Vec::new(),
            threads: Vec::new(),
            shared: Arc::new(shared),
        })
    }

    /// One that has what another had, and does not forward before [`Engine::start`].
    ///
    /// # Errors
    /// Where the descriptors are not what they should be.
    pub fn adopt(estate: Estate) -> Result<Self, EngineFault> {
        let Estate { setup, queues, hold, sockets } = estate;
        let mut engine = Self::new(queues.len()).map_err(EngineFault::Thread)?;
        let name = setup.device.clone();
        engine.device = Some(device(&name, queues, hold).map_err(|error| EngineFault::Device { device: name, error })?);
        engine.listeners = setup
            .listen
            .iter()
            .zip(sockets)
            .map(|(&address, sockets)| Listener { address, sockets: sockets.into_iter().map(Arc::new).collect() })
            .collect();
        engine.publish(&setup);
        engine.setup = Some(setup);
        Ok(engine)
    }

    /// The set-up in force.
    #[must_use]
    pub fn setup(&self) -> Option<&Setup> {
        self.setup.as_ref()
    }

    /// How many threads it has.
    #[must_use]
    pub fn queues(&self) -> usize {
        self.queues
    }

    /// Descriptors to hand over, in the order of [`crate::control::Answer::HandOver`].
    #[must_use]
    pub fn descriptors(&self) -> Vec<Arc<OwnedFd>> {
        let queues = self.device.iter().flat_map(|device| device.queues.iter().chain([&device.hold]));
        queues.chain(self.listeners.iter().flat_map(|listener| &listener.sockets)).cloned().collect()
    }

    /// What holds the device's carrier, where there is a device.
    #[must_use]
    pub fn hold(&self) -> Option<Arc<OwnedFd>> {
        self.device.as_ref().map(|device| Arc::clone(&device.hold))
    }

    /// Counters so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.counters.read()
    }

    /// Goes on from another's counters.
    pub fn load(&self, stats: &Stats) {
        self.shared.counters.load(stats);
    }

    /// Puts a set-up in force. What both set-ups have stays open, so nothing that waits is lost.
    ///
    /// # Errors
    /// Where it contradicts itself, or a descriptor cannot be had: the set-up before stays in force.
    pub fn set(&mut self, setup: Setup) -> Result<(), EngineFault> {
        setup.check()?;
        let lost = self.shared.lost.load(Ordering::Acquire);
        let kept = self.device.as_ref().is_some_and(|device| device.name == setup.device && !lost && device.is_there());
        let opened = if kept { None } else { Some(open(&setup.device, self.queues)?) };
        let listeners = self.listen(&setup)?;
        if let Some(opened) = opened {
            self.stop();
            self.shared.lost.store(false, Ordering::Release);
            self.device = Some(opened);
        }
        self.listeners = listeners;
        let version = self.publish(&setup);
        self.setup = Some(setup);
        self.start()?;
        self.await_threads(version)
    }

    /// Ends the threads and lets go of everything.
    pub fn clear(&mut self) {
        self.stop();
        self.shared.lost.store(false, Ordering::Release);
        (self.setup, self.device) = (None, None);
        self.listeners.clear();
        self.shared.publish(Generation::default());
    }

    /// Lets the threads run, if they do not.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn start(&mut self) -> Result<(), EngineFault> {
        let Some(device) = self.device.as_ref().filter(|_| self.threads.is_empty()) else { return Ok(()) };
        self.shared.stop.store(false, Ordering::Release);
        for (number, queue) in device.queues.iter().enumerate() {
            let worker = Worker::new(number, Arc::clone(&self.shared), Arc::clone(queue), device.offloads)
                .map_err(EngineFault::Thread)?;
            let thread = std::thread::Builder::new().name(format!("forward-{number}"));
            self.threads.push(thread.spawn(move || worker.run()).map_err(EngineFault::Thread)?);
        }
        Ok(())
    }

    /// Ends the threads when each has dealt with what it read. Packets that come later wait in the kernel.
    pub fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.wake();
        for (number, thread) in self.threads.drain(..).enumerate() {
            if thread.join().is_err() {
                tracing::error!("thread {number} had ended early");
            }
        }
    }

    /// Sockets for a set-up's addresses: those that are open, and new ones.
    fn listen(&self, setup: &Setup) -> Result<Vec<Listener>, EngineFault> {
        let mut listeners = Vec::new();
        for &address in &setup.listen {
            let open = self.listeners.iter().find(|listener| listener.address == address);
            let sockets = match open {
                Some(listener) => listener.sockets.clone(),
                None => (0..self.queues)
                    .map(|_| udp::bind(address).map(Arc::new))
                    .collect::<Result<_, _>>()
                    .map_err(|error| EngineFault::Listen { address, error })?,
            };
            listeners.push(Listener { address, sockets });
        }
        Ok(listeners)
    }

    fn publish(&self, setup: &Setup) -> u64 {
        let counters = self.shared.counters.of(setup);
        let peers = setup.peers.iter().zip(counters).map(|(peer, counters)| Target { to: peer.to, counters });
        let mut generation = Generation {
            routes: Routes::of(setup),
            peers: peers.collect(),
            listen: [None; 2],
            sockets: vec![[None, None]; self.queues],
        };
        for listener in &self.listeners {
            let place = place(Family::of(listener.address.ip()));
            generation.listen[place] = Some(listener.address);
            for (pair, socket) in generation.sockets.iter_mut().zip(&listener.sockets) {
                pair[place] = Some(Arc::clone(socket));
            }
        }
        self.shared.publish(generation)
    }

    /// Waits until every thread goes by a set-up, so that an answer means what it says.
    fn await_threads(&self, version: u64) -> Result<(), EngineFault> {
        self.shared.wake();
        let begun = Instant::now();
        for (number, seen) in self.shared.seen.iter().enumerate() {
            while seen.load(Ordering::Acquire) < version {
                if begun.elapsed() > RENEWAL {
                    return Err(EngineFault::Stuck(number));
                }
                std::thread::sleep(Duration::from_micros(200));
            }
        }
        Ok(())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop();
    }
}

fn open(name: &IfName, queues: usize) -> Result<Device, EngineFault> {
    let opened = || {
        // First: while it is opened nobody reads it.
        let hold = tun::hold(name)?;
        device(name, (0..queues).map(|_| tun::queue(name)).collect::<io::Result<Vec<_>>>()?, hold)
    };
    opened().map_err(|error| EngineFault::Device { device: name.clone(), error })
}

fn device(name: &IfName, queues: Vec<OwnedFd>, hold: OwnedFd) -> io::Result<Device> {
    let first = queues.first().ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?;
    let udp = tun::offload(first.as_fd())?;
    if let Err(error) = tun::settle(name) {
        tracing::debug!("{name}: {error}; its first packets may be dropped");
    }
    let queues = queues.into_iter().map(Arc::new).collect();
    Ok(Device { name: name.clone(), queues, hold: Arc::new(hold), offloads: Offloads { udp } })
}
