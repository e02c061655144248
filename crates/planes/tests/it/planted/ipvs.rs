//! Faults in what IPVS is told and in the tables before it, with real packets where the kernel has it.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use ripstop_desired::services::{Rules, ipvs};
use ripstop_netmodel::{Entry, IpvsDestination, IpvsService, Model, Object, Resource, Route, RouteTarget, Sysctl};
use ripstop_objects::IpvsConfig;
use ripstop_planes::Compiler;
use ripstop_types::Prefix;

use super::nftables::{of_elements, of_rules, tables};
use super::{Fault, Search, sample};
use crate::has_ipvs;

/// Faults in the normal tier: a machine that is emulated is slow.
const SOME: usize = 60;

/// Faults that no packet shows: what the name begins with behind the family, and why.
const UNSEEN: &[(&str, &str)] = &[
    ("servers: no rule 2", BETWEEN),
    ("servers-local: no rule 2", BETWEEN),
    ("from-anywhere: no rule 4", BETWEEN),
    ("from-inside: no rule 2", BETWEEN),
    ("masquerade-own", OWN),
    ("masqueraded: no rule 5", OWN),
    ("masqueraded: no rule 7", OWN),
    ("masqueraded: no rule 9", OWN),
    ("endpoints", TRACKED),
    ("net/ipv4/vs/expire_nodest_conn", LATER),
    ("net/ipv4/vs/expire_quiescent_template", WEIGHTLESS),
];

const BETWEEN: &str = "packets come here between two changes only";
const OWN: &str = "the node's own packets have an address of the node without it as well, if another one";
const TRACKED: &str = "it says which tracked connections are forgotten, and a case's packets are the first of theirs";
const WEIGHTLESS: &str = "it is about destinations without weight, and ours are taken out instead";
const LATER: &str =
    "it is about connections whose endpoint has left, which connection tracking carries on without IPVS";

/// Where a fault shows, by a word of its name; else it shows nearly everywhere.
const LIKELY: &[(&str, &[&str])] = &[
    ("hairpin", &["hairpin"]),
    ("forward", &["invalid"]),
    ("input", &["invalid"]),
    ("persistence", &["affinity"]),
    ("cluster-ips", &["reject"]),
    ("refuse", &["reject"]),
    ("others-ips", &["proxy-name"]),
    ("service-ranges", &["reject"]),
    ("sources", &["source-ranges"]),
    ("permitted", &["source-ranges"]),
    ("restricted", &["source-ranges"]),
    ("from-", &["external-policy"]),
    ("inside", &["external-policy"]),
    ("outside", &["external-policy"]),
    ("local", &["external-policy", "internal-policy"]),
    ("masquerade", &["masquerade", "node-port"]),
    ("pods", &["masquerade"]),
    ("", &["cluster-ip"]),
];

fn likely(fault: &Fault) -> &'static [&'static str] {
    LIKELY.iter().find(|(word, _)| fault.what().contains(word)).map_or(&[], |(_, groups)| groups)
}

fn faults() -> Vec<Fault> {
    let range = |text: &str| text.parse::<Prefix>().unwrap();
    let base =
        ipvs::base(IpvsConfig::default(), &[range("10.244.1.0/24")], &[range("10.96.0.0/16")], &Rules::default());
    let settings: Vec<Sysctl> = base
        .iter()
        .filter_map(|entry| match &entry.object {
            Object::Sysctl(setting) => Some(setting.clone()),
            _ => None,
        })
        .collect();
    let mut faults: Vec<Fault> =
        tables(base).iter().flat_map(|table| of_rules(table).into_iter().chain(of_elements(table))).collect();
    faults.extend(["ip", "ip6"].into_iter().flat_map(of_servers));
    // They hold for both families.
    faults.extend(settings.into_iter().map(|setting| {
        Fault::new(format!("ip {}: 0", setting.path), move |model| {
            change(model, true, |object| match object {
                Object::Sysctl(found) if found.path == setting.path => {
                    Some(Sysctl { value: "0".into(), ..found }.into())
                }
                other => Some(other),
            });
        })
    }));
    faults
}

