//! A network's move from one backend to another, make-before-break and without a conductor.
//!
//! Every node reads the same record and the other nodes' records, and decides for itself:
//!
//! 1. It makes the receive sides of both backends. Its pods' links take the larger MTU, their routes the smaller. When all
//!    of that is in the kernel it says so: it is *prepared*.
//! 2. It moves its own packets to a peer as soon as both are prepared, peer by peer.
//! 3. When all its packets leave by the new backend it says so: it has *migrated*.
//! 4. When all nodes have, the record loses its migration, and with it go the old receive side, and the smaller MTU where
//!    the new backend's is larger.
//!
//! Between a change and the word of it lies time enough for packets that are under way: [`DRAIN_MS`].
//!
//! So no node sends what another does not receive, and no pod sends what another's link would not take. A node that does
//! not answer keeps the migration from ending; it is named, and can be skipped.

use ripstop_objects::{BackendKind, Encapsulation, Network, NodeRecord};
use ripstop_tables::Tables;
use ripstop_types::{Family, NodeName, Revision};

use crate::{forwarder, ipip, paths};

/// How long a packet may be under way between a pod and the wire, in milliseconds: longer than a busy machine's queues keep
/// it. What was sent before a change has arrived before the next.
pub const DRAIN_MS: u64 = 500;

/// What a node has done of a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// It has not said yet that it receives both ways.
    Preparing,
    /// It receives both ways and moves its packets.
    Moving,
    /// All its packets leave by the new backend.
    Migrated,
    /// It is not waited for.
    Skipped,
}

/// How far a node is with the migration of a network; `None` where the network is not migrating.
pub fn stage(tables: &Tables, network: &Network, node: &NodeRecord) -> Option<Stage> {
    let migration = network.migration.as_ref()?;
    let revision = revision(tables, network);
    Some(if node.migrated.get(&network.name).is_some_and(|at| *at >= revision) {
        Stage::Migrated
    } else if migration.skip.contains(&node.name) {
        Stage::Skipped
    } else if is_prepared(tables, network, node) {
        Stage::Moving
    } else {
        Stage::Preparing
    })
}

/// Whether the migration has reached its end: every node that is waited for has migrated.
pub fn is_over(tables: &Tables, network: &Network) -> bool {
    let ended = |node: &NodeRecord| matches!(stage(tables, network, node), Some(Stage::Migrated | Stage::Skipped));
    network.migration.as_ref().is_some_and(|migration| !migration.paused)
        && tables.nodes.contains_key(&tables.node)
        && tables.nodes.values().all(|row| ended(&row.value))
}

/// Whether packets for a peer may be moved now.
pub(crate) fn may_move(tables: &Tables, network: &Network, peer: &NodeRecord, family: Family) -> bool {
    // Where nothing leaves yet nothing is moved: a new peer begins with the new backend.
    let is_new = sent_by(tables, network, &peer.name, family).is_none();
    network.migration.as_ref().is_none_or(|migration| !migration.paused)
        && is_prepared(tables, network, peer)
        && (is_new || tables.prepared.get(&network.name) == Some(&revision(tables, network)))
}

/// How packets for a peer leave now.
pub(crate) fn sent_by(tables: &Tables, network: &Network, peer: &NodeName, family: Family) -> Option<Encapsulation> {
    tables.sends.get(&(network.name.clone(), peer.clone(), family)).copied()
}

/// Whether all of this node's packets leave by the backend that is wanted.
pub fn has_migrated(tables: &Tables, network: &Network) -> bool {
    let Some(migration) = &network.migration else { return false };
    let has_moved = |peer: &NodeRecord, family: Family| {
        let wanted = paths::by_backend(tables, network, network.spec.backend.kind, peer, family);
        let has_ranges = tables.ranges(&peer.name, &network.name, family).next().is_some();
        !has_ranges || wanted.is_ok_and(|path| sent_by(tables, network, &peer.name, family) == Some(path.encapsulation))
    };
    tables.prepared.get(&network.name) == Some(&revision(tables, network))
        && tables
            .peers()
            .filter(|row| !migration.skip.contains(&row.value.name))
            .all(|row| network.spec.families().all(|family| has_moved(&row.value, family)))
}

