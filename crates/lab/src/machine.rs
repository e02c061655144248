//! Machines switched on and off, and orders to their inits.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::thread::UnshareFlags;

use crate::error::{Attempt, LabError, Result};
use crate::greeting;
use crate::init::{COMMAND, Order, READY, Report, Spec};
use crate::layout::{Layout, MEMBER};
use crate::process::ProcessId;
use crate::space::Place;
use crate::state::State;

/// How long an init may take to be ready.
const READY_LIMIT: Duration = Duration::from_secs(20);
/// How long an init may take to answer an order.
const ORDER_LIMIT: Duration = Duration::from_secs(5);
/// How long a killed machine may take to end.
pub(crate) const END_LIMIT: Duration = Duration::from_secs(10);

/// Writes the files of a machine's own `/etc`, and empties its `/run`: it is about to boot.
pub fn furnish(layout: &Layout, state: &State, name: &str) -> Result<()> {
    let dir = layout.machine_dir(name);
    let doing = || format!("furnish {}", dir.display());
    let run = dir.join("run");
    if run.exists() {
        fs::remove_dir_all(&run).attempt(doing)?;
    }
    for own in ["run", "var", "etc"] {
        fs::create_dir_all(dir.join(own)).attempt(doing)?;
    }
    fs::write(dir.join("hostname"), format!("{name}\n")).attempt(doing)?;
    fs::write(dir.join("hosts"), hosts(state)).attempt(doing)
}

/// Starts the first process of a machine or pod and returns when it has everything in place.
pub fn start_init(program: &Path, place: &Place, spec: &Spec, log: &Path) -> Result<ProcessId> {
    let doing = || format!("start the init of {}", spec.name);
    let text = serde_json::to_string(spec).map_err(io::Error::other).attempt(doing)?;
    let (listener, out) = greeting::pair().attempt(doing)?;
    let mut command = Command::new(program);
    command.arg(COMMAND).arg(text).env(MEMBER, &spec.lab).stdout(out);
    let mut child = spawn_detached(place, &mut command, log)?;
    // With the command goes this side's copy of the init's output.
    drop(command);
    let said = listener.listen(READY_LIMIT).attempt(doing)?;
    let id = said.pid.and_then(ProcessId::of).filter(|_| said.line == READY);
    if id.is_none_or(|id| u32::try_from(id.pid) != Ok(child.id())) {
        // It forked and ended, or did not start at all.
        let _ = child.kill();
        let _ = child.wait();
    }
    // Its first line is why it did not start; if it died silently, its log is.
    let why = if said.line.is_empty() { tail(log, 5) } else { said.line };
    id.ok_or_else(|| LabError::failed(format!("{} did not start: {}", spec.name, why.trim())))
}

/// The kinds of namespaces a machine has of its own, besides the network it is given.
pub const MACHINE_SPACES: UnshareFlags =
    UnshareFlags::NEWNS.union(UnshareFlags::NEWUTS).union(UnshareFlags::NEWIPC).union(UnshareFlags::NEWPID);

/// The kinds of namespaces a pod has of its own, besides the network it is given.
pub const POD_SPACES: UnshareFlags = UnshareFlags::NEWNS.union(UnshareFlags::NEWUTS).union(UnshareFlags::NEWIPC);

/// Starts a program that outlives this one: in a session of its own, without input, with its errors in a log.
pub fn spawn_detached(place: &Place, command: &mut Command, log: &Path) -> Result<Child> {
    let log = File::options().append(true).create(true).open(log).attempt(|| format!("open {}", log.display()))?;
    command.stdin(Stdio::null()).stderr(log).current_dir("/");
    // SAFETY: setsid(2) is one system call and allocates nothing.
    unsafe {
        command.pre_exec(|| rustix::process::setsid().map(drop).map_err(Into::into));
    }
    place.spawn(command)
}

/// Gives a machine's init an order.
pub fn order(layout: &Layout, machine: &str, order: &Order) -> Result<Report> {
    let socket = layout.init_socket(machine);
    let answer = ask(&socket, order).map_err(|error| LabError::Away(format!("the init of {machine}: {error}")))?;
    match answer.fault {
        Some(fault) => Err(LabError::failed(format!("{machine}: {fault}"))),
        None => Ok(answer),
    }
}

/// The last lines of a file, for messages; empty if there is no such file.
#[must_use]
pub fn tail(path: &Path, lines: usize) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

fn ask(socket: &Path, order: &Order) -> io::Result<Report> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ORDER_LIMIT))?;
    stream.set_write_timeout(Some(ORDER_LIMIT))?;
    let mut text = serde_json::to_vec(order)?;
    text.push(b'\n');
    stream.write_all(&text)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    Ok(serde_json::from_str(&answer)?)
}

fn hosts(state: &State) -> String {
    let local = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";
    let machines =
        state.machines.iter().flat_map(|(name, machine)| machine.addresses().map(move |ip| format!("{ip}\t{name}\n")));
    std::iter::once(local.to_owned()).chain(machines).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;

    #[test]
    fn machines_know_each_other_by_name() {
        let text = hosts(&State::planned(&Options::named("x")));
        assert!(text.contains("172.30.1.12\tn2\n") && text.contains("172.31.0.10\toutside\n"), "{text}");
    }

    #[test]
    fn the_tail_of_a_log_is_its_last_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        fs::write(&path, "a\nb\nc\n").unwrap();
        assert_eq!(tail(&path, 2), "b\nc");
        assert_eq!(tail(&path, 9), "a\nb\nc");
        assert_eq!(tail(&dir.path().join("none"), 2), "");
    }
}
