//! A network's move to another backend, as far as this node has come, and what an operator may ask of it.
//!
//! How nodes decide stands in [`ripstop_fabric::migration`]. Here the kernel's state becomes a row of the tables: what is
//! prepared, and how packets leave now.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ripstop_desired::Source;
pub(super) use ripstop_fabric::migration::Stage;
use ripstop_fabric::migration::{self, DRAIN_MS};
use ripstop_fabric::{forwarder, paths};
use ripstop_ipam::ranges::Life;
use ripstop_netmodel::{GROUP_IDS, HOP_IDS, Key, Ns, Object, RouteTarget};
use ripstop_objects::{BackendKind, Encapsulation, Network, NetworkName, NodeRecord};
use ripstop_tables::{Change, PodRow, PodState};
use ripstop_types::{Family, Millis, NodeName, Prefix, Revision};
use serde::{Deserialize, Serialize};

use super::Core;

/// What an operator asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MigrationRequest {
    /// The network.
    pub network: NetworkName,
    /// What is to be done.
    pub action: MigrationAction,
}

/// What can be done with a migration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MigrationAction {
    /// Begin one.
    To(BackendKind),
    /// Move no further peer.
    Stop,
    /// Go on after a stop.
    Continue,
    /// Return to the backend before.
    Back,
    /// Do not wait for a node.
    Skip(NodeName),
}

/// How far a node is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct MigrationView {
    pub network: String,
    pub node: String,
    pub from: String,
    pub to: String,
    /// preparing, moving, stopped, done or skipped.
    pub state: String,
    pub reason: Option<String>,
}

impl Core {
    /// Brings up to date how packets leave, as the kernel has it; names the peers for which that is news. Goes before a
    /// model is made: what is moved hangs on what there is to move. While parts of peers are still to be made, it is as it
    /// was when they began to be.
    pub(super) fn refresh_sends(&mut self) -> BTreeSet<Change> {
        if !self.desired.is_whole() {
            return BTreeSet::new();
        }
        let mut sends = BTreeMap::new();
        for (name, _) in self.migrating() {
            sends.append(&mut self.sent_by(&name));
        }
        if sends == self.tables.sends {
            return BTreeSet::new();
        }
        let before = std::mem::replace(&mut self.tables.sends, sends);
        let after = &self.tables.sends;
        let differ = |place: &&(NetworkName, NodeName, Family)| before.get(*place) != after.get(*place);
        // The end of a migration is a change of its network.
        let migrates = |place: &&(NetworkName, NodeName, Family)| {
            self.tables.networks.get(&place.0).is_some_and(|row| row.value.migration.is_some())
        };
        let places = before.keys().chain(after.keys()).filter(differ).filter(migrates);
        // A peer's part hangs on how packets leave for this peer, and on no other.
        places.map(|(_, peer, _)| Change::Node(peer.clone())).collect()
    }

    /// Brings up to date which networks are prepared, and which have migrated; names those that are news. Goes behind the
    /// model: that says what there is to do.
    pub(super) fn refresh_stages(&mut self) -> BTreeSet<Change> {
        let (mut prepared, mut migrated) = (BTreeMap::new(), BTreeMap::new());
        let mut draining = BTreeMap::new();
        for (name, revision) in self.migrating() {
            // What comes later is made as it should be from the start.
            let Some(network) = self.tables.networks.get(&name).map(|row| &row.value) else { continue };
            let is_prepared = self.tables.prepared.get(&name) == Some(&revision)
                || (migration::receives(&self.tables, network) && self.is_done(&name));
            let has_migrated = migration::has_migrated(&self.tables, network);
            for (stage, is_reached, reached) in
                [(Stage::Moving, is_prepared, &mut prepared), (Stage::Migrated, has_migrated, &mut migrated)]
            {
                if !is_reached {
                    continue;
                }
                let place = (name.clone(), revision, stage);
                let due = self.draining.get(&place).copied().unwrap_or(self.at.now.plus(DRAIN_MS));
                if due <= self.at.now {
                    reached.insert(name.clone(), revision);
                }
                draining.insert(place, due);
            }
        }
        self.draining = draining;
        if prepared == self.tables.prepared && migrated == self.tables.migrated {
            return BTreeSet::new();
        }
        let changed = self.migrating().into_iter().map(|(name, _)| Change::Migration(name)).collect();
        (self.tables.prepared, self.tables.migrated) = (prepared, migrated);
        changed
    }

    /// When the next stage is reached, if nothing happens until then.
    pub(super) fn stage_due(&self) -> Option<Millis> {
        self.draining.values().copied().filter(|due| *due > self.at.now).min()
    }

    fn migrating(&self) -> Vec<(NetworkName, Revision)> {
        let migrating = self.tables.networks.values().filter(|row| row.value.migration.is_some());
        migrating.map(|row| (row.value.name.clone(), row.revision)).collect()
    }

    /// Whether nothing of a network's own links, ranges and pods is left to do on this node.
    fn is_done(&self, network: &NetworkName) -> bool {
        // A pod that comes is made as it should be.
        let stands = |row: &&Arc<PodRow>| row.network == *network && row.state == PodState::Ready;
        let pods = self.tables.pods.values().filter(stands);
        let sources = pods.map(|row| Source::Pod(row.attachment.clone()));
        let keys: BTreeSet<Key> = sources
            .chain([Source::Network(network.clone())])
            .flat_map(|source| self.desired.keys_of(&source).collect::<Vec<_>>())
            .collect();
        keys.iter().all(|key| !self.busy.contains(key)) && self.diff(&keys).steps.is_empty()
    }

