//! Policies: each point of the documents once.

use ripstop_objects::policy::{ClusterNetworkPolicy, NetworkPolicy, PolicyName};
use ripstop_objects::service::Protocol;
use ripstop_objects::{ClusterObject, ObjectKind};
use ripstop_oracle::policy::{By, Judgement, Packet, State, Traffic, World, judge, judge_staged};
use serde_json::{Value, json};

/// Namespaces `x` and `y` (label `ns` their names), each with pods `a` and `b` (label `pod` their names), `xa` and `ya` on node `n1`, the
/// others on `n2`. A pod's port 80/TCP is called `serve-80`, 81/UDP `serve-81`.
pub struct Cluster(pub World);

const XA: &str = "10.244.1.1";
const XB: &str = "10.244.2.1";
const YA: &str = "10.244.1.2";
const YB: &str = "10.244.2.2";
const N1: &str = "192.0.2.1";
const N2: &str = "192.0.2.2";
const OUTSIDE: &str = "198.51.100.7";

fn object(kind: ObjectKind, value: &Value) -> ClusterObject {
    ClusterObject::decode(kind, &value.to_string()).unwrap().0
}

impl Cluster {
    pub fn new() -> Self {
        let mut cluster = Self(World::default());
        for (name, ip) in [("n1", N1), ("n2", N2)] {
            let value = json!({"metadata": {"name": name, "labels": {"node": name}},
                "status": {"addresses": [{"type": "InternalIP", "address": ip}]}});
            let ClusterObject::Node(node) = object(ObjectKind::Node, &value) else { panic!() };
            cluster.0.nodes.push(node);
        }
        for name in ["x", "y"] {
            let value = json!({"metadata": {"name": name, "labels": {"ns": name}}});
            let ClusterObject::Namespace(namespace) = object(ObjectKind::Namespace, &value) else { panic!() };
            cluster.0.namespaces.push(namespace);
        }
        for (namespace, name, node, ip) in
            [("x", "a", "n1", XA), ("x", "b", "n2", XB), ("y", "a", "n1", YA), ("y", "b", "n2", YB)]
        {
            cluster.pod(namespace, name, node, ip, 80, json!({}));
        }
        cluster
    }

    /// A pod; `more` stands in its `spec` or, if it is a phase, in its `status`.
    fn pod(&mut self, namespace: &str, name: &str, node: &str, ip: &str, port: u16, more: Value) {
        let mut value = json!({"metadata": {"namespace": namespace, "name": name, "labels": {"pod": name}},
            "spec": {"nodeName": node, "containers": [{"ports": [
                {"name": "serve-80", "containerPort": port}, {"name": "serve-81", "containerPort": 81, "protocol": "UDP"}]}]},
            "status": {"phase": "Running", "podIPs": [{"ip": ip}]}});
        for (key, more) in more.as_object().unwrap() {
            value[if key == "phase" { "status" } else { "spec" }][key] = more.clone();
        }
        let ClusterObject::Pod(pod) = object(ObjectKind::Pod, &value) else { panic!() };
        self.0.pods.push(*pod);
    }

    fn policy(mut self, namespace: &str, name: &str, spec: Value) -> Self {
        let value = json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec});
        let (policy, faults) = NetworkPolicy::from_value(&value).unwrap();
        assert!(faults.is_empty(), "{faults}");
        self.0.policies.push(policy);
        self
    }

    /// A ClusterNetworkPolicy about all pods of namespace `x`.
    fn guard(mut self, name: &str, tier: &str, priority: u16, direction: &str, rules: Value) -> Self {
        let value = json!({"metadata": {"name": name}, "spec": {"tier": tier, "priority": priority,
            "subject": {"namespaces": {"matchLabels": {"ns": "x"}}}, direction: rules}});
        let (policy, faults) = ClusterNetworkPolicy::from_value(&value).unwrap();
        assert!(faults.is_empty(), "{faults}");
        self.0.cluster_policies.push(policy);
        self
    }

    fn judge(&self, from: &str, to: &str, traffic: Traffic) -> Judgement {
        judge(&self.0, &packet(from, to, traffic))
    }

    fn accepts(&self, from: &str, to: &str, traffic: Traffic) -> bool {
        self.judge(from, to, traffic).is_accepted()
    }

    /// Who of these may send to the last, by a new connection of TCP to port 80.
    fn reach<'s>(&self, from: &[&'s str], to: &str) -> Vec<&'s str> {
        from.iter().copied().filter(|from| self.accepts(from, to, HTTP)).collect()
    }
}

