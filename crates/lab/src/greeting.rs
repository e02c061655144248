//! The first line of an init, and which process said it.
//!
//! An init may be forked inside another pid namespace, where it has another number. The kernel translates: it attaches the
//! sender to each message, as the receiver's pid namespace sees it (unix(7), SO_PASSCRED).

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::cmsg_space;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg, sockopt};
use rustix::process::Pid;

/// Where a line is awaited.
#[derive(Debug)]
pub(crate) struct Listener {
    ours: UnixStream,
}

/// What was said first, and by whom.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Greeting {
    /// The line without its end; empty if nothing came.
    pub(crate) line: String,
    /// The process that wrote it, as the host numbers it.
    pub(crate) pid: Option<i32>,
}

/// A listener, and the output to give to the program.
pub(crate) fn pair() -> io::Result<(Listener, Stdio)> {
    let (ours, theirs) = UnixStream::pair()?;
    sockopt::set_socket_passcred(&ours, true)?;
    Ok((Listener { ours }, Stdio::from(OwnedFd::from(theirs))))
}

impl Listener {
    /// Waits for the first line, at most `limit`. Every copy of the other end must be closed here before.
    pub(crate) fn listen(self, limit: Duration) -> io::Result<Greeting> {
        let deadline = Instant::now() + limit;
        let mut said = Vec::new();
        let mut pid = None;
        while !said.contains(&b'\n') && self.readable(deadline)? {
            let mut buffer = [0; 4096];
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmCredentials(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let message =
                recvmsg(&self.ours, &mut [IoSliceMut::new(&mut buffer)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
            if message.bytes == 0 {
                break;
            }
            said.extend_from_slice(&buffer[..message.bytes]);
            for item in control.drain() {
                if let RecvAncillaryMessage::ScmCredentials(sender) = item {
                    pid = Some(Pid::as_raw(Some(sender.pid)));
                }
            }
        }
        let line = said.split(|byte| *byte == b'\n').next().unwrap_or_default();
        Ok(Greeting { line: String::from_utf8_lossy(line).into_owned(), pid })
    }

    fn readable(&self, deadline: Instant) -> io::Result<bool> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
            let mut fds = [PollFd::from_borrowed_fd(self.ours.as_fd(), PollFlags::IN)];
            match poll(&mut fds, Some(&timeout)) {
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
                Ok(ready) => return Ok(ready > 0),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn greeting_of(script: &str) -> (Greeting, i32) {
        let (listener, out) = pair().unwrap();
        let mut child = Command::new("sh").args(["-c", script]).stdout(out).spawn().unwrap();
        let greeting = listener.listen(Duration::from_secs(10)).unwrap();
        child.wait().unwrap();
        (greeting, i32::try_from(child.id()).unwrap())
    }

    #[test]
    fn the_speaker_is_known() {
        let (greeting, pid) = greeting_of("echo ready; echo more");
        assert_eq!(greeting, Greeting { line: "ready".into(), pid: Some(pid) });
        let (greeting, pid) = greeting_of("(echo inner; true)");
        assert_eq!(greeting.line, "inner");
        assert!(greeting.pid.is_some_and(|speaker| speaker >= pid));
    }

    #[test]
    fn silence_is_an_empty_line() {
        assert_eq!(greeting_of("exit 3").0, Greeting::default());
    }
}
