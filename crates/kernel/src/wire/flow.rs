//! Tracked connections: `IPCTNL_MSG_CT_*` (linux/netfilter/nfnetlink_conntrack.h).

use std::net::{IpAddr, SocketAddr};

use ripstop_netmodel::Connection;
use ripstop_types::Family;

use crate::netlink::uapi::*;
use crate::netlink::{Attrs, Message, Reply, read_ip};

/// An address with a port.
pub(crate) type End = (IpAddr, u16);

/// A connection, as far as its translation goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Flow {
    /// Its protocol (IANA).
    pub(crate) protocol: u8,
    /// Where its first packet was sent to.
    pub(crate) to: End,
    /// Where its answers come from.
    pub(crate) from: End,
    /// Whether there was an answer yet.
    pub(crate) is_answered: bool,
    /// The original direction as the kernel wrote it, by which it finds it again.
    tuple: Box<[u8]>,
    zone: Option<u16>,
    /// Another connection of the same ends has another.
    id: u32,
}

impl Flow {
    /// Reads a message; `None` where it is none of a connection with ports.
    pub(crate) fn read(reply: Reply<'_>) -> Option<Self> {
        let (_, attrs) = reply.split::<4>()?;
        let tuple = attrs.get(CTA_TUPLE_ORIG)?;
        let protocol = Attrs(tuple).nested(CTA_TUPLE_PROTO).u8(CTA_PROTO_NUM)?;
        Some(Self {
            protocol,
            to: end(Attrs(tuple), [CTA_IP_V4_DST, CTA_IP_V6_DST], CTA_PROTO_DST_PORT)?,
            from: end(attrs.nested(CTA_TUPLE_REPLY), [CTA_IP_V4_SRC, CTA_IP_V6_SRC], CTA_PROTO_SRC_PORT)?,
            is_answered: attrs.be32(CTA_STATUS).is_none_or(|status| status & IPS_SEEN_REPLY != 0),
            tuple: tuple.into(),
            zone: attrs.be16(CTA_ZONE),
            id: attrs.be32(CTA_ID)?,
        })
    }

    /// The request that removes it, if it is still this one.
    pub(crate) fn delete(&self) -> Message {
        let message = Message::new(kind(IPCTNL_MSG_CT_DELETE), 0, &header(self.to.0));
        let message = message.bytes(CTA_TUPLE_ORIG | NLA_F_NESTED, &self.tuple).be32(CTA_ID, self.id);
        match self.zone {
            Some(zone) => message.be16(CTA_ZONE, zone),
            None => message,
        }
    }
}

fn end(tuple: Attrs<'_>, addresses: [u16; 2], port: u16) -> Option<End> {
    let ip = tuple.nested(CTA_TUPLE_IP);
    let ip = addresses.into_iter().find_map(|kind| ip.get(kind)).and_then(read_ip)?;
    Some((ip, tuple.nested(CTA_TUPLE_PROTO).be16(port)?))
}

/// A connection with all its ends; `None` where it is none of TCP, UDP or SCTP.
pub(crate) fn read_connection(reply: Reply<'_>) -> Option<Connection> {
    let (_, attrs) = reply.split::<4>()?;
    let (original, answer) = (attrs.nested(CTA_TUPLE_ORIG), attrs.nested(CTA_TUPLE_REPLY));
    let protocol = original.nested(CTA_TUPLE_PROTO).u8(CTA_PROTO_NUM)?;
    let (source, destination) = ([CTA_IP_V4_SRC, CTA_IP_V6_SRC], [CTA_IP_V4_DST, CTA_IP_V6_DST]);
    let at = |tuple, addresses, port| end(tuple, addresses, port).map(SocketAddr::from);
    Some(Connection {
        protocol: Some(protocol).filter(|protocol| WITH_PORTS.contains(protocol))?,
        source: at(original, source, CTA_PROTO_SRC_PORT)?,
        sent_to: at(original, destination, CTA_PROTO_DST_PORT)?,
        destination: at(answer, source, CTA_PROTO_SRC_PORT)?,
        answers_to: at(answer, destination, CTA_PROTO_DST_PORT)?,
        zone: attrs.be16(CTA_ZONE),
        id: attrs.be32(CTA_ID)?,
        sender: None,
        receiver: None,
    })
}

/// TCP, UDP and SCTP (IANA).
pub(crate) const WITH_PORTS: [u8; 3] = [6, 17, 132];

