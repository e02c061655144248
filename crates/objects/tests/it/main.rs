//! Documents in, values or faults out: the crate's public face.
// Helpers outside of test functions unwrap as the tests do.
#![allow(clippy::unwrap_used)]
mod bgp;
mod changes;
mod config;
mod flannel;
mod laws;
mod manifest;
mod metallb;
mod network;
mod policy;
mod pool;
mod records;
mod service;

use ripstop_objects::{Faults, Network, NetworkName};

/// The faults as lines of text, in their order.
fn lines(faults: &Faults) -> Vec<String> {
    faults.iter().map(ToString::to_string).collect()
}

/// A network with this spec, written as YAML flow.
fn network(name: &str, spec: &str) -> Result<Network, Faults> {
    let header = format!("apiVersion: ripstop.io/v1alpha1\nkind: Network\nmetadata: {{name: {name}}}\n");
    Network::decode(&format!("{header}spec: {spec}\n"))
}

fn name(text: &str) -> NetworkName {
    text.parse().unwrap()
}
