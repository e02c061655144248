//! What stands in the kernel, put together from dumps.

use std::collections::{BTreeMap, BTreeSet};

use super::element::Layout;
use super::{ElementInfo, Message, SetInfo, TableInfo};
use crate::bytes;
use crate::digest::{self, Definition, Digest, HookShape, SetShape};
use crate::encode;
use crate::model::{ElementBody, ElementKey, Name, Part, Table, TableFamily};
use crate::uapi::{DATA_TYPE_VERDICT, NFT_SET_ANONYMOUS, NFT_SET_EVAL, NFT_SET_MAP};

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
    /// The elements of sets that rules add to, as far as they were read.
    pub learned: BTreeMap<ElementKey, ElementBody>,
    /// What comes and goes in it, by name. The digest does not count these, nor do [`Self::chains`].
    pub parts: BTreeMap<Name, ObservedPart>,
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

/// A part of a table in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedPart {
    /// The table's family.
    pub family: TableFamily,
    /// The table.
    pub table: Name,
    /// Its own name.
    pub name: Name,
    /// The digest of what is there; that of a definition ([`crate::encode::part_digest`]) exactly if that is what is there. Sets that a
    /// definition fills are taken to be empty where their elements were not read.
    pub digest: Digest,
    /// Its chains.
    pub chains: BTreeSet<Name>,
    /// What a chain says of itself, which names the owner.
    pub comment: Option<String>,
    /// Its sets.
    pub(crate) sets: BTreeMap<Name, SetShape>,
}

/// What is found where it is as it was written.
impl From<&Part> for ObservedPart {
    fn from(part: &Part) -> Self {
        let digest = encode::part_digest(part);
        Self { digest, ..observed_part(part.family, &part.table, part.name.clone(), encode::part_definition(part), []) }
    }
}

