//! Connections to Services: how long the first packet takes, how many a second, and how many fail.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ripstop_lab::space;

use super::objects::TARGET;
use crate::cpu;

/// Longer than this no connection takes that gets through.
const LIMIT: Duration = Duration::from_secs(5);
/// Who asks whether it is served asks again after this: a packet that was dropped is sent again only after a second, then after two.
const TRY: Duration = Duration::from_millis(50);
/// So long takes one whose first packet was lost, at least: it is sent again after a second (RFC 6298).
const AGAIN: Duration = Duration::from_millis(900);
const BACKLOG: libc::c_int = 4096;

/// Whoever has every address of endpoints: accepts, answers a byte with a byte.
pub struct Server {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    at: SocketAddr,
    netns: std::path::PathBuf,
}

impl Server {
    /// Listens in a namespace.
    pub fn start(netns: &Path) -> Result<Self> {
        let listener = space::in_netns(netns, || TcpListener::bind(("0.0.0.0", TARGET)))?.context("listen")?;
        // SAFETY: a plain system call on a socket that lives here. What std listens with is soon full.
        unsafe { libc::listen(listener.as_raw_fd(), BACKLOG) };
        let ends = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&ends);
        let (accepted, streams) = channel();
        thread::spawn(move || answer(&streams));
        let thread = thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if is_over.load(Ordering::Relaxed) || accepted.send(stream).is_err() {
                    return;
                }
            }
        });
        Ok(Self { ends, thread: Some(thread), at: ([127, 0, 0, 1], TARGET).into(), netns: netns.into() })
    }
}

/// Answers a byte with a byte, and forgets who is gone, until nobody accepts any more.
fn answer(streams: &Receiver<TcpStream>) {
    let mut open: Vec<TcpStream> = Vec::new();
    loop {
        match streams.recv_timeout(Duration::from_millis(20)) {
            Ok(first) => open.extend(
                [first].into_iter().chain(streams.try_iter()).filter(|stream| stream.set_nonblocking(true).is_ok()),
            ),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        open.retain_mut(|stream| match stream.read(&mut [0]) {
            Ok(1) => stream.write_all(b"!").is_ok(),
            Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
            _ => false,
        });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        let _ = space::in_netns(&self.netns, || TcpStream::connect_timeout(&self.at, LIMIT));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A number that looks drawn, and is the same each time: splitmix64.
pub struct Draw(pub u64);

impl Draw {
    /// One below `bound`.
    pub fn below(&mut self, bound: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        u32::try_from((z ^ (z >> 31)) % u64::from(bound.max(1))).unwrap_or_default()
    }
}

/// Connects once and resets; how long it took.
fn connect(to: SocketAddr, limit: Duration) -> std::io::Result<Duration> {
    let begun = Instant::now();
    let stream = TcpStream::connect_timeout(&to, limit)?;
    let took = begun.elapsed();
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let length = libc::socklen_t::try_from(size_of::<libc::linger>()).unwrap_or_default();
    // SAFETY: pointer and length are those of `linger`, which lives until the call returns.
    unsafe {
        libc::setsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, (&raw const linger).cast(), length);
    }
    Ok(took)
}

/// Microseconds of connects from a namespace, one after the other on one CPU.
pub fn times(client: &Path, targets: &[SocketAddr], cpu: usize) -> Result<Vec<f64>> {
    space::in_netns(client, || {
        cpu::pin(cpu)?;
        let times: std::io::Result<Vec<f64>> =
            targets.iter().map(|to| connect(*to, LIMIT).map(|took| took.as_secs_f64() * 1e6)).collect();
        times.context("connect")
    })?
}

/// How many of the targets answer.
pub fn answering(client: &Path, targets: &[SocketAddr]) -> Result<usize> {
    Ok(space::in_netns(client, || targets.iter().take_while(|to| connect(**to, TRY).is_ok()).count())?)
}

/// What happened to connections that were made at a rate.
#[derive(Debug, Default)]
pub struct Tally {
    pub made: AtomicU64,
    pub failed: AtomicU64,
}

/// Makes connections at a rate from a namespace until it is told to stop.
pub fn at_rate(client: &Path, targets: &[SocketAddr], rate: f64, tally: &Tally, ends: &AtomicBool) -> Result<()> {
    space::in_netns(client, || {
        let begun = Instant::now();
        let mut number = 0_u32;
        while !ends.load(Ordering::Relaxed) {
            let due = Duration::from_secs_f64(f64::from(number) / rate);
            if let Some(early) = due.checked_sub(begun.elapsed()) {
                thread::sleep(early);
            }
            match connect(targets[number as usize % targets.len()], LIMIT) {
                Ok(took) if took < AGAIN => tally.made.fetch_add(1, Ordering::Relaxed),
                _ => tally.failed.fetch_add(1, Ordering::Relaxed),
            };
            number += 1;
        }
    })?;
    Ok(())
}

/// Connections that stay open.
pub struct Open(Vec<TcpStream>);

impl Open {
    /// Opens one to each target, and asks each once.
    pub fn to(client: &Path, targets: &[SocketAddr]) -> Result<Self> {
        let streams =
            space::in_netns(client, || targets.iter().map(|to| TcpStream::connect_timeout(to, LIMIT)).collect())?;
        let mut this = Self(Result::<Vec<_>, std::io::Error>::from(streams).context("connect")?);
        anyhow::ensure!(this.broken() == 0, "a fresh connection does not answer");
        Ok(this)
    }

    /// How many do not answer any more.
    pub fn broken(&mut self) -> usize {
        let ask = |stream: &mut TcpStream| {
            stream.set_read_timeout(Some(LIMIT))?;
            stream.write_all(b"?")?;
            stream.read_exact(&mut [0])
        };
        self.0.iter_mut().filter_map(|stream| ask(stream).err()).count()
    }
}
