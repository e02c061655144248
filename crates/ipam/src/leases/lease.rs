//! The words of the lease book.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ripstop_types::{ContainerId, Family, IfName, Mac, Millis, PodName, Prefix};
use serde::{Deserialize, Serialize};

/// One interface of one container: the key of a lease, as CNI names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Attachment {
    /// `CNI_CONTAINERID`.
    pub container: ContainerId,
    /// `CNI_IFNAME`.
    pub ifname: IfName,
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.container, self.ifname)
    }
}

/// How far an attachment has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LeaseState {
    /// The address is taken; the interface may or may not exist. An ADD that breaks leaves this.
    Pending,
    /// The interface was made.
    Held,
}

/// The host-side link of an attachment, as recorded at ADD.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HostLink {
    /// Its index.
    pub index: u32,
    /// Its alternative name, which names the owner.
    pub altname: Arc<str>,
}

/// The addresses of one attachment. Serialised, it is the content of one file in `/run/ripstop/leases`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Whose it is.
    pub attachment: Attachment,
    /// The pod, where the runtime named one.
    pub pod: Option<PodName>,
    /// The network.
    pub network: Arc<str>,
    /// One address a family, IPv4 first.
    pub ips: Vec<IpAddr>,
    /// The hardware address of the pod's interface.
    pub mac: Mac,
    /// When it was given; decides which of two claims to one address is the older.
    pub since: Millis,
    /// How far it has come.
    pub state: LeaseState,
    /// The boot it was made in. Another boot has none of these pods.
    pub boot: Arc<str>,
    /// The host-side link, once made.
    pub link: Option<HostLink>,
}

impl Lease {
    /// The holder as people know it: the pod, otherwise the attachment.
    #[must_use]
    pub fn holder(&self) -> String {
        holder(self.pod.as_ref(), &self.attachment)
    }
}

/// What an ADD asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRequest {
    /// Whose it will be.
    pub attachment: Attachment,
    /// The pod, where the runtime named one.
    pub pod: Option<PodName>,
    /// The network.
    pub network: Arc<str>,
    /// The families that must get an address each.
    pub families: Vec<Family>,
    /// Exactly these addresses (capability `ips`), at most one a family.
    pub fixed: Vec<IpAddr>,
    /// Only addresses of these windows (capability `ipRanges`), in the families that have one here.
    pub within: Vec<Window>,
    /// Exactly this hardware address (capability `mac`); otherwise [`mac_of`] the first address.
    pub mac: Option<Mac>,
}

impl LeaseRequest {
    /// The asking pod as people know it.
    #[must_use]
    pub fn holder(&self) -> String {
        holder(self.pod.as_ref(), &self.attachment)
    }
}

/// Addresses from `first` to `last`, both inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Window {
    /// The first.
    pub first: IpAddr,
    /// The last.
    pub last: IpAddr,
}

impl Window {
    /// All of a prefix.
    #[must_use]
    pub fn of(prefix: &Prefix) -> Self {
        Self { first: prefix.addr(), last: prefix.last() }
    }

    /// Whether the address lies inside.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        Family::of(ip) == Family::of(self.first) && self.first <= ip && ip <= self.last
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// Which addresses of a range pods may have, besides exclusions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Usable {
    /// Every address is a host route: all but the node's own, the second of the range (`.1`). A range of one address has
    /// no room for the node's and gives its one to a pod.
    Routed,
    /// Every address, the node's own lies elsewhere: blocks, and single addresses of other nodes' blocks.
    All,
    /// A subnet on a bridge: not the network's address, not IPv4's broadcast address, not the gateway, the second.
    Bridge,
}

impl Usable {
    /// The node's own address in a range, which pods see as gateway on a bridge.
    #[must_use]
    pub fn gateway(self, range: &Prefix) -> Option<IpAddr> {
        if self == Self::All { None } else { range.nth(1) }
    }

    /// Why an address of the range is not for pods.
    #[must_use]
    pub fn reserves(self, range: &Prefix, ip: IpAddr) -> Option<&'static str> {
        if self.gateway(range) == Some(ip) {
            return Some("the node's own address");
        }
        match self {
            Self::Routed | Self::All => None,
            Self::Bridge if ip == range.addr() => Some("the subnet's own address"),
            Self::Bridge if ip.is_ipv4() && ip == range.last() => Some("the subnet's broadcast address"),
            Self::Bridge => None,
        }
    }
}

/// A range of this node, as the lease book needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnRange {
    /// The network it belongs to.
    pub network: Arc<str>,
    /// The range.
    pub prefix: Prefix,
    /// Which addresses are for pods.
    pub usable: Usable,
    /// Never given out.
    pub exclude: Vec<Prefix>,
    /// Whether new addresses may be given. A range that the node must stop using keeps its leases.
    pub open: bool,
    /// How long a released address rests, in milliseconds, where it is not as long as in others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cooldown_ms: Option<u64>,
}

impl OwnRange {
    /// An open range without exclusions.
    pub fn new(network: &str, prefix: Prefix, usable: Usable) -> Self {
        Self { network: network.into(), prefix, usable, exclude: Vec::new(), open: true, cooldown_ms: None }
    }
}

/// What a look at an attachment's host-side link found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sight {
    /// It stands, or an ADD or DEL of this attachment is under way.
    Present,
    /// The kernel was asked and has no such link.
    Gone,
    /// The kernel could not be asked: counts for nothing.
    Unknown,
}

/// The hardware address that belongs to an address: 0a:58 and the four bytes of IPv4 (as the CNI plugins do it), or 0a:59
/// and the last four bytes of IPv6. Unique on a link as long as the addresses differ in those bytes.
#[must_use]
pub fn mac_of(ip: IpAddr) -> Mac {
    let (kind, [a, b, c, d]) = match ip {
        IpAddr::V4(ip) => (0x58, Ipv4Addr::octets(&ip)),
        IpAddr::V6(ip) => {
            let [.., a, b, c, d] = Ipv6Addr::octets(&ip);
            (0x59, [a, b, c, d])
        }
    };
    Mac::local([kind, a, b, c, d])
}

fn holder(pod: Option<&PodName>, attachment: &Attachment) -> String {
    match pod {
        Some(pod) => format!("pod {pod} ({attachment})"),
        None => format!("container {attachment}"),
    }
}
