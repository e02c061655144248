//! Virtual servers of IPVS at addresses that are local by a route of ours. All others are somebody else's.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ripstop_netmodel::{IpvsService, Kind, LOCAL_METRIC, LOCAL_TABLE, Model, ROUTE_PROTOCOL};
use ripstop_types::Family;

use crate::apply::routes;
use crate::error::ObserveError;
use crate::netlink::uapi::RTN_LOCAL;
use crate::netlink::{NetlinkError, Protocol, Socket};
use crate::wire;

/// Kinds of this module.
pub(super) const KINDS: [Kind; 2] = [Kind::IpvsService, Kind::IpvsDestination];

/// IPVS of one namespace.
#[derive(Debug)]
pub(crate) struct Ipvs {
    pub(crate) socket: Socket,
    /// The family's number.
    pub(crate) family: u16,
}

impl Ipvs {
    /// Opens a socket in the calling thread's namespace. The kernel loads the module if it can.
    ///
    /// # Errors
    /// `ENOENT` where there is no IPVS.
    pub(crate) fn open() -> Result<Self, NetlinkError> {
        let mut socket = Socket::open(Protocol::Generic).map_err(|error| NetlinkError::from_io(&error))?;
        let replies = socket.call(wire::ipvs::get_family())?;
        let family = replies.first().and_then(wire::ipvs::read_family);
        let family = family.ok_or_else(|| NetlinkError::with_text(libc::EIO, "no number of the family IPVS"))?;
        Ok(Self { socket, family })
    }

    /// All virtual servers that have an address.
    pub(crate) fn services(&mut self) -> Result<Vec<IpvsService>, NetlinkError> {
        let replies = self.socket.dump(&wire::ipvs::dump_services(self.family))?;
        Ok(replies.iter().filter_map(wire::ipvs::read_service).collect())
    }
}

/// Whether the kernel has it, without having the module looked for.
pub(crate) fn is_there() -> bool {
    std::path::Path::new("/proc/thread-self/net/ip_vs").exists()
}

/// Puts what is ours into the model.
pub(super) fn ours(
    route: &mut Socket,
    ipvs: &mut Option<Ipvs>,
    asked: impl Fn(Kind) -> bool,
    model: &mut Model,
) -> Result<(), ObserveError> {
    let addresses = local(route).map_err(|error| ObserveError::new("routes", error))?;
    // A module that is loaded is not looked for, and without it there is nothing.
    if addresses.is_empty() || !is_there() {
        return Ok(());
    }
    read(ipvs, &addresses, asked, model).map_err(|error| {
        *ipvs = None;
        ObserveError::new("IPVS", error)
    })
}

fn read(
    ipvs: &mut Option<Ipvs>,
    addresses: &BTreeSet<IpAddr>,
    asked: impl Fn(Kind) -> bool,
    model: &mut Model,
) -> Result<(), NetlinkError> {
    let ipvs = match ipvs {
        Some(ipvs) => ipvs,
        None => ipvs.insert(Ipvs::open()?),
    };
    for service in ipvs.services()?.into_iter().filter(|service| addresses.contains(&service.server.ip)) {
        let server = service.server;
        if asked(Kind::IpvsService) {
            model.insert(service, None);
        }
        if asked(Kind::IpvsDestination) {
            match ipvs.socket.dump(&wire::ipvs::dump_destinations(ipvs.family, &server)) {
                Ok(replies) => replies
                    .iter()
                    .filter_map(|reply| wire::ipvs::read_destination(reply, &server))
                    .for_each(|destination| drop(model.insert(destination, None))),
                // It went meanwhile.
                Err(error) if error.errno == libc::ESRCH => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// Addresses that are local by a route of ours.
fn local(route: &mut Socket) -> Result<BTreeSet<IpAddr>, NetlinkError> {
    let mut addresses = BTreeSet::new();
    for family in Family::BOTH {
        let found = routes(route, family, Some(ROUTE_PROTOCOL), Some(LOCAL_TABLE))?.into_iter();
        let found = found.filter(|route| route.kind == RTN_LOCAL && route.metric == LOCAL_METRIC);
        addresses.extend(found.map(|route| route.dst.addr()));
    }
    Ok(addresses)
}
