//! How sessions come about and end.

use std::time::{Duration, Instant};

use ripstop_bgp::session::{ListenRange, Password, State};
use ripstop_speaker::bgp::{Peer, Range, Setup};

use super::*;
use crate::programs::CUT;

/// Routes come and go both ways, and each has of the other what begins there.
pub fn unicast(case: Case) {
    case.with(case.ask(), |one, foreign| {
        let mut routes = two_routes(1);
        let end = End::start(one, own(&foreign.ask, 1, &routes));
        agree(&end, foreign, &routes);
        let gone = foreign.ask.routes[0].prefix.to_string();
        foreign.withdraw(&gone);
        foreign.announce(Route::to("10.22.0.0/16", "192.0.2.2"));
        routes.remove(1);
        routes.push(Route::to("2001:db8:11::/64", "2001:db8::1"));
        end.speaker.set_up(own(&foreign.ask, 1, &routes));
        agree(&end, foreign, &routes);
        assert_eq!(state(&end, &foreign.ask).flaps, 0);
    });
}

/// AS numbers that two bytes do not hold.
pub fn four_byte_as(case: Case) {
    let ask = Ask { asn: 4_200_000_002, peer_as: 4_200_000_001, ..case.ask() };
    case.with(ask, |one, foreign| {
        let routes = two_routes(1);
        let end = End::start(one, own(&foreign.ask, 1, &routes));
        agree(&end, foreign, &routes);
        assert_eq!(state(&end, &foreign.ask).peer_as, Some(4_200_000_002));
    });
}

/// It knows two bytes alone: what does not fit them is told in AS4_PATH, of which it makes the path again.
pub fn two_byte_as(case: Case) {
    let ask = Ask { two_byte_as: true, ..case.ask() };
    case.with(ask, |one, foreign| {
        let mut routes = two_routes(1);
        routes[0].as_path = vec![4_200_000_007];
        let end = End::start(one, own(&foreign.ask, 1, &routes));
        agree(&end, foreign, &routes);
    });
}

/// Who is of another AS than was expected hears it and tells it.
pub fn wrong_as(case: Case) {
    case.with(case.ask(), |one, foreign| {
        for (here, there, words) in [
            (OWN_AS, 64_599, "the peer says it is AS 64513, configured is 64599"),
            (64_598, OTHER_AS, "it expects another AS than 64598"),
        ] {
            let ask = Ask { asn: there, peer_as: here, ..foreign.ask.clone() };
            let mut end = End::start(one, own(&ask, 1, &[]));
            end.tells(&ask.address(2), words);
        }
    });
}

/// With another password there is no session, and with the same there is.
pub fn md5(case: Case) {
    let ask = Ask { password: Some("knock-knock"), ..case.ask() };
    case.with(ask, |one, foreign| {
        let wrong = Ask { password: Some("who"), ..foreign.ask.clone() };
        let routes = two_routes(1);
        let mut end = End::start(one, own(&wrong, 1, &routes));
        end.tells(&wrong.address(2), "the password may differ");
        assert_ne!(end.peer(&wrong.address(2)).state, State::Established);
        end.speaker.set_up(own(&foreign.ask, 1, &routes));
        agree(&end, foreign, &routes);
    });
}

/// Packets from farther away than a neighbour are not heard.
pub fn gtsm(case: Case) {
    // Without it packets leave with a lesser TTL.
    case.with(case.ask(), |one, foreign| {
        let near = Ask { security: true, ..foreign.ask.clone() };
        let routes = two_routes(1);
        let mut end = End::start(one, own(&near, 1, &routes));
        end.listen(Duration::from_millis(1_500));
        assert_ne!(end.peer(&near.address(2)).state, State::Established);
        foreign.start_again(near);
        agree(&end, foreign, &routes);
    });
}

/// The lesser hold time of both holds: who is silent for that long is gone.
pub fn hold_time(case: Case) {
    let ask = Ask { hold: 3, ..case.ask() };
    case.with(ask, |one, foreign| {
        let routes = two_routes(1);
        let mut end = End::start(one, own(&Ask { hold: 30, ..foreign.ask.clone() }, 1, &routes));
        agree(&end, foreign, &routes);
        let there = foreign.ask.address(2);
        assert_eq!(state(&end, &foreign.ask).hold_time, Some(3), "the lesser one");
        end.up(&there);
        let cut = Instant::now();
        foreign.at.space.run("nft", &[CUT]);
        let why = end.down(&there, Duration::from_secs(5));
        assert!(why.contains("hold time") && cut.elapsed() > Duration::from_millis(1_500), "{why} {:?}", cut.elapsed());
        has(&end, &[]);
        foreign.at.space.run("nft", &["delete table inet cut"]);
        has(&end, &foreign.tells());
    });
}

/// Whoever comes from a range is a peer of ours.
pub fn listen_range(case: Case) {
    let ask = Ask { password: Some("range"), ..case.ask() };
    case.with(ask, |one, foreign| {
        let routes = two_routes(1);
        let setup = own(&foreign.ask, 1, &routes);
        let Peer { mut session, routes: terms, .. } = setup.peers[0].clone();
        session.socket.password = Some(Password("range".to_owned()));
        session.peer_as = PeerAs::External;
        let listen = ListenRange { range: prefix(foreign.ask.link()), template: session, limit: 5 };
        let ranges = vec![Range { listen, routes: terms, bfd: None }];
        let end = End::start(one, Setup { peers: vec![], ranges, ..setup });
        agree(&end, foreign, &routes);
    });
}

/// Ours comes from a range of its.
pub fn peers_listen_range(case: Case) {
    let ask = Ask { listens: true, ..case.ask() };
    case.with(ask, |one, foreign| {
        let routes = two_routes(1);
        let end = End::start(one, own(&foreign.ask, 1, &routes));
        agree(&end, foreign, &routes);
    });
}
