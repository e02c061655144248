//! The Container Network Interface specification, version 1.1.0, as types, and the line protocol between the plugin
//! and the agent.
//!
//! Not here: any IO, any clock, anything that knows how a pod is wired.
//!
//! Two halves. [`version`], [`error`] and [`wire`] need no `std`: they are all that the plugin uses. The rest is behind
//! the feature `full` (on by default): the network configuration ([`conf`]), the parameters of a call ([`call`]), the
//! result and its older forms ([`result`]), and the runtime's side ([`list`]).
//!
//! Invariants: what left a decoder is valid (names, ids, addresses and versions were checked); every refusal is an
//! [`Error`] with one of the specification's codes and says which field or variable, what was found and what is accepted.
//!
//! Source of all: <https://github.com/containernetworking/cni/blob/main/SPEC.md>, sections named where used.
#![cfg_attr(not(feature = "full"), no_std)]

extern crate alloc;

pub mod env;
pub mod error;
pub mod version;
pub mod wire;

#[cfg(feature = "full")]
pub mod args;
#[cfg(feature = "full")]
pub mod call;
#[cfg(feature = "full")]
mod cidr;
#[cfg(feature = "full")]
pub mod conf;
#[cfg(feature = "full")]
mod fault;
#[cfg(feature = "full")]
pub mod list;
#[cfg(feature = "full")]
pub mod result;
#[cfg(feature = "full")]
pub mod runtime_config;

pub use error::{Code, Error};
pub use version::{CniVersion, Verb};

#[cfg(feature = "full")]
pub use args::CniArgs;
#[cfg(feature = "full")]
pub use call::{Attachment, Call, TypedCall};
#[cfg(feature = "full")]
pub use cidr::Cidr;
#[cfg(feature = "full")]
pub use conf::NetConf;
#[cfg(feature = "full")]
pub use fault::Fault;
#[cfg(feature = "full")]
pub use list::ConfList;
#[cfg(feature = "full")]
pub use result::{CniResult, Dns, Interface, IpConfig, Route};
#[cfg(feature = "full")]
pub use runtime_config::{Bandwidth, IpRange, RequestedIp, RuntimeConfig};
