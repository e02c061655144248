//! Simulator and kernel agree on frames: through the ingress of a port, a bridge, and ARP's own hooks.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use ripstop_nft::decode::Message;
use ripstop_nft::encode::{Batch, dump_elements};
use ripstop_nft::model::build::*;
use ripstop_nft::model::*;
use ripstop_nft::sim::{Ether, Fate, Link, Network, Nothing, Packet, Ruleset, Stage, Transit, Transport};
use ripstop_types::Mac;

use crate::fixture::{Elements, address, mac};
use crate::hosts::{Counts, Host, counted, index, ip, packet, send_frame, sysctl};
use crate::kernel::{Socket, in_namespace};

const A_MAC: &str = "02:00:00:00:0a:02";
const B_MAC: &str = "02:00:00:00:0b:02";
const BRIDGE_MAC: &str = "02:00:00:00:00:01";
/// The index of a device that gives frames back.
const BACK: u32 = 1_500_000_000;

fn v4(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn v6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

/// A rule that counts before its last statement.
fn rule(statements: impl IntoIterator<Item = Statement>) -> Rule {
    let mut statements: Vec<_> = statements.into_iter().collect();
    statements.insert(statements.len() - 1, counter());
    Rule::new(statements)
}

/// A rule that only counts.
fn seen(statements: impl IntoIterator<Item = Statement>) -> Rule {
    Rule::new(statements.into_iter().chain([counter()]))
}

/// What keeps a pod from sending as another, at a port; with rules that only look.
fn tables() -> Vec<Table> {
    let bridge = [
        seen([meta::protocol().is(EtherType::IPV4)]),
        seen([ether::kind().one_of([EtherType::ARP, EtherType::IPV6])]),
        seen([meta::nfproto().is(NfProto::BRIDGE)]),
        seen([meta::l4proto().is(Proto::UDP)]),
        rule([concat((meta::iifname(), ether::saddr())).not_in_set("macs"), drop()]),
        rule([concat((meta::iifname(), arp::saddr_ether(), arp::saddr_ip())).not_in_set("arps"), drop()]),
        rule([concat((meta::iifname(), ip::saddr())).not_in_set("ips"), drop()]),
        rule([icmpv6::kind().is(Icmpv6Type::ND_NEIGHBOR_ADVERT), icmpv6::nd_target().is_not(v6("fd01::2")), drop()]),
        seen([arp::operation().is(ArpOp::REQUEST)]),
        seen([arp::daddr_ip().is_not(v4("10.1.0.3"))]),
    ];
    let forward = [
        seen([meta::oifname().is("p1"), meta::iifname().is("p*")]),
        rule([udp::dport().is(4789), drop()]),
        seen([ip6::daddr().within("fd01::/64".parse().unwrap())]),
    ];
    let ingress = [
        seen([meta::protocol().is(EtherType::ARP)]),
        seen([ether::saddr().is(mac(A_MAC))]),
        seen([ip::saddr().within("10.1.0.0/16".parse().unwrap())]),
        seen([arp::saddr_ip().is_not(v4("10.1.0.2"))]),
        rule([udp::dport().is(8472), drop()]),
        set_mark_rule(),
        rule([udp::dport().is(2), fwd("back".parse().unwrap(), BACK)]),
    ];
    vec![
        Table::new(TableFamily::Bridge, "tested")
            .set("macs", Set::of([Type::IfName, Type::EtherAddr]))
            .set("arps", Set::of([Type::IfName, Type::EtherAddr, Type::Ipv4Addr]))
            .set("ips", Set::of([Type::IfName, Type::Ipv4Addr]))
            .chain("a", Chain::filter(Hook::Prerouting, priority::BRIDGE_DSTNAT).rules(bridge))
            .chain("b", Chain::filter(Hook::Forward, priority::BRIDGE_FILTER).rules(forward))
            .chain("c", Chain::filter(Hook::Postrouting, 0).rule(seen([meta::mark().is(7)])))
            .chain("d", Chain::filter(Hook::Input, 0).rule(seen([meta::mark().is(7)]))),
        Table::new(TableFamily::Netdev, "tested").chain("e", Chain::ingress("p0".parse().unwrap(), 0).rules(ingress)),
        Table::new(TableFamily::Arp, "tested").chain(
            "f",
            Chain::filter(Hook::Input, 0).rules([
                seen([arp::operation().is(ArpOp::REQUEST)]),
                seen([arp::saddr_ip().is(v4("10.1.0.2"))]),
                rule([arp::saddr_ether().is_not(mac(A_MAC)), drop()]),
                rule([arp::daddr_ip().is(v4("10.1.0.1")), drop()]),
            ]),
        ),
    ]
}

fn set_mark_rule() -> Rule {
    seen([set_mark(7)])
}

fn elements(bridge: &Table) -> Elements {
    let name = || KeyPart::from(IfPattern::from("p0"));
    let key = |parts: Vec<KeyPart>| Key::new(false, parts);
    [
        bridge.element("macs", key(vec![name(), mac(A_MAC).into()]), ElementBody::default()),
        bridge.element(
            "arps",
            key(vec![name(), mac(A_MAC).into(), Value::from(v4("10.1.0.2")).into()]),
            ElementBody::default(),
        ),
        bridge.element("ips", key(vec![name(), Value::from(v4("10.1.0.2")).into()]), ElementBody::default()),
    ]
    .into()
}

/// Frames from A: good ones and all kinds of false ones.
fn frames() -> Vec<(Ether, Network)> {
    let mut out = Vec::new();
    for (src, dst) in
        [(A_MAC, B_MAC), ("02:00:00:00:0a:77", B_MAC), (A_MAC, BRIDGE_MAC), ("02:00:00:00:0a:77", BRIDGE_MAC)]
    {
        let ether = Ether { src: mac(src), dst: mac(dst) };
        for (operation, src_mac, src_ip, dst_ip) in [
            (1, A_MAC, "10.1.0.2", "10.1.0.3"),
            (2, A_MAC, "10.1.0.2", "10.1.0.1"),
            (1, A_MAC, "10.1.0.1", "10.1.0.3"),
            (1, "02:00:00:00:0a:77", "10.1.0.2", "10.1.0.1"),
        ] {
            let dst_mac = Mac([0; 6]);
            let (src_mac, src_ip, dst_ip) = (mac(src_mac), v4(src_ip), v4(dst_ip));
            out.push((ether, Network::Arp { operation, src_mac, src_ip, dst_mac, dst_ip }));
        }
        for (src, dst, transport) in [
            ("10.1.0.2", "10.1.0.3", Transport::Udp { src: 1, dst: 2 }),
            ("10.1.0.2", "10.1.0.3", Transport::Udp { src: 1, dst: 4789 }),
            ("10.1.0.2", "10.1.0.3", Transport::Udp { src: 1, dst: 8472 }),
            ("10.1.0.9", "10.1.0.3", Transport::syn(1, 2)),
            ("fd01::2", "fd01::3", Transport::Icmp { kind: 136, target: Some(v6("fd01::2")) }),
            ("fd01::2", "fd01::3", Transport::Icmp { kind: 136, target: Some(v6("fd01::1")) }),
            ("fd01::2", "fd01::3", Transport::Udp { src: 1, dst: 2 }),
        ] {
            out.push((ether, Network::Ip { src: address(src), dst: address(dst), transport }));
        }
    }
    out
}

fn bytes(ether: &Ether, network: &Network) -> Vec<u8> {
    let mut out = [ether.dst.0, ether.src.0].concat();
    match network {
        Network::Ip { src, dst, transport } => {
            out.extend(if src.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] });
            out.extend(packet(*src, *dst, *transport));
        }
        Network::Arp { operation, src_mac, src_ip, dst_mac, dst_ip } => {
            out.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4]);
            out.extend(operation.to_be_bytes());
            out.extend(src_mac.0);
            out.extend(src_ip.octets());
            out.extend(dst_mac.0);
            out.extend(dst_ip.octets());
        }
        Network::Other(kind) => out.extend(kind.to_be_bytes()),
    }
    out.resize(out.len().max(60), 0);
    out
}

