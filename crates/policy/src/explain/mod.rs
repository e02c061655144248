//! Why a connection is allowed or not: what the tables say of its first packet at each end, and which policies and rules make them say so.
//!
//! [`Policies::explain`] takes the verdict from the tables, by the same looks that a data plane makes, and the reasons from the rules that
//! the tables were made of. The two are found on two ways and must agree ([`End::is_explained`]). Of another node's pods the tables are that
//! node's: there the reasons are all that is known.
//!
//! Where policies isolate a pod and nothing permits a packet, the answer names them, and the rule that came closest with what of it failed.
//! Staged policies are asked as well, and what would be otherwise with them is told beside.
//!
//! Not here: what becomes of later packets of a connection, of its replies, and of neighbour discovery: nobody is asked about those.
//!
//! Invariants: the same policies give the same answer in whatever order they came; policies are named in the order of their names, and
//! ClusterNetworkPolicies in that in which they are asked.
//!
//! - `court`: who decides.
//! - `packet`: whether a rule is about a packet.
//! - `closest`: how far a rule is from that.
//! - `words`: all of it as text.
//! - `answer`: the same between two by name, in each family.
//! - `graph`: who may talk to whom.
//! - `unused`: what has no effect.

mod answer;
mod closest;
mod court;
mod graph;
mod packet;
mod unused;
mod words;

pub use answer::{Answer, Party, Path, Port};
pub use graph::{Edge, Graph, MAX_PODS, OUTSIDE};
pub use unused::{Finding, Kind as FindingKind};
pub use words::selector_text;

use std::net::IpAddr;
use std::sync::Arc;

use ripstop_objects::policy::{Action, Direction, PolicyName, Tier};
use ripstop_objects::service::Protocol;
use ripstop_types::{NamespacedName, NodeName, PodName};
use serde::{Deserialize, Serialize};

use crate::members::Pod;
use crate::policies::Policies;
use crate::tables::Gate;
use court::Court;

/// A connection that somebody may want to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Question {
    /// Who begins it.
    pub source: IpAddr,
    /// With whom: the pod's address, where it goes to a Service.
    pub destination: IpAddr,
    /// Protocol and destination port; `None`: it has no ports, as ICMP.
    pub port: Option<(Protocol, u16)>,
    /// Whether it comes by a Service. Only of a pod and itself does that make a difference.
    #[serde(default)]
    pub by_service: bool,
}

/// What both ends say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// Where it leaves a pod; `None`: its source is no pod.
    pub egress: Option<End>,
    /// Where it comes to a pod.
    pub ingress: Option<End>,
}

/// What one end says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// The pod there.
    pub pod: PodName,
    /// Where it runs.
    pub node: Option<NodeName>,
    /// Which way the packet goes there.
    pub direction: Direction,
    /// Whether it goes on, by the tables where they are of this node.
    pub allowed: bool,
    /// Whether the tables were asked: those of this node are about its own pods alone.
    pub enforced_here: bool,
    /// Who decides that.
    pub by: By,
    /// The rule of tier Admin that left the decision to others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passed: Option<RuleRef>,
    /// Who would decide if what is staged were enforced, where that is somebody else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged: Option<By>,
}

/// Who decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// The pod talks to itself.
    Itself,
    /// It comes from the pod's own node, as probes of kubelet do, or goes there, which no NetworkPolicy keeps it from.
    OwnNode,
    /// Nobody: no policy is about it.
    Nobody,
    /// It is not known yet which policies are about the pod, and nothing passes until it is.
    Unknown,
    /// This rule of a ClusterNetworkPolicy.
    Rule(RuleRef),
    /// These rules of NetworkPolicies, each of which permits it.
    Permitted(Vec<RuleRef>),
    /// These isolate the pod, and no rule of any of them permits it.
    Isolation {
        /// The NetworkPolicies.
        policies: Vec<PolicyRef>,
        /// The rule that would have permitted it with the least difference; `None`: there is no rule.
        closest: Option<Closest>,
    },
}

/// A policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRef {
    /// Its kind.
    pub kind: PolicyKind,
    /// Its namespace, of a NetworkPolicy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Arc<str>>,
    /// Its name.
    pub name: Arc<str>,
    /// When it is asked, of a ClusterNetworkPolicy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<Tier>,
    /// Its place there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u16>,
    /// It is not enforced.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub staged: bool,
}

/// Kinds of policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs)] // Named as Kubernetes names them.
pub enum PolicyKind {
    NetworkPolicy,
    ClusterNetworkPolicy,
}

/// A rule of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleRef {
    /// The policy.
    #[serde(flatten)]
    pub policy: PolicyRef,
    /// In its list of this direction.
    pub direction: Direction,
    /// Its place there, from 0.
    pub rule: usize,
    /// What it says.
    pub action: Action,
}

/// A rule that does not permit a packet, and why not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closest {
    /// The rule.
    #[serde(flatten)]
    pub rule: RuleRef,
    /// Which of its peers came closest, from 0; `None`: it takes everybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<usize>,
    /// What of it the packet does not meet, in the order in which it is asked: who is there, then to which port it goes.
    pub failed: Vec<Failed>,
}

/// A condition that is not met.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// Which one.
    pub condition: Condition,
    /// What the rule wants,
    pub wanted: String,
    /// and what is there.
    pub found: String,
}

