//! The rows and the changes an input makes to them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ripstop_ipam::Attachment;
use ripstop_ipam::ranges::RangeSnapshot;
use ripstop_netmodel::HostFacts;
use ripstop_objects::{
    AgentConfig, AliveRecord, Encapsulation, Network, NetworkName, NodeIdentity, NodeRecord, ObjectKind, RangeClaim,
    Record,
};
use ripstop_types::{Family, IfName, NodeName, PodName, Prefix, Revision, ServiceName};

use crate::{
    BgpInput, Checksums, ClusterTables, Concern, NetworkList, NexthopIds, ObjectInput, PodAddresses, PodRow, Proxies,
    Reach, SnapshotRows, Start, StoreInput, StoreKind, StoreValue, Withdrawn,
};

/// How far a kind of record is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Knowledge {
    /// Nothing was read yet: absence means nothing.
    Unknown,
    /// From the last run.
    Snapshot,
    /// From the store.
    Synced,
}

/// A row with the revision it came with.
#[derive(Debug, PartialEq)]
pub struct Row<T> {
    /// The value.
    pub value: Arc<T>,
    /// The store's revision.
    pub revision: Revision,
}

impl<T> Clone for Row<T> {
    fn clone(&self) -> Self {
        Self { value: self.value.clone(), revision: self.revision }
    }
}

/// What an input touched.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// A network came, changed or went.
    Network(NetworkName),
    /// A node's record came, changed or went.
    Node(NodeName),
    /// A claim on a range of that node came or went.
    Claim(NodeName),
    /// A block or a borrowed address of this node came or went; its own address in the network is another claim's.
    Blocks(NetworkName),
    /// A node showed a sign of life.
    Alive(NodeName),
    /// What the host is given changed.
    Facts,
    /// A pod of this node came, changed or went.
    Pod(Attachment),
    /// Objects of Kubernetes of this kind came, changed or went; of Services and endpoints: the kind became known.
    Object(ObjectKind),
    /// A Service or its endpoints came, changed or went.
    Service(ServiceName),
    /// Something came, changed or went that what policies say hangs on.
    Policies(Concern),
    /// A kind became known.
    Known(StoreKind),
    /// The store went or came.
    Store,
    /// A link of ours came or went that this node's own record depends on.
    Realised,
    /// What is of ours goes out of the kernel.
    Withdrawn,
    /// Services are served by another proxy, or the switch to it has come further.
    Proxy,
    /// A network that is migrating has come further on this node.
    Migration(NetworkName),
    /// Probes found something out about the ways to a node.
    Reach(NodeName),
    /// Probes found something out about a network's tunnel device.
    Tunnel(NetworkName),
    /// BGP brought other routes, or lost some.
    Bgp,
}

/// Whether the store answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreState {
    /// Not reached yet in this run.
    Connecting,
    /// Reached.
    Here,
    /// Lost, with the reason.
    Away(String),
}

