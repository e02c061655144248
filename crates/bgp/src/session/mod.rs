//! A session with one peer (RFC 4271 section 8): who connects, what is agreed on, when it is dead.
//!
//! [`Session`] takes events and gives [`Action`]s; who owns it calls [`Session::tick`] at [`Session::deadline`]. A peer may have two
//! connections until it is known which of them is kept (section 6.8).
//!
//! Not here: sockets, and routes: what an UPDATE means is the table's.
//!
//! Invariants: at most one connection is established and [`Action::Up`] and [`Action::Down`] alternate; a connection that was
//! closed is never spoken of again; nobody is connected to before the pause after its last failure ends.

mod config;
mod connection;
mod hints;
mod negotiate;
#[cfg(test)]
mod tests;

use ripstop_types::Millis;

pub use config::{Config, ListenRange, Password, PeerAs, SocketOptions, dynamic_peer};
use connection::{Connection, Stage};
pub use negotiate::{Negotiated, Restart};

use crate::wire::{Cease, Families, Message, Notification, Refresh, Reset, Update, code};

/// A connection's number, never used again by its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u32);

/// What happened outside.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// A connection that was asked for is there.
    Connected(ConnectionId),
    /// It is not, and why.
    ConnectFailed(ConnectionId, &'a str),
    /// Bytes came.
    Bytes(ConnectionId, &'a [u8]),
    /// A connection ended, and why.
    Closed(ConnectionId, &'a str),
    /// The peer took bytes of what waits to be sent; whether more waits.
    Written(ConnectionId, bool),
    /// Bytes wait to be sent.
    Waiting(ConnectionId),
    /// BFD says that the peer is gone.
    BfdDown,
}

/// What is to be done outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Connect to the configured address, with the socket options of the configuration.
    Connect(ConnectionId),
    /// Send bytes.
    Send(ConnectionId, Vec<u8>),
    /// Close it, when what was to be sent is sent. The last word about every connection, also of one that did not come about.
    Close(ConnectionId),
    /// The session is there. Routes of families in `keep` that were kept stay until the peer has sent all; others go now.
    Up {
        /// What was agreed on.
        negotiated: Box<Negotiated>,
        /// Families of kept routes.
        keep: Families,
    },
    /// The session is gone; routes of families in `keep` are kept, as the peer will be back.
    Down {
        /// Why, for who configured it.
        reason: String,
        /// Families.
        keep: Families,
    },
    /// The peer did not come back, or did not send all its routes in time: what was kept goes.
    Expired,
    /// Routes.
    Update(Update),
    /// The peer wants its routes again, or says where they begin and end.
    Refresh(Refresh),
}

/// States as the RFC names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Nothing is tried: shut down, or a pause after a failure.
    Idle,
    /// It waits for the peer, or for the next try.
    Active,
    /// It connects.
    Connect,
    /// The own OPEN is on its way.
    OpenSent,
    /// Both OPENs are there.
    OpenConfirm,
    /// Routes are exchanged.
    Established,
}

/// First pause after a failure, and the longest; it doubles.
const PAUSE: u64 = 1_000;
const LONGEST_PAUSE: u64 = 60_000;

/// A session that lasted that long is no flap.
const STABLE: u64 = 60_000;

/// How long the peer has to say who it is.
const OPEN_HOLD: u64 = 240_000;

/// How long a peer that came back has to send all its routes.
const STALE: u64 = 360_000;

/// One peer's session.
#[derive(Debug)]
pub struct Session {
    config: Config,
    /// Shut down by an administrator or a limit.
    stopped: Option<String>,
    connections: Vec<Connection>,
    next_id: u32,
    /// This end does not connect before that.
    pause_until: Millis,
    /// Nor is the peer let in before that, which is sooner: ends that pause one as long as the other would never meet.
    accept_from: Millis,
    pause: u64,
    /// The next try to connect.
    retry_at: Option<Millis>,
    /// Since when the session is there.
    up_since: Option<Millis>,
    /// Routes of these are kept, until then.
    kept: Option<(Families, Millis)>,
    /// This speaker was away and forwarded on.
    restarted: bool,
    last_error: Option<String>,
    flaps: u32,
}

