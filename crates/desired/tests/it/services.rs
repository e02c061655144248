//! Services in the model: nothing before both kinds are known, little for a change, slots that stay.

use std::collections::BTreeSet;

use ripstop_desired::services::{self, unraised};
use ripstop_desired::{Desired, may_delete};
use ripstop_netmodel::{Entry, HostFacts, IptablesBackend, Key, Kind, Limit, Model, NftTable, Object};
use ripstop_objects::service::{EndpointSlice, Service};
use ripstop_objects::{AgentConfig, ClusterObject, ObjectKind, Proxy};
use ripstop_tables::{Change, Leaving, ObjectInput, Stage, Start, Withdrawn};
use ripstop_types::{Millis, Revision};
use serde_json::json;

use crate::scenario::*;

fn serving() -> Scenario {
    serving_by("proxy: nftables")
}

fn serving_by(how: &str) -> Scenario {
    let text = format!("services: {{{how}, serviceCIDRs: [10.96.0.0/16]}}");
    let (config, _) = AgentConfig::decode(&text).unwrap();
    let mut scenario = Scenario::with(Start { config, ..start(facts()) });
    scenario.sync_all();
    scenario.network("default", &["10.244.0.0/16"], |_| ()).own("default", "10.244.1.0/24")
}

fn service(name: &str, ip: &str) -> ClusterObject {
    let spec = json!({"type": "NodePort", "clusterIP": ip, "ports": [{"port": 80, "nodePort": 30080}]});
    let object = json!({"metadata": {"namespace": "shop", "name": name}, "spec": spec});
    ClusterObject::Service(Box::new(Service::from_value(object).unwrap().0))
}

fn slice(service: &str, hosts: impl IntoIterator<Item = u8>) -> ClusterObject {
    let endpoints: Vec<_> = hosts.into_iter().map(|n| json!({"addresses": [format!("10.244.1.{n}")]})).collect();
    let labels = json!({"kubernetes.io/service-name": service});
    let metadata = json!({"namespace": "shop", "name": format!("{service}-1"), "labels": labels});
    let object =
        json!({"metadata": metadata, "addressType": "IPv4", "ports": [{"port": 8080}], "endpoints": endpoints});
    ClusterObject::EndpointSlice(Box::new(EndpointSlice::from_value(object).unwrap().0))
}

fn put(scenario: &mut Scenario, object: ClusterObject) -> BTreeSet<Change> {
    scenario.tables.apply_object(&ObjectInput::Put { object, revision: Revision(1) })
}

fn synced(scenario: &mut Scenario, kind: ObjectKind) -> BTreeSet<Change> {
    scenario.tables.apply_object(&ObjectInput::Synced { kind, revision: Revision(2) })
}

fn of_services(model: &Model) -> Vec<String> {
    let of = |key: &&Key| matches!(key, Key::NftElement(element) if element.table.as_str() == "ripstop-services");
    model
        .keys()
        .filter(of)
        .map(ToString::to_string)
        .filter(|key| !key.contains("pods") && !key.contains("ranges"))
        .collect()
}

fn texts(keys: &BTreeSet<Key>) -> Vec<String> {
    keys.iter().map(ToString::to_string).collect()
}

#[test]
fn nothing_is_served_before_services_and_endpoints_are_known() {
    let mut scenario = serving();
    let mut desired = Desired::of(&scenario.tables);
    let base = Key::NftTable { family: ripstop_nft::model::TableFamily::Ip, name: "ripstop-services".into() };
    assert!(desired.model().get(&base).is_some());
    for object in [service("web", "10.96.0.1"), slice("web", [7])] {
        let changes = put(&mut scenario, object);
        desired.update(&scenario.tables, &changes);
    }
    let changes = synced(&mut scenario, ObjectKind::Service);
    desired.update(&scenario.tables, &changes);
    assert!(of_services(desired.model()).is_empty());
    // What is in the kernel stays meanwhile.
    let full = {
        let mut whole = scenario.clone();
        synced(&mut whole, ObjectKind::EndpointSlice);
        Desired::of(&whole.tables)
    };
    let (key, entry) = full.model().iter().find(|(key, _)| key.to_string().contains("endpoints")).unwrap();
    assert!(may_delete(&scenario.tables, key, entry).unwrap_err().contains("EndpointSlices have not been read yet"));
    let changes = synced(&mut scenario, ObjectKind::EndpointSlice);
    desired.update(&scenario.tables, &changes);
    assert_eq!(
        of_services(desired.model()),
        [
            "nft element ip ripstop-services cluster-ips { 10.96.0.1 }",
            "nft element ip ripstop-services endpoints { 10.96.0.1 . 6 . 80 . 0 }",
            "nft element ip ripstop-services endpoints { 172.30.1.11 . 6 . 30080 . 0 }",
            "nft element ip ripstop-services frontends { 10.96.0.1 . 6 . 80 }",
            "nft element ip ripstop-services frontends { 172.30.1.11 . 6 . 30080 }",
            "nft element ip ripstop-services hairpin { 10.244.1.7 . 10.244.1.7 }",
            "nft element ip ripstop-services masquerade-tcp { 172.30.1.11 . 30080 }",
        ]
    );
    assert_eq!(desired.model(), Desired::of(&scenario.tables).model());
    assert!(may_delete(&scenario.tables, key, entry).is_ok());
}

