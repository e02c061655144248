//! Nodes that die, come back as other machines, and are deleted.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ripstop_store::Kind;
use serde_json::{Value, json};

use crate::support::ns::is_root;
use crate::support::soon;
use crate::support::store::{Peer, TestStore};
use crate::support::world::{Plan, StoreAt, World};

/// Puts a machine into the store that has this node's name: at this node's address, or at another.
fn namesake(world: &World, address: &'static str) {
    let old = Peer { name: "n1", addresses: vec![address], ranges: vec!["10.244.7.0/24"], vtep: None };
    world.store.as_ref().unwrap().peer(&old);
}

fn machine(store: &TestStore) -> Option<String> {
    store.get(Kind::Nodes, "n1").map(|record| record["identity"]["machineId"].as_str().unwrap().to_owned())
}

/// Machines that hold claims, with their ranges.
fn claims(store: &TestStore) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    store.list(Kind::Claims).iter().map(|(_, claim, _)| (text(&claim["machine"]), text(&claim["range"]))).collect()
}

fn reasons(world: &World) -> String {
    world.get("/v1/status")["reasons"].to_string()
}

/// Gives signs of life in a node's name as long as `work` runs.
fn alive<T>(store: &TestStore, node: &str, work: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut sequence = 1u64;
            while !done.load(Ordering::Relaxed) {
                store.put(Kind::Alive, node, &json!({"node": node, "sequence": sequence, "bootId": "boot-1"}));
                sequence += 1;
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        done.store(true, Ordering::Relaxed);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[test]
fn a_machine_installed_anew_takes_the_name_and_leaves_the_ranges() {
    if !is_root() {
        return;
    }
    let mut world = World::make(Plan { store: StoreAt::Here, ..Plan::default() });
    namesake(&world, "172.30.1.11/24");
    world.start_agent();
    world.wait_ready();
    let store = world.store.as_ref().unwrap();
    let own = machine(store).unwrap();
    assert_ne!(own, "machine-of-n1");
    assert!(world.agent().log_text().contains("takes the name n1 over from machine machine-of-n1"));
    // Two machines, two ranges; the dead one's is neither used nor freed.
    let all = claims(store);
    assert_eq!(all.len(), 2, "{all:?}");
    assert!(all.contains(&("machine-of-n1".into(), "10.244.7.0/24".into())), "{all:?}");
    let pod = world.pod("web");
    assert!(!pod.ip().starts_with("10.244.7."), "{}", pod.ip());
    assert!(soon(|| world.node.ip("route show 10.244.7.0/24").starts_with("unreachable")), "peers still send it here");
    // It is told apart in what is shown, and an operator frees it here.
    let ipam = world.get("/v1/ipam");
    let shown: Vec<_> = ipam["claims"].as_array().unwrap().iter().map(|c| (&c["machine"], &c["alive"])).collect();
    assert!(shown.contains(&(&json!("machine-of-n1"), &json!(false))), "{ipam:#}");
    assert!(shown.contains(&(&json!(own), &json!(true))), "{ipam:#}");
    assert!(ipam["claims"].as_array().unwrap().iter().all(|claim| claim["state"] == "held"), "{ipam:#}");
    assert_eq!(ipam["faults"], json!([]));
    let answer = world.ask("POST", "/v1/ipam/release", "{\"range\": \"10.244.7.0/24\"}").unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(soon(|| claims(world.store.as_ref().unwrap()).len() == 1));
    assert!(soon(|| world.node.ip("route show 10.244.7.0/24").is_empty()));
}

#[test]
fn a_machine_that_lives_keeps_its_name_and_the_other_gets_nothing() {
    if !is_root() {
        return;
    }
    let mut world = World::make(Plan { store: StoreAt::Here, ..Plan::default() });
    namesake(&world, "172.30.1.11/24");
    world.start_agent();
    world.wait_up();
    let store = world.store.as_ref().unwrap();
    alive(store, "n1", || {
        assert!(soon(|| reasons(&world).contains("name of another machine")), "{}", reasons(&world));
        assert!(soon(|| reasons(&world).contains("it is fresh")), "{}", reasons(&world));
        // Longer than it would take if nobody lived.
        std::thread::sleep(Duration::from_secs(3));
        assert_eq!(machine(store).as_deref(), Some("machine-of-n1"));
        assert_eq!(claims(store), [("machine-of-n1".to_owned(), "10.244.7.0/24".to_owned())]);
        let refused = world.ask("POST", "/v1/delete/node/n1", "").unwrap();
        assert_eq!(refused.status, 409, "{}", refused.body);
        assert!(refused.body.contains("node/n1 is fresh"), "{}", refused.body);
    });
    // It dies: the name is free, and the machine that waited goes to work.
    world.wait_ready();
    assert_ne!(machine(world.store.as_ref().unwrap()).as_deref(), Some("machine-of-n1"));
}

/// A machine elsewhere may be another's mistake: it is waited for longer.
#[test]
fn a_stranger_of_the_name_is_waited_for_longer() {
    if !is_root() {
        return;
    }
    let mut world = World::make(Plan { store: StoreAt::Here, ..Plan::default() });
    namesake(&world, "172.30.1.2/24");
    world.start_agent();
    world.wait_up();
    assert!(soon(|| reasons(&world).contains("it is stale")), "{}", reasons(&world));
    assert!(reasons(&world).contains("after 6 s of silence"), "{}", reasons(&world));
    assert_eq!(machine(world.store.as_ref().unwrap()).as_deref(), Some("machine-of-n1"));
    world.wait_ready();
}

/// The machine that was thought dead comes back: its name is gone, its range is not, and nobody else has it.
#[test]
fn a_machine_that_lost_its_name_gives_no_address_and_keeps_its_range() {
    if !is_root() {
        return;
    }
    let world = World::start(Plan { store: StoreAt::Here, ..Plan::default() });
    let pod = world.pod("web");
    let store = world.store.as_ref().unwrap();
    let (own, range) = (machine(store).unwrap(), world.own_range(false));
    let mut record = store.get(Kind::Nodes, "n1").unwrap();
    record["identity"]["machineId"] = "the-newcomer".into();
    alive(store, "n1", || {
        store.put(Kind::Nodes, "n1", &record);
        assert!(soon(|| reasons(&world).contains("name of another machine")), "{}", reasons(&world));
        assert_eq!(claims(store), [(own.clone(), range.clone())], "its range stays its own");
        assert!(world.node.ip(&format!("route show {}", pod.ip())).contains("rip"), "its pods stay");
        std::thread::sleep(Duration::from_secs(2));
        assert_eq!(machine(store).as_deref(), Some("the-newcomer"), "it does not fight for the name");
    });
}

#[test]
fn a_node_is_deleted_when_it_is_dead() {
    if !is_root() {
        return;
    }
    let world = World::start(Plan { store: StoreAt::Here, ..Plan::default() });
    world.add_peer();
    let store = world.store.as_ref().unwrap();
    let delete = |name: &str| world.ask("POST", &format!("/v1/delete/node/{name}"), "").unwrap();
    let refused = |name: &str, words: &str| {
        let answer = delete(name);
        assert!(answer.status == 409 && answer.body.contains(words), "{}: {}", answer.status, answer.body);
    };
    alive(store, "n2", || {
        assert!(soon(|| delete("n2").body.contains("n2 is fresh")));
        refused("n2", "stop its agent first");
    });
    refused("n1", "is the node that was asked");
    let not_found = |name: &str| {
        let answer = delete(name);
        let expected = json!([{"object": format!("node/{name}"), "action": "not found"}]);
        assert_eq!((answer.status, &answer.json()["results"]), (200, &expected), "{}", answer.body);
    };
    not_found("n9");
    assert_eq!(delete("N_9").status, 422);
    assert_eq!(world.ask("POST", "/v1/delete/route/x", "").unwrap().status, 404);
    assert!(store.get(Kind::Nodes, "n2").is_some());
    assert!(soon(|| world.rows("/v1/leases").iter().any(|lease| lease["node"] == "n2" && lease["alive"] == false)));
    let answer = delete("n2");
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.json()["results"], json!([{"object": "node/n2", "action": "deleted"}]));
    assert_eq!(store.get(Kind::Nodes, "n2"), None);
    assert_eq!(store.get(Kind::Alive, "n2"), None);
    assert!(claims(store).iter().all(|(machine, _)| machine != "machine-of-n2"));
    assert!(soon(|| world.node.ip("route show 10.244.200.0/24").is_empty()));
    not_found("n2");
}
