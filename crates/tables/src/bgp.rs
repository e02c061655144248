//! What people configure of BGP, and what sessions brought.
//!
//! Not here: who has a session with whom, and which routes are used.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use ripstop_netmodel::{GROUP_IDS, HOP_IDS};
use ripstop_objects::bgp::{BgpConfiguration, BgpFilter, BgpPeer, CONFIGURATION};
use ripstop_objects::{ClusterObject, ObjectKind};
use ripstop_types::{Fnv1a as _, IfName, Prefix, Revision, ScopedAddr};
use serde::{Deserialize, Serialize};

use crate::Row;
use crate::state::replace;

/// The rows.
#[derive(Debug, Clone, Default)]
pub struct BgpTables {
    /// BgpConfigurations; only that called `default` is looked at.
    pub configurations: BTreeMap<Arc<str>, Row<BgpConfiguration>>,
    /// BgpFilters.
    pub filters: BTreeMap<Arc<str>, Row<BgpFilter>>,
    /// BgpPeers.
    pub peers: BTreeMap<Arc<str>, Row<BgpPeer>>,
    /// Next hops of the prefixes that are reached, the best one first. A start has those of the last run until sessions have brought
    /// them anew.
    pub routes: BTreeMap<Prefix, Vec<ScopedAddr>>,
    ids: HopIds,
    /// Those of them that are of the last run.
    left: BTreeSet<Prefix>,
    /// Peers have sent what they know: what is no route is none.
    pub settled: bool,
    /// What of routes is in the kernel can be judged: by what the last run knew, or by what peers have sent since.
    pub known: bool,
    /// What the speaker cannot do.
    pub faults: Vec<Arc<str>>,
}

/// What a speaker said.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpInput {
    /// Prefixes whose next hops changed; without any: they are reached no more.
    pub routes: Vec<(Prefix, Vec<ScopedAddr>)>,
    /// Peers have sent what they know.
    pub settled: bool,
    /// What the speaker cannot do, all of it.
    pub faults: Vec<Arc<str>>,
}

impl BgpTables {
    /// What holds for all nodes.
    #[must_use]
    pub fn configuration(&self) -> Arc<BgpConfiguration> {
        self.configurations.get(CONFIGURATION).map_or_else(Arc::default, |row| row.value.clone())
    }

    /// The next hops by which a prefix, or the longest one around it, is reached.
    #[must_use]
    pub fn next_hops(&self, prefix: Prefix) -> &[ScopedAddr] {
        self.longest(prefix).map(|(_, next_hops)| next_hops).unwrap_or_default()
    }

    /// The longest prefix around one, or itself, that a route leads to, with its next hops.
    #[must_use]
    pub fn longest(&self, prefix: Prefix) -> Option<(Prefix, &[ScopedAddr])> {
        let mut around = (0..=prefix.len()).rev().filter_map(|len| Prefix::containing(prefix.addr(), len));
        around.find_map(|one| Some((one, self.routes.get(&one)?.as_slice())))
    }

    /// The id of the nexthop object of a next hop that a route has.
    #[must_use]
    pub fn hop_id(&self, next_hop: &ScopedAddr) -> Option<u32> {
        self.ids.hops.get(next_hop).map(|(id, _)| *id)
    }

    /// The id of the group of the next hops of a route that has several.
    #[must_use]
    pub fn group_id(&self, next_hops: &[ScopedAddr]) -> Option<u32> {
        self.ids.groups.get(&sorted(next_hops)).map(|(id, _)| *id)
    }

    /// Takes in what the last run knew.
    pub(crate) fn begin(&mut self, routes: Vec<(Prefix, Vec<ScopedAddr>)>) {
        self.known = true;
        for (prefix, next_hops) in routes {
            self.left.insert(prefix);
            self.set(prefix, next_hops);
        }
    }

    /// Forgets all routes, as nobody brings any; whether that changed anything.
    pub fn forget(&mut self) -> bool {
        let changed = !self.known || !self.routes.is_empty();
        self.routes.clear();
        self.left.clear();
        self.ids = HopIds::default();
        self.known = true;
        changed
    }

