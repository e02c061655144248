//! What only one link can have: an alternative name, a network identifier with a port, the other end of a pair.
//!
//! Links may pass such things on to each other, also in a circle. Whoever gives one up does so before anybody takes it: it
//! is removed early, or it gets a name for the meantime. Where it is not given up, who wants it is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use ripstop_netmodel::{Entry, Key, Kind, Link, LinkKind, Model, Ns, Object};
use ripstop_types::IfName;

use crate::diff::{Differ, Verdict};
use crate::hang::{Others, links, vanishing};

/// What only one link can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Unique<'a> {
    /// An alternative name.
    Name(&'a str),
    /// A network identifier with a UDP port.
    Vxlan(u32, u16),
    /// The other end of a pair.
    End(&'a Ns, &'a IfName),
}

/// A name that no object wants, for the time between two others.
pub(crate) fn meanwhile(link: &Link) -> Link {
    Link { altname: Some(format!("ripstop.moving.{}", link.name).into()), ..link.clone() }
}

/// Other links of a model that have the name or the identifier that this one wants.
pub(crate) fn rivals(model: &Model, object: &Object) -> Vec<Key> {
    let Object::Link(link) = object else { return Vec::new() };
    let wanted: Vec<Unique<'_>> = marks(link).collect();
    let has_one = |other: &Link| other.name != link.name && marks(other).any(|unique| wanted.contains(&unique));
    links(model, &link.ns)
        .filter(|(_, other)| matches!(other, Object::Link(other) if has_one(other)))
        .map(|(key, _)| key.clone())
        .collect()
}

fn marks(link: &Link) -> impl Iterator<Item = Unique<'_>> {
    let vxlan = match link.kind {
        LinkKind::Vxlan { vni, port, .. } => Some(Unique::Vxlan(vni, port)),
        _ => None,
    };
    link.altname.as_deref().map(Unique::Name).into_iter().chain(vxlan)
}

fn end(link: &Link) -> Option<Unique<'_>> {
    match &link.kind {
        LinkKind::Veth(peer) => Some(Unique::End(&peer.ns, &peer.name)),
        _ => None,
    }
}

fn of_object(object: &Object) -> impl Iterator<Item = Unique<'_>> {
    let link = if let Object::Link(link) = object { Some(link) } else { None };
    link.into_iter().flat_map(|link| marks(link).chain(end(link)))
}

/// One link has what another one wants.
pub(crate) struct Contest<'a> {
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
            Unique::End(ns, name) => {
                let end = Key::Link { ns: ns.clone(), name: name.clone() };
                write!(f, "{} has the other end {end}, and keeps it", self.has)
            }
        }
    }
}

impl<'a> Differ<'a> {
    /// Links that are there and have what one that will be written wants.
    pub(crate) fn contests(&self) -> Vec<Contest<'a>> {
        let wanted = self.wanted();
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

    /// Of two that want one thing, the first gets it.
    pub(crate) fn doubles(&self) -> Vec<(Key, String)> {
        let mut late = Vec::new();
        for all in self.wanted().values() {
            if let [first, others @ ..] = all.as_slice() {
                let why = format!("{first} wants the same name, network identifier or other end");
                late.extend(others.iter().map(|other| ((*other).clone(), why.clone())));
            }
        }
        late
    }

    /// What links that will be written want, and which. The other end comes with its pair alone.
    fn wanted(&self) -> BTreeMap<Unique<'a>, Vec<&Key>> {
        let mut wanted: BTreeMap<Unique<'a>, Vec<&Key>> = BTreeMap::new();
        for (key, verdict) in self.verdicts.iter().filter(|(key, verdict)| is_host_link(key) && verdict.writes()) {
            let Some(Object::Link(link)) = self.desired.get(key).map(|entry| &entry.object) else { continue };
            let end = end(link).filter(|_| matches!(verdict, Verdict::Create(_) | Verdict::Remake(_)));
            for unique in marks(link).chain(end) {
                wanted.entry(unique).or_default().push(key);
            }
        }
        wanted
    }

    /// Who has what is wanted and was not judged, whoever asked for it, with what goes when it goes.
    pub(crate) fn not_judged(&self, contests: &[Contest<'a>]) -> BTreeSet<Key> {
        let mut keys = BTreeSet::new();
        for Contest { has, .. } in contests.iter().filter(|contest| !self.is_judged(&contest.has)) {
            if !matches!(self.judge(has), None | Some(Verdict::Update(_))) {
                let gone = vanishing(self.observed, has, Others::MayGo);
                keys.extend(gone.into_iter().filter(|key| !self.is_judged(key)));
            }
            keys.insert(has.clone());
        }
        keys
    }

    /// Who does not get what it wants, and why.
    pub(crate) fn losers(&self, contests: &[Contest<'a>]) -> Vec<(Key, String)> {
        contests.iter().filter_map(|contest| Some((contest.wants.clone(), self.refusal(contest)?))).collect()
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

    /// Lets those who give way do so first.
    pub(crate) fn give_way(&mut self, contests: Vec<Contest<'a>>) {
        for contest in contests {
            match self.verdicts.get(&contest.has) {
                Some(Verdict::Remove | Verdict::Remake(_)) => self.room.insert(contest.has),
                _ => self.renamed.insert(contest.has),
            };
        }
    }

    /// A link under the name it has meanwhile.
    pub(crate) fn with_another_name(&self, is: &Entry) -> Option<Entry> {
        match &is.object {
            Object::Link(link) => Some(Entry { object: meanwhile(link).into(), owner: is.owner.clone() }),
            _ => None,
        }
    }
}

pub(crate) fn is_host_link(key: &Key) -> bool {
    key.kind() == Kind::Link && key.ns() == Some(&Ns::Host)
}
