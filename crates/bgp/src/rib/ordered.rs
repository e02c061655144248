//! An ordered map whose entries lie side by side in chunks. What comes in order, as routes mostly do, is found beside the last entry
//! that was asked for, and takes no more memory than it is.
//!
//! Invariants: no chunk is empty or has more than [`MOST`] entries; each key is within its chunk's bounds; the upper bound of a
//! chunk is the lower bound of the next one; the first has no lower bound, the last no upper one.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::Bound;

/// Entries in a chunk at most: so many are moved to put one before them.
const MOST: usize = 128;

/// A chunk with fewer is joined with the next one, if that is not full either.
const FEW: usize = MOST / 4;

/// The map.
#[derive(Debug)]
pub struct Ordered<K, V> {
    chunks: Vec<Chunk<K, V>>,
    /// Places in `chunks` by lower bounds.
    directory: BTreeMap<Option<K>, usize>,
    free: Vec<usize>,
    len: usize,
    /// The chunk and the place in it that were last asked for.
    last: Cell<(usize, usize)>,
}

#[derive(Debug)]
struct Chunk<K, V> {
    keys: Vec<K>,
    values: Vec<V>,
    /// Keys are greater.
    low: Option<K>,
    /// They are not greater.
    high: Option<K>,
}

impl<K: Copy + Ord, V> Chunk<K, V> {
    fn new(low: Option<K>, high: Option<K>) -> Self {
        Self { keys: Vec::new(), values: Vec::new(), low, high }
    }

    fn holds(&self, key: K) -> bool {
        !self.keys.is_empty() && self.low.is_none_or(|low| low < key) && self.high.is_none_or(|high| key <= high)
    }

    /// Where a key is, or would be; near `near`, if that fits.
    fn place(&self, key: K, near: usize) -> Result<usize, usize> {
        for place in [near, near + 1] {
            if self.keys.get(place) == Some(&key) {
                return Ok(place);
            }
        }
        match self.keys.last() {
            Some(last) if *last < key => Err(self.keys.len()),
            _ => self.keys.binary_search(&key),
        }
    }

    fn put(&mut self, place: usize, key: K, value: V) {
        self.keys.insert(place, key);
        self.values.insert(place, value);
    }

    /// Cuts off what is behind a place.
    fn split_off(&mut self, place: usize) -> Self {
        // There is one before it.
        let bound = place.checked_sub(1).and_then(|place| self.keys.get(place)).copied();
        Self {
            keys: self.keys.split_off(place),
            values: self.values.split_off(place),
            low: bound,
            high: std::mem::replace(&mut self.high, bound),
        }
    }
}

impl<K, V> Default for Ordered<K, V> {
    fn default() -> Self {
        Self { chunks: Vec::new(), directory: BTreeMap::new(), free: Vec::new(), len: 0, last: Cell::new((0, 0)) }
    }
}

impl<K: Copy + Ord, V> Ordered<K, V> {
    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn get(&self, key: K) -> Option<&V> {
        let (chunk, place) = self.find(key)?;
        self.chunks.get(chunk)?.values.get(place.ok()?)
    }

    pub fn get_mut(&mut self, key: K) -> Option<&mut V> {
        let (chunk, place) = self.find(key)?;
        self.chunks.get_mut(chunk)?.values.get_mut(place.ok()?)
    }

    /// Puts a value where there is none; otherwise the one that there is.
    pub fn put_new(&mut self, key: K, value: V) -> Option<&mut V> {
        match self.find(key) {
            Some((chunk, Ok(place))) => return self.chunks.get_mut(chunk)?.values.get_mut(place),
            Some((chunk, Err(place))) => self.put(chunk, place, key, value),
            None => {
                let chunk = self.add(Chunk::new(None, None));
                self.put(chunk, 0, key, value);
            }
        }
        None
    }

    /// Takes an entry out.
    pub fn remove(&mut self, key: K) -> Option<V> {
        let (at, place) = self.find(key)?;
        let place = place.ok()?;
        let chunk = self.chunks.get_mut(at)?;
        chunk.keys.remove(place);
        let value = chunk.values.remove(place);
        self.len -= 1;
        self.tidy(at);
        Some(value)
    }

