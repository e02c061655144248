//! What is written for an object is read back as an object that satisfies it; twice is as good as once; what is removed
//! is gone, and removing it again succeeds.

use ripstop_netmodel::*;

use crate::support::*;

/// Makes, reads, makes again, removes, removes again.
fn round_trip(node: &mut Node, objects: &[Object]) {
    node.make(objects);
    node.assert_there(objects);
    node.make(objects);
    node.assert_there(objects);
    node.remove(objects);
    node.assert_gone(objects);
    node.remove(objects);
}

#[test]
fn a_pair_has_one_queue_each_way() {
    on_a_node(|mut node| {
        let pod = Pod::new();
        node.make(&pair(&pod, "ripab12", 2));
        let outer = ip("-d link show ripab12");
        let inner = pod.run("ip", &["-d", "link", "show", "eth0"]);
        for end in [outer, inner] {
            assert!(end.contains("numtxqueues 1 ") && end.contains("numrxqueues 1 "), "{end}");
        }
    });
}

#[test]
fn a_pod_with_routed_wiring() {
    on_a_node(|mut node| {
        let pod = Pod::new();
        uplink();
        // As some runtimes leave a namespace.
        for conf in ["all", "default"] {
            pod.inside(|| std::fs::write(format!("/proc/sys/net/ipv6/conf/{conf}/disable_ipv6"), "1")).unwrap();
        }
        let bridge = link("rip0", LinkKind::Bridge, 1);
        let mut objects = vec![
            Object::from(bridge),
            address(Ns::Host, "rip0", "10.244.1.1", 32, Scope::Global),
            address(Ns::Host, "rip0", "169.254.1.1", 32, Scope::Link),
            address(Ns::Host, "rip0", "fd00:1::1", 128, Scope::Global),
            route(Ns::Host, "10.244.1.0/24", RouteTarget::Unreachable).into(),
            route(Ns::Host, "fd00:1::/64", RouteTarget::Unreachable).into(),
            sysctl(Ns::Host, None, "net/ipv4/ip_forward", "1"),
            sysctl(Ns::Host, None, "net/ipv6/conf/all/forwarding", "1"),
        ];
        node.make(&objects);
        let first_pod = objects.len();
        objects.extend(pair(&pod, "ripab12", 2));
        let host = |dst: &str, src: &str| Route { src: Some(addr(src)), ..route(Ns::Host, dst, to_link("ripab12")) };
        objects.extend([
            sysctl(Ns::Host, Some("ripab12"), "net/ipv4/conf/ripab12/rp_filter", "1"),
            sysctl(pod.ns(), Some("eth0"), "net/ipv6/conf/eth0/accept_ra", "0"),
            sysctl(pod.ns(), Some("eth0"), "net/ipv6/conf/eth0/disable_ipv6", "0"),
            address(pod.ns(), "eth0", "10.244.1.5", 32, Scope::Global),
            address(pod.ns(), "eth0", "fd00:1::5", 128, Scope::Global),
            address(Ns::Host, "ripab12", "fe80::1", 64, Scope::Link),
            neighbour(Ns::Host, "ripab12", "10.244.1.5", 102),
            neighbour(Ns::Host, "ripab12", "fd00:1::5", 102),
            neighbour(pod.ns(), "eth0", "169.254.1.1", 2),
            neighbour(pod.ns(), "eth0", "fe80::1", 2),
            host("10.244.1.5/32", "10.244.1.1").into(),
            host("fd00:1::5/128", "fd00:1::1").into(),
            route(pod.ns(), "169.254.1.1/32", to_link("eth0")).into(),
            route(pod.ns(), "0.0.0.0/0", via("eth0", "169.254.1.1", false)).into(),
            route(pod.ns(), "::/0", via("eth0", "fe80::1", false)).into(),
            Qdisc { ns: Ns::Host, link: name("ripab12"), rate: 10_000_000, burst: 16_000, limit: 48_000 }.into(),
            Qdisc { ns: pod.ns(), link: name("eth0"), rate: 100_000_000_000, burst: 64_000, limit: 128_000 }.into(),
        ]);
        round_trip(&mut node, &objects[first_pod..]);
        node.assert_there(&objects[..first_pod]);
        node.make(&objects[first_pod..]);
        pod.reaches(&listen("10.244.1.1"));
        pod.reaches(&listen("fd00:1::1"));
        let links = pod.run("ip", &["-6", "addr", "show", "dev", "eth0"]);
        assert!(!links.contains("fe80"), "a link-local address was made: {links}");
        round_trip(&mut node, &objects);
    });
}

