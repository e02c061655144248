//! What an object hangs on in the kernel, and what goes or changes when that is taken away.
//!
//! Facts of the kernel, not decisions: a link takes its addresses, neighbours, nexthops and routes along, a nexthop its
//! routes, a table its parts and elements, a forwarder's device its set-up and with it the peers, a veth its other end, an IPv4 address the routes that have it as their source, and a
//! table loses the chains at the ingress of a link that goes.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use ripstop_netmodel::{
    Key, LINK_PREFIX, Link, LinkKind, Model, NftElement, NftPart, NftTable, Ns, Object, Resource, Route, RouteTarget,
    link_table,
};
use ripstop_nft::model::{DataType, ElementKey, Fault, Key as ElementValue, Name, Table, TableFamily, part_of};
use ripstop_types::{Family, IfName};

/// The objects with which this one vanishes, as far as the model has them. The other end of a veth pair does not know its
/// first: see [`other_end`].
pub(crate) fn hangs_on(object: &Object) -> Vec<Key> {
    let mut keys: Vec<Key> = object.key().parent().filter(is_known).into_iter().collect();
    match object {
        Object::Nexthop(nexthop) => keys.push(link_key(&Ns::Host, &nexthop.link)),
        Object::NexthopGroup(group) => keys.extend(group.members.iter().map(|id| Key::Nexthop { id: *id })),
        Object::Forwarder(forwarder) => keys.push(link_key(&Ns::Host, &forwarder.link)),
        Object::ForwarderPeer(peer) => keys.push(Key::Forwarder { link: peer.link.clone() }),
        Object::IpipProgram(program) => keys.push(link_key(&Ns::Host, &program.link)),
        Object::IpipPeer(peer) => keys.push(Key::IpipProgram { link: peer.link.clone() }),
        Object::Route(route) => match &route.target {
            RouteTarget::Nexthop(id) => keys.push(Key::of_nexthop(*id)),
            RouteTarget::Via { link, .. } | RouteTarget::Link(link) => keys.push(link_key(&route.ns, link)),
            RouteTarget::Unreachable | RouteTarget::Local => {}
        },
        Object::NftTable(table) => keys.extend(table.devices().map(|link| link_key(&Ns::Host, link))),
        Object::NftElement(element) => keys.extend(element.destination().map(|(part, _)| part)),
        _ => {}
    }
    keys.retain(is_known);
    keys
}

/// The elements that lead to one of these parts.
pub(crate) fn leading_to<'a>(model: &'a Model, parts: &'a BTreeSet<Key>) -> impl Iterator<Item = &'a Key> {
    let tables: BTreeSet<Key> = parts.iter().filter_map(Key::parent).collect();
    let leads = |object: &Object| matches!(object, Object::NftElement(element) if element.destination().is_some_and(|(to, _)| parts.contains(&to)));
    tables
        .into_iter()
        .flat_map(|table| verdict_maps(model, &table))
        .flat_map(|first| {
            let set = (first.family, first.table.clone(), first.set.clone());
            let of_set = move |key: &Key| matches!(key, Key::NftElement(e) if (e.family, &e.table, &e.set) == (set.0, &set.1, &set.2));
            model.range(Key::NftElement(first)).take_while(move |(key, _)| of_set(key))
        })
        .filter(move |(_, entry)| leads(&entry.object))
        .map(|(key, _)| key)
}

/// The smallest keys that elements of a table's verdict maps could have.
fn verdict_maps(model: &Model, table: &Key) -> Vec<ElementKey> {
    let Some(Object::NftTable(NftTable { table })) = model.get(table).map(|entry| &entry.object) else {
        return Vec::new();
    };
    let first = |set: &Name| ElementKey {
        family: table.family,
        table: table.name.clone(),
        set: set.clone(),
        key: ElementValue { interval: false, parts: [].into() },
    };
    let verdicts = table.sets.iter().filter(|(_, set)| set.data == Some(DataType::Verdict));
    verdicts.map(|(name, _)| first(name)).collect()
}

/// The objects that must be there when this one is written.
pub(crate) fn needs(object: &Object) -> Vec<Key> {
    let mut keys = hangs_on(object);
    keys.extend(master(object));
    keys
}

