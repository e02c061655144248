//! This project's own rules for Services as data planes of the suite of Services: what its compilers want in a case's world, and that in
//! the kernel, by its own applier, in the node of a scene of real packets.
//!
//! Not here: cases and what is expected, which know nothing of this; the agent, which decides when rules change.
//!
//! Invariants: a world is a plan away from the one before, as on a node; nothing is changed outside of the scene's node; what cannot be
//! done on this machine is a skip with its reason.
//!
//! - `wanted`: what the product is told of a world, and its model of the node.
//! - `applied`: the model in the kernel, and the agent's lane of health checks.

mod answering;
mod applied;
mod wanted;

pub use applied::{Applied, Spoil, backend_here, scene};
pub use ripstop_netmodel::IptablesBackend;
pub use wanted::{Compiler, possible_in, settings, wanted};