    /// Takes out the first entries, as many as `limit`.
    pub fn pop(&mut self, limit: usize, mut take: impl FnMut(K, V)) {
        let mut left = limit;
        while left > 0
            && let Some((_, &at)) = self.directory.first_key_value()
        {
            let Some(chunk) = self.chunks.get_mut(at) else { return };
            let count = chunk.keys.len().min(left);
            left -= count;
            self.len -= count;
            chunk.keys.drain(..count).zip(chunk.values.drain(..count)).for_each(|(key, value)| take(key, value));
            self.tidy(at);
        }
    }

    /// Looks at as many as `limit` entries behind `after`, and takes out those for which `keep` is false. The last key looked at; none
    /// if that was the last one of all.
    pub fn sweep(&mut self, after: Option<K>, limit: usize, mut keep: impl FnMut(K, &mut V) -> bool) -> Option<K> {
        let (mut last, mut left) = (after, limit);
        while left > 0 {
            let (at, from) = self.behind(last)?;
            let chunk = self.chunks.get_mut(at)?;
            let until = chunk.keys.len().min(from + left);
            left -= until - from;
            last = until.checked_sub(1).and_then(|place| chunk.keys.get(place)).copied();
            let mut kept = from;
            for place in from..until {
                if keep(chunk.keys[place], &mut chunk.values[place]) {
                    chunk.keys.swap(kept, place);
                    chunk.values.swap(kept, place);
                    kept += 1;
                }
            }
            chunk.keys.drain(kept..until);
            chunk.values.drain(kept..until);
            self.len -= until - kept;
            if kept < until {
                self.tidy(at);
            }
        }
        self.behind(last).and(last)
    }

    /// Entries behind `after`, in order.
    pub fn after(&self, after: Option<K>) -> After<'_, K, V> {
        After { map: self, at: self.behind(after) }
    }

    /// Where the first entry behind `after` is.
    fn behind(&self, after: Option<K>) -> Option<(usize, usize)> {
        let Some(after) = after else {
            return self.directory.first_key_value().map(|(_, chunk)| (*chunk, 0));
        };
        let at = self.chunk(after)?;
        let chunk = self.chunks.get(at)?;
        let place = chunk.keys.partition_point(|key| *key <= after);
        if place < chunk.keys.len() { Some((at, place)) } else { Some((self.next(chunk)?, 0)) }
    }

    /// The chunk that a key is in, or belongs into.
    fn chunk(&self, key: K) -> Option<usize> {
        let (last, _) = self.last.get();
        if self.chunks.get(last).is_some_and(|chunk| chunk.holds(key)) {
            return Some(last);
        }
        let below = self.directory.range((Bound::Unbounded, Bound::Excluded(Some(key)))).next_back();
        below.map(|(_, chunk)| *chunk)
    }

    fn find(&self, key: K) -> Option<(usize, Result<usize, usize>)> {
        let at = self.chunk(key)?;
        let (last, near) = self.last.get();
        let place = self.chunks.get(at)?.place(key, if at == last { near } else { 0 });
        let (Ok(near) | Err(near)) = place;
        self.last.set((at, near));
        Some((at, place))
    }

    fn put(&mut self, at: usize, place: usize, key: K, value: V) {
        self.len += 1;
        let Some(chunk) = self.chunks.get_mut(at) else { return };
        if chunk.keys.len() < MOST {
            return chunk.put(place, key, value);
        }
        // What comes in order leaves full chunks behind it.
        let middle = if place == MOST { MOST } else { MOST / 2 };
        let mut behind = chunk.split_off(middle);
        if place < middle {
            chunk.put(place, key, value);
            self.add(behind);
        } else {
            behind.put(place - middle, key, value);
            let new = self.add(behind);
            self.last.set((new, place - middle));
        }
    }

    fn add(&mut self, chunk: Chunk<K, V>) -> usize {
        let low = chunk.low;
        let at = match self.free.pop() {
            Some(at) => {
                self.chunks[at] = chunk;
                at
            }
            None => {
                self.chunks.push(chunk);
                self.chunks.len() - 1
            }
        };
        self.directory.insert(low, at);
        at
    }

    /// Entries of a chunk were taken out.
    fn tidy(&mut self, at: usize) {
        let Some(chunk) = self.chunks.get(at) else { return };
        if chunk.keys.is_empty() {
            return self.drop_empty(at);
        }
        if chunk.keys.len() >= FEW {
            return;
        }
        let has_room = |at: &usize| self.chunks.get(*at).is_some_and(|chunk| chunk.keys.len() <= MOST / 2);
        if let Some(before) = self.before(chunk.low).filter(has_room) {
            self.join(before, at);
        } else if let Some(next) = self.next(chunk).filter(has_room) {
            self.join(at, next);
        }
    }

    /// The chunk before one with that lower bound.
    fn before(&self, low: Option<K>) -> Option<usize> {
        self.directory.range(..low).next_back().map(|(_, before)| *before)
    }

    fn next(&self, chunk: &Chunk<K, V>) -> Option<usize> {
        self.directory.get(&Some(chunk.high?)).copied()
    }

    /// Makes one of two neighbours.
    fn join(&mut self, first: usize, second: usize) {
        let mut behind = self.take_out(second);
        if let Some(chunk) = self.chunks.get_mut(first) {
            chunk.keys.append(&mut behind.keys);
            chunk.values.append(&mut behind.values);
            chunk.high = behind.high;
        }
    }

    /// What is between its bounds is the chunk's before it from now on, or the next one's.
    fn drop_empty(&mut self, at: usize) {
        let gone = self.take_out(at);
        if let Some(chunk) = self.before(gone.low).and_then(|before| self.chunks.get_mut(before)) {
            chunk.high = gone.high;
        } else if gone.high.is_some()
            && let Some(next) = self.directory.remove(&gone.high)
        {
            self.chunks[next].low = None;
            self.directory.insert(None, next);
        }
        if self.directory.is_empty() {
            *self = Self::default();
        }
    }

    fn take_out(&mut self, at: usize) -> Chunk<K, V> {
        let chunk = std::mem::replace(&mut self.chunks[at], Chunk::new(None, None));
        self.directory.remove(&chunk.low);
        self.free.push(at);
        chunk
    }
}

