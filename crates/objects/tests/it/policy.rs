//! NetworkPolicy and ClusterNetworkPolicy: what is read, and what takes the place of what cannot be.

use ripstop_objects::policy::{
    Action, ClusterNetworkPolicy, NetworkPolicy, Operator, Peer, PolicyRule, PortMatch, Requirement, Selector, Tier,
};
use ripstop_objects::service::Protocol;
use ripstop_objects::{ClusterObject, Faults, ObjectKind};
use serde_json::{Value, json};

fn network(spec: Value) -> (NetworkPolicy, Faults) {
    NetworkPolicy::from_value(&json!({"metadata": {"namespace": "shop", "name": "web"}, "spec": spec})).unwrap()
}

fn cluster(spec: Value) -> Result<(ClusterNetworkPolicy, Faults), String> {
    ClusterNetworkPolicy::from_value(&json!({"metadata": {"name": "guard"}, "spec": spec}))
}

/// A ClusterNetworkPolicy with these rules.
fn guard(direction: &str, rules: Value) -> (ClusterNetworkPolicy, Faults) {
    cluster(json!({"tier": "Admin", "priority": 5, "subject": {"namespaces": {}}, direction: rules})).unwrap()
}

fn labels(key: &str, value: &str) -> Selector {
    Selector::new([Requirement { key: key.into(), operator: Operator::In(vec![value.into()]) }])
}

fn tcp(first: u16, last: u16) -> PortMatch {
    PortMatch::Range { protocol: Protocol::Tcp, first, last }
}

fn text(faults: &Faults) -> String {
    faults.to_string()
}

#[test]
fn a_network_policy_as_the_api_server_shows_it() {
    let text = r#"{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"namespace": "shop", "name": "web",
        "uid": "u", "annotations": {"ripstop.io/staged": "true", "a": "b"}, "managedFields": [{}]}, "spec": {
        "podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [
            {"podSelector": {"matchLabels": {"app": "front"}}}, {"namespaceSelector": {}},
            {"namespaceSelector": {"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["b", "a", "b"]}]},
             "podSelector": {"matchExpressions": [{"key": "x", "operator": "Exists"}, {"key": "y", "operator": "DoesNotExist", "values": []}]}},
            {"ipBlock": {"cidr": "10.1.2.3/8", "except": ["10.1.0.0/16"]}}],
          "ports": [{"port": 80}, {"protocol": "UDP"}, {"protocol": "SCTP", "port": "sig"}, {"port": 8000, "endPort": 8999}]}],
        "egress": [{}, {"to": [], "ports": []}]}, "status": {}}"#;
    let (policy, faults) = NetworkPolicy::decode(text).unwrap();
    assert!(faults.is_empty(), "{faults}");
    assert_eq!((policy.name.to_string().as_str(), &*policy.uid, policy.staged), ("shop/web", "u", true));
    assert_eq!(policy.subject, labels("app", "web"));
    let everything = PolicyRule::everything(Action::Accept);
    assert_eq!(policy.egress, Some(vec![everything.clone(), everything]), "a rule without limits has none");
    let [rule] = policy.ingress.as_deref().unwrap() else { panic!("{policy:?}") };
    let team = Operator::NotIn(vec!["a".into(), "b".into()]);
    let pods = [("y", Operator::DoesNotExist), ("x", Operator::Exists)];
    let peers = vec![
        Peer::Pods { namespaces: None, pods: labels("app", "front") },
        Peer::Pods { namespaces: Some(Selector::default()), pods: Selector::default() },
        Peer::Pods {
            namespaces: Some(Selector::new([Requirement { key: "team".into(), operator: team }])),
            pods: Selector::new(pods.map(|(key, operator)| Requirement { key: key.into(), operator })),
        },
        Peer::Block { block: "10.0.0.0/8".parse().unwrap(), except: vec!["10.1.0.0/16".parse().unwrap()] },
    ];
    assert_eq!(rule.peers, Some(peers));
    let named = PortMatch::Named { protocol: Some(Protocol::Sctp), name: "sig".into() };
    assert_eq!(rule.ports, Some(vec![tcp(80, 80), PortMatch::All(Protocol::Udp), named, tcp(8000, 8999)]));
    let again = serde_json::to_value(&policy).unwrap();
    assert_eq!(serde_json::from_value::<NetworkPolicy>(again).unwrap(), policy);
}

