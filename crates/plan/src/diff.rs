//! Comparing what is with what should be.

use std::collections::BTreeSet;
use std::sync::Arc;

use ripstop_netmodel::{Entry, Key, Kind, LinkKind, Model, Ns, Object, Resource};
use ripstop_types::Owner;

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
pub fn diff(observed: &Model, desired: &Model, keys: &BTreeSet<Key>, guard: &dyn Guard) -> Plan {
    let mut differ = Differ { observed, desired, guard, make: Vec::new(), remove: Vec::new(), refuse: Vec::new() };
    let remade = differ.remade_tables(keys);
    for key in keys {
        differ.compare(key, &remade);
    }
    for table in &remade {
        differ.refill(table, keys);
    }
    differ.into_plan()
}

/// The plan for everything in either model.
pub fn diff_all(observed: &Model, desired: &Model, guard: &dyn Guard) -> Plan {
    let keys: BTreeSet<Key> = observed.keys().chain(desired.keys()).cloned().collect();
    diff(observed, desired, &keys, guard)
}

struct Differ<'a> {
    observed: &'a Model,
    desired: &'a Model,
    guard: &'a dyn Guard,
    make: Vec<Step>,
    remove: Vec<Step>,
    refuse: Vec<Step>,
}

impl Differ<'_> {
    /// Objects that will be written anew: everything below them has to be written again.
    fn remade_tables(&self, keys: &BTreeSet<Key>) -> BTreeSet<Key> {
        keys.iter()
            .filter(|key| matches!(key.kind(), Kind::NftTable | Kind::Link))
            .filter(|key| match (self.observed.get(key), self.desired.get(key)) {
                (Some(is), Some(wanted)) if wanted.object.satisfied_by(&is.object) => false,
                (Some(is), Some(wanted)) => key.kind() == Kind::NftTable || !wanted.object.can_update(&is.object),
                _ => false,
            })
            .cloned()
            .collect()
    }

    fn compare(&mut self, key: &Key, remade: &BTreeSet<Key>) {
        let is = self.observed.get(key);
        let wanted = self.desired.get(key);
        // What lies below a remade object is gone once that is remade; `refill` writes it again.
        if key.parent().is_some_and(|parent| remade.contains(&parent)) {
            return;
        }
        match (is, wanted) {
            (None, None) => {}
            (None, Some(wanted)) => self.make.push(step(Action::Create, key, None, Some(wanted), "missing".into())),
            (Some(is), Some(wanted)) if wanted.object.satisfied_by(&is.object) => {}
            (Some(is), Some(wanted)) => {
                let reason = format!("differs in {}", difference(&is.object, &wanted.object));
                if wanted.object.can_update(&is.object) {
                    self.make.push(step(Action::Update, key, Some(is), Some(wanted), reason));
                } else {
                    self.make.push(step(Action::Delete, key, Some(is), None, reason.clone()));
                    self.make.push(step(Action::Create, key, None, Some(wanted), reason));
                }
            }
            (Some(is), None) => self.unwanted(key, is),
        }
    }

    fn unwanted(&mut self, key: &Key, is: &Arc<Entry>) {
        if self.vanishes_by_itself(key, is) {
            return;
        }
        match self.guard.may_delete(key, is) {
            Ok(()) => self.remove.push(step(Action::Delete, key, Some(is), None, "no longer wanted".into())),
            Err(why) => self.refuse.push(step(Action::Refuse, key, Some(is), None, why)),
        }
    }

    /// Settings that have no "absent", ends that go with their other end, and what goes with its parent.
    fn vanishes_by_itself(&self, key: &Key, is: &Entry) -> bool {
        if matches!(key.kind(), Kind::Sysctl | Kind::LinkSysctl) {
            return true;
        }
        if let Object::Link(link) = &is.object
            && matches!(link.kind, LinkKind::VethPeer | LinkKind::Loopback)
        {
            return true;
        }
        if let Some(parent) = key.parent()
            && !self.desired_has(&parent)
            && self.observed.get(&parent).is_some_and(|entry| self.guard.may_delete(&parent, entry).is_ok())
        {
            return true;
        }
        // In a pod's namespace everything hangs on the interface; without one of ours there is nothing to remove.
        match (key, key.ns()) {
            (Key::Route { ns, .. }, Some(Ns::Path(_))) => !self.namespace_is_wanted(ns),
            _ => false,
        }
    }

    fn desired_has(&self, key: &Key) -> bool {
        self.desired.get(key).is_some()
    }

    fn namespace_is_wanted(&self, ns: &Ns) -> bool {
        let Some(loopback) = "lo".parse().ok().map(|name| Key::Link { ns: ns.clone(), name }) else { return true };
        self.desired_has(&loopback)
    }

    /// Writes again what lies below an object that is remade.
    fn refill(&mut self, parent: &Key, keys: &BTreeSet<Key>) {
        let below = self.desired.children(parent);
        for (key, entry) in below {
            let reason = if keys.contains(key) { "missing" } else { "written anew with what holds it" };
            self.make.push(step(Action::Create, key, None, Some(entry), reason.into()));
        }
    }

    fn into_plan(mut self) -> Plan {
        // Stable: the removal that makes room stays before the creation of the same key.
        self.make.sort_by(|a, b| a.key.cmp(&b.key));
        self.remove.sort_by(|a, b| b.key.cmp(&a.key));
        self.refuse.sort_by(|a, b| a.key.cmp(&b.key));
        let mut steps = self.make;
        steps.append(&mut self.refuse);
        steps.append(&mut self.remove);
        Plan { steps }
    }
}

fn step(action: Action, key: &Key, before: Option<&Arc<Entry>>, after: Option<&Arc<Entry>>, reason: String) -> Step {
    let owner = [after, before].into_iter().flatten().find_map(|entry| entry.owner.clone());
    Step {
        action,
        key: key.clone(),
        after: after.cloned(),
        before: before.cloned(),
        owner: owner.unwrap_or_else(Owner::agent),
        reason: reason.into(),
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
