//! BGP, our own on both ends, or by hand on the other one.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use ripstop_bgp::rib::policy::{Filter, Set};
use ripstop_bgp::rib::{MedScope, PeerConfig, RibConfig};
use ripstop_bgp::session::{Config, ListenRange, Password, PeerAs, SocketOptions, State};
use ripstop_bgp::wire::{
    AsPath, Attributes, Capability, Context, Families, Message, NextHop, Nlri, Open, announce, decode, frame, keepalive,
};
use ripstop_speaker::bgp::{Peer, PeerKey, PeerReport, Range, Report, Reports, Setup, Speaker};
use ripstop_types::{Prefix, ScopedAddr};

use super::bfd::{MS, ip};
use super::programs::CUT;
use super::space::{Space, wire};

pub const SOON: Duration = Duration::from_secs(20);

/// One end: BGP in a namespace, and what it last told.
pub struct End {
    pub speaker: Speaker,
    reports: Reports,
    pub routes: BTreeMap<Prefix, Vec<ScopedAddr>>,
    pub peers: BTreeMap<PeerKey, PeerReport>,
    pub faults: Vec<String>,
    pub settled: bool,
    /// Prefixes in the order in which they lost their routes.
    pub lost: Vec<Prefix>,
}

impl End {
    pub fn start(space: &Space, setup: Setup) -> Self {
        Self::start_again(space, setup, false)
    }

    pub fn start_again(space: &Space, setup: Setup, restarted: bool) -> Self {
        let (speaker, reports) = space.inside(move || Speaker::start(setup, restarted, 7)).unwrap();
        let (routes, peers, faults, lost) = (BTreeMap::new(), BTreeMap::new(), Vec::new(), Vec::new());
        Self { speaker, reports, routes, peers, faults, settled: false, lost }
    }

    fn take(&mut self, report: Report) {
        for route in report.routes {
            if route.next_hops.is_empty() {
                self.lost.extend(self.routes.remove(&route.prefix).map(|_| route.prefix));
            } else {
                self.routes.insert(route.prefix, route.next_hops.to_vec());
            }
        }
        report.gone.iter().for_each(|key| drop(self.peers.remove(key)));
        self.peers.extend(report.peers.into_iter().map(|peer| (peer.key.clone(), peer)));
        (self.faults, self.settled) = (report.faults, report.settled);
    }

    /// Takes in what is told until something is so.
    pub fn until(&mut self, what: &str, within: Duration, test: impl Fn(&Self) -> bool) {
        let end = Instant::now() + within;
        while !test(self) {
            match self.reports.next(end.saturating_duration_since(Instant::now())) {
                Ok(report) => self.take(report),
                Err(error) => {
                    panic!("not in {within:?}: {what} ({error}): {:#?} {:?} {:?}", self.peers, self.routes, self.faults)
                }
            }
        }
    }

    /// Takes in what is told for a while.
    pub fn listen(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while let Ok(report) = self.reports.next(end.saturating_duration_since(Instant::now())) {
            self.take(report);
        }
    }

    pub fn peer(&self, address: &str) -> &PeerReport {
        self.peers.get(&key(address)).unwrap_or_else(|| panic!("no {address}: {:?}", self.peers))
    }

    pub fn up(&mut self, address: &str) {
        let is = |end: &Self| end.peers.get(&key(address)).is_some_and(|peer| peer.state == State::Established);
        self.until(&format!("{address} is up"), SOON, is);
    }

    pub fn down(&mut self, address: &str, within: Duration) -> String {
        let is = |end: &Self| {
            let down = |peer: &PeerReport| peer.state != State::Established && peer.error.is_some();
            end.peers.get(&key(address)).is_some_and(down)
        };
        self.until(&format!("{address} is down"), within, is);
        self.peer(address).error.clone().unwrap_or_default()
    }

    /// Waits until it says that of a peer there is no session with.
    pub fn tells(&mut self, address: &str, words: &str) {
        let is = |end: &Self| {
            let error = end.peers.get(&key(address)).and_then(|peer| peer.error.as_deref());
            error.is_some_and(|text| text.contains(words))
        };
        self.until(words, SOON, is);
    }