const HTTP: Traffic = Traffic::Port(Protocol::Tcp, 80);
const PING: Traffic = Traffic::Other(1);

fn tcp(port: u16) -> Traffic {
    Traffic::Port(Protocol::Tcp, port)
}

fn udp(port: u16) -> Traffic {
    Traffic::Port(Protocol::Udp, port)
}

fn packet(from: &str, to: &str, traffic: Traffic) -> Packet {
    let (source, destination) = (from.parse().unwrap(), to.parse().unwrap());
    Packet { source, destination, traffic, state: State::New, by_service: false }
}

fn rule_of(name: &str, index: usize) -> By {
    By::Rule { policy: PolicyName::Network(name.parse().unwrap()), index }
}

fn guard_rule(name: &str, index: usize) -> By {
    By::Rule { policy: PolicyName::Cluster(name.into()), index }
}

pub const ALL: [&str; 7] = [XA, XB, YA, YB, N1, N2, OUTSIDE];

#[test]
fn without_policies_all_may_talk_to_all() {
    let cluster = Cluster::new();
    assert_eq!(cluster.reach(&ALL, XA), ALL);
    let judged = cluster.judge(OUTSIDE, XA, HTTP);
    assert_eq!((judged.egress, judged.ingress.unwrap().by), (None, By::Nobody));
    assert!(cluster.accepts(XA, OUTSIDE, PING));
}

#[test]
fn a_policy_isolates_whom_it_selects_in_its_directions_and_no_others() {
    let cluster = Cluster::new().policy("x", "deny", json!({"podSelector": {"matchLabels": {"pod": "a"}}}));
    assert_eq!(cluster.reach(&ALL, XA), [XA, N1], "itself and its own node");
    assert_eq!(cluster.reach(&ALL, XB), ALL, "not selected");
    assert_eq!(cluster.reach(&ALL, YA), ALL, "another namespace's");
    assert!(cluster.accepts(XA, YB, HTTP), "egress is not isolated");
    let denied = cluster.judge(YB, XA, HTTP).ingress.unwrap();
    assert_eq!(denied.by, By::Isolation(vec![PolicyName::Network("x/deny".parse().unwrap())]));
    let cluster = Cluster::new().policy("x", "deny", json!({"podSelector": {}, "policyTypes": ["Egress"]}));
    assert!(!cluster.accepts(XA, YB, HTTP) && !cluster.accepts(XA, OUTSIDE, HTTP) && cluster.accepts(YB, XA, HTTP));
    assert!(cluster.accepts(XA, N1, HTTP), "to its own node");
    assert!(!cluster.accepts(XA, N2, HTTP), "not to another");
}

#[test]
fn policies_add_up_and_both_ends_must_agree() {
    let allow =
        |pod: &str| json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": {"matchLabels": {"pod": pod}}}]}]});
    let cluster = Cluster::new().policy("x", "deny", json!({})).policy("x", "b", allow("b"));
    assert_eq!(cluster.reach(&ALL, XA), [XA, XB, N1], "of its own namespace alone");
    assert_eq!(cluster.judge(XB, XA, HTTP).ingress.unwrap().by, rule_of("x/b", 0));
    let cluster = cluster.policy("x", "shut", json!({"policyTypes": ["Egress"]}));
    assert!(!cluster.accepts(XB, XA, HTTP), "its source may not send");
}

