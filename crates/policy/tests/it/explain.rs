//! Explanations: who decides is who the oracle says, the verdict is the tables', and the closest rule is the one that a person would name.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestCaseResult};
use ripstop_conformance::policy::{Change, Scenario, cases, scenarios};
use ripstop_objects::policy::{ClusterNetworkPolicy, NetworkPolicy};
use ripstop_objects::service::Protocol;
use ripstop_objects::{ClusterObject, ObjectKind};
use ripstop_oracle::policy::{By as Judged, Decision, Packet, State, Traffic, World, judge, judge_staged};
use ripstop_policy::Policies;
use ripstop_policy::explain::{By, Condition, End, Explanation, PolicyRef, Question, RuleRef};
use serde_json::{Value, json};

use super::random::follow;

fn question(packet: &Packet) -> Option<Question> {
    let port = match packet.traffic {
        Traffic::Port(protocol, port) => Some((protocol, port)),
        Traffic::Other(_) => None,
        Traffic::Discovery => return None,
    };
    let Packet { source, destination, by_service, .. } = *packet;
    (packet.state == State::New).then_some(Question { source, destination, port, by_service })
}

/// The same decision in the oracle's words.
fn judged(by: &By) -> Judged {
    let rule = |rule: &RuleRef| Judged::Rule { policy: rule.policy.policy_name(), index: rule.rule };
    match by {
        By::Itself => Judged::Itself,
        By::OwnNode => Judged::OwnNode,
        By::Nobody => Judged::Nobody,
        By::Unknown => panic!("the oracle knows every pod"),
        By::Rule(decides) => rule(decides),
        By::Permitted(rules) => rule(&rules[0]),
        By::Isolation { policies, .. } => Judged::Isolation(policies.iter().map(PolicyRef::policy_name).collect()),
    }
}

fn compare(end: Option<&End>, right: Option<&Decision>, staged: Option<&Decision>) -> Result<(), String> {
    let differs = |what: &str| Err(format!("{what}: {end:#?} beside {right:?} and, with what is staged, {staged:?}"));
    let (Some(end), Some(right), Some(staged)) = (end, right, staged) else {
        return if end.is_none() && right.is_none() { Ok(()) } else { differs("who is a pod") };
    };
    let with_staged = end.staged.as_ref().unwrap_or(&end.by);
    if end.allowed != right.accepted || judged(&end.by) != right.by || !end.is_explained() {
        return differs("who decides");
    }
    if with_staged.allows() != staged.accepted || judged(with_staged) != staged.by {
        return differs("who would decide");
    }
    match &end.by {
        By::Isolation { closest: Some(closest), .. } if closest.failed.is_empty() => differs("nothing failed"),
        _ if end.to_string().is_empty() => differs("no words"),
        _ => Ok(()),
    }
}

/// Asks every node's tables, and those of a view over all nodes.
fn check(views: &[Policies], world: &World, packets: &[Packet]) -> Result<(), String> {
    for packet in packets {
        let Some(question) = question(packet) else { continue };
        let (right, staged) = (judge(world, packet), judge_staged(world, packet));
        for view in views {
            let found = view.explain(&question);
            let told = |why| format!("{question:?}: {why}");
            compare(found.egress.as_ref(), right.egress.as_ref(), staged.egress.as_ref()).map_err(told)?;
            compare(found.ingress.as_ref(), right.ingress.as_ref(), staged.ingress.as_ref()).map_err(told)?;
            let asked_here = found.ends().filter(|end| end.enforced_here).all(|end| end.allowed);
            if view.allows(&question) != asked_here {
                return Err(format!("{question:?}: the tables alone say otherwise than {found:#?}"));
            }
            if found.is_allowed() != right.is_accepted() || found.is_allowed_staged() != staged.is_accepted() {
                return Err(format!("{question:?}: {found:#?} beside {right:?}"));
            }
        }
    }
    Ok(())
}

fn views() -> Vec<Policies> {
    [Some("n1"), Some("n2"), None].map(|node| Policies::new(node.map(|node| node.parse().unwrap()))).into()
}

