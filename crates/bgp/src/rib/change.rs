//! Paths that come, go and change, and who must be told.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ripstop_types::{Family, Prefix};

use super::export::{self, Group, Told};
use super::intern::{AttrId, Interner};
use super::policy::Verdict;
use super::prefixes::ByPrefix;
use super::table::{Path, Paths, Table};
use super::view::View;
use super::{GroupId, Peer, PeerId, Rib, RibConfig};
use crate::wire::{Attributes, Families, Nlri, community};

/// All that the table has beside its paths.
struct Beside<'a> {
    config: &'a RibConfig,
    peers: &'a mut BTreeMap<PeerId, Peer>,
    sets: &'a mut Interner,
    groups: &'a mut BTreeMap<GroupId, Group>,
    next_hops: &'a BTreeMap<IpAddr, Option<u32>>,
    changed: &'a mut ByPrefix<()>,
}

impl Rib {
    /// The paths, and what changes with them.
    fn parts(&mut self) -> (&mut Table, Beside<'_>) {
        let Self { config, peers, table, sets, groups, next_hops, changed, .. } = self;
        (table, Beside { config, peers, sets, groups, next_hops, changed })
    }

    /// Prefixes with a path for which `test` is true.
    pub(super) fn prefixes(&self, test: impl Fn(&Path) -> bool) -> Vec<Prefix> {
        self.table.iter().filter(|(_, paths)| paths.all().iter().any(&test)).map(|(prefix, _)| prefix).collect()
    }

    /// Takes out all paths for which `test` is true.
    pub(super) fn drop_paths(&mut self, test: impl Fn(Family, &Path) -> bool) {
        for family in Families::BOTH.iter() {
            self.drop_some(family, None, usize::MAX, |path| test(family, path));
        }
    }

    /// The same, of as many as `limit` prefixes behind `after`; the last one that was looked at, if there are more.
    fn drop_some(
        &mut self,
        family: Family,
        after: Option<Prefix>,
        limit: usize,
        test: impl Fn(&Path) -> bool,
    ) -> Option<Prefix> {
        let (table, mut beside) = self.parts();
        table.sweep(family, after, limit, |prefix, paths| beside.take(prefix, paths, &test))
    }

    /// Has all paths of a peer to prefixes of a family go, some at a time ([`Rib::work`]).
    pub(super) fn part_with(&mut self, id: PeerId, family: Family) {
        self.leaving.insert((id, family), None);
    }

    /// Takes out paths of peers that are gone, looking at as many as `limit` prefixes; whether there are more.
    pub fn work(&mut self, limit: usize) -> bool {
        let Some((&(id, family), &after)) = self.leaving.first_key_value() else { return false };
        match self.drop_some(family, after, limit, |path| path.peer == id) {
            Some(last) => drop(self.leaving.insert((id, family), Some(last))),
            None => self.has_left(id, family),
        }
        !self.leaving.is_empty()
    }

    /// No path of a peer to a prefix of a family is left.
    fn has_left(&mut self, id: PeerId, family: Family) {
        self.leaving.remove(&(id, family));
        let more = Families::BOTH.iter().any(|family| self.leaving.contains_key(&(id, family)));
        if !more && self.peers.get(&id).is_some_and(|peer| peer.removed) {
            self.peers.remove(&id);
        }
    }

    /// Takes out what is left of a peer's paths that are to go.
    pub(super) fn finish(&mut self, id: PeerId) {
        let left: Vec<Family> =
            self.leaving.keys().filter(|(peer, _)| *peer == id).map(|(_, family)| *family).collect();
        for family in left {
            self.drop_some(family, None, usize::MAX, |path| path.peer == id);
            self.has_left(id, family);
        }
    }

    pub(super) fn mark_stale(&mut self, id: PeerId, family: Family) {
        self.table.sweep(family, None, usize::MAX, |_, paths| {
            paths.all_mut().iter_mut().filter(|path| path.peer == id).for_each(|path| path.stale = true);
            true
        });
    }

    /// Judges a peer's paths by its import filter again.
    pub(super) fn judge_again(&mut self, id: PeerId) {
        for prefix in self.prefixes(|path| path.peer == id) {
            let paths = self.table.get(prefix).map_or(Vec::new(), |paths| paths.all().to_vec());
            for path in paths.into_iter().filter(|path| path.peer == id) {
                let Some(attributes) = self.sets.get(path.received).cloned() else { continue };
                let verdict = self.view().import(id, prefix, &attributes);
                let taken = verdict.ok().map(|verdict| self.taken(id, verdict, path.received, &attributes));
                self.sets.take(path.received);
                self.put(prefix, id, path.theirs, path.received, taken);
                // The peer has not sent it again.
                let paths = self.table.get_mut(prefix).into_iter().flat_map(|paths| paths.all_mut());
                let same = paths.filter(|one| (one.peer, one.theirs) == (id, path.theirs));
                same.for_each(|one| one.stale = path.stale);
            }
        }
    }

    /// Takes in prefixes with the same attributes.
    pub(super) fn announced(&mut self, id: PeerId, attributes: &Attributes, nlri: &[Nlri]) {
        let received = self.sets.intern(attributes);
        // What a filter's rule makes of them is the same for all prefixes.
        let mut made: BTreeMap<Verdict, AttrId> = BTreeMap::new();
        let admitted = self.view().admit(id, attributes);
        for one in nlri {
            let taken = match admitted.and_then(|()| self.view().filter(id, one.prefix, attributes)) {
                Ok(verdict) => Some(match made.get(&verdict) {
                    Some(known) => self.sets.take(*known),
                    None => {
                        let new = self.taken(id, verdict, received, attributes);
                        made.insert(verdict, self.sets.take(new));
                        new
                    }
                }),
                Err(_) => None,
            };
            self.sets.take(received);
            self.put(one.prefix, id, one.path, received, taken);
        }
        for known in made.into_values().chain([received]) {
            self.sets.release(known);
        }
    }

