//! What routes say of themselves.

use ripstop_bgp::session::State;
use ripstop_bgp::wire::community;

use super::*;
use crate::foreign::route::{community as standard, large, target};

/// Routes of both ends with a change each: both have what the other one tells.
fn with_changes(case: Case, change: impl Fn(&mut Route, u8)) {
    let mut ask = case.ask();
    ask.routes.iter_mut().for_each(|route| change(route, 2));
    case.with(ask, |one, foreign| {
        let mut routes = two_routes(1);
        routes.iter_mut().for_each(|route| change(route, 1));
        let end = End::start(one, own(&foreign.ask, 1, &routes));
        agree(&end, foreign, &routes);
        // They go, and the route stays.
        let plain = two_routes(1);
        end.speaker.set_up(own(&foreign.ask, 1, &plain));
        agree(&end, foreign, &plain);
        assert_eq!(state(&end, &foreign.ask).flaps, 0);
    });
}

/// Communities of all three kinds.
pub fn communities(case: Case) {
    with_changes(case, |route, number| {
        route.communities = [standard(&format!("64512:{number}")), standard("7:8")].into();
        route.extended = [target(&format!("64512:{number}")), target("64513:70000")].into();
        route.large = [large(&format!("4200000000:1:{number}")), large("1:2:3")].into();
    });
}

/// MULTI_EXIT_DISC.
pub fn med(case: Case) {
    with_changes(case, |route, number| route.med = Some(4_710 + u32::from(number)));
}

/// More ASes before the path.
pub fn prepend(case: Case) {
    with_changes(case, |route, number| {
        let own = if number == 1 { OWN_AS } else { OTHER_AS };
        route.as_path = vec![own, own];
    });
}

/// LOCAL_PREF.
pub fn local_preference(case: Case) {
    with_changes(case, |route, number| route.local_pref = Some(200 + u32::from(number)));
}

/// Attributes that need a message of more than 4,096 bytes (RFC 8654), which is told and may be withdrawn.
pub fn long_messages(case: Case) {
    case.with(case.ask(), |one, foreign| {
        let mut routes = two_routes(1);
        let end = End::start(one, own(&foreign.ask, 1, &routes));
        agree(&end, foreign, &routes);
        routes[0].communities = (1..=1_200).map(|number| OWN_AS << 16 | number).collect();
        end.speaker.set_up(own(&foreign.ask, 1, &routes));
        agree(&end, foreign, &routes);
        end.speaker.set_up(own(&foreign.ask, 1, &routes[1..]));
        agree(&end, foreign, &routes[1..]);
        assert_eq!(state(&end, &foreign.ask).flaps, 0);
    });
}

/// What came through the own AS already is not taken, here and there.
pub fn as_loop(case: Case) {
    let mut ask = case.ask();
    ask.routes[0].as_path = vec![OWN_AS];
    case.with(ask, |one, foreign| {
        let mut routes = two_routes(1);
        routes[1].as_path = vec![OTHER_AS];
        let end = End::start(one, own(&foreign.ask, 1, &routes));
        has(&end, &foreign.tells()[1..]);
        // FRR sends what it was told back, too.
        state_until(&end, &foreign.ask, "both came", |peer| peer.received >= 2);
        let explained = end.speaker.ask(|answers| answers.explain(prefix("10.2.0.0/24"))).unwrap();
        assert!(explained.paths[0].because.contains("went in a circle"), "{explained:?}");
        // ExaBGP decides nothing, and tells all that comes.
        let taken = if case.kind == Exabgp { &routes[..] } else { &routes[..1] };
        foreign.has(&taken.iter().map(|route| route.told(OWN_AS, OTHER_AS)).collect::<Vec<_>>());
    });
}

