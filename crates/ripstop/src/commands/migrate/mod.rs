//! `ripstop migrate`: a network of a running cluster goes another way, and Services are served by another proxy, without losing a packet.

mod flannel;
mod kube_proxy;
mod metallb;
pub mod proxy;

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use clap::{ArgGroup, Args, Subcommand};
use serde_json::{Value, json};

use crate::ask::Agent;
use crate::duration;
use crate::failure::Failure;
use crate::print::table::Table;
use crate::print::text::field;
use crate::print::{Format, Out, talk};
use crate::target::Target;

/// Between two looks while a migration is waited for.
const LOOK: Duration = Duration::from_millis(100);

/// The columns of a migration, in the order people read them.
const COLUMNS: &[&str] = &["network", "node", "from", "to", "state", "reason"];

/// Change a running cluster without losing a packet
#[derive(Debug, Args)]
#[command(subcommand_value_name = "WHAT")]
pub struct Migrate {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Backend(Backend),
    Proxy(proxy::Proxy),
    From(From),
    To(To),
}

/// Move from another network or proxy to Ripstop, with pods running
#[derive(Debug, Args)]
#[command(subcommand_value_name = "WHAT")]
struct From {
    #[command(subcommand)]
    what: Origin,
}

#[derive(Debug, Subcommand)]
enum Origin {
    Flannel(flannel::From),
    KubeProxy(kube_proxy::From),
    Metallb(metallb::From),
}

/// Move from Ripstop to another proxy, with pods running
#[derive(Debug, Args)]
#[command(subcommand_value_name = "WHAT")]
struct To {
    #[command(subcommand)]
    what: Goal,
}

#[derive(Debug, Subcommand)]
enum Goal {
    KubeProxy(kube_proxy::To),
}

/// Move a network to another backend, peer by peer
///
/// Every node first receives both ways; then each moves its own packets, peer by peer; then the old way is taken down.
/// Pods send the shorter packets of both backends meanwhile. The command waits until it is done. When it is interrupted,
/// the nodes go on: --status tells how far they are, --stop lets no further peer be moved, --back returns.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("action").required(true).args(["backend", "status", "stop", "go_on", "back", "skip"])))]
struct Backend {
    /// The backend that the network shall have: auto, host-gw, vxlan, ipip, ipip-cross-subnet, bgp, or udp, for which each node runs a
    /// forwarder
    #[arg(value_name = "BACKEND", value_parser = ["auto", "host-gw", "vxlan", "udp", "ipip", "ipip-cross-subnet", "bgp"])]
    backend: Option<String>,
    /// The network
    #[arg(long, value_name = "NAME", default_value = "default")]
    network: String,
    /// List how far each node is with the migrations under way, and change nothing
    #[arg(long)]
    status: bool,
    /// Move no further peer; what was moved stays
    #[arg(long)]
    stop: bool,
    /// Go on after --stop
    #[arg(long = "continue")]
    go_on: bool,
    /// Return to the backend before
    #[arg(long)]
    back: bool,
    /// Do not wait for a node that does not answer; it joins the new backend when it is back
    #[arg(long, value_name = "NODE")]
    skip: Option<String>,
    /// The longest wait: a number with a unit of ms, s, m or h; 0s does not wait
    #[arg(long, value_name = "TIME", value_parser = duration::parse, default_value = "5m")]
    timeout: Duration,
    /// Form of what --status lists: {network, node, from, to, state, reason}
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    target: Target,
}

impl Migrate {
    /// The agent that was picked; none where a whole cluster is asked.
    pub fn target(&self) -> Option<&Target> {
        match &self.what {
            What::Backend(backend) => Some(&backend.target),
            What::Proxy(proxy) => Some(&proxy.target),
            What::From(From { what: Origin::KubeProxy(from) }) => Some(&from.target),
            What::From(From { what: Origin::Flannel(_) | Origin::Metallb(_) }) => None,
            What::To(To { what: Goal::KubeProxy(to) }) => Some(&to.target),
        }
    }

