//! Neighbours and forwarding entries: `RTM_*NEIGH` (linux/neighbour.h).

use std::net::IpAddr;

use ripstop_netmodel::{Fdb, Neighbour, Ns, ROUTE_PROTOCOL};
use ripstop_types::{Family, Mac};

use super::{AF_BRIDGE, Names, address_family};
use crate::netlink::uapi::*;
use crate::netlink::{Message, Reply, read_ip};

const NDMSG: usize = 12;

/// A neighbour or forwarding entry as the kernel shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RawNeighbour {
    pub(crate) family: u8,
    pub(crate) index: u32,
    pub(crate) state: u16,
    pub(crate) flags: u8,
    pub(crate) dst: Option<IpAddr>,
    pub(crate) mac: Option<Mac>,
    /// Who made it (`NDA_PROTOCOL`), of a neighbour.
    pub(crate) protocol: u8,
}

impl RawNeighbour {
    pub(crate) fn read(reply: Reply<'_>) -> Option<Self> {
        let (header, attrs) = reply.split::<NDMSG>()?;
        Some(Self {
            family: header[0],
            index: u32::from_ne_bytes(*header[4..].first_chunk()?),
            state: u16::from_ne_bytes(*header[8..].first_chunk()?),
            flags: header[10],
            dst: attrs.get(NDA_DST).and_then(read_ip),
            mac: attrs.get(NDA_LLADDR).and_then(|b| <[u8; 6]>::try_from(b).ok()).map(Mac),
            protocol: attrs.u8(NDA_PROTOCOL).unwrap_or(0),
        })
    }

    /// A permanent neighbour; `None` for what the kernel learned.
    pub(crate) fn to_neighbour(self, ns: &Ns, names: &Names) -> Option<Neighbour> {
        if self.state & NUD_PERMANENT == 0 || self.flags & NTF_PROXY != 0 || self.family == AF_BRIDGE {
            return None;
        }
        Some(Neighbour { ns: ns.clone(), link: names.get(&self.index)?.clone(), ip: self.dst?, mac: self.mac? })
    }

    /// A permanent entry of a VXLAN device itself; `None` for what a bridge above it holds.
    pub(crate) fn to_fdb(self, names: &Names) -> Option<Fdb> {
        if self.family != AF_BRIDGE || self.flags & NTF_SELF == 0 || self.state & NUD_PERMANENT == 0 {
            return None;
        }
        Some(Fdb { link: names.get(&self.index)?.clone(), mac: self.mac?, dst: self.dst? })
    }
}

fn header(family: u8, index: u32, state: u16, flags: u8) -> [u8; NDMSG] {
    let mut header = [0; NDMSG];
    header[0] = family;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..10].copy_from_slice(&state.to_ne_bytes());
    header[10] = flags;
    header
}

pub(crate) fn create(neighbour: &Neighbour, index: u32) -> Message {
    let family = address_family(Family::of(neighbour.ip));
    Message::new(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, &header(family, index, NUD_PERMANENT, 0))
        .ip(NDA_DST, neighbour.ip)
        .bytes(NDA_LLADDR, &neighbour.mac.0)
        .u8(NDA_PROTOCOL, ROUTE_PROTOCOL)
}

pub(crate) fn delete(ip: IpAddr, index: u32) -> Message {
    Message::new(RTM_DELNEIGH, 0, &header(address_family(Family::of(ip)), index, 0, 0)).ip(NDA_DST, ip)
}

pub(crate) fn create_fdb(fdb: &Fdb, index: u32) -> Message {
    let header = header(AF_BRIDGE, index, NUD_PERMANENT, NTF_SELF);
    Message::new(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, &header).bytes(NDA_LLADDR, &fdb.mac.0).ip(NDA_DST, fdb.dst)
}

pub(crate) fn delete_fdb(mac: Mac, index: u32) -> Message {
    Message::new(RTM_DELNEIGH, 0, &header(AF_BRIDGE, index, NUD_PERMANENT, NTF_SELF)).bytes(NDA_LLADDR, &mac.0)
}

/// Asks for the neighbours of both families, of one link or of all.
pub(crate) fn dump(index: Option<u32>) -> Message {
    let message = Message::new(RTM_GETNEIGH, 0, &header(0, 0, 0, 0));
    match index {
        Some(index) => message.u32(NDA_IFINDEX, index),
        None => message,
    }
}

/// Asks for the forwarding entries of one device.
pub(crate) fn dump_fdb(index: u32) -> Message {
    Message::new(RTM_GETNEIGH, 0, &header(AF_BRIDGE, index, 0, 0))
}

/// Asks for one neighbour.
pub(crate) fn get(ip: IpAddr, index: u32) -> Message {
    Message::new(RTM_GETNEIGH, 0, &header(address_family(Family::of(ip)), index, 0, 0)).ip(NDA_DST, ip)
}

/// Asks for one forwarding entry.
pub(crate) fn get_fdb(mac: Mac, index: u32) -> Message {
    Message::new(RTM_GETNEIGH, 0, &header(AF_BRIDGE, index, 0, NTF_SELF)).bytes(NDA_LLADDR, &mac.0)
}
