//! Faults as people make them: each breaks one connection that a rule permits, and the explanation names the rule and the fault.

use std::net::IpAddr;

use proptest::prelude::RngExt;
use proptest::test_runner::{RngAlgorithm, TestRng};
use ripstop_objects::policy::NetworkPolicy;
use ripstop_objects::service::Protocol;
use ripstop_policy::Policies;
use ripstop_policy::explain::{By, Condition, Question};
use serde_json::{Value, json};

use super::explain::put_value;

/// How many.
const FAULTS: usize = 500;
/// How many of a hundred must be named.
const NAMED: usize = 98;

const APPS: [&str; 6] = ["frontend", "checkout", "payments", "inventory", "postgres", "metrics"];
const NAMESPACES: [(&str, &str); 3] = [("shop", "retail"), ("bank", "finance"), ("ops", "platform")];
const PORTS: [(&str, u16); 6] =
    [("http", 8_080), ("grpc", 9_000), ("api", 8_443), ("admin", 9_990), ("postgres", 5_432), ("metrics", 9_100)];

/// A cluster: in each namespace a pod of each app, and for each app a policy with three rules.
#[derive(Clone)]
struct Cluster {
    namespaces: Vec<Value>,
    pods: Vec<Value>,
    policies: Vec<Value>,
}

fn address(namespace: usize, app: usize) -> String {
    format!("10.{}.0.{}", namespace + 1, app + 1)
}

impl Cluster {
    fn new() -> Self {
        let namespace = |(name, team): &(&str, &str)| json!({"metadata": {"name": name, "labels": {"team": team}}});
        let pod = |n: usize, a: usize| {
            let ports: Vec<Value> = vec![json!({"name": PORTS[a].0, "containerPort": PORTS[a].1})];
            json!({"metadata": {"namespace": NAMESPACES[n].0, "name": APPS[a], "uid": "", "labels": {"app": APPS[a], "part-of": "store"}},
                "spec": {"containers": [{"name": "c", "ports": ports}]},
                "status": {"phase": "Running", "podIP": address(n, a), "podIPs": [{"ip": address(n, a)}]}})
        };
        let places = || (0..NAMESPACES.len()).flat_map(|n| (0..APPS.len()).map(move |a| (n, a)));
        Self {
            namespaces: NAMESPACES.iter().map(namespace).collect(),
            pods: places().map(|(n, a)| pod(n, a)).collect(),
            policies: places().map(|(n, a)| Self::policy(n, a)).collect(),
        }
    }

    /// Rule 0: the next app of the namespace, by the port's name; rule 1: another app of the next namespace, by its number; rule 2: a block.
    fn policy(n: usize, a: usize) -> Value {
        let other = (n + 1) % NAMESPACES.len();
        let near = json!({"from": [{"podSelector": {"matchLabels": {"app": APPS[(a + 1) % 6]}}}], "ports": [{"port": PORTS[a].0}]});
        let far = json!({"from": [{"namespaceSelector": {"matchLabels": {"team": NAMESPACES[other].1}},
            "podSelector": {"matchLabels": {"app": APPS[(a + 2) % 6]}}}], "ports": [{"port": PORTS[a].1}]});
        let block = json!({"from": [{"ipBlock": {"cidr": format!("198.51.{}.0/24", 100 + a)}}], "ports": [{"port": PORTS[a].1}]});
        json!({"metadata": {"namespace": NAMESPACES[n].0, "name": APPS[a]},
            "spec": {"podSelector": {"matchLabels": {"app": APPS[a]}}, "ingress": [near, far, block]}})
    }

    fn policies(&self) -> Policies {
        let mut policies = Policies::new(None);
        for (kind, all) in [("Namespace", &self.namespaces), ("Pod", &self.pods)] {
            all.iter().for_each(|value| put_value(&mut policies, kind, value));
        }
        for value in &self.policies {
            let (policy, faults) = NetworkPolicy::from_value(value).unwrap();
            assert!(faults.is_empty(), "{faults}");
            policies.put_policy(&policy);
        }
        policies.decide();
        policies
    }
}

