//! A lab as a value: made, opened, asked, taken down.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use crate::cables;
use crate::clean::{self, LOCK_LIMIT, clean, give_back, need_root};
use crate::config;
use crate::error::{Attempt, LabError, Result};
use crate::http::{self, Answer};
use crate::init::{AgentCommand, Program, Role, Spec};
use crate::interrupt;
use crate::kubernetes::Cluster;
use crate::layout::{self, Layout};
use crate::lock::{Hold, Lock};
use crate::machine::{MACHINE_SPACES, furnish, start_init, tail};
use crate::options::Options;
use crate::places;
use crate::process::ProcessId;
use crate::programs::Programs;
use crate::space::{self, Place};
use crate::state::{Machine, State};
use crate::store;

/// How long an agent may take to answer one question.
const ASK_LIMIT: Duration = Duration::from_secs(30);
const READY_STEP: Duration = Duration::from_millis(10);

/// A lab. One that [`Lab::up`] made goes down when this value goes, unless it was [kept](Lab::keep).
#[derive(Debug)]
pub struct Lab {
    pub(crate) layout: Layout,
    pub(crate) programs: Programs,
    temporary: bool,
}

impl Lab {
    /// Makes a lab and returns when every node is ready and reaches every other, or refuses to for a reason that lasts
    /// (host-gw across a router). If it fails, what was made is removed again.
    pub fn up(options: &Options) -> Result<Self> {
        options.validate()?;
        need_root()?;
        let programs = Programs::find(options)?;
        let layout = Layout::new(&options.name);
        let lock = Lock::take(&layout.lock_file(), Hold::Exclusive, LOCK_LIMIT)?;
        if let Err(error) = make_room(&layout, options) {
            // If there is a lab, the lock's file is its own.
            if !layout.dir().exists() {
                give_back(lock)?;
            }
            return Err(error);
        }
        let mut lab = Self { layout, programs, temporary: false };
        match lab.build(options) {
            Ok(()) => {
                lab.temporary = true;
                Ok(lab)
            }
            Err(error) if options.keep_failed => Err(error),
            Err(error) => {
                let cleaned = clean(&lab.layout);
                give_back(lock)?;
                // A program that the same key stroke ended is no failure of its own.
                cleaned.and(Err(if interrupt::happened() { LabError::Interrupted } else { error }))
            }
        }
    }

    /// Opens a lab that is up.
    pub fn open(name: &str) -> Result<Self> {
        crate::options::validate_lab_name(name)?;
        let layout = Layout::new(name);
        let state = State::load(&layout)?;
        Ok(Self { layout, programs: Programs::recorded(&state.options)?, temporary: false })
    }

    /// Lets the lab stay when this value goes.
    #[must_use]
    pub fn keep(mut self) -> Self {
        self.temporary = false;
        self
    }

    /// Takes the lab down.
    pub fn down(mut self) -> Result<()> {
        self.temporary = false;
        clean::down(self.layout.lab())
    }

    /// Names and paths.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The programs the lab runs.
    #[must_use]
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// The record as it is now.
    pub fn state(&self) -> Result<State> {
        State::load(&self.layout)
    }

    /// Asks a node's agent for a path of its HTTP interface, `/v1/paths` for example.
    pub fn agent_get(&self, node: u32, path: &str) -> Result<Answer> {
        let socket = self.layout.agent_socket(node);
        http::get(&socket, path, ASK_LIMIT).map_err(|error| {
            LabError::Away(format!("the agent of {} does not answer: {error}", layout::node_name(node)))
        })
    }

    /// Asks a node's agent for a path and reads the answer as JSON.
    pub fn agent_json(&self, node: u32, path: &str) -> Result<serde_json::Value> {
        let answer = self.agent_get(node, path)?;
        if answer.status != 200 {
            return Err(LabError::failed(format!("n{node}{path}: status {}: {}", answer.status, answer.text().trim())));
        }
        serde_json::from_slice(&answer.body)
            .map_err(|error| LabError::failed(format!("n{node}{path}: not JSON: {error}")))
    }

    /// Whether a node's agent says it is ready, and what it said otherwise.
    pub fn agent_ready(&self, node: u32) -> Result<(), String> {
        match http::get(&self.layout.agent_socket(node), "/readyz", Duration::from_secs(2)) {
            Ok(answer) if answer.status == 200 => Ok(()),
            Ok(answer) => Err(answer.text().trim().to_owned()),
            Err(error) => Err(format!("the agent does not answer: {error}")),
        }
    }

