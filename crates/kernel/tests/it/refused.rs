//! Packets counted by the tables of policies: read, and none of the tables' affair.

use std::net::{IpAddr, UdpSocket};

use ripstop_kernel::RefusedReader;
use ripstop_netmodel::*;
use ripstop_nft::model::{Chain, Hook, Rule, Table, TableFamily, build::*, priority};
use ripstop_types::Family;

use crate::support::*;

fn table(family: Family) -> Object {
    let of = match family {
        Family::V4 => TableFamily::Ip,
        Family::V6 => TableFamily::Ip6,
    };
    let ends = || (saddr(family), daddr(family));
    let with_port = (ends().0, ends().1, meta::l4proto(), th::dport());
    let without = (ends().0, ends().1, meta::l4proto());
    let [ports, portless, unnamed] = RefusedSet::ALL.map(RefusedSet::name);
    let rules = [
        Rule::new([udp::dport().is(9), count_in(unnamed, meta::l4proto()), drop()]),
        Rule::new([udp::dport().is(8), count_in(portless, without), drop()]),
        Rule::new([meta::l4proto().is(Proto::UDP), count_in(ports, with_port), drop()]),
    ];
    let mut table =
        Table::new(of, NFT_POLICY_TABLE).chain("output", Chain::filter(Hook::Output, priority::FILTER).rules(rules));
    for set in RefusedSet::ALL {
        table = table.set(set.name(), set.declaration(family));
    }
    NftTable { table }.into()
}

#[test]
fn what_is_counted_is_read_and_is_none_of_the_table() {
    on_a_node(|mut node| {
        let mut reader = RefusedReader::open().unwrap();
        assert!(reader.read().unwrap().is_empty(), "there is no table");
        let objects = Family::BOTH.map(table);
        node.make(&objects);
        assert!(reader.read().unwrap().is_empty());
        let mut expected = Refused::default();
        for ip in ["127.0.0.1", "::1"].map(addr) {
            let sender = UdpSocket::bind((ip, 0)).unwrap();
            for (port, packets) in [(7, 1), (53, 3), (8, 2), (9, 4)] {
                // What output drops the sender is told.
                (0..packets).for_each(|_| assert!(sender.send_to(b"x", (ip, port)).is_err()));
            }
            let packet = |ip: IpAddr, port| RefusedPacket { source: ip, destination: ip, protocol: 17, port };
            expected.named.extend([(packet(ip, Some(7)), 1), (packet(ip, Some(53)), 3), (packet(ip, None), 2)]);
            expected.unnamed += 4;
        }
        assert_eq!(reader.read().unwrap(), expected);
        node.assert_there(&objects);
        let all = node.observer.host(&model(&objects)).unwrap();
        assert_eq!(all.keys().cloned().collect::<Vec<_>>(), objects.iter().map(Object::key).collect::<Vec<_>>());
        // Written again as it is, the table is another one, and has counted nothing.
        node.remove(&objects);
        node.make(&objects);
        assert!(reader.read().unwrap().is_empty());
    });
}