/// Removes a connection, if it is still this one.
pub(crate) fn end_connection(connection: &Connection) -> Message {
    let (source, sent_to) = (connection.source, connection.sent_to);
    let addresses = if source.is_ipv4() { (CTA_IP_V4_SRC, CTA_IP_V4_DST) } else { (CTA_IP_V6_SRC, CTA_IP_V6_DST) };
    let message = Message::new(kind(IPCTNL_MSG_CT_DELETE), 0, &header(source.ip()));
    let message = message.nest(CTA_TUPLE_ORIG, |m| {
        m.nest(CTA_TUPLE_IP, |m| m.ip(addresses.0, source.ip()).ip(addresses.1, sent_to.ip())).nest(
            CTA_TUPLE_PROTO,
            |m| {
                let m = m.u8(CTA_PROTO_NUM, connection.protocol);
                m.be16(CTA_PROTO_SRC_PORT, source.port()).be16(CTA_PROTO_DST_PORT, sent_to.port())
            },
        )
    });
    let message = message.be32(CTA_ID, connection.id);
    match connection.zone {
        Some(zone) => message.be16(CTA_ZONE, zone),
        None => message,
    }
}

/// Asks for all connections of a family, or of both.
pub(crate) fn dump_family(family: Option<Family>) -> Message {
    Message::new(kind(IPCTNL_MSG_CT_GET), 0, &[family.map_or(0, super::address_family), 0, 0, 0])
}

/// Asks for the connections that an address began. The kernel looks at all and shows these (Linux 5.8).
pub(crate) fn dump_from(ip: IpAddr) -> Message {
    dump_by_source(ip, CTA_TUPLE_ORIG, [FILTER_IP_SRC, 0])
}

/// Asks for the connections that an address answers, in the same way.
pub(crate) fn dump_answering(ip: IpAddr) -> Message {
    dump_by_source(ip, CTA_TUPLE_REPLY, [0, FILTER_IP_SRC])
}

fn dump_by_source(ip: IpAddr, tuple: u16, [orig, reply]: [u32; 2]) -> Message {
    let address = if ip.is_ipv4() { CTA_IP_V4_SRC } else { CTA_IP_V6_SRC };
    Message::new(kind(IPCTNL_MSG_CT_GET), 0, &header(ip))
        .nest(tuple, |m| m.nest(CTA_TUPLE_IP, |m| m.ip(address, ip)))
        .nest(CTA_FILTER, |m| m.u32(CTA_FILTER_ORIG_FLAGS, orig).u32(CTA_FILTER_REPLY_FLAGS, reply))
}

/// Asks for the connections of a protocol that were sent to this end. The kernel looks at all and shows these (Linux 5.8).
pub(crate) fn dump_to(protocol: u8, to: End) -> Message {
    let flags = FILTER_IP_DST | FILTER_PROTO_NUM | FILTER_PROTO_DST_PORT;
    let (v4, v6) = (CTA_IP_V4_DST, CTA_IP_V6_DST);
    let address = if to.0.is_ipv4() { v4 } else { v6 };
    Message::new(kind(IPCTNL_MSG_CT_GET), 0, &header(to.0))
        .nest(CTA_TUPLE_ORIG, |m| {
            m.nest(CTA_TUPLE_IP, |m| m.ip(address, to.0))
                .nest(CTA_TUPLE_PROTO, |m| m.u8(CTA_PROTO_NUM, protocol).be16(CTA_PROTO_DST_PORT, to.1))
        })
        .nest(CTA_FILTER, |m| m.u32(CTA_FILTER_ORIG_FLAGS, flags).u32(CTA_FILTER_REPLY_FLAGS, 0))
}

/// Asks for all connections of a protocol, of the family of this address.
pub(crate) fn dump_all(protocol: u8, family: IpAddr) -> Message {
    Message::new(kind(IPCTNL_MSG_CT_GET), 0, &header(family))
        .nest(CTA_TUPLE_ORIG, |m| m.nest(CTA_TUPLE_PROTO, |m| m.u8(CTA_PROTO_NUM, protocol)))
        .nest(CTA_FILTER, |m| m.u32(CTA_FILTER_ORIG_FLAGS, FILTER_PROTO_NUM).u32(CTA_FILTER_REPLY_FLAGS, 0))
}

fn kind(message: u16) -> u16 {
    NFNL_SUBSYS_CTNETLINK << 8 | message
}

/// `struct nfgenmsg`
fn header(family: IpAddr) -> [u8; 4] {
    [super::address_family(Family::of(family)), 0, 0, 0]
}
