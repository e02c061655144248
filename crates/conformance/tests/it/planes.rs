//! The product's own data planes, judged by the suite of Services: its rules for nftables in the simulator, and in the kernel with real
//! packets.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use ripstop_agent::health::{Faults, serve};
use ripstop_conformance::Outcome as Ended;
use ripstop_conformance::services::scene::{Node as Place, Scene};
use ripstop_conformance::services::{DataPlane, Fate, Oracle, Seen, Stop, cases, compare, run};
use ripstop_desired::services::{self, Rules};
use ripstop_kernel::{Applier, BootFiles, Netns, OnError};
use ripstop_netmodel::{Entry, IptablesBackend, Key, Model, NftPart, NftTable, Object};
use ripstop_nft::model::{Data, ElementBody, ElementKey, Name, NumGen, Table, Verdict, build::FibAddrType};
use ripstop_nft::sim::{Connection, Host, Link, Packet as Wire, Route, Ruleset, Tracking, Transport, World as Around};
use ripstop_objects::service::Protocol;
use ripstop_objects::{ConntrackConfig, IpvsConfig, ServicesConfig};
use ripstop_oracle::services::{DetectLocal, Origin, Outcome, Packet, Source, State, World};
use ripstop_services::{Node, conntrack, health};
use ripstop_tables::ServiceTables;
use ripstop_types::{Family, Revision, ServiceName};
use tokio::sync::watch;

use crate::possible;

/// Scenarios drawn, beside the oracle: in the simulator, and with real packets.
const SIMULATED: u32 = 5_000;
const REAL: u32 = 300;
/// The same where each change runs a program or two.
const BY_PROGRAM: u32 = 100;

/// What the rules are written in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Compiler {
    #[default]
    Nftables,
    Iptables(IptablesBackend),
    Ipvs,
}

/// What the product is told of this world.
fn told(world: &World) -> (Node, ServiceTables) {
    let mut tables = ServiceTables::default();
    for service in &world.services {
        tables.put_service(service.clone(), Revision(1));
    }
    for slice in &world.slices {
        tables.put_slice(slice.clone());
    }
    let localhost = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let node_port_addresses =
        world.addresses.iter().copied().chain(localhost).filter(|ip| world.has_node_ports_at(*ip));
    let pods = match &world.detect_local {
        DetectLocal::ClusterCidr(ranges) => ranges.clone(),
        _ => world.pod_ranges.clone(),
    };
    let node = Node {
        name: world.node.clone(),
        zone: world.zone.clone(),
        addresses: world.addresses.clone(),
        node_port_addresses: node_port_addresses.collect(),
        localhost: world.localhost_node_ports,
        pods,
        pods_by_link: rules(world).pod_links.is_some(),
        external_ips: world.external_ips,
        proxy_name: world.proxy_name.clone(),
    };
    (node, tables)
}

/// What the product wants in this world. Slots stay as they are.
fn wanted(compiler: Compiler, world: &World, before: &Model) -> Model {
    let (node, tables) = told(world);
    let (pods, ranges, rules) = (&node.pods, &world.service_cidrs, rules(world));
    let place = |backend| services::iptables::Place { backend, ipv6: true };
    let ipvs = IpvsConfig::default();
    let base = match compiler {
        Compiler::Nftables => services::nftables::base(pods, ranges, &rules),
        Compiler::Iptables(backend) => {
            services::iptables::base(place(backend), &node.node_port_addresses, pods, ranges, &rules)
        }
        Compiler::Ipvs => services::ipvs::base(ipvs, pods, ranges, &rules),
    };
    let links = rules.pod_links.as_ref();
    let objects = |name: &ServiceName| match compiler {
        Compiler::Nftables => services::nftables::objects(&node, &tables, name, before),
        Compiler::Iptables(backend) => services::iptables::objects(place(backend), links, &node, &tables, name),
        Compiler::Ipvs => services::ipvs::objects(ipvs, &node, &tables, name),
    };
    // As in the product: who comes first has a key that several want.
    let loopback = if world.localhost_node_ports { services::loopback() } else { Vec::new() };
    let mut model: Model = base.into_iter().chain(loopback).collect();
    for service in tables.services() {
        for entry in objects(&service.name) {
            if model.get(&ripstop_netmodel::Resource::key(&entry.object)).is_none() {
                model.insert_entry(entry.into());
            }
        }
    }
    model
}

