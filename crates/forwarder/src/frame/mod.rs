//! Frames, without IO: headers, checksums, what is cut and what is joined.
//!
//! On the wire one datagram is one inner IP packet, without a header of its own, as Flannel's udp backend has it. Towards
//! the TUN device a packet stands behind a [`Vnet`] header and may be up to 64 KB long.
//!
//! Invariant: arbitrary bytes are answered by [`Malformed`] or by packets that are as right as they were, never by a panic.

pub mod checksum;
pub mod ecn;
pub mod icmp;
pub mod join;
pub mod packet;
pub mod split;
pub mod vnet;

pub use packet::{Ip, Malformed};
pub use vnet::Vnet;

#[cfg(test)]
mod tests;
