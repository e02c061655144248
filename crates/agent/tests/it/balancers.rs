//! Addresses of pools for Services of type LoadBalancer in Kubernetes: given, kept without another write, told of where there is none,
//! and given back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use ripstop_kernel::Netns;
use rustix::process::Signal;
use serde_json::Value;

use crate::kubernetes::{asks_only_what_is_allowed, become_user, is_possible, setup};
use crate::node_life::{event, is_over, says};
use crate::server::{AGENT, ApiServer, OPERATOR};
use crate::support::soon;
use crate::support::world::{Plan, StoreAt, World};

pub fn pool(name: &str, addresses: &str) -> String {
    format!(
        "---\n{{apiVersion: ripstop.io/v1alpha1, kind: AddressPool, metadata: {{name: {name}}}, spec: {{addresses: [{addresses}]}}}}\n"
    )
}

pub fn service(name: &str, more: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: default}}, spec: {{type: LoadBalancer, ports: [{{port: 80}}]{more}}}}}\n"
    )
}

/// What is shown by a Service.
pub fn shown(server: &ApiServer, name: &str) -> String {
    let path = "jsonpath={.status.loadBalancer.ingress[*]['ip','ipMode']}";
    server.kubectl(&["get", "service", name, "-o", path])
}

#[track_caller]
pub fn expect(server: &ApiServer, world: &World, name: &str, ip: &str) {
    let wanted = if ip.is_empty() { String::new() } else { format!("{ip} VIP") };
    let came = soon(|| shown(server, name) == wanted);
    assert!(came, "{name}: {} and not {wanted}\n{}", shown(server, name), world.agent().log_text());
}

/// The names of all claims, in order.
pub fn claims(server: &ApiServer) -> Vec<String> {
    let names = server.kubectl(&["get", "addressclaims", "-o", "jsonpath={.items[*].metadata.name}"]);
    names.split_whitespace().map(str::to_owned).collect()
}

/// How often the agent has written what is about addresses of Services, by the audit log.
pub fn writes(server: &ApiServer) -> BTreeMap<String, usize> {
    let log = std::fs::read_to_string(server.file("audit.log")).unwrap();
    let mut counts = BTreeMap::new();
    for event in log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let (verb, resource) = (event["verb"].as_str().unwrap(), event["objectRef"]["resource"].as_str());
        let writes = !["get", "list", "watch"].contains(&verb);
        if let Some(resource) = resource.filter(|name| ["services", "addressclaims"].contains(name))
            && writes
            && event["user"]["username"] == AGENT
        {
            *counts.entry(format!("{verb} {resource}")).or_default() += 1;
        }
    }
    counts
}

