//! What a Service adds to the maps and sets of its tables, whatever gets its packets to endpoints.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ripstop_netmodel::{NftElement, NftTable, ServiceFlows};
use ripstop_nft::model::{
    Data, ElementBody, ElementKey, Key as ElementValue, KeyPart, Name, Table, Value, Verdict, build::Proto,
};
use ripstop_services::{Backend, Decided, Decision, Entry as Entrance, Frontend, Node, Target};
use ripstop_types::{Family, Owner, Prefix, ServiceName};

use super::Scope;
use super::frame::{masqueraded, masqueraded_own, table_family, table_name};
use crate::Part;

/// How packets get to the endpoints of a frontend.
pub(super) trait Means {
    /// What leads to these endpoints, which are some; adds what it needs.
    fn leading(&mut self, part: &mut Part, to: &To<'_>) -> Verdict;
}

/// The endpoints of a frontend for some of its packets.
pub(super) struct To<'a> {
    pub frontend: &'a Frontend,
    pub decision: &'a Decision,
    pub scope: Scope,
    pub backends: &'a BTreeSet<Backend>,
}

/// The objects of a Service but for what leads to its endpoints, which comes from `means`.
pub(super) fn objects(node: &Node, name: &ServiceName, decided: &Decided, means: &mut dyn Means) -> Part {
    let mut part = Part::of(Owner::service(name));
    for ip in &decided.cluster_ips {
        part.add(element(*ip, "cluster-ips", vec![(*ip).into()], None));
    }
    for ip in &decided.others_ips {
        part.add(element(*ip, "others-ips", vec![(*ip).into()], None));
    }
    let mut endpoints = BTreeSet::new();
    for (frontend, decision) in &decided.frontends {
        of_frontend(&mut part, frontend, decision, means);
        for target in [Some(&decision.inside), decision.outside.as_ref()] {
            let Some(Target::Backends(backends)) = target else { continue };
            endpoints.extend(backends.iter().map(|backend| backend.ip));
        }
    }
    // A pod of this node that reaches itself has to see another source than its own.
    for ip in endpoints.into_iter().filter(|ip| node.may_be_here(*ip)) {
        part.add(element(ip, "hairpin", vec![ip.into(), ip.into()], None));
    }
    part
}

/// The tables, and what they know of this node: only its own pods keep their source on the way to a ClusterIP, unless all are
/// masqueraded, and what nobody has among the ranges of ClusterIPs leads nowhere.
pub(super) fn base(pods: &[Prefix], service_ranges: &[Prefix], table: impl Fn(Family) -> Table) -> Part {
    let mut part = Part::of(Owner::agent());
    for family in Family::BOTH {
        part.add(NftTable { table: table(family) });
    }
    part.add(ServiceFlows);
    for (set, ranges) in [("pods", pods), ("service-ranges", service_ranges)] {
        for range in ranges {
            part.add(element(range.addr(), set, vec![(*range).into()], None));
        }
    }
    part
}

fn of_frontend(part: &mut Part, frontend: &Frontend, decision: &Decision, means: &mut dyn Means) {
    let inside = target(part, frontend, decision, Scope::Inside, means);
    let verdict = match &decision.outside {
        Some(_) if decision.inside != Target::Reject => {
            let outside = target(part, frontend, decision, Scope::Outside, means);
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

/// What leads to a target.
fn target(part: &mut Part, frontend: &Frontend, decision: &Decision, scope: Scope, means: &mut dyn Means) -> Verdict {
    let target = match scope {
        Scope::Inside => Some(&decision.inside),
        Scope::Outside => decision.outside.as_ref(),
    };
    match target {
        Some(Target::Backends(backends)) => means.leading(part, &To { frontend, decision, scope, backends }),
        Some(Target::Reject) => Verdict::Goto(Name::from("refuse")),
        Some(Target::Drop) | None => Verdict::Drop,
    }
}

/// An entry of one of the maps of verdicts.
pub(super) fn of(frontend: &Frontend, map: &'static str, verdict: Verdict) -> NftElement {
    element(frontend.ip, map, key_of(frontend), Some(Data::Verdict(verdict)))
}

pub(super) fn key_of(frontend: &Frontend) -> Vec<KeyPart> {
    vec![frontend.ip.into(), KeyPart::Value(Proto(frontend.protocol.number()).into()), port(frontend.port)]
}

pub(super) fn port(port: u16) -> KeyPart {
    KeyPart::Value(Value::Service(port))
}

pub(super) fn named(ip: IpAddr, set: &'static str, parts: Vec<KeyPart>) -> ElementKey {
    let interval = matches!(set, "sources" | "pods" | "service-ranges");
    let family = table_family(Family::of(ip));
    ElementKey {
        family,
        table: table_name(),
        set: Name::from(set),
        key: ElementValue { interval, parts: parts.into() },
    }
}

pub(super) fn element(ip: IpAddr, set: &'static str, key: Vec<KeyPart>, data: Option<Data>) -> NftElement {
    NftElement { key: named(ip, set, key), body: ElementBody { data, ..ElementBody::default() } }
}
