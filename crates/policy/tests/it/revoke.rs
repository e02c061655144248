//! Connections that are over when something has changed: all of those that the oracle would not begin again, and no others.

use std::net::IpAddr;
use std::time::Instant;

use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestCaseResult};
use ripstop_conformance::policy::{Change, Scenario, node_of, scenarios};
use ripstop_oracle::policy::{Packet, State, Traffic, World, judge};
use ripstop_policy::Policies;
use ripstop_policy::revoke::{Affected, Tracked};
use ripstop_types::NodeName;
use serde_json::json;

use super::explain::{network, pod, shop};
use super::random::follow;

/// The connection that a packet would begin. What comes by a Service was sent to an address of its own.
fn tracked(packet: &Packet) -> Option<Tracked> {
    let (protocol, port) = match packet.traffic {
        Traffic::Port(protocol, port) => (protocol.number(), port),
        Traffic::Other(number) => (number, 0),
        Traffic::Discovery => return None,
    };
    let Packet { source, destination, .. } = *packet;
    let service: IpAddr =
        if destination.is_ipv4() { [203, 0, 113, 1].into() } else { "2001:db8:9::1".parse().unwrap() };
    let sent_to = if packet.by_service { service } else { destination };
    Some(Tracked { protocol, source, sent_to, destination, port })
}

/// Each node ends what it has to, and what it ends is over: the connection would not begin any more.
fn run(scenario: &Scenario) -> TestCaseResult {
    let node = |name: &str| -> NodeName { name.parse().unwrap() };
    let mut nodes: Vec<(NodeName, Policies)> =
        ["n1", "n2"].map(|name| (node(name), Policies::new(Some(node(name))))).into();
    let mut world = World::default();
    let (mut alive, mut tried): (Vec<Packet>, Vec<Packet>) = (Vec::new(), Vec::new());
    let packets = scenario.steps.iter().flat_map(|step| step.packets.iter().copied());
    tried.extend(packets.filter(|packet| packet.state == State::New && tracked(packet).is_some()));
    let start = Change::all_of(&scenario.world);
    for changes in [start].into_iter().chain(scenario.steps.iter().map(|step| step.changes.clone())) {
        changes.iter().for_each(|change| change.apply(&mut world));
        let flows: Vec<Tracked> = alive.iter().filter_map(tracked).collect();
        let mut over = vec![false; flows.len()];
        for (name, policies) in &mut nodes {
            changes.iter().for_each(|change| follow(policies, change));
            let changes = policies.decide();
            let affected = Affected::by(policies, &changes);
            for place in policies.revoked(&affected, &flows, |_| false) {
                let by = [flows[place].source, flows[place].destination].map(node_of);
                over[place] |= by.contains(&Some(name.clone()));
            }
        }
        for (packet, over) in alive.iter().zip(over) {
            let judged = judge(&world, packet);
            if over == judged.is_accepted() {
                return Err(TestCaseError::fail(format!("{scenario}{packet:?}: {judged:?}, and ended: {over}")));
            }
        }
        alive = tried.iter().copied().filter(|packet| judge(&world, packet).is_accepted()).collect();
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn what_is_no_longer_permitted_is_over(scenario in scenarios()) {
        run(&scenario)?;
    }
}

fn connection(source: &str, sent_to: &str, destination: &str, port: u16) -> Tracked {
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    Tracked { protocol: 6, source: ip(source), sent_to: ip(sent_to), destination: ip(destination), port }
}

#[test]
fn a_service_is_seen_through() {
    let mut policies = shop();
    let flows = [
        connection("10.0.0.2", "10.96.0.1", "10.0.0.3", 5_432),
        connection("10.0.0.2", "10.0.0.3", "10.0.0.3", 5_432),
        connection("10.0.0.2", "198.51.100.1", "198.51.100.1", 443),
    ];
    assert!(flows.iter().all(|flow| !policies.denies(flow, |_| false)));
    policies.remove_policy(&ripstop_types::NamespacedName { namespace: "shop".into(), name: "db".into() });
    let changes = policies.decide();
    let affected = Affected::by(&policies, &changes);
    assert_eq!(policies.revoked(&affected, &flows, |_| false), [0, 1]);
    // An agent that starts does not know what has changed.
    assert_eq!(policies.revoked(&Affected::all(&policies), &flows, |_| false), [0, 1]);
}

/// Nobody is asked about what a node begins, from whatever address of its own, nor NetworkPolicies about what comes to it.
#[test]
fn connections_of_the_node_itself_go_on() {
    let mut policies = shop();
    let db = json!({"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Ingress", "Egress"]});
    network(&mut policies, "db", &db);
    policies.decide();
    let affected = Affected::all(&policies);
    let flows = [
        connection("10.244.1.1", "10.0.0.3", "10.0.0.3", 5_432),
        connection("10.0.0.3", "10.244.1.1", "10.244.1.1", 53),
        connection("10.0.0.3", "10.96.0.1", "10.244.1.1", 53),
    ];
    let own: IpAddr = [10, 244, 1, 1].into();
    assert_eq!(policies.revoked(&affected, &flows, |_| false), [0, 1, 2]);
    assert_eq!(policies.revoked(&affected, &flows, |ip| ip == own), [0_usize; 0]);
}

/// Prints what one changed policy costs among many connections, which nobody else's are looked at for.
#[test]
fn figures() {
    let mut policies = shop();
    for place in 0..10_000 {
        let peer = json!([{"from": [{"podSelector": {"matchLabels": {"app": format!("client-{place}")}}}]}]);
        network(
            &mut policies,
            &format!("p{place}"),
            &json!({"podSelector": {"matchLabels": {"app": "db"}}, "ingress": peer}),
        );
    }
    for place in 0..1_000_u16 {
        let ip = format!("10.1.{}.{}", place / 250, place % 250);
        pod(&mut policies, "shop", &format!("c{place}"), json!({"app": format!("client-{place}")}), &ip);
    }
    policies.decide();
    let flow = |place: u32| {
        let client = place % 1_000;
        let server = if place < 1_000 { "10.0.0.3" } else { "198.51.100.7" };
        connection(&format!("10.1.{}.{}", client / 250, client % 250), server, server, 80)
    };
    let flows: Vec<Tracked> = (0..50_000).map(flow).collect();
    policies.remove_policy(&ripstop_types::NamespacedName { namespace: "shop".into(), name: "p7".into() });
    let changes = policies.decide();
    let start = Instant::now();
    let affected = Affected::by(&policies, &changes);
    let over = policies.revoked(&affected, &flows, |_| false);
    println!("a revoked policy among 10,000, with 50,000 connections: {:?}", start.elapsed());
    assert_eq!(over, [7]);
}
