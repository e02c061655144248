//! A cluster on one machine: nodes are namespaces, agents are real processes, pods are made by the real plugin.
//!
//! [`Lab::up`] makes a router, machines behind it, a store and agents; [`Lab::pod_add`] plays the container runtime;
//! [`Prober`], [`TcpStreams`] and [`Capture`] measure what happens to packets. [`cli`] is the same for the command line. Several
//! labs live side by side.
//!
//! Not here: any knowledge of how the product does its work. The lab sees programs, files and sockets, as users do.
//!
//! Invariants: everything made is recorded or marked before it exists, so [`clean::down`] finds it after any crash; no
//! process is signalled that is not known to be the lab's.

pub mod attached;
mod cables;
pub mod capture;
pub mod clean;
pub mod cli;
mod config;
pub mod demo;
mod device;
pub mod error;
mod greeting;
pub mod http;
mod images;
pub mod init;
pub mod interrupt;
mod kubernetes;
mod lab;
pub mod layout;
pub mod lock;
mod machine;
mod node;
pub mod options;
pub mod pcapng;
mod places;
mod pods;
pub mod probe;
pub mod process;
mod programs;
mod runtime;
pub mod space;
pub mod state;
mod store;
pub mod streams;
mod target;

pub use cables::{ip_batch, settings, settle};
pub use capture::Capture;
pub use error::{LabError, Result};
pub use images::{AGNHOST, PAUSE};
pub use init::{AgentCommand, Program, Report, node_init};
pub use kubernetes::{RUNTIME_METRICS, kubernetes_programs};
pub use lab::Lab;
pub use node::Node;
pub use options::{Backend, Cni, Families, Kubernetes, Options, Pool, Proxy, RangeMode, StoreKind, Wiring};
pub use pods::PodSpec;
pub use probe::{Endpoint, Pairs, Prober};
pub use programs::Programs;
pub use runtime::conflist;
pub use state::{Attachment, Machine, Pod, State};
pub use streams::TcpStreams;
pub use target::{Running, Target};