/// The tables of one node.
#[derive(Debug, Clone)]
pub struct Tables {
    /// The agent's configuration.
    pub config: AgentConfig,
    /// This node.
    pub node: NodeName,
    /// This machine and boot.
    pub identity: NodeIdentity,
    /// The agent's version.
    pub version: String,
    /// What the host is given.
    pub facts: HostFacts,
    /// Network configurations that the container runtime finds, the one that it takes first.
    pub lists: Vec<NetworkList>,
    /// Networks.
    pub networks: BTreeMap<NetworkName, Row<Network>>,
    /// What nodes publish, this one's own record too.
    pub nodes: BTreeMap<NodeName, Row<NodeRecord>>,
    /// Claims by network and range.
    pub claims: BTreeMap<(NetworkName, Prefix), Row<RangeClaim>>,
    /// Ranges by their owner: an index of `claims`.
    pub ranges_of: BTreeMap<NodeName, BTreeSet<(NetworkName, Prefix)>>,
    /// Ranges this node may use, confirmed.
    pub own_ranges: BTreeMap<NetworkName, Vec<Prefix>>,
    /// Last sign of life of each node.
    pub alive: BTreeMap<NodeName, Row<AliveRecord>>,
    /// What Kubernetes says.
    pub cluster: ClusterTables,
    /// Pods of this node.
    pub pods: BTreeMap<Attachment, Arc<PodRow>>,
    /// Links of ours that are in the kernel and that the node's own record speaks of.
    pub realised: BTreeSet<IfName>,
    /// Networks that are migrating, with the revision at which this node's own links, ranges and pods are as it says.
    pub prepared: BTreeMap<NetworkName, Revision>,
    /// Networks that are migrating, with the revision at which all of this node's packets leave by the new backend.
    pub migrated: BTreeMap<NetworkName, Revision>,
    /// How packets leave now for each peer of a network that is migrating.
    pub sends: BTreeMap<(NetworkName, NodeName, Family), Encapsulation>,
    /// What probes say of peers' addresses.
    pub reaches: BTreeMap<IpAddr, Reach>,
    /// Tunnel devices at which some peer did not get checksums that were left to hardware, and what became of it.
    pub checksums: BTreeMap<IfName, Checksums>,
    /// The UDP port on which this node answers probes; none once it is known that it cannot.
    pub probe_port: Option<u16>,
    /// Nexthop ids of peers.
    pub nexthop_ids: Arc<NexthopIds>,
    /// Whether the store answers.
    pub store: StoreState,
    /// How much of ours is taken out of the kernel.
    pub withdrawn: Withdrawn,
    /// By what Services are served.
    pub proxies: Proxies,
    /// Another machine had this node's name, and shows no sign of life: the name is this machine's.
    pub namesake_gone: bool,
    /// Records that could not be read, by kind and key, with what is wrong. The last good value stays in force.
    pub faults: BTreeMap<(StoreKind, Arc<str>), String>,
    /// EndpointSlices that this node published, as the store has them.
    pub published: BTreeMap<ServiceName, Row<serde_json::Value>>,
    /// Whether the probes of this node's pods succeed, of those that have some and were told of.
    pub readiness: BTreeMap<PodName, bool>,
    /// What the store says of networks that pods of this node need as they were; `None`: deleted.
    pub(crate) held_back: BTreeMap<NetworkName, Option<Row<Network>>>,
    known: BTreeMap<StoreKind, Knowledge>,
    /// Keys named so far by a list that is not complete; `None` where no list runs.
    listing: BTreeMap<StoreKind, BTreeSet<Arc<str>>>,
}

impl Tables {
    /// The container's interfaces of this attachment that are there, this one's included.
    pub fn interfaces_of(&self, attachment: &Attachment) -> impl Iterator<Item = &Arc<PodRow>> {
        let same = |other: &Attachment| other.container == attachment.container;
        let before = self.pods.range(..attachment).rev().take_while(move |(other, _)| same(other));
        let from = self.pods.range(attachment..).take_while(move |(other, _)| same(other));
        before.chain(from).map(|(_, row)| row).filter(|row| row.state != crate::PodState::Gone)
    }

