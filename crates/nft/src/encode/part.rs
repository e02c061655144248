//! Parts of tables, written: made, changed where they stand, removed.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::attr::Attrs;
use super::{Action, Batch, EncodeError, Object, Place, rule_digest, set};
use crate::bytes;
use crate::decode::ObservedPart;
use crate::digest::{self, Definition, Digest, SetShape};
use crate::model::{Chain, Data, ElementBody, ElementKey, Filling, Name, Part, Rule, Table, Value, build};
use crate::uapi::*;

/// Digest of a part's definition, with what it is filled with; the one of [`ObservedPart::digest`] where the part is in the kernel as it was written. Comments of
/// chains and sets do not count.
pub fn part_digest(part: &Part) -> Digest {
    let bounds =
        |(first, last): &(IpAddr, IpAddr)| (bytes::value(&Value::from(*first)), bytes::value(&Value::from(*last)));
    let of = |filling: &Filling| {
        digest::filling(filling.ranges.iter().map(bounds).map(|(first, last)| (first, last, Some(&filling.data))))
    };
    let fillings = part.filled.iter().map(|(set, filling)| (set.as_str(), of(filling)));
    part_definition(part).without_comments().digest().filled(fillings)
}

/// What an element carries, as it is written.
pub(crate) fn data_bytes(data: &Data) -> Vec<u8> {
    let mut attrs = Attrs::default();
    set::data(&mut attrs, data);
    attrs.bytes
}

/// What the kernel is to tell of it.
pub(crate) fn part_definition(part: &Part) -> Definition {
    let table = Table::new(part.family, &part.table).with_part(part);
    Definition::of(&table, |rule| rule_digest(part.family, rule))
}

impl Batch {
    /// Writes a part into its table, in the place of what is there of it. Chains that are there stay, and what leads to them, and
    /// get the new rules in one moment; sets that are declared otherwise, and those that it is filled with, are made anew without the
    /// elements that were there. Chains the part no longer has go: the batch fails where something leads there.
    ///
    /// # Errors
    /// Something is too large for a message. That the part suits its table is for the caller to check ([`Table::check_part`]).
    pub fn write_part(&mut self, part: &Part, there: Option<&ObservedPart>) -> Result<(), EncodeError> {
        self.define_part(part, there)?;
        for (set, filling) in &part.filled {
            self.fill_part(part, set, &filling.ranges)?;
        }
        self.define_part_rules(part)
    }

    /// As [`Self::write_part`], of a part with more in its sets than is written at once: without that, and with rules by which whoever
    /// gets there is dropped. It is filled by [`Self::fill_part`] and ended by [`Self::end_part`], which may be other batches.
    ///
    /// # Errors
    /// Something is too large for a message.
    pub fn begin_part(&mut self, part: &Part, there: Option<&ObservedPart>) -> Result<(), EncodeError> {
        self.define_part(part, there)?;
        let shut = |chain: &Chain| Chain { rules: vec![Rule::new([build::drop()])], ..chain.clone() };
        let chains = part.chains.iter().map(|(name, chain)| (name.clone(), shut(chain))).collect();
        self.define_part_rules(&Part { chains, filled: BTreeMap::new(), ..part.clone() })
    }

    /// Adds ranges to a set that a part is filled with.
    ///
    /// # Errors
    /// Something is too large for a message.
    pub fn fill_part(&mut self, part: &Part, set: &Name, ranges: &[(IpAddr, IpAddr)]) -> Result<(), EncodeError> {
        let Some(filling) = part.filled.get(set) else { return Ok(()) };
        let body = ElementBody::data(filling.data.clone());
        let key = |key| ElementKey { family: part.family, table: part.table.clone(), set: set.clone(), key };
        let keys: Vec<ElementKey> = Filling::keys(ranges).map(key).collect();
        self.add_elements(keys.iter().map(|key| (key, &body)))
    }

    /// Gives a part that was begun its rules.
    ///
    /// # Errors
    /// Something is too large for a message.
    pub fn end_part(&mut self, part: &Part) -> Result<(), EncodeError> {
        for name in part.chains.keys() {
            self.flush_chain(part.family, &part.table, name)?;
        }
        self.define_part_rules(part)
    }

    /// Sets and chains without rules.
    fn define_part(&mut self, part: &Part, there: Option<&ObservedPart>) -> Result<(), EncodeError> {
        let place = Place { family: part.family, table: &part.table, part: Some(&part.name) };
        let has_chain = |name: &Name| there.is_some_and(|there| there.chains.contains(name));
        let stays = |name: &Name, set: &SetShape| {
            let wanted = part.sets.get(name).filter(|_| !part.filled.contains_key(name));
            wanted.is_some_and(|wanted| SetShape::of(wanted).is_declared_like(set))
        };
        if let Some(there) = there {
            self.clear(place, there, |name| part.chains.contains_key(name), stays)?;
        }
        for (name, set) in &part.sets {
            if !there.and_then(|there| there.sets.get(name)).is_some_and(|set| stays(name, set)) {
                self.define_set(place, name, set, part.filled.contains_key(name))?;
            }
        }
        for (name, chain) in part.chains.iter().filter(|(name, _)| !has_chain(name)) {
            self.define_chain(place, name, &Chain { base: None, ..chain.clone() })?;
        }
        Ok(())
    }

    fn define_part_rules(&mut self, part: &Part) -> Result<(), EncodeError> {
        let place = Place { family: part.family, table: &part.table, part: Some(&part.name) };
        part.chains.iter().try_for_each(|(name, chain)| self.define_rules(place, name, chain))
    }

    /// Removes a part with all it has. The batch fails where something leads to it; kernels before 6.2 say so too where the last that
    /// did goes in the same batch.
    ///
    /// # Errors
    /// None today: names always fit.
    pub fn delete_part(&mut self, there: &ObservedPart) -> Result<(), EncodeError> {
        let place = Place { family: there.family, table: &there.table, part: Some(&there.name) };
        self.clear(place, there, |_| false, |_, _| false)
    }

    /// Takes away all rules of a part, and the chains and sets that do not stay.
    fn clear(
        &mut self,
        place: Place<'_>,
        there: &ObservedPart,
        chain_stays: impl Fn(&Name) -> bool,
        set_stays: impl Fn(&Name, &SetShape) -> bool,
    ) -> Result<(), EncodeError> {
        for name in &there.chains {
            self.flush_chain(place.family, place.table, name)?;
        }
        for name in there.chains.iter().filter(|name| !chain_stays(name)) {
            let object = Object::Chain { family: place.family, table: place.table.clone(), chain: name.clone() };
            let mut attrs = Attrs::default();
            attrs.text(NFTA_CHAIN_TABLE, place.table.as_str()).text(NFTA_CHAIN_NAME, name.as_str());
            self.push(NFT_MSG_DELCHAIN, place.family, 0, attrs, Action::Delete, object)?;
        }
        for (name, _) in there.sets.iter().filter(|(name, set)| !set_stays(name, set)) {
            let object = Object::Set { family: place.family, table: place.table.clone(), set: name.to_string() };
            let mut attrs = Attrs::default();
            attrs.text(NFTA_SET_TABLE, place.table.as_str()).text(NFTA_SET_NAME, name.as_str());
            self.push(NFT_MSG_DELSET, place.family, 0, attrs, Action::Delete, object)?;
        }
        Ok(())
    }
}
