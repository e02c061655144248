//! Pods as Kubernetes writes them, as far as addresses, ports and readiness go.
//!
//! Read leniently, as Services are: what is wrong is left out and named by a fault.

use std::net::IpAddr;
use std::sync::Arc;

use ripstop_types::NodeName;
use serde::Deserialize;

use super::service::{Judge, RawPortRef};
use super::tree::shown;
use crate::Faults;
use crate::kubernetes::{KubePod, PodPort, ProbeCheck, RawMetadata, ReadinessProbe};
use crate::service::{PortRef, Protocol};

/// Longest time that a probe may be told, in seconds: a day.
const LONGEST: i64 = 86_400;

/// The only checks that an agent makes.
const CHECKS: &str = "tcpSocket or httpGet: the agent runs no process and speaks no gRPC";

impl KubePod {
    pub(crate) fn read(raw: RawPod) -> Result<(Self, Faults), String> {
        let RawPod { metadata, spec, status } = raw;
        let (name, uid) = (metadata.name("a Pod")?, metadata.uid.into());
        let mut judge = Judge { object: format!("pod/{name}"), faults: Faults::none() };
        let node = spec.node_name.filter(|node| !node.is_empty()).and_then(|text| {
            let node = text.parse::<NodeName>();
            if let Err(fault) = &node {
                judge.fault("spec.nodeName", format!("found {}", shown(&text)), &fault.accepted);
            }
            node.ok()
        });
        let mut ips: Vec<IpAddr> = Vec::new();
        for (place, ip) in status.pod_ips.iter().enumerate() {
            ips.extend(judge.address(&format!("status.podIPs[{place}].ip"), &ip.ip));
        }
        let (mut ports, mut probes) = (Vec::new(), Vec::new());
        for (place, container) in spec.containers.into_iter().enumerate() {
            let path = format!("spec.containers[{place}]");
            let own = judge.pod_ports(&path, container.ports);
            probes.extend(container.readiness_probe.and_then(|probe| judge.probe(&path, probe, &own)));
            ports.extend(own);
        }
        // A sidecar's ports are the pod's like any other; other initial containers have ended when packets come.
        for (place, container) in spec.init_containers.into_iter().enumerate() {
            if container.restart_policy.as_deref() == Some("Always") {
                ports.extend(judge.pod_ports(&format!("spec.initContainers[{place}]"), container.ports));
            }
        }
        let (labels, host_network, phase) = (metadata.labels, spec.host_network, status.phase.into());
        Ok((Self { name, uid, labels, node, ips, host_network, phase, ports, probes }, judge.faults))
    }
}

impl Judge {
    fn pod_ports(&mut self, path: &str, raw: Vec<RawPodPort>) -> Vec<PodPort> {
        let read = |(place, raw): (usize, RawPodPort)| {
            let path = format!("{path}.ports[{place}]");
            let port = self.port(&format!("{path}.containerPort"), raw.container_port)?;
            let protocol = self.protocol(&format!("{path}.protocol"), raw.protocol)?;
            Some(PodPort { name: raw.name, protocol, port })
        };
        raw.into_iter().enumerate().filter_map(read).collect()
    }

