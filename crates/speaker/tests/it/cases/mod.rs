//! Cases with speakers of others, as a table: what is to be so, in which role the other one is, and which ones can do it.
//!
//! A case is called `SPEAKER/FAMILY/ROLE/FEATURE`, the family being that of the session's addresses. Routes of both families go over
//! each. `RIPSTOP_CASES=TEXT` runs those with the text in their names.

mod attributes;
mod paths;
mod reflectors;
mod restarts;
mod sessions;
mod terms;

use std::collections::BTreeSet;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use ripstop_bfd::Timers;
use ripstop_bgp::session::{Password, PeerAs};
use ripstop_speaker::bgp::{Peer, PeerReport, Setup};
use ripstop_types::Family;

use super::bfd::MS;
use super::bgp::{End, SOON, key, peer, prefix, setup};
use super::foreign::route::Route;
use super::foreign::{Ask, Foreign, Kind, address};
use super::space::{Space, wire};
use Family::{V4, V6};
use Kind::{Bird, Exabgp, Frr, Gobgp};
use Role::{Client, Inside, Outside, Reflector};

/// What the other speaker is to ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Of another AS.
    Outside,
    /// Of the same one.
    Inside,
    /// Of the same one, and ours reflects for it.
    Client,
    /// Of the same one, and it reflects for two of ours.
    Reflector,
}

/// One case.
#[derive(Debug, Clone, Copy)]
struct Case {
    feature: &'static str,
    run: fn(Case),
    kind: Kind,
    transport: Family,
    role: Role,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = if self.transport == V4 { "v4" } else { "v6" };
        let role = format!("{:?}", self.role).to_lowercase();
        write!(f, "{}/{family}/{role}/{}", self.kind, self.feature)
    }
}

/// A feature, with what it is asked of: each kind in each role over each family.
type Row = (&'static str, fn(Case), &'static [Role], &'static [Family], &'static [Kind]);

const ALL: &[Kind] = &[Bird, Frr, Gobgp, Exabgp];
/// Those with a table of routes, who pass on what comes.
const ROUTERS: &[Kind] = &[Bird, Frr, Gobgp];
const BOTH: &[Family] = &[V4, V6];

#[rustfmt::skip]
const TABLE: &[Row] = &[
    ("unicast", sessions::unicast, &[Outside, Inside], BOTH, ALL),
    ("four-byte-as", sessions::four_byte_as, &[Outside], &[V4], ALL),
    ("two-byte-as", sessions::two_byte_as, &[Outside], &[V4], &[Bird, Exabgp]),
    ("wrong-as", sessions::wrong_as, &[Outside], &[V4], ALL),
    ("md5", sessions::md5, &[Outside], BOTH, ALL),
    ("gtsm", sessions::gtsm, &[Outside], BOTH, ALL),
    ("hold-time", sessions::hold_time, &[Outside], &[V4], ALL),
    ("listen-range", sessions::listen_range, &[Outside], BOTH, ALL),
    ("peers-listen-range", sessions::peers_listen_range, &[Outside], &[V4], ROUTERS),
    ("shutdown-communication", terms::shutdown_communication, &[Outside], &[V4], ALL),
    ("default-deny", terms::default_deny, &[Outside], &[V4], ALL),
    ("limit", terms::limit, &[Outside], &[V4], ALL),
    ("peers-limit", terms::peers_limit, &[Outside], &[V4], ROUTERS),
    ("soft-change", terms::soft_change, &[Outside], &[V4], ALL),
    ("local-as", terms::local_as, &[Outside], &[V4], ALL),
    ("route-refresh", terms::route_refresh, &[Outside], &[V4], &[Bird, Frr, Exabgp]),
    ("communities", attributes::communities, &[Outside, Inside], &[V4], ALL),
    ("med", attributes::med, &[Outside, Inside], &[V4], ALL),
    ("prepend", attributes::prepend, &[Outside], &[V4], ALL),
    ("local-preference", attributes::local_preference, &[Inside], &[V4], ALL),
    ("long-messages", attributes::long_messages, &[Outside], &[V4], &[Frr, Exabgp]),
    ("as-loop", attributes::as_loop, &[Outside], &[V4], ALL),
    ("next-hop-self", paths::next_hop_self, &[Inside], BOTH, ALL),
    ("graceful-shutdown", attributes::graceful_shutdown, &[Outside], &[V4], ALL),
    ("unknown-attribute", attributes::unknown_attribute, &[Outside], &[V4], &[Exabgp]),
    ("malformed-attribute", attributes::malformed_attribute, &[Outside], &[V4], &[Exabgp]),
    ("extended-next-hop", paths::extended_next_hop, &[Outside, Inside], &[V6], ALL),
    ("add-path-to-it", paths::add_path_to_it, &[Client], &[V4], ALL),
    ("add-path-from-it", paths::add_path_from_it, &[Reflector], &[V4], ROUTERS),
    ("reflection", reflectors::for_it, &[Client], BOTH, ALL),
    ("reflection", reflectors::by_it, &[Reflector], BOTH, ROUTERS),
    ("reflection-attributes", reflectors::attributes, &[Client], &[V4], &[Exabgp]),
    ("own-restart", restarts::own, &[Outside], BOTH, ROUTERS),
    ("peers-restart", restarts::peers, &[Outside], BOTH, ROUTERS),
    ("restart-by-notification", restarts::by_notification, &[Outside], &[V4], &[Frr, Gobgp]),
    ("bfd", restarts::bfd, &[Outside], BOTH, &[Bird, Frr]),
];

