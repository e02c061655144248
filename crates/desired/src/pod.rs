//! A pod's interface: both ends of its pair, what lies in its namespace, and the rules at its ingress.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ripstop_fabric::{host, wiring};
use ripstop_netmodel::{
    Address, BridgePort, Entry, Key, Kind, Link, LinkKind, Neighbour, Ns, Qdisc, Record, RecordGuard, RecordScope,
    Resource, Route, RouteTarget, Scope, Sysctl, Veth,
};
use ripstop_objects::Wiring;
use ripstop_tables::{PodRow, PodState, Shaping, StoreKind, Tables};
use ripstop_types::{Family, IfName, Prefix};

use crate::{LEASES, Part, host_ports, network, ruleset};

/// The kernel objects to read when a pod is checked, its namespace's included.
pub fn inspect_keys(tables: &Tables, row: &PodRow) -> BTreeSet<Key> {
    objects(tables, row)
        .iter()
        .map(|entry| entry.object.key())
        .filter(|key| !matches!(key.kind(), Kind::Record | Kind::Sysctl))
        .collect()
}

/// What a pod's namespace has only while a migration lasts. An agent that was away when it ended finds it left over.
pub fn migration_keys(tables: &Tables, row: &PodRow) -> BTreeSet<Key> {
    let ranges = row.ips.iter().filter_map(|ip| Some((*ip, range_of(tables, row, *ip)?)));
    let beside = ranges.filter(|_| row.wiring == Wiring::Bridge).flat_map(|(ip, range)| neighbours_of(ip, range.len()));
    beside.map(|dst| Key::Route { ns: row.ns(), table: 254, dst, metric: 0 }).collect()
}

/// Everything that is wanted for a pod's interface; see [`Tables::pods`].
pub fn objects(tables: &Tables, row: &PodRow) -> Vec<Entry> {
    let mut part = Part::of(row.owner());
    part.add(Record {
        scope: RecordScope::Boot(LEASES.into()),
        key: row.file_key(),
        // The row's types have no map with keys that are not text, so this is never empty.
        value: serde_json::to_string(row).unwrap_or_default().into(),
        guard: RecordGuard::Any,
    });
    if row.state == PodState::Gone {
        // The interface went without a DEL. It is not made again: its namespace may be another's by now.
        return part.entries;
    }
    let mtu = mtu(tables, row);
    links(&mut part, row, mtu.link);
    if let Some(table) = ruleset::of_pod(tables, row) {
        part.add(table);
    }
    for ip in &row.ips {
        match row.wiring {
            Wiring::Routed => routed(&mut part, tables, row, *ip, mtu.route),
            Wiring::Bridge => bridged(&mut part, tables, row, *ip, mtu.route),
        }
    }
    shapers(&mut part, tables, row);
    host_ports::add(&mut part, row);
    if row.netns.is_empty() {
        // Nobody knows where it is; what is in there stays as it is.
        part.entries.retain(|entry| !matches!(entry.object.key().ns(), Some(Ns::Path(_))));
    }
    part.entries
}

/// How long packets of a pod may be, in bytes.
struct Mtu {
    /// What its link takes; none where that is not known, and then it stays as it is.
    link: Option<u32>,
    /// What it sends, where that is less.
    route: Option<u32>,
}

/// The MTU of a pod follows that of its network, unless its CNI configuration named one.
fn mtu(tables: &Tables, row: &PodRow) -> Mtu {
    if row.fixed_mtu {
        return Mtu { link: Some(row.mtu), route: None };
    }
    let Some(network) = tables.networks.get(&row.network).map(|network| &*network.value) else {
        return Mtu { link: None, route: None };
    };
    // Without an uplink it stays what it was.
    let link = host::link_mtu(tables, network).unwrap_or(row.mtu);
    let route = host::pod_mtu(tables, network).filter(|mtu| *mtu < link);
    Mtu { link: Some(link), route }
}

fn links(part: &mut Part, row: &PodRow, mtu: Option<u32>) {
    let bridged = row.wiring == Wiring::Bridge;
    part.add(Link {
        ns: Ns::Host,
        name: row.host_link.clone(),
        kind: LinkKind::Veth(Veth { ns: row.ns(), name: row.attachment.ifname.clone(), mac: row.mac }),
        mtu,
        mac: Some(row.host_mac),
        up: true,
        master: bridged.then(|| wiring::node_link(&row.network)),
        altname: Some(altname(row, &row.host_link).into()),
        port: bridged.then_some(BridgePort { hairpin: true, learning: true }),
        no_link_local: true,
        tx_checksum: None,
    });
    part.add(Link {
        ns: row.ns(),
        name: row.attachment.ifname.clone(),
        kind: LinkKind::VethPeer,
        mtu,
        mac: Some(row.mac),
        up: true,
        master: None,
        altname: None,
        port: None,
        no_link_local: true,
        tx_checksum: None,
    });
    if let Ok(name) = "lo".parse() {
        part.add(Link {
            ns: row.ns(),
            name,
            kind: LinkKind::Loopback,
            mtu: None,
            mac: None,
            up: true,
            master: None,
            altname: None,
            port: None,
            no_link_local: false,
            tx_checksum: None,
        });
    }
}

