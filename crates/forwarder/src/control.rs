//! The control protocol: what is said on a forwarder's unix socket. Values only, no IO.
//!
//! Each message is one line of JSON. The agent sends a [`Request`] and gets one [`Answer`]; a connection may be used for
//! many. A [`Setup`] is complete and replaces the one before.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ripstop_types::{Family, IfName, Prefix};
use serde::{Deserialize, Serialize};

/// Flannel's port of the udp backend.
pub const PORT: u16 = 8285;

/// The longest line that either side takes, in bytes: some 50,000 peers.
pub const MOST_LINE: usize = 16 << 20;

/// All a forwarder has to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Setup {
    /// The TUN device: persistent, with several queues. It must be there when the set-up is given.
    pub device: IfName,
    /// Where datagrams are taken, and what they are sent from: at most one address of each family.
    pub listen: Vec<SocketAddr>,
    /// The other nodes.
    pub peers: Vec<Peer>,
}

/// One other node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Peer {
    /// Its name, for counters and faults; no two peers have one.
    pub name: String,
    /// Where its datagrams go.
    pub to: SocketAddr,
    /// Further addresses that its datagrams may come from: an address it is about to take, or has left.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also_from: Vec<IpAddr>,
    /// The inner addresses behind it. Of overlapping ranges the longest prefix counts, in both directions.
    pub ranges: Vec<Prefix>,
}

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Request {
    /// Forward by this from now on. Answered when every thread does; a set-up that is refused changes nothing.
    Set(Setup),
    /// Forward nothing, let go of device and addresses, and forget the set-up.
    Clear,
    /// The set-up in force.
    Get,
    /// Counters.
    Stats,
    /// Send the descriptor that holds the device's carrier.
    Hold,
    /// Send descriptors and set-up: the client is a forwarder that takes over.
    HandOver,
    /// Stop forwarding: the client has everything it needs.
    Stop,
    /// End: the client forwards.
    Done,
}

/// What a forwarder answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// Done. Behind [`Request::Hold`] a descriptor comes with it.
    Ok,
    /// Not done, and why.
    Refused(String),
    /// The set-up in force; none before the first.
    Setup(Option<Setup>),
    /// Counters since the first of the forwarders that took over from each other began.
    Stats(Stats),
    /// What descriptors come with this line, in this order: the queues, the one that holds the carrier, then for each
    /// address of `listen` one socket a queue. Nothing comes where there is no set-up yet.
    HandOver {
        /// The set-up in force.
        setup: Option<Setup>,
        /// Queues of the device.
        queues: usize,
    },
}

/// Counters.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stats {
    /// What came of each peer, by name.
    pub peers: BTreeMap<String, PeerStats>,
    /// Packets dropped without a peer to charge, by reason. Reasons that never came up are absent.
    pub dropped: BTreeMap<Reason, u64>,
}

/// Counters of one peer: inner packets, their bytes, what was dropped.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerStats {
    /// Packets sent to it.
    pub sent: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Packets received from it and given to the device.
    pub received: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Packets dropped, by reason.
    pub dropped: BTreeMap<Reason, u64>,
}

/// Why a packet was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reason {
    /// To an address behind no peer.
    NoRoute,
    /// No IP packet, or its lengths contradict each other.
    Malformed,
    /// A datagram from an address that is no peer's.
    Stranger,
    /// From a peer, but the inner source address is not behind it.
    WrongSource,
    /// Longer than the way to the peer carries, and not to be fragmented: its sender was told.
    TooBig,
    /// The network marked congestion on a packet that cannot carry the mark (RFC 6040).
    Congestion,
    /// The kernel did not take the datagram: no route, a filter, no buffer.
    SendFailed,
    /// The device did not take the packet: it is down or gone.
    DeviceFailed,
}

impl Reason {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::NoRoute,
        Self::Malformed,
        Self::Stranger,
        Self::WrongSource,
        Self::TooBig,
        Self::Congestion,
        Self::SendFailed,
        Self::DeviceFailed,
    ];
}

/// What is wrong with a set-up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetupFault {
    /// Two addresses of one family.
    #[error("listen: {first} and {second} are both {family}; one address of each family is accepted")]
    TwoOfAFamily {
        /// The first.
        first: SocketAddr,
        /// The second.
        second: SocketAddr,
        /// Of which both are.
        family: Family,
    },
    /// A peer is listed twice.
    #[error("peers: {0} is listed twice")]
    TwicePeer(String),
    /// Nothing listens where the peer would answer.
    #[error("peers: {peer}: to: {to}: this node listens on no {family} address, so it cannot send there")]
    NoSocket {
        /// The peer.
        peer: String,
        /// Its address.
        to: SocketAddr,
        /// Of which it is.
        family: Family,
    },
    /// No address of a host, or no port.
    #[error("peers: {peer}: to: {to}: not the address of one host with a port from 1 to 65535")]
    NotAHost {
        /// The peer.
        peer: String,
        /// What was found.
        to: SocketAddr,
    },
    /// A prefix of two peers.
    #[error("peers: {prefix} is behind {first} and behind {second}")]
    TwoOwners {
        /// The prefix.
        prefix: Prefix,
        /// A peer.
        first: String,
        /// Another.
        second: String,
    },
}