    /// Asks for it, and waits.
    ///
    /// # Errors
    /// Where the agent or the cluster does not answer or refuses, and where it is not done in time.
    pub fn run(&self, agent: &Agent, out: &mut Out) -> Result<(), Failure> {
        match &self.what {
            What::Backend(backend) => backend.run(agent, out),
            What::Proxy(proxy) => proxy.run(agent, out),
            What::From(From { what: Origin::Flannel(from) }) => from.run(out),
            What::From(From { what: Origin::Metallb(from) }) => from.run(out),
            What::From(From { what: Origin::KubeProxy(from) }) => from.run(agent, out),
            What::To(To { what: Goal::KubeProxy(to) }) => to.run(agent, out),
        }
    }
}

impl Backend {
    fn run(&self, agent: &Agent, out: &mut Out) -> Result<(), Failure> {
        let Some(action) = self.action() else {
            let rows: Value = agent.get("/v1/migrations")?;
            if out.data(self.output, &rows)? {
                return Ok(());
            }
            let rows = rows.as_array().map_or(&[][..], Vec::as_slice);
            if rows.is_empty() {
                talk("no network is migrating");
                return Ok(());
            }
            return out.text(&Table::of(COLUMNS, rows).render(true, out.colour()));
        };
        let request = json!({"network": self.network, "action": action});
        let answer = agent.post("/v1/migrate", "application/json", request.to_string().as_bytes())?;
        let backend = field(&answer, "backend");
        if self.stop {
            return out.line(&format!("network/{} stopped on its way to {backend}", self.network));
        }
        if answer.get("migrating") == Some(&Value::Bool(false)) {
            return out.line(&format!("network/{} has backend {backend} already", self.network));
        }
        if self.timeout.is_zero() {
            return out.line(&format!("network/{} migrates to {backend}", self.network));
        }
        self.wait(agent, &backend)?;
        out.line(&format!("network/{} has backend {backend}", self.network))
    }

    /// What is asked of the agent; `None` where nothing is to change.
    fn action(&self) -> Option<Value> {
        if let Some(backend) = &self.backend {
            return Some(json!({"to": backend}));
        }
        if let Some(node) = &self.skip {
            return Some(json!({"skip": node}));
        }
        [(self.stop, "stop"), (self.go_on, "continue"), (self.back, "back")]
            .into_iter()
            .find_map(|(asked, word)| asked.then(|| json!(word)))
    }

    /// Waits until the network has the backend, and tells of every node that comes further.
    fn wait(&self, agent: &Agent, backend: &str) -> Result<(), Failure> {
        let begin = Instant::now();
        let mut told: BTreeMap<String, String> = BTreeMap::new();
        loop {
            let rows: Vec<Value> = agent.get::<Vec<Value>>("/v1/migrations")?;
            let rows: Vec<Value> = rows.into_iter().filter(|row| field(row, "network") == self.network).collect();
            let networks: Vec<Value> = agent.get("/v1/networks")?;
            let has_backend =
                networks.iter().any(|row| field(row, "name") == self.network && field(row, "backend") == backend);
            if rows.is_empty() && has_backend {
                return Ok(());
            }
            for row in &rows {
                let reason =
                    row.get("reason").and_then(Value::as_str).map(|why| format!(": {why}")).unwrap_or_default();
                let state = format!("{}{reason}", field(row, "state"));
                let node = field(row, "node");
                if told.get(&node) != Some(&state) {
                    talk(&format!("{:>5.1} s  {node} {state}", begin.elapsed().as_secs_f32()));
                    told.insert(node, state);
                }
            }
            if begin.elapsed() >= self.timeout {
                let left = told.iter().filter(|(_, state)| *state != "done" && !state.starts_with("skipped"));
                let left: Vec<String> = left.map(|(node, state)| format!("{node} {state}")).collect();
                return Err(Failure::Failed(format!(
                    "network/{} did not come to {backend} within {:?}, and goes on: {}",
                    self.network,
                    self.timeout,
                    left.join("; ")
                )));
            }
            thread::sleep(LOOK);
        }
    }
}
