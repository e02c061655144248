//! Addresses of pools for Services of type LoadBalancer: which Services are to be seen to, and what is told of them and of pools.
//!
//! One node sees to all, the first that may be alive; that two may take themselves for it does no harm (`ripstop_services::pools::assign`).
//! What is written comes back by the watch.
//!
//! Not here: what a Service gets, and the writing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ripstop_objects::pool::AddressPool;
use ripstop_objects::service::{Ingress, Service};
use ripstop_objects::{About, Notice, ObjectKind};
use ripstop_services::pools::claim::Claims;
use ripstop_services::pools::{Decision, Pools, decide_all};
use ripstop_tables::{Change, StoreState, Withdrawn};
use ripstop_types::{Millis, Revision, ServiceName};
use serde::Serialize;

use super::{Core, Level, Output};

/// Services, and pools, that people are told of at once, at most.
const MOST_NOTICES: usize = 64;

/// All Services are decided about at once, which takes its time where there are many: a pause of a millisecond for so many follows, in
/// which changes gather.
const DECIDED_A_MS: u64 = 5;

/// Services to see to.
#[derive(Debug, Clone)]
pub struct Assignments {
    /// Which.
    pub services: BTreeSet<ServiceName>,
    /// And whoever has claimed an address.
    pub claimants: bool,
    /// The pools.
    pub pools: Pools,
    /// What Services show.
    pub shown: Claims,
}

/// What the core remembers of them.
#[derive(Debug, Default)]
pub(super) struct Pooling {
    is_due: bool,
    /// Whether this node was the one that sees to them.
    is_first: bool,
    /// Changes of anything that pools hang on.
    generation: u64,
    /// At which revision and generation each was last seen to, and what it was to get.
    asked: BTreeMap<ServiceName, (Revision, u64, Vec<Ingress>)>,
    /// What each gets.
    decided: BTreeMap<ServiceName, Decision>,
    /// Until when the next decision waits.
    rests: Millis,
    /// What people are to be told of it.
    notices: Vec<Notice>,
    /// What was said of MetalLB's objects.
    said: Vec<String>,
}

impl Pooling {
    /// What was decided for each Service.
    pub(super) fn decided(&self) -> &BTreeMap<ServiceName, Decision> {
        &self.decided
    }
}

/// A pool.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct PoolView {
    pub name: String,
    /// Its ranges.
    pub addresses: Vec<String>,
    pub auto: bool,
    pub priority: u16,
    /// Whether it is one of MetalLB's objects.
    pub metallb: bool,
    /// How many addresses Services have of it, and how many are left.
    pub used: usize,
    pub free: u128,
    /// What is wrong with it, or what of it something else has.
    pub reason: Option<String>,
}

impl Core {
    /// Notes whether addresses may have to be given.
    pub(super) fn note_for_pools(&mut self, changes: &BTreeSet<Change>) {
        let of_pools = changes.iter().any(|change| match change {
            Change::Object(kind) => matches!(kind, ObjectKind::AddressPool | ObjectKind::Namespace),
            Change::Network(_) | Change::Node(_) => true,
            _ => false,
        });
        self.pooling.generation += u64::from(of_pools);
        if changes.contains(&Change::Object(ObjectKind::AddressPool)) {
            self.tell_of_metallb();
        }
        self.pooling.is_due |=
            of_pools || changes.iter().any(|change| matches!(change, Change::Service(_) | Change::Store));
    }

    /// Has Services seen to whose addresses are not what they should be.
    pub(super) fn give_addresses(&mut self) {
        let cluster = &self.tables.cluster;
        let kinds = [ObjectKind::Service, ObjectKind::Namespace];
        let knows = self.tables.knows_pools() && kinds.into_iter().all(|kind| cluster.knows(kind));
        let is_first = knows && self.is_first_node();
        let began = is_first && !self.pooling.is_first;
        if knows && !is_first {
            // Another one tells them.
            self.pooling.notices.clear();
        }
        self.pooling.is_first = is_first;
        if !knows || !(self.pooling.is_due || began) || self.at.now < self.pooling.rests && !began {
            return;
        }
        self.pooling.is_due = false;
        let pools = Pools::of(&self.tables);
        self.pooling.decided = if pools.is_empty() { BTreeMap::new() } else { decide_all(&self.tables, &pools) };
        self.pooling.rests = self.at.now.plus(self.pooling.decided.len() as u64 / DECIDED_A_MS);
        self.pooling.notices = if is_first { self.lacking(&pools) } else { Vec::new() };
        let can = !self.held && self.tables.store == StoreState::Here && self.tables.withdrawn == Withdrawn::Nothing;
        if !is_first || !can {
            return;
        }
        let services: BTreeSet<ServiceName> = self.unsettled(began).into_iter().collect();
        if services.is_empty() && !began {
            return;
        }
        let shown = Claims::shown(self.tables.cluster.services.services());
        self.outputs.push(Output::Assign(Box::new(Assignments { services, claimants: began, pools, shown })));
    }