/// Kinds of conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// The rule has nothing that could be met: its peers or ports are empty, or could not be read.
    Empty,
    /// Who is there is what the rule means: a pod, or a node.
    Peer,
    /// The pod's namespace.
    Namespace,
    /// The pod's labels.
    PodLabels,
    /// The node's labels.
    NodeLabels,
    /// The block of addresses.
    Block,
    /// An exception of the block.
    Except,
    /// The protocol.
    Protocol,
    /// The number of the port.
    Port,
    /// What a name of a port is at the destination.
    PortName,
}

impl Explanation {
    /// Whether the connection comes about: nobody denies it.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.ends().all(|end| end.allowed)
    }

    /// The same if what is staged were enforced.
    #[must_use]
    pub fn is_allowed_staged(&self) -> bool {
        self.ends().all(|end| end.staged.as_ref().map_or(end.allowed, By::allows))
    }

    /// The ends that are pods.
    pub fn ends(&self) -> impl Iterator<Item = &End> {
        [&self.egress, &self.ingress].into_iter().flatten()
    }
}

impl End {
    /// Whether who decides has decided what the tables say.
    #[must_use]
    pub fn is_explained(&self) -> bool {
        self.allowed == self.by.allows()
    }
}

impl By {
    /// Whether they let it pass.
    #[must_use]
    pub fn allows(&self) -> bool {
        match self {
            Self::Itself | Self::OwnNode | Self::Nobody | Self::Permitted(_) => true,
            Self::Rule(rule) => rule.action == Action::Accept,
            Self::Unknown | Self::Isolation { .. } => false,
        }
    }
}

impl PolicyRef {
    /// Its kind and name.
    #[must_use]
    pub fn policy_name(&self) -> PolicyName {
        match &self.namespace {
            Some(namespace) => {
                PolicyName::Network(NamespacedName { namespace: namespace.clone(), name: self.name.clone() })
            }
            None => PolicyName::Cluster(self.name.clone()),
        }
    }
}

impl Policies {
    /// Whether a connection comes about, as far as the tables of this node are asked about it.
    #[must_use]
    pub fn allows(&self, question: &Question) -> bool {
        let Question { source, destination, .. } = *question;
        [(Direction::Egress, source, destination), (Direction::Ingress, destination, source)]
            .into_iter()
            .filter_map(|(direction, own, other)| Site::of(self, question, direction, own, other))
            .all(|site| !site.pod.is_local || self.passes_at(&site, question))
    }

    /// Whether a connection comes about, and why. What has changed since [`Policies::decide`] is in the reasons only.
    #[must_use]
    pub fn explain(&self, question: &Question) -> Explanation {
        let Question { source, destination, .. } = *question;
        Explanation {
            egress: self.explain_end(question, Direction::Egress, source, destination),
            ingress: self.explain_end(question, Direction::Ingress, destination, source),
        }
    }

    fn explain_end(&self, question: &Question, direction: Direction, own: IpAddr, other: IpAddr) -> Option<End> {
        let site = Site::of(self, question, direction, own, other)?;
        let decide = |with_staged| match site.gate {
            None if site.is_itself => (By::Itself, None),
            None => (By::OwnNode, None),
            Some(_) => Court::new(self, question, &site, with_staged).decide(),
        };
        let (by, passed) = decide(false);
        let staged = (!self.staged.is_empty()).then(|| decide(true).0).filter(|staged| *staged != by);
        let allowed = if site.pod.is_local { self.passes_at(&site, question) } else { by.allows() };
        let (pod, node, enforced_here) = (site.name.clone(), site.pod.node.clone(), site.pod.is_local);
        Some(End { pod, node, direction, allowed, enforced_here, by, passed, staged })
    }

    fn passes_at(&self, site: &Site<'_>, question: &Question) -> bool {
        site.gate.is_none_or(|gate| self.passes(gate, site.own, site.other, question.port))
    }
}

/// One end of a packet, which is a pod.
struct Site<'p> {
    name: &'p PodName,
    pod: &'p Pod,
    direction: Direction,
    own: IpAddr,
    other: IpAddr,
    /// Whether the pod is at the other end, too,
    is_itself: bool,
    /// or its node.
    is_own_node: bool,
    /// Where the packet is asked about; `None`: nowhere.
    gate: Option<Gate>,
}

impl<'p> Site<'p> {
    fn of(
        policies: &'p Policies,
        question: &Question,
        direction: Direction,
        own: IpAddr,
        other: IpAddr,
    ) -> Option<Self> {
        let (name, pod) = policies.members.holder(own)?;
        let is_itself = pod.ips.contains(&other);
        let node = pod.node.as_ref().and_then(|node| policies.members.nodes.get(node));
        let is_own_node = node.is_some_and(|node| node.addresses.contains(&other));
        let gate = match (direction, is_itself || is_own_node) {
            _ if is_itself && !question.by_service => None,
            (Direction::Ingress, _) if is_own_node => None,
            (Direction::Egress, false) => Some(Gate::Egress),
            (Direction::Egress, true) => Some(Gate::EgressNear),
            (Direction::Ingress, false) => Some(Gate::Ingress),
            (Direction::Ingress, true) => Some(Gate::IngressNear),
        };
        Some(Self { name, pod, direction, own, other, is_itself, is_own_node, gate })
    }
}
