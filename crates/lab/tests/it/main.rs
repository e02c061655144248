//! The lab on real namespaces: bare machines, with wires laid by hand where packets must flow.
// Helpers of tests are tests as well.
#![allow(clippy::unwrap_used)]

mod command;
mod crash;
mod faults;
mod machines;
mod measure;
mod wires;

use std::path::PathBuf;
use std::process::{Command, Output};

use ripstop_lab::{Lab, Options};

/// Options of a small lab of bare machines, or none, with a line that says why, where this test cannot run.
fn bare(name: &str) -> Option<Options> {
    let program = program()?;
    Some(Options {
        nodes: 2,
        agents: false,
        replace: true,
        ripstop: Some(program),
        ..Options::named(&format!("it-{name}"))
    })
}

/// The lab's commands as a program.
fn program() -> Option<PathBuf> {
    if !rustix::process::geteuid().is_root() {
        say("SKIPPED: a lab needs root");
        return None;
    }
    let me = std::env::current_exe().unwrap();
    let built = me.parent().unwrap().parent().unwrap().join("examples/ripstop-lab");
    if !built.exists() {
        say(&format!("SKIPPED: {} is not built; cargo test -p ripstop-lab builds it", built.display()));
        return None;
    }
    Some(built)
}

/// Runs one of the lab's commands.
fn run(args: &[&str]) -> Output {
    Command::new(program().unwrap()).args(args).output().unwrap()
}

/// What lives and bears the lab's name: namespaces, processes, files.
fn left_of(lab: &str) -> Vec<String> {
    let layout = ripstop_lab::layout::Layout::new(lab);
    let mut left = ripstop_lab::clean::namespaces(&layout);
    left.extend(ripstop_lab::process::members(lab).iter().map(|id| format!("process {}", id.pid)));
    for path in [layout.dir().to_owned(), layout.lock_file()] {
        left.extend(path.exists().then(|| path.display().to_string()));
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let dir = format!("{}/", layout.dir().display());
    left.extend(mounts.lines().filter(|line| line.contains(&dir)).map(str::to_owned));
    left
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

#[allow(clippy::print_stdout)]
fn say(line: &str) {
    println!("{line}");
}

/// Looks again and again until it is so. What is tested here comes within milliseconds.
fn until(what: &str, is: impl Fn() -> bool) {
    for _ in 0..2_000 {
        if is() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("{what} did not come");
}

fn up(options: &Options) -> Lab {
    Lab::up(options).unwrap_or_else(|error| panic!("{error}"))
}
