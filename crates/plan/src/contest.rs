//! What only one link can have: an alternative name, a network identifier with a port.
//!
//! Links may pass such things on to each other, also in a circle. Whoever gives one up does so before anybody takes it: it
//! is removed early, or it gets a name for the meantime. Where it is not given up, who wants it is refused, and with it
//! what would hang on it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use ripstop_netmodel::{Entry, Key, Kind, Link, LinkKind, Model, Ns, Object};

use crate::diff::{Differ, Verdict};
use crate::hang::{Others, leans_on, links, other_end, vanishing};

/// What only one link of a namespace can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Unique<'a> {
    /// An alternative name.
    Name(&'a str),
    /// A network identifier with a UDP port.
    Vxlan(u32, u16),
}

/// A name that no object wants, for the time between two others.
pub(crate) fn meanwhile(link: &Link) -> Link {
    Link { altname: Some(format!("ripstop.moving.{}", link.name).into()), ..link.clone() }
}

/// Other links of a model that have what this one wants.
pub(crate) fn rivals(model: &Model, object: &Object) -> Vec<Key> {
    let Object::Link(link) = object else { return Vec::new() };
    let wanted: Vec<Unique<'_>> = of(link).collect();
    let has_one = |other: &Link| other.name != link.name && of(other).any(|unique| wanted.contains(&unique));
    links(model, &link.ns)
        .filter(|(_, other)| matches!(other, Object::Link(other) if has_one(other)))
        .map(|(key, _)| key.clone())
        .collect()
}

fn of(link: &Link) -> impl Iterator<Item = Unique<'_>> {
    let vxlan = match link.kind {
        LinkKind::Vxlan { vni, port, .. } => Some(Unique::Vxlan(vni, port)),
        _ => None,
    };
    link.altname.as_deref().map(Unique::Name).into_iter().chain(vxlan)
}

/// One link has what another one wants.
struct Contest<'a> {
    wants: Key,
    has: Key,
    what: Unique<'a>,
}

impl fmt::Display for Contest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.what {
            Unique::Name(name) => write!(f, "{} has the alternative name {name}, and keeps it", self.has),
            Unique::Vxlan(vni, port) => {
                write!(f, "{} has network identifier {vni} on port {port}, and keeps it", self.has)
            }
        }
    }
}

impl<'a> Differ<'a> {
    /// Judges links that are in the way too, whoever asked for them, and what goes with those that go.
    pub(crate) fn widen(&mut self, keys: &BTreeSet<Key>) {
        let mut open: Vec<Key> = keys.iter().filter(|key| is_host_link(key)).cloned().collect();
        while !open.is_empty() {
            let asked: BTreeSet<Key> = std::mem::take(&mut open).into_iter().collect();
            for contest in self.contests().into_iter().filter(|contest| asked.contains(&contest.wants)) {
                if keys.contains(&contest.has) || self.verdicts.contains_key(&contest.has) {
                    continue;
                }
                self.judge_too(&contest.has);
                if !matches!(self.verdicts.get(&contest.has), None | Some(Verdict::Update(_))) {
                    for key in vanishing(self.observed, &contest.has, Others::MayGo).difference(keys) {
                        self.judge_too(key);
                    }
                }
                open.push(contest.has);
            }
        }
    }

    fn judge_too(&mut self, key: &Key) {
        if !self.verdicts.contains_key(key)
            && let Some(verdict) = self.judge(key)
        {
            self.verdicts.insert(key.clone(), verdict);
            self.provide(key);
        }
    }

    /// Decides who gives way, and refuses those for whom nobody does. A refused one keeps what it has, so that others may
    /// have to be refused too.
    pub(crate) fn settle_contests(&mut self) {
        self.refuse_doubles();
        loop {
            let contests = self.contests();
            let refusals: Vec<(Key, String)> =
                contests.iter().filter_map(|contest| Some((contest.wants.clone(), self.refusal(contest)?))).collect();
            if refusals.is_empty() {
                for contest in contests {
                    match self.verdicts.get(&contest.has) {
                        Some(Verdict::Remove | Verdict::Remake(_)) => self.room.insert(contest.has),
                        _ => self.renamed.insert(contest.has),
                    };
                }
                return;
            }
            refusals.into_iter().for_each(|(key, why)| self.deny(&key, why));
        }
    }

