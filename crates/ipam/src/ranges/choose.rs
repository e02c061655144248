//! The choice of a range among the candidates of a network.

use std::net::IpAddr;
use std::sync::Arc;

use ripstop_types::{Fnv1a as _, NodeName, Prefix};
use serde::{Deserialize, Serialize};

use super::claim::{Claim, ClaimKey, ClaimState, Claimant};

/// What a node wants of a network, in one family.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RangeRequest {
    /// The network's name.
    pub network: Arc<str>,
    /// The network's range, out of which nodes get theirs.
    pub pool: Prefix,
    /// Length of a node's range in bits.
    pub len: u8,
    /// The first candidate begins here or later (Flannel's `SubnetMin`).
    pub min: Option<IpAddr>,
    /// The last candidate begins here or earlier (Flannel's `SubnetMax`).
    pub max: Option<IpAddr>,
    /// Candidates that overlap one of these are never taken.
    pub exclude: Vec<Prefix>,
    /// The range the node had before: taken again if it can be, otherwise another is chosen.
    pub preferred: Option<Prefix>,
    /// The range something else gave to the node (`podCIDR`): this one or none. Its length may differ from `len`.
    pub assigned: Option<Prefix>,
    /// How many ranges the node wants of this pool, which is one of several of the network (mode `blocks`). `None`: one, and
    /// the pool is the family's only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocks: Option<u32>,
}

impl RangeRequest {
    /// A request for a range of `len` bits in `pool` without any limits.
    pub fn new(network: &str, pool: Prefix, len: u8) -> Self {
        Self {
            network: network.into(),
            pool,
            len,
            min: None,
            max: None,
            exclude: Vec::new(),
            preferred: None,
            assigned: None,
            blocks: None,
        }
    }

    /// Whether no candidate is left, as far as the claims tell.
    #[must_use]
    pub fn is_exhausted<'a>(&self, claims: impl IntoIterator<Item = (&'a ClaimKey, &'a Claim)>) -> bool {
        let in_pool = claims.into_iter().filter(|(_, claim)| blocks(claim.state));
        let in_pool = in_pool.map(|(key, _)| key.range).filter(|range| self.pool.overlaps(range));
        let in_pool: Vec<Prefix> = in_pool.collect();
        self.free(0, in_pool.iter()).is_none()
    }

    /// The first candidate at or behind `start` (wrapping) that overlaps none of these.
    fn free<'a>(&'a self, start: u128, taken: impl Iterator<Item = &'a Prefix>) -> Option<Prefix> {
        let (first, last) = self.bounds()?;
        let start = first + start % (last - first).saturating_add(1).max(1);
        let blocked = taken.chain(&self.exclude).filter_map(|range| self.span(range)).collect();
        let blocked = merged(blocked);
        let index = gap(&blocked, start, last).or_else(|| gap(&blocked, first, last))?;
        self.pool.subnet(self.len, index)
    }

    /// Whether `range` is a candidate, held or not.
    #[must_use]
    pub fn admits(&self, range: &Prefix) -> bool {
        if let Some(assigned) = self.assigned {
            return assigned == *range && self.pool.covers(range);
        }
        let Some((first, last)) = self.bounds() else { return false };
        range.len() == self.len
            && self.pool.covers(range)
            && (first..=last).contains(&self.index(range.addr()))
            && !self.exclude.iter().any(|excluded| excluded.overlaps(range))
    }

    /// Indexes of the first and last candidate, exclusions aside.
    fn bounds(&self) -> Option<(u128, u128)> {
        let mut first = 0;
        let mut last = self.pool.count_of(self.len).checked_sub(1)?;
        if let Some(min) = self.min.filter(|min| *min > self.pool.addr()) {
            let inside = self.pool.contains(min);
            let index = if inside { self.index(min) } else { return None };
            let starts_there = self.pool.subnet(self.len, index).is_some_and(|range| range.addr() == min);
            first = if starts_there { index } else { index.checked_add(1)? };
        }
        if let Some(max) = self.max.filter(|max| *max < self.pool.last()) {
            last = if self.pool.contains(max) { self.index(max) } else { return None };
        }
        (first <= last).then_some((first, last))
    }

    /// Index of the candidate that contains an address of the pool.
    fn index(&self, ip: IpAddr) -> u128 {
        let host_bits = u32::from(self.pool.family().bits().saturating_sub(self.len));
        self.pool.offset_of(ip).unwrap_or(0).checked_shr(host_bits).unwrap_or(0)
    }

    /// Indexes of the candidates that overlap `other`.
    fn span(&self, other: &Prefix) -> Option<(u128, u128)> {
        if other.covers(&self.pool) {
            Some((0, u128::MAX))
        } else if self.pool.covers(other) {
            Some((self.index(other.addr()), self.index(other.last())))
        } else {
            None
        }
    }
}

