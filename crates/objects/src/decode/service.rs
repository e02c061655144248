//! Services and EndpointSlices as they are written, in JSON or YAML.
//!
//! Read leniently: what is wrong is left out and named by a fault, and the rest stands. Who writes such objects by hand is refused with
//! the faults; an API server has checked most of it already.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ripstop_types::{Family, Prefix, ServiceName};
use serde::Deserialize;

use super::balancer;
use super::tree::shown;
use crate::kubernetes::RawMetadata;
use crate::service::{
    Assigned, Endpoint, EndpointPort, EndpointSlice, HEADLESS_LABEL, Ingress, ON_REMOVAL_ANNOTATION, PROXY_NAME_LABEL,
    PUBLISHER_LABEL, PortRef, Protocol, SERVICE_NAME_LABEL, Service, ServiceKind, ServicePort, TrafficPolicy,
};
use crate::{Fault, Faults, ObjectLabels};

/// Longest affinity timeout that Kubernetes accepts: a day, in seconds.
const MAX_AFFINITY: i64 = 86_400;
/// The timeout where none is said.
const DEFAULT_AFFINITY: u32 = 10_800;
/// So many faults of an object are carried with it.
const MOST_FAULTS: usize = 4;

impl Service {
    /// Reads a Service of JSON text; the faults name what of it was left out.
    ///
    /// # Errors
    /// A sentence, where it is no Service at all.
    pub fn decode(text: &str) -> Result<(Self, Faults), String> {
        Self::read(serde_json::from_str(text).map_err(|fault| format!("a Service that cannot be read: {fault}"))?)
    }

    /// The same of a value, as YAML gives it.
    ///
    /// # Errors
    /// A sentence, where it is no Service at all.
    pub fn from_value(value: serde_json::Value) -> Result<(Self, Faults), String> {
        Self::read(serde_json::from_value(value).map_err(|fault| format!("a Service that cannot be read: {fault}"))?)
    }

    fn read(raw: RawService) -> Result<(Self, Faults), String> {
        let RawService { metadata, spec, status } = raw;
        let name = metadata.name("a Service")?;
        let mut judge = Judge { object: format!("service/{name}"), faults: Faults::none() };
        let kind = judge.kind(&spec.kind);
        let listed = if spec.cluster_ips.is_empty() { spec.cluster_ip.into_iter().collect() } else { spec.cluster_ips };
        let headless = listed.iter().any(|ip| ip == "None") || metadata.labels.contains_key(HEADLESS_LABEL);
        let named: Vec<&String> = listed.iter().filter(|ip| !ip.is_empty() && *ip != "None").collect();
        let mut cluster_ips: Vec<IpAddr> = Vec::new();
        for (place, text) in named.into_iter().enumerate() {
            let path = format!("spec.clusterIPs[{place}]");
            let Some(ip) = judge.address(&path, text) else { continue };
            match cluster_ips.iter().any(|other| Family::of(*other) == Family::of(ip)) {
                true => judge.fault(&path, format!("found {ip}"), "one address of each family"),
                false => cluster_ips.push(ip),
            }
        }
        let external_ips = judge.addresses("spec.externalIPs", &spec.external_ips);
        let ingress = judge.ingress(status.load_balancer.ingress);
        let source_ranges = judge.source_ranges(&spec.load_balancer_source_ranges);
        let affinity = judge.affinity(&spec.session_affinity, &spec.session_affinity_config);
        let health = spec.health_check_node_port.filter(|port| *port != 0);
        let external_policy = judge.policy("spec.externalTrafficPolicy", spec.external_traffic_policy.as_deref());
        let selector = spec.selector.unwrap_or_default();
        let balancer = (kind == ServiceKind::LoadBalancer).then(|| {
            let fields = balancer::Fields {
                ip: spec.load_balancer_ip.as_deref(),
                class: spec.load_balancer_class.as_deref(),
                family_policy: spec.ip_family_policy.as_deref(),
                local: (external_policy == TrafficPolicy::Local).then_some(&selector),
            };
            Box::new(judge.balancer(&fields, &metadata))
        });
        let service = Self {
            uid: metadata.uid.into(),
            kind,
            headless,
            cluster_ips,
            ports: judge.ports(spec.ports),
            external_ips,
            ingress,
            source_ranges,
            external_policy,
            internal_policy: judge.policy("spec.internalTrafficPolicy", spec.internal_traffic_policy.as_deref()),
            affinity,
            health_check_node_port: health.and_then(|port| judge.port("spec.healthCheckNodePort", port)),
            publish_not_ready: spec.publish_not_ready_addresses,
            proxy_name: metadata.labels.get(PROXY_NAME_LABEL).cloned(),
            selector,
            reset_on_removal: judge.on_removal(metadata.annotations.get(ON_REMOVAL_ANNOTATION)),
            balancer,
            assigned: assigned(status.conditions),
            left_out: Vec::new(),
            name,
        };
        let service = Self { left_out: judge.few(), ..service };
        Ok((service, judge.faults))
    }
}

