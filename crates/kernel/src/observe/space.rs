//! Links, addresses, neighbours, forwarding entries, nexthops, routes and queueing disciplines of one namespace.

use std::collections::{BTreeMap, BTreeSet};

use ripstop_netmodel::{Key, Kind, Link, LinkKind, Model, Ns, Object, ROUTE_PROTOCOL, Resource};
use ripstop_types::{Family, IfName, Owner};

use crate::apply::routes;
use crate::error::ObserveError;
use crate::netlink::uapi::RT_TABLE_MAIN;
use crate::netlink::{Message, NetlinkError, Replies, Socket};
use crate::wire::Names;
use crate::wire::address::RawAddress;
use crate::wire::link::RawLink;
use crate::wire::neighbour::RawNeighbour;
use crate::wire::nexthop::RawNexthop;
use crate::wire::qdisc::RawQdisc;
use crate::wire::route::RawRoute;
use crate::{ethtool, wire};

/// Up to so many objects of a kind are asked for one by one; above, everything of the kind is read.
const FEW: usize = 32;

/// Kinds of this module: all but settings and what belongs to nftables.
const KINDS: [Kind; 8] = [
    Kind::Link,
    Kind::Address,
    Kind::Neighbour,
    Kind::Fdb,
    Kind::Nexthop,
    Kind::NexthopGroup,
    Kind::Route,
    Kind::Qdisc,
];

/// Puts everything of ours in the agent's namespace that is asked for into the model. On a link of ours, an address or
/// neighbour is ours if it carries our protocol number, or is wanted.
pub(super) fn ours(
    socket: &mut Socket,
    asked: impl Fn(Kind) -> bool,
    desired: &Model,
    model: &mut Model,
) -> Result<(), ObserveError> {
    if !KINDS.into_iter().any(&asked) {
        return Ok(());
    }
    let mut view = View::new(socket, Ns::Host);
    // Whose an object is, is told by its link.
    view.read_links()?;
    let ours: BTreeMap<u32, Option<Owner>> =
        view.links.values().filter(|link| link.is_ours()).map(|link| (link.index, link.owner())).collect();
    let owner = |index: u32| ours.get(&index).cloned();
    if asked(Kind::Link) {
        for link in view.links.values().filter(|link| link.is_ours() || link.is_taken()) {
            model.insert(view.link(link, desired), link.owner());
        }
    }
    if asked(Kind::Address) {
        let unmarked = !addresses_have_protocols();
        for raw in view.addresses(None)? {
            if let Some(owner) = owner(raw.index)
                && let Some(address) = raw.to_address(&Ns::Host, &view.names)
                && (raw.protocol == ROUTE_PROTOCOL
                    || (unmarked && raw.protocol == 0)
                    || desired.get(&address.key()).is_some())
            {
                model.insert(address, owner);
            }
        }
    }
    if asked(Kind::Neighbour) {
        for raw in view.neighbours(None)? {
            if let Some(owner) = owner(raw.index)
                && let Some(neighbour) = raw.to_neighbour(&Ns::Host, &view.names)
                && (raw.protocol == ROUTE_PROTOCOL || desired.get(&neighbour.key()).is_some())
            {
                model.insert(neighbour, owner);
            }
        }
    }
    if asked(Kind::Fdb) {
        for index in view.vxlans().filter(|index| ours.contains_key(index)).collect::<Vec<_>>() {
            for fdb in view.fdb(index)?.into_iter().filter_map(|n| n.to_fdb(&view.names)) {
                model.insert(fdb, owner(index).flatten());
            }
        }
    }
    view.add_routing(&asked, model)?;
    if asked(Kind::Qdisc) {
        for qdisc in view.qdiscs(None)? {
            if let Some(owner) = owner(qdisc.index)
                && let Some(qdisc) = qdisc.to_qdisc(&Ns::Host, &view.names)
            {
                model.insert(qdisc, owner);
            }
        }
    }
    Ok(())
}

