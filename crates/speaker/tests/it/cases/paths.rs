//! Next hops of another family, and several paths to a prefix.

use super::*;

/// IPv4 goes by IPv6 next hops (RFC 8950).
pub fn extended_next_hop(case: Case) {
    let by_v6 = |number: u8| {
        let mut routes = two_routes(number);
        routes[0].next_hop = address(V6, number).parse().unwrap();
        routes
    };
    let ask = Ask { extended_next_hop: true, routes: by_v6(2), ..case.ask() };
    case.with(ask, |one, foreign| {
        let routes = by_v6(1);
        let end = End::start(one, own(&foreign.ask, 1, &routes));
        agree(&end, foreign, &routes);
    });
}

/// A route from outside keeps its next hop inside, unless ours stands for it.
pub fn next_hop_self(case: Case) {
    case.with(case.ask(), |one, foreign| {
        more(one, 11);
        let middle = |stands: bool| {
            let mut setup = own(&foreign.ask, 1, &[]);
            setup.peers[0].routes.next_hop_self = stands;
            setup.peers.push(neighbour(&foreign.ask, 1, 11, 64_999));
            setup
        };
        let end = End::start(one, middle(false));
        let mut far = neighbour(&foreign.ask, 11, 1, OWN_AS);
        (far.session.local_as, far.routes.local_as) = (64_999, 64_999);
        let _far = End::start(one, of(11, vec![far], &two_routes(11)));
        let inside = |route: &Route| route.told(64_999, OWN_AS).told(OWN_AS, OWN_AS);
        let mut told: Vec<Route> = two_routes(11).iter().map(inside).collect();
        foreign.has(&told);
        end.speaker.set_up(middle(true));
        for route in &mut told {
            route.next_hop = address(route.prefix.family(), 1).parse().unwrap();
        }
        foreign.has(&told);
        assert_eq!(state(&end, &foreign.ask).flaps, 0);
    });
}

/// A prefix that two of ours have.
fn twice() -> [Route; 2] {
    [11, 12].map(|number| Route::to("10.30.0.0/24", &address(V4, number)))
}

/// Ours reflects to it both paths to a prefix (RFC 7911).
pub fn add_path_to_it(case: Case) {
    let ask = Ask { add_path: true, ..case.ask() };
    case.with(ask, |one, foreign| {
        let mut middle = own(&foreign.ask, 1, &[]);
        middle.peers[0].routes.reflector_client = true;
        middle.peers.extend([11, 12].map(|number| neighbour(&foreign.ask, 1, number, OWN_AS)));
        [11, 12].into_iter().for_each(|number| more(one, number));
        let middle = End::start(one, middle);
        let start =
            |(number, route)| End::start(one, of(number, vec![neighbour(&foreign.ask, number, 1, OWN_AS)], &[route]));
        let mut ends: Vec<End> = [11, 12].into_iter().zip(twice()).map(start).collect();
        let told = |(number, route): (u8, Route)| route.told(OWN_AS, OWN_AS).reflected(number, 1);
        let all: Vec<Route> = [11, 12].into_iter().zip(twice()).map(told).collect();
        foreign.has(&all);
        // One of them goes, and the other stays.
        ends.pop();
        foreign.has(&all[..1]);
        assert_eq!(state(&middle, &foreign.ask).flaps, 0);
    });
}

/// It reflects to ours both paths to a prefix.
pub fn add_path_from_it(case: Case) {
    let ask = Ask { add_path: true, peers: vec![1, 11, 12], routes: vec![], ..case.ask() };
    case.with(ask, |one, foreign| {
        [11, 12].into_iter().for_each(|number| more(one, number));
        let end = End::start(one, own(&foreign.ask, 1, &[]));
        let start = |(number, route)| End::start(one, own(&foreign.ask, number, &[route]));
        let mut ends: Vec<End> = [11, 12].into_iter().zip(twice()).map(start).collect();
        let told = |(number, route): (u8, Route)| foreign.reflects(&route, number);
        let all: Vec<Route> = [11, 12].into_iter().zip(twice()).map(told).collect();
        has(&end, &all);
        let hops = end.speaker.ask(|answers| answers.explain(prefix("10.30.0.0/24"))).unwrap();
        assert_eq!(hops.paths.iter().filter(|path| path.used).count(), 2, "{hops:?}");
        ends.pop();
        has(&end, &all[..1]);
    });
}
