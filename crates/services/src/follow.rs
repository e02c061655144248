//! Endpoints that follow pods: the EndpointSlices that a node makes of its own pods, where no API server is asked.
//!
//! A pod counts while it is attached to this node, or while its object names this node and addresses. It is ready while all its
//! probes succeed; without one, at once.
//!
//! Not here: that other nodes' slices count only while these are alive, and how a slice comes into the store.
//!
//! Invariants: the same tables give the same slices; a slice's name is that of no other Service, family or node: `web.ipv4.n1`, where
//! a Service's name has no dot.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ripstop_objects::service::{PUBLISHER_LABEL, PortRef, SERVICE_NAME_LABEL, Service, ServiceKind, ServicePort};
use ripstop_objects::{KubePod, ObjectLabels};
use ripstop_tables::{PodRow, PodState, Tables};
use ripstop_types::{Family, NodeName, ServiceName};
use serde_json::{Value, json};

/// A pod of this node that Services may send to.
#[derive(Debug, Clone)]
pub struct Member<'t> {
    /// Its object.
    pub pod: &'t KubePod,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// Another one after it was attached anew.
    pub container: Option<Arc<str>>,
}

/// This node's pods with an object and an address, in the order of names.
#[must_use]
pub fn members(tables: &Tables) -> Vec<Member<'_>> {
    let rows = tables.pods.values().filter(|row| row.state == PodState::Ready);
    let mut attached = Attached::new();
    for row in rows {
        let by = match &row.pod {
            Some(pod) => (Some(&*pod.namespace), &*pod.name),
            None => (None, row.attachment.container.as_str()),
        };
        // The first interface is the one that Services know.
        let there = attached.entry(by).or_insert(row);
        if row.attachment.ifname.as_str() == "eth0" {
            *there = row;
        }
    }
    let pods = tables.cluster.pods.values();
    let pods = pods.filter(|pod| !pod.has_finished());
    pods.filter_map(|pod| member(tables, &attached, pod)).collect()
}

/// First interfaces by the pod's name, or by the container's id where the runtime named no pod.
type Attached<'t> = BTreeMap<(Option<&'t str>, &'t str), &'t Arc<PodRow>>;

fn member<'t>(tables: &'t Tables, attached: &Attached<'t>, pod: &'t KubePod) -> Option<Member<'t>> {
    let row = attached.get(&(Some(&*pod.name.namespace), &*pod.name.name));
    // Such a runtime may give its container the pod's uid, or its name.
    let row = row.or_else(|| attached.get(&(None, &*pod.uid)));
    let row = row.or_else(|| attached.get(&(None, &*pod.name.name)).filter(|_| &*pod.name.namespace == "default"));
    match row {
        Some(row) => {
            let container = Some(row.attachment.container.as_str().into());
            Some(Member { pod, ips: row.ips.clone(), container })
        }
        None if pod.node.as_ref() == Some(&tables.node) && !pod.ips.is_empty() => {
            Some(Member { pod, ips: pod.ips.clone(), container: None })
        }
        None => None,
    }
}

/// Whether a pod is ready.
#[must_use]
pub fn is_ready(tables: &Tables, pod: &KubePod) -> bool {
    pod.probes.is_empty() || tables.readiness.get(&pod.name).copied().unwrap_or_default()
}

/// The slices that this node publishes.
#[must_use]
pub fn slices(tables: &Tables, members: &[Member<'_>]) -> BTreeMap<ServiceName, Value> {
    let mut slices = BTreeMap::new();
    if members.is_empty() {
        return slices;
    }
    for service in tables.cluster.services.services() {
        if service.selector.is_empty() || service.kind == ServiceKind::ExternalName {
            continue;
        }
        let chosen: Vec<&Member<'_>> = members.iter().filter(|member| selects(service, member.pod)).collect();
        for family in Family::BOTH.into_iter().filter(|family| has_family(service, *family)) {
            of_family(tables, service, family, &chosen, &mut slices);
        }
    }
    slices
}

/// By the names of ports, a slice may be for some of the pods only: all endpoints of one have the same numbers.
fn of_family(
    tables: &Tables,
    service: &Service,
    family: Family,
    chosen: &[&Member<'_>],
    slices: &mut BTreeMap<ServiceName, Value>,
) {
    let mut groups: BTreeMap<Vec<(&ServicePort, u16)>, Vec<Value>> = BTreeMap::new();
    for member in chosen {
        let Some(ip) = member.ips.iter().find(|ip| Family::of(**ip) == family) else { continue };
        let ready = is_ready(tables, member.pod);
        let ports = service.ports.iter().filter_map(|port| Some((port, number(port, member.pod)?))).collect();
        groups.entry(ports).or_default().push(json!({
            "addresses": [ip],
            "conditions": {"ready": ready || service.publish_not_ready, "serving": ready, "terminating": false},
            "nodeName": tables.node,
            "targetRef": {"kind": "Pod", "namespace": &*member.pod.name.namespace, "name": &*member.pod.name.name},
        }));
    }
    for (place, (ports, endpoints)) in groups.into_iter().enumerate() {
        let Some(name) = slice_name(service, family, place, &tables.node) else { continue };
        let ports: Vec<Value> = ports
            .into_iter()
            .map(|(port, number)| json!({"name": &*port.name, "protocol": port.protocol, "port": number}))
            .collect();
        let value = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "namespace": &*name.namespace,
                "name": &*name.name,
                "labels": {
                    SERVICE_NAME_LABEL: &*service.name.name,
                    PUBLISHER_LABEL: tables.node,
                    "endpointslice.kubernetes.io/managed-by": "ripstop",
                },
            },
            "addressType": if family == Family::V4 { "IPv4" } else { "IPv6" },
            "ports": ports,
            "endpoints": endpoints,
        });
        slices.insert(name, value);
    }
}

/// `web.ipv4.n1`; `None` for a name that would be too long.
fn slice_name(service: &Service, family: Family, place: usize, node: &NodeName) -> Option<ServiceName> {
    let family = if family == Family::V4 { "ipv4" } else { "ipv6" };
    let more = if place == 0 { String::new() } else { format!("-{}", place + 1) };
    ServiceName::new(&service.name.namespace, &format!("{}.{family}{more}.{node}", service.name.name)).ok()
}

fn selects(service: &Service, pod: &KubePod) -> bool {
    let has = |labels: &ObjectLabels| service.selector.iter().all(|(key, value)| labels.get(key) == Some(value));
    service.name.namespace == pod.name.namespace && has(&pod.labels)
}

/// One without a ClusterIP is found by DNS, in every family that its pods have.
fn has_family(service: &Service, family: Family) -> bool {
    service.cluster_ips.is_empty() || service.cluster_ips.iter().any(|ip| Family::of(*ip) == family)
}

/// A port's number at a pod; `None` where it goes by a name that the pod has not.
fn number(port: &ServicePort, pod: &KubePod) -> Option<u16> {
    match &port.target {
        None => Some(port.port),
        Some(PortRef::Number(number)) => Some(*number),
        Some(PortRef::Name(name)) => {
            let named = pod.ports.iter().find(|at| at.name == *name && at.protocol == port.protocol);
            named.map(|at| at.port)
        }
    }
}
