//! The load: TCP transactions, connections and bytes between two namespaces, client and server on one CPU.
//!
//! With everything on one CPU the rate is one over the sum of all CPU time, nothing waits for an idle CPU to wake, and
//! packets are not reordered between CPUs. CPU time is this process's (only the two threads of a test run then) and that
//! of the CPU's `ksoftirqd`.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use ripstop_lab::space;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};

use crate::cpu::{self, Ksoftirqd};

/// Longest wait for the other side before a test fails.
const PATIENCE: Duration = Duration::from_secs(10);
/// Ports for connections in turn, so that connections in TIME_WAIT are not in the way of the next test.
const PORTS: u16 = 8;
const FIRST_PORT: u16 = 7000;
/// Receive buffer of a stream: large enough for one CPU, small enough to stay in its cache.
const STREAM_BUFFER: libc::c_int = 400 << 10;
const BLOCK: usize = 128 << 10;

/// What is asked of the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Test {
    /// One byte there and one back, on one connection.
    Transaction,
    /// Connect, one byte there and one back, close.
    Connection,
    /// Bytes of one stream.
    Stream,
}

impl Test {
    /// All, in the order in which they are shown.
    pub const ALL: [Self; 3] = [Self::Transaction, Self::Connection, Self::Stream];

    /// How many in one visit: transactions, connections, bytes.
    #[must_use]
    pub fn amount(self) -> u64 {
        match self {
            Self::Transaction => 10_000,
            Self::Connection => 2_500,
            Self::Stream => 512_000_000,
        }
    }

    /// The unit of the cost, and how many of it one CPU second per transaction, connection or byte is.
    #[must_use]
    pub fn unit(self) -> (&'static str, f64) {
        match self {
            Self::Transaction => ("CPU µs per transaction", 1e6),
            Self::Connection => ("CPU µs per connection", 1e6),
            Self::Stream => ("CPU ms per GB", 1e3 * 1e9),
        }
    }

    /// Done before the measurement: connections, caches and windows warm up.
    fn warm_up(self) -> u64 {
        match self {
            Self::Transaction => 500,
            Self::Connection => 50,
            Self::Stream => 64_000_000,
        }
    }
}

/// A way from a client's namespace to a server's.
pub struct Course {
    client: PathBuf,
    server: IpAddr,
    listeners: Vec<TcpListener>,
    stream: TcpListener,
    turn: usize,
    charged: Vec<u32>,
}

impl Course {
    /// Listens in the server's namespace.
    pub fn open(client: &Path, netns: &Path, server: IpAddr) -> Result<Self> {
        let listen = |port: u16| -> Result<TcpListener> {
            let listener = TcpListener::bind(SocketAddr::new(server, port))?;
            // An accept that waits too long fails.
            set(&listener, libc::SO_RCVTIMEO, libc::timeval { tv_sec: PATIENCE.as_secs().cast_signed(), tv_usec: 0 })?;
            Ok(listener)
        };
        let (listeners, stream) = space::in_netns(netns, || -> Result<_> {
            let listeners = (0..PORTS).map(|port| listen(FIRST_PORT + port)).collect::<Result<Vec<_>>>()?;
            let stream = listen(FIRST_PORT + PORTS)?;
            set(&stream, libc::SO_RCVBUF, STREAM_BUFFER)?;
            Ok((listeners, stream))
        })??;
        Ok(Self { client: client.into(), server, listeners, stream, turn: 0, charged: Vec::new() })
    }

    /// From now on a process's CPU time belongs to what is measured.
    pub fn charge(&mut self, pid: u32) {
        self.charged.push(pid);
    }

    /// Connects once, to see whether the server is reached.
    pub fn reach(&mut self) -> Result<()> {
        let listener = &self.stream;
        let to = listener.local_addr()?;
        let connected = space::in_netns(&self.client, || TcpStream::connect_timeout(&to, Duration::from_millis(500)))?;
        connected.with_context(|| format!("connect to {to}"))?;
        listener.accept()?;
        Ok(())
    }

    /// Runs a test on one CPU and answers the CPU time of one unit.
    pub fn run(&mut self, test: Test, amount: u64, cpu: usize) -> Result<f64> {
        self.turn += 1;
        let listener = match test {
            Test::Stream => &self.stream,
            _ => &self.listeners[self.turn % self.listeners.len()],
        };
        let to = SocketAddr::new(self.server, listener.local_addr()?.port());
        let connections = if test == Test::Connection { test.warm_up() + amount } else { 1 };
        let clock = Clock { softirqd: vec![Ksoftirqd::of(cpu)], charged: self.charged.clone() };
        let used = thread::scope(|scope| {
            let server = scope.spawn(|| serve(listener, test, connections, cpu));
            let used = space::in_netns(&self.client, || ask(to, test, amount, cpu, &clock));
            let served = server.join().unwrap_or_else(|_| Err(anyhow!("the server ended early")));
            let used = used?.context("client")?;
            served.context("server").map(|()| used)
        })?;
        #[allow(clippy::cast_precision_loss, reason = "amounts are far below 2^52")]
        let amount = amount as f64;
        Ok(used.as_secs_f64() / amount * test.unit().1)
    }
}

