//! A set that has one member as a rule.
//!
//! Not here: what is fast with thousands of members. There are tens of thousands of these sets, and a tree makes room for eleven members
//! at once.
//!
//! Invariant: in order, without repeats.

/// The set.
#[derive(Debug, Clone)]
pub(crate) struct Few<T>(Vec<T>);

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Ord> Few<T> {
    pub(crate) fn insert(&mut self, member: T) {
        if let Err(place) = self.0.binary_search(&member) {
            self.0.reserve_exact(1);
            self.0.insert(place, member);
        }
    }

    pub(crate) fn remove(&mut self, member: &T) {
        if let Ok(place) = self.0.binary_search(member) {
            self.0.remove(place);
        }
    }

    pub(crate) fn first(&self) -> Option<&T> {
        self.0.first()
    }

    pub(crate) fn iter(&self) -> std::slice::Iter<'_, T> {
        self.0.iter()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_in_order_without_repeats() {
        let mut few = Few::default();
        for member in [3, 1, 2, 3] {
            few.insert(member);
        }
        assert_eq!(few.iter().copied().collect::<Vec<_>>(), [1, 2, 3]);
        few.remove(&1);
        few.remove(&4);
        assert_eq!(few.first(), Some(&2));
        few.remove(&2);
        few.remove(&3);
        assert!(few.is_empty());
    }
}