#[test]
fn a_pod_with_bridge_wiring() {
    on_a_node(|mut node| {
        let pods = [Pod::new(), Pod::new()];
        let mut objects = vec![
            Object::from(link("rip0", LinkKind::Bridge, 1)),
            address(Ns::Host, "rip0", "10.244.1.1", 24, Scope::Global),
            address(Ns::Host, "rip0", "fd00:1::1", 64, Scope::Global),
        ];
        for (i, pod) in (0u8..).zip(&pods) {
            let host = format!("ripport{i}");
            let [outer, inner, loopback] = pair(pod, &host, 10 + i);
            let Object::Link(mut outer) = outer else { panic!() };
            outer.master = Some(name("rip0"));
            outer.port = Some(BridgePort { hairpin: true, learning: i == 0 });
            objects.extend([outer.into(), inner, loopback]);
            objects.extend([
                address(pod.ns(), "eth0", &format!("10.244.1.{}", 10 + i), 24, Scope::Global),
                address(pod.ns(), "eth0", &format!("fd00:1::1{i}"), 64, Scope::Global),
                route(pod.ns(), "0.0.0.0/0", via("eth0", "10.244.1.1", false)).into(),
                route(pod.ns(), "::/0", via("eth0", "fd00:1::1", false)).into(),
            ]);
        }
        round_trip(&mut node, &objects);
        node.make(&objects);
        pods[0].reaches(&pods[1].listen("10.244.1.11"));
        pods[0].reaches(&pods[1].listen("fd00:1::11"));
        let model = node.observer.host(&Model::new()).unwrap();
        let key = Key::Link { ns: Ns::Host, name: name("ripport1") };
        assert_eq!(model.get(&key).unwrap().owner.as_ref().unwrap().as_str(), "pod/default/web");
    });
}

#[test]
fn paths_to_peers() {
    on_a_node(|mut node| {
        uplink();
        let tunnel = vxlan("ripvx", 7, "192.0.2.1", 3);
        let mut objects = vec![
            Object::from(tunnel),
            Object::from(vxlan("ripvx6", 8, "2001:db8::1", 4)),
            address(Ns::Host, "ripvx", "10.244.1.0", 32, Scope::Global),
            neighbour(Ns::Host, "ripvx", "10.244.2.0", 20),
            neighbour(Ns::Host, "ripvx", "fd00:2::", 20),
            Fdb { link: name("ripvx"), mac: mac(20), dst: addr("192.0.2.2") }.into(),
            Fdb { link: name("ripvx6"), mac: mac(21), dst: addr("2001:db8::2") }.into(),
            nexthop(1, "ripvx", "10.244.2.0", true),
            nexthop(2, "ripvx", "fd00:2::", true),
            nexthop(3, "up0", "192.0.2.9", false),
            nexthop(4, "up0", "2001:db8::9", false),
            nexthop(5, "up1", "2001:db8:1::8", true),
            nexthop(6, "up0", "fe80::9", false),
            nexthop(7, "up1", "fe80::9", false),
            group(1, &[1, 3]),
            group(2, &[4, 5]),
            group(3, &[3]),
            group(4, &[3, 6]),
            group(5, &[6, 7]),
        ];
        let by = |last: u32| RouteTarget::Nexthop(NEXTHOP_IDS.start() + last);
        let src = |route: Route, src: &str| Object::from(Route { src: Some(addr(src)), mtu: Some(1400), ..route });
        let spread = |last: u32| RouteTarget::Nexthop(GROUP_IDS.start() + last);
        objects.extend([
            route(Ns::Host, "10.244.7.0/24", spread(1)).into(),
            route(Ns::Host, "10.244.8.0/24", spread(2)).into(),
            route(Ns::Host, "10.244.9.0/24", by(4)).into(),
            route(Ns::Host, "10.244.10.0/24", spread(3)).into(),
            src(route(Ns::Host, "10.244.11.0/24", by(6)), "10.244.1.0"),
            route(Ns::Host, "10.244.12.0/24", spread(4)).into(),
            route(Ns::Host, "10.244.13.0/24", spread(5)).into(),
            route(Ns::Host, "fd00:8::/64", spread(5)).into(),
            route(Ns::Host, "fd00:7::/64", spread(2)).into(),
            src(route(Ns::Host, "10.244.2.0/24", by(1)), "10.244.1.0"),
            route(Ns::Host, "fd00:2::/64", by(2)).into(),
            route(Ns::Host, "10.244.3.0/24", by(3)).into(),
            Route { metric: 77, ..route(Ns::Host, "10.244.3.0/24", by(1)) }.into(),
            route(Ns::Host, "fd00:3::/64", by(4)).into(),
            Route { metric: 512, ..route(Ns::Host, "fd00:3::/64", RouteTarget::Unreachable) }.into(),
            route(Ns::Host, "10.244.4.0/24", via("up0", "192.0.2.7", false)).into(),
            route(Ns::Host, "10.244.5.0/24", via("up0", "203.0.113.7", true)).into(),
            route(Ns::Host, "10.244.6.0/24", via("up0", "2001:db8::7", false)).into(),
            Route { table: 1000, ..route(Ns::Host, "0.0.0.0/0", RouteTarget::Unreachable) }.into(),
            Route { table: 1000, ..route(Ns::Host, "::/0", via("up0", "2001:db8::7", false)) }.into(),
            Object::from(link("ripifb0", LinkKind::Ifb { index: 0x4000_0001 }, 5)),
        ]);
        round_trip(&mut node, &objects);
    });
}

