//! What identifies an object, and in which order objects depend on each other.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use ripstop_nft::model::{ElementKey, Key as ElementValue, KeyPart, Name, TableFamily, Value, part_of};
use ripstop_types::{Family, IfName, Mac, Prefix};
use serde::{Deserialize, Serialize};

use crate::iptables::IptablesKey;
use crate::ipvs::VirtualServer;
use crate::{LOCAL_METRIC, LOCAL_TABLE};

/// The network namespace an object lives in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Ns {
    /// The agent's own.
    #[serde(rename = "host")]
    Host,
    /// A pod's, by the path the runtime gave.
    #[serde(rename = "path")]
    Path(Arc<str>),
}

impl fmt::Display for Ns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Path(path) => f.write_str(path),
        }
    }
}

/// Where a record is kept.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RecordScope {
    /// In the cluster's store, under this kind.
    Cluster(Arc<str>),
    /// In a file of this node that does not outlive a boot (/run/ripstop), in the folder of this name.
    Boot(Arc<str>),
}

/// The kinds of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Kind {
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
    Iptables,
    FrontendFlows,
    Link,
    LinkSysctl,
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
    Connection,
}

/// The identity of an object. Its order is the order in which objects are made: a later one may need an earlier one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Key {
    /// A record in the store or in a file: first, because it is the promise that the rest keeps.
    Record { scope: RecordScope, key: Arc<str> },
    /// A sysctl of the namespace; path below /proc/sys with '/'.
    Sysctl { ns: Ns, path: Arc<str> },
    /// A virtual server of IPVS: before the rules that send packets there.
    IpvsService { server: VirtualServer },
    /// Where it may send a connection.
    IpvsDestination { server: VirtualServer, to: SocketAddr },
    /// A whole nftables table without the elements of its named sets.
    NftTable { family: TableFamily, name: Name },
    /// Chains and sets that come and go in a table.
    NftPart { family: TableFamily, table: Name, name: Name },
    /// One element of a named set or map.
    NftElement(ElementKey),
    /// Which values a map of a part may have: behind the elements, which say where packets go that fill it.
    NftValues { family: TableFamily, table: Name, map: Name },
    /// That no connection of a Service leads elsewhere than to its endpoints.
    ServiceFlows,
    /// The jump in a chain of iptables' table `filter`.
    ForwardJump { family: Family, chain: Arc<str> },
    /// Rules in a chain of iptables. Behind the jump above, which accepts what these refuse: who comes last stands at the head.
    Iptables(IptablesKey),
    /// Where tracked connections to a frontend lead: behind the rules by which new ones go there.
    FrontendFlows { protocol: u8, ip: IpAddr, port: u16 },
    /// A network interface.
    Link { ns: Ns, name: IfName },
    /// A sysctl that appears with a link; path below /proc/sys.
    LinkSysctl { ns: Ns, link: IfName, path: Arc<str> },
    /// An address of a link.
    Address { ns: Ns, link: IfName, ip: IpAddr },
    /// A permanent neighbour.
    Neighbour { ns: Ns, link: IfName, ip: IpAddr },
    /// A forwarding entry of a VXLAN device: which remote VTEP has this MAC.
    Fdb { link: IfName, mac: Mac },
    /// What the forwarder of the backend `udp` goes by: behind its device, before the routes that lead to it.
    Forwarder { link: IfName },
    /// What it knows of a peer.
    ForwarderPeer { link: IfName, peer: Arc<str> },
    /// The programs that carry IPIP where the kernel has no device for it: behind their link, before the routes that lead there.
    IpipProgram { link: IfName },
    /// An outer address of a peer that they know.
    IpipPeer { link: IfName, ip: Ipv4Addr },
    /// A nexthop object of the agent's namespace.
    Nexthop { id: u32 },
    /// Nexthop objects that packets are spread over: behind them, before the routes that lead there.
    NexthopGroup { id: u32 },
    /// A route. `metric` 0 is the family's default.
    Route { ns: Ns, table: u32, dst: Prefix, metric: u32 },
    /// The root queueing discipline of a link.
    Qdisc { ns: Ns, link: IfName },
    /// A tracked connection: behind all rules, by which no other begins in its place.
    Connection { protocol: u8, source: SocketAddr, sent_to: SocketAddr, zone: Option<u16> },
}