impl EndpointSlice {
    /// Reads an EndpointSlice of JSON text; the faults name what of it was left out.
    ///
    /// # Errors
    /// A sentence, where it is no EndpointSlice at all.
    pub fn decode(text: &str) -> Result<(Self, Faults), String> {
        Self::read(
            serde_json::from_str(text).map_err(|fault| format!("an EndpointSlice that cannot be read: {fault}"))?,
        )
    }

    /// The same of a value, as YAML gives it.
    ///
    /// # Errors
    /// A sentence, where it is no EndpointSlice at all.
    pub fn from_value(value: serde_json::Value) -> Result<(Self, Faults), String> {
        Self::read(
            serde_json::from_value(value).map_err(|fault| format!("an EndpointSlice that cannot be read: {fault}"))?,
        )
    }

    fn read(raw: RawSlice) -> Result<(Self, Faults), String> {
        let name = raw.metadata.name("an EndpointSlice")?;
        let mut judge = Judge { object: format!("endpointslice/{name}"), faults: Faults::none() };
        let family = match &*raw.address_type {
            "IPv4" => Some(Family::V4),
            "IPv6" => Some(Family::V6),
            "FQDN" => None,
            other => {
                judge.fault("addressType", format!("found {}", shown(other)), "IPv4, IPv6 or FQDN");
                None
            }
        };
        let ports = raw.ports.unwrap_or_default().into_iter().enumerate();
        let ports = ports.filter_map(|(place, port)| judge.endpoint_port(place, port)).collect();
        let endpoints = raw.endpoints.unwrap_or_default().into_iter().enumerate();
        let endpoints = endpoints.filter_map(|(place, raw)| judge.endpoint(place, raw, family)).collect();
        // As of Services, those that no proxy serves are told by a label; the API server makes them of headless ones.
        let is_headless = raw.metadata.labels.contains_key(HEADLESS_LABEL);
        let service =
            raw.metadata.labels.get(SERVICE_NAME_LABEL).filter(|name| !name.is_empty() && !is_headless).cloned();
        let publisher = raw.metadata.labels.get(PUBLISHER_LABEL).and_then(|node| node.parse().ok());
        let left_out = judge.few();
        Ok((Self { name, service, publisher, family, ports, endpoints, left_out }, judge.faults))
    }
}

/// Reads parts of one object and collects what is wrong with them.
pub(super) struct Judge {
    pub(super) object: String,
    pub(super) faults: Faults,
}

impl Judge {
    pub(super) fn fault(&mut self, path: &str, found: String, accepted: &str) {
        self.faults.push(Fault::new(&*self.object, path, found, accepted));
    }

    /// The first of what is wrong.
    fn few(&self) -> Vec<Arc<str>> {
        let more = self.faults.len().saturating_sub(MOST_FAULTS);
        let first = self.faults.iter().take(MOST_FAULTS).map(|fault| fault.to_string().into());
        first.chain((more > 0).then(|| format!("{}: … and {more} more", self.object).into())).collect()
    }

    fn kind(&mut self, text: &Option<String>) -> ServiceKind {
        match text.as_deref() {
            None | Some("" | "ClusterIP") => ServiceKind::ClusterIp,
            Some("NodePort") => ServiceKind::NodePort,
            Some("LoadBalancer") => ServiceKind::LoadBalancer,
            Some("ExternalName") => ServiceKind::ExternalName,
            Some(other) => {
                let accepted = "ClusterIP, NodePort, LoadBalancer or ExternalName";
                self.fault("spec.type", format!("found {}", shown(other)), accepted);
                ServiceKind::ClusterIp
            }
        }
    }

