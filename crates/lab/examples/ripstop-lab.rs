//! The lab's commands on their own, and the init its machines are started with. The tests of this crate run it; users have
//! `ripstop lab`.

use std::process::ExitCode;

use clap::Parser;
use ripstop_lab::cli::{LabCommand, run};
use ripstop_lab::init::COMMAND;

#[derive(Debug, Parser)]
struct Program {
    #[command(flatten)]
    lab: LabCommand,
}

fn main() -> anyhow::Result<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|first| first == COMMAND) {
        return Ok(ripstop_lab::node_init(args));
    }
    run(Program::parse().lab)
}
