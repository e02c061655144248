//! Where records lie in etcd: `PREFIX KIND / KEY`, as in `/ripstop/claims/default/10.244.3.0_24`.
//!
//! Values are the records' JSON. Nothing else is kept under the prefix, and what others put there is passed over.

use ripstop_types::Revision;

use super::proto::KeyValue;
use crate::record::Form;
use crate::{Kind, Record, validate_key};

/// The place of the records of one cluster.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
}

/// Keys from the first up to, not including, the second.
pub(super) type Span = (Vec<u8>, Vec<u8>);

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The key of a record.
    pub(super) fn of(&self, kind: Kind, key: &str) -> Vec<u8> {
        format!("{}{kind}/{key}", self.prefix).into_bytes()
    }

    /// All keys of a kind.
    pub(super) fn kind(&self, kind: Kind) -> Span {
        spanned(format!("{}{kind}/", self.prefix).into_bytes())
    }

    /// The keys of these kinds and of those between them.
    pub(super) fn kinds(&self, kinds: &[Kind]) -> Span {
        let spans: Vec<Span> = kinds.iter().map(|kind| self.kind(*kind)).collect();
        let start = spans.iter().map(|span| &span.0).min().cloned().unwrap_or_default();
        let end = spans.iter().map(|span| &span.1).max().cloned().unwrap_or_default();
        (start, end)
    }

    /// Kind and key of a record; the text of the whole key where it is none of ours.
    pub(super) fn parse<'a>(&self, key: &'a [u8]) -> Result<(Kind, &'a str), String> {
        let foreign = || String::from_utf8_lossy(key).escape_debug().to_string();
        let text = std::str::from_utf8(key).map_err(|_| foreign())?;
        let (kind, rest) = text.strip_prefix(&self.prefix).and_then(|rest| rest.split_once('/')).ok_or_else(foreign)?;
        let kind = Kind::parse(kind).map_err(|_| foreign())?;
        validate_key(rest).map_err(|_| foreign())?;
        Ok((kind, rest))
    }

    /// A record as it lies in etcd.
    pub(super) fn record<V: Form>(&self, kv: &KeyValue) -> Result<Record<V>, String> {
        let (kind, key) = self.parse(&kv.key)?;
        Ok(Record { kind, key: key.to_owned(), value: V::of_bytes(&kv.value), revision: revision(kv.mod_revision) })
    }
}

/// A revision of etcd, which are positive.
pub(super) fn revision(raw: i64) -> Revision {
    Revision(u64::try_from(raw).unwrap_or(0))
}

/// A revision as etcd has it. None is so large.
pub(super) fn raw(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

/// All keys that begin so.
pub(super) fn spanned(start: Vec<u8>) -> Span {
    let mut end = start.clone();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    (start, end)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::Text;

    #[test]
    fn a_record_is_found_where_it_was_put() {
        let keys = Keys::new("/ripstop/");
        for (kind, key) in [(Kind::Claims, "default/10.244.3.0_24"), (Kind::Nodes, "a/b"), (Kind::Alive, "n1")] {
            let at = keys.of(kind, key);
            assert_eq!(keys.parse(&at), Ok((kind, key)));
            let (start, end) = keys.kind(kind);
            assert!(start < at && at < end);
            let (start, end) = keys.kinds(&Kind::ALL);
            assert!(start < at && at < end);
        }
        let (start, end) = keys.kinds(&[Kind::Nodes]);
        assert_eq!((start, end), (b"/ripstop/nodes/".to_vec(), b"/ripstop/nodes0".to_vec()));
    }

    #[test]
    fn what_is_not_ours_is_named() {
        let keys = Keys::new("/ripstop/");
        for key in ["/ripstop/routes/x", "/ripstop/nodes/", "/ripstop/nodes/a b", "/other/nodes/x", "/ripstop/nodes"] {
            assert_eq!(keys.parse(key.as_bytes()), Err(key.to_owned()));
        }
        assert_eq!(keys.parse(b"/ripstop/nodes/\xff"), Err("/ripstop/nodes/\u{fffd}".to_owned()));
    }

    #[test]
    fn a_value_that_is_no_json_becomes_a_text() {
        let keys = Keys::new("/ripstop/");
        let kv = |value: &[u8]| KeyValue { key: keys.of(Kind::Nodes, "n"), mod_revision: 7, value: value.to_vec() };
        for (bytes, value) in [
            (&br#"{"a":1}"#[..], json!({"a": 1})),
            (b"{broken", json!("{broken")),
            (&[b'x'; 500], json!("x".repeat(80))),
            (b"\"\xff\"", json!("\"\u{fffd}\"")),
        ] {
            assert_eq!(keys.record::<Value>(&kv(bytes)).unwrap().value, value);
            let text = keys.record::<Text>(&kv(bytes)).unwrap().value;
            assert_eq!(text.get(), value.to_string());
        }
    }
}
