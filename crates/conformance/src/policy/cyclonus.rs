//! The cases that Cyclonus generates, made anew from what each of them says, by the numbers that it gives them when it runs all.
//!
//! Most are one policy that differs in a single respect from a common one, about pod `x/a`: its target, its rules, the peers or the ports of
//! its first rule. The rest are a few policies at odds with each other; and what has several steps stands in `cases/cyclonus.yaml`. Blocks of
//! addresses are given in both families, so that a case says the same in both.

use serde_json::{Value, json};

use super::cases::{RawCase, RawStep};

/// Where they come from.
pub(super) const CITE: &str = "Cyclonus, pkg/generator";

/// What pods are asked at.
const PORTS: [&str; 6] = ["80/TCP", "80/UDP", "80/SCTP", "81/TCP", "81/UDP", "81/SCTP"];

/// All but those of several steps.
pub(super) fn generated() -> Vec<RawCase> {
    let [in_, out] = [Way::Ingress, Way::Egress];
    let both = |ways: [Way; 2], make: fn(Way) -> Vec<Made>| ways.into_iter().flat_map(make).collect::<Vec<_>>();
    let peers = [in_, out]
        .into_iter()
        .map(|way| Made::of("peers", format!("{way}: empty peers"), base().peers(way, json!([]))));
    let peers = peers.chain(both([in_, out], one_peer)).chain(both([in_, out], two_peers));
    let no_ports = [out, in_]
        .into_iter()
        .map(|way| Made::of("port-protocol", format!("{way}: empty port/protocol"), base().ports(way, json!([]))));
    let ports = no_ports.chain(both([out, in_], one_port)).chain(both([out, in_], two_ports));
    let first = targets().into_iter().chain(both([out, in_], rules)).chain(peers).chain(ports);
    let conflicts = conflicts().into_iter().chain(by_default_label());
    (1..).zip(first).chain((200..).zip(conflicts)).map(|(number, made)| made.numbered(number)).collect()
}

/// A case without its number.
struct Made {
    group: &'static str,
    title: String,
    policies: Vec<(String, Value)>,
}

impl Made {
    fn of(group: &'static str, title: impl Into<String>, policy: Policy) -> Self {
        Self { group, title: title.into(), policies: vec![(format!("{}/base", policy.namespace), policy.spec())] }
    }

    fn numbered(self, number: usize) -> RawCase {
        let step = RawStep::of(self.policies.into_iter().collect(), PORTS.map(String::from).into());
        RawCase { id: format!("cyclonus/{}/{number}: {}", self.group, self.title), steps: vec![step] }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Ingress,
    Egress,
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if *self == Self::Ingress { "ingress" } else { "egress" })
    }
}

/// A policy in the making: rules are pairs of peers and ports.
#[derive(Clone)]
struct Policy {
    namespace: &'static str,
    pods: Value,
    ingress: Option<Vec<(Value, Value)>>,
    egress: Option<Vec<(Value, Value)>>,
}

/// The common one: `x/a` takes 80/TCP from `b` and `c` of `x` and `y`, and sends it to `a` and `b` of `y` and `z`, and asks for names anywhere.
fn base() -> Policy {
    let tcp = json!([{"protocol": "TCP", "port": 80}]);
    let peer = |pods: [&str; 2], spaces: [&str; 2]| json!([{"podSelector": among("pod", &pods), "namespaceSelector": among("ns", &spaces)}]);
    Policy {
        namespace: "x",
        pods: labelled("pod", "a"),
        ingress: Some(vec![(peer(["b", "c"], ["x", "y"]), tcp.clone())]),
        egress: Some(vec![(peer(["a", "b"], ["y", "z"]), tcp), names()]),
    }
}

