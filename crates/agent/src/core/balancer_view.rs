//! Addresses of Services of type LoadBalancer as people ask for them: who answers for each, since when, and why that one, or nobody.
//!
//! Not here: who may answer (`super::balancers`) and who does (`ripstop_election`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ripstop_ipam::ranges::Life;
use ripstop_objects::pool::{AddressPool, AnnouncedBy};
use ripstop_objects::service::{Ingress, Service, TrafficPolicy};
use ripstop_services::pools::Wanted;
use ripstop_tables::StoreState;
use ripstop_types::{NodeName, ServiceName};
use serde::Serialize;

use super::Core;
use super::announce::{self, Announcement};
use super::balancers::{SegmentPlan, gets_addresses, pool_of};

/// An address of a Service of type LoadBalancer, or one that it lacks.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct BalancerView {
    pub namespace: String,
    pub name: String,
    /// None where it has none.
    pub ip: Option<IpAddr>,
    pub pool: Option<String>,
    /// Services that have it as well.
    pub shared: Vec<String>,
    /// The node that answers for it, as the asked one sees it.
    pub owner: Option<String>,
    /// What the asked node tells routers of it by BGP.
    pub told: Option<String>,
    /// The link by which the asked node is on the segment.
    pub interface: Option<String>,
    /// Since when the asked node sees it so: milliseconds since the Unix epoch.
    pub since: Option<u64>,
    /// Why it has no address or no owner, or why that is the owner.
    pub reason: Option<String>,
}

/// What rows are made from.
struct Seen<'c> {
    told: Vec<Announcement>,
    /// The Services that show each address.
    holders: BTreeMap<IpAddr, Vec<&'c Arc<Service>>>,
}

impl Core {
    /// Addresses of Services of type LoadBalancer, and who answers for each.
    #[must_use]
    pub fn load_balancers(&self) -> Vec<BalancerView> {
        let services = &self.tables.cluster.services;
        let mut holders: BTreeMap<IpAddr, Vec<&Arc<Service>>> = BTreeMap::new();
        for service in services.services() {
            service.ingress.iter().for_each(|ingress| holders.entry(ingress.ip).or_default().push(service));
        }
        let told = announce::all(&self.tables).into_iter().filter(Announcement::is_balanced).collect();
        let seen = Seen { told, holders };
        let mut rows = Vec::new();
        for service in services.services().filter(|service| service.balancer.is_some()) {
            rows.extend(service.ingress.iter().map(|ingress| self.shown(service, *ingress, &seen)));
            let decision = self.pooling.decided().get(&service.name);
            let lacks = decision.map(|decision| &decision.lacks[..]).unwrap_or_default();
            rows.extend(lacks.iter().map(|lack| empty(&service.name, None, Some(lack.to_string()))));
            if service.ingress.is_empty() && lacks.is_empty() {
                rows.push(empty(&service.name, None, Some(self.waits_for_address(service))));
            }
        }
        rows
    }

    /// Why a Service that nothing stands in the way of has no address.
    fn waits_for_address(&self, service: &Arc<Service>) -> String {
        let class = service.balancer.as_ref().and_then(|balancer| balancer.class.as_ref());
        if let Some(class) = class.filter(|_| !gets_addresses(service)) {
            return format!("addresses of the class {class} are another's to give");
        }
        if !self.tables.knows_pools() {
            return "address pools have not been read yet".into();
        }
        if Wanted::of(service).is_none() {
            return "it has no ClusterIP, of whose families its addresses would be".into();
        }
        if self.tables.cluster.pools.is_empty() {
            return "there is no address pool (kind AddressPool)".into();
        }
        let given = self.pooling.decided().get(&service.name).and_then(|decision| decision.given.first());
        let Some((ingress, pool)) = given else { return "it has not been seen to yet".into() };
        if let StoreState::Away(why) = &self.tables.store {
            return format!(
                "the store is away, so nobody can write that it has {} of the pool {pool}: {why}",
                ingress.ip
            );
        }
        let mut alive = self.tables.nodes.keys().filter(|name| !matches!(self.liveness.life(name), Life::Stale(_)));
        let by = alive.next().unwrap_or(&self.tables.node);
        format!("node {by}, which sees to addresses, is to give it {} of the pool {pool}", ingress.ip)
    }

