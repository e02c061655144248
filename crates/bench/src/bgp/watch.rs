//! What a namespace's kernel tells of its routes, with the moment at which it was heard.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use ripstop_lab::space;

use crate::scene::checkpoint;

/// Lines of `ip monitor`, until the value goes.
pub struct Watch {
    child: Child,
    heard: Arc<Mutex<Vec<(Instant, String)>>>,
}

impl Watch {
    /// Listens in a namespace to changes of these kinds: `route`, `nexthop`.
    pub fn start(netns: &Path, kinds: &[&str]) -> Result<Self> {
        let mut command = Command::new("ip");
        command.args(["-o", "monitor"]).args(kinds).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = space::Place::host().in_netns(netns)?.spawn(&mut command)?;
        let lines = child.stdout.take().context("the output of ip monitor")?;
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hears = Arc::clone(&heard);
        thread::spawn(move || {
            for line in BufReader::new(lines).lines().map_while(Result::ok) {
                hears.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), line));
            }
        });
        Ok(Self { child, heard })
    }

    /// When the first line since a moment was heard for which something holds.
    pub fn since(&self, begun: Instant, holds: impl Fn(&str) -> bool) -> Option<Instant> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.iter().find(|(at, line)| *at >= begun && holds(line)).map(|(at, _)| *at)
    }

    /// Waits for such a line, as long as that from now on.
    pub fn wait(&self, what: &str, since: Instant, limit: Duration, holds: impl Fn(&str) -> bool) -> Result<Instant> {
        let asked = Instant::now();
        loop {
            checkpoint()?;
            if let Some(at) = self.since(since, &holds) {
                return Ok(at);
            }
            if asked.elapsed() > limit {
                bail!("{what}: the kernel does not tell of it in {} s", limit.as_secs());
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
