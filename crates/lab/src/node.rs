//! A node's switches: its cable, its power, its agent.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;

use crate::cables;
use crate::clean::LOCK_LIMIT;
use crate::error::{LabError, Result};
use crate::init::{Act, AgentCommand, Order, Program, Report};
use crate::lab::Lab;
use crate::layout::{OUTSIDE, node_name};
use crate::lock::{Hold, Lock};
use crate::machine::{self, END_LIMIT};
use crate::process::{self, ProcessId};
use crate::space;
use crate::state::{Machine, State};
use crate::store;
use crate::target::Target;

/// A node of a lab.
#[derive(Debug, Clone, Copy)]
pub struct Node<'a> {
    lab: &'a Lab,
    number: u32,
}

impl Lab {
    /// A node by number, counted from 1. It is looked up when something is asked of it.
    #[must_use]
    pub fn node(&self, number: u32) -> Node<'_> {
        Node { lab: self, number }
    }

    /// Unplugs the outside client, or plugs it in again.
    pub fn plug_outside(&self, plugged: bool) -> Result<()> {
        cables::plug(&self.layout, OUTSIDE, plugged)
    }

    /// Sends the store's server, or all members of etcd, a signal.
    pub fn store_signal(&self, signal: Signal) -> Result<()> {
        let members: Vec<u16> = self.store()?.into_keys().collect();
        members.into_iter().try_for_each(|member| self.store_member_signal(member, signal))
    }

    /// Sends one member of etcd, counted from 0, a signal.
    pub fn store_member_signal(&self, member: u16, signal: Signal) -> Result<()> {
        let servers = self.store()?;
        let server =
            servers.get(&member).ok_or_else(|| LabError::usage(format!("the store has no member {member}")))?;
        if !server.signal(signal) {
            return Err(LabError::failed("the store does not run"));
        }
        if signal == Signal::KILL {
            server.kill(END_LIMIT);
        }
        Ok(())
    }

    /// Lets paused servers of the store go on, and starts those that have ended again on their files.
    pub fn store_heal(&self) -> Result<()> {
        for server in self.store()?.values() {
            server.signal(Signal::CONT);
        }
        store::start(&self.layout, &self.programs, &self.state()?.options)
    }

    /// The store's servers by member; they may have ended.
    fn store(&self) -> Result<BTreeMap<u16, ProcessId>> {
        let servers = self.state()?.store;
        if servers.is_empty() { Err(LabError::usage("this lab has no store")) } else { Ok(servers) }
    }
}

