//! `ripstop policy`: why a connection is allowed or not, what a change of policies would come to, and what policies come to at all.
//!
//! - `objects`: what there is, out of files.
//! - `source`: the same of a running agent, and which of both is asked.
//! - `party`: who is meant by a word of the command line.
//! - `check`, `what_if`, `graph`, `unused`: the commands.

mod check;
mod graph;
mod objects;
mod party;
mod source;
mod unused;
mod what_if;

use clap::{Args, Subcommand};

use crate::failure::Failure;
use crate::print::Out;
use crate::target::Target;

/// Tell why a connection is allowed or denied, and what policies come to
#[derive(Debug, Args)]
#[command(subcommand_value_name = "COMMAND")]
pub struct Policy {
    #[command(subcommand)]
    command: Sub,
}

#[derive(Debug, Subcommand)]
enum Sub {
    Check(check::Check),
    WhatIf(what_if::WhatIf),
    Graph(graph::Graph),
    Unused(unused::Unused),
}

impl Policy {
    /// Answers.
    ///
    /// # Errors
    /// Where files cannot be read or are wrong, an agent does not answer, and where what was asked about is not so.
    pub fn run(&self, before: &Target, out: &mut Out) -> Result<(), Failure> {
        match &self.command {
            Sub::Check(command) => command.run(before, out),
            Sub::WhatIf(command) => command.run(before, out),
            Sub::Graph(command) => command.run(before, out),
            Sub::Unused(command) => command.run(before, out),
        }
    }
}
