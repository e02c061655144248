//! Netlink bytes, read: dumps, notifications and answers.
//!
//! [`messages`] takes what one `recv` gave. Bytes may come from anywhere: nothing here panics, and a length that leads
//! outside is an error that says where. What is well formed but unknown becomes [`Message::Other`].
//!
//! A dump that was interrupted by a change says so ([`Received::interrupted`]) and must be asked for again. Dumps of
//! chains, rules, sets and elements are several requests: they belong together only if the generation
//! ([`crate::encode::get_generation`]) is the same before and behind them.

mod answers;
mod attr;
mod element;
mod observe;

pub use answers::{Answers, Refusal};
use attr::{Attrs, Userdata, list};
pub use element::{ElementInfo, ElementsInfo, RawData};
pub use observe::{Observation, ObservedPart, ObservedTable};

use crate::digest::Digest;
use crate::model::TableFamily;
use crate::uapi::*;

/// Bytes that are no netlink.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A message's length leads outside, or is shorter than its header.
    #[error("a netlink message at byte {offset} says it has {length} bytes; {left} are left, and a header has 16")]
    Message {
        /// Where it begins.
        offset: usize,
        /// The length it says.
        length: usize,
        /// Bytes from there to the end.
        left: usize,
    },
    /// An attribute's length leads outside, or is shorter than its header.
    #[error("netlink attribute {kind} says it has {length} bytes; {left} are left, and a header has 4")]
    Attribute {
        /// Its number.
        kind: u16,
        /// The length it says.
        length: usize,
        /// Bytes from there to the end.
        left: usize,
    },
    /// An attribute that such a message always has is absent or has the wrong length.
    #[error("a netlink message of type {message} lacks attribute {attribute}, or it has the wrong length")]
    Missing {
        /// The message's number within nf_tables.
        message: u8,
        /// The attribute's number.
        attribute: u16,
    },
}

/// A message with what its header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// The number of the request it answers; 0 of a notification.
    pub seq: u32,
    /// The dump it belongs to is inconsistent.
    pub interrupted: bool,
    /// The contents.
    pub message: Message,
}

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// `NEWTABLE`
    Table(TableInfo),
    /// `NEWCHAIN`
    Chain(ChainInfo),
    /// `NEWRULE`
    Rule(RuleInfo),
    /// `NEWSET`
    Set(SetInfo),
    /// `NEWSETELEM`
    Elements(ElementsInfo),
    /// `NEWGEN`: the answer to a request, or the notification behind every change.
    Generation(GenerationInfo),
    /// The end of a dump.
    Done,
    /// Consent to the message with the same number.
    Ack,
    /// The kernel refuses the message with the same number.
    Refused(Refusal),
    /// Anything else, by its netlink type.
    Other(u16),
}

/// A table in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableInfo {
    /// Its family.
    pub family: TableFamily,
    /// Its name.
    pub name: String,
    /// The kernel's number for it; another after the table was deleted and added again.
    pub handle: u64,
    /// `NFT_TABLE_F_*`: 1 is dormant.
    pub flags: u32,
    /// The comment `nft list` shows.
    pub comment: Option<String>,
    /// The digest of its definition, if it was written by this crate.
    pub digest: Option<Digest>,
}

/// A chain in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // As in `model::Chain`.
pub struct ChainInfo {
    pub family: TableFamily,
    pub table: String,
    pub name: String,
    pub handle: u64,
    pub base: Option<BaseInfo>,
    pub comment: Option<String>,
    /// The part of its table that it is marked as one's of.
    pub part: Option<String>,
}

/// Where the kernel calls a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // As in `model::Base`, in the kernel's numbers.
pub struct BaseInfo {
    pub kind: String,
    pub hook: u32,
    pub priority: i32,
    pub policy: u32,
    pub device: Option<String>,
}

/// A rule in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct RuleInfo {
    pub family: TableFamily,
    pub table: String,
    pub chain: String,
    pub handle: u64,
    pub comment: Option<String>,
    /// The digest of the rule, if it was written by this crate.
    pub digest: Option<Digest>,
    /// The names of its expressions.
    pub expressions: Vec<String>,
}

/// A set or map in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // The kernel's own attributes.
pub struct SetInfo {
    pub family: TableFamily,
    pub table: String,
    pub name: String,
    pub handle: u64,
    pub flags: u32,
    pub key_type: u32,
    pub key_len: u32,
    pub data_type: u32,
    pub data_len: u32,
    pub timeout_ms: u64,
    pub size: u32,
    pub comment: Option<String>,
    /// The part of its table that it is marked as one's of.
    pub part: Option<String>,
    /// Its elements are that part's definition.
    pub is_filled: bool,
}

