//! On what terms routes are taken and told, and what is said where a session ends.

use ripstop_bgp::rib::policy::{Filter, Match, PrefixMatch, Rule};
use ripstop_bgp::session::State;

use super::*;

/// Who ends a session may say why, and the other one tells it.
pub fn shutdown_communication(case: Case) {
    case.with(case.ask(), |one, foreign| {
        let routes = two_routes(1);
        let setup = own(&foreign.ask, 1, &routes);
        let mut end = End::start(one, setup.clone());
        agree(&end, foreign, &routes);
        let mut shut = setup.clone();
        shut.peers[0].shut_down = Some("cables change at noon".to_owned());
        end.speaker.set_up(shut);
        // Debian's ExaBGP reads no NOTIFICATION.
        if case.kind != Exabgp {
            foreign.says("cables change at noon");
        }
        foreign.has(&[]);
        end.speaker.set_up(setup);
        agree(&end, foreign, &routes);
        // ExaBGP has words of its own.
        let words = if case.kind == Exabgp { "\"Administrative Shutdown\"" } else { "until the moon is up" };
        // Some come back at once, and another error takes the place of this one.
        std::thread::scope(|scope| {
            scope.spawn(|| foreign.shut_down("until the moon is up"));
            end.tells(&foreign.ask.address(2), words);
        });
    });
}

/// Without filters nothing is taken from who is outside and nothing is told (RFC 8212).
pub fn default_deny(case: Case) {
    case.with(case.ask(), |one, foreign| {
        let routes = two_routes(1);
        let open = own(&foreign.ask, 1, &routes);
        let mut closed = open.clone();
        (closed.peers[0].routes.import, closed.peers[0].routes.export) = (None, None);
        let mut end = End::start(one, closed);
        end.up(&foreign.ask.address(2));
        state_until(&end, &foreign.ask, "its routes came", |peer| peer.received == 2);
        let explained = end.speaker.ask(|answers| answers.explain(prefix("10.2.0.0/24"))).unwrap();
        assert!(explained.paths[0].because.contains("RFC 8212"), "{explained:?}");
        let explained = end.speaker.ask(|answers| answers.explain(prefix("10.1.0.0/24"))).unwrap();
        assert!(explained.told[0].1.contains("RFC 8212"), "{explained:?}");
        assert!(table(&end).is_empty());
        foreign.has(&[]);
        end.speaker.set_up(open);
        agree(&end, foreign, &routes);
        assert_eq!(state(&end, &foreign.ask).flaps, 0);
    });
}

/// Who sends more than it may is gone, until it may.
pub fn limit(case: Case) {
    case.with(case.ask(), |one, foreign| {
        let routes = two_routes(1);
        let open = own(&foreign.ask, 1, &routes);
        let mut narrow = open.clone();
        narrow.peers[0].routes.max_prefixes = Some(1);
        let mut end = End::start(one, narrow);
        end.tells(&foreign.ask.address(2), "more than 1 paths");
        has(&end, &[]);
        foreign.has(&[]);
        assert_ne!(state(&end, &foreign.ask).state, State::Established);
        end.speaker.set_up(open);
        agree(&end, foreign, &routes);
    });
}

/// Ours sends more than the other one takes, hears that, and tells it.
pub fn peers_limit(case: Case) {
    let ask = Ask { limit: Some(2), ..case.ask() };
    case.with(ask, |one, foreign| {
        let mut routes = two_routes(1);
        let mut end = End::start(one, own(&foreign.ask, 1, &routes));
        agree(&end, foreign, &routes);
        routes.extend((10..14).map(|place| Route::to(&format!("10.1.{place}.0/24"), "192.0.2.1")));
        end.speaker.set_up(own(&foreign.ask, 1, &routes));
        end.tells(&foreign.ask.address(2), "it got more prefixes than it takes from here");
    });
}

/// Filters, routes and other peers change while the session stays.
pub fn soft_change(case: Case) {
    case.with(case.ask(), |one, foreign| {
        let routes = two_routes(1);
        let open = own(&foreign.ask, 1, &routes);
        let end = End::start(one, open.clone());
        agree(&end, foreign, &routes);
        // Nothing of 10.0.0.0/8, either way.
        let matches = Match { except: vec![PrefixMatch::inside(prefix("10.0.0.0/8"))], ..Match::default() };
        let rule = Rule { name: "none of ten".to_owned(), matches, accept: true, set: vec![] };
        let filter = Filter { rules: vec![rule] };
        let mut narrow = open.clone();
        narrow.peers[0].routes.import = Some(filter.clone());
        narrow.peers[0].routes.export = Some(filter);
        narrow.peers[0].session.connect_retry = 2_000;
        narrow.peers.push(neighbour(&foreign.ask, 1, 77, 64_777));
        end.speaker.set_up(narrow);
        has(&end, &foreign.tells()[1..]);
        foreign.has(&[routes[1].told(OWN_AS, OTHER_AS)]);
        foreign.announce(Route::to("172.16.0.0/24", "192.0.2.2"));
        has(&end, &foreign.tells()[1..]);
        end.speaker.set_up(open);
        agree(&end, foreign, &routes);
        assert_eq!(state(&end, &foreign.ask).flaps, 0);
    });
}

/// Ours comes to it as another AS than to others: what it passes on came through that one.
pub fn local_as(case: Case) {
    let ask = Ask { peer_as: 65_100, ..case.ask() };
    case.with(ask, |one, foreign| {
        more(one, 11);
        let routes = two_routes(1);
        let mut middle = own(&foreign.ask, 1, &routes);
        middle.peers.push(neighbour(&foreign.ask, 1, 11, 64_999));
        let end = End::start(one, middle);
        let mut far = neighbour(&foreign.ask, 11, 1, OWN_AS);
        far.session.local_as = 64_999;
        far.routes.local_as = 64_999;
        let far = End::start(one, of(11, vec![far], &two_routes(11)));
        let through = |route: &Route, number: u8| Route {
            next_hop: address(route.prefix.family(), number).parse().unwrap(),
            ..route.clone()
        };
        let from_far: Vec<Route> = two_routes(11).iter().map(|route| route.told(64_999, OWN_AS)).collect();
        let passed = from_far.iter().map(|route| through(route, 1).told(65_100, OTHER_AS));
        foreign.has(&routes.iter().map(|route| route.told(65_100, OTHER_AS)).chain(passed).collect::<Vec<_>>());
        has(&end, &[foreign.tells(), from_far].concat());
        // A MED of another AS goes no farther.
        let passed =
            foreign.tells().into_iter().map(|route| Route { med: None, ..through(&route, 1) }.told(OWN_AS, 64_999));
        let own = routes.iter().map(|route| route.told(OWN_AS, 64_999));
        has(&far, &own.chain(passed).collect::<Vec<_>>());
    });
}

/// It asks for all routes again, and gets them.
pub fn route_refresh(case: Case) {
    case.with(case.ask(), |one, foreign| {
        let routes = two_routes(1);
        let end = End::start(one, own(&foreign.ask, 1, &routes));
        agree(&end, foreign, &routes);
        foreign.refresh();
        agree(&end, foreign, &routes);
        assert_eq!(state(&end, &foreign.ask).flaps, 0);
    });
}
