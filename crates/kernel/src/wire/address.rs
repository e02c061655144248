//! Addresses: `RTM_*ADDR` (linux/if_addr.h).

use std::net::IpAddr;

use ripstop_netmodel::{Address, Ns, ROUTE_PROTOCOL, Scope};
use ripstop_types::{Family, IfName};

use super::{Names, address_family};
use crate::netlink::uapi::*;
use crate::netlink::{Message, Reply, read_ip};

const IFADDR: usize = 8;

/// An address as the kernel shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RawAddress {
    pub(crate) index: u32,
    pub(crate) ip: IpAddr,
    pub(crate) len: u8,
    pub(crate) scope: u8,
    pub(crate) flags: u32,
    /// Who made it (`IFA_PROTO`, since Linux 5.18): 1 to 3 is the kernel itself.
    pub(crate) protocol: u8,
}

impl RawAddress {
    pub(crate) fn read(reply: Reply<'_>) -> Option<Self> {
        let (header, attrs) = reply.split::<IFADDR>()?;
        // Of a point-to-point address, LOCAL is ours and ADDRESS the far one.
        let ip = attrs.get(IFA_LOCAL).or_else(|| attrs.get(IFA_ADDRESS)).and_then(read_ip)?;
        Some(Self {
            index: u32::from_ne_bytes(*header[4..].first_chunk()?),
            ip,
            len: header[1],
            scope: header[3],
            flags: attrs.u32(IFA_FLAGS).unwrap_or(u32::from(header[2])),
            protocol: attrs.u8(IFA_PROTO).unwrap_or(0),
        })
    }

    /// Whether the kernel made it by itself: loopback's addresses, link-local ones, those of router advertisements.
    pub(crate) fn is_kernels(&self) -> bool {
        (IFAPROT_KERNEL_LO..=IFAPROT_KERNEL_LL).contains(&self.protocol)
    }

    pub(crate) fn to_address(self, ns: &Ns, names: &Names) -> Option<Address> {
        let scope = match self.scope {
            RT_SCOPE_LINK => Scope::Link,
            RT_SCOPE_HOST => Scope::Host,
            _ => Scope::Global,
        };
        Some(Address { ns: ns.clone(), link: names.get(&self.index)?.clone(), ip: self.ip, len: self.len, scope })
    }
}

pub(crate) fn scope_number(scope: Scope) -> u8 {
    match scope {
        Scope::Global => RT_SCOPE_UNIVERSE,
        Scope::Link => RT_SCOPE_LINK,
        Scope::Host => RT_SCOPE_HOST,
    }
}

fn header(address: &Address, index: u32) -> [u8; IFADDR] {
    let mut header = [0; IFADDR];
    header[0] = address_family(Family::of(address.ip));
    header[1] = address.len;
    header[3] = scope_number(address.scope);
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header
}

/// Duplicate detection off: it would keep an IPv6 address from use for a second, and who has which address is known.
pub(crate) fn create(address: &Address, index: u32) -> Message {
    Message::new(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &header(address, index))
        .ip(IFA_LOCAL, address.ip)
        .ip(IFA_ADDRESS, address.ip)
        .u32(IFA_FLAGS, if address.ip.is_ipv6() { IFA_F_NODAD } else { 0 })
        .u8(IFA_PROTO, ROUTE_PROTOCOL)
}

pub(crate) fn delete(address: &Address, index: u32) -> Message {
    Message::new(RTM_DELADDR, 0, &header(address, index)).ip(IFA_LOCAL, address.ip).ip(IFA_ADDRESS, address.ip)
}

/// Asks for the addresses of one link, or of all.
pub(crate) fn dump(index: Option<u32>) -> Message {
    let mut header = [0; IFADDR];
    header[4..8].copy_from_slice(&index.unwrap_or(0).to_ne_bytes());
    Message::new(RTM_GETADDR, 0, &header)
}

/// An address of a link whose other parts are not known, for its removal.
pub(crate) fn bare(ns: &Ns, link: &IfName, ip: IpAddr) -> Address {
    Address { ns: ns.clone(), link: link.clone(), ip, len: Family::of(ip).bits(), scope: Scope::Global }
}
