//! Programs with a limit of time: what they were given, what they said, how they ended.

use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::case::{Stop, Verdict, fail, skip};
use crate::interrupt;
use crate::space::Place;

/// How long the output of a program that ended is waited for: a child of it may have kept the pipe.
const DRAIN: Duration = Duration::from_secs(1);
/// The most that is kept of an output.
const KEPT: usize = 4 << 20;
/// How long the wish to stop may go unnoticed.
const SLICE: Duration = Duration::from_millis(50);

/// How a program ended.
#[derive(Debug, Clone)]
pub struct Ended {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// It was killed because its time was over.
    pub timed_out: bool,
}

/// What is done with a program while it runs.
pub struct Care<'a> {
    /// Written to its standard input, one after the other with a pause between, and then closed.
    pub stdin: &'a [Vec<u8>],
    /// The pause.
    pub pause: Duration,
    /// The most time it may take.
    pub timeout: Duration,
    /// Killed after this time, whatever it is doing.
    pub kill_after: Option<Duration>,
    /// It goes on although the user wants to stop: it cleans up.
    pub finish: bool,
}

/// Runs a program at a place. It gets a process group of its own, so that the terminal's interrupt does not reach it and
/// its children are killed with it.
pub fn run(place: &Place, command: &mut Command, care: &Care<'_>) -> Verdict<Ended> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let begun = Instant::now();
    let child = place.spawn(command).map_err(|error| Stop::Fail(format!("{program} cannot be started: {error}")))?;
    let mut running = Running { group: Pid::from_child(&child), child, reaped: false };
    let (out, err) = (drain(running.child.stdout.take()), drain(running.child.stderr.take()));
    let (parts, pause, input) = (care.stdin.to_vec(), care.pause, running.child.stdin.take());
    thread::spawn(move || feed(input, &parts, pause));
    let (end, kills) = match care.kill_after {
        Some(after) if after < care.timeout => (after, true),
        _ => (care.timeout, false),
    };
    let timed_out = !running.wait(begun + end, care.finish)?;
    if timed_out {
        running.kill();
    }
    let status = running.reap().map_err(|error| Stop::Fail(format!("{program}: {error}")))?;
    let stdout = running.rest(&out);
    let stderr = running.rest(&err);
    Ok(Ended { code: status.code(), signal: status.signal(), stdout, stderr, timed_out: timed_out && !kills })
}

/// Runs a program of this machine and gives what it printed. The case is skipped where it is not there.
pub fn tool(place: &Place, program: &str, args: &[&str], stdin: &str) -> Verdict<String> {
    let stdin = [stdin.as_bytes().to_vec()];
    let care = Care {
        stdin: &stdin,
        pause: Duration::ZERO,
        timeout: Duration::from_secs(10),
        kill_after: None,
        finish: false,
    };
    let ended = match run(place, Command::new(program).args(args), &care) {
        Err(Stop::Fail(why)) => return skip(why),
        other => other?,
    };
    if ended.code != Some(0) {
        return fail(format!(
            "the suite's own `{program} {}` failed: {}",
            args.join(" "),
            String::from_utf8_lossy(&ended.stderr).trim()
        ));
    }
    Ok(String::from_utf8_lossy(&ended.stdout).into_owned())
}

/// A program that is killed, with its children, if it is forgotten.
struct Running {
    child: Child,
    group: Pid,
    reaped: bool,
}

impl Running {
    /// Waits until it ended; false where its time was over first.
    fn wait(&self, until: Instant, finish: bool) -> Verdict<bool> {
        let Ok(fd) = pidfd_open(self.group, PidfdFlags::empty()) else {
            return fail("a started program cannot be watched: pidfd_open failed");
        };
        loop {
            if interrupt::happened() && !finish {
                return Err(Stop::Interrupted);
            }
            let left = until.saturating_duration_since(Instant::now());
            let slice = Timespec::try_from(left.min(SLICE)).ok();
            let mut wait = [PollFd::new(&fd, PollFlags::IN)];
            if matches!(poll(&mut wait, slice.as_ref()), Ok(ready) if ready > 0) {
                return Ok(true);
            }
            if left.is_zero() {
                return Ok(false);
            }
        }
    }

    fn kill(&self) {
        let _ = kill_process_group(self.group, Signal::KILL);
    }

    fn reap(&mut self) -> std::io::Result<std::process::ExitStatus> {
        self.reaped = true;
        self.child.wait()
    }

    /// The whole output. A child that outlived the program and keeps the pipe open is killed.
    fn rest(&self, output: &Receiver<Vec<u8>>) -> Vec<u8> {
        output.recv_timeout(DRAIN).unwrap_or_else(|_| {
            self.kill();
            output.recv_timeout(DRAIN).unwrap_or_default()
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.reaped {
            self.kill();
            let _ = self.child.wait();
        }
    }
}

fn feed(input: Option<impl Write>, parts: &[Vec<u8>], pause: Duration) {
    let Some(mut input) = input else { return };
    for (n, part) in parts.iter().enumerate() {
        if n > 0 {
            thread::sleep(pause);
        }
        // A program that ended early has nothing to read: how it ended is what counts.
        if input.write_all(part).is_err() {
            return;
        }
    }
}

fn drain(output: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut kept = Vec::new();
        let mut buffer = [0; 8192];
        if let Some(mut output) = output {
            while let Ok(n @ 1..) = output.read(&mut buffer) {
                kept.extend_from_slice(&buffer[..n.min(KEPT - kept.len())]);
            }
        }
        let _ = sender.send(kept);
    });
    receiver
}
