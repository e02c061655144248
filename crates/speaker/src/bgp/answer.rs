//! Answers about the table of routes, for who asks.

use std::collections::BTreeMap;

use ripstop_bgp::rib::{self, Rib};
use ripstop_bgp::wire::{Attributes, Families};
use ripstop_types::Prefix;

use super::report::{PeerReport, peer};
use super::thread::{PeerId, Session};

/// The thread's state, as far as one may ask.
#[derive(Debug)]
pub struct Answers<'a> {
    pub(super) rib: &'a Rib,
    pub(super) peers: &'a BTreeMap<PeerId, Session>,
}

/// One path to a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExplainedPath {
    /// Who sent it; none if it begins here.
    pub peer: Option<String>,
    /// Next hop and AS path.
    pub route: String,
    /// Whether packets go by it.
    pub used: bool,
    /// Why, or why not.
    pub because: String,
    /// What it came with, as the import filter made it; none where it was refused.
    pub taken: Option<Attributes>,
}

/// Why a prefix is reached as it is, and who is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// The prefix.
    pub prefix: Prefix,
    /// Its paths, the best one first.
    pub paths: Vec<ExplainedPath>,
    /// Each peer that is up, and whether it is told or why not.
    pub told: Vec<(String, String)>,
}

impl Answers<'_> {
    /// How all peers are, in their order.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerReport> {
        let mut all: Vec<PeerReport> = self.peers.iter().map(|(id, one)| peer(self.rib, *id, one)).collect();
        all.sort_by(|one, other| one.key.cmp(&other.key));
        all
    }

    /// All about a prefix.
    #[must_use]
    pub fn explain(&self, prefix: Prefix) -> Explained {
        let rib::Explanation { prefix, paths, told } = self.rib.explain(prefix);
        let paths = paths.into_iter().map(|path| ExplainedPath {
            peer: (path.peer != PeerId::LOCAL).then(|| self.name(path.peer)),
            route: path.route,
            used: path.used,
            because: path.because,
            taken: path.taken,
        });
        Explained {
            prefix,
            paths: paths.collect(),
            told: told.into_iter().map(|(id, words)| (self.name(id), words)).collect(),
        }
    }

    /// All about as many prefixes as `limit`, and whether there are more.
    #[must_use]
    pub fn routes(&self, limit: usize) -> (Vec<Explained>, bool) {
        let all = Families::BOTH.iter().flat_map(|family| self.rib.known(family, None, limit));
        let all = all.take(limit).map(|prefix| self.explain(prefix)).collect();
        (all, self.rib.sizes().0 > limit)
    }

    fn name(&self, id: PeerId) -> String {
        self.peers.get(&id).map_or_else(|| "?".to_owned(), |one| one.key.to_string())
    }
}
