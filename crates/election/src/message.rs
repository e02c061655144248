//! What candidates tell each other.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ripstop_types::NodeName;

/// Whom a node votes for, by address. An address without a candidate that could have it has no vote.
pub type Votes = BTreeMap<IpAddr, NodeName>;

/// One message. It is sent at every interval, and at once when something in it changes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Message {
    /// Who speaks.
    pub from: NodeName,
    /// Which start of its program: greater is later.
    pub run: u64,
    /// Its number, greater than that of any earlier one of this run.
    pub seq: u64,
    /// Digest of the candidates that it knows.
    pub list: u64,
    /// Run and number of the last message it had from who receives this; zeros if there was none.
    pub echo: (u64, u64),
    /// The generation of the receiver's votes that it knows.
    pub knows: u64,
    /// The generation of its own votes, one more at each change.
    pub generation: u64,
    /// These votes, where the receiver may not know them.
    pub votes: Option<Arc<Votes>>,
    /// The candidates that it sees alive, of those that it can judge.
    pub sees: BTreeSet<NodeName>,
    /// Those of them that came back lately: others are preferred to them.
    pub recent: BTreeSet<NodeName>,
    /// Candidates that it heard once and not for a detection time: what it had granted them has ended.
    pub silent: BTreeSet<NodeName>,
    /// It is drained, or its interface is not well: nobody should choose it.
    pub leaves: bool,
    /// Addresses for which it began to speak within the last detection time.
    pub speaks: Vec<IpAddr>,
}
