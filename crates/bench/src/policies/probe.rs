//! Datagrams from one place to another, over and over, none of which is answered: each is judged by itself.
//!
//! What a datagram carries is when it was sent, so whichever arrive say from when on, or until when, datagrams passed.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ripstop_lab::space;
use rustix::net::sockopt::set_socket_recv_buffer_size_force;

use crate::scene::checkpoint;

/// Between two datagrams, as far as the kernel wakes a thread so soon.
const PACE: Duration = Duration::from_micros(50);
/// Who waits for a datagram looks again after this whether it is to end.
const LOOK: Duration = Duration::from_millis(50);
/// After so many that did not arrive none passes any more.
const SILENT: usize = 200;
const BUFFER: usize = 16 << 20;

/// Times by one clock, in nanoseconds.
#[derive(Debug, Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    /// One that begins now.
    #[must_use]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// The time.
    #[must_use]
    pub fn now(self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// A thread that ends with its value.
struct Worker(Arc<AtomicBool>, Option<JoinHandle<()>>);

impl Worker {
    fn start(mut work: impl FnMut() + Send + 'static) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&is_over);
        let thread = thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                work();
            }
        });
        Self(is_over, Some(thread))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        if let Some(thread) = self.1.take() {
            let _ = thread.join();
        }
    }
}

/// Times shared with a thread.
type Times = Arc<Mutex<Vec<u64>>>;

/// Whoever hears datagrams at a port.
pub struct Ear {
    heard: Times,
    _worker: Worker,
}

impl Ear {
    /// Listens in a namespace.
    pub fn open(netns: &Path, port: u16) -> Result<Self> {
        let socket = space::in_netns(netns, || UdpSocket::bind(("0.0.0.0", port)))?.context("listen")?;
        socket.set_read_timeout(Some(LOOK))?;
        set_socket_recv_buffer_size_force(&socket, BUFFER)?;
        let heard = Times::default();
        let all = Arc::clone(&heard);
        let worker = Worker::start(move || {
            let mut sent = [0; 8];
            if socket.recv(&mut sent).is_ok_and(|length| length == sent.len()) {
                all.lock().unwrap_or_else(PoisonError::into_inner).push(u64::from_ne_bytes(sent));
            }
        });
        Ok(Self { heard, _worker: worker })
    }

    /// When those were sent that have arrived so far.
    #[must_use]
    pub fn heard(&self) -> Vec<u64> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets them.
    pub fn clear(&self) {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// When the first one was sent that arrived of those sent from a time on.
    pub fn first_from(&self, time: u64, limit: Duration) -> Result<u64> {
        let deadline = Instant::now() + limit;
        loop {
            checkpoint()?;
            if let Some(first) = self.heard().into_iter().filter(|sent| *sent >= time).min() {
                return Ok(first);
            }
            if Instant::now() >= deadline {
                bail!("no datagram arrives");
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// When the last one was sent that arrived, of those sent from a time on, once many have been sent behind it that did not.
    pub fn last_from(&self, time: u64, mouth: &Mouth, limit: Duration) -> Result<u64> {
        let deadline = Instant::now() + limit;
        loop {
            checkpoint()?;
            let last = self.heard().into_iter().fold(time, u64::max);
            if mouth.sent_from(last + 1).len() >= SILENT {
                return Ok(last);
            }
            if Instant::now() >= deadline {
                bail!("datagrams do not cease to arrive");
            }
            thread::sleep(LOOK / 10);
        }
    }
}

/// Whoever sends datagrams to several places in turn.
pub struct Mouth {
    sent: Times,
    _worker: Worker,
}

impl Mouth {
    /// Begins to send from a namespace, from any address of it or from a certain one; to where `to` says each time. What cannot be sent yet
    /// is left out, and counts as sent only what all were sent.
    pub fn open(
        netns: &Path,
        from: SocketAddr,
        clock: Clock,
        mut to: impl FnMut() -> Vec<SocketAddr> + Send + 'static,
    ) -> Result<Self> {
        let socket = space::in_netns(netns, || UdpSocket::bind(from))?.context("a socket")?;
        socket.set_nonblocking(true)?;
        let sent = Times::default();
        let all = Arc::clone(&sent);
        let worker = Worker::start(move || {
            let now = clock.now();
            let failed = to().into_iter().filter(|to| socket.send_to(&now.to_ne_bytes(), to).is_err()).count();
            if failed == 0 {
                all.lock().unwrap_or_else(PoisonError::into_inner).push(now);
            }
            thread::sleep(PACE);
        });
        Ok(Self { sent, _worker: worker })
    }

    /// When something was sent, from a time on.
    #[must_use]
    pub fn sent_from(&self, time: u64) -> Vec<u64> {
        let sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        sent[sent.partition_point(|sent| *sent < time)..].to_vec()
    }
}

/// Nanoseconds as milliseconds.
#[must_use]
pub fn ms(nanoseconds: u64) -> f64 {
    Duration::from_nanos(nanoseconds).as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_arrives_says_when_it_was_sent() {
        let netns = Path::new("/proc/self/ns/net");
        let clock = Clock::start();
        let ear = match Ear::open(netns, 39_217) {
            Ok(ear) => ear,
            Err(error) => return println!("SKIPPED: {error:#}"),
        };
        let to: SocketAddr = ([127, 0, 0, 1], 39_217).into();
        let mouth = Mouth::open(netns, ([127, 0, 0, 1], 0).into(), clock, move || vec![to]).unwrap();
        let from = clock.now();
        let first = ear.first_from(from, Duration::from_secs(10)).unwrap();
        assert!(first >= from && mouth.sent_from(from).contains(&first));
        assert!(ear.last_from(from, &mouth, Duration::from_millis(100)).is_err(), "they go on arriving");
    }
}
