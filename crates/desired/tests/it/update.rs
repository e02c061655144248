//! A model that follows its tables, and a kernel that follows the model.
//!
//! A walk is a random history of one node: records come, change, break and go, links and pods too. After each change the
//! model that was kept up to date must be the one made anew, and the keys it names must be all that differ. The plans of
//! these keys, run on a model that refuses what the kernel refuses, must keep that at what is wanted.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;
use ripstop_desired::{AT_ONCE, Desired, may_delete};
use ripstop_netmodel::{Entry, Key, LinkKind, Model, Object, RecordScope, Resource};
use ripstop_objects::{BackendKind, ClaimState, Receive, ToNodes, Wiring};
use ripstop_plan::{Action, apply_to_model, diff, diff_all};
use ripstop_tables::{Change, PodRow, PodState, StoreInput, StoreKind};
use serde_json::json;

use crate::scenario::{
    Scenario, alive, claim, claim_key_of, facts, host_link, name, network, network_name, node_record, pod_row, prefix,
};

/// One change, made of bytes.
type Move = (u8, u8, u8, u8);

const NETWORKS: [(&str, &[&str]); 2] = [("default", &["10.244.0.0/16", "fd00:10::/48"]), ("storage", &["10.9.0.0/16"])];
const NODES: [&str; 3] = ["n1", "n2", "n3"];
const RANGES: [(&str, &str); 5] = [
    ("default", "10.244.1.0/24"),
    ("default", "10.244.2.0/24"),
    ("default", "fd00:10:0:1::/64"),
    ("storage", "10.9.1.0/24"),
    ("storage", "10.9.2.0/24"),
];

fn of<T: Clone>(list: &[T], n: u8) -> T {
    list[usize::from(n) % list.len()].clone()
}

/// Makes a change, and says what an agent would be told of it.
fn step(s: &mut Scenario, (what, a, b, c): Move) -> BTreeSet<Change> {
    match what % 12 {
        0 | 1 => change_network(s, a, b, c),
        2 | 3 => change_node(s, a, b, c),
        4 | 5 => change_claim(s, a, b, c),
        6 => own(s, a, b),
        7 => change_facts(s, a, b),
        8 | 9 => change_pod(s, a, b, c),
        10 => {
            let links = ["rip0", "ript1", "ript2"];
            s.tables.realised = (0..3).filter(|n| a & (1 << n) != 0).map(|n| name(links[n])).collect();
            BTreeSet::from([Change::Realised])
        }
        _ => match a % 4 {
            // A list without the network that a pod is on is a network that goes under it, also where the pod came while
            // it was read.
            0 | 1 if of(&StoreKind::ALL, b) == StoreKind::Networks && !s.tables.pods.is_empty() => BTreeSet::new(),
            0 => s.sync(of(&StoreKind::ALL, b)),
            1 => s.say(StoreInput::Reset { kind: of(&StoreKind::ALL, b) }),
            2 => s.put(&alive(of(&NODES, b), u64::from(c))),
            _ => s.say(if b.is_multiple_of(2) { StoreInput::Away { reason: "gone".into() } } else { StoreInput::Back }),
        },
    }
}

fn change_network(s: &mut Scenario, a: u8, b: u8, c: u8) -> BTreeSet<Change> {
    let (name, ranges) = of(&NETWORKS, a);
    // Neither goes nor is wired anew while pods are on it: what is on the way is refused before.
    let in_use = s.tables.pods.values().find(|row| row.network == network_name(name)).map(|row| row.wiring);
    match b % 6 {
        0 if in_use.is_some() => BTreeSet::new(),
        0 => s.delete(StoreKind::Networks, name),
        1 => s.put_json(StoreKind::Networks, name, json!({"spec": "broken"})),
        _ => s.put(&network(name, &ranges[..ranges.len().min(1 + usize::from(c % 2))], |spec| {
            spec.backend.kind = of(&[BackendKind::HostGw, BackendKind::Vxlan, BackendKind::Auto], b);
            // An identifier in use does not change; the second network may share the first one's.
            spec.backend.vni = if name == "default" { 1 } else { 1 + u32::from(c / 2 % 2) };
            spec.backend.port = of(&[8472, 4789], c / 4);
            spec.wiring = in_use.unwrap_or(of(&[Wiring::Routed, Wiring::Bridge], c / 8));
            spec.masquerade.enabled = !(c / 16).is_multiple_of(4);
            spec.masquerade.to_nodes = of(&[ToNodes::Auto, ToNodes::Always, ToNodes::Never], c / 64);
        })),
    }
}

