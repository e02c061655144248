//! Very many Services, and Services with very many endpoints, in the kernel.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ripstop_desired::services;
use ripstop_netmodel::{Entry, Key, Model};
use ripstop_objects::service::{EndpointSlice, Service};
use ripstop_services::Node as ServiceNode;
use ripstop_tables::ServiceTables;
use ripstop_types::Revision;
use serde_json::{Value, json};

use crate::services::{CLIENT, Scene, service, slice};
use crate::support::*;

const SERVICES: u32 = 2_000;
const ENDPOINTS: u32 = 10;

/// Thousands of Services on other nodes' pods.
struct Many {
    node: ServiceNode,
    tables: ServiceTables,
}

impl Many {
    fn new() -> Self {
        let node = ServiceNode {
            name: "n1".parse().unwrap(),
            zone: None,
            addresses: Vec::new(),
            node_port_addresses: Vec::new(),
            localhost: false,
            pods_by_link: false,
            pods: Vec::new(),
            external_ips: false,
            proxy_name: None,
        };
        let mut many = Self { node, tables: ServiceTables::default() };
        for n in 0..SERVICES {
            let ip = std::net::Ipv4Addr::from_bits(0x0a60_0000 + n);
            let service =
                json!({"metadata": {"name": format!("s{n}")}, "spec": {"clusterIP": ip, "ports": [{"port": 80}]}});
            many.tables.put_service(Service::from_value(service).unwrap().0, Revision(1));
            many.put(n, 0);
        }
        many
    }

    /// The endpoints of one, from this one on.
    fn put(&mut self, n: u32, from: u32) {
        let endpoints = (from..from + ENDPOINTS).map(|e| {
            let ip = std::net::Ipv4Addr::from_bits(0x0a80_0000 + n * 64 + e);
            json!({"addresses": [ip], "nodeName": "n2"})
        });
        let labels = json!({"kubernetes.io/service-name": format!("s{n}")});
        let slice = json!({"metadata": {"name": format!("s{n}"), "labels": labels}, "addressType": "IPv4",
            "ports": [{"port": 8080}], "endpoints": endpoints.collect::<Vec<_>>()});
        self.tables.put_slice(EndpointSlice::from_value(slice).unwrap().0);
    }

    fn objects(&self, n: u32, before: &Model) -> Vec<Entry> {
        services::nftables::objects(&self.node, &self.tables, &format!("s{n}").parse().unwrap(), before)
    }
}

/// The same model with other parts of this owner, and the keys that either has.
fn replaced(present: &Model, owner: &str, parts: Vec<Entry>) -> (Model, std::collections::BTreeSet<Key>) {
    let is_own = |entry: &Entry| entry.owner.as_ref().is_some_and(|of| of.as_str() == owner);
    let mut next = present.clone();
    next.retain(|_, entry| !is_own(entry));
    parts.into_iter().for_each(|entry| drop(next.insert_entry(entry.into())));
    let keys = present.iter().chain(next.iter()).filter(|(_, entry)| is_own(entry)).map(|(key, _)| key.clone());
    let keys = keys.collect();
    (next, keys)
}

/// Times are printed, not judged.
#[test]
fn thousands_of_services_are_made_and_one_endpoint_of_them_changed() {
    on_a_node(|mut node| {
        let (mut many, empty) = (Many::new(), Model::default());
        let start = Instant::now();
        let base = services::nftables::base(&[], &[], &services::Rules::default()).into_iter();
        let mut present: Model = base.chain((0..SERVICES).flat_map(|n| many.objects(n, &empty))).collect();
        println!("{SERVICES} Services with {ENDPOINTS} endpoints each decided in {:?}", start.elapsed());
        let allow = |_: &Key, _: &Entry| Ok(());
        let start = Instant::now();
        let plan = ripstop_plan::diff_all(&empty, &present, &allow);
        println!("{} steps planned in {:?}", plan.steps.len(), start.elapsed());
        let start = Instant::now();
        assert!(node.run(&plan.steps).iter().all(|outcome| outcome.result.is_ok()));
        println!("carried out in {:?}", start.elapsed());
        let mut took = Vec::new();
        for from in 1..=20 {
            many.put(7, from);
            let (next, keys) = replaced(&present, "service/default/s7", many.objects(7, &present));
            let plan = ripstop_plan::diff(&present, &next, &keys, &allow);
            // One endpoint in the place of another: its slot is removed and made anew.
            assert_eq!(plan.steps.len(), 2, "{:?}", plan.steps);
            let begun = Instant::now();
            assert!(node.run(&plan.steps).iter().all(|outcome| outcome.result.is_ok()));
            took.push(begun.elapsed());
            present = next;
        }
        took.sort();
        println!(
            "one endpoint changed in {:?} at the median, {:?} at most",
            took[took.len() / 2],
            took[took.len() - 1]
        );
        let there = node.observer.host(&present).unwrap();
        assert!(present.keys().all(|key| matches!(key, Key::ServiceFlows) || there.get(key).is_some()));
    });
}

/// So many of the crowd's addresses, from 10.244.2.1 on.
fn crowd(count: u32) -> Option<Value> {
    let ips = (1..=count).map(|n| std::net::Ipv4Addr::from_bits(0x0af4_0200 + n).to_string());
    let endpoints: Vec<Value> = ips.map(|ip| json!({"addresses": [ip], "nodeName": "n1"})).collect();
    let mut all = slice(&[]).unwrap();
    all["ports"] = json!([{"port": 8081}]);
    all["endpoints"] = json!(endpoints);
    Some(all)
}

#[test]
fn three_hundred_endpoints_are_all_reached_and_a_change_of_their_number_loses_no_connection() {
    on_a_node(|node| {
        let mut scene = Scene::new(node);
        scene.crowd();
        scene.change(service(json!({})), crowd(300));
        let mut seen = BTreeSet::new();
        for _ in 0..400 {
            seen.extend(scene.ask(Some(CLIENT), "10.96.0.10:80"));
            if seen.len() >= 300 {
                break;
            }
        }
        assert_eq!(seen.len(), 300, "{seen:?}");
        let text = run("nft", &["list", "table", "ip", "ripstop-services"]);
        assert!(text.contains("numgen random mod 300 map @endpoints"), "{text}");
        let mut turns = 0;
        let tried = scene.under_load("10.96.0.10:80", |scene| {
            let end = Instant::now() + Duration::from_secs(2);
            while Instant::now() < end || turns < 4 {
                scene.change(None, crowd([100, 300, 299, 64, 65][turns % 5]));
                turns += 1;
            }
        });
        let failed: BTreeSet<&String> = tried.iter().filter(|line| !line.starts_with("10.244.")).collect();
        assert!(tried.len() > 50, "{} connections", tried.len());
        assert!(failed.is_empty(), "{failed:?} of {} connections in {turns} changes", tried.len());
        scene.change(None, crowd(64));
        let text = run("nft", &["list", "table", "ip", "ripstop-services"]);
        assert!(!text.contains("endpoints/"), "the chains of other numbers went: {text}");
    });
}
