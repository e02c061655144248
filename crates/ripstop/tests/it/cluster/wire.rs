//! What is on the wire: each backend's outer header, captured between the nodes.

use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use ripstop_lab::probe::Pairs;
use ripstop_lab::{Backend, Families, Lab, Options, PodSpec, RangeMode, Target, Wiring};

use super::{lab, pods, rows};

/// Where the outer IPv4 header begins in an Ethernet frame, and how long it is without options.
const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;

/// Source and destination.
type Ends = (IpAddr, IpAddr);

#[test]
fn vxlan_puts_udp_8472_with_vni_1_around_a_pods_packet() {
    let options = Options { nodes: 2, subnets: 2, backend: Backend::Vxlan, ..Options::named("t-wire-vx") };
    let Some((lab, inner, frames)) = captured(options) else { return };
    let outer = ("172.30.1.11".parse().unwrap(), "172.30.2.12".parse().unwrap());
    let mut tunnelled = 0;
    let between = frames.iter().filter(|frame| addresses(frame, ETHERNET) == Some(outer));
    for frame in between.filter(|frame| !is_agents(&frame[ETHERNET + IPV4..])) {
        let udp = &frame[ETHERNET + IPV4..];
        assert_eq!(frame[ETHERNET + 9], 17, "the outer protocol is UDP");
        assert_eq!(u16::from_be_bytes([udp[2], udp[3]]), 8472, "the outer port");
        assert_eq!(udp[8] & 0x08, 0x08, "the flag I of RFC 7348");
        assert_eq!(u32::from_be_bytes([0, udp[12], udp[13], udp[14]]), 1, "the VNI");
        if addresses(frame, ETHERNET + IPV4 + 8 + 8 + ETHERNET) == Some(inner) {
            tunnelled += 1;
        }
    }
    are_all_tunnelled(&frames, inner, tunnelled);
    // Connection tracking follows what pods send, and no tunnel packet.
    for node in [1, 2] {
        let space = lab.node(node).netns();
        let name = space.file_name().unwrap();
        let output =
            Command::new("ip").args(["netns", "exec"]).arg(name).args(["cat", "/proc/net/nf_conntrack"]).output();
        let table = String::from_utf8(output.unwrap().stdout).unwrap();
        assert!(table.contains(&format!("src={} dst={}", inner.0, inner.1)), "{table}");
        assert!(!table.contains("dport=8472"), "{table}");
    }
    lab.down().unwrap();
}

#[test]
fn udp_puts_port_8285_around_a_pods_packet_and_nothing_between() {
    for (name, families, header) in [("t-wire-u4", Families::V4, IPV4), ("t-wire-u6", Families::V6, IPV6)] {
        let options = Options { nodes: 2, subnets: 2, backend: Backend::Udp, families, ..Options::named(name) };
        let Some((lab, inner, frames)) = captured(options) else { return };
        let outer = match families {
            Families::V6 => ("fd00:30:1::11".parse().unwrap(), "fd00:30:2::12".parse().unwrap()),
            _ => ("172.30.1.11".parse().unwrap(), "172.30.2.12".parse().unwrap()),
        };
        let mut tunnelled = 0;
        let between = frames.iter().filter(|frame| packet_addresses(frame, ETHERNET) == Some(outer));
        for frame in between.filter(|frame| !is_agents(&frame[ETHERNET + header..])) {
            let protocol = if header == IPV4 { frame[ETHERNET + 9] } else { frame[ETHERNET + 6] };
            assert_eq!(protocol, 17, "the outer protocol is UDP");
            let udp = &frame[ETHERNET + header..];
            assert_eq!([&udp[..2], &udp[2..4]], [&8285u16.to_be_bytes()[..]; 2], "the outer ports");
            tunnelled += u32::from(packet_addresses(frame, ETHERNET + header + 8) == Some(inner));
        }
        are_all_tunnelled(&frames, inner, tunnelled);
        lab.down().unwrap();
    }
}

