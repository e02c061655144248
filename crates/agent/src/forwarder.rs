//! Watches whether a forwarder of the backend `udp` answers.
//!
//! A connection that ends says that it died or was replaced. One that is away for a moment is not reported: it comes back
//! with what it had, and nobody is told meanwhile that this node does not receive any more.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use ripstop_forwarder::Client;

use crate::kernel_thread::Job;

/// How long it may be away before that is news.
const GRACE: Duration = Duration::from_secs(3);

/// Pauses between two looks: soon after it went, and later.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// How long its first answer may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whether one answers now.
pub fn answers(socket: &Path) -> bool {
    greet(socket).is_some()
}

fn greet(socket: &Path) -> Option<Client> {
    let mut client = Client::connect_within(socket, PATIENCE).ok()?;
    client.get().ok()?;
    Some(client)
}

/// Reports each coming, and each going that lasts; `there` is what was known at start. Ends with who takes the jobs.
pub fn watch(socket: PathBuf, mut there: bool, jobs: mpsc::Sender<Job>) {
    let work = move || {
        let mut gone = Instant::now();
        loop {
            if let Some(client) = greet(&socket) {
                there = true;
                if jobs.send(Job::Forwarder(true)).is_err() {
                    return;
                }
                client.wait_end();
                gone = Instant::now();
            } else if there && gone.elapsed() >= GRACE {
                there = false;
                if jobs.send(Job::Forwarder(false)).is_err() {
                    return;
                }
            }
            thread::sleep(if gone.elapsed() < GRACE { PAUSES.0 } else { PAUSES.1 });
        }
    };
    if let Err(error) = thread::Builder::new().name("forwarder".into()).spawn(work) {
        tracing::warn!("cannot start the thread that watches the forwarder: {error}");
    }
}
