//! What is on the wire, and what its limits do to the packets inside.

use std::net::UdpSocket;
use std::time::Duration;

use ripstop_forwarder::control::Reason;

use crate::support::{Node, inner, nodes, stream_both_ways};

/// Sets a socket's option that is a number.
fn set(socket: &UdpSocket, level: libc::c_int, option: libc::c_int, value: libc::c_int) {
    use std::os::fd::AsRawFd;
    let length = size_of_val(&value) as libc::socklen_t;
    // SAFETY: pointer and length are those of `value`.
    let code = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), length) };
    assert_eq!(code, 0, "{}", std::io::Error::last_os_error());
}

/// A peer that is a plain socket: what the node sends, as it is on the wire.
fn listen(node: &Node) -> UdpSocket {
    node.udp([172, 30, 0, node.number].into(), 8285)
}

fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[test]
fn a_datagram_is_one_inner_packet_complete_with_its_checksum() {
    let Some([one, two]) = nodes(1500) else { return };
    let _running = one.forward(true);
    let wire = listen(&two);
    let from = one.udp(inner(1, true), 9001);
    from.send_to(b"hello", "10.244.2.1:9000").unwrap();
    let mut frame = [0; 2_000];
    let (length, sender) = wire.recv_from(&mut frame).unwrap();
    assert_eq!(sender, "172.30.0.1:8285".parse().unwrap());
    let frame = &frame[..length];
    assert_eq!((length, frame[0], frame[9], &frame[28..]), (33, 0x45, 17, b"hello".as_slice()));
    assert_eq!(checksum(&frame[..20]), 0xffff);
    let mut pseudo = frame[12..20].to_vec();
    pseudo.extend_from_slice(&[0, 17, 0, 13]);
    pseudo.extend_from_slice(&frame[20..]);
    assert_eq!(checksum(&pseudo), 0xffff, "the kernel had left it to the device");
}

#[test]
fn congestion_marks_cross_the_tunnel() {
    let Some([one, two]) = nodes(1500) else { return };
    let _running = one.forward(true);
    let wire = listen(&two);
    set(&wire, libc::IPPROTO_IP, libc::IP_RECVTOS, 1);
    let from = one.udp(inner(1, true), 9001);
    for tos in [0x00, 0x02, 0xb9] {
        set(&from, libc::IPPROTO_IP, libc::IP_TOS, tos);
        from.send_to(b"x", "10.244.2.1:9000").unwrap();
        let (frame, outer) = with_tos(&wire);
        assert_eq!((i32::from(frame[1]), i32::from(outer)), (tos, tos & 3), "the bits are copied, and nothing else");
    }
    // Marked on the way: the mark reaches the packet that can carry it; the other is dropped.
    let inside = one.udp(inner(1, true), 9001 + 1);
    set(&inside, libc::IPPROTO_IP, libc::IP_RECVTOS, 1);
    set(&wire, libc::IPPROTO_IP, libc::IP_TOS, 3);
    for ecn in [2, 0] {
        wire.send_to(&datagram(ecn), "172.30.0.1:8285").unwrap();
    }
    let (_, tos) = with_tos(&inside);
    assert_eq!(tos & 3, 3);
    inside.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(inside.recv(&mut [0; 9]).is_err());
    assert_eq!(one.dropped(Reason::Congestion), 1);
}

/// UDP from node 2 to port 9002 of node 1, without a checksum.
fn datagram(tos: u8) -> Vec<u8> {
    let mut bytes = vec![0x45, tos, 0, 29, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 244, 2, 1, 10, 244, 1, 1];
    let header = !checksum(&bytes);
    bytes[10..12].copy_from_slice(&header.to_be_bytes());
    bytes.extend_from_slice(&[0x23, 0x29, 0x23, 0x2a, 0, 9, 0, 0, b'x']);
    bytes
}

/// Receives a datagram and the type of service it came with.
fn with_tos(socket: &UdpSocket) -> (Vec<u8>, u8) {
    use std::os::fd::AsRawFd;
    let (mut bytes, mut control) = (vec![0u8; 2_000], [0u64; 8]);
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: a msghdr of zeros is one; its pointers are to what lives until the call returns; a control message of this
    // kind has one byte.
    unsafe {
        let mut header: libc::msghdr = std::mem::zeroed();
        (header.msg_iov, header.msg_iovlen) = (&raw mut part, 1);
        (header.msg_control, header.msg_controllen) = (control.as_mut_ptr().cast(), size_of_val(&control) as _);
        let length = libc::recvmsg(socket.as_raw_fd(), &raw mut header, 0);
        assert!(length >= 0, "{}", std::io::Error::last_os_error());
        bytes.truncate(length as usize);
        let first = libc::CMSG_FIRSTHDR(&raw const header);
        assert!(!first.is_null());
        (bytes, *libc::CMSG_DATA(first))
    }
}

#[test]
fn a_way_that_carries_less_is_told_to_the_senders() {
    let Some([one, two]) = nodes(1500) else { return };
    let _running = [one.forward(true), two.forward(true)];
    // The device says 1452, the way to the peer carries 1300 - 28; the other node's way back carries all.
    one.space.ip("route add 172.30.0.2/32 dev eth0 mtu lock 1300");
    stream_both_ways(&one, &two, true, 3_000_000);
    stream_both_ways(&one, &two, false, 3_000_000);
    assert!(one.dropped(Reason::TooBig) > 0, "segments were too long once");
    let routes = one.space.run("ip route get 10.244.2.1");
    assert!(routes.contains("mtu 1272"), "the sender knows it: {routes}");
    // What may be fragmented is, outside.
    let (from, to) = (one.udp(inner(1, true), 0), two.udp(inner(2, true), 0));
    set(&from, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT);
    from.send_to(&[1; 1_400], to.local_addr().unwrap()).unwrap();
    assert_eq!(to.recv(&mut [0; 2_000]).unwrap(), 1_400);
}
