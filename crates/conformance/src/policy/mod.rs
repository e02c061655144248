//! The suite for policies: which packets pass, whatever data plane carries them.
//!
//! [`cases`] are those of upstream's suites, by their names. [`scenarios`] draws clusters, changes of them and packets that nobody thought of.
//! Whatever carries packets is set beside what cases expect, and beside [`ripstop_oracle::policy::judge`].
//!
//! Not here: tables of any kind.
//!
//! - `cases`, `cyclonus`: the cases, as they are written and as they are generated.
//! - `generate`, `drawn`: scenarios.
//! - `plane`: what is judged.
//! - `scene`: a data plane of real packets.
//! - `manifests`, `pod`: what another's cluster is given for a case, and what runs in its pods.
//! - `run`: cases and scenarios on data planes.

mod cases;
mod cyclonus;
mod drawn;
mod generate;
pub mod large;
pub mod manifests;
mod plane;
pub mod pod;
mod run;
pub mod scene;

pub use cases::{CYCLONUS, Case, Probe, Step as CaseStep, UPSTREAM, cases};
pub use drawn::drawn;
pub use generate::{Change, Scenario, Step, scenarios};
pub use plane::{DataPlane, Fate, Oracle};
pub use run::{Divergence, Make, Run, compare, differ, run, run_case};

pub use crate::case::Stop;
pub use ripstop_oracle::policy::{Packet, Traffic, World};

use std::net::IpAddr;

use ripstop_types::NodeName;

/// The node that has an address, or whose pods have it. In all clusters of this suite node `nN` has 192.0.2.N and 2001:db8::N, and its pods
/// lie in 10.244.N.0/24 and fd00:N::/32.
#[must_use]
pub fn node_of(address: IpAddr) -> Option<NodeName> {
    let number = match address {
        IpAddr::V4(ip) => match ip.octets() {
            [10, 244, node, _] | [192, 0, 2, node] => u16::from(node),
            _ => return None,
        },
        IpAddr::V6(ip) => match ip.segments() {
            [0xfd00, node, ..] | [0x2001, 0xdb8, 0, 0, 0, 0, 0, node] => node,
            _ => return None,
        },
    };
    format!("n{number}").parse().ok().filter(|_| (1..=NODES).contains(&number))
}

/// Nodes of a cluster at most.
const NODES: u16 = 3;

/// A node's own addresses.
fn node_ips(number: u8) -> [IpAddr; 2] {
    [IpAddr::from([192, 0, 2, number]), IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, number.into()])]
}