/// The ruleset's generation, and who made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GenerationInfo {
    /// The generation's number.
    pub id: u32,
    /// The thread that made it, by the number `gettid(2)` gives; in notifications.
    pub thread: Option<u32>,
    /// That thread's name; in notifications.
    pub program: Option<String>,
}

/// The messages in what one `recv` gave.
///
/// # Errors
/// The bytes are no netlink, or a message lacks what its kind always has. Messages before the fault are lost, as the
/// caller cannot go on with half a dump.
pub fn messages(bytes: &[u8]) -> Result<Vec<Received>, DecodeError> {
    let mut out = Vec::new();
    let mut offset = 0;
    while let Some(rest) = bytes.get(offset..).filter(|rest| !rest.is_empty()) {
        let length = word(rest, 0).and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        let fault = DecodeError::Message { offset, length, left: rest.len() };
        let one = rest.get(..length).filter(|one| one.len() >= 16).ok_or(fault)?;
        out.push(received(one)?);
        offset += length.next_multiple_of(4);
    }
    Ok(out)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

fn half(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_ne_bytes)
}

fn received(bytes: &[u8]) -> Result<Received, DecodeError> {
    let (kind, flags, seq) = (half(bytes, 4), half(bytes, 6), word(bytes, 8).unwrap_or(0));
    let body = bytes.get(16..).unwrap_or(&[]);
    let message = match kind {
        NLMSG_DONE => match word(body, 0).map(u32::cast_signed) {
            // A dump that failed says so at its end.
            Some(code) if code < 0 => {
                Message::Refused(Refusal { seq, errno: code.saturating_neg(), offset: None, message: None })
            }
            _ => Message::Done,
        },
        NLMSG_ERROR => answers::error(seq, flags, body),
        _ if kind >> 8 == u16::from(NFNL_SUBSYS_NFTABLES) => table_message(kind, body)?,
        _ => Message::Other(kind),
    };
    Ok(Received { seq, interrupted: flags & NLM_F_DUMP_INTR != 0, message })
}

fn family_of(number: u8) -> Option<TableFamily> {
    Some(match number {
        1 => TableFamily::Inet,
        2 => TableFamily::Ip,
        3 => TableFamily::Arp,
        5 => TableFamily::Netdev,
        7 => TableFamily::Bridge,
        10 => TableFamily::Ip6,
        _ => return None,
    })
}

fn table_message(kind: u16, body: &[u8]) -> Result<Message, DecodeError> {
    let number = kind.to_be_bytes()[1];
    let attrs = Attrs::parse(body.get(4..).unwrap_or(&[]))?;
    if number == NFT_MSG_NEWGEN {
        return generation(&attrs).map(Message::Generation);
    }
    let Some(family) = body.first().copied().and_then(family_of) else { return Ok(Message::Other(kind)) };
    Ok(match number {
        NFT_MSG_NEWTABLE => Message::Table(table(family, &attrs)?),
        NFT_MSG_NEWCHAIN => Message::Chain(chain(family, &attrs)?),
        NFT_MSG_NEWRULE => Message::Rule(rule(family, &attrs)?),
        NFT_MSG_NEWSET => Message::Set(set(family, &attrs)?),
        NFT_MSG_NEWSETELEM => Message::Elements(element::elements(family, &attrs)?),
        _ => Message::Other(kind),
    })
}

fn need<T>(message: u8, attribute: u16, found: Option<T>) -> Result<T, DecodeError> {
    found.ok_or(DecodeError::Missing { message, attribute })
}

fn digest(userdata: &Userdata<'_>) -> Option<Digest> {
    userdata.bytes(UDATA_DIGEST)?.try_into().ok().map(Digest)
}

fn part(userdata: &Userdata<'_>) -> Option<String> {
    std::str::from_utf8(userdata.bytes(UDATA_PART)?).ok().map(str::to_owned)
}

fn generation(attrs: &Attrs<'_>) -> Result<GenerationInfo, DecodeError> {
    Ok(GenerationInfo {
        id: need(NFT_MSG_NEWGEN, NFTA_GEN_ID, attrs.be32(NFTA_GEN_ID))?,
        thread: attrs.be32(NFTA_GEN_PROC_PID),
        program: attrs.text(NFTA_GEN_PROC_NAME),
    })
}

