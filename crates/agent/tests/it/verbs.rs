//! ADD, DEL and GC, and what they answer when they cannot.

use serde_json::{Value, json};

use crate::support::cni::Call;
use crate::support::ns::{Ns, is_root};
use crate::support::packets::{Echo, ask};
use crate::support::soon;
use crate::support::world::{Families, Plan, Pod, World, at};

/// Links, addresses and routes of a namespace as one text.
fn state(ns: &Ns) -> String {
    ["addr", "route show table all", "-6 route show table all", "neigh"].map(|what| ns.ip(what)).concat()
}

fn leases(world: &World) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(world.run_dir().join("leases")) else { return Vec::new() };
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn pod_links(world: &World) -> usize {
    world.node.ip("-o link").lines().filter(|line| line.contains(": ripp")).count()
}

#[test]
fn a_second_add_is_refused_and_changes_nothing() {
    if !is_root() {
        return;
    }
    let world = World::start(Plan { families: Families::Dual, ..Plan::default() });
    let pod = world.pod("web");
    let (before, rows) = (state(&pod.ns), world.get("/v1/pods"));
    let (code, text) = world.call("ADD", &pod.container, &pod.ns.path).refused();
    assert_eq!(code, 102, "{text}");
    assert!(text.contains("pod/default/web") && text.contains("eth0"), "{text}");
    assert_eq!((state(&pod.ns), world.get("/v1/pods")), (before, rows));
    world.settle();
    assert_eq!(leases(&world).len(), 1);
}

#[test]
fn a_request_that_is_sent_again_gets_the_same_answer() {
    if !is_root() {
        return;
    }
    let world = World::start(Plan::default());
    let pod = Ns::new();
    let mut call = world.call("ADD", "c1", &pod.path);
    call.id = Some("the-very-same".into());
    let first = call.done();
    assert_eq!(call.done(), first);
    call.id = Some("another".into());
    assert_eq!(call.refused().0, 102);
    // Two of the same beside each other: the answer of one was lost before it came.
    let pod = Ns::new();
    let mut call = world.call("ADD", "c2", &pod.path);
    call.id = Some("twice".into());
    let streams = [call.send(), call.send()];
    let answers = streams.map(|stream| crate::support::cni::receive(stream).unwrap().unwrap().unwrap());
    assert_eq!(answers[0], answers[1]);
}

#[test]
fn del_succeeds_however_little_there_is_to_delete() {
    if !is_root() {
        return;
    }
    let world = World::start(Plan::default());
    let pod = world.pod("web");
    world.del(&pod);
    world.del(&pod);
    world.call("DEL", &pod.container, "").done();
    world.call("DEL", "never-seen", "").done();
    world.call("DEL", "never-seen", "/run/netns/never-seen").done();
    world.call("DEL", "never-seen", "/etc/hostname").done();
    // Without a namespace, and with one that is gone.
    let pod = world.pod("web");
    world.call("DEL", &pod.container, "").done();
    assert!(!pod.ns.has_link("eth0"));
    let Pod { ns, container, .. } = world.pod("web");
    let path = ns.path.clone();
    drop(ns);
    world.call("DEL", &container, &path).done();
    // Whatever the configuration has become meanwhile.
    let pod = world.pod("web");
    world.call("DEL", &pod.container, &pod.ns.path).with("nonsense", json!([1])).with("mtu", json!("wide")).done();
    assert!(!pod.ns.has_link("eth0"));
    assert_eq!(leases(&world), Vec::<String>::new());
    world.settle();
}

#[test]
fn the_interface_is_gone_when_del_answers() {
    if !is_root() {
        return;
    }
    for wiring in ["routed", "bridge"] {
        let world = World::start(Plan { wiring, ..Plan::default() });
        for _ in 0..20 {
            let pod = world.pod("web");
            assert!(pod.ns.has_link("eth0"));
            world.del(&pod);
            assert!(!pod.ns.has_link("eth0"), "{wiring}");
            assert!(!world.node.has_link(&pod.host_link()), "{wiring}");
            assert_eq!(leases(&world), Vec::<String>::new());
        }
    }
}

