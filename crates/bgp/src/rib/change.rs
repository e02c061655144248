//! Paths that come, go and change, and who must be told.

use std::collections::BTreeMap;

use ripstop_types::{Family, Prefix};

use super::few::Few;
use super::intern::AttrId;
use super::policy::Verdict;
use super::table::{Path, Paths};
use super::view::View;
use super::{PeerId, Rib, export};
use crate::wire::{Attributes, Families, Nlri, community};

impl Rib {
    /// Prefixes with a path for which `test` is true.
    pub(super) fn prefixes(&self, test: impl Fn(&Path) -> bool) -> Vec<Prefix> {
        let all = Families::BOTH.iter().flat_map(|family| self.table.after(family, None));
        all.filter(|(_, paths)| paths.all().iter().any(&test)).map(|(prefix, _)| prefix).collect()
    }

    pub(super) fn drop_paths(&mut self, test: impl Fn(Family, &Path) -> bool) {
        for family in Families::BOTH.iter() {
            let all = self.table.after(family, None);
            let touched = all.filter(|(_, paths)| paths.all().iter().any(|path| test(family, path)));
            let touched: Vec<Prefix> = touched.map(|(prefix, _)| prefix).collect();
            for prefix in touched {
                self.take(prefix, |path| test(family, path));
            }
        }
    }

    /// Has all paths of a peer to prefixes of a family go, some at a time ([`Rib::work`]).
    pub(super) fn part_with(&mut self, id: PeerId, family: Family) {
        self.leaving.insert((id, family), None);
    }

    /// Takes out paths of peers that are gone, looking at as many as `limit` prefixes; whether there are more.
    pub fn work(&mut self, limit: usize) -> bool {
        let Some((&(id, family), &after)) = self.leaving.first_key_value() else { return false };
        let (mut last, mut seen) = (after, 0);
        let mut touched = Vec::new();
        for (prefix, paths) in self.table.after(family, after).take(limit) {
            (last, seen) = (Some(prefix), seen + 1);
            if paths.all().iter().any(|path| path.peer == id) {
                touched.push(prefix);
            }
        }
        for prefix in touched {
            self.take(prefix, |path| path.peer == id);
        }
        if seen < limit {
            self.leaving.remove(&(id, family));
        } else {
            self.leaving.insert((id, family), last);
        }
        !self.leaving.is_empty()
    }

    /// Takes out what is left of a peer's paths that are to go.
    pub(super) fn finish(&mut self, id: PeerId) {
        let left: Vec<Family> =
            self.leaving.keys().filter(|(peer, _)| *peer == id).map(|(_, family)| *family).collect();
        for family in left {
            self.leaving.remove(&(id, family));
            self.drop_paths(|of, path| path.peer == id && of == family);
        }
    }

