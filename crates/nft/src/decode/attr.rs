//! Netlink attributes and userdata, read. Nothing here trusts a length.

use std::collections::BTreeMap;

use super::DecodeError;
use crate::uapi::{NFTA_DATA_VALUE, NLA_TYPE_MASK};

/// The attributes of a message or of a nested attribute; of several with one number the last counts, as in the kernel.
#[derive(Debug, Default)]
pub(super) struct Attrs<'a>(BTreeMap<u16, &'a [u8]>);

/// Attributes one after another, with their numbers.
pub(super) fn list(bytes: &[u8]) -> Result<Vec<(u16, &[u8])>, DecodeError> {
    let mut out = Vec::new();
    let mut rest = bytes;
    // Up to three bytes of padding may be left.
    while rest.len() >= 4 {
        let len = usize::from(u16::from_ne_bytes([rest[0], rest[1]]));
        let kind = u16::from_ne_bytes([rest[2], rest[3]]) & NLA_TYPE_MASK;
        let value = rest.get(4..len).ok_or(DecodeError::Attribute { kind, length: len, left: rest.len() })?;
        out.push((kind, value));
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
    }
    Ok(out)
}

impl<'a> Attrs<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        Ok(Self(list(bytes)?.into_iter().collect()))
    }

    pub(super) fn bytes(&self, kind: u16) -> Option<&'a [u8]> {
        self.0.get(&kind).copied()
    }

    /// A string up to its zero; what is not UTF-8 is replaced.
    pub(super) fn text(&self, kind: u16) -> Option<String> {
        let bytes = self.bytes(kind)?;
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        Some(String::from_utf8_lossy(bytes.get(..end).unwrap_or(bytes)).into_owned())
    }

    pub(super) fn be32(&self, kind: u16) -> Option<u32> {
        self.bytes(kind)?.try_into().ok().map(u32::from_be_bytes)
    }

    pub(super) fn ne32(&self, kind: u16) -> Option<u32> {
        self.bytes(kind)?.try_into().ok().map(u32::from_ne_bytes)
    }

    pub(super) fn be64(&self, kind: u16) -> Option<u64> {
        self.bytes(kind)?.try_into().ok().map(u64::from_be_bytes)
    }

    /// The attributes inside; none if the attribute is absent.
    pub(super) fn nested(&self, kind: u16) -> Result<Attrs<'a>, DecodeError> {
        self.bytes(kind).map_or(Ok(Attrs::default()), Attrs::parse)
    }

    /// The plain value of an `nft_data`.
    pub(super) fn data(&self, kind: u16) -> Result<Option<&'a [u8]>, DecodeError> {
        Ok(self.nested(kind)?.bytes(NFTA_DATA_VALUE))
    }
}

/// libnftnl's userdata. What does not parse is passed over: it is another program's.
#[derive(Debug, Default)]
pub(super) struct Userdata<'a>(BTreeMap<u8, &'a [u8]>);

impl<'a> Userdata<'a> {
    pub(super) fn parse(bytes: Option<&'a [u8]>) -> Self {
        let mut out = BTreeMap::new();
        let mut rest = bytes.unwrap_or(&[]);
        while let [kind, len, tail @ ..] = rest {
            let Some((value, tail)) = tail.split_at_checked(usize::from(*len)) else { break };
            out.insert(*kind, value);
            rest = tail;
        }
        Self(out)
    }

    pub(super) fn bytes(&self, kind: u8) -> Option<&'a [u8]> {
        self.0.get(&kind).copied()
    }

    pub(super) fn text(&self, kind: u8) -> Option<String> {
        let bytes = self.bytes(kind)?;
        let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
        Some(String::from_utf8_lossy(bytes).into_owned())
    }
}
