//! Cases as data: policies as Kubernetes writes them, and who reaches whom then, in both families, directly and by a Service.
//!
//! A case is about one of three clusters of three nodes. Two have nine pods, `a`, `b` and `c` in namespaces `x`, `y` and `z`, in one of them
//! with labels of their own: what is said of a probe is said of all pairs of them. The third has houses of two pods each; what is sent there
//! is said packet by packet.
//!
//! Of Cyclonus' cases nobody wrote down what is right: it evaluates policies by itself, and here the oracle does.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::OnceLock;

use ripstop_objects::policy::{ClusterNetworkPolicy, NetworkPolicy};
use ripstop_objects::service::Protocol;
use ripstop_objects::{KubeNamespace, KubeNode, KubePod, NAMESPACE_NAME_LABEL, ObjectLabels, PodPort};
use ripstop_oracle::policy::{Packet, State, Traffic, World, judge};
use ripstop_types::{Family, NamespacedName};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Change, cyclonus, node_ips};

/// The names of upstream's cases, each on a line. Every one has a case here.
pub const UPSTREAM: &str = include_str!("cases/upstream.txt");

/// The cases that Cyclonus generates, in its order, each on a line: the name, and for each step how many packets between different pods its
/// own evaluator denies, by port.
pub const CYCLONUS: &str = include_str!("cases/cyclonus.txt");

const FILES: &[(&str, &str)] = &[
    ("netpol.yaml", include_str!("cases/netpol.yaml")),
    ("cluster.yaml", include_str!("cases/cluster.yaml")),
    ("cyclonus.yaml", include_str!("cases/cyclonus.yaml")),
    ("advisories.yaml", include_str!("cases/advisories.yaml")),
];

/// A case.
#[derive(Debug)]
pub struct Case {
    /// Its name, unique and for good.
    pub id: String,
    /// The document that says so.
    pub cite: String,
    cluster: Cluster,
    steps: Vec<RawStep>,
}

impl Case {
    /// Its steps, one after the other. The first makes the cluster. There may be thousands of probes, so they are made when asked for.
    ///
    /// # Errors
    /// What is wrong with the case. The tests see to it that nothing is.
    pub fn steps(&self) -> Result<Vec<Step>, String> {
        let (mut start, mut world) = (self.cluster.start(), World::default());
        let mut steps = Vec::new();
        for raw in &self.steps {
            let mut step = self.cluster.step(raw)?;
            step.changes.splice(0..0, start.drain(..));
            step.changes.iter().for_each(|change| change.apply(&mut world));
            for port in &raw.judged {
                step.probes.append(&mut judged(&world, port)?);
            }
            steps.push(step);
        }
        Ok(steps)
    }

    /// The names of its parts, where it has several.
    pub fn parts(&self) -> impl Iterator<Item = &str> {
        self.steps.iter().filter_map(|step| step.name.as_deref())
    }
}

/// Changes, and who reaches whom behind them.
#[derive(Debug, Clone)]
pub struct Step {
    /// Its own name, where the case has several parts; none: it belongs to the part before.
    pub name: Option<String>,
    /// In their order.
    pub changes: Vec<Change>,
    /// In any order.
    pub probes: Vec<Probe>,
}

/// A packet and what is right.
#[derive(Debug, Clone)]
pub struct Probe {
    /// Between whom, for a person: `x/a > y/b`.
    pub name: String,
    /// The packet.
    pub packet: Packet,
    /// Whether it arrives. What does not is never refused: nobody answers.
    pub arrives: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    cite: String,
    #[serde(default)]
    cluster: Cluster,
    cases: Vec<RawCase>,
}