    /// Has a prefix be reached so; whether that changed anything.
    fn set(&mut self, prefix: Prefix, next_hops: Vec<ScopedAddr>) -> bool {
        if self.routes.get(&prefix).map_or(&[][..], Vec::as_slice) == next_hops {
            return false;
        }
        self.ids.acquire(&next_hops);
        let before =
            if next_hops.is_empty() { self.routes.remove(&prefix) } else { self.routes.insert(prefix, next_hops) };
        self.ids.release(&before.unwrap_or_default());
        true
    }

    /// Takes in what the speaker said; whether that changed anything.
    pub(crate) fn take(&mut self, input: &BgpInput) -> bool {
        let before = (self.settled, self.faults.clone());
        let mut changed = false;
        for (prefix, next_hops) in &input.routes {
            self.left.remove(prefix);
            changed |= self.set(*prefix, next_hops.clone());
        }
        if input.settled {
            for prefix in std::mem::take(&mut self.left) {
                changed |= self.set(prefix, Vec::new());
            }
        }
        (self.settled, self.faults) = (input.settled, input.faults.clone());
        self.known |= input.settled;
        changed || before != (self.settled, self.faults.clone())
    }

    /// Puts an object; whether that changed anything.
    pub(crate) fn put(&mut self, object: ClusterObject, revision: Revision) -> bool {
        match object {
            ClusterObject::BgpConfiguration(value) => {
                replace(&mut self.configurations, value.name.clone(), Row { value, revision })
            }
            ClusterObject::BgpFilter(value) => replace(&mut self.filters, value.name.clone(), Row { value, revision }),
            ClusterObject::BgpPeer(value) => replace(&mut self.peers, value.name.clone(), Row { value, revision }),
            _ => false,
        }
    }

    /// Lets an object go; whether there was one.
    pub(crate) fn remove(&mut self, kind: ObjectKind, name: &str) -> bool {
        match kind {
            ObjectKind::BgpConfiguration => self.configurations.remove(name).is_some(),
            ObjectKind::BgpFilter => self.filters.remove(name).is_some(),
            ObjectKind::BgpPeer => self.peers.remove(name).is_some(),
            _ => false,
        }
    }

    /// Names of the objects of a kind.
    pub(crate) fn names(&self, kind: ObjectKind) -> Vec<Arc<str>> {
        match kind {
            ObjectKind::BgpConfiguration => self.configurations.keys().cloned().collect(),
            ObjectKind::BgpFilter => self.filters.keys().cloned().collect(),
            ObjectKind::BgpPeer => self.peers.keys().cloned().collect(),
            _ => Vec::new(),
        }
    }

    /// All objects.
    pub(crate) fn objects(&self) -> impl Iterator<Item = ClusterObject> {
        let configurations = self.configurations.values().map(|row| ClusterObject::BgpConfiguration(row.value.clone()));
        let filters = self.filters.values().map(|row| ClusterObject::BgpFilter(row.value.clone()));
        configurations.chain(filters).chain(self.peers.values().map(|row| ClusterObject::BgpPeer(row.value.clone())))
    }
}

/// Which ids next hops and groups of them have in the kernel, and how many routes they are of. An id is a hash, moved on where
/// another one has it, so that an agent that starts finds what it made.
#[derive(Debug, Clone, Default)]
struct HopIds {
    hops: BTreeMap<ScopedAddr, (u32, u32)>,
    groups: BTreeMap<Vec<ScopedAddr>, (u32, u32)>,
    taken: BTreeSet<u32>,
}

impl HopIds {
    fn acquire(&mut self, next_hops: &[ScopedAddr]) {
        for hop in next_hops {
            count(&mut self.taken, self.hops.entry(hop.clone()), HOP_IDS, bytes(hop));
        }
        if next_hops.len() > 1 {
            let all = sorted(next_hops);
            let bytes = all.iter().flat_map(bytes).collect();
            count(&mut self.taken, self.groups.entry(all), GROUP_IDS, bytes);
        }
    }

