//! What a session is made of.

use std::net::IpAddr;
use std::time::Duration;

/// Which packets are a session's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Path {
    /// To a neighbour on a link (RFC 5881): by interface and its address.
    SingleHop {
        /// Index of the interface.
        interface: u32,
        /// The neighbour.
        peer: IpAddr,
    },
    /// To a system some hops away (RFC 5883): by both addresses.
    Multihop {
        /// This system's address.
        local: IpAddr,
        /// The peer's.
        peer: IpAddr,
    },
}

impl Path {
    /// The peer's address.
    #[must_use]
    pub fn peer(&self) -> IpAddr {
        match self {
            Self::SingleHop { peer, .. } | Self::Multihop { peer, .. } => *peer,
        }
    }
}

/// How fast a session is. Both sides' wishes decide together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timers {
    /// The interval at which this system would like to send while the session is up.
    pub desired_min_tx: Duration,
    /// The interval at which it can receive.
    pub required_min_rx: Duration,
    /// How many of this system's intervals the peer lets pass without a packet.
    pub multiplier: u8,
}

impl Timers {
    /// Shortest interval.
    pub const LEAST: Duration = Duration::from_millis(10);
    /// Longest interval.
    pub const MOST: Duration = Duration::from_secs(60);

    /// The same interval both ways.
    #[must_use]
    pub fn every(interval: Duration, multiplier: u8) -> Self {
        Self { desired_min_tx: interval, required_min_rx: interval, multiplier }
    }

    /// Whether a session can have them.
    ///
    /// # Errors
    /// The first field that is out of bounds.
    pub fn check(&self, path: &Path) -> Result<(), ConfigFault> {
        for (field, interval) in [("desiredMinTx", self.desired_min_tx), ("requiredMinRx", self.required_min_rx)] {
            if !(Self::LEAST..=Self::MOST).contains(&interval) {
                let found = format!("{interval:?}");
                return Err(ConfigFault::Field { peer: path.peer(), field, found, accepted: "10 ms to 60 s" });
            }
        }
        if self.multiplier == 0 {
            let found = "0".to_owned();
            return Err(ConfigFault::Field { peer: path.peer(), field: "multiplier", found, accepted: "1 to 255" });
        }
        Ok(())
    }
}

/// One session to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionConfig {
    /// Which packets are its own.
    pub path: Path,
    /// The source address of what it sends.
    pub local: IpAddr,
    /// How fast.
    pub timers: Timers,
    /// Send nothing before the peer was heard.
    pub passive: bool,
    /// The least TTL of a multihop packet that is heeded. A single-hop packet must have 255.
    pub min_ttl: u8,
}

impl SessionConfig {
    /// With a neighbour on a link.
    #[must_use]
    pub fn single_hop(interface: u32, local: IpAddr, peer: IpAddr, timers: Timers) -> Self {
        Self { path: Path::SingleHop { interface, peer }, local, timers, passive: false, min_ttl: crate::TTL }
    }

    /// With a system some hops away, from which packets come with this TTL at least.
    #[must_use]
    pub fn multihop(local: IpAddr, peer: IpAddr, timers: Timers, min_ttl: u8) -> Self {
        Self { path: Path::Multihop { local, peer }, local, timers, passive: false, min_ttl }
    }

    /// Whether a session can be made of it.
    ///
    /// # Errors
    /// The first fault.
    pub fn check(&self) -> Result<(), ConfigFault> {
        let peer = self.path.peer();
        if self.local.is_ipv4() != peer.is_ipv4() {
            return Err(ConfigFault::Families { peer, local: self.local });
        }
        if peer.is_unspecified() || peer.is_multicast() {
            let (field, accepted) = ("peer", "a unicast address");
            return Err(ConfigFault::Field { peer, field, found: peer.to_string(), accepted });
        }
        match self.path {
            Path::SingleHop { interface: 0, .. } => {
                let (field, found, accepted) = ("interface", "0".to_owned(), "the index of an interface");
                return Err(ConfigFault::Field { peer, field, found, accepted });
            }
            Path::Multihop { local, .. } if local != self.local => {
                let (field, accepted) = ("local", "the address of the path");
                return Err(ConfigFault::Field { peer, field, found: self.local.to_string(), accepted });
            }
            _ => {}
        }
        self.timers.check(&self.path)
    }
}

/// Why there can be no such session.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigFault {
    /// A field is out of bounds.
    #[error("BFD session with {peer}: {field} is {found}: accepted is {accepted}")]
    Field {
        /// The session.
        peer: IpAddr,
        /// The field.
        field: &'static str,
        /// What it says.
        found: String,
        /// What it may say.
        accepted: &'static str,
    },
    /// An IPv4 and an IPv6 address.
    #[error("BFD session with {peer}: local is {local}: accepted is an address of the same family")]
    Families {
        /// The session.
        peer: IpAddr,
        /// The other address.
        local: IpAddr,
    },
    /// There is one already.
    #[error("BFD session with {peer}: there is one on this path already")]
    Exists {
        /// The session.
        peer: IpAddr,
    },
    /// There is none of this discriminator.
    #[error("BFD session {id}: there is none")]
    None {
        /// The discriminator.
        id: u32,
    },
}
