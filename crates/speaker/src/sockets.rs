//! Datagram sockets that tell how a packet came, and such that leave by one interface with the greatest TTL; one of ICMPv6 for router
//! advertisements. Besides `tcp` and `l2` the only unsafe code of this crate.

use std::io;
use std::mem::{MaybeUninit, size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use ripstop_bfd::{Arrival, MULTIHOP_PORT, TTL};
use ripstop_bgp::discovery::{ADVERTISEMENT, ALL_ROUTERS, HOP_LIMIT, SOLICITATION};

/// Which types of ICMPv6 are taken (RFC 3542 section 3.2).
const ICMP6_FILTER: libc::c_int = 1;

/// How a packet came.
#[derive(Debug)]
pub struct Origin {
    pub arrival: Arrival,
}

/// A port of this system, on all its addresses of one family.
#[derive(Debug)]
pub struct Listener {
    socket: UdpSocket,
    multihop: bool,
}

impl Listener {
    pub fn open(port: u16, v6: bool) -> io::Result<Self> {
        let domain = if v6 { libc::AF_INET6 } else { libc::AF_INET };
        let socket = new(domain)?;
        if v6 {
            set(&socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
            set(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
            set(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT, 1)?;
            bind(&socket, SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port))?;
        } else {
            set(&socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
            set(&socket, libc::IPPROTO_IP, libc::IP_RECVTTL, 1)?;
            bind(&socket, SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port))?;
        }
        socket.set_nonblocking(true)?;
        Ok(Self { socket, multihop: port == MULTIHOP_PORT })
    }

    /// A datagram: how long it is, and how it came, if the kernel said so. None if there is none.
    pub fn take(&self, bytes: &mut [u8]) -> Option<(usize, Option<Origin>)> {
        receive(self.socket.as_fd(), self.multihop, bytes)
    }
}

/// Router advertisements and solicitations of all links.
#[derive(Debug)]
pub struct RouterSocket(OwnedFd);

impl RouterSocket {
    pub fn open() -> io::Result<Self> {
        let socket = of_kind(libc::AF_INET6, libc::SOCK_RAW | libc::SOCK_NONBLOCK, libc::IPPROTO_ICMPV6)?;
        // A bit that is set keeps a type out.
        let mut filter = [u32::MAX; 8];
        for kind in [SOLICITATION, ADVERTISEMENT] {
            filter[usize::from(kind / 32)] &= !(1 << (kind % 32));
        }
        set_value(&socket, libc::IPPROTO_ICMPV6, ICMP6_FILTER, &filter)?;
        let hops = libc::c_int::from(HOP_LIMIT);
        let options = [
            (libc::IPV6_RECVPKTINFO, 1),
            (libc::IPV6_RECVHOPLIMIT, 1),
            (libc::IPV6_UNICAST_HOPS, hops),
            (libc::IPV6_MULTICAST_HOPS, hops),
            (libc::IPV6_MULTICAST_LOOP, 0),
        ];
        for (name, value) in options {
            set(&socket, libc::IPPROTO_IPV6, name, value)?;
        }
        Ok(Self(socket))
    }

    /// Has it hear what routers of a link are asked, or no more.
    pub fn listen(&self, interface: u32, listens: bool) -> io::Result<()> {
        let name = if listens { libc::IPV6_ADD_MEMBERSHIP } else { libc::IPV6_DROP_MEMBERSHIP };
        let group = libc::in6_addr { s6_addr: ALL_ROUTERS.octets() };
        set_value(
            &self.0,
            libc::IPPROTO_IPV6,
            name,
            &libc::ipv6_mreq { ipv6mr_multiaddr: group, ipv6mr_interface: interface },
        )
    }

    /// A message, and how it came; none if there is none.
    pub fn take(&self, bytes: &mut [u8]) -> Option<(usize, Option<Origin>)> {
        receive(self.0.as_fd(), false, bytes)
    }

    pub fn send(&self, to: Ipv6Addr, interface: u32, bytes: &[u8]) -> io::Result<()> {
        let to = SocketAddrV6::new(to, 0, 0, interface);
        rustix::net::sendto(&self.0, bytes, rustix::net::SendFlags::empty(), &to).map(drop).map_err(Into::into)
    }
}

impl AsFd for RouterSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A datagram: how long it is, and how it came, if the kernel said so. None if there is none.
fn receive(socket: BorrowedFd<'_>, multihop: bool, bytes: &mut [u8]) -> Option<(usize, Option<Origin>)> {
    // SAFETY: zeros are a value of each of these; all pointers are to what lives through the call, with its length.
    let (length, source, header, _control) = unsafe {
        let mut source: libc::sockaddr_storage = zeroed();
        let mut control = MaybeUninit::<[u64; 32]>::zeroed();
        let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        let mut header: libc::msghdr = zeroed();
        header.msg_name = (&raw mut source).cast();
        header.msg_namelen = u32::try_from(size_of::<libc::sockaddr_storage>()).unwrap_or(0);
        header.msg_iov = &raw mut part;
        header.msg_iovlen = 1;
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = size_of::<[u64; 32]>();
        let length = libc::recvmsg(socket.as_raw_fd(), &raw mut header, 0);
        let length = usize::try_from(length).ok()?;
        let told = told(&header);
        (length, address(&source), told, control)
    };
    let origin = header.zip(source).map(|((interface, destination, ttl), source)| Origin {
        arrival: Arrival { multihop, interface, source, destination, ttl },
    });
    Some((length, origin))
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Where a session's packets leave.
#[derive(Debug)]
pub struct Outlet(UdpSocket);

impl Outlet {
    pub fn open(from: IpAddr, port: u16, interface: Option<u32>) -> io::Result<Self> {
        let socket = new(if from.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 })?;
        if let Some(index) = interface.and_then(|index| libc::c_int::try_from(index).ok()) {
            set(&socket, libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX, index)?;
        }
        let ttl = libc::c_int::from(TTL);
        match from {
            IpAddr::V4(_) => set(&socket, libc::IPPROTO_IP, libc::IP_TTL, ttl)?,
            IpAddr::V6(_) => set(&socket, libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, ttl)?,
        }
        bind(&socket, scoped(SocketAddr::new(from, port), interface))?;
        socket.set_nonblocking(true)?;
        Ok(Self(socket))
    }

    pub fn send(&self, to: SocketAddr, interface: Option<u32>, bytes: &[u8]) -> io::Result<()> {
        self.0.send_to(bytes, scoped(to, interface)).map(drop)
    }
}

/// Has this thread run before those of ordinary programs, where that is permitted: it does little, and each pause of it is taken for silence.
pub fn run_first() {
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: the parameters live through the call; only this thread is meant. Without permission all stays as it is.
    let _ = unsafe { libc::sched_setscheduler(0, libc::SCHED_RR | libc::SCHED_RESET_ON_FORK, &raw const parameters) };
}

/// A link-local address means something on its link only.
fn scoped(address: SocketAddr, interface: Option<u32>) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() => {
            SocketAddrV6::new(*v6.ip(), v6.port(), 0, interface.unwrap_or(0)).into()
        }
        other => other,
    }
}

