//! The thread: waits for sockets, timers and commands, has sessions and the table take in what came, and carries out what they say.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError};

pub use ripstop_bgp::rib::PeerId;
use ripstop_bgp::rib::Rib;
use ripstop_bgp::session::{self, Action, ConnectionId, Event, State};
use ripstop_bgp::wire::{Cease, Update};
use ripstop_types::{Millis, Prefix};
use rustix::event::{Timespec, epoll};
use rustix::time::{ClockId, clock_gettime};

use super::connection::Connection;
use super::listen::Listeners;
use super::neighbours::Neighbours;
use super::peers::{Bfd, BfdThread, Settling};
use super::{Answers, Command, Peer, PeerKey, Report, Setup};
use crate::tcp;

/// Bytes read at once, and how often from one connection before others have their turn.
const READ: usize = 65_536;
const TURNS: usize = 1;

/// Prefixes that are made messages at once, and how often before something is read again: more than can have come meanwhile, so that
/// what waits stays little.
const FLUSH: usize = 4_096;
const FLUSHES: usize = 8;

/// While as much waits for a peer that takes some, nothing more is made for anyone.
const HIGH: usize = 1 << 20;

/// One that has taken nothing for so long is not waited for.
const PATIENCE: u64 = 1_000;

/// Where as much waits for a peer, its session ends.
const MOST: usize = 64 << 20;

/// One peer.
#[derive(Debug)]
pub struct Session {
    pub key: PeerKey,
    pub peer: Peer,
    /// The range that it came from, if it is not named.
    pub range: Option<Prefix>,
    pub session: session::Session,
    /// Who was found on its link, if it has no address, and who else is there.
    pub found: Option<Ipv6Addr>,
    pub others: Vec<Ipv6Addr>,
    pub since: Millis,
    /// This end's address while it is up.
    pub local: Option<IpAddr>,
    pub bfd: Option<Bfd>,
    pub bfd_error: Option<String>,
    pub faults: u64,
    pub last_fault: Option<String>,
}

/// What a token of the kernel's queue stands for.
#[derive(Debug, Clone, Copy)]
enum Ready {
    Wake,
    Neighbours,
    Listener(SocketAddr),
    Connection,
}

/// The state of the thread.
pub struct Worker {
    pub(super) rib: Rib,
    pub(super) setup: Setup,
    pub(super) peers: BTreeMap<PeerId, Session>,
    pub(super) next_peer: u32,
    pub(super) by_key: BTreeMap<PeerKey, PeerId>,
    pub(super) listeners: Listeners,
    pub(super) neighbours: Neighbours,
    pub(super) bfd: BfdThread,
    pub(super) settling: Option<Settling>,
    pub(super) changed: BTreeSet<PeerId>,
    /// As they were last told.
    pub(super) states: BTreeMap<PeerId, State>,
    pub(super) gone: BTreeSet<PeerKey>,
    /// What does not hold for one peer or prefix changed.
    pub(super) tell_all: bool,
    connections: BTreeMap<u64, Connection>,
    /// Connections for which something waits that was not tried to be written.
    unwritten: BTreeSet<u64>,
    tokens: BTreeMap<(PeerId, ConnectionId), u64>,
    ready: BTreeMap<u64, Ready>,
    next_token: u64,
    queue: OwnedFd,
    wake: Arc<OwnedFd>,
    out: SyncSender<Report>,
    unsent: Option<Report>,
}

impl Worker {
    pub fn new(
        setup: Setup,
        restarted: bool,
        seed: u64,
        wake: Arc<OwnedFd>,
        out: SyncSender<Report>,
    ) -> io::Result<Self> {
        let queue = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&queue, &*wake, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
        let mut worker = Self {
            rib: Rib::new(setup.rib.clone()),
            setup: Setup::empty(setup.rib.clone()),
            peers: BTreeMap::new(),
            next_peer: 1,
            by_key: BTreeMap::new(),
            listeners: Listeners::default(),
            neighbours: Neighbours::default(),
            bfd: BfdThread::new(seed, wake.clone()),
            settling: restarted.then(|| Settling::new(now(), &setup)),
            changed: BTreeSet::new(),
            states: BTreeMap::new(),
            gone: BTreeSet::new(),
            tell_all: true,
            connections: BTreeMap::new(),
            unwritten: BTreeSet::new(),
            tokens: BTreeMap::new(),
            ready: BTreeMap::from([(0, Ready::Wake)]),
            next_token: 1,
            queue,
            wake,
            out,
            unsent: None,
        };
        worker.rib.set_deferred(restarted);
        worker.set_up(now(), setup);
        Ok(worker)
    }

