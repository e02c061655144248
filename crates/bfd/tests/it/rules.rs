//! The rules of reception of RFC 5880, section 6.8.6, with those of RFC 5881 and 5883, one by one, and the state machine of
//! section 6.8.6 whole.

use std::net::IpAddr;
use std::time::Duration;

use ripstop_bfd::packet::Packet;
use ripstop_bfd::{Action, Arrival, Diagnostic, Discard, Engine, SessionConfig, SessionId, State, Timers};

const TIMERS: Timers =
    Timers { desired_min_tx: Duration::from_millis(50), required_min_rx: Duration::from_millis(50), multiplier: 3 };

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A system with one session of each kind.
pub struct System {
    pub engine: Engine,
    pub id: SessionId,
    pub far: SessionId,
    pub now: Duration,
}

impl System {
    pub fn new() -> Self {
        let (mut engine, now) = (Engine::new(7), Duration::from_secs(100));
        let id = engine.add(now, SessionConfig::single_hop(4, ip("192.0.2.1"), ip("192.0.2.2"), TIMERS)).unwrap();
        let far = SessionConfig::multihop(ip("192.0.2.1"), ip("198.51.100.9"), TIMERS, 250);
        let far = engine.add(now, far).unwrap();
        Self { engine, id, far, now }
    }

    /// What the neighbour says, in the state that is asked for.
    pub fn packet(&self, state: State) -> Packet {
        Packet {
            diagnostic: Diagnostic::NONE,
            state,
            poll: false,
            last: false,
            independent: false,
            authentication: false,
            demand: false,
            multiplier: 3,
            mine: 77,
            yours: if state == State::Down { 0 } else { self.id.0 },
            desired_min_tx: 1_000_000,
            required_min_rx: 50_000,
            required_min_echo_rx: 0,
        }
    }

    pub fn hear(&mut self, packet: &Packet) -> Vec<Action> {
        self.engine.received(self.now, &near(), &packet.bytes())
    }

    pub fn state(&self) -> State {
        self.engine.view(self.id).unwrap().state
    }

    /// Brings the session into a state, as a peer would.
    pub fn bring(&mut self, state: State) {
        match state {
            State::Down => {}
            State::AdminDown => drop(self.engine.set_admin_down(self.now, self.id, true)),
            State::Init => drop(self.hear(&self.packet(State::Down))),
            State::Up => drop(self.hear(&self.packet(State::Init))),
        }
        assert_eq!(self.state(), state);
    }
}

/// How a packet of the neighbour comes.
pub fn near() -> Arrival {
    Arrival { multihop: false, interface: 4, source: ip("192.0.2.2"), destination: ip("192.0.2.1"), ttl: 255 }
}

fn far() -> Arrival {
    Arrival { multihop: true, interface: 9, source: ip("198.51.100.9"), destination: ip("192.0.2.1"), ttl: 251 }
}

/// Packets sent by actions.
pub fn sent(actions: &[Action]) -> Vec<Packet> {
    let bytes = actions.iter().filter_map(|action| match action {
        Action::Send { bytes, .. } => Some(Packet::read(bytes).unwrap()),
        Action::Changed { .. } => None,
    });
    bytes.collect()
}

type Change = fn(&System, &mut Arrival, &mut Vec<u8>);