#[test]
fn a_changed_endpoint_touches_an_element_or_two_a_frontend() {
    let mut scenario = serving();
    for kind in [ObjectKind::Service, ObjectKind::EndpointSlice] {
        synced(&mut scenario, kind);
    }
    put(&mut scenario, service("web", "10.96.0.1"));
    put(&mut scenario, slice("web", 10..60));
    let mut desired = Desired::of(&scenario.tables);
    // One goes, another comes: its slot.
    let changes = put(&mut scenario, slice("web", (10..30).chain(31..61)));
    let touched = desired.update(&scenario.tables, &changes);
    assert_eq!(
        texts(&touched),
        [
            "nft element ip ripstop-services endpoints { 10.96.0.1 . 6 . 80 . 20 }",
            "nft element ip ripstop-services endpoints { 172.30.1.11 . 6 . 30080 . 20 }",
            "nft element ip ripstop-services hairpin { 10.244.1.30 . 10.244.1.30 }",
            "nft element ip ripstop-services hairpin { 10.244.1.60 . 10.244.1.60 }",
        ]
    );
    // One goes: the last takes its slot.
    let changes = put(&mut scenario, slice("web", (11..30).chain(31..61)));
    let touched = texts(&desired.update(&scenario.tables, &changes));
    assert_eq!(touched.len(), 2 * 3 + 1, "{touched:?}");
    // A model that is made anew beside what was found leaves it as it is.
    let again = Desired::beside(&scenario.tables, desired.model().clone());
    assert_eq!(again.model(), desired.model());
    assert_ne!(
        Desired::of(&scenario.tables).model(),
        desired.model(),
        "the slots are not in the order of addresses any more"
    );
    // The Service goes, and all of it.
    let name = "shop/web".into();
    let changes =
        scenario.tables.apply_object(&ObjectInput::Delete { kind: ObjectKind::Service, name, revision: Revision(3) });
    desired.update(&scenario.tables, &changes);
    assert!(of_services(desired.model()).is_empty());
}

/// Each part is a transaction, at which the kernel looks through all that is there: of ten times as many there are not ten times as many.
#[test]
fn of_many_services_ever_more_are_made_at_once() {
    let parts = |count: u16| {
        let mut scenario = serving();
        for number in 0..count {
            let [high, low] = number.to_be_bytes();
            let spec = json!({"clusterIP": format!("10.96.{high}.{low}"), "ports": [{"port": 80}]});
            let object = json!({"metadata": {"namespace": "shop", "name": format!("s{number}")}, "spec": spec});
            put(&mut scenario, ClusterObject::Service(Box::new(Service::from_value(object).unwrap().0)));
        }
        let mut desired = Desired::of(&scenario.tables);
        let mut changes = synced(&mut scenario, ObjectKind::Service);
        changes.append(&mut synced(&mut scenario, ObjectKind::EndpointSlice));
        desired.update(&scenario.tables, &changes);
        let mut parts = 0;
        while !desired.is_whole() {
            desired.go_on(&scenario.tables);
            parts += 1;
        }
        assert_eq!(desired.model(), Desired::of(&scenario.tables).model());
        parts
    };
    assert_eq!(parts(2_000), 8);
    assert!(parts(20_000) <= 3 * 8 + 4, "{}", parts(20_000));
}

