//! What is refused, and what follows from it.
//!
//! A refused object stays as it was. What it hangs on stays too, or is made anew so that the object can be written again
//! on it ([`bears`]). What needs a refused object that is not there is refused as well. A refusal leads to more of them and
//! undoes none, so there is one answer, in whatever order it is found.

use std::collections::BTreeMap;

use ripstop_netmodel::{Key, Kind, Link, LinkKind, Object};

use crate::diff::{Differ, Verdict};
use crate::hang::{bears, hangs_on, leans_on, needs, other_end, sources};
use crate::model::holder;

impl Differ<'_> {
    /// Refuses until nothing more follows, or until it is known that more has to be judged first.
    pub(crate) fn settle(&mut self) {
        let refused = self.verdicts.iter().filter(|(_, verdict)| matches!(verdict, Verdict::Refuse(_)));
        self.unseen = refused.map(|(key, _)| key.clone()).collect();
        self.refuse(self.doubles());
        loop {
            self.hold_back();
            let contests = self.contests();
            self.unjudged = self.not_judged(&contests);
            if !self.unjudged.is_empty() {
                return;
            }
            let mut refusals = self.losers(&contests);
            if refusals.is_empty() && self.is_denied {
                refusals = self.stranded();
            }
            if refusals.is_empty() {
                return self.give_way(contests);
            }
            self.refuse(refusals);
        }
    }

    fn refuse(&mut self, refusals: Vec<(Key, String)>) {
        for (key, why) in refusals {
            self.is_denied |= self.desired.get(&key).is_some();
            self.verdicts.insert(key.clone(), Verdict::Refuse(why));
            self.unseen.push(key);
        }
    }

    /// Keeps what refused objects hang on.
    fn hold_back(&mut self) {
        while let Some(refused) = self.unseen.pop() {
            let mut open = vec![refused.clone()];
            while let Some(key) = open.pop() {
                let Some(is) = self.observed.get(&key) else { continue };
                let below = leans_on(self.observed, &is.object).into_iter().chain([key.clone()]);
                let rests_on: Vec<Key> =
                    below.map(|below| self.first_end(&below).unwrap_or(below)).filter(|below| *below != key).collect();
                for holds in rests_on {
                    match self.verdicts.get(&holds) {
                        Some(Verdict::Remove) => {}
                        Some(Verdict::Remake(_)) if !self.will_bear(&holds, &is.object) => {}
                        None => {
                            open.push(holds);
                            continue;
                        }
                        Some(_) => continue,
                    }
                    self.refuse(vec![(holds, format!("{refused} needs it and is kept"))]);
                }
            }
        }
    }

    fn first_end(&self, key: &Key) -> Option<Key> {
        match self.observed.get(key).map(|entry| &entry.object) {
            Some(Object::Link(Link { kind: LinkKind::VethPeer, .. })) => holder(self.observed, key),
            _ => None,
        }
    }

    /// Whether an object can be written on another one as that will be.
    pub(crate) fn will_bear(&self, below: &Key, object: &Object) -> bool {
        self.is_refused(below) || self.desired.get(below).is_none_or(|wanted| bears(&wanted.object, object))
    }

    /// Objects that would be written without what they need.
    fn stranded(&self) -> Vec<(Key, String)> {
        let ends = self.ends_of_refused();
        let lacks = |key: &Key| {
            let wanted = self.desired.get(key)?;
            ends.get(key).cloned().or_else(|| self.lacks(&wanted.object))
        };
        let written = self.verdicts.iter().filter(|(_, verdict)| verdict.writes());
        written.filter_map(|(key, _)| Some((key.clone(), format!("needs {}, which is refused", lacks(key)?)))).collect()
    }

    /// What an object needs and will not have, or not as something that bears it, because that is refused. Of several
    /// addresses that can be a source one is enough.
    pub(crate) fn lacks(&self, wanted: &Object) -> Option<Key> {
        let as_it_was = |key: &Key| self.observed.get(key).is_some_and(|is| bears(&is.object, wanted));
        let is_lost = |key: &Key| self.is_refused(key) && !(self.will_be(key) && as_it_was(key));
        needs(wanted).into_iter().find(is_lost).or_else(|| {
            let sources = sources(self.desired, wanted);
            sources.iter().all(is_lost).then(|| sources.into_iter().next()).flatten()
        })
    }

    /// The other ends of pairs that do not come, each with its first end. Of a link that stays something else than the pair, the
    /// other end does not come either.
    fn ends_of_refused(&self) -> BTreeMap<Key, Key> {
        let refused = self.verdicts.keys().filter(|key| key.kind() == Kind::Link && self.is_refused(key));
        let lost = refused.filter_map(|key| {
            let end = other_end(&self.desired.get(key)?.object)?;
            let is = self.observed.get(key).and_then(|is| other_end(&is.object));
            let is_there = is.as_ref() == Some(&end) && self.observed.get(&end).is_some();
            (!is_there).then(|| (end, key.clone()))
        });
        lost.collect()
    }

    /// Whether an object will be there, if only as it was.
    fn will_be(&self, key: &Key) -> bool {
        match (self.verdicts.get(key), self.observed.get(key)) {
            (Some(Verdict::Create(_) | Verdict::Update(_) | Verdict::Remake(_)), _) => true,
            (Some(Verdict::Remove), _) | (_, None) => false,
            (Some(Verdict::Refuse(_)), _) if self.is_other_end(key) => false,
            (Some(Verdict::Refuse(_)) | None, Some(is)) => hangs_on(&is.object).iter().all(|below| self.will_be(below)),
        }
    }

    /// Whether the second end of a pair is wanted. It is refused where it is another pair's, or not there.
    fn is_other_end(&self, key: &Key) -> bool {
        let wanted = self.desired.get(key).map(|entry| &entry.object);
        matches!(wanted, Some(Object::Link(Link { kind: LinkKind::VethPeer, .. })))
    }

    pub(crate) fn is_refused(&self, key: &Key) -> bool {
        matches!(self.verdicts.get(key), Some(Verdict::Refuse(_)))
    }
}
