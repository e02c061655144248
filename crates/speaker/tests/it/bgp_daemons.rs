//! BGP with BIRD and FRR on the other end: each case with each of them.

use std::path::Path;
use std::time::{Duration, Instant};

use ripstop_bfd::Timers;
use ripstop_bgp::rib::policy::Set;
use ripstop_bgp::session::{ListenRange, Password, PeerAs, State};
use ripstop_speaker::bgp::{Peer, Range, Setup};

use super::bfd::MS;
use super::bgp::{End, SOON, key, peer, prefix, setup};
use super::programs::{CUT, Folder, bird, frr, has_bird, has_frr};
use super::space::{Daemon, Space, wire};

/// A daemon on the other end, which announces 10.2.0.0/24 and 2001:db8:2::/48.
#[derive(Clone, Copy)]
enum Kind {
    Bird,
    Frr,
}

/// What is asked of it.
#[derive(Clone, Copy)]
struct Ask {
    local: &'static str,
    asn: u32,
    peer: &'static str,
    peer_as: u32,
    password: Option<&'static str>,
    hold: u16,
    graceful: bool,
    again: bool,
    bfd: bool,
    security: bool,
}

const EXTERNAL: Ask = Ask {
    local: "192.0.2.2",
    asn: 64_513,
    peer: "192.0.2.1",
    peer_as: 64_512,
    password: None,
    hold: 90,
    graceful: false,
    again: false,
    bfd: false,
    security: false,
};

const OVER_IPV6: Ask = Ask { local: "2001:db8::2", asn: 64_512, peer: "2001:db8::1", ..EXTERNAL };

/// It runs.
struct Foreign<'a> {
    kind: Kind,
    space: &'a Space,
    folder: Folder,
    running: Vec<Daemon>,
}

impl Kind {
    /// A wire, if the program is there.
    fn wire(self) -> Option<(Space, Space)> {
        let there = match self {
            Self::Bird => has_bird(),
            Self::Frr => has_frr(),
        };
        wire().filter(|_| there)
    }

    fn start(self, space: &Space, ask: Ask) -> Foreign<'_> {
        let mut foreign = Foreign { kind: self, space, folder: Folder::new(), running: Vec::new() };
        foreign.run(ask);
        foreign
    }
}

impl Foreign<'_> {
    fn run(&mut self, ask: Ask) {
        self.running = match self.kind {
            Kind::Bird if ask.again => vec![bird(self.space, &self.folder, &bird_conf(ask), &["-R"])],
            Kind::Bird => vec![bird(self.space, &self.folder, &bird_conf(ask), &[])],
            Kind::Frr => {
                let control = self.folder.file("bfdd.sock");
                let bfd: &[&str] = &["--bfdctl", &control];
                let conf = frr_conf(ask);
                let daemons: &[(&str, &str, &[&str])] = &[("bfdd", "", bfd), ("bgpd", &conf, &[])];
                frr(self.space, &self.folder, if ask.bfd { daemons } else { &daemons[1..] })
            }
        };
    }

    /// Kills it at once and starts it again.
    fn crash(&mut self, ask: Ask) {
        self.running.clear();
        let _ = std::fs::remove_file(self.folder.file("zserv"));
        self.run(ask);
    }

    fn say(&self, lines: &[&str]) -> String {
        match self.kind {
            Kind::Bird => {
                let control = self.folder.file("ctl");
                // It fails where there is no such route.
                let output = self.space.command("birdc", &[&["-s", &control], lines].concat()).output().unwrap();
                String::from_utf8_lossy(&output.stdout).into_owned()
            }
            Kind::Frr => {
                let folder = self.folder.file("");
                let lines = lines.iter().flat_map(|line| ["-c", line]);
                let all: Vec<&str> = ["--vty_socket", &folder].into_iter().chain(lines).collect();
                self.space.run("vtysh", &all)
            }
        }
    }

    /// What it knows of a prefix.
    fn knows(&self, prefix: &str) -> String {
        let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
        match self.kind {
            Kind::Bird => self.say(&["show", "route", prefix, "all"]),
            Kind::Frr => self.say(&[&format!("show bgp {family} unicast {prefix}")]),
        }
    }

    fn comes_to_know(&self, prefix: &str, words: &str) {
        let end = Instant::now() + SOON;
        while !self.knows(prefix).contains(words) {
            assert!(Instant::now() < end, "{prefix} {words}: {}\n{}", self.knows(prefix), self.log());
            std::thread::sleep(50 * MS);
        }
    }

    fn forgets(&self, prefix: &str, words: &str) {
        let end = Instant::now() + SOON;
        while self.knows(prefix).contains(words) {
            assert!(Instant::now() < end, "{prefix} {words}: {}\n{}", self.knows(prefix), self.log());
            std::thread::sleep(50 * MS);
        }
    }

    fn withdraw(&self) {
        match self.kind {
            Kind::Bird => self.say(&["disable", "s4"]),
            Kind::Frr => {
                self.say(&["configure", "router bgp 64513", "address-family ipv4 unicast", "no network 10.2.0.0/24"])
            }
        };
    }

    fn log(&self) -> String {
        let name = match self.kind {
            Kind::Bird => "log",
            Kind::Frr => "bgpd.log",
        };
        std::fs::read_to_string(Path::new(&self.folder.file(name))).unwrap_or_default()
    }
}

