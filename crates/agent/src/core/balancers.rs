//! Which addresses of Services this node may speak for on which segment, for the thread that answers ARP and neighbour discovery.
//!
//! A segment is an uplink. Candidates are the nodes with an address in its subnet; an address of a Service that no uplink's subnet has
//! is that of the first uplink of its family.
//!
//! Not here: who of the candidates speaks (`ripstop_election`), frames, and what people are told of it (`super::balancer_view`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ripstop_fabric::host::{self, Uplink};
use ripstop_objects::pool::{AddressPool, AnnouncedBy, Announcement};
use ripstop_objects::service::{Service, TrafficPolicy};
use ripstop_objects::{NodeAddress, ObjectKind};
use ripstop_services::pools::Wanted;
use ripstop_tables::{Announced, Change, Knowledge, StoreKind, Tables, Withdrawn};
use ripstop_types::{Family, IfName, Mac, Millis, NodeName, ServiceName};

use super::{Core, Level, Output};

/// Label of a node that balancers leave out, as cloud providers do.
const EXCLUDED_LABEL: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// One segment, and what is announced there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentPlan {
    /// The link.
    pub link: IfName,
    /// Its hardware address.
    pub mac: Mac,
    /// This node's address there.
    pub own: IpAddr,
    /// Every candidate with its address there.
    pub candidates: BTreeMap<NodeName, IpAddr>,
    /// Addresses, and who may have each; none: every candidate.
    pub addresses: BTreeMap<IpAddr, Option<BTreeSet<NodeName>>>,
    /// This node can serve none of them, or is about to go.
    pub leaves: bool,
}

/// What the core remembers of it.
#[derive(Debug, Default)]
pub(super) struct Announcing {
    is_due: bool,
    /// What was told last,
    pub(super) told: Arc<Vec<SegmentPlan>>,
    /// and what became of it.
    pub(super) found: Announced,
    /// The owner of each address, and since when this node sees it so.
    pub(super) since: BTreeMap<IpAddr, (NodeName, Millis)>,
}

impl Core {
    /// Notes whether what is announced may have changed.
    pub(super) fn note_for_announcing(&mut self, changes: &BTreeSet<Change>) {
        self.announcing.is_due |= changes.iter().any(|change| match change {
            Change::Service(_) | Change::Node(_) | Change::Facts | Change::Withdrawn | Change::Proxy => true,
            Change::Object(kind) => matches!(kind, ObjectKind::AddressPool | ObjectKind::Node | ObjectKind::Service),
            Change::Known(kind) => *kind == StoreKind::Nodes,
            _ => false,
        });
    }

    /// Has addresses announced as they are now, once all that says so was read.
    pub(super) fn announce(&mut self) {
        let cluster = &self.tables.cluster;
        let kinds = [ObjectKind::Service, ObjectKind::EndpointSlice];
        let knows = self.tables.knows_pools() && kinds.into_iter().all(|kind| cluster.knows(kind));
        if !self.announcing.is_due || !knows || self.tables.knowledge(StoreKind::Nodes) != Knowledge::Synced {
            return;
        }
        self.announcing.is_due = false;
        let plans = if self.held { Vec::new() } else { self.segments() };
        if *self.announcing.told != plans {
            self.announcing.told = Arc::new(plans);
            self.outputs.push(Output::Announce(self.announcing.told.clone()));
        }
    }

    /// What became of it.
    pub(super) fn take_announced(&mut self, found: Announced) {
        let now = self.at.wall;
        for row in &found.rows {
            let before = self.announcing.found.rows.iter().find(|before| before.address == row.address);
            if row.conflict.is_some() && before.is_none_or(|before| before.conflict != row.conflict) {
                let mac = row.conflict.map(|mac| mac.to_string()).unwrap_or_default();
                let text =
                    format!("{} of a Service is at {mac} on {}, a machine that is no node", row.address, row.link);
                self.log(Level::Warn, format!("{text}: nobody here answers for it while that lasts"));
            }
            // Who should answer here and does not yet, or does still, is no owner.
            let here = row.owner.as_ref() == Some(&self.tables.node);
            let owner = row.owner.clone().filter(|_| row.conflict.is_none() && row.speaks == here);
            let since = self.announcing.since.get(&row.address);
            match owner {
                Some(owner) if since.is_some_and(|(of, _)| *of == owner) => {}
                Some(owner) => drop(self.announcing.since.insert(row.address, (owner, now))),
                None => drop(self.announcing.since.remove(&row.address)),
            }
        }
        for fault in found.faults.iter().filter(|fault| !self.announcing.found.faults.contains(fault)) {
            self.outputs.push(Output::Log {
                level: Level::Warn,
                text: format!("addresses of Services are not announced: {fault}"),
            });
        }
        self.announcing.since.retain(|address, _| found.rows.iter().any(|row| row.address == *address));
        self.announcing.found = found;
    }

