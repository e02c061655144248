//! The decision process (RFC 4271 section 9.1.2.2, with RFC 4456 section 9): which of several paths is used, and at which step
//! each other one lost.
//!
//! Paths are struck out step by step, so the outcome does not depend on the order in which they came.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use crate::wire::Attributes;

/// LOCAL_PREF of a route that has none.
pub const DEFAULT_PREFERENCE: u32 = 100;

/// A path as it is compared.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// Its place among the prefix's paths.
    pub place: usize,
    /// What it says.
    pub attributes: &'a Attributes,
    /// It begins at this speaker.
    pub local: bool,
    /// It came from an external peer.
    pub external: bool,
    /// What it costs to reach its next hop.
    pub cost: u32,
    /// The router id of the peer that it came from.
    pub router_id: Ipv4Addr,
    /// That peer's address.
    pub address: IpAddr,
    /// The identifier that the peer gave it.
    pub theirs: u32,
}

/// A step of the process, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// What begins here is preferred.
    Local,
    /// Higher LOCAL_PREF.
    Preference,
    /// Shorter AS_PATH.
    PathLength,
    /// Lower ORIGIN.
    Origin,
    /// Lower MULTI_EXIT_DISC of the same neighbouring AS.
    Med,
    /// From an external peer rather than an internal one.
    External,
    /// Nearer next hop.
    Cost,
    /// Lower router id, or ORIGINATOR_ID. Up to here paths are equal enough to be used together.
    RouterId,
    /// Shorter CLUSTER_LIST.
    ClusterList,
    /// Lower address of the peer.
    Address,
    /// Lower path identifier.
    Identifier,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "another begins at this node",
            Self::Preference => "another has a higher local preference",
            Self::PathLength => "another has a shorter AS path",
            Self::Origin => "another has a lower origin",
            Self::Med => "another of the same neighbouring AS has a lower MED",
            Self::External => "another came from an external peer",
            Self::Cost => "another has a nearer next hop",
            Self::RouterId => "another has a lower router id or originator",
            Self::ClusterList => "another came through fewer clusters",
            Self::Address => "another came from a lower address",
            Self::Identifier => "another has a lower path identifier",
        })
    }
}

/// The outcome, by places.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decision {
    /// The best one.
    pub best: Option<usize>,
    /// All that may be used together, the best one first.
    pub equal: Vec<usize>,
    /// Each other one, and where it lost.
    pub lost: Vec<(usize, Step)>,
}

/// How many ASes' MEDs are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MedScope {
    /// Those of paths through the same neighbouring AS, as the RFC says.
    #[default]
    SameAs,
    /// All.
    Always,
}

/// Decides.
#[must_use]
pub fn decide(mut left: Vec<Candidate<'_>>, med: MedScope) -> Decision {
    let mut lost = Vec::new();
    let value = |one: &Candidate<'_>| one.attributes.med.unwrap_or(0);
    strike(&mut left, &mut lost, Step::Local, |one| !one.local);
    strike(&mut left, &mut lost, Step::Preference, |one| {
        u32::MAX - one.attributes.local_pref.unwrap_or(DEFAULT_PREFERENCE)
    });
    strike(&mut left, &mut lost, Step::PathLength, |one| one.attributes.as_path.length());
    strike(&mut left, &mut lost, Step::Origin, |one| one.attributes.origin);
    match med {
        MedScope::Always => strike(&mut left, &mut lost, Step::Med, value),
        MedScope::SameAs => {
            let all = left.clone();
            let beaten = |one: &Candidate<'_>| {
                let neighbour = one.attributes.as_path.first();
                all.iter().any(|other| other.attributes.as_path.first() == neighbour && value(other) < value(one))
            };
            lost.extend(left.iter().filter(|one| beaten(one)).map(|one| (one.place, Step::Med)));
            left.retain(|one| !beaten(one));
        }
    }
    strike(&mut left, &mut lost, Step::External, |one| !one.external);
    strike(&mut left, &mut lost, Step::Cost, |one| one.cost);
    let mut equal: Vec<usize> = left.iter().map(|one| one.place).collect();
    strike(&mut left, &mut lost, Step::RouterId, |one| one.attributes.originator_id.unwrap_or(one.router_id));
    strike(&mut left, &mut lost, Step::ClusterList, |one| one.attributes.cluster_list.len());
    strike(&mut left, &mut lost, Step::Address, |one| one.address);
    strike(&mut left, &mut lost, Step::Identifier, |one| one.theirs);
    let best = left.first().map(|one| one.place);
    equal.sort_by_key(|place| (Some(*place) != best, *place));
    Decision { best, equal, lost }
}

/// Strikes out all that have not the lowest key.
fn strike<K: Ord>(
    left: &mut Vec<Candidate<'_>>,
    lost: &mut Vec<(usize, Step)>,
    step: Step,
    key: impl Fn(&Candidate<'_>) -> K,
) {
    if left.len() < 2 {
        return;
    }
    let Some(lowest) = left.iter().map(&key).min() else { return };
    lost.extend(left.iter().filter(|one| key(one) != lowest).map(|one| (one.place, step)));
    left.retain(|one| key(one) == lowest);
}
