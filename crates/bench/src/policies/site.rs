//! Two nodes with agents and a store, and three pods between which packets are measured: two on one node, one on the other.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ripstop_lab::{http, settings, space};
use serde_json::{Value, json};

use super::objects::{self, MEASURED};
use crate::plugin::{self, Plugin};
use crate::records::{New, Records};
use crate::scene::{Agent, Programs, Scene, checkpoint, wait_for};

/// The longest until policies are in force.
const LIMIT: Duration = Duration::from_secs(120);
/// Nobody listens at these ports: of one that policies keep nobody from a refusal comes.
const KEPT: u16 = 9000;
/// As long as nobody answers for this, a packet was dropped.
const DENIED: Duration = Duration::from_millis(200);

/// The nodes.
pub const NODES: [&str; 2] = ["n1", "n2"];

/// A pod that was added.
pub struct Pod {
    pub netns: PathBuf,
    pub ip: IpAddr,
}

/// All of it.
pub struct Site {
    pub records: Records,
    pub nodes: [PathBuf; 2],
    pub agents: Vec<Agent>,
    /// On the first node.
    pub client: Pod,
    pub near: Pod,
    /// On the second.
    pub far: Pod,
    pub scene: Scene,
}

impl Site {
    /// Nodes and pods with these objects in the store from the beginning, in force.
    pub fn build(name: &str, programs: &Programs, objects: impl IntoIterator<Item = New>) -> Result<Self> {
        checkpoint()?;
        let mut scene = Scene::new(&format!("policies-{name}"), programs)?;
        let (one, two) = scene.machines(NODES[0], NODES[1])?;
        let records = Records::connect(&scene.store()?)?;
        let pods = [("client", 0), ("near", 0), ("far", 1)];
        records.put_all(pods.map(|(pod, node)| objects::pod(pod, NODES[node], MEASURED)))?;
        records.put_all(objects)?;
        let spec = json!({ "ranges": ["10.244.0.0/16"], "wiring": "routed", "backend": { "type": "host-gw" } });
        let nodes = [one, two];
        let agents = vec![scene.agent(NODES[0], &nodes[0], &spec)?, scene.agent(NODES[1], &nodes[1], &spec)?];
        let mut added = Vec::new();
        for (pod, node) in pods {
            agents[node].wait_ready()?;
            added.push(add(&scene, pod, &nodes[node], &agents[node])?);
        }
        for node in &nodes {
            // Thousands of closed connections a second must not fill the table of any.
            let closed = ["close", "time_wait"].map(|state| format!("net/netfilter/nf_conntrack_tcp_timeout_{state}"));
            settings(node, &closed.each_ref().map(|name| (name.as_str(), "1")))?;
        }
        let [client, near, far] = <[Pod; 3]>::try_from(added).ok().context("three pods")?;
        let this = Self { records, nodes, agents, client, near, far, scene };
        this.wait_realised()?;
        Ok(this)
    }

    /// Ends a node's agent, has something done to the node, and starts another one.
    pub fn restart(&mut self, node: usize, meanwhile: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let mut agents = std::mem::take(&mut self.agents);
        drop(agents.remove(node));
        meanwhile(&self.nodes[node])?;
        agents.insert(node, self.scene.agent_again(NODES[node], &self.nodes[node])?);
        self.agents = agents;
        Ok(())
    }

    /// Waits until both agents say that all policies there are now are in the kernel; answers how long.
    pub fn wait_realised(&self) -> Result<Duration> {
        let count = self.records.list(ripstop_store::Kind::NetworkPolicies)?.len();
        let begun = Instant::now();
        for node in NODES {
            let socket = self.scene.run().join(node).join("agent.sock");
            wait_for("what policies ask", LIMIT, || is_realised(&socket, count))?;
        }
        Ok(begun.elapsed())
    }

    /// Whether the pods are kept from each other at a port that no policy names, as they are where some are about them.
    pub fn check(&self, are_kept: bool) -> Result<()> {
        for server in [&self.near, &self.far] {
            let to = SocketAddr::new(server.ip, KEPT);
            let answer = space::in_netns(&self.client.netns, || TcpStream::connect_timeout(&to, DENIED))?;
            let is_kept = answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::TimedOut);
            ensure!(
                is_kept == are_kept,
                "{to}: {answer:?}, and policies {}",
                if are_kept { "deny it" } else { "do not" }
            );
        }
        Ok(())
    }
}

/// Adds a pod to a node.
pub fn add(scene: &Scene, name: &str, node: &Path, agent: &Agent) -> Result<Pod> {
    let netns = scene.netns(name)?;
    let plugin = Plugin::ripstop(&scene.programs().plugin, &agent.cni_socket());
    let taken = space::in_netns(node, || plugin.call("ADD", name, Some(&netns)))??;
    Ok(Pod { netns, ip: plugin::address(&taken.printed)? })
}

fn is_realised(socket: &Path, count: usize) -> bool {
    let Ok(answer) = http::get(socket, "/v1/networkpolicies", LIMIT) else { return false };
    let rows: Vec<Value> = serde_json::from_str(&answer.text()).unwrap_or_default();
    rows.len() == count && rows.iter().all(|row| row["realised"] == true)
}
