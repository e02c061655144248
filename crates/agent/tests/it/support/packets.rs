//! Real packets: servers and clients in namespaces, and frames made by hand.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::ns::{Ns, link_index};

/// A UDP server that answers each datagram with its sender's address, and keeps what came.
pub struct Echo {
    stop: Arc<AtomicBool>,
    heard: Arc<Mutex<Vec<(IpAddr, String)>>>,
    thread: Option<JoinHandle<()>>,
    pub at: SocketAddr,
}

impl Echo {
    /// At this address and port.
    pub fn start(ns: &Ns, at: &str) -> Self {
        let at: SocketAddr = at.parse().unwrap();
        let socket = ns.inside(|| UdpSocket::bind(at)).unwrap_or_else(|e| panic!("{at}: {e}"));
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let (stop, heard) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (ends, keeps) = (stop.clone(), heard.clone());
        let thread = std::thread::spawn(move || {
            let mut bytes = [0; 2048];
            while !ends.load(Ordering::Relaxed) {
                if let Ok((len, from)) = socket.recv_from(&mut bytes) {
                    let text = String::from_utf8_lossy(&bytes[..len]).into_owned();
                    keeps.lock().unwrap().push((from.ip(), text));
                    let _ = socket.send_to(from.ip().to_string().as_bytes(), from);
                }
            }
        });
        Self { stop, heard, thread: Some(thread), at }
    }

    /// Senders and texts so far.
    pub fn heard(&self) -> Vec<(IpAddr, String)> {
        self.heard.lock().unwrap().clone()
    }