/// What no other than the injector can send.
const INJECTED: [&str; 3] = ["unknown-attribute", "malformed-attribute", "reflection-attributes"];

/// Cases of one kind that run at once: each waits most of its time.
const AT_ONCE: usize = 4;

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (feature, run, roles, families, kinds) in TABLE {
        for (role, transport) in roles.iter().flat_map(|role| families.iter().map(move |family| (*role, *family))) {
            all.extend(kinds.iter().map(|kind| Case { feature, run: *run, kind: *kind, transport, role }));
        }
    }
    all
}

fn run(kind: Kind) {
    if !kind.installed() || Space::new().is_none() {
        return;
    }
    let wanted = std::env::var("RIPSTOP_CASES").unwrap_or_default();
    let all: Vec<Case> =
        cases().into_iter().filter(|case| case.kind == kind && case.to_string().contains(&wanted)).collect();
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some(case) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
            let start = Instant::now();
            let passed = catch_unwind(AssertUnwindSafe(|| (case.run)(*case))).is_ok();
            println!("{} {case} {:.1} s", if passed { "passed" } else { "FAILED" }, start.elapsed().as_secs_f32());
            if !passed {
                failed.lock().unwrap().push(case.to_string());
            }
        }
    };
    std::thread::scope(|scope| (0..AT_ONCE).for_each(|_| drop(scope.spawn(work))));
    let failed = failed.into_inner().unwrap();
    println!("{kind}: {} cases passed, {} failed", all.len() - failed.len(), failed.len());
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn cases_with_bird() {
    run(Bird);
}

#[test]
fn cases_with_frr() {
    run(Frr);
}

#[test]
fn cases_with_gobgp() {
    run(Gobgp);
}

#[test]
fn cases_with_exabgp() {
    run(Exabgp);
}

#[test]
fn there_are_sixty_cases_at_least_and_each_feature_is_asked_of_two_speakers() {
    let all = cases();
    let names: BTreeSet<String> = all.iter().map(Case::to_string).collect();
    assert_eq!(names.len(), all.len(), "two cases of one name");
    assert!(all.len() >= 60, "{} cases", all.len());
    for (feature, ..) in TABLE {
        let kinds: BTreeSet<String> =
            all.iter().filter(|case| case.feature == *feature).map(|case| case.kind.to_string()).collect();
        assert!(kinds.len() >= 2 || INJECTED.contains(feature), "{feature}: {kinds:?}");
    }
}

/// The AS of ours, and of who is outside.
const OWN_AS: u32 = 64_512;
const OTHER_AS: u32 = 64_513;

impl Case {
    /// What the other one is asked to be, with two routes.
    fn ask(&self) -> Ask {
        Ask {
            transport: self.transport,
            asn: if self.role == Outside { OTHER_AS } else { OWN_AS },
            peer_as: OWN_AS,
            peers: vec![1],
            password: None,
            hold: 90,
            graceful: false,
            notification: false,
            again: false,
            bfd: false,
            security: false,
            reflects: self.role == Reflector,
            listens: false,
            add_path: false,
            extended_next_hop: false,
            two_byte_as: false,
            limit: None,
            routes: two_routes(2),
        }
    }

