//! `ripstop lab …`: the command line. The program mounts [`LabCommand`] and calls [`run`].
//!
//! Standard output is data, standard error is talk.

mod act;
mod print;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use crate::options::{Backend, Cni, Families, Options, Pool, Proxy, RangeMode, StoreKind, Wiring};
use crate::target::Target;

/// A cluster on this machine: nodes are namespaces, agents are real processes
#[derive(Debug, Clone, Args)]
pub struct LabCommand {
    /// The lab's name
    #[arg(long, global = true, default_value = "default", value_name = "L")]
    pub name: String,
    /// What to do
    #[command(subcommand)]
    pub action: LabAction,
}

/// What to do with a lab.
#[derive(Debug, Clone, Subcommand)]
#[non_exhaustive]
pub enum LabAction {
    /// Make a lab; returns when every node is ready and reaches the others
    Up(UpArgs),
    /// Remove everything of a lab, also after a crash; succeeds if there is nothing
    Down,
    /// Nodes, agents and pods
    Status(OutputArgs),
    /// Make, remove and list pods
    #[command(subcommand)]
    Pod(PodAction),
    /// Run a command in a pod, on a node, or on the client outside
    Exec(ExecArgs),
    /// Send counted UDP packets between pods
    Probe(ProbeArgs),
    /// Break something on purpose, and undo it
    #[command(subcommand)]
    Fault(FaultAction),
    /// Write packets of a target to a pcapng file
    Capture(CaptureArgs),
    /// A real Kubernetes on the lab's machines
    #[command(subcommand)]
    K8s(K8sAction),
    /// Show what the product does, with real programs, in under a minute and a half; makes labs of its own
    Demo,
}

/// What kind of lab.
#[derive(Debug, Clone, Args)]
pub struct UpArgs {
    /// How many nodes
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub nodes: u32,
    /// How many subnets the nodes are spread over
    #[arg(long, default_value_t = 1, value_name = "S")]
    pub subnets: u32,
    /// How packets between nodes travel
    #[arg(long, value_enum, default_value = "vxlan")]
    pub backend: Backend,
    /// How pods are attached to their node
    #[arg(long, value_enum, default_value = "routed")]
    pub wiring: Wiring,
    /// Address families of nodes and pods
    #[arg(long, value_enum, default_value = "4")]
    pub family: Families,
    /// Where the cluster's records are kept
    #[arg(long, value_enum, default_value = "embedded")]
    pub store: StoreKind,
    /// Where a node's pod range comes from
    #[arg(long, value_enum, default_value = "lease")]
    pub range_mode: RangeMode,
    /// Length of blocks in range mode blocks: 20 to 32 is IPv4's, 116 to 128 IPv6's; may be given for each
    #[arg(long = "block-length", value_name = "LEN")]
    pub block_lengths: Vec<u8>,
    /// A further pool in range mode blocks, for pods of these namespaces with these labels; may be given more than once
    #[arg(long = "pool", value_name = "RANGE[,namespace=NS][,label=K=V]")]
    pub pools: Vec<Pool>,
    /// Bare machines: no agents, no store
    #[arg(long)]
    pub no_agents: bool,
    /// The ripstop program [default: this one]
    #[arg(long, value_name = "PATH")]
    pub ripstop: Option<PathBuf>,
    /// The CNI plugin [default: ripstop-cni beside the program]
    #[arg(long, value_name = "PATH")]
    pub plugin: Option<PathBuf>,
    /// How long the nodes may take to become ready
    #[arg(long, default_value = "30s", value_parser = duration, value_name = "TIME")]
    pub ready_timeout: Duration,
    /// Remove a lab of this name first
    #[arg(long)]
    pub replace: bool,
    /// Leave a lab that does not come up for a look
    #[arg(long)]
    pub keep_failed: bool,
}

