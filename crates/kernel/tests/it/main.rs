//! The crate against the kernel, in network namespaces of the tests' own.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod affinity;
mod connections;
mod errors;
mod facts;
mod foreign;
mod iptables;
mod ipvs;
mod many_services;
mod monitor;
mod nft;
mod parts;
mod plan;
mod reaper;
mod refused;
mod roundtrip;
mod scale;
mod services;
mod settings;
mod support;
mod taken;
