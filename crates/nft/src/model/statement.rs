//! Statements: matches and actions of a rule, evaluated from left to right until a match fails or a verdict falls.

use std::net::IpAddr;

use ripstop_types::{Family, IfName};
use serde::{Deserialize, Serialize};

use super::{Comment, Data, KeyPart, Name, Selector, Verdict};

/// One statement of a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Statement {
    /// The rule goes on only if this holds.
    Match(Match),
    /// A fixed verdict.
    Verdict(Verdict),
    /// The verdict a map gives for the key; without an entry the rule goes on.
    Vmap {
        /// The fields of the key.
        key: Vec<Selector>,
        /// The verdict map.
        map: MapRef,
    },
    /// Counts packets and bytes.
    Counter,
    /// Source address of the outgoing interface.
    Masquerade(NatFlags),
    /// Local address of the incoming interface, or loopback; optionally another port.
    Redirect(Option<u16>),
    /// Another source or destination.
    Nat(Nat),
    /// Refuses and says so.
    Reject(RejectWith),
    /// Sets the packet's mark.
    MetaMark(MarkSource),
    /// Sets the connection's mark.
    CtMark(MarkSource),
    /// Keeps the packet out of connection tracking; only before priority −200.
    Notrack,
    /// Writes a line to the kernel log or a netlink group.
    Log(Log),
    /// The rule goes on only while the rate is below (or, with `over`, above).
    Limit(Limit),
    /// Adds an element to a dynamic set.
    SetUpdate(SetUpdate),
    /// Hands the packet to a device that gives it back behind the ingress hook (ifb); only in family netdev.
    Fwd(Device),
}

/// A device as a rule refers to it: nft prints the name, the kernel keeps the index, which must be the name's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Device {
    /// Its name.
    pub name: IfName,
    /// Its index.
    pub index: u32,
}

/// Compares fields of a packet with something.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Match {
    /// One field, or a concatenation that is looked up in a set.
    pub fields: Vec<Selector>,
    /// Bits of the (single) mark or flags field that count; the others are taken as zero.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<u32>,
    /// Whether it has to be so or not so.
    pub relation: Relation,
    /// What with.
    pub operand: Operand,
}

/// Whether a comparison has to hold or to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Relation {
    /// It holds.
    Is,
    /// It does not.
    IsNot,
}

/// The right side of a [`Match`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operand {
    /// A value, prefix or range.
    Part(KeyPart),
    /// Any of these bits is set, as in `ct state established,related`.
    AnyBit(u32),
    /// An element of a set.
    Set(SetRef),
}

/// A set a rule looks into.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SetRef {
    /// Declared in the table.
    Named(Name),
    /// Written into the rule, each element a list of key parts. Sorted and without duplicates.
    Inline(Vec<Vec<KeyPart>>),
}

/// A map a rule looks into.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MapRef {
    /// Declared in the table.
    Named(Name),
    /// Written into the rule. Sorted by key and without duplicates.
    Inline(Vec<(Vec<KeyPart>, Data)>),
}

/// Flags of address translation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct NatFlags {
    /// Ports by hash of the source.
    #[serde(default)]
    pub random: bool,
    /// Ports by pseudo-random number.
    #[serde(default)]
    pub fully_random: bool,
    /// The same address for all connections of a source.
    #[serde(default)]
    pub persistent: bool,
}

impl NatFlags {
    /// `fully-random`: what two hosts behind one address need to avoid port races.
    pub const FULLY_RANDOM: Self = Self { random: false, fully_random: true, persistent: false };
}

/// Source or destination translation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Nat {
    /// Which end.
    pub kind: NatKind,
    /// Of which packets.
    pub family: Family,
    /// To what.
    pub to: NatTo,
    /// How ports are chosen.
    #[serde(default)]
    pub flags: NatFlags,
}

/// Which end of a packet is translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NatKind {
    /// The source; in postrouting and input.
    Snat,
    /// The destination; in prerouting and output.
    Dnat,
}

/// What an end of a packet becomes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NatTo {
    /// A fixed address, and port if given.
    Address(IpAddr, Option<u16>),
    /// What a map gives: an address, or an address and a port. Without an entry the rule goes on.
    Map {
        /// The fields of the key.
        key: Vec<Selector>,
        /// The map; its data is `address` or `address . inet_service`.
        map: MapRef,
        /// Whether the data has a port.
        port: bool,
    },
}

/// `numgen random|inc mod N offset O`
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NumGen {
    /// Random rather than counting up.
    pub random: bool,
    /// Count of different numbers; at least 1.
    pub modulus: u32,
    /// The least.
    #[serde(default)]
    pub offset: u32,
}

/// What a mark is set to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MarkSource {
    /// This.
    Value(u32),
    /// The mark it has, with only the bits of `keep` left, then those of `set` added.
    Change {
        /// Bits that stay as they are.
        keep: u32,
        /// Bits that are set.
        set: u32,
    },
    /// The packet's mark, `and`ed with the mask.
    Meta(u32),
    /// The connection's mark, `and`ed with the mask.
    Ct(u32),
    /// A generated number.
    Number(NumGen),
    /// What a map gives for the key; without an entry the rule goes on.
    Map {
        /// The fields of the key.
        key: Vec<Selector>,
        /// The map; its data is a mark.
        map: MapRef,
    },
}

/// How a packet is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RejectWith {
    /// ICMP or ICMPv6 port unreachable, by the packet's family.
    PortUnreachable,
    /// ICMP or ICMPv6 administratively prohibited.
    AdminProhibited,
    /// ICMP or ICMPv6 host (address) unreachable.
    HostUnreachable,
    /// ICMP net unreachable or ICMPv6 no route.
    NoRoute,
    /// A TCP reset; TCP packets only.
    TcpReset,
}

/// `log`
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Log {
    /// Begins the line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<Comment>,
    /// To this netlink group instead of the kernel log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<u16>,
}

/// `limit rate [over] N/unit burst B packets`
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Limit {
    /// Packets a unit; at least 1.
    pub rate: u64,
    /// The unit of time.
    pub unit: TimeUnit,
    /// Packets above the rate that are let through at once.
    pub burst: u32,
    /// Holds for what is above the rate instead.
    #[serde(default)]
    pub over: bool,
}

/// A unit of time of a rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum TimeUnit {
    Second,
    Minute,
    Hour,
    Day,
}

impl TimeUnit {
    /// How many seconds it has.
    pub fn seconds(self) -> u64 {
        match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3_600,
            Self::Day => 86_400,
        }
    }
}

/// `add|update @set { key [timeout T] [counter] [: data] }`
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SetUpdate {
    /// A dynamic set or map.
    pub set: Name,
    /// The fields of the key.
    pub key: Vec<Selector>,
    /// The value, if it is a map: fields of the packet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub data: Vec<Selector>,
    /// Seconds until the element expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u32>,
    /// Restarts the timeout of an element that is there (`update`), or leaves it (`add`).
    pub refresh: bool,
    /// Counts packets at the element.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub counter: bool,
}

impl SetUpdate {
    /// A set's element, refreshed if it is there.
    pub(super) fn of(set: impl Into<Name>, key: Vec<Selector>) -> Self {
        Self { set: set.into(), key, data: Vec::new(), timeout: None, refresh: true, counter: false }
    }
}

impl From<Verdict> for Statement {
    fn from(verdict: Verdict) -> Self {
        Self::Verdict(verdict)
    }
}

impl From<Match> for Statement {
    fn from(found: Match) -> Self {
        Self::Match(found)
    }
}
