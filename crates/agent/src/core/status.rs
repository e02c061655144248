//! Whether this agent is ready, and what is wrong if not.

use ripstop_fabric::{forwarder, host, hygiene, taken};
use ripstop_ipam::ranges::{RangeFault, Slot};
use ripstop_ipam::{OwnRange, RangeUsage};
use ripstop_netmodel::Key;
use ripstop_objects::{
    Network, NetworkName, StoreConfig, Wiring, check_network_against_host, check_networks, check_node_name,
};
use ripstop_tables::{ForeignDrop, Knowledge, StoreKind, StoreState, Tables, Withdrawn};
use ripstop_types::Family;
use serde::{Deserialize, Serialize};

use super::{Core, ProxyView, view};

/// So many of what may be wrong by the thousand are spelt out in the status.
pub(super) const MOST_IN_STATUS: usize = 8;

/// Why an agent whose objects were taken out does nothing.
pub(super) const WITHDRAWN: &str = "what this agent made was taken out of the kernel (`ripstop uninstall --purge`); a restarted agent sets it up again";

/// Why an agent that holds does nothing.
pub(super) const HELD: &str = "the agent was started with --hold and changes nothing; `ripstop resume` lets it go on";

/// The agent's state for `ripstop status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// This node.
    pub node: String,
    /// The agent's version.
    pub version: String,
    /// Whether pods can be added and peers reached.
    pub ready: bool,
    /// Why not; and warnings while it is.
    pub reasons: Vec<String>,
    /// What deserves a look, though pods can be added.
    pub warnings: Vec<String>,
    /// The store's state.
    pub store: String,
    /// By what Services are served.
    #[serde(default)]
    pub proxy: ProxyView,
    /// Count of networks.
    pub networks: usize,
    /// Count of pods of this node.
    pub pods: usize,
    /// Count of peers.
    pub peers: usize,
    /// Objects that could not be written, with the reason.
    pub failed: Vec<String>,
    /// Objects left as they are, with the reason.
    pub refused: Vec<String>,
    /// Whether the agent holds its plans back.
    pub held: bool,
    /// Count of plans under way.
    pub running: usize,
}

impl Core {
    /// The agent's state.
    #[must_use]
    pub fn status(&self) -> Status {
        let mut reasons: Vec<String> = Vec::new();
        if self.tables.networks.is_empty() {
            reasons.push(match self.tables.knowledge(StoreKind::Networks) {
                Knowledge::Unknown => store_sentence(&self.tables),
                _ => "no network is defined; `ripstop apply -f` one, or name one in the configuration".into(),
            });
        }
        for name in self.tables.networks.keys() {
            reasons.extend(self.not_ready_for(name.as_str()));
        }
        reasons.dedup();
        let line = |(key, why): (&Key, String)| format!("{key}: {why}");
        Status {
            node: self.tables.node.to_string(),
            version: self.tables.version.clone(),
            ready: reasons.is_empty(),
            reasons,
            warnings: self.warnings(),
            store: store_word(&self.tables),
            proxy: self.proxy_view(),
            networks: self.tables.networks.len(),
            pods: self.tables.pods.len(),
            peers: self.tables.peers().count(),
            failed: self.failed.iter().map(|(key, failure)| line((key, failure.why.clone()))).collect(),
            refused: self.refused.iter().map(|(key, why)| line((key, why.clone()))).collect(),
            held: self.held,
            running: self.running.len(),
        }
    }

    /// What a network's ranges on this node say where a family has no address left for an ADD; addresses that rest after
    /// their release are given when nothing else is left.
    pub(super) fn full_for(&self, network: &str) -> Option<String> {
        let row = network.parse::<NetworkName>().ok().and_then(|name| self.tables.networks.get(&name))?;
        if row.value.spec.blocks.is_some() {
            // Further blocks and other nodes' addresses may be had: only a try tells.
            return None;
        }
        row.value.spec.families().find_map(|family| {
            let of = |usage: &RangeUsage| usage.open && *usage.network == *network && usage.range.family() == family;
            let ranges: Vec<RangeUsage> = self.book.usage().filter(of).collect();
            let full = !ranges.is_empty() && ranges.iter().all(|usage| usage.leased >= usage.usable);
            full.then(|| {
                let ranges: Vec<String> = ranges
                    .iter()
                    .map(|usage| format!("{}: {} of {}", usage.range, usage.leased, usage.usable))
                    .collect();
                format!(
                    "no address is left on this node ({}); remove pods, or give the node a larger range",
                    ranges.join(", ")
                )
            })
        })
    }

