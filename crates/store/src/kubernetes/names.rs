//! Names of objects by records' keys.
//!
//! A key that is a name stays as it is: `n1`, `default`. A claim's key reads as what it says:
//! `default/10.244.3.0_24` is `default.10.244.3.0-24`, and IPv6 is written out, with '-' for ':'. So is that of a claim of
//! an address: `2001:db8::1` is `2001-db8-0-0-0-0-0-1`. Any other key is
//! `x--` and its bytes, those that are no lower-case letter or digit as '-' and two hexadecimal digits.
//!
//! Invariant: [`key_of`] gives back the key that [`name_of`] was given; so no two keys have one name.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ripstop_objects::{claim_key, parse_claim_key};
use ripstop_types::{Invalid, Prefix};

use crate::{Kind, validate_key};

/// Longest name of an object.
const MAX_NAME: usize = 253;
const ESCAPED: &str = "x--";

/// The name of the object that keeps a key's record.
///
/// # Errors
/// A key that would have a name longer than Kubernetes takes.
pub(super) fn name_of(kind: Kind, key: &str) -> Result<String, Invalid> {
    validate_key(key)?;
    let readable = claim_name(kind, key).unwrap_or_else(|| key.to_owned());
    let name = if key_of(kind, &readable).as_deref() == Some(key) { readable } else { escape(key) };
    if name.len() > MAX_NAME {
        let accepted =
            format!("a key whose object's name has at most {MAX_NAME} characters; this one has {}", name.len());
        return Err(Invalid::new("a record's key in Kubernetes", key.chars().take(64).collect::<String>(), accepted));
    }
    Ok(name)
}

/// The key whose record an object of this name keeps; `None` where no key has such a name.
pub(super) fn key_of(kind: Kind, name: &str) -> Option<String> {
    if !is_name(name) {
        return None;
    }
    if let Some(escaped) = name.strip_prefix(ESCAPED) {
        // An escape that need not be one would be a second name of a key.
        let key = unescape(escaped)?;
        return (name_of(kind, &key).ok()?.as_str() == name).then_some(key);
    }
    Some(claim_of(kind, name).unwrap_or_else(|| name.to_owned()))
}

/// Kubernetes' rule for names: that of DNS, but for the length of what stands between the dots.
fn is_name(name: &str) -> bool {
    let label = |label: &str| {
        let bytes = label.as_bytes();
        let alphanumeric = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        alphanumeric(bytes.first()) && alphanumeric(bytes.last()) && bytes.iter().all(|b| is_plain(*b) || *b == b'-')
    };
    name.len() <= MAX_NAME && name.split('.').all(label)
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn claim_name(kind: Kind, key: &str) -> Option<String> {
    match kind {
        Kind::Claims => {
            let (network, range) = parse_claim_key(key)?;
            Some(format!("{network}.{}-{}", written_out(range.addr()), range.len()))
        }
        Kind::AddressClaims => key.parse().ok().map(written_out),
        _ => None,
    }
}

fn claim_of(kind: Kind, name: &str) -> Option<String> {
    let key = match kind {
        Kind::Claims => {
            let (network, range) = name.split_once('.')?;
            let (address, len) = range.rsplit_once('-')?;
            let range: Prefix = format!("{}/{len}", address_of(address)?).parse().ok()?;
            claim_key(&network.parse().ok()?, range)
        }
        Kind::AddressClaims => address_of(name)?.to_string(),
        _ => return None,
    };
    (claim_name(kind, &key)? == name).then_some(key)
}

/// An address as part of a name.
fn written_out(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => address.segments().map(|segment| format!("{segment:x}")).join("-"),
    }
}

fn address_of(written: &str) -> Option<IpAddr> {
    match written.parse::<Ipv4Addr>() {
        Ok(address) => Some(address.into()),
        Err(_) => written.replace('-', ":").parse::<Ipv6Addr>().ok().map(Into::into),
    }
}

