//! UDP sockets with segmentation and receive offload (`linux/udp.h`), in batches.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::{Piece, check};

/// The most segments that every kernel with UDP_SEGMENT takes in one message.
pub const MOST_SEGMENTS: usize = 64;
/// The most bytes in one message: of UDP over IPv4.
pub const MOST_BYTES: usize = 65_507;
/// Room for one received message: a long datagram, or several that the kernel has joined.
pub const ROOM: usize = 65_536;

/// What a socket may hold, in bytes: some milliseconds at 10 Gbit/s, and the pause of a hand-over.
const BUFFER: libc::c_int = 8 << 20;
/// A control message with one number, twice: two may come.
const CONTROL: usize = 64;

/// Opens a socket bound to an address. Several sockets may be bound to one; the kernel spreads peers over them.
///
/// # Errors
/// As bind(2): EADDRNOTAVAIL where the address is not on this machine, EADDRINUSE where another program has it.
pub fn bind(address: SocketAddr) -> io::Result<OwnedFd> {
    let domain = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: socket(2) takes numbers, and its answer is a new descriptor.
    let fd = unsafe { OwnedFd::from_raw_fd(check(libc::socket(domain, kind, 0))?) };
    set(&fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
    set(&fd, libc::SOL_UDP, libc::UDP_GRO, 1)?;
    if address.is_ipv4() {
        set(&fd, libc::IPPROTO_IP, libc::IP_RECVTOS, 1)?;
        set(&fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_WANT)?;
    } else {
        set(&fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
        set(&fd, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)?;
        set(&fd, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_WANT)?;
    }
    for (forced, plain) in [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)] {
        if set(&fd, libc::SOL_SOCKET, forced, BUFFER).is_err() {
            set(&fd, libc::SOL_SOCKET, plain, BUFFER)?;
        }
    }
    let (storage, length) = raw(address);
    // SAFETY: the pointer is to a socket address of that length, which lives until the call returns.
    check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const storage).cast(), length) })?;
    Ok(fd)
}

/// The MTU of the way to an address, as far as the kernel knows: of the route, or what a router told (RFC 1191).
///
/// # Errors
/// Where there is no route.
pub fn path_mtu(from: SocketAddr, to: SocketAddr) -> io::Result<usize> {
    let probe = std::net::UdpSocket::bind(SocketAddr::new(from.ip(), 0))?;
    probe.connect(to)?;
    let (level, option) =
        if to.is_ipv4() { (libc::IPPROTO_IP, libc::IP_MTU) } else { (libc::IPPROTO_IPV6, libc::IPV6_MTU) };
    let mut value: libc::c_int = 0;
    let mut length = size_of_val(&value) as libc::socklen_t;
    // SAFETY: pointer and length are those of `value`.
    check(unsafe { libc::getsockopt(probe.as_raw_fd(), level, option, (&raw mut value).cast(), &raw mut length) })?;
    Ok(usize::try_from(value).unwrap_or(0))
}

/// Waits until a socket takes datagrams again, at most `milliseconds`.
pub fn wait_writable(fd: BorrowedFd<'_>, milliseconds: u16) {
    let mut fds = [rustix::event::PollFd::from_borrowed_fd(fd, rustix::event::PollFlags::OUT)];
    let limit = rustix::time::Timespec { tv_sec: 0, tv_nsec: i64::from(milliseconds) * 1_000_000 };
    // Whatever it says, the next send tells more.
    let _ = rustix::event::poll(&mut fds, Some(&limit));
}

fn set(fd: &OwnedFd, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let length = size_of_val(&value) as libc::socklen_t;
    // SAFETY: pointer and length are those of `value`, which lives until the call returns.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, (&raw const value).cast(), length) }).map(drop)
}

fn raw(address: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: a sockaddr_storage is plain bytes, for which zeros are a value.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let length = match address {
        SocketAddr::V4(v4) => {
            let place = (&raw mut storage).cast::<libc::sockaddr_in>();
            // SAFETY: a sockaddr_storage has room and alignment for every kind of socket address.
            unsafe {
                (*place).sin_family = libc::AF_INET as libc::sa_family_t;
                (*place).sin_port = v4.port().to_be();
                (*place).sin_addr.s_addr = v4.ip().to_bits().to_be();
            }
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            let place = (&raw mut storage).cast::<libc::sockaddr_in6>();
            // SAFETY: as above.
            unsafe {
                (*place).sin6_family = libc::AF_INET6 as libc::sa_family_t;
                (*place).sin6_port = v6.port().to_be();
                (*place).sin6_addr.s6_addr = v6.ip().octets();
                (*place).sin6_scope_id = v6.scope_id();
            }
            size_of::<libc::sockaddr_in6>()
        }
    };
    (storage, length as libc::socklen_t)
}

