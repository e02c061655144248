//! Which node of a segment speaks for an address: one, chosen by all without a leader and without a write to any API.
//!
//! - [`Engine`]: one node's part: whom it votes for, what it may speak for, what it does next;
//! - [`Table`]: candidates and addresses, [`Table::winner`] and who watches whom;
//! - [`Message`]: what candidates tell each other, and its bytes;
//! - [`neighbour`]: probes, announcements and answers of ARP and NDP as bytes.
//!
//! **How it is decided.** For each address each *elector* votes for the live candidate of the highest rendezvous hash. Live is who hears
//! a majority of the electors and is heard by them, and says so itself: all who hear it mean the same, so as long as one node reaches a
//! majority, votes do not split, whichever links fail. Whoever was away is passed over
//! for the *settle* time, unless it has the votes of a majority, its own among them, or nobody else may have the address: two that
//! are left of three, and see each other come back, need not trust each other to go on. A message carries a node's votes
//! and repeats the number of the last message it had from its receiver: with that a vote is a **grant**, which ends one
//! *detection time* after that message was *sent*, by the clock of the one who has it. Who has grants of a majority may speak.
//!
//! **Fencing.** An owner that hears no majority stops when its grants end ([`Engine::may_speak`] says so at any moment, also
//! after a freeze). A successor waits until its votes are a detection time and a margin old, or only the margin
//! where the electors say that they did not hear the owner for a detection time: grants to others have ended then. It asks by a probe whether somebody speaks, and then speaks. So clocks need not agree; they may differ in
//! rate by what the margin is of the detection time.
//!
//! **Hand-over.** An owner that itself votes for another *yields*: the other need not wait, and the owner speaks on until it
//! hears that the other does, at most for a detection time. A drained node and one whose successor is better again give up that way.
//!
//! **Electors** are all candidates up to [`ALL_ELECT`], else those [`ELECTORS`] of the highest hash. Up to [`ALL_ELECT`] every candidate
//! watches every other; beyond, each is watched by four neighbours on a ring, who tell the electors.
//!
//! **Two candidates** have no majority when one is gone. By [`Timing::lone_speaks`] one alone speaks for all then: if only the link
//! between them is cut, each speaks to those that it still reaches. When they hear each other again, the one of the
//! lower hash yields, or stops at once if it hears the other's announcement.
//!
//! Not here: sockets and clocks. Time is an argument: a clock that never goes back and counts what the machine slept.
//!
//! Invariants: with three candidates or more, two nodes may speak for an address at the same time only in a hand-over, for a detection
//! time at most; messages lost, late, doubled or out of order break nothing; electors that do not know the same
//! candidates do not count for each other.

mod engine;
mod message;
pub mod neighbour;
mod peer;
mod table;
#[cfg(test)]
mod tests;
mod wire;

use std::net::IpAddr;
use std::time::Duration;

pub use engine::{Claim, Engine};
pub use message::{Message, Votes};
use ripstop_types::{Mac, NodeName};
pub use table::{ALL_ELECT, ELECTORS, Table};
pub use wire::LONGEST;

/// How fast it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Timing {
    /// Between two messages to a candidate.
    pub interval: Duration,
    /// How long a grant lasts, and how long a silent node is taken for alive: more than two intervals and the way there and back.
    pub detection: Duration,
    /// How much longer a successor waits.
    pub margin: Duration,
    /// How long an answer to a probe is waited for.
    pub probe: Duration,
    /// How long a node that came back must be there before it takes addresses from others.
    pub settle: Duration,
    /// With two candidates, one that does not hear the other speaks for all.
    pub lone_speaks: bool,
}

impl Timing {
    /// For this detection time. A grant that was not renewed three times still holds.
    #[must_use]
    pub fn of(detection: Duration) -> Self {
        Self {
            interval: detection / 6,
            detection,
            margin: Duration::from_millis(50),
            probe: Duration::from_millis(20),
            settle: Duration::from_secs(5),
            lone_speaks: true,
        }
    }
}

/// Something to do, or something that became known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send a message to a candidate.
    Send(NodeName, Message),
    /// Ask on the segment who has the address.
    Probe(IpAddr),
    /// Answer for the address from now on, as long as [`Engine::may_speak`] says so.
    Speak(IpAddr),
    /// Answer for it no longer.
    Silence(IpAddr),
    /// Tell the segment unasked that this node has the address, in every form.
    Announce(IpAddr),
    /// A machine that is no candidate has the address: this node keeps away from it.
    Conflict(IpAddr, Mac),
}
