//! What the monitor must know about this process's own writes, so that they do not look like changes by others.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Links remembered as removed by us. Indexes are not used again before two thousand million others, so old ones may go.
const REMEMBERED: usize = 4096;

/// Shared between an [`crate::Applier`] and the [`crate::Monitor`]s that must not see its writes.
#[derive(Debug, Default)]
pub struct OwnTraffic {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    ports: Vec<u32>,
    departing: VecDeque<u32>,
}

impl OwnTraffic {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A socket of ours that writes.
    pub(crate) fn add_port(&self, port: u32) {
        self.state().ports.push(port);
    }

    /// Whether a message was caused by a socket of ours.
    pub(crate) fn is_ours(&self, port: u32) -> bool {
        port != 0 && self.state().ports.contains(&port)
    }

    /// A link we remove: what the kernel removes with it is our doing too.
    pub(crate) fn departs(&self, index: u32) {
        let mut state = self.state();
        if state.departing.len() == REMEMBERED {
            state.departing.pop_front();
        }
        state.departing.push_back(index);
    }

    /// Whether we removed the link.
    pub(crate) fn departed(&self, index: u32) -> bool {
        self.state().departing.contains(&index)
    }
}