/// How the product makes rules in this world.
fn rules(world: &World) -> Rules {
    let pod_links = match &world.detect_local {
        DetectLocal::NodeRanges | DetectLocal::ClusterCidr(_) => None,
        DetectLocal::Bridge(name) => Some(name.parse().unwrap()),
        DetectLocal::InterfacePrefix(prefix) => Some(format!("{prefix}*").parse().unwrap()),
    };
    Rules { masquerade_all: world.masquerade_all, liberal: world.conntrack.tcp_be_liberal, pod_links }
}

/// The product's configuration of connection tracking in this world.
fn settings(world: &World) -> ConntrackConfig {
    let of = &world.conntrack;
    ConntrackConfig {
        max_per_core: of.max_per_core.try_into().unwrap(),
        min: of.min.try_into().unwrap(),
        tcp_established_timeout: of.tcp_established_timeout * 1_000,
        tcp_close_wait_timeout: of.tcp_close_wait_timeout * 1_000,
        tcp_be_liberal: of.tcp_be_liberal,
        udp_timeout: of.udp_timeout * 1_000,
        udp_stream_timeout: of.udp_stream_timeout * 1_000,
    }
}

/// What the product does not do, or not yet.
fn not_yet(world: &World) -> Result<(), Stop> {
    if !world.listed.is_whole() {
        return Err(Stop::Skip("until both kinds are listed the agent makes no rules at all".into()));
    }
    Ok(())
}

/// The rules in the simulator.
#[derive(Default)]
pub struct Simulated {
    world: Option<World>,
    model: Model,
    /// The model as the simulator takes it.
    tables: Vec<Table>,
    elements: BTreeMap<ElementKey, ElementBody>,
    sent: usize,
    /// What somebody did to the model.
    fault: Option<Spoil>,
}

/// A change of a model that should not be.
pub type Spoil = std::sync::Arc<dyn Fn(&mut Model) + Send + Sync>;

impl Simulated {
    /// The rules with a fault in them.
    pub fn spoilt(fault: Spoil) -> Self {
        Self { fault: Some(fault), ..Self::default() }
    }

    fn take(&mut self, world: &World) {
        self.model = wanted(Compiler::Nftables, world, &self.model);
        if let Some(fault) = &self.fault {
            fault(&mut self.model);
        }
        self.load();
        self.world = Some(world.clone());
    }

    /// Rules and elements. Chains that draw one of more endpoints than there are here only cost time.
    fn load(&mut self) {
        let mut tables: BTreeMap<_, Table> = BTreeMap::new();
        self.elements.clear();
        for (_, entry) in self.model.iter() {
            match &entry.object {
                Object::NftTable(NftTable { table }) => {
                    tables.insert((table.family, table.name.clone()), table.clone());
                }
                Object::NftPart(NftPart { part, .. }) => {
                    let key = (part.family, part.table.clone());
                    let table = tables.remove(&key).unwrap().with_part(part);
                    tables.insert(key, table);
                }
                Object::NftElement(element) => {
                    self.elements.insert(element.key.clone(), element.body.clone());
                }
                _ => {}
            }
        }
        let counts = self.elements.values().filter_map(|body| match &body.data {
            Some(Data::Verdict(Verdict::Goto(chain))) => drawn_by(chain),
            _ => None,
        });
        let most = counts.max().unwrap_or(0);
        self.tables = tables.into_values().collect();
        for table in &mut self.tables {
            table.chains.retain(|chain, _| drawn_by(chain).is_none_or(|count| count <= most));
        }
    }

