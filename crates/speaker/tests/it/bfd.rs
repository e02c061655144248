//! Our own on both ends.

use std::net::IpAddr;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use ripstop_bfd::{Diagnostic, Path, SessionConfig, SessionId, State, Timers, View};
use ripstop_speaker::bfd::{Event, Speaker};

use super::space::{Space, wire};

pub const MS: Duration = Duration::from_millis(1);

/// One end: BFD in a namespace.
pub struct End {
    pub speaker: Speaker,
    events: Receiver<Event>,
}

impl End {
    pub fn start(space: &Space, seed: u64) -> Self {
        let (speaker, events) = space.inside(move || Speaker::start(seed)).unwrap();
        Self { speaker, events }
    }

    pub fn add(&self, config: SessionConfig) -> SessionId {
        self.speaker.with(move |engine, now| (engine.add(now, config).unwrap(), Vec::new())).unwrap()
    }

    pub fn view(&self, id: SessionId) -> View {
        self.speaker.with(move |engine, _| (engine.view(id).unwrap(), Vec::new())).unwrap()
    }

    /// Waits until the session is in this state, and tells why it is.
    pub fn reaches(&self, id: SessionId, wanted: State, within: Duration) -> (Instant, Diagnostic, State) {
        let end = Instant::now() + within;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(Event::Changed { id: of, state, diagnostic, remote }) if of == id && state == wanted => {
                    return (Instant::now(), diagnostic, remote);
                }
                Ok(_) => {}
                Err(_) => panic!("not {wanted} within {within:?}: {:?}", self.view(id)),
            }
        }
    }
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn our_own_find_each_other_on_a_link_and_over_hops_in_both_families() {
    let Some((one, two)) = wire() else { return };
    let (a, b) = (End::start(&one, 1), End::start(&two, 2));
    let timers = Timers::every(50 * MS, 4);
    let pairs = [
        (
            SessionConfig::single_hop(101, ip("192.0.2.1"), ip("192.0.2.2"), timers),
            SessionConfig::single_hop(102, ip("192.0.2.2"), ip("192.0.2.1"), timers),
        ),
        (
            SessionConfig::single_hop(101, ip("2001:db8::1"), ip("2001:db8::2"), timers),
            SessionConfig::single_hop(102, ip("2001:db8::2"), ip("2001:db8::1"), timers),
        ),
        (
            SessionConfig::multihop(ip("198.51.100.1"), ip("198.51.100.2"), timers, 250),
            SessionConfig::multihop(ip("198.51.100.2"), ip("198.51.100.1"), timers, 250),
        ),
    ];
    for (here, there) in pairs {
        let (here, there) = (a.add(here), b.add(there));
        a.reaches(here, State::Up, Duration::from_secs(5));
        b.reaches(there, State::Up, Duration::from_secs(5));
    }
    // One end holds all down: the others hear it, and that it is on purpose.
    let ids: Vec<(SessionId, Path)> =
        a.speaker.with(|engine, _| (engine.views().map(|(id, path, _)| (id, path)).collect(), Vec::new())).unwrap();
    let at = b.speaker.with(|engine, now| {
        let ids: Vec<SessionId> = engine.views().map(|(id, _, _)| id).collect();
        ((), ids.into_iter().flat_map(|id| engine.set_admin_down(now, id, true)).collect())
    });
    assert_eq!((at, ids.len()), (Some(()), 3));
    for (id, _) in ids {
        let end = Instant::now() + Duration::from_secs(2);
        while a.view(id).remote != State::AdminDown {
            assert!(Instant::now() < end, "{:?}", a.view(id));
            std::thread::sleep(5 * MS);
        }
        assert_eq!((a.view(id).state, a.view(id).diagnostic), (State::Down, Diagnostic::NEIGHBOR_SIGNALED_DOWN));
    }
}

#[test]
fn a_packet_from_farther_away_is_not_heeded() {
    let Some((one, two)) = wire() else { return };
    let a = End::start(&one, 1);
    let timers = Timers::every(50 * MS, 4);
    a.add(SessionConfig::single_hop(101, ip("192.0.2.1"), ip("192.0.2.2"), timers));
    two.inside(|| {
        let socket = std::net::UdpSocket::bind("192.0.2.2:50000").unwrap();
        socket.set_ttl(254).unwrap();
        socket
            .send_to(&[0x20, 0x40, 3, 24, 0, 0, 0, 9, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0], "192.0.2.1:3784")
    })
    .unwrap();
    let end = Instant::now() + Duration::from_secs(2);
    let ttl = |engine: &mut ripstop_bfd::Engine, _| (engine.discards().of(ripstop_bfd::Discard::Ttl), Vec::new());
    while a.speaker.with(ttl) != Some(1) {
        assert!(Instant::now() < end, "the packet did not come or was heeded");
        std::thread::sleep(5 * MS);
    }
}

#[test]
fn the_thread_wakes_up_once_for_all_that_comes_within_a_millisecond() {
    let Some((one, two)) = wire() else { return };
    let a = End::start(&one, 1);
    // Of the thread that is asked.
    let switches = || {
        let text = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
        line.trim().parse::<u64>().unwrap()
    };
    let of_thread = || a.speaker.with(move |_, _| (switches(), Vec::new())).unwrap();
    let socket = two.inside(|| std::net::UdpSocket::bind("192.0.2.2:50000").unwrap());
    let (before, begun) = (of_thread(), Instant::now());
    let mut sent = 0u64;
    while begun.elapsed() < Duration::from_secs(1) {
        socket.send_to(&[0; 24], "192.0.2.1:3784").unwrap();
        sent += 1;
        let next = Instant::now() + Duration::from_micros(50);
        while Instant::now() < next {
            std::hint::spin_loop();
        }
    }
    let (woken, took) = (of_thread() - before, begun.elapsed());
    // Each time it may rest and then wait.
    let most = 2 * u64::try_from(took.as_millis()).unwrap() + 50;
    assert!(woken <= most, "woken {woken} times within {took:?} for {sent} packets");
}
