//! Who decides about a packet at one end, by the rules: tier Admin, NetworkPolicies, tier Baseline.

use ripstop_objects::policy::{Action, Direction, Tier};

use super::closest::closest;
use super::packet::Packet;
use super::{By, PolicyKind, PolicyRef, Question, RuleRef, Site};
use crate::members::GroupKey;
use crate::policies::Policies;
use crate::rules::{ClusterKey, ClusterPolicy, Policy, Rules, place};
use crate::select::Labels;

/// One end of a packet.
pub struct Court<'p> {
    policies: &'p Policies,
    site: &'p Site<'p>,
    direction: Direction,
    /// What the pod there is.
    key: &'p GroupKey,
    namespace: Option<&'p Labels>,
    packet: Packet<'p>,
    with_staged: bool,
}

impl<'p> Court<'p> {
    pub fn new(policies: &'p Policies, question: &Question, site: &'p Site<'p>, with_staged: bool) -> Self {
        let members = &policies.members;
        let key = &*members.groups[site.pod.group].key;
        let namespace = members.namespaces.get(&key.namespace).and_then(|namespace| namespace.labels.as_ref());
        let packet = Packet::new(members, site.other, question.destination, question.port);
        Self { policies, site, direction: site.direction, key, namespace, packet, with_staged }
    }

    /// Who decides, and the rule that left it to them.
    pub fn decide(&self) -> (By, Option<RuleRef>) {
        // No NetworkPolicy keeps a pod from itself and from its node.
        let near = match (self.site.is_itself, self.site.is_own_node) {
            (true, _) => Some(By::Itself),
            (_, true) => Some(By::OwnNode),
            _ => None,
        };
        if self.key.is_closed {
            return (near.unwrap_or(By::Unknown), None);
        }
        let passed = match self.by_tier(Tier::Admin) {
            Some(rule) if rule.action == Action::Pass => Some(rule),
            Some(rule) => return (By::Rule(rule), None),
            None => None,
        };
        let isolating = self.isolating();
        if isolating.is_empty() {
            let rule = self.by_tier(Tier::Baseline).filter(|rule| rule.action != Action::Pass);
            return (rule.map_or(By::Nobody, By::Rule), passed);
        }
        (near.unwrap_or_else(|| self.by_network_policies(&isolating)), passed)
    }

    /// The rules that are asked, with whether they are staged.
    fn rules(&self) -> impl Iterator<Item = (&'p Rules, bool)> {
        let staged = self.with_staged.then_some((&self.policies.staged, true));
        [(&self.policies.rules, false)].into_iter().chain(staged)
    }

    /// The first rule of a tier that is about the packet.
    fn by_tier(&self, tier: Tier) -> Option<RuleRef> {
        let about = |(rules, staged): (&'p Rules, bool)| {
            let about = rules.cluster_about(tier, self.namespace, self.key);
            about.into_iter().map(move |(key, policy)| (key, policy, staged))
        };
        let mut all: Vec<(&ClusterKey, &ClusterPolicy, bool)> = self.rules().flat_map(about).collect();
        all.sort_by_key(|(key, ..)| *key);
        all.into_iter().find_map(|(key, policy, staged)| {
            let rules = &policy.rules[place(self.direction)];
            let index = rules.iter().position(|rule| self.packet.meets(rule, &self.policies.atoms))?;
            let policy = cluster_ref(key, staged);
            Some(RuleRef { policy, direction: self.direction, rule: index, action: rules[index].action })
        })
    }

    /// The NetworkPolicies that isolate the pod, in order of their names.
    fn isolating(&self) -> Vec<(&'p Policy, bool)> {
        let about = |(rules, staged): (&'p Rules, bool)| {
            let about = rules.about(self.key).into_iter();
            about.filter(|policy| policy.rules[place(self.direction)].is_some()).map(move |policy| (policy, staged))
        };
        let mut all: Vec<(&Policy, bool)> = self.rules().flat_map(about).collect();
        all.sort_by_key(|(policy, _)| &policy.name);
        all
    }

    fn by_network_policies(&self, isolating: &[(&'p Policy, bool)]) -> By {
        let rules = isolating.iter().flat_map(|(policy, staged)| {
            let rules = policy.rules[place(self.direction)].iter().flat_map(|rules| rules.iter());
            rules.enumerate().map(|(index, rule)| (*policy, *staged, index, rule))
        });
        let named = |policy, staged, rule| {
            let policy = policy_ref(policy, staged);
            RuleRef { policy, direction: self.direction, rule, action: Action::Accept }
        };
        let permitting = rules.clone().filter(|(.., rule)| self.packet.meets(rule, &self.policies.atoms));
        let permitting: Vec<RuleRef> =
            permitting.map(|(policy, staged, index, _)| named(policy, staged, index)).collect();
        if !permitting.is_empty() {
            return By::Permitted(permitting);
        }
        let all = rules.map(|(policy, staged, index, rule)| ((policy, staged, index), rule));
        let closest =
            closest(&self.packet, &self.policies.atoms, all, |(policy, staged, index)| named(policy, staged, index));
        let policies = isolating.iter().map(|(policy, staged)| policy_ref(policy, *staged)).collect();
        By::Isolation { policies, closest }
    }
}

/// The name of a ClusterNetworkPolicy.
pub fn cluster_ref((tier, priority, name): &ClusterKey, staged: bool) -> PolicyRef {
    PolicyRef {
        kind: PolicyKind::ClusterNetworkPolicy,
        namespace: None,
        name: name.clone(),
        tier: Some(*tier),
        priority: Some(*priority),
        staged,
    }
}

/// The same of a NetworkPolicy.
pub fn policy_ref(policy: &Policy, staged: bool) -> PolicyRef {
    PolicyRef {
        kind: PolicyKind::NetworkPolicy,
        namespace: Some(policy.name.namespace.clone()),
        name: policy.name.name.clone(),
        tier: None,
        priority: None,
        staged,
    }
}