#[test]
fn selectors_in_one_peer_narrow_and_in_two_widen() {
    let y = json!({"namespaceSelector": {"matchLabels": {"ns": "y"}}});
    let a = json!({"podSelector": {"matchLabels": {"pod": "a"}}});
    let mut both = y.clone();
    both["podSelector"] = a["podSelector"].clone();
    let reach = |peers: Value| {
        let spec = json!({"podSelector": {"matchLabels": {"pod": "b"}}, "ingress": [{"from": peers}]});
        Cluster::new().policy("x", "p", spec).reach(&[XA, YA, YB, OUTSIDE], XB)
    };
    assert_eq!(reach(json!([both])), [YA]);
    assert_eq!(reach(json!([y, a])), [XA, YA, YB]);
    assert_eq!(reach(json!([{"namespaceSelector": {}}])), [XA, YA, YB], "pods, and not everybody");
    assert_eq!(reach(json!([{"podSelector": {}}])), [XA]);
    let by_name = json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "y"}}});
    assert_eq!(reach(json!([by_name])), [YA, YB]);
    let expression = |operator: &str, values: Value| {
        let expression = json!({"key": "pod", "operator": operator, "values": values});
        reach(json!([{"namespaceSelector": {}, "podSelector": {"matchExpressions": [expression]}}]))
    };
    assert_eq!(expression("NotIn", json!(["a"])), [YB]);
    assert_eq!(expression("In", json!(["a", "c"])), [XA, YA]);
    assert_eq!(expression("Exists", json!(null)), [XA, YA, YB]);
    assert!(expression("DoesNotExist", json!(null)).is_empty());
}

#[test]
fn empty_lists_and_rules_without_limits_differ() {
    let reach = |spec: Value| Cluster::new().policy("x", "p", spec).reach(&[YA, OUTSIDE], XA);
    assert!(reach(json!({"ingress": []})).is_empty());
    assert_eq!(reach(json!({"ingress": [{}]})), [YA, OUTSIDE]);
    assert_eq!(reach(json!({"ingress": [{"from": [], "ports": []}]})), [YA, OUTSIDE]);
    let cluster = Cluster::new().policy("x", "p", json!({"ingress": [{"ports": [{"protocol": "UDP"}]}]}));
    assert!(cluster.accepts(YA, XA, udp(5)) && !cluster.accepts(YA, XA, tcp(5)));
}

#[test]
fn blocks_are_of_addresses_and_have_holes() {
    let block = json!({"cidr": "10.244.0.0/16", "except": ["10.244.2.0/24", "10.244.1.2/32"]});
    let cluster = Cluster::new().policy("x", "p", json!({"ingress": [{"from": [{"ipBlock": block}]}]}));
    assert_eq!(cluster.reach(&ALL, XB), [XA, XB, N2]);
    // CVE-2026-56743: a block is no namespace, however wide it is.
    let wide = json!({"cidr": "0.0.0.0/0"});
    let cluster = Cluster::new().policy("x", "p", json!({"ingress": [{"from": [{"ipBlock": wide}]}]}));
    assert_eq!(cluster.reach(&ALL, XB), ALL);
}

#[test]
fn ports_are_single_in_ranges_and_of_a_protocol() {
    let ports = json!([{"port": 80}, {"port": 90, "endPort": 92}, {"protocol": "UDP", "port": 53}, {"protocol": "SCTP", "port": 7}]);
    let cluster = Cluster::new().policy("x", "p", json!({"ingress": [{"ports": ports}]}));
    let passes = |traffic| cluster.accepts(YA, XA, traffic);
    assert!(passes(tcp(80)) && passes(tcp(90)) && passes(tcp(92)) && passes(udp(53)));
    assert!(!passes(tcp(79)) && !passes(tcp(89)) && !passes(tcp(93)) && !passes(udp(80)) && !passes(tcp(53)));
    assert!(passes(Traffic::Port(Protocol::Sctp, 7)) && !passes(tcp(7)), "a rule of SCTP never opens TCP");
    assert!(!passes(PING), "what has no ports is in no rule with ports");
}