    pub fn has(&mut self, to: &str, next_hop: &str) {
        let (to, hop) = (prefix(to), ip(next_hop));
        let is = |end: &Self| end.routes.get(&to).is_some_and(|hops| hops.iter().any(|one| one.address() == hop));
        self.until(&format!("{to} by {hop}"), SOON, is);
    }

    pub fn lacks(&mut self, to: &str) {
        let to = prefix(to);
        self.until(&format!("{to} is gone"), SOON, |end| !end.routes.contains_key(&to));
    }
}

/// A peer at an address, or whoever is on a link.
pub fn key(name: &str) -> PeerKey {
    match name.parse() {
        Ok(address) => PeerKey { address, interface: None },
        Err(_) => PeerKey { address: ip("::"), interface: Some(name.parse().unwrap()) },
    }
}

pub fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

/// A speaker of that number, which is its router id's, with these peers and routes.
pub fn setup(number: u8, peers: Vec<Peer>, routes: &[&str]) -> Setup {
    let id = Ipv4Addr::new(192, 0, 2, number);
    let routes = routes.iter().map(|text| (prefix(text), Vec::<Set>::new())).collect();
    let rib = RibConfig { router_id: id, cluster_id: id, multipath: 8, med: MedScope::SameAs };
    let listen = vec!["0.0.0.0:179".parse().unwrap(), "[::]:179".parse().unwrap()];
    Setup { listen, peers, routes, ..Setup::empty(rib) }
}

/// A peer of the speaker of that number, with open filters.
pub fn peer(number: u8, address: &str, local_as: u32, peer_as: PeerAs) -> Peer {
    let mut session = Config::new(ip(address), local_as, peer_as, Ipv4Addr::new(192, 0, 2, number));
    session.connect_retry = 1_000;
    let routes = PeerConfig {
        import: Some(Filter::accept_all()),
        export: Some(Filter::accept_all()),
        own_v6: Some(NextHop::V6(format!("2001:db8::{number}").parse().unwrap(), None)),
        ..PeerConfig::new(ip(address), local_as)
    };
    Peer { session, routes, bfd: None, shut_down: None }
}

fn with_password(mut peer: Peer, password: &str) -> Peer {
    let password = Some(Password(password.to_owned()));
    peer.session.socket = SocketOptions { password, ..peer.session.socket };
    peer
}

#[test]
fn both_connect_at_once_and_routes_come_go_and_change() {
    let Some((one, two)) = wire() else { return };
    let there = |routes: &[&str]| setup(2, vec![peer(2, "192.0.2.1", 64_513, PeerAs::External)], routes);
    let mut a = End::start(&one, setup(1, vec![peer(1, "192.0.2.2", 64_512, PeerAs::Is(64_513))], &["10.1.0.0/24"]));
    let mut b = End::start(&two, there(&["10.2.0.0/24", "2001:db8:2::/48"]));
    a.up("192.0.2.2");
    b.up("192.0.2.1");
    a.has("10.2.0.0/24", "192.0.2.2");
    a.has("2001:db8:2::/48", "2001:db8::2");
    b.has("10.1.0.0/24", "192.0.2.1");
    assert!(b.speaker.set_up(there(&["10.2.1.0/24", "2001:db8:2::/48"])));
    a.has("10.2.1.0/24", "192.0.2.2");
    a.lacks("10.2.0.0/24");
    // A change that concerns no session ends none: another peer comes, filters change.
    let mut other = there(&["10.2.1.0/24", "2001:db8:2::/48"]);
    other.peers.push(peer(2, "192.0.2.9", 64_513, PeerAs::External));
    other.peers[0].routes.export = None;
    b.speaker.set_up(other);
    a.lacks("10.2.1.0/24");
    a.lacks("2001:db8:2::/48");
    assert_eq!(a.peer("192.0.2.2").flaps, 0);
    let told = a.speaker.ask(|answers| answers.explain("10.1.0.0/24".parse().unwrap())).unwrap();
    assert_eq!(told.paths.len(), 1);
    assert!(told.told.iter().any(|(to, words)| to == "192.0.2.2" && words.starts_with("told:")), "{told:?}");
    // Taken away, it hears why.
    b.speaker.set_up(setup(2, vec![], &[]));
    let why = a.down("192.0.2.2", SOON);
    assert!(why.contains("this node is no longer its peer"), "{why}");
}

