//! Clusters, changes and packets that nobody thought of.
//!
//! Everything is drawn from small pools, so that policies select, peers match and packets meet them. Two nodes; a pod's address tells its
//! node. What is drawn is what an API server would accept, and pods whose address is another's by now.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::{select, subsequence};
use ripstop_objects::policy::{
    Action, ClusterNetworkPolicy, Direction, NetworkPolicy, Operator, Peer, PolicyRule, PortMatch, Requirement,
    Selector, Tier,
};
use ripstop_objects::service::Protocol;
use ripstop_objects::{KubeNamespace, KubeNode, KubePod, NAMESPACE_NAME_LABEL, ObjectLabels, PodPort};
use ripstop_oracle::policy::{Packet, State, Traffic, World};
use ripstop_types::{NamespacedName, NodeName, PodName, Prefix};

/// What is compared at once.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// The cluster before all steps.
    pub world: World,
    /// One after the other.
    pub steps: Vec<Step>,
}

/// Changes, and packets behind them.
#[derive(Debug, Clone)]
pub struct Step {
    /// In their order.
    pub changes: Vec<Change>,
    /// In any order.
    pub packets: Vec<Packet>,
}

/// What happens to a cluster.
#[derive(Debug, Clone)]
#[allow(missing_docs)] // An object is so now, or one of this name is gone.
pub enum Change {
    Node(KubeNode),
    NodeGone(NodeName),
    Namespace(KubeNamespace),
    NamespaceGone(Arc<str>),
    Pod(Box<KubePod>),
    PodGone(PodName),
    Policy(NetworkPolicy),
    PolicyGone(NamespacedName),
    ClusterPolicy(ClusterNetworkPolicy),
    ClusterPolicyGone(Arc<str>),
}

impl Change {
    /// The changes by which a world comes to be.
    pub fn all_of(world: &World) -> Vec<Self> {
        let nodes = world.nodes.iter().cloned().map(Self::Node);
        let namespaces = world.namespaces.iter().cloned().map(Self::Namespace);
        let pods = world.pods.iter().cloned().map(|pod| Self::Pod(Box::new(pod)));
        let policies = world.policies.iter().cloned().map(Self::Policy);
        let cluster = world.cluster_policies.iter().cloned().map(Self::ClusterPolicy);
        nodes.chain(namespaces).chain(pods).chain(policies).chain(cluster).collect()
    }

    /// The world behind it.
    pub fn apply(&self, world: &mut World) {
        match self {
            Self::Node(new) => put(&mut world.nodes, new, |node| &node.name),
            Self::NodeGone(name) => world.nodes.retain(|node| node.name != *name),
            Self::Namespace(new) => put(&mut world.namespaces, new, |namespace| &namespace.name),
            Self::NamespaceGone(name) => world.namespaces.retain(|namespace| namespace.name != *name),
            Self::Pod(new) => put(&mut world.pods, new, |pod| &pod.name),
            Self::PodGone(name) => world.pods.retain(|pod| pod.name != *name),
            Self::Policy(new) => put(&mut world.policies, new, |policy| &policy.name),
            Self::PolicyGone(name) => world.policies.retain(|policy| policy.name != *name),
            Self::ClusterPolicy(new) => put(&mut world.cluster_policies, new, |policy| &policy.name),
            Self::ClusterPolicyGone(name) => world.cluster_policies.retain(|policy| policy.name != *name),
        }
    }
}

fn put<T: Clone, N: PartialEq>(all: &mut Vec<T>, new: &T, name: impl Fn(&T) -> &N) {
    match all.iter_mut().find(|old| name(old) == name(new)) {
        Some(old) => old.clone_from(new),
        None => all.push(new.clone()),
    }
}

