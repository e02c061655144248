//! Packets counted at elements of a bounded set.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, UdpSocket};

use ripstop_nft::decode::Message;
use ripstop_nft::encode::{Batch, dump_elements};
use ripstop_nft::model::build::*;
use ripstop_nft::model::*;

use crate::kernel::{Socket, in_namespace, run};

const KEY: [Type; 3] = [Type::Ipv4Addr, Type::InetProto, Type::InetService];

fn counts(socket: &mut Socket, set: &str, key: &[Type]) -> BTreeMap<Vec<Value>, u64> {
    let dump = socket.dump(|seq| dump_elements(seq, TableFamily::Ip, &"t".into(), &set.parse().unwrap()));
    let counts = dump.iter().filter_map(|message| match message {
        Message::Elements(info) => Some(info.counts(key)),
        _ => None,
    });
    counts.flatten().collect()
}

#[test]
fn a_full_set_counts_what_it_has_and_ends_the_rule_of_others() {
    in_namespace(|| {
        run("ip", &["link", "set", "lo", "up"]);
        let table = Table::new(TableFamily::Ip, "t")
            .set("named", Set::of(KEY).dynamic().default_timeout(60).size(2))
            .set("rest", Set::of([Type::InetProto]).dynamic().size(256))
            .chain(
                "output",
                Chain::filter(Hook::Output, priority::FILTER).rules([
                    Rule::new([
                        meta::l4proto().is(Proto::UDP),
                        count_in("named", (ip::daddr(), meta::l4proto(), th::dport())),
                        drop(),
                    ]),
                    Rule::new([count_in("rest", meta::l4proto()), drop()]),
                ]),
            );
        let mut socket = Socket::open();
        let mut batch = Batch::new();
        batch.add_table(&table).unwrap();
        socket.apply(batch).unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        // What output drops the sender is told.
        let send = |port: u16| assert!(sender.send_to(b"x", ("127.0.0.1", port)).is_err());
        let element = |port: u16| vec![Ipv4Addr::LOCALHOST.into(), Value::Proto(17), Value::Service(port)];
        for port in [7_001, 7_002, 7_001, 7_003, 7_004, 7_001, 7_003] {
            send(port);
        }
        let named = counts(&mut socket, "named", &KEY);
        assert_eq!(named, [(element(7_001), 3), (element(7_002), 1)].into());
        assert_eq!(counts(&mut socket, "rest", &[Type::InetProto]), [(vec![Value::Proto(17)], 3)].into());
        // The kernel's elements are none of the definition.
        let seen = socket.observe(TableFamily::Ip, &"t".into()).unwrap();
        assert!(seen.intact && seen.elements.is_empty() && seen.foreign_elements == 0, "{seen:?}");
    });
}