#[test]
fn of_two_services_with_one_node_port_the_first_has_it_until_it_goes() {
    let mut scenario = serving();
    for kind in [ObjectKind::Service, ObjectKind::EndpointSlice] {
        synced(&mut scenario, kind);
    }
    for object in [service("b", "10.96.0.2"), slice("b", [7, 8]), service("a", "10.96.0.1"), slice("a", [9])] {
        put(&mut scenario, object);
    }
    let mut desired = Desired::of(&scenario.tables);
    let slots = |desired: &Desired| of_services(desired.model()).iter().filter(|key| key.contains("30080 . ")).count();
    assert_eq!(slots(&desired), 1, "{:?}", of_services(desired.model()));
    let changes = scenario.tables.apply_object(&ObjectInput::Delete {
        kind: ObjectKind::Service,
        name: "shop/a".into(),
        revision: Revision(3),
    });
    desired.update(&scenario.tables, &changes);
    assert_eq!(slots(&desired), 2);
    assert_eq!(desired.model(), Desired::of(&scenario.tables).model());
}

/// The parts, and the maps that are held to values, each with its owner.
fn parts(model: &Model) -> Vec<String> {
    let of = |key: &&Key| matches!(key, Key::NftPart { .. } | Key::NftValues { .. });
    let owner = |key: &Key| model.get(key).and_then(|entry| entry.owner.clone()).unwrap();
    model.keys().filter(of).map(|key| format!("{key} of {}", owner(key))).collect()
}

/// Every part suits its table, and what leads to one finds its chain.
fn assert_whole(model: &Model) {
    let table = |family, name: &ripstop_nft::model::Name| {
        let entry = model.get(&Key::NftTable { family, name: name.clone() }).unwrap();
        let Object::NftTable(table) = &entry.object else { panic!("{entry:?}") };
        table.table.clone()
    };
    let mut tables = std::collections::BTreeMap::new();
    for (_, entry) in model.iter() {
        let Object::NftPart(part) = &entry.object else { continue };
        assert_eq!(table(part.part.family, &part.part.table).check_part(&part.part), Ok(()));
        let merged = tables.entry(part.part.family).or_insert_with(|| table(part.part.family, &part.part.table));
        *merged = merged.clone().with_part(&part.part);
    }
    assert!(tables.values().all(|table| table.check().is_ok()));
    let nothing = Model::new();
    let plan = ripstop_plan::diff_all(&nothing, model, &|_: &Key, _: &Entry| Ok(()));
    let mut made = nothing;
    for step in &plan.steps {
        let is_of_services = step.key.to_string().contains("ripstop-services");
        assert_eq!(if is_of_services { ripstop_plan::apply_to_model(&mut made, step) } else { Ok(()) }, Ok(()));
    }
}

#[test]
fn chains_for_many_endpoints_come_and_go_with_who_needs_them() {
    let mut scenario = serving();
    for kind in [ObjectKind::Service, ObjectKind::EndpointSlice] {
        synced(&mut scenario, kind);
    }
    for object in [service("b", "10.96.0.2"), slice("b", 1..=200), service("a", "10.96.0.1"), slice("a", 1..=200)] {
        put(&mut scenario, object);
    }
    let mut desired = Desired::of(&scenario.tables);
    assert_eq!(parts(desired.model()), ["nft part ip ripstop-services endpoints/200 of service/shop/a"]);
    assert_whole(desired.model());
    let changes = put(&mut scenario, slice("a", 1..=64));
    let touched = texts(&desired.update(&scenario.tables, &changes));
    assert!(touched.contains(&"nft part ip ripstop-services endpoints/200".to_owned()), "{touched:?}");
    assert_eq!(parts(desired.model()), ["nft part ip ripstop-services endpoints/200 of service/shop/b"]);
    let changes = put(&mut scenario, slice("b", 1..=65));
    desired.update(&scenario.tables, &changes);
    assert_eq!(parts(desired.model()), ["nft part ip ripstop-services endpoints/65 of service/shop/b"]);
    assert_eq!(desired.model().len(), Desired::of(&scenario.tables).model().len());
    assert_whole(desired.model());
    let changes = put(&mut scenario, slice("b", 1..=3));
    desired.update(&scenario.tables, &changes);
    assert!(parts(desired.model()).is_empty());
}

