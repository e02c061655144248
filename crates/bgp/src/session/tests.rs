//! Two sessions that talk to each other, and sessions that a made-up peer talks to.

use std::collections::VecDeque;
use std::net::Ipv4Addr;

use ripstop_types::Family;

use super::*;
use crate::wire::{Capability, Open, keepalive};

const NOW: Millis = Millis(1_000_000);

fn config(last: u8, local_as: u32, peer_as: PeerAs) -> Config {
    let peer = Ipv4Addr::new(10, 0, 0, 3 - last);
    Config::new(peer.into(), local_as, peer_as, Ipv4Addr::new(10, 0, 0, last))
}

/// Two speakers and what is on its way between them: which end, which connection of it.
struct Pair {
    ends: [Session; 2],
    /// Connection of end 0, of end 1.
    links: Vec<[ConnectionId; 2]>,
    seen: [Vec<Action>; 2],
    now: Millis,
}

impl Pair {
    fn new(first: Config, second: Config) -> Self {
        let ends = [Session::new(first, NOW, false), Session::new(second, NOW, false)];
        Self { ends, links: Vec::new(), seen: [vec![], vec![]], now: NOW }
    }

    /// Carries out what end `end` wants, and what follows of it, in the order in which it was said.
    fn carry(&mut self, end: usize, actions: Vec<Action>) {
        self.carry_all(vec![(end, actions)]);
    }

    fn carry_all(&mut self, of_ends: Vec<(usize, Vec<Action>)>) {
        let each = of_ends.into_iter().flat_map(|(end, actions)| actions.into_iter().map(move |action| (end, action)));
        let mut queue: VecDeque<(usize, Action)> = each.collect();
        while let Some((end, action)) = queue.pop_front() {
            let other = 1 - end;
            let peer_of = |id: ConnectionId| self.links.iter().find(|link| link[end] == id).map(|link| link[other]);
            let mut follow = |end: usize, actions: Vec<Action>| queue.extend(actions.into_iter().map(|one| (end, one)));
            match action {
                Action::Connect(id) => match self.ends[other].accept(self.now) {
                    Some((theirs, actions)) => {
                        self.links.push(if end == 0 { [id, theirs] } else { [theirs, id] });
                        follow(end, self.ends[end].handle(self.now, Event::Connected(id)));
                        follow(other, actions);
                    }
                    None => follow(end, self.ends[end].handle(self.now, Event::ConnectFailed(id, "refused"))),
                },
                Action::Send(id, bytes) => {
                    if let Some(theirs) = peer_of(id) {
                        follow(other, self.ends[other].handle(self.now, Event::Bytes(theirs, &bytes)));
                    }
                }
                Action::Close(id) => {
                    if let Some(theirs) = peer_of(id) {
                        self.links.retain(|link| link[end] != id);
                        follow(other, self.ends[other].handle(self.now, Event::Closed(theirs, "by the peer")));
                    }
                }
                other => self.seen[end].push(other),
            }
        }
    }

    /// Runs all timers up to `until`.
    fn run(&mut self, until: Millis) {
        for _ in 0..10_000 {
            let due = [0, 1].map(|end| self.ends[end].deadline().unwrap_or(Millis(u64::MAX)));
            let end = usize::from(due[1] < due[0]);
            if due[end] > until {
                self.now = until;
                return;
            }
            self.now = self.now.max(due[end]);
            let actions = self.ends[end].tick(self.now);
            self.carry(end, actions);
        }
        panic!("timers do not come to rest: {:?}", self.ends);
    }

    fn states(&self) -> [State; 2] {
        [self.ends[0].state(), self.ends[1].state()]
    }

    fn reason(&self, end: usize) -> &str {
        self.ends[end].last_error().unwrap_or("")
    }
}

fn up() -> Pair {
    let mut pair = Pair::new(config(1, 64_512, PeerAs::Is(64_513)), config(2, 64_513, PeerAs::External));
    pair.run(NOW.plus(10_000));
    assert_eq!(pair.states(), [State::Established; 2], "{:?}", pair.ends);
    pair
}

fn kept(actions: &[Action]) -> Vec<Families> {
    actions
        .iter()
        .filter_map(|action| match action {
            Action::Down { keep, .. } | Action::Up { keep, .. } => Some(*keep),
            _ => None,
        })
        .collect()
}

