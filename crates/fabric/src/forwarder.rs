//! The backend `udp`: what this node's forwarder goes by.
//!
//! One forwarder serves all networks of the node that use this backend: one device, one port. It is a process of its own,
//! which a supervisor starts; here is only what it should be told. An entry for a peer is there as soon as the peer has
//! an address, before it says that it receives: what it sends first must find that it is known.

use std::net::{IpAddr, SocketAddr};

use ripstop_objects::{BackendKind, Network, NodeRecord, Receive, UdpReceive};
use ripstop_tables::Tables;
use ripstop_types::{Family, IfName, Prefix};

use crate::host;

/// The name of the TUN device.
const DEVICE: &str = "ripudp0";

/// How the forwarder is started, for sentences.
pub const REMEDY: &str = "start `ripstop udp-forward` there (systemctl enable --now ripstop-udp-forward)";

/// What the forwarder knows of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The name it has there.
    pub name: String,
    /// Where its datagrams go.
    pub to: SocketAddr,
    /// Further addresses that its datagrams may come from.
    pub also_from: Vec<IpAddr>,
    /// The pods behind it.
    pub ranges: Vec<Prefix>,
}

/// The TUN device of a network, where it uses this backend or is on its way from or to it.
pub fn device(network: &Network) -> Option<IfName> {
    network.backends().any(|kind| kind == BackendKind::Udp).then(|| DEVICE.parse().ok())?
}

/// Where this node takes datagrams of a network.
pub fn listen(tables: &Tables, network: &Network) -> Option<SocketAddr> {
    let address = host::address(tables, host::outer_family(tables)?)?;
    Some(SocketAddr::new(address.ip, network.spec.backend.udp_port))
}

/// Whether this node receives by this backend: a forwarder is set up.
pub fn receives(tables: &Tables, network: &Network) -> bool {
    device(network).is_some_and(|device| tables.realised.contains(&device))
}

/// What a node with a forwarder that is set up tells its peers.
pub(crate) fn receive(tables: &Tables) -> Option<Receive> {
    let network = tables.networks.values().map(|row| &row.value).find(|network| receives(tables, network))?;
    let at = listen(tables, network)?;
    let (outer_v4, outer_v6) = match at.ip() {
        IpAddr::V4(ip) => (Some(ip), None),
        IpAddr::V6(ip) => (None, Some(ip)),
    };
    Some(Receive::Udp(UdpReceive { port: at.port(), outer_v4, outer_v6 }))
}

/// What the forwarder is told of a peer; none where the peer has no address of this node's outer family.
pub fn peer(tables: &Tables, network: &Network, peer: &NodeRecord) -> Option<Peer> {
    let family = host::outer_family(tables)?;
    let said = peer.udp().and_then(|udp| Some(SocketAddr::new(udp.outer(family)?, udp.port)));
    let to = said.or_else(|| Some(SocketAddr::new(peer.address(family)?.ip, network.spec.backend.udp_port)))?;
    let mut also_from: Vec<IpAddr> =
        peer.addresses.iter().map(|address| address.ip).filter(|ip| *ip != to.ip()).collect();
    also_from.sort();
    also_from.dedup();
    let mut ranges: Vec<Prefix> =
        Family::BOTH.into_iter().flat_map(|family| tables.ranges(&peer.name, &network.name, family)).collect();
    ranges.sort();
    Some(Peer { name: format!("{}/{}", network.name, peer.name), to, also_from, ranges })
}
