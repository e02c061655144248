//! Addresses of Services of type LoadBalancer: how fast they move when their owner is lost, beside Debian's keepalived in the same run;
//! what a drain, and a node that is lost, do to clients; and what a thousand of them cost.
//!
//! Three nodes are on one segment; a client outside reaches addresses by the lab's router, and what is told on the segment is
//! read off it with the kernel's time.

mod drain;
mod flow;
mod keepalived;
mod many;
mod node;
mod owner;
mod ripstop;
mod router;
mod segment;
mod site;

use anyhow::Result;

use crate::report::Section;
use crate::scene::Programs;

/// An owner that is lost.
pub fn owner(programs: &Programs, rounds: usize) -> Result<Section> {
    owner::lost(programs, rounds)
}

/// A node that is drained.
pub fn drain(programs: &Programs, rounds: usize) -> Result<Section> {
    drain::drain(programs, rounds)
}

/// A node that is lost which a router knows by BGP.
pub fn node(programs: &Programs, rounds: usize) -> Result<Section> {
    node::lost(programs, rounds)
}

/// A thousand Services.
pub fn many(programs: &Programs) -> Result<Section> {
    many::many(programs)
}
