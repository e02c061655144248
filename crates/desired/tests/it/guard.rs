//! What may not be removed yet.
//!
//! An owner whose kind was not read is unknown, not absent. A pod of this node is always known: its file is read first.

use std::collections::{BTreeMap, BTreeSet};

use ripstop_desired::{Desired, may_delete, migration_keys};
use ripstop_netmodel::{Entry, Key, Kind, Model, Ns, RecordScope};
use ripstop_plan::{Action, diff_all};
use ripstop_tables::{PodRow, PodState, Start, StoreKind, Tables};

use crate::clusters;
use crate::scenario::{Scenario, facts, kept, start};

/// A node that has read these kinds and found nothing.
fn knowing(kinds: &[StoreKind]) -> Tables {
    let mut s = Scenario::new();
    for kind in kinds {
        s.sync(*kind);
    }
    // Nobody speaks BGP, or its peers have sent what they know.
    s.tables.cluster.bgp.known = true;
    s.tables
}

#[test]
fn what_bgp_brought_stays_until_peers_have_sent_what_they_know() {
    let mut tables = knowing(&[StoreKind::Networks, StoreKind::Nodes, StoreKind::Claims]);
    let everything = everything();
    let groups = || everything.iter().filter(|(key, _)| key.kind() == Kind::NexthopGroup);
    assert!(groups().count() > 0 && groups().all(|(key, entry)| ask(&tables, key, entry).is_ok()));
    tables.cluster.bgp.known = false;
    assert!(groups().all(|(key, entry)| ask(&tables, key, entry).is_err()));
}

/// Everything that any story wants, with whose it is.
fn everything() -> Model {
    let mut model = Model::new();
    for (_, cluster) in clusters::all() {
        for (_, entry) in Desired::of(&cluster.tables).model().iter() {
            model.insert_entry(entry.clone());
        }
    }
    model
}

fn is_of_a_pod(key: &Key, entry: &Entry) -> bool {
    let owner = entry.owner.as_ref().unwrap().as_str();
    owner.starts_with("pod/") || owner.starts_with("container/") || matches!(key.ns(), Some(Ns::Path(_)))
}

/// What is observed names no owner, or at best a link's: the answer must not depend on one.
fn ask(tables: &Tables, key: &Key, entry: &Entry) -> Result<(), String> {
    let unowned = Entry { owner: None, ..entry.clone() };
    let answer = may_delete(tables, key, entry);
    assert_eq!(may_delete(tables, key, &unowned), answer, "{key}");
    answer
}

#[test]
fn nothing_of_the_store_goes_before_the_store_is_read() {
    let tables = knowing(&[]);
    for (key, entry) in everything().iter() {
        let may = ask(&tables, key, entry);
        let local = matches!(key, Key::Sysctl { .. } | Key::LinkSysctl { .. });
        assert_eq!(may.is_ok(), is_of_a_pod(key, entry) || local, "{key} of {:?}: {may:?}", entry.owner);
    }
}

#[test]
fn what_a_pod_has_goes_with_the_pod_whatever_is_known() {
    let mut kinds: BTreeMap<Kind, usize> = BTreeMap::new();
    for (key, entry) in everything().iter().filter(|(key, entry)| is_of_a_pod(key, entry)) {
        assert_eq!(ask(&knowing(&[]), key, entry), Ok(()), "{key}");
        *kinds.entry(key.kind()).or_default() += 1;
    }
    for kind in [Kind::Record, Kind::Link, Kind::Address, Kind::Neighbour, Kind::Route, Kind::NftTable, Kind::Qdisc] {
        assert!(kinds.contains_key(&kind), "no {kind:?} of a pod was asked for");
    }
}

/// Its addresses are the pod's until DEL; of a namespace that two interfaces share, each keeps its own.
#[test]
fn nothing_is_taken_from_a_pod_that_stands() {
    let cluster = clusters::bridge_vxlan().tables;
    let model = Desired::of(&cluster);
    let inside = |key: &Key| matches!(key, Key::Address { ns: Ns::Path(_), .. } | Key::Route { ns: Ns::Path(_), .. });
    let objects: Vec<_> = model.model().iter().filter(|(key, _)| inside(key)).collect();
    assert!(objects.len() >= 6);
    let mut gone = cluster.clone();
    for row in gone.pods.values_mut() {
        *row = std::sync::Arc::new(PodRow { state: PodState::Gone, ..(**row).clone() });
    }
    let mut other = cluster.clone();
    for row in other.pods.values_mut() {
        let mut moved = (**row).clone();
        moved.attachment.ifname = "net1".parse().unwrap();
        *row = std::sync::Arc::new(moved);
    }
    for (key, entry) in objects {
        assert!(ask(&cluster, key, entry).unwrap_err().starts_with("kept: pod/default/"), "{key}");
        assert_eq!(ask(&gone, key, entry), Ok(()), "{key}");
        assert_eq!(ask(&other, key, entry), Ok(()), "{key} is not on net1");
    }
}

