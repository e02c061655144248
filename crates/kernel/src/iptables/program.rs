//! Runs the programs of iptables: the only ones that an agent runs.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use ripstop_netmodel::IptablesBackend;
use ripstop_types::Family;

use super::{At, Refusal, lock};
use crate::error::Fault;

/// So many seconds are waited for the lock of legacy iptables. Meanwhile pods wait as well.
const LOCK_WAIT: &str = "2";
/// A program that takes longer is ended: what it was at is done by the kernel whole or not at all.
const LIMIT: Duration = Duration::from_secs(120);
/// What programs of legacy iptables end with where they cannot get the lock (`RESOURCE_PROBLEM`).
const BUSY: i32 = 4;
/// Of what a program says no more is kept.
const SAID: usize = 600;

/// The name of a program: `ip6tables-legacy-restore`.
pub(super) fn name((backend, family): At, verb: &str) -> String {
    let word = if family == Family::V4 { "iptables" } else { "ip6tables" };
    format!("{word}-{}-{verb}", backend.as_str())
}

/// The first program of each backend that is not there; `ipv6`: whether the kernel has that, too.
pub(crate) fn lacking(ipv6: bool) -> BTreeMap<IptablesBackend, Arc<str>> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = |name: &str| std::env::split_paths(&path).any(|folder| folder.join(name).is_file());
    let families = || Family::BOTH.into_iter().filter(|family| ipv6 || *family == Family::V4);
    let lacks = |backend| {
        let mut names = families().flat_map(|family| ["save", "restore"].map(|verb| name((backend, family), verb)));
        Some((backend, names.find(|name| !is_there(name))?.into()))
    };
    [IptablesBackend::Legacy, IptablesBackend::Nft].into_iter().filter_map(lacks).collect()
}

/// Everything that is in the tables of a backend and family.
pub(crate) fn save(at: At) -> Result<String, Fault> {
    let name = name(at, "save");
    let output = run(&name, &[], "")?;
    if !output.status.success() {
        return Err(Fault::Program(format!("{name}: {}", said(&output)).into()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Has a program change the tables.
pub(crate) fn restore(at: At, input: &str) -> Result<(), Refusal> {
    let name = name(at, "restore");
    let output = run(&name, &["--noflush", "-w", LOCK_WAIT], input)?;
    if output.status.success() {
        return Ok(());
    }
    let said = said(&output);
    if at.0 == IptablesBackend::Legacy && (output.status.code() == Some(BUSY) && said.contains("lock")) {
        let holder = lock::holder().unwrap_or_else(|| "a program that cannot be told, or has just let go of it".into());
        return Err(Fault::Program(format!("{name}: the lock of iptables is held by {holder}").into()).into());
    }
    let line = line_of(&said).and_then(|line| input.lines().nth(line.checked_sub(1)?));
    let line = line.map(|line| format!("; the line is: {line}")).unwrap_or_default();
    Err(Refusal { fault: Fault::Program(format!("{name}: {said}{line}").into()), is_of_rules: true })
}

/// The number behind the word "line" in what a program says.
fn line_of(said: &str) -> Option<usize> {
    let mut words = said.split(|c: char| c.is_whitespace() || c == ':').filter(|word| !word.is_empty());
    while let Some(word) = words.next() {
        if word == "line" {
            return words.next()?.parse().ok();
        }
    }
    None
}

fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let text: Vec<&str> = text.split_whitespace().collect();
    let text: String = text.join(" ").chars().take(SAID).collect();
    if text.is_empty() { format!("it ended with {}", output.status) } else { text }
}

fn run(name: &str, args: &[&str], input: &str) -> Result<Output, Fault> {
    let fault = |error: std::io::Error| {
        let text = match error.kind() {
            ErrorKind::NotFound => {
                format!("{name}: there is no such program; Services by iptables need it on the node")
            }
            _ => format!("{name}: {error}"),
        };
        Fault::Program(text.into())
    };
    let mut command = Command::new(name);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(fault)?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    thread::scope(|scope| {
        scope.spawn(move || {
            // One that does not read on has failed, and says why.
            stdin.map(|mut stdin| stdin.write_all(input.as_bytes()))
        });
        let stdout = scope.spawn(move || read(stdout));
        let stderr = scope.spawn(move || read(stderr));
        let status = wait(&mut child, name);
        let (stdout, stderr) = (stdout.join().unwrap_or_default(), stderr.join().unwrap_or_default());
        Ok(Output { status: status?, stdout, stderr })
    })
}

fn read(from: Option<impl Read>) -> Vec<u8> {
    let mut bytes = Vec::new();
    // What was read until then says enough.
    let _ = from.map(|mut from| from.read_to_end(&mut bytes));
    bytes
}

fn wait(child: &mut Child, name: &str) -> Result<std::process::ExitStatus, Fault> {
    let fault = |error: std::io::Error| Fault::Program(format!("{name}: {error}").into());
    let begun = Instant::now();
    let mut pause = Duration::from_micros(500);
    loop {
        if let Some(status) = child.try_wait().map_err(fault)? {
            return Ok(status);
        }
        if begun.elapsed() > LIMIT {
            child.kill().and_then(|()| child.wait()).map_err(fault)?;
            return Err(Fault::Program(format!("{name}: it did not end within {} s", LIMIT.as_secs()).into()));
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_found_in_what_either_backend_says() {
        assert_eq!(line_of("iptables-restore: line 5 failed"), Some(5));
        assert_eq!(line_of("bad argument Error occurred at line: 12 Try -h"), Some(12));
        assert_eq!(line_of("nothing"), None);
    }

    #[test]
    fn a_program_that_is_missing_is_named() {
        let fault = run("iptables-none-restore", &[], "").unwrap_err().to_string();
        assert!(fault.starts_with("iptables-none-restore: there is no such program"), "{fault}");
    }
}
