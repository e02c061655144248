//! Policies as they are asked: their rules with peers by number, filed by whom they are about.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use ripstop_objects::policy::{
    Action, ClusterNetworkPolicy, Direction, NetworkPolicy, PolicyRule, PortMatch, Selector, Tier,
};
use ripstop_types::NamespacedName;

use crate::atoms::{AtomKey, Atoms};
use crate::members::{AtomId, GroupKey};
use crate::select::{Filed, Labels};
use crate::slab::Slab;

/// A rule.
#[derive(Debug)]
pub struct Rule {
    pub action: Action,
    /// `None`: anybody.
    pub peers: Option<Box<[AtomId]>>,
    /// `None`: whatever the packet has.
    pub ports: Option<Box<[PortMatch]>>,
}

#[derive(Debug)]
pub struct Policy {
    pub name: NamespacedName,
    pub subject: Selector,
    /// By direction; `None` where it does not isolate.
    pub rules: [Option<Box<[Rule]>>; 2],
}

#[derive(Debug)]
pub struct ClusterPolicy {
    pub namespaces: Selector,
    pub pods: Selector,
    pub rules: [Box<[Rule]>; 2],
}

/// When a ClusterNetworkPolicy is asked, and its name.
pub type ClusterKey = (Tier, u16, Arc<str>);

#[derive(Debug, Default)]
pub struct Rules {
    policies: Slab<Policy>,
    ids: HashMap<NamespacedName, u32>,
    filed: HashMap<Arc<str>, Filed<u32>>,
    cluster: BTreeMap<ClusterKey, ClusterPolicy>,
    cluster_keys: HashMap<Arc<str>, ClusterKey>,
    /// Policies that name a port in rules for egress, where it means what it does at each destination.
    users: HashMap<Arc<str>, BTreeSet<u32>>,
    cluster_users: HashMap<Arc<str>, BTreeSet<ClusterKey>>,
}

/// The place of a direction in arrays.
pub fn place(direction: Direction) -> usize {
    match direction {
        Direction::Ingress => 0,
        Direction::Egress => 1,
    }
}

fn compile(rules: &[PolicyRule], own: Option<&Arc<str>>, atoms: &mut Atoms) -> Box<[Rule]> {
    let rule = |rule: &PolicyRule| {
        let peers = rule.peers.as_ref().map(|peers| {
            // One that is named twice is held twice, as it is released.
            peers.iter().filter_map(|peer| AtomKey::of(peer, own)).map(|key| atoms.intern(key)).collect()
        });
        Rule { action: rule.action, peers, ports: rule.ports.as_ref().map(|ports| ports[..].into()) }
    };
    rules.iter().map(rule).collect()
}

fn names<'r>(rules: impl IntoIterator<Item = &'r Rule>) -> BTreeSet<Arc<str>> {
    let ports = rules.into_iter().filter_map(|rule| rule.ports.as_ref()).flatten();
    let name = |port: &PortMatch| if let PortMatch::Named { name, .. } = port { Some(name.clone()) } else { None };
    ports.filter_map(name).collect()
}