#[test]
fn services_of_kubernetes_get_addresses_of_pools() {
    if !is_possible("addresses of pools in Kubernetes") {
        return;
    }
    let config = vec!["services: {proxy: nftables, serviceCIDRs: [10.96.0.0/16]}".into()];
    let mut world = World::make(Plan { store: StoreAt::Kubernetes, config, ..Plan::default() });
    let server = ApiServer::start(setup(&world));
    become_user(&world, &server, AGENT);
    server.apply(&[service("z", ""), service("other", ", loadBalancerClass: other.io/lb")].concat());
    server.apply(&pool("public", "198.51.100.0/31"));
    world.start_agent();
    world.wait_ready();
    expect(&server, &world, "z", "198.51.100.0");
    server.apply(&service("d", ", loadBalancerClass: ripstop.io/addresspool"));
    expect(&server, &world, "d", "198.51.100.1");
    assert_eq!(claims(&server), ["198.51.100.0", "198.51.100.1"]);
    let two = BTreeMap::from([("create addressclaims".to_owned(), 2), ("patch services".to_owned(), 2)]);
    assert_eq!(writes(&server), two);

    // What is full is told, and nothing more is written for the others, not even by an agent that starts anew.
    server.apply(&service("c", ""));
    let full = event(&server, ["Service", "c", "AddressPoolFull"], |_| true);
    assert!(says(&full, &["no IPv4 address is free in the address pools that serve it: public"]), "{full:#}");
    let condition = |name: &str, field: &str| {
        let path = format!("jsonpath={{.status.conditions[?(@.type=='ripstop.io/AddressAssigned')].{field}}}");
        server.kubectl(&["get", "service", name, "-o", &path])
    };
    assert_eq!(condition("z", "status"), "True");
    assert_eq!(condition("z", "message"), "198.51.100.0 of the address pool public");
    assert!(soon(|| condition("c", "reason") == "AddressPoolFull"));
    assert_eq!(condition("c", "status"), "False");
    let other = r#"{"status": {"conditions": [{"type": "example.org/Other", "status": "True", "reason": "R", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}"#;
    server.kubectl(&["patch", "service", "c", "--subresource", "status", "-p", other]);
    let two = BTreeMap::from([("create addressclaims".to_owned(), 2), ("patch services".to_owned(), 3)]);
    world.restart();
    assert!(soon(|| world.rows("/v1/addresspools").len() == 1));
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!((writes(&server), shown(&server, "other")), (two, String::new()));

    // What is given back another gets, also one that is asked before who gives it back.
    server.kubectl(&["delete", "service", "z"]);
    expect(&server, &world, "c", "198.51.100.0");
    server.apply(&service("e", ", loadBalancerIP: 198.51.100.1"));
    let taken = event(&server, ["Service", "e", "AddressTaken"], |_| true);
    assert!(says(&taken, &["it asks for 198.51.100.1, which service default/d has"]), "{taken:#}");
    server.apply(&service("e", ", loadBalancerIP: 203.0.113.9"));
    event(&server, ["Service", "e", "AddressNotInPool"], |_| true);
    event(&server, ["Service", "e", "AddressTaken"], is_over);
    server.apply(&pool("more", "10.96.7.0/24"));
    let overlap = event(&server, ["AddressPool", "more", "AddressPoolOverlaps"], |_| true);
    assert!(says(&overlap, &["10.96.7.0/24 shares addresses with 10.96.0.0/16"]), "{overlap:#}");

    // What is said of it changes with it, and what others say stays.
    assert_eq!(condition("c", "status"), "True");
    assert_eq!(condition("e", "reason"), "AddressNotInPool");
    let of_others = server.kubectl(&["get", "service", "c", "-o", "jsonpath={.status.conditions[*].type}"]);
    assert!(of_others.contains("example.org/Other"), "{of_others}");

    // One that is no LoadBalancer any more gives its address back.
    server.kubectl(&["patch", "service", "d", "-p", r#"{"spec": {"type": "ClusterIP", "loadBalancerClass": null}}"#]);
    assert!(soon(|| claims(&server) == ["198.51.100.0"]), "{:?}", claims(&server));
    assert_eq!((shown(&server, "d"), condition("d", "status")), (String::new(), String::new()));
    asks_only_what_is_allowed(&server);
}

#[test]
fn beside_another_proxy_services_are_read_once_there_is_a_pool() {
    if !is_possible("addresses of pools beside another proxy") {
        return;
    }
    let mut world = World::make(Plan { store: StoreAt::Kubernetes, ..Plan::default() });
    let server = ApiServer::start(setup(&world));
    become_user(&world, &server, AGENT);
    server.apply(&service("a", ""));
    world.start_agent();
    world.wait_ready();
    let asked = || {
        let log = std::fs::read_to_string(server.file("audit.log")).unwrap();
        let events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let own = events.filter(|event| event["user"]["username"] == AGENT);
        own.filter(|event| event["objectRef"]["resource"] == "services").count()
    };
    assert_eq!(asked(), 0, "without a pool Services are nothing to it");
    server.apply(&pool("public", "198.51.100.0/31"));
    expect(&server, &world, "a", "198.51.100.0");
    server.kubectl(&["delete", "service", "a"]);
    assert!(soon(|| claims(&server).is_empty()), "{:?}", claims(&server));
    asks_only_what_is_allowed(&server);
}

#[test]
fn an_agent_that_died_between_claim_and_status_leaves_no_address_to_two_and_none_to_nobody() {
    if !is_possible("claims of agents that died") {
        return;
    }
    let config = vec!["services: {proxy: nftables}".into()];
    let mut world = World::make(Plan { store: StoreAt::Kubernetes, config, ..Plan::default() });
    let server = ApiServer::start(setup(&world));
    become_user(&world, &server, AGENT);
    server.apply(&[pool("public", "198.51.100.0/28"), service("a", ""), service("b", "")].concat());
    let claim = |ip: &str, service: &str, revision: &str| {
        let holder = format!("{{service: default/{service}, revision: {revision}, ports: [[TCP, 80]]}}");
        format!(
            "---\n{{apiVersion: ripstop.io/v1alpha1, kind: AddressClaim, metadata: {{name: {ip}}}, spec: {{holders: [{holder}]}}}}\n"
        )
    };
    let revision = server.kubectl(&["get", "service", "b", "-o", "jsonpath={.metadata.resourceVersion}"]);
    server.apply(&[claim("198.51.100.0", "b", &revision), claim("198.51.100.7", "gone", "1")].concat());
    world.start_agent();
    world.wait_ready();
    expect(&server, &world, "b", "198.51.100.0");
    expect(&server, &world, "a", "198.51.100.1");
    assert!(soon(|| claims(&server) == ["198.51.100.0", "198.51.100.1"]), "{:?}", claims(&server));
    // The claim was there, so all that was lacking is the status.
    assert_eq!(writes(&server).get("create addressclaims"), Some(&1), "{:?}", writes(&server));
}

/// Has the node of a world reach, at the same address, an API server that is at the router of another.
fn relay(server: &ApiServer, world: &World, place: &World) {
    let (at, there) = (server.address(), place.router.path.clone());
    let listener = world.router.inside(|| TcpListener::bind(at)).unwrap();
    std::thread::spawn(move || {
        for near in listener.incoming().map_while(Result::ok) {
            // Where it has ended nobody is reached.
            let far = Netns::open(&there).and_then(|there| there.run(|| TcpStream::connect(at)));
            let Ok(Ok(far)) = far else { continue };
            let ways = [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)];
            for (mut from, mut to) in ways {
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Both);
                });
            }
        }
    });
}