#[test]
fn objects_change_in_place() {
    on_a_node(|mut node| {
        let pod = Pod::new();
        uplink();
        let [outer, inner, _] = pair(&pod, "ripab12", 2);
        let bridge = Object::from(link("rip0", LinkKind::Bridge, 1));
        node.make(&[bridge.clone(), outer.clone(), inner]);
        let mut change = |before: &Object, after: &Object| {
            let outcome = node.run(&[step(ripstop_plan::Action::Update, Some(before), Some(after))]).remove(0);
            outcome.result.unwrap();
            node.assert_there(std::slice::from_ref(after));
        };
        let Object::Link(mut changed) = outer.clone() else { panic!() };
        changed.mtu = Some(1300);
        changed.mac = Some(mac(77));
        changed.master = Some(name("rip0"));
        changed.port = Some(BridgePort { hairpin: true, learning: false });
        changed.altname = Some("ripstop.pod.default.other.eth0.ripab12".into());
        change(&outer, &changed.clone().into());
        let free = Object::from(Link { master: None, port: None, ..changed.clone() });
        change(&changed.clone().into(), &free);
        let down = Object::from(Link { up: false, master: None, port: None, ..changed });
        change(&free, &down);
        change(&down, &free);
        let (near, far) = (nexthop(1, "up0", "192.0.2.9", false), nexthop(1, "up1", "192.0.2.8", true));
        change(&near, &near);
        change(&near, &far);
        node.make(&[nexthop(2, "up0", "192.0.2.7", false), group(1, &[1])]);
        let mut change = |before: &Object, after: &Object| {
            let outcome = node.run(&[step(ripstop_plan::Action::Update, Some(before), Some(after))]).remove(0);
            outcome.result.unwrap();
            node.assert_there(std::slice::from_ref(after));
        };
        change(&group(1, &[1]), &group(1, &[1, 2]));
        change(&group(1, &[1, 2]), &group(1, &[2]));
        let old = Object::from(route(Ns::Host, "10.244.2.0/24", RouteTarget::Unreachable));
        change(&old, &old);
        change(&old, &route(Ns::Host, "10.244.2.0/24", RouteTarget::Nexthop(NEXTHOP_IDS.start() + 1)).into());
        let old = Object::from(route(Ns::Host, "fd00:2::/64", RouteTarget::Unreachable));
        change(&old, &old);
        change(&old, &route(Ns::Host, "fd00:2::/64", via("up0", "2001:db8::7", false)).into());
        let shaper =
            |rate| Object::from(Qdisc { ns: Ns::Host, link: name("ripab12"), rate, burst: 32_000, limit: 64_000 });
        change(&shaper(1_000_000), &shaper(1_000_000));
        change(&shaper(1_000_000), &shaper(40_000_000_000));
        change(&neighbour(Ns::Host, "ripab12", "10.244.1.5", 9), &neighbour(Ns::Host, "ripab12", "10.244.1.5", 8));
    });
}

