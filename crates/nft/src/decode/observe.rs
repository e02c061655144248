//! What stands in the kernel, put together from dumps.

use std::collections::BTreeMap;

use super::element::Layout;
use super::{ElementInfo, Message, SetInfo, TableInfo};
use crate::digest::{Definition, Digest, HookShape, SetShape};
use crate::encode;
use crate::model::{ElementBody, ElementKey, Name, Table, TableFamily};
use crate::uapi::{DATA_TYPE_VERDICT, NFT_SET_ANONYMOUS, NFT_SET_EVAL};

/// A table in the kernel, compared with what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedTable {
    /// Its family.
    pub family: TableFamily,
    /// Its name.
    pub name: Name,
    /// The kernel's number for it; another after the table was deleted and added again.
    pub handle: u64,
    /// The digest written with it ([`crate::encode::digest`] of the definition); `None` if this crate did not write it.
    pub digest: Option<Digest>,
    /// Chains, rules and sets are exactly those the digest stands for, and the table is awake. Elements do not count.
    pub intact: bool,
    /// How many rules each chain has.
    pub chains: BTreeMap<String, usize>,
    /// The elements of named sets, except those rules add to (`dynamic`), which are the packets' affair.
    pub elements: BTreeMap<ElementKey, ElementBody>,
    /// Elements that mean nothing in the model, such as a catch-all: another hand's.
    pub foreign_elements: usize,
    awake: bool,
    definition: Definition,
}

impl ObservedTable {
    /// The comment that `nft list` shows, which names the owner.
    pub fn comment(&self) -> Option<&str> {
        self.definition.comment.as_deref()
    }

    /// What is not as in this definition, one sentence each; empty exactly if the table is intact and its digest is
    /// that of the definition. For people: whether to replace a table is told by the digest.
    pub fn differences(&self, wanted: &Table) -> Vec<String> {
        let mut out = Vec::new();
        if !self.awake {
            out.push("the table is dormant".to_owned());
        }
        let wanted = encode::definition(wanted);
        wanted.differences(&self.definition, &mut out);
        if out.is_empty() && self.digest != Some(wanted.digest()) {
            out.push("the table does not carry the digest of its definition".to_owned());
        }
        out
    }
}

/// Collects messages of dumps into tables.
///
/// A table is judged by all that was given: feed the dumps of tables, chains, rules and sets of one generation before
/// reading [`ObservedTable::intact`], and those of elements before reading [`ObservedTable::elements`].
#[derive(Debug, Default)]
pub struct Observation {
    tables: BTreeMap<(TableFamily, String), Partial>,
}

#[derive(Debug, Default)]
struct Partial {
    info: Option<TableInfo>,
    definition: Definition,
    sets: BTreeMap<String, SetInfo>,
    elements: BTreeMap<String, Vec<ElementInfo>>,
}

impl Observation {
    /// Nothing seen yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a message; those that say nothing about a table are passed over.
    pub fn take(&mut self, message: Message) {
        match message {
            Message::Table(info) => {
                let partial = self.table(info.family, &info.name);
                partial.definition.comment.clone_from(&info.comment);
                partial.info = Some(info);
            }
            Message::Chain(info) => {
                let hook = info.base.map(|base| HookShape {
                    kind: base.kind,
                    number: base.hook,
                    priority: base.priority,
                    policy: base.policy,
                    device: base.device,
                });
                let chain = self.table(info.family, &info.table).definition.chains.entry(info.name).or_default();
                chain.hook = hook;
                chain.comment = info.comment;
            }
            Message::Rule(info) => {
                let chains = &mut self.table(info.family, &info.table).definition.chains;
                chains.entry(info.chain).or_default().rules.push(info.digest);
            }
            // Inline sets belong to their rules and cannot be changed.
            Message::Set(info) if info.flags & NFT_SET_ANONYMOUS != 0 => {}
            Message::Set(info) => {
                let shape = SetShape {
                    flags: info.flags,
                    key_type: info.key_type,
                    key_len: info.key_len,
                    data_type: info.data_type,
                    // The kernel tells the size of its own structure for verdicts.
                    data_len: if info.data_type == DATA_TYPE_VERDICT { 0 } else { info.data_len },
                    timeout_ms: info.timeout_ms,
                    size: info.size,
                    comment: info.comment.clone(),
                };
                let partial = self.table(info.family, &info.table);
                partial.definition.sets.insert(info.name.clone(), shape);
                partial.sets.insert(info.name.clone(), info);
            }
            Message::Elements(info) => {
                let partial = self.table(info.family, &info.table);
                partial.elements.entry(info.set).or_default().extend(info.elements);
            }
            Message::Generation(_) | Message::Done | Message::Ack | Message::Refused(_) | Message::Other(_) => {}
        }
    }

    fn table(&mut self, family: TableFamily, name: &str) -> &mut Partial {
        self.tables.entry((family, name.to_owned())).or_default()
    }

    /// The named sets of a table seen so far, for which elements can be asked.
    pub fn sets(&self, family: TableFamily, table: &Name) -> Vec<Name> {
        let found = self.tables.get(&(family, table.to_string()));
        found.into_iter().flat_map(|partial| partial.sets.keys()).filter_map(|name| name.parse().ok()).collect()
    }

    /// The tables, in order. Tables that were not dumped themselves, and tables whose name is none of the model's
    /// (nobody here wrote them), are left out.
    pub fn tables(&self) -> Vec<ObservedTable> {
        self.tables
            .iter()
            .filter_map(|((family, name), partial)| partial.observed(*family, name.parse().ok()?))
            .collect()
    }
}

impl Partial {
    fn observed(&self, family: TableFamily, name: Name) -> Option<ObservedTable> {
        let info = self.info.as_ref()?;
        let mut elements = BTreeMap::new();
        let mut foreign_elements = 0;
        for (set_name, raw) in &self.elements {
            let Some(set) = self.sets.get(set_name).filter(|set| set.flags & NFT_SET_EVAL == 0) else { continue };
            let (Some(layout), Ok(set_name)) = (Layout::of(set), set_name.parse::<Name>()) else {
                foreign_elements += raw.len();
                continue;
            };
            let (read, unreadable) = layout.read(raw);
            foreign_elements += unreadable;
            elements.extend(
                read.into_iter()
                    .map(|(key, body)| (ElementKey { family, table: name.clone(), set: set_name.clone(), key }, body)),
            );
        }
        let awake = info.flags == 0;
        Some(ObservedTable {
            family,
            name,
            handle: info.handle,
            digest: info.digest,
            intact: awake && info.digest == Some(self.definition.digest()),
            chains: self.definition.chains.iter().map(|(name, chain)| (name.clone(), chain.rules.len())).collect(),
            elements,
            foreign_elements,
            awake,
            definition: self.definition.clone(),
        })
    }
}
