//! Elements of sets, as the kernel dumps them and as the model knows them.

use super::DecodeError;
use super::attr::{Attrs, Userdata, list};
use crate::bytes;
use crate::encode::type_number;
use crate::model::{Comment, Data, ElementBody, Key, KeyPart, Name, TableFamily, Type, Value, Verdict};
use crate::uapi::*;

/// Some elements of a set; a dump gives several such messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ElementsInfo {
    /// The table's family.
    pub family: TableFamily,
    /// The table.
    pub table: String,
    /// The set.
    pub set: String,
    /// The elements, in the kernel's order.
    pub elements: Vec<ElementInfo>,
}

impl ElementsInfo {
    /// The elements of a set with these key types that have a counter, and how many packets each has seen. Elements of another form are
    /// passed over.
    #[must_use]
    pub fn counts(&self, key: &[Type]) -> Vec<(Vec<Value>, u64)> {
        let count = |one: &ElementInfo| Some((bytes::read_all(key, one.key.as_deref()?)?, one.packets?));
        self.elements.iter().filter_map(count).collect()
    }
}

/// One element as the kernel holds it. Of an interval these are two: its first value, and the one behind its last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ElementInfo {
    /// The key; the first, of an interval in a concatenation. Absent in a catch-all element.
    pub key: Option<Vec<u8>>,
    /// The last key of an interval in a concatenation.
    pub key_end: Option<Vec<u8>>,
    /// `NFT_SET_ELEM_*`
    pub flags: u32,
    /// A map's value.
    pub data: Option<RawData>,
    /// Milliseconds from being added to expiry, where it is not the set's default.
    pub timeout_ms: Option<u64>,
    /// The comment `nft list` shows.
    pub comment: Option<String>,
    /// Packets, where it has a counter.
    pub packets: Option<u64>,
}

/// A map's value as the kernel holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RawData {
    /// Plain bytes.
    Value(Vec<u8>),
    /// A verdict: the kernel's code, and the chain of a jump.
    Verdict(i32, Option<String>),
}

pub(super) fn elements(family: TableFamily, attrs: &Attrs<'_>) -> Result<ElementsInfo, DecodeError> {
    let need = |attribute| attrs.text(attribute).ok_or(DecodeError::Missing { message: NFT_MSG_NEWSETELEM, attribute });
    let mut elements = Vec::new();
    for (_, one) in list(attrs.bytes(NFTA_SET_ELEM_LIST_ELEMENTS).unwrap_or(&[]))? {
        elements.push(element(&Attrs::parse(one)?)?);
    }
    Ok(ElementsInfo { family, table: need(NFTA_SET_ELEM_LIST_TABLE)?, set: need(NFTA_SET_ELEM_LIST_SET)?, elements })
}

fn element(attrs: &Attrs<'_>) -> Result<ElementInfo, DecodeError> {
    let data = attrs.nested(NFTA_SET_ELEM_DATA)?;
    let verdict = data.nested(NFTA_DATA_VERDICT)?;
    let data = match (data.bytes(NFTA_DATA_VALUE), verdict.be32(NFTA_VERDICT_CODE)) {
        (Some(value), _) => Some(RawData::Value(value.to_vec())),
        (None, Some(code)) => Some(RawData::Verdict(code.cast_signed(), verdict.text(NFTA_VERDICT_CHAIN))),
        (None, None) => None,
    };
    let counter = attrs.nested(NFTA_SET_ELEM_EXPR)?;
    let is_counter = counter.text(NFTA_EXPR_NAME).as_deref() == Some("counter");
    let counted = counter.nested(NFTA_EXPR_DATA)?.be64(NFTA_COUNTER_PACKETS);
    Ok(ElementInfo {
        key: attrs.data(NFTA_SET_ELEM_KEY)?.map(<[u8]>::to_vec),
        key_end: attrs.data(NFTA_SET_ELEM_KEY_END)?.map(<[u8]>::to_vec),
        flags: attrs.be32(NFTA_SET_ELEM_FLAGS).unwrap_or(0),
        data,
        timeout_ms: attrs.be64(NFTA_SET_ELEM_TIMEOUT),
        comment: Userdata::parse(attrs.bytes(NFTA_SET_ELEM_USERDATA)).text(UDATA_ELEM_COMMENT),
        packets: counted.filter(|_| is_counter),
    })
}

/// What is needed of a set to understand its elements.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    key: Vec<Type>,
    data: Option<DataLayout>,
    interval: bool,
}

#[derive(Debug, Clone)]
enum DataLayout {
    Verdict,
    Values(Vec<Type>),
}

impl Layout {
    /// The layout of a set with these attributes; `None` if a type is not one of the model's.
    pub(super) fn of(set: &super::SetInfo) -> Option<Self> {
        let data = match set.data_type {
            _ if set.flags & NFT_SET_MAP == 0 => None,
            DATA_TYPE_VERDICT => Some(DataLayout::Verdict),
            number => Some(DataLayout::Values(types(number)?)),
        };
        Some(Self { key: types(set.key_type)?, data, interval: set.flags & NFT_SET_INTERVAL != 0 })
    }

    /// Makes the model's elements of the kernel's. The second part counts those that have no meaning in the model.
    pub(super) fn read(&self, raw: &[ElementInfo]) -> (Vec<(Key, ElementBody)>, usize) {
        if self.interval && self.key.len() == 1 { self.intervals(raw) } else { self.single(raw) }
    }

