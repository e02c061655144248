//! What real flanneld left on this node: the bridge that its pods hang on until the last of them is gone.
//!
//! Its pods keep their addresses, their router and every stream. They take those of this node's range for neighbours on
//! their link, so the bridge answers for the pods that are elsewhere. Not here: addresses that are taken, which the agent's
//! core keeps from new pods.

use ripstop_objects::{Network, Wiring};
use ripstop_tables::{HostLink, Tables};
use ripstop_types::{Family, IfName};

use crate::wiring;

/// The bridge of another program that has this node's address of a network taken over from Flannel, or was marked as such.
pub fn bridge<'a>(tables: &'a Tables, network: &Network) -> Option<(&'a IfName, &'a HostLink)> {
    if tables.taken_network() != Some(&network.name) {
        return None;
    }
    let own = tables.own_ranges.get(&network.name);
    let gateways =
        || own.into_iter().flatten().filter(|range| range.family() == Family::V4).filter_map(wiring::node_ip);
    let is_it = |link: &HostLink| {
        let is_gateway = |ip| gateways().any(|gateway| gateway == ip);
        link.kind.as_deref() == Some("bridge") && (link.taken || link.addresses.iter().any(|(ip, _)| is_gateway(*ip)))
    };
    tables.facts.links.iter().find(|(_, link)| is_it(link))
}

/// The same, as long as it is needed: it goes when it was marked and nothing hangs on it.
pub fn needed_bridge<'a>(tables: &'a Tables, network: &Network) -> Option<(&'a IfName, &'a HostLink)> {
    bridge(tables, network).filter(|(_, link)| !link.taken || link.ports > 0)
}

/// Why a network cannot follow Flannel's: a sentence without a full stop.
pub fn refusal(tables: &Tables, network: &Network) -> Option<String> {
    if tables.taken_network() != Some(&network.name) || network.spec.wiring == Wiring::Routed {
        return None;
    }
    Some(format!("network {} is taken over from Flannel, which wiring routed can and bridge cannot", network.name))
}
