//! Sets of attributes, each kept once however many routes have it.
//!
//! A set is named by [`AttrId`] and counted: who stores a name has taken a reference and gives it back.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher, Hash, Hasher};
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
    /// Another set of the same hash.
    same_hash: Option<u32>,
}

/// Of what is a hash already.
#[derive(Debug, Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0 << 8 | u64::from(*byte));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// All sets.
#[derive(Debug, Default)]
pub struct Interner {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// The newest set of each hash. It is asked for single ones and never gone through, so nothing hangs on its order.
    by_hash: HashMap<u64, u32, BuildHasherDefault<AsItIs>>,
    len: usize,
}

impl Interner {
    /// The name of a set, with one more reference.
    pub fn intern(&mut self, attributes: &Attributes) -> AttrId {
        let hash = {
            // Not seeded: the same sets get the same names in every run.
            let mut hasher = DefaultHasher::new();
            attributes.hash(&mut hasher);
            hasher.finish()
        };
        let same_hash = self.by_hash.get(&hash).copied();
        let mut next = same_hash;
        while let Some(place) = next
            && let Some(slot) = self.slots.get_mut(place as usize)
        {
            if slot.attributes.as_deref() == Some(attributes) {
                slot.references += 1;
                return name(place);
            }
            next = slot.same_hash;
        }
        let slot = Slot { hash, references: 1, attributes: Some(Box::new(attributes.clone())), same_hash };
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
        self.by_hash.insert(hash, place);
        self.len += 1;
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
            let (hash, next, place) = (slot.hash, slot.same_hash.take(), id.0.get() - 1);
            self.unlink(hash, place, next);
            self.free.push(place);
            self.len -= 1;
        }
    }

    /// Takes a set out of those of its hash; `next` is the one behind it.
    fn unlink(&mut self, hash: u64, place: u32, next: Option<u32>) {
        let Some(mut before) = self.by_hash.get(&hash).copied() else { return };
        if before == place {
            match next {
                Some(next) => drop(self.by_hash.insert(hash, next)),
                None => drop(self.by_hash.remove(&hash)),
            }
            return;
        }
        while let Some(slot) = self.slots.get_mut(before as usize) {
            match slot.same_hash {
                Some(one) if one == place => {
                    slot.same_hash = next;
                    return;
                }
                Some(one) => before = one,
                None => return,
            }
        }
    }

    /// The set of a name that is referenced.
    pub fn get(&self, id: AttrId) -> Option<&Attributes> {
        self.slots.get(place(id))?.attributes.as_deref()
    }

    /// How many sets there are.
    pub fn len(&self) -> usize {
        self.len
    }
}

fn name(place: u32) -> AttrId {
    AttrId(NonZeroU32::MIN.saturating_add(place))
}

fn place(id: AttrId) -> usize {
    id.0.get() as usize - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_kept_once_also_those_of_one_hash_and_go_with_their_last_reference() {
        let set =
            |med: u32| Attributes { med: Some(med), ..Attributes::new(std::net::IpAddr::from([192, 0, 2, 1]).into()) };
        let mut sets = Interner::default();
        let ids = [1, 2, 3].map(|med| sets.intern(&set(med)));
        // As if they had the hash of the first one.
        let hash = sets.slots[0].hash;
        (sets.by_hash, sets.slots[1].same_hash, sets.slots[2].same_hash) =
            ([(hash, 2)].into_iter().collect(), Some(0), Some(1));
        sets.slots.iter_mut().for_each(|slot| slot.hash = hash);
        assert_eq!((sets.intern(&set(1)), sets.len()), (ids[0], 3));
        sets.release(ids[1]);
        assert_eq!((sets.len(), sets.get(ids[1])), (2, None));
        sets.release(ids[2]);
        sets.release(ids[0]);
        assert_eq!((sets.len(), sets.get(ids[0])), (1, Some(&set(1))));
        assert_eq!(sets.intern(&set(1)), ids[0]);
        sets.release(ids[0]);
        sets.release(ids[0]);
        assert_eq!((sets.len(), sets.by_hash.len()), (0, 0));
        assert!(ids.contains(&sets.intern(&set(4))), "names are used again");
    }
}