    fn single(&self, raw: &[ElementInfo]) -> (Vec<(Key, ElementBody)>, usize) {
        let mut out = Vec::new();
        let mut unreadable = 0;
        for one in raw {
            let first = one.key.as_deref().and_then(|key| bytes::read_all(&self.key, key));
            let last = match &one.key_end {
                Some(end) => bytes::read_all(&self.key, end),
                None => first.clone(),
            };
            match (first, last, self.body(one)) {
                (Some(first), Some(last), Some(body)) => {
                    let parts = first.into_iter().zip(last).map(|(a, b)| KeyPart::range(a, b)).collect();
                    out.push((Key { interval: self.interval, parts }, body));
                }
                _ => unreadable += 1,
            }
        }
        (out, unreadable)
    }

    /// Pairs beginnings and ends. An end without a beginning is the mark in front of the first interval; a beginning
    /// without an end reaches to the next beginning or the last value.
    fn intervals(&self, raw: &[ElementInfo]) -> (Vec<(Key, ElementBody)>, usize) {
        let mut marks: Vec<(&[u8], bool, &ElementInfo)> = Vec::new();
        let mut unreadable = 0;
        for one in raw {
            match &one.key {
                Some(key) => marks.push((key, one.flags & NFT_SET_ELEM_INTERVAL_END == 0, one)),
                None => unreadable += 1,
            }
        }
        // At one key the end comes before the beginning.
        marks.sort_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)));
        let mut out = Vec::new();
        let mut open: Option<(&[u8], &ElementInfo)> = None;
        for (key, begins, one) in marks {
            if let Some((first, begun)) = open.take() {
                match bytes::predecessor(key).and_then(|last| self.interval(first, &last, begun)) {
                    Some(interval) => out.push(interval),
                    None => unreadable += 1,
                }
            }
            if begins {
                open = Some((key, one));
            }
        }
        if let Some((first, begun)) = open {
            match self.interval(first, &vec![0xff; first.len()], begun) {
                Some(interval) => out.push(interval),
                None => unreadable += 1,
            }
        }
        (out, unreadable)
    }

    fn interval(&self, first: &[u8], last: &[u8], element: &ElementInfo) -> Option<(Key, ElementBody)> {
        let read = |key: &[u8]| -> Option<Value> { bytes::read_all(&self.key, key)?.pop() };
        let parts = vec![KeyPart::range(read(first)?, read(last)?)];
        Some((Key { interval: true, parts: parts.into() }, self.body(element)?))
    }

    fn body(&self, element: &ElementInfo) -> Option<ElementBody> {
        let data = match (&self.data, &element.data) {
            (None, None) => None,
            (Some(DataLayout::Verdict), Some(RawData::Verdict(code, chain))) => {
                Some(Data::Verdict(verdict(*code, chain.as_deref())?))
            }
            (Some(DataLayout::Values(types)), Some(RawData::Value(value))) => {
                Some(Data::Values(bytes::read_all(types, value)?))
            }
            _ => return None,
        };
        Some(ElementBody {
            data,
            timeout: element.timeout_ms.map(|ms| u32::try_from(ms / 1_000).unwrap_or(u32::MAX)),
            comment: element.comment.as_deref().map(Comment::new),
        })
    }
}

fn verdict(code: i32, chain: Option<&str>) -> Option<Verdict> {
    let target = || chain?.parse::<Name>().ok();
    Some(match code {
        0 => Verdict::Drop,
        1 => Verdict::Accept,
        NFT_RETURN => Verdict::Return,
        NFT_CONTINUE => Verdict::Continue,
        NFT_JUMP => Verdict::Jump(target()?),
        NFT_GOTO => Verdict::Goto(target()?),
        _ => return None,
    })
}

const TYPES: [Type; 19] = [
    Type::Ipv4Addr,
    Type::Ipv6Addr,
    Type::EtherAddr,
    Type::InetService,
    Type::IfName,
    Type::InetProto,
    Type::Mark,
    Type::EtherType,
    Type::ArpOp,
    Type::IcmpType,
    Type::Icmpv6Type,
    Type::NfProto,
    Type::PktType,
    Type::FibAddrType,
    Type::IfIndex,
    Type::CtState,
    Type::CtStatus,
    Type::CtDirection,
    Type::TcpFlags,
];

/// The fields behind nft's number of a type: six bits each, the first highest.
fn types(number: u32) -> Option<Vec<Type>> {
    let fields = (0..5).rev().map(|i| number >> (6 * i) & 0x3f).skip_while(|field| *field == 0);
    let types: Option<Vec<_>> =
        fields.map(|field| TYPES.iter().copied().find(|kind| type_number(*kind) == field)).collect();
    types.filter(|types| !types.is_empty() && number >> 30 == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::types_number;

    #[test]
    fn every_type_has_its_number() {
        for kind in TYPES {
            assert_eq!(types(type_number(kind)), Some(vec![kind]));
        }
        let several = vec![Type::IfName, Type::Ipv4Addr, Type::InetService, Type::InetProto, Type::EtherAddr];
        assert_eq!(types(types_number(&several)), Some(several));
        assert_eq!(types(0), None);
        assert_eq!(types(DATA_TYPE_VERDICT), None);
    }
}
