//! Nexthop objects: `RTM_*NEXTHOP` (linux/nexthop.h).

use std::net::IpAddr;

use ripstop_netmodel::{Nexthop, NexthopGroup, Object, ROUTE_PROTOCOL, is_own_nexthop};
use ripstop_types::Family;

use super::{Names, address_family};
use crate::netlink::uapi::*;
use crate::netlink::{Message, Reply, read_ip};

const NHMSG: usize = 8;

/// A member in a group: its id, its weight less one, and room (`struct nexthop_grp`).
const MEMBER: usize = 8;

/// A nexthop object as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RawNexthop {
    pub(crate) id: u32,
    pub(crate) protocol: u8,
    pub(crate) index: Option<u32>,
    pub(crate) gateway: Option<IpAddr>,
    pub(crate) onlink: bool,
    /// Members, if it is a group, with what each weighs more than 1.
    pub(crate) members: Option<Vec<(u32, u8)>>,
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
            members: attrs.get(NHA_GROUP).map(members),
        })
    }

    pub(crate) fn is_ours(&self) -> bool {
        self.protocol == ROUTE_PROTOCOL && is_own_nexthop(self.id)
    }

    /// As the model has it, in the order of ids. A group that spreads in another way than ours is read as one without members,
    /// which is never wanted.
    pub(crate) fn to_object(&self, names: &Names) -> Option<Object> {
        if let Some(found) = &self.members {
            let even = found.iter().all(|(_, more)| *more == 0);
            let members = if even { found.iter().map(|(id, _)| *id).collect() } else { Vec::new() };
            return Some(NexthopGroup { id: self.id, members }.into());
        }
        let link = names.get(&self.index?)?.clone();
        Some(Nexthop { id: self.id, link, gateway: self.gateway?, onlink: self.onlink }.into())
    }
}

fn members(bytes: &[u8]) -> Vec<(u32, u8)> {
    let mut all: Vec<(u32, u8)> = bytes
        .as_chunks::<MEMBER>()
        .0
        .iter()
        .map(|[a, b, c, d, more, ..]| (u32::from_ne_bytes([*a, *b, *c, *d]), *more))
        .collect();
    all.sort_unstable();
    all
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

/// Makes a group, or has it have these members.
pub(crate) fn create_group(group: &NexthopGroup, flags: u16) -> Message {
    let mut members = Vec::with_capacity(group.members.len() * MEMBER);
    for id in &group.members {
        members.extend(id.to_ne_bytes());
        // All weigh the same.
        members.extend([0; 4]);
    }
    Message::new(RTM_NEWNEXTHOP, NLM_F_CREATE | flags, &header(0, ROUTE_PROTOCOL, 0))
        .u32(NHA_ID, group.id)
        .bytes(NHA_GROUP, &members)
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
