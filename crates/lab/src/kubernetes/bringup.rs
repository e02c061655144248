//! What follows once a cluster's machines are on: images, controllers, ranges, CoreDNS; each step told with its seconds.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::client::{json, kubectl};
use super::connect::inside;
use super::node::RUNTIME;
use super::{Cluster, addons, connect, flannel};
use crate::error::{Attempt, LabError, Result};
use crate::init::{Act, Order};
use crate::interrupt;
use crate::lab::Lab;
use crate::layout::CONTROL;
use crate::machine;
use crate::options::Cni;
use crate::state::Machine;
use crate::target::Target;

/// The wait between two questions to the API: each starts a program.
const STEP: Duration = Duration::from_millis(300);

/// Talk about what was done, with the seconds since the beginning.
struct Progress {
    begun: Instant,
    wanted: bool,
}

impl Progress {
    fn say(&self, what: &str) {
        if self.wanted {
            // Nobody to talk to is no failure.
            let _ = writeln!(std::io::stderr(), "{:6.1} s  {what}", self.begun.elapsed().as_secs_f64());
        }
    }
}

impl Cluster<'_> {
    /// Waits until the cluster is ready, doing what is left meanwhile. All machines are on.
    pub fn complete(lab: &Lab) -> Result<()> {
        let state = lab.state()?;
        let Some(cluster) = Cluster::of(lab.layout(), &state) else { return Ok(()) };
        let progress = Progress { begun: Instant::now(), wanted: cluster.options.progress };
        let deadline = Instant::now() + cluster.options.ready_timeout;
        let images = cluster.archives(lab)?;
        let images = images.as_slice();
        thread::scope(|scope| {
            let import = |(number, machine)| scope.spawn(move || import(lab, number, machine, images, deadline));
            let imports: Vec<_> = state.nodes().map(import).collect();
            let log = lab.layout().machine_dir(CONTROL).join("kube-apiserver.log");
            let ready = || kubectl(lab, &["get", "--raw", "/readyz"], "").map(drop);
            wait("the API", deadline, ready).map_err(|error| match error {
                LabError::Away(why) => LabError::Away(format!("{why}\n{}", machine::tail(&log, 5))),
                other => other,
            })?;
            progress.say("the API is ready");
            for (program, command) in cluster.controllers() {
                machine::order(lab.layout(), CONTROL, &Order { program, act: Act::Replace { command } })?;
            }
            if cluster.kubernetes.cni == Cni::Reference {
                connect::connect(lab, &state, Cni::Reference, deadline)?;
                progress.say("routes and lists of plugins are laid");
            }
            for import in imports {
                import.join().map_err(|_| LabError::failed("the import of images ended early"))??;
            }
            progress.say("images are there");
            let list = addons::list(cluster.options).to_string();
            kubectl(lab, &["create", "--validate=false", "-f", "-"], &list)?;
            if let Some(flanneld) = &cluster.kubernetes.flanneld {
                let list = flannel::list(cluster.options, flanneld).to_string();
                kubectl(lab, &["create", "--validate=false", "-f", "-"], &list)?;
                connect::connect(lab, &state, Cni::Flannel, deadline)?;
                progress.say("flanneld has ranges, and lists of plugins are laid");
            }
            if cluster.kubernetes.cni == Cni::Ripstop {
                cluster.install(lab)?;
                progress.say("the manifest is applied");
            }
            wait("the nodes", deadline, || nodes_ready(lab, state.nodes().count()))?;
            progress.say("all nodes are ready");
            if cluster.kubernetes.cni == Cni::Ripstop {
                cluster.await_agents(lab, &state, deadline)?;
                progress.say("all agents are ready and reach each other");
            }
            wait("CoreDNS", deadline, || dns_ready(lab))?;
            progress.say("CoreDNS is available");
            Ok(())
        })
    }
}

/// Asks again and again until it is so; the last reason is told where it does not come.
pub fn wait<T>(what: &str, deadline: Instant, ask: impl Fn() -> Result<T>) -> Result<T> {
    loop {
        interrupt::check()?;
        match ask() {
            Err(why) if Instant::now() >= deadline => {
                return Err(LabError::Away(format!("{what}: not ready in time: {why}")));
            }
            Err(_) => thread::sleep(STEP),
            good => return good,
        }
    }
}

/// Loads the images into a node's runtime as soon as that listens.
fn import(lab: &Lab, node: u32, machine: &Machine, images: &[PathBuf], deadline: Instant) -> Result<()> {
    let socket = inside(machine, RUNTIME)?;
    while !socket.exists() {
        interrupt::check()?;
        if Instant::now() >= deadline {
            return Err(LabError::Away(format!("containerd of n{node} does not listen")));
        }
        thread::sleep(Duration::from_millis(50));
    }
    for archive in images {
        let mut command = Command::new("ctr");
        command.args(["--address", RUNTIME, "--namespace", "k8s.io", "images", "import", "--digests"]).arg(archive);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = lab.spawn(&Target::Node(node), &mut command)?.output().attempt(|| "wait for ctr".into())?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(LabError::failed(format!("the images of n{node} were not imported: {}", said.trim())));
        }
    }
    Ok(())
}

fn nodes_ready(lab: &Lab, count: usize) -> Result<()> {
    let nodes = json(lab, &["get", "nodes"])?;
    let items = nodes["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    if items.len() < count {
        return Err(LabError::failed(format!("{} of {count} have said who they are", items.len())));
    }
    let ready = |node: &&Value| condition(node, "Ready").is_some_and(|found| found["status"] == "True");
    match items.iter().find(|node| !ready(node)) {
        Some(node) => {
            let why = condition(node, "Ready").map(|found| found["message"].to_string()).unwrap_or_default();
            Err(LabError::failed(format!("{}: {why}", node["metadata"]["name"].as_str().unwrap_or_default())))
        }
        None => Ok(()),
    }
}

fn dns_ready(lab: &Lab) -> Result<()> {
    let deployment = json(lab, &["-n", "kube-system", "get", "deployment", "coredns"])?;
    let (wanted, found) = (&deployment["spec"]["replicas"], &deployment["status"]["availableReplicas"]);
    if wanted == found { Ok(()) } else { Err(LabError::failed(format!("{found} of {wanted} replicas are available"))) }
}

fn condition<'a>(node: &'a Value, kind: &str) -> Option<&'a Value> {
    node["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}
