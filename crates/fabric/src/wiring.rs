//! How a pod is connected to its node.
//!
//! *routed*: a veth pair, the pod's address as a host route on both sides, 169.254.1.1 and fe80::1 as routers with a
//! permanent neighbour. *bridge*: a veth pair into a bridge that has the range's second address as the gateway.
//!
//! Each network has one node link, which carries the node's own address towards pods and never migrates.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ripstop_ipam::Attachment;
use ripstop_objects::{Network, NetworkName, RangeMode, Wiring};
use ripstop_types::{Family, IfName, Mac, NodeName, Prefix};

use crate::hash;

/// First letters of the host's end of every pod's veth pair.
pub const POD_LINK_PREFIX: &str = "ripp";

/// First letters of the device that shapes what a pod sends.
pub const SHAPER_PREFIX: &str = "rips";

/// The router that pods of routed wiring see (RFC 3927 addresses are on-link everywhere).
pub const ROUTER_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// The router that pods of routed wiring see by IPv6 (RFC 4291, link-local).
pub const ROUTER_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// The host's end of every routed pair has this hardware address, so a pod's neighbour entry is always the same.
pub const ROUTER_MAC: Mac = Mac([0x0a, 0x52, 0x49, 0x50, 0x00, 0x01]);

/// The router's address in a family, for routed wiring.
pub fn router(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(ROUTER_V4),
        Family::V6 => IpAddr::V6(ROUTER_V6),
    }
}

/// The node's own address in one of its ranges: the second, as Flannel's bridge has it; of a range of one address, none.
pub fn node_ip(range: &Prefix) -> Option<IpAddr> {
    range.nth(1)
}

/// The node's own address in a network, as the ranges that it owns say.
pub fn own_ip(network: &Network, family: Family, owned: impl IntoIterator<Item = Prefix>) -> Option<IpAddr> {
    let mut owned = owned.into_iter().filter(|range| range.family() == family);
    match network.spec.range_mode {
        RangeMode::Blocks => network.spec.node_address(family, owned),
        RangeMode::Lease | RangeMode::PodCidr => owned.next().and_then(|range| node_ip(&range)),
    }
}

/// The link that carries the node's address of a network; in bridge wiring it is the bridge.
pub fn node_link(network: &NetworkName) -> IfName {
    let name = if *network == NetworkName::first() {
        "rip0".to_owned()
    } else {
        format!("ripn{}", hash::letters(&["network", network.as_str()], 11))
    };
    // Fifteen letters and digits at most: always a name.
    name.parse().unwrap_or_else(|_| unreachable_name())
}

/// The hardware address of a node link.
pub fn node_link_mac(node: &NodeName, network: &NetworkName) -> Mac {
    hash::mac(&["node-link", node.as_str(), network.as_str()])
}

/// The host's end of a pod's pair: of container and interface, the same for a repeated ADD. `salt` tells apart the
/// second of two that would have one name.
pub fn pod_link(attachment: &Attachment, salt: u32) -> IfName {
    let salt = salt.to_string();
    let parts = [attachment.container.as_str(), attachment.ifname.as_str(), salt.as_str()];
    let name = format!("{POD_LINK_PREFIX}{}", hash::letters(&parts, 11));
    name.parse().unwrap_or_else(|_| unreachable_name())
}

/// The hardware address of the host's end of a pod's pair.
pub fn pod_link_mac(attachment: &Attachment, wiring: Wiring) -> Mac {
    match wiring {
        Wiring::Routed => ROUTER_MAC,
        Wiring::Bridge => hash::mac(&["port", attachment.container.as_str(), attachment.ifname.as_str()]),
    }
}

/// The device that shapes what comes from a pod, of the host's end of its pair: the same letters, another beginning.
pub fn shaper_link(host_link: &IfName) -> IfName {
    let letters = host_link.as_str().strip_prefix(POD_LINK_PREFIX).unwrap_or_default();
    format!("{SHAPER_PREFIX}{letters}").parse().unwrap_or_else(|_| unreachable_name())
}

/// The index of that device: a number of its name in the upper half of what an index can be, which the kernel does not
/// reach by counting.
pub fn shaper_index(host_link: &IfName) -> u32 {
    const HALF: u64 = 0x4000_0000;
    u32::try_from(HALF | (hash::hash(&["shaper", host_link.as_str()]) % HALF)).unwrap_or(u32::MAX >> 1)
}

/// What a pod's default route of a family leads to: the router, or the bridge's address.
pub fn gateway(network: &Network, ranges: &[Prefix], ip: IpAddr) -> Option<IpAddr> {
    match network.spec.wiring {
        Wiring::Routed => Some(router(Family::of(ip))),
        Wiring::Bridge => ranges.iter().find(|range| range.contains(ip)).and_then(node_ip),
    }
}

fn unreachable_name() -> IfName {
    // Reached by no input: letters and digits within the kernel's length always parse.
    #[allow(clippy::unwrap_used)]
    "rip-invalid".parse().unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_have_names_the_kernel_takes() {
        let attachment = Attachment { container: "a".repeat(64).parse().unwrap(), ifname: "eth0".parse().unwrap() };
        let link = pod_link(&attachment, 0);
        assert_eq!(link.as_str().len(), 15);
        assert!(link.as_str().starts_with(POD_LINK_PREFIX));
        assert_ne!(link, pod_link(&attachment, 1));
        let shaper = shaper_link(&link);
        assert_eq!((shaper.as_str().len(), &shaper.as_str()[..4]), (15, SHAPER_PREFIX));
        assert!((0x4000_0000..=0x7fff_ffff).contains(&shaper_index(&link)));
        assert_eq!(node_link(&"default".parse().unwrap()).as_str(), "rip0");
        assert_eq!(node_link(&"storage".parse().unwrap()).as_str().len(), 15);
    }
}
