//! Peers that do no more than a measurement needs: they connect, say who they are, send what they are given and count what they
//! are told. One thread moves any number of them.
//!
//! Not here: what a message means besides the number of its prefixes.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use ripstop_bgp::wire::{AfiSafi, Capability, Context, Families, HEADER, Open, frame, keepalive};
use ripstop_lab::space;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};

use crate::scene::checkpoint;

/// Longer than any measurement, so that no stub has to say that it is alive.
const HOLD: u16 = 3_600;
const READ: usize = 1 << 18;
/// As many connections are being made at once: of more than that BIRD's listener loses some, which then wait for the kernel's next try.
const AT_ONCE: usize = 8;
const OPEN: u8 = 1;
const UPDATE: u8 = 2;
const NOTIFICATION: u8 = 3;
const KEEPALIVE: u8 = 4;

/// One end of a session.
pub struct Peer {
    stream: TcpStream,
    address: Ipv4Addr,
    asn: u32,
    /// Where it is to connect to, until it begins to.
    to: Option<Ipv4Addr>,
    connecting: bool,
    pub established: bool,
    come: Vec<u8>,
    go: VecDeque<Arc<[u8]>>,
    gone: usize,
    /// Prefixes that it was told, and that it was told are gone.
    pub announced: u64,
    pub withdrawn: u64,
    /// The last UPDATE that said something.
    pub last: Vec<u8>,
}

/// All of them.
pub struct Stub {
    pub peers: Vec<Peer>,
    bytes: Vec<u8>,
}

/// What stubs and who speaks with them agree on.
#[must_use]
pub fn context(internal: bool) -> Context {
    Context { internal, four_byte_as: true, families: Families { v4: true, v6: false }, ..Context::default() }
}

impl Stub {
    /// Nobody.
    #[must_use]
    pub fn new() -> Self {
        Self { peers: Vec::new(), bytes: vec![0; READ] }
    }

    /// Has these addresses of a namespace connect, some at a time, each a peer of that AS.
    pub fn connect(&mut self, netns: &Path, from: &[Ipv4Addr], asn: u32, to: Ipv4Addr) -> Result<()> {
        let streams = space::in_netns(netns, || from.iter().map(|from| open(*from)).collect::<io::Result<Vec<_>>>())?;
        let streams = streams.context("sockets of stubs")?;
        self.peers.extend(streams.into_iter().zip(from).map(|(stream, from)| Peer::new(stream, *from, asn, to)));
        Ok(())
    }

    /// Has bytes wait for a peer.
    pub fn send(&mut self, peer: usize, bytes: Arc<[u8]>) {
        if let Some(peer) = self.peers.get_mut(peer) {
            peer.go.push_back(bytes);
        }
    }

    /// Reads and writes until something holds; when it did.
    pub fn until(&mut self, what: &str, limit: Duration, holds: impl Fn(&[Peer]) -> bool) -> Result<Instant> {
        let begun = Instant::now();
        while !holds(&self.peers) {
            if begun.elapsed() > limit {
                let up = self.peers.iter().filter(|peer| peer.established).count();
                let told: u64 = self.peers.iter().map(|peer| peer.announced).sum();
                bail!("{what}: not within {} s; {up} sessions, {told} prefixes", limit.as_secs());
            }
            checkpoint()?;
            self.turn()?;
        }
        Ok(Instant::now())
    }

    /// Waits for all sessions.
    pub fn all_up(&mut self, limit: Duration) -> Result<Instant> {
        self.until("sessions with stubs", limit, |peers| peers.iter().all(|peer| peer.established))
    }

    /// Begins as many connections as there is room for.
    fn begin(&mut self) -> Result<()> {
        let under_way = self.peers.iter().filter(|peer| peer.has_begun() && !peer.established).count();
        let waiting = self.peers.iter_mut().filter(|peer| !peer.has_begun());
        for peer in waiting.take(AT_ONCE.saturating_sub(under_way)) {
            peer.connect()?;
        }
        Ok(())
    }

    /// Reads and writes what is ready.
    fn turn(&mut self) -> Result<()> {
        self.begin()?;
        let wants = |peer: &Peer| if peer.writes() { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
        let begun = self.peers.iter().filter(|peer| peer.has_begun());
        let mut ready: Vec<PollFd<'_>> =
            begun.map(|peer| PollFd::from_borrowed_fd(peer.stream.as_fd(), wants(peer))).collect();
        let pause = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        match poll(&mut ready, Some(&pause)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("poll"),
        }
        let ready: Vec<PollFlags> = ready.iter().map(PollFd::revents).collect();
        for (peer, ready) in self.peers.iter_mut().filter(|peer| peer.has_begun()).zip(ready) {
            if ready.contains(PollFlags::OUT) {
                peer.write()?;
            }
            if ready.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) && !peer.connecting {
                peer.read(&mut self.bytes)?;
            }
        }
        Ok(())
    }
}

impl Peer {
    fn new(stream: TcpStream, address: Ipv4Addr, asn: u32, to: Ipv4Addr) -> Self {
        let (come, go, last, to) = (Vec::new(), VecDeque::new(), Vec::new(), Some(to));
        let (connecting, established) = (true, false);
        Self { stream, address, asn, to, connecting, established, come, go, gone: 0, announced: 0, withdrawn: 0, last }
    }