/// What an object would lose its place, or change, without: also a pair's first end, of the second, and the address that a
/// route has as its source.
pub(crate) fn leans_on(model: &Model, object: &Object) -> Vec<Key> {
    let mut keys = needs(object);
    keys.extend(first_end(model, object));
    keys.extend(sources(model, object));
    keys
}

/// The pair's first end, of the second.
pub(crate) fn first_end(model: &Model, object: &Object) -> Option<Key> {
    is_second_end(object).then(|| holder(model, &object.key())).flatten()
}

/// The link whose other end this is.
pub(crate) fn holder(model: &Model, end: &Key) -> Option<Key> {
    links(model, &Ns::Host).find(|(_, object)| other_end(object).as_ref() == Some(end)).map(|(key, _)| key.clone())
}

/// Whether an object is a pair's second end, which is never made alone.
pub(crate) fn is_second_end(object: &Object) -> bool {
    matches!(object, Object::Link(Link { kind: LinkKind::VethPeer, .. }))
}

/// The addresses of which each can be a route's source.
pub(crate) fn sources(model: &Model, object: &Object) -> Vec<Key> {
    match object {
        Object::Route(Route { ns, src: Some(src), .. }) => addresses(model, ns, *src),
        _ => Vec::new(),
    }
}

/// Whether an object can be on another one that it needs, as that is.
pub(crate) fn bears(below: &Object, object: &Object) -> bool {
    match (below, object) {
        (Object::NftTable(table), Object::NftElement(element)) => check_element(&table.table, element).is_ok(),
        // Of one that was found the rules are not known.
        (Object::NftTable(table), Object::NftPart(part)) => {
            part.found.is_none() && table.table.check_part(&part.part).is_ok()
        }
        (Object::NftPart(part), Object::NftElement(element)) if is_in(element, part) => {
            // Of one that was found the sets are not known; where it is what is wanted, they are as well.
            let table = Table::new(part.part.family, &part.part.table).with_part(&part.part);
            part.found.is_some() || check_element(&table, element).is_ok()
        }
        (Object::NftPart(part), Object::NftElement(element)) => {
            element.destination().is_some_and(|(_, chain)| part.part.chains.contains_key(chain))
        }
        (Object::NftPart(part), Object::NftValues(values)) => part.part.sets.contains_key(&values.map),
        (Object::Link(_), Object::Link(Link { kind: LinkKind::VethPeer, .. })) => {
            other_end(below).is_some_and(|end| end == object.key())
        }
        (Object::Link(link), Object::Link(_)) => link.kind == LinkKind::Bridge,
        (Object::Link(link), Object::Fdb(_)) => matches!(link.kind, LinkKind::Vxlan { .. }),
        (Object::Link(link), Object::Forwarder(_)) => link.kind == LinkKind::Tun,
        (Object::Link(link), Object::IpipProgram(_)) => matches!(link.kind, LinkKind::Ifb { .. }),
        // An IPv4 route may lead to an IPv6 gateway, and none the other way round.
        (Object::Nexthop(nexthop), Object::Route(route)) => {
            nexthop.gateway.is_ipv6() || route.dst.family() == Family::V4
        }
        _ => true,
    }
}

/// Whether an element is one of a set of the part.
fn is_in(element: &NftElement, part: &NftPart) -> bool {
    part_of(&element.key.set).is_some_and(|name| name == part.part.name)
}

fn check_element(table: &Table, element: &NftElement) -> Result<(), Fault> {
    table.check_element(&element.key.set, &element.key.key, &element.body)
}

/// The bridge that a link is a port of.
pub(crate) fn master(object: &Object) -> Option<Key> {
    match object {
        Object::Link(Link { ns, master: Some(master), .. }) => Some(link_key(ns, master)),
        _ => None,
    }
}

/// The other end of a pair, of the end that names it.
pub(crate) fn other_end(object: &Object) -> Option<Key> {
    match object {
        Object::Link(Link { kind: LinkKind::Veth(peer), .. }) => Some(link_key(&peer.ns, &peer.name)),
        _ => None,
    }
}