#[test]
fn passwords_must_be_the_same_and_changing_them_needs_no_restart() {
    let Some((one, two)) = wire() else { return };
    for (here, there) in [("192.0.2.2", "192.0.2.1"), ("2001:db8::2", "2001:db8::1")] {
        let a = |password: &str| setup(1, vec![with_password(peer(1, here, 7, PeerAs::Internal), password)], &[]);
        let b = |password: &str| setup(2, vec![with_password(peer(2, there, 7, PeerAs::Internal), password)], &[]);
        let (mut first, mut second) = (End::start(&one, a("secret")), End::start(&two, b("other")));
        let wrong = |end: &End| {
            let error = end.peers.get(&key(here)).and_then(|peer| peer.error.clone()).unwrap_or_default();
            error.contains("the password may differ")
        };
        first.until("a wrong password is named", SOON, wrong);
        assert_ne!(first.peer(here).state, State::Established);
        second.speaker.set_up(b("secret"));
        first.up(here);
        second.up(there);
        first.speaker.set_up(a(&"k".repeat(81)));
        first.until("a password too long is named", SOON, |end| end.faults.iter().any(|one| one.contains("81 bytes")));
    }
}

#[test]
fn who_comes_from_a_range_is_a_peer_while_it_is_connected() {
    let Some((one, two)) = wire() else { return };
    let template = peer(1, "192.0.2.0", 64_512, PeerAs::External);
    let listen = ListenRange { range: prefix("192.0.2.0/24"), template: template.session.clone(), limit: 2 };
    let range = Range { listen, routes: template.routes, bfd: None };
    let mut a = End::start(&one, Setup { ranges: vec![range], ..setup(1, vec![], &["10.1.0.0/24"]) });
    let mut b = End::start(&two, setup(2, vec![peer(2, "192.0.2.1", 64_513, PeerAs::External)], &["10.2.0.0/24"]));
    a.up("192.0.2.2");
    assert_eq!(a.peer("192.0.2.2").range, Some(prefix("192.0.2.0/24")));
    a.has("10.2.0.0/24", "192.0.2.2");
    b.has("10.1.0.0/24", "192.0.2.1");
    let mut shut = setup(2, vec![peer(2, "192.0.2.1", 64_513, PeerAs::External)], &[]);
    shut.peers[0].shut_down = Some("by hand".to_owned());
    b.speaker.set_up(shut);
    a.until("it is none any more", SOON, |end| !end.peers.contains_key(&key("192.0.2.2")));
    a.lacks("10.2.0.0/24");
}

#[test]
fn a_cut_link_ends_a_session_by_the_hold_time_and_sooner_by_bfd() {
    let Some((one, two)) = wire() else { return };
    let timers = ripstop_bfd::Timers::every(50 * MS, 4);
    for bfd in [None, Some(timers)] {
        let with = |mut peer: Peer| {
            peer.session.hold_time = 3;
            peer.session.graceful_restart = None;
            Peer { bfd, ..peer }
        };
        let mut a = End::start(&one, setup(1, vec![with(peer(1, "192.0.2.2", 64_512, PeerAs::External))], &[]));
        let b = with(peer(2, "192.0.2.1", 64_513, PeerAs::External));
        let mut b = End::start(&two, setup(2, vec![b], &["10.2.0.0/24"]));
        a.has("10.2.0.0/24", "192.0.2.2");
        if bfd.is_some() {
            let is = |end: &End| end.peers.values().any(|peer| peer.bfd == Some(ripstop_bfd::State::Up));
            a.until("BFD is up", SOON, is);
            b.until("BFD is up", SOON, is);
            // Until each has heard that the other one is up, both are slow.
            std::thread::sleep(500 * MS);
        }
        let cut = Instant::now();
        two.run("nft", &[CUT]);
        let why = a.down("192.0.2.2", Duration::from_secs(10));
        let took = cut.elapsed();
        a.lacks("10.2.0.0/24");
        println!("{bfd:?}: down after {took:?}: {why}");
        let (most, words) = match bfd {
            None => (Duration::from_millis(3_600), "hold time"),
            Some(_) => (Duration::from_millis(700), "BFD says"),
        };
        assert!(took < most && why.contains(words), "{took:?} {why}");
        two.run("nft", &["delete table inet cut"]);
    }
}