fn bird_conf(ask: Ask) -> String {
    let line = |wanted: bool, text: &str| if wanted { format!("  {text};\n") } else { String::new() };
    let channel = |family: &str, other: bool, address: &str| {
        // BIRD has no other address to tell than that of the session.
        let hop = if other && family == "ipv6" { format!("next hop address {address};") } else { String::new() };
        format!("  {family} {{ import all; export where source = RTS_STATIC; extended next hop on; {hop} }};\n")
    };
    [
        "log stderr all;\nrouter id 192.0.2.2;\nprotocol device {}\n".to_owned(),
        "protocol static s4 { ipv4; route 10.2.0.0/24 blackhole; }\n".to_owned(),
        "protocol static s6 { ipv6; route 2001:db8:2::/48 blackhole; }\n".to_owned(),
        "protocol bfd { interface \"two0\" { min rx interval 50 ms; min tx interval 50 ms; multiplier 4; }; }\n"
            .to_owned(),
        format!(
            "protocol bgp one {{\n  local {} as {};\n  neighbor {} as {};\n",
            ask.local, ask.asn, ask.peer, ask.peer_as
        ),
        format!("  hold time {};\n  connect retry time 1;\n  error wait time 1, 2;\n", ask.hold),
        ask.password.map_or(String::new(), |key| format!("  password \"{key}\";\n")),
        line(true, if ask.graceful { "graceful restart on" } else { "graceful restart off" }),
        line(ask.bfd, "bfd on"),
        line(ask.security, "ttl security on"),
        channel("ipv4", ask.local.contains(':'), "192.0.2.2"),
        channel("ipv6", ask.local.contains('.'), "2001:db8::2"),
        "}\n".to_owned(),
    ]
    .concat()
}

fn frr_conf(ask: Ask) -> String {
    let Ask { peer, .. } = ask;
    let line = |wanted: bool, text: &str| if wanted { format!(" neighbor {peer} {text}\n") } else { String::new() };
    let family = |name: &str, route: &str| {
        format!(" address-family {name} unicast\n  network {route}\n  neighbor {peer} activate\n exit-address-family\n")
    };
    [
        format!("log stdout\nrouter bgp {}\n bgp router-id 192.0.2.2\n no bgp ebgp-requires-policy\n", ask.asn),
        " no bgp network import-check\n no bgp default ipv4-unicast\n".to_owned(),
        if ask.graceful { " bgp graceful-restart\n bgp graceful-restart preserve-fw-state\n" } else { "" }.to_owned(),
        format!(" neighbor {peer} remote-as {}\n neighbor {peer} update-source {}\n", ask.peer_as, ask.local),
        format!(" neighbor {peer} timers {} {}\n neighbor {peer} timers connect 1\n", ask.hold / 3, ask.hold),
        format!(" neighbor {peer} advertisement-interval 0\n"),
        line(ask.password.is_some(), &format!("password {}", ask.password.unwrap_or(""))),
        line(ask.bfd, "bfd"),
        line(ask.bfd, "bfd 4 50 50"),
        line(ask.security, "ttl-security hops 1"),
        line(ask.local.contains(':'), "capability extended-nexthop"),
        family("ipv4", "10.2.0.0/24"),
        family("ipv6", "2001:db8:2::/48"),
    ]
    .concat()
}

