//! Packets of pods: to each other, to themselves, to their node and back, on every wiring and family.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use crate::support::ns::{Ns, is_root};
use crate::support::packets::{Echo, Frames, ask, ethernet, mac, pings, udp4};
use crate::support::world::{Families, NODE, Plan, Pod, World, at};

fn tcp(from: &Ns, server: &Ns, at: &str) {
    let listener = server.inside(|| TcpListener::bind(at)).unwrap();
    std::thread::scope(|s| {
        s.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut text = [0; 5];
            stream.read_exact(&mut text).unwrap();
            stream.write_all(&text).unwrap();
        });
        let to = at.parse().unwrap();
        let mut stream = from.inside(|| TcpStream::connect_timeout(&to, std::time::Duration::from_secs(5))).expect(at);
        stream.write_all(b"hello").unwrap();
        let mut text = [0; 5];
        stream.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"hello");
    });
}

fn all_ways(plan: Plan) {
    let what = format!("{} {:?}", plan.wiring, plan.families);
    let (families, bridge) = (plan.families, plan.wiring == "bridge");
    let world = World::start(plan);
    let (a, b) = (world.pod("a"), world.pod("b"));
    let places: Vec<usize> =
        [families.four(), families.six()].iter().enumerate().filter(|(_, has)| **has).map(|(n, _)| n).collect();
    for (n, family) in places.iter().enumerate() {
        let (ip_a, ip_b) = (a.ips()[n].clone(), b.ips()[n].clone());
        let own = world.own_ip(*family == 1);
        // Pod to pod, and back.
        let (on_a, on_b) = (Echo::start(&a.ns, &at(&ip_a, 7000)), Echo::start(&b.ns, &at(&ip_b, 7000)));
        assert_eq!(ask(&a.ns, None, on_b.at), Some(ip_a.clone()), "{what}: pod to pod");
        assert_eq!(ask(&b.ns, None, on_a.at), Some(ip_b.clone()), "{what}: pod to pod");
        tcp(&a.ns, &b.ns, &at(&ip_b, 7100));
        assert!(pings(&a.ns, &ip_b), "{what}");
        // To itself.
        assert_eq!(ask(&a.ns, None, on_a.at), Some(ip_a.clone()), "{what}: to itself");
        // Node to pod: from its own address of the network. Pod to node: unchanged.
        assert_eq!(ask(&world.node, None, on_a.at), Some(own.clone()), "{what}: node to pod");
        assert!(pings(&world.node, &ip_a), "{what}");
        for address in [NODE[*family], own.as_str()] {
            let on_node = world.node_echo(&at(address, 7001));
            assert_eq!(ask(&a.ns, None, on_node.at), Some(ip_a.clone()), "{what}: pod to node at {address}");
        }
        assert!(pings(&a.ns, NODE[*family]), "{what}");
        hairpin(&world, &a, &on_a, &own, *family == 1, &what);
    }
    if bridge && families.four() {
        reflected(&a);
    }
    localhost(&a);
    world.settle();
    // What was added last is taken away without harm to the first.
    world.del(&b);
    let on_a = Echo::start(&a.ns, &at(&a.ip(), 7002));
    assert!(ask(&world.node, None, on_a.at).is_some());
}

/// By way of a service's address that a foreign table turns into the pod's own.
fn hairpin(world: &World, pod: &Pod, echo: &Echo, own: &str, six: bool, what: &str) {
    let (family, service) = if six { ("ip6", "2001:db8:96::1") } else { ("ip", "198.51.100.1") };
    let (ip, to) = (echo.at.ip(), at(&echo.at.ip().to_string(), 7000));
    world.node.run(
        "nft",
        &[&format!(
            "table {family} svc {{ chain pre {{ type nat hook prerouting priority dstnat; \
         {family} daddr {service} udp dport 80 dnat to {to}; }}; chain post {{ type nat hook postrouting \
         priority srcnat - 5; {family} saddr {ip} {family} daddr {ip} masquerade; }}; }}"
        )],
    );
    let service = at(service, 80).parse().unwrap();
    let seen = ask(&pod.ns, None, service);
    assert!(
        seen.as_deref() == Some(own) || seen.as_deref() == Some(NODE[usize::from(six)]),
        "{what}: hairpin: {seen:?}"
    );
    world.node.run("nft", &["delete", "table", family, "svc"]);
}

/// A frame to the port it came from.
fn reflected(pod: &Pod) {
    let frames = Frames::open(&pod.ns, "eth0");
    let own = mac(&pod.mac());
    let frame = ethernet(own, own, 0x0800, &udp4(&pod.ip(), &pod.ip(), 9, "mirror"));
    frames.send(&frame);
    // A socket does not see what it sends itself.
    let is_it = |found: &[u8]| found.windows(6).any(|text| text == b"mirror");
    assert!(frames.until(is_it).last().is_some_and(|found| is_it(found)), "the bridge sends it back");
}

/// Two containers of one pod share its namespace: two threads here.
fn localhost(pod: &Pod) {
    tcp(&pod.ns, &pod.ns, "127.0.0.1:7300");
    tcp(&pod.ns, &pod.ns, "[::1]:7300");
}

#[test]
fn routed_ipv4() {
    if is_root() {
        all_ways(Plan::default());
    }
}

#[test]
fn routed_ipv6_only() {
    if is_root() {
        all_ways(Plan { families: Families::V6, ..Plan::default() });
    }
}

#[test]
fn routed_dual_stack() {
    if is_root() {
        all_ways(Plan { families: Families::Dual, ..Plan::default() });
    }
}

#[test]
fn bridged_ipv4() {
    if is_root() {
        all_ways(Plan { wiring: "bridge", ..Plan::default() });
    }
}

#[test]
fn bridged_ipv6_only() {
    if is_root() {
        all_ways(Plan { wiring: "bridge", families: Families::V6, ..Plan::default() });
    }
}

#[test]
fn bridged_dual_stack() {
    if is_root() {
        all_ways(Plan { wiring: "bridge", families: Families::Dual, ..Plan::default() });
    }
}

#[test]
fn an_address_that_no_pod_has_is_answered_with_an_error() {
    if !is_root() {
        return;
    }
    let world = World::start(Plan { families: Families::Dual, ..Plan::default() });
    let pod = world.pod("web");
    for six in [false, true] {
        let range: ripstop_types::Prefix = world.own_range(six).parse().unwrap();
        let unused = range.nth(200).unwrap().to_string();
        for ns in [&pod.ns, &world.node] {
            let (reached, text) = ns.tried("ping", &["-c", "1", "-W", "3", &unused]);
            let refused = text.contains("Unreachable") || text.contains("unreachable") || text.contains("No route");
            assert!(!reached && refused, "{text}");
        }
    }
}
