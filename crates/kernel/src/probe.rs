//! The socket by which ways to peers are probed: UDP, never fragmented, whatever the kernel believes of the path
//! (`IP_PMTUDISC_PROBE`, ip(7)); an answer leaves from the address that was asked.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use ripstop_types::Family;

/// Bytes of the control messages of one datagram: an address, with its header.
const CONTROL: usize = 64;

/// A socket for one family, on every address of the node.
#[derive(Debug)]
pub struct ProbeSocket {
    fd: OwnedFd,
    family: Family,
}

/// A datagram as it came; the payload lies in the caller's buffer.
#[derive(Debug, Clone, Copy)]
pub struct Datagram {
    /// Bytes of the payload.
    pub length: usize,
    /// Who sent it.
    pub from: SocketAddr,
    /// The address it was sent to.
    pub to: IpAddr,
}

/// Control messages, aligned as the kernel reads them.
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

impl ProbeSocket {
    /// Opens one on a port, in the calling thread's namespace. It never waits.
    ///
    /// # Errors
    /// The port is taken, or the kernel lacks the family.
    pub fn open(family: Family, port: u16) -> io::Result<Self> {
        let domain = if family == Family::V4 { libc::AF_INET } else { libc::AF_INET6 };
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: no memory is passed; a descriptor that is not negative is new and owned by nobody else.
        let fd = unsafe {
            let fd = libc::socket(domain, kind, 0);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        let options: &[(i32, i32, i32)] = match family {
            Family::V4 => &[
                (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE),
                (libc::IPPROTO_IP, libc::IP_PKTINFO, 1),
            ],
            Family::V6 => &[
                (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1),
                (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE),
                (libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 1),
                (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1),
            ],
        };
        for (level, name, value) in options {
            let length = length_of::<i32>();
            // SAFETY: the value is an integer of the length that is told, only read.
            let done = unsafe { libc::setsockopt(fd.as_raw_fd(), *level, *name, (&raw const *value).cast(), length) };
            check(done)?;
        }
        let any = match family {
            Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let (name, length) = raw_address(SocketAddr::new(any, port));
        // SAFETY: the address lies in memory of at least the length that is told, only read.
        check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const name).cast(), length) })?;
        Ok(Self { fd, family })
    }

    /// The same socket once more, to wait for what comes.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn ear(&self) -> io::Result<std::net::UdpSocket> {
        self.fd.try_clone().map(Into::into)
    }

    /// Sends a datagram whose checksum is filled in where that is cheapest.
    ///
    /// # Errors
    /// `EMSGSIZE`: the link takes none so long. No route; or it would have to wait.
    pub fn send(&self, to: SocketAddr, payload: &[u8]) -> io::Result<()> {
        self.send_part(None, to, payload, 0)
    }

    /// Sends a datagram whose checksum is complete before it reaches a device: what is put together of two parts has one
    /// (`__ip_append_data`, net/ipv4/ip_output.c).
    ///
    /// # Errors
    /// As [`Self::send`].
    pub fn send_complete(&self, from: Option<IpAddr>, to: SocketAddr, payload: &[u8]) -> io::Result<()> {
        let (first, rest) = payload.split_at(payload.len() / 2);
        self.send_part(from, to, first, libc::MSG_MORE)?;
        self.send_part(from, to, rest, 0)
    }

    fn send_part(&self, from: Option<IpAddr>, to: SocketAddr, payload: &[u8], flags: i32) -> io::Result<()> {
        if Family::of(to.ip()) != self.family {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        let (mut name, length) = raw_address(to);
        let mut part = libc::iovec { iov_base: payload.as_ptr().cast_mut().cast(), iov_len: payload.len() };
        let mut control = Control([0; CONTROL]);
        // SAFETY: all zeros is a valid header.
        let mut header: libc::msghdr = unsafe { zeroed() };
        header.msg_name = (&raw mut name).cast();
        header.msg_namelen = length;
        header.msg_iov = &raw mut part;
        header.msg_iovlen = 1;
        if let Some(from) = from {
            header.msg_control = (&raw mut control).cast();
            header.msg_controllen = CONTROL;
            header.msg_controllen = put_source(&header, from);
        }
        // SAFETY: everything the header points to lives until the call is over; the payload is only read.
        let sent = unsafe { libc::sendmsg(self.fd.as_raw_fd(), &raw const header, flags) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Takes the next datagram.
    ///
    /// # Errors
    /// `WouldBlock` where none has come.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Datagram> {
        let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        let mut control = Control([0; CONTROL]);
        // SAFETY: all zeros is a valid address and a valid header.
        let (mut name, mut header): (libc::sockaddr_storage, libc::msghdr) = unsafe { (zeroed(), zeroed()) };
        header.msg_name = (&raw mut name).cast();
        header.msg_namelen = length_of::<libc::sockaddr_storage>();
        header.msg_iov = &raw mut part;
        header.msg_iovlen = 1;
        header.msg_control = (&raw mut control).cast();
        header.msg_controllen = CONTROL;
        // SAFETY: everything the header points to is as long as it says and lives until the call is over.
        let got = unsafe { libc::recvmsg(self.fd.as_raw_fd(), &raw mut header, 0) };
        let length = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
        let strange = || io::Error::from(io::ErrorKind::InvalidData);
        let from = read_address(&name).ok_or_else(strange)?;
        let to = destination(&header).ok_or_else(strange)?;
        Ok(Datagram { length, from, to })
    }
}

fn check(answer: i32) -> io::Result<()> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The length of a type as the kernel counts; all are short.
fn length_of<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0)
}

