//! Which peers there are, what becomes of them when a session comes or goes, and BFD to them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use ripstop_bfd::{Engine, SessionConfig, SessionId, State as BfdState, Timers};
use ripstop_bgp::rib::PeerConfig;
use ripstop_bgp::session::{self, Action, Event, Negotiated, dynamic_peer};
use ripstop_bgp::wire::{Cease, Families, NextHop};
use ripstop_types::{Family, Millis, Prefix};

use super::connection::Connection;
use super::thread::{PeerId, Session, Worker, now, wall};
use super::{Peer, PeerKey, Range, Setup};
use crate::bfd;
use crate::tcp;

/// How long peers have to send what they know after a restart of this speaker.
const SETTLE: u64 = 60_000;

/// How long after it BFD is tried again that could not be started.
const AGAIN: u64 = 5_000;

/// Least TTL of BFD packets over several hops: what a system sends that says nothing of it.
const LEAST_TTL: u8 = 1;

/// BFD to one peer.
#[derive(Debug)]
pub struct Bfd {
    pub id: SessionId,
    pub config: SessionConfig,
    pub state: BfdState,
}

/// BFD's thread, which is started when the first peer wants it.
#[derive(Debug)]
pub struct BfdThread {
    seed: u64,
    wake: Arc<OwnedFd>,
    running: Option<(bfd::Speaker, Receiver<bfd::Event>)>,
    fault: Option<String>,
    again: Option<Millis>,
}

impl BfdThread {
    pub fn new(seed: u64, wake: Arc<OwnedFd>) -> Self {
        Self { seed, wake, running: None, fault: None, again: None }
    }

    /// When it is tried again.
    pub fn due(&self) -> Option<Millis> {
        self.again
    }

    fn start(&mut self, now: Millis) {
        self.again = None;
        match bfd::Speaker::start_for(self.seed, Some(self.wake.clone())) {
            Ok(running) => (self.running, self.fault) = (Some(running), None),
            Err(error) => {
                self.fault = Some(format!("BFD cannot be started: {error}"));
                self.again = Some(now.plus(AGAIN));
            }
        }
    }

    fn add(&self, config: SessionConfig) -> Result<SessionId, String> {
        let (speaker, _) = self.running.as_ref().ok_or("BFD does not run")?;
        let added = speaker.with(move |engine, now| (engine.add(now, config), Vec::new()));
        added.ok_or("BFD does not run")?.map_err(|fault| fault.to_string())
    }

    fn remove(&self, id: SessionId) {
        if let Some((speaker, _)) = &self.running {
            // A thread that is gone has no sessions.
            let _ = speaker.with(move |engine: &mut Engine, now| ((), engine.remove(now, id)));
        }
    }
}

/// After a restart: whose routes are waited for, and how long.
#[derive(Debug)]
pub struct Settling {
    pub until: Millis,
    /// Peers that have not sent all; before they are up nobody knows which families they have.
    left: BTreeMap<PeerKey, Option<Families>>,
    ids: BTreeMap<PeerId, PeerKey>,
}

impl Settling {
    pub fn new(now: Millis, setup: &Setup) -> Self {
        let may = |peer: &&Peer| peer.shut_down.is_none() && peer.session.graceful_restart.is_some();
        let left = setup.peers.iter().filter(may).map(|peer| (peer.key(), None)).collect();
        Self { until: now.plus(SETTLE), left, ids: BTreeMap::new() }
    }

    /// A peer is there.
    fn up(&mut self, id: PeerId, key: &PeerKey, agreed: &Negotiated) {
        // One that restarted as well waits for this one.
        let sends = agreed.restart.is_some_and(|restart| !restart.restarted);
        if !sends {
            self.left.remove(key);
        } else if let Some(left) = self.left.get_mut(key) {
            *left = Some(agreed.context.families);
            self.ids.insert(id, key.clone());
        }
    }

