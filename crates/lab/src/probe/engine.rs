//! One prober thread: sends what is due, echoes what comes from others, accounts for what comes back.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::num::NonZeroU64;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::flow::Flow;
use super::wire::{Kind, PADDING, Packet, SIZE};

/// Flows start in so many groups, spread over the interval, so that not all send at the same moment.
const PHASES: u64 = 4;
/// A flow that is late by more nanoseconds leaves the missed probes out.
const CATCH_UP: u64 = 100_000_000;
/// So many probes of one flow are sent at once to catch up, before echoes are looked at again.
const BURST: usize = 4;
/// With more under way, nothing is caught up: a queue of the kernel that holds a thousand packets must not overflow.
const UNDER_WAY: usize = 200;
/// The longest sleep, so that the wish to stop is seen.
const NAP: u64 = 20_000_000;
/// IP packets' lengths that a long probe tries, longest first: Ethernet's, and what is left of it by the usual tunnels.
const LENGTHS: [usize; 7] = [1500, 1480, 1472, 1450, 1430, 1400, 1280];
/// No more error messages are kept.
const ERRORS: usize = 10;

/// Live counters of all threads.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
    /// Threads that still send or wait for echoes.
    pub(super) busy: AtomicUsize,
}

/// One thread's part of the work.
#[derive(Debug)]
pub(super) struct Share {
    interval: u64,
    run: u32,
    /// The address each flow sends from, where nothing may rewrite it.
    sources: Arc<[Option<SocketAddr>]>,
    pub(super) sockets: Vec<UdpSocket>,
    /// Whether probes are as long as their way takes.
    long: bool,
    lines: Vec<Line>,
    by_id: BTreeMap<u32, usize>,
}

/// A flow with its way.
#[derive(Debug)]
struct Line {
    id: u32,
    socket: usize,
    to: SocketAddr,
    due: u64,
    pair: (String, String),
    flow: Flow,
    translated: u64,
}

/// What the threads counted.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) flows: Vec<FlowOutcome>,
    pub(super) translated: u64,
    /// The longest time by which a probe left late, in nanoseconds.
    pub(super) stall: u64,
    pub(super) errors: BTreeSet<String>,
}

/// What came of one flow.
#[derive(Debug)]
pub(super) struct FlowOutcome {
    pub(super) id: u32,
    pub(super) pair: (String, String),
    pub(super) v4: bool,
    pub(super) flow: Flow,
    pub(super) translated: u64,
}

impl Share {
    pub(super) fn new(rate: u32, run: u32, long: bool, sources: Arc<[Option<SocketAddr>]>) -> Self {
        Self {
            interval: 1_000_000_000 / u64::from(rate),
            run,
            sources,
            sockets: Vec::new(),
            long,
            lines: Vec::new(),
            by_id: BTreeMap::new(),
        }
    }

    pub(super) fn add(&mut self, id: u32, socket: usize, to: SocketAddr, pair: (String, String)) {
        let due = self.interval / PHASES * (u64::from(id) % PHASES);
        self.by_id.insert(id, self.lines.len());
        self.lines.push(Line { id, socket, to, due, pair, flow: Flow::default(), translated: 0 });
    }
}

impl Outcome {
    pub(super) fn add(&mut self, other: Self) {
        self.flows.extend(other.flows);
        self.translated += other.translated;
        self.stall = self.stall.max(other.stall);
        self.errors.extend(other.errors);
    }
}

/// One thread at work.
pub(super) struct Worker {
    share: Share,
    started: Instant,
    outcome: Outcome,
}

impl Worker {
    pub(super) fn new(share: Share, started: Instant) -> Self {
        Self { share, started, outcome: Outcome::default() }
    }

