//! Worlds and packets that nobody thought of, and two data planes beside each other on them.
//!
//! Everything is drawn from small pools, so that Services share addresses, node ports and endpoints, and packets meet them. What is drawn
//! is what an API server would accept.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::{select, subsequence};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use ripstop_objects::service::{
    Endpoint, EndpointPort, EndpointSlice, Ingress, Protocol, Service, ServiceKind, ServicePort, TrafficPolicy,
};
use ripstop_oracle::services::{Listed, NodePortAddresses, Origin, Outcome, Packet, Source, State, World};
use ripstop_types::{Family, NodeName, Prefix, ServiceName};

use super::plane::{DataPlane, Fate, Seen};
use super::run::fits;
use super::text::shown;
use crate::case::Stop;

/// What is compared at once.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// One node and all objects.
    pub world: World,
    /// Packets, one after the other.
    pub packets: Vec<Packet>,
}

/// Where two data planes differ, as small as it could be made.
#[derive(Debug, Clone)]
pub struct Divergence {
    /// The objects and the packets up to the one they differ in.
    pub scenario: Scenario,
    /// How they differ.
    pub why: String,
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut settings = self.scenario.world.clone();
        for service in std::mem::take(&mut settings.services) {
            writeln!(f, "{}", json(&service))?;
        }
        for slice in std::mem::take(&mut settings.slices) {
            writeln!(f, "{}", json(&slice))?;
        }
        writeln!(f, "{}", json(&settings))?;
        for packet in &self.scenario.packets {
            writeln!(f, "{}", shown(packet))?;
        }
        f.write_str(&self.why)
    }
}

/// Sets a data plane beside a model on `count` scenarios drawn from `seed`.
///
/// # Errors
/// The first scenario in which they differ, made as small as it could be.
pub fn compare(
    model: &mut dyn DataPlane,
    plane: &mut dyn DataPlane,
    seed: u64,
    count: u32,
) -> Result<(), Box<Divergence>> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config { cases: count, failure_persistence: None, max_shrink_iters: 20_000, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let planes = RefCell::new((model, plane));
    let outcome = runner.run(&scenarios(), |scenario| {
        let mut planes = planes.borrow_mut();
        let (model, plane) = &mut *planes;
        differ(*model, *plane, &scenario).map_or(Ok(()), |why| Err(TestCaseError::fail(why)))
    });
    match outcome {
        Ok(()) => Ok(()),
        Err(TestError::Fail(why, scenario)) => Err(Box::new(Divergence { scenario, why: why.to_string() })),
        Err(TestError::Abort(why)) => {
            let scenario = Scenario { world: bare(), packets: Vec::new() };
            Err(Box::new(Divergence { scenario, why: format!("no scenario could be drawn: {why}") }))
        }
    }
}

/// How they differ in a scenario.
fn differ(model: &mut dyn DataPlane, plane: &mut dyn DataPlane, scenario: &Scenario) -> Option<String> {
    let stopped = |stop| match stop {
        Stop::Fail(why) => Some(why),
        Stop::Skip(_) | Stop::Differs(_) | Stop::Unclaimed(_) | Stop::Interrupted => None,
    };
    if let Err(stop) = model.install(&scenario.world).and_then(|()| plane.install(&scenario.world)) {
        return stopped(stop);
    }
    for packet in &scenario.packets {
        let (expected, found) = match model.send(packet).and_then(|expected| Ok((expected, plane.send(packet)?))) {
            Ok(both) => both,
            Err(stop) => match stopped(stop) {
                Some(why) => return Some(why),
                None => continue,
            },
        };
        let outcome = expected.outcome.clone().unwrap_or_else(|| outcome_of(&scenario.world, packet, &expected));
        if let Err(why) = fits(&scenario.world, packet, &outcome, &found) {
            return Some(format!("{} -> {outcome}: {why}", shown(packet)));
        }
        if let Fate::Arrived { endpoint, .. } = found.fate {
            model.follow(packet, endpoint);
        }
    }
    None
}

/// The outcome of which one packet's fate is all that is known.
fn outcome_of(world: &World, packet: &Packet, seen: &Seen) -> Outcome {
    match seen.fate {
        Fate::Arrived { endpoint, source } => {
            let kept = source == packet.source && !world.addresses.contains(&source);
            Outcome::To([(endpoint, if kept { Source::Kept } else { Source::Node })].into())
        }
        Fate::Refused => Outcome::Rejected,
        Fate::Nothing => Outcome::Dropped,
        Fate::Passed => Outcome::Untouched,
    }
}

