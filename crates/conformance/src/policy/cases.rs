//! Cases as data: policies as Kubernetes writes them, and who reaches whom then.
//!
//! A case is about nine pods, `a`, `b` and `c` in namespaces `x`, `y` and `z`, on three nodes, and in both families. What it says of a
//! probe is said of all pairs of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::OnceLock;

use ripstop_objects::policy::{ClusterNetworkPolicy, NetworkPolicy};
use ripstop_objects::service::Protocol;
use ripstop_objects::{KubeNamespace, KubeNode, KubePod, NAMESPACE_NAME_LABEL, ObjectLabels, PodPort};
use ripstop_oracle::policy::{Packet, State, Traffic};
use ripstop_types::{Family, NamespacedName};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Change;

/// The names of upstream's cases, each on a line. Every one has a case here.
pub const UPSTREAM: &str = include_str!("cases/upstream.txt");

const FILES: &[(&str, &str)] = &[("netpol.yaml", include_str!("cases/netpol.yaml"))];

/// A case.
#[derive(Debug, Clone)]
pub struct Case {
    /// Its name, unique and for good.
    pub id: String,
    /// The document that says so.
    pub cite: String,
    /// One after the other. The first makes the cluster.
    pub steps: Vec<Step>,
}

/// Changes, and who reaches whom behind them.
#[derive(Debug, Clone)]
pub struct Step {
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
    cases: Vec<RawCase>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCase {
    id: String,
    steps: Vec<RawStep>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
struct RawStep {
    /// Specs of NetworkPolicies, by `namespace/name`.
    apply: BTreeMap<String, Value>,
    /// Specs of ClusterNetworkPolicies, by name.
    cluster: BTreeMap<String, Value>,
    /// Policies that go, by the same names.
    remove: Vec<String>,
    /// Labels of pods, beside which they have no others.
    pods: BTreeMap<String, ObjectLabels>,
    /// Labels of namespaces beside that of their name.
    namespaces: BTreeMap<String, ObjectLabels>,
    probes: Vec<RawProbe>,
}

#[derive(Deserialize)]
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
    for (file, text) in FILES {
        let read: RawFile = serde_saphyr::from_str(text).map_err(|error| format!("{file}: {error}"))?;
        for RawCase { id, steps } in read.cases {
            let named = |why: String| format!("{file}: {id}: {why}");
            if !ids.insert(id.clone()) {
                return Err(named("two cases have this id".into()));
            }
            let mut start = cluster();
            let mut read_steps = Vec::new();
            for raw in steps {
                let mut step = step(raw).map_err(named)?;
                step.changes.splice(0..0, start.drain(..));
                read_steps.push(step);
            }
            cases.push(Case { cite: read.cite.clone(), steps: read_steps, id: id.clone() });
        }
    }
    Ok(cases)
}

const NAMESPACES: [&str; 3] = ["x", "y", "z"];
const PODS: [&str; 3] = ["a", "b", "c"];
const PORTS: [u16; 2] = [80, 81];

/// The pods with their addresses.
fn pods() -> impl Iterator<Item = (NamespacedName, [IpAddr; 2])> {
    let names = NAMESPACES.iter().flat_map(|namespace| PODS.iter().map(move |pod| (*namespace, *pod)));
    (0..).zip(names).map(|(place, (namespace, pod)): (u8, _)| {
        let node = place % 3 + 1;
        let name = NamespacedName { namespace: namespace.into(), name: pod.into() };
        let six = [0xfd00, node.into(), 0, 0, 0, 0, 0, u16::from(place) + 16];
        (name, [IpAddr::from([10, 244, node, place + 16]), IpAddr::from(six)])
    })
}

fn cluster() -> Vec<Change> {
    let node = |number: u8| {
        let addresses =
            [IpAddr::from([192, 0, 2, number]), IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, number.into()])];
        Some(Change::Node(KubeNode {
            name: format!("n{number}").parse().ok()?,
            uid: "".into(),
            pod_cidrs: Vec::new(),
            labels: ObjectLabels::new(),
            addresses: addresses.into(),
            zone: None,
            leaving: false,
            flannel: None,
        }))
    };
    let namespaces = NAMESPACES.iter().map(|name| Change::Namespace(namespace(name, ObjectLabels::new())));
    let pods = pods().map(|(name, _)| name).filter_map(|name| {
        let labels = ObjectLabels::from([("pod".into(), name.name.clone())]);
        pod(&name, labels).map(|pod| Change::Pod(pod.into()))
    });
    (1..=3).filter_map(node).chain(namespaces).chain(pods).collect()
}

