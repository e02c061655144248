//! Objects of Kubernetes' kinds as somebody applies them to a store of Ripstop's own.
//!
//! What is read leniently from an API server is refused here with the same faults, and with those that an API server would
//! have refused it for. Fields that nothing here looks at are kept as they are.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ripstop_types::{Family, StoreKind, validate_dns_name};
use serde_json::{Value, json};

use super::tree::{Tree, shown};
use crate::pool::AddressPool;
use crate::service::{EndpointSlice, PUBLISHER_LABEL, Service, ServiceKind, ServicePort};
use crate::{ClusterObject, Fault, Faults, ObjectKind};

/// Most ports of a Service: an EndpointSlice has no more.
pub const MAX_PORTS: usize = 100;
/// Most endpoints of an EndpointSlice.
const MAX_ENDPOINTS: usize = 1_000;
/// The node ports that there are (`--service-node-port-range` of an API server).
const NODE_PORTS: std::ops::RangeInclusive<u16> = 30_000..=32_767;

/// An object that is to be stored, or to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// What it says.
    pub object: ClusterObject,
    /// The whole of it, as it was written.
    pub value: Value,
}

impl Applied {
    /// The kind that a document says it is, if it is one of these.
    pub(crate) fn kind_of(tree: &Tree<'_>) -> Option<ObjectKind> {
        let kind = tree.text_at(&["kind"])?;
        let is_one = |known: &ObjectKind| !matches!(known, ObjectKind::PeerPod | ObjectKind::Metallb(_));
        ObjectKind::ALL.into_iter().find(|known| is_one(known) && known.to_string() == kind)
    }

    pub(crate) fn read(kind: ObjectKind, tree: &Tree<'_>, otherwise: &str) -> Result<Self, Faults> {
        let mut value = value_of(tree);
        let version = kind.api_version();
        let word = kind.to_string().to_lowercase();
        let named = tree.text_at(&["metadata", "name"]).map(|name| {
            let namespace = tree.text_at(&["metadata", "namespace"]).unwrap_or("default");
            if kind.has_namespace() { format!("{word}/{namespace}/{name}") } else { format!("{word}/{name}") }
        });
        let object = named.map_or_else(|| otherwise.to_owned(), |name| shown(&name));
        let (read, mut faults) = ClusterObject::from_value(kind, &value)
            .map_err(|why| Fault::new(&*object, "", format!("found {why}"), format!("a {kind} of {version}")))?;
        let mut rules = Rules { object, faults: &mut faults };
        if tree.text_at(&["apiVersion"]) != Some(version) {
            let found = tree.get("apiVersion").map_or("nothing".into(), ToString::to_string);
            rules.fault("apiVersion", format!("found {found}"), version);
        }
        match &read {
            ClusterObject::Service(service) => rules.service(service, &value),
            ClusterObject::EndpointSlice(slice) => rules.slice(slice, &value),
            ClusterObject::Namespace(namespace) => rules.label("metadata.name", &namespace.name),
            // Policies and pools are read strictly by whoever reads them.
            ClusterObject::NetworkPolicy(policy) => rules.label("metadata.namespace", &policy.spec.name.namespace),
            ClusterObject::ClusterNetworkPolicy(_)
            | ClusterObject::AddressPool(_)
            | ClusterObject::BgpConfiguration(_)
            | ClusterObject::BgpFilter(_)
            | ClusterObject::BgpPeer(_)
            | ClusterObject::Metallb(_)
            | ClusterObject::Pod(_)
            | ClusterObject::PeerPod(_)
            | ClusterObject::Node(_) => {}
        }
        faults.into_result()?;
        if kind.has_namespace() && value["metadata"]["namespace"].as_str().is_none_or(str::is_empty) {
            value["metadata"]["namespace"] = "default".into();
        }
        Ok(Self { object: read, value })
    }

    /// An AddressPool that was made of something else.
    pub(crate) fn of_pool(value: &Value) -> Result<Self, Faults> {
        let otherwise = "addresspool";
        let trees = Tree::parse(&value.to_string());
        let trees = trees.map_err(|(found, accepted)| Fault::new(otherwise, "", format!("found {found}"), accepted))?;
        Self::read(ObjectKind::AddressPool, trees.first().unwrap_or(&Tree::Null), otherwise)
    }

    /// The kind of its record.
    #[must_use]
    pub fn store_kind(&self) -> StoreKind {
        self.object.kind().store_kind()
    }

    /// The key of its record: its name, with the namespace before it if it lies in one.
    #[must_use]
    pub fn key(&self) -> Arc<str> {
        match &self.object {
            ClusterObject::Service(service) => service.name.to_string().into(),
            ClusterObject::EndpointSlice(slice) => slice.name.to_string().into(),
            other => other.name(),
        }
    }

