//! Values as the kernel holds them in registers, keys and data.
//!
//! What comes out of a packet is in network byte order. Marks, link indexes, connection state and the routing tables'
//! answers are numbers in the host's. A link's name fills 16 bytes. In a concatenation each field is padded with
//! zeros behind to whole 4-byte registers.

use std::net::{Ipv4Addr, Ipv6Addr};

use ripstop_types::{IfName, Mac};

use crate::model::{IfPattern, KeyPart, Type, Value};

/// The bytes of one value outside a concatenation. A name pattern is only the bytes it begins with.
pub(crate) fn value(value: &Value) -> Vec<u8> {
    match value {
        Value::Ipv4(ip) => ip.octets().to_vec(),
        Value::Ipv6(ip) => ip.octets().to_vec(),
        Value::Ether(mac) => mac.0.to_vec(),
        Value::Service(n) | Value::EtherType(n) | Value::ArpOp(n) => n.to_be_bytes().to_vec(),
        Value::IfName(IfPattern::Exact(name)) => {
            let mut bytes = name.as_str().as_bytes().to_vec();
            bytes.resize(Type::IfName.len(), 0);
            bytes
        }
        Value::IfName(IfPattern::Prefix(name)) => name.as_str().as_bytes().to_vec(),
        Value::Proto(n)
        | Value::IcmpType(n)
        | Value::Icmpv6Type(n)
        | Value::NfProto(n)
        | Value::PktType(n)
        | Value::CtDirection(n)
        | Value::TcpFlags(n) => vec![*n],
        Value::Mark(n) | Value::FibAddrType(n) | Value::IfIndex(n) | Value::CtState(n) | Value::CtStatus(n) => {
            n.to_ne_bytes().to_vec()
        }
    }
}

/// The bytes of one value, or of the fields of a concatenation.
pub(crate) fn values<'a>(fields: impl ExactSizeIterator<Item = &'a Value>) -> Vec<u8> {
    let padded = fields.len() > 1;
    let mut out = Vec::new();
    for field in fields {
        out.extend(value(field));
        if padded {
            out.resize(out.len().next_multiple_of(4), 0);
        }
    }
    out
}

/// The bytes of the first and the last key of an element.
pub(crate) fn key_bounds(parts: &[KeyPart]) -> (Vec<u8>, Vec<u8>) {
    let (first, last): (Vec<_>, Vec<_>) = parts.iter().map(KeyPart::bounds).unzip();
    (values(first.iter()), values(last.iter()))
}

/// Reads one value back; `None` if the bytes are no value of the type.
pub(crate) fn read(kind: Type, bytes: &[u8]) -> Option<Value> {
    let bytes = bytes.get(..kind.len())?;
    let be16 = || Some(u16::from_be_bytes(bytes.try_into().ok()?));
    let ne32 = || Some(u32::from_ne_bytes(bytes.try_into().ok()?));
    let byte = || bytes.first().copied();
    Some(match kind {
        Type::Ipv4Addr => Value::Ipv4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        Type::Ipv6Addr => Value::Ipv6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        Type::EtherAddr => Value::Ether(Mac(bytes.try_into().ok()?)),
        Type::InetService => Value::Service(be16()?),
        Type::IfName => {
            let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
            let name: IfName = std::str::from_utf8(bytes.get(..end)?).ok()?.parse().ok()?;
            Value::IfName(IfPattern::Exact(name))
        }
        Type::InetProto => Value::Proto(byte()?),
        Type::Mark => Value::Mark(ne32()?),
        Type::EtherType => Value::EtherType(be16()?),
        Type::ArpOp => Value::ArpOp(be16()?),
        Type::IcmpType => Value::IcmpType(byte()?),
        Type::Icmpv6Type => Value::Icmpv6Type(byte()?),
        Type::NfProto => Value::NfProto(byte()?),
        Type::PktType => Value::PktType(byte()?),
        Type::FibAddrType => Value::FibAddrType(ne32()?),
        Type::IfIndex => Value::IfIndex(ne32()?),
        Type::CtState => Value::CtState(ne32()?),
        Type::CtStatus => Value::CtStatus(ne32()?),
        Type::CtDirection => Value::CtDirection(byte()?),
        Type::TcpFlags => Value::TcpFlags(byte()?),
    })
}

/// Reads the fields of a key or of a map's data; `None` if the bytes do not fit the types.
pub(crate) fn read_all(types: &[Type], bytes: &[u8]) -> Option<Vec<Value>> {
    if let [one] = types {
        return (bytes.len() == one.len()).then(|| read(*one, bytes)).flatten().map(|v| vec![v]);
    }
    let mut rest = bytes;
    let mut out = Vec::with_capacity(types.len());
    for kind in types {
        out.push(read(*kind, rest)?);
        rest = rest.get(kind.len().next_multiple_of(4)..)?;
    }
    rest.is_empty().then_some(out)
}

/// The number one above, in network byte order; `None` above the last.
pub(crate) fn successor(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = bytes.to_vec();
    for byte in out.iter_mut().rev() {
        let (next, overflow) = byte.overflowing_add(1);
        *byte = next;
        if !overflow {
            return Some(out);
        }
    }
    None
}

/// The number one below, in network byte order; `None` below zero.
pub(crate) fn predecessor(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = bytes.to_vec();
    for byte in out.iter_mut().rev() {
        let (next, underflow) = byte.overflowing_sub(1);
        *byte = next;
        if !underflow {
            return Some(out);
        }
    }
    None
}

/// The bits of a prefix of `len` bits in `width` bytes.
pub(crate) fn prefix_mask(len: u8, width: usize) -> Vec<u8> {
    let len = usize::from(len);
    (0..width)
        .map(|i| match len.saturating_sub(i * 8) {
            0 => 0,
            bits if bits >= 8 => 0xff,
            bits => !(0xffu8 >> bits),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn concatenated_fields_fill_registers() {
        let fields = [Value::IfName("rip0".into()), Value::Service(80), Value::Ether(Mac([1, 2, 3, 4, 5, 6]))];
        let bytes = values(fields.iter());
        assert_eq!(bytes.len(), 16 + 4 + 8);
        assert_eq!(&bytes[..5], b"rip0\0");
        assert_eq!(&bytes[16..], [0, 80, 0, 0, 1, 2, 3, 4, 5, 6, 0, 0]);
        assert_eq!(read_all(&[Type::IfName, Type::InetService, Type::EtherAddr], &bytes).unwrap(), fields);
        assert_eq!(read_all(&[Type::IfName, Type::InetService], &bytes), None);
    }

    #[test]
    fn neighbours_carry_over_bytes() {
        assert_eq!(successor(&[10, 0, 0, 255]), Some(vec![10, 0, 1, 0]));
        assert_eq!(successor(&[255; 4]), None);
        assert_eq!(predecessor(&[10, 0, 1, 0]), Some(vec![10, 0, 0, 255]));
        assert_eq!(predecessor(&[0; 16]), None);
    }

    #[test]
    fn masks_end_within_a_byte() {
        assert_eq!(prefix_mask(25, 4), [255, 255, 255, 128]);
        assert_eq!(prefix_mask(0, 4), [0; 4]);
        assert_eq!(prefix_mask(32, 4), [255; 4]);
        assert_eq!(prefix_mask(64, 16)[..9], [255, 255, 255, 255, 255, 255, 255, 255, 0]);
    }
}
