//! The table by what peers are told: outputs are read back as a peer would.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ripstop_bgp::rib::policy::{Filter, Match, PrefixMatch, Rule, Set};
use ripstop_bgp::rib::*;
use ripstop_bgp::wire::*;
use ripstop_types::{Family, ScopedAddr};

use crate::speaker::{OWN, Told, address, agreed, announce_one, config, connect, prefix, rib, route, withdraw_one};

fn flushed(rib: &mut Rib) -> Told {
    let mut told = Told::default();
    told.flush(rib, 100, &BTreeMap::new());
    told
}

/// The words about one peer's path.
fn words(rib: &Rib, to: &str, peer: u32) -> String {
    let explanation = rib.explain(prefix(to));
    explanation.paths.iter().find(|path| path.peer == PeerId(peer)).map(|path| path.because.clone()).unwrap_or_default()
}

#[test]
fn what_goes_to_internal_and_external_peers() {
    let mut rib = rib();
    connect(&mut rib, 1, 65_001, config(1));
    connect(&mut rib, 2, 65_002, config(2));
    connect(&mut rib, 3, OWN, config(3));
    let sent = Attributes { med: Some(7), communities: [1].into(), ..route(1, &[65_001, 9]) };
    announce_one(&mut rib, 1, "192.0.2.0/24", sent);
    rib.originate(prefix("10.244.1.0/24"), &[Set::Med(Some(5))]);
    rib.originate(prefix("fd00:1::/64"), &[]);
    let told = flushed(&mut rib);
    let external = told.route(2, "192.0.2.0/24").unwrap();
    assert_eq!(external.as_path.to_string(), "64512 65001 9");
    assert_eq!(
        (external.next_hop.address(), external.med, external.local_pref),
        ("10.0.0.254".parse().unwrap(), None, None)
    );
    let internal = told.route(3, "192.0.2.0/24").unwrap();
    assert_eq!(internal.as_path.to_string(), "65001 9");
    assert_eq!(
        (internal.next_hop.address(), internal.med, internal.local_pref),
        (address(1).into(), Some(7), Some(100))
    );
    assert_eq!(told.route(1, "192.0.2.0/24"), None, "not back");
    let own = told.route(1, "10.244.1.0/24").unwrap();
    assert_eq!((own.as_path.to_string(), own.med), ("64512".to_owned(), Some(5)));
    assert_eq!(told.route(3, "fd00:1::/64").unwrap().next_hop, NextHop::V6("fd00::fe".parse().unwrap(), None));
    assert_eq!(told.ends.len(), 6, "each peer, each family: {:?}", told.ends);
}

#[test]
fn without_a_filter_external_peers_give_and_get_nothing() {
    let mut rib = rib();
    connect(&mut rib, 1, 65_001, PeerConfig { import: None, ..config(1) });
    connect(&mut rib, 2, 65_002, PeerConfig { export: None, ..config(2) });
    connect(&mut rib, 3, OWN, PeerConfig { import: None, export: None, ..config(3) });
    announce_one(&mut rib, 1, "192.0.2.0/24", route(1, &[65_001]));
    announce_one(&mut rib, 3, "198.51.100.0/24", route(3, &[]));
    let told = flushed(&mut rib);
    assert_eq!(told.route(3, "192.0.2.0/24"), None);
    assert!(words(&rib, "192.0.2.0/24", 1).contains("RFC 8212"), "{}", rib.explain(prefix("192.0.2.0/24")));
    assert!(told.route(1, "198.51.100.0/24").is_some());
    assert_eq!(told.route(2, "198.51.100.0/24"), None);
    assert!(rib.explain(prefix("198.51.100.0/24")).to_string().contains("to peer 2: not told: export: no filter"));
}