    /// The tables of an agent that starts.
    #[must_use]
    pub fn new(start: Start) -> Self {
        let probing = start.config.probing;
        let mut tables = Self {
            config: start.config,
            node: start.node,
            identity: start.identity,
            version: start.version,
            facts: start.facts,
            lists: Vec::new(),
            networks: BTreeMap::new(),
            nodes: BTreeMap::new(),
            claims: BTreeMap::new(),
            ranges_of: BTreeMap::new(),
            own_ranges: BTreeMap::new(),
            alive: BTreeMap::new(),
            cluster: ClusterTables::default(),
            pods: BTreeMap::new(),
            realised: BTreeSet::new(),
            prepared: BTreeMap::new(),
            migrated: BTreeMap::new(),
            sends: BTreeMap::new(),
            reaches: BTreeMap::new(),
            checksums: BTreeMap::new(),
            probe_port: (probing.mtu || probing.checksum).then_some(probing.port),
            nexthop_ids: Arc::default(),
            store: StoreState::Connecting,
            withdrawn: Withdrawn::Nothing,
            proxies: Proxies::default(),
            namesake_gone: false,
            faults: BTreeMap::new(),
            published: BTreeMap::new(),
            readiness: BTreeMap::new(),
            held_back: BTreeMap::new(),
            known: BTreeMap::new(),
            listing: BTreeMap::new(),
        };
        for row in start.pods {
            tables.pods.insert(row.attachment.clone(), Arc::new(row));
        }
        if let Some(snapshot) = start.snapshot {
            tables.proxies = Proxies::begun(snapshot.proxies, tables.config.services.proxy);
            tables.nexthop_ids = snapshot.nexthop_ids.into();
            tables.reaches = snapshot.reaches;
            tables.checksums = snapshot.checksums;
            tables.cluster = ClusterTables::from_snapshot(snapshot.cluster, &tables.node);
            for record in snapshot.records {
                let value = record.value.into();
                tables.put(record.kind, &record.key, &value, record.revision, &mut BTreeSet::new());
            }
            for kind in snapshot.known {
                tables.known.insert(kind, Knowledge::Snapshot);
            }
        }
        // The first list of a run is a full one.
        tables.cluster.begin_lists();
        for kind in StoreKind::ALL.into_iter().chain([StoreKind::PodAddresses]) {
            tables.listing.insert(kind, BTreeSet::new());
        }
        tables
    }

    /// How far a kind is known.
    pub fn knowledge(&self, kind: StoreKind) -> Knowledge {
        self.known.get(&kind).copied().unwrap_or(Knowledge::Unknown)
    }

    /// Whether absence of a record of this kind means something.
    pub fn knows(&self, kind: StoreKind) -> bool {
        self.knowledge(kind) != Knowledge::Unknown
    }

    /// Takes in what the store said and names what it touched.
    pub fn apply_store(&mut self, input: &StoreInput) -> BTreeSet<Change> {
        if let Some(changes) = self.apply_applied(input) {
            return changes;
        }
        let mut changes = BTreeSet::new();
        match input {
            StoreInput::Put { kind, key, value, revision } => {
                if let Some(named) = self.listing.get_mut(kind) {
                    named.insert(key.clone());
                }
                self.put(*kind, key, value, *revision, &mut changes);
            }
            StoreInput::Delete { kind, key, .. } => {
                if let Some(named) = self.listing.get_mut(kind) {
                    named.remove(key);
                }
                self.delete(*kind, key, &mut changes);
            }
            StoreInput::Reset { kind } => {
                self.listing.insert(*kind, BTreeSet::new());
            }
            StoreInput::Synced { kind, .. } => {
                // What was named is here, as a row or a fault: where as many are here, no other is.
                if let Some(named) = self.listing.remove(kind)
                    && named.len() != self.count(*kind)
                {
                    for key in self.keys(*kind) {
                        if !named.contains(&key) {
                            self.delete(*kind, &key, &mut changes);
                        }
                    }
                }
                if self.known.insert(*kind, Knowledge::Synced) != Some(Knowledge::Synced) {
                    changes.insert(Change::Known(*kind));
                }
                self.here(&mut changes);
            }
            StoreInput::Away { reason } => {
                self.store = StoreState::Away(reason.clone());
                changes.insert(Change::Store);
            }
            StoreInput::Back => self.here(&mut changes),
        }
        changes
    }

    /// Says which nodes are gone and names what that touched.
    pub fn set_gone(&mut self, gone: BTreeSet<NodeName>) -> BTreeSet<Change> {
        self.cluster.services.set_gone(gone).into_iter().map(Change::Service).collect()
    }

