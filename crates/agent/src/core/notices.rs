//! What people are told on pods, on Services, on policies and on this node's Node object: which levels stand, for whoever writes Events of them.
//!
//! Of a pod: why its last ADD failed, until one succeeds, the pod goes, or nobody tries any more. Of a Service and of the node: what
//! stands for some seconds. What every node finds alike of a Service one of them tells. Only with the store in Kubernetes.
//!
//! Not here: repeats, rates, and the writing itself; nothing waits for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ripstop_cni_spec::call::Call;
use ripstop_cni_spec::wire::Response;
use ripstop_cni_spec::{Code, TypedCall};
use ripstop_desired::services;
use ripstop_fabric::{host, hygiene};
use ripstop_ipam::ranges::Life;
use ripstop_objects::{About, Notice, StoreConfig, check_network_against_host};
use ripstop_services::remarks::{Remark, remarks};
use ripstop_tables::{ForeignDrop, Input, Knowledge, NetworkList, StoreKind, StoreState};
use ripstop_types::{Millis, PodName};

use super::call::own;
use super::{Core, Level, status};

/// What a node is told of stands this long before it is news: much is so for a moment when an agent starts.
const STANDING_MS: u64 = 5_000;

/// The node's levels are looked at this often.
const LOOK_MS: u64 = 1_000;

/// A runtime that has not tried for this long does not try any more.
const FORGOTTEN_MS: u64 = 900_000;

/// Pods that are told something at once, at most.
const MOST_PODS: usize = 256;

/// The same of Services.
const MOST_SERVICES: usize = 64;

/// What stands.
#[derive(Debug, Default)]
pub(super) struct Notices {
    pods: BTreeMap<PodName, OfPod>,
    /// Since when each of the node's and of Services has stood.
    since: BTreeMap<Notice, Millis>,
    /// What was found of Services last, and when: at this change, for this node.
    of_services: Vec<Remark>,
    found_at: Option<(u64, ripstop_services::Node)>,
    look_due: Millis,
    /// Why none can be written.
    fault: Option<String>,
    told: Arc<Vec<Notice>>,
}

/// Why a pod has no network.
#[derive(Debug)]
struct OfPod {
    notice: Notice,
    last: Millis,
}

impl Notices {
    /// Whoever writes them cannot, or can again.
    pub(super) fn note_fault(&mut self, fault: Option<String>) {
        self.fault = fault;
    }

    /// That they cannot be written.
    pub(super) fn fault(&self) -> Option<String> {
        self.fault.as_ref().map(|why| format!("what pods and this node lack cannot be told in Events: {why}"))
    }
}

impl Core {
    /// Names chains of others that drop what pods forward, each once.
    pub(super) fn tell_foreign_drops(&mut self) {
        let drops: BTreeSet<ForeignDrop> = self.tables.facts.foreign_drops.iter().cloned().collect();
        for drop in drops.difference(&self.told_drops).cloned().collect::<Vec<_>>() {
            let level = if hygiene::jump_chain(&drop).is_some() { Level::Info } else { Level::Warn };
            self.log(level, status::foreign_drop_sentence(&drop));
        }
        // One that went and comes again is news again.
        self.told_drops = drops;
    }

    /// What changes no row.
    pub(super) fn take_news(&mut self, input: Input) {
        match input {
            Input::Lists { lists } => self.take_lists(lists),
            Input::Unheard { faults } => self.take_unheard(faults),
            Input::Noticed { fault } => self.notices.note_fault(fault),
            _ => {}
        }
    }

    /// What the container runtime finds has changed.
    pub(super) fn take_lists(&mut self, lists: Vec<NetworkList>) {
        let before = self.lists_sentence();
        self.tables.lists = lists;
        match (before, self.lists_sentence()) {
            (before, Some(now)) if before.as_ref() != Some(&now) => self.log(Level::Warn, now),
            (Some(_), None) => self.log(Level::Info, "container runtimes take Ripstop's network configuration"),
            _ => {}
        }
    }