#[test]
fn a_reflector_passes_routes_between_its_clients() {
    let mut rib = rib();
    for peer in 1..=4 {
        connect(&mut rib, peer, OWN, PeerConfig { reflector_client: peer <= 2, ..config(peer) });
    }
    announce_one(&mut rib, 1, "10.1.0.0/24", route(1, &[]));
    announce_one(&mut rib, 3, "10.3.0.0/24", Attributes { cluster_list: [address(9)].into(), ..route(3, &[]) });
    let told = flushed(&mut rib);
    let of = |peer: u32| [told.route(peer, "10.1.0.0/24").is_some(), told.route(peer, "10.3.0.0/24").is_some()];
    assert_eq!([1, 2, 3, 4].map(of), [[false, true], [true, true], [true, false], [true, false]]);
    let reflected = told.route(2, "10.3.0.0/24").unwrap();
    assert_eq!(
        (reflected.originator_id, &reflected.cluster_list[..]),
        (Some(address(3)), &[address(254), address(9)][..])
    );
    assert_eq!(reflected.next_hop.address(), IpAddr::from(address(3)), "a reflector leaves the next hop");
    // What went in a circle is refused, and says so.
    announce_one(&mut rib, 4, "10.9.0.0/24", Attributes { cluster_list: [address(254)].into(), ..route(4, &[]) });
    announce_one(&mut rib, 4, "10.8.0.0/24", Attributes { originator_id: Some(address(254)), ..route(4, &[]) });
    assert!(words(&rib, "10.9.0.0/24", 4).contains("through this node's cluster"));
    assert!(words(&rib, "10.8.0.0/24", 4).contains("began at this node"));
    assert!(flushed(&mut rib).routes.is_empty());
    assert!(rib.explain(prefix("10.3.0.0/24")).to_string().contains("neither is a client"));
}

#[test]
fn each_step_of_the_decision_is_named() {
    let base = || route(2, &[65_002, 9]);
    let cases: [(Attributes, Attributes, &str); 5] = [
        (Attributes { local_pref: Some(200), ..base() }, base(), "higher local preference"),
        (base(), route(3, &[65_002, 8, 9]), "shorter AS path"),
        (base(), Attributes { origin: Origin::Incomplete, ..base() }, "lower origin"),
        (base(), Attributes { med: Some(10), ..base() }, "lower MED"),
        (base(), base(), "lower router id"),
    ];
    for (better, worse, step) in cases {
        let mut rib = rib();
        connect(&mut rib, 2, OWN, config(2));
        connect(&mut rib, 3, OWN, config(3));
        announce_one(&mut rib, 3, "192.0.2.0/24", worse);
        announce_one(&mut rib, 2, "192.0.2.0/24", better);
        assert!(words(&rib, "192.0.2.0/24", 3).contains(step), "{step}: {}", rib.explain(prefix("192.0.2.0/24")));
        assert_eq!(words(&rib, "192.0.2.0/24", 2), "it is the best path");
    }
    let mut rib = rib();
    connect(&mut rib, 1, OWN, config(1));
    connect(&mut rib, 2, 65_002, config(2));
    announce_one(&mut rib, 1, "192.0.2.0/24", route(1, &[65_002]));
    announce_one(&mut rib, 2, "192.0.2.0/24", route(2, &[65_002]));
    assert!(words(&rib, "192.0.2.0/24", 1).contains("external peer"));
    rib.originate(prefix("192.0.2.0/24"), &[]);
    assert!(words(&rib, "192.0.2.0/24", 2).contains("begins at this node"));
    for (path, why) in [(vec![65_002, OWN], "in a circle"), (vec![9], "begins with AS 9"), (vec![], "does not begin")] {
        announce_one(&mut rib, 2, "198.51.100.0/24", route(2, &path));
        assert!(words(&rib, "198.51.100.0/24", 2).contains(why), "{why}");
    }
    announce_one(
        &mut rib,
        2,
        "198.51.100.0/24",
        Attributes { next_hop: NextHop::V4(address(254)), ..route(2, &[65_002]) },
    );
    assert!(words(&rib, "198.51.100.0/24", 2).contains("is this node"));
}

