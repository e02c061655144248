//! What an agent keeps for its next start: the cluster's records as last read.
//!
//! Taking it and writing it are apart: [`SnapshotRows`] shares the tables' rows, so it is taken between two inputs and
//! written by another thread. What is read again is a [`Snapshot`], of which any record may be unreadable.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ripstop_ipam::LendingSnapshot;
use ripstop_ipam::ranges::RangeSnapshot;
use ripstop_objects::{Network, NodeRecord, RangeClaim, Record};
use ripstop_probe::{Checksums, Reach};
use ripstop_types::{IfName, NodeName, Revision};
use serde::ser::SerializeSeq;
use serde::{Deserialize, Serialize, Serializer};

use crate::{ClusterSnapshot, NexthopIds, Proxies, Row, StoreKind};

/// Version of the format. A snapshot of another version is not read: the store is asked instead.
pub const SNAPSHOT_VERSION: u32 = 1;

/// The tables as they are to be kept. Serialised, it is a [`Snapshot`].
#[derive(Debug, Clone, PartialEq)]
pub struct SnapshotRows {
    pub(crate) node: NodeName,
    pub(crate) known: Vec<StoreKind>,
    pub(crate) networks: Vec<Row<Network>>,
    pub(crate) nodes: Vec<Row<NodeRecord>>,
    pub(crate) claims: Vec<Row<RangeClaim>>,
    pub(crate) nexthop_ids: Arc<NexthopIds>,
    pub(crate) reaches: BTreeMap<IpAddr, Reach>,
    pub(crate) checksums: BTreeMap<IfName, Checksums>,
    pub(crate) cluster: ClusterSnapshot,
    pub(crate) proxies: Proxies,
    pub(crate) ranges: Option<RangeSnapshot>,
    pub(crate) lending: Option<LendingSnapshot>,
}

impl SnapshotRows {
    /// With the single addresses that the node lent and borrowed.
    #[must_use]
    pub fn with_lending(self, lending: LendingSnapshot) -> Self {
        Self { lending: Some(lending), ..self }
    }
}

impl Serialize for SnapshotRows {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Whole<'a> {
            version: u32,
            node: &'a NodeName,
            known: &'a [StoreKind],
            #[serde(serialize_with = "records")]
            records: &'a SnapshotRows,
            nexthop_ids: &'a NexthopIds,
            #[serde(skip_serializing_if = "BTreeMap::is_empty")]
            reaches: &'a BTreeMap<IpAddr, Reach>,
            #[serde(skip_serializing_if = "BTreeMap::is_empty")]
            checksums: &'a BTreeMap<IfName, Checksums>,
            #[serde(skip_serializing_if = "ClusterSnapshot::is_empty")]
            cluster: &'a ClusterSnapshot,
            proxies: &'a Proxies,
            ranges: &'a Option<RangeSnapshot>,
            lending: &'a Option<LendingSnapshot>,
        }
        let (node, known, nexthop_ids) = (&self.node, &self.known, &self.nexthop_ids);
        let (reaches, checksums, ranges, lending) = (&self.reaches, &self.checksums, &self.ranges, &self.lending);
        let (version, cluster, proxies) = (SNAPSHOT_VERSION, &self.cluster, &self.proxies);
        Whole {
            version,
            node,
            known,
            records: self,
            nexthop_ids,
            reaches,
            checksums,
            cluster,
            proxies,
            ranges,
            lending,
        }
        .serialize(to)
    }
}

fn records<S: Serializer>(rows: &SnapshotRows, to: S) -> Result<S::Ok, S::Error> {
    let mut list = to.serialize_seq(Some(rows.networks.len() + rows.nodes.len() + rows.claims.len()))?;
    rows.networks.iter().try_for_each(|row| record(row, &mut list))?;
    rows.nodes.iter().try_for_each(|row| record(row, &mut list))?;
    rows.claims.iter().try_for_each(|row| record(row, &mut list))?;
    list.end()
}

/// Writes a row as a [`SnapshotRecord`].
fn record<T: Record, L: SerializeSeq>(row: &Row<T>, list: &mut L) -> Result<(), L::Error> {
    #[derive(Serialize)]
    struct One<'a, T> {
        kind: StoreKind,
        key: String,
        value: &'a T,
        revision: Revision,
    }
    list.serialize_element(&One { kind: T::KIND, key: row.value.key(), value: &*row.value, revision: row.revision })
}

/// A snapshot as it is read.
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
    /// What probes found out: routes' lengths must not change because an agent starts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub reaches: BTreeMap<IpAddr, Reach>,
    /// The same of tunnels' checksums.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub checksums: BTreeMap<IfName, Checksums>,
    /// What Kubernetes said.
    #[serde(default, skip_serializing_if = "ClusterSnapshot::is_empty")]
    pub cluster: ClusterSnapshot,
    /// By what Services were served.
    #[serde(default)]
    pub proxies: Proxies,
    /// The ranges this node holds.
    pub ranges: Option<RangeSnapshot>,
    /// The single addresses that it lent and borrowed.
    #[serde(default)]
    pub lending: Option<LendingSnapshot>,
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
