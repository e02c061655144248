//! Large clusters: what they come to, and that a change in one touches what it has to and no more.

use std::time::Instant;

use ripstop_objects::policy::{Action, NetworkPolicy, Operator, Peer, PolicyRule, PortMatch, Requirement, Selector};
use ripstop_objects::service::Protocol;
use ripstop_objects::{KubeNamespace, KubePod, ObjectLabels};
use ripstop_policy::{Gate, Lead, Policies, Way};
use ripstop_types::{NamespacedName, NodeName};
use std::net::{IpAddr, Ipv4Addr};

fn label(key: &str, value: &str) -> Selector {
    Selector::new([Requirement { key: key.into(), operator: Operator::In(vec![value.into()]) }])
}

fn name(namespace: &str, name: &str) -> NamespacedName {
    NamespacedName { namespace: namespace.into(), name: name.into() }
}

fn address(place: u32) -> IpAddr {
    Ipv4Addr::from_bits(0x0a00_0000 + place).into()
}

fn pod(namespace: &str, pod: &str, label: (&str, &str), place: u32, node: &NodeName) -> KubePod {
    KubePod {
        name: name(namespace, pod),
        uid: "".into(),
        labels: ObjectLabels::from([(label.0.into(), label.1.into())]),
        node: Some(node.clone()),
        ips: vec![address(place)],
        host_network: false,
        phase: "Running".into(),
        ports: Vec::new(),
        probes: Vec::new(),
    }
}

/// Lets pods with a label in from those with one, at a port.
fn allow(namespace: &str, policy: &str, to: Selector, from: Selector, port: Option<u16>) -> NetworkPolicy {
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

fn namespace(name: &str) -> KubeNamespace {
    KubeNamespace { name: name.into(), labels: ObjectLabels::new() }
}

/// The objects of a cluster.
#[derive(Default)]
struct Objects {
    namespaces: Vec<KubeNamespace>,
    policies: Vec<NetworkPolicy>,
    pods: Vec<KubePod>,
}

impl Objects {
    /// So many namespaces, each with a policy that denies and two that allow, and four pods of two kinds.
    fn many_namespaces(count: u32, node: &NodeName) -> Self {
        let mut all = Self::default();
        for place in 0..count {
            let own = format!("namespace-{place}");
            all.namespaces.push(namespace(&own));
            all.policies.push(deny(&own));
            for kind in ["app-1", "app-2"] {
                all.policies.push(allow(&own, kind, label(kind, &own), label(kind, &own), None));
            }
            for (pods, kind) in [(0..2, "app-1"), (2..4, "app-2")] {
                for place in pods.map(|pod| place * 4 + pod) {
                    all.pods.push(pod(&own, &format!("pod-{place}"), (kind, &own), place, node));
                }
            }
        }
        all
    }

    /// One namespace with so many pods, each with a policy of its own.
    fn one_namespace(count: u32, node: &NodeName) -> Self {
        let mut all = Self { namespaces: vec![namespace("x")], ..Self::default() };
        for place in 0..count {
            let own = format!("app-{place}");
            all.pods.push(pod("x", &own, ("app", &own), place, node));
            all.policies.push(allow("x", &own, label("app", &own), label("app", &own), None));
        }
        all
    }

    fn put(&self, policies: &mut Policies) {
        self.namespaces.iter().for_each(|namespace| policies.put_namespace(namespace));
        self.pods.iter().for_each(|pod| policies.put_pod(pod));
        self.policies.iter().for_each(|policy| policies.put_policy(policy));
    }
}

fn node() -> NodeName {
    "n1".parse().unwrap()
}

#[test]
fn each_namespace_costs_its_own() {
    let mut policies = Policies::new(None);
    Objects::many_namespaces(500, &node()).put(&mut policies);
    let changes = policies.decide();
    assert_eq!((changes.subjects.len(), changes.ports.len(), changes.peers.len()), (2_000, 0, 1_000));
    assert!(policies.passes(Gate::Ingress, address(0), address(1), None));
    assert!(!policies.passes(Gate::Ingress, address(0), address(2), None));
    assert!(!policies.passes(Gate::Ingress, address(0), address(4), None));
    // One pod more is one exception in one table.
    policies.put_pod(&pod("namespace-7", "more", ("app-1", "namespace-7"), 9_999, &node()));
    let changes = policies.decide();
    assert_eq!((changes.subjects.len(), changes.peers.len(), changes.exceptions.len()), (1, 0, 1));
    policies.remove_pod(&name("namespace-7", "more"));
    let changes = policies.decide();
    assert_eq!((changes.subjects.len(), changes.peers.len(), changes.exceptions.len()), (1, 0, 1));
    // Nothing changes by what says the same.
    Objects::many_namespaces(500, &node()).put(&mut policies);
    assert_eq!(policies.decide(), Default::default());
}

#[test]
fn of_a_thousand_policies_about_a_pod_one_look_is_left() {
    let mut policies = Policies::new(None);
    policies.put_namespace(&namespace("x"));
    policies.put_pod(&pod("x", "server", ("app", "server"), 0, &node()));
    for place in 0..1_000 {
        let client = format!("client-{place}");
        policies.put_pod(&pod("x", &client, ("app", &client), place + 1, &node()));
        policies.put_policy(&allow("x", &client, label("app", "server"), label("app", &client), Some(80)));
    }
    policies.decide();
    let Lead::Ports(name) = policies.lead(Gate::Ingress, address(0)) else { panic!() };
    let table = policies.port_table(&name).unwrap();
    let ways: Vec<Way> = table.of(Protocol::Tcp).iter().map(|(_, way)| *way).collect();
    assert!(matches!(ways[..], [Way::Deny, Way::Peers(_), Way::Deny]), "{ways:?}");
    assert_eq!(policies.peer_tables().count(), 1);
    assert!(policies.passes(Gate::Ingress, address(0), address(500), Some((Protocol::Tcp, 80))));
    assert!(!policies.passes(Gate::Ingress, address(0), address(1_001), Some((Protocol::Tcp, 80))));
}

/// Prints what large clusters cost here. Figures belong to whoever measures, so nothing is asserted of them.
#[test]
fn figures() {
    let timed = |what: &str, objects: &Objects| {
        let (mut policies, before, start, used) = (Policies::new(None), resident(), Instant::now(), cpu());
        objects.put(&mut policies);
        policies.decide();
        let (took, used) = (start.elapsed(), cpu() - used);
        println!("{what}: {used} ms of a core in {took:?}, {} MB", (resident() - before) / 1024);
        policies
    };
    let mut policies =
        timed("25,000 namespaces, 75,000 policies, 100,000 pods", &Objects::many_namespaces(25_000, &node()));
    let start = Instant::now();
    policies.put_pod(&pod("namespace-7", "pod-28", ("app-1", "namespace-7"), 999_999, &node()));
    policies.decide();
    println!("a changed address: {:?}", start.elapsed());
    drop(policies);
    timed("10,000 policies, 10,000 pods in one namespace", &Objects::one_namespace(10_000, &node()));
}

/// Milliseconds that this process has used of cores (proc(5): fields 14 and 15, in hundredths of a second).
fn cpu() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>() * 10
}

/// Memory that this process has, in kilobytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|size| size.parse().ok()).unwrap_or_default()
}
