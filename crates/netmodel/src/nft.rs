//! The resources of nftables.

use std::collections::BTreeSet;

use ripstop_nft::Digest;
use ripstop_nft::model::{
    Comment, Data, ElementBody, ElementKey, Name, Part, Table, TableFamily, Value, Verdict, part_of,
};
use ripstop_types::IfName;
use serde::{Deserialize, Serialize};

use crate::key::Key;
use crate::resource::Resource;

/// A table of nftables: chains, rules and declarations of sets, without the elements of named sets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NftTable {
    /// The definition.
    pub table: Table,
}

impl NftTable {
    /// The devices at whose ingress its chains stand. A chain cannot be made without its device, and goes with it up to
    /// Linux 6.15; the table stays.
    pub fn devices(&self) -> impl Iterator<Item = &IfName> {
        self.table.chains.values().filter_map(|chain| chain.base.as_ref()?.device.as_ref())
    }
}

/// Chains and sets that come and go in a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NftPart {
    /// The definition. Of one that was read from the kernel only the names of its chains, without rules.
    pub part: Part,
    /// Of one that was read from the kernel: the digest of what is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<Digest>,
}

impl NftPart {
    /// What stands for a part that is in the kernel with these chains, of a definition with this digest.
    #[must_use]
    pub fn found(of: Part, digest: Digest) -> Self {
        Self { part: of, found: Some(digest) }
    }

    fn digest(&self) -> Digest {
        self.found.unwrap_or_else(|| ripstop_nft::encode::part_digest(&self.part))
    }
}

impl From<Part> for NftPart {
    fn from(part: Part) -> Self {
        Self { part, found: None }
    }
}

/// One element of a named set or map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NftElement {
    /// Which one.
    pub key: ElementKey,
    /// What it carries.
    pub body: ElementBody,
}

/// Which values a map that packets fill may have. Elements with others are removed; which keys it has is the packets' affair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NftValues {
    /// The table's family.
    pub family: TableFamily,
    /// The table.
    pub table: Name,
    /// The map, one of a part.
    pub map: Name,
    /// The values. Of one that was read from the kernel those that there are.
    pub values: BTreeSet<Vec<Value>>,
    /// It was read from the kernel.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub found: bool,
}

impl NftTable {
    /// What stands for a table that is in the kernel as it was written, of a definition with this digest. Rules cannot be
    /// read back, but whoever wants the table of that digest has it. `told` is what its own comment says beside the owner.
    #[must_use]
    pub fn written(family: TableFamily, name: &Name, digest: Digest, told: &str) -> Self {
        let told = if told.is_empty() { String::new() } else { format!("; {told}") };
        Self { table: Table::new(family, name).comment(Comment::from(format!("written as {digest}{told}").as_str())) }
    }
}

impl NftElement {
    /// The part that its verdict leads to, and the chain in it. The kernel keeps a chain while something leads there.
    #[must_use]
    pub fn destination(&self) -> Option<(Key, &Name)> {
        let Some(Data::Verdict(Verdict::Jump(chain) | Verdict::Goto(chain))) = &self.body.data else { return None };
        let (family, table) = (self.key.family, self.key.table.clone());
        Some((Key::NftPart { family, table, name: part_of(chain)? }, chain))
    }
}

impl Resource for NftTable {
    fn key(&self) -> Key {
        Key::NftTable { family: self.table.family, name: self.table.name.clone() }
    }

    fn satisfied_by(&self, observed: &Self) -> bool {
        let written =
            || Self::written(self.table.family, &self.table.name, ripstop_nft::encode::digest(&self.table), "");
        let same = |found: &Comment| {
            let mark = found.as_str().split("; ").next();
            written().table.comment.is_some_and(|written| mark == Some(written.as_str()))
        };
        let has_rules = |table: &Table| !table.chains.is_empty() || !table.sets.is_empty();
        self == observed || (!has_rules(&observed.table) && observed.table.comment.as_ref().is_some_and(same))
    }
}

impl Resource for NftElement {
    fn key(&self) -> Key {
        Key::NftElement(self.key.clone())
    }

    fn satisfied_by(&self, observed: &Self) -> bool {
        self.body.data == observed.body.data
    }

    /// An element's value cannot be changed: the old one goes and the new one comes in one transaction.
    fn can_update(&self, observed: &Self) -> bool {
        self.satisfied_by(observed)
    }
}

impl Resource for NftPart {
    fn key(&self) -> Key {
        let Part { family, table, name, .. } = &self.part;
        Key::NftPart { family: *family, table: table.clone(), name: name.clone() }
    }

    fn satisfied_by(&self, observed: &Self) -> bool {
        self == observed || self.digest() == observed.digest()
    }
}

impl Resource for NftValues {
    fn key(&self) -> Key {
        Key::NftValues { family: self.family, table: self.table.clone(), map: self.map.clone() }
    }

    /// What was read has no value too many. Of what was written that is not known: any of its values may come yet.
    fn satisfied_by(&self, observed: &Self) -> bool {
        if observed.found { observed.values.is_subset(&self.values) } else { self.values == observed.values }
    }
}