    /// That a network takes no pod on this node, for it has no address left.
    pub(super) fn full_sentence(&self, name: &NetworkName) -> Option<String> {
        self.full_for(name.as_str()).map(|full| format!("network {name}: {full}"))
    }

    /// That the container runtime takes another network than ours.
    pub(super) fn lists_sentence(&self) -> Option<String> {
        let (dir, lists) = (self.tables.config.cni_conf_dir.display(), &self.tables.lists);
        let first = lists.first().filter(|list| !list.ours)?;
        match lists.iter().find(|list| list.ours) {
            Some(ours) => Some(format!(
                "container runtimes take {dir}/{}, which comes before {}: new pods of this node are not on a network of \
                 Ripstop; remove or rename it",
                first.file, ours.file
            )),
            // On a plain host networks may be called by their names, and ours was not installed.
            None if !matches!(self.tables.config.store, StoreConfig::Kubernetes(_)) => None,
            None => Some(format!(
                "container runtimes take {dir}/{}, and no network configuration there names ripstop-cni: new pods of this \
                 node are not on a network of Ripstop; `ripstop install --cni`, or a new pod of the agent, puts it back",
                first.file
            )),
        }
    }

    /// Why no pod can be added to a network; empty if one can.
    pub(super) fn not_ready_for(&self, network: &str) -> Vec<String> {
        let mut reasons = Vec::new();
        let row = network.parse::<NetworkName>().ok().and_then(|name| self.tables.networks.get(&name));
        let Some(row) = row else {
            return vec![if self.tables.knows(StoreKind::Networks) {
                format!("network {network} is not defined")
            } else {
                store_sentence(&self.tables)
            }];
        };
        let network = &row.value;
        if self.tables.is_deleted(&network.name) {
            reasons.push(deleted_sentence(&network.name));
        }
        if self.held {
            reasons.push(HELD.into());
        }
        if self.tables.withdrawn == Withdrawn::Everything {
            reasons.push(WITHDRAWN.into());
        }
        if host::addresses(&self.tables).is_empty() {
            reasons.push(
                "no link of this node has an address that peers could reach; see uplink in the configuration".into(),
            );
        }
        for family in network.spec.families().filter(|_| network.spec.blocks.is_some()) {
            reasons.extend(self.no_blocks(network, family));
        }
        for family in network.spec.families().filter(|_| network.spec.blocks.is_none()) {
            let open = self
                .book
                .ranges()
                .any(|range| range.open && *range.network == *network.name.as_str() && range.prefix.family() == family);
            if !open {
                reasons.push(self.no_range(network.name.as_str(), family));
            }
        }
        if network.spec.wiring == Wiring::Bridge && self.tables.facts.bridge_netfilter != Some(true) {
            reasons.push(
                "bridged packets do not pass netfilter in this namespace, which wiring bridge needs: \
                 modprobe br_netfilter; sysctl -w net.bridge.bridge-nf-call-iptables=1 net.bridge.bridge-nf-call-ip6tables=1"
                    .into(),
            );
        }
        if let Err(faults) = check_network_against_host(network, &host::addresses(&self.tables)) {
            reasons.push(faults.to_string());
        }
        reasons.extend(taken::refusal(&self.tables, network));
        reasons.extend(self.base_missing(network));
        if self.tables.store == StoreState::Here && !self.tables.nodes.contains_key(&self.tables.node) {
            reasons.push("this node's record is not in the store yet".into());
        }
        reasons.extend(self.name_conflict().map(|conflict| format!("{conflict}; {}", self.namesake_sentence())));
        reasons
    }

