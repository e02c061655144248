//! Whom a question is put to: files, or a running agent, which knows what there is.

use clap::Args;
use ripstop_agent::core::{POLICY_KINDS, PolicyObjects};
use ripstop_policy::Policies;

use super::objects::{Files, Objects};
use super::party::Named;
use crate::ask::Agent;
use crate::failure::Failure;
use crate::target::Target;

/// Files of objects, or else an agent.
#[derive(Debug, Clone, Args)]
pub struct Source {
    /// Ask about the objects in these files instead of a running agent: policies, namespaces, pods or workloads, and nodes, in YAML or
    /// JSON, also lists as kubectl prints them; - is standard input
    #[arg(short = 'f', long = "filename", visible_alias = "file", value_name = "FILE", conflicts_with_all = ["lab", "node", "socket"])]
    files: Vec<String>,
    #[command(flatten)]
    target: Target,
}

/// What is asked.
pub enum Asked {
    /// Files.
    Files(Files),
    /// A running agent.
    Agent(Agent),
}

impl Source {
    /// What is asked, where an agent may have been picked before the command.
    ///
    /// # Errors
    /// A usage error where files and an agent are, or an agent twice.
    pub fn asked(&self, before: &Target) -> Result<Asked, Failure> {
        if self.files.is_empty() {
            return agent(&self.target, before).map(Asked::Agent);
        }
        if !before.is_empty() {
            let why = "files are asked with -f, and no running agent: --lab, --node and --socket have no meaning";
            return Err(Failure::Usage(why.into()));
        }
        Ok(Asked::Files(Files { files: self.files.clone() }))
    }

    /// The tables of all nodes.
    ///
    /// # Errors
    /// As [`Self::asked`], and where files cannot be read or the agent does not answer.
    pub fn policies(&self, before: &Target) -> Result<Policies, Failure> {
        let objects = match self.asked(before)? {
            Asked::Files(files) => files.read()?,
            Asked::Agent(agent) => Objects::of_agent(&agent)?,
        };
        Ok(objects.policies(None))
    }
}

/// The agent that was picked.
///
/// # Errors
/// As [`Agent::of`].
pub fn agent(target: &Target, before: &Target) -> Result<Agent, Failure> {
    Agent::of(&target.clone().or(before.clone())?)
}

impl Objects {
    /// All that an agent knows, a piece at a time.
    ///
    /// # Errors
    /// Where the agent does not answer, or does not know all yet.
    pub fn of_agent(agent: &Agent) -> Result<Self, Failure> {
        let mut objects = Self::default();
        for kind in POLICY_KINDS {
            let mut after = String::new();
            loop {
                let page: PolicyObjects = agent.get(&format!("/v1/policy/objects/{kind}/{after}"))?;
                let next = page.next.clone();
                objects.add(page);
                match next {
                    Some(next) => after = next,
                    None => break,
                }
            }
        }
        Ok(objects)
    }

    /// Those that these words name.
    ///
    /// # Errors
    /// A usage error for a word that can mean nobody, and where the agent does not answer.
    pub fn named(agent: &Agent, words: [&str; 2], namespace: &str) -> Result<Self, Failure> {
        let mut objects = Self::default();
        for word in words {
            match Named::of(word, namespace)? {
                Named::Address(_) => {}
                Named::Node(name) => objects.add(agent.get(&format!("/v1/policy/node/{name}"))?),
                Named::Pod(name) => objects.add(agent.get(&format!("/v1/policy/pod/{name}"))?),
            }
        }
        Ok(objects)
    }

    fn add(&mut self, page: PolicyObjects) {
        self.nodes.extend(page.nodes.into_iter().map(|node| (node.name.clone(), node)));
        self.namespaces.extend(page.namespaces.into_iter().map(|namespace| (namespace.name.clone(), namespace)));
        self.pods.extend(page.pods.into_iter().map(|pod| (pod.name.clone(), pod)));
        self.closed.extend(page.closed);
        self.policies.extend(page.networkpolicies.into_iter().map(|policy| (policy.name.clone(), policy)));
        self.cluster_policies
            .extend(page.clusternetworkpolicies.into_iter().map(|policy| (policy.name.clone(), policy)));
    }
}
