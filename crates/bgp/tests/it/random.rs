//! Whatever happens: peers have been told what follows from what was sent, by a decision of the test's own; a session stays one.

use std::collections::BTreeMap;

use proptest::prelude::*;
use ripstop_bgp::rib::{PeerConfig, PeerId};
use ripstop_bgp::session::{Action, Config, ConnectionId, Event, PeerAs, Session, State};
use ripstop_bgp::wire::*;
use ripstop_types::{Family, Millis};

use crate::speaker::{OWN, Told, address, agreed, announce_one, config, prefix, rib, route, withdraw_one};

/// What happens in the table of one property: by peer 1 to 5, to one of eight prefixes.
#[derive(Debug, Clone)]
enum Deed {
    Announce(u32, u8, u32, usize, bool),
    Withdraw(u32, u8),
    Down(u32),
    Up(u32),
    Hop(u32, Option<u32>),
    Flush(usize),
}

fn deed() -> impl Strategy<Value = Deed> {
    let peer = 1..=5u32;
    prop_oneof![
        8 => (peer.clone(), 0..8u8, 0..3u32, 0..3usize, any::<bool>()).prop_map(|(p, x, l, n, m)| Deed::Announce(p, x, l, n, m)),
        3 => (peer.clone(), 0..8u8).prop_map(|(peer, to)| Deed::Withdraw(peer, to)),
        1 => peer.clone().prop_map(Deed::Down),
        2 => peer.clone().prop_map(Deed::Up),
        1 => (peer, proptest::option::of(0..2u32)).prop_map(|(peer, cost)| Deed::Hop(peer, cost)),
        3 => (1..4usize).prop_map(Deed::Flush),
    ]
}

/// Peers 1 and 2 are clients, 3 is internal, 4 and 5 are external.
fn asn(peer: u32) -> u32 {
    if peer <= 3 { OWN } else { 65_000 + peer }
}

