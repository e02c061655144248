//! Netlink bytes: batches that change the ruleset as one, and requests that read it.
//!
//! A [`Batch`] collects messages; [`Batch::finish`] numbers them and gives the bytes of one `sendmsg` on a
//! `NETLINK_NETFILTER` socket. The kernel takes all of them or none. It reads a batch in one piece, so the socket's
//! send buffer must hold it (`SO_SNDBUFFORCE`); [`Encoded::bytes`]' length is what is needed.
//!
//! Answers come per message: errors carry a message's number, and with `NETLINK_EXT_ACK` set also the place in it.
//! [`Encoded::explain`] makes a sentence of that. (A socket that is to hear notifications must be bound first.) The last message asks for an answer, so the sender reads until
//! [`crate::decode::Answers`] says it is complete.

mod attr;
mod expr;
mod failure;
mod part;
mod request;
mod set;
#[cfg(test)]
mod tests;

use attr::{Attrs, Userdata};
pub use failure::{Action, Failure, Object};
pub use part::part_digest;
pub(crate) use part::{data_bytes, part_definition};
pub use request::{dump_chains, dump_elements, dump_rules, dump_sets, dump_tables, get_generation};
pub(crate) use set::{flags as set_flags, type_number, types_number, width};

use crate::digest::{Definition, Digest, Hasher};
use crate::implied::hook_number;
use crate::model::{Base, Chain, ElementBody, ElementKey, Fault, Name, Policy, Rule, Set, Table, TableFamily};
use crate::uapi::*;

/// Bytes of elements in one message. An attribute's length has 16 bits; a part of that keeps messages small enough
/// for the kernel to copy.
const ELEMENTS_MAX: usize = 48 * 1024;

/// Length of a netlink and a netfilter header together.
const HEADERS: usize = 20;

/// A batch that cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The definition has a mistake.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// Something is longer than a netlink attribute can be.
    #[error("{0} takes more than the 65535 bytes of a netlink attribute; likely an inline set is too large: name it")]
    TooLarge(String),
    /// A rule has more expressions than the kernel takes.
    #[error("{object} takes {found} bytes of expressions; accepted are up to {accepted}")]
    RuleTooLong {
        /// The rule.
        object: String,
        /// Bytes it has.
        found: usize,
        /// Bytes the kernel surely takes.
        accepted: usize,
    },
}

/// Digest of a table's definition, as [`Batch`] writes it into the table's userdata.
pub fn digest(table: &Table) -> Digest {
    definition(table).digest()
}

pub(crate) fn definition(table: &Table) -> Definition {
    Definition::of(table, |rule| rule_digest(table.family, rule))
}

/// Digest of one rule: of the bytes the kernel gets, of the contents of its inline sets, and of its comment.
fn rule_digest(family: TableFamily, rule: &Rule) -> Digest {
    let encoded = expr::rule(family, rule, &mut 0);
    let mut hasher = Hasher::new();
    hasher.part(&encoded.expressions.bytes);
    for inline in &encoded.sets {
        let mut attrs = Attrs::default();
        set::inline_elements(&mut attrs, &inline.declaration, &inline.entries);
        hasher.part(&attrs.bytes);
    }
    hasher.part(rule.comment.as_ref().map_or(&[][..], |comment| comment.as_str().as_bytes()));
    hasher.finish()
}

/// Where a chain or set is written.
#[derive(Debug, Clone, Copy)]
struct Place<'a> {
    family: TableFamily,
    table: &'a Name,
    /// The part that it is marked as one's of.
    part: Option<&'a Name>,
}

impl<'a> Place<'a> {
    fn of(table: &'a Table) -> Self {
        Self { family: table.family, table: &table.name, part: None }
    }
}

/// Messages that the kernel takes all together or not at all.
#[derive(Debug, Default)]
pub struct Batch {
    generation: Option<u32>,
    messages: Vec<Message>,
    next_id: u32,
}

#[derive(Debug)]
struct Message {
    kind: u8,
    family: TableFamily,
    flags: u16,
    attrs: Vec<u8>,
    record: Record,
}