/// What goes with an object and needs no word of its own: its children, the other end of a pair, and what lies in the
/// other end's namespace and hangs on that. Without the object itself.
pub(crate) fn below(model: &Model, key: &Key) -> BTreeSet<Key> {
    let mut keys: BTreeSet<Key> = model.children(key).map(|(key, _)| key.clone()).collect();
    if let Some(other) = model.get(key).and_then(|entry| other_end(&entry.object)) {
        keys.extend(model.children(&other).map(|(key, _)| key.clone()));
        if let Key::Link { ns: ns @ Ns::Path(_), name } = &other {
            keys.extend(routes(model, ns, |target| leaves_by(target, name)));
        }
        if model.get(&other).is_some() {
            keys.insert(other);
        }
    }
    keys
}

/// Whether an address that several links have stays the namespace's own when one of them loses it. It does, unless the
/// others lose it too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Others {
    Stay,
    MayGo,
}

/// Everything that vanishes with an object, without the object itself.
pub(crate) fn vanishing(model: &Model, key: &Key, others: Others) -> BTreeSet<Key> {
    let mut gone = BTreeSet::new();
    let mut open = vec![key.clone()];
    while let Some(key) = open.pop() {
        for next in with(model, &key, others) {
            if gone.insert(next.clone()) {
                open.push(next);
            }
        }
    }
    gone.remove(key);
    gone
}

fn with(model: &Model, key: &Key, others: Others) -> BTreeSet<Key> {
    let mut keys = below(model, key);
    match key {
        Key::Link { ns, name } => {
            keys.extend(routes(model, ns, |target| leaves_by(target, name)));
            if *ns == Ns::Host {
                let nexthops = model.range(Key::Nexthop { id: 0 }).take_while(|(key, _)| is_nexthop(key));
                let through = |object: &Object| matches!(object, Object::Nexthop(nexthop) if nexthop.link == *name);
                keys.extend(nexthops.filter(|(_, entry)| through(&entry.object)).map(|(key, _)| key.clone()));
                let forwarder = Key::Forwarder { link: name.clone() };
                keys.extend(model.get(&forwarder).map(|_| forwarder));
                let program = Key::IpipProgram { link: name.clone() };
                keys.extend(model.get(&program).map(|_| program));
            }
        }
        Key::Forwarder { link } => {
            let first = Key::ForwarderPeer { link: link.clone(), peer: "".into() };
            let of_it = |key: &Key| matches!(key, Key::ForwarderPeer { link: of, .. } if of == link);
            keys.extend(model.range(first).map(|(key, _)| key.clone()).take_while(of_it));
        }
        Key::IpipProgram { link } => {
            let first = Key::IpipPeer { link: link.clone(), ip: Ipv4Addr::UNSPECIFIED };
            let of_it = |key: &Key| matches!(key, Key::IpipPeer { link: of, .. } if of == link);
            keys.extend(model.range(first).map(|(key, _)| key.clone()).take_while(of_it));
        }
        Key::Nexthop { id } => {
            keys.extend(routes(model, &Ns::Host, |target| *target == RouteTarget::Nexthop(*id)));
            keys.extend(groups(model, |members| members == [*id]));
        }
        Key::NexthopGroup { id } => {
            keys.extend(routes(model, &Ns::Host, |target| *target == RouteTarget::Nexthop(*id)));
        }
        Key::Address { ns, link, ip } if ip.is_ipv4() && !stays(model, ns, link, *ip, others) => {
            keys.extend(routes_from(model, ns, *ip));
        }
        _ => {}
    }
    keys
}

/// What stays but changes when an object is taken away: a bridge's ports lose it, a group a member, a link's own table its chains, IPv6
/// routes lose their source.
pub(crate) fn altered(model: &Model, key: &Key, others: Others) -> BTreeSet<Key> {
    match key {
        Key::Link { ns, name } => links(model, ns)
            .filter(|(_, object)| master(object).as_ref() == Some(key))
            .map(|(port, _)| port.clone())
            .chain(own_table(model, ns, name))
            .collect(),
        Key::Address { ns, link, ip } if ip.is_ipv6() && !stays(model, ns, link, *ip, others) => {
            routes_from(model, ns, *ip).into_iter().collect()
        }
        Key::Nexthop { id } => groups(model, |members| members.contains(id) && members.len() > 1).collect(),
        _ => BTreeSet::new(),
    }
}

