//! What people should know of Services whose objects ask for what they do not get, or for more than they may mean.
//!
//! Found by indices, so it costs as much as there is to say. Not here: what a node's kernel refuses, and to whom it is said.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ripstop_tables::{At, Place, ServiceTables};
use ripstop_types::{Family, ServiceName};

use super::{Node, is_served};

/// The kind of a remark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// Something of the Service, or of its endpoints, is not as it must be, and was left out.
    LeftOut,
    /// Another Service has a place that it asks for.
    Taken,
    /// One of its addresses is this node's own.
    NodeAddress,
}

impl Cause {
    /// In one word, as Events have it.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::LeftOut => "InvalidPartIgnored",
            Self::Taken => "AddressOrPortTaken",
            Self::NodeAddress => "AddressIsNodes",
        }
    }

    /// Whether it is the same on every node.
    #[must_use]
    pub fn is_everywhere(self) -> bool {
        self != Self::NodeAddress
    }
}

/// Something to be told of a Service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Remark {
    /// Which.
    pub service: ServiceName,
    /// Of what kind.
    pub cause: Cause,
    /// A sentence.
    pub text: String,
}

/// All there is to say, in the order of Services, one of each kind; of slices whose Service is not there nothing.
#[must_use]
pub fn remarks(node: &Node, tables: &ServiceTables) -> Vec<Remark> {
    let mut said: BTreeMap<(ServiceName, Cause), BTreeSet<String>> = BTreeMap::new();
    let mut say = |name: &ServiceName, cause, text: String| {
        said.entry((name.clone(), cause)).or_default().insert(text);
    };
    let (services, slices) = tables.faulty();
    for service in services.filter(|service| is_served(node, service)) {
        service.left_out.iter().for_each(|text| say(&service.name, Cause::LeftOut, text.to_string()));
    }
    for slice in slices {
        let Some(name) = slice.service.clone() else { continue };
        let owner = ServiceName { namespace: slice.name.namespace.clone(), name };
        if tables.service(&owner).is_some_and(|service| is_served(node, service)) {
            slice.left_out.iter().for_each(|text| say(&owner, Cause::LeftOut, text.to_string()));
        }
    }
    let (proxy, external) = (node.proxy_name.as_ref(), node.external_ips);
    for (place, holder, loser) in tables.losers(proxy, external) {
        say(loser, Cause::Taken, taken(loser, place, holder));
    }
    let own: BTreeSet<IpAddr> = node.addresses.iter().chain(&node.node_port_addresses).copied().collect();
    for ip in own {
        let mut ports: BTreeMap<&ServiceName, Vec<&Place>> = BTreeMap::new();
        for (place, holder) in tables.at(proxy, external, ip) {
            ports.entry(holder).or_default().push(place);
            let by_port = Place { at: At::Node(Family::of(ip)), ..*place };
            let loser = tables.holder(proxy, external, &by_port).filter(|loser| *loser != holder);
            if let Some(loser) = loser.filter(|_| node.node_port_addresses.contains(&ip)) {
                say(loser, Cause::Taken, taken(loser, place, holder));
            }
        }
        for (holder, places) in ports {
            let ports: Vec<String> = places.iter().map(|place| format!("{}/{}", place.port, place.protocol)).collect();
            let ports = few(ports, ", ");
            let text = format!(
                "its address {ip} is this node's own: packets to {ports} there go to its endpoints, all others stay the node's"
            );
            say(holder, Cause::NodeAddress, text);
        }
    }
    let remark = |((service, cause), texts): ((ServiceName, Cause), BTreeSet<String>)| {
        let text = few(texts, "; ");
        let text = if cause == Cause::LeftOut { format!("{text}; that is left out") } else { text };
        Remark { service, cause, text }
    };
    said.into_iter().map(remark).collect()
}

/// That another Service has a place that this one asks for.
#[must_use]
pub fn taken(name: &ServiceName, place: &Place, holder: &ServiceName) -> String {
    // Who names an address goes before whom a node port leads there.
    let why = if holder < name { "whose name comes first" } else { "which names the address" };
    format!("{place} is that of service {holder}, {why}")
}

/// So many of a kind are spelt out.
const FEW: usize = 4;