    /// Until nobody can ask for anything any more.
    pub fn run(&mut self, todo: &Receiver<Command>) {
        let mut bytes = vec![0; READ];
        let mut more = true;
        loop {
            let ready = self.wait(more);
            for (token, what, flags) in ready {
                match what {
                    Ready::Wake => drop(rustix::io::read(&self.wake, &mut [0u8; 8])),
                    Ready::Neighbours => self.neighbours.hear(now()),
                    Ready::Listener(at) => self.accept(&at),
                    Ready::Connection => self.serve(token, flags, &mut bytes),
                }
            }
            loop {
                match todo.try_recv() {
                    Ok(Command::Setup(setup)) => self.set_up(now(), *setup),
                    Ok(Command::Ask(what)) => what(&Answers { rib: &self.rib, peers: &self.peers }),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            self.hear_bfd();
            self.tick();
            self.write_out();
            more = self.rib.work(FLUSH);
            more |= (0..FLUSHES).all(|_| self.flush());
            more |= self.tell();
        }
    }

    fn wait(&self, at_once: bool) -> Vec<(u64, Ready, epoll::EventFlags)> {
        let due = self.deadline().map(|at| at.since(now()));
        let pause = if at_once { Some(0) } else { due };
        let pause = pause.and_then(|ms| Timespec::try_from(std::time::Duration::from_millis(ms)).ok());
        let mut events = [MaybeUninit::<epoll::Event>::uninit(); 256];
        // Whatever it says, timers and commands are looked at.
        let found = epoll::wait(&self.queue, &mut events, pause.as_ref()).map_or(&mut [][..], |(found, _)| found);
        let of = |event: &epoll::Event| {
            let token = event.data.u64();
            Some((token, *self.ready.get(&token)?, event.flags))
        };
        found.iter().filter_map(of).collect()
    }

    fn deadline(&self) -> Option<Millis> {
        let sessions = self.peers.values().filter_map(|one| one.session.deadline());
        let ends = self.connections.values().filter_map(|one| one.ends);
        let settling = self.settling.as_ref().map(|one| one.until);
        // Who is waited for to take something is not waited for longer.
        let slow = self.connections.values().filter(|one| one.waiting() > HIGH).map(|one| one.moved.plus(PATIENCE));
        let slow = slow.filter(|at| *at > now());
        let sockets = self.listeners.due().into_iter().chain(self.neighbours.deadline());
        sessions.chain(ends).chain(settling).chain(slow).chain(sockets).chain(self.bfd.due()).min()
    }

    fn tick(&mut self) {
        let now = now();
        if self.listeners.due().is_some_and(|at| at <= now) {
            self.listeners.open_all(now);
            self.watch_listeners();
        }
        if self.neighbours.open(now) {
            self.watch_neighbours();
        }
        self.neighbours.tick(now);
        self.follow(now);
        for id in self.peers.keys().copied().collect::<Vec<_>>() {
            let Some(one) = self.peers.get_mut(&id) else { continue };
            if one.session.deadline().is_some_and(|at| at <= now) {
                let actions = one.session.tick(now);
                self.perform(id, actions);
            }
        }
        let over = self.connections.iter().filter(|(_, one)| one.ends.is_some_and(|at| at <= now));
        for token in over.map(|(token, _)| *token).collect::<Vec<_>>() {
            self.forget(token);
        }
        self.settle(now);
        self.forget_dynamic();
        self.start_bfd(now);
    }

    /// A connection is ready.
    fn serve(&mut self, token: u64, flags: epoll::EventFlags, bytes: &mut [u8]) {
        let Some(one) = self.connections.get_mut(&token) else { return };
        if one.connecting {
            return self.connected(token);
        }
        if flags.contains(epoll::EventFlags::OUT) {
            self.write(token);
        }
        for _ in 0..TURNS {
            let Some(one) = self.connections.get_mut(&token) else { return };
            let (id, connection, ends) = (one.peer, one.id, one.ends.is_some());
            let why = match one.read(bytes) {
                Ok(None) => return,
                Ok(Some(0)) => "the peer closed it".to_owned(),
                Ok(Some(_)) if ends => continue,
                Ok(Some(count)) => {
                    let come = bytes.get(..count).unwrap_or_default();
                    self.handle(id, |_| Event::Bytes(connection, come));
                    continue;
                }
                Err(error) => error.to_string(),
            };
            if ends {
                return self.forget(token);
            }
            return self.handle(id, |_| Event::Closed(connection, &why));
        }
    }

    fn connected(&mut self, token: u64) {
        let Some(one) = self.connections.get_mut(&token) else { return };
        let (id, connection) = (one.peer, one.id);
        match tcp::outcome(&one.stream) {
            Ok(()) => {
                one.connecting = false;
                self.handle(id, |_| Event::Connected(connection));
                self.watch(token);
            }
            Err(error) => {
                let why = words(&error);
                self.handle(id, |_| Event::ConnectFailed(connection, &why));
            }
        }
    }

    fn write(&mut self, token: u64) {
        let now = now();
        let Some(one) = self.connections.get_mut(&token) else { return };
        let (id, connection, ends) = (one.peer, one.id, one.ends.is_some());
        match one.write(now) {
            Ok(count) => {
                let more = one.waiting() > 0;
                self.watch(token);
                if count > 0 && !ends {
                    self.handle(id, |_| Event::Written(connection, more));
                } else if more && !ends {
                    self.handle(id, |_| Event::Waiting(connection));
                }
            }
            Err(_) if ends => self.forget(token),
            Err(error) => {
                let why = error.to_string();
                self.handle(id, |_| Event::Closed(connection, &why));
            }
        }
    }

    /// Has a session take in an event, and does what it says.
    pub(super) fn handle<'a>(&mut self, id: PeerId, event: impl FnOnce(&Session) -> Event<'a>) {
        let Some(one) = self.peers.get_mut(&id) else { return };
        let event = event(one);
        let actions = one.session.handle(now(), event);
        self.perform(id, actions);
    }

    /// Does what a session says, in order, and what follows of it.
    pub(super) fn perform(&mut self, id: PeerId, actions: Vec<Action>) {
        let mut left: VecDeque<Action> = actions.into();
        while let Some(action) = left.pop_front() {
            let follows = match action {
                Action::Connect(connection) => self.connect(id, connection),
                Action::Send(connection, bytes) => {
                    self.send(id, connection, bytes.into());
                    Vec::new()
                }
                Action::Close(connection) => {
                    self.close(id, connection);
                    Vec::new()
                }
                Action::Up { negotiated, keep } => {
                    self.up(id, &negotiated, keep);
                    Vec::new()
                }
                Action::Down { keep, .. } => {
                    self.rib.peer_down(id, keep);
                    self.down(id);
                    Vec::new()
                }
                Action::Expired => {
                    self.rib.expire(id);
                    Vec::new()
                }
                Action::Update(update) => self.update(id, &update),
                Action::Refresh(refresh) => {
                    self.rib.refresh(id, refresh);
                    Vec::new()
                }
            };
            left.extend(follows);
        }
        self.note(id);
    }

    /// Sees to it that a peer's change of state is told.
    fn note(&mut self, id: PeerId) {
        let Some(one) = self.peers.get_mut(&id) else { return };
        let state = one.session.state();
        if self.states.insert(id, state) != Some(state) {
            one.since = wall();
        }
        self.changed.insert(id);
    }

    fn connect(&mut self, id: PeerId, connection: ConnectionId) -> Vec<Action> {
        let Some(one) = self.peers.get_mut(&id) else { return Vec::new() };
        let opened = tcp::open(one.session.config());
        let watched = opened.and_then(|stream| self.add(Connection::new(id, connection, stream, true, now())));
        let Err(error) = watched else { return Vec::new() };
        let why = words(&error);
        let Some(one) = self.peers.get_mut(&id) else { return Vec::new() };
        one.session.handle(now(), Event::ConnectFailed(connection, &why))
    }

    /// Takes a connection in.
    pub(super) fn add(&mut self, connection: Connection) -> io::Result<()> {
        let token = self.next_token;
        self.next_token += 1;
        let flags = if connection.connecting { epoll::EventFlags::OUT } else { epoll::EventFlags::IN };
        epoll::add(&self.queue, &connection.stream, epoll::EventData::new_u64(token), flags)?;
        self.ready.insert(token, Ready::Connection);
        self.tokens.insert((connection.peer, connection.id), token);
        self.connections.insert(token, connection);
        Ok(())
    }

    /// Has the kernel tell of listeners.
    pub(super) fn watch_listeners(&mut self) {
        let known: BTreeSet<SocketAddr> = self.ready.values().filter_map(Ready::listener).collect();
        let open: BTreeSet<SocketAddr> = self.listeners.open().map(|(at, _)| *at).collect();
        self.ready.retain(|_, what| what.listener().is_none_or(|at| open.contains(&at)));
        for (at, listener) in self.listeners.open().filter(|(at, _)| !known.contains(at)) {
            let token = self.next_token;
            self.next_token += 1;
            let data = epoll::EventData::new_u64(token);
            if epoll::add(&self.queue, listener, data, epoll::EventFlags::IN).is_ok() {
                self.ready.insert(token, Ready::Listener(*at));
            }
        }
        self.tell_all = true;
    }

    /// Has the kernel tell of what neighbours on links say: by a new socket, as the last one is closed.
    pub(super) fn watch_neighbours(&mut self) {
        self.tell_all = true;
        self.ready.retain(|_, what| !matches!(what, Ready::Neighbours));
        let Some(socket) = self.neighbours.socket() else { return };
        let token = self.next_token;
        self.next_token += 1;
        if epoll::add(&self.queue, socket, epoll::EventData::new_u64(token), epoll::EventFlags::IN).is_ok() {
            self.ready.insert(token, Ready::Neighbours);
        }
    }

    /// Has the kernel tell of what a connection waits for.
    fn watch(&self, token: u64) {
        let Some(one) = self.connections.get(&token) else { return };
        let mut flags = epoll::EventFlags::IN;
        flags.set(epoll::EventFlags::OUT, one.waiting() > 0);
        // It is in the queue, so this cannot fail.
        let _ = epoll::modify(&self.queue, &one.stream, epoll::EventData::new_u64(token), flags);
    }

    /// Has bytes wait for a connection: what comes together is written together.
    pub(super) fn send(&mut self, id: PeerId, connection: ConnectionId, bytes: Arc<[u8]>) {
        let Some(token) = self.tokens.get(&(id, connection)).copied() else { return };
        let Some(one) = self.connections.get_mut(&token) else { return };
        if one.waiting() == 0 {
            self.unwritten.insert(token);
        }
        one.push(bytes);
    }

    /// Writes what goes.
    fn write_out(&mut self) {
        for token in std::mem::take(&mut self.unwritten) {
            let Some(one) = self.connections.get_mut(&token) else { continue };
            let (id, connection, ends) = (one.peer, one.id, one.ends.is_some());
            let failed = one.write(now()).is_err();
            // Reading tells what happened to a connection that takes nothing.
            if one.waiting() == 0 || failed {
                continue;
            }
            self.watch(token);
            if let Some(one) = self.peers.get_mut(&id).filter(|_| !ends) {
                // It sets a timer and asks for nothing.
                let _ = one.session.handle(now(), Event::Waiting(connection));
            }
        }
    }

    fn close(&mut self, id: PeerId, connection: ConnectionId) {
        let Some(token) = self.tokens.remove(&(id, connection)) else { return };
        let Some(one) = self.connections.get_mut(&token) else { return };
        let now = now();
        one.end(now);
        if one.connecting || one.write(now).is_err() {
            self.forget(token);
        } else {
            self.watch(token);
        }
    }

    fn forget(&mut self, token: u64) {
        self.ready.remove(&token);
        if let Some(one) = self.connections.remove(&token) {
            let _ = epoll::delete(&self.queue, &one.stream);
        }
    }

    fn update(&mut self, id: PeerId, update: &Update) -> Vec<Action> {
        let Some(one) = self.peers.get_mut(&id) else { return Vec::new() };
        if let Some(fault) = update.faults.last() {
            one.faults += update.faults.len() as u64;
            one.last_fault = Some(fault.to_string());
        }
        match self.rib.update(id, update) {
            Ok(Some(family)) => {
                one.session.refreshed(family);
                self.settling.iter_mut().for_each(|one| one.heard(id, family));
                Vec::new()
            }
            Ok(None) => Vec::new(),
            Err(over) => one.session.stop(now(), Cease::MaximumPrefixes, &format!("more than {} paths", over.limit)),
        }
    }

    /// Makes messages of what waits, as long as peers take them; whether there is more to make.
    fn flush(&mut self) -> bool {
        let now = now();
        let mut over = Vec::new();
        for one in self.connections.values().filter(|one| one.waiting() > HIGH && one.ends.is_none()) {
            if one.waiting() > MOST {
                over.push(one.peer);
            } else if now.since(one.moved) < PATIENCE {
                return false;
            }
        }
        for id in over {
            let Some(one) = self.peers.get_mut(&id) else { continue };
            let actions = one.session.give_up(now, "the peer takes less than it is sent: it does not read");
            self.perform(id, actions);
        }
        if !self.rib.waits() {
            return false;
        }
        for output in self.rib.flush(FLUSH) {
            let bytes: Arc<[u8]> = output.bytes.into();
            let to = |id: &PeerId| output.only.is_none_or(|only| only == *id) && output.except != Some(*id);
            for id in self.rib.members(output.group).filter(to).collect::<Vec<_>>() {
                let up = self.peers.get(&id).and_then(|one| one.session.established());
                if let Some(connection) = up.map(|(connection, _)| connection) {
                    self.send(id, connection, bytes.clone());
                }
            }
        }
        self.write_out();
        self.rib.waits()
    }

    /// Tells what changed if there is room; whether more is to be told, and there is.
    fn tell(&mut self) -> bool {
        let Some(report) = self.unsent.take().or_else(|| self.report()) else { return false };
        match self.out.try_send(report) {
            Ok(()) => true,
            Err(TrySendError::Full(report)) => {
                self.unsent = Some(report);
                false
            }
            // Nobody wants to know any more.
            Err(TrySendError::Disconnected(_)) => false,
        }
    }

    /// This end's address of the connection that is established with a peer.
    pub(super) fn local_of(&self, id: PeerId) -> Option<IpAddr> {
        let (connection, _) = self.peers.get(&id)?.session.established()?;
        let one = self.connections.get(self.tokens.get(&(id, connection))?)?;
        one.stream.local_addr().ok().map(|address| address.ip())
    }

    fn accept(&mut self, at: &SocketAddr) {
        for _ in 0..64 {
            match self.listeners.accept(at) {
                Ok(Some((stream, from))) => {
                    // Who is no peer hears nothing; the connection is closed.
                    if let Some(connection) = self.take_in(stream, from) {
                        let (id, connection, actions) = connection;
                        if self.add(connection).is_ok() {
                            self.perform(id, actions);
                        }
                    }
                }
                // Such as a connection that is gone again.
                Ok(None) | Err(_) => return,
            }
        }
    }
}

impl Ready {
    fn listener(&self) -> Option<SocketAddr> {
        match self {
            Self::Listener(at) => Some(*at),
            _ => None,
        }
    }
}

/// An error as the kernel names it, without numbers.
fn words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::TimedOut => "timed out".to_owned(),
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        _ => error.to_string(),
    }
}

/// Time that never goes back and counts what the machine slept.
pub fn now() -> Millis {
    of(ClockId::Boottime)
}

/// Time as people tell it.
pub fn wall() -> Millis {
    of(ClockId::Realtime)
}

fn of(clock: ClockId) -> Millis {
    let time = std::time::Duration::try_from(clock_gettime(clock)).unwrap_or_default();
    Millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}