    /// It has sent all of a family.
    pub fn heard(&mut self, id: PeerId, family: Family) {
        let Some(key) = self.ids.get(&id) else { return };
        if let Some(Some(left)) = self.left.get_mut(key) {
            *left = Families::by(|one| one != family && left.has(one));
            if *left == Families::default() {
                self.left.remove(key);
            }
        }
    }

    fn over(&self, now: Millis) -> bool {
        self.left.is_empty() || self.until <= now
    }
}

impl Worker {
    /// Becomes what is wanted now.
    pub(super) fn set_up(&mut self, now: Millis, setup: Setup) {
        self.rib.reconfigure(setup.rib.clone());
        let wanted: BTreeMap<PeerKey, Peer> = setup.peers.iter().map(|peer| (peer.key(), peer.clone())).collect();
        for (key, id) in self.by_key.clone() {
            let Some(one) = self.peers.get(&id) else { continue };
            let kept = match one.range {
                None => wanted.get(&key).cloned(),
                Some(_) if wanted.contains_key(&key) => None,
                Some(_) => self.of_range(&setup.ranges, key.address).map(|(peer, _)| peer),
            };
            match kept {
                Some(peer) => self.change(now, id, peer),
                None => self.remove(now, id),
            }
        }
        for (key, peer) in wanted {
            if !self.by_key.contains_key(&key) {
                self.insert(now, key, peer, None);
            }
        }
        for prefix in self.setup.routes.keys().filter(|prefix| !setup.routes.contains_key(prefix)) {
            self.rib.withdraw(*prefix);
        }
        for (prefix, change) in setup.routes.iter().filter(|(prefix, new)| self.setup.routes.get(prefix) != Some(new)) {
            self.rib.originate(*prefix, change);
        }
        if let Some(settling) = &mut self.settling {
            settling.left.retain(|key, _| self.by_key.contains_key(key));
        }
        self.setup = setup;
        self.look_for_neighbours(now);
        self.set_keys(now);
        self.start_bfd(now);
    }

    /// Looks at the links of peers without an address.
    fn look_for_neighbours(&mut self, now: Millis) {
        let wanted = self.peers.iter().filter(|(_, one)| one.is_on_link() && one.peer.shut_down.is_none());
        let wanted = wanted.filter_map(|(id, one)| Some((*id, one.key.interface.clone()?))).collect();
        if self.neighbours.set_up(now, &wanted) || self.neighbours.socket().is_none() {
            self.watch_neighbours();
        }
    }

    /// Has listeners take packets that are signed as peers sign them.
    fn set_keys(&mut self, now: Millis) {
        let peers = self.peers.values().filter(|one| one.range.is_none()).map(|one| one.session.config());
        let peers = peers.map(|config| ((config.address, None), config));
        let ranges = self.setup.ranges.iter().map(|range| &range.listen);
        let ranges = ranges.map(|listen| ((listen.range.addr(), Some(listen.range.len())), &listen.template));
        let known = peers.chain(ranges).filter(|((address, _), _)| !address.is_unspecified());
        let keys = known.filter_map(|(of, config)| Some((of, config.socket.password.clone()?))).collect();
        self.listeners.set_up(now, &self.setup.listen, keys);
        self.watch_listeners();
    }

    /// Has peers without an address be who was heard last on their links, unless they are spoken with.
    pub(super) fn follow(&mut self, now: Millis) {
        let (mut moved, mut actions) = (false, Vec::new());
        for (id, latest) in self.neighbours.latest().collect::<Vec<_>>() {
            let Some(one) = self.peers.get_mut(&id) else { continue };
            if one.found != Some(latest) && one.session.state() < session::State::OpenSent {
                one.found = Some(latest);
                actions.push((id, one.session.configure(now, one.config())));
                moved = true;
            }
            let others = self.neighbours.others(now, id, one.found.unwrap_or(latest));
            if one.others != others {
                one.others = others;
                self.changed.insert(id);
            }
        }
        if moved {
            self.set_keys(now);
        }
        actions.into_iter().for_each(|(id, actions)| self.perform(id, actions));
    }

