//! Addresses of Services of type LoadBalancer: how fast they move when their owner is lost, beside Debian's keepalived in the same run.
//!
//! Three nodes are on one segment; a client outside reaches addresses by the lab's router, and what is told on the segment is
//! read off it with the kernel's time.

mod flow;
mod keepalived;
mod owner;
mod ripstop;
mod segment;
mod site;

use anyhow::Result;

use crate::report::Section;
use crate::scene::Programs;

/// An owner that is lost.
pub fn owner(programs: &Programs, rounds: usize) -> Result<Section> {
    owner::lost(programs, rounds)
}
