//! One thread: a queue of the device on one side, its sockets on the other.
//!
//! Between two waits a thread holds no packet: what it read it has sent, written or counted as dropped. So a thread that
//! is told to stop loses nothing, and another process may go on with the same descriptors.

use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use ripstop_types::Family;
use rustix::event::{Timespec, epoll};

use crate::control::Reason;
use crate::engine::{Generation, Shared};
use crate::frame::join::{Joiner, Offloads, unwrap};
use crate::frame::split::{Cut, split};
use crate::frame::{Ip, Vnet, ecn, icmp, vnet};
use crate::outbox::{Letter, Outbox};
use crate::pace::Pace;
use crate::sys::udp::{Message, Receiver, Sender, path_mtu, wait_writable};
use crate::sys::{Piece, tun};

/// The longest packet, with its header.
const ROOM: usize = vnet::LEN + 65_535;
/// Bytes read from the device before they are sent: so much stays in a CPU's cache.
const ARENA: usize = 3 * ROOM;
/// Packets read from the device before they are sent.
const BATCH: usize = 128;
/// Messages received before they are written.
const MESSAGES: usize = 4;
/// Batches one way before the other way has its turn.
const TURNS: usize = 8;
/// How long a full socket is waited for, and how often, before a letter is dropped.
const PATIENCE_MS: u16 = 20;
const ATTEMPTS: usize = 5;

/// Like the kernel's own forwarding, which takes the time of whoever sends: behind busy senders packets would pile up in the
/// device until it drops them. What that costs where packets are many and small, [`Pace`] takes back.
const NICE: i32 = -20;

/// How late a pause may end, in nanoseconds: by itself the system adds half of the longest one.
const SLACK_NS: u64 = 1_000;

/// Buffers, by number, of a [`Piece`].
const PACKETS: usize = 0;
const HEADS: usize = 1;

const WAKE: u64 = 0;
const DEVICE: u64 = 1;
/// The sockets' tokens, by family.
const SOCKETS: [u64; 2] = [2, 3];

/// What a thread needs.
pub struct Worker {
    number: usize,
    shared: Arc<Shared>,
    queue: Arc<OwnedFd>,
    offloads: Offloads,
    epoll: OwnedFd,
    version: u64,
    generation: Arc<Generation>,
    outward: Outward,
    receiver: Receiver,
    joiner: Joiner,
    writer: tun::Writer,
}

/// Memory of the way out.
struct Outward {
    packets: Vec<u8>,
    heads: Vec<u8>,
    outbox: Outbox,
    sender: Sender,
}

