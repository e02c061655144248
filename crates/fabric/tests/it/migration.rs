//! Clusters that migrate, walked through in any order: what nodes read, do, say and forget.
//!
//! A step is one of: a node reads the next record of the store; it does one thing of what it decided, in the kernel; it
//! notices what it has done; it says so; it ends a migration that is over; it loses its memory, as a killed agent does. After
//! every step, a packet from any pod to any other must arrive: the receiver takes its encapsulation, and no link on the way is
//! smaller than the sender's packets, and the receiver does not take it for forged. In the end, all of them have the new backend and nothing of the old.

use std::collections::{BTreeMap, BTreeSet};

use ripstop_fabric::migration::{self, has_migrated, is_over};
use ripstop_fabric::{forwarder, host, paths, publish};
use ripstop_objects::{BackendKind, ClaimState, Encapsulation, Network, NetworkName, NodeRecord, Record};
use ripstop_tables::{StoreInput, StoreKind};
use ripstop_types::Family::V4;
use ripstop_types::{NodeName, Revision};

use crate::scenario::{Scenario, claim, facts, name, network, network_name, node, prefix, start};

const NODES: usize = 4;
const UPLINK: u32 = 1500;

/// A repeatable source of choices (xorshift, Marsaglia 2003).
struct Dice(u64);

impl Dice {
    fn below(&mut self, count: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % count as u64).unwrap()
    }
}

/// What is in a node's kernel.
#[derive(Debug, Clone, Default, PartialEq)]
struct Kernel {
    tunnels: BTreeSet<Encapsulation>,
    /// Peers that the forwarder knows; what others send is a stranger's.
    knows: BTreeSet<NodeName>,
    /// Packets may come by another way than that by which they are answered.
    loose: bool,
    link_mtu: u32,
    route_mtu: u32,
    sends: BTreeMap<NodeName, Encapsulation>,
}

struct Member {
    scenario: Scenario,
    kernel: Kernel,
    /// How much of the store it has read.
    read: usize,
}

struct Cluster {
    log: Vec<(StoreKind, String, serde_json::Value)>,
    members: Vec<Member>,
    two_subnets: bool,
    /// Whether every node has heard of every other.
    settled: bool,
}

fn name_of(n: usize) -> String {
    format!("n{}", n + 1)
}

impl Cluster {
    /// A cluster that has settled on a backend.
    fn on(kind: BackendKind, two_subnets: bool) -> Self {
        let mut cluster = Self { log: Vec::new(), members: Vec::new(), two_subnets, settled: false };
        cluster.write(&network("default", &["10.244.0.0/16"], |spec| spec.backend.kind = kind));
        for n in 0..NODES {
            cluster.write(&claim(&name_of(n), "default", &format!("10.244.{}.0/24", n + 1), ClaimState::Held));
        }
        for n in 0..NODES {
            cluster.join(n);
        }
        let mut dice = Dice(1);
        cluster.walk(&mut dice, 4_000, false);
        cluster.is_whole(kind);
        cluster.settled = true;
        cluster
    }

    fn join(&mut self, n: usize) {
        let mut facts = facts();
        let subnet = if self.two_subnets { n % 2 + 1 } else { 1 };
        let uplink = facts.links.get_mut(&name("eth0")).unwrap();
        uplink.addresses = vec![(format!("172.30.{subnet}.{}", 11 + n).parse().unwrap(), 24)];
        uplink.mtu = UPLINK;
        facts.forwarder = true;
        let mut scenario = Scenario::with(start(facts));
        scenario.tables.node = node(&name_of(n));
        scenario.tables.identity.machine_id = format!("machine-{}", name_of(n));
        scenario.sync_all();
        let range = format!("10.244.{}.0/24", n + 1).parse().unwrap();
        scenario.tables.own_ranges.insert(network_name("default"), vec![range]);
        self.members.push(Member { scenario, kernel: Kernel::default(), read: 0 });
    }

