//! Long-lived TCP streams between pods, with every byte checked.
//!
//! Both ends of every stream are in this process and both send: a known pattern, at a steady, low rate. A stream is broken
//! by a reset, an end, a byte that is not the pattern's, or data that makes no progress for longer than its patience.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};

use crate::error::{Attempt, LabError, Result};
use crate::lab::Lab;
use crate::options::Families;
use crate::probe::{Endpoint, Pairs};
use crate::space;

/// Between two writes of one end.
const TICK: Duration = Duration::from_millis(20);
/// What one end writes at once.
const CHUNK: usize = 1024;
/// An end waits for its peer when so much is under way.
const AHEAD: u64 = 256 << 10;
/// Length of the pattern: a prime, so that no loss of whole segments or pages goes unseen.
const PERIOD: usize = 65_521;
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Without progress for so long, a stream is broken.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Streams at work. They are closed when this value goes.
#[derive(Debug)]
pub struct TcpStreams {
    stop: Arc<AtomicBool>,
    bytes: Arc<AtomicU64>,
    thread: Option<JoinHandle<StreamReport>>,
}

/// What became of the streams.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StreamReport {
    /// Streams that were opened.
    pub streams: usize,
    /// Those that did not last.
    pub broken: usize,
    /// Those of them that carried a wrong byte.
    pub mismatched: usize,
    /// Bytes that arrived and were right.
    pub bytes: u64,
    /// The longest time any data made no progress, in milliseconds.
    pub max_stall_ms: u64,
    /// What happened to the broken ones.
    pub faults: Vec<String>,
}

impl TcpStreams {
    /// Opens `count` streams over the pairs, round robin, in every family both sides of a pair have.
    pub fn start(count: usize, pairs: &[(Endpoint, Endpoint)]) -> Result<Self> {
        let ways: Vec<Way> = pairs.iter().flat_map(|(from, to)| Way::all(from, to)).collect();
        if ways.is_empty() {
            return Err(LabError::usage("there is no pair to connect: it takes two pods with addresses"));
        }
        let streams = (0..count).map(|n| Stream::open(n, &ways[n % ways.len()])).collect::<Result<Vec<_>>>()?;
        let (stop, bytes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let engine = Engine { streams, pattern: pattern(), bytes: Arc::clone(&bytes) };
        let wish = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name("streams".into())
            .spawn(move || engine.run(&wish))
            .attempt(|| "start a thread".into())?;
        Ok(Self { stop, bytes, thread: Some(thread) })
    }

    /// How many bytes arrived so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Writes no more, waits until what is under way has arrived, and reports.
    pub fn stop(mut self) -> Result<StreamReport> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().ok_or_else(|| LabError::failed("the streams are stopped already"))?;
        thread.join().map_err(|_| LabError::failed("the streams' thread panicked"))
    }
}

impl Drop for TcpStreams {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Lab {
    /// Opens `count` streams over pairs of the lab.
    pub fn streams(&self, count: usize, pairs: &Pairs) -> Result<TcpStreams> {
        TcpStreams::start(count, &self.endpoints(pairs, Families::Dual)?)
    }
}

/// Where a stream goes.
struct Way {
    name: String,
    /// Whether its begin must be at the address named; a node chooses for itself.
    fixed: bool,
    from: (std::path::PathBuf, IpAddr),
    to: (std::path::PathBuf, IpAddr),
}

impl Way {
    fn all(from: &Endpoint, to: &Endpoint) -> Vec<Self> {
        let of = |side: &Endpoint, v4: bool| side.ips.iter().copied().find(|ip| ip.is_ipv4() == v4);
        let way = |v4| {
            Some(Self {
                name: format!("{} to {}", from.name, to.name),
                fixed: from.pod,
                from: (from.netns.clone(), of(from, v4)?),
                to: (to.netns.clone(), of(to, v4)?),
            })
        };
        [true, false].into_iter().filter_map(way).collect()
    }
}

/// A stream with both its ends.
#[derive(Debug)]
struct Stream {
    name: String,
    ends: [End; 2],
    fault: Option<Fault>,
    longest_stall: Duration,
}

#[derive(Debug)]
struct End {
    socket: TcpStream,
    written: u64,
    read: u64,
    /// When data under way to this end last made progress, or was none.
    progress: Instant,
}

#[derive(Debug)]
enum Fault {
    Mismatch(u64),
    Broken(String),
}

impl Stream {
    fn open(number: usize, way: &Way) -> Result<Self> {
        let name = format!("stream {number}, {}", way.name);
        let doing = || format!("open {name}");
        let listener = space::in_netns(&way.to.0, || TcpListener::bind((way.to.1, 0)))?.attempt(doing)?;
        let to = listener.local_addr().attempt(doing)?;
        let client = space::in_netns(&way.from.0, || connect(way.fixed.then_some(way.from.1), to))?.attempt(doing)?;
        let (server, _) = listener.accept().attempt(doing)?;
        let ends = [End::new(client).attempt(doing)?, End::new(server).attempt(doing)?];
        Ok(Self { name, ends, fault: None, longest_stall: Duration::ZERO })
    }

