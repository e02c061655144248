//! Path attributes: what a route says of itself, apart from its prefix, and how that is written.
//!
//! Invariants: communities are sorted and each is there once; nothing is here that was discarded.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{AS_TRANS, AsPath};

/// Types of attributes.
pub(super) mod kind {
    pub const ORIGIN: u8 = 1;
    pub const AS_PATH: u8 = 2;
    pub const NEXT_HOP: u8 = 3;
    pub const MED: u8 = 4;
    pub const LOCAL_PREF: u8 = 5;
    pub const ATOMIC_AGGREGATE: u8 = 6;
    pub const AGGREGATOR: u8 = 7;
    pub const COMMUNITIES: u8 = 8;
    pub const ORIGINATOR_ID: u8 = 9;
    pub const CLUSTER_LIST: u8 = 10;
    pub const MP_REACH: u8 = 14;
    pub const MP_UNREACH: u8 = 15;
    pub const EXTENDED_COMMUNITIES: u8 = 16;
    pub const AS4_PATH: u8 = 17;
    pub const AS4_AGGREGATOR: u8 = 18;
    pub const PMSI_TUNNEL: u8 = 22;
    pub const TUNNEL_ENCAPSULATION: u8 = 23;
    pub const IPV6_EXTENDED_COMMUNITIES: u8 = 25;
    pub const AIGP: u8 = 26;
    pub const LINK_STATE: u8 = 29;
    pub const LARGE_COMMUNITIES: u8 = 32;
    pub const ONLY_TO_CUSTOMER: u8 = 35;
    pub const NEXT_HOP_CAPABILITIES: u8 = 39;
    pub const PREFIX_SID: u8 = 40;
}

/// Bits of an attribute's flags.
pub(super) mod flag {
    pub const OPTIONAL: u8 = 0x80;
    pub const TRANSITIVE: u8 = 0x40;
    pub const PARTIAL: u8 = 0x20;
    pub const EXTENDED_LENGTH: u8 = 0x10;
}

/// The standard's name of an attribute; "unknown" for others.
pub(super) fn name(kind: u8) -> &'static str {
    match kind {
        kind::ORIGIN => "ORIGIN",
        kind::AS_PATH => "AS_PATH",
        kind::NEXT_HOP => "NEXT_HOP",
        kind::MED => "MULTI_EXIT_DISC",
        kind::LOCAL_PREF => "LOCAL_PREF",
        kind::ATOMIC_AGGREGATE => "ATOMIC_AGGREGATE",
        kind::AGGREGATOR => "AGGREGATOR",
        kind::COMMUNITIES => "COMMUNITIES",
        kind::ORIGINATOR_ID => "ORIGINATOR_ID",
        kind::CLUSTER_LIST => "CLUSTER_LIST",
        kind::MP_REACH => "MP_REACH_NLRI",
        kind::MP_UNREACH => "MP_UNREACH_NLRI",
        kind::EXTENDED_COMMUNITIES => "EXTENDED COMMUNITIES",
        kind::AS4_PATH => "AS4_PATH",
        kind::AS4_AGGREGATOR => "AS4_AGGREGATOR",
        kind::PMSI_TUNNEL => "PMSI_TUNNEL",
        kind::TUNNEL_ENCAPSULATION => "TUNNEL_ENCAPSULATION",
        kind::IPV6_EXTENDED_COMMUNITIES => "IPv6 EXTENDED COMMUNITIES",
        kind::AIGP => "AIGP",
        kind::LINK_STATE => "BGP-LS",
        kind::LARGE_COMMUNITIES => "LARGE_COMMUNITY",
        kind::ONLY_TO_CUSTOMER => "ONLY_TO_CUSTOMER",
        kind::NEXT_HOP_CAPABILITIES => "NEXT_HOP_DEPENDENT_CHARACTERISTICS",
        kind::PREFIX_SID => "PREFIX_SID",
        _ => "unknown",
    }
}

