//! What needs no look at each address: as long as nothing new is said, grants are renewed for many addresses at once.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::Engine;

/// What holds until somebody says something new.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Rest {
    /// Which electors vote for this node, for each address that it owns: a bit for each, in their order. Many addresses have the same.
    supporters: BTreeSet<u32>,
    /// When something is to be done that has nothing to do with grants.
    next: Duration,
}

impl Rest {
    pub(super) fn with(mut self, supporters: u32) -> Self {
        self.supporters.insert(supporters);
        self
    }

    pub(super) fn until(self, next: Duration) -> Self {
        Self { next, ..self }
    }
}

impl Engine {
    /// Until when nothing is to be done for any address, if that is so now.
    pub(super) fn rests_until(&self, now: Duration) -> Option<Duration> {
        let rest = self.rest.as_ref()?;
        let grants = rest.supporters.iter().map(|supporters| self.granted_by(now, *supporters));
        let until = grants.collect::<Option<Vec<Duration>>>()?.into_iter().fold(rest.next, Duration::min);
        (until > now).then_some(until)
    }

    /// The electors whose votes for this node make a majority; none where older grants are needed for one.
    pub(super) fn supporters(&self, address: IpAddr) -> Option<u32> {
        let votes = |node: &&_| self.peers.get(*node).is_some_and(|peer| peer.vote(address) == Some(&self.me));
        let bits =
            self.electors.iter().enumerate().filter(|(_, node)| votes(node)).fold(0u32, |bits, (n, _)| bits | 1 << n);
        (usize::try_from(bits.count_ones()).ok()? >= self.need).then_some(bits)
    }

    /// Until when these grant what they vote for, a majority of them.
    fn granted_by(&self, now: Duration, supporters: u32) -> Option<Duration> {
        let electors = self.electors.iter().enumerate().filter(|(n, _)| supporters >> n & 1 == 1);
        let basis = |node: &_| if *node == self.me { Some(now) } else { self.peers.get(node)?.basis };
        self.end_of(electors.filter_map(|(_, node)| basis(node)))
    }
}
