//! All of it together: objects in, tables out.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ripstop_objects::policy::{ClusterNetworkPolicy, Direction, NetworkPolicy, Selector};
use ripstop_objects::service::Protocol;
use ripstop_objects::{KubeNamespace, KubeNode, KubePod};
use ripstop_types::{Family, NamespacedName, NodeName, PodName};

use crate::atoms::Atoms;
use crate::course::Course;
use crate::members::{GroupId, GroupKey, Members, Node, Pod, facts};
use crate::peers::Peers;
use crate::rules::{ClusterPolicy, Rules};
use crate::select::Labels;
use crate::slab::Slab;
use crate::tables::{Gate, Lead, PortTable, TableName, Way};

/// What has changed since the last time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// Addresses of this node's pods whose leads may be others, or that have come or gone.
    pub subjects: BTreeSet<IpAddr>,
    /// Tables of ports that have come or gone.
    pub ports: BTreeSet<TableName>,
    /// Tables of peers that have come or gone.
    pub peers: BTreeSet<TableName>,
    /// Addresses whose exceptions in other tables may be others.
    pub exceptions: BTreeSet<(TableName, IpAddr)>,
}

/// Everything that policies hang on, and what follows from it.
#[derive(Debug, Default)]
pub struct Policies {
    node: Option<NodeName>,
    pub(crate) members: Members,
    pub(crate) atoms: Atoms,
    pub(crate) rules: Rules,
    /// What is staged: nothing is made of it.
    pub(crate) staged: Rules,
    peers: Slab<Peers>,
    peer_names: BTreeMap<TableName, u32>,
    ports: BTreeMap<TableName, Ports>,
    /// Groups with pods of this node whose leads are to be found anew.
    dirty: BTreeSet<GroupId>,
    /// Tables that perhaps nobody leads to.
    idle_ports: BTreeSet<TableName>,
    idle_peers: BTreeSet<TableName>,
    changes: Changes,
}

/// A table of ports, and how many groups lead to it.
#[derive(Debug)]
struct Ports {
    table: PortTable,
    refs: usize,
}

/// A table of peers.
#[derive(Debug, Clone, Copy)]
pub struct PeerTable<'p> {
    policies: &'p Policies,
    peers: &'p Peers,
}

impl Policies {
    /// Of the pods of a node; without one, of all pods.
    #[must_use]
    pub fn new(node: Option<NodeName>) -> Self {
        Self { node, ..Self::default() }
    }

    /// A node is so.
    pub fn put_node(&mut self, node: &KubeNode) {
        let row = Node { labels: Labels::of(&node.labels), addresses: node.addresses[..].into() };
        if self.members.nodes.get(&node.name) != Some(&row) {
            self.members.nodes.insert(node.name.clone(), row);
            self.follow_nodes();
        }
    }

    /// A node is gone.
    pub fn remove_node(&mut self, name: &NodeName) {
        if self.members.nodes.remove(name).is_some() {
            self.follow_nodes();
        }
    }

    fn follow_nodes(&mut self) {
        for (atom, addresses) in self.atoms.follow_nodes(&self.members) {
            for ladder in &self.atoms.get(atom).ladders {
                let name = self.peers[*ladder].name;
                self.changes.exceptions.extend(addresses.iter().map(|ip| (name, *ip)));
            }
        }
    }

    /// A namespace is so.
    pub fn put_namespace(&mut self, namespace: &KubeNamespace) {
        let labels = Some(Labels::of(&namespace.labels));
        if self.members.namespaces.get(&namespace.name).is_none_or(|row| row.labels != labels) {
            self.label_namespace(&namespace.name, labels);
        }
    }

    /// A namespace is gone.
    pub fn remove_namespace(&mut self, name: &str) {
        let name: Arc<str> = name.into();
        self.label_namespace(&name, None);
        if self.members.namespaces.get(&name).is_some_and(|row| row.groups.is_empty()) {
            self.members.namespaces.remove(&name);
        }
    }