/// Communities with a meaning of their own.
pub mod community {
    /// Not to be told to external peers (RFC 1997).
    pub const NO_EXPORT: u32 = 0xffff_ff01;
    /// Not to be told to anybody (RFC 1997).
    pub const NO_ADVERTISE: u32 = 0xffff_ff02;
    /// Not to be told outside of a confederation's member, which for who is in none is [`NO_EXPORT`] (RFC 1997).
    pub const NO_EXPORT_SUBCONFED: u32 = 0xffff_ff03;
    /// The way is about to be shut down: use any other (RFC 8326).
    pub const GRACEFUL_SHUTDOWN: u32 = 0xffff_0000;
}

/// How a route came into BGP, from the most preferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Origin {
    /// Of an interior protocol or the configuration.
    #[default]
    Igp,
    /// Of the protocol EGP.
    Egp,
    /// By other means.
    Incomplete,
}

/// Where packets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NextHop {
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// An IPv6 address, and the link-local one beside it if there is (RFC 2545).
    V6(Ipv6Addr, Option<Ipv6Addr>),
}

impl NextHop {
    /// The address, the global one of two.
    #[must_use]
    pub fn address(self) -> IpAddr {
        match self {
            Self::V4(address) => address.into(),
            Self::V6(address, _) => address.into(),
        }
    }

    /// Whether it is, or has beside it, this address.
    pub(crate) fn has(self, address: Ipv6Addr) -> bool {
        matches!(self, Self::V6(one, other) if one == address || other == Some(address))
    }
}

impl From<IpAddr> for NextHop {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => Self::V6(address, None),
        }
    }
}

/// Who aggregated a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Aggregator {
    /// Its AS, never 0.
    pub asn: u32,
    /// Its router id.
    pub router_id: Ipv4Addr,
}

/// A large community (RFC 8092).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LargeCommunity(pub u32, pub u32, pub u32);

impl fmt::Display for LargeCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.0, self.1, self.2)
    }
}

/// A transitive attribute that is passed on as it came.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Unknown {
    /// Its type.
    pub kind: u8,
    /// Whether somebody on the way did not know it; always so once it is passed on from here.
    pub partial: bool,
    /// Its value.
    pub value: Box<[u8]>,
}

/// All attributes of a route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attributes {
    /// ORIGIN.
    pub origin: Origin,
    /// AS_PATH, made whole where it came in two-byte numbers.
    pub as_path: AsPath,
    /// NEXT_HOP, or that of MP_REACH_NLRI.
    pub next_hop: NextHop,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// LOCAL_PREF.
    pub local_pref: Option<u32>,
    /// ATOMIC_AGGREGATE.
    pub atomic_aggregate: bool,
    /// AGGREGATOR.
    pub aggregator: Option<Aggregator>,
    /// Communities (RFC 1997).
    pub communities: Box<[u32]>,
    /// Extended communities (RFC 4360), as numbers of eight bytes.
    pub extended_communities: Box<[u64]>,
    /// Large communities.
    pub large_communities: Box<[LargeCommunity]>,
    /// Whose route a reflector passed on (RFC 4456).
    pub originator_id: Option<Ipv4Addr>,
    /// The clusters it came through, nearest first.
    pub cluster_list: Box<[Ipv4Addr]>,
    /// Attributes not known here, by type.
    pub unknown: Box<[Unknown]>,
}

impl Attributes {
    /// Of a route that begins here.
    #[must_use]
    pub fn new(next_hop: NextHop) -> Self {
        Self {
            origin: Origin::Igp,
            as_path: AsPath::default(),
            next_hop,
            med: None,
            local_pref: None,
            atomic_aggregate: false,
            aggregator: None,
            communities: Box::default(),
            extended_communities: Box::default(),
            large_communities: Box::default(),
            originator_id: None,
            cluster_list: Box::default(),
            unknown: Box::default(),
        }
    }

    /// Whether the route has a community.
    #[must_use]
    pub fn has(&self, community: u32) -> bool {
        self.communities.binary_search(&community).is_ok()
    }

