//! One segment: its engine, its sockets, and what was learned of its machines.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ripstop_bfd::{Arrival, TTL};
use ripstop_election::{Action, Claim, Engine, Message, Table, Timing, neighbour};
use ripstop_types::{Family, Mac, NodeName};
use rustix::event::{PollFd, PollFlags};

use super::packet::{FrameSocket, Frames};
use super::{PORT, Row, Segment};
use crate::bfd::now;
use crate::sockets::Outlet;

/// Bytes of a hardware address before a message.
const MAC: usize = 6;

/// What stands for the hardware address of a candidate that has not named its own.
const UNNAMED: Mac = Mac([0; 6]);

/// A segment that is worked on.
pub(super) struct Running {
    me: NodeName,
    wanted: Segment,
    engine: Engine,
    arp: FrameSocket,
    ndp: FrameSocket,
    outlet: Outlet,
    /// Hardware addresses that candidates named.
    macs: BTreeMap<NodeName, Mac>,
    /// Until when candidates that have not are waited for.
    naming: Duration,
    timing: Timing,
    conflicts: BTreeMap<IpAddr, Mac>,
}

impl Running {
    pub(super) fn open(me: &NodeName, run: u64, timing: Timing, wanted: Segment) -> io::Result<Self> {
        let arp = FrameSocket::open(wanted.interface, Frames::Arp)?;
        let ndp = FrameSocket::open(wanted.interface, Frames::Ndp)?;
        let outlet = Outlet::open(wanted.own, 0, Some(wanted.interface))?;
        let engine = Engine::new(now(), me.clone(), run, timing);
        let macs = [(me.clone(), wanted.mac)].into();
        let mut segment = Self {
            me: me.clone(),
            wanted: wanted.clone(),
            engine,
            arp,
            ndp,
            outlet,
            macs,
            naming: now() + timing.settle,
            timing,
            conflicts: BTreeMap::new(),
        };
        segment.set(wanted);
        Ok(segment)
    }

    /// Whether its sockets are those of this one.
    pub(super) fn is_of(&self, other: &Segment) -> bool {
        (self.wanted.mac, self.wanted.own) == (other.mac, other.own)
    }

    pub(super) fn sockets(&self) -> impl Iterator<Item = PollFd<'_>> {
        [&self.arp, &self.ndp].into_iter().map(|socket| PollFd::new(socket, PollFlags::IN))
    }

    pub(super) fn due(&self) -> Duration {
        self.engine.due()
    }

    pub(super) fn set(&mut self, wanted: Segment) {
        self.macs.retain(|node, _| wanted.candidates.contains_key(node) || *node == self.me);
        self.conflicts.retain(|address, _| wanted.addresses.contains_key(address));
        if self.wanted.candidates != wanted.candidates {
            self.naming = now() + self.timing.settle;
        }
        self.wanted = wanted;
        let leaves = self.wanted.leaves;
        let mut actions = self.engine.set(now(), self.table());
        actions.extend(self.engine.set_leaving(now(), leaves));
        self.perform(actions);
    }

    /// Whether something changed.
    pub(super) fn tick(&mut self) -> bool {
        let actions = self.engine.tick(now());
        self.perform(actions)
    }

    /// A datagram has come by this interface.
    pub(super) fn received(&mut self, arrival: &Arrival, bytes: &[u8]) -> bool {
        let Some((mac, message)) = bytes.split_at_checked(MAC) else { return false };
        let Some(message) = Message::read(message).filter(|_| arrival.ttl == TTL) else { return false };
        if self.wanted.candidates.get(&message.from) != Some(&arrival.source) || message.from == self.me {
            return false;
        }
        let mac = mac.first_chunk().map(|mac| Mac(*mac)).filter(Mac::is_unicast);
        let mut actions = Vec::new();
        if let Some(mac) = mac
            && self.macs.insert(message.from.clone(), mac) != Some(mac)
        {
            actions.extend(self.engine.set(now(), self.table()));
        }
        actions.extend(self.engine.received(now(), &message));
        self.perform(actions)
    }

    /// Takes in frames.
    pub(super) fn hear(&mut self, buffer: &mut [u8], turn: usize) -> bool {
        let mut changed = false;
        for v6 in [false, true] {
            for _ in 0..turn {
                let socket = if v6 { &self.ndp } else { &self.arp };
                let Some(heard) = socket.take(buffer).map(neighbour::read) else { break };
                let Some(heard) = heard else { continue };
                if let Some((address, mac)) = heard.holds {
                    // It may be a candidate's that was not heard yet.
                    let mac = if self.is_told_apart(mac) { mac } else { UNNAMED };
                    let actions = self.engine.heard(now(), address, mac);
                    changed |= self.perform(actions);
                }
                let asks = heard.asks.filter(|question| self.engine.may_speak(now(), question.address));
                if let Some(question) = asks {
                    self.send(&neighbour::answer(self.wanted.mac, &question), question.address);
                }
            }
        }
        changed
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = (IpAddr, Row)> {
        let at = now();
        self.wanted.addresses.keys().map(move |address| {
            let contested = matches!(self.engine.claim(*address), Some(Claim::Contested { .. }));
            let row = Row {
                speaks: self.engine.may_speak(at, *address),
                choice: self.engine.choice(*address).cloned(),
                conflict: self.conflicts.get(address).copied().filter(|_| contested),
            };
            (*address, row)
        })
    }

    /// Whether it is known who has a hardware address. One that nobody named may be a candidate's, until all have named theirs or had
    /// time to: one that is not there must not keep a foreign machine from being seen.
    fn is_told_apart(&self, mac: Mac) -> bool {
        let all_named = self.macs.len() >= self.wanted.candidates.len() || now() >= self.naming;
        all_named || self.macs.values().any(|known| *known == mac)
    }

    fn table(&self) -> Table {
        let mac = |node: &NodeName| self.macs.get(node).copied().unwrap_or(UNNAMED);
        Table {
            candidates: self.wanted.candidates.keys().map(|node| (node.clone(), mac(node))).collect(),
            addresses: self.wanted.addresses.clone(),
        }
    }

    /// Whether something else than messages followed.
    fn perform(&mut self, actions: Vec<Action>) -> bool {
        let mut changed = false;
        for action in actions {
            changed |= !matches!(action, Action::Send(..));
            match action {
                Action::Send(node, message) => self.tell(&node, &message),
                Action::Probe(address) => self.send(&neighbour::probe(self.wanted.mac, address), address),
                Action::Announce(address) if self.engine.may_speak(now(), address) => {
                    for frame in neighbour::announcements(self.wanted.mac, address) {
                        self.send(&frame, address);
                    }
                }
                Action::Conflict(address, mac) => drop(self.conflicts.insert(address, mac)),
                Action::Announce(_) | Action::Speak(_) | Action::Silence(_) => {}
            }
        }
        changed
    }

    /// What cannot be sent is as good as lost, and comes again.
    fn tell(&self, node: &NodeName, message: &Message) {
        let Some(to) = self.wanted.candidates.get(node) else { return };
        let Some(bytes) = message.bytes() else { return };
        let datagram = [&self.wanted.mac.0[..], &bytes].concat();
        let _ = self.outlet.send(SocketAddr::new(*to, PORT), Some(self.wanted.interface), &datagram);
    }

    /// The same of frames: who did not get an answer asks again.
    fn send(&self, frame: &[u8], address: IpAddr) {
        let socket = if Family::of(address) == Family::V4 { &self.arp } else { &self.ndp };
        let _ = socket.send(frame);
    }
}
