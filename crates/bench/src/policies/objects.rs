//! Pods and policies as records of a store, by the thousand.

use std::net::{IpAddr, Ipv4Addr};

use ripstop_store::Kind;
use serde_json::{Value, json};

use crate::records::New;

const NAMESPACE: &str = "default";
/// Pods of a node that is not there, each of a kind of its own, so that policies name somebody.
const OTHERS: u32 = 1_000;
const OTHER_NODE: &str = "n9";
/// The label of the pods between which packets are measured.
pub const MEASURED: &str = "measured";
/// The ports at which they may reach each other.
const OPEN: [u16; 2] = [7000, 7999];
/// Blocks of one policy: an object of Kubernetes has room for some more than thirty thousand.
const BLOCKS: u32 = 20_000;

/// A pod with a role.
#[must_use]
pub fn pod(name: &str, node: &str, role: &str) -> New {
    let value = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": NAMESPACE, "labels": { "role": role } },
        "spec": { "nodeName": node, "containers": [{ "name": "c", "image": "i" }] },
    });
    (Kind::Pods, format!("{NAMESPACE}/{name}"), value)
}

/// What a node that is not there says of a pod of its.
#[must_use]
pub fn addresses(pod: &str, ip: IpAddr) -> New {
    let value = json!({ "node": OTHER_NODE, "pod": format!("{NAMESPACE}/{pod}"), "ips": [ip] });
    (Kind::PodAddresses, format!("{OTHER_NODE}/{NAMESPACE}/{pod}"), value)
}

/// Pods that policies name.
pub fn others() -> impl Iterator<Item = New> {
    (0..OTHERS).flat_map(|number| {
        let name = kind(number);
        let ip = Ipv4Addr::from_bits(Ipv4Addr::new(10, 250, 0, 1).to_bits() + number);
        [pod(&name, OTHER_NODE, &name), addresses(&name, ip.into())]
    })
}

/// A policy.
#[must_use]
pub fn policy(name: &str, spec: &Value) -> New {
    let value = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": name, "namespace": NAMESPACE }, "spec": spec,
    });
    (Kind::NetworkPolicies, format!("{NAMESPACE}/{name}"), value)
}

/// So many policies, of which some select the measured pods, both ways: one lets them reach each other, each other one lets pods of one kind
/// in and out at one of a hundred ports.
pub fn policies(count: u32, selecting: u32) -> impl Iterator<Item = New> {
    (0..count).map(move |number| {
        let name = format!("p-{number:05}");
        let (subject, peer, ports) = match number {
            0 => (MEASURED.into(), MEASURED.into(), json!([{ "port": OPEN[0], "endPort": OPEN[1] }])),
            _ if number < selecting => (MEASURED.into(), kind(number), json!([{ "port": 8000 + number % 100 }])),
            _ => (kind(number), kind(number + 1), json!([{ "port": 8000 + number % 100 }])),
        };
        policy(&name, &both_ways(&subject, &peer, &ports))
    })
}

/// Lets pods of a role talk to those of another, at some ports.
#[must_use]
pub fn both_ways(subject: &str, peer: &str, ports: &Value) -> Value {
    let peers = json!([selector(peer)]);
    json!({
        "podSelector": { "matchLabels": { "role": subject } }, "policyTypes": ["Ingress", "Egress"],
        "ingress": [{ "from": peers, "ports": ports }], "egress": [{ "to": peers, "ports": ports }],
    })
}

/// Pods of a role as peers.
#[must_use]
pub fn selector(role: &str) -> Value {
    json!({ "podSelector": { "matchLabels": { "role": role } } })
}

/// So many blocks of addresses that may reach the measured pods: the first is `own`, all others are apart, of 25 to 32 bits. Of policies
/// there are as many as it takes, with one rule each.
pub fn blocks(count: u32, own: &str) -> impl Iterator<Item = New> {
    (0..count.div_ceil(BLOCKS)).map(move |number| {
        let first = number * BLOCKS;
        let blocks = (first..count.min(first + BLOCKS)).map(|block| {
            let cidr = if block == 0 { own.to_owned() } else { format!("{}/{}", listed(block), 25 + block % 8) };
            json!({ "ipBlock": { "cidr": cidr } })
        });
        let spec = json!({
            "podSelector": { "matchLabels": { "role": MEASURED } }, "policyTypes": ["Ingress"],
            "ingress": [{ "from": blocks.collect::<Vec<_>>(), "ports": [{ "port": OPEN[0], "endPort": OPEN[1] }] }],
        });
        policy(&format!("list-{number:03}"), &spec)
    })
}

/// Where they lie.
pub const LISTED: &str = "32.0.0.0/4";

/// The first address of a block but the first.
#[must_use]
pub fn listed(block: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(32, 0, 0, 0).to_bits() + (block << 8))
}

/// A role that one of the other pods has.
#[must_use]
pub fn kind(number: u32) -> String {
    format!("kind-{}", number % OTHERS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_policies_select_the_measured_pods_as_asked() {
        let selects = |(_, _, value): &New| value["spec"]["podSelector"]["matchLabels"]["role"] == MEASURED;
        for selecting in [1, 10, 1_000] {
            let all: Vec<New> = policies(10_000, selecting).collect();
            let found = all.iter().filter(|new| selects(new)).count();
            assert_eq!((all.len(), found), (10_000, selecting as usize));
        }
    }

    #[test]
    fn a_million_blocks_have_room_in_objects() {
        let most = blocks(1_000_000, "10.244.0.0/16").map(|(_, _, value)| value.to_string().len()).max();
        assert!(most.is_some_and(|most| most <= ripstop_store::MAX_VALUE), "{most:?}");
        let last = blocks(1_000_000, "10.244.0.0/16").last().unwrap().2;
        let blocks = last["spec"]["ingress"][0]["from"].as_array().unwrap();
        assert_eq!((blocks.len(), &blocks[BLOCKS as usize - 1]["ipBlock"]["cidr"]), (20_000, &json!("47.66.63.0/32")));
    }
}
