//! Records as objects.
//!
//! | kind | object | where the value is |
//! |---|---|---|
//! | networks | `Network` | the object itself; a migration stands beside `spec`, not in the status, since both change in one write |
//! | nodes | `NodeState` | `spec` |
//! | claims | `RangeClaim` | `spec` |
//! | alive | `Lease` of coordination.k8s.io | an annotation; the renewal's time is for people |
//! | address claims | `AddressClaim` | `spec` |
//!
//! Invariant: [`Object::record`] gives back the value that [`of_record`] was given.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ripstop_objects::API_VERSION;
use ripstop_types::{Invalid, Revision};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::names::{key_of, name_of};
use crate::{Kind, Record};

/// Marks leases that are signs of life of nodes.
pub(super) const ALIVE_LABEL: &str = "ripstop.io/record=alive";
const ANNOTATION: &str = "ripstop.io/record";

/// What a patch is whose fields take the place of the object's (RFC 7396).
pub(super) const MERGE_PATCH: &str = "application/merge-patch+json";

/// Where objects of a kind are.
pub(super) fn path(kind: Kind, namespace: &str) -> String {
    match kind {
        Kind::Alive => format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/{}", resource(kind)),
        // Of kinds that Kubernetes has itself it keeps no record: there is nothing at their places.
        _ => format!("/apis/{API_VERSION}/{}", resource(kind)),
    }
}

/// The name of the kind in paths and in rules of access.
pub(super) fn resource(kind: Kind) -> &'static str {
    match kind {
        Kind::Networks => "networks",
        Kind::Nodes => "nodestates",
        Kind::Claims => "rangeclaims",
        Kind::Alive => "leases",
        Kind::AddressClaims => "addressclaims",
        other => other.as_str(),
    }
}

/// The name of the kind with its group, for messages.
pub(super) fn full_name(kind: Kind) -> String {
    match kind {
        Kind::Alive => "leases.coordination.k8s.io".into(),
        _ => format!("{}.ripstop.io", resource(kind)),
    }
}

/// The object of a record; with a revision, the one that it is to replace.
///
/// # Errors
/// A key without a name, or a number that an API server would not keep.
pub(super) fn of_record(kind: Kind, key: &str, value: &Value, revision: Option<Revision>) -> Result<Value, Invalid> {
    if let Some(number) = lost_number(value) {
        let accepted = format!("whole numbers from {} to {}, and finite ones", i64::MIN, i64::MAX);
        return Err(Invalid::new("a number in Kubernetes", number, accepted));
    }
    let mut metadata = json!({"name": name_of(kind, key)?});
    if let Some(revision) = revision {
        metadata["resourceVersion"] = revision.to_string().into();
    }
    Ok(match kind {
        Kind::Networks => network(key, value, metadata),
        Kind::Nodes => json!({"apiVersion": API_VERSION, "kind": "NodeState", "metadata": metadata, "spec": value}),
        Kind::Claims => json!({"apiVersion": API_VERSION, "kind": "RangeClaim", "metadata": metadata, "spec": value}),
        Kind::AddressClaims => {
            json!({"apiVersion": API_VERSION, "kind": "AddressClaim", "metadata": metadata, "spec": value})
        }
        Kind::Alive => {
            let (label, word) = ALIVE_LABEL.split_once('=').unwrap_or_default();
            metadata["labels"] = json!({label: word});
            metadata["annotations"] = json!({ANNOTATION: value.to_string()});
            let holder = value.get("bootId").and_then(Value::as_str).unwrap_or(key);
            let spec = json!({"holderIdentity": holder, "renewTime": renew_time()});
            json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec})
        }
        other => {
            return Err(Invalid::new(
                "a kind of record in Kubernetes",
                other.as_str(),
                "objects of Kubernetes by its own API",
            ));
        }
    })
}

/// A network's value is an object of its own; what is none stands in a field that no real definition has.
fn network(key: &str, value: &Value, mut metadata: Value) -> Value {
    let is_object = value.get("spec").is_some() && value["metadata"]["name"] == key;
    if !is_object {
        return json!({"apiVersion": API_VERSION, "kind": "Network", "metadata": metadata, "value": value});
    }
    if let Some(labels) = value["metadata"].get("labels") {
        metadata["labels"] = labels.clone();
    }
    let mut object = json!({"apiVersion": API_VERSION, "kind": "Network", "metadata": metadata, "spec": value["spec"]});
    if let Some(migration) = value["status"].get("migration") {
        object["migration"] = migration.clone();
    }
    object
}

/// Now, in Kubernetes' form of it (Time).
#[must_use]
pub fn now() -> String {
    format!("{}Z", &renew_time()[..19])
}

/// The same with microseconds (MicroTime).
pub(super) fn renew_time() -> String {
    before_now(Duration::ZERO)
}

/// A moment that has passed, in the form in which Kubernetes writes moments (MicroTime); such texts are in their order.
#[must_use]
pub fn before_now(ago: Duration) -> String {
    utc(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(ago))
}

/// A moment since the Unix epoch in that form.
#[must_use]
pub fn utc(since: Duration) -> String {
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:06}Z", since.subsec_micros())
}

/// The date of a day since 1970-01-01, by cycles of 400 years that begin on the first of March.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (cycle, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (cycle * 400 + year + u64::from(month <= 2), month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

