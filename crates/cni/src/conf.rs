//! The network configuration of one plugin, as it arrives on standard input (sections 1 and 3).

use std::collections::BTreeMap;

use ripstop_types::{ContainerId, IfName, Mac, validate_dns_name};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::call::Attachment;
use crate::error::Error;
use crate::fault::{Faults, Object, shown};
use crate::result::{CniResult, Dns};
use crate::runtime_config::{RequestedIp, RuntimeConfig, read_ips, read_mac};
use crate::version::{CniVersion, Verb};
use crate::wire::{DEFAULT_SOCKET, DEFAULT_TIMEOUT_MS, NETWORK_NAME_RULE, network_name_ok, parse_duration};

/// The Ripstop network of a configuration that does not name one.
pub const DEFAULT_NETWORK: &str = "default";

/// Keys that a configuration may have. Besides them: any that begins with `cni.dev/`, which the specification reserves
/// for runtimes, and any that begins with '_' or "//", which are taken for comments.
pub const KEYS: [&str; 14] = [
    "agentTimeout",
    "args",
    "capabilities",
    "cniVersion",
    "dns",
    "ipMasq",
    "ipam",
    "mtu",
    "name",
    "network",
    "prevResult",
    "runtimeConfig",
    "socket",
    "type",
];

/// The configuration of one call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetConf {
    /// `cniVersion`: the version in which the result is to be printed.
    pub version: CniVersion,
    /// `name`: the runtime's name of the network.
    pub name: String,
    /// `type`: the name under which the plugin was started.
    pub plugin_type: String,
    /// `network`: the Ripstop network, [`DEFAULT_NETWORK`] if absent.
    pub network: String,
    /// `mtu` in bytes; `None` (or 0) takes it from the path.
    pub mtu: Option<u32>,
    /// `socket`: where the agent listens.
    pub socket: String,
    /// `agentTimeout` in milliseconds: how long the plugin waits for the agent.
    pub agent_timeout_ms: u64,
    /// `capabilities`, as declared. A runtime should have taken them out.
    pub capabilities: BTreeMap<String, bool>,
    /// `dns` of the configuration itself; see [`Self::dns`].
    pub static_dns: Dns,
    /// `runtimeConfig`.
    pub runtime: RuntimeConfig,
    /// `args.cni`.
    pub extra: ExtraArgs,
    /// `prevResult`: what the plugins before this one, or the ADD before this call, resulted in.
    pub prev_result: Option<CniResult>,
    /// `cni.dev/valid-attachments`: what GC must keep. Always there for GC.
    pub valid_attachments: Option<Vec<Attachment>>,
}

/// `args.cni` (CONVENTIONS.md, "args in network config"). Other keys are none of our business and no fault.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ExtraArgs {
    /// `labels`.
    pub labels: BTreeMap<String, String>,
    /// `ips`: addresses that the pod is to have.
    pub ips: Vec<RequestedIp>,
    /// `mac`: the hardware address that the pod is to have.
    pub mac: Option<Mac>,
}

impl NetConf {
    /// Reads a configuration for a verb, collecting every fault. Code 6 for text that is not a JSON object, 1 for a version
    /// that is not ours or does not have the verb, 2 for a field that is not supported, 7 for anything else.
    ///
    /// A DEL must end well whatever the configuration has become since ADD: it passes over all faults but those of
    /// `cniVersion` and `name`. So does GC, except that the list of valid attachments must be flawless, because what is
    /// not on it is removed.
    pub fn decode(text: &str, verb: Verb) -> Result<Self, Error> {
        let value: Value = serde_json::from_str(text).map_err(|e| crate::wire::undecodable(&e.to_string()))?;
        let Value::Object(map) = &value else {
            return Err(crate::wire::undecodable("it must be a JSON object"));
        };
        let object = Object::new(map, "");
        let version = read_version(object)?;
        version.require(verb)?;
        let mut must = Faults::default();
        let name = read_name(object, &mut must);
        let mut may = Faults::default();
        let mut conf = Self::read(object, version, name, &mut may);
        if verb == Verb::Gc {
            conf.valid_attachments = Some(read_valid_attachments(object, &mut must));
        } else if verb != Verb::Del {
            must.0.append(&mut may.0);
        }
        let label = if conf.name.is_empty() { String::new() } else { format!(" {:?}", conf.name) };
        must.into_result(&format!("network configuration{label}"))?;
        Ok(conf)
    }

