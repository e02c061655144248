//! Peers, each once however many rules name it, and which groups and addresses are among those that a table in use names.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ripstop_objects::policy::{Operator, Peer, Selector};
use ripstop_types::Prefix;

use crate::members::{AtomId, GroupId, GroupKey, Members, NamedPort};
use crate::select::{Filed, Labels, anchor};
use crate::slab::Slab;
use crate::tables::{TableName, place_of};

/// Who may be at the other end.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Who {
    /// Anybody; only together with a port, as nobody has to look for anybody.
    All,
    /// Pods of this namespace.
    Own(Arc<str>, Selector),
    /// Pods of namespaces.
    Any(Selector, Selector),
    /// Nodes.
    Nodes(Selector),
    /// Addresses, without those.
    Block(Prefix, Box<[Prefix]>),
}

/// A peer. With a port, only of those pods that have it: what a name of a port means differs from pod to pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AtomKey {
    pub who: Who,
    pub port: Option<NamedPort>,
}

#[derive(Debug)]
pub struct Atom {
    pub key: Arc<AtomKey>,
    pub name: TableName,
    /// How many rules and tables name it.
    refs: usize,
    /// The tables that do.
    pub ladders: Vec<u32>,
    /// Who is among them, while there are such tables.
    pub groups: BTreeSet<GroupId>,
    /// The same of nodes.
    pub addresses: BTreeSet<IpAddr>,
}

#[derive(Debug, Default)]
pub struct Atoms {
    all: Slab<Atom>,
    ids: HashMap<Arc<AtomKey>, AtomId>,
    /// Those in use, where a new group looks for those that it is among.
    own: HashMap<Arc<str>, Filed<AtomId>>,
    any_by_pods: Filed<AtomId>,
    any_by_namespaces: Filed<AtomId>,
    by_port: BTreeSet<AtomId>,
    of_nodes: BTreeSet<AtomId>,
}

impl AtomKey {
    /// Of a rule's peer, in a policy of this namespace.
    pub fn of(peer: &Peer, own: Option<&Arc<str>>) -> Option<Self> {
        let who = match peer {
            Peer::Pods { namespaces: Some(namespaces), pods } => Who::Any(namespaces.clone(), pods.clone()),
            // A ClusterNetworkPolicy has no namespace of its own, and no such peer.
            Peer::Pods { namespaces: None, pods } => Who::Own(own?.clone(), pods.clone()),
            Peer::Nodes(nodes) => Who::Nodes(nodes.clone()),
            Peer::Block { block, except } => {
                let except: BTreeSet<Prefix> = except.iter().copied().collect();
                Who::Block(*block, except.into_iter().collect())
            }
        };
        Some(Self { who, port: None })
    }

    /// Whether a group is among them. Of blocks that is said of the port alone: addresses are looked at one by one.
    fn has(&self, namespace: Option<&Labels>, group: &GroupKey) -> bool {
        self.port.as_ref().is_none_or(|port| group.ports.contains(port))
            && match &self.who {
                Who::All | Who::Block(..) => self.port.is_some(),
                Who::Own(own, pods) => *own == group.namespace && group.labels.meet(pods),
                Who::Any(namespaces, pods) => {
                    namespace.is_some_and(|labels| labels.meet(namespaces)) && group.labels.meet(pods)
                }
                Who::Nodes(_) => false,
            }
    }

    /// Whether an address of a group that is among them is, too.
    pub fn has_address(&self, ip: IpAddr) -> bool {
        match &self.who {
            Who::Block(block, except) => block.contains(ip) && !except.iter().any(|hole| hole.contains(ip)),
            _ => true,
        }
    }

