//! Addresses that mean something everywhere, and such that mean something on one link.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{IfName, Invalid};

/// Where one system is reached, as RFC 4007 writes it: `192.0.2.1`, `2001:db8::1`, `fe80::1%eth0`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ScopedAddr {
    /// At an address of all links, never a link-local one of IPv6.
    Global(IpAddr),
    /// At a link-local address, on its link.
    OnLink(Ipv6Addr, IfName),
}

impl ScopedAddr {
    /// An address, and the link where it needs one; none if it needs one that is not known.
    #[must_use]
    pub fn new(address: IpAddr, link: Option<&IfName>) -> Option<Self> {
        match address {
            IpAddr::V6(address) if address.is_unicast_link_local() => Some(Self::OnLink(address, link?.clone())),
            _ => Some(Self::Global(address)),
        }
    }

    /// The address alone.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        match self {
            Self::Global(address) => *address,
            Self::OnLink(address, _) => (*address).into(),
        }
    }

    /// The link of a link-local one.
    #[must_use]
    pub fn link(&self) -> Option<&IfName> {
        match self {
            Self::Global(_) => None,
            Self::OnLink(_, link) => Some(link),
        }
    }
}

impl FromStr for ScopedAddr {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let fault = || {
            let accepted = "an IPv4 or IPv6 address, a link-local one of IPv6 with its link, as in fe80::1%eth0";
            Invalid::new("an address", text, accepted)
        };
        let (address, link) = match text.split_once('%') {
            Some((address, link)) => (address, Some(link.parse::<IfName>()?)),
            None => (text, None),
        };
        let address = address.parse().map_err(|_| fault())?;
        Self::new(address, link.as_ref()).filter(|found| found.link() == link.as_ref()).ok_or_else(fault)
    }
}

impl TryFrom<String> for ScopedAddr {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<ScopedAddr> for String {
    fn from(address: ScopedAddr) -> Self {
        address.to_string()
    }
}

impl fmt::Display for ScopedAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Global(address) => address.fmt(f),
            Self::OnLink(address, link) => write!(f, "{address}%{link}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_there_where_an_address_needs_one_and_nowhere_else() {
        for text in ["192.0.2.1", "2001:db8::1", "fe80::1%eth0", "febf::1%a%b"] {
            let read: ScopedAddr = text.parse().unwrap();
            assert_eq!(read.to_string(), text);
            assert_eq!(read.link().is_some(), text.starts_with("fe"));
            assert_eq!(ScopedAddr::try_from(String::from(read.clone())), Ok(read));
        }
        for text in ["fe80::1", "192.0.2.1%eth0", "fec0::1%eth0", "fe80::1%", "fe80::1%a/b", "%eth0", "eth0", ""] {
            assert!(text.parse::<ScopedAddr>().is_err(), "{text}");
        }
    }
}
