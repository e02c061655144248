//! Endpoints in numbered slots, of which a random number picks one.
//!
//! Invariants: slots are 0 to n − 1 without a gap; an endpoint that stays keeps its slot unless that is beyond the new end, and then
//! takes one that became free. So one endpoint more writes one slot; one less writes two, that of the last one included.

use std::collections::BTreeSet;

use crate::Backend;

/// The slots of these endpoints, given what the slots held before.
#[must_use]
pub fn assign(before: &[Backend], wanted: &BTreeSet<Backend>) -> Vec<Backend> {
    let len = wanted.len();
    let mut slots: Vec<Option<Backend>> = vec![None; len];
    let mut placed = BTreeSet::new();
    for (slot, backend) in slots.iter_mut().zip(before) {
        if wanted.contains(backend) && placed.insert(*backend) {
            *slot = Some(*backend);
        }
    }
    let mut others = wanted.iter().filter(|backend| !placed.contains(backend));
    // There are as many others as gaps.
    slots.into_iter().filter_map(|slot| slot.or_else(|| others.next().copied())).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn backends(numbers: &BTreeSet<u8>) -> BTreeSet<Backend> {
        numbers.iter().map(|n| Backend { ip: [10, 0, 0, *n].into(), port: 80 }).collect()
    }

    fn changed(before: &[Backend], after: &[Backend]) -> usize {
        let len = before.len().max(after.len());
        (0..len).filter(|at| before.get(*at) != after.get(*at)).count()
    }

    proptest! {
        #[test]
        fn every_endpoint_has_one_slot_and_a_change_moves_little(
            first in prop::collection::btree_set(0u8..40, 0..20), second in prop::collection::btree_set(0u8..40, 0..20),
        ) {
            let before = assign(&[], &backends(&first));
            let after = assign(&before, &backends(&second));
            prop_assert_eq!(after.iter().copied().collect::<BTreeSet<_>>(), backends(&second));
            prop_assert_eq!(after.len(), second.len());
            let (gone, new) = (first.difference(&second).count(), second.difference(&first).count());
            prop_assert!(changed(&before, &after) <= 2 * gone.max(new), "{before:?} {after:?}");
            prop_assert_eq!(assign(&after, &backends(&second)), after);
        }

        #[test]
        fn whatever_the_slots_held_they_are_right_afterwards(
            held in prop::collection::vec(0u8..10, 0..20), wanted in prop::collection::btree_set(0u8..10, 0..10),
        ) {
            let held: Vec<Backend> = held.iter().map(|n| Backend { ip: [10, 0, 0, *n].into(), port: 80 }).collect();
            let after = assign(&held, &backends(&wanted));
            prop_assert_eq!(after.iter().copied().collect::<BTreeSet<_>>(), backends(&wanted));
            prop_assert_eq!(after.len(), wanted.len());
        }
    }

    #[test]
    fn one_more_writes_one_and_one_less_at_most_two() {
        let all: BTreeSet<u8> = (0..10).collect();
        let before = assign(&[], &backends(&all));
        let mut more = all.clone();
        more.insert(39);
        assert_eq!(changed(&before, &assign(&before, &backends(&more))), 1);
        for gone in 0..10 {
            let mut less = all.clone();
            less.remove(&gone);
            assert!(changed(&before, &assign(&before, &backends(&less))) <= 2);
        }
    }
}
