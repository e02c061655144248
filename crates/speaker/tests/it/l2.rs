//! Owners of addresses on a segment with real frames: three nodes and a client behind a bridge, of which ports go down and between which
//! frames are dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use ripstop_election::{Timing, neighbour};
use ripstop_speaker::l2::{FrameSocket, Frames, Report, Segment, Speaker};
use ripstop_types::{Family, Mac, NodeName};

use super::space::Space;

const MS: Duration = Duration::from_millis(1);
const V4: &str = "192.0.2.200";
const V6: &str = "2001:db8::200";
/// Of hardware addresses nothing matters here but the last byte.
const CLIENT: u8 = 9;

fn name(number: u8) -> NodeName {
    format!("n{number}").parse().unwrap()
}

fn mac(number: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, number])
}

/// A bridge in a namespace of its own, with a port for each node and for the client.
struct Hub {
    hub: Space,
    spaces: BTreeMap<u8, Space>,
}

impl Hub {
    fn new(nodes: u8) -> Option<Self> {
        let hub = Space::new()?;
        hub.ip("link add br0 type bridge mcast_snooping 0 forward_delay 0");
        hub.ip("link set br0 up");
        let mut spaces = BTreeMap::new();
        for number in (1..=nodes).chain([CLIENT]) {
            let space = Space::new()?;
            hub.ip(&format!(
                "link add p{number} index 20{number} type veth peer name eth0 index 100 netns {} address {}",
                space.path(),
                mac(number)
            ));
            hub.ip(&format!("link set p{number} master br0 up"));
            space.ip("link set lo up");
            space.ip("link set eth0 up");
            space.ip(&format!("addr add 192.0.2.{number}/24 dev eth0"));
            space.ip(&format!("addr add 2001:db8::{number}/64 dev eth0 nodad"));
            if number != CLIENT {
                // The node serves the address, and its kernel says nothing about it.
                space.run("sysctl", &["-qw", "net.ipv4.conf.all.arp_ignore=1"]);
                space.ip(&format!("addr add {V4}/32 dev lo"));
                space.ip(&format!("addr add {V6}/128 dev lo nodad"));
            }
            spaces.insert(number, space);
        }
        Some(Self { hub, spaces })
    }

    fn client(&self) -> &Space {
        &self.spaces[&CLIENT]
    }

    fn port(&self, number: u8, state: &str) {
        self.hub.ip(&format!("link set p{number} {state}"));
    }

    /// Drops frames between a node and all other nodes; the client reaches all.
    fn cut(&self, node: u8, nodes: u8) {
        let others: Vec<String> = (1..=nodes).filter(|other| *other != node).map(|other| format!("p{other}")).collect();
        let others = others.join(", ");
        let rules = format!(
            "table bridge cut {{ chain f {{ type filter hook forward priority 0; iifname p{node} oifname {{ {others} }} drop; \
             oifname p{node} iifname {{ {others} }} drop; }}\n}}"
        );
        self.hub.run("nft", &[&rules]);
    }
}

/// A node's thread.
struct Node {
    number: u8,
    speaker: Speaker,
    reports: Receiver<Report>,
    last: Report,
}

fn segment(number: u8, nodes: u8, addresses: &[&str], leaves: bool) -> Segment {
    let of = |number: u8| format!("192.0.2.{number}").parse::<IpAddr>().unwrap();
    Segment {
        interface: 100,
        mac: mac(number),
        own: of(number),
        candidates: (1..=nodes).map(|number| (name(number), of(number))).collect(),
        addresses: addresses.iter().map(|ip| (ip.parse().unwrap(), None)).collect(),
        leaves,
    }
}

impl Node {
    fn start(hub: &Hub, number: u8, nodes: u8, addresses: &[&str], timing: Timing) -> Self {
        let started = hub.spaces[&number].inside(|| Speaker::start(name(number), 1, timing));
        let (speaker, reports) = started.unwrap();
        speaker.set([segment(number, nodes, addresses, false)]);
        Self { number, speaker, reports, last: Report::default() }
    }

    fn look(&mut self) -> &Report {
        while let Ok(report) = self.reports.try_recv() {
            self.last = report;
        }
        assert!(self.last.faults.is_empty(), "{:?}", self.last.faults);
        &self.last
    }

    fn speaks(&mut self, address: &str) -> bool {
        let at = (100, address.parse().unwrap());
        self.look().rows.get(&at).is_some_and(|row| row.speaks)
    }
}

fn soon(mut what: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + Duration::from_secs(20);
    while Instant::now() < end {
        if what() {
            return true;
        }
        std::thread::sleep(5 * MS);
    }
    false
}

/// The one node that speaks for an address.
fn owner(nodes: &mut [Node], address: &str) -> Option<u8> {
    let owners: Vec<u8> = nodes.iter_mut().filter_map(|node| node.speaks(address).then_some(node.number)).collect();
    (owners.len() == 1).then(|| owners[0])
}