    /// Waits until these nodes' agents are ready.
    pub fn wait_ready(&self, nodes: &[u32], limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        for node in nodes {
            while let Err(why) = self.agent_ready(*node) {
                interrupt::check()?;
                if Instant::now() >= deadline {
                    let log = tail(&self.layout.agent_log(*node), 20);
                    let name = layout::node_name(*node);
                    let seconds = limit.as_secs_f32();
                    return Err(LabError::Away(format!(
                        "{name} is not ready after {seconds} s: {why}\n{name}'s log:\n{log}"
                    )));
                }
                thread::sleep(READY_STEP);
            }
        }
        Ok(())
    }

    /// Waits until each of these nodes knows all others of `peers`, and has a path to each that is in the kernel or
    /// refused.
    pub fn wait_paths(&self, nodes: &[u32], peers: &[u32], limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        for node in nodes {
            while let Err(why) = self.has_paths(*node, peers) {
                interrupt::check()?;
                if Instant::now() >= deadline {
                    let (name, seconds) = (layout::node_name(*node), limit.as_secs_f32());
                    return Err(LabError::Away(format!("{name} does not reach its peers after {seconds} s: {why}")));
                }
                thread::sleep(READY_STEP);
            }
        }
        Ok(())
    }

    fn has_paths(&self, node: u32, peers: &[u32]) -> Result<(), String> {
        let paths = self.agent_json(node, "/v1/paths").map_err(|error| error.to_string())?;
        let rows = paths.as_array().map(Vec::as_slice).unwrap_or_default();
        let missing = peers.iter().filter(|peer| **peer != node).map(|peer| layout::node_name(*peer));
        if let Some(peer) = missing.into_iter().find(|peer| !rows.iter().any(|row| row["peer"] == peer.as_str())) {
            return Err(format!("it has not heard of {peer}"));
        }
        let state = |row: &serde_json::Value| row["state"].as_str().unwrap_or_default().to_owned();
        let settled = |row: &&serde_json::Value| state(row) == "realised" || state(row).starts_with("refused");
        match rows.iter().find(|row| !settled(row)) {
            Some(row) => Err(format!("{}, {}: {}", row["peer"], row["family"], state(row))),
            None => Ok(()),
        }
    }

    /// Adds a node and returns its number when it is ready and reaches the others it has heard of.
    pub fn node_add(&self) -> Result<u32> {
        let _lock = Lock::take(&self.layout.lock_file(), Hold::Exclusive, LOCK_LIMIT)?;
        let node = State::update(&self.layout, |state| {
            let node = state.nodes().map(|(number, _)| number).max().unwrap_or(0) + 1;
            if node > crate::options::MAX_NODES {
                return Err(LabError::usage(format!(
                    "node {node} is out of range: 1 to {}",
                    crate::options::MAX_NODES
                )));
            }
            state.machines.insert(layout::node_name(node), crate::state::Machine::node(node, &state.options));
            Ok(node)
        })?;
        self.switch_on(&layout::node_name(node))?;
        self.await_agents(&[node], &[])?;
        Ok(node)
    }

    /// Everything between an empty folder and ready nodes.
    fn build(&self, options: &Options) -> Result<()> {
        places::register(&self.layout)?;
        let mut state = State::planned(options);
        // Whoever opens the lab later runs the same programs.
        state.options.ripstop = Some(self.programs.ripstop.clone());
        state.options.plugin.clone_from(&self.programs.plugin);
        state.save(&self.layout)?;
        space::prepare_netns_dir()?;
        if let Some(cluster) = Cluster::of(&self.layout, &state) {
            cluster.prepare()?;
        }
        cables::lay_router(&self.layout, options)?;
        if options.agents || options.kubernetes.is_some() {
            store::start(&self.layout, &self.programs, options)?;
        }
        for name in state.machines.keys() {
            interrupt::check()?;
            self.switch_on(name)?;
        }
        let nodes: Vec<u32> = state.nodes().map(|(number, _)| number).collect();
        self.await_agents(&nodes, &nodes)?;
        if options.kubernetes.is_some() {
            Cluster::complete(self)?;
        }
        State::update(&self.layout, |state| {
            state.ready = true;
            Ok(())
        })
    }