fn run(scenario: &Scenario) -> TestCaseResult {
    let (mut views, mut world) = (views(), World::default());
    let start = (Change::all_of(&scenario.world), Vec::new());
    let steps = scenario.steps.iter().map(|step| (step.changes.clone(), step.packets.clone()));
    for (changes, packets) in [start].into_iter().chain(steps) {
        for change in &changes {
            change.apply(&mut world);
            views.iter_mut().for_each(|view| follow(view, change));
        }
        for view in &mut views {
            view.decide();
        }
        check(&views, &world, &packets).map_err(|why| TestCaseError::fail(format!("{scenario}{why}")))?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn who_decides_is_who_the_oracle_says(scenario in scenarios()) {
        run(&scenario)?;
    }
}

#[test]
fn upstream_cases_are_explained() {
    for case in cases().unwrap() {
        let (mut views, mut world) = (views(), World::default());
        for step in case.steps().unwrap() {
            for change in &step.changes {
                change.apply(&mut world);
                views.iter_mut().for_each(|view| follow(view, change));
            }
            for view in &mut views {
                view.decide();
            }
            let packets: Vec<Packet> = step.probes.iter().map(|probe| probe.packet).collect();
            check(&views, &world, &packets).unwrap_or_else(|why| panic!("{}: {why}", case.id));
        }
    }
}

/// A shop of three pods: `web` may be asked by `front` at http, `db` by `web` at 5432.
pub fn shop() -> Policies {
    let mut policies = Policies::new(None);
    for (name, labels) in [("shop", json!({"team": "a"})), ("other", json!({"team": "b"}))] {
        put(&mut policies, ObjectKind::Namespace, &json!({"metadata": {"name": name, "labels": labels}}));
    }
    let node = json!({"metadata": {"name": "n1", "labels": {"zone": "x"}},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}});
    put(&mut policies, ObjectKind::Node, &node);
    pod(&mut policies, "shop", "front", json!({"app": "front-end"}), "10.0.0.1");
    pod(&mut policies, "shop", "web", json!({"app": "web"}), "10.0.0.2");
    pod(&mut policies, "shop", "db", json!({"app": "db"}), "10.0.0.3");
    pod(&mut policies, "other", "front", json!({"app": "frontend"}), "10.0.0.4");
    for (name, subject, rules) in [
        (
            "web",
            "web",
            json!([{"from": [{"podSelector": {"matchLabels": {"app": "frontend"}}}], "ports": [{"port": "http"}]}]),
        ),
        ("db", "db", json!([{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}], "ports": [{"port": 5432}]}])),
    ] {
        let spec = json!({"podSelector": {"matchLabels": {"app": subject}}, "ingress": rules});
        network(&mut policies, name, &spec);
    }
    network(&mut policies, "none", &json!({"podSelector": {}, "ingress": []}));
    policies.decide();
    policies
}

/// Puts a namespace, a pod or a node.
pub fn put_value(policies: &mut Policies, kind: &str, value: &Value) {
    let kind = ObjectKind::ALL.into_iter().find(|known| known.to_string() == kind).unwrap();
    put(policies, kind, value);
}

fn put(policies: &mut Policies, kind: ObjectKind, value: &Value) {
    let (object, faults) = ClusterObject::from_value(kind, value).unwrap();
    assert!(faults.is_empty(), "{faults}");
    match object {
        ClusterObject::Namespace(namespace) => policies.put_namespace(&namespace),
        ClusterObject::Pod(pod) => policies.put_pod(&pod),
        ClusterObject::Node(node) => policies.put_node(&node),
        other => panic!("{other:?}"),
    }
}

pub fn pod(policies: &mut Policies, namespace: &str, name: &str, labels: Value, ip: &str) {
    let ports = json!([{"name": "http", "containerPort": 8080}, {"name": "metrics", "containerPort": 9090}]);
    let pod = json!({"metadata": {"namespace": namespace, "name": name, "labels": labels, "uid": "u"},
        "spec": {"nodeName": "n2", "containers": [{"name": "c", "ports": ports}]},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}});
    put(policies, ObjectKind::Pod, &pod);
}

