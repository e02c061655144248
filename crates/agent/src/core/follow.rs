//! Endpoints that follow pods, where no API server is asked: whose readiness is probed, which slices this node publishes, and
//! whose count.
//!
//! Each node publishes the slices of its own pods, on condition of the revision that it knows; so there is no controller, and no two
//! write one record. A slice of a node that is gone stays in the store and does not count.
//!
//! Not here: which slices those are (`ripstop_services::follow`), and which probe goes when (`ripstop_services::readiness`).

use std::collections::{BTreeMap, BTreeSet};

use ripstop_ipam::ranges::Life;
use ripstop_netmodel::RecordGuard;
use ripstop_objects::{ObjectKind, StoreConfig};
use ripstop_plan::Step;
use ripstop_services::follow;
use ripstop_services::readiness::Watched;
use ripstop_tables::{Change, Knowledge, StoreKind, StoreState, Withdrawn};
use ripstop_types::{NodeName, Owner, PodName, ServiceName};
use serde_json::Value;

use super::dispatch::Purpose;
use super::withdraw::{record_removal, record_write};
use super::{Core, Output};

/// What the core remembers of them.
#[derive(Debug, Default)]
pub(super) struct Following {
    /// Pods whose readiness is probed.
    told: BTreeMap<PodName, Watched>,
    /// The last order.
    order: u64,
    /// Whether it is not the first time that pods are looked at.
    begun: bool,
    /// Something may differ from what is published.
    is_due: bool,
}

impl Core {
    /// Notes whether slices may have to change.
    pub(super) fn note_for_slices(&mut self, changes: &BTreeSet<Change>) {
        self.following.is_due |= changes.iter().any(|change| {
            matches!(
                change,
                Change::Object(_) | Change::Service(_) | Change::Pod(_) | Change::Store | Change::Withdrawn
            )
        });
    }

    /// A pod's probes succeed, or do so no more.
    pub(super) fn take_readiness(&mut self, pod: &PodName, order: u64, ready: bool) -> BTreeSet<Change> {
        // One that was attached anew meanwhile is another.
        if self.following.told.get(pod).is_some_and(|watched| watched.order == order) {
            self.tables.readiness.insert(pod.clone(), ready);
            self.following.is_due = true;
        }
        BTreeSet::new()
    }

    /// Judges whose slices count. A node that shows no sign of life, or has no record, is gone.
    pub(super) fn judge_publishers(&mut self) -> BTreeSet<Change> {
        let tables = &self.tables;
        let publishers: BTreeSet<&NodeName> =
            tables.cluster.services.slices().filter_map(|slice| slice.publisher.as_ref()).collect();
        let knows_nodes = tables.knowledge(StoreKind::Nodes) == Knowledge::Synced;
        let is_gone = |node: &NodeName| {
            *node != tables.node
                && (matches!(self.liveness.life(node), Life::Stale(_))
                    || knows_nodes && !tables.nodes.contains_key(node))
        };
        let gone = publishers.into_iter().filter(|node| is_gone(node)).cloned().collect();
        self.tables.set_gone(gone)
    }

    /// Has pods probed and slices published as they are now, once all that says so was read.
    pub(super) fn follow_pods(&mut self) {
        let kinds = [ObjectKind::Pod, ObjectKind::Service, ObjectKind::EndpointSlice];
        let knows = kinds.into_iter().all(|kind| self.tables.cluster.knowledge(kind) == Knowledge::Synced);
        let in_kubernetes = matches!(self.tables.config.store, StoreConfig::Kubernetes(_));
        if in_kubernetes || !knows || !self.following.is_due {
            return;
        }
        self.following.is_due = false;
        self.watch_pods();
        let mut wanted = BTreeMap::new();
        if self.tables.withdrawn != Withdrawn::Everything {
            wanted = follow::slices(&self.tables, &follow::members(&self.tables));
        }
        let can = !self.held && self.tables.store == StoreState::Here && self.name_conflict().is_none();
        for step in self.slice_steps(&wanted) {
            if !can || self.busy.contains(&step.key) || self.failed.contains_key(&step.key) {
                // Looked at again with the next tick.
                self.following.is_due = true;
                continue;
            }
            let scope = BTreeSet::from([step.key.clone()]);
            self.launch(vec![step], scope, Purpose::Model);
        }
    }

    /// Tells the prober whose readiness is asked for.
    fn watch_pods(&mut self) {
        let (mut pods, mut fresh) = (BTreeMap::new(), Vec::new());
        for member in follow::members(&self.tables) {
            let Some(ip) = member.ips.first().filter(|_| !member.pod.probes.is_empty()) else { continue };
            let name = &member.pod.name;
            let mut watched = Watched {
                ip: *ip,
                container: member.container.clone(),
                probes: member.pod.probes.clone(),
                order: 0,
                was_ready: false,
            };
            match self.following.told.get(name) {
                Some(told) if Watched { order: told.order, was_ready: told.was_ready, ..watched.clone() } == *told => {
                    watched = told.clone();
                }
                _ => {
                    self.following.order += 1;
                    watched.order = self.following.order;
                    watched.was_ready = !self.following.begun && self.was_ready(name, *ip);
                    fresh.push((name.clone(), watched.was_ready));
                }
            }
            pods.insert(name.clone(), watched);
        }
        self.following.begun = true;
        self.tables.readiness.extend(fresh);
        if self.following.told != pods {
            self.tables.readiness.retain(|name, _| pods.contains_key(name));
            self.following.told.clone_from(&pods);
            self.outputs.push(Output::Readiness(pods));
        }
    }

    /// Whether the last run of this agent said that a pod at this address was ready.
    fn was_ready(&self, pod: &PodName, ip: std::net::IpAddr) -> bool {
        let endpoints = self.tables.published.values().filter_map(|row| row.value["endpoints"].as_array()).flatten();
        endpoints.into_iter().any(|endpoint| {
            let of = &endpoint["targetRef"];
            of["namespace"].as_str() == Some(&*pod.namespace)
                && of["name"].as_str() == Some(&*pod.name)
                && endpoint["addresses"][0].as_str() == Some(&*ip.to_string())
                && endpoint["conditions"]["serving"].as_bool() == Some(true)
        })
    }

    /// From what is published to what is wanted.
    fn slice_steps(&self, wanted: &BTreeMap<ServiceName, Value>) -> Vec<Step> {
        let there = &self.tables.published;
        let owner = Owner::node(&self.tables.node);
        let mut steps = Vec::new();
        for (name, row) in there.iter().filter(|(name, _)| !wanted.contains_key(name)) {
            let (kind, guard) = (StoreKind::EndpointSlices, RecordGuard::Revision(row.revision.0));
            let reason = "its last pod on this node is gone";
            steps.push(record_removal(kind, &name.to_string(), guard, owner.clone(), reason));
        }
        for (name, value) in wanted {
            let row = there.get(name);
            if row.is_some_and(|row| *row.value == *value) {
                continue;
            }
            let (kind, key) = (StoreKind::EndpointSlices, name.to_string());
            let guard = row.map_or(RecordGuard::Absent, |row| RecordGuard::Revision(row.revision.0));
            steps.push(record_write(kind, key, value.to_string(), guard, owner.clone(), "endpoints follow pods"));
        }
        steps
    }

    /// Keys of the slices that a node published.
    pub(super) fn slices_of_node(&self, node: &NodeName) -> Vec<String> {
        let slices = self.tables.cluster.services.slices();
        let own = slices.filter(|slice| slice.publisher.as_ref() == Some(node));
        own.map(|slice| slice.name.to_string()).collect()
    }
}
