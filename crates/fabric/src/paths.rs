//! How this node reaches a peer. Flannel's DirectRouting and Calico's CrossSubnet are the backend `auto`.

use std::net::IpAddr;

use ripstop_objects::{BackendKind, Encapsulation, Network, NodeRecord};
use ripstop_tables::Tables;
use ripstop_types::{Family, IfName, Mac, NodeName};

use crate::{host, wiring};

/// The way to a peer's pods of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    /// The peer.
    pub peer: NodeName,
    /// Family of the pods' addresses.
    pub family: Family,
    /// What is put around a packet.
    pub encapsulation: Encapsulation,
    /// The link by which it leaves.
    pub link: IfName,
    /// The next hop on that link.
    pub gateway: IpAddr,
    /// The tunnel's other end, where there is a tunnel.
    pub tunnel: Option<TunnelEnd>,
}

/// The other end of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TunnelEnd {
    /// Its outer address.
    pub outer: IpAddr,
    /// Hardware address of its inner frames.
    pub mac: Mac,
}

/// Why a peer cannot be reached: a sentence without a full stop that says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

/// The path to a peer's pods of a network and family.
///
/// # Errors
/// Where both ends know no common way; the refusal names the peer and the remedy.
pub fn path(tables: &Tables, network: &Network, peer: &NodeRecord, family: Family) -> Result<Path, Refusal> {
    match network.spec.backend.kind {
        BackendKind::HostGw => plain(tables, peer, family),
        BackendKind::Vxlan => vxlan(tables, network, peer, family),
        BackendKind::Auto => match plain(tables, peer, family) {
            Ok(path) => Ok(path),
            Err(_) => vxlan(tables, network, peer, family),
        },
    }
}

/// The tunnel device of a network, where its backend may use one.
pub fn tunnel_link(network: &Network) -> Option<IfName> {
    match network.spec.backend.kind {
        BackendKind::HostGw => None,
        // "ript" and at most eight digits fit a name.
        BackendKind::Vxlan | BackendKind::Auto => format!("ript{}", network.spec.backend.vni).parse().ok(),
    }
}

/// The hardware address of this node's tunnel device of a network: of its name, so the same after a restart.
pub fn tunnel_mac(node: &NodeName, network: &Network) -> Mac {
    crate::hash::mac(&["vtep", node.as_str(), &network.spec.backend.vni.to_string()])
}

fn plain(tables: &Tables, peer: &NodeRecord, family: Family) -> Result<Path, Refusal> {
    let own = host::address(tables, family)
        .ok_or_else(|| Refusal(format!("this node has no {family} address on its uplink, which host-gw needs")))?;
    let link = host::uplink(tables, family).ok_or_else(|| Refusal(format!("this node has no {family} uplink")))?;
    let theirs = peer
        .address(family)
        .ok_or_else(|| Refusal(format!("{} has published no {family} address, which host-gw needs", peer.name)))?;
    if !peer.receives_plain() {
        return Err(Refusal(format!("{} does not take packets without encapsulation", peer.name)));
    }
    if !own.prefix.contains(theirs.ip) {
        return Err(Refusal(format!(
            "{} at {} is not in this node's subnet {}, so a router that does not know the pods is between: use the backend auto or vxlan",
            peer.name, theirs.ip, own.prefix
        )));
    }
    Ok(Path {
        peer: peer.name.clone(),
        family,
        encapsulation: Encapsulation::None,
        link: link.clone(),
        gateway: theirs.ip,
        tunnel: None,
    })
}

fn vxlan(tables: &Tables, network: &Network, peer: &NodeRecord, family: Family) -> Result<Path, Refusal> {
    let backend = &network.spec.backend;
    let outer_family = host::outer_family(tables)
        .ok_or_else(|| Refusal("this node has no address on its uplink, which vxlan needs".into()))?;
    let theirs = peer.vxlan(backend.vni).ok_or_else(|| {
        Refusal(format!("{} has not published that it receives vxlan with VNI {} yet", peer.name, backend.vni))
    })?;
    if theirs.port != backend.port {
        return Err(Refusal(format!(
            "{} receives vxlan on port {}, this node sends to {}: the network's backend.port differs",
            peer.name, theirs.port, backend.port
        )));
    }
    let outer = theirs.outer(outer_family).ok_or_else(|| {
        Refusal(format!("{} has no {outer_family} address for outer packets, which this node sends", peer.name))
    })?;
    let gateway = theirs
        .inner(family)
        .or_else(|| tables.ranges(&peer.name, &network.name, family).next().and_then(|range| wiring::node_ip(&range)))
        .ok_or_else(|| Refusal(format!("{} owns no {family} range of network {} yet", peer.name, network.name)))?;
    let link = tunnel_link(network).ok_or_else(|| Refusal("the network has no tunnel".into()))?;
    Ok(Path {
        peer: peer.name.clone(),
        family,
        encapsulation: Encapsulation::Vxlan,
        link,
        gateway,
        tunnel: Some(TunnelEnd { outer, mac: theirs.mac }),
    })
}