    /// Why no pod gets an address of a network in mode `blocks`. That a pool has no free block is no reason: nodes lend.
    pub(super) fn no_blocks(&self, network: &Network, family: Family) -> Option<String> {
        let name = network.name.as_str();
        let pools: Vec<Slot> = network.spec.pools(family).map(|pool| Self::slot_of(network, &pool.range)).collect();
        let nodes = network.spec.blocks.as_ref().and_then(|blocks| blocks.node_ranges.get(family));
        let nodes = Slot { network: name.into(), family, pool: nodes, len: nodes.map(|_| family.bits()) };
        let fault = |slot: &Slot| self.engine.fault(slot).map(ToString::to_string);
        if ripstop_desired::own_ip(&self.tables, &network.name, family).is_none() {
            let yet = || format!("this node has no {family} address of its own in network {name} yet");
            return Some(fault(&nodes).unwrap_or_else(|| match self.tables.store {
                StoreState::Here => yet(),
                _ => store_sentence(&self.tables),
            }));
        }
        let in_pools = |range: &OwnRange| {
            let covers = |slot: &Slot| slot.pool.is_some_and(|pool| pool.covers(&range.prefix));
            range.open && *range.network == *name && pools.iter().any(covers)
        };
        let is_full = |slot: &Slot| matches!(self.engine.fault(slot), Some(RangeFault::Full { .. }));
        if self.book.ranges().any(in_pools) || pools.iter().any(is_full) {
            return None;
        }
        Some(pools.iter().find_map(fault).unwrap_or_else(|| match self.tables.store {
            StoreState::Here => format!("this node owns no {family} block of network {name} yet"),
            _ => store_sentence(&self.tables),
        }))
    }

    pub(super) fn no_range(&self, network: &str, family: ripstop_types::Family) -> String {
        let slot = ripstop_ipam::ranges::Slot { network: network.into(), family, pool: None, len: None };
        match self.engine.fault(&slot) {
            Some(fault) => fault.to_string(),
            None => match &self.tables.store {
                StoreState::Here if !self.wanted_slots.contains(&slot) => self.no_pod_cidr(network, family),
                StoreState::Here => format!("this node owns no {family} range of network {network} yet"),
                _ => store_sentence(&self.tables),
            },
        }
    }

    /// Another machine has this node's name.
    pub(super) fn name_conflict(&self) -> Option<String> {
        let own = ripstop_fabric::publish::record(&self.tables)?;
        let stored = self.tables.nodes.get(&self.tables.node)?;
        check_node_name(&own, &stored.value).err().map(|faults| faults.to_string())
    }