    /// Takes in what Kubernetes said and names what it touched.
    pub fn apply_object(&mut self, input: &ObjectInput) -> BTreeSet<Change> {
        let before = self.taken_network().map(|_| self.cluster.peers.clone());
        let mut changes = self.cluster.apply(input, &self.node);
        if let Some(before) = before.filter(|before| *before != self.cluster.peers) {
            self.follow_flannel(&before, &mut changes);
        }
        changes
    }

    /// Takes in what the speaker of BGP said.
    pub fn apply_bgp(&mut self, input: &BgpInput) -> BTreeSet<Change> {
        self.cluster.bgp.take(input).then_some(Change::Bgp).into_iter().collect()
    }

    /// Takes in what the host is given.
    pub fn apply_facts(&mut self, facts: HostFacts) -> BTreeSet<Change> {
        if self.facts == facts {
            return BTreeSet::new();
        }
        self.facts = facts;
        BTreeSet::from([Change::Facts])
    }

    /// What outlives the process.
    #[must_use]
    pub fn snapshot(&self, ranges: Option<RangeSnapshot>) -> SnapshotRows {
        // Signs of life are not kept: they say something about now.
        let known = [StoreKind::Networks, StoreKind::Nodes, StoreKind::Claims];
        SnapshotRows {
            node: self.node.clone(),
            known: known.into_iter().filter(|kind| self.knows(*kind)).collect(),
            networks: self.networks.values().cloned().collect(),
            nodes: self.nodes.values().cloned().collect(),
            claims: self.claims.values().cloned().collect(),
            nexthop_ids: self.nexthop_ids.clone(),
            reaches: self.reaches.clone(),
            checksums: self.checksums.clone(),
            cluster: self.cluster.snapshot(),
            proxies: Proxies { last: Some(self.proxy()), ..self.proxies.clone() },
            ranges,
            lending: None,
        }
    }

    /// The other nodes, in order.
    pub fn peers(&self) -> impl Iterator<Item = &Row<NodeRecord>> {
        self.nodes.values().filter(|row| row.value.name != self.node)
    }

    /// What a node owns of a network in a family, in order: its ranges, and single addresses that it borrowed.
    pub fn ranges(&self, node: &NodeName, network: &NetworkName, family: Family) -> impl Iterator<Item = Prefix> {
        self.ranges_of
            .get(node)
            .into_iter()
            .flatten()
            .filter(move |(of, range)| of == network && range.family() == family)
            .map(|(_, range)| *range)
    }

    pub(crate) fn here(&mut self, changes: &mut BTreeSet<Change>) {
        if self.store != StoreState::Here {
            self.store = StoreState::Here;
            changes.insert(Change::Store);
        }
    }

    fn put(
        &mut self,
        kind: StoreKind,
        key: &Arc<str>,
        value: &StoreValue,
        revision: Revision,
        changes: &mut BTreeSet<Change>,
    ) {
        let fault = match value {
            StoreValue::Raw(value) => self.put_raw(kind, key, value, revision, changes),
            StoreValue::Node(node) => {
                self.put_node(node.clone(), revision, changes);
                None
            }
            StoreValue::Claim(claim) => {
                self.put_claim(claim.clone(), revision, changes);
                None
            }
            StoreValue::Alive(alive) => {
                self.put_alive(alive.clone(), revision, changes);
                None
            }
        };
        self.note_fault(kind, key, fault, changes);
    }