#[test]
fn a_named_port_is_its_destinations() {
    let named = json!([{"port": "serve-80"}, {"port": "serve-81", "protocol": "UDP"}]);
    let cluster = Cluster::new().policy("x", "p", json!({"ingress": [{"ports": named}]}));
    assert!(cluster.accepts(YA, XA, tcp(80)) && cluster.accepts(YA, XA, udp(81)));
    assert!(!cluster.accepts(YA, XA, udp(80)) && !cluster.accepts(YA, XA, tcp(81)), "of its container's protocol");
    // On egress one name is one number here and another there, and nothing where there is no pod.
    let mut cluster = Cluster::new().policy(
        "x",
        "p",
        json!({"policyTypes": ["Egress"], "egress": [{"ports": [{"port": "serve-80"}]}]}),
    );
    cluster.pod("y", "c", "n1", "10.244.1.3", 8080, json!({}));
    assert!(cluster.accepts(XA, YA, tcp(80)) && !cluster.accepts(XA, YA, tcp(8080)));
    assert!(cluster.accepts(XA, "10.244.1.3", tcp(8080)) && !cluster.accepts(XA, "10.244.1.3", tcp(80)));
    assert!(!cluster.accepts(XA, OUTSIDE, tcp(80)));
}

#[test]
fn other_protocols_are_isolated_too_and_errors_and_discovery_pass() {
    let cluster = Cluster::new().policy("x", "deny", json!({}));
    assert!(!cluster.accepts(YA, XA, PING) && !cluster.accepts(YA, XA, Traffic::Other(47)));
    assert!(cluster.accepts(YA, XA, Traffic::Discovery));
    let known = Packet { state: State::Known, ..packet(YA, XA, PING) };
    assert!(judge(&cluster.0, &known).is_accepted());
    let open = Cluster::new().policy("x", "open", json!({"ingress": [{}]}));
    assert!(open.accepts(YA, XA, PING));
}

#[test]
fn pods_of_the_hosts_network_are_their_node() {
    let peers = json!([{"namespaceSelector": {}}, {"podSelector": {}}]);
    let mut cluster = Cluster::new().policy("x", "p", json!({"ingress": [{"from": peers}]}));
    cluster.pod("x", "host", "n2", N2, 80, json!({"hostNetwork": true}));
    assert!(!cluster.accepts(N2, XA, HTTP), "no selector takes it");
    assert!(cluster.accepts(N2, XB, HTTP), "it is the node of this one");
    assert!(cluster.accepts(YA, N2, HTTP), "and no policy is about it");
    // CVE-2025-30163: what is for one node is for no other.
    assert!(!cluster.accepts(N1, XB, HTTP));
    let block = json!({"cidr": "192.0.2.1/32"});
    let cluster = cluster.policy("x", "q", json!({"ingress": [{"from": [{"ipBlock": block}]}]}));
    assert!(cluster.accepts(N1, XB, HTTP), "by its address it can be let in");
}

#[test]
fn a_finished_pod_is_out_of_every_set_at_once() {
    let peers = json!([{"podSelector": {"matchLabels": {"pod": "done"}}}]);
    let mut cluster = Cluster::new().policy("x", "p", json!({"ingress": [{"from": peers}]}));
    for phase in ["Succeeded", "Failed"] {
        cluster.0.pods.retain(|pod| &*pod.name.name != "done");
        cluster.pod("x", "done", "n2", "10.244.2.9", 80, json!({"phase": phase}));
        assert!(!cluster.accepts("10.244.2.9", XA, HTTP), "{phase}");
    }
    // Its address is another's by now, which no policy is about.
    cluster.pod("y", "next", "n2", "10.244.2.9", 80, json!({}));
    assert_eq!(cluster.0.pod_at("10.244.2.9".parse().unwrap()).unwrap().name.to_string(), "y/next");
    cluster.pod("x", "running", "n2", "10.244.2.8", 80, json!({}));
    assert!(!cluster.accepts("10.244.2.8", XA, HTTP));
}

