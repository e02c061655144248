//! `runtimeConfig`: what a runtime passes for the capabilities that the configuration declares (CONVENTIONS.md).

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ripstop_types::{Family, Invalid, Mac, Prefix};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cidr::Cidr;
use crate::fault::{Faults, Object};
use crate::result::Dns;

/// The capabilities that Ripstop has.
pub const CAPABILITIES: [&str; 7] =
    ["bandwidth", "dns", "io.kubernetes.cri.pod-annotations", "ipRanges", "ips", "mac", "portMappings"];

/// What the runtime asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RuntimeConfig {
    /// `ips`: addresses that the pod is to have.
    pub ips: Vec<RequestedIp>,
    /// `mac`: the hardware address that the pod is to have.
    pub mac: Option<Mac>,
    /// `ipRanges`: one address is to come out of each of these sets.
    pub ip_ranges: Vec<Vec<IpRange>>,
    /// `dns`.
    pub dns: Dns,
    /// `bandwidth`.
    pub bandwidth: Bandwidth,
    /// `portMappings`: ports of the host that lead to the pod.
    pub port_mappings: Vec<PortMapping>,
    /// `io.kubernetes.cri.pod-annotations`, which containerd fills in. [`IP_ANNOTATION`] stands for `ips` where that is empty.
    pub annotations: BTreeMap<String, String>,
}

/// A port of the host that leads to one of the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// At this address of the host; none: at all of them. `0.0.0.0` and `::` are all of a family.
    pub host_ip: Option<IpAddr>,
    /// The host's port.
    pub host_port: u16,
    /// The pod's port.
    pub container_port: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
}

/// An address somebody asks for, with or without its prefix length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RequestedIp {
    /// The address.
    pub ip: IpAddr,
    /// The prefix length, if it was said.
    pub len: Option<u8>,
}

/// A set of addresses to choose from, as host-local writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpRange {
    /// The subnet.
    pub subnet: Prefix,
    /// The first address that may be given.
    pub start: Option<IpAddr>,
    /// The last address that may be given.
    pub end: Option<IpAddr>,
    /// The subnet's gateway.
    pub gateway: Option<IpAddr>,
}

/// Limits of a pod's traffic, seen from the pod: ingress is what it receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Bandwidth {
    /// Towards the pod.
    pub ingress: Option<Rate>,
    /// From the pod.
    pub egress: Option<Rate>,
}

impl Bandwidth {
    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        self.ingress.is_none() && self.egress.is_none()
    }
}

/// A rate and the burst that may exceed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Bits per second; not zero.
    pub bits_per_second: u64,
    /// Bits; `None` leaves it to the agent.
    pub burst_bits: Option<u64>,
}

impl FromStr for RequestedIp {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text.contains('/') {
            let cidr: Cidr = text.parse()?;
            return Ok(Self { ip: cidr.ip(), len: Some(cidr.len()) });
        }
        let accepted = "an address, with or without '/' and a prefix length";
        text.parse().map(|ip| Self { ip, len: None }).map_err(|_| Invalid::new("an address", text, accepted))
    }
}

impl TryFrom<String> for RequestedIp {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<RequestedIp> for String {
    fn from(ip: RequestedIp) -> Self {
        ip.to_string()
    }
}

impl fmt::Display for RequestedIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.len {
            Some(len) => write!(f, "{}/{len}", self.ip),
            None => write!(f, "{}", self.ip),
        }
    }
}

impl RuntimeConfig {
    pub(crate) fn read(object: Object<'_>, faults: &mut Faults) -> Self {
        for (key, value) in object.keys() {
            if !CAPABILITIES.contains(&key) {
                let accepted = format!("supported are {}", CAPABILITIES.join(", "));
                faults.unsupported(object.path(key), value, accepted);
            }
        }
        let mut config =
            Self { ips: read_ips(object, "ips", faults), mac: read_mac(object, faults), ..Self::default() };
        config.ip_ranges = read_ranges(object, faults);
        config.port_mappings = read_port_mappings(object, faults);
        if let Some(map) = object.object("dns", faults) {
            config.dns = read_dns(Object::new(map, &object.path("dns")), faults);
        }
        if let Some(map) = object.object("bandwidth", faults) {
            let path = object.path("bandwidth");
            let of = Object::new(map, &path);
            config.bandwidth = Bandwidth {
                ingress: read_rate(of, "ingressRate", "ingressBurst", faults),
                egress: read_rate(of, "egressRate", "egressBurst", faults),
            };
        }
        if let Some(map) = object.object("io.kubernetes.cri.pod-annotations", faults) {
            let text = |(k, v): (&String, &Value)| Some((k.clone(), v.as_str()?.to_owned()));
            config.annotations = map.iter().filter_map(text).collect();
        }
        if config.ips.is_empty() {
            config.ips = annotated_ips(&config.annotations, faults);
        }
        config
    }
}