#[test]
fn the_med_is_compared_within_a_neighbouring_as_whatever_the_order() {
    // The known case: by pairs in the order of arrival the outcome would differ.
    let routes = [
        (2, Attributes { med: Some(10), ..route(2, &[65_100, 9]) }),
        (3, Attributes { med: Some(5), ..route(3, &[65_100, 9]) }),
        (1, Attributes { med: Some(99), ..route(1, &[65_200, 9]) }),
    ];
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut rib = rib();
        (1..=3).for_each(|peer| connect(&mut rib, peer, OWN, config(peer)));
        for place in order {
            announce_one(&mut rib, routes[place].0, "192.0.2.0/24", routes[place].1.clone());
        }
        assert_eq!(rib.explain(prefix("192.0.2.0/24")).paths[0].peer, PeerId(1), "{order:?}");
    }
}

#[test]
fn equal_paths_are_used_together_as_long_as_their_next_hops_are_reached() {
    let mut rib = rib();
    (1..=3).for_each(|peer| connect(&mut rib, peer, 65_001, config(peer)));
    (1..=3).for_each(|peer| announce_one(&mut rib, peer, "0.0.0.0/0", route(peer, &[65_001])));
    let hops = |rib: &Rib| rib.next_hops(prefix("0.0.0.0/0")).iter().map(|hop| hop.address()).collect::<Vec<_>>();
    let at = |peers: &[u32]| peers.iter().map(|peer| IpAddr::from(address(*peer))).collect::<Vec<_>>();
    assert_eq!(hops(&rib), at(&[1, 2, 3]));
    connect(&mut rib, 4, OWN, config(4));
    let mut told = Told::default();
    told.flush(&mut rib, 10, &BTreeMap::new());
    rib.take_changed(10);
    rib.set_next_hop(address(1).into(), None);
    assert_eq!((hops(&rib), rib.take_changed(10)), (at(&[2, 3]), vec![prefix("0.0.0.0/0")]));
    assert!(words(&rib, "0.0.0.0/0", 1).contains("cannot be reached"));
    rib.set_next_hop(address(2).into(), Some(10));
    assert_eq!(hops(&rib), at(&[3]), "nearer");
    told.flush(&mut rib, 10, &BTreeMap::new());
    assert_eq!(told.route(4, "0.0.0.0/0").unwrap().next_hop.address(), IpAddr::from(address(3)));
    rib.set_next_hop(address(3).into(), None);
    rib.set_next_hop(address(2).into(), None);
    told.flush(&mut rib, 10, &BTreeMap::new());
    assert_eq!((hops(&rib), told.route(4, "0.0.0.0/0")), (vec![], None), "withdrawn");
}

/// A rule of a filter.
fn rule(name: &str, matches: Match, accept: bool, set: Vec<Set>) -> Rule {
    Rule { name: name.to_owned(), matches, accept, set }
}

#[test]
fn filters_choose_and_change() {
    let import = Filter {
        rules: vec![
            rule(
                "no default",
                Match { prefixes: vec![PrefixMatch::exact(prefix("0.0.0.0/0"))], ..Match::default() },
                false,
                vec![],
            ),
            rule("marked", Match { communities: vec![77], ..Match::default() }, true, vec![Set::LocalPref(50)]),
            rule(
                "fabric",
                Match {
                    prefixes: vec![PrefixMatch { within: prefix("10.0.0.0/8"), least: 16, most: 24 }],
                    from: vec![9],
                    ..Match::default()
                },
                true,
                vec![Set::AddCommunity(5), Set::AddLarge(LargeCommunity(1, 2, 3)), Set::Med(Some(1))],
            ),
        ],
    };
    let export = Filter {
        rules: vec![rule("longer", Match::default(), true, vec![Set::Prepend(OWN, 2), Set::RemoveCommunity(5)])],
    };
    let mut rib = rib();
    connect(&mut rib, 1, 65_001, PeerConfig { import: Some(import), ..config(1) });
    connect(&mut rib, 2, 65_002, PeerConfig { export: Some(export), ..config(2) });
    connect(&mut rib, 3, OWN, config(3));
    for (to, path, communities) in [
        ("0.0.0.0/0", &[65_001, 9][..], vec![77]),
        ("10.1.0.0/16", &[65_001, 9], vec![]),
        ("10.1.1.128/25", &[65_001, 9], vec![]),
        ("10.2.0.0/16", &[65_001, 8], vec![]),
        ("172.16.0.0/12", &[65_001], vec![77]),
    ] {
        announce_one(&mut rib, 1, to, Attributes { communities: communities.into(), ..route(1, path) });
    }
    let told = flushed(&mut rib);
    let taken: Vec<String> = told.routes[&PeerId(3)].keys().map(|one| one.prefix.to_string()).collect();
    assert_eq!(taken, ["10.1.0.0/16", "172.16.0.0/12"]);
    let fabric = told.route(3, "10.1.0.0/16").unwrap();
    assert_eq!((&fabric.communities[..], fabric.med, fabric.large_communities.len()), (&[5][..], Some(1), 1));
    assert_eq!(told.route(3, "172.16.0.0/12").unwrap().local_pref, Some(50));
    let out = told.route(2, "10.1.0.0/16").unwrap();
    assert_eq!((out.as_path.to_string(), out.communities.len()), ("64512 64512 64512 65001 9".to_owned(), 0));
    assert!(words(&rib, "0.0.0.0/0", 1).contains("rule \"no default\""), "{}", rib.explain(prefix("0.0.0.0/0")));
    assert!(words(&rib, "10.2.0.0/16", 1).contains("no rule"));
}