#[test]
fn two_speakers_agree_and_stay() {
    let mut pair = up();
    let (_, agreed) = pair.ends[0].established().expect("up");
    assert_eq!((agreed.peer_as, agreed.hold_time, agreed.context.internal), (64_513, 90, false));
    assert!(agreed.context.four_byte_as && agreed.context.extended_next_hop && agreed.context.extended_messages);
    pair.run(NOW.plus(3_600_000));
    assert_eq!(pair.states(), [State::Established; 2]);
    assert_eq!(pair.seen.each_ref().map(Vec::len), [1, 1], "nothing but Up: {:?}", pair.seen);
}

#[test]
fn wrong_configurations_are_named() {
    let cases: [(Config, Config, usize, &str); 5] = [
        (
            config(1, 64_512, PeerAs::Is(64_512)),
            config(2, 64_513, PeerAs::External),
            0,
            "says it is AS 64513, configured is 64512",
        ),
        (
            config(1, 64_512, PeerAs::Is(64_512)),
            config(2, 64_513, PeerAs::External),
            1,
            "it expects another AS than 64513",
        ),
        (config(1, 64_512, PeerAs::Internal), config(1, 64_512, PeerAs::Internal), 0, "router id 10.0.0.1"),
        (config(1, 64_512, PeerAs::External), config(2, 64_512, PeerAs::Internal), 0, "any but this node's 64512"),
        (
            Config { families: Families { v4: true, v6: false }, ..config(1, 1, PeerAs::External) },
            Config { families: Families { v4: false, v6: true }, ..config(2, 2, PeerAs::External) },
            0,
            "the peer offers IPv6 unicast, configured are IPv4 unicast",
        ),
    ];
    for (first, second, end, words) in cases {
        // One connects, so that each end's words are known.
        let mut pair = Pair::new(Config { passive: end == 0, ..first }, Config { passive: end == 1, ..second });
        pair.run(NOW);
        if !pair.reason(end).contains(words) {
            let mut pair = Pair::new(
                Config { passive: end == 1, ..pair.ends[0].config().clone() },
                Config { passive: end == 0, ..pair.ends[1].config().clone() },
            );
            pair.run(NOW);
            assert!(pair.reason(end).contains(words), "{words}: {}", pair.reason(end));
        }
    }
    let mut alone = Session::new(
        Config {
            socket: SocketOptions { password: Some(Password("x".to_owned())), ..SocketOptions::default() },
            ..config(1, 1, PeerAs::External)
        },
        NOW,
        false,
    );
    assert_eq!(alone.tick(NOW), [Action::Connect(ConnectionId(0))]);
    alone.handle(NOW, Event::ConnectFailed(ConnectionId(0), "timed out"));
    assert!(alone.last_error().is_some_and(|text| text.contains("the password may differ")), "{alone:?}");
    assert!(!format!("{alone:?}").contains("\"x\""), "a password is shown");
}

#[test]
fn of_two_connections_the_higher_id_keeps_its_own() {
    let mut pair = Pair::new(config(1, 7, PeerAs::Internal), config(2, 7, PeerAs::Internal));
    // Both connect at once: each has its OPEN on two connections before it hears anything.
    let first = pair.ends[0].tick(NOW);
    let second = pair.ends[1].tick(NOW);
    assert_eq!(
        (&first[..], &second[..]),
        (&[Action::Connect(ConnectionId(0))][..], &[Action::Connect(ConnectionId(0))][..])
    );
    let (of_first, hello_first) = pair.ends[1].accept(NOW).expect("accepted");
    let (of_second, hello_second) = pair.ends[0].accept(NOW).expect("accepted");
    pair.links = vec![[ConnectionId(0), of_first], [of_second, ConnectionId(0)]];
    let own = [0, 1].map(|end| pair.ends[end].handle(NOW, Event::Connected(ConnectionId(0))));
    let [own_first, own_second] = own;
    pair.carry_all(vec![(0, own_first), (1, hello_first), (1, own_second), (0, hello_second)]);
    assert_eq!(pair.states(), [State::Established; 2], "{:?}", pair.ends);
    // Ends' ids are 10.0.0.1 and 10.0.0.2.
    let kept = [0, 1].map(|end| pair.ends[end].established().map(|(id, _)| id));
    assert_eq!(kept, [Some(of_second), Some(ConnectionId(0))]);
    pair.run(NOW.plus(600_000));
    assert_eq!(pair.seen.each_ref().map(Vec::len), [1, 1]);
}

