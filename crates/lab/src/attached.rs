//! `lab exec`: a program in a target with this command's own input, output, errors, signals and exit status.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};
use std::sync::mpsc;
use std::thread;

use crate::error::{Attempt, LabError, Result};
use crate::layout::MEMBER;
use crate::space::Place;

/// Signals that are passed on.
const PASSED: [libc::c_int; 7] =
    [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT, libc::SIGUSR1, libc::SIGUSR2, libc::SIGWINCH];

/// Runs a program and returns its exit code; 128 and the signal's number if a signal ended it, as shells do; 127 if
/// there is no such program, 126 if it cannot be run.
///
/// For commands, not for libraries: it takes the signals of the calling thread, which should be the only one.
pub fn run(place: &Place, lab: &str, argv: &[OsString]) -> Result<u8> {
    let (program, args) = argv.split_first().ok_or_else(|| LabError::usage("no command"))?;
    let mut command = Command::new(program);
    command.args(args).env(MEMBER, lab).current_dir(working_directory());
    leave_signals(&mut command);
    let signals = block_signals().attempt(|| "block signals".into())?;
    let started = with_child(place, &mut command, |pid| wait(pid, &signals));
    match started {
        Ok(status) => status.map(code).attempt(|| format!("wait for {}", program.display())),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound => said(127, program, &error),
            io::ErrorKind::PermissionDenied => said(126, program, &error),
            _ => Err(error).attempt(|| format!("start {}", program.display())),
        },
    }
}

/// The program starts with no signal blocked, and ends with who started it.
fn leave_signals(command: &mut Command) {
    // SAFETY: prctl(2) and sigprocmask(2) are system calls and allocate nothing; the set is initialised before it is read.
    unsafe {
        command.pre_exec(|| {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
            // The standard library leaves what is blocked blocked, and SIGINT would end nothing.
            let mut none = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            match libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        });
    }
}

/// Starts the program on a thread that stays until it has ended: the program is to die with the thread that started it.
fn with_child<T>(place: &Place, command: &mut Command, wait: impl FnOnce(i32) -> T) -> io::Result<T> {
    let (started, start) = mpsc::channel();
    let (done, until_done) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            let child = place.enter().map_err(io::Error::from).and_then(|()| command.spawn());
            let pid = child.and_then(|child| i32::try_from(child.id()).map_err(io::Error::other));
            let _ = started.send(pid);
            let _ = until_done.recv();
        });
        let pid = start.recv().unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()));
        let answer = pid.map(wait);
        drop(done);
        answer
    })
}

/// Passes signals on until the program has ended.
fn wait(pid: i32, signals: &libc::sigset_t) -> io::Result<ExitStatus> {
    loop {
        let mut status = 0;
        // SAFETY: waitpid(2) writes one integer, which lives here.
        match unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) } {
            0 => {}
            found if found == pid => return Ok(ExitStatus::from_raw(status)),
            _ => return Err(io::Error::last_os_error()),
        }
        // SAFETY: all bytes zero is a valid value; sigwaitinfo(2) fills it, or fails and leaves it.
        let (signal, from_user) = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            (libc::sigwaitinfo(signals, &raw mut info), info.si_code <= 0)
        };
        // What the terminal sends, the kernel sends to the whole foreground group: the program has it already.
        if signal > 0 && signal != libc::SIGCHLD && from_user {
            // SAFETY: kill(2) takes plain numbers; the pid is our child, not reaped yet.
            unsafe { libc::kill(pid, signal) };
        }
    }
}

/// Blocks what is passed on, and SIGCHLD, so that none is lost between two waits.
fn block_signals() -> io::Result<libc::sigset_t> {
    // SAFETY: the set is initialised by sigemptyset before it is read.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in PASSED.into_iter().chain([libc::SIGCHLD]) {
            libc::sigaddset(&raw mut set, signal);
        }
        match libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) {
            0 => Ok(set),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }
}

/// The caller's folder, if the target has it.
fn working_directory() -> std::path::PathBuf {
    let here = std::env::current_dir().unwrap_or_default();
    // Machines and pods have a `/run` of their own.
    if here.is_absolute() && !here.starts_with("/run") { here } else { "/".into() }
}

fn code(status: ExitStatus) -> u8 {
    let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}

fn said(code: u8, program: &OsString, error: &io::Error) -> Result<u8> {
    use io::Write;
    let _ = writeln!(io::stderr(), "{}: {error}", program.display());
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_starts_with_no_signal_blocked() {
        let mut look = Command::new("grep");
        look.args(["-qE", "^SigBlk:[[:space:]]*0+$", "/proc/self/status"]);
        leave_signals(&mut look);
        // On a thread of its own, which takes the blocked signals along.
        let status = thread::spawn(move || {
            block_signals().unwrap();
            look.status().unwrap()
        });
        assert!(status.join().unwrap().success());
    }

    #[test]
    fn codes_are_those_of_a_shell() {
        assert_eq!(code(ExitStatus::from_raw(3 << 8)), 3);
        assert_eq!(code(ExitStatus::from_raw(libc::SIGTERM)), 143);
        assert_eq!(code(ExitStatus::from_raw(0)), 0);
    }
}
