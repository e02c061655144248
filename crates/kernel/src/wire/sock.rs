//! Sockets: `SOCK_DIAG_BY_FAMILY` and `SOCK_DESTROY` (linux/sock_diag.h, linux/inet_diag.h) for one of TCP or UDP.

use std::net::SocketAddr;

use ripstop_types::Family;

use crate::netlink::uapi::{SOCK_DESTROY, SOCK_DIAG_BY_FAMILY, TCP_LISTEN, TCP_TIME_WAIT};
use crate::netlink::{Message, Reply, ip_bytes};

/// IANA's number.
const UDP: u8 = 17;

/// A socket's ends as its program sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ends {
    pub(crate) protocol: u8,
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
}

/// What the kernel calls a socket, so that no other one is meant.
pub(crate) type Cookie = [u8; 8];

/// Asks for a socket. Where none is connected so, the kernel may show one that listens ([`read`]).
pub(crate) fn get(ends: &Ends) -> Message {
    // Of UDP the kernel looks for it from the other side (net/ipv4/udp_diag.c, udp_dump_one).
    let ends = match ends.protocol {
        UDP => Ends { protocol: UDP, local: ends.remote, remote: ends.local },
        _ => *ends,
    };
    message(SOCK_DIAG_BY_FAMILY, &ends, &[0xff; 8])
}

/// The socket, if it is connected to the other end.
pub(crate) fn read(reply: Reply<'_>, ends: &Ends) -> Option<Cookie> {
    let (head, _) = reply.split::<MESSAGE>()?;
    let port = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    let (state, is_connected) = (head[1], port(4) == ends.local.port() && port(6) == ends.remote.port());
    let is_ending = ends.protocol != UDP && matches!(state, TCP_LISTEN | TCP_TIME_WAIT);
    let cookie: Cookie = head[44..52].try_into().ok()?;
    (is_connected && !is_ending).then_some(cookie)
}

/// Ends it: programs see `ECONNABORTED`, and of TCP the other end is told.
pub(crate) fn destroy(ends: &Ends, cookie: &Cookie) -> Message {
    message(SOCK_DESTROY, ends, cookie)
}

/// Bytes of `struct inet_diag_msg`: four, `struct inet_diag_sockid` with the cookie at its end, and five numbers.
const MESSAGE: usize = 72;

/// `struct inet_diag_req_v2`
fn message(kind: u16, ends: &Ends, cookie: &Cookie) -> Message {
    let mut body = [0; 56];
    body[0] = super::address_family(Family::of(ends.local.ip()));
    body[1] = ends.protocol;
    body[4..8].fill(0xff);
    body[8..10].copy_from_slice(&ends.local.port().to_be_bytes());
    body[10..12].copy_from_slice(&ends.remote.port().to_be_bytes());
    for (at, ip) in [(12, ends.local.ip()), (28, ends.remote.ip())] {
        let (bytes, len) = ip_bytes(ip);
        body[at..at + len].copy_from_slice(&bytes[..len]);
    }
    body[48..56].copy_from_slice(cookie);
    Message::new(kind, 0, &body)
}