/// Whom cases are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Cluster {
    #[default]
    Pods,
    /// The same whose namespaces have the label `ns`.
    Labelled,
    Houses,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCase {
    pub id: String,
    pub steps: Vec<RawStep>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawStep {
    name: Option<String>,
    /// Specs of NetworkPolicies, by `namespace/name`.
    apply: BTreeMap<String, Value>,
    /// Specs of ClusterNetworkPolicies, by name.
    cluster: BTreeMap<String, Value>,
    /// Policies that go, by the same names.
    remove: Vec<String>,
    /// Labels of pods, beside which they have no others. One that was not there comes.
    pods: BTreeMap<String, ObjectLabels>,
    /// Pods, `x/d`, and namespaces, `w`, that leave.
    leave: Vec<String>,
    /// Labels of nodes beside that of their system.
    nodes: BTreeMap<String, ObjectLabels>,
    /// Labels of namespaces beside that of their name.
    namespaces: BTreeMap<String, ObjectLabels>,
    probes: Vec<RawProbe>,
    /// Ports that all pods are asked at by all, of which the oracle says what is right.
    judged: Vec<String>,
    /// Single packets, `g/0 > r/1 80/TCP`, that arrive,
    passes: Vec<String>,
    /// and that do not.
    denied: Vec<String>,
}

impl RawStep {
    /// Policies, and what pods are asked at then.
    pub fn of(apply: BTreeMap<String, Value>, judged: Vec<String>) -> Self {
        Self { apply, judged, ..Self::default() }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawProbe {
    /// `80/TCP`, or a protocol's number.
    port: String,
    /// Pairs: `x/* > y/a`.
    denied: Vec<String>,
    /// Pairs that are not denied all the same.
    #[serde(default)]
    but: Vec<String>,
}

/// Every case.
///
/// # Errors
/// The file, the case and what is wrong with it. The tests see to it that nothing is.
pub fn cases() -> Result<&'static [Case], String> {
    static CASES: OnceLock<Result<Vec<Case>, String>> = OnceLock::new();
    CASES.get_or_init(read_all).as_deref().map_err(Clone::clone)
}

fn read_all() -> Result<Vec<Case>, String> {
    let (mut cases, mut ids) = (Vec::new(), BTreeSet::new());
    let mut add = |cite: &str, cluster, RawCase { id, steps }| match ids.insert(id.clone()) {
        true => {
            cases.push(Case { id, cite: cite.into(), cluster, steps });
            Ok(())
        }
        false => Err(format!("two cases have the id {id}")),
    };
    for (file, text) in FILES {
        let read: RawFile = serde_saphyr::from_str(text).map_err(|error| format!("{file}: {error}"))?;
        for case in read.cases {
            add(&read.cite, read.cluster, case).map_err(|why| format!("{file}: {why}"))?;
        }
    }
    for case in cyclonus::generated() {
        add(cyclonus::CITE, Cluster::Labelled, case)?;
    }
    Ok(cases)
}

/// A pod of a cluster.
struct Member {
    name: NamespacedName,
    /// In both families.
    ips: [IpAddr; 2],
    labels: ObjectLabels,
    ports: Vec<PodPort>,
    host_network: bool,
}

impl Member {
    fn pod(self) -> KubePod {
        KubePod {
            name: self.name,
            uid: "".into(),
            labels: self.labels,
            node: super::node_of(self.ips[0]),
            ips: self.ips.into(),
            host_network: self.host_network,
            phase: "Running".into(),
            ports: self.ports,
            probes: Vec::new(),
        }
    }
}

impl Cluster {
    /// Those that are there from the beginning.
    fn members(self) -> Vec<Member> {
        let count = self.namespaces().len() * self.pods().len();
        self.places().take(count).collect()
    }

    /// These and those that come later.
    fn places(self) -> impl Iterator<Item = Member> {
        let names = self.namespaces().iter().flat_map(move |space| self.pods().iter().map(move |pod| (*space, *pod)));
        let late: &[(&str, &str)] = if self == Self::Labelled { &LATE } else { &[] };
        (0..).zip(names.chain(late.iter().copied())).map(move |(place, (space, pod))| self.member(place, space, pod))
    }

    fn namespaces(self) -> &'static [&'static str] {
        if self == Self::Houses { &HOUSES } else { &NAMESPACES }
    }

    fn pods(self) -> &'static [&'static str] {
        if self == Self::Houses { &["0", "1"] } else { &PODS }
    }

    fn member(self, place: u8, namespace: &str, pod: &str) -> Member {
        let name = NamespacedName { namespace: namespace.into(), name: pod.into() };
        let port = |name: &str, protocol, port| PodPort { name: name.into(), protocol, port };
        let node = place % 3 + 1;
        // The pods of a node do not share the last four bits.
        let last = 16 + 4 * place;
        let six = [0xfd00, node.into(), 0, 0, 0, 0, 0, last.into()];
        let ips = [IpAddr::from([10, 244, node, last]), IpAddr::from(six)];
        match self {
            Self::Pods | Self::Labelled => {
                let each = PORTS.iter().flat_map(|port| Protocol::ALL.map(|protocol| (*port, protocol)));
                let called =
                    |number, protocol: Protocol| format!("serve-{number}-{}", protocol.as_str().to_lowercase());
                let ports = each.map(|(number, protocol)| port(&called(number, protocol), protocol, number)).collect();
                let labels = ObjectLabels::from([("pod".into(), pod.into())]);
                Member { name, ips, labels, ports, host_network: false }
            }
            Self::Houses => {
                let host_network = namespace == HOST_HOUSE;
                let ports = vec![port("web", Protocol::Tcp, 80), port("dns", Protocol::Udp, 53)];
                let labels = ObjectLabels::from([("house".into(), namespace.into())]);
                Member { name, ips: if host_network { node_ips(node) } else { ips }, labels, ports, host_network }
            }
        }
    }

    /// What makes the cluster.
    fn start(self) -> Vec<Change> {
        let labels = |name: &str| match self {
            Self::Pods => ObjectLabels::new(),
            Self::Labelled => ObjectLabels::from([("ns".into(), name.into())]),
            Self::Houses => ObjectLabels::from([("house".into(), name.into())]),
        };
        let namespaces = self.namespaces().iter().map(|name| Change::Namespace(namespace(name, labels(name))));
        let pods = self.members().into_iter().map(|member| Change::Pod(member.pod().into()));
        (1..=3).filter_map(|number| node(number, ObjectLabels::new())).chain(namespaces).chain(pods).collect()
    }

    fn find(self, name: &str) -> Result<Member, String> {
        let found = self.places().find(|member| member.name.to_string() == name);
        found.ok_or_else(|| format!("there is no pod {name}"))
    }

    fn step(self, raw: &RawStep) -> Result<Step, String> {
        let mut changes = Vec::new();
        for (name, labels) in &raw.nodes {
            let number = name.strip_prefix('n').and_then(|number| number.parse().ok());
            let node = number.and_then(|number| node(number, labels.clone()));
            changes.push(node.ok_or_else(|| format!("there is no node {name}"))?);
        }
        for (name, labels) in &raw.namespaces {
            changes.push(Change::Namespace(namespace(name, labels.clone())));
        }
        for (name, labels) in &raw.pods {
            changes.push(Change::Pod(Member { labels: labels.clone(), ..self.find(name)? }.pod().into()));
        }
        for name in &raw.leave {
            changes.push(match name.contains('/') {
                true => Change::PodGone(parsed(name)?),
                false => Change::NamespaceGone(name.as_str().into()),
            });
        }
        for name in &raw.remove {
            changes.push(match name.contains('/') {
                true => Change::PolicyGone(parsed(name)?),
                false => Change::ClusterPolicyGone(name.as_str().into()),
            });
        }
        for (name, spec) in &raw.apply {
            let name = parsed(name)?;
            let metadata = json!({"namespace": &*name.namespace, "name": &*name.name});
            let (policy, faults) =
                NetworkPolicy::from_value(&json!({"metadata": metadata, "spec": self.filled(spec)}))?;
            faults.into_result().map_err(|faults| faults.to_string())?;
            changes.push(Change::Policy(policy));
        }
        for (name, spec) in &raw.cluster {
            let object = json!({"metadata": {"name": name}, "spec": self.filled(spec)});
            let (policy, faults) = ClusterNetworkPolicy::from_value(&object)?;
            faults.into_result().map_err(|faults| faults.to_string())?;
            changes.push(Change::ClusterPolicy(policy));
        }
        let mut probes = Vec::new();
        for probe in &raw.probes {
            probes.append(&mut self.between_all(probe)?);
        }
        for (packets, arrives) in [(&raw.passes, true), (&raw.denied, false)] {
            for packet in packets {
                let read = packet.split_once(" > ").and_then(|(from, rest)| Some((from, rest.split_once(' ')?)));
                let (from, (to, port)) = read.ok_or_else(|| format!("{packet} is no packet: g/0 > r/1 80/TCP"))?;
                let (from, to) = (self.find(from)?, self.find(to)?);
                probes.append(&mut between((&from.name, &from.ips), (&to.name, &to.ips), port, arrives)?);
            }
        }
        Ok(Step { name: raw.name.clone(), changes, probes })
    }

    /// A spec with addresses where it names pods: `${y/b}` is that of IPv4 as a prefix, `${y/b 6}` that of IPv6.
    fn filled(self, spec: &Value) -> Value {
        match spec {
            Value::String(text) => self
                .members()
                .into_iter()
                .flat_map(|Member { name, ips: [four, six], .. }| {
                    [(format!("${{{name}}}"), four), (format!("${{{name} 6}}"), six)]
                })
                .find(|(word, _)| word == text)
                .map_or_else(|| spec.clone(), |(_, ip)| ripstop_types::Prefix::host(ip).to_string().into()),
            Value::Array(items) => items.iter().map(|item| self.filled(item)).collect(),
            Value::Object(fields) => fields.iter().map(|(key, value)| (key.clone(), self.filled(value))).collect(),
            other => other.clone(),
        }
    }

    /// A probe between all pods.
    fn between_all(self, raw: &RawProbe) -> Result<Vec<Probe>, String> {
        let read = |pairs: &[String]| pairs.iter().map(|pair| Pair::read(pair)).collect::<Result<Vec<_>, _>>();
        let (denied, but) = (read(&raw.denied)?, read(&raw.but)?);
        let (members, mut probes) = (self.members(), Vec::new());
        for from in &members {
            for to in &members {
                let is_one_of = |pairs: &[Pair]| pairs.iter().any(|pair| pair.is(&from.name, &to.name));
                let arrives = from.name == to.name || !is_one_of(&denied) || is_one_of(&but);
                probes.append(&mut between((&from.name, &from.ips), (&to.name, &to.ips), &raw.port, arrives)?);
            }
        }
        Ok(probes)
    }
}

