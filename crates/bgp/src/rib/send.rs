//! Who is told what is due: groups what changed, single members what they have not been told yet.

use std::collections::BTreeSet;

use ripstop_types::{Family, Prefix};

use super::export::{self, Batch, Export, Group, Output};
use super::few::Few;
use super::policy::Filter;
use super::prefixes::ByPrefix;
use super::view::View;
use super::{GroupId, PeerConfig, PeerId, Rib};
use crate::wire::{Context, Families, Refresh, RefreshKind};

/// A family that is being sent to a member from the start.
#[derive(Debug, Clone, Copy)]
pub struct Sending {
    pub family: Family,
    /// Up to there it is sent.
    pub after: Option<Prefix>,
    /// The peer asked for it.
    pub again: bool,
}

impl Sending {
    /// For a session that has just begun.
    pub fn first(family: Family) -> Self {
        Self { family, after: None, again: false }
    }
}

impl Rib {
    /// Messages for peers, of as many as `limit` prefixes a group, and as many for each peer that is told something alone. Empty
    /// when nothing waits.
    pub fn flush(&mut self, limit: usize) -> Vec<Output> {
        let mut out = Vec::new();
        if self.deferred {
            return out;
        }
        let view = View { config: &self.config, peers: &self.peers, sets: &self.sets, next_hops: &self.next_hops };
        for (id, group) in &mut self.groups {
            let mut batch = Batch::default();
            let Group { terms, members, pending } = group;
            pending.pop(limit, |prefix, old| {
                let paths = self.table.get(prefix);
                let new = paths.map_or(Few::default(), |paths| export::exports(&view, terms, prefix, paths));
                batch.change(members, prefix, &old, &new);
            });
            batch.encode(&view, *id, group, None, &mut out);
        }
        for id in self.peers.keys().copied().collect::<Vec<_>>() {
            self.send_own(id, limit, &mut out);
            self.send_all(id, limit, &mut out);
        }
        out
    }

    /// What one member is told as it got other terms.
    fn send_own(&mut self, id: PeerId, limit: usize, out: &mut Vec<Output>) {
        let Some((group_id, due)) = self.peers.get_mut(&id).and_then(|peer| {
            let mut due = Vec::new();
            peer.own.pop(limit, |prefix, old| due.push((prefix, old)));
            Some((peer.group?, due))
        }) else {
            return;
        };
        let view = View { config: &self.config, peers: &self.peers, sets: &self.sets, next_hops: &self.next_hops };
        let Some(group) = self.groups.get_mut(&group_id) else { return };
        let mut batch = Batch::default();
        for (prefix, old) in due {
            let paths = self.table.get(prefix);
            let all = paths.map_or(Few::default(), |paths| export::exports(&view, &group.terms, prefix, paths));
            let new: Few<Export> = all.iter().copied().filter(|one| one.source != id).collect();
            let old: Vec<_> = old.iter().copied().filter(|(_, source)| *source != id).collect();
            batch.change_of_one(prefix, &old, &new);
            told_before_group(group, prefix, &new);
        }
        batch.encode(&view, group_id, group, Some(id), out);
    }

    /// A part of all routes for one member that is sent them from the start.
    fn send_all(&mut self, id: PeerId, limit: usize, out: &mut Vec<Output>) {
        let Some(peer) = self.peers.get(&id) else { return };
        let (Some(part), Some(group_id)) = (peer.sending.front().copied(), peer.group) else { return };
        let marks = part.again && peer.enhanced_refresh;
        let mark = |kind| Output::to_one(group_id, id, Refresh { family: part.family, kind }.encode());
        if marks && part.after.is_none() {
            out.push(mark(RefreshKind::Begin));
        }
        let view = View { config: &self.config, peers: &self.peers, sets: &self.sets, next_hops: &self.next_hops };
        let Some(group) = self.groups.get_mut(&group_id) else { return };
        let mut batch = Batch::default();
        let mut last = None;
        for (prefix, paths) in self.table.after(part.family, part.after).take(limit) {
            last = Some(prefix);
            let all = export::exports(&view, &group.terms, prefix, paths);
            let new: Few<Export> = all.iter().copied().filter(|one| one.source != id).collect();
            new.iter().for_each(|one| batch.announce(prefix, *one));
            told_before_group(group, prefix, &new);
        }
        batch.encode(&view, group_id, group, Some(id), out);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        match last {
            Some(prefix) => peer.sending[0].after = Some(prefix),
            None => {
                peer.sending.pop_front();
                match (marks, part.again) {
                    (true, _) => out.push(mark(RefreshKind::End)),
                    (false, true) => {}
                    (false, false) => out.push(Output::to_one(group_id, id, crate::wire::end_of_rib(part.family))),
                }
            }
        }
    }

    fn terms(&self, id: PeerId) -> Option<export::Terms> {
        let peer = self.peers.get(&id)?;
        let PeerConfig { local_as, reflector_client, own_v4, own_v6, next_hop_self, paths, shutting_down, .. } =
            peer.config;
        let filter: Option<Filter> = peer.config.export.clone();
        // What a peer sends does not part it from others.
        let context = Context { add_path_in: Families::default(), as_sets: false, ..peer.context };
        let client = reflector_client;
        Some(export::Terms { context, local_as, client, filter, own_v4, own_v6, next_hop_self, paths, shutting_down })
    }

    /// Puts a peer into the group of its terms.
    pub(super) fn join(&mut self, id: PeerId) {
        self.leave(id);
        let Some(terms) = self.terms(id) else { return };
        let found = self.groups.iter().find(|(_, group)| group.terms == terms).map(|(id, _)| *id);
        let group = found.unwrap_or_else(|| {
            let new = GroupId(self.next_group);
            self.next_group += 1;
            self.groups.insert(new, Group { terms, members: BTreeSet::new(), pending: ByPrefix::default() });
            new
        });
        if let Some(one) = self.groups.get_mut(&group) {
            one.members.insert(id);
        }
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.group = Some(group);
        }
    }

    pub(super) fn leave(&mut self, id: PeerId) {
        let Some(group) = self.peers.get_mut(&id).and_then(|peer| peer.group.take()) else { return };
        if let Some(one) = self.groups.get_mut(&group) {
            one.members.remove(&id);
            if one.members.is_empty() {
                self.groups.remove(&group);
            }
        }
    }

    /// A peer that is up has got other terms: it is told the difference, and others nothing.
    pub(super) fn change_terms(&mut self, id: PeerId) {
        let terms = self.terms(id);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(group) = peer.group.and_then(|group| self.groups.get(&group)) else { return };
        if terms.is_some_and(|terms| terms == group.terms) {
            return;
        }
        let mut had = std::mem::take(&mut peer.own);
        // Of what waits the members know what was before.
        for (prefix, told) in group.pending.iter() {
            had.put_new(prefix, told.clone());
        }
        let view = self.view();
        for (prefix, paths) in group.terms.context.families.iter().flat_map(|family| self.table.after(family, None)) {
            if !had.has(prefix) {
                had.put_new(prefix, export::told(&export::exports(&view, &group.terms, prefix, paths)));
            }
        }
        self.join(id);
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.own = had;
        }
    }
}

/// What waits for the group may take back what a member was told alone: the group must then withdraw it.
fn told_before_group(group: &mut Group, prefix: Prefix, new: &[Export]) {
    if let Some(old) = group.pending.get_mut(prefix) {
        for one in new.iter().filter(|one| old.iter().all(|(ours, _)| *ours != one.ours)).collect::<Vec<_>>() {
            *old = old.iter().copied().chain([(one.ours, one.source)]).collect();
        }
    }
}
