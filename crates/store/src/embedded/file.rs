//! The file below redb: locked, and not touched until it is known to be whole.
//!
//! redb repairs a file while it opens it, and a file that turns out to be damaged or foreign would by then be changed.
//! So a file is opened on trial: what redb would write is kept in memory, in order, and reaches the disk only when
//! everything has been read and verified ([`Guarded::adopt`]). A trial that is dropped leaves the file as it was.
//!
//! Invariants: one opener at a time, by `flock(2)`, from the open to the close; a sync that redb asked for comes
//! between the same writes when they are replayed.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use redb::StorageBackend;

use crate::StoreError;

/// A storage backend on a locked file. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Guarded(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    file: File,
    trial: RwLock<Option<Trial>>,
}

/// What was done to the file on trial.
#[derive(Debug)]
struct Trial {
    steps: Vec<Step>,
    len: u64,
}

#[derive(Debug)]
enum Step {
    Write(u64, Vec<u8>),
    SetLen(u64),
    Sync,
}

impl Guarded {
    /// Opens the file, or makes an empty one readable by its owner alone, and locks it. Begins on trial.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let fault = |tried: &str, cause: io::Error| io_fault(tried, path, &cause);
        let is_new = !path.exists();
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(path).map_err(|e| fault("open store file", e))?;
        let found = file.metadata().map_err(|e| fault("look at store file", e))?;
        if !found.is_file() {
            return Err(fault("open store file", io::Error::other("it is not a regular file")));
        }
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StoreError::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(e)) => return Err(fault("lock store file", e)),
        }
        if is_new {
            sync_directory_of(path).map_err(|e| fault("make store file", e))?;
        }
        let trial = RwLock::new(Some(Trial { steps: Vec::new(), len: found.len() }));
        Ok(Self(Arc::new(Inner { file, trial })))
    }

    /// Whether nothing was ever written to the file.
    pub(super) fn is_empty(&self) -> io::Result<bool> {
        Ok(self.0.file.metadata()?.len() == 0)
    }

    /// Ends the trial: writes to the file what was held back, and passes writes through from now on. A new file whose
    /// first writes fail is made empty again.
    pub(super) fn adopt(&self) -> io::Result<()> {
        let was_empty = self.is_empty()?;
        let mut trial = self.0.trial.write().unwrap_or_else(PoisonError::into_inner);
        let Some(held) = trial.take() else { return Ok(()) };
        let result = held.steps.iter().try_for_each(|step| match step {
            Step::Write(offset, data) => self.0.file.write_all_at(data, *offset),
            Step::SetLen(len) => self.0.file.set_len(*len),
            Step::Sync => self.0.file.sync_data(),
        });
        if result.is_err() {
            if was_empty {
                self.0.file.set_len(0)?;
            }
            *trial = Some(held);
        }
        result
    }
}

