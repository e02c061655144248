//! An agent that ends, is killed, or cannot start.

use serde_json::json;

use crate::support::agent::{Agent, How};
use crate::support::ns::{Ns, is_root};
use crate::support::packets::{Echo, Sink, Source, ask};
use crate::support::soon;
use crate::support::world::{Families, Plan, StoreAt, World, at};

/// Everything in the kernel, with indexes and handles: what is the same here was not touched.
fn kernel(world: &World) -> String {
    let rules = world.node.run("nft", &["-a", "-nn", "list", "ruleset"]);
    let uncounted = rules.lines().map(|line| match line.split_once("counter packets") {
        Some((head, tail)) => format!("{head}{}", tail.split_whitespace().skip(3).collect::<Vec<_>>().join(" ")),
        None => line.to_owned(),
    });
    let mut rules: Vec<String> = uncounted.collect();
    rules.sort();
    let links = world.node.ip("-o link show");
    let links: Vec<&str> = links.lines().filter(|line| line.contains(": rip")).collect();
    let rest = ["-4 route", "-6 route show proto 82", "nexthop", "neigh show nud permanent"];
    links.join("\n") + &rest.map(|what| world.node.ip(what)).concat() + &rules.join("\n")
}

fn journal(world: &World) -> Vec<String> {
    let rows = world.rows("/v1/journal");
    rows.iter().map(|row| format!("{} {}", row["action"], row["object"])).collect()
}

#[test]
fn a_restarted_agent_has_nothing_to_do() {
    if !is_root() {
        return;
    }
    for (wiring, backend) in [("routed", "host-gw"), ("routed", "vxlan"), ("bridge", "host-gw"), ("bridge", "vxlan")] {
        let plan = Plan { wiring, backend, families: Families::Dual, store: StoreAt::Here, ..Plan::default() };
        let mut world = World::start(plan);
        world.add_peer();
        let limit = json!({"bandwidth": {"ingressRate": 900_000_000_u64, "egressRate": 900_000_000_u64}});
        let (a, b) = (world.pod("a"), world.pod_with("b", |call| call.with("runtimeConfig", limit)));
        assert!(soon(|| world.rows("/v1/paths").iter().all(|path| path["state"] == "realised")));
        world.settle();
        let before = kernel(&world);
        let sink = Sink::start(&b.ns, &at(&b.ip(), 7000));
        let _source = Source::start(&a.ns, sink.at);
        let flows = |sink: &Sink| {
            let so_far = sink.bytes.load(std::sync::atomic::Ordering::Relaxed);
            assert!(soon(|| sink.bytes.load(std::sync::atomic::Ordering::Relaxed) > so_far + 100_000));
        };
        flows(&sink);
        for _ in 0..2 {
            // The snapshot is written at most a second after a change.
            let snapshot = world.dir.path().join("state/snapshot.json");
            assert!(soon(|| std::fs::read_to_string(&snapshot).is_ok_and(|text| text.contains("machine-of-n2"))));
            world.kill_agent();
            flows(&sink);
            world.start_agent();
            world.wait_up();
            let mut seen = Vec::new();
            assert!(soon(|| {
                seen.push(world.get("/v1/plan"));
                world.ask("GET", "/readyz", "").is_some_and(|answer| answer.status == 200)
            }));
            let mut settled = 0;
            assert!(soon(|| {
                seen.push(world.get("/v1/plan"));
                settled += 1;
                settled > 20
            }));
            assert!(seen.iter().all(|plan| *plan == json!([])), "{wiring} {backend}: {seen:#?}");
            let done = journal(&world);
            let kernel_steps: Vec<&String> = done.iter().filter(|row| !row.contains("record claims/")).collect();
            assert!(kernel_steps.is_empty(), "{wiring} {backend}: {kernel_steps:#?}");
            flows(&sink);
        }
        assert_eq!(kernel(&world), before, "{wiring} {backend}");
        world.check(&a).done();
        let c = world.pod("c");
        assert!(![a.ips(), b.ips()].concat().contains(&c.ip()));
        // SIGTERM leaves everything too.
        world.del(&c);
        world.settle();
        let before = kernel(&world);
        assert!(world.agent.as_mut().unwrap().stop().success());
        assert_eq!(kernel(&world), before);
    }
}

