//! Addresses of pools for Services of type LoadBalancer in Kubernetes: given, kept without another write, told of where there is none,
//! and given back.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::kubernetes::{asks_only_what_is_allowed, become_user, is_possible, setup};
use crate::node_life::{event, is_over, says};
use crate::server::{AGENT, ApiServer};
use crate::support::soon;
use crate::support::world::{Plan, StoreAt, World};

fn pool(name: &str, addresses: &str) -> String {
    format!(
        "---\n{{apiVersion: ripstop.io/v1alpha1, kind: AddressPool, metadata: {{name: {name}}}, spec: {{addresses: [{addresses}]}}}}\n"
    )
}

fn service(name: &str, more: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: default}}, spec: {{type: LoadBalancer, ports: [{{port: 80}}]{more}}}}}\n"
    )
}

/// What is shown by a Service.
fn shown(server: &ApiServer, name: &str) -> String {
    let path = "jsonpath={.status.loadBalancer.ingress[*]['ip','ipMode']}";
    server.kubectl(&["get", "service", name, "-o", path])
}

#[track_caller]
fn expect(server: &ApiServer, world: &World, name: &str, ip: &str) {
    let wanted = if ip.is_empty() { String::new() } else { format!("{ip} VIP") };
    let came = soon(|| shown(server, name) == wanted);
    assert!(came, "{name}: {} and not {wanted}\n{}", shown(server, name), world.agent().log_text());
}

/// The names of all claims, in order.
fn claims(server: &ApiServer) -> Vec<String> {
    let names = server.kubectl(&["get", "addressclaims", "-o", "jsonpath={.items[*].metadata.name}"]);
    names.split_whitespace().map(str::to_owned).collect()
}

/// How often the agent has written what is about addresses of Services, by the audit log.
fn writes(server: &ApiServer) -> BTreeMap<String, usize> {
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

    // One that is no LoadBalancer any more gives its address back.
    server.kubectl(&["patch", "service", "d", "-p", r#"{"spec": {"type": "ClusterIP", "loadBalancerClass": null}}"#]);
    assert!(soon(|| claims(&server) == ["198.51.100.0"]), "{:?}", claims(&server));
    assert_eq!(shown(&server, "d"), "");
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
