//! The backend `ipip`: IPv4 packets in IPv4 packets (RFC 2003).
//!
//! One device serves all networks of the node: the kernel's, or where it makes none a link with programs of ours, which write the
//! same bytes. It has no other end of its own: the gateway of a route through it is the peer's
//! outer address. IPv6 has no encapsulation here: a peer's IPv6 pods are reached as by host-gw.

use std::net::{IpAddr, Ipv4Addr};

use ripstop_objects::{BackendKind, IpipReceive, Network, NodeRecord, Receive};
use ripstop_tables::Tables;
use ripstop_types::{Family, IfName, Mac, NodeName};

use crate::host;

/// The name of the device.
const DEVICE: &str = "ripipip0";

/// The IPIP device of a network, where one of its backends may use it.
pub fn device(network: &Network) -> Option<IfName> {
    network.backends().any(BackendKind::may_ipip).then(|| DEVICE.parse().ok())?
}

/// What carries packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// The kernel's device.
    Device,
    /// Programs of ours at a link that only they give a meaning.
    Programs,
}

/// What carries packets on this node. Where its kernel seems to have neither, it is the device: the plan says why there is none.
pub fn carrier(tables: &Tables) -> Carrier {
    let facts = &tables.facts;
    if !facts.ipip && facts.tcx && facts.ifb { Carrier::Programs } else { Carrier::Device }
}

/// The hardware address of the programs' link.
pub fn link_mac(node: &NodeName) -> Mac {
    crate::hash::mac(&["ipip", node.as_str()])
}

/// The hardware address by which programs know where a packet for a peer goes: its last bytes are the peer's outer address.
pub fn peer_mac(peer: Ipv4Addr) -> Mac {
    let [a, b, c, d] = peer.octets();
    Mac([0x02, 0x49, a, b, c, d])
}

/// The outer addresses of a peer, with the uplinks to them.
pub fn ways<'a>(tables: &'a Tables, peer: &'a NodeRecord) -> impl Iterator<Item = (Ipv4Addr, &'a IfName)> {
    let uplinks = host::uplinks(tables, Family::V4);
    peer.addresses.iter().filter_map(move |address| {
        let uplink = uplinks.iter().find(|own| own.has_neighbour(address.ip)).or(uplinks.first())?;
        match address.ip {
            IpAddr::V4(ip) => Some((ip, uplink.link)),
            IpAddr::V6(_) => None,
        }
    })
}

/// This node's outer address: the one by which its peers know it first. A device takes packets to one address only.
pub fn local(tables: &Tables) -> Option<Ipv4Addr> {
    match host::address(tables, Family::V4)?.ip {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
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
