//! Declarations of sets and their elements, written.
//!
//! A set of plain values has one kernel element a key. A set with the flag `interval` and a single field has two: the
//! first value, and behind the last one an end mark; an interval that reaches the last value has none, and the
//! userdata says so. Neighbouring intervals share a border: an end and a beginning with the same key. Before the first
//! interval nft expects an end mark at zero. A concatenation with the flag `interval` has one element with both keys.

use super::attr::{Attrs, Userdata};
use super::expr;
use crate::bytes;
use crate::model::{Data, DataType, ElementBody, Key, KeyPart, Name, Set, Type};
use crate::uapi::*;

/// nft's number of a type (nftables, include/datatype.h).
pub(crate) fn type_number(kind: Type) -> u32 {
    match kind {
        Type::NfProto => 2,
        Type::Ipv4Addr => 7,
        Type::Ipv6Addr => 8,
        Type::EtherAddr => 9,
        Type::EtherType => 10,
        Type::ArpOp => 11,
        Type::InetProto => 12,
        Type::InetService => 13,
        Type::IcmpType => 14,
        Type::TcpFlags => 15,
        Type::Mark => 19,
        Type::IfIndex => 20,
        Type::CtState => 26,
        Type::CtDirection => 27,
        Type::CtStatus => 28,
        Type::Icmpv6Type => 29,
        Type::PktType => 31,
        Type::FibAddrType => 38,
        Type::IfName => 41,
    }
}

/// Six bits a field, the first field highest.
pub(crate) fn types_number(types: &[Type]) -> u32 {
    types.iter().fold(0, |number, kind| number << 6 | type_number(*kind))
}

/// nft's number for the byte order of values (nftables, include/datatype.h).
fn byte_order(types: &[Type]) -> u32 {
    match types {
        [Type::IfName | Type::Mark | Type::IfIndex | Type::CtState | Type::CtStatus | Type::FibAddrType] => 1,
        [_] => 2,
        _ => 0,
    }
}

/// The kernel's flags for a named set.
pub(crate) fn flags(set: &Set) -> u32 {
    let bits = [
        (set.interval, NFT_SET_INTERVAL),
        (set.data.is_some(), NFT_SET_MAP),
        (set.timeout, NFT_SET_TIMEOUT),
        (set.dynamic, NFT_SET_EVAL),
        (set.interval && set.key.len() > 1, NFT_SET_CONCAT),
    ];
    bits.iter().filter(|(on, _)| *on).map(|(_, bit)| bit).sum()
}

/// Bytes of a key or of data, as the kernel counts them.
pub(crate) fn width(types: &[Type]) -> u32 {
    u32::try_from(crate::model::width(types)).unwrap_or(u32::MAX)
}

/// What a declaration is called, and how it is told apart within the batch.
pub(super) struct SetName<'a> {
    pub(super) table: &'a Name,
    pub(super) set: &'a str,
    pub(super) id: u32,
    pub(super) anonymous: bool,
    /// The part it is marked as one's of.
    pub(super) part: Option<&'a Name>,
    /// Its elements are that part's definition.
    pub(super) is_filled: bool,
}

/// Writes the attributes of a `NEWSET` message.
pub(super) fn declaration(attrs: &mut Attrs, name: &SetName<'_>, set: &Set, count: usize) {
    let anonymous = if name.anonymous { NFT_SET_ANONYMOUS | NFT_SET_CONSTANT } else { 0 };
    attrs.text(NFTA_SET_TABLE, name.table.as_str()).text(NFTA_SET_NAME, name.set);
    attrs.be32(NFTA_SET_FLAGS, flags(set) | anonymous);
    attrs.be32(NFTA_SET_KEY_TYPE, types_number(&set.key)).be32(NFTA_SET_KEY_LEN, width(&set.key));
    match &set.data {
        None => {}
        Some(DataType::Verdict) => {
            attrs.be32(NFTA_SET_DATA_TYPE, DATA_TYPE_VERDICT).be32(NFTA_SET_DATA_LEN, 0);
        }
        Some(DataType::Values(types)) => {
            attrs.be32(NFTA_SET_DATA_TYPE, types_number(types)).be32(NFTA_SET_DATA_LEN, width(types));
        }
    }
    attrs.be32(NFTA_SET_ID, name.id);
    let size = set.size.or_else(|| if name.anonymous { u32::try_from(count).ok() } else { None });
    let concat = set.interval && set.key.len() > 1;
    if size.is_some() || concat {
        attrs.nest(NFTA_SET_DESC, |a| {
            if let Some(size) = size {
                a.be32(NFTA_SET_DESC_SIZE, size);
            }
            if concat {
                a.nest(NFTA_SET_DESC_CONCAT, |a| fields(a, &set.key));
            }
        });
    }
    if let Some(seconds) = set.default_timeout {
        attrs.be64(NFTA_SET_TIMEOUT, u64::from(seconds) * 1_000);
    }
    let userdata = userdata(set).of_part(name.part);
    let userdata = if name.is_filled { userdata.number(UDATA_FILLED, 1) } else { userdata };
    attrs.bytes(NFTA_SET_USERDATA, &userdata.0);
}

