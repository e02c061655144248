//! `ripstop migrate from flannel`: a Kubernetes cluster of real flanneld is moved, node by node.
//!
//! A label of the Node says how far it is. Flannel's DaemonSet leaves nodes of the last value, ours comes to nodes of any; so
//! what is true of a cluster is in the cluster, and an interrupted command is started again. On a node our agent first
//! comes beside flanneld, which is then sent away: at no moment is there nobody's rule for the pods that run.
//!
//! Not here: what an agent does with Flannel's leavings. Invariant: nothing is written before everything was checked.

mod survey;

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};

use self::survey::{Flannel, LABEL, Node, State};
use crate::commands::install::manifest::{self, Changes};
use crate::commands::install::remote::{Remote, is_ready};
use crate::duration;
use crate::failure::Failure;
use crate::print::table::Table;
use crate::print::{Format, Out};

/// Our agents.
const AGENT: &str = "ripstop-agent";
/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);
/// The columns of a survey.
const COLUMNS: &[&str] = &["node", "state", "range", "reason"];

/// Move a Kubernetes cluster from Flannel to Ripstop, node by node, with its pods running
///
/// From Flannel with the backend vxlan, whose subnets Kubernetes keeps (--kube-subnet-mgr): Ripstop is installed with the
/// same range; on each node in turn its agent takes over flanneld's device under the address that other nodes know, then
/// flanneld is sent away. Nodes of both kinds reach each other. Pods keep their addresses, streams and bridge; the bridge
/// goes with the last of them. Last, Flannel's DaemonSet is deleted. Interrupted, it is started again and goes on.
#[derive(Debug, Args)]
pub struct From {
    /// Move only this node, and leave the rest as it is; may be given several times
    #[arg(long = "node", value_name = "NODE", conflicts_with = "status")]
    nodes: Vec<String>,
    /// List how far each node is, and change nothing
    #[arg(long, conflicts_with = "dry_run")]
    status: bool,
    /// Check everything, say what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// How the cluster is reached [default: KUBECONFIG, then ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Flannel's DaemonSet
    #[arg(long, value_name = "NAMESPACE/NAME", default_value = "kube-flannel/kube-flannel-ds")]
    daemonset: String,
    /// The image of Ripstop's containers [default: ripstop.io/ripstop and this version]
    #[arg(long, value_name = "NAME")]
    image: Option<String>,
    /// How long each step of a node may take
    #[arg(long, value_name = "TIME", value_parser = duration::parse, default_value = "3m")]
    timeout: Duration,
    /// Form of what --status lists: {node, state, range, reason}
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t)]
    output: Format,
}

impl From {
    /// Moves the nodes, or says how far they are.
    ///
    /// # Errors
    /// Where something about the cluster is refused, and then nothing was written; where a node is not moved in time, and
    /// then those before it stay moved.
    pub fn run(&self, out: &mut Out) -> Result<(), Failure> {
        let remote = Remote::open(self.kubeconfig.clone())?;
        if self.status {
            return self.tell(&remote, out);
        }
        let Some(flannel) = Flannel::read(&remote, &self.daemonset)? else {
            return self.nothing_left(&remote, out);
        };
        let nodes = flannel.check(&remote)?;
        let chosen = self.choose(&nodes)?;
        if self.dry_run {
            return self.rehearse(&flannel, &chosen, nodes.len(), out);
        }
        remote.apply(&self.objects(&flannel, true)?)?;
        remote.change(&flannel.path(), &flannel.yielding())?;
        for node in chosen {
            self.move_node(&remote, &flannel, &node.name)?;
            out.line(&format!("node/{} moved", node.name))?;
        }
        let left = flannel.nodes(&remote)?.into_iter().filter(|node| node.state != State::Moved);
        let left: Vec<String> = left.map(|node| node.name).collect();
        if !left.is_empty() {
            return out.line(&format!("still of Flannel: {}", left.join(", ")));
        }
        self.finish(&remote, &flannel, out)
    }

    fn tell(&self, remote: &Remote, out: &mut Out) -> Result<(), Failure> {
        let nodes = match Flannel::read(remote, &self.daemonset)? {
            Some(flannel) => flannel.nodes(remote)?,
            None => survey::nodes_without_flannel(remote)?,
        };
        let rows: Vec<Value> = nodes.iter().map(Node::row).collect();
        if out.data(self.output, &Value::Array(rows.clone()))? {
            return Ok(());
        }
        out.text(&Table::of(COLUMNS, &rows).render(true, out.colour()))
    }

    /// Flannel's set is not there: it was moved, or never was.
    fn nothing_left(&self, remote: &Remote, out: &mut Out) -> Result<(), Failure> {
        if remote.progress(AGENT)?.is_none() {
            return Err(Failure::Failed(format!(
                "there is no daemonset {}: found no such object, accepted is Flannel's own; name it with --daemonset",
                self.daemonset
            )));
        }
        // What an interrupted command left.
        for node in survey::nodes_without_flannel(remote)?.iter().filter(|node| node.labelled) {
            set_label(remote, &node.name, None)?;
        }
        out.line(&format!(
            "there is no daemonset {}, and Ripstop is installed: nothing is left to move",
            self.daemonset
        ))
    }

