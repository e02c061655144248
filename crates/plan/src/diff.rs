//! Comparing what is with what should be.
//!
//! Each key gets a verdict of its own; then the verdicts are made to agree: what goes with an object that is made anew is
//! written again, what a refused removal hangs on is kept too, what only one link can have changes hands in an order that
//! works, and what goes by itself gets no step.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ripstop_netmodel::{Entry, Key, Kind, Link, LinkKind, Model, Ns, Object, Resource, RouteTarget};
use ripstop_types::Owner;

use crate::hang::{Others, altered, below, hangs_on, leans_on, master, other_end, vanishing};
use crate::model::{can_be_removed, holder};
use crate::step::{Action, Plan, Step};

/// Says whether an object that is no longer wanted may go. An owner whose kind has not been read yet is unknown, not
/// absent: its objects stay.
pub trait Guard {
    /// `Err` holds the sentence of the refusal.
    fn may_delete(&self, key: &Key, entry: &Entry) -> Result<(), String>;
}

impl<F: Fn(&Key, &Entry) -> Result<(), String>> Guard for F {
    fn may_delete(&self, key: &Key, entry: &Entry) -> Result<(), String> {
        self(key, entry)
    }
}

/// The plan that takes `observed` to `desired` for these keys, whatever else differs.
///
/// What is desired must be whole: an object comes with what it hangs on. `observed` need not be: where the two ends of a
/// pair, or an object and what holds it, do not fit together, it is taken as gone. A wanted object outside of `keys` is
/// written only where a step takes it away.
pub fn diff(observed: &Model, desired: &Model, keys: &BTreeSet<Key>, guard: &dyn Guard) -> Plan {
    let mut differ = Differ {
        observed,
        desired,
        guard,
        missing: "missing".into(),
        verdicts: BTreeMap::new(),
        kept: BTreeMap::new(),
        room: BTreeSet::new(),
        renamed: BTreeSet::new(),
    };
    // In order, and so without a search for each one's place.
    differ.verdicts = keys.iter().filter_map(|key| Some((key.clone(), differ.judge(key)?))).collect();
    differ.widen(keys);
    differ.hold_back();
    differ.settle_contests();
    differ.follow();
    differ.pass_over();
    differ.into_plan()
}

/// The plan for everything in either model.
pub fn diff_all(observed: &Model, desired: &Model, guard: &dyn Guard) -> Plan {
    let keys: BTreeSet<Key> = observed.keys().chain(desired.keys()).cloned().collect();
    diff(observed, desired, &keys, guard)
}

/// What becomes of a key, with the reason.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Create(Arc<str>),
    Update(Arc<str>),
    /// Removed and created, because it cannot be changed in place.
    Remake(Arc<str>),
    Remove,
    Refuse(String),
}

pub(crate) struct Differ<'a> {
    pub(crate) observed: &'a Model,
    pub(crate) desired: &'a Model,
    guard: &'a dyn Guard,
    /// The reason of most steps.
    missing: Arc<str>,
    pub(crate) verdicts: BTreeMap<Key, Verdict>,
    /// Unwanted objects that the guard keeps and that go with one that is made anew.
    kept: BTreeMap<Key, Arc<str>>,
    /// Links whose removal makes room for one that is written.
    pub(crate) room: BTreeSet<Key>,
    /// Links that give their alternative name up before another takes it.
    pub(crate) renamed: BTreeSet<Key>,
}

