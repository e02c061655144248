//! The end of the process as an event of a descriptor.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd};

use super::check;

/// SIGTERM and SIGINT from now on make this descriptor readable and do nothing else, in this thread and in those it
/// starts.
///
/// # Errors
/// As signalfd(2).
pub fn endings() -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised by sigemptyset before it is read; all pointers are to it, or null where the manual
    // allows it; the descriptor is new and has no other owner.
    unsafe {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        check(libc::sigemptyset(set.as_mut_ptr()))?;
        check(libc::sigaddset(set.as_mut_ptr(), libc::SIGTERM))?;
        check(libc::sigaddset(set.as_mut_ptr(), libc::SIGINT))?;
        let code = libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
        if code != 0 {
            return Err(io::Error::from_raw_os_error(code));
        }
        let fd = check(libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}