    pub(super) fn mark_stale(&mut self, id: PeerId, family: Family) {
        let all = self.table.after(family, None);
        let touched = all.filter(|(_, paths)| paths.all().iter().any(|path| path.peer == id));
        let touched: Vec<Prefix> = touched.map(|(prefix, _)| prefix).collect();
        for prefix in touched {
            let paths = self.table.get_mut(prefix).into_iter().flat_map(|paths| paths.all_mut());
            paths.filter(|path| path.peer == id).for_each(|path| path.stale = true);
        }
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
            }
        }
    }

    /// Takes in prefixes with the same attributes.
    pub(super) fn announced(&mut self, id: PeerId, attributes: &Attributes, nlri: &[Nlri]) {
        let received = self.sets.intern(attributes.clone());
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
        let mut new = attributes.clone();
        if let Some(filter) = &peer.config.import {
            filter.apply(verdict, &mut new);
        }
        // Who is about to go is used last (RFC 8326).
        if peer.external() && attributes.has(community::GRACEFUL_SHUTDOWN) {
            new.local_pref = Some(0);
        }
        if new == *attributes { self.sets.take(received) } else { self.sets.intern(new) }
    }

    /// Stores a path; the references are the table's from now on.
    pub(super) fn put(&mut self, prefix: Prefix, peer: PeerId, theirs: u32, received: AttrId, taken: Option<AttrId>) {
        let path = Path { peer, theirs, ours: 1, received, taken, stale: false };
        let Some(paths) = self.table.put_new(prefix, path) else {
            self.count(peer, 1);
            self.changed.insert(prefix);
            for group in self.groups.values_mut().filter(|group| group.terms.context.families.has(prefix.family())) {
                group.pending.entry(prefix).or_default();
            }
            return;
        };
        let before = paths.clone();
        let replaced = paths.put(path);
        if replaced.is_none() {
            self.count(peer, 1);
        }
        self.settle(prefix, Some(&before), replaced.into_iter().collect());
    }

    pub(super) fn withdraw_path(&mut self, id: PeerId, nlri: Nlri) {
        self.take(nlri.prefix, |path| (path.peer, path.theirs) == (id, nlri.path));
    }

    /// Takes out paths of a prefix.
    fn take(&mut self, prefix: Prefix, test: impl Fn(&Path) -> bool) {
        let Some(paths) = self.table.get_mut(prefix) else { return };
        let before = paths.clone();
        let mut gone = Vec::new();
        let left = paths.take(test, &mut gone);
        if gone.is_empty() {
            return;
        }
        for path in &gone {
            self.count(path.peer, -1);
        }
        if left {
            self.settle(prefix, Some(&before), gone);
        } else {
            self.table.remove(prefix);
            self.tell(prefix, Some(&before), gone);
        }
    }

    fn count(&mut self, id: PeerId, change: i32) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.paths = peer.paths.saturating_add_signed(change);
        }
    }

    /// Has groups keep what they were told of prefixes, before something changes that this depends on beside the paths.
    pub(super) fn remember(&mut self, prefixes: &[Prefix]) {
        let view = View { config: &self.config, peers: &self.peers, sets: &self.sets, next_hops: &self.next_hops };
        for group in self.groups.values_mut() {
            for prefix in prefixes {
                if let (Some(paths), false) = (self.table.get(*prefix), group.pending.contains_key(prefix)) {
                    let old = export::exports(&view, &group.terms, *prefix, paths);
                    group.pending.insert(*prefix, export::told(&old));
                }
            }
        }
    }

    /// Something outside of the paths changed that decisions depend on.
    pub(super) fn decide_again(&mut self, prefix: Prefix) {
        let before = self.table.get(prefix).cloned();
        self.settle(prefix, before.as_ref(), Vec::new());
    }

    /// Decides a prefix whose paths were `before`, of which `gone` are no longer in the table.
    fn settle(&mut self, prefix: Prefix, before: Option<&Paths>, gone: Vec<Path>) {
        let best = self.table.get(prefix).and_then(|paths| match paths.all() {
            [_] => None,
            all => self.view().decide(all).best,
        });
        if let Some(paths) = self.table.get_mut(prefix) {
            paths.arrange(best);
        }
        self.tell(prefix, before, gone);
    }

    /// Has everybody told of a prefix whose paths were `before`.
    fn tell(&mut self, prefix: Prefix, before: Option<&Paths>, gone: Vec<Path>) {
        let after = self.table.get(prefix);
        self.changed.insert(prefix);
        let view = View { config: &self.config, peers: &self.peers, sets: &self.sets, next_hops: &self.next_hops };
        let first = |paths: Option<&Paths>| {
            let best = paths.and_then(|paths| paths.all().first()).filter(|path| view.usable(path));
            best.map(|path| (path.peer, path.ours, path.taken))
        };
        let same_best = first(before) == first(after) && before.is_some();
        for group in self.groups.values_mut() {
            let several = group.terms.context.add_path_out.has(prefix.family());
            if (same_best && !several) || group.pending.contains_key(&prefix) {
                continue;
            }
            let old = before.map_or(Few::default(), |paths| export::exports(&view, &group.terms, prefix, paths));
            group.pending.insert(prefix, export::told(&old));
        }
        for path in gone {
            self.sets.release(path.received);
            path.taken.into_iter().for_each(|id| self.sets.release(id));
        }
    }
}
