//! What is dropped, and is counted; what is refused, and says why.

use std::io::{BufRead, BufReader, Write};
use std::net::UdpSocket;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use ripstop_forwarder::ClientFault;
use ripstop_forwarder::control::Reason;

use crate::support::{Node, inner, nodes, stream_both_ways};

/// An IPv4 packet with a UDP datagram without a checksum, to port 9000 of node 1.
fn packet(source: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let total = (28 + payload.len()) as u16;
    let mut bytes = vec![0x45, 0, (total >> 8) as u8, total as u8, 0, 0, 0x40, 0, 64, 17, 0, 0];
    bytes.extend_from_slice(&source);
    bytes.extend_from_slice(&[10, 244, 1, 1]);
    let mut sum: u32 = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    bytes[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    let ports = [9001u16, 9000, total - 20, 0];
    bytes.extend(ports.into_iter().flat_map(u16::to_be_bytes));
    bytes.extend_from_slice(payload);
    bytes
}

fn eventually(node: &Node, reason: Reason, count: u64) {
    let begun = Instant::now();
    while node.dropped(reason) < count {
        assert!(begun.elapsed() < Duration::from_secs(5), "{reason:?}: {:?}", node.stats());
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(node.dropped(reason), count, "{reason:?}");
}

#[test]
fn strangers_borrowed_addresses_and_nonsense_are_dropped_and_counted() {
    let Some([one, two]) = nodes(1500) else { return };
    let _running = one.forward(true);
    two.space.ip("addr add 172.30.0.66/24 dev eth0");
    let peer = two.udp([172, 30, 0, 2].into(), 8285);
    let stranger = two.udp([172, 30, 0, 66].into(), 8285);
    let inside = one.udp(inner(1, true), 9000);
    inside.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let send = |socket: &UdpSocket, bytes: &[u8]| {
        socket.send_to(bytes, "172.30.0.1:8285").unwrap();
    };
    let good = packet([10, 244, 2, 1], b"good");
    send(&peer, &good);
    let mut got = [0; 64];
    assert_eq!(inside.recv(&mut got).unwrap(), 4, "from a peer, with an address of its own");
    send(&peer, &packet([172, 30, 0, 2], b"proxy"));
    assert_eq!(inside.recv(&mut got).unwrap(), 5, "from a peer's own node, which gave a client its address");

    send(&stranger, &good);
    eventually(&one, Reason::Stranger, 1);
    for source in [[10, 244, 1, 9], [10, 244, 3, 1], [172, 30, 0, 1], [127, 0, 0, 1]] {
        send(&peer, &packet(source, b"bad"));
    }
    eventually(&one, Reason::WrongSource, 4);
    let mut cut = good.clone();
    cut.truncate(27);
    for bytes in [&[][..], &[0x45], &[0x60; 39], &[0xff; 100], &cut, b"GET / HTTP/1.1\r\n"] {
        send(&peer, bytes);
    }
    eventually(&one, Reason::Malformed, 6);
    let seed = std::cell::Cell::new(7u64);
    let byte = || {
        seed.set(seed.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        (seed.get() >> 56) as u8
    };
    for length in 0..600 {
        let mut noise: Vec<u8> = (0..length).map(|_| byte()).collect();
        if let Some(first) = noise.first_mut() {
            *first = [0x45, 0x60, *first][length % 3];
        }
        send(&peer, &noise);
    }
    assert!(inside.recv(&mut got).is_err(), "nothing of that arrived");
    drop(peer);
    let _running_too = two.forward(true);
    stream_both_ways(&one, &two, true, 100_000);
}

#[test]
fn packets_to_nobody_are_dropped_and_counted() {
    let Some([one, _two]) = nodes(1500) else { return };
    let _running = one.forward(true);
    one.space.ip("route add 10.99.0.0/16 dev ripudp0 src 10.244.1.1");
    one.udp(inner(1, true), 0).send_to(b"?", "10.99.1.1:9").unwrap();
    eventually(&one, Reason::NoRoute, 1);
}

#[test]
fn a_setup_that_is_refused_changes_nothing() {
    let Some([one, two]) = nodes(1500) else { return };
    let _running = [one.forward(true), two.forward(true)];
    let refused = |change: &dyn Fn(&mut ripstop_forwarder::control::Setup)| {
        let mut setup = one.setup(true);
        change(&mut setup);
        match one.client().set(&setup) {
            Err(ClientFault::Refused(why)) => why,
            other => panic!("{other:?}"),
        }
    };
    let why = refused(&|setup| setup.device = "nowhere0".parse().unwrap());
    assert!(why.starts_with("device nowhere0: No such device"), "{why}");
    let why = refused(&|setup| setup.device = "eth0".parse().unwrap());
    assert!(why.starts_with("device eth0: "), "{why}");
    let why = refused(&|setup| setup.listen[0].set_ip([198, 51, 100, 1].into()));
    assert!(why.starts_with("listen: 198.51.100.1:8285: Cannot assign"), "{why}");
    let why = refused(&|setup| setup.peers.push(setup.peers[0].clone()));
    assert_eq!(why, "peers: n2 is listed twice");
    assert_eq!(one.client().get().unwrap(), Some(one.setup(true)));

    let mut raw = UnixStream::connect(one.socket()).unwrap();
    raw.write_all(b"{\"set\":{\"device\":\"x\"}}\nnonsense\n\"stop\"\n\"get\"\n").unwrap();
    let lines: Vec<String> = BufReader::new(raw).lines().take(4).map(Result::unwrap).collect();
    assert!(lines[..3].iter().all(|line| line.starts_with(r#"{"refused":"#)), "{lines:?}");
    assert!(lines[3].starts_with(r#"{"setup":{"device":"ripudp0""#), "{lines:?}");
    stream_both_ways(&one, &two, true, 100_000);
}
