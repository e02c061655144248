//! Declarations of sets and maps, and their elements.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use ripstop_types::Prefix;
use serde::{Deserialize, Serialize};

use super::{Comment, Data, Name, TableFamily, Type, Value};

/// The declaration of a named set, map (with [`Set::data`]) or verdict map.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Set {
    /// The fields of the key: one, or several for a concatenation.
    pub key: Vec<Type>,
    /// What the set maps to, if it is a map.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<DataType>,
    /// Elements are ranges or prefixes.
    #[serde(default)]
    pub interval: bool,
    /// Elements can expire.
    #[serde(default)]
    pub timeout: bool,
    /// Rules can add elements.
    #[serde(default)]
    pub dynamic: bool,
    /// Seconds after which an element without a timeout of its own expires; implies [`Set::timeout`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_timeout: Option<u32>,
    /// Most elements the kernel takes; needed for a `dynamic` set that must be bounded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u32>,
    /// Shown by `nft list`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<Comment>,
}

/// What a map's elements carry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DataType {
    /// A verdict map.
    Verdict,
    /// Values of these types: one, or several for a concatenation.
    Values(Vec<Type>),
}

impl Set {
    /// A set of keys with these fields.
    pub fn of(key: impl IntoIterator<Item = Type>) -> Self {
        Self {
            key: key.into_iter().collect(),
            data: None,
            interval: false,
            timeout: false,
            dynamic: false,
            default_timeout: None,
            size: None,
            comment: None,
        }
    }

    /// A map from keys to values with these fields.
    pub fn map(key: impl IntoIterator<Item = Type>, data: impl IntoIterator<Item = Type>) -> Self {
        Self { data: Some(DataType::Values(data.into_iter().collect())), ..Self::of(key) }
    }

    /// A map from keys to verdicts.
    pub fn vmap(key: impl IntoIterator<Item = Type>) -> Self {
        Self { data: Some(DataType::Verdict), ..Self::of(key) }
    }

    /// Elements may be ranges and prefixes.
    #[must_use]
    pub fn interval(self) -> Self {
        Self { interval: true, ..self }
    }

    /// Elements may have a timeout.
    #[must_use]
    pub fn timeout(self) -> Self {
        Self { timeout: true, ..self }
    }

    /// Elements expire after so many seconds unless they say otherwise.
    #[must_use]
    pub fn default_timeout(self, seconds: u32) -> Self {
        Self { timeout: true, default_timeout: Some(seconds), ..self }
    }

    /// Rules may add elements.
    #[must_use]
    pub fn dynamic(self) -> Self {
        Self { dynamic: true, ..self }
    }

    /// At most so many elements.
    #[must_use]
    pub fn size(self, size: u32) -> Self {
        Self { size: Some(size), ..self }
    }

    /// Shown by `nft list`.
    #[must_use]
    pub fn comment(self, comment: impl Into<Comment>) -> Self {
        Self { comment: Some(comment.into()), ..self }
    }

    /// A key for this set.
    pub fn key_of(&self, parts: impl IntoIterator<Item = impl Into<KeyPart>>) -> Key {
        Key::new(self.interval, parts)
    }
}

/// One field of an element's key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyPart {
    /// Exactly this.
    Value(Value),
    /// Every address of a prefix. Never of full length: that is a [`KeyPart::Value`].
    Prefix(Prefix),
    /// Everything from the first to the last, both included. Never a prefix, never a single value.
    Range(Box<(Value, Value)>),
}

impl Hash for KeyPart {
    /// As its values: a set has parts of one form at a place, as a rule.
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Self::Value(value) => value.hash(state),
            Self::Prefix(prefix) => prefix.hash(state),
            Self::Range(bounds) => bounds.hash(state),
        }
    }
}

impl KeyPart {
    /// The range from `first` to `last` in its one form: a value or a prefix where it is one.
    pub fn range(first: impl Into<Value>, last: impl Into<Value>) -> Self {
        let (first, last) = (first.into(), last.into());
        if first == last {
            return Self::Value(first);
        }
        match prefix_of(&first, &last) {
            Some(prefix) => prefix.into(),
            None => Self::Range(Box::new((first, last))),
        }
    }

    /// First and last value.
    pub fn bounds(&self) -> (Value, Value) {
        match self {
            Self::Value(value) => (value.clone(), value.clone()),
            Self::Prefix(prefix) => (prefix.addr().into(), prefix.last().into()),
            Self::Range(bounds) => (**bounds).clone(),
        }
    }

    /// The type of its values.
    pub fn type_of(&self) -> Type {
        self.bounds().0.type_of()
    }

