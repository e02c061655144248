//! BGP with whoever is found on a link: our own on both ends, and BIRD and FRR on the other one. The link has no address but
//! those that the kernel gives it.

use std::time::{Duration, Instant};

use ripstop_bfd::Timers;
use ripstop_bgp::session::{Password, PeerAs, State};
use ripstop_speaker::bgp::{Peer, Setup};

use super::bfd::MS;
use super::bgp::{End, SOON, key, peer, prefix, setup};
use super::programs::{Folder, bird, frr, has_bird, has_frr};
use super::space::Space;

/// Two namespaces, `one0` and `two0`, with a wire between them and no addresses.
fn wire() -> Option<(Space, Space)> {
    let (one, two) = (Space::new()?, Space::new()?);
    one.ip(&format!("link add one0 type veth peer name two0 netns {}", two.path()));
    for (space, link) in [(&one, "one0"), (&two, "two0")] {
        space.ip("link set lo up");
        space.ip(&format!("link set {link} up"));
    }
    Some((one, two))
}

/// The link-local address of a link, once it may be used.
fn link_local(space: &Space, link: &str) -> String {
    let end = Instant::now() + SOON;
    loop {
        let shown = space.run("ip", &["-6", "-o", "addr", "show", "dev", link, "scope", "link", "-tentative"]);
        if let Some(address) = shown.split_whitespace().skip_while(|word| *word != "inet6").nth(1) {
            return address.split('/').next().unwrap().to_owned();
        }
        assert!(Instant::now() < end, "no address on {link}: {shown}");
        std::thread::sleep(50 * MS);
    }
}

/// Whoever is on that link.
fn on(link: &str, number: u8, local_as: u32, peer_as: PeerAs) -> Peer {
    let mut peer = peer(number, "::", local_as, peer_as);
    peer.session.socket.interface = Some(link.parse().unwrap());
    (peer.routes.own_v6, peer.session.hold_time) = (None, 9);
    peer
}

fn with(number: u8, peer: Peer) -> Setup {
    let routes = [format!("10.{number}.0.0/24"), format!("2001:db8:{number}::/48")];
    setup(number, vec![peer], &[&routes[0], &routes[1]])
}

/// The other end's routes have come, by its address on this end's link.
fn has_by(end: &mut End, number: u8, address: &str, link: &str) {
    let way = format!("{address}%{link}");
    for to in [format!("10.{number}.0.0/24"), format!("2001:db8:{number}::/48")] {
        let to = prefix(&to);
        let is = |end: &End| end.routes.get(&to).is_some_and(|ways| ways.iter().any(|one| one.to_string() == way));
        end.until(&format!("{to} by {way}"), SOON, is);
    }
}

#[test]
fn two_find_each_other_and_follow_who_comes_in_place_of_the_other() {
    let Some((one, two)) = wire() else { return };
    let timers = Timers::every(50 * MS, 4);
    let watched = |peer: Peer| Peer { bfd: Some(timers), ..peer };
    let mut a = End::start(&one, with(1, watched(on("one0", 1, 64_512, PeerAs::External))));
    let alone = |end: &End| {
        let error = end.peers.get(&key("one0")).and_then(|peer| peer.error.clone()).unwrap_or_default();
        error.contains("nobody is known on one0 yet")
    };
    a.until("that nobody is there is told", SOON, alone);
    let mut b = End::start(&two, with(2, watched(on("two0", 2, 64_513, PeerAs::External))));
    let [first, second] = [link_local(&one, "one0"), link_local(&two, "two0")];
    has_by(&mut a, 2, &second, "one0");
    has_by(&mut b, 1, &first, "two0");
    let up = |end: &End| end.peer("one0").bfd == Some(ripstop_bfd::State::Up);
    a.until("BFD is up", SOON, up);
    let found = a.peer("one0").found.map(|found| found.to_string());
    assert_eq!((found, a.peer("one0").flaps), (Some(second), 0));

    // Another machine with another address, AS and router id.
    drop(b);
    two.ip("addr flush dev two0 scope link");
    two.ip("addr add fe80::77/64 dev two0 nodad");
    let mut c = End::start(&two, with(3, on("two0", 3, 64_514, PeerAs::Is(64_512))));
    has_by(&mut a, 3, "fe80::77", "one0");
    has_by(&mut c, 1, &first, "two0");
    a.lacks("10.2.0.0/24");
    assert_eq!(a.peer("one0").peer_as, Some(64_514));
}