/// All that became of Services since a revision, in order: no moment at which two showed one address. How often one was given.
#[track_caller]
fn never_twice(server: &ApiServer, since: &str) -> usize {
    let path = format!("/api/v1/services?watch=1&timeoutSeconds=2&resourceVersion={since}");
    let events = server.kubectl(&["get", "--raw", &path]);
    let (mut shown, mut given) = (BTreeMap::<String, BTreeSet<String>>::new(), 0);
    for event in serde_json::Deserializer::from_str(&events).into_iter::<Value>().map(Result::unwrap) {
        let (kind, object) = (event["type"].as_str().unwrap(), &event["object"]);
        assert!(["ADDED", "MODIFIED", "DELETED"].contains(&kind), "{event:#}");
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let rows = object["status"]["loadBalancer"]["ingress"].as_array().cloned().unwrap_or_default();
        let ips: BTreeSet<String> = rows.iter().map(|row| row["ip"].as_str().unwrap().to_owned()).collect();
        let others = shown
            .iter()
            .filter(|(other, _)| **other != name)
            .flat_map(|(other, ips)| ips.iter().map(move |ip| (ip, other)));
        if kind != "DELETED" {
            for (ip, other) in others {
                assert!(!ips.contains(ip), "{ip} is shown by {name} and by {other}");
            }
        }
        let before = match kind {
            "DELETED" => shown.remove(&name),
            _ => shown.insert(name, ips.clone()),
        };
        given += ips.difference(&before.unwrap_or_default()).count();
    }
    given
}

