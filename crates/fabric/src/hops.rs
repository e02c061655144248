//! Which gateways the next hops of BGP are.
//!
//! Not here: which of a prefix's paths BGP uses, and how packets are spread over several.
//!
//! Invariants: a gateway is link-local on a link that has a carrier, or in a subnet of one of this node's uplinks; a next hop that is
//! neither is looked up among the prefixes that BGP brought, and what leads there leads on, a bounded number of times.

use std::net::IpAddr;

use ripstop_tables::Tables;
use ripstop_types::{IfName, Prefix, ScopedAddr};

use crate::host;

/// How often a next hop may be reached by another one.
const DEPTH: usize = 4;

/// A way that packets take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// The next hop that BGP says.
    pub told: ScopedAddr,
    /// The link by which it is reached,
    pub link: IfName,
    /// and the gateway there.
    pub gateway: IpAddr,
}

/// The ways to a prefix, the best one first: those of the longest prefix around it that BGP brought.
pub fn to(tables: &Tables, prefix: Prefix) -> Vec<Hop> {
    let told = tables.cluster.bgp.next_hops(prefix);
    told.iter().filter_map(|told| of(tables, told)).collect()
}

/// The way to a next hop.
fn of(tables: &Tables, told: &ScopedAddr) -> Option<Hop> {
    let mut next = told;
    for _ in 0..DEPTH {
        let gateway = next.address();
        if let Some(link) = next.link() {
            let runs = tables.facts.links.get(link).is_some_and(|link| link.running);
            return runs.then(|| Hop { link: link.clone(), told: told.clone(), gateway });
        }
        if let Some(uplink) = host::uplink_to(tables, gateway) {
            return Some(Hop { link: uplink.link.clone(), told: told.clone(), gateway });
        }
        let around = Prefix::host(gateway);
        next = tables.cluster.bgp.next_hops(around).iter().find(|other| *other != next)?;
    }
    None
}