impl Key {
    /// The kind of object this identifies.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Record { .. } => Kind::Record,
            Self::Sysctl { .. } => Kind::Sysctl,
            Self::IpvsService { .. } => Kind::IpvsService,
            Self::IpvsDestination { .. } => Kind::IpvsDestination,
            Self::NftTable { .. } => Kind::NftTable,
            Self::NftPart { .. } => Kind::NftPart,
            Self::NftElement(_) => Kind::NftElement,
            Self::NftValues { .. } => Kind::NftValues,
            Self::ServiceFlows => Kind::ServiceFlows,
            Self::ForwardJump { .. } => Kind::ForwardJump,
            Self::Iptables(_) => Kind::Iptables,
            Self::FrontendFlows { .. } => Kind::FrontendFlows,
            Self::Link { .. } => Kind::Link,
            Self::LinkSysctl { .. } => Kind::LinkSysctl,
            Self::Address { .. } => Kind::Address,
            Self::Neighbour { .. } => Kind::Neighbour,
            Self::Fdb { .. } => Kind::Fdb,
            Self::Forwarder { .. } => Kind::Forwarder,
            Self::ForwarderPeer { .. } => Kind::ForwarderPeer,
            Self::IpipProgram { .. } => Kind::IpipProgram,
            Self::IpipPeer { .. } => Kind::IpipPeer,
            Self::Nexthop { .. } => Kind::Nexthop,
            Self::NexthopGroup { .. } => Kind::NexthopGroup,
            Self::Route { .. } => Kind::Route,
            Self::Qdisc { .. } => Kind::Qdisc,
            Self::Connection { .. } => Kind::Connection,
        }
    }

    /// Whether it is an object of Services: one of their tables or in one, of IPVS, or what makes an address of theirs local.
    pub fn is_of_services(&self) -> bool {
        match self {
            Self::NftTable { .. } | Self::NftPart { .. } | Self::NftValues { .. } | Self::NftElement(_) => {
                self.table().is_some_and(crate::is_services_table)
            }
            Self::ServiceFlows
            | Self::Iptables(_)
            | Self::FrontendFlows { .. }
            | Self::IpvsService { .. }
            | Self::IpvsDestination { .. } => true,
            Self::Route { table, .. } => *table == LOCAL_TABLE,
            _ => false,
        }
    }

    /// Whether it is an object of policies: one of their tables or in one.
    pub fn is_of_policies(&self) -> bool {
        self.table() == Some(crate::NFT_POLICY_TABLE)
    }

    /// The part of a table that it is or is in.
    #[must_use]
    pub fn part(&self) -> Option<Self> {
        let part = if let Self::NftPart { .. } = self { Some(self.clone()) } else { self.parent() };
        part.filter(|part| part.kind() == Kind::NftPart)
    }

    /// The table of nftables that it is or is in.
    pub fn table(&self) -> Option<&str> {
        match self {
            Self::NftTable { name, .. } => Some(name.as_str()),
            Self::NftPart { table, .. } | Self::NftValues { table, .. } => Some(table.as_str()),
            Self::NftElement(element) => Some(element.table.as_str()),
            _ => None,
        }
    }

    /// The namespace the object lives in; records live in none.
    pub fn ns(&self) -> Option<&Ns> {
        match self {
            Self::Record { .. } => None,
            Self::IpvsService { .. }
            | Self::IpvsDestination { .. }
            | Self::NftTable { .. }
            | Self::NftPart { .. }
            | Self::NftElement(_)
            | Self::NftValues { .. }
            | Self::ServiceFlows
            | Self::ForwardJump { .. }
            | Self::Iptables(_)
            | Self::FrontendFlows { .. }
            | Self::Fdb { .. }
            | Self::Forwarder { .. }
            | Self::ForwarderPeer { .. }
            | Self::IpipProgram { .. }
            | Self::IpipPeer { .. }
            | Self::Nexthop { .. }
            | Self::NexthopGroup { .. }
            | Self::Connection { .. } => Some(&Ns::Host),
            Self::Sysctl { ns, .. }
            | Self::Link { ns, .. }
            | Self::LinkSysctl { ns, .. }
            | Self::Address { ns, .. }
            | Self::Neighbour { ns, .. }
            | Self::Route { ns, .. }
            | Self::Qdisc { ns, .. } => Some(ns),
        }
    }

    /// The key of the object without which this one cannot exist: it vanishes with it.
    pub fn parent(&self) -> Option<Self> {
        match self {
            Self::Address { ns, link, .. }
            | Self::Neighbour { ns, link, .. }
            | Self::LinkSysctl { ns, link, .. }
            | Self::Qdisc { ns, link } => Some(Self::Link { ns: ns.clone(), name: link.clone() }),
            Self::Fdb { link, .. } => Some(Self::Link { ns: Ns::Host, name: link.clone() }),
            Self::IpvsDestination { server, .. } => Some(Self::IpvsService { server: *server }),
            Self::NftPart { family, table, .. } => Some(Self::NftTable { family: *family, name: table.clone() }),
            Self::NftElement(ElementKey { family, table, set, .. }) => Some(match part_of(set) {
                Some(name) => Self::NftPart { family: *family, table: table.clone(), name },
                None => Self::NftTable { family: *family, name: table.clone() },
            }),
            Self::NftValues { family, table, map } => {
                Some(Self::NftPart { family: *family, table: table.clone(), name: part_of(map)? })
            }
            Self::Record { .. }
            | Self::Sysctl { .. }
            | Self::IpvsService { .. }
            | Self::NftTable { .. }
            | Self::ServiceFlows
            | Self::ForwardJump { .. }
            | Self::Iptables(_)
            | Self::FrontendFlows { .. }
            | Self::Link { .. }
            | Self::Forwarder { .. }
            | Self::ForwarderPeer { .. }
            | Self::IpipProgram { .. }
            | Self::IpipPeer { .. }
            | Self::Nexthop { .. }
            | Self::NexthopGroup { .. }
            | Self::Route { .. }
            | Self::Connection { .. } => None,
        }
    }

    /// Whether it is a child of an object, or of a child of it that lies among its own.
    pub(crate) fn is_within(&self, outer: &Self) -> bool {
        match (self, outer) {
            (Self::NftElement(element), Self::NftTable { family, name }) => {
                (element.family, &element.table) == (*family, name)
            }
            _ => self.parent().as_ref() == Some(outer),
        }
    }

    /// The smallest key that a child of this object could have, for each kind of child.
    pub(crate) fn first_children(&self) -> Vec<Self> {
        const LOWEST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
        match self {
            Self::Link { ns, name } => {
                let (ns, link) = (ns.clone(), name.clone());
                vec![
                    Self::LinkSysctl { ns: ns.clone(), link: link.clone(), path: "".into() },
                    Self::Address { ns: ns.clone(), link: link.clone(), ip: LOWEST },
                    Self::Neighbour { ns: ns.clone(), link: link.clone(), ip: LOWEST },
                    Self::Fdb { link: link.clone(), mac: Mac([0; 6]) },
                    Self::Qdisc { ns, link },
                ]
            }
            Self::IpvsService { server } => {
                vec![Self::IpvsDestination { server: *server, to: SocketAddr::new(LOWEST, 0) }]
            }
            Self::NftTable { family, name } => {
                // 'A' sorts before every other first letter of a name.
                let key = ElementValue { interval: false, parts: [].into() };
                let (family, table) = (*family, name.clone());
                vec![
                    Self::NftPart { family, table: table.clone(), name: Name::from("A") },
                    Self::NftElement(ElementKey { family, table, set: Name::from("A"), key }),
                ]
            }
            Self::NftPart { family, table, name } => {
                let key = ElementValue { interval: false, parts: [].into() };
                let (family, table) = (*family, table.clone());
                vec![
                    Self::NftElement(ElementKey { family, table: table.clone(), set: name.clone(), key }),
                    Self::NftValues { family, table, map: name.clone() },
                ]
            }
            _ => Vec::new(),
        }
    }

    /// The smallest key of a kind in the agent's namespace, of the kinds that are few.
    pub fn first_of(kind: Kind) -> Option<Self> {
        let (ns, path) = (Ns::Host, Arc::from(""));
        Some(match kind {
            Kind::Sysctl => Self::Sysctl { ns, path },
            Kind::NftTable => Self::NftTable { family: TableFamily::Inet, name: Name::from("A") },
            // The first character that a name may have.
            Kind::LinkSysctl => Self::LinkSysctl { ns, link: "!".parse().ok()?, path },
            _ => return None,
        })
    }

    /// The nexthop object that a route names: one way, or a group.
    pub fn of_nexthop(id: u32) -> Self {
        if crate::GROUP_IDS.contains(&id) { Self::NexthopGroup { id } } else { Self::Nexthop { id } }
    }

    /// A route of the main table with the default metric.
    pub fn main_route(ns: Ns, dst: Prefix) -> Self {
        Self::Route { ns, table: 254, dst, metric: 0 }
    }
}