/// This end of a session as it is asked for, with routes 10.1.0.0/24 and 2001:db8:1::/48.
fn own(ask: Ask) -> Setup {
    let mut one = peer(1, ask.local, ask.peer_as, PeerAs::Is(ask.asn));
    one.session.hold_time = ask.hold;
    one.session.graceful_restart = ask.graceful.then_some(120);
    one.session.socket.password = ask.password.map(|key| Password(key.to_owned()));
    one.session.socket.security_hops = ask.security.then_some(1);
    one.bfd = ask.bfd.then(|| Timers::every(50 * MS, 4));
    setup(1, vec![one], &["10.1.0.0/24", "2001:db8:1::/48"])
}

fn routes_come_and_go_both_ways(kind: Kind) {
    let Some((one, two)) = kind.wire() else { return };
    let foreign = kind.start(&two, EXTERNAL);
    let mut end = End::start(&one, own(EXTERNAL));
    end.has("10.2.0.0/24", "192.0.2.2");
    end.has("2001:db8:2::/48", "2001:db8::2");
    foreign.comes_to_know("10.1.0.0/24", "192.0.2.1");
    foreign.comes_to_know("2001:db8:1::/48", "2001:db8::1");
    foreign.withdraw();
    end.lacks("10.2.0.0/24");
    // A route changes: what it is told with is what the other end has.
    let mut other = own(EXTERNAL);
    other.routes.remove(&prefix("2001:db8:1::/48"));
    other.routes.insert(prefix("10.1.0.0/24"), vec![Set::AddCommunity(64_512 << 16 | 77), Set::Med(Some(4_711))]);
    end.speaker.set_up(other);
    foreign.comes_to_know("10.1.0.0/24", "4711");
    let text = foreign.knows("10.1.0.0/24");
    assert!(text.contains("64512:77") || text.contains("(64512,77)"), "{text}");
    foreign.forgets("2001:db8:1::/48", "2001:db8::1");
    assert_eq!((end.peer("192.0.2.2").flaps, end.peer("192.0.2.2").peer_as), (0, Some(64_513)));
}

fn ipv4_goes_by_ipv6_next_hops(kind: Kind) {
    let Some((one, two)) = kind.wire() else { return };
    let foreign = kind.start(&two, OVER_IPV6);
    let mut end = End::start(&one, own(OVER_IPV6));
    end.has("10.2.0.0/24", "2001:db8::2");
    end.has("2001:db8:2::/48", "2001:db8::2");
    foreign.comes_to_know("10.1.0.0/24", "2001:db8::1");
    foreign.comes_to_know("2001:db8:1::/48", "2001:db8::1");
}

fn passwords_are_the_same(kind: Kind) {
    let Some((one, two)) = kind.wire() else { return };
    let ask = Ask { password: Some("knock-knock"), ..EXTERNAL };
    let _foreign = kind.start(&two, ask);
    let mut end = End::start(&one, own(Ask { password: Some("who"), ..ask }));
    let named = |end: &End| {
        let peer = end.peers.get(&key("192.0.2.2"));
        peer.and_then(|peer| peer.error.as_deref()).is_some_and(|text| text.contains("the password may differ"))
    };
    end.until("the password is named", SOON, named);
    assert_ne!(end.peer("192.0.2.2").state, State::Established);
    end.speaker.set_up(own(ask));
    end.up("192.0.2.2");
}

fn near_peers_alone_are_heard(kind: Kind) {
    let Some((one, two)) = kind.wire() else { return };
    let ask = Ask { security: true, ..EXTERNAL };
    let _foreign = kind.start(&two, ask);
    let mut end = End::start(&one, own(ask));
    end.has("10.2.0.0/24", "192.0.2.2");
}

