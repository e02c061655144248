//! STATUS and ADD while the node is not ready: each reason by its name.

use crate::support::agent::How;
use crate::support::ns::{Ns, is_root};
use crate::support::soon;
use crate::support::world::{Plan, StoreAt, World};

/// The node must not be ready for a reason with these words, to STATUS, to ADD and on the HTTP socket.
fn not_ready(world: &World, words: &str) {
    world.wait_up();
    let mut text = String::new();
    let named = soon(|| match world.call("STATUS", "", "").make() {
        Ok(_) => false,
        Err(error) => {
            text = format!("{} {error}", error.code.number());
            text.starts_with("50 ") && text.contains(words)
        }
    });
    assert!(named, "wanted 50 and {words:?}, got {text}");
    let pod = Ns::new();
    let (code, text) = world.call("ADD", "c1", &pod.path).timeout(700).refused();
    assert_eq!(code, 11, "{text}");
    let ready = world.ask("GET", "/readyz", "").unwrap();
    assert!(ready.status == 503 && ready.body.contains(words), "{}: {}", ready.status, ready.body);
    assert_eq!(world.rows("/v1/pods").len(), 0, "an ADD that was put off leaves no pod");
    world.call("DEL", "c1", &pod.path).done();
}

#[test]
fn ready() {
    if !is_root() {
        return;
    }
    let world = World::start(Plan::default());
    world.call("STATUS", "", "").done();
    let (code, text) = world.call("STATUS", "", "").with("network", "blue".into()).refused();
    assert!(code == 50 && text.contains("network blue is not defined"), "{code} {text}");
    let pod = Ns::new();
    let (code, text) = world.call("ADD", "c1", &pod.path).with("network", "blue".into()).refused();
    assert!(code == 7 && text.contains("blue") && text.contains("default"), "{code} {text}");
}

#[test]
fn without_a_network() {
    if !is_root() {
        return;
    }
    let mut world = World::make(Plan { network: false, ..Plan::default() });
    world.start_agent();
    world.wait_up();
    let mut text = String::new();
    let named = soon(|| {
        text = world.call("STATUS", "", "").refused().1;
        text.contains("network default is not defined")
    });
    assert!(named, "{text}");
    let ready = world.ask("GET", "/readyz", "").unwrap();
    assert!(ready.status == 503 && ready.body.contains("no network is defined"), "{}", ready.body);
    assert_eq!(world.node.run("nft", &["list", "ruleset"]), "", "a node without a network is left as it is");
}

#[test]
fn without_a_range() {
    if !is_root() {
        return;
    }
    let spec = vec!["rangeMode: pod-cidr".to_owned()];
    let mut world = World::make(Plan { spec, ..Plan::default() });
    world.start_agent();
    not_ready(&world, "podCIDRs");
}

#[test]
fn with_a_store_that_never_was_there() {
    if !is_root() {
        return;
    }
    let mut world = World::make(Plan { store: StoreAt::Nowhere, ..Plan::default() });
    world.start_agent();
    not_ready(&world, "the store is away");
}

#[test]
fn with_a_network_that_covers_the_nodes_own_subnet() {
    if !is_root() {
        return;
    }
    let mut world = World::make(Plan { network: false, ..Plan::default() });
    let config = std::fs::read_to_string(world.config()).unwrap();
    let network = "networks: [{metadata: {name: default}, spec: {ranges: [172.30.0.0/16], backend: host-gw}}]\n";
    std::fs::write(world.config(), config + network).unwrap();
    world.start_agent();
    world.wait_up();
    let mut text = String::new();
    let named = soon(|| {
        text = world.call("STATUS", "", "").make().err().map(|error| error.to_string()).unwrap_or_default();
        text.contains("172.30.1.0/24") && text.contains("overlaps")
    });
    assert!(named, "{text}");
    // Nothing of it is begun: no range, no route in the way of the node's own, no pod.
    not_ready(&world, "overlaps");
    assert_eq!(world.rows("/v1/leases"), Vec::<serde_json::Value>::new());
    assert_eq!(world.node.ip("route show proto 82"), "");
}

#[test]
fn a_bridge_without_netfilter() {
    if !is_root() {
        return;
    }
    let mut world = World::make(Plan { wiring: "bridge", ..Plan::default() });
    let sysctl = "/proc/sys/net/bridge/bridge-nf-call-iptables";
    if world.node.inside(|| std::fs::write(sysctl, "0")).is_err() {
        println!("SKIPPED: the kernel has no br_netfilter to switch off");
        return;
    }
    world.start_agent();
    world.wait_up();
    let mut text = String::new();
    let named = soon(|| {
        let error = world.call("STATUS", "", "").make().err();
        text = error.map(|error| format!("{} {error}", error.code.number())).unwrap_or_default();
        text.starts_with("50 ") && text.contains("br_netfilter")
    });
    assert!(named, "{text}");
    // Switched on, it is ready without a restart.
    world.node.inside(|| std::fs::write(sysctl, "1")).unwrap();
    world.wait_ready();
}

#[test]
fn held() {
    if !is_root() {
        return;
    }
    let mut world = World::start(Plan::default());
    let pod = world.pod("web");
    world.agent.as_mut().unwrap().stop();
    world.start_agent_as(&How { hold: true, ..How::default() });
    world.wait_up();
    let mut text = String::new();
    let named = soon(|| {
        text = world.call("STATUS", "", "").refused().1;
        text.contains("--hold")
    });
    assert!(named, "{text}");
    let other = Ns::new();
    let (code, text) = world.call("ADD", "c2", &other.path).timeout(700).refused();
    assert!(code == 11 && text.contains("--hold"), "{code} {text}");
    let (code, text) = world.call("DEL", &pod.container, &pod.ns.path).timeout(700).refused();
    assert!(code == 11 && text.contains("--hold"), "{code} {text}");
    assert!(pod.ns.has_link("eth0"));
    assert_eq!(world.rows("/v1/pods").len(), 1);
    world.check(&pod).done();
    assert_eq!(world.ask("POST", "/v1/resume", "").unwrap().status, 200);
    world.wait_ready();
    world.call("ADD", "c2", &other.path).done();
    world.del(&pod);
    assert!(!pod.ns.has_link("eth0"));
}

#[test]
fn a_kernel_without_ipvs() {
    if !is_root() {
        return;
    }
    if std::path::Path::new("/proc/net/ip_vs").exists() {
        return println!("SKIPPED: this kernel has IPVS");
    }
    let config = vec!["services: {proxy: ipvs}".to_owned()];
    let mut world = World::make(Plan { config, ..Plan::default() });
    world.start_agent();
    world.wait_ready();
    let status = world.get("/v1/status");
    assert_eq!(status["warnings"].to_string().matches("modprobe ip_vs").count(), 1, "{status}");
    let (one, other) = (world.pod("one"), world.pod("other"));
    assert_eq!(status["failed"], serde_json::json!([]));
    assert!(soon(|| one.ns.tried("ping", &["-c", "1", "-W", "5", &other.ip()]).0), "pods have their network");
    assert_eq!(world.node.run("nft", &["list", "tables"]).matches("ripstop-services").count(), 0);
}
