//! Who there is: namespaces, pods and nodes, and who has an address.
//!
//! Pods with the same namespace, labels and names of ports are one group: no policy can tell them apart but by their addresses. Groups are
//! what selectors are compared with.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ripstop_objects::KubePod;
use ripstop_objects::policy::Selector;
use ripstop_objects::service::Protocol;
use ripstop_types::{NodeName, PodName};

use crate::select::{Label, Labels, anchor};
use crate::slab::Slab;
use crate::tables::Lead;

pub type GroupId = u32;
pub type AtomId = u32;

/// A port with a name, as a container has it.
pub type NamedPort = (Arc<str>, Protocol, u16);

/// What pods of a group have in common.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct GroupKey {
    pub namespace: Arc<str>,
    pub labels: Labels,
    /// In order, each once.
    pub ports: Box<[NamedPort]>,
    /// Nobody knows their labels yet: nothing passes but what nobody is asked about.
    pub is_closed: bool,
}

/// Pods that are alike.
#[derive(Debug)]
pub struct Group {
    pub key: Arc<GroupKey>,
    /// All their addresses, in order; one as often as pods say that they have it.
    pub addresses: Vec<IpAddr>,
    /// How many they are,
    pub pods: usize,
    /// and how many of them are on this node.
    pub local: usize,
    /// The peers in use that they are among, in order.
    pub atoms: Vec<AtomId>,
    /// What is asked for their packets, by gate.
    pub leads: [Lead; 4],
}

/// A namespace that there is, or that something lies in.
#[derive(Debug, Default)]
pub struct Namespace {
    /// `None`: it is not there itself.
    pub labels: Option<Labels>,
    pub groups: BTreeSet<GroupId>,
}

/// A pod that has addresses of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    pub group: GroupId,
    /// In order, each once.
    pub ips: Box<[IpAddr]>,
    /// Where it runs.
    pub node: Option<NodeName>,
    /// Whether that is this node.
    pub is_local: bool,
}

/// A node.
#[derive(Debug, PartialEq, Eq)]
pub struct Node {
    pub labels: Labels,
    pub addresses: Box<[IpAddr]>,
}

#[derive(Debug, Default)]
pub struct Members {
    pub namespaces: BTreeMap<Arc<str>, Namespace>,
    pub nodes: BTreeMap<NodeName, Node>,
    pub groups: Slab<Group>,
    pub pods: HashMap<PodName, Pod>,
    group_ids: HashMap<Arc<GroupKey>, GroupId>,
    /// Groups by their pods' labels.
    by_label: HashMap<Label, BTreeSet<GroupId>>,
    /// Who has an address: of several the first by name.
    holders: HashMap<IpAddr, (PodName, GroupId)>,
    /// The others.
    contested: BTreeMap<IpAddr, BTreeSet<(PodName, GroupId)>>,
    /// Who on this node has an address, in order of their names: the first.
    locals: BTreeMap<IpAddr, Vec<(PodName, GroupId)>>,
    /// How many groups have a port of a name.
    ports: HashMap<Arc<str>, BTreeMap<(Protocol, u16), usize>>,
}

/// What a pod is to policies, its addresses, and its node; `None` where it has no addresses of its own.
pub fn facts(pod: &KubePod) -> Option<(GroupKey, Box<[IpAddr]>, Option<NodeName>)> {
    if pod.host_network || pod.has_finished() || pod.ips.is_empty() {
        return None;
    }
    let ips: BTreeSet<IpAddr> = pod.ips.iter().copied().collect();
    let named = pod.ports.iter().filter(|port| !port.name.is_empty());
    let ports: BTreeSet<NamedPort> = named.map(|port| (port.name.clone(), port.protocol, port.port)).collect();
    let key = GroupKey {
        namespace: pod.name.namespace.clone(),
        labels: Labels::of(&pod.labels),
        ports: ports.into_iter().collect(),
        is_closed: false,
    };
    Some((key, ips.into_iter().collect(), pod.node.clone()))
}

impl Members {
    /// The group whose pod has an address.
    pub fn owner(&self, ip: IpAddr) -> Option<GroupId> {
        self.holders.get(&ip).map(|(_, group)| *group)
    }

    /// The pod that has an address: one of this node before others.
    pub fn holder(&self, ip: IpAddr) -> Option<(&PodName, &Pod)> {
        let (name, _) = self.local(ip).or_else(|| self.holders.get(&ip))?;
        Some((name, self.pods.get(name)?))
    }

    /// The pod of this node that has an address.
    pub fn local(&self, ip: IpAddr) -> Option<&(PodName, GroupId)> {
        self.locals.get(&ip)?.first()
    }

