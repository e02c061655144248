//! Pools of addresses for Services of type LoadBalancer: what they say, and nothing of who gets which address.
//!
//! Invariants: a range's ends are of one family and in order; a pool that says nothing wrong has at least one range, and no two of its
//! ranges share an address.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use ripstop_types::{Family, Invalid, Prefix};
use serde::{Deserialize, Serialize};

use crate::bgp::Community;
use crate::policy::Selector;
use crate::{KubeNamespace, ObjectLabels};

/// The priority of a pool that says none.
pub const DEFAULT_PRIORITY: u16 = 1_000;

/// What a range reads like, for messages.
pub(crate) const RANGE: &str = "192.0.2.0/24, 192.0.2.10-192.0.2.20 or 192.0.2.10, or the same of IPv6";

/// A pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddressPool {
    /// Its name.
    pub name: Arc<str>,
    /// What tells it from another of the same name, earlier or later.
    #[serde(default)]
    pub uid: Arc<str>,
    /// `spec.addresses`, in order.
    pub addresses: Vec<AddressRange>,
    /// `spec.leaveOut`: which of them nobody gets.
    #[serde(default)]
    pub leave_out: LeaveOut,
    /// `spec.autoAssign`: Services get addresses of it that name neither a pool nor an address.
    #[serde(default = "yes")]
    pub auto_assign: bool,
    /// `spec.priority`: of pools that a Service may have an address of, the one of the least number is asked first.
    pub priority: u16,
    /// `spec.namespaces` and `spec.namespaceSelectors`: Services in one of these namespaces get addresses; of two empty ones, in any.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub namespaces: BTreeSet<Arc<str>>,
    /// See [`Self::namespaces`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespace_selectors: Vec<Selector>,
    /// `spec.serviceSelectors`: Services that one of these takes; none: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub service_selectors: Vec<Selector>,
    /// `spec.ipMode` is `Proxy`: somebody else takes packets and sends them on to nodes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_proxied: bool,
    /// `spec.announce`: how the outside learns where its addresses are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub announce: Vec<Announcement>,
    /// It is of MetalLB's objects, and no object of its own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub of_metallb: bool,
    /// What is wrong with it, in sentences. It gives no address then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<Arc<str>>,
}

fn yes() -> bool {
    true
}

impl AddressPool {
    /// Whether an address is in it and may be given.
    #[must_use]
    pub fn gives(&self, ip: IpAddr) -> bool {
        self.addresses.iter().any(|range| range.contains(ip) && !self.leave_out.leaves_out(range, ip))
    }

    /// Whether Services with these labels, in this namespace, may have an address of it.
    #[must_use]
    pub fn serves(&self, service: &ObjectLabels, namespace: &str, of_namespace: Option<&KubeNamespace>) -> bool {
        let anywhere = self.namespaces.is_empty() && self.namespace_selectors.is_empty();
        let selected = |selector: &Selector| of_namespace.is_some_and(|namespace| selector.takes(&namespace.labels));
        let here = anywhere || self.namespaces.contains(namespace) || self.namespace_selectors.iter().any(selected);
        here && (self.service_selectors.is_empty() || self.service_selectors.iter().any(|all| all.takes(service)))
    }

    /// How many addresses it has to give.
    #[must_use]
    pub fn size(&self) -> u128 {
        let given = |range: &AddressRange| range.size().saturating_sub(self.leave_out.count_in(range));
        self.addresses.iter().map(given).fold(0, u128::saturating_add)
    }
}

/// Addresses of a range that nobody gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LeaveOut {
    /// None.
    #[default]
    Nothing,
    /// The first and the last one of each range.
    FirstAndLast,
    /// Those of IPv4 that end in 0 and 255, which some routers take for a subnet's own.
    ZeroAnd255,
}

impl LeaveOut {
    fn leaves_out(self, range: &AddressRange, ip: IpAddr) -> bool {
        match self {
            Self::Nothing => false,
            Self::FirstAndLast => ip == range.first || ip == range.last,
            Self::ZeroAnd255 => matches!(ip, IpAddr::V4(ip) if matches!(ip.octets()[3], 0 | 255)),
        }
    }

    fn count_in(self, range: &AddressRange) -> u128 {
        match (self, range.first, range.last) {
            (Self::Nothing, ..) => 0,
            (Self::FirstAndLast, first, last) => {
                if first == last {
                    1
                } else {
                    2
                }
            }
            (Self::ZeroAnd255, IpAddr::V4(first), IpAddr::V4(last)) => {
                let up_to = |end: u64| end.div_ceil(256) + end / 256;
                u128::from(up_to(u64::from(last.to_bits()) + 1) - up_to(u64::from(first.to_bits())))
            }
            (Self::ZeroAnd255, ..) => 0,
        }
    }
}

/// One way by which the outside learns where addresses are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Announcement {
    /// Which.
    pub by: AnnouncedBy,
    /// `nodeSelectors`: by nodes that one of these takes; none: by all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<Selector>,
    /// `interfaces`: on these alone; none: on all that are on the segment of the address.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub interfaces: BTreeSet<Arc<str>>,
    /// `aggregationLength` and `aggregationLengthV6`: prefixes of this length are told, and not single addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length_v4: Option<u8>,
    /// See [`Self::length_v4`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length_v6: Option<u8>,
    /// `communities`: they are told with these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub communities: Vec<Community>,
    /// `peers`: to the `BgpPeer`s of these names; none: to all.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub peers: BTreeSet<Arc<str>>,
}

