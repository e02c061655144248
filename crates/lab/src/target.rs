//! What a command is about: a pod, a machine, an agent, the store.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::str::FromStr;

use crate::error::{Attempt, LabError, Result};
use crate::lab::Lab;
use crate::layout::{CONTROL, MEMBER, OUTSIDE, ROUTER, node_name};
use crate::space::Place;

/// A part of a lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A pod by name.
    Pod(String),
    /// A node by number, counted from 1.
    Node(u32),
    /// A node's agent.
    Agent(u32),
    /// A node's forwarder.
    Forwarder(u32),
    /// The client outside the cluster.
    Outside,
    /// The machine of a Kubernetes' control plane.
    Control,
    /// What joins the subnets.
    Router,
    /// The store's server.
    Store,
}

impl FromStr for Target {
    type Err = LabError;

    fn from_str(text: &str) -> Result<Self> {
        let number = |digits: &str| {
            digits.parse().ok().filter(|number| *number > 0).ok_or_else(|| {
                LabError::usage(format!("{text:?}: {digits:?} is not a node's number, which counts from 1"))
            })
        };
        match text.split_once('/') {
            Some(("node", digits)) => Ok(Self::Node(number(digits)?)),
            Some(("agent", digits)) => Ok(Self::Agent(number(digits)?)),
            Some(("forwarder", digits)) => Ok(Self::Forwarder(number(digits)?)),
            Some(_) => Err(LabError::usage(format!(
                "{text:?} is not a target: POD, node/N, agent/N, forwarder/N, outside, control, store"
            ))),
            None if text == OUTSIDE => Ok(Self::Outside),
            None if text == CONTROL => Ok(Self::Control),
            None if text == ROUTER => Ok(Self::Router),
            None if text == "store" => Ok(Self::Store),
            None => Ok(Self::Pod(text.to_owned())),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(name) => f.write_str(name),
            Self::Node(number) => write!(f, "node/{number}"),
            Self::Agent(number) => write!(f, "agent/{number}"),
            Self::Forwarder(number) => write!(f, "forwarder/{number}"),
            Self::Outside => f.write_str(OUTSIDE),
            Self::Control => f.write_str(CONTROL),
            Self::Router => f.write_str(ROUTER),
            Self::Store => f.write_str("store"),
        }
    }
}

/// A program in a target. It is killed and reaped when this value goes.
#[derive(Debug)]
pub struct Running {
    child: Option<Child>,
}

impl Running {
    /// Its pid on the host.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Its standard input, output and errors, as far as they are pipes and were not taken yet.
    pub fn child(&mut self) -> Option<&mut Child> {
        self.child.as_mut()
    }

    /// Waits until it has ended and returns how.
    pub fn wait(mut self) -> io::Result<ExitStatus> {
        self.take()?.wait()
    }

    /// Waits until it has ended and returns how, with what it wrote to its pipes.
    pub fn output(mut self) -> io::Result<Output> {
        self.take()?.wait_with_output()
    }

    fn take(&mut self) -> io::Result<Child> {
        self.child.take().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both fail if its machine was switched off and it was reaped with it.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Lab {
    /// Where a target's programs run.
    pub fn place(&self, target: &Target) -> Result<Place> {
        match target {
            Target::Pod(name) => {
                let pod = self.pod(name)?;
                let sandbox = pod.sandbox.ok_or_else(|| LabError::failed(format!("pod {name} is not running yet")))?;
                Place::beside(sandbox)
            }
            Target::Node(number) | Target::Agent(number) | Target::Forwarder(number) => {
                self.state()?.node(*number)?;
                Place::beside(self.init_of(&node_name(*number))?)
            }
            Target::Outside => Place::beside(self.init_of(OUTSIDE)?),
            Target::Control => Place::beside(self.init_of(CONTROL)?),
            Target::Router => Place::host().in_netns(&self.netns_of(target)?),
            Target::Store => Err(LabError::usage("the store runs on the host itself: give a pod, node/N or outside")),
        }
    }

    /// The path of a target's network namespace on the host.
    pub fn netns_of(&self, target: &Target) -> Result<PathBuf> {
        let part = match target {
            Target::Pod(name) => self.pod(name)?.name,
            Target::Node(number) | Target::Agent(number) | Target::Forwarder(number) => {
                self.state()?.node(*number)?;
                node_name(*number)
            }
            Target::Outside => OUTSIDE.into(),
            Target::Control => CONTROL.into(),
            Target::Router => ROUTER.into(),
            Target::Store => return Err(LabError::usage("the store is not in a namespace of the lab")),
        };
        Ok(self.layout.netns_path(&part))
    }

    /// Starts a program in a target. It ends with the target, or when the returned value goes; the working directory is `/`
    /// unless the command names one.
    pub fn spawn(&self, target: &Target, command: &mut Command) -> Result<Running> {
        if command.get_current_dir().is_none() {
            command.current_dir("/");
        }
        let child = self.place(target)?.spawn(command.env(MEMBER, self.layout.lab()))?;
        Ok(Running { child: Some(child) })
    }

    /// Runs a program in a target without input and returns what it wrote and how it ended.
    pub fn output(&self, target: &Target, argv: &[&str]) -> Result<Output> {
        let (program, args) = argv.split_first().ok_or_else(|| LabError::usage("no command"))?;
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.spawn(target, &mut command)?.output().attempt(|| format!("wait for {program}"))
    }

    /// Runs a program in a target and returns what it wrote to standard output; an error if it did not succeed.
    pub fn exec(&self, target: &Target, argv: &[&str]) -> Result<String> {
        let output = self.output(target, argv)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(LabError::failed(format!("in {target}: `{}`: {}: {}", argv.join(" "), output.status, said.trim())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_read_as_they_print() {
        for text in ["web", "node/1", "agent/12", "forwarder/2", "outside", "control", "router", "store"] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        for text in ["node/0", "node/x", "node/", "pod/web", "agent/-1"] {
            assert_eq!(text.parse::<Target>().unwrap_err().exit_code(), 2, "{text}");
        }
    }
}
