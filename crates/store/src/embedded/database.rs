//! The records in redb: one table a kind, and one for the counter.
//!
//! Everything that touches redb goes through here, and a panic of redb on a damaged page is a fault like any other.
//!
//! Invariants: the counter and the changes it counts are committed together; a transaction sees the counter that
//! belongs to its records.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::backends::InMemoryBackend;
use redb::{
    Database, DatabaseError, Durability, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable, StorageError,
    Table, TableDefinition, TableError, TableHandle, WriteTransaction,
};
use ripstop_types::Revision;

use super::Options;
use super::file::{Guarded, io_fault};
use super::log::{Change, parse};
use super::writer::{Answer, Op};
use crate::{Expect, Kind, Record, StoreError, validate_key};

const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const FORMAT: u64 = 1;

/// A record's row: its revision and the JSON text of its value.
type Row = (u64, &'static [u8]);

/// What a batch of writes came to, if it is committed.
pub(super) struct Batch {
    /// One answer an operation, in order.
    pub(super) answers: Vec<Answer>,
    /// The changes, in order.
    pub(super) changes: Vec<Arc<Change>>,
}

/// Why a batch was not committed, or may not have been.
pub(super) struct Failure {
    pub(super) fault: StoreError,
    /// What was to be committed, where the commit itself failed.
    pub(super) attempted: Option<Batch>,
}

/// Opens the store's file, reads all of it, and only then lets anything be written.
pub(super) fn open(path: &Path, options: Options) -> Result<(Database, u64), StoreError> {
    let file = Guarded::open(path)?;
    let is_new = file.is_empty().map_err(|e| io_fault("look at store file", path, &e))?;
    let backend = file.clone();
    let opened = guarded(path, move || {
        let mut database = redb::Builder::new()
            .set_cache_size(options.cache_bytes)
            .create_with_backend(backend)
            .map_err(|e| database_fault(path, e))?;
        if is_new {
            initialise(&database, path)?;
        } else if !database.check_integrity().map_err(|e| database_fault(path, e))? {
            tracing::warn!(?path, "the store file's free space was not in order and has been counted anew");
        }
        let revision = verify(&database, path)?;
        Ok((database, revision))
    })?;
    file.adopt().map_err(|e| io_fault("write store file", path, &e))?;
    Ok(opened)
}

/// A store in memory.
pub(super) fn in_memory(path: &Path, options: Options) -> Result<(Database, u64), StoreError> {
    let database = redb::Builder::new()
        .set_cache_size(options.cache_bytes)
        .create_with_backend(InMemoryBackend::new())
        .map_err(|e| database_fault(path, e))?;
    initialise(&database, path)?;
    Ok((database, 0))
}

/// All of the store as it stood at one revision.
pub(super) struct Snapshot {
    transaction: ReadTransaction,
    path: PathBuf,
    pub(super) revision: u64,
}

impl Snapshot {
    pub(super) fn take(database: &Database, path: &Path) -> Result<Self, StoreError> {
        guarded(path, || {
            let transaction = database.begin_read().map_err(|e| fault(path, e))?;
            let meta = transaction.open_table(META).map_err(|e| fault(path, e))?;
            let revision = counter(&meta, path)?;
            Ok(Self { transaction, path: path.to_owned(), revision })
        })
    }

    /// One record.
    pub(super) fn get(&self, kind: Kind, key: &str) -> Result<Option<Record>, StoreError> {
        guarded(&self.path, || match self.table(kind)? {
            Some(table) => record(&table, kind, key, &self.path),
            None => Ok(None),
        })
    }

    /// The records behind a key, in order, up to about `budget` bytes; none when there are no more.
    pub(super) fn page(&self, kind: Kind, after: Option<&str>, budget: usize) -> Result<Vec<Arc<Change>>, StoreError> {
        guarded(&self.path, || {
            let Some(table) = self.table(kind)? else { return Ok(Vec::new()) };
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            let rows = table.range::<&str>((from, Bound::Unbounded)).map_err(|e| fault(&self.path, e))?;
            let (mut page, mut spent) = (Vec::new(), 0);
            for row in rows {
                let (key, value) = row.map_err(|e| fault(&self.path, e))?;
                let (revision, text) = value.value();
                let text = std::str::from_utf8(text).map_err(|e| corrupt(&self.path, e))?;
                let change = Change { revision, kind, key: key.value().into(), text: Some(text.into()) };
                spent += change.weight();
                page.push(Arc::new(change));
                if spent >= budget {
                    break;
                }
            }
            Ok(page)
        })
    }

    fn table(&self, kind: Kind) -> Result<Option<ReadOnlyTable<&'static str, Row>>, StoreError> {
        match self.transaction.open_table(definition(kind)) {
            Ok(table) => Ok(Some(table)),
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            Err(e) => Err(fault(&self.path, e)),
        }
    }
}