    fn release(&mut self, next_hops: &[ScopedAddr]) {
        let of_hops = next_hops.iter().filter_map(|hop| discount(self.hops.entry(hop.clone())));
        let gone: Vec<u32> = of_hops.chain(discount(self.groups.entry(sorted(next_hops)))).collect();
        for id in gone {
            self.taken.remove(&id);
        }
    }
}

/// A group is the same whichever is the best one.
fn sorted(next_hops: &[ScopedAddr]) -> Vec<ScopedAddr> {
    let mut all = next_hops.to_vec();
    all.sort_unstable();
    all
}

fn bytes(hop: &ScopedAddr) -> Vec<u8> {
    let ip = match hop.address() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    [&ip.octets()[..], hop.link().map_or("", IfName::as_str).as_bytes()].concat()
}

fn count<K: Ord>(
    taken: &mut BTreeSet<u32>,
    entry: Entry<'_, K, (u32, u32)>,
    range: RangeInclusive<u32>,
    bytes: Vec<u8>,
) {
    let (_, users) = entry.or_insert_with(|| {
        let size = range.end() - range.start() + 1;
        let mut at = u32::of(bytes) % size;
        // There are fewer of them than ids by far.
        while !taken.insert(range.start() + at) {
            at = (at + 1) % size;
        }
        (range.start() + at, 0)
    });
    *users += 1;
}

/// The id, if that was the last one.
fn discount<K: Ord>(entry: Entry<'_, K, (u32, u32)>) -> Option<u32> {
    let Entry::Occupied(mut entry) = entry else { return None };
    let (id, users) = entry.get_mut();
    *users -= 1;
    let (id, last) = (*id, *users == 0);
    if last {
        entry.remove();
    }
    last.then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> ScopedAddr {
        ScopedAddr::Global([192, 0, 2, last].into())
    }

    fn brought(tables: &mut BgpTables, prefix: &str, next_hops: &[u8]) -> bool {
        let next_hops = next_hops.iter().map(|last| ip(*last)).collect();
        tables.take(&BgpInput { routes: vec![(prefix.parse().unwrap(), next_hops)], ..BgpInput::default() })
    }

    #[test]
    fn next_hops_have_ids_as_long_as_a_route_has_them() {
        let mut tables = BgpTables::default();
        assert!(brought(&mut tables, "198.51.100.0/24", &[1, 2]));
        assert!(brought(&mut tables, "203.0.113.0/24", &[2]));
        assert!(!brought(&mut tables, "203.0.113.0/24", &[2]), "nothing new");
        let (first, second) = (tables.hop_id(&ip(1)).unwrap(), tables.hop_id(&ip(2)).unwrap());
        assert!(HOP_IDS.contains(&first) && HOP_IDS.contains(&second) && first != second);
        assert!(GROUP_IDS.contains(&tables.group_id(&[ip(1), ip(2)]).unwrap()));
        assert!(brought(&mut tables, "198.51.100.0/24", &[1]));
        assert_eq!((tables.hop_id(&ip(1)), tables.hop_id(&ip(2))), (Some(first), Some(second)), "both have a route");
        assert_eq!(tables.group_id(&[ip(1), ip(2)]), None);
        assert!(brought(&mut tables, "203.0.113.0/24", &[]));
        assert_eq!((tables.hop_id(&ip(2)), tables.ids.taken.len()), (None, 1));
    }

    #[test]
    fn what_the_last_run_knew_stays_until_peers_have_sent_what_they_know() {
        let prefix = |text: &str| text.parse::<Prefix>().unwrap();
        let mut tables = BgpTables::default();
        tables.begin(vec![(prefix("198.51.100.0/24"), vec![ip(1)]), (prefix("203.0.113.0/24"), vec![ip(1)])]);
        assert!(!brought(&mut tables, "203.0.113.0/24", &[1]));
        assert_eq!(tables.next_hops(prefix("198.51.100.0/25")), [ip(1)], "by the longest prefix around it");
        assert!(tables.take(&BgpInput { settled: true, ..BgpInput::default() }));
        assert_eq!(tables.routes.keys().copied().collect::<Vec<_>>(), [prefix("203.0.113.0/24")]);
        assert_eq!(tables.ids.hops.values().copied().map(|(_, users)| users).collect::<Vec<_>>(), [1]);
    }
}
