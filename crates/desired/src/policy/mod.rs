//! Policies by nftables: a table of each family whose rules are few and the same whatever the policies, parts for what is decided, and
//! elements.
//!
//! `ip ripstop-policy` and `ip6 ripstop-policy`, behind address translation and before masquerading, so that both ends of a packet are the
//! pods that it is really between. Of a connection its first packet is looked at alone. At each end a packet costs three looks: for its pod
//! in `egress` or `ingress`, for its port, and for who is at the other end among single addresses and, where policies have blocks, among
//! those. What leads to nothing is not in the maps, so packets that no policy is about cost the first look alone.
//!
//! - `ports/NAME`, a part: ways by protocol and port, and one for packets without ports. It is led to by pods.
//! - `peers/NAME`, a part: verdicts by the address at the other end. It is led to by pods and by ports.
//! - `itself`: pairs of addresses of one pod, for packets that come back to it by a Service. NetworkPolicies are not asked then, nor for
//!   what goes to the node itself, which does not come by `forward`.
//!
//! Blocks are the definition of a part, of one verdict all: there may be a million of them, and none changes for itself.
//!
//! A part leads to another by elements alone, never by rules, so that each can come and go for itself. Its name says what it says: it never
//! changes but for single addresses, so what leads to it leads to what was meant, also between two transactions.
//!
//! - `table`: the tables.
//! - `elements`: what is decided, as objects.
//! - `seen`: pods and nodes as policies see them.
//! - `follow`: from the node's tables to what is decided.

mod elements;
mod follow;
mod seen;
mod table;

pub use follow::missing;
pub(crate) use follow::{Followed, unread};
pub use seen::{Attached, Seen, namespace_of, node_of};

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ripstop_netmodel::{Entry, Key, Model, Resource};
use ripstop_policy::{Changes, Policies, TableName};

/// What some objects are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// What is there whatever the policies.
    Base,
    /// A table of ports.
    Ports(TableName),
    /// A table of peers, without exceptions.
    Peers(TableName),
    /// What such a table says of one address.
    Exception(TableName, IpAddr),
    /// What leads an address of this node's pods to tables.
    Subject(IpAddr),
}

impl Source {
    /// Its objects.
    #[must_use]
    pub fn objects(&self, policies: &Policies) -> Vec<Entry> {
        match self {
            Self::Base => table::base(),
            Self::Ports(name) => elements::ports(policies, name),
            Self::Peers(name) => elements::peers(policies, name),
            Self::Exception(name, ip) => elements::exception(policies, name, *ip),
            Self::Subject(ip) => elements::subject(policies, *ip),
        }
    }

    /// Everything that there is.
    #[must_use]
    pub fn all(policies: &Policies) -> BTreeSet<Self> {
        let exceptions = |name: TableName| {
            let table = policies.peer_table(&name);
            table.into_iter().flat_map(move |table| table.exceptions().map(move |(ip, _)| Self::Exception(name, ip)))
        };
        let peers = policies.peer_tables().flat_map(|name| exceptions(name).chain([Self::Peers(name)]));
        let ports = policies.port_tables().map(Self::Ports);
        let subjects = policies.subjects().map(Self::Subject);
        [Self::Base].into_iter().chain(ports).chain(peers).chain(subjects).collect()
    }
}

/// The objects of policies by themselves, kept up to date with what is decided.
#[derive(Debug, Clone, Default)]
pub struct Compiled {
    model: Model,
    parts: Parts,
}

impl Compiled {
    /// All objects.
    #[must_use]
    pub fn of(policies: &Policies) -> Self {
        let mut compiled = Self::default();
        compiled.parts.make_all(policies, &mut compiled.model);
        compiled
    }

    /// The objects.
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Follows changes; answers with the keys of objects that differ.
    pub fn update(&mut self, policies: &Policies, changes: &Changes) -> BTreeSet<Key> {
        self.parts.update(policies, changes, &mut self.model)
    }
}

/// Which keys of a model are made of what. Nothing else makes objects under these.
#[derive(Debug, Clone, Default)]
pub(crate) struct Parts {
    /// In order.
    keys_of: BTreeMap<Source, Vec<Key>>,
}

impl Parts {
    /// Makes everything; answers with the keys of objects that differ.
    pub(crate) fn make_all(&mut self, policies: &Policies, model: &mut Model) -> BTreeSet<Key> {
        let sources = Source::all(policies);
        sources.into_iter().flat_map(|source| self.make(policies, source, model)).collect()
    }

    /// Takes everything out; answers with the keys.
    pub(crate) fn clear(&mut self, model: &mut Model) -> BTreeSet<Key> {
        let keys: BTreeSet<Key> = std::mem::take(&mut self.keys_of).into_values().flatten().collect();
        for key in &keys {
            model.remove(key);
        }
        keys
    }

    /// The keys of a source.
    pub(crate) fn keys_of(&self, source: &Source) -> &[Key] {
        self.keys_of.get(source).map(Vec::as_slice).unwrap_or_default()
    }

    /// Follows changes; answers with the keys of objects that differ.
    pub(crate) fn update(&mut self, policies: &Policies, changes: &Changes, model: &mut Model) -> BTreeSet<Key> {
        let mut sources: BTreeSet<Source> =
            changes.exceptions.iter().map(|(name, ip)| Source::Exception(*name, *ip)).collect();
        sources.extend(changes.subjects.iter().map(|ip| Source::Subject(*ip)));
        sources.extend(changes.ports.iter().map(|name| Source::Ports(*name)));
        for name in &changes.peers {
            sources.insert(Source::Peers(*name));
            let is_its = |source: &&Source| matches!(source, Source::Exception(other, _) if other == name);
            let first = Source::Exception(*name, IpAddr::from([0, 0, 0, 0]));
            sources.extend(self.keys_of.range(first..).map(|(source, _)| source).take_while(is_its));
            let table = policies.peer_table(name).into_iter();
            sources.extend(table.flat_map(|table| table.exceptions()).map(|(ip, _)| Source::Exception(*name, ip)));
        }
        sources.into_iter().flat_map(|source| self.make(policies, source, model)).collect()
    }

    fn make(&mut self, policies: &Policies, source: Source, model: &mut Model) -> Vec<Key> {
        let (mut keys, mut touched) = (Vec::new(), Vec::new());
        for entry in source.objects(policies) {
            let key = entry.object.key();
            if model.get(&key).is_none_or(|there| **there != entry) {
                model.insert_entry(Arc::new(entry));
                touched.push(key.clone());
            }
            keys.push(key);
        }
        keys.sort();
        let before = self.keys_of.remove(&source).unwrap_or_default();
        for key in before.into_iter().filter(|key| keys.binary_search(key).is_err()) {
            model.remove(&key);
            touched.push(key);
        }
        if !keys.is_empty() {
            self.keys_of.insert(source, keys);
        }
        touched
    }
}
