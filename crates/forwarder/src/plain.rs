//! A forwarder as Flannel's, for tests and measurements: one packet a read, one a datagram, no offload, one peer. It is what
//! ours must understand, be understood by, and outdo.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use ripstop_types::IfName;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::sys::tun;

/// How long its end may take.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// A thread that carries. It ends, and its device goes, with this value.
#[derive(Debug)]
pub struct Plain {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Plain {
    /// Makes a device in the calling thread's network namespace and carries between it and the peer, on a thread that keeps
    /// to the caller's CPUs. The device has no address and is not up.
    ///
    /// # Errors
    /// Where the device or the socket cannot be had.
    pub fn start(device: &IfName, own: SocketAddr, peer: SocketAddr) -> io::Result<Self> {
        let device = File::from(tun::plain(device)?);
        let socket = UdpSocket::bind(own)?;
        socket.set_nonblocking(true)?;
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let carry = move || {
            if let Err(error) = carry(device, &socket, peer, &flag) {
                tracing::error!("the plain forwarder to {peer} ended: {error}");
            }
        };
        let thread = std::thread::Builder::new().name("plain".into()).spawn(carry)?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Its error was told.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Both ways in turn, as long as there is something. What cannot be passed on is lost, as on any wire.
fn carry(mut device: File, socket: &UdpSocket, peer: SocketAddr, stop: &AtomicBool) -> io::Result<()> {
    let mut packet = [0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        let mut fds = [
            PollFd::from_borrowed_fd(device.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN),
        ];
        poll(&mut fds, Some(&LOOK))?;
        loop {
            let outward = device.read(&mut packet);
            if let Ok(length) = outward {
                let _ = socket.send_to(&packet[..length], peer);
            }
            let inward = socket.recv(&mut packet);
            if let Ok(length) = inward {
                let _ = device.write(&packet[..length]);
            }
            if outward.is_err() && inward.is_err() {
                break;
            }
        }
    }
    Ok(())
}
