//! Interruption of the commands that only ask and print, and the end of those that have nothing left to do.

use std::io;
use std::mem::MaybeUninit;

use crate::failure::INTERRUPTED;

/// From now on SIGINT ends the program with [`INTERRUPTED`], so that a caller that waits for it sees an exit code, as one
/// behind a shell does. Where SIGINT is ignored, as in a background job, it stays ignored.
///
/// Not for the agent, the store and the lab: they end in order.
pub fn end_when_interrupted() {
    extern "C" fn end(_: libc::c_int) {
        // SAFETY: _exit is async-signal-safe and touches nothing of the program.
        unsafe { libc::_exit(libc::c_int::from(INTERRUPTED)) }
    }
    let handler = end as extern "C" fn(libc::c_int) as libc::sighandler_t;
    // SAFETY: the handler calls _exit only, and lives as long as the program.
    unsafe {
        if libc::signal(libc::SIGINT, handler) == libc::SIG_IGN {
            libc::signal(libc::SIGINT, libc::SIG_IGN);
        }
    }
}

/// Waits for SIGTERM or SIGINT. From here on they do nothing else in this thread.
///
/// # Errors
/// As sigwait(3).
pub fn wait() -> io::Result<()> {
    // SAFETY: the set is initialised before it is read, and all pointers are to values that live as long as the calls.
    let code = unsafe {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGTERM);
        libc::sigaddset(set.as_mut_ptr(), libc::SIGINT);
        libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
        let mut signal = 0;
        libc::sigwait(set.as_ptr(), &raw mut signal)
    };
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code)) }
}
