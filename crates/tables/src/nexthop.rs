//! Which nexthop id a peer has in this node's kernel, for each network and family.
//!
//! An id is a hash of network, peer and family, moved on where another has it. It stays as long as the peer owns a
//! range of the network, also over a restart with a snapshot, so that a kernel nexthop never changes its meaning.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use ripstop_netmodel::NEXTHOP_IDS;
use ripstop_objects::NetworkName;
use ripstop_types::{Family, Fnv1a as _, NodeName};
use serde::{Deserialize, Serialize};

/// The ids in use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<(NetworkName, NodeName, Family, u32)>", into = "Vec<(NetworkName, NodeName, Family, u32)>")]
pub struct NexthopIds {
    by_peer: BTreeMap<(NetworkName, NodeName, Family), u32>,
    taken: BTreeSet<u32>,
}

impl NexthopIds {
    /// The id of a peer, if it has one.
    pub fn get(&self, network: &NetworkName, peer: &NodeName, family: Family) -> Option<u32> {
        self.by_peer.get(&(network.clone(), peer.clone(), family)).copied()
    }

    /// Gives a peer its ids; does nothing where it has them.
    pub fn assign(&mut self, network: &NetworkName, peer: &NodeName) {
        for family in Family::BOTH {
            let place = (network.clone(), peer.clone(), family);
            let Entry::Vacant(free) = self.by_peer.entry(place) else { continue };
            let count = NEXTHOP_IDS.end() - NEXTHOP_IDS.start() + 1;
            let bytes = network.as_str().bytes().chain([0]).chain(peer.as_str().bytes()).chain([family.bits()]);
            let mut at = u32::of(bytes) % count;
            // Twice the peers that any cluster has fit in the range many times over, so this ends.
            while !self.taken.insert(NEXTHOP_IDS.start() + at) {
                at = (at + 1) % count;
            }
            free.insert(NEXTHOP_IDS.start() + at);
        }
    }

    /// Takes a peer's ids back.
    pub fn release(&mut self, network: &NetworkName, peer: &NodeName) {
        for family in Family::BOTH {
            if let Some(id) = self.by_peer.remove(&(network.clone(), peer.clone(), family)) {
                self.taken.remove(&id);
            }
        }
    }
}

impl From<Vec<(NetworkName, NodeName, Family, u32)>> for NexthopIds {
    fn from(rows: Vec<(NetworkName, NodeName, Family, u32)>) -> Self {
        let mut ids = Self::default();
        for (network, peer, family, id) in rows {
            let place = (network, peer, family);
            if NEXTHOP_IDS.contains(&id)
                && let Entry::Vacant(free) = ids.by_peer.entry(place)
                && ids.taken.insert(id)
            {
                free.insert(id);
            }
        }
        ids
    }
}

impl From<NexthopIds> for Vec<(NetworkName, NodeName, Family, u32)> {
    fn from(ids: NexthopIds) -> Self {
        ids.by_peer.into_iter().map(|((network, peer, family), id)| (network, peer, family, id)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_thousand_peers_have_ten_thousand_ids_each_family() {
        let network = NetworkName::first();
        let mut ids = NexthopIds::default();
        for n in 0..10_000 {
            ids.assign(&network, &format!("n{n}").parse().unwrap());
        }
        assert_eq!(ids.taken.len(), 20_000);
        assert!(ids.taken.iter().all(|id| NEXTHOP_IDS.contains(id)));
        let before = ids.clone();
        ids.assign(&network, &"n17".parse().unwrap());
        assert_eq!(ids, before, "a peer keeps its ids");
    }

    #[test]
    fn ids_survive_a_snapshot() {
        let network = NetworkName::first();
        let mut ids = NexthopIds::default();
        ids.assign(&network, &"n1".parse().unwrap());
        ids.assign(&network, &"n2".parse().unwrap());
        let text = serde_json::to_string(&ids).unwrap();
        assert_eq!(serde_json::from_str::<NexthopIds>(&text).unwrap(), ids);
    }
}
