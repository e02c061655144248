//! Whose address a packet of a pod carries when it leaves, and what it is wrapped in.

use crate::support::ns::is_root;
use crate::support::packets::{Echo, Frames, ask, mac};
use crate::support::soon;
use crate::support::store::Peer;
use crate::support::world::{Families, NODE, OUTSIDE, PEER, Plan, StoreAt, World, at};

/// A world with a peer whose pods are at the router, which knows this node's pods.
fn with_peer(plan: Plan) -> World {
    let world = World::start(Plan { store: StoreAt::Here, ..plan });
    world.add_peer();
    let families = usize::from(world.plan.families.four()) + usize::from(world.plan.families.six());
    assert!(soon(|| {
        let paths = world.rows("/v1/paths");
        paths.len() == families && paths.iter().all(|path| path["state"] == "realised")
    }));
    for (six, has) in [(false, world.plan.families.four()), (true, world.plan.families.six())] {
        if has && world.plan.backend == "host-gw" {
            world.router.ip(&format!("route add {} via {}", world.own_range(six), NODE[usize::from(six)]));
        }
    }
    world
}

#[test]
fn plain_paths() {
    if !is_root() {
        return;
    }
    for wiring in ["routed", "bridge"] {
        let world = with_peer(Plan { wiring, families: Families::Dual, ..Plan::default() });
        let pod = world.pod("web");
        for (six, their) in [(false, "10.244.200.10"), (true, "fd00:244:0:c8::10")] {
            let n = usize::from(six);
            let ip = pod.ips()[n].clone();
            let seen = |to: &str| ask(&pod.ns, None, Echo::start(&world.router, &at(to, 7000)).at);
            assert_eq!(seen(OUTSIDE[n]).as_deref(), Some(NODE[n]), "{wiring}: outside sees the node");
            assert_eq!(seen(their), Some(ip.clone()), "{wiring}: a pod sees the pod");
            assert_eq!(seen(PEER[n]), Some(ip.clone()), "{wiring}: a node sees the pod on a plain path");
            // From outside of pods: never changed, in neither direction.
            let echo = Echo::start(&pod.ns, &at(&ip, 7000));
            assert_eq!(ask(&world.router, Some(their), echo.at).as_deref(), Some(their));
            assert_eq!(ask(&world.router, Some(PEER[n]), echo.at).as_deref(), Some(PEER[n]));
            let own = world.own_ip(six);
            let echo = Echo::start(&world.router, &at(their, 7001));
            assert_eq!(ask(&world.node, None, echo.at), Some(own), "{wiring}: node to pod");
            // On the wire: the pod's packet, nothing around it.
            let wire = Frames::open(&world.router, "eth0");
            let echo = Echo::start(&world.router, &at(their, 7002));
            assert!(ask(&pod.ns, None, echo.at).is_some());
            let bytes = ip_bytes(&ip);
            let place = if six { 14 + 8 } else { 14 + 12 };
            let plain = |frame: &[u8]| frame.get(place..place + bytes.len()) == Some(&bytes[..]);
            assert!(wire.until(plain).last().is_some_and(|frame| plain(frame)), "{wiring}: no plain packet");
        }
    }
}

