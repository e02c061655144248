//! `ripstop conformance`: black-box suites for what speaks a public protocol. Nothing of Ripstop takes part in judging; its own rules for
//! Services and policies may be what is judged.

mod cluster;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use cluster::Cluster;
use ripstop_conformance::policy;
use ripstop_conformance::policy::manifests::Template;
use ripstop_conformance::services::{self, KubeProxy, Mode, Oracle, Stop};
use ripstop_conformance::{Error, Host, Options, Outcome, Row};
use ripstop_planes::{Compiler, IptablesBackend};
use serde_json::{Map, Value};

use crate::duration;
use crate::failure::{Failure, INTERRUPTED};
use crate::print::table::Table;
use crate::print::{Out, talk};

/// Judge a program by the specification of its protocol
///
/// Every case cites the sentence it checks. What the program does not claim to have is `unclaimed` and no failure. Exit
/// codes: 0 all passed, 1 one failed, 2 usage, 4 not permitted, 130 interrupted; everything is cleaned up in any case.
#[derive(Debug, Args)]
pub struct Conformance {
    #[command(subcommand)]
    suite: Suite,
}

/// The suites.
#[derive(Debug, Subcommand)]
enum Suite {
    Cni(Box<Cni>),
    Services(Services),
    Policy(Policy),
    #[command(hide = true)]
    Pod(Pod),
}

/// Judge a CNI plugin, any that makes an interface
///
/// The suite plays the container runtime. The plugin runs in a network namespace that stands for the host, with an uplink
/// eth0, new for each case; /var/lib/cni is empty there. As with cnitool, CNI_PATH, CNI_ARGS, CAP_ARGS and CNI_IFNAME are
/// taken from the environment where their option is not given.
#[derive(Debug, Args)]
struct Cni {
    /// The plugin's program
    #[arg(long, value_name = "PATH", required_unless_present = "list")]
    plugin: Option<PathBuf>,
    /// A network configuration (.conf) or a list (.conflist), of which the plugin's entry is taken
    #[arg(long, value_name = "FILE", required_unless_present = "list")]
    conf: Option<PathBuf>,
    /// Print the cases' ids, one a line, and nothing else
    #[arg(long)]
    list: bool,
    /// Run this case only, or this group (what stands before the dot); may be repeated
    #[arg(long, value_name = "ID")]
    only: Vec<String>,
    /// Form of the report
    #[arg(short, long, value_enum, default_value = "table")]
    output: Form,
    /// A folder with plugins it delegates to; may be repeated, and its own folder is searched too
    #[arg(long, value_name = "DIR")]
    path: Vec<PathBuf>,
    /// Capability arguments, a JSON object; each goes where the configuration declares the capability
    #[arg(long, value_name = "JSON", value_parser = object)]
    cap_args: Option<Map<String, Value>>,
    /// CNI_ARGS of every call
    #[arg(long, value_name = "K=V;...")]
    args: Option<String>,
    /// CNI_IFNAME
    #[arg(long, value_name = "NAME")]
    ifname: Option<String>,
    /// One more variable for the plugin; may be repeated
    #[arg(long, value_name = "K=V", value_parser = pair)]
    env: Vec<(String, String)>,
    /// The most time one call may take; then it is killed and its case fails
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration::parse)]
    timeout: Duration,
    /// How many cases run at a time, where each has a host of its own
    #[arg(long, value_name = "N", default_value_t = 2)]
    jobs: usize,
    /// Run the plugin in this network namespace, for all cases; GC cases remove what is in the configuration's network
    #[arg(long, value_name = "PATH", conflicts_with = "host_netns")]
    netns: Option<PathBuf>,
    /// Run the plugin on this machine itself, for all cases
    #[arg(long)]
    host_netns: bool,
    /// A shell command to run on the host before the first case, such as one that starts an agent in the background and
    /// waits for it; all cases then share the host
    #[arg(long, value_name = "CMD")]
    setup: Option<String>,
    /// A shell command to run on the host after the last case
    #[arg(long, value_name = "CMD")]
    teardown: Option<String>,
}