#[test]
fn an_add_that_fails_half_way_leaves_nothing_and_keeps_its_address() {
    if !is_root() {
        return;
    }
    for wiring in ["routed", "bridge"] {
        let world = World::start(Plan { wiring, families: Families::Dual, ..Plan::default() });
        let pod = Ns::new();
        pod.ip("link add eth0 type bridge");
        let before = state(&pod);
        let call = world.call("ADD", "c1", &pod.path);
        let (code, text) = call.refused();
        assert_eq!(code, 102, "{text}");
        assert!(text.contains("eth0") && text.contains(&pod.path), "{text}");
        let kept: Vec<Value> = world.rows("/v1/pods").iter().map(|pod| pod["ips"].clone()).collect();
        assert!(soon(|| pod_links(&world) == 0), "{}", world.node.ip("link"));
        assert_eq!(state(&pod), before);
        world.settle();
        let rules = world.node.run("nft", &["list", "ruleset"]);
        assert!(!rules.contains("ripp0") && !rules.contains("container/c1"), "{rules}");
        // Something else in between does not get the address.
        let other = world.pod("other");
        pod.ip("link del eth0");
        let result = call.done();
        let mine = Pod { ns: pod, container: "c1".into(), result };
        assert_eq!(json!(mine.ips()), kept[0]);
        assert_ne!(mine.ip(), other.ip());
        world.del(&mine);
        world.del(&other);
        assert_eq!(leases(&world), Vec::<String>::new());
    }
}

#[test]
fn del_ends_what_a_failed_add_left() {
    if !is_root() {
        return;
    }
    let world = World::start(Plan::default());
    let pod = Ns::new();
    pod.ip("link add eth0 type bridge");
    assert_eq!(world.call("ADD", "c1", &pod.path).refused().0, 102);
    world.call("DEL", "c1", &pod.path).done();
    assert_eq!(leases(&world), Vec::<String>::new());
    assert_eq!(world.get("/v1/ipam")["ranges"][0]["leased"], 0);
    assert!(pod.has_link("eth0"), "what we did not make stays");
}

#[test]
fn a_path_that_is_no_pods_namespace_is_refused() {
    if !is_root() {
        return;
    }
    let world = World::start(Plan::default());
    let own = format!("/proc/{}/ns/net", world.agent().pid());
    for path in ["/run/netns/no-such", "/etc/hostname", "/proc/self/ns/mnt", &own] {
        let (code, text) = world.call("ADD", "c1", path).refused();
        assert_eq!(code, 4, "{path}: {text}");
        assert!(text.contains("CNI_NETNS") && text.contains(path), "{path}: {text}");
        world.call("DEL", "c1", path).done();
    }
    assert_eq!(world.call("ADD", "c1", "").refused().0, 4);
    let pod = Ns::new();
    let (code, text) = world.call("ADD", "c1", &pod.path).env("CNI_IFNAME", "an-interface-name").refused();
    assert!(code == 4 && text.contains("CNI_IFNAME"), "{code} {text}");
    assert_eq!(leases(&world), Vec::<String>::new());
    assert!(soon(|| pod_links(&world) == 0));
    world.settle();
}

#[test]
fn gc_removes_what_is_not_listed_of_its_own_configuration_only() {
    if !is_root() {
        return;
    }
    let world = World::start(Plan::default());
    let named = |name: &'static str| move |call: crate::support::cni::Call| call.with("name", name.into());
    let stays = world.pod_with("stays", named("ripstop"));
    let goes = world.pod_with("goes", named("ripstop"));
    let others = world.pod_with("others", named("another"));
    // A second interface of a container that stays is an attachment of its own.
    let second = world.call("ADD", &stays.container, &stays.ns.path).env("CNI_IFNAME", "eth1");
    second.done();
    let list = |list: Value| world.call("GC", "", "").with("cni.dev/valid-attachments", list);
    let (code, text) = world.call("GC", "", "").refused();
    assert!(code == 7 && text.contains("valid-attachments"), "without a list nothing is removed: {code} {text}");
    list(json!([{"containerID": stays.container, "ifname": "eth0"}])).done();
    assert!(stays.ns.has_link("eth0") && others.ns.has_link("eth0"));
    assert!(!goes.ns.has_link("eth0") && !stays.ns.has_link("eth1"));
    assert_eq!(leases(&world).len(), 2);
    list(json!([])).done();
    assert!(!stays.ns.has_link("eth0") && others.ns.has_link("eth0"));
    list(json!([])).done();
    world.settle();
}