/// Virtual servers, their destinations, and the routes that make their addresses local.
fn of_servers(family: &'static str) -> Vec<Fault> {
    let fault = |what: &str, all: bool, spoil: fn(Object) -> Option<Object>| {
        let six = family == "ip6";
        Fault::new(format!("{family} {what}"), move |model| {
            change_in(model, six, all, spoil);
        })
    };
    vec![
        fault("virtual servers: none", true, |object| (!is_of_service(&object)).then_some(object)),
        fault("virtual servers: one less", false, |object| (!is_of_service(&object)).then_some(object)),
        fault("virtual servers: another scheduler", true, |object| {
            of_service(object, |it| IpvsService { scheduler: "sh".into(), ..it })
        }),
        fault("virtual servers: no persistence", true, |object| {
            of_service(object, |it| IpvsService { persistence: None, ..it })
        }),
        fault("virtual servers: persistence", true, |object| {
            of_service(object, |it| IpvsService { persistence: Some(600), ..it })
        }),
        fault("destinations: none", true, |object| (!is_of_destination(&object)).then_some(object)),
        fault("destinations: one less", false, |object| (!is_of_destination(&object)).then_some(object)),
        fault("destinations: no weight", true, |object| {
            of_destination(object, |it| IpvsDestination { weight: 0, ..it })
        }),
        fault("destinations: one without weight", false, |object| {
            of_destination(object, |it| IpvsDestination { weight: 0, ..it })
        }),
        fault("destinations: not translated", true, |object| {
            of_destination(object, |it| IpvsDestination { translated: false, ..it })
        }),
        fault("destinations: another port", true, |object| {
            of_destination(object, |it| IpvsDestination {
                to: SocketAddr::new(it.to.ip(), it.to.port().wrapping_add(1)),
                ..it
            })
        }),
        fault("local addresses: none", true, |object| (!is_local(&object)).then_some(object)),
        fault("local addresses: one less", false, |object| (!is_local(&object)).then_some(object)),
    ]
}

fn is_of_service(object: &Object) -> bool {
    matches!(object, Object::IpvsService(_))
}

fn is_of_destination(object: &Object) -> bool {
    matches!(object, Object::IpvsDestination(_))
}

fn is_local(object: &Object) -> bool {
    matches!(object, Object::Route(Route { target: RouteTarget::Local, .. }))
}

fn of_service(object: Object, change: fn(IpvsService) -> IpvsService) -> Option<Object> {
    match object {
        Object::IpvsService(service) => Some(change(service).into()),
        other => Some(other),
    }
}

fn of_destination(object: Object, change: fn(IpvsDestination) -> IpvsDestination) -> Option<Object> {
    match object {
        Object::IpvsDestination(destination) => Some(change(destination).into()),
        other => Some(other),
    }
}

/// The same of the objects of a family.
fn change_in(model: &mut Model, six: bool, all: bool, spoil: fn(Object) -> Option<Object>) {
    let mine = |object: &Object| match object {
        Object::IpvsService(service) => service.server.ip.is_ipv6() == six,
        Object::IpvsDestination(destination) => destination.server.ip.is_ipv6() == six,
        Object::Route(route) => route.dst.addr().is_ipv6() == six,
        _ => false,
    };
    change(model, all, |object| if mine(&object) { spoil(object) } else { Some(object) });
}

/// Changes all objects that something changes, or the first.
fn change(model: &mut Model, all: bool, change: impl Fn(Object) -> Option<Object>) {
    let entries: Vec<Entry> = model.iter().map(|(_, entry)| Entry::clone(entry)).collect();
    let mut gone = BTreeSet::new();
    for Entry { object, owner } in entries {
        let changed = change(object.clone());
        if changed.as_ref() == Some(&object) {
            continue;
        }
        model.remove(&object.key());
        match changed {
            Some(changed) => drop(model.insert(changed, owner)),
            None => drop(gone.insert(object.key())),
        }
        if !all {
            break;
        }
    }
    // What has no server leads nowhere.
    model.retain(|key, _| key.parent().is_none_or(|parent| !gone.contains(&parent)));
}

#[test]
fn each_fault_of_ipvs_is_found_by_packets() {
    if !has_ipvs() {
        return;
    }
    let Some(mut search) = Search::by(Compiler::Ipvs) else { return };
    search.judge(&sample(faults(), SOME, UNSEEN), UNSEEN, likely);
}
