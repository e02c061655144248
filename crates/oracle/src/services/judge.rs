//! The answer for one packet.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;

use ripstop_objects::service::TrafficPolicy;
use ripstop_types::{Family, Millis};
use serde::Serialize;

use super::affinity::{Memory, PortName};
use super::endpoints::Endpoints;
use super::frontend::{self, Entry, Frontend};
use super::world::{Origin, Packet, State, World};

/// Which source address an endpoint sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The one that the packet had.
    Kept,
    /// One of this node.
    Node,
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It goes to one of these, with such a source.
    To(BTreeMap<SocketAddr, Source>),
    /// It is answered with ICMP or ICMPv6 port unreachable: a client sees its connection refused.
    Rejected,
    /// It is dropped without a word.
    Dropped,
    /// It is no Service's business.
    Untouched,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::To(endpoints) => {
                let mut last = None;
                for (endpoint, source) in endpoints {
                    let space = if last.is_some() { " " } else { "" };
                    if last != Some(*source) {
                        let word = if *source == Source::Kept { "kept" } else { "node" };
                        write!(f, "{space}{word}")?;
                    }
                    write!(f, " {endpoint}")?;
                    last = Some(*source);
                }
                Ok(())
            }
            Self::Rejected => f.write_str("rejected"),
            Self::Dropped => f.write_str("dropped"),
            Self::Untouched => f.write_str("untouched"),
        }
    }
}

/// An answer, and whose port it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// What becomes of the packet.
    pub outcome: Outcome,
    /// The port of a Service that it was for.
    pub port: Option<PortName>,
}

/// What becomes of a packet at `now`. `memory` has the connections before it.
#[must_use]
pub fn judge(world: &World, memory: &Memory, packet: &Packet, now: Millis) -> Judgement {
    if packet.state == State::Invalid {
        return Judgement { outcome: invalid(world, packet), port: None };
    }
    if world.localhost_node_ports && packet.origin != Origin::Node && is_loopback(packet) {
        // Only where the node lets its loopback addresses out it has to be said that nobody comes in by them.
        return Judgement { outcome: Outcome::Dropped, port: None };
    }
    let Some(found) = frontend::find(world, packet.destination, packet.protocol, packet.port) else {
        return Judgement { outcome: unclaimed(world, packet), port: None };
    };
    let name = PortName::of(found.service, found.port);
    let outcome = served(world, memory, packet, now, &found, &name);
    Judgement { outcome, port: Some(name) }
}

/// A packet that connection tracking cannot place is not translated. Passed on, it would reach a client with an endpoint's own address,
/// and the client would reset its connection.
fn invalid(world: &World, packet: &Packet) -> Outcome {
    let forwarded = packet.origin != Origin::Node && !world.addresses.contains(&packet.destination);
    if forwarded && !world.conntrack.tcp_be_liberal { Outcome::Dropped } else { Outcome::Untouched }
}

fn is_loopback(packet: &Packet) -> bool {
    [packet.source, packet.destination].iter().any(|ip| ip.is_ipv4() && ip.is_loopback())
}

fn unclaimed(world: &World, packet: &Packet) -> Outcome {
    if frontend::is_cluster_ip(world, packet.destination) {
        Outcome::Rejected
    } else if frontend::is_unallocated(world, packet.destination) {
        Outcome::Dropped
    } else {
        Outcome::Untouched
    }
}

fn served(
    world: &World,
    memory: &Memory,
    packet: &Packet,
    now: Millis,
    found: &Frontend<'_>,
    name: &PortName,
) -> Outcome {
    if found.entry == Entry::Balancer && !is_let_in(world, packet, found) {
        return Outcome::Dropped;
    }
    let endpoints = Endpoints::of(world, found.service, found.port, packet.family());
    let candidates = if goes_local(world, packet, found) { endpoints.local() } else { endpoints.cluster() };
    if candidates.is_empty() {
        // With one elsewhere the Service is alive, and the client may try another node; with none it should know at once.
        let elsewhere = !endpoints.cluster().is_empty();
        return if elsewhere { Outcome::Dropped } else { Outcome::Rejected };
    }
    let had = found.service.affinity.and_then(|timeout| memory.recall(name, packet.source, timeout, now));
    let candidates = match had.filter(|endpoint| candidates.contains(endpoint)) {
        Some(endpoint) => BTreeSet::from([endpoint]),
        None => candidates,
    };
    let source = |endpoint: &SocketAddr| {
        // What ends on the node has no way back that could lead past it, so nothing is rewritten on its way in.
        if packet.origin != Origin::Node && world.addresses.contains(&endpoint.ip()) {
            return Source::Kept;
        }
        // A pod that reaches itself would answer itself, past the node.
        let hairpin = endpoint.ip() == packet.source;
        if hairpin || is_masqueraded(world, packet, found) { Source::Node } else { Source::Kept }
    };
    Outcome::To(candidates.into_iter().map(|endpoint| (endpoint, source(&endpoint))).collect())
}

/// Source ranges are for what comes to the balancer's address. The node may reach that address where it is one of its own: then the address
/// is the source, too, and it is let in where the node's own address is.
fn is_let_in(world: &World, packet: &Packet, found: &Frontend<'_>) -> bool {
    let Some(ranges) = &found.service.source_ranges else { return true };
    let inside = |ip| ranges.iter().any(|range| range.contains(ip));
    let node = world.primary(Family::of(packet.source));
    inside(packet.source) || (packet.source == packet.destination && node.is_some_and(inside))
}

/// Whether only endpoints of this node count. From the cluster's own side, an external address with policy Local is a short cut to the
/// whole Service.
fn goes_local(world: &World, packet: &Packet, found: &Frontend<'_>) -> bool {
    if found.entry == Entry::ClusterIp {
        found.service.internal_policy == TrafficPolicy::Local
    } else {
        found.service.external_policy == TrafficPolicy::Local && !is_near(world, packet)
    }
}

/// Whether a packet is the node's own or one of its pods': from anywhere else, the way back to the client leads past this node.
fn is_near(world: &World, packet: &Packet) -> bool {
    packet.origin == Origin::Node || world.is_of_local_pod(packet)
}

fn is_masqueraded(world: &World, packet: &Packet, found: &Frontend<'_>) -> bool {
    if found.entry == Entry::ClusterIp {
        return world.masquerade_all || !world.is_of_local_pod(packet);
    }
    // With policy Local an external client's answer goes back the way it came, by this node.
    found.service.external_policy == TrafficPolicy::Cluster || packet.origin == Origin::Node
}