/// What is changed of a good packet in state Init, and why it must not be heeded then.
const DISCARDED: &[(&str, Change, Discard)] = &[
    ("TTL 254 on a link", |_, arrival, _| arrival.ttl = 254, Discard::Ttl),
    ("TTL 0", |_, arrival, _| arrival.ttl = 0, Discard::Ttl),
    ("TTL 254 and no packet at all", |_, arrival, bytes| (arrival.ttl, *bytes) = (254, Vec::new()), Discard::Ttl),
    ("nothing", |_, _, bytes| bytes.clear(), Discard::Short),
    ("23 bytes", |_, _, bytes| bytes.truncate(23), Discard::Short),
    ("version 0", |_, _, bytes| bytes[0] = 0, Discard::Version),
    ("version 2", |_, _, bytes| bytes[0] = 0x40, Discard::Version),
    ("length 23", |_, _, bytes| bytes[3] = 23, Discard::LengthTooSmall),
    ("length 0", |_, _, bytes| bytes[3] = 0, Discard::LengthTooSmall),
    ("length 25 with authentication", |_, _, bytes| (bytes[1], bytes[3]) = (bytes[1] | 4, 25), Discard::LengthTooSmall),
    ("length 25 of 24 bytes", |_, _, bytes| bytes[3] = 25, Discard::LengthTooLarge),
    ("length 255", |_, _, bytes| bytes[3] = 255, Discard::LengthTooLarge),
    ("multiplier 0", |_, _, bytes| bytes[2] = 0, Discard::ZeroMultiplier),
    ("multipoint", |_, _, bytes| bytes[1] |= 1, Discard::Multipoint),
    ("my discriminator 0", |_, _, bytes| bytes[4..8].fill(0), Discard::ZeroDiscriminator),
    ("an unknown discriminator", |_, _, bytes| bytes[8] ^= 1, Discard::UnknownDiscriminator),
    ("state Init without discriminator", |_, _, bytes| bytes[8..12].fill(0), Discard::StateWithoutDiscriminator),
    (
        "state Up without discriminator",
        |_, _, bytes| {
            bytes[1] = 0xc0;
            bytes[8..12].fill(0);
        },
        Discard::StateWithoutDiscriminator,
    ),
    (
        "state Down of a stranger",
        |_, arrival, bytes| {
            arrival.source = ip("192.0.2.3");
            bytes[1] = 0x40;
            bytes[8..12].fill(0);
        },
        Discard::NoSession,
    ),
    (
        "state Down on another interface",
        |_, arrival, bytes| {
            arrival.interface = 5;
            bytes[1] = 0x40;
            bytes[8..12].fill(0);
        },
        Discard::NoSession,
    ),
    ("a stranger that knows the discriminator", |_, arrival, _| arrival.source = ip("192.0.2.3"), Discard::WrongPath),
    ("another interface", |_, arrival, _| arrival.interface = 5, Discard::WrongPath),
    ("the port of multihop sessions", |_, arrival, _| arrival.multihop = true, Discard::WrongPath),
    (
        "the discriminator of another session",
        |system, _, bytes| bytes[8..12].copy_from_slice(&system.far.0.to_be_bytes()),
        Discard::WrongPath,
    ),
    (
        "a multihop packet over too many hops",
        |system, arrival, bytes| {
            *arrival = Arrival { ttl: 249, ..far() };
            bytes[8..12].copy_from_slice(&system.far.0.to_be_bytes());
        },
        Discard::Ttl,
    ),
    (
        "a multihop packet to another address",
        |system, arrival, bytes| {
            *arrival = Arrival { destination: ip("192.0.2.99"), ..far() };
            bytes[8..12].copy_from_slice(&system.far.0.to_be_bytes());
        },
        Discard::WrongPath,
    ),
    (
        "authentication",
        |_, _, bytes| {
            (bytes[1], bytes[3]) = (bytes[1] | 4, 26);
            bytes.extend([1, 2]);
        },
        Discard::Authentication,
    ),
];

#[test]
fn what_a_rule_discards_changes_nothing_and_is_counted_by_its_name() {
    for (what, change, reason) in DISCARDED {
        let mut system = System::new();
        let mut arrival = near();
        let mut bytes = system.packet(State::Init).bytes().to_vec();
        change(&system, &mut arrival, &mut bytes);
        let before = system.engine.view(system.id);
        let actions = system.engine.received(system.now, &arrival, &bytes);
        assert_eq!(actions, [], "{what}");
        assert_eq!(system.engine.view(system.id), before, "{what}");
        let counted: Vec<_> = system.engine.discards().iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [(*reason, 1)], "{what}");
    }
    let covered = |reason: &Discard| DISCARDED.iter().any(|(_, _, of)| of == reason) || *reason == Discard::AdminDown;
    assert!(Discard::ALL.iter().all(covered), "every reason has a case");
}

#[test]
fn the_same_packet_unchanged_is_heeded() {
    let mut system = System::new();
    system.hear(&system.packet(State::Init));
    assert_eq!((system.state(), system.engine.discards().total()), (State::Up, 0));
    let packet = Packet { yours: system.far.0, ..system.packet(State::Init) };
    system.engine.received(system.now, &far(), &packet.bytes());
    assert_eq!(system.engine.view(system.far).unwrap().state, State::Up);
}

/// Bytes behind the packet's own length belong to nobody.
#[test]
fn a_longer_datagram_is_read_to_the_packets_end() {
    let mut system = System::new();
    let mut bytes = system.packet(State::Init).bytes().to_vec();
    bytes.extend([0xff; 40]);
    system.engine.received(system.now, &near(), &bytes);
    assert_eq!(system.state(), State::Up);
}

#[test]
fn names_of_reasons_differ() {
    let names: std::collections::BTreeSet<_> = Discard::ALL.iter().map(|reason| reason.name()).collect();
    assert_eq!(names.len(), Discard::ALL.len());
}

/// Local state, the peer's, the state after it and the diagnostic.
const MACHINE: &[(State, State, State, u8)] = &[
    (State::Down, State::AdminDown, State::Down, 0),
    (State::Down, State::Down, State::Init, 0),
    (State::Down, State::Init, State::Up, 0),
    (State::Down, State::Up, State::Down, 0),
    (State::Init, State::AdminDown, State::Down, 3),
    (State::Init, State::Down, State::Init, 0),
    (State::Init, State::Init, State::Up, 0),
    (State::Init, State::Up, State::Up, 0),
    (State::Up, State::AdminDown, State::Down, 3),
    (State::Up, State::Down, State::Down, 3),
    (State::Up, State::Init, State::Up, 0),
    (State::Up, State::Up, State::Up, 0),
    (State::AdminDown, State::AdminDown, State::AdminDown, 7),
    (State::AdminDown, State::Down, State::AdminDown, 7),
    (State::AdminDown, State::Init, State::AdminDown, 7),
    (State::AdminDown, State::Up, State::AdminDown, 7),
];