/// Judge what carries packets to Services
///
/// Each case is a few Services and EndpointSlices, packets, and what a correct proxy does with them. What a data plane cannot
/// show, or this machine lacks for it, is skipped, with the reason. All but the oracle carry real packets, as root, in network
/// namespaces that the suite makes and removes.
#[derive(Debug, Args)]
struct Services {
    /// Print the cases' ids, one a line, and nothing else
    #[arg(long)]
    list: bool,
    /// Run this case only, or this group (what stands before a slash); may be repeated
    #[arg(long, value_name = "ID")]
    only: Vec<String>,
    /// What is judged
    #[arg(long, value_enum, default_value = "oracle")]
    data_plane: DataPlane,
    /// The backend of iptables, for iptables; without it the one that this machine uses
    #[arg(long, value_enum, value_name = "BACKEND")]
    iptables_backend: Option<Backend>,
    /// The folder of Kubernetes' own programs, for kube-proxy; without it where `make k8s` puts them
    #[arg(long, value_name = "DIR")]
    kubernetes: Option<PathBuf>,
    /// Form of the report
    #[arg(short, long, value_enum, default_value = "table")]
    output: Form,
}

/// What carries packets to Services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DataPlane {
    /// The model that others are compared with: it must agree with every case
    Oracle,
    /// Ripstop's rules in tables of nftables
    Nftables,
    /// Ripstop's rules in chains of iptables
    Iptables,
    /// Ripstop's virtual servers of IPVS, and the tables before them
    Ipvs,
    /// Kubernetes' own proxy, in its nftables mode, at an API server of its own
    KubeProxyNftables,
    /// The same in its iptables mode
    KubeProxyIptables,
}

/// Judge what holds packets to policies
///
/// The cases are those of Kubernetes' own suite for NetworkPolicy, of the suite of ClusterNetworkPolicy, and those that Cyclonus generates, by
/// their names. A packet that is denied must vanish: a refusal is a failure. All but the oracle carry real packets: --data-plane as root, in
/// network namespaces that the suite makes and removes; --kubeconfig in a cluster, whatever network it has, in namespaces
/// ripstop-conformance-*, which go afterwards. There pods ask each other straight, by TCP and UDP; ClusterNetworkPolicies are skipped.
#[derive(Debug, Args)]
struct Policy {
    /// Print the cases' ids, one a line, and nothing else
    #[arg(long)]
    list: bool,
    /// Run this case only, or this group (what stands before a slash); may be repeated
    #[arg(long, value_name = "ID")]
    only: Vec<String>,
    /// What is judged
    #[arg(long, value_enum, default_value = "oracle")]
    data_plane: PolicyPlane,
    /// Judge the cluster of this kubeconfig, as one who may make namespaces there
    #[arg(long, value_name = "FILE", conflicts_with_all = ["data_plane", "jobs"])]
    kubeconfig: Option<PathBuf>,
    /// The image of pods in that cluster: it has this program as `ripstop`
    #[arg(long, value_name = "IMAGE", default_value = IMAGE, requires = "kubeconfig")]
    image: String,
    /// How many cases run at a time, each on nodes of its own
    #[arg(long, value_name = "N", default_value_t = 4)]
    jobs: usize,
    /// Form of the report
    #[arg(short, long, value_enum, default_value = "table")]
    output: Form,
}

/// The product's own image.
const IMAGE: &str = concat!("ripstop.io/ripstop:", env!("CARGO_PKG_VERSION"));

/// What runs in a pod of a cluster that is judged
#[derive(Debug, Args)]
struct Pod {
    /// What it shall ask
    #[arg(value_name = "FILE")]
    asks: PathBuf,
}

/// What holds packets to policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PolicyPlane {
    /// The model that others are compared with: it must agree with every case
    Oracle,
    /// Ripstop's rules in tables of nftables
    Nftables,
}

/// Which of the kernel's two machineries iptables writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Backend {
    /// x_tables
    Legacy,
    /// Tables of nftables
    Nft,
}

/// The form of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// For people
    Table,
    /// An array of {id, cite, result, reason, ms}
    Json,
}

impl Conformance {
    /// Runs the suite and prints its report.
    ///
    /// # Errors
    /// Where there is no report, or standard output cannot be written.
    pub fn run(self, out: &mut Out) -> Result<ExitCode, Failure> {
        match self.suite {
            Suite::Cni(command) => command.run(out),
            Suite::Services(command) => command.run(out),
            Suite::Policy(command) => command.run(out),
            Suite::Pod(Pod { asks }) => {
                let ended = policy::pod::serve(&asks, &mut io::stdout());
                ended.map(|()| ExitCode::SUCCESS).map_err(|error| Failure::system("cannot go on", &error))
            }
        }
    }
}

