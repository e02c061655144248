//! What a runtime may ask for: addresses, hardware address, windows of addresses, name resolution, MTU.

use serde_json::json;

use crate::support::ns::{Ns, is_root};
use crate::support::packets::{Echo, ask};
use crate::support::world::{Families, Plan, World};

#[test]
fn an_address_and_a_hardware_address_can_be_asked_for() {
    if !is_root() {
        return;
    }
    for wiring in ["routed", "bridge"] {
        let world = World::start(Plan { wiring, families: Families::Dual, ..Plan::default() });
        let ip = world.own_range(false).replace(".0/24", ".77");
        let runtime = json!({"ips": [format!("{ip}/24")], "mac": "02:11:22:33:44:55"});
        let pod = world.pod_with("web", |call| call.with("runtimeConfig", runtime.clone()));
        assert_eq!(pod.ip(), ip);
        assert_eq!(pod.mac(), "02:11:22:33:44:55");
        assert!(pod.ns.ip("link show eth0").contains("02:11:22:33:44:55"));
        assert_eq!(pod.ips().len(), 2, "the other family is chosen as ever");
        let echo = Echo::start(&pod.ns, &pod.at(7000));
        assert!(ask(&world.node, None, echo.at).is_some());
        let other = Ns::new();
        let refused = |runtime| world.call("ADD", "c9", &other.path).with("runtimeConfig", runtime).refused();
        let (code, text) = refused(json!({"ips": [ip]}));
        assert!(code == 105 && text.contains(&ip) && text.contains("default/web"), "{code} {text}");
        let (code, text) = refused(json!({"mac": "02:11:22:33:44:55"}));
        assert!(code == 105 && text.contains("02:11:22:33:44:55"), "{code} {text}");
        let (code, text) = refused(json!({"ips": ["10.99.0.1"]}));
        assert!(code == 105 && text.contains("10.99.0.1"), "{code} {text}");
        let (code, text) = refused(json!({"ips": [world.own_ip(false)]}));
        assert!(code == 105 && text.contains("node's own address"), "{code} {text}");
        // By the older ways.
        let third = ip.replace(".77", ".78");
        let pod = world.pod_with("two", |call| call.env("CNI_ARGS", format!("IgnoreUnknown=1;IP={third}")));
        assert_eq!(pod.ip(), third);
    }
}

/// Flannel's SubnetMin and SubnetMax, and exclusions: of four ranges one is left, and of it half.
#[test]
fn bounds_and_exclusions_of_a_network_hold() {
    if !is_root() {
        return;
    }
    let spec = [
        "rangeMin: {v4: 10.244.20.0}",
        "rangeMax: {v4: 10.244.23.0}",
        "exclude: [10.244.20.0/23, 10.244.23.0/24, 10.244.22.0/25]",
    ];
    let world = World::start(Plan { spec: spec.map(str::to_owned).into(), ..Plan::default() });
    assert_eq!(world.own_range(false), "10.244.22.0/24");
    let pod = world.pod("web");
    let last: u8 = pod.ip().rsplit('.').next().unwrap().parse().unwrap();
    assert!(pod.ip().starts_with("10.244.22.") && last >= 128, "{}", pod.ip());
    let echo = Echo::start(&pod.ns, &pod.at(7000));
    assert!(ask(&world.node, None, echo.at).is_some());
    let excluded = json!({"ips": ["10.244.22.77"]});
    let ns = Ns::new();
    let (code, text) = world.call("ADD", "c9", &ns.path).with("runtimeConfig", excluded).refused();
    assert!(code == 105 && text.contains("10.244.22.77"), "{code} {text}");
}

#[test]
fn an_address_comes_out_of_the_window() {
    if !is_root() {
        return;
    }
    let world = World::start(Plan::default());
    let range = world.own_range(false);
    let at = |last: u8| range.replace(".0/24", &format!(".{last}"));
    let window = json!([[{"subnet": range, "rangeStart": at(200), "rangeEnd": at(201)}]]);
    let how = |call: crate::support::cni::Call| call.with("runtimeConfig", json!({"ipRanges": window.clone()}));
    let mut got = [world.pod_with("a", how).ip(), world.pod_with("b", how).ip()];
    got.sort();
    assert_eq!(got, [at(200), at(201)]);
    let pod = Ns::new();
    let (code, text) = how(world.call("ADD", "c9", &pod.path)).refused();
    assert!(code == 104 && text.contains("full"), "{code} {text}");
    let elsewhere = json!({"ipRanges": [[{"subnet": "10.99.0.0/24"}]]});
    let (code, text) = world.call("ADD", "c9", &pod.path).with("runtimeConfig", elsewhere).refused();
    assert!(code == 105 && text.contains("10.99.0.0"), "{code} {text}");
}

#[test]
fn a_full_range_is_said_so_and_has_room_again() {
    if !is_root() {
        return;
    }
    let spec = vec!["nodeRangeLen: {v4: 29}".to_owned()];
    let world = World::start(Plan { spec, ..Plan::default() });
    let pods: Vec<_> = (0..7).map(|_| world.pod("web")).collect();
    let ips: std::collections::BTreeSet<String> = pods.iter().map(|pod| pod.ip()).collect();
    assert_eq!(ips.len(), 7, "all but the node's own: {ips:?}");
    let pod = Ns::new();
    let (code, text) = world.call("ADD", "c9", &pod.path).refused();
    assert!(code == 104 && text.contains("7 of 7 leased"), "{code} {text}");
    world.del(&pods[3]);
    let result = world.call("ADD", "c9", &pod.path).done();
    assert_eq!(result["ips"][0]["address"], format!("{}/32", pods[3].ip()));
}

#[test]
fn name_resolution_is_passed_on() {
    if !is_root() {
        return;
    }
    let world = World::start(Plan::default());
    let runtime =
        json!({"dns": {"servers": ["10.96.0.10"], "searches": ["svc.cluster.local"], "options": ["ndots:5"]}});
    let pod = world.pod_with("web", |call| {
        call.with("runtimeConfig", runtime).with("dns", json!({"nameservers": ["9.9.9.9"], "domain": "cluster.local"}))
    });
    let wanted = json!({
        "nameservers": ["10.96.0.10"], "domain": "cluster.local", "search": ["svc.cluster.local"], "options": ["ndots:5"],
    });
    assert_eq!(pod.result["dns"], wanted);
}

#[test]
fn an_mtu_can_be_set_and_otherwise_comes_from_the_path() {
    if !is_root() {
        return;
    }
    for (backend, families, mtu) in [
        ("host-gw", Families::V4, 1500),
        ("vxlan", Families::V4, 1450),
        ("vxlan", Families::V6, 1430),
        ("auto", Families::Dual, 1450),
    ] {
        let world = World::start(Plan { backend, families, ..Plan::default() });
        let pod = world.pod("web");
        assert!(pod.ns.ip("link show eth0").contains(&format!("mtu {mtu} ")), "{backend} {families:?}");
        assert_eq!(pod.result["interfaces"][1]["mtu"], mtu);
        let pod = world.pod_with("small", |call| call.with("mtu", 1300.into()));
        assert!(pod.ns.ip("link show eth0").contains("mtu 1300 "));
        assert!(world.node.ip(&format!("link show {}", pod.host_link())).contains("mtu 1300 "));
    }
}