fn table(family: TableFamily, attrs: &Attrs<'_>) -> Result<TableInfo, DecodeError> {
    let userdata = Userdata::parse(attrs.bytes(NFTA_TABLE_USERDATA));
    Ok(TableInfo {
        family,
        name: need(NFT_MSG_NEWTABLE, NFTA_TABLE_NAME, attrs.text(NFTA_TABLE_NAME))?,
        handle: attrs.be64(NFTA_TABLE_HANDLE).unwrap_or(0),
        flags: attrs.be32(NFTA_TABLE_FLAGS).unwrap_or(0),
        comment: userdata.text(UDATA_COMMENT),
        digest: digest(&userdata),
    })
}

fn chain(family: TableFamily, attrs: &Attrs<'_>) -> Result<ChainInfo, DecodeError> {
    let hook = attrs.nested(NFTA_CHAIN_HOOK)?;
    let base = match attrs.text(NFTA_CHAIN_TYPE) {
        None => None,
        Some(kind) => Some(BaseInfo {
            kind,
            hook: need(NFT_MSG_NEWCHAIN, NFTA_CHAIN_HOOK, hook.be32(NFTA_HOOK_HOOKNUM))?,
            priority: need(NFT_MSG_NEWCHAIN, NFTA_CHAIN_HOOK, hook.be32(NFTA_HOOK_PRIORITY))?.cast_signed(),
            policy: attrs.be32(NFTA_CHAIN_POLICY).unwrap_or(NF_ACCEPT),
            device: hook.text(NFTA_HOOK_DEV),
        }),
    };
    let userdata = Userdata::parse(attrs.bytes(NFTA_CHAIN_USERDATA));
    Ok(ChainInfo {
        family,
        table: need(NFT_MSG_NEWCHAIN, NFTA_CHAIN_TABLE, attrs.text(NFTA_CHAIN_TABLE))?,
        name: need(NFT_MSG_NEWCHAIN, NFTA_CHAIN_NAME, attrs.text(NFTA_CHAIN_NAME))?,
        handle: attrs.be64(NFTA_CHAIN_HANDLE).unwrap_or(0),
        base,
        comment: userdata.text(UDATA_COMMENT),
        part: part(&userdata),
    })
}

fn rule(family: TableFamily, attrs: &Attrs<'_>) -> Result<RuleInfo, DecodeError> {
    let userdata = Userdata::parse(attrs.bytes(NFTA_RULE_USERDATA));
    let mut expressions = Vec::new();
    for (_, one) in list(attrs.bytes(NFTA_RULE_EXPRESSIONS).unwrap_or(&[]))? {
        expressions.extend(Attrs::parse(one)?.text(NFTA_EXPR_NAME));
    }
    Ok(RuleInfo {
        family,
        table: need(NFT_MSG_NEWRULE, NFTA_RULE_TABLE, attrs.text(NFTA_RULE_TABLE))?,
        chain: need(NFT_MSG_NEWRULE, NFTA_RULE_CHAIN, attrs.text(NFTA_RULE_CHAIN))?,
        handle: attrs.be64(NFTA_RULE_HANDLE).unwrap_or(0),
        comment: userdata.text(UDATA_COMMENT),
        digest: digest(&userdata),
        expressions,
    })
}

fn set(family: TableFamily, attrs: &Attrs<'_>) -> Result<SetInfo, DecodeError> {
    let number = |kind| attrs.be32(kind).unwrap_or(0);
    let userdata = Userdata::parse(attrs.bytes(NFTA_SET_USERDATA));
    Ok(SetInfo {
        family,
        table: need(NFT_MSG_NEWSET, NFTA_SET_TABLE, attrs.text(NFTA_SET_TABLE))?,
        name: need(NFT_MSG_NEWSET, NFTA_SET_NAME, attrs.text(NFTA_SET_NAME))?,
        handle: attrs.be64(NFTA_SET_HANDLE).unwrap_or(0),
        flags: number(NFTA_SET_FLAGS),
        key_type: number(NFTA_SET_KEY_TYPE),
        key_len: number(NFTA_SET_KEY_LEN),
        data_type: number(NFTA_SET_DATA_TYPE),
        data_len: number(NFTA_SET_DATA_LEN),
        timeout_ms: attrs.be64(NFTA_SET_TIMEOUT).unwrap_or(0),
        size: attrs.nested(NFTA_SET_DESC)?.be32(NFTA_SET_DESC_SIZE).unwrap_or(0),
        comment: userdata.text(UDATA_SET_COMMENT),
        part: part(&userdata),
        is_filled: userdata.bytes(UDATA_FILLED).is_some(),
    })
}