    fn choose<'a>(&self, nodes: &'a [Node]) -> Result<Vec<&'a Node>, Failure> {
        if let Some(name) = self.nodes.iter().find(|name| nodes.iter().all(|node| node.name != **name)) {
            let names: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
            return Err(Failure::Usage(format!("--node: found {name}, accepted are {}", names.join(", "))));
        }
        let is_wanted = |node: &&Node| self.nodes.is_empty() || self.nodes.contains(&node.name);
        Ok(nodes.iter().filter(is_wanted).filter(|node| node.state != State::Moved).collect())
    }

    fn rehearse(&self, flannel: &Flannel, chosen: &[&Node], all: usize, out: &mut Out) -> Result<(), Failure> {
        out.line(&format!("apply Ripstop: network {}, VNI {}, wiring routed", flannel.network, flannel.vni))?;
        out.line(&format!("daemonset {}: leave nodes labelled {LABEL}={}", self.daemonset, survey::LEFT))?;
        for node in chosen {
            out.line(&format!("node/{}: start an agent beside flanneld, then end flanneld", node.name))?;
        }
        match chosen.len() == all || self.nodes.is_empty() {
            true => out.line(&format!("delete daemonset {}, and the label {LABEL} of all nodes", self.daemonset)),
            false => out.line("leave the other nodes to Flannel"),
        }
    }

    /// What is applied: while nodes are moved, for those alone that are on their way.
    fn objects(&self, flannel: &Flannel, moving: bool) -> Result<Vec<Value>, Failure> {
        let config = flannel.configuration();
        let changes = Changes { image: self.image.as_deref(), config: Some(&config), ..Changes::default() };
        let mut objects = manifest::objects(&changes)?;
        for set in objects.iter_mut().filter(|object| object["kind"] == "DaemonSet") {
            let spec = &mut set["spec"]["template"]["spec"];
            if moving {
                let term = json!({"matchExpressions": [{"key": LABEL, "operator": "Exists"}]});
                spec["affinity"]["nodeAffinity"][survey::REQUIRED] = json!({"nodeSelectorTerms": [term]});
            }
            // Flannel's list of plugins stays where it is, and comes behind ours.
            for container in spec["initContainers"].as_array_mut().into_iter().flatten() {
                container["command"] = json!(["ripstop", "install", "--cni", "--first"]);
            }
        }
        Ok(objects)
    }

    fn move_node(&self, remote: &Remote, flannel: &Flannel, node: &str) -> Result<(), Failure> {
        set_label(remote, node, Some(survey::JOINED))?;
        remote.say(&format!("node/{node}: an agent comes beside flanneld"));
        self.wait(|| {
            let pods = remote.pods("ripstop", &format!("app.kubernetes.io/name={AGENT}"), node)?;
            Ok((!pods.iter().any(is_ready)).then(|| format!("{node}: no agent is ready")))
        })
        .map_err(|failure| {
            // What Kubernetes knows of the node's pod says more, where it says something.
            let faults = remote.faults(AGENT).unwrap_or_default();
            let why = faults.into_iter().find(|fault| fault.starts_with(&format!("{node}: ")));
            why.map_or(failure, Failure::Failed)
        })?;
        remote.say(&format!("node/{node}: the agent is ready; flanneld leaves"));
        set_label(remote, node, Some(survey::LEFT))?;
        self.wait(|| {
            let there = remote.pods(&flannel.namespace, &flannel.selector, node)?;
            Ok((!there.is_empty()).then(|| format!("{node}: flanneld has not left")))
        })
    }

    /// Asks until nothing is missing.
    fn wait(&self, missing: impl Fn() -> Result<Option<String>, Failure>) -> Result<(), Failure> {
        let deadline = Instant::now() + self.timeout;
        while let Some(why) = missing()? {
            if Instant::now() >= deadline {
                return Err(Failure::Failed(format!("not within {:?}: {why}", self.timeout)));
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }

    /// All nodes are moved: new ones are ours, too, and Flannel's set goes.
    fn finish(&self, remote: &Remote, flannel: &Flannel, out: &mut Out) -> Result<(), Failure> {
        let objects = self.objects(flannel, false)?;
        remote.apply(&objects)?;
        for set in objects.iter().filter(|object| object["kind"] == "DaemonSet") {
            remote.await_set(set["metadata"]["name"].as_str().unwrap_or_default(), self.timeout)?;
        }
        remote.delete(&flannel.path())?;
        remote.say(&format!("daemonset {} is deleted", self.daemonset));
        for node in flannel.nodes(remote)? {
            set_label(remote, &node.name, None)?;
        }
        out.line("all nodes are moved")
    }
}

fn set_label(remote: &Remote, node: &str, value: Option<&str>) -> Result<(), Failure> {
    let labels = value.map_or_else(|| json!({}), |value| json!({LABEL: value}));
    let object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node, "labels": labels}});
    remote.change(&format!("/api/v1/nodes/{node}"), &object)
}