#[test]
fn what_is_wrong_on_a_link_is_said() {
    let Some((one, two)) = wire() else { return };
    let with_key = |mut peer: Peer, key: &str| {
        peer.session.socket.password = Some(Password(key.to_owned()));
        peer
    };
    let mut a = End::start(&one, with(1, on("one0", 1, 64_512, PeerAs::Internal)));
    let mut b = End::start(&two, with(2, on("two0", 2, 64_513, PeerAs::External)));
    let said = |words: &'static str| {
        move |end: &End| {
            let error = end.peers.get(&key("one0")).and_then(|peer| peer.error.clone()).unwrap_or_default();
            error.contains(words)
        }
    };
    a.until("the wrong AS", SOON, said("the peer says it is AS 64513, configured is this node's own, 64512"));
    a.speaker.set_up(with(1, with_key(on("one0", 1, 64_512, PeerAs::Is(64_513)), "knock")));
    b.speaker.set_up(with(2, with_key(on("two0", 2, 64_513, PeerAs::External), "who")));
    a.until("the wrong password", SOON, said("the password may differ"));
    b.speaker.set_up(with(2, with_key(on("two0", 2, 64_513, PeerAs::External), "knock")));
    a.up("one0");
    b.up("two0");
    a.speaker.set_up(with(
        1,
        Peer { shut_down: Some("the link one0 is down".into()), ..on("one0", 1, 64_512, PeerAs::External) },
    ));
    b.down("two0", SOON);
    assert_ne!(b.peer("two0").state, State::Established);
    b.lacks("10.1.0.0/24");
}

#[test]
fn frr_is_found_by_its_advertisements_and_finds_this_end() {
    if !has_frr() {
        return;
    }
    let Some((one, two)) = wire() else { return };
    let folder = Folder::new();
    let conf = "log stdout\nrouter bgp 64513\n bgp router-id 192.0.2.2\n no bgp ebgp-requires-policy\n no bgp network import-check\n \
        neighbor two0 interface remote-as external\n neighbor two0 timers connect 1\n neighbor two0 bfd\n \
        address-family ipv4 unicast\n  network 10.2.0.0/24\n exit-address-family\n \
        address-family ipv6 unicast\n  network 2001:db8:2::/48\n  neighbor two0 activate\n exit-address-family\n";
    let control = folder.file("bfdd.sock");
    let daemons: &[(&str, &str, &[&str])] = &[("bfdd", "", &["--bfdctl", &control]), ("bgpd", conf, &[])];
    let _running = frr(&two, &folder, daemons);
    let bfd = Some(Timers::every(100 * MS, 5));
    let mut a = End::start(&one, with(1, Peer { bfd, ..on("one0", 1, 64_512, PeerAs::External) }));
    let theirs = link_local(&two, "two0");
    has_by(&mut a, 2, &theirs, "one0");
    let is_up = |end: &End| end.peer("one0").bfd == Some(ripstop_bfd::State::Up);
    a.until("BFD is up", SOON, is_up);
    let ours = link_local(&one, "one0");
    for (family, to) in [("-4", "10.1.0.0/24"), ("-6", "2001:db8:1::/48")] {
        let end = Instant::now() + SOON;
        let shown = || two.run("ip", &[family, "route", "show", to]);
        while !shown().contains(&ours) {
            assert!(Instant::now() < end, "{}{}", shown(), std::fs::read_to_string(folder.file("bgpd.log")).unwrap());
            std::thread::sleep(50 * MS);
        }
    }
    assert_eq!(a.peer("one0").flaps, 0);
}

#[test]
fn bird_is_found_by_its_advertisements_or_where_it_connects_from() {
    if !has_bird() {
        return;
    }
    for advertises in [true, false] {
        let Some((one, two)) = wire() else { return };
        let folder = Folder::new();
        let [ours, theirs] = [link_local(&one, "one0"), link_local(&two, "two0")];
        let more = if advertises {
            "protocol radv { interface \"two0\" { default lifetime 0; min ra interval 3; max ra interval 4; }; }\n"
        } else {
            ""
        };
        let conf = format!(
            "log stderr all;\nrouter id 192.0.2.2;\nprotocol device {{}}\n{more}\
             protocol kernel {{ ipv4 {{ import none; export where source = RTS_BGP; }}; }}\n\
             protocol static s4 {{ ipv4; route 10.2.0.0/24 blackhole; }}\n\
             protocol static s6 {{ ipv6; route 2001:db8:2::/48 blackhole; }}\n\
             protocol bgp one {{\n local as 64513;\n neighbor {ours}%two0 as 64512;\n {} connect retry time 1; error wait time 1, 2;\n \
             ipv4 {{ import all; export where source = RTS_STATIC; extended next hop on; }};\n \
             ipv6 {{ import all; export where source = RTS_STATIC; }};\n}}\n",
            if advertises { "passive on;" } else { "" }
        );
        let _running = bird(&two, &folder, &conf, &[]);
        let mut a = End::start(&one, with(1, on("one0", 1, 64_512, PeerAs::External)));
        has_by(&mut a, 2, &theirs, "one0");
        let end = Instant::now() + SOON;
        let shown = || two.run("ip", &["-4", "route", "show", "10.1.0.0/24"]);
        while !shown().contains(&format!("via inet6 {ours}")) {
            assert!(Instant::now() < end, "{}{}", shown(), std::fs::read_to_string(folder.file("log")).unwrap());
            std::thread::sleep(50 * MS);
        }
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(a.peer("one0").flaps, 0);
    }
}
