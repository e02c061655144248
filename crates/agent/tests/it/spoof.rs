//! What pods and strangers may not send.
//!
//! Each test sends what must not arrive, then something honest on the same way, and looks what came until that.

use crate::support::ns::is_root;
use crate::support::packets::{Echo, Frames, advertisement, arp, ethernet, icmp6, mac, send, udp4};
use crate::support::soon;
use crate::support::world::{Families, NODE, OUTSIDE, PEER, Plan, Pod, ROUTER, StoreAt, World, at};

const BROADCAST: [u8; 6] = [0xff; 6];

/// Sends the honest text until it is heard.
fn honest(from: &Pod, source: &str, echo: &Echo) {
    assert!(soon(|| {
        send(&from.ns, Some(source), echo.at, "honest");
        std::thread::sleep(std::time::Duration::from_millis(20));
        echo.has_heard("honest")
    }));
}

#[test]
fn another_source_address_is_dropped() {
    if !is_root() {
        return;
    }
    for wiring in ["routed", "bridge"] {
        let world = World::start(Plan { wiring, families: Families::Dual, ..Plan::default() });
        let (pod, victim) = (world.pod("pod"), world.pod("victim"));
        for six in [false, true] {
            let n = usize::from(six);
            let own = pod.ips()[n].clone();
            let range: ripstop_types::Prefix = world.own_range(six).parse().unwrap();
            // An unused one of the node's range, one far away, the outside's.
            let strange =
                [range.nth(99).unwrap().to_string(), if six { "2001:db8:9::9" } else { "203.0.113.9" }.into()];
            for ip in &strange {
                pod.ns.ip(&format!("addr add {ip}/{} dev lo", if six { 128 } else { 32 }));
            }
            let places = [
                Echo::start(&victim.ns, &at(&victim.ips()[n], 7000)),
                world.node_echo(&at(NODE[n], 7000)),
                world.node_echo(&at(&world.own_ip(six), 7000)),
                Echo::start(&world.router, &at(OUTSIDE[n], 7000)),
            ];
            for echo in &places {
                for ip in &strange {
                    send(&pod.ns, Some(ip), echo.at, "spoofed");
                }
                honest(&pod, &own, echo);
                assert!(!echo.has_heard("spoofed"), "{wiring}: {} heard {:?}", echo.at, echo.heard());
            }
        }
    }
}

#[test]
fn another_hardware_address_and_lies_about_addresses_are_dropped_on_a_bridge() {
    if !is_root() {
        return;
    }
    let world = World::start(Plan { wiring: "bridge", families: Families::Dual, ..Plan::default() });
    let (pod, victim) = (world.pod("pod"), world.pod("victim"));
    let (own, theirs) = (mac(&pod.mac()), mac(&victim.mac()));
    let (ip, ip6) = (pod.ips()[0].clone(), pod.ips()[1].clone());
    let (their, their6) = (victim.ips()[0].clone(), victim.ips()[1].clone());
    let (gateway, gateway6) = (world.own_ip(false), world.own_ip(true));
    let liar = [0x02, 0, 0, 0, 0, 0x66];
    let (out, seen) = (Frames::open(&pod.ns, "eth0"), Frames::open(&victim.ns, "eth0"));
    let on_host = Frames::open(&world.node, "rip0");
    let lies = [
        ("another hardware address", ethernet(theirs, liar, 0x0800, &udp4(&ip, &their, 9, "lie-a"))),
        ("another source by a frame", ethernet(theirs, own, 0x0800, &udp4(&gateway, &their, 9, "lie-b"))),
        ("ARP: the gateway is me", ethernet(BROADCAST, own, 0x0806, &arp(1, own, &gateway, [0; 6], &their))),
        ("ARP: an answer for the gateway", ethernet(theirs, own, 0x0806, &arp(2, own, &gateway, theirs, &their))),
        ("ARP: my address is elsewhere", ethernet(theirs, own, 0x0806, &arp(2, liar, &ip, theirs, &their))),
        (
            "ND: the gateway is me",
            ethernet(theirs, own, 0x86dd, &icmp6(&ip6, &their6, 136, &advertisement(&gateway6, own))),
        ),
        (
            "ND: another's source",
            ethernet(theirs, own, 0x86dd, &icmp6(&gateway6, &their6, 136, &advertisement(&ip6, own))),
        ),
        (
            "a router's advertisement",
            ethernet(theirs, own, 0x86dd, &icmp6(&ip6, &their6, 134, &[64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0])),
        ),
        ("a redirect", ethernet(theirs, own, 0x86dd, &icmp6(&ip6, &their6, 137, &[0; 36]))),
    ];
    for (_, lie) in &lies {
        out.send(lie);
    }
    for (n, to) in [(0, theirs), (1, mac(link_mac(&world, "rip0").as_str()))] {
        let watch = [&seen, &on_host][n];
        let marker = ethernet(to, own, 0x0800, &udp4(&ip, &their, 9, "honest"));
        out.send(&marker);
        let came = watch.until(|frame| frame == marker);
        assert_eq!(came.last(), Some(&marker), "the honest frame comes");
        for (what, lie) in &lies {
            assert!(!came.contains(lie), "{what} came through");
        }
    }
    // Honest ARP and ND pass, or nothing above would have worked either way.
    let truth = ethernet(theirs, own, 0x0806, &arp(2, own, &ip, theirs, &their));
    let truth6 = ethernet(theirs, own, 0x86dd, &icmp6(&ip6, &their6, 136, &advertisement(&ip6, own)));
    for frame in [truth, truth6] {
        out.send(&frame);
        assert_eq!(seen.until(|found| found == frame).last(), Some(&frame));
    }
}

