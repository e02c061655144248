//! A policy with a fault is closed: whatever is wrong with it, no packet passes that would not have passed without the fault.

use proptest::prelude::*;
use proptest::sample::select;
use ripstop_objects::policy::{ClusterNetworkPolicy, NetworkPolicy};
use ripstop_objects::service::Protocol;
use ripstop_oracle::policy::{Packet, State, Traffic, World, judge};
use serde_json::{Value, json};

use crate::policy::{ALL, Cluster};

fn network_policy() -> Value {
    json!({"metadata": {"namespace": "x", "name": "p"}, "spec": {
        "podSelector": {"matchLabels": {"pod": "a"}}, "policyTypes": ["Ingress"],
        "ingress": [
            {"from": [{"podSelector": {"matchLabels": {"pod": "b"}}}, {"namespaceSelector": {"matchLabels": {"ns": "y"}},
                "podSelector": {"matchExpressions": [{"key": "pod", "operator": "In", "values": ["a"]}]}}]},
            {"from": [{"ipBlock": {"cidr": "198.51.100.0/24", "except": ["198.51.100.128/25"]}}],
                "ports": [{"port": 80, "endPort": 81, "protocol": "TCP"}, {"port": "serve-81", "protocol": "UDP"}]},
        ],
        "egress": [{"to": [{"namespaceSelector": {"matchExpressions": [{"key": "ns", "operator": "NotIn", "values": ["x"]}]}}]}],
    }})
}

fn cluster_policy() -> Value {
    let tcp = json!([{"tcp": {"destinationPort": {"number": 80}}}, {"udp": {"destinationPort": {"range": {"start": 80, "end": 90}}}}]);
    json!({"metadata": {"name": "g"}, "spec": {"tier": "Admin", "priority": 5, "subject": {"namespaces": {"matchLabels": {"ns": "x"}}},
    "ingress": [
        {"action": "Accept", "from": [{"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"pod": "a"}}}}], "protocols": tcp},
        {"action": "Pass", "from": [{"namespaces": {"matchLabels": {"ns": "x"}}}]},
        {"action": "Deny", "from": [{"namespaces": {}}], "protocols": [{"destinationNamedPort": "serve-81"}]},
    ],
    "egress": [
        {"action": "Accept", "to": [{"networks": ["198.51.100.0/25", "10.0.0.0/8"]}], "protocols": tcp},
        {"action": "Deny", "to": [{"nodes": {"matchLabels": {"node": "n2"}}}, {"networks": ["198.51.100.0/24"]}]},
    ]}})
}

/// The places of all values below `spec`.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| places(value, &format!("{at}/{key}"), found)),
        Value::Array(items) => items.iter().enumerate().for_each(|(n, item)| places(item, &format!("{at}/{n}"), found)),
        _ => {}
    }
}

/// A change of one value, or a field more beside it.
fn changes(policy: &Value) -> impl Strategy<Value = (String, bool, Value)> {
    let mut found = Vec::new();
    places(&policy["spec"], "/spec", &mut found);
    let values = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(70_000),
        json!(1.5),
        json!(""),
        json!("x"),
        json!("10.0.0.0/8"),
        json!("198.51.100.0/33"),
        json!("A b"),
        json!([]),
        json!({}),
        json!([{}]),
        json!({"x": {}}),
        json!(["x"]),
        json!(80),
    ];
    (select(found), any::<bool>(), select(values.to_vec()))
}

fn changed(mut policy: Value, (place, beside, value): &(String, bool, Value)) -> Value {
    let found = policy.pointer_mut(place).unwrap();
    match found {
        Value::Object(fields) if *beside => {
            fields.insert("more".into(), value.clone());
        }
        Value::Array(items) if *beside => items.push(value.clone()),
        _ => *found = value.clone(),
    }
    policy
}

/// Nothing passes in `closed` that does not in `whole`.
fn is_closed(whole: &World, closed: &World) -> Result<(), String> {
    let port = |protocol, number| Traffic::Port(protocol, number);
    let traffic = [port(Protocol::Tcp, 80), port(Protocol::Tcp, 82), port(Protocol::Udp, 81), Traffic::Other(1)];
    for from in ALL.iter().chain(&["198.51.100.200"]) {
        for (to, traffic) in ALL.iter().flat_map(|to| traffic.map(|traffic| (to, traffic))) {
            let (source, destination) = (from.parse().unwrap(), to.parse().unwrap());
            let packet = Packet { source, destination, traffic, state: State::New, by_service: true };
            if judge(closed, &packet).is_accepted() && !judge(whole, &packet).is_accepted() {
                return Err(format!("{packet:?} passes"));
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_network_policy_with_a_fault_opens_nothing(change in changes(&network_policy())) {
        let read = |value: &Value| NetworkPolicy::from_value(value).unwrap();
        let (mut whole, mut closed) = (Cluster::new().0, Cluster::new().0);
        whole.policies.push(read(&network_policy()).0);
        let (policy, faults) = read(&changed(network_policy(), &change));
        closed.policies.push(policy);
        if !faults.is_empty() {
            prop_assert_eq!(is_closed(&whole, &closed), Ok(()), "{}", faults);
        }
    }

    #[test]
    fn a_cluster_network_policy_with_a_fault_opens_nothing(change in changes(&cluster_policy())) {
        let (mut whole, mut closed) = (Cluster::new().0, Cluster::new().0);
        whole.cluster_policies.push(ClusterNetworkPolicy::from_value(&cluster_policy()).unwrap().0);
        // What is no policy leaves the old one as it was.
        if let Ok((policy, faults)) = ClusterNetworkPolicy::from_value(&changed(cluster_policy(), &change)) {
            closed.cluster_policies.push(policy);
            if !faults.is_empty() {
                prop_assert_eq!(is_closed(&whole, &closed), Ok(()), "{}", faults);
            }
        }
    }
}