fn all_counts() -> Counts {
    ["bridge", "netdev", "arp"].into_iter().flat_map(|family| counted(family, "tested")).collect()
}

/// Takes the frame through the hooks as the bridge does.
fn simulate(ruleset: &Ruleset<'_>, links: &[Link; 3], ether: Ether, network: Network) -> Transit {
    let [p0, p1, bridge] = links;
    let arp = matches!(network, Network::Arp { .. });
    let mut transit = Transit::new(Packet::frame(p0.clone(), ether, network));
    let here = ether.dst == mac(BRIDGE_MAC);
    let stages: &[Stage] = match (here, arp) {
        (false, _) => &[
            Stage::Ingress,
            Stage::Bridge(Hook::Prerouting),
            Stage::Bridge(Hook::Forward),
            Stage::Bridge(Hook::Postrouting),
        ],
        (true, true) => {
            &[Stage::Ingress, Stage::Bridge(Hook::Prerouting), Stage::Bridge(Hook::Input), Stage::Network(Hook::Input)]
        }
        (true, false) => &[Stage::Ingress, Stage::Bridge(Hook::Prerouting), Stage::Bridge(Hook::Input)],
    };
    for stage in stages {
        match stage {
            Stage::Bridge(Hook::Forward) => transit.packet.oif = Some(p1.clone()),
            Stage::Network(_) => transit.packet.iif = Some(bridge.clone()),
            _ => {}
        }
        if ruleset.at(*stage, &mut transit, &Nothing).unwrap() != Fate::Accepted {
            break;
        }
    }
    transit
}