    /// A row with what is known of an address.
    fn shown(&self, service: &Arc<Service>, ingress: Ingress, seen: &Seen<'_>) -> BalancerView {
        let ip = ingress.ip;
        let pool = pool_of(&self.tables, ip);
        let holders = seen.holders.get(&ip).map(|all| &all[..]).unwrap_or_default();
        let others = holders.iter().filter(|other| other.name != service.name);
        let told = seen.told.iter().find(|one| one.prefix.contains(ip));
        let mut view = BalancerView {
            pool: pool.map(|pool| pool.name.to_string()),
            shared: others.map(|other| other.name.to_string()).collect(),
            told: told.map(ToString::to_string),
            ..empty(&service.name, Some(ip), None)
        };
        let plan = self.announcing.told.iter().find(|plan| plan.addresses.contains_key(&ip));
        view.reason = Some(match (plan, pool) {
            (Some(plan), _) => {
                view.interface = Some(plan.link.to_string());
                let since = self.announcing.since.get(&ip);
                view.owner = since.map(|(owner, _)| owner.to_string());
                view.since = since.map(|(_, since)| since.0);
                self.why_owned(ip, plan, holders, view.owner.is_some())
            }
            (None, _) if ingress.is_proxied => {
                "who gave it takes packets for it, and sends them on to nodes (ipMode Proxy)".into()
            }
            (None, None) => "no address pool has it: it is another's".into(),
            (None, Some(_)) if !gets_addresses(service) => "its Service is of a class that is another's".into(),
            (None, Some(pool)) => self.why_silent(pool, holders, told.is_some()),
        });
        view
    }

    /// Why an address has this owner, or none, on a segment of this node.
    fn why_owned(&self, ip: IpAddr, plan: &SegmentPlan, holders: &[&Arc<Service>], is_owned: bool) -> String {
        let found = self.announcing.found.rows.iter().find(|row| row.address == ip);
        if let Some(mac) = found.and_then(|row| row.conflict) {
            return format!("{mac} has it, a machine that is no node: nobody here answers for it");
        }
        let may = plan.addresses.get(&ip).and_then(Option::as_ref);
        let here = |may: &BTreeSet<NodeName>| may.iter().filter(|node| plan.candidates.contains_key(*node)).count();
        let of = may.map_or(plan.candidates.len(), here);
        match (is_owned, of, may.is_some_and(|may| !may.is_empty())) {
            (true, ..) => format!("the first by hash of {of} nodes that may have it and are seen alive"),
            (false, 0, true) => "no node of the segment may have it: those that may are elsewhere".into(),
            (false, 0, false) if holders.iter().any(|service| service.external_policy == TrafficPolicy::Local) => {
                "no node of the segment may have it: none has an endpoint that is ready".into()
            }
            (false, 0, false) => {
                "no node of the segment may have it: its pool is announced by others (nodeSelectors)".into()
            }
            (false, ..) => "no node that may have it is seen alive by a majority of the segment".into(),
        }
    }

    /// Why nobody answers for an address on a segment of this node, and what becomes of it instead.
    fn why_silent(&self, pool: &AddressPool, holders: &[&Arc<Service>], is_told: bool) -> String {
        let name = &pool.name;
        if let Some(why) = pool.refused.first().filter(|_| pool.announce.is_empty()) {
            return format!("nobody here answers for it: of the pool {name} {why}");
        }
        let by = |way| pool.announce.iter().any(|one| one.by == way);
        if is_told && self.bgp_peers().iter().any(|peer| peer.here && peer.reason.is_none()) {
            return "this node serves it and tells routers so by BGP".into();
        }
        if is_told {
            return "this node would tell routers of it by BGP, and no BgpPeer is a peer of this node".into();
        }
        if by(AnnouncedBy::Bgp) {
            return format!(
                "this node does not tell routers of it: {}",
                announce::why_not(&self.tables, pool, holders)
            );
        }
        if by(AnnouncedBy::L2) {
            return format!(
                "nobody here answers for it: this node is on no segment that the pool {name} is announced on"
            );
        }
        format!("nobody answers for it: the pool {name} says no way to announce it")
    }
}

fn empty(service: &ServiceName, ip: Option<IpAddr>, reason: Option<String>) -> BalancerView {
    BalancerView {
        namespace: service.namespace.to_string(),
        name: service.name.to_string(),
        ip,
        pool: None,
        shared: Vec::new(),
        owner: None,
        told: None,
        interface: None,
        since: None,
        reason,
    }
}
