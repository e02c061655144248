//! Services and their endpoints as they were said, with the indices that decisions need.
//!
//! Here is also who has a frontend that several Services ask for: the one whose name comes first, so that every node says the same.
//! The others are not served there, and get it when that one lets go.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ripstop_objects::service::{EndpointSlice, Protocol, Service, ServiceKind};
use ripstop_types::{Family, NodeName, Revision, ServiceName};

use crate::Row;
use crate::few::Few;

/// What packets are sent to: an address or, by a node port, those of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum At {
    /// This address.
    Ip(IpAddr),
    /// The node's addresses of this family.
    Node(Family),
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
            At::Node(family) => write!(f, "node port {}/{} over {family}", self.port, self.protocol),
        }
    }
}

/// The rows.
#[derive(Debug, Clone, Default)]
pub struct ServiceTables {
    services: BTreeMap<ServiceName, Row<Service>>,
    slices: BTreeMap<ServiceName, Arc<EndpointSlice>>,
    /// Slices of a Service, by their names within its namespace.
    slices_of: BTreeMap<ServiceName, Few<Arc<str>>>,
    /// Nodes that endpoints are on, so that each name is kept once.
    nodes: BTreeSet<NodeName>,
    /// Nodes that are gone: what their agents published says nothing any more.
    gone: BTreeSet<NodeName>,
    /// By proxy and place: proxies know nothing of each other.
    claims: BTreeMap<Claim, Claims>,
    /// Those that several ask for.
    contested: BTreeSet<Claim>,
    /// Services and slices of which something was left out.
    faulty: [BTreeSet<ServiceName>; 2],
    /// How often something was another than before.
    changes: u64,
}

/// A place of a proxy.
type Claim = (Option<Arc<str>>, Place);

/// Who asks for a place: by `spec.externalIPs`, which not every node serves, and otherwise.
#[derive(Debug, Clone, Default)]
struct Claims {
    external: Few<ServiceName>,
    other: Few<ServiceName>,
}

impl Claims {
    fn of(&mut self, is_external: bool) -> &mut Few<ServiceName> {
        if is_external { &mut self.external } else { &mut self.other }
    }

    /// All who ask; `external` says whether external IPs are served.
    fn all(&self, external: bool) -> impl Iterator<Item = &ServiceName> {
        self.external.iter().filter(move |_| external).chain(self.other.iter())
    }

    fn count(&self) -> usize {
        self.external.len() + self.other.len()
    }

    /// Those who may have it, as nodes serve external IPs or not.
    fn firsts(&self) -> impl Iterator<Item = &ServiceName> {
        self.external.first().into_iter().chain(self.other.first())
    }
}

impl ServiceTables {
    /// A Service.
    pub fn service(&self, name: &ServiceName) -> Option<&Arc<Service>> {
        self.services.get(name).map(|row| &row.value)
    }

    /// A number that is another after each change of a Service or a slice.
    pub fn changes(&self) -> u64 {
        self.changes
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

    /// The slices of a Service that count, in the order of names.
    pub fn slices_of(&self, name: &ServiceName) -> impl Iterator<Item = &Arc<EndpointSlice>> {
        let names = self.slices_of.get(name).into_iter().flat_map(Few::iter);
        let slices = names.filter_map(|slice| {
            self.slices.get(&ServiceName { namespace: name.namespace.clone(), name: slice.clone() })
        });
        slices.filter(|slice| slice.publisher.as_ref().is_none_or(|node| !self.gone.contains(node)))
    }

    /// Says which nodes are gone; answers with the Services whose endpoints that changes. Slices that a node's agent published
    /// count as long as it is not gone, those that somebody else wrote always.
    pub fn set_gone(&mut self, gone: BTreeSet<NodeName>) -> BTreeSet<ServiceName> {
        let differs = |node: &NodeName| gone.contains(node) != self.gone.contains(node);
        let moved = self.slices.values().filter(|slice| slice.publisher.as_ref().is_some_and(differs));
        let touched = moved.filter_map(|slice| owner(slice)).collect();
        self.gone = gone;
        touched
    }

    /// Whose a place is among those who ask this proxy for it; `external` says whether external IPs are served.
    pub fn holder(&self, proxy: Option<&Arc<str>>, external: bool, place: &Place) -> Option<&ServiceName> {
        let claims = self.claims.get(&(proxy.cloned(), *place))?;
        if external { claims.firsts().min() } else { claims.other.first() }
    }

    /// Those who ask this proxy for a place that somebody else has: the place, who has it, and who does not.
    pub fn losers<'a>(
        &'a self,
        proxy: Option<&'a Arc<str>>,
        external: bool,
    ) -> impl Iterator<Item = (&'a Place, &'a ServiceName, &'a ServiceName)> {
        let contested = self.contested.iter().filter(move |(of, _)| of.as_ref() == proxy);
        contested.flat_map(move |claim| {
            let claims = self.claims.get(claim);
            let holder = self.holder(proxy, external, &claim.1);
            let all = claims.into_iter().flat_map(move |claims| claims.all(external));
            all.filter_map(move |name| holder.filter(|holder| *holder != name).map(|holder| (&claim.1, holder, name)))
        })
    }

