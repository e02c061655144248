//! What the product wants of policies, in the kernels of a scene's nodes.

use std::fmt::Display;

use ripstop_conformance::policy::scene::{Nodes, Scene, Subject};
use ripstop_conformance::policy::{Change, Stop};
use ripstop_desired::policy::Compiled;
use ripstop_kernel::Netns;
use ripstop_policy::Policies;
use ripstop_types::NodeName;

use crate::node::{Node, Spoil};

/// The product on nodes `n1`, `n2` and so on: each change is a plan away from what was before.
#[derive(Default)]
pub struct Policed {
    nodes: Vec<Place>,
    /// What somebody does to what is wanted.
    fault: Option<Spoil>,
}

impl Policed {
    /// One whose rules have a fault, or none.
    #[must_use]
    pub fn with(fault: Option<Spoil>) -> Self {
        Self { nodes: Vec::new(), fault }
    }
}

struct Place {
    policies: Policies,
    compiled: Compiled,
    kernel: Node,
}

impl Subject for Policed {
    fn begin(&mut self) -> Result<(), Stop> {
        for (place, number) in self.nodes.iter_mut().zip(1..) {
            (place.policies, place.compiled) = decided_by(number)?;
        }
        Ok(())
    }

    fn follow(&mut self, changes: &[Change], nodes: &Nodes<'_>) -> Result<(), Stop> {
        for (number, path) in nodes.paths().enumerate() {
            if number == self.nodes.len() {
                let (policies, compiled) = decided_by(number + 1)?;
                self.nodes.push(Place { policies, compiled, kernel: Node::default() });
            }
            let place = &mut self.nodes[number];
            changes.iter().for_each(|change| tell(&mut place.policies, change));
            let changed = place.policies.decide();
            place.compiled.update(&place.policies, &changed);
            let netns = Netns::open(&path.to_string_lossy()).map_err(broken)?;
            place.kernel.follow(&netns, place.compiled.model().clone(), self.fault.as_ref())?;
        }
        Ok(())
    }
}

/// What a node decides and compiles before it knows anything.
fn decided_by(number: usize) -> Result<(Policies, Compiled), Stop> {
    let name: NodeName = format!("n{number}").parse().map_err(broken)?;
    let policies = Policies::new(Some(name));
    let compiled = Compiled::of(&policies);
    Ok((policies, compiled))
}

fn tell(policies: &mut Policies, change: &Change) {
    match change {
        Change::Node(node) => policies.put_node(node),
        Change::NodeGone(name) => policies.remove_node(name),
        Change::Namespace(namespace) => policies.put_namespace(namespace),
        Change::NamespaceGone(name) => policies.remove_namespace(name),
        Change::Pod(pod) => policies.put_pod(pod),
        Change::PodGone(name) => policies.remove_pod(name),
        Change::Policy(policy) => policies.put_policy(policy),
        Change::PolicyGone(name) => policies.remove_policy(name),
        Change::ClusterPolicy(policy) => policies.put_cluster_policy(policy),
        Change::ClusterPolicyGone(name) => policies.remove_cluster_policy(name),
    }
}

/// A scene on whose nodes the product holds packets to policies. Needs root.
///
/// # Errors
/// A skip where the machine cannot do it.
pub fn policy_scene() -> Result<Scene<'static>, Stop> {
    Scene::new(Box::new(Policed::default()))
}

fn broken(error: impl Display) -> Stop {
    Stop::Fail(format!("rules cannot be written: {error}"))
}
