//! What can go wrong with a store.
//!
//! Every fault is plain data, so that it crosses the socket as it is.

use std::path::PathBuf;

use ripstop_types::Invalid;
use serde::{Deserialize, Serialize};

use crate::{Expect, Kind, Record};

/// Why a store did not do what it was asked.
#[derive(Debug, Clone, PartialEq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StoreError {
    /// The record is not what the write expected; nothing was changed.
    #[error("{kind}/{key}: expected {expected}, found {}", found(.current))]
    Conflict {
        /// The key space.
        kind: Kind,
        /// The key.
        key: String,
        /// What the caller expected.
        expected: Expect,
        /// The record as it stands; `None` if there is none.
        current: Option<Box<Record>>,
    },
    /// The store could not be asked, or did not answer.
    #[error("store away: {tried}: {cause}{}", if *.maybe_applied { "; the change may have been made" } else { "" })]
    Away {
        /// What was tried.
        tried: String,
        /// What came of it.
        cause: String,
        /// Whether the change may have been made all the same: the answer was lost, not the question. Read again.
        maybe_applied: bool,
    },
    /// The store's file is damaged, or is no store. It was not changed.
    #[error(
        "store file {path:?} cannot be read: {cause}; it was left as it is: move it away to begin with an empty store, or put a copy back"
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        cause: String,
    },
    /// Another process, or another part of this one, has the file open.
    #[error(
        "store file {path:?} is open in another process; serve it with `ripstop store serve` for several to use it"
    )]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The disk has no room; nothing was changed.
    #[error("store file {path:?}: no room: {cause}; nothing was changed: free some and try again")]
    Full {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: String,
    },
    /// The server has used up the room it may use; nothing was changed. Reads go on.
    #[error(
        "{tried}: {peer} is full and takes no writes: its database space is exceeded; compact and defragment it or raise its quota, then `etcdctl alarm disarm`"
    )]
    NoSpace {
        /// What was tried.
        tried: String,
        /// Which server.
        peer: String,
    },
    /// The file or socket cannot be used; nothing was changed.
    #[error("{tried} {path:?}: {cause}")]
    Io {
        /// What was tried, as a verb: "open store file".
        tried: String,
        /// The file or socket.
        path: PathBuf,
        /// What the system said.
        cause: String,
    },
    /// A key or a value that no store accepts; nothing was changed.
    #[error("{found:?} is not {what}: {accepted}")]
    Invalid {
        /// The kind of value, with its article.
        what: String,
        /// What was found.
        found: String,
        /// What would have been accepted.
        accepted: String,
    },
    /// The other end is there and does not do this: another protocol, or another version of ours.
    #[error("{peer} refused: {cause}")]
    Refused {
        /// Who refused.
        peer: String,
        /// Why.
        cause: String,
    },
}

impl StoreError {
    /// Whether the change may have been made in spite of the fault.
    pub fn maybe_applied(&self) -> bool {
        matches!(self, Self::Away { maybe_applied: true, .. })
    }

    /// What is behind it, for a text that says itself that the store is away.
    pub fn reason(&self) -> String {
        match self {
            Self::Away { tried, cause, .. } => format!("{tried}: {cause}"),
            other => other.to_string(),
        }
    }

    /// Whether the same call may succeed later without anyone changing anything.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Away { .. } | Self::Full { .. } | Self::NoSpace { .. })
    }
}

impl From<Invalid> for StoreError {
    fn from(fault: Invalid) -> Self {
        Self::Invalid { what: fault.what.to_owned(), found: fault.found, accepted: fault.accepted }
    }
}

fn found(current: &Option<Box<Record>>) -> String {
    current.as_ref().map_or_else(|| "no record".to_owned(), |record| format!("revision {}", record.revision))
}