    /// Why a link keeps what another one wants; `None` if it gives it up.
    fn refusal(&self, contest: &Contest<'_>) -> Option<String> {
        let stays = |entry: &Arc<Entry>| of_object(&entry.object).any(|unique| unique == contest.what);
        match (self.verdicts.get(&contest.has), contest.what) {
            (Some(Verdict::Remove | Verdict::Remake(_)), _) => None,
            (Some(Verdict::Refuse(why)), _) => Some(format!("{contest}: {why}")),
            (_, Unique::Name(_)) if self.desired.get(&contest.has).is_some_and(|entry| !stays(entry)) => None,
            _ => Some(contest.to_string()),
        }
    }

    /// Links that are there and have what one that will be written wants.
    fn contests(&self) -> Vec<Contest<'a>> {
        let mut wanted: BTreeMap<Unique<'a>, Vec<&Key>> = BTreeMap::new();
        for key in self.verdicts.keys().filter(|key| is_host_link(key) && self.is_written(key)) {
            for unique in self.desired.get(key).into_iter().flat_map(|entry| of_object(&entry.object)) {
                wanted.entry(unique).or_default().push(key);
            }
        }
        if wanted.is_empty() {
            return Vec::new();
        }
        let mut contests = Vec::new();
        for (has, object) in links(self.observed, &Ns::Host) {
            for what in of_object(object) {
                let others = wanted.get(&what).into_iter().flatten().filter(|wants| **wants != has);
                contests.extend(others.map(|wants| Contest { wants: (*wants).clone(), has: has.clone(), what }));
            }
        }
        contests
    }

    /// Of two that want one thing and have it neither, the first gets it.
    fn refuse_doubles(&mut self) {
        let mut taken: BTreeMap<Unique<'a>, Key> = BTreeMap::new();
        let mut late = Vec::new();
        for key in self.verdicts.keys().filter(|key| is_host_link(key) && self.is_written(key)) {
            for unique in self.desired.get(key).into_iter().flat_map(|entry| of_object(&entry.object)) {
                match taken.get(&unique) {
                    Some(first) => {
                        late.push((key.clone(), format!("{first} wants the same name or network identifier")))
                    }
                    None => {
                        taken.insert(unique, key.clone());
                    }
                }
            }
        }
        late.into_iter().for_each(|(key, why)| self.deny(&key, why));
    }

    /// Refuses an object that is wanted, and what would hang on it where it is not there. Of a link that stays something
    /// else than a pair, the other end does not come either.
    fn deny(&mut self, key: &Key, why: String) {
        self.verdicts.insert(key.clone(), Verdict::Refuse(why));
        let is_there = self.observed.get(key).is_some();
        let end = self.desired.get(key).and_then(|entry| other_end(&entry.object));
        let hangs_on_it = |other: &&Key| {
            let Some(wanted) = self.desired.get(other).filter(|_| self.is_written(other)) else { return false };
            let is_end = end.as_ref() == Some(*other) && !(is_there && self.observed.get(other).is_some());
            is_end || !is_there && leans_on(self.desired, &wanted.object).contains(key)
        };
        let hanging: Vec<Key> = self.verdicts.keys().filter(hangs_on_it).cloned().collect();
        for other in hanging {
            self.deny(&other, format!("needs {key}, which is refused"));
        }
    }

    fn is_written(&self, key: &Key) -> bool {
        matches!(self.verdicts.get(key), Some(Verdict::Create(_) | Verdict::Update(_) | Verdict::Remake(_)))
    }

    /// A link under the name it has meanwhile.
    pub(crate) fn with_another_name(&self, is: &Entry) -> Option<Entry> {
        match &is.object {
            Object::Link(link) => Some(Entry { object: meanwhile(link).into(), owner: is.owner.clone() }),
            _ => None,
        }
    }
}

fn of_object(object: &Object) -> impl Iterator<Item = Unique<'_>> {
    let link = if let Object::Link(link) = object { Some(link) } else { None };
    link.into_iter().flat_map(of)
}

fn is_host_link(key: &Key) -> bool {
    key.kind() == Kind::Link && key.ns() == Some(&Ns::Host)
}