    pub(super) fn run(mut self, stop: &AtomicBool, counters: &Counters) -> Outcome {
        // The default slack of 50 µs would be a good part of an interval.
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1_000));
        while !stop.load(Ordering::Relaxed) {
            let sent = self.send_due();
            counters.sent.fetch_add(sent, Ordering::Relaxed);
            let next = self.share.lines.iter().map(|line| line.due).min().unwrap_or(u64::MAX);
            self.rest(next);
            counters.received.fetch_add(self.receive(), Ordering::Relaxed);
        }
        // Another thread's probes may still need this one's echoes.
        let mut done = false;
        while counters.busy.load(Ordering::Relaxed) > 0 {
            if !done && !self.share.lines.iter().any(|line| line.flow.pending(self.now())) {
                done = true;
                counters.busy.fetch_sub(1, Ordering::Relaxed);
                continue;
            }
            self.rest(self.now() + NAP / 10);
            counters.received.fetch_add(self.receive(), Ordering::Relaxed);
        }
        self.finish()
    }

    fn send_due(&mut self) -> u64 {
        let mut sent = 0;
        let interval = self.share.interval;
        let now = self.now();
        let crowded = self.share.lines.iter().map(|line| line.flow.open()).sum::<usize>() > UNDER_WAY;
        for n in 0..self.share.lines.len() {
            for _ in 0..BURST {
                let line = &mut self.share.lines[n];
                let Some(late) = now.checked_sub(line.due) else { break };
                self.outcome.stall = self.outcome.stall.max(late);
                if late > CATCH_UP || (late > interval && crowded) {
                    line.due += late / interval * interval;
                }
                line.due += interval;
                sent += 1;
                self.send(n);
            }
        }
        sent
    }

    fn send(&mut self, n: usize) {
        let now = self.now();
        let line = &mut self.share.lines[n];
        let seq = line.flow.send(now);
        let packet = Packet { kind: Kind::Probe, run: self.share.run, flow: line.id, seq };
        if let Err(error) = put(&self.share.sockets[line.socket], packet, line.to, self.share.long) {
            let text = format!("{} to {}: {error}", line.pair.0, line.pair.1);
            self.note(text);
        }
    }

    /// Sleeps until a socket has something or the time has come.
    fn rest(&self, until: u64) {
        let left = until.saturating_sub(self.now()).min(NAP);
        let timeout = Timespec { tv_sec: 0, tv_nsec: left.cast_signed() };
        let mut fds: Vec<PollFd<'_>> =
            self.share.sockets.iter().map(|socket| PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN)).collect();
        // An interruption only means one more turn.
        let _ = poll(&mut fds, Some(&timeout));
    }

    /// Takes everything that has come; answers how many of our probes came back.
    fn receive(&mut self) -> u64 {
        let mut back = 0;
        let mut buffer = [0; 2048];
        for n in 0..self.share.sockets.len() {
            loop {
                match self.share.sockets[n].recv_from(&mut buffer) {
                    Ok((length, from)) => back += u64::from(self.take(n, &buffer[..length], from)),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => {
                        self.note(format!("receive: {error}"));
                        break;
                    }
                }
            }
        }
        back
    }

    /// Echoes a probe, or notes an echo; answers whether one of our probes came back in time.
    fn take(&mut self, socket: usize, bytes: &[u8], from: SocketAddr) -> bool {
        let Some(packet) = Packet::decode(bytes).filter(|packet| packet.run == self.share.run) else { return false };
        let source = self.share.sources.get(packet.flow as usize).copied().flatten();
        match packet.kind {
            Kind::Probe => {
                if source.is_some_and(|source| source != from) {
                    self.outcome.translated += 1;
                }
                let echo = Packet { kind: Kind::Echo, ..packet };
                if let Err(error) = put(&self.share.sockets[socket], echo, from, self.share.long) {
                    self.note(format!("echo to {from}: {error}"));
                }
                false
            }
            Kind::Echo => {
                let now = self.now();
                let Some(n) = self.share.by_id.get(&packet.flow) else { return false };
                let line = &mut self.share.lines[*n];
                if source.is_some() && line.to != from {
                    line.translated += 1;
                }
                line.flow.arrive(packet.seq, now)
            }
        }
    }

    fn finish(mut self) -> Outcome {
        for mut line in self.share.lines {
            line.flow.close();
            self.outcome.flows.push(FlowOutcome {
                id: line.id,
                pair: line.pair,
                v4: line.to.is_ipv4(),
                flow: line.flow,
                translated: line.translated,
            });
        }
        self.outcome
    }

    fn note(&mut self, error: String) {
        if self.outcome.errors.len() < ERRORS {
            self.outcome.errors.insert(error);
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Sends a packet; a long one as long as its way takes it in one piece. What is too long is refused before it leaves.
fn put(socket: &UdpSocket, packet: Packet, to: SocketAddr, long: bool) -> io::Result<()> {
    if !long {
        return socket.send_to(&packet.encode(), to).map(drop);
    }
    let headers = if to.is_ipv4() { 28 } else { 48 };
    let mut bytes = [PADDING; LENGTHS[0]];
    bytes[..SIZE].copy_from_slice(&packet.encode());
    let mut refusal = io::Error::from_raw_os_error(libc::EMSGSIZE);
    for length in LENGTHS {
        match socket.send_to(&bytes[..length - headers], to) {
            Ok(_) => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => refusal = error,
            Err(error) => return Err(error),
        }
    }
    Err(refusal)
}
