//! What is asked of policies: the objects that they hang on, as they are seen here, and why a connection is allowed or not.
//!
//! An answer about a connection comes from what is decided, the same that the kernel has. All else is worked out by who asks, of the
//! objects: they are shown some at a time, so that nothing waits behind a large cluster's.
//!
//! Not here: what policies say (`ripstop_policy`), and how the objects are asked for (`crate::http`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::IpAddr;
use std::ops::Bound;
use std::sync::Arc;

use ripstop_desired::policy::{Attached, Seen, namespace_of, node_of};
use ripstop_objects::policy::{ClusterNetworkPolicy, NetworkPolicy};
use ripstop_objects::{KubeNamespace, KubeNode, KubePod};
use ripstop_policy::explain::{Answer, Party, Port};
use ripstop_tables::PodState;
use ripstop_types::{NamespacedName, NodeName, PodName};
use serde::{Deserialize, Serialize};

use super::Core;

/// Objects that are shown at once: some milliseconds' work.
const PAGE: usize = 250;

/// Kinds of objects that policies hang on.
pub const POLICY_KINDS: [&str; 5] = ["nodes", "namespaces", "pods", "networkpolicies", "clusternetworkpolicies"];

/// Objects as policies see them.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct PolicyObjects {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<KubeNode>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<KubeNamespace>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pods: Vec<KubePod>,
    /// Pods of this node whose labels are not known, with their addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub closed: Vec<(PodName, Vec<IpAddr>)>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub networkpolicies: Vec<NetworkPolicy>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub clusternetworkpolicies: Vec<ClusterNetworkPolicy>,
    /// Behind what the next ones stand; `None`: these are the last.
    pub next: Option<String>,
}

/// A question for a connection.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyQuestion {
    /// Who begins it,
    pub from: Party,
    /// and with whom.
    pub to: Party,
    /// `80/TCP`, or `ICMP`.
    pub port: String,
}

/// Why a question is not answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unanswered {
    /// Something is not known yet.
    NotYet(String),
    /// It has no answer.
    Wrong(String),
}

impl Core {
    /// Whether a connection comes about, and why; `None` where nothing is decided, since no policy is enforced.
    ///
    /// # Errors
    /// What policies say is not known yet, and a question that has no answer.
    pub fn policy_answer(&self, question: &PolicyQuestion) -> Result<Option<Answer>, Unanswered> {
        if let Some(missing) = self.undecided() {
            return Err(Unanswered::NotYet(missing.to_owned()));
        }
        let port: Port = question.port.parse().map_err(|invalid| Unanswered::Wrong(format!("{invalid}")))?;
        let answer = self.desired.policies().map(|policies| policies.answer(&question.from, &question.to, port));
        answer.transpose().map_err(Unanswered::Wrong)
    }

    /// Some objects of a kind, in the order of their names, behind this one.
    ///
    /// # Errors
    /// Not all is known yet, or there is no such kind.
    pub fn policy_objects(&self, kind: &str, after: &str) -> Result<PolicyObjects, Unanswered> {
        if let Some(missing) = self.undecided() {
            return Err(Unanswered::NotYet(missing.to_owned()));
        }
        let (tables, there) = (&self.tables, &self.tables.cluster.policies);
        let mut page = PolicyObjects::default();
        match kind {
            "nodes" => {
                let all = tables.cluster.node.iter().map(|node| &node.name).chain(tables.cluster.nodes.keys());
                let names: BTreeSet<&NodeName> = all.chain(tables.nodes.keys()).collect();
                let names = page.take(names.into_iter().filter(|name| behind(name.as_str(), after)));
                page.nodes = names.into_iter().filter_map(|name| node_of(tables, name)).collect();
            }
            "namespaces" => {
                let names = self.named_namespaces();
                let names = page.take(names.iter().filter(|name| behind(name, after)));
                page.namespaces = names.into_iter().filter_map(|name| namespace_of(tables, name)).collect();
            }
            "pods" => {
                let attached = Attached::of(tables);
                let names = self.pod_names(&attached, after.parse().ok().as_ref());
                let names = page.take(names.into_iter());
                names.iter().for_each(|name| page.add_pod(&attached.seen(tables, name), name));
            }
            "networkpolicies" => {
                let rows = page.take(from(&there.network, after.parse::<NamespacedName>().ok().as_ref()));
                page.networkpolicies = rows.into_iter().map(|Of(_, row)| row.value.spec.clone()).collect();
            }
            "clusternetworkpolicies" => {
                let after: Option<Arc<str>> = Some(after).filter(|after| !after.is_empty()).map(Arc::from);
                let rows = page.take(from(&there.cluster, after.as_ref()));
                page.clusternetworkpolicies = rows.into_iter().map(|Of(_, row)| row.value.spec.clone()).collect();
            }
            _ => return Err(Unanswered::Wrong(format!("found {kind:?}, accepted: {}", POLICY_KINDS.join(", ")))),
        }
        Ok(page)
    }