    /// As messages name it: `service/default/web`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.object.kind().to_string().to_lowercase(), self.key())
    }

    /// The Service, if it is one.
    #[must_use]
    pub fn service(&self) -> Option<&Service> {
        if let ClusterObject::Service(service) = &self.object { Some(service) } else { None }
    }

    /// The pool, if it is one.
    #[must_use]
    pub fn pool(&self) -> Option<&Arc<AddressPool>> {
        if let ClusterObject::AddressPool(pool) = &self.object { Some(pool) } else { None }
    }

    /// Whether it is a Service that says nothing of its status, which others write then.
    #[must_use]
    pub fn leaves_status(&self) -> bool {
        self.service().is_some() && self.value["status"].is_null()
    }

    /// The same with the status of another.
    #[must_use]
    pub fn with_status_of(mut self, before: Option<&Value>) -> Self {
        let mut value = self.value.clone();
        match before.map(|before| &before["status"]).filter(|status| status.is_object()) {
            Some(status) => value["status"] = status.clone(),
            None => drop(value.as_object_mut().map(|fields| fields.remove("status"))),
        }
        // What was read once is read again.
        if let Ok((object, _)) = ClusterObject::from_value(self.object.kind(), &value) {
            (self.object, self.value) = (object, value);
        }
        self
    }

    /// The families in which a Service wants ClusterIPs where there are these, the first one first; the second value says
    /// whether it is content with fewer.
    #[must_use]
    pub fn families(&self, there: &[Family]) -> (Vec<Family>, bool) {
        let spec = &self.value["spec"];
        let listed: Vec<Family> = families(&spec["ipFamilies"]).unwrap_or_default();
        let policy = spec["ipFamilyPolicy"].as_str().unwrap_or("SingleStack");
        let mut wanted = listed.clone();
        wanted.extend(there.iter().copied().filter(|family| !listed.contains(family)));
        match policy {
            "RequireDualStack" => (Family::BOTH.into_iter().fold(wanted, with), false),
            "PreferDualStack" => (wanted, true),
            _ => {
                wanted.truncate(listed.len().max(1));
                (wanted, false)
            }
        }
    }

    /// The Service with what it was given: ClusterIPs, and a node port for each port.
    #[must_use]
    pub fn with(mut self, cluster_ips: &[IpAddr], node_ports: &[Option<u16>]) -> Self {
        let ClusterObject::Service(service) = &mut self.object else { return self };
        if let Some(first) = cluster_ips.first() {
            self.value["spec"]["clusterIP"] = first.to_string().into();
            self.value["spec"]["clusterIPs"] = json!(cluster_ips);
            service.cluster_ips = cluster_ips.to_vec();
        }
        for (place, (port, given)) in service.ports.iter_mut().zip(node_ports).enumerate() {
            let Some(given) = given else { continue };
            self.value["spec"]["ports"][place]["nodePort"] = (*given).into();
            port.node_port = Some(*given);
        }
        self
    }
}

fn with(mut families: Vec<Family>, family: Family) -> Vec<Family> {
    if !families.contains(&family) {
        families.push(family);
    }
    families
}

fn families(value: &Value) -> Option<Vec<Family>> {
    let read = |value: &Value| match value.as_str() {
        Some("IPv4") => Some(Family::V4),
        Some("IPv6") => Some(Family::V6),
        _ => None,
    };
    value.as_array()?.iter().map(read).collect()
}

/// What an API server refuses beside what decoders leave out.
struct Rules<'f> {
    object: String,
    faults: &'f mut Faults,
}

