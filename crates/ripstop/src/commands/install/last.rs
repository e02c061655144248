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

/// Below the root of the host.
const RUN: &str = "run/ripstop";
const STATE: &str = "var/lib/ripstop";
/// Held by an agent as long as it runs.
const LOCK: &str = "run/ripstop/agent.lock";
/// Answered by a forwarder as long as it runs.
const FORWARDER: &str = "run/ripstop/udp-forward.sock";
/// The longest wait for both.
const PATIENCE: Duration = Duration::from_secs(45);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);

/// Waits for the signal, then for the others' end, and removes their folders below `root`.
///
/// # Errors
/// Where one of them goes on, or a file cannot be removed.
pub fn run(root: &Path) -> Result<(), Failure> {
    talk("clean but for the agent's files; they go when this is told to end");
    signals::wait().map_err(|error| Failure::system("cannot wait for a signal", &error))?;
    let deadline = Instant::now() + PATIENCE;
    while let Some(who) = at_work(root) {
        if Instant::now() >= deadline {
            return Err(Failure::Failed(format!("{who} still runs, so its files stay")));
        }
        thread::sleep(LOOK);
    }
    for folder in [RUN, STATE] {
        let folder = root.join(folder);
        remove(&folder).map_err(|error| Failure::system(&format!("cannot remove {}", folder.display()), &error))?;
    }
    Ok(())
}

fn at_work(root: &Path) -> Option<&'static str> {
    // Without the file there is no agent.
    let held =
        File::open(root.join(LOCK)).is_ok_and(|file| flock(file, FlockOperation::NonBlockingLockExclusive).is_err());
    if held {
        return Some("the agent");
    }
    UnixStream::connect(root.join(FORWARDER)).is_ok().then_some("the forwarder")
}

/// Removes a folder with what is in it. One where something is mounted stays, empty.
fn remove(folder: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }?;
    }
    match fs::remove_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_goes_with_what_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, other) = (dir.path().join("ripstop"), dir.path().join("other"));
        fs::create_dir_all(folder.join("leases")).unwrap();
        fs::write(folder.join("leases/one"), "").unwrap();
        fs::write(&other, "").unwrap();
        std::os::unix::fs::symlink(&other, folder.join("link")).unwrap();
        remove(&folder).unwrap();
        assert!(!folder.exists() && other.exists(), "what a link leads to is not touched");
        remove(&folder).unwrap();
    }
}
