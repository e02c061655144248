//! What the host gives: the uplink, the node's addresses, the MTU of pods.

use ripstop_objects::{BackendKind, Encapsulation, Network, NodeAddress};
use ripstop_tables::{HostLink, Tables};
use ripstop_types::{Family, IfName, Prefix};

use crate::paths;

/// The link that carries the node's traffic of a family: the configured one, otherwise that of the default route,
/// otherwise the first that is up and has an address.
pub fn uplink(tables: &Tables, family: Family) -> Option<&IfName> {
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

/// The node's address in a family, with its subnet.
pub fn address(tables: &Tables, family: Family) -> Option<NodeAddress> {
    let link = tables.facts.links.get(uplink(tables, family)?)?;
    let wanted = tables.config.uplink.addresses.iter().find(|ip| Family::of(**ip) == family);
    link.addresses
        .iter()
        .filter(|(ip, _)| Family::of(*ip) == family && wanted.is_none_or(|wanted| wanted == ip))
        .find_map(|(ip, len)| Some(NodeAddress { ip: *ip, prefix: Prefix::containing(*ip, *len)? }))
}

/// The node's addresses, IPv4 first.
pub fn addresses(tables: &Tables) -> Vec<NodeAddress> {
    Family::BOTH.into_iter().filter_map(|family| address(tables, family)).collect()
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