    fn await_agents(&self, nodes: &[u32], peers: &[u32]) -> Result<()> {
        let options = self.state()?.options;
        if !options.agents {
            return Ok(());
        }
        self.wait_ready(nodes, options.ready_timeout)?;
        self.wait_paths(nodes, peers, options.ready_timeout)
    }

    /// Gives a machine its network, its files and its first process.
    pub(crate) fn switch_on(&self, name: &str) -> Result<()> {
        let state = self.state()?;
        let machine = state.machines.get(name).ok_or_else(|| LabError::failed(format!("no machine {name}")))?;
        furnish(&self.layout, &state, name)?;
        if machine.subnet > 0 {
            let path = self.layout.machine_dir(name).join("etc/config.yaml");
            let text = config::agent_config(&self.layout, &state.options, name, machine)?;
            std::fs::write(&path, text).attempt(|| format!("write {}", path.display()))?;
        }
        if let Some(cluster) = Cluster::of(&self.layout, &state) {
            cluster.furnish(name, machine)?;
        }
        cables::lay_machine(&self.layout, name, machine)?;
        let init = self.boot(&state, name, machine)?;
        State::update(&self.layout, |state| {
            if let Some(machine) = state.machines.get_mut(name) {
                machine.init = Some(init);
            }
            Ok(())
        })
    }

    /// How an agent of this lab is started.
    #[must_use]
    pub fn agent_command(&self, options: &Options) -> AgentCommand {
        let program = self.programs.ripstop.display().to_string();
        let fixed = [program, "agent".into(), "--config".into(), config::CONFIG_PATH.into()];
        AgentCommand {
            argv: fixed.into_iter().chain(options.agent_args.iter().cloned()).collect(),
            env: options.agent_env.clone(),
        }
    }

    /// How a node's forwarder is started. It waits until its agent tells it something.
    fn forwarder_command(&self) -> AgentCommand {
        let argv = vec![self.programs.ripstop.display().to_string(), "udp-forward".into()];
        AgentCommand { argv, env: std::collections::BTreeMap::new() }
    }

    fn boot(&self, state: &State, name: &str, machine: &Machine) -> Result<ProcessId> {
        let dir: PathBuf = self.layout.machine_dir(name);
        let log = dir.join("init.log");
        let mut programs = BTreeMap::new();
        if machine.subnet > 0 && state.options.agents {
            programs.insert(Program::Agent, self.agent_command(&state.options));
            programs.insert(Program::Forwarder, self.forwarder_command());
        }
        let cluster = Cluster::of(&self.layout, state);
        let host = cluster.as_ref().and_then(|cluster| cluster.host(name, machine));
        programs.extend(cluster.iter().flat_map(|cluster| cluster.programs(name, machine)));
        let lab = self.layout.lab().into();
        let spec = Spec { lab, name: name.into(), role: Role::Machine, dir, programs, host };
        let place = Place::host().in_netns(&self.layout.netns_path(name))?.with_new(MACHINE_SPACES);
        start_init(&self.programs.ripstop, &place, &spec, &log)
    }

    /// The first process of a machine.
    pub(crate) fn init_of(&self, name: &str) -> Result<ProcessId> {
        let state = self.state()?;
        let machine = state.machines.get(name).ok_or_else(|| LabError::usage(format!("no machine {name}")))?;
        machine.init.ok_or_else(|| LabError::failed(format!("{name} is switched off")))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.temporary
            && let Err(error) = clean::down(self.layout.lab())
        {
            let _ = io::Write::write_fmt(&mut io::stderr(), format_args!("lab {:?}: {error}\n", self.layout.lab()));
        }
    }
}

/// Refuses a lab that exists, or removes it if asked; removes what a crashed one left.
fn make_room(layout: &Layout, options: &Options) -> Result<()> {
    if layout.dir().exists() && !options.replace {
        let lab = layout.lab();
        return Err(LabError::failed(format!("lab {lab:?} exists: ripstop lab down --name {lab} removes it")));
    }
    let known = places::known_labs();
    let own = layout.prefix();
    for other in known.iter().filter(|other| *other != layout.lab()).map(|other| Layout::new(other)) {
        // A pod `b-n1` of lab `a` would bear the name of node 1 of lab `a-b`.
        let taken =
            State::load(&other).is_ok_and(|state| state.pods.keys().any(|pod| other.netns(pod).starts_with(&own)));
        if taken {
            return Err(LabError::failed(format!(
                "names of lab {:?} are taken by pods of lab {:?}",
                layout.lab(),
                other.lab()
            )));
        }
    }
    clean(layout)
}
