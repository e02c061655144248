//! Candidates and addresses, and what follows from them for everybody alike.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ripstop_types::{Fnv1a, Mac, NodeName};

/// Up to so many candidates all are electors and each watches all.
pub const ALL_ELECT: usize = 16;

/// Electors where there are more candidates. An odd number: one more would help no majority.
pub const ELECTORS: usize = 15;

/// On the ring a node is watched by so many before it and behind it.
const NEIGHBOURS: usize = 2;

/// What is to be decided: the same for all nodes, as soon as all know it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Table {
    /// Who is on the segment, with the hardware address it speaks from.
    pub candidates: BTreeMap<NodeName, Mac>,
    /// Each address and who may have it: all candidates, or those with an endpoint that is ready.
    pub addresses: BTreeMap<IpAddr, Option<BTreeSet<NodeName>>>,
}

impl Table {
    /// The candidate of the highest rendezvous hash (Thaler, Ravishankar 1998) among those that are live and may have the address.
    #[must_use]
    pub fn winner<'a>(&self, address: IpAddr, live: impl IntoIterator<Item = &'a NodeName>) -> Option<&'a NodeName> {
        let eligible = self.addresses.get(&address)?.as_ref();
        let may = |node: &&NodeName| {
            self.candidates.contains_key(*node) && eligible.is_none_or(|eligible| eligible.contains(*node))
        };
        live.into_iter().filter(may).max_by_key(|node| (weight(address, node), *node))
    }

    /// Who votes.
    #[must_use]
    pub fn electors(&self) -> BTreeSet<NodeName> {
        let mut all: Vec<&NodeName> = self.candidates.keys().collect();
        if all.len() > ALL_ELECT {
            all.sort_by_key(|node| (std::cmp::Reverse(place(node)), *node));
            all.truncate(ELECTORS);
        }
        all.into_iter().cloned().collect()
    }

    /// Who watches a candidate.
    #[must_use]
    pub fn watchers(&self, node: &NodeName) -> BTreeSet<NodeName> {
        let others = || self.candidates.keys().filter(|other| *other != node);
        if self.candidates.len() <= ALL_ELECT {
            return others().cloned().collect();
        }
        let mut ring: Vec<&NodeName> = self.candidates.keys().collect();
        ring.sort_by_key(|node| (place(node), *node));
        let Some(at) = ring.iter().position(|other| *other == node) else { return BTreeSet::new() };
        let steps = (1..=NEIGHBOURS).flat_map(|step| [at + step, at + ring.len() - step]);
        steps.filter_map(|step| ring.get(step % ring.len())).map(|node| (*node).clone()).collect()
    }

    /// Whom a candidate watches.
    #[must_use]
    pub fn watched_by(&self, node: &NodeName) -> BTreeSet<NodeName> {
        // Neighbourhood on the ring goes both ways.
        self.watchers(node)
    }

    /// A digest of the candidates: those who vote must mean the same by a majority.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let names = self.candidates.keys().flat_map(|node| node.as_str().bytes().chain([0]));
        u64::of(names)
    }

    /// How many votes are needed.
    #[must_use]
    pub fn majority(&self, lone_speaks: bool) -> usize {
        let electors = self.candidates.len().min(if self.candidates.len() > ALL_ELECT { ELECTORS } else { ALL_ELECT });
        if electors == 2 && lone_speaks { 1 } else { electors / 2 + 1 }
    }
}

/// Where a node is on the ring.
fn place(node: &NodeName) -> u64 {
    mixed(u64::of(node.as_str().bytes()))
}

fn weight(address: IpAddr, node: &NodeName) -> u64 {
    let hash = u64::of(node.as_str().bytes()).and([0]);
    mixed(match address {
        IpAddr::V4(ip) => hash.and(ip.octets()),
        IpAddr::V6(ip) => hash.and(ip.octets()),
    })
}

/// Spreads a hash over all bits (the finaliser of SplitMix64; Steele, Lea, Flood 2014).
fn mixed(h: u64) -> u64 {
    let h = (h ^ (h >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let h = (h ^ (h >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    h ^ (h >> 31)
}
