//! The sockets of engines that speak with neighbours.
//!
//! - [`bfd::Speaker`]: BFD, on a thread of its own, so that no work of others is taken for a peer's silence.
//! - [`bgp::Speaker`]: sessions of BGP and the table of routes, on another one.
//! - [`l2::Speaker`]: ARP and neighbour discovery for addresses that this node owns, on a third one.
//!
//! Not here: decisions. What is sent and when, and what an answer means, is the engines' affair.

pub mod bfd;
pub mod bgp;
pub mod l2;
mod sockets;
mod tcp;
