//! Nexthop objects: `RTM_*NEXTHOP` (linux/nexthop.h).

use std::net::IpAddr;

use ripstop_netmodel::{NEXTHOP_IDS, Nexthop, ROUTE_PROTOCOL};
use ripstop_types::Family;

use super::{Names, address_family};
use crate::netlink::uapi::*;
use crate::netlink::{Message, Reply, read_ip};

const NHMSG: usize = 8;

/// A nexthop object as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RawNexthop {
    pub(crate) id: u32,
    pub(crate) protocol: u8,
    pub(crate) index: Option<u32>,
    pub(crate) gateway: Option<IpAddr>,
    pub(crate) onlink: bool,
}

impl RawNexthop {
    pub(crate) fn read(reply: Reply<'_>) -> Option<Self> {
        let (header, attrs) = reply.split::<NHMSG>()?;
        Some(Self {
            id: attrs.u32(NHA_ID)?,
            protocol: header[2],
            index: attrs.u32(NHA_OIF),
            gateway: attrs.get(NHA_GATEWAY).and_then(read_ip),
            onlink: u32::from_ne_bytes(*header[4..].first_chunk()?) & RTNH_F_ONLINK != 0,
        })
    }

    pub(crate) fn is_ours(&self) -> bool {
        self.protocol == ROUTE_PROTOCOL && NEXTHOP_IDS.contains(&self.id)
    }

    pub(crate) fn to_nexthop(&self, names: &Names) -> Option<Nexthop> {
        let link = names.get(&self.index?)?.clone();
        Some(Nexthop { id: self.id, link, gateway: self.gateway?, onlink: self.onlink })
    }
}

fn header(family: u8, protocol: u8, flags: u32) -> [u8; NHMSG] {
    let mut header = [0; NHMSG];
    header[0] = family;
    header[2] = protocol;
    header[4..8].copy_from_slice(&flags.to_ne_bytes());
    header
}

/// Makes it; `flags` say what happens where the id is taken (`NLM_F_EXCL` or `NLM_F_REPLACE`).
pub(crate) fn create(nexthop: &Nexthop, index: u32, flags: u16) -> Message {
    let onlink = if nexthop.onlink { RTNH_F_ONLINK } else { 0 };
    let family = address_family(Family::of(nexthop.gateway));
    Message::new(RTM_NEWNEXTHOP, NLM_F_CREATE | flags, &header(family, ROUTE_PROTOCOL, onlink))
        .u32(NHA_ID, nexthop.id)
        .u32(NHA_OIF, index)
        .ip(NHA_GATEWAY, nexthop.gateway)
}

pub(crate) fn delete(id: u32) -> Message {
    Message::new(RTM_DELNEXTHOP, 0, &header(0, 0, 0)).u32(NHA_ID, id)
}

pub(crate) fn get(id: u32) -> Message {
    Message::new(RTM_GETNEXTHOP, 0, &header(0, 0, 0)).u32(NHA_ID, id)
}

pub(crate) fn dump() -> Message {
    Message::new(RTM_GETNEXTHOP, 0, &header(0, 0, 0))
}