    fn label_namespace(&mut self, name: &Arc<str>, labels: Option<Labels>) {
        let row = self.members.namespaces.entry(name.clone()).or_default();
        row.labels = labels;
        for group in row.groups.clone() {
            self.touch_group(group);
            self.atoms.leave_group(group, &mut self.members);
            self.atoms.enter_group(group, &mut self.members);
            self.touch_group(group);
            self.mark(group);
        }
    }

    /// A pod is so.
    pub fn put_pod(&mut self, pod: &KubePod) {
        let new = facts(pod);
        let old = self.members.pods.get(&pod.name);
        let is_same = match (old, &new) {
            (None, None) => true,
            (Some(old), Some((key, ips, node))) => {
                *self.members.groups[old.group].key == *key && old.ips == *ips && old.node == *node
            }
            _ => false,
        };
        if is_same {
            return;
        }
        self.move_pod(&pod.name, new);
    }

    /// A pod of this node has these addresses, and nobody knows yet which policies are about it: nothing passes.
    pub fn put_closed(&mut self, name: &PodName, ips: &[IpAddr]) {
        let ips: BTreeSet<IpAddr> = ips.iter().copied().collect();
        let key = GroupKey {
            namespace: name.namespace.clone(),
            labels: Labels::default(),
            ports: Box::default(),
            is_closed: true,
        };
        let ips: Box<[IpAddr]> = ips.into_iter().collect();
        let is_same = |old: &Pod| *self.members.groups[old.group].key == key && old.ips == ips && old.is_local;
        if !self.members.pods.get(name).is_some_and(is_same) {
            let node = self.node.clone();
            self.move_pod(name, (!ips.is_empty()).then_some((key, ips, node)));
        }
    }

    /// A pod is gone.
    pub fn remove_pod(&mut self, name: &PodName) {
        self.move_pod(name, None);
    }

    fn move_pod(&mut self, name: &PodName, new: Option<(GroupKey, Box<[IpAddr]>, Option<NodeName>)>) {
        let old_ips = self.members.pods.get(name).map(|pod| pod.ips.clone()).unwrap_or_default();
        let new_ips = new.as_ref().map(|(_, ips, _)| ips.clone()).unwrap_or_default();
        let all: BTreeSet<IpAddr> = old_ips.iter().chain(&new_ips).copied().collect();
        all.iter().for_each(|ip| self.touch(*ip));
        let old = self.members.detach(name);
        if let Some((key, ips, node)) = new {
            let is_local = self.node.is_none() || node == self.node;
            let group = match self.members.group_of(&key) {
                Some(group) => group,
                None => {
                    let (group, named) = self.members.add_group(key);
                    self.atoms.enter_group(group, &mut self.members);
                    named.iter().for_each(|name| self.mark_users(name));
                    group
                }
            };
            let was_deciding = self.members.groups[group].local > 0;
            self.members.attach(name, Pod { group, ips, node, is_local });
            if is_local && !was_deciding {
                self.mark(group);
            }
        }
        all.iter().for_each(|ip| self.touch(*ip));
        if let Some(Pod { group, is_local, .. }) = old {
            if is_local && self.members.groups[group].local == 0 {
                self.mark(group);
            }
            if self.members.groups[group].addresses.is_empty() {
                self.drop_group(group);
            }
        }
    }

    fn drop_group(&mut self, group: GroupId) {
        let leads = self.members.groups[group].leads;
        leads.into_iter().for_each(|lead| self.leave(lead));
        self.dirty.remove(&group);
        self.atoms.leave_group(group, &mut self.members);
        let gone = self.members.remove_group(group);
        gone.iter().for_each(|name| self.mark_users(name));
    }

    /// A NetworkPolicy is so. For packets one that is staged is as if it were not there.
    pub fn put_policy(&mut self, policy: &NetworkPolicy) {
        self.remove_policy(&policy.name);
        if policy.staged {
            self.staged.insert(policy, &mut self.atoms);
        } else {
            self.rules.insert(policy, &mut self.atoms);
            self.mark_subjects(&policy.name.namespace, &policy.subject);
        }
    }