fn sticky(name: &str, ip: &str, spec: serde_json::Value) -> ClusterObject {
    let mut all = json!({"type": "NodePort", "clusterIP": ip, "sessionAffinity": "ClientIP",
        "ports": [{"name": "http", "port": 80, "nodePort": 30080}]});
    all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    let object = json!({"metadata": {"namespace": "shop", "name": name}, "spec": all});
    ClusterObject::Service(Box::new(Service::from_value(object).unwrap().0))
}

fn named_slice(service: &str, hosts: impl IntoIterator<Item = u8>) -> ClusterObject {
    let ClusterObject::EndpointSlice(mut slice) = slice(service, hosts) else { panic!() };
    for port in &mut slice.ports {
        port.name = "http".into();
    }
    ClusterObject::EndpointSlice(slice)
}

#[test]
fn a_service_whose_clients_keep_their_endpoint_has_a_part_and_its_endpoints_as_values() {
    let mut scenario = serving();
    for kind in [ObjectKind::Service, ObjectKind::EndpointSlice] {
        synced(&mut scenario, kind);
    }
    put(&mut scenario, sticky("web", "10.96.0.1", json!({})));
    put(&mut scenario, named_slice("web", [7, 8]));
    let mut desired = Desired::of(&scenario.tables);
    assert_eq!(
        parts(desired.model()),
        [
            "nft part ip ripstop-services affinity/shop_web_http of service/shop/web",
            "nft values ip ripstop-services affinity/shop_web_http of service/shop/web",
            "nft values ip ripstop-services affinity/shop_web_http/local of service/shop/web",
        ]
    );
    assert_whole(desired.model());
    let values = |desired: &Desired, map: &str| {
        let key = |key: &&Key| matches!(key, Key::NftValues { map: of, .. } if of.as_str() == map);
        let key = desired.model().keys().find(key).unwrap();
        let Object::NftValues(values) = &desired.model().get(key).unwrap().object else { panic!() };
        values.values.len()
    };
    assert_eq!(values(&desired, "affinity/shop_web_http"), 2);
    assert_eq!(values(&desired, "affinity/shop_web_http/local"), 0);
    for map in ["chosen { 10.96.0.1 . 6 . 80 }", "chosen { 172.30.1.11 . 6 . 30080 }", "learn-tcp { 10.96.0.1 . 80 }"] {
        let key = format!("nft element ip ripstop-services {map}");
        assert!(of_services(desired.model()).contains(&key), "{key}");
    }
    // An endpoint that leaves touches the values; nothing else of the part.
    let changes = put(&mut scenario, named_slice("web", [8]));
    let touched = texts(&desired.update(&scenario.tables, &changes));
    assert!(touched.contains(&"nft values ip ripstop-services affinity/shop_web_http".to_owned()), "{touched:?}");
    assert!(!touched.iter().any(|key| key.contains("part") || key.contains("frontends")), "{touched:?}");
    assert_eq!(values(&desired, "affinity/shop_web_http"), 1);
    // With many endpoints the part leads to another.
    let changes = put(&mut scenario, named_slice("web", 1..=200));
    desired.update(&scenario.tables, &changes);
    assert_eq!(parts(desired.model()).len(), 4);
    assert_eq!(values(&desired, "affinity/shop_web_http"), 200);
    assert_whole(desired.model());
    let changes = put(&mut scenario, named_slice("web", [8]));
    desired.update(&scenario.tables, &changes);
    // External policy Local: outside and inside have maps of their own.
    let changes = put(&mut scenario, sticky("web", "10.96.0.1", json!({"externalTrafficPolicy": "Local"})));
    desired.update(&scenario.tables, &changes);
    assert_eq!(values(&desired, "affinity/shop_web_http"), 1);
    assert_whole(desired.model());
    // A Service without affinity has none of it.
    let changes = put(&mut scenario, sticky("web", "10.96.0.1", json!({"sessionAffinity": "None"})));
    desired.update(&scenario.tables, &changes);
    assert!(parts(desired.model()).is_empty());
    assert!(!of_services(desired.model()).iter().any(|key| key.contains("chosen") || key.contains("learn")));
    assert_eq!(desired.model(), Desired::of(&scenario.tables).model());
}

/// Chains and entries of one Service.
fn of_web(model: &Model) -> Vec<String> {
    let is_its = |entry: &Entry| entry.owner.as_ref().is_some_and(|owner| owner.as_str() == "service/shop/web");
    model.iter().filter(|(_, entry)| is_its(entry)).map(|(key, _)| key.to_string()).collect()
}