impl Session {
    /// A session that begins at `now`; `restarted` if this speaker was away, its kernel forwarded on, and the peer may have kept its
    /// routes.
    #[must_use]
    pub fn new(config: Config, now: Millis, restarted: bool) -> Self {
        Self {
            config,
            stopped: None,
            connections: Vec::new(),
            next_id: 0,
            pause_until: now,
            accept_from: now,
            pause: PAUSE,
            retry_at: Some(now),
            up_since: None,
            kept: None,
            restarted,
            last_error: None,
            flaps: 0,
        }
    }

    /// What it is configured as.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The state of the connection that got furthest.
    #[must_use]
    pub fn state(&self) -> State {
        match self.connections.iter().map(|one| one.stage.state()).max() {
            Some(state) => state,
            None if self.stopped.is_some() || self.retry_at.is_none_or(|at| at <= self.pause_until) => State::Idle,
            None => State::Active,
        }
    }

    /// The established connection and what was agreed on.
    #[must_use]
    pub fn established(&self) -> Option<(ConnectionId, &Negotiated)> {
        let one = self.connections.iter().find(|one| one.stage == Stage::Established)?;
        Some((one.id, one.negotiated.as_ref()?))
    }

    /// Why there was no session last, or is none.
    #[must_use]
    pub fn last_error(&self) -> Option<&str> {
        self.stopped.as_deref().or(self.last_error.as_deref())
    }

    /// How often a session ended.
    #[must_use]
    pub fn flaps(&self) -> u32 {
        self.flaps
    }

    /// All routes of this speaker are there again after it was away: the next OPEN no longer says that it was.
    pub fn restart_done(&mut self) {
        self.restarted = false;
    }

