//! The parts of the table that decisions read: which paths are taken in, which one is used.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ripstop_types::{Prefix, ScopedAddr};

use super::decision::{self, Decision};
use super::intern::Interner;
use super::policy::{self, Verdict};
use super::table::Path;
use super::{Peer, PeerConfig, PeerId, Refusal, RibConfig};
use crate::wire::{Attributes, NextHop};

/// The parts that decisions read.
pub struct View<'a> {
    pub config: &'a RibConfig,
    pub peers: &'a BTreeMap<PeerId, Peer>,
    pub sets: &'a Interner,
    pub next_hops: &'a BTreeMap<IpAddr, Option<u32>>,
}

impl View<'_> {
    /// Whether a path is taken in and its next hop is reached.
    pub fn usable(&self, path: &Path) -> bool {
        let attributes = path.taken.and_then(|id| self.sets.get(id));
        attributes.is_some_and(|attributes| path.peer == PeerId::LOCAL || self.cost(attributes.next_hop).is_some())
    }

    /// Where packets of a path go that was taken in.
    pub fn way(&self, path: &Path) -> Option<ScopedAddr> {
        way(&self.peers.get(&path.peer)?.config, self.sets.get(path.taken?)?.next_hop)
    }

    fn cost(&self, next_hop: NextHop) -> Option<u32> {
        self.next_hops.get(&next_hop.address()).copied().unwrap_or(Some(0))
    }

    /// Whether a peer's path is taken in.
    pub fn import(&self, id: PeerId, prefix: Prefix, attributes: &Attributes) -> Result<Verdict, Refusal> {
        self.admit(id, attributes)?;
        self.filter(id, prefix, attributes)
    }

    /// Whether it is, but for the filter: the same for all prefixes.
    pub fn admit(&self, id: PeerId, attributes: &Attributes) -> Result<(), Refusal> {
        let Some((peer, known)) = self.peers.get(&id).and_then(|peer| Some((peer, peer.known?))) else {
            return Err(Refusal::Filter(Verdict::NoFilter));
        };
        let own = peer.config.local_as;
        let times = attributes.as_path.numbers().filter(|number| *number == own).count();
        if times > usize::from(peer.config.allow_own_as) {
            return Err(Refusal::Loop(own));
        }
        if known.external {
            let first = attributes.as_path.first();
            if first != Some(known.peer_as) {
                return Err(Refusal::FirstAs(first, known.peer_as));
            }
        } else if attributes.originator_id == Some(self.config.router_id) {
            return Err(Refusal::OwnRoute);
        } else if attributes.cluster_list.contains(&self.config.cluster_id) {
            return Err(Refusal::OwnCluster);
        }
        let Some(way) = way(&peer.config, attributes.next_hop) else { return Err(Refusal::NoLink) };
        let PeerConfig { own_v4, own_v6, .. } = &peer.config;
        let is_own = match way.address() {
            IpAddr::V4(address) => *own_v4 == Some(address),
            IpAddr::V6(address) => own_v6.is_some_and(|own| own.has(address)),
        };
        if is_own { Err(Refusal::OwnNextHop) } else { Ok(()) }
    }

    /// What the import filter of a peer says.
    pub fn filter(&self, id: PeerId, prefix: Prefix, attributes: &Attributes) -> Result<Verdict, Refusal> {
        let Some(peer) = self.peers.get(&id) else { return Err(Refusal::Filter(Verdict::NoFilter)) };
        match policy::judge(peer.config.import.as_ref(), peer.external(), &prefix, attributes) {
            verdict @ Verdict::Accept(_) => Ok(verdict),
            verdict => Err(Refusal::Filter(verdict)),
        }
    }

    /// Decides among paths.
    pub fn decide(&self, paths: &[Path]) -> Decision {
        decision::decide(self.candidates(paths).collect(), self.config.med)
    }

    /// The best paths, in order.
    pub fn ranked(&self, paths: &[Path], limit: usize) -> Vec<usize> {
        let mut left: Vec<_> = self.candidates(paths).collect();
        let mut ranked = Vec::new();
        while ranked.len() < limit {
            let Some(best) = decision::decide(left.clone(), self.config.med).best else { break };
            left.retain(|one| one.place != best);
            ranked.push(best);
        }
        ranked
    }

    fn candidates<'a>(&'a self, paths: &'a [Path]) -> impl Iterator<Item = decision::Candidate<'a>> + 'a {
        paths.iter().enumerate().filter_map(|(place, path)| {
            let attributes = self.sets.get(path.taken?)?;
            let local = path.peer == PeerId::LOCAL;
            let peer = self.peers.get(&path.peer);
            Some(decision::Candidate {
                place,
                attributes,
                local,
                external: peer.is_some_and(Peer::external),
                cost: if local { 0 } else { self.cost(attributes.next_hop)? },
                router_id: peer.and_then(|peer| peer.known).map_or(self.config.router_id, |known| known.router_id),
                address: peer.map_or(IpAddr::from(self.config.router_id), |peer| peer.config.address),
                theirs: path.theirs,
            })
        })
    }
}

/// Where packets go by a next hop that a peer told. Of two addresses the link-local one where the speakers themselves talk by
/// such: only that is sure to be on their link. None if that link is not known.
fn way(peer: &PeerConfig, next_hop: NextHop) -> Option<ScopedAddr> {
    let talks_by_link = matches!(peer.address, IpAddr::V6(address) if address.is_unicast_link_local());
    let address = match next_hop {
        NextHop::V6(_, Some(link_local)) if talks_by_link => link_local.into(),
        other => other.address(),
    };
    ScopedAddr::new(address, peer.link.as_ref())
}