#[test]
fn by_iptables_a_changed_endpoint_touches_one_chain_and_chains_stay_until_all_is_known() {
    let mut scenario = serving_by("proxy: iptables, iptablesBackend: nft");
    let mut desired = Desired::of(&scenario.tables);
    let key_of = |model: &Model, text: &str| model.keys().find(|key| key.to_string() == text).cloned();
    // The node's address leads to node ports before anything is known, as it did for the agent before.
    let base = key_of(desired.model(), "iptables-nft nat RIPSTOP-SERVICES").unwrap();
    let Object::IptablesRules(rules) = &desired.model().get(&base).unwrap().object else { panic!() };
    assert_eq!(rules.rules[0].as_ref(), "-d 172.30.1.11/32 -j RIPSTOP-PORTS");
    for object in [service("web", "10.96.0.1"), slice("web", [7])] {
        let changes = put(&mut scenario, object);
        desired.update(&scenario.tables, &changes);
    }
    let changes = synced(&mut scenario, ObjectKind::Service);
    desired.update(&scenario.tables, &changes);
    assert!(of_web(desired.model()).is_empty());
    let whole = {
        let mut whole = scenario.clone();
        synced(&mut whole, ObjectKind::EndpointSlice);
        Desired::of(&whole.tables)
    };
    for (key, entry) in whole.model().iter().filter(|(key, _)| key.kind() == Kind::Iptables) {
        assert!(
            may_delete(&scenario.tables, key, entry).unwrap_err().contains("EndpointSlices have not been read yet")
        );
    }
    let changes = synced(&mut scenario, ObjectKind::EndpointSlice);
    desired.update(&scenario.tables, &changes);
    let names = of_web(desired.model());
    let with = |part: &str| names.iter().filter(|name| name.contains(part)).count();
    assert_eq!((with("RIPSTOP-SVC-"), with("RIPSTOP-EXT-"), with("RIPSTOP-ALL-")), (1, 1, 1), "{names:?}");
    assert!(names.contains(&"iptables-nft nat RIPSTOP-FRONTENDS -d 10.96.0.1/32 -p tcp --dport 80".to_owned()));
    assert!(names.contains(&"iptables-nft nat RIPSTOP-PORTS -d 172.30.1.11/32 -p tcp --dport 30080".to_owned()));
    assert_eq!(names.len(), 7, "{names:?}");
    // One endpoint more: the chain that draws, and that a pod of this node may reach itself.
    let changes = put(&mut scenario, slice("web", [7, 8]));
    let touched = texts(&desired.update(&scenario.tables, &changes));
    let expected = "iptables-nft nat RIPSTOP-HAIRPIN -s 10.244.1.8/32 -d 10.244.1.8/32";
    assert!(touched.len() == 2 && touched.iter().any(|key| key.contains("RIPSTOP-ALL-")), "{touched:?}");
    assert!(touched.contains(&expected.to_owned()), "{touched:?}");
    assert_eq!(desired.model(), Desired::of(&scenario.tables).model());
}

#[test]
fn iptables_follows_the_backend_that_the_node_uses() {
    let mut scenario = serving_by("proxy: iptables").facts(|facts| facts.iptables = Some(IptablesBackend::Legacy));
    for kind in [ObjectKind::Service, ObjectKind::EndpointSlice] {
        synced(&mut scenario, kind);
    }
    put(&mut scenario, service("web", "10.96.0.1"));
    put(&mut scenario, slice("web", [7]));
    let mut desired = Desired::of(&scenario.tables);
    assert!(of_web(desired.model()).iter().all(|key| key.starts_with("iptables-legacy ")));
    scenario.tables.facts.iptables = Some(IptablesBackend::Nft);
    scenario.tables.facts.ipv6 = false;
    desired.update(&scenario.tables, &BTreeSet::from([Change::Facts]));
    assert!(of_web(desired.model()).iter().all(|key| key.starts_with("iptables-nft ")));
    assert!(!desired.model().keys().any(|key| key.to_string().contains("ip6tables")), "without IPv6 there is none");
    assert_eq!(desired.model(), Desired::of(&scenario.tables).model());
}