    /// What becomes of a packet whose endpoint is drawn by this number, and of how many numbers that is one.
    fn walk(world: &World, ruleset: &Ruleset<'_>, packet: &Packet, number: u32) -> Result<(Outcome, u32), Stop> {
        let around = Surroundings::of(world, number);
        let transport = match packet.protocol {
            Protocol::Tcp => Transport::syn(40_000, packet.port),
            Protocol::Udp => Transport::Udp { src: 40_000, dst: packet.port },
            Protocol::Sctp => Transport::Sctp { src: 40_000, dst: packet.port },
        };
        let to = (packet.destination, packet.port);
        let tracking = match packet.state {
            State::New => Tracking::Connection(Connection { original_destination: Some(to), ..Connection::new() }),
            State::Invalid => Tracking::Invalid,
        };
        let received =
            |link| Wire { tracking: tracking.clone(), ..Wire::received(link, packet.source, to.0, transport) };
        let walk = match packet.origin {
            Origin::Pod => ruleset.receive(received(pods()), &around),
            Origin::Outside => ruleset.receive(received(uplink()), &around),
            Origin::Node => ruleset.send(Wire { tracking, ..Wire::sent(packet.source, to.0, transport) }, &around),
        };
        let walk = walk.map_err(|error| faulty(packet, &error))?;
        let now =
            (walk.transit.packet.destination().unwrap(), walk.transit.packet.transport().unwrap().ports().unwrap().1);
        let outcome = match walk.fate {
            ripstop_nft::sim::Fate::Dropped => Outcome::Dropped,
            ripstop_nft::sim::Fate::Rejected(_) => Outcome::Rejected,
            _ if now == to => Outcome::Untouched,
            _ => {
                let source = if walk.transit.masquerade.is_some() || packet.origin == Origin::Node {
                    Source::Node
                } else {
                    Source::Kept
                };
                Outcome::To(BTreeMap::from([(SocketAddr::from(now), source)]))
            }
        };
        Ok((outcome, around.drawn.get()))
    }
}

impl DataPlane for Simulated {
    fn install(&mut self, world: &World) -> Result<(), Stop> {
        *self = Self { fault: self.fault.take(), ..Self::default() };
        self.change(world)
    }

    fn change(&mut self, world: &World) -> Result<(), Stop> {
        not_yet(world)?;
        if world.services.iter().any(|service| service.affinity.is_some()) {
            return Err(Stop::Skip("what one packet adds to a map no other sees in the simulator".into()));
        }
        self.take(world);
        Ok(())
    }

    fn sysctls(&mut self, cores: u64, present: &BTreeMap<String, u64>) -> Result<BTreeMap<String, u64>, Stop> {
        let Some(world) = &self.world else { return Err(Stop::Skip("there is no world".into())) };
        // The size of the table is that of its module's parameter.
        let (outside, inside) = ("hashsize", "buckets");
        let known =
            |name: &str| if name == outside { inside } else { name.strip_prefix("nf_conntrack_").unwrap() }.into();
        let zero = conntrack::least(&ConntrackConfig::default(), 1).map(|(name, _)| (Arc::from(name), 0));
        let mut there: BTreeMap<Arc<str>, u64> = zero.into();
        there.extend(present.iter().map(|(name, value)| (known(name), *value)));
        let raised = conntrack::raised(&settings(world), cores, &there);
        let named = |name: &str| if name == inside { outside.into() } else { format!("nf_conntrack_{name}") };
        Ok(raised.into_iter().map(|(name, value)| (named(name), value)).collect())
    }

    fn send(&mut self, packet: &Packet) -> Result<Seen, Stop> {
        let Some(world) = self.world.clone() else { return Err(Stop::Skip("there is no world".into())) };
        let ruleset = Ruleset::new(&self.tables, &self.elements).map_err(|error| faulty(packet, &error))?;
        let (first, numbers) = Self::walk(&world, &ruleset, packet, 0)?;
        let Outcome::To(mut endpoints) = first.clone() else {
            let fate = match first {
                Outcome::Rejected => Fate::Refused,
                Outcome::Dropped => Fate::Nothing,
                _ => Fate::Passed,
            };
            return Ok(Seen { fate, outcome: Some(first) });
        };
        for number in 1..numbers {
            match Self::walk(&world, &ruleset, packet, number)?.0 {
                Outcome::To(more) => endpoints.extend(more),
                other => return Err(Stop::Fail(format!("of {numbers} numbers {number} leads elsewhere: {other}"))),
            }
        }
        self.sent += 1;
        let (endpoint, source) = endpoints.iter().nth(self.sent % endpoints.len()).unwrap();
        let source = if *source == Source::Kept { packet.source } else { world.primary(packet.family()).unwrap() };
        Ok(Seen { fate: Fate::Arrived { endpoint: *endpoint, source }, outcome: Some(Outcome::To(endpoints)) })
    }
}

fn faulty(packet: &Packet, error: &dyn std::fmt::Display) -> Stop {
    Stop::Fail(format!("{packet:?}: {error}"))
}

/// How many endpoints a chain draws one of, where that is what it does.
pub fn drawn_by(chain: &Name) -> Option<usize> {
    chain.as_str().strip_prefix("endpoints-").or_else(|| chain.as_str().strip_prefix("local-"))?.parse().ok()
}