fn namespace(name: &str, mut labels: ObjectLabels) -> KubeNamespace {
    labels.insert(NAMESPACE_NAME_LABEL.into(), name.into());
    KubeNamespace { name: name.into(), labels }
}

fn pod(name: &NamespacedName, labels: ObjectLabels) -> Option<KubePod> {
    let (_, ips) = pods().find(|(own, _)| own == name)?;
    let ports = PORTS.iter().flat_map(|port| Protocol::ALL.map(|protocol| (*port, protocol)));
    let port = |(port, protocol): (u16, Protocol)| PodPort {
        name: format!("serve-{port}-{}", protocol.as_str().to_lowercase()).into(),
        protocol,
        port,
    };
    Some(KubePod {
        name: name.clone(),
        uid: "".into(),
        labels,
        node: super::node_of(ips[0]),
        ips: ips.into(),
        host_network: false,
        phase: "Running".into(),
        ports: ports.map(port).collect(),
        probes: Vec::new(),
    })
}

fn step(raw: RawStep) -> Result<Step, String> {
    let mut changes = Vec::new();
    for (name, labels) in raw.namespaces {
        changes.push(Change::Namespace(namespace(&name, labels)));
    }
    for (name, labels) in raw.pods {
        let name = parsed(&name)?;
        changes.push(Change::Pod(pod(&name, labels).ok_or_else(|| format!("there is no pod {name}"))?.into()));
    }
    for name in raw.remove {
        changes.push(match name.contains('/') {
            true => Change::PolicyGone(parsed(&name)?),
            false => Change::ClusterPolicyGone(name.into()),
        });
    }
    for (name, spec) in raw.apply {
        let name = parsed(&name)?;
        let metadata = json!({"namespace": &*name.namespace, "name": &*name.name});
        let (policy, faults) = NetworkPolicy::from_value(&json!({"metadata": metadata, "spec": filled(&spec)}))?;
        faults.into_result().map_err(|faults| faults.to_string())?;
        changes.push(Change::Policy(policy));
    }
    for (name, spec) in raw.cluster {
        let object = json!({"metadata": {"name": name}, "spec": filled(&spec)});
        let (policy, faults) = ClusterNetworkPolicy::from_value(&object)?;
        faults.into_result().map_err(|faults| faults.to_string())?;
        changes.push(Change::ClusterPolicy(policy));
    }
    let mut probes = Vec::new();
    for probe in raw.probes {
        probes.append(&mut between_all(&probe)?);
    }
    Ok(Step { changes, probes })
}

fn parsed(name: &str) -> Result<NamespacedName, String> {
    name.parse().map_err(|fault: ripstop_types::Invalid| fault.to_string())
}

/// A spec with addresses where it names pods: `${y/b}` is that of IPv4 as a prefix, `${y/b 6}` that of IPv6.
fn filled(spec: &Value) -> Value {
    match spec {
        Value::String(text) => pods()
            .flat_map(|(name, [four, six])| [(format!("${{{name}}}"), four), (format!("${{{name} 6}}"), six)])
            .find(|(word, _)| word == text)
            .map_or_else(|| spec.clone(), |(_, ip)| ripstop_types::Prefix::host(ip).to_string().into()),
        Value::Array(items) => items.iter().map(filled).collect(),
        Value::Object(fields) => fields.iter().map(|(key, value)| (key.clone(), filled(value))).collect(),
        other => other.clone(),
    }
}

/// A probe between all pods, in both families, directly and by a Service.
fn between_all(raw: &RawProbe) -> Result<Vec<Probe>, String> {
    let traffic = traffic(&raw.port)?;
    let read = |pairs: &[String]| pairs.iter().map(|pair| Pair::read(pair)).collect::<Result<Vec<_>, _>>();
    let (denied, but) = (read(&raw.denied)?, read(&raw.but)?);
    let mut probes = Vec::new();
    for (from, sources) in pods() {
        for (to, destinations) in pods() {
            let is_one_of = |pairs: &[Pair]| pairs.iter().any(|pair| pair.is(&from, &to));
            let arrives = from == to || !is_one_of(&denied) || is_one_of(&but);
            for (source, destination) in sources.into_iter().zip(destinations) {
                for by_service in [false, true] {
                    let how = if by_service { " by a Service" } else { "" };
                    let name = format!("{from} > {to} {}, {}{how}", raw.port, Family::of(source));
                    let packet = Packet { source, destination, traffic, state: State::New, by_service };
                    probes.push(Probe { name, packet, arrives });
                }
            }
        }
    }
    Ok(probes)
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
