//! What the product wants in a world of the suite.

use std::fmt::Display;
use std::net::{Ipv4Addr, Ipv6Addr};

use ripstop_conformance::services::Stop;
use ripstop_desired::services::{self, Rules};
use ripstop_netmodel::{IptablesBackend, Model, Resource};
use ripstop_objects::{ConntrackConfig, IpvsConfig};
use ripstop_oracle::services::{DetectLocal, World};
use ripstop_services::Node;
use ripstop_tables::ServiceTables;
use ripstop_types::{Revision, ServiceName};

/// What rules are written in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Compiler {
    /// Tables of nftables.
    #[default]
    Nftables,
    /// Chains of iptables, by one of its backends.
    Iptables(IptablesBackend),
    /// Virtual servers of IPVS, behind tables of nftables.
    Ipvs,
}

/// What the product wants in this world. Slots stay as they are in the model before.
///
/// # Errors
/// The world has what the product cannot be told.
pub fn wanted(compiler: Compiler, world: &World, before: &Model) -> Result<Model, Stop> {
    let rules = rules(world)?;
    let (node, tables) = told(world, &rules);
    let (pods, ranges) = (&node.pods, &world.service_cidrs);
    let place = |backend| services::iptables::Place { backend, ipv6: true };
    let ipvs = IpvsConfig::default();
    let base = match compiler {
        Compiler::Nftables => services::nftables::base(pods, ranges, &rules),
        Compiler::Iptables(backend) => {
            services::iptables::base(place(backend), &node.node_port_addresses, pods, ranges, &rules)
        }
        Compiler::Ipvs => services::ipvs::base(ipvs, pods, ranges, &rules),
    };
    let links = rules.pod_links.as_ref();
    let objects = |name: &ServiceName| match compiler {
        Compiler::Nftables => services::nftables::objects(&node, &tables, name, before),
        Compiler::Iptables(backend) => services::iptables::objects(place(backend), links, &node, &tables, name),
        Compiler::Ipvs => services::ipvs::objects(ipvs, &node, &tables, name),
    };
    // As in the product: who comes first has a key that several want.
    let loopback = if world.localhost_node_ports { services::loopback() } else { Vec::new() };
    let mut model: Model = base.into_iter().chain(loopback).collect();
    for service in tables.services() {
        for entry in objects(&service.name) {
            if model.get(&entry.object.key()).is_none() {
                model.insert_entry(entry.into());
            }
        }
    }
    Ok(model)
}

/// Whether the product serves in such a world.
///
/// # Errors
/// A skip with the reason.
pub fn possible_in(compiler: Compiler, world: &World) -> Result<(), Stop> {
    if !world.listed.is_whole() {
        return Err(Stop::Skip("until both kinds are listed the agent makes no rules at all".into()));
    }
    if compiler == Compiler::Ipvs && world.localhost_node_ports {
        return Err(Stop::Skip("IPVS sends nothing on from loopback addresses: the configuration refuses it".into()));
    }
    Ok(())
}

/// What the product is told of this world.
pub(crate) fn told(world: &World, rules: &Rules) -> (Node, ServiceTables) {
    let mut tables = ServiceTables::default();
    for service in &world.services {
        tables.put_service(service.clone(), Revision(1));
    }
    for slice in &world.slices {
        tables.put_slice(slice.clone());
    }
    let localhost = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let node_port_addresses =
        world.addresses.iter().copied().chain(localhost).filter(|ip| world.has_node_ports_at(*ip));
    let pods = match &world.detect_local {
        DetectLocal::ClusterCidr(ranges) => ranges.clone(),
        _ => world.pod_ranges.clone(),
    };
    let node = Node {
        name: world.node.clone(),
        zone: world.zone.clone(),
        addresses: world.addresses.clone(),
        node_port_addresses: node_port_addresses.collect(),
        localhost: world.localhost_node_ports,
        pods,
        pods_by_link: rules.pod_links.is_some(),
        external_ips: world.external_ips,
        proxy_name: world.proxy_name.clone(),
    };
    (node, tables)
}

/// How the product makes rules in this world.
pub(crate) fn rules(world: &World) -> Result<Rules, Stop> {
    let pod_links = match &world.detect_local {
        DetectLocal::NodeRanges | DetectLocal::ClusterCidr(_) => None,
        DetectLocal::Bridge(name) => Some(name.parse().map_err(untold)?),
        DetectLocal::InterfacePrefix(prefix) => Some(format!("{prefix}*").parse().map_err(untold)?),
    };
    Ok(Rules { masquerade_all: world.masquerade_all, liberal: world.conntrack.tcp_be_liberal, pod_links })
}

/// The product's configuration of connection tracking in this world.
///
/// # Errors
/// The world has a number that its configuration does not take.
pub fn settings(world: &World) -> Result<ConntrackConfig, Stop> {
    let of = &world.conntrack;
    Ok(ConntrackConfig {
        max_per_core: of.max_per_core.try_into().map_err(untold)?,
        min: of.min.try_into().map_err(untold)?,
        tcp_established_timeout: of.tcp_established_timeout * 1_000,
        tcp_close_wait_timeout: of.tcp_close_wait_timeout * 1_000,
        tcp_be_liberal: of.tcp_be_liberal,
        udp_timeout: of.udp_timeout * 1_000,
        udp_stream_timeout: of.udp_stream_timeout * 1_000,
    })
}

fn untold(error: impl Display) -> Stop {
    Stop::Fail(format!("the configuration does not take what the world has: {error}"))
}