/// What to do with a Kubernetes.
#[derive(Debug, Clone, Subcommand)]
pub enum K8sAction {
    /// Make a lab with a Kubernetes on it; returns when every node is ready and CoreDNS answers
    Up(K8sUpArgs),
    /// Remove everything of the lab, also after a crash; succeeds if there is nothing
    Down,
    /// Write the product's image as an OCI archive, for nodes without a registry: ctr -n k8s.io images import FILE
    Image {
        /// The archive to write
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Run kubectl against it, as its administrator
    Kubectl {
        /// kubectl's arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARG")]
        args: Vec<OsString>,
    },
}

/// What kind of Kubernetes.
#[derive(Debug, Clone, Args)]
pub struct K8sUpArgs {
    /// How many nodes
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub nodes: u32,
    /// How many subnets the nodes are spread over
    #[arg(long, default_value_t = 1, value_name = "S")]
    pub subnets: u32,
    /// What connects the pods
    #[arg(long, value_enum, default_value = "ripstop")]
    pub cni: Cni,
    /// How packets between nodes travel, with --cni ripstop
    #[arg(long, value_enum, default_value = "vxlan")]
    pub backend: Backend,
    /// How pods are attached to their node, with --cni ripstop
    #[arg(long, value_enum, default_value = "routed")]
    pub wiring: Wiring,
    /// What serves Services; nftables and iptables are the product's, with --cni ripstop
    #[arg(long, value_enum, default_value = "kube-proxy")]
    pub proxy: Proxy,
    /// Address families of nodes, pods and Services
    #[arg(long, value_enum, default_value = "4")]
    pub family: Families,
    /// The ripstop program [default: this one]
    #[arg(long, value_name = "PATH")]
    pub ripstop: Option<PathBuf>,
    /// The CNI plugin [default: ripstop-cni beside the program]
    #[arg(long, value_name = "PATH")]
    pub plugin: Option<PathBuf>,
    /// How long the cluster may take to become ready
    #[arg(long, default_value = "3m", value_parser = duration, value_name = "TIME")]
    pub ready_timeout: Duration,
    /// Remove a lab of this name first
    #[arg(long)]
    pub replace: bool,
    /// Leave a lab that does not come up for a look
    #[arg(long)]
    pub keep_failed: bool,
}

/// What to do with pods.
#[derive(Debug, Clone, Subcommand)]
pub enum PodAction {
    /// Make a pod through the CNI plugin; prints its addresses
    Add(PodAddArgs),
    /// Remove a pod through the CNI plugin
    Del {
        /// The pod
        pod: String,
    },
    /// List the pods
    List(OutputArgs),
}

/// What kind of pod.
#[derive(Debug, Clone, Args)]
pub struct PodAddArgs {
    /// The pod's name
    pub pod: String,
    /// The node's number, counted from 1
    #[arg(long, value_name = "N")]
    pub node: u32,
    /// The Kubernetes namespace
    #[arg(long, default_value = "default", value_name = "NS")]
    pub namespace: String,
    /// A label; may be given more than once
    #[arg(long = "label", value_parser = label, value_name = "K=V")]
    pub labels: Vec<(String, String)>,
}

/// What to run where.
#[derive(Debug, Clone, Args)]
pub struct ExecArgs {
    /// POD, node/N, outside or control
    #[arg(value_parser = target)]
    pub target: Target,
    /// The command
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// How to probe.
#[derive(Debug, Clone, Args)]
pub struct ProbeArgs {
    /// Probes a second and pair
    #[arg(long, default_value_t = 1000, value_name = "HZ")]
    pub rate: u32,
    /// `all`, or pairs `A:B` separated by commas
    #[arg(long, default_value = "all")]
    pub pairs: String,
    /// How long; until interrupted if absent
    #[arg(long = "for", value_parser = duration, value_name = "TIME")]
    pub time: Option<Duration>,
    /// Only this family
    #[arg(long, value_enum)]
    pub family: Option<Families>,
    /// Output form
    #[command(flatten)]
    pub output: OutputArgs,
}

/// What to break.
#[derive(Debug, Clone, Subcommand)]
pub enum FaultAction {
    /// Unplug a cable: node/N or outside
    Cut {
        /// node/N or outside
        #[arg(value_parser = target)]
        target: Target,
    },
    /// Kill with SIGKILL: the agent of node/N (or agent/N), forwarder/N, or the store. The first two are started again at once
    Kill {
        /// node/N, agent/N, forwarder/N or store
        #[arg(value_parser = target)]
        target: Target,
        /// Do not start it again until it is healed
        #[arg(long)]
        hold: bool,
    },
    /// Stop where it is: the agent of node/N (or agent/N), forwarder/N, or the store
    Pause {
        /// node/N, agent/N, forwarder/N or store
        #[arg(value_parser = target)]
        target: Target,
    },
    /// Cut the power of node/N: its processes and pods are gone
    Off {
        /// node/N
        #[arg(value_parser = target)]
        target: Target,
    },
    /// Undo all of these
    Heal {
        /// node/N, agent/N, forwarder/N, outside or store
        #[arg(value_parser = target)]
        target: Target,
    },
}

/// What to capture.
#[derive(Debug, Clone, Args)]
pub struct CaptureArgs {
    /// POD, node/N, outside or router
    #[arg(value_parser = target)]
    pub target: Target,
    /// The pcapng file to write
    #[arg(long, value_name = "F.pcapng")]
    pub out: PathBuf,
    /// How long; until interrupted if absent
    #[arg(long = "for", value_parser = duration, value_name = "TIME")]
    pub time: Option<Duration>,
    /// Only this interface
    #[arg(long, value_name = "NAME")]
    pub interface: Option<String>,
}

/// How to print.
#[derive(Debug, Clone, Copy, Args)]
pub struct OutputArgs {
    /// Output form
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: OutputForm,
}

/// A form of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutputForm {
    /// For people
    Table,
    /// For programs
    Json,
}

/// Does what was asked. A failure is told on standard error and becomes the exit code: 1 failed, 2 usage, 3 agent or store
/// away, 4 not permitted, 130 interrupted.
pub fn run(command: LabCommand) -> anyhow::Result<ExitCode> {
    match act::act(command) {
        Ok(code) => Ok(code),
        Err(error) => {
            writeln!(std::io::stderr(), "error: {error}")?;
            Ok(ExitCode::from(error.exit_code()))
        }
    }
}

impl UpArgs {
    /// The options of a lab of this name.
    #[must_use]
    pub fn options(self, name: String) -> Options {
        Options {
            name,
            nodes: self.nodes,
            subnets: self.subnets,
            backend: self.backend,
            wiring: self.wiring,
            families: self.family,
            store: self.store,
            range_mode: self.range_mode,
            block_lengths: self.block_lengths,
            pools: self.pools,
            agents: !self.no_agents,
            ripstop: self.ripstop,
            plugin: self.plugin,
            ready_timeout: self.ready_timeout,
            replace: self.replace,
            keep_failed: self.keep_failed,
            ..Options::default()
        }
    }
}

impl K8sUpArgs {
    /// The options of a lab of this name, without its Kubernetes.
    #[must_use]
    pub fn options(self, name: String) -> Options {
        Options {
            name,
            nodes: self.nodes,
            subnets: self.subnets,
            backend: self.backend,
            wiring: self.wiring,
            families: self.family,
            ripstop: self.ripstop,
            plugin: self.plugin,
            ready_timeout: self.ready_timeout,
            replace: self.replace,
            keep_failed: self.keep_failed,
            progress: true,
            ..Options::default()
        }
    }
}

fn target(text: &str) -> Result<Target, String> {
    text.parse().map_err(|error: crate::LabError| error.to_string())
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or("a label is KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// A time with its unit: `500ms`, `10s`, `2m`, `1h`; a bare number is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("{unit:?} is not a unit of time: ms, s, m, h")),
    };
    let seconds: f64 = number.parse().map_err(|_| format!("{text:?} is not a time: 500ms, 10s, 2m, 1h"))?;
    Duration::try_from_secs_f64(seconds * scale).map_err(|error| error.to_string())
}

fn labels(pairs: Vec<(String, String)>) -> BTreeMap<String, String> {
    pairs.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        lab: LabCommand,
    }

