//! The record of a lab, `lab.json`: what was made, or was about to be.
//!
//! Invariants: a thing is written down before it is made and struck out after it is gone, so a crash at any moment leaves
//! nothing that the record does not name. Processes are the exception, since a pid is known only afterwards: they carry
//! the lab's name in their environment. The file is replaced as a whole, never edited.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Attempt, LabError, Result};
use crate::layout::{self, Layout};
use crate::lock::{Hold, Lock};
use crate::options::Options;
use crate::process::ProcessId;

/// The version of the record that this program writes and reads.
pub const VERSION: u32 = 1;

/// What a lab consists of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Version of the record.
    pub version: u32,
    /// The lab's name.
    pub lab: String,
    /// The host's boot: process identities of another boot mean nothing.
    pub boot: String,
    /// What the lab was asked to be.
    pub options: Options,
    /// Whether every node became ready.
    pub ready: bool,
    /// Nodes, the outside client and the control plane by name.
    pub machines: BTreeMap<String, Machine>,
    /// Pods by name.
    pub pods: BTreeMap<String, Pod>,
    /// The store's servers by member, counted from 0; the embedded store has one.
    pub store: BTreeMap<u16, ProcessId>,
    /// How many containers were ever made; part of the next one's id.
    pub containers: u64,
}

/// A node, the outside client or the control plane.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// A node's number; none for the outside client and the control plane.
    pub node: Option<u32>,
    /// Its subnet; 0 for the outside client.
    pub subnet: u32,
    /// Its IPv4 address.
    pub v4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub v6: Option<Ipv6Addr>,
    /// Its first process; none while it is switched off.
    pub init: Option<ProcessId>,
}

impl Machine {
    /// The number of its cable: a node's own, 0 for the outside client, the one behind all nodes' for the control plane.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.node.unwrap_or(if self.subnet == 0 { 0 } else { crate::options::MAX_NODES + 1 })
    }

    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6))
    }
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Its Kubernetes namespace.
    pub namespace: String,
    /// Its name, unique in the lab whatever the namespace.
    pub name: String,
    /// Its node's number.
    pub node: u32,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The path of its network namespace.
    pub netns: String,
    /// The container id the plugin was told.
    pub container: String,
    /// The process that holds its namespaces; none until it runs.
    pub sandbox: Option<ProcessId>,
    /// Arguments for the plugin's capabilities (`ips`, `mac`, `bandwidth`, …).
    pub capability_args: BTreeMap<String, serde_json::Value>,
    /// The result of CNI ADD as the plugin printed it; none until it did, or without agents.
    pub result: Option<serde_json::Value>,
    /// What the result says about the pod's interface.
    pub attachment: Option<Attachment>,
}

/// A pod's interface, from the result of CNI ADD.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Attachment {
    /// Its addresses, in the plugin's order.
    pub ips: Vec<IpAddr>,
    /// Its MAC.
    pub mac: Option<String>,
    /// Its MTU.
    pub mtu: Option<u32>,
    /// Its interface in the pod.
    pub interface: String,
    /// The network it belongs to.
    pub network: String,
}

impl State {
    /// The record of a lab that is about to be made: machines with their addresses, no process yet.
    #[must_use]
    pub fn planned(options: &Options) -> Self {
        let nodes = (1..=options.nodes).map(|node| (layout::node_name(node), Machine::node(node, options)));
        let (v4, v6) = layout::outside_addresses();
        let outside = Machine {
            node: None,
            subnet: 0,
            v4: options.families.v4().then_some(v4),
            v6: options.families.v6().then_some(v6),
            init: None,
        };
        let (v4, v6) = layout::control_addresses();
        let control = Machine {
            subnet: 1,
            v4: options.families.v4().then_some(v4),
            v6: options.families.v6().then_some(v6),
            ..outside.clone()
        };
        let control = options.kubernetes.as_ref().map(|_| (layout::CONTROL.to_owned(), control));
        Self {
            version: VERSION,
            lab: options.name.clone(),
            boot: boot_id(),
            options: options.clone(),
            ready: false,
            machines: nodes.chain([(layout::OUTSIDE.to_owned(), outside)]).chain(control).collect(),
            pods: BTreeMap::new(),
            store: BTreeMap::new(),
            containers: 0,
        }
    }