fn link(name: &str, index: u32) -> Link {
    Link { name: name.parse().unwrap(), index }
}

fn pods() -> Link {
    link("pods", 2)
}

fn uplink() -> Link {
    link("eth0", 3)
}

/// What the rules ask of the host.
struct Surroundings {
    host: Host,
    number: u32,
    /// Of how many numbers one was drawn.
    drawn: Cell<u32>,
}

impl Surroundings {
    fn of(world: &World, number: u32) -> Self {
        let own = world.addresses.clone();
        let loopback: Vec<IpAddr> = vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
        let links = vec![(uplink(), own), (link("lo", 1), loopback)];
        let defaults = ["0.0.0.0/0", "::/0"].map(|prefix| (prefix.parse().unwrap(), uplink()));
        let own = world.pod_ranges.iter().map(|range| (*range, pods()));
        let host = Host { links, routes: defaults.into_iter().chain(own).collect() };
        Self { host, number, drawn: Cell::new(1) }
    }
}

impl Around for Surroundings {
    fn route(&self, packet: &Wire) -> Option<Route> {
        self.host.route(packet)
    }

    fn address_type(&self, address: IpAddr, on: Option<&Link>) -> Option<FibAddrType> {
        self.host.address_type(address, on)
    }

    fn primary_address(&self, link: &Link, family: Family) -> Option<IpAddr> {
        // A link of pods has none of its own: the kernel takes another link's.
        self.host.primary_address(link, family).or_else(|| self.host.primary_address(&uplink(), family))
    }

    fn loopback(&self) -> Option<Link> {
        self.host.loopback()
    }

    fn number(&self, number: &NumGen) -> Option<u32> {
        self.drawn.set(number.modulus);
        Some(number.offset + self.number)
    }
}

fn judged(plane: &mut dyn DataPlane) {
    let rows = run(plane, &[], &|_| ()).unwrap();
    let count = |outcome| rows.iter().filter(|row| row.outcome == outcome).count();
    let failed: Vec<String> = rows
        .iter()
        .filter(|row| row.outcome == Ended::Fail)
        .map(|row| format!("{}: {}", row.id, row.reason.as_deref().unwrap_or_default()))
        .collect();
    println!("{} passed, {} failed, {} skipped", count(Ended::Pass), failed.len(), count(Ended::Skip));
    let mut why: BTreeMap<&str, usize> = BTreeMap::new();
    rows.iter()
        .filter(|row| row.outcome == Ended::Skip)
        .for_each(|row| *why.entry(row.reason.as_deref().unwrap()).or_default() += 1);
    for (reason, count) in why {
        println!("SKIPPED {count}: {reason}");
    }
    assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), rows.len(), failed.join("\n"));
    assert!(count(Ended::Pass) > cases().unwrap().len() / 2);
}

#[test]
fn the_rules_do_in_the_simulator_what_every_case_expects() {
    judged(&mut Simulated::default());
}

#[test]
fn the_rules_do_in_the_simulator_what_the_oracle_says() {
    let outcome = compare(&mut Oracle::default(), &mut Simulated::default(), 1, SIMULATED);
    assert!(outcome.is_ok(), "{}", outcome.unwrap_err());
}

/// What the product answers to health checks in this world.
fn answers(world: &World) -> health::Plan {
    let (node, tables) = told(world);
    let checks: Vec<_> = tables.services().filter_map(|service| health::check(&node, &tables, &service.name)).collect();
    let seconds = |seconds: u64| seconds * 1_000;
    let mut plan = health::Plan {
        serves: true,
        addresses: node.node_port_addresses.iter().copied().collect(),
        is_live: health::is_live(world.proxy.pending_for.map(seconds), seconds(world.proxy.sync_period)),
        is_leaving: world.proxy.leaving,
        ..health::Plan::default()
    };
    plan.set_checks(checks.iter());
    plan
}

/// The agent's own lane of health checks on a thread in a scene's node, and gone with this value.
struct Answering {
    plans: watch::Sender<Arc<health::Plan>>,
    settled: mpsc::Receiver<Faults>,
}