#[test]
fn a_restart_without_a_snapshot_writes_nothing_anew() {
    if !is_root() {
        return;
    }
    for (wiring, backend) in [("routed", "host-gw"), ("routed", "vxlan"), ("bridge", "vxlan")] {
        let plan = Plan { wiring, backend, families: Families::Dual, store: StoreAt::Here, ..Plan::default() };
        let mut world = World::start(plan);
        world.add_peer();
        let pod = world.pod("web");
        assert!(soon(|| world.rows("/v1/paths").iter().all(|path| path["state"] == "realised")));
        world.settle();
        let before = kernel(&world);
        world.kill_agent();
        std::fs::remove_file(world.dir.path().join("state/snapshot.json")).unwrap();
        world.start_agent();
        world.wait_ready();
        world.settle();
        let done = journal(&world);
        // What nobody knows of yet is refused to be removed, which changes nothing either.
        // Which settings are wanted is known with the networks: they are written with the value they have.
        let passed_over = ["record claims/", "refuse", "sysctl"];
        let written = |row: &&String| !passed_over.iter().any(|word| row.contains(word));
        let kernel_steps: Vec<&String> = done.iter().filter(written).collect();
        assert!(kernel_steps.is_empty(), "{wiring} {backend}: {kernel_steps:#?}");
        assert_eq!(kernel(&world), before, "{wiring} {backend}");
        world.check(&pod).done();
    }
}

#[test]
fn an_add_that_was_answered_stands_whatever_comes_next() {
    if !is_root() {
        return;
    }
    let mut world = World::start(Plan::default());
    for _ in 0..10 {
        // Killed as soon as the answer is there.
        let pod = world.pod("web");
        world.restart();
        world.check(&pod).done();
        assert_eq!(world.rows("/v1/pods").len(), 1);
        world.del(&pod);
    }
}

#[test]
fn the_store_may_be_away_all_the_time() {
    if !is_root() {
        return;
    }
    for wiring in ["routed", "bridge"] {
        let plan = Plan { wiring, backend: "vxlan", store: StoreAt::Here, ..Plan::default() };
        let mut world = World::start(plan);
        world.add_peer();
        let pod = world.pod("web");
        assert!(soon(|| world.node.ip("route show 10.244.200.0/24").contains("ript1")));
        world.settle();
        let snapshot = world.dir.path().join("state/snapshot.json");
        assert!(soon(|| std::fs::read_to_string(&snapshot).is_ok_and(|text| text.contains("machine-of-n2"))));
        let before = kernel(&world);
        world.store.as_mut().unwrap().close();
        assert!(soon(|| world.get("/v1/status")["store"].as_str().unwrap().starts_with("away")));
        world.restart();
        assert_eq!(world.get("/v1/plan"), json!([]));
        assert_eq!(kernel(&world), before);
        let status = world.get("/v1/status");
        assert!(status["store"].as_str().unwrap().starts_with("away"), "{status}");
        assert!(status["warnings"][0].as_str().unwrap().contains("store is away"), "{status}");
        // Pods come and go within the node's range.
        let other = world.pod("other");
        let echo = Echo::start(&other.ns, &other.at(7000));
        assert_eq!(ask(&pod.ns, None, echo.at), Some(pod.ip()));
        world.check(&other).done();
        world.del(&pod);
        world.settle();
        // What is written by hand comes back, also a peer's.
        world.node.ip("route del 10.244.200.0/24");
        assert!(soon(|| world.node.ip("route show 10.244.200.0/24").contains("ript1")));
        world.restart();
        world.check(&other).done();
        assert_eq!(world.rows("/v1/pods").len(), 1);
        // And back it is.
        world.store.as_mut().unwrap().open();
        assert!(soon(|| world.get("/v1/status")["store"] == "here"));
        world.settle();
        world.wait_ready();
    }
}

#[test]
fn what_was_kept_goes_once_it_is_known_that_nobody_wants_it() {
    if !is_root() {
        return;
    }
    let mut world = World::start(Plan { store: StoreAt::Here, backend: "vxlan", ..Plan::default() });
    world.add_peer();
    assert!(soon(|| world.node.ip("route show 10.244.200.0/24").contains("ript1")));
    world.settle();
    world.kill_agent();
    // The peer goes while nobody looks, and what was known of it is lost.
    let store = world.store.as_mut().unwrap();
    store.delete(ripstop_store::Kind::Nodes, "n2");
    for (key, claim, _) in store.list(ripstop_store::Kind::Claims) {
        if claim["node"] == "n2" {
            store.delete(ripstop_store::Kind::Claims, &key);
        }
    }
    store.close();
    // It may not have been written yet.
    let _ = std::fs::remove_file(world.dir.path().join("state/snapshot.json"));
    world.start_agent();
    world.wait_up();
    let refused = || world.get("/v1/status")["refused"].to_string();
    assert!(soon(|| refused().contains("route 10.244.200.0/24: kept")), "{}", refused());
    assert!(world.node.ip("route show 10.244.200.0/24").contains("ript1"));
    world.store.as_mut().unwrap().open();
    world.wait_ready();
    assert!(soon(|| world.node.ip("route show 10.244.200.0/24").is_empty()), "{:#}", world.get("/v1/status"));
    world.settle();
    assert_eq!(world.get("/v1/status")["refused"], json!([]));
}

