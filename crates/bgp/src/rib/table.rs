//! Paths by prefix. A route that came from one peer alone, which most are, takes 32 bytes of IPv4 and no memory of its own.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Bound;

use ripstop_types::{Family, Prefix};

use super::PeerId;
use super::intern::AttrId;

/// One path to a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Path {
    /// Who it came from.
    pub peer: PeerId,
    /// The path identifier that the peer gave it; 0 without add-path.
    pub theirs: u32,
    /// The one it goes on with, unique for its prefix, never 0.
    pub ours: u32,
    /// As it came.
    pub received: AttrId,
    /// As it was taken in; none where it was refused.
    pub taken: Option<AttrId>,
    /// It is kept from before the peer's restart.
    pub stale: bool,
}

/// The paths of a prefix, the best one first if there is one, others by peer and identifier.
#[derive(Debug, Clone)]
pub enum Paths {
    One(Path),
    Many(Box<[Path]>),
}

impl Paths {
    pub fn all(&self) -> &[Path] {
        match self {
            Self::One(path) => std::slice::from_ref(path),
            Self::Many(all) => all,
        }
    }

    pub fn all_mut(&mut self) -> &mut [Path] {
        match self {
            Self::One(path) => std::slice::from_mut(path),
            Self::Many(all) => all,
        }
    }

    /// Puts a path in the place of the one that its peer gave the same identifier; that one. A new one gets an identifier.
    pub fn put(&mut self, mut path: Path) -> Option<Path> {
        let same = |one: &Path| (one.peer, one.theirs) == (path.peer, path.theirs);
        if let Some(old) = self.all_mut().iter_mut().find(|one| same(one)) {
            path.ours = old.ours;
            return Some(std::mem::replace(old, path));
        }
        path.ours = (1..).find(|id| self.all().iter().all(|one| one.ours != *id)).unwrap_or(u32::MAX);
        match self {
            Self::One(first) => *self = Self::Many([*first, path].into()),
            Self::Many(all) => *all = [&all[..], &[path]].concat().into(),
        }
        None
    }

    /// Takes out those for which `test` is true; whether any is left.
    pub fn take(&mut self, test: impl Fn(&Path) -> bool, gone: &mut Vec<Path>) -> bool {
        match self {
            Self::One(path) if test(path) => {
                gone.push(*path);
                false
            }
            Self::One(_) => true,
            Self::Many(all) => {
                let (out, left): (Vec<Path>, Vec<Path>) = all.iter().partition(|path| test(path));
                match left[..] {
                    [last] => *self = Self::One(last),
                    _ if !out.is_empty() => *all = left.into(),
                    _ => {}
                }
                gone.extend(out);
                !self.all().is_empty()
            }
        }
    }

    /// Puts the path at `best` first, and the others in their order.
    pub fn arrange(&mut self, best: Option<usize>) {
        if let Self::Many(all) = self {
            let first = best.and_then(|place| all.get(place)).map(|path| path.ours);
            all.sort_by_key(|path| (Some(path.ours) != first, path.peer, path.theirs));
        }
    }
}

/// An IPv4 prefix in eight bytes, ordered as prefixes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key4(u32, u8);

/// An IPv6 prefix, without the padding of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key6([u8; 16], u8);

fn key4(address: Ipv4Addr, prefix: Prefix) -> Key4 {
    Key4(address.to_bits(), prefix.len())
}

fn key6(address: Ipv6Addr, prefix: Prefix) -> Key6 {
    Key6(address.octets(), prefix.len())
}

/// All prefixes of both families.
#[derive(Debug, Default)]
pub struct Table {
    v4: BTreeMap<Key4, Paths>,
    v6: BTreeMap<Key6, Paths>,
}

impl Table {
    pub fn get(&self, prefix: Prefix) -> Option<&Paths> {
        match prefix.addr() {
            IpAddr::V4(address) => self.v4.get(&key4(address, prefix)),
            IpAddr::V6(address) => self.v6.get(&key6(address, prefix)),
        }
    }

    pub fn get_mut(&mut self, prefix: Prefix) -> Option<&mut Paths> {
        match prefix.addr() {
            IpAddr::V4(address) => self.v4.get_mut(&key4(address, prefix)),
            IpAddr::V6(address) => self.v6.get_mut(&key6(address, prefix)),
        }
    }

    /// Puts a path where there is none; otherwise those that there are.
    pub fn put_new(&mut self, prefix: Prefix, path: Path) -> Option<&mut Paths> {
        match prefix.addr() {
            IpAddr::V4(address) => put_new(self.v4.entry(key4(address, prefix)), path),
            IpAddr::V6(address) => put_new(self.v6.entry(key6(address, prefix)), path),
        }
    }

    pub fn remove(&mut self, prefix: Prefix) {
        match prefix.addr() {
            IpAddr::V4(address) => drop(self.v4.remove(&key4(address, prefix))),
            IpAddr::V6(address) => drop(self.v6.remove(&key6(address, prefix))),
        }
    }

    /// How many prefixes there are.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Prefixes of a family behind `after`, in order.
    pub fn after(&self, family: Family, after: Option<Prefix>) -> Box<dyn Iterator<Item = (Prefix, &Paths)> + '_> {
        match family {
            Family::V4 => {
                let from = after.and_then(|prefix| match prefix.addr() {
                    IpAddr::V4(address) => Some(key4(address, prefix)),
                    IpAddr::V6(_) => None,
                });
                let range = self.v4.range((from.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded));
                Box::new(
                    range
                        .filter_map(|(key, paths)| Some((prefix_of(Ipv4Addr::from_bits(key.0).into(), key.1)?, paths))),
                )
            }
            Family::V6 => {
                let from = after.and_then(|prefix| match prefix.addr() {
                    IpAddr::V6(address) => Some(key6(address, prefix)),
                    IpAddr::V4(_) => None,
                });
                let range = self.v6.range((from.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded));
                Box::new(
                    range.filter_map(|(key, paths)| Some((prefix_of(Ipv6Addr::from(key.0).into(), key.1)?, paths))),
                )
            }
        }
    }
}

fn put_new<K: Ord>(entry: Entry<'_, K, Paths>, path: Path) -> Option<&mut Paths> {
    match entry {
        Entry::Occupied(paths) => Some(paths.into_mut()),
        Entry::Vacant(place) => {
            place.insert(Paths::One(path));
            None
        }
    }
}

fn prefix_of(address: IpAddr, length: u8) -> Option<Prefix> {
    Prefix::containing(address, length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_small() {
        assert_eq!((size_of::<Path>(), size_of::<Paths>(), size_of::<Key4>()), (24, 24, 8));
    }
}
