//! `ripstop policy`: why a connection is allowed or not, what a change of policies would come to, and what policies come to at all.
//!
//! - `objects`: what there is, out of files.
//! - `party`: who is meant by a word of the command line.
//! - `check`, `what_if`, `graph`, `unused`: the commands.

mod check;
mod graph;
mod objects;
mod party;
mod unused;
mod what_if;

use clap::{Args, Subcommand};

use crate::failure::Failure;
use crate::print::Out;

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
    /// Where files cannot be read or are wrong, and where what was asked about is not so.
    pub fn run(&self, out: &mut Out) -> Result<(), Failure> {
        match &self.command {
            Sub::Check(command) => command.run(out),
            Sub::WhatIf(command) => command.run(out),
            Sub::Graph(command) => command.run(out),
            Sub::Unused(command) => command.run(out),
        }
    }
}
