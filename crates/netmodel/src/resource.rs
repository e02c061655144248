//! The resources: plain values, one struct each.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use ripstop_types::{Family, IfName, Mac, Prefix};
use serde::{Deserialize, Serialize};

use crate::CONNTRACK_SETTINGS;
use crate::connection::Connection;
use crate::ipip::{IpipPeer, IpipProgram};
use crate::iptables::{FrontendFlows, IptablesRules};
use crate::ipvs::{IpvsDestination, IpvsService};
use crate::key::{Key, Ns, RecordScope};
use crate::nexthop::{Nexthop, NexthopGroup};
use crate::nft::{NftElement, NftPart, NftTable, NftValues};
use crate::{LOCAL_METRIC, LOCAL_TABLE};

/// What every resource can say of itself.
pub trait Resource: Sized {
    /// The object's identity.
    fn key(&self) -> Key;

    /// Whether an object observed under the same key already is what this one asks for. Only what the kernel shows is
    /// compared: the namespace of a veth's other end, for one, cannot be read back.
    fn satisfied_by(&self, observed: &Self) -> bool;

    /// Whether `observed` can become this without being removed first.
    fn can_update(&self, _observed: &Self) -> bool {
        true
    }
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Where it lives.
    pub ns: Ns,
    /// Its name.
    pub name: IfName,
    /// What it is.
    pub kind: LinkKind,
    /// Maximum transmission unit in bytes; `None` leaves it as it is.
    pub mtu: Option<u32>,
    /// Hardware address; `None` leaves it as it is.
    pub mac: Option<Mac>,
    /// Administratively up.
    pub up: bool,
    /// The bridge it is a port of.
    pub master: Option<IfName>,
    /// Alternative name, which names the owner.
    pub altname: Option<Arc<str>>,
    /// Settings as a bridge port; only with `master`.
    pub port: Option<BridgePort>,
    /// No automatic IPv6 link-local address (`IN6_ADDR_GEN_MODE_NONE`).
    pub no_link_local: bool,
    /// Whether checksums are left to what is below (`ethtool -K LINK tx`); `None` leaves it so. Read of VXLAN devices only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tx_checksum: Option<bool>,
}

/// Kinds of link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkKind {
    /// One end of a pair; making it makes the other end too.
    Veth(Veth),
    /// The other end of a pair: never made or removed on its own, only set up.
    VethPeer,
    /// An Ethernet bridge without spanning tree.
    Bridge,
    /// A VXLAN tunnel end point (RFC 7348), learning off.
    Vxlan {
        /// Network identifier, 24 bits.
        vni: u32,
        /// UDP destination port.
        port: u16,
        /// Outer source address; the unspecified one of its family leaves it to the route.
        local: IpAddr,
    },
    /// An IPIP device (RFC 2003) without another end: a packet goes to the gateway of its route.
    Ipip {
        /// Outer source address, and the one to which packets are taken.
        local: Ipv4Addr,
    },
    /// A TUN device with several queues that stays when none of them is open (linux/if_tun.h).
    Tun,
    /// An intermediate functional block device: shapes what a link receives, and gives it back behind the link's ingress.
    Ifb {
        /// Its index, by which rules hand packets to it. Chosen, so that a device made anew is the one they mean.
        index: u32,
    },
    /// `lo`, which is there and only set up.
    Loopback,
    /// Seen under a name of ours, of a kind we never make.
    Other(Arc<str>),
}

/// The other end of a veth pair, as it is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Veth {
    /// Namespace of the other end.
    pub ns: Ns,
    /// Name of the other end.
    pub name: IfName,
    /// Hardware address of the other end.
    pub mac: Mac,
}

/// Settings of a bridge port (`IFLA_BRPORT_*`, linux/if_link.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgePort {
    /// A frame may leave by the port it came from.
    pub hairpin: bool,
    /// Learn source addresses.
    pub learning: bool,
}

/// An address of a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// Where the link lives.
    pub ns: Ns,
    /// The link.
    pub link: IfName,
    /// The address.
    pub ip: IpAddr,
    /// Prefix length of the on-link range.
    pub len: u8,
    /// How far it is valid.
    pub scope: Scope,
}