    fn write<R: Record>(&mut self, record: &R) {
        let kind = R::KIND;
        self.log.push((kind, record.key(), record.encode()));
    }

    /// The record that is in the store now, and where.
    fn latest(&self, kind: StoreKind, key: &str) -> Option<usize> {
        self.log.iter().rposition(|(of, name, _)| *of == kind && name == key)
    }

    fn migrate(&mut self, kind: BackendKind) {
        let at = self.latest(StoreKind::Networks, "default").unwrap();
        let there = Network::decode_record("default", &self.log[at].2);
        let mut wanted = there.clone();
        wanted.spec.backend.kind = kind;
        self.write(&wanted.succeeding(&there).unwrap());
    }

    fn walk(&mut self, dice: &mut Dice, steps: usize, kills: bool) {
        for _ in 0..steps {
            let n = dice.below(self.members.len());
            match dice.below(if kills { 21 } else { 20 }) {
                0..4 => self.reads(n),
                4..12 => self.members[n].does(dice),
                12..15 => self.members[n].notices(),
                15..18 => self.says(n),
                18..20 => self.ends(n),
                _ => {
                    let tables = &mut self.members[n].scenario.tables;
                    tables.prepared.clear();
                    tables.migrated.clear();
                }
            }
            self.packets_arrive();
        }
    }

    fn reads(&mut self, n: usize) {
        let member = &mut self.members[n];
        let Some((kind, key, value)) = self.log.get(member.read).cloned() else { return };
        member.read += 1;
        let revision = Revision(member.read as u64);
        member.scenario.say(StoreInput::Put { kind, key: key.as_str().into(), value: value.into(), revision });
        member.scenario.tables.sends = member.sends();
    }

    fn says(&mut self, n: usize) {
        let Some(record) = publish::record(&self.members[n].scenario.tables) else { return };
        let said = self.latest(StoreKind::Nodes, record.name.as_str());
        if said.is_none_or(|at| self.log[at].2 != record.encode()) {
            self.write(&record);
        }
    }

    fn ends(&mut self, n: usize) {
        let tables = &self.members[n].scenario.tables;
        let Some(row) = tables.networks.get(&network_name("default")) else { return };
        let at = self.latest(StoreKind::Networks, "default").unwrap();
        if is_over(tables, &row.value) && row.revision.0 == at as u64 + 1 {
            let ended = Network { migration: None, ..(*row.value).clone() };
            self.write(&ended);
        }
    }

    fn packets_arrive(&self) {
        for (n, from) in self.members.iter().enumerate() {
            for (peer, encapsulation) in &from.kernel.sends {
                let to = self.members.iter().find(|member| member.scenario.tables.node == *peer).unwrap();
                let carried = UPLINK - encapsulation.overhead(V4);
                let told = || format!("{} to {peer}: {:?} -> {:?}", name_of(n), from.kernel, to.kernel);
                let received = *encapsulation == Encapsulation::None || to.kernel.tunnels.contains(encapsulation);
                assert!(received, "not received: {}", told());
                let known = to.kernel.knows.contains(&from.scenario.tables.node) || !self.settled;
                assert!(*encapsulation != Encapsulation::Udp || known, "a stranger's: {}", told());
                let back = to.kernel.sends.get(&from.scenario.tables.node);
                let same = back.is_none_or(|back| back == encapsulation);
                assert!(same || to.kernel.loose, "taken for forged: {}", told());
                assert!(from.kernel.route_mtu <= carried, "too long for the way: {}", told());
                // Without an MTU yet, a node has no pods.
                let taken = if to.kernel.link_mtu == 0 { u32::MAX } else { to.kernel.link_mtu };
                assert!(from.kernel.route_mtu <= taken, "too long for the pod's link: {}", told());
            }
        }
    }