    /// The peer that comes from an address and its range, if ranges have a place for it.
    fn of_range(&self, ranges: &[Range], address: IpAddr) -> Option<(Peer, Prefix)> {
        let listens: Vec<session::ListenRange> = ranges.iter().map(|range| range.listen.clone()).collect();
        let used = |listen: &session::ListenRange| {
            let from = |one: &&Session| one.range == Some(listen.range) && one.key.address != address;
            self.peers.values().filter(from).count()
        };
        let (place, config) = dynamic_peer(&listens, address, used).ok()?;
        let range = ranges.get(place)?;
        let routes = PeerConfig { address, ..range.routes.clone() };
        Some((Peer { session: config, routes, bfd: range.bfd, shut_down: None }, range.listen.range))
    }

    fn insert(&mut self, now: Millis, key: PeerKey, peer: Peer, range: Option<Prefix>) -> PeerId {
        let id = PeerId(self.next_peer);
        self.next_peer += 1;
        let mut session = session::Session::new(peer.session.clone(), now, self.settling.is_some());
        if let Some(why) = &peer.shut_down {
            // It has no connection that this could end.
            let _ = session.stop(now, Cease::AdministrativeShutdown, why);
        }
        self.rib.configure(id, peer.routes.clone());
        self.by_key.insert(key.clone(), id);
        self.gone.remove(&key);
        let since = wall();
        let (local, bfd, bfd_error, last_fault) = (None, None, None, None);
        let (found, others) = (None, Vec::new());
        let one =
            Session { key, peer, range, session, found, others, since, local, bfd, bfd_error, faults: 0, last_fault };
        self.peers.insert(id, one);
        self.changed.insert(id);
        id
    }

    fn change(&mut self, now: Millis, id: PeerId, peer: Peer) {
        let Some(one) = self.peers.get_mut(&id).filter(|one| one.peer != peer) else { return };
        let old = std::mem::replace(&mut one.peer, peer);
        let mut actions = one.session.configure(now, one.config());
        let peer = &one.peer;
        match (&old.shut_down, &peer.shut_down) {
            (None, Some(why)) => actions.extend(one.session.stop(now, Cease::AdministrativeShutdown, why)),
            (Some(_), None) => one.session.start(now),
            // A peer that sent too much is let in again when it may send more.
            _ if old.routes.max_prefixes != peer.routes.max_prefixes && peer.shut_down.is_none() => {
                one.session.start(now);
            }
            _ => {}
        }
        let terms = terms(one);
        let drops = one.bfd.as_ref().filter(|_| old.bfd != peer.bfd).map(|bfd| bfd.id);
        if let Some(bfd) = drops {
            one.bfd = None;
            self.bfd.remove(bfd);
        }
        self.rib.configure(id, terms);
        self.perform(id, actions);
    }

    fn remove(&mut self, now: Millis, id: PeerId) {
        if let Some(one) = self.peers.get_mut(&id) {
            let actions = one.session.stop(now, Cease::PeerDeconfigured, "");
            self.perform(id, actions);
        }
        self.rib.remove(id);
        let Some(one) = self.peers.remove(&id) else { return };
        if let Some(bfd) = one.bfd {
            self.bfd.remove(bfd.id);
        }
        self.by_key.remove(&one.key);
        self.changed.remove(&id);
        self.states.remove(&id);
        self.gone.insert(one.key);
    }

    /// A connection from outside: whose it is, and what its session says.
    pub(super) fn take_in(&mut self, stream: TcpStream, from: SocketAddr) -> Option<(PeerId, Connection, Vec<Action>)> {
        let id = self.peer_at(from)?;
        let now = now();
        let one = self.peers.get_mut(&id)?;
        if tcp::came_too_far(&stream, one.session.config()) {
            return None;
        }
        stream.set_nonblocking(true).ok()?;
        tcp::prepare(&stream, one.session.config()).ok()?;
        let (connection, actions) = one.session.accept(now)?;
        Some((id, Connection::new(id, connection, stream, false, now), actions))
    }