impl Rules {
    /// Whether there is no policy.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty() && self.cluster.is_empty()
    }

    pub fn insert(&mut self, policy: &NetworkPolicy, atoms: &mut Atoms) {
        let own = &policy.name.namespace;
        let rules = [Direction::Ingress, Direction::Egress]
            .map(|direction| policy.rules(direction).map(|rules| compile(rules, Some(own), atoms)));
        let named = names(rules[1].iter().flat_map(|rules| rules.iter()));
        let (name, subject) = (policy.name.clone(), policy.subject.clone());
        let id = self.policies.insert(Policy { name: name.clone(), subject, rules });
        self.filed.entry(own.clone()).or_default().insert(&policy.subject, id);
        for name in named {
            self.users.entry(name).or_default().insert(id);
        }
        self.ids.insert(name, id);
    }

    /// The policy that was there.
    pub fn remove(&mut self, name: &NamespacedName, atoms: &mut Atoms) -> Option<Policy> {
        let id = self.ids.remove(name)?;
        let policy = self.policies.remove(id)?;
        if let Some(filed) = self.filed.get_mut(&name.namespace) {
            filed.remove(&policy.subject, id);
            if filed.is_empty() {
                self.filed.remove(&name.namespace);
            }
        }
        for name in names(policy.rules[1].iter().flat_map(|rules| rules.iter())) {
            forget(&mut self.users, &name, &id);
        }
        release(policy.rules.iter().flatten().flat_map(|rules| rules.iter()), atoms);
        Some(policy)
    }

    pub fn insert_cluster(&mut self, policy: &ClusterNetworkPolicy, atoms: &mut Atoms) {
        let rules =
            [Direction::Ingress, Direction::Egress].map(|direction| compile(policy.rules(direction), None, atoms));
        let key = (policy.tier, policy.priority, policy.name.clone());
        for name in names(&rules[1]) {
            self.cluster_users.entry(name).or_default().insert(key.clone());
        }
        let (namespaces, pods) = (policy.namespaces.clone(), policy.pods.clone());
        self.cluster.insert(key.clone(), ClusterPolicy { namespaces, pods, rules });
        self.cluster_keys.insert(policy.name.clone(), key);
    }

    pub fn remove_cluster(&mut self, name: &str, atoms: &mut Atoms) -> Option<ClusterPolicy> {
        let key = self.cluster_keys.remove(name)?;
        let policy = self.cluster.remove(&key)?;
        for name in names(&policy.rules[1]) {
            forget(&mut self.cluster_users, &name, &key);
        }
        release(policy.rules.iter().flat_map(|rules| rules.iter()), atoms);
        Some(policy)
    }

    /// Every NetworkPolicy, in no order.
    pub fn each(&self) -> impl Iterator<Item = &Policy> {
        self.policies.iter().map(|(_, policy)| policy)
    }

    /// Every ClusterNetworkPolicy, in the order in which they are asked.
    pub fn each_cluster(&self) -> impl Iterator<Item = (&ClusterKey, &ClusterPolicy)> {
        self.cluster.iter()
    }

    /// The NetworkPolicies about a group, in order.
    pub fn about(&self, group: &GroupKey) -> Vec<&Policy> {
        let Some(filed) = self.filed.get(&group.namespace) else { return Vec::new() };
        let mut ids: Vec<u32> = filed.candidates(&group.labels).collect();
        ids.sort_unstable();
        let policies = ids.into_iter().map(|id| &self.policies[id]);
        policies.filter(|policy| group.labels.meet(&policy.subject)).collect()
    }

    /// The ClusterNetworkPolicies of a tier about a group, in the order in which they are asked.
    pub fn cluster_about(
        &self,
        tier: Tier,
        namespace: Option<&Labels>,
        group: &GroupKey,
    ) -> Vec<(&ClusterKey, &ClusterPolicy)> {
        if self.cluster.is_empty() {
            return Vec::new();
        }
        let of_tier = self.cluster.range((tier, 0, "".into())..).take_while(|((other, ..), _)| *other == tier);
        of_tier.filter(|(_, policy)| policy.is_about(namespace, group)).collect()
    }

    /// Subjects of policies that name a port in rules for egress.
    pub fn users_of(&self, name: &str) -> (Vec<&Policy>, Vec<&ClusterPolicy>) {
        let policies = self.users.get(name).into_iter().flatten().map(|id| &self.policies[*id]);
        let cluster = self.cluster_users.get(name).into_iter().flatten().filter_map(|key| self.cluster.get(key));
        (policies.collect(), cluster.collect())
    }
}

impl ClusterPolicy {
    pub fn is_about(&self, namespace: Option<&Labels>, group: &GroupKey) -> bool {
        namespace.is_some_and(|labels| labels.meet(&self.namespaces)) && group.labels.meet(&self.pods)
    }
}

fn forget<T: Ord>(users: &mut HashMap<Arc<str>, BTreeSet<T>>, name: &Arc<str>, user: &T) {
    if let Some(all) = users.get_mut(name) {
        all.remove(user);
        if all.is_empty() {
            users.remove(name);
        }
    }
}

fn release<'r>(rules: impl Iterator<Item = &'r Rule>, atoms: &mut Atoms) {
    for atom in rules.filter_map(|rule| rule.peers.as_ref()).flatten() {
        atoms.release(*atom);
    }
}