/// Applies operations in order, as one commit: each sees what the ones before it did.
pub(super) fn commit(database: &Database, path: &Path, ops: &[Op]) -> Result<Batch, Box<Failure>> {
    let mut reached = None;
    let result = guarded(path, || {
        let mut transaction = database.begin_write().map_err(|e| fault(path, e))?;
        transaction.set_durability(Durability::Immediate).map_err(|e| fault(path, e))?;
        let batch = apply(&transaction, path, ops)?;
        if batch.changes.is_empty() {
            transaction.abort().map_err(|e| fault(path, e))?;
        } else {
            let batch = reached.insert(batch);
            tracing::trace!(changes = batch.changes.len(), "commit");
            transaction.commit().map_err(|e| fault(path, e))?;
            return Ok(None);
        }
        Ok(Some(batch))
    });
    match (result, reached) {
        (Ok(Some(batch)), _) | (Ok(None), Some(batch)) => Ok(batch),
        (Err(fault), attempted) => Err(Box::new(Failure { fault, attempted })),
        (Ok(None), None) => {
            Err(Box::new(Failure { fault: corrupt(path, "a commit without changes"), attempted: None }))
        }
    }
}

fn apply(transaction: &WriteTransaction, path: &Path, ops: &[Op]) -> Result<Batch, StoreError> {
    let mut meta = transaction.open_table(META).map_err(|e| fault(path, e))?;
    let mut revision = counter(&meta, path)?;
    let mut tables: BTreeMap<Kind, Table<'_, &'static str, Row>> = BTreeMap::new();
    let mut batch = Batch { answers: Vec::with_capacity(ops.len()), changes: Vec::new() };
    for op in ops {
        let table = match tables.entry(op.kind) {
            Entry::Occupied(open) => open.into_mut(),
            Entry::Vacant(slot) => {
                slot.insert(transaction.open_table(definition(op.kind)).map_err(|e| fault(path, e))?)
            }
        };
        let answer = apply_one(table, path, op, revision + 1)?;
        if let Ok(Some(given)) = &answer {
            revision = given.0;
            let (key, text) = (op.key.as_str().into(), op.text.as_deref().map(Into::into));
            batch.changes.push(Arc::new(Change { revision, kind: op.kind, key, text }));
        }
        batch.answers.push(answer);
    }
    if !batch.changes.is_empty() {
        meta.insert("revision", revision).map_err(|e| fault(path, e))?;
    }
    Ok(batch)
}

/// One operation. The outer fault is the store's, the inner the operation's own.
fn apply_one(table: &mut Table<'_, &'static str, Row>, path: &Path, op: &Op, next: u64) -> Result<Answer, StoreError> {
    let key = op.key.as_str();
    let present = table.get(key).map_err(|e| fault(path, e))?.map(|row| row.value().0);
    let as_expected = match op.expect {
        Expect::Absent => present.is_none(),
        Expect::Revision(revision) => present == Some(revision.0),
        Expect::Any => true,
    };
    if !as_expected {
        let current = record(table, op.kind, key, path)?.map(Box::new);
        return Ok(Err(StoreError::Conflict { kind: op.kind, key: op.key.clone(), expected: op.expect, current }));
    }
    match &op.text {
        Some(text) => {
            table.insert(key, (next, text.as_bytes())).map_err(|e| fault(path, e))?;
        }
        None if present.is_none() => return Ok(Ok(None)),
        None => {
            table.remove(key).map_err(|e| fault(path, e))?;
        }
    }
    Ok(Ok(Some(Revision(next))))
}