/// Scope of an address or route (`rt_scope_t`, linux/rtnetlink.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// Everywhere.
    Global,
    /// On this link only.
    Link,
    /// On this host only.
    Host,
}

/// A permanent neighbour.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    /// Where the link lives.
    pub ns: Ns,
    /// The link.
    pub link: IfName,
    /// The neighbour's address.
    pub ip: IpAddr,
    /// Its hardware address.
    pub mac: Mac,
}

/// A permanent forwarding entry of a VXLAN device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fdb {
    /// The VXLAN device, in the agent's namespace.
    pub link: IfName,
    /// Inner destination.
    pub mac: Mac,
    /// Outer destination.
    pub dst: IpAddr,
}

/// What the forwarder of the backend `udp` goes by. It is a process: the set-up is there while one runs that has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forwarder {
    /// The TUN device.
    pub link: IfName,
    /// Where datagrams are taken, and what they are sent from.
    pub listen: Vec<SocketAddr>,
}

/// What a forwarder knows of a peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwarderPeer {
    /// The TUN device of the forwarder.
    pub link: IfName,
    /// The peer's name in the forwarder.
    pub peer: Arc<str>,
    /// Where its datagrams go.
    pub to: SocketAddr,
    /// Further addresses that its datagrams may come from, in order.
    pub also_from: Vec<IpAddr>,
    /// The inner addresses behind it, in order.
    pub ranges: Vec<Prefix>,
}

/// A route of protocol [`crate::ROUTE_PROTOCOL`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where it lives.
    pub ns: Ns,
    /// Routing table; 254 is main.
    pub table: u32,
    /// Destination.
    pub dst: Prefix,
    /// Priority; 0 is the family's default.
    pub metric: u32,
    /// Where to.
    pub target: RouteTarget,
    /// Preferred source address.
    pub src: Option<IpAddr>,
    /// Path MTU of the route; longer packets that are passed on by it are answered with an ICMP message.
    pub mtu: Option<u32>,
}

/// Where a route leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RouteTarget {
    /// To a nexthop object, or a group of them.
    Nexthop(u32),
    /// To a gateway on a link, which need not be covered by an address of the link where `onlink` is set.
    Via {
        /// Outgoing link.
        link: IfName,
        /// The gateway.
        gateway: IpAddr,
        /// Do not check that the gateway is on the link.
        onlink: bool,
    },
    /// Straight to the link.
    Link(IfName),
    /// To nowhere, with an ICMP error.
    Unreachable,
    /// To this host.
    Local,
}

impl Route {
    /// What makes an address this host's without a link that has it: nothing answers for it in ARP where links answer for their
    /// own addresses alone, and nothing that is sent takes it for its source by chance.
    #[must_use]
    pub fn local(ip: IpAddr) -> Self {
        Self {
            ns: Ns::Host,
            table: LOCAL_TABLE,
            dst: Prefix::host(ip),
            metric: LOCAL_METRIC,
            target: RouteTarget::Local,
            src: None,
            mtu: None,
        }
    }
}

/// The encapsulation a path uses, as status shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encapsulation {
    /// None: the peer is the gateway.
    None,
    /// VXLAN (RFC 7348).
    Vxlan,
}

/// A kernel setting below /proc/sys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sysctl {
    /// Whose namespace.
    pub ns: Ns,
    /// The link it belongs to, if it appears with one.
    pub link: Option<IfName>,
    /// Path below /proc/sys, with '/'.
    pub path: Arc<str>,
    /// The value, as one reads it back.
    pub value: Arc<str>,
}

/// A token bucket filter as the root queueing discipline of a link (tc-tbf).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Qdisc {
    /// Where the link lives.
    pub ns: Ns,
    /// The link whose sending is shaped.
    pub link: IfName,
    /// Rate in bits per second.
    pub rate: u64,
    /// Bucket size in bytes.
    pub burst: u32,
    /// Bytes that may wait.
    pub limit: u32,
}

/// That tracked UDP connections to a Service lead to its endpoints and nowhere else, and so do those of TCP where it wants that. It has
/// no state of its own: it is looked at once, and from then on each change of endpoints keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceFlows;