/// Puts what is there under these keys into the model.
pub(super) fn keys(
    socket: &mut Socket,
    ns: &Ns,
    keys: &BTreeSet<&Key>,
    desired: &Model,
    model: &mut Model,
) -> Result<(), ObserveError> {
    let mut view = View::new(socket, ns.clone());
    view.read_links_of(keys)?;
    let mut found: Vec<Object> = Vec::new();
    let of = |kind: Kind| keys.iter().filter(|key| key.kind() == kind).copied().collect::<Vec<_>>();
    found.extend(view.links.values().map(|link| view.link(link, desired).into()));
    if !of(Kind::Address).is_empty() {
        let addresses = view.addresses(view.only_link(&of(Kind::Address)))?;
        found.extend(addresses.into_iter().filter_map(|a| a.to_address(ns, &view.names)).map(Object::from));
    }
    view.find_neighbours(&of(Kind::Neighbour), &mut found)?;
    view.find_fdb(&of(Kind::Fdb), &mut found)?;
    view.find_nexthops(&[of(Kind::Nexthop), of(Kind::NexthopGroup)].concat(), &mut found)?;
    view.find_routes(&of(Kind::Route), &mut found)?;
    if !of(Kind::Qdisc).is_empty() {
        let qdiscs = view.qdiscs(view.only_link(&of(Kind::Qdisc)))?;
        found.extend(qdiscs.into_iter().filter_map(|q| q.to_qdisc(ns, &view.names)).map(Object::from));
    }
    for object in found {
        if keys.contains(&object.key()) {
            let owner = view.owner_of(&object);
            model.insert(object, owner);
        }
    }
    Ok(())
}

/// One namespace, as far as it was asked for.
struct View<'a> {
    socket: &'a mut Socket,
    ns: Ns,
    links: BTreeMap<u32, RawLink>,
    names: Names,
}

impl<'a> View<'a> {
    fn new(socket: &'a mut Socket, ns: Ns) -> Self {
        Self { socket, ns, links: BTreeMap::new(), names: Names::new() }
    }

    fn error(&self, what: &str, error: &NetlinkError) -> ObserveError {
        ObserveError::new(format!("{what} in {}", self.ns), error)
    }

    fn dump(&mut self, what: &str, message: &Message) -> Result<Replies, ObserveError> {
        self.socket.dump(message).map_err(|error| self.error(what, &error))
    }

    /// What a request for one thing gives; nothing where it is not there.
    fn get(&mut self, what: &str, message: Message) -> Result<Replies, ObserveError> {
        match self.socket.call(message) {
            Ok(replies) => Ok(replies),
            Err(error) if matches!(error.errno, libc::ENOENT | libc::ENODEV | libc::ESRCH) => Ok(Replies::default()),
            // A forwarding entry asked for at a device that keeps none.
            Err(error) if matches!(error.errno, libc::EOPNOTSUPP | libc::EINVAL) => Ok(Replies::default()),
            Err(error) => Err(self.error(what, &error)),
        }
    }

    fn read_links(&mut self) -> Result<(), ObserveError> {
        let replies = self.dump("links", &wire::link::dump())?;
        self.add_links(&replies);
        Ok(())
    }

    fn add_links(&mut self, replies: &Replies) {
        for link in replies.iter().filter_map(RawLink::read) {
            self.names.insert(link.index, link.name.clone());
            self.links.insert(link.index, link);
        }
    }

    /// The links that the keys name, or all where objects are asked for that may name any.
    fn read_links_of(&mut self, keys: &BTreeSet<&Key>) -> Result<(), ObserveError> {
        let any = |key: &Key| matches!(key.kind(), Kind::Route | Kind::Nexthop | Kind::Link);
        let names: BTreeSet<IfName> = keys.iter().filter_map(|key| link_of(key)).cloned().collect();
        if names.is_empty() && !keys.iter().any(|key| any(key)) {
            return Ok(());
        }
        if names.len() > FEW || keys.iter().any(|key| any(key)) {
            return self.read_links();
        }
        for name in names {
            let replies = self.get("a link", wire::link::get(&name))?;
            self.add_links(&replies);
        }
        Ok(())
    }

    /// The model's link. The kernel shows no path to the namespace of a pair's far end; it is shown as it is wanted.
    fn link(&self, raw: &RawLink, desired: &Model) -> Link {
        let mut link = raw.to_link(&self.ns, &self.names);
        if self.ns == Ns::Host && matches!(link.kind, LinkKind::Vxlan { .. }) {
            link.tx_checksum = ethtool::tx_checksum(&link.name).ok();
        }
        if let (LinkKind::Veth(far), Some(wanted)) =
            (&mut link.kind, desired.get(&Key::Link { ns: self.ns.clone(), name: raw.name.clone() }))
            && let Object::Link(Link { kind: LinkKind::Veth(wanted), .. }) = &wanted.object
        {
            *far = wanted.clone();
        }
        link
    }

