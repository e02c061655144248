//! The way out: which destinations see a pod's own address.
//!
//! A packet of a pod that leaves the cluster takes the node's address. Pod to pod and node to pod never do; pod to a
//! remote node does on an encapsulated path, because the answer would come back on another way, and does not on a plain
//! one, unless the network says otherwise.

use ripstop_objects::{Encapsulation, Network, NodeRecord, ToNodes};
use ripstop_tables::Tables;
use ripstop_types::{Family, Prefix};

use crate::paths;

/// Destinations that always see the pod's own address, whatever the networks: multicast (RFC 5771, RFC 4291) and
/// link-local addresses.
pub fn always_plain(family: Family) -> Vec<Prefix> {
    let texts: &[&str] = match family {
        Family::V4 => &["169.254.0.0/16", "224.0.0.0/4"],
        Family::V6 => &["fe80::/10", "ff00::/8"],
    };
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

/// Whether a peer's own address of a family sees the addresses of this network's pods.
pub fn sees_pods(tables: &Tables, network: &Network, peer: &NodeRecord, family: Family) -> bool {
    match network.spec.masquerade.to_nodes {
        ToNodes::Always => false,
        ToNodes::Never => true,
        ToNodes::Auto => {
            paths::path(tables, network, peer, family).is_ok_and(|path| path.encapsulation == Encapsulation::None)
        }
    }
}
