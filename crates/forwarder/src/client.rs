//! The other side of the control socket, for whoever may block: tests, commands, and a forwarder that takes over.

use std::io::{self, BufRead, BufReader, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::control::{Answer, MOST_LINE, Request, Setup, Stats};
use crate::engine::Estate;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a forwarder did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientFault {
    /// The socket failed.
    #[error("the forwarder's socket: {0}")]
    Io(#[from] io::Error),
    /// It said no.
    #[error("the forwarder refused: {0}")]
    Refused(String),
    /// It said something else.
    #[error("the forwarder answered {0:?}, which is no answer to what it was asked")]
    Unexpected(String),
}

/// A connection to a forwarder.
#[derive(Debug)]
pub struct Client(BufReader<UnixStream>);

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// Where nobody listens there.
    pub fn connect(socket: &Path) -> Result<Self, ClientFault> {
        Self::connect_within(socket, PATIENCE)
    }

    /// Connects; each answer may take this long.
    ///
    /// # Errors
    /// Where nobody listens there.
    pub fn connect_within(socket: &Path, patience: Duration) -> Result<Self, ClientFault> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Blocks until the forwarder at the other end is gone.
    pub fn wait_end(self) {
        // Nobody asked, so nothing is said: what comes is the end.
        let mut stream = self.0.get_ref();
        let _ = stream.set_read_timeout(None).and_then(|()| stream.read(&mut [0]));
    }

    /// Puts a set-up in force.
    ///
    /// # Errors
    /// Where it is refused.
    pub fn set(&mut self, setup: &Setup) -> Result<(), ClientFault> {
        match self.ask(&Request::Set(setup.clone()))? {
            Answer::Ok => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    /// Has it forward nothing.
    ///
    /// # Errors
    /// Where the socket fails.
    pub fn clear(&mut self) -> Result<(), ClientFault> {
        match self.ask(&Request::Clear)? {
            Answer::Ok => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    /// The set-up in force.
    ///
    /// # Errors
    /// Where the socket fails.
    pub fn get(&mut self) -> Result<Option<Setup>, ClientFault> {
        match self.ask(&Request::Get)? {
            Answer::Setup(setup) => Ok(setup),
            other => Err(unexpected(other)),
        }
    }

    /// Counters.
    ///
    /// # Errors
    /// Where the socket fails.
    pub fn stats(&mut self) -> Result<Stats, ClientFault> {
        match self.ask(&Request::Stats)? {
            Answer::Stats(stats) => Ok(stats),
            other => Err(unexpected(other)),
        }
    }

    /// Takes what holds the carrier of its device; nothing where it has no device.
    ///
    /// # Errors
    /// Where the socket fails.
    pub fn hold(&mut self) -> Result<Option<OwnedFd>, ClientFault> {
        match self.take(&Request::Hold)? {
            (Answer::Ok, descriptors) => Ok(descriptors.into_iter().next()),
            (Answer::Refused(_), _) => Ok(None),
            (other, _) => Err(unexpected(other)),
        }
    }

    /// Asks for what comes with descriptors.
    fn take(&mut self, request: &Request) -> Result<(Answer, Vec<OwnedFd>), ClientFault> {
        self.say(request)?;
        // Descriptors come with the first byte of the answer, so that is read before the rest of the line.
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut first = [0u8];
        let stream = self.0.get_ref();
        let taken = recvmsg(stream, &mut [IoSliceMut::new(&mut first)], &mut control, RecvFlags::CMSG_CLOEXEC)
            .map_err(io::Error::from)?;
        if taken.bytes == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let mut descriptors: Vec<OwnedFd> = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        let line = [first.to_vec(), self.line()?].concat();
        Ok((serde_json::from_slice(&line).map_err(io::Error::from)?, descriptors))
    }

    /// Asks for everything it has. It goes on forwarding.
    pub(crate) fn hand_over(&mut self) -> Result<Option<Estate>, ClientFault> {
        match self.take(&Request::HandOver)? {
            (Answer::HandOver { setup: None, .. }, _) => Ok(None),
            (Answer::HandOver { setup: Some(setup), queues }, descriptors)
                if descriptors.len() == queues * (1 + setup.listen.len()) + 1 =>
            {
                let mut descriptors = descriptors.into_iter();
                let first: Vec<OwnedFd> = descriptors.by_ref().take(queues).collect();
                let hold = descriptors.next().ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
                let sockets = setup.listen.iter().map(|_| descriptors.by_ref().take(queues).collect()).collect();
                Ok(Some(Estate { setup, queues: first, hold, sockets }))
            }
            (other, _) => Err(unexpected(other)),
        }
    }

    /// Has it stop, and gives its last counters.
    pub(crate) fn stop(&mut self) -> Result<Stats, ClientFault> {
        match self.ask(&Request::Stop)? {
            Answer::Stats(stats) => Ok(stats),
            other => Err(unexpected(other)),
        }
    }

    /// Has it end.
    pub(crate) fn done(&mut self) -> Result<(), ClientFault> {
        match self.ask(&Request::Done)? {
            Answer::Ok => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    fn ask(&mut self, request: &Request) -> Result<Answer, ClientFault> {
        self.say(request)?;
        let line = self.line()?;
        Ok(serde_json::from_slice(&line).map_err(io::Error::from)?)
    }

    fn say(&mut self, request: &Request) -> io::Result<()> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.0.get_mut().write_all(&line)
    }

    fn line(&mut self) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        self.0.by_ref().take(MOST_LINE as u64).read_until(b'\n', &mut line)?;
        if line.last() == Some(&b'\n') { Ok(line) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

fn unexpected(answer: Answer) -> ClientFault {
    match answer {
        Answer::Refused(why) => ClientFault::Refused(why),
        other => ClientFault::Unexpected(format!("{other:?}")),
    }
}
