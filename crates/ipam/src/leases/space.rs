//! The addresses of one range: given in order behind a cursor, so that a released one comes back as late as possible.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ripstop_types::Millis;

use super::lease::{OwnRange, Window};
use super::spans::Spans;

/// One range. Addresses are kept as offsets from its first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Space {
    pub(super) own: OwnRange,
    /// Reserved and excluded.
    closed: Spans,
    /// Closed, leased or cooling.
    taken: Spans,
    /// Where the next search begins.
    cursor: u128,
    /// Released lately: when each may be given again.
    cooling: BTreeMap<u128, Millis>,
    /// The same, soonest first.
    due: BTreeSet<(Millis, u128)>,
}

impl Space {
    /// A range with nothing leased.
    pub(super) fn new(own: OwnRange) -> Self {
        let mut closed = Spans::default();
        let (prefix, end) = (own.prefix, own.prefix.size() - 1);
        let ends = [Some(prefix.addr()), own.usable.gateway(&prefix), Some(prefix.last())];
        for ip in ends.into_iter().flatten().filter(|ip| own.usable.reserves(&prefix, *ip).is_some()) {
            if let Some(n) = prefix.offset_of(ip) {
                closed.insert(n, n);
            }
        }
        for excluded in own.exclude.iter().filter(|excluded| excluded.overlaps(&prefix)) {
            let first = prefix.offset_of(excluded.addr()).unwrap_or(0);
            closed.insert(first, prefix.offset_of(excluded.last()).unwrap_or(end));
        }
        Self { own, taken: closed.clone(), closed, cursor: 0, cooling: BTreeMap::new(), due: BTreeSet::new() }
    }

    /// The same range under other rules: cursor and cooling addresses stay; leases must be taken again.
    pub(super) fn with_rules_of(&self, own: OwnRange) -> Self {
        let mut space = Self::new(own);
        space.cursor = self.cursor;
        for (n, due) in &self.cooling {
            space.cool(*n, *due);
        }
        space
    }

    /// Marks an address of this range as leased, whether or not it is for pods.
    pub(super) fn take(&mut self, ip: IpAddr) {
        if let Some(n) = self.own.prefix.offset_of(ip) {
            self.warm(n);
            self.taken.insert(n, n);
        }
    }

    /// The address was the last one given: the next search begins behind it.
    pub(super) fn move_cursor(&mut self, ip: IpAddr) {
        if let Some(n) = self.own.prefix.offset_of(ip) {
            self.cursor = if n + 1 < self.own.prefix.size() { n + 1 } else { 0 };
        }
    }

    /// Ends a lease; the address is given again before `due` only if nothing else is free.
    pub(super) fn release(&mut self, ip: IpAddr, due: Option<Millis>) {
        let Some(n) = self.own.prefix.offset_of(ip) else { return };
        self.warm(n);
        match due {
            _ if self.closed.contains(n) => {}
            Some(due) => self.cool(n, due),
            None => self.taken.remove(n),
        }
    }

    /// When an address that is released now may be given again; `None`: at once.
    pub(super) fn due(&self, now: Millis, otherwise_ms: u64) -> Option<Millis> {
        let rest = self.own.cooldown_ms.unwrap_or(otherwise_ms);
        (rest > 0).then(|| now.plus(rest))
    }

    /// Makes addresses free whose time has come.
    pub(super) fn expire(&mut self, now: Millis) {
        while let Some((due, n)) = self.due.first().copied().filter(|(due, _)| *due <= now) {
            self.due.remove(&(due, n));
            self.cooling.remove(&n);
            self.taken.remove(n);
        }
    }

    /// The next free address, within the windows if there are any.
    pub(super) fn free(&self, windows: &[Window]) -> Option<IpAddr> {
        let spans = self.spans(windows);
        let behind = spans.iter().filter_map(|(first, last)| {
            if *last < self.cursor { None } else { self.taken.gap((*first).max(self.cursor), *last) }
        });
        let before = spans.iter().filter_map(|(first, last)| self.taken.gap(*first, *last));
        let n = behind.min().or_else(|| before.min())?;
        self.own.prefix.nth(n)
    }

