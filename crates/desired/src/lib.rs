//! All decisions of a node as one [`Model`].
//!
//! The model is made of parts, one a [`Source`]: the node itself, each network, each peer, each pod, the node's
//! records. A change of a table names the sources it touches; [`Desired::update`] makes those anew and answers with the
//! keys of the objects that differ, so that work is proportional to the change.
//!
//! This is the only crate that knows which kernel object stands for which decision. Not here: what is in the kernel now.
//!
//! Invariants: an object belongs to one source at a time (of two that want one key, the lower source has it, and the
//! other gets it when that lets go); the same tables give the same model, whatever the order of changes.

mod bgp;
mod guard;
mod host_ports;
mod network;
mod node;
mod peer;
mod pod;
pub mod policy;
mod pools;
mod records;
mod ruleset;
pub mod services;
mod source;

pub use guard::may_delete;
pub use network::own_ip;
pub use pod::{inspect_keys, migration_keys, objects as pod_objects};
pub use ruleset::ruleset;
pub use source::Source;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use ripstop_netmodel::{Entry, Key, Model, Object, Resource};
use ripstop_tables::{Change, Tables};
use ripstop_types::{Owner, Prefix};

/// So many parts of peers or Services are made at once: some milliseconds' work. Where a change touches more, as in a node that joins,
/// what is made is carried out while the rest is made, and nobody waits for all of it.
pub const AT_ONCE: usize = 256;

/// More where there are many already, up to this: at each transaction that leads packets somewhere the kernel looks through all that lead
/// there already, so as many transactions as there are parts would cost the square of them.
pub const AT_MOST: usize = 4_096;

/// How much more: a part of those that are there.
const SHARE: usize = 8;

/// Folder of /run/ripstop in which pods' files lie.
pub const LEASES: &str = "leases";

/// What should be, kept up to date with the tables.
#[derive(Debug, Default)]
pub struct Desired {
    model: Model,
    /// What a source has or waits for, in the order of keys. Not its keys themselves, which are several times as large.
    objects_of: BTreeMap<Source, Vec<Arc<Entry>>>,
    /// Who has a key, where that is no Service: an object of a Service names it as its owner. Only asked for single keys, and at each
    /// of thousands: not in order.
    holder: HashMap<Key, Source>,
    /// Objects that a source wants under a key another source has.
    waiting: BTreeMap<Key, BTreeMap<Source, Arc<Entry>>>,
    /// This node's ranges of each network when all parts were made last.
    own_ranges: Vec<Vec<Prefix>>,
    /// What decided about Services when they were made last.
    serving: services::Serving,
    /// What was found at the start: an endpoint keeps its slot.
    found: Model,
    /// Parts of peers and Services that are to be made anew, and were not yet.
    later: BTreeSet<Source>,
    /// What policies decide. Its objects have a table of their own, so no source above wants one of its keys.
    policies: policy::Followed,
}

impl Desired {
    /// The model for these tables.
    #[must_use]
    pub fn of(tables: &Tables) -> Self {
        Self::beside(tables, Model::new())
    }