    /// Name resolution for the pod: each part from the runtime if it gave one, otherwise from the configuration.
    pub fn dns(&self) -> Dns {
        let choose = |runtime: &Vec<String>, own: &Vec<String>| if runtime.is_empty() { own } else { runtime }.clone();
        Dns {
            nameservers: choose(&self.runtime.dns.nameservers, &self.static_dns.nameservers),
            domain: self.static_dns.domain.clone(),
            search: choose(&self.runtime.dns.search, &self.static_dns.search),
            options: choose(&self.runtime.dns.options, &self.static_dns.options),
        }
    }

    fn read(object: Object<'_>, version: CniVersion, name: String, faults: &mut Faults) -> Self {
        refuse_unknown(object, faults);
        refuse_ipam(object, faults);
        let network = object.text("network", faults).unwrap_or(DEFAULT_NETWORK);
        if let Err(invalid) = validate_dns_name("a network's name", network) {
            faults.add("network", object.get("network"), invalid.accepted);
        }
        if object.get("type").is_none_or(|v| v.as_str() == Some("")) {
            faults.add("type", object.get("type"), "the name of the plugin's executable, as ripstop-cni");
        }
        let mut extra = ExtraArgs::default();
        if let Some(args) = object.object("args", faults)
            && let Some(cni) = Object::new(args, "args").object("cni", faults)
        {
            extra = ExtraArgs::read(Object::new(cni, "args.cni"), faults);
        }
        let sub = |key: &str, faults: &mut Faults| object.object(key, faults);
        Self {
            version,
            name,
            plugin_type: object.text("type", faults).unwrap_or_default().to_owned(),
            network: network.to_owned(),
            mtu: read_mtu(object, faults),
            socket: object.text("socket", faults).filter(|s| !s.is_empty()).unwrap_or(DEFAULT_SOCKET).to_owned(),
            agent_timeout_ms: read_timeout(object, faults),
            capabilities: read_capabilities(sub("capabilities", faults), faults),
            static_dns: sub("dns", faults).map(|m| Dns::read(Object::new(m, "dns"), faults)).unwrap_or_default(),
            runtime: sub("runtimeConfig", faults)
                .map(|m| RuntimeConfig::read(Object::new(m, "runtimeConfig"), faults))
                .unwrap_or_default(),
            extra,
            prev_result: object.get("prevResult").map(|v| CniResult::read(v, version, "prevResult", faults)),
            valid_attachments: None,
        }
    }
}

impl ExtraArgs {
    fn read(object: Object<'_>, faults: &mut Faults) -> Self {
        let mut labels = BTreeMap::new();
        for (n, item) in object.list("labels", faults).iter().enumerate() {
            let part = |key: &str| item.get(key).and_then(Value::as_str).map(str::to_owned);
            match (part("key"), part("value")) {
                (Some(key), Some(value)) => {
                    labels.insert(key, value);
                }
                _ => faults.add(format!("args.cni.labels[{n}]"), Some(item), "{\"key\": TEXT, \"value\": TEXT}"),
            }
        }
        Self { labels, ips: read_ips(object, "ips", faults), mac: read_mac(object, faults) }
    }
}

fn read_version(object: Object<'_>) -> Result<CniVersion, Error> {
    match object.get("cniVersion") {
        None => CniVersion::of_config(None),
        Some(Value::String(text)) => CniVersion::of_config(Some(text)),
        Some(other) => Err(crate::wire::undecodable(&format!("cniVersion is {}: it must be a string", shown(other)))),
    }
}

fn read_name(object: Object<'_>, faults: &mut Faults) -> String {
    match object.get("name").and_then(Value::as_str) {
        Some(name) if network_name_ok(name) => name.to_owned(),
        _ => {
            faults.add("name", object.get("name"), NETWORK_NAME_RULE);
            String::new()
        }
    }
}