    fn index(&self, name: &IfName) -> Option<u32> {
        self.links.values().find(|link| link.name == *name).map(|link| link.index)
    }

    /// The index of the one link all keys are about.
    fn only_link(&self, keys: &[&Key]) -> Option<u32> {
        let names: BTreeSet<&IfName> = keys.iter().filter_map(|key| link_of(key)).collect();
        match names.into_iter().collect::<Vec<_>>()[..] {
            [name] => self.index(name),
            _ => None,
        }
    }

    /// The owner that the link names, of a link or of what hangs on it.
    fn owner_of(&self, object: &Object) -> Option<Owner> {
        let key = object.key();
        let name = link_of(&key).filter(|_| matches!(self.ns, Ns::Host))?;
        let link = self.links.values().find(|link| link.name == *name)?;
        link.owner()
    }

    fn vxlans(&self) -> impl Iterator<Item = u32> {
        self.links.values().filter(|link| link.vxlan.is_some()).map(|link| link.index)
    }

    fn addresses(&mut self, index: Option<u32>) -> Result<Vec<RawAddress>, ObserveError> {
        let replies = self.dump("addresses", &wire::address::dump(index))?;
        Ok(replies.iter().filter_map(RawAddress::read).collect())
    }

    fn neighbours(&mut self, index: Option<u32>) -> Result<Vec<RawNeighbour>, ObserveError> {
        let replies = self.dump("neighbours", &wire::neighbour::dump(index))?;
        Ok(replies.iter().filter_map(RawNeighbour::read).collect())
    }

    fn fdb(&mut self, index: u32) -> Result<Vec<RawNeighbour>, ObserveError> {
        let replies = self.dump("forwarding entries", &wire::neighbour::dump_fdb(index))?;
        Ok(replies.iter().filter_map(RawNeighbour::read).filter(|n| n.index == index).collect())
    }

    fn nexthops(&mut self) -> Result<Vec<RawNexthop>, ObserveError> {
        let replies = self.dump("nexthops", &wire::nexthop::dump())?;
        Ok(replies.iter().filter_map(RawNexthop::read).collect())
    }

    /// Nexthops and routes of ours, which have no link's owner.
    fn add_routing(&mut self, asked: impl Fn(Kind) -> bool, model: &mut Model) -> Result<(), ObserveError> {
        if asked(Kind::Nexthop) || asked(Kind::NexthopGroup) {
            for nexthop in self.nexthops()?.into_iter().filter(RawNexthop::is_ours) {
                let object = nexthop.to_object(&self.names);
                if let Some(object) = object.filter(|object| asked(object.key().kind())) {
                    model.insert(object, None);
                }
            }
        }
        if asked(Kind::Route) {
            for route in self.routes()? {
                model.insert_entry(route);
            }
        }
        Ok(())
    }

    /// Routes of ours, all tables.
    fn routes(&mut self) -> Result<Vec<std::sync::Arc<ripstop_netmodel::Entry>>, ObserveError> {
        let mut found = Vec::new();
        for family in Family::BOTH {
            let all = routes(self.socket, family, Some(ROUTE_PROTOCOL), None);
            for route in all.map_err(|error| self.error("routes", &error))? {
                if route.multipath {
                    continue;
                }
                if let Some(route) = route.to_route(&self.ns, &self.names) {
                    found.push(std::sync::Arc::new(ripstop_netmodel::Entry { object: route.into(), owner: None }));
                }
            }
        }
        Ok(found)
    }

    /// A pod's route is asked for by its address: among thousands of peers' routes that is quicker than reading all.
    fn find_routes(&mut self, keys: &[&Key], found: &mut Vec<Object>) -> Result<(), ObserveError> {
        let mut all = keys.len() > FEW;
        let mut raw = Vec::new();
        for key in keys.iter().take_while(|_| keys.len() <= FEW) {
            match self.find_host_route(key) {
                Some(route) => raw.extend(route),
                None => all = true,
            }
        }
        if all {
            found.extend(self.routes()?.into_iter().map(|entry| entry.object.clone()));
        } else {
            let ours = raw.into_iter().filter(|route| route.protocol == ROUTE_PROTOCOL && !route.multipath);
            found.extend(ours.filter_map(|route| route.to_route(&self.ns, &self.names)).map(Object::from));
        }
        Ok(())
    }

