//! The packet a simulation is about, and what the kernel knows of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ripstop_types::{Family, IfName, Mac};
use serde::{Deserialize, Serialize};

use crate::model::build::{CtDirection, CtState, CtStatus, EtherType, Proto, TcpFlags};

/// A link: its name and index.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Link {
    /// The name.
    pub name: IfName,
    /// The index.
    pub index: u32,
}

/// One packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packet {
    /// The link it came in by; `None` if this host sends it.
    pub iif: Option<Link>,
    /// The link it goes out by, once that is decided.
    pub oif: Option<Link>,
    /// Its Ethernet header; `None` if it has none (sent by this host, or from a device without).
    pub ether: Option<Ether>,
    /// Whom the frame is for, by linux/if_packet.h; `None` if not known.
    pub pkttype: Option<u8>,
    /// Its mark.
    pub mark: u32,
    /// The network header.
    pub network: Network,
    /// The connection, as connection tracking finds it.
    pub tracking: Tracking,
}

/// An Ethernet header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ether {
    /// The sender.
    pub src: Mac,
    /// The receiver.
    pub dst: Mac,
}

/// A network header with what it carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Network {
    /// IPv4 or IPv6, by the addresses, which are of one family.
    Ip {
        /// The source.
        src: IpAddr,
        /// The destination.
        dst: IpAddr,
        /// What it carries.
        transport: Transport,
    },
    /// ARP for IPv4 over Ethernet (RFC 826).
    Arp {
        /// 1 is a request, 2 a reply.
        operation: u16,
        /// The sender's hardware address.
        src_mac: Mac,
        /// The sender's address.
        src_ip: Ipv4Addr,
        /// The hardware address asked about.
        dst_mac: Mac,
        /// The address asked about.
        dst_ip: Ipv4Addr,
    },
    /// Anything else, by its ether type.
    Other(u16),
}

/// A transport header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)] // Ports are ports.
pub enum Transport {
    /// TCP; `flags` as on the wire.
    Tcp { src: u16, dst: u16, flags: u8 },
    /// UDP.
    Udp { src: u16, dst: u16 },
    /// SCTP.
    Sctp { src: u16, dst: u16 },
    /// ICMP or ICMPv6, by the family. `target` is that of a neighbour solicitation or advertisement.
    Icmp { kind: u8, target: Option<Ipv6Addr> },
    /// Any other protocol, by its number.
    Other(u8),
}

/// What connection tracking says of the packet. What happens before it runs (priority −200) does not see this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tracking {
    /// The packet belongs to no connection and begins none.
    Invalid,
    /// A rule has kept it out, or its kind is never tracked.
    Untracked,
    /// It belongs to a connection or begins one.
    Connection(Connection),
}

/// A connection, seen from one of its packets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// One of [`CtState`]'s bits.
    pub state: u32,
    /// [`CtStatus`]' bits, as before this packet.
    pub status: u32,
    /// The connection's mark.
    pub mark: u32,
    /// Whether the packet goes the way of the connection's first.
    pub reply: bool,
    /// The destination of the connection's first packet before any rewriting; `None` if not known.
    pub original_destination: Option<(IpAddr, u16)>,
    /// Of a connection that is not new: what this packet's source becomes.
    pub source_becomes: Option<(IpAddr, Option<u16>)>,
    /// Of a connection that is not new: what this packet's destination becomes.
    pub destination_becomes: Option<(IpAddr, Option<u16>)>,
}

impl Connection {
    /// The first packet of a connection.
    pub fn new() -> Self {
        Self::in_state(CtState::NEW)
    }

    /// A later packet, in the direction of the first.
    pub fn established() -> Self {
        Self::in_state(CtState::ESTABLISHED)
    }

    /// A later packet, against the direction of the first.
    pub fn reply() -> Self {
        Self { reply: true, ..Self::in_state(CtState::ESTABLISHED) }
    }

    fn in_state(state: CtState) -> Self {
        Self {
            state: state.0,
            status: 0,
            mark: 0,
            reply: false,
            original_destination: None,
            source_becomes: None,
            destination_becomes: None,
        }
    }

    pub(super) fn direction(&self) -> CtDirection {
        if self.reply { CtDirection::REPLY } else { CtDirection::ORIGINAL }
    }

    /// Whether packets of this direction have their source rewritten.
    pub(super) fn rewrites_source(&self) -> bool {
        let bit = if self.reply { CtStatus::DNAT } else { CtStatus::SNAT };
        self.status & bit.0 != 0
    }

    /// Whether packets of this direction have their destination rewritten.
    pub(super) fn rewrites_destination(&self) -> bool {
        let bit = if self.reply { CtStatus::SNAT } else { CtStatus::DNAT };
        self.status & bit.0 != 0
    }
}

