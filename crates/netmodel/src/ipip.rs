//! What programs of ours go by that carry IPIP. They are pinned, and found again by their pins.

use std::net::Ipv4Addr;

use ripstop_types::{IfName, Mac};
use serde::{Deserialize, Serialize};

use crate::key::Key;
use crate::resource::Resource;

/// Programs of ours that carry IPIP where the kernel has no device for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpipProgram {
    /// The link of ours by which packets leave, to get an outer header, and by which they come without it.
    pub link: IfName,
    /// Its hardware address.
    pub mac: Mac,
    /// Outer source address, and the one to which packets are taken.
    pub local: Ipv4Addr,
    /// Links at which outer headers are taken away, in order.
    pub uplinks: Vec<IfName>,
}

/// An outer address of a peer that programs of IPIP know: they take packets from there, and send them there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpipPeer {
    /// The programs' link.
    pub link: IfName,
    /// The address.
    pub ip: Ipv4Addr,
    /// The link by which packets go there.
    pub uplink: IfName,
}

impl Resource for IpipProgram {
    fn key(&self) -> Key {
        Key::IpipProgram { link: self.link.clone() }
    }

    fn satisfied_by(&self, observed: &Self) -> bool {
        self == observed
    }
}

impl Resource for IpipPeer {
    fn key(&self) -> Key {
        Key::IpipPeer { link: self.link.clone(), ip: self.ip }
    }

    fn satisfied_by(&self, observed: &Self) -> bool {
        self == observed
    }
}
