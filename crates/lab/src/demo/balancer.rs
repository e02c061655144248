//! The act of addresses of Services: a client outside downloads from one while the agent that answers for it is killed.
//!
//! Whoever answers next does not know the connection, so it is refused there and begins anew, as a program that downloads does it: from
//! the byte on that is lacking.

use std::fmt;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::json;

use super::ledger::Ledger;
use super::service::ripstop;
use crate::error::{Attempt as _, LabError, Result};
use crate::lab::Lab;
use crate::options::{Families, Options};
use crate::pods::PodSpec;
use crate::space;
use crate::target::Target;

/// What is downloaded, and how much of it at a time: four megabytes a second.
const SIZE: u64 = 20 << 20;
const PIECE: usize = 32 << 10;
const PACE: Duration = Duration::from_millis(8);

/// Nothing for so long, and the client begins anew.
const SILENCE: Duration = Duration::from_millis(300);

/// A longer pause than this a user would notice.
const MOST_PAUSE: Duration = Duration::from_secs(1);

/// What an agent is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

const MANIFEST: &str = "\
{apiVersion: ripstop.io/v1alpha1, kind: AddressPool, metadata: {name: segment}, spec: {addresses: [172.30.1.200-172.30.1.210]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: files, labels: {app: files}}, spec: {nodeName: n3, containers: [{name: c, image: none}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: files}, spec: {type: LoadBalancer, selector: {app: files}, ports: [{port: 80}]}}
";

/// An address of a Service, downloaded from while its owner's agent is killed.
pub fn downloads(ledger: &mut Ledger) -> Result<()> {
    let agent_config = json!({"services": {"proxy": "nftables", "serviceCIDRs": ["10.96.0.0/16"]}});
    let options =
        Options { subnets: 1, families: Families::V4, agent_config, replace: true, ..Options::named("demo-lb") };
    let begun = Instant::now();
    let lab = Lab::up(&options)?;
    ledger.tell(&format!("up in {:.1} s:", begun.elapsed().as_secs_f64()));
    ledger.tell("  n1, n2, n3 ── one segment ── router ── outside");
    lab.pod_add(&PodSpec::new("files", 3))?;
    let _server = Server::start(&lab.netns_of(&Target::Pod("files".into()))?)?;
    ripstop(&lab, 1, &["apply", "-f", "-"], MANIFEST)?;
    let all = [1, 2, 3];
    let (address, before) = owner(&lab, &all, None)?;
    ledger.tell(&format!("{address} is answered for by n{before}"));

    let netns = lab.netns_of(&Target::Outside)?;
    let client =
        thread::Builder::new().name("client".into()).spawn(move || download(&netns, SocketAddr::new(address, 80)));
    let client = client.attempt(|| "start a thread".into())?;
    thread::sleep(Duration::from_millis(1_500));
    lab.node(before).kill_agent(false)?;
    let others: Vec<u32> = all.into_iter().filter(|node| *node != before).collect();
    let (_, after) = owner(&lab, &others, Some(before))?;
    let got = client.join().map_err(|_| LabError::failed("the client's thread panicked"))??;
    let held = got.bytes == SIZE && got.pause < MOST_PAUSE;
    let figure = format!("{got}; n{before} answered before, n{after} after");
    ledger.check("a download from outside, its owner's agent killed (kill -9)", held, figure);
    lab.wait_ready(&all, PATIENCE)?;
    lab.down()
}