    fn peer_at(&mut self, from: SocketAddr) -> Option<PeerId> {
        let address = from.ip();
        let scope = match from {
            SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() => Some(v6.scope_id()),
            _ => None,
        };
        let on_link = |key: &PeerKey| match (&key.interface, scope) {
            (Some(interface), Some(scope)) => tcp::index(interface).ok() == Some(scope),
            _ => true,
        };
        let known = self.by_key.iter().find(|(key, _)| key.address == address && on_link(key)).map(|(_, id)| *id);
        if let (None, Some(scope), IpAddr::V6(address)) = (known, scope, address) {
            return self.peer_on_link(scope, address);
        }
        if known.is_some() {
            return known;
        }
        let (peer, range) = self.of_range(&self.setup.ranges, address)?;
        Some(self.insert(now(), peer.key(), peer, Some(range)))
    }

    /// The peer without an address that somebody on a link is, unless it is somebody else and spoken with.
    fn peer_on_link(&mut self, index: u32, address: Ipv6Addr) -> Option<PeerId> {
        let id = self.neighbours.of_link(index)?;
        let now = now();
        if self.peers.get(&id)?.found != Some(address) {
            self.neighbours.met(now, id, address);
            self.follow(now);
        }
        self.peers.get(&id).filter(|one| one.found == Some(address)).map(|_| id)
    }

    /// Peers that came from a range and are away are none any more.
    pub(super) fn forget_dynamic(&mut self) {
        let idle = |one: &Session| one.range.is_some() && one.session.deadline().is_none();
        let none = |one: &Session| one.session.state() < session::State::Connect;
        let away: Vec<PeerId> =
            self.peers.iter().filter(|(_, one)| idle(one) && none(one)).map(|(id, _)| *id).collect();
        for id in away {
            self.remove(now(), id);
        }
    }

    /// A session is there.
    pub(super) fn up(&mut self, id: PeerId, agreed: &Negotiated, keep: Families) {
        let local = self.local_of(id);
        let Some(one) = self.peers.get_mut(&id) else { return };
        one.local = local;
        one.bfd_error = None;
        let differs = |bfd: &&Bfd| local.is_none_or(|local| bfd.config != bfd_of(one, local, bfd.config.timers));
        if let Some(bfd) = one.bfd.as_ref().filter(differs).map(|bfd| bfd.id) {
            one.bfd = None;
            self.bfd.remove(bfd);
        }
        let terms = terms(one);
        if let Some(settling) = &mut self.settling {
            settling.up(id, &one.key, agreed);
        }
        self.rib.configure(id, terms);
        self.rib.peer_up(id, agreed, keep);
    }

    /// A session is gone.
    pub(super) fn down(&mut self, id: PeerId) {
        if let Some(one) = self.peers.get_mut(&id) {
            one.local = None;
        }
    }

    /// Ends the wait after a restart when nobody is waited for any more.
    pub(super) fn settle(&mut self, now: Millis) {
        if self.settling.as_ref().is_some_and(|settling| settling.over(now)) {
            self.settling = None;
            self.rib.set_deferred(false);
            self.peers.values_mut().for_each(|one| one.session.restart_done());
            self.tell_all = true;
        }
    }

    /// Starts BFD to peers that are up and want it.
    pub(super) fn start_bfd(&mut self, now: Millis) {
        self.bfd.again = self.bfd.again.filter(|at| *at > now);
        let lacks = |one: &&mut Session| one.bfd.is_none() && one.bfd_error.is_none() && one.local.is_some();
        for one in self.peers.values_mut().filter(lacks) {
            let (Some(timers), Some(local)) = (one.peer.bfd, one.local) else { continue };
            if self.bfd.running.is_none() && self.bfd.again.is_none() {
                self.bfd.start(now);
                self.tell_all = true;
            }
            if self.bfd.running.is_none() {
                return;
            }
            let config = bfd_of(one, local, timers);
            match self.bfd.add(config.clone()) {
                Ok(id) => one.bfd = Some(Bfd { id, config, state: BfdState::Down }),
                Err(why) => one.bfd_error = Some(why),
            }
        }
    }