/// The table at a link's ingress.
fn own_table(model: &Model, ns: &Ns, link: &IfName) -> Option<Key> {
    let name = link_table(link).filter(|_| *ns == Ns::Host)?;
    let key = Key::NftTable { family: TableFamily::Netdev, name };
    let Object::NftTable(table) = &model.get(&key)?.object else { return None };
    table.devices().any(|device| device == link).then_some(key)
}

/// The links of a namespace.
pub(crate) fn links<'a>(model: &'a Model, ns: &'a Ns) -> impl Iterator<Item = (&'a Key, &'a Object)> {
    let first = lowest_name().map(|name| Key::Link { ns: ns.clone(), name });
    first
        .into_iter()
        .flat_map(|first| model.range(first))
        .take_while(move |(key, _)| matches!(key, Key::Link { ns: of, .. } if of == ns))
        .map(|(key, entry)| (key, &entry.object))
}

/// The links' addresses of a namespace that are `ip`.
pub(crate) fn addresses(model: &Model, ns: &Ns, ip: IpAddr) -> Vec<Key> {
    let Some(link) = lowest_name() else { return Vec::new() };
    model
        .range(Key::Address { ns: ns.clone(), link, ip: Ipv4Addr::UNSPECIFIED.into() })
        .map(|(key, _)| key)
        .take_while(|key| matches!(key, Key::Address { ns: of, .. } if of == ns))
        .filter(|key| matches!(key, Key::Address { ip: same, .. } if *same == ip))
        .cloned()
        .collect()
}

/// Whether a link is one of ours. Others (the uplink) are in no model and may be referred to.
fn is_ours(link: &IfName) -> bool {
    link.as_str().starts_with(LINK_PREFIX)
}

/// Links of others in the agent's namespace are there without being known.
fn is_known(key: &Key) -> bool {
    match key {
        Key::Link { ns: Ns::Host, name } => is_ours(name),
        _ => true,
    }
}

fn link_key(ns: &Ns, name: &IfName) -> Key {
    Key::Link { ns: ns.clone(), name: name.clone() }
}

fn leaves_by(target: &RouteTarget, name: &IfName) -> bool {
    matches!(target, RouteTarget::Via { link, .. } | RouteTarget::Link(link) if link == name)
}

/// Groups by their members.
fn groups<'a>(model: &'a Model, of: impl Fn(&[u32]) -> bool + 'a) -> impl Iterator<Item = Key> + 'a {
    let all = model.range(Key::NexthopGroup { id: 0 });
    let all = all.map_while(|(key, entry)| match &entry.object {
        Object::NexthopGroup(group) => Some((key, group)),
        _ => None,
    });
    all.filter(move |(_, group)| of(&group.members)).map(|(key, _)| key.clone())
}

fn is_nexthop(key: &Key) -> bool {
    matches!(key, Key::Nexthop { .. })
}

fn routes(model: &Model, ns: &Ns, of: impl Fn(&RouteTarget) -> bool) -> Vec<Key> {
    all_routes(model, ns, |route| of(&route.target))
}

fn routes_from(model: &Model, ns: &Ns, ip: IpAddr) -> Vec<Key> {
    all_routes(model, ns, |route| route.src == Some(ip))
}

fn all_routes(model: &Model, ns: &Ns, of: impl Fn(&Route) -> bool) -> Vec<Key> {
    let dst = ripstop_types::Prefix::default_route(Family::V4);
    model
        .range(Key::Route { ns: ns.clone(), table: 0, dst, metric: 0 })
        .take_while(|(key, _)| matches!(key, Key::Route { ns: of, .. } if of == ns))
        .filter(|(_, entry)| matches!(&entry.object, Object::Route(route) if of(route)))
        .map(|(key, _)| key.clone())
        .collect()
}

fn stays(model: &Model, ns: &Ns, link: &IfName, ip: IpAddr, others: Others) -> bool {
    let is_other = |key: &Key| matches!(key, Key::Address { link: other, .. } if other != link);
    others == Others::Stay && addresses(model, ns, ip).iter().any(is_other)
}

/// The name that sorts before every other: the first character that a name may have.
fn lowest_name() -> Option<IfName> {
    "!".parse().ok()
}
