//! The commands: what each takes, and what it does.

pub mod agent;
pub mod bgp;
pub mod conformance;
pub mod describe;
pub mod get;
pub mod install;
pub mod ipam;
pub mod lab;
pub mod man;
pub mod manifest;
pub mod migrate;
pub mod plan;
pub mod policy;
pub mod resume;
pub mod shell;
pub mod status;
pub mod store;
pub mod udp_forward;
pub mod version;

use std::process::ExitCode;

use clap::Args;

use crate::ask::Agent;
use crate::cli::{Cli, Command};
use crate::failure::Failure;
use crate::print::{Format, Out};
use crate::signals;
use crate::target::Target;

/// How a command without more to say is answered, and by whom.
#[derive(Debug, Args)]
struct Form {
    /// Form of the answer
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    target: Target,
}

/// Does what was asked.
///
/// # Errors
/// Whatever the command cannot do.
pub fn run(cli: Cli) -> Result<ExitCode, Failure> {
    let Cli { target, command } = cli;
    match command {
        Command::Agent(command) => asks_nobody(&target, "agent").and_then(|()| command.run()),
        Command::Store(command) => asks_nobody(&target, "store").and_then(|()| command.run()),
        Command::UdpForward(command) => asks_nobody(&target, "udp-forward").and_then(|()| command.run()),
        Command::Lab(command) => asks_nobody(&target, "lab").and_then(|()| lab::run(command)),
        Command::Conformance(command) => {
            asks_nobody(&target, "conformance").and_then(|()| command.run(&mut Out::new()))
        }
        other => {
            signals::end_when_interrupted();
            answer(other, target, &mut Out::new()).map(|()| ExitCode::SUCCESS)
        }
    }
}

/// The commands that answer and end.
fn answer(command: Command, before: Target, out: &mut Out) -> Result<(), Failure> {
    let agent = |behind: Target| behind.or(before.clone()).and_then(|target| Agent::of(&target));
    match command {
        Command::Get(command) => command.run(&agent(command.target.clone())?, out),
        Command::Describe(command) => command.run(&agent(command.target.clone())?, out),
        Command::Status(command) => command.run(&agent(command.target.clone())?, out),
        Command::Plan(command) => command.run(&agent(command.target.clone())?, out),
        Command::Ipam(command) => command.run(&agent(command.target().clone())?, out),
        Command::Bgp(command) => command.run(&agent(command.target().clone())?, out),
        Command::Apply(command) => command.run(&agent(command.target.clone())?, out),
        Command::Delete(command) => command.run(&agent(command.target.clone())?, out),
        Command::Migrate(command) => {
            if command.target().is_none() {
                asks_nobody(&before, "migrate from")?;
            }
            command.run(&agent(command.target().cloned().unwrap_or_default())?, out)
        }
        Command::Resume(command) => command.run(&agent(command.target.clone())?),
        Command::Uninstall(command) => {
            let target = command.target.clone().or(before.clone())?;
            command.run(&Agent::of(&target)?, &target, out)
        }
        Command::Version(command) => command.run(&agent(command.target.clone())?, out),
        Command::Policy(command) => command.run(&before, out),
        Command::Install(command) => asks_nobody(&before, "install").and_then(|()| command.run(out)),
        Command::Completion(command) => asks_nobody(&before, "completion").and_then(|()| command.run(out)),
        Command::Replay(command) => asks_nobody(&before, "replay").and_then(|()| command.run(out)),
        Command::Agent(_) | Command::Store(_) | Command::UdpForward(_) | Command::Lab(_) | Command::Conformance(_) => {
            Ok(())
        }
        Command::Man(command) => asks_nobody(&before, "man").and_then(|()| command.run(out)),
    }
}

/// Refuses an agent that was picked for a command that asks none.
fn asks_nobody(target: &Target, command: &str) -> Result<(), Failure> {
    if target.is_empty() {
        return Ok(());
    }
    Err(Failure::Usage(format!(
        "`ripstop {command}` asks no running agent: --lab, --node and --socket before it have no meaning"
    )))
}
