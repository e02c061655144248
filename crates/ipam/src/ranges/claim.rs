//! The record that a node owns a range.

use std::fmt;
use std::sync::Arc;

use ripstop_types::{NodeName, Prefix, Revision};
use serde::{Deserialize, Serialize};

/// Who writes a claim: one run of the agent, on one boot of one machine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Claimant {
    /// The node's name.
    pub node: NodeName,
    /// The machine's identity: kept over reboots, not shared by a copied disk image, and different on every machine.
    /// A machine that was installed anew is another machine, though its name is the same.
    pub machine: Arc<str>,
    /// Changes whenever the pods of the machine cannot have survived (kept on tmpfs, beside the leases).
    pub boot: Arc<str>,
    /// Different in every start of the agent within one boot.
    pub run: u64,
}

impl Claimant {
    /// Whether both are the same node on the same machine, whatever boot and run.
    #[must_use]
    pub fn same_machine(&self, other: &Self) -> bool {
        self.node == other.node && self.machine == other.machine
    }

    /// Whether both are the same boot of the same machine, whatever run.
    #[must_use]
    pub fn same_boot(&self, other: &Self) -> bool {
        self.same_machine(other) && self.boot == other.boot
    }
}

impl fmt::Display for Claimant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (machine {})", self.node, self.machine)
    }
}

/// How far a claim has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClaimState {
    /// Written, but claims of overlapping ranges were not looked for yet. Nobody uses the range.
    Tentative,
    /// The node uses the range, or may: peers make their routes from claims in this state.
    Held,
}

/// The key of a claim: a range of a network.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClaimKey {
    /// The network.
    pub network: Arc<str>,
    /// The range.
    pub range: Prefix,
}

impl ClaimKey {
    /// The key of a range of a network.
    #[must_use]
    pub fn new(network: &str, range: Prefix) -> Self {
        Self { network: network.into(), range }
    }
}

impl fmt::Display for ClaimKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of network {}", self.range, self.network)
    }
}

/// The value of a claim in the store. It has no expiry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Claim {
    /// Who wrote it last.
    #[serde(flatten)]
    pub claimant: Claimant,
    /// How far it has come.
    pub state: ClaimState,
}

/// A claim with the store's revision of its last change.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stored {
    /// When the store last changed it.
    pub revision: Revision,
    /// The claim.
    pub claim: Claim,
}
