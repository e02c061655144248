//! Records, what a write expects, what a watch hands over, and the bounds of keys and values.
//!
//! Invariant: what passed [`validate_key`] and [`validate_value`] is accepted by every store, and reads back equal.

use std::fmt;

use ripstop_objects::value_of_text;
use ripstop_types::{Invalid, NodeName, Revision, StoreKind as Kind};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

/// Longest key in bytes.
pub const MAX_KEY: usize = 512;
/// Longest value in bytes of its JSON text without white space.
pub const MAX_VALUE: usize = 1 << 20;
/// Deepest nesting of a value's arrays and objects. The limit of the JSON reader at the other end is 127.
pub const MAX_DEPTH: usize = 100;

/// One record as it stood at its revision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record<V = Value> {
    /// The key space.
    pub kind: Kind,
    /// The key within it.
    pub key: String,
    /// The value.
    pub value: V,
    /// The revision of the write that gave it this value.
    pub revision: Revision,
}

/// What a write expects to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Expect {
    /// No record.
    Absent,
    /// A record that is still at this revision.
    Revision(Revision),
    /// Anything: the write is unconditional.
    Any,
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("no record"),
            Self::Revision(revision) => write!(f, "revision {revision}"),
            Self::Any => f.write_str("anything"),
        }
    }
}

/// What a watch hands over.
///
/// It begins, kind by kind in the order of [`Kind::every`], with a `Put` for each present record in order of the keys,
/// closed by `Synced`. Then come the changes of all watched kinds in the order of their revisions; of the store in the
/// API of Kubernetes, whose kinds are watched apart, in that order within each kind only.
///
/// When the store is lost, `Away` comes, again where another reason shows, and `Back` when it is found again. What
/// follows `Back` is either exactly the changes that were missed, or a `Reset` for each kind and then the lists as at the
/// beginning. `Reset` also comes without `Away`, where the receiver fell behind what the store remembers. `Away` may also
/// be the first event of all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event<V = Value> {
    /// The record has this value now.
    Put(Record<V>),
    /// The record is gone.
    Delete {
        /// The key space.
        kind: Kind,
        /// The key that has no record any more.
        key: String,
        /// The revision of the removal.
        revision: Revision,
    },
    /// Every record that the kind had at `revision` has been handed over. What a receiver knew of the kind before a
    /// `Reset`, and what did not come again since, is gone.
    Synced {
        /// The kind that is complete.
        kind: Kind,
        /// The store's revision the list was taken at.
        revision: Revision,
    },
    /// A new full list of the kind follows. Until its `Synced`, keep acting on what was known.
    Reset {
        /// The kind that is listed anew.
        kind: Kind,
    },
    /// The store is lost; it is tried again at least once a second.
    Away {
        /// What was tried and what came of it.
        reason: String,
    },
    /// The store is found again.
    Back,
}

/// JSON text.
pub type Text = Box<RawValue>;

/// How a watch hands values over.
pub(crate) trait Form: Sized + Send + 'static {
    /// Of a value's text, whatever it is.
    fn of_text(text: Text) -> Self;

    /// Of a value as it lies in a store: see [`value_of_text`].
    fn of_bytes(bytes: &[u8]) -> Self;

    /// Of a value.
    fn of_value(value: Value) -> Self;
}

impl Form for Value {
    fn of_text(text: Text) -> Self {
        value_of_text(text.get().as_bytes())
    }

    fn of_bytes(bytes: &[u8]) -> Self {
        value_of_text(bytes)
    }

    fn of_value(value: Value) -> Self {
        value
    }
}

impl Form for Text {
    fn of_text(text: Text) -> Self {
        text
    }

    fn of_bytes(bytes: &[u8]) -> Self {
        serde_json::from_slice(bytes).unwrap_or_else(|_| Self::of_value(value_of_text(bytes)))
    }

    fn of_value(value: Value) -> Self {
        // Every value has a text.
        to_raw_value(&value).unwrap_or_else(|_| RawValue::NULL.to_owned())
    }
}

impl<V> Record<V> {
    /// The same with its value in another form.
    pub(crate) fn map<W>(self, form: impl FnOnce(V) -> W) -> Record<W> {
        Record { kind: self.kind, key: self.key, value: form(self.value), revision: self.revision }
    }
}

