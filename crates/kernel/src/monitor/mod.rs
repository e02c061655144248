//! Changes behind the agent's back.
//!
//! The kernel's events are turned into kinds: which kinds of object of ours may have changed, and whether the host's
//! facts may have. What it is now is the observer's to tell. What this process wrote itself is left out as far as the
//! kernel tells, see [`crate::OwnTraffic`]; what nobody can want (a neighbour learned, a carrier of our own link) is too.
//!
//! Not here: waiting and collecting. A change that comes in twenty events is twenty times readable; who waits decides
//! how long to let it settle. Of settings below /proc/sys, forwarding for all links has an event, whoever writes it; other
//! settings change without one.

mod classify;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use ripstop_netmodel::Kind;
use rustix::event::epoll;

use crate::error::ObserveError;
use crate::netlink::uapi::*;
use crate::netlink::{NetlinkError, Protocol, Socket, drop_events_of, each_message};
use crate::observe::facts;
use crate::own::{Ear, LinkState, OwnTraffic};
use crate::wire;
use crate::wire::link::RawLink;
use crate::wire::neighbour::RawNeighbour;

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

    /// Everything the kernel has events for.
    pub fn everything() -> Self {
        let mut kinds = BTreeSet::from(HANGS_ON_LINK);
        kinds.extend([
            Kind::Link,
            Kind::Nexthop,
            Kind::NexthopGroup,
            Kind::Route,
            Kind::NftPart,
            Kind::NftElement,
            Kind::NftValues,
            Kind::ForwardJump,
            Kind::Iptables,
        ]);
        Self { kinds, facts: true }
    }
}

/// Kinds of object that vanish, or change, with their link or when it goes down.
const HANGS_ON_LINK: [Kind; 6] =
    [Kind::NftTable, Kind::LinkSysctl, Kind::Address, Kind::Neighbour, Kind::Fdb, Kind::Qdisc];

/// Listens to the kernel. Its descriptor is readable when something may have changed.
#[derive(Debug)]
pub struct Monitor {
    epoll: OwnedFd,
    /// Links and addresses: all events, because own ones tell what a link became.
    links: Socket,
    /// Routes, neighbours, nexthops, queueing disciplines, forwarding: without own events.
    routes: Socket,
    /// nftables, without own events.
    nft: Socket,
    /// The same socket for the applier, which keeps it from listening to many elements of ours.
    ear: Arc<Ear>,
    /// Asks.
    query: Socket,
    own: Arc<OwnTraffic>,
    known: Known,
}

/// Family, table and name of a chain.
type ChainKey = (u8, Box<str>, Box<str>);

/// What events are compared with.
#[derive(Debug, Default)]
pub(crate) struct Known {
    links: BTreeMap<u32, LinkState>,
    /// Foreign links that run.
    running: BTreeSet<u32>,
    /// Foreign base chains on the forward hook.
    forward: BTreeSet<ChainKey>,
    /// Links with events since the last look: as they were, and whether somebody else may be the cause.
    touched: BTreeMap<u32, Touched>,
}

