//! Values by prefix, in order, IPv4 before IPv6.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ripstop_types::{Family, Prefix};

use super::ordered::{After, Ordered};

/// An IPv4 prefix as one number: the address, then the length, so they are ordered as prefixes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key4(u64);

/// An IPv6 prefix, without the padding of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key6([u8; 16], u8);

#[derive(Debug, Clone, Copy)]
enum Key {
    V4(Key4),
    V6(Key6),
}

impl Key {
    fn of(prefix: Prefix) -> Self {
        match prefix.addr() {
            IpAddr::V4(address) => Self::V4(Key4(u64::from(address.to_bits()) << 8 | u64::from(prefix.len()))),
            IpAddr::V6(address) => Self::V6(Key6(address.octets(), prefix.len())),
        }
    }

    fn v4(self) -> Option<Key4> {
        match self {
            Self::V4(key) => Some(key),
            Self::V6(_) => None,
        }
    }

    fn v6(self) -> Option<Key6> {
        match self {
            Self::V4(_) => None,
            Self::V6(key) => Some(key),
        }
    }
}

impl Key4 {
    fn prefix(self) -> Option<Prefix> {
        let [_, _, _, a, b, c, d, length] = self.0.to_be_bytes();
        Prefix::containing(Ipv4Addr::new(a, b, c, d).into(), length)
    }
}

impl Key6 {
    fn prefix(self) -> Option<Prefix> {
        Prefix::containing(Ipv6Addr::from(self.0).into(), self.1)
    }
}

/// The values.
#[derive(Debug)]
pub struct ByPrefix<V> {
    v4: Ordered<Key4, V>,
    v6: Ordered<Key6, V>,
}

impl<V> Default for ByPrefix<V> {
    fn default() -> Self {
        Self { v4: Ordered::default(), v6: Ordered::default() }
    }
}

impl<V> ByPrefix<V> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn has(&self, prefix: Prefix) -> bool {
        self.get(prefix).is_some()
    }

    pub fn get(&self, prefix: Prefix) -> Option<&V> {
        match Key::of(prefix) {
            Key::V4(key) => self.v4.get(key),
            Key::V6(key) => self.v6.get(key),
        }
    }

    pub fn get_mut(&mut self, prefix: Prefix) -> Option<&mut V> {
        match Key::of(prefix) {
            Key::V4(key) => self.v4.get_mut(key),
            Key::V6(key) => self.v6.get_mut(key),
        }
    }

    /// Puts a value where there is none; otherwise the one that there is.
    pub fn put_new(&mut self, prefix: Prefix, value: V) -> Option<&mut V> {
        match Key::of(prefix) {
            Key::V4(key) => self.v4.put_new(key, value),
            Key::V6(key) => self.v6.put_new(key, value),
        }
    }

    pub fn remove(&mut self, prefix: Prefix) -> Option<V> {
        match Key::of(prefix) {
            Key::V4(key) => self.v4.remove(key),
            Key::V6(key) => self.v6.remove(key),
        }
    }

    /// Takes out the first ones, as many as `limit`.
    pub fn pop(&mut self, limit: usize, mut take: impl FnMut(Prefix, V)) {
        let before = self.v4.len();
        self.v4.pop(limit, |key, value| {
            if let Some(prefix) = key.prefix() {
                take(prefix, value);
            }
        });
        self.v6.pop(limit.saturating_sub(before), |key, value| {
            if let Some(prefix) = key.prefix() {
                take(prefix, value);
            }
        });
    }

    /// Looks at as many as `limit` of a family behind `after`, and takes out those for which `keep` is false. The last prefix looked
    /// at; none if that was the last one of all.
    pub fn sweep(
        &mut self,
        family: Family,
        after: Option<Prefix>,
        limit: usize,
        mut keep: impl FnMut(Prefix, &mut V) -> bool,
    ) -> Option<Prefix> {
        let after = after.map(Key::of);
        match family {
            Family::V4 => {
                let keep = |key: Key4, value: &mut V| key.prefix().is_none_or(|prefix| keep(prefix, value));
                self.v4.sweep(after.and_then(Key::v4), limit, keep)?.prefix()
            }
            Family::V6 => {
                let keep = |key: Key6, value: &mut V| key.prefix().is_none_or(|prefix| keep(prefix, value));
                self.v6.sweep(after.and_then(Key::v6), limit, keep)?.prefix()
            }
        }
    }

    /// Those of a family behind `after`, in order.
    pub fn after(&self, family: Family, after: Option<Prefix>) -> PrefixesAfter<'_, V> {
        let after = after.map(Key::of);
        match family {
            Family::V4 => PrefixesAfter(Entries::V4(self.v4.after(after.and_then(Key::v4)))),
            Family::V6 => PrefixesAfter(Entries::V6(self.v6.after(after.and_then(Key::v6)))),
        }
    }

    /// All in order.
    pub fn iter(&self) -> impl Iterator<Item = (Prefix, &V)> {
        self.after(Family::V4, None).chain(self.after(Family::V6, None))
    }
}

/// Prefixes of a family in order.
pub struct PrefixesAfter<'a, V>(Entries<'a, V>);

enum Entries<'a, V> {
    V4(After<'a, Key4, V>),
    V6(After<'a, Key6, V>),
}

impl<'a, V> Iterator for PrefixesAfter<'a, V> {
    type Item = (Prefix, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            Entries::V4(left) => left.next().and_then(|(key, value)| Some((key.prefix()?, value))),
            Entries::V6(left) => left.next().and_then(|(key, value)| Some((key.prefix()?, value))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn they_are_ordered_as_prefixes_are() {
        let mut all: Vec<Prefix> =
            ["fd00::/8", "0.0.0.0/0", "10.0.0.0/9", "::/0", "255.255.255.255/32", "10.0.0.0/8", "fd00::1/128"]
                .map(prefix)
                .into();
        let mut by_prefix = ByPrefix::default();
        for one in &all {
            assert!(by_prefix.put_new(*one, *one).is_none());
        }
        all.sort();
        assert!(by_prefix.iter().eq(all.iter().map(|one| (*one, one))));
        assert_eq!(by_prefix.after(Family::V4, Some(prefix("10.0.0.0/8"))).count(), 2);
        let mut popped = Vec::new();
        by_prefix.pop(5, |one, _| popped.push(one));
        assert_eq!(popped, all[..5]);
        assert_eq!(by_prefix.len(), 2);
    }
}