fn an_own_restart_is_not_noticed(kind: Kind) {
    let Some((one, two)) = kind.wire() else { return };
    let ask = Ask { graceful: true, ..EXTERNAL };
    let foreign = kind.start(&two, ask);
    let mut end = End::start(&one, own(ask));
    end.has("10.2.0.0/24", "192.0.2.2");
    foreign.comes_to_know("10.1.0.0/24", "192.0.2.1");
    // Its connection breaks without a word.
    drop(end);
    let away = Instant::now();
    while away.elapsed() < Duration::from_millis(1_500) {
        assert!(foreign.knows("10.1.0.0/24").contains("192.0.2.1"), "{}", foreign.log());
        std::thread::sleep(50 * MS);
    }
    let mut end = End::start_again(&one, own(ask), true);
    assert!(!end.settled);
    let back = Instant::now();
    let settled = |end: &End| end.settled && end.routes.contains_key(&prefix("10.2.0.0/24"));
    end.until("all is known again", SOON, settled);
    println!("settled {:?} after the restart", back.elapsed());
    let seen = Instant::now();
    while seen.elapsed() < Duration::from_secs(2) {
        assert!(foreign.knows("10.1.0.0/24").contains("192.0.2.1"), "{}", foreign.log());
        std::thread::sleep(50 * MS);
    }
    // What did not begin here again is gone, by the end of what this end sends.
    drop(end);
    let mut less = own(ask);
    less.routes.remove(&prefix("10.1.0.0/24"));
    let mut end = End::start_again(&one, less, true);
    end.up("192.0.2.2");
    foreign.forgets("10.1.0.0/24", "192.0.2.1");
    foreign.comes_to_know("2001:db8:1::/48", "2001:db8::1");
}

fn a_restart_of_the_peer_costs_no_route(kind: Kind) {
    let Some((one, two)) = kind.wire() else { return };
    let ask = Ask { graceful: true, ..EXTERNAL };
    let mut foreign = kind.start(&two, ask);
    let mut end = End::start(&one, own(ask));
    end.has("10.2.0.0/24", "192.0.2.2");
    foreign.comes_to_know("10.1.0.0/24", "192.0.2.1");
    end.listen(500 * MS);
    foreign.crash(Ask { again: true, ..ask });
    end.until("its end is noticed", SOON, |end| end.peer("192.0.2.2").flaps == 1);
    end.up("192.0.2.2");
    foreign.comes_to_know("10.1.0.0/24", "192.0.2.1");
    end.listen(Duration::from_secs(2));
    assert_eq!((&end.lost[..], end.routes.len()), (&[][..], 2), "{:?}", end.routes);
}

fn a_silent_peer_is_dead_after_the_hold_time(kind: Kind) {
    let Some((one, two)) = kind.wire() else { return };
    let ask = Ask { hold: 3, ..EXTERNAL };
    let foreign = kind.start(&two, ask);
    let mut end = End::start(&one, own(Ask { hold: 30, ..ask }));
    end.has("10.2.0.0/24", "192.0.2.2");
    foreign.comes_to_know("10.1.0.0/24", "192.0.2.1");
    assert_eq!(end.peer("192.0.2.2").hold_time, Some(3), "the lesser one");
    let cut = Instant::now();
    two.run("nft", &[CUT]);
    let why = end.down("192.0.2.2", Duration::from_secs(5));
    assert!(why.contains("hold time") && cut.elapsed() > Duration::from_millis(1_500), "{why} {:?}", cut.elapsed());
    end.lacks("10.2.0.0/24");
    two.run("nft", &["delete table inet cut"]);
    end.has("10.2.0.0/24", "192.0.2.2");
}

fn bfd_takes_a_session_down_at_once(kind: Kind) {
    let Some((one, two)) = kind.wire() else { return };
    let ask = Ask { bfd: true, ..EXTERNAL };
    let _foreign = kind.start(&two, ask);
    let mut end = End::start(&one, own(ask));
    end.has("10.2.0.0/24", "192.0.2.2");
    let is = |end: &End| end.peer("192.0.2.2").bfd == Some(ripstop_bfd::State::Up);
    end.until("BFD is up", SOON, is);
    // Both ends poll for faster timers, once up.
    std::thread::sleep(Duration::from_secs(3));
    let cut = Instant::now();
    two.run("nft", &[CUT]);
    let why = end.down("192.0.2.2", Duration::from_secs(5));
    println!("down after {:?}: {why}", cut.elapsed());
    assert!(why.contains("BFD says") && cut.elapsed() < Duration::from_millis(900), "{why} {:?}", cut.elapsed());
    end.lacks("10.2.0.0/24");
    two.run("nft", &["delete table inet cut"]);
    end.has("10.2.0.0/24", "192.0.2.2");
}