/// Entries in order.
pub struct After<'a, K, V> {
    map: &'a Ordered<K, V>,
    /// The next one's chunk, and its place there.
    at: Option<(usize, usize)>,
}

impl<'a, K: Copy + Ord, V> Iterator for After<'a, K, V> {
    type Item = (K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        let (at, place) = self.at?;
        let chunk = self.map.chunks.get(at)?;
        let found = (*chunk.keys.get(place)?, chunk.values.get(place)?);
        self.at = if place + 1 < chunk.keys.len() {
            Some((at, place + 1))
        } else {
            self.map.next(chunk).map(|next| (next, 0))
        };
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// What the invariants say.
    fn check(map: &Ordered<u16, u32>) {
        let mut bound = None;
        let mut count = 0;
        for (low, at) in &map.directory {
            let chunk = &map.chunks[*at];
            assert_eq!((low, chunk.low), (&bound, bound));
            assert!((1..=MOST).contains(&chunk.keys.len()) && chunk.keys.len() == chunk.values.len());
            assert!(chunk.keys.is_sorted_by(|one, next| one < next));
            assert!(chunk.keys.iter().all(|key| chunk.holds(*key)));
            bound = chunk.high;
            count += chunk.keys.len();
        }
        assert_eq!((bound, count), (None, map.len()));
        assert_eq!(map.chunks.len(), map.directory.len() + map.free.len());
    }

    /// What is done: to so many keys from one on, so far apart.
    #[derive(Debug, Clone)]
    enum Deed {
        Put(u16, u16, i8),
        Remove(u16, u16, i8),
        Pop(usize),
        Sweep(Option<u16>, usize, u16),
    }

    fn deed() -> impl Strategy<Value = Deed> {
        let run = || (0..2_000u16, 1..400u16, -3..4i8);
        prop_oneof![
            6 => run().prop_map(|(from, count, step)| Deed::Put(from, count, step)),
            3 => run().prop_map(|(from, count, step)| Deed::Remove(from, count, step)),
            1 => (1..300usize).prop_map(Deed::Pop),
            2 => (any::<bool>(), 0..2_000u16, 1..500usize, 1..5u16)
                .prop_map(|(all, after, limit, every)| Deed::Sweep(Some(after).filter(|_| !all), limit, every)),
        ]
    }

    fn keys(from: u16, count: u16, step: i8) -> impl Iterator<Item = u16> {
        (0..i32::from(count)).filter_map(move |n| u16::try_from(i32::from(from) + n * i32::from(step)).ok())
    }

    fn perform(deed: Deed, map: &mut Ordered<u16, u32>, model: &mut BTreeMap<u16, u32>, value: u32) {
        match deed {
            Deed::Put(from, count, step) => {
                for key in keys(from, count, step) {
                    let there = model.get(&key).copied();
                    assert_eq!(map.put_new(key, value).copied(), there);
                    model.entry(key).or_insert(value);
                }
            }
            Deed::Remove(from, count, step) => {
                for key in keys(from, count, step) {
                    assert_eq!(map.remove(key), model.remove(&key));
                }
            }
            Deed::Pop(limit) => {
                let mut popped = Vec::new();
                map.pop(limit, |key, value| popped.push((key, value)));
                let first: Vec<_> = std::iter::from_fn(|| model.pop_first()).take(limit).collect();
                assert_eq!(popped, first);
            }
            Deed::Sweep(after, limit, every) => {
                let low = after.map_or(Bound::Unbounded, Bound::Excluded);
                let wanted: Vec<u16> = model.range((low, Bound::Unbounded)).map(|(key, _)| *key).collect();
                let mut seen = Vec::new();
                let last = map.sweep(after, limit, |key, value| {
                    *value += 1;
                    seen.push(key);
                    key % every != 0
                });
                assert_eq!(seen, wanted[..wanted.len().min(limit)]);
                assert_eq!(last, (wanted.len() > limit).then(|| wanted[limit - 1]));
                for key in seen {
                    model.entry(key).and_modify(|value| *value += 1);
                }
                let looked_at = &wanted[..wanted.len().min(limit)];
                model.retain(|key, _| looked_at.binary_search(key).is_err() || key % every != 0);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

        #[test]
        fn it_holds_what_an_ordered_map_holds(deeds in vec(deed(), 1..30)) {
            let (mut map, mut model) = (Ordered::default(), BTreeMap::new());
            for (value, deed) in (1..).zip(deeds) {
                perform(deed, &mut map, &mut model, value * 1_000);
                check(&map);
                prop_assert!(map.after(None).eq(model.iter().map(|(key, value)| (*key, value))));
                for key in (0..3_000).step_by(7) {
                    prop_assert_eq!(map.get(key), model.get(&key));
                    prop_assert_eq!(map.get_mut(key), model.get_mut(&key));
                    let behind = model.range(key + 1..).next().map(|(key, value)| (*key, value));
                    prop_assert_eq!(map.after(Some(key)).next(), behind);
                }
            }
        }
    }

    #[test]
    fn what_comes_in_order_leaves_full_chunks_behind_it() {
        let mut map = Ordered::default();
        (0..10_000u16).for_each(|key| assert_eq!(map.put_new(key, 0u32), None));
        assert_eq!(map.directory.len(), 10_000usize.div_ceil(MOST));
        // And in the other direction chunks that are at least half full.
        let mut map = Ordered::default();
        (0..10_000u16).rev().for_each(|key| assert_eq!(map.put_new(key, 0u32), None));
        assert!(map.directory.len() <= 10_000 / (MOST / 2) + 1, "{}", map.directory.len());
    }

    #[test]
    fn few_entries_that_are_left_of_many_take_little() {
        let mut map = Ordered::default();
        (0..10_000u16).for_each(|key| assert_eq!(map.put_new(key, 0u32), None));
        (0..10_000u16).filter(|key| key % 100 != 0).for_each(|key| assert_eq!(map.remove(key), Some(0)));
        assert!(map.directory.len() <= 100 / (FEW / 2), "{} chunks for {} entries", map.directory.len(), map.len());
    }
}
