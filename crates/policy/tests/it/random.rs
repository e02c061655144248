//! The tables beside the oracle, while objects come, change and go.

use std::collections::BTreeMap;
use std::net::IpAddr;

use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestCaseResult};
use ripstop_conformance::policy::{Change, Scenario, node_of, scenarios};
use ripstop_oracle::policy::{Packet, State, Traffic, World, judge};
use ripstop_policy::{Changes, Gate, Lead, Policies, TableName, Way};
use ripstop_types::{Family, NodeName};

pub fn follow(policies: &mut Policies, change: &Change) {
    match change {
        Change::Node(node) => policies.put_node(node),
        Change::NodeGone(name) => policies.remove_node(name),
        Change::Namespace(namespace) => policies.put_namespace(namespace),
        Change::NamespaceGone(name) => policies.remove_namespace(name),
        Change::Pod(pod) => policies.put_pod(pod),
        Change::PodGone(name) => policies.remove_pod(name),
        Change::Policy(policy) => policies.put_policy(policy),
        Change::PolicyGone(name) => policies.remove_policy(name),
        Change::ClusterPolicy(policy) => policies.put_cluster_policy(policy),
        Change::ClusterPolicyGone(name) => policies.remove_cluster_policy(name),
    }
}

/// What a node says of a packet, by its tables, as a data plane asks them. `is_own` says whose addresses are the node's.
fn passes(policies: &Policies, is_own: impl Fn(IpAddr) -> bool, packet: &Packet) -> bool {
    if packet.state == State::Known || packet.traffic == Traffic::Discovery {
        return true;
    }
    let Packet { source, destination, .. } = *packet;
    let port = match packet.traffic {
        Traffic::Port(protocol, port) => Some((protocol, port)),
        Traffic::Other(_) | Traffic::Discovery => None,
    };
    let is_itself = policies.pod(source).is_some_and(|(_, own)| own.contains(&destination));
    if is_itself {
        return !packet.by_service
            || policies.passes(Gate::EgressNear, source, destination, port)
                && policies.passes(Gate::IngressNear, destination, source, port);
    }
    if is_own(source) {
        return true;
    }
    let egress = if is_own(destination) { Gate::EgressNear } else { Gate::Egress };
    policies.passes(egress, source, destination, port) && policies.passes(Gate::Ingress, destination, source, port)
}

/// Everything that tables say.
#[derive(Debug, PartialEq, Eq, Default)]
struct Said {
    leads: BTreeMap<(IpAddr, usize), Lead>,
    ports: BTreeMap<TableName, ripstop_policy::PortTable>,
    peers: BTreeMap<TableName, (bool, Vec<(IpAddr, IpAddr)>)>,
    exceptions: BTreeMap<(TableName, IpAddr), bool>,
}

impl Said {
    fn of(policies: &Policies) -> Self {
        let mut said = Self::default();
        for ip in policies.subjects() {
            said.leads.extend(Gate::ALL.map(|gate| ((ip, gate as usize), policies.lead(gate, ip))));
        }
        said.ports = policies.port_tables().map(|name| (name, policies.port_table(&name).unwrap().clone())).collect();
        for name in policies.peer_tables() {
            let table = policies.peer_table(&name).unwrap();
            let blocks = Family::BOTH.into_iter().flat_map(|family| table.blocks(family).to_vec()).collect();
            said.peers.insert(name, (table.otherwise(), blocks));
            said.exceptions.extend(table.exceptions().map(|(ip, verdict)| ((name, ip), verdict)));
        }
        said
    }

