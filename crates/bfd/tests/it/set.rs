//! Thousands of sessions: one queue, and each session as punctual as if it were alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ripstop_bfd::packet::Packet;
use ripstop_bfd::{Action, Arrival, Engine, SessionConfig, State, Timers};

const MS: Duration = Duration::from_millis(1);

fn address(n: u32) -> IpAddr {
    Ipv4Addr::from(0x0a00_0000 + n).into()
}

/// Two systems with this many sessions between them.
struct Pair {
    engines: [Engine; 2],
    now: Duration,
    /// Looks at the queue.
    ticks: u64,
    sent: u64,
    falls: u64,
}

impl Pair {
    fn new(sessions: u32, timers: Timers) -> Self {
        let mut engines = [Engine::new(1), Engine::new(2)];
        for n in 0..sessions {
            let (a, b) = (address(2 * n), address(2 * n + 1));
            engines[0].add(Duration::ZERO, SessionConfig::single_hop(1, a, b, timers)).unwrap();
            engines[1].add(Duration::ZERO, SessionConfig::single_hop(1, b, a, timers)).unwrap();
        }
        Self { engines, now: Duration::ZERO, ticks: 0, sent: 0, falls: 0 }
    }

    fn run(&mut self, until: Duration, lost: impl Fn(IpAddr) -> bool) {
        while let Some(due) = self.engines.iter().filter_map(Engine::due).min().filter(|due| *due <= until) {
            self.now = self.now.max(due);
            for side in 0..2 {
                let actions = self.engines[side].tick(self.now);
                self.ticks += 1;
                self.carry(side, actions, &lost);
            }
        }
    }

    fn carry(&mut self, side: usize, actions: Vec<Action>, lost: &impl Fn(IpAddr) -> bool) {
        for action in actions {
            match action {
                Action::Send { from, to, bytes, .. } => {
                    self.sent += 1;
                    if lost(from) || lost(to.ip()) {
                        continue;
                    }
                    let arrival =
                        Arrival { multihop: false, interface: 1, source: from, destination: to.ip(), ttl: 255 };
                    let answers = self.engines[1 - side].received(self.now, &arrival, &bytes);
                    self.carry(1 - side, answers, lost);
                }
                Action::Changed { state: State::Down, .. } => self.falls += 1,
                Action::Changed { .. } => {}
            }
        }
    }

    fn up(&self) -> usize {
        let up = |engine: &Engine| engine.views().filter(|(_, _, view)| view.state == State::Up).count();
        up(&self.engines[0]).min(up(&self.engines[1]))
    }
}

#[test]
fn five_thousand_sessions_come_up_and_keep_their_pace() {
    let mut pair = Pair::new(5000, Timers::every(100 * MS, 3));
    pair.run(2000 * MS, |_| false);
    assert_eq!(pair.up(), 5000);
    let before = (pair.sent, pair.ticks);
    pair.run(4000 * MS, |_| false);
    let (sent, ticks) = (pair.sent - before.0, pair.ticks - before.1);
    // 10,000 ends, 2 s, between 75 and 100 ms a packet.
    assert!((200_000..=267_000).contains(&sent), "{sent}");
    assert!(ticks <= 5 * sent, "{ticks} looks for {sent} packets");
    assert_eq!(pair.falls, 0);
    // A tenth of them is cut off: those fall, on both sides, and no other.
    let cut = |address: IpAddr| matches!(address, IpAddr::V4(ip) if ip.octets()[3] % 20 < 2);
    let cut_off = (0..5000u32).filter(|n| cut(address(2 * n)) || cut(address(2 * n + 1))).count();
    pair.run(4400 * MS, cut);
    assert_eq!((pair.up(), pair.falls), (5000 - cut_off, 2 * cut_off as u64));
}

#[test]
fn discriminators_and_ports_differ_and_are_in_their_ranges() {
    let mut pair = Pair::new(3000, Timers::every(100 * MS, 3));
    let mut ports = BTreeMap::new();
    let actions = pair.engines[0].tick(200 * MS);
    for action in &actions {
        let Action::Send { id, source_port, bytes, to, interface, .. } = action else { continue };
        assert_eq!(Packet::read(bytes).unwrap().mine, id.0);
        assert_eq!((to.port(), *interface), (3784, Some(1)));
        assert!(*source_port >= 49152);
        assert_eq!(*ports.entry(*id).or_insert(*source_port), *source_port, "a session keeps its port");
    }
    assert_eq!(ports.len(), 3000);
    assert_eq!(ports.values().collect::<BTreeSet<_>>().len(), 3000);
    assert!(!ports.keys().any(|id| id.0 == 0));
}

#[test]
fn a_removed_session_leaves_nothing_behind() {
    let mut engine = Engine::new(9);
    let timers = Timers::every(10 * MS, 3);
    let config = SessionConfig::multihop(address(1), address(2), timers, 1);
    for round in 0..1000u32 {
        let now = round * MS;
        let id = engine.add(now, config.clone()).unwrap();
        assert_eq!(engine.on(&config.path), Some(id));
        engine.remove(now, id);
    }
    assert_eq!((engine.due(), engine.views().count()), (None, 0));
}
