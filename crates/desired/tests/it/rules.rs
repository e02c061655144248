//! Packets through the rules of the clusters.
//!
//! Node n1 at 172.30.1.11 and fd00:30:1::11 has pod a on rippa (10.244.1.7, fd00:10:0:1::7). Pods of n2 are in
//! 10.244.2.0/24; "outside" is 192.0.2.80. What a rule does is told by what becomes of a packet and of its source.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::process::{Command, Stdio};

use ripstop_desired::Desired;
use ripstop_nft::model::build::{EtherType, Icmpv6Type};
use ripstop_nft::model::{ElementBody, ElementKey, Table, TableFamily};
use ripstop_nft::sim::{Ether, Fate, Host, Link, Network, Packet, Ruleset, Stage, Tracking, Transit, Transport, Walk};
use ripstop_objects::Wiring;
use ripstop_types::Mac;

use crate::clusters;
use crate::golden::ruleset;
use crate::scenario::{Scenario, ip, name, pod_row, prefix};

/// The rules of a cluster, and the node around them.
struct Node {
    tables: Vec<Table>,
    elements: BTreeMap<ElementKey, ElementBody>,
    host: Host,
}

fn link(text: &str) -> Link {
    let index = match text {
        "lo" => 1,
        "eth0" => 2,
        "rip0" => 3,
        "ript1" => 4,
        "rippa" => 5,
        "rippb" => 6,
        _ => 7,
    };
    Link { name: name(text), index }
}

fn node(cluster: &Scenario) -> Node {
    let (tables, elements) = ruleset(Desired::of(&cluster.tables).model());
    let addresses = |texts: &[&str]| texts.iter().map(|text| ip(text)).collect::<Vec<IpAddr>>();
    let links = vec![
        (link("lo"), addresses(&["127.0.0.1", "::1"])),
        (link("eth0"), addresses(&["172.30.1.11", "fd00:30:1::11"])),
        (link("rip0"), addresses(&["10.244.1.1", "fd00:10:0:1::1"])),
        (link("ript1"), Vec::new()),
    ];
    let routes = [
        ("0.0.0.0/0", "eth0"),
        ("::/0", "eth0"),
        ("10.244.1.7/32", "rippa"),
        ("fd00:10:0:1::7/128", "rippa"),
        ("10.244.2.0/24", "ript1"),
        ("fd00:10:0:2::/64", "ript1"),
    ];
    let routes = routes.into_iter().map(|(dst, dev)| (prefix(dst), link(dev))).collect();
    Node { tables, elements, host: Host { links, routes } }
}

const TCP: Transport = Transport::Tcp { src: 40_000, dst: 80, flags: 2 };
const TUNNEL: Transport = Transport::Udp { src: 40_000, dst: 8472 };

impl Node {
    fn receive(&self, dev: &str, src: &str, dst: &str, transport: Transport) -> Walk {
        let rules = Ruleset::new(&self.tables, &self.elements).unwrap();
        rules.receive(Packet::received(link(dev), ip(src), ip(dst), transport), &self.host).unwrap()
    }

    fn send(&self, src: &str, dst: &str) -> Walk {
        let rules = Ruleset::new(&self.tables, &self.elements).unwrap();
        rules.send(Packet::sent(ip(src), ip(dst), TCP), &self.host).unwrap()
    }

    /// What becomes of a frame of a pod at the ingress of its link.
    fn at_link(&self, frame: Packet) -> Fate {
        let rules = Ruleset::new(&self.tables, &self.elements).unwrap();
        rules.at(Stage::Ingress, &mut Transit::new(frame), &self.host).unwrap()
    }

    /// Whether a packet that pod a sends to somewhere leaves with its own address.
    fn keeps_source(&self, src: &str, dst: &str) -> bool {
        let walk = self.receive("rippa", src, dst, TCP);
        assert_eq!(walk.fate, Fate::Accepted, "{src} to {dst}: {:?}", walk.transit.trail);
        walk.transit.masquerade.is_none() && walk.transit.packet.source() == Some(ip(src))
    }
}

