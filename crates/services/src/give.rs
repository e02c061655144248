//! The ClusterIPs and node ports that a Service gets where no API server gives them.
//!
//! First what the Service itself names, then what it has already, then the first that is free. Who carries it out claims each place on
//! condition that nobody has it, and asks anew where somebody was first; so no place is given twice.
//!
//! Not here: the store.
//!
//! Invariants: what is given lies in the ranges and is nobody else's; the same claims give the same places.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ripstop_objects::service::{Protocol, Service, ServiceKind};
use ripstop_objects::{Applied, Fault, Faults};
use ripstop_types::{Family, Prefix, ServiceName};

/// The node ports that are given: those of an API server by default.
const NODE_PORTS: std::ops::RangeInclusive<u16> = 30_000..=32_767;

/// What one Service alone may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Claim {
    /// A ClusterIP.
    Ip(IpAddr),
    /// A node port.
    NodePort(Protocol, u16),
}

/// The key of its record: `10.96.0.10`, `node-port/30080/TCP`.
impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::NodePort(protocol, port) => write!(f, "node-port/{port}/{protocol}"),
        }
    }
}

impl Claim {
    /// What a record's key says.
    #[must_use]
    pub fn of_key(key: &str) -> Option<Self> {
        match key.strip_prefix("node-port/").and_then(|rest| rest.split_once('/')) {
            Some((port, protocol)) => Some(Self::NodePort(protocol.parse().ok()?, port.parse().ok()?)),
            None => key.parse().ok().map(Self::Ip),
        }
    }
}

/// What a Service has, or gets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Given {
    /// Its ClusterIPs.
    pub cluster_ips: Vec<IpAddr>,
    /// The node port of each of its ports.
    pub node_ports: Vec<Option<u16>>,
}

impl Given {
    /// The claims that it takes.
    #[must_use]
    pub fn claims(&self, service: &Service) -> BTreeSet<Claim> {
        let ports = service.ports.iter().zip(&self.node_ports);
        let ports = ports.filter_map(|(port, given)| given.map(|given| Claim::NodePort(port.protocol, given)));
        self.cluster_ips.iter().copied().map(Claim::Ip).chain(ports).collect()
    }
}

/// Who has what.
pub type Claims = BTreeMap<Claim, ServiceName>;

/// Decides what a Service gets. `before` is the Service as it is stored now; `ranges` are those of ClusterIPs.
///
/// # Errors
/// What it asks for and cannot have, with whoever has it.
pub fn decide(
    applied: &Applied,
    before: Option<&Service>,
    ranges: &[Prefix],
    claims: &Claims,
) -> Result<Given, Faults> {
    let Some(service) = applied.service() else { return Ok(Given::default()) };
    let mut giver = Giver { object: applied.name(), service, before, ranges, claims, faults: Faults::none() };
    let is_reached = !service.headless && service.kind != ServiceKind::ExternalName;
    let cluster_ips = if is_reached { giver.cluster_ips(applied) } else { Vec::new() };
    let node_ports = giver.node_ports(applied);
    giver.faults.into_result()?;
    Ok(Given { cluster_ips, node_ports })
}

struct Giver<'t> {
    object: String,
    service: &'t Service,
    before: Option<&'t Service>,
    ranges: &'t [Prefix],
    claims: &'t Claims,
    faults: Faults,
}

