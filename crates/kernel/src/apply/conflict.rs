//! What is in the way of a creation: ours, and replaced, or foreign, and left alone.

use std::collections::BTreeSet;

use ripstop_netmodel::{Key, Ns, Object, Qdisc, ROUTE_PROTOCOL, Route};
use ripstop_types::Family;

use super::run::{Run, mismatch};
use crate::error::Fault;
use crate::netlink::uapi::{NLM_F_REPLACE, RT_TABLE_MAIN, RTPROT_BOOT};
use crate::netlink::{Message, NetlinkError, Socket};
use crate::wire;
use crate::wire::link::RawLink;
use crate::wire::nexthop::RawNexthop;
use crate::wire::qdisc::RawQdisc;
use crate::wire::route::{RawRoute, protocol_name};

impl Run<'_> {
    /// Replaces what is there where it is ours.
    pub(super) fn resolve(&mut self, ns: &Ns, steps: Vec<usize>) {
        let mut sent = Vec::new();
        let mut messages = Vec::new();
        for step in steps {
            match self.replacement(step) {
                Ok(message) => {
                    sent.push(step);
                    messages.push(message);
                }
                Err(fault) => self.settle(step, Err(fault)),
            }
        }
        match self.socket(ns).map(|socket| socket.batch(messages)) {
            Ok(answers) => {
                for (step, answer) in sent.into_iter().zip(answers) {
                    let result = answer.result.map_err(|error| self.refused(step, &error));
                    self.settle(step, result);
                }
            }
            Err(fault) => sent.into_iter().for_each(|step| self.settle(step, Err(fault.clone()))),
        }
    }

    /// The message that replaces what is in a step's way.
    fn replacement(&mut self, step: usize) -> Result<Message, Fault> {
        let steps = self.steps;
        match steps[step].after.as_ref().map(|entry| &entry.object) {
            Some(Object::Nexthop(nexthop)) => {
                self.check_nexthop(nexthop.id)?;
                let index = self.index(&Ns::Host, &nexthop.link)?;
                Ok(wire::nexthop::create(nexthop, index, NLM_F_REPLACE))
            }
            Some(Object::NexthopGroup(group)) => {
                self.check_nexthop(group.id)?;
                Ok(wire::nexthop::create_group(group, NLM_F_REPLACE))
            }
            Some(Object::Route(route)) => {
                if !self.owns_route(route)? {
                    return Err(self.route_holder(route)?);
                }
                let index = self.route_link(route)?;
                Ok(wire::route::create(route, index, NLM_F_REPLACE))
            }
            Some(Object::Qdisc(qdisc)) => self.replace_qdisc(qdisc),
            _ => Err(mismatch()),
        }
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

    /// Whether the route that is there under this key is ours.
    pub(super) fn owns_route(&mut self, route: &Route) -> Result<bool, Fault> {
        if !self.owned_routes.contains_key(&route.ns) {
            let socket = self.socket(&route.ns)?;
            let mut owned = BTreeSet::new();
            for family in Family::BOTH {
                owned.extend(routes(socket, family, Some(ROUTE_PROTOCOL), None)?.iter().map(|r| r.key(&route.ns)));
            }
            if route.ns == Ns::Host {
                owned.extend(self.adopted_routes()?);
            }
            self.owned_routes.insert(route.ns.clone(), owned);
        }
        Ok(self.owned_routes.get(&route.ns).is_some_and(|owned| owned.contains(&key(route))))
    }

    /// Routes that whoever had a tunnel device before it was adopted left on it.
    fn adopted_routes(&mut self) -> Result<Vec<Key>, Fault> {
        let links = self.applier.route.dump(&wire::link::dump())?;
        let tunnels = links.iter().filter_map(RawLink::read).filter(|link| link.is_ours() && link.vxlan.is_some());
        let tunnels: BTreeSet<u32> = tunnels.map(|link| link.index).collect();
        let all = routes(&mut self.applier.route, Family::V4, Some(RTPROT_BOOT), Some(RT_TABLE_MAIN))?;
        let left = all.iter().filter(|route| route.index.is_some_and(|index| tunnels.contains(&index)));
        Ok(left.map(|route| route.key(&Ns::Host)).collect())
    }

    fn route_holder(&mut self, route: &Route) -> Result<Fault, Fault> {
        let all = routes(self.socket(&route.ns)?, route.dst.family(), None, Some(route.table))?;
        let holder = match all.iter().find(|r| r.key(&route.ns) == key(route)) {
            Some(holder) => format!("a route of protocol {} to {}", protocol_name(holder.protocol), route.dst),
            None => format!("another route to {}", route.dst),
        };
        Ok(Fault::Foreign { holder: holder.into() })
    }

    fn replace_qdisc(&mut self, qdisc: &Qdisc) -> Result<Message, Fault> {
        let index = self.index(&qdisc.ns, &qdisc.link)?;
        let replies = self.socket(&qdisc.ns)?.dump(&wire::qdisc::dump(Some(index)))?;
        if let Some(root) = replies.iter().filter_map(RawQdisc::read).find(|q| q.index == index && q.root)
            && (!root.is_ours() || &*root.kind != "tbf")
        {
            let holder = format!("a queueing discipline {} with the handle {:x}:", root.kind, root.handle >> 16);
            return Err(Fault::Foreign { holder: holder.into() });
        }
        Ok(wire::qdisc::create(qdisc, index, NLM_F_REPLACE))
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