#[test]
fn a_second_plugin_adds_to_the_result_before_it() {
    if !is_root() {
        return;
    }
    let world = World::start(Plan::default());
    let pod = Ns::new();
    let before = json!({
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "br9"}, {"name": "net1", "mac": "02:00:00:00:00:01", "sandbox": pod.path}],
        "ips": [{"address": "10.9.0.2/24", "gateway": "10.9.0.1", "interface": 1}],
        "routes": [{"dst": "10.9.0.0/16"}],
        "dns": {"nameservers": ["10.9.0.53"]},
    });
    let result = world.call("ADD", "c1", &pod.path).with("prevResult", before.clone()).done();
    assert_eq!(result["interfaces"][0], before["interfaces"][0]);
    assert_eq!(result["interfaces"][1], before["interfaces"][1]);
    assert_eq!(result["interfaces"][3]["name"], "eth0");
    assert_eq!(result["ips"][0], before["ips"][0]);
    assert_eq!(result["ips"][1]["interface"], 3);
    assert_eq!(result["routes"][0], before["routes"][0]);
    assert_eq!(result["routes"][1]["dst"], "0.0.0.0/0");
    assert_eq!(result["dns"], before["dns"]);
    world.call("CHECK", "c1", &pod.path).with("prevResult", result).done();
    // An interface of our name that another made is not ours to make.
    let other = Ns::new();
    let clash = json!({"cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "sandbox": other.path}]});
    let (code, text) = world.call("ADD", "c2", &other.path).with("prevResult", clash).refused();
    assert!(code == 102 && text.contains("eth0"), "{code} {text}");
    assert_eq!(leases(&world).len(), 1);
}

#[test]
fn a_second_interface_leaves_the_first_its_routes() {
    if !is_root() {
        return;
    }
    let world = World::start(Plan::default());
    let pod = Ns::new();
    let add = |name: &str| world.call("ADD", "c1", &pod.path).env("CNI_IFNAME", name).done();
    let check = |name: &str, result: &Value| {
        let call = world.call("CHECK", "c1", &pod.path).env("CNI_IFNAME", name);
        call.with("prevResult", result.clone()).done()
    };
    let (first, second) = (add("eth0"), add("net7"));
    assert!(first["routes"].is_array() && second["routes"].is_null(), "{second}");
    check("eth0", &first);
    check("net7", &second);
    let at = |result: &Value| format!("{}:7000", result["ips"][0]["address"].as_str().unwrap().replace("/32", ""));
    assert!(ask(&world.node, None, Echo::start(&pod, &at(&first)).at).is_some());
    // When the first goes, the way out is the second's.
    world.call("DEL", "c1", &pod.path).done();
    world.settle();
    assert!(ask(&world.node, None, Echo::start(&pod, &at(&second)).at).is_some());
    check("net7", &second);
}

/// A second network's interface: its network is reached by it, and whoever asks its address hears from that address, also
/// where the answer leaves by the first interface.
#[test]
fn a_second_interface_leads_to_its_own_network() {
    if !is_root() {
        return;
    }
    for (wiring, mode) in [("routed", "lease"), ("bridge", "lease"), ("routed", "blocks")] {
        let world = World::start(Plan { families: Families::Dual, ..Plan::default() });
        let ranges = ["10.9.0.0/16", "fd00:9::/48"];
        let spec = json!({"ranges": ranges, "rangeMode": mode, "wiring": wiring, "backend": "host-gw"});
        let blue =
            json!({"apiVersion": "ripstop.io/v1alpha1", "kind": "Network", "metadata": {"name": "blue"}, "spec": spec});
        assert_eq!(world.ask("POST", "/v1/apply", &blue.to_string()).unwrap().status, 200);
        assert!(soon(|| world.call("STATUS", "", "").with("network", "blue".into()).make().is_ok()));
        let in_blue = |call: Call| call.with("network", "blue".into());
        let (plain, pure) = (world.pod("plain"), world.pod_with("pure", in_blue));
        let pod = world.pod("both");
        let second = in_blue(world.call("ADD", &pod.container, &pod.ns.path).env("CNI_IFNAME", "net1")).done();
        let networks: Vec<&str> =
            second["routes"].as_array().unwrap().iter().filter_map(|route| route["dst"].as_str()).collect();
        assert_eq!(networks, ["10.9.0.0/16", "fd00:9::/48"], "{wiring}: no way out of its own");
        for n in [0, 1] {
            let own = second["ips"][n]["address"].as_str().unwrap().split('/').next().unwrap().to_owned();
            // To the second network from the second address.
            let echo = Echo::start(&pure.ns, &at(&pure.ips()[n], 7000));
            assert_eq!(ask(&pod.ns, None, echo.at), Some(own.clone()), "{wiring}");
            // To everything else from the first.
            let echo = Echo::start(&plain.ns, &at(&plain.ips()[n], 7000));
            assert_eq!(ask(&pod.ns, None, echo.at), Some(pod.ips()[n].clone()), "{wiring}");
            // Reached by a pod of either network and by the node; each hears the address it asked.
            let echo = Echo::start(&pod.ns, &at(&own, 7001));
            for (ns, who) in [(&pure.ns, "its network"), (&plain.ns, "the other network"), (&world.node, "the node")] {
                assert!(ask(ns, None, echo.at).is_some(), "{wiring}: from {who} to {own}");
            }
        }
        let call = in_blue(world.call("CHECK", &pod.container, &pod.ns.path).env("CNI_IFNAME", "net1"));
        call.with("prevResult", second).done();
        world.check(&pod).done();
        world.settle();
    }
}