    /// Whether it is one value.
    pub fn is_single(&self) -> bool {
        matches!(self, Self::Value(_))
    }

    /// The same meaning in its one form.
    #[must_use]
    pub fn canonical(self) -> Self {
        let (first, last) = self.bounds();
        Self::range(first, last)
    }
}

fn prefix_of(first: &Value, last: &Value) -> Option<Prefix> {
    let (first, host_bits, bits, ip) = match (first, last) {
        (Value::Ipv4(a), Value::Ipv4(b)) => {
            let (a4, b4) = (a.to_bits(), b.to_bits());
            (u128::from(a4), u128::from(a4 ^ b4), 32, std::net::IpAddr::V4(*a))
        }
        (Value::Ipv6(a), Value::Ipv6(b)) => (a.to_bits(), a.to_bits() ^ b.to_bits(), 128, std::net::IpAddr::V6(*a)),
        _ => return None,
    };
    // A prefix: the bits that differ are all the low ones, and all zero in the first address.
    let aligned = host_bits & host_bits.wrapping_add(1) == 0 && first & host_bits == 0;
    let len = u8::try_from(bits - (128 - host_bits.leading_zeros())).ok()?;
    aligned.then(|| Prefix::containing(ip, len)).flatten()
}

impl<V: Into<Value>> From<V> for KeyPart {
    fn from(value: V) -> Self {
        Self::Value(value.into())
    }
}

impl From<Prefix> for KeyPart {
    fn from(prefix: Prefix) -> Self {
        if prefix.len() == prefix.family().bits() { Self::Value(prefix.addr().into()) } else { Self::Prefix(prefix) }
    }
}

/// An element's key, together with the one thing about its set that changes how it is written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// The set's `interval` flag: its elements are ranges, even where one holds a single value.
    #[serde(default)]
    pub interval: bool,
    /// One part a field of the set's key. Shared: of thousands of elements the keys are in several tables each.
    pub parts: Arc<[KeyPart]>,
}

impl Key {
    /// A key for a set with or without the flag `interval`.
    pub fn new(interval: bool, parts: impl IntoIterator<Item = impl Into<KeyPart>>) -> Self {
        Self { interval, parts: parts.into_iter().map(|part| part.into().canonical()).collect() }
    }
}

/// Which element: unique in a network namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ElementKey {
    /// The table's family.
    pub family: TableFamily,
    /// The table.
    pub table: Name,
    /// The set or map in it.
    pub set: Name,
    /// The element in that.
    pub key: Key,
}

/// What an element carries besides its key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct ElementBody {
    /// The value, if the set is a map.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Data>,
    /// Seconds until it expires, if it does not follow the set's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u32>,
    /// Names the owner; shown by `nft list`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<Comment>,
}

impl ElementBody {
    /// Nothing but a comment.
    pub fn comment(comment: impl Into<Comment>) -> Self {
        Self { comment: Some(comment.into()), ..Self::default() }
    }

    /// A map's value.
    pub fn data(data: impl Into<Data>) -> Self {
        Self { data: Some(data.into()), ..Self::default() }
    }

    /// The same with a comment.
    #[must_use]
    pub fn with_comment(self, comment: impl Into<Comment>) -> Self {
        Self { comment: Some(comment.into()), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> std::net::IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_range_has_one_form() {
        assert_eq!(KeyPart::range(ip("10.0.0.0"), ip("10.0.0.255")), KeyPart::Prefix(prefix("10.0.0.0/24")));
        assert_eq!(KeyPart::range(ip("10.0.0.7"), ip("10.0.0.7")), KeyPart::Value(ip("10.0.0.7").into()));
        assert_eq!(KeyPart::range(ip("0.0.0.0"), ip("255.255.255.255")), KeyPart::Prefix(prefix("0.0.0.0/0")));
        assert_eq!(KeyPart::range(ip("fd00::"), ip("fd00::ffff")), KeyPart::Prefix(prefix("fd00::/112")));
        assert_eq!(KeyPart::range(ip("::"), Value::Ipv6(u128::MAX.into())), KeyPart::Prefix(prefix("::/0")));
        assert_eq!(KeyPart::from(prefix("10.0.0.7/32")), KeyPart::Value(ip("10.0.0.7").into()));
        let odd = KeyPart::range(ip("10.0.0.1"), ip("10.0.0.2"));
        assert!(matches!(odd, KeyPart::Range(..)), "{odd:?}");
        // Differing low bits, but the first is not aligned.
        assert!(matches!(KeyPart::range(ip("10.0.0.3"), ip("10.0.0.4")), KeyPart::Range(..)));
    }
}