    /// Reads a record and puts it; answers with what is wrong with it.
    fn put_raw(
        &mut self,
        kind: StoreKind,
        key: &Arc<str>,
        value: &serde_json::Value,
        revision: Revision,
        changes: &mut BTreeSet<Change>,
    ) -> Option<String> {
        let done = match kind {
            StoreKind::Networks => match <Network as Record>::decode(key, value) {
                Ok(network) => return self.put_network(Row { value: Arc::new(network), revision }, changes).err(),
                Err(faults) => Err(faults),
            },
            StoreKind::Nodes => {
                NodeRecord::decode(key, value).map(|node| self.put_node(node.into(), revision, changes))
            }
            StoreKind::Claims => {
                RangeClaim::decode(key, value).map(|claim| self.put_claim(claim.into(), revision, changes))
            }
            StoreKind::Alive => {
                AliveRecord::decode(key, value).map(|alive| self.put_alive(alive.into(), revision, changes))
            }
            StoreKind::PodAddresses => match PodAddresses::decode(key, value) {
                Ok(said) => {
                    changes.extend(self.cluster.policies.put_addresses(said, revision));
                    Ok(())
                }
                Err(fault) => return Some(fault),
            },
            // Objects go their own way.
            _ => Ok(()),
        };
        done.err().map(|faults| faults.to_string())
    }

    pub(crate) fn put_node(&mut self, node: Arc<NodeRecord>, revision: Revision, changes: &mut BTreeSet<Change>) {
        let (node, name) = (self.beside_flannel(node.clone()), node.name.clone());
        // This node's next write of its own record is for the revision that is there.
        let is_newer = name == self.node && self.nodes.get(&name).is_some_and(|row| row.revision != revision);
        if replace(&mut self.nodes, name.clone(), Row { value: node, revision }) || is_newer {
            changes.insert(Change::Node(name));
        }
    }

    fn put_alive(&mut self, alive: Arc<AliveRecord>, revision: Revision, changes: &mut BTreeSet<Change>) {
        let name = alive.node.clone();
        if replace(&mut self.alive, name.clone(), Row { value: alive, revision }) {
            changes.insert(Change::Alive(name));
        }
    }

    /// Remembers what is wrong with a record. That a network is broken or no longer is changes what this node proposes.
    pub(crate) fn note_fault(
        &mut self,
        kind: StoreKind,
        key: &Arc<str>,
        fault: Option<String>,
        changes: &mut BTreeSet<Change>,
    ) {
        let place = (kind, key.clone());
        let (was, is) = (self.faults.contains_key(&place), fault.is_some());
        match fault {
            Some(fault) => drop(self.faults.insert(place, fault)),
            None => drop(self.faults.remove(&place)),
        }
        if was != is
            && kind == StoreKind::Networks
            && let Ok(name) = key.parse::<NetworkName>()
        {
            changes.insert(Change::Network(name));
        }
    }

    pub(crate) fn put_claim(&mut self, claim: Arc<RangeClaim>, revision: Revision, changes: &mut BTreeSet<Change>) {
        let network = self.networks.get_key_value(&claim.network).map_or(&claim.network, |(name, _)| name);
        let place = (network.clone(), claim.range);
        let owner = claim.node.clone();
        // Nobody uses a range whose claim is tentative.
        let held = claim.state.is_in_use();
        let before = self.claims.get(&place).map(|row| row.value.node.clone());
        if !replace(&mut self.claims, place.clone(), Row { value: claim, revision }) {
            return;
        }
        if let Some(before) = before.filter(|before| !held || *before != owner) {
            self.unindex(&before, &place);
            changes.insert(self.claim_change(&place, before));
        }
        if !held {
            return;
        }
        if owner != self.node {
            Arc::make_mut(&mut self.nexthop_ids).assign(&place.0, &owner);
        }
        changes.insert(self.claim_change(&place, owner.clone()));
        self.ranges_of.entry(owner).or_default().insert(place);
    }

    /// What a claim's coming or going touches.
    fn claim_change(&self, (network, range): &(NetworkName, Prefix), owner: NodeName) -> Change {
        let spec = self.networks.get(network).map(|row| &row.value.spec);
        let is_block = spec.is_some_and(|spec| spec.blocks.is_some() && !spec.is_for_nodes(range));
        if owner == self.node && is_block { Change::Blocks(network.clone()) } else { Change::Claim(owner) }
    }