    /// A pod, with its node where it has that one's network.
    #[must_use]
    pub fn policy_pod(&self, name: &PodName) -> PolicyObjects {
        let mut page = PolicyObjects::default();
        page.add_pod(&Attached::of(&self.tables).seen(&self.tables, name), name);
        let node = page.pods.first().filter(|pod| pod.host_network).and_then(|pod| pod.node.as_ref());
        page.nodes.extend(node.and_then(|node| node_of(&self.tables, node)));
        page
    }

    /// A node.
    #[must_use]
    pub fn policy_node(&self, name: &NodeName) -> PolicyObjects {
        PolicyObjects { nodes: node_of(&self.tables, name).into_iter().collect(), ..PolicyObjects::default() }
    }

    /// The addresses of this node's pods.
    #[must_use]
    pub fn pod_addresses(&self) -> BTreeSet<IpAddr> {
        let rows = self.tables.pods.values().filter(|row| row.state != PodState::Gone);
        rows.flat_map(|row| row.ips.iter().copied()).collect()
    }

    /// Namespaces that have an object, or a pod.
    fn named_namespaces(&self) -> BTreeSet<Arc<str>> {
        let (cluster, there) = (&self.tables.cluster, &self.tables.cluster.policies);
        let of_pods = cluster.pods.keys().chain(there.peer_pods.keys());
        let said = there.addresses.values().map(|row| &row.value.pod);
        let own = self.tables.pods.values().filter_map(|row| row.pod.as_ref());
        let of_pods = of_pods.chain(said).chain(own).map(|pod| &pod.namespace);
        cluster.namespaces.keys().chain(of_pods).cloned().collect()
    }

    /// Pods that anything is known of, behind this one: as many as are shown, and one more.
    fn pod_names(&self, attached: &Attached, after: Option<&PodName>) -> BTreeSet<PodName> {
        let (cluster, there) = (&self.tables.cluster, &self.tables.cluster.policies);
        let is_behind = |name: &&PodName| after.is_none_or(|after| *name > after);
        let mut names: BTreeSet<PodName> = attached.pods().filter(is_behind).cloned().collect();
        for pods in [&cluster.pods, &there.peer_pods] {
            names.extend(from(pods, after).take(PAGE + 1).map(|Of(name, _)| name.clone()));
        }
        let said = there.addresses.values().map(|row| &row.value.pod);
        names.extend(said.filter(is_behind).cloned());
        names
    }
}

impl PolicyObjects {
    /// As many as are shown at once; notes the last where there are more.
    fn take<T: Display>(&mut self, mut all: impl Iterator<Item = T>) -> Vec<T> {
        let some: Vec<T> = all.by_ref().take(PAGE).collect();
        self.next = all.next().and(some.last()).map(ToString::to_string);
        some
    }

    fn add_pod(&mut self, seen: &Seen, name: &PodName) {
        match seen {
            Seen::Pod(pod) => self.pods.push(KubePod::clone(pod)),
            Seen::Closed(ips) => self.closed.push((name.clone(), ips.clone())),
            Seen::Unknown | Seen::Nothing => {}
        }
    }
}

/// A row, shown by its key.
struct Of<'t, K, V>(&'t K, &'t V);

impl<K: Display, V> Display for Of<'_, K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Rows behind a key, or all.
fn from<'t, K: Ord, V>(rows: &'t BTreeMap<K, V>, after: Option<&K>) -> impl Iterator<Item = Of<'t, K, V>> {
    let first = after.map_or(Bound::Unbounded, Bound::Excluded);
    rows.range((first, Bound::Unbounded)).map(|(key, row)| Of(key, row))
}

fn behind(name: &str, after: &str) -> bool {
    after.is_empty() || name > after
}