    /// Pods of this node with addresses of pools that their network has no more.
    fn strays_of_pools(&self) -> Vec<String> {
        let outside = |network: &Network| {
            let rows = self.tables.pods.values().filter(|row| row.network == network.name);
            let rows =
                rows.filter_map(|row| row.ips.iter().find(|ip| !network.spec.contains(**ip)).map(|ip| (row, *ip)));
            let rows: Vec<_> = rows.collect();
            let (first, ip) = rows.first()?;
            let (count, name) = (rows.len(), &network.name);
            Some(format!(
                "network {name}: {count} pods have addresses of pools that it has no more, {} with {ip} for one; they keep them, \
                 and no new pod gets one",
                first.owner()
            ))
        };
        let networks = self.tables.networks.values().map(|row| &row.value);
        networks.filter(|network| network.spec.blocks.is_some()).filter_map(|network| outside(network)).collect()
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if let StoreState::Away(_) = &self.tables.store {
            warnings.push(store_sentence(&self.tables));
        }
        // Where both are lost for one reason, it is said once.
        if let Some(reason) = &self.tables.cluster.away
            && self.tables.store == StoreState::Here
        {
            warnings.push(format!("objects of Kubernetes cannot be read: {reason}"));
        }
        let mut by_udp = self.tables.networks.values().filter(|row| forwarder::device(&row.value).is_some());
        if let Some(row) = by_udp.next().filter(|_| !self.tables.facts.forwarder) {
            warnings.push(format!("{}: {}", row.value.owner(), view::no_forwarder()));
        }
        for row in self.tables.networks.values() {
            if let Some((name, link)) = taken::bridge(&self.tables, &row.value).filter(|(_, link)| link.ports > 0) {
                let owner = row.value.owner();
                warnings.push(format!(
                    "{owner}: {} pods of Flannel still hang on {name}, which goes with the last",
                    link.ports
                ));
            }
        }
        let drops = self.tables.facts.foreign_drops.iter();
        warnings.extend(drops.filter(|drop| hygiene::jump_chain(drop).is_none()).map(foreign_drop_sentence));
        if self.tables.withdrawn == Withdrawn::Jumps {
            let places = hygiene::jumps(&self.tables);
            warnings.extend(places.map(|(_, chain)| {
                format!("the jump in {chain} that let pods' packets pass was taken out (`ripstop uninstall`)")
            }));
        }
        warnings.extend(ripstop_desired::services::missing(&self.tables).map(str::to_owned));
        warnings.extend(self.tables.facts.legacy_filters.iter().map(|family| legacy_sentence(*family)));
        warnings.extend(self.probe_warnings());
        warnings.extend(self.health_warnings());
        warnings.extend(self.bgp_warnings());
        warnings.extend(ripstop_desired::services::unraised(&self.tables));
        warnings.extend(ripstop_desired::services::full(&self.tables));
        warnings.extend(self.service_warnings());
        warnings.extend(self.policy_warnings());
        for ((kind, key), fault) in &self.tables.faults {
            let faults = on_one_line(fault);
            warnings.push(format!("record {}/{key} is not taken, its last good value stays: {faults}", kind.as_str()));
        }
        let faults = self.tables.cluster.faults.iter().take(MOST_IN_STATUS);
        warnings.extend(faults.map(|(_, fault)| format!("the store has {fault}; what it was before stays")));
        let of_metallb = self.tables.cluster.metallb.faults.iter().take(MOST_IN_STATUS);
        warnings.extend(of_metallb.cloned());
        warnings.extend(self.strays_of_pools());
        warnings.extend(self.tables.networks.keys().filter_map(|name| self.full_sentence(name)));
        warnings.extend(self.earlier_names());
        warnings.extend(self.lists_sentence());
        warnings.extend(self.notices.fault());
        let networks: Vec<_> = self.tables.networks.values().map(|row| (*row.value).clone()).collect();
        if let Err(faults) = check_networks(&networks) {
            warnings.push(on_one_line(&faults.to_string()));
        }
        warnings
    }
}

/// Faults of one object, which are a line each, as part of a sentence.
pub(super) fn on_one_line(faults: &str) -> String {
    faults.replace('\n', "; ")
}

/// What a chain of another owner does to pods, and the command that opens it, or what Ripstop puts there.
pub(super) fn foreign_drop_sentence(drop: &ForeignDrop) -> String {
    let ForeignDrop { family, table, chain, .. } = drop;
    let drops = format!("chain {chain} of table {family} {table} drops forwarded packets");
    match hygiene::jump_chain(drop) {
        Some((_, place)) => format!("{drops}; a jump in {place} lets those of pods pass"),
        None => format!(
            "{drops}, those of pods too; to open it: nft insert rule {family} {table} {chain} iifname \"rip*\" accept; \
             nft insert rule {family} {table} {chain} oifname \"rip*\" accept"
        ),
    }
}

/// What cannot be seen of legacy iptables, and how it is opened if it drops.
fn legacy_sentence(family: Family) -> String {
    let program = if family == Family::V4 { "iptables-legacy" } else { "ip6tables-legacy" };
    format!(
        "legacy iptables has a table filter for {family}, whose rules cannot be seen here; where `{program} -S FORWARD` shows \
         that it drops, to open it: {program} -I FORWARD -i rip+ -j ACCEPT; {program} -I FORWARD -o rip+ -j ACCEPT"
    )
}

/// Why a network that is there takes no pod.
pub(super) fn deleted_sentence(name: &NetworkName) -> String {
    format!("network {name} was deleted and goes with the last of its pods; no new one is taken")
}

/// A word or two for a table.
fn store_word(tables: &Tables) -> String {
    match &tables.store {
        StoreState::Connecting => "connecting".into(),
        StoreState::Here => "here".into(),
        StoreState::Away(reason) => format!("away: {reason}"),
    }
}

/// What the store's absence means, in a sentence.
pub(super) fn store_sentence(tables: &Tables) -> String {
    match &tables.store {
        StoreState::Connecting => "the store has not answered yet".into(),
        StoreState::Here => "the store's records are still being read".into(),
        StoreState::Away(reason) => format!("the store is away: {reason}"),
    }
}
