//! The suite of Services on real packets, by rules written by hand.

use std::cell::Cell;
use std::collections::BTreeSet;

use ripstop_conformance::Outcome;
use ripstop_conformance::services::scene::{Node, Scene};
use ripstop_conformance::services::{DataPlane, Fate, Stop, cases, run};
use ripstop_oracle::services::{Origin, State, World};

use crate::possible;

/// A case, rules that are right for it, and the same with a fault.
const HAND_WRITTEN: &[(&str, &str, &str)] = &[
    (
        "node-port/tcp/from-outside",
        "chain pre { type nat hook prerouting priority dstnat;
           ip daddr 172.18.0.1 tcp dport 30080 numgen random mod 2 0 mark set 1 dnat to 10.244.1.2:8080
           ip daddr 172.18.0.1 tcp dport 30080 mark set 1 dnat to 10.244.2.2:8080 }
         chain post { type nat hook postrouting priority srcnat; mark 1 masquerade fully-random }",
        "chain pre { type nat hook prerouting priority dstnat;
           ip daddr 172.18.0.1 tcp dport 30080 numgen random mod 2 0 mark set 1 dnat to 10.244.1.2:8080
           ip daddr 172.18.0.1 tcp dport 30080 dnat to 10.244.2.2:8080 }
         chain post { type nat hook postrouting priority srcnat; mark 1 masquerade fully-random }",
    ),
    (
        "cluster-ip/udp/pod-over-ipv6",
        "chain pre { type nat hook prerouting priority dstnat;
           ip6 daddr fd00:96::53 udp dport 53 dnat to [fd00:244:2::53]:53 }",
        "chain pre { type nat hook prerouting priority dstnat;
           ip6 daddr fd00:96::53 udp dport 53 dnat to [fd00:244:2::54]:53 }",
    ),
    (
        "cluster-ip/sctp/from-the-node",
        "chain out { type nat hook output priority -100; ip daddr 10.96.0.36 sctp dport 3868 dnat to 10.244.2.36:3868 }",
        "chain pre { type nat hook prerouting priority dstnat; ip daddr 10.96.0.36 sctp dport 3868 dnat to 10.244.2.36:3868 }",
    ),
    (
        "reject/cluster-ip/over-ipv6",
        "chain through { type filter hook forward priority 0; ip6 daddr fd00:96::10 reject }
         chain out { type filter hook output priority 0; ip6 daddr fd00:96::10 reject }",
        "chain through { type filter hook forward priority 0; ip6 daddr fd00:96::10 drop }
         chain out { type filter hook output priority 0; ip6 daddr fd00:96::10 reject }",
    ),
    (
        "reject/node-port/from-outside",
        "chain in { type filter hook input priority 0; tcp dport 30080 reject }",
        "chain in { type filter hook input priority 0; tcp dport 30081 reject }",
    ),
    (
        "reject/unallocated/every-protocol",
        "chain through { type filter hook forward priority 0; ip daddr 10.96.0.0/16 drop }",
        "chain through { type filter hook forward priority 0; ip daddr 10.96.0.0/16 ip protocol != 132 drop }",
    ),
    (
        "hairpin/tcp/alone",
        "chain pre { type nat hook prerouting priority dstnat; ip daddr 10.96.0.10 tcp dport 80 dnat to 10.244.1.2:8080 }
         chain post { type nat hook postrouting priority srcnat; ip saddr 10.244.1.2 ip daddr 10.244.1.2 masquerade }",
        "chain pre { type nat hook prerouting priority dstnat; ip daddr 10.96.0.10 tcp dport 80 dnat to 10.244.1.2:8080 }",
    ),
    (
        "cluster-ip/endpoints/host-network-of-this-node",
        "chain pre { type nat hook prerouting priority dstnat; ip daddr 10.96.0.10 tcp dport 80 dnat to 172.18.0.1:8080 }
         chain out { type nat hook output priority -100; ip daddr 10.96.0.10 tcp dport 80 dnat to 172.18.0.1:8080 }",
        "chain pre { type nat hook prerouting priority dstnat; ip daddr 10.96.0.10 tcp dport 80 redirect to :8081 }",
    ),
    (
        "invalid/from-an-endpoint/to-a-client-here",
        "chain through { type filter hook forward priority 0; ct state invalid drop }",
        "chain through { type filter hook forward priority 0; ct state untracked drop }",
    ),
];

/// A scene with the rules that a cell has, in a table of both families.
fn scene<'a>(rules: &'a Cell<&'static str>) -> Option<Scene<'a>> {
    let install = move |_: &World, node: &Node<'_>| {
        // nft wants a rule's end on a line.
        let rules = rules.get().replace(" }", "\n}");
        node.nft(&format!("table inet judged\ndelete table inet judged\ntable inet judged {{\n{rules}\n}}\n"))
    };
    match Scene::new(Box::new(install)) {
        Ok(scene) => Some(scene),
        Err(stop) => {
            println!("SKIPPED: {stop:?}");
            None
        }
    }
}

#[test]
fn without_rules_everything_goes_where_it_is_sent_to() {
    if !possible() {
        return;
    }
    let rules = Cell::new("");
    let Some(mut scene) = scene(&rules) else { return };
    let cases = cases().unwrap();
    let world = &cases[0].steps[0].world;
    scene.install(world).unwrap();
    let steps = cases.iter().flat_map(|case| &case.steps);
    let packets = steps.flat_map(|step| &step.packets).map(|expected| expected.packet);
    let packets: BTreeSet<_> = packets.filter(|packet| packet.state == State::New).collect();
    assert!(packets.len() > 100, "{}", packets.len());
    let begun = std::time::Instant::now();
    for packet in &packets {
        let seen = scene.send(packet).unwrap();
        // Nobody but the node itself gets to its loopback addresses, whatever the rules (RFC 1122, 3.2.1.3).
        let is_martian = packet.destination.is_loopback() && packet.origin != Origin::Node;
        assert_eq!(seen.fate, if is_martian { Fate::Nothing } else { Fate::Passed }, "{packet:?}");
    }
    println!("{} packets in {:?}", packets.len(), begun.elapsed());
}

#[test]
fn rules_by_hand_pass_their_case_and_with_a_fault_fail_it() {
    if !possible() {
        return;
    }
    let rules = Cell::new("");
    let Some(mut scene) = scene(&rules) else { return };
    let mut row = |case: &str, text| {
        rules.set(text);
        run(&mut scene, &[case.to_owned()], &|_| ()).unwrap().pop().unwrap()
    };
    for (case, right, wrong) in HAND_WRITTEN {
        let passed = row(case, right);
        assert_eq!(passed.outcome, Outcome::Pass, "{case}: {:?}", passed.reason);
        assert_eq!(row(case, wrong).outcome, Outcome::Fail, "{case} with a fault");
    }
}

#[test]
fn what_packets_cannot_show_is_skipped() {
    if !possible() {
        return;
    }
    let rules = Cell::new("");
    let Some(mut scene) = scene(&rules) else { return };
    let skip = run(&mut scene, &["sysctls/max/by-cores".to_owned()], &|_| ()).unwrap();
    assert_eq!(skip[0].outcome, Outcome::Skip);
    assert!(matches!(scene.restart(), Err(Stop::Skip(_))));
}
