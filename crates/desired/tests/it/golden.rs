//! Whole models as text.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use ripstop_desired::Desired;
use ripstop_netmodel::{Link, LinkKind, Model, NftPart, Object, RouteTarget};
use ripstop_nft::model::{ElementBody, ElementKey, Table};

use crate::clusters;

/// Everything of one model: objects in order, then the tables in nft's own words.
pub fn told(model: &Model) -> String {
    let mut out = String::new();
    for (key, entry) in model.iter() {
        let owner = entry.owner.as_ref().map_or("nobody".into(), ToString::to_string);
        let words = words(&entry.object);
        let space = if words.is_empty() { "" } else { " " };
        writeln!(out, "{key}{space}{words}    # {owner}").unwrap();
    }
    let (tables, elements) = ruleset(model);
    write!(out, "\n{}", ripstop_nft::text::ruleset(&tables, &elements)).unwrap();
    out
}

/// The tables of a model with their parts and elements.
pub fn ruleset(model: &Model) -> (Vec<Table>, BTreeMap<ElementKey, ElementBody>) {
    let (mut tables, mut elements) = (Vec::<Table>::new(), BTreeMap::new());
    for (_, entry) in model.iter() {
        match &entry.object {
            Object::NftTable(table) => tables.push(table.table.clone()),
            // Behind its table in the order of keys.
            Object::NftPart(NftPart { part, .. }) => {
                let its = |table: &&mut Table| (table.family, &table.name) == (part.family, &part.table);
                let table = tables.iter_mut().find(its).unwrap();
                *table = table.clone().with_part(part);
            }
            Object::NftElement(element) => drop(elements.insert(element.key.clone(), element.body.clone())),
            _ => {}
        }
    }
    (tables, elements)
}

/// What an object's key does not say, in the words of `ip`.
fn words(object: &Object) -> String {
    match object {
        Object::Link(link) => link_words(link),
        Object::Address(address) => format!("/{} scope {:?}", address.len, address.scope).to_lowercase(),
        Object::Neighbour(neighbour) => format!("lladdr {}", neighbour.mac),
        Object::Fdb(fdb) => format!("dst {}", fdb.dst),
        Object::Forwarder(forwarder) => format!("listen {:?}", forwarder.listen),
        Object::ForwarderPeer(peer) => {
            let prefixes: String = peer.ranges.iter().map(|range| format!(" {range}")).collect();
            format!("to {} also from {:?} ranges{prefixes}", peer.to, peer.also_from)
        }
        Object::IpipProgram(program) => {
            format!("mac {} local {} uplinks {:?}", program.mac, program.local, program.uplinks)
        }
        Object::IpipPeer(peer) => format!("by {}", peer.uplink),
        Object::Nexthop(nexthop) => {
            let onlink = if nexthop.onlink { " onlink" } else { "" };
            format!("via {} dev {}{onlink}", nexthop.gateway, nexthop.link)
        }
        Object::NexthopGroup(group) => {
            let members: Vec<String> = group.members.iter().map(ToString::to_string).collect();
            format!("group {}", members.join("/"))
        }
        Object::Route(route) => {
            let target = match &route.target {
                RouteTarget::Nexthop(id) => format!("nhid {id}"),
                RouteTarget::Via { link, gateway, onlink } => {
                    format!("via {gateway} dev {link}{}", if *onlink { " onlink" } else { "" })
                }
                RouteTarget::Link(link) => format!("dev {link}"),
                RouteTarget::Unreachable => "unreachable".into(),
                RouteTarget::Local => "local".into(),
            };
            let src = route.src.map_or(String::new(), |src| format!(" src {src}"));
            let mtu = route.mtu.map_or(String::new(), |mtu| format!(" mtu {mtu}"));
            format!("{target}{src}{mtu}")
        }
        Object::Sysctl(sysctl) => format!("= {}", sysctl.value),
        Object::Qdisc(qdisc) => {
            format!("tbf rate {}bit burst {} limit {}", qdisc.rate, qdisc.burst, qdisc.limit)
        }
        Object::Record(record) => format!("{} if {:?}", record.value, record.guard),
        Object::ForwardJump(_) => String::new(),
        // Their text follows below.
        Object::NftTable(_) | Object::NftPart(_) | Object::NftElement(_) | Object::ServiceFlows(_) => String::new(),
        Object::IpvsService(service) => format!("{} {:?}", service.scheduler, service.persistence),
        Object::IpvsDestination(destination) => format!("weight {}", destination.weight),
        Object::NftValues(values) => format!("{:?}", values.values),
        Object::IptablesRules(rules) => rules.rules.join("; "),
        Object::FrontendFlows(flows) => format!("{:?}", flows.endpoints),
        Object::Connection(connection) => format!("answered by {}", connection.destination),
    }
}