#[track_caller]
fn settled(nodes: &mut [Node], address: &str) -> u8 {
    let mut found = None;
    assert!(soon(|| {
        found = owner(nodes, address);
        found.is_some()
    }));
    found.unwrap()
}

/// Who said that it has the address, and when: the client asks all the time.
struct Asker {
    said: Mutex<Vec<(Duration, Mac)>>,
    begin: Instant,
    ends: AtomicBool,
}

impl Asker {
    fn new() -> Self {
        Self { said: Mutex::default(), begin: Instant::now(), ends: AtomicBool::new(false) }
    }

    /// Asks every few milliseconds, as one machine, until told to end.
    fn ask(&self, number: u8, address: &str) {
        let address: IpAddr = address.parse().unwrap();
        let frames = if Family::of(address) == Family::V4 { Frames::Arp } else { Frames::Ndp };
        let socket = FrameSocket::open(100, frames).unwrap();
        let mut buffer = [0; 2048];
        let mut next = Instant::now();
        while !self.ends.load(Ordering::Relaxed) {
            if Instant::now() >= next {
                socket.send(&neighbour::probe(mac(number), address)).unwrap();
                next = Instant::now() + 4 * MS;
            }
            while let Some(frame) = socket.take(&mut buffer) {
                let holds = neighbour::read(frame).and_then(|heard| heard.holds);
                if let Some((_, mac)) = holds.filter(|(ip, _)| *ip == address) {
                    self.said.lock().unwrap().push((self.begin.elapsed(), mac));
                }
            }
            std::thread::sleep(MS);
        }
    }

    /// Ends it, also where the test fails.
    fn end(&self) -> impl Drop {
        struct End<'a>(&'a AtomicBool);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        End(&self.ends)
    }

    /// How long nobody spoke after a moment, and for how long two did.
    fn judge(&self, after: Duration, old: Mac) -> (Duration, Duration) {
        let said = self.said.lock().unwrap();
        let first = said.iter().find(|(at, mac)| *at >= after && *mac != old).map(|(at, _)| *at).expect("no new owner");
        let last = said.iter().rev().find(|(_, mac)| *mac == old).map_or(Duration::ZERO, |(at, _)| *at);
        (first.saturating_sub(after), last.saturating_sub(first))
    }
}

/// Takes an owner away in some way while a client asks; gives the new one, how long it took, and for how long two spoke.
fn take_away(address: &str, what: impl FnOnce(&Hub, &mut Vec<Node>, u8)) -> Option<(Duration, Duration)> {
    let hub = Hub::new(3)?;
    let timing = Timing { settle: Duration::from_millis(500), ..Timing::of(Duration::from_millis(60)) };
    let mut nodes: Vec<Node> = (1..=3).map(|number| Node::start(&hub, number, 3, &[V4, V6], timing)).collect();
    let old = settled(&mut nodes, address);
    let asker = Asker::new();
    let mut found = None;
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| hub.client().inside(|| asker.ask(CLIENT, address)));
        let end = asker.end();
        std::thread::sleep(200 * MS);
        let after = asker.begin.elapsed();
        what(&hub, &mut nodes, old);
        let came = soon(|| asker.said.lock().unwrap().iter().any(|(at, mac)| *at > after && *mac != self::mac(old)));
        std::thread::sleep(300 * MS);
        drop(end);
        thread.join().unwrap();
        assert!(came, "no new owner");
        found = Some(asker.judge(after, mac(old)));
    });
    found
}

/// Machines that run other things at the same time may take some more.
const SLACK: Duration = Duration::from_millis(150);

#[test]
fn a_port_that_goes_down_moves_the_address() {
    for address in [V4, V6] {
        let Some((took, both)) = take_away(address, |hub, _, old| hub.port(old, "down")) else { return };
        println!("{address}: another speaks after {took:?}, two for {both:?}");
        assert!(took < Duration::from_millis(250) + SLACK, "{took:?}");
        assert_eq!(both, Duration::ZERO);
    }
}

#[test]
fn a_node_that_ends_without_a_word_is_succeeded() {
    let ends = |_: &Hub, nodes: &mut Vec<Node>, old: u8| nodes.retain(|node| node.number != old);
    let Some((took, both)) = take_away(V4, ends) else { return };
    println!("another speaks after {took:?}, two for {both:?}");
    assert!(took < Duration::from_millis(250) + SLACK, "{took:?}");
    assert_eq!(both, Duration::ZERO);
}

#[test]
fn an_owner_that_only_clients_reach_stops_before_another_speaks() {
    for address in [V4, V6] {
        let Some((took, both)) = take_away(address, |hub, _, old| hub.cut(old, 3)) else { return };
        println!("{address}: another speaks after {took:?}, two for {both:?}");
        assert!(took < Duration::from_millis(350) + SLACK, "{took:?}");
        assert!(both < Duration::from_millis(100), "{both:?}");
    }
}

