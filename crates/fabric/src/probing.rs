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
    let uplinks = host::uplinks(tables, Family::of(to));
    uplinks.iter().find(|own| own.has_neighbour(to)).or(uplinks.first()).map(|uplink| uplink.mtu)
}

/// The addresses of peers to which the longest packet is looked for.
pub fn targets(tables: &Tables) -> BTreeSet<Target> {
    let mut targets = BTreeSet::new();
    if !tables.config.probing.mtu {
        return targets;
    }
    for peer in tables.peers().map(|row| &*row.value) {
        let Some(port) = peer.probe_port else { continue };
        let used: BTreeSet<IpAddr> = in_use(tables, peer).map(|path| path.underlay()).collect();
        let families: BTreeSet<Family> = used.iter().map(|ip| Family::of(*ip)).collect();
        let others = peer.addresses.iter().map(|address| address.ip).filter(|ip| families.contains(&Family::of(*ip)));
        for address in used.iter().copied().chain(others) {
            targets.extend(link_mtu(tables, address).map(|most| Target { address, port, most }));
        }
    }
    targets
}

/// The ends of tunnels at which checksums are looked at.
pub fn tunnels(tables: &Tables) -> BTreeSet<Tunnel> {
    let mut tunnels = BTreeSet::new();
    if !tables.config.probing.checksum {
        return tunnels;
    }
    for peer in tables.peers().map(|row| &*row.value) {
        let Some(port) = peer.probe_port else { continue };
        for network in tables.networks.values().map(|row| &*row.value) {
            // One family is enough: the checksum is that of what is inside.
            let end = network.spec.families().find_map(|family| {
                let path = paths::path(tables, network, peer, family).ok()?;
                // The forwarder of the backend udp completes checksums itself.
                let is_told = path.encapsulation == Encapsulation::Vxlan;
                let address = inside(tables, network, peer, family).filter(|_| is_told)?;
                Some(Tunnel { link: path.link, address, port })
            });
            tunnels.extend(end);
        }
    }
    tunnels
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

fn in_use<'a>(tables: &'a Tables, peer: &'a NodeRecord) -> impl Iterator<Item = paths::Path> + 'a {
    let networks = tables.networks.values().map(|row| &*row.value);
    networks.flat_map(move |network| {
        network.spec.families().filter_map(move |family| paths::path(tables, network, peer, family).ok())
    })
}