/// A speaker by hand: what it is sent, and what it sends.
struct ByHand {
    stream: TcpStream,
    come: Vec<u8>,
    context: Context,
}

impl ByHand {
    /// Connects and comes to be established, as a speaker of that AS. Who is set up anew at this moment hangs up and is called again.
    fn connect(space: &Space, asn: u32) -> Self {
        let until = Instant::now() + SOON;
        loop {
            if let Some(hand) = Self::call(space, asn) {
                return hand;
            }
            assert!(Instant::now() < until, "it hangs up again and again");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn call(space: &Space, asn: u32) -> Option<Self> {
        let stream = space.inside(|| TcpStream::connect("192.0.2.1:179")).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let context = Context { four_byte_as: true, families: Families { v4: true, v6: false }, ..Context::default() };
        let mut hand = Self { stream, come: Vec::new(), context };
        let capabilities = vec![Capability::FourByteAs(asn)];
        let open = Open { asn, hold_time: 90, router_id: Ipv4Addr::new(9, 9, 9, 9), capabilities };
        hand.stream.write_all(&open.encode()).ok()?;
        let Message::Open(_) = hand.next()? else { return None };
        hand.stream.write_all(&keepalive()).ok()?;
        (hand.next()? == Message::Keepalive).then_some(hand)
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The next message; none when the connection has ended.
    fn next(&mut self) -> Option<Message> {
        loop {
            if let Some(length) = frame(&self.come, false).unwrap() {
                let message = decode(&self.come[..length], &self.context).unwrap();
                self.come.drain(..length);
                return Some(message);
            }
            let mut bytes = [0; 65_536];
            let count = match self.stream.read(&mut bytes) {
                Err(error) if error.kind() == ErrorKind::ConnectionReset => 0,
                read => read.unwrap(),
            };
            if count == 0 {
                return None;
            }
            self.come.extend_from_slice(&bytes[..count]);
        }
    }

    fn announce(&mut self, count: u32) {
        let attributes =
            Attributes { as_path: AsPath::sequence(&[64_513]), ..Attributes::new(NextHop::V4([192, 0, 2, 2].into())) };
        let nlri = |one: u32| {
            let address = IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 + (one << 8)));
            Nlri::of(Prefix::containing(address, 24).unwrap())
        };
        let all: Vec<Nlri> = (0..count).map(nlri).collect();
        let mut bytes = Vec::new();
        assert!(announce(&mut bytes, &self.context, &attributes, &all));
        self.send(&bytes);
    }
}

#[test]
fn malformed_updates_cost_no_more_than_they_must() {
    let Some((one, two)) = wire() else { return };
    let far = Peer { ..peer(1, "192.0.2.2", 64_512, PeerAs::Is(64_513)) };
    let mut a = End::start(&one, setup(1, vec![Peer { session: Config { passive: true, ..far.session }, ..far }], &[]));
    let mut hand = ByHand::connect(&two, 64_513);
    hand.announce(2);
    a.has("10.0.1.0/24", "192.0.2.2");
    // The same routes again, with an ORIGIN that is none: they are as if withdrawn, and the session stays.
    let marker = [0xff; 16];
    let body = [
        &[0, 0, 0, 24][..],
        &[0x40, 1, 1, 9],
        &[0x40, 2, 6, 2, 1, 0, 0, 0xfc, 0x01],
        &[0x40, 3, 4, 192, 0, 2, 2],
        &[0x40, 5, 0, 24],
    ]
    .concat();
    let body = [&body[..body.len() - 4], &[0xc0, 99, 1, 0][..], &[24, 10, 0, 1]].concat();
    let length = u16::try_from(19 + body.len()).unwrap().to_be_bytes();
    hand.send(&[&marker[..], &length, &[2], &body].concat());
    a.lacks("10.0.1.0/24");
    a.until("the fault is told", SOON, |end| end.peer("192.0.2.2").faults > 0);
    let peer = a.peer("192.0.2.2");
    assert_eq!(peer.state, State::Established);
    assert!(peer.last_fault.as_ref().is_some_and(|text| text.contains("ORIGIN")), "{peer:?}");
    a.has("10.0.0.0/24", "192.0.2.2");
    // Where prefixes cannot be found the session ends, and both know why.
    hand.send(&[&marker[..], &[0, 24], &[2], &[0, 0, 0, 0, 33]].concat());
    let told = std::iter::from_fn(|| hand.next()).find(|one| matches!(one, Message::Notification(_)));
    assert!(matches!(told, Some(Message::Notification(told)) if told.code == 3), "no word about the UPDATE");
    let why = a.down("192.0.2.2", SOON);
    assert!(why.contains("33"), "{why}");
    a.lacks("10.0.0.0/24");
}

#[test]
fn who_connects_from_farther_away_than_a_neighbour_hears_nothing() {
    let Some((one, two)) = wire() else { return };
    for (here, there) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")] {
        let mut near = peer(1, there, 64_512, PeerAs::External);
        near.session.passive = true;
        near.session.socket.security_hops = Some(1);
        let _end = End::start(&one, setup(1, vec![near], &[]));
        // It sends with the system's TTL.
        let mut stream = two.inside(|| TcpStream::connect((ip(here), 179))).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let heard = match stream.read(&mut [0; 19]) {
            Err(error) if error.kind() == ErrorKind::ConnectionReset => 0,
            read => read.unwrap(),
        };
        assert_eq!(heard, 0, "it is greeted");
    }
}

