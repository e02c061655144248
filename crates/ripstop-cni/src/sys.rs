//! The few system calls of the plugin, with deadlines.

use alloc::vec::Vec;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd};
use rustix::io::Errno;
use rustix::thread::{NanosleepRelativeResult, nanosleep};
use rustix::time::{ClockId, clock_gettime};

/// A point of the monotonic clock, in milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(u64);

impl Deadline {
    /// `ms` milliseconds from now.
    pub fn after(ms: u64) -> Self {
        Self(now_ms().saturating_add(ms))
    }

    /// Milliseconds left; zero if it has passed.
    pub fn left_ms(self) -> u64 {
        self.0.saturating_sub(now_ms())
    }
}

/// Why an exchange of bytes came to no good end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The deadline passed.
    TimedOut,
    /// More bytes than the bound.
    TooLong,
    /// The system call failed.
    Errno(Errno),
}

/// Standard input.
pub fn stdin() -> BorrowedFd<'static> {
    // SAFETY: no code of this program closes descriptor 0; if the runtime left it closed, reading says EBADF.
    unsafe { BorrowedFd::borrow_raw(0) }
}

/// Standard output.
pub fn stdout() -> BorrowedFd<'static> {
    // SAFETY: as for stdin.
    unsafe { BorrowedFd::borrow_raw(1) }
}

/// Standard error.
pub fn stderr() -> BorrowedFd<'static> {
    // SAFETY: as for stdin.
    unsafe { BorrowedFd::borrow_raw(2) }
}

/// Waits until a descriptor can be used, or its other end is gone.
pub fn wait(fd: impl AsFd, what: PollFlags, deadline: Deadline) -> Result<(), Failure> {
    loop {
        let left = deadline.left_ms();
        let mut fds = [PollFd::new(&fd, what)];
        match poll(&mut fds, Some(&timespec(left))) {
            Ok(0) if deadline.left_ms() == 0 => return Err(Failure::TimedOut),
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(errno) => return Err(Failure::Errno(errno)),
        }
    }
}

/// Reads until `done` says so, or the end.
pub fn read_all(
    fd: impl AsFd,
    bound: usize,
    deadline: Deadline,
    done: impl Fn(&[u8]) -> bool,
) -> Result<Vec<u8>, Failure> {
    const STEP: usize = 8 << 10;
    let mut bytes = Vec::with_capacity(STEP);
    loop {
        wait(&fd, PollFlags::IN, deadline)?;
        let start = bytes.len();
        bytes.resize(start + STEP, 0);
        let read = rustix::io::read(&fd, &mut bytes[start..]);
        bytes.truncate(start + read.unwrap_or(0));
        match read {
            Ok(0) => return Ok(bytes),
            Ok(_) if bytes.len() > bound => return Err(Failure::TooLong),
            Ok(_) if done(&bytes[start..]) => return Ok(bytes),
            Ok(_) | Err(Errno::INTR | Errno::AGAIN) => {}
            Err(errno) => return Err(Failure::Errno(errno)),
        }
    }
}

/// Writes all bytes to standard output or standard error.
pub fn write_all(fd: impl AsFd, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(&fd, bytes) {
            Ok(0) => return Err(Errno::IO),
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let _ = wait(&fd, PollFlags::OUT, Deadline::after(1_000));
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Sleeps; a signal may end it early.
pub fn sleep_ms(ms: u64) {
    match nanosleep(&timespec(ms)) {
        NanosleepRelativeResult::Ok | NanosleepRelativeResult::Interrupted(_) | NanosleepRelativeResult::Err(_) => {}
    }
}

/// What an error number means where it can be met here, in the words of errno(3).
pub fn explain(errno: Errno) -> &'static str {
    match errno {
        Errno::ACCESS => "permission denied",
        Errno::AGAIN => "the queue of the socket is full",
        Errno::BADF => "not open",
        Errno::CONNREFUSED => "connection refused",
        Errno::CONNRESET => "connection reset",
        Errno::IO => "input/output error",
        Errno::ISDIR => "is a directory",
        Errno::LOOP => "too many symbolic links",
        Errno::MFILE | Errno::NFILE => "too many open files",
        Errno::NOENT => "no such file",
        Errno::NOTDIR => "a part of the path is not a directory",
        Errno::PERM => "operation not permitted",
        Errno::PIPE => "broken pipe",
        Errno::PROTOTYPE => "a socket of another type",
        _ => "an unusual error",
    }
}

fn now_ms() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let (secs, nanos) = (u64::try_from(now.tv_sec).unwrap_or(0), u64::try_from(now.tv_nsec).unwrap_or(0));
    secs * 1_000 + nanos / 1_000_000
}

fn timespec(ms: u64) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(ms / 1_000).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(ms % 1_000 * 1_000_000).unwrap_or(0),
    }
}
