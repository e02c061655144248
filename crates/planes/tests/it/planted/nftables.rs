//! Faults in the tables that Services are compiled to, in the simulator.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};

use ripstop_conformance::services::cases;
use ripstop_desired::services::{Rules, nftables};
use ripstop_netmodel::{Entry, Key, Model, NftElement, Object};
use ripstop_nft::model::{Data, DataType, KeyPart, Name, Table, TableFamily, Type, Value, Verdict};
use ripstop_planes::Compiler;
use ripstop_types::Prefix;

use super::{Fault, Search, found_in};
use crate::simulated::{Simulated, drawn_by};

/// Faults that no packet shows: what the name begins with behind the family, and why.
const UNSEEN: &[(&str, &str)] = &[
    ("endpoints-1: no rule 2", BETWEEN),
    ("endpoints-2: no rule 2", BETWEEN),
    ("endpoints-3: no rule 2", BETWEEN),
    ("local-1: no rule 2", BETWEEN),
    ("local-2: no rule 2", BETWEEN),
    ("local-3: no rule 2", BETWEEN),
    ("from-anywhere: no rule 4", BETWEEN),
    ("from-inside: no rule 2", BETWEEN),
    ("masquerade-own", OWN),
    ("masqueraded: no rule 5", OWN),
    ("masqueraded: no rule 7", OWN),
    ("masqueraded: no rule 9", OWN),
];

const BETWEEN: &str = "packets come here between two changes only";
const OWN: &str = "the node's own packets have an address of the node without it as well, if another one";

/// Faults of session affinity. What one packet adds to a map no other sees in the simulator: they are shown to real packets. No SCTP
/// socket is to be had everywhere.
const AFFINITY: [&str; 5] = ["chosen", "learn", "input: no rule 1", "postrouting: no rule 1", "learning: no rule"];

/// Whether only real packets show it.
fn is_of_affinity(fault: &Fault) -> bool {
    AFFINITY.iter().any(|begin| fault.what().starts_with(begin))
}

fn faults() -> Vec<Fault> {
    let range = |text: &str| text.parse::<Prefix>().unwrap();
    let base = nftables::base(&[range("10.244.1.0/24")], &[range("10.96.0.0/16")], &Rules::default());
    let tables = tables(base);
    tables
        .iter()
        .flat_map(|table| of_rules(table).into_iter().chain(of_elements(table)).chain(of_endpoints(table)))
        .collect()
}

/// The tables among what is wanted.
pub fn tables(base: Vec<Entry>) -> Vec<Table> {
    let table = |entry: Entry| match entry.object {
        Object::NftTable(table) => Some(table.table),
        _ => None,
    };
    base.into_iter().filter_map(table).collect()
}

/// Each rule is missing once. Of the chains that draw, which are alike, those for up to three endpoints.
pub fn of_rules(table: &Table) -> Vec<Fault> {
    let (family, name) = (table.family, table.name.clone());
    let mut faults = Vec::new();
    for (chain, body) in &table.chains {
        if drawn_by(chain).is_some_and(|count| count > 3) {
            continue;
        }
        for index in 0..body.rules.len() {
            let (name, of) = (name.clone(), chain.clone());
            faults.push(Fault::new(format!("{} {chain}: no rule {}", family.as_str(), index + 1), move |model| {
                change_table(model, (family, &name), |table| {
                    let rules = &mut table.chains.get_mut(&of).unwrap().rules;
                    if index < rules.len() {
                        rules.remove(index);
                    }
                });
            }));
        }
    }
    faults
}

/// What becomes of an element; `None`: it goes.
type Change = fn(NftElement) -> Option<NftElement>;

/// Each set and map is empty once, and has an element less; where its elements lead somewhere, they lead elsewhere; where they have a
/// port, they have another.
pub fn of_elements(table: &Table) -> Vec<Fault> {
    let family = table.family;
    let mut faults = Vec::new();
    for (name, set) in &table.sets {
        let leads = set.data == Some(DataType::Verdict);
        let has_port = set.key.contains(&Type::InetService);
        let changes: [(&str, usize, bool, Change); 5] = [
            ("empty", usize::MAX, true, |_| None),
            ("one less", 1, true, |_| None),
            ("refuses", usize::MAX, leads, |element| with_verdict(element, Verdict::Goto(Name::from("refuse")))),
            ("drops", usize::MAX, leads, |element| with_verdict(element, Verdict::Drop)),
            ("at another port", usize::MAX, has_port, |element| Some(at_another_port(element))),
        ];
        for (what, most, applies, change) in changes {
            let of = name.clone();
            if applies {
                faults.push(Fault::new(format!("{} {name}: {what}", family.as_str()), move |model| {
                    change_elements(model, family, &of, most, change);
                }));
            }
        }
    }
    faults
}

