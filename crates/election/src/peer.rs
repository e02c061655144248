//! What a node knows of a candidate, and of the grants it has from it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ripstop_types::NodeName;

use crate::message::{Message, Votes};

/// A vote for one address, as this node learned it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Vote {
    pub to: Option<NodeName>,
    /// Since when it is known that the vote did not change.
    pub since: Duration,
    /// The vote before, and for how long that had been known; nothing where it is not known.
    pub before: Option<(Option<NodeName>, Duration)>,
    /// Where this vote took the place of one for this node: what that grant counts from.
    pub kept: Option<Duration>,
}

/// What a node knows of another, or of itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Peer {
    pub run: u64,
    pub seq: u64,
    pub heard: Option<Duration>,
    /// When this node sent the last message that the peer had.
    pub hears: Option<Duration>,
    /// It was there once.
    pub met: bool,
    /// It was away since, and is there again since then.
    pub back: Option<Duration>,
    /// When this node sent the last message that the peer had when it last spoke: its votes are grants from then.
    pub basis: Option<Duration>,
    /// Since when its votes are known without a break.
    pub known: Duration,
    /// The generation of its votes that is known; zero for none.
    pub generation: u64,
    pub votes: BTreeMap<IpAddr, Vote>,
    pub sees: BTreeSet<NodeName>,
    pub recent: BTreeSet<NodeName>,
    /// Whom it did not hear for a detection time, and since when it says so, or did not hear them.
    pub silent: BTreeMap<NodeName, Duration>,
    pub leaves: bool,
    /// The generation of this node's votes that it knows.
    pub knows: u64,
}

impl Peer {
    pub fn is_fresh(&self, now: Duration, detection: Duration) -> bool {
        self.heard.is_some_and(|heard| now < heard + detection)
    }

    /// Whether its votes are grants still.
    pub fn grants(&self, now: Duration, detection: Duration) -> bool {
        self.basis.is_some_and(|basis| now < basis + detection)
    }

    /// Whether it is heard and hears this node, both lately.
    pub fn is_there(&self, now: Duration, detection: Duration) -> bool {
        self.is_fresh(now, detection) && self.hears.is_some_and(|hears| now < hears + detection)
    }

    /// Notes whether it came back with what was taken in now.
    fn note(&mut self, now: Duration, was_there: bool, detection: Duration) {
        if !was_there && self.is_there(now, detection) {
            self.back = if self.met { Some(now) } else { self.back };
            self.met = true;
        }
    }

    /// Takes in a message. `counts`: the sender knows the same candidates. None if the message is older than another, else whether it
    /// says something else than that the peer is still there.
    pub fn take(
        &mut self,
        me: &NodeName,
        now: Duration,
        message: &Message,
        (basis, counts): (Option<Duration>, bool),
        detection: Duration,
    ) -> Option<bool> {
        if message.run < self.run || (message.run == self.run && message.seq <= self.seq) {
            return None;
        }
        let before = (self.is_fresh(now, detection), self.is_there(now, detection));
        let (run, generation) = (self.run, self.generation);
        let says_as_before = self.leaves == message.leaves
            && self.sees == message.sees
            && self.recent == message.recent
            && self.silent.keys().eq(&message.silent);
        self.believe(me, now, message, basis, counts);
        self.note(now, before.1, detection);
        let after = (self.is_fresh(now, detection), self.is_there(now, detection));
        Some(!says_as_before || (before, run, generation) != (after, self.run, self.generation))
    }

    pub fn vote(&self, address: IpAddr) -> Option<&NodeName> {
        self.votes.get(&address)?.to.as_ref()
    }

    fn believe(&mut self, me: &NodeName, now: Duration, message: &Message, basis: Option<Duration>, counts: bool) {
        if message.run != self.run {
            // It forgot what it had granted, and what it says follows nothing.
            (self.run, self.generation, self.basis, self.knows, self.hears) = (message.run, 0, None, 0, None);
            self.silent.clear();
        }
        (self.seq, self.heard) = (message.seq, Some(now));
        (self.leaves, self.knows, self.hears) = (message.leaves, message.knows, self.hears.max(basis));
        (self.sees, self.recent) = (message.sees.clone(), message.recent.clone());
        self.silent.retain(|node, _| message.silent.contains(node));
        for node in &message.silent {
            self.silent.entry(node.clone()).or_insert(now);
        }
        if !counts {
            self.generation = 0;
            return;
        }
        if message.generation != self.generation {
            let Some(votes) = &message.votes else { return };
            let follows = self.generation != 0 && message.generation.checked_sub(1) == Some(self.generation);
            if !follows {
                self.known = now;
            }
            self.change(me, now, votes, follows);
            self.generation = message.generation;
        }
        self.basis = self.basis.max(basis);
    }

    /// Other votes. `follows`: those that were known are the ones before.
    pub fn change(&mut self, me: &NodeName, now: Duration, votes: &Votes, follows: bool) {
        self.votes.retain(|address, vote| votes.contains_key(address) || vote.to.is_some() || vote.kept.is_some());
        let addresses: BTreeSet<IpAddr> = self.votes.keys().chain(votes.keys()).copied().collect();
        for address in addresses {
            let to = votes.get(&address).cloned();
            let was = self.votes.get(&address);
            if follows && was.is_some_and(|was| was.to == to) {
                continue;
            }
            let before = match was {
                _ if !follows => None,
                Some(was) => Some((was.to.clone(), now.saturating_sub(was.since))),
                None => Some((None, now.saturating_sub(self.known))),
            };
            let kept = was.and_then(|was| if was.to.as_ref() == Some(me) { self.basis } else { was.kept });
            self.votes.insert(address, Vote { to, since: now, before, kept });
        }
    }
}
