//! What an agent keeps for its next start: the cluster's records as last read.

use std::sync::Arc;

use ripstop_ipam::ranges::RangeSnapshot;
use ripstop_types::{NodeName, Revision};
use serde::{Deserialize, Serialize};

use crate::{NexthopIds, StoreKind};

/// Version of the format. A snapshot of another version is not read: the store is asked instead.
pub const SNAPSHOT_VERSION: u32 = 1;

/// A snapshot of the tables.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// [`SNAPSHOT_VERSION`].
    pub version: u32,
    /// The node it belongs to.
    pub node: NodeName,
    /// Kinds that were complete when it was taken.
    pub known: Vec<StoreKind>,
    /// The records.
    pub records: Vec<SnapshotRecord>,
    /// Nexthop ids in use.
    pub nexthop_ids: NexthopIds,
    /// The ranges this node holds.
    pub ranges: Option<RangeSnapshot>,
}

/// One record of the store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SnapshotRecord {
    /// Its kind.
    pub kind: StoreKind,
    /// Its key.
    pub key: Arc<str>,
    /// Its value.
    pub value: serde_json::Value,
    /// Its revision.
    pub revision: Revision,
}

/// Why a snapshot is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotFault {
    /// Not a snapshot, or torn.
    #[error("the snapshot cannot be read ({0}); it is set aside and the store is asked instead")]
    Malformed(String),
    /// Of another version.
    #[error("the snapshot has version {found}, this agent reads {SNAPSHOT_VERSION}; the store is asked instead")]
    Version {
        /// The version it has.
        found: u32,
    },
    /// Of another node.
    #[error("the snapshot belongs to node {found}, this is {node}; the store is asked instead")]
    Node {
        /// Whose it is.
        found: NodeName,
        /// This node.
        node: NodeName,
    },
}

impl Snapshot {
    /// Reads a snapshot for this node.
    ///
    /// # Errors
    /// Where it is not one of this version and node.
    pub fn decode(text: &[u8], node: &NodeName) -> Result<Self, SnapshotFault> {
        #[derive(Deserialize)]
        struct Head {
            version: u32,
        }
        let malformed = |error: serde_json::Error| SnapshotFault::Malformed(error.to_string());
        let head: Head = serde_json::from_slice(text).map_err(malformed)?;
        if head.version != SNAPSHOT_VERSION {
            return Err(SnapshotFault::Version { found: head.version });
        }
        let snapshot: Self = serde_json::from_slice(text).map_err(malformed)?;
        if snapshot.node != *node {
            return Err(SnapshotFault::Node { found: snapshot.node, node: node.clone() });
        }
        Ok(snapshot)
    }
}