    /// A wire with it on the far end, and ours.
    fn with(&self, ask: Ask, test: impl FnOnce(&Space, &mut Foreign<'_>)) {
        let (one, two) = wire().unwrap();
        let mut foreign = self.kind.start(&two, ask);
        test(&one, &mut foreign);
    }
}

/// Routes that begin at the router of that number: 10.N.0.0/24 and 2001:db8:N::/48.
fn two_routes(number: u8) -> Vec<Route> {
    vec![
        Route::to(&format!("10.{number}.0.0/24"), &address(V4, number)),
        Route::to(&format!("2001:db8:{number}::/48"), &address(V6, number)),
    ]
}

/// The router of ours of that number as the other one expects it, with these routes.
fn own(ask: &Ask, number: u8, routes: &[Route]) -> Setup {
    let mut one = peer(number, &ask.address(2), ask.peer_as, PeerAs::Is(ask.asn));
    one.session.hold_time = ask.hold;
    one.session.graceful_restart = ask.graceful.then_some(120);
    one.session.extended_next_hop = ask.extended_next_hop;
    one.session.socket.password = ask.password.map(|key| Password(key.to_owned()));
    one.session.socket.security_hops = ask.security.then_some(1);
    one.session.socket.source = Some(ask.address(number).parse().unwrap());
    one.bfd = ask.bfd.then(|| Timers::every(50 * MS, 4));
    if !ask.extended_next_hop {
        one.routes.own_v4 = Some(address(V4, number).parse().unwrap());
    }
    if ask.add_path {
        let both = ripstop_bgp::wire::Families::BOTH;
        (one.session.add_path_in, one.session.add_path_out) = (both, both);
    }
    of(number, vec![one], routes)
}

/// A router of ours of that number. Several may be in one namespace, each at addresses of its own.
fn of(number: u8, peers: Vec<Peer>, routes: &[Route]) -> Setup {
    let listen = [V4, V6].map(|family| (address(family, number).parse::<std::net::IpAddr>().unwrap(), 179).into());
    let routes = routes.iter().map(|route| (route.prefix, route.sets())).collect();
    Setup { listen: listen.into(), routes, ..setup(number, peers, &[]) }
}

/// One that our router of that number has, who is another of ours.
fn neighbour(ask: &Ask, number: u8, other: u8, other_as: u32) -> Peer {
    let mut one = peer(number, &ask.address(other), OWN_AS, PeerAs::Is(other_as));
    one.session.graceful_restart = None;
    one.session.socket.source = Some(ask.address(number).parse().unwrap());
    one.routes.own_v4 = Some(address(V4, number).parse().unwrap());
    one
}

/// Gives a namespace the addresses of one more router.
fn more(space: &Space, number: u8) {
    space.ip(&format!("addr add {}/24 dev one0", address(V4, number)));
    space.ip(&format!("addr add {}/64 dev one0 nodad", address(V6, number)));
}

/// What ours has of others.
fn table(end: &End) -> BTreeSet<Route> {
    let (all, _) = end.speaker.ask(|answers| answers.routes(1_000)).unwrap();
    let routes = all.into_iter().flat_map(|one| {
        let prefix = one.prefix;
        let paths = one.paths.into_iter().filter(|path| path.peer.is_some());
        paths.filter_map(move |path| Some(Route::of(prefix, &path.taken?)))
    });
    routes.collect()
}

/// Waits until ours has that of others.
fn has(end: &End, expected: &[Route]) {
    let expected: BTreeSet<Route> = expected.iter().cloned().collect();
    let until = Instant::now() + SOON;
    loop {
        let found = table(end);
        if found == expected {
            return;
        }
        let peers = || end.speaker.ask(|answers| answers.peers());
        assert!(Instant::now() < until, "ours has {found:#?}, expected {expected:#?}: {:?}", peers());
        std::thread::sleep(20 * MS);
    }
}

/// Both have of each other what begins there.
fn agree(end: &End, foreign: &Foreign<'_>, own: &[Route]) {
    has(end, &foreign.tells());
    let told: Vec<Route> = own.iter().map(|route| route.told(foreign.ask.peer_as, foreign.ask.asn)).collect();
    foreign.has(&told);
}

/// How the session with the other one is.
fn state(end: &End, ask: &Ask) -> PeerReport {
    let key = key(&ask.address(2));
    let all = end.speaker.ask(|answers| answers.peers()).unwrap();
    all.into_iter().find(|peer| peer.key == key).unwrap()
}

/// Waits until the session is so.
fn state_until(end: &End, ask: &Ask, what: &str, test: impl Fn(&PeerReport) -> bool) {
    let until = Instant::now() + SOON;
    while !test(&state(end, ask)) {
        assert!(Instant::now() < until, "not so: {what}: {:?}", state(end, ask));
        std::thread::sleep(20 * MS);
    }
}