fn clients_hear_of_each_other_by_a_reflector(kind: Kind) {
    let Some((one, two)) = kind.wire() else { return };
    let ask = Ask { asn: 64_512, ..EXTERNAL };
    let foreign = kind.start(&two, ask);
    let mut reflector = own(ask);
    reflector.peers[0].routes.reflector_client = true;
    let mut other = peer(1, "198.51.100.2", 64_512, PeerAs::Internal);
    other.routes.reflector_client = true;
    other.session.socket.source = Some("198.51.100.1".parse().unwrap());
    reflector.peers.push(other);
    let _end = End::start(&one, reflector);
    // Another client of our own, at another address beside the daemon.
    let mut client = peer(3, "198.51.100.1", 64_512, PeerAs::Internal);
    client.session.socket.source = Some("198.51.100.2".parse().unwrap());
    // FRR takes no route by its own address.
    client.routes.own_v4 = Some([192, 0, 2, 77].into());
    let client = Setup { listen: vec![], ..setup(3, vec![client], &["10.3.0.0/24"]) };
    let mut client = End::start(&two, client);
    client.has("10.2.0.0/24", "192.0.2.2");
    client.has("10.1.0.0/24", "198.51.100.1");
    foreign.comes_to_know("10.3.0.0/24", "192.0.2.77");
    let text = foreign.knows("10.3.0.0/24");
    assert!(text.contains("192.0.2.3"), "who it began at is told: {text}");
}

fn a_wrong_as_is_named(kind: Kind) {
    let Some((one, two)) = kind.wire() else { return };
    let _foreign = kind.start(&two, EXTERNAL);
    for (here, there, words) in [
        (64_512, 64_599, "the peer says it is AS 64513, configured is 64599"),
        (64_598, 64_513, "it expects another AS than 64598"),
    ] {
        let mut end = End::start(&one, setup(1, vec![peer(1, "192.0.2.2", here, PeerAs::Is(there))], &[]));
        let named = |end: &End| {
            let error = end.peers.get(&key("192.0.2.2")).and_then(|peer| peer.error.as_deref());
            error.is_some_and(|text| text.contains(words))
        };
        end.until(words, SOON, named);
    }
}

fn a_peer_may_come_from_a_range(kind: Kind) {
    let Some((one, two)) = kind.wire() else { return };
    let foreign = kind.start(&two, Ask { password: Some("range"), ..EXTERNAL });
    let Peer { mut session, routes, .. } = peer(1, "192.0.2.0", 64_512, PeerAs::External);
    session.socket.password = Some(Password("range".to_owned()));
    let listen = ListenRange { range: prefix("192.0.2.0/24"), template: session, limit: 5 };
    let ranges = vec![Range { listen, routes, bfd: None }];
    let mut end = End::start(&one, Setup { ranges, ..setup(1, vec![], &["10.1.0.0/24"]) });
    end.has("10.2.0.0/24", "192.0.2.2");
    foreign.comes_to_know("10.1.0.0/24", "192.0.2.1");
}

macro_rules! with_each {
    ($($case:ident)*) => {
        mod on_bird {
            $(#[test]
            fn $case() {
                super::$case(super::Kind::Bird);
            })*
        }
        mod on_frr {
            $(#[test]
            fn $case() {
                super::$case(super::Kind::Frr);
            })*
        }
    };
}

with_each! {
    routes_come_and_go_both_ways
    ipv4_goes_by_ipv6_next_hops
    passwords_are_the_same
    near_peers_alone_are_heard
    an_own_restart_is_not_noticed
    a_restart_of_the_peer_costs_no_route
    a_silent_peer_is_dead_after_the_hold_time
    bfd_takes_a_session_down_at_once
    clients_hear_of_each_other_by_a_reflector
    a_wrong_as_is_named
    a_peer_may_come_from_a_range
}
