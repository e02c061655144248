//! BGP on a thread of its own: sessions, the table of routes, and their sockets.
//!
//! What the speaker is to be is one value, [`Setup`]: whoever gives another one changes what differs, and no session that this
//! does not concern. What became known are [`Report`]s: levels, of which only the last one counts, so nothing is lost or heaped up
//! where nobody reads them for a while.
//!
//! Not here: what a message means (`ripstop_bgp`), routes in the kernel, configuration objects.
//!
//! Invariants: the thread sleeps while nothing happens; what waits for a peer is bounded, and so is what waits for who reads
//! reports; dropping the speaker closes connections without a word, so that peers which keep routes over a restart do.

mod answer;
mod connection;
mod listen;
mod neighbours;
mod peers;
mod report;
mod thread;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use ripstop_bfd::Timers;
use ripstop_bgp::rib::policy::Set;
use ripstop_bgp::rib::{PeerConfig, RibConfig};
use ripstop_bgp::session::{self, ListenRange};
use ripstop_types::{IfName, Prefix};
use rustix::event::{EventfdFlags, eventfd};

pub use answer::{Answers, Explained, ExplainedPath};
pub use report::{BfdState, PeerReport, Report, RouteReport};
use thread::Worker;

/// Setups and questions that wait for the thread.
const WAITING: usize = 16;

/// Who a peer is: its address, and the link of a link-local one; or whoever is found on a link, where the address is `::`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerKey {
    /// Where it is.
    pub address: IpAddr,
    /// On which link.
    pub interface: Option<IfName>,
}

impl fmt::Display for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.interface {
            Some(interface) if self.address.is_unspecified() => interface.fmt(f),
            Some(interface) => write!(f, "{}%{interface}", self.address),
            None => self.address.fmt(f),
        }
    }
}

/// One peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its session. Without an address it is with whoever is found on the link: a router there that says so, or who connects.
    pub session: session::Config,
    /// Routes from it and to it. Own addresses that are not given are those of the connection.
    pub routes: PeerConfig,
    /// BFD to it, which ends the session where packets no longer pass.
    pub bfd: Option<Timers>,
    /// It is shut down, and why.
    pub shut_down: Option<String>,
}

impl Peer {
    /// Who it is.
    #[must_use]
    pub fn key(&self) -> PeerKey {
        PeerKey { address: self.session.address, interface: self.session.socket.interface.clone() }
    }
}

/// Peers that are not named: whoever connects from a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// Where they may be, what their sessions are, and how many there may be.
    pub listen: ListenRange,
    /// Routes from them and to them.
    pub routes: PeerConfig,
    /// BFD to each.
    pub bfd: Option<Timers>,
}

/// All that a speaker is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setup {
    /// What holds for all routes.
    pub rib: RibConfig,
    /// Where peers may connect to.
    pub listen: Vec<SocketAddr>,
    /// Peers, of each key one.
    pub peers: Vec<Peer>,
    /// Where more may come from.
    pub ranges: Vec<Range>,
    /// Routes that begin here.
    pub routes: BTreeMap<Prefix, Vec<Set>>,
}

impl Setup {
    /// Nobody to speak with and nothing to say.
    #[must_use]
    pub fn empty(rib: RibConfig) -> Self {
        Self { rib, listen: Vec::new(), peers: Vec::new(), ranges: Vec::new(), routes: BTreeMap::new() }
    }
}

type Question = Box<dyn FnOnce(&Answers<'_>) + Send>;

enum Command {
    Setup(Box<Setup>),
    Ask(Question),
}

/// BGP of the network namespace in which it was started.
#[derive(Debug)]
pub struct Speaker {
    work: Option<SyncSender<Command>>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Speaker {
    /// Starts the thread. `restarted` if this node's kernel went on forwarding by the routes of a speaker before this one; then
    /// peers are told so, and nothing is sent until they have sent what they know. `seed` should differ from start to start.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(setup: Setup, restarted: bool, seed: u64) -> io::Result<(Self, Reports)> {
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (work, todo) = sync_channel(WAITING);
        // One on its way and one being made: more would only be old.
        let (tell, reports) = sync_channel(1);
        let mut worker = Worker::new(setup, restarted, seed, wake.clone(), tell)?;
        let thread = std::thread::Builder::new().name("bgp".into()).spawn(move || worker.run(&todo))?;
        Ok((Self { work: Some(work), wake: wake.clone(), thread: Some(thread) }, Reports { reports, wake }))
    }

    /// Has the speaker be that from now on. False if the thread is gone.
    pub fn set_up(&self, setup: Setup) -> bool {
        self.send(Command::Setup(Box::new(setup)))
    }

    /// Asks something of the thread's state, and waits for the answer. None if the thread is gone.
    pub fn ask<T: Send + 'static>(&self, what: impl FnOnce(&Answers<'_>) -> T + Send + 'static) -> Option<T> {
        let (tell, told) = channel();
        let question: Question = Box::new(move |answers| {
            // Who asked waits for it.
            let _ = tell.send(what(answers));
        });
        self.send(Command::Ask(question)).then(|| told.recv().ok()).flatten()
    }

    fn send(&self, command: Command) -> bool {
        let sent = self.work.as_ref().is_some_and(|work| work.send(command).is_ok());
        wake(&self.wake);
        sent
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        self.work = None;
        wake(&self.wake);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Where reports come out.
#[derive(Debug)]
pub struct Reports {
    reports: Receiver<Report>,
    wake: Arc<OwnedFd>,
}

impl Reports {
    /// The next one; waits for it.
    ///
    /// # Errors
    /// If none came in time, or the thread is gone.
    pub fn next(&self, within: Duration) -> Result<Report, RecvTimeoutError> {
        let report = self.reports.recv_timeout(within)?;
        // There is room for another one.
        wake(&self.wake);
        Ok(report)
    }
}

/// The counter of such a descriptor never fills up, as it is emptied whole.
fn wake(descriptor: &OwnedFd) {
    let _ = rustix::io::write(descriptor, &1u64.to_ne_bytes());
}
