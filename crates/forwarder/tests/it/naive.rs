//! A forwarder as Flannel's: one packet a read, one a datagram, no offload. Ours understands it, and is understood.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use ripstop_forwarder::control::Reason;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::support::{Node, nodes, stream_both_ways};

/// It ends with its value.
struct Naive {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Naive {
    /// Forwards between the node's second device, which takes the first one's addresses, and the peer.
    fn start(node: &Node) -> Self {
        let (number, peer) = (node.number, 3 - node.number);
        let device = node.space.inside(|| plain_tun("naive0"));
        node.space.ip(&format!(
            "link del ripudp0\nlink set naive0 mtu 1472 addrgenmode none up\naddr add 10.244.{number}.1/32 dev naive0\n\
             addr add fd44:{number}::1/128 dev naive0 nodad\n\
             route add 10.244.{peer}.0/24 dev naive0 src 10.244.{number}.1\n\
             route add fd44:{peer}::/64 dev naive0 src fd44:{number}::1"
        ));
        let socket = node.space.inside(|| UdpSocket::bind(SocketAddr::from(([172, 30, 0, number], 8285))).unwrap());
        let (stop, to) = (Arc::new(AtomicBool::new(false)), SocketAddr::from(([172, 30, 0, peer], 8285)));
        let flag = Arc::clone(&stop);
        let thread = std::thread::spawn(move || carry(device, &socket, to, &flag));
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Naive {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}

fn plain_tun(name: &str) -> File {
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun").unwrap();
    // SAFETY: an ifreq of zeros is one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *place = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the pointer is to an ifreq.
    assert!(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } >= 0);
    file
}

fn carry(mut device: File, socket: &UdpSocket, to: SocketAddr, stop: &AtomicBool) {
    socket.set_nonblocking(true).unwrap();
    let mut packet = [0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        let mut fds = [
            PollFd::from_borrowed_fd(device.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN),
        ];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 50_000_000 })).unwrap();
        if let Ok(length) = device.read(&mut packet) {
            let _ = socket.send_to(&packet[..length], to);
        }
        if let Ok(length) = socket.recv(&mut packet) {
            let _ = device.write(&packet[..length]);
        }
    }
}

#[test]
fn a_forwarder_that_reads_one_packet_at_a_time_is_understood_both_ways() {
    let Some([one, two]) = nodes(1500) else { return };
    let _running = one.forward(true);
    let _naive = Naive::start(&two);
    for v4 in [true, false] {
        stream_both_ways(&one, &two, v4, 5_000_000);
    }
    let stats = one.stats();
    // The other kernel's own multicast reports come from no address of the range.
    let dropped = &stats.peers["n2"].dropped;
    assert!(dropped.keys().all(|reason| *reason == Reason::WrongSource), "{stats:?}");
}
