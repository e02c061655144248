//! Node ports at `::1`, which no rule of the kernel can serve.
//!
//! Linux lets packets from 127.0.0.1 leave by a setting (`route_localnet`), and has none for `::1`. So somebody on the node listens there
//! and passes on what comes, for TCP alone (KEP-6032). He connects as the node itself, and so to where its own packets go.
//!
//! Not here: sockets.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use ripstop_objects::service::Protocol;
use ripstop_tables::{At, Place, ServiceTables};
use ripstop_types::{Family, ServiceName};

use crate::{Node, is_served};

/// Where connections to a port at `::1` go.
pub type Relays = BTreeMap<u16, SocketAddr>;

/// Those of a Service: to the same port at an address of the node where that is served, else to its ClusterIP, which differs from it where
/// the policies for both do.
#[must_use]
pub fn relays(node: &Node, tables: &ServiceTables, name: &ServiceName) -> Relays {
    let Some(service) = tables.service(name).filter(|service| node.localhost && is_served(node, service)) else {
        return Relays::new();
    };
    let is_v6 = |ip: &&std::net::IpAddr| ip.is_ipv6();
    let Some(cluster) = service.cluster_ips.iter().find(is_v6) else { return Relays::new() };
    let own = node.node_port_addresses.iter().filter(is_v6).find(|ip| !ip.is_loopback());
    let tcp = service.ports.iter().filter(|port| port.protocol == Protocol::Tcp);
    tcp.filter_map(|port| {
        let number = port.node_port?;
        let place = Place { at: At::Node(Family::V6), protocol: Protocol::Tcp, port: number };
        let holder = tables.holder(node.proxy_name.as_ref(), node.external_ips, &place);
        let to = own.map_or(SocketAddr::new(*cluster, port.port), |own| SocketAddr::new(*own, number));
        (holder == Some(name)).then_some((number, to))
    })
    .collect()
}