    /// A NetworkPolicy is gone.
    pub fn remove_policy(&mut self, name: &NamespacedName) {
        self.staged.remove(name, &mut self.atoms);
        if let Some(old) = self.rules.remove(name, &mut self.atoms) {
            self.mark_subjects(&name.namespace, &old.subject);
        }
    }

    /// A ClusterNetworkPolicy is so. For packets one that is staged is as if it were not there.
    pub fn put_cluster_policy(&mut self, policy: &ClusterNetworkPolicy) {
        self.remove_cluster_policy(&policy.name);
        if policy.staged {
            self.staged.insert_cluster(policy, &mut self.atoms);
        } else {
            self.rules.insert_cluster(policy, &mut self.atoms);
            self.mark_cluster_subjects(&policy.namespaces, &policy.pods);
        }
    }

    /// A ClusterNetworkPolicy is gone.
    pub fn remove_cluster_policy(&mut self, name: &str) {
        self.staged.remove_cluster(name, &mut self.atoms);
        if let Some(ClusterPolicy { namespaces, pods, .. }) = self.rules.remove_cluster(name, &mut self.atoms) {
            self.mark_cluster_subjects(&namespaces, &pods);
        }
    }

    fn mark(&mut self, group: GroupId) {
        self.dirty.insert(group);
    }

    fn mark_subjects(&mut self, namespace: &str, subject: &Selector) {
        self.dirty.extend(self.members.select_own(namespace, subject));
    }

    fn mark_cluster_subjects(&mut self, namespaces: &Selector, pods: &Selector) {
        self.dirty.extend(self.members.select_any(namespaces, pods));
    }

    /// What a name of a port is has changed.
    fn mark_users(&mut self, name: &str) {
        let (policies, cluster) = self.rules.users_of(name);
        for policy in policies {
            self.dirty.extend(self.members.select_own(&policy.name.namespace, &policy.subject));
        }
        for policy in cluster {
            self.dirty.extend(self.members.select_any(&policy.namespaces, &policy.pods));
        }
    }

    /// Who has an address is about to change, or has changed.
    fn touch(&mut self, ip: IpAddr) {
        if self.members.local(ip).is_some() {
            self.changes.subjects.insert(ip);
        }
        let Some(group) = self.members.owner(ip) else { return };
        for atom in &self.members.groups[group].atoms {
            for ladder in &self.atoms.get(*atom).ladders {
                self.changes.exceptions.insert((self.peers[*ladder].name, ip));
            }
        }
    }

    fn touch_group(&mut self, group: GroupId) {
        for ip in self.members.groups[group].addresses.clone() {
            self.touch(ip);
        }
    }

    /// Brings everything up to date.
    pub fn decide(&mut self) -> Changes {
        for group in std::mem::take(&mut self.dirty) {
            let Some(members) = self.members.groups.get(group) else { continue };
            let (old, is_local) = (members.leads, members.local > 0);
            let new = if is_local { self.leads_of(group) } else { <[Lead; 4]>::default() };
            if new == old {
                continue;
            }
            new.into_iter().for_each(|lead| self.enter(lead));
            old.into_iter().for_each(|lead| self.leave(lead));
            self.members.groups[group].leads = new;
            let members = &self.members;
            let is_its = |ip: &&IpAddr| members.local(**ip).is_some_and(|(_, own)| *own == group);
            self.changes.subjects.extend(members.groups[group].addresses.iter().filter(is_its));
        }
        self.sweep();
        std::mem::take(&mut self.changes)
    }

    fn leads_of(&mut self, group: GroupId) -> [Lead; 4] {
        // A course borrows the rules, which nothing here changes.
        let rules = std::mem::take(&mut self.rules);
        let courses = Course::all_of(&rules, &self.members, group);
        let mut leads = <[Lead; 4]>::default();
        for ((lead, gate), course) in leads.iter_mut().zip(Gate::ALL).zip(&courses) {
            *lead = match course.only() {
                Some(way) => Lead::Way(way),
                None => self.lead_of(group, gate, course),
            };
        }
        self.rules = rules;
        leads
    }