    fn unindex(&mut self, node: &NodeName, place: &(NetworkName, Prefix)) {
        if let Some(ranges) = self.ranges_of.get_mut(node) {
            ranges.remove(place);
            if !ranges.iter().any(|(network, _)| *network == place.0) {
                Arc::make_mut(&mut self.nexthop_ids).release(&place.0, node);
            }
            if ranges.is_empty() {
                self.ranges_of.remove(node);
            }
        }
    }

    fn delete(&mut self, kind: StoreKind, key: &Arc<str>, changes: &mut BTreeSet<Change>) {
        self.note_fault(kind, key, None, changes);
        match kind {
            StoreKind::Networks => {
                if let Ok(name) = key.parse::<NetworkName>() {
                    let gone = self.remove_network(&name, changes);
                    self.note_fault(kind, key, gone.err(), changes);
                }
            }
            StoreKind::Nodes => {
                let Ok(name) = key.parse::<NodeName>() else { return };
                if let Some(made) = self.flannels_node(&name) {
                    self.put_node(made, Revision(0), changes);
                } else if self.nodes.remove(&name).is_some() {
                    changes.insert(Change::Node(name));
                }
            }
            StoreKind::Claims => {
                let Some(place) = ripstop_objects::parse_claim_key(key) else { return };
                match self.flannels_claim(&place) {
                    Some(made) => self.put_claim(made, Revision(0), changes),
                    None => self.drop_claim(&place, changes),
                }
            }
            StoreKind::Alive => {
                if let Ok(name) = key.parse::<NodeName>()
                    && self.alive.remove(&name).is_some()
                {
                    changes.insert(Change::Alive(name));
                }
            }
            StoreKind::PodAddresses => changes.extend(self.cluster.policies.remove_addresses(key)),
            _ => {}
        }
    }

    pub(crate) fn drop_claim(&mut self, place: &(NetworkName, Prefix), changes: &mut BTreeSet<Change>) {
        if let Some(row) = self.claims.remove(place) {
            self.unindex(&row.value.node, place);
            changes.insert(self.claim_change(place, row.value.node.clone()));
        }
    }

    /// Rows and faults of a kind. A record may have both.
    fn count(&self, kind: StoreKind) -> usize {
        let rows = match kind {
            StoreKind::Networks => self.networks.len(),
            StoreKind::Nodes => self.nodes.len(),
            StoreKind::Claims => self.claims.len(),
            StoreKind::Alive => self.alive.len(),
            StoreKind::PodAddresses => self.cluster.policies.addresses.len(),
            _ => 0,
        };
        rows + self.faults.keys().filter(|(of, _)| *of == kind).count()
    }

    fn keys(&self, kind: StoreKind) -> Vec<Arc<str>> {
        let mut keys: Vec<Arc<str>> = match kind {
            StoreKind::Networks => self.networks.values().map(|row| row.value.key().into()).collect(),
            StoreKind::Nodes => self.nodes.values().map(|row| row.value.key().into()).collect(),
            StoreKind::Claims => self.claims.values().map(|row| row.value.key().into()).collect(),
            StoreKind::Alive => self.alive.values().map(|row| row.value.key().into()).collect(),
            StoreKind::PodAddresses => self.cluster.policies.addresses.keys().cloned().collect(),
            _ => Vec::new(),
        };
        keys.extend(self.faults.keys().filter(|(of, _)| *of == kind).map(|(_, key)| key.clone()));
        keys
    }
}

/// Puts a row and says whether that changed anything but the revision.
pub(crate) fn replace<K: Ord, T: PartialEq>(rows: &mut BTreeMap<K, Row<T>>, key: K, row: Row<T>) -> bool {
    match rows.get_mut(&key) {
        Some(there) if there.value == row.value => {
            there.revision = row.revision;
            false
        }
        Some(there) => {
            *there = row;
            true
        }
        None => {
            rows.insert(key, row);
            true
        }
    }
}
