//! Black-box suites: for plugins of the Container Network Interface, any program that speaks the protocol, whoever wrote
//! it; for proxies of Services ([`services`]), and for what holds packets to policies ([`policy`]).
//!
//! The first plays the container runtime: it makes network namespaces for a host and its containers, starts the plugin in the
//! host's as a runtime would, and compares what the plugin said with what the kernel shows and what real packets do.
//! Every case names the sentence of the specification that it checks. Not here: anything that knows Ripstop; it
//! shares no type with the rest of the workspace, and the others no more than the types of Kubernetes' objects, so that one
//! mistake cannot be made on both sides.
//!
//! Invariants: no call of a plugin outlasts its time limit; nothing that the suite made outlives a run, also one that
//! was interrupted, and what a killed run left is removed by the next; the namespaces of the machine itself are not
//! touched, except by the plugin itself where it was asked to run there.
//!
//! The suite of plugins is for those that create an interface. One that only adjusts an interface others made (`tuning`,
//! `portmap`) cannot be judged by itself.

mod call;
mod case;
mod cases;
mod interrupt;
mod look;
mod options;
mod packets;
pub mod policy;
mod process;
mod result;
mod scene;
pub mod services;
mod space;
mod spec;
mod subject;
mod suite;
mod version;
mod wire;

pub use case::{Outcome, Row};
pub use interrupt::{happened as interrupted, watch as watch_signals};
pub use options::{Host, Options};
pub use spec::Sentence;
pub use suite::{Error, cases, run};