    fn lead_of(&mut self, group: GroupId, gate: Gate, course: &Course<'_>) -> Lead {
        let direction = gate.direction();
        let (peers, names) = (&mut self.peers, &mut self.peer_names);
        let (idle, changes) = (&mut self.idle_peers, &mut self.changes);
        let mut fresh: Vec<u32> = Vec::new();
        let table = course.compile(&self.members, &mut self.atoms, group, direction, |atoms, ladder| {
            if let Some(is_accepted) = ladder.only() {
                return Way::of(is_accepted);
            }
            let name = ladder.name(|atom| atoms.get(atom).name);
            if let Entry::Vacant(place) = names.entry(name) {
                let table = Peers::new(name, ladder, atoms);
                table.atoms().into_iter().for_each(|atom| atoms.hold(atom));
                let id = *place.insert(peers.insert(table));
                fresh.push(id);
                idle.insert(name);
                changes.peers.insert(name);
            }
            Way::Peers(name)
        });
        for id in fresh {
            for atom in self.peers[id].atoms() {
                self.atoms.join(atom, id, &mut self.members);
                self.atoms.release(atom);
            }
        }
        if let Some(way) = table.only() {
            return Lead::Way(way);
        }
        let name = table.name();
        if !self.ports.contains_key(&name) {
            table.ways().into_iter().for_each(|way| self.enter(Lead::Way(way)));
            self.ports.insert(name, Ports { table, refs: 0 });
            self.idle_ports.insert(name);
            self.changes.ports.insert(name);
        }
        Lead::Ports(name)
    }

    /// Somebody leads to a table.
    fn enter(&mut self, lead: Lead) {
        match lead {
            Lead::Way(Way::Peers(name)) => {
                let id = self.peer_names[&name];
                self.peers[id].refs += 1;
            }
            Lead::Ports(name) => {
                if let Some(ports) = self.ports.get_mut(&name) {
                    ports.refs += 1;
                }
            }
            Lead::Way(Way::Accept | Way::Deny) => {}
        }
    }

    /// Somebody leads there no more.
    fn leave(&mut self, lead: Lead) {
        match lead {
            Lead::Way(Way::Peers(name)) => {
                let id = self.peer_names[&name];
                self.peers[id].refs -= 1;
                self.idle_peers.insert(name);
            }
            Lead::Ports(name) => {
                if let Some(ports) = self.ports.get_mut(&name) {
                    ports.refs -= 1;
                    self.idle_ports.insert(name);
                }
            }
            Lead::Way(Way::Accept | Way::Deny) => {}
        }
    }

    /// Tables that nobody leads to go.
    fn sweep(&mut self) {
        for name in std::mem::take(&mut self.idle_ports) {
            if self.ports.get(&name).is_some_and(|ports| ports.refs == 0)
                && let Some(gone) = self.ports.remove(&name)
            {
                gone.table.ways().into_iter().for_each(|way| self.leave(Lead::Way(way)));
                self.changes.ports.insert(name);
            }
        }
        for name in std::mem::take(&mut self.idle_peers) {
            let Some(id) = self.peer_names.get(&name).copied().filter(|id| self.peers[*id].refs == 0) else { continue };
            for atom in self.peers[id].atoms() {
                self.atoms.leave(atom, id, &mut self.members);
            }
            self.peers.remove(id);
            self.peer_names.remove(&name);
            self.changes.peers.insert(name);
        }
    }
}

/// What can be asked.
impl Policies {
    /// The addresses of this node's pods, in order.
    pub fn subjects(&self) -> impl Iterator<Item = IpAddr> {
        self.members.local_addresses()
    }

    /// What becomes of the packets of a pod of this node, by its address; of an address that is none's they go on.
    #[must_use]
    pub fn lead(&self, gate: Gate, subject: IpAddr) -> Lead {
        let group = self.members.local(subject).map(|(_, group)| *group);
        group.map_or_else(Lead::default, |group| self.members.groups[group].leads[gate as usize])
    }