/// Buckets in both directions. What a pod sends is held on the host's side, where the pod cannot take the bucket away: its
/// table hands what passes to a device, which gives it back to the link (see [`ruleset::of_pod`]). A kernel without such
/// devices has it on the pod's own end.
fn shapers(part: &mut Part, tables: &Tables, row: &PodRow) {
    if let Some(limit) = row.bandwidth.ingress {
        part.add(shaper(Ns::Host, row.host_link.clone(), limit));
    }
    let Some(limit) = row.bandwidth.egress else { return };
    let Some(device) = ruleset::shaper(tables, row) else {
        return part.add(shaper(row.ns(), row.attachment.ifname.clone(), limit));
    };
    part.add(Link {
        ns: Ns::Host,
        name: device.name.clone(),
        kind: LinkKind::Ifb { index: device.index },
        mtu: None,
        mac: None,
        up: true,
        master: None,
        altname: Some(altname(row, &device.name).into()),
        port: None,
        no_link_local: true,
        tx_checksum: None,
    });
    part.add(shaper(Ns::Host, device.name, limit));
}

/// An alternative name that tells whose link it is; at most 127 bytes (`ALTIFNAMSIZ`), without '/'.
fn altname(row: &PodRow, link: &IfName) -> String {
    let mut name = match &row.pod {
        Some(pod) => format!("ripstop.pod.{}.{}.{}", pod.namespace, pod.name, row.attachment.ifname),
        None => format!("ripstop.container.{}.{}", row.attachment.container, row.attachment.ifname),
    };
    // Two containers of one pod name (the old one not yet gone) must not collide: alternative names are unique.
    let room = 127 - link.as_str().len() - 1;
    if name.len() > room {
        name.truncate(room);
    }
    format!("{name}.{link}")
}

fn routed(part: &mut Part, tables: &Tables, row: &PodRow, ip: IpAddr, mtu: Option<u32>) {
    let family = Family::of(ip);
    let (link, eth) = (&row.host_link, &row.attachment.ifname);
    let router = wiring::router(family);
    part.add(Neighbour { ns: Ns::Host, link: link.clone(), ip, mac: row.mac });
    part.add(Route {
        ns: Ns::Host,
        table: 254,
        dst: Prefix::host(ip),
        metric: 0,
        target: RouteTarget::Link(link.clone()),
        src: source(tables, row, family),
        mtu: None,
    });
    in_pod(part, tables, row, ip, family.bits(), router, mtu);
    part.add(Neighbour { ns: row.ns(), link: eth.clone(), ip: router, mac: row.host_mac });
    match family {
        // Only the way out needs it: there is one router's address for all interfaces.
        Family::V4 if earlier(tables, row, family).next().is_none() => part.add(Route {
            ns: row.ns(),
            table: 254,
            dst: Prefix::host(router),
            metric: 0,
            target: RouteTarget::Link(eth.clone()),
            src: None,
            mtu: None,
        }),
        Family::V4 => {}
        Family::V6 => {
            part.add(Address { ns: Ns::Host, link: link.clone(), ip: router, len: 64, scope: Scope::Link });
        }
    }
}

fn bridged(part: &mut Part, tables: &Tables, row: &PodRow, ip: IpAddr, mtu: Option<u32>) {
    let Some((range, gateway)) = range_of(tables, row, ip).and_then(|range| Some((range, wiring::node_ip(&range)?)))
    else {
        return;
    };
    in_pod(part, tables, row, ip, range.len(), gateway, mtu);
}

/// The range of this node that an address was leased from. Where none is known any more it is told by the network: a pod
/// keeps what it has, whatever becomes of the claim.
fn range_of(tables: &Tables, row: &PodRow, ip: IpAddr) -> Option<Prefix> {
    let mut own = network::own_ranges(tables, &row.network).into_iter().chain(row.ranges.iter().copied());
    own.find(|range| range.contains(ip)).or_else(|| {
        let spec = &tables.networks.get(&row.network)?.value.spec;
        Prefix::containing(ip, spec.node_range_len.get(Family::of(ip)))
    })
}

