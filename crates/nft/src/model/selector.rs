//! What of a packet a rule looks at.

use serde::{Deserialize, Serialize};

use super::{NumGen, Type};

/// A part of the packet or of what the kernel knows about it.
///
/// A selector of a header implies the protocol it belongs to: `ip saddr` in an `inet` table matches IPv4 packets
/// only, `tcp dport` TCP only. The encoder writes that condition first, as nft does, once a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)] // Named as nft names them.
pub enum Selector {
    MetaIifname,
    MetaOifname,
    MetaIif,
    MetaOif,
    MetaL4proto,
    MetaNfproto,
    /// The ether type the packet came with, in host terms (`meta protocol`).
    MetaProtocol,
    MetaMark,
    MetaPkttype,
    EtherSaddr,
    EtherDaddr,
    EtherType,
    ArpOperation,
    ArpSaddrEther,
    ArpSaddrIp,
    ArpDaddrEther,
    ArpDaddrIp,
    IpSaddr,
    IpDaddr,
    IpProtocol,
    Ip6Saddr,
    Ip6Daddr,
    Ip6Nexthdr,
    TcpSport,
    TcpDport,
    TcpFlags,
    UdpSport,
    UdpDport,
    /// The source port of whatever transport the packet has; the rule itself must restrict it to one with ports.
    ThSport,
    /// The destination port of whatever transport the packet has; the rule itself must restrict it.
    ThDport,
    IcmpType,
    Icmpv6Type,
    /// The target address of a neighbour solicitation or advertisement (RFC 4861, 4.3 and 4.4), 8 bytes into the
    /// ICMPv6 message. nft 1.0.6 has no name for it and shows `@th,64,128`.
    NdTarget,
    CtState,
    CtStatus,
    CtMark,
    CtDirection,
    /// The destination the connection's first packet had before any rewriting: `ct original ip daddr`.
    CtOriginalIpDaddr,
    CtOriginalIp6Daddr,
    /// The destination port of the connection's first packet before any rewriting: `ct original proto-dst`.
    CtOriginalProtoDst,
    /// An answer of the routing tables.
    Fib(FibKey, FibResult),
    /// No part of the packet but a number made for it: `numgen`. In a set its type is that of a mark, 32 bits in host order;
    /// nft's own, an integer, says nothing of its length.
    Number(NumGen),
}

/// What the routing tables are asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FibKey {
    /// `fib daddr`
    Daddr,
    /// `fib saddr`
    Saddr,
    /// `fib daddr . iif`: only as seen from the incoming interface.
    DaddrIif,
    /// `fib saddr . iif`: the reverse path, as seen from the incoming interface.
    SaddrIif,
}

/// What the routing tables answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FibResult {
    /// The kind of the address: local, unicast, broadcast…
    Type,
    /// The index of the outgoing interface; zero if there is no route.
    Oif,
}

/// Where a header field's offset counts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PayloadBase {
    /// The link layer header.
    Link,
    /// The network header.
    Network,
    /// The transport header.
    Transport,
}

impl Selector {
    /// The type of the value.
    pub fn type_of(self) -> Type {
        match self {
            Self::MetaIifname | Self::MetaOifname => Type::IfName,
            Self::MetaIif | Self::MetaOif | Self::Fib(_, FibResult::Oif) => Type::IfIndex,
            Self::MetaL4proto | Self::IpProtocol | Self::Ip6Nexthdr => Type::InetProto,
            Self::MetaNfproto => Type::NfProto,
            Self::MetaProtocol | Self::EtherType => Type::EtherType,
            Self::MetaMark | Self::CtMark | Self::Number(_) => Type::Mark,
            Self::MetaPkttype => Type::PktType,
            Self::EtherSaddr | Self::EtherDaddr | Self::ArpSaddrEther | Self::ArpDaddrEther => Type::EtherAddr,
            Self::ArpOperation => Type::ArpOp,
            Self::ArpSaddrIp | Self::ArpDaddrIp | Self::IpSaddr | Self::IpDaddr | Self::CtOriginalIpDaddr => {
                Type::Ipv4Addr
            }
            Self::Ip6Saddr | Self::Ip6Daddr | Self::NdTarget | Self::CtOriginalIp6Daddr => Type::Ipv6Addr,
            Self::TcpSport
            | Self::TcpDport
            | Self::UdpSport
            | Self::UdpDport
            | Self::ThSport
            | Self::ThDport
            | Self::CtOriginalProtoDst => Type::InetService,
            Self::TcpFlags => Type::TcpFlags,
            Self::IcmpType => Type::IcmpType,
            Self::Icmpv6Type => Type::Icmpv6Type,
            Self::CtState => Type::CtState,
            Self::CtStatus => Type::CtStatus,
            Self::CtDirection => Type::CtDirection,
            Self::Fib(_, FibResult::Type) => Type::FibAddrType,
        }
    }

    /// Where the field lies, if it is read out of the packet: base, offset and length in bytes.
    pub fn payload(self) -> Option<(PayloadBase, u32, u32)> {
        use PayloadBase::{Link, Network, Transport};
        Some(match self {
            Self::EtherDaddr => (Link, 0, 6),
            Self::EtherSaddr => (Link, 6, 6),
            Self::EtherType => (Link, 12, 2),
            Self::ArpOperation => (Network, 6, 2),
            Self::ArpSaddrEther => (Network, 8, 6),
            Self::ArpSaddrIp => (Network, 14, 4),
            Self::ArpDaddrEther => (Network, 18, 6),
            Self::ArpDaddrIp => (Network, 24, 4),
            Self::IpProtocol => (Network, 9, 1),
            Self::IpSaddr => (Network, 12, 4),
            Self::IpDaddr => (Network, 16, 4),
            Self::Ip6Nexthdr => (Network, 6, 1),
            Self::Ip6Saddr => (Network, 8, 16),
            Self::Ip6Daddr => (Network, 24, 16),
            Self::TcpSport | Self::UdpSport | Self::ThSport => (Transport, 0, 2),
            Self::TcpDport | Self::UdpDport | Self::ThDport => (Transport, 2, 2),
            Self::TcpFlags => (Transport, 13, 1),
            Self::IcmpType | Self::Icmpv6Type => (Transport, 0, 1),
            Self::NdTarget => (Transport, 8, 16),
            _ => return None,
        })
    }
}
