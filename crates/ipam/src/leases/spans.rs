//! A set of numbers kept as disjoint spans: memory and time follow the number of gaps, not of members.

use std::collections::BTreeMap;

/// Members as spans that neither overlap nor touch: first → last, both inside.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Spans(BTreeMap<u128, u128>);

impl Spans {
    /// Whether `n` is a member.
    pub(super) fn contains(&self, n: u128) -> bool {
        self.0.range(..=n).next_back().is_some_and(|(_, last)| *last >= n)
    }

    /// Adds all from `first` to `last`.
    pub(super) fn insert(&mut self, first: u128, last: u128) {
        let (mut first, mut last) = (first, last);
        let below = self.0.range(..=first).next_back().map(|(a, b)| (*a, *b));
        if let Some((a, b)) = below
            && b.saturating_add(1) >= first
        {
            (first, last) = (a, last.max(b));
        }
        while let Some((a, b)) = self.0.range(first..=last.saturating_add(1)).next().map(|(a, b)| (*a, *b)) {
            self.0.remove(&a);
            last = last.max(b);
        }
        self.0.insert(first, last);
    }

    /// Takes out one member.
    pub(super) fn remove(&mut self, n: u128) {
        let Some((first, last)) = self.0.range(..=n).next_back().map(|(a, b)| (*a, *b)).filter(|(_, last)| *last >= n)
        else {
            return;
        };
        self.0.remove(&first);
        if first < n {
            self.0.insert(first, n - 1);
        }
        if n < last {
            self.0.insert(n + 1, last);
        }
    }

    /// The first number from `first` to `last` that is not a member.
    pub(super) fn gap(&self, first: u128, last: u128) -> Option<u128> {
        let below = self.0.range(..=first).next_back();
        let free = match below {
            Some((_, end)) if *end >= first => end.checked_add(1)?,
            _ => first,
        };
        (free <= last).then_some(free)
    }

    /// Count of members from `first` to `last`.
    pub(super) fn count(&self, first: u128, last: u128) -> u128 {
        let start = self.0.range(..=first).next_back().map_or(first, |(a, _)| *a);
        self.0
            .range(start..=last.max(start))
            .filter(|(a, b)| **b >= first && **a <= last)
            .fold(0u128, |sum, (a, b)| sum.saturating_add(((*b).min(last) - (*a).max(first)).saturating_add(1)))
    }

    /// Count of spans, which is what memory follows.
    #[cfg(test)]
    pub(super) fn pieces(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn spans_are_the_set_they_stand_for(
            steps in prop::collection::vec((any::<bool>(), 0u128..64, 0u128..6), 0..80),
            from in 0u128..64,
            length in 0u128..64,
        ) {
            let (mut spans, mut set) = (Spans::default(), BTreeSet::new());
            for (add, first, more) in steps {
                if add {
                    spans.insert(first, first + more);
                    set.extend(first..=first + more);
                } else {
                    spans.remove(first);
                    set.remove(&first);
                }
                prop_assert_eq!(spans.count(0, u128::MAX), set.len() as u128);
                let inside = set.range(from..=from + length).count();
                prop_assert_eq!(spans.count(from, from + length), inside as u128);
                let pieces = set.iter().filter(|n| **n == 0 || !set.contains(&(**n - 1))).count();
                prop_assert_eq!(spans.pieces(), pieces);
            }
            for n in 0..70 {
                prop_assert_eq!(spans.contains(n), set.contains(&n));
            }
            prop_assert_eq!(spans.gap(from, from + length), (from..=from + length).find(|n| !set.contains(n)));
        }
    }

    #[test]
    fn the_ends_of_the_numbers_are_no_exception() {
        let mut spans = Spans::default();
        spans.insert(u128::MAX - 1, u128::MAX);
        assert_eq!(spans.gap(u128::MAX, u128::MAX), None);
        spans.insert(0, u128::MAX);
        assert_eq!(spans.pieces(), 1);
        spans.remove(u128::MAX);
        assert_eq!(spans.gap(0, u128::MAX), Some(u128::MAX));
    }
}