/// The object in the words of `ip` and `nft`: `route 10.244.2.0/24`, `link ripab12 in /run/netns/x`.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Record { scope: RecordScope::Cluster(kind), key } => write!(f, "record {kind}/{key}")?,
            Self::Record { scope: RecordScope::Boot(folder), key } => write!(f, "file {folder}/{key}")?,
            Self::Sysctl { path, .. } | Self::LinkSysctl { path, .. } => {
                write!(f, "sysctl {}", path.replace('/', "."))?
            }
            Self::IpvsService { server } => write!(f, "ipvs service {server}")?,
            Self::IpvsDestination { server, to } => write!(f, "ipvs destination {to} of {server}")?,
            Self::NftTable { family, name } => write!(f, "nft table {family} {name}")?,
            Self::NftPart { family, table, name } => write!(f, "nft part {family} {table} {name}")?,
            Self::NftElement(element) => write_element(f, element)?,
            Self::NftValues { family, table, map } => write!(f, "nft values {family} {table} {map}")?,
            Self::ServiceFlows => f.write_str("flows of Services")?,
            Self::ForwardJump { family, chain } => write!(f, "jump in {} filter {chain}", table_family(*family))?,
            Self::Iptables(key) => write!(f, "{key}")?,
            Self::FrontendFlows { protocol, ip, port } => {
                write!(f, "flows of protocol {protocol} to {}", std::net::SocketAddr::new(*ip, *port))?
            }
            Self::Link { name, .. } => write!(f, "link {name}")?,
            Self::Address { link, ip, .. } => write!(f, "address {ip} dev {link}")?,
            Self::Neighbour { link, ip, .. } => write!(f, "neighbour {ip} dev {link}")?,
            Self::Fdb { link, mac } => write!(f, "fdb {mac} dev {link}")?,
            Self::Forwarder { link } => write!(f, "forwarder dev {link}")?,
            Self::ForwarderPeer { link, peer } => write!(f, "peer {peer} of the forwarder dev {link}")?,
            Self::IpipProgram { link } => write!(f, "ipip programs dev {link}")?,
            Self::IpipPeer { link, ip } => write!(f, "peer {ip} of the ipip programs dev {link}")?,
            Self::Nexthop { id } => write!(f, "nexthop id {id}")?,
            Self::NexthopGroup { id } => write!(f, "nexthop group id {id}")?,
            Self::Route { dst, table: LOCAL_TABLE, metric: LOCAL_METRIC, .. } => {
                write!(f, "local address {}", dst.addr())?
            }
            Self::Route { dst, table: 254, metric: 0, .. } => write!(f, "route {dst}")?,
            Self::Route { dst, table, metric, .. } => write!(f, "route {dst} table {table} metric {metric}")?,
            Self::Qdisc { link, .. } => write!(f, "qdisc dev {link}")?,
            Self::Connection { protocol, source, sent_to, .. } => {
                write!(f, "connection of protocol {protocol} from {source} to {sent_to}")?
            }
        }
        match self.ns() {
            Some(Ns::Path(path)) => write!(f, " in {path}"),
            _ => Ok(()),
        }
    }
}

