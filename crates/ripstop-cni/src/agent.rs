//! One call to the agent: connect, send, wait for the answer, and try again while there is time.
//!
//! The agent may not have started yet, be on its way down or up, or be killed in the middle of a call. Connecting is
//! tried again at short intervals; a request whose connection was lost is sent again under the same id and the next
//! attempt number, which lets the agent recognise it.

use alloc::format;
use alloc::string::String;

use ripstop_cni_spec::wire::{MAX_LINE, Request, Response};
use ripstop_cni_spec::{Code, Error};
use rustix::event::PollFlags;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, send, socket_with};

use crate::sys::{self, Deadline, Failure};

/// The first pause before connecting again, in milliseconds; each is twice the one before, up to [`LAST_PAUSE`].
const FIRST_PAUSE: u64 = 2;
/// The longest pause, in milliseconds: about how long an agent that is back goes unnoticed.
const LAST_PAUSE: u64 = 50;

/// How a call may be tried.
pub struct Patience {
    /// When to give up, answer or not.
    pub deadline: Deadline,
    /// Give up at the first failure instead.
    pub once: bool,
    /// The whole time, for the sentence.
    pub total_ms: u64,
}

/// Why there is no answer.
enum Trouble {
    /// The socket cannot be reached.
    Connect(Errno),
    /// The connection ended before the answer was whole.
    Lost,
    /// The connection stands, and no answer has come.
    Silent,
}

/// Sends the request until there is an answer. `Err` is what the runtime is to be told where there is none.
pub fn call(path: &str, request: &mut Request, patience: &Patience) -> Result<Response, Error> {
    let address = SocketAddrUnix::new(path).map_err(|_| {
        let msg = format!("socket is {path:?}: it must be a path of at most 107 bytes to the agent's unix socket");
        Error::new(Code::InvalidConfig, msg)
    })?;
    let mut tries = 0u32;
    let mut pause = FIRST_PAUSE;
    loop {
        tries += 1;
        let trouble = match dial(&address) {
            Ok(socket) => match exchange(&socket, request, patience.deadline)? {
                Ok(response) => return Ok(response),
                Err(trouble) => trouble,
            },
            Err(errno) => Trouble::Connect(errno),
        };
        let hopeless = matches!(trouble, Trouble::Connect(Errno::ACCESS | Errno::PERM));
        let left = patience.deadline.left_ms();
        if patience.once || hopeless || left == 0 {
            // An agent that kept closing the connection says more than one last try that was cut short.
            let cut_short = matches!(trouble, Trouble::Silent) && request.attempt > 1;
            let trouble = if cut_short { Trouble::Lost } else { trouble };
            return Err(no_answer(path, tries, request.attempt, &trouble, patience));
        }
        if matches!(trouble, Trouble::Lost) {
            request.attempt += 1;
        }
        sys::sleep_ms(pause.min(left));
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

/// A connection that never blocks: a full queue is an error at once.
fn dial(address: &SocketAddrUnix) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, address)?;
    Ok(socket)
}

fn exchange(socket: &OwnedFd, request: &mut Request, deadline: Deadline) -> Result<Result<Response, Trouble>, Error> {
    request.timeout_ms = deadline.left_ms();
    let line = request.to_line()?;
    // An agent that refuses early may close before it has read all: its answer is read all the same.
    match send_all(socket, &line, deadline) {
        Err(Failure::TimedOut) => return Ok(Err(Trouble::Silent)),
        Ok(()) | Err(Failure::TooLong | Failure::Errno(_)) => {}
    }
    let answer = sys::read_all(socket, MAX_LINE, deadline, |part| part.last() == Some(&b'\n'));
    match answer {
        Ok(line) if line.last() == Some(&b'\n') => Response::parse(&line).map(Ok),
        Ok(_) | Err(Failure::Errno(_)) => Ok(Err(Trouble::Lost)),
        Err(Failure::TimedOut) => Ok(Err(Trouble::Silent)),
        Err(Failure::TooLong) => {
            Err(Error::new(Code::Protocol, format!("the agent's answer is longer than {MAX_LINE} bytes")))
        }
    }
}

fn send_all(socket: &OwnedFd, mut bytes: &[u8], deadline: Deadline) -> Result<(), Failure> {
    while !bytes.is_empty() {
        match send(socket, bytes, SendFlags::NOSIGNAL) {
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::AGAIN) => sys::wait(socket, PollFlags::OUT, deadline)?,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Failure::Errno(errno)),
        }
    }
    Ok(())
}

/// What was tried, how it ended, and what the likely cause is.
fn no_answer(path: &str, tries: u32, attempt: u32, trouble: &Trouble, patience: &Patience) -> Error {
    let time = if patience.once { String::new() } else { format!(" within {} ms", patience.total_ms) };
    let sent = if attempt > 1 { format!(", sent the request {attempt} times") } else { String::new() };
    let (end, cause) = match trouble {
        Trouble::Connect(errno) => {
            let cause = match *errno {
                Errno::NOENT => {
                    "the agent is not running on this node or has not started yet, or the key socket of the network \
                     configuration names another path than the agent's"
                }
                Errno::CONNREFUSED => "the agent has stopped or is restarting",
                Errno::AGAIN => "the agent is overloaded or hangs",
                Errno::ACCESS | Errno::PERM => "the runtime must start this plugin as root",
                _ => "the path is not that of the agent's socket",
            };
            (format!("connecting to {path} failed: {}", sys::explain(*errno)), cause)
        }
        Trouble::Lost => (
            format!("{path} took the request and closed the connection without an answer"),
            "the agent was stopped, or it crashed: its log says which",
        ),
        Trouble::Silent => (
            format!("{path} took the connection and has not answered"),
            "the agent is overloaded, hangs, or waits for something: `ripstop describe` says for what",
        ),
    };
    let code = match trouble {
        Trouble::Connect(Errno::ACCESS | Errno::PERM) => Code::NotPermitted,
        _ => Code::TryAgainLater,
    };
    Error::new(code, format!("the Ripstop agent gave no answer{time}: {end}"))
        .with_details(format!("tried {tries} times{sent}; likely cause: {cause}"))
}
