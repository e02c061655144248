//! What the host gives: the uplinks, the node's addresses, the MTU of pods.
//!
//! A node may have several uplinks. The first of a family carries what no other does; each further one is named to peers
//! too, and carries the packets to those that share a subnet with it.

use std::net::IpAddr;

use ripstop_objects::{BackendKind, Encapsulation, Network, NodeAddress};
use ripstop_tables::{HostLink, Tables};
use ripstop_types::{Family, IfName, Prefix};

use crate::paths;

/// Addresses of a family that a node names to its peers, at most: each is one more to try.
const MOST_ADDRESSES: usize = 4;

/// Drivers of virtual links that lead to other machines. What leads to this machine's own containers, or through a tunnel
/// of somebody else, is no uplink of itself: it is one where the default route or the configuration says so.
const OUTWARD: [&str; 6] = ["bond", "ipvlan", "macvlan", "team", "veth", "vlan"];

/// An address of this node at which peers reach it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uplink<'a> {
    /// The link that has it.
    pub link: &'a IfName,
    /// The address with its subnet.
    pub address: NodeAddress,
    /// The link's MTU in bytes.
    pub mtu: u32,
}

impl Uplink<'_> {
    /// Whether an address is another's in its subnet.
    pub fn has_neighbour(&self, ip: IpAddr) -> bool {
        self.address.shares_subnet(ip) && self.address.ip != ip
    }
}

/// The link that carries the node's traffic of a family: the configured one, otherwise that of the default route,
/// otherwise the first that is up and has an address. Where that one has lost its carrier and another has one, the other.
pub fn uplink(tables: &Tables, family: Family) -> Option<&IfName> {
    match uplinks(tables, family).first() {
        Some(first) => Some(first.link),
        None => told_link(tables, family),
    }
}

/// The node's address in a family, with its subnet.
pub fn address(tables: &Tables, family: Family) -> Option<NodeAddress> {
    uplinks(tables, family).first().map(|uplink| uplink.address)
}

/// The node's addresses at which peers reach it, IPv4 first, the preferred of each family first.
pub fn addresses(tables: &Tables) -> Vec<NodeAddress> {
    Family::BOTH.into_iter().flat_map(|family| uplinks(tables, family)).map(|uplink| uplink.address).collect()
}

/// The addresses of a family at which peers reach this node, the preferred first: one where the configuration names it or
/// its link, otherwise one a subnet. A link without a carrier counts only where none has one.
pub fn uplinks(tables: &Tables, family: Family) -> Vec<Uplink<'_>> {
    let told = &tables.config.uplink;
    let wanted = told.addresses.iter().find(|ip| Family::of(**ip) == family);
    let preferred = told_link(tables, family);
    let mut uplinks: Vec<Uplink<'_>> = Vec::new();
    if let Some((name, link)) = preferred.and_then(|name| tables.facts.links.get_key_value(name)) {
        uplinks
            .extend(addresses_of(name, link, family).find(|uplink| wanted.is_none_or(|ip| *ip == uplink.address.ip)));
    }
    if told.interface.is_some() || wanted.is_some() {
        return uplinks;
    }
    let further = tables.facts.links.iter().filter(|(_, link)| leads_outward(link));
    for uplink in further.flat_map(|(name, link)| addresses_of(name, link, family)) {
        let is_new = uplinks.iter().all(|known| !known.address.prefix.overlaps(&uplink.address.prefix));
        if is_new && is_a_subnet(&uplink.address) && !is_of_pods(tables, &uplink.address) {
            uplinks.push(uplink);
        }
    }
    let runs = |uplink: &Uplink<'_>| tables.facts.links.get(uplink.link).is_some_and(|link| link.running);
    if uplinks.iter().any(runs) {
        uplinks.retain(runs);
    }
    uplinks.truncate(MOST_ADDRESSES);
    uplinks
}

