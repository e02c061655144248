//! What follows from Kubernetes' own objects: this node's ranges, that a pod's labels must be known, and which addresses
//! Flannel's pods have.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ripstop_cni_spec::TypedCall;
use ripstop_fabric::taken;
use ripstop_ipam::ranges::{ClaimKey, RangeEvent};
use ripstop_objects::{Network, ObjectKind, RangeMode, StoreConfig};
use ripstop_tables::{Knowledge, StoreState};
use ripstop_types::{Family, Prefix};

use super::{Core, Level};

impl Core {
    /// What Kubernetes must say before a pod gets an address by its namespace and labels; `None` if it has.
    pub(super) fn object_missing(&self, typed: &TypedCall, network: &Network) -> Option<String> {
        let in_kubernetes = matches!(self.tables.config.store, StoreConfig::Kubernetes(_));
        let selects = network.spec.families().any(|family| network.spec.pools(family).any(|pool| pool.selects()));
        let args = typed.call.args().filter(|_| in_kubernetes && selects)?;
        // A pod that is not Kubernetes' has what the runtime says of it.
        let pod = args.pod.as_ref()?;
        let because = |why: &str| {
            let away = self.tables.cluster.away.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
            Some(format!(
                "pod {pod}: {why}{away}, and its labels say which addresses of network {} it gets",
                network.name
            ))
        };
        match self.tables.cluster.pods.get(pod) {
            None => because("its object is not known on this node yet"),
            Some(object) if args.pod_uid.as_ref().is_some_and(|uid| *uid != *object.uid) => {
                because("another pod of its name is known, and its own object is not yet")
            }
            Some(_) => None,
        }
    }

    /// Keeps from new pods what Flannel's pods of this node have. They are those that Kubernetes knows and no call of ours
    /// made; why that is not known of all that hang on their bridge, if so.
    pub(super) fn close_flannels(&mut self, network: &Network) -> Option<String> {
        if self.tables.taken_network() != Some(&network.name) {
            return None;
        }
        let bridge = taken::bridge(&self.tables, network).map(|(name, link)| (name.clone(), link.ports));
        let (mut found, mut standing) = (BTreeSet::new(), 0);
        let own = self.tables.own_ranges.get(&network.name).map(Vec::as_slice).unwrap_or_default();
        for pod in self.tables.cluster.pods.values().filter(|pod| bridge.is_some() && !pod.host_network) {
            let in_range = pod.ips.iter().filter(|ip| own.iter().any(|range| range.contains(**ip)));
            let of_flannel: Vec<IpAddr> = in_range.filter(|ip| self.book.holder_of(**ip).is_none()).copied().collect();
            // What has ended has left the bridge; its address may still be shown.
            let has_ended = pod.has_finished();
            standing += u32::from(!of_flannel.is_empty() && !has_ended);
            found.extend(of_flannel);
        }
        // Its device has a range's first address on every node of its, and its bridge broadcasts to the last.
        found.extend(own.iter().flat_map(|range| [range.addr(), range.last()]));
        for ip in self.flannels.difference(&found) {
            self.book.reopen(*ip, self.at.wall);
        }
        for ip in found.difference(&self.flannels) {
            self.book.note_closed(*ip);
        }
        self.flannels = found;
        let (name, ports) = bridge.filter(|(_, ports)| *ports > standing)?;
        Some(format!(
            "{ports} of Flannel's pods hang on {name}, and Kubernetes shows the addresses of {standing} of them on this node: \
             those of the others are not known to be taken yet"
        ))
    }

    /// Ranges of this node for networks of mode `pod-cidr`: those of the configuration, otherwise Kubernetes'.
    pub(super) fn pod_cidrs(&self) -> &[Prefix] {
        match (&self.tables.config.pod_cidrs[..], &self.tables.cluster.node) {
            ([], Some(node)) => &node.pod_cidrs,
            (configured, _) => configured,
        }
    }

    /// Gives back ranges that Kubernetes gave this node before and does not any more, once no pod has an address of them:
    /// it may give them to another. Where there is no Node at all nothing is known of the next one's, and all stays.
    pub(super) fn give_back_pod_cidrs(&mut self) {
        let cluster = &self.tables.cluster;
        let by_kubernetes = matches!(self.tables.config.store, StoreConfig::Kubernetes(_))
            && self.tables.config.pod_cidrs.is_empty()
            && cluster.knowledge(ObjectKind::Node) == Knowledge::Synced
            && self.tables.store == StoreState::Here;
        let Some(node) = cluster.node.as_ref().filter(|_| by_kubernetes && !self.held) else { return };
        let used: BTreeSet<&ClaimKey> = self.engine.used().collect();
        let owned = self.engine.owned();
        let is_over = |key: &ClaimKey| {
            let network = key.network.parse().ok().and_then(|name| self.tables.networks.get(&name));
            let in_mode = network.is_some_and(|row| row.value.spec.range_mode == RangeMode::PodCidr);
            let replaced = node.pod_cidrs.iter().any(|cidr| cidr.family() == key.range.family());
            in_mode
                && replaced
                && !node.pod_cidrs.contains(&key.range)
                && !used.contains(key)
                && self.book.leases_in(&key.range).next().is_none()
        };
        let over = owned.into_iter().filter(|owned| matches!(owned.phase, "held" | "in doubt") && is_over(&owned.key));
        for key in over.map(|owned| owned.key).collect::<Vec<_>>() {
            self.log(Level::Info, format!("Kubernetes gives {key} to this node no more, and it has no pod left there"));
            self.range_event(&RangeEvent::Release(key));
        }
    }

    /// Why a network of mode `pod-cidr` has no range here.
    pub(super) fn no_pod_cidr(&self, network: &str, family: Family) -> String {
        let cluster = &self.tables.cluster;
        let of = format!("network {network} takes its ranges from podCIDRs");
        let node = &self.tables.node;
        match (&self.tables.config.store, &cluster.node) {
            (StoreConfig::Kubernetes(_), _) if !self.tables.config.pod_cidrs.is_empty() => {
                format!("{of}, and none of {family} is configured")
            }
            (StoreConfig::Kubernetes(_), Some(_)) => format!(
                "{of}, and Kubernetes' Node {node} has none of {family} inside the network: kube-controller-manager gives them \
                 with --allocate-node-cidrs and --cluster-cidr"
            ),
            (StoreConfig::Kubernetes(_), None) => match (&cluster.away, cluster.knowledge(ObjectKind::Node)) {
                (Some(reason), _) => format!("{of}, and Kubernetes' Node {node} cannot be read: {reason}"),
                (None, Knowledge::Synced) => format!(
                    "{of}, and Kubernetes has no Node {node}: `node` in the configuration must be the name that kubelet registers"
                ),
                (None, _) => format!("{of}, and Kubernetes' Node {node} was not read yet"),
            },
            _ => format!("{of}, and none of {family} is configured"),
        }
    }
}