impl Policy {
    fn run(self, out: &mut Out) -> Result<ExitCode, Failure> {
        if self.list {
            let cases = policy::cases().map_err(Failure::Failed)?;
            let lines: String = cases.iter().map(|case| format!("{}\n", case.id)).collect();
            return out.text(&lines).map(|()| ExitCode::SUCCESS);
        }
        if self.kubeconfig.is_some() {
            return self.judge_cluster(out);
        }
        if self.data_plane != PolicyPlane::Oracle && !rustix::process::geteuid().is_root() {
            return Err(Failure::NotPermitted("network namespaces need root; run it as root".into()));
        }
        ripstop_conformance::watch_signals();
        let make = || -> Result<Box<dyn policy::DataPlane>, Stop> {
            Ok(match self.data_plane {
                PolicyPlane::Oracle => Box::new(policy::Oracle::default()),
                PolicyPlane::Nftables => Box::new(ripstop_planes::policy_scene()?),
            })
        };
        let how = policy::Run { only: &self.only, jobs: self.jobs, every: 1 };
        print(policy::run(&make, how, &tell), self.output, out)
    }

    /// The same in a cluster, one case after the other, as all are in one set of pods.
    fn judge_cluster(self, out: &mut Out) -> Result<ExitCode, Failure> {
        let command = ["ripstop", "conformance", "pod"].map(String::from).into();
        let template = Template { image: self.image, command };
        ripstop_conformance::watch_signals();
        // Asked for once: there is one job.
        let cluster = Mutex::new(Some(Cluster::open(self.kubeconfig, template)?));
        let make = || -> Result<Box<dyn policy::DataPlane>, Stop> {
            let taken = cluster.lock().unwrap_or_else(PoisonError::into_inner).take();
            taken.map(|cluster| Box::new(cluster) as _).ok_or_else(|| Stop::Fail("there is one cluster only".into()))
        };
        let how = policy::Run { only: &self.only, jobs: 1, every: 1 };
        print(policy::run(&make, how, &tell), self.output, out)
    }
}

impl Services {
    fn run(self, out: &mut Out) -> Result<ExitCode, Failure> {
        if self.list {
            let cases = services::cases().map_err(Failure::Failed)?;
            let lines: String = cases.iter().map(|case| format!("{}\n", case.id)).collect();
            return out.text(&lines).map(|()| ExitCode::SUCCESS);
        }
        ripstop_conformance::watch_signals();
        if self.iptables_backend.is_some() && self.data_plane != DataPlane::Iptables {
            return Err(Failure::Usage("--iptables-backend is for --data-plane iptables alone".into()));
        }
        let mut plane = match self.plane() {
            Ok(plane) => plane,
            Err(Stop::Interrupted) => return print(Err(Error::Interrupted), self.output, out),
            Err(Stop::Skip(why)) if !rustix::process::geteuid().is_root() => {
                return Err(Failure::NotPermitted(format!("{why}; run it as root")));
            }
            Err(Stop::Skip(why) | Stop::Fail(why) | Stop::Differs(why) | Stop::Unclaimed(why)) => {
                return Err(Failure::Failed(why));
            }
        };
        print(services::run(&mut *plane, &self.only, &tell), self.output, out)
    }

    /// What is judged.
    fn plane(&self) -> Result<Box<dyn services::DataPlane>, Stop> {
        let compiler = match (self.data_plane, self.iptables_backend) {
            (DataPlane::Oracle, _) => return Ok(Box::new(Oracle::default())),
            (DataPlane::KubeProxyNftables, _) => return Ok(Box::new(self.kube_proxy(Mode::Nftables)?)),
            (DataPlane::KubeProxyIptables, _) => return Ok(Box::new(self.kube_proxy(Mode::Iptables)?)),
            (DataPlane::Nftables, _) => Compiler::Nftables,
            (DataPlane::Ipvs, _) => Compiler::Ipvs,
            (DataPlane::Iptables, Some(Backend::Legacy)) => Compiler::Iptables(IptablesBackend::Legacy),
            (DataPlane::Iptables, Some(Backend::Nft)) => Compiler::Iptables(IptablesBackend::Nft),
            (DataPlane::Iptables, None) => Compiler::Iptables(ripstop_planes::backend_here()?),
        };
        Ok(Box::new(ripstop_planes::scene(compiler)?))
    }

    fn kube_proxy(&self, mode: Mode) -> Result<KubeProxy, Stop> {
        let folder = match &self.kubernetes {
            Some(folder) => folder.clone(),
            None => ripstop_lab::kubernetes_programs().map_err(|error| Stop::Fail(error.to_string()))?,
        };
        KubeProxy::new(mode, &folder)
    }
}