impl Worker {
    /// A thread's state; it does nothing before [`Worker::run`].
    ///
    /// # Errors
    /// As epoll_create1(2).
    pub fn new(number: usize, shared: Arc<Shared>, queue: Arc<OwnedFd>, offloads: Offloads) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &shared.wakes[number], epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN)?;
        epoll::add(&epoll, &queue, epoll::EventData::new_u64(DEVICE), epoll::EventFlags::IN)?;
        let outward = Outward {
            packets: vec![0; ARENA],
            heads: Vec::with_capacity(16 << 10),
            outbox: Outbox::default(),
            sender: Sender::default(),
        };
        Ok(Self {
            number,
            shared,
            queue,
            offloads,
            epoll,
            version: 0,
            generation: Arc::default(),
            outward,
            receiver: Receiver::new(MESSAGES),
            joiner: Joiner::default(),
            writer: tun::Writer::default(),
        })
    }

    /// Forwards until told to stop.
    pub fn run(mut self) {
        // Of this thread alone, where that is permitted (CAP_SYS_NICE).
        if let Err(error) = rustix::process::setpriority_process(None, NICE) {
            tracing::debug!("thread {}: nice {NICE}: {error}; what waits for it waits longer", self.number);
        }
        if let Err(error) = rustix::thread::set_current_timer_slack(NonZeroU64::new(SLACK_NS)) {
            tracing::debug!("thread {}: timer slack: {error}; its pauses are longer", self.number);
        }
        let limit = Timespec { tv_sec: 10, tv_nsec: 0 };
        let mut pace = Pace::default();
        let mut buffer = [const { std::mem::MaybeUninit::<epoll::Event>::uninit() }; 8];
        loop {
            if self.shared.stop.load(Ordering::Acquire) {
                return;
            }
            if self.shared.version.load(Ordering::Acquire) != self.version {
                self.renew();
            }
            let events = match epoll::wait(&self.epoll, &mut buffer, Some(&limit)) {
                Ok((events, _)) => events,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => {
                    tracing::error!("thread {}: cannot wait: {error}", self.number);
                    return;
                }
            };
            let mut packets = 0;
            for event in events.iter() {
                match event.data.u64() {
                    WAKE => drop(rustix::io::read(&self.shared.wakes[self.number], &mut [0; 8])),
                    DEVICE => packets += self.outward(),
                    token => {
                        let family = if token == SOCKETS[0] { Family::V4 } else { Family::V6 };
                        if let Some(socket) = self.generation.socket(self.number, family) {
                            self.inward(&socket, TURNS);
                        }
                    }
                }
            }
            if let Some(pause) = pace.taken(Instant::now(), packets) {
                std::thread::sleep(pause);
            }
        }
    }

    /// Goes over to the newest set-up. What waits at a socket that is given up is still taken.
    fn renew(&mut self) {
        let (version, new) = self.shared.current();
        let old = std::mem::replace(&mut self.generation, new);
        for (family, token) in Family::BOTH.into_iter().zip(SOCKETS) {
            let (before, after) = (old.socket(self.number, family), self.generation.socket(self.number, family));
            match (before, after) {
                (Some(before), Some(after)) if Arc::ptr_eq(&before, &after) => {}
                (before, after) => {
                    if let Some(before) = before {
                        let _ = epoll::delete(&self.epoll, &before);
                        self.inward(&before, usize::MAX);
                    }
                    let added = after.map(|socket| {
                        epoll::add(&self.epoll, &socket, epoll::EventData::new_u64(token), epoll::EventFlags::IN)
                    });
                    if let Some(Err(error)) = added {
                        tracing::error!("thread {}: cannot wait for a socket: {error}", self.number);
                    }
                }
            }
        }
        self.version = version;
        self.shared.seen[self.number].store(version, Ordering::Release);
    }

    /// From the device to the peers; how many packets, if there are no more.
    fn outward(&mut self) -> usize {
        let mut packets = 0;
        for _ in 0..TURNS {
            let (more, count) = self.gather();
            packets += count;
            self.flush();
            if !more {
                return packets;
            }
        }
        0
    }

    /// Reads packets and puts their frames into the outbox; whether more may wait, and how many they were.
    fn gather(&mut self) -> (bool, usize) {
        let out = &mut self.outward;
        out.heads.clear();
        out.outbox.clear();
        let mut at = 0;
        for count in 0..BATCH {
            if at + ROOM > out.packets.len() {
                return (true, count);
            }
            let length = match tun::read(&self.queue, &mut out.packets[at..at + ROOM]) {
                Ok(Some(length)) => length,
                Ok(None) => return (false, count),
                Err(error) => {
                    tracing::warn!("thread {}: the device is gone: {error}", self.number);
                    let _ = epoll::delete(&self.epoll, &self.queue);
                    self.shared.lost.store(true, Ordering::Release);
                    return (false, count);
                }
            };
            out.take(at..at + length, &self.generation, &self.shared);
            at += length;
        }
        (true, BATCH)
    }

    /// Sends what is in the outbox.
    fn flush(&mut self) {
        let (mut at, mut attempts) = (0, 0);
        while let Some(letter) = self.outward.outbox.letters().get(at) {
            let family = Family::of(self.generation.peers[letter.peer as usize].to.ip());
            let Some(socket) = self.generation.socket(self.number, family) else {
                self.failed(at);
                at += 1;
                continue;
            };
            match self.outward.send(&socket, &self.generation, at, family) {
                Ok(sent) => {
                    for letter in &self.outward.outbox.letters()[at..at + sent.max(1)] {
                        let peer = &self.generation.peers[letter.peer as usize];
                        peer.counters.sent.add(letter.frames as u64, letter.bytes as u64);
                    }
                    at += sent.max(1);
                    attempts = 0;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && attempts < ATTEMPTS => {
                    attempts += 1;
                    wait_writable(socket.as_fd(), PATIENCE_MS);
                }
                // The segments are longer than the way carries, or a device on it cannot fill in checksums.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EMSGSIZE | libc::EIO)) => {
                    self.one_by_one(at, &socket);
                    (at, attempts) = (at + 1, 0);
                }
                Err(_) => {
                    self.failed(at);
                    (at, attempts) = (at + 1, 0);
                }
            }
        }
    }

    /// Counts a letter that cannot leave.
    fn failed(&self, at: usize) {
        let letter = &self.outward.outbox.letters()[at];
        let peer = &self.generation.peers[letter.peer as usize];
        peer.counters.dropped.add(Reason::SendFailed, letter.frames as u64);
    }

    /// Sends a letter's frames each by itself, and tells the sender of those that are too long for the way. The kernel
    /// fragments what may be fragmented.
    fn one_by_one(&mut self, at: usize, socket: &OwnedFd) {
        let out = &mut self.outward;
        let letter = &out.outbox.letters()[at];
        let peer = &self.generation.peers[letter.peer as usize];
        let (listen, overhead) = match Family::of(peer.to.ip()) {
            Family::V4 => (self.generation.listen[0], 28),
            Family::V6 => (self.generation.listen[1], 48),
        };
        let known = listen.and_then(|from| path_mtu(from, peer.to).ok());
        let limit = known.map_or(usize::MAX, |mtu| mtu.saturating_sub(overhead));
        let buffers = [out.packets.as_slice(), out.heads.as_slice()];
        let mut answer = None;
        for frame in letter.each() {
            let length = frame.iter().map(|piece| piece.length).sum::<usize>();
            let head = Ip::read_head(frame[0].of(&buffers));
            // IPv6 has no smaller MTU (RFC 8200, section 5): below it the outer packet is fragmented.
            let limit = if head.is_some_and(|ip| !ip.v4) { limit.max(1280) } else { limit };
            if length > limit && head.is_some_and(|ip| ip.dont_fragment) {
                peer.counters.dropped.add(Reason::TooBig, 1);
                // One answer a letter: it is one flow's, as a rule.
                if answer.is_none() {
                    answer = head.and_then(|ip| {
                        let quoted: Vec<u8> = frame.iter().flat_map(|piece| piece.of(&buffers)).copied().collect();
                        icmp::too_big(&ip, &quoted, u16::try_from(limit).unwrap_or(u16::MAX)).ok()
                    });
                }
                continue;
            }
            let message = Message { to: peer.to, segment: None, tos: letter.tos, pieces: frame };
            match out.sender.send(socket.as_fd(), &buffers, std::iter::once(message)) {
                Ok(_) => peer.counters.sent.add(1, length as u64),
                Err(_) => peer.counters.dropped.add(Reason::SendFailed, 1),
            }
        }
        if let Some(answer) = answer {
            let whole = std::iter::once(0..answer.len());
            if self.writer.write(&self.queue, Vnet::default().bytes(), &answer, whole).is_err() {
                self.shared.counters.dropped.add(Reason::DeviceFailed, 1);
            }
        }
    }

    /// From a socket to the device, at most so many batches.
    fn inward(&mut self, socket: &OwnedFd, turns: usize) {
        for _ in 0..turns {
            let (buffer, received) = match self.receiver.receive(socket.as_fd()) {
                Ok(taken) => taken,
                Err(error) => {
                    tracing::warn!("thread {}: cannot receive: {error}", self.number);
                    return;
                }
            };
            let full = received.len() == MESSAGES;
            self.joiner.clear();
            let mut judge = Judge { generation: &self.generation, shared: &self.shared, run: None };
            for message in received {
                let mut start = message.range.start;
                loop {
                    let end = (start + message.size).min(message.range.end);
                    if let Some(ip) = judge.accept(&mut buffer[start..end], message.from, message.tos) {
                        self.joiner.push(buffer, start..end, &ip, self.offloads);
                    }
                    start = end;
                    if start >= message.range.end {
                        break;
                    }
                }
            }
            judge.count();
            let mut failed = 0;
            self.joiner.finish(buffer);
            for item in self.joiner.items() {
                let pieces = std::iter::once(item.first.clone()).chain(item.rest.iter().cloned());
                if self.writer.write(&self.queue, item.vnet.bytes(), buffer, pieces).is_err() {
                    failed += 1 + item.rest.len() as u64;
                }
            }
            if failed > 0 {
                self.shared.counters.dropped.add(Reason::DeviceFailed, failed);
            }
            if !full {
                return;
            }
        }
    }
}