/// The one write to a table of another owner: a commented jump at the head of a chain of iptables' table `filter`, to a
/// chain of ours in that table ([`crate::FORWARD_CHAIN`]) that accepts what comes from or goes to a link of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardJump {
    /// `ip` or `ip6`.
    pub family: Family,
    /// The chain that jumps: `DOCKER-USER` or `FORWARD`.
    pub chain: Arc<str>,
    /// The jump is there once, and our chain has its rules and no other. Always so where it is wanted.
    pub whole: bool,
}

/// A record in the store or in a file of this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Where it is kept.
    pub scope: RecordScope,
    /// Its key.
    pub key: Arc<str>,
    /// Its value, as JSON text in the canonical order of its type.
    pub value: Arc<str>,
    /// Under which condition it may be written.
    pub guard: RecordGuard,
}

/// The condition of a write to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RecordGuard {
    /// Only if there is none.
    Absent,
    /// Only over this revision.
    Revision(u64),
    /// Whatever is there.
    Any,
}

/// Any resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Object {
    Record(Record),
    Sysctl(Sysctl),
    IpvsService(IpvsService),
    IpvsDestination(IpvsDestination),
    NftTable(NftTable),
    NftPart(NftPart),
    NftElement(NftElement),
    NftValues(NftValues),
    ServiceFlows(ServiceFlows),
    ForwardJump(ForwardJump),
    IptablesRules(IptablesRules),
    FrontendFlows(FrontendFlows),
    Link(Link),
    Address(Address),
    Neighbour(Neighbour),
    Fdb(Fdb),
    Forwarder(Forwarder),
    ForwarderPeer(ForwarderPeer),
    IpipProgram(IpipProgram),
    IpipPeer(IpipPeer),
    Nexthop(Nexthop),
    NexthopGroup(NexthopGroup),
    Route(Route),
    Qdisc(Qdisc),
    Connection(Connection),
}

macro_rules! each_resource {
    ($($name:ident),*) => {
        $(impl From<$name> for Object {
            fn from(resource: $name) -> Self {
                Self::$name(resource)
            }
        })*

        impl Resource for Object {
            fn key(&self) -> Key {
                match self { $(Self::$name(resource) => resource.key()),* }
            }

            fn satisfied_by(&self, observed: &Self) -> bool {
                match (self, observed) {
                    $((Self::$name(wanted), Self::$name(found)) => wanted.satisfied_by(found),)*
                    _ => false,
                }
            }

            fn can_update(&self, observed: &Self) -> bool {
                match (self, observed) {
                    $((Self::$name(wanted), Self::$name(found)) => wanted.can_update(found),)*
                    _ => false,
                }
            }
        }
    };
}

each_resource!(
    Record,
    Sysctl,
    IpvsService,
    IpvsDestination,
    NftTable,
    NftPart,
    NftElement,
    NftValues,
    ServiceFlows,
    ForwardJump,
    IptablesRules,
    FrontendFlows,
    Link,
    Address,
    Neighbour,
    Fdb,
    Forwarder,
    ForwarderPeer,
    IpipProgram,
    IpipPeer,
    Nexthop,
    NexthopGroup,
    Route,
    Qdisc,
    Connection
);

impl Resource for Link {
    fn key(&self) -> Key {
        Key::Link { ns: self.ns.clone(), name: self.name.clone() }
    }

    fn satisfied_by(&self, observed: &Self) -> bool {
        let same_or_free = |wanted: Option<u32>, found: Option<u32>| wanted.is_none() || wanted == found;
        let source = |kind: &LinkKind| match kind {
            LinkKind::Vxlan { local, .. } => Some(*local),
            LinkKind::Ipip { local } => Some(IpAddr::V4(*local)),
            _ => None,
        };
        self.can_update(observed)
            && source(&self.kind) == source(&observed.kind)
            && same_or_free(self.mtu, observed.mtu)
            && (self.mac.is_none() || self.mac == observed.mac)
            && self.up == observed.up
            && self.master == observed.master
            && (self.altname.is_none() || self.altname == observed.altname)
            && (self.port.is_none() || self.port == observed.port)
            && (!self.no_link_local || observed.no_link_local)
            && (self.tx_checksum.is_none() || self.tx_checksum == observed.tx_checksum)
    }

