//! Network namespaces: opened by path, entered for the length of a closure.
//!
//! A namespace belongs to a thread. [`Netns::run`] takes the calling thread in and back again, so it must be called on a
//! plain thread that runs nothing else meanwhile; sockets opened inside stay in the namespace after the return.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// `ioctl` that tells a namespace's type (linux/nsfs.h).
const NS_GET_NSTYPE: libc::c_ulong = 0xb703;
/// Where a thread finds its own network namespace.
const OWN: &str = "/proc/thread-self/ns/net";

/// What is wrong with a path to a network namespace.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetnsError {
    /// Nothing is there: the namespace is gone, or never was.
    #[error("{path}: there is no such network namespace")]
    Gone {
        /// The path.
        path: Box<str>,
    },
    /// There is something else.
    #[error("{path} is not a network namespace")]
    NotANamespace {
        /// The path.
        path: Box<str>,
    },
    /// The path leads to the agent's own namespace, in which a pod's settings would be harmful.
    #[error("{path} is the node's own network namespace, not a pod's")]
    Own {
        /// The path.
        path: Box<str>,
    },
    /// The kernel does not let us in.
    #[error("{path}: cannot {what}: {error}")]
    Io {
        /// The path.
        path: Box<str>,
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        error: Box<str>,
    },
}

impl NetnsError {
    /// Whether the namespace does not exist, so that nothing is left in it to be removed.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Gone { .. } | Self::NotANamespace { .. })
    }
}

/// An open network namespace. It lives at least as long as this value.
pub struct Netns {
    fd: OwnedFd,
    path: Box<str>,
}

impl fmt::Debug for Netns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Netns").field(&self.path).finish()
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Netns {
    /// Opens the namespace a path leads to (`/run/netns/x`, `/proc/1/ns/net`).
    pub fn open(path: &str) -> Result<Self, NetnsError> {
        let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty());
        let fd = fd.map_err(|errno| match errno {
            rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR => NetnsError::Gone { path: path.into() },
            other => NetnsError::Io { path: path.into(), what: "open it", error: errno_text(other).into() },
        })?;
        // SAFETY: the request takes no argument and writes to no memory.
        let kind = unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_NSTYPE) };
        if kind != libc::CLONE_NEWNET {
            return Err(NetnsError::NotANamespace { path: path.into() });
        }
        Ok(Self { fd, path: path.into() })
    }

    /// The calling thread's own namespace.
    pub fn current() -> Result<Self, NetnsError> {
        Self::open(OWN)
    }

    /// The path it was opened by.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether both are the same namespace.
    pub fn is_same(&self, other: &Self) -> bool {
        let id = |ns: &Self| rustix::fs::fstat(&ns.fd).map(|s| (s.st_dev, s.st_ino));
        matches!((id(self), id(other)), (Ok(a), Ok(b)) if a == b)
    }

    /// Runs `work` with the calling thread inside the namespace, and takes the thread back also when `work` panics.
    pub fn run<T>(&self, work: impl FnOnce() -> T) -> Result<T, NetnsError> {
        in_ns(self.as_fd(), work).map_err(|error| NetnsError::Io {
            path: self.path.clone(),
            what: "enter it",
            error: error.to_string().into(),
        })
    }
}

/// Runs `work` with the calling thread in the namespace of `fd`. The thread always comes back; if the kernel refused
/// that, the process ends, because everything it did from then on would go to the wrong namespace.
pub fn in_ns<T>(fd: BorrowedFd<'_>, work: impl FnOnce() -> T) -> std::io::Result<T> {
    let home = rustix::fs::open(OWN, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    move_into_link_name_space(fd, Some(LinkNameSpaceType::Network))?;
    let _back = Back(home);
    Ok(work())
}

struct Back(OwnedFd);

impl Drop for Back {
    fn drop(&mut self) {
        if let Err(error) = move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network)) {
            tracing::error!(%error, "cannot return to the node's network namespace");
            std::process::abort();
        }
    }
}

fn errno_text(errno: rustix::io::Errno) -> String {
    crate::error::errno_text(errno.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_namespace_is_named() {
        let fault = Netns::open("/etc/hostname").unwrap_err();
        assert_eq!(fault.to_string(), "/etc/hostname is not a network namespace");
        assert!(matches!(Netns::open("/proc/self/ns/mnt").unwrap_err(), NetnsError::NotANamespace { .. }));
        let gone = Netns::open("/run/netns/rip-no-such").unwrap_err();
        assert!(gone.is_gone(), "{gone}");
        let own = Netns::current().unwrap();
        assert!(own.is_same(&Netns::open("/proc/thread-self/ns/net").unwrap()));
    }
}