#[test]
fn silence_ends_a_session_and_pauses_grow() {
    let mut pair = up();
    let id = pair.ends[0].established().expect("up").0;
    // End 1 falls silent: only end 0's timers run.
    let mut now = pair.now;
    let mut seen = Vec::new();
    while !seen.iter().any(|action| matches!(action, Action::Down { .. })) {
        now = pair.ends[0].deadline().expect("a timer");
        seen.extend(pair.ends[0].tick(now));
    }
    assert!(now.since(pair.now) <= 90_000 && pair.reason(0).contains("for 90 s (hold time)"), "{}", pair.reason(0));
    assert!(seen.contains(&Action::Close(id)));
    let mut pauses = Vec::new();
    for _ in 0..9 {
        let due = pair.ends[0].deadline().expect("a try").max(pair.ends[0].pause_until);
        pauses.push(due.since(now));
        now = due;
        let connect = pair.ends[0].tick(now).into_iter().find_map(|action| match action {
            Action::Connect(id) => Some(id),
            _ => None,
        });
        let Some(id) = connect else { continue };
        pair.ends[0].handle(now, Event::Connected(id));
        pair.ends[0].handle(now, Event::Closed(id, "reset"));
    }
    assert!(pauses.is_sorted() && pauses.last() == Some(&60_000), "{pauses:?}");
}

#[test]
fn a_peer_that_does_not_read_is_given_up() {
    let mut pair = up();
    let (id, now) = (pair.ends[0].established().expect("up").0, pair.now);
    pair.ends[0].handle(now, Event::Waiting(id));
    pair.ends[0].handle(now.plus(400_000), Event::Written(id, true));
    pair.run(now.plus(870_000));
    assert_eq!(pair.ends[0].flaps(), 0, "it took something");
    pair.run(now.plus(881_000));
    assert_eq!(pair.ends[0].flaps(), 1);
    let down = pair.seen[0].iter().find_map(|action| match action {
        Action::Down { reason, .. } => Some(reason.as_str()),
        _ => None,
    });
    assert!(down.is_some_and(|reason| reason.contains("does not read")), "{down:?}");
}

#[test]
fn routes_are_kept_over_a_restart_and_not_over_a_shutdown() {
    let mut pair = up();
    let now = pair.now;
    // End 1's process dies: its connection closes without a word; then it comes again.
    let id = pair.ends[0].established().expect("up").0;
    let down = pair.ends[0].handle(now, Event::Closed(id, "reset"));
    assert_eq!(kept(&down), [Families::BOTH]);
    pair.links.clear();
    pair.ends[1] = Session::new(pair.ends[1].config().clone(), now, true);
    pair.seen = [vec![], vec![]];
    pair.run(now.plus(10_000));
    assert_eq!(kept(&pair.seen[0]), [Families::BOTH], "its kernel forwarded on");
    assert_eq!(kept(&pair.seen[1]), [Families::default()], "it kept nothing");
    for family in [Family::V4, Family::V6] {
        pair.ends[0].refreshed(family);
    }
    pair.run(now.plus(1_000_000));
    assert!(!pair.seen[0].contains(&Action::Expired), "all came in time");
    // Shut down by its administrator, who says why.
    let actions = pair.ends[1].stop(pair.now, Cease::AdministrativeShutdown, "new cables");
    pair.carry(1, actions);
    assert_eq!(kept(&pair.seen[0]).last(), Some(&Families::default()));
    pair.run(pair.now.plus(600_000));
    assert_eq!(pair.states()[1], State::Idle);
    pair.ends[1].start(pair.now);
    pair.run(pair.now.plus(61_000));
    assert_eq!(pair.states(), [State::Established; 2]);
}

#[test]
fn what_was_kept_goes_when_the_peer_stays_away() {
    let mut pair = up();
    let id = pair.ends[0].established().expect("up").0;
    pair.ends[0].handle(pair.now, Event::Closed(id, "reset"));
    let mut expired = None;
    while let Some(at) = pair.ends[0].deadline().filter(|at| at.since(pair.now) <= 200_000) {
        if pair.ends[0].tick(at).contains(&Action::Expired) {
            expired = Some(at.since(pair.now));
        }
    }
    assert_eq!(expired, Some(120_000), "its restart time");
}

#[test]
fn what_does_not_concern_a_session_does_not_end_it() {
    let mut pair = up();
    let same = Config { connect_retry: 9_000, passive: true, ..pair.ends[0].config().clone() };
    assert_eq!(pair.ends[0].configure(pair.now, same.clone()), []);
    let other = Config { hold_time: 30, ..same };
    let actions = pair.ends[0].configure(pair.now, other);
    pair.carry(0, actions);
    pair.run(pair.now.plus(30_000));
    assert_eq!(pair.ends[0].established().map(|(_, agreed)| agreed.hold_time), Some(30));
}

