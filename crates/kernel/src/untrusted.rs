//! The door of the fuzz targets to the decoders of what a kernel answers. Not part of the crate's interface.

use crate::netlink::{each_message, parse_ack};
use crate::own::OwnTraffic;
use crate::wire::Names;
use crate::wire::address::RawAddress;
use crate::wire::link::{RawLink, bridge_port};
use crate::wire::neighbour::RawNeighbour;
use crate::wire::nexthop::RawNexthop;
use crate::wire::qdisc::RawQdisc;
use crate::wire::route::RawRoute;
use crate::{Changed, monitor, observe};
use ripstop_netmodel::Ns;

/// Reads bytes as a kernel's answers and as its notifications, with every decoder, and gives the number of messages.
pub fn kernel_messages(bytes: &[u8]) -> usize {
    let (own, ns) = (OwnTraffic::default(), Ns::Host);
    let (mut changed, mut names) = (Changed::default(), Names::new());
    let mut known = monitor::Known::default();
    let mut count = 0;
    for (_, reply) in each_message(bytes) {
        count += 1;
        let _ = parse_ack(reply);
        if let Some(link) = RawLink::read(reply) {
            let (_, _) = (link.is_ours(), link.owner());
            names.insert(link.index, link.name.clone());
            let _ = link.to_link(&ns, &names);
        }
        let _ = bridge_port(reply);
        let _ = RawAddress::read(reply).map(|address| address.to_address(&ns, &names));
        let _ = RawNeighbour::read(reply).map(|entry| (entry.to_neighbour(&ns, &names), entry.to_fdb(&names)));
        let _ = RawNexthop::read(reply).map(|nexthop| (nexthop.is_ours(), nexthop.to_object(&names)));
        let _ = RawRoute::read(reply).map(|route| route.to_route(&ns, &names));
        let _ = RawQdisc::read(reply).map(|qdisc| qdisc.to_qdisc(&ns, &names));
        let _ = observe::facts::forward_chain(reply);
        let _ = observe::facts::rule_drops(reply);
        known.hear(reply, &own, &mut changed);
    }
    known.settle(&own, &mut changed);
    count
}