fn few(texts: impl IntoIterator<Item = String>, between: &str) -> String {
    let mut texts: Vec<String> = texts.into_iter().collect();
    let more = texts.len().saturating_sub(FEW);
    texts.truncate(FEW);
    let text = texts.join(between);
    if more > 0 { format!("{text} and {more} more") } else { text }
}

#[cfg(test)]
mod tests {
    use ripstop_objects::service::{EndpointSlice, Service};
    use ripstop_types::Revision;
    use serde_json::{Value, json};

    use super::*;

    fn node() -> Node {
        let own: Vec<IpAddr> = vec!["172.30.1.11".parse().unwrap()];
        Node {
            name: "n1".parse().unwrap(),
            zone: None,
            addresses: own.clone(),
            node_port_addresses: own,
            localhost: false,
            pods: Vec::new(),
            pods_by_link: false,
            external_ips: true,
            proxy_name: None,
        }
    }

    fn said(objects: &[Value]) -> Vec<String> {
        let mut tables = ServiceTables::default();
        for object in objects {
            if object["kind"] == "EndpointSlice" {
                tables.put_slice(EndpointSlice::from_value(object.clone()).unwrap().0);
            } else {
                tables.put_service(Service::from_value(object.clone()).unwrap().0, Revision(1));
            }
        }
        let line = |remark: Remark| format!("{} {}: {}", remark.service, remark.cause.reason(), remark.text);
        remarks(&node(), &tables).into_iter().map(line).collect()
    }

    fn service(name: &str, ip: &str, more: Value) -> Value {
        let mut spec = json!({"clusterIP": ip, "ports": [{"port": 80}]});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"metadata": {"name": name}, "spec": spec})
    }

    #[test]
    fn sound_objects_need_no_word() {
        let nodes = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]});
        assert_eq!(said(&[service("a", "10.96.0.1", nodes), service("b", "10.96.0.2", json!({}))]), [""; 0]);
    }

    #[test]
    fn what_is_left_out_is_said_of_the_service_also_where_a_slice_is_wrong() {
        let ports = json!({"ports": [{"port": 80}, {"port": 0}]});
        let slice = |name: &str, of: &str| {
            json!({
                "kind": "EndpointSlice", "metadata": {"name": name, "labels": {"kubernetes.io/service-name": of}},
                "addressType": "IPv4", "endpoints": (1..=9).map(|n| json!({"addresses": [format!("fd00::{n}")]})).collect::<Vec<_>>(),
            })
        };
        let objects = [service("a", "10.96.0.1", ports), slice("a-1", "a"), slice("b-1", "b")];
        let said = said(&objects);
        assert_eq!(said.len(), 1, "{said:?}");
        let begin = "default/a InvalidPartIgnored: endpointslice/default/a-1: endpoints[0].addresses[0]: found fd00::1, accepted: ";
        assert!(said[0].starts_with(begin), "{said:?}");
        assert!(said[0].ends_with(" and 2 more; that is left out"), "{said:?}");
        let headless = json!({"clusterIP": "None", "ports": [{"port": 0}]});
        assert_eq!(super::tests::said(&[service("h", "None", headless)]), [""; 0], "nobody serves it");
    }

    #[test]
    fn who_has_a_place_that_another_wants_is_named() {
        let nodes = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]});
        let own = json!({"externalIPs": ["172.30.1.11"], "ports": [{"port": 30080}]});
        let objects = [
            service("a", "10.96.0.1", nodes.clone()),
            service("b", "10.96.0.2", nodes),
            service("z", "10.96.0.1", json!({})),
            service("own", "10.96.0.3", own),
        ];
        assert_eq!(
            said(&objects),
            [
                "default/a AddressOrPortTaken: 172.30.1.11:30080/TCP is that of service default/own, which names the address",
                "default/b AddressOrPortTaken: node port 30080/TCP over IPv4 is that of service default/a, whose name comes first",
                "default/own AddressIsNodes: its address 172.30.1.11 is this node's own: packets to 30080/TCP there go to its \
                 endpoints, all others stay the node's",
                "default/z AddressOrPortTaken: 10.96.0.1:80/TCP is that of service default/a, whose name comes first",
            ]
        );
    }
}