fn new(domain: libc::c_int) -> io::Result<UdpSocket> {
    of_kind(domain, libc::SOCK_DGRAM, 0).map(Into::into)
}

fn of_kind(domain: libc::c_int, kind: libc::c_int, protocol: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: the descriptor is new and has no other owner.
    unsafe {
        let fd = libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

fn bind(socket: &UdpSocket, address: SocketAddr) -> io::Result<()> {
    rustix::net::bind(socket, &address).map_err(Into::into)
}

/// Sets an option that is a number.
pub fn set(socket: impl AsFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    set_value(socket, level, name, &value)
}

/// Sets an option to a value of the kernel's own form, without pointers in it.
fn set_value<T>(socket: impl AsFd, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    let length = u32::try_from(size_of::<T>()).unwrap_or(0);
    // SAFETY: the pointer is to a value of this length, which the kernel copies.
    let result =
        unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, name, (&raw const *value).cast(), length) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Interface, destination and TTL, if all were told.
///
/// # Safety
/// The header was filled in by recvmsg, and its buffer of control messages lives.
unsafe fn told(header: &libc::msghdr) -> Option<(u32, IpAddr, u8)> {
    let (mut place, mut ttl) = (None, None);
    // SAFETY: the kernel's messages are walked by the library's own macros, and each is read as what its level and type say.
    unsafe {
        let mut next = libc::CMSG_FIRSTHDR(header);
        while let Some(message) = next.as_ref() {
            let data = libc::CMSG_DATA(next);
            match (message.cmsg_level, message.cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                    let ip = Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr));
                    place = u32::try_from(info.ipi_ifindex).ok().map(|index| (index, IpAddr::V4(ip)));
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info = data.cast::<libc::in6_pktinfo>().read_unaligned();
                    place = Some((info.ipi6_ifindex, IpAddr::V6(info.ipi6_addr.s6_addr.into())));
                }
                (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
                    ttl = u8::try_from(data.cast::<libc::c_int>().read_unaligned()).ok();
                }
                _ => {}
            }
            next = libc::CMSG_NXTHDR(header, next);
        }
    }
    let (interface, destination) = place?;
    Some((interface, destination, ttl?))
}

/// The address in what recvmsg filled in.
fn address(storage: &libc::sockaddr_storage) -> Option<IpAddr> {
    let place = (&raw const *storage).cast::<u8>();
    match libc::c_int::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: a sockaddr_storage holds any address, and its family says which.
            let v4 = unsafe { place.cast::<libc::sockaddr_in>().read() };
            Some(Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { place.cast::<libc::sockaddr_in6>().read() };
            Some(Ipv6Addr::from(v6.sin6_addr.s6_addr).into())
        }
        _ => None,
    }
}