    fn has_begun(&self) -> bool {
        self.to.is_none()
    }

    fn connect(&mut self) -> Result<()> {
        let Some(to) = self.to.take() else { return Ok(()) };
        match connect(&self.stream, &SocketAddr::new(IpAddr::V4(to), 179)) {
            Ok(()) | Err(Errno::INPROGRESS) => Ok(()),
            Err(error) => Err(error).context("connect to a speaker"),
        }
    }

    /// Whether it waits for room. UPDATEs that were given to be sent wait for the session.
    fn writes(&self) -> bool {
        let is_update = |bytes: &Arc<[u8]>| bytes.get(18).is_some_and(|kind| *kind == UPDATE);
        self.connecting || self.go.front().is_some_and(|first| self.established || !is_update(first))
    }

    fn write(&mut self) -> Result<()> {
        if self.connecting {
            rustix::net::sockopt::socket_error(&self.stream)?.context("connect to a speaker")?;
            self.connecting = false;
            let family = AfiSafi { afi: 1, safi: 1 };
            let capabilities = vec![Capability::Multiprotocol(family), Capability::FourByteAs(self.asn)];
            let open = Open { asn: self.asn, hold_time: HOLD, router_id: self.address, capabilities };
            // Before what was given to be sent.
            self.go.push_front(open.encode().into());
        }
        while let Some(first) = self.go.front().filter(|_| self.writes()) {
            match self.stream.write(first.get(self.gone..).unwrap_or_default()) {
                Ok(count) => self.gone += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("write to a speaker"),
            }
            if self.gone >= first.len() {
                self.go.pop_front();
                self.gone = 0;
            }
        }
        Ok(())
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<()> {
        let count = match self.stream.read(bytes) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error).context("read from a speaker"),
        };
        ensure!(count > 0, "the speaker closed the connection of {}", self.address);
        self.come.extend_from_slice(bytes.get(..count).unwrap_or_default());
        let come = std::mem::take(&mut self.come);
        let mut rest = &come[..];
        while let Some(length) = frame(rest, true)? {
            let (message, behind) = rest.split_at(length);
            self.take(message)?;
            rest = behind;
        }
        self.come.extend_from_slice(rest);
        Ok(())
    }

    fn take(&mut self, message: &[u8]) -> Result<()> {
        match message.get(18) {
            Some(&OPEN) => {
                self.go.push_front(keepalive().into());
                self.write()
            }
            Some(&KEEPALIVE) => {
                self.established = true;
                Ok(())
            }
            Some(&UPDATE) => {
                let (announced, withdrawn) = count(message.get(HEADER..).unwrap_or_default());
                if announced + withdrawn > 0 {
                    self.last.clear();
                    self.last.extend_from_slice(message);
                }
                self.announced += announced;
                self.withdrawn += withdrawn;
                Ok(())
            }
            Some(&NOTIFICATION) => bail!("the speaker says to {}: {:?}", self.address, message.get(HEADER..)),
            _ => Ok(()),
        }
    }
}

/// Prefixes of IPv4 that an UPDATE announces and withdraws.
fn count(body: &[u8]) -> (u64, u64) {
    let length = |at: usize| match body.get(at..at + 2) {
        Some(&[high, low]) => usize::from(u16::from_be_bytes([high, low])),
        _ => 0,
    };
    let withdrawn = length(0);
    let attributes = length(2 + withdrawn);
    let nlri = 4 + withdrawn + attributes;
    (prefixes(body.get(nlri..).unwrap_or_default()), prefixes(body.get(2..2 + withdrawn).unwrap_or_default()))
}

fn prefixes(bytes: &[u8]) -> u64 {
    let (mut at, mut found) = (0, 0);
    while let Some(bits) = bytes.get(at) {
        at += 1 + usize::from(bits.div_ceil(8));
        found += 1;
    }
    found
}

/// A socket at an address of the namespace that the thread is in.
fn open(from: Ipv4Addr) -> io::Result<TcpStream> {
    let socket =
        socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    bind(&socket, &SocketAddr::new(IpAddr::V4(from), 0))?;
    rustix::net::sockopt::set_tcp_nodelay(&socket, true)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use ripstop_bgp::wire::{AsPath, Attributes, NextHop, Nlri, announce, withdraw};
    use ripstop_types::Prefix;

    use super::*;

    #[test]
    fn prefixes_of_messages_are_counted() {
        let context = context(false);
        let all = ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.1.2.3/32", "0.0.0.0/0"];
        let all: Vec<Nlri> = all.iter().map(|text| Nlri::of(text.parse::<Prefix>().unwrap())).collect();
        let attributes =
            Attributes { as_path: AsPath::sequence(&[65_001]), ..Attributes::new(NextHop::V4([192, 0, 2, 1].into())) };
        let mut bytes = Vec::new();
        assert!(announce(&mut bytes, &context, &attributes, &all));
        assert_eq!(count(&bytes[HEADER..]), (5, 0));
        bytes.clear();
        withdraw(&mut bytes, &context, &all);
        assert_eq!(count(&bytes[HEADER..]), (0, 5));
        assert_eq!(count(&[0, 0, 0, 0]), (0, 0));
    }
}
