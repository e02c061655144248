//! Address families and prefixes.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::Invalid;

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    #[serde(rename = "4")]
    V4,
    /// IPv6.
    #[serde(rename = "6")]
    V6,
}

impl Family {
    /// Both, in the order in which they are shown.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// As on command lines and in rows: `4` or `6`.
    pub fn digit(self) -> &'static str {
        match self {
            Self::V4 => "4",
            Self::V6 => "6",
        }
    }

    /// Bits of an address: 32 or 128.
    pub fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// An address range in CIDR form without host bits: `10.244.1.0/24`, never `10.244.1.7/24`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix(IpNet);

impl Prefix {
    /// The prefix of `len` bits that contains `ip`; `None` if the family has fewer bits.
    pub fn containing(ip: IpAddr, len: u8) -> Option<Self> {
        IpNet::new(ip, len).ok().map(|net| Self(net.trunc()))
    }

    /// The prefix that holds this address alone.
    pub fn host(ip: IpAddr) -> Self {
        Self(IpNet::from(ip))
    }

    /// Everything: `0.0.0.0/0` or `::/0`.
    pub fn default_route(family: Family) -> Self {
        match family {
            Family::V4 => Self(IpNet::new_assert(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0)),
            Family::V6 => Self(IpNet::new_assert(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0)),
        }
    }

    /// The address family.
    pub fn family(&self) -> Family {
        Family::of(self.addr())
    }

    /// The first address, which is also the network's own.
    pub fn addr(&self) -> IpAddr {
        self.0.network()
    }

    /// The last address.
    pub fn last(&self) -> IpAddr {
        self.0.broadcast()
    }

    /// Bits that are fixed. (A prefix is never "empty", whatever its length.)
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u8 {
        self.0.prefix_len()
    }

    /// Whether the address lies inside.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.contains(&ip)
    }

    /// Whether all of `other` lies inside.
    pub fn covers(&self, other: &Self) -> bool {
        self.0.contains(&other.0)
    }

    /// Whether any address lies in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.covers(other) || other.covers(self)
    }

    /// Count of addresses, saturating at `u128::MAX` for `::/0`.
    pub fn size(&self) -> u128 {
        match self.family().bits() - self.len() {
            128 => u128::MAX,
            host_bits => 1u128 << host_bits,
        }
    }

    /// The address `n` places behind the first; `None` beyond the last.
    pub fn nth(&self, n: u128) -> Option<IpAddr> {
        if n >= self.size() {
            return None;
        }
        Some(match self.addr() {
            IpAddr::V4(ip) => IpAddr::V4(Ipv4Addr::from_bits(ip.to_bits() + u32::try_from(n).ok()?)),
            IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() + n)),
        })
    }

    /// How far `ip` lies behind the first address; `None` outside.
    pub fn offset_of(&self, ip: IpAddr) -> Option<u128> {
        if !self.contains(ip) {
            return None;
        }
        match (self.addr(), ip) {
            (IpAddr::V4(a), IpAddr::V4(b)) => Some(u128::from(b.to_bits() - a.to_bits())),
            (IpAddr::V6(a), IpAddr::V6(b)) => Some(b.to_bits() - a.to_bits()),
            _ => None,
        }
    }

    /// Count of sub-prefixes of `len` bits; zero where `len` is shorter than this prefix or too long for the family.
    pub fn count_of(&self, len: u8) -> u128 {
        if len < self.len() || len > self.family().bits() {
            return 0;
        }
        1u128.checked_shl(u32::from(len - self.len())).unwrap_or(u128::MAX)
    }

    /// The `n`th sub-prefix of `len` bits.
    pub fn subnet(&self, len: u8, n: u128) -> Option<Self> {
        if n >= self.count_of(len) {
            return None;
        }
        let host_bits = u32::from(self.family().bits() - len);
        let step = n.checked_shl(host_bits).unwrap_or(0);
        Self::containing(self.nth(step)?, len)
    }
}

impl FromStr for Prefix {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let net: IpNet = text.parse().map_err(|_| {
            Invalid::new("an address range", text, "an address and a prefix length, as in 10.244.0.0/16 or fd00::/64")
        })?;
        if net.addr() != net.network() {
            return Err(Invalid::new("an address range", text, format!("no bits behind the prefix: {}", net.trunc())));
        }
        Ok(Self(net))
    }
}

impl TryFrom<String> for Prefix {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<Prefix> for String {
    fn from(prefix: Prefix) -> Self {
        prefix.to_string()
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn host_bits_are_refused_with_the_right_prefix_named() {
        let fault = "10.244.1.7/24".parse::<Prefix>().unwrap_err();
        assert!(fault.to_string().contains("10.244.1.0/24"), "{fault}");
        assert!("10.244.1.0".parse::<Prefix>().is_err());
        assert!("10.244.1.0/33".parse::<Prefix>().is_err());
    }

    #[test]
    fn addresses_count_from_the_first() {
        let range = prefix("10.244.1.0/24");
        assert_eq!(range.nth(0), Some("10.244.1.0".parse().unwrap()));
        assert_eq!(range.nth(255), Some("10.244.1.255".parse().unwrap()));
        assert_eq!(range.nth(256), None);
        assert_eq!(range.offset_of("10.244.1.9".parse().unwrap()), Some(9));
        assert_eq!(range.offset_of("10.244.2.9".parse().unwrap()), None);
        assert_eq!(prefix("fd00::/64").nth(1), Some("fd00::1".parse().unwrap()));
        assert_eq!(prefix("::/0").size(), u128::MAX);
    }

    #[test]
    fn subnets_are_in_order_and_inside() {
        let network = prefix("10.244.0.0/16");
        assert_eq!(network.count_of(24), 256);
        assert_eq!(network.subnet(24, 3), Some(prefix("10.244.3.0/24")));
        assert_eq!(network.subnet(24, 256), None);
        assert_eq!(network.count_of(8), 0);
        assert_eq!(prefix("fd00::/48").subnet(64, 0xffff), Some(prefix("fd00:0:0:ffff::/64")));
    }

    #[test]
    fn families_never_contain_each_other() {
        assert!(!prefix("0.0.0.0/0").contains("::1".parse().unwrap()));
        assert!(!prefix("::/0").covers(&prefix("10.0.0.0/8")));
    }
}
