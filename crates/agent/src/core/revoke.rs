//! Connections that go on although policies do not permit them any more are ended.
//!
//! What policies say of some addresses has changed ([`Affected`]). Once that is in the kernel, so that no such connection begins anew,
//! those that these addresses are an end of are read; those that are over become objects that are there and that nobody wants, and a plan
//! removes them. One look at a time, and a rest behind it: what changes meanwhile is looked at by the next. An agent that starts looks at all that policies
//! restrict, since nobody knows what changed while there was none.
//!
//! Not here: which are over (`ripstop_policy::revoke`), and how they are read and ended.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use ripstop_netmodel::{Connection, Entry, Key, Resource};
use ripstop_policy::revoke::{Affected, Tracked};
use ripstop_tables::{PodState, Tracking};
use ripstop_types::{Millis, Owner};

use super::policies::Guard;
use super::{Core, Level, Output};

/// Pause before a look that failed is tried again, in milliseconds.
const PAUSE_MS: u64 = 1_000;

/// A look at all that is tracked takes a while whatever is found, and the kernel does little else meanwhile: the next waits so many
/// times as long.
const REST: u64 = 3;

/// More changes than these do not wait each for itself.
const MOST_WAITING: usize = 16;

/// What the core remembers of them.
#[derive(Debug, Default)]
pub(super) struct Revoking {
    /// Whose connections are to be looked at, once what was on its way to the kernel is there.
    waiting: VecDeque<(Affected, Guard)>,
    looking: Option<Looking>,
    /// When the next may begin that is for whose are waiting.
    next: Millis,
    /// The number of the last look.
    last: u64,
    /// A look has failed, and is tried again then.
    again: Option<Millis>,
}

/// A look at connections.
#[derive(Debug)]
struct Looking {
    number: u64,
    since: Millis,
    /// Whose they are.
    affected: Affected,
}

impl Core {
    /// Has connections looked at that policies may not permit any more. Behind what is sent to the kernel.
    pub(super) fn revoke(&mut self) {
        let affected = self.desired.take_affected();
        if !affected.is_empty() {
            let guard = self.guard();
            let are_many = self.revoking.waiting.len() >= MOST_WAITING;
            match self.revoking.waiting.back_mut() {
                Some((others, also)) if are_many => {
                    others.add(affected);
                    *also = guard.max(*also);
                }
                _ => self.revoking.waiting.push_back((affected, guard)),
            }
        }
        let is_early = self.revoking.again.is_some_and(|again| again > self.at.now);
        if self.held || is_early || self.revoking.looking.is_some() {
            return;
        }
        let mut all = Affected::default();
        let has_rested = self.revoking.next <= self.at.now;
        for (affected, guard) in std::mem::take(&mut self.revoking.waiting) {
            if !has_rested || self.is_under_way(guard) {
                self.revoking.waiting.push_back((affected, guard));
            } else {
                all.add(affected);
            }
        }
        if all.is_empty() {
            return;
        }
        self.revoking.last += 1;
        let look = self.revoking.last;
        let [from, to] = all.addresses();
        self.outputs.push(Output::Track { look, from, to });
        self.revoking.looking = Some(Looking { number: look, since: self.at.now, affected: all });
    }

    /// When the next look is due.
    pub(super) fn look_again(&self) -> Option<Millis> {
        let Revoking { again, looking, waiting, next, .. } = &self.revoking;
        let is_resting = looking.is_none() && !waiting.is_empty() && *next > self.at.now;
        again.or_else(|| is_resting.then_some(*next))
    }

    /// Connections were read: those that are over are to go.
    pub(super) fn take_tracked(&mut self, look: u64, found: Result<Tracking, String>) {
        let Some(Looking { since, affected, .. }) = self.revoking.looking.take_if(|looking| looking.number == look)
        else {
            return;
        };
        self.revoking.next = self.at.now.plus(REST * self.at.now.since(since));
        let before = self.revoking.again.take();
        match found {
            Ok(found) => self.end_connections(&affected, found),
            Err(why) => {
                self.revoking.again = Some(self.at.now.plus(PAUSE_MS));
                self.revoking.waiting.push_front((affected, Guard::default()));
                let level = if before.is_none() { Level::Warn } else { Level::Debug };
                self.log(level, format!("{why}: connections that policies do not permit any more go on; trying again"));
            }
        }
    }

    fn end_connections(&mut self, affected: &Affected, found: Tracking) {
        let Some(policies) = self.desired.policies() else { return };
        let Tracking { connections, own } = found;
        let tracked: Vec<Tracked> = connections.iter().map(tracked).collect();
        let is_own = |ip: IpAddr| ip.is_loopback() || own.contains(&ip);
        let revoked: BTreeSet<usize> = policies.revoked(affected, &tracked, is_own).into_iter().collect();
        let numbered = connections.into_iter().enumerate();
        let over: Vec<Connection> =
            numbered.filter(|(place, _)| revoked.contains(place)).map(|(_, connection)| connection).collect();
        if over.is_empty() {
            return;
        }
        self.log(Level::Info, format!("{} connections end: policies do not permit them any more", over.len()));
        let pods = self.pods_by_address();
        for mut connection in over {
            let end = |ip: IpAddr| pods.get(&ip).cloned();
            let (sender, receiver) = (end(connection.source.ip()), end(connection.destination.ip()));
            let owner = receiver.as_ref().or(sender.as_ref()).map(|(_, owner)| owner.clone());
            connection.sender = sender.map(|(netns, _)| netns);
            connection.receiver = receiver.map(|(netns, _)| netns);
            let key: Key = connection.key();
            self.applied.insert_entry(Arc::new(Entry { object: connection.into(), owner }));
            self.dirty.insert(key);
        }
    }

    /// The network namespace and the name of this node's pods.
    fn pods_by_address(&self) -> BTreeMap<IpAddr, (Arc<str>, Owner)> {
        let rows = self.tables.pods.values().filter(|row| row.state != PodState::Gone);
        rows.flat_map(|row| row.ips.iter().map(move |ip| (*ip, (row.netns.clone(), row.owner())))).collect()
    }
}

/// A connection as policies see it.
pub(crate) fn tracked(connection: &Connection) -> Tracked {
    Tracked {
        protocol: connection.protocol,
        source: connection.source.ip(),
        sent_to: connection.sent_to.ip(),
        destination: connection.destination.ip(),
        port: connection.destination.port(),
    }
}