/// The annotation that names the addresses a pod is to have, separated by commas.
pub const IP_ANNOTATION: &str = "ripstop.io/ip";

fn annotated_ips(annotations: &BTreeMap<String, String>, faults: &mut Faults) -> Vec<RequestedIp> {
    let Some(text) = annotations.get(IP_ANNOTATION) else { return Vec::new() };
    match text.split(',').map(|ip| ip.trim().parse()).collect() {
        Ok(ips) => ips,
        Err(_) => {
            let path = format!("runtimeConfig.\"io.kubernetes.cri.pod-annotations\".\"{IP_ANNOTATION}\"");
            let found = Value::from(text.as_str());
            faults.add(path, Some(&found), "addresses separated by commas, as 10.244.1.7 or 10.244.1.7,fd00::7");
            Vec::new()
        }
    }
}

/// What has no port of the host leads nowhere and is passed over, as the reference plugin does.
fn read_port_mappings(object: Object<'_>, faults: &mut Faults) -> Vec<PortMapping> {
    let mut mappings: Vec<PortMapping> = Vec::new();
    for (n, item) in object.list("portMappings", faults).iter().enumerate() {
        let path = format!("{}[{n}]", object.path("portMappings"));
        let Some(map) = item.as_object() else {
            faults.add(path, Some(item), "an object with hostPort, containerPort, protocol and hostIP");
            continue;
        };
        let of = Object::new(map, &path);
        let host_port = of.number("hostPort", 0, 65_535, faults).unwrap_or_default();
        if host_port == 0 {
            continue;
        }
        let container_port = of.number("containerPort", 1, 65_535, faults);
        if of.get("containerPort").is_none() {
            faults.add(of.path("containerPort"), None, "a port of the pod, from 1 to 65535");
        }
        let protocol = read_protocol(of, faults);
        let host_ip = read_host_ip(of, faults);
        let (Some(container_port), Some(protocol), Some(host_ip)) = (container_port, protocol, host_ip) else {
            continue;
        };
        let port = |number: u64| u16::try_from(number).unwrap_or_default();
        let mapping =
            PortMapping { host_ip, host_port: port(host_port), container_port: port(container_port), protocol };
        let same = |other: &&PortMapping| {
            (other.host_ip, other.host_port, &other.protocol) == (mapping.host_ip, mapping.host_port, &mapping.protocol)
        };
        match mappings.iter().find(same) {
            Some(_) => faults.add(of.path("hostPort"), of.get("hostPort"), "a port that no mapping before has"),
            None => mappings.push(mapping),
        }
    }
    mappings
}

/// `tcp` where nothing is said.
fn read_protocol(of: Object<'_>, faults: &mut Faults) -> Option<String> {
    let said = match of.get("protocol") {
        None | Some(Value::Null) => return Some("tcp".into()),
        Some(said) => said.as_str().map(str::to_lowercase),
    };
    let known = said.filter(|said| matches!(said.as_str(), "tcp" | "udp" | "sctp"));
    if known.is_none() {
        faults.add(of.path("protocol"), of.get("protocol"), "tcp, udp or sctp");
    }
    known
}

/// Empty text is none.
fn read_host_ip(of: Object<'_>, faults: &mut Faults) -> Option<Option<IpAddr>> {
    match of.get("hostIP") {
        None | Some(Value::Null) => Some(None),
        Some(Value::String(text)) if text.is_empty() => Some(None),
        Some(_) => of.parsed("hostIP", "an address of the host, as 192.0.2.1", faults).map(Some),
    }
}

