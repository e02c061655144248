//! The node's agent: a core without IO ([`core`]) and the shell around it.
//!
//! ```text
//!   plugin ── cni.sock ─┐                        ┌─► kernel thread: apply, observe ──► kernel, files
//!   store watch ────────┼─► queue ─► core ─► outputs ─► store lane: conditional writes ──► store
//!   kernel monitor ─────┤     ▲                  └─► answers to calls
//!   clock ──────────────┘     └── questions of the HTTP socket (they read, and change nothing)
//! ```
//!
//! One thread runs the loop and the sockets; one talks to the store; one to the kernel, because more would only queue on
//! its lock; one waits for the kernel's notifications; one reads tracked connections; one reads which packets policies refuse; one writes
//! the snapshot. No process is executed.
//!
//! Not here: decisions (crates `fabric`, `ipam`), netlink (`kernel`), the command line.

mod assign;
mod bgp;
pub mod core;
mod files;
mod forwarder;
pub mod health;
mod http;
mod kernel_thread;
mod l2;
mod lists;
mod logging;
mod manifests;
mod message;
mod metrics;
mod prober;
mod readiness;
mod refused;
mod replay;
mod run;
mod snapshot_lane;
mod socket;
mod store_lane;
mod take_out;
mod tracking;
#[doc(hidden)]
pub mod untrusted;

pub use http::Connections;
pub use replay::replay;
pub use ripstop_kernel::KubeProxy;
pub use ripstop_tables::Withdrawn;
pub use run::{AgentOptions, run};
pub use take_out::take_out;
