//! What a session with a peer is configured as.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use ripstop_types::{IfName, Prefix};

use crate::wire::Families;

/// Which AS the peer may say it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerAs {
    /// This one.
    Is(u32),
    /// Any but the own one.
    External,
    /// The own one.
    Internal,
}

impl PeerAs {
    /// Whether a peer of this AS is accepted by who is of AS `local`.
    #[must_use]
    pub fn accepts(self, found: u32, local: u32) -> bool {
        match self {
            Self::Is(wanted) => found == wanted,
            Self::External => found != local,
            Self::Internal => found == local,
        }
    }
}

/// A TCP-MD5 key (RFC 2385), which is shown to nobody.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(pub String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// What the socket of a connection must have. This crate only hands it on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SocketOptions {
    /// The address to speak from.
    pub source: Option<IpAddr>,
    /// The interface of a link-local peer, and of one whose address is not known.
    pub interface: Option<IfName>,
    /// Hops between the speakers; with it packets that came further are refused (GTSM, RFC 5082).
    pub security_hops: Option<u8>,
    /// Hops that packets may take to an external peer that is no neighbour.
    pub multihop: Option<u8>,
    /// The password of both ends.
    pub password: Option<Password>,
}

/// One peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where it is; `::` while that is not known, and then nobody is connected to.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// As what AS this speaker comes to it.
    pub local_as: u32,
    /// Which AS it must be.
    pub peer_as: PeerAs,
    /// This speaker's router id.
    pub router_id: Ipv4Addr,
    /// Seconds without a message after which the session is dead, as offered; 0 for never.
    pub hold_time: u16,
    /// Milliseconds between tries to connect.
    pub connect_retry: u64,
    /// This end waits for the peer to connect.
    pub passive: bool,
    /// Families that are offered.
    pub families: Families,
    /// Families of which several paths are taken.
    pub add_path_in: Families,
    /// Families of which several paths are sent.
    pub add_path_out: Families,
    /// IPv4 routes with IPv6 next hops are offered.
    pub extended_next_hop: bool,
    /// Longer messages are offered.
    pub extended_messages: bool,
    /// Seconds within which this speaker is back after it was away; `None` without graceful restart.
    pub graceful_restart: Option<u16>,
    /// Paths with sets of ASes are taken.
    pub as_sets: bool,
    /// What its socket must have.
    pub socket: SocketOptions,
}

impl Config {
    /// A peer at an address with customary values.
    #[must_use]
    pub fn new(address: IpAddr, local_as: u32, peer_as: PeerAs, router_id: Ipv4Addr) -> Self {
        Self {
            address,
            port: 179,
            local_as,
            peer_as,
            router_id,
            hold_time: 90,
            connect_retry: 5_000,
            passive: false,
            families: Families::BOTH,
            add_path_in: Families::default(),
            add_path_out: Families::default(),
            extended_next_hop: true,
            extended_messages: true,
            graceful_restart: Some(120),
            as_sets: false,
            socket: SocketOptions::default(),
        }
    }

    /// Whether a session of `self` must end to become one of `new`: what the peer was told or the socket was made with differs.
    #[must_use]
    pub fn needs_reset(&self, new: &Self) -> bool {
        // How connections come about matters to the next one only.
        let told = |config: &Self| Self { connect_retry: 0, passive: false, ..config.clone() };
        told(self) != told(new)
    }
}

/// Peers that are not named: whoever connects from a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenRange {
    /// Where they may be.
    pub range: Prefix,
    /// What they are, but for the address.
    pub template: Config,
    /// As many at once.
    pub limit: usize,
}

/// The peer that connects from `address`, of which `known(range)` sessions exist already: of the longest range that has
/// room, whose place among `ranges` comes along.
///
/// # Errors
/// Why nobody may connect from there.
pub fn dynamic_peer(
    ranges: &[ListenRange],
    address: IpAddr,
    known: impl Fn(&ListenRange) -> usize,
) -> Result<(usize, Config), String> {
    let mut fitting: Vec<(usize, &ListenRange)> =
        ranges.iter().enumerate().filter(|(_, one)| one.range.contains(address)).collect();
    fitting.sort_by_key(|(_, one)| (std::cmp::Reverse(one.range.len()), one.range));
    let Some((_, longest)) = fitting.first() else {
        return Err(format!("{address} is no peer and in no range from which peers may connect"));
    };
    match fitting.iter().find(|(_, one)| known(one) < one.limit) {
        Some((place, one)) => Ok((*place, Config { address, passive: true, ..one.template.clone() })),
        None => Err(format!("{} peers are connected from {}, as many as may be", longest.limit, longest.range)),
    }
}