    /// Writes the next piece at both ends, unless the other side is behind.
    fn write(&mut self, pattern: &[u8]) {
        for n in [0, 1] {
            let ahead = self.ends[n].written - self.ends[1 - n].read;
            if self.fault.is_some() || ahead >= AHEAD {
                continue;
            }
            if ahead == 0 {
                self.ends[1 - n].progress = Instant::now();
            }
            let end = &mut self.ends[n];
            let piece = piece(pattern, end.written, CHUNK);
            match end.socket.write(piece) {
                Ok(length) => end.written += length as u64,
                Err(error) => self.suffer(error),
            }
        }
    }

    /// Reads and checks what has come at both ends; answers how many bytes were right.
    fn read(&mut self, pattern: &[u8], buffer: &mut [u8]) -> u64 {
        let mut total = 0;
        for n in [0, 1] {
            while self.fault.is_none() {
                match self.ends[n].socket.read(buffer) {
                    Ok(0) => self.fault = Some(Fault::Broken("closed by the other side".into())),
                    Ok(length) => total += self.check(n, pattern, &buffer[..length]),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => self.suffer(error),
                }
            }
        }
        total
    }

    fn check(&mut self, n: usize, pattern: &[u8], mut bytes: &[u8]) -> u64 {
        let end = &mut self.ends[n];
        let before = end.read;
        while !bytes.is_empty() {
            let expected = piece(pattern, end.read, bytes.len());
            let (head, rest) = bytes.split_at(expected.len());
            if head != expected {
                let right = head.iter().zip(expected).take_while(|(found, wanted)| found == wanted).count();
                self.fault = Some(Fault::Mismatch(end.read + right as u64));
                return 0;
            }
            end.read += head.len() as u64;
            bytes = rest;
        }
        let now = Instant::now();
        self.longest_stall = self.longest_stall.max(now - end.progress);
        end.progress = now;
        end.read - before
    }

    /// Breaks the stream if data has been under way for too long.
    fn judge(&mut self) {
        for n in [0, 1] {
            let waited = self.ends[n].progress.elapsed();
            if self.fault.is_none() && self.under_way(n) && waited > PATIENCE {
                self.longest_stall = self.longest_stall.max(waited);
                self.fault = Some(Fault::Broken(format!("no progress for {} s", waited.as_secs())));
            }
        }
    }

    /// Whether data is on its way to an end.
    fn under_way(&self, n: usize) -> bool {
        self.ends[1 - n].written > self.ends[n].read
    }

    fn done(&self) -> bool {
        self.fault.is_some() || !(self.under_way(0) || self.under_way(1))
    }

    fn suffer(&mut self, error: io::Error) {
        if error.kind() != io::ErrorKind::WouldBlock && error.kind() != io::ErrorKind::Interrupted {
            self.fault = Some(Fault::Broken(error.to_string()));
        }
    }
}

impl End {
    fn new(socket: TcpStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        Ok(Self { socket, written: 0, read: 0, progress: Instant::now() })
    }
}

struct Engine {
    streams: Vec<Stream>,
    pattern: Vec<u8>,
    bytes: Arc<AtomicU64>,
}

impl Engine {
    fn run(mut self, stop: &AtomicBool) -> StreamReport {
        let mut buffer = vec![0; 64 << 10];
        let mut due = Instant::now();
        loop {
            let stopping = stop.load(Ordering::Relaxed);
            if stopping && self.streams.iter().all(Stream::done) {
                return self.report();
            }
            if Instant::now() >= due {
                due = Instant::now() + TICK;
                for stream in &mut self.streams {
                    if !stopping {
                        stream.write(&self.pattern);
                    }
                    stream.judge();
                }
            }
            self.rest(due);
            for stream in &mut self.streams {
                let read = stream.read(&self.pattern, &mut buffer);
                self.bytes.fetch_add(read, Ordering::Relaxed);
            }
        }
    }

