//! Messages as bytes: framing here, one module a message.
//!
//! A message is decoded in one of three ways: as it is; as less than it says, with [`Fault`]s that name what was left out
//! (RFC 7606: attribute discard, treat-as-withdraw); or not at all, and the session ends with a [`Reset`].
//!
//! Not here: when which message may come ([`Reset`]s of that kind are the session's), and what routes are worth.

mod as_path;
mod attributes;
mod capability;
mod foreign;
mod graded;
mod nlri;
mod notification;
mod open;
mod read;
mod refresh;
mod update;

pub use as_path::{AS_TRANS, AsPath, Segment};
pub use attributes::{Aggregator, Attributes, LargeCommunity, NextHop, Origin, Unknown, community};
pub use capability::{AddPathMode, AfiSafi, Capability, RestartFamily};
pub use graded::{Fault, Grade};
pub use nlri::Nlri;
pub use notification::{Cease, Notification, Reset, code};
pub use open::Open;
pub use refresh::{Refresh, RefreshKind};
pub use update::{Announcement, Context, Families, Update, announce, end_of_rib, withdraw};

use read::Reader;

/// Bytes before a message's body: marker, length, type.
pub const HEADER: usize = 19;

/// Longest message without the capability of extended messages (RFC 8654).
pub const LONGEST: usize = 4096;

/// Longest message with it.
pub const LONGEST_EXTENDED: usize = 65_535;

const MARKER: [u8; 16] = [0xff; 16];

/// Types of messages.
mod kind {
    pub const OPEN: u8 = 1;
    pub const UPDATE: u8 = 2;
    pub const NOTIFICATION: u8 = 3;
    pub const KEEPALIVE: u8 = 4;
    pub const ROUTE_REFRESH: u8 = 5;
}

/// One message of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Who the peer is and what it can.
    Open(Open),
    /// Routes that came and went.
    Update(Update),
    /// The peer ends the session.
    Notification(Notification),
    /// The peer is alive.
    Keepalive,
    /// The peer wants a family's routes again; `None` where this speaker does not know the family.
    RouteRefresh(Option<Refresh>),
}

/// Length of the first message in `bytes` with its header; `None` while it is not there as a whole.
///
/// # Errors
/// A header that no message has: marker, length or type.
pub fn frame(bytes: &[u8], extended: bool) -> Result<Option<usize>, Reset> {
    let seen = bytes.len().min(MARKER.len());
    if bytes[..seen] != MARKER[..seen] {
        return Err(Reset::new(code::HEADER, 1, vec![], "the marker of a message is not all ones"));
    }
    let (Some(&[high, low]), Some(&kind)) = (bytes.get(16..18), bytes.get(18)) else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([high, low]));
    let wrong_length = |accepted: &str| {
        let reason = format!("a message of type {kind} is {length} bytes long, accepted are {accepted}");
        Err(Reset::new(code::HEADER, 2, vec![high, low], reason))
    };
    // RFC 8654 section 4: OPEN and KEEPALIVE stay as they were.
    let longest = if extended && kind != kind::OPEN && kind != kind::KEEPALIVE { LONGEST_EXTENDED } else { LONGEST };
    let least = match kind {
        kind::OPEN => HEADER + 10,
        kind::UPDATE => HEADER + 4,
        kind::NOTIFICATION => HEADER + 2,
        kind::KEEPALIVE => HEADER,
        kind::ROUTE_REFRESH => HEADER + 4,
        _ if !(HEADER..=longest).contains(&length) => HEADER,
        _ => return Err(Reset::new(code::HEADER, 3, vec![kind], format!("there is no message of type {kind}"))),
    };
    if length < least || length > longest || (kind == kind::KEEPALIVE && length != HEADER) {
        let most = if kind == kind::KEEPALIVE { HEADER } else { longest };
        return wrong_length(&format!("{least} to {most}"));
    }
    Ok((bytes.len() >= length).then_some(length))
}

/// Reads one whole message, as [`frame`] measured it.
///
/// # Errors
/// What ends the session, and how the peer is told.
pub fn decode(message: &[u8], context: &Context) -> Result<Message, Reset> {
    let Some(length) = frame(message, true)?.filter(|length| *length == message.len()) else {
        return Err(Reset::new(code::HEADER, 2, vec![], "a message is not as long as it says"));
    };
    let body = &message[HEADER..length];
    Ok(match message[18] {
        kind::OPEN => Message::Open(Open::decode(body)?),
        kind::UPDATE => Message::Update(update::decode(body, context)?),
        kind::NOTIFICATION => Message::Notification(Notification::decode(body)),
        kind::ROUTE_REFRESH => Message::RouteRefresh(Refresh::decode(body)?),
        _ => Message::Keepalive,
    })
}

/// A KEEPALIVE.
#[must_use]
pub fn keepalive() -> Vec<u8> {
    message(kind::KEEPALIVE, |_| ())
}

/// A message of that type with the body that `body` appends; cut off at what a length can say, which callers keep below.
fn message(kind: u8, body: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    let start = open_message(&mut out, kind);
    body(&mut out);
    close_message(&mut out, start);
    out
}

/// Appends a header whose length [`close_message`] fills in; the message's place.
fn open_message(out: &mut Vec<u8>, kind: u8) -> usize {
    let start = out.len();
    out.extend_from_slice(&MARKER);
    out.extend_from_slice(&[0, 0, kind]);
    start
}

fn close_message(out: &mut Vec<u8>, start: usize) {
    out.truncate(start + LONGEST_EXTENDED);
    let length = u16::try_from(out.len() - start).unwrap_or(u16::MAX);
    out[start + 16..start + 18].copy_from_slice(&length.to_be_bytes());
}