    /// A probe of a kind that no agent carries out is none.
    fn probe(&mut self, path: &str, raw: RawProbe, ports: &[PodPort]) -> Option<ReadinessProbe> {
        let path = format!("{path}.readinessProbe");
        let mut count = |field: &str, value: Option<i64>, least: i64, otherwise: u32| {
            let Some(value) = value else { return otherwise };
            let valid = u32::try_from(value).ok().filter(|_| (least..=LONGEST).contains(&value));
            if valid.is_none() {
                self.fault(&format!("{path}.{field}"), format!("found {value}"), &format!("{least} to {LONGEST}"));
            }
            valid.unwrap_or(otherwise)
        };
        // 0 is what the API takes for unsaid in all but the delay.
        let said = |value: Option<i64>| value.filter(|value| *value != 0);
        let (delay, period) = (
            count("initialDelaySeconds", raw.initial_delay_seconds, 0, 0),
            count("periodSeconds", said(raw.period_seconds), 1, 10),
        );
        let timeout = count("timeoutSeconds", said(raw.timeout_seconds), 1, 1);
        let successes = count("successThreshold", said(raw.success_threshold), 1, 1);
        let failures = count("failureThreshold", said(raw.failure_threshold), 1, 3);
        let (at, host, port, check) = match (raw.tcp_socket, raw.http_get) {
            (Some(tcp), None) => (format!("{path}.tcpSocket"), tcp.host, tcp.port, ProbeCheck::Tcp),
            (None, Some(http)) => {
                let at = format!("{path}.httpGet");
                let check = self.http(&at, http.path, http.scheme)?;
                (at, http.host, http.port, check)
            }
            (Some(_), Some(_)) => {
                self.fault(&path, "found two checks".into(), CHECKS);
                return None;
            }
            (None, None) => {
                self.fault(&path, "found no check that can be made".into(), CHECKS);
                return None;
            }
        };
        let host = match host.filter(|host| !host.is_empty()) {
            Some(host) => Some(self.address(&format!("{at}.host"), &host)?),
            None => None,
        };
        let port = self.probed_port(&format!("{at}.port"), port, ports)?;
        Some(ReadinessProbe { check, host, port, delay, period, timeout, successes, failures })
    }

    fn http(&mut self, at: &str, path: Option<String>, scheme: Option<String>) -> Option<ProbeCheck> {
        if let Some(scheme) = scheme.filter(|scheme| !matches!(scheme.as_str(), "" | "HTTP")) {
            self.fault(&format!("{at}.scheme"), format!("found {}", shown(&scheme)), "HTTP");
            return None;
        }
        let path = path.filter(|path| !path.is_empty()).unwrap_or_else(|| "/".into());
        // It becomes a line of a request.
        if path.len() > 1024 || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            let accepted = "at most 1024 printable ASCII characters without blanks";
            self.fault(&format!("{at}.path"), format!("found {}", shown(&path)), accepted);
            return None;
        }
        let slash = if path.starts_with('/') { "" } else { "/" };
        Some(ProbeCheck::Http { path: format!("{slash}{path}").into() })
    }

    fn probed_port(&mut self, path: &str, raw: Option<RawPortRef>, ports: &[PodPort]) -> Option<u16> {
        let Some(raw) = raw else {
            self.fault(path, "found nothing".into(), "a port's number, or the name of a port of the container");
            return None;
        };
        if matches!(raw, RawPortRef::Number(0)) {
            return self.port(path, 0);
        }
        match self.port_ref(path, raw)? {
            PortRef::Number(port) => Some(port),
            PortRef::Name(name) => {
                let named = ports.iter().find(|port| port.name == name && port.protocol == Protocol::Tcp);
                if named.is_none() {
                    self.fault(path, format!("found {}", shown(&name)), "the name of a TCP port of the container");
                }
                named.map(|port| port.port)
            }
        }
    }
}

#[derive(Deserialize)]
pub(crate) struct RawPod {
    metadata: RawMetadata,
    #[serde(default)]
    spec: RawSpec,
    #[serde(default)]
    status: RawStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawSpec {
    node_name: Option<String>,
    host_network: bool,
    containers: Vec<RawContainer>,
    init_containers: Vec<RawContainer>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawContainer {
    ports: Vec<RawPodPort>,
    readiness_probe: Option<RawProbe>,
    restart_policy: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPodPort {
    #[serde(default)]
    name: Arc<str>,
    #[serde(default)]
    protocol: Option<String>,
    container_port: i64,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawProbe {
    tcp_socket: Option<RawTcp>,
    http_get: Option<RawHttp>,
    initial_delay_seconds: Option<i64>,
    period_seconds: Option<i64>,
    timeout_seconds: Option<i64>,
    success_threshold: Option<i64>,
    failure_threshold: Option<i64>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawTcp {
    host: Option<String>,
    port: Option<RawPortRef>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawHttp {
    host: Option<String>,
    port: Option<RawPortRef>,
    path: Option<String>,
    scheme: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawStatus {
    phase: String,
    #[serde(rename = "podIPs")]
    pod_ips: Vec<RawIp>,
}

#[derive(Deserialize)]
struct RawIp {
    #[serde(default)]
    ip: String,
}