    /// Appends all but the next hop in the order of their types, and that too where `next_hop` says so.
    pub(super) fn encode(&self, out: &mut Vec<u8>, four_byte_as: bool, next_hop: bool) {
        use flag::{OPTIONAL, TRANSITIVE};
        let both = OPTIONAL | TRANSITIVE;
        attribute(out, TRANSITIVE, kind::ORIGIN, |out| out.push(self.origin as u8));
        attribute(out, TRANSITIVE, kind::AS_PATH, |out| self.as_path.encode(out, four_byte_as));
        if let (true, NextHop::V4(address)) = (next_hop, self.next_hop) {
            attribute(out, TRANSITIVE, kind::NEXT_HOP, |out| out.extend_from_slice(&address.octets()));
        }
        if let Some(med) = self.med {
            attribute(out, OPTIONAL, kind::MED, |out| out.extend_from_slice(&med.to_be_bytes()));
        }
        if let Some(preference) = self.local_pref {
            attribute(out, TRANSITIVE, kind::LOCAL_PREF, |out| out.extend_from_slice(&preference.to_be_bytes()));
        }
        if self.atomic_aggregate {
            attribute(out, TRANSITIVE, kind::ATOMIC_AGGREGATE, |_| ());
        }
        if let Some(aggregator) = self.aggregator {
            attribute(out, both, kind::AGGREGATOR, |out| aggregator.encode(out, four_byte_as));
        }
        list(out, both, kind::COMMUNITIES, &self.communities, |one| one.to_be_bytes());
        if let Some(id) = self.originator_id {
            attribute(out, OPTIONAL, kind::ORIGINATOR_ID, |out| out.extend_from_slice(&id.octets()));
        }
        list(out, OPTIONAL, kind::CLUSTER_LIST, &self.cluster_list, |one| one.octets());
        list(out, both, kind::EXTENDED_COMMUNITIES, &self.extended_communities, |one| one.to_be_bytes());
        self.encode_four_bytes(out, four_byte_as);
        list(out, both, kind::LARGE_COMMUNITIES, &self.large_communities, |one| {
            let mut bytes = [0; 12];
            for (at, part) in [one.0, one.1, one.2].into_iter().enumerate() {
                bytes[at * 4..at * 4 + 4].copy_from_slice(&part.to_be_bytes());
            }
            bytes
        });
        for one in &self.unknown {
            attribute(out, both | flag::PARTIAL, one.kind, |out| out.extend_from_slice(&one.value));
        }
    }

    /// What a speaker with two-byte numbers passes on without understanding it (RFC 6793 section 4.2.2).
    fn encode_four_bytes(&self, out: &mut Vec<u8>, four_byte_as: bool) {
        let both = flag::OPTIONAL | flag::TRANSITIVE;
        if !four_byte_as && self.as_path.needs_four_bytes() {
            attribute(out, both, kind::AS4_PATH, |out| self.as_path.encode(out, true));
        }
        if let Some(aggregator) = self.aggregator.filter(|one| !four_byte_as && u16::try_from(one.asn).is_err()) {
            attribute(out, both, kind::AS4_AGGREGATOR, |out| aggregator.encode(out, true));
        }
    }
}

impl Aggregator {
    fn encode(self, out: &mut Vec<u8>, four_byte_as: bool) {
        if four_byte_as {
            out.extend_from_slice(&self.asn.to_be_bytes());
        } else {
            out.extend_from_slice(&u16::try_from(self.asn).unwrap_or(AS_TRANS).to_be_bytes());
        }
        out.extend_from_slice(&self.router_id.octets());
    }
}

/// Appends an attribute whose value is a list; none where the list is empty.
fn list<T: Copy, const N: usize>(out: &mut Vec<u8>, flags: u8, kind: u8, all: &[T], bytes: impl Fn(T) -> [u8; N]) {
    if !all.is_empty() {
        attribute(out, flags, kind, |out| all.iter().for_each(|one| out.extend_from_slice(&bytes(*one))));
    }
}

/// Appends an attribute, with a length of two bytes where it must. A longer value than that is kept out by who gives it:
/// nothing that came in a message is longer than a message.
pub(super) fn attribute(out: &mut Vec<u8>, flags: u8, kind: u8, value: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[flags, kind, 0]);
    value(out);
    let length = out.len() - start - 3;
    if let Ok(length) = u8::try_from(length) {
        out[start + 2] = length;
    } else {
        let [high, low] = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
        out[start] |= flag::EXTENDED_LENGTH;
        out[start + 2] = high;
        out.insert(start + 3, low);
    }
}