    /// Follows changes alone.
    fn follow(&mut self, policies: &Policies, changes: &Changes) {
        for ip in &changes.subjects {
            self.leads.retain(|(own, _), _| own != ip);
            if policies.pod(*ip).is_some() {
                self.leads.extend(Gate::ALL.map(|gate| ((*ip, gate as usize), policies.lead(gate, *ip))));
            }
        }
        for name in &changes.ports {
            self.ports.remove(name);
            self.ports.extend(policies.port_table(name).map(|table| (*name, table.clone())));
        }
        for name in &changes.peers {
            self.peers.remove(name);
            self.exceptions.retain(|(own, _), _| own != name);
            let Some(table) = policies.peer_table(name) else { continue };
            let blocks = Family::BOTH.into_iter().flat_map(|family| table.blocks(family).to_vec()).collect();
            self.peers.insert(*name, (table.otherwise(), blocks));
            self.exceptions.extend(table.exceptions().map(|(ip, verdict)| ((*name, ip), verdict)));
        }
        for (name, ip) in &changes.exceptions {
            let verdict = policies.peer_table(name).and_then(|table| table.exception(*ip));
            match verdict {
                Some(verdict) => self.exceptions.insert((*name, *ip), verdict),
                None => self.exceptions.remove(&(*name, *ip)),
            };
        }
    }

    /// Nothing leads to what is not there.
    fn is_closed(&self) -> bool {
        let is_there = |way: Way| !matches!(way, Way::Peers(name) if !self.peers.contains_key(&name));
        let leads_there = |lead: &Lead| match lead {
            Lead::Way(way) => is_there(*way),
            Lead::Ports(name) => self.ports.contains_key(name),
        };
        self.leads.values().all(leads_there) && self.ports.values().flat_map(|table| table.ways()).all(is_there)
    }
}

fn node(name: &str) -> NodeName {
    name.parse().unwrap()
}

/// The tables of each node.
struct Nodes(Vec<(NodeName, Policies, Said)>);

impl Nodes {
    fn new() -> Self {
        Self(["n1", "n2"].map(|name| (node(name), Policies::new(Some(node(name))), Said::default())).into())
    }

    fn change(&mut self, changes: &[Change]) {
        for (_, policies, said) in &mut self.0 {
            changes.iter().for_each(|change| follow(policies, change));
            let changes = policies.decide();
            said.follow(policies, &changes);
        }
    }

    /// Whether each node that a packet comes by lets it pass.
    fn pass(&self, world: &World, packet: &Packet) -> bool {
        let by = |address| node_of(address);
        self.0
            .iter()
            .filter(|(name, ..)| [by(packet.source), by(packet.destination)].contains(&Some(name.clone())))
            .all(|(name, policies, _)| {
                let own = world.nodes.iter().find(|node| node.name == *name);
                passes(policies, |ip| own.is_some_and(|own| own.addresses.contains(&ip)), packet)
            })
    }
}

fn run(scenario: &Scenario) -> TestCaseResult {
    let (mut nodes, mut world) = (Nodes::new(), World::default());
    let mut steps = vec![(Change::all_of(&scenario.world), Vec::new())];
    steps.extend(scenario.steps.iter().map(|step| (step.changes.clone(), step.packets.clone())));
    for (changes, packets) in steps {
        changes.iter().for_each(|change| change.apply(&mut world));
        nodes.change(&changes);
        for packet in packets {
            let judged = judge(&world, &packet);
            if nodes.pass(&world, &packet) != judged.is_accepted() {
                return Err(TestCaseError::fail(format!("{scenario}{packet:?}: {judged:?}")));
            }
        }
        for (name, policies, said) in &nodes.0 {
            // From the same objects in another order, at once.
            let mut anew = Policies::new(Some(name.clone()));
            Change::all_of(&world).iter().rev().for_each(|change| follow(&mut anew, change));
            anew.decide();
            let (now, anew) = (Said::of(policies), Said::of(&anew));
            prop_assert!(now.is_closed(), "{}{:#?}", scenario, now);
            prop_assert_eq!(&now, &anew, "{}", scenario);
            prop_assert_eq!(&now, said, "what changes tell\n{}", scenario);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn tables_say_what_the_oracle_says(scenario in scenarios()) {
        run(&scenario)?;
    }
}