    fn is_whole(&self, kind: BackendKind) {
        let tunnel = match kind {
            BackendKind::HostGw | BackendKind::Bgp => Encapsulation::None,
            BackendKind::Vxlan | BackendKind::Auto => Encapsulation::Vxlan,
            BackendKind::Udp => Encapsulation::Udp,
            BackendKind::Ipip | BackendKind::IpipCrossSubnet => Encapsulation::Ipip,
        };
        let mtu = UPLINK - tunnel.overhead(V4);
        for member in &self.members {
            let tables = &member.scenario.tables;
            let network = &tables.networks[&network_name("default")].value;
            assert_eq!((network.spec.backend.kind, &network.migration), (kind, &None), "{}", tables.node);
            assert_eq!(member.kernel, member.wanted(), "{}", tables.node);
            assert_eq!((member.kernel.link_mtu, member.kernel.route_mtu), (mtu, mtu));
            let tunnels = Some(tunnel).filter(|tunnel| *tunnel != Encapsulation::None);
            assert_eq!(member.kernel.tunnels, tunnels.into_iter().collect());
            let known = if kind == BackendKind::Udp { self.members.len() - 1 } else { 0 };
            assert_eq!(member.kernel.knows.len(), known);
            assert_eq!(member.kernel.sends.len(), self.members.len() - 1);
        }
    }
}

impl Member {
    fn network(&self) -> Option<Network> {
        self.scenario.tables.networks.get(&network_name("default")).map(|row| (*row.value).clone())
    }

    /// What the decisions want to be in the kernel.
    fn wanted(&self) -> Kernel {
        let tables = &self.scenario.tables;
        let Some(network) = self.network() else { return self.kernel.clone() };
        let way = |peer: &NodeRecord| {
            tables.ranges(&peer.name, &network.name, V4).next()?;
            Some((peer.name.clone(), paths::path(tables, &network, peer, V4).ok()?.encapsulation))
        };
        Kernel {
            tunnels: paths::tunnel_links(&network).map(|(tunnel, _)| tunnel).collect(),
            knows: match forwarder::device(&network) {
                Some(_) => tables
                    .peers()
                    .filter(|row| forwarder::peer(tables, &network, &row.value).is_some())
                    .map(|row| row.value.name.clone())
                    .collect(),
                None => BTreeSet::new(),
            },
            loose: self.kernel.loose || network.migration.is_some(),
            link_mtu: host::link_mtu(tables, &network).unwrap(),
            route_mtu: host::pod_mtu(tables, &network).unwrap(),
            sends: tables.peers().filter_map(|row| way(&row.value)).collect(),
        }
    }

    fn sends(&self) -> BTreeMap<(NetworkName, NodeName, ripstop_types::Family), Encapsulation> {
        let place = |(peer, how): (&NodeName, &Encapsulation)| ((network_name("default"), peer.clone(), V4), *how);
        self.kernel.sends.iter().map(place).collect()
    }

    /// One thing that is not as it should be. A link that grows comes before packets that do, as both are one plan in which
    /// links come first; the other way round for what shrinks.
    fn does(&mut self, dice: &mut Dice) {
        let wanted = self.wanted();
        match dice.below(6) {
            // The forwarder's set-up and its peers are one plan.
            0 if wanted.tunnels.is_superset(&self.kernel.tunnels) || self.kernel.sends == wanted.sends => {
                (self.kernel.tunnels, self.kernel.knows) = (wanted.tunnels, wanted.knows);
            }
            4 if self.kernel.tunnels == wanted.tunnels => self.kernel.knows = wanted.knows,
            1 if wanted.link_mtu >= self.kernel.route_mtu => self.kernel.link_mtu = wanted.link_mtu,
            2 if wanted.route_mtu <= self.kernel.link_mtu => self.kernel.route_mtu = wanted.route_mtu,
            3 => self.kernel.loose = wanted.loose,
            _ => {
                for (peer, how) in &wanted.sends {
                    let leaves = *how == Encapsulation::None || self.kernel.tunnels.contains(how);
                    if self.kernel.sends.get(peer) != Some(how) && leaves {
                        self.kernel.sends.insert(peer.clone(), *how);
                        break;
                    }
                }
            }
        }
        self.scenario.tables.sends = self.sends();
    }