/// Who asks for what.
struct Case {
    cluster: Cluster,
    question: Question,
    rule: usize,
    fault: Condition,
}

/// A word with a slip, of which there are four kinds; the last is of case.
fn slip(rng: &mut TestRng, word: &str, kinds: u8) -> String {
    let place = rng.random_range(1..word.len() - 1);
    match rng.random_range(0..kinds) {
        0 => format!("{}{}", &word[..place], &word[place + 1..]),
        1 => format!("{}x{}", &word[..place], &word[place..]),
        2 => format!("{}-{}", &word[..place], &word[place..]),
        _ => word.to_uppercase(),
    }
}

impl Case {
    fn draw(rng: &mut TestRng) -> Self {
        let (n, a) = (rng.random_range(0..NAMESPACES.len()), rng.random_range(0..APPS.len()));
        let place = |n: usize, a: usize| n * APPS.len() + a;
        let mut cluster = Cluster::new();
        let (rule, client) = match rng.random_range(0..3) {
            0 => (0, Some((n, (a + 1) % 6))),
            1 => (1, Some(((n + 1) % 3, (a + 2) % 6))),
            _ => (2, None),
        };
        let source = client.map_or_else(|| format!("198.51.{}.77", 100 + a), |(n, a)| address(n, a));
        let (mut protocol, mut port) = (Protocol::Tcp, PORTS[a].1);
        let fault = match (rng.random_range(0..6), client) {
            (0, Some((n, a))) => {
                cluster.pods[place(n, a)]["metadata"]["labels"]["app"] = slip(rng, APPS[a], 4).into();
                Condition::PodLabels
            }
            (1, Some((n, a))) => {
                let labels = &mut cluster.pods[place(n, a)]["metadata"]["labels"];
                *labels = json!({"App": labels["app"], "part-of": "store"});
                Condition::PodLabels
            }
            (2, Some((n, _))) if rule == 1 => {
                let labels = &mut cluster.namespaces[n]["metadata"]["labels"];
                *labels = if rng.random() { json!({}) } else { json!({"team": slip(rng, NAMESPACES[n].1, 4)}) };
                Condition::Namespace
            }
            (3, Some(_)) if rule == 0 => {
                let spec = &mut cluster.pods[place(n, a)]["spec"];
                spec["containers"][0]["ports"][0]["name"] = slip(rng, PORTS[a].0, 3).into();
                Condition::PortName
            }
            (3, None) => {
                let block = &mut cluster.policies[place(n, a)]["spec"]["ingress"][2]["from"][0]["ipBlock"];
                block["except"] = json!([format!("198.51.{}.64/26", 100 + a)]);
                Condition::Except
            }
            (4, _) => {
                protocol = Protocol::Udp;
                if rule == 0 { Condition::PortName } else { Condition::Protocol }
            }
            _ => {
                port += 1;
                if rule == 0 { Condition::PortName } else { Condition::Port }
            }
        };
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let question = Question {
            source: ip(&source),
            destination: ip(&address(n, a)),
            port: Some((protocol, port)),
            by_service: false,
        };
        Self { cluster, question, rule, fault }
    }

    /// What else the explanation names; `None`: the fault.
    fn differs(&self) -> Option<String> {
        let found = self.cluster.policies().explain(&self.question).ingress.unwrap();
        let By::Isolation { closest: Some(closest), .. } = &found.by else { panic!("{:?}: {found}", self.question) };
        let named = (closest.rule.rule, closest.failed[0].condition);
        (named != (self.rule, self.fault)).then(|| format!("{:?} {:?} {found}", self.fault, self.question))
    }
}

#[test]
fn the_fault_is_named() {
    let mut rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let others: Vec<String> = (0..FAULTS).filter_map(|_| Case::draw(&mut rng).differs()).collect();
    println!("of {FAULTS} planted faults {} are named", FAULTS - others.len());
    assert!(others.len() * 100 <= FAULTS * (100 - NAMED), "{}", others.join("\n"));
}
