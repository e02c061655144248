//! The resources of IPVS (linux/ip_vs.h).
//!
//! A virtual server bears no mark. It is ours where its address is local by a route of ours ([`crate::RouteTarget::Local`]).

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::key::Key;
use crate::resource::Resource;

/// Where a virtual server takes packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VirtualServer {
    /// Its address.
    pub ip: IpAddr,
    /// Its protocol: TCP, UDP or SCTP, by IANA's number.
    pub protocol: u8,
    /// Its port.
    pub port: u16,
}

impl fmt::Display for VirtualServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = SocketAddr::new(self.ip, self.port);
        match self.protocol {
            6 => write!(f, "{at}/TCP"),
            17 => write!(f, "{at}/UDP"),
            132 => write!(f, "{at}/SCTP"),
            other => write!(f, "{at}/{other}"),
        }
    }
}

/// A virtual server (`IPVS_CMD_NEW_SERVICE`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpvsService {
    /// Where.
    pub server: VirtualServer,
    /// The kernel's name of what chooses a destination.
    pub scheduler: Arc<str>,
    /// Seconds for which a client keeps its destination after a connection; a client is one address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistence: Option<u32>,
}

/// Where a virtual server may send a connection (`IPVS_CMD_NEW_DEST`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpvsDestination {
    /// Whose destination.
    pub server: VirtualServer,
    /// The endpoint.
    pub to: SocketAddr,
    /// Of so many parts of the connections it gets one as large; 0: no new ones.
    pub weight: u32,
    /// Packets get there by translation (`IP_VS_CONN_F_MASQ`). Always so where it is wanted: nothing else changes the port.
    pub translated: bool,
}

impl Resource for IpvsService {
    fn key(&self) -> Key {
        Key::IpvsService { server: self.server }
    }

    fn satisfied_by(&self, observed: &Self) -> bool {
        self == observed
    }
}

impl Resource for IpvsDestination {
    fn key(&self) -> Key {
        Key::IpvsDestination { server: self.server, to: self.to }
    }

    fn satisfied_by(&self, observed: &Self) -> bool {
        self == observed
    }
}