impl Giver<'_> {
    fn fault(&mut self, path: &str, found: String, accepted: impl Into<String>) {
        self.faults.push(Fault::new(&*self.object, path, found, accepted));
    }

    /// Another Service that has it.
    fn holder(&self, claim: Claim) -> Option<&ServiceName> {
        self.claims.get(&claim).filter(|holder| **holder != self.service.name)
    }

    fn cluster_ips(&mut self, applied: &Applied) -> Vec<IpAddr> {
        let mut ips = Vec::new();
        for (place, ip) in self.service.cluster_ips.iter().enumerate() {
            let path = format!("spec.clusterIPs[{place}]");
            if !self.ranges.is_empty() && !self.ranges.iter().any(|range| range.contains(*ip)) {
                let accepted = format!("an address of services.serviceCIDRs, {}", self.shown_ranges());
                self.fault(&path, format!("found {ip}"), accepted);
            } else if let Some(holder) = self.holder(Claim::Ip(*ip)) {
                let found = format!("found {ip}, which service {holder} has");
                self.fault(&path, found, "an address that no other Service has");
            }
            ips.push(*ip);
        }
        let mut order: Vec<Family> = Vec::new();
        for family in ips.iter().map(|ip| Family::of(*ip)).chain(self.ranges.iter().map(|range| range.family())) {
            if !order.contains(&family) {
                order.push(family);
            }
        }
        let (families, fewer_will_do) = applied.families(&order);
        if families.is_empty() {
            let accepted =
                "an address: services.serviceCIDRs of the agent's configuration names no range to take one of";
            self.fault("spec.clusterIP", "found nothing".into(), accepted);
        }
        for family in families {
            if ips.iter().any(|ip| Family::of(*ip) == family) {
                continue;
            }
            let has = self.before.and_then(|before| before.cluster_ips.iter().find(|ip| Family::of(**ip) == family));
            let has = has.copied().filter(|ip| self.holder(Claim::Ip(*ip)).is_none());
            match has.or_else(|| self.free_ip(family)) {
                Some(ip) => ips.push(ip),
                None if fewer_will_do && !ips.is_empty() => {}
                None => {
                    let found = format!("found no {family} address that is free in {}", self.shown_ranges());
                    self.fault("spec.clusterIPs", found, "a family of which services.serviceCIDRs has a free address");
                }
            }
        }
        ips
    }

    fn shown_ranges(&self) -> String {
        let ranges: Vec<String> = self.ranges.iter().map(ToString::to_string).collect();
        if ranges.is_empty() { "no range".into() } else { ranges.join(", ") }
    }

    fn free_ip(&self, family: Family) -> Option<IpAddr> {
        let ranges = self.ranges.iter().filter(|range| range.family() == family);
        ranges.flat_map(hosts).find(|ip| self.holder(Claim::Ip(*ip)).is_none())
    }

    fn node_ports(&mut self, applied: &Applied) -> Vec<Option<u16>> {
        let service = self.service;
        let gives = match service.kind {
            ServiceKind::NodePort => true,
            ServiceKind::LoadBalancer => applied.value["spec"]["allocateLoadBalancerNodePorts"] != false,
            ServiceKind::ClusterIp | ServiceKind::ExternalName => false,
        };
        let mut own: BTreeSet<(Protocol, u16)> =
            service.ports.iter().filter_map(|port| Some((port.protocol, port.node_port?))).collect();
        let mut ports = Vec::with_capacity(service.ports.len());
        for (place, port) in service.ports.iter().enumerate() {
            let path = format!("spec.ports[{place}].nodePort");
            if let Some(asked) = port.node_port {
                if let Some(holder) = self.holder(Claim::NodePort(port.protocol, asked)) {
                    let found = format!("found {asked}/{}, which service {holder} has", port.protocol);
                    self.fault(&path, found, "a node port that no other Service has");
                }
                ports.push(Some(asked));
                continue;
            }
            if !gives {
                ports.push(None);
                continue;
            }
            let same =
                |at: &&ripstop_objects::service::ServicePort| (at.protocol, at.port) == (port.protocol, port.port);
            let has = self.before.and_then(|before| before.ports.iter().find(same)?.node_port);
            let is_free = |number: &u16| {
                self.holder(Claim::NodePort(port.protocol, *number)).is_none()
                    && !own.contains(&(port.protocol, *number))
            };
            let given = has.filter(is_free).or_else(|| NODE_PORTS.clone().find(is_free));
            match given {
                Some(number) => drop(own.insert((port.protocol, number))),
                None => self.fault(&path, "found none free".into(), "a Service of type NodePort less"),
            }
            ports.push(given);
        }
        ports
    }
}

/// Addresses of a range that a Service may have: neither its first nor, of IPv4, its last.
fn hosts(range: &Prefix) -> Box<dyn Iterator<Item = IpAddr>> {
    match (range.addr(), range.last()) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            Box::new((u32::from(first).saturating_add(1)..u32::from(last)).map(|bits| IpAddr::V4(bits.into())))
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            Box::new((u128::from(first).saturating_add(1)..=u128::from(last)).map(|bits| IpAddr::V6(bits.into())))
        }
        _ => Box::new(std::iter::empty()),
    }
}