fn link_words(link: &Link) -> String {
    let mut out = match &link.kind {
        LinkKind::Veth(peer) => format!("veth peer {} {} in {}", peer.name, peer.mac, peer.ns),
        LinkKind::VethPeer => "veth-peer".into(),
        LinkKind::Bridge => "bridge".into(),
        LinkKind::Ipip { local } => format!("ipip local {local}"),
        LinkKind::Vxlan { vni, port, local } => format!("vxlan id {vni} dstport {port} local {local}"),
        LinkKind::Tun => "tun".into(),
        LinkKind::Ifb { index } => format!("ifb index {index}"),
        LinkKind::Loopback => "loopback".into(),
        LinkKind::Other(kind) => format!("other {kind}"),
    };
    for (word, value) in [
        ("mtu", link.mtu.map(|mtu| mtu.to_string())),
        ("address", link.mac.map(|mac| mac.to_string())),
        ("master", link.master.as_ref().map(ToString::to_string)),
        ("altname", link.altname.as_ref().map(ToString::to_string)),
    ] {
        if let Some(value) = value {
            write!(out, " {word} {value}").unwrap();
        }
    }
    for (word, is) in [
        ("up", link.up),
        ("addrgenmode-none", link.no_link_local),
        ("hairpin", link.port.is_some_and(|port| port.hairpin)),
        ("learning", link.port.is_some_and(|port| port.learning)),
    ] {
        if is {
            write!(out, " {word}").unwrap();
        }
    }
    out
}

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.txt"))
}

#[test]
fn clusters_are_told_as_they_were() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut wrong = Vec::new();
    for (name, cluster) in clusters::all() {
        let found = told(Desired::of(&cluster.tables).model());
        let path = file(name);
        if update {
            std::fs::write(&path, &found).unwrap();
        } else {
            let expected = std::fs::read_to_string(&path).unwrap_or_default();
            if let Some((n, (is, was))) = first_difference(&found, &expected) {
                wrong.push(format!("{}:{n}\n  is  {is}\n  was {was}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}\nIf it is meant: UPDATE_GOLDEN=1, and read the diff.", wrong.join("\n"));
}

fn first_difference(found: &str, expected: &str) -> Option<(usize, (String, String))> {
    if found == expected {
        return None;
    }
    let (mut a, mut b) = (found.lines(), expected.lines());
    for n in 1.. {
        match (a.next(), b.next()) {
            (None, None) => return Some((n, ("another end of file".into(), String::new()))),
            (x, y) if x == y => {}
            (x, y) => return Some((n, (x.unwrap_or("nothing").into(), y.unwrap_or("nothing").into()))),
        }
    }
    None
}

/// Files without a story would be read by nobody.
#[test]
fn every_file_has_its_story() {
    let mut names: Vec<String> = clusters::all().into_iter().map(|(name, _)| format!("{name}.txt")).collect();
    let mut files: Vec<String> = std::fs::read_dir(file("x").parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    files.sort();
    assert_eq!(files, names);
}
