//! Removing links without waiting for the kernel's read-copy-update grace period.
//!
//! `RTM_DELLINK` of a veth answers after 20 to 24 ms, all of it spent in rcu_barrier, while the link is gone from both
//! namespaces within the first. So the request is sent from a thread of its own, and whoever asked goes on when the
//! kernel announces that the link left (`RTM_DELLINK` to the group of links). What is asked for meanwhile is put into a
//! group of links and removed in one message: two hundred cost as much as four.
//!
//! Invariants: only indexes that were handed in are put into a group; a group number belongs to one thread.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::netlink::uapi::{RTM_DELLINK, RTNLGRP_LINK};
use crate::netlink::{NetlinkError, Protocol, Socket, each_message};
use crate::own::OwnTraffic;
use crate::wire::{self, AF_BRIDGE};

/// Threads at most. Each waits for one grace period at a time; they start when they are needed. With eight, removals one
/// behind the other wait for a free one: 4 ms instead of 0.5.
const THREADS: u32 = 32;
/// Bytes of a thread's stack: it does next to nothing.
const STACK: usize = 128 * 1024;
/// First group number; one a thread (`IFLA_GROUP`).
const GROUP: u32 = 0x5249_5000;
/// How long a link may take to leave its namespace.
const PATIENCE: Duration = Duration::from_secs(30);