    fn policy(&mut self, path: &str, text: Option<&str>) -> TrafficPolicy {
        match text {
            None | Some("" | "Cluster") => TrafficPolicy::Cluster,
            Some("Local") => TrafficPolicy::Local,
            Some(other) => {
                self.fault(path, format!("found {}", shown(other)), "Cluster or Local");
                TrafficPolicy::Cluster
            }
        }
    }

    pub(super) fn port(&mut self, path: &str, port: i64) -> Option<u16> {
        let valid = u16::try_from(port).ok().filter(|port| *port != 0);
        if valid.is_none() {
            self.fault(path, format!("found {port}"), "1 to 65535");
        }
        valid
    }

    pub(super) fn protocol(&mut self, path: &str, text: Option<String>) -> Option<Protocol> {
        let Some(text) = text.filter(|text| !text.is_empty()) else { return Some(Protocol::Tcp) };
        let valid = text.parse().ok();
        if valid.is_none() {
            self.fault(path, format!("found {}", shown(&text)), "TCP, UDP or SCTP");
        }
        valid
    }

    /// An address that packets can be sent to.
    pub(super) fn address(&mut self, path: &str, text: &str) -> Option<IpAddr> {
        const ACCEPTED: &str = "an address of a host, not unspecified, loopback, link-local or multicast";
        let valid = text.parse().ok().filter(|ip: &IpAddr| {
            let link_local = match ip {
                IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
                IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.to_ipv4_mapped().is_some(),
            };
            !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || link_local)
        });
        if valid.is_none() {
            self.fault(path, format!("found {}", shown(text)), ACCEPTED);
        }
        valid
    }

    fn addresses(&mut self, path: &str, texts: &[String]) -> Vec<IpAddr> {
        let mut valid = Vec::new();
        for (place, text) in texts.iter().enumerate() {
            let ip = self.address(&format!("{path}[{place}]"), text);
            valid.extend(ip.filter(|ip| !valid.contains(ip)));
        }
        valid
    }

    fn ports(&mut self, raw: Vec<RawPort>) -> Vec<ServicePort> {
        let mut taken = BTreeSet::new();
        let mut ports = Vec::new();
        for (place, raw) in raw.into_iter().enumerate() {
            let path = format!("spec.ports[{place}]");
            let port = self.port(&format!("{path}.port"), raw.port);
            let protocol = self.protocol(&format!("{path}.protocol"), raw.protocol);
            let node_port = raw.node_port.filter(|port| *port != 0);
            let node_port = node_port.and_then(|port| self.port(&format!("{path}.nodePort"), port));
            let target = raw.target_port.and_then(|target| self.port_ref(&format!("{path}.targetPort"), target));
            let (Some(port), Some(protocol)) = (port, protocol) else { continue };
            if !taken.insert((protocol, port)) {
                self.fault(&path, format!("found {port}/{protocol} again"), "each port and protocol once");
                continue;
            }
            ports.push(ServicePort { name: raw.name.into(), protocol, port, node_port, target });
        }
        ports
    }

    /// Kubernetes takes 0 and an empty name for nothing.
    pub(super) fn port_ref(&mut self, path: &str, raw: RawPortRef) -> Option<PortRef> {
        match raw {
            RawPortRef::Number(0) => None,
            RawPortRef::Number(port) => self.port(path, port).map(PortRef::Number),
            RawPortRef::Name(name) => Some(name).filter(|name| !name.is_empty()).map(|name| PortRef::Name(name.into())),
        }
    }

    fn ingress(&mut self, raw: Vec<RawIngress>) -> Vec<Ingress> {
        let mut valid: Vec<Ingress> = Vec::new();
        for (place, raw) in raw.into_iter().enumerate() {
            let path = format!("status.loadBalancer.ingress[{place}]");
            let is_proxied = match raw.ip_mode.as_deref() {
                None | Some("" | "VIP") => false,
                Some("Proxy") => true,
                Some(other) => {
                    self.fault(&format!("{path}.ipMode"), format!("found {}", shown(other)), "VIP or Proxy");
                    continue;
                }
            };
            let Some(text) = raw.ip.filter(|ip| !ip.is_empty()) else { continue };
            let ip = self.address(&format!("{path}.ip"), &text);
            valid
                .extend(ip.map(|ip| Ingress { ip, is_proxied }).filter(|new| valid.iter().all(|old| old.ip != new.ip)));
        }
        valid
    }

    /// Kubernetes trims them, and takes prefixes with host bits. If all that was said is wrong, nobody is let in rather than
    /// everybody.
    fn source_ranges(&mut self, texts: &[String]) -> Option<Vec<Prefix>> {
        let mut valid = BTreeSet::new();
        for (place, text) in texts.iter().enumerate() {
            let halves = text.trim().split_once('/');
            let prefix = halves.and_then(|(ip, len)| Prefix::containing(ip.parse().ok()?, len.parse().ok()?));
            if prefix.is_none() {
                let path = format!("spec.loadBalancerSourceRanges[{place}]");
                self.fault(&path, format!("found {}", shown(text)), "a prefix: 192.0.2.0/24");
            }
            valid.extend(prefix);
        }
        (!texts.is_empty()).then(|| valid.into_iter().collect())
    }

    fn affinity(&mut self, kind: &Option<String>, config: &RawAffinity) -> Option<u32> {
        match kind.as_deref() {
            None | Some("" | "None") => return None,
            Some("ClientIP") => {}
            Some(other) => {
                self.fault("spec.sessionAffinity", format!("found {}", shown(other)), "None or ClientIP");
                return None;
            }
        }
        let seconds = config.client_ip.as_ref().and_then(|config| config.timeout_seconds);
        let Some(seconds) = seconds else { return Some(DEFAULT_AFFINITY) };
        let valid = u32::try_from(seconds).ok().filter(|_| (1..=MAX_AFFINITY).contains(&seconds));
        if valid.is_none() {
            let path = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
            self.fault(path, format!("found {seconds}"), "1 to 86400 seconds; 10800 is used");
        }
        Some(valid.unwrap_or(DEFAULT_AFFINITY))
    }

    fn on_removal(&mut self, text: Option<&Arc<str>>) -> bool {
        match text.map(|text| &**text) {
            None | Some("" | "drain") => false,
            Some("reset") => true,
            Some(other) => {
                let path = format!("metadata.annotations[{ON_REMOVAL_ANNOTATION}]");
                self.fault(&path, format!("found {}", shown(other)), "drain or reset");
                false
            }
        }
    }

    /// A slice's port without a number means every port, which no proxy serves.
    fn endpoint_port(&mut self, place: usize, raw: RawEndpointPort) -> Option<EndpointPort> {
        let path = format!("ports[{place}]");
        let port = self.port(&format!("{path}.port"), raw.port?)?;
        let protocol = self.protocol(&format!("{path}.protocol"), raw.protocol)?;
        Some(EndpointPort { name: raw.name.unwrap_or_default().into(), protocol, port })
    }

    fn endpoint(&mut self, place: usize, raw: RawEndpoint, family: Option<Family>) -> Option<Endpoint> {
        let family = family?;
        let conditions = raw.conditions.unwrap_or_default();
        let hints = raw.hints.unwrap_or_default();
        let names = |hints: Option<Vec<RawHint>>| hints.unwrap_or_default().into_iter().map(|hint| hint.name.into());
        let (for_zones, for_nodes): (BTreeSet<_>, BTreeSet<_>) =
            (names(hints.for_zones).collect(), names(hints.for_nodes).collect());
        let node = raw.node_name.and_then(|name| name.parse().ok());
        let zone = raw.zone.filter(|zone| !zone.is_empty()).map(Arc::from);
        // What further addresses mean is not defined.
        let path = format!("endpoints[{place}].addresses[0]");
        let ip = self.address(&path, raw.addresses.first()?)?;
        if Family::of(ip) != family {
            self.fault(&path, format!("found {ip}"), "an address of the slice's addressType");
            return None;
        }
        Some(Endpoint {
            ip,
            ready: conditions.ready.unwrap_or(true),
            serving: conditions.serving.unwrap_or(true),
            terminating: conditions.terminating.unwrap_or(false),
            node,
            zone,
            for_zones,
            for_nodes,
        })
    }
}