#[test]
fn other_filters_are_told_as_the_difference_to_whom_they_concern() {
    let none_but = |within: &str| Filter {
        rules: vec![rule(
            within,
            Match { prefixes: vec![PrefixMatch::inside(prefix(within))], ..Match::default() },
            true,
            vec![],
        )],
    };
    let mut rib = rib();
    connect(&mut rib, 1, 65_001, PeerConfig { import: Some(none_but("172.16.0.0/12")), ..config(1) });
    connect(&mut rib, 2, 65_002, config(2));
    connect(&mut rib, 3, OWN, config(3));
    for to in ["0.0.0.0/0", "10.1.0.0/16", "10.1.1.128/25", "10.2.0.0/16", "172.16.0.0/12"] {
        announce_one(&mut rib, 1, to, route(1, &[65_001, 9]));
    }
    let mut told = flushed(&mut rib);
    let everything = |told: &Told, peer: u32| told.routes[&PeerId(peer)].len();
    assert_eq!((everything(&told, 2), everything(&told, 3)), (1, 1));
    rib.configure(PeerId(1), config(1));
    told.flush(&mut rib, 2, &BTreeMap::new());
    assert_eq!((everything(&told, 2), everything(&told, 3)), (5, 5), "without the peer sending again");
    let before = told.messages;
    rib.configure(PeerId(2), PeerConfig { export: Some(none_but("10.0.0.0/8")), ..config(2) });
    told.flush(&mut rib, 2, &BTreeMap::new());
    assert_eq!((everything(&told, 2), everything(&told, 3)), (3, 5));
    assert!(told.messages > before);
    let before = told.messages;
    rib.configure(PeerId(3), PeerConfig { max_prefixes: Some(9), ..config(3) });
    told.flush(&mut rib, 2, &BTreeMap::new());
    assert_eq!(told.messages, before, "what does not concern it tells it nothing");
}

#[test]
fn communities_that_hold_a_route_back_and_a_way_that_is_about_to_go() {
    let mut rib = rib();
    connect(&mut rib, 1, 65_001, config(1));
    connect(&mut rib, 2, 65_002, config(2));
    connect(&mut rib, 3, OWN, PeerConfig { shutting_down: true, ..config(3) });
    let with = |community: u32| Attributes { communities: [community].into(), ..route(1, &[65_001]) };
    announce_one(&mut rib, 1, "10.1.0.0/16", with(community::NO_EXPORT));
    announce_one(&mut rib, 1, "10.2.0.0/16", with(community::NO_ADVERTISE));
    announce_one(&mut rib, 1, "10.3.0.0/16", with(community::GRACEFUL_SHUTDOWN));
    announce_one(&mut rib, 2, "10.3.0.0/16", route(2, &[65_002, 7, 8, 9]));
    let told = flushed(&mut rib);
    let has = |peer: u32, to: &str| told.route(peer, to).is_some();
    assert_eq!(
        [has(2, "10.1.0.0/16"), has(3, "10.1.0.0/16"), has(2, "10.2.0.0/16"), has(3, "10.2.0.0/16")],
        [false, true, false, false]
    );
    assert_eq!(
        rib.next_hops(prefix("10.3.0.0/16"))[..],
        [ScopedAddr::Global(address(2).into())],
        "any other way is better"
    );
    assert!(told.route(3, "10.3.0.0/16").unwrap().has(community::GRACEFUL_SHUTDOWN));
}