/// A finished batch.
#[derive(Debug)]
pub struct Encoded {
    /// What is sent, in one piece.
    pub bytes: Vec<u8>,
    first_seq: u32,
    records: Vec<Record>,
}

/// What one message of a finished batch is about.
#[derive(Debug)]
struct Record {
    action: Action,
    object: Object,
    /// Where in the message each element begins, counted from its header.
    elements: Vec<(u32, ElementKey)>,
}

impl Batch {
    /// An empty batch, which the kernel takes at any generation of the ruleset.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty batch which the kernel refuses (`ERESTART`) if the ruleset is no longer of this generation.
    pub fn at_generation(generation: u32) -> Self {
        Self { generation: Some(generation), ..Self::default() }
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Adds a table that is not there, with its sets, chains and rules.
    ///
    /// # Errors
    /// The definition has a mistake, or something in it is too large.
    pub fn add_table(&mut self, table: &Table) -> Result<(), EncodeError> {
        table.check()?;
        self.define(table)
    }

    /// Puts a table with these elements in the place of whatever table has its name, if any. Elements of other tables
    /// are refused.
    ///
    /// # Errors
    /// The definition or an element has a mistake, or something is too large.
    pub fn replace_table<'a>(
        &mut self,
        table: &Table,
        elements: impl IntoIterator<Item = (&'a ElementKey, &'a ElementBody)>,
    ) -> Result<(), EncodeError> {
        table.check()?;
        let elements: Vec<_> = elements.into_iter().collect();
        for (key, body) in &elements {
            if key.family != table.family || key.table != table.name {
                let place = format!("element {key}");
                let problem = format!("belongs to another table than {} {}", table.family, table.name);
                return Err(Fault { place, problem }.into());
            }
            table.check_element(&key.set, &key.key, body)?;
        }
        self.destroy_table(table.family, &table.name)?;
        self.define(table)?;
        self.add_elements(elements)
    }

    /// Deletes a table with all it holds; the batch fails if it is not there.
    ///
    /// # Errors
    /// None today: a name always fits.
    pub fn delete_table(&mut self, family: TableFamily, name: &Name) -> Result<(), EncodeError> {
        let mut attrs = Attrs::default();
        attrs.text(NFTA_TABLE_NAME, name.as_str());
        self.push(NFT_MSG_DELTABLE, family, 0, attrs, Action::Delete, Object::table(family, name))
    }

    /// Deletes a table with all it holds, if it is there.
    ///
    /// # Errors
    /// None today: a name always fits.
    pub fn destroy_table(&mut self, family: TableFamily, name: &Name) -> Result<(), EncodeError> {
        // Created without flags and userdata, so that a table that is there stays as it is until it is deleted.
        let mut attrs = Attrs::default();
        attrs.text(NFTA_TABLE_NAME, name.as_str());
        self.push(NFT_MSG_NEWTABLE, family, NLM_F_CREATE, attrs, Action::Add, Object::table(family, name))?;
        self.delete_table(family, name)
    }

    /// Takes away all rules of a chain that is there.
    ///
    /// # Errors
    /// None today: names always fit.
    pub fn flush_chain(&mut self, family: TableFamily, table: &Name, chain: &Name) -> Result<(), EncodeError> {
        let mut attrs = Attrs::default();
        attrs.text(NFTA_RULE_TABLE, table.as_str()).text(NFTA_RULE_CHAIN, chain.as_str());
        let object = Object::Chain { family, table: table.clone(), chain: chain.clone() };
        self.push(NFT_MSG_DELRULE, family, 0, attrs, Action::Delete, object)
    }

