//! Services and their endpoints as people ask for them: what was decided, and whether the kernel has it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ripstop_desired::{Source, services};
use ripstop_netmodel::{Key, Resource};
use ripstop_objects::service::Service;
use ripstop_services::remarks::{remarks, taken};
use ripstop_services::{Decided, Target};
use ripstop_types::ServiceName;
use serde::Serialize;

use super::{Core, Level, ProxyView};

/// A Service.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct ServiceView {
    pub namespace: String,
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
    /// `ClusterIPs`.
    pub ips: Vec<IpAddr>,
    /// `80/TCP`, with a node port `80:30080/TCP`.
    pub ports: Vec<String>,
    /// How many endpoints packets from this node may go to.
    pub endpoints: usize,
    pub revision: u64,
    /// By what it is served, `nftables>iptables` while a node is switched from one to the other.
    pub proxy: String,
    /// Whether the kernel has what was decided; of a Service that is not served here: no.
    pub realised: bool,
    /// Why it is not, or what of it is another's, or was left out.
    pub reason: Option<String>,
}

/// An endpoint that packets may go to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[allow(missing_docs)]
pub struct EndpointView {
    pub namespace: String,
    pub service: String,
    /// Address, port and protocol of the frontend.
    pub frontend: String,
    pub ip: IpAddr,
    pub port: u16,
    /// `inside`: for packets from this node and its pods, and as a rule for all; `outside`: for those from elsewhere.
    pub scope: &'static str,
    pub revision: u64,
    pub realised: bool,
}

/// A namespace.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct NamespaceView {
    pub name: String,
    /// `team=blue`.
    pub labels: Vec<String>,
}

/// How far Services were served since this agent started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Serving {
    /// They are not, or nothing is known of them yet.
    #[default]
    Nothing,
    /// All are known.
    Read,
    /// All that was known then is in the kernel.
    Served,
}

impl Core {
    /// The namespaces that have an object.
    #[must_use]
    pub fn namespaces(&self) -> Vec<NamespaceView> {
        let row = |namespace: &ripstop_objects::KubeNamespace| NamespaceView {
            name: namespace.name.to_string(),
            labels: namespace.labels.iter().map(|(key, value)| format!("{key}={value}")).collect(),
        };
        self.tables.cluster.namespaces.values().map(row).collect()
    }

    /// The Services of the cluster and what this node does for them.
    #[must_use]
    pub fn services(&self) -> Vec<ServiceView> {
        let node = services::node(&self.tables);
        let services = &self.tables.cluster.services;
        let ProxyView { proxy, leaving, .. } = self.proxy_view();
        let proxy = leaving.map_or_else(|| proxy.clone(), |leaving| format!("{leaving}>{proxy}"));
        let remarks = node.as_ref().map(|node| remarks(node, services)).unwrap_or_default();
        // The first of each: what is left out.
        let remarked: BTreeMap<&ServiceName, &str> =
            remarks.iter().rev().map(|remark| (&remark.service, remark.text.as_str())).collect();
        let rows = services.services().map(|service| {
            let decided = node.as_ref().map(|node| services::decide(node, services, &service.name)).unwrap_or_default();
            let endpoints = decided.frontends.iter().filter_map(|(frontend, decision)| match &decision.inside {
                Target::Backends(backends) => Some(backends.iter().map(|to| (to.ip, to.port, frontend.protocol))),
                Target::Reject | Target::Drop => None,
            });
            let mut endpoints: Vec<_> = endpoints.flatten().collect();
            endpoints.sort();
            endpoints.dedup();
            let reason = self.unserved(service, &decided, node.is_some()).or_else(|| self.unrealised(&service.name));
            ServiceView {
                namespace: service.name.namespace.to_string(),
                name: service.name.name.to_string(),
                kind: service.kind.to_string(),
                ips: service.cluster_ips.clone(),
                ports: service.ports.iter().map(ToString::to_string).collect(),
                endpoints: endpoints.len(),
                revision: services.revision(&service.name).0,
                proxy: proxy.clone(),
                realised: reason.is_none(),
                reason: reason.or_else(|| remarked.get(&service.name).map(|text| (*text).to_owned())),
            }
        });
        rows.collect()
    }

    /// The endpoints of each frontend that this node serves.
    #[must_use]
    pub fn endpoints(&self) -> Vec<EndpointView> {
        let Some(node) = services::node(&self.tables) else { return Vec::new() };
        let tables = &self.tables.cluster.services;
        let mut rows = Vec::new();
        for service in tables.services() {
            let realised = self.unrealised(&service.name).is_none();
            for (frontend, decision) in services::decide(&node, tables, &service.name).frontends {
                let scopes = [("inside", Some(&decision.inside)), ("outside", decision.outside.as_ref())];
                for (scope, target) in scopes {
                    let Some(Target::Backends(backends)) = target else { continue };
                    rows.extend(backends.iter().map(|to| EndpointView {
                        namespace: service.name.namespace.to_string(),
                        service: service.name.name.to_string(),
                        frontend: frontend.to_string(),
                        ip: to.ip,
                        port: to.port,
                        scope,
                        revision: tables.revision(&service.name).0,
                        realised,
                    }));
                }
            }
        }
        rows.sort();
        rows
    }

    /// Says once that Services were read, and once that they are served: between the two the work is this node's alone.
    pub(super) fn tell_serving(&mut self) {
        let tables = &self.tables.cluster.services;
        self.serving = match (self.serving, self.desired.serving()) {
            (_, None) => Serving::Nothing,
            (Serving::Nothing, Some(_)) => {
                let (services, slices) = (tables.services().count(), tables.slices().count());
                self.log(Level::Info, format!("{services} Services and {slices} EndpointSlices are read"));
                Serving::Read
            }
            (Serving::Read, Some(_)) if self.desired.is_whole() && !self.is_serving_under_way() => {
                self.log(Level::Info, "Services are served");
                Serving::Served
            }
            (serving, Some(_)) => serving,
        };
    }

    /// Whether something of Services is to be done or being done.
    fn is_serving_under_way(&self) -> bool {
        self.running.values().any(|running| running.is_of_services) || self.dirty.iter().any(Key::is_of_services)
    }

    /// Why nothing, or not all, is done for a Service here.
    fn unserved(&self, service: &Service, decided: &Decided, serves: bool) -> Option<String> {
        if let Some(missing) = services::missing(&self.tables) {
            return Some(missing.into());
        }
        if !serves {
            let none = !self.tables.serves();
            return Some(if none { "this node serves no Services" } else { "Services have not been read yet" }.into());
        }
        match decided.lost.first() {
            Some((place, holder)) => Some(taken(&service.name, place, holder)),
            // Whose address was left out has a reason of its own.
            None if decided.frontends.is_empty() && !service.left_out.is_empty() => {
                Some(format!("it has no address that this node serves: {}", service.left_out.join("; ")))
            }
            None if decided.frontends.is_empty() => Some("it has no address that this node serves".into()),
            None => None,
        }
    }

    /// Why the kernel has not all of it.
    fn unrealised(&self, name: &ServiceName) -> Option<String> {
        let source = Source::Service(name.clone());
        self.desired.keys_of(&source).find_map(|key| {
            let wanted = self.desired.model().get(&key)?;
            match self.applied.get(&key) {
                Some(there) if wanted.object.satisfied_by(&there.object) => None,
                _ => Some(match (self.failed.get(&key), self.refused.get(&key)) {
                    (Some(failure), _) => format!("failed: {}", failure.why),
                    (None, Some(why)) => format!("refused: {why}"),
                    (None, None) => "pending".into(),
                }),
            }
        })
    }
}
