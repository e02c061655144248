//! One session: its state, its timers and what it sends (RFC 5880, sections 6.5 to 6.8).

use std::time::Duration;

use crate::config::{SessionConfig, Timers};
use crate::packet::{LENGTH, Packet};
use crate::random::Random;
use crate::{Diagnostic, SessionId, State};

/// The shortest interval while a session is not up.
const SLOW: Duration = Duration::from_secs(1);

/// Sessions that are made at once send their first packets within this time.
const SPREAD: Duration = Duration::from_millis(100);

/// What is known of the peer.
#[derive(Debug, Clone, Copy)]
struct Remote {
    discriminator: u32,
    state: State,
    desired_min_tx: Duration,
    required_min_rx: Duration,
    multiplier: u8,
    demand: bool,
    heard: Option<Duration>,
}

/// What holds of a peer that was not heard.
const UNHEARD: Remote = Remote {
    discriminator: 0,
    state: State::Down,
    desired_min_tx: Duration::ZERO,
    required_min_rx: Duration::from_micros(1),
    multiplier: 0,
    demand: false,
    heard: None,
};

/// A poll: the peer is asked to say that it knows this system's timers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Poll {
    Idle,
    /// Every packet asks, until one answers. With `again`, timers have changed since the first one.
    Asks {
        again: bool,
    },
    /// One packet that does not ask goes before the next poll, so that a late answer is not taken for the new one's.
    Pauses,
}

/// What a session looks like from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// Its state.
    pub state: State,
    /// Since when.
    pub since: Duration,
    /// Why, as this system sees it.
    pub diagnostic: Diagnostic,
    /// The state that the peer told last.
    pub remote: State,
    /// The peer's discriminator; zero if not known.
    pub remote_discriminator: u32,
    /// The peer asks to be sent nothing while the session is up.
    pub remote_demand: bool,
    /// The interval at which packets go, before jitter.
    pub interval: Duration,
    /// For how long nothing may be heard; zero before the peer was heard.
    pub detection: Duration,
    /// Packets sent.
    pub sent: u64,
    /// Packets heeded.
    pub received: u64,
}

/// What a session wants after an event.
#[derive(Debug, Default)]
pub struct Wishes {
    /// Packets to send, in order.
    pub packets: Vec<[u8; LENGTH]>,
    /// It changed its state.
    pub changed: bool,
}

#[derive(Debug)]
pub struct Session {
    pub config: SessionConfig,
    pub source_port: u16,
    id: SessionId,
    state: State,
    since: Duration,
    diagnostic: Diagnostic,
    remote: Remote,
    poll: Poll,
    /// What the peer may rely on while it was not told otherwise.
    tx_in_force: Duration,
    rx_in_force: Duration,
    last_sent: Option<Duration>,
    next: Duration,
    random: Random,
    sent: u64,
    received: u64,
}

impl Session {
    pub fn new(now: Duration, id: SessionId, source_port: u16, config: SessionConfig, mut random: Random) -> Self {
        let first = Duration::from_micros(random.below(micros(SPREAD).into()));
        Self {
            id,
            source_port,
            state: State::Down,
            since: now,
            diagnostic: Diagnostic::NONE,
            remote: UNHEARD,
            poll: Poll::Idle,
            tx_in_force: config.timers.desired_min_tx.max(SLOW),
            rx_in_force: config.timers.required_min_rx,
            last_sent: None,
            next: now + first,
            random,
            sent: 0,
            received: 0,
            config,
        }
    }

    pub fn view(&self) -> View {
        View {
            state: self.state,
            since: self.since,
            diagnostic: self.diagnostic,
            remote: self.remote.state,
            remote_discriminator: self.remote.discriminator,
            remote_demand: self.remote.demand,
            interval: self.interval(),
            detection: self.detection(),
            sent: self.sent,
            received: self.received,
        }
    }

    /// When time means something to it next.
    pub fn due(&self) -> Option<Duration> {
        let sends = self.sends_periodically().then_some(self.next);
        let expires = self.remote.heard.map(|heard| heard + self.detection());
        sends.into_iter().chain(expires).min()
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Duration) -> Wishes {
        let mut wishes = Wishes::default();
        if self.remote.heard.is_some_and(|heard| heard + self.detection() <= now) {
            self.remote = UNHEARD;
            if matches!(self.state, State::Init | State::Up) {
                self.enter(now, State::Down, Diagnostic::DETECTION_TIME_EXPIRED, &mut wishes);
                return wishes;
            }
            self.reckon(now);
        }
        if self.sends_periodically() && self.next <= now {
            self.send(now, false, &mut wishes);
        }
        wishes
    }

    /// A packet that is this session's has come. False if the session is held down, and so heeded only its timers.
    pub fn take(&mut self, now: Duration, packet: &Packet, wishes: &mut Wishes) -> bool {
        let before = self.interval();
        self.remote = Remote {
            discriminator: packet.mine,
            state: packet.state,
            desired_min_tx: Duration::from_micros(packet.desired_min_tx.into()),
            required_min_rx: Duration::from_micros(packet.required_min_rx.into()),
            multiplier: packet.multiplier,
            demand: packet.demand,
            heard: Some(now),
        };
        if packet.last {
            self.poll_ended();
        }
        if self.state == State::AdminDown {
            return false;
        }
        self.received += 1;
        let signaled = Diagnostic::NEIGHBOR_SIGNALED_DOWN;
        let enters = match (self.state, packet.state) {
            (State::Init | State::Up, State::AdminDown) | (State::Up, State::Down) => Some((State::Down, signaled)),
            (State::Down, State::Down) => Some((State::Init, Diagnostic::NONE)),
            (State::Down, State::Init) | (State::Init, State::Init | State::Up) => Some((State::Up, Diagnostic::NONE)),
            _ => None,
        };
        if let Some((state, diagnostic)) = enters {
            self.set(now, state, diagnostic, wishes);
            if !packet.poll && self.may_send() {
                self.send(now, false, wishes);
            }
        }
        if packet.poll {
            self.send(now, true, wishes);
        }
        if self.interval() != before {
            self.reckon(now);
        }
        true
    }