/// The routes that hold a pod's packets short while a migration lasts go with it, but not with their network.
#[test]
fn what_holds_packets_short_goes_with_the_migration() {
    let migrating = Desired::of(&clusters::bridge_migrating().tables);
    let (ended, unknown) = (clusters::bridge_vxlan().tables, {
        let mut tables = clusters::bridge_vxlan().tables;
        tables.networks.clear();
        tables
    });
    let routes = migrating.model().iter().filter(|(key, _)| matches!(key, Key::Route { ns: Ns::Path(_), .. }));
    let left: BTreeSet<Key> = ended.pods.values().flat_map(|row| migration_keys(&ended, row)).collect();
    let (mut go, mut stay) = (0, 0);
    for (key, entry) in routes {
        assert!(ask(&unknown, key, entry).is_err(), "{key}");
        if Desired::of(&ended).model().get(key).is_none() {
            assert_eq!(ask(&ended, key, entry), Ok(()), "{key}");
            assert!(left.contains(key), "{key} is looked for by an agent that was away");
            go += 1;
        } else {
            assert!(ask(&ended, key, entry).is_err(), "{key}");
            stay += 1;
        }
    }
    assert_eq!((go, stay), (6, 3));
}

#[test]
fn each_object_waits_for_the_kinds_it_comes_from() {
    use StoreKind::{Claims, Networks, Nodes};
    let networks = knowing(&[Networks]);
    let claims = knowing(&[Networks, Claims]);
    let all = knowing(&[Networks, Nodes, Claims]);
    for (key, entry) in everything().iter().filter(|(key, entry)| !is_of_a_pod(key, entry)) {
        let answers = [&networks, &claims, &all].map(|tables| ask(tables, key, entry).is_ok());
        let expected = match key.kind() {
            Kind::Record => [false, false, false],
            Kind::Sysctl | Kind::LinkSysctl | Kind::Link | Kind::NftTable => [true, true, true],
            Kind::ForwardJump | Kind::Forwarder | Kind::IpipProgram => [true, true, true],
            // The node's own address comes from its claim, and every route to pods has it as its source.
            Kind::Address => [false, true, true],
            _ => [false, false, true],
        };
        assert_eq!(answers, expected, "{key}");
    }
}

#[test]
fn a_refusal_says_what_is_not_known() {
    let model = everything();
    let refusal = |tables: &Tables, kind: Kind| {
        let (key, entry) = model.iter().find(|(key, entry)| key.kind() == kind && !is_of_a_pod(key, entry)).unwrap();
        ask(tables, key, entry).unwrap_err()
    };
    assert_eq!(
        refusal(&knowing(&[]), Kind::Link),
        "kept: networks have not been read yet, so nobody knows whether it is still wanted"
    );
    assert_eq!(
        refusal(&knowing(&[StoreKind::Networks]), Kind::Route),
        "kept: nodes have not been read yet, so nobody knows whether it is still wanted"
    );
    assert_eq!(refusal(&knowing(&StoreKind::ALL), Kind::Record), "a record of kind nodes is removed by name only");
}

#[test]
fn what_a_snapshot_said_is_known() {
    let snapshot = kept(&clusters::routed_vxlan_dual().tables, None);
    let tables = Tables::new(Start { snapshot: Some(snapshot), ..start(facts()) });
    for (key, entry) in everything().iter() {
        let is_record = matches!(key, Key::Record { scope: RecordScope::Cluster(_), .. });
        assert_eq!(ask(&tables, key, entry).is_err(), is_record, "{key}");
    }
}

/// The agent starts anew without a snapshot: kind after kind is read, in any order, and at no moment does the plan remove
/// anything that is wanted in the end.
#[test]
fn a_start_without_a_snapshot_tears_nothing() {
    use StoreKind::{Alive, Claims, Networks, Nodes};
    for (name, cluster) in clusters::all() {
        // Which ranges it may use, the engine says only when the claims are confirmed.
        let running = Desired::of(&cluster.tables);
        for order in
            [[Networks, Nodes, Claims], [Claims, Nodes, Networks], [Nodes, Networks, Claims], [Networks, Claims, Nodes]]
        {
            let config = cluster.tables.config.clone();
            let mut s = Scenario::with(Start { config, ..start(cluster.tables.facts.clone()) });
            s.tables.cluster = cluster.tables.cluster.clone();
            s.tables.pods = cluster.tables.pods.clone();
            s.tables.realised = cluster.tables.realised.clone();
            for kind in order.into_iter().chain([Alive]) {
                match kind {
                    Networks => cluster.tables.networks.values().for_each(|row| drop(s.put(&*row.value))),
                    Nodes => cluster.tables.nodes.values().for_each(|row| drop(s.put(&*row.value))),
                    Claims => cluster.tables.claims.values().for_each(|row| drop(s.put(&*row.value))),
                    _ => {}
                }
                s.sync(kind);
                let tables = &s.tables;
                let wanted = Desired::of(tables);
                let guard = |key: &Key, entry: &Entry| may_delete(tables, key, entry);
                let plan = diff_all(running.model(), wanted.model(), &guard);
                let torn = plan.steps.iter().find(|step| step.action == Action::Delete);
                assert!(torn.is_none(), "{name}: with {kind:?} of {order:?}, {torn:?}");
                let remade =
                    plan.steps.iter().find(|step| step.action == Action::Update && step.key.kind() != Kind::Record);
                if kind == Alive {
                    assert!(remade.is_none(), "{name}: in the end nothing differs, but {remade:?}");
                }
            }
        }
    }
}