#[test]
fn a_pod_sends_from_its_own_addresses_only() {
    for cluster in [clusters::routed_host_gw_v4(), clusters::routed_vxlan_dual(), clusters::auto_two_subnets()] {
        let node = node(&cluster.pod(pod_row("b", "default", &["10.244.1.8"], Wiring::Routed)));
        assert_eq!(node.receive("rippa", "10.244.1.7", "10.244.2.9", TCP).fate, Fate::Accepted);
        for foreign in ["10.244.1.8", "10.244.2.9", "172.30.1.11", "172.30.1.12", "127.0.0.1", "192.0.2.80"] {
            let walk = node.receive("rippa", foreign, "10.244.2.9", TCP);
            assert_eq!(walk.fate, Fate::Dropped, "from {foreign}");
        }
        // Another pod's link does not make the address one's own.
        assert_eq!(node.receive("rippb", "10.244.1.7", "10.244.2.9", TCP).fate, Fate::Dropped);
    }
    let node = node(&clusters::routed_vxlan_dual());
    assert_eq!(node.at_link(arp(mac(b'a'), mac(b'a'), "10.244.1.7")), Fate::Accepted, "who asks for the router");
    assert_eq!(node.at_link(other_frame(mac(b'a'), Network::Other(0x88cc))), Fate::Dropped, "no source to look at");
    assert_eq!(node.receive("rippa", "fd00:10:0:1::7", "fd00:10:0:2::9", TCP).fate, Fate::Accepted);
    for foreign in ["fd00:10:0:1::8", "fe80::7", "fd00:30:1::11"] {
        assert_eq!(node.receive("rippa", foreign, "fd00:10:0:2::9", TCP).fate, Fate::Dropped, "from {foreign}");
    }
}

/// Where rules are missing, nothing passes: better no way out than every address.
#[test]
fn a_link_whose_rules_were_flushed_is_closed() {
    let mut node = node(&clusters::routed_vxlan_dual());
    for table in node.tables.iter_mut().filter(|table| table.family == TableFamily::Netdev) {
        table.chains.values_mut().for_each(|chain| chain.rules.clear());
    }
    assert_eq!(node.receive("rippa", "10.244.1.7", "10.244.2.9", TCP).fate, Fate::Dropped);
}

/// Two interfaces of one pod: answers from the second's address leave by the first, which is the way out.
#[test]
fn a_pod_sends_from_each_of_its_addresses_by_each_of_its_links() {
    let mut second = pod_row("z", "storage", &["10.9.1.9"], Wiring::Routed);
    let first = pod_row("a", "default", &["10.244.1.7"], Wiring::Routed);
    (second.attachment.container, second.netns) = (first.attachment.container.clone(), first.netns.clone());
    second.attachment.ifname = name("net1");
    let node = node(&clusters::two_networks().pod(first).pod(second));
    for link in ["rippa", "rippz"] {
        assert_eq!(node.receive(link, "10.244.1.7", "10.244.2.9", TCP).fate, Fate::Accepted, "{link}");
        assert_eq!(node.receive(link, "10.9.1.9", "10.244.2.9", TCP).fate, Fate::Accepted, "{link}");
        assert_eq!(node.receive(link, "10.9.1.8", "10.244.2.9", TCP).fate, Fate::Dropped, "{link}: another pod's");
    }
}