    /// An ADD ended.
    pub(super) fn note_outcome(&mut self, typed: &TypedCall, response: &Response) {
        let Some(args) = typed.call.args().filter(|_| self.has_events() && matches!(typed.call, Call::Add { .. }))
        else {
            return;
        };
        let Some(name) = &args.pod else { return };
        let before = self.notices.pods.remove(name);
        self.notices.look_due = self.at.now;
        let Some(error) = &response.error else { return };
        let reason = match error.code {
            Code::NoFreeAddress => "NoFreeAddress",
            Code::AddressRefused => "AddressRefused",
            Code::PortTaken => "HostPortTaken",
            Code::TryAgainLater => "NetworkNotReady",
            // What is wrong with a request is the runtime's to say.
            _ => return,
        };
        if self.notices.pods.len() >= MOST_PODS {
            return;
        }
        let known = self.tables.cluster.pods.get(name).map(|pod| pod.uid.clone());
        let uid = args.pod_uid.as_deref().map(Arc::from).or(known).unwrap_or_default();
        // Every try of a runtime is for another container, which says nothing to people.
        let container = typed.call.attachment().map(|attachment| format!(" ({})", own(attachment))).unwrap_or_default();
        let note = Arc::from(error.to_string().replace(&container, ""));
        let about = About::Pod { name: name.clone(), uid };
        let same = before.filter(|before| before.notice.reason == reason && before.notice.about == about);
        let notice = Notice { about, reason, note, times: same.map_or(0, |before| before.notice.times) + 1 };
        self.notices.pods.insert(name.clone(), OfPod { notice, last: self.at.now });
    }

    /// Says which stand, where that is another word than before.
    pub(super) fn refresh_notices(&mut self) {
        let now = self.at.now;
        if now < self.notices.look_due || self.held || !self.has_events() {
            return;
        }
        self.notices.look_due = now.plus(LOOK_MS);
        let (cluster, pods) = (&self.tables.cluster, &mut self.notices.pods);
        let knows_pods = cluster.knowledge(ripstop_objects::ObjectKind::Pod) == Knowledge::Synced;
        pods.retain(|name, of| {
            // One that came only now may not be known yet.
            let there = !knows_pods || cluster.pods.contains_key(name) || now.since(of.last) < STANDING_MS;
            there && now.since(of.last) < FORGOTTEN_MS
        });
        let mut levels = self.node_notices();
        levels.extend(self.service_notices());
        levels.extend(self.policy_notices());
        levels.extend(self.pool_notices().iter().cloned());
        let before = std::mem::take(&mut self.notices.since);
        let since = |level: &Notice| before.get(level).copied().unwrap_or(now);
        self.notices.since = levels.into_iter().map(|level| (level.clone(), since(&level))).collect();
        let standing = self.notices.since.iter().filter(|(_, since)| now.since(**since) >= STANDING_MS);
        let standing = standing.map(|(notice, _)| notice.clone());
        let told: Vec<Notice> = standing.chain(self.notices.pods.values().map(|of| of.notice.clone())).collect();
        if told != *self.notices.told {
            self.notices.told = Arc::new(told);
            self.outputs.push(super::Output::Notices(self.notices.told.clone()));
        }
    }

    /// Whether there is anything that an Event can be about.
    fn has_events(&self) -> bool {
        matches!(self.tables.config.store, StoreConfig::Kubernetes(_))
    }

    fn node_notices(&self) -> Vec<Notice> {
        let uid = self.tables.cluster.node.as_ref().map(|node| node.uid.clone()).unwrap_or_default();
        let about = About::Node { name: self.tables.node.clone(), uid };
        let levels = self.node_levels().into_iter();
        levels.map(|(reason, note)| Notice { about: about.clone(), reason, note, times: 1 }).collect()
    }

