//! The sessions of a system, what comes for them, and one queue of their timers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::config::{ConfigFault, Path, SessionConfig, Timers};
use crate::discard::{Discard, Discards};
use crate::packet::{Packet, State};
use crate::random::Random;
use crate::session::{Session, View, Wishes};
use crate::{Action, MULTIHOP_PORT, SINGLE_HOP_PORT, SessionId, TTL};

/// Source ports (RFC 5881, section 4).
const SOURCE_PORTS: std::ops::RangeInclusive<u16> = 49152..=65535;

/// How a packet came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// At the port of multihop sessions, not at that of single-hop ones.
    pub multihop: bool,
    /// Index of the interface.
    pub interface: u32,
    /// Its source address.
    pub source: IpAddr,
    /// Its destination address.
    pub destination: IpAddr,
    /// Its TTL or hop limit.
    pub ttl: u8,
}

/// All sessions of a system.
#[derive(Debug)]
pub struct Engine {
    random: Random,
    next_port: u16,
    sessions: BTreeMap<SessionId, Session>,
    paths: BTreeMap<Path, SessionId>,
    /// When to look at which session: at its time or sooner.
    queue: BTreeSet<(Duration, SessionId)>,
    queued: BTreeMap<SessionId, Duration>,
    discards: Discards,
}