    /// When [`Session::tick`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Millis> {
        let connect = self.retry_at.filter(|_| self.wants_connection()).map(|at| at.max(self.pause_until));
        let timers = self.connections.iter().filter_map(Connection::deadline);
        timers.chain(connect).chain(self.kept.map(|(_, until)| until)).min()
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Millis) -> Vec<Action> {
        let mut out = Vec::new();
        if self.kept.is_some_and(|(_, until)| until <= now) {
            self.kept = None;
            out.push(Action::Expired);
        }
        for id in self.connections.iter().map(|one| one.id).collect::<Vec<_>>() {
            self.timers(now, id, &mut out);
        }
        let due = self.retry_at.is_some_and(|at| at.max(self.pause_until) <= now);
        if due && self.wants_connection() {
            let id = self.add(Stage::Connecting(now.plus(self.config.connect_retry.max(1_000))), true);
            self.retry_at = None;
            out.push(Action::Connect(id));
        }
        out
    }

    /// The peer connected; `None` if it may not now, and the connection is to be closed.
    pub fn accept(&mut self, now: Millis) -> Option<(ConnectionId, Vec<Action>)> {
        let mut out = Vec::new();
        let established = self.established().map(|(id, negotiated)| (id, negotiated.restart.is_some()));
        match established {
            // It restarted before its end was noticed (RFC 4724 section 4.2).
            Some((id, true)) => {
                let reason = "the peer connected again, so its last connection is dead".to_owned();
                self.end(now, id, None, reason, true, &mut out);
                self.accept_from = now;
            }
            Some((_, false)) => return None,
            None if self.stopped.is_some() || now < self.accept_from => return None,
            None => {}
        }
        // Who connects again has given its last connection up; of its end nothing may have come, as where its system died.
        if let Some(last) = self.connections.iter().find(|one| !one.outgoing).map(|one| one.id) {
            self.connections.retain(|one| one.id != last);
            out.push(Action::Close(last));
        }
        let id = self.add(Stage::OpenSent, false);
        self.greet(now, id, &mut out);
        Some((id, out))
    }

    /// Takes in an event.
    pub fn handle(&mut self, now: Millis, event: Event<'_>) -> Vec<Action> {
        let mut out = Vec::new();
        match event {
            Event::Connected(id) => {
                if let Some(one) = self.find(id).filter(|one| one.is_connecting()) {
                    one.stage = Stage::OpenSent;
                    self.greet(now, id, &mut out);
                }
            }
            Event::ConnectFailed(id, why) => {
                if self.find(id).is_some_and(|one| one.is_connecting()) {
                    self.unconnected(now, id, why, &mut out);
                }
            }
            Event::Bytes(id, bytes) => self.bytes(now, id, bytes, &mut out),
            Event::Closed(id, why) => {
                if let Some(one) = self.find(id) {
                    let before = one.negotiated.is_none();
                    let reason = hints::closed(&self.config, before, why);
                    self.end(now, id, None, reason, true, &mut out);
                }
            }
            Event::Written(id, more) => {
                if let Some(one) = self.find(id) {
                    one.written(now, more);
                }
            }
            Event::Waiting(id) => {
                if let Some(one) = self.find(id) {
                    one.waiting(now);
                }
            }
            Event::BfdDown => {
                if let Some((id, _)) = self.established() {
                    // Forwarding is what failed, so nothing is kept (RFC 5882 section 4.3.2).
                    let told = Notification::cease(Cease::BfdDown, "");
                    self.end(now, id, Some(told), "BFD says that the peer is gone".to_owned(), false, &mut out);
                }
            }
        }
        out
    }

    /// Ends the session until [`Session::start`]. Nothing is kept at either end.
    pub fn stop(&mut self, now: Millis, why: Cease, text: &str) -> Vec<Action> {
        let mut out = Vec::new();
        let told = Notification::cease(why, text);
        let reason = match (text, told.communication()) {
            ("", _) => told.to_string(),
            (_, Some(_)) => format!("{told}, by this end"),
            (text, None) => format!("{told}: {text}, by this end"),
        };
        self.stopped = Some(reason.clone());
        self.end_all(now, &told, &reason, &mut out);
        if self.kept.take().is_some() {
            out.push(Action::Expired);
        }
        out
    }

    /// Ends the established connection because the peer does not keep up; it is tried again after a pause.
    pub fn give_up(&mut self, now: Millis, reason: &str) -> Vec<Action> {
        let mut out = Vec::new();
        if let Some((id, _)) = self.established() {
            let told = Notification::cease(Cease::OutOfResources, "");
            self.end(now, id, Some(told), reason.to_owned(), false, &mut out);
        }
        out
    }

    /// Begins again after [`Session::stop`], without a pause.
    pub fn start(&mut self, now: Millis) {
        if self.stopped.take().is_some() {
            self.at_once(now);
        }
    }

    /// Takes another configuration; the session ends only where it must.
    pub fn configure(&mut self, now: Millis, config: Config) -> Vec<Action> {
        let mut out = Vec::new();
        if self.config.needs_reset(&config) {
            let told = Notification::cease(Cease::ConfigurationChange, "");
            self.end_all(now, &told, "the configuration changed", &mut out);
            self.at_once(now);
        }
        self.config = config;
        out
    }

    /// All routes of a family that was kept have come again: nothing of it is old any more.
    pub fn refreshed(&mut self, family: ripstop_types::Family) {
        if let Some((families, _)) = &mut self.kept {
            *families = Families::by(|one| one != family && families.has(one));
            if *families == Families::default() {
                self.kept = None;
            }
        }
    }

    /// No pause any more.
    fn at_once(&mut self, now: Millis) {
        (self.pause_until, self.accept_from, self.pause, self.retry_at) = (now, now, PAUSE, Some(now));
    }

    fn wants_connection(&self) -> bool {
        let may = self.stopped.is_none() && !self.config.passive && !self.config.address.is_unspecified();
        may && self.connections.is_empty()
    }

    fn add(&mut self, stage: Stage, outgoing: bool) -> ConnectionId {
        let id = ConnectionId(self.next_id);
        self.next_id += 1;
        self.connections.push(Connection::new(id, stage, outgoing));
        id
    }

    fn find(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.connections.iter_mut().find(|one| one.id == id)
    }

    /// Sends the OPEN.
    fn greet(&mut self, now: Millis, id: ConnectionId, out: &mut Vec<Action>) {
        let open = negotiate::open(&self.config, self.restarted);
        if let Some(one) = self.find(id) {
            one.hold_until = Some(now.plus(OPEN_HOLD));
            out.push(Action::Send(id, open.encode()));
        }
    }

    /// A connection did not come about.
    fn unconnected(&mut self, now: Millis, id: ConnectionId, why: &str, out: &mut Vec<Action>) {
        self.connections.retain(|one| one.id != id);
        self.last_error = Some(hints::unconnected(&self.config, why));
        self.retry_at = Some(now.plus(self.config.connect_retry));
        out.push(Action::Close(id));
    }

    fn timers(&mut self, now: Millis, id: ConnectionId, out: &mut Vec<Action>) {
        let hold = self.config.hold_time;
        let Some(one) = self.find(id) else { return };
        let due = |at: Option<Millis>| at.is_some_and(|at| at <= now);
        if let Stage::Connecting(until) = one.stage {
            if until <= now {
                self.unconnected(now, id, "timed out", out);
            }
            return;
        }
        if due(one.hold_until) {
            let seconds = one.negotiated.as_ref().map_or(hold, |agreed| agreed.hold_time);
            let reason = match one.negotiated {
                Some(_) => format!("nothing came from the peer for {seconds} s (hold time)"),
                None => format!("the peer did not say who it is for {} s", OPEN_HOLD / 1_000),
            };
            let told = Notification { code: code::HOLD_TIMER, subcode: 0, data: vec![] };
            return self.end(now, id, Some(told), reason, true, out);
        }
        if due(one.send_until) {
            // What is told may never leave: the peer does not read (RFC 9687).
            let told = Notification { code: code::SEND_HOLD_TIMER, subcode: 0, data: vec![] };
            let reason = "the peer has taken nothing for the send hold time: it does not read".to_owned();
            return self.end(now, id, Some(told), reason, true, out);
        }
        if due(one.keepalive_at) {
            one.keep_alive(now);
            out.push(Action::Send(id, crate::wire::keepalive()));
        }
    }

    fn bytes(&mut self, now: Millis, id: ConnectionId, bytes: &[u8], out: &mut Vec<Action>) {
        match self.find(id) {
            Some(one) if !matches!(one.stage, Stage::Connecting(_)) => one.buffer.extend_from_slice(bytes),
            _ => return,
        }
        // Messages before this place were taken in.
        let mut place = 0;
        while let Some(one) = self.find(id) {
            match one.message(&mut place) {
                Ok(Some(message)) => self.message(now, id, message, out),
                Ok(None) => {
                    one.buffer.drain(..place);
                    return;
                }
                Err(Reset { notification, reason }) => return self.end(now, id, Some(notification), reason, true, out),
            }
        }
    }

    fn message(&mut self, now: Millis, id: ConnectionId, message: Message, out: &mut Vec<Action>) {
        let Some(one) = self.find(id) else { return };
        let stage = one.stage;
        if stage != Stage::OpenSent {
            one.heard(now);
        }
        match (stage, message) {
            (_, Message::Notification(told)) => self.told(now, id, &told, out),
            (Stage::OpenSent, Message::Open(open)) => match negotiate::negotiate(&self.config, &open) {
                Ok(agreed) => self.agreed(now, id, agreed, out),
                Err(Reset { notification, reason }) => self.end(now, id, Some(notification), reason, false, out),
            },
            (Stage::OpenConfirm, Message::Keepalive) => self.up(now, id, out),
            (Stage::Established, Message::Keepalive) | (Stage::Established, Message::RouteRefresh(None)) => {}
            (Stage::Established, Message::Update(update)) => out.push(Action::Update(update)),
            (Stage::Established, Message::RouteRefresh(Some(refresh))) => out.push(Action::Refresh(refresh)),
            (stage, message) => {
                let (subcode, state) = match stage {
                    Stage::OpenConfirm => (2, "OpenConfirm"),
                    Stage::Established => (3, "Established"),
                    _ => (1, "OpenSent"),
                };
                let what = match message {
                    Message::Open(_) => "an OPEN",
                    Message::Update(_) => "an UPDATE",
                    Message::RouteRefresh(_) => "a ROUTE-REFRESH",
                    _ => "a KEEPALIVE",
                };
                let told = Notification { code: code::FSM, subcode, data: vec![] };
                self.end(now, id, Some(told), format!("the peer sent {what} in state {state}"), false, out);
            }
        }
    }

    /// The peer ended it with a notification.
    fn told(&mut self, now: Millis, id: ConnectionId, told: &Notification, out: &mut Vec<Action>) {
        let collision = told.code == code::CEASE && told.subcode == Cease::ConnectionCollision as u8;
        let keeps = self.established().is_some_and(|(_, agreed)| agreed.restart.is_some_and(|one| one.notification));
        let reason = hints::told(&self.config, told);
        self.end(now, id, None, reason, keeps && !told.is_hard(), out);
        if collision && self.connections.is_empty() {
            (self.pause_until, self.accept_from) = (now, now);
        }
    }

    /// The peer's OPEN is acceptable: of two connections one is kept (section 6.8).
    fn agreed(&mut self, now: Millis, id: ConnectionId, agreed: Negotiated, out: &mut Vec<Action>) {
        let other = self.connections.iter().find(|one| one.id != id && matches!(one.stage, Stage::OpenConfirm));
        if let Some(other) = other.map(|one| one.id) {
            // Of two speakers with one id, which external ones may have, the AS decides (RFC 6286).
            let own = (self.config.router_id, self.config.local_as);
            let own_is_kept = own > (agreed.peer_id, agreed.peer_as);
            let this_is_own = self.find(id).is_some_and(|one| one.outgoing);
            let loser = if own_is_kept == this_is_own { other } else { id };
            let told = Notification::cease(Cease::ConnectionCollision, "");
            self.connections.retain(|one| one.id != loser);
            out.extend([Action::Send(loser, told.encode()), Action::Close(loser)]);
            if loser == id {
                return;
            }
        }
        if let Some(one) = self.find(id) {
            one.agree(now, agreed);
            out.push(Action::Send(id, crate::wire::keepalive()));
        }
    }

    fn up(&mut self, now: Millis, id: ConnectionId, out: &mut Vec<Action>) {
        for other in self.connections.extract_if(.., |one| one.id != id) {
            if !matches!(other.stage, Stage::Connecting(_)) {
                out.push(Action::Send(other.id, Notification::cease(Cease::ConnectionCollision, "").encode()));
            }
            out.push(Action::Close(other.id));
        }
        let Some(one) = self.find(id) else { return };
        one.stage = Stage::Established;
        let Some(negotiated) = one.negotiated.clone() else { return };
        let forwarding = negotiated.restart.map_or(Families::default(), |restart| restart.forwarding);
        let kept = self.kept.take().map_or(Families::default(), |(families, _)| families);
        let keep = Families::by(|family| kept.has(family) && forwarding.has(family));
        if keep != Families::default() {
            self.kept = Some((keep, now.plus(STALE)));
        }
        (self.up_since, self.last_error, self.retry_at) = (Some(now), None, None);
        out.push(Action::Up { negotiated: Box::new(negotiated), keep });
    }

    fn end_all(&mut self, now: Millis, told: &Notification, reason: &str, out: &mut Vec<Action>) {
        for id in self.connections.iter().map(|one| one.id).collect::<Vec<_>>() {
            self.end(now, id, Some(told.clone()), reason.to_owned(), false, out);
        }
    }

    /// Ends a connection, and the session if it was that one's. `keeps` if graceful restart may bridge this end.
    fn end(
        &mut self,
        now: Millis,
        id: ConnectionId,
        told: Option<Notification>,
        reason: String,
        keeps: bool,
        out: &mut Vec<Action>,
    ) {
        let Some(place) = self.connections.iter().position(|one| one.id == id) else { return };
        let one = self.connections.remove(place);
        let restart = one.negotiated.as_ref().and_then(|agreed| agreed.restart);
        // Over a notification routes are kept only where both ends said so (RFC 8538).
        let keeps = keeps && (told.is_none() || restart.is_some_and(|one| one.notification));
        if let Some(told) = told.filter(|_| !matches!(one.stage, Stage::Connecting(_))) {
            // Who agreed to keep routes over notifications must be told if it must not (RFC 8538).
            let hard = !keeps && restart.is_some_and(|one| one.notification) && told.code == code::CEASE;
            out.push(Action::Send(id, if hard { told.hard() } else { told }.encode()));
        }
        out.push(Action::Close(id));
        self.last_error = Some(reason.clone());
        if one.stage == Stage::Established {
            let keep = restart.filter(|_| keeps).map_or(Families::default(), |one| one.families);
            self.kept = restart
                .filter(|_| keep != Families::default())
                .map(|one| (keep, now.plus(u64::from(one.seconds) * 1_000)));
            if self.up_since.take().is_some_and(|since| now.since(since) >= STABLE) {
                self.pause = PAUSE;
            }
            self.flaps += 1;
            out.push(Action::Down { reason, keep });
        }
        if self.connections.is_empty() {
            self.pause_until = now.plus(self.pause);
            self.accept_from = now.plus(PAUSE);
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            self.retry_at = Some(self.pause_until);
        }
    }
}