#[test]
fn tunnel_packets_are_taken_from_nodes_only() {
    for cluster in [clusters::routed_vxlan_dual(), clusters::auto_two_subnets(), clusters::bridge_vxlan()] {
        let node = node(&cluster);
        let fate = |dev: &str, src: &str| node.receive(dev, src, "172.30.1.11", TUNNEL).fate;
        assert_eq!(fate("eth0", "172.30.1.12"), Fate::Accepted, "a node");
        assert_eq!(fate("eth0", "172.30.1.99"), Fate::Dropped, "a stranger in the subnet");
        assert_eq!(fate("eth0", "192.0.2.80"), Fate::Dropped, "a stranger");
        assert_eq!(fate("ript1", "10.244.2.9"), Fate::Dropped, "a pod of another node");
        assert_eq!(node.receive("eth0", "fd00:30:1::99", "fd00:30:1::11", TUNNEL).fate, Fate::Dropped);
        assert_eq!(fate("rippa", "10.244.1.7"), Fate::Dropped, "a pod of this node");
        for local in ["10.244.1.1", "127.0.0.1"] {
            assert_eq!(node.receive("eth0", "192.0.2.80", local, TUNNEL).fate, Fate::Dropped, "{local} is local too");
        }
        // Between nodes they are no connections, others are.
        let tracked = |src: &str, dst: &str| {
            node.receive("eth0", src, dst, TUNNEL).transit.packet.tracking != Tracking::Untracked
        };
        assert!(!tracked("172.30.1.12", "172.30.1.11"));
        assert!(tracked("172.30.1.12", "192.0.2.80"), "passed on, and not for this node");
        // Other ports are none of the tunnel's business.
        assert_eq!(node.receive("eth0", "192.0.2.80", "172.30.1.11", TCP).fate, Fate::Accepted);
    }
    let plain = node(&clusters::routed_host_gw_v4());
    assert_eq!(plain.receive("eth0", "192.0.2.80", "172.30.1.11", TUNNEL).fate, Fate::Accepted, "no tunnel here");
}

/// Packets in packets are looked at by their protocol.
#[test]
fn ipip_is_taken_from_nodes_only_and_no_pod_sends_it_to_nodes() {
    const IPIP: Transport = Transport::Other(4);
    let node = node(&clusters::ipip_dual());
    let walk = |dev: &str, src: &str, dst: &str| node.receive(dev, src, dst, IPIP);
    for (dev, src, dst, fate) in [
        ("eth0", "172.30.1.12", "172.30.1.11", Fate::Accepted),
        ("eth0", "172.30.2.13", "172.30.1.11", Fate::Accepted),
        ("eth0", "172.30.1.99", "172.30.1.11", Fate::Dropped),
        ("eth0", "192.0.2.80", "10.244.1.1", Fate::Dropped),
        ("eth0", "192.0.2.80", "172.30.1.12", Fate::Dropped),
        ("rippa", "10.244.1.7", "172.30.1.12", Fate::Dropped),
        ("rippa", "10.244.1.7", "172.30.1.11", Fate::Dropped),
        ("rippa", "10.244.1.7", "10.244.2.9", Fate::Accepted),
    ] {
        assert_eq!(walk(dev, src, dst).fate, fate, "{src} to {dst} by {dev}");
    }
    let tracking = |src, dst| walk("eth0", src, dst).transit.packet.tracking;
    assert_eq!(tracking("172.30.1.12", "172.30.1.11"), Tracking::Untracked);
    assert_ne!(tracking("172.30.1.12", "192.0.2.80"), Tracking::Untracked, "passed on, and not for this node");
    assert_eq!(node.receive("eth0", "192.0.2.80", "172.30.1.11", TUNNEL).fate, Fate::Accepted, "no VXLAN here");
    let plain = self::node(&clusters::routed_vxlan_dual());
    assert_eq!(plain.receive("eth0", "192.0.2.80", "172.30.1.11", IPIP).fate, Fate::Accepted, "no IPIP here");
}

/// The port is the tunnel's on nodes. What pods say to each other on it is theirs.
#[test]
fn pods_may_use_the_tunnels_port_among_themselves() {
    let node = node(&clusters::routed_vxlan_dual());
    assert_eq!(node.receive("ript1", "10.244.2.9", "10.244.1.7", TUNNEL).fate, Fate::Accepted);
    assert_eq!(node.receive("eth0", "10.244.2.9", "10.244.1.7", TUNNEL).fate, Fate::Accepted);
    assert_eq!(node.receive("rippa", "10.244.1.7", "10.244.2.9", TUNNEL).fate, Fate::Accepted);
    assert_eq!(node.receive("rippa", "10.244.1.7", "192.0.2.80", TUNNEL).fate, Fate::Accepted);
}

