//! Bidirectional Forwarding Detection: whether the way to a neighbour carries packets, known within milliseconds.
//!
//! - [`Engine`]: a set of sessions with one queue of timers (RFC 5880; single hop RFC 5881, multihop RFC 5883);
//! - [`packet`]: control packets as bytes;
//! - [`Discards`]: why packets were not heeded, counted by name.
//!
//! Asynchronous mode without authentication and without the echo function. Demand mode is never asked for; a peer that asks
//! for it is sent no more than the standard says, and [`View::remote_demand`] shows it.
//!
//! Not here: sockets and clocks. Time is an argument: a reading of a clock that never goes back, as a [`std::time::Duration`]
//! since any moment. What is to be sent, and that a session came up or went down, are values ([`Action`]).
//!
//! Invariants: no packet from outside makes a session or panics; a session that is up heard its peer within the detection
//! time, or [`Engine::tick`] was not called; the packets sent are bounded by the negotiated interval, besides one for each
//! change of state and one answer for each poll.

mod config;
mod discard;
mod engine;
pub mod packet;
mod random;
mod session;

use std::net::{IpAddr, SocketAddr};

pub use config::{ConfigFault, Path, SessionConfig, Timers};
pub use discard::{Discard, Discards};
pub use engine::{Arrival, Engine};
pub use packet::{Diagnostic, State};
pub use session::View;

/// The UDP port of single-hop sessions (RFC 5881).
pub const SINGLE_HOP_PORT: u16 = 3784;

/// The UDP port of multihop sessions (RFC 5883).
pub const MULTIHOP_PORT: u16 = 4784;

/// TTL or hop limit of every packet sent, and of every single-hop packet that is heeded.
pub const TTL: u8 = 255;

/// A session of this system: its discriminator, which the peer repeats in what it sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u32);

/// Something to do, or something that became known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send a datagram.
    Send {
        /// The session it is of.
        id: SessionId,
        /// The source address.
        from: IpAddr,
        /// The source port, the same for all packets of a session.
        source_port: u16,
        /// Where to.
        to: SocketAddr,
        /// The interface it leaves by, of a single-hop session.
        interface: Option<u32>,
        /// Its payload.
        bytes: [u8; packet::LENGTH],
    },
    /// A session changed its state.
    Changed {
        /// The session.
        id: SessionId,
        /// The state it has now.
        state: State,
        /// Why, as this system sees it.
        diagnostic: Diagnostic,
        /// The state the peer last told: what a peer does on purpose is no failure of the way.
        remote: State,
    },
}
