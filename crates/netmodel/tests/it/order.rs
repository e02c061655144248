//! Which objects belong to which, and which comes first.

use std::collections::BTreeSet;

use ripstop_netmodel::{
    Address, Entry, Fdb, Key, Kind, LinkKind, Model, Neighbour, Nexthop, NftElement, NftPart, NftTable, NftValues, Ns,
    Object, Qdisc, Record, RecordGuard, RecordScope, Resource, Route, RouteTarget, Scope, Sysctl,
};
use ripstop_nft::model::{ElementBody, Part, Table, TableFamily, Value};
use ripstop_types::Owner;

use crate::{element, ip, link, link_key, mac, name, pod, prefix};

/// One of each thing that a link can have, the smallest and the greatest keys among them.
fn on_link(ns: &Ns, dev: &str) -> Vec<Object> {
    let mut objects: Vec<Object> = Vec::new();
    for path in ["a", "net/ipv4/conf/x/rp_filter"] {
        let (link, path) = (Some(name(dev)), path.into());
        objects.push(Sysctl { ns: ns.clone(), link, path, value: "0".into() }.into());
    }
    for text in ["0.0.0.0", "10.0.0.1", "255.255.255.255", "::", "ffff::"] {
        objects.push(Address { ns: ns.clone(), link: name(dev), ip: ip(text), len: 32, scope: Scope::Global }.into());
        objects.push(Neighbour { ns: ns.clone(), link: name(dev), ip: ip(text), mac: mac(1) }.into());
    }
    if *ns == Ns::Host {
        for bytes in [[0; 6], [0xff; 6]] {
            let mac = ripstop_types::Mac(bytes);
            objects.push(Fdb { link: name(dev), mac, dst: ip("192.0.2.1") }.into());
        }
    }
    objects.push(Qdisc { ns: ns.clone(), link: name(dev), rate: 1, burst: 1, limit: 1 }.into());
    objects
}

/// Links with names of which one begins another, in three namespaces, each with everything on it.
fn links() -> Model {
    let mut model = Model::new();
    for ns in [Ns::Host, pod(1), pod(11)] {
        for dev in ["eth", "eth0", "eth00", "eth1"] {
            model.insert(link(&ns, dev, LinkKind::Bridge), None);
            on_link(&ns, dev).into_iter().for_each(|object| assert!(model.insert(object, None).is_none()));
        }
    }
    model
}

#[test]
fn children_of_a_link_are_all_that_is_on_it_and_nothing_of_its_neighbours() {
    let model = links();
    for ns in [Ns::Host, pod(1), pod(11)] {
        for dev in ["eth", "eth0", "eth00", "eth1"] {
            let parent = link_key(&ns, dev);
            let found: Vec<Key> = model.children(&parent).map(|(key, _)| key.clone()).collect();
            let mut expected: Vec<Key> = on_link(&ns, dev).iter().map(Resource::key).collect();
            expected.sort();
            assert_eq!(found, expected, "of {parent}");
            assert!(found.iter().all(|key| key.parent().as_ref() == Some(&parent)));
        }
    }
    assert_eq!(model.children(&link_key(&Ns::Host, "eth2")).count(), 0);
}

#[test]
fn children_of_a_table_are_the_elements_of_all_its_sets() {
    let mut model = Model::new();
    // Names that sort at both ends of what a name can be, and tables whose names begin like the other's.
    let sets = ["A", "Z", "_under", "a", "pods4", "zz"];
    for family in [TableFamily::Inet, TableFamily::Bridge] {
        for table in ["rip", "ripstop", "ripstop2"] {
            model.insert(NftTable { table: Table::new(family, table) }, None);
            for set in sets {
                for part in [Value::Service(0), Value::Service(65_535), Value::Mark(0)] {
                    let key = element(family, table, set, vec![part.into()]);
                    model.insert(NftElement { key, body: ElementBody::default() }, None);
                }
            }
        }
    }
    for family in [TableFamily::Inet, TableFamily::Bridge] {
        let parent = Key::NftTable { family, name: "ripstop".into() };
        let children: Vec<&Key> = model.children(&parent).map(|(key, _)| key).collect();
        assert_eq!(children.len(), sets.len() * 3);
        assert!(children.iter().all(|key| key.parent().as_ref() == Some(&parent)));
    }
}

