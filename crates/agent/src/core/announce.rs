//! What begins at this node and is told by BGP: one list, whoever has something told.
//!
//! Not here: to whom it is told (filters), and with which communities by what it is inside of (BgpConfiguration).
//!
//! Who has more to tell adds it to [`all`], and what it hangs on to `Core::note_for_bgp`. Of several that tell one prefix the first
//! one has it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use ripstop_objects::bgp::Community;
use ripstop_objects::pool::{AddressPool, AnnouncedBy};
use ripstop_objects::service::{Service, TrafficPolicy};
use ripstop_tables::{Tables, Withdrawn};
use ripstop_types::Prefix;

use super::balancers::{chooses, is_served, pool_addresses};

/// With it others are asked to prefer other ways (RFC 8326).
const GRACEFUL_SHUTDOWN: Community = Community::Standard(0xffff_0000);

/// A prefix that packets may be sent to this node for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Announcement {
    /// The prefix.
    pub(super) prefix: Prefix,
    /// Communities that it is told with, beside those of all that is inside of a range.
    pub(super) communities: Vec<Community>,
    /// Who is told.
    pub(super) to: Audience,
}

impl Announcement {
    /// Whether it is told for addresses of Services.
    pub(super) fn is_balanced(&self) -> bool {
        self.to != Audience::Everyone
    }
}

impl fmt::Display for Announcement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.prefix.fmt(f)?;
        for (before, community) in [" with "].into_iter().chain(std::iter::repeat(", ")).zip(&self.communities) {
            write!(f, "{before}{community}")?;
        }
        Ok(())
    }
}

/// Who is told of a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Audience {
    /// Nodes and all peers.
    Everyone,
    /// Peers of these names, or all that people named where none is said; no node.
    Outside(BTreeSet<Arc<str>>),
}

impl Audience {
    /// Whether a peer is told; none: a node.
    pub(super) fn has(&self, peer: Option<&str>) -> bool {
        match (self, peer) {
            (Self::Everyone, _) => true,
            (Self::Outside(_), None) => false,
            (Self::Outside(names), Some(peer)) => names.is_empty() || names.contains(peer),
        }
    }
}

/// All of them.
pub(super) fn all(tables: &Tables) -> Vec<Announcement> {
    ranges(tables).chain(balanced(tables)).collect()
}

/// This node's ranges, and single addresses that it borrowed.
fn ranges(tables: &Tables) -> impl Iterator<Item = Announcement> {
    let own = tables.ranges_of.get(&tables.node).into_iter().flatten();
    let own = own.filter(|(network, _)| tables.networks.contains_key(network));
    own.map(|(_, prefix)| Announcement { prefix: *prefix, communities: Vec::new(), to: Audience::Everyone })
}

/// How well this node serves an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Serving {
    /// Endpoints serve that are about to end, or the node is.
    Ends,
    Well,
}

/// What is told of one prefix: to these peers, or to all.
type Told = (Serving, BTreeSet<Community>, Option<BTreeSet<Arc<str>>>);

/// Addresses of Services that pools have told by BGP, where this node serves them. Those with one prefix are told together.
fn balanced(tables: &Tables) -> impl Iterator<Item = Announcement> {
    let mut told: BTreeMap<Prefix, Told> = BTreeMap::new();
    for (address, services) in pool_addresses(tables) {
        let Some(serving) = serving(tables, &services) else { continue };
        let ways = services.first().into_iter().flat_map(|(_, pool)| &pool.announce);
        for way in ways.filter(|way| way.by == AnnouncedBy::Bgp && chooses(tables, way, &tables.node)) {
            let new = || (serving, BTreeSet::new(), Some(BTreeSet::new()));
            let (best, communities, peers) = told.entry(way.prefix(address)).or_insert_with(new);
            *best = serving.max(*best);
            communities.extend(way.communities.iter().copied());
            match peers {
                Some(peers) if !way.peers.is_empty() => peers.extend(way.peers.iter().cloned()),
                _ => *peers = None,
            }
        }
    }
    told.into_iter().map(|(prefix, (serving, communities, peers))| Announcement {
        prefix,
        communities: communities.into_iter().chain((serving == Serving::Ends).then_some(GRACEFUL_SHUTDOWN)).collect(),
        to: Audience::Outside(peers.unwrap_or_default()),
    })
}

/// Why this node does not tell of an address of a pool that these Services have.
pub(super) fn why_not(tables: &Tables, pool: &AddressPool, services: &[&Arc<Service>]) -> &'static str {
    let mut ways = pool.announce.iter().filter(|way| way.by == AnnouncedBy::Bgp);
    if !ways.any(|way| chooses(tables, way, &tables.node)) {
        return "by its pool others do (nodeSelectors), or the node is excluded from load balancers by a label";
    }
    if tables.withdrawn != Withdrawn::Nothing {
        return "what this node announces is taken out (`ripstop uninstall`)";
    }
    if !is_served(tables) {
        return "its proxy of Services cannot work here";
    }
    match services.iter().any(|service| service.external_policy == TrafficPolicy::Local) {
        true => "none of its endpoints on this node is ready",
        false => "none of its endpoints is ready",
    }
}

/// How this node serves an address that these Services have; none: not at all.
fn serving(tables: &Tables, services: &[(&Arc<Service>, &AddressPool)]) -> Option<Serving> {
    if !is_served(tables) || tables.withdrawn != Withdrawn::Nothing {
        return None;
    }
    let endpoints = services.iter().flat_map(|(service, _)| {
        let local = service.external_policy == TrafficPolicy::Local;
        let all = tables.cluster.services.slices_of(&service.name).flat_map(|slice| &slice.endpoints);
        all.filter(move |endpoint| !local || endpoint.node.as_ref() == Some(&tables.node))
    });
    let of = endpoints.filter_map(|endpoint| match (endpoint.ready, endpoint.serving) {
        (true, _) => Some(Serving::Well),
        (false, true) => endpoint.terminating.then_some(Serving::Ends),
        _ => None,
    });
    let leaves = tables.cluster.node.as_ref().is_some_and(|node| node.leaving);
    of.max().map(|serving| if leaves { Serving::Ends } else { serving })
}
