//! The product between the pods of a cluster, installed as its users do it: an image on each node, one manifest applied.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::Value;

use super::Cluster;
use super::client::kubectl;
use super::network::Network;
use crate::cables;
use crate::config;
use crate::error::{Attempt, LabError, Result};
use crate::images;
use crate::lab::Lab;
use crate::layout::{CONTROL, node_name};
use crate::options::Cni;
use crate::state::State;

/// Where the product's pods are.
const NAMESPACE: &str = "ripstop";

impl Cluster<'_> {
    /// The archives of images that nodes get.
    pub(super) fn archives(&self, lab: &Lab) -> Result<Vec<PathBuf>> {
        let mut archives = vec![self.kubernetes.images.clone()];
        if self.kubernetes.cni != Cni::Reference {
            // Beside Flannel it waits to take over.
            let own = lab.layout().disk().join("ripstop.tar");
            images::product(&own, &lab.programs().ripstop, lab.programs().plugin()?)?;
            archives.push(own);
        }
        Ok(archives)
    }

    /// Installs the product as its users do: one manifest, applied.
    pub(super) fn install(&self, lab: &Lab) -> Result<()> {
        let config = self.dir().join("config.yaml");
        fs::write(&config, config::cluster_config(lab.layout(), self.options)?)
            .attempt(|| format!("write {}", config.display()))?;
        let mut command = Command::new(&lab.programs().ripstop);
        command.args(["install", "--cluster", "--dry-run", "--image", images::RIPSTOP, "--config"]).arg(&config);
        if let Some(proxy) = self.kubernetes.proxy.of_product() {
            let server = Network(self.options.families).server();
            let address = server.trim_start_matches("https://");
            command.args(["--proxy", proxy, "--api-server", address]);
        }
        let output = command.stdin(Stdio::null()).output().attempt(|| "run ripstop install".into())?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(LabError::failed(format!("ripstop install: {}", said.trim())));
        }
        let manifest = String::from_utf8_lossy(&output.stdout);
        kubectl(lab, &["apply", "--server-side", "-f", "-"], &manifest).map(drop)
    }

    /// Waits until each node's agent is ready and reaches the others.
    pub(super) fn await_agents(&self, lab: &Lab, state: &State, deadline: Instant) -> Result<()> {
        let nodes: Vec<u32> = state.nodes().map(|(number, _)| number).collect();
        let ready = lab.wait_ready(&nodes, deadline.saturating_duration_since(Instant::now()));
        // What an agent that does not start has said is in its pod's status.
        ready.map_err(|error| match kubectl(lab, &["-n", NAMESPACE, "describe", "pods"], "") {
            Ok(pods) => LabError::Away(format!("{error}\n{}", pods.trim())),
            Err(_) => error,
        })?;
        lab.wait_paths(&nodes, &nodes, deadline.saturating_duration_since(Instant::now()))?;
        lead_control(lab, state)
    }
}

/// The control plane's machine has no agent, and its API speaks to pods all the same: it reaches those of each node of its
/// subnet by that node. The router knows no pods, lest it carry what a tunnel should.
fn lead_control(lab: &Lab, state: &State) -> Result<()> {
    let Some(control) = state.machines.get(CONTROL) else { return Ok(()) };
    let rows = lab.agent_json(1, "/v1/nodes")?;
    let mut script = String::new();
    for (number, machine) in state.nodes().filter(|(_, machine)| machine.subnet == control.subnet) {
        let row = rows.as_array().and_then(|rows| rows.iter().find(|row| row["name"] == node_name(number)));
        let ranges = row.and_then(|row| row["ranges"].as_array()).into_iter().flatten().filter_map(Value::as_str);
        for range in ranges {
            let via = machine.addresses().find(|ip| ip.is_ipv6() == range.contains(':'));
            script.extend(via.map(|ip| format!("route replace {range} via {ip}\n")));
        }
    }
    cables::ip_batch(&lab.layout().netns_path(CONTROL), &script)
}