    fn rest(&self, until: Instant) {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: 0, tv_nsec: left.subsec_nanos().into() };
        let live = self.streams.iter().filter(|stream| stream.fault.is_none());
        let sockets = live.flat_map(|stream| stream.ends.iter().map(|end| end.socket.as_fd()));
        let mut fds: Vec<PollFd<'_>> = sockets.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        // An interruption only means one more turn.
        let _ = poll(&mut fds, Some(&timeout));
    }

    fn report(&self) -> StreamReport {
        let stall = self.streams.iter().map(|stream| stream.longest_stall).max().unwrap_or_default();
        let mut report = StreamReport {
            streams: self.streams.len(),
            bytes: self.bytes.load(Ordering::Relaxed),
            max_stall_ms: u64::try_from(stall.as_millis()).unwrap_or(u64::MAX),
            ..StreamReport::default()
        };
        for stream in &self.streams {
            let what = match &stream.fault {
                None => continue,
                Some(Fault::Broken(what)) => what.clone(),
                Some(Fault::Mismatch(at)) => {
                    report.mismatched += 1;
                    format!("wrong byte at {at}")
                }
            };
            report.broken += 1;
            report.faults.push(format!("{}: {what}", stream.name));
        }
        report
    }
}

/// A stream that begins at an address of its own, as a pod with several addresses needs it.
fn connect(from: Option<IpAddr>, to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, CONNECT_LIMIT)?;
    let found = stream.local_addr()?.ip();
    match from {
        Some(from) if from != found => Err(io::Error::other(format!("it begins at {found}, not at {from}"))),
        _ => Ok(stream),
    }
}

/// The part of the endless pattern at an offset, at most `length` long.
fn piece(pattern: &[u8], offset: u64, length: usize) -> &[u8] {
    let start = usize::try_from(offset % PERIOD as u64).unwrap_or_default();
    &pattern[start..pattern.len().min(start + length)]
}

/// One period of noise, the same on every run: a 64-bit xorshift.
fn pattern() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()[0]
    };
    (0..PERIOD).map(|_| next()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream() -> (Stream, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let server = listener.accept().unwrap().0;
        let ends = [End::new(client).unwrap(), End::new(server).unwrap()];
        (Stream { name: "test".into(), ends, fault: None, longest_stall: Duration::ZERO }, pattern())
    }

    fn read_until(stream: &mut Stream, pattern: &[u8], wanted: u64) {
        let mut buffer = vec![0; 4096];
        let mut total = 0;
        while total < wanted && stream.fault.is_none() {
            total += stream.read(pattern, &mut buffer);
        }
    }

    #[test]
    fn right_bytes_are_counted_across_the_end_of_the_pattern() {
        let (mut stream, pattern) = stream();
        for _ in 0..PERIOD / CHUNK + 3 {
            let before = stream.ends[0].written + stream.ends[1].written;
            stream.write(&pattern);
            let after = stream.ends[0].written + stream.ends[1].written;
            read_until(&mut stream, &pattern, after - before);
        }
        assert!(stream.fault.is_none() && stream.done());
        assert!(stream.ends[0].read > PERIOD as u64 && stream.ends[1].read > PERIOD as u64);
    }

    #[test]
    fn a_wrong_byte_breaks_the_stream_where_it_is() {
        let (mut stream, pattern) = stream();
        let mut bytes = pattern[..100].to_vec();
        bytes[42] ^= 1;
        stream.ends[0].socket.write_all(&bytes).unwrap();
        read_until(&mut stream, &pattern, 100);
        assert!(matches!(stream.fault, Some(Fault::Mismatch(42))), "{:?}", stream.fault);
    }

    #[test]
    fn an_end_breaks_the_stream() {
        let (mut stream, pattern) = stream();
        stream.ends[0].socket.shutdown(std::net::Shutdown::Write).unwrap();
        read_until(&mut stream, &pattern, 1);
        assert!(matches!(stream.fault, Some(Fault::Broken(_))));
    }

    #[test]
    fn data_that_stays_under_way_breaks_the_stream() {
        let (mut stream, _) = stream();
        stream.ends[0].written = 1;
        stream.judge();
        assert!(stream.fault.is_none());
        stream.ends[1].progress = Instant::now().checked_sub(PATIENCE * 2).unwrap();
        stream.judge();
        assert!(matches!(&stream.fault, Some(Fault::Broken(what)) if what.contains("no progress")));
    }
}
