//! What is said on the socket: one JSON value a line, each way.
//!
//! The client begins with a hello and is answered with one, or refused. Then it asks, each question with an id of its
//! choice, and may open watches, each with a number of its choice. A watch has a window: the server sends it so many
//! bytes and no more until the client grants more, so one slow receiver neither fills buffers nor holds up the others.
//!
//! Invariant: a line is at most [`MAX_LINE`] bytes. The meaning of a line of one [`VERSION`] never changes.

use std::borrow::Cow;
use std::io;

use ripstop_types::Revision;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

use crate::embedded::Change;
use crate::{Event, Expect, Kind, MAX_VALUE, Record, StoreError, Text};

pub(crate) const PROTOCOL: &str = "ripstop-store";
pub(crate) const VERSION: u32 = 1;
/// A value, and room for everything around it.
pub(crate) const MAX_LINE: usize = MAX_VALUE + (8 << 10);
/// Bytes a watch may have under way.
pub(crate) const WINDOW: u32 = 128 << 10;
/// Capacity that a line's buffer keeps.
const KEPT: usize = 16 << 10;

/// What a client says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Ask<'a> {
    Hello { protocol: Cow<'a, str>, version: u32 },
    Get { id: u64, kind: Kind, key: Cow<'a, str> },
    List { id: u64, kind: Kind },
    Put { id: u64, kind: Kind, key: Cow<'a, str>, expect: Expect, value: Cow<'a, Value> },
    Delete { id: u64, kind: Kind, key: Cow<'a, str>, expect: Expect },
    Watch { watch: u64, kinds: Vec<Kind>, from: From, window: u32 },
    More { watch: u64, bytes: u32 },
    Unwatch { watch: u64 },
}

/// Where a watch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum From {
    /// With a list.
    Start,
    /// With a list for someone who had one.
    Anew,
    /// Behind a revision that the same opening of the store gave out.
    After { epoch: u64, revision: u64 },
}

/// What a server says. `Item` and the event `put` are written by [`item_line`] and [`event_line`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Tell {
    Hello { protocol: String, version: u32, store: String, epoch: u64 },
    Refused { cause: String },
    Found { id: u64, record: Option<Record> },
    Item { id: u64, record: Record },
    Done { id: u64 },
    Written { id: u64, revision: Option<Revision> },
    Failed { id: u64, fault: StoreError },
    Event { watch: u64, event: Event<Text> },
    At { watch: u64, revision: u64 },
}

/// Appends a message as a line.
pub(crate) fn line(buffer: &mut Vec<u8>, message: &impl Serialize) {
    let before = buffer.len();
    if let Err(fault) = serde_json::to_writer(&mut *buffer, message) {
        // Only a map with keys that are no text cannot be written, and no message has one.
        tracing::error!(%fault, "a message could not be written");
        buffer.truncate(before);
        return;
    }
    buffer.push(b'\n');
}

/// Appends a record of a list, without parsing its value.
pub(crate) fn item_line(buffer: &mut Vec<u8>, id: u64, change: &Change) {
    buffer.extend_from_slice(format!("{{\"item\":{{\"id\":{id},\"record\":").as_bytes());
    record(buffer, change, change.text.as_deref().unwrap_or("null"));
    buffer.extend_from_slice(b"}}\n");
}

/// Appends a change, without parsing its value.
pub(crate) fn event_line(buffer: &mut Vec<u8>, watch: u64, change: &Change) {
    let Some(text) = &change.text else {
        let (kind, key, revision) = (change.kind, change.key.to_string(), Revision(change.revision));
        return line(buffer, &Tell::Event { watch, event: Event::Delete { kind, key, revision } });
    };
    buffer.extend_from_slice(format!("{{\"event\":{{\"watch\":{watch},\"event\":{{\"put\":").as_bytes());
    record(buffer, change, text);
    buffer.extend_from_slice(b"}}}\n");
}

