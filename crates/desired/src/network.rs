//! A network's own objects on this node: node link, tunnel device, ranges.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ripstop_fabric::{egress, host, paths, wiring};
use ripstop_netmodel::{Address, Entry, Link, LinkKind, Ns, Route, RouteTarget, Scope};
use ripstop_objects::{Network, NetworkName, Wiring};
use ripstop_tables::Tables;
use ripstop_types::{Family, IfName, Prefix};

use crate::node::interval;
use crate::{Part, ruleset};

pub(crate) fn objects(tables: &Tables, network: &Network) -> Vec<Entry> {
    let owner = network.owner();
    let mut part = Part::of(owner.clone());
    for range in network.spec.ranges.iter().filter(|range| !is_plain_anyway(tables, range)) {
        part.add(interval(ruleset::sets(range.family()).plain, range, &owner));
    }
    let own = own_ranges(tables, &network.name);
    for range in &own {
        part.add(interval(ruleset::sets(range.family()).local, *range, &owner));
    }
    // Without an uplink the MTU is not known; it stays as it is, and so does everything that needs no uplink.
    let mtu = host::pod_mtu(tables, network);
    let link = wiring::node_link(&network.name);
    part.add(Link {
        ns: Ns::Host,
        name: link.clone(),
        kind: LinkKind::Bridge,
        mtu,
        mac: Some(wiring::node_link_mac(&tables.node, &network.name)),
        up: true,
        master: None,
        altname: Some(format!("ripstop.network.{}", network.name).into()),
        port: None,
        no_link_local: true,
    });
    for range in &own {
        own_range(&mut part, network, &link, *range);
    }
    for range in namesakes_ranges(tables, &network.name).filter(|range| !own.contains(range)) {
        part.add(unreachable(range));
    }
    if network.spec.wiring == Wiring::Routed && network.spec.ranges.get(Family::V4).is_some() {
        // Answers those pods that ask for their router, on whichever link they ask (arp_ignore 0).
        part.add(Address {
            ns: Ns::Host,
            link: link.clone(),
            ip: wiring::router(Family::V4),
            len: 32,
            scope: Scope::Link,
        });
    }
    if network.spec.wiring == Wiring::Bridge && network.spec.ranges.get(Family::V6).is_some() {
        // The kernel solicits a neighbour on behalf of a forwarded packet from a link-local address only.
        part.add(Address { ns: Ns::Host, link, ip: wiring::router(Family::V6), len: 64, scope: Scope::Link });
    }
    tunnel(&mut part, tables, network, mtu);
    part.entries
}

/// The ranges of this node: what it may use, and what the store says this machine holds. After a start without a snapshot
/// the second is known before the first, and the node's address must not go in between.
pub(crate) fn own_ranges(tables: &Tables, network: &NetworkName) -> Vec<Prefix> {
    let claimed = tables.ranges_of.get(&tables.node).into_iter().flatten().filter(|place| place.0 == *network);
    let of_this_machine = claimed
        .filter(|place| tables.claims.get(*place).is_some_and(|row| row.value.machine == tables.identity.machine_id));
    let usable = tables.own_ranges.get(network).into_iter().flatten();
    usable.chain(of_this_machine.map(|(_, range)| range)).copied().collect::<BTreeSet<_>>().into_iter().collect()
}

/// This node's address towards pods of a family: the source of every route to them.
pub(crate) fn own_ip(tables: &Tables, network: &NetworkName, family: Family) -> Option<IpAddr> {
    own_ranges(tables, network).iter().find(|range| range.family() == family).and_then(wiring::node_ip)
}

/// Whether a greater range sees pods' addresses already. The kernel refuses an interval that overlaps another of its set.
pub(crate) fn is_plain_anyway(tables: &Tables, range: &Prefix) -> bool {
    let networks = tables.networks.values().filter_map(|row| row.value.spec.ranges.get(range.family()));
    networks.chain(egress::always_plain(range.family())).any(|other| other != *range && other.covers(range))
}

fn own_range(part: &mut Part, network: &Network, link: &IfName, range: Prefix) {
    let len = match network.spec.wiring {
        Wiring::Routed => range.family().bits(),
        Wiring::Bridge => range.len(),
    };
    if let Some(ip) = wiring::node_ip(&range) {
        part.add(Address { ns: Ns::Host, link: link.clone(), ip, len, scope: Scope::Global });
    }
    if network.spec.wiring == Wiring::Routed {
        // An address no pod has neither loops between nodes nor leaves by the default route.
        part.add(unreachable(range));
    }
}

fn unreachable(dst: Prefix) -> Route {
    Route { ns: Ns::Host, table: 254, dst, metric: 0, target: RouteTarget::Unreachable, src: None, mtu: None }
}

/// Ranges that another machine holds in this node's name. Peers send them here, and no pod has an address of them.
fn namesakes_ranges<'a>(tables: &'a Tables, network: &'a NetworkName) -> impl Iterator<Item = Prefix> + 'a {
    let claimed = tables.ranges_of.get(&tables.node).into_iter().flatten().filter(move |place| place.0 == *network);
    let of_another = |place: &&(NetworkName, Prefix)| {
        tables.claims.get(*place).is_some_and(|row| row.value.machine != tables.identity.machine_id)
    };
    claimed.filter(of_another).map(|(_, range)| *range)
}

fn tunnel(part: &mut Part, tables: &Tables, network: &Network, mtu: Option<u32>) {
    let Some(name) = paths::tunnel_link(network) else { return };
    let Some(local) = host::outer_family(tables).and_then(|family| host::address(tables, family)) else { return };
    part.add(Link {
        ns: Ns::Host,
        name,
        kind: LinkKind::Vxlan { vni: network.spec.backend.vni, port: network.spec.backend.port, local: local.ip },
        mtu,
        mac: Some(paths::tunnel_mac(&tables.node, network)),
        up: true,
        master: None,
        altname: Some(format!("ripstop.tunnel.{}", network.name).into()),
        port: None,
        no_link_local: true,
    });
}
