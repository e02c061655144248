//! The embedded store: one file, opened by one process.
//!
//! Records are in a redb file; the latest changes are also in memory, for watches. All writes go through one thread and
//! are on disk when they are answered.
//!
//! A put costs one fdatasync(2) and 0.07 ms, and puts that arrive meanwhile share the next: on a disk whose sync takes
//! 4.0 ms one writer waits 4.0 ms a put, of 32 writers each 4.0 ms and the store 0.13 ms a put. An open reads the whole
//! file: 15 ms for 1,000 records of 1 KB. (`examples/cost.rs`, development profile, two cores, ext4.)
//!
//! Not here: other processes ([`crate::serve`] and [`crate::Remote`]).

mod database;
mod feed;
mod file;
mod log;
#[cfg(test)]
mod tests;
mod writer;

pub(crate) use feed::{Begin, Feed, HOLD, Item};
pub(crate) use log::Change;

use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;

use async_trait::async_trait;
use redb::Database;
use ripstop_types::Revision;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use crate::record::Form;
use crate::{Event, Expect, Kind, Record, Store, StoreError, Text, validate_key, validate_value};
use database::Snapshot;
use log::Log;
use writer::{Answer, Op};

/// Bytes of records that a list or a watch takes up at a time.
pub(crate) const PAGE: usize = 32 << 10;
/// Events that wait in the channel of a watch: those of a page, as a rule.
pub(crate) const CHANNEL: usize = 128;

/// How much memory a store may use. The defaults serve a thousand nodes.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Most changes remembered for watches that go on after an interruption.
    pub log_changes: usize,
    /// Most bytes of such changes.
    pub log_bytes: usize,
    /// Most bytes of the file kept in memory.
    pub cache_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { log_changes: 4096, log_bytes: 2 << 20, cache_bytes: 4 << 20 }
    }
}

/// A store in a file that this process alone has open.
///
/// Dropping it finishes the writes under way, closes the file, and ends every watch.
pub struct Embedded {
    core: Arc<Core>,
    ops: Mutex<Option<mpsc::Sender<Op>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// What the writer, readers and watches share.
pub(crate) struct Core {
    path: PathBuf,
    options: Options,
    is_file: bool,
    /// `None` once closed, and while a file that failed could not be opened again.
    database: RwLock<Option<Database>>,
    log: Log,
    /// Tells this opening of the file from every other.
    epoch: u64,
}

impl Embedded {
    /// Opens the store's file, or makes a new one where there is none. Its directory must exist.
    ///
    /// # Errors
    /// [`StoreError::InUse`] where another process has it open; [`StoreError::Corrupt`] where it is damaged or something
    /// else, in which case not a byte of it is changed; [`StoreError::Io`] and [`StoreError::Full`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::open_with(path, Options::default())
    }

    /// As [`Embedded::open`], with other bounds on memory.
    ///
    /// # Errors
    /// As [`Embedded::open`].
    pub fn open_with(path: impl AsRef<Path>, options: Options) -> Result<Self, StoreError> {
        let path = path.as_ref();
        let (database, revision) = database::open(path, options)?;
        Self::start(path.to_owned(), options, true, database, revision)
    }

    /// A store in memory, gone when it is dropped.
    ///
    /// # Errors
    /// [`StoreError::Io`] if no thread can be started.
    pub fn in_memory() -> Result<Self, StoreError> {
        Self::in_memory_with(Options::default())
    }

    /// As [`Embedded::in_memory`], with other bounds on memory.
    ///
    /// # Errors
    /// As [`Embedded::in_memory`].
    pub fn in_memory_with(options: Options) -> Result<Self, StoreError> {
        let path = PathBuf::from("(in memory)");
        let (database, revision) = database::in_memory(&path, options)?;
        Self::start(path, options, false, database, revision)
    }

    /// The revision of the latest change.
    pub fn revision(&self) -> Revision {
        Revision(self.core.log.revision())
    }

    /// Finishes the writes under way, closes the file and ends every watch. Later calls fail.
    pub async fn close(&self) {
        drop(self.sender().take());
        let mut head = self.core.log.head();
        // The log outlives this call: it is part of `self`.
        let _ = head.wait_for(|head| head.closed).await;
    }

    fn start(
        path: PathBuf,
        options: Options,
        is_file: bool,
        database: Database,
        revision: u64,
    ) -> Result<Self, StoreError> {
        let log = Log::new(revision, options);
        let epoch = RandomState::new().hash_one(std::process::id());
        let core = Arc::new(Core { path, options, is_file, database: RwLock::new(Some(database)), log, epoch });
        let (ops, queue) = mpsc::channel(64);
        let shared = core.clone();
        let writer = std::thread::Builder::new()
            .name("ripstop-store".into())
            .stack_size(512 << 10)
            .spawn(move || writer::run(&shared, queue))
            .map_err(|e| file::io_fault("start the writer of", &core.path, &e))?;
        Ok(Self { core, ops: Mutex::new(Some(ops)), writer: Mutex::new(Some(writer)) })
    }

