//! A machine's process 1: reaps what dies, keeps its programs running, takes orders on a socket.
//!
//! One thread and one poll loop, so that an order and a death never meet half way.

use std::convert::Infallible;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, WaitOptions, WaitStatus, wait};

use super::{Act, AgentCommand, Order, Program, Report, Spec};
use crate::error::{Attempt, Result};

/// The wait before a program that dies at once is started again doubles from the first to the second value.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// A program that ran this long did not die at once.
const SETTLED: Duration = Duration::from_secs(1);
/// How long one order may take to arrive.
const ORDER_LIMIT: Duration = Duration::from_secs(2);

/// Runs until the process is killed.
pub(super) fn run(spec: Spec) -> Result<Infallible> {
    let socket = spec.dir.join("init.sock");
    let doing = || format!("listen on {}", socket.display());
    let _ = fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).attempt(doing)?;
    listener.set_nonblocking(true).attempt(doing)?;
    let deaths = child_signals().attempt(|| "watch for ended processes".into())?;
    let mut keepers = Program::ALL.map(|program| Keeper::new(&spec, program));
    keepers.iter_mut().for_each(Keeper::start_if_due);
    super::announce()?;
    loop {
        wait_for(&listener, &deaths, keepers.iter().filter_map(|keeper| keeper.next_start).min());
        drain(&deaths);
        reap(&mut keepers);
        while let Ok((peer, _)) = listener.accept() {
            // A peer that says nothing sensible only harms itself.
            let _ = serve(&peer, &mut keepers);
        }
        keepers.iter_mut().for_each(Keeper::start_if_due);
    }
}

/// Reaps everything that has ended.
fn reap(keepers: &mut [Keeper]) {
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        let killed = status.terminating_signal() == Some(libc::SIGKILL);
        let kept = keepers.iter_mut().find(|keeper| keeper.report.pid == Some(Pid::as_raw(Some(pid))));
        if let Some(keeper) = kept {
            keeper.ended(describe(status), killed);
        }
    }
}

/// A program and what is to become of it.
struct Keeper {
    program: Program,
    command: Option<AgentCommand>,
    lab: String,
    log: PathBuf,
    next_start: Option<Instant>,
    started: Instant,
    backoff: Duration,
    report: Report,
}

impl Keeper {
    fn new(spec: &Spec, program: Program) -> Self {
        let now = Instant::now();
        let command = spec.programs.get(&program).cloned();
        Self {
            program,
            next_start: command.is_some().then_some(now),
            command,
            lab: spec.lab.clone(),
            log: spec.dir.join(format!("{}.log", program.as_str())),
            started: now,
            backoff: BACKOFF.0,
            report: Report::default(),
        }
    }

    fn start_if_due(&mut self) {
        if self.report.held || self.next_start.is_none_or(|due| due > Instant::now()) {
            return;
        }
        self.next_start = None;
        self.started = Instant::now();
        self.report.starts += 1;
        match self.spawn() {
            Ok(pid) => self.report.pid = Some(pid),
            Err(error) => self.ended(format!("not started: {error}"), false),
        }
    }

    fn spawn(&self) -> io::Result<i32> {
        let command = self.command.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let (program, args) = command.argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let log = File::options().append(true).create(true).open(&self.log)?;
        let child = Command::new(program)
            .args(args)
            .envs(&command.env)
            .env(crate::layout::MEMBER, &self.lab)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        // The child is reaped with all others.
        i32::try_from(child.id()).map_err(io::Error::other)
    }

    /// Notes an end and when to start again: at once after a kill or a long life, later and later otherwise.
    fn ended(&mut self, how: String, killed: bool) {
        let settled = self.started.elapsed() >= SETTLED;
        let wait = if killed || settled { Duration::ZERO } else { self.backoff };
        self.backoff = if settled { BACKOFF.0 } else { (self.backoff * 2).min(BACKOFF.1) };
        self.report.pid = None;
        self.report.last_end = Some(how);
        self.next_start = Some(Instant::now() + wait);
    }

