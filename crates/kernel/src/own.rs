//! What the monitor must know about this process's own writes, so that they do not look like changes by others.
//!
//! The kernel names the socket that caused an event for routes, nexthops, neighbours and nftables, but not for every
//! setting of a link, for forwarding entries, and for what vanishes with a link. For those, what was written is
//! remembered, and an event that shows just that is nobody else's.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use ripstop_netmodel::BridgePort;
use ripstop_types::{IfName, Mac};
use rustix::event::{EventfdFlags, eventfd};

use crate::netlink::{Membership, Socket};
use crate::wire::link::RawLink;

/// Links remembered as removed by us. The kernel gives no index again before two thousand million others, so old ones
/// may go.
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
    links: BTreeMap<u32, LinkState>,
    /// Links that a run is at, which are not as it leaves them yet, and those of runs that ended since the last look:
    /// whether the run has ended.
    in_work: BTreeMap<IfName, bool>,
    fdb: BTreeMap<(u32, Mac), IpAddr>,
    ears: Vec<Weak<Ear>>,
}

/// By what a monitor hears of nftables, for a writer that has it not listen for a moment.
#[derive(Debug)]
pub(crate) struct Ear {
    /// Its socket's groups.
    pub(crate) nft: Membership,
    /// An event counter (eventfd(2)), readable when it may have missed something.
    missed: OwnedFd,
}

impl Ear {
    pub(crate) fn new(nft: &Socket) -> std::io::Result<Self> {
        let missed = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { nft: nft.membership()?, missed })
    }

    /// Something may have been missed.
    pub(crate) fn missed(&self) {
        // A counter that is full says the same.
        let _ = rustix::io::write(&self.missed, &1u64.to_ne_bytes());
    }

    /// Whether something may have been missed since it was last asked.
    pub(crate) fn has_missed(&self) -> bool {
        rustix::io::read(&self.missed, &mut [0; 8]).is_ok()
    }
}

/// Readable when something may have been missed.
impl AsFd for Ear {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.missed.as_fd()
    }
}

/// What of a link the model knows and the kernel does not change by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LinkState {
    pub(crate) name: IfName,
    pub(crate) kind: Option<Box<str>>,
    pub(crate) up: bool,
    mtu: u32,
    mac: Option<Mac>,
    master: Option<u32>,
    pub(crate) port: Option<BridgePort>,
    no_link_local: bool,
    marked: bool,
}

impl LinkState {
    pub(crate) fn of(link: &RawLink) -> Self {
        Self {
            name: link.name.clone(),
            kind: link.kind.clone(),
            up: link.flags & crate::netlink::uapi::IFF_UP != 0,
            mtu: link.mtu,
            mac: link.mac,
            master: link.master,
            port: link.port,
            no_link_local: link.no_link_local,
            marked: link.mark().is_some(),
        }
    }
}

impl OwnTraffic {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A socket of ours that writes.
    pub(crate) fn add_port(&self, port: u32) {
        self.state().ports.push(port);
    }

    /// Every socket of ours that writes, so far.
    pub(crate) fn ports(&self) -> Vec<u32> {
        self.state().ports.clone()
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
        state.links.remove(&index);
        state.fdb.retain(|(link, _), _| *link != index);
    }

    /// Whether we removed the link.
    pub(crate) fn departed(&self, index: u32) -> bool {
        self.state().departing.contains(&index)
    }

    /// A run makes or changes a link.
    pub(crate) fn begin_link(&self, name: &IfName) {
        self.state().in_work.insert(name.clone(), false);
    }

    /// The run is over: its links are as it left them.
    pub(crate) fn end_links(&self) {
        self.state().in_work.values_mut().for_each(|has_ended| *has_ended = true);
    }

    /// The events of runs that have ended are all there to be read.
    pub(crate) fn begin_look(&self) {
        self.state().in_work.retain(|_, has_ended| !*has_ended);
    }

    /// Whether a run is at a link, or was when the look began.
    pub(crate) fn is_in_work(&self, name: &IfName) -> bool {
        self.state().in_work.contains_key(name)
    }

    /// A link as we left it. It is there, also where its index, which some of ours choose, was one that we removed.
    pub(crate) fn set_link(&self, link: &RawLink) {
        let mut state = self.state();
        state.departing.retain(|index| *index != link.index);
        state.links.insert(link.index, LinkState::of(link));
    }

    /// Whether a link is as we left it.
    pub(crate) fn left_link_so(&self, index: u32, found: &LinkState) -> bool {
        self.state().links.get(&index) == Some(found)
    }

    /// A forwarding entry as we left it: with a destination, or removed.
    pub(crate) fn set_fdb(&self, index: u32, mac: Mac, dst: Option<IpAddr>) {
        let mut state = self.state();
        match dst {
            Some(dst) => state.fdb.insert((index, mac), dst),
            None => state.fdb.remove(&(index, mac)),
        };
    }

    /// A monitor listens to nftables, as long as it keeps its ear.
    pub(crate) fn add_ear(&self, ear: &Arc<Ear>) {
        let mut state = self.state();
        state.ears.retain(|ear| ear.strong_count() > 0);
        state.ears.push(Arc::downgrade(ear));
    }

    /// Of the monitors that listen to nftables.
    pub(crate) fn ears(&self) -> Vec<Arc<Ear>> {
        self.state().ears.iter().filter_map(Weak::upgrade).collect()
    }

    /// Whether a forwarding entry is as we left it.
    pub(crate) fn left_fdb_so(&self, index: u32, mac: Mac, dst: Option<IpAddr>) -> bool {
        self.state().fdb.get(&(index, mac)).copied() == dst
    }
}
