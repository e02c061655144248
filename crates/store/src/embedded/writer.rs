//! The one thread that writes.
//!
//! Operations that wait while a commit is under way go into the next commit together, so many writers share one sync
//! of the disk. A file that failed is closed and opened again, because redb refuses to go on after a failed write.
//!
//! Invariants: an operation is answered after its commit is on disk and in the log; after a failed commit, what the log
//! says is what the file says.

use ripstop_types::Revision;
use tokio::sync::{mpsc, oneshot};

use super::Core;
use super::database::{self, Batch, Failure};
use crate::{Expect, Kind, StoreError};

/// The revision of the change; `None` where nothing had to change.
pub(super) type Answer = Result<Option<Revision>, StoreError>;

/// One write. `text` is the value's JSON; `None` removes.
pub(super) struct Op {
    pub(super) kind: Kind,
    pub(super) key: String,
    pub(super) text: Option<String>,
    pub(super) expect: Expect,
    pub(super) answer: oneshot::Sender<Answer>,
}

/// Most operations in one commit.
const MOST_OPS: usize = 256;
/// Bytes of values after which a commit takes no more operations.
const MOST_BYTES: usize = 4 << 20;

/// Writes until every sender is gone, then closes the file.
pub(super) fn run(core: &Core, mut ops: mpsc::Receiver<Op>) {
    let _closing = Closing(core);
    while let Some(first) = ops.blocking_recv() {
        let mut batch = vec![first];
        let mut bytes = weight(&batch[0]);
        while batch.len() < MOST_OPS && bytes < MOST_BYTES {
            let Ok(op) = ops.try_recv() else { break };
            bytes += weight(&op);
            batch.push(op);
        }
        let answers = write(core, &batch);
        for (op, answer) in batch.into_iter().zip(answers) {
            // The caller may have gone; the write stands all the same.
            let _ = op.answer.send(answer);
        }
    }
}

/// Closes the file and ends the watches, however the writer ends.
struct Closing<'a>(&'a Core);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        drop(self.0.lock_write().take());
        self.0.log.close();
    }
}

fn weight(op: &Op) -> usize {
    op.text.as_ref().map_or(0, String::len)
}

fn write(core: &Core, ops: &[Op]) -> Vec<Answer> {
    let committed = match &*core.lock_read() {
        Some(database) => database::commit(database, &core.path, ops),
        None => Err(Box::new(Failure { fault: core.unopened(), attempted: None })),
    };
    let Failure { fault, attempted } = match committed {
        Ok(Batch { answers, changes }) => {
            core.log.publish(changes);
            return answers;
        }
        Err(failure) => *failure,
    };
    tracing::warn!(store = %core.name(), %fault, "a write failed, opening the store file again");
    let lost = |cause: String, maybe_applied| {
        let lost = StoreError::Away { tried: format!("write to {}", core.name()), cause, maybe_applied };
        ops.iter().map(|_| Err(lost.clone())).collect()
    };
    match core.reopen() {
        Ok(revision) => match attempted {
            // The commit was reported as failed and is in the file: it is seen, but was not promised.
            Some(batch) if batch.changes.last().is_some_and(|last| last.revision == revision) => {
                core.log.publish(batch.changes);
                lost(fault.to_string(), true)
            }
            _ => ops.iter().map(|_| Err(fault.clone())).collect(),
        },
        Err(again) => lost(format!("{fault}; opened again: {again}"), attempted.is_some()),
    }
}