    fn parse(line: &str) -> LabCommand {
        Program::try_parse_from(["lab"].into_iter().chain(line.split(' '))).unwrap().lab
    }

    #[test]
    fn the_stable_commands_parse() {
        let up = parse(
            "up --name x --nodes 2 --subnets 2 --backend host-gw --wiring bridge --family dual --store embedded --range-mode pod-cidr",
        );
        let LabAction::Up(args) = up.action else { panic!("not up") };
        let options = args.options(up.name);
        assert_eq!((options.name.as_str(), options.nodes, options.subnets), ("x", 2, 2));
        assert_eq!((options.backend, options.wiring), (Backend::HostGw, Wiring::Bridge));
        assert_eq!((options.families, options.range_mode), (Families::Dual, RangeMode::PodCidr));
        let up = parse(
            "up --name y --range-mode blocks --block-length 28 --block-length 124 --family dual --pool 10.60.0.0/20,namespace=a",
        );
        let LabAction::Up(args) = up.action else { panic!("not up") };
        let options = args.options(up.name);
        assert!(options.validate().is_ok());
        assert_eq!((options.block_lengths, options.pools[0].namespaces[0].as_str()), (vec![28, 124], "a"));
        for backend in ["vxlan", "host-gw", "udp", "ipip", "ipip-cross-subnet", "bgp", "auto"] {
            parse(&format!("up --backend {backend} --family 6 --store etcd --range-mode blocks"));
        }
        for line in [
            "down --name x",
            "status",
            "--name x pod list -o json",
            "pod del web",
            "probe --rate 1000 --pairs all --for 10s -o json",
            "fault cut node/1",
            "fault kill agent/2 --hold",
            "fault kill forwarder/1",
            "fault pause store",
            "fault heal node/1",
            "capture web --out /tmp/x.pcapng",
        ] {
            parse(line);
        }
    }

