//! A network's own objects on this node: node link, tunnel device, ranges.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ripstop_fabric::ipip::Carrier;
use ripstop_fabric::{egress, forwarder, host, ipip, paths, taken, wiring};
use ripstop_netmodel::{
    Address, Entry, Forwarder, IpipProgram, Link, LinkKind, Ns, Route, RouteTarget, Scope, Sysctl, TAKEN_MARK,
};
use ripstop_objects::{Encapsulation, Network, NetworkName, RangeMode, Wiring};
use ripstop_tables::{Checksums, Tables};
use ripstop_types::{Family, IfName, Prefix};

use crate::{Part, ruleset};

pub(crate) fn objects(tables: &Tables, network: &Network) -> Vec<Entry> {
    let owner = network.owner();
    let mut part = Part::of(owner.clone());
    let own = own_ranges(tables, &network.name);
    let whole = Family::BOTH.into_iter().flat_map(|family| network.spec.whole(family));
    // Of a pool that is gone pods may still have addresses.
    let plain: BTreeSet<Prefix> = whole.chain(own.iter().copied()).collect();
    for range in plain.into_iter().filter(|range| !is_plain_anyway(tables, range)) {
        part.add(ruleset::interval(ruleset::sets(range.family()).plain, range, &owner));
    }
    for range in &own {
        part.add(ruleset::interval(ruleset::sets(range.family()).local, *range, &owner));
    }
    // Without an uplink the MTU is not known; it stays as it is, and so does everything that needs no uplink.
    let mtu = host::link_mtu(tables, network);
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
        tx_checksum: None,
    });
    for range in &own {
        own_range(&mut part, tables, network, &link, *range);
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
    tunnels(&mut part, tables, network);
    flannels_bridge(&mut part, tables, network);
    if network.migration.is_some() || host::uplinks(tables, Family::V4).len() > 1 {
        loose_sources(&mut part, tables, network);
    }
    part.entries
}

/// The ranges of this node: what it may use, and what the store says this machine holds. After a start without a snapshot
/// the second is known before the first, and the node's address must not go in between.
pub(crate) fn own_ranges(tables: &Tables, network: &NetworkName) -> Vec<Prefix> {
    let claimed = tables.ranges_of.get(&tables.node).into_iter().flatten().filter(|place| place.0 == *network);
    let of_this_machine = claimed
        .filter(|place| tables.claims.get(*place).is_some_and(|row| row.value.machine == tables.identity.machine_id));
    let usable = tables.own_ranges.get(network).into_iter().flatten();
    let mut ranges: Vec<Prefix> = usable.chain(of_this_machine.map(|(_, range)| range)).copied().collect();
    ranges.sort_unstable();
    ranges.dedup();
    ranges
}

/// This node's address towards pods of a family: the source of every route to them.
pub fn own_ip(tables: &Tables, network: &NetworkName, family: Family) -> Option<IpAddr> {
    let own = own_ranges(tables, network);
    match tables.networks.get(network) {
        Some(row) => wiring::own_ip(&row.value, family, own),
        None => own.iter().find(|range| range.family() == family).and_then(wiring::node_ip),
    }
}

/// Whether a greater range sees pods' addresses already. The kernel refuses an interval that overlaps another of its set.
pub(crate) fn is_plain_anyway(tables: &Tables, range: &Prefix) -> bool {
    let networks = tables.networks.values().flat_map(|row| row.value.spec.whole(range.family()));
    networks.chain(egress::always_plain(range.family())).any(|other| other != *range && other.covers(range))
}

/// The bridge that Flannel's pods hang on. They ask on it for pods of this node that are elsewhere.
fn flannels_bridge(part: &mut Part, tables: &Tables, network: &Network) {
    let Some((name, link)) = taken::needed_bridge(tables, network) else { return };
    part.add(Link {
        ns: Ns::Host,
        name: name.clone(),
        kind: LinkKind::Bridge,
        mtu: None,
        mac: link.mac.filter(|_| !link.taken),
        up: true,
        master: None,
        altname: Some(format!("{TAKEN_MARK}{}", network.name).into()),
        port: None,
        no_link_local: false,
        tx_checksum: None,
    });
    let settings = [("conf", "proxy_arp", "1"), ("neigh", "proxy_delay", "0")];
    for (folder, setting, value) in settings {
        let path = format!("net/ipv4/{folder}/{name}/{setting}");
        part.add(Sysctl { ns: Ns::Host, link: None, path: path.into(), value: value.into() });
    }
}

