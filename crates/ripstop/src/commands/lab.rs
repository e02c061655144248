//! `ripstop lab`: the lab's own command line, mounted.

use std::ffi::OsString;
use std::process::ExitCode;

use ripstop_lab::cli::LabCommand;

use crate::failure::Failure;

/// The first process of each of a lab's machines and pods is this program again, under a name that is no command of
/// people: it is looked at before the command line is. `None` where something else was asked.
pub fn machine(mut args: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    (args.nth(1)? == ripstop_lab::init::COMMAND).then(|| ripstop_lab::node_init(args))
}

/// Does what the lab was asked. It tells its own failures.
///
/// # Errors
/// Where it cannot even tell them.
pub fn run(command: LabCommand) -> Result<ExitCode, Failure> {
    ripstop_lab::cli::run(command).map_err(|error| Failure::of_chain(&error))
}