    #[test]
    fn a_pod_has_namespace_and_labels_and_the_name_is_the_labs() {
        let command = parse("pod add web --node 2 --namespace shop --label app=web --label tier=a=b --name x");
        let LabAction::Pod(PodAction::Add(args)) = command.action else { panic!("not pod add") };
        assert_eq!((command.name.as_str(), args.pod.as_str(), args.node), ("x", "web", 2));
        assert_eq!(args.namespace, "shop");
        assert_eq!(labels(args.labels), BTreeMap::from([("app".into(), "web".into()), ("tier".into(), "a=b".into())]));
    }

    #[test]
    fn everything_behind_the_target_is_the_command() {
        for line in ["exec node/1 -- ip -6 --name x", "exec node/1 ip -6 --name x"] {
            let LabAction::Exec(args) = parse(line).action else { panic!("not exec") };
            assert_eq!(args.target, Target::Node(1));
            assert_eq!(args.command, ["ip", "-6", "--name", "x"]);
        }
        assert!(Program::try_parse_from(["lab", "exec", "web"]).is_err());
        assert!(Program::try_parse_from(["lab", "exec", "node/0", "true"]).is_err());
    }

    #[test]
    fn times_have_units() {
        assert_eq!(duration("500ms").unwrap(), Duration::from_millis(500));
        assert_eq!(duration("1.5m").unwrap(), Duration::from_secs(90));
        assert_eq!(duration("7").unwrap(), Duration::from_secs(7));
        for text in ["", "s", "1y", "-1s", "1e99s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
