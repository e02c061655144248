//! Processes by identity: a pid with its start time, so that a recycled pid is never mistaken for the process it was.
//!
//! Signals go through a pidfd that was opened before the identity was checked, so nothing can happen in between.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal, waitpid};
use serde::{Deserialize, Serialize};

use crate::layout::MEMBER;

/// How long one look at a dying process may take before the next is looked at.
const ROUND: Duration = Duration::from_millis(5);

/// One process of this boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its number in the host's pid namespace.
    pub pid: i32,
    /// When it started, in clock ticks since boot: field 22 of `/proc/PID/stat` (proc(5)).
    pub start: u64,
}

impl ProcessId {
    /// The identity of a living process; none when there is no such process, or it has ended and waits to be reaped.
    #[must_use]
    pub fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (state, start) = state_and_start(&stat)?;
        (!matches!(state, 'Z' | 'X')).then_some(Self { pid, start })
    }

    /// Whether the process lives.
    #[must_use]
    pub fn alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// A handle on the process; none if it is gone.
    #[must_use]
    pub fn open(self) -> Option<OwnedFd> {
        let fd = pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::empty()).ok()?;
        self.alive().then_some(fd)
    }

    /// Sends a signal; false if the process is gone.
    pub fn signal(self, signal: Signal) -> bool {
        self.open().is_some_and(|fd| pidfd_send_signal(fd, signal).is_ok())
    }

    /// Its folder under `/proc`.
    fn dir(self) -> PathBuf {
        PathBuf::from(format!("/proc/{}", self.pid))
    }

    /// Kills the process and waits until it has ended. False if it still lives after `limit`.
    pub fn kill(self, limit: Duration) -> bool {
        kill_all(&BTreeSet::from([self]), limit)
    }
}

/// Kills processes and waits until all have ended. False if one still lives after `limit`.
///
/// A process 1 ends only when everything in its pid namespace was reaped, and what this program started there only this
/// program can reap. So it does, while it waits.
pub fn kill_all(processes: &BTreeSet<ProcessId>, limit: Duration) -> bool {
    let mut open: Vec<(ProcessId, OwnedFd)> = processes.iter().filter_map(|id| Some((*id, id.open()?))).collect();
    let firsts = open.iter().map(|(id, _)| id.dir()).filter(|dir| number_inside(dir) == Some(1));
    let spaces: BTreeSet<PathBuf> = firsts.filter_map(|dir| pid_space(&dir)).collect();
    for (_, fd) in &open {
        // An error means that it has just ended.
        let _ = pidfd_send_signal(fd, Signal::KILL);
    }
    let deadline = Instant::now() + limit;
    while !open.is_empty() {
        open.retain(|(id, fd)| {
            let over = ended(fd, ROUND);
            if over {
                reap(id.pid);
            }
            !over
        });
        if open.is_empty() {
            break;
        }
        reap_inside(&spaces);
        if Instant::now() >= deadline {
            return false;
        }
    }
    true
}

/// Takes a dead child's exit status, so that it does not stay as a zombie. Nothing happens if it is not our child.
pub fn reap(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = waitpid(Some(pid), WaitOptions::NOHANG);
    }
}

/// All processes that carry the lab's name in their environment, except this one and its ancestors.
#[must_use]
pub fn members(lab: &str) -> BTreeSet<ProcessId> {
    let mark = format!("{MEMBER}={lab}").into_bytes();
    select(|dir| fs::read(dir.join("environ")).is_ok_and(|all| all.split(|b| *b == 0).any(|one| one == mark)))
}

/// All processes whose network namespace is one of these inodes, except this one and its ancestors.
#[must_use]
pub fn in_namespaces(inodes: &BTreeSet<u64>) -> BTreeSet<ProcessId> {
    use std::os::unix::fs::MetadataExt;
    if inodes.is_empty() {
        return BTreeSet::new();
    }
    select(|dir| fs::metadata(dir.join("ns/net")).is_ok_and(|meta| inodes.contains(&meta.ino())))
}

/// The process of a pid namespace that has the number `inner` there. `init` is any process of the namespace.
#[must_use]
pub fn by_inner_pid(init: ProcessId, inner: i32) -> Option<ProcessId> {
    let space = pid_space(&init.dir())?;
    let same_space = |dir: &Path| pid_space(dir).is_some_and(|found| found == space);
    select(|dir| same_space(dir) && number_inside(dir) == Some(inner)).into_iter().next()
}

