//! A forwarder as Flannel's: one packet a read, one a datagram, no offload. Ours understands it, and is understood.

use std::net::SocketAddr;

use ripstop_forwarder::control::Reason;
use ripstop_forwarder::plain::Plain;

use crate::support::{Node, nodes, stream_both_ways};

/// Forwards between the node's second device, which takes the first one's addresses, and the peer.
fn start(node: &Node) -> Plain {
    let (number, peer) = (node.number, 3 - node.number);
    let outer = |number| SocketAddr::from(([172, 30, 0, number], 8285));
    let plain = node.space.inside(|| Plain::start(&"naive0".parse().unwrap(), outer(number), outer(peer)).unwrap());
    node.space.ip(&format!(
        "link del ripudp0\nlink set naive0 mtu 1472 addrgenmode none up\naddr add 10.244.{number}.1/32 dev naive0\n\
         addr add fd44:{number}::1/128 dev naive0 nodad\n\
         route add 10.244.{peer}.0/24 dev naive0 src 10.244.{number}.1\n\
         route add fd44:{peer}::/64 dev naive0 src fd44:{number}::1"
    ));
    plain
}

#[test]
fn a_forwarder_that_reads_one_packet_at_a_time_is_understood_both_ways() {
    let Some([one, two]) = nodes(1500) else { return };
    let _running = one.forward(true);
    let _naive = start(&two);
    for v4 in [true, false] {
        stream_both_ways(&one, &two, v4, 5_000_000);
    }
    let stats = one.stats();
    // The other kernel's own multicast reports come from no address of the range.
    let dropped = &stats.peers["n2"].dropped;
    assert!(dropped.keys().all(|reason| *reason == Reason::WrongSource), "{stats:?}");
}