/// Whether a claim in this state keeps others from an overlapping range.
fn blocks(state: ClaimState) -> bool {
    state == ClaimState::Tentative || state.is_firm()
}

/// What [`choose`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// The store has a claim of this machine for it already.
    Held(Prefix),
    /// Free, as far as the claims tell: try to claim it.
    Claim(Prefix),
}

/// Why a node gets no range.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, thiserror::Error)]
pub enum RangeFault {
    /// Every candidate overlaps a claim.
    #[error(
        "network {network}: no free range of /{len} in {pool}: {held} claims hold all {total}; release the ranges of nodes \
         that are gone (`ripstop ipam release RANGE`) or make the network larger"
    )]
    Full {
        /// The network.
        network: Arc<str>,
        /// Its range.
        pool: Prefix,
        /// The length wanted.
        len: u8,
        /// Count of candidates, without the excluded.
        total: u128,
        /// Count of claims that overlap the pool.
        held: usize,
    },
    /// The pool has no range of this length.
    #[error("network {network}: {pool} has no ranges of /{len}: the length must be {} to {}", .pool.len(), .pool.family().bits())]
    NoneOfLength {
        /// The network.
        network: Arc<str>,
        /// Its range.
        pool: Prefix,
        /// The length wanted.
        len: u8,
    },
    /// First, last and excluded ranges leave no candidate.
    #[error("network {network}: the first and last range and the exclusions leave no range of /{len} in {pool}")]
    NoCandidate {
        /// The network.
        network: Arc<str>,
        /// Its range.
        pool: Prefix,
        /// The length wanted.
        len: u8,
    },
    /// The assigned range overlaps a claim of another node.
    #[error(
        "network {network}: range {range} was assigned to this node, but node {holder} holds {claimed}; if {holder} is gone, \
         `ripstop ipam release {claimed}`"
    )]
    AssignedTaken {
        /// The network.
        network: Arc<str>,
        /// The range assigned.
        range: Prefix,
        /// The claim in the way.
        claimed: Prefix,
        /// Its node.
        holder: NodeName,
    },
    /// The assigned range is not part of the network.
    #[error("network {network}: range {range} was assigned to this node, but is not inside {pool}")]
    AssignedOutside {
        /// The network.
        network: Arc<str>,
        /// The range assigned.
        range: Prefix,
        /// The network's range.
        pool: Prefix,
    },
    /// While this agent held a range, its machine claimed it in another boot: the machine exists twice.
    #[error(
        "range {range}: another machine with the identity of this one ({machine}) claimed it as node {node}; a copied disk? \
         Give each machine its own /etc/machine-id and name, then restart both agents"
    )]
    Copied {
        /// The name of both.
        node: NodeName,
        /// The range of both.
        range: Prefix,
        /// The identity of both.
        machine: Arc<str>,
    },
    /// Another machine with this node's name has a claim.
    #[error(
        "node name {node}: range {range} is held by another machine of this name ({machine}); give one of the two another \
         name, or, if the machine was installed anew, `ripstop ipam release {range}`"
    )]
    Twin {
        /// The name of both.
        node: NodeName,
        /// The other's range.
        range: Prefix,
        /// The other's identity.
        machine: Arc<str>,
    },
}

/// Chooses the range of the node `me`, with the claims of all nodes (whatever their network) given.
///
/// A claim of this machine that the request admits wins: the preferred one, otherwise the lowest. Else the preferred
/// range if it is free, else the first free candidate behind [`start_of`] the node's name, wrapping. Overlapping claims
/// of any length block a candidate; this machine's own other claims do too. Cost: n log n in the claims of the pool.
///
/// # Errors
/// See [`RangeFault`].
pub fn choose<'a>(
    request: &RangeRequest,
    me: &Claimant,
    claims: impl IntoIterator<Item = (&'a ClaimKey, &'a Claim)>,
) -> Result<Choice, RangeFault> {
    choose_another(request, me, claims, |_| false)
}