/// What every Service shows.
fn shown_by_all(server: &ApiServer) -> BTreeMap<String, String> {
    let path = "jsonpath={range .items[*]}{.metadata.name}={.status.loadBalancer.ingress[*].ip}{\"\\n\"}{end}";
    let text = server.kubectl(&["get", "services", "-o", path]);
    let rows = text.lines().filter_map(|line| line.split_once('='));
    rows.map(|(name, ip)| (name.to_owned(), ip.to_owned())).collect()
}

/// The revision of all Services as they are now.
fn revision(server: &ApiServer) -> String {
    let list = server.kubectl(&["get", "--raw", "/api/v1/services?limit=1"]);
    let list: Value = serde_json::from_str(&list).unwrap();
    list["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
}

/// Users that have written a Service's status.
fn writers(server: &ApiServer) -> BTreeSet<String> {
    let log = std::fs::read_to_string(server.file("audit.log")).unwrap();
    let events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let of = |event: &Value| {
        let object = &event["objectRef"];
        object["resource"] == "services" && object["subresource"] == "status" && event["responseStatus"]["code"] == 200
    };
    events.filter(of).map(|event| event["user"]["username"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn two_agents_that_both_see_to_all_give_no_address_twice_and_lose_none() {
    if !is_possible("two agents that give addresses") {
        return;
    }
    let config = vec!["services: {proxy: nftables}".to_owned()];
    let plan = |number| Plan { number, store: StoreAt::Kubernetes, config: config.clone(), ..Plan::default() };
    let (mut first, mut second) = (World::make(plan(1)), World::make(plan(2)));
    let server = ApiServer::start(setup(&first));
    // Who wrote is told apart by the user.
    become_user(&first, &server, AGENT);
    become_user(&second, &server, OPERATOR);
    relay(&server, &second, &first);
    server.apply(&pool("public", "198.51.100.0/27"));
    for world in [&mut first, &mut second] {
        world.start_agent();
        world.wait_ready();
    }
    let since = revision(&server);
    let mut names: Vec<String> = Vec::new();
    let more = |names: &mut Vec<String>, round: u64, what: &str, count: usize| {
        let new: Vec<String> = (0..count).map(|n| format!("{what}{round}-{n}")).collect();
        server.apply(&new.iter().map(|name| service(name, "")).collect::<String>());
        names.extend(new);
    };
    for round in 0..6 {
        // The first one is stopped while it gives some, or killed.
        more(&mut names, round, "a", 6);
        std::thread::sleep(Duration::from_millis(15 * round));
        let is_killed = round % 2 == 1;
        if is_killed {
            first.kill_agent();
        } else {
            first.agent().signal(Signal::STOP);
        }
        let last = names.last().unwrap().clone();
        assert!(soon(|| !shown(&server, &last).is_empty()), "the other one takes over");
        // Addresses become free, others are wanted, and the first one goes on with what it knew.
        let gone: Vec<String> = names.drain(..4).collect();
        let delete = ["delete", "service", "--wait=false"].into_iter().chain(gone.iter().map(String::as_str));
        server.kubectl(&delete.collect::<Vec<_>>());
        if is_killed {
            first.start_agent();
        } else {
            first.agent().signal(Signal::CONT);
        }
        more(&mut names, round, "b", 2);
        let all = || shown_by_all(&server);
        let have = soon(|| names.iter().all(|name| all().get(name).is_some_and(|ip| !ip.is_empty())));
        assert!(have, "round {round}: {:#?}\n{}", all(), second.agent().log_text());
        let shown: BTreeSet<String> = all().into_values().filter(|ip| !ip.is_empty()).collect();
        let claimed = || claims(&server).into_iter().collect::<BTreeSet<_>>();
        assert!(soon(|| claimed() == shown), "round {round}: claimed {:?}, shown {shown:?}", claimed());
        assert_eq!(shown.len(), names.len());
    }
    let given = never_twice(&server, &since);
    assert!(given >= 6 * 8, "{given} were given");
    assert_eq!(writers(&server), BTreeSet::from([AGENT.to_owned(), OPERATOR.to_owned()]), "both gave some");
}