#[test]
fn a_snapshot_that_cannot_be_read_is_set_aside_and_named() {
    if !is_root() {
        return;
    }
    let mut world = World::start(Plan { store: StoreAt::Here, ..Plan::default() });
    world.add_peer();
    let pod = world.pod("web");
    world.settle();
    assert!(soon(|| world.node.ip("route show 10.244.200.0/24").contains("via")));
    let snapshot = world.dir.path().join("state/snapshot.json");
    for garbage in ["{\"version\":1,", "", "[]", "{\"version\":99}"] {
        let before = kernel(&world);
        assert!(soon(|| std::fs::read_to_string(&snapshot).is_ok_and(|text| text.contains("machine-of-n2"))));
        world.kill_agent();
        std::fs::write(&snapshot, garbage).unwrap();
        // Without the store nothing is known, so nothing goes.
        world.store.as_mut().unwrap().close();
        world.start_agent();
        world.wait_up();
        let aside = snapshot.with_extension("json.unusable");
        assert!(soon(|| aside.exists()), "{garbage:?} was not set aside");
        assert_eq!(std::fs::read_to_string(&aside).unwrap(), garbage);
        assert!(world.agent().log_text().contains("snapshot.json.unusable"));
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert_eq!(kernel(&world), before, "{garbage:?}");
        world.store.as_mut().unwrap().open();
        world.wait_ready();
        world.settle();
        world.check(&pod).done();
        std::fs::remove_file(&aside).unwrap();
    }
    // A snapshot of another node is no snapshot of this one.
    assert!(soon(|| std::fs::read_to_string(&snapshot).is_ok_and(|text| text.contains("machine-of-n2"))));
    world.kill_agent();
    let text = std::fs::read_to_string(&snapshot).unwrap().replace("\"node\":\"n1\"", "\"node\":\"n7\"");
    std::fs::write(&snapshot, text).unwrap();
    world.start_agent();
    world.wait_ready();
    assert!(world.agent().log_text().contains("belongs to node n7"));
}

#[test]
fn a_pods_file_that_cannot_be_read_costs_no_pod_and_no_address() {
    if !is_root() {
        return;
    }
    for wiring in ["routed", "bridge"] {
        let mut world = World::start(Plan { wiring, families: Families::Dual, ..Plan::default() });
        let (a, b) = (world.pod("a"), world.pod("b"));
        world.settle();
        world.kill_agent();
        let leases = world.run_dir().join("leases");
        let file = leases.join(format!("{}.eth0.json", a.container));
        assert!(file.exists());
        std::fs::write(&file, [0xff, 0x00, b'{']).unwrap();
        std::fs::write(leases.join("nobodys.eth0.json"), "{\"half\":").unwrap();
        std::fs::write(leases.join("README"), "not a lease").unwrap();
        std::fs::write(leases.join(".half.eth0.json~"), "{\"half\":").unwrap();
        world.start_agent();
        world.wait_ready();
        let log = world.agent().log_text();
        assert!(log.contains(&format!("{}.eth0", a.container)) && log.contains("nobodys.eth0"), "{log}");
        assert!(!leases.join(".half.eth0.json~").exists(), "what a killed agent left unfinished is removed");
        let echo = Echo::start(&a.ns, &a.at(7000));
        assert_eq!(ask(&b.ns, None, echo.at), Some(b.ip()), "{wiring}: the pod goes on");
        // Whoever comes next gets other addresses.
        let runtime = json!({"ips": [a.ip()]});
        let ns = Ns::new();
        let (code, text) = world.call("ADD", "thief", &ns.path).with("runtimeConfig", runtime).refused();
        assert_eq!(code, 105, "{text}");
        world.settle();
        assert!(!leases.join("nobodys.eth0.json").exists());
        // DEL takes it away as ever.
        world.del(&a);
        assert!(!a.ns.has_link("eth0") && !file.exists());
        world.check(&b).done();
        world.settle();
    }
}

#[test]
fn an_agent_that_cannot_start_says_why() {
    if !is_root() {
        return;
    }
    let world = World::start(Plan::default());
    let log = |name: &str| world.dir.path().join(name);
    // A second one on the node.
    let mut second = Agent::start(&world.node, &world.config(), &log("second"), &How::default());
    assert!(!second.ended().success());
    let pid = world.agent().pid();
    assert!(second.log_text().contains(&format!("another agent (process {pid})")), "{}", second.log_text());
    world.wait_ready();
    // A folder that cannot be made.
    std::fs::write(world.dir.path().join("file"), "").unwrap();
    let config = std::fs::read_to_string(world.config()).unwrap();
    let dir = world.dir.path().display().to_string();
    let broken = |name: &str, text: String| {
        let path = log(name);
        std::fs::write(&path, text).unwrap();
        let mut agent = Agent::start(&world.node, &path, &log(&format!("{name}.log")), &How::default());
        assert!(!agent.ended().success());
        agent.log_text()
    };
    let text = broken("run.yaml", config.replace(&format!("runDir: {dir}/run"), &format!("runDir: {dir}/file/run")));
    assert!(text.contains("runDir") && text.contains("/file/run"), "{text}");
    let text =
        broken("state.yaml", config.replace(&format!("stateDir: {dir}/state"), &format!("stateDir: {dir}/file/s")));
    assert!(text.contains("stateDir") && text.contains("/file/s"), "{text}");
    let text = broken("nonsense.yaml", "wirring: routed\nnode: [1]\n".into());
    assert!(text.contains("wirring") && text.contains("node"), "{text}");
    let missing = log("missing.yaml");
    let mut agent = Agent::start(&world.node, &missing, &log("missing.log"), &How::default());
    assert!(!agent.ended().success());
    assert!(agent.log_text().contains("missing.yaml"), "{}", agent.log_text());
    world.wait_ready();
}