/// The same for a node that has some ranges of the pool already: those are not chosen again.
pub(super) fn choose_another<'a>(
    request: &RangeRequest,
    me: &Claimant,
    claims: impl IntoIterator<Item = (&'a ClaimKey, &'a Claim)>,
    has: impl Fn(&ClaimKey) -> bool,
) -> Result<Choice, RangeFault> {
    let network = || Arc::clone(&request.network);
    let mut held: Option<Prefix> = None;
    let mut in_pool: Vec<(Prefix, &Claim)> = Vec::new();
    for (key, claim) in claims {
        let range = &key.range;
        let assigned = request.assigned.is_some_and(|assigned| assigned.overlaps(range));
        if (!assigned && !request.pool.overlaps(range)) || !blocks(claim.state) {
            continue;
        }
        let may_be_mine = !claim.state.is_lending() && !has(key);
        if may_be_mine && claim.claimant.same_machine(me) && key.network == request.network && request.admits(range) {
            let better = held.is_none_or(|held| {
                Some(*range) == request.preferred || (Some(held) != request.preferred && *range < held)
            });
            held = if better { Some(*range) } else { held };
        }
        in_pool.push((*range, claim));
    }
    if let Some(range) = held {
        return Ok(Choice::Held(range));
    }
    if let Some(range) = request.assigned {
        if !request.pool.covers(&range) {
            return Err(RangeFault::AssignedOutside { network: network(), range, pool: request.pool });
        }
        return match in_pool.iter().find(|(claimed, _)| claimed.overlaps(&range)) {
            None => Ok(Choice::Claim(range)),
            Some((claimed, claim)) if claim.claimant.node == me.node => {
                let machine = Arc::clone(&claim.claimant.machine);
                Err(RangeFault::Twin { node: me.node.clone(), range: *claimed, machine })
            }
            Some((claimed, claim)) => {
                let holder = claim.claimant.node.clone();
                Err(RangeFault::AssignedTaken { network: network(), range, claimed: *claimed, holder })
            }
        };
    }
    if let Some(range) = request.preferred.filter(|range| request.admits(range))
        && !in_pool.iter().any(|(claimed, _)| claimed.overlaps(&range))
    {
        return Ok(Choice::Claim(range));
    }
    first_free(request, me, &in_pool).map(Choice::Claim)
}

/// Where the search for a free range begins among `count` candidates: FNV-1a, 64 bits, over the bytes of the node's
/// name, then the finaliser of MurmurHash3 (fmix64), modulo `count`. The same in every build, so that a node whose claim was lost asks for the same range.
#[must_use]
pub fn start_of(node: &NodeName, count: u128) -> u128 {
    let mut hash = u64::of(node.as_str().bytes());
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^= hash >> 33;
    u128::from(hash) % count.max(1)
}

/// The first candidate behind the node's start that nothing overlaps.
fn first_free(request: &RangeRequest, me: &Claimant, claims: &[(Prefix, &Claim)]) -> Result<Prefix, RangeFault> {
    let (network, pool, len) = (Arc::clone(&request.network), request.pool, request.len);
    if pool.count_of(len) == 0 {
        return Err(RangeFault::NoneOfLength { network, pool, len });
    }
    let Some((first, last)) = request.bounds() else {
        return Err(RangeFault::NoCandidate { network, pool, len });
    };
    let excluded = merged(request.exclude.iter().filter_map(|range| request.span(range)).collect());
    let total = (last - first).saturating_add(1).saturating_sub(covered(&excluded, first, last));
    if total == 0 {
        return Err(RangeFault::NoCandidate { network, pool, len });
    }
    let start = start_of(&me.node, (last - first).saturating_add(1));
    let full = RangeFault::Full { network, pool, len, total, held: claims.len() };
    request.free(start, claims.iter().map(|(range, _)| range)).ok_or(full)
}

/// Sorts spans (both ends inside) and joins those that touch.
fn merged(mut spans: Vec<(u128, u128)>) -> Vec<(u128, u128)> {
    spans.sort_unstable();
    let mut joined: Vec<(u128, u128)> = Vec::with_capacity(spans.len());
    for (from, to) in spans {
        match joined.last_mut() {
            Some((_, end)) if from <= end.saturating_add(1) => *end = (*end).max(to),
            _ => joined.push((from, to)),
        }
    }
    joined
}

/// Count of indexes from `first` to `last` inside joined spans.
fn covered(spans: &[(u128, u128)], first: u128, last: u128) -> u128 {
    spans
        .iter()
        .filter(|(from, to)| *from <= last && *to >= first)
        .fold(0u128, |sum, (from, to)| sum.saturating_add((*to).min(last) - (*from).max(first) + 1))
}

/// The first index from `first` to `last` outside joined spans.
fn gap(spans: &[(u128, u128)], first: u128, last: u128) -> Option<u128> {
    let at = spans.partition_point(|(_, to)| *to < first);
    let free = match spans.get(at) {
        Some((from, to)) if *from <= first => to.checked_add(1)?,
        _ => first,
    };
    (free <= last).then_some(free)
}