#[test]
fn ipip_puts_an_ipv4_header_around_a_pods_packet_and_nothing_between() {
    let options =
        Options { nodes: 2, subnets: 2, backend: Backend::Ipip, families: Families::V4, ..Options::named("t-wire-ip") };
    let Some((lab, inner, frames)) = captured(options) else { return };
    let outer = ("172.30.1.11".parse().unwrap(), "172.30.2.12".parse().unwrap());
    let mut tunnelled = 0;
    let between = frames.iter().filter(|frame| addresses(frame, ETHERNET) == Some(outer));
    for frame in between.filter(|frame| frame[ETHERNET + 9] != 17 || !is_agents(&frame[ETHERNET + IPV4..])) {
        let header = &frame[ETHERNET..ETHERNET + IPV4];
        assert_eq!((header[0], header[9]), (0x45, 4), "an IPv4 header without options, of protocol 4");
        let sum: u32 = header.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "the header's checksum");
        assert_eq!((header[6], header[8]), (0x40, 64), "not to be cut, and 64 hops");
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let of_inner = usize::from(u16::from_be_bytes([frame[ETHERNET + IPV4 + 2], frame[ETHERNET + IPV4 + 3]]));
        assert_eq!(length, of_inner + IPV4, "the length of both headers");
        tunnelled += u32::from(packet_addresses(frame, ETHERNET + IPV4) == Some(inner));
    }
    are_all_tunnelled(&frames, inner, tunnelled);
    lab.down().unwrap();
}

#[test]
fn host_gw_leaves_a_pods_packet_as_it_is() {
    let options = Options { nodes: 2, backend: Backend::HostGw, ..Options::named("t-wire-hg") };
    let Some((lab, inner, frames)) = captured(options) else { return };
    let bare = frames.iter().filter(|frame| addresses(frame, ETHERNET) == Some(inner)).count();
    assert!(bare > 50, "{bare} of {} frames are a pod's packet", frames.len());
    lab.down().unwrap();
}

#[test]
fn two_subnets_in_every_family_wiring_and_range_mode() {
    let cases = [
        ("t-mx-1", Families::V4, Wiring::Bridge, RangeMode::Lease, Backend::Auto),
        ("t-mx-2", Families::V6, Wiring::Routed, RangeMode::Lease, Backend::Auto),
        ("t-mx-3", Families::V6, Wiring::Bridge, RangeMode::PodCidr, Backend::Vxlan),
        ("t-mx-4", Families::Dual, Wiring::Routed, RangeMode::PodCidr, Backend::Auto),
        ("t-mx-5", Families::V4, Wiring::Bridge, RangeMode::PodCidr, Backend::Udp),
        ("t-mx-6", Families::V6, Wiring::Bridge, RangeMode::Lease, Backend::Udp),
        ("t-mx-8", Families::V4, Wiring::Bridge, RangeMode::Lease, Backend::Ipip),
        ("t-mx-9", Families::V4, Wiring::Routed, RangeMode::PodCidr, Backend::IpipCrossSubnet),
        ("t-mx-7", Families::Dual, Wiring::Routed, RangeMode::Lease, Backend::Udp),
    ];
    for (name, families, wiring, range_mode, backend) in cases {
        let options = Options { nodes: 3, subnets: 2, families, wiring, range_mode, backend, ..Options::named(name) };
        let Some(lab) = lab(options) else { return };
        pods(&lab);
        let prober = lab.probe(200, &Pairs::All).unwrap();
        std::thread::sleep(Duration::from_secs(1));
        let report = prober.stop().unwrap();
        assert!(report.received > 0 && report.errors.is_empty(), "{name}: {report:?}");
        assert_eq!((report.lost, report.dup, report.translated), (0, 0, 0), "{name}: {report:?}");
        let pairs = 6 * if families == Families::Dual { 2 } else { 1 };
        assert_eq!(report.pairs.len(), pairs, "{name}: every pair in every family");
        lab.down().unwrap();
    }
}

#[test]
fn a_pod_leaves_the_cluster_with_its_nodes_address_and_reaches_a_peer_by_its_own_where_the_path_is_plain() {
    let options = Options { nodes: 3, subnets: 2, backend: Backend::Auto, ..Options::named("t-masq") };
    let Some(lab) = lab(options) else { return };
    pods(&lab);
    let pod = ip(&lab, "p1").to_string();
    let node: IpAddr = "172.30.1.11".parse().unwrap();
    // outside, a node behind a router (by tunnel), a node of the same subnet (plain)
    let seen = |target: Target, to: &str| -> Vec<String> {
        let capture = lab.capture(&target, Some("eth0")).unwrap();
        lab.exec(&Target::Pod("p1".into()), &["ping", "-c", "3", "-i", "0.2", "-W", "2", to]).unwrap();
        std::thread::sleep(Duration::from_millis(200));
        let packets = capture.stop().unwrap();
        let to: IpAddr = to.parse().unwrap();
        let pings = packets.iter().filter(|packet| packet.data.get(ETHERNET + 9) == Some(&1));
        let requests = pings.filter_map(|packet| addresses(&packet.data, ETHERNET)).filter(|(_, dst)| *dst == to);
        let mut sources: Vec<String> = requests.map(|(src, _)| src.to_string()).collect();
        sources.sort();
        sources.dedup();
        sources
    };
    assert_eq!(seen(Target::Outside, "172.31.0.10"), [node.to_string()], "outside sees the node");
    assert_eq!(seen(Target::Node(2), "172.30.2.12"), [node.to_string()], "a node by tunnel sees the node");
    assert_eq!(seen(Target::Node(3), "172.30.1.13"), [pod], "a node by the plain path sees the pod");
    assert_eq!(rows(&lab, 1, "/v1/pods").len(), 2);
    lab.down().unwrap();
}

