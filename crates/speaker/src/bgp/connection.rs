//! One TCP connection: what waits to be written to it, and its end.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;

use ripstop_bgp::session::ConnectionId;
use ripstop_types::Millis;

use super::thread::PeerId;

/// How long a connection that ends has to take its last words.
const LINGER: u64 = 2_000;

/// Pieces that are written at once.
const TOGETHER: usize = 64;

/// One connection of a peer's session.
#[derive(Debug)]
pub struct Connection {
    pub peer: PeerId,
    pub id: ConnectionId,
    pub stream: TcpStream,
    /// It is being made.
    pub connecting: bool,
    /// It is told to end, and does so by then. Nobody asks for what comes on it any more.
    pub ends: Option<Millis>,
    /// The peer was told that nothing more comes.
    shut: bool,
    queue: VecDeque<Arc<[u8]>>,
    /// So much of the first one is written.
    written: usize,
    waiting: usize,
    /// When something was last written.
    pub moved: Millis,
}

impl Connection {
    pub fn new(peer: PeerId, id: ConnectionId, stream: TcpStream, connecting: bool, now: Millis) -> Self {
        let (queue, written, waiting) = (VecDeque::new(), 0, 0);
        Self { peer, id, stream, connecting, ends: None, shut: false, queue, written, waiting, moved: now }
    }

    /// Bytes that wait.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Puts bytes behind those that wait.
    pub fn push(&mut self, bytes: Arc<[u8]>) {
        self.waiting += bytes.len();
        self.queue.push_back(bytes);
    }

    /// Writes as much as goes; how much that was.
    pub fn write(&mut self, now: Millis) -> io::Result<usize> {
        let mut total = 0;
        while !self.connecting && !self.queue.is_empty() {
            let done = |place: usize| if place == 0 { self.written } else { 0 };
            let parts = self.queue.iter().take(TOGETHER).enumerate();
            let parts: Vec<IoSlice<'_>> =
                parts.map(|(place, part)| IoSlice::new(part.get(done(place)..).unwrap_or_default())).collect();
            match self.stream.write_vectored(&parts) {
                Ok(count) => {
                    total += count;
                    self.take_away(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        if total > 0 {
            self.moved = now;
        }
        if self.ends.is_some() && self.queue.is_empty() && !self.shut {
            // Closed with unread bytes, the kernel would take back what was written last.
            self.shut = true;
            self.stream.shutdown(Shutdown::Write)?;
        }
        Ok(total)
    }

    /// So many bytes are written.
    fn take_away(&mut self, count: usize) {
        self.waiting = self.waiting.saturating_sub(count);
        self.written += count;
        while let Some(first) = self.queue.front().filter(|first| self.written >= first.len()) {
            self.written -= first.len();
            self.queue.pop_front();
        }
    }

    /// Reads once; `None` when nothing is there.
    pub fn read(&mut self, bytes: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match self.stream.read(bytes) {
                Ok(count) => return Ok(Some(count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// Has it end when what waits is written.
    pub fn end(&mut self, now: Millis) {
        self.ends = Some(now.plus(LINGER));
    }
}