impl Differ<'_> {
    pub(crate) fn judge(&self, key: &Key) -> Option<Verdict> {
        match (self.observed.get(key), self.desired.get(key)) {
            (None, None) => None,
            (None, Some(_)) => Some(Verdict::Create(self.missing.clone())),
            (Some(is), Some(wanted)) => self.compare(is, wanted),
            (Some(is), None) => self.unwanted(key, is),
        }
    }

    fn compare(&self, is: &Entry, wanted: &Entry) -> Option<Verdict> {
        let is_there = |key: &Key| self.observed.get(key).is_some();
        if let Some(lost) = hangs_on(&is.object).iter().find(|key| !is_there(key)) {
            return Some(Verdict::Create(format!("went with {lost}").into()));
        }
        if let Some(end) = self.lost_end(&wanted.object) {
            return Some(Verdict::Remake(format!("its other end, {end}, is gone").into()));
        }
        if !wanted.object.satisfied_by(&is.object) {
            let reason = format!("differs in {}", difference(&is.object, &wanted.object)).into();
            return Some(if wanted.object.can_update(&is.object) {
                Verdict::Update(reason)
            } else {
                Verdict::Remake(reason)
            });
        }
        let lost = master(&is.object).filter(|master| !is_there(master))?;
        Some(Verdict::Update(format!("lost {lost}").into()))
    }

    /// The other end of a pair that is no longer where it was made. A namespace that was never looked into says nothing:
    /// one that was has its `lo`.
    fn lost_end(&self, wanted: &Object) -> Option<Key> {
        let end = other_end(wanted).filter(|end| self.desired.get(end).is_some())?;
        let lo = Key::Link { ns: end.ns()?.clone(), name: "lo".parse().ok()? };
        (self.observed.get(&lo).is_some() && self.observed.get(&end).is_none()).then_some(end)
    }

    fn unwanted(&self, key: &Key, is: &Entry) -> Option<Verdict> {
        if !can_be_removed(&is.object) || self.is_of_a_lost_interface(key, &is.object) {
            return None;
        }
        Some(match self.guard.may_delete(key, is) {
            Ok(()) => Verdict::Remove,
            Err(why) => Verdict::Refuse(why),
        })
    }

    /// In a pod's namespace everything hangs on the interface. Without one of ours there is nothing to remove: by now the
    /// namespace may be another's.
    fn is_of_a_lost_interface(&self, key: &Key, is: &Object) -> bool {
        let Some(ns @ Ns::Path(_)) = key.ns() else { return false };
        let name = match (is, key.parent()) {
            (_, Some(Key::Link { name, .. })) => name,
            (Object::Route(route), _) => match &route.target {
                RouteTarget::Via { link, .. } | RouteTarget::Link(link) => link.clone(),
                RouteTarget::Nexthop(_) | RouteTarget::Unreachable => return false,
            },
            _ => return false,
        };
        holder(self.observed, &Key::Link { ns: ns.clone(), name }).is_none()
    }

    /// Keeps what a refused removal hangs on: removed, it would take the refused object along.
    fn hold_back(&mut self) {
        let mut open: Vec<Key> =
            self.verdicts.iter().filter(|(_, v)| matches!(v, Verdict::Refuse(_))).map(|(key, _)| key.clone()).collect();
        while let Some(refused) = open.pop() {
            let Some(entry) = self.observed.get(&refused) else { continue };
            for below in leans_on(self.observed, &entry.object) {
                let holds = self.first_end(&below).unwrap_or(below);
                if self.verdicts.get(&holds) == Some(&Verdict::Remove) {
                    self.verdicts.insert(holds.clone(), Verdict::Refuse(format!("{refused} needs it and is kept")));
                    open.push(holds);
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

    /// Writes again what goes with objects that are made anew, and makes room for links.
    fn follow(&mut self) {
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
            self.make_room(rival);
        }
    }

    /// A pair that is made has a fresh other end, whatever is remembered of one.
    fn begin_pair(&mut self, key: &Key) {
        let end = self.desired.get(key).and_then(|entry| other_end(&entry.object));
        let Some(end) = end.filter(|end| self.observed.get(end).is_some()) else { return };
        match holder(self.observed, &end) {
            Some(other) => self.make_room(other),
            None => {
                let mut gone = vanishing(self.observed, &end, Others::MayGo);
                gone.insert(end);
                self.lose(key, &gone);
            }
        }
    }

    /// A link that goes anyway goes before one that takes what it has.
    fn make_room(&mut self, other: Key) {
        if self.verdicts.get(&other) == Some(&Verdict::Remove) {
            self.lose(&other, &vanishing(self.observed, &other, Others::MayGo));
            self.room.insert(other);
        }
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
            match (self.observed.get(key), self.desired.get(key)) {
                (Some(is), Some(wanted)) if wanted.object.satisfied_by(&is.object) => {
                    self.verdicts.entry(key.clone()).or_insert(Verdict::Update(reason));
                    self.provide(key);
                }
                (Some(_), None) if matches!(self.verdicts.get(key), Some(Verdict::Refuse(_))) => {
                    self.kept.insert(key.clone(), reason);
                }
                _ => {}
            }
        }
    }

    fn write_again(&mut self, key: &Key, cause: &Key, gone: &BTreeSet<Key>) {
        if self.desired.get(key).is_some() {
            if matches!(self.verdicts.get(key), Some(Verdict::Refuse(_))) {
                return;
            }
            if !matches!(self.verdicts.get(key), Some(Verdict::Create(_))) {
                self.verdicts.insert(key.clone(), Verdict::Create(format!("written anew with {cause}").into()));
            }
            return self.provide(key);
        }
        let Some(is) = self.observed.get(key).filter(|is| can_be_removed(&is.object)) else { return };
        let refused = match self.verdicts.get(key) {
            Some(Verdict::Refuse(_)) => true,
            Some(_) => false,
            None => self.guard.may_delete(key, is).is_err(),
        };
        if refused {
            self.keep(key, cause, gone);
        } else if key.parent().is_some() || matches!(key.ns(), Some(Ns::Path(_))) {
            self.verdicts.remove(key);
        }
    }

    /// Writes what an object needs that is written again as it should be, where it was something else before.
    pub(crate) fn provide(&mut self, key: &Key) {
        let Some(wanted) = self.desired.get(key) else { return };
        for needed in leans_on(self.desired, &wanted.object) {
            let is_new = self.observed.get(&needed).is_none() && self.desired.get(&needed).is_some();
            if is_new && !self.verdicts.contains_key(&needed) {
                self.verdicts.insert(needed.clone(), Verdict::Create(format!("{key} needs it").into()));
                self.provide(&needed);
            }
        }
    }

    /// Writes an unwanted object again, and first what it hangs on.
    fn keep(&mut self, key: &Key, cause: &Key, gone: &BTreeSet<Key>) {
        let Some(entry) = self.observed.get(key).filter(|_| !self.kept.contains_key(key)) else { return };
        if !self.fits(&entry.object) {
            return;
        }
        self.kept.insert(key.clone(), format!("kept, and written anew with {cause}").into());
        for holds in leans_on(self.observed, &entry.object) {
            if gone.contains(&holds) && self.desired.get(&holds).is_none() {
                self.keep(&holds, cause, gone);
            }
        }
    }

    /// Whether an element fits the table as it will be.
    fn fits(&self, object: &Object) -> bool {
        let Object::NftElement(element) = object else { return true };
        let table = Key::NftTable { family: element.key.family, name: element.key.table.clone() };
        match self.desired.get(&table).map(|entry| &entry.object) {
            Some(Object::NftTable(wanted)) => {
                wanted.table.check_element(&element.key.set, &element.key.key, &element.body).is_ok()
            }
            _ => true,
        }
    }

    /// Gives no step to what goes with an object that is removed.
    fn pass_over(&mut self) {
        let removed: Vec<Key> = self
            .verdicts
            .iter()
            .filter(|(key, v)| **v == Verdict::Remove && matches!(key.kind(), Kind::Link | Kind::NftTable))
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

    fn into_plan(self) -> Plan {
        let (mut make, mut remove, mut refuse) = (Vec::new(), Vec::new(), Vec::new());
        for (key, reason) in &self.kept {
            let Some(is) = self.observed.get(key) else { continue };
            let (action, before) = match is.object {
                Object::Link(_) => (Action::Update, Some(is)),
                _ => (Action::Create, None),
            };
            make.push((place(key, is), step(action, key.clone(), before, Some(is), reason.clone())));
        }
        let meanwhile = self.give_names_up(&mut make);
        let room = |key: &Key| (key.kind(), Stage::Room);
        for (key, verdict) in self.verdicts {
            let wanted = self.desired.get(&key);
            if let (Verdict::Create(reason), Some(wanted)) = (&verdict, wanted) {
                make.push((place(&key, wanted), step(Action::Create, key, None, Some(wanted), reason.clone())));
                continue;
            }
            let is = meanwhile.get(&key).or(self.observed.get(&key));
            match (verdict, is, wanted) {
                (Verdict::Update(reason), Some(is), Some(wanted)) => {
                    let at = if only_grows(is, wanted) { grown(wanted) } else { place(&key, wanted) };
                    make.push((at, step(Action::Update, key, Some(is), Some(wanted), reason)));
                }
                (Verdict::Remake(reason), Some(is), Some(wanted)) => {
                    let at = place(&key, wanted);
                    let first = if self.room.contains(&key) { room(&key) } else { at };
                    make.push((first, step(Action::Delete, key.clone(), Some(is), None, reason.clone())));
                    make.push((at, step(Action::Create, key, None, Some(wanted), reason)));
                }
                (Verdict::Remove, Some(is), _) => {
                    let step = step(Action::Delete, key, Some(is), None, "no longer wanted".into());
                    if self.room.contains(&step.key) {
                        make.push((room(&step.key), step));
                    } else {
                        remove.push((removal_place(&step.key, is), step));
                    }
                }
                (Verdict::Refuse(why), is, wanted) => refuse.push(step(Action::Refuse, key, is, wanted, why.into())),
                _ => {}
            }
        }
        // Stable: the removal that makes room stays before the creation of the same key.
        let order = |(a, step): &Placed, (b, other): &Placed| a.cmp(b).then_with(|| step.key.cmp(&other.key));
        make.sort_by(order);
        remove.sort_by(|a, b| order(b, a));
        let mut steps: Vec<Step> = make.into_iter().map(|(_, step)| step).collect();
        steps.append(&mut refuse);
        steps.extend(remove.into_iter().map(|(_, step)| step));
        Plan { steps }
    }

    /// Adds the steps by which links give their alternative names up; answers with what the links are then.
    fn give_names_up(&self, make: &mut Vec<Placed>) -> BTreeMap<Key, Arc<Entry>> {
        let mut meanwhile = BTreeMap::new();
        for key in &self.renamed {
            let Some((is, then)) =
                self.observed.get(key).and_then(|is| Some((is, Arc::new(self.with_another_name(is)?))))
            else {
                continue;
            };
            let reason = "another link takes its alternative name".into();
            let step = step(Action::Update, key.clone(), Some(is), Some(&then), reason);
            make.push(((key.kind(), Stage::Room), step));
            meanwhile.insert(key.clone(), then);
        }
        meanwhile
    }
}

/// Whether something may go with an object of a kind, or change.
fn is_leant_on(kind: Kind) -> bool {
    matches!(kind, Kind::Link | Kind::NftTable | Kind::Address | Kind::Forwarder | Kind::Nexthop)
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

/// Within a kind: what others of the kind need comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// Removed early, so that another can take what it has.
    Room,
    First,
    /// Ports of bridges; routes by a gateway, which another route may say is on the link; IPv6 forwarding, which costs a
    /// link the routes of its router's advertisements unless it was told to take them nevertheless.
    Second,
    /// Tables at the ingress of links: behind the link, before the pair's second end can send anything through it.
    Guard,
    /// Second ends of pairs, and `lo`.
    Third,
    /// Links that only get a larger MTU, what receives before what sends to it: second ends of pairs,
    GrownEnd,
    /// then all others,
    Grown,
    /// and bridges last.
    GrownBridge,
}

/// Where an object comes among those that are made; behind that counts its key.
pub(crate) fn place(key: &Key, entry: &Entry) -> (Kind, Stage) {
    let stage = match &entry.object {
        Object::Link(Link { kind: LinkKind::VethPeer | LinkKind::Loopback, .. }) => Stage::Third,
        Object::Link(Link { master: Some(_), .. }) => Stage::Second,
        Object::Route(route) if matches!(route.target, RouteTarget::Via { .. }) => Stage::Second,
        Object::Sysctl(setting) if *setting.path == *"net/ipv6/conf/all/forwarding" => Stage::Second,
        Object::NftTable(table) if table.devices().next().is_some() => return (Kind::Link, Stage::Guard),
        _ => Stage::First,
    };
    (key.kind(), stage)
}

/// Whether nothing but a larger MTU is new of a link.
fn only_grows(is: &Entry, wanted: &Entry) -> bool {
    let (Object::Link(is), Object::Link(wanted)) = (&is.object, &wanted.object) else { return false };
    wanted.mtu > is.mtu && wanted.satisfied_by(&Link { mtu: wanted.mtu, ..is.clone() })
}

/// Where a link's larger MTU comes: behind the routes, of which one may say that what is sent stays as short as it was.
fn grown(wanted: &Entry) -> (Kind, Stage) {
    let stage = match &wanted.object {
        Object::Link(Link { kind: LinkKind::VethPeer, .. }) => Stage::GrownEnd,
        Object::Link(Link { kind: LinkKind::Bridge, .. }) => Stage::GrownBridge,
        _ => Stage::Grown,
    };
    (Kind::Route, stage)
}

/// Where an object comes, counted from the last, among those that are removed: in the reverse of the order in which it
/// was made. But a link goes before the table that guards it, or what it still brings would pass.
fn removal_place(key: &Key, entry: &Entry) -> (Kind, Stage) {
    match key.kind() {
        Kind::NftTable => (Kind::NftTable, Stage::First),
        _ => place(key, entry),
    }
}

/// A step, and where it comes.
type Placed = ((Kind, Stage), Step);

fn step(action: Action, key: Key, before: Option<&Arc<Entry>>, after: Option<&Arc<Entry>>, reason: Arc<str>) -> Step {
    let owner = [after, before].into_iter().flatten().find_map(|entry| entry.owner.clone());
    Step {
        action,
        key,
        after: after.cloned(),
        before: before.cloned(),
        owner: owner.unwrap_or_else(Owner::agent),
        reason,
    }
}

/// The fields in which two objects differ, as `mtu: 1500, wanted 1450`.
pub fn difference(is: &Object, wanted: &Object) -> String {
    let fields = |object: &Object| match serde_json::to_value(object) {
        Ok(serde_json::Value::Object(outer)) => match outer.into_iter().next() {
            Some((_, serde_json::Value::Object(inner))) => inner,
            _ => serde_json::Map::new(),
        },
        _ => serde_json::Map::new(),
    };
    let (is, wanted) = (fields(is), fields(wanted));
    let mut parts = Vec::new();
    for (name, value) in &wanted {
        let found = is.get(name).unwrap_or(&serde_json::Value::Null);
        if found != value {
            let short = |v: &serde_json::Value| match v {
                serde_json::Value::String(text) => text.clone(),
                serde_json::Value::Object(_) | serde_json::Value::Array(_) => "another".into(),
                other => other.to_string(),
            };
            match value {
                serde_json::Value::Object(_) | serde_json::Value::Array(_) => parts.push(name.clone()),
                _ => parts.push(format!("{name}: {}, wanted {}", short(found), short(value))),
            }
        }
    }
    if parts.is_empty() { "its definition".into() } else { parts.join("; ") }
}