fn address(storage: &libc::sockaddr_storage) -> Option<IpAddr> {
    match libc::c_int::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the kernel wrote a sockaddr_in, as the family says.
            let raw = unsafe { &*(&raw const *storage).cast::<libc::sockaddr_in>() };
            Some(Ipv4Addr::from_bits(u32::from_be(raw.sin_addr.s_addr)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: the kernel wrote a sockaddr_in6, as the family says.
            let raw = unsafe { &*(&raw const *storage).cast::<libc::sockaddr_in6>() };
            Some(Ipv6Addr::from(raw.sin6_addr.s6_addr).into())
        }
        _ => None,
    }
}

/// Control data, aligned as its headers want it.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

/// A received message: one datagram, or several of one size from one sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// Where it lies in the buffer.
    pub range: Range<usize>,
    /// Bytes of each datagram but the last.
    pub size: usize,
    /// Who sent it; nothing if the kernel did not say.
    pub from: Option<IpAddr>,
    /// Type of service or traffic class of the outer header.
    pub tos: u8,
}

/// Memory for receiving a batch.
pub struct Receiver {
    buffer: Vec<u8>,
    names: Vec<libc::sockaddr_storage>,
    controls: Vec<Control>,
    iovecs: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
    received: Vec<Received>,
}

// SAFETY: the pointers in `iovecs` and `headers` are made anew for each call, and mean nothing between calls.
unsafe impl Send for Receiver {}

impl Receiver {
    /// Memory for `count` messages.
    #[must_use]
    pub fn new(count: usize) -> Self {
        // SAFETY: all these are plain bytes and null pointers, for which zeros are a value.
        let (name, iovec, header) = unsafe { (std::mem::zeroed(), std::mem::zeroed(), std::mem::zeroed()) };
        Self {
            buffer: vec![0; count * ROOM],
            names: vec![name; count],
            controls: vec![Control([0; CONTROL]); count],
            iovecs: vec![iovec; count],
            headers: vec![header; count],
            received: Vec::with_capacity(count),
        }
    }

    /// Takes what waits, as much as there is room for; nothing where nothing waits. Answers the buffer and what lies in it.
    ///
    /// # Errors
    /// As recvmmsg(2).
    pub fn receive(&mut self, fd: BorrowedFd<'_>) -> io::Result<(&mut [u8], &[Received])> {
        self.received.clear();
        for (number, room) in self.buffer.chunks_exact_mut(ROOM).enumerate() {
            self.iovecs[number] = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: ROOM };
            let header = &mut self.headers[number].msg_hdr;
            header.msg_name = (&raw mut self.names[number]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_iov = &raw mut self.iovecs[number];
            header.msg_iovlen = 1;
            header.msg_control = (&raw mut self.controls[number]).cast();
            header.msg_controllen = CONTROL as _;
        }
        let count = libc::c_uint::try_from(self.headers.len()).unwrap_or(0);
        let flags = libc::MSG_DONTWAIT;
        // SAFETY: each header points to a name, a buffer and control data of the lengths it tells, each its own, all of
        // which live as long as `self`.
        let answer = check(unsafe {
            libc::recvmmsg(fd.as_raw_fd(), self.headers.as_mut_ptr(), count, flags as _, std::ptr::null_mut())
        });
        let count = match answer {
            Ok(count) => usize::try_from(count).unwrap_or(0),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => 0,
            Err(error) => return Err(error),
        };
        for (number, header) in self.headers[..count].iter().enumerate() {
            let length = (header.msg_len as usize).min(ROOM);
            let (size, tos) = told(&header.msg_hdr);
            self.received.push(Received {
                range: number * ROOM..number * ROOM + length,
                size: size.filter(|size| *size > 0).unwrap_or(length.max(1)),
                from: address(&self.names[number]),
                tos,
            });
        }
        Ok((&mut self.buffer, &self.received))
    }
}

/// The segment size and the type of service in a message's control data.
fn told(header: &libc::msghdr) -> (Option<usize>, u8) {
    let (mut size, mut tos) = (None, 0);
    // SAFETY: the kernel wrote `msg_controllen` bytes of control messages to where `msg_control` points; the macros stay
    // inside, and the kinds read here have at least as many bytes as are read.
    unsafe {
        let mut control = libc::CMSG_FIRSTHDR(header);
        while !control.is_null() {
            let data = libc::CMSG_DATA(control);
            match ((*control).cmsg_level, (*control).cmsg_type) {
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    size = usize::try_from(data.cast::<libc::c_int>().read_unaligned()).ok();
                }
                (libc::IPPROTO_IP, libc::IP_TOS) => tos = data.read(),
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                    tos = data.cast::<libc::c_int>().read_unaligned().to_ne_bytes()
                        [if cfg!(target_endian = "big") { 3 } else { 0 }];
                }
                _ => {}
            }
            control = libc::CMSG_NXTHDR(header, control);
        }
    }
    (size, tos)
}