#[test]
fn pods_send_no_tunnel_packets_to_nodes() {
    for (cluster, dev) in [(clusters::routed_vxlan_dual(), "rippa"), (clusters::bridge_vxlan(), "rip0")] {
        let node = node(&cluster);
        for to in ["172.30.1.12", "172.30.1.11", "10.244.1.1"] {
            let walk = node.receive(dev, "10.244.1.7", to, TUNNEL);
            assert_eq!(walk.fate, Fate::Dropped, "{dev} to {to}");
            assert_eq!(node.receive(dev, "10.244.1.7", to, TCP).fate, Fate::Accepted, "{dev} to {to}, another port");
        }
        assert_eq!(node.receive(dev, "fd00:10:0:1::7", "fd00:30:1::11", TUNNEL).fate, Fate::Dropped);
    }
}

#[test]
fn pods_leave_the_cluster_with_the_nodes_address() {
    let node = node(&clusters::routed_vxlan_dual());
    let out = node.receive("rippa", "10.244.1.7", "192.0.2.80", TCP);
    assert_eq!(out.fate, Fate::Accepted);
    assert_eq!(out.transit.packet.source(), Some(ip("172.30.1.11")));
    let out = node.receive("rippa", "fd00:10:0:1::7", "2001:db8::80", TCP);
    assert_eq!(out.transit.packet.source(), Some(ip("fd00:30:1::11")));
    assert!(node.keeps_source("10.244.1.7", "10.244.2.9"), "pod to pod, never");
    assert!(node.keeps_source("fd00:10:0:1::7", "fd00:10:0:2::9"));
    assert!(node.keeps_source("10.244.1.7", "10.244.77.1"), "nor to a range nobody has yet");
    assert!(node.keeps_source("10.244.1.7", "224.0.0.251"), "nor to a group of the link");
}

/// On a plain path the answer comes back by the same way; on an encapsulated one it would not.
#[test]
fn a_remote_nodes_address_sees_the_pod_on_plain_paths_only() {
    assert!(node(&clusters::routed_host_gw_v4()).keeps_source("10.244.1.7", "172.30.1.12"));
    assert!(!node(&clusters::routed_vxlan_dual()).keeps_source("10.244.1.7", "172.30.1.12"));
    let auto = node(&clusters::auto_two_subnets());
    assert!(auto.keeps_source("10.244.1.7", "172.30.1.12"), "the near one");
    assert!(!auto.keeps_source("10.244.1.7", "172.30.2.13"), "the far one");
}

#[test]
fn the_node_itself_is_never_rewritten_towards_pods() {
    for cluster in [clusters::routed_host_gw_v4(), clusters::routed_vxlan_dual()] {
        let node = node(&cluster);
        for (src, dst) in [("10.244.1.1", "10.244.1.7"), ("10.244.1.1", "10.244.2.9"), ("172.30.1.11", "10.244.2.9")] {
            let walk = node.send(src, dst);
            assert_eq!((walk.fate, walk.transit.masquerade), (Fate::Accepted, None), "{src} to {dst}");
            assert_eq!(walk.transit.packet.source(), Some(ip(src)));
        }
        // What others send through stays theirs too.
        let walk = node.receive("ript1", "10.244.2.9", "10.244.1.7", TCP);
        assert_eq!(walk.transit.packet.source(), Some(ip("10.244.2.9")));
    }
}

fn mac(last: u8) -> Mac {
    Mac::local([0, 0, 1, 0, last])
}

/// A frame of pod a with what it says of itself.
fn ip_frame(from: Mac, src: &str, transport: Transport) -> Packet {
    let dst = if ip(src).is_ipv4() { "10.244.1.8" } else { "fd00:10:0:1::8" };
    Packet::received(link("rippa"), ip(src), ip(dst), transport).with_ether(from, mac(b'b'))
}

