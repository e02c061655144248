//! CHECK against a kernel that was changed by hand: each change is named.

use serde_json::json;

use crate::support::ns::is_root;
use crate::support::soon;
use crate::support::world::{Families, Plan, Pod, World};

fn found(world: &World, pod: &Pod) -> String {
    let (code, text) = world.check(pod).refused();
    assert_eq!(code, 103, "{text}");
    text
}

#[test]
fn each_change_by_hand_is_named() {
    if !is_root() {
        return;
    }
    let world = World::start(Plan { families: Families::Dual, ..Plan::default() });
    let changes = [
        ("addr del {4}/32 dev eth0", "address {4} dev eth0"),
        ("addr del {6}/128 dev eth0", "address {6} dev eth0"),
        ("route del default", "route 0.0.0.0/0"),
        ("route flush 169.254.1.1", "route 169.254.1.1/32"),
        ("-6 route del default", "route ::/0"),
        ("link set eth0 down", "link eth0"),
        ("link set lo down", "link lo"),
        ("link set eth0 mtu 1400", "mtu: 1400, wanted 1500"),
        ("link set eth0 address 02:00:00:00:00:09", "link eth0"),
        ("neigh del 169.254.1.1 dev eth0", "neighbour 169.254.1.1 dev eth0"),
        ("neigh del fe80::1 dev eth0", "neighbour fe80::1 dev eth0"),
        ("link del eth0", "link "),
    ];
    for (change, named) in changes {
        let pod = world.pod("web");
        let of_pod = |text: &str| text.replace("{4}", &pod.ips()[0]).replace("{6}", &pod.ips()[1]);
        world.check(&pod).done();
        pod.ns.ip(&of_pod(change));
        let text = found(&world, &pod);
        assert!(text.contains(&of_pod(named)), "{change}: {text}");
        world.del(&pod);
    }
}

#[test]
fn the_hosts_end_is_checked_too() {
    if !is_root() {
        return;
    }
    let world = World::start(Plan::default());
    let pod = world.pod("web");
    world.node.ip(&format!("link del {}", pod.host_link()));
    let text = found(&world, &pod);
    assert!(text.contains(&pod.host_link()) || text.contains("eth0"), "{text}");
    // It is not made again: the namespace may be another's by now.
    assert!(soon(|| world.rows("/v1/pods")[0]["state"] == "gone"));
    let text = found(&world, &pod);
    assert!(text.contains(&pod.host_link()) && text.contains("without a DEL"), "{text}");
    world.del(&pod);
    assert_eq!(world.rows("/v1/pods").len(), 0);
}

#[test]
fn a_bridged_pod_is_checked() {
    if !is_root() {
        return;
    }
    let world = World::start(Plan { wiring: "bridge", ..Plan::default() });
    let pod = world.pod("web");
    world.check(&pod).done();
    pod.ns.ip("route del default");
    assert!(found(&world, &pod).contains("route 0.0.0.0/0"));
}

#[test]
fn what_the_runtime_claims_is_compared_too() {
    if !is_root() {
        return;
    }
    let world = World::start(Plan::default());
    let pod = world.pod("web");
    let mut other = pod.result.clone();
    other["ips"][0]["address"] = json!("10.244.9.9/32");
    let (code, text) = world.check(&pod).with("prevResult", other).refused();
    assert!(code == 103 && text.contains("10.244.9.9"), "{code} {text}");
    // A result is required, and it must be about this very interface.
    let (code, text) = world.check(&pod).with("prevResult", serde_json::Value::Null).refused();
    assert!(code == 103 && text.contains("prevResult is missing"), "{code} {text}");
    let inside = pod.result["interfaces"].as_array().unwrap().iter().position(|i| i["name"] == "eth0").unwrap();
    for (key, value) in [("name", "eth7"), ("sandbox", "/run/netns/another")] {
        let mut other = pod.result.clone();
        other["interfaces"][inside][key] = value.into();
        let (code, text) = world.check(&pod).with("prevResult", other).refused();
        assert!(code == 103 && text.contains("prevResult"), "{key}: {code} {text}");
    }
    let (code, text) = world.call("CHECK", "never-seen", &pod.ns.path).with("prevResult", pod.result.clone()).refused();
    assert!(code == 3 && text.contains("never-seen"), "{code} {text}");
    let elsewhere = crate::support::ns::Ns::new();
    let call = world.call("CHECK", &pod.container, &elsewhere.path).with("prevResult", pod.result.clone());
    let (code, text) = call.refused();
    assert!(code == 103 && text.contains(&elsewhere.path), "{code} {text}");
}