impl Setup {
    /// Looks for contradictions.
    ///
    /// # Errors
    /// The first that is found.
    pub fn check(&self) -> Result<(), SetupFault> {
        let mut families: BTreeMap<Family, SocketAddr> = BTreeMap::new();
        for address in &self.listen {
            let family = Family::of(address.ip());
            if let Some(first) = families.insert(family, *address) {
                return Err(SetupFault::TwoOfAFamily { first, second: *address, family });
            }
        }
        let (mut names, mut owners) = (BTreeSet::new(), BTreeMap::new());
        for peer in &self.peers {
            if !names.insert(&peer.name) {
                return Err(SetupFault::TwicePeer(peer.name.clone()));
            }
            let (to, family) = (peer.to, Family::of(peer.to.ip()));
            let ip = to.ip();
            if to.port() == 0 || ip.is_unspecified() || ip.is_multicast() {
                return Err(SetupFault::NotAHost { peer: peer.name.clone(), to });
            }
            if !families.contains_key(&family) {
                return Err(SetupFault::NoSocket { peer: peer.name.clone(), to, family });
            }
            for prefix in &peer.ranges {
                if let Some(first) = owners.insert(*prefix, &peer.name).filter(|first| *first != &peer.name) {
                    let (first, second) = (first.clone(), peer.name.clone());
                    return Err(SetupFault::TwoOwners { prefix: *prefix, first, second });
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup(listen: &[&str], peers: &[(&str, &str, &str)]) -> Setup {
        Setup {
            device: "ripudp0".parse().unwrap(),
            listen: listen.iter().map(|address| address.parse().unwrap()).collect(),
            peers: peers
                .iter()
                .map(|(name, to, range)| Peer {
                    name: (*name).into(),
                    to: to.parse().unwrap(),
                    also_from: Vec::new(),
                    ranges: vec![range.parse().unwrap()],
                })
                .collect(),
        }
    }

    #[test]
    fn contradictions_are_told() {
        let v4 = &["172.30.0.1:8285"];
        let fault =
            |listen: &[&str], peers: &[(&str, &str, &str)]| setup(listen, peers).check().unwrap_err().to_string();
        let (a, b) = (("a", "172.30.0.2:8285", "10.244.1.0/24"), ("b", "172.30.0.3:8285", "10.244.1.0/24"));
        assert_eq!(setup(v4, &[a]).check(), Ok(()));
        assert_eq!(fault(v4, &[a, b]), "peers: 10.244.1.0/24 is behind a and behind b");
        assert_eq!(fault(v4, &[a, a]), "peers: a is listed twice");
        assert!(
            fault(&["172.30.0.1:8285", "10.0.0.1:8285"], &[]).starts_with("listen: 172.30.0.1:8285 and 10.0.0.1:8285")
        );
        assert!(fault(v4, &[("a", "[fd00::2]:8285", "10.244.1.0/24")]).contains("listens on no IPv6 address"));
        assert!(fault(v4, &[("a", "172.30.0.2:0", "10.244.1.0/24")]).contains("port from 1 to 65535"));
    }

    #[test]
    fn the_lines_are_what_the_documentation_says() {
        let request = Request::Set(setup(&["172.30.0.1:8285"], &[("n2", "172.30.0.2:8285", "10.244.2.0/24")]));
        let line = r#"{"set":{"device":"ripudp0","listen":["172.30.0.1:8285"],"peers":[{"name":"n2","to":"172.30.0.2:8285","ranges":["10.244.2.0/24"]}]}}"#;
        assert_eq!(serde_json::to_string(&request).unwrap(), line);
        assert_eq!(serde_json::from_str::<Request>(line).unwrap(), request);
        assert_eq!(serde_json::to_string(&Request::Stats).unwrap(), r#""stats""#);
        let stats = Stats { dropped: BTreeMap::from([(Reason::NoRoute, 3)]), ..Stats::default() };
        assert_eq!(
            serde_json::to_string(&Answer::Stats(stats)).unwrap(),
            r#"{"stats":{"peers":{},"dropped":{"noRoute":3}}}"#
        );
        assert!(serde_json::from_str::<Request>(&line.replace("ranges", "range")).is_err());
    }
}
