//! Packets as they pass the interfaces of a namespace: packet(7).
//!
//! On a veth, checksums and segmentation are left to hardware that does not exist: inner checksums may be unfilled and
//! packets longer than the MTU. That is what the kernel sees, and so it is what is captured.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::netdevice::{index_to_name, name_to_index};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with, sockopt};

use crate::error::{Attempt, LabError, Result};
use crate::lab::Lab;
use crate::pcapng::{Direction, Writer};
use crate::space;
use crate::target::Target;

/// Link types of <https://www.ietf.org/archive/id/draft-ietf-opsawg-pcaplinktype-10.html>.
const LINKTYPE_ETHERNET: u16 = 1;
const LINKTYPE_RAW: u16 = 101;
/// What the kernel keeps for a capture that falls behind.
const BUFFER: usize = 64 << 20;
const NAP: Duration = Duration::from_millis(20);
/// More than any packet, segmentation left undone included.
const LONGEST: usize = 256 << 10;

/// A captured packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// The interface it passed.
    pub interface: String,
    /// Whether the interface carries Ethernet frames; without, the data begin with the IP header.
    pub ethernet: bool,
    /// When, in nanoseconds since 1970.
    pub at: u64,
    /// Which way.
    pub way: Direction,
    /// What it had on the wire.
    pub length: u32,
    /// Its bytes.
    pub data: Vec<u8>,
}

/// A capture at work. It stops when this value goes.
#[derive(Debug)]
pub struct Capture<T> {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<T>>,
}

/// How much a capture to a file saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Packets in the file.
    pub packets: u64,
    /// Packets the kernel dropped because the file could not be written fast enough.
    pub dropped: u64,
}

impl Lab {
    /// Captures what passes a target's interfaces, or only this one, until the capture is stopped.
    pub fn capture(&self, target: &Target, interface: Option<&str>) -> Result<Capture<Vec<Packet>>> {
        Capture::within(&self.netns_of(target)?, interface)
    }

    /// The same, into a pcapng file.
    pub fn capture_to(&self, target: &Target, interface: Option<&str>, file: &Path) -> Result<Capture<Summary>> {
        let source = Source::open(&self.netns_of(target)?, interface)?;
        let path = file.to_owned();
        let out = File::create(&path).attempt(|| format!("make {}", path.display()))?;
        let mut pcap = Pcap::new(out).attempt(|| format!("write {}", path.display()))?;
        Capture::start(source, move |source, stop| {
            let doing = || format!("write {}", path.display());
            let mut packets = 0;
            source.run(stop, |packet| {
                packets += 1;
                pcap.add(&packet).attempt(doing)
            })?;
            pcap.writer.finish().attempt(doing)?;
            Ok(Summary { packets, dropped: source.dropped()? })
        })
    }
}

impl Capture<Vec<Packet>> {
    /// Captures what passes the interfaces of a namespace, or only this one.
    pub fn within(netns: &Path, interface: Option<&str>) -> Result<Self> {
        let source = Source::open(netns, interface)?;
        Self::start(source, |source, stop| {
            let mut packets = Vec::new();
            source.run(stop, |packet| {
                packets.push(packet);
                Ok(())
            })?;
            Ok(packets)
        })
    }
}

impl<T: Send + 'static> Capture<T> {
    fn start(source: Source, run: impl FnOnce(&mut Source, &AtomicBool) -> Result<T> + Send + 'static) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let mut source = source;
        let thread = thread::Builder::new()
            .name("capture".into())
            .spawn(move || run(&mut source, &seen))
            .attempt(|| "start a capture thread".into())?;
        Ok(Self { stop, thread })
    }

    /// Whether the capture has ended by itself, which it only does by an error.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Stops after what has come so far, and returns it.
    pub fn stop(self) -> Result<T> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| LabError::failed("a capture thread panicked"))?
    }
}

/// A packet socket of a namespace.
#[derive(Debug)]
struct Source {
    socket: OwnedFd,
    names: BTreeMap<i32, String>,
    buffer: Vec<u8>,
}

impl Source {
    fn open(netns: &Path, interface: Option<&str>) -> Result<Self> {
        let doing = || format!("capture in {}", netns.display());
        let socket = space::in_netns(netns, || packet_socket(interface))?.attempt(doing)?;
        Ok(Self { socket, names: BTreeMap::new(), buffer: vec![0; LONGEST] })
    }