    fn obey(&mut self, act: Act) -> Report {
        self.report.fault = None;
        match act {
            Act::Report => {}
            Act::Signal { signal, hold } => {
                self.report.held |= hold;
                self.signal(signal);
            }
            Act::Release => {
                self.report.held = false;
                self.backoff = BACKOFF.0;
                self.next_start = self.next_start.map(|_| Instant::now());
            }
            Act::Replace { command } => {
                if self.command.replace(command).is_none() {
                    self.next_start = Some(Instant::now());
                }
            }
        }
        self.report.clone()
    }

    fn signal(&mut self, signal: i32) {
        let Some(pid) = self.report.pid.filter(|pid| *pid > 1) else {
            self.report.fault = Some(format!("the {} does not run", self.program.as_str()));
            return;
        };
        // SAFETY: kill(2) takes plain numbers; the pid is our child, not reaped yet.
        if unsafe { libc::kill(pid, signal) } != 0 {
            self.report.fault = Some(io::Error::last_os_error().to_string());
        }
    }
}

fn serve(peer: &UnixStream, keepers: &mut [Keeper]) -> io::Result<()> {
    peer.set_nonblocking(false)?;
    peer.set_read_timeout(Some(ORDER_LIMIT))?;
    peer.set_write_timeout(Some(ORDER_LIMIT))?;
    let mut line = String::new();
    BufReader::new(peer).read_line(&mut line)?;
    let report = match serde_json::from_str::<Order>(&line) {
        Ok(order) => keepers.iter_mut().find(|keeper| keeper.program == order.program).map(|k| k.obey(order.act)),
        Err(error) => Some(Report { fault: Some(format!("not an order: {error}")), ..Report::default() }),
    };
    let report = report.unwrap_or_default();
    let mut answer = serde_json::to_vec(&report).map_err(io::Error::other)?;
    answer.push(b'\n');
    let mut peer = peer;
    peer.write_all(&answer)
}

fn wait_for(listener: &UnixListener, deaths: &OwnedFd, due: Option<Instant>) {
    let mut fds = [
        PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN),
        PollFd::from_borrowed_fd(deaths.as_fd(), PollFlags::IN),
    ];
    let timeout = due
        .map(|due| due.saturating_duration_since(Instant::now()))
        .map(|left| Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() });
    // An interruption only means one more turn.
    let _ = poll(&mut fds, timeout.as_ref());
}

/// A descriptor that becomes readable when a child ends: signalfd(2) on SIGCHLD.
fn child_signals() -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised by sigemptyset before it is read; this process has one thread.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        if libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

fn drain(deaths: &OwnedFd) {
    let mut buffer = [0; 1024];
    while rustix::io::read(deaths, &mut buffer).is_ok_and(|n| n > 0) {}
}

fn describe(status: WaitStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (_, Some(signal)) => format!("signal {signal}"),
        _ => "unknown".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init::Role;

    fn keeper() -> Keeper {
        let agent = AgentCommand { argv: vec!["/nonexistent/agent".into()], env: std::collections::BTreeMap::new() };
        let spec = Spec {
            lab: "x".into(),
            name: "n1".into(),
            role: Role::Machine,
            dir: std::env::temp_dir(),
            programs: std::collections::BTreeMap::from([(Program::Agent, agent)]),
            host: None,
        };
        Keeper::new(&spec, Program::Agent)
    }

    #[test]
    fn a_program_that_cannot_start_is_tried_later_and_later() {
        let mut keeper = keeper();
        keeper.log = "/dev/null".into();
        keeper.start_if_due();
        assert_eq!(keeper.report.starts, 1);
        assert!(keeper.report.last_end.as_ref().unwrap().starts_with("not started"));
        assert_eq!(keeper.backoff, BACKOFF.0 * 2);
        for _ in 0..10 {
            keeper.ended("exit code 1".into(), false);
        }
        assert_eq!(keeper.backoff, BACKOFF.1);
    }

    #[test]
    fn a_killed_program_is_due_at_once_unless_held() {
        let mut keeper = keeper();
        keeper.report.pid = Some(7);
        keeper.ended("signal 9".into(), true);
        assert!(keeper.next_start.unwrap() <= Instant::now());
        let report = keeper.obey(Act::Signal { signal: 9, hold: true });
        assert!(report.held);
        assert_eq!(report.fault.as_deref(), Some("the agent does not run"));
        keeper.start_if_due();
        assert_eq!(keeper.report.starts, 0, "a held program is not started");
        assert!(!keeper.obey(Act::Release).held);
    }
}