#[test]
fn too_many_routes_and_a_peer_that_does_not_read_end_their_own_session_alone() {
    let Some((one, two)) = wire() else { return };
    let mut far = peer(1, "192.0.2.2", 64_512, PeerAs::External);
    far.session.passive = true;
    far.routes.max_prefixes = Some(1_000);
    let near = peer(1, "2001:db8::2", 64_512, PeerAs::External);
    let mut a = End::start(&one, setup(1, vec![far, near], &["10.1.0.0/24"]));
    // Two that call each other may hang up once.
    let mut b = peer(2, "2001:db8::1", 64_514, PeerAs::External);
    b.session.passive = true;
    let mut b = End::start(&two, setup(2, vec![b], &["10.2.0.0/24"]));
    b.up("2001:db8::1");
    let mut hand = ByHand::connect(&two, 64_513);
    hand.announce(3_000);
    let why = a.down("192.0.2.2", SOON);
    assert!(why.contains("more than 1000 paths"), "{why}");
    let told = std::iter::from_fn(|| hand.next()).find(|one| matches!(one, Message::Notification(_)));
    assert!(matches!(told, Some(Message::Notification(told)) if told.subcode == 1));
    a.lacks("10.0.5.0/24");
    assert_eq!((a.peer("2001:db8::2").state, a.peer("2001:db8::2").flaps), (State::Established, 0));
    // Another by hand takes nothing while routes come and go: the other one hears of them all the same.
    let mut far = peer(1, "192.0.2.2", 64_512, PeerAs::External);
    far.session.passive = true;
    let setup_with = |routes: Vec<String>| {
        let routes: Vec<&str> = routes.iter().map(String::as_str).collect();
        setup(1, vec![far.clone(), peer(1, "2001:db8::2", 64_512, PeerAs::External)], &routes)
    };
    a.speaker.set_up(setup_with(vec![]));
    let _hand = ByHand::connect(&two, 64_513);
    a.up("192.0.2.2");
    for round in 0..40u32 {
        let routes = (0..30_000u32).map(|one| format!("100.{}.{}.0/24", 64 + one / 256, (one + round) % 256));
        let chosen = routes.filter(|_| round % 2 == 0).collect();
        a.speaker.set_up(setup_with(chosen));
    }
    a.speaker.set_up(setup_with(vec!["10.1.77.0/24".to_owned()]));
    b.until("the last route", Duration::from_secs(60), |end| end.routes.contains_key(&prefix("10.1.77.0/24")));
    assert_eq!(a.peer("2001:db8::2").flaps, 0);
}
