//! TCP connections between speakers of BGP, with the options that a kernel has for them: MD5 keys, least and greatest TTL,
//! source and interface; and which link an address is on.
//!
//! Besides `sockets` the only unsafe code of this crate.

use std::ffi::{CStr, CString};
use std::io;
use std::mem::size_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use ripstop_bgp::session::{Config, Password, PeerAs};
use ripstop_types::IfName;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, listen, socket_with, sockopt};

use crate::sockets::set;

/// Longest key that the kernel takes.
pub const LONGEST_KEY: usize = 80;

/// Connections that wait to be taken: as many as come at once where a reflector starts; the kernel has a limit of its own.
const BACKLOG: i32 = 4_096;

/// Class selector 6, which network control has.
const TOS: libc::c_int = 0xc0;

/// The kernel's `tcp_md5sig`.
#[repr(C)]
struct Md5 {
    address: libc::sockaddr_storage,
    flags: u8,
    prefix: u8,
    length: u16,
    interface: libc::c_int,
    key: [u8; LONGEST_KEY],
}

const _: () = assert!(size_of::<Md5>() == 216);

/// Begins to connect to a peer; the socket becomes writable when the outcome is known.
pub fn open(config: &Config) -> io::Result<TcpStream> {
    let scope = config.socket.interface.as_ref().map(index).transpose()?;
    let socket = new(config.address)?;
    if let Some(password) = &config.socket.password {
        set_key(&socket, config.address, None, Some(password))?;
    }
    prepare(&socket, config)?;
    if let Some(source) = config.socket.source {
        bind(&socket, &scoped(SocketAddr::new(source, 0), scope))?;
    }
    match connect(&socket, &scoped(SocketAddr::new(config.address, config.port), scope)) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket.into()),
        Err(error) => Err(error.into()),
    }
}