impl Engine {
    /// One without sessions. Discriminators and jitter are made of the seed, which should differ from start to start.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let offset = random.below(u64::from(SOURCE_PORTS.end() - SOURCE_PORTS.start()) + 1);
        Self {
            next_port: SOURCE_PORTS.start() + u16::try_from(offset).unwrap_or(0),
            random,
            sessions: BTreeMap::new(),
            paths: BTreeMap::new(),
            queue: BTreeSet::new(),
            queued: BTreeMap::new(),
            discards: Discards::default(),
        }
    }

    /// A new session, which is down. Its first packet goes within a tenth of a second.
    ///
    /// # Errors
    /// If a field is out of bounds, or there is one on this path.
    pub fn add(&mut self, now: Duration, config: SessionConfig) -> Result<SessionId, ConfigFault> {
        config.check()?;
        if self.paths.contains_key(&config.path) {
            return Err(ConfigFault::Exists { peer: config.path.peer() });
        }
        let id = loop {
            let id = SessionId(u32::try_from(self.random.next() >> 32).unwrap_or(0));
            if id.0 != 0 && !self.sessions.contains_key(&id) {
                break id;
            }
        };
        let port = self.next_port;
        self.next_port = port.checked_add(1).unwrap_or(*SOURCE_PORTS.start());
        self.paths.insert(config.path, id);
        let random = Random::new(self.random.next());
        self.sessions.insert(id, Session::new(now, id, port, config, random));
        self.enqueue(id);
        Ok(id)
    }

    /// Gives a session up. The peer is told that this is on purpose.
    pub fn remove(&mut self, now: Duration, id: SessionId) -> Vec<Action> {
        let mut actions = self.set_admin_down(now, id, true);
        actions.retain(|action| matches!(action, Action::Send { .. }));
        if let Some(session) = self.sessions.remove(&id) {
            self.paths.remove(&session.config.path);
        }
        if let Some(due) = self.queued.remove(&id) {
            self.queue.remove(&(due, id));
        }
        actions
    }

    /// Other timers for a session, which stays up.
    ///
    /// # Errors
    /// If one is out of bounds, or there is no such session.
    pub fn set_timers(&mut self, now: Duration, id: SessionId, timers: Timers) -> Result<Vec<Action>, ConfigFault> {
        let session = self.sessions.get(&id).ok_or(ConfigFault::None { id: id.0 })?;
        timers.check(&session.config.path)?;
        Ok(self.act(id, |session, wishes| session.set_timers(now, timers, wishes)))
    }

    /// An administrator holds a session down, or lets it go.
    pub fn set_admin_down(&mut self, now: Duration, id: SessionId, down: bool) -> Vec<Action> {
        self.act(id, |session, wishes| session.set_admin_down(now, down, wishes))
    }

    /// The way of a session is known to be down, as by its interface.
    pub fn path_down(&mut self, now: Duration, id: SessionId) -> Vec<Action> {
        self.act(id, |session, wishes| session.path_down(now, wishes))
    }

    /// A datagram has come. Whoever was kept from running hands in what came meanwhile before [`Self::tick`].
    pub fn received(&mut self, now: Duration, arrival: &Arrival, payload: &[u8]) -> Vec<Action> {
        match self.find(arrival, payload) {
            Ok((id, packet)) => {
                let mut held = false;
                let actions = self.act(id, |session, wishes| held = !session.take(now, &packet, wishes));
                if held {
                    self.discards.count(Discard::AdminDown);
                }
                actions
            }
            Err(reason) => {
                self.discards.count(reason);
                Vec::new()
            }
        }
    }

    /// When [`Self::tick`] should come; sooner does no harm.
    #[must_use]
    pub fn due(&self) -> Option<Duration> {
        self.queue.first().map(|(due, _)| *due)
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Duration) -> Vec<Action> {
        let mut actions = Vec::new();
        while let Some((due, id)) = self.queue.first().copied().filter(|(due, _)| *due <= now) {
            self.queue.remove(&(due, id));
            self.queued.remove(&id);
            actions.extend(self.act(id, |session, wishes| *wishes = session.tick(now)));
        }
        actions
    }

    /// What a session looks like.
    #[must_use]
    pub fn view(&self, id: SessionId) -> Option<View> {
        self.sessions.get(&id).map(Session::view)
    }

    /// Every session: discriminator, path and looks.
    pub fn views(&self) -> impl Iterator<Item = (SessionId, Path, View)> {
        self.sessions.iter().map(|(id, session)| (*id, session.config.path, session.view()))
    }

    /// The session on this path.
    #[must_use]
    pub fn on(&self, path: &Path) -> Option<SessionId> {
        self.paths.get(path).copied()
    }

    /// Packets that were not heeded, by reason.
    #[must_use]
    pub fn discards(&self) -> &Discards {
        &self.discards
    }

    /// The session a packet is for, by the rules in their order.
    fn find(&self, arrival: &Arrival, payload: &[u8]) -> Result<(SessionId, Packet), Discard> {
        if !arrival.multihop && arrival.ttl != TTL {
            return Err(Discard::Ttl);
        }
        let packet = Packet::read(payload)?;
        let peer = arrival.source;
        let path = match arrival.multihop {
            true => Path::Multihop { local: arrival.destination, peer },
            false => Path::SingleHop { interface: arrival.interface, peer },
        };
        let id = if packet.yours != 0 {
            let id = SessionId(packet.yours);
            let session = self.sessions.get(&id).ok_or(Discard::UnknownDiscriminator)?;
            if session.config.path != path {
                return Err(Discard::WrongPath);
            }
            id
        } else {
            if !matches!(packet.state, State::Down | State::AdminDown) {
                return Err(Discard::StateWithoutDiscriminator);
            }
            *self.paths.get(&path).ok_or(Discard::NoSession)?
        };
        let session = self.sessions.get(&id).ok_or(Discard::NoSession)?;
        if arrival.ttl < session.config.min_ttl {
            return Err(Discard::Ttl);
        }
        if packet.authentication {
            return Err(Discard::Authentication);
        }
        Ok((id, packet))
    }

    /// Lets a session do something, and makes actions of its wishes.
    fn act(&mut self, id: SessionId, what: impl FnOnce(&mut Session, &mut Wishes)) -> Vec<Action> {
        let Some(session) = self.sessions.get_mut(&id) else { return Vec::new() };
        let mut wishes = Wishes::default();
        what(session, &mut wishes);
        let (port, interface) = match session.config.path {
            Path::SingleHop { interface, .. } => (SINGLE_HOP_PORT, Some(interface)),
            Path::Multihop { .. } => (MULTIHOP_PORT, None),
        };
        let to = SocketAddr::new(session.config.path.peer(), port);
        let (from, source_port) = (session.config.local, session.source_port);
        let send = |bytes| Action::Send { id, from, source_port, to, interface, bytes };
        let mut actions: Vec<Action> = wishes.packets.into_iter().map(send).collect();
        if wishes.changed {
            let View { state, diagnostic, remote, .. } = session.view();
            actions.push(Action::Changed { id, state, diagnostic, remote });
        }
        self.enqueue(id);
        actions
    }

    /// Sees to it that a session is looked at in time. What moved to later stays where it is: packets come far more often than
    /// detection times pass, and a look too soon costs less than a move for each of them.
    fn enqueue(&mut self, id: SessionId) {
        let Some(due) = self.sessions.get(&id).and_then(Session::due) else { return };
        match self.queued.get(&id).copied() {
            Some(queued) if queued <= due => return,
            Some(queued) => drop(self.queue.remove(&(queued, id))),
            None => {}
        }
        self.queue.insert((due, id));
        self.queued.insert(id, due);
    }
}
