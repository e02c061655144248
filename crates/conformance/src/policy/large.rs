//! Large clusters: what is measured and what others have published figures of.

use std::net::{IpAddr, Ipv4Addr};

use ripstop_objects::policy::{Action, NetworkPolicy, Operator, Peer, PolicyRule, PortMatch, Requirement, Selector};
use ripstop_objects::service::Protocol;
use ripstop_objects::{KubeNamespace, KubePod, ObjectLabels};
use ripstop_oracle::policy::World;
use ripstop_types::NamespacedName;

/// So many namespaces, each with a policy that denies what comes and two that allow it, and four pods of two kinds: the shape of Antrea's
/// benchmark of its controller (`networkpolicy_controller_perf_test.go`).
#[must_use]
pub fn many_namespaces(count: u32) -> World {
    let mut world = World::default();
    for place in 0..count {
        let own = format!("namespace-{place}");
        world.namespaces.push(namespace(&own));
        world.policies.push(deny(&own));
        for kind in ["app-1", "app-2"] {
            world.policies.push(allow(&own, kind, label(kind, &own), label(kind, &own), None));
        }
        for (pods, kind) in [(0..2, "app-1"), (2..4, "app-2")] {
            for place in pods.map(|pod| place * 4 + pod) {
                world.pods.push(pod(&own, &format!("pod-{place}"), (kind, &own), address(place)));
            }
        }
    }
    world
}

/// One namespace with so many pods, each with a policy of its own.
#[must_use]
pub fn one_namespace(count: u32) -> World {
    let mut world = World { namespaces: vec![namespace("x")], ..World::default() };
    for place in 0..count {
        let own = format!("app-{place}");
        world.pods.push(pod("x", &own, ("app", &own), address(place)));
        world.policies.push(allow("x", &own, label("app", &own), label("app", &own), None));
    }
    world
}

/// A selector of one label.
#[must_use]
pub fn label(key: &str, value: &str) -> Selector {
    Selector::new([Requirement { key: key.into(), operator: Operator::In(vec![value.into()]) }])
}

/// The address of a pod by its number.
#[must_use]
pub fn address(place: u32) -> IpAddr {
    Ipv4Addr::from_bits(0x0a00_0000 + place).into()
}

/// A pod of node `n1` with one label.
#[must_use]
pub fn pod(namespace: &str, pod: &str, (key, value): (&str, &str), ip: IpAddr) -> KubePod {
    KubePod {
        name: name(namespace, pod),
        uid: "".into(),
        labels: ObjectLabels::from([(key.into(), value.into())]),
        node: "n1".parse().ok(),
        ips: vec![ip],
        host_network: false,
        phase: "Running".into(),
        ports: Vec::new(),
        probes: Vec::new(),
    }
}

/// A namespace without labels of its own.
#[must_use]
pub fn namespace(name: &str) -> KubeNamespace {
    KubeNamespace { name: name.into(), labels: ObjectLabels::new() }
}

/// Lets pods of the namespace in to others of it, at a port or at all.
#[must_use]
pub fn allow(namespace: &str, policy: &str, to: Selector, from: Selector, port: Option<u16>) -> NetworkPolicy {
    let ports = port.map(|port| vec![PortMatch::Range { protocol: Protocol::Tcp, first: port, last: port }]);
    let peers = Some(vec![Peer::Pods { namespaces: None, pods: from }]);
    let rule = PolicyRule { name: "".into(), action: Action::Accept, peers, ports };
    NetworkPolicy {
        name: name(namespace, policy),
        uid: "".into(),
        subject: to,
        ingress: Some(vec![rule]),
        egress: None,
        staged: false,
    }
}

fn deny(namespace: &str) -> NetworkPolicy {
    let policy = allow(namespace, "deny", Selector::default(), Selector::default(), None);
    NetworkPolicy { ingress: Some(Vec::new()), ..policy }
}

fn name(namespace: &str, name: &str) -> NamespacedName {
    NamespacedName { namespace: namespace.into(), name: name.into() }
}