#[test]
fn a_limit_and_a_restart() {
    let mut rib = rib();
    connect(&mut rib, 1, OWN, PeerConfig { max_prefixes: Some(2), ..config(1) });
    connect(&mut rib, 2, 65_002, config(2));
    let many = |count: u8| {
        let nlri = (0..count).map(|n| Nlri::of(prefix(&format!("10.{n}.0.0/16")))).collect();
        Update { announced: vec![Announcement { attributes: route(1, &[]), nlri }], ..Update::default() }
    };
    assert_eq!(rib.update(PeerId(1), &many(2)), Ok(None));
    let mut told = Told::default();
    told.flush(&mut rib, 10, &BTreeMap::new());
    // It restarts: what it sends again stays, the rest goes at its end of all.
    rib.peer_down(PeerId(1), Families::BOTH);
    told.flush(&mut rib, 10, &BTreeMap::new());
    assert_eq!(told.routes[&PeerId(2)].len(), 2, "kept");
    assert!(rib.explain(prefix("10.0.0.0/16")).to_string().contains("kept from before"));
    rib.peer_up(PeerId(1), &agreed(1, OWN), Families::BOTH);
    rib.update(PeerId(1), &many(1)).unwrap();
    assert_eq!(
        rib.update(PeerId(1), &Update { end_of_rib: Some(Family::V4), ..Update::default() }),
        Ok(Some(Family::V4))
    );
    told.flush(&mut rib, 10, &BTreeMap::new());
    assert_eq!(told.routes[&PeerId(2)].len(), 1);
    // Again, and it does not come back.
    rib.peer_down(PeerId(1), Families::BOTH);
    rib.expire(PeerId(1));
    told.flush(&mut rib, 10, &BTreeMap::new());
    assert_eq!((told.routes[&PeerId(2)].len(), rib.sizes()), (0, (0, 0)));
    rib.peer_up(PeerId(1), &agreed(1, OWN), Families::default());
    assert_eq!(rib.update(PeerId(1), &many(3)), Err(LimitExceeded { limit: 2 }));
    assert_eq!(rib.received(PeerId(1)), (3, true));
    assert_eq!(rib.update(PeerId(1), &many(200)), Ok(None), "nothing more is taken in");
    assert_eq!(rib.received(PeerId(1)), (3, true));
}

#[test]
fn several_paths_go_to_who_takes_them() {
    let mut rib = rib();
    (1..=3).for_each(|peer| connect(&mut rib, peer, OWN, PeerConfig { reflector_client: true, ..config(peer) }));
    rib.configure(PeerId(4), PeerConfig { paths: 2, ..config(4) });
    let mut several = agreed(4, OWN);
    several.context.add_path_out = Families::BOTH;
    let contexts = BTreeMap::from([(PeerId(4), several.context)]);
    rib.peer_up(PeerId(4), &several, Families::default());
    for (peer, preference) in [(1, 100), (2, 300), (3, 200)] {
        announce_one(&mut rib, peer, "10.0.0.0/8", Attributes { local_pref: Some(preference), ..route(peer, &[]) });
    }
    let mut told = Told::default();
    told.flush(&mut rib, 10, &contexts);
    let preferences =
        |told: &Told| told.routes[&PeerId(4)].values().map(|one| one.local_pref.unwrap()).collect::<Vec<_>>();
    assert_eq!(preferences(&told), [300, 200], "by identifiers of arrival");
    withdraw_one(&mut rib, 2, "10.0.0.0/8");
    told.flush(&mut rib, 10, &contexts);
    assert_eq!(preferences(&told), [100, 200]);
}