impl Default for Connection {
    fn default() -> Self {
        Self::new()
    }
}

impl Packet {
    /// A packet this host has received, the first of its connection.
    pub fn received(iif: Link, src: IpAddr, dst: IpAddr, transport: Transport) -> Self {
        Self { iif: Some(iif), pkttype: Some(0), ..Self::sent(src, dst, transport) }
    }

    /// A packet this host sends, the first of its connection.
    pub fn sent(src: IpAddr, dst: IpAddr, transport: Transport) -> Self {
        let port = transport.ports().map_or(0, |(_, dst)| dst);
        let connection = Connection { original_destination: Some((dst, port)), ..Connection::new() };
        Self {
            iif: None,
            oif: None,
            ether: None,
            pkttype: None,
            mark: 0,
            network: Network::Ip { src, dst, transport },
            tracking: Tracking::Connection(connection),
        }
    }

    /// A frame other than IP that this host has received.
    pub fn frame(iif: Link, ether: Ether, network: Network) -> Self {
        let tracking = Tracking::Untracked;
        Self { iif: Some(iif), oif: None, ether: Some(ether), pkttype: None, mark: 0, network, tracking }
    }

    /// The same with an Ethernet header.
    #[must_use]
    pub fn with_ether(self, src: Mac, dst: Mac) -> Self {
        Self { ether: Some(Ether { src, dst }), ..self }
    }

    /// The same, as part of this connection.
    #[must_use]
    pub fn with_connection(self, connection: Connection) -> Self {
        Self { tracking: Tracking::Connection(connection), ..self }
    }

    /// The ether type.
    pub fn ether_type(&self) -> EtherType {
        match &self.network {
            Network::Ip { src: IpAddr::V4(_), .. } => EtherType::IPV4,
            Network::Ip { src: IpAddr::V6(_), .. } => EtherType::IPV6,
            Network::Arp { .. } => EtherType::ARP,
            Network::Other(kind) => EtherType(*kind),
        }
    }

    /// The family of its addresses, if it is IP.
    pub fn family(&self) -> Option<Family> {
        match &self.network {
            Network::Ip { src, .. } => Some(Family::of(*src)),
            _ => None,
        }
    }

    /// The source address, if it is IP.
    pub fn source(&self) -> Option<IpAddr> {
        match &self.network {
            Network::Ip { src, .. } => Some(*src),
            _ => None,
        }
    }

    /// The destination address, if it is IP.
    pub fn destination(&self) -> Option<IpAddr> {
        match &self.network {
            Network::Ip { dst, .. } => Some(*dst),
            _ => None,
        }
    }

    /// What it carries, if it is IP.
    pub fn transport(&self) -> Option<Transport> {
        match &self.network {
            Network::Ip { transport, .. } => Some(*transport),
            _ => None,
        }
    }

    pub(super) fn connection(&self) -> Option<&Connection> {
        match &self.tracking {
            Tracking::Connection(connection) => Some(connection),
            _ => None,
        }
    }

    pub(super) fn connection_mut(&mut self) -> Option<&mut Connection> {
        match &mut self.tracking {
            Tracking::Connection(connection) => Some(connection),
            _ => None,
        }
    }
}

impl Transport {
    /// A TCP segment that opens a connection.
    pub fn syn(src: u16, dst: u16) -> Self {
        Self::Tcp { src, dst, flags: TcpFlags::SYN.0 }
    }

    /// The protocol's number in packets of a family.
    pub fn protocol(self, family: Family) -> u8 {
        match self {
            Self::Tcp { .. } => Proto::TCP.0,
            Self::Udp { .. } => Proto::UDP.0,
            Self::Sctp { .. } => Proto::SCTP.0,
            Self::Icmp { .. } if family == Family::V4 => Proto::ICMP.0,
            Self::Icmp { .. } => Proto::ICMPV6.0,
            Self::Other(number) => number,
        }
    }

    /// Source and destination port, if it has such.
    pub fn ports(self) -> Option<(u16, u16)> {
        match self {
            Self::Tcp { src, dst, .. } | Self::Udp { src, dst } | Self::Sctp { src, dst } => Some((src, dst)),
            Self::Icmp { .. } | Self::Other(_) => None,
        }
    }

    pub(super) fn ports_mut(&mut self) -> Option<(&mut u16, &mut u16)> {
        match self {
            Self::Tcp { src, dst, .. } | Self::Udp { src, dst } | Self::Sctp { src, dst } => Some((src, dst)),
            Self::Icmp { .. } | Self::Other(_) => None,
        }
    }
}
