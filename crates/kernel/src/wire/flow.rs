//! Tracked connections: `IPCTNL_MSG_CT_*` (linux/netfilter/nfnetlink_conntrack.h), those that were sent to one address and port.

use std::net::IpAddr;

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