    fn sender(&self) -> std::sync::MutexGuard<'_, Option<mpsc::Sender<Op>>> {
        self.ops.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn write(&self, kind: Kind, key: &str, text: Option<String>, expect: Expect) -> Answer {
        let closed = || self.core.unopened();
        let ops = self.sender().clone().ok_or_else(closed)?;
        let (answer, answered) = oneshot::channel();
        ops.send(Op { kind, key: key.to_owned(), text, expect, answer }).await.map_err(|_| closed())?;
        // The writer answers everything it takes, unless it dies in the middle.
        answered.await.unwrap_or_else(|_| {
            let (tried, cause) = (format!("write to {}", self.name()), "the writer ended".to_owned());
            Err(StoreError::Away { tried, cause, maybe_applied: true })
        })
    }

    fn watch_as<V: Form>(&self, kinds: &[Kind]) -> mpsc::Receiver<Event<V>> {
        let (events, receiver) = mpsc::channel(CHANNEL);
        tokio::spawn(hand_over(self.feed(kinds, Begin::Fresh), events));
        receiver
    }

    pub(crate) fn feed(&self, kinds: &[Kind], begin: Begin) -> Feed {
        Feed::new(self.core.clone(), kinds, begin)
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.core.epoch
    }

    /// Hands all records of a kind, as of one revision, to `each`, a page at a time.
    pub(crate) async fn pages<F: Future<Output = Result<(), StoreError>>>(
        &self,
        kind: Kind,
        mut each: impl FnMut(Vec<Arc<Change>>) -> F,
    ) -> Result<(), StoreError> {
        let snapshot = self.core.snapshot()?;
        let mut after: Option<Box<str>> = None;
        loop {
            let page = snapshot.page(kind, after.as_deref(), PAGE)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.key.clone());
            each(page).await?;
            tokio::task::yield_now().await;
        }
    }
}

#[async_trait]
impl Store for Embedded {
    fn name(&self) -> String {
        self.core.name()
    }

    async fn get(&self, kind: Kind, key: &str) -> Result<Option<Record>, StoreError> {
        validate_key(key)?;
        self.core.snapshot()?.get(kind, key)
    }

    async fn list(&self, kind: Kind) -> Result<Vec<Record>, StoreError> {
        let mut records = Vec::new();
        self.pages(kind, |page| {
            let parsed = page.iter().try_for_each(|change| {
                records.extend(change.record()?);
                Ok(())
            });
            std::future::ready(parsed)
        })
        .await?;
        Ok(records)
    }

    async fn put_if(&self, kind: Kind, key: &str, value: &Value, expect: Expect) -> Result<Revision, StoreError> {
        validate_key(key)?;
        let text = validate_value(value)?;
        let written = self.write(kind, key, Some(text), expect).await?;
        Ok(written.unwrap_or_default())
    }

    async fn delete_if(&self, kind: Kind, key: &str, expect: Expect) -> Result<Option<Revision>, StoreError> {
        validate_key(key)?;
        self.write(kind, key, None, expect).await
    }

    fn watch(&self, kinds: &[Kind]) -> mpsc::Receiver<Event> {
        self.watch_as(kinds)
    }

    fn watch_texts(&self, kinds: &[Kind]) -> mpsc::Receiver<Event<Text>> {
        self.watch_as(kinds)
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        drop(self.sender().take());
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            // It has at most one commit to finish. A panic in it was reported where it happened.
            let _ = writer.join();
        }
    }
}

impl Core {
    fn name(&self) -> String {
        format!("embedded {}", self.path.display())
    }

    fn snapshot(&self) -> Result<Snapshot, StoreError> {
        match &*self.lock_read() {
            Some(database) => Snapshot::take(database, &self.path),
            None => Err(self.unopened()),
        }
    }

    /// Closes and opens the file, and answers the revision it is at.
    fn reopen(&self) -> Result<u64, StoreError> {
        if !self.is_file {
            return Err(self.unopened());
        }
        let mut slot = self.lock_write();
        drop(slot.take());
        let (database, revision) = database::open(&self.path, self.options)?;
        *slot = Some(database);
        Ok(revision)
    }

    fn unopened(&self) -> StoreError {
        let closed = self.log.head().borrow().closed;
        let cause = if closed { "it was closed" } else { "its file could not be opened again after a fault" };
        StoreError::Away { tried: format!("use {}", self.name()), cause: cause.into(), maybe_applied: false }
    }

    fn lock_read(&self) -> RwLockReadGuard<'_, Option<Database>> {
        self.database.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_write(&self) -> RwLockWriteGuard<'_, Option<Database>> {
        self.database.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Carries a feed into a watch's channel until either ends.
async fn hand_over<V: Form>(mut feed: Feed, events: mpsc::Sender<Event<V>>) {
    loop {
        let items = tokio::select! {
            items = feed.next(PAGE) => items,
            () = events.closed() => None,
        };
        let Some(items) = items else { return };
        for item in items {
            let event = match item {
                Item::Change(change) => change.to_event(),
                Item::Event(event) => event.map(V::of_value),
                Item::At(_) => continue,
            };
            let room = match tokio::time::timeout(HOLD, events.reserve()).await {
                Ok(room) => room,
                Err(_) => {
                    feed.release();
                    events.reserve().await
                }
            };
            match room {
                Ok(room) => room.send(event),
                Err(_) => return,
            }
        }
    }
}
