//! What the node's own part has because of the host: settings, and the jump in a table of another.

use ripstop_desired::{Desired, may_delete};
use ripstop_netmodel::{Key, Kind, NeighbourLimits};
use ripstop_tables::{Change, ForeignDrop, StoreKind, Tables, Withdrawn};
use ripstop_types::Family;

use crate::clusters;
use crate::scenario::{Scenario, name};

/// A dual-stack node whose iptables drop, whose uplink takes advertisements, and whose neighbour tables are small.
fn crowded() -> Tables {
    let mut tables = clusters::routed_vxlan_dual().tables;
    let drops = |family: &str, docker_user| ForeignDrop {
        family: family.into(),
        table: "filter".into(),
        chain: "FORWARD".into(),
        iptables: true,
        docker_user,
    };
    tables.facts.foreign_drops = vec![drops("ip", true), drops("ip6", false)];
    tables.facts.links.get_mut(&name("eth0")).unwrap().accept_ra = Some(1);
    tables.facts.neighbour_limits = [(Family::V4, NeighbourLimits([128, 512, 1024]))].into();
    tables
}

/// The node's settings and jumps, as keys are shown.
fn told(tables: &Tables) -> Vec<String> {
    let desired = Desired::of(tables);
    let kinds = [Kind::Sysctl, Kind::ForwardJump];
    desired.model().keys().filter(|key| kinds.contains(&key.kind())).map(ToString::to_string).collect()
}

#[test]
fn the_host_gets_what_pods_need_and_no_more() {
    assert_eq!(
        told(&crowded()),
        [
            "sysctl net.ipv4.ip_forward",
            "sysctl net.ipv4.neigh.default.gc_thresh1",
            "sysctl net.ipv4.neigh.default.gc_thresh2",
            "sysctl net.ipv4.neigh.default.gc_thresh3",
            "sysctl net.ipv6.conf.all.forwarding",
            "sysctl net.ipv6.conf.eth0.accept_ra",
            "jump in ip filter DOCKER-USER",
            "jump in ip6 filter FORWARD",
        ]
    );
    // One family: the other's settings and tables are nobody's business.
    let mut tables = clusters::routed_host_gw_v4().tables;
    tables.facts = crowded().facts;
    let lines = told(&tables);
    assert!(lines.iter().all(|line| !line.contains("v6") && !line.contains("ip6")), "{lines:?}");
    assert!(lines.contains(&"jump in ip filter DOCKER-USER".to_owned()));
    // A host that is as it should be, and a node without a network.
    assert_eq!(told(&clusters::routed_host_gw_v4().tables), ["sysctl net.ipv4.ip_forward"]);
    let mut tables = Scenario::synced().tables;
    tables.facts = crowded().facts;
    assert_eq!(told(&tables), [""; 0]);
}

#[test]
fn the_jump_goes_only_when_networks_are_known() {
    let tables = crowded();
    let desired = Desired::of(&tables);
    let jump = desired.model().iter().find(|(key, _)| key.kind() == Kind::ForwardJump).unwrap();
    assert_eq!(may_delete(&tables, jump.0, jump.1), Ok(()));
    let unknown = Tables::new(crate::scenario::start(tables.facts.clone()));
    assert!(!unknown.knows(StoreKind::Networks));
    assert!(may_delete(&unknown, jump.0, jump.1).unwrap_err().contains("have not been read yet"));
}

/// Withdrawn, nothing is wanted and everything of this node may go; the records of the store are not this decision's.
#[test]
fn a_withdrawn_node_wants_nothing() {
    let mut tables = crowded();
    let mut desired = Desired::of(&tables);
    let all: Vec<_> = desired.model().iter().map(|(key, entry)| (key.clone(), entry.clone())).collect();
    tables.withdrawn = Withdrawn::Jumps;
    let touched = desired.update(&tables, &[Change::Withdrawn].into());
    assert_eq!(touched.iter().filter(|key| key.kind() == Kind::ForwardJump).count(), 2);
    assert_eq!(touched.len(), 2);
    tables.withdrawn = Withdrawn::Everything;
    desired.update(&tables, &[Change::Withdrawn].into());
    assert!(desired.model().is_empty());
    for (key, entry) in all {
        let of_the_store = matches!(&key, Key::Record { scope: ripstop_netmodel::RecordScope::Cluster(_), .. });
        assert_eq!(may_delete(&tables, &key, &entry).is_ok(), !of_the_store, "{key}");
    }
}