fn other_frame(from: Mac, network: Network) -> Packet {
    Packet::frame(link("rippa"), Ether { src: from, dst: mac(b'b') }, network)
}

fn arp(from: Mac, sender: Mac, address: &str) -> Packet {
    let (IpAddr::V4(src), IpAddr::V4(dst)) = (ip(address), ip("10.244.1.1")) else { panic!("{address}") };
    let network = Network::Arp { operation: 1, src_mac: sender, src_ip: src, dst_mac: Mac([0; 6]), dst_ip: dst };
    other_frame(from, network)
}

fn neighbour(kind: Icmpv6Type, target: &str) -> Packet {
    let IpAddr::V6(target) = ip(target) else { panic!("{target}") };
    ip_frame(mac(b'a'), "fd00:10:0:1::7", Transport::Icmp { kind: kind.0, target: Some(target) })
}

#[test]
fn a_bridged_pod_speaks_for_itself_in_every_protocol() {
    let node = node(&clusters::bridge_vxlan());
    let own = mac(b'a');
    let router = Transport::Icmp { kind: Icmpv6Type::ND_ROUTER_ADVERT.0, target: None };
    let advert = |target| neighbour(Icmpv6Type::ND_NEIGHBOR_ADVERT, target);
    let cases = [
        ("its own IPv4", ip_frame(own, "10.244.1.7", TCP), true),
        ("another's IPv4", ip_frame(own, "10.244.1.8", TCP), false),
        ("another's hardware address", ip_frame(mac(b'b'), "10.244.1.7", TCP), false),
        ("its own IPv6", ip_frame(own, "fd00:10:0:1::7", TCP), true),
        ("another's IPv6", ip_frame(own, "fd00:10:0:1::8", TCP), false),
        ("ARP of its own", arp(own, own, "10.244.1.7"), true),
        ("ARP for another", arp(own, own, "10.244.1.1"), false),
        ("ARP with another's hardware address", arp(own, mac(b'b'), "10.244.1.7"), false),
        ("an answer for its own address", advert("fd00:10:0:1::7"), true),
        ("an answer for the gateway's address", advert("fd00:10:0:1::1"), false),
        ("a question for another's", neighbour(Icmpv6Type::ND_NEIGHBOR_SOLICIT, "fd00:10:0:1::1"), true),
        ("itself as a router", ip_frame(own, "fd00:10:0:1::7", router), false),
        ("a tagged frame", other_frame(own, Network::Other(EtherType::VLAN.0)), false),
        ("a frame of another kind", other_frame(own, Network::Other(0x88cc)), false),
    ];
    for (what, frame, passes) in cases {
        let expected = if passes { Fate::Accepted } else { Fate::Dropped };
        assert_eq!(node.at_link(frame), expected, "{what}");
    }
}

/// nft itself reads what it would be shown.
#[test]
fn nft_takes_every_ruleset() {
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0);
    let has = |program: &str| {
        Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
    };
    if !is_root || !has("nft") || !has("unshare") {
        println!("SKIPPED: nft checks rules for root only, and this needs the programs nft and unshare");
        return;
    }
    for (story, cluster) in clusters::all() {
        let (tables, elements) = ruleset(Desired::of(&cluster.tables).model());
        // nft 1.0.6 has no name for the target of an advertisement, so of that field it cannot read back what it prints.
        let text: Vec<String> =
            ripstop_nft::text::ruleset(&tables, &elements).lines().map(|line| format!("{line}\n")).collect();
        let text: String = text.into_iter().filter(|line| !line.contains("@th,64,128")).collect();
        // In a namespace of its own: what is there has no part in the answer. Only a device's name counts here.
        let mut nft = Command::new("unshare")
            .args(["--net", "sh", "-c", "ip link add ripsa type bridge; nft --check --file -"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        nft.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let out = nft.wait_with_output().unwrap();
        assert!(out.status.success(), "{story}: {}\n{text}", String::from_utf8_lossy(&out.stderr));
    }
}