impl<V> Event<V> {
    /// The same with its value in another form.
    pub(crate) fn map<W>(self, form: impl FnOnce(V) -> W) -> Event<W> {
        match self {
            Self::Put(record) => Event::Put(record.map(form)),
            Self::Delete { kind, key, revision } => Event::Delete { kind, key, revision },
            Self::Synced { kind, revision } => Event::Synced { kind, revision },
            Self::Reset { kind } => Event::Reset { kind },
            Self::Away { reason } => Event::Away { reason },
            Self::Back => Event::Back,
        }
    }
}

/// Checks a key: 1 to [`MAX_KEY`] bytes of printable ASCII without blanks.
///
/// # Errors
/// [`Invalid`]; a key too long is shown cut.
pub fn validate_key(key: &str) -> Result<(), Invalid> {
    if (1..=MAX_KEY).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(());
    }
    let mut shown: String = key.chars().take(64).collect();
    if shown.len() < key.len() {
        shown.push_str(&format!("… ({} bytes)", key.len()));
    }
    Err(Invalid::new("a record's key", shown, format!("1 to {MAX_KEY} printable ASCII characters without blanks")))
}

/// Checks a value and answers its JSON text: at most [`MAX_VALUE`] bytes and [`MAX_DEPTH`] levels.
///
/// # Errors
/// [`Invalid`] with the size or depth found.
pub fn validate_value(value: &Value) -> Result<String, Invalid> {
    if !is_shallow(value, MAX_DEPTH) {
        let found = format!("a value nested deeper than {MAX_DEPTH} levels");
        return Err(Invalid::new(
            "a record's value",
            found,
            format!("at most {MAX_DEPTH} levels of arrays and objects"),
        ));
    }
    let text = value.to_string();
    if text.len() > MAX_VALUE {
        let found = format!("{} bytes of JSON", text.len());
        return Err(Invalid::new("a record's value", found, format!("at most {MAX_VALUE} bytes of JSON")));
    }
    Ok(text)
}

/// The node that a claim names in its field `node`.
///
/// # Errors
/// [`Invalid`] where the value is no object, or its field is missing or no node name.
pub fn node_of(claim: &Value) -> Result<NodeName, Invalid> {
    match claim.get("node") {
        Some(Value::String(name)) => name.parse(),
        other => Err(Invalid::new(
            "a claim",
            other.map_or_else(|| "a value without a field \"node\"".to_owned(), |v| format!("\"node\": {v}")),
            "an object whose field \"node\" is the name of the node that claims",
        )),
    }
}

/// Whether the value has at most `levels` levels of arrays and objects. Goes no deeper than that.
fn is_shallow(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(items) => levels > 0 && items.iter().all(|item| is_shallow(item, levels - 1)),
        Value::Object(fields) => levels > 0 && fields.values().all(|field| is_shallow(field, levels - 1)),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_kind_reads_as_it_prints() {
        for kind in Kind::every() {
            assert_eq!(Kind::parse(kind.as_str()), Ok(kind));
            assert_eq!(serde_json::to_value(kind).unwrap(), json!(kind.as_str()));
        }
        assert!(Kind::parse("routes").unwrap_err().to_string().contains("networks, nodes, claims, alive"));
    }

    #[test]
    fn keys_are_short_and_printable() {
        assert!(validate_key("default/10.244.1.0/24").is_ok());
        assert!(validate_key(&"k".repeat(MAX_KEY)).is_ok());
        for bad in ["", "a b", "tab\t", "nul\0", "é", &"k".repeat(MAX_KEY + 1)] {
            let fault = validate_key(bad).unwrap_err();
            assert!(fault.to_string().len() < 400, "{fault}");
        }
    }

    #[test]
    fn values_are_bounded_in_size_and_depth() {
        let exact = Value::String("v".repeat(MAX_VALUE - 2));
        assert_eq!(validate_value(&exact).unwrap().len(), MAX_VALUE);
        assert!(validate_value(&Value::String("v".repeat(MAX_VALUE - 1))).is_err());
        let nest = |levels| (0..levels).fold(json!(1), |inner, _| json!([inner]));
        let deepest = validate_value(&nest(MAX_DEPTH)).unwrap();
        assert!(serde_json::from_str::<Value>(&deepest).is_ok());
        assert!(validate_value(&nest(MAX_DEPTH + 1)).is_err());
    }

    #[test]
    fn a_claim_names_its_node() {
        assert_eq!(node_of(&json!({"node": "n1", "boot": 3})).unwrap().as_str(), "n1");
        for bad in [json!({}), json!("n1"), json!({"node": 1}), json!({"node": "N 1"}), json!(null)] {
            assert!(node_of(&bad).is_err(), "{bad} was accepted");
        }
    }
}