impl Node<'_> {
    /// Its number.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Its name, `n1` and so on.
    #[must_use]
    pub fn name(&self) -> String {
        node_name(self.number)
    }

    /// Itself as a target.
    #[must_use]
    pub fn target(&self) -> Target {
        Target::Node(self.number)
    }

    /// Its record.
    pub fn record(&self) -> Result<Machine> {
        self.lab.state()?.node(self.number).cloned()
    }

    /// The path of its network namespace on the host.
    #[must_use]
    pub fn netns(&self) -> PathBuf {
        self.lab.layout.netns_path(&self.name())
    }

    /// Unplugs its cable at the router.
    pub fn cut(&self) -> Result<()> {
        self.record()?;
        cables::plug(&self.lab.layout, &self.name(), false)
    }

    /// Plugs its cable in again.
    pub fn mend(&self) -> Result<()> {
        self.record()?;
        cables::plug(&self.lab.layout, &self.name(), true)
    }

    /// Whether its cable is plugged in.
    #[must_use]
    pub fn plugged(&self) -> bool {
        cables::plugged(&self.lab.layout, &self.name())
    }

    /// Kills the agent with SIGKILL. It is started again at once, unless `hold`.
    pub fn kill_agent(&self, hold: bool) -> Result<()> {
        self.signal(Program::Agent, libc::SIGKILL, hold)
    }

    /// Asks the agent to end with SIGTERM. It is started again when it has ended, unless `hold`.
    pub fn stop_agent(&self, hold: bool) -> Result<()> {
        self.signal(Program::Agent, libc::SIGTERM, hold)
    }

    /// Stops the agent where it is.
    pub fn pause_agent(&self) -> Result<()> {
        self.signal(Program::Agent, libc::SIGSTOP, false)
    }

    /// Lets a paused agent go on.
    pub fn resume_agent(&self) -> Result<()> {
        self.signal(Program::Agent, libc::SIGCONT, false)
    }

    /// Starts an agent again that was killed with `hold`.
    pub fn release_agent(&self) -> Result<()> {
        self.release(Program::Agent)
    }

    /// From its next start on, the agent is this command: an upgrade. In a lab without agents it is started now.
    pub fn replace_agent(&self, agent: AgentCommand) -> Result<()> {
        self.order(Program::Agent, Act::Replace { command: agent }).map(drop)
    }

    /// What its init knows of the agent.
    pub fn report(&self) -> Result<Report> {
        self.report_of(Program::Agent)
    }

    /// What its init knows of a program.
    pub fn report_of(&self, program: Program) -> Result<Report> {
        self.order(program, Act::Report)
    }

    /// The agent's process on the host; none while it does not run.
    pub fn agent(&self) -> Result<Option<ProcessId>> {
        self.process(Program::Agent)
    }

    /// A program's process on the host; none while it does not run.
    pub fn process(&self, program: Program) -> Result<Option<ProcessId>> {
        let init = self.lab.init_of(&self.name())?;
        Ok(self.report_of(program)?.pid.and_then(|inner| process::by_inner_pid(init, inner)))
    }

    /// Sends a program a signal. It is started again when that ends it, unless `hold`.
    pub fn signal(&self, program: Program, signal: i32, hold: bool) -> Result<()> {
        self.order(program, Act::Signal { signal, hold }).map(drop)
    }

    /// Starts a program again that was held.
    pub fn release(&self, program: Program) -> Result<()> {
        self.order(program, Act::Release).map(drop)
    }

    /// Waits until the agent is ready.
    pub fn wait_ready(&self, limit: Duration) -> Result<()> {
        self.lab.wait_ready(&[self.number], limit)
    }

    /// Cuts its power: every process in it ends, its pods are gone, its cable falls off. Its `/var/lib/ripstop` stays.
    pub fn off(&self) -> Result<()> {
        let _lock = Lock::take(&self.lab.layout.lock_file(), Hold::Exclusive, LOCK_LIMIT)?;
        self.cut_power()
    }

    /// Switches it on again, with an empty `/run`, and waits until its agent is ready.
    pub fn on(&self) -> Result<()> {
        let _lock = Lock::take(&self.lab.layout.lock_file(), Hold::Exclusive, LOCK_LIMIT)?;
        if self.record()?.init.is_some_and(ProcessId::alive) {
            return Ok(());
        }
        // It may have died without being switched off.
        self.cut_power()?;
        self.lab.switch_on(&self.name())?;
        let options = self.lab.state()?.options;
        if options.agents { self.wait_ready(options.ready_timeout) } else { Ok(()) }
    }

    /// Cuts its power for good and forgets it, disk and all. Its claims in the store stay.
    pub fn remove(&self) -> Result<()> {
        let _lock = Lock::take(&self.lab.layout.lock_file(), Hold::Exclusive, LOCK_LIMIT)?;
        self.cut_power()?;
        let name = self.name();
        // Left-over files harm nobody and go with the lab.
        let _ = std::fs::remove_dir_all(self.lab.layout.machine_dir(&name));
        State::update(&self.lab.layout, |state| {
            state.machines.remove(&name);
            Ok(())
        })
    }

    fn cut_power(&self) -> Result<()> {
        let (name, layout) = (self.name(), &self.lab.layout);
        if let Some(init) = self.record()?.init
            && !init.kill(END_LIMIT)
        {
            return Err(LabError::failed(format!("{name} does not end: process {}", init.pid)));
        }
        self.lab.drop_pods_of(self.number)?;
        if space::netns_inode(&layout.netns(&name)).is_some() {
            cables::remove_cable(layout, &name)?;
        }
        space::netns_del(&layout.netns(&name))?;
        State::update(layout, |state| {
            if let Some(machine) = state.machines.get_mut(&name) {
                machine.init = None;
            }
            Ok(())
        })
    }

    fn order(&self, program: Program, act: Act) -> Result<Report> {
        self.record()?;
        machine::order(&self.lab.layout, &self.name(), &Order { program, act })
    }
}
