//! What a user may say about a run.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value};

/// Where the plugin runs: the namespace that it takes for the host's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// One that the suite makes, with an uplink `eth0` to another; new for each case, unless there is a set-up command.
    Own,
    /// One that is there: a path. All cases use it, one after the other.
    Path(PathBuf),
    /// This machine's own.
    Machine,
}

/// A run of the suite.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// The plugin.
    pub plugin: PathBuf,
    /// A network configuration: one plugin's, or a list, of which the entry with the plugin's file name is taken.
    pub conf: PathBuf,
    /// More folders of `CNI_PATH`, searched before the plugin's own.
    pub path: Vec<PathBuf>,
    /// `CNI_ARGS` of every call.
    pub args: String,
    /// Capability arguments; each goes where the configuration declares the capability.
    pub cap_args: Map<String, Value>,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// More environment for the plugin.
    pub env: Vec<(String, String)>,
    /// The most time one call may take.
    pub timeout: Duration,
    /// Ids, or groups (what stands before the dot); all where empty.
    pub only: Vec<String>,
    /// Where the plugin runs.
    pub host: Host,
    /// A shell command that runs in the host's namespace before the first case and ends when all is ready; what it leaves
    /// in the background is ended after the last.
    pub setup: Option<String>,
    /// A shell command that runs there after the last case.
    pub teardown: Option<String>,
    /// How many cases run at a time, where each has a host of its own.
    pub jobs: usize,
}

impl Options {
    /// A run of everything as it is by default.
    #[must_use]
    pub fn new(plugin: PathBuf, conf: PathBuf) -> Self {
        Self {
            plugin,
            conf,
            path: Vec::new(),
            args: String::new(),
            cap_args: Map::new(),
            ifname: "eth0".into(),
            env: Vec::new(),
            timeout: Duration::from_secs(10),
            only: Vec::new(),
            host: Host::Own,
            setup: None,
            teardown: None,
            jobs: 2,
        }
    }
}
