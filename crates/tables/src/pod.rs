//! A pod's interface on this node, as the file in /run/ripstop/leases holds it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ripstop_ipam::Attachment;
use ripstop_netmodel::{Key, Ns};
use ripstop_objects::service::Protocol;
use ripstop_objects::{NetworkName, Wiring};
use ripstop_types::{Family, IfName, Mac, Millis, Owner, PodName, Prefix};
use serde::{Deserialize, Serialize};

/// One interface of one pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodRow {
    /// Container and interface name: the identity the CNI specification gives.
    pub attachment: Attachment,
    /// The pod, where the runtime named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodName>,
    /// The network.
    pub network: NetworkName,
    /// Name of the CNI configuration that made it, which is GC's scope.
    pub config_name: Arc<str>,
    /// Path of the pod's network namespace.
    pub netns: Arc<str>,
    /// Its addresses, IPv4 first.
    pub ips: Vec<IpAddr>,
    /// The node's ranges that the addresses were leased from: what they mean in the kernel while claims are not known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ranges: Vec<Prefix>,
    /// Hardware address of the pod's end.
    pub mac: Mac,
    /// The host's end.
    pub host_link: IfName,
    /// Hardware address of the host's end.
    pub host_mac: Mac,
    /// MTU in bytes, as it was when the interface was made.
    pub mtu: u32,
    /// Whether the CNI configuration asked for this MTU. Otherwise it follows the network's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fixed_mtu: bool,
    /// How it is connected.
    pub wiring: Wiring,
    /// Limits.
    #[serde(default, skip_serializing_if = "Bandwidth::is_none")]
    pub bandwidth: Bandwidth,
    /// Ports of the host that lead to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_ports: Vec<HostPort>,
    /// How far the ADD has come.
    pub state: PodState,
    /// The request that made it: a resend of the same is answered, another ADD is refused.
    pub request: Arc<str>,
    /// When the address was leased, by the machine's clock.
    pub since: Millis,
    /// The boot it belongs to: another boot's file means nothing.
    pub boot_id: Arc<str>,
}

/// How far an ADD has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PodState {
    /// The address is leased, the ADD is not answered.
    Adding,
    /// The ADD was answered with success.
    Ready,
    /// The interface is gone without a DEL: the address waits for DEL, GC or the second look.
    Gone,
}

/// Limits in both directions, as seen from the pod.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bandwidth {
    /// Towards the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Shaping>,
    /// From the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Shaping>,
}

impl Bandwidth {
    /// Whether nothing is limited.
    pub fn is_none(&self) -> bool {
        self.ingress.is_none() && self.egress.is_none()
    }
}

/// A port of the host that leads to one of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostPort {
    /// At this address of the host; none: at all of them. The unspecified one is all of its family.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpAddr>,
    /// The protocol.
    pub protocol: Protocol,
    /// The host's port.
    pub port: u16,
    /// The pod's.
    pub to: u16,
}

impl HostPort {
    /// Whether it is at addresses of this family.
    pub fn is_of(&self, family: Family) -> bool {
        self.ip.is_none_or(|ip| Family::of(ip) == family)
    }

    /// The one address that it is at.
    pub fn only_at(&self) -> Option<IpAddr> {
        self.ip.filter(|ip| !ip.is_unspecified())
    }

    /// Whether it is at 127.0.0.1, as one of all addresses or alone.
    pub fn is_at_loopback(&self) -> bool {
        self.is_of(Family::V4) && self.only_at().is_none_or(|ip| ip.is_loopback())
    }

    /// Whether a packet could be for both.
    pub fn overlaps(&self, other: &Self) -> bool {
        let families = Family::BOTH.into_iter().any(|family| self.is_of(family) && other.is_of(family));
        let same = match (self.only_at(), other.only_at()) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        };
        (self.protocol, self.port) == (other.protocol, other.port) && families && same
    }
}

/// `8080/TCP`, `192.0.2.1:8080/TCP`
impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip {
            Some(ip) => write!(f, "{}/{}", SocketAddr::new(ip, self.port), self.protocol),
            None => write!(f, "{}/{}", self.port, self.protocol),
        }
    }
}

/// One direction's limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shaping {
    /// Bits per second.
    pub rate: u64,
    /// Bits that may pass at once.
    pub burst: u64,
}

impl PodRow {
    /// The owner of everything made for it: the pod, or the container where no pod was named.
    pub fn owner(&self) -> Owner {
        match &self.pod {
            Some(pod) => Owner::pod(pod),
            None => Owner::from_mark(&format!("container/{}", self.attachment.container)),
        }
    }

    /// The pod's namespace.
    pub fn ns(&self) -> Ns {
        Ns::Path(self.netns.clone())
    }

    /// Key of the host's end.
    pub fn host_key(&self) -> Key {
        Key::Link { ns: Ns::Host, name: self.host_link.clone() }
    }

    /// Name of its file.
    pub fn file_key(&self) -> Arc<str> {
        format!("{}.{}", self.attachment.container, self.attachment.ifname).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_overlap_where_one_packet_could_be_for_both() {
        let at = |ip: &str, protocol| HostPort { ip: ip.parse().ok(), protocol, port: 80, to: 8080 };
        let tcp = |ip| at(ip, Protocol::Tcp);
        assert!(tcp("").overlaps(&tcp("192.0.2.1")) && tcp("").overlaps(&tcp("")));
        assert!(!tcp("").overlaps(&at("", Protocol::Udp)));
        assert!(!tcp("127.0.0.1").overlaps(&tcp("192.0.2.1")) && !tcp("0.0.0.0").overlaps(&tcp("::")));
        assert!(tcp("0.0.0.0").overlaps(&tcp("192.0.2.1")) && !tcp("::").overlaps(&tcp("192.0.2.1")));
        assert!(tcp("").is_at_loopback() && !tcp("::").is_at_loopback() && !tcp("192.0.2.1").is_at_loopback());
    }
}
