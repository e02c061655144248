//! The project's own commands, as `cargo xtask COMMAND`; the Makefile is the index.
//!
//! Nothing here is part of the product: xtask depends on no crate of the workspace, so that it builds within seconds
//! and can judge a workspace that does not build.

#![allow(clippy::print_stdout, reason = "results are this program's stdout")]

mod altkernel;
mod checks;
mod fuzz;
mod kubernetes;
mod libtest;
mod process;
mod release;
mod source;
mod testrun;
mod workspace;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};

use crate::workspace::Workspace;

const HELP: &str = "\
usage: cargo xtask COMMAND
  check [NAME...] [--list]           what has to hold without running anything; all checks, or the named ones
  test [--quick|--long] [-p CRATE]   builds and runs the tests; without -p the checks too
  build                              target/release/{ripstop,ripstop-cni}, static, sizes checked
  demo                               builds for development and runs `ripstop lab demo`
  install [ARG...]                   what `ripstop install` of target/release installs, with its arguments
  bench [--record] [--rounds N] [--only ID,ID]
                                     builds and measures; --record puts the tables into BENCHMARKS.md
  fuzz [TARGET...] [--seconds N]     the parsers of outside input under libFuzzer, N seconds each; or the named ones
  test-k8s [--smoke|--conformance] [--cni A,B] [--set A,B]
                                     tests on a real Kubernetes, whose programs are built where they are missing; --smoke: one
                                     test, and only where nothing is missing; --conformance: Kubernetes' own alone, as
                                     target/debug is, with --cni between the pods (ripstop, reference), these sets of them
                                     (conformance, network, zones, dual-stack)";

/// A command ended, and how.
enum End {
    Good,
    Bad,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let start = Instant::now();
    let command = args.first().cloned().unwrap_or_default();
    match run(&command, args.get(1..).unwrap_or_default()) {
        Ok(End::Good) => {
            // The runner's last line is its summary, which carries the time itself.
            if !matches!(command.as_str(), "test" | "test-k8s" | "" | "help" | "--help") {
                eprintln!("{command}: done in {:.1} s", start.elapsed().as_secs_f64());
            }
            ExitCode::SUCCESS
        }
        Ok(End::Bad) => ExitCode::from(1),
        Err(error) => {
            eprintln!("{command}: {error:#}");
            ExitCode::from(1)
        }
    }
}

fn run(command: &str, args: &[String]) -> Result<End> {
    let verdict = |good: bool| if good { End::Good } else { End::Bad };
    match command {
        "check" => Ok(verdict(checks::command(&Workspace::open()?, args)?)),
        "test" => Ok(verdict(testrun::command(&Workspace::open()?, args)?)),
        "build" => release::build(&Workspace::open()?).map(|()| End::Good),
        "demo" => Ok(verdict(release::demo(&Workspace::open()?, args)?)),
        "bench" => Ok(verdict(release::bench(&Workspace::open()?, args)?)),
        "install" => Ok(verdict(release::install(&Workspace::open()?, args)?)),
        "test-k8s" => Ok(verdict(kubernetes::command(&Workspace::open()?, args)?)),
        "fuzz" => Ok(verdict(fuzz::command(&Workspace::open()?, args)?)),
        "" | "help" | "--help" | "-h" => {
            println!("{HELP}");
            Ok(End::Good)
        }
        other => bail!("there is no such command\n{}", HELP.replace("usage: ", &format!("{other}; usage: "))),
    }
}
