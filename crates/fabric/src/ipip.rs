//! The backend `ipip`: IPv4 packets in IPv4 packets (RFC 2003).
//!
//! One device serves all networks of the node. It has no other end of its own: the gateway of a route through it is the peer's
//! outer address. IPv6 has no encapsulation here: a peer's IPv6 pods are reached as by host-gw.

use std::net::Ipv4Addr;

use ripstop_objects::{BackendKind, IpipReceive, Network, Receive};
use ripstop_tables::Tables;
use ripstop_types::{Family, IfName};

use crate::host;

/// The name of the device.
const DEVICE: &str = "ripipip0";

/// The IPIP device of a network, where one of its backends may use it.
pub fn device(network: &Network) -> Option<IfName> {
    network.backends().any(BackendKind::may_ipip).then(|| DEVICE.parse().ok())?
}

/// This node's outer address: the one by which its peers know it first. A device takes packets to one address only.
pub fn local(tables: &Tables) -> Option<Ipv4Addr> {
    match host::address(tables, Family::V4)?.ip {
        std::net::IpAddr::V4(ip) => Some(ip),
        std::net::IpAddr::V6(_) => None,
    }
}

/// Whether this node receives by this backend: the device is there.
pub fn receives(tables: &Tables, network: &Network) -> bool {
    device(network).is_some_and(|device| tables.realised.contains(&device))
}

/// What a node whose device is there tells its peers.
pub(crate) fn receive(tables: &Tables) -> Option<Receive> {
    tables.networks.values().find(|row| receives(tables, &row.value))?;
    Some(Receive::Ipip(IpipReceive { outer_v4: local(tables)? }))
}