pub(crate) fn read_ips(object: Object<'_>, key: &str, faults: &mut Faults) -> Vec<RequestedIp> {
    let mut ips: Vec<RequestedIp> = Vec::new();
    for (n, item) in object.list(key, faults).iter().enumerate() {
        let path = format!("{}[{n}]", object.path(key));
        match item.as_str().and_then(|text| text.parse::<RequestedIp>().ok()) {
            Some(ip) if ips.iter().any(|other| other.ip == ip.ip) => {
                faults.add(path, Some(item), "an address that is not in the list already");
            }
            Some(ip) => ips.push(ip),
            None => faults.add(path, Some(item), "an address, as 10.244.1.7, 10.244.1.7/24 or fd00::7"),
        }
    }
    ips
}

pub(crate) fn read_mac(object: Object<'_>, faults: &mut Faults) -> Option<Mac> {
    let accepted = "a unicast hardware address, as 0a:58:0a:f4:01:02";
    let mac: Mac = object.parsed("mac", accepted, faults)?;
    if !mac.is_unicast() {
        faults.add(object.path("mac"), object.get("mac"), accepted);
        return None;
    }
    Some(mac)
}

fn read_dns(object: Object<'_>, faults: &mut Faults) -> Dns {
    Dns {
        nameservers: object.texts("servers", faults),
        domain: None,
        search: object.texts("searches", faults),
        options: object.texts("options", faults),
    }
}

/// A rate of zero is no limit, as in the reference plugin.
fn read_rate(object: Object<'_>, rate: &str, burst: &str, faults: &mut Faults) -> Option<Rate> {
    let bits_per_second = object.number(rate, 0, u64::MAX, faults).filter(|rate| *rate != 0);
    let burst_bits = object.number(burst, 0, u64::MAX, faults).filter(|burst| *burst != 0);
    if burst_bits.is_some() && object.get(rate).is_none_or(|v| v.as_u64() == Some(0)) {
        faults.add(object.path(burst), object.get(burst), format!("left out, or {rate} given"));
    }
    bits_per_second.map(|bits_per_second| Rate { bits_per_second, burst_bits })
}

fn read_ranges(object: Object<'_>, faults: &mut Faults) -> Vec<Vec<IpRange>> {
    let mut sets = Vec::new();
    let path = object.path("ipRanges");
    for (n, set) in object.list("ipRanges", faults).iter().enumerate() {
        let Some(items) = set.as_array().filter(|items| !items.is_empty()) else {
            faults.add(format!("{path}[{n}]"), Some(set), "a list of one or more ranges");
            continue;
        };
        let mut ranges = Vec::new();
        for (m, item) in items.iter().enumerate() {
            let path = format!("{path}[{n}][{m}]");
            match item.as_object() {
                Some(map) => ranges.extend(read_range(Object::new(map, &path), faults)),
                None => faults.add(path, Some(item), "an object with subnet, rangeStart, rangeEnd and gateway"),
            }
        }
        if let Some(odd) = ranges.iter().find(|r: &&IpRange| r.subnet.family() != ranges[0].subnet.family()) {
            let found = Value::from(odd.subnet.to_string());
            faults.add(format!("{path}[{n}]"), Some(&found), "ranges of one address family");
        }
        sets.push(ranges);
    }
    sets
}

fn read_range(object: Object<'_>, faults: &mut Faults) -> Option<IpRange> {
    let accepted = "an address range without host bits, as 10.1.2.0/24";
    if object.get("subnet").is_none() {
        faults.add(object.path("subnet"), None, accepted);
    }
    let subnet: Prefix = object.parsed("subnet", accepted, faults)?;
    let mut inside = |key: &str| -> Option<IpAddr> {
        let ip: IpAddr = object.parsed(key, &format!("an address in {subnet}"), faults)?;
        if !subnet.contains(ip) {
            faults.add(object.path(key), object.get(key), format!("an address in {subnet}"));
            return None;
        }
        Some(ip)
    };
    let (start, end, gateway) = (inside("rangeStart"), inside("rangeEnd"), inside("gateway"));
    if let (Some(first), Some(last)) = (start, end)
        && last < first
    {
        faults.add(object.path("rangeEnd"), object.get("rangeEnd"), format!("rangeStart, {first}, or behind it"));
    }
    debug_assert!(start.is_none_or(|ip| Family::of(ip) == subnet.family()));
    Some(IpRange { subnet, start, end, gateway })
}
