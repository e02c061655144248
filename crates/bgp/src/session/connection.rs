//! One TCP connection of a session: how far it got, its timers, bytes that are no whole message yet.

use ripstop_types::Millis;

use super::{ConnectionId, Negotiated, State};
use crate::wire::{Context, Message, Reset, decode, frame};

/// Least time that a peer may take nothing of what waits (RFC 9687 section 4).
const SEND_HOLD: u64 = 480_000;

/// How far a connection got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It is being made, until then.
    Connecting(Millis),
    /// The own OPEN is sent.
    OpenSent,
    /// The peer's OPEN was accepted.
    OpenConfirm,
    /// Routes are exchanged.
    Established,
}

impl Stage {
    pub fn state(self) -> State {
        match self {
            Self::Connecting(_) => State::Connect,
            Self::OpenSent => State::OpenSent,
            Self::OpenConfirm => State::OpenConfirm,
            Self::Established => State::Established,
        }
    }
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    pub id: ConnectionId,
    pub stage: Stage,
    /// This end made it.
    pub outgoing: bool,
    pub negotiated: Option<Negotiated>,
    pub buffer: Vec<u8>,
    pub hold_until: Option<Millis>,
    pub keepalive_at: Option<Millis>,
    pub send_until: Option<Millis>,
}

impl Connection {
    pub fn new(id: ConnectionId, stage: Stage, outgoing: bool) -> Self {
        Self {
            id,
            stage,
            outgoing,
            negotiated: None,
            buffer: Vec::new(),
            hold_until: None,
            keepalive_at: None,
            send_until: None,
        }
    }

    /// Whether it is still being made.
    pub fn is_connecting(&self) -> bool {
        matches!(self.stage, Stage::Connecting(_))
    }

    /// The next thing to do.
    pub fn deadline(&self) -> Option<Millis> {
        let connect = match self.stage {
            Stage::Connecting(until) => Some(until),
            _ => None,
        };
        [connect, self.hold_until, self.keepalive_at, self.send_until].into_iter().flatten().min()
    }

    /// The next whole message behind `place`, which moves behind it.
    pub fn message(&self, place: &mut usize) -> Result<Option<Message>, Reset> {
        let context = self.negotiated.as_ref().map_or(Context::default(), |agreed| agreed.context);
        let rest = self.buffer.get(*place..).unwrap_or_default();
        let Some(length) = frame(rest, context.extended_messages)? else { return Ok(None) };
        *place += length;
        decode(&rest[..length], &context).map(Some)
    }

    /// Both OPENs are there.
    pub fn agree(&mut self, now: Millis, agreed: Negotiated) {
        self.stage = Stage::OpenConfirm;
        self.negotiated = Some(agreed);
        self.heard(now);
        self.keep_alive(now);
    }

    /// Something came from the peer.
    pub fn heard(&mut self, now: Millis) {
        self.hold_until = self.hold().map(|hold| now.plus(hold));
    }

    /// A KEEPALIVE goes now.
    pub fn keep_alive(&mut self, now: Millis) {
        self.keepalive_at = self.hold().map(|hold| now.plus(hold / 3));
    }

    /// Bytes wait to be sent.
    pub fn waiting(&mut self, now: Millis) {
        let limit = self.hold().map_or(SEND_HOLD, |hold| SEND_HOLD.max(hold * 2));
        self.send_until.get_or_insert(now.plus(limit));
    }

    /// The peer took some of them.
    pub fn written(&mut self, now: Millis, more: bool) {
        self.send_until = None;
        if more {
            self.waiting(now);
        }
    }

    /// The agreed hold time in milliseconds, if there is one.
    fn hold(&self) -> Option<u64> {
        self.negotiated.as_ref().map(|agreed| u64::from(agreed.hold_time) * 1_000).filter(|hold| *hold > 0)
    }
}
