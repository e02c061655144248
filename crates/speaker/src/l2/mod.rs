//! Answers ARP and neighbour discovery for the addresses that this node owns, as [`ripstop_election`] decides.
//!
//! One thread for all segments of the node, before all others where the system lets it, so that no work of others is taken for its
//! silence. Candidates send each other datagrams
//! on the segment itself, by UDP with the greatest TTL, bound to the interface: what reaches a candidate is what a client reaches. A
//! datagram tells the sender's hardware address before the message, by which candidates are told from foreign machines.
//!
//! Not here: which addresses there are, and who may have them.
//!
//! Invariants: a frame that speaks for an address leaves only while the engine allows it, asked with the time as it is then; datagrams
//! count only from a candidate's own address, by its interface, with the TTL that no router leaves.

mod packet;
mod segment;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use ripstop_election::Timing;
use ripstop_types::{Mac, NodeName};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use crate::bfd::now;
use crate::sockets::{self, Listener, Origin};
pub use packet::{FrameSocket, Frames};
use segment::Running;

/// The port of candidates' datagrams.
pub const PORT: u16 = 8474;

/// Frames and datagrams taken from one socket before the others have their turn.
const TURN: usize = 64;

/// Rows are looked at so often, whether or not something is known to have changed.
const LOOK: Duration = Duration::from_millis(500);

/// One segment as this node is on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// The interface.
    pub interface: u32,
    /// Its hardware address.
    pub mac: Mac,
    /// This node's address on the segment.
    pub own: IpAddr,
    /// Every candidate, this node among them, with its address on the segment.
    pub candidates: BTreeMap<NodeName, IpAddr>,
    /// The addresses, and who may have each; none: every candidate.
    pub addresses: BTreeMap<IpAddr, Option<BTreeSet<NodeName>>>,
    /// This node is drained, or its interface is not well.
    pub leaves: bool,
}

/// What this node has to do with an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// It speaks for it.
    pub speaks: bool,
    /// Whom it votes for.
    pub choice: Option<NodeName>,
    /// A machine that is no candidate has the address.
    pub conflict: Option<Mac>,
}

/// Rows by interface and address.
pub type Rows = BTreeMap<(u32, IpAddr), Row>;

/// What became known, each time all of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// What this node has to do with each address.
    pub rows: Rows,
    /// Interfaces whose sockets cannot be opened, and why.
    pub faults: BTreeMap<u32, String>,
}

/// What is wanted, by interface.
type Setup = BTreeMap<u32, Segment>;

