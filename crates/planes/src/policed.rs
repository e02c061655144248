//! What the product wants of policies, in the kernels of a scene's nodes; and of Services beside them.

use std::fmt::Display;

use ripstop_conformance::policy::scene::{Nodes, Scene, Served, Subject};
use ripstop_conformance::policy::{Change, Stop};
use ripstop_desired::policy::Compiled;
use ripstop_kernel::Netns;
use ripstop_netmodel::Model;
use ripstop_oracle::services::World;
use ripstop_policy::Policies;
use ripstop_types::NodeName;

use crate::applied::lacking;
use crate::node::{Node, Spoil};
use crate::wanted::{Compiler, wanted};

/// The product on nodes `n1`, `n2` and so on: each change is a plan away from what was before.
#[derive(Default)]
pub struct Policed {
    nodes: Vec<Place>,
    /// What somebody does to what is wanted.
    fault: Option<Spoil>,
    proxied: Option<Proxied>,
}

/// Services that are there all the time.
pub struct Proxied {
    /// What they are served by.
    pub compiler: Compiler,
    /// They as each node knows them, of `n1` first.
    pub worlds: Vec<World>,
    /// What of them the scene may send to as to a Service.
    pub served: Served,
}

impl Policed {
    /// One whose rules have a fault, or none.
    #[must_use]
    pub fn with(fault: Option<Spoil>) -> Self {
        Self { fault, ..Self::default() }
    }

    /// One that serves Services, too.
    ///
    /// # Errors
    /// A skip where the machine lacks what it takes.
    pub fn serving(proxied: Proxied) -> Result<Self, Stop> {
        match lacking(proxied.compiler) {
            Some(reason) => Err(Stop::Skip(reason)),
            None => Ok(Self { proxied: Some(proxied), ..Self::default() }),
        }
    }
}

struct Place {
    policies: Policies,
    compiled: Compiled,
    kernel: Node,
    /// What is wanted of Services.
    services: Model,
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
                let world = self.proxied.as_ref().and_then(|of| Some((of.compiler, of.worlds.get(number)?)));
                let services = world
                    .map_or_else(|| Ok(Model::new()), |(compiler, world)| wanted(compiler, world, &Model::new()))?;
                self.nodes.push(Place { policies, compiled, kernel: Node::default(), services });
            }
            let place = &mut self.nodes[number];
            changes.iter().for_each(|change| tell(&mut place.policies, change));
            let changed = place.policies.decide();
            place.compiled.update(&place.policies, &changed);
            let netns = Netns::open(&path.to_string_lossy()).map_err(broken)?;
            let mut model = place.compiled.model().clone();
            for (_, entry) in place.services.iter() {
                model.insert_entry(entry.clone());
            }
            place.kernel.follow(&netns, model, self.fault.as_ref())?;
        }
        Ok(())
    }

    fn served(&self) -> Option<&Served> {
        self.proxied.as_ref().map(|proxied| &proxied.served)
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
