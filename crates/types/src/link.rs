//! Names and hardware addresses of links.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Invalid;

/// The name of a network interface, as the kernel accepts it (`dev_valid_name`, net/core/dev.c), and as the kernel keeps it:
/// filled up with zeros. It is part of most keys, and compared all the time.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IfName([u8; Self::MAX + 1]);

impl IfName {
    /// Longest name in bytes: `IFNAMSIZ` less the terminating zero.
    pub const MAX: usize = 15;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(Self::MAX);
        // It was made of text.
        std::str::from_utf8(&self.0[..end]).unwrap_or_default()
    }
}

/// As text: no name has a zero in it.
impl Ord for IfName {
    fn cmp(&self, other: &Self) -> Ordering {
        u128::from_be_bytes(self.0).cmp(&u128::from_be_bytes(other.0))
    }
}

impl PartialOrd for IfName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Debug for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("IfName").field(&self.as_str()).finish()
    }
}

impl FromStr for IfName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let bad = text.is_empty()
            || text.len() > Self::MAX
            || text == "."
            || text == ".."
            || text.chars().any(|c| c == '/' || c == ':' || c.is_whitespace() || c.is_control());
        if bad {
            return Err(Invalid::new(
                "an interface name",
                text,
                "1 to 15 bytes without '/', ':' and white space, and not '.' or '..'",
            ));
        }
        let mut name = [0; Self::MAX + 1];
        name[..text.len()].copy_from_slice(text.as_bytes());
        Ok(Self(name))
    }
}

impl TryFrom<String> for IfName {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<IfName> for String {
    fn from(name: IfName) -> Self {
        name.as_str().into()
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A 48-bit hardware address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// A locally administered unicast address made of five bytes the caller chose (usually of a hash).
    #[must_use]
    pub fn local(tail: [u8; 5]) -> Self {
        let [a, b, c, d, e] = tail;
        Self([0x0a, a, b, c, d, e])
    }

    /// Whether a single station can have this address: not multicast, not all zero.
    #[must_use]
    pub fn is_unicast(&self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl FromStr for Mac {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let fault = || Invalid::new("a MAC address", text, "six pairs of hexadecimal digits, as in 0a:58:0a:f4:01:02");
        let mut bytes = [0u8; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2 && !p.starts_with('+')).ok_or_else(fault)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| fault())?;
        }
        if parts.next().is_some() {
            return Err(fault());
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Mac {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_links_are_in_the_order_of_their_text() {
        let texts = ["e", "eth0", "eth1", "eth10", "ethé", "fifteen-bytes-x", "rip0"];
        let names: Vec<IfName> = texts.iter().map(|text| text.parse().unwrap()).collect();
        assert!(names.is_sorted() && texts.is_sorted());
        assert!(
            names.iter().zip(texts).all(|(name, text)| name.as_str() == text && String::from(name.clone()) == text)
        );
    }

    #[test]
    fn an_interface_name_has_the_kernels_limits() {
        assert!("eth0".parse::<IfName>().is_ok());
        assert!("fifteen-bytes-x".parse::<IfName>().is_ok());
        for bad in ["", "sixteen-bytes-xx", "a/b", "a b", "..", ".", "a:1", "tab\t"] {
            assert!(bad.parse::<IfName>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn a_mac_address_reads_as_it_prints() {
        let mac: Mac = "0A:58:0a:f4:01:02".parse().unwrap();
        assert_eq!(mac.to_string(), "0a:58:0a:f4:01:02");
        for bad in ["", "0a:58:0a:f4:01", "0a:58:0a:f4:01:02:03", "0a:58:0a:f4:01:2", "+a:58:0a:f4:01:0g"] {
            assert!(bad.parse::<Mac>().is_err(), "{bad:?} was accepted");
        }
    }
}
