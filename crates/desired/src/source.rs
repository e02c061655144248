//! The parts of the model and which change touches which.

use std::collections::BTreeSet;

use ripstop_ipam::Attachment;
use ripstop_netmodel::{Entry, Model};
use ripstop_objects::{BackendKind, NetworkName, ObjectKind};
use ripstop_tables::{Change, StoreKind, Tables, Withdrawn};
use ripstop_types::{NodeName, ServiceName};

use crate::services::Serving;
use crate::{bgp, network, node, peer, pod, pools, records, services};

/// A part of the model.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Settings of the node and the base of the ruleset.
    Node,
    /// A network's own link, tunnel and ranges on this node.
    Network(NetworkName),
    /// This node's records in the store.
    Records,
    /// A peer in a network.
    Peer(NetworkName, NodeName),
    /// A pod's interface.
    Pod(Attachment),
    /// What lets packets from 127.0.0.1 leave, and guards it.
    Loopback,
    /// Routes to outside of the cluster that BGP brought.
    Bgp,
    /// What keeps packets for addresses of pools that nobody serves from going round.
    Pools,
    /// What all Services need.
    Services,
    /// A Service.
    Service(ServiceName),
}

impl Source {
    /// The objects of this part; none where it no longer exists. `before` are those that were wanted or found so far.
    pub(crate) fn objects(&self, tables: &Tables, serving: &Serving, before: &Model) -> Vec<Entry> {
        if tables.withdrawn == Withdrawn::Everything {
            return Vec::new();
        }
        match self {
            Self::Node => node::objects(tables),
            Self::Network(name) => {
                tables.networks.get(name).map_or_else(Vec::new, |row| network::objects(tables, &row.value))
            }
            Self::Records => records::objects(tables),
            Self::Peer(network, peer) => match (tables.networks.get(network), tables.nodes.get(peer)) {
                (Some(network), Some(peer)) => peer::objects(tables, &network.value, &peer.value),
                _ => Vec::new(),
            },
            Self::Pod(attachment) => tables.pods.get(attachment).map_or_else(Vec::new, |row| pod::objects(tables, row)),
            Self::Loopback if services::wants_loopback(tables) => services::loopback(),
            Self::Loopback => Vec::new(),
            Self::Bgp => bgp::objects(tables),
            Self::Pools => pools::objects(tables),
            Self::Services => services::of_node(tables),
            Self::Service(name) => serving
                .node
                .as_ref()
                .map_or_else(Vec::new, |node| services::of_service(tables, serving, node, name, before)),
        }
    }

    /// Whether there may be thousands of its kind, so that they are made some at a time.
    pub(crate) fn is_many(&self) -> bool {
        matches!(self, Self::Peer(..) | Self::Service(_))
    }
}

/// Every part there is, except peers and Services.
fn own(tables: &Tables) -> BTreeSet<Source> {
    let mut sources = BTreeSet::from([Source::Node, Source::Records, Source::Loopback, Source::Services, Source::Bgp]);
    sources.insert(Source::Pools);
    sources.extend(tables.networks.keys().cloned().map(Source::Network));
    sources.extend(tables.pods.keys().cloned().map(Source::Pod));
    sources
}

/// Every Service there is.
pub(crate) fn every_service(tables: &Tables) -> impl Iterator<Item = Source> {
    tables.cluster.services.services().map(|service| Source::Service(service.name.clone()))
}

/// Every part there is, except Services: what they need of the node is asked for by itself.
pub(crate) fn all(tables: &Tables) -> BTreeSet<Source> {
    let mut sources = own(tables);
    for network in tables.networks.keys() {
        sources.extend(tables.peers().map(|peer| Source::Peer(network.clone(), peer.value.name.clone())));
    }
    sources
}

/// Whether every part is touched. `moved` says whether this node's ranges are others than they were: a range gives every
/// route to pods its source.
pub(crate) fn touches_all(tables: &Tables, change: &Change, moved: bool) -> bool {
    match change {
        Change::Claim(node) => *node == tables.node && moved,
        Change::Facts | Change::Withdrawn | Change::Network(_) | Change::Known(StoreKind::Networks) => true,
        _ => false,
    }
}