#[test]
fn a_peer_that_asks_is_told_all_again_between_marks() {
    let mut rib = rib();
    connect(&mut rib, 1, OWN, config(1));
    rib.originate(prefix("10.0.0.0/24"), &[]);
    flushed(&mut rib);
    rib.refresh(PeerId(1), Refresh { family: Family::V4, kind: RefreshKind::Request });
    let kinds: Vec<u8> = std::iter::from_fn(|| Some(rib.flush(5)).filter(|out| !out.is_empty()))
        .flatten()
        .flat_map(|output| {
            let mut kinds = Vec::new();
            let mut rest = &output.bytes[..];
            while !rest.is_empty() {
                let length = frame(rest, false).unwrap().unwrap();
                kinds.push(rest[18]);
                rest = &rest[length..];
            }
            kinds
        })
        .collect();
    assert_eq!(kinds, [5, 2, 5]);
}

#[test]
fn paths_of_a_peer_that_is_gone_go_some_at_a_time_and_all_before_it_is_back() {
    let host = |n: u32| format!("10.{}.{}.0/24", n / 256, n % 256);
    let full = || {
        let mut rib = rib();
        connect(&mut rib, 1, 65_001, config(1));
        connect(&mut rib, 2, 65_002, config(2));
        (0..5_000).for_each(|n| announce_one(&mut rib, 1, &host(n), route(1, &[65_001])));
        rib.take_changed(usize::MAX);
        while !rib.flush(10_000).is_empty() {}
        rib.peer_down(PeerId(1), Families::default());
        assert!((1..5_000).contains(&rib.sizes().0), "some go at once: {:?}", rib.sizes());
        rib
    };
    let mut rib = full();
    announce_one(&mut rib, 2, &host(4_999), route(2, &[65_002]));
    announce_one(&mut rib, 2, &host(0), route(2, &[65_002]));
    let mut turns = 0;
    while rib.work(1_000) {
        turns += 1;
    }
    assert!((2..10).contains(&turns) && rib.sizes().0 == 2, "{turns} {:?}", rib.sizes());
    for n in [0, 4_999] {
        assert_eq!(rib.next_hops(prefix(&host(n)))[..], [ScopedAddr::Global(address(2).into())]);
    }
    assert_eq!(rib.take_changed(usize::MAX).len(), 5_000);
    assert_eq!(rib.received(PeerId(1)), (0, false));

    // It is back: none of its old paths is taken for a new one.
    let mut rib = full();
    connect(&mut rib, 1, 65_001, config(1));
    assert_eq!(rib.sizes().0, 0);
    announce_one(&mut rib, 1, &host(4_999), route(1, &[65_001]));
    assert!(!rib.work(10_000) && rib.sizes().0 == 1);
    rib.remove(PeerId(1));
    assert_eq!(rib.sizes(), (0, 0));

    // Its configuration is gone, too; under its number there may be another one at once.
    let mut rib = full();
    rib.remove(PeerId(1));
    assert!((1..5_000).contains(&rib.sizes().0), "some go at once: {:?}", rib.sizes());
    rib.configure(PeerId(1), config(1));
    assert_eq!((rib.sizes(), rib.received(PeerId(1))), ((0, 0), (0, false)));
    let mut rib = full();
    rib.remove(PeerId(1));
    while rib.work(1_000) {}
    while !rib.flush(10_000).is_empty() {}
    assert_eq!(rib.sizes(), (0, 0));
}

/// A peer on that link, as which others may be at the same address on another one.
fn on_link(own: u32, link: &str) -> PeerConfig {
    let address = "fe80::1".parse().unwrap();
    PeerConfig { address, link: Some(link.parse().unwrap()), ..config(own) }
}

fn by(address: &str, beside: Option<&str>) -> NextHop {
    NextHop::V6(address.parse().unwrap(), beside.map(|text| text.parse().unwrap()))
}