    /// The attributes that a verdict makes of those received, with a reference.
    fn taken(&mut self, id: PeerId, verdict: Verdict, received: AttrId, attributes: &Attributes) -> AttrId {
        let Some(peer) = self.peers.get(&id) else { return self.sets.take(received) };
        // Who is about to go is used last (RFC 8326).
        let goes = peer.external() && attributes.has(community::GRACEFUL_SHUTDOWN);
        let filter = peer.config.import.as_ref().filter(|filter| filter.changes(verdict));
        if !goes && filter.is_none() {
            return self.sets.take(received);
        }
        let mut new = attributes.clone();
        filter.into_iter().for_each(|filter| filter.apply(verdict, &mut new));
        if goes {
            new.local_pref = Some(0);
        }
        self.sets.intern(&new)
    }

    /// Stores a path; the references are the table's from now on.
    pub(super) fn put(&mut self, prefix: Prefix, peer: PeerId, theirs: u32, received: AttrId, taken: Option<AttrId>) {
        let path = Path { peer, theirs, ours: 1, received, taken, stale: false };
        let (table, mut beside) = self.parts();
        let Some(paths) = table.put_new(prefix, Paths::One(path)) else {
            return beside.tell_new(prefix, peer);
        };
        let before = paths.clone();
        let replaced = paths.put(path);
        if replaced.is_none() {
            beside.count(peer, 1);
        }
        beside.settle(prefix, &before, paths);
        replaced.into_iter().for_each(|path| beside.release(path));
    }

    pub(super) fn withdraw_path(&mut self, id: PeerId, nlri: Nlri) {
        let (table, mut beside) = self.parts();
        let Some(paths) = table.get_mut(nlri.prefix) else { return };
        if !beside.take(nlri.prefix, paths, |path| (path.peer, path.theirs) == (id, nlri.path)) {
            table.remove(nlri.prefix);
        }
    }

    /// Has groups keep what they were told of prefixes, before something changes that this depends on beside the paths.
    pub(super) fn remember(&mut self, prefixes: &[Prefix]) {
        let view = View { config: &self.config, peers: &self.peers, sets: &self.sets, next_hops: &self.next_hops };
        for group in self.groups.values_mut() {
            for prefix in prefixes {
                if let (Some(paths), false) = (self.table.get(*prefix), group.pending.has(*prefix)) {
                    let old = export::exports(&view, &group.terms, *prefix, paths);
                    group.pending.put_new(*prefix, export::told(&old));
                }
            }
        }
    }

    /// Something outside of the paths changed that decisions depend on.
    pub(super) fn decide_again(&mut self, prefix: Prefix) {
        let (table, mut beside) = self.parts();
        if let Some(paths) = table.get_mut(prefix) {
            let before = paths.clone();
            beside.settle(prefix, &before, paths);
        }
    }
}

impl Beside<'_> {
    fn view(&self) -> View<'_> {
        View { config: self.config, peers: self.peers, sets: self.sets, next_hops: self.next_hops }
    }

    fn count(&mut self, id: PeerId, change: i32) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.paths = peer.paths.saturating_add_signed(change);
        }
    }

    /// Gives back what a path referenced that is not in the table any more.
    fn release(&mut self, path: Path) {
        self.sets.release(path.received);
        path.taken.into_iter().for_each(|id| self.sets.release(id));
    }

    /// Takes paths of a prefix out; whether any is left.
    fn take(&mut self, prefix: Prefix, paths: &mut Paths, test: impl Fn(&Path) -> bool) -> bool {
        if !paths.all().iter().any(&test) {
            return true;
        }
        let before = paths.clone();
        let (gone, left) = paths.take(test);
        if left {
            self.settle(prefix, &before, paths);
        } else {
            self.tell(prefix, &before, None);
        }
        for path in &gone {
            self.count(path.peer, -1);
            self.release(*path);
        }
        left
    }

    /// Decides a prefix whose paths were `before`.
    fn settle(&mut self, prefix: Prefix, before: &Paths, paths: &mut Paths) {
        let best = match paths.all() {
            [_] => None,
            all => self.view().decide(all).best,
        };
        paths.arrange(best);
        self.tell(prefix, before, Some(paths));
    }

    /// Has everybody told of a prefix that had no path.
    fn tell_new(&mut self, prefix: Prefix, peer: PeerId) {
        self.count(peer, 1);
        self.changed.put_new(prefix, ());
        for group in self.groups.values_mut().filter(|group| group.terms.context.families.has(prefix.family())) {
            group.pending.put_new(prefix, Told::default());
        }
    }

    /// Has everybody told of a prefix whose paths were `before`; what these reference is still there.
    fn tell(&mut self, prefix: Prefix, before: &Paths, after: Option<&Paths>) {
        self.changed.put_new(prefix, ());
        let view = View { config: self.config, peers: self.peers, sets: self.sets, next_hops: self.next_hops };
        let first = |paths: &Paths| {
            let best = paths.all().first().filter(|path| view.usable(path));
            best.map(|path| (path.peer, path.ours, path.taken))
        };
        let same_best = first(before) == after.and_then(first);
        for group in self.groups.values_mut() {
            let several = group.terms.context.add_path_out.has(prefix.family());
            if (same_best && !several) || group.pending.has(prefix) {
                continue;
            }
            let old = export::exports(&view, &group.terms, prefix, before);
            group.pending.put_new(prefix, export::told(&old));
        }
    }
}