fn select(wanted: impl Fn(&Path) -> bool) -> BTreeSet<ProcessId> {
    let spared = self_and_ancestors();
    let Ok(entries) = fs::read_dir("/proc") else { return BTreeSet::new() };
    entries
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse::<i32>().ok()?, entry.path())))
        .filter(|(pid, _)| !spared.contains(pid))
        .filter_map(|(pid, dir)| {
            // The identity is read first: if the pid is recycled in between, the start time differs at the kill.
            let id = ProcessId::of(pid)?;
            wanted(&dir).then_some(id)
        })
        .collect()
}

fn self_and_ancestors() -> BTreeSet<i32> {
    let mut found = BTreeSet::new();
    let mut pid = i32::try_from(std::process::id()).unwrap_or(0);
    while pid > 0 && found.insert(pid) {
        let parent = fs::read_to_string(format!("/proc/{pid}/stat")).ok().and_then(|stat| parent_of(&stat));
        pid = parent.unwrap_or(0);
    }
    found
}

/// Whether a process has ended, or does so within `limit`.
fn ended(pidfd: &OwnedFd, limit: Duration) -> bool {
    let timeout = Timespec { tv_sec: limit.as_secs().cast_signed(), tv_nsec: limit.subsec_nanos().into() };
    let mut fds = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
    match poll(&mut fds, Some(&timeout)) {
        Ok(0) | Err(rustix::io::Errno::INTR) => false,
        Ok(_) | Err(_) => true,
    }
}

/// Takes the exit status of every dead child of ours that was in one of these pid namespaces.
fn reap_inside(spaces: &BTreeSet<PathBuf>) {
    let Ok(entries) = fs::read_dir("/proc") else { return };
    for entry in entries.flatten().filter(|_| !spaces.is_empty()) {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(pid) = pid
            && pid_space(&entry.path()).is_some_and(|space| spaces.contains(&space))
        {
            reap(pid);
        }
    }
}

/// The pid namespace of a process, also of one that has ended and waits to be reaped.
fn pid_space(dir: &Path) -> Option<PathBuf> {
    fs::read_link(dir.join("ns/pid")).ok()
}

/// The fields behind the command name, which may itself contain blanks and brackets.
fn after_name(stat: &str) -> Option<impl Iterator<Item = &str>> {
    Some(stat.rsplit_once(") ")?.1.split(' '))
}

fn state_and_start(stat: &str) -> Option<(char, u64)> {
    let mut fields = after_name(stat)?;
    let state = fields.next()?.chars().next()?;
    // Field 22 of all is the 19th behind the state, which is field 3.
    Some((state, fields.nth(18)?.parse().ok()?))
}

fn parent_of(stat: &str) -> Option<i32> {
    after_name(stat)?.nth(1)?.parse().ok()
}

/// A process's number in its own pid namespace.
fn number_inside(dir: &Path) -> Option<i32> {
    inner_pid(&fs::read_to_string(dir.join("status")).ok()?)
}

fn inner_pid(status: &str) -> Option<i32> {
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_whitespace().next_back()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "42 (a) b (c) S 7 42 42 0 -1 4194560 95 0 0 0 0 0 0 0 20 0 1 0 123456 2670592 85";

    #[test]
    fn stat_is_read_behind_a_name_with_brackets() {
        assert_eq!(state_and_start(STAT), Some(('S', 123_456)));
        assert_eq!(parent_of(STAT), Some(7));
        assert_eq!(inner_pid("Name:\tx\nNSpid:\t901\t12\n"), Some(12));
    }

    #[test]
    fn a_recycled_pid_is_another_process() {
        let me = ProcessId::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(me.alive());
        let other = ProcessId { start: me.start + 1, ..me };
        assert!(!other.alive() && other.open().is_none() && !other.signal(Signal::KILL));
    }

    #[test]
    fn a_marked_child_is_found_and_killed() {
        let lab = format!("unit-{}", std::process::id());
        let mut child = std::process::Command::new("sleep").arg("60").env(MEMBER, &lab).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let found = members(&lab);
        assert_eq!(found.iter().map(|id| id.pid).collect::<Vec<_>>(), [pid]);
        assert!(kill_all(&found, Duration::from_secs(10)));
        assert!(members(&lab).is_empty());
        assert!(ProcessId::of(pid).is_none());
        assert!(child.wait().is_err(), "it was reaped");
    }
}