/// Whether it is what agents send one another to probe the way, by the ports of its UDP header.
fn is_agents(udp: &[u8]) -> bool {
    udp[..4].chunks(2).any(|port| port == 9468u16.to_be_bytes())
}

/// A lab of two nodes, the addresses of its pods `p1` and `p2`, and the frames at node 1's cable during a second of probes from one to the other.
fn captured(options: Options) -> Option<(Lab, Ends, Vec<Vec<u8>>)> {
    let lab = lab(options)?;
    pods(&lab);
    let inner = (ip(&lab, "p1"), ip(&lab, "p2"));
    let capture = lab.capture(&Target::Node(1), Some("eth0")).unwrap();
    let pair = (Target::Pod("p1".into()), Target::Pod("p2".into()));
    let prober = lab.probe(100, &Pairs::Of(vec![pair])).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    let report = prober.stop().unwrap();
    assert!(report.received > 50 && report.lost == 0, "{report:?}");
    let frames = capture.stop().unwrap().into_iter().map(|packet| packet.data).collect();
    Some((lab, inner, frames))
}

/// Packets of pods were in tunnels, and nowhere else.
fn are_all_tunnelled(frames: &[Vec<u8>], inner: Ends, tunnelled: u32) {
    assert!(tunnelled > 50, "{tunnelled} of {} frames carry a pod's packet", frames.len());
    let bare = frames.iter().filter(|frame| packet_addresses(frame, ETHERNET) == Some(inner)).count();
    assert_eq!(bare, 0, "pods' packets without a tunnel");
}

fn ip(lab: &Lab, pod: &str) -> IpAddr {
    let pods = lab.state().unwrap().pods;
    pods[pod].ips()[0]
}

/// Source and destination of the packet at an offset, by its own version, whatever stands before it.
fn packet_addresses(frame: &[u8], at: usize) -> Option<Ends> {
    match frame.get(at)? >> 4 {
        4 => {
            let of = |n: usize| <[u8; 4]>::try_from(frame.get(at + n..at + n + 4)?).ok().map(IpAddr::from);
            Some((of(12)?, of(16)?))
        }
        6 => {
            let of = |n: usize| <[u8; 16]>::try_from(frame.get(at + n..at + n + 16)?).ok().map(IpAddr::from);
            Some((of(8)?, of(24)?))
        }
        _ => None,
    }
}

/// Source and destination of an IPv4 header at an offset.
fn addresses(frame: &[u8], at: usize) -> Option<Ends> {
    let header = frame.get(at..at + IPV4)?;
    if header[0] >> 4 != 4 || frame.get(at - 2..at)? != [0x08, 0x00] {
        return None;
    }
    let four = |n: usize| IpAddr::from([header[n], header[n + 1], header[n + 2], header[n + 3]]);
    Some((four(12), four(16)))
}

/// When ADD is answered the pod is on the network, also the first of a node: nothing that it sends at once waits or is
/// lost.
#[test]
fn a_new_pods_first_packets_arrive() {
    for (name, wiring) in [("t-first-r", Wiring::Routed), ("t-first-b", Wiring::Bridge)] {
        let options =
            Options { nodes: 2, wiring, backend: Backend::HostGw, families: Families::Dual, ..Options::named(name) };
        let Some(lab) = lab(options) else { return };
        for (number, node) in [1, 2, 1, 2, 1, 1].into_iter().enumerate() {
            let new = format!("new{number}");
            lab.pod_add(&PodSpec::new(&new, node)).unwrap();
            let peers: Vec<_> =
                (0..number).map(|peer| (new.parse().unwrap(), format!("new{peer}").parse().unwrap())).collect();
            if peers.is_empty() {
                continue;
            }
            let prober = lab.probe(1000, &Pairs::Of(peers)).unwrap();
            std::thread::sleep(Duration::from_millis(50));
            let report = prober.stop().unwrap();
            assert!(report.received > 0 && report.lost == 0, "{name} {new}: {report:?}");
        }
        lab.down().unwrap();
    }
}