    /// The route to one address in the main table, if one look can tell: `Some(None)` is a certain "no".
    fn find_host_route(&mut self, key: &Key) -> Option<Option<RawRoute>> {
        let Key::Route { dst, table: RT_TABLE_MAIN, metric: 0, .. } = key else { return None };
        if dst.len() != dst.family().bits() {
            return None;
        }
        match self.socket.call(wire::route::get(dst.addr())) {
            Ok(replies) => {
                let route = replies.first().and_then(RawRoute::read)?;
                // Another table or metric may hide the one that is looked for.
                if route.key(&self.ns) == *key { Some(Some(route)) } else { (route.dst != *dst).then_some(None) }
            }
            Err(error) => (error.errno == libc::ENETUNREACH).then_some(None),
        }
    }

    fn qdiscs(&mut self, index: Option<u32>) -> Result<Vec<RawQdisc>, ObserveError> {
        let replies = self.dump("queueing disciplines", &wire::qdisc::dump(index))?;
        Ok(replies.iter().filter_map(RawQdisc::read).filter(|q| index.is_none_or(|index| q.index == index)).collect())
    }

    fn find_neighbours(&mut self, keys: &[&Key], found: &mut Vec<Object>) -> Result<(), ObserveError> {
        let mut raw = Vec::new();
        if keys.len() > FEW {
            raw = self.neighbours(self.only_link(keys))?;
        } else {
            for key in keys {
                let Key::Neighbour { link, ip, .. } = key else { continue };
                let Some(index) = self.index(link) else { continue };
                let replies = self.get("a neighbour", wire::neighbour::get(*ip, index))?;
                raw.extend(replies.iter().filter_map(RawNeighbour::read));
            }
        }
        found.extend(raw.into_iter().filter_map(|n| n.to_neighbour(&self.ns, &self.names)).map(Object::from));
        Ok(())
    }

    fn find_fdb(&mut self, keys: &[&Key], found: &mut Vec<Object>) -> Result<(), ObserveError> {
        let mut raw = Vec::new();
        if keys.len() > FEW {
            for index in self.vxlans().collect::<Vec<_>>() {
                raw.extend(self.fdb(index)?);
            }
        } else {
            for key in keys {
                let Key::Fdb { link, mac } = key else { continue };
                let Some(index) = self.index(link) else { continue };
                let replies = self.get("a forwarding entry", wire::neighbour::get_fdb(*mac, index))?;
                raw.extend(replies.iter().filter_map(RawNeighbour::read));
            }
        }
        found.extend(raw.into_iter().filter_map(|n| n.to_fdb(&self.names)).map(Object::from));
        Ok(())
    }

    fn find_nexthops(&mut self, keys: &[&Key], found: &mut Vec<Object>) -> Result<(), ObserveError> {
        let mut raw = Vec::new();
        if keys.len() > FEW {
            raw = self.nexthops()?;
        } else {
            for key in keys {
                let (Key::Nexthop { id } | Key::NexthopGroup { id }) = key else { continue };
                let replies = self.get("a nexthop", wire::nexthop::get(*id))?;
                raw.extend(replies.iter().filter_map(RawNexthop::read));
            }
        }
        let ours = raw.into_iter().filter(RawNexthop::is_ours);
        found.extend(ours.filter_map(|n| n.to_object(&self.names)));
        Ok(())
    }
}

/// Whether the kernel keeps who made an address (since Linux 5.18).
fn addresses_have_protocols() -> bool {
    let release = rustix::system::uname();
    let mut numbers =
        release.release().to_str().unwrap_or_default().split(['.', '-']).map_while(|part| part.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (5u32, 18u32)
}

/// The link a key names.
fn link_of(key: &Key) -> Option<&IfName> {
    match key {
        Key::Link { name, .. } => Some(name),
        Key::Address { link, .. } | Key::Neighbour { link, .. } | Key::Fdb { link, .. } | Key::Qdisc { link, .. } => {
            Some(link)
        }
        _ => None,
    }
}