#[test]
fn a_policy_isolates_as_its_types_say() {
    let isolates = |spec: Value| {
        let (policy, faults) = network(spec);
        assert!(faults.is_empty(), "{faults}");
        (policy.ingress.is_some(), policy.egress.is_some())
    };
    assert_eq!(isolates(Value::Null), (true, false));
    assert_eq!(isolates(json!({})), (true, false));
    assert_eq!(isolates(json!({"policyTypes": []})), (true, false));
    assert_eq!(isolates(json!({"egress": [], "policyTypes": null})), (true, false));
    assert_eq!(isolates(json!({"egress": [{}]})), (true, true));
    assert_eq!(isolates(json!({"policyTypes": ["Egress"]})), (false, true));
    assert_eq!(isolates(json!({"policyTypes": ["Egress"], "ingress": [{}]})), (false, true));
    assert_eq!(isolates(json!({"policyTypes": ["Ingress"], "egress": [{}]})), (true, false));
}

#[test]
fn a_part_of_a_rule_that_cannot_be_read_matches_nothing() {
    let (policy, faults) = network(json!({"ingress": [{
        "from": [
            {}, {"serviceAccountSelector": {}}, {"namespaceSelector": {}, "labelSelector": {}},
            {"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}, {"ipBlock": {"cidr": "10.0.0.0/33"}},
            {"ipBlock": {"cidr": "010.0.0.0/8"}}, {"ipBlock": {"cidr": "::ffff:10.0.0.0/104"}}, {"ipBlock": {}},
            {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}, {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}},
            {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.1"]}}, {"ipBlock": {"cidr": "fd00::/8", "except": ["10.0.0.0/8"]}},
            {"podSelector": {"matchExpressions": [{"key": "a", "operator": "Like", "values": ["b"]}]}},
            {"podSelector": {"matchExpressions": [{"key": "a", "operator": "In", "values": []}]}},
            {"podSelector": {"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}},
            {"podSelector": {"matchLabels": {"a b": "c"}}}, {"podSelector": {"matchLabels": {"a": "-"}}}, {"podSelector": {"matchLabels": []}},
            "all", {"podSelector": {"matchLabels": {"app": "right"}}},
        ],
        "ports": [
            {"port": 0}, {"port": 65_536}, {"port": 80, "endPort": 79}, {"endPort": 80}, {"port": "http", "endPort": 80},
            {"protocol": "ICMP"}, {"protocol": "tcp"}, {"port": "80"}, {"port": "Http"}, {"port": "a--b"}, {"port": 80, "range": 2},
            {"port": 443},
        ],
    }]}));
    let rule = &policy.ingress.as_ref().unwrap()[0];
    assert_eq!(rule.peers, Some(vec![Peer::Pods { namespaces: None, pods: labels("app", "right") }]));
    assert_eq!(rule.ports, Some(vec![tcp(443, 443)]));
    assert_eq!(faults.len(), 19 + 11, "{faults}");
    for named in [
        "networkpolicy/shop/web: spec.ingress[0].from[0]: found no kind of peer that is known, accepted: podSelector, namespaceSelector, ipBlock",
        "networkpolicy/shop/web: spec.ingress[0].from[8].ipBlock.except[0]: found 11.0.0.0/16, accepted: a prefix within 10.0.0.0/8",
        "networkpolicy/shop/web: spec.ingress[0].ports[2].endPort: found 79, accepted: a number from 80 to 65535",
        "networkpolicy/shop/web: spec.ingress[0].ports[5].protocol: found ICMP, accepted: TCP, UDP or SCTP",
    ] {
        assert!(text(&faults).lines().any(|fault| fault == named), "{named}\nis not among\n{faults}");
    }
    // All that is left of these lists is nobody, which is not everybody.
    let (policy, _) = network(json!({"ingress": [{"from": [{}]}, {"ports": [{"port": 0}]}]}));
    let rules = policy.ingress.unwrap();
    assert_eq!((&rules[0].peers, &rules[0].ports), (&Some(vec![]), &None));
    assert_eq!((&rules[1].peers, &rules[1].ports), (&None, &Some(vec![])));
}

#[test]
fn a_policy_whose_frame_cannot_be_read_lets_nothing_pass() {
    let nothing = PolicyRule::nothing(Action::Accept);
    for spec in [
        json!({"podSelector": {"matchLabels": {"a": 1}}, "ingress": [{}]}),
        json!({"podSelector": {"matchNames": {}}, "ingress": [{}]}),
        json!({"podSelector": {}, "ingress": [{}], "appliesTo": {}}),
        json!({"ingress": [{"from": [], "when": "always"}]}),
        json!({"ingress": [{"from": {}}]}),
        json!({"ingress": [5]}),
    ] {
        let (policy, faults) = network(spec.clone());
        assert_eq!(policy.subject, Selector::default(), "{spec}: all pods rather than none");
        assert_eq!(policy.ingress, Some(vec![nothing.clone()]), "{spec}");
        assert_eq!(faults.len(), 1, "{spec}: {faults}");
    }
    let (policy, _) = network(json!({"policyTypes": ["Ingress", "Forward"]}));
    assert_eq!((policy.ingress, policy.egress), (Some(vec![]), Some(vec![])));
    let (policy, _) = network(json!("none"));
    assert_eq!((policy.ingress, policy.egress), (Some(vec![]), Some(vec![])));
    let (policy, _) = network(json!({"egress": "none"}));
    assert_eq!((policy.ingress, policy.egress), (Some(vec![]), Some(vec![])));
    for bad in [json!({}), json!({"metadata": {"name": "A b"}}), json!([]), json!(null)] {
        assert!(NetworkPolicy::from_value(&bad).is_err(), "{bad}");
    }
    assert!(NetworkPolicy::decode("{").is_err());
}

#[test]
fn staged_is_what_says_so() {
    let staged = |value: Value| {
        let annotations = json!({"ripstop.io/staged": value});
        NetworkPolicy::from_value(&json!({"metadata": {"name": "a", "annotations": annotations}})).unwrap()
    };
    assert!(staged(json!("true")).0.staged);
    for enforced in [json!("false"), json!(""), json!(null)] {
        let (policy, faults) = staged(enforced);
        assert!(!policy.staged && faults.is_empty());
    }
    let (policy, faults) = staged(json!("yes"));
    assert!(!policy.staged);
    assert_eq!(
        text(&faults),
        "networkpolicy/default/a: metadata.annotations[ripstop.io/staged]: found yes, accepted: \"true\" or \"false\""
    );
}

#[test]
fn a_cluster_network_policy_as_the_api_server_shows_it() {
    let text = r#"{"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy", "metadata": {"name": "guard", "uid": "u"},
        "spec": {"tier": "Baseline", "priority": 1000, "subject": {"pods": {"namespaceSelector": {"matchLabels": {"a": "b"}}, "podSelector": {}}},
        "ingress": [{"name": "in", "action": "Pass", "from": [{"namespaces": {}}, {"pods": {"podSelector": {"matchLabels": {"app": "x"}}}}],
            "protocols": [{"tcp": {"destinationPort": {"number": 80}}}, {"sctp": {"destinationPort": {"range": {"start": 1, "end": 65535}}}}]}],
        "egress": [{"action": "Deny", "to": [{"nodes": {}}, {"networks": ["10.0.0.0/8", "fd00::1/8"]}]},
            {"action": "Accept", "to": [{"namespaces": {"matchExpressions": [{"key": "k", "operator": "Exists"}]}}], "protocols": [{"destinationNamedPort": "web"}]}]}}"#;
    let (policy, faults) = ClusterNetworkPolicy::decode(text).unwrap();
    assert!(faults.is_empty(), "{faults}");
    assert_eq!((&*policy.name, policy.tier, policy.priority), ("guard", Tier::Baseline, 1000));
    assert_eq!((policy.namespaces.clone(), policy.pods.clone()), (labels("a", "b"), Selector::default()));
    let rule = &policy.ingress[0];
    assert_eq!((&*rule.name, rule.action), ("in", Action::Pass));
    let all = Selector::default;
    let peers = vec![
        Peer::Pods { namespaces: Some(all()), pods: all() },
        Peer::Pods { namespaces: Some(all()), pods: labels("app", "x") },
    ];
    assert_eq!(rule.peers, Some(peers));
    let every = PortMatch::Range { protocol: Protocol::Sctp, first: 1, last: 65_535 };
    assert_eq!(rule.ports, Some(vec![tcp(80, 80), every]));
    let block = |block: &str| Peer::Block { block: block.parse().unwrap(), except: Vec::new() };
    assert_eq!(policy.egress[0].peers, Some(vec![Peer::Nodes(all()), block("10.0.0.0/8"), block("fd00::/8")]));
    assert_eq!(policy.egress[1].ports, Some(vec![PortMatch::Named { protocol: None, name: "web".into() }]));
    let again = serde_json::to_value(&policy).unwrap();
    assert_eq!(serde_json::from_value::<ClusterNetworkPolicy>(again).unwrap(), policy);
}

#[test]
fn a_rule_of_a_cluster_network_policy_that_cannot_be_read_is_closed() {
    let peer = json!([{"namespaces": {}}]);
    let bad = [
        json!({"to": [{}]}),
        json!({"to": [{"services": {}}]}),
        json!({"to": [{"namespaces": {}}, {"domainNames": ["example.org"]}]}),
        json!({"to": [{"namespaces": {}, "pods": {"podSelector": {}}}]}),
        json!({"to": [{"pods": {"namespaceSelector": {}}}]}),
        json!({"to": []}),
        json!({}),
        json!({"to": [{"networks": []}]}),
        json!({"to": [{"networks": ["10.0.0.0"]}]}),
        json!({"to": vec![json!({"namespaces": {}}); 26]}),
        json!({"to": peer, "protocols": []}),
        json!({"to": peer, "protocols": [{}]}),
        json!({"to": peer, "protocols": [{"icmp": {}}]}),
        json!({"to": peer, "protocols": [{"tcp": {}}]}),
        json!({"to": peer, "protocols": [{"tcp": {"destinationPort": {}}}]}),
        json!({"to": peer, "protocols": [{"tcp": {"destinationPort": {"number": 0}}}]}),
        json!({"to": peer, "protocols": [{"tcp": {"destinationPort": {"range": {"start": 9, "end": 9}}}}]}),
        json!({"to": [{"networks": ["10.0.0.0/8"]}], "protocols": [{"destinationNamedPort": "web"}]}),
        json!({"to": peer, "from": peer}),
    ];
    for rule in bad {
        for (action, closed) in [("Accept", Action::Accept), ("Deny", Action::Deny), ("Pass", Action::Pass)] {
            let mut rule = rule.clone();
            rule["action"] = action.into();
            let (policy, faults) = guard("egress", json!([rule]));
            assert_eq!(policy.egress, [PolicyRule::closed(closed)], "{rule}");
            assert_eq!(faults.len(), 1, "{rule}: {faults}");
        }
    }
    for unread in [json!({"action": "Log", "to": peer}), json!({"to": peer}), json!(1)] {
        assert_eq!(guard("egress", json!([unread])).0.egress, [PolicyRule::everything(Action::Deny)]);
    }
    assert_eq!(guard("egress", json!({})).0.egress, [PolicyRule::everything(Action::Deny)]);
    // Peers of egress alone are not known to ingress.
    let (policy, faults) = guard("ingress", json!([{"action": "Accept", "from": [{"networks": ["10.0.0.0/8"]}]}]));
    assert_eq!((policy.ingress, faults.len()), (vec![PolicyRule::nothing(Action::Accept)], 1));
    let rule = json!({"action": "Accept", "to": peer});
    let (policy, faults) = guard("egress", json!(vec![rule; 26]));
    assert_eq!((policy.egress.len(), faults.len()), (26, 1));
    assert!(policy.egress[..25].iter().all(|rule| rule.peers != Some(vec![])));
    assert_eq!(policy.egress[25], PolicyRule::nothing(Action::Accept));
}

#[test]
fn a_cluster_network_policy_without_its_head_is_none() {
    for (spec, named) in [
        (json!({"priority": 1, "subject": {"namespaces": {}}}), "spec.tier: found nothing, accepted: Admin, Baseline"),
        (
            json!({"tier": "NetworkPolicy", "priority": 1, "subject": {"namespaces": {}}}),
            "spec.tier: found NetworkPolicy",
        ),
        (json!({"tier": "Admin", "subject": {"namespaces": {}}}), "spec.priority: found nothing"),
        (json!({"tier": "Admin", "priority": 1001, "subject": {"namespaces": {}}}), "spec.priority: found 1001"),
        (json!({"tier": "Admin", "priority": 1}), "spec.subject: found nothing"),
        (json!({"tier": "Admin", "priority": 1, "subject": {}}), "spec.subject: found none that is known"),
        (
            json!({"tier": "Admin", "priority": 1, "subject": {"nodes": {}}}),
            "spec.subject.nodes: found an unknown field",
        ),
    ] {
        let fault = cluster(spec).unwrap_err();
        assert!(fault.contains(&format!("clusternetworkpolicy/guard: {named}")), "{fault}");
    }
    assert!(ClusterNetworkPolicy::from_value(&json!({"metadata": {"name": "a"}})).is_err());
    assert!(ClusterNetworkPolicy::from_value(&json!({"spec": {}})).is_err());
    // A field more may narrow it: what it accepts is nothing then.
    let spec = json!({"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, "when": "at night",
        "egress": [{"action": "Accept", "to": [{"namespaces": {}}]}, {"action": "Pass", "to": [{"namespaces": {}}]}]});
    let (policy, faults) = cluster(spec).unwrap();
    assert_eq!(policy.egress, [PolicyRule::nothing(Action::Accept), PolicyRule::everything(Action::Deny)]);
    assert_eq!(faults.len(), 1, "{faults}");
}

#[test]
fn long_selectors_are_read() {
    let long: serde_json::Map<String, Value> =
        (0..1_000).map(|place| (format!("label-{place}"), Value::from("x"))).collect();
    let (policy, faults) = network(json!({"podSelector": {"matchLabels": long}}));
    assert_eq!((policy.subject.requirements().len(), faults.len()), (1_000, 0));
}

#[test]
fn what_policies_need_of_other_objects_is_read() {
    let decode = |kind, value: Value| ClusterObject::decode(kind, &value.to_string()).unwrap().0;
    let namespace = json!({"metadata": {"name": "shop", "labels": {"kubernetes.io/metadata.name": "other"}}});
    let ClusterObject::Namespace(namespace) = decode(ObjectKind::Namespace, namespace) else { panic!() };
    assert_eq!(&*namespace.labels["kubernetes.io/metadata.name"], "shop", "its name cannot be another's");
    let node = json!({"metadata": {"name": "n1", "labels": {"zone": "a"}}, "status": {"addresses": [
        {"type": "InternalIP", "address": "192.0.2.1"}, {"type": "Hostname", "address": "n1"}, {"type": "ExternalIP", "address": "2001:db8::1"}]}});
    let ClusterObject::Node(node) = decode(ObjectKind::Node, node) else { panic!() };
    assert_eq!((node.labels.len(), node.addresses.len()), (1, 2));
    let port = |name: &str, number: u16| json!([{"name": name, "containerPort": number}]);
    let pod = json!({"metadata": {"name": "web"}, "status": {"phase": "Failed"}, "spec": {
        "containers": [{"ports": port("http", 80)}],
        "initContainers": [{"ports": port("setup", 81)}, {"restartPolicy": "Always", "ports": port("proxy", 82)}]}});
    let ClusterObject::Pod(pod) = decode(ObjectKind::Pod, pod) else { panic!() };
    assert_eq!(pod.ports.iter().map(|port| &*port.name).collect::<Vec<_>>(), ["http", "proxy"]);
    assert!(pod.has_finished());
}