    /// How packets leave now for each peer.
    fn sent_by(&self, name: &NetworkName) -> BTreeMap<(NetworkName, NodeName, Family), Encapsulation> {
        let Some(network) = self.tables.networks.get(name).map(|row| &*row.value) else { return BTreeMap::new() };
        let tunnels: Vec<_> = paths::tunnel_links(network).collect();
        let mut sends = BTreeMap::new();
        for peer in self.tables.peers() {
            for family in network.spec.families() {
                let Some(id) = self.tables.nexthop_ids.get(name, &peer.value.name, family) else { continue };
                if let Some(Object::Nexthop(nexthop)) =
                    self.applied.get(&Key::Nexthop { id }).map(|entry| &entry.object)
                {
                    let tunnel = tunnels.iter().find(|(_, link)| *link == nexthop.link);
                    let encapsulation = tunnel.map_or(Encapsulation::None, |(encapsulation, _)| *encapsulation);
                    sends.insert((name.clone(), peer.value.name.clone(), family), encapsulation);
                } else if self.tables.ranges(&peer.value.name, name, family).any(|range| self.leads_by_bgp(range)) {
                    sends.insert((name.clone(), peer.value.name.clone(), family), Encapsulation::None);
                }
            }
        }
        sends
    }

    /// Whether the kernel has a route that BGP brought to a range of a peer.
    fn leads_by_bgp(&self, range: Prefix) -> bool {
        let route = self.applied.get(&Key::main_route(Ns::Host, range)).map(|entry| &entry.object);
        let to = |target: &RouteTarget| matches!(target, RouteTarget::Nexthop(id) if HOP_IDS.contains(id) || GROUP_IDS.contains(id));
        matches!(route, Some(Object::Route(route)) if to(&route.target))
    }

    /// The record that does what an operator asks, and the revision that it replaces; none where it stands there already.
    ///
    /// # Errors
    /// Why it cannot be done: a sentence.
    pub fn migration_record(&self, request: &MigrationRequest) -> Result<(Network, Option<Revision>), String> {
        let name = &request.network;
        let row = self.tables.networks.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.tables.networks.keys().map(NetworkName::as_str).collect();
            format!("network/{name} is not known; known: {}", known.join(", "))
        })?;
        let there = &*row.value;
        let mut network = there.clone();
        let owner = there.owner();
        let migration = network.migration.as_mut().ok_or_else(|| format!("{owner} is not migrating"));
        match &request.action {
            MigrationAction::To(kind) => {
                network.spec.backend.kind = *kind;
                network = network.succeeding(there).map_err(|fault| fault.to_string())?;
                migration::check(&self.tables, &network).map_err(|faults| faults.join("\n"))?;
            }
            MigrationAction::Stop => migration?.paused = true,
            MigrationAction::Continue => migration?.paused = false,
            MigrationAction::Back => {
                network.spec.backend.kind = migration?.from;
                network = network.succeeding(there).map_err(|fault| fault.to_string())?;
            }
            MigrationAction::Skip(node) => {
                let migration = migration?;
                if !self.tables.nodes.contains_key(node) {
                    return Err(format!("node/{node} is not known to this agent"));
                }
                if !matches!(self.liveness.life(node), Life::Stale(_)) || *node == self.tables.node {
                    let accepted = "only a node that shows no sign of life can be skipped";
                    return Err(format!("node/{node} is alive, or was not long enough silent yet; {accepted}"));
                }
                migration.skip.insert(node.clone());
            }
        }
        let is_new = network != *there;
        Ok((network, is_new.then_some(row.revision)))
    }

    /// How far each node is with each migration.
    #[must_use]
    pub fn migrations(&self) -> Vec<MigrationView> {
        let mut views = Vec::new();
        for network in self.tables.networks.values().map(|row| &*row.value) {
            let Some(migration) = &network.migration else { continue };
            for node in self.tables.nodes.values().map(|row| &*row.value) {
                let Some(stage) = migration::stage(&self.tables, network, node) else { continue };
                let life = self.liveness.life(&node.name);
                let is_away = matches!(life, Life::Stale(_)) && node.name != self.tables.node;
                let (state, reason) = match stage {
                    Stage::Migrated => ("done", None),
                    Stage::Skipped => ("skipped", Some("it is not waited for".to_owned())),
                    _ if is_away => {
                        let remedy = format!("`ripstop migrate backend --skip {}` goes on without it", node.name);
                        (if stage == Stage::Moving { "moving" } else { "preparing" }, Some(format!("{life}; {remedy}")))
                    }
                    _ if migration.paused => ("stopped", Some("`ripstop migrate backend --continue` goes on".into())),
                    Stage::Preparing => ("preparing", Some(unprepared(network, node))),
                    Stage::Moving => ("moving", self.unmoved(network, &node.name)),
                };
                views.push(MigrationView {
                    network: network.name.to_string(),
                    node: node.name.to_string(),
                    from: migration.from.as_str().into(),
                    to: network.spec.backend.kind.as_str().into(),
                    state: state.into(),
                    reason,
                });
            }
        }
        views
    }

    /// What keeps this node itself from being done.
    fn unmoved(&self, network: &Network, node: &NodeName) -> Option<String> {
        if *node != self.tables.node {
            return None;
        }
        let waiting: Vec<&str> = self
            .tables
            .peers()
            .filter(|row| matches!(migration::stage(&self.tables, network, &row.value), Some(Stage::Preparing)))
            .map(|row| row.value.name.as_str())
            .collect();
        (!waiting.is_empty()).then(|| format!("waits for {}", waiting.join(", ")))
    }
}

/// Why a node does not receive by the new backend.
fn unprepared(network: &Network, node: &NodeRecord) -> String {
    if network.spec.backend.kind == BackendKind::Udp && !node.forwarder && node.udp().is_none() {
        return format!("no forwarder runs there: {}", forwarder::REMEDY);
    }
    "it does not receive both ways yet".into()
}