fn change_node(s: &mut Scenario, a: u8, b: u8, c: u8) -> BTreeSet<Change> {
    let node = of(&NODES, a);
    if b.is_multiple_of(5) {
        return s.delete(StoreKind::Nodes, node);
    }
    // Near, far, inside a network's range, and of one family only.
    let addresses: &[&[&str]] = &[
        &["172.30.1.12/24", "fd00:30:1::12/64"],
        &["172.30.2.12/24", "fd00:30:2::12/64"],
        &["10.9.7.7/24"],
        &["fd00:30:1::13/64"],
    ];
    let mut record = node_record(node, of(addresses, b));
    record.receives = match c % 4 {
        0 => vec![],
        1 => vec![Receive::Plain],
        _ => record.receives,
    };
    for receive in &mut record.receives {
        if let Receive::Vxlan(vxlan) = receive {
            vxlan.vni = 1 + u32::from(c / 4 % 2);
            vxlan.port = of(&[8472, 4789], c / 8);
        }
    }
    s.put(&record)
}

fn change_claim(s: &mut Scenario, a: u8, b: u8, c: u8) -> BTreeSet<Change> {
    let (network, range) = of(&RANGES, a);
    match b % 4 {
        0 => s.delete(StoreKind::Claims, &claim_key_of(network, range)),
        _ => s.put(&claim(
            of(&NODES, c),
            network,
            range,
            of(&[ClaimState::Held, ClaimState::Held, ClaimState::Tentative], b),
        )),
    }
}

/// The engine says which ranges may be used.
fn own(s: &mut Scenario, a: u8, b: u8) -> BTreeSet<Change> {
    let (network, range) = of(&RANGES, a);
    let ranges = s.tables.own_ranges.entry(network_name(network)).or_default();
    ranges.retain(|own| *own != prefix(range));
    if b.is_multiple_of(2) {
        ranges.push(prefix(range));
        ranges.sort();
    }
    BTreeSet::from([Change::Network(network_name(network))])
}

fn change_facts(s: &mut Scenario, a: u8, b: u8) -> BTreeSet<Change> {
    let mut changed = facts();
    match a % 4 {
        0 => {}
        1 => changed.links.clear(),
        2 => drop(changed.links.insert(name("eth0"), host_link(9000, &["172.30.2.11/24"]))),
        _ => drop(changed.links.insert(name("eth0"), host_link(1500, &["fd00:30:1::11/64"]))),
    }
    if b.is_multiple_of(3) {
        changed.default_links.clear();
    }
    s.tables.apply_facts(changed)
}

fn change_pod(s: &mut Scenario, a: u8, b: u8, c: u8) -> BTreeSet<Change> {
    let pods = [
        ("a", "default", &["10.244.1.7", "fd00:10:0:1::7"][..]),
        ("b", "storage", &["10.9.1.8"]),
        ("c", "default", &["10.244.1.9"]),
    ];
    let (pod, network, ips) = of(&pods, a);
    let Some(there) = s.tables.networks.get(&network_name(network)) else { return BTreeSet::new() };
    let ips = &ips[..ips.len().min(1 + usize::from(c % 2))];
    let row = pod_row(pod, network, ips, there.value.spec.wiring);
    let attachment = row.attachment.clone();
    match b % 4 {
        0 => drop(s.tables.pods.remove(&attachment)),
        1 => {
            // An interface that is there keeps its wiring; only its state changes.
            if let Some(there) = s.tables.pods.get(&attachment).cloned() {
                let gone = PodRow { state: PodState::Gone, ..(*there).clone() };
                s.tables.pods.insert(attachment.clone(), Arc::new(gone));
            }
        }
        _ => {
            s.tables.pods.entry(attachment.clone()).or_insert_with(|| Arc::new(row));
        }
    }
    BTreeSet::from([Change::Pod(attachment)])
}

