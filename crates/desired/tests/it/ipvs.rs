//! Services by IPVS in the model: what leads where, in which order it comes and goes, and a kernel without it.

use std::collections::BTreeSet;

use ripstop_desired::{Desired, may_delete, services};
use ripstop_netmodel::{Entry, Key, Kind, Model, Object};
use ripstop_objects::service::{EndpointSlice, Service};
use ripstop_objects::{AgentConfig, ClusterObject, ObjectKind};
use ripstop_plan::{Action, Plan};
use ripstop_tables::{Change, ObjectInput, Start};
use ripstop_types::Revision;
use serde_json::{Value, json};

use crate::scenario::*;

fn serving(ipvs: bool) -> Scenario {
    let text = "services: {proxy: ipvs, ipvs: {scheduler: lc, strictARP: true}}";
    let (config, _) = AgentConfig::decode(text).unwrap();
    let facts = ripstop_netmodel::HostFacts { ipvs, ..facts() };
    let mut scenario = Scenario::with(Start { config, ..start(facts) });
    scenario.sync_all();
    let mut scenario = scenario.network("default", &["10.244.0.0/16"], |_| ()).own("default", "10.244.1.0/24");
    for kind in [ObjectKind::Service, ObjectKind::EndpointSlice] {
        scenario.tables.apply_object(&ObjectInput::Synced { kind, revision: Revision(2) });
    }
    scenario
}

fn put(scenario: &mut Scenario, object: ClusterObject) -> BTreeSet<Change> {
    scenario.tables.apply_object(&ObjectInput::Put { object, revision: Revision(1) })
}

fn service(more: Value) -> ClusterObject {
    let mut spec = json!({"type": "NodePort", "clusterIP": "10.96.0.1", "ports": [{"port": 80, "nodePort": 30080}]});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let object = json!({"metadata": {"namespace": "shop", "name": "a"}, "spec": spec});
    ClusterObject::Service(Box::new(Service::from_value(object).unwrap().0))
}

/// Endpoints by the last number of their addresses; even ones are another node's.
fn slice(hosts: impl IntoIterator<Item = u8>) -> ClusterObject {
    let node = |n: u8| if n.is_multiple_of(2) { "n2" } else { "n1" };
    let endpoint = |n: u8| json!({"addresses": [format!("10.244.1.{n}")], "nodeName": node(n)});
    let endpoints: Vec<_> = hosts.into_iter().map(endpoint).collect();
    let metadata = json!({"namespace": "shop", "name": "a-1", "labels": {"kubernetes.io/service-name": "a"}});
    let object =
        json!({"metadata": metadata, "addressType": "IPv4", "ports": [{"port": 8080}], "endpoints": endpoints});
    ClusterObject::EndpointSlice(Box::new(EndpointSlice::from_value(object).unwrap().0))
}

fn of_ipvs(model: &Model) -> Vec<String> {
    let of = |key: &&Key| {
        matches!(key.kind(), Kind::IpvsService | Kind::IpvsDestination) || key.to_string().starts_with("local ")
    };
    model.keys().filter(of).map(ToString::to_string).collect()
}

fn plan(scenario: &Scenario, before: &Model, after: &Model) -> Plan {
    ripstop_plan::diff_all(before, after, &|key: &Key, entry: &Entry| may_delete(&scenario.tables, key, entry))
}

/// Steps about a Service, as texts.
fn steps(plan: &Plan, action: Action) -> Vec<String> {
    plan.steps.iter().filter(|step| step.action == action).map(|step| step.key.to_string()).collect()
}

fn place(texts: &[String], word: &str) -> usize {
    texts.iter().position(|text| text.contains(word)).unwrap_or_else(|| panic!("{word} is not in {texts:#?}"))
}