#[test]
fn without_root() {
    if !is_root() {
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    let world = World::make(Plan::default());
    std::fs::set_permissions(world.dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let log = world.dir.path().join("log");
    let nobody = How { user: Some(65_534), ..How::default() };
    let reachable = std::env::current_exe()
        .unwrap()
        .ancestors()
        .skip(1)
        .all(|dir| std::fs::metadata(dir).is_ok_and(|found| found.permissions().mode() & 0o1 != 0));
    if !reachable {
        println!("SKIPPED: nobody cannot reach this program");
        return;
    }
    let mut agent = Agent::start(&world.node, &world.config(), &log, &nobody);
    assert!(!agent.ended().success());
    let text = agent.log_text();
    assert!(text.contains("run it as root"), "{text}");
    assert!(!world.run_dir().exists());
}

#[test]
fn the_store_file_is_anothers_or_no_store() {
    if !is_root() {
        return;
    }
    let mut world = World::make(Plan::default());
    std::fs::write(world.dir.path().join("store.redb"), "this is not a store").unwrap();
    world.start_agent();
    world.wait_up();
    let reason = || world.get("/v1/status")["store"].as_str().unwrap().to_owned();
    assert!(soon(|| reason().contains("store.redb")), "{}", reason());
    assert_eq!(std::fs::read_to_string(world.dir.path().join("store.redb")).unwrap(), "this is not a store");
    // Put right, it is used without a restart.
    std::fs::remove_file(world.dir.path().join("store.redb")).unwrap();
    world.wait_ready();
}

#[test]
fn another_machine_with_the_nodes_name_is_refused() {
    if !is_root() {
        return;
    }
    let mut world = World::make(Plan { store: StoreAt::Here, ..Plan::default() });
    let mut other = world.peer().record();
    other["name"] = json!("n1");
    other["identity"] = json!({"machineId": "another", "bootId": "another"});
    let store = world.store.as_ref().unwrap();
    store.put(ripstop_store::Kind::Nodes, "n1", &other);
    world.start_agent();
    world.wait_up();
    let reasons = || world.get("/v1/status")["reasons"].to_string();
    assert!(soon(|| reasons().contains("another machine")), "{}", reasons());
    let store = world.store.as_ref().unwrap();
    assert_eq!(store.get(ripstop_store::Kind::Nodes, "n1"), Some(other), "the record stays the other's");
    assert_eq!(store.get(ripstop_store::Kind::Alive, "n1"), None, "and no sign of life is given in its name");
    store.delete(ripstop_store::Kind::Nodes, "n1");
    world.wait_ready();
    let store = world.store.as_ref().unwrap();
    assert!(soon(|| store.get(ripstop_store::Kind::Alive, "n1").is_some()));
}

#[test]
fn what_went_in_a_pod_while_no_agent_ran_comes_back() {
    if !is_root() {
        return;
    }
    for wiring in ["routed", "bridge"] {
        let plan = Plan { wiring, families: Families::Dual, store: StoreAt::Here, ..Plan::default() };
        let mut world = World::start(plan);
        let (pod, other) = (world.pod("web"), world.pod("other"));
        world.settle();
        let inside = || ["-4 route", "-6 route", "-o link"].map(|what| pod.ns.ip(what)).concat();
        let before = inside();
        world.kill_agent();
        // As a process killed in the middle of a change leaves it: one route shorter, another missing.
        let routes = pod.ns.ip("-4 route show default");
        pod.ns.ip(&format!("route change {} mtu 1300", routes.trim()));
        pod.ns.ip("-6 route del default");
        pod.ns.ip("link set eth0 mtu 1320");
        assert_ne!(inside(), before, "{wiring}");
        world.start_agent();
        world.wait_ready();
        assert!(soon(|| inside() == before), "{wiring}: {}\nis not\n{before}", inside());
        world.check(&pod).done();
        world.check(&other).done();
    }
}