const NAMESPACES: [&str; 3] = ["x", "y", "z"];
const PODS: [&str; 3] = ["a", "b", "c"];
/// Pods that come later.
const LATE: [(&str, &str); 4] = [("y-2", "a"), ("y-2", "b"), ("x", "d"), ("w", "a")];
const PORTS: [u16; 2] = [80, 81];
const HOUSES: [&str; 5] = ["g", "s", "h", "r", HOST_HOUSE];
/// The house whose pods are in their nodes' network.
const HOST_HOUSE: &str = "f";

fn node(number: u8, mut labels: ObjectLabels) -> Option<Change> {
    labels.insert("kubernetes.io/os".into(), "linux".into());
    Some(Change::Node(KubeNode {
        name: format!("n{number}").parse().ok()?,
        uid: "".into(),
        pod_cidrs: Vec::new(),
        labels,
        addresses: node_ips(number).into(),
        zone: None,
        leaving: false,
        flannel: None,
    }))
}

fn namespace(name: &str, mut labels: ObjectLabels) -> KubeNamespace {
    labels.insert(NAMESPACE_NAME_LABEL.into(), name.into());
    KubeNamespace { name: name.into(), labels }
}

/// A pod and its addresses in both families.
type End<'a> = (&'a NamespacedName, &'a [IpAddr]);