    /// Who has the places at an address that somebody asks this proxy for, with the places.
    pub fn at<'a>(
        &'a self,
        proxy: Option<&'a Arc<str>>,
        external: bool,
        ip: IpAddr,
    ) -> impl Iterator<Item = (&'a Place, &'a ServiceName)> {
        let place = |protocol, port| (proxy.cloned(), Place { at: At::Ip(ip), protocol, port });
        let range = place(Protocol::Tcp, 0)..=place(Protocol::Sctp, u16::MAX);
        let claims = self.claims.range(range);
        claims.filter_map(move |(claim, _)| Some((&claim.1, self.holder(proxy, external, &claim.1)?)))
    }

    /// Services of which something was left out, then slices.
    pub fn faulty(&self) -> (impl Iterator<Item = &Arc<Service>>, impl Iterator<Item = &Arc<EndpointSlice>>) {
        let [services, slices] = &self.faulty;
        (services.iter().filter_map(|name| self.service(name)), slices.iter().filter_map(|name| self.slices.get(name)))
    }

    /// Takes in a Service; answers with those whose decisions it may change.
    pub fn put_service(&mut self, service: Service, revision: Revision) -> BTreeSet<ServiceName> {
        if let Some(there) = self.services.get_mut(&service.name).filter(|there| *there.value == service) {
            there.revision = revision;
            return BTreeSet::new();
        }
        self.changes += 1;
        let mut touched = self.release(&service.name);
        for (place, is_external) in places(&service) {
            let claims = self.claims.entry((service.proxy_name.clone(), place)).or_default();
            touched.extend(claims.firsts().cloned());
            claims.of(is_external).insert(service.name.clone());
            if claims.count() > 1 {
                self.contested.insert((service.proxy_name.clone(), place));
            }
        }
        touched.insert(service.name.clone());
        note(&mut self.faulty[0], &service.name, !service.left_out.is_empty());
        self.services.insert(service.name.clone(), Row { value: Arc::new(service), revision });
        touched
    }

    /// Forgets a Service; answers with those whose decisions that may change.
    pub fn remove_service(&mut self, name: &ServiceName) -> BTreeSet<ServiceName> {
        self.changes += 1;
        let mut touched = self.release(name);
        note(&mut self.faulty[0], name, false);
        if self.services.remove(name).is_some() {
            touched.insert(name.clone());
        }
        touched
    }

    /// Takes in a slice; answers with the Services whose endpoints it may change.
    pub fn put_slice(&mut self, mut slice: EndpointSlice) -> BTreeSet<ServiceName> {
        let before = self.slices.get(&slice.name);
        if before.is_some_and(|there| **there == slice) {
            return BTreeSet::new();
        }
        for node in slice.endpoints.iter_mut().filter_map(|endpoint| endpoint.node.as_mut()) {
            match self.nodes.get(node) {
                Some(known) => node.clone_from(known),
                None => drop(self.nodes.insert(node.clone())),
            }
        }
        self.changes += 1;
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
        note(&mut self.faulty[1], &slice.name, !slice.left_out.is_empty());
        self.slices.insert(slice.name.clone(), Arc::new(slice));
        touched
    }

    /// Forgets a slice; answers with the Services whose endpoints that may change.
    pub fn remove_slice(&mut self, name: &ServiceName) -> BTreeSet<ServiceName> {
        self.changes += 1;
        note(&mut self.faulty[1], name, false);
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
        for (place, is_external) in places(&service.value) {
            let place = (service.value.proxy_name.clone(), place);
            let Some(claims) = self.claims.get_mut(&place) else { continue };
            claims.of(is_external).remove(name);
            touched.extend(claims.firsts().cloned());
            if claims.count() < 2 {
                self.contested.remove(&place);
            }
            if claims.firsts().next().is_none() {
                self.claims.remove(&place);
            }
        }
        touched
    }
}

/// Has a name in a set or not.
fn note(names: &mut BTreeSet<ServiceName>, name: &ServiceName, is_in: bool) {
    if is_in {
        names.insert(name.clone());
    } else {
        names.remove(name);
    }
}

