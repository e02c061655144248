//! NetworkPolicy and ClusterNetworkPolicy: what they say, and nothing of what it means for a packet.
//!
//! Sources: `networking.k8s.io/v1` NetworkPolicy; `policy.networking.k8s.io/v1alpha2` ClusterNetworkPolicy.
//!
//! Invariants: a prefix has no host bits, and each exception lies within its block; a range of ports is not empty; a list of a selector's
//! values is sorted, and not empty; rules stand at the place that they have in the object.
//!
//! What cannot be read never widens: a part of a rule of NetworkPolicy matches nothing then, and a rule of ClusterNetworkPolicy nothing if
//! it accepts, everything if it denies or passes, and denies it. So a list without members matches nothing, and `None` everything.

use std::fmt;
use std::sync::Arc;

use ripstop_types::{NamespacedName, Prefix};
use serde::{Deserialize, Serialize};

use crate::service::Protocol;
use crate::{Faults, ObjectLabels};

/// Annotation of a policy that is evaluated and reported, and not enforced.
pub const STAGED_ANNOTATION: &str = "ripstop.io/staged";

/// Most rules of a direction, peers and protocols of a rule, and networks of a peer of a ClusterNetworkPolicy.
pub const MAX_ENTRIES: usize = 25;

/// The least precedence of a ClusterNetworkPolicy in its tier; 0 is the highest.
pub const MAX_PRIORITY: u16 = 1_000;

/// A policy as it is kept: what it says, which version of it that is, and what of it could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Policy<P> {
    /// What it says.
    pub spec: P,
    /// `metadata.generation`, which grows with each change of what it says; 0 where nobody counts.
    #[serde(default)]
    pub generation: u64,
    /// What of it could not be read and is closed, in sentences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub closed: Vec<Arc<str>>,
}

impl<P> Policy<P> {
    /// Reads a policy of JSON text by the reader of what it says.
    ///
    /// # Errors
    /// Those of the reader.
    pub(crate) fn decode(
        text: &str,
        read: impl Fn(&str) -> Result<(P, Faults), String>,
    ) -> Result<(Self, Faults), String> {
        #[derive(Deserialize)]
        struct Head {
            #[serde(default)]
            metadata: Metadata,
        }
        #[derive(Default, Deserialize)]
        struct Metadata {
            #[serde(default)]
            generation: u64,
        }
        let (spec, faults) = read(text)?;
        let generation = serde_json::from_str::<Head>(text).map_or(0, |head| head.metadata.generation);
        let closed = faults.iter().map(|fault| fault.to_string().into()).collect();
        Ok((Self { spec, generation, closed }, faults))
    }
}

/// A NetworkPolicy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicy {
    /// Its namespace and name.
    pub name: NamespacedName,
    /// What tells it from another of the same name, earlier or later.
    #[serde(default)]
    pub uid: Arc<str>,
    /// `spec.podSelector`: which pods of its namespace it is about.
    #[serde(default)]
    pub subject: Selector,
    /// What may come in; `None`: it does not isolate pods in that direction (`spec.policyTypes`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Vec<PolicyRule>>,
    /// What may go out; `None` as above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Vec<PolicyRule>>,
    /// It is evaluated and reported, and not enforced.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub staged: bool,
}

impl NetworkPolicy {
    /// Its rules of a direction; `None` where it does not isolate pods in it.
    #[must_use]
    pub fn rules(&self, direction: Direction) -> Option<&[PolicyRule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }
}

/// A ClusterNetworkPolicy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterNetworkPolicy {
    /// Its name.
    pub name: Arc<str>,
    /// What tells it from another of the same name, earlier or later.
    #[serde(default)]
    pub uid: Arc<str>,
    /// When it is asked.
    pub tier: Tier,
    /// Its place in its tier, the least number first. Of equals the API leaves the order open; here it is that of their names.
    pub priority: u16,
    /// Which namespaces its pods are in.
    pub namespaces: Selector,
    /// Which pods of those it is about.
    #[serde(default)]
    pub pods: Selector,
    /// Its rules for what comes in, the first that matches decides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ingress: Vec<PolicyRule>,
    /// Its rules for what goes out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub egress: Vec<PolicyRule>,
    /// It is evaluated and reported, and not enforced.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub staged: bool,
}

impl ClusterNetworkPolicy {
    /// Its rules of a direction.
    #[must_use]
    pub fn rules(&self, direction: Direction) -> &[PolicyRule] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

/// When ClusterNetworkPolicies are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Tier {
    /// Before NetworkPolicies.
    Admin,
    /// After them, where none isolates the pod.
    Baseline,
}

/// Which way packets go, seen from the pod that a policy is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[allow(missing_docs)] // Named as Kubernetes names them.
pub enum Direction {
    Ingress,
    Egress,
}

impl Direction {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

/// A policy of either kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PolicyName {
    /// A NetworkPolicy.
    #[serde(rename = "NetworkPolicy")]
    Network(NamespacedName),
    /// A ClusterNetworkPolicy.
    #[serde(rename = "ClusterNetworkPolicy")]
    Cluster(Arc<str>),
}

