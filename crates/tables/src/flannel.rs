//! Nodes that real flanneld runs in Kubernetes, as rows beside those of our own agents (backend vxlan, `--kube-subnet-mgr`).
//!
//! What annotations of a Node say becomes the row of a peer of the same name and the claim of its podCIDR, for as long as
//! none of our agents says where its own device is. So a node that is moved stays one peer: its nexthop is the same before,
//! meanwhile and after.
//!
//! Not here: this node, whose own records are its agent's. Invariants: a record of the store wins over what is made here as
//! soon as it names a VXLAN device; a claim of the store wins at once; what is made here bears [`FLANNEL_MACHINE`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ripstop_objects::{
    FLANNEL_MACHINE, FLANNEL_PORT, FlannelNode, KubeNode, NetworkName, NodeAddress, NodeRecord, RangeClaim, Receive,
    VxlanReceive,
};
use ripstop_types::{Family, NodeName, Prefix, Revision};

use crate::{Change, Row, Tables};

/// Made rows have no place in the store, so no write is ever on condition of it.
const NOWHERE: Revision = Revision(0);

impl Tables {
    /// The network that is taken over from Flannel, where one is.
    pub fn taken_network(&self) -> Option<&NetworkName> {
        self.config.store.taken_from_flannel()
    }

    /// What flanneld said of this node before it was taken over, while its network is.
    pub fn own_flannel(&self) -> Option<FlannelNode> {
        self.taken_network()?;
        self.cluster.node.as_ref()?.flannel
    }

    /// Makes rows anew after Kubernetes said something else of these nodes.
    pub(crate) fn follow_flannel(&mut self, before: &BTreeMap<NodeName, KubeNode>, changes: &mut BTreeSet<Change>) {
        let Some(network) = self.taken_network().cloned() else { return };
        let now = self.cluster.peers.clone();
        let names: BTreeSet<&NodeName> = before.keys().chain(now.keys()).collect();
        for name in names {
            let (old, new) = (before.get(name), now.get(name));
            if old == new {
                continue;
            }
            let gone = old.map(claimed).unwrap_or_default();
            for range in gone.into_iter().filter(|range| !new.is_some_and(|node| claimed(node).contains(range))) {
                self.forget_claim(&(network.clone(), range), changes);
            }
            self.follow_node(name, old.and_then(receive).as_ref(), changes);
            for range in new.map(claimed).unwrap_or_default() {
                self.make_claim(&network, name, range, changes);
            }
        }
    }

    /// The row of a peer: its agent's word, with what flanneld said as long as that is needed.
    pub(crate) fn beside_flannel(&self, record: Arc<NodeRecord>) -> Arc<NodeRecord> {
        let Some(vxlan) = self.cluster.peers.get(&record.name).and_then(receive) else { return record };
        if record.name == self.node || names_vxlan(&record) {
            return record;
        }
        let mut record = (*record).clone();
        record.receives.push(Receive::Vxlan(vxlan));
        Arc::new(record)
    }

    /// What stands for a node whose record is not, or no longer, in the store.
    pub(crate) fn flannels_node(&self, name: &NodeName) -> Option<Arc<NodeRecord>> {
        if *name == self.node {
            return None;
        }
        self.cluster.peers.get(name).and_then(record).map(Arc::new)
    }

    /// The same of a claim.
    pub(crate) fn flannels_claim(&self, (network, range): &(NetworkName, Prefix)) -> Option<Arc<RangeClaim>> {
        if self.taken_network() != Some(network) {
            return None;
        }
        let holder = self.cluster.peers.values().find(|node| claimed(node).contains(range))?;
        Some(Arc::new(RangeClaim::of_flannel(network.clone(), holder.name.clone(), *range)))
    }

    fn follow_node(&mut self, name: &NodeName, before: Option<&VxlanReceive>, changes: &mut BTreeSet<Change>) {
        let Some(row) = self.nodes.get(name).filter(|row| row.value.identity.machine_id != FLANNEL_MACHINE) else {
            match self.flannels_node(name) {
                Some(made) => self.put_node(made, NOWHERE, changes),
                None if self.nodes.remove(name).is_some() => drop(changes.insert(Change::Node(name.clone()))),
                None => {}
            }
            return;
        };
        // What an earlier word of flanneld's added to the agent's goes; what it says now comes.
        let (mut record, revision) = ((*row.value).clone(), row.revision);
        record.receives.retain(|receive| !matches!(receive, Receive::Vxlan(vxlan) if Some(vxlan) == before));
        self.put_node(Arc::new(record), revision, changes);
    }

    fn make_claim(&mut self, network: &NetworkName, node: &NodeName, range: Prefix, changes: &mut BTreeSet<Change>) {
        let there = self.claims.get(&(network.clone(), range));
        if there.is_none_or(|row| row.value.machine == FLANNEL_MACHINE) {
            self.put_claim(Arc::new(RangeClaim::of_flannel(network.clone(), node.clone(), range)), NOWHERE, changes);
        }
    }

    fn forget_claim(&mut self, place: &(NetworkName, Prefix), changes: &mut BTreeSet<Change>) {
        if self.claims.get(place).is_some_and(|Row { value, .. }| value.machine == FLANNEL_MACHINE) {
            self.drop_claim(place, changes);
        }
    }
}

fn names_vxlan(record: &NodeRecord) -> bool {
    record.receives.iter().any(|receive| matches!(receive, Receive::Vxlan(_)))
}

/// The ranges of IPv4 that flanneld serves.
fn claimed(node: &KubeNode) -> Vec<Prefix> {
    let ranges = node.pod_cidrs.iter().filter(|range| range.family() == Family::V4);
    ranges.take(usize::from(node.flannel.is_some())).copied().collect()
}

/// flanneld's device: it has its range's first address (flannel, `pkg/backend/vxlan`).
fn receive(node: &KubeNode) -> Option<VxlanReceive> {
    let flannel = node.flannel?;
    let IpAddr::V4(inner) = claimed(node).first()?.addr() else { return None };
    Some(VxlanReceive {
        vni: flannel.vni,
        port: FLANNEL_PORT,
        mac: flannel.mac,
        outer_v4: Some(flannel.public_ip),
        outer_v6: None,
        inner_v4: Some(inner),
        inner_v6: None,
    })
}

fn record(node: &KubeNode) -> Option<NodeRecord> {
    let vxlan = receive(node)?;
    let ip = IpAddr::V4(vxlan.outer_v4?);
    let address = NodeAddress { ip, prefix: Prefix::host(ip) };
    Some(NodeRecord::of_flannel(node.name.clone(), vec![address], vec![Receive::Vxlan(vxlan)]))
}
