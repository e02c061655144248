//! Which Service a destination belongs to.

use std::net::IpAddr;

use ripstop_objects::service::{Protocol, Service, ServiceKind, ServicePort};
use ripstop_types::Family;

use super::world::World;

/// How a packet reached its Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// By `spec.clusterIPs`.
    ClusterIp,
    /// By `spec.externalIPs`.
    External,
    /// By `status.loadBalancer.ingress`.
    Balancer,
    /// By `nodePort` at an address of the node.
    NodePort,
}

/// A port of a Service, as reached by a packet.
#[derive(Debug, Clone, Copy)]
pub struct Frontend<'a> {
    pub service: &'a Service,
    pub port: &'a ServicePort,
    pub entry: Entry,
}

/// The Services this proxy serves, in order of their names: of two that claim a destination the first has it.
pub fn served(world: &World) -> Vec<&Service> {
    let ours = |service: &&Service| {
        !service.headless && service.kind != ServiceKind::ExternalName && service.proxy_name == world.proxy_name
    };
    let mut services: Vec<&Service> = world.services.iter().filter(ours).collect();
    services.sort_by(|a, b| a.name.cmp(&b.name));
    services
}

/// Whose a destination is. An address that a Service names goes before a node port.
pub fn find(world: &World, ip: IpAddr, protocol: Protocol, number: u16) -> Option<Frontend<'_>> {
    let services = served(world);
    let named = services.iter().find_map(|service| {
        let entry = entry_of(world, service, ip)?;
        let port = service.ports.iter().find(|port| (port.protocol, port.port) == (protocol, number))?;
        Some(Frontend { service, port, entry })
    });
    named.or_else(|| {
        if !world.has_node_ports_at(ip) {
            return None;
        }
        services.iter().filter(|service| has_node_ports(service) && has_family(service, ip)).find_map(|service| {
            let mut ports = service.ports.iter();
            let port = ports.find(|port| port.protocol == protocol && port.node_port == Some(number))?;
            Some(Frontend { service, port, entry: Entry::NodePort })
        })
    })
}

/// Whether an address is the ClusterIP of a Service that is served here.
pub fn is_cluster_ip(world: &World, ip: IpAddr) -> bool {
    served(world).iter().any(|service| service.cluster_ips.contains(&ip))
}

/// Whether an address lies where ClusterIPs come from, and nobody serves it: neither we nor another proxy. One that is labelled headless
/// is served by none.
pub fn is_unallocated(world: &World, ip: IpAddr) -> bool {
    world.service_cidrs.iter().any(|range| range.contains(ip))
        && !world.services.iter().any(|service| !service.headless && service.cluster_ips.contains(&ip))
}

fn entry_of(world: &World, service: &Service, ip: IpAddr) -> Option<Entry> {
    if !has_family(service, ip) {
        return None;
    }
    if service.cluster_ips.contains(&ip) {
        return Some(Entry::ClusterIp);
    }
    if world.external_ips && service.external_ips.contains(&ip) {
        return Some(Entry::External);
    }
    // With `ipMode: Proxy` the balancer sends to addresses of nodes; a packet to its own address has to reach it.
    let balanced = service.kind == ServiceKind::LoadBalancer
        && service.ingress.iter().any(|ingress| ingress.ip == ip && !ingress.is_proxied);
    balanced.then_some(Entry::Balancer)
}

/// A Service has the families of its ClusterIPs (`spec.ipFamilies`), at every kind of address.
fn has_family(service: &Service, ip: IpAddr) -> bool {
    service.cluster_ips.iter().any(|own| Family::of(*own) == Family::of(ip))
}

fn has_node_ports(service: &Service) -> bool {
    matches!(service.kind, ServiceKind::NodePort | ServiceKind::LoadBalancer)
}