impl Outward {
    /// Takes a packet that was read, and puts its frames into the outbox.
    fn take(&mut self, range: std::ops::Range<usize>, generation: &Generation, shared: &Shared) {
        let Some(header) = Vnet::read(&self.packets[range.clone()]) else {
            shared.counters.dropped.add(Reason::Malformed, 1);
            return;
        };
        let start = range.start + vnet::LEN;
        let packet = &mut self.packets[start..range.end];
        let Ok(ip) = Ip::read(packet) else {
            shared.counters.dropped.add(Reason::Malformed, 1);
            return;
        };
        let Some(peer) = generation.routes.behind(ip.destination) else {
            shared.counters.dropped.add(Reason::NoRoute, 1);
            return;
        };
        let first = self.heads.len();
        let tos = ecn::outer(ip.tos);
        match split(&header, packet, &mut self.heads) {
            Ok(Cut::Whole) => self.outbox.add(peer, tos, &[Piece { buffer: PACKETS, start, length: ip.total }]),
            Ok(Cut::Segments { header, size, count }) => {
                for number in 0..count {
                    let from = header + number * size;
                    let length = size.min(ip.total - from);
                    let head = Piece { buffer: HEADS, start: first + number * header, length: header };
                    self.outbox.add(peer, tos, &[head, Piece { buffer: PACKETS, start: start + from, length }]);
                }
            }
            Err(_) => shared.counters.dropped.add(Reason::Malformed, 1),
        }
    }