impl ObservedPart {
    /// Its maps that packets fill.
    pub fn learning_maps(&self) -> impl Iterator<Item = &Name> {
        self.sets
            .iter()
            .filter(|(_, set)| set.flags & NFT_SET_EVAL != 0 && set.flags & NFT_SET_MAP != 0)
            .map(|(name, _)| name)
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
    /// The part of each chain that is marked.
    parts: BTreeMap<String, String>,
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
                let partial = self.table(info.family, &info.table);
                partial.parts.extend(info.part.map(|part| (info.name.clone(), part)));
                let chain = partial.definition.chains.entry(info.name).or_default();
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

    /// The named sets of a table seen so far whose elements are the model's: not those that rules add to, nor those that a part's
    /// definition fills.
    pub fn sets(&self, family: TableFamily, table: &Name) -> Vec<Name> {
        self.sets_that(family, table, |set| set.flags & NFT_SET_EVAL == 0 && !set.is_filled)
    }

    /// The named sets of a table seen so far that a part's definition fills.
    pub fn filled_sets(&self, family: TableFamily, table: &Name) -> Vec<Name> {
        self.sets_that(family, table, |set| set.is_filled)
    }

    /// The named maps of a table seen so far that rules add to.
    pub fn dynamic_maps(&self, family: TableFamily, table: &Name) -> Vec<Name> {
        self.sets_that(family, table, |set| set.flags & NFT_SET_EVAL != 0 && set.flags & NFT_SET_MAP != 0)
    }

    /// Whether a named set of a table was seen so far.
    pub fn has_set(&self, family: TableFamily, table: &Name, set: &Name) -> bool {
        let found = self.tables.get(&(family, table.to_string()));
        found.is_some_and(|partial| partial.sets.contains_key(set.as_str()))
    }

    fn sets_that(&self, family: TableFamily, table: &Name, are: impl Fn(&SetInfo) -> bool) -> Vec<Name> {
        let found = self.tables.get(&(family, table.to_string())).into_iter().flat_map(|partial| &partial.sets);
        found.filter(|(_, set)| are(set)).filter_map(|(name, _)| name.parse().ok()).collect()
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
        let (mut elements, mut learned) = (BTreeMap::new(), BTreeMap::new());
        let mut foreign_elements = 0;
        for (set_name, raw) in &self.elements {
            let Some(set) = self.sets.get(set_name).filter(|set| !set.is_filled) else { continue };
            let (Some(layout), Ok(set_name)) = (Layout::of(set), set_name.parse::<Name>()) else {
                foreign_elements += raw.len();
                continue;
            };
            let (read, unreadable) = layout.read(raw);
            let is_dynamic = set.flags & NFT_SET_EVAL != 0;
            foreign_elements += if is_dynamic { 0 } else { unreadable };
            let of_set = |key| ElementKey { family, table: name.clone(), set: set_name.clone(), key };
            let into = if is_dynamic { &mut learned } else { &mut elements };
            into.extend(read.into_iter().map(|(key, body)| (of_set(key), body)));
        }
        let awake = info.flags == 0;
        let (definition, parts) = self.parted();
        let parts = parts.into_iter().filter_map(|(part, found)| {
            let part: Name = part.parse().ok()?;
            let filled = found.sets.keys().filter(|set| self.sets.get(*set).is_some_and(|set| set.is_filled));
            let fillings: Vec<_> = filled.map(|set| (set.clone(), self.filling(set))).collect();
            let fillings = fillings.iter().map(|(set, digest)| (set.as_str(), *digest));
            Some((part.clone(), observed_part(family, &name, part, found, fillings)))
        });
        Some(ObservedTable {
            family,
            handle: info.handle,
            digest: info.digest,
            intact: awake && info.digest == Some(definition.digest()),
            chains: definition.chains.iter().map(|(name, chain)| (name.clone(), chain.rules.len())).collect(),
            elements,
            foreign_elements,
            learned,
            parts: parts.collect(),
            awake,
            definition,
            name,
        })
    }

    /// The digest of what is in a set that a definition fills. With an element that means nothing in the model it is no definition's.
    fn filling(&self, set: &str) -> Digest {
        let (info, raw) = (self.sets.get(set), self.elements.get(set).map_or(&[][..], Vec::as_slice));
        let (read, strange) = info.and_then(Layout::of).map_or((Vec::new(), raw.len()), |layout| layout.read(raw));
        let elements = read.iter().map(|(key, body)| (bytes::key_bounds(&key.parts), body.data.as_ref()));
        let nonsense = (strange > 0).then_some(((Vec::new(), Vec::new()), None));
        digest::filling(elements.chain(nonsense).map(|((first, last), data)| (first, last, data)))
    }

    /// The table's own chains and sets, and those of each part.
    fn parted(&self) -> (Definition, BTreeMap<&str, Definition>) {
        let mut own = Definition { comment: self.definition.comment.clone(), ..Definition::default() };
        let mut parts: BTreeMap<&str, Definition> = BTreeMap::new();
        for (name, chain) in &self.definition.chains {
            let of = self.parts.get(name).map_or(&mut own, |part| parts.entry(part).or_default());
            of.chains.insert(name.clone(), chain.clone());
        }
        for (name, shape) in &self.definition.sets {
            let part = self.sets.get(name).and_then(|set| set.part.as_deref());
            let of = part.map_or(&mut own, |part| parts.entry(part).or_default());
            of.sets.insert(name.clone(), shape.clone());
        }
        (own, parts)
    }
}

fn observed_part<'a>(
    family: TableFamily,
    table: &Name,
    name: Name,
    found: Definition,
    fillings: impl IntoIterator<Item = (&'a str, Digest)>,
) -> ObservedPart {
    ObservedPart {
        family,
        table: table.clone(),
        name,
        chains: found.chains.keys().filter_map(|name| name.parse().ok()).collect(),
        comment: found.chains.values().find_map(|chain| chain.comment.clone()),
        sets: found.sets.iter().filter_map(|(name, set)| Some((name.parse().ok()?, set.clone()))).collect(),
        digest: found.without_comments().digest().filled(fillings.into_iter()),
    }
}