/// Pings the address every two milliseconds while the node that has it is drained.
#[test]
fn a_drain_loses_no_packet() {
    let Some(hub) = Hub::new(3) else { return };
    let timing = Timing { settle: Duration::from_millis(500), ..Timing::of(Duration::from_millis(60)) };
    let mut nodes: Vec<Node> = (1..=3).map(|number| Node::start(&hub, number, 3, &[V4, V6], timing)).collect();
    for address in [V4, V6] {
        let old = settled(&mut nodes, address);
        let text = std::thread::scope(|scope| {
            let ping =
                scope.spawn(|| hub.client().run("ping", &["-q", "-i", "0.002", "-c", "600", "-W", "1", address]));
            std::thread::sleep(300 * MS);
            let node = nodes.iter().find(|node| node.number == old).unwrap();
            node.speaker.set([segment(old, 3, &[V4, V6], true)]);
            ping.join().unwrap()
        });
        assert!(text.contains(" 0% packet loss"), "{address}: {text}");
        assert_ne!(settled(&mut nodes, address), old);
        let node = nodes.iter().find(|node| node.number == old).unwrap();
        node.speaker.set([segment(old, 3, &[V4, V6], false)]);
    }
}

#[test]
fn a_foreign_machine_with_the_address_is_told_and_left_alone() {
    let Some(hub) = Hub::new(3) else { return };
    let timing = Timing::of(Duration::from_millis(60));
    let mut nodes: Vec<Node> = (1..=3).map(|number| Node::start(&hub, number, 3, &[V4], timing)).collect();
    let old = settled(&mut nodes, V4);
    let address: IpAddr = V4.parse().unwrap();
    hub.client().inside(|| {
        let socket = FrameSocket::open(100, Frames::Arp).unwrap();
        // What is no frame of ARP at all changes nothing.
        socket.send(&[0xff; 60]).unwrap();
        let mut short = neighbour::probe(mac(CLIENT), address);
        short.truncate(30);
        socket.send(&short).unwrap();
        neighbour::announcements(mac(CLIENT), address).iter().for_each(|frame| socket.send(frame).unwrap());
    });
    let told = |node: &mut Node| node.look().rows[&(100, address)].conflict;
    assert!(soon(|| nodes.iter_mut().any(|node| node.number == old && told(node) == Some(mac(CLIENT)))));
    let speaking: BTreeSet<u8> = nodes.iter_mut().filter_map(|node| node.speaks(V4).then_some(node.number)).collect();
    assert_eq!(speaking, BTreeSet::new(), "nobody fights over it");
}

#[test]
fn a_foreign_machine_is_told_where_a_candidate_is_not_there() {
    let Some(hub) = Hub::new(3) else { return };
    let (address, asker): (IpAddr, _) = (V4.parse().unwrap(), Asker::new());
    // It answers from the beginning.
    hub.client().ip(&format!("addr add {V4}/32 dev eth0"));
    hub.client().run("sysctl", &["-qw", "net.ipv4.conf.all.arp_ignore=0"]);
    let timing = Timing { settle: Duration::from_secs(1), ..Timing::of(Duration::from_millis(60)) };
    std::thread::scope(|scope| {
        // One who hears all that is said asks from outside.
        let outside = scope.spawn(|| hub.spaces[&3].inside(|| asker.ask(3, V4)));
        let end = asker.end();
        let mut nodes: Vec<Node> = (1..=2).map(|number| Node::start(&hub, number, 3, &[V4], timing)).collect();
        let told = |node: &mut Node| node.look().rows.get(&(100, address)).and_then(|row| row.conflict);
        let came = soon(|| nodes.iter_mut().any(|node| told(node) == Some(mac(CLIENT))));
        drop(end);
        outside.join().unwrap();
        assert!(came, "nobody tells of it");
    });
    let said = asker.said.lock().unwrap();
    let of: BTreeSet<Mac> = said.iter().map(|(_, mac)| *mac).collect();
    assert_eq!(of, BTreeSet::from([mac(CLIENT)]), "no node answered beside it, not before it was told either");
}

#[test]
fn datagrams_of_strangers_and_of_two_clusters_change_nothing() {
    let Some(hub) = Hub::new(4) else { return };
    let timing = Timing::of(Duration::from_millis(60));
    // Another cluster on the segment has nodes of the same names.
    let others = [hub.spaces[&4].inside(|| Speaker::start(name(1), 1, timing)).unwrap()];
    let mut alone = segment(4, 1, &["192.0.2.201"], false);
    alone.candidates = [(name(1), "192.0.2.4".parse().unwrap()), (name(2), "192.0.2.1".parse().unwrap())].into();
    others[0].0.set([alone]);
    let mut nodes: Vec<Node> = (1..=3).map(|number| Node::start(&hub, number, 3, &[V4], timing)).collect();
    let old = settled(&mut nodes, V4);
    let sent = hub.client().inside(|| {
        let socket = std::net::UdpSocket::bind("192.0.2.9:0").unwrap();
        (0..200).filter(|n: &u8| socket.send_to(&vec![*n; usize::from(*n)], "192.0.2.1:8474").is_ok()).count()
    });
    assert_eq!(sent, 200);
    std::thread::sleep(300 * MS);
    assert_eq!(owner(&mut nodes, V4), Some(old));
}
