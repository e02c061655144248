//! An address with the length of its prefix, host bits and all: `10.244.1.7/24`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ripstop_types::{Family, Invalid, Prefix};
use serde::{Deserialize, Serialize};

/// An address and its prefix length, as a result writes both addresses and destinations.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    ip: IpAddr,
    len: u8,
}

impl Cidr {
    /// `None` if the family has fewer bits than `len`.
    pub fn new(ip: IpAddr, len: u8) -> Option<Self> {
        (len <= Family::of(ip).bits()).then_some(Self { ip, len })
    }

    /// The address with all bits fixed: /32 or /128.
    pub fn host(ip: IpAddr) -> Self {
        Self { ip, len: Family::of(ip).bits() }
    }

    /// The address.
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// The prefix length. (An address is never "empty".)
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u8 {
        self.len
    }

    /// The address family.
    pub fn family(&self) -> Family {
        Family::of(self.ip)
    }

    /// The prefix the address lies in.
    pub fn prefix(&self) -> Prefix {
        // The constructors bound the length by the family, so the other arm is never taken.
        Prefix::containing(self.ip, self.len).unwrap_or_else(|| Prefix::host(self.ip))
    }
}

impl From<Prefix> for Cidr {
    fn from(prefix: Prefix) -> Self {
        Self { ip: prefix.addr(), len: prefix.len() }
    }
}

impl FromStr for Cidr {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let fault = || {
            Invalid::new(
                "an address in CIDR form",
                text,
                "an address, '/' and a prefix length, as 10.244.1.7/24 or fd00::7/64",
            )
        };
        let (ip, len) = text.split_once('/').ok_or_else(fault)?;
        if len.starts_with('+') {
            return Err(fault());
        }
        let (ip, len) = (ip.parse().map_err(|_| fault())?, len.parse().map_err(|_| fault())?);
        Self::new(ip, len).ok_or_else(fault)
    }
}

impl TryFrom<String> for Cidr {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.to_string()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.len)
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_bits_are_kept() {
        let cidr: Cidr = "10.244.1.7/24".parse().unwrap();
        assert_eq!(cidr.to_string(), "10.244.1.7/24");
        assert_eq!(cidr.prefix().to_string(), "10.244.1.0/24");
        assert_eq!(Cidr::host("fd00::1".parse().unwrap()).to_string(), "fd00::1/128");
        for bad in ["", "10.0.0.1", "10.0.0.1/33", "10.0.0.1/+8", "fd00::/129", "10.0.0/8", "10.0.0.1/24/1"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad:?} was accepted");
        }
    }
}