#[test]
fn what_is_staged_is_told_and_not_enforced() {
    let mut cluster = Cluster::new().policy("x", "deny", json!({})).guard(
        "guard",
        "Admin",
        0,
        "egress",
        json!([{"action": "Deny", "to": [{"namespaces": {}}]}]),
    );
    cluster.0.policies[0].staged = true;
    cluster.0.cluster_policies[0].staged = true;
    assert!(cluster.accepts(YA, XA, HTTP) && cluster.accepts(XA, YA, HTTP));
    let staged = |from, to| judge_staged(&cluster.0, &packet(from, to, HTTP)).is_accepted();
    assert!(!staged(YA, XA) && !staged(XA, YA) && staged(YA, YB));
}

#[test]
fn tiers_are_asked_in_order_and_rules_by_priority() {
    let everybody = json!([{"namespaces": {}}]);
    let rule = |action: &str| json!([{"action": action, "from": everybody}]);
    let shut = |cluster: Cluster| cluster.policy("x", "deny", json!({}));
    let open = |cluster: Cluster| cluster.policy("x", "open", json!({"ingress": [{}]}));
    let admin = |action| Cluster::new().guard("g", "Admin", 5, "ingress", rule(action));
    let base = |action| Cluster::new().guard("g", "Baseline", 5, "ingress", rule(action));
    assert!(shut(admin("Accept")).accepts(YA, XA, HTTP), "Admin goes before NetworkPolicy");
    assert!(!open(admin("Deny")).accepts(YA, XA, HTTP));
    assert!(open(admin("Pass")).accepts(YA, XA, HTTP) && !shut(admin("Pass")).accepts(YA, XA, HTTP));
    assert!(open(base("Deny")).accepts(YA, XA, HTTP), "Baseline is for those that no NetworkPolicy isolates");
    assert!(!shut(base("Accept")).accepts(YA, XA, HTTP));
    assert!(!base("Deny").accepts(YA, XA, HTTP) && base("Deny").accepts(OUTSIDE, XA, HTTP), "the outside is no pod");
    let both = admin("Accept").guard("first", "Admin", 4, "ingress", rule("Deny"));
    assert_eq!(both.judge(YA, XA, HTTP).ingress.unwrap().by, guard_rule("first", 0));
    let equal = admin("Accept").guard("a", "Admin", 5, "ingress", rule("Deny"));
    assert_eq!(equal.judge(YA, XA, HTTP).ingress.unwrap().by, guard_rule("a", 0), "of equals by name");
    // Pass leaves the whole tier, and only it.
    let pass = admin("Deny").guard("first", "Admin", 4, "ingress", rule("Pass"));
    assert!(pass.accepts(YA, XA, HTTP));
    assert!(!pass.guard("base", "Baseline", 0, "ingress", rule("Deny")).accepts(YA, XA, HTTP));
}

#[test]
fn the_first_rule_that_matches_decides_and_no_match_goes_on() {
    let rules = json!([
        {"action": "Accept", "from": [{"pods": {"podSelector": {"matchLabels": {"pod": "a"}}}}], "protocols": [{"tcp": {"destinationPort": {"number": 80}}}]},
        {"action": "Deny", "from": [{"namespaces": {"matchLabels": {"ns": "y"}}}]},
    ]);
    let cluster = Cluster::new().guard("g", "Admin", 0, "ingress", rules);
    assert_eq!(cluster.judge(YA, XB, HTTP).ingress.unwrap().by, guard_rule("g", 0));
    assert_eq!(cluster.judge(YA, XB, tcp(81)).ingress.unwrap().by, guard_rule("g", 1));
    assert_eq!(
        cluster.judge(YA, XB, PING).ingress.unwrap().by,
        guard_rule("g", 1),
        "a rule without protocols is about all"
    );
    assert!(!cluster.accepts(YB, XB, HTTP) && cluster.accepts(XA, XB, tcp(81)) && cluster.accepts(OUTSIDE, XB, HTTP));
    assert!(cluster.accepts(YB, YA, HTTP), "not about namespace y");
}

