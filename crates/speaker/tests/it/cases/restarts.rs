//! Restarts that cost no route (RFC 4724), and ways that break.

use std::time::{Duration, Instant};

use ripstop_bgp::session::State;

use super::*;
use crate::programs::CUT;

/// Its table stays as it is.
fn stays(foreign: &Foreign<'_>, time: Duration) {
    let (start, table) = (Instant::now(), foreign.table());
    assert_eq!(table.len(), 2, "{table:#?}");
    while start.elapsed() < time {
        assert_eq!(foreign.table(), table, "{}", foreign.log());
        std::thread::sleep(50 * MS);
    }
}

/// Ours dies without a word and is started again: the other one keeps what ours had told, and what did not begin again is gone.
pub fn own(case: Case) {
    let ask = Ask { graceful: true, ..case.ask() };
    case.with(ask, |one, foreign| {
        let routes = two_routes(1);
        let setup = super::own(&foreign.ask, 1, &routes);
        let end = End::start(one, setup.clone());
        agree(&end, foreign, &routes);
        drop(end);
        stays(foreign, Duration::from_millis(1_500));
        let mut end = End::start_again(one, setup, true);
        assert!(!end.settled);
        end.until("all is known again", SOON, |end| end.settled);
        agree(&end, foreign, &routes);
        stays(foreign, Duration::from_secs(1));
        drop(end);
        let end = End::start_again(one, super::own(&foreign.ask, 1, &routes[1..]), true);
        agree(&end, foreign, &routes[1..]);
    });
}

/// It is killed and started again: ours loses no route.
pub fn peers(case: Case) {
    let ask = Ask { graceful: true, ..case.ask() };
    case.with(ask, |one, foreign| {
        let routes = two_routes(1);
        let mut end = End::start(one, super::own(&foreign.ask, 1, &routes));
        agree(&end, foreign, &routes);
        let there = foreign.ask.address(2);
        let both = |end: &End| end.routes.len() == 2;
        end.until("routes are told", SOON, both);
        foreign.die();
        let down = |end: &End| end.peers.values().any(|peer| peer.state != State::Established && peer.flaps == 1);
        end.until("its end is noticed", SOON, down);
        foreign.start_again(Ask { again: true, ..foreign.ask.clone() });
        end.up(&there);
        agree(&end, foreign, &routes);
        end.listen(Duration::from_secs(1));
        assert_eq!((&end.lost[..], end.routes.len()), (&[][..], 2), "{:?}", end.routes);
    });
}

/// Where both ends say so, a session that ends by a notification, here for the hold time, costs no route.
pub fn by_notification(case: Case) {
    let ask = Ask { graceful: true, notification: true, hold: 3, ..case.ask() };
    case.with(ask, |one, foreign| {
        let routes = two_routes(1);
        let mut end = End::start(one, super::own(&foreign.ask, 1, &routes));
        agree(&end, foreign, &routes);
        let there = foreign.ask.address(2);
        end.until("routes are told", SOON, |end| end.routes.len() == 2);
        end.up(&there);
        one.run("nft", &[CUT]);
        let why = end.down(&there, Duration::from_secs(5));
        assert!(why.contains("hold time"), "{why}");
        // The other one's is over soon, too.
        stays(foreign, Duration::from_millis(1_500));
        one.run("nft", &["delete table inet cut"]);
        end.up(&there);
        agree(&end, foreign, &routes);
        end.until("routes are told again", SOON, |end| end.routes.len() == 2);
        // GoBGP that was not started anew does not say that it went on forwarding, so its routes go until they come again
        // (RFC 4724 section 4.2).
        assert_eq!(end.lost.len(), if case.kind == Gobgp { 2 } else { 0 }, "{:?}", end.lost);
    });
}

/// A way that breaks is noticed long before the hold time is over.
pub fn bfd(case: Case) {
    let ask = Ask { bfd: true, ..case.ask() };
    case.with(ask, |one, foreign| {
        let routes = two_routes(1);
        let mut end = End::start(one, super::own(&foreign.ask, 1, &routes));
        agree(&end, foreign, &routes);
        state_until(&end, &foreign.ask, "BFD is up", |peer| peer.bfd == Some(ripstop_bfd::State::Up));
        end.up(&foreign.ask.address(2));
        // Both ends poll for faster timers, once up.
        std::thread::sleep(Duration::from_secs(3));
        let cut = Instant::now();
        foreign.at.space.run("nft", &[CUT]);
        let why = end.down(&foreign.ask.address(2), Duration::from_secs(5));
        assert!(why.contains("BFD says") && cut.elapsed() < Duration::from_millis(900), "{why} {:?}", cut.elapsed());
        has(&end, &[]);
        foreign.at.space.run("nft", &["delete table inet cut"]);
        has(&end, &foreign.tells());
    });
}