    /// The addresses of this node's pods, in order.
    pub fn local_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.locals.keys().copied()
    }

    pub fn group_of(&self, key: &GroupKey) -> Option<GroupId> {
        self.group_ids.get(key).copied()
    }

    /// A group that was not there, in all indexes. The second value names those of its ports that nobody had before.
    pub fn add_group(&mut self, key: GroupKey) -> (GroupId, Vec<Arc<str>>) {
        let key = Arc::new(key);
        let group = Group {
            key: key.clone(),
            addresses: Vec::new(),
            pods: 0,
            local: 0,
            atoms: Vec::new(),
            leads: Default::default(),
        };
        let id = self.groups.insert(group);
        self.namespaces.entry(key.namespace.clone()).or_default().groups.insert(id);
        for label in key.labels.iter() {
            self.by_label.entry(label.clone()).or_default().insert(id);
        }
        let mut new = Vec::new();
        for (name, protocol, number) in &key.ports {
            let count = self.ports.entry(name.clone()).or_default().entry((*protocol, *number)).or_default();
            *count += 1;
            new.extend((*count == 1).then(|| name.clone()));
        }
        self.group_ids.insert(key, id);
        (id, new)
    }

    /// A group without pods goes. The names of its ports that nobody has any more.
    pub fn remove_group(&mut self, id: GroupId) -> Vec<Arc<str>> {
        let Some(group) = self.groups.remove(id) else { return Vec::new() };
        self.group_ids.remove(&group.key);
        if let Some(namespace) = self.namespaces.get_mut(&group.key.namespace) {
            namespace.groups.remove(&id);
            if namespace.groups.is_empty() && namespace.labels.is_none() {
                self.namespaces.remove(&group.key.namespace);
            }
        }
        for label in group.key.labels.iter() {
            if let Some(groups) = self.by_label.get_mut(label) {
                groups.remove(&id);
                if groups.is_empty() {
                    self.by_label.remove(label);
                }
            }
        }
        let mut gone = Vec::new();
        for (name, protocol, number) in &group.key.ports {
            let Some(numbers) = self.ports.get_mut(name) else { continue };
            if let Some(count) = numbers.get_mut(&(*protocol, *number)) {
                *count -= 1;
                if *count == 0 {
                    numbers.remove(&(*protocol, *number));
                    gone.push(name.clone());
                }
            }
            if numbers.is_empty() {
                self.ports.remove(name);
            }
        }
        gone
    }

    /// Takes a pod out of its group.
    pub fn detach(&mut self, name: &PodName) -> Option<Pod> {
        let pod = self.pods.remove(name)?;
        let group = &mut self.groups[pod.group];
        for ip in &pod.ips {
            if let Ok(place) = group.addresses.binary_search(ip) {
                group.addresses.remove(place);
            }
        }
        group.pods -= 1;
        group.local -= usize::from(pod.is_local);
        for ip in &pod.ips {
            self.release(*ip, name);
        }
        Some(pod)
    }

    /// Puts a pod into its group.
    pub fn attach(&mut self, name: &PodName, pod: Pod) {
        let group = &mut self.groups[pod.group];
        group.pods += 1;
        group.local += usize::from(pod.is_local);
        for ip in &pod.ips {
            let place = group.addresses.partition_point(|other| other < ip);
            group.addresses.insert(place, *ip);
            let new = (name.clone(), pod.group);
            if pod.is_local {
                let locals = self.locals.entry(*ip).or_default();
                locals.push(new.clone());
                locals.sort();
            }
            match self.holders.get_mut(ip) {
                None => {
                    self.holders.insert(*ip, new);
                }
                Some(holder) => {
                    let other = if new.0 < holder.0 { std::mem::replace(holder, new) } else { new };
                    self.contested.entry(*ip).or_default().insert(other);
                }
            }
        }
        self.pods.insert(name.clone(), pod);
    }

    fn release(&mut self, ip: IpAddr, name: &PodName) {
        if let Some(locals) = self.locals.get_mut(&ip) {
            locals.retain(|(other, _)| other != name);
            if locals.is_empty() {
                self.locals.remove(&ip);
            }
        }
        let mut others = self.contested.remove(&ip).unwrap_or_default();
        if self.holders.get(&ip).is_some_and(|(holder, _)| holder == name) {
            match others.pop_first() {
                Some(next) => self.holders.insert(ip, next),
                None => self.holders.remove(&ip),
            };
        } else {
            others.retain(|(other, _)| other != name);
        }
        if !others.is_empty() {
            self.contested.insert(ip, others);
        }
    }

    /// Groups of a namespace whose labels meet a selector.
    pub fn select_own(&self, namespace: &str, pods: &Selector) -> Vec<GroupId> {
        let Some(all) = self.namespaces.get(namespace).map(|namespace| &namespace.groups) else { return Vec::new() };
        let few = match anchor(pods) {
            Some(label) => match self.by_label.get(&label) {
                Some(few) if few.len() < all.len() => few,
                Some(_) => all,
                None => return Vec::new(),
            },
            None => all,
        };
        let is_one = |id: &GroupId| {
            let key = &self.groups[*id].key;
            *key.namespace == *namespace && key.labels.meet(pods)
        };
        few.iter().copied().filter(is_one).collect()
    }

    /// Groups whose labels meet a selector, in namespaces whose labels meet another. A namespace that is not there meets none.
    pub fn select_any(&self, namespaces: &Selector, pods: &Selector) -> Vec<GroupId> {
        let labels = |namespace: &str| self.namespaces.get(namespace).and_then(|namespace| namespace.labels.as_ref());
        if let Some(label) = anchor(pods) {
            let is_one = |id: &GroupId| {
                let key = &self.groups[*id].key;
                key.labels.meet(pods) && labels(&key.namespace).is_some_and(|labels| labels.meet(namespaces))
            };
            return self.by_label.get(&label).into_iter().flatten().copied().filter(is_one).collect();
        }
        let there = self.namespaces.values().filter(|there| there.labels.as_ref().is_some_and(|l| l.meet(namespaces)));
        let mut found: Vec<GroupId> = there
            .flat_map(|namespace| namespace.groups.iter().copied())
            .filter(|id| self.groups[*id].key.labels.meet(pods))
            .collect();
        found.sort_unstable();
        found
    }

    /// Groups that have a port of this name, protocol and number.
    pub fn with_port(&self, port: &NamedPort) -> Vec<GroupId> {
        self.groups.iter().filter(|(_, group)| group.key.ports.contains(port)).map(|(id, _)| id).collect()
    }

    /// What a name of a port is anywhere.
    pub fn numbers(&self, name: &str) -> impl Iterator<Item = (Protocol, u16)> {
        self.ports.get(name).into_iter().flat_map(|numbers| numbers.keys().copied())
    }
}
