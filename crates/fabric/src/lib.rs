//! How packets travel: decisions as pure functions of the tables.
//!
//! - [`host`]: which of the host's links and addresses carry the node's traffic, and which MTU pods get.
//! - [`hops`]: which gateways the next hops of BGP are.
//! - [`paths`]: how this node reaches a peer; one function for every backend.
//! - [`wiring`]: how a pod is connected, with names, gateways and hardware addresses.
//! - [`probing`]: which ways to peers are probed.
//! - [`egress`]: which destinations see a pod's own address.
//! - [`hygiene`]: what of the host gets in the way of pods, and what is done about it.
//! - [`migration`]: how a network goes from one backend to another without losing a packet.
//! - [`forwarder`]: what the forwarder of the backend `udp` goes by.
//! - [`ipip`]: what the backend `ipip` needs on this node.
//! - [`publish`]: what this node tells its peers.
//!
//! Not here: kernel objects. A decision says "to that gateway by VXLAN", never how that is written.
//!
//! Invariants: the same tables give the same decision; a refusal is a value with a sentence.

pub mod egress;
pub mod forwarder;
mod hash;
pub mod hops;
pub mod host;
pub mod hygiene;
pub mod ipip;
pub mod migration;
pub mod paths;
pub mod probing;
pub mod publish;
pub mod taken;
pub mod wiring;
