//! What one peer means for this node: a nexthop, or those that BGP brought, routes, and the tunnel's neighbour and forwarding entry, or the
//! forwarder's entry.

use std::collections::BTreeSet;

use ripstop_fabric::{egress, forwarder, ipip, paths};
use ripstop_netmodel::{Entry, Fdb, ForwarderPeer, IpipPeer, Neighbour, Nexthop, Ns, Route, RouteTarget};
use ripstop_objects::{Encapsulation, Network, NodeRecord};
use ripstop_tables::Tables;
use ripstop_types::{Family, Owner, Prefix};

use crate::network::{is_plain_anyway, own_ip};
use crate::{Part, bgp, ruleset};

pub(crate) fn objects(tables: &Tables, network: &Network, peer: &NodeRecord) -> Vec<Entry> {
    let owner = Owner::node(&peer.name);
    let mut part = Part::of(owner.clone());
    if peer.name == tables.node {
        return part.entries;
    }
    if let Some(link) = forwarder::device(network).filter(|_| tables.facts.forwarder)
        && let Some(known) = forwarder::peer(tables, network, peer)
    {
        let forwarder::Peer { name, to, also_from, ranges } = known;
        part.add(ForwarderPeer { link, peer: name.into(), to, also_from, ranges });
    }
    if let Some(link) = ipip::device(network).filter(|_| ipip::carrier(tables) == ipip::Carrier::Programs) {
        for (ip, uplink) in ipip::ways(tables, peer) {
            part.add(IpipPeer { link: link.clone(), ip, uplink: uplink.clone() });
        }
    }
    if paths::tunnel_links(network).next().is_some() {
        for address in &peer.addresses {
            part.add(ruleset::address(ruleset::sets(Family::of(address.ip)).nodes, address.ip, &owner));
        }
    }
    for family in network.spec.families() {
        let path = paths::path(tables, network, peer, family);
        for address in peer.addresses.iter().filter(|address| Family::of(address.ip) == family) {
            let (ip, is_plain) = (address.ip, is_plain_anyway(tables, &Prefix::host(address.ip)));
            if !is_plain && egress::sees_pods(network, path.as_ref().ok(), ip) {
                part.add(ruleset::address(ruleset::sets(family).near, ip, &owner));
            }
        }
        // Of a pool that is gone the peer's pods may still have addresses.
        for range in tables.ranges(&peer.name, &network.name, family).filter(|range| !is_plain_anyway(tables, range)) {
            if !network.spec.whole(family).any(|whole| whole == range) {
                part.add(ruleset::interval(ruleset::sets(family).plain, range, &owner));
            }
        }
        routes(&mut part, tables, network, peer, family, path.ok());
    }
    part.entries
}

fn routes(
    part: &mut Part,
    tables: &Tables,
    network: &Network,
    peer: &NodeRecord,
    family: Family,
    path: Option<paths::Path>,
) {
    let ranges: Vec<Prefix> = tables.ranges(&peer.name, &network.name, family).collect();
    let Some(id) = tables.nexthop_ids.get(&network.name, &peer.name, family).filter(|_| !ranges.is_empty()) else {
        return;
    };
    let own_ip = own_ip(tables, &network.name, family);
    let mut mtu = None;
    let by_bgp = path.as_ref().is_some_and(|path| path.by_bgp);
    let target = match path {
        // Each range has its own.
        Some(path) if by_bgp => {
            mtu = paths::mtu(tables, network, &path);
            RouteTarget::Unreachable
        }
        Some(path) => {
            let onlink = path.tunnel.is_some();
            // The node is a router to its pods: it tells them of the way's length by ICMP, running pods too.
            mtu = paths::mtu(tables, network, &path);
            part.add(Nexthop { id, link: path.link.clone(), gateway: path.gateway, onlink });
            if let Some(end) = path.tunnel
                && let Some(mac) = end.mac
            {
                part.add(Neighbour { ns: Ns::Host, link: path.link.clone(), ip: path.gateway, mac });
                if path.encapsulation == Encapsulation::Vxlan {
                    part.add(Fdb { link: path.link, mac, dst: end.outer });
                }
            }
            RouteTarget::Nexthop(id)
        }
        // An error at once is better than packets that leave by the default route; the reason is in the path's state.
        None => RouteTarget::Unreachable,
    };
    let mut made = BTreeSet::new();
    for dst in ranges {
        let led = by_bgp.then(|| bgp::target(part, &mut made, tables, dst)).flatten();
        let target = led.unwrap_or_else(|| target.clone());
        let src = own_ip.filter(|_| target != RouteTarget::Unreachable);
        part.add(Route { ns: Ns::Host, table: 254, dst, metric: 0, target, src, mtu });
    }
}