#[test]
fn every_state_hears_every_state() {
    assert_eq!(MACHINE.len(), 16);
    for (local, remote, after, diagnostic) in MACHINE {
        let mut system = System::new();
        system.bring(*local);
        let packet = system.packet(*remote);
        let actions = system.hear(&packet);
        let what = format!("{local} hears {remote}");
        let view = system.engine.view(system.id).unwrap();
        assert_eq!((view.state, view.diagnostic.0, view.remote), (*after, *diagnostic, *remote), "{what}");
        // A change is told at once, to the peer and to who asked for the session.
        let changed = actions.iter().any(|action| matches!(action, Action::Changed { .. }));
        assert_eq!(changed, local != after, "{what}");
        let states: Vec<State> = sent(&actions).iter().map(|packet| packet.state).collect();
        assert_eq!(states, if local == after { vec![] } else { vec![*after] }, "{what}");
        let discards = u64::from(*local == State::AdminDown);
        assert_eq!(system.engine.discards().of(Discard::AdminDown), discards, "{what}");
    }
}

#[test]
fn a_poll_is_answered_at_once_and_never_by_a_poll() {
    for state in [State::Down, State::Init, State::Up] {
        let mut system = System::new();
        system.bring(state);
        let packet = Packet { poll: true, ..system.packet(State::Init) };
        let answers = sent(&system.hear(&packet));
        let [answer] = answers[..] else { panic!("{answers:?}") };
        assert!(answer.last && !answer.poll, "{answer:?}");
        assert_eq!((answer.yours, answer.state), (77, State::Up));
    }
}

#[test]
fn a_session_held_down_answers_no_poll_and_says_so_until_it_is_let_go() {
    let mut system = System::new();
    system.bring(State::Up);
    let told = sent(&system.engine.set_admin_down(system.now, system.id, true));
    assert_eq!((told[0].state, told[0].diagnostic), (State::AdminDown, Diagnostic::ADMINISTRATIVELY_DOWN));
    assert!(told[0].desired_min_tx >= 1_000_000);
    let packet = Packet { poll: true, ..system.packet(State::Up) };
    assert_eq!(system.hear(&packet), []);
    system.now += Duration::from_secs(1);
    let again = sent(&system.engine.tick(system.now));
    assert!(again.iter().any(|packet| packet.state == State::AdminDown), "{again:?}");
    let free = sent(&system.engine.set_admin_down(system.now, system.id, false));
    assert_eq!((free[0].state, free[0].diagnostic), (State::Down, Diagnostic::NONE));
    assert_eq!(system.engine.set_admin_down(system.now, system.id, false), []);
}

#[test]
fn a_session_given_up_says_so_and_is_gone() {
    let mut system = System::new();
    system.bring(State::Up);
    let told = sent(&system.engine.remove(system.now, system.id));
    assert_eq!(told[0].state, State::AdminDown);
    assert_eq!(system.engine.view(system.id), None);
    let packet = system.packet(State::Up);
    system.hear(&packet);
    assert_eq!(system.engine.discards().of(Discard::UnknownDiscriminator), 1);
}

#[test]
fn what_cannot_be_a_session_is_refused_by_field() {
    let timers = |tx: u64, rx: u64, multiplier| Timers {
        desired_min_tx: Duration::from_millis(tx),
        required_min_rx: Duration::from_millis(rx),
        multiplier,
    };
    let (a, b) = (ip("192.0.2.1"), ip("192.0.2.7"));
    let session = |timers| SessionConfig::single_hop(4, a, b, timers);
    let cases = [
        (session(timers(9, 50, 3)), "BFD session with 192.0.2.7: desiredMinTx is 9ms: accepted is 10 ms to 60 s"),
        (session(timers(50, 0, 3)), "BFD session with 192.0.2.7: requiredMinRx is 0ns: accepted is 10 ms to 60 s"),
        (
            session(timers(60_001, 50, 3)),
            "BFD session with 192.0.2.7: desiredMinTx is 60.001s: accepted is 10 ms to 60 s",
        ),
        (session(timers(50, 50, 0)), "BFD session with 192.0.2.7: multiplier is 0: accepted is 1 to 255"),
        (
            SessionConfig::single_hop(0, a, b, TIMERS),
            "BFD session with 192.0.2.7: interface is 0: accepted is the index of an interface",
        ),
        (
            SessionConfig::single_hop(4, ip("2001:db8::1"), b, TIMERS),
            "BFD session with 192.0.2.7: local is 2001:db8::1: accepted is an address of the same family",
        ),
        (
            SessionConfig::single_hop(4, a, ip("224.0.0.1"), TIMERS),
            "BFD session with 224.0.0.1: peer is 224.0.0.1: accepted is a unicast address",
        ),
        (
            SessionConfig::single_hop(4, a, ip("192.0.2.2"), TIMERS),
            "BFD session with 192.0.2.2: there is one on this path already",
        ),
    ];
    for (config, words) in cases {
        let mut system = System::new();
        let fault = system.engine.add(system.now, config).unwrap_err();
        assert_eq!(fault.to_string(), words);
        assert_eq!(system.engine.views().count(), 2);
    }
}
