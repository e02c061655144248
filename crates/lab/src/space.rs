//! Namespaces: made, entered and given up by system calls.
//!
//! Nothing here changes the calling thread: what enters a namespace does so on a thread of its own that ends with it.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Child, Command};
use std::thread;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_change, unmount};
use rustix::thread::{
    LinkNameSpaceType, ThreadNameSpaceType, UnshareFlags, move_into_link_name_space, move_into_thread_name_spaces,
    unshare_unsafe,
};

use crate::error::{Attempt, LabError, Result};
use crate::layout::NETNS_DIR;
use crate::process::ProcessId;

/// Makes `/run/netns` what `ip netns` makes of it: a shared mount, so that namespaces appear in every machine.
pub fn prepare_netns_dir() -> Result<()> {
    let doing = || format!("prepare {NETNS_DIR}");
    fs::create_dir_all(NETNS_DIR).attempt(doing)?;
    let dir = File::open(NETNS_DIR).attempt(doing)?;
    // iproute2 takes the same lock: two at once would stack two mounts.
    flock(&dir, FlockOperation::LockExclusive).attempt(doing)?;
    let shared = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
    match mount_change(NETNS_DIR, shared) {
        Err(Errno::INVAL) => {
            rustix::mount::mount_bind_recursive(NETNS_DIR, NETNS_DIR).attempt(doing)?;
            mount_change(NETNS_DIR, shared).attempt(doing)
        }
        other => other.attempt(doing),
    }
}

/// Makes a network namespace and gives it a name for `ip netns`. Its loopback interface is down.
pub fn netns_add(name: &str) -> Result<()> {
    let path = Path::new(NETNS_DIR).join(name);
    let doing = || format!("make the network namespace {name}");
    fs::OpenOptions::new().read(true).write(true).create_new(true).mode(0o444).open(&path).attempt(doing)?;
    let made = on_thread(|| {
        unshare(UnshareFlags::NEWNET)?;
        mount_bind("/proc/thread-self/ns/net", &path)
    });
    if made.is_err() {
        let _ = fs::remove_file(&path);
    }
    made.attempt(doing)
}

/// Gives up a named network namespace. The kernel removes it when nothing uses it any more. Succeeds if there is none.
pub fn netns_del(name: &str) -> Result<()> {
    let path = Path::new(NETNS_DIR).join(name);
    loop {
        match unmount(&path, UnmountFlags::DETACH) {
            // More than one mount may lie on one name after a crash.
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT) => break,
            Err(error) => return Err(error).attempt(|| format!("unmount {}", path.display())),
        }
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).attempt(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// The inode number of a named namespace; none if there is none or the name is not mounted.
#[must_use]
pub fn netns_inode(name: &str) -> Option<u64> {
    let meta = fs::metadata(Path::new(NETNS_DIR).join(name)).ok()?;
    // A name without its mount is a plain file of length 0 on another device than nsfs.
    let dir = fs::metadata(NETNS_DIR).ok()?;
    (meta.dev() != dir.dev()).then(|| meta.ino())
}

/// Runs a function inside a network namespace and returns what it returned. Sockets made there stay there.
pub fn in_netns<T: Send>(path: &Path, run: impl FnOnce() -> T + Send) -> Result<T> {
    let file = File::open(path).attempt(|| format!("open the network namespace {}", path.display()))?;
    on_thread(|| {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(run())
    })
    .attempt(|| format!("enter the network namespace {}", path.display()))
}

/// Where a new process starts.
#[derive(Debug, Default)]
pub struct Place {
    process: Option<OwnedFd>,
    netns: Option<OwnedFd>,
    fresh: Option<UnshareFlags>,
}

impl Place {
    /// The host.
    #[must_use]
    pub fn host() -> Self {
        Self::default()
    }

    /// Beside a process: in all its namespaces.
    pub fn beside(process: ProcessId) -> Result<Self> {
        let fd = process.open().ok_or_else(|| LabError::failed(format!("process {} is gone", process.pid)))?;
        Ok(Self { process: Some(fd), ..Self::default() })
    }

    /// The same place, but in this network namespace.
    pub fn in_netns(self, path: &Path) -> Result<Self> {
        let file = File::open(path).attempt(|| format!("open the network namespace {}", path.display()))?;
        Ok(Self { netns: Some(file.into()), ..self })
    }

    /// The same place, with new namespaces of these kinds.
    #[must_use]
    pub fn with_new(self, kinds: UnshareFlags) -> Self {
        Self { fresh: Some(kinds), ..self }
    }

    /// Starts a program here. Its parent is this process, whatever its pid namespace.
    ///
    /// The program is looked up with the file system of the place, and the working directory is `/` unless the command
    /// names one.
    pub fn spawn(&self, command: &mut Command) -> Result<Child> {
        let program = command.get_program().to_string_lossy().into_owned();
        on_thread(|| {
            self.enter()?;
            command.spawn().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
        })
        .attempt(|| format!("start {program}"))
    }

    /// Moves the calling thread to the place. Processes it starts afterwards are there; it must start no thread.
    pub(crate) fn enter(&self) -> Result<(), Errno> {
        // A thread that shares its working directory with others may not change its mount namespace.
        unshare(UnshareFlags::FS)?;
        if let Some(process) = &self.process {
            move_into_thread_name_spaces(process.as_fd(), EVERY_KIND)?;
        }
        if let Some(netns) = &self.netns {
            move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
        }
        self.fresh.map_or(Ok(()), unshare)
    }
}

const EVERY_KIND: ThreadNameSpaceType = ThreadNameSpaceType::MOUNT
    .union(ThreadNameSpaceType::NETWORK)
    .union(ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME)
    .union(ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION)
    .union(ThreadNameSpaceType::PROCESS_ID);

/// Runs a function on a thread of its own, which may change its namespaces freely.
pub(crate) fn on_thread<T: Send>(run: impl FnOnce() -> Result<T, Errno> + Send) -> Result<T, Errno> {
    thread::scope(|scope| scope.spawn(run).join().unwrap_or(Err(Errno::IO)))
}

pub(crate) fn unshare(kinds: UnshareFlags) -> Result<(), Errno> {
    // SAFETY: descriptors stay shared (no FILES), the only thing that could surprise other threads.
    unsafe { unshare_unsafe(kinds) }
}
