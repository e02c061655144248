//! The way out: which destinations see a pod's own address.
//!
//! A packet of a pod that leaves the cluster takes the node's address. Pod to pod and node to pod never do; pod to a
//! remote node does on an encapsulated path, because the answer would come back on another way, and does not on a plain
//! one, unless the network says otherwise.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ripstop_objects::{Encapsulation, Network, ToNodes};
use ripstop_types::{Family, Prefix};

use crate::paths::Path;

/// Destinations that always see the pod's own address, whatever the networks: multicast (RFC 5771, RFC 4291) and
/// link-local addresses.
pub fn always_plain(family: Family) -> impl Iterator<Item = Prefix> {
    let of = |ip: IpAddr, len| Prefix::containing(ip, len);
    let all = match family {
        Family::V4 => [of(Ipv4Addr::new(169, 254, 0, 0).into(), 16), of(Ipv4Addr::new(224, 0, 0, 0).into(), 4)],
        Family::V6 => {
            let of_first = |first| Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0).into();
            [of(of_first(0xfe80), 10), of(of_first(0xff00), 8)]
        }
    };
    all.into_iter().flatten()
}

/// Whether this address of a peer's own sees the addresses of this network's pods: on a plain path the one that is their
/// gateway. Of several uplinks another one's answer would come by another way. `path` is that of the address's family.
pub fn sees_pods(network: &Network, path: Option<&Path>, ip: IpAddr) -> bool {
    match network.spec.masquerade.to_nodes {
        ToNodes::Always => false,
        ToNodes::Never => true,
        ToNodes::Auto => path.is_some_and(|path| path.encapsulation == Encapsulation::None && path.gateway == ip),
    }
}