/// As owners are named: `networkpolicy/shop/web`.
impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(name) => write!(f, "networkpolicy/{name}"),
            Self::Cluster(name) => write!(f, "clusternetworkpolicy/{name}"),
        }
    }
}

/// A rule of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyRule {
    /// Its name, for those who read; rules of NetworkPolicy have none.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub name: Arc<str>,
    /// What becomes of the packets that it matches. A NetworkPolicy's rules accept.
    #[serde(default)]
    pub action: Action,
    /// At the other end is one of these; `None`: anybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peers: Option<Vec<Peer>>,
    /// The packet goes to one of these; `None`: it has any protocol, also one without ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<PortMatch>>,
}

impl PolicyRule {
    /// One that matches nothing.
    #[must_use]
    pub fn nothing(action: Action) -> Self {
        Self { name: "".into(), action, peers: Some(Vec::new()), ports: None }
    }

    /// One that matches everything.
    #[must_use]
    pub fn everything(action: Action) -> Self {
        Self { name: "".into(), action, peers: None, ports: None }
    }

    /// What takes the place of a rule that cannot be read, by the API's word: nothing is accepted, and everything denied where something
    /// would have been, or would have gone past what denies it.
    #[must_use]
    pub fn closed(action: Action) -> Self {
        match action {
            Action::Accept => Self::nothing(Action::Accept),
            Action::Deny | Action::Pass => Self::everything(Action::Deny),
        }
    }
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub enum Action {
    /// It goes on, and no policy of this direction is asked any more.
    #[default]
    Accept,
    /// It vanishes.
    Deny,
    /// Nobody else in this tier is asked.
    Pass,
}

/// Who is at the other end. No pod in the host's network is meant by a selector, and none that has finished.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Peer {
    /// Pods.
    #[serde(rename_all = "camelCase")]
    Pods {
        /// In these namespaces; `None`: in the policy's own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        namespaces: Option<Selector>,
        /// With these labels.
        #[serde(default)]
        pods: Selector,
    },
    /// The addresses of nodes with these labels.
    Nodes(Selector),
    /// Addresses.
    #[serde(rename_all = "camelCase")]
    Block {
        /// Those in here,
        block: Prefix,
        /// and in none of these.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        except: Vec<Prefix>,
    },
}

/// To where at its destination a packet goes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PortMatch {
    /// To any port of the protocol.
    All(Protocol),
    /// To a port from the first to the last.
    #[serde(rename_all = "camelCase")]
    Range {
        /// The protocol.
        protocol: Protocol,
        /// The first,
        first: u16,
        /// and the last, not below it.
        last: u16,
    },
    /// To a port that a container of the pod there calls so.
    #[serde(rename_all = "camelCase")]
    Named {
        /// Of this protocol; `None`: of any.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        protocol: Option<Protocol>,
        /// The name.
        name: Arc<str>,
    },
}

/// Which labels an object has to have: all of these.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "Vec<Requirement>", into = "Vec<Requirement>")]
pub struct Selector(Arc<[Requirement]>);

impl Selector {
    /// What meets all of these, which are brought into order.
    #[must_use]
    pub fn new(requirements: impl IntoIterator<Item = Requirement>) -> Self {
        let mut all: Vec<Requirement> = requirements.into_iter().collect();
        all.sort();
        all.dedup();
        Self(all.into())
    }

    /// What it demands, in order; nothing: it takes everything.
    #[must_use]
    pub fn requirements(&self) -> &[Requirement] {
        &self.0
    }

    /// Whether labels are what it demands.
    #[must_use]
    pub fn takes(&self, labels: &ObjectLabels) -> bool {
        self.0.iter().all(|wanted| wanted.is_met_by(labels.get(&wanted.key)))
    }
}

impl From<Vec<Requirement>> for Selector {
    fn from(requirements: Vec<Requirement>) -> Self {
        Self::new(requirements)
    }
}

impl From<Selector> for Vec<Requirement> {
    fn from(selector: Selector) -> Self {
        selector.0.to_vec()
    }
}

impl Default for Selector {
    /// Everything.
    fn default() -> Self {
        Self::new([])
    }
}

/// One thing that labels have to meet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Requirement {
    /// The label's key.
    pub key: Arc<str>,
    /// What it has to be.
    pub operator: Operator,
}

impl Requirement {
    /// Whether this value of its label meets it, or that there is none.
    #[must_use]
    pub fn is_met_by(&self, value: Option<&Arc<str>>) -> bool {
        match &self.operator {
            Operator::In(values) => value.is_some_and(|value| values.contains(value)),
            Operator::NotIn(values) => !value.is_some_and(|value| values.contains(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

/// What a label has to be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Operator {
    /// There, and one of these.
    In(Vec<Arc<str>>),
    /// None of these; not there is as good.
    NotIn(Vec<Arc<str>>),
    /// There.
    Exists,
    /// Not there.
    DoesNotExist,
}