#[test]
fn messages_at_the_wrong_time_end_the_connection() {
    let hello = negotiate::open(&config(2, 2, PeerAs::External), false).encode();
    let update = crate::wire::end_of_rib(Family::V4);
    for (messages, words) in [
        (vec![keepalive()], "a KEEPALIVE in state OpenSent"),
        (vec![update.clone()], "an UPDATE in state OpenSent"),
        (vec![hello.clone(), update], "an UPDATE in state OpenConfirm"),
        (vec![hello.clone(), hello.clone()], "an OPEN in state OpenConfirm"),
        (vec![hello.clone(), keepalive(), hello], "an OPEN in state Established"),
        (vec![vec![0; 19]], "marker"),
    ] {
        let mut session = Session::new(config(1, 1, PeerAs::External), NOW, false);
        let (id, _) = session.accept(NOW).expect("accepted");
        let bytes = messages.concat();
        // Byte by byte, as a network may deliver them.
        let actions: Vec<Action> =
            bytes.iter().flat_map(|byte| session.handle(NOW, Event::Bytes(id, &[*byte]))).collect();
        assert!(actions.contains(&Action::Close(id)), "{words}");
        assert!(session.last_error().is_some_and(|text| text.contains(words)), "{words}: {:?}", session.last_error());
        assert_eq!(session.accept(NOW), None, "not during the pause");
    }
}

#[test]
fn who_connects_again_before_a_session_is_there_has_given_its_last_connection_up() {
    let mut session = Session::new(config(1, 7, PeerAs::External), NOW, false);
    let (first, _) = session.accept(NOW).expect("accepted");
    let (second, actions) = session.accept(NOW.plus(3_000)).expect("accepted");
    assert_eq!(actions[0], Action::Close(first));
    let open = Open { asn: 8, hold_time: 90, router_id: Ipv4Addr::new(10, 0, 0, 2), capabilities: vec![] };
    session.handle(NOW.plus(3_100), Event::Bytes(second, &open.encode()));
    assert_eq!(session.state(), State::OpenConfirm);
    let (_, actions) = session.accept(NOW.plus(6_000)).expect("accepted");
    assert_eq!((&actions[0], session.state()), (&Action::Close(second), State::OpenSent));
}

#[test]
fn an_old_speaker_without_capabilities_has_ipv4_alone() {
    let mut session = Session::new(config(1, 1, PeerAs::External), NOW, false);
    let (id, _) = session.accept(NOW).expect("accepted");
    let old = Open { asn: 2, hold_time: 0, router_id: Ipv4Addr::new(9, 9, 9, 9), capabilities: vec![] };
    session.handle(NOW, Event::Bytes(id, &[old.encode(), keepalive()].concat()));
    let (_, agreed) = session.established().expect("up");
    assert_eq!(agreed.context, Context4::only());
    assert_eq!((agreed.hold_time, agreed.restart, session.deadline()), (0, None, None));
    let wide = Open { capabilities: vec![Capability::FourByteAs(70_000)], asn: 70_000, ..old };
    assert!(
        negotiate::negotiate(&config(1, 1, PeerAs::Is(70_000)), &wide).is_ok_and(|agreed| agreed.context.four_byte_as)
    );
}

/// The context of a speaker that knows RFC 4271 alone.
struct Context4;

impl Context4 {
    fn only() -> crate::wire::Context {
        crate::wire::Context { families: Families { v4: true, v6: false }, ..crate::wire::Context::default() }
    }
}

#[test]
fn who_connects_from_a_range_is_a_peer_as_long_as_there_is_room() {
    let range = |text: &str, limit: usize| ListenRange {
        range: text.parse().unwrap(),
        template: config(1, 1, PeerAs::Is(2)),
        limit,
    };
    let ranges = [range("10.0.0.0/8", 5), range("10.1.0.0/16", 1)];
    let at = |address: &str, used: usize| dynamic_peer(&ranges, address.parse().unwrap(), |_| used);
    assert!(
        at("10.1.2.3", 0)
            .is_ok_and(|(place, peer)| place == 1 && peer.passive && peer.address == Ipv4Addr::new(10, 1, 2, 3))
    );
    assert!(at("10.1.2.3", 1).is_ok_and(|(place, _)| place == 0), "the wider range has room");
    assert!(at("10.1.2.3", 5).is_err_and(|why| why.contains("1 peers are connected from 10.1.0.0/16")));
    assert!(at("192.0.2.1", 0).is_err_and(|why| why.contains("in no range")));
}