    fn name(&self) -> TableName {
        let mut text = Vec::new();
        match &self.who {
            Who::All => text.push(0),
            Who::Own(namespace, pods) => {
                text.push(1);
                word(&mut text, namespace);
                selector(&mut text, pods);
            }
            Who::Any(namespaces, pods) => {
                text.push(2);
                selector(&mut text, namespaces);
                selector(&mut text, pods);
            }
            Who::Nodes(nodes) => {
                text.push(3);
                selector(&mut text, nodes);
            }
            Who::Block(block, except) => {
                text.push(4);
                for prefix in [block].into_iter().chain(except) {
                    word(&mut text, &prefix.to_string());
                }
            }
        }
        if let Some((name, protocol, number)) = &self.port {
            word(&mut text, name);
            text.push(u8::try_from(place_of(*protocol)).unwrap_or(u8::MAX));
            text.extend(number.to_be_bytes());
        }
        TableName::of(&text)
    }
}

/// With its length before it, so that no two lists of words are one text.
fn word(text: &mut Vec<u8>, word: &str) {
    text.extend((word.len() as u64).to_be_bytes());
    text.extend(word.as_bytes());
}

fn selector(text: &mut Vec<u8>, selector: &Selector) {
    text.extend((selector.requirements().len() as u64).to_be_bytes());
    for wanted in selector.requirements() {
        word(text, &wanted.key);
        let (kind, values) = match &wanted.operator {
            Operator::In(values) => (0, &values[..]),
            Operator::NotIn(values) => (1, &values[..]),
            Operator::Exists => (2, &[][..]),
            Operator::DoesNotExist => (3, &[][..]),
        };
        text.push(kind);
        text.extend((values.len() as u64).to_be_bytes());
        values.iter().for_each(|value| word(text, value));
    }
}

impl Atoms {
    pub fn get(&self, id: AtomId) -> &Atom {
        &self.all[id]
    }

    /// The peer, which somebody more names now.
    pub fn intern(&mut self, key: AtomKey) -> AtomId {
        if let Some(id) = self.ids.get(&key).copied() {
            self.all[id].refs += 1;
            return id;
        }
        let name = key.name();
        let key = Arc::new(key);
        let id = self.all.insert(Atom {
            key: key.clone(),
            name,
            refs: 1,
            ladders: Vec::new(),
            groups: BTreeSet::new(),
            addresses: BTreeSet::new(),
        });
        self.ids.insert(key, id);
        id
    }

    /// Somebody more names it, as is known already.
    pub fn hold(&mut self, id: AtomId) {
        self.all[id].refs += 1;
    }

    /// Somebody less names it.
    pub fn release(&mut self, id: AtomId) {
        self.all[id].refs -= 1;
        if self.all[id].refs == 0
            && let Some(gone) = self.all.remove(id)
        {
            self.ids.remove(&gone.key);
        }
    }

    /// A table names it.
    pub fn join(&mut self, id: AtomId, ladder: u32, members: &mut Members) {
        self.all[id].refs += 1;
        self.all[id].ladders.push(ladder);
        if self.all[id].ladders.len() > 1 {
            return;
        }
        self.file(id, true);
        let key = self.all[id].key.clone();
        let mut groups = match (&key.who, &key.port) {
            (Who::Own(namespace, pods), _) => members.select_own(namespace, pods),
            (Who::Any(namespaces, pods), _) => members.select_any(namespaces, pods),
            (Who::All | Who::Block(..), Some(port)) => members.with_port(port),
            (Who::All | Who::Block(..) | Who::Nodes(_), _) => Vec::new(),
        };
        if let Some(port) = &key.port {
            groups.retain(|group| members.groups[*group].key.ports.contains(port));
        }
        for group in &groups {
            enter(&mut members.groups[*group].atoms, id);
        }
        self.all[id].groups = groups.into_iter().collect();
        if let Who::Nodes(nodes) = &key.who {
            self.all[id].addresses = addresses(members, nodes);
        }
    }

    /// A table names it no more.
    pub fn leave(&mut self, id: AtomId, ladder: u32, members: &mut Members) {
        let atom = &mut self.all[id];
        atom.ladders.retain(|other| *other != ladder);
        if atom.ladders.is_empty() {
            for group in std::mem::take(&mut atom.groups) {
                withdraw(&mut members.groups[group].atoms, id);
            }
            atom.addresses.clear();
            self.file(id, false);
        }
        self.release(id);
    }