/// The thread. Dropped, it ends, and this node speaks for nothing.
#[derive(Debug)]
pub struct Speaker {
    setups: Option<Sender<Setup>>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Speaker {
    /// Opens the port and starts the thread, in the network namespace of who calls. `run` is greater at each start.
    ///
    /// # Errors
    /// If the port is taken, or no thread can be started.
    pub fn start(me: NodeName, run: u64, timing: Timing) -> io::Result<(Self, Receiver<Report>)> {
        let listeners = [false, true].into_iter().filter_map(|v6| match Listener::open(PORT, v6) {
            // A kernel without IPv6.
            Err(error) if v6 && error.raw_os_error() == Some(libc::EAFNOSUPPORT) => None,
            opened => Some(opened),
        });
        let listeners = listeners.collect::<io::Result<Vec<Listener>>>()?;
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (setups, todo) = channel();
        let (tell, reports) = channel();
        let woken = wake.clone();
        let mut worker = Worker {
            me,
            run,
            timing,
            listeners,
            segments: BTreeMap::new(),
            faults: BTreeMap::new(),
            told: Report::default(),
            tell,
            look: now(),
            buffer: vec![0; ripstop_election::LONGEST],
        };
        let work = move || {
            sockets::run_first();
            worker.run(&todo, &woken);
        };
        let thread = std::thread::Builder::new().name("l2".into()).spawn(work)?;
        Ok((Self { setups: Some(setups), wake, thread: Some(thread) }, reports))
    }

    /// What is wanted from now on.
    pub fn set(&self, segments: impl IntoIterator<Item = Segment>) {
        let setup = segments.into_iter().map(|segment| (segment.interface, segment)).collect();
        // The thread ends only with this value.
        let _ = self.setups.as_ref().map(|setups| setups.send(setup));
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        self.setups = None;
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Worker {
    me: NodeName,
    run: u64,
    timing: Timing,
    listeners: Vec<Listener>,
    segments: BTreeMap<u32, Running>,
    faults: BTreeMap<u32, String>,
    told: Report,
    tell: Sender<Report>,
    look: Duration,
    buffer: Vec<u8>,
}

impl Worker {
    /// Until nobody can ask for anything any more.
    fn run(&mut self, todo: &Receiver<Setup>, wake: &OwnedFd) {
        loop {
            self.wait(wake);
            // Emptied before what it announces is looked for.
            let _ = rustix::io::read(wake, &mut [0u8; 8]);
            // What has arrived counts before time does: a pause of this thread is nobody's silence.
            let mut changed = self.hear();
            let mut last = None;
            let ended = loop {
                match todo.try_recv() {
                    Ok(setup) => last = Some(setup),
                    Err(error) => break error == TryRecvError::Disconnected,
                }
            };
            if let Some(setup) = last {
                self.set_up(setup);
                changed = true;
            }
            for segment in self.segments.values_mut() {
                changed |= segment.tick();
            }
            if changed || now() >= self.look {
                self.look = now() + LOOK;
                self.report();
            }
            if ended {
                return;
            }
        }
    }

    fn wait(&self, wake: &OwnedFd) {
        let frames = self.segments.values().flat_map(Running::sockets);
        let all = self.listeners.iter().map(|listener| PollFd::new(listener, PollFlags::IN));
        let mut all: Vec<PollFd<'_>> = all.chain(frames).chain([PollFd::new(wake, PollFlags::IN)]).collect();
        let due = self.segments.values().map(Running::due).fold(self.look.max(now()), Duration::min);
        let due = if self.segments.is_empty() { None } else { Some(due.saturating_sub(now())) };
        let pause = due.and_then(|pause| Timespec::try_from(pause).ok());
        // Whatever it says, sockets and timers are looked at.
        while let Err(Errno::INTR) = poll(&mut all, pause.as_ref()) {}
    }

    /// Whether something became known.
    fn hear(&mut self) -> bool {
        let mut changed = false;
        for listener in &self.listeners {
            for _ in 0..TURN {
                let Some((length, origin)) = listener.take(&mut self.buffer) else { break };
                let Some(Origin { arrival }) = origin else { continue };
                let bytes = self.buffer.get(..length).unwrap_or_default();
                if let Some(segment) = self.segments.get_mut(&arrival.interface) {
                    changed |= segment.received(&arrival, bytes);
                }
            }
        }
        for segment in self.segments.values_mut() {
            changed |= segment.hear(&mut self.buffer, TURN);
        }
        changed
    }

    fn set_up(&mut self, setup: Setup) {
        self.segments.retain(|interface, segment| {
            let wanted = setup.get(interface);
            wanted.is_some_and(|wanted| segment.is_of(wanted))
        });
        self.faults.clear();
        for (interface, wanted) in setup {
            if let Some(segment) = self.segments.get_mut(&interface) {
                segment.set(wanted);
                continue;
            }
            match Running::open(&self.me, self.run, self.timing, wanted) {
                Ok(segment) => drop(self.segments.insert(interface, segment)),
                Err(error) => drop(self.faults.insert(interface, error.to_string())),
            }
        }
    }

    fn report(&mut self) {
        let rows = self
            .segments
            .iter()
            .flat_map(|(interface, segment)| segment.rows().map(|(address, row)| ((*interface, address), row)));
        let report = Report { rows: rows.collect(), faults: self.faults.clone() };
        if report != self.told {
            self.told = report.clone();
            // Nobody may listen any more.
            let _ = self.tell.send(report);
        }
    }
}
