//! `sessionAffinity: ClientIP`: which endpoint a client had.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ripstop_objects::service::{Protocol, Service, ServicePort};
use ripstop_types::{Family, Millis, ServiceName};

use super::endpoints::Endpoints;
use super::world::World;

/// A port of a Service. Affinity is per port, by whichever address it was reached.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortName {
    /// The Service.
    pub service: ServiceName,
    /// The port's name.
    pub port: Arc<str>,
    /// The port's protocol.
    pub protocol: Protocol,
}

impl PortName {
    pub(super) fn of(service: &Service, port: &ServicePort) -> Self {
        Self { service: service.name.clone(), port: port.name.clone(), protocol: port.protocol }
    }

    fn find<'a>(&self, world: &'a World) -> Option<(&'a Service, &'a ServicePort)> {
        let service = world.services.iter().find(|service| service.name == self.service)?;
        let mut ports = service.ports.iter();
        let port = ports.find(|port| (&port.name, port.protocol) == (&self.port, self.protocol))?;
        Some((service, port))
    }
}

/// Earlier connections to Services with affinity: the last of each client and port.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Memory(BTreeMap<(PortName, IpAddr), (SocketAddr, Millis)>);

impl Memory {
    /// Takes note that a connection of a client was made, and with whom. The time begins anew.
    pub fn note(&mut self, world: &World, port: &PortName, client: IpAddr, endpoint: SocketAddr, now: Millis) {
        if port.find(world).is_some_and(|(service, _)| service.affinity.is_some()) {
            self.0.insert((port.clone(), client), (endpoint, now));
        }
    }

    /// Forgets what does not outlive a change of objects: Services without affinity, and endpoints that are gone.
    pub fn forget(&mut self, world: &World) {
        self.0.retain(|(name, _), (endpoint, _)| {
            name.find(world).is_some_and(|(service, port)| {
                let endpoints = Endpoints::of(world, service, port, Family::of(endpoint.ip()));
                service.affinity.is_some() && endpoints.serving().contains(endpoint)
            })
        });
    }

    /// The endpoint that a client had less than `timeout` seconds ago.
    pub(super) fn recall(&self, port: &PortName, client: IpAddr, timeout: u32, now: Millis) -> Option<SocketAddr> {
        let (endpoint, at) = self.0.get(&(port.clone(), client))?;
        (now.since(*at) < u64::from(timeout) * 1000).then_some(*endpoint)
    }
}