#[test]
fn a_link_local_next_hop_is_one_of_the_peers_link() {
    let to = "10.0.0.0/8";
    let ways = |peers: &[PeerConfig], hops: &[NextHop]| {
        let mut rib = rib();
        for ((number, peer), hop) in (1..).zip(peers).zip(hops) {
            connect(&mut rib, number, 65_001, peer.clone());
            announce_one(&mut rib, number, to, Attributes { next_hop: *hop, ..route(number, &[65_001]) });
        }
        let ways = rib.next_hops(prefix(to)).iter().map(ToString::to_string).collect::<Vec<_>>();
        (rib, ways)
    };
    let links = [on_link(1, "eth0"), on_link(2, "eth1")];
    let (rib, found) = ways(&links, &[by("fe80::1", None); 2]);
    assert_eq!(found, ["fe80::1%eth0", "fe80::1%eth1"], "one address on two links is two next hops");
    assert!(rib.explain(prefix(to)).to_string().contains("by fe80::1%eth1 through"));
    // Who talks by link-local addresses may have a global one that is on another link; who does not has it on this one.
    let both = by("2001:db8::7", Some("fe80::7"));
    assert_eq!(ways(&links[..1], &[both]).1, ["fe80::7%eth0"]);
    let global = PeerConfig { address: "2001:db8::7".parse().unwrap(), ..on_link(1, "eth0") };
    assert_eq!(ways(std::slice::from_ref(&global), &[both]).1, ["2001:db8::7"]);
    assert_eq!(ways(&[global], &[by("fe80::7", None)]).1, ["fe80::7%eth0"]);
    assert_eq!(ways(&links[..1], &[by("2001:db8::9", None)]).1, ["2001:db8::9"], "a third party's");
    let (rib, found) = ways(&[config(1)], &[by("fe80::7", None)]);
    assert!(found.is_empty() && words(&rib, to, 1).contains("a neighbour on no link"), "{}", rib.explain(prefix(to)));
    let own = PeerConfig { own_v6: Some(by("fe80::1", Some("fe80::1"))), ..on_link(1, "eth0") };
    assert!(words(&ways(&[own], &[by("fe80::1", None)]).0, to, 1).contains("is this node"));
}

#[test]
fn a_link_local_next_hop_is_not_passed_on() {
    let mut rib = rib();
    connect(&mut rib, 1, 65_001, on_link(1, "eth0"));
    connect(&mut rib, 2, OWN, config(2));
    for (to, hop) in [("fd00:1::/64", by("fe80::1", None)), ("fd00:2::/64", by("2001:db8::1", Some("fe80::1")))] {
        announce_one(&mut rib, 1, to, Attributes { next_hop: hop, ..route(1, &[65_001]) });
    }
    let told = flushed(&mut rib);
    let hop = |to: &str| told.route(2, to).unwrap().next_hop;
    assert_eq!((hop("fd00:1::/64"), hop("fd00:2::/64")), (by("fd00::fe", None), by("2001:db8::1", None)));
    // The peer comes back on another link.
    rib.configure(PeerId(1), on_link(1, "eth1"));
    assert_eq!(rib.next_hops(prefix("fd00:1::/64"))[0].to_string(), "fe80::1%eth1");
    assert!(rib.take_changed(10).contains(&prefix("fd00:1::/64")));
}

#[test]
fn what_is_kept_over_a_restart_stays_old_when_it_is_judged_again() {
    let mut rib = rib();
    connect(&mut rib, 1, 65_001, config(1));
    announce_one(&mut rib, 1, "192.0.2.0/24", route(1, &[65_001]));
    rib.peer_down(PeerId(1), Families::BOTH);
    let rules = [Filter::accept_all().rules, Filter::accept_all().rules].concat();
    rib.configure(PeerId(1), PeerConfig { import: Some(Filter { rules }), ..config(1) });
    assert!(rib.explain(prefix("192.0.2.0/24")).to_string().contains("kept from before"));
    rib.peer_up(PeerId(1), &agreed(1, 65_001), Families::default());
    assert!(rib.next_hops(prefix("192.0.2.0/24")).is_empty(), "the peer did not keep it");
}
