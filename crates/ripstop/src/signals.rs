//! Interruption of the commands that only ask and print.

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