    /// Hands packets to `sink` until it fails or `stop` is set; then those that have come already.
    fn run(&mut self, stop: &AtomicBool, mut sink: impl FnMut(Packet) -> Result<()>) -> Result<()> {
        loop {
            let last = stop.load(Ordering::Relaxed);
            while let Some(packet) = self.next().attempt(|| "receive from a packet socket".into())? {
                sink(packet)?;
            }
            if last {
                return Ok(());
            }
            let timeout = Timespec { tv_sec: 0, tv_nsec: NAP.subsec_nanos().into() };
            // An interruption only means one more turn.
            let _ = poll(&mut [PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::IN)], Some(&timeout));
        }
    }

    /// The next packet that has come; none if there is none now.
    fn next(&mut self) -> io::Result<Option<Packet>> {
        let mut from = LinkAddress::default();
        let mut control = [0_u64; 16];
        let received = match receive(&self.socket, &mut self.buffer, &mut from, &mut control) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            // An interface went away while it was captured; others go on.
            Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => return Ok(None),
            other => other?,
        };
        let captured = received.length.min(self.buffer.len());
        let interface = self.name(from.0.sll_ifindex);
        Ok(Some(Packet {
            interface,
            // Everything else the kernel has here (TUN, sit, ip6tnl) carries bare IP.
            ethernet: matches!(from.0.sll_hatype, libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK),
            at: received.at,
            way: if from.0.sll_pkttype == libc::PACKET_OUTGOING { Direction::Out } else { Direction::In },
            length: u32::try_from(received.length).unwrap_or(u32::MAX),
            data: self.buffer[..captured].to_vec(),
        }))
    }

    /// The socket knows its own namespace, so this works from anywhere.
    fn name(&mut self, index: i32) -> String {
        let socket = &self.socket;
        let look_up = || index_to_name(socket, index.cast_unsigned()).unwrap_or_else(|_| format!("if{index}"));
        self.names.entry(index).or_insert_with(look_up).clone()
    }

    fn dropped(&self) -> Result<u64> {
        let mut stats = [0_u32; 2];
        let mut length: libc::socklen_t = 8;
        // SAFETY: PACKET_STATISTICS writes at most `length` bytes, two words, which live here.
        let done = unsafe {
            let stats = stats.as_mut_ptr().cast();
            libc::getsockopt(self.socket.as_raw_fd(), libc::SOL_PACKET, libc::PACKET_STATISTICS, stats, &raw mut length)
        };
        if done != 0 {
            return Err(io::Error::last_os_error()).attempt(|| "read a packet socket's statistics".into());
        }
        Ok(stats[1].into())
    }
}

/// A capture file and the numbers of its interfaces.
struct Pcap {
    writer: Writer<BufWriter<File>>,
    interfaces: BTreeMap<(String, bool), u32>,
}

impl Pcap {
    fn new(out: File) -> io::Result<Self> {
        Ok(Self { writer: Writer::new(BufWriter::new(out))?, interfaces: BTreeMap::new() })
    }

    fn add(&mut self, packet: &Packet) -> io::Result<()> {
        let key = (packet.interface.clone(), packet.ethernet);
        let number = match self.interfaces.get(&key) {
            Some(number) => *number,
            None => {
                let number = u32::try_from(self.interfaces.len()).map_err(io::Error::other)?;
                let link_type = if packet.ethernet { LINKTYPE_ETHERNET } else { LINKTYPE_RAW };
                self.writer.interface(&packet.interface, link_type)?;
                self.interfaces.insert(key, number);
                number
            }
        };
        self.writer.packet(number, packet.at, &packet.data, packet.length, packet.way)
    }
}

/// A packet socket in the calling thread's namespace.
fn packet_socket(interface: Option<&str>) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    // Without a protocol nothing comes until bind, so no packet of another interface slips in.
    let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)?;
    sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER)?;
    set_timestamps(&socket)?;
    let index = interface.map(|name| name_to_index(&socket, name)).transpose()?.unwrap_or(0);
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
        sll_ifindex: index.cast_signed(),
        ..LinkAddress::default().0
    };
    // SAFETY: the address lives here and has the length that is given.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), LINK_ADDRESS_LENGTH) };
    if bound != 0 { Err(io::Error::last_os_error()) } else { Ok(socket) }
}

fn set_timestamps(socket: &OwnedFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    let size = libc::socklen_t::try_from(size_of_val(&on)).map_err(io::Error::other)?;
    // SAFETY: the option's value lives here and has the length that is given.
    let done = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, (&raw const on).cast(), size)
    };
    if done != 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

struct LinkAddress(libc::sockaddr_ll);

const LINK_ADDRESS_LENGTH: libc::socklen_t = size_of::<libc::sockaddr_ll>() as libc::socklen_t;

impl Default for LinkAddress {
    fn default() -> Self {
        // SAFETY: all bytes zero is a valid value of this plain structure.
        Self(unsafe { std::mem::zeroed() })
    }
}

struct Received {
    length: usize,
    at: u64,
}

/// recvmsg(2) with sender and time.
fn receive(socket: &OwnedFd, buffer: &mut [u8], from: &mut LinkAddress, control: &mut [u64]) -> io::Result<Received> {
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all bytes zero is a valid value of this plain structure; every pointer put into it outlives the call, with
    // the length that is given; the control messages are walked with the kernel's own macros within the length it set.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_name = (&raw mut from.0).cast();
        message.msg_namelen = LINK_ADDRESS_LENGTH;
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(control);
        let length = libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_TRUNC);
        let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
        let mut at = 0;
        let mut next = libc::CMSG_FIRSTHDR(&raw const message);
        while let Some(header) = next.as_ref() {
            if (header.cmsg_level, header.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) {
                let time = libc::CMSG_DATA(next).cast::<libc::timespec>().read_unaligned();
                at = time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned();
            }
            next = libc::CMSG_NXTHDR(&raw const message, next);
        }
        Ok(Received { length, at })
    }
}
