//! The result of ADD (section 5, "ADD Success"), its older forms, and the reading of a previous plugin's result.
//!
//! One model holds what 1.1.0 can say. Older versions are printed from it: what they have no word for is left out, and
//! 0.3.0 to 0.4.0 say the family of each address.

use std::net::IpAddr;

use ripstop_types::{Family, IfName, Mac};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::cidr::Cidr;
use crate::error::Error;
use crate::fault::{Faults, Object};
use crate::version::CniVersion;

/// What an attachment consists of.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CniResult {
    /// Interfaces of the attachment, on the host and in the pod.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<Interface>,
    /// Addresses of the attachment.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<IpConfig>,
    /// Routes in the pod.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// Name resolution.
    #[serde(skip_serializing_if = "Dns::is_empty")]
    pub dns: Dns,
}

/// One interface.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its hardware address; text, because other plugins' links need not be Ethernet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Its MTU in bytes (from 1.1.0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The namespace's path as in `CNI_NETNS`; `None` on the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<String>,
    /// A socket that belongs to it (from 1.1.0).
    #[serde(rename = "socketPath", default, skip_serializing_if = "Option::is_none")]
    pub socket_path: Option<String>,
    /// Its PCI device (from 1.1.0).
    #[serde(rename = "pciID", default, skip_serializing_if = "Option::is_none")]
    pub pci_id: Option<String>,
}

/// One address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpConfig {
    /// The address with its prefix length.
    pub address: Cidr,
    /// The default gateway of its subnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Which of [`CniResult::interfaces`] it is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<u32>,
}

/// One route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The destination.
    pub dst: Cidr,
    /// The next hop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
    /// MTU along the path, in bytes (this and the rest from 1.1.0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// MSS to advertise, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advmss: Option<u32>,
    /// Metric: lower is preferred.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// Routing table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    /// Scope: 0 global, 253 link, 254 host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<u32>,
}

/// Name resolution, as configuration and result have it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Dns {
    /// Servers in order of preference.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// The local domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Search domains in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Options of the resolver.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl Dns {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.nameservers.is_empty() && self.domain.is_none() && self.search.is_empty() && self.options.is_empty()
    }

    pub(crate) fn read(object: Object<'_>, faults: &mut Faults) -> Self {
        Self {
            nameservers: object.texts("nameservers", faults),
            domain: object.text("domain", faults).filter(|d| !d.is_empty()).map(str::to_owned),
            search: object.texts("search", faults),
            options: object.texts("options", faults),
        }
    }
}

impl Interface {
    /// An interface of the host.
    pub fn on_host(name: &IfName, mac: Mac, mtu: u32) -> Self {
        Self { name: name.to_string(), mac: Some(mac.to_string()), mtu: Some(mtu), ..Self::default() }
    }

    /// An interface of the pod whose namespace is `netns`.
    pub fn in_pod(name: &IfName, mac: Mac, mtu: u32, netns: &str) -> Self {
        Self { sandbox: Some(netns.to_owned()), ..Self::on_host(name, mac, mtu) }
    }

    /// The hardware address, if it is one of 48 bits.
    pub fn mac(&self) -> Option<Mac> {
        self.mac.as_deref()?.parse().ok()
    }
}

impl Route {
    /// A route that says no more than where to and by whom.
    pub fn new(dst: Cidr, gw: Option<IpAddr>) -> Self {
        Self { dst, gw, mtu: None, advmss: None, priority: None, table: None, scope: None }
    }
}

impl CniResult {
    /// The object that a plugin of this version prints, with its `cniVersion`.
    pub fn to_json(&self, version: CniVersion) -> Value {
        let mut object = Map::new();
        object.insert("cniVersion".into(), json!(version));
        let mut lists =
            [("interfaces", list(&self.interfaces)), ("ips", list(&self.ips)), ("routes", list(&self.routes))];
        if version < CniVersion::V1_1_0 {
            strip(&mut lists[0].1, &["mtu", "socketPath", "pciID"]);
            strip(&mut lists[2].1, &["mtu", "advmss", "priority", "table", "scope"]);
        }
        if version < CniVersion::V1_0_0 {
            for (ip, printed) in self.ips.iter().zip(&mut lists[1].1) {
                let family = if ip.address.family() == Family::V4 { "4" } else { "6" };
                if let Some(printed) = printed.as_object_mut() {
                    printed.insert("version".into(), family.into());
                }
            }
        }
        for (key, items) in lists {
            if !items.is_empty() {
                object.insert(key.into(), items.into());
            }
        }
        if !self.dns.is_empty() {
            object.insert("dns".into(), json!(self.dns));
        }
        Value::Object(object)
    }

    /// [`Self::to_json`] as the agent's response carries it.
    pub fn to_raw(&self, version: CniVersion) -> Box<RawValue> {
        let text = self.to_json(version).to_string();
        // A printed value is valid JSON; the other arm is never taken.
        RawValue::from_string(text).unwrap_or_else(|_| RawValue::NULL.to_owned())
    }

    /// Reads a result of any version. `of_config` is the version to assume where the result does not say its own.
    pub fn from_json(value: &Value, of_config: CniVersion) -> Result<Self, Error> {
        let mut faults = Faults::default();
        let result = Self::read(value, of_config, "", &mut faults);
        faults.into_result("the result")?;
        Ok(result)
    }

    /// The interface `ifname` of a pod, and its index.
    pub fn pod_interface(&self, ifname: &IfName) -> Option<(u32, &Interface)> {
        let inside = |i: &Interface| i.name == ifname.as_str() && i.sandbox.as_deref().is_some_and(|s| !s.is_empty());
        let index = self.interfaces.iter().position(inside)?;
        Some((u32::try_from(index).ok()?, &self.interfaces[index]))
    }

