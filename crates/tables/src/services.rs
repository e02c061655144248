//! Services and their endpoints as they were said, with the indices that decisions need.
//!
//! Here is also who has a frontend that several Services ask for: the one whose name comes first, so that every node says the same.
//! The others are not served there, and get it when that one lets go.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ripstop_objects::service::{EndpointSlice, Protocol, Service, ServiceKind};
use ripstop_types::{Revision, ServiceName};

use crate::Row;

/// What packets are sent to: an address or, by a node port, those of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum At {
    /// This address.
    Ip(IpAddr),
    /// The node's addresses.
    Node,
}

/// A place at which a Service can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Where.
    pub at: At,
    /// The protocol.
    pub protocol: Protocol,
    /// The port there.
    pub port: u16,
}

/// `10.96.0.10:80/TCP`, `node port 30080/TCP`
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at {
            At::Ip(ip) => write!(f, "{}/{}", SocketAddr::new(ip, self.port), self.protocol),
            At::Node => write!(f, "node port {}/{}", self.port, self.protocol),
        }
    }
}

/// The rows.
#[derive(Debug, Clone, Default)]
pub struct ServiceTables {
    services: BTreeMap<ServiceName, Row<Service>>,
    slices: BTreeMap<ServiceName, Arc<EndpointSlice>>,
    /// Slices of a Service, by their names within its namespace.
    slices_of: BTreeMap<ServiceName, BTreeSet<Arc<str>>>,
    claims: BTreeMap<Place, BTreeSet<ServiceName>>,
}

impl ServiceTables {
    /// A Service.
    pub fn service(&self, name: &ServiceName) -> Option<&Arc<Service>> {
        self.services.get(name).map(|row| &row.value)
    }

    /// The revision that a Service came with.
    pub fn revision(&self, name: &ServiceName) -> Revision {
        self.services.get(name).map(|row| row.revision).unwrap_or_default()
    }

    /// Every Service, in the order of names.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values().map(|row| &row.value)
    }

    /// Every slice, in the order of names.
    pub fn slices(&self) -> impl Iterator<Item = &Arc<EndpointSlice>> {
        self.slices.values()
    }

    /// The slices of a Service, in the order of names.
    pub fn slices_of(&self, name: &ServiceName) -> impl Iterator<Item = &Arc<EndpointSlice>> {
        let names = self.slices_of.get(name).into_iter().flatten();
        names.filter_map(|slice| {
            self.slices.get(&ServiceName { namespace: name.namespace.clone(), name: slice.clone() })
        })
    }

    /// Whose a place is among those who ask for it.
    pub fn holder(&self, place: &Place) -> Option<&ServiceName> {
        self.claims.get(place)?.first()
    }

    /// Takes in a Service; answers with those whose decisions it may change.
    pub fn put_service(&mut self, service: Service, revision: Revision) -> BTreeSet<ServiceName> {
        if let Some(there) = self.services.get_mut(&service.name).filter(|there| *there.value == service) {
            there.revision = revision;
            return BTreeSet::new();
        }
        let mut touched = self.release(&service.name);
        for place in places(&service) {
            let claims = self.claims.entry(place).or_default();
            touched.extend(claims.first().cloned());
            claims.insert(service.name.clone());
        }
        touched.insert(service.name.clone());
        self.services.insert(service.name.clone(), Row { value: Arc::new(service), revision });
        touched
    }

    /// Forgets a Service; answers with those whose decisions that may change.
    pub fn remove_service(&mut self, name: &ServiceName) -> BTreeSet<ServiceName> {
        let mut touched = self.release(name);
        if self.services.remove(name).is_some() {
            touched.insert(name.clone());
        }
        touched
    }

    /// Takes in a slice; answers with the Services whose endpoints it may change.
    pub fn put_slice(&mut self, slice: EndpointSlice) -> BTreeSet<ServiceName> {
        let before = self.slices.get(&slice.name);
        if before.is_some_and(|there| **there == slice) {
            return BTreeSet::new();
        }
        let owner = owner(&slice);
        let former = before.and_then(|slice| self::owner(slice));
        let mut touched = BTreeSet::new();
        if former != owner {
            touched.extend(former.inspect(|former| self.unlink(former, &slice.name.name)));
        }
        if let Some(owner) = owner {
            self.slices_of.entry(owner.clone()).or_default().insert(slice.name.name.clone());
            touched.insert(owner);
        }
        self.slices.insert(slice.name.clone(), Arc::new(slice));
        touched
    }

    /// Forgets a slice; answers with the Services whose endpoints that may change.
    pub fn remove_slice(&mut self, name: &ServiceName) -> BTreeSet<ServiceName> {
        let former = self.slices.remove(name).and_then(|slice| owner(&slice));
        former.inspect(|former| self.unlink(former, &name.name)).into_iter().collect()
    }

    fn unlink(&mut self, service: &ServiceName, slice: &Arc<str>) {
        if let Some(slices) = self.slices_of.get_mut(service) {
            slices.remove(slice);
            if slices.is_empty() {
                self.slices_of.remove(service);
            }
        }
    }

    /// Gives up the places of a Service; answers with those who have them now.
    fn release(&mut self, name: &ServiceName) -> BTreeSet<ServiceName> {
        let mut touched = BTreeSet::new();
        let Some(service) = self.services.get(name) else { return touched };
        for place in places(&service.value) {
            let Some(claims) = self.claims.get_mut(&place) else { continue };
            claims.remove(name);
            match claims.first() {
                Some(next) => drop(touched.insert(next.clone())),
                None => drop(self.claims.remove(&place)),
            }
        }
        touched
    }
}

