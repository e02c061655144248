//! Nodes of real flanneld in Kubernetes are peers until their own agents speak.

use ripstop_objects::{
    AgentConfig, ClaimState, ClusterObject, FLANNEL_MACHINE, FlannelNode, KubeNode, NodeRecord, ObjectKind, Receive,
    Record as _,
};
use ripstop_tables::{Change, ObjectInput, StoreKind, Tables};
use ripstop_types::{Family, Mac, Revision};

use crate::scenario::{Scenario, claim, facts, network_name, node, node_record, prefix, start};

fn scenario() -> Scenario {
    let (config, _) = AgentConfig::decode("store: {kubernetes: {flannel: {}}}").unwrap();
    let mut scenario = Scenario::with(ripstop_tables::Start { config, ..start(facts()) });
    scenario.sync_all();
    scenario
}

fn kube(name: &str, range: &str, mac: u8) -> KubeNode {
    let flannel = FlannelNode { public_ip: "172.30.1.12".parse().unwrap(), vni: 1, mac: Mac([2, 0, 0, 0, 0, mac]) };
    KubeNode {
        name: node(name),
        uid: "".into(),
        pod_cidrs: vec![prefix(range)],
        labels: Default::default(),
        addresses: Vec::new(),
        zone: None,
        leaving: false,
        flannel: Some(flannel),
    }
}

fn put(tables: &mut Tables, node: KubeNode) -> std::collections::BTreeSet<Change> {
    tables.apply_object(&ObjectInput::Put { object: ClusterObject::Node(node), revision: Revision(1) })
}

fn record<'a>(tables: &'a Tables, name: &str) -> &'a NodeRecord {
    &tables.nodes[&node(name)].value
}

fn ranges(tables: &Tables, name: &str) -> Vec<String> {
    tables.ranges(&node(name), &network_name("default"), Family::V4).map(|range| range.to_string()).collect()
}

#[test]
fn a_node_of_flannels_is_a_peer_until_its_agent_says_where_its_device_is() {
    let mut scenario = scenario();
    let tables = &mut scenario.tables;
    let changes = put(tables, kube("n2", "10.244.2.0/24", 2));
    assert!(changes.contains(&Change::Node(node("n2"))) && changes.contains(&Change::Claim(node("n2"))));
    assert_eq!(record(tables, "n2").identity.machine_id, FLANNEL_MACHINE);
    let vxlan = record(tables, "n2").vxlan(1).unwrap();
    assert_eq!((vxlan.port, vxlan.inner_v4.unwrap().to_string()), (8472, "10.244.2.0".into()));
    assert_eq!(ranges(tables, "n2"), ["10.244.2.0/24"]);
    let id = tables.nexthop_ids.get(&network_name("default"), &node("n2"), Family::V4);

    // Its agent claims the range, and says what it takes before its device is there.
    scenario.put(&claim("n2", "default", "10.244.2.0/24", ClaimState::Held));
    let mut own = node_record("n2", &["172.30.1.12/24"]);
    own.receives.retain(|receive| !matches!(receive, Receive::Vxlan(_)));
    scenario.put(&own);
    assert_eq!(record(&scenario.tables, "n2").identity, own.identity);
    let flannels = |tables: &Tables| record(tables, "n2").vxlan(1).map(|vxlan| vxlan.mac);
    assert_eq!(flannels(&scenario.tables), Some(Mac([2, 0, 0, 0, 0, 2])));
    put(&mut scenario.tables, kube("n2", "10.244.2.0/24", 3));
    assert_eq!(flannels(&scenario.tables), Some(Mac([2, 0, 0, 0, 0, 3])), "flanneld made its device anew");
    let own = node_record("n2", &["172.30.1.12/24"]);
    scenario.put(&own);
    assert_eq!(*record(&scenario.tables, "n2"), own, "what its agent says of its device is what counts");
    assert_eq!(tables_id(&scenario.tables), id, "one peer before, meanwhile and after");

    // A record that goes leaves the node to flanneld again, as does a claim.
    scenario.delete(StoreKind::Nodes, &own.key());
    scenario.delete(StoreKind::Claims, "default/10.244.2.0_24");
    assert_eq!(record(&scenario.tables, "n2").identity.machine_id, FLANNEL_MACHINE);
    assert_eq!(ranges(&scenario.tables, "n2"), ["10.244.2.0/24"]);
}

fn tables_id(tables: &Tables) -> Option<u32> {
    tables.nexthop_ids.get(&network_name("default"), &node("n2"), Family::V4)
}

#[test]
fn lists_of_the_store_leave_flannels_nodes_and_lists_of_nodes_take_them() {
    let mut scenario = scenario();
    put(&mut scenario.tables, kube("n2", "10.244.2.0/24", 2));
    put(&mut scenario.tables, kube("n1", "10.244.1.0/24", 1));
    assert!(!scenario.tables.nodes.contains_key(&node("n1")), "this node is no peer");
    assert_eq!(scenario.tables.own_flannel().unwrap().mac, Mac([2, 0, 0, 0, 0, 1]));
    for kind in [StoreKind::Nodes, StoreKind::Claims] {
        scenario.say(ripstop_tables::StoreInput::Reset { kind });
        scenario.sync(kind);
    }
    assert_eq!(ranges(&scenario.tables, "n2"), ["10.244.2.0/24"]);
    let kind = ObjectKind::Node;
    scenario.tables.apply_object(&ObjectInput::Reset { kind });
    scenario.tables.apply_object(&ObjectInput::Synced { kind, revision: Revision(2) });
    assert!(scenario.tables.nodes.is_empty() && ranges(&scenario.tables, "n2").is_empty());
}

#[test]
fn without_being_told_so_nobody_looks_at_flannels_nodes() {
    let mut scenario = Scenario::synced();
    put(&mut scenario.tables, kube("n2", "10.244.2.0/24", 2));
    put(&mut scenario.tables, kube("n1", "10.244.1.0/24", 1));
    assert!(scenario.tables.nodes.is_empty() && scenario.tables.own_flannel().is_none());
}