/// The rule by which names are asked for.
fn names() -> (Value, Value) {
    (json!([]), json!([{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]))
}

fn labelled(key: &str, value: &str) -> Value {
    json!({"matchLabels": {key: value}})
}

fn among(key: &str, values: &[&str]) -> Value {
    json!({"matchExpressions": [{"key": key, "operator": "In", "values": values}]})
}

impl Policy {
    fn rules_of(&mut self, way: Way) -> &mut Vec<(Value, Value)> {
        let rules = if way == Way::Ingress { &mut self.ingress } else { &mut self.egress };
        rules.get_or_insert_default()
    }

    fn rules(mut self, way: Way, rules: Vec<(Value, Value)>) -> Self {
        *self.rules_of(way) = rules;
        self
    }

    fn peers(mut self, way: Way, peers: Value) -> Self {
        self.rules_of(way).iter_mut().take(1).for_each(|rule| rule.0 = peers.clone());
        self
    }

    fn ports(mut self, way: Way, ports: Value) -> Self {
        self.rules_of(way).iter_mut().take(1).for_each(|rule| rule.1 = ports.clone());
        self
    }

    fn spec(&self) -> Value {
        let mut spec = json!({"podSelector": self.pods, "policyTypes": []});
        for (kind, field, end, rules) in
            [("Ingress", "ingress", "from", &self.ingress), ("Egress", "egress", "to", &self.egress)]
        {
            let Some(rules) = rules else { continue };
            spec["policyTypes"].as_array_mut().into_iter().for_each(|types| types.push(kind.into()));
            spec[field] = rules.iter().map(|(peers, ports)| json!({end: peers, "ports": ports})).collect();
        }
        spec
    }
}

fn targets() -> Vec<Made> {
    let spaces = ["x", "y", "z"]
        .map(|namespace| Made::of("target", format!("set namespace to {namespace}"), Policy { namespace, ..base() }));
    let pods = [
        (r#"["MatchLabels",[],"MatchExpression",null]"#, json!({})),
        (r#"["MatchLabels",["pod: a"],"MatchExpression",null]"#, labelled("pod", "a")),
        (
            r#"["MatchLabels",[],"MatchExpression",[{"key":"pod","operator":"In","values":["a","b"]}]]"#,
            among("pod", &["a", "b"]),
        ),
    ]
    .map(|(called, pods)| Made::of("target", format!("set pod selector to {called}"), Policy { pods, ..base() }));
    spaces.into_iter().chain(pods).collect()
}

fn rules(way: Way) -> Vec<Made> {
    let all = vec![(json!([]), json!([]))];
    let of = |what: &str, rules| Made::of("rules", format!("{way}: {what} all"), base().rules(way, rules));
    vec![of("deny", Vec::new()), of("allow", all)]
}

/// Peers with how they are called, each of one peer or of one in each family.
fn peer_kinds() -> Vec<(&'static str, Vec<Value>)> {
    let (all, c, x) = (json!({}), labelled("pod", "c"), labelled("ns", "x"));
    // Around the address of z/c, with eight and with four bits free.
    let blocks = [("10.244.3.0/24", "10.244.3.48/28"), ("fd00:3::/120", "fd00:3::30/124")];
    let block = |with_hole: bool| {
        let block = |(block, hole): &(&str, &str)| match with_hole {
            true => json!({"ipBlock": {"cidr": block, "except": [hole]}}),
            false => json!({"ipBlock": {"cidr": block}}),
        };
        blocks.iter().map(block).collect()
    };
    vec![
        ("empty pods + nil ns", vec![json!({"podSelector": all})]),
        ("pods by label + nil ns", vec![json!({"podSelector": c})]),
        ("nil pods + empty ns", vec![json!({"namespaceSelector": all})]),
        ("empty pods + empty ns", vec![json!({"podSelector": all, "namespaceSelector": all})]),
        ("pods by label + empty ns", vec![json!({"podSelector": c, "namespaceSelector": all})]),
        ("nil pods + ns by label", vec![json!({"namespaceSelector": x})]),
        ("empty pods + ns by label", vec![json!({"podSelector": all, "namespaceSelector": x})]),
        ("pods by label + ns by label", vec![json!({"podSelector": c, "namespaceSelector": x})]),
        ("simple ipblock", block(false)),
        ("ipblock with except", block(true)),
    ]
}

fn one_peer(way: Way) -> Vec<Made> {
    peer_kinds().into_iter().map(|(called, peers)| Made::of("peers", called, base().peers(way, peers.into()))).collect()
}

fn two_peers(way: Way) -> Vec<Made> {
    let (kinds, mut made) = (peer_kinds(), Vec::new());
    for (place, (one, first)) in kinds.iter().enumerate() {
        for (other, second) in &kinds[place + 1..] {
            let peers = first.iter().chain(second).cloned().collect();
            made.push(Made::of("peers", format!("{way}, 2-peer: {one}, {other}"), base().peers(way, peers)));
        }
    }
    made
}

/// A case of ports is called by its tags and the kinds of those, unless it has a name.
fn by_tags(way: Way, ports: &[Value], more: &[&str]) -> Made {
    let mut tags: Vec<String> = more.iter().map(|tag| (*tag).into()).collect();
    tags.extend(["direction".into(), way.to_string(), "port".into()]);
    for port in ports {
        tags.push(match &port["port"] {
            Value::Null => "any-port".into(),
            Value::Number(_) => "numbered-port".into(),
            _ => "named-port".into(),
        });
        if let Some(protocol) = port["protocol"].as_str() {
            tags.extend(["protocol".into(), protocol.to_lowercase()]);
        }
        tags.extend(port.get("endPort").map(|_| "end-port".into()));
    }
    tags.sort();
    tags.dedup();
    Made::of("port-protocol", tags.join(","), base().ports(way, ports.into()))
}

fn one_port(way: Way) -> Vec<Made> {
    let protocols = ["TCP", "UDP", "SCTP"];
    let mut made: Vec<Made> = Vec::new();
    for protocol in [None, Some("TCP"), Some("UDP"), Some("SCTP")] {
        for port in [None, Some(80), Some(81)] {
            let mut of = json!({});
            protocol.into_iter().for_each(|protocol| of["protocol"] = protocol.into());
            port.into_iter().for_each(|port| of["port"] = port.into());
            made.push(by_tags(way, &[of], &[]));
        }
    }
    let each = |second: [Value; 2]| {
        protocols.into_iter().flat_map(move |protocol| second.clone().map(|port| (protocol, port)))
    };
    for (protocol, port) in each([80.into(), 81.into()]) {
        let name = format!("serve-{port}-{}", protocol.to_lowercase());
        made.push(by_tags(way, &[json!({"protocol": protocol, "port": name})], &[]));
    }
    for (protocol, last) in each([80.into(), 84.into()]) {
        made.push(by_tags(way, &[json!({"protocol": protocol, "port": 53, "endPort": last})], &[]));
    }
    made.extend(
        [
            ("open a named port that doesn't match its protocol", Value::from("serve-81-udp")),
            ("open a named port that isn't served", "serve-7981-udp".into()),
            ("open a numbered port that isn't served", 7981.into()),
        ]
        .map(|(title, port)| {
            Made::of("port-protocol", title, base().ports(way, json!([{"protocol": "TCP", "port": port}])))
        }),
    );
    made
}

fn two_ports(way: Way) -> Vec<Made> {
    [
        [json!({}), json!({"port": 80})],
        [json!({}), json!({"port": "serve-80-tcp"})],
        [json!({}), json!({"protocol": "UDP"})],
        [json!({"port": 80}), json!({"port": 81})],
        [json!({"port": 80}), json!({"port": "serve-81-tcp"})],
        [json!({"port": 80}), json!({"protocol": "UDP", "port": "serve-81-udp"})],
        [json!({"protocol": "UDP", "port": 80}), json!({"protocol": "UDP", "port": "serve-81-udp"})],
    ]
    .map(|pair| by_tags(way, &pair, &["multi-port/protocol", "rule"]))
    .into()
}

/// What a policy of a conflict says of all that there is.
#[derive(Clone, Copy)]
enum Says {
    Deny,
    Allow,
    AllowPods,
    AllowBlocks,
    /// Somebody is allowed who is not there.
    DenyPods,
    DenyBlocks,
}

impl Says {
    fn rules(self) -> Vec<(Value, Value)> {
        let blocks = |blocks: [&str; 2]| json!(blocks.map(|block| json!({"ipBlock": {"cidr": block}})));
        let peers = match self {
            Self::Deny => return Vec::new(),
            Self::Allow => json!([]),
            Self::AllowPods => json!([{"namespaceSelector": {}}]),
            Self::AllowBlocks => blocks(["0.0.0.0/0", "::/0"]),
            Self::DenyPods => json!([{"namespaceSelector": labelled("this-will-never-happen", "qrs123")}]),
            Self::DenyBlocks => blocks(["0.0.0.0/31", "::/127"]),
        };
        vec![(peers, json!([]))]
    }
}

fn conflicts() -> Vec<Made> {
    use Says::{Allow, AllowBlocks, AllowPods, Deny, DenyBlocks, DenyPods};
    let ([in_, out], source, destination) = ([Way::Ingress, Way::Egress], ("x", "b"), ("y", "c"));
    let cases = [
        ("deny all from source, allow all to dest", vec![(source, out, Deny), (destination, in_, Allow)]),
        ("allow all from source, deny all to dest", vec![(source, out, Allow), (destination, in_, Deny)]),
        ("deny all + allow all from same source", vec![(source, out, Deny), (source, out, Allow)]),
        ("deny all + allow all to same dest", vec![(destination, in_, Deny), (destination, in_, Allow)]),
        ("deny all + allow all by pod from same source", vec![(source, out, Deny), (source, out, AllowPods)]),
        ("deny all + allow all by IP from same source", vec![(source, out, Deny), (source, out, AllowBlocks)]),
        (
            "deny all by IP + allow all by pod from same source",
            vec![(source, out, DenyBlocks), (source, out, AllowPods)],
        ),
        (
            "deny all by pod + allow all by IP from same source",
            vec![(source, out, DenyPods), (source, out, AllowBlocks)],
        ),
        ("deny all + allow all by pod to same source", vec![(source, in_, Deny), (source, in_, AllowPods)]),
        ("deny all + allow all by IP to same source", vec![(source, in_, Deny), (source, in_, AllowBlocks)]),
        ("deny all by IP + allow all by pod to same source", vec![(source, in_, DenyBlocks), (source, in_, AllowPods)]),
        ("deny all by pod + allow all by IP to same source", vec![(source, in_, DenyPods), (source, in_, AllowBlocks)]),
        ("egress: deny all by IP", vec![(source, out, DenyBlocks)]),
        ("egress: deny all by pod", vec![(source, out, DenyPods)]),
        ("ingress: deny all by IP", vec![(source, in_, DenyBlocks)]),
        ("ingress: deny all by pod", vec![(source, in_, DenyPods)]),
    ];
    let policy = |(namespace, pod): (&'static str, &str)| Policy {
        namespace,
        pods: labelled("pod", pod),
        ingress: None,
        egress: None,
    };
    cases
        .map(|(title, said)| {
            let mut policies: Vec<(String, Value)> = (0..)
                .zip(&said)
                .map(|(place, (target, way, says)): (u8, _)| {
                    let policy = policy(*target).rules(*way, says.rules());
                    (format!("{}/policy-{place}", policy.namespace), policy.spec())
                })
                .collect();
            if said.iter().any(|(_, way, _)| *way == out) {
                policies.push(("x/allow-dns".into(), policy(source).rules(out, vec![names()]).spec()));
            }
            Made { group: "conflict", title: title.into(), policies }
        })
        .into()
}

fn by_default_label() -> Vec<Made> {
    let peers = json!([{"namespaceSelector": labelled("kubernetes.io/metadata.name", "z")}]);
    let of = |way| {
        Made::of("namespace", format!("{way}: select namespace by default label"), base().peers(way, peers.clone()))
    };
    [Way::Ingress, Way::Egress].map(of).into()
}