impl Answering {
    fn start(netns: Netns) -> Self {
        let (plans, told) = watch::channel(Arc::default());
        let (settles, settled) = mpsc::channel();
        std::thread::spawn(move || {
            let serve = || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let listen = ServicesConfig::default().healthz_listen;
                runtime.block_on(serve(&listen, told, |faults| drop(settles.send(faults.clone()))));
            };
            netns.run(serve).unwrap();
        });
        let answering = Self { plans, settled };
        answering.wait();
        answering
    }

    fn follow(&self, plan: health::Plan) {
        self.plans.send_replace(Arc::new(plan));
        self.wait();
    }

    fn wait(&self) {
        assert_eq!(self.settled.recv_timeout(Duration::from_secs(30)), Ok(Faults::new()));
    }
}

/// The product's applier in a scene's node: each world is a plan away from the one before.
#[derive(Default)]
pub struct Applied {
    compiler: Compiler,
    applier: Option<Applier>,
    answering: Option<Answering>,
    model: Model,
    /// What somebody does to what is wanted.
    pub fault: Option<Spoil>,
}

impl Applied {
    pub fn follow(&mut self, world: &World, place: &Place<'_>) -> Result<(), Stop> {
        not_yet(world)?;
        if self.compiler == Compiler::Ipvs && world.localhost_node_ports {
            return Err(Stop::Skip(
                "IPVS sends nothing on from loopback addresses: the configuration refuses it".into(),
            ));
        }
        let mut wanted = wanted(self.compiler, world, &self.model);
        if let Some(fault) = &self.fault {
            fault(&mut wanted);
        }
        let plan = ripstop_plan::diff_all(&self.model, &wanted, &|_: &Key, _: &Entry| Ok(()));
        let netns = Netns::open(place.path().to_str().unwrap()).unwrap();
        let files = tempfile::tempdir().unwrap();
        // A thread in the scene's namespace, and gone with it.
        let run = || {
            netns
                .run(|| {
                    let applier = self.applier.get_or_insert_with(|| Applier::open().unwrap());
                    let outcomes = applier.run(&plan.steps, OnError::Continue, &mut BootFiles::new(files.path()));
                    let failed = outcomes.into_iter().find_map(|outcome| outcome.result.err());
                    failed.map_or(Ok(()), |error| Err(Stop::Fail(error.to_string())))
                })
                .unwrap()
        };
        let outcome = std::thread::scope(|scope| scope.spawn(run).join().unwrap());
        self.model = wanted;
        outcome?;
        let answering = self.answering.get_or_insert_with(|| Answering::start(netns));
        answering.follow(answers(world));
        Ok(())
    }
}

/// A scene in whose node the product serves by one of its compilers.
fn scene(compiler: Compiler) -> Option<Scene<'static>> {
    if !possible() {
        return None;
    }
    let applied = RefCell::new(Applied { compiler, ..Applied::default() });
    let install = move |world: &World, place: &Place<'_>| applied.borrow_mut().follow(world, place);
    Scene::new(Box::new(install)).map(Scene::with_health).map_err(|stop| println!("SKIPPED: {stop:?}")).ok()
}

#[test]
fn the_rules_do_in_the_kernel_what_cases_and_oracle_say() {
    in_the_kernel(Compiler::Nftables, REAL);
}

#[test]
fn the_chains_of_iptables_over_nftables_do_what_cases_and_oracle_say() {
    in_the_kernel(Compiler::Iptables(IptablesBackend::Nft), BY_PROGRAM);
}

#[test]
fn the_chains_of_legacy_iptables_do_what_cases_and_oracle_say() {
    in_the_kernel(Compiler::Iptables(IptablesBackend::Legacy), BY_PROGRAM);
}

fn in_the_kernel(compiler: Compiler, scenarios: u32) {
    let Some(mut scene) = scene(compiler) else { return };
    judged(&mut scene);
    let outcome = compare(&mut Oracle::default(), &mut scene, 1, scenarios);
    assert!(outcome.is_ok(), "{}", outcome.unwrap_err());
}

#[test]
fn ipvs_does_in_the_kernel_what_cases_and_oracle_say() {
    if !std::path::Path::new("/proc/net/ip_vs").exists() {
        return println!("SKIPPED: this kernel has no IPVS, or its module ip_vs is not loaded");
    }
    let is_long = std::env::var("RIPSTOP_TEST_TIER").is_ok_and(|tier| tier == "long");
    in_the_kernel(Compiler::Ipvs, if is_long { 10 * REAL } else { REAL });
}
