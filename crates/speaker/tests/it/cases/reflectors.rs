//! Reflection (RFC 4456), by ours and by the other one.

use ripstop_types::Prefix;

use super::*;
use crate::foreign::route::id;

fn internal(routes: &[Route]) -> Vec<Route> {
    routes.iter().map(|route| route.told(OWN_AS, OWN_AS)).collect()
}

/// By ours.
fn reflected(routes: &[Route], from: u8) -> Vec<Route> {
    internal(routes).iter().map(|route| route.reflected(from, 1)).collect()
}

/// It and one of ours are clients of ours, and hear of each other.
pub fn for_it(case: Case) {
    case.with(case.ask(), |one, foreign| {
        more(one, 11);
        let mut middle = own(&foreign.ask, 1, &two_routes(1));
        middle.peers.push(neighbour(&foreign.ask, 1, 11, OWN_AS));
        middle.peers.iter_mut().for_each(|peer| peer.routes.reflector_client = true);
        let middle = End::start(one, middle);
        let client = |routes: &[Route]| of(11, vec![neighbour(&foreign.ask, 11, 1, OWN_AS)], routes);
        let end = End::start(one, client(&two_routes(11)));
        let begin = internal(&two_routes(1));
        foreign.has(&[begin.clone(), reflected(&two_routes(11), 11)].concat());
        let its: Vec<Route> = foreign.tells().iter().map(|route| route.reflected(2, 1)).collect();
        has(&end, &[begin.clone(), its].concat());
        has(&middle, &[foreign.tells(), internal(&two_routes(11))].concat());
        // What a client withdraws is gone for the other one.
        end.speaker.set_up(client(&two_routes(11)[..1]));
        foreign.has(&[begin, reflected(&two_routes(11)[..1], 11)].concat());
    });
}

/// Two of ours are its clients, and hear of each other.
pub fn by_it(case: Case) {
    let ask = Ask { peers: vec![1, 11], ..case.ask() };
    case.with(ask, |one, foreign| {
        more(one, 11);
        let [first, second] = [1, 11].map(|number| End::start(one, own(&foreign.ask, number, &two_routes(number))));
        let reflected = |routes: &[Route], from: u8| -> Vec<Route> {
            routes.iter().map(|route| foreign.reflects(route, from)).collect()
        };
        has(&first, &[foreign.tells(), reflected(&two_routes(11), 11)].concat());
        has(&second, &[foreign.tells(), reflected(&two_routes(1), 1)].concat());
        foreign.has(&[internal(&two_routes(1)), internal(&two_routes(11))].concat());
        second.speaker.set_up(own(&foreign.ask, 11, &two_routes(11)[1..]));
        has(&first, &[foreign.tells(), reflected(&two_routes(11)[1..], 11)].concat());
    });
}

/// What came through ours before is not taken, and what others reflected is passed on with all they wrote.
pub fn attributes(case: Case) {
    case.with(case.ask(), |one, foreign| {
        more(one, 11);
        let mut middle = own(&foreign.ask, 1, &[]);
        middle.peers.push(neighbour(&foreign.ask, 1, 11, OWN_AS));
        middle.peers.iter_mut().for_each(|peer| peer.routes.reflector_client = true);
        let middle = End::start(one, middle);
        let end = End::start(one, of(11, vec![neighbour(&foreign.ask, 11, 1, OWN_AS)], &[]));
        has(&middle, &foreign.tells());
        for (prefix, originator, clusters, words) in [
            ("10.26.1.0/24", "192.0.2.1", "192.0.2.8", "it began at this node"),
            ("10.26.2.0/24", "192.0.2.9", "192.0.2.8 192.0.2.1", "it came through this node's cluster"),
            ("10.26.3.0/24", "192.0.2.9", "192.0.2.8 192.0.2.7", "it is the only path"),
        ] {
            foreign.inject(&format!(
                "announce route {prefix} next-hop 192.0.2.2 originator-id {originator} cluster-list [ {clusters} ]"
            ));
            let prefix: Prefix = prefix.parse().unwrap();
            let until = Instant::now() + SOON;
            loop {
                let explained = middle.speaker.ask(move |answers| answers.explain(prefix)).unwrap();
                if explained.paths.iter().any(|path| path.because.contains(words)) {
                    break;
                }
                assert!(Instant::now() < until, "{words}: {explained:?}\n{}", foreign.log());
                std::thread::sleep(20 * MS);
            }
        }
        let mut passed = Route::to("10.26.3.0/24", "192.0.2.2").told(OWN_AS, OWN_AS);
        passed.originator = Some(id(9));
        passed.clusters = [1, 8, 7].map(id).into();
        let its = foreign.tells().iter().map(|route| route.reflected(2, 1)).chain([passed]).collect::<Vec<_>>();
        has(&end, &its);
    });
}
