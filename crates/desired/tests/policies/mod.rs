//! Three nodes whose tables for policies run in the simulator, and faults planted into those tables. Tests of several crates share them.

pub mod faults;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ripstop_conformance::policy::{Change, DataPlane, Fate, Stop, node_of};
use ripstop_desired::policy::Compiled;
use ripstop_netmodel::{Model, Object};
use ripstop_nft::model::{ElementBody, ElementKey, Table};
use ripstop_nft::sim::{self, Connection, Host, Link, Packet as Frame, Ruleset, Transport};
use ripstop_objects::service::Protocol;
use ripstop_oracle::policy::{Packet, State, Traffic, World};
use ripstop_policy::Policies;
use ripstop_types::{Family, NodeName, Prefix};

/// What spoils a node's objects.
pub type Spoil = Arc<dyn Fn(&mut Model) + Send + Sync>;

/// A node: what it has decided, and what that became.
pub struct Node {
    name: NodeName,
    pub policies: Policies,
    pub compiled: Compiled,
    table: Ready,
}

/// Its tables, ready for packets.
#[derive(Default)]
struct Ready {
    tables: Vec<Table>,
    elements: BTreeMap<ElementKey, ElementBody>,
}

impl Ready {
    fn of(model: &Model) -> Self {
        let mut ready = Self::default();
        let mut parts = Vec::new();
        for (_, entry) in model.iter() {
            match &entry.object {
                Object::NftTable(table) => ready.tables.push(table.table.clone()),
                Object::NftPart(part) => {
                    ready.elements.extend(part.part.elements());
                    parts.push(part.part.clone());
                }
                Object::NftElement(element) => {
                    ready.elements.insert(element.key.clone(), element.body.clone());
                }
                other => panic!("{other:?} is of no policy"),
            }
        }
        for table in &mut ready.tables {
            let own = table.clone();
            for part in parts.iter().filter(|part| (part.family, &part.table) == (own.family, &own.name)) {
                own.check_part(part).unwrap();
                table.sets.extend(part.sets.clone());
                table.chains.extend(part.chains.clone());
            }
        }
        ready
    }
}

impl Node {
    fn new(name: &str) -> Self {
        let name: NodeName = name.parse().unwrap();
        let policies = Policies::new(Some(name.clone()));
        let compiled = Compiled::of(&policies);
        let table = Ready::of(compiled.model());
        Self { name, policies, compiled, table }
    }

    fn follow(&mut self, changes: &[Change], fault: Option<&Spoil>) {
        for change in changes {
            match change {
                Change::Node(node) => self.policies.put_node(node),
                Change::NodeGone(name) => self.policies.remove_node(name),
                Change::Namespace(namespace) => self.policies.put_namespace(namespace),
                Change::NamespaceGone(name) => self.policies.remove_namespace(name),
                Change::Pod(pod) => self.policies.put_pod(pod),
                Change::PodGone(name) => self.policies.remove_pod(name),
                Change::Policy(policy) => self.policies.put_policy(policy),
                Change::PolicyGone(name) => self.policies.remove_policy(name),
                Change::ClusterPolicy(policy) => self.policies.put_cluster_policy(policy),
                Change::ClusterPolicyGone(name) => self.policies.remove_cluster_policy(name),
            }
        }
        let changes = self.policies.decide();
        self.compiled.update(&self.policies, &changes);
        let mut model = self.compiled.model().clone();
        if let Some(fault) = fault {
            fault(&mut model);
        }
        self.table = Ready::of(&model);
    }

    /// Whether the node lets a packet pass that comes by it.
    fn passes(&self, world: &World, packet: &Packet) -> bool {
        let addresses = world.nodes.iter().filter(|node| node.name == self.name).flat_map(|node| &node.addresses);
        let addresses: Vec<IpAddr> = addresses.copied().collect();
        let from_itself = addresses.contains(&packet.source);
        let is_here = |ip| node_of(ip).as_ref() == Some(&self.name);
        let host = host(addresses);
        let frame = frame(packet, is_here(packet.source));
        let rules = Ruleset::new(&self.table.tables, &self.table.elements).unwrap();
        let walk = if from_itself { rules.send(frame, &host) } else { rules.receive(frame, &host) };
        walk.unwrap().fate == sim::Fate::Accepted
    }
}

fn link(name: &str, index: u32) -> Link {
    Link { name: name.parse().unwrap(), index }
}

/// Pods are behind one link, everybody else behind another.
fn host(addresses: Vec<IpAddr>) -> Host {
    let route = |prefix: &str, link: Link| (prefix.parse::<Prefix>().unwrap(), link);
    let out = link("eth0", 2);
    Host {
        links: vec![(link("lo", 1), Vec::new()), (out.clone(), addresses), (link("pods", 3), Vec::new())],
        routes: [route("0.0.0.0/0", out.clone()), route("::/0", out)].into(),
    }
}

fn frame(packet: &Packet, is_of_pod: bool) -> Frame {
    let (src, family) = (33_000, Family::of(packet.source));
    let transport = match packet.traffic {
        Traffic::Port(Protocol::Tcp, port) => Transport::syn(src, port),
        Traffic::Port(Protocol::Udp, dst) => Transport::Udp { src, dst },
        Traffic::Port(Protocol::Sctp, dst) => Transport::Sctp { src, dst },
        Traffic::Other(1 | 58) => Transport::Icmp { kind: if family == Family::V4 { 8 } else { 128 }, target: None },
        Traffic::Other(number) => Transport::Other(number),
        Traffic::Discovery => Transport::Icmp { kind: 135, target: None },
    };
    let by = if is_of_pod { link("pods", 3) } else { link("eth0", 2) };
    let frame = Frame::received(by, packet.source, packet.destination, transport);
    match packet.state {
        State::New => frame,
        State::Known => frame.with_connection(Connection::established()),
    }
}

/// All nodes.
pub struct Cluster {
    pub nodes: [Node; 3],
    world: World,
    fault: Option<Spoil>,
}

impl Cluster {
    /// One that has a fault, or none.
    pub fn new(fault: Option<Spoil>) -> Self {
        Self { nodes: ["n1", "n2", "n3"].map(Node::new), world: World::default(), fault }
    }

    /// Whether each node that a packet comes by lets it pass. What a pod sends to its own address never leaves it.
    fn pass(&self, packet: &Packet) -> bool {
        let pod = self.world.pod_at(packet.source);
        if !packet.by_service && pod.is_some_and(|pod| pod.ips.contains(&packet.destination)) {
            return true;
        }
        let ends = [packet.source, packet.destination].map(node_of);
        let mut by = self.nodes.iter().filter(|node| ends.contains(&Some(node.name.clone())));
        by.all(|node| node.passes(&self.world, packet))
    }
}

impl DataPlane for Cluster {
    fn begin(&mut self) -> Result<(), Stop> {
        *self = Self::new(self.fault.take());
        Ok(())
    }

    fn follow(&mut self, changes: &[Change]) -> Result<(), Stop> {
        changes.iter().for_each(|change| change.apply(&mut self.world));
        self.nodes.iter_mut().for_each(|node| node.follow(changes, self.fault.as_ref()));
        Ok(())
    }

    fn send(&mut self, packets: &[Packet]) -> Result<Vec<Fate>, Stop> {
        let fate = |packet| if self.pass(packet) { Fate::Arrived } else { Fate::Nothing };
        Ok(packets.iter().map(fate).collect())
    }
}
