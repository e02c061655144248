//! Networks that change or go in the store while pods stand on them.

use ripstop_store::Kind;
use serde_json::Value;

use crate::support::ns::{Ns, is_root};
use crate::support::packets::{Echo, ask};
use crate::support::soon;
use crate::support::world::{OUTSIDE, Plan, StoreAt, World, at};

/// A node whose network is the store's alone: no configuration brings it back.
fn world() -> World {
    let mut world = World::make(Plan { store: StoreAt::Here, network: false, ..Plan::default() });
    world.start_agent();
    world.wait_up();
    let manifest = serde_json::json!({
        "apiVersion": "ripstop.io/v1alpha1", "kind": "Network", "metadata": {"name": "default"},
        "spec": {"ranges": ["10.244.0.0/16"], "backend": "host-gw"},
    });
    assert!(soon(|| world.ask("POST", "/v1/apply", &manifest.to_string()).unwrap().status == 200));
    world.wait_ready();
    world
}

fn network(world: &World) -> Value {
    world.store.as_ref().unwrap().get(Kind::Networks, "default").unwrap()
}

fn warnings(world: &World) -> String {
    world.get("/v1/status")["warnings"].to_string()
}

fn passes(world: &World, pod: &Ns) -> bool {
    ask(pod, None, Echo::start(&world.router, &at(OUTSIDE[0], 7000)).at).is_some()
}

#[test]
fn a_network_that_is_deleted_under_its_pods_goes_with_the_last_of_them() {
    if !is_root() {
        return;
    }
    let world = world();
    let pod = world.pod("web");
    world.settle();
    let state = || (world.node.ip("-o route"), world.node.ip("-o address"), pod.ns.ip("-o address"));
    let before = state();
    let store = world.store.as_ref().unwrap();
    store.delete(Kind::Networks, "default");
    assert!(soon(|| warnings(&world).contains("it was deleted, but pod/default/web of this node is in it")));
    world.settle();
    assert_eq!(state(), before, "what pods stand on stays");
    assert!(passes(&world, &pod.ns));
    // No new pod, and the reason is said to who asks.
    let ns = Ns::new();
    let (code, text) = world.call("ADD", "late", &ns.path).timeout(1500).refused();
    assert!(code == 11 && text.contains("network default was deleted"), "{code} {text}");
    let status = world.get("/v1/status");
    assert!(status["ready"] == false && status["reasons"].to_string().contains("was deleted"), "{status:#}");
    world.check(&pod).done();
    world.del(&pod);
    assert!(soon(|| world.get("/v1/status")["networks"] == 0));
    assert!(soon(|| !world.node.has_link("rip0")), "{}", world.node.ip("link"));
    assert_eq!(warnings(&world), "[]");
}

#[test]
fn a_network_that_changes_under_its_pods_is_taken_in_when_they_are_gone() {
    if !is_root() {
        return;
    }
    let mut world = world();
    let pod = world.pod("web");
    let good = network(&world);
    let mut other = good.clone();
    other["spec"]["ranges"] = serde_json::json!(["10.99.0.0/16"]);
    let put = |world: &World, value: &Value| {
        world.store.as_ref().unwrap().put(Kind::Networks, "default", value);
    };
    put(&world, &other);
    let told = |world: &World| {
        let text = warnings(world);
        text.contains("record networks/default is not taken") && text.contains("10.99.0.0/16, outside of which")
    };
    assert!(soon(|| told(&world)), "{}", warnings(&world));
    world.settle();
    assert_eq!(world.rows("/v1/networks")[0]["ranges"], serde_json::json!(["10.244.0.0/16"]));
    assert!(passes(&world, &pod.ns));
    // Also for an agent that starts then, as soon as the snapshot has been written.
    std::thread::sleep(std::time::Duration::from_secs(1));
    world.kill_agent();
    world.start_agent();
    assert!(soon(|| world.ask("GET", "/v1/status", "").is_some() && told(&world)));
    world.settle();
    assert!(passes(&world, &pod.ns));
    // Put right, nothing is left of it.
    put(&world, &good);
    assert!(soon(|| warnings(&world) == "[]"));
    // What pods do not stand on changes under them.
    let mut masquerade = good.clone();
    masquerade["spec"]["masquerade"] = serde_json::json!({"enabled": false});
    put(&world, &masquerade);
    assert!(soon(|| world.rows("/v1/networks")[0]["masquerade"] == false), "{}", warnings(&world));
    // With the last pod goes the reason.
    put(&world, &other);
    assert!(soon(|| told(&world)));
    world.del(&pod);
    assert!(soon(|| world.rows("/v1/networks")[0]["ranges"] == serde_json::json!(["10.99.0.0/16"])));
    assert_eq!(warnings(&world), "[]");
    assert!(soon(|| world.own_range(false).starts_with("10.99.")));
}