#[test]
fn tunnels_change_in_place() {
    on_a_node(|mut node| {
        uplink();
        let mut change = |before: &Object, after: &Object| {
            node.run(&[step(ripstop_plan::Action::Update, Some(before), Some(after))]).remove(0).result.unwrap();
            node.assert_there(std::slice::from_ref(after));
        };
        let index = |name: &str| ip(&format!("-o link show dev {name}")).split(':').next().map(str::to_owned);
        for (name, vni, sources) in [
            ("ripvx4", 7, ["192.0.2.1", "192.0.2.9", "0.0.0.0", "192.0.2.1"]),
            ("ripvx6", 8, ["fd00::1", "::", "fd00::2", "::"]),
        ] {
            let tunnels = sources.map(|source| Object::from(vxlan(name, vni, source, 3)));
            change(&tunnels[0], &tunnels[0]);
            let made = index(name);
            tunnels.windows(2).for_each(|pair| change(&pair[0], &pair[1]));
            assert_eq!(index(name), made, "it is the same device");
        }
        let tunnel = vxlan("ripvx4", 7, "192.0.2.1", 3);
        let fills_in = |on| Object::from(Link { tx_checksum: Some(on), ..tunnel.clone() });
        change(&fills_in(true), &fills_in(false));
        assert!(run("ethtool", &["-k", "ripvx4"]).contains("tx-checksumming: off"));
        change(&fills_in(false), &fills_in(true));
        // The link goes on as it is where nobody says how.
        change(&fills_in(true), &tunnel.clone().into());
    });
}

#[test]
fn the_length_of_routes_changes_in_place() {
    on_a_node(|mut node| {
        uplink();
        node.make(&[nexthop(1, "up0", "192.0.2.9", false), nexthop(2, "up0", "2001:db8::7", false)]);
        for (dst, n) in [("10.244.9.0/24", 1), ("fd00:9::/64", 2)] {
            let target = RouteTarget::Nexthop(NEXTHOP_IDS.start() + n);
            let of = |mtu| Object::from(Route { mtu, ..route(Ns::Host, dst, target.clone()) });
            let mut change = |before: &Object, after: &Object| {
                node.run(&[step(ripstop_plan::Action::Update, Some(before), Some(after))]).remove(0).result.unwrap();
                node.assert_there(std::slice::from_ref(after));
            };
            change(&of(None), &of(None));
            change(&of(None), &of(Some(1350)));
            change(&of(Some(1350)), &of(Some(1400)));
            change(&of(Some(1400)), &of(None));
        }
    });
}

#[test]
fn a_link_that_must_be_remade_is_removed_and_made_in_one_run() {
    on_a_node(|mut node| {
        uplink();
        let old = Object::from(vxlan("ripvx", 7, "192.0.2.1", 3));
        let new = Object::from(vxlan("ripvx", 7, "2001:db8::1", 3));
        node.make(std::slice::from_ref(&old));
        let steps = [
            step(ripstop_plan::Action::Delete, Some(&old), None),
            step(ripstop_plan::Action::Create, None, Some(&new)),
        ];
        for outcome in node.run(&steps) {
            outcome.result.unwrap();
        }
        node.assert_there(std::slice::from_ref(&new));
        // A creation over one of ours with other parts does the same by itself.
        node.make(std::slice::from_ref(&old));
        node.assert_there(std::slice::from_ref(&old));
    });
}

#[test]
fn a_broken_addition_is_taken_over() {
    on_a_node(|mut node| {
        let pod = Pod::new();
        let objects = pair(&pod, "ripab12", 2);
        // As a crash right after the making leaves it: no mark, the far end down.
        let made =
            format!("link add ripab12 address {} mtu 1450 type veth peer name eth0 address {} netns", mac(2), mac(102));
        ip(&format!("{made} {}", pod.path));
        node.make(&objects);
        node.assert_there(&objects);
        // One whose far end is elsewhere is ours too, by its address, and is made anew.
        let other = Pod::new();
        let moved = pair(&other, "ripab12", 2);
        node.make(&moved);
        node.assert_there(&moved);
        assert!(node.observe(&objects[1..2]).is_empty());
    });
}

#[test]
fn a_link_too_small_for_ipv6_needs_no_telling_that_it_makes_no_link_local_address() {
    on_a_node(|mut node| {
        let pod = Pod::new();
        let mut objects: Vec<Object> = pair(&pod, "ripab12", 2).into();
        for object in &mut objects[..2] {
            let Object::Link(link) = object else { panic!() };
            link.mtu = Some(1000);
        }
        round_trip(&mut node, &objects);
    });
}