impl Rules<'_> {
    fn fault(&mut self, path: &str, found: String, accepted: &str) {
        self.faults.push(Fault::new(&*self.object, path, found, accepted));
    }

    fn label(&mut self, path: &str, text: &str) {
        if text.contains('.') || validate_dns_name("a name", text).is_err() {
            let accepted = "lower-case letters, digits and '-', at most 63, first and last a letter or digit";
            self.fault(path, format!("found {}", shown(text)), accepted);
        }
    }

    fn service(&mut self, service: &Service, value: &Value) {
        let name = &*service.name.name;
        if !name.starts_with(|c: char| c.is_ascii_lowercase()) || name.contains('.') || name.len() > 63 {
            let accepted = "lower-case letters, digits and '-', at most 63, first a letter, last a letter or digit";
            self.fault("metadata.name", format!("found {}", shown(name)), accepted);
        }
        self.label("metadata.namespace", &service.name.namespace);
        self.families(service, value);
        let count = value["spec"]["ports"].as_array().map_or(0, Vec::len);
        let needs_ports = !service.headless && service.kind != ServiceKind::ExternalName;
        if count > MAX_PORTS {
            let accepted = format!("at most {MAX_PORTS}: as many as an EndpointSlice has");
            self.fault("spec.ports", format!("found {count} ports"), &accepted);
        } else if count == 0 && needs_ports {
            self.fault("spec.ports", "found no port".into(), "one or more");
        }
        let mut names = BTreeSet::new();
        let mut node_ports = BTreeSet::new();
        for (place, port) in service.ports.iter().enumerate().filter(|_| count == service.ports.len()) {
            let path = format!("spec.ports[{place}]");
            self.port_name(&path, port, count, &mut names);
            let Some(node_port) = port.node_port else { continue };
            let path = format!("{path}.nodePort");
            if !matches!(service.kind, ServiceKind::NodePort | ServiceKind::LoadBalancer) {
                let accepted = "none, or a Service of type NodePort or LoadBalancer";
                self.fault(&path, format!("found {node_port}"), accepted);
            } else if !NODE_PORTS.contains(&node_port) {
                self.fault(&path, format!("found {node_port}"), "30000 to 32767");
            } else if !node_ports.insert((port.protocol, node_port)) {
                self.fault(&path, format!("found {node_port}/{} again", port.protocol), "each node port once");
            }
        }
    }

    fn port_name<'p>(&mut self, path: &str, port: &'p ServicePort, count: usize, names: &mut BTreeSet<&'p Arc<str>>) {
        let path = format!("{path}.name");
        if port.name.is_empty() {
            if count > 1 {
                self.fault(&path, "found nothing".into(), "a name, where there are several ports");
            }
        } else if !names.insert(&port.name) {
            self.fault(&path, format!("found {} again", shown(&port.name)), "each name once");
        } else {
            self.label(&path, &port.name);
        }
    }

    fn families(&mut self, service: &Service, value: &Value) {
        let spec = &value["spec"];
        let accepted = "IPv4, IPv6 or both, each once";
        let listed = match &spec["ipFamilies"] {
            Value::Null => Vec::new(),
            said => match families(said) {
                Some(listed) if listed.len() < 2 || (listed.len() == 2 && listed[0] != listed[1]) => listed,
                _ => return self.fault("spec.ipFamilies", format!("found {}", shown(&said.to_string())), accepted),
            },
        };
        for (place, ip) in service.cluster_ips.iter().enumerate() {
            let Some(family) = listed.get(place).filter(|family| **family != Family::of(*ip)) else { continue };
            let accepted = format!("an address of {family}, as in spec.ipFamilies");
            self.fault(&format!("spec.clusterIPs[{place}]"), format!("found {ip}"), &accepted);
        }
        if let Value::String(policy) = &spec["ipFamilyPolicy"]
            && !matches!(policy.as_str(), "SingleStack" | "PreferDualStack" | "RequireDualStack")
        {
            let accepted = "SingleStack, PreferDualStack or RequireDualStack";
            self.fault("spec.ipFamilyPolicy", format!("found {}", shown(policy)), accepted);
        }
        if let (Some(one), Some(first)) = (spec["clusterIP"].as_str(), spec["clusterIPs"][0].as_str())
            && !one.is_empty()
            && one != first
        {
            let accepted = format!("the first of spec.clusterIPs, {}", shown(first));
            self.fault("spec.clusterIP", format!("found {}", shown(one)), &accepted);
        }
    }

    fn slice(&mut self, slice: &EndpointSlice, value: &Value) {
        if slice.publisher.is_some() {
            let path = format!("metadata.labels[{PUBLISHER_LABEL}]");
            self.fault(&path, "found a node".into(), "no such label: agents make slices with it themselves");
        }
        if slice.family.is_none() {
            self.fault("addressType", "found FQDN".into(), "IPv4 or IPv6");
        }
        for (field, most) in [("ports", MAX_PORTS), ("endpoints", MAX_ENDPOINTS)] {
            let count = value[field].as_array().map_or(0, Vec::len);
            if count > most {
                self.fault(field, format!("found {count}"), &format!("at most {most}"));
            }
        }
    }
}

/// A tree as JSON. What JSON has no number for becomes text, which no number's field takes.
/// What a tree is in JSON.
pub(crate) fn value_of(tree: &Tree<'_>) -> Value {
    match tree {
        Tree::Null => Value::Null,
        Tree::Bool(value) => (*value).into(),
        Tree::Int(value) => match (i64::try_from(*value), u64::try_from(*value)) {
            (Ok(value), _) => value.into(),
            (_, Ok(value)) => value.into(),
            _ => value.to_string().into(),
        },
        Tree::Float(value) => {
            serde_json::Number::from_f64(*value).map_or_else(|| value.to_string().into(), Value::Number)
        }
        Tree::Text(text) => text.as_ref().into(),
        Tree::List(items) => items.iter().map(value_of).collect(),
        Tree::Map(entries) => entries.iter().map(|(key, value)| (key.clone().into_owned(), value_of(value))).collect(),
    }
}
