//! Which agent is asked.

use std::num::NonZeroU16;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::failure::Failure;

/// Where the agent of a host listens.
pub const DEFAULT_SOCKET: &str = "/run/ripstop/agent.sock";

/// Folder of all labs: `LAB/nN/run/agent.sock` is the socket of node N.
const LABS: &str = "/run/ripstop-lab";

/// Picks the agent that is asked. May stand before the command or behind it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Which agent is asked")]
pub struct Target {
    /// Ask the agent of a node of this lab (`ripstop lab up --name LAB`); needs --node
    #[arg(long, value_name = "LAB", requires = "node")]
    pub lab: Option<String>,
    /// Number of the lab's node, from 1
    #[arg(long, value_name = "N", requires = "lab")]
    pub node: Option<NonZeroU16>,
    /// Ask the agent that listens on this unix socket [default: /run/ripstop/agent.sock]
    #[arg(long, value_name = "PATH", conflicts_with_all = ["lab", "node"])]
    pub socket: Option<PathBuf>,
}

impl Target {
    /// Whether nothing was picked.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What was said behind the command, or else before it.
    ///
    /// # Errors
    /// A usage error where an agent was picked in both places.
    pub fn or(self, before: Self) -> Result<Self, Failure> {
        match (self.is_empty(), before.is_empty()) {
            (true, _) => Ok(before),
            (false, true) => Ok(self),
            (false, false) => Err(Failure::Usage(
                "the agent is picked before and behind the command; pick it once, with --lab and --node or with --socket"
                    .into(),
            )),
        }
    }

    /// The socket of the agent.
    ///
    /// # Errors
    /// A usage error for a lab's name that is none: it becomes part of a path.
    pub fn path(&self) -> Result<PathBuf, Failure> {
        let (Some(lab), Some(node)) = (&self.lab, self.node) else {
            return Ok(self.socket.clone().unwrap_or_else(|| DEFAULT_SOCKET.into()));
        };
        let fits = !lab.contains('.') && ripstop_types::validate_dns_name("a lab name", lab).is_ok();
        if !fits {
            return Err(Failure::Usage(format!(
                "--lab {lab:?} is not a lab's name: lower-case letters, digits and '-' are accepted"
            )));
        }
        Ok(Path::new(LABS).join(lab).join(format!("n{node}/run/agent.sock")))
    }

    /// What to do where the agent does not answer, in the words of who picked it.
    pub fn advice(&self) -> String {
        match (&self.lab, &self.socket) {
            (Some(lab), _) => format!("is the lab up? (ripstop lab status --name {lab})"),
            (None, Some(_)) => "is the agent running, and is this its socket?".into(),
            (None, None) => {
                "is the agent running? (systemctl status ripstop-agent; --lab or --socket ask another)".into()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lab(name: &str, node: u16) -> Target {
        Target { lab: Some(name.into()), node: NonZeroU16::new(node), socket: None }
    }

    #[test]
    fn a_lab_and_a_number_are_a_socket() {
        assert_eq!(Target::default().path().unwrap(), Path::new(DEFAULT_SOCKET));
        assert_eq!(lab("chk-1", 12).path().unwrap(), Path::new("/run/ripstop-lab/chk-1/n12/run/agent.sock"));
        let own = Target { socket: Some("a.sock".into()), ..Target::default() };
        assert_eq!(own.path().unwrap(), Path::new("a.sock"));
    }

    #[test]
    fn a_name_that_leaves_the_folder_is_refused() {
        for name in ["..", "a/b", "", "A", "a.b"] {
            assert_eq!(lab(name, 1).path().unwrap_err().code(), 2, "{name}");
        }
    }

    #[test]
    fn the_agent_is_picked_once() {
        let none = Target::default;
        assert_eq!(none().or(lab("a", 1)).unwrap(), lab("a", 1));
        assert_eq!(lab("a", 1).or(none()).unwrap(), lab("a", 1));
        assert_eq!(lab("a", 1).or(lab("a", 1)).unwrap_err().code(), 2);
    }
}
