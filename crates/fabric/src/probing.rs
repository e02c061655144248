//! Which ways to peers are probed, and whose probes are answered.
//!
//! Probed are the addresses that paths lead to, and every other one of a peer to which they could: with the answers a path
//! is chosen among them. In tunnels each peer's own address is sent checksums.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ripstop_objects::{Encapsulation, Network, NodeRecord};
use ripstop_tables::{Tables, Target, Tunnel};
use ripstop_types::Family;

use crate::{host, paths, wiring};

/// The MTU of this node's link towards an address of a peer, in bytes.
pub fn link_mtu(tables: &Tables, to: IpAddr) -> Option<u32> {
    mtu_by(&host::uplinks(tables, Family::of(to)), to)
}

fn mtu_by(uplinks: &[host::Uplink<'_>], to: IpAddr) -> Option<u32> {
    uplinks.iter().find(|own| own.has_neighbour(to)).or(uplinks.first()).map(|uplink| uplink.mtu)
}

/// What is probed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ways {
    /// The addresses of peers to which the longest packet is looked for.
    pub targets: BTreeSet<Target>,
    /// The ends of tunnels at which checksums are looked at.
    pub tunnels: BTreeSet<Tunnel>,
}

/// What is probed of all peers.
pub fn ways(tables: &Tables) -> Ways {
    let mut ways = Ways::default();
    let probing = tables.config.probing;
    if !probing.mtu && !probing.checksum {
        return ways;
    }
    let uplinks = Family::BOTH.map(|family| host::uplinks(tables, family));
    for peer in tables.peers().map(|row| &*row.value) {
        let Some(port) = peer.probe_port else { continue };
        let mut used = BTreeSet::new();
        for network in tables.networks.values().map(|row| &*row.value) {
            // One family is enough: the checksum is that of what is inside.
            let mut is_told = !probing.checksum;
            for family in network.spec.families() {
                let Ok(path) = paths::path(tables, network, peer, family) else { continue };
                // What BGP leads by may be a router, which answers nobody, and its link-local address means nothing by itself.
                let own = || peer.address(family).map(|address| address.ip);
                used.extend(if path.by_bgp { own() } else { Some(path.underlay()) });
                // The forwarder of the backend udp completes checksums itself.
                if is_told || path.encapsulation != Encapsulation::Vxlan {
                    continue;
                }
                if let Some(address) = inside(tables, network, peer, family) {
                    ways.tunnels.insert(Tunnel { link: path.link, address, port });
                    is_told = true;
                }
            }
        }
        if !probing.mtu {
            continue;
        }
        let families: BTreeSet<Family> = used.iter().map(|ip| Family::of(*ip)).collect();
        let others = peer.addresses.iter().map(|address| address.ip).filter(|ip| families.contains(&Family::of(*ip)));
        for address in used.iter().copied().chain(others) {
            let uplinks = if address.is_ipv4() { &uplinks[0] } else { &uplinks[1] };
            ways.targets.extend(mtu_by(uplinks, address).map(|most| Target { address, port, most }));
        }
    }
    ways
}

/// The addresses of a peer from which probes are answered: its own, and those it has inside of tunnels.
pub fn askers<'a>(tables: &'a Tables, peer: &'a NodeRecord) -> impl Iterator<Item = IpAddr> + 'a {
    let networks = tables.networks.values().map(|row| &*row.value);
    let ends = networks.flat_map(move |network| {
        network.spec.families().filter_map(move |family| inside(tables, network, peer, family))
    });
    peer.addresses.iter().map(|address| address.ip).chain(ends)
}

/// The address that a peer itself has in a network.
fn inside(tables: &Tables, network: &Network, peer: &NodeRecord, family: Family) -> Option<IpAddr> {
    wiring::own_ip(network, family, tables.ranges(&peer.name, &network.name, family))
}