    fn can_update(&self, observed: &Self) -> bool {
        match (&self.kind, &observed.kind) {
            (LinkKind::Veth(_) | LinkKind::VethPeer, LinkKind::Veth(_) | LinkKind::VethPeer) => true,
            (
                LinkKind::Vxlan { vni, port, local },
                LinkKind::Vxlan { vni: found_vni, port: found_port, local: found_local },
            ) => (vni, port, local.is_ipv4()) == (found_vni, found_port, found_local.is_ipv4()),
            (LinkKind::Ipip { .. }, LinkKind::Ipip { .. }) => true,
            (wanted, found) => wanted == found,
        }
    }
}

impl Resource for Address {
    fn key(&self) -> Key {
        Key::Address { ns: self.ns.clone(), link: self.link.clone(), ip: self.ip }
    }

    fn satisfied_by(&self, observed: &Self) -> bool {
        self.len == observed.len && (self.ip.is_ipv6() || self.scope == observed.scope)
    }

    fn can_update(&self, observed: &Self) -> bool {
        self.satisfied_by(observed)
    }
}

impl Resource for Neighbour {
    fn key(&self) -> Key {
        Key::Neighbour { ns: self.ns.clone(), link: self.link.clone(), ip: self.ip }
    }

    fn satisfied_by(&self, observed: &Self) -> bool {
        self == observed
    }
}

impl Resource for Fdb {
    fn key(&self) -> Key {
        Key::Fdb { link: self.link.clone(), mac: self.mac }
    }

    fn satisfied_by(&self, observed: &Self) -> bool {
        self == observed
    }
}

impl Resource for Forwarder {
    fn key(&self) -> Key {
        Key::Forwarder { link: self.link.clone() }
    }

    fn satisfied_by(&self, observed: &Self) -> bool {
        self == observed
    }
}

impl Resource for ForwarderPeer {
    fn key(&self) -> Key {
        Key::ForwarderPeer { link: self.link.clone(), peer: self.peer.clone() }
    }

    fn satisfied_by(&self, observed: &Self) -> bool {
        self == observed
    }
}

impl Resource for Route {
    fn key(&self) -> Key {
        Key::Route { ns: self.ns.clone(), table: self.table, dst: self.dst, metric: self.metric }
    }

    fn satisfied_by(&self, observed: &Self) -> bool {
        self == observed
    }
}

impl Resource for Sysctl {
    fn key(&self) -> Key {
        match &self.link {
            Some(link) => Key::LinkSysctl { ns: self.ns.clone(), link: link.clone(), path: self.path.clone() },
            None => Key::Sysctl { ns: self.ns.clone(), path: self.path.clone() },
        }
    }

    /// What is raised may be greater.
    fn satisfied_by(&self, observed: &Self) -> bool {
        let number = |setting: &Self| setting.value.parse::<u64>().ok();
        let is_raised =
            self.path.starts_with(CONNTRACK_SETTINGS) && number(self).is_some() && number(self) <= number(observed);
        self.value == observed.value || is_raised
    }
}

impl Resource for Qdisc {
    fn key(&self) -> Key {
        Key::Qdisc { ns: self.ns.clone(), link: self.link.clone() }
    }

    /// The kernel keeps times instead of bytes and rounds: what was asked is what a rate within a thousandth shows.
    fn satisfied_by(&self, observed: &Self) -> bool {
        self.rate.abs_diff(observed.rate) <= self.rate / 1000
    }
}

impl Resource for ServiceFlows {
    fn key(&self) -> Key {
        Key::ServiceFlows
    }

    fn satisfied_by(&self, _: &Self) -> bool {
        true
    }
}

impl Resource for ForwardJump {
    fn key(&self) -> Key {
        Key::ForwardJump { family: self.family, chain: self.chain.clone() }
    }

    fn satisfied_by(&self, observed: &Self) -> bool {
        self == observed
    }
}

impl Resource for Record {
    fn key(&self) -> Key {
        Key::Record { scope: self.scope.clone(), key: self.key.clone() }
    }

    fn satisfied_by(&self, observed: &Self) -> bool {
        self.value == observed.value
    }
}