impl Announcement {
    /// The prefix that is told of an address.
    #[must_use]
    pub fn prefix(&self, ip: IpAddr) -> Prefix {
        let length = if ip.is_ipv4() { self.length_v4 } else { self.length_v6 };
        length.and_then(|length| Prefix::containing(ip, length)).unwrap_or_else(|| Prefix::host(ip))
    }
}

/// A way of announcing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AnnouncedBy {
    /// One node of the segment answers for the address, by ARP and neighbour discovery.
    L2,
    /// Every node that can serve it tells routers so.
    Bgp,
}

/// Addresses from the first to the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressRange {
    /// The first,
    first: IpAddr,
    /// and the last, of the same family and not before it.
    last: IpAddr,
}

impl AddressRange {
    /// From one to another; none where these are no ends of a range.
    #[must_use]
    pub fn new(first: IpAddr, last: IpAddr) -> Option<Self> {
        (Family::of(first) == Family::of(last) && first <= last).then_some(Self { first, last })
    }

    /// The first.
    #[must_use]
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// The last.
    #[must_use]
    pub fn last(&self) -> IpAddr {
        self.last
    }

    /// The family of all of them.
    #[must_use]
    pub fn family(&self) -> Family {
        Family::of(self.first)
    }

    /// Whether an address is one of them.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        Family::of(ip) == self.family() && self.first <= ip && ip <= self.last
    }

    /// Whether another one has one of them.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.family() == other.family() && self.first <= other.last && other.first <= self.last
    }

    /// How many there are; all of IPv6 is one less than it is.
    #[must_use]
    pub fn size(&self) -> u128 {
        (bits(self.last) - bits(self.first)).saturating_add(1)
    }
}

impl From<Prefix> for AddressRange {
    fn from(prefix: Prefix) -> Self {
        Self { first: prefix.addr(), last: prefix.last() }
    }
}

/// `192.0.2.10-192.0.2.20`, and a prefix as one.
impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let len = (0..=self.family().bits()).find_map(|len| {
            let prefix = Prefix::containing(self.first, len)?;
            (prefix.addr() == self.first && prefix.last() == self.last).then_some(prefix)
        });
        match len {
            Some(prefix) => prefix.fmt(f),
            None => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

impl FromStr for AddressRange {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = || Invalid::new("a range of addresses", text, RANGE);
        if let Some((first, last)) = text.split_once('-') {
            let end = |end: &str| end.trim().parse::<IpAddr>().ok();
            return end(first).zip(end(last)).and_then(|(first, last)| Self::new(first, last)).ok_or_else(invalid);
        }
        match text.parse::<IpAddr>() {
            Ok(ip) => Ok(Self { first: ip, last: ip }),
            Err(_) => text.parse::<Prefix>().map(Self::from).map_err(|_| invalid()),
        }
    }
}

impl Serialize for AddressRange {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for AddressRange {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The first range of a sorted list that shares an address with the one before it, with that one.
pub(crate) fn first_overlap(sorted: &[AddressRange]) -> Option<(AddressRange, AddressRange)> {
    sorted.windows(2).find(|pair| pair[0].overlaps(&pair[1])).map(|pair| (pair[1], pair[0]))
}

/// In the order in which pools are asked.
impl AddressPool {
    /// Which of two pools is asked first.
    #[must_use]
    pub fn order(&self, other: &Self) -> Ordering {
        (self.priority, &self.name).cmp(&(other.priority, &other.name))
    }
}

fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => ip.to_bits().into(),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> AddressRange {
        text.parse().unwrap()
    }

    #[test]
    fn ranges_read_as_they_print() {
        for (text, shown, size) in [
            ("192.0.2.0/24", "192.0.2.0/24", 256),
            ("192.0.2.10-192.0.2.20", "192.0.2.10-192.0.2.20", 11),
            ("192.0.2.0 - 192.0.2.255", "192.0.2.0/24", 256),
            ("192.0.2.7", "192.0.2.7/32", 1),
            ("2001:db8::/120", "2001:db8::/120", 256),
            ("2001:db8::1-2001:db8::3", "2001:db8::1-2001:db8::3", 3),
        ] {
            assert_eq!((range(text).to_string().as_str(), range(text).size()), (shown, size));
            assert_eq!(range(shown), range(text));
        }
        for bad in ["", "-", "192.0.2.20-192.0.2.10", "192.0.2.1-2001:db8::1", "192.0.2.1/24", "192.0.2.0/33", "a-b"] {
            assert!(bad.parse::<AddressRange>().unwrap_err().to_string().contains("a range of addresses"), "{bad}");
        }
        assert_eq!(range("::/0").size(), u128::MAX);
    }

    #[test]
    fn what_is_left_out_is_counted_as_it_is_given() {
        for text in ["192.0.2.0/24", "192.0.2.1-192.0.4.254", "192.0.2.255-192.0.3.0", "192.0.2.7", "192.0.2.0/23"] {
            for leave_out in [LeaveOut::Nothing, LeaveOut::FirstAndLast, LeaveOut::ZeroAnd255] {
                let range = range(text);
                let all = bits(range.first)..=bits(range.last);
                let ip = |bits: u128| IpAddr::V4(u32::try_from(bits).unwrap().into());
                let left_out = all.filter(|bits| leave_out.leaves_out(&range, ip(*bits))).count();
                assert_eq!(leave_out.count_in(&range), left_out as u128, "{text} {leave_out:?}");
            }
        }
    }
}
