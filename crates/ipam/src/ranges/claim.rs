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
    /// One address of the node's block, about to be offered. It means nothing yet.
    Offering,
    /// One address of the node's block that another may borrow: the node itself does not give it out.
    Offered,
    /// One address of another node's block that the node uses, or may. Peers make a route from it.
    Borrowed,
    /// One address of another node's block that the node asks for.
    Asked,
    /// The answer of the block's node to that: somebody has it.
    Refused,
}

impl ClaimState {
    /// Whether the claim is of one address of a block; see [`crate::lending`].
    #[must_use]
    pub fn is_lending(self) -> bool {
        !matches!(self, Self::Tentative | Self::Held)
    }

    /// Whether no other node may claim a range that overlaps.
    #[must_use]
    pub fn is_firm(self) -> bool {
        matches!(self, Self::Held | Self::Offered | Self::Borrowed)
    }
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
    /// Of an offer: the only node that may take it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<NodeName>,
    /// For whom an address was borrowed or is asked for; of a refusal: who has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<Arc<str>>,
}

impl Claim {
    /// A claim without more words.
    #[must_use]
    pub fn new(claimant: Claimant, state: ClaimState) -> Self {
        Self { claimant, state, to: None, holder: None }
    }
}

/// A claim with the store's revision of its last change.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stored {
    /// When the store last changed it.
    pub revision: Revision,
    /// The claim.
    pub claim: Claim,
}