fn escape(key: &str) -> String {
    key.bytes().fold(ESCAPED.to_owned(), |name, byte| match byte {
        byte if is_plain(byte) => name + &char::from(byte).to_string(),
        byte => name + &format!("-{byte:02x}"),
    })
}

fn unescape(escaped: &str) -> Option<String> {
    let mut key = String::new();
    let mut rest = escaped;
    while let Some(first) = rest.chars().next() {
        if first == '-' {
            let code =
                rest.get(1..3).filter(|code| code.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f')))?;
            let byte = u8::from_str_radix(code, 16).ok().filter(|byte| byte.is_ascii_graphic() && !is_plain(*byte))?;
            key.push(char::from(byte));
            rest = &rest[3..];
        } else {
            let byte = u8::try_from(first).ok().filter(|byte| is_plain(*byte))?;
            key.push(char::from(byte));
            rest = &rest[1..];
        }
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_readable() {
        for (kind, key, name) in [
            (Kind::Nodes, "n1", "n1"),
            (Kind::Nodes, "ip-10-0-0-1.ec2.internal", "ip-10-0-0-1.ec2.internal"),
            (Kind::Networks, "a--b", "a--b"),
            (Kind::Claims, "default/10.244.3.0_24", "default.10.244.3.0-24"),
            (Kind::Claims, "my-net/fd00:10:244::_64", "my-net.fd00-10-244-0-0-0-0-0-64"),
            (Kind::Claims, "default/10.244.3.7_32", "default.10.244.3.7-32"),
            (Kind::AddressClaims, "192.0.2.7", "192.0.2.7"),
            (Kind::AddressClaims, "2001:db8::1", "2001-db8-0-0-0-0-0-1"),
            (Kind::AddressClaims, "2001-db8-0-0-0-0-0-1", "x--2001-2ddb8-2d0-2d0-2d0-2d0-2d0-2d1"),
            (Kind::Nodes, "default/10.244.3.0_24", "x--default-2f10-2e244-2e3-2e0-5f24"),
            (Kind::Claims, "default.10.244.3.0-24", "x--default-2e10-2e244-2e3-2e0-2d24"),
            (Kind::Nodes, "x--a", "x--x-2d-2da"),
            (Kind::Nodes, "B!", "x---42-21"),
        ] {
            assert_eq!(name_of(kind, key).unwrap(), name);
            assert_eq!(key_of(kind, name).as_deref(), Some(key));
            assert!(is_name(name), "{name}");
        }
        assert!(name_of(Kind::Nodes, &"k".repeat(253)).is_ok());
        assert!(name_of(Kind::Nodes, &"K".repeat(100)).unwrap_err().to_string().contains("303"));
    }

    #[test]
    fn a_name_that_no_key_has_is_none() {
        for name in ["x--zz-1", "x--a-2", "x--a-61", "x--n1", "-a", "a-", "A", "", "a..b", "x--a-2F", "x--é"] {
            assert_eq!(key_of(Kind::Nodes, name), None, "{name}");
        }
    }

    /// Every key of up to three characters out of those that matter, and every name out of those.
    #[test]
    fn no_two_keys_have_one_name() {
        let letters =
            ["a", "1", "-", ".", "/", "_", "X", ":", "x--", "default/10.0.0.0_8", "b.10.0.0.0-8", "10.0.0.1", "fd::1"];
        let mut keys = vec![String::new()];
        let mut all = Vec::new();
        for _ in 0..3 {
            keys = keys.iter().flat_map(|key| letters.iter().map(move |more| format!("{key}{more}"))).collect();
            all.extend(keys.iter().cloned());
        }
        for kind in Kind::ALL.into_iter().chain([Kind::AddressClaims]) {
            for key in &all {
                let Ok(name) = name_of(kind, key) else { continue };
                assert_eq!(key_of(kind, &name).as_ref(), Some(key), "{name}");
                assert!(is_name(&name), "{name}");
            }
        }
    }
}