/// Whether a change may be one of what decides about Services on this node. Most say nothing of the node itself.
pub(crate) fn may_change_serving(change: &Change) -> bool {
    !matches!(
        change,
        Change::Alive(_)
            | Change::Service(_)
            | Change::Policies(_)
            | Change::Pod(_)
            | Change::Reach(_)
            | Change::Tunnel(_)
            | Change::Store
            | Change::Realised
            | Change::Migration(_)
            | Change::Bgp
    )
}

fn changed_services(changes: &BTreeSet<Change>) -> impl Iterator<Item = Source> {
    changes.iter().filter_map(|change| match change {
        Change::Service(name) => Some(Source::Service(name.clone())),
        _ => None,
    })
}

/// What hangs on routes that BGP brought.
fn by_bgp(tables: &Tables) -> impl Iterator<Item = Source> {
    let carried = tables.networks.values().filter(|row| row.value.backends().any(BackendKind::may_bgp));
    let peers = carried
        .flat_map(|row| tables.peers().map(|peer| Source::Peer(row.value.name.clone(), peer.value.name.clone())));
    peers.chain([Source::Bgp])
}

/// The parts that changes touch. `present` are the parts the model has: what vanished from the tables is among them.
pub(crate) fn sources_of<'a>(
    tables: &Tables,
    changes: &BTreeSet<Change>,
    present: impl Iterator<Item = &'a Source>,
    moved: bool,
) -> BTreeSet<Source> {
    let mut sources = BTreeSet::new();
    if changes.iter().any(|change| touches_all(tables, change, moved)) {
        sources.extend(all(tables));
        sources.extend(present.filter(|source| !matches!(source, Source::Service(_))).cloned());
        sources.extend(changed_services(changes));
        return sources;
    }
    for change in changes {
        match change {
            Change::Node(node) | Change::Claim(node) if *node != tables.node => {
                sources.extend(tables.networks.keys().map(|network| Source::Peer(network.clone(), node.clone())));
                sources.insert(Source::Pools);
                // Whether this node has migrated, and whether all have, hangs on every peer.
                if tables.networks.values().any(|row| row.value.migration.is_some()) {
                    sources.insert(Source::Records);
                }
            }
            Change::Migration(network) => {
                sources.extend(tables.peers().map(|peer| Source::Peer(network.clone(), peer.value.name.clone())));
                sources.insert(Source::Records);
            }
            Change::Reach(node) => {
                sources.extend(tables.networks.keys().map(|network| Source::Peer(network.clone(), node.clone())));
            }
            Change::Blocks(network) | Change::Tunnel(network) => {
                sources.insert(Source::Network(network.clone()));
            }
            Change::Node(_) => {
                sources.insert(Source::Records);
            }
            Change::Claim(_) => {
                sources.append(&mut own(tables));
            }
            Change::Pod(attachment) => {
                sources.extend([Source::Loopback, Source::Pod(attachment.clone())]);
                // One pod's interfaces share its routes and may send from each other's addresses.
                sources.extend(tables.interfaces_of(attachment).map(|row| Source::Pod(row.attachment.clone())));
            }
            Change::Proxy => {
                sources.extend([Source::Loopback, Source::Services]);
            }
            Change::Bgp => sources.extend(by_bgp(tables)),
            Change::Realised | Change::Known(_) => {
                sources.insert(Source::Records);
            }
            // The tunnel device of a node that was Flannel's has the address that is said there.
            Change::Object(ObjectKind::Node) if tables.taken_network().is_some() => {
                sources
                    .extend(tables.taken_network().cloned().map(Source::Network).into_iter().chain([Source::Records]));
            }
            Change::Object(ObjectKind::AddressPool) => _ = sources.insert(Source::Pools),
            Change::Service(name) => _ = sources.insert(Source::Service(name.clone())),
            // Signs of life come all the time, and nothing here depends on them.
            Change::Alive(_)
            | Change::Object(_)
            | Change::Policies(_)
            | Change::Facts
            | Change::Network(_)
            | Change::Withdrawn
            | Change::Store => {}
        }
    }
    sources
}