    /// The pod of this node that has an address, with all its addresses.
    #[must_use]
    pub fn pod(&self, subject: IpAddr) -> Option<(&PodName, &[IpAddr])> {
        let (name, _) = self.members.local(subject)?;
        Some((name, &self.members.pods.get(name)?.ips))
    }

    /// How many pods of this node a NetworkPolicy is about, and how many of all nodes that have an address.
    #[must_use]
    pub fn selected(&self, policy: &NetworkPolicy) -> (usize, usize) {
        self.count(&self.members.select_own(&policy.name.namespace, &policy.subject))
    }

    /// The same of a ClusterNetworkPolicy.
    #[must_use]
    pub fn selected_by_cluster(&self, policy: &ClusterNetworkPolicy) -> (usize, usize) {
        self.count(&self.members.select_any(&policy.namespaces, &policy.pods))
    }

    fn count(&self, groups: &[GroupId]) -> (usize, usize) {
        let groups: BTreeSet<GroupId> = groups.iter().copied().collect();
        let local = groups.iter().map(|group| self.members.groups[*group].local).sum();
        (local, groups.iter().map(|group| self.members.groups[*group].pods).sum())
    }

    /// Whether some pod has a port of this name.
    #[must_use]
    pub fn has_port(&self, name: &str) -> bool {
        self.members.numbers(name).next().is_some()
    }

    /// A table of ports.
    #[must_use]
    pub fn port_table(&self, name: &TableName) -> Option<&PortTable> {
        self.ports.get(name).map(|ports| &ports.table)
    }

    /// All tables of ports, in order.
    pub fn port_tables(&self) -> impl Iterator<Item = TableName> {
        self.ports.keys().copied()
    }

    /// A table of peers.
    #[must_use]
    pub fn peer_table(&self, name: &TableName) -> Option<PeerTable<'_>> {
        self.peer_names.get(name).map(|id| PeerTable { policies: self, peers: &self.peers[*id] })
    }

    /// All tables of peers, in order.
    pub fn peer_tables(&self) -> impl Iterator<Item = TableName> {
        self.peer_names.keys().copied()
    }

    /// Whether a packet passes a gate, by the tables alone. `port` is its protocol and destination port, where it has such.
    #[must_use]
    pub fn passes(&self, gate: Gate, subject: IpAddr, other: IpAddr, port: Option<(Protocol, u16)>) -> bool {
        let way = match self.lead(gate, subject) {
            Lead::Way(way) => way,
            Lead::Ports(name) => self.port_table(&name).map_or(Way::Deny, |table| table.way(port)),
        };
        match way {
            Way::Accept => true,
            Way::Deny => false,
            Way::Peers(name) => self.peer_table(&name).is_some_and(|table| table.verdict(other)),
        }
    }
}

impl<'p> PeerTable<'p> {
    /// Whether it is about who sends, or about who receives.
    #[must_use]
    pub fn direction(&self) -> Direction {
        self.peers.ladder.direction
    }

    /// What is said of whom nothing else is said of.
    #[must_use]
    pub fn otherwise(&self) -> bool {
        self.peers.otherwise()
    }

    /// The first and the last of addresses of which something else is said, whoever has them: in order and apart.
    #[must_use]
    pub fn blocks(&self, family: Family) -> Arc<[(IpAddr, IpAddr)]> {
        self.peers.blocks(family)
    }

    /// What is said of an address because of who has it; `None`: what is said of it anyway.
    #[must_use]
    pub fn exception(&self, ip: IpAddr) -> Option<bool> {
        self.peers.exception(ip, &self.policies.atoms, &self.policies.members)
    }

    /// All exceptions, in order of their addresses.
    pub fn exceptions(self) -> impl Iterator<Item = (IpAddr, bool)> + use<'p> {
        let candidates = self.peers.candidates(&self.policies.atoms, &self.policies.members);
        candidates.into_iter().filter_map(move |ip| Some((ip, self.exception(ip)?)))
    }

    /// What is said of an address.
    #[must_use]
    pub fn verdict(&self, ip: IpAddr) -> bool {
        self.exception(ip).unwrap_or_else(|| self.peers.anonymous(ip))
    }
}
