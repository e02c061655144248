//! Speakers of others on the far end of the wire: what they are asked to be, in one form for all of them, and what they then
//! have in their tables.

mod bird;
pub mod exabgp;
mod frr;
mod gobgp;
pub mod route;

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::time::Instant;

use ripstop_types::Family;

use super::bfd::MS;
use super::bgp::SOON;
use super::programs::Folder;
use super::space::{Daemon, Space};
use route::Route;

/// A speaker of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Bird,
    Frr,
    Gobgp,
    Exabgp,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bird => "bird",
            Self::Frr => "frr",
            Self::Gobgp => "gobgp",
            Self::Exabgp => "exabgp",
        })
    }
}

/// What one is asked to be: the router 2, which speaks with routers of these numbers, all of one AS.
#[derive(Debug, Clone)]
pub struct Ask {
    /// Sessions are between addresses of this family; routes of both go over them.
    pub transport: Family,
    pub asn: u32,
    pub peer_as: u32,
    pub peers: Vec<u8>,
    pub password: Option<&'static str>,
    pub hold: u16,
    pub graceful: bool,
    /// Routes are kept over notifications, too (RFC 8538).
    pub notification: bool,
    /// It is started again, after it had died.
    pub again: bool,
    pub bfd: bool,
    /// Its peers are neighbours (GTSM).
    pub security: bool,
    /// Its peers are its clients.
    pub reflects: bool,
    /// Who comes from the link is its peer, without being named.
    pub listens: bool,
    /// Several paths to a prefix, both ways.
    pub add_path: bool,
    /// IPv4 routes go by IPv6 next hops.
    pub extended_next_hop: bool,
    /// It knows AS numbers of two bytes alone.
    pub two_byte_as: bool,
    /// As many IPv4 routes are taken from a peer.
    pub limit: Option<u32>,
    /// What begins there.
    pub routes: Vec<Route>,
}

impl Ask {
    /// The address of a router, as sessions use it.
    pub fn address(&self, number: u8) -> String {
        address(self.transport, number)
    }

    /// The link's prefix.
    pub fn link(&self) -> &'static str {
        if self.transport == Family::V4 { "192.0.2.0/24" } else { "2001:db8::/64" }
    }

    pub fn internal(&self) -> bool {
        self.asn == self.peer_as
    }
}

/// The address of a router on the wire.
pub fn address(family: Family, number: u8) -> String {
    match family {
        Family::V4 => format!("192.0.2.{number}"),
        Family::V6 => format!("2001:db8::{number}"),
    }
}

/// Where it runs, and with which files.
pub struct At<'a> {
    pub space: &'a Space,
    pub folder: Folder,
}

impl At<'_> {
    /// What it said.
    fn log(&self, name: &str) -> String {
        std::fs::read_to_string(Path::new(&self.folder.file(name))).unwrap_or_default()
    }
}

/// How a kind of speaker is driven.
trait Program: Sync {
    /// Whether it is there.
    fn installed(&self) -> bool;