    /// Compares what it has done with what it decided.
    fn notices(&mut self) {
        let wanted = self.wanted();
        let has = |tunnel| self.kernel.tunnels.contains(&tunnel);
        let tunnels =
            [("ript1", Encapsulation::Vxlan), ("ripudp0", Encapsulation::Udp), ("ripipip0", Encapsulation::Ipip)];
        let links = [("rip0", true)].into_iter().chain(tunnels.map(|(link, tunnel)| (link, has(tunnel))));
        self.scenario.tables.realised = links.filter(|link| link.1).map(|link| name(link.0)).collect();
        let Some(network) = self.network() else { return };
        let revision = self.scenario.tables.networks[&network.name].revision;
        let own = |kernel: &Kernel| (kernel.tunnels.clone(), kernel.loose, kernel.link_mtu, kernel.route_mtu);
        let tables = &mut self.scenario.tables;
        if network.migration.is_none() {
            tables.prepared.clear();
            tables.migrated.clear();
            return;
        }
        if own(&wanted) == own(&self.kernel) && migration::receives(tables, &network) {
            tables.prepared.insert(network.name.clone(), revision);
        }
        if has_migrated(tables, &network) {
            tables.migrated.insert(network.name.clone(), revision);
        }
    }
}

/// Reading a record back, as a node does.
trait Again {
    fn decode_record(key: &str, value: &serde_json::Value) -> Self;
}

impl Again for Network {
    fn decode_record(key: &str, value: &serde_json::Value) -> Self {
        <Self as Record>::decode(key, value).unwrap()
    }
}

#[test]
fn a_packet_arrives_at_every_moment_of_every_migration() {
    use BackendKind::{Auto, HostGw, Ipip, IpipCrossSubnet, Udp, Vxlan};
    let moves = [
        (Vxlan, Ipip, true),
        (Ipip, Vxlan, true),
        (HostGw, Ipip, false),
        (Ipip, IpipCrossSubnet, true),
        (IpipCrossSubnet, Auto, true),
        (Udp, IpipCrossSubnet, true),
        (Vxlan, HostGw, false),
        (HostGw, Vxlan, false),
        (HostGw, Auto, false),
        (Auto, HostGw, false),
        (Vxlan, Auto, true),
        (Auto, Vxlan, true),
        (Udp, Vxlan, true),
        (Vxlan, Udp, true),
        (Udp, HostGw, false),
        (HostGw, Udp, false),
        (Udp, Auto, true),
        (Auto, Udp, true),
    ];
    for (from, to, two_subnets) in moves {
        for seed in 1..=12 {
            let mut cluster = Cluster::on(from, two_subnets);
            let mut dice = Dice(seed * 0x9e37_79b9);
            cluster.migrate(to);
            cluster.walk(&mut dice, 400, true);
            if seed % 3 == 0 {
                // Back in the middle.
                let at = cluster.latest(StoreKind::Networks, "default").unwrap();
                let there = Network::decode_record("default", &cluster.log[at].2);
                let back = there.migration.as_ref().map_or(to, |migration| migration.from);
                cluster.migrate(back);
                cluster.walk(&mut dice, 6_000, false);
                cluster.is_whole(back);
            } else {
                cluster.walk(&mut dice, 6_000, false);
                cluster.is_whole(to);
            }
        }
    }
}

