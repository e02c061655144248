//! What of the host gets in the way: which chains are opened, whose advertisements are taken, how many neighbours fit.

use ripstop_fabric::hygiene::{NEIGHBOURS, advertised_links, jump_chain, jumps, neighbour_limits};
use ripstop_netmodel::NeighbourLimits;
use ripstop_objects::UplinkConfig;
use ripstop_tables::{ForeignDrop, Tables};
use ripstop_types::Family::{V4, V6};

use crate::scenario::{Scenario, facts, host_link, name, start};

fn drops(family: &str, table: &str, chain: &str, iptables: bool, docker_user: bool) -> ForeignDrop {
    ForeignDrop { family: family.into(), table: table.into(), chain: chain.into(), iptables, docker_user }
}

#[test]
fn only_iptables_own_chain_takes_a_jump() {
    for (drop, chain) in [
        (drops("ip", "filter", "FORWARD", true, false), Some((V4, "FORWARD"))),
        (drops("ip", "filter", "FORWARD", true, true), Some((V4, "DOCKER-USER"))),
        (drops("ip6", "filter", "FORWARD", true, false), Some((V6, "FORWARD"))),
        (drops("ip", "mangle", "FORWARD", false, false), None),
        (drops("inet", "firewalld", "filter_FORWARD", false, false), None),
    ] {
        assert_eq!(jump_chain(&drop), chain, "{drop:?}");
    }
}

#[test]
fn families_without_pods_are_left_alone() {
    let all = vec![drops("ip", "filter", "FORWARD", true, true), drops("ip6", "filter", "FORWARD", true, false)];
    let jumps_of = |ranges: &[&str]| {
        let mut tables = Scenario::synced().network("default", ranges, |_| {}).tables;
        tables.facts.foreign_drops = all.clone();
        jumps(&tables).collect::<Vec<_>>()
    };
    assert_eq!(jumps_of(&["10.244.0.0/16"]), [(V4, "DOCKER-USER")]);
    assert_eq!(jumps_of(&["10.244.0.0/16", "fd00:10::/48"]), [(V4, "DOCKER-USER"), (V6, "FORWARD")]);
    let mut tables = Scenario::synced().tables;
    tables.facts.foreign_drops = all;
    assert_eq!(jumps(&tables).count(), 0, "a node without a network is left as it is");
}

#[test]
fn advertisements_are_taken_by_links_that_carry_the_nodes_traffic() {
    let with = |accept: Option<u8>, interface: Option<&str>| {
        let mut begin = start(facts());
        begin.facts.links.insert(name("eth1"), host_link(1500, &["192.0.2.1/25", "2001:db8::1/64"]));
        begin.facts.links.insert(name("docker0"), host_link(1500, &["172.17.0.1/16"]));
        for link in begin.facts.links.values_mut() {
            link.accept_ra = accept;
        }
        begin.config.uplink = UplinkConfig { interface: interface.map(name), addresses: Vec::new() };
        let tables = Tables::new(begin);
        advertised_links(&tables).into_iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(with(Some(1), None), ["eth0", "eth1"]);
    assert_eq!(with(Some(2), None), ["eth0", "eth1"], "it stays so once it was set");
    assert_eq!(with(Some(0), None), [""; 0], "who takes none is not made to");
    assert_eq!(with(None, None), [""; 0]);
    // The default route's link too, where peers are reached by another.
    assert_eq!(with(Some(1), Some("eth1")), ["eth0", "eth1"]);
}

#[test]
fn neighbour_limits_only_rise_and_only_where_they_can_be_set() {
    let mut tables = Scenario::synced().tables;
    assert_eq!(neighbour_limits(&tables).count(), 0);
    tables.facts.neighbour_limits =
        [(V4, NeighbourLimits([128, 512, 1024])), (V6, NeighbourLimits([1, 99_999, 1024]))].into();
    let [first, second, third] = NEIGHBOURS;
    let wanted: Vec<_> = neighbour_limits(&tables).collect();
    assert_eq!(wanted, [(V4, [first, second, third]), (V6, [first, 99_999, third])]);
}
