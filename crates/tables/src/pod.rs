//! A pod's interface on this node, as the file in /run/ripstop/leases holds it.

use std::net::IpAddr;
use std::sync::Arc;

use ripstop_ipam::Attachment;
use ripstop_netmodel::{Key, Ns};
use ripstop_objects::{NetworkName, Wiring};
use ripstop_types::{IfName, Mac, Millis, Owner, PodName, Prefix};
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
