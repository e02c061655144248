//! Which endpoints of a Service's port packets may go to.
//!
//! Ready ones; where there is none, those that still serve while they end. This is asked anew for all endpoints and for those of this
//! node (KEP-1669). Hints narrow the first set only (KEP-3015, KEP-2433).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ripstop_objects::service::{Endpoint, EndpointSlice, Service, ServicePort, TrafficPolicy};
use ripstop_types::Family;

use crate::{Backend, Node, Target};

/// What becomes of packets to one port in one family, by where they may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// To any endpoint.
    pub cluster: Target,
    /// To endpoints of this node.
    pub local: Target,
    /// To the ClusterIP: one of the two, by the Service's policy.
    pub internal: Target,
}

impl Chosen {
    /// Chooses among the endpoints of these slices.
    #[must_use]
    pub fn of<'a>(
        node: &Node,
        service: &Service,
        port: &ServicePort,
        family: Family,
        slices: impl Iterator<Item = &'a Arc<EndpointSlice>>,
    ) -> Self {
        let endpoints = endpoints(port, family, slices);
        let is_local = |endpoint: &Endpoint| endpoint.node.as_ref() == Some(&node.name);
        let all = usable(&endpoints, |_| true);
        let topology = Topology::of(node, endpoints.values().map(|(_, endpoint)| *endpoint));
        let near = match &all {
            // Hints are about ready endpoints only.
            Usable::Ready(_) => usable(&endpoints, |endpoint| topology.takes(endpoint)),
            Usable::Ending(_) | Usable::None => all.clone(),
        };
        let local = usable(&endpoints, is_local);
        let anywhere = all.backends().is_some();
        let cluster = near.backends().map_or(Target::Reject, Target::Backends);
        let elsewhere = if anywhere { Target::Drop } else { Target::Reject };
        let local = local.backends().map_or(elsewhere, Target::Backends);
        let internal = match service.internal_policy {
            TrafficPolicy::Cluster => cluster.clone(),
            TrafficPolicy::Local => local.clone(),
        };
        Self { cluster, local, internal }
    }
}

/// The endpoints of a port. One that is in two slices, as in a move, is what it is said to be at best.
fn endpoints<'a>(
    port: &ServicePort,
    family: Family,
    slices: impl Iterator<Item = &'a Arc<EndpointSlice>>,
) -> BTreeMap<Backend, (u8, &'a Endpoint)> {
    let mut endpoints: BTreeMap<Backend, (u8, &Endpoint)> = BTreeMap::new();
    for slice in slices.filter(|slice| slice.family == Some(family)) {
        let same = slice.ports.iter().filter(|at| at.name == port.name && at.protocol == port.protocol);
        for at in same {
            for endpoint in &slice.endpoints {
                let rank = u8::from(endpoint.ready) << 1 | u8::from(endpoint.serving);
                let backend = Backend { ip: endpoint.ip, port: at.port };
                let there = endpoints.entry(backend).or_insert((rank, endpoint));
                if there.0 < rank {
                    *there = (rank, endpoint);
                }
            }
        }
    }
    endpoints
}

#[derive(Debug, Clone)]
enum Usable {
    Ready(BTreeSet<Backend>),
    Ending(BTreeSet<Backend>),
    None,
}

impl Usable {
    fn backends(self) -> Option<Arc<BTreeSet<Backend>>> {
        match self {
            Self::Ready(backends) | Self::Ending(backends) => Some(Arc::new(backends)),
            Self::None => None,
        }
    }
}

fn usable(endpoints: &BTreeMap<Backend, (u8, &Endpoint)>, takes: impl Fn(&Endpoint) -> bool) -> Usable {
    let of = |is: fn(&Endpoint) -> bool| -> BTreeSet<Backend> {
        let fitting = endpoints.iter().filter(|(_, (_, endpoint))| is(endpoint) && takes(endpoint));
        fitting.map(|(backend, _)| *backend).collect()
    };
    let ready = of(|endpoint| endpoint.ready);
    if !ready.is_empty() {
        return Usable::Ready(ready);
    }
    let ending = of(|endpoint| endpoint.serving && endpoint.terminating);
    if ending.is_empty() { Usable::None } else { Usable::Ending(ending) }
}

/// Which ready endpoints are near enough.
enum Topology<'a> {
    Node(&'a str),
    Zone(&'a str),
    Anywhere,
}

impl<'a> Topology<'a> {
    /// Hints count where every ready endpoint has them and one of them is for here.
    fn of<'e>(node: &'a Node, endpoints: impl Iterator<Item = &'e Endpoint>) -> Self {
        let ready: Vec<&Endpoint> = endpoints.filter(|endpoint| endpoint.ready).collect();
        let own = node.name.as_str();
        let counts = |hints: fn(&Endpoint) -> &BTreeSet<Arc<str>>, own: &str| {
            ready.iter().all(|endpoint| !hints(endpoint).is_empty())
                && ready.iter().any(|endpoint| hints(endpoint).contains(own))
        };
        if counts(|endpoint| &endpoint.for_nodes, own) {
            return Self::Node(own);
        }
        match node.zone.as_deref() {
            Some(zone) if counts(|endpoint| &endpoint.for_zones, zone) => Self::Zone(zone),
            _ => Self::Anywhere,
        }
    }

    fn takes(&self, endpoint: &Endpoint) -> bool {
        match self {
            Self::Node(node) => endpoint.for_nodes.contains(*node),
            Self::Zone(zone) => endpoint.for_zones.contains(*zone),
            Self::Anywhere => true,
        }
    }
}
