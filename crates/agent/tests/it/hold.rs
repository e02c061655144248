//! What is printed is what runs: `--hold`, the journal, and recordings run again.

use serde_json::{Value, json};

use crate::support::agent::How;
use crate::support::ns::is_root;
use crate::support::soon;
use crate::support::world::{Families, Plan, StoreAt, World};

/// What a step is, whatever became of it.
fn words(row: &Value) -> Value {
    json!([row["step"], row["action"], row["object"], row["owner"], row["reason"], row["inverse"]])
}

fn held() -> How {
    How { hold: true, ..How::default() }
}

/// The plan as soon as it stays as it is.
fn printed(world: &World) -> Vec<Value> {
    let mut last = Vec::new();
    let mut same = 0;
    assert!(soon(|| {
        let now = world.rows("/v1/plan");
        same = if now == last && !now.is_empty() { same + 1 } else { 0 };
        last = now;
        same > 30
    }));
    assert!(last.iter().all(|row| row["state"] == "planned"), "{last:#?}");
    assert_eq!(world.rows("/v1/journal"), Vec::<Value>::new(), "nothing ran");
    last
}

fn resumed_runs_what_was_printed(world: &World) {
    let printed = printed(world);
    assert_eq!(world.ask("POST", "/v1/resume", "").unwrap().status, 200);
    world.wait_ready();
    world.settle();
    let journal = world.rows("/v1/journal");
    assert!(journal.len() >= printed.len());
    for (printed, ran) in printed.iter().zip(&journal) {
        assert_eq!(words(printed), words(ran));
        assert_eq!(ran["state"], "done", "{ran}");
    }
    // What follows from the first plan goes on counting.
    assert!(journal.iter().zip(1..).all(|(row, number)| row["step"] == number));
}

#[test]
fn a_new_node() {
    if !is_root() {
        return;
    }
    let mut world = World::make(Plan { families: Families::Dual, ..Plan::default() });
    world.start_agent_as(&held());
    world.wait_up();
    resumed_runs_what_was_printed(&world);
    let pod = world.pod("web");
    world.check(&pod).done();
}

#[test]
fn a_node_whose_kernel_was_emptied() {
    if !is_root() {
        return;
    }
    for wiring in ["routed", "bridge"] {
        let plan = Plan { wiring, backend: "vxlan", families: Families::Dual, store: StoreAt::Here, ..Plan::default() };
        let mut world = World::start(plan);
        world.add_peer();
        let (pod, lost) = (world.pod("web"), world.pod("lost"));
        assert!(soon(|| world.rows("/v1/paths").iter().all(|path| path["state"] == "realised")));
        world.settle();
        assert!(world.agent.as_mut().unwrap().stop().success());
        world.node.run("nft", &["flush", "ruleset"]);
        world.node.ip("link del ript1");
        world.node.ip("link del rip0");
        world.node.ip(&format!("link del {}", lost.host_link()));
        // Something of ours that nobody wants any more.
        world.node.ip("route add 10.244.77.0/24 via 172.30.1.1 proto 82");
        world.start_agent_as(&held());
        world.wait_up();
        resumed_runs_what_was_printed(&world);
        assert_eq!(world.node.ip("route show 10.244.77.0/24"), "");
        world.check(&pod).done();
    }
}

#[test]
fn a_recording_gives_the_same_plans_again() {
    if !is_root() {
        return;
    }
    for hold in [false, true] {
        let mut world = World::make(Plan { store: StoreAt::Here, backend: "vxlan", ..Plan::default() });
        let recording = world.dir.path().join("recording.jsonl");
        world.start_agent_as(&How { record: Some(recording.clone()), hold, ..How::default() });
        world.wait_up();
        if hold {
            printed(&world);
            world.ask("POST", "/v1/resume", "").unwrap();
        }
        world.wait_ready();
        world.add_peer();
        let (a, b) = (world.pod("a"), world.pod("b"));
        world.del(&a);
        world.node.ip("link del ript1");
        assert!(soon(|| world.node.has_link("ript1")));
        world.node.ip(&format!("link del {}", b.host_link()));
        let secret = json!({"password": "hunter2"});
        let _ = world.call("ADD", "c3", "/run/netns/none").with("args", json!({"cni": secret})).make();
        world.settle();
        world.store.as_ref().unwrap().delete(ripstop_store::Kind::Nodes, "n2");
        assert!(soon(|| world.node.ip("nexthop show proto 82").is_empty()));
        world.settle();
        let journal: Vec<Value> =
            world.rows("/v1/journal").iter().filter(|row| row["state"] != "refused").map(words).collect();
        assert!(world.agent.as_mut().unwrap().stop().success());
        let mut again = Vec::new();
        ripstop_agent::replay(&recording, &mut again).unwrap();
        let again = String::from_utf8(again).unwrap();
        let plans = again.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let mut steps = Vec::new();
        for plan in plans {
            assert!(plan["plan"].is_u64() && plan["input"].is_u64(), "{plan}");
            assert_eq!(plan["lane"] == "store", plan["steps"][0]["object"].as_str().unwrap().starts_with("record "));
            steps
                .extend(plan["steps"].as_array().unwrap().iter().filter(|s| s["object"] != "record alive/n1").cloned());
        }
        // The journal counts from the agent's start, a plan from one.
        let body = |row: &Value| row.as_array().unwrap()[1..].to_vec();
        let again: Vec<_> = steps.iter().map(|step| body(&words(step))).collect();
        let ran: Vec<_> = journal.iter().map(body).collect();
        for (n, (again, ran)) in again.iter().zip(&ran).enumerate() {
            assert_eq!(again, ran, "step {n}");
        }
        assert_eq!(again.len(), ran.len());
        assert!(ran.len() > 30);
        let text = std::fs::read_to_string(&recording).unwrap();
        assert!(!text.contains("hunter2") && text.contains("redacted"), "secrets are left out");
    }
}

#[test]
fn what_is_no_recording_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r");
    for (text, words) in [
        ("", "empty"),
        ("nonsense\n", "line 1"),
        ("{\"at\":{\"now\":1,\"wall\":1},\"input\":\"tick\"}\n", "begins with \"tick\""),
    ] {
        std::fs::write(&path, text).unwrap();
        let error = ripstop_agent::replay(&path, &mut Vec::new()).unwrap_err();
        assert!(format!("{error:#}").contains(words), "{error:#}");
    }
}