/// The node's address that it talks to the pod from. While claims are not known, the one it had when the pod came.
fn source(tables: &Tables, row: &PodRow, family: Family) -> Option<IpAddr> {
    let network = tables.networks.get(&row.network);
    let then = || match network {
        Some(network) => wiring::own_ip(&network.value, family, row.ranges.iter().copied()),
        None => row.ranges.iter().find(|range| range.family() == family).and_then(wiring::node_ip),
    };
    network::own_ip(tables, &row.network, family)
        .or_else(|| if tables.knows(StoreKind::Claims) { None } else { then() })
}

/// The pod's interfaces of a family that came before this one.
fn earlier<'a>(tables: &'a Tables, row: &PodRow, family: Family) -> impl Iterator<Item = &'a Arc<PodRow>> {
    let place = (row.since, row.attachment.clone());
    let has_family = move |other: &Arc<PodRow>| other.ips.iter().any(|ip| Family::of(*ip) == family);
    tables
        .interfaces_of(&row.attachment)
        .filter(move |other| (other.since, other.attachment.clone()) < place && has_family(other))
}

/// Address and routes in the pod's namespace. The first interface is the way out. One more leads to its own network,
/// unless an earlier one does; answers from its address to anywhere else leave by the first.
fn in_pod(part: &mut Part, tables: &Tables, row: &PodRow, ip: IpAddr, len: u8, gateway: IpAddr, mtu: Option<u32>) {
    let family = Family::of(ip);
    let eth = row.attachment.ifname.clone();
    if ip.is_ipv6() {
        // Runtimes switch IPv6 off in new namespaces.
        let path = format!("net/ipv6/conf/{eth}/disable_ipv6");
        part.add(Sysctl { ns: row.ns(), link: Some(eth.clone()), path: path.into(), value: "0".into() });
    }
    part.add(Address { ns: row.ns(), link: eth.clone(), ip, len, scope: Scope::Global });
    let mut earlier = earlier(tables, row, family).peekable();
    let is_first = earlier.peek().is_none();
    let dsts: Vec<Prefix> = if is_first {
        vec![Prefix::default_route(family)]
    } else {
        let network = tables.networks.get(&row.network).filter(|_| earlier.all(|other| other.network != row.network));
        network.map(|network| network.value.spec.whole(family).collect()).unwrap_or_default()
    };
    let mtu = mtu.map(|mtu| if family == Family::V6 { apart_from_link(mtu) } else { mtu });
    let onlink = !is_first && row.wiring == Wiring::Routed;
    let by_gateway = RouteTarget::Via { link: eth.clone(), gateway, onlink };
    let routes = dsts.into_iter().map(|dst| (dst, by_gateway.clone()));
    let beside = mtu.map(|_| neighbours_of(ip, len)).into_iter().flatten();
    for (dst, target) in routes.chain(beside.map(|dst| (dst, RouteTarget::Link(eth.clone())))) {
        part.add(Route { ns: row.ns(), table: 254, dst, metric: 0, target, src: None, mtu });
    }
}

/// What an address of this length finds on its link, in two halves: they go before the kernel's own route of the whole,
/// which takes no MTU of its own (`fib_add_ifaddr`, `addrconf_prefix_route`). None where the address is alone.
fn neighbours_of(ip: IpAddr, len: u8) -> impl Iterator<Item = Prefix> {
    let whole = Prefix::containing(ip, len).filter(|whole| whole.len() < whole.family().bits());
    whole.into_iter().flat_map(move |whole| (0..2).filter_map(move |half| whole.subnet(len + 1, half)))
}

/// An MTU for an IPv6 route over a link that grows from this MTU: the kernel raises a route whose MTU is the link's along
/// with the link (`rt6_mtu_change_route`), and leaves one that is less alone. Not below what every link must carry (RFC
/// 8200, section 5).
fn apart_from_link(mtu: u32) -> u32 {
    mtu.saturating_sub(1).max(1280)
}

/// A token bucket: the burst as asked, at least a few packets and what passes in 4 ms, since a timer that comes late must
/// not cost rate; a queue of 25 ms, at least as many packets.
fn shaper(ns: Ns, link: IfName, limit: Shaping) -> Qdisc {
    const PACKETS: u64 = 10 * 1600;
    let bytes = |bits: u64| u32::try_from(bits / 8).unwrap_or(u32::MAX);
    let least = u32::try_from(PACKETS).unwrap_or(u32::MAX);
    let burst = bytes(limit.burst).max(bytes(limit.rate / 250)).max(least);
    let queue = bytes(limit.rate / 40).max(least);
    Qdisc { ns, link, rate: limit.rate, burst, limit: burst.saturating_add(queue) }
}
