//! Why a prefix is reached as it is, in words: the outcome of the same decisions, asked again.

use std::fmt;

use ripstop_types::Prefix;

use super::policy::{Told, Verdict};
use super::table::{Path, Paths};
use super::{Held, PeerId, Refusal, Rib, export};
use crate::wire::Attributes;

/// One path to a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathExplanation {
    /// Who sent it.
    pub peer: PeerId,
    /// The identifier the peer gave it.
    pub identifier: u32,
    /// Next hop and AS path.
    pub route: String,
    /// Whether packets go by it.
    pub used: bool,
    /// Why, or why not.
    pub because: String,
    /// What it came with, as the import filter made it; none where it was refused.
    pub taken: Option<Attributes>,
}

/// All about a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The prefix.
    pub prefix: Prefix,
    /// Its paths, the best one first if there is one.
    pub paths: Vec<PathExplanation>,
    /// For each peer that is up whether it is told the best path, or why not.
    pub told: Vec<(PeerId, String)>,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.paths.is_empty() {
            return writeln!(f, "{}: nobody has sent a route to it", self.prefix);
        }
        writeln!(f, "{}:", self.prefix)?;
        for path in &self.paths {
            let used = if path.used { "used" } else { "not used" };
            let peer =
                if path.peer == PeerId::LOCAL { "this node".to_owned() } else { format!("peer {}", path.peer.0) };
            writeln!(f, "  {used}: from {peer} {}: {}", path.route, path.because)?;
        }
        self.told.iter().try_for_each(|(peer, words)| writeln!(f, "  to peer {}: {words}", peer.0))
    }
}

impl Rib {
    /// Why a prefix is reached as it is.
    #[must_use]
    pub fn explain(&self, prefix: Prefix) -> Explanation {
        let Some(paths) = self.table.get(prefix).map(Paths::all) else {
            return Explanation { prefix, paths: Vec::new(), told: Vec::new() };
        };
        let decision = self.view().decide(paths);
        let mut used = decision.equal.clone();
        used.truncate(self.config.multipath.max(1));
        let explain = |(place, path): (usize, &Path)| {
            let step = decision.lost.iter().find(|(lost, _)| *lost == place).map(|(_, step)| *step);
            let because = match (used.contains(&place), step) {
                (_, None) if decision.best == Some(place) && paths.len() == 1 => "it is the only path".to_owned(),
                (_, None) if decision.best == Some(place) => "it is the best path".to_owned(),
                (true, Some(step)) => format!("as good as the best but for that: {step}; both are used"),
                (false, Some(step)) => step.to_string(),
                (_, None) => self.refused(prefix, path),
            };
            let route = self.sets.get(path.taken.unwrap_or(path.received)).map_or(String::new(), |attributes| {
                let stale = if path.stale { ", kept from before the peer's restart" } else { "" };
                let way = self
                    .view()
                    .way(path)
                    .map_or_else(|| attributes.next_hop.address().to_string(), |way| way.to_string());
                format!("by {way} through AS path [{}]{stale}", attributes.as_path)
            });
            let taken = path.taken.and_then(|id| self.sets.get(id)).cloned();
            PathExplanation {
                peer: path.peer,
                identifier: path.theirs,
                route,
                used: used.contains(&place),
                because,
                taken,
            }
        };
        let all = paths.iter().enumerate().map(explain).collect();
        Explanation { prefix, paths: all, told: self.told(prefix, paths) }
    }

    /// Why a path is no candidate.
    fn refused(&self, prefix: Prefix, path: &Path) -> String {
        let view = self.view();
        let Some(attributes) = self.sets.get(path.received) else { return String::new() };
        if path.taken.is_some() {
            return format!("its next hop {} cannot be reached", attributes.next_hop.address());
        }
        let filter = self.peers.get(&path.peer).and_then(|peer| peer.config.import.as_ref());
        match view.import(path.peer, prefix, attributes) {
            Err(Refusal::Loop(own)) => format!("this node's AS {own} is in its path: it went in a circle"),
            Err(Refusal::OwnRoute) => "it began at this node and was reflected back".to_owned(),
            Err(Refusal::OwnCluster) => "it came through this node's cluster: it went in a circle".to_owned(),
            Err(Refusal::FirstAs(Some(found), wanted)) => {
                format!("its path begins with AS {found}, and the peer that sent it is AS {wanted}")
            }
            Err(Refusal::FirstAs(None, wanted)) => format!("its path does not begin with the peer's AS {wanted}"),
            Err(Refusal::NoLink) => format!(
                "its next hop {} is link-local, and the peer that sent it is a neighbour on no link",
                attributes.next_hop.address()
            ),
            Err(Refusal::OwnNextHop) => format!("its next hop {} is this node", attributes.next_hop.address()),
            Err(Refusal::Filter(verdict)) => format!("import: {}", Told(verdict, filter)),
            Ok(_) => "it is about to be judged again".to_owned(),
        }
    }

    /// Whether each peer is told the best path.
    fn told(&self, prefix: Prefix, paths: &[Path]) -> Vec<(PeerId, String)> {
        let view = self.view();
        let best = paths.first().filter(|path| view.usable(path));
        let groups = self.groups.values().flat_map(|group| group.members.iter().map(move |id| (*id, &group.terms)));
        let mut told: Vec<_> = groups
            .map(|(id, terms)| {
                let words = match best {
                    _ if !terms.context.families.has(prefix.family()) => {
                        "not told: the family was not agreed on".to_owned()
                    }
                    None => "not told: there is no path".to_owned(),
                    Some(path) if path.peer == id => "not told: it is its own path".to_owned(),
                    Some(path) => match export::may_go(&view, terms, prefix, path) {
                        Ok(one) => format!("told: {}", Told(one.verdict, terms.filter.as_ref())),
                        Err(Held::Internal) => {
                            "not told: it came from an internal peer, and neither is a client of this reflector"
                                .to_owned()
                        }
                        Err(Held::Community(name)) => format!("not told: it has the community {name}"),
                        Err(Held::NextHop) => "not told: this node has no address as next hop towards it".to_owned(),
                        Err(Held::Filter(verdict @ Verdict::NoFilter)) => {
                            format!("not told: export: {}", Told(verdict, None))
                        }
                        Err(Held::Filter(verdict)) => {
                            format!("not told: export: {}", Told(verdict, terms.filter.as_ref()))
                        }
                    },
                };
                (id, words)
            })
            .collect();
        told.sort();
        told
    }
}