fn record(buffer: &mut Vec<u8>, change: &Change, text: &str) {
    // A key is printable ASCII: its Rust and JSON escapes (of '"' and '\') are the same.
    let head = format!("{{\"kind\":\"{}\",\"key\":{:?},\"value\":", change.kind, change.key);
    buffer.extend_from_slice(head.as_bytes());
    buffer.extend_from_slice(text.as_bytes());
    buffer.extend_from_slice(format!(",\"revision\":{}}}", change.revision).as_bytes());
}

/// Bytes read at once: what a page of a list has.
const BUFFER: usize = 32 << 10;

/// Reads lines of bounded length.
pub(crate) struct Lines<R> {
    reader: BufReader<R>,
    line: Vec<u8>,
    complete: bool,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self { reader: BufReader::with_capacity(BUFFER, reader), line: Vec::new(), complete: false }
    }

    /// The next line without its end; `None` when the other side is done. May be dropped while it waits.
    pub(crate) async fn next(&mut self) -> io::Result<Option<&[u8]>> {
        if std::mem::take(&mut self.complete) {
            self.line.clear();
            self.line.shrink_to(KEPT);
        }
        loop {
            let bytes = self.reader.fill_buf().await?;
            if bytes.is_empty() {
                if self.line.is_empty() {
                    return Ok(None);
                }
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended within a line"));
            }
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let part = &bytes[..end.unwrap_or(bytes.len())];
            if self.line.len() + part.len() > MAX_LINE {
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a line of over {MAX_LINE} bytes")));
            }
            self.line.extend_from_slice(part);
            let used = part.len() + usize::from(end.is_some());
            self.reader.consume(used);
            if end.is_some() {
                self.complete = true;
                return Ok(Some(&self.line));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lines_made_by_hand_read_back_as_messages() {
        let text = r#"{"a":"ü\n\"","b":[1.5,null]}"#;
        for key in ["plain/10.244.0.0_24", r#"q"uo\te'~"#] {
            let change = Change { revision: 7, kind: Kind::Claims, key: key.into(), text: Some(text.into()) };
            let expected = Record {
                kind: Kind::Claims,
                key: key.into(),
                value: serde_json::from_str(text).unwrap(),
                revision: Revision(7),
            };
            let mut buffer = Vec::new();
            item_line(&mut buffer, 3, &change);
            match serde_json::from_slice(&buffer).unwrap() {
                Tell::Item { id: 3, record } => assert_eq!(record, expected),
                other => panic!("{other:?}"),
            }
            buffer.clear();
            event_line(&mut buffer, 4, &change);
            match serde_json::from_slice(&buffer).unwrap() {
                Tell::Event { watch: 4, event: Event::Put(record) } => {
                    assert_eq!(record.map(crate::record::Form::of_text), expected);
                }
                other => panic!("{other:?}"),
            }
            assert_eq!(buffer.iter().filter(|b| **b == b'\n').count(), 1);
        }
    }

    #[test]
    fn the_largest_record_fits_a_line() {
        let key = "\"".repeat(crate::MAX_KEY);
        let value = json!("v".repeat(MAX_VALUE - 2));
        let current = Record { kind: Kind::Networks, key: key.clone(), value, revision: Revision(u64::MAX) };
        let fault = StoreError::Conflict {
            kind: Kind::Networks,
            key,
            expected: Expect::Revision(Revision(u64::MAX)),
            current: Some(Box::new(current)),
        };
        let mut buffer = Vec::new();
        line(&mut buffer, &Tell::Failed { id: u64::MAX, fault });
        assert!(buffer.len() <= MAX_LINE, "{}", buffer.len());
    }

    #[tokio::test]
    async fn lines_are_bounded_and_whole() {
        let mut lines = Lines::new(&b"one\n\ntwo\nthr"[..]);
        assert_eq!(lines.next().await.unwrap(), Some(&b"one"[..]));
        assert_eq!(lines.next().await.unwrap(), Some(&b""[..]));
        assert_eq!(lines.next().await.unwrap(), Some(&b"two"[..]));
        assert!(lines.next().await.is_err());
        let endless = vec![b'x'; MAX_LINE + 1];
        assert!(Lines::new(&endless[..]).next().await.is_err());
    }
}