/// A message to send.
#[derive(Debug, Clone)]
pub struct Message<'a> {
    /// Where to.
    pub to: SocketAddr,
    /// Bytes of each datagram but the last; nothing where it is one datagram.
    pub segment: Option<u16>,
    /// Type of service or traffic class of the outer header.
    pub tos: u8,
    /// Its bytes.
    pub pieces: &'a [Piece],
}

/// Memory for sending a batch.
#[derive(Default)]
pub struct Sender {
    names: Vec<libc::sockaddr_storage>,
    controls: Vec<Control>,
    iovecs: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

// SAFETY: as for `Receiver`.
unsafe impl Send for Sender {}

impl Sender {
    /// Sends messages of one socket's family, and answers how many the kernel took. The error is that of the first which
    /// it did not take, where that is the first of all.
    ///
    /// # Errors
    /// As sendmsg(2).
    pub fn send<'a>(
        &mut self,
        fd: BorrowedFd<'_>,
        buffers: &[&[u8]],
        messages: impl Iterator<Item = Message<'a>>,
    ) -> io::Result<usize> {
        self.names.clear();
        self.controls.clear();
        self.iovecs.clear();
        self.headers.clear();
        for message in messages {
            let (name, length) = raw(message.to);
            self.names.push(name);
            let first = self.iovecs.len();
            self.iovecs.extend(message.pieces.iter().map(|piece| piece.iovec(buffers)));
            // SAFETY: an mmsghdr is numbers and pointers, for which zeros are a value.
            let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
            header.msg_hdr.msg_namelen = length;
            header.msg_hdr.msg_iovlen = (self.iovecs.len() - first) as _;
            let mut control = Control([0; CONTROL]);
            header.msg_hdr.msg_controllen = say(&mut control, &message) as _;
            self.controls.push(control);
            self.headers.push(header);
        }
        // The vectors do not move from here on.
        let mut at = 0;
        for (number, header) in self.headers.iter_mut().enumerate() {
            let header = &mut header.msg_hdr;
            header.msg_name = (&raw mut self.names[number]).cast();
            header.msg_iov = self.iovecs.as_mut_ptr().wrapping_add(at);
            at += header.msg_iovlen;
            if header.msg_controllen > 0 {
                header.msg_control = (&raw mut self.controls[number]).cast();
            }
        }
        let count = libc::c_uint::try_from(self.headers.len()).unwrap_or(0);
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: each header points to a name, iovecs and control data of the lengths it tells, all of which live as long
        // as `self` and the borrowed buffers.
        let sent =
            check(unsafe { libc::sendmmsg(fd.as_fd().as_raw_fd(), self.headers.as_mut_ptr(), count, flags as _) })?;
        Ok(usize::try_from(sent).unwrap_or(0))
    }
}

/// Writes control messages, and answers their length.
fn say(control: &mut Control, message: &Message<'_>) -> usize {
    let mut used = 0;
    let mut put = |level: libc::c_int, kind: libc::c_int, data: &[u8]| {
        let length = u32::try_from(data.len()).unwrap_or(0);
        // SAFETY: the macros compute sizes; a message of at most 4 bytes takes 24, of which there are at most two; the
        // place is aligned, for both the array and each message's size are multiples of 8.
        unsafe {
            let header = control.0.as_mut_ptr().add(used).cast::<libc::cmsghdr>();
            (*header).cmsg_level = level;
            (*header).cmsg_type = kind;
            (*header).cmsg_len = libc::CMSG_LEN(length) as _;
            std::ptr::copy_nonoverlapping(data.as_ptr(), libc::CMSG_DATA(header), data.len());
            used += libc::CMSG_SPACE(length) as usize;
        }
    };
    if let Some(segment) = message.segment {
        put(libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
    }
    if message.tos != 0 {
        let tos = libc::c_int::from(message.tos).to_ne_bytes();
        match message.to {
            SocketAddr::V4(_) => put(libc::IPPROTO_IP, libc::IP_TOS, &tos),
            SocketAddr::V6(_) => put(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &tos),
        }
    }
    used
}
