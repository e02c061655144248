//! The value of a record of the store: as it came, or as it was read.
//!
//! Thousands of records come at once; what only one thread can do for them, the tables, need not begin with reading text.
//! Who hands records in may read them before: a value says the same either way.

use std::sync::Arc;

use ripstop_objects::{AliveRecord, Network, NodeRecord, RangeClaim, Record, value_of_text};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use crate::StoreKind;

/// A record's value. Serialised, it is the record's own value.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(from = "Value")]
pub enum StoreValue {
    /// As it came, whatever it is.
    Raw(Value),
    /// What a node publishes.
    Node(Arc<NodeRecord>),
    /// A claim.
    Claim(Arc<RangeClaim>),
    /// A sign of life.
    Alive(Arc<AliveRecord>),
}

impl StoreValue {
    /// Reads the JSON text of the record under a key. One that is not as it should be stays as it came, and so does a
    /// network, of which there are few.
    #[must_use]
    pub fn read(kind: StoreKind, key: &str, text: &str) -> Self {
        let read = match kind {
            // Of networks and objects there are few.
            StoreKind::Networks
            | StoreKind::Namespaces
            | StoreKind::Pods
            | StoreKind::Services
            | StoreKind::EndpointSlices
            | StoreKind::NetworkPolicies
            | StoreKind::ClusterNetworkPolicies
            | StoreKind::AddressPools
            | StoreKind::BgpConfigurations
            | StoreKind::BgpFilters
            | StoreKind::BgpPeers
            | StoreKind::NodeLabels
            | StoreKind::PodAddresses
            | StoreKind::ServiceClaims
            | StoreKind::AddressClaims => None,
            StoreKind::Nodes => NodeRecord::decode_text(key, text).ok().map(|record| Self::Node(record.into())),
            StoreKind::Claims => RangeClaim::decode_text(key, text).ok().map(|record| Self::Claim(record.into())),
            StoreKind::Alive => AliveRecord::decode_text(key, text).ok().map(|record| Self::Alive(record.into())),
        };
        read.unwrap_or_else(|| Self::unread(text))
    }

    /// A text as it came.
    #[must_use]
    pub fn unread(text: &str) -> Self {
        Self::Raw(value_of_text(text.as_bytes()))
    }
}

impl StoreValue {
    /// Says what is wrong with the record of a key.
    ///
    /// # Errors
    /// All of it, on one line.
    pub fn judge(kind: StoreKind, key: &str, value: &Value) -> Result<(), String> {
        let judged = match kind {
            StoreKind::Networks => <Network as Record>::decode(key, value).map(drop),
            StoreKind::Nodes => NodeRecord::decode(key, value).map(drop),
            StoreKind::Claims => RangeClaim::decode(key, value).map(drop),
            StoreKind::Alive => AliveRecord::decode(key, value).map(drop),
            StoreKind::Namespaces
            | StoreKind::Pods
            | StoreKind::Services
            | StoreKind::EndpointSlices
            | StoreKind::NetworkPolicies
            | StoreKind::ClusterNetworkPolicies
            | StoreKind::AddressPools
            | StoreKind::BgpConfigurations
            | StoreKind::BgpFilters
            | StoreKind::BgpPeers
            | StoreKind::NodeLabels
            | StoreKind::PodAddresses
            | StoreKind::ServiceClaims
            | StoreKind::AddressClaims => return Ok(()),
        };
        judged.map_err(|faults| faults.to_string().replace('\n', "; "))
    }
}

impl From<Value> for StoreValue {
    fn from(value: Value) -> Self {
        Self::Raw(value)
    }
}

impl Serialize for StoreValue {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Raw(value) => value.serialize(to),
            Self::Node(record) => record.serialize(to),
            Self::Claim(record) => record.serialize(to),
            Self::Alive(record) => record.serialize(to),
        }
    }
}
