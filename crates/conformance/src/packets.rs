//! Real packets between two namespaces: echo requests, datagrams, streams.
//!
//! Every exchange is tried again until a limit: the first packets may wait for an address to be resolved.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};

use crate::space::Place;

/// How long an answer may take in all.
const LIMIT: Duration = Duration::from_secs(3);
/// How long one try waits.
const TRY: Duration = Duration::from_millis(250);
/// What a TCP stream carries each way.
const STREAM: usize = 256 << 10;

/// An echo request with `size` bytes of data, answered by an echo reply.
pub fn ping(from: &Place, to: IpAddr, size: usize) -> io::Result<()> {
    ping_within(from, to, size, LIMIT)
}

/// The same with another limit of time.
pub fn ping_within(from: &Place, to: IpAddr, size: usize, limit: Duration) -> io::Result<()> {
    from.run(|| {
        let (family, protocol) = match to {
            IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP),
            IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6),
        };
        let raw: OwnedFd = socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, Some(protocol))?;
        let socket = UdpSocket::from(raw);
        socket.set_read_timeout(Some(TRY))?;
        let id = (std::process::id() & 0xffff) as u16 ^ 0x5250;
        let begun = Instant::now();
        let mut failure = io::Error::from(io::ErrorKind::TimedOut);
        for sequence in 1.. {
            if begun.elapsed() > limit {
                break;
            }
            if let Err(error) = socket.send_to(&echo_request(to, id, sequence, size), SocketAddr::new(to, 0)) {
                // No route yet, or none at all.
                failure = error;
                thread::sleep(TRY);
                continue;
            }
            match echo_reply(&socket, to, id) {
                Ok(()) => return Ok(()),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    })
}

/// A datagram of `size` bytes that must not be fragmented, from one place to an address of another, and back. Gives the
/// address that the receiver saw.
pub fn datagram(from: &Place, to: IpAddr, at: &Place, size: usize) -> io::Result<IpAddr> {
    let server = at.run(|| UdpSocket::bind(SocketAddr::new(to, 0)))?;
    server.set_read_timeout(Some(TRY))?;
    let target = server.local_addr()?;
    let client = from.run(|| {
        let socket = UdpSocket::bind(SocketAddr::new(unspecified(to), 0))?;
        never_fragment(&socket, to)?;
        Ok(socket)
    })?;
    client.set_read_timeout(Some(TRY))?;
    let mut message = vec![0x52_u8; size];
    let begun = Instant::now();
    let mut failure = io::Error::from(io::ErrorKind::TimedOut);
    let mut buffer = vec![0; 1 << 16];
    while begun.elapsed() < LIMIT {
        message[0] = message[0].wrapping_add(1);
        if let Err(error) = client.send_to(&message, target) {
            failure = error;
            thread::sleep(TRY);
            continue;
        }
        match server.recv_from(&mut buffer) {
            Ok((n, peer)) if buffer[..n] == message => {
                server.send_to(&buffer[..n], peer)?;
                match client.recv_from(&mut buffer) {
                    Ok((n, _)) if buffer[..n] == message => return Ok(peer.ip()),
                    Ok(_) => failure = io::Error::other("another answer came back"),
                    Err(error) => failure = error,
                }
            }
            Ok(_) => failure = io::Error::other("another datagram arrived"),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// A stream from one place to an address of another that carries data both ways.
pub fn stream(from: &Place, to: IpAddr, at: &Place) -> io::Result<()> {
    let server = at.run(|| TcpListener::bind(SocketAddr::new(to, 0)))?;
    let target = server.local_addr()?;
    server.set_nonblocking(true)?;
    let echo = thread::spawn(move || -> io::Result<()> {
        let begun = Instant::now();
        loop {
            match server.accept() {
                Ok((mut peer, _)) => {
                    peer.set_nonblocking(false)?;
                    peer.set_read_timeout(Some(LIMIT))?;
                    peer.set_write_timeout(Some(LIMIT))?;
                    let mut data = vec![0; STREAM];
                    peer.read_exact(&mut data)?;
                    return peer.write_all(&data);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && begun.elapsed() < LIMIT => {
                    thread::sleep(Duration::from_millis(2));
                }
                Err(error) => return Err(error),
            }
        }
    });
    let data: Vec<u8> = (0..STREAM).map(|n| (n % 251) as u8).collect();
    let sent = from.run(|| {
        let mut stream = TcpStream::connect_timeout(&target, LIMIT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        stream.write_all(&data)?;
        let mut back = vec![0; STREAM];
        stream.read_exact(&mut back)?;
        if back == data { Ok(()) } else { Err(io::Error::other("the stream carried other bytes back")) }
    });
    let echoed = echo.join().unwrap_or_else(|_| Err(io::Error::other("a thread of the suite panicked")));
    sent.and(echoed)
}

fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn never_fragment(socket: &UdpSocket, to: IpAddr) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let (level, name) = match to {
        IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER),
        IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER),
    };
    let value = libc::IP_PMTUDISC_DO;
    let length = u32::try_from(size_of_val(&value)).unwrap_or_default();
    // SAFETY: the value is an int and lives through the call, and its length is given.
    let set = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), length) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn echo_request(to: IpAddr, id: u16, sequence: u16, size: usize) -> Vec<u8> {
    let kind = if to.is_ipv4() { 8 } else { 128 };
    let mut packet = vec![kind, 0, 0, 0];
    packet.extend(id.to_be_bytes());
    packet.extend(sequence.to_be_bytes());
    packet.resize(8 + size, 0x52);
    if to.is_ipv4() {
        // The kernel fills in the checksum of ICMPv6 only.
        let sum = checksum(&packet);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

fn echo_reply(socket: &UdpSocket, from: IpAddr, id: u16) -> io::Result<()> {
    let mut buffer = [0; 1 << 16];
    let begun = Instant::now();
    while begun.elapsed() < TRY {
        let (n, peer) = socket.recv_from(&mut buffer)?;
        // IPv4 gives its header too.
        let start = if from.is_ipv4() { usize::from(buffer[0] & 15) * 4 } else { 0 };
        let reply = if from.is_ipv4() { 0 } else { 129 };
        let packet = buffer.get(start..n).unwrap_or_default();
        if peer.ip() == from && packet.len() >= 8 && packet[0] == reply && packet[4..6] == id.to_be_bytes() {
            return Ok(());
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// RFC 1071.
fn checksum(data: &[u8]) -> u16 {
    let sum: u32 = data.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !(((folded & 0xffff) + (folded >> 16)) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_of_a_packet_with_its_checksum_is_nothing() {
        let packet = echo_request("192.0.2.1".parse().unwrap(), 7, 9, 33);
        assert_eq!(checksum(&packet), 0);
    }

    #[test]
    fn loopback_answers_everything() {
        let here = Place::machine();
        let to = "127.0.0.1".parse().unwrap();
        assert_eq!(datagram(&here, to, &here, 1400).unwrap(), to);
        stream(&here, to, &here).unwrap();
    }
}