fn ip_bytes(ip: &str) -> Vec<u8> {
    match ip.parse().unwrap() {
        std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
        std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

#[test]
fn encapsulated_paths() {
    if !is_root() {
        return;
    }
    for (wiring, families) in [("routed", Families::V4), ("bridge", Families::V4), ("routed", Families::V6)] {
        let n = usize::from(families == Families::V6);
        let world = with_peer(Plan { wiring, backend: "vxlan", families, ..Plan::default() });
        let pod = world.pod("web");
        let seen = |to: &str| ask(&pod.ns, None, Echo::start(&world.router, &at(to, 7000)).at);
        assert_eq!(seen(OUTSIDE[n]).as_deref(), Some(NODE[n]));
        assert_eq!(seen(PEER[n]).as_deref(), Some(NODE[n]), "a node would answer on another way");
        // On the wire: outer addresses, port, network identifier, inner destination.
        let their = ["10.244.200.10", "fd00:244:0:c8::10"][n];
        let wire = Frames::open(&world.router, "eth0");
        crate::support::packets::send(&pod.ns, None, at(their, 7000).parse().unwrap(), "across");
        let wrapped = |frame: &[u8]| frame.windows(6).any(|text| text == b"across");
        let frame = wire.until(wrapped).pop().unwrap();
        assert!(wrapped(&frame), "{wiring}: nothing came");
        let header = if n == 1 { 40 } else { 20 };
        let (source, target) = if n == 1 { (22..38, 38..54) } else { (26..30, 30..34) };
        assert_eq!(frame[source], ip_bytes(NODE[n]));
        assert_eq!(frame[target], ip_bytes(PEER[n]));
        let udp = &frame[14 + header..];
        assert_eq!(u16::from_be_bytes([udp[2], udp[3]]), 8472);
        assert_eq!(udp[8..16], [8, 0, 0, 0, 0, 0, 1, 0], "VXLAN with the identifier 1");
        assert_eq!(udp[16..22], mac("0a:52:49:50:02:02"));
        let inner = &udp[16 + 14..];
        let source = if n == 1 { 8..24 } else { 12..16 };
        assert_eq!(inner[source], ip_bytes(&pod.ip()), "the pod's own address inside");
    }
}

#[test]
fn as_the_network_says() {
    if !is_root() {
        return;
    }
    let never = vec!["masquerade: false".to_owned()];
    let world = with_peer(Plan { spec: never, ..Plan::default() });
    let pod = world.pod("web");
    let seen = |world: &World, to: &str| ask(&pod.ns, None, Echo::start(&world.router, &at(to, 7000)).at);
    assert_eq!(seen(&world, OUTSIDE[0]), Some(pod.ip()));
    assert_eq!(seen(&world, PEER[0]), Some(pod.ip()));
    drop(pod);
    let always = vec!["masquerade: {toNodes: always}".to_owned()];
    let world = with_peer(Plan { spec: always, ..Plan::default() });
    let pod = world.pod("web");
    let seen = |to: &str| ask(&pod.ns, None, Echo::start(&world.router, &at(to, 7000)).at);
    assert_eq!(seen(PEER[0]).as_deref(), Some(NODE[0]));
    assert_eq!(seen("10.244.200.10"), Some(pod.ip()), "a pod sees the pod always");
}

#[test]
fn a_peer_behind_a_router() {
    if !is_root() {
        return;
    }
    let far = Peer {
        name: "far",
        addresses: vec!["172.31.9.9/24"],
        ranges: vec!["10.244.201.0/24"],
        vtep: Some("0a:52:49:50:02:09"),
    };
    for (backend, near_by, far_by) in
        [("auto", "host-gw", Some("vxlan")), ("vxlan", "vxlan", Some("vxlan")), ("host-gw", "host-gw", None)]
    {
        let world = World::start(Plan { backend, store: StoreAt::Here, ..Plan::default() });
        world.add_peer();
        world.store.as_ref().unwrap().peer(&far);
        assert!(soon(|| world.rows("/v1/paths").len() == 2));
        world.settle();
        let path = |peer: &str| {
            let paths = world.rows("/v1/paths");
            paths.iter().find(|path| path["peer"] == peer).unwrap().clone()
        };
        assert_eq!(path("n2")["backend"], near_by, "{backend}");
        let route = world.node.ip("route show 10.244.201.0/24");
        match far_by {
            Some(by) => {
                assert_eq!(path("far")["backend"], by, "{backend}");
                assert!(route.contains("ript1"), "{route}");
            }
            None => {
                let state = path("far")["state"].as_str().unwrap().to_owned();
                assert!(state.starts_with("refused: far at 172.31.9.9") && state.contains("auto or vxlan"), "{state}");
                assert!(route.starts_with("unreachable"), "{route}");
                let described = world.get("/v1/describe/node/far")["text"].as_str().unwrap().to_owned();
                assert!(described.contains("refused: far at 172.31.9.9"), "{described}");
            }
        }
        assert!(!route.contains("172.30.1.2"), "{route}");
        // Gone from the store, gone from the kernel.
        world.store.as_ref().unwrap().delete(ripstop_store::Kind::Nodes, "far");
        assert!(soon(|| world.node.ip("route show 10.244.201.0/24").is_empty()));
        assert!(!world.node.ip("route show 10.244.200.0/24").is_empty());
    }
}

#[test]
fn a_foreign_table_that_drops_is_named_with_the_remedy() {
    if !is_root() {
        return;
    }
    let world = World::start(Plan::default());
    let pod = world.pod("web");
    let echo = Echo::start(&world.router, &at(OUTSIDE[0], 7000));
    assert!(ask(&pod.ns, None, echo.at).is_some());
    let drops = "table inet wall { chain forward { type filter hook forward priority 0; policy drop; }; }";
    world.node.run("nft", &[drops]);
    let warning = || {
        let status = world.get("/v1/status");
        status["warnings"].as_array().unwrap().iter().filter_map(|text| text.as_str()).map(str::to_owned).next()
    };
    assert!(soon(|| warning().is_some_and(|text| text.contains("wall"))));
    let text = warning().unwrap();
    assert!(text.contains("chain forward of table inet wall"), "{text}");
    assert_eq!(ask(&pod.ns, None, echo.at), None, "it drops");
    let command = text.split_once("to open it: ").unwrap().1;
    world.node.run("sh", &["-c", &command.replace("\"rip*\"", "'\"rip*\"'")]);
    assert_eq!(ask(&pod.ns, None, echo.at).as_deref(), Some(NODE[0]));
    // The log says it once, however often the facts are read again.
    world.node.ips("link add x0 type veth peer name x1\nlink set x0 up\nlink set x1 up\n");
    world.settle();
    std::thread::sleep(std::time::Duration::from_millis(300));
    let said = world.agent().log_text().lines().filter(|line| line.contains("table inet wall")).count();
    assert_eq!(said, 1);
}