/// One probe from pod to pod.
fn between(from: End<'_>, to: End<'_>, port: &str, arrives: bool) -> Result<Vec<Probe>, String> {
    let traffic = traffic(port)?;
    let mut probes = Vec::new();
    for (source, destination) in from.1.iter().copied().zip(to.1.iter().copied()) {
        for by_service in [false, true] {
            let how = if by_service { " by a Service" } else { "" };
            let name = format!("{} > {} {port}, {}{how}", from.0, to.0, Family::of(source));
            let packet = Packet { source, destination, traffic, state: State::New, by_service };
            probes.push(Probe { name, packet, arrives });
        }
    }
    Ok(probes)
}

/// Probes between all pods that are there, each as the oracle judges it. By a Service only from a pod to itself, where policies tell it from
/// others.
fn judged(world: &World, port: &str) -> Result<Vec<Probe>, String> {
    let mut probes = Vec::new();
    for from in &world.pods {
        for to in &world.pods {
            let both = between((&from.name, &from.ips), (&to.name, &to.ips), port, true)?;
            probes.extend(both.into_iter().filter(|probe| !probe.packet.by_service || from.name == to.name));
        }
    }
    for probe in &mut probes {
        probe.arrives = judge(world, &probe.packet).is_accepted();
    }
    Ok(probes)
}

fn parsed(name: &str) -> Result<NamespacedName, String> {
    name.parse().map_err(|fault: ripstop_types::Invalid| fault.to_string())
}

fn traffic(text: &str) -> Result<Traffic, String> {
    let wrong = || format!("{text} is no port and protocol, and no protocol's number");
    match text.split_once('/') {
        Some((port, protocol)) => Ok(Traffic::Port(
            protocol.parse().map_err(|fault: ripstop_types::Invalid| fault.to_string())?,
            port.parse().map_err(|_| wrong())?,
        )),
        None => text.parse().map(Traffic::Other).map_err(|_| wrong()),
    }
}

/// From whom to whom.
struct Pair(String, String);

impl Pair {
    fn read(text: &str) -> Result<Self, String> {
        let (from, to) = text.split_once(" > ").ok_or_else(|| format!("{text} is no pair: x/a > y/*"))?;
        let is_end = |end: &str| {
            let named = |word: &str, all: &[&str]| word == "*" || all.contains(&word);
            end == "*" || end.split_once('/').is_some_and(|(space, pod)| named(space, &NAMESPACES) && named(pod, &PODS))
        };
        match is_end(from) && is_end(to) {
            true => Ok(Self(from.into(), to.into())),
            false => Err(format!("{text} names no pods of the cluster")),
        }
    }

    fn is(&self, from: &NamespacedName, to: &NamespacedName) -> bool {
        let is = |end: &str, pod: &NamespacedName| {
            let (namespace, name) = end.split_once('/').unwrap_or(("*", "*"));
            (namespace == "*" || namespace == &*pod.namespace) && (name == "*" || name == &*pod.name)
        };
        is(&self.0, from) && is(&self.1, to)
    }
}