/// Who is about to go says so, and what it told is used last.
pub fn graceful_shutdown(case: Case) {
    case.with(case.ask(), |one, foreign| {
        let mut routes = two_routes(1);
        let end = End::start(one, own(&foreign.ask, 1, &routes));
        agree(&end, foreign, &routes);
        let mut going = own(&foreign.ask, 1, &routes);
        going.peers[0].routes.shutting_down = true;
        end.speaker.set_up(going);
        for route in &mut routes {
            route.communities.insert(community::GRACEFUL_SHUTDOWN);
        }
        let told: Vec<Route> = routes.iter().map(|route| route.told(OWN_AS, OTHER_AS)).collect();
        foreign.has(&told);
        for mut route in foreign.ask.routes.clone() {
            route.communities.insert(community::GRACEFUL_SHUTDOWN);
            foreign.announce(route);
        }
        let last = |route: Route| Route { local_pref: Some(0), ..route };
        has(&end, &foreign.tells().into_iter().map(last).collect::<Vec<_>>());
        assert_eq!(state(&end, &foreign.ask).flaps, 0);
    });
}

/// What nobody knows goes on to who is told the route.
pub fn unknown_attribute(case: Case) {
    case.with(case.ask(), |one, foreign| {
        more(one, 11);
        let mut middle = own(&foreign.ask, 1, &[]);
        middle.peers.push(neighbour(&foreign.ask, 1, 11, OWN_AS));
        let _middle = End::start(one, middle);
        let end = End::start(one, of(11, vec![neighbour(&foreign.ask, 11, 1, OWN_AS)], &[]));
        foreign.inject("announce route 10.23.0.0/24 next-hop 192.0.2.2 attribute [ 0x63 0xc0 0x0102 ]");
        let known = |end: &End| {
            let one = end.speaker.ask(|answers| answers.explain(prefix("10.23.0.0/24"))).unwrap();
            one.paths.into_iter().find_map(|path| path.taken).map(|taken| taken.unknown)
        };
        let until = Instant::now() + SOON;
        let unknown = loop {
            if let Some(unknown) = known(&end) {
                break unknown;
            }
            assert!(Instant::now() < until, "{:?}\n{}", table(&end), foreign.log());
            std::thread::sleep(20 * MS);
        };
        let [one] = &*unknown else { panic!("{unknown:?}") };
        assert_eq!((one.kind, one.partial, &*one.value), (0x63, true, &[1, 2][..]));
    });
}

/// What is malformed costs the route, or no more than the attribute, and never the session (RFC 7606).
pub fn malformed_attribute(case: Case) {
    case.with(case.ask(), |one, foreign| {
        let end = End::start(one, own(&foreign.ask, 1, &two_routes(1)));
        agree(&end, foreign, &two_routes(1));
        let withdrawn = [
            // ORIGIN 9, a MED of two bytes, communities of three, LARGE_COMMUNITY of eleven.
            "0x01 0x40 0x09",
            "0x04 0x80 0x0001",
            "0x08 0xc0 0x010203",
            "0x20 0xc0 0x0102030405060708090a0b",
        ];
        let kept = [
            // ATOMIC_AGGREGATE with a value, AGGREGATOR of three bytes.
            "0x06 0x40 0x01",
            "0x07 0xc0 0x010203",
        ];
        let mut expected = foreign.tells();
        for (place, raw) in kept.iter().chain(&withdrawn).enumerate() {
            let route = Route::to(&format!("10.24.{place}.0/24"), "192.0.2.2");
            if place < kept.len() {
                expected.push(route.told(OTHER_AS, OWN_AS));
            }
            foreign.inject(&format!("announce route {} next-hop 192.0.2.2 attribute [ {raw} ]", route.prefix));
        }
        // What comes behind them is there when they are.
        let last = Route::to("10.25.0.0/24", "192.0.2.2");
        foreign.announce(last.clone());
        expected.push(last.told(OTHER_AS, OWN_AS));
        has(&end, &expected);
        assert_eq!(state(&end, &foreign.ask).flaps, 0);
        let peer = state(&end, &foreign.ask);
        assert_eq!((peer.state, peer.faults), (State::Established, 6), "{peer:?}");
    });
}