    /// The cooling address whose time comes first, with that time.
    pub(super) fn coolest(&self, windows: &[Window]) -> Option<(Millis, IpAddr)> {
        let spans = self.spans(windows);
        let inside = |n: u128| spans.iter().any(|(first, last)| (*first..=*last).contains(&n));
        let (due, n) = self.due.iter().find(|(_, n)| inside(*n))?;
        Some((*due, self.own.prefix.nth(*n)?))
    }

    /// Whether the address is of this range and excluded or reserved, with the reason.
    pub(super) fn reserves(&self, ip: IpAddr) -> Option<&'static str> {
        let excluded = self.own.exclude.iter().any(|excluded| excluded.contains(ip)).then_some("it is excluded");
        self.own.usable.reserves(&self.own.prefix, ip).or(excluded)
    }

    /// Addresses for pods, within the windows if there are any.
    pub(super) fn usable(&self, windows: &[Window]) -> u128 {
        let count = |(first, last): &(u128, u128)| (last - first).saturating_add(1) - self.closed.count(*first, *last);
        self.spans(windows).iter().map(count).fold(0, u128::saturating_add)
    }

    /// Addresses that are neither closed, leased, lent nor cooling.
    pub(super) fn rested(&self) -> u128 {
        self.own.prefix.size().saturating_sub(self.taken.count(0, self.own.prefix.size() - 1))
    }

    /// Count of cooling addresses.
    pub(super) fn cooling(&self) -> usize {
        self.cooling.len()
    }

    /// Cooling addresses with the moment each is free again.
    pub(super) fn cooling_rows(&self) -> impl Iterator<Item = (IpAddr, Millis)> {
        self.cooling.iter().filter_map(|(n, due)| Some((self.own.prefix.nth(*n)?, *due)))
    }

    /// The address the next search begins at.
    pub(super) fn cursor(&self) -> Option<IpAddr> {
        self.own.prefix.nth(self.cursor)
    }

    /// Sets what [`Self::cursor`] gave.
    pub(super) fn set_cursor(&mut self, ip: IpAddr) {
        self.cursor = self.own.prefix.offset_of(ip).unwrap_or(0);
    }

    /// What windows leave of this range, as disjoint spans of offsets in order; the whole range without windows.
    pub(super) fn spans(&self, windows: &[Window]) -> Vec<(u128, u128)> {
        let (prefix, end) = (self.own.prefix, self.own.prefix.size() - 1);
        let windows: Vec<_> = windows.iter().filter(|w| w.first.is_ipv4() == prefix.addr().is_ipv4()).collect();
        if windows.is_empty() {
            return vec![(0, end)];
        }
        let mut inside: Vec<_> = windows
            .iter()
            .filter(|w| w.first <= w.last && w.last >= prefix.addr() && w.first <= prefix.last())
            .map(|w| (prefix.offset_of(w.first).unwrap_or(0), prefix.offset_of(w.last).unwrap_or(end)))
            .collect();
        inside.sort_unstable();
        let mut spans: Vec<(u128, u128)> = Vec::with_capacity(inside.len());
        for (first, last) in inside {
            match spans.last_mut() {
                Some((_, end)) if first <= *end => *end = (*end).max(last),
                _ => spans.push((first, last)),
            }
        }
        spans
    }

    fn cool(&mut self, n: u128, due: Millis) {
        if !self.closed.contains(n) {
            self.cooling.insert(n, due);
            self.due.insert((due, n));
            self.taken.insert(n, n);
        }
    }

    fn warm(&mut self, n: u128) {
        if let Some(due) = self.cooling.remove(&n) {
            self.due.remove(&(due, n));
        }
    }
}
