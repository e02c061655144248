//! This project's own rules as data planes of the suites for Services and for policies: what its compilers want in a case's world, and that
//! in the kernel, by its own applier, in the nodes of a scene of real packets.
//!
//! Not here: cases and what is expected, which know nothing of this; the agent, which decides when rules change.
//!
//! Invariants: a world is a plan away from the one before, as on a node; nothing is changed outside of the scene's node; what cannot be
//! done on this machine is a skip with its reason.
//!
//! - `wanted`: what the product is told of a world of Services, and its model of the node.
//! - `applied`: that model in the kernel, and the agent's lane of health checks.
//! - `policed`: the same of policies, with Services beside them.
//! - `node`: a kernel that follows models.

mod answering;
mod applied;
mod node;
mod policed;
mod wanted;

pub use applied::{Applied, backend_here, scene};
pub use node::Spoil;
pub use policed::{Policed, Proxied, policy_scene};
pub use ripstop_netmodel::IptablesBackend;
pub use wanted::{Compiler, possible_in, settings, wanted};
