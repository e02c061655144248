//! Taking everything of ours out of the kernel: by the agent, and where none runs.

use ripstop_agent::{Withdrawn, take_out};
use ripstop_store::Kind;
use serde_json::json;

use crate::support::ns::is_root;
use crate::support::soon;
use crate::support::world::{Families, Plan, StoreAt, World};

/// Things of others that look a little like ours.
fn foreign(world: &World) {
    world.node.ips(
        "link add ripe type veth peer name ripe1\nlink add br9 type bridge\naddr add 10.9.9.1/24 dev br9\nlink set br9 up\n\
         route add 10.77.0.0/16 via 172.30.1.1\nroute add 10.78.0.0/16 via 172.30.1.1 proto 81\n\
         nexthop add id 77 via 172.30.1.1 dev eth0\nneigh add 172.30.1.99 lladdr 02:00:00:00:00:99 dev eth0\n",
    );
    world.node.run("nft", &["table inet other { chain c { type filter hook input priority 0; }; }"]);
    world.node.run("iptables", &["-P", "FORWARD", "DROP"]);
    world.node.run("iptables", &["-A", "FORWARD", "-i", "br9", "-j", "ACCEPT"]);
}

/// Everything in the node's namespace that may be ours or not; learned neighbours and what counts are left out.
fn state(world: &World) -> Vec<String> {
    let mut state = Vec::new();
    for line in ["-o link", "-o address", "-4 route show table all", "-6 route show table all", "nexthop", "rule"] {
        state.extend(world.node.ip(line).lines().map(|text| format!("{line}: {text}")));
    }
    let permanent = world.node.ip("neigh show nud permanent");
    state.extend(permanent.lines().map(str::to_owned));
    state.extend(world.node.run("nft", &["-s", "list", "ruleset"]).lines().map(str::to_owned));
    state.extend(world.node.run("iptables", &["-S"]).lines().map(str::to_owned));
    // Routes that the kernel makes come in any order, and the uplink's other end has a number.
    let settled = |line: &String| !line.contains("eth0@") && !line.contains("qlen") && !line.contains("state");
    // Forwarding stays on, and with it the routers' anycast addresses (RFC 4291, section 2.6.1).
    state.retain(|line| settled(line) && !line.contains(": anycast "));
    state.sort();
    state
}

fn plan(wiring: &'static str) -> Plan {
    Plan { wiring, backend: "vxlan", families: Families::Dual, store: StoreAt::Here, ..Plan::default() }
}

fn started(wiring: &'static str) -> (World, Vec<String>) {
    let mut world = World::make(plan(wiring));
    foreign(&world);
    // Duplicate address detection and multicast settle.
    std::thread::sleep(std::time::Duration::from_millis(200));
    let before = state(&world);
    world.start_agent();
    world.wait_ready();
    world.add_peer();
    world.settle();
    (world, before)
}

fn assert_same(world: &World, before: &[String], what: &str) {
    let mut after = state(world);
    soon(|| {
        after = state(world);
        after == before
    });
    let only = |a: &[String], b: &[String]| a.iter().filter(|line| !b.contains(line)).cloned().collect::<Vec<_>>();
    assert_eq!((only(&after, before), only(before, &after)), (vec![], vec![]), "{what}: left over, and missing");
}

#[test]
fn the_agent_takes_everything_out_and_nothing_of_others() {
    if !is_root() {
        return;
    }
    let (mut world, before) = started("routed");
    let pods = [world.pod("a"), world.pod("b")];
    assert_ne!(state(&world), before);
    assert!(world.node.run("iptables", &["-S"]).contains("RIPSTOP-FORWARD"));
    let purge = |world: &World, body: &str| world.ask("POST", "/v1/purge", body).unwrap();
    assert_eq!(purge(&world, "{\"all\": 1}").status, 400);
    let answer = purge(&world, "");
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_same(&world, &before, "purged");
    assert!(pods.iter().all(|pod| !pod.ns.has_link("eth0")));
    assert_eq!(std::fs::read_dir(world.run_dir().join("leases")).unwrap().count(), 0);
    assert!(!world.dir.path().join("state/snapshot.json").exists());
    // Its ranges and its name are still its own; it takes no pod, and says why.
    let store = world.store.as_ref().unwrap();
    assert_eq!(store.list(Kind::Claims).iter().filter(|(_, claim, _)| claim["node"] == "n1").count(), 2);
    let (code, text) = world.call("ADD", "late", &pods[0].ns.path).timeout(1500).refused();
    assert!(code == 11 && text.contains("taken out of the kernel"), "{code} {text}");
    assert!(world.get("/v1/status")["reasons"].to_string().contains("taken out of the kernel"));
    assert_eq!(world.get("/v1/plan"), json!([]));
    // A second run, and DELs of a runtime that comes late, are fine; nothing comes back by itself.
    assert_eq!(purge(&world, "").status, 200);
    world.del(&pods[0]);
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert_same(&world, &before, "a while later");
    assert!(!world.dir.path().join("state/snapshot.json").exists());
    // Another start sets it up again, with the same ranges.
    world.restart();
    world.settle();
    assert!(world.pod("c").ip().starts_with("10.244."));
    assert_eq!(world.store.as_ref().unwrap().list(Kind::Claims).len(), 4);
}