/// Addresses that things are drawn from, by family.
struct Pool {
    cluster: [&'static str; 6],
    unallocated: &'static str,
    external: [&'static str; 2],
    balancers: [&'static str; 3],
    node: [&'static str; 2],
    /// Two of this node's pods, two of another's, one of a third's, this node itself.
    endpoints: [&'static str; 6],
    pods: [&'static str; 2],
    outside: [&'static str; 4],
    ranges: [&'static str; 4],
}

const V4: Pool = Pool {
    cluster: ["10.96.0.10", "10.96.0.11", "10.96.0.12", "10.96.0.13", "10.96.0.14", "10.112.0.1"],
    unallocated: "10.96.0.99",
    external: ["192.0.2.80", "192.0.2.81"],
    balancers: ["198.51.100.10", "198.51.100.11", "198.51.100.12"],
    node: ["172.18.0.1", "172.18.1.1"],
    endpoints: ["10.244.1.2", "10.244.1.3", "10.244.2.2", "10.244.2.3", "10.244.3.2", "172.18.0.1"],
    pods: ["10.244.1.2", "10.244.1.9"],
    outside: ["203.0.113.9", "203.0.113.99", "172.18.0.2", "10.244.2.9"],
    ranges: ["203.0.113.0/28", "203.0.113.96/28", "10.244.0.0/16", "172.18.0.0/24"],
};

const V6: Pool = Pool {
    cluster: ["fd00:96::10", "fd00:96::11", "fd00:96::12", "fd00:96::13", "fd00:96::14", "fd00:112::1"],
    unallocated: "fd00:96::99",
    external: ["2001:db8:2::80", "2001:db8:2::81"],
    balancers: ["2001:db8:51::10", "2001:db8:51::11", "2001:db8:51::12"],
    node: ["fd00:18::1", "fd00:18:1::1"],
    endpoints: ["fd00:244:1::2", "fd00:244:1::3", "fd00:244:2::2", "fd00:244:2::3", "fd00:244:3::2", "fd00:18::1"],
    pods: ["fd00:244:1::2", "fd00:244:1::9"],
    outside: ["2001:db8:113::9", "2001:db8:113::99", "fd00:18::2", "fd00:244:2::9"],
    ranges: ["2001:db8:113::/124", "2001:db8:113::90/124", "fd00:244::/32", "fd00:18::/64"],
};

fn pool(family: Family) -> &'static Pool {
    if family == Family::V4 { &V4 } else { &V6 }
}

const NODES: [Option<&str>; 6] = [Some("n1"), Some("n1"), Some("n2"), Some("n2"), Some("n3"), Some("n1")];
const PORTS: [(&str, Protocol, u16, u16); 5] = [
    ("http", Protocol::Tcp, 80, 30_080),
    ("more", Protocol::Tcp, 81, 30_081),
    ("dns", Protocol::Udp, 53, 30_053),
    ("dns-tcp", Protocol::Tcp, 53, 30_053),
    ("sig", Protocol::Sctp, 80, 30_080),
];
const SERVICES: usize = 6;

/// Scenarios: up to six Services of every kind, and packets of every origin.
pub fn scenarios() -> impl Strategy<Value = Scenario> {
    let objects = (
        vec(option::weighted(0.6, service()), SERVICES),
        vec(slice(), 0..=8),
        endpoints(Family::V4),
        endpoints(Family::V6),
    );
    let all = (settings(), objects, vec((packet(), 1..=3_usize), 1..=8));
    all.prop_map(|(mut world, (services, slices, four, six), packets)| {
        // Each has its place, and with it its name and its slices, whether others are there or not: so it can be made smaller.
        for (place, service) in services.into_iter().enumerate() {
            world.services.extend(service.map(|service| Service { name: name_of(place), ..service }));
        }
        for (place, drawn) in slices.into_iter().enumerate() {
            let endpoints = if drawn.family == Family::V4 { &four } else { &six };
            world.slices.push(drawn.made(place, endpoints));
        }
        // A client that comes again may have to go where it went.
        let packets = packets.into_iter().flat_map(|(packet, times)| std::iter::repeat_n(packet, times)).collect();
        Scenario { world, packets }
    })
}

/// Two in each of three namespaces.
fn name_of(place: usize) -> ServiceName {
    let text = |prefix: &str, number: usize| Arc::from(format!("{prefix}{number}"));
    ServiceName { namespace: text("ns", place % 3), name: text("s", place / 3) }
}

fn bare() -> World {
    World {
        node: node("n1").unwrap_or_else(|| unreachable!("n1 is a name of a node")),
        zone: Some("a".into()),
        addresses: V4.node.iter().chain(&V6.node).map(|text| ip(text)).collect(),
        node_port_addresses: NodePortAddresses::Primary,
        pod_ranges: ["10.244.1.0/24", "fd00:244:1::/64"].map(prefix).to_vec(),
        service_cidrs: ["10.96.0.0/16", "fd00:96::/112"].map(prefix).to_vec(),
        external_ips: false,
        masquerade_all: false,
        localhost_node_ports: false,
        detect_local: Default::default(),
        proxy_name: None,
        listed: Listed::default(),
        proxy: Default::default(),
        conntrack: Default::default(),
        services: Vec::new(),
        slices: Vec::new(),
    }
}

fn settings() -> impl Strategy<Value = World> {
    let zone = prop_oneof![4 => Just(Some("a")), 1 => Just(None)];
    let addresses = prop_oneof![
        3 => Just(NodePortAddresses::Primary),
        1 => Just(NodePortAddresses::All),
        1 => Just(NodePortAddresses::Ranges(["172.18.1.0/24", "fd00:18::/64"].map(prefix).to_vec())),
    ];
    let flags = (any::<bool>(), rarely(), rarely(), rarely());
    (zone, addresses, flags).prop_map(|(zone, node_port_addresses, (external_ips, masquerade_all, named, unknown))| {
        let world = bare();
        World {
            zone: zone.map(Arc::from),
            node_port_addresses,
            external_ips,
            masquerade_all,
            proxy_name: named.then(|| "other".into()),
            service_cidrs: if unknown { Vec::new() } else { world.service_cidrs },
            ..world
        }
    })
}

fn rarely() -> impl Strategy<Value = bool> {
    prop_oneof![7 => Just(false), 1 => Just(true)]
}

fn policy() -> impl Strategy<Value = TrafficPolicy> {
    select(vec![TrafficPolicy::Cluster, TrafficPolicy::Local])
}

/// A Service that still needs its name.
fn service() -> impl Strategy<Value = Service> {
    let kind = prop_oneof![
        3 => Just(ServiceKind::ClusterIp),
        3 => Just(ServiceKind::NodePort),
        4 => Just(ServiceKind::LoadBalancer),
        1 => Just(ServiceKind::ExternalName),
    ];
    let frontends = (subsequence(vec![Family::V4, Family::V6], 1..=2), 0..SERVICES, addresses(), ingress());
    let flags = (rarely(), rarely(), rarely());
    let ranges = option::of(vec((select(vec![Family::V4, Family::V6]), 0..4_usize), 1..=3));
    let ports = subsequence(PORTS.to_vec(), 1..=3);
    let rules = (policy(), policy(), option::weighted(0.3, Just(100)), ranges, ports);
    (kind, frontends, flags, rules).prop_map(|(kind, frontends, (headless, other, bare), rules)| {
        let (families, place, external_ips, ingress) = frontends;
        let (external_policy, internal_policy, affinity, ranges, ports) = rules;
        let balanced = kind == ServiceKind::LoadBalancer;
        let node_ports = kind == ServiceKind::NodePort || (balanced && !bare);
        // A headless one has a ClusterIP where the label makes it so; the other kind cannot be met.
        let named = kind != ServiceKind::ExternalName;
        let cluster = families.iter().map(|family| ip(pool(*family).cluster[place]));
        let range = |(family, place): (Family, usize)| prefix(pool(family).ranges[place]);
        Service {
            name: name_of(0),
            uid: "".into(),
            kind,
            headless,
            cluster_ips: if named { cluster.collect() } else { Vec::new() },
            ports: ports.into_iter().map(|drawn| service_port(drawn, node_ports)).collect(),
            external_ips,
            ingress: if balanced { ingress } else { Vec::new() },
            source_ranges: ranges.filter(|_| balanced).map(|ranges| ranges.into_iter().map(range).collect()),
            external_policy,
            internal_policy,
            affinity,
            health_check_node_port: None,
            publish_not_ready: false,
            proxy_name: other.then(|| "other".into()),
            selector: Default::default(),
            reset_on_removal: false,
            balancer: None,
            assigned: None,
            left_out: Vec::new(),
        }
    })
}

fn service_port((name, protocol, port, number): (&str, Protocol, u16, u16), node_ports: bool) -> ServicePort {
    ServicePort { name: name.into(), protocol, port, node_port: node_ports.then_some(number), target: None }
}

fn addresses() -> impl Strategy<Value = Vec<IpAddr>> {
    let all: Vec<IpAddr> = V4.external.iter().chain(&V6.external).map(|text| ip(text)).collect();
    subsequence(all, 0..=2)
}

fn ingress() -> impl Strategy<Value = Vec<Ingress>> {
    let all: Vec<IpAddr> = V4.balancers.iter().chain(&V6.balancers).map(|text| ip(text)).collect();
    (subsequence(all, 0..=3), rarely())
        .prop_map(|(ips, is_proxied)| ips.into_iter().map(|ip| Ingress { ip, is_proxied }).collect())
}

/// A slice before it has its endpoints.
#[derive(Debug, Clone)]
struct Drawn {
    /// The place of its Service.
    owner: usize,
    family: Family,
    ports: Vec<(&'static str, Protocol, u16)>,
    /// Which endpoints of the pool, and their conditions: ready, serving, terminating.
    endpoints: Vec<(usize, (bool, bool, bool))>,
}

impl Drawn {
    fn made(self, place: usize, endpoints: &[Endpoint]) -> EndpointSlice {
        let owner = name_of(self.owner);
        let ports = self.ports.into_iter();
        let endpoint = |(place, (ready, serving, terminating)): (usize, (bool, bool, bool))| {
            endpoints.get(place).map(|at| Endpoint { ready, serving, terminating, ..at.clone() })
        };
        EndpointSlice {
            name: ServiceName { namespace: owner.namespace, name: format!("slice{place}").into() },
            service: Some(owner.name),
            publisher: None,
            family: Some(self.family),
            ports: ports.map(|(name, protocol, port)| EndpointPort { name: name.into(), protocol, port }).collect(),
            endpoints: self.endpoints.into_iter().filter_map(endpoint).collect(),
            left_out: Vec::new(),
        }
    }
}

fn slice() -> impl Strategy<Value = Drawn> {
    let ports = (subsequence(PORTS.to_vec(), 1..=PORTS.len()), rarely()).prop_map(|(ports, moved)| {
        let target = |port: u16| port + if moved { 9000 } else { 8000 };
        ports.into_iter().map(|(name, protocol, port, _)| (name, protocol, target(port))).collect()
    });
    let conditions = prop_oneof![
        5 => Just((true, true, false)),
        2 => Just((false, false, false)),
        3 => Just((false, true, true)),
        1 => Just((false, false, true)),
        1 => Just((false, true, false)),
        1 => Just((true, true, true)),
    ];
    let endpoints = vec((0..NODES.len(), conditions), 0..=4);
    (0..SERVICES, select(vec![Family::V4, Family::V6]), ports, endpoints)
        .prop_map(|(owner, family, ports, endpoints)| Drawn { owner, family, ports, endpoints })
}

/// The endpoints of a family, with their nodes, zones and hints; these are the same in every slice.
fn endpoints(family: Family) -> impl Strategy<Value = Vec<Endpoint>> {
    let names = |of: &'static [&'static str]| {
        let some = btree_set(select(of.to_vec()), 1..=2).prop_map(|set| set.into_iter().map(Arc::from).collect());
        prop_oneof![1 => Just(BTreeSet::<Arc<str>>::new()), 4 => some]
    };
    let hints = (names(&["a", "b"]), names(&["n1", "n2", "n3"]));
    (vec(hints, NODES.len()), any::<bool>(), rarely()).prop_map(move |(hints, hinted, homeless)| {
        let drawn = hints.into_iter().zip(NODES).zip(pool(family).endpoints);
        let endpoint = |((hints, home), address): ((_, Option<&str>), &str)| {
            let (for_zones, for_nodes) = if hinted { hints } else { Default::default() };
            Endpoint {
                ip: ip(address),
                ready: true,
                serving: true,
                terminating: false,
                node: home.filter(|_| !homeless).and_then(node),
                zone: None,
                for_zones,
                for_nodes,
            }
        };
        drawn.map(endpoint).collect()
    })
}

fn packet() -> impl Strategy<Value = Packet> {
    let family = select(vec![Family::V4, Family::V6]);
    family.prop_flat_map(|family| {
        let pool = pool(family);
        let from = |origin, sources: &[&'static str]| (Just(origin), select(sources.to_vec()));
        let from = prop_oneof![
            3 => from(Origin::Pod, &pool.pods),
            2 => from(Origin::Node, &pool.node),
            4 => from(Origin::Outside, &pool.outside),
        ];
        let to = prop_oneof![
            6 => select(pool.cluster.to_vec()),
            4 => select(pool.balancers.to_vec()),
            2 => select(pool.external.to_vec()),
            3 => select(pool.node.to_vec()),
            1 => Just(pool.unallocated),
            1 => select(pool.endpoints.to_vec()),
        ];
        let numbers: Vec<u16> = PORTS.iter().flat_map(|(_, _, port, number)| [*port, *number]).collect();
        let protocol = prop_oneof![
            4 => Just(Protocol::Tcp),
            2 => Just(Protocol::Udp),
            1 => Just(Protocol::Sctp),
        ];
        (from, to, select(numbers), protocol).prop_map(|((origin, source), to, port, protocol)| Packet {
            origin,
            source: ip(source),
            destination: ip(to),
            port,
            protocol,
            state: State::New,
        })
    })
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| error.to_string())
}

/// An address of a pool.
fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
}

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap_or_else(|_| Prefix::host(ip("")))
}

fn node(name: &str) -> Option<NodeName> {
    name.parse().ok()
}