/// The Service's address, and the node that all of these take for its owner, another than `not`.
fn owner(lab: &Lab, nodes: &[u32], not: Option<u32>) -> Result<(IpAddr, u32)> {
    let until = Instant::now() + PATIENCE;
    let seen = |node: u32| -> Option<(IpAddr, u32)> {
        // An agent that begins does not answer yet.
        let rows = lab.agent_json(node, "/v1/loadbalancers").ok()?;
        Some((rows[0]["ip"].as_str()?.parse().ok()?, rows[0]["owner"].as_str()?.strip_prefix('n')?.parse().ok()?))
    };
    loop {
        let all: Vec<Option<(IpAddr, u32)>> = nodes.iter().map(|node| seen(*node)).collect();
        if let Some(first) = all[0].filter(|first| all.iter().all(|one| *one == Some(*first)) && Some(first.1) != not) {
            return Ok(first);
        }
        if Instant::now() > until {
            return Err(LabError::failed(format!("nodes {nodes:?} do not agree on who answers: {all:?}")));
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// The byte at a place of the file.
fn byte(place: u64) -> u8 {
    (place % 251) as u8
}

/// A server that sends the file from the byte on that it is asked for.
struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(netns: &Path) -> Result<Self> {
        let listener =
            space::in_netns(netns, || TcpListener::bind("0.0.0.0:80"))?.attempt(|| "listen in the pod".into())?;
        listener.set_nonblocking(true).attempt(|| "listen in the pod".into())?;
        let stop = Arc::new(AtomicBool::new(false));
        let over = stop.clone();
        let serve = move || {
            while !over.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        // A client that goes away ends it.
                        thread::spawn(move || drop(send(stream)));
                    }
                    Err(_) => thread::sleep(Duration::from_millis(2)),
                }
            }
        };
        let thread = thread::Builder::new().name("server".into()).spawn(serve).attempt(|| "start a thread".into())?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn send(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new(stream.try_clone()?).read_line(&mut line)?;
    let mut place: u64 = line.trim().parse().map_err(io::Error::other)?;
    let mut due = Instant::now();
    while place < SIZE {
        let piece: Vec<u8> = (place..SIZE).take(PIECE).map(byte).collect();
        stream.write_all(&piece)?;
        place += piece.len() as u64;
        due = (due + PACE).max(Instant::now());
        thread::sleep(due - Instant::now());
    }
    Ok(())
}

/// What came of a download.
#[derive(Debug, Default, PartialEq, Eq)]
struct Got {
    bytes: u64,
    /// The longest time without a byte.
    pause: Duration,
    /// Connections that were made.
    connections: u32,
}

impl fmt::Display for Got {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = if self.bytes == SIZE { "whole" } else { "broken off" };
        let (bytes, pause) = (self.bytes, self.pause.as_millis());
        write!(f, "{bytes} bytes, {whole}, by {} connections, longest pause {pause} ms", self.connections)
    }
}

fn download(netns: &Path, from: SocketAddr) -> Result<Got> {
    space::in_netns(netns, || {
        let (mut got, mut last) = (Got::default(), Instant::now());
        let until = last + PATIENCE;
        while got.bytes < SIZE && Instant::now() < until {
            // Refused, or silent for too long: once more, behind what is there.
            if go_on(from, &mut got, &mut last).is_err() {
                thread::sleep(Duration::from_millis(5));
            }
        }
        got
    })
}

fn go_on(from: SocketAddr, got: &mut Got, last: &mut Instant) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&from, SILENCE)?;
    got.connections += 1;
    stream.set_read_timeout(Some(SILENCE))?;
    writeln!(stream, "{}", got.bytes)?;
    let mut piece = vec![0; PIECE];
    while got.bytes < SIZE {
        let length = stream.read(&mut piece)?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        got.pause = got.pause.max(last.elapsed());
        *last = Instant::now();
        for there in &piece[..length] {
            if *there != byte(got.bytes) {
                return Err(io::Error::other("another byte than was sent"));
            }
            got.bytes += 1;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_download_says_what_came_of_it() {
        let pause = Duration::from_millis(140);
        let got = Got { bytes: SIZE, pause, connections: 2 };
        assert_eq!(got.to_string(), format!("{SIZE} bytes, whole, by 2 connections, longest pause 140 ms"));
        assert!(Got { bytes: 7, ..got }.to_string().starts_with("7 bytes, broken off"));
    }
}
