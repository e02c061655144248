//! Comparing what is with what should be.
//!
//! Each key gets a verdict of its own; then the verdicts are made to agree: what only one link can have changes hands in an
//! order that works, what is refused draws in what follows from it, what goes with an object that is made anew is written
//! again, and what goes by itself gets no step. Where that touches an object that was not judged, it is, and all begins
//! anew with more keys.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ripstop_netmodel::{Entry, Key, Kind, Link, LinkKind, Model, Ns, Object, ROUTE_LOCALNET, Resource, RouteTarget};
use ripstop_nft::model::part_of;
use ripstop_types::Owner;

use crate::hang::{hangs_on, holder, leading_to, master, other_end};
use crate::model::can_be_removed;
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
    let mut also = BTreeSet::new();
    loop {
        let mut differ = Differ::judging(observed, desired, guard, keys, &also);
        for agree in [Differ::look_behind, Differ::settle, Differ::follow, Differ::pass_over] {
            if differ.unjudged.is_empty() {
                agree(&mut differ);
            }
        }
        if differ.unjudged.is_empty() {
            return differ.into_plan();
        }
        also.append(&mut differ.unjudged);
    }
}

/// The plan for everything in either model.
pub fn diff_all(observed: &Model, desired: &Model, guard: &dyn Guard) -> Plan {
    let keys: BTreeSet<Key> = observed.keys().chain(desired.keys()).cloned().collect();
    diff(observed, desired, &keys, guard)
}

/// Why a connection goes, which nobody ever wants.
const OVER: &str = "policies do not permit it any more";

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

impl Verdict {
    /// Whether the object is written as it is wanted.
    pub(crate) fn writes(&self) -> bool {
        matches!(self, Self::Create(_) | Self::Update(_) | Self::Remake(_))
    }
}

pub(crate) struct Differ<'a> {
    pub(crate) observed: &'a Model,
    pub(crate) desired: &'a Model,
    guard: &'a dyn Guard,
    /// What was asked for,
    pub(crate) keys: &'a BTreeSet<Key>,
    /// and what has to be judged with it.
    pub(crate) also: &'a BTreeSet<Key>,
    /// The reason of most steps.
    missing: Arc<str>,
    pub(crate) verdicts: BTreeMap<Key, Verdict>,
    /// Refused objects of which it was not seen yet what they hang on.
    pub(crate) unseen: Vec<Key>,
    /// Whether a wanted object is refused.
    pub(crate) is_denied: bool,
    /// What comes to be written and should have been judged before.
    pub(crate) unjudged: BTreeSet<Key>,
    /// Refused objects that go with one that is made anew, and are written again as they were.
    pub(crate) kept: BTreeMap<Key, Arc<str>>,
    /// Links, and elements of intervals, whose removal makes room for one that is written.
    pub(crate) room: BTreeSet<Key>,
    /// Links that give their alternative name up before another takes it.
    pub(crate) renamed: BTreeSet<Key>,
}

impl<'a> Differ<'a> {
    fn judging(
        observed: &'a Model,
        desired: &'a Model,
        guard: &'a dyn Guard,
        keys: &'a BTreeSet<Key>,
        also: &'a BTreeSet<Key>,
    ) -> Self {
        let mut differ = Self {
            observed,
            desired,
            guard,
            keys,
            also,
            missing: "missing".into(),
            verdicts: BTreeMap::new(),
            unseen: Vec::new(),
            is_denied: false,
            unjudged: BTreeSet::new(),
            kept: BTreeMap::new(),
            room: BTreeSet::new(),
            renamed: BTreeSet::new(),
        };
        // In order, and so without a search for each one's place.
        differ.verdicts = keys.iter().filter_map(|key| Some((key.clone(), differ.judge(key)?))).collect();
        for key in also {
            if let Some(verdict) = differ.judge(key) {
                differ.verdicts.insert(key.clone(), verdict);
                differ.provide(key);
            }
        }
        differ
    }