/// As somebody would write it down: each object on a line.
impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for change in Change::all_of(&self.world) {
            writeln!(f, "{change}")?;
        }
        for (place, step) in self.steps.iter().enumerate() {
            writeln!(f, "-- step {place}")?;
            step.changes.iter().try_for_each(|change| writeln!(f, "{change}"))?;
            step.packets.iter().try_for_each(|packet| writeln!(f, "{packet:?}"))?;
        }
        Ok(())
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = |value: Result<String, serde_json::Error>| value.map_err(|_| fmt::Error);
        let (kind, text) = match self {
            Self::Node(node) => ("Node", json(serde_json::to_string(node))?),
            Self::NodeGone(name) => ("gone: Node", name.to_string()),
            Self::Namespace(namespace) => ("Namespace", json(serde_json::to_string(namespace))?),
            Self::NamespaceGone(name) => ("gone: Namespace", name.to_string()),
            Self::Pod(pod) => ("Pod", json(serde_json::to_string(pod))?),
            Self::PodGone(name) => ("gone: Pod", name.to_string()),
            Self::Policy(policy) => ("NetworkPolicy", json(serde_json::to_string(policy))?),
            Self::PolicyGone(name) => ("gone: NetworkPolicy", name.to_string()),
            Self::ClusterPolicy(policy) => ("ClusterNetworkPolicy", json(serde_json::to_string(policy))?),
            Self::ClusterPolicyGone(name) => ("gone: ClusterNetworkPolicy", name.to_string()),
        };
        write!(f, "{kind} {text}")
    }
}

/// The nodes with their addresses, and those of their pods.
const NODES: [(&str, [&str; 2]); 2] = [("n1", ["192.0.2.1", "2001:db8::1"]), ("n2", ["192.0.2.2", "2001:db8::2"])];
const PODS: [[(&str, &str); 4]; 2] = [
    [
        ("10.244.1.1", "fd00:1::1"),
        ("10.244.1.2", "fd00:1::2"),
        ("10.244.1.3", "fd00:1::3"),
        ("10.244.1.4", "fd00:1::4"),
    ],
    [
        ("10.244.2.1", "fd00:2::1"),
        ("10.244.2.2", "fd00:2::2"),
        ("10.244.2.3", "fd00:2::3"),
        ("10.244.2.4", "fd00:2::4"),
    ],
];
/// Addresses of nobody in the cluster.
pub(super) const OUTSIDE: [[&str; 3]; 2] =
    [["198.51.100.7", "198.51.100.200", "10.9.0.1"], ["2001:db8:5::7", "2001:db8:5::ff00", "fd00:9::1"]];
/// Blocks, each with holes that it may have.
const BLOCKS: [(&str, &[&str]); 11] = [
    ("0.0.0.0/0", &["10.0.0.0/8", "198.51.100.128/25", "192.0.2.1/32"]),
    ("10.0.0.0/8", &["10.244.0.0/16", "10.244.1.2/32"]),
    ("10.244.0.0/16", &["10.244.1.0/24", "10.244.1.2/31", "10.244.2.1/32"]),
    ("10.244.1.2/32", &[]),
    ("198.51.100.0/24", &["198.51.100.0/25", "198.51.100.200/32"]),
    ("192.0.2.0/24", &["192.0.2.2/32"]),
    ("::/0", &["fd00::/8", "8000::/1", "2001:db8:5::/64"]),
    ("fd00::/16", &["fd00:1::/32", "fd00:2::2/127"]),
    ("fd00:1::2/128", &[]),
    ("2001:db8:5::/48", &["2001:db8:5::ff00/120"]),
    ("2001:db8::/126", &["2001:db8::1/128"]),
];
const NAMESPACES: [&str; 3] = ["x", "y", "z"];
const PORTS: [u16; 8] = [80, 81, 90, 91, 443, 1, 65_535, 0];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|_| unreachable!("{text} is an address"))
}

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap_or_else(|_| unreachable!("{text} is a prefix"))
}

fn name_of(namespace: &str, name: &str) -> NamespacedName {
    NamespacedName { namespace: namespace.into(), name: name.into() }
}

