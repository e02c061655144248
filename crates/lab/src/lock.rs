//! Locks by name: a file that is locked with flock(2), so the kernel frees it when its holder dies.
//!
//! The file may be removed by its holder. Whoever waited for it then notices that the name stands for another file, or
//! for none, and begins again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::{Attempt, LabError, Result};

/// How a lock is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// Alone.
    Exclusive,
    /// Together with others that share it.
    Shared,
}

/// A lock that is held until this value goes.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Takes the lock, waiting at most `limit`. Its folder is made if it is not there.
    pub fn take(path: &Path, hold: Hold, limit: Duration) -> Result<Self> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(file) = Self::attempt(path, hold)? {
                let mut lock = Self { file, path: path.into() };
                lock.sign(hold)?;
                return Ok(lock);
            }
            if Instant::now() >= deadline {
                let holder = fs::read_to_string(path).unwrap_or_default();
                return Err(LabError::failed(format!(
                    "{} is held by another command (process {}) for more than {} s",
                    path.display(),
                    holder.trim(),
                    limit.as_secs()
                )));
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Removes the lock's file, while it is held, and gives the lock up.
    pub fn remove(self) -> Result<()> {
        fs::remove_file(&self.path).attempt(|| format!("remove {}", self.path.display()))
    }

    fn attempt(path: &Path, hold: Hold) -> Result<Option<File>> {
        let doing = || format!("lock {}", path.display());
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).attempt(doing)?;
        }
        let file = match OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path) {
            // The folder was removed just now, by the holder before us.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.attempt(doing)?,
        };
        let operation = match hold {
            Hold::Exclusive => FlockOperation::NonBlockingLockExclusive,
            Hold::Shared => FlockOperation::NonBlockingLockShared,
        };
        match flock(&file, operation) {
            Err(Errno::WOULDBLOCK) => return Ok(None),
            other => other.attempt(doing)?,
        }
        let held = file.metadata().attempt(doing)?;
        let named = fs::metadata(path).ok();
        let same = named.is_some_and(|named| (named.dev(), named.ino()) == (held.dev(), held.ino()));
        Ok(same.then_some(file))
    }

    /// Leaves the holder's pid in the file, for the message of those who wait.
    fn sign(&mut self, hold: Hold) -> Result<()> {
        if hold == Hold::Shared {
            return Ok(());
        }
        let path = &self.path;
        let doing = || format!("write {}", path.display());
        self.file.set_len(0).attempt(doing)?;
        self.file.rewind().attempt(doing)?;
        writeln!(self.file, "{}", std::process::id()).attempt(doing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(20);

    #[test]
    fn one_holds_alone_or_several_together() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/a.lock");
        let first = Lock::take(&path, Hold::Exclusive, SHORT).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        let refused = Lock::take(&path, Hold::Shared, SHORT).unwrap_err();
        assert!(refused.to_string().contains(&std::process::id().to_string()), "{refused}");
        drop(first);
        let _one = Lock::take(&path, Hold::Shared, SHORT).unwrap();
        let _two = Lock::take(&path, Hold::Shared, SHORT).unwrap();
        assert!(Lock::take(&path, Hold::Exclusive, SHORT).is_err());
    }

    #[test]
    fn a_removed_lock_is_no_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let first = Lock::take(&path, Hold::Exclusive, SHORT).unwrap();
        let waiter = {
            let path = path.clone();
            thread::spawn(move || {
                Lock::take(&path, Hold::Exclusive, Duration::from_secs(20)).map(|_lock| path.exists())
            })
        };
        thread::sleep(SHORT);
        first.remove().unwrap();
        assert!(waiter.join().unwrap().unwrap(), "the waiter holds a file that has a name");
    }
}
