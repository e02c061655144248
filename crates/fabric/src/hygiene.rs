//! What of the host gets in the way of pods, and what is done about it.
//!
//! A chain of another owner that drops forwarded packets is opened where its owner leaves room for others: iptables' table
//! `filter` takes one jump. Every other is only named, with the command that opens it. Not here: kernel objects.

use ripstop_tables::{ForeignDrop, Tables};
use ripstop_types::{Family, IfName};

use crate::host;

/// Counts of learned neighbours that a node needs at least (`gc_thresh1` to `3`): in one subnet each of ten thousand peers
/// is one, and a bridge learns its pods. Permanent neighbours do not count (Linux 5.0).
pub const NEIGHBOURS: [u32; 3] = [4096, 8192, 16384];

/// The chain of iptables' table `filter` in which a jump opens what a chain drops; `None` where only its owner can.
pub fn jump_chain(drop: &ForeignDrop) -> Option<(Family, &'static str)> {
    let family = match &*drop.family {
        "ip" => Family::V4,
        "ip6" => Family::V6,
        _ => return None,
    };
    drop.iptables.then_some((family, if drop.docker_user { "DOCKER-USER" } else { "FORWARD" }))
}

/// The jumps that open what drops packets of the networks there are.
pub fn jumps(tables: &Tables) -> impl Iterator<Item = (Family, &'static str)> {
    let has_pods = |family| tables.networks.values().any(|row| row.value.spec.ranges.get(family).is_some());
    tables.facts.foreign_drops.iter().filter_map(jump_chain).filter(move |(family, _)| has_pods(*family))
}

/// Links of the host whose routes come by router advertisements, which they would not take any more once the node
/// forwards: those that carry the node's traffic. What faces containers of others is left alone: they could send some.
pub fn advertised_links(tables: &Tables) -> Vec<&IfName> {
    let further = host::uplinks(tables, Family::V6).into_iter().map(|uplink| uplink.link);
    let uplinks = Family::BOTH.into_iter().filter_map(|family| host::uplink(tables, family)).chain(further);
    let mut links: Vec<&IfName> = uplinks.chain(tables.facts.default_links.get(&Family::V6)).collect();
    links.sort();
    links.dedup();
    links.retain(|name| tables.facts.links.get(*name).is_some_and(|link| matches!(link.accept_ra, Some(1 | 2))));
    links
}

/// The limits of the kernel's neighbour tables, of families in which they can be set here: never lower than they are.
pub fn neighbour_limits(tables: &Tables) -> impl Iterator<Item = (Family, [u32; 3])> {
    let raised = |has: [u32; 3]| std::array::from_fn(|n| has[n].max(NEIGHBOURS[n]));
    tables.facts.neighbour_limits.iter().map(move |(family, limits)| (*family, raised(limits.0)))
}