/// Scenarios: up to eight pods, four policies of each kind, and a few changes.
pub fn scenarios() -> impl Strategy<Value = Scenario> {
    let start = vec(change(), 6..=22);
    let steps = vec((vec(change(), 0..=3), vec(packet(), 4..=14)), 1..=4);
    (start, steps).prop_map(|(start, steps)| {
        let mut world = World::default();
        for place in 0..NODES.len() {
            Change::Node(node_at(place, ObjectLabels::new())).apply(&mut world);
        }
        for name in NAMESPACES {
            Change::Namespace(namespace_of(name, ObjectLabels::new())).apply(&mut world);
        }
        start.iter().for_each(|change| change.apply(&mut world));
        let steps = steps.into_iter().map(|(changes, packets)| Step { changes, packets }).collect();
        Scenario { world, steps }
    })
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        8 => pod().prop_map(|pod| Change::Pod(Box::new(pod))),
        1 => pod_name().prop_map(Change::PodGone),
        6 => network_policy().prop_map(Change::Policy),
        1 => policy_name().prop_map(Change::PolicyGone),
        5 => cluster_policy().prop_map(Change::ClusterPolicy),
        1 => select(&CLUSTER[..]).prop_map(|name| Change::ClusterPolicyGone(name.into())),
        2 => (select(&NAMESPACES[..]), labels()).prop_map(|(name, labels)| Change::Namespace(namespace_of(name, labels))),
        1 => select(&NAMESPACES[..]).prop_map(|name| Change::NamespaceGone(name.into())),
        1 => (0..NODES.len(), labels()).prop_map(|(place, labels)| Change::Node(node_at(place, labels))),
    ]
}

const CLUSTER: [&str; 4] = ["c1", "c2", "c3", "c4"];

fn node_name(place: usize) -> NodeName {
    NODES[place].0.parse().unwrap_or_else(|_| unreachable!("a node's name"))
}

fn node_at(place: usize, labels: ObjectLabels) -> KubeNode {
    KubeNode {
        name: node_name(place),
        uid: "".into(),
        pod_cidrs: Vec::new(),
        labels,
        addresses: NODES[place].1.map(ip).to_vec(),
        zone: None,
        leaving: false,
        flannel: None,
    }
}

fn namespace_of(name: &str, mut labels: ObjectLabels) -> KubeNamespace {
    labels.insert(NAMESPACE_NAME_LABEL.into(), name.into());
    KubeNamespace { name: name.into(), labels }
}

