//! Which tracked flows must be forgotten after a change.
//!
//! A flow of UDP has no end that anybody sees: its entry would send a client's datagrams to an endpoint that is gone, or to whoever has its
//! address next. One of TCP ends by itself, and gracefully only if it is left alone.

use std::net::SocketAddr;

use ripstop_objects::service::Protocol;
use ripstop_types::Family;

use super::endpoints::Endpoints;
use super::frontend;
use super::world::World;

/// An entry of the connection tracking table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    /// Its protocol.
    pub protocol: Protocol,
    /// Where the client sent its first packet to.
    pub destination: SocketAddr,
    /// Who answers: the endpoint, or the destination itself where nothing was translated.
    pub replier: SocketAddr,
}

/// Whether an entry must be gone once the rules of `before` have become those of `after`.
#[must_use]
pub fn is_stale(before: &World, after: &World, flow: &Flow) -> bool {
    if flow.protocol != Protocol::Udp {
        return false;
    }
    let find = |world| frontend::find(world, flow.destination.ip(), flow.protocol, flow.destination.port());
    match find(after) {
        Some(found) => {
            let endpoints = Endpoints::of(after, found.service, found.port, Family::of(flow.destination.ip()));
            !endpoints.serving().contains(&flow.replier)
        }
        None => find(before).is_some() && flow.replier != flow.destination,
    }
}
