//! Paths of a prefix. A route that came from one peer alone, which most are, takes 32 bytes of IPv4 with its prefix, and no memory
//! of its own.

use super::PeerId;
use super::few::Few;
use super::intern::AttrId;
use super::prefixes::ByPrefix;

/// The paths of all prefixes.
pub type Table = ByPrefix<Paths>;

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

    /// Takes out those for which `test` is true; they, and whether any is left.
    pub fn take(&mut self, test: impl Fn(&Path) -> bool) -> (Few<Path>, bool) {
        match self {
            Self::One(path) if test(path) => (Few::One(Some(*path)), false),
            Self::One(_) => (Few::default(), true),
            Self::Many(all) => {
                let (gone, left): (Vec<Path>, Vec<Path>) = all.iter().partition(|path| test(path));
                match left[..] {
                    [last] => *self = Self::One(last),
                    _ if !gone.is_empty() => *all = left.into(),
                    _ => {}
                }
                (gone.into_iter().collect(), !self.all().is_empty())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_small() {
        assert_eq!((size_of::<Path>(), size_of::<Paths>()), (24, 24));
    }
}
