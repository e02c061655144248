//! A kernel made of a model: steps applied with the referential checks the real one makes.
//!
//! For laws and replays. Not here: anything the kernel does by itself (carrier, neighbour discovery), and what it
//! checks of objects that are not ours.

use std::collections::BTreeSet;

use ripstop_netmodel::{Entry, Key, Link, LinkKind, Model, NftElement, Object, Resource, Route, RouteTarget};
use ripstop_nft::model::part_of;
use ripstop_types::Prefix;

use crate::contest::rivals;
use crate::hang::{Others, altered, bears, holder, leading_to, needs, other_end, vanishing};
use crate::step::{Action, Step};

/// Why a step cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The step's object.
    pub key: Key,
    /// What is wrong.
    pub why: String,
}

/// Applies one step as the kernel would: a creation is "make it or make it so", a removal of what is gone succeeds, and a
/// removal takes along what hangs on the object. Settings, the second end of a pair and `lo` are not removed on their own.
///
/// # Errors
/// Where the kernel would refuse: an address without its link, a route to a nexthop that is not there, a change the
/// resource does not allow. The model is unchanged then.
pub fn apply_to_model(model: &mut Model, step: &Step) -> Result<(), Fault> {
    let fault = |why: String| Fault { key: step.key.clone(), why };
    match (step.action, &step.after) {
        (Action::Refuse, _) => {}
        (Action::Delete, _) => {
            let parts = BTreeSet::from([step.key.clone()]);
            if let Some(user) = leading_to(model, &parts).next() {
                return Err(fault(format!("{user} leads there")));
            }
            if model.get(&step.key).is_some_and(|entry| can_be_removed(&entry.object)) {
                remove(model, &step.key);
            }
        }
        (Action::Create | Action::Update, None) => return Err(fault("the step has no object".into())),
        (Action::Create | Action::Update, Some(entry)) => {
            check(model, &entry.object).map_err(fault)?;
            write(model, entry);
        }
    }
    Ok(())
}

/// Whether an object has an absence that a step can bring about.
pub(crate) fn can_be_removed(object: &Object) -> bool {
    match object {
        Object::Sysctl(_) | Object::NftValues(_) => false,
        Object::Link(link) => !matches!(link.kind, LinkKind::VethPeer | LinkKind::Loopback),
        _ => true,
    }
}

fn check(model: &Model, object: &Object) -> Result<(), String> {
    if let Some(missing) = needs(object).into_iter().find(|key| model.get(key).is_none()) {
        return Err(format!("needs {missing}, which is not there"));
    }
    let there = model.get(&object.key());
    if there.is_some_and(|there| !object.can_update(&there.object)) {
        return Err("is there and cannot become what is asked in place".into());
    }
    match object {
        Object::Link(link) => check_link(model, link, there.is_some())?,
        Object::NftElement(element) => check_element(model, element)?,
        Object::Route(route) => check_route(model, route)?,
        _ => {}
    }
    let is_unfit = |key: &Key| model.get(key).is_some_and(|below| !bears(&below.object, object));
    match needs(object).into_iter().find(is_unfit) {
        Some(unfit) => Err(format!("{unfit} is nothing that it could be on")),
        None => Ok(()),
    }
}

fn check_link(model: &Model, link: &Link, is_there: bool) -> Result<(), String> {
    if link.kind == LinkKind::VethPeer && !is_there {
        return Err("is not there: it is made with the pair's first end".into());
    }
    let own = link.key();
    let object = Object::Link(link.clone());
    if let Some(rival) = rivals(model, &object).first() {
        return Err(format!("{rival} has the same alternative name, or network identifier and port"));
    }
    let Some(end) = other_end(&object) else { return Ok(()) };
    match holder(model, &end) {
        Some(holder) if holder != own => Err(format!("{end} is the other end of {holder}")),
        _ => Ok(()),
    }
}

fn check_element(model: &Model, element: &NftElement) -> Result<(), String> {
    let table = Key::NftTable { family: element.key.family, name: element.key.table.clone() };
    if part_of(&element.key.set).is_some() {
        // What it is in is among what it needs, and is looked at with that.
        return Ok(());
    }
    match model.get(&table).map(|entry| &entry.object) {
        Some(Object::NftTable(there)) => there
            .table
            .check_element(&element.key.set, &element.key.key, &element.body)
            .map_err(|fault| fault.to_string()),
        _ => Err(format!("needs {table}, which is not there")),
    }
}

/// The kernel takes a gateway only where something says that it is on the link, and a source only if it is its own.
fn check_route(model: &Model, route: &Route) -> Result<(), String> {
    let of_ns = |key: &Key| key.ns() == Some(&route.ns);
    if let Some(src) = route.src {
        let own = |key: &Key| matches!(key, Key::Address { ip, .. } if *ip == src);
        if !model.keys().any(|key| of_ns(key) && own(key)) {
            return Err(format!("its source {src} is no address of the namespace"));
        }
    }
    let RouteTarget::Via { link, gateway, onlink: false } = &route.target else { return Ok(()) };
    let link_local = Prefix::containing(std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0).into(), 10);
    let is_near = link_local.is_some_and(|prefix| prefix.contains(*gateway));
    let leads_there = |object: &Object| match object {
        Object::Address(address) => {
            address.link == *link && Prefix::containing(address.ip, address.len).is_some_and(|p| p.contains(*gateway))
        }
        Object::Route(other) => other.target == RouteTarget::Link(link.clone()) && other.dst.contains(*gateway),
        _ => false,
    };
    if is_near || model.iter().any(|(key, entry)| of_ns(key) && leads_there(&entry.object)) {
        Ok(())
    } else {
        Err(format!("its gateway {gateway} is not on {link}"))
    }
}

fn write(model: &mut Model, entry: &std::sync::Arc<Entry>) {
    let key = entry.object.key();
    let is_new = model.get(&key).is_none();
    if matches!(entry.object, Object::NftTable(_)) {
        // Always replaced whole.
        remove(model, &key);
    }
    model.insert_entry(entry.clone());
    if is_new {
        make_other_end(model, entry);
    }
}

/// A veth pair appears whole; the other end is down until it is set up, and has nothing yet.
fn make_other_end(model: &mut Model, entry: &Entry) {
    let Object::Link(Link { kind: LinkKind::Veth(peer), mtu, .. }) = &entry.object else { return };
    let other = Link {
        ns: peer.ns.clone(),
        name: peer.name.clone(),
        kind: LinkKind::VethPeer,
        mtu: *mtu,
        mac: Some(peer.mac),
        up: false,
        master: None,
        altname: None,
        port: None,
        no_link_local: true,
        tx_checksum: None,
    };
    remove(model, &other.key());
    model.insert(other, entry.owner.clone());
}

fn remove(model: &mut Model, key: &Key) {
    let gone = vanishing(model, key, Others::Stay);
    let mut changed = altered(model, key, Others::Stay);
    for child in &gone {
        changed.extend(altered(model, child, Others::Stay));
    }
    model.remove(key);
    for child in &gone {
        model.remove(child);
    }
    for key in changed {
        let Some(entry) = model.get(&key) else { continue };
        let mut entry = (**entry).clone();
        match &mut entry.object {
            Object::Link(link) => (link.master, link.port) = (None, None),
            Object::NftTable(table) => table.table.chains.clear(),
            Object::Route(route) => route.src = None,
            _ => {}
        }
        model.insert_entry(entry.into());
    }
}