    /// What this node's agent is to tell of Services.
    fn service_notices(&mut self) -> Vec<Notice> {
        let tables = &self.tables.cluster.services;
        let Some(node) = self.desired.serving() else { return Vec::new() };
        let at = (tables.changes(), node);
        if self.notices.found_at.as_ref().is_none_or(|(changes, node)| (*changes, node) != at) {
            self.notices.of_services = remarks(node, tables);
            self.notices.found_at = Some((tables.changes(), node.clone()));
        }
        let is_first = self.is_first_node();
        let own = self.notices.of_services.iter().filter(|remark| is_first || !remark.cause.is_everywhere());
        let notice = |remark: &Remark| {
            let uid = tables.service(&remark.service).map(|service| service.uid.clone()).unwrap_or_default();
            let about = About::Service { name: remark.service.clone(), uid };
            Notice { about, reason: remark.cause.reason(), note: remark.text.as_str().into(), times: 1 }
        };
        own.take(MOST_SERVICES).map(notice).collect()
    }

    /// Whether no node that may be alive has a name before this one's.
    pub(super) fn is_first_node(&self) -> bool {
        let own = &self.tables.node;
        let names = self.tables.nodes.keys();
        names.take_while(|name| *name < own).all(|name| matches!(self.liveness.life(name), Life::Stale(_)))
    }

    /// What people should know of Services, some of it.
    pub(super) fn service_warnings(&self) -> Vec<String> {
        let Some(node) = self.desired.serving() else { return Vec::new() };
        let remarks = remarks(node, &self.tables.cluster.services);
        let more = remarks.len().saturating_sub(status::MOST_IN_STATUS);
        let first = remarks
            .iter()
            .take(status::MOST_IN_STATUS)
            .map(|remark| format!("service {}: {}", remark.service, remark.text));
        let more = (more > 0).then(|| format!("{more} more of Services; `ripstop get services` shows each"));
        first.chain(more).collect()
    }

    /// What is wrong with this node, a word and a sentence each.
    fn node_levels(&self) -> Vec<(&'static str, Arc<str>)> {
        let mut levels: Vec<(&'static str, String)> = Vec::new();
        let host = host::addresses(&self.tables);
        for (name, row) in &self.tables.networks {
            let spec = &row.value.spec;
            levels.extend(self.full_sentence(name).map(|text| ("NoFreeAddress", text)));
            if let Err(faults) = check_network_against_host(&row.value, &host) {
                levels.push(("NetworkRefused", status::on_one_line(&faults.to_string())));
            }
            let has = |family| {
                let mut ranges = self.book.ranges();
                ranges.any(|range| range.open && *range.network == *name.as_str() && range.prefix.family() == family)
            };
            for family in spec.families().filter(|_| self.tables.store == StoreState::Here) {
                let lacks = match spec.blocks {
                    Some(_) => self.no_blocks(&row.value, family),
                    None => (!has(family)).then(|| self.no_range(name.as_str(), family)),
                };
                levels.extend(lacks.map(|text| ("NoRange", text)));
            }
        }
        levels.extend(self.name_conflict().map(|text| ("NodeNameTaken", status::on_one_line(&text))));
        for ((kind, key), fault) in &self.tables.faults {
            if *kind == StoreKind::Networks {
                let fault = status::on_one_line(fault);
                let text = format!("network {key} is not taken, its last good value stays: {fault}");
                levels.push(("NetworkRefused", text));
            }
        }
        let away = match &self.tables.store {
            StoreState::Away(reason) => Some(reason),
            _ => self.tables.cluster.away.as_ref(),
        };
        levels.extend(
            away.map(|reason| ("ObjectsUnread", format!("this node's agent cannot read what it needs: {reason}"))),
        );
        if let Some(obstacle) = services::obstacle(&self.tables, self.tables.proxy()) {
            let proxy = self.tables.proxy().as_str();
            levels
                .push(("ServicesNotServed", format!("Services cannot be served by {proxy} on this node: {obstacle}")));
        }
        if let Some((_, failure)) = self.failed.iter().find(|(key, _)| key.is_of_services()) {
            levels.push(("ServicesNotServed", format!("what serves Services cannot be written: {}", failure.why)));
        }
        levels.extend(services::full(&self.tables).map(|text| ("ConnectionTableFull", text)));
        levels.extend(self.lists_sentence().map(|text| ("OtherNetworkFirst", text)));
        levels.extend(self.earlier_names().into_iter().map(|text| ("NodeRenamed", text)));
        levels.into_iter().map(|(reason, text)| (reason, Arc::from(text))).collect()
    }
}