fn refuse_unknown(object: Object<'_>, faults: &mut Faults) {
    for (key, value) in object.keys() {
        let free = key.starts_with("cni.dev/") || key.starts_with('_') || key.starts_with("//");
        if !free && !KEYS.contains(&key) {
            faults.unsupported(key, value, format!("known are {}", KEYS.join(", ")));
        }
    }
}

fn refuse_ipam(object: Object<'_>, faults: &mut Faults) {
    if let Some(ipam) = object.get("ipam")
        && ipam.as_object().is_none_or(|map| !map.is_empty())
    {
        faults.unsupported(
            "ipam",
            ipam,
            "Ripstop gives addresses itself, out of the ranges of its network; take ipam from the configuration",
        );
    }
    if let Some(masq) = object.get("ipMasq")
        && masq.as_bool() != Some(true)
    {
        faults.unsupported(
            "ipMasq",
            masq,
            "masquerade is a setting of Ripstop's network; take ipMasq from the configuration",
        );
    }
}

/// IPv4's smallest reassembly buffer is the least that makes sense; the kernel's veth ends at 65535.
fn read_mtu(object: Object<'_>, faults: &mut Faults) -> Option<u32> {
    let value = object.get("mtu")?;
    match value.as_u64() {
        Some(0) => None,
        Some(mtu @ 576..=65_535) => u32::try_from(mtu).ok(),
        _ => {
            faults.add("mtu", Some(value), "0 (taken from the path) or a whole number from 576 to 65535");
            None
        }
    }
}

fn read_timeout(object: Object<'_>, faults: &mut Faults) -> u64 {
    let Some(value) = object.get("agentTimeout") else { return DEFAULT_TIMEOUT_MS };
    value.as_str().and_then(parse_duration).unwrap_or_else(|| {
        faults.add("agentTimeout", Some(value), "a duration up to 10m, as \"500ms\", \"10s\" or \"2m\"");
        DEFAULT_TIMEOUT_MS
    })
}

fn read_capabilities(map: Option<&Map<String, Value>>, faults: &mut Faults) -> BTreeMap<String, bool> {
    let mut capabilities = BTreeMap::new();
    for (key, value) in map.into_iter().flatten() {
        match value.as_bool() {
            Some(on) => {
                capabilities.insert(key.clone(), on);
            }
            None => faults.add(format!("capabilities.{key}"), Some(value), "true or false"),
        }
    }
    capabilities
}

/// The list under its name in the specification, or under the name that early libcni used; null is what Go prints for an
/// empty list.
fn read_valid_attachments(object: Object<'_>, faults: &mut Faults) -> Vec<Attachment> {
    let (name, old_name) = ("cni.dev/valid-attachments", "cni.dev/attachments");
    let list = |key: &str| object.has(key).then(|| object.get(key).cloned().unwrap_or(Value::Array(Vec::new())));
    let found = match (list(name), list(old_name)) {
        (Some(new), Some(old)) if new != old => {
            faults.add(old_name, Some(&old), format!("left out, or the same as {name}"));
            return Vec::new();
        }
        (Some(list), _) | (None, Some(list)) => list,
        (None, None) => {
            faults.add(name, None, "the list of attachments to keep, without which GC removes nothing");
            return Vec::new();
        }
    };
    let Some(items) = found.as_array() else {
        faults.add(name, Some(&found), "a list");
        return Vec::new();
    };
    let mut valid = Vec::with_capacity(items.len());
    for (n, item) in items.iter().enumerate() {
        let part = |key: &str| item.get(key).and_then(Value::as_str);
        let id = part("containerID").and_then(|id| id.parse::<ContainerId>().ok());
        let ifname = part("ifname").and_then(|name| name.parse::<IfName>().ok());
        match (id, ifname) {
            (Some(container_id), Some(ifname)) => valid.push(Attachment { container_id, ifname }),
            _ => faults.add(
                format!("{name}[{n}]"),
                Some(item),
                "{\"containerID\": ID, \"ifname\": NAME} with a valid id and interface name",
            ),
        }
    }
    valid
}