fn record(
    table: &impl ReadableTable<&'static str, Row>,
    kind: Kind,
    key: &str,
    path: &Path,
) -> Result<Option<Record>, StoreError> {
    let Some(row) = table.get(key).map_err(|e| fault(path, e))? else { return Ok(None) };
    let (revision, text) = row.value();
    let value = parse(kind, key, text)?;
    Ok(Some(Record { kind, key: key.to_owned(), value, revision: Revision(revision) }))
}

fn definition(kind: Kind) -> TableDefinition<'static, &'static str, Row> {
    TableDefinition::new(kind.as_str())
}

fn counter(meta: &impl ReadableTable<&'static str, u64>, path: &Path) -> Result<u64, StoreError> {
    let revision = meta.get("revision").map_err(|e| fault(path, e))?.map(|v| v.value());
    revision.ok_or_else(|| corrupt(path, "it has no revision counter"))
}

fn initialise(database: &Database, path: &Path) -> Result<(), StoreError> {
    let transaction = database.begin_write().map_err(|e| fault(path, e))?;
    {
        let mut meta = transaction.open_table(META).map_err(|e| fault(path, e))?;
        meta.insert("format", FORMAT).map_err(|e| fault(path, e))?;
        meta.insert("revision", 0).map_err(|e| fault(path, e))?;
    }
    transaction.commit().map_err(|e| fault(path, e))
}

/// Reads everything once: that it is a store of this format, and that each record is one.
fn verify(database: &Database, path: &Path) -> Result<u64, StoreError> {
    let transaction = database.begin_read().map_err(|e| fault(path, e))?;
    let tables = transaction.list_tables().map_err(|e| fault(path, e))?;
    if !tables.into_iter().any(|table| table.name() == META.name()) {
        return Err(corrupt(path, "it is a redb file, but no store of ripstop"));
    }
    let meta = transaction.open_table(META).map_err(|e| fault(path, e))?;
    match meta.get("format").map_err(|e| fault(path, e))?.map(|v| v.value()) {
        Some(FORMAT) => {}
        Some(other) => return Err(corrupt(path, format!("its format is {other}, this version reads {FORMAT}"))),
        None => return Err(corrupt(path, "it names no format")),
    }
    let revision = counter(&meta, path)?;
    let snapshot = Snapshot { transaction, path: path.to_owned(), revision };
    for kind in Kind::every() {
        let mut after: Option<Box<str>> = None;
        loop {
            let page = snapshot.page(kind, after.as_deref(), 1 << 16)?;
            let Some(last) = page.last() else { break };
            after = Some(last.key.clone());
            for change in page {
                validate_key(&change.key).map_err(|e| corrupt(path, e))?;
                if change.revision > revision {
                    let (key, found) = (&change.key, change.revision);
                    return Err(corrupt(path, format!("{kind}/{key} is at revision {found}, the store at {revision}")));
                }
                change.record().map_err(|e| corrupt(path, e))?;
            }
        }
    }
    Ok(revision)
}

/// Runs `f`; a panic in it is a damaged file.
fn guarded<T>(path: &Path, f: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(result) => result.map_err(|fault| match fault {
            StoreError::Corrupt { cause, .. } => corrupt(path, cause),
            other => other,
        }),
        Err(panic) => {
            let said = panic.downcast_ref::<String>().map(String::as_str);
            let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason given");
            Err(corrupt(path, format!("redb gave up: {said}")))
        }
    }
}

fn corrupt(path: &Path, cause: impl ToString) -> StoreError {
    StoreError::Corrupt { path: path.to_owned(), cause: cause.to_string() }
}

fn database_fault(path: &Path, cause: DatabaseError) -> StoreError {
    match cause {
        DatabaseError::DatabaseAlreadyOpen => StoreError::InUse { path: path.to_owned() },
        DatabaseError::Storage(StorageError::Io(e))
            if matches!(e.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof) =>
        {
            corrupt(path, e)
        }
        other => fault(path, other),
    }
}

fn fault(path: &Path, cause: impl Into<redb::Error>) -> StoreError {
    match cause.into() {
        redb::Error::Io(e) => io_fault("use store file", path, &e),
        e @ (redb::Error::PreviousIo | redb::Error::DatabaseClosed) => {
            StoreError::Io { tried: "use store file".into(), path: path.to_owned(), cause: e.to_string() }
        }
        other => corrupt(path, other),
    }
}
