//! Results of ADD, read as leniently as possible: whether one is as specified is for the cases to say.

use std::net::IpAddr;

use serde_json::{Map, Value};

use crate::case::{Verdict, fail};
use crate::scene::Pod;
use crate::version::Version;

/// A container that the plugin attached.
#[derive(Debug)]
pub struct Attached {
    pub pod: Pod,
    pub version: Version,
    pub ifname: String,
    pub result: Value,
}

/// One of `ips`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ip {
    pub addr: IpAddr,
    pub length: u8,
    pub gateway: Option<IpAddr>,
    /// Index into `interfaces`.
    pub interface: Option<usize>,
}

/// A destination: address and length.
pub type Prefix = (IpAddr, u8);

impl Attached {
    /// The entries of a list of the result that are objects; none where it is missing.
    pub fn list(&self, key: &str) -> Vec<&Map<String, Value>> {
        self.result[key].as_array().into_iter().flatten().filter_map(Value::as_object).collect()
    }

    /// The addresses of the container's interface.
    pub fn ips(&self) -> Verdict<Vec<Ip>> {
        let mut ips = Vec::new();
        for entry in self.list("ips") {
            let ip = read_ip(entry)?;
            let interface = ip.interface.and_then(|index| self.result["interfaces"].get(index).cloned());
            let outside = interface.is_some_and(|interface| text(&interface["sandbox"]).is_empty());
            if !outside {
                ips.push(ip);
            }
        }
        Ok(ips)
    }

    /// The first address.
    pub fn ip(&self) -> Verdict<IpAddr> {
        self.ips()?.first().map_or_else(|| fail("the result has no address"), |ip| Ok(ip.addr))
    }

    /// The container's interface in the result.
    pub fn interface(&self) -> Verdict<&Map<String, Value>> {
        let mut inside =
            self.list("interfaces").into_iter().filter(|entry| !text(&entry_value(entry, "sandbox")).is_empty());
        match inside.find(|entry| text(&entry_value(entry, "name")) == self.ifname) {
            Some(entry) => Ok(entry),
            None => fail(format!("the result lists no interface {} with a sandbox", self.ifname)),
        }
    }

    /// The interfaces of the host that the result names, with their hardware addresses.
    pub fn host_interfaces(&self) -> Vec<(String, String)> {
        self.list("interfaces")
            .into_iter()
            .filter(|entry| text(&entry_value(entry, "sandbox")).is_empty())
            .map(|entry| (text(&entry_value(entry, "name")), text(&entry_value(entry, "mac"))))
            .collect()
    }

    /// Destination and gateway of each route of the result.
    pub fn routes(&self) -> Verdict<Vec<(Prefix, Option<IpAddr>)>> {
        let mut routes = Vec::new();
        for entry in self.list("routes") {
            let dst = text(&entry_value(entry, "dst"));
            let Some(prefix) = prefix(&dst) else {
                return fail(format!("routes: dst {dst:?} is not in CIDR notation"));
            };
            routes.push((prefix, text(&entry_value(entry, "gw")).parse().ok()));
        }
        Ok(routes)
    }
}

/// Reads an entry of `ips`.
pub fn read_ip(entry: &Map<String, Value>) -> Verdict<Ip> {
    let address = text(&entry_value(entry, "address"));
    let Some((addr, length)) = prefix(&address) else {
        return fail(format!("ips: address {address:?} is not in CIDR notation"));
    };
    let gateway = text(&entry_value(entry, "gateway")).parse().ok();
    let interface = entry_value(entry, "interface").as_u64().and_then(|index| usize::try_from(index).ok());
    Ok(Ip { addr, length, gateway, interface })
}

/// An address with a length, as CIDR notation has it.
pub fn prefix(text: &str) -> Option<Prefix> {
    let (addr, length) = text.split_once('/')?;
    let addr: IpAddr = addr.parse().ok()?;
    let length: u8 = length.parse().ok()?;
    (length <= if addr.is_ipv4() { 32 } else { 128 }).then_some((addr, length))
}

/// Whether two addresses are in one prefix of this length.
pub fn same_prefix(a: IpAddr, b: IpAddr, length: u8) -> bool {
    let bits = |addr: IpAddr| match addr {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, true),
        IpAddr::V6(v6) => (v6.to_bits(), false),
    };
    let ((a, four), (b, other)) = (bits(a), bits(b));
    let shift = 128 - u32::from(length);
    four == other && (shift == 128 || a >> shift == b >> shift)
}

/// A key of an object, null where it is missing.
pub fn entry_value(entry: &Map<String, Value>, key: &str) -> Value {
    entry.get(key).cloned().unwrap_or_default()
}

/// A string; empty for anything else.
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_compared_by_their_length() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(same_prefix(ip("10.1.2.3"), ip("10.1.9.9"), 16) && !same_prefix(ip("10.1.2.3"), ip("10.2.9.9"), 16));
        assert!(same_prefix(ip("10.1.2.3"), ip("192.0.2.1"), 0) && !same_prefix(ip("10.1.2.3"), ip("fd00::1"), 0));
        assert!(same_prefix(ip("fd00::1"), ip("fd00::2"), 64) && !same_prefix(ip("fd00::1"), ip("fd00::2"), 128));
        assert_eq!(prefix("10.1.2.3/33"), None);
        assert_eq!(prefix("fd00::1"), None);
    }
}
