//! Services by IPVS in the kernel, where that has it: what holds for the tables holds for it, and what is its own.

use ripstop_kernel::Fault;
use ripstop_netmodel::*;
use serde_json::json;

use crate::services::{By, CLIENT, SERVERS, Scene, service, slice};
use crate::support::*;
use crate::{affinity, services};

/// Whether the kernel has it; says why not.
fn is_there() -> bool {
    let found = std::path::Path::new("/proc/net/ip_vs").exists();
    if !found {
        println!("SKIPPED: this kernel has no IPVS, or its module ip_vs is not loaded");
    }
    found
}

fn server(ip: &str, port: u16) -> VirtualServer {
    VirtualServer { ip: addr(ip), protocol: 6, port }
}

/// An address that is local, a virtual server there, and its destinations.
fn objects(servers: &[&str]) -> Vec<Object> {
    let server = server("10.96.0.10", 40_000);
    let mut objects: Vec<Object> =
        vec![Route::local(server.ip).into(), IpvsService { server, scheduler: "rr".into(), persistence: None }.into()];
    objects.extend(servers.iter().map(|ip| -> Object {
        IpvsDestination { server, to: (addr(ip), 8080).into(), weight: 1, translated: true }.into()
    }));
    objects
}

#[test]
fn a_kernel_without_it_says_so_in_one_sentence_and_the_rest_is_done() {
    if std::path::Path::new("/proc/net/ip_vs").exists() {
        return println!("SKIPPED: this kernel has IPVS");
    }
    on_a_node(|mut node| {
        let all = objects(&SERVERS);
        let outcomes = node.run(&creations(&all));
        let faults: Vec<Fault> = outcomes.into_iter().filter_map(|outcome| Some(outcome.result.err()?.fault)).collect();
        assert_eq!(faults.len(), 4, "{faults:?}");
        assert!(faults.iter().all(|fault| fault.to_string().contains("modprobe ip_vs")), "{faults:?}");
        // The route was made, what is read has no fault, and what never was is removed.
        let found = node.observer.host(&Model::new()).unwrap();
        assert_eq!(found.keys().collect::<Vec<_>>(), [&all[0].key()]);
        assert!(!node.observer.facts().unwrap().ipvs);
        node.remove(&all);
        assert!(node.observer.host(&Model::new()).unwrap().is_empty());
    });
}

#[test]
fn datagrams_leave_an_endpoint_that_is_gone() {
    is_there().then(|| services::datagrams_leave(By::Ipvs));
}

#[test]
fn streams_end_as_they_please_or_are_reset() {
    is_there().then(|| services::streams_end(By::Ipvs));
}

#[test]
fn connections_go_to_endpoints() {
    is_there().then(|| services::connections_go(By::Ipvs));
}

#[test]
fn no_connection_fails_while_endpoints_change() {
    is_there().then(|| services::no_connection_fails(By::Ipvs));
}

#[test]
fn sources_and_policies_count() {
    is_there().then(|| services::sources_count(By::Ipvs));
}

#[test]
fn clients_keep_their_endpoints() {
    is_there().then(|| affinity::a_client_keeps(By::Ipvs));
}

#[test]
fn clients_whose_endpoint_goes_get_another() {
    is_there().then(|| affinity::who_loses_its_endpoint(By::Ipvs));
}

#[test]
fn what_is_written_is_there_and_changes_in_place() {
    if !is_there() {
        return;
    }
    on_a_node(|mut node| {
        for (ip, endpoint) in [("10.96.0.10", "10.244.1.2"), ("fd00:96::10", "fd00:244:1::2")] {
            for protocol in [6, 17, 132] {
                let server = VirtualServer { protocol, ..server(ip, 40_000) };
                let of = |scheduler: &str, persistence, weight, translated| -> [Object; 3] {
                    let to = (addr(endpoint), 8080).into();
                    [
                        Route::local(server.ip).into(),
                        IpvsService { server, scheduler: scheduler.into(), persistence }.into(),
                        IpvsDestination { server, to, weight, translated }.into(),
                    ]
                };
                for objects in [
                    of("rr", None, 1, true),
                    of("rr", None, 1, true),
                    of("lc", Some(60), 7, true),
                    of("sh", None, 1, false),
                    of("mh", Some(10_800), 1, true),
                    of("wrr", None, 1, true),
                ] {
                    node.make(&objects);
                    node.assert_there(&objects);
                }
                let last = of("wrr", None, 1, true);
                node.remove(&last[2..]);
                node.assert_gone(&last[2..]);
                node.remove(&last[1..]);
                node.remove(&last[1..]);
                node.assert_gone(&last[1..]);
                node.assert_there(&last[..1]);
            }
        }
        let odd = IpvsService { server: server("10.96.0.10", 1), scheduler: "nosuch".into(), persistence: None };
        assert!(node.fault(odd).to_string().contains("modprobe ip_vs_NAME"));
    });
}

/// What somebody else has of IPVS, by a second applier: this project writes no other way.
#[test]
fn virtual_servers_at_addresses_of_others_are_none_of_ours() {
    if !is_there() {
        return;
    }
    on_a_node(|mut node| {
        let mut theirs = objects(&SERVERS);
        theirs.remove(0);
        node.make(&theirs);
        assert!(node.observer.host(&Model::new()).unwrap().is_empty(), "no route of ours leads there");
        ip("link add other type dummy");
        ip("address add 10.96.0.10/32 dev other");
        assert!(node.observer.host(&Model::new()).unwrap().is_empty(), "nor does one of a link of theirs");
        // Ours come and go beside them.
        let at = server("10.96.0.11", 40_000);
        let ours: Vec<Object> = vec![
            Route::local(at.ip).into(),
            IpvsService { server: at, scheduler: "rr".into(), persistence: None }.into(),
        ];
        node.make(&ours);
        let found = node.observer.host(&Model::new()).unwrap();
        assert_eq!(found.len(), 2, "{found:?}");
        node.remove(&ours);
        let listed = std::fs::read_to_string("/proc/thread-self/net/ip_vs").unwrap();
        assert_eq!((listed.matches("TCP").count(), listed.matches("->").count()), (1, 1 + SERVERS.len()), "{listed}");
    });
}

#[test]
fn connections_by_one_server_are_shared_out_and_their_sources_stay() {
    if !is_there() {
        return;
    }
    on_a_node(|node| {
        let mut scene = Scene::by(node, By::Ipvs);
        scene.change(service(json!({"externalTrafficPolicy": "Local"})), slice(&SERVERS));
        for to in ["10.96.0.10:80", "192.0.2.1:30080"] {
            let seen = scene.ask(Some(CLIENT), to);
            assert_eq!(seen.len(), SERVERS.len(), "{seen:?}");
            assert!(seen.iter().all(|line| line.ends_with(CLIENT)), "{seen:?}");
        }
        let listed = std::fs::read_to_string("/proc/thread-self/net/ip_vs").unwrap();
        assert_eq!(
            listed.matches("TCP").count(),
            2,
            "one for endpoints anywhere, one for those of this node:\n{listed}"
        );
    });
}