    /// Adds elements; one that is there with the same value stays. To change a map's value, delete the element first,
    /// in the same batch.
    ///
    /// # Errors
    /// An element does not fit into a message.
    pub fn add_elements<'a>(
        &mut self,
        elements: impl IntoIterator<Item = (&'a ElementKey, &'a ElementBody)>,
    ) -> Result<(), EncodeError> {
        self.elements(Action::Add, elements.into_iter().map(|(key, body)| (key, Some(body))))
    }

    /// Deletes elements; the batch fails if one is not there.
    ///
    /// # Errors
    /// An element does not fit into a message.
    pub fn delete_elements<'a>(
        &mut self,
        elements: impl IntoIterator<Item = &'a ElementKey>,
    ) -> Result<(), EncodeError> {
        self.elements(Action::Delete, elements.into_iter().map(|key| (key, None)))
    }

    fn define(&mut self, table: &Table) -> Result<(), EncodeError> {
        let family = table.family;
        let userdata = Userdata::default()
            .optional_text(UDATA_COMMENT, table.comment.as_ref())
            .bytes(UDATA_DIGEST, &digest(table).0);
        let mut attrs = Attrs::default();
        attrs.text(NFTA_TABLE_NAME, table.name.as_str()).be32(NFTA_TABLE_FLAGS, 0);
        attrs.bytes(NFTA_TABLE_USERDATA, &userdata.0);
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        self.push(NFT_MSG_NEWTABLE, family, flags, attrs, Action::Add, Object::table(family, &table.name))?;
        let place = Place::of(table);
        for (name, set) in &table.sets {
            self.define_set(place, name, set, false)?;
        }
        for (name, chain) in &table.chains {
            self.define_chain(place, name, chain)?;
        }
        for (name, chain) in &table.chains {
            self.define_rules(place, name, chain)?;
        }
        Ok(())
    }

    fn define_set(&mut self, place: Place<'_>, name: &Name, set: &Set, is_filled: bool) -> Result<(), EncodeError> {
        let object = Object::Set { family: place.family, table: place.table.clone(), set: name.to_string() };
        let mut attrs = Attrs::default();
        let id = self.take_id();
        let (table, set_name) = (place.table, name.as_str());
        let called = set::SetName { table, set: set_name, id, anonymous: false, part: place.part, is_filled };
        set::declaration(&mut attrs, &called, set, 0);
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        self.push(NFT_MSG_NEWSET, place.family, flags, attrs, Action::Add, object.clone())?;
        if !set::has_leading_end(set) {
            return Ok(());
        }
        let mut attrs = Attrs::default();
        attrs.text(NFTA_SET_ELEM_LIST_TABLE, place.table.as_str()).text(NFTA_SET_ELEM_LIST_SET, name.as_str());
        attrs.be32(NFTA_SET_ELEM_LIST_SET_ID, id);
        attrs.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |a| set::leading_end(a, set));
        self.push(NFT_MSG_NEWSETELEM, place.family, NLM_F_CREATE, attrs, Action::Add, object)
    }

    fn define_chain(&mut self, place: Place<'_>, name: &Name, chain: &Chain) -> Result<(), EncodeError> {
        let object = Object::Chain { family: place.family, table: place.table.clone(), chain: name.clone() };
        let mut attrs = Attrs::default();
        attrs.text(NFTA_CHAIN_TABLE, place.table.as_str()).text(NFTA_CHAIN_NAME, name.as_str());
        if let Some(base) = &chain.base {
            hook(&mut attrs, place.family, base);
        }
        let userdata = Userdata::default().optional_text(UDATA_COMMENT, chain.comment.as_ref()).of_part(place.part);
        if !userdata.0.is_empty() {
            attrs.bytes(NFTA_CHAIN_USERDATA, &userdata.0);
        }
        self.push(NFT_MSG_NEWCHAIN, place.family, NLM_F_CREATE | NLM_F_EXCL, attrs, Action::Add, object)
    }

    fn define_rules(&mut self, place: Place<'_>, name: &Name, chain: &Chain) -> Result<(), EncodeError> {
        for (index, rule) in chain.rules.iter().enumerate() {
            self.define_rule(place, name, index, rule, &rule_digest(place.family, rule))?;
        }
        Ok(())
    }

    fn define_rule(
        &mut self,
        place: Place<'_>,
        chain: &Name,
        index: usize,
        rule: &Rule,
        digest: &Digest,
    ) -> Result<(), EncodeError> {
        let object = Object::Rule {
            family: place.family,
            table: place.table.clone(),
            chain: chain.clone(),
            index,
            text: crate::text::rule(place.family, rule),
        };
        let encoded = expr::rule(place.family, rule, &mut self.next_id);
        // The kernel's own structures must fit into 4095 bytes (`nft_rule.dlen`); no expression's is larger than its
        // message.
        let length = encoded.expressions.bytes.len();
        if length > RULE_MAX {
            return Err(EncodeError::RuleTooLong { object: object.to_string(), found: length, accepted: RULE_MAX });
        }
        for inline in &encoded.sets {
            self.define_inline(place, &object, inline)?;
        }
        let userdata =
            Userdata::default().optional_text(UDATA_COMMENT, rule.comment.as_ref()).bytes(UDATA_DIGEST, &digest.0);
        let mut attrs = Attrs::default();
        attrs.text(NFTA_RULE_TABLE, place.table.as_str()).text(NFTA_RULE_CHAIN, chain.as_str());
        attrs.nest(NFTA_RULE_EXPRESSIONS, |a| a.bytes.extend(&encoded.expressions.bytes));
        attrs.overflow |= encoded.expressions.overflow;
        attrs.bytes(NFTA_RULE_USERDATA, &userdata.0);
        self.push(NFT_MSG_NEWRULE, place.family, NLM_F_CREATE | NLM_F_APPEND, attrs, Action::Add, object)
    }

    fn define_inline(&mut self, place: Place<'_>, rule: &Object, inline: &expr::InlineSet) -> Result<(), EncodeError> {
        let (table, set) = (place.table, inline.name());
        let called = set::SetName { table, set, id: inline.id, anonymous: true, part: None, is_filled: false };
        let mut attrs = Attrs::default();
        set::declaration(&mut attrs, &called, &inline.declaration, inline.entries.len());
        self.push(NFT_MSG_NEWSET, place.family, NLM_F_CREATE, attrs, Action::Add, rule.clone())?;
        let mut attrs = Attrs::default();
        attrs.text(NFTA_SET_ELEM_LIST_TABLE, place.table.as_str()).text(NFTA_SET_ELEM_LIST_SET, inline.name());
        attrs.be32(NFTA_SET_ELEM_LIST_SET_ID, inline.id);
        attrs.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |a| {
            if set::has_leading_end(&inline.declaration) {
                set::leading_end(a, &inline.declaration);
            }
            set::inline_elements(a, &inline.declaration, &inline.entries);
        });
        self.push(NFT_MSG_NEWSETELEM, place.family, NLM_F_CREATE, attrs, Action::Add, rule.clone())
    }

    fn elements<'a>(
        &mut self,
        action: Action,
        elements: impl Iterator<Item = (&'a ElementKey, Option<&'a ElementBody>)>,
    ) -> Result<(), EncodeError> {
        let mut pending: Vec<(&ElementKey, usize)> = Vec::new();
        let mut list = Attrs::default();
        for (key, body) in elements {
            let full = list.bytes.len() > ELEMENTS_MAX;
            let other = pending.last().is_some_and(|(last, _)| !same_set(last, key));
            if full || other {
                self.element_message(action, &pending, &list)?;
                pending.clear();
                list = Attrs::default();
            }
            pending.push((key, list.bytes.len()));
            set::element(&mut list, &key.key, body);
        }
        self.element_message(action, &pending, &list)
    }

    fn element_message(
        &mut self,
        action: Action,
        pending: &[(&ElementKey, usize)],
        list: &Attrs,
    ) -> Result<(), EncodeError> {
        let Some((first, _)) = pending.first() else { return Ok(()) };
        let mut attrs = Attrs { bytes: Vec::new(), overflow: list.overflow };
        attrs.text(NFTA_SET_ELEM_LIST_TABLE, first.table.as_str()).text(NFTA_SET_ELEM_LIST_SET, first.set.as_str());
        let base = HEADERS + attrs.bytes.len() + 4;
        attrs.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |a| a.bytes.extend(&list.bytes));
        let (kind, flags) = match action {
            Action::Add => (NFT_MSG_NEWSETELEM, NLM_F_CREATE),
            Action::Delete => (NFT_MSG_DELSETELEM, 0),
        };
        let object = Object::Elements {
            family: first.family,
            table: first.table.clone(),
            set: first.set.clone(),
            count: pending.len(),
        };
        self.push(kind, first.family, flags, attrs, action, object)?;
        if let Some(message) = self.messages.last_mut() {
            let places = pending.iter().map(|(key, at)| (u32::try_from(base + at).unwrap_or(u32::MAX), (*key).clone()));
            message.record.elements = places.collect();
        }
        Ok(())
    }

    fn take_id(&mut self) -> u32 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    fn push(
        &mut self,
        kind: u8,
        family: TableFamily,
        flags: u16,
        attrs: Attrs,
        action: Action,
        object: Object,
    ) -> Result<(), EncodeError> {
        if attrs.overflow {
            return Err(EncodeError::TooLarge(object.to_string()));
        }
        let record = Record { action, object, elements: Vec::new() };
        self.messages.push(Message { kind, family, flags, attrs: attrs.bytes, record });
        Ok(())
    }

    /// Numbers the messages from `first_seq` on and gives the bytes to send. The sender's next message should be
    /// numbered [`Encoded::next_seq`].
    pub fn finish(self, first_seq: u32) -> Encoded {
        let mut out = Vec::new();
        let mut seq = first_seq;
        let mut begin = Attrs::default();
        if let Some(generation) = self.generation {
            begin.be32(NFNL_BATCH_GENID, generation);
        }
        // The batch markers carry the subsystem in the resource id.
        let subsystem = u16::from(NFNL_SUBSYS_NFTABLES);
        message(&mut out, NFNL_MSG_BATCH_BEGIN, NLM_F_REQUEST, seq, 0, subsystem, &begin.bytes);
        let count = self.messages.len();
        let mut records = Vec::with_capacity(count);
        for (index, one) in self.messages.into_iter().enumerate() {
            seq = seq.wrapping_add(1);
            let ack = if index + 1 == count { NLM_F_ACK } else { 0 };
            let kind = u16::from(NFNL_SUBSYS_NFTABLES) << 8 | u16::from(one.kind);
            message(&mut out, kind, NLM_F_REQUEST | one.flags | ack, seq, family_number(one.family), 0, &one.attrs);
            records.push(one.record);
        }
        message(&mut out, NFNL_MSG_BATCH_END, NLM_F_REQUEST, seq.wrapping_add(1), 0, subsystem, &[]);
        Encoded { bytes: out, first_seq, records }
    }
}