pub fn network(policies: &mut Policies, name: &str, spec: &Value) {
    let value = json!({"metadata": {"namespace": "shop", "name": name}, "spec": spec});
    let (policy, faults) = NetworkPolicy::from_value(&value).unwrap();
    assert!(faults.is_empty(), "{faults}");
    policies.put_policy(&policy);
}

pub fn cluster(policies: &mut Policies, value: &Value) {
    let (policy, faults) = ClusterNetworkPolicy::from_value(value).unwrap();
    assert!(faults.is_empty(), "{faults}");
    policies.put_cluster_policy(&policy);
}

fn ask(policies: &Policies, source: &str, destination: &str, port: Option<(Protocol, u16)>) -> Explanation {
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    policies.explain(&Question { source: ip(source), destination: ip(destination), port, by_service: false })
}

const TCP: Protocol = Protocol::Tcp;

/// The closest rule, and what failed.
fn closest(
    policies: &Policies,
    source: &str,
    destination: &str,
    port: Option<(Protocol, u16)>,
) -> (String, Vec<Condition>) {
    let found = ask(policies, source, destination, port).ingress.unwrap();
    let By::Isolation { closest: Some(closest), .. } = found.by else { panic!("{found}") };
    let rule = format!("{}[{}].{}", closest.rule.policy.name, closest.rule.rule, closest.peer.unwrap_or(9));
    (rule, closest.failed.iter().map(|failed| failed.condition).collect())
}

#[test]
fn a_slip_in_a_label_is_named() {
    let policies = shop();
    let web = ask(&policies, "10.0.0.1", "10.0.0.2", Some((TCP, 8080))).ingress.unwrap();
    assert_eq!(
        web.to_string(),
        "ingress of shop/web: denied by default: shop/web is isolated for ingress by networkpolicy/shop/none, \
         networkpolicy/shop/web\nclosest rule: networkpolicy/shop/web ingress[0].from[0]\n  \
         pod labels: the rule wants app=frontend, found app=front-end"
    );
}

#[test]
fn the_first_condition_that_failed_is_named() {
    let mut policies = shop();
    let of = |policies: &Policies, source, port| closest(policies, source, "10.0.0.2", port);
    let web = |failed: &[Condition]| ("web[0].0".to_owned(), failed.to_vec());
    use Condition::{Block, Except, Namespace, Peer, PodLabels, PortName, Protocol as WrongProtocol};
    assert_eq!(of(&policies, "10.0.0.4", Some((TCP, 8080))), web(&[Namespace]));
    assert_eq!(of(&policies, "10.0.0.4", Some((TCP, 80))), web(&[Namespace, PortName]));
    assert_eq!(of(&policies, "10.0.0.1", None), web(&[PodLabels, WrongProtocol]));
    assert_eq!(of(&policies, "192.0.2.1", Some((TCP, 8080))), web(&[Peer]));
    assert_eq!(
        closest(&policies, "10.0.0.2", "10.0.0.3", Some((TCP, 5433))),
        ("db[0].0".into(), vec![Condition::Port])
    );
    assert_eq!(
        closest(&policies, "10.0.0.2", "10.0.0.3", Some((Protocol::Udp, 5432))),
        ("db[0].0".into(), vec![WrongProtocol])
    );
    let block = json!({"ipBlock": {"cidr": "198.51.100.0/24", "except": ["198.51.100.128/25"]}});
    network(&mut policies, "out", &json!({"podSelector": {}, "ingress": [{"from": [block]}]}));
    policies.decide();
    assert_eq!(of(&policies, "198.51.100.200", None), ("out[0].0".into(), vec![Except]));
    assert_eq!(of(&policies, "198.51.101.1", None), ("out[0].0".into(), vec![Block]));
    assert!(ask(&policies, "198.51.100.1", "10.0.0.2", None).is_allowed());
}

#[test]
fn without_a_rule_nothing_is_close() {
    let policies = shop();
    let front = ask(&policies, "10.0.0.2", "10.0.0.1", None).ingress.unwrap();
    assert_eq!(
        front.to_string(),
        "ingress of shop/front: denied by default: shop/front is isolated for ingress by networkpolicy/shop/none\n\
         none of them has a rule for ingress, so nothing is permitted"
    );
}