/// The link that the configuration or the default route names, whatever its state.
fn told_link(tables: &Tables, family: Family) -> Option<&IfName> {
    let facts = &tables.facts;
    let has_address = |name: &IfName| {
        facts.links.get(name).is_some_and(|link| link.addresses.iter().any(|(ip, _)| Family::of(*ip) == family))
    };
    if let Some(configured) = &tables.config.uplink.interface {
        return facts.links.get_key_value(configured).map(|(name, _)| name);
    }
    let wanted = tables.config.uplink.addresses.iter().find(|ip| Family::of(**ip) == family);
    if let Some(wanted) = wanted {
        let holds = |link: &HostLink| link.addresses.iter().any(|(ip, _)| ip == wanted);
        return facts.links.iter().find(|(_, link)| holds(link)).map(|(name, _)| name);
    }
    facts
        .default_links
        .get(&family)
        .filter(|name| has_address(name))
        .or_else(|| facts.links.iter().find(|(name, link)| link.running && has_address(name)).map(|(name, _)| name))
}

fn addresses_of<'a>(name: &'a IfName, link: &'a HostLink, family: Family) -> impl Iterator<Item = Uplink<'a>> {
    let of_family = link.addresses.iter().filter(move |(ip, _)| Family::of(*ip) == family);
    of_family.filter_map(move |(ip, len)| {
        let address = NodeAddress { ip: *ip, prefix: Prefix::containing(*ip, *len)? };
        Some(Uplink { link: name, address, mtu: link.mtu })
    })
}

fn leads_outward(link: &HostLink) -> bool {
    link.running && link.kind.as_deref().is_none_or(|kind| OUTWARD.contains(&kind))
}

/// Whether others may be in it: an address alone is one of a service, or of a link of two.
fn is_a_subnet(address: &NodeAddress) -> bool {
    address.prefix.len() < Family::of(address.ip).bits()
}

/// Whether a network has it among its ranges: a link to pods of another program.
fn is_of_pods(tables: &Tables, address: &NodeAddress) -> bool {
    let family = Family::of(address.ip);
    tables.networks.values().any(|row| row.value.spec.whole(family).any(|range| range.overlaps(&address.prefix)))
}

/// The family of this node's outer headers: IPv4 where it has an address of it.
pub fn outer_family(tables: &Tables) -> Option<Family> {
    Family::BOTH.into_iter().find(|family| address(tables, *family).is_some())
}

/// The MTU of a network's pods in bytes: as configured, otherwise the smallest of the uplinks' less what the backend may
/// add; in a migration the smaller of both backends'. `None` while there is no uplink.
pub fn pod_mtu(tables: &Tables, network: &Network) -> Option<u32> {
    network.backends().filter_map(|kind| mtu_by(tables, network, kind)).min()
}

/// The MTU of the links to pods: what they take. In a migration the larger of both backends', so that nothing that another
/// node may still send is too long; otherwise that of the pods.
pub fn link_mtu(tables: &Tables, network: &Network) -> Option<u32> {
    network.backends().filter_map(|kind| mtu_by(tables, network, kind)).max()
}

fn mtu_by(tables: &Tables, network: &Network, kind: BackendKind) -> Option<u32> {
    tunnel_mtu(tables, network, paths::most_by(kind))
}

/// The longest packet of a network that an encapsulation carries.
pub fn tunnel_mtu(tables: &Tables, network: &Network, encapsulation: Encapsulation) -> Option<u32> {
    if let Some(mtu) = network.spec.backend.mtu {
        return Some(mtu);
    }
    let outer = outer_family(tables)?;
    let uplinks = Family::BOTH.into_iter().filter_map(|family| tables.facts.links.get(uplink(tables, family)?));
    let smallest = uplinks.map(|link| link.mtu).min()?;
    Some(smallest.saturating_sub(encapsulation.overhead(outer)))
}

/// The uplink that has the subnet of `ip`.
pub fn uplink_to(tables: &Tables, ip: IpAddr) -> Option<Uplink<'_>> {
    uplinks(tables, Family::of(ip)).into_iter().find(|own| own.has_neighbour(ip))
}
