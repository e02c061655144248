//! The act of Services, without Kubernetes: manifests applied, then backends replaced, the proxy switched and agents killed
//! while clients connect.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::acts::up;
use super::ledger::Ledger;
use super::load::{Load, Outcome};
use super::programs::{self, Server};
use crate::error::{Attempt as _, LabError, Result};
use crate::lab::Lab;
use crate::options::{Backend, Families, Options};
use crate::pods::PodSpec;
use crate::target::Target;

/// Pods that connect, of two nodes.
const CLIENTS: [&str; 2] = ["near", "far"];

/// What an agent is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// A Service whose backends are replaced and whose proxy is switched under load.
pub fn services(ledger: &mut Ledger) -> Result<()> {
    let agent_config = json!({"services": {"proxy": "nftables", "serviceCIDRs": ["10.96.0.0/16"]}});
    let options =
        Options { backend: Backend::Vxlan, families: Families::V4, agent_config, ..Options::named("demo-service") };
    let lab = up(ledger, options)?;
    for (client, node) in CLIENTS.into_iter().zip([1, 2]) {
        lab.pod_add(&PodSpec::new(client, node))?;
    }
    ripstop(&lab, 1, &["apply", "-f", "-"], SERVICE)?;
    let mut backends =
        (1..=3).map(|node| Backing::start(&lab, &format!("web-{node}"), node)).collect::<Result<Vec<_>>>()?;
    let address = SocketAddr::new(cluster_ip(&lab)?, 80);
    wait_for(&lab, &backends)?;
    for client in CLIENTS {
        let said = (0..24).map(|_| programs::curl(&lab, &Target::Pod(client.into()), address.ip()));
        let names: BTreeSet<String> = said.collect::<Result<_>>()?;
        let figure =
            format!("{address} answers as {}", names.iter().map(String::as_str).collect::<Vec<_>>().join(", "));
        ledger.check(&format!("a Service from pod {client}"), names.len() == backends.len(), figure);
    }

    let load = Load::start(&lab, &CLIENTS, address, 0)?;
    for node in 1..=3 {
        let name = format!("web-{}", node + 3);
        backends.push(Backing::start(&lab, &name, node)?);
        wait_for(&lab, &backends)?;
        let former = backends.remove(0);
        ripstop(&lab, node, &["delete", "pod", &former.name], "")?;
        wait_for(&lab, &backends)?;
        // Whoever it is answering is answered, as kubelet has it.
        thread::sleep(Duration::from_millis(300));
        former.end(&lab)?;
    }
    let outcome = load.stop();
    ledger.check("its backends replaced under load", outcome.held(), outcome.to_string());

    let load = Load::start(&lab, &CLIENTS, address, 4)?;
    let mut begun = Instant::now();
    for proxy in ["iptables", "nftables"] {
        for node in 1..=3 {
            ripstop(&lab, node, &["migrate", "proxy", proxy], "")?;
        }
        let took = begun.elapsed();
        ledger.tell(&format!("three nodes serve by {proxy} after {:.1} s", took.as_secs_f64()));
        thread::sleep(Duration::from_millis(500));
        begun = Instant::now();
    }
    told(ledger, "its proxy switched to iptables and back, live", load.stop());

    let load = Load::start(&lab, &CLIENTS, address, 4)?;
    for node in 1..=3 {
        lab.node(node).kill_agent(false)?;
    }
    thread::sleep(Duration::from_millis(500));
    lab.wait_ready(&[1, 2, 3], PATIENCE)?;
    thread::sleep(Duration::from_millis(500));
    told(ledger, "every agent killed (kill -9) under the same load", load.stop());
    drop(backends);
    lab.down()
}

fn told(ledger: &mut Ledger, what: &str, outcome: Outcome) {
    ledger.check(what, outcome.held(), outcome.to_string());
}

const SERVICE: &str = "\
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80}]
";

/// A pod with nginx that is one of the Service's backends.
struct Backing {
    name: String,
    server: Server,
}

impl Backing {
    /// An endpoint as soon as it is ready: the agent probes it.
    fn start(lab: &Lab, name: &str, node: u32) -> Result<Self> {
        lab.pod_add(&PodSpec::new(name, node))?;
        let server = programs::nginx(lab, name, name)?;
        let pod = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{app: web}}}}, spec: {{nodeName: n{node}, \
             containers: [{{name: nginx, readinessProbe: {{httpGet: {{port: 80}}, periodSeconds: 1}}}}]}}}}\n"
        );
        ripstop(lab, node, &["apply", "-f", "-"], &pod)?;
        Ok(Self { name: name.into(), server })
    }

    fn end(self, lab: &Lab) -> Result<()> {
        drop(self.server);
        lab.pod_del(&self.name)
    }
}

/// Waits until every node sends to these backends and no other.
fn wait_for(lab: &Lab, backends: &[Backing]) -> Result<()> {
    let wanted =
        backends.iter().map(|backend| Ok(lab.pod(&backend.name)?.ips()[0])).collect::<Result<BTreeSet<_>>>()?;
    let until = Instant::now() + PATIENCE;
    for node in 1..=3 {
        loop {
            let rows = lab.agent_json(node, "/v1/endpoints")?;
            let rows = rows.as_array().into_iter().flatten().filter(|row| row["realised"] == true);
            let there: BTreeSet<IpAddr> = rows.filter_map(|row| row["ip"].as_str()?.parse().ok()).collect();
            if there == wanted {
                break;
            }
            if Instant::now() > until {
                return Err(LabError::failed(format!("n{node} sends to {there:?} instead of {wanted:?}")));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}

fn cluster_ip(lab: &Lab) -> Result<IpAddr> {
    let until = Instant::now() + PATIENCE;
    loop {
        let rows = lab.agent_json(1, "/v1/services")?;
        if let Some(ip) = rows[0]["ips"][0].as_str().and_then(|ip| ip.parse().ok()) {
            return Ok(ip);
        }
        if Instant::now() > until {
            return Err(LabError::failed("the Service has no address"));
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// The command, for a node of the lab.
pub fn ripstop(lab: &Lab, node: u32, line: &[&str], input: &str) -> Result<()> {
    let doing = || format!("run ripstop {}", line.join(" "));
    let mut command = Command::new(&lab.programs().ripstop);
    command.args(["--lab", lab.layout().lab(), "--node", &node.to_string()]).args(line);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().attempt(doing)?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that ends before it has read says why.
        let _ = stdin.write_all(input.as_bytes());
    }
    let ended = child.wait_with_output().attempt(doing)?;
    if ended.status.success() {
        return Ok(());
    }
    Err(LabError::failed(format!("ripstop {}: {}", line.join(" "), String::from_utf8_lossy(&ended.stderr).trim())))
}
