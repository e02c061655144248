//! What votes are worth to a node: until when it may speak, and from when it may begin.

use std::net::IpAddr;
use std::time::Duration;

use ripstop_types::NodeName;

use super::Engine;
use crate::peer::{Peer, Vote};

impl Engine {
    /// Until when a majority grants an address to this node.
    pub(super) fn granted(&self, now: Duration, address: IpAddr) -> Option<Duration> {
        let grant = |node: &NodeName| {
            let peer = self.peers.get(node)?;
            let vote = peer.votes.get(&address)?;
            match vote.to.as_ref() == Some(&self.me) {
                true if *node == self.me => Some(now),
                true => peer.basis,
                false => vote.kept,
            }
        };
        self.end_of(self.electors.iter().filter_map(grant))
    }

    /// When a majority of grants ends of those that count from these times.
    pub(super) fn end_of(&self, grants: impl Iterator<Item = Duration>) -> Option<Duration> {
        let mut grants: Vec<Duration> = grants.collect();
        grants.sort_unstable_by(|a, b| b.cmp(a));
        grants.get(self.need.saturating_sub(1)).map(|basis| *basis + self.timing.detection)
    }

    /// When this node may begin with an address, if it may: and whether another one yields, who need not be waited for.
    pub(super) fn entitled(&self, now: Duration, address: IpAddr) -> Option<(Duration, bool)> {
        let ripe = |node: &NodeName| {
            let peer = self.peers.get(node)?;
            let granted = *node == self.me || peer.grants(now, self.timing.detection);
            let vote = peer.votes.get(&address).filter(|vote| granted && vote.to.as_ref() == Some(&self.me))?;
            let waited = (vote.since + self.wait).min(self.ended(peer, vote).unwrap_or(Duration::MAX));
            let before = vote.before.as_ref().filter(|(_, lasted)| waited > now && *lasted >= self.wait);
            Some(match before {
                // Nobody had it of this one; a machine that is no candidate may.
                Some((None, _)) => (now, false),
                Some((Some(other), _)) if self.yields(now, address, other) => (now, true),
                _ => (waited, false),
            })
        };
        let mut ripe: Vec<(Duration, bool)> = self.electors.iter().filter_map(ripe).collect();
        ripe.sort_unstable();
        let (when, _) = *ripe.get(self.need.saturating_sub(1))?;
        let hand_over = ripe.iter().take(self.need).any(|(_, yields)| *yields);
        Some((when, hand_over))
    }

    /// When what an elector granted before has ended for sure, where it says that it does not hear whom it voted for.
    fn ended(&self, elector: &Peer, vote: &Vote) -> Option<Duration> {
        let (other, lasted) = vote.before.as_ref()?;
        let silent = elector.silent.get(other.as_ref()?).filter(|_| *lasted >= self.wait)?;
        Some(vote.since.max(*silent) + self.timing.margin)
    }

    /// Whether another one votes for this node now, and goes on to speak only until this one does.
    fn yields(&self, now: Duration, address: IpAddr, other: &NodeName) -> bool {
        let peer = self.peers.get(other).filter(|_| *other != self.me);
        peer.is_some_and(|peer| {
            peer.grants(now, self.timing.detection) && peer.generation != 0 && peer.vote(address) == Some(&self.me)
        })
    }
}