impl Cni {
    fn run(self, out: &mut Out) -> Result<ExitCode, Failure> {
        if self.list {
            let lines: String = ripstop_conformance::cases().map(|(id, _)| format!("{id}\n")).collect();
            return out.text(&lines).map(|()| ExitCode::SUCCESS);
        }
        let form = self.output;
        let options = self.options()?;
        ripstop_conformance::watch_signals();
        print(ripstop_conformance::run(&options, &tell), form, out)
    }

    fn options(self) -> Result<Options, Failure> {
        let mut options = Options::new(self.plugin.unwrap_or_default(), self.conf.unwrap_or_default());
        options.path = self.path;
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        if let Some(path) = variable("CNI_PATH") {
            options.path.extend(std::env::split_paths(&path));
        }
        options.args = self.args.or_else(|| variable("CNI_ARGS")).unwrap_or_default();
        options.ifname = self.ifname.or_else(|| variable("CNI_IFNAME")).unwrap_or(options.ifname);
        options.cap_args = match (self.cap_args, variable("CAP_ARGS")) {
            (Some(given), _) => given,
            (None, Some(text)) => object(&text).map_err(|why| Failure::Usage(format!("CAP_ARGS: {why}")))?,
            (None, None) => Map::new(),
        };
        options.env = self.env;
        options.timeout = self.timeout;
        options.only = self.only;
        options.jobs = self.jobs;
        options.setup = self.setup;
        options.teardown = self.teardown;
        options.host = match self.netns {
            Some(path) => Host::Path(path),
            None if self.host_netns => Host::Machine,
            None => Host::Own,
        };
        Ok(options)
    }
}

/// Tells of a failure as it comes.
fn tell(row: &Row) {
    if row.outcome == Outcome::Fail {
        talk(&format!("fail {}: {}", row.id, row.reason.as_deref().unwrap_or_default()));
    }
}

/// Prints the report of a run.
fn print(rows: Result<Vec<Row>, Error>, form: Form, out: &mut Out) -> Result<ExitCode, Failure> {
    let rows = match rows {
        Ok(rows) => rows,
        Err(Error::Usage(why)) => return Err(Failure::Usage(why)),
        Err(Error::NotPermitted(why)) => return Err(Failure::NotPermitted(why)),
        Err(Error::Failed(why)) => return Err(Failure::Failed(why)),
        Err(Error::Interrupted) => {
            talk("interrupted");
            return Ok(ExitCode::from(INTERRUPTED));
        }
    };
    match form {
        Form::Json => out.json(&Value::Array(rows.iter().map(Row::to_json).collect()))?,
        Form::Table => out.text(&report(&rows, out.colour()))?,
    }
    talk(&summary(&rows));
    let failed = rows.iter().any(|row| row.outcome == Outcome::Fail);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// One line a case; what is not a pass has its reason and, if it is a failure, its sentence.
fn report(rows: &[Row], colour: bool) -> String {
    let lines = rows.iter().map(|row| {
        let why = match (&row.reason, row.outcome) {
            (Some(reason), Outcome::Fail) => format!("{reason} ({})", row.cite),
            (Some(reason), _) => reason.clone(),
            (None, _) => String::new(),
        };
        let ms = row.took.as_millis().to_string();
        vec![row.outcome.to_string(), row.id.to_owned(), ms, why.replace('\n', " ")]
    });
    let mut table = Table::new(["result", "id", "ms", "why"]);
    lines.for_each(|line| table.push(line));
    table.render(true, colour)
}

fn summary(rows: &[Row]) -> String {
    let mut counts: BTreeMap<Outcome, usize> = BTreeMap::new();
    for row in rows {
        *counts.entry(row.outcome).or_default() += 1;
    }
    let count = |outcome| counts.get(&outcome).copied().unwrap_or_default();
    format!(
        "{} cases: {} passed, {} failed, {} differ, {} skipped, {} unclaimed",
        rows.len(),
        count(Outcome::Pass),
        count(Outcome::Fail),
        count(Outcome::Differs),
        count(Outcome::Skip),
        count(Outcome::Unclaimed)
    )
}

fn object(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|error| format!("found {text:?}, accepted is a JSON object: {error}"))
}

fn pair(text: &str) -> Result<(String, String), String> {
    let split = text.split_once('=').filter(|(key, _)| !key.is_empty());
    split.map(|(key, value)| (key.to_owned(), value.to_owned())).ok_or_else(|| "a variable is KEY=VALUE".to_owned())
}