    /// Other timers, told to the peer by a poll while the session is up.
    pub fn set_timers(&mut self, now: Duration, timers: Timers, wishes: &mut Wishes) {
        if self.config.timers == timers {
            return;
        }
        self.config.timers = timers;
        if self.state == State::Up {
            self.announce_timers();
        } else {
            self.in_force();
        }
        if self.may_send() {
            self.send(now, false, wishes);
        }
    }

    /// An administrator holds the session down, or lets it go.
    pub fn set_admin_down(&mut self, now: Duration, down: bool, wishes: &mut Wishes) {
        match (down, self.state) {
            (true, State::AdminDown) => {}
            (true, _) => self.enter(now, State::AdminDown, Diagnostic::ADMINISTRATIVELY_DOWN, wishes),
            (false, State::AdminDown) => self.enter(now, State::Down, Diagnostic::NONE, wishes),
            (false, _) => {}
        }
    }

    /// The way is known to be down.
    pub fn path_down(&mut self, now: Duration, wishes: &mut Wishes) {
        if matches!(self.state, State::Init | State::Up) {
            self.enter(now, State::Down, Diagnostic::PATH_DOWN, wishes);
        }
    }

    /// Changes the state and tells the peer at once.
    fn enter(&mut self, now: Duration, state: State, diagnostic: Diagnostic, wishes: &mut Wishes) {
        self.set(now, state, diagnostic, wishes);
        if self.may_send() {
            self.send(now, false, wishes);
        }
    }

    fn set(&mut self, now: Duration, state: State, diagnostic: Diagnostic, wishes: &mut Wishes) {
        (self.state, self.diagnostic, self.since) = (state, diagnostic, now);
        wishes.changed = true;
        self.poll = Poll::Idle;
        if state == State::Up {
            self.announce_timers();
        } else {
            self.in_force();
        }
    }

    /// What is wished holds.
    fn in_force(&mut self) {
        self.tx_in_force = self.desired();
        self.rx_in_force = self.config.timers.required_min_rx;
    }

    /// Timers changed while the session is up: what the peer might not bear holds when it has answered.
    fn announce_timers(&mut self) {
        self.tx_in_force = self.tx_in_force.min(self.desired());
        self.rx_in_force = self.rx_in_force.max(self.config.timers.required_min_rx);
        self.poll = match self.poll {
            Poll::Idle => Poll::Asks { again: false },
            Poll::Asks { .. } => Poll::Asks { again: true },
            Poll::Pauses => Poll::Pauses,
        };
    }

    fn poll_ended(&mut self) {
        match self.poll {
            Poll::Asks { again: true } => self.poll = Poll::Pauses,
            Poll::Asks { again: false } => {
                self.poll = Poll::Idle;
                self.in_force();
            }
            Poll::Idle | Poll::Pauses => {}
        }
    }

    /// The interval that is told: never a fast one before the session is up.
    fn desired(&self) -> Duration {
        let desired = self.config.timers.desired_min_tx;
        if self.state == State::Up { desired } else { desired.max(SLOW) }
    }

    fn interval(&self) -> Duration {
        self.tx_in_force.max(self.remote.required_min_rx)
    }

    fn detection(&self) -> Duration {
        self.rx_in_force.max(self.remote.desired_min_tx) * u32::from(self.remote.multiplier)
    }

    /// Whether the peer may be sent anything without having asked.
    fn may_send(&self) -> bool {
        let waits = self.config.passive && self.remote.discriminator == 0;
        !waits && !self.remote.required_min_rx.is_zero()
    }

    fn sends_periodically(&self) -> bool {
        let unwanted = self.remote.demand && self.state == State::Up && self.remote.state == State::Up;
        self.may_send() && (!unwanted || self.poll != Poll::Idle)
    }

    /// The interval has changed: the next packet goes by the new one.
    fn reckon(&mut self, now: Duration) {
        if let Some(last) = self.last_sent {
            self.next = (last + self.jittered()).max(now);
        }
    }

    /// The interval less up to a quarter; with a multiplier of one less a tenth at least, so that the next comes in time.
    fn jittered(&mut self) -> Duration {
        let (least, most) = if self.config.timers.multiplier == 1 { (750, 900) } else { (750, 1000) };
        let part = u32::try_from(least + self.random.below(most - least)).unwrap_or(750);
        self.interval() * part / 1000
    }

    fn send(&mut self, now: Duration, answer: bool, wishes: &mut Wishes) {
        let packet = Packet {
            diagnostic: self.diagnostic,
            state: self.state,
            // Never both.
            poll: !answer && matches!(self.poll, Poll::Asks { .. }),
            last: answer,
            independent: false,
            authentication: false,
            demand: false,
            multiplier: self.config.timers.multiplier,
            mine: self.id.0,
            yours: self.remote.discriminator,
            desired_min_tx: micros(self.desired()),
            required_min_rx: micros(self.config.timers.required_min_rx),
            required_min_echo_rx: 0,
        };
        wishes.packets.push(packet.bytes());
        self.sent += 1;
        if answer && !wishes.changed {
            // Answers go beside the pace.
            return;
        }
        if self.poll == Poll::Pauses {
            self.poll = Poll::Asks { again: false };
        }
        self.last_sent = Some(now);
        self.next = now + self.jittered();
    }
}

/// Microseconds as a packet tells them.
fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}
