//! Values that are compared, looked up or mapped to, and their types.

use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ripstop_types::{Family, IfName, Mac};
use serde::{Deserialize, Serialize};

use super::{IfPattern, Name};

/// The type of a value, as nft names it. Any of them can be a field of a set's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)] // The names are nft's own.
pub enum Type {
    Ipv4Addr,
    Ipv6Addr,
    EtherAddr,
    /// A TCP, UDP or SCTP port.
    InetService,
    IfName,
    InetProto,
    Mark,
    EtherType,
    ArpOp,
    IcmpType,
    Icmpv6Type,
    NfProto,
    PktType,
    /// The kind of an address by the routing tables: `fib … type`.
    FibAddrType,
    IfIndex,
    CtState,
    CtStatus,
    CtDirection,
    TcpFlags,
}

impl Type {
    /// That of a family's addresses.
    pub fn address(family: Family) -> Self {
        match family {
            Family::V4 => Self::Ipv4Addr,
            Family::V6 => Self::Ipv6Addr,
        }
    }

    /// Bytes of a value outside a concatenation.
    pub fn len(self) -> usize {
        match self {
            Self::InetProto
            | Self::IcmpType
            | Self::Icmpv6Type
            | Self::NfProto
            | Self::PktType
            | Self::CtDirection
            | Self::TcpFlags => 1,
            Self::InetService | Self::EtherType | Self::ArpOp => 2,
            Self::Ipv4Addr | Self::Mark | Self::FibAddrType | Self::IfIndex | Self::CtState | Self::CtStatus => 4,
            Self::EtherAddr => 6,
            Self::Ipv6Addr | Self::IfName => 16,
        }
    }

    /// Never: every type has at least one byte.
    pub fn is_empty(self) -> bool {
        false
    }

    /// Whether values are in network byte order and therefore ordered as the kernel compares them, so that ranges
    /// of them can be looked up.
    pub fn has_ranges(self) -> bool {
        match self {
            Self::Ipv4Addr
            | Self::Ipv6Addr
            | Self::EtherAddr
            | Self::InetService
            | Self::InetProto
            | Self::EtherType
            | Self::ArpOp
            | Self::IcmpType
            | Self::Icmpv6Type => true,
            Self::IfName
            | Self::Mark
            | Self::NfProto
            | Self::PktType
            | Self::FibAddrType
            | Self::IfIndex
            | Self::CtState
            | Self::CtStatus
            | Self::CtDirection
            | Self::TcpFlags => false,
        }
    }

    /// Whether values are sets of bits of which any can be asked for.
    pub fn is_bits(self) -> bool {
        matches!(self, Self::CtState | Self::CtStatus | Self::Mark | Self::TcpFlags)
    }
}

/// One value of a [`Type`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)] // Named as the types.
pub enum Value {
    Ipv4(Ipv4Addr),
    Ipv6(Ipv6Addr),
    Ether(Mac),
    Service(u16),
    IfName(IfPattern),
    Proto(u8),
    Mark(u32),
    EtherType(u16),
    ArpOp(u16),
    IcmpType(u8),
    Icmpv6Type(u8),
    NfProto(u8),
    PktType(u8),
    FibAddrType(u32),
    IfIndex(u32),
    CtState(u32),
    CtStatus(u32),
    CtDirection(u8),
    TcpFlags(u8),
}

impl Value {
    /// The type.
    pub fn type_of(&self) -> Type {
        match self {
            Self::Ipv4(_) => Type::Ipv4Addr,
            Self::Ipv6(_) => Type::Ipv6Addr,
            Self::Ether(_) => Type::EtherAddr,
            Self::Service(_) => Type::InetService,
            Self::IfName(_) => Type::IfName,
            Self::Proto(_) => Type::InetProto,
            Self::Mark(_) => Type::Mark,
            Self::EtherType(_) => Type::EtherType,
            Self::ArpOp(_) => Type::ArpOp,
            Self::IcmpType(_) => Type::IcmpType,
            Self::Icmpv6Type(_) => Type::Icmpv6Type,
            Self::NfProto(_) => Type::NfProto,
            Self::PktType(_) => Type::PktType,
            Self::FibAddrType(_) => Type::FibAddrType,
            Self::IfIndex(_) => Type::IfIndex,
            Self::CtState(_) => Type::CtState,
            Self::CtStatus(_) => Type::CtStatus,
            Self::CtDirection(_) => Type::CtDirection,
            Self::TcpFlags(_) => Type::TcpFlags,
        }
    }
}

impl Hash for Value {
    /// In one word as a rule, and without its kind: values at one place of keys are of one, and keys are hashed by the hundred thousand.
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Self::Ipv4(ip) => state.write_u32(ip.to_bits()),
            Self::Ipv6(ip) => state.write_u128(ip.to_bits()),
            Self::Ether(mac) => mac.hash(state),
            Self::IfName(pattern) => pattern.hash(state),
            Self::Service(n) | Self::EtherType(n) | Self::ArpOp(n) => state.write_u32((*n).into()),
            Self::Proto(n)
            | Self::IcmpType(n)
            | Self::Icmpv6Type(n)
            | Self::NfProto(n)
            | Self::PktType(n)
            | Self::CtDirection(n)
            | Self::TcpFlags(n) => state.write_u32((*n).into()),
            Self::Mark(n) | Self::FibAddrType(n) | Self::IfIndex(n) | Self::CtState(n) | Self::CtStatus(n) => {
                state.write_u32(*n);
            }
        }
    }
}

impl From<Ipv4Addr> for Value {
    fn from(ip: Ipv4Addr) -> Self {
        Self::Ipv4(ip)
    }
}

impl From<Ipv6Addr> for Value {
    fn from(ip: Ipv6Addr) -> Self {
        Self::Ipv6(ip)
    }
}

impl From<IpAddr> for Value {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => Self::Ipv4(ip),
            IpAddr::V6(ip) => Self::Ipv6(ip),
        }
    }
}

impl From<Mac> for Value {
    fn from(mac: Mac) -> Self {
        Self::Ether(mac)
    }
}

impl From<&IfName> for Value {
    fn from(name: &IfName) -> Self {
        Self::IfName(name.into())
    }
}

impl From<IfPattern> for Value {
    fn from(pattern: IfPattern) -> Self {
        Self::IfName(pattern)
    }
}

/// Where a packet goes next.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// This base chain lets it pass; chains of later priority still see it.
    Accept,
    /// It is gone.
    Drop,
    /// Back to behind the jump that led here; in a base chain, its policy.
    Return,
    /// On to the next rule.
    Continue,
    /// Into the chain, and back behind this rule if the chain decides nothing.
    Jump(Name),
    /// Into the chain, never back to this one.
    Goto(Name),
}

/// What a map gives for a key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Data {
    /// Of a verdict map.
    Verdict(Verdict),
    /// Of any other map: one value, or the fields of a concatenation.
    Values(Vec<Value>),
}

impl From<Verdict> for Data {
    fn from(verdict: Verdict) -> Self {
        Self::Verdict(verdict)
    }
}

impl<V: Into<Value>> From<V> for Data {
    fn from(value: V) -> Self {
        Self::Values(vec![value.into()])
    }
}