/// Bytes of expressions in a rule that the kernel surely takes.
const RULE_MAX: usize = 4_095;

fn same_set(a: &ElementKey, b: &ElementKey) -> bool {
    a.family == b.family && a.table == b.table && a.set == b.set
}

fn hook(attrs: &mut Attrs, family: TableFamily, base: &Base) {
    attrs.nest(NFTA_CHAIN_HOOK, |a| {
        a.be32(NFTA_HOOK_HOOKNUM, hook_number(family, base.hook));
        a.be32(NFTA_HOOK_PRIORITY, base.priority.cast_unsigned());
        if let Some(device) = &base.device {
            a.text(NFTA_HOOK_DEV, device.as_str());
        }
    });
    attrs.be32(NFTA_CHAIN_POLICY, if base.policy == Policy::Accept { NF_ACCEPT } else { NF_DROP });
    attrs.text(NFTA_CHAIN_TYPE, base.kind.as_str());
}

/// `NFPROTO_*` (linux/netfilter.h).
pub(crate) fn family_number(family: TableFamily) -> u8 {
    match family {
        TableFamily::Inet => 1,
        TableFamily::Ip => 2,
        TableFamily::Arp => 3,
        TableFamily::Netdev => 5,
        TableFamily::Bridge => 7,
        TableFamily::Ip6 => 10,
    }
}

/// Appends a message with its netlink and netfilter headers.
fn message(out: &mut Vec<u8>, kind: u16, flags: u16, seq: u32, family: u8, resource: u16, attrs: &[u8]) {
    let len = u32::try_from(HEADERS + attrs.len()).unwrap_or(u32::MAX);
    out.extend(len.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend(seq.to_ne_bytes());
    out.extend([0; 4]);
    out.extend([family, 0]);
    out.extend(resource.to_be_bytes());
    out.extend(attrs);
}