fn own_range(part: &mut Part, tables: &Tables, network: &Network, link: &IfName, range: Prefix) {
    if network.spec.range_mode == RangeMode::Blocks {
        if network.spec.is_for_nodes(&range) {
            let (ip, len) = (range.addr(), range.family().bits());
            part.add(Address { ns: Ns::Host, link: link.clone(), ip, len, scope: Scope::Global });
        } else {
            part.add(no_pod(range));
        }
        return;
    }
    let len = match network.spec.wiring {
        Wiring::Routed => range.family().bits(),
        Wiring::Bridge => range.len(),
    };
    if let Some(ip) = wiring::node_ip(&range) {
        part.add(Address { ns: Ns::Host, link: link.clone(), ip, len, scope: Scope::Global });
    }
    if network.spec.wiring == Wiring::Routed {
        // An address no pod has neither loops between nodes nor leaves by the default route. A bridge that Flannel's pods
        // hang on has a route to the same destination, which comes first.
        let follows = tables.taken_network() == Some(&network.name);
        part.add(Route { metric: if follows { BEHIND_PODS } else { 0 }, ..unreachable(range) });
    }
}

/// The same for a block or a borrowed address; behind the pod's own route where that has the same destination.
fn no_pod(dst: Prefix) -> Route {
    let metric = if dst.len() == dst.family().bits() { BEHIND_PODS } else { 0 };
    Route { metric, ..unreachable(dst) }
}

/// A metric greater than that of pods' routes, which is 0 in IPv4 and 1024 in IPv6 (`IP6_RT_PRIO_USER`).
const BEHIND_PODS: u32 = 4096;

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

/// While peers may answer by another way than the one by which they are asked, the kernel must not take the sources of their
/// packets for forged: reverse-path filter 2 (RFC 3704, loose) outweighs a strict one for all links.
fn loose_sources(part: &mut Part, tables: &Tables, network: &Network) {
    // IPv6 has no such setting.
    if network.spec.ranges.get(Family::V4).is_none() {
        return;
    }
    let mut loosen = |name: &IfName, link: Option<IfName>| {
        let path = format!("net/ipv4/conf/{name}/rp_filter");
        part.add(Sysctl { ns: Ns::Host, link, path: path.into(), value: "2".into() });
    };
    for link in host::uplinks(tables, Family::V4).into_iter().map(|uplink| uplink.link).collect::<BTreeSet<_>>() {
        loosen(link, None);
    }
    for (_, tunnel) in paths::tunnel_links(network) {
        loosen(&tunnel.clone(), Some(tunnel));
    }
}

/// The source of tunnel packets: this node's address. Where it has several it is left to the route of each.
fn tunnel_source(tables: &Tables) -> Option<IpAddr> {
    let family = host::outer_family(tables)?;
    match host::uplinks(tables, family)[..] {
        [only] => Some(only.address.ip),
        _ => Some(Prefix::default_route(family).addr()),
    }
}

fn tunnels(part: &mut Part, tables: &Tables, network: &Network) {
    let Some(local) = tunnel_source(tables) else { return };
    for (encapsulation, name) in paths::tunnel_links(network) {
        if let Some(ip) = own_ip(tables, &network.name, Family::V4) {
            // A peer may answer by another way than it was asked. On a link without an address the kernel takes such a
            // packet for forged, even where its reverse-path filter is loose (`__fib_validate_source`).
            part.add(Address { ns: Ns::Host, link: name.clone(), ip, len: 32, scope: Scope::Link });
        }
        let backend = network.spec.backend;
        let (kind, mac, word) = match encapsulation {
            Encapsulation::Udp => (LinkKind::Tun, None, "udp"),
            Encapsulation::Ipip => {
                let Some(local) = ipip::local(tables) else { continue };
                match ipip::carrier(tables) {
                    Carrier::Device => (LinkKind::Ipip { local }, None, "ipip"),
                    Carrier::Programs => {
                        let mac = ipip::link_mac(&tables.node);
                        let uplinks: BTreeSet<IfName> =
                            host::uplinks(tables, Family::V4).into_iter().map(|uplink| uplink.link.clone()).collect();
                        part.add(IpipProgram {
                            link: name.clone(),
                            mac,
                            local,
                            uplinks: uplinks.into_iter().collect(),
                        });
                        (LinkKind::Ifb { index: wiring::shaper_index(&name) }, Some(mac), "ipip")
                    }
                }
            }
            Encapsulation::Vxlan | Encapsulation::None => {
                let kind = LinkKind::Vxlan { vni: backend.vni, port: backend.port, local };
                (kind, Some(paths::own_tunnel_mac(tables, network)), "tunnel")
            }
        };
        // Switched off where some peer does not get what is left to be filled in. It is not touched where that never was.
        let tx_checksum = tables.checksums.get(&name).map(|state| *state != Checksums::Broken);
        part.add(Link {
            ns: Ns::Host,
            name,
            kind,
            mtu: host::tunnel_mtu(tables, network, encapsulation),
            mac,
            up: true,
            master: None,
            altname: Some(format!("ripstop.{word}.{}", network.name).into()),
            port: None,
            no_link_local: true,
            tx_checksum,
        });
    }
    // Where no forwarder runs nobody can be told; its device and the routes stay as they are.
    if let Some(link) = forwarder::device(network).filter(|_| tables.facts.forwarder)
        && let Some(listen) = forwarder::listen(tables, network)
    {
        part.add(Forwarder { link, listen: vec![listen] });
    }
}