#[test]
fn withdrawn_they_go_with_everything_else() {
    let mut scenario = serving();
    for object in [service("web", "10.96.0.1"), slice("web", [7])] {
        put(&mut scenario, object);
    }
    synced(&mut scenario, ObjectKind::Service);
    synced(&mut scenario, ObjectKind::EndpointSlice);
    let mut desired = Desired::of(&scenario.tables);
    assert!(!of_services(desired.model()).is_empty());
    scenario.tables.withdrawn = Withdrawn::Everything;
    desired.update(&scenario.tables, &[Change::Withdrawn].into());
    assert_eq!(of_services(desired.model()), Vec::<String>::new());
}

/// The settings of the host that are wanted with this configuration, of these that it has.
fn settings(config: &str, conntrack: &[(&str, u64, bool)]) -> (Vec<String>, Vec<String>) {
    let (config, _) = AgentConfig::decode(config).unwrap();
    let limits =
        conntrack.iter().map(|(name, value, writable)| ((*name).into(), Limit { value: *value, writable: *writable }));
    let facts = HostFacts { conntrack: limits.collect(), cpus: 8, ..facts() };
    let mut scenario = Scenario::with(Start { config, ..start(facts) });
    scenario.sync_all();
    let desired = Desired::of(&scenario.tables);
    let wanted = desired.model().iter().filter_map(|(_, entry)| match &entry.object {
        Object::Sysctl(setting) => Some(format!("{} {}", setting.path, setting.value)),
        _ => None,
    });
    (wanted.collect(), unraised(&scenario.tables))
}

#[test]
fn settings_of_connection_tracking_are_raised_where_they_can_be() {
    let there =
        [("max", 65_536, false), ("tcp_timeout_close_wait", 60, true), ("tcp_timeout_established", 432_000, true)];
    let (wanted, unraised) = settings("services: {proxy: nftables}", &there);
    let close_wait = "net/netfilter/nf_conntrack_tcp_timeout_close_wait 3600".to_owned();
    let established = "net/netfilter/nf_conntrack_tcp_timeout_established 86400".to_owned();
    assert_eq!(wanted, [close_wait, established]);
    assert_eq!(unraised.len(), 1, "{unraised:?}");
    assert!(unraised[0].contains("nf_conntrack_max is 65536") && unraised[0].contains("262144"), "{unraised:?}");
    let zero =
        "services: {proxy: nftables, conntrack: {maxPerCore: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}}";
    assert_eq!(settings(zero, &there), (Vec::new(), Vec::new()));
    assert_eq!(settings("services: {}", &there), (Vec::new(), Vec::new()), "they are Services' business");
}

#[test]
fn packets_may_leave_loopback_addresses_only_behind_their_guard() {
    let wanted = |config: &str| settings(config, &[]).0;
    assert_eq!(
        wanted("services: {proxy: nftables, nodePortAddresses: [primary, localhost]}"),
        ["net/ipv4/conf/all/route_localnet 1"]
    );
    assert_eq!(wanted("services: {proxy: nftables, nodePortAddresses: all}"), Vec::<String>::new());
    assert_eq!(wanted("services: {nodePortAddresses: localhost}"), Vec::<String>::new());
    let both: Model = services::loopback().into_iter().collect();
    let order = |from: &Model, to: &Model| -> Vec<String> {
        let plan = ripstop_plan::diff_all(from, to, &|_: &Key, _: &Entry| Ok(()));
        plan.steps.iter().map(|step| step.key.to_string()).collect()
    };
    let (made, gone) = (order(&Model::new(), &both), order(&both, &Model::new()));
    assert!(made[0].contains("ripstop-loopback") && made[1].contains("route_localnet"), "{made:?}");
    // Whoever takes the table away takes the setting back before (`kernel`): a setting itself is never removed.
    assert_eq!(gone, ["nft table ip ripstop-loopback"]);
}

