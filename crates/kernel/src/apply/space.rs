//! What a run knows of one network namespace, and what it has not sent yet.

use std::collections::BTreeMap;

use ripstop_types::{IfName, Mac};

use crate::error::Fault;
use crate::netlink::{Message, Protocol, Socket};
use crate::netns::Netns;
use crate::wire;
use crate::wire::link::RawLink;

/// One message of a step.
#[derive(Debug)]
pub(super) struct Item {
    /// The step's index.
    pub(super) step: usize,
    pub(super) message: Message,
    /// Of a route that is made: whether it needs others that are made beside it. Others keep their order.
    pub(super) leans: Option<bool>,
}

/// Puts routes that go straight to a link before those through a gateway which such a route makes reachable: a pod's
/// default route sorts before the one to its router. Only neighbours in the list change places.
pub(super) fn order_routes(items: &mut [Item]) {
    for routes in items.chunk_by_mut(|a, b| a.leans.is_some() && b.leans.is_some()) {
        routes.sort_by_key(|item| item.leans);
    }
}

/// A namespace during one run.
#[derive(Debug, Default)]
pub(super) struct Space {
    /// Absent for the agent's own namespace, whose socket outlives the run.
    pub(super) pod: Option<Pod>,
    /// Links that were met.
    pub(super) links: BTreeMap<IfName, Known>,
    pub(super) pending: Vec<Item>,
}

/// What is known of a link without asking again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    pub(super) index: u32,
    pub(super) mac: Option<Mac>,
    pub(super) mtu: Option<u32>,
}

impl From<&RawLink> for Known {
    fn from(link: &RawLink) -> Self {
        Self { index: link.index, mac: link.mac, mtu: Some(link.mtu) }
    }
}

/// The open namespace of a pod.
#[derive(Debug)]
pub(super) struct Pod {
    pub(super) netns: Netns,
    pub(super) socket: Socket,
}

impl Pod {
    /// Opens the namespace and a socket in it.
    pub(super) fn open(path: &str, host: &Netns) -> Result<Self, Fault> {
        let netns = Netns::open(path)?;
        if netns.is_same(host) {
            return Err(Fault::Namespace(crate::netns::NetnsError::Own { path: path.into() }));
        }
        let socket = netns.run(|| Socket::open(Protocol::Route))?;
        let socket = socket.map_err(|error| Fault::file("a netlink socket", &error, None))?;
        Ok(Self { netns, socket })
    }
}

/// The link of a name; `None` if there is none.
pub(super) fn find_link(socket: &mut Socket, name: &IfName) -> Result<Option<RawLink>, Fault> {
    read_link(socket, wire::link::get(name))
}

/// What a request for one link gives; `None` if there is none.
pub(super) fn read_link(socket: &mut Socket, request: Message) -> Result<Option<RawLink>, Fault> {
    match socket.call(request) {
        Ok(replies) => Ok(replies.first().and_then(RawLink::read)),
        Err(error) if error.errno == libc::ENODEV => Ok(None),
        Err(error) => Err(error.into()),
    }
}
