//! Small clusters in words: the tables of node n1 after the store said what a scenario says.
//!
//! Everything enters as the store's own messages and JSON, so a scenario cannot have what an agent could not. Shared by
//! the tests of the crates that decide from tables; a test uses what it needs.
#![allow(dead_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ripstop_ipam::Attachment;
use ripstop_ipam::ranges::RangeSnapshot;
use ripstop_netmodel::{HostFacts, HostLink};
use ripstop_objects::{
    AgentConfig, AliveRecord, ClaimState, Network, NetworkName, NetworkSpec, NodeAddress, NodeIdentity, NodeRecord,
    RangeClaim, Ranges, Receive, Record, VxlanReceive, Wiring, claim_key,
};
use ripstop_tables::{Bandwidth, Change, PodRow, PodState, Snapshot, Start, StoreInput, StoreKind, Tables};
use ripstop_types::{Family, IfName, Labels, Mac, Millis, NodeName, Prefix, Revision};

/// The tables and the store's next revision.
#[derive(Debug, Clone)]
pub struct Scenario {
    pub tables: Tables,
    pub revision: u64,
}

/// The snapshot that these tables would be restarted with: written and read again.
pub fn kept(tables: &Tables, ranges: Option<RangeSnapshot>) -> Snapshot {
    let text = serde_json::to_vec(&tables.snapshot(ranges)).unwrap();
    Snapshot::decode(&text, &tables.node).unwrap()
}

