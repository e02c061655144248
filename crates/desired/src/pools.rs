//! What keeps packets for addresses of pools that nobody serves from going round: routers that were told of a pool's addresses by BGP send
//! them here, and by the default route the node would send them back.
//!
//! A table of its own looks at what is passed on once its destination is rewritten, by whatever serves Services: what is for such an
//! address still is for nobody. An unreachable route would keep the node's own processes from addresses that are served, since the
//! kernel asks for a way before it lets rules of Services see what they send.
//!
//! Not here: which addresses this node tells of.
//!
//! Invariants: it is there before an address is told and as long as the pool is; nothing of it is an address of nodes or pods, or of a
//! subnet that the node is on, whatever a pool says.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ripstop_fabric::host;
use ripstop_netmodel::{Entry, NFT_POOLS_TABLE, NftTable};
use ripstop_nft::model::{Chain, Hook, RejectWith, Rule, Statement, Table, TableFamily, build::*, priority};
use ripstop_objects::pool::{AddressRange, AnnouncedBy, Announcement};
use ripstop_tables::Tables;
use ripstop_types::{Family, Owner, Prefix};

use crate::Part;

pub(crate) fn objects(tables: &Tables) -> Vec<Entry> {
    let mut part = Part::of(Owner::agent());
    let told = told(tables);
    if told.is_empty() {
        return part.entries;
    }
    let mut chain = Chain::filter(Hook::Forward, priority::FILTER);
    for family in Family::BOTH {
        let of_family: Vec<Prefix> = told.iter().copied().filter(|prefix| prefix.family() == family).collect();
        if !of_family.is_empty() {
            let rule = Rule::new([
                daddr(family).within_any(of_family),
                counter(),
                Statement::Reject(RejectWith::HostUnreachable),
            ]);
            chain = chain.rule(rule.comment("addresses of pools that nobody serves"));
        }
    }
    part.add(NftTable { table: Table::new(TableFamily::Inet, NFT_POOLS_TABLE).chain("forward", chain) });
    part.entries
}

/// The prefixes that may be told of pools by BGP. None is inside of another.
fn told(tables: &Tables) -> BTreeSet<Prefix> {
    let mut told = BTreeSet::new();
    for pool in tables.cluster.pools.values().map(|row| &row.value) {
        for way in pool.announce.iter().filter(|way| way.by == AnnouncedBy::Bgp) {
            told.extend(pool.addresses.iter().flat_map(|range| prefixes(range, way)));
        }
    }
    if told.is_empty() {
        return told;
    }
    let is_free = |prefix: &Prefix| !is_of_another(tables, prefix);
    let free: BTreeSet<Prefix> = told.into_iter().filter(is_free).collect();
    let within = |prefix: &&Prefix| free.iter().any(|other| other != *prefix && other.covers(prefix));
    free.iter().filter(|prefix| !within(prefix)).copied().collect()
}

/// Whether some address of it is a node's, or in a range of pods, or in a subnet that the node is on.
fn is_of_another(tables: &Tables, prefix: &Prefix) -> bool {
    let mut networks = tables.networks.values().flat_map(|row| row.value.spec.whole(prefix.family()));
    let mut nodes = tables.nodes.values().flat_map(|row| &row.value.addresses);
    networks.any(|range| range.overlaps(prefix))
        || nodes.any(|node| prefix.contains(node.ip))
        || host::addresses(tables).iter().any(|own| own.prefix.overlaps(prefix))
}

/// The prefixes that a range's addresses are told by: what is told of one address each, put together, or whole aggregates.
fn prefixes(range: &AddressRange, way: &Announcement) -> Vec<Prefix> {
    let mut all: Vec<Prefix> = Vec::new();
    let mut next = Some(range.first());
    while let Some(ip) = next {
        let told = way.prefix(ip);
        let prefix = if told.len() < told.family().bits() { told } else { greatest(ip, range.last()) };
        all.push(prefix);
        next = after(prefix.last()).filter(|ip| range.contains(*ip)).filter(|_| all.len() < MOST);
    }
    all
}

/// Prefixes of one range, at most: twice as many as one that is no prefix needs. Aggregates may be many more, and are cut off.
const MOST: usize = 256;

/// The greatest prefix that begins with an address and does not go beyond another.
fn greatest(first: IpAddr, last: IpAddr) -> Prefix {
    let fits = |len: u8| {
        let prefix = Prefix::containing(first, len)?;
        (prefix.addr() == first && prefix.last() <= last).then_some(prefix)
    };
    (0..=Family::of(first).bits()).find_map(fits).unwrap_or_else(|| Prefix::host(first))
}

fn after(ip: IpAddr) -> Option<IpAddr> {
    match ip {
        IpAddr::V4(ip) => ip.to_bits().checked_add(1).map(|bits| IpAddr::V4(bits.into())),
        IpAddr::V6(ip) => ip.to_bits().checked_add(1).map(|bits| IpAddr::V6(bits.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_told_in_the_fewest_prefixes() {
        let way = |length_v4| Announcement {
            by: AnnouncedBy::Bgp,
            nodes: Vec::new(),
            interfaces: BTreeSet::new(),
            length_v4,
            length_v6: None,
            communities: Vec::new(),
            peers: BTreeSet::new(),
        };
        for (range, length, wanted) in [
            ("198.51.100.8-198.51.100.9", Some(29), vec!["198.51.100.8/29"]),
            ("198.51.100.6-198.51.100.9", Some(29), vec!["198.51.100.0/29", "198.51.100.8/29"]),
            ("198.51.100.0/24", None, vec!["198.51.100.0/24"]),
            ("198.51.100.0/24", Some(32), vec!["198.51.100.0/24"]),
            ("198.51.100.7-198.51.100.10", None, vec!["198.51.100.7/32", "198.51.100.8/31", "198.51.100.10/32"]),
            ("255.255.255.255", None, vec!["255.255.255.255/32"]),
            ("2001:db8::-2001:db8::2", Some(29), vec!["2001:db8::/127", "2001:db8::2/128"]),
        ] {
            let wanted: Vec<Prefix> = wanted.into_iter().map(|prefix| prefix.parse().unwrap()).collect();
            assert_eq!(prefixes(&range.parse().unwrap(), &way(length)), wanted, "{range} {length:?}");
        }
    }
}
