//! What a Service adds to the maps and sets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ripstop_netmodel::{
    Entry, Key, Model, NFT_SERVICES_TABLE, NftElement, NftPart, NftTable, Object, RESET_MARK, ServiceFlows,
};
use ripstop_nft::model::{
    Data, ElementBody, ElementKey, Key as ElementValue, KeyPart, Name, Part as TablePart, Value, Verdict, build::Mark,
    build::Proto,
};
use ripstop_services::{Backend, Decision, Entry as Entrance, Frontend, Node, Target, decide, slots};
use ripstop_tables::ServiceTables;
use ripstop_types::{Family, Owner, Prefix, ServiceName};

use super::affinity::{Affinity, Reach};
use super::table::{self, PREPARED, draw, masqueraded, masqueraded_own, table};
use super::{Scope, chain_of, table_family, table_name};
use crate::Part;

/// The objects of a Service. `before` is what was wanted or found before: an endpoint that stays keeps its slot.
#[must_use]
pub fn objects(node: &Node, tables: &ServiceTables, name: &ServiceName, before: &Model) -> Vec<Entry> {
    let decided = decide(node, tables, name);
    let mut part = Part::of(Owner::service(name));
    for ip in &decided.cluster_ips {
        part.add(element(*ip, "cluster-ips", vec![(*ip).into()], None));
    }
    for ip in &decided.others_ips {
        part.add(element(*ip, "others-ips", vec![(*ip).into()], None));
    }
    let (mut endpoints, mut affinities) = (BTreeSet::new(), BTreeMap::new());
    for (frontend, decision) in &decided.frontends {
        of_frontend(&mut part, frontend, decision, before);
        let affinity = Affinity::of(Family::of(frontend.ip), decision);
        for (target, scope) in [(Some(&decision.inside), Scope::Inside), (decision.outside.as_ref(), Scope::Outside)] {
            let Some(Target::Backends(backends)) = target else { continue };
            endpoints.extend(backends.iter().map(|backend| backend.ip));
            if let Some(affinity) = &affinity {
                let reach = Reach::of(decision, scope);
                affinities.insert((affinity.clone(), reach), backends.clone());
            }
        }
    }
    let nobody = Arc::default();
    for affinity in affinities.keys().map(|(affinity, _)| affinity).collect::<BTreeSet<_>>() {
        let of = |reach| affinities.get(&(affinity.clone(), reach)).unwrap_or(&nobody);
        affinity.add_to(&mut part, of(Reach::Cluster), of(Reach::Local));
    }
    // A pod of this node that reaches itself has to see another source than its own.
    for ip in endpoints.into_iter().filter(|ip| node.pods.iter().any(|range| range.contains(*ip))) {
        part.add(element(ip, "hairpin", vec![ip.into(), ip.into()], None));
    }
    part.entries
}

/// The tables, and what they know of this node: only its own pods keep their source on the way to a ClusterIP, unless all are
/// masqueraded, and what nobody has among the ranges of ClusterIPs leads nowhere.
#[must_use]
pub fn base(pods: &[Prefix], service_ranges: &[Prefix], masquerade_all: bool) -> Vec<Entry> {
    let mut part = Part::of(Owner::agent());
    for family in Family::BOTH {
        part.add(NftTable { table: table(family, masquerade_all) });
    }
    part.add(ServiceFlows);
    for (set, ranges) in [("pods", pods), ("service-ranges", service_ranges)] {
        for range in ranges {
            part.add(element(range.addr(), set, vec![(*range).into()], None));
        }
    }
    part.entries
}

fn of_frontend(part: &mut Part, frontend: &Frontend, decision: &Decision, before: &Model) {
    let inside = target(part, frontend, decision, Scope::Inside, before);
    let verdict = match &decision.outside {
        Some(_) if decision.inside != Target::Reject => {
            let outside = target(part, frontend, decision, Scope::Outside, before);
            part.add(of(frontend, "inside", inside));
            part.add(of(frontend, "outside", outside));
            Verdict::Goto(Name::from("from-anywhere"))
        }
        _ => inside,
    };
    let verdict = match &decision.sources {
        None => verdict,
        Some(sources) => {
            for source in sources {
                let mut key = key_of(frontend);
                key.push((*source).into());
                part.add(element(frontend.ip, "sources", key, None));
            }
            part.add(of(frontend, "permitted", verdict));
            Verdict::Goto(Name::from("restricted"))
        }
    };
    let mut entry = of(frontend, "frontends", verdict);
    entry.body.comment = Some((&part.owner).into());
    part.add(entry);
    let set = match decision.entry {
        Entrance::Cluster => return,
        Entrance::Anywhere => masqueraded(frontend.protocol),
        Entrance::Local => masqueraded_own(frontend.protocol),
    };
    part.add(element(frontend.ip, set, vec![frontend.ip.into(), port(frontend.port)], None));
}

