//! The speaker's parts by their public interface.
// Helpers outside of test functions unwrap as the tests do.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]
mod messages;
mod properties;
mod random;
mod regressions;
mod rfc7606;
mod rib;
mod scale;
mod speaker;

use ripstop_bgp::wire::{Context, Families, HEADER};

/// Bytes of hexadecimal digits; spaces mean nothing.
fn hex(digits: &str) -> Vec<u8> {
    let digits: Vec<u8> = digits.chars().filter_map(|c| c.to_digit(16)).map(|d| u8::try_from(d).unwrap()).collect();
    assert!(digits.len().is_multiple_of(2), "half a byte");
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// A message with header.
fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xff; 16];
    bytes.extend(u16::try_from(HEADER + body.len()).unwrap().to_be_bytes());
    bytes.push(kind);
    bytes.extend(body);
    bytes
}

/// An UPDATE of its three fields.
fn update(withdrawn: &[u8], attributes: &[u8], nlri: &[u8]) -> Vec<u8> {
    let length = |field: &[u8]| u16::try_from(field.len()).unwrap().to_be_bytes();
    let body = [&length(withdrawn)[..], withdrawn, &length(attributes), attributes, nlri].concat();
    message(2, &body)
}

/// One attribute.
fn attribute(flags: u8, kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap().to_be_bytes();
    let head =
        if value.len() > 255 { vec![flags | 0x10, kind, length[0], length[1]] } else { vec![flags, kind, length[1]] };
    [head, value.to_vec()].concat()
}

/// Both families, four-byte AS numbers, an external peer.
fn external() -> Context {
    Context { four_byte_as: true, families: Families::BOTH, ..Context::default() }
}

fn internal() -> Context {
    Context { internal: true, ..external() }
}