    /// Whether an object has a verdict of its own, if only that it is as it should be.
    pub(crate) fn is_judged(&self, key: &Key) -> bool {
        self.keys.contains(key) || self.also.contains(key)
    }

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

    /// Has what leads to a part that goes judged with it: it is to lead elsewhere first.
    fn look_behind(&mut self) {
        let is_part_that_goes =
            |(key, verdict): &(&Key, &Verdict)| key.kind() == Kind::NftPart && **verdict == Verdict::Remove;
        let parts: BTreeSet<Key> = self.verdicts.iter().filter(is_part_that_goes).map(|(key, _)| key.clone()).collect();
        let unjudged = leading_to(self.observed, &parts).filter(|key| !self.is_judged(key));
        self.unjudged = unjudged.cloned().collect();
    }

    /// In a pod's namespace everything hangs on the interface. Without one of ours there is nothing to remove: by now the
    /// namespace may be another's.
    fn is_of_a_lost_interface(&self, key: &Key, is: &Object) -> bool {
        let Some(ns @ Ns::Path(_)) = key.ns() else { return false };
        let name = match (is, key.parent()) {
            (_, Some(Key::Link { name, .. })) => name,
            (Object::Route(route), _) => match &route.target {
                RouteTarget::Via { link, .. } | RouteTarget::Link(link) => link.clone(),
                RouteTarget::Nexthop(_) | RouteTarget::Unreachable | RouteTarget::Local => return false,
            },
            _ => return false,
        };
        holder(self.observed, &Key::Link { ns: ns.clone(), name }).is_none()
    }

    /// Intervals that go make room for those of the same set that come: the kernel refuses one that overlaps another, be it in the
    /// same transaction.
    fn make_room_in_sets(&mut self) {
        let interval = |key: &Key| match key {
            Key::NftElement(element) if element.key.interval => {
                Some((element.family, element.table.clone(), element.set.clone()))
            }
            _ => None,
        };
        let written = self.verdicts.iter().filter(|(_, verdict)| verdict.writes());
        let sets: BTreeSet<_> = written.filter_map(|(key, _)| interval(key)).collect();
        let removed = self.verdicts.iter().filter(|(_, verdict)| **verdict == Verdict::Remove);
        let room = removed.map(|(key, _)| key).filter(|key| interval(key).is_some_and(|set| sets.contains(&set)));
        self.room.extend(room.cloned().collect::<Vec<_>>());
    }

    fn into_plan(mut self) -> Plan {
        self.make_room_in_sets();
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
                    let reason = if key.kind() == Kind::Connection { OVER } else { "no longer wanted" };
                    let step = step(Action::Delete, key, Some(is), None, reason.into());
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
        // An address is local before its virtual servers are, which are ours by that.
        Object::Route(route) if route.target == RouteTarget::Local => return (Kind::IpvsService, Stage::Room),
        Object::Sysctl(setting) if *setting.path == *"net/ipv6/conf/all/forwarding" => Stage::Second,
        // Behind the table that guards it.
        Object::Sysctl(setting) if *setting.path == *ROUTE_LOCALNET => return (Kind::NftTable, Stage::Second),
        Object::NftTable(table) if table.devices().next().is_some() => return (Kind::Link, Stage::Guard),
        // What leads into a part comes behind all that a packet meets there, and what is said of other pods with it.
        Object::NftElement(element)
            if part_of(&element.key.set).is_none() && (key.is_of_policies() || element.destination().is_some()) =>
        {
            Stage::Second
        }
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
/// was made. But a link goes before the table that guards it, or what it still brings would pass; and a destination of a virtual
/// server that stays goes first of all.
fn removal_place(key: &Key, entry: &Entry) -> (Kind, Stage) {
    match key.kind() {
        Kind::NftTable => (Kind::NftTable, Stage::First),
        // Nobody gets there any more when connections are forgotten that did.
        Kind::IpvsDestination => (Kind::Qdisc, Stage::GrownBridge),
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
