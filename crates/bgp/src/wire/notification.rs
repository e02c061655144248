//! NOTIFICATION: why a session ends, in codes (RFC 4271 section 4.5, 4486, 6608, 8203/9003, 8538, 9687) and in words.

use std::fmt;

use super::{kind, message};

/// Error codes.
pub mod code {
    /// The message header was wrong.
    pub const HEADER: u8 = 1;
    /// The OPEN was wrong or not acceptable.
    pub const OPEN: u8 = 2;
    /// The UPDATE could not be read.
    pub const UPDATE: u8 = 3;
    /// Nothing came for the hold time.
    pub const HOLD_TIMER: u8 = 4;
    /// A message came that is not expected in this state.
    pub const FSM: u8 = 5;
    /// The session ends without an error.
    pub const CEASE: u8 = 6;
    /// A ROUTE-REFRESH was wrong.
    pub const ROUTE_REFRESH: u8 = 7;
    /// Nothing could be sent for the send hold time.
    pub const SEND_HOLD_TIMER: u8 = 8;
}

/// Subcodes of [`code::CEASE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Cease {
    /// More prefixes came than are allowed.
    MaximumPrefixes = 1,
    /// An administrator shut the session down.
    AdministrativeShutdown = 2,
    /// The peer is no longer configured.
    PeerDeconfigured = 3,
    /// An administrator reset the session.
    AdministrativeReset = 4,
    /// No connection is accepted at this time.
    ConnectionRejected = 5,
    /// The configuration changed.
    ConfigurationChange = 6,
    /// Another connection with the same peer is kept.
    ConnectionCollision = 7,
    /// Memory or the like ran out.
    OutOfResources = 8,
    /// A hard reset: graceful restart must not keep the routes (RFC 8538).
    HardReset = 9,
    /// BFD says that the peer is down (RFC 9384).
    BfdDown = 10,
}

/// What a NOTIFICATION says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// The error code.
    pub code: u8,
    /// The subcode, whose meaning depends on the code.
    pub subcode: u8,
    /// What came along.
    pub data: Vec<u8>,
}

/// Why this end closes a session: what the peer is told, and what the operator is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reset {
    /// What the peer is told.
    pub notification: Notification,
    /// What was found and what is accepted.
    pub reason: String,
}

impl Reset {
    pub(crate) fn new(code: u8, subcode: u8, data: Vec<u8>, reason: impl Into<String>) -> Self {
        Self { notification: Notification { code, subcode, data }, reason: reason.into() }
    }
}

impl fmt::Display for Reset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.reason, self.notification)
    }
}

impl std::error::Error for Reset {}

/// Longest text of a shutdown communication (RFC 9003).
const LONGEST_TEXT: usize = 255;

impl Notification {
    /// A Cease; `text` is told for a shutdown or reset by an administrator, cut to what a message can hold.
    #[must_use]
    pub fn cease(why: Cease, text: &str) -> Self {
        let mut data = Vec::new();
        if matches!(why, Cease::AdministrativeShutdown | Cease::AdministrativeReset) && !text.is_empty() {
            let end = (0..=text.len().min(LONGEST_TEXT)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
            data.push(u8::try_from(end).unwrap_or(u8::MAX));
            data.extend_from_slice(&text.as_bytes()[..end]);
        }
        Self { code: code::CEASE, subcode: why as u8, data }
    }

    /// The same as a hard reset (RFC 8538), whose data is the notification it stands for.
    #[must_use]
    pub fn hard(&self) -> Self {
        let mut data = vec![self.code, self.subcode];
        data.extend_from_slice(&self.data);
        Self { code: code::CEASE, subcode: Cease::HardReset as u8, data }
    }

    /// Whether it ends the session for good, also between speakers that keep routes over other notifications.
    #[must_use]
    pub fn is_hard(&self) -> bool {
        self.code == code::CEASE && self.subcode == Cease::HardReset as u8
    }

    /// What a hard reset stands for; others as they are.
    #[must_use]
    pub fn meant(&self) -> Self {
        match (self.is_hard(), self.data.split_first_chunk::<2>()) {
            (true, Some(([code, subcode], data))) => Self { code: *code, subcode: *subcode, data: data.to_vec() },
            _ => self.clone(),
        }
    }

    /// What a peer's administrator wrote, cleaned of control characters; `None` where there is nothing or it is damaged.
    #[must_use]
    pub fn communication(&self) -> Option<String> {
        let shut = [Cease::AdministrativeShutdown as u8, Cease::AdministrativeReset as u8].contains(&self.subcode);
        let (length, text) = self.data.split_first().filter(|_| self.code == code::CEASE && shut)?;
        let text = std::str::from_utf8(text.get(..usize::from(*length))?).ok()?;
        (!text.is_empty()).then(|| text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect())
    }

    /// The message.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        message(kind::NOTIFICATION, |out| {
            out.extend_from_slice(&[self.code, self.subcode]);
            // Both ends may be limited to the shorter messages here: an OPEN may not have come yet.
            let room = super::LONGEST - super::HEADER - 2;
            out.extend_from_slice(&self.data[..self.data.len().min(room)]);
        })
    }

    pub(super) fn decode(body: &[u8]) -> Self {
        let (code, subcode) = (body.first().copied().unwrap_or(0), body.get(1).copied().unwrap_or(0));
        Self { code, subcode, data: body.get(2..).unwrap_or_default().to_vec() }
    }
}

impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (area, what) = words(self.code, self.subcode);
        match (area, what) {
            ("", _) => write!(f, "notification {}/{}", self.code, self.subcode)?,
            (area, "") => write!(f, "{area} {}/{}", self.code, self.subcode)?,
            (area, what) => write!(f, "{area}: {what}")?,
        }
        match self.communication() {
            Some(text) => write!(f, ": {text:?}"),
            None => Ok(()),
        }
    }
}

/// The standard's names of a code and of a subcode; empty where it has none.
fn words(code: u8, subcode: u8) -> (&'static str, &'static str) {
    let (area, subcodes): (&str, &[&str]) = match code {
        code::HEADER => ("Message Header Error", HEADER),
        code::OPEN => ("OPEN Message Error", OPEN),
        code::UPDATE => ("UPDATE Message Error", UPDATE),
        code::HOLD_TIMER => ("Hold Timer Expired", &[]),
        code::FSM => ("Finite State Machine Error", FSM),
        code::CEASE => ("Cease", CEASE),
        code::ROUTE_REFRESH => ("ROUTE-REFRESH Message Error", &["", "Invalid Message Length"]),
        code::SEND_HOLD_TIMER => ("Send Hold Timer Expired", &[]),
        _ => ("", &[]),
    };
    (area, subcodes.get(usize::from(subcode)).copied().unwrap_or(""))
}

const HEADER: &[&str] = &["", "Connection Not Synchronized", "Bad Message Length", "Bad Message Type"];

const OPEN: &[&str] = &[
    "",
    "Unsupported Version Number",
    "Bad Peer AS",
    "Bad BGP Identifier",
    "Unsupported Optional Parameter",
    "",
    "Unacceptable Hold Time",
    "Unsupported Capability",
    "",
    "",
    "",
    "Role Mismatch",
];

const UPDATE: &[&str] = &[
    "",
    "Malformed Attribute List",
    "Unrecognized Well-known Attribute",
    "Missing Well-known Attribute",
    "Attribute Flags Error",
    "Attribute Length Error",
    "Invalid ORIGIN Attribute",
    "",
    "Invalid NEXT_HOP Attribute",
    "Optional Attribute Error",
    "Invalid Network Field",
    "Malformed AS_PATH",
];

const FSM: &[&str] = &[
    "",
    "Unexpected Message in OpenSent State",
    "Unexpected Message in OpenConfirm State",
    "Unexpected Message in Established State",
];

const CEASE: &[&str] = &[
    "",
    "Maximum Number of Prefixes Reached",
    "Administrative Shutdown",
    "Peer De-configured",
    "Administrative Reset",
    "Connection Rejected",
    "Other Configuration Change",
    "Connection Collision Resolution",
    "Out of Resources",
    "Hard Reset",
    "BFD Down",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shutdown_tells_why_and_is_cut_between_characters() {
        let told = Notification::cease(Cease::AdministrativeShutdown, "new cables\u{7}");
        assert_eq!(told.to_string(), "Cease: Administrative Shutdown: \"new cables \"");
        let long = Notification::cease(Cease::AdministrativeReset, &"é".repeat(200));
        assert_eq!((long.data[0], long.data.len()), (254, 255));
        assert_eq!(long.communication().map(|text| text.chars().count()), Some(127));
        let damaged = Notification { code: code::CEASE, subcode: 2, data: vec![200, b'a'] };
        assert_eq!(damaged.communication(), None);
        assert!(told.hard().is_hard() && !told.is_hard());
        assert_eq!(told.hard().data[..2], [code::CEASE, 2]);
    }

    #[test]
    fn what_has_no_name_is_told_by_number() {
        assert_eq!(Notification { code: 99, subcode: 7, data: vec![] }.to_string(), "notification 99/7");
        assert_eq!(Notification { code: 3, subcode: 200, data: vec![] }.to_string(), "UPDATE Message Error 3/200");
    }
}
