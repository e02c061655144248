//! Large clusters: what they come to, and that a change in one touches what it has to and no more.

use ripstop_conformance::policy::Change;
use ripstop_conformance::policy::large::{address, allow, label, many_namespaces, namespace, pod};
use ripstop_objects::service::Protocol;
use ripstop_oracle::policy::World;
use ripstop_policy::{Gate, Lead, Policies, Way};
use ripstop_types::NamespacedName;

use crate::random::follow;

fn put(world: &World, policies: &mut Policies) {
    Change::all_of(world).iter().for_each(|change| follow(policies, change));
}

#[test]
fn each_namespace_costs_its_own() {
    let mut policies = Policies::new(None);
    put(&many_namespaces(500), &mut policies);
    let changes = policies.decide();
    assert_eq!((changes.subjects.len(), changes.ports.len(), changes.peers.len()), (2_000, 0, 1_000));
    assert!(policies.passes(Gate::Ingress, address(0), address(1), None));
    assert!(!policies.passes(Gate::Ingress, address(0), address(2), None));
    assert!(!policies.passes(Gate::Ingress, address(0), address(4), None));
    // One pod more is one exception in one table.
    policies.put_pod(&pod("namespace-7", "more", ("app-1", "namespace-7"), address(9_999)));
    let changes = policies.decide();
    assert_eq!((changes.subjects.len(), changes.peers.len(), changes.exceptions.len()), (1, 0, 1));
    policies.remove_pod(&NamespacedName { namespace: "namespace-7".into(), name: "more".into() });
    let changes = policies.decide();
    assert_eq!((changes.subjects.len(), changes.peers.len(), changes.exceptions.len()), (1, 0, 1));
    // Nothing changes by what says the same.
    put(&many_namespaces(500), &mut policies);
    assert_eq!(policies.decide(), Default::default());
}

#[test]
fn of_a_thousand_policies_about_a_pod_one_look_is_left() {
    let mut policies = Policies::new(None);
    policies.put_namespace(&namespace("x"));
    policies.put_pod(&pod("x", "server", ("app", "server"), address(0)));
    for place in 0..1_000 {
        let client = format!("client-{place}");
        policies.put_pod(&pod("x", &client, ("app", &client), address(place + 1)));
        policies.put_policy(&allow("x", &client, label("app", "server"), label("app", &client), Some(80)));
    }
    policies.decide();
    let Lead::Ports(name) = policies.lead(Gate::Ingress, address(0)) else { panic!() };
    let table = policies.port_table(&name).unwrap();
    let ways: Vec<Way> = table.of(Protocol::Tcp).iter().map(|(_, way)| *way).collect();
    assert!(matches!(ways[..], [Way::Deny, Way::Peers(_), Way::Deny]), "{ways:?}");
    assert_eq!(policies.peer_tables().count(), 1);
    assert!(policies.passes(Gate::Ingress, address(0), address(500), Some((Protocol::Tcp, 80))));
    assert!(!policies.passes(Gate::Ingress, address(0), address(1_001), Some((Protocol::Tcp, 80))));
}
