//! What this node tells its peers about itself.

use std::net::{Ipv4Addr, Ipv6Addr};

use ripstop_objects::{Network, NodeRecord, Receive, VxlanReceive};
use ripstop_tables::{Row, Tables};
use ripstop_types::{Family, Revision};

use crate::{forwarder, host, ipip, paths, wiring};

/// This node's record; `None` until it has an address.
///
/// A way to receive is named only when its device is in the kernel, and that of the backend `udp` when a forwarder is set
/// up: a peer that reads it may send at once.
pub fn record(tables: &Tables) -> Option<NodeRecord> {
    let addresses = host::addresses(tables);
    if addresses.is_empty() {
        return None;
    }
    let mut receives = vec![Receive::Plain];
    receives.extend(tables.networks.values().filter_map(|row| vxlan(tables, &row.value)).map(Receive::Vxlan));
    receives.extend(forwarder::receive(tables));
    receives.extend(ipip::receive(tables));
    // In a migration a node speaks of a network when nothing of its own is left to do.
    let is_prepared = |network: &Row<Network>| {
        network.value.migration.is_none() || tables.prepared.get(&network.value.name) == Some(&network.revision)
    };
    let realised =
        |row: &Row<Network>| tables.realised.contains(&wiring::node_link(&row.value.name)) && is_prepared(row);
    let revisions = |rows: &mut dyn Iterator<Item = &Row<Network>>| {
        rows.map(|row| (row.value.name.clone(), Revision(row.revision.0))).collect()
    };
    Some(NodeRecord {
        name: tables.node.clone(),
        identity: tables.identity.clone(),
        addresses,
        receives,
        prefers: Vec::new(),
        forwarder: tables.facts.forwarder,
        pod_mtu: tables.networks.values().filter_map(|row| host::pod_mtu(tables, &row.value)).min(),
        probe_port: tables.probe_port,
        networks: revisions(&mut tables.networks.values().filter(|row| realised(row))),
        migrated: tables.migrated.clone(),
        version: tables.version.clone(),
        labels: tables.config.labels.clone(),
    })
}

fn vxlan(tables: &Tables, network: &Network) -> Option<VxlanReceive> {
    let link = paths::vxlan_link(network)?;
    if !tables.realised.contains(&link) {
        return None;
    }
    let outer = host::outer_family(tables)?;
    let outer_ip = host::address(tables, outer)?.ip;
    let inner = |family| wiring::own_ip(network, family, tables.ranges(&tables.node, &network.name, family));
    let v4 = |ip| if let Some(std::net::IpAddr::V4(ip)) = ip { Some(ip) } else { None::<Ipv4Addr> };
    let v6 = |ip| if let Some(std::net::IpAddr::V6(ip)) = ip { Some(ip) } else { None::<Ipv6Addr> };
    Some(VxlanReceive {
        vni: network.spec.backend.vni,
        port: network.spec.backend.port,
        mac: paths::own_tunnel_mac(tables, network),
        outer_v4: v4(Some(outer_ip)),
        outer_v6: v6(Some(outer_ip)),
        inner_v4: v4(inner(Family::V4)),
        inner_v6: v6(inner(Family::V6)),
    })
}
