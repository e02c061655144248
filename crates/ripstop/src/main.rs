//! The `ripstop` command: it parses what was asked, asks the agent over its unix socket, and prints the answer.
//!
//! Nothing is decided here. What a cluster is, what a node should do and how it is done is in the libraries; this program
//! is the part that people and scripts talk to. It writes data to standard output and everything else to standard error,
//! and its exit codes and the fields of its JSON are stable (see [`failure`] and [`kinds`]).

mod ask;
mod cli;
mod commands;
mod duration;
mod failure;
mod http;
mod kinds;
mod print;
mod signals;
mod subject;
mod target;

use std::process::ExitCode;

use failure::Failure;

fn main() -> ExitCode {
    if let Some(code) = commands::lab::machine(std::env::args_os()) {
        return code;
    }
    let cli = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(refusal) => {
            // Help goes to standard output, a usage error to standard error. A reader that is gone wanted neither.
            let _ = refusal.print();
            return ExitCode::from(if refusal.use_stderr() { failure::USAGE } else { 0 });
        }
    };
    match commands::run(cli) {
        Ok(code) => code,
        Err(failure) => {
            complain(&failure);
            ExitCode::from(failure.code())
        }
    }
}

/// Says on standard error what went wrong; where that is closed there is nobody to tell.
fn complain(failure: &Failure) {
    let text = failure.to_string();
    if !text.is_empty() {
        print::talk(&format!("error: {text}"));
    }
}