fn lab(a: &Host, b: &Host) -> [Link; 3] {
    ip(&format!(
        "link set lo up
         link add br0 address {BRIDGE_MAC} type bridge mcast_snooping 0 stp_state 0
         link add back index {BACK} type ifb
         link set back up
         link add p0 type veth peer name a0 netns {}
         link add p1 type veth peer name b0 netns {}
         link set p0 master br0
         link set p1 master br0",
        a.tid, b.tid
    ));
    for link in ["p0", "p1", "br0"] {
        sysctl(&format!("net.ipv6.conf.{link}.disable_ipv6"), "1");
        ip(&format!("link set {link} up"));
    }
    for (host, link) in [(a, "a0"), (b, "b0")] {
        host.run(move || {
            sysctl("net.ipv6.conf.all.disable_ipv6", "1");
            ip(&format!("link set {link} up"));
        });
    }
    run_fdb();
    ["p0", "p1", "br0"].map(|name| Link { name: name.parse().unwrap(), index: index(name) })
}

/// B is behind p1, whatever was heard.
fn run_fdb() {
    crate::kernel::run("bridge", &["fdb", "replace", B_MAC, "dev", "p1", "master", "static"]);
}

/// Notes markers in front of everything else.
fn witness() -> Table {
    Table::new(TableFamily::Netdev, "witness").set("markers", Set::of([Type::EtherAddr]).dynamic().size(999)).chain(
        "early",
        Chain::ingress("p0".parse().unwrap(), -10).rule(Rule::new([
            ether::kind().is(EtherType(0x88b5)),
            update_set("markers", ether::saddr(), None),
            drop(),
        ])),
    )
}

fn markers(socket: &mut Socket) -> Vec<Vec<u8>> {
    let dump = socket.dump(|seq| dump_elements(seq, TableFamily::Netdev, &"witness".into(), &"markers".into()));
    let elements = dump.into_iter().filter_map(|message| match message {
        Message::Elements(info) => Some(info.elements),
        _ => None,
    });
    elements.flatten().filter_map(|element| element.key).collect()
}

#[test]
fn frames_meet_the_same_rules_in_the_kernel() {
    in_namespace(|| {
        let (a, b) = (Host::new(), Host::new());
        let links = lab(&a, &b);
        let mut socket = Socket::open();
        let tables = tables();
        let elements = elements(&tables[0]);
        let mut batch = Batch::new();
        tables.iter().chain([&witness()]).for_each(|table| batch.add_table(table).unwrap());
        batch.add_elements(&elements).unwrap();
        socket.apply(batch).unwrap();
        let ruleset = Ruleset::new(&tables, &elements).unwrap();
        let mut met = BTreeMap::new();
        // A link that just came up may drop what is sent at first.
        let first = Ether { src: Mac([2, 0, 0, 1, 1, 0]), dst: mac(B_MAC) };
        let heard = (0..2_000).any(|_| {
            a.run(move || send_frame(&bytes(&first, &Network::Other(0x88b5)), "a0"));
            std::thread::sleep(std::time::Duration::from_millis(1));
            markers(&mut socket).contains(&first.src.0.to_vec())
        });
        assert!(heard, "the link does not come up in 2 s");
        for (number, (ether, network)) in frames().into_iter().enumerate() {
            let transit = simulate(&ruleset, &links, ether, network.clone());
            let before = all_counts();
            let frame = bytes(&ether, &network);
            let marker = Ether { src: Mac([2, 0, 0, 1, 0, number.try_into().unwrap()]), dst: mac(B_MAC) };
            let wanted = marker.src.0.to_vec();
            a.run(move || {
                send_frame(&frame, "a0");
                send_frame(&bytes(&marker, &Network::Other(0x88b5)), "a0");
            });
            let arrived = (0..2_000).any(|_| {
                std::thread::sleep(std::time::Duration::from_millis(1));
                markers(&mut socket).contains(&wanted)
            });
            assert!(arrived, "the marker behind {ether:?} {network:?} did not arrive in 2 s");
            let after = all_counts();
            let kernel: Vec<_> =
                after.iter().zip(&before).filter(|(a, b)| a.1 != b.1).map(|(a, b)| (a.0.clone(), a.1 - b.1)).collect();
            let mut simulated: BTreeMap<_, u64> = BTreeMap::new();
            for step in transit.trail.iter().filter(|step| step.rule.is_some()) {
                *simulated.entry((step.chain.to_string(), step.rule.unwrap())).or_default() += 1;
                *met.entry(step.chain.to_string()).or_insert(0) += 1;
            }
            let trail: Vec<_> = transit.trail.iter().map(ToString::to_string).collect();
            let kernel: BTreeMap<_, _> = kernel.into_iter().collect();
            assert_eq!(kernel, simulated, "{ether:?} {network:?}\n{}", trail.join("\n"));
        }
        assert_eq!(met.len(), 6, "{met:?}");
    });
}