fn fields(attrs: &mut Attrs, key: &[Type]) {
    for kind in key {
        attrs.nest(NFTA_LIST_ELEM, |a| {
            a.be32(NFTA_SET_FIELD_LEN, u32::try_from(kind.len()).unwrap_or(0));
        });
    }
}

fn userdata(set: &Set) -> Userdata {
    let mut out = Userdata::default().number(UDATA_SET_KEYBYTEORDER, byte_order(&set.key));
    if let Some(data) = &set.data {
        let order = match data {
            DataType::Verdict => 0,
            DataType::Values(types) => byte_order(types),
        };
        out = out.number(UDATA_SET_DATABYTEORDER, order);
    }
    // nft must not merge neighbours: each is somebody's.
    out.number(UDATA_SET_MERGE_ELEMENTS, 0).optional_text(UDATA_SET_COMMENT, set.comment.as_ref())
}

/// Writes the end mark at zero that nft expects in front of the first interval.
pub(super) fn leading_end(attrs: &mut Attrs, set: &Set) {
    let width = set.key.first().map_or(0, |kind| kind.len());
    attrs.nest(NFTA_LIST_ELEM, |a| {
        a.data(NFTA_SET_ELEM_KEY, &vec![0; width]);
        a.be32(NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END);
    });
}

/// Whether a set needs [`leading_end`].
pub(super) fn has_leading_end(set: &Set) -> bool {
    set.interval && set.key.len() == 1
}

/// Writes an element as one or two kernel elements. For a deletion only the keys count.
pub(super) fn element(attrs: &mut Attrs, key: &Key, body: Option<&ElementBody>) {
    let (first, last) = bytes::key_bounds(&key.parts);
    if !key.interval {
        return one(attrs, &first, None, false, body);
    }
    if key.parts.len() > 1 {
        return one(attrs, &first, Some(&last), false, body);
    }
    match bytes::successor(&last) {
        Some(end) => {
            one(attrs, &first, None, false, body);
            attrs.nest(NFTA_LIST_ELEM, |a| {
                a.data(NFTA_SET_ELEM_KEY, &end);
                a.be32(NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END);
            });
        }
        None => one(attrs, &first, None, true, body),
    }
}

fn one(attrs: &mut Attrs, key: &[u8], end: Option<&[u8]>, open: bool, body: Option<&ElementBody>) {
    attrs.nest(NFTA_LIST_ELEM, |a| {
        a.data(NFTA_SET_ELEM_KEY, key);
        if let Some(end) = end {
            a.data(NFTA_SET_ELEM_KEY_END, end);
        }
        let Some(body) = body else { return };
        body.data.iter().for_each(|value| data(a, value));
        if let Some(seconds) = body.timeout {
            a.be64(NFTA_SET_ELEM_TIMEOUT, u64::from(seconds) * 1_000);
        }
        let mut userdata = Userdata::default().optional_text(UDATA_ELEM_COMMENT, body.comment.as_ref());
        if open {
            userdata = userdata.number(UDATA_ELEM_FLAGS, UDATA_ELEM_INTERVAL_OPEN);
        }
        if !userdata.0.is_empty() {
            a.bytes(NFTA_SET_ELEM_USERDATA, &userdata.0);
        }
    });
}

/// Writes what an element carries.
pub(crate) fn data(attrs: &mut Attrs, data: &Data) {
    match data {
        Data::Verdict(verdict) => expr::verdict(attrs, NFTA_SET_ELEM_DATA, verdict),
        Data::Values(values) => drop(attrs.data(NFTA_SET_ELEM_DATA, &bytes::values(values.iter()))),
    }
}

/// Writes the elements of an inline set: sorted, as the kernel wants intervals.
pub(super) fn inline_elements(attrs: &mut Attrs, set: &Set, entries: &[(Vec<KeyPart>, Option<Data>)]) {
    let mut entries: Vec<_> = entries.iter().collect();
    entries.sort_by_cached_key(|(parts, _)| bytes::key_bounds(parts));
    for (parts, data) in entries {
        let key = Key { interval: set.interval, parts: parts[..].into() };
        element(attrs, &key, Some(&ElementBody { data: data.clone(), ..ElementBody::default() }));
    }
}