#[test]
fn a_node_that_is_silent_keeps_it_from_ending_until_it_is_skipped() {
    let mut cluster = Cluster::on(BackendKind::Vxlan, false);
    let mut dice = Dice(7);
    cluster.migrate(BackendKind::HostGw);
    let silent = cluster.members.pop().unwrap();
    let name = silent.scenario.tables.node.clone();
    // It goes on receiving as it did.
    let mut dead = Vec::new();
    for member in &mut cluster.members {
        dead.push(member.kernel.sends.remove(&name));
    }
    for _ in 0..3_000 {
        let n = dice.below(cluster.members.len());
        match dice.below(4) {
            0 => cluster.reads(n),
            1 => cluster.members[n].does(&mut dice),
            2 => cluster.members[n].notices(),
            _ => {
                cluster.says(n);
                cluster.ends(n);
            }
        }
    }
    let tables = &cluster.members[0].scenario.tables;
    let network = cluster.members[0].network().unwrap();
    assert!(network.migration.is_some() && !is_over(tables, &network));
    let stage = |node: &NodeName| migration::stage(tables, &network, &tables.nodes[node].value);
    assert_eq!(stage(&name), Some(migration::Stage::Preparing));
    let mut skipping = network.clone();
    skipping.migration.as_mut().unwrap().skip.insert(name.clone());
    assert_eq!(migration::stage(tables, &skipping, &tables.nodes[&name].value), Some(migration::Stage::Skipped));
}

#[test]
fn host_gw_is_refused_where_a_router_stands_between() {
    let cluster = Cluster::on(BackendKind::Vxlan, true);
    let tables = &cluster.members[0].scenario.tables;
    let mut network = cluster.members[0].network().unwrap();
    assert_eq!(migration::check(tables, &network), Ok(()));
    network.spec.backend.kind = BackendKind::HostGw;
    let faults = migration::check(tables, &network).unwrap_err();
    assert_eq!(faults.len(), 4, "each pair of both subnets: {faults:?}");
    assert!(
        faults[0].contains("node/n1 at 172.30.1.11") && faults[0].contains("accepted: auto, vxlan, udp"),
        "{}",
        faults[0]
    );
}

#[test]
fn udp_is_refused_where_a_node_has_no_forwarder() {
    let mut cluster = Cluster::on(BackendKind::Vxlan, true);
    let mut network = cluster.members[0].network().unwrap();
    network.spec.backend.kind = BackendKind::Udp;
    assert_eq!(migration::check(&cluster.members[0].scenario.tables, &network), Ok(()));
    cluster.members[2].scenario.tables.facts.forwarder = false;
    cluster.says(2);
    for _ in 0..cluster.log.len() {
        cluster.reads(0);
    }
    let faults = migration::check(&cluster.members[0].scenario.tables, &network).unwrap_err();
    assert_eq!(
        faults,
        ["no forwarder runs on node/n3, which udp needs: start `ripstop udp-forward` there (systemctl enable --now \
          ripstop-udp-forward)"]
    );
}

/// IPv6 goes plain there.
#[test]
fn ipip_is_refused_where_pods_of_ipv6_would_have_no_way() {
    let cluster = Cluster::on(BackendKind::Vxlan, true);
    let mut tables = cluster.members[0].scenario.tables.clone();
    let mut network = cluster.members[0].network().unwrap();
    network.spec.backend.kind = BackendKind::Ipip;
    assert_eq!(migration::check(&tables, &network), Ok(()), "IPv4 goes through a router");
    network.spec.ranges.v6 = Some(prefix("fd00:10::/48"));
    let faults = migration::check(&tables, &network).unwrap_err();
    assert_eq!(faults[0], "node/n1 has published no IPv6 address, which ipip needs");
    for row in tables.nodes.values_mut() {
        let mut record = (*row.value).clone();
        record.addresses.retain(|address| address.ip.is_ipv6());
        row.value = record.into();
    }
    network.spec.ranges.v6 = None;
    let faults = migration::check(&tables, &network).unwrap_err();
    assert_eq!(faults.len(), NODES, "{faults:?}");
    assert_eq!(faults[0], "node/n1 has published no IPv4 address, which ipip needs");
}
