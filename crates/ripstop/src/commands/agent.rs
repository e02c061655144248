//! `ripstop agent` and `ripstop replay`: the agent itself, and its decisions again without a kernel.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use ripstop_types::NodeName;

use crate::failure::Failure;
use crate::print::Out;

/// Run this node's agent, in the foreground, until it is told to stop
///
/// SIGTERM and SIGINT end it; the kernel goes on forwarding, and the next agent takes over what is there. It logs to
/// standard error.
#[derive(Debug, Args)]
pub struct Agent {
    /// Configuration in YAML or JSON; an empty file is a complete one
    #[arg(long, value_name = "FILE", default_value = "/etc/ripstop/config.yaml")]
    config: PathBuf,
    /// This node's name, where one configuration is for several nodes [default: `node` of the configuration, then the
    /// host's name]
    #[arg(long, value_name = "NAME")]
    node_name: Option<NodeName>,
    /// Write everything that enters the agent to this file, secrets removed, for `ripstop replay`; it grows without bound
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Compute and change nothing: `ripstop plan` prints what would be done, `ripstop resume` lets it be done
    #[arg(long)]
    hold: bool,
}

/// Run a recording again and print every plan it leads to
///
/// A recording is what `ripstop agent --record` wrote. No kernel, store or socket is touched, and the same recording
/// gives the same plans: one JSON object a plan, {input, name, plan, lane, steps}.
#[derive(Debug, Args)]
pub struct Replay {
    /// The recording
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl Agent {
    /// Runs until told to stop.
    ///
    /// # Errors
    /// Where the agent cannot start.
    pub fn run(self) -> Result<ExitCode, Failure> {
        take_memory_in_large_pieces();
        let options = ripstop_agent::AgentOptions {
            config: self.config,
            node: self.node_name,
            record: self.record,
            hold: self.hold,
        };
        ripstop_agent::run(&options).map_err(|error| Failure::of_chain(&error))
    }
}

impl Replay {
    /// Prints the plans.
    ///
    /// # Errors
    /// Where the file is not a recording.
    pub fn run(&self, out: &mut Out) -> Result<(), Failure> {
        ripstop_agent::replay(&self.file, out).map_err(|error| Failure::of_chain(&error))
    }
}

/// An agent that joins thousands of nodes takes tens of megabytes at once: in pieces of the C library's own choice each
/// costs a system call and a lock of the address space. What of a piece is not written to is not resident. One arena for all threads: one
/// works at a time, as a rule, and what one gave back another takes.
fn take_memory_in_large_pieces() {
    #[cfg(target_env = "gnu")]
    for (setting, value) in [
        (libc::M_TOP_PAD, 1 << 20),
        (libc::M_MMAP_THRESHOLD, 1 << 20),
        (libc::M_TRIM_THRESHOLD, 4 << 20),
        (libc::M_ARENA_MAX, 1),
    ] {
        // SAFETY: it takes two numbers and changes a setting of the allocator; no thread but this one is there yet. Where it
        // refuses, all stays as it was.
        unsafe { libc::mallopt(setting, value) };
    }
}