/// The Service that a slice belongs to.
fn owner(slice: &EndpointSlice) -> Option<ServiceName> {
    let name = slice.service.clone()?;
    Some(ServiceName { namespace: slice.name.namespace.clone(), name })
}

/// Every place that a Service asks for, whether this node serves it or not.
fn places(service: &Service) -> BTreeSet<Place> {
    let mut places = BTreeSet::new();
    if service.headless || service.kind == ServiceKind::ExternalName {
        return places;
    }
    let ingress = service.ingress.iter().map(|ingress| &ingress.ip);
    let ips = service.cluster_ips.iter().chain(&service.external_ips).chain(ingress);
    let ips: BTreeSet<At> = ips.map(|ip| At::Ip(*ip)).collect();
    for port in &service.ports {
        let protocol = port.protocol;
        places.extend(ips.iter().map(|at| Place { at: *at, protocol, port: port.port }));
        places.extend(port.node_port.map(|port| Place { at: At::Node, protocol, port }));
    }
    places
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(name: &str, ip: &str) -> Service {
        let spec = json!({"clusterIP": ip, "ports": [{"port": 80, "nodePort": 30080}]});
        Service::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap().0
    }

    fn put(tables: &mut ServiceTables, service: Service) -> BTreeSet<ServiceName> {
        tables.put_service(service, Revision(1))
    }

    fn slice(name: &str, service: &str) -> EndpointSlice {
        let labels = json!({"kubernetes.io/service-name": service});
        let object = json!({"metadata": {"name": name, "labels": labels}, "addressType": "IPv4"});
        EndpointSlice::from_value(object).unwrap().0
    }

    fn names(names: &[&str]) -> BTreeSet<ServiceName> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn a_place_is_the_first_ones_until_that_lets_go() {
        let mut tables = ServiceTables::default();
        let place = Place { at: At::Node, protocol: Protocol::Tcp, port: 30080 };
        assert_eq!(put(&mut tables, service("b", "10.96.0.2")), names(&["b"]));
        assert_eq!(put(&mut tables, service("b", "10.96.0.2")), names(&[]), "nothing new");
        assert_eq!(put(&mut tables, service("c", "10.96.0.3")), names(&["b", "c"]));
        assert_eq!(tables.holder(&place), Some(&"b".parse().unwrap()));
        assert_eq!(put(&mut tables, service("a", "10.96.0.1")), names(&["a", "b"]));
        assert_eq!(tables.holder(&place), Some(&"a".parse().unwrap()));
        assert_eq!(tables.remove_service(&"a".parse().unwrap()), names(&["a", "b"]));
        assert_eq!(tables.holder(&place), Some(&"b".parse().unwrap()));
        let mut headless = service("b", "10.96.0.2");
        headless.headless = true;
        assert_eq!(put(&mut tables, headless), names(&["b", "c"]));
        assert_eq!(tables.remove_service(&"c".parse().unwrap()), names(&["c"]));
        assert_eq!(tables.holder(&place), None);
        assert_eq!(tables.remove_service(&"c".parse().unwrap()), names(&[]));
    }

    #[test]
    fn a_slice_may_move_to_another_service() {
        let mut tables = ServiceTables::default();
        assert_eq!(tables.put_slice(slice("s-1", "a")), names(&["a"]));
        assert_eq!(tables.put_slice(slice("s-1", "a")), names(&[]));
        assert_eq!(tables.put_slice(slice("s-2", "a")), names(&["a"]));
        assert_eq!(tables.slices_of(&"a".parse().unwrap()).count(), 2);
        assert_eq!(tables.put_slice(slice("s-2", "b")), names(&["a", "b"]));
        assert_eq!(tables.slices_of(&"a".parse().unwrap()).count(), 1);
        assert_eq!(tables.remove_slice(&"s-2".parse().unwrap()), names(&["b"]));
        assert_eq!(tables.slices_of(&"b".parse().unwrap()).count(), 0);
        assert_eq!(tables.slices().count(), 1);
    }
}
