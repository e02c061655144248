//! What becomes of a packet, and who decided.

use std::net::IpAddr;

use ripstop_objects::KubePod;
use ripstop_objects::policy::{Action, ClusterNetworkPolicy, Direction, NetworkPolicy, PolicyName, Tier};
use serde::{Deserialize, Serialize};

use super::select::{is_cluster_subject, is_subject, matches};
use super::world::{Packet, State, Traffic, World};

/// What both ends say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// Where it leaves a pod, what is said of that; `None`: its source is no pod.
    pub egress: Option<Decision>,
    /// Where it comes to a pod.
    pub ingress: Option<Decision>,
}

impl Judgement {
    /// Whether the packet arrives: nobody denies it.
    #[must_use]
    pub fn is_accepted(&self) -> bool {
        [&self.egress, &self.ingress].into_iter().flatten().all(|decision| decision.accepted)
    }
}

/// What one end says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Whether the packet goes on.
    pub accepted: bool,
    /// Who decided that.
    pub by: By,
}

/// Who decides.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum By {
    /// It belongs to a connection that goes on, or is neighbour discovery: nobody is asked.
    Nature,
    /// It comes from the pod's own node, as probes of kubelet do, or goes there as far as NetworkPolicies are concerned.
    OwnNode,
    /// The pod talks to itself.
    Itself,
    /// A rule, by its place in its direction.
    Rule {
        /// Of this policy.
        policy: PolicyName,
        /// From 0 on.
        index: usize,
    },
    /// These isolate the pod, and no rule of any of them permits the packet.
    Isolation(Vec<PolicyName>),
    /// Nobody: all may talk to all.
    Nobody,
}

/// Judges a packet by what is enforced.
#[must_use]
pub fn judge(world: &World, packet: &Packet) -> Judgement {
    Court { world, packet, with_staged: false }.judge()
}

/// Judges a packet as if what is staged were enforced.
#[must_use]
pub fn judge_staged(world: &World, packet: &Packet) -> Judgement {
    Court { world, packet, with_staged: true }.judge()
}

struct Court<'a> {
    world: &'a World,
    packet: &'a Packet,
    with_staged: bool,
}

impl Court<'_> {
    fn judge(&self) -> Judgement {
        let pod = |ip| self.world.pod_at(ip);
        let Packet { source, destination, .. } = *self.packet;
        Judgement {
            egress: pod(source).map(|pod| self.decide(Direction::Egress, pod, destination)),
            ingress: pod(destination).map(|pod| self.decide(Direction::Ingress, pod, source)),
        }
    }

    /// The order of ClusterNetworkPolicy: tier Admin, NetworkPolicies, tier Baseline.
    fn decide(&self, direction: Direction, pod: &KubePod, other: IpAddr) -> Decision {
        if self.packet.state == State::Known || self.packet.traffic == Traffic::Discovery {
            return Decision { accepted: true, by: By::Nature };
        }
        let is_itself = pod.ips.contains(&other);
        if is_itself && !self.packet.by_service {
            return Decision { accepted: true, by: By::Itself };
        }
        let is_own_node = self.world.is_own_node(pod, other);
        if is_own_node && direction == Direction::Ingress {
            return Decision { accepted: true, by: By::OwnNode };
        }
        if let Some(decision) = self.by_tier(Tier::Admin, direction, pod, other) {
            return decision;
        }
        let isolating = self.isolating(direction, pod);
        if isolating.is_empty() {
            let decision = self.by_tier(Tier::Baseline, direction, pod, other);
            return decision.unwrap_or(Decision { accepted: true, by: By::Nobody });
        }
        // No NetworkPolicy keeps a pod from itself and from its node.
        if is_itself || is_own_node {
            return Decision { accepted: true, by: if is_itself { By::Itself } else { By::OwnNode } };
        }
        self.by_network_policies(direction, &isolating, other)
    }

    /// What a tier's policies say, the first of their rules that is about the packet; `None`: nothing, or that it is not theirs to decide.
    fn by_tier(&self, tier: Tier, direction: Direction, pod: &KubePod, other: IpAddr) -> Option<Decision> {
        let is_asked = |policy: &&ClusterNetworkPolicy| {
            policy.tier == tier && (self.with_staged || !policy.staged) && is_cluster_subject(self.world, policy, pod)
        };
        let mut policies: Vec<_> = self.world.cluster_policies.iter().filter(is_asked).collect();
        policies.sort_by_key(|policy| (policy.priority, &policy.name));
        for policy in policies {
            for (index, rule) in policy.rules(direction).iter().enumerate() {
                if !matches(self.world, rule, None, other, self.packet) {
                    continue;
                }
                let by = By::Rule { policy: PolicyName::Cluster(policy.name.clone()), index };
                return match rule.action {
                    Action::Accept => Some(Decision { accepted: true, by }),
                    Action::Deny => Some(Decision { accepted: false, by }),
                    Action::Pass => None,
                };
            }
        }
        None
    }

    /// The NetworkPolicies that isolate a pod, in order of their names.
    fn isolating(&self, direction: Direction, pod: &KubePod) -> Vec<&NetworkPolicy> {
        let isolates = |policy: &&NetworkPolicy| {
            policy.rules(direction).is_some() && (self.with_staged || !policy.staged) && is_subject(policy, pod)
        };
        let mut policies: Vec<_> = self.world.policies.iter().filter(isolates).collect();
        policies.sort_by_key(|policy| &policy.name);
        policies
    }

    /// What any of them permits is permitted, and nothing else.
    fn by_network_policies(&self, direction: Direction, isolating: &[&NetworkPolicy], other: IpAddr) -> Decision {
        for policy in isolating {
            let own = Some(&*policy.name.namespace);
            for (index, rule) in policy.rules(direction).unwrap_or_default().iter().enumerate() {
                if matches(self.world, rule, own, other, self.packet) {
                    let policy = PolicyName::Network(policy.name.clone());
                    return Decision { accepted: true, by: By::Rule { policy, index } };
                }
            }
        }
        let names = isolating.iter().map(|policy| PolicyName::Network(policy.name.clone())).collect();
        Decision { accepted: false, by: By::Isolation(names) }
    }
}