    /// The segments that this node is on, those with something to announce.
    fn segments(&self) -> Vec<SegmentPlan> {
        let tables = &self.tables;
        let uplinks: Vec<Uplink<'_>> =
            Family::BOTH.into_iter().flat_map(|family| host::uplinks(tables, family)).collect();
        let mut segments: BTreeMap<&IfName, SegmentPlan> = BTreeMap::new();
        let own = tables.cluster.node.as_ref();
        let cannot =
            tables.withdrawn != Withdrawn::Nothing || !is_served(tables) || own.is_some_and(|node| node.leaving);
        for (address, services) in pool_addresses(&self.tables) {
            let inside = uplinks.iter().find(|uplink| uplink.address.prefix.contains(address));
            let first = || uplinks.iter().find(|uplink| Family::of(uplink.address.ip) == Family::of(address));
            let Some(uplink) = inside.or_else(first) else { continue };
            let Some(link) = tables.facts.links.get(uplink.link) else { continue };
            let (Some(mac), Some(eligible)) = (link.mac, self.eligible(uplink.link, &services)) else { continue };
            // Of two families on one link the first is by which candidates speak.
            let at =
                uplinks.iter().find(|other| other.link == uplink.link).map_or(uplink.address, |other| other.address);
            let segment = segments.entry(uplink.link).or_insert_with(|| SegmentPlan {
                link: uplink.link.clone(),
                mac,
                own: at.ip,
                candidates: self.candidates(at),
                addresses: BTreeMap::new(),
                leaves: cannot || !link.running,
            });
            segment.addresses.insert(address, eligible);
        }
        segments.into_values().collect()
    }

    /// Who may have an address on a link's segment: none at all where it is not announced there, `Some(None)` for every candidate.
    #[allow(clippy::option_option, reason = "each of the three is another answer")]
    fn eligible(
        &self,
        link: &IfName,
        services: &[(&Arc<Service>, &AddressPool)],
    ) -> Option<Option<BTreeSet<NodeName>>> {
        let (_, pool) = services.first()?;
        let on_link = |way: &&Announcement| {
            way.by == AnnouncedBy::L2 && (way.interfaces.is_empty() || way.interfaces.contains(link.as_str()))
        };
        let ways: Vec<&Announcement> = pool.announce.iter().filter(on_link).collect();
        if ways.is_empty() {
            return None;
        }
        let local: Vec<&ServiceName> = services
            .iter()
            .filter(|(service, _)| service.external_policy == TrafficPolicy::Local)
            .map(|(service, _)| &service.name)
            .collect();
        let chosen = |node: &NodeName| ways.iter().any(|way| chooses(&self.tables, way, node));
        let nodes = &self.tables.nodes;
        let everyone = local.is_empty() && nodes.keys().all(chosen);
        if everyone {
            return Some(None);
        }
        let slices = local.iter().flat_map(|name| self.tables.cluster.services.slices_of(name));
        let endpoints = slices.flat_map(|slice| &slice.endpoints).filter(|endpoint| endpoint.ready);
        let with_endpoints: BTreeSet<&NodeName> = endpoints.filter_map(|endpoint| endpoint.node.as_ref()).collect();
        let may = |name: &NodeName| local.is_empty() || with_endpoints.contains(name);
        Some(Some(nodes.keys().filter(|name| chosen(name) && may(name)).cloned().collect()))
    }

    /// The nodes on a segment.
    fn candidates(&self, at: NodeAddress) -> BTreeMap<NodeName, IpAddr> {
        let tables = &self.tables;
        let others = tables.nodes.iter().filter(|(name, _)| **name != tables.node).filter_map(|(name, row)| {
            let there = row.value.addresses.iter().find(|other| at.shares_subnet(other.ip) && other.ip != at.ip)?;
            Some((name.clone(), there.ip))
        });
        others.chain([(tables.node.clone(), at.ip)]).collect()
    }
}

/// Addresses that pools gave and nobody else takes packets for, with the Services that have each and the pool's word.
pub(super) fn pool_addresses(tables: &Tables) -> BTreeMap<IpAddr, Vec<(&Arc<Service>, &AddressPool)>> {
    let mut all: BTreeMap<IpAddr, Vec<(&Arc<Service>, &AddressPool)>> = BTreeMap::new();
    let cluster = &tables.cluster;
    for service in cluster.services.services().filter(|service| !service.ingress.is_empty() && gets_addresses(service))
    {
        for ingress in service.ingress.iter().filter(|ingress| !ingress.is_proxied) {
            if let Some(pool) = pool_of(tables, ingress.ip) {
                all.entry(ingress.ip).or_default().push((service, pool));
            }
        }
    }
    all
}

/// The pool that an address is of: of several the one that is asked first.
pub(super) fn pool_of(tables: &Tables, ip: IpAddr) -> Option<&AddressPool> {
    let pools = tables.cluster.pools.values().map(|row| row.value.as_ref());
    pools.filter(|pool| pool.gives(ip)).min_by(|a, b| a.order(b))
}

/// Whether packets for an address of a Service are sent on here: by us, or, where we serve no Services, by whoever does.
pub(super) fn is_served(tables: &Tables) -> bool {
    !tables.serves() || ripstop_desired::services::missing(tables).is_none()
}

/// Whether a node announces that way.
pub(super) fn chooses(tables: &Tables, way: &Announcement, node: &NodeName) -> bool {
    let labels = tables.labels_of(node);
    !labels.contains_key(EXCLUDED_LABEL) && (way.nodes.is_empty() || way.nodes.iter().any(|all| all.takes(&labels)))
}

/// Whether a Service gets its addresses of pools.
pub(super) fn gets_addresses(service: &Service) -> bool {
    Wanted::of(service).is_some()
}