/// A number that comes back as another: an API server keeps 64-bit signed numbers and IEEE 754's doubles.
fn lost_number(value: &Value) -> Option<String> {
    match value {
        Value::Number(number) if number.is_u64() && !number.is_i64() => Some(number.to_string()),
        Value::Array(items) => items.iter().find_map(lost_number),
        Value::Object(fields) => fields.values().find_map(lost_number),
        _ => None,
    }
}

/// An object as an API server shows it; read are the parts that records have.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Object {
    pub metadata: Metadata,
    #[serde(default)]
    spec: Value,
    #[serde(default)]
    value: Option<Value>,
    #[serde(default)]
    migration: Option<Value>,
    #[serde(default)]
    pub status: ObjectStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metadata {
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub resource_version: String,
    #[serde(default)]
    pub uid: String,
    #[serde(default)]
    pub generation: i64,
    #[serde(default)]
    labels: Map<String, Value>,
    #[serde(default)]
    annotations: Map<String, Value>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct ObjectStatus {
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Condition {
    #[serde(default, rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub message: String,
}

/// A revision as an API server writes it.
pub(super) fn revision(text: &str) -> Result<Revision, String> {
    text.parse().map(Revision).map_err(|_| {
        format!("its resourceVersion is {text:?}, which is no number: this store needs revisions that can be compared")
    })
}

impl Object {
    pub(super) fn revision(&self) -> Result<Revision, String> {
        revision(&self.metadata.resource_version)
    }

    /// The key; `None` where the name is no key's.
    pub(super) fn key(&self, kind: Kind) -> Option<String> {
        key_of(kind, &self.metadata.name)
    }

    /// The record; `None` where the name is no key's.
    ///
    /// # Errors
    /// A revision that is none.
    pub(super) fn record(self, kind: Kind) -> Result<Option<Record>, String> {
        let revision = self.revision()?;
        let Some(key) = self.key(kind) else { return Ok(None) };
        let value = self.into_value(kind, &key);
        Ok(Some(Record { kind, key, value, revision }))
    }

    fn into_value(self, kind: Kind, key: &str) -> Value {
        match kind {
            Kind::Nodes | Kind::Claims | Kind::AddressClaims => self.spec,
            Kind::Services
            | Kind::EndpointSlices
            | Kind::Pods
            | Kind::Namespaces
            | Kind::NetworkPolicies
            | Kind::ClusterNetworkPolicies
            | Kind::AddressPools
            | Kind::BgpConfigurations
            | Kind::BgpFilters
            | Kind::BgpPeers
            | Kind::NodeLabels
            | Kind::PodAddresses
            | Kind::ServiceClaims => Value::Null,
            Kind::Alive => {
                let text = self.metadata.annotations.get(ANNOTATION).and_then(Value::as_str);
                text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or(Value::Null)
            }
            Kind::Networks => {
                if let Some(value) = self.value {
                    return value;
                }
                let mut metadata = json!({"name": key});
                if !self.metadata.labels.is_empty() {
                    metadata["labels"] = self.metadata.labels.into();
                }
                let mut value =
                    json!({"apiVersion": API_VERSION, "kind": "Network", "metadata": metadata, "spec": self.spec});
                if let Some(migration) = self.migration {
                    value["status"] = json!({"migration": migration});
                }
                value
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn back(kind: Kind, key: &str, value: &Value) -> Value {
        let mut object = of_record(kind, key, value, Some(Revision(7))).unwrap();
        object["metadata"]["managedFields"] = json!([{"manager": "x"}]);
        let object: Object = serde_json::from_value(object).unwrap();
        let record = object.record(kind).unwrap().unwrap();
        assert_eq!((record.key.as_str(), record.revision), (key, Revision(7)));
        record.value
    }

    #[test]
    fn records_come_back() {
        let migrating = json!({"apiVersion": API_VERSION, "kind": "Network", "metadata": {"name": "a", "labels": {"k": "v"}},
            "spec": {"ranges": ["10.0.0.0/8"]}, "status": {"migration": {"from": "vxlan"}}});
        let plain = json!({"apiVersion": API_VERSION, "kind": "Network", "metadata": {"name": "a"}, "spec": {}});
        for value in [migrating, plain] {
            assert_eq!(back(Kind::Networks, "a", &value), value);
        }
        for kind in Kind::ALL.into_iter().chain([Kind::AddressClaims]) {
            for value in [json!({"n": 1, "q": "'\"\n$(x)`\u{0}"}), json!({"node": "n1", "bootId": "b"})] {
                assert_eq!(back(kind, "a/b_c", &value), value, "{kind}");
            }
        }
    }

    #[test]
    fn numbers_that_would_change_are_refused() {
        let value = json!({"a": [1, {"b": u64::MAX}]});
        let fault = of_record(Kind::Nodes, "n1", &value, None).unwrap_err().to_string();
        assert!(fault.contains("18446744073709551615"), "{fault}");
        assert!(of_record(Kind::Nodes, "n1", &json!([i64::MAX, i64::MIN, 1.5]), None).is_ok());
    }

    #[test]
    fn days_have_dates() {
        for (days, date) in [(0, (1970, 1, 1)), (59, (1970, 3, 1)), (11_016, (2000, 2, 29)), (20_786, (2026, 11, 29))] {
            assert_eq!(civil(days), date);
        }
    }
}
