//! When a range may be given out again.
//!
//! Three statements free a range, and nothing else: its owner gives it back, its node is deleted, an operator says so. The
//! last two state that *the machine no longer runs pods of this range*: no other node can know that. A machine that
//! comes back later has another boot, and an agent of another boot uses nothing before the store confirmed it.

use ripstop_types::{NodeName, Prefix};

use super::claim::Claim;
use super::liveness::Life;

/// Who asks for a range to be freed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReleaseCause {
    /// The node itself, which gives it back.
    Owner,
    /// The node's record was deleted.
    NodeDeleted,
    /// `ripstop ipam release`, given on any node.
    Operator,
}

/// What is known when the question is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseFacts {
    /// The node the question is put to.
    pub asked: NodeName,
    /// Its machine.
    pub machine: std::sync::Arc<str>,
    /// Count of leases in the range, where known: the owner knows, nobody else does.
    pub leases: Option<usize>,
    /// One of those leases, to name it.
    pub example: Option<String>,
    /// The owner's life as observed.
    pub life: Life,
    /// Whether the owner's node record exists; `None` if nodes are not synced.
    pub node_exists: Option<bool>,
}

/// Why a range stays with its owner.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseRefused {
    /// Pods have addresses of it.
    #[error("range {range} of node {node} has {count} leases ({example}); remove those pods first")]
    Leased {
        /// The range.
        range: Prefix,
        /// Its owner.
        node: NodeName,
        /// How many.
        count: usize,
        /// One of them.
        example: String,
    },
    /// The owner knows its leases, and was not asked.
    #[error("range {range}: node {node} is {life}; ask it itself, there: `ripstop ipam release {range}`")]
    Alive {
        /// The range.
        range: Prefix,
        /// Its owner.
        node: NodeName,
        /// What was observed.
        life: Life,
    },
    /// Too early to tell.
    #[error("range {range}: whether node {node} is alive is not known yet ({life}); try again in a minute")]
    Unknown {
        /// The range.
        range: Prefix,
        /// Its owner.
        node: NodeName,
        /// What was observed.
        life: Life,
    },
    /// "Deleted" was the reason, and it is not.
    #[error("range {range}: the record of node {node} exists; delete the node, or `ripstop ipam release {range}`")]
    NodeExists {
        /// The range.
        range: Prefix,
        /// Its owner.
        node: NodeName,
    },
    /// Only the owner gives back.
    #[error("range {range} belongs to node {node} (machine {machine}), not to this node")]
    NotOwner {
        /// The range.
        range: Prefix,
        /// Its owner.
        node: NodeName,
        /// The owner's machine.
        machine: std::sync::Arc<str>,
    },
}

/// Whether the claim of `range` may be deleted. The deletion itself must be conditional on the claim's revision that
/// was judged here: a machine that came back meanwhile has renewed its claim, and keeps it.
///
/// # Errors
/// The reason it may not.
pub fn releasable(
    range: Prefix,
    claim: &Claim,
    cause: ReleaseCause,
    facts: &ReleaseFacts,
) -> Result<(), ReleaseRefused> {
    let node = claim.claimant.node.clone();
    let own = facts.asked == node && facts.machine == claim.claimant.machine;
    if own {
        return match facts.leases {
            Some(0) => Ok(()),
            Some(count) => {
                let example = facts.example.clone().unwrap_or_else(|| "names unknown".into());
                Err(ReleaseRefused::Leased { range, node, count, example })
            }
            None => Err(ReleaseRefused::Unknown { range, node, life: facts.life }),
        };
    }
    match cause {
        ReleaseCause::Owner => {
            return Err(ReleaseRefused::NotOwner { range, node, machine: claim.claimant.machine.clone() });
        }
        ReleaseCause::NodeDeleted if facts.node_exists == Some(true) => {
            return Err(ReleaseRefused::NodeExists { range, node });
        }
        ReleaseCause::NodeDeleted if facts.node_exists.is_none() => {
            return Err(ReleaseRefused::Unknown { range, node, life: facts.life });
        }
        // The node was installed anew: it is alive, and the machine that held this is not it.
        ReleaseCause::Operator if facts.asked == node => return Ok(()),
        ReleaseCause::NodeDeleted | ReleaseCause::Operator => {}
    }
    match facts.life {
        Life::Stale(_) => Ok(()),
        Life::Fresh(_) => Err(ReleaseRefused::Alive { range, node, life: facts.life }),
        Life::Unknown => Err(ReleaseRefused::Unknown { range, node, life: facts.life }),
    }
}