/// A value as a reader expects it; kinds that no set of ours is keyed by are written as numbers.
fn word(value: &Value) -> String {
    match value {
        Value::Ipv4(ip) => ip.to_string(),
        Value::Ipv6(ip) => ip.to_string(),
        Value::Ether(mac) => mac.to_string(),
        Value::IfName(pattern) => String::from(pattern.clone()),
        Value::Service(n) | Value::EtherType(n) | Value::ArpOp(n) => n.to_string(),
        Value::Proto(n) | Value::IcmpType(n) | Value::Icmpv6Type(n) | Value::NfProto(n) | Value::PktType(n) => {
            n.to_string()
        }
        Value::CtDirection(n) | Value::TcpFlags(n) => n.to_string(),
        Value::Mark(n) | Value::FibAddrType(n) | Value::IfIndex(n) | Value::CtState(n) | Value::CtStatus(n) => {
            n.to_string()
        }
    }
}

fn write_element(f: &mut fmt::Formatter<'_>, element: &ElementKey) -> fmt::Result {
    write!(f, "nft element {} {} {} {{", element.family, element.table, element.set)?;
    for (place, part) in element.key.parts.iter().enumerate() {
        let dot = if place == 0 { "" } else { " ." };
        match part {
            KeyPart::Value(value) => write!(f, "{dot} {}", word(value))?,
            KeyPart::Prefix(prefix) => write!(f, "{dot} {prefix}")?,
            KeyPart::Range(bounds) => write!(f, "{dot} {}-{}", word(&bounds.0), word(&bounds.1))?,
        }
    }
    f.write_str(" }")
}

impl Key {
    /// The address family an object belongs to, where it belongs to one.
    pub fn family(&self) -> Option<Family> {
        match self {
            Self::Address { ip, .. } | Self::Neighbour { ip, .. } => Some(Family::of(*ip)),
            Self::Route { dst, .. } => Some(dst.family()),
            Self::IpvsService { server } | Self::IpvsDestination { server, .. } => Some(Family::of(server.ip)),
            Self::ForwardJump { family, .. } => Some(*family),
            Self::Iptables(key) => Some(key.family),
            _ => None,
        }
    }
}

/// A family as nft names its tables.
fn table_family(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}
