//! Where routes lead: nexthop objects, and groups of them.

use std::net::IpAddr;

use ripstop_types::IfName;
use serde::{Deserialize, Serialize};

use crate::key::Key;
use crate::resource::Resource;

/// A nexthop object (`RTM_NEWNEXTHOP`, linux/nexthop.h).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nexthop {
    /// Its id, in the range of ours.
    pub id: u32,
    /// Outgoing link.
    pub link: IfName,
    /// The gateway.
    pub gateway: IpAddr,
    /// The gateway is reachable on the link whatever the addresses say (`RTNH_F_ONLINK`).
    pub onlink: bool,
}

/// A group of nexthop objects: each connection goes by one of them, as its addresses and ports have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NexthopGroup {
    /// Its id, in the range of those.
    pub id: u32,
    /// Ids of the members, in order, each once.
    pub members: Vec<u32>,
}

impl Resource for Nexthop {
    fn key(&self) -> Key {
        Key::Nexthop { id: self.id }
    }

    fn satisfied_by(&self, observed: &Self) -> bool {
        self == observed
    }

    /// The kernel replaces a nexthop in place, also across links, but not across families.
    fn can_update(&self, observed: &Self) -> bool {
        self.gateway.is_ipv4() == observed.gateway.is_ipv4()
    }
}

impl Resource for NexthopGroup {
    fn key(&self) -> Key {
        Key::NexthopGroup { id: self.id }
    }

    fn satisfied_by(&self, observed: &Self) -> bool {
        self == observed
    }
}
