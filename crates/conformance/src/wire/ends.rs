//! Where packets are put on a wire and taken from it: the end of a veth, and what a node itself gets and sends.
//!
//! Sockets stay in the namespace of the thread that made them.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use ripstop_objects::service::Protocol;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, ipproto, netdevice, recvfrom, sendto,
    socket_with, sockopt,
};

use super::{Read, read, read_of};

/// What a socket may hold: packets come by the thousand before anybody looks.
const BUFFER: usize = 32 << 20;

/// The hardware address of a link.
pub type Mac = [u8; 6];

/// As `ip` takes it.
pub fn shown(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// The end of a wire: a packet socket on the device of a namespace.
#[derive(Debug)]
pub struct Tap {
    file: File,
    mac: Mac,
}

impl Tap {
    /// On a device that has this address.
    pub fn open(device: &str, mac: Mac) -> io::Result<Self> {
        let all = u16::try_from(libc::ETH_P_ALL).unwrap_or_default().to_be();
        let kind = Some(rustix::net::Protocol::from_raw(
            rustix::net::RawProtocol::new(u32::from(all)).ok_or(io::ErrorKind::InvalidInput)?,
        ));
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, kind)?;
        sockopt::set_socket_recv_buffer_size_force(&fd, BUFFER)?;
        // SAFETY: all bytes zero is a valid value of this plain structure.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = all;
        address.sll_ifindex = i32::try_from(netdevice::name_to_index(&fd, device)?).unwrap_or_default();
        let length = u32::try_from(size_of_val(&address)).unwrap_or_default();
        // SAFETY: the address is a sockaddr_ll that lives through the call, and its length is given.
        match unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) } {
            0 => Ok(Self { file: File::from(fd), mac }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Sends a packet to a link on the same wire.
    pub fn send(&mut self, to: Mac, packet: &[u8]) -> io::Result<()> {
        let kind: [u8; 2] = if packet.first().is_some_and(|first| first >> 4 == 4) { [8, 0] } else { [0x86, 0xdd] };
        self.file.write_all(&[&to[..], &self.mac, &kind, packet].concat())
    }

    /// Takes all that came, with the address of the link that it came from.
    pub fn drain(&mut self, note: &mut dyn FnMut(Mac, Read)) {
        let mut buffer = [0; 2048];
        while let Ok(n) = self.file.read(&mut buffer) {
            let Some((head, packet)) = buffer[..n].split_at_checked(14) else { continue };
            let Ok(from) = head[6..12].try_into() else { continue };
            if head[..6] == self.mac
                && let Some(read) = read(packet)
            {
                note(from, read);
            }
        }
    }
}

/// What a node itself gets of one protocol: a raw socket, behind the input hook.
#[derive(Debug)]
pub struct Ear {
    fd: OwnedFd,
    protocol: u8,
    /// With IPv6, which gives no header.
    address: Option<IpAddr>,
}

impl Ear {
    /// Takes all that came.
    pub fn drain(&self, note: &mut dyn FnMut(Read)) {
        let mut buffer = [0; 2048];
        while let Ok((n, _, from)) = recvfrom(&self.fd, &mut buffer[..], RecvFlags::DONTWAIT) {
            let data = &buffer[..n];
            let from = from.and_then(|from| SocketAddr::try_from(from).ok());
            let found = match (self.address, from) {
                (Some(address), Some(from)) => read_of(from.ip(), address, self.protocol, data),
                _ => read(data),
            };
            found.into_iter().for_each(&mut *note);
        }
    }
}

/// Ears for protocols with ports, ICMP and these, at a node's addresses.
pub fn listen(addresses: &[IpAddr], others: &[u8]) -> io::Result<Vec<Ear>> {
    let mut ears = Vec::new();
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let raw = |family, number: u8| {
        let protocol = rustix::net::RawProtocol::new(u32::from(number)).map(rustix::net::Protocol::from_raw);
        let fd = socket_with(family, SocketType::RAW, flags, protocol)?;
        sockopt::set_socket_recv_buffer_size_force(&fd, BUFFER)?;
        io::Result::Ok(fd)
    };
    let protocols = |icmp| Protocol::ALL.map(Protocol::number).into_iter().chain([icmp]).chain(others.iter().copied());
    for protocol in protocols(1) {
        ears.push(Ear { fd: raw(AddressFamily::INET, protocol)?, protocol, address: None });
    }
    for protocol in protocols(58) {
        for ip in addresses.iter().copied().filter(IpAddr::is_ipv6).chain([Ipv6Addr::LOCALHOST.into()]) {
            let fd = raw(AddressFamily::INET6, protocol)?;
            bind(&fd, &SocketAddr::new(ip, 0))?;
            ears.push(Ear { fd, protocol, address: Some(ip) });
        }
    }
    Ok(ears)
}

/// Sends a node's own packets.
#[derive(Debug)]
pub struct Mouth {
    of: [OwnedFd; 2],
}

impl Mouth {
    /// In this namespace.
    pub fn open() -> io::Result<Self> {
        let raw = |family| socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::RAW));
        Ok(Self { of: [raw(AddressFamily::INET)?, raw(AddressFamily::INET6)?] })
    }

    /// Sends a packet.
    pub fn send(&self, destination: IpAddr, packet: &[u8]) -> io::Result<()> {
        let fd = &self.of[usize::from(destination.is_ipv6())];
        match sendto(fd, packet, SendFlags::empty(), &SocketAddr::new(destination, 0)) {
            // A hook that drops or rejects says so to the sender.
            Ok(_) | Err(rustix::io::Errno::PERM | rustix::io::Errno::ACCESS | rustix::io::Errno::HOSTUNREACH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Parameters of a node: it forwards, believes every source, and says of every packet that nobody is there.
pub fn quiet() -> io::Result<()> {
    let set = |name: &str, value: &str| std::fs::write(format!("/proc/sys/net/{name}"), value);
    for (name, value) in [("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1"), ("ipv4/icmp_ratelimit", "0")] {
        set(name, value)?;
    }
    set("ipv4/conf/all/rp_filter", "0")?;
    set("ipv4/conf/default/rp_filter", "0")?;
    set("ipv4/conf/default/send_redirects", "0")?;
    set("ipv4/conf/all/send_redirects", "0")?;
    // Some kernels have these for the whole machine alone, which is not ours. Connections are forgotten in a second.
    for (name, value) in [
        ("ipv6/icmp/ratelimit", "0"),
        ("ipv4/icmp_msgs_per_sec", "1000000"),
        ("ipv4/icmp_msgs_burst", "100000"),
        ("netfilter/nf_conntrack_udp_timeout", "1"),
        ("netfilter/nf_conntrack_tcp_timeout_syn_sent", "1"),
        ("netfilter/nf_conntrack_sctp_timeout_cookie_wait", "1"),
    ] {
        let _ = set(name, value);
    }
    Ok(())
}

/// Forgets all tracked connections of this namespace: `IPCTNL_MSG_CT_DELETE` of ctnetlink that names none.
pub fn forget_connections() -> io::Result<()> {
    const DELETE: u16 = 1 << 8 | 2;
    const REQUEST_WITH_ANSWER: u16 = 1 | 4;
    let family = AddressFamily::NETLINK;
    let netfilter = rustix::net::RawProtocol::new(libc::NETLINK_NETFILTER.cast_unsigned());
    let fd =
        socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, netfilter.map(rustix::net::Protocol::from_raw))?;
    let message = [
        &20_u32.to_ne_bytes()[..],
        &DELETE.to_ne_bytes(),
        &REQUEST_WITH_ANSWER.to_ne_bytes(),
        &1_u32.to_ne_bytes(),
        &[0; 4],
        &[0; 4],
    ]
    .concat();
    rustix::net::send(&fd, &message, SendFlags::empty())?;
    let mut buffer = [0; 64];
    let (n, _) = rustix::net::recv(&fd, &mut buffer[..], RecvFlags::empty())?;
    let code = buffer[..n].get(16..20).and_then(|code| code.try_into().ok()).map(i32::from_ne_bytes);
    match code {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}