    /// Sends letters of one family from `at` on.
    fn send(&mut self, socket: &OwnedFd, generation: &Generation, at: usize, family: Family) -> io::Result<usize> {
        let to = |letter: &Letter| generation.peers[letter.peer as usize].to;
        let letters = self.outbox.letters()[at..].iter().take_while(|letter| Family::of(to(letter).ip()) == family);
        let messages = letters.map(|letter| Message {
            to: to(letter),
            segment: letter.segment(),
            tos: letter.tos,
            pieces: &letter.pieces,
        });
        self.sender.send(socket.as_fd(), &[self.packets.as_slice(), self.heads.as_slice()], messages)
    }
}

/// Says which frames are taken, and counts.
struct Judge<'a> {
    generation: &'a Generation,
    shared: &'a Shared,
    /// The peer of the last frames, their number and bytes: counted together.
    run: Option<(u32, u64, u64)>,
}

impl Judge<'_> {
    /// The frame in a datagram, if it comes from where it says and holds a packet of that peer's.
    fn accept(&mut self, datagram: &mut [u8], from: Option<std::net::IpAddr>, tos: u8) -> Option<Ip> {
        let senders = from.map_or(&[][..], |from| self.generation.routes.senders(from));
        let Some(first) = senders.first() else {
            self.shared.counters.dropped.add(Reason::Stranger, 1);
            return None;
        };
        let ip = match unwrap(datagram, tos) {
            Ok(Some(ip)) => ip,
            Ok(None) => return self.refuse(*first, Reason::Congestion),
            Err(_) => return self.refuse(*first, Reason::Malformed),
        };
        let routes = &self.generation.routes;
        // Of somebody behind a peer, or of the peer itself: a Service's proxy gives connections from outside its own address.
        let behind = routes.behind(ip.source).filter(|peer| senders.contains(peer));
        let own = || routes.senders(ip.source).iter().find(|peer| senders.contains(peer)).copied();
        let Some(peer) = behind.or_else(own) else {
            return self.refuse(*first, Reason::WrongSource);
        };
        match &mut self.run {
            Some((last, packets, bytes)) if *last == peer => {
                *packets += 1;
                *bytes += ip.total as u64;
            }
            _ => {
                self.count();
                self.run = Some((peer, 1, ip.total as u64));
            }
        }
        Some(ip)
    }

    fn refuse(&self, peer: u32, reason: Reason) -> Option<Ip> {
        self.generation.peers[peer as usize].counters.dropped.add(reason, 1);
        None
    }

    fn count(&mut self) {
        if let Some((peer, packets, bytes)) = self.run.take() {
            self.generation.peers[peer as usize].counters.received.add(packets, bytes);
        }
    }
}