/// What everybody should have been told, from nothing but what each peer has sent: a decision of its own, pair by pair.
fn expected(
    sent: &BTreeMap<(u32, u8), Attributes>,
    up: &[u32],
    costs: &BTreeMap<u32, Option<u32>>,
) -> BTreeMap<PeerId, BTreeMap<Nlri, (u32, usize)>> {
    let mut all: BTreeMap<PeerId, BTreeMap<Nlri, (u32, usize)>> =
        up.iter().map(|peer| (PeerId(*peer), BTreeMap::new())).collect();
    for to in 0..8u8 {
        let of_prefix =
            sent.iter().filter(|((_, prefix), _)| *prefix == to).map(|((peer, _), attributes)| (*peer, attributes));
        let cost = |peer: u32| costs.get(&peer).copied().unwrap_or(Some(0));
        let reached = of_prefix.filter(|(peer, _)| cost(*peer).is_some());
        let best = reached.min_by_key(|(peer, attributes)| {
            let preference = attributes.local_pref.unwrap_or(100);
            (u32::MAX - preference, attributes.as_path.length(), *peer <= 3, cost(*peer), *peer)
        });
        let Some((from, attributes)) = best else { continue };
        for peer in up.iter().filter(|peer| **peer != from) {
            let reflected = *peer <= 2 || from <= 2;
            if *peer <= 3 && from <= 3 && !reflected {
                continue;
            }
            let length = attributes.as_path.length() + usize::from(*peer > 3);
            let nlri = Nlri::of(prefix(&format!("10.{to}.0.0/16")));
            all.entry(PeerId(*peer)).or_default().insert(nlri, (from, length));
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn peers_are_told_what_follows_from_what_was_sent(deeds in proptest::collection::vec(deed(), 1..60)) {
        let mut rib = rib();
        let (mut up, mut sent, mut costs) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        let mut told = Told::default();
        for peer in 1..=5 {
            rib.configure(PeerId(peer), PeerConfig { reflector_client: peer <= 2, ..config(peer) });
        }
        for deed in deeds.into_iter().chain([Deed::Flush(3)]) {
            match deed {
                Deed::Announce(peer, to, preference, length, marked) if up.contains(&peer) => {
                    let mut path = vec![7; length];
                    if peer > 3 {
                        path.insert(0, asn(peer));
                    }
                    // Who told it is read from a community.
                    let communities = if marked { vec![peer, 1_000] } else { vec![peer] };
                    let local_pref = Some(100 + preference).filter(|_| peer <= 3);
                    let route = Attributes { local_pref, communities: communities.into(), ..route(peer, &path) };
                    announce_one(&mut rib, peer, &format!("10.{to}.0.0/16"), route.clone());
                    sent.insert((peer, to), route);
                }
                Deed::Withdraw(peer, to) if up.contains(&peer) => {
                    withdraw_one(&mut rib, peer, &format!("10.{to}.0.0/16"));
                    sent.remove(&(peer, to));
                }
                Deed::Down(peer) if up.contains(&peer) => {
                    rib.peer_down(PeerId(peer), Families::default());
                    up.retain(|one| *one != peer);
                    sent.retain(|(from, _), _| *from != peer);
                    told.routes.remove(&PeerId(peer));
                }
                Deed::Up(peer) if !up.contains(&peer) => {
                    rib.peer_up(PeerId(peer), &agreed(peer, asn(peer)), Families::default());
                    up.push(peer);
                }
                Deed::Hop(peer, cost) => {
                    rib.set_next_hop(address(peer).into(), cost);
                    costs.insert(peer, cost);
                }
                Deed::Flush(limit) => {
                    // Some go out in the middle of it, then the rest.
                    told.flush_once(&mut rib, limit);
                }
                _ => {}
            }
        }
        told.flush_lenient(&mut rib);
        let found: BTreeMap<PeerId, BTreeMap<Nlri, (u32, usize)>> = up
            .iter()
            .map(|peer| {
                let routes = told.routes.get(&PeerId(*peer)).cloned().unwrap_or_default();
                let read = |(nlri, one): (Nlri, Attributes)| (nlri, (one.communities[0], one.as_path.length()));
                (PeerId(*peer), routes.into_iter().map(read).collect())
            })
            .collect();
        prop_assert_eq!(found, expected(&sent, &up, &costs));
        for peer in 1..=5 {
            rib.peer_down(PeerId(peer), Families::default());
        }
        prop_assert_eq!(rib.sizes(), (0, 0), "every reference was given back");
    }
}

/// What happens to a session: by connection, a few of which exist.
#[derive(Debug, Clone)]
enum Turn {
    Tick,
    Accept,
    Connected(u32),
    Failed(u32),
    Closed(u32),
    /// One of some messages, cut off behind so many bytes.
    Message(u32, usize, usize),
    Written(u32, bool),
    Waiting(u32),
    Bfd,
    Stop,
    Start,
    Configure(u16),
}

fn turn() -> impl Strategy<Value = Turn> {
    let id = || 0..6u32;
    prop_oneof![
        6 => Just(Turn::Tick),
        3 => Just(Turn::Accept),
        4 => id().prop_map(Turn::Connected),
        1 => id().prop_map(Turn::Failed),
        2 => id().prop_map(Turn::Closed),
        12 => (id(), 0..6usize, 0..5_000usize).prop_map(|(id, which, cut)| Turn::Message(id, which, cut)),
        1 => (id(), any::<bool>()).prop_map(|(id, more)| Turn::Written(id, more)),
        1 => id().prop_map(Turn::Waiting),
        1 => Just(Turn::Bfd),
        1 => Just(Turn::Stop),
        2 => Just(Turn::Start),
        1 => (0..2u16).prop_map(|hold| Turn::Configure(90 * hold)),
    ]
}

/// Messages of a peer: some fit, some do not.
fn messages() -> [Vec<u8>; 6] {
    let open = Open {
        asn: 65_001,
        hold_time: 30,
        router_id: address(1),
        capabilities: vec![
            Capability::FourByteAs(65_001),
            Capability::GracefulRestart {
                restarted: false,
                notification: true,
                seconds: 60,
                families: vec![RestartFamily { family: AfiSafi::unicast(Family::V4), forwarding: true }],
            },
        ],
    };
    let stranger = Open { asn: 65_009, capabilities: vec![], ..open.clone() };
    let shutdown = Notification::cease(Cease::AdministrativeShutdown, "maintenance").encode();
    [open.encode(), stranger.encode(), keepalive(), end_of_rib(Family::V4), shutdown, vec![0; 40]]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    #[test]
    fn a_session_is_up_or_down_and_speaks_on_connections_that_it_has(turns in proptest::collection::vec(turn(), 1..80)) {
        let config = Config::new(address(1).into(), OWN, PeerAs::Is(65_001), address(254));
        let mut now = Millis(1_000);
        let mut session = Session::new(config.clone(), now, false);
        let (mut open, mut up, messages) = (std::collections::BTreeSet::new(), false, messages());
        for turn in turns {
            let actions = match turn {
                Turn::Tick => {
                    now = session.deadline().unwrap_or(now).max(now);
                    session.tick(now)
                }
                Turn::Accept => session.accept(now).map_or(vec![], |(id, actions)| {
                    open.insert(id);
                    actions
                }),
                Turn::Connected(id) => session.handle(now, Event::Connected(ConnectionId(id))),
                Turn::Failed(id) => session.handle(now, Event::ConnectFailed(ConnectionId(id), "refused")),
                Turn::Closed(id) => session.handle(now, Event::Closed(ConnectionId(id), "reset")),
                Turn::Message(id, which, cut) => {
                    let bytes = &messages[which];
                    session.handle(now, Event::Bytes(ConnectionId(id), &bytes[..bytes.len().min(cut)]))
                }
                Turn::Written(id, more) => session.handle(now, Event::Written(ConnectionId(id), more)),
                Turn::Waiting(id) => session.handle(now, Event::Waiting(ConnectionId(id))),
                Turn::Bfd => session.handle(now, Event::BfdDown),
                Turn::Stop => session.stop(now, Cease::AdministrativeShutdown, ""),
                Turn::Start => {
                    session.start(now);
                    vec![]
                }
                Turn::Configure(hold_time) => session.configure(now, Config { hold_time, ..config.clone() }),
            };
            for action in actions {
                match action {
                    Action::Connect(id) => prop_assert!(open.insert(id), "{:?} is used again", id),
                    Action::Send(id, bytes) => {
                        prop_assert!(open.contains(&id), "{:?} is closed", id);
                        prop_assert_eq!(frame(&bytes, true).unwrap(), Some(bytes.len()));
                    }
                    Action::Close(id) => prop_assert!(open.remove(&id), "{:?} is closed", id),
                    Action::Up { .. } => prop_assert!(!std::mem::replace(&mut up, true), "up twice"),
                    Action::Down { .. } => prop_assert!(std::mem::replace(&mut up, false), "down twice"),
                    Action::Update(_) | Action::Refresh(_) => prop_assert!(up, "routes without a session"),
                    Action::Expired => {}
                }
            }
            prop_assert_eq!(session.state() == State::Established, up);
            prop_assert!(open.len() <= 2, "{:?}", open);
        }
    }
}