#[test]
fn a_pod_that_nobody_knows_yet_is_told_from_one_that_is_isolated() {
    let mut policies = shop();
    let name = ripstop_types::NamespacedName { namespace: "shop".into(), name: "new".into() };
    policies.put_closed(&name, &["10.0.0.7".parse().unwrap()]);
    policies.decide();
    let found = ask(&policies, "10.0.0.7", "198.51.100.1", None).egress.unwrap();
    assert!(found.is_explained() && found.by == By::Unknown, "{found:?}");
    assert_eq!(found.to_string(), "egress of shop/new: denied until it is known which policies are about the pod");
}

#[test]
fn a_rule_of_the_cluster_is_named_with_its_place() {
    let mut policies = shop();
    let rule = |action: &str| json!([{"action": action, "from": [{"namespaces": {"matchLabels": {"team": "b"}}}]}]);
    for (name, priority, action) in [("late", 7, "Deny"), ("early", 3, "Pass")] {
        let spec =
            json!({"tier": "Admin", "priority": priority, "subject": {"namespaces": {}}, "ingress": rule(action)});
        cluster(&mut policies, &json!({"metadata": {"name": name}, "spec": spec}));
    }
    policies.decide();
    let found = ask(&policies, "10.0.0.4", "10.0.0.2", Some((TCP, 8080))).ingress.unwrap();
    assert!(
        found.to_string().starts_with(
            "ingress of shop/web: denied (left to others by clusternetworkpolicy/early (tier Admin, priority 3) \
         ingress[0]: Pass) by default"
        ),
        "{found}"
    );
    policies.remove_cluster_policy("early");
    policies.decide();
    let found = ask(&policies, "10.0.0.4", "10.0.0.2", Some((TCP, 8080))).ingress.unwrap();
    let denied = "ingress of shop/web: denied by clusternetworkpolicy/late (tier Admin, priority 7) ingress[0]: Deny";
    assert_eq!(found.to_string(), denied);
}

#[test]
fn what_is_staged_is_told_and_not_enforced() {
    let mut policies = shop();
    let spec = json!({"podSelector": {"matchLabels": {"app": "front-end"}}, "policyTypes": ["Egress"]});
    let value = json!({"metadata": {"namespace": "shop", "name": "quiet", "annotations": {"ripstop.io/staged": "true"}},
        "spec": spec});
    let (policy, _) = NetworkPolicy::from_value(&value).unwrap();
    policies.put_policy(&policy);
    assert_eq!(policies.decide(), Default::default());
    let found = ask(&policies, "10.0.0.1", "198.51.100.1", Some((TCP, 443)));
    assert!(found.is_allowed() && !found.is_allowed_staged());
    assert_eq!(
        found.egress.unwrap().to_string(),
        "egress of shop/front: allowed because no policy is about it\nif what is staged were enforced: denied by default: \
         shop/front is isolated for egress by staged networkpolicy/shop/quiet\n\
         none of them has a rule for egress, so nothing is permitted"
    );
    // Once it is enforced, it is.
    policies.put_policy(&NetworkPolicy { staged: false, ..policy });
    policies.decide();
    assert!(!ask(&policies, "10.0.0.1", "198.51.100.1", Some((TCP, 443))).is_allowed());
}

/// Prints what an answer costs where 10,000 policies are in force, all of them about the pod that is asked about.
#[test]
fn figures() {
    let mut policies = shop();
    for place in 0..10_000 {
        let peer = json!({"podSelector": {"matchLabels": {"app": format!("client-{place}"), "tier": "front"}}});
        let rule = json!([{"from": [peer], "ports": [{"port": 8080}]}]);
        network(&mut policies, &format!("p{place}"), &json!({"podSelector": {}, "ingress": rule}));
    }
    policies.decide();
    let mut took: Vec<Duration> = (0..300)
        .map(|place| {
            let start = Instant::now();
            let port = Some((TCP, 8_000 + place % 100));
            assert!(!ask(&policies, "10.0.0.1", "10.0.0.3", port).is_allowed());
            start.elapsed()
        })
        .collect();
    took.sort();
    println!("an answer of 10,000 policies about one pod: p50 {:?}, p99 {:?}", took[150], took[296]);
}
