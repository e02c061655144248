//! Changes behind the agent's back.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use ripstop_netmodel::Kind;

use crate::error::ObserveError;
use crate::own::OwnTraffic;

/// What may have changed since the last look. Coarse: the observer tells what it is now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changed {
    /// Kinds of which an object of ours may have changed.
    pub kinds: BTreeSet<Kind>,
    /// Whether [`ripstop_netmodel::HostFacts`] may have changed.
    pub facts: bool,
}

impl Changed {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.kinds.is_empty() && !self.facts
    }

    /// This and another.
    pub fn merge(&mut self, other: Self) {
        self.kinds.extend(other.kinds);
        self.facts |= other.facts;
    }
}

/// Listens to the kernel. Its descriptor is readable when something may have changed.
#[derive(Debug)]
pub struct Monitor {
    epoll: OwnedFd,
    own: Arc<OwnTraffic>,
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

impl Monitor {
    /// Listens in the calling thread's network namespace from now on. Writes by the applier that `own` came from
    /// ([`crate::Applier::own`]) are not reported where the kernel tells who wrote.
    ///
    /// # Errors
    /// The kernel refuses a socket.
    pub fn open(_own: Arc<OwnTraffic>) -> Result<Self, ObserveError> {
        Err(ObserveError::new("changes", "not written yet"))
    }

    /// What changed since the last call. Never waits. After an overrun of the kernel's queue, everything.
    ///
    /// # Errors
    /// A socket is broken, which does not mend.
    pub fn read(&mut self) -> Result<Changed, ObserveError> {
        Ok(Changed::default())
    }
}