    /// Starts it.
    fn start(&self, at: &At<'_>, ask: &Ask) -> Vec<Daemon>;

    /// All routes that peers sent, as they are taken in.
    fn table(&self, at: &At<'_>, ask: &Ask) -> Vec<Route>;

    /// One more route begins there.
    fn announce(&self, at: &At<'_>, ask: &Ask, route: &Route);

    /// It begins there no more.
    fn withdraw(&self, at: &At<'_>, ask: &Ask, route: &Route);

    /// What it makes of a route that begins there.
    fn begins(&self, _: &Ask, route: &Route) -> Route {
        route.clone()
    }

    /// What it makes of a route that it reflects, besides what all do.
    fn reflects(&self, route: &Route) -> Route {
        route.clone()
    }

    /// Asks its peer for all routes again.
    fn refresh(&self, at: &At<'_>, ask: &Ask);

    /// Ends the session with a word why.
    fn shut_down(&self, at: &At<'_>, ask: &Ask, why: &str);

    /// How many UPDATEs came.
    fn updates(&self, at: &At<'_>, ask: &Ask) -> u64;

    /// What it said.
    fn log(&self, at: &At<'_>) -> String;
}

impl Kind {
    fn program(self) -> &'static dyn Program {
        match self {
            Self::Bird => &bird::Bird,
            Self::Frr => &frr::Frr,
            Self::Gobgp => &gobgp::Gobgp,
            Self::Exabgp => &exabgp::Exabgp,
        }
    }

    /// Whether it is there.
    pub fn installed(self) -> bool {
        self.program().installed()
    }

    /// Starts it.
    pub fn start(self, space: &Space, ask: Ask) -> Foreign<'_> {
        let at = At { space, folder: Folder::new() };
        let running = self.program().start(&at, &ask);
        Foreign { kind: self, at, ask, running }
    }
}

/// It runs.
pub struct Foreign<'a> {
    kind: Kind,
    pub at: At<'a>,
    pub ask: Ask,
    running: Vec<Daemon>,
}

impl Foreign<'_> {
    /// Kills it at once.
    pub fn die(&mut self) {
        self.running.clear();
    }

    /// Starts it again, as that.
    pub fn start_again(&mut self, ask: Ask) {
        self.running.clear();
        self.ask = ask;
        self.running = self.kind.program().start(&self.at, &self.ask);
    }

    /// All routes that peers sent. What peers of other ASes prefer is nobody else's affair.
    pub fn table(&self) -> BTreeSet<Route> {
        let mut all = self.kind.program().table(&self.at, &self.ask);
        if !self.ask.internal() {
            all.iter_mut().for_each(|route| route.local_pref = None);
        }
        all.into_iter().collect()
    }

    /// Waits until its table is that.
    pub fn has(&self, expected: &[Route]) {
        let expected: BTreeSet<Route> = expected.iter().cloned().collect();
        self.until("its table", |foreign| {
            let found = foreign.table();
            if found == expected { Ok(()) } else { Err(format!("found {found:#?}, expected {expected:#?}")) }
        });
    }

    /// Waits until something is so.
    pub fn until(&self, what: &str, test: impl Fn(&Self) -> Result<(), String>) {
        let end = Instant::now() + SOON;
        while let Err(why) = test(self) {
            assert!(Instant::now() < end, "{}: {what}: {why}\n{}", self.kind, self.log());
            std::thread::sleep(50 * MS);
        }
    }

    /// What ours must have of it: what begins there, as it is told.
    pub fn tells(&self) -> Vec<Route> {
        let begins = |route| self.kind.program().begins(&self.ask, route).told(self.ask.asn, self.ask.peer_as);
        self.ask.routes.iter().map(begins).collect()
    }

    /// What ours must have by it of a route that began at the router of that number, its client.
    pub fn reflects(&self, route: &Route, from: u8) -> Route {
        self.kind.program().reflects(route).told(self.ask.asn, self.ask.asn).reflected(from, 2)
    }

    /// One more route begins there, or it has other attributes.
    pub fn announce(&mut self, route: Route) {
        self.kind.program().announce(&self.at, &self.ask, &route);
        self.ask.routes.retain(|one| one.prefix != route.prefix);
        self.ask.routes.push(route);
    }

    /// It begins there no more.
    pub fn withdraw(&mut self, prefix: &str) {
        let prefix = prefix.parse().unwrap();
        let place = self.ask.routes.iter().position(|one| one.prefix == prefix).unwrap();
        let route = self.ask.routes.remove(place);
        self.kind.program().withdraw(&self.at, &self.ask, &route);
    }

    /// Asks its peer for all routes again, and waits until they came.
    pub fn refresh(&self) {
        let program = self.kind.program();
        let before = program.updates(&self.at, &self.ask);
        program.refresh(&self.at, &self.ask);
        self.until("routes come again", |_| {
            let now = program.updates(&self.at, &self.ask);
            if now >= before + 2 { Ok(()) } else { Err(format!("{now} updates, before {before}")) }
        });
    }

    /// Ends the session with a word why.
    pub fn shut_down(&self, why: &str) {
        self.kind.program().shut_down(&self.at, &self.ask, why);
    }

    /// Has the injector do something.
    pub fn inject(&self, line: &str) {
        assert_eq!(self.kind, Kind::Exabgp, "it is none");
        exabgp::Exabgp::say(&self.at, line);
    }

    /// Waits until it said something.
    pub fn says(&self, words: &str) {
        self.until(words, |foreign| if foreign.log().contains(words) { Ok(()) } else { Err("not said".to_owned()) });
    }

    pub fn log(&self) -> String {
        self.kind.program().log(&self.at)
    }
}