    /// Reads the record. A lab that is not there is a wrong request, since its name was given.
    pub fn load(layout: &Layout) -> Result<Self> {
        let path = layout.state_file();
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let lab = layout.lab();
                return Err(LabError::failed(format!("there is no lab {lab:?}: ripstop lab up --name {lab} makes it")));
            }
            other => other.attempt(|| format!("read {}", path.display()))?,
        };
        let state: Self = serde_json::from_str(&text)
            .map_err(|error| LabError::failed(format!("{} is not a lab's record: {error}", path.display())))?;
        if state.version != VERSION {
            let found = state.version;
            return Err(LabError::failed(format!("{}: version {found}, this program reads {VERSION}", path.display())));
        }
        Ok(state)
    }

    /// Writes the record for the first time, or anew as a whole.
    pub fn save(&self, layout: &Layout) -> Result<()> {
        let path = layout.state_file();
        let new = path.with_extension("json.new");
        let doing = || format!("write {}", path.display());
        let text = serde_json::to_vec_pretty(self).map_err(std::io::Error::other).attempt(doing)?;
        fs::write(&new, text).attempt(doing)?;
        fs::rename(&new, &path).attempt(doing)
    }

    /// Changes the record while nobody else does, and returns what the change returned.
    pub fn update<T>(layout: &Layout, change: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let path = layout.state_file().with_extension("lock");
        if !layout.dir().exists() {
            // Taking the lock would make the folder of a lab that is not there.
            Self::load(layout)?;
        }
        let _lock = Lock::take(&path, Hold::Exclusive, Duration::from_secs(30))?;
        let mut state = Self::load(layout)?;
        let answer = change(&mut state)?;
        state.save(layout)?;
        Ok(answer)
    }

    /// A node by number.
    pub fn node(&self, node: u32) -> Result<&Machine> {
        self.machines.get(&layout::node_name(node)).ok_or_else(|| {
            let all: Vec<String> = self.nodes().map(|(number, _)| number.to_string()).collect();
            LabError::usage(format!("lab {:?} has no node {node}; it has {}", self.lab, all.join(", ")))
        })
    }

    /// A pod by name.
    pub fn pod(&self, name: &str) -> Result<&Pod> {
        self.pods.get(name).ok_or_else(|| {
            let all: Vec<&str> = self.pods.keys().map(String::as_str).collect();
            let known = if all.is_empty() { "it has none".to_owned() } else { format!("it has {}", all.join(", ")) };
            LabError::usage(format!("lab {:?} has no pod {name:?}; {known}", self.lab))
        })
    }

    /// The nodes by number.
    pub fn nodes(&self) -> impl Iterator<Item = (u32, &Machine)> {
        let mut nodes: Vec<_> = self.machines.values().filter_map(|machine| Some((machine.node?, machine))).collect();
        nodes.sort_by_key(|(number, _)| *number);
        nodes.into_iter()
    }
}

impl Machine {
    /// A node that was not started yet.
    #[must_use]
    pub fn node(node: u32, options: &Options) -> Self {
        let subnet = layout::subnet_of(node, options.subnets);
        Self {
            node: Some(node),
            subnet,
            v4: options.families.v4().then(|| layout::node_v4(node, subnet)),
            v6: options.families.v6().then(|| layout::node_v6(node, subnet)),
            init: None,
        }
    }
}

/// The host's boot, from the kernel.
#[must_use]
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Families;

    #[test]
    fn a_planned_lab_names_every_machine_before_it_is_made() {
        let options = Options { nodes: 3, subnets: 2, families: Families::Dual, ..Options::named("x") };
        let state = State::planned(&options);
        assert_eq!(state.machines.keys().collect::<Vec<_>>(), ["n1", "n2", "n3", "outside"]);
        let addresses: Vec<String> = state.machines["n2"].addresses().map(|ip| ip.to_string()).collect();
        assert_eq!(addresses, ["172.30.2.12", "fd00:30:2::12"]);
        assert_eq!(
            state.nodes().map(|(number, machine)| (number, machine.subnet)).collect::<Vec<_>>(),
            [(1, 1), (2, 2), (3, 1)]
        );
        assert!(!state.ready);
    }

    #[test]
    fn an_ipv6_lab_has_no_ipv4() {
        let state = State::planned(&Options { families: Families::V6, ..Options::named("x") });
        assert!(state.machines.values().all(|machine| machine.v4.is_none() && machine.v6.is_some()));
    }

    #[test]
    fn the_record_reads_as_it_was_written() {
        let state = State::planned(&Options::named("x"));
        let text = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::from_str::<State>(&text).unwrap(), state);
    }

    #[test]
    fn unknown_things_are_named_with_what_there_is() {
        let state = State::planned(&Options::named("x"));
        assert_eq!(state.node(4).unwrap_err().to_string(), r#"lab "x" has no node 4; it has 1, 2, 3"#);
        assert_eq!(state.pod("web").unwrap_err().to_string(), r#"lab "x" has no pod "web"; it has none"#);
    }
}