fn is_prepared(tables: &Tables, network: &Network, node: &NodeRecord) -> bool {
    node.networks.get(&network.name).is_some_and(|at| *at >= revision(tables, network))
}

fn revision(tables: &Tables, network: &Network) -> Revision {
    tables.networks.get(&network.name).map(|row| row.revision).unwrap_or_default()
}

/// Whether this node receives by the backend to which a network goes, as far as that is not in the kernel alone.
pub fn receives(tables: &Tables, network: &Network) -> bool {
    match network.spec.backend.kind {
        BackendKind::Udp => forwarder::receives(tables, network),
        kind => !kind.may_ipip() || ipip::receives(tables, network),
    }
}

/// Whether this network could be carried by its backend between all nodes that are known.
///
/// # Errors
/// A sentence for each node or pair of nodes that it could not.
pub fn check(tables: &Tables, network: &Network) -> Result<(), Vec<String>> {
    let nodes: Vec<&NodeRecord> = tables.nodes.values().map(|row| &*row.value).collect();
    let mut faults = Vec::new();
    match network.spec.backend.kind {
        // Whether routes come by BGP shows when its senders move.
        BackendKind::Vxlan | BackendKind::Auto | BackendKind::Bgp => {}
        BackendKind::HostGw => faults.extend(all_apart(&nodes, network.spec.families(), BackendKind::HostGw)),
        kind @ (BackendKind::Ipip | BackendKind::IpipCrossSubnet) => {
            let without = nodes.iter().filter(|node| node.address(Family::V4).is_none());
            let sentence =
                |node: &&NodeRecord| format!("node/{} has published no IPv4 address, which ipip needs", node.name);
            faults.extend(without.map(sentence));
            // IPv6 goes without encapsulation.
            let plain = network.spec.families().filter(|family| *family == Family::V6);
            faults.extend(all_apart(&nodes, plain, kind));
        }
        BackendKind::Udp => {
            let without = nodes.iter().filter(|node| !node.forwarder && node.udp().is_none());
            let sentence = |node: &&NodeRecord| {
                format!("no forwarder runs on node/{}, which udp needs: {}", node.name, forwarder::REMEDY)
            };
            faults.extend(without.map(sentence));
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

/// Why nodes cannot exchange plain packets, a sentence for each pair: by the first family in which they cannot.
fn all_apart(nodes: &[&NodeRecord], families: impl Iterator<Item = Family>, kind: BackendKind) -> Vec<String> {
    let families: Vec<Family> = families.collect();
    let pairs =
        nodes.iter().enumerate().flat_map(|(place, one)| nodes[place + 1..].iter().map(move |other| (one, other)));
    pairs.filter_map(|(one, other)| families.iter().find_map(|family| apart(one, other, *family, kind))).collect()
}

/// Why two nodes cannot exchange plain packets of a family, which a backend needs.
fn apart(one: &NodeRecord, other: &NodeRecord, family: Family, kind: BackendKind) -> Option<String> {
    let by = kind.as_str();
    let (Some(here), Some(there)) = (one.address(family), other.address(family)) else {
        let lacks = if one.address(family).is_none() { one } else { other };
        return Some(format!("node/{} has published no {family} address, which {by} needs", lacks.name));
    };
    let of_family = |node: &NodeRecord| {
        node.addresses.iter().filter(|address| Family::of(address.ip) == family).copied().collect::<Vec<_>>()
    };
    let theirs = of_family(other);
    let share = of_family(one).iter().any(|own| theirs.iter().any(|their| own.shares_subnet(their.ip)));
    let (what, accepted) = match kind {
        BackendKind::HostGw => ("packets", "auto, vxlan, udp"),
        _ => ("packets of IPv6", "auto, vxlan, udp, or a network of IPv4 alone"),
    };
    (!share).then(|| {
        format!(
            "a router stands between node/{} at {} and node/{} at {}: {by} carries {what} inside one subnet only; accepted: {accepted}",
            one.name, here.ip, other.name, there.ip
        )
    })
}
