//! A router between two hosts: each packet goes through its kernel and through the simulator, and both are compared.
//!
//! Host A – router – host B. A witness table in the router notes what arrives at the ends of the hooks, with mark and
//! addresses; each rule of the table under test counts.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ripstop_nft::decode::Message;
use ripstop_nft::encode::{Batch, dump_elements};
use ripstop_nft::model::build::*;
use ripstop_nft::model::*;
use ripstop_nft::sim::{Fate, Link, Packet, Ruleset, Transport, Walk};
use ripstop_types::{Family, Mac};

use crate::fixture::{Elements, address, mac, prefix};
use crate::hosts::{Counts, Host, counted, index, ip, packet, send, sysctl};
use crate::kernel::{Socket, run};

pub const A: [&str; 2] = ["10.1.0.2", "fd01::2"];
pub const B: [&str; 2] = ["10.2.0.2", "fd02::2"];

/// The witness' sets, one an end a packet can have.
const ENDS: [&str; 7] = ["in4", "in6", "in_icmp", "out4", "out6", "out_icmp", "refused"];

/// Where a packet comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    A,
    B,
    Router,
}

/// One packet of a case.
#[derive(Debug, Clone)]
pub struct Shot {
    pub from: From,
    pub src: IpAddr,
    pub dst: IpAddr,
    pub transport: Transport,
}

pub fn shot(from: From, src: &str, dst: &str, transport: Transport) -> Shot {
    Shot { from, src: address(src), dst: address(dst), transport }
}

pub fn udp(src: u16, dst: u16) -> Transport {
    Transport::Udp { src, dst }
}

pub struct Router {
    a: Host,
    b: Host,
    pub socket: Socket,
    world: ripstop_nft::sim::Host,
    links: [Link; 2],
    macs: [(Mac, Mac); 2],
    marker: u16,
    /// What the rules under test have counted so far.
    counts: Counts,
}

/// The link of a host: it lets nothing of its own out or in.
fn plug(link: &str, own: [&str; 2], router: [&str; 2], own_mac: &str, router_mac: &str) {
    sysctl("net.ipv6.conf.all.accept_ra", "0");
    sysctl("net.ipv6.conf.default.router_solicitations", "0");
    ip(&format!(
        "link set lo up
         link set {link} address {own_mac}
         addr add {}/24 dev {link}
         addr add {}/64 dev {link} nodad
         link set {link} up
         neigh replace {} lladdr {router_mac} dev {link} nud permanent
         neigh replace {} lladdr {router_mac} dev {link} nud permanent
         route add default via {}
         route add default via {}",
        own[0], own[1], router[0], router[1], router[0], router[1]
    ));
    run("nft", &["add table inet quiet { chain i { type filter hook input priority 0; policy drop; }; }"]);
}

/// The router's side.
fn socketed(link: &str, own: [&str; 2], host: [&str; 2], own_mac: &str, host_mac: &str) {
    ip(&format!(
        "link set {link} address {own_mac}
         addr add {}/24 dev {link}
         addr add {}/64 dev {link} nodad
         link set {link} up
         neigh replace {} lladdr {host_mac} dev {link} nud permanent
         neigh replace {} lladdr {host_mac} dev {link} nud permanent",
        own[0], own[1], host[0], host[1]
    ));
}

impl Router {
    pub fn new() -> Self {
        let (a, b) = (Host::new(), Host::new());
        for (key, value) in [
            ("net.ipv4.ip_forward", "1"),
            ("net.ipv6.conf.all.forwarding", "1"),
            ("net.ipv4.icmp_ratelimit", "0"),
            ("net.ipv6.icmp.ratelimit", "0"),
        ] {
            sysctl(key, value);
        }
        ip("link set lo up");
        for (near, far, host) in [("ra", "a0", &a), ("rb", "b0", &b)] {
            ip(&format!("link add {near} type veth peer name {far} netns {}", host.tid));
        }
        let macs = ["02:00:00:00:01:01", "02:00:00:00:01:02", "02:00:00:00:02:01", "02:00:00:00:02:02"];
        a.run(move || plug("a0", A, ["10.1.0.1", "fd01::1"], macs[1], macs[0]));
        b.run(move || {
            plug("b0", B, ["10.2.0.1", "fd02::1"], macs[3], macs[2]);
            // An address the router translates to answers to nobody's question.
            ip(&format!("neigh replace 10.2.0.99 lladdr {} dev b0 nud permanent", macs[2]));
        });
        socketed("ra", ["10.1.0.1", "fd01::1"], A, macs[0], macs[1]);
        socketed("rb", ["10.2.0.1", "fd02::1"], B, macs[2], macs[3]);
        for target in ["10.2.0.3", "10.2.0.4", "10.2.0.5", "10.2.0.150"] {
            ip(&format!("neigh replace {target} lladdr {} dev rb nud permanent", macs[3]));
        }
        let link = |name: &str| Link { name: name.parse().unwrap(), index: index(name) };
        let (lo, ra, rb) = (link("lo"), link("ra"), link("rb"));
        let world = ripstop_nft::sim::Host {
            links: vec![
                (lo, vec![address("127.0.0.1"), address("::1")]),
                (ra.clone(), vec![address("10.1.0.1"), address("fd01::1")]),
                (rb.clone(), vec![address("10.2.0.1"), address("fd02::1")]),
            ],
            routes: [("10.1.0.0/24", &ra), ("fd01::/64", &ra), ("10.2.0.0/24", &rb), ("fd02::/64", &rb)]
                .map(|(range, link)| (prefix(range), link.clone()))
                .into(),
        };
        let mut lab = Self {
            a,
            b,
            socket: Socket::open(),
            world,
            links: [ra, rb],
            macs: [(mac(macs[1]), mac(macs[0])), (mac(macs[3]), mac(macs[2]))],
            marker: 0,
            counts: Counts::new(),
        };
        lab.load(&witness(), &Elements::new());
        lab
    }

