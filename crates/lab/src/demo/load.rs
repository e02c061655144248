//! Clients of a Service: new connections at a rate, and connections that stay and ask again and again.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::error::{Attempt as _, Result};
use crate::lab::Lab;
use crate::space;
use crate::target::Target;

/// Between two new connections of a client.
const PACE: Duration = Duration::from_millis(10);
/// Between two questions on a connection that stays.
const ASKS: Duration = Duration::from_millis(50);
/// An answer that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(5);

/// Clients at work.
pub struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Outcome>>,
}

/// What became of connections.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// New connections, and who answered them.
    answered: BTreeMap<String, u64>,
    /// New connections without an answer.
    failed: u64,
    /// Connections that stay, and questions that were answered on them.
    stayed: u64,
    asked: u64,
    /// Those that did not stay.
    broken: u64,
    /// What happened first.
    fault: Option<String>,
}

impl Outcome {
    /// Whether there were connections, and nothing happened to any of them.
    pub fn held(&self) -> bool {
        !self.answered.is_empty() && self.failed == 0 && self.broken == 0
    }

    fn add(&mut self, other: Self) {
        for (name, count) in other.answered {
            *self.answered.entry(name).or_default() += count;
        }
        self.failed += other.failed;
        self.stayed += other.stayed;
        self.asked += other.asked;
        self.broken += other.broken;
        self.fault = self.fault.take().or(other.fault);
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.answered.values().sum::<u64>() + self.failed;
        write!(f, "{} of {all} new connections failed, {} pods answered", self.failed, self.answered.len())?;
        if self.stayed + self.broken > 0 {
            let (broken, all) = (self.broken, self.stayed + self.broken);
            write!(f, "; {broken} of {all} that stayed broke, after {} answers", self.asked)?;
        }
        self.fault.as_ref().map_or(Ok(()), |fault| write!(f, ": {fault}"))
    }
}

impl Load {
    /// Has each of these pods connect a hundred times a second, and keep so many connections besides.
    pub fn start(lab: &Lab, clients: &[&str], to: SocketAddr, staying: usize) -> Result<Self> {
        let mut load = Self { stop: Arc::default(), threads: Vec::new() };
        for client in clients {
            let netns = lab.netns_of(&Target::Pod((*client).into()))?;
            let at = netns.clone();
            load.spawn(move |stop| connections(&at, to, stop))?;
            for _ in 0..staying {
                let at = netns.clone();
                load.spawn(move |stop| stays(&at, to, stop))?;
            }
        }
        Ok(load)
    }

    fn spawn(&mut self, work: impl FnOnce(&AtomicBool) -> Outcome + Send + 'static) -> Result<()> {
        let stop = self.stop.clone();
        let thread = thread::Builder::new().name("clients".into()).spawn(move || work(&stop));
        self.threads.push(thread.attempt(|| "start a thread".into())?);
        Ok(())
    }

    /// Ends it.
    pub fn stop(mut self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Outcome::default();
        for thread in self.threads.drain(..) {
            let lost = || Outcome { broken: 1, fault: Some("a client's thread panicked".into()), ..Outcome::default() };
            all.add(thread.join().unwrap_or_else(|_| lost()));
        }
        all
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// New connections, one after the other.
fn connections(netns: &Path, to: SocketAddr, stop: &AtomicBool) -> Outcome {
    let work = || {
        let mut outcome = Outcome::default();
        let mut due = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            match connect(to).and_then(|mut stream| ask(&mut stream, "close")) {
                Ok(name) => *outcome.answered.entry(name).or_default() += 1,
                Err(error) => {
                    outcome.failed += 1;
                    outcome.fault.get_or_insert_with(|| error.to_string());
                }
            }
            // One that is late does not hurry to catch up.
            due = (due + PACE).max(Instant::now());
            thread::sleep(due - Instant::now());
        }
        outcome
    };
    inside(netns, work)
}

/// One connection, always with the same server.
fn stays(netns: &Path, to: SocketAddr, stop: &AtomicBool) -> Outcome {
    inside(netns, || {
        let mut outcome = Outcome::default();
        let mut talk = || -> io::Result<()> {
            let mut stream = connect(to)?;
            let first = ask(&mut stream, "keep-alive")?;
            while !stop.load(Ordering::Relaxed) {
                thread::sleep(ASKS);
                let name = ask(&mut stream, "keep-alive")?;
                if name != first {
                    return Err(io::Error::other(format!("{name} answers in the place of {first}")));
                }
                outcome.asked += 1;
            }
            Ok(())
        };
        match talk() {
            Ok(()) => outcome.stayed = 1,
            Err(error) => (outcome.broken, outcome.fault) = (1, Some(format!("one that stayed: {error}"))),
        }
        outcome
    })
}

fn inside(netns: &Path, work: impl FnOnce() -> Outcome + Send) -> Outcome {
    let lost = |error: &dyn fmt::Display| Outcome { broken: 1, fault: Some(error.to_string()), ..Outcome::default() };
    space::in_netns(netns, work).unwrap_or_else(|error| lost(&error))
}

fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Asks a web server for its page, which is its name.
fn ask(stream: &mut TcpStream, connection: &str) -> io::Result<String> {
    write!(stream, "GET / HTTP/1.1\r\nHost: web\r\nConnection: {connection}\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut piece = [0; 1024];
    loop {
        if let Some(body) = whole(&answer) {
            return Ok(body);
        }
        match stream.read(&mut piece)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            length => answer.extend_from_slice(&piece[..length]),
        }
    }
}

/// The body of an answer that names its length, once all of it is there.
fn whole(answer: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(answer).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "))?.parse().ok()?;
    body.get(..length).map(ToOwned::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_is_said_and_does_not_hold() {
        let mut outcome = Outcome::default();
        assert!(!outcome.held());
        outcome.add(Outcome { answered: [("a".to_owned(), 3)].into(), stayed: 1, asked: 7, ..Outcome::default() });
        assert!(outcome.held());
        assert_eq!(
            outcome.to_string(),
            "0 of 3 new connections failed, 1 pods answered; 0 of 1 that stayed broke, after 7 answers"
        );
        outcome.add(Outcome { failed: 1, fault: Some("refused".into()), ..Outcome::default() });
        assert!(!outcome.held() && outcome.to_string().ends_with(": refused"));
    }

    #[test]
    fn an_answer_is_whole_by_its_length() {
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: x\r\n\r\nweb-1";
        assert_eq!(whole(answer.as_bytes()).as_deref(), Some("web-1"));
        assert_eq!(whole(&answer.as_bytes()[..answer.len() - 1]), None);
    }
}
