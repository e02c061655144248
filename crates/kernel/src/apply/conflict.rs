//! What is in the way of a creation: ours, and replaced, or foreign, and left alone.

use std::collections::BTreeSet;

use ripstop_netmodel::{Key, Nexthop, Ns, Object, Qdisc, ROUTE_PROTOCOL, Route};
use ripstop_types::Family;

use super::run::{Run, mismatch};
use crate::error::Fault;
use crate::netlink::uapi::NLM_F_REPLACE;
use crate::netlink::{Message, NetlinkError, Socket};
use crate::wire;
use crate::wire::nexthop::RawNexthop;
use crate::wire::qdisc::RawQdisc;
use crate::wire::route::{RawRoute, protocol_name};

impl Run<'_> {
    /// Replaces what is there if it is ours.
    pub(super) fn resolve(&mut self, step: usize) -> Result<(), Fault> {
        let object = self.steps[step].after.as_ref().map(|entry| entry.object.clone());
        match object {
            Some(Object::Nexthop(nexthop)) => self.replace_nexthop(step, &nexthop),
            Some(Object::Route(route)) => self.replace_route(step, &route),
            Some(Object::Qdisc(qdisc)) => self.replace_qdisc(step, &qdisc),
            _ => Err(mismatch()),
        }
    }

    fn send(&mut self, step: usize, ns: &Ns, message: Message) -> Result<(), Fault> {
        let result = self.socket(ns)?.call(message);
        result.map(|_| ()).map_err(|error| self.refused(step, &error))
    }

    fn replace_nexthop(&mut self, step: usize, nexthop: &Nexthop) -> Result<(), Fault> {
        self.check_nexthop(nexthop.id)?;
        let index = self.index(&Ns::Host, &nexthop.link)?;
        self.send(step, &Ns::Host, wire::nexthop::create(nexthop, index, NLM_F_REPLACE))
    }

    /// Fails if the id belongs to a nexthop object that is not ours.
    pub(super) fn check_nexthop(&mut self, id: u32) -> Result<(), Fault> {
        if self.foreign_nexthops.is_none() {
            let replies = self.applier.route.dump(&wire::nexthop::dump())?;
            let all = replies.iter().filter_map(RawNexthop::read);
            self.foreign_nexthops = Some(all.filter(|nexthop| !nexthop.is_ours()).map(|nexthop| nexthop.id).collect());
        }
        match &self.foreign_nexthops {
            Some(foreign) if foreign.contains(&id) => {
                Err(Fault::Foreign { holder: format!("a nexthop object with the id {id}").into() })
            }
            _ => Ok(()),
        }
    }

    fn replace_route(&mut self, step: usize, route: &Route) -> Result<(), Fault> {
        if !self.owns_route(route)? {
            return Err(self.route_holder(route)?);
        }
        let index = self.route_link(route)?;
        self.send(step, &route.ns, wire::route::create(route, index, NLM_F_REPLACE))
    }

    /// Whether the route that is there under this key is ours.
    pub(super) fn owns_route(&mut self, route: &Route) -> Result<bool, Fault> {
        if !self.owned_routes.contains_key(&route.ns) {
            let socket = self.socket(&route.ns)?;
            let mut owned = BTreeSet::new();
            for family in Family::BOTH {
                owned.extend(routes(socket, family, Some(ROUTE_PROTOCOL), None)?.iter().map(|r| r.key(&route.ns)));
            }
            self.owned_routes.insert(route.ns.clone(), owned);
        }
        Ok(self.owned_routes.get(&route.ns).is_some_and(|owned| owned.contains(&key(route))))
    }

    fn route_holder(&mut self, route: &Route) -> Result<Fault, Fault> {
        let all = routes(self.socket(&route.ns)?, route.dst.family(), None, Some(route.table))?;
        let holder = match all.iter().find(|r| r.key(&route.ns) == key(route)) {
            Some(holder) => format!("a route of protocol {} to {}", protocol_name(holder.protocol), route.dst),
            None => format!("another route to {}", route.dst),
        };
        Ok(Fault::Foreign { holder: holder.into() })
    }

    fn replace_qdisc(&mut self, step: usize, qdisc: &Qdisc) -> Result<(), Fault> {
        let index = self.index(&qdisc.ns, &qdisc.link)?;
        let replies = self.socket(&qdisc.ns)?.dump(&wire::qdisc::dump(Some(index)))?;
        if let Some(root) = replies.iter().filter_map(RawQdisc::read).find(|q| q.index == index && q.root)
            && (!root.is_ours() || &*root.kind != "tbf")
        {
            let holder = format!("a queueing discipline {} with the handle {:x}:", root.kind, root.handle >> 16);
            return Err(Fault::Foreign { holder: holder.into() });
        }
        self.send(step, &qdisc.ns, wire::qdisc::create(qdisc, index, NLM_F_REPLACE))
    }
}

fn key(route: &Route) -> Key {
    Key::Route { ns: route.ns.clone(), table: route.table, dst: route.dst, metric: route.metric }
}

/// Routes of a family: of a protocol and a table, where given. A table that is not there has none.
pub(crate) fn routes(
    socket: &mut Socket,
    family: Family,
    protocol: Option<u8>,
    table: Option<u32>,
) -> Result<Vec<RawRoute>, NetlinkError> {
    match socket.dump(&wire::route::dump(family, protocol, table)) {
        Ok(replies) => Ok(replies.iter().filter_map(RawRoute::read).collect()),
        // The table, or the whole family.
        Err(error) if matches!(error.errno, libc::ENOENT | libc::EOPNOTSUPP | libc::EAFNOSUPPORT) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