/// How a connection that was begun came out.
pub fn outcome(stream: &TcpStream) -> io::Result<()> {
    match sockopt::socket_error(stream)? {
        Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Gives a connection what every one with this peer has.
pub fn prepare(socket: &impl AsFd, config: &Config) -> io::Result<()> {
    let socket = socket.as_fd();
    let internal = match config.peer_as {
        PeerAs::Is(asn) => asn == config.local_as,
        PeerAs::Internal => true,
        PeerAs::External => false,
    };
    let ttl = match (config.socket.security_hops, config.socket.multihop) {
        (Some(_), _) => Some(u8::MAX),
        (None, Some(hops)) => Some(hops.max(1)),
        // Who is a neighbour is no hop away.
        (None, None) if !internal => Some(1),
        (None, None) => None,
    };
    let least = least_ttl(config);
    let (level, ttl_name) = ttl_option(config.address);
    let (tos, least_name) = match config.address {
        IpAddr::V4(_) => (libc::IP_TOS, libc::IP_MINTTL),
        IpAddr::V6(_) => (libc::IPV6_TCLASS, libc::IPV6_MINHOPCOUNT),
    };
    set(socket, level, tos, TOS)?;
    for (name, value) in [(ttl_name, ttl), (least_name, least)] {
        if let Some(value) = value {
            set(socket, level, name, value.into())?;
        }
    }
    sockopt::set_tcp_nodelay(socket, true).map_err(Into::into)
}

/// The least TTL of packets of a peer with GTSM (RFC 5082).
fn least_ttl(config: &Config) -> Option<u8> {
    config.socket.security_hops.map(|hops| u8::MAX - hops.saturating_sub(1))
}

/// Whether a connection that came began farther away than its peer may be. The option for it holds from when it is set, and the
/// peer may have said something before.
pub fn came_too_far(stream: &impl AsFd, config: &Config) -> bool {
    least_ttl(config).is_some_and(|least| first_ttl(stream).is_some_and(|ttl| ttl < least))
}

/// The TTL of the packet that a connection began with, where the kernel kept it.
fn first_ttl(stream: &impl AsFd) -> Option<u8> {
    let mut packet = [0u8; 256];
    let mut length = libc::socklen_t::try_from(packet.len()).ok()?;
    // SAFETY: the pointers are to bytes of that length and to the length, as the kernel wants them for this option.
    let result = unsafe {
        let (level, name) = (libc::IPPROTO_TCP, libc::TCP_SAVED_SYN);
        let place = packet.as_mut_ptr().cast();
        libc::getsockopt(stream.as_fd().as_raw_fd(), level, name, place, &raw mut length)
    };
    let packet = packet.get(..usize::try_from(length).ok()?).filter(|_| result == 0)?;
    match packet.first()? >> 4 {
        4 => packet.get(8).copied(),
        6 => packet.get(7).copied(),
        _ => None,
    }
}

/// Waits for peers at an address of this system.
pub fn wait_at(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = new(address.ip())?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    // The answer to who connects is sent before it is known whom it goes to: a peer with GTSM drops a lesser TTL.
    let (level, name) = ttl_option(address.ip());
    set(socket.as_fd(), level, name, u8::MAX.into())?;
    set(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_SAVE_SYN, 1)?;
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// Says which key packets from an address, or from all of a prefix of that length, must be signed with; `None` takes it away.
pub fn set_key(socket: &impl AsFd, peer: IpAddr, prefix: Option<u8>, key: Option<&Password>) -> io::Result<()> {
    let bytes = key.map_or(&[][..], |password| password.0.as_bytes());
    if bytes.len() > LONGEST_KEY || (key.is_some() && bytes.is_empty()) {
        let text = format!("a password is {} bytes long: accepted are 1 to {LONGEST_KEY}", bytes.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let mut padded = [0; LONGEST_KEY];
    padded[..bytes.len()].copy_from_slice(bytes);
    let value = Md5 {
        address: storage(peer),
        flags: u8::from(prefix.is_some()),
        prefix: prefix.unwrap_or(0),
        length: u16::try_from(bytes.len()).unwrap_or(0),
        interface: 0,
        key: padded,
    };
    let name = if prefix.is_some() { libc::TCP_MD5SIG_EXT } else { libc::TCP_MD5SIG };
    let length = u32::try_from(size_of::<Md5>()).unwrap_or(0);
    // SAFETY: the pointer is to a value of this length, as the kernel wants it for this option.
    let result = unsafe {
        libc::setsockopt(socket.as_fd().as_raw_fd(), libc::IPPROTO_TCP, name, (&raw const value).cast(), length)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// An address of this system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    pub link: IfName,
    pub address: IpAddr,
    mask: IpAddr,
}

/// All of them.
pub fn own() -> Vec<Own> {
    let mut all = Vec::new();
    let mut first: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: the library fills in the pointer to a list, which is walked as it says and given back.
    unsafe {
        if libc::getifaddrs(&raw mut first) != 0 {
            return all;
        }
        let mut next = first;
        while let Some(one) = next.as_ref() {
            next = one.ifa_next;
            let link = CStr::from_ptr(one.ifa_name).to_str().ok().and_then(|name| name.parse().ok());
            let (Some(address), Some(mask), Some(link)) = (address(one.ifa_addr), address(one.ifa_netmask), link)
            else {
                continue;
            };
            all.push(Own { link, address, mask });
        }
        libc::freeifaddrs(first);
    }
    all
}

/// The link on which the peer is a neighbour of a local address.
pub fn link_of(local: IpAddr, peer: IpAddr) -> Option<IfName> {
    let is_on = |own: &Own| own.address == local && same_net(local, peer, own.mask);
    own().into_iter().find(is_on).map(|own| own.link)
}

/// An interface's index.
pub fn index(name: &IfName) -> io::Result<u32> {
    let text = CString::new(name.as_str())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "no name of an interface"))?;
    // SAFETY: the text lives through the call.
    match unsafe { libc::if_nametoindex(text.as_ptr()) } {
        0 => Err(io::Error::new(io::ErrorKind::NotFound, format!("there is no interface {name}"))),
        index => Ok(index),
    }
}

fn new(family: IpAddr) -> io::Result<OwnedFd> {
    let domain = if family.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(domain, SocketType::STREAM, flags, None).map_err(Into::into)
}

/// The option that has the TTL of packets to an address, and its level.
fn ttl_option(address: IpAddr) -> (libc::c_int, libc::c_int) {
    match address {
        IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_TTL),
        IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS),
    }
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

/// Whether two addresses differ only where the mask has no bits.
fn same_net(one: IpAddr, other: IpAddr, mask: IpAddr) -> bool {
    match (one, other, mask) {
        (IpAddr::V4(one), IpAddr::V4(other), IpAddr::V4(mask)) => {
            mask != Ipv4Addr::BROADCAST && (one.to_bits() ^ other.to_bits()) & mask.to_bits() == 0
        }
        (IpAddr::V6(one), IpAddr::V6(other), IpAddr::V6(mask)) => {
            mask.to_bits() != u128::MAX && (one.to_bits() ^ other.to_bits()) & mask.to_bits() == 0
        }
        _ => false,
    }
}

fn storage(peer: IpAddr) -> libc::sockaddr_storage {
    // SAFETY: zeros are a value of it, and it has room and alignment for every kind of address.
    unsafe {
        let mut storage: libc::sockaddr_storage = std::mem::zeroed();
        match peer {
            IpAddr::V4(peer) => {
                let place = (&raw mut storage).cast::<libc::sockaddr_in>();
                (*place).sin_family = u16::try_from(libc::AF_INET).unwrap_or(0);
                (*place).sin_addr.s_addr = peer.to_bits().to_be();
            }
            IpAddr::V6(peer) => {
                let place = (&raw mut storage).cast::<libc::sockaddr_in6>();
                (*place).sin6_family = u16::try_from(libc::AF_INET6).unwrap_or(0);
                (*place).sin6_addr.s6_addr = peer.octets();
            }
        }
        storage
    }
}

/// # Safety
/// The pointer is null or to an address of the kind that it names.
unsafe fn address(place: *const libc::sockaddr) -> Option<IpAddr> {
    // SAFETY: as the caller says; each is read as what its family names.
    unsafe {
        match libc::c_int::from(place.as_ref()?.sa_family) {
            libc::AF_INET => {
                let v4 = place.cast::<libc::sockaddr_in>().read_unaligned();
                Some(Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr)).into())
            }
            libc::AF_INET6 => {
                let v6 = place.cast::<libc::sockaddr_in6>().read_unaligned();
                Some(Ipv6Addr::from(v6.sin6_addr.s6_addr).into())
            }
            _ => None,
        }
    }
}
