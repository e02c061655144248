//! What goes with objects that are made anew or make room, and is written again.

use std::collections::BTreeSet;
use std::sync::Arc;

use ripstop_netmodel::{Key, Kind, Ns, Object, Resource};

use crate::contest::is_host_link;
use crate::diff::{Differ, Verdict};
use crate::hang::{Others, altered, bears, below, holder, leans_on, needs, other_end, vanishing};
use crate::model::can_be_removed;

impl Differ<'_> {
    /// Writes again what goes with objects that are made anew, or to make room.
    pub(crate) fn follow(&mut self) {
        // What was not there had nothing that goes with it, unless it is a pair.
        let matters = |key: &Key| key.kind() == Kind::Link || self.observed.get(key).is_some();
        let made: Vec<(Key, bool)> = self
            .verdicts
            .iter()
            .filter(|(key, _)| is_leant_on(key.kind()) && matters(key))
            .filter_map(|(key, v)| Some((key.clone(), begins(key, v)?)))
            .collect();
        for (key, is_remade) in &made {
            if *is_remade || self.observed.get(key).is_some() {
                self.lose(key, &vanishing(self.observed, key, Others::MayGo));
            }
            if !is_remade {
                self.begin_pair(key);
            }
        }
        for rival in self.room.clone() {
            if self.verdicts.get(&rival) == Some(&Verdict::Remove) {
                self.lose(&rival, &vanishing(self.observed, &rival, Others::MayGo));
            }
        }
    }

    /// A pair that is made has a fresh other end, whatever is remembered of one.
    fn begin_pair(&mut self, key: &Key) {
        let end = self.desired.get(key).and_then(|entry| other_end(&entry.object));
        let Some(end) = end.filter(|end| self.observed.get(end).is_some() && holder(self.observed, end).is_none())
        else {
            return;
        };
        let mut gone = vanishing(self.observed, &end, Others::MayGo);
        gone.insert(end);
        self.lose(key, &gone);
    }

    /// What follows when these objects go with `cause`, which is made anew or makes room.
    fn lose(&mut self, cause: &Key, gone: &BTreeSet<Key>) {
        let mut changed = altered(self.observed, cause, Others::MayGo);
        for key in gone {
            changed.extend(altered(self.observed, key, Others::MayGo));
            self.write_again(key, cause, gone);
        }
        for key in changed.difference(gone) {
            let reason: Arc<str> = format!("lost {cause}").into();
            let Some(is) = self.observed.get(key) else { continue };
            if self.is_refused(key) {
                if self.fits(&is.object) {
                    self.kept.insert(key.clone(), reason);
                }
            } else if self.desired.get(key).is_some_and(|wanted| wanted.object.satisfied_by(&is.object)) {
                self.verdicts.entry(key.clone()).or_insert(Verdict::Update(reason));
                self.provide(key);
            }
        }
    }

    fn write_again(&mut self, key: &Key, cause: &Key, gone: &BTreeSet<Key>) {
        if self.desired.get(key).is_some() {
            if self.is_refused(key) {
                return self.keep(key, cause, gone);
            }
            self.examine(key);
            if !matches!(self.verdicts.get(key), Some(Verdict::Create(_))) {
                self.verdicts.insert(key.clone(), Verdict::Create(format!("written anew with {cause}").into()));
            }
            return self.provide(key);
        }
        if !self.observed.get(key).is_some_and(|is| can_be_removed(&is.object)) {
            return;
        }
        if !self.is_judged(key) && matches!(self.judge(key), Some(Verdict::Refuse(_))) {
            self.unjudged.insert(key.clone());
        }
        if self.is_refused(key) {
            self.keep(key, cause, gone);
        } else if key.parent().is_some() || matches!(key.ns(), Some(Ns::Path(_))) {
            self.verdicts.remove(key);
        }
    }

    /// Writes what an object needs that is written again as it should be, where it was something else before.
    pub(crate) fn provide(&mut self, key: &Key) {
        let Some(wanted) = self.desired.get(key) else { return };
        for needed in leans_on(self.desired, &wanted.object) {
            let is = self.observed.get(&needed);
            if is.is_some_and(|is| !bears(&is.object, &wanted.object)) && !self.is_judged(&needed) {
                self.unjudged.insert(needed.clone());
            }
            let is_new = is.is_none() && self.desired.get(&needed).is_some();
            if is_new && !self.verdicts.contains_key(&needed) {
                self.verdicts.insert(needed.clone(), Verdict::Create(format!("{key} needs it").into()));
                self.examine(&needed);
                self.provide(&needed);
            }
        }
    }

    /// Notes an object that comes to be written after it was settled what is refused, and might have been refused itself.
    fn examine(&mut self, key: &Key) {
        let lacks = || self.desired.get(key).filter(|_| self.is_denied).and_then(|wanted| self.lacks(&wanted.object));
        if !self.is_judged(key) && (is_host_link(key) || lacks().is_some()) {
            self.unjudged.insert(key.clone());
        }
    }

    /// Writes an object again as it was, and first what it hangs on.
    fn keep(&mut self, key: &Key, cause: &Key, gone: &BTreeSet<Key>) {
        let Some(entry) = self.observed.get(key).filter(|_| !self.kept.contains_key(key)) else { return };
        if !self.fits(&entry.object) {
            return;
        }
        self.kept.insert(key.clone(), format!("kept, and written anew with {cause}").into());
        for holds in leans_on(self.observed, &entry.object) {
            if gone.contains(&holds) && (self.desired.get(&holds).is_none() || self.is_refused(&holds)) {
                self.keep(&holds, cause, gone);
            }
        }
    }

    /// Whether an object can be written on what it hangs on, as that will be. An element cannot where its set is no longer
    /// declared.
    fn fits(&self, object: &Object) -> bool {
        let is_lost = |below: &Key| {
            // The rules of a part that was only found are not known, and another table may lack the sets they look into.
            let is_lost = |is: &Object| matches!(is, Object::NftPart(part) if part.found.is_some() || !self.fits(is));
            let is_written = self.verdicts.get(below).is_some_and(Verdict::writes);
            !is_written && self.observed.get(below).is_some_and(|is| is_lost(&is.object))
        };
        needs(object).iter().all(|below| self.will_bear(below, object) && !is_lost(below))
    }

    /// Gives no step to what goes with an object that is removed.
    pub(crate) fn pass_over(&mut self) {
        let removed: Vec<Key> = self
            .verdicts
            .iter()
            .filter(|(key, v)| {
                **v == Verdict::Remove
                    && matches!(key.kind(), Kind::Link | Kind::NftTable | Kind::NftPart | Kind::IpvsService)
            })
            .map(|(key, _)| key.clone())
            .collect();
        for key in removed {
            for gone in below(self.observed, &key) {
                if self.verdicts.get(&gone) == Some(&Verdict::Remove) {
                    self.verdicts.remove(&gone);
                }
            }
        }
    }
}

/// Whether something may go with an object of a kind, or change.
fn is_leant_on(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Link
            | Kind::NftTable
            | Kind::NftPart
            | Kind::Address
            | Kind::IpvsService
            | Kind::Forwarder
            | Kind::IpipProgram
            | Kind::Nexthop
            | Kind::NexthopGroup
    )
}

/// For a verdict that makes an object from nothing: whether there is an old one that goes first. A table is always
/// replaced whole.
fn begins(key: &Key, verdict: &Verdict) -> Option<bool> {
    match verdict {
        Verdict::Remake(_) => Some(true),
        Verdict::Update(_) if key.kind() == Kind::NftTable => Some(true),
        Verdict::Create(_) => Some(false),
        Verdict::Update(_) | Verdict::Remove | Verdict::Refuse(_) => None,
    }
}