    /// Services that do not show what they should, each once for the same. `all`: those that do, too.
    fn unsettled(&mut self, all: bool) -> Vec<ServiceName> {
        let tables = &self.tables.cluster.services;
        let Pooling { asked, decided, generation, .. } = &mut self.pooling;
        let mut names = Vec::new();
        for (name, decision) in decided.iter() {
            let at = (tables.revision(name), *generation, decision.ingress());
            let shows = |service: &Service| service.ingress == at.2 && !decision.is_unsaid(service);
            let settled = tables.service(name).is_some_and(|service| shows(service));
            if all || (!settled && asked.get(name) != Some(&at)) {
                names.push(name.clone());
            }
            if all || !settled {
                asked.insert(name.clone(), at);
            }
        }
        // What is no Service of ours any more gives its addresses back.
        let left: Vec<ServiceName> = asked.keys().filter(|name| !decided.contains_key(*name)).cloned().collect();
        asked.retain(|name, _| decided.contains_key(name));
        names.extend(left);
        names
    }

    /// Says what MetalLB's objects are taken for, once it is another thing than before.
    fn tell_of_metallb(&mut self) {
        let metallb = &self.tables.cluster.metallb;
        let pools = self.tables.cluster.pools.values().map(|row| &row.value).filter(|pool| pool.of_metallb);
        let pools: Vec<&str> = pools.map(|pool| &*pool.name).collect();
        let mut says: Vec<String> = metallb.faults.clone();
        let what = match &metallb.runs {
            Some(pod) => format!("left to MetalLB, of which pod {pod} runs on this node"),
            None => "used here as MetalLB's objects say".into(),
        };
        says.extend((!pools.is_empty()).then(|| format!("address pools {}: {what}", pools.join(", "))));
        let news: Vec<String> = says.iter().filter(|text| !self.pooling.said.contains(*text)).cloned().collect();
        self.pooling.said = says;
        news.into_iter().for_each(|text| self.log(Level::Info, text));
    }

    /// What of Services and of pools is not as it should be.
    fn lacking(&self, pools: &Pools) -> Vec<Notice> {
        let services = &self.tables.cluster.services;
        let lacks = self.pooling.decided.iter().filter_map(|(name, decision)| {
            let (reason, note) = decision.lack()?;
            let uid = services.service(name).map(|service| service.uid.clone()).unwrap_or_default();
            let about = About::Service { name: name.clone(), uid };
            Some(Notice { about, reason, note, times: 1 })
        });
        // Of MetalLB's there is no AddressPool that an Event could be about.
        let faults = pools.iter().filter(|pool| !pool.of_metallb).filter_map(|pool| {
            let overlaps = || Some(("AddressPoolOverlaps", pools.overlaps(pool))).filter(|(_, all)| !all.is_empty());
            let refused: Vec<String> = pool.refused.iter().map(ToString::to_string).collect();
            let (reason, texts) = match refused.is_empty() {
                true => overlaps()?,
                false => ("InvalidAddressPool", refused),
            };
            let about = About::Pool { name: pool.name.clone(), uid: pool.uid.clone() };
            Some(Notice { about, reason, note: texts.join("; ").into(), times: 1 })
        });
        lacks.take(MOST_NOTICES).chain(faults.take(MOST_NOTICES)).collect()
    }

    /// When what changed meanwhile is decided about.
    pub(super) fn pools_due(&self) -> Option<Millis> {
        Some(self.pooling.rests).filter(|rests| self.pooling.is_due && *rests > self.at.now)
    }

    /// What people are to be told of addresses of pools, by the node that sees to them.
    pub(super) fn pool_notices(&self) -> &[Notice] {
        &self.pooling.notices
    }

    /// The pools, and what is used of them.
    #[must_use]
    pub fn address_pools(&self) -> Vec<PoolView> {
        let pools = Pools::of(&self.tables);
        let services = self.tables.cluster.services.services();
        let used: BTreeSet<IpAddr> =
            services.flat_map(|service| service.ingress.iter().map(|ingress| ingress.ip)).collect();
        let row = |pool: &Arc<AddressPool>| {
            let used = used.iter().filter(|ip| pool.gives(**ip)).count();
            let reason =
                pool.refused.first().map(ToString::to_string).or_else(|| pools.overlaps(pool).into_iter().next());
            PoolView {
                name: pool.name.to_string(),
                addresses: pool.addresses.iter().map(ToString::to_string).collect(),
                auto: pool.auto_assign,
                priority: pool.priority,
                metallb: pool.of_metallb,
                used,
                free: pool.size().saturating_sub(used as u128),
                reason,
            }
        };
        pools.iter().map(row).collect()
    }
}