#[test]
fn nodes_and_networks_are_peers_of_egress() {
    let n2 = json!([{"action": "Deny", "to": [{"nodes": {"matchLabels": {"node": "n2"}}}]}]);
    let cluster = Cluster::new().guard("g", "Admin", 0, "egress", n2);
    assert!(!cluster.accepts(XA, N2, HTTP) && cluster.accepts(XA, N1, HTTP) && cluster.accepts(XA, YB, HTTP));
    assert!(!cluster.accepts(XB, N2, HTTP), "its own node as well: the API exempts only what comes from there");
    let networks = json!([{"action": "Deny", "to": [{"networks": ["10.244.0.0/16", "198.51.100.0/24"]}]}]);
    let cluster = Cluster::new().guard("g", "Baseline", 0, "egress", networks);
    assert!(!cluster.accepts(XA, YB, HTTP) && !cluster.accepts(XA, OUTSIDE, PING) && cluster.accepts(XA, N1, HTTP));
    let named =
        json!([{"action": "Deny", "to": [{"namespaces": {}}], "protocols": [{"destinationNamedPort": "serve-81"}]}]);
    let cluster = Cluster::new().guard("g", "Admin", 0, "egress", named);
    assert!(
        !cluster.accepts(XA, YB, udp(81)) && cluster.accepts(XA, YB, tcp(81)) && cluster.accepts(XA, OUTSIDE, udp(81))
    );
}

#[test]
fn a_node_reaches_its_own_pods_whatever_is_said() {
    let deny = json!([{"action": "Deny", "from": [{"namespaces": {}}]}]);
    let cluster = Cluster::new().guard("g", "Admin", 0, "ingress", deny).policy("x", "deny", json!({}));
    assert_eq!(cluster.judge(N1, XA, HTTP).ingress.unwrap().by, By::OwnNode);
    assert!(!cluster.accepts(N2, XA, HTTP));
}

#[test]
fn a_pod_reaches_itself_and_through_a_service_as_cluster_network_policies_say() {
    let hairpin = Packet { by_service: true, ..packet(XA, XA, HTTP) };
    let shut = json!({"policyTypes": ["Ingress", "Egress"]});
    let cluster = Cluster::new().policy("x", "deny", shut);
    assert!(cluster.accepts(XA, XA, HTTP));
    assert!(judge(&cluster.0, &hairpin).is_accepted(), "no NetworkPolicy keeps a pod from itself");
    let deny = json!([{"action": "Deny", "from": [{"namespaces": {}}]}]);
    for tier in ["Admin", "Baseline"] {
        let cluster = Cluster::new().guard("g", tier, 0, "ingress", deny.clone());
        assert!(cluster.accepts(XA, XA, HTTP));
        assert!(!judge(&cluster.0, &hairpin).is_accepted(), "{tier}");
    }
}

#[test]
fn a_namespace_that_is_not_there_is_taken_by_no_selector() {
    let peers = json!([{"namespaceSelector": {"matchExpressions": [{"key": "ns", "operator": "DoesNotExist"}]}}, {"namespaceSelector": {}}]);
    let mut cluster = Cluster::new().policy("x", "p", json!({"ingress": [{"from": peers}]}));
    cluster.pod("gone", "a", "n2", "10.244.2.9", 80, json!({}));
    assert!(!cluster.accepts("10.244.2.9", XA, HTTP));
    let cluster = cluster.policy("gone", "deny", json!({}));
    assert!(!cluster.accepts(YA, "10.244.2.9", HTTP), "its own policies hold");
}

#[test]
fn a_world_is_written_and_read_again() {
    let cluster = Cluster::new().policy("x", "p", json!({"ingress": [{"ports": [{"port": "a"}]}]})).guard(
        "g",
        "Admin",
        0,
        "egress",
        json!([{"action": "Pass", "to": [{"nodes": {}}]}]),
    );
    let text = serde_json::to_string(&cluster.0).unwrap();
    assert_eq!(serde_json::from_str::<World>(&text).unwrap(), cluster.0);
}