fn raw_address(address: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: all zeros is a valid address.
    let mut storage: libc::sockaddr_storage = unsafe { zeroed() };
    let length = match address {
        SocketAddr::V4(v4) => {
            // SAFETY: the storage has room for every kind of address and is aligned for it.
            let raw = unsafe { &mut *(&raw mut storage).cast::<libc::sockaddr_in>() };
            raw.sin_family = libc::AF_INET as libc::sa_family_t;
            raw.sin_port = v4.port().to_be();
            raw.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
            length_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            // SAFETY: as above.
            let raw = unsafe { &mut *(&raw mut storage).cast::<libc::sockaddr_in6>() };
            raw.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            raw.sin6_port = v6.port().to_be();
            raw.sin6_addr.s6_addr = v6.ip().octets();
            raw.sin6_scope_id = v6.scope_id();
            length_of::<libc::sockaddr_in6>()
        }
    };
    (storage, length)
}

fn read_address(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the kernel wrote an address of this family.
            let raw = unsafe { &*(&raw const *storage).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(raw.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddr::new(ip.into(), u16::from_be(raw.sin_port)))
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let raw = unsafe { &*(&raw const *storage).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(raw.sin6_addr.s6_addr);
            Some(SocketAddr::new(ip.into(), u16::from_be(raw.sin6_port)))
        }
        _ => None,
    }
}

/// Writes the address to send from as the only control message; the length of the messages.
fn put_source(header: &libc::msghdr, from: IpAddr) -> usize {
    // SAFETY: the header's control space is aligned, zeroed and longer than the longest of these messages.
    unsafe {
        let message = libc::CMSG_FIRSTHDR(&raw const *header);
        match from {
            IpAddr::V4(ip) => {
                let size = u32::try_from(size_of::<libc::in_pktinfo>()).unwrap_or(0);
                (*message).cmsg_level = libc::IPPROTO_IP;
                (*message).cmsg_type = libc::IP_PKTINFO;
                (*message).cmsg_len = libc::CMSG_LEN(size) as _;
                let info = libc::CMSG_DATA(message).cast::<libc::in_pktinfo>();
                (*info).ipi_spec_dst.s_addr = u32::from_ne_bytes(ip.octets());
                libc::CMSG_SPACE(size) as usize
            }
            IpAddr::V6(ip) => {
                let size = u32::try_from(size_of::<libc::in6_pktinfo>()).unwrap_or(0);
                (*message).cmsg_level = libc::IPPROTO_IPV6;
                (*message).cmsg_type = libc::IPV6_PKTINFO;
                (*message).cmsg_len = libc::CMSG_LEN(size) as _;
                let info = libc::CMSG_DATA(message).cast::<libc::in6_pktinfo>();
                (*info).ipi6_addr.s6_addr = ip.octets();
                libc::CMSG_SPACE(size) as usize
            }
        }
    }
}

/// The address a datagram was sent to.
fn destination(header: &libc::msghdr) -> Option<IpAddr> {
    // SAFETY: the kernel wrote the control messages, and says in each how long it is.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(&raw const *header);
        while !message.is_null() {
            match ((*message).cmsg_level, (*message).cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info = libc::CMSG_DATA(message).cast::<libc::in_pktinfo>().read_unaligned();
                    return Some(Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes()).into());
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info = libc::CMSG_DATA(message).cast::<libc::in6_pktinfo>().read_unaligned();
                    return Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
                }
                _ => message = libc::CMSG_NXTHDR(&raw const *header, message),
            }
        }
    }
    None
}