    /// Takes in what BFD tells.
    pub(super) fn hear_bfd(&mut self) {
        let Some((_, events)) = &self.bfd.running else { return };
        for event in events.try_iter().collect::<Vec<_>>() {
            let (of, state, remote) = match event {
                bfd::Event::Changed { id, state, remote, .. } => (id, state, remote),
                bfd::Event::Unsent { id, error } => {
                    if let Some(one) = self.peers.values_mut().find(|one| one.bfd_is(id)) {
                        one.bfd_error = Some(format!("BFD cannot send: {error}"));
                    }
                    continue;
                }
            };
            let Some((id, one)) = self.peers.iter_mut().find(|(_, one)| one.bfd_is(of)) else { continue };
            let id = *id;
            let Some(bfd) = &mut one.bfd else { continue };
            let was = std::mem::replace(&mut bfd.state, state);
            self.changed.insert(id);
            // Who takes BFD down on purpose says nothing of the way (RFC 5882 section 3.2).
            if was == BfdState::Up && state == BfdState::Down && remote != BfdState::AdminDown {
                self.handle(id, |_| Event::BfdDown);
            }
        }
    }

    /// What this speaker cannot do.
    pub(super) fn faults(&self) -> Vec<String> {
        let faults = self.bfd.fault.iter().chain(self.neighbours.fault()).cloned();
        self.listeners.faults().into_iter().chain(faults).collect()
    }
}

impl Session {
    /// Whether it is whoever is found on a link.
    fn is_on_link(&self) -> bool {
        self.key.address.is_unspecified() && self.key.interface.is_some()
    }

    /// What its session is to be, with the address that was found.
    fn config(&self) -> session::Config {
        let mut config = self.peer.session.clone();
        if let (true, Some(found)) = (self.is_on_link(), self.found) {
            config.address = found.into();
        }
        config
    }

    fn bfd_is(&self, id: SessionId) -> bool {
        self.bfd.as_ref().is_some_and(|bfd| bfd.id == id)
    }
}

/// What a peer's routes come to over the connection that is there.
fn terms(one: &Session) -> PeerConfig {
    let address = one.session.config().address;
    let mut terms = PeerConfig { address, link: one.key.interface.clone(), ..one.peer.routes.clone() };
    let Some(local) = one.local else { return terms };
    let IpAddr::V6(own) = local else {
        terms.own_v4 = terms.own_v4.or(if let IpAddr::V4(own) = local { Some(own) } else { None });
        return terms;
    };
    terms.link = terms.link.or_else(|| tcp::link_of(local, address));
    if !own.is_unicast_link_local() {
        terms.own_v6 = terms.own_v6.or(Some(NextHop::V6(own, None)));
        return terms;
    }
    // Only what this end has on the link is sure to be reached there.
    let all = tcp::own();
    let is_there =
        |address: IpAddr| all.iter().any(|own| own.address == address && terms.link.as_ref() == Some(&own.link));
    let global = terms.own_v6.map(NextHop::address).filter(|own| is_there(*own));
    let takes_v6 = one.session.established().is_some_and(|(_, agreed)| agreed.context.extended_next_hop);
    let v4 = terms.own_v4.filter(|own| !takes_v6 && is_there((*own).into()));
    terms.own_v4 = v4;
    // Without a global address the link-local one goes twice, as other speakers do.
    terms.own_v6 = Some(NextHop::V6(if let Some(IpAddr::V6(global)) = global { global } else { own }, Some(own)));
    terms
}

/// BFD to a peer that is a neighbour on a link, or some hops away.
fn bfd_of(one: &Session, local: IpAddr, timers: Timers) -> SessionConfig {
    let address = one.session.config().address;
    let link = one.key.interface.clone().or_else(|| tcp::link_of(local, address));
    match link.and_then(|link| tcp::index(&link).ok()) {
        Some(interface) => SessionConfig::single_hop(interface, local, address, timers),
        None => SessionConfig::multihop(local, address, timers, LEAST_TTL),
    }
}