    /// The addresses on the interface with this index.
    pub fn ips_of(&self, index: u32) -> impl Iterator<Item = &IpConfig> {
        self.ips.iter().filter(move |ip| ip.interface == Some(index))
    }

    pub(crate) fn read(value: &Value, of_config: CniVersion, path: &str, faults: &mut Faults) -> Self {
        let Some(map) = value.as_object() else {
            faults.add(if path.is_empty() { "result" } else { path }, Some(value), "an object");
            return Self::default();
        };
        let object = Object::new(map, path);
        let version = match object.get("cniVersion") {
            None => of_config,
            Some(found) => match found.as_str().and_then(|v| v.parse().ok()) {
                Some(version) => version,
                None => {
                    faults.add(object.path("cniVersion"), Some(found), "0.3.0, 0.3.1, 0.4.0, 1.0.0 or 1.1.0");
                    return Self::default();
                }
            },
        };
        let interfaces: Vec<Interface> = items(object, "interfaces", faults, read_interface);
        let ips = items(object, "ips", faults, |o, faults| read_ip(o, version, interfaces.len(), faults));
        let routes = items(object, "routes", faults, read_route);
        let dns_path = object.path("dns");
        let dns = object.object("dns", faults);
        let dns = dns.map(|map| Dns::read(Object::new(map, &dns_path), faults)).unwrap_or_default();
        Self { interfaces, ips, routes, dns }
    }
}

fn list<T: Serialize>(items: &[T]) -> Vec<Value> {
    items.iter().map(|item| json!(item)).collect()
}

fn strip(items: &mut [Value], keys: &[&str]) {
    for object in items.iter_mut().filter_map(Value::as_object_mut) {
        for key in keys {
            object.remove(*key);
        }
    }
}

/// Reads each object of a list; one that cannot be read has left a fault, and is passed over.
fn items<T>(
    of: Object<'_>,
    key: &str,
    faults: &mut Faults,
    mut read: impl FnMut(Object<'_>, &mut Faults) -> Option<T>,
) -> Vec<T> {
    let mut found = Vec::new();
    for (n, item) in of.list(key, faults).iter().enumerate() {
        let path = format!("{}[{n}]", of.path(key));
        match item.as_object() {
            Some(map) => found.extend(read(Object::new(map, &path), faults)),
            None => faults.add(path, Some(item), "an object"),
        }
    }
    found
}

fn read_interface(object: Object<'_>, faults: &mut Faults) -> Option<Interface> {
    let text =
        |key: &str, faults: &mut Faults| object.text(key, faults).filter(|text| !text.is_empty()).map(str::to_owned);
    let name = text("name", faults);
    if name.is_none() && !matches!(object.get("name"), Some(v) if !v.is_string()) {
        faults.add(object.path("name"), object.get("name"), "the interface's name");
    }
    let interface = Interface {
        name: name.unwrap_or_default(),
        mac: text("mac", faults),
        mtu: number(object, "mtu", faults).filter(|mtu| *mtu != 0),
        sandbox: text("sandbox", faults),
        socket_path: text("socketPath", faults),
        pci_id: text("pciID", faults),
    };
    Some(interface)
}

fn read_ip(object: Object<'_>, version: CniVersion, interfaces: usize, faults: &mut Faults) -> Option<IpConfig> {
    let accepted = "an address in CIDR form, as 10.244.1.7/24";
    let address: Option<Cidr> = object.parsed("address", accepted, faults);
    if object.get("address").is_none() {
        faults.add(object.path("address"), None, accepted);
    }
    let gateway = read_gateway(object, "gateway", faults);
    let mut interface = number(object, "interface", faults);
    if let Some(index) = interface
        && usize::try_from(index).is_ok_and(|i| i >= interfaces)
    {
        // Also where faults are passed over, as in a DEL, no index leads nowhere.
        interface = None;
        faults.add(
            object.path("interface"),
            object.get("interface"),
            format!("the index of one of the {interfaces} interfaces of the same result"),
        );
    }
    let address = address?;
    let family = if address.family() == Family::V4 { "4" } else { "6" };
    if version < CniVersion::V1_0_0 && object.get("version").is_some_and(|v| v.as_str() != Some(family)) {
        faults.add(object.path("version"), object.get("version"), format!("\"{family}\", the family of {address}"));
    }
    Some(IpConfig { address, gateway, interface })
}

fn read_route(object: Object<'_>, faults: &mut Faults) -> Option<Route> {
    let accepted = "a destination in CIDR form, as 0.0.0.0/0";
    let dst = object.parsed("dst", accepted, faults);
    if object.get("dst").is_none() {
        faults.add(object.path("dst"), None, accepted);
    }
    Some(Route {
        gw: read_gateway(object, "gw", faults),
        mtu: number(object, "mtu", faults).filter(|mtu| *mtu != 0),
        advmss: number(object, "advmss", faults).filter(|mss| *mss != 0),
        priority: number(object, "priority", faults).filter(|priority| *priority != 0),
        table: number(object, "table", faults),
        scope: number(object, "scope", faults),
        dst: dst?,
    })
}

/// Go programs print an absent address as an empty string.
fn read_gateway(object: Object<'_>, key: &str, faults: &mut Faults) -> Option<IpAddr> {
    object.get(key).filter(|v| v.as_str() != Some(""))?;
    object.parsed(key, "an address", faults)
}

fn number(object: Object<'_>, key: &str, faults: &mut Faults) -> Option<u32> {
    object.number(key, 0, u64::from(u32::MAX), faults).and_then(|n| u32::try_from(n).ok())
}