/// The Service that a slice belongs to.
fn owner(slice: &EndpointSlice) -> Option<ServiceName> {
    let name = slice.service.clone()?;
    Some(ServiceName { namespace: slice.name.namespace.clone(), name })
}

/// Every place that a Service asks for, and whether it does by an external IP alone.
fn places(service: &Service) -> BTreeMap<Place, bool> {
    let mut places = BTreeMap::new();
    if service.headless || service.kind == ServiceKind::ExternalName {
        return places;
    }
    let families: BTreeSet<Family> = service.cluster_ips.iter().map(|ip| Family::of(*ip)).collect();
    let ingress = service.ingress.iter().filter(|ingress| !ingress.is_proxied).map(|ingress| &ingress.ip);
    let others = service.cluster_ips.iter().chain(ingress).map(|ip| (*ip, false));
    // Behind the external ones: who asks for an address in another way, too, does so there.
    let ips = service.external_ips.iter().map(|ip| (*ip, true)).chain(others);
    let ips: Vec<(IpAddr, bool)> = ips.filter(|(ip, _)| families.contains(&Family::of(*ip))).collect();
    for port in &service.ports {
        let protocol = port.protocol;
        places
            .extend(ips.iter().map(|(ip, external)| (Place { at: At::Ip(*ip), protocol, port: port.port }, *external)));
        let Some(node_port) = port.node_port else { continue };
        places
            .extend(families.iter().map(|family| (Place { at: At::Node(*family), protocol, port: node_port }, false)));
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
        let place = Place { at: At::Node(Family::V4), protocol: Protocol::Tcp, port: 30080 };
        assert_eq!(put(&mut tables, service("b", "10.96.0.2")), names(&["b"]));
        assert_eq!(put(&mut tables, service("b", "10.96.0.2")), names(&[]), "nothing new");
        assert_eq!(put(&mut tables, service("c", "10.96.0.3")), names(&["b", "c"]));
        assert_eq!(tables.holder(None, true, &place), Some(&"b".parse().unwrap()));
        assert_eq!(put(&mut tables, service("a", "10.96.0.1")), names(&["a", "b"]));
        assert_eq!(tables.holder(None, true, &place), Some(&"a".parse().unwrap()));
        assert_eq!(tables.remove_service(&"a".parse().unwrap()), names(&["a", "b"]));
        assert_eq!(tables.holder(None, true, &place), Some(&"b".parse().unwrap()));
        let mut headless = service("b", "10.96.0.2");
        headless.headless = true;
        assert_eq!(put(&mut tables, headless), names(&["b", "c"]));
        assert_eq!(tables.remove_service(&"c".parse().unwrap()), names(&["c"]));
        assert_eq!(tables.holder(None, true, &place), None);
        assert_eq!(tables.remove_service(&"c".parse().unwrap()), names(&[]));
        assert!(tables.contested.is_empty());
    }

    #[test]
    fn who_asks_in_vain_is_known() {
        let mut tables = ServiceTables::default();
        let losers = |tables: &ServiceTables| -> Vec<String> {
            let losers = tables.losers(None, false);
            losers.map(|(place, holder, name)| format!("{name}: {place} of {holder}")).collect()
        };
        put(&mut tables, service("b", "10.96.0.2"));
        assert_eq!(losers(&tables), Vec::<String>::new());
        put(&mut tables, service("c", "10.96.0.3"));
        assert_eq!(losers(&tables), ["default/c: node port 30080/TCP over IPv4 of default/b"]);
        put(&mut tables, service("a", "10.96.0.3"));
        assert_eq!(
            losers(&tables),
            [
                "default/c: 10.96.0.3:80/TCP of default/a",
                "default/b: node port 30080/TCP over IPv4 of default/a",
                "default/c: node port 30080/TCP over IPv4 of default/a"
            ]
        );
        // An external IP that is not served is nobody's.
        for (name, ip) in [("d", "10.96.0.8"), ("e", "10.96.0.9")] {
            let spec = json!({"clusterIP": ip, "externalIPs": ["192.0.2.1"], "ports": [{"port": 80}]});
            put(&mut tables, Service::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap().0);
        }
        assert_eq!(losers(&tables).len(), 3);
        assert_eq!(tables.losers(None, true).count(), 4);
        let at = |ip: &str, external| -> Vec<String> {
            tables.at(None, external, ip.parse().unwrap()).map(|(place, name)| format!("{place} {name}")).collect()
        };
        assert_eq!(at("10.96.0.3", false), ["10.96.0.3:80/TCP default/a"]);
        assert_eq!(at("192.0.2.1", false), Vec::<String>::new());
        assert_eq!(at("192.0.2.1", true), ["192.0.2.1:80/TCP default/d"]);
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