    pub fn has_heard(&self, text: &str) -> bool {
        self.heard().iter().any(|(_, heard)| heard == text)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The address under which an [`Echo`] saw this namespace; `None` where no answer came in 3 s.
pub fn ask(ns: &Ns, from: Option<&str>, to: SocketAddr) -> Option<String> {
    let from: IpAddr = from.map_or_else(|| any(to), |from| from.parse().unwrap());
    let socket = ns.inside(|| UdpSocket::bind((from, 0))).unwrap_or_else(|e| panic!("{from}: {e}"));
    socket.set_read_timeout(Some(Duration::from_millis(150))).unwrap();
    let end = Instant::now() + Duration::from_secs(3);
    let mut bytes = [0; 128];
    while Instant::now() < end {
        // A refused or unreachable destination may become reachable.
        if ns.inside(|| socket.send_to(b"who", to)).is_err() {
            std::thread::sleep(Duration::from_millis(50));
            continue;
        }
        if let Ok((len, _)) = socket.recv_from(&mut bytes) {
            return Some(String::from_utf8_lossy(&bytes[..len]).into_owned());
        }
    }
    None
}

/// Sends one datagram and waits for nothing. What the kernel says to it is no matter.
pub fn send(ns: &Ns, from: Option<&str>, to: SocketAddr, text: &str) {
    let from: IpAddr = from.map_or_else(|| any(to), |from| from.parse().unwrap());
    let socket = ns.inside(|| UdpSocket::bind((from, 0))).unwrap_or_else(|e| panic!("{from}: {e}"));
    let _ = ns.inside(|| socket.send_to(text.as_bytes(), to));
}

fn any(to: SocketAddr) -> IpAddr {
    if to.is_ipv4() { std::net::Ipv4Addr::UNSPECIFIED.into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() }
}

/// A TCP server that reads everything and counts it.
pub struct Sink {
    stop: Arc<AtomicBool>,
    pub bytes: Arc<AtomicU64>,
    pub at: SocketAddr,
}

impl Sink {
    pub fn start(ns: &Ns, at: &str) -> Self {
        let at: SocketAddr = at.parse().unwrap();
        let listener = ns.inside(|| TcpListener::bind(at)).unwrap_or_else(|e| panic!("{at}: {e}"));
        let (stop, bytes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (ends, counts) = (stop.clone(), bytes.clone());
        std::thread::spawn(move || {
            let Ok((mut stream, _)) = listener.accept() else { return };
            let mut buffer = vec![0; 256 << 10];
            while !ends.load(Ordering::Relaxed) {
                match stream.read(&mut buffer) {
                    Ok(0) | Err(_) => return,
                    Ok(len) => counts.fetch_add(len as u64, Ordering::Relaxed),
                };
            }
        });
        Self { stop, bytes, at }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Sends as much as goes by TCP; ends with the returned value.
pub struct Source {
    stop: Arc<AtomicBool>,
}

impl Source {
    pub fn start(ns: &Ns, to: SocketAddr) -> Self {
        let stream = ns.inside(|| TcpStream::connect_timeout(&to, Duration::from_secs(5)));
        let mut stream = stream.unwrap_or_else(|e| panic!("{to}: {e}"));
        stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let ends = stop.clone();
        std::thread::spawn(move || {
            let buffer = vec![7; 64 << 10];
            while !ends.load(Ordering::Relaxed) {
                match stream.write(&buffer) {
                    Err(e) if !matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                        return;
                    }
                    _ => {}
                }
            }
        });
        Self { stop }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Whether one ICMP echo request is answered.
pub fn pings(ns: &Ns, to: &str) -> bool {
    ns.tried("ping", &["-c", "1", "-W", "3", to]).0
}

/// A packet socket on one link of a namespace: whole frames out and in.
pub struct Frames {
    socket: OwnedFd,
    index: i32,
}

impl Frames {
    pub fn open(ns: &Ns, link: &str) -> Self {
        ns.inside(|| {
            let every = i32::from((libc::ETH_P_ALL as u16).to_be());
            // SAFETY: no pointers; the descriptor is ours alone.
            let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, every) };
            assert!(fd >= 0, "{}", std::io::Error::last_os_error());
            // SAFETY: as above.
            let socket = unsafe { OwnedFd::from_raw_fd(fd) };
            let index = link_index(link).unwrap_or_else(|| panic!("no link {link}"));
            let this = Self { socket, index };
            let address = this.address();
            let len = u32::try_from(size_of::<libc::sockaddr_ll>()).unwrap();
            // SAFETY: the address is of the length that is said.
            let bound = unsafe { libc::bind(fd, (&raw const address).cast(), len) };
            assert_eq!(bound, 0, "{}", std::io::Error::last_os_error());
            this
        })
    }

    fn address(&self) -> libc::sockaddr_ll {
        // SAFETY: all zeros is a valid address.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = u16::try_from(libc::AF_PACKET).unwrap();
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = self.index;
        address
    }

    pub fn send(&self, frame: &[u8]) {
        let sent = rustix::io::write(&self.socket, frame);
        assert_eq!(sent, Ok(frame.len()));
    }

    /// The frames that come until one satisfies, that one included; all that came where none does in 5 s.
    pub fn until(&self, mut is_last: impl FnMut(&[u8]) -> bool) -> Vec<Vec<u8>> {
        let end = Instant::now() + Duration::from_secs(5);
        let mut frames = Vec::new();
        let mut buffer = [0; 4096];
        while Instant::now() < end {
            let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
            let time = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
            if matches!(poll(&mut fds, Some(&time)), Ok(1..)) {
                let len = rustix::io::read(self.socket.as_fd(), &mut buffer).unwrap_or(0);
                frames.push(buffer[..len].to_vec());
                if is_last(&buffer[..len]) {
                    return frames;
                }
            }
        }
        frames
    }
}

/// An Ethernet frame.
pub fn ethernet(to: [u8; 6], from: [u8; 6], kind: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from, &kind.to_be_bytes(), payload].concat()
}

/// A UDP datagram in an IPv4 packet, without a UDP checksum (RFC 768 allows that).
pub fn udp4(from: &str, to: &str, port: u16, text: &str) -> Vec<u8> {
    let octets = |ip: &str| ip.parse::<std::net::Ipv4Addr>().unwrap().octets();
    let length = u16::try_from(28 + text.len()).unwrap();
    let mut header = vec![0x45, 0];
    header.extend(length.to_be_bytes());
    header.extend([0, 1, 0, 0, 64, 17, 0, 0]);
    header.extend(octets(from));
    header.extend(octets(to));
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header.extend(9_u16.to_be_bytes());
    header.extend(port.to_be_bytes());
    header.extend((length - 20).to_be_bytes());
    header.extend([0, 0]);
    header.extend(text.bytes());
    header
}

/// An ARP packet (RFC 826): 1 asks, 2 answers.
pub fn arp(operation: u16, from_mac: [u8; 6], from: &str, to_mac: [u8; 6], to: &str) -> Vec<u8> {
    let octets = |ip: &str| ip.parse::<std::net::Ipv4Addr>().unwrap().octets();
    let mut packet = vec![0, 1, 8, 0, 6, 4];
    packet.extend(operation.to_be_bytes());
    packet.extend(from_mac);
    packet.extend(octets(from));
    packet.extend(to_mac);
    packet.extend(octets(to));
    packet
}

/// An ICMPv6 message in an IPv6 packet with the hop limit that neighbour discovery asks for (RFC 4861).
pub fn icmp6(from: &str, to: &str, kind: u8, body: &[u8]) -> Vec<u8> {
    let octets = |ip: &str| ip.parse::<std::net::Ipv6Addr>().unwrap().octets();
    let message = [&[kind, 0, 0, 0][..], body].concat();
    let length = u16::try_from(message.len()).unwrap();
    let pseudo = [&octets(from)[..], &octets(to), &u32::from(length).to_be_bytes(), &[0, 0, 0, 58], &message].concat();
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([58, 255]);
    packet.extend(octets(from));
    packet.extend(octets(to));
    packet.extend(message);
    let sum = checksum(&pseudo);
    packet[42..44].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// A neighbour advertisement's body: override, target, and the hardware address it is said to have.
pub fn advertisement(target: &str, mac: [u8; 6]) -> Vec<u8> {
    let target = target.parse::<std::net::Ipv6Addr>().unwrap().octets();
    [&[0x20, 0, 0, 0][..], &target, &[2, 1], &mac].concat()
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

/// A hardware address in bytes.
pub fn mac(text: &str) -> [u8; 6] {
    text.parse::<ripstop_types::Mac>().unwrap().0
}