/// CPU time of all that a packet costs: this process, the processes that carry packets, and `ksoftirqd`.
pub struct Clock {
    pub softirqd: Vec<Ksoftirqd>,
    pub charged: Vec<u32>,
}

impl Clock {
    /// CPU time so far.
    pub fn now(&self) -> Result<Duration> {
        let mut sum = cpu::own()? + self.softirqd.iter().map(Ksoftirqd::used).sum::<Duration>();
        for pid in &self.charged {
            sum += cpu::of_process(*pid)?;
        }
        Ok(sum)
    }
}

fn ask(to: SocketAddr, test: Test, amount: u64, cpu: usize, clock: &Clock) -> Result<Duration> {
    cpu::pin(cpu)?;
    let now = || clock.now();
    match test {
        Test::Connection => {
            connections(to, test.warm_up())?;
            let before = now()?;
            connections(to, amount)?;
            Ok(now()? - before)
        }
        Test::Transaction => {
            let mut stream = connect(to)?;
            transactions(&mut stream, test.warm_up())?;
            let before = now()?;
            transactions(&mut stream, amount)?;
            Ok(now()? - before)
        }
        Test::Stream => {
            let mut stream = connect(to)?;
            send(&mut stream, test.warm_up())?;
            let before = now()?;
            send(&mut stream, amount)?;
            stream.shutdown(Shutdown::Write)?;
            // The server answers when it has everything.
            stream.read_exact(&mut [0])?;
            Ok(now()? - before)
        }
    }
}

/// Connects from a certain address of the calling thread's namespace.
pub fn connect_from(from: IpAddr, to: SocketAddr) -> Result<TcpStream> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
    bind(&socket, &SocketAddr::new(from, 0))?;
    rustix::net::connect(&socket, &to).with_context(|| format!("connect from {from} to {to}"))?;
    Ok(socket.into())
}

fn connect(to: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE).with_context(|| format!("connect to {to}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn connections(to: SocketAddr, count: u64) -> Result<()> {
    for _ in 0..count {
        let mut stream = TcpStream::connect(to).with_context(|| format!("connect to {to}"))?;
        transactions(&mut stream, 1)?;
    }
    Ok(())
}

fn transactions(stream: &mut TcpStream, count: u64) -> Result<()> {
    let mut byte = [b'?'];
    for _ in 0..count {
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte)?;
    }
    Ok(())
}

fn send(stream: &mut TcpStream, bytes: u64) -> Result<()> {
    let block = vec![b'x'; BLOCK];
    let mut left = bytes;
    while left > 0 {
        let part = usize::try_from(left.min(BLOCK as u64))?;
        stream.write_all(&block[..part])?;
        left -= part as u64;
    }
    Ok(())
}

fn serve(listener: &TcpListener, test: Test, connections: u64, cpu: usize) -> Result<()> {
    cpu::pin(cpu)?;
    let mut block = vec![0; BLOCK];
    for _ in 0..connections {
        let (mut stream, _) = listener.accept()?;
        // It has the listener's patience.
        if test == Test::Stream {
            while stream.read(&mut block)? > 0 {}
            stream.write_all(b"!")?;
            continue;
        }
        while stream.read(&mut block[..1])? > 0 {
            stream.write_all(b"!")?;
        }
    }
    Ok(())
}

/// Sets a socket's option.
fn set<T>(socket: &impl AsRawFd, option: libc::c_int, value: T) -> Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>())?;
    // SAFETY: pointer and length are those of `value`, which lives until the call returns.
    let code =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, (&raw const value).cast(), length) };
    if code != 0 {
        return Err(std::io::Error::last_os_error()).context("set a socket's option");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_test_runs_over_loopback_and_costs_something() {
        let netns = Path::new("/proc/self/ns/net");
        match Course::open(netns, netns, IpAddr::from([127, 0, 0, 1])) {
            Ok(mut course) => {
                for test in Test::ALL {
                    let cost = course.run(test, 20, cpu::last()).unwrap();
                    assert!(cost > 0.0, "{test:?}");
                }
            }
            Err(error) => println!("SKIPPED: {error:#}"),
        }
    }
}