    /// The model for these tables on a node where this was found: endpoints stay in the slots that they have.
    #[must_use]
    pub fn beside(tables: &Tables, found: Model) -> Self {
        let serving = services::Serving::of(tables);
        let mut desired = Self { own_ranges: own_ranges(tables), serving, found, ..Self::default() };
        for source in source::all(tables).into_iter().chain(source::every_service(tables)) {
            desired.make(tables, &source);
        }
        desired.policies.update(tables, &BTreeSet::new(), &mut desired.model);
        desired
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Brings the model up to date after changes; answers with the keys to compare anew. Where that are the parts of more
    /// than [`AT_ONCE`] peers and Services, [`Self::go_on`] makes these.
    pub fn update(&mut self, tables: &Tables, changes: &BTreeSet<Change>) -> BTreeSet<Key> {
        let mut touched = BTreeSet::new();
        let own_ranges = own_ranges(tables);
        let moved = own_ranges != self.own_ranges;
        if changes.iter().any(|change| source::touches_all(tables, change, moved)) {
            self.own_ranges = own_ranges;
        }
        let mut sources = source::sources_of(tables, changes, self.objects_of.keys(), moved);
        let serving = changes.iter().any(source::may_change_serving).then(|| services::Serving::of(tables));
        // What is taken out is Services', too.
        let is_withdrawn = changes.contains(&Change::Withdrawn);
        if let Some(serving) = serving.filter(|serving| is_withdrawn || *serving != self.serving) {
            self.serving = serving;
            sources.extend(source::every_service(tables));
            sources.extend(self.objects_of.keys().filter(|source| matches!(source, Source::Service(_))).cloned());
        }
        let (many, others): (Vec<Source>, Vec<Source>) = sources.into_iter().partition(Source::is_many);
        for source in others {
            touched.extend(self.make(tables, &source));
        }
        touched.append(&mut self.policies.update(tables, changes, &mut self.model));
        let few = self.later.is_empty() && many.len() <= AT_ONCE;
        if self.later.is_empty() {
            // In order, from which a tree is made at once.
            self.later = many.into_iter().collect();
        } else {
            self.later.extend(many);
        }
        if few {
            touched.extend(self.go_on(tables));
        }
        if self.serving.node.is_some() && self.is_whole() {
            // Every Service has its slots now.
            self.found = Model::new();
        }
        touched
    }

    /// What decides about Services; `None` where they are not served, or not yet.
    pub fn serving(&self) -> Option<&ripstop_services::Node> {
        self.serving.node.as_ref()
    }

    /// What policies decide; `None` where none is enforced, or not all is known that they hang on.
    pub fn policies(&self) -> Option<&ripstop_policy::Policies> {
        self.policies.policies()
    }

    /// Whose connections policies may not permit any more, since this was last asked.
    pub fn take_affected(&mut self) -> ripstop_policy::revoke::Affected {
        self.policies.take_affected()
    }

    /// The keys of what leads an address of this node's pods to what policies ask.
    pub fn keys_of_subject(&self, ip: std::net::IpAddr) -> &[Key] {
        self.policies.keys_of(ip)
    }

    /// Makes parts of peers and Services that were put off; answers with the keys to compare anew.
    pub fn go_on(&mut self, tables: &Tables) -> BTreeSet<Key> {
        let mut touched = BTreeSet::new();
        for _ in 0..(self.objects_of.len() / SHARE).clamp(AT_ONCE, AT_MOST) {
            let Some(source) = self.later.pop_first() else { break };
            touched.extend(self.make(tables, &source));
        }
        touched
    }

    /// Whether no part was put off. Where one was, that an object is not wanted means nothing yet.
    pub fn is_whole(&self) -> bool {
        self.later.is_empty()
    }

    /// The keys that a source has or waits for.
    pub fn keys_of(&self, source: &Source) -> impl Iterator<Item = Key> {
        self.objects_of.get(source).into_iter().flatten().map(|entry| entry.object.key())
    }

    fn make(&mut self, tables: &Tables, source: &Source) -> Vec<Key> {
        let before = if self.objects_of.contains_key(source) { &self.model } else { &self.found };
        let parts = source.objects(tables, &self.serving, before);
        let mut touched = Vec::with_capacity(parts.len());
        // Two proxies may want one.
        let mut objects = BTreeMap::new();
        for entry in parts {
            let (key, mut entry) = (entry.object.key(), Arc::new(entry));
            if self.put(source, &key, &mut entry) {
                touched.push(key.clone());
            }
            objects.insert(key, entry);
        }
        let before = self.objects_of.remove(source).unwrap_or_default();
        for key in before.iter().map(|entry| entry.object.key()).filter(|key| !objects.contains_key(key)) {
            if self.take(source, &key) {
                touched.push(key);
            }
        }
        if !objects.is_empty() {
            self.objects_of.insert(source.clone(), objects.into_values().collect());
        }
        touched
    }

    /// Whether the model changed. Where it has the same already, `entry` becomes that.
    fn put(&mut self, source: &Source, key: &Key, entry: &mut Arc<Entry>) -> bool {
        // What nobody holds is not in the model, and nobody waits for it.
        let Some(there) = self.model.get(key).cloned() else {
            self.hand(source, key, entry.clone());
            return true;
        };
        let other = self.holder(key, &there).filter(|holder| holder != source);
        let passes = other.is_some();
        if let Some(other) = other {
            if other < *source {
                self.waiting.entry(key.clone()).or_default().insert(source.clone(), entry.clone());
                return false;
            }
            self.waiting.entry(key.clone()).or_default().insert(other, there.clone());
        }
        self.wait_no_more(source, key);
        let differs = there != *entry;
        if !differs {
            *entry = there;
        }
        // What a source has and wants as it is stays where it is.
        if differs || passes {
            self.hand(source, key, entry.clone());
        }
        differs
    }

    /// Whether the model changed.
    fn take(&mut self, source: &Source, key: &Key) -> bool {
        if self.model.get(key).and_then(|there| self.holder(key, there)).as_ref() != Some(source) {
            self.wait_no_more(source, key);
            return false;
        }
        self.holder.remove(key);
        self.model.remove(key);
        if let Some(mut waiting) = self.waiting.remove(key)
            && let Some((next, entry)) = waiting.pop_first()
        {
            self.hand(&next, key, entry);
            if !waiting.is_empty() {
                self.waiting.insert(key.clone(), waiting);
            }
        }
        true
    }

    /// Who has a key, under which this is in the model.
    fn holder(&self, key: &Key, there: &Entry) -> Option<Source> {
        let of_service = || there.owner.as_ref()?.as_service().map(Source::Service);
        self.holder.get(key).cloned().or_else(of_service)
    }

    /// Gives a key to a source.
    fn hand(&mut self, source: &Source, key: &Key, entry: Arc<Entry>) {
        if !matches!(source, Source::Service(_)) {
            self.holder.insert(key.clone(), source.clone());
        }
        self.model.insert_entry(entry);
    }

    fn wait_no_more(&mut self, source: &Source, key: &Key) {
        if let Some(waiting) = self.waiting.get_mut(key) {
            waiting.remove(source);
            if waiting.is_empty() {
                self.waiting.remove(key);
            }
        }
    }
}

fn own_ranges(tables: &Tables) -> Vec<Vec<Prefix>> {
    tables.networks.keys().map(|name| network::own_ranges(tables, name)).collect()
}

/// Objects of a peer, as a rule.
const FEW: usize = 6;

/// A list of objects with one owner.
struct Part {
    owner: Owner,
    entries: Vec<Entry>,
}

impl Part {
    fn of(owner: Owner) -> Self {
        Self { owner, entries: Vec::with_capacity(FEW) }
    }

    fn add(&mut self, object: impl Into<Object>) {
        self.entries.push(Entry { object: object.into(), owner: Some(self.owner.clone()) });
    }
}
