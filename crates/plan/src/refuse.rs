//! What is refused, and what follows from it.
//!
//! A refused object stays as it was. What it hangs on stays too, or is made anew so that the object can be written again
//! on it ([`bears`]). What needs a refused object that is not there is refused as well. A refusal leads to more of them and
//! undoes none, so there is one answer, in whatever order it is found.

use ripstop_netmodel::{Key, Kind, Object};

use crate::diff::{Differ, Verdict};
use crate::hang::{bears, hangs_on, is_second_end, leans_on, needs, other_end, sources};

impl Differ<'_> {
    /// Refuses until nothing more follows, or until it is known that more has to be judged first.
    pub(crate) fn settle(&mut self) {
        let refused = self.verdicts.iter().filter(|(_, verdict)| matches!(verdict, Verdict::Refuse(_)));
        self.unseen = refused.map(|(key, _)| key.clone()).collect();
        self.refuse(self.doubles());
        loop {
            self.hold_back();
            let contests = self.contests();
            self.unjudged.extend(self.not_judged(&contests));
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
            if let Some(end) = self.end_that_stays(&key) {
                self.verdicts.insert(end.clone(), Verdict::Refuse(format!("needs {key}, which is refused")));
                self.unseen.push(end);
            }
            self.verdicts.insert(key.clone(), Verdict::Refuse(why));
            self.unseen.push(key);
        }
    }

    /// The other end that a pair does not get when it is refused: it does not come, or stays another link's.
    fn end_that_stays(&self, first: &Key) -> Option<Key> {
        let end = other_end(&self.desired.get(first)?.object)?;
        let is = self.observed.get(first).and_then(|is| other_end(&is.object));
        let is_there = self.observed.get(&end).is_some();
        let is_known = is_there || self.verdicts.contains_key(&end);
        (is_known && !(is_there && is.as_ref() == Some(&end))).then_some(end)
    }

    /// Keeps what refused objects hang on.
    fn hold_back(&mut self) {
        while let Some(refused) = self.unseen.pop() {
            let mut open = vec![refused.clone()];
            while let Some(key) = open.pop() {
                let Some(is) = self.observed.get(&key) else { continue };
                for holds in leans_on(self.observed, &is.object) {
                    match self.verdicts.get(&holds) {
                        Some(Verdict::Remake(_)) if self.will_bear(&holds, &is.object) => {
                            // It goes in between: whoever asked, it is decided what becomes of it.
                            if !self.is_judged(&key) && self.judge(&key).is_some() {
                                self.unjudged.insert(key.clone());
                            }
                        }
                        Some(Verdict::Remove | Verdict::Remake(_)) => {
                            self.refuse(vec![(holds, format!("{refused} needs it and is kept"))]);
                        }
                        Some(_) => {}
                        None => open.push(holds),
                    }
                }
            }
        }
    }

    /// Whether an object that is on another one can be so when the plan has run.
    pub(crate) fn will_bear(&self, below: &Key, object: &Object) -> bool {
        let is_written = self.verdicts.get(below).is_some_and(Verdict::writes);
        !is_written || self.desired.get(below).is_none_or(|wanted| bears(&wanted.object, object))
    }

    /// Objects that would be written without what they need, and routes that are right but would lose their source: the
    /// address may have been another link's.
    fn stranded(&self) -> Vec<(Key, String)> {
        let lacks = |key: &Key| self.desired.get(key).and_then(|wanted| self.lacks(&wanted.object));
        let written = self.verdicts.iter().filter(|(_, verdict)| verdict.writes()).map(|(key, _)| key);
        let judged = self.keys.iter().chain(self.also);
        let right = judged.filter(|key| key.kind() == Kind::Route && !self.verdicts.contains_key(key));
        let refusal = |key: &Key| Some((key.clone(), format!("needs {}, which is refused", lacks(key)?)));
        written.chain(right).filter_map(refusal).collect()
    }

    /// What an object needs and will not have, or not as something that bears it, because that is refused. Of several
    /// addresses that can be a source one is enough.
    pub(crate) fn lacks(&self, wanted: &Object) -> Option<Key> {
        let as_it_was = |key: &Key| self.observed.get(key).is_some_and(|is| bears(&is.object, wanted));
        let is_lost = |key: &Key| self.is_refused(key) && !(as_it_was(key) && self.will_be(key));
        needs(wanted).into_iter().find(is_lost).or_else(|| {
            let sources = sources(self.desired, wanted);
            sources.iter().all(is_lost).then(|| sources.into_iter().next()).flatten()
        })
    }

    /// Whether an object will be there, if only as it was.
    fn will_be(&self, key: &Key) -> bool {
        match (self.verdicts.get(key), self.observed.get(key)) {
            (Some(Verdict::Create(_) | Verdict::Update(_) | Verdict::Remake(_)), _) => true,
            (Some(Verdict::Remove), _) | (_, None) => false,
            // It is not there, or it is another pair's.
            (Some(Verdict::Refuse(_)), Some(is)) if is_second_end(&is.object) => false,
            (Some(Verdict::Refuse(_)) | None, Some(is)) => hangs_on(&is.object).iter().all(|below| self.will_be(below)),
        }
    }

    pub(crate) fn is_refused(&self, key: &Key) -> bool {
        matches!(self.verdicts.get(key), Some(Verdict::Refuse(_)))
    }
}