pub fn name(text: &str) -> IfName {
    text.parse().unwrap()
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

pub fn node(text: &str) -> NodeName {
    text.parse().unwrap()
}

pub fn network_name(text: &str) -> NetworkName {
    text.parse().unwrap()
}

/// A link that is up, with addresses as `172.30.1.11/24`.
pub fn host_link(mtu: u32, addresses: &[&str]) -> HostLink {
    let addresses = addresses.iter().map(|text| address(text)).map(|a| (a.ip, a.prefix.len())).collect();
    let mac = Some(Mac::local([0, 0, 0, 0, 1]));
    HostLink { running: true, mtu, mac, addresses, accept_ra: None, kind: None, ports: 0, taken: false }
}

/// An address with its subnet, as `172.30.1.11/24`.
pub fn address(text: &str) -> NodeAddress {
    let (ip, len) = text.split_once('/').unwrap();
    let ip = ip.parse().unwrap();
    NodeAddress { ip, prefix: Prefix::containing(ip, len.parse().unwrap()).unwrap() }
}

/// One uplink, eth0, in both families.
pub fn facts() -> HostFacts {
    HostFacts {
        links: BTreeMap::from([(name("eth0"), host_link(1500, &["172.30.1.11/24", "fd00:30:1::11/64"]))]),
        default_links: Family::BOTH.into_iter().map(|family| (family, name("eth0"))).collect(),
        bridge_netfilter: Some(true),
        ipv6: true,
        ifb: true,
        ipip: true,
        ..HostFacts::default()
    }
}

pub fn start(facts: HostFacts) -> Start {
    Start {
        config: AgentConfig::default(),
        node: node("n1"),
        identity: identity("n1"),
        run: 1,
        version: "1.0.0".into(),
        facts,
        observed: Vec::new(),
        pods: Vec::new(),
        lost: Vec::new(),
        preferred: Vec::new(),
        snapshot: None,
        held: false,
    }
}

pub fn identity(node: &str) -> NodeIdentity {
    NodeIdentity { machine_id: format!("machine-{node}"), boot_id: format!("boot-{node}") }
}

/// A network of these ranges, with what `change` makes of it.
pub fn network(name: &str, ranges: &[&str], change: impl FnOnce(&mut NetworkSpec)) -> Network {
    let of = |family| ranges.iter().map(|text| prefix(text)).find(|range| range.family() == family);
    let mut spec = NetworkSpec::of(Ranges { v4: of(Family::V4), v6: of(Family::V6) });
    change(&mut spec);
    Network { name: network_name(name), labels: Labels::new(), spec, migration: None }
}

/// What a node publishes that takes everything: plain packets, and VXLAN with VNI 1 on port 8472.
pub fn node_record(name: &str, addresses: &[&str]) -> NodeRecord {
    let addresses: Vec<NodeAddress> = addresses.iter().map(|text| self::address(text)).collect();
    NodeRecord {
        name: node(name),
        identity: identity(name),
        receives: vec![Receive::Plain, Receive::Vxlan(vxlan(name, &addresses))],
        addresses,
        prefers: Vec::new(),
        forwarder: false,
        pod_mtu: None,
        probe_port: None,
        networks: BTreeMap::new(),
        migrated: BTreeMap::new(),
        version: "1.0.0".into(),
        labels: Labels::new(),
    }
}

fn vxlan(name: &str, addresses: &[NodeAddress]) -> VxlanReceive {
    let v4 = addresses.iter().find_map(|a| if let IpAddr::V4(ip) = a.ip { Some(ip) } else { None });
    let v6 = addresses.iter().find_map(|a| if let IpAddr::V6(ip) = a.ip { Some(ip) } else { None });
    let last = name.bytes().last().unwrap_or(0);
    VxlanReceive {
        vni: 1,
        port: 8472,
        mac: Mac::local([0, 0, 0, 1, last]),
        outer_v4: v4,
        outer_v6: v6,
        inner_v4: None,
        inner_v6: None,
    }
}

pub fn claim(owner: &str, network: &str, range: &str, state: ClaimState) -> RangeClaim {
    RangeClaim {
        network: network_name(network),
        range: prefix(range),
        node: node(owner),
        machine: format!("machine-{owner}"),
        boot: format!("boot-{owner}"),
        run: 1,
        state,
        to: None,
        holder: None,
    }
}

/// A pod's interface eth0, answered for, with the addresses it leased.
pub fn pod_row(pod: &str, network: &str, ips: &[&str], wiring: Wiring) -> PodRow {
    let container = format!("c-{pod}");
    let last = pod.bytes().last().unwrap_or(0);
    PodRow {
        attachment: Attachment { container: container.parse().unwrap(), ifname: name("eth0") },
        pod: Some(pod.parse().unwrap()),
        network: network_name(network),
        config_name: "ripstop".into(),
        netns: format!("/run/netns/{pod}").into(),
        ips: ips.iter().map(|text| ip(text)).collect(),
        ranges: Vec::new(),
        mac: Mac::local([0, 0, 1, 0, last]),
        host_link: name(&format!("ripp{pod}")),
        host_mac: match wiring {
            Wiring::Routed => "0a:52:49:50:00:01".parse().unwrap(),
            Wiring::Bridge => Mac::local([0, 0, 1, 1, last]),
        },
        mtu: 1450,
        fixed_mtu: false,
        wiring,
        bandwidth: Bandwidth::default(),
        host_ports: Vec::new(),
        state: PodState::Ready,
        request: "r1".into(),
        since: Millis(1_000),
        boot_id: "boot-n1".into(),
    }
}

impl Scenario {
    /// Node n1 with one uplink; nothing is known of the store.
    pub fn new() -> Self {
        Self::with(start(facts()))
    }

    pub fn with(start: Start) -> Self {
        Self { tables: Tables::new(start), revision: 0 }
    }

    /// Everything is read and there is nothing but what follows.
    pub fn synced() -> Self {
        let mut scenario = Self::new();
        scenario.sync_all();
        scenario
    }

    pub fn sync_all(&mut self) {
        for kind in StoreKind::ALL {
            self.sync(kind);
        }
    }

    pub fn sync(&mut self, kind: StoreKind) -> BTreeSet<Change> {
        let revision = Revision(self.revision);
        self.say(StoreInput::Synced { kind, revision })
    }

    pub fn say(&mut self, input: StoreInput) -> BTreeSet<Change> {
        self.tables.apply_store(&input)
    }

    /// The store shows a record.
    pub fn put<R: Record>(&mut self, record: &R) -> BTreeSet<Change> {
        self.put_json(R::KIND, &record.key(), record.encode())
    }

    pub fn put_json(&mut self, kind: StoreKind, key: &str, value: serde_json::Value) -> BTreeSet<Change> {
        self.revision += 1;
        self.say(StoreInput::Put { kind, key: key.into(), value: value.into(), revision: Revision(self.revision) })
    }

    pub fn delete(&mut self, kind: StoreKind, key: &str) -> BTreeSet<Change> {
        self.revision += 1;
        self.say(StoreInput::Delete { kind, key: key.into(), revision: Revision(self.revision) })
    }

    pub fn network(mut self, name: &str, ranges: &[&str], change: impl FnOnce(&mut NetworkSpec)) -> Self {
        self.put(&network(name, ranges, change));
        self
    }

    /// A peer with its record and ranges of the network `default`.
    pub fn peer(self, name: &str, addresses: &[&str], ranges: &[&str]) -> Self {
        self.peer_with(name, addresses, ranges, |_| {})
    }

    pub fn peer_with(
        mut self,
        name: &str,
        addresses: &[&str],
        ranges: &[&str],
        change: impl FnOnce(&mut NodeRecord),
    ) -> Self {
        let mut record = node_record(name, addresses);
        change(&mut record);
        self.put(&record);
        for range in ranges {
            self.put(&claim(name, "default", range, ClaimState::Held));
        }
        self
    }

    /// This node holds a range and may use it.
    pub fn own(mut self, network: &str, range: &str) -> Self {
        self.put(&claim("n1", network, range, ClaimState::Held));
        let ranges = self.tables.own_ranges.entry(network_name(network)).or_default();
        ranges.push(prefix(range));
        ranges.sort();
        self
    }

    pub fn pod(mut self, row: PodRow) -> Self {
        self.tables.pods.insert(row.attachment.clone(), Arc::new(row));
        self
    }

    /// These links of ours are in the kernel.
    pub fn realised(mut self, links: &[&str]) -> Self {
        self.tables.realised = links.iter().map(|text| name(text)).collect();
        self
    }

    pub fn facts(mut self, change: impl FnOnce(&mut HostFacts)) -> Self {
        change(&mut self.tables.facts);
        self
    }
}

/// A sign of life.
pub fn alive(name: &str, sequence: u64) -> AliveRecord {
    AliveRecord { node: node(name), sequence, boot_id: format!("boot-{name}") }
}

pub fn claim_key_of(network: &str, range: &str) -> String {
    claim_key(&network_name(network), prefix(range))
}