    /// Which of those in use a group is among, in order.
    fn of_group(&self, namespace: Option<&Labels>, group: &GroupKey) -> Vec<AtomId> {
        let own = self.own.get(&group.namespace).into_iter().flat_map(|own| own.candidates(&group.labels));
        let by_namespaces = namespace.into_iter().flat_map(|labels| self.any_by_namespaces.candidates(labels));
        let candidates = own.chain(self.any_by_pods.candidates(&group.labels)).chain(by_namespaces);
        let candidates = candidates.chain(self.by_port.iter().copied());
        let mut found: Vec<AtomId> = candidates.filter(|id| self.all[*id].key.has(namespace, group)).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// A group is new, or its namespace's labels are.
    pub fn enter_group(&mut self, id: GroupId, members: &mut Members) {
        let key = members.groups[id].key.clone();
        let namespace = members.namespaces.get(&key.namespace).and_then(|namespace| namespace.labels.as_ref());
        let found = self.of_group(namespace, &key);
        for atom in &found {
            self.all[*atom].groups.insert(id);
        }
        members.groups[id].atoms = found;
    }

    /// The same before.
    pub fn leave_group(&mut self, id: GroupId, members: &mut Members) {
        for atom in std::mem::take(&mut members.groups[id].atoms) {
            self.all[atom].groups.remove(&id);
        }
    }

    /// Nodes have changed: which addresses have come and gone, and where.
    pub fn follow_nodes(&mut self, members: &Members) -> Vec<(AtomId, Vec<IpAddr>)> {
        let mut changed = Vec::new();
        for id in &self.of_nodes {
            let atom = &mut self.all[*id];
            let Who::Nodes(nodes) = &atom.key.who else { continue };
            let now = addresses(members, nodes);
            let differ: Vec<IpAddr> = now.symmetric_difference(&atom.addresses).copied().collect();
            if !differ.is_empty() {
                atom.addresses = now;
                changed.push((*id, differ));
            }
        }
        changed
    }

    fn file(&mut self, id: AtomId, is_used: bool) {
        let key = self.all[id].key.clone();
        let (filed, by) = match (&key.who, &key.port) {
            (Who::Own(namespace, pods), _) => (self.own.entry(namespace.clone()).or_default(), pods),
            (Who::Any(namespaces, pods), _) if anchor(pods).is_none() => (&mut self.any_by_namespaces, namespaces),
            (Who::Any(_, pods), _) => (&mut self.any_by_pods, pods),
            (Who::Nodes(_), _) => return set(&mut self.of_nodes, id, is_used),
            (Who::All | Who::Block(..), Some(_)) => return set(&mut self.by_port, id, is_used),
            (Who::All | Who::Block(..), None) => return,
        };
        if is_used {
            filed.insert(by, id);
            return;
        }
        filed.remove(by, id);
        if let Who::Own(namespace, _) = &key.who
            && self.own.get(namespace).is_some_and(Filed::is_empty)
        {
            self.own.remove(namespace);
        }
    }
}

fn set(ids: &mut BTreeSet<AtomId>, id: AtomId, is_used: bool) {
    if is_used {
        ids.insert(id);
    } else {
        ids.remove(&id);
    }
}

fn enter(sorted: &mut Vec<AtomId>, id: AtomId) {
    if let Err(place) = sorted.binary_search(&id) {
        sorted.insert(place, id);
    }
}

fn withdraw(sorted: &mut Vec<AtomId>, id: AtomId) {
    if let Ok(place) = sorted.binary_search(&id) {
        sorted.remove(place);
    }
}

fn addresses(members: &Members, nodes: &Selector) -> BTreeSet<IpAddr> {
    let these = members.nodes.values().filter(|node| node.labels.meet(nodes));
    these.flat_map(|node| node.addresses.iter().copied()).collect()
}