#[derive(Debug, Clone)]
struct Touched {
    before: Option<LinkState>,
    ran: bool,
    by_others: bool,
    /// It was down or without carrier at some time. The kernel drops nexthops then, without an event, and a link that runs
    /// again looks as it did before.
    fell: bool,
    /// It was a link of ours at some time: one that came and went since the last look is neither before nor after.
    was_ours: bool,
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

impl Monitor {
    /// Listens in the calling thread's network namespace from now on. Writes by the applier that `own` came from
    /// ([`crate::Applier::own`]) are not reported where they can be told from others'.
    ///
    /// # Errors
    /// The kernel refuses a socket.
    pub fn open(own: Arc<OwnTraffic>) -> Result<Self, ObserveError> {
        let fault = |error: std::io::Error| ObserveError::new("changes", error);
        let open = |protocol, groups: &[u32], quiet: bool| {
            let socket = Socket::open(protocol)?;
            if quiet {
                drop_events_of(socket.as_fd(), &own.ports())?;
            }
            groups.iter().try_for_each(|group| socket.join(*group))?;
            Ok(socket)
        };
        let links = open(Protocol::Route, &[RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR], false);
        let groups = [
            RTNLGRP_NEIGH,
            RTNLGRP_TC,
            RTNLGRP_IPV4_ROUTE,
            RTNLGRP_IPV6_ROUTE,
            RTNLGRP_NEXTHOP,
            RTNLGRP_IPV4_NETCONF,
            RTNLGRP_IPV6_NETCONF,
        ];
        let routes = open(Protocol::Route, &groups, true);
        let nft = open(Protocol::Netfilter, &[NFNLGRP_NFTABLES], true);
        let (links, routes, nft) = (links.map_err(fault)?, routes.map_err(fault)?, nft.map_err(fault)?);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|e| fault(e.into()))?;
        for (id, socket) in [&links, &routes, &nft].into_iter().enumerate() {
            let data = epoll::EventData::new_u64(id as u64);
            epoll::add(&epoll, socket, data, epoll::EventFlags::IN).map_err(|e| fault(e.into()))?;
        }
        let ear = Arc::new(Ear::new(&nft).map_err(fault)?);
        epoll::add(&epoll, &*ear, epoll::EventData::new_u64(3), epoll::EventFlags::IN).map_err(|e| fault(e.into()))?;
        own.add_ear(&ear);
        let query = Socket::open(Protocol::Route).map_err(fault)?;
        let mut monitor = Self { epoll, links, routes, nft, ear, query, own, known: Known::default() };
        monitor.learn()?;
        Ok(monitor)
    }

    /// What changed since the last call. Never waits for an event. After an overrun of the kernel's queue, everything.
    ///
    /// # Errors
    /// A socket is broken, which does not mend.
    pub fn read(&mut self) -> Result<Changed, ObserveError> {
        let mut changed = Changed::default();
        let mut lost = false;
        self.own.begin_look();
        if self.ear.has_missed() {
            self.nft.join(NFNLGRP_NFTABLES).map_err(|e| ObserveError::new("changes", e))?;
            changed.kinds.extend([Kind::NftTable, Kind::NftPart, Kind::NftElement, Kind::ForwardJump, Kind::Iptables]);
            changed.facts = true;
            self.known.forward = forward_chains()?;
        }
        for socket in [&mut self.links, &mut self.routes, &mut self.nft] {
            loop {
                match socket.events() {
                    Ok(Some(bytes)) => {
                        for (_, event) in each_message(bytes) {
                            self.known.hear(event, &self.own, &mut changed);
                        }
                    }
                    Ok(None) => break,
                    Err(NetlinkError { errno: libc::ENOBUFS, .. }) => lost = true,
                    Err(error) => return Err(ObserveError::new("changes", error)),
                }
            }
        }
        self.known.settle(&self.own, &mut changed);
        if lost {
            self.learn()?;
            return Ok(Changed::everything());
        }
        Ok(changed)
    }

    /// Reads what events will be compared with.
    fn learn(&mut self) -> Result<(), ObserveError> {
        let links = self.query.dump(&wire::link::dump()).map_err(|e| ObserveError::new("links", e))?;
        self.known = Known::default();
        for link in links.iter().filter_map(RawLink::read) {
            if link.kind.as_deref() == Some("vxlan") {
                let entries = self.query.dump(&wire::neighbour::dump_fdb(link.index));
                for entry in entries.iter().flat_map(|replies| replies.iter()).filter_map(RawNeighbour::read) {
                    if let (Some(mac), Some(dst), true) = (entry.mac, entry.dst, entry.index == link.index) {
                        self.own.set_fdb(link.index, mac, Some(dst));
                    }
                }
            }
            self.known.set_link(&link);
        }
        self.known.forward = forward_chains()?;
        Ok(())
    }
}

/// Foreign base chains on the forward hook.
fn forward_chains() -> Result<BTreeSet<ChainKey>, ObserveError> {
    let mut nft = Socket::open(Protocol::Netfilter).map_err(|e| ObserveError::new("nftables chains", e))?;
    let chains = facts::forward_chains(&mut nft)?.into_iter();
    Ok(chains.map(|chain| (chain.family, chain.table.into(), chain.name.into())).collect())
}