fn moves(len: usize) -> impl Strategy<Value = Vec<Move>> {
    prop::collection::vec(any::<Move>(), 1..len)
}

/// Objects that no step removes.
fn has_absence(entry: &Entry) -> bool {
    match &entry.object {
        Object::Sysctl(_) => false,
        Object::Link(link) => !matches!(link.kind, LinkKind::VethPeer | LinkKind::Loopback),
        _ => true,
    }
}

fn is_of_the_store(key: &Key) -> bool {
    matches!(key, Key::Record { scope: RecordScope::Cluster(_), .. })
}

/// What is left of a plan's goal: keys that are neither as wanted nor refused.
fn unreached(kernel: &Model, wanted: &Model, refused: &BTreeSet<Key>) -> Vec<String> {
    let missing = wanted.iter().filter(|(key, entry)| {
        !is_of_the_store(key) && !kernel.get(key).is_some_and(|is| entry.object.satisfied_by(&is.object))
    });
    let left = kernel.iter().filter(|(key, entry)| {
        wanted.get(key).is_none() && has_absence(entry) && !refused.contains(*key) && !is_of_the_store(key)
    });
    missing.map(|(key, _)| format!("missing {key}")).chain(left.map(|(key, _)| format!("left {key}"))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Kept up to date, the model is the one made anew, and names every key that differs from before.
    #[test]
    fn a_model_kept_up_to_date_is_the_one_made_anew(moves in moves(40)) {
        let mut s = Scenario::new();
        let mut desired = Desired::of(&s.tables);
        for one in moves {
            let before = desired.model().clone();
            let changes = step(&mut s, one);
            let touched = desired.update(&s.tables, &changes);
            let anew = Desired::of(&s.tables);
            for key in before.keys().chain(anew.model().keys()) {
                let (kept, new) = (desired.model().get(key), anew.model().get(key));
                prop_assert_eq!(kept, new, "{} after {:?}", key, changes);
                let differs = before.get(key) != new;
                prop_assert!(!differs || touched.contains(key), "{key} was not named after {changes:?}");
            }
        }
    }

    /// A kernel that is given the plans of the touched keys is always what is wanted: no step fails, nothing is left.
    /// Where the kernel is read anew in between, nothing is to be done.
    #[test]
    fn a_kernel_follows_every_change(moves in moves(30)) {
        let mut s = Scenario::new();
        s.sync_all();
        let mut desired = Desired::of(&s.tables);
        let mut kernel = Model::new();
        let mut refused: BTreeSet<Key> = BTreeSet::new();
        for one in moves {
            let mut keys = step_and_touch(&mut s, &mut desired, one);
            keys.append(&mut refused);
            keys.retain(|key| !is_of_the_store(key));
            let tables = s.tables.clone();
            let guard = |key: &Key, entry: &Entry| may_delete(&tables, key, entry);
            let plan = diff(&kernel, desired.model(), &keys, &guard);
            for step in &plan.steps {
                if step.action == Action::Refuse {
                    refused.insert(step.key.clone());
                }
                let done = apply_to_model(&mut kernel, step);
                prop_assert!(done.is_ok(), "{:?} of {:?}: {:?}", step.action, step.key, done);
            }
            let unreached = unreached(&kernel, desired.model(), &refused);
            prop_assert!(unreached.is_empty(), "after {one:?}: {unreached:?}");
            let sweep = diff_all(&kernel, desired.model(), &guard);
            let idle = sweep.steps.iter().all(|step| step.action == Action::Refuse || is_of_the_store(&step.key));
            prop_assert!(idle, "a sweep found {:?}", sweep.view());
        }
    }

    /// The tables are as the kernel takes them, each element fits its set, and no two intervals of a set overlap.
    #[test]
    fn rules_are_always_as_the_kernel_takes_them(moves in moves(40)) {
        let mut s = Scenario::new();
        s.sync_all();
        for one in moves {
            step(&mut s, one);
        }
        let desired = Desired::of(&s.tables);
        let (tables, elements) = crate::golden::ruleset(desired.model());
        for table in &tables {
            prop_assert_eq!(table.check(), Ok(()));
        }
        let mut intervals = Vec::new();
        for (key, body) in &elements {
            let table = tables.iter().find(|table| table.family == key.family && table.name == key.table);
            prop_assert!(table.is_some_and(|table| table.check_element(&key.set, &key.key, body).is_ok()), "{key:?}");
            if key.key.interval {
                intervals.push((&key.set, key.key.parts[0].bounds()));
            }
        }
        for (n, (set, a)) in intervals.iter().enumerate() {
            for (_, b) in intervals[..n].iter().filter(|(other, _)| other == set) {
                prop_assert!(a.1 < b.0 || b.1 < a.0, "{a:?} and {b:?} overlap in {set}");
            }
        }
    }
}

fn step_and_touch(s: &mut Scenario, desired: &mut Desired, one: Move) -> BTreeSet<Key> {
    let changes = step(s, one);
    desired.update(&s.tables, &changes)
}

/// Work is proportional to the change: a peer touches its own part, a sign of life nothing.
#[test]
fn a_change_of_one_peer_touches_its_own_objects_only() {
    let mut s = crate::clusters::auto_two_subnets();
    let mut desired = Desired::of(&s.tables);
    let changes = s.put(&node_record("n3", &["172.30.2.99/24"]));
    let touched = desired.update(&s.tables, &changes);
    let owners: BTreeSet<String> = touched
        .iter()
        .filter_map(|key| desired.model().get(key))
        .map(|entry| entry.owner.as_ref().unwrap().to_string())
        .collect();
    assert_eq!(owners, BTreeSet::from(["node/n3".to_owned()]));
    assert_eq!(touched.len(), 3, "its forwarding entry, and its old and new address: {touched:?}");
    let changes = s.put(&alive("n3", 9));
    assert!(desired.update(&s.tables, &changes).is_empty());
}

/// Where a change touches thousands of peers, their parts are made so many at a time, and in the end are as made at once.
#[test]
fn many_peers_are_made_in_parts() {
    const PEERS: usize = 2 * AT_ONCE + 9;
    let mut s = Scenario::new();
    s.sync_all();
    s.put(&network("default", &["10.0.0.0/8"], |spec| spec.backend.kind = BackendKind::Vxlan));
    for n in 0..PEERS {
        let (peer, [.., high, low]) = (format!("peer{n:05}"), n.to_be_bytes());
        s.put(&node_record(&peer, &[&format!("172.30.{}.{low}/16", 100 + high)]));
        s.put(&claim(&peer, "default", &format!("10.{high}.{low}.0/24"), ClaimState::Held));
    }
    let mut desired = Desired::default();
    let mut touched = desired.update(&s.tables, &BTreeSet::from([Change::Facts]));
    let mut parts = 0;
    while !desired.is_whole() {
        assert!(
            desired.model().len() < parts * 8 * AT_ONCE + 64,
            "{} objects after {parts} parts",
            desired.model().len()
        );
        touched.append(&mut desired.go_on(&s.tables));
        parts += 1;
    }
    assert_eq!(parts, 3);
    let anew = Desired::of(&s.tables);
    assert_eq!(desired.model(), anew.model());
    assert!(anew.model().keys().eq(&touched), "every key was named");
    // Of a few, all are made at once.
    let few = BTreeSet::from([Change::Node("peer00007".parse().unwrap())]);
    desired.update(&s.tables, &few);
    assert!(desired.is_whole());
}