#[test]
fn all_addresses_of_a_port_lead_to_one_server_and_local_policy_to_another() {
    let mut scenario = serving(true);
    put(&mut scenario, service(json!({"sessionAffinity": "ClientIP"})));
    put(&mut scenario, slice([1, 2]));
    let desired = Desired::of(&scenario.tables);
    assert_eq!(
        of_ipvs(desired.model()),
        [
            "ipvs service 10.96.0.1:32848/TCP",
            "ipvs destination 10.244.1.1:8080 of 10.96.0.1:32848/TCP",
            "ipvs destination 10.244.1.2:8080 of 10.96.0.1:32848/TCP",
            "local address 10.96.0.1",
        ]
    );
    let services = desired.model().iter().filter_map(|(_, entry)| match &entry.object {
        Object::IpvsService(service) => Some((&*service.scheduler, service.persistence)),
        _ => None,
    });
    assert_eq!(services.collect::<Vec<_>>(), [("lc", Some(10_800))]);
    put(&mut scenario, service(json!({"externalTrafficPolicy": "Local"})));
    let found = of_ipvs(Desired::of(&scenario.tables).model());
    assert!(found.contains(&"ipvs destination 10.244.1.1:8080 of 10.96.0.1:16464/TCP".to_owned()), "{found:#?}");
    assert_eq!(found.iter().filter(|key| key.contains("16464")).count(), 2, "this node's alone: {found:#?}");
    for path in ["net/ipv4/vs/conntrack", "net/ipv4/conf/all/arp_ignore"] {
        assert!(desired.model().keys().any(|key| matches!(key, Key::Sysctl { path: of, .. } if **of == *path)));
    }
}

#[test]
fn what_is_led_to_comes_first_and_goes_last_but_for_one_endpoint() {
    let mut scenario = serving(true);
    let nothing = Desired::of(&scenario.tables).model().clone();
    put(&mut scenario, service(json!({})));
    put(&mut scenario, slice([1, 2]));
    let both = Desired::of(&scenario.tables).model().clone();
    let made = steps(&plan(&scenario, &nothing, &both), Action::Create);
    let words = ["local address 10.96.0.1", "ipvs service", "ipvs destination", "frontends"];
    assert!(words.map(|word| place(&made, word)).is_sorted(), "{made:#?}");
    // With the Service its server goes, behind what led there and behind the look at connections.
    let gone = steps(&plan(&scenario, &both, &nothing), Action::Delete);
    let words = ["frontends", " endpoints ", "ipvs service", "local address 10.96.0.1"];
    assert!(words.map(|word| place(&gone, word)).is_sorted(), "{gone:#?}");
    assert!(!gone.iter().any(|text| text.contains("ipvs destination")), "it goes with its server: {gone:#?}");
    // One endpoint: nobody gets there any more when connections are forgotten that did.
    put(&mut scenario, slice([1]));
    let one = Desired::of(&scenario.tables).model().clone();
    let left = plan(&scenario, &both, &one);
    assert!(left.steps.iter().all(|step| step.action == Action::Delete), "{left:#?}");
    let gone = steps(&left, Action::Delete);
    assert_eq!(place(&gone, "ipvs destination 10.244.1.2:8080"), 0, "{gone:#?}");
}

#[test]
fn a_kernel_without_ipvs_is_named_and_what_was_served_stays() {
    let mut there = serving(true);
    put(&mut there, service(json!({})));
    put(&mut there, slice([1]));
    let before = Desired::of(&there.tables).model().clone();
    let mut scenario = serving(false);
    put(&mut scenario, service(json!({})));
    put(&mut scenario, slice([1]));
    assert!(services::missing(&scenario.tables).unwrap().contains("modprobe ip_vs"));
    assert!(services::node(&scenario.tables).is_none());
    let desired = Desired::of(&scenario.tables);
    assert!(!desired.model().keys().any(Key::is_of_services));
    let plan = plan(&scenario, &before, desired.model());
    let touched: Vec<&Key> =
        plan.steps.iter().filter(|step| step.action != Action::Refuse).map(|step| &step.key).collect();
    assert!(touched.is_empty(), "{touched:?}");
}
