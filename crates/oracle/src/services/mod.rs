//! Services: what becomes of the first packet of a connection at one node.
//!
//! [`judge`] answers for one packet. What a proxy does besides (health checks, conntrack entries, sysctls) is in [`health`], [`flows`] and
//! [`sysctls`]. Where kube-proxy's modes differ, the documents decide, and beyond them its nftables mode.
//!
//! Invariants: a packet has one Service at most; an endpoint is one address and port, however many slices list it.

mod affinity;
mod endpoints;
pub mod flows;
mod frontend;
pub mod health;
mod judge;
pub mod sysctls;
mod world;

pub use affinity::{Memory, PortName};
pub use judge::{Judgement, Outcome, Source, judge};
pub use world::{DetectLocal, Listed, NodePortAddresses, Origin, Packet, State, World};
