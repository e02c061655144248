//! A kernel made of a model: steps applied with the referential checks the real one makes.
//!
//! For laws and replays. Not here: anything the kernel does by itself (carrier, neighbour discovery).

use ripstop_netmodel::{Entry, Key, Link, LinkKind, Model, Ns, Object, Resource, RouteTarget};
use ripstop_types::IfName;

use crate::step::{Action, Step};

/// Why a step cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The step's object.
    pub key: Key,
    /// What is wrong.
    pub why: String,
}

/// Applies one step as the kernel would.
///
/// # Errors
/// Where the kernel would refuse: an address without its link, a route to a nexthop that is not there, a change the
/// resource does not allow. The model is unchanged then.
pub fn apply_to_model(model: &mut Model, step: &Step) -> Result<(), Fault> {
    let fault = |why: &str| Fault { key: step.key.clone(), why: why.into() };
    match (step.action, &step.after) {
        (Action::Refuse, _) => Ok(()),
        (Action::Delete, _) => {
            remove(model, &step.key);
            Ok(())
        }
        (Action::Create | Action::Update, None) => Err(fault("the step has no object")),
        (Action::Create | Action::Update, Some(entry)) => {
            if let Some(missing) = needs(&entry.object).into_iter().find(|key| model.get(key).is_none()) {
                return Err(fault(&format!("needs {missing}, which is not there")));
            }
            if let Some(there) = model.get(&step.key)
                && !entry.object.can_update(&there.object)
            {
                return Err(fault("is there and cannot become what is asked in place"));
            }
            if matches!(entry.object, Object::NftTable(_)) && step.action == Action::Update {
                remove(model, &step.key);
            }
            model.insert_entry(entry.clone());
            make_other_end(model, entry);
            Ok(())
        }
    }
}

/// The objects without which the kernel refuses this one.
fn needs(object: &Object) -> Vec<Key> {
    let link = |ns: &Ns, name: &IfName| Key::Link { ns: ns.clone(), name: name.clone() };
    let mut keys: Vec<Key> = object.key().parent().into_iter().collect();
    match object {
        Object::Link(Link { ns, master: Some(master), .. }) => keys.push(link(ns, master)),
        Object::Nexthop(nexthop) if is_ours(&nexthop.link) => keys.push(link(&Ns::Host, &nexthop.link)),
        Object::Route(route) => match &route.target {
            RouteTarget::Nexthop(id) => keys.push(Key::Nexthop { id: *id }),
            RouteTarget::Via { link: name, .. } | RouteTarget::Link(name)
                if is_ours(name) || matches!(route.ns, Ns::Path(_)) =>
            {
                keys.push(link(&route.ns, name));
            }
            _ => {}
        },
        _ => {}
    }
    keys
}

/// Links of others (the uplink) are not in the model and may be referred to.
fn is_ours(link: &IfName) -> bool {
    link.as_str().starts_with(ripstop_netmodel::LINK_PREFIX)
}

/// A veth pair appears whole; the other end is down until it is set up.
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
    };
    if model.get(&other.key()).is_none() {
        model.insert(other, entry.owner.clone());
    }
}

fn remove(model: &mut Model, key: &Key) {
    let Some(gone) = model.remove(key) else { return };
    let below: Vec<Key> = model.children(key).map(|(key, _)| key.clone()).collect();
    for child in below {
        model.remove(&child);
    }
    match (&gone.object, key) {
        (Object::Link(Link { kind: LinkKind::Veth(peer), .. }), _) => {
            let other = Key::Link { ns: peer.ns.clone(), name: peer.name.clone() };
            remove(model, &other);
            remove_routes_through(model, &gone.object);
        }
        (Object::Link(_), _) => remove_routes_through(model, &gone.object),
        (_, Key::Nexthop { id }) => {
            model
                .retain(|_, entry| !matches!(&entry.object, Object::Route(r) if r.target == RouteTarget::Nexthop(*id)));
        }
        _ => {}
    }
}

fn remove_routes_through(model: &mut Model, link: &Object) {
    let Object::Link(link) = link else { return };
    let nexthops: Vec<Key> = model
        .iter()
        .filter(|(_, entry)| matches!(&entry.object, Object::Nexthop(n) if link.ns == Ns::Host && n.link == link.name))
        .map(|(key, _)| key.clone())
        .collect();
    for nexthop in nexthops {
        remove(model, &nexthop);
    }
    model.retain(|_, entry| match &entry.object {
        Object::Route(route) if route.ns == link.ns => match &route.target {
            RouteTarget::Via { link: name, .. } | RouteTarget::Link(name) => *name != link.name,
            _ => true,
        },
        _ => true,
    });
}