impl StorageBackend for Guarded {
    fn len(&self) -> io::Result<u64> {
        match &*self.0.trial.read().unwrap_or_else(PoisonError::into_inner) {
            Some(trial) => Ok(trial.len),
            None => Ok(self.0.file.metadata()?.len()),
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        match &*self.0.trial.read().unwrap_or_else(PoisonError::into_inner) {
            Some(trial) => trial.read(&self.0.file, offset, out),
            None => self.0.file.read_exact_at(out, offset),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if let Some(trial) = &mut *self.0.trial.write().unwrap_or_else(PoisonError::into_inner) {
            trial.len = len;
            trial.steps.push(Step::SetLen(len));
            return Ok(());
        }
        self.0.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        if let Some(trial) = &mut *self.0.trial.write().unwrap_or_else(PoisonError::into_inner) {
            trial.steps.push(Step::Sync);
            return Ok(());
        }
        #[cfg(test)]
        tests::fail_if_told(&self.0.file)?;
        self.0.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if let Some(trial) = &mut *self.0.trial.write().unwrap_or_else(PoisonError::into_inner) {
            trial.len = trial.len.max(offset + data.len() as u64);
            trial.steps.push(Step::Write(offset, data.to_vec()));
            return Ok(());
        }
        self.0.file.write_all_at(data, offset)
    }

    fn close(&self) -> io::Result<()> {
        self.0.file.unlock()
    }
}

impl Trial {
    /// Reads what the file would hold had every step been done.
    fn read(&self, file: &File, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let end = offset.saturating_add(out.len() as u64);
        if end > self.len {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{end} lies behind the file's end")));
        }
        out.fill(0);
        let mut read = 0;
        while read < out.len() {
            match file.read_at(&mut out[read..], offset + read as u64)? {
                0 => break,
                n => read += n,
            }
        }
        for step in &self.steps {
            match step {
                Step::Write(at, data) => overlay(offset, out, *at, data),
                Step::SetLen(len) if *len < end => out[len.saturating_sub(offset) as usize..].fill(0),
                Step::SetLen(_) | Step::Sync => {}
            }
        }
        Ok(())
    }
}

/// Copies the part of `data` (at `at`) that lies within `out` (at `offset`).
fn overlay(offset: u64, out: &mut [u8], at: u64, data: &[u8]) {
    let from = offset.max(at);
    let to = (offset + out.len() as u64).min(at + data.len() as u64);
    if from < to {
        let len = (to - from) as usize;
        let (target, source) = ((from - offset) as usize, (from - at) as usize);
        out[target..target + len].copy_from_slice(&data[source..source + len]);
    }
}

/// Makes a new file's name survive a power loss.
fn sync_directory_of(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

/// The fault of a system call on the store's file.
pub(super) fn io_fault(tried: &str, path: &Path, cause: &io::Error) -> StoreError {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    if matches!(cause.kind(), StorageFull | QuotaExceeded | FileTooLarge) {
        return StoreError::Full { path: path.to_owned(), cause: cause.to_string() };
    }
    StoreError::Io { tried: tried.to_owned(), path: path.to_owned(), cause: cause.to_string() }
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::sync::Mutex;

    use super::*;

    /// Inode of the file whose next sync fails, after its writes were done.
    pub(in crate::embedded) static FAILING: Mutex<Option<u64>> = Mutex::new(None);

    pub(super) fn fail_if_told(file: &File) -> io::Result<()> {
        let mut failing = FAILING.lock().unwrap_or_else(PoisonError::into_inner);
        match *failing == Some(file.metadata()?.ino()) {
            true => {
                *failing = None;
                Err(io::Error::other("the disk is broken"))
            }
            false => Ok(()),
        }
    }

    fn trial_of(path: &Path) -> Guarded {
        Guarded::open(path).unwrap()
    }

    #[test]
    fn a_trial_reads_its_own_writes_and_leaves_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, b"0123456789").unwrap();
        let guarded = trial_of(&path);
        guarded.write(8, b"abcd").unwrap();
        guarded.write(2, b"XY").unwrap();
        let mut out = [0; 12];
        guarded.read(0, &mut out).unwrap();
        assert_eq!(&out, b"01XY4567abcd");
        guarded.set_len(6).unwrap();
        guarded.set_len(9).unwrap();
        let mut out = [1; 5];
        guarded.read(4, &mut out).unwrap();
        assert_eq!(&out, b"45\0\0\0");
        assert!(guarded.read(5, &mut out).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"0123456789");
        guarded.adopt().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"01XY45\0\0\0");
        guarded.write(0, b"!").unwrap();
        assert_eq!(std::fs::read(&path).unwrap()[0], b'!');
    }

    #[test]
    fn the_lock_holds_until_the_close() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let first = trial_of(&path);
        assert_eq!(Guarded::open(&path).unwrap_err(), StoreError::InUse { path: path.clone() });
        first.close().unwrap();
        assert!(Guarded::open(&path).is_ok());
    }
}
