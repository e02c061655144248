//! Contents of sets and maps, by the bytes the kernel compares.

use std::collections::BTreeMap;

use crate::bytes;
use crate::model::{Data, KeyPart};

/// The contents of one set.
#[derive(Debug, Default)]
pub(super) struct Contents<'a> {
    /// Keys of single values: all fields, one after another.
    exact: BTreeMap<Vec<Vec<u8>>, Option<&'a Data>>,
    /// Keys with ranges.
    ranges: Vec<(Vec<Bounds>, Option<&'a Data>)>,
}

/// First and last value of a field.
type Bounds = (Vec<u8>, Vec<u8>);

impl<'a> Contents<'a> {
    pub(super) fn insert(&mut self, parts: &[KeyPart], data: Option<&'a Data>) {
        if parts.iter().all(KeyPart::is_single) {
            let key = parts.iter().map(|part| bytes::value(&part.bounds().0)).collect();
            self.exact.insert(key, data);
        } else {
            let bounds = parts.iter().map(|part| {
                let (first, last) = part.bounds();
                (bytes::value(&first), bytes::value(&last))
            });
            self.ranges.push((bounds.collect(), data));
        }
    }

    /// How many elements there are.
    pub(super) fn len(&self) -> usize {
        self.exact.len() + self.ranges.len()
    }

    /// The element for a key: what it maps to, if it is there.
    pub(super) fn get(&self, key: &[Vec<u8>]) -> Option<Option<&'a Data>> {
        if let Some(found) = self.exact.get(key) {
            return Some(*found);
        }
        let inside = |bounds: &[Bounds]| {
            bounds.len() == key.len()
                && bounds.iter().zip(key).all(|((first, last), value)| first <= value && value <= last)
        };
        self.ranges.iter().find(|(bounds, _)| inside(bounds)).map(|(_, data)| *data)
    }

    /// Whether any element could be meant, whatever the fields are that are not known.
    pub(super) fn any_like(&self, key: &[Option<&[u8]>]) -> bool {
        let fits = |first: &[u8], last: &[u8], value: &Option<&[u8]>| value.is_none_or(|v| first <= v && v <= last);
        self.exact.keys().any(|element| element.iter().zip(key).all(|(part, value)| fits(part, part, value)))
            || self
                .ranges
                .iter()
                .any(|(bounds, _)| bounds.iter().zip(key).all(|((first, last), value)| fits(first, last, value)))
    }
}
