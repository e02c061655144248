//! Policies: whether a packet goes from one end to the other.
//!
//! [`judge`] answers for one packet, with who decided at each end. A packet is meant as policies see it: with the address of the pod that a
//! Service sent it to, and the source that it had before the node put its own in its place. Where the APIs leave something open, the
//! comments here say what is right for Ripstop.
//!
//! Invariants: an end that is no pod decides nothing; a pod in the host's network is its node.

mod judge;
mod select;
mod world;

pub use judge::{By, Decision, Judgement, judge, judge_staged};
pub use world::{Packet, State, Traffic, World};
