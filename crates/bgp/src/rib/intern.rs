//! Sets of attributes, each kept once however many routes have it.
//!
//! A set is named by [`AttrId`] and counted: who stores a name has taken a reference and gives it back.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroU32;

use crate::wire::Attributes;

/// The name of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttrId(NonZeroU32);

#[derive(Debug)]
struct Slot {
    hash: u64,
    references: u32,
    attributes: Option<Box<Attributes>>,
}

/// All sets.
#[derive(Debug, Default)]
pub struct Interner {
    slots: Vec<Slot>,
    free: Vec<u32>,
    by_hash: BTreeSet<(u64, u32)>,
}

impl Interner {
    /// The name of a set, with one more reference.
    pub fn intern(&mut self, attributes: Attributes) -> AttrId {
        let hash = {
            // Not seeded: the same sets get the same names in every run.
            let mut hasher = DefaultHasher::new();
            attributes.hash(&mut hasher);
            hasher.finish()
        };
        let same = self.by_hash.range((hash, 0)..=(hash, u32::MAX)).map(|(_, place)| *place);
        for place in same {
            if let Some(slot) = self.slots.get_mut(place as usize)
                && slot.attributes.as_deref() == Some(&attributes)
            {
                slot.references += 1;
                return name(place);
            }
        }
        let slot = Slot { hash, references: 1, attributes: Some(Box::new(attributes)) };
        let place = match self.free.pop() {
            Some(place) => {
                self.slots[place as usize] = slot;
                place
            }
            None => {
                self.slots.push(slot);
                u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
            }
        };
        self.by_hash.insert((hash, place));
        name(place)
    }

    /// One more reference.
    pub fn take(&mut self, id: AttrId) -> AttrId {
        if let Some(slot) = self.slots.get_mut(place(id)) {
            slot.references += 1;
        }
        id
    }

    /// A reference less; the set goes with its last.
    pub fn release(&mut self, id: AttrId) {
        let Some(slot) = self.slots.get_mut(place(id)) else { return };
        slot.references = slot.references.saturating_sub(1);
        if slot.references == 0 && slot.attributes.take().is_some() {
            let place = id.0.get() - 1;
            self.by_hash.remove(&(slot.hash, place));
            self.free.push(place);
        }
    }

    /// The set of a name that is referenced.
    pub fn get(&self, id: AttrId) -> Option<&Attributes> {
        self.slots.get(place(id))?.attributes.as_deref()
    }

    /// How many sets there are.
    pub fn len(&self) -> usize {
        self.by_hash.len()
    }
}

fn name(place: u32) -> AttrId {
    AttrId(NonZeroU32::MIN.saturating_add(place))
}

fn place(id: AttrId) -> usize {
    id.0.get() as usize - 1
}