#[test]
fn parts_are_children_of_their_table_and_have_their_maps_values() {
    let mut model = Model::new();
    let family = TableFamily::Ip;
    for table in ["ripsto", "ripstop", "ripstop2"] {
        model.insert(NftTable { table: Table::new(family, table) }, None);
        for part in ["A/a", "a/1", "a/11", "z/z"] {
            model.insert(NftPart::from(Part::new(family, table, part)), None);
            for map in [part.to_owned(), format!("{part}/local")] {
                let (table, map) = (table.into(), map.parse().unwrap());
                model.insert(NftValues { family, table, map, values: BTreeSet::new(), found: false }, None);
            }
        }
    }
    let parent = Key::NftTable { family, name: "ripstop".into() };
    assert_eq!(model.children(&parent).count(), 4);
    let part = Key::NftPart { family, table: "ripstop".into(), name: "a/1".into() };
    let values: Vec<&Key> = model.children(&part).map(|(key, _)| key).collect();
    assert_eq!(values.len(), 2, "{values:?}");
    assert!(values.iter().all(|key| key.parent().as_ref() == Some(&part)));
}

/// What has no children by name may still carry others (a nexthop its routes): that is no kinship.
#[test]
fn other_objects_have_no_children() {
    let mut model = links();
    let id = 0x5200_0001;
    model.insert(Nexthop { id, link: name("eth0"), gateway: ip("10.0.0.2"), onlink: false }, None);
    let route = Route {
        ns: Ns::Host,
        table: 254,
        dst: prefix("10.1.0.0/24"),
        metric: 0,
        target: RouteTarget::Nexthop(id),
        src: None,
        mtu: None,
    };
    model.insert(route, None);
    for key in model.keys().filter(|key| key.kind() != Kind::Link) {
        assert_eq!(model.children(key).count(), 0, "{key}");
    }
}

/// The order of keys is the order of making: every parent comes before its children.
#[test]
fn parents_come_first() {
    let model = links();
    for key in model.keys() {
        if let Some(parent) = key.parent() {
            assert!(parent < *key, "{parent} and {key}");
        }
    }
    let link = link_key(&Ns::Host, "eth0");
    let keys = [
        Key::Record { scope: RecordScope::Boot("leases".into()), key: "z".into() },
        Key::Sysctl { ns: pod(9), path: "z".into() },
        Key::NftTable { family: TableFamily::Inet, name: "ripstop".into() },
        Key::NftPart { family: TableFamily::Inet, table: "ripstop".into(), name: "p/1".into() },
        Key::NftElement(element(TableFamily::Inet, "ripstop", "pods4", vec![Value::Service(1).into()])),
        Key::NftValues { family: TableFamily::Inet, table: "ripstop".into(), map: "p/1".into() },
        link,
        Key::LinkSysctl { ns: Ns::Host, link: name("a"), path: "a".into() },
        Key::Address { ns: Ns::Host, link: name("a"), ip: ip("0.0.0.0") },
        Key::Neighbour { ns: Ns::Host, link: name("a"), ip: ip("0.0.0.0") },
        Key::Fdb { link: name("a"), mac: mac(0) },
        Key::Nexthop { id: 0 },
        Key::main_route(Ns::Host, prefix("0.0.0.0/0")),
        Key::Qdisc { ns: Ns::Host, link: name("a") },
    ];
    assert!(keys.is_sorted_by(|a, b| a < b), "kinds in the order of making");
    assert!(keys.iter().map(Key::kind).is_sorted(), "and Kind has the same order");
}

/// An entry lies under its object's own key, so a second object of that key takes its place.
#[test]
fn an_object_lies_under_its_own_key() {
    let record = |value: &str| Record {
        scope: RecordScope::Cluster("nodes".into()),
        key: "n1".into(),
        value: value.into(),
        guard: RecordGuard::Any,
    };
    let mut model: Model = [record("1"), record("2")]
        .map(|record| Entry { object: record.into(), owner: Some(Owner::agent()) })
        .into_iter()
        .collect();
    assert_eq!(model.len(), 1);
    let key = record("").key();
    assert_eq!(model.get(&key).unwrap().object, record("2").into());
    assert_eq!(model.insert(record("3"), None).unwrap().object, record("2").into());
    assert_eq!(model.remove(&key).unwrap().object, record("3").into());
    assert!(model.is_empty());
}

#[test]
fn a_setting_of_a_link_and_one_of_the_namespace_are_told_apart() {
    let path = "net/ipv6/conf/eth0/disable_ipv6";
    let setting = |link| Sysctl { ns: Ns::Host, link, path: path.into(), value: "0".into() };
    assert_eq!(setting(None).key().kind(), Kind::Sysctl);
    assert_eq!(setting(None).key().parent(), None);
    assert_eq!(setting(Some(name("eth0"))).key().kind(), Kind::LinkSysctl);
    assert_eq!(setting(Some(name("eth0"))).key().parent(), Some(link_key(&Ns::Host, "eth0")));
}

#[test]
fn a_range_of_the_order_begins_where_it_is_told_to() {
    let model = links();
    let from = link_key(&pod(1), "eth00");
    let keys: Vec<&Key> = model.range(from.clone()).map(|(key, _)| key).collect();
    assert_eq!(keys.first(), Some(&&from));
    assert_eq!(keys.len(), model.keys().filter(|key| **key >= from).count());
}
