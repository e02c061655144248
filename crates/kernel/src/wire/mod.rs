//! Objects as netlink messages, and messages as objects: both directions of one object stand in one file.
//!
//! Pure: no socket, no namespace. What is written for an object is read back as an object that satisfies it.

pub(crate) mod address;
pub(crate) mod flow;
pub(crate) mod ipvs;
pub(crate) mod jump;
pub(crate) mod link;
pub(crate) mod neighbour;
pub(crate) mod nexthop;
pub(crate) mod qdisc;
pub(crate) mod route;
pub(crate) mod sock;

use std::collections::BTreeMap;

use ripstop_types::{Family, IfName};

/// Names of links by index, in one namespace.
pub(crate) type Names = BTreeMap<u32, IfName>;

/// `AF_INET` or `AF_INET6`.
pub(crate) fn address_family(family: Family) -> u8 {
    match family {
        Family::V4 => AF_INET,
        Family::V6 => AF_INET6,
    }
}

pub(crate) const AF_INET: u8 = 2;
pub(crate) const AF_BRIDGE: u8 = 7;
pub(crate) const AF_INET6: u8 = 10;