/// Endpoints have another port, or another address.
fn of_endpoints(table: &Table) -> Vec<Fault> {
    let family = table.family;
    let mut faults = Vec::new();
    faults.push(Fault::new(format!("{} endpoints: another port", family.as_str()), move |model| {
        change_endpoints(model, family, |to| match &mut to[1] {
            Value::Service(port) => *port = port.wrapping_add(1),
            _ => unreachable!(),
        });
    }));
    faults.push(Fault::new(format!("{} endpoints: another address", family.as_str()), move |model| {
        change_endpoints(model, family, |to| match &mut to[0] {
            Value::Ipv4(ip) => *ip = Ipv4Addr::from_bits(ip.to_bits() + 1),
            Value::Ipv6(ip) => *ip = Ipv6Addr::from_bits(ip.to_bits() + 1),
            _ => unreachable!(),
        });
    }));
    faults
}

fn at_another_port(mut element: NftElement) -> NftElement {
    for part in std::sync::Arc::make_mut(&mut element.key.key.parts) {
        if let KeyPart::Value(Value::Service(port)) = part {
            *port = port.wrapping_add(1);
        }
    }
    element
}

/// An element with another verdict, where it has one.
fn with_verdict(mut element: NftElement, verdict: Verdict) -> Option<NftElement> {
    if let Some(Data::Verdict(old)) = &mut element.body.data {
        *old = verdict;
    }
    Some(element)
}

fn change_table(model: &mut Model, which: (TableFamily, &Name), change: impl Fn(&mut Table)) {
    let entries: Vec<Entry> = model.iter().map(|(_, entry)| Entry::clone(entry)).collect();
    for mut entry in entries {
        if let Object::NftTable(table) = &mut entry.object
            && (table.table.family, &table.table.name) == which
        {
            change(&mut table.table);
            model.insert_entry(entry.into());
        }
    }
}

fn change_elements(model: &mut Model, family: TableFamily, set: &Name, most: usize, change: Change) {
    let of = |key: &Key| matches!(key, Key::NftElement(key) if key.family == family && key.set == *set);
    let keys: Vec<Key> = model.keys().filter(|key| of(key)).take(most).cloned().collect();
    let taken: Vec<Entry> = keys.iter().filter_map(|key| model.remove(key)).map(|entry| Entry::clone(&entry)).collect();
    for entry in taken {
        let Object::NftElement(element) = entry.object else { unreachable!() };
        if let Some(element) = change(element) {
            model.insert(element, entry.owner);
        }
    }
}

fn change_endpoints(model: &mut Model, family: TableFamily, change: impl Fn(&mut [Value])) {
    let entries: Vec<Entry> = model.iter().map(|(_, entry)| Entry::clone(entry)).collect();
    for mut entry in entries {
        if let Object::NftElement(NftElement { key, body }) = &mut entry.object
            && let Some(Data::Values(to)) = &mut body.data
            && (key.family, key.set.as_str()) == (family, "endpoints")
        {
            change(to);
            model.insert_entry(entry.into());
        }
    }
}

#[test]
fn each_planted_fault_is_found() {
    let mut faults = faults();
    // What is not to be seen takes a run of every case: one family's is enough.
    let left_out = |fault: &Fault| is_of_affinity(fault) || (fault.is_in(UNSEEN) && fault.name.starts_with("ip6 "));
    faults.retain(|fault| !left_out(fault));
    let next = AtomicUsize::new(0);
    let look = || {
        let (mut rows, mut cases) = (Vec::new(), cases().unwrap().to_vec());
        while let Some(fault) = faults.get(next.fetch_add(1, Ordering::Relaxed)) {
            rows.push((fault, found_in(&mut Simulated::spoilt(fault.spoil.clone()), &mut cases)));
        }
        rows
    };
    let rows: Vec<_> = std::thread::scope(|scope| {
        let workers = [(); 2].map(|()| scope.spawn(look));
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    let found = rows.iter().filter(|(_, by)| by.is_some()).count();
    println!("{} faults: {found} found", faults.len());
    let wrong: BTreeMap<_, _> = rows
        .iter()
        .filter(|(fault, by)| fault.is_in(UNSEEN) == by.is_some())
        .map(|(fault, by)| (&fault.name, by.as_deref().unwrap_or("no case sees it")))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(found >= 50);
}

#[test]
fn each_fault_of_affinity_is_found_by_packets() {
    let Some(mut search) = Search::by(Compiler::Nftables) else { return };
    search.cases.retain(|known| known.case.id.starts_with("affinity/"));
    let (mut missed, mut found) = (Vec::new(), 0);
    // "one less" may be one that no case of these looks at; the rule for SCTP wants sockets that few kernels have.
    let shown = |fault: &Fault| {
        !["sctp", "learning: no rule 3", "one less", "learn-tcp: refuses", "learn-udp: refuses"]
            .iter()
            .any(|word| fault.what().contains(word))
    };
    for fault in faults().into_iter().filter(|fault| is_of_affinity(fault) && shown(fault)) {
        // A draw may hide a fault once.
        match (0..3).find_map(|_| search.found_by(&fault, &[], false).unwrap()) {
            Some(by) => {
                println!("{}: {by}", fault.name);
                found += 1;
            }
            None => missed.push(fault.name),
        }
    }
    println!("{found} faults of affinity found");
    assert!(missed.is_empty(), "no case sees:\n{missed:#?}");
}
