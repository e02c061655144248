//! What follows once a cluster's machines are on: images, controllers, ranges, CoreDNS; each step told with its seconds.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::client::{json, kubectl};
use super::network::gateway;
use super::node::{LIST, LISTS, RUNTIME, reference_list};
use super::{Cluster, addons};
use crate::cables;
use crate::error::{Attempt, LabError, Result};
use crate::init::{Act, Order};
use crate::interrupt;
use crate::lab::Lab;
use crate::layout::{CONTROL, ROUTER};
use crate::machine;
use crate::options::Cni;
use crate::process::ProcessId;
use crate::state::{Machine, State};
use crate::target::Target;

/// The wait between two questions to the API: each starts a program.
const STEP: Duration = Duration::from_millis(300);

/// Talk about what was done, with the seconds since the beginning.
struct Progress(Instant);

impl Progress {
    fn say(&self, what: &str) {
        // Nobody to talk to is no failure.
        let _ = writeln!(std::io::stderr(), "{:6.1} s  {what}", self.0.elapsed().as_secs_f64());
    }
}

impl Cluster<'_> {
    /// Waits until the cluster is ready, doing what is left meanwhile. All machines are on.
    pub fn complete(lab: &Lab) -> Result<()> {
        let state = lab.state()?;
        let Some(cluster) = Cluster::of(lab.layout(), &state) else { return Ok(()) };
        let progress = Progress(Instant::now());
        let deadline = Instant::now() + cluster.options.ready_timeout;
        thread::scope(|scope| {
            let images = &cluster.kubernetes.images;
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
                connect(lab, &state, deadline)?;
                progress.say("routes and lists of plugins are laid");
            }
            for import in imports {
                import.join().map_err(|_| LabError::failed("the import of images ended early"))??;
            }
            progress.say("images are there");
            let list = addons::list(cluster.options).to_string();
            kubectl(lab, &["create", "--validate=false", "-f", "-"], &list)?;
            wait("the nodes", deadline, || nodes_ready(lab, state.nodes().count()))?;
            progress.say("all nodes are ready");
            wait("CoreDNS", deadline, || dns_ready(lab))?;
            progress.say("CoreDNS is available");
            Ok(())
        })
    }
}

/// Asks again and again until it is so; the last reason is told where it does not come.
fn wait(what: &str, deadline: Instant, ask: impl Fn() -> Result<()>) -> Result<()> {
    loop {
        interrupt::check()?;
        let Err(why) = ask() else { return Ok(()) };
        if Instant::now() >= deadline {
            return Err(LabError::Away(format!("{what}: not ready in time: {why}")));
        }
        thread::sleep(STEP);
    }
}

/// Loads the images into a node's runtime as soon as that listens.
fn import(lab: &Lab, node: u32, machine: &Machine, images: &Path, deadline: Instant) -> Result<()> {
    let socket = inside(machine, RUNTIME)?;
    while !socket.exists() {
        interrupt::check()?;
        if Instant::now() >= deadline {
            return Err(LabError::Away(format!("containerd of n{node} does not listen")));
        }
        thread::sleep(Duration::from_millis(50));
    }
    let mut command = Command::new("ctr");
    command.args(["--address", RUNTIME, "--namespace", "k8s.io", "images", "import", "--digests"]).arg(images);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = lab.spawn(&Target::Node(node), &mut command)?.output().attempt(|| "wait for ctr".into())?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(LabError::failed(format!("the images of n{node} were not imported: {}", said.trim())))
}

/// A path as a machine sees it.
fn inside(machine: &Machine, path: &str) -> Result<PathBuf> {
    let ProcessId { pid, .. } = machine.init.ok_or_else(|| LabError::failed("a machine is switched off"))?;
    Ok(PathBuf::from(format!("/proc/{pid}/root")).join(path.trim_start_matches('/')))
}

/// The CNI project's plugins: each node's list, as soon as it has a range, and everybody's routes to it.
fn connect(lab: &Lab, state: &State, deadline: Instant) -> Result<()> {
    let mut ranges = BTreeMap::new();
    wait("ranges of pods", deadline, || {
        let nodes = json(lab, &["get", "nodes"])?;
        for (number, _) in state.nodes() {
            let name = crate::layout::node_name(number);
            let found = item(&nodes, &name).map(|node| texts(&node["spec"]["podCIDRs"])).unwrap_or_default();
            if found.is_empty() {
                return Err(LabError::failed(format!("{name} has none")));
            }
        }
        Ok(())
    })?;
    let nodes = json(lab, &["get", "nodes"])?;
    for (number, _) in state.nodes() {
        let name = crate::layout::node_name(number);
        let found = item(&nodes, &name).map(|node| texts(&node["spec"]["podCIDRs"])).unwrap_or_default();
        ranges.insert(name, found);
    }
    for (name, own) in &ranges {
        let machine = &state.machines[name];
        cables::settings(
            &lab.layout().netns_path(name),
            &[("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")],
        )?;
        let text = format!("{:#}\n", reference_list(own));
        let folder = inside(machine, LISTS)?;
        let (hidden, list) = (folder.join(".new"), folder.join(LIST));
        // The runtime looks at a file as soon as it has a name that counts.
        fs::write(&hidden, text)
            .and_then(|()| fs::rename(&hidden, &list))
            .attempt(|| format!("write {name}'s list"))?;
    }
    let machines = state.machines.iter().filter(|(_, machine)| machine.subnet > 0);
    for (from, machine) in machines.map(|(name, machine)| (name.as_str(), Some(machine))).chain([(ROUTER, None)]) {
        let others = ranges.iter().filter(|(name, _)| *name != from);
        let routes = others.flat_map(|(name, all)| all.iter().map(|range| (&state.machines[name], range)));
        let script: String = routes
            .filter_map(|(to, range)| {
                Some(format!("route replace {range} via {}\n", gateway(machine, to, is_v4(range))?))
            })
            .collect();
        cables::ip_batch(&lab.layout().netns_path(from), &script)?;
    }
    Ok(())
}

fn is_v4(range: &str) -> bool {
    range.split('/').next().and_then(|ip| ip.parse::<IpAddr>().ok()).is_some_and(|ip| ip.is_ipv4())
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

fn item<'a>(list: &'a Value, name: &str) -> Option<&'a Value> {
    list["items"].as_array()?.iter().find(|item| item["metadata"]["name"] == name)
}

fn condition<'a>(node: &'a Value, kind: &str) -> Option<&'a Value> {
    node["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}