fn link_mac(world: &World, link: &str) -> String {
    let value: serde_json::Value = serde_json::from_str(&world.node.ip(&format!("-j link show {link}"))).unwrap();
    value[0]["address"].as_str().unwrap().to_owned()
}

/// Inside the router: a tunnel end by hand that sends from this address.
fn tunnel_by_hand(world: &World, six: bool, local: &str) {
    let own_vtep = link_mac(world, "ript1");
    let range: ripstop_types::Prefix = world.own_range(six).parse().unwrap();
    let inner = range.nth(1).unwrap();
    let (remote, peers) = if six { (NODE[1], "fd00:244:0:c8::1/128") } else { (NODE[0], "10.244.200.1/32") };
    world.router.ips(&format!(
        "link add vx type vxlan id 1 dstport 8472 local {local} nolearning\n\
         link set vx address 0a:52:49:50:02:02 mtu 1430\nlink set vx up\naddr add {peers} dev vx\n\
         neigh add {inner} lladdr {own_vtep} dev vx nud permanent\n\
         route add {range} via {inner} dev vx onlink\n"
    ));
    world.router.run("bridge", &["fdb", "append", &own_vtep, "dev", "vx", "dst", remote]);
}

#[test]
fn tunnel_packets_are_taken_from_nodes_only() {
    if !is_root() {
        return;
    }
    for families in [Families::V4, Families::V6] {
        let six = families == Families::V6;
        let world = World::start(Plan { backend: "vxlan", families, store: StoreAt::Here, ..Plan::default() });
        let pod = world.pod("web");
        let echo = Echo::start(&pod.ns, &pod.at(7000));
        world.add_peer();
        tunnel_by_hand(&world, six, PEER[usize::from(six)]);
        let their = if six { "fd00:244:0:c8::10" } else { "10.244.200.10" };
        // A Linux tunnel end set up by hand: both directions.
        let answered = crate::support::packets::ask(&world.router, Some(their), echo.at);
        assert_eq!(answered.as_deref(), Some(their), "by hand to us and back");
        // The same packets from an address that is no node's.
        world.router.ip("link del vx");
        tunnel_by_hand(&world, six, ROUTER[usize::from(six)]);
        for _ in 0..5 {
            send(&world.router, Some(their), echo.at, "stranger");
        }
        world.router.ip("link del vx");
        tunnel_by_hand(&world, six, PEER[usize::from(six)]);
        assert!(soon(|| {
            send(&world.router, Some(their), echo.at, "honest");
            std::thread::sleep(std::time::Duration::from_millis(20));
            echo.has_heard("honest")
        }));
        assert!(!echo.has_heard("stranger"));
        // A node that is no more a node is a stranger.
        world.store.as_ref().unwrap().delete(ripstop_store::Kind::Nodes, "n2");
        assert!(soon(|| !world.node.run("nft", &["list", "ruleset"]).contains("node/n2")));
        send(&world.router, Some(their), echo.at, "former");
        let on_node = world.node_echo(&at(NODE[usize::from(six)], 7005));
        assert!(crate::support::packets::ask(&world.router, None, on_node.at).is_some());
        assert!(!echo.has_heard("former"));
    }
}

#[test]
fn pods_send_no_tunnel_packets_to_nodes() {
    if !is_root() {
        return;
    }
    for wiring in ["routed", "bridge"] {
        let plan = Plan { wiring, backend: "vxlan", families: Families::Dual, store: StoreAt::Here, ..Plan::default() };
        let world = World::start(plan);
        let pod = world.pod("web");
        world.add_peer();
        assert!(soon(|| world.node.run("nft", &["list", "ruleset"]).contains("node/n2")));
        for six in [false, true] {
            let n = usize::from(six);
            // To the node itself there is no socket to hear it: the tunnel's own has the port. So look at the peer, and
            // count drops for the node; the pod may send what the node will not take.
            let echo = Echo::start(&world.router, &at(PEER[n], 8472));
            let other = Echo::start(&world.router, &at(OUTSIDE[n], 8472));
            send(&pod.ns, Some(&pod.ips()[n]), echo.at, "tunnel");
            let before = drops(&world);
            for address in [NODE[n].to_owned(), world.own_ip(six)] {
                send(&pod.ns, Some(&pod.ips()[n]), at(&address, 8472).parse().unwrap(), "tunnel");
            }
            assert!(soon(|| drops(&world) == before + 2), "{wiring}: {} drops", drops(&world) - before);
            // The port is no node's elsewhere.
            honest(&pod, &pod.ips()[n], &other);
            assert!(echo.heard().is_empty(), "{wiring}: {:?}", echo.heard());
        }
    }
}

/// Packets that the rules against tunnel packets of strangers dropped so far.
fn drops(world: &World) -> u64 {
    let rules =
        ["tunnel-in", "tunnel-on"].map(|chain| world.node.run("nft", &["list", "chain", "inet", "ripstop", chain]));
    let counts = rules.iter().flat_map(|rules| rules.lines()).filter_map(|line| line.split("counter packets ").nth(1));
    counts.filter_map(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).sum()
}