impl RawMetadata {
    pub(super) fn name(&self, what: &str) -> Result<ServiceName, String> {
        let namespace = self.namespace.as_deref().filter(|name| !name.is_empty()).unwrap_or("default");
        ServiceName::new(namespace, &self.name).map_err(|fault| format!("{what} without a name: {fault}"))
    }
}

#[derive(Deserialize)]
struct RawService {
    metadata: RawMetadata,
    #[serde(default)]
    spec: RawSpec,
    #[serde(default)]
    status: RawStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawSpec {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(rename = "clusterIP")]
    cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Vec<String>,
    ports: Vec<RawPort>,
    #[serde(rename = "externalIPs")]
    external_ips: Vec<String>,
    #[serde(rename = "loadBalancerIP")]
    load_balancer_ip: Option<String>,
    load_balancer_class: Option<String>,
    load_balancer_source_ranges: Vec<String>,
    ip_family_policy: Option<String>,
    external_traffic_policy: Option<String>,
    internal_traffic_policy: Option<String>,
    session_affinity: Option<String>,
    session_affinity_config: RawAffinity,
    health_check_node_port: Option<i64>,
    publish_not_ready_addresses: bool,
    selector: Option<ObjectLabels>,
}

/// A number, or a name.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum RawPortRef {
    Number(i64),
    Name(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPort {
    #[serde(default)]
    name: String,
    #[serde(default)]
    protocol: Option<String>,
    port: i64,
    #[serde(default)]
    node_port: Option<i64>,
    #[serde(default)]
    target_port: Option<RawPortRef>,
}

#[derive(Default, Deserialize)]
struct RawAffinity {
    #[serde(rename = "clientIP", default)]
    client_ip: Option<RawClientIp>,
}

#[derive(Deserialize)]
struct RawClientIp {
    #[serde(rename = "timeoutSeconds", default)]
    timeout_seconds: Option<i64>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawStatus {
    load_balancer: RawLoadBalancer,
    conditions: Vec<RawCondition>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawCondition {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    status: String,
    #[serde(default)]
    reason: Arc<str>,
    #[serde(default)]
    message: Arc<str>,
    #[serde(default)]
    last_transition_time: Option<Arc<str>>,
}

/// What our condition says, of all that a Service has.
fn assigned(conditions: Vec<RawCondition>) -> Option<Box<Assigned>> {
    let ours = conditions.into_iter().find(|condition| condition.kind == Assigned::CONDITION)?;
    let since = ours.last_transition_time.unwrap_or_default();
    Some(Box::new(Assigned { holds: ours.status == "True", reason: ours.reason, message: ours.message, since }))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawLoadBalancer {
    ingress: Vec<RawIngress>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawIngress {
    #[serde(default)]
    ip: Option<String>,
    #[serde(default)]
    ip_mode: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawSlice {
    metadata: RawMetadata,
    #[serde(default)]
    address_type: String,
    #[serde(default)]
    ports: Option<Vec<RawEndpointPort>>,
    #[serde(default)]
    endpoints: Option<Vec<RawEndpoint>>,
}

#[derive(Deserialize)]
struct RawEndpointPort {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    protocol: Option<String>,
    #[serde(default)]
    port: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawEndpoint {
    #[serde(default)]
    addresses: Vec<String>,
    #[serde(default)]
    conditions: Option<RawConditions>,
    #[serde(default)]
    node_name: Option<String>,
    #[serde(default)]
    zone: Option<String>,
    #[serde(default)]
    hints: Option<RawHints>,
}

#[derive(Default, Deserialize)]
struct RawConditions {
    #[serde(default)]
    ready: Option<bool>,
    #[serde(default)]
    serving: Option<bool>,
    #[serde(default)]
    terminating: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawHints {
    #[serde(default)]
    for_zones: Option<Vec<RawHint>>,
    #[serde(default)]
    for_nodes: Option<Vec<RawHint>>,
}

#[derive(Deserialize)]
struct RawHint {
    #[serde(default)]
    name: String,
}
