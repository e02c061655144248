//! The first process of a machine, and the process that holds a pod's namespaces.
//!
//! Both are this program again, started by the lab under the hidden command [`COMMAND`] with one JSON argument, a
//! [`Spec`]. A machine's init is process 1 of a pid namespace: when it is killed, the kernel ends everything in the
//! machine. It mounts what the machine needs, starts its programs, and starts them again when they die.
//!
//! Not here: anything that needs the network; the lab made that before.

mod groups;
mod mounts;
mod supervisor;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

use crate::error::{Attempt, LabError, Result};

/// The hidden command that a program which mounts the lab passes to [`node_init`].
pub const COMMAND: &str = "lab-node-init";

/// What the init says on its standard output when everything is in place.
pub(crate) const READY: &str = "ready";

/// What an init is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// The lab.
    pub lab: String,
    /// The machine's or pod's name, which becomes its host name.
    pub name: String,
    /// Machine or pod.
    pub role: Role,
    /// The machine's folder; a pod has none.
    pub dir: PathBuf,
    /// What to keep running from the start.
    pub programs: BTreeMap<Program, AgentCommand>,
    /// What a machine that runs containers has of its own besides; none: it is no such machine.
    #[serde(default)]
    pub host: Option<ContainerHost>,
}

/// What a machine has of its own where a container runtime runs on it: control groups, `/etc`, `/opt`, `/var`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerHost {
    /// The name of its control group in every hierarchy.
    pub group: String,
    /// The folder for what is too large for memory and cannot lie on another overlay: `containerd` and `kubelet` in it
    /// become folders of `/var/lib`.
    pub disk: PathBuf,
    /// What files under `/proc/sys` say there whatever the host has, so that nobody there writes them.
    pub sysctls: BTreeMap<String, String>,
}

/// What a machine's init keeps running.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Program {
    /// The agent.
    #[default]
    Agent,
    /// The forwarder of the backend `udp`.
    Forwarder,
    /// The container runtime.
    Containerd,
    /// Kubernetes' agent.
    Kubelet,
    /// Kubernetes' own proxy for Services.
    KubeProxy,
    /// Kubernetes' API.
    KubeApiserver,
    /// Kubernetes' controllers.
    KubeControllerManager,
    /// What gives pods a node.
    KubeScheduler,
}

impl Program {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Agent,
        Self::Forwarder,
        Self::Containerd,
        Self::Kubelet,
        Self::KubeProxy,
        Self::KubeApiserver,
        Self::KubeControllerManager,
        Self::KubeScheduler,
    ];

    /// The word for people, and the name of the log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Forwarder => "forwarder",
            Self::Containerd => "containerd",
            Self::Kubelet => "kubelet",
            Self::KubeProxy => "kube-proxy",
            Self::KubeApiserver => "kube-apiserver",
            Self::KubeControllerManager => "kube-controller-manager",
            Self::KubeScheduler => "kube-scheduler",
        }
    }
}

/// What an init holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// A node or the outside client.
    Machine,
    /// A pod.
    Pod,
}

/// A program to keep running.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentCommand {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// More environment.
    pub env: BTreeMap<String, String>,
}

/// What can be asked of a machine's init about a program: one JSON object a line, answered by one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The program.
    pub program: Program,
    /// What is to be done.
    pub act: Act,
}

/// What can be done with a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Act {
    /// Only report.
    Report,
    /// Send it a signal; `hold`: do not start it again when it dies.
    Signal {
        /// The signal's number.
        signal: i32,
        /// Whether it stays away.
        hold: bool,
    },
    /// Start it again if it was held.
    Release,
    /// From the next start on, run this; at once if nothing was to run so far.
    Replace {
        /// What to run.
        command: AgentCommand,
    },
}

/// What a machine's init knows about a program.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Report {
    /// Its pid inside the machine; none while it does not run.
    pub pid: Option<i32>,
    /// How often it was started.
    pub starts: u64,
    /// Whether it is not to be started again.
    pub held: bool,
    /// How it ended last.
    pub last_end: Option<String>,
    /// Why the order failed.
    pub fault: Option<String>,
}

/// Runs an init until it is killed. `args` are the arguments behind [`COMMAND`].
pub fn node_init(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    match start(args) {
        Ok(never) => match never {},
        Err(error) => {
            // The lab reads this line where it waits for READY.
            let _ = writeln!(std::io::stdout(), "{error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn start(args: impl IntoIterator<Item = OsString>) -> Result<std::convert::Infallible> {
    let spec = parse(args)?;
    match spec.role {
        Role::Machine => mounts::machine(&spec)?,
        Role::Pod => {
            adopt()?;
            mounts::pod()?;
        }
    }
    rustix::system::sethostname(spec.name.as_bytes()).attempt(|| "set the host name".into())?;
    match spec.role {
        Role::Machine => supervisor::run(spec),
        Role::Pod => {
            announce()?;
            loop {
                // SAFETY: pause(2) has no arguments; a signal without a handler ends the process.
                unsafe { libc::pause() };
            }
        }
    }
}

/// Goes on in a child and ends the parent, so that the machine's init becomes the parent. As a child of the lab, this process
/// would have to be reaped by the host's process 1, and until that happened its machine could not end.
fn adopt() -> Result<()> {
    // SAFETY: this process has one thread, so the child is as whole as its parent.
    match unsafe { libc::fork() } {
        -1 => Err(std::io::Error::last_os_error()).attempt(|| "fork".into()),
        0 => Ok(()),
        // SAFETY: ends the process at once; nothing is buffered yet.
        _ => unsafe { libc::_exit(0) },
    }
}

fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Spec> {
    let mut args = args.into_iter();
    let text =
        args.next().ok_or_else(|| LabError::usage(format!("{COMMAND} is for the lab itself: it wants a spec")))?;
    serde_json::from_slice(text.as_encoded_bytes()).map_err(|error| LabError::usage(format!("{COMMAND}: {error}")))
}

/// Tells the lab that everything is in place, and lets go of its pipe.
fn announce() -> Result<()> {
    let doing = || "say that all is ready".into();
    let mut out = std::io::stdout();
    writeln!(out, "{READY}").and_then(|()| out.flush()).attempt(doing)?;
    let null = File::options().read(true).write(true).open("/dev/null").attempt(doing)?;
    rustix::stdio::dup2_stdout(null.as_fd()).attempt(doing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_reads_as_it_was_written() {
        let spec = Spec {
            lab: "x".into(),
            name: "n1".into(),
            role: Role::Machine,
            dir: "/run/ripstop-lab/x/n1".into(),
            programs: BTreeMap::from([(
                Program::Agent,
                AgentCommand { argv: vec!["ripstop".into(), "agent".into()], env: BTreeMap::new() },
            )]),
            host: None,
        };
        let text = serde_json::to_string(&spec).unwrap();
        assert_eq!(parse([text.into()]).unwrap(), spec);
    }

    #[test]
    fn a_missing_or_broken_spec_is_refused() {
        assert!(parse([]).unwrap_err().to_string().contains("it wants a spec"));
        assert_eq!(parse(["{".into()]).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn orders_are_one_line_of_json() {
        let order = Order { program: Program::Forwarder, act: Act::Signal { signal: 9, hold: true } };
        assert_eq!(
            serde_json::to_string(&order).unwrap(),
            r#"{"program":"forwarder","act":{"signal":{"signal":9,"hold":true}}}"#
        );
        let order = Order { program: Program::Agent, act: Act::Report };
        assert_eq!(serde_json::to_string(&order).unwrap(), r#"{"program":"agent","act":"report"}"#);
    }
}