    fn load(&mut self, table: &Table, elements: &Elements) {
        let mut batch = Batch::new();
        batch.replace_table(table, elements).unwrap();
        self.socket.apply(batch).unwrap();
    }

    /// Loads the table under test.
    pub fn test(&mut self, table: &Table, elements: &Elements) {
        self.load(table, elements);
        self.counts = counted("inet", "tested");
    }

    pub fn simulated(&self, shot: &Shot) -> Packet {
        match shot.from {
            From::Router => Packet::sent(shot.src, shot.dst, shot.transport),
            From::A | From::B => {
                let side = usize::from(shot.from == From::B);
                let (src, dst) = self.macs[side];
                Packet::received(self.links[side].clone(), shot.src, shot.dst, shot.transport).with_ether(src, dst)
            }
        }
    }

    /// Sends the packet and waits until the router is done with it.
    fn fire(&mut self, shot: &Shot) {
        self.marker += 1;
        let bytes = packet(shot.src, shot.dst, shot.transport);
        let dst = shot.dst;
        let host = match shot.from {
            From::Router => return send(&bytes, dst),
            From::A => &self.a,
            From::B => &self.b,
        };
        let (near, own) = if shot.from == From::A { ("10.1.0.1", A[0]) } else { ("10.2.0.1", B[0]) };
        // A link delivers in order: when the marker is there, the packet was.
        let marker = packet(address(own), address(near), udp(self.marker, 9));
        host.run(move || {
            send(&bytes, dst);
            send(&marker, address(near));
        });
        let wanted = self.marker.to_be_bytes().to_vec();
        for _ in 0..2_000 {
            if self.noted("markers").contains(&wanted) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        panic!("the marker behind {shot:?} did not arrive in 2 s");
    }

    /// The keys in a set of the witness.
    fn noted(&mut self, set: &'static str) -> Vec<Vec<u8>> {
        let dump = self.socket.dump(|seq| dump_elements(seq, TableFamily::Inet, &"witness".into(), &set.into()));
        let elements = dump.into_iter().filter_map(|message| match message {
            Message::Elements(info) => Some(info.elements),
            _ => None,
        });
        elements.flatten().filter_map(|element| element.key).collect()
    }

    fn forget(&mut self) {
        let all: Vec<_> = ENDS.iter().map(|set| format!("flush set inet witness {set}")).collect();
        run("nft", &[&all.join("; ")]);
    }

    /// Fires one packet and compares: what was noted at the ends, and which rules counted.
    pub fn compare(&mut self, ruleset: &Ruleset<'_>, table: &Table, shot: &Shot, packet: Packet) -> Walk {
        let walk = match shot.from {
            From::Router => ruleset.send(packet, &self.world),
            _ => ruleset.receive(packet, &self.world),
        };
        let walk = walk.unwrap_or_else(|fault| panic!("{shot:?}: {fault}"));
        let before = std::mem::take(&mut self.counts);
        self.fire(shot);
        let after = counted("inet", "tested");
        self.counts.clone_from(&after);
        let hits = |of: &dyn Fn(usize) -> u64| -> BTreeMap<_, _> {
            (0..after.len()).map(|i| (after[i].0.clone(), of(i))).filter(|(_, n)| *n > 0).collect()
        };
        let kernel = hits(&|i| after[i].1 - before[i].1);
        let simulated = hits(&|i| {
            let (chain, rule) = &after[i].0;
            let same = |step: &&ripstop_nft::sim::Step| step.chain.as_str() == chain && step.rule == Some(*rule);
            walk.transit.trail.iter().filter(same).count() as u64
        });
        let trail: Vec<_> = walk.transit.trail.iter().map(ToString::to_string).collect();
        assert_eq!(kernel, simulated, "{shot:?}\n{}\n{table}", trail.join("\n"));
        let mut noted = self.ends();
        if !noted.is_empty() {
            self.forget();
        }
        if walk.fate == Fate::Unreachable {
            // The kernel tells the sender of a missing route, but not every time.
            noted.retain(|(set, _)| *set != "refused");
        }
        assert_eq!(noted, expected_ends(&walk), "{shot:?}\n{}\n{table}", trail.join("\n"));
        walk
    }

    fn ends(&mut self) -> Vec<(&'static str, Vec<u8>)> {
        let mut out = Vec::new();
        for set in ENDS {
            out.extend(self.noted(set).into_iter().map(|key| (set, key)));
        }
        out
    }
}

/// What the witness has to note.
fn expected_ends(walk: &Walk) -> Vec<(&'static str, Vec<u8>)> {
    let packet = &walk.transit.packet;
    match walk.fate {
        Fate::Dropped | Fate::Unreachable => return Vec::new(),
        Fate::Rejected(_) => {
            let kind = match packet.family() {
                Some(Family::V4) => 1,
                _ => 58,
            };
            let reset = walk.fate == Fate::Rejected(RejectWith::TcpReset);
            return vec![("refused", vec![if reset { 6 } else { kind }])];
        }
        Fate::Accepted => {}
    }
    let mut key = packet.mark.to_ne_bytes().to_vec();
    for ip in [packet.source(), packet.destination()].into_iter().flatten() {
        match ip {
            IpAddr::V4(ip) => key.extend(ip.octets()),
            IpAddr::V6(ip) => key.extend(ip.octets()),
        }
    }
    let set = match (packet.transport().and_then(Transport::ports), packet.family(), walk.local) {
        (None, _, local) => {
            let key = packet.mark.to_ne_bytes().to_vec();
            return vec![(if local { "in_icmp" } else { "out_icmp" }, key)];
        }
        (Some(ports), family, local) => {
            for port in [ports.0, ports.1] {
                key.extend(port.to_be_bytes());
                key.extend([0; 2]);
            }
            match (family, local) {
                (Some(Family::V4), true) => "in4",
                (_, true) => "in6",
                (Some(Family::V4), false) => "out4",
                (_, false) => "out6",
            }
        }
    };
    vec![(set, key)]
}

/// Notes markers and what is left at the ends; keeps the kernel's own chatter out, also its answers from closed ports.
fn witness() -> Table {
    let tuple =
        |address| Set::of([Type::Mark, address, address, Type::InetService, Type::InetService]).dynamic().size(99);
    let table = Table::new(TableFamily::Inet, "witness")
        .set("markers", Set::of([Type::InetService]).dynamic().size(9_999))
        .set("refused", Set::of([Type::InetProto]).dynamic().size(99));
    let note = |side: &str| -> Vec<Rule> {
        let ports = || meta::l4proto().one_of([Proto::TCP, Proto::UDP]);
        let names: [Name; 3] = match side {
            "in" => ["in4".into(), "in6".into(), "in_icmp".into()],
            _ => ["out4".into(), "out6".into(), "out_icmp".into()],
        };
        let [v4, v6, rest] = names;
        vec![
            Rule::new([
                ports(),
                update_set(v4, (meta::mark(), ip::saddr(), ip::daddr(), th::sport(), th::dport()), None),
            ]),
            Rule::new([
                ports(),
                update_set(v6, (meta::mark(), ip6::saddr(), ip6::daddr(), th::sport(), th::dport()), None),
            ]),
            Rule::new([meta::l4proto().one_of([Proto::ICMP, Proto::ICMPV6]), update_set(rest, meta::mark(), None)]),
        ]
    };
    let icmp_set = || Set::of([Type::Mark]).dynamic().size(99);
    table
        .set("in4", tuple(Type::Ipv4Addr))
        .set("in6", tuple(Type::Ipv6Addr))
        .set("out4", tuple(Type::Ipv4Addr))
        .set("out6", tuple(Type::Ipv6Addr))
        .set("in_icmp", icmp_set())
        .set("out_icmp", icmp_set())
        .chain("input", Chain::filter(Hook::Input, 1_000).policy(Policy::Drop).rules(note("in")))
        .chain("postrouting", Chain::filter(Hook::Postrouting, 1_000).rules(note("out")))
        .chain(
            "early",
            Chain::filter(Hook::Prerouting, -490).rules([
                Rule::new([udp::dport().is(9), update_set("markers", udp::sport(), None), drop()]),
                Rule::new([ip6::daddr().within(prefix("ff00::/8")), drop()]),
                Rule::new([ip6::saddr().within(prefix("fe80::/10")), drop()]),
            ]),
        )
        .chain(
            "output",
            Chain::filter(Hook::Output, -490).rules([
                Rule::new([ip6::daddr().within(prefix("ff00::/8")), drop()]),
                Rule::new([icmp::kind().is(5), drop()]),
                Rule::new([icmpv6::kind().is(Icmpv6Type::ND_REDIRECT), drop()]),
                Rule::new([icmp::kind().is(3), update_set("refused", meta::l4proto(), None), drop()]),
                Rule::new([icmpv6::kind().is(1), update_set("refused", meta::l4proto(), None), drop()]),
                Rule::new([tcp::flags().any(TcpFlags::RST), update_set("refused", meta::l4proto(), None), drop()]),
            ]),
        )
}
