//! A list that has at most one element as a rule, which then takes no memory of its own: there is one for each prefix that comes by.

use std::ops::Deref;

/// The list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Few<T> {
    /// At most one.
    One(Option<T>),
    /// More.
    More(Box<[T]>),
}

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self::One(None)
    }
}

impl<T> Deref for Few<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Self::One(one) => one.as_slice(),
            Self::More(all) => all,
        }
    }
}

impl<T> FromIterator<T> for Few<T> {
    fn from_iter<I: IntoIterator<Item = T>>(all: I) -> Self {
        let mut all = all.into_iter();
        match (all.next(), all.next()) {
            (Some(first), Some(second)) => Self::More([first, second].into_iter().chain(all).collect()),
            (first, _) => Self::One(first),
        }
    }
}

impl<'a, T> IntoIterator for &'a Few<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_elements_are_there_in_their_order() {
        for count in 0..4 {
            let few: Few<u32> = (0..count).collect();
            assert_eq!(few.to_vec(), (0..count).collect::<Vec<_>>());
            assert_eq!(few.is_empty(), count == 0);
        }
        assert_eq!(Few::<u32>::default().len(), 0);
    }
}