/// What leads to a target; where that are endpoints, they are put into their slots.
fn target(part: &mut Part, frontend: &Frontend, decision: &Decision, scope: Scope, before: &Model) -> Verdict {
    let target = match scope {
        Scope::Inside => Some(&decision.inside),
        Scope::Outside => decision.outside.as_ref(),
    };
    let backends = match target {
        Some(Target::Backends(backends)) => backends,
        Some(Target::Reject) => return Verdict::Goto(Name::from("reject")),
        Some(Target::Drop) | None => return Verdict::Drop,
    };
    let comment = decision.reset.then(|| format!("{RESET_MARK}{}", part.owner).as_str().into());
    let slots = assigned(frontend, scope, backends, before);
    for (slot, backend) in (scope.first()..).zip(&slots) {
        let to = vec![backend.ip.into(), Value::Service(backend.port)];
        let mut entry = element(frontend.ip, "endpoints", slot_key(frontend, slot), Some(Data::Values(to)));
        entry.body.comment.clone_from(&comment);
        part.add(entry);
    }
    let family = Family::of(frontend.ip);
    let Some(draws) = drawing(part, family, slots.len(), scope).map(Verdict::Goto) else { return Verdict::Drop };
    let reach = Reach::of(decision, scope);
    let affinity = Affinity::of(family, decision);
    let Some((chain, learning)) = affinity.and_then(|of| Some((of.chain(reach)?, of.learning(decision)?))) else {
        return draws;
    };
    part.add(self::of(frontend, reach.chosen(), draws));
    let key = vec![frontend.ip.into(), port(frontend.port)];
    part.add(element(frontend.ip, table::learning(frontend.protocol), key, Some(Data::Verdict(learning))));
    Verdict::Goto(chain)
}

/// The chain for so many endpoints, with the part it is in where the table has not got it.
fn drawing(part: &mut Part, family: Family, count: usize, scope: Scope) -> Option<Name> {
    let chain = chain_of(count, scope)?;
    if count > PREPARED {
        let drawing = TablePart::new(table_family(family), NFT_SERVICES_TABLE, &chain);
        part.add(NftPart::from(drawing.chain(&chain, draw(family, count, scope))));
    }
    Some(chain)
}

fn assigned(frontend: &Frontend, scope: Scope, wanted: &BTreeSet<Backend>, before: &Model) -> Vec<Backend> {
    let held = (scope.first()..).map_while(|slot| {
        let entry = before.get(&Key::NftElement(named(frontend.ip, "endpoints", slot_key(frontend, slot))))?;
        let Object::NftElement(element) = &entry.object else { return None };
        let Some(Data::Values(to)) = &element.body.data else { return None };
        match &to[..] {
            [Value::Ipv4(ip), Value::Service(port)] => Some(Backend { ip: (*ip).into(), port: *port }),
            [Value::Ipv6(ip), Value::Service(port)] => Some(Backend { ip: (*ip).into(), port: *port }),
            _ => None,
        }
    });
    slots::assign(&held.collect::<Vec<_>>(), wanted)
}

/// An entry of one of the maps of verdicts.
fn of(frontend: &Frontend, map: &'static str, verdict: Verdict) -> NftElement {
    element(frontend.ip, map, key_of(frontend), Some(Data::Verdict(verdict)))
}

fn key_of(frontend: &Frontend) -> Vec<KeyPart> {
    vec![frontend.ip.into(), KeyPart::Value(Proto(frontend.protocol.number()).into()), port(frontend.port)]
}

fn slot_key(frontend: &Frontend, slot: u32) -> Vec<KeyPart> {
    let mut key = key_of(frontend);
    key.push(KeyPart::Value(Mark(slot).into()));
    key
}

fn port(port: u16) -> KeyPart {
    KeyPart::Value(Value::Service(port))
}

fn named(ip: IpAddr, set: &'static str, parts: Vec<KeyPart>) -> ElementKey {
    let interval = matches!(set, "sources" | "pods" | "service-ranges");
    let family = table_family(Family::of(ip));
    ElementKey { family, table: table_name(), set: Name::from(set), key: ElementValue { interval, parts } }
}

fn element(ip: IpAddr, set: &'static str, key: Vec<KeyPart>, data: Option<Data>) -> NftElement {
    NftElement { key: named(ip, set, key), body: ElementBody { data, ..ElementBody::default() } }
}
