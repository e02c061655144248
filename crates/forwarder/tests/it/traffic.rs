//! Streams and datagrams arrive whole, by every combination of families.

use ripstop_forwarder::control::Reason;

use crate::support::{inner, nodes, stream_both_ways};

#[test]
fn streams_and_datagrams_arrive_whole_by_either_family() {
    let Some([one, two]) = nodes(1500) else { return };
    let _running = [one.start(), two.start()];
    for outer in [true, false] {
        // A set-up replaces another under way.
        for node in [&one, &two] {
            node.client().set(&node.setup(outer)).unwrap();
        }
        for v4 in [true, false] {
            stream_both_ways(&one, &two, v4, 20_000_000);
            let (from, to) = (one.udp(inner(1, v4), 0), two.udp(inner(2, v4), 0));
            for (number, length) in [0, 1, 64, 1_399, 1_400, 4_000].into_iter().enumerate() {
                let sent = vec![number as u8; length];
                from.send_to(&sent, to.local_addr().unwrap()).unwrap();
                let mut got = [0; 5_000];
                let (count, sender) = to.recv_from(&mut got).unwrap();
                assert_eq!((&got[..count], sender), (sent.as_slice(), from.local_addr().unwrap()));
            }
        }
    }
    for node in [&one, &two] {
        let stats = node.stats();
        let peer = stats.peers.values().next().unwrap();
        assert!(peer.sent > 20_000 && peer.received_bytes > 80_000_000, "{stats:?}");
        assert!(peer.dropped.is_empty(), "{stats:?}");
        for reason in [Reason::Malformed, Reason::Stranger, Reason::SendFailed, Reason::DeviceFailed] {
            assert_eq!(stats.dropped.get(&reason), None, "{stats:?}");
        }
    }
}
