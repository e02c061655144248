//! Faults planted into the tables that policies are compiled to: packets must see each of them.

use std::sync::atomic::{AtomicUsize, Ordering};

use ripstop_conformance::policy::{Scenario, Step, differ, drawn};
use ripstop_objects::service::Protocol;
use ripstop_oracle::policy::{Packet, State, Traffic};
use serde_json::json;

use crate::policies::Cluster;
use crate::policies::faults::{Fault, faults};

/// Whether packets of a scenario see a fault.
fn is_seen(fault: &Fault, scenario: &Scenario) -> bool {
    differ(&mut Cluster::new(Some(fault.spoil.clone())), scenario).is_err()
}

/// What is drawn too rarely: a pod that may talk to nobody goes on talking to its own node where it did before, and one that nobody may talk
/// to does not reach itself by a Service.
fn rare() -> [Scenario; 2] {
    let tcp = Traffic::Port(Protocol::Tcp, 80);
    let packet = |source: &str, destination: &str, traffic, state, by_service| {
        let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
        Packet { source, destination, traffic, state, by_service }
    };
    let to_its_node = vec![
        packet("10.244.1.1", "192.0.2.1", tcp, State::New, false),
        packet("10.244.1.1", "192.0.2.1", tcp, State::Known, false),
        packet("fd00:1::1", "2001:db8::1", tcp, State::Known, false),
        packet("fd00:1::1", "2001:db8::1", Traffic::Discovery, State::New, false),
    ];
    let to_itself = ["10.244.1.1", "fd00:1::1"].map(|ip| packet(ip, ip, tcp, State::New, true)).into();
    [where_all_is_denied("egress", to_its_node), where_all_is_denied("ingress", to_itself)]
}

fn where_all_is_denied(direction: &str, packets: Vec<Packet>) -> Scenario {
    let pod = json!({"name": "x/a", "uid": "", "node": "n1", "ips": ["10.244.1.1", "fd00:1::1"], "phase": "Running"});
    let deny = json!({"name": "c", "tier": "Admin", "priority": 0, "namespaces": [], direction: [{"action": "Deny"}]});
    let node = json!({"name": "n1", "podCIDRs": [], "addresses": ["192.0.2.1", "2001:db8::1"]});
    let world = json!({"nodes": [node], "namespaces": [{"name": "x"}], "pods": [pod], "clusterPolicies": [deny]});
    let steps = vec![Step { changes: Vec::new(), packets }];
    Scenario { world: serde_json::from_value(world).unwrap(), steps }
}

#[test]
fn each_planted_fault_is_found() {
    let (faults, mut drawn) = (faults(), (0..1_500).map(drawn).collect::<Vec<_>>());
    drawn.extend(rare());
    let next = AtomicUsize::new(0);
    let look = || {
        let (mut missed, mut scenarios) = (Vec::new(), drawn.iter().collect::<Vec<_>>());
        while let Some(fault) = faults.get(next.fetch_add(1, Ordering::Relaxed)) {
            match scenarios.iter().position(|scenario| is_seen(fault, scenario)) {
                // What sees one fault may see the next.
                Some(by) => scenarios[..=by].rotate_right(1),
                None => missed.push(&fault.name),
            }
        }
        missed
    };
    let missed: Vec<&String> = std::thread::scope(|scope| {
        let workers = [(); 2].map(|()| scope.spawn(look));
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    println!("{} of {} faults found", faults.len() - missed.len(), faults.len());
    assert!(missed.is_empty(), "no packet sees:\n{missed:#?}");
    assert!(faults.len() >= 50);
}
