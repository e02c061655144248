//! A client's datagrams and who answers them.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use ripstop_lab::capture::Packet;
use ripstop_lab::pcapng::Direction;
use ripstop_lab::space;

/// The port of Services and of their endpoint, for datagrams, and for connections.
pub const PORT: u16 = 7007;
pub const WEB: u16 = crate::services::TARGET;
/// Between two datagrams to an address.
const PAUSE: Duration = Duration::from_millis(1);

/// A thread at work. It ends with this value.
pub struct Worker {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    fn start(name: &str, socket: UdpSocket, mut turn: impl FnMut(&UdpSocket) + Send + 'static) -> Result<Self> {
        let ends = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&ends);
        let work = move || {
            while !over.load(Ordering::Relaxed) {
                turn(&socket);
            }
        };
        let thread = thread::Builder::new().name(name.into()).spawn(work).context("start a thread")?;
        Ok(Self { ends, thread: Some(thread) })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Answers each datagram in a namespace with whom it came from.
pub fn echo(netns: &Path) -> Result<Worker> {
    let socket = space::in_netns(netns, || UdpSocket::bind(("::", PORT)))?.context("listen")?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let mut buffer = [0; 64];
    Worker::start("echo", socket, move |socket| {
        if let Ok((_, from)) = socket.recv_from(&mut buffer) {
            let seen = SocketAddr::new(from.ip().to_canonical(), from.port());
            let _ = socket.send_to(seen.to_string().as_bytes(), from);
        }
    })
}

/// Sends datagrams from a namespace to addresses.
pub fn client(netns: &Path, addresses: &[IpAddr]) -> Result<Worker> {
    let socket = space::in_netns(netns, || UdpSocket::bind(("::", 0)))?.context("open a socket")?;
    socket.set_nonblocking(true)?;
    let targets: Vec<SocketAddr> = addresses
        .iter()
        .map(|address| match address {
            IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), PORT),
            IpAddr::V6(ip) => SocketAddr::new((*ip).into(), PORT),
        })
        .collect();
    let mut next = Instant::now();
    Worker::start("client", socket, move |socket| {
        thread::sleep(next.saturating_duration_since(Instant::now()));
        // After a pause of this thread it does not send all at once.
        next = (next + PAUSE).max(Instant::now());
        for target in &targets {
            // Unreachable for a moment is as good as lost.
            let _ = socket.send_to(b"?", target);
        }
        while socket.recv(&mut [0; 64]).is_ok() {}
    })
}

/// The longest time in nanoseconds without an answer from an address that began between two moments; none if none came after it.
pub fn gap(address: IpAddr, between: [u64; 2], packets: &[Packet]) -> Option<u64> {
    let heard = packets.iter().filter(|packet| packet.way == Direction::In && source(&packet.data) == Some(address));
    let times: Vec<u64> = heard.map(|packet| packet.at).filter(|at| *at >= between[0]).collect();
    let gaps = times.windows(2).filter(|pair| pair[0] <= between[1]).map(|pair| pair[1] - pair[0]);
    // Silence at the end is no gap that ended.
    gaps.max().filter(|_| times.last().is_some_and(|last| *last > between[1]))
}

/// Who sent an Ethernet frame of IP.
fn source(frame: &[u8]) -> Option<IpAddr> {
    match *frame.get(12..14)?.first_chunk()? {
        [0x08, 0x00] => Some(IpAddr::from(*frame.get(26..)?.first_chunk::<4>()?)),
        [0x86, 0xdd] => Some(IpAddr::from(*frame.get(22..)?.first_chunk::<16>()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_the_longest_that_began_in_time() {
        let address = IpAddr::from([172, 30, 1, 200]);
        let packet = |at: u64, way| {
            let data = [&[0; 12][..], &[8, 0], &[0; 12], &[172, 30, 1, 200], &[0; 30]].concat();
            Packet { interface: "eth0".into(), ethernet: true, at, way, length: 60, data }
        };
        let packets: Vec<Packet> = [1, 2, 90, 91, 300].map(|at| packet(at, Direction::In)).into();
        assert_eq!(gap(address, [0, 100], &packets), Some(209));
        assert_eq!(gap(address, [0, 50], &packets), Some(88));
        assert_eq!(gap(address, [0, 400], &packets), None);
        assert_eq!(gap([10, 0, 0, 1].into(), [0, 50], &packets), None);
        assert_eq!(gap(address, [0, 50], &[packet(1, Direction::Out), packet(60, Direction::Out)]), None);
    }
}
