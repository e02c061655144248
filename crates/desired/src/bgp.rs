//! Routes that BGP brought: to outside of the cluster here, and how one leads to a peer's range.
//!
//! Not here: which routes are taken in at all, which filters say, and which gateways next hops are (`ripstop_fabric::hops`).
//!
//! Invariants: no route to outside is for an address of the cluster's pods or of the node's own subnets, whoever tells it; a route
//! whose next hops lead nowhere is not made; of one next hop there is one object, and of several a group, whatever the routes.

use std::collections::BTreeSet;

use ripstop_fabric::{hops, host};
use ripstop_netmodel::{Entry, Nexthop, NexthopGroup, Ns, Route, RouteTarget};
use ripstop_tables::Tables;
use ripstop_types::{Owner, Prefix};

use crate::Part;

/// Behind what the host has itself, before what routing daemons beside us have as a rule.
const METRIC: u32 = 20;

pub(crate) fn objects(tables: &Tables) -> Vec<Entry> {
    let mut part = Part::of(Owner::agent());
    let mut made = BTreeSet::new();
    for dst in tables.cluster.bgp.routes.keys().filter(|dst| !is_inside(tables, dst)) {
        let Some(target) = target(&mut part, &mut made, tables, *dst) else { continue };
        part.add(Route { ns: Ns::Host, table: 254, dst: *dst, metric: METRIC, target, src: None, mtu: None });
    }
    part.entries
}

/// Where BGP leads for a prefix, with the objects of its next hops, of which `made` are there; none where it leads nowhere.
pub(crate) fn target(part: &mut Part, made: &mut BTreeSet<u32>, tables: &Tables, dst: Prefix) -> Option<RouteTarget> {
    let bgp = &tables.cluster.bgp;
    let mut members = Vec::new();
    for hop in hops::to(tables, dst) {
        let Some(id) = bgp.hop_id(&hop.told) else { continue };
        if made.insert(id) {
            part.add(Nexthop { id, link: hop.link, gateway: hop.gateway, onlink: false });
        }
        members.push(id);
    }
    members.sort_unstable();
    let Some(id) = bgp.group_id(bgp.next_hops(dst)).filter(|_| !members.is_empty()) else {
        return members.first().map(|id| RouteTarget::Nexthop(*id));
    };
    if made.insert(id) {
        part.add(NexthopGroup { id, members });
    }
    Some(RouteTarget::Nexthop(id))
}

/// Whether it is the cluster's own affair how it is reached.
fn is_inside(tables: &Tables, dst: &Prefix) -> bool {
    let mut networks = tables.networks.values().flat_map(|row| row.value.spec.whole(dst.family()));
    networks.any(|range| range.covers(dst)) || host::addresses(tables).iter().any(|own| own.prefix.covers(dst))
}