/// While a node is switched to another proxy both are wanted, and at last the new one alone.
#[test]
fn a_switch_is_a_way_of_three_stages() {
    let mut scenario = serving();
    for object in [service("web", "10.96.0.1"), slice("web", [7])] {
        put(&mut scenario, object);
    }
    for kind in [ObjectKind::Service, ObjectKind::EndpointSlice] {
        synced(&mut scenario, kind);
    }
    let before = Desired::of(&scenario.tables);
    let mut desired = Desired::of(&scenario.tables);
    let mut stage = |scenario: &mut Scenario, chosen, leaving| {
        (scenario.tables.proxies.chosen, scenario.tables.proxies.leaving) = (chosen, leaving);
        desired.update(&scenario.tables, &BTreeSet::from([Change::Proxy]));
        assert_eq!(*desired.model(), *Desired::of(&scenario.tables).model());
        texts(&desired.model().keys().cloned().collect())
    };
    let has = |keys: &[String], words: &[&str]| keys.iter().any(|key| words.iter().all(|word| key.contains(word)));
    let frontend = ["ripstop-services frontends", "10.96.0.1"];
    let jump = ["iptables", "nat", "PREROUTING"];
    let leaving = |proxy, stage| Some(Leaving { proxy, stage });
    // Both serve, and neither drops what no Service has: one of them may not have them all.
    let keys = stage(&mut scenario, Some(Proxy::Iptables), leaving(Proxy::Nftables, Stage::Serving));
    assert!(has(&keys, &frontend) && has(&keys, &jump) && !has(&keys, &["service-ranges"]), "{keys:#?}");
    // Nothing leads to the old one, and what is on its way through it finds what it looks for.
    let keys = stage(&mut scenario, Some(Proxy::Iptables), leaving(Proxy::Nftables, Stage::Closing));
    assert!(!has(&keys, &frontend) && !has(&keys, &["cluster-ips"]) && has(&keys, &jump), "{keys:#?}");
    assert!(has(&keys, &["ripstop-services endpoints", "10.96.0.1"]), "{keys:#?}");
    let keys = stage(&mut scenario, Some(Proxy::Iptables), None);
    assert!(!has(&keys, &["ripstop-services"]) && has(&keys, &jump), "{keys:#?}");
    // The way back.
    let keys = stage(&mut scenario, None, leaving(Proxy::Iptables, Stage::Closed(Millis(1))));
    assert!(has(&keys, &frontend) && !has(&keys, &jump) && has(&keys, &["RIPSTOP-SERVICES"]), "{keys:#?}");
    // The tables of IPVS have a name of their own, and its virtual servers go last.
    scenario.tables.facts.ipvs = true;
    let keys = stage(&mut scenario, Some(Proxy::Ipvs), leaving(Proxy::Nftables, Stage::Serving));
    assert!(has(&keys, &frontend) && has(&keys, &["ripstop-ipvs frontends", "10.96.0.1"]), "{keys:#?}");
    let keys = stage(&mut scenario, None, leaving(Proxy::Ipvs, Stage::Closing));
    assert!(!has(&keys, &["ripstop-ipvs frontends"]) && has(&keys, &["ripstop-ipvs servers"]), "{keys:#?}");
    let servers = |keys: &[String]| keys.iter().filter(|key| key.starts_with("ipvs")).count();
    assert!(servers(&keys) > 0, "{keys:#?}");
    scenario.tables.facts.ipvs = false;
    let keys = stage(&mut scenario, None, None);
    assert_eq!(servers(&keys), 0, "{keys:#?}");
    assert_eq!(*desired.model(), *before.model());
}

/// `nft` reads such a word as what it means, so nobody could name the object by hand.
#[test]
fn no_name_is_a_word_of_nfts_language() {
    const WORDS: [&str; 14] = [
        "accept",
        "counter",
        "ct",
        "dnat",
        "drop",
        "goto",
        "ip",
        "jump",
        "log",
        "masquerade",
        "meta",
        "redirect",
        "reject",
        "return",
    ];
    for how in ["proxy: nftables", "proxy: ipvs"] {
        let mut scenario = serving_by(how);
        scenario.tables.facts.ipvs = true;
        for kind in [ObjectKind::Service, ObjectKind::EndpointSlice] {
            synced(&mut scenario, kind);
        }
        let desired = Desired::of(&scenario.tables);
        let tables = desired.model().iter().filter_map(|(_, entry)| match &entry.object {
            Object::NftTable(NftTable { table }) => Some(table),
            _ => None,
        });
        let names: Vec<_> = tables.flat_map(|table| table.chains.keys().chain(table.sets.keys())).collect();
        assert!(names.len() > 20, "{how}: {names:?}");
        let bad: Vec<_> = names.iter().filter(|name| WORDS.contains(&name.as_str())).collect();
        assert!(bad.is_empty(), "{how}: {bad:?}");
    }
}
