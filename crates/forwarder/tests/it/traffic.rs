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

/// Small datagrams that come close together leave many at a time, in order, and a single one at once.
#[test]
fn datagrams_that_come_close_together_leave_as_one_packet() {
    let Some([one, two]) = nodes(1500) else { return };
    let _running = [one.forward(true), two.forward(true)];
    let (from, to) = (one.udp(inner(1, true), 0), two.udp(inner(2, true), 0));
    from.connect(to.local_addr().unwrap()).unwrap();
    // Until it is joined for the next device a packet counts once.
    let left = || -> u64 {
        let link: serde_json::Value = serde_json::from_str(&one.space.run("ip -j -s link show eth0")).unwrap();
        link[0]["stats64"]["tx"]["packets"].as_u64().unwrap()
    };
    let (bursts, each) = (200u32, 100u32);
    let before = left();
    for burst in 0..bursts {
        for number in 0..each {
            from.send(&(burst * each + number).to_be_bytes()).unwrap();
        }
        for number in 0..each {
            let mut got = [0; 8];
            assert_eq!(to.recv(&mut got).unwrap(), 4);
            assert_eq!(got[..4], (burst * each + number).to_be_bytes());
        }
    }
    let packets = left() - before;
    assert!(packets < u64::from(bursts * each) / 8, "{packets} packets for {} datagrams", bursts * each);
    println!("{packets} packets for {} datagrams", bursts * each);
}
