//! Probes of the ways to peers: how long a packet may be, and whether checksums that are left to the hardware come right.
//!
//! - [`Engine`]: which probe goes when, and what its answer means;
//! - [`wire`]: probes and answers as bytes.
//!
//! The length is searched by packets that may not be fragmented and that the peer's agent answers: path MTU discovery in
//! the packetisation layer (RFC 8899), which trusts no ICMP message. Its phases are here: *base* (does the peer answer at
//! all), *search*, *complete* (one probe of the length found, now and then), and back to *search* when that one vanishes.
//!
//! Not here: sockets and clocks. Time is an argument, actions are values.
//!
//! Invariants: a peer is sent nothing beyond the targets that were set; an answer counts only with the peer's token and the
//! number of a probe under way; the total of probes a second is bounded, however many peers there are.

mod checks;
mod engine;
mod search;
pub mod wire;

pub use engine::{Action, Engine, Report, Target, Tunnel};
use ripstop_types::Millis;
use serde::{Deserialize, Serialize};

/// The way to one address of a peer, as probes found it. What is not known yet has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reach {
    /// Whether it answers.
    pub answers: bool,
    /// Length in bytes of the longest packet that came through when it last answered, outer headers included.
    pub mtu: Option<u32>,
}

/// Whether checksums left to the hardware come right at the peers of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Checksums {
    /// To be found out.
    Untold,
    /// They do.
    Fine,
    /// Some peer gets only packets whose checksums were complete.
    Broken,
}

/// An interval later, or a little sooner: on the second, so that what is asked of many peers goes and comes back together and
/// the processor is woken once for all of it.
fn together(now: Millis, interval: u64) -> Millis {
    let later = now.plus(interval);
    let on_the_second = later.0 - later.0 % 1000;
    if on_the_second > now.0 + interval / 2 { Millis(on_the_second) } else { later }
}
