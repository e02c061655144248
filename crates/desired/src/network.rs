//! A network's own objects on this node: node link, tunnel device, ranges.

use ripstop_fabric::{host, paths, wiring};
use ripstop_netmodel::{Address, Entry, Link, LinkKind, Ns, Route, RouteTarget, Scope};
use ripstop_objects::{Network, Wiring};
use ripstop_tables::Tables;
use ripstop_types::{Family, IfName, Prefix};

use crate::node::interval;
use crate::{Part, ruleset};

pub(crate) fn objects(tables: &Tables, network: &Network) -> Vec<Entry> {
    let owner = network.owner();
    let mut part = Part::of(owner.clone());
    for range in network.spec.ranges.iter() {
        part.add(interval(ruleset::sets(range.family()).plain, range, &owner));
    }
    let own: Vec<Prefix> = tables.own_ranges.get(&network.name).cloned().unwrap_or_default();
    for range in &own {
        part.add(interval(ruleset::sets(range.family()).local, *range, &owner));
    }
    // Without an uplink the MTU is not known yet; what is there stays as the last plan left it.
    let Some(mtu) = host::pod_mtu(tables, network) else { return part.entries };
    let link = wiring::node_link(&network.name);
    part.add(Link {
        ns: Ns::Host,
        name: link.clone(),
        kind: LinkKind::Bridge,
        mtu: Some(mtu),
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
        part.add(Route {
            ns: Ns::Host,
            table: 254,
            dst: range,
            metric: 0,
            target: RouteTarget::Unreachable,
            src: None,
            mtu: None,
        });
    }
}

fn tunnel(part: &mut Part, tables: &Tables, network: &Network, mtu: u32) {
    let Some(name) = paths::tunnel_link(network) else { return };
    let Some(local) = host::outer_family(tables).and_then(|family| host::address(tables, family)) else { return };
    part.add(Link {
        ns: Ns::Host,
        name,
        kind: LinkKind::Vxlan { vni: network.spec.backend.vni, port: network.spec.backend.port, local: local.ip },
        mtu: Some(mtu),
        mac: Some(paths::tunnel_mac(&tables.node, network)),
        up: true,
        master: None,
        altname: Some(format!("ripstop.tunnel.{}", network.name).into()),
        port: None,
        no_link_local: true,
    });
}
