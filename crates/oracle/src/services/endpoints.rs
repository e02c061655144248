//! Which endpoints a packet may go to.
//!
//! Each choice is made among the endpoints of one port of a Service in one family.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ripstop_objects::service::{Endpoint, EndpointSlice, Service, ServicePort};
use ripstop_types::Family;

use super::world::World;

/// Endpoints of one port in one family.
pub struct Endpoints<'a> {
    world: &'a World,
    all: BTreeMap<SocketAddr, &'a Endpoint>,
}

impl<'a> Endpoints<'a> {
    /// What the slices of a Service say of one of its ports. A slice's port is a Service's of the same name and protocol. While an
    /// endpoint moves, two slices may list it: the one that says the best of it counts, and of equals the first by the slice's name.
    pub fn of(world: &'a World, service: &Service, port: &ServicePort, family: Family) -> Self {
        let mut all: BTreeMap<SocketAddr, &'a Endpoint> = BTreeMap::new();
        for slice in slices(world, service, family) {
            let numbers = slice.ports.iter().filter(|at| at.name == port.name && at.protocol == port.protocol);
            for number in numbers.map(|at| at.port) {
                for endpoint in &slice.endpoints {
                    let address = SocketAddr::new(endpoint.ip, number);
                    let known = all.entry(address).or_insert(endpoint);
                    if rank(endpoint) > rank(known) {
                        *known = endpoint;
                    }
                }
            }
        }
        Self { world, all }
    }

    /// Those for traffic of the whole cluster: the ready ones, near ones alone where hints say so; without a ready one, those that still
    /// serve while they end.
    pub fn cluster(&self) -> BTreeSet<SocketAddr> {
        let ready = self.which(|endpoint| endpoint.ready);
        if ready.is_empty() { self.which(is_ending) } else { self.near(ready) }
    }

    /// Those of this node, ready ones first, as above; hints do not matter.
    pub fn local(&self) -> BTreeSet<SocketAddr> {
        let here = |endpoint: &Endpoint| endpoint.node.as_ref() == Some(&self.world.node);
        let ready = self.which(|endpoint| here(endpoint) && endpoint.ready);
        if ready.is_empty() { self.which(|endpoint| here(endpoint) && is_ending(endpoint)) } else { ready }
    }

    /// Those that answer, whatever any policy says.
    pub fn serving(&self) -> BTreeSet<SocketAddr> {
        self.which(|endpoint| endpoint.ready || endpoint.serving)
    }

    fn which(&self, is: impl Fn(&Endpoint) -> bool) -> BTreeSet<SocketAddr> {
        self.all.iter().filter(|(_, endpoint)| is(endpoint)).map(|(address, _)| *address).collect()
    }

    /// PreferSameNode, where every ready endpoint is hinted for nodes and one for this; else PreferSameZone by the same rule; else all.
    fn near(&self, ready: BTreeSet<SocketAddr>) -> BTreeSet<SocketAddr> {
        let endpoints = || ready.iter().filter_map(|address| Some((address, self.all.get(address)?)));
        let node = self.world.node.as_str();
        let same_node: BTreeSet<SocketAddr> = endpoints()
            .filter(|(_, endpoint)| endpoint.for_nodes.contains(node))
            .map(|(address, _)| *address)
            .collect();
        if endpoints().all(|(_, endpoint)| !endpoint.for_nodes.is_empty()) && !same_node.is_empty() {
            return same_node;
        }
        let Some(zone) = &self.world.zone else { return ready };
        let same_zone: BTreeSet<SocketAddr> = endpoints()
            .filter(|(_, endpoint)| endpoint.for_zones.contains(zone))
            .map(|(address, _)| *address)
            .collect();
        if endpoints().all(|(_, endpoint)| !endpoint.for_zones.is_empty()) && !same_zone.is_empty() {
            return same_zone;
        }
        ready
    }
}

/// Addresses of a family that are ready on this node, whatever the port.
pub fn ready_here(world: &World, service: &Service, family: Family) -> BTreeSet<IpAddr> {
    let endpoints = slices(world, service, family).into_iter().flat_map(|slice| &slice.endpoints);
    endpoints.filter(|at| at.ready && at.node.as_ref() == Some(&world.node)).map(|at| at.ip).collect()
}

/// A Service's slices of one family, in order of their names.
fn slices<'a>(world: &'a World, service: &Service, family: Family) -> Vec<&'a EndpointSlice> {
    let belongs = |slice: &&EndpointSlice| {
        slice.name.namespace == service.name.namespace
            && slice.service.as_deref() == Some(&*service.name.name)
            && slice.family == Some(family)
    };
    let mut slices: Vec<&EndpointSlice> = world.slices.iter().filter(belongs).collect();
    slices.sort_by(|a, b| a.name.cmp(&b.name));
    slices
}

fn is_ending(endpoint: &Endpoint) -> bool {
    endpoint.serving && endpoint.terminating
}

/// How well an endpoint is spoken of.
fn rank(endpoint: &Endpoint) -> impl Ord {
    (endpoint.ready, is_ending(endpoint), endpoint.serving)
}