/// Removes links in the network namespace in which it was started.
#[derive(Debug)]
pub(crate) struct Reaper {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// Hears of links that left.
    watch: Socket,
    own: Arc<OwnTraffic>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// There is work, or an end to it.
    work: Condvar,
    /// A thread finished something.
    rest: Condvar,
    /// The same, for who polls.
    finished: OwnedFd,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<u32>,
    busy: u32,
    /// Results of removals somebody waits for.
    results: BTreeMap<u32, Result<(), NetlinkError>>,
    stop: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reaper {
    pub(crate) fn start(own: Arc<OwnTraffic>) -> std::io::Result<Self> {
        let shared = Shared {
            state: Mutex::default(),
            work: Condvar::new(),
            rest: Condvar::new(),
            finished: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        };
        Ok(Self { shared: Arc::new(shared), threads: Vec::new(), watch: Socket::open(Protocol::Route)?, own })
    }

    /// Removes links and returns when all of them have left their namespaces, with what could not be removed.
    pub(crate) fn remove(&mut self, indexes: &BTreeSet<u32>) -> BTreeMap<u32, NetlinkError> {
        let io = |error: std::io::Error| NetlinkError::from_io(&error);
        let fail_all = |error: NetlinkError| indexes.iter().map(|index| (*index, error.clone())).collect();
        if let Err(error) = self.reinforce().and_then(|()| self.watch.join(RTNLGRP_LINK)) {
            return fail_all(io(error));
        }
        for index in indexes {
            self.own.departs(*index);
        }
        self.shared.state().waiting.extend(indexes);
        self.shared.work.notify_one();
        let faults = self.wait(indexes.clone());
        let _ = self.watch.leave(RTNLGRP_LINK);
        // What is still announced belongs to nobody.
        while let Ok(Some(_)) | Err(NetlinkError { errno: libc::ENOBUFS, .. }) = self.watch.events() {}
        faults
    }

    /// Returns when no removal is under way: every grace period is over.
    pub(crate) fn flush(&self) {
        let mut state = self.shared.state();
        while state.busy > 0 || !state.waiting.is_empty() {
            state = self.shared.rest.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// One more thread when all are in a grace period.
    fn reinforce(&mut self) -> std::io::Result<()> {
        let count = u32::try_from(self.threads.len()).unwrap_or(u32::MAX);
        if self.shared.state().busy < count || count >= THREADS {
            return Ok(());
        }
        let socket = Socket::open(Protocol::Route)?;
        self.own.add_port(socket.port());
        let shared = Arc::clone(&self.shared);
        let work = move || reap(&shared, socket, GROUP + count);
        match std::thread::Builder::new().name(format!("reaper-{count}")).stack_size(STACK).spawn(work) {
            Ok(thread) => self.threads.push(thread),
            // Those that run will do.
            Err(error) if count > 0 => tracing::debug!(%error, "no further thread to remove links"),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn wait(&mut self, mut left: BTreeSet<u32>) -> BTreeMap<u32, NetlinkError> {
        let mut faults = BTreeMap::new();
        let deadline = Instant::now() + PATIENCE;
        while !left.is_empty() {
            let rest = deadline.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                let silent = NetlinkError::with_text(libc::ETIMEDOUT, "the link did not leave in 30 s");
                faults.extend(left.into_iter().map(|index| (index, silent.clone())));
                return faults;
            }
            let timeout = Timespec { tv_sec: rest.as_secs().try_into().unwrap_or(1), tv_nsec: 0 };
            let mut fds = [PollFd::new(&self.watch, PollFlags::IN), PollFd::new(&self.shared.finished, PollFlags::IN)];
            let _ = poll(&mut fds, Some(&timeout));
            self.hear(&mut left);
            let _ = rustix::io::read(self.shared.finished.as_fd(), &mut [0; 8]);
            let mut state = self.shared.state();
            let finished: Vec<u32> = left.iter().filter(|index| state.results.contains_key(index)).copied().collect();
            for index in finished {
                left.remove(&index);
                if let Some(Err(error)) = state.results.remove(&index) {
                    faults.insert(index, error);
                }
            }
        }
        faults
    }

    /// Takes the links that left out of `left`. An overrun loses announcements, not results.
    fn hear(&mut self, left: &mut BTreeSet<u32>) {
        loop {
            match self.watch.events() {
                Ok(Some(bytes)) => {
                    for (_, reply) in each_message(bytes) {
                        let Some((header, _)) = reply.split::<{ wire::link::IFINFO }>() else { continue };
                        // A port that leaves its bridge is announced with the same type and the bridge's family.
                        if reply.kind == RTM_DELLINK && header[0] != AF_BRIDGE {
                            let index = header[4..].first_chunk().map_or(0, |b| u32::from_ne_bytes(*b));
                            left.remove(&index);
                        }
                    }
                }
                Err(error) if error.errno == libc::ENOBUFS => {}
                Ok(None) | Err(_) => return,
            }
        }
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.shared.state().stop = true;
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn reap(shared: &Shared, mut socket: Socket, group: u32) {
    let mut state = shared.state();
    loop {
        if state.waiting.is_empty() {
            if state.stop {
                return;
            }
            state = shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            continue;
        }
        let indexes = std::mem::take(&mut state.waiting);
        state.busy += 1;
        drop(state);
        let results = delete(&mut socket, &indexes, group);
        state = shared.state();
        state.busy -= 1;
        state.results.extend(results);
        // Results nobody waits for any more: the link's departure was heard before.
        while state.results.len() > 4096 {
            state.results.pop_first();
        }
        shared.rest.notify_all();
        let _ = rustix::io::write(&shared.finished, &1u64.to_ne_bytes());
    }
}

fn delete(socket: &mut Socket, indexes: &[u32], group: u32) -> Vec<(u32, Result<(), NetlinkError>)> {
    let gone_is_fine = |result: Result<(), NetlinkError>| match result {
        Err(error) if error.errno == libc::ENODEV => Ok(()),
        other => other,
    };
    if let [index] = indexes {
        let result = socket.call(wire::link::delete(*index)).map(|_| ());
        return vec![(*index, gone_is_fine(result))];
    }
    let grouped = socket.batch(indexes.iter().map(|index| wire::link::set_group(*index, group)).collect());
    let swept = socket.call(wire::link::delete_group(group)).map(|_| ());
    let results =
        grouped.into_iter().map(|answer| gone_is_fine(answer.result).and_then(|()| gone_is_fine(swept.clone())));
    indexes.iter().copied().zip(results).collect()
}