#[test]
fn asked_for_it_gives_its_ranges_and_its_name_back() {
    if !is_root() {
        return;
    }
    let (world, before) = started("bridge");
    let _pod = world.pod("a");
    let answer = world.ask("POST", "/v1/purge", "{\"release\": true}").unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_same(&world, &before, "purged");
    let store = world.store.as_ref().unwrap();
    assert!(store.list(Kind::Claims).iter().all(|(_, claim, _)| claim["node"] == "n2"));
    assert_eq!(store.get(Kind::Nodes, "n1"), None);
    assert_eq!(store.get(Kind::Alive, "n1"), None);
    assert!(store.get(Kind::Networks, "default").is_some() && store.get(Kind::Nodes, "n2").is_some());
    // It stays so: no sign of life, no record, no claim.
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert_eq!(store.get(Kind::Alive, "n1"), None);
    assert_eq!(store.list(Kind::Claims).len(), 2);
    assert_eq!(world.ask("POST", "/v1/purge", "{\"release\": true}").unwrap().status, 200);
}

#[test]
fn without_the_store_ranges_cannot_be_given_back() {
    if !is_root() {
        return;
    }
    let (mut world, before) = started("routed");
    world.store.as_mut().unwrap().close();
    assert!(soon(|| world.get("/v1/status")["store"].to_string().contains("away")));
    let routes = world.node.ip("route");
    let answer = world.ask("POST", "/v1/purge", "{\"release\": true}").unwrap();
    assert!(answer.status == 409 && answer.body.contains("cannot be given back: the store is away"), "{}", answer.body);
    assert_eq!(world.node.ip("route"), routes, "nothing is half done");
    assert_eq!(world.ask("POST", "/v1/purge", "").unwrap().status, 200);
    assert_same(&world, &before, "purged");
}

/// An agent that is gone leaves everything; what takes it out then is the same code.
#[test]
fn where_no_agent_runs_it_is_done_without_one() {
    if !is_root() {
        return;
    }
    let (mut world, before) = started("routed");
    let pod = world.pod("a");
    let config = world.config();
    let out = |world: &World, what| world.node.inside(|| take_out(&config, what).map_err(|error| format!("{error:#}")));
    let refused = out(&world, Withdrawn::Everything).unwrap_err();
    assert!(refused.contains("another agent (process ") && refused.contains("agent.lock"), "{refused}");
    world.kill_agent();
    let only_jump = |world: &World| {
        let lines = world.node.run("iptables", &["-S"]);
        let ours = lines.lines().filter(|line| line.contains("RIPSTOP")).count();
        (ours, world.node.has_link("rip0"))
    };
    assert_eq!(only_jump(&world), (4, true));
    out(&world, Withdrawn::Jumps).unwrap();
    assert_eq!(only_jump(&world), (0, true));
    for _ in 0..2 {
        out(&world, Withdrawn::Everything).unwrap();
        assert_same(&world, &before, "taken out");
        assert!(!pod.ns.has_link("eth0"));
        assert!(!world.dir.path().join("state/snapshot.json").exists());
        assert_eq!(std::fs::read_dir(world.run_dir().join("leases")).unwrap().count(), 0);
    }
    // A start afterwards finds nothing and needs nothing.
    world.start_agent();
    world.wait_ready();
    world.settle();
}

/// Without --purge only what stands in tables of others goes, and does not come back.
#[test]
fn the_jump_goes_alone() {
    if !is_root() {
        return;
    }
    let (world, _) = started("routed");
    let _pod = world.pod("a");
    let jumps = |world: &World| world.node.run("iptables", &["-S"]).matches("RIPSTOP").count();
    assert!(jumps(&world) > 0);
    assert_eq!(world.ask("POST", "/v1/purge", "{\"onlyJumps\": true}").unwrap().status, 200);
    assert_eq!(jumps(&world), 0);
    assert!(world.node.has_link("rip0"));
    world.node.run("iptables", &["-A", "FORWARD", "-i", "br8", "-j", "ACCEPT"]);
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(jumps(&world), 0);
    assert!(world.get("/v1/status")["warnings"].to_string().contains("was taken out"));
    assert_eq!(world.get("/v1/status")["ready"], true);
}