fn labels() -> impl Strategy<Value = ObjectLabels> {
    let label = |values: [&'static str; 2]| option::weighted(0.7, select(values.to_vec()));
    (label(["a", "b"]), label(["f", "g"])).prop_map(|(app, tier)| {
        let labels = [("app", app), ("tier", tier)];
        labels.into_iter().filter_map(|(key, value)| Some((key.into(), value?.into()))).collect()
    })
}

fn pod_name() -> impl Strategy<Value = PodName> {
    (select(&NAMESPACES[..]), select(vec!["a", "b", "c"])).prop_map(|(namespace, name)| name_of(namespace, name))
}

fn pod() -> impl Strategy<Value = KubePod> {
    let place = (
        0..NODES.len(),
        0..PODS[0].len(),
        prop_oneof![4 => Just((true, true)), 1 => Just((true, false)), 1 => Just((false, true))],
    );
    let phase = prop_oneof![8 => Just("Running"), 1 => Just("Pending"), 1 => Just("Succeeded"), 1 => Just("Failed")];
    let ports = subsequence(
        vec![
            ("http", Protocol::Tcp, 80),
            ("http", Protocol::Tcp, 81),
            ("http", Protocol::Udp, 90),
            ("dns", Protocol::Udp, 81),
            ("dns", Protocol::Tcp, 443),
        ],
        0..=3,
    );
    let host = prop_oneof![9 => Just(false), 1 => Just(true)];
    (pod_name(), labels(), place, phase, ports, host).prop_map(
        |(name, labels, (node, slot, (four, six)), phase, ports, host)| {
            let own = PODS[node][slot];
            let ips = if host { NODES[node].1 } else { [own.0, own.1] };
            let ips =
                [(four, ips[0]), (six, ips[1])].into_iter().filter(|(is, _)| *is).map(|(_, text)| ip(text)).collect();
            let port = |(name, protocol, port): (&str, Protocol, u16)| PodPort { name: name.into(), protocol, port };
            KubePod {
                name,
                uid: "".into(),
                labels,
                node: Some(node_name(node)),
                ips,
                host_network: host,
                phase: phase.into(),
                ports: ports.into_iter().map(port).collect(),
                probes: Vec::new(),
            }
        },
    )
}

fn selector() -> impl Strategy<Value = Selector> {
    let values = || {
        subsequence(vec!["a", "b", "f", "g"], 1..=2)
            .prop_map(|values| values.into_iter().map(Arc::from).collect::<Vec<Arc<str>>>())
    };
    let operator = prop_oneof![
        4 => values().prop_map(Operator::In),
        2 => values().prop_map(Operator::NotIn),
        1 => Just(Operator::Exists),
        1 => Just(Operator::DoesNotExist),
    ];
    let requirement =
        (select(vec!["app", "tier"]), operator).prop_map(|(key, operator)| Requirement { key: key.into(), operator });
    let by_name = select(&NAMESPACES[..]).prop_map(|name| {
        Selector::new([Requirement { key: NAMESPACE_NAME_LABEL.into(), operator: Operator::In(vec![name.into()]) }])
    });
    prop_oneof![
        2 => Just(Selector::default()),
        6 => vec(requirement, 1..=2).prop_map(Selector::new),
        1 => by_name,
    ]
}

fn policy_name() -> impl Strategy<Value = NamespacedName> {
    (select(&NAMESPACES[..]), select(vec!["p", "q"])).prop_map(|(namespace, name)| name_of(namespace, name))
}

fn block() -> impl Strategy<Value = Peer> {
    select(&BLOCKS[..]).prop_flat_map(|(block, holes)| {
        subsequence(holes.to_vec(), 0..=holes.len()).prop_map(move |holes| Peer::Block {
            block: prefix(block),
            except: holes.into_iter().map(prefix).collect(),
        })
    })
}

fn peer() -> impl Strategy<Value = Peer> {
    prop_oneof![
        4 => (option::of(selector()), selector()).prop_map(|(namespaces, pods)| Peer::Pods { namespaces, pods }),
        3 => block(),
    ]
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![4 => Just(Protocol::Tcp), 3 => Just(Protocol::Udp), 1 => Just(Protocol::Sctp)]
}

fn port(with_any: bool) -> impl Strategy<Value = PortMatch> {
    let range = (protocol(), select(&PORTS[..7]), select(&PORTS[..7]))
        .prop_map(|(protocol, one, two)| PortMatch::Range { protocol, first: one.min(two), last: one.max(two) });
    let single = (protocol(), select(&PORTS[..7])).prop_map(|(protocol, port)| PortMatch::Range {
        protocol,
        first: port,
        last: port,
    });
    let name =
        (protocol(), any::<bool>(), select(vec!["http", "dns", "none"])).prop_map(move |(protocol, is_any, name)| {
            PortMatch::Named { protocol: Some(protocol).filter(|_| !(with_any && is_any)), name: name.into() }
        });
    prop_oneof![2 => protocol().prop_map(PortMatch::All), 3 => single, 2 => range, 3 => name]
}

/// A list, or none: then it is everything.
fn some<T: fmt::Debug + Clone>(of: impl Strategy<Value = T>, most: usize) -> impl Strategy<Value = Option<Vec<T>>> {
    option::weighted(0.7, vec(of, 0..=most))
}

fn network_policy() -> impl Strategy<Value = NetworkPolicy> {
    let rule = || (some(peer(), 3), some(port(false), 3));
    let rules = || option::weighted(0.7, vec(rule(), 0..=3));
    let accept = |(peers, ports)| PolicyRule { name: "".into(), action: Action::Accept, peers, ports };
    let staged = prop_oneof![9 => Just(false), 1 => Just(true)];
    (policy_name(), selector(), rules(), rules(), staged).prop_map(move |(name, subject, ingress, egress, staged)| {
        let rules = |rules: Option<Vec<_>>| rules.map(|rules| rules.into_iter().map(accept).collect());
        NetworkPolicy { name, uid: "".into(), subject, ingress: rules(ingress), egress: rules(egress), staged }
    })
}

fn cluster_rule(direction: Direction) -> impl Strategy<Value = PolicyRule> {
    let pods =
        (selector(), selector()).prop_map(|(namespaces, pods)| Peer::Pods { namespaces: Some(namespaces), pods });
    let further = prop_oneof![1 => selector().prop_map(Peer::Nodes), 2 => block()];
    let peer = match direction {
        Direction::Ingress => pods.boxed(),
        Direction::Egress => prop_oneof![3 => pods, 2 => further].boxed(),
    };
    let action = select(vec![Action::Accept, Action::Deny, Action::Pass]);
    // A rule that could not be read is for everybody, or for nobody.
    let peers = prop_oneof![12 => vec(peer, 1..=3).prop_map(Some), 2 => Just(None), 1 => Just(Some(Vec::new()))];
    (action, peers, some(port(true), 3)).prop_map(|(action, peers, ports)| PolicyRule {
        name: "".into(),
        action,
        peers,
        ports,
    })
}

fn cluster_policy() -> impl Strategy<Value = ClusterNetworkPolicy> {
    let head = (select(&CLUSTER[..]), select(vec![Tier::Admin, Tier::Baseline]), 0..3_u16, selector(), selector());
    let rules = |direction| vec(cluster_rule(direction), 0..=3);
    let staged = prop_oneof![9 => Just(false), 1 => Just(true)];
    (head, rules(Direction::Ingress), rules(Direction::Egress), staged).prop_map(
        |((name, tier, priority, namespaces, pods), ingress, egress, staged)| ClusterNetworkPolicy {
            name: name.into(),
            uid: "".into(),
            tier,
            priority,
            namespaces,
            pods,
            ingress,
            egress,
            staged,
        },
    )
}

/// A packet with a pod's address at one end at least.
fn packet() -> impl Strategy<Value = Packet> {
    let of_pod = |(node, slot): (usize, usize)| [PODS[node][slot].0, PODS[node][slot].1];
    let pod = || (0..2_usize, 0..PODS[0].len());
    // A pod itself and its own node are special, and would be met rarely.
    let ends = pod().prop_flat_map(move |one| {
        let other = prop_oneof![
            8 => pod().prop_map(of_pod),
            2 => Just(of_pod(one)),
            2 => Just(NODES[one.0].1),
            1 => (0..NODES.len()).prop_map(|node| NODES[node].1),
            2 => (0..OUTSIDE[0].len()).prop_map(|place| [OUTSIDE[0][place], OUTSIDE[1][place]]),
        ];
        other.prop_map(move |other| (of_pod(one), other))
    });
    let traffic = prop_oneof![
        16 => (protocol(), select(&PORTS[..])).prop_map(|(protocol, port)| Traffic::Port(protocol, port)),
        1 => Just(Traffic::Other(1)),
        1 => Just(Traffic::Other(47)),
        2 => Just(Traffic::Discovery),
    ];
    let state = prop_oneof![8 => Just(State::New), 1 => Just(State::Known)];
    (ends, any::<(bool, bool, bool)>(), traffic, state).prop_map(
        |(ends, (is_six, is_turned, by_service), traffic, state)| {
            let (source, destination) = if is_turned { (ends.1, ends.0) } else { ends };
            let traffic = match traffic {
                // Of IPv6 alone.
                Traffic::Discovery if !is_six => Traffic::Other(1),
                Traffic::Other(1) if is_six => Traffic::Other(58),
                other => other,
            };
            let place = usize::from(is_six);
            Packet { source: ip(source[place]), destination: ip(destination[place]), traffic, state, by_service }
        },
    )
}
