//! The last that happens on a node: once nobody works there any more, the agent's and forwarder's own files go.
//!
//! Not here: what they made in the kernel, which the agent itself has taken out before.

use std::fs::{self, File};
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use crate::failure::Failure;
use crate::print::talk;
use crate::signals;

const RUN: &str = "/run/ripstop";
const STATE: &str = "/var/lib/ripstop";
/// Held by an agent as long as it runs.
const LOCK: &str = "/run/ripstop/agent.lock";
/// Answered by a forwarder as long as it runs.
const FORWARDER: &str = "/run/ripstop/udp-forward.sock";
/// The longest wait for both.
const PATIENCE: Duration = Duration::from_secs(45);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);

/// Waits for the signal, then for the others' end, and empties their folders.
///
/// # Errors
/// Where one of them goes on, or a file cannot be removed.
pub fn run() -> Result<(), Failure> {
    talk("clean but for the agent's files; they go when this is told to end");
    signals::wait().map_err(|error| Failure::system("cannot wait for a signal", &error))?;
    let deadline = Instant::now() + PATIENCE;
    while let Some(who) = at_work() {
        if Instant::now() >= deadline {
            return Err(Failure::Failed(format!("{who} still runs, so its files stay")));
        }
        thread::sleep(LOOK);
    }
    for folder in [RUN, STATE] {
        empty(Path::new(folder)).map_err(|error| Failure::system(&format!("cannot empty {folder}"), &error))?;
    }
    Ok(())
}

fn at_work() -> Option<&'static str> {
    // Without the file there is no agent.
    let held = File::open(LOCK).is_ok_and(|file| flock(file, FlockOperation::NonBlockingLockExclusive).is_err());
    if held {
        return Some("the agent");
    }
    UnixStream::connect(FORWARDER).is_ok().then_some("the forwarder")
}

/// Removes what is in a folder. The folder itself may be where something is mounted.
fn empty(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_emptied_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("leases")).unwrap();
        fs::write(dir.path().join("leases/one"), "").unwrap();
        fs::write(dir.path().join("boot-id"), "").unwrap();
        empty(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
