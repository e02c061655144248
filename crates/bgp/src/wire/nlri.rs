//! Network layer reachability information: prefixes as bytes, with path identifiers where add-path was agreed (RFC 7911).

use std::net::{IpAddr, Ipv4Addr};

use ripstop_types::{Family, Prefix};

use super::Reader;

/// One prefix of an UPDATE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nlri {
    /// The prefix.
    pub prefix: Prefix,
    /// Which of the sender's paths to it; 0 without add-path.
    pub path: u32,
}

impl Nlri {
    /// A prefix without path identifier.
    #[must_use]
    pub fn of(prefix: Prefix) -> Self {
        Self { prefix, path: 0 }
    }
}

/// All prefixes of a field; what is wrong with it otherwise. Bits behind a prefix's length are ignored, as RFC 4271 says.
pub fn decode(field: &[u8], family: Family, add_path: bool) -> Result<Vec<Nlri>, String> {
    let mut read = Reader::new(field);
    let least = if add_path { 5 } else { 1 };
    let mut all = Vec::with_capacity((field.len() / (least + 2)).min(field.len()));
    while !read.is_empty() {
        let path = if add_path { read.u32().ok_or("a path identifier is cut off")? } else { 0 };
        let length = read.u8().ok_or("a prefix is cut off")?;
        if length > family.bits() {
            return Err(format!("an {family} prefix of {length} bits, accepted are 0 to {}", family.bits()));
        }
        let count = usize::from(length.div_ceil(8));
        let bytes = read.bytes(count).ok_or_else(|| format!("an {family} prefix of {length} bits is cut off"))?;
        let prefix = prefix(family, bytes, length).ok_or("a prefix is too long")?;
        all.push(Nlri { prefix, path });
    }
    Ok(all)
}

/// The prefix of its first bytes.
fn prefix(family: Family, bytes: &[u8], length: u8) -> Option<Prefix> {
    let address = match (family, bytes) {
        (Family::V4, [a, b, c, d]) => Ipv4Addr::new(*a, *b, *c, *d).into(),
        (Family::V4, _) => {
            let mut octets = [0; 4];
            octets.iter_mut().zip(bytes).for_each(|(octet, byte)| *octet = *byte);
            IpAddr::from(octets)
        }
        (Family::V6, _) => {
            let mut octets = [0; 16];
            octets.iter_mut().zip(bytes).for_each(|(octet, byte)| *octet = *byte);
            IpAddr::from(octets)
        }
    };
    Prefix::containing(address, length)
}

/// Appends a prefix.
pub fn encode(out: &mut Vec<u8>, nlri: Nlri, add_path: bool) {
    if add_path {
        out.extend_from_slice(&nlri.path.to_be_bytes());
    }
    let length = nlri.prefix.len();
    out.push(length);
    let count = usize::from(length.div_ceil(8));
    match nlri.prefix.addr() {
        IpAddr::V4(address) => out.extend_from_slice(&address.octets()[..count]),
        IpAddr::V6(address) => out.extend_from_slice(&address.octets()[..count]),
    }
}

/// Bytes that [`encode`] appends.
pub fn length(nlri: Nlri, add_path: bool) -> usize {
    1 + usize::from(nlri.prefix.len().div_ceil(8)) + if add_path { 4 } else { 0 }
}
