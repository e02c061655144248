//! Several uplinks, and uplinks that change: each peer's packets go where it is reached, without a restart.

use ripstop_lab::probe::{Pairs, Prober};
use ripstop_lab::{Backend, Lab, Options, Target};

use super::{lab, pods, router, rows, talks, until};

fn ip(lab: &Lab, node: u32, line: &str) {
    let words: Vec<&str> = ["ip"].into_iter().chain(line.split(' ')).collect();
    lab.exec(&Target::Node(node), &words).unwrap();
}

/// How a node reaches a peer, in two words.
fn way(lab: &Lab, node: u32, peer: &str) -> String {
    let rows = rows(lab, node, "/v1/paths");
    let row = rows.iter().find(|row| row["peer"] == peer && row["state"] == "realised");
    row.map_or("none".into(), |row| {
        format!("{} {}", row["backend"].as_str().unwrap_or("?"), row["device"].as_str().unwrap_or("?"))
    })
}

/// Gives the first two nodes a second cable, into a subnet of their own, under probes between their pods.
fn plug_second_cables(lab: &Lab) -> Prober {
    let pair = (Target::Pod("p1".into()), Target::Pod("p2".into()));
    let prober = lab.probe(200, &Pairs::Of(vec![pair.clone(), (pair.1, pair.0)])).unwrap();
    router(lab, "link add second type bridge stp_state 0 mcast_snooping 0");
    router(lab, "link set second up");
    for node in [1, 2] {
        let netns = lab.layout().netns(&format!("n{node}"));
        router(lab, &format!("link add s{node} type veth peer name eth1 netns {netns}"));
        router(lab, &format!("link set s{node} master second up"));
        ip(lab, node, &format!("addr add 10.90.0.{}/24 dev eth1", 10 + node));
        ip(lab, node, "link set eth1 up");
    }
    prober
}

/// Three nodes behind a router; two of them get a second cable, into a subnet of their own.
#[test]
fn a_second_uplink_carries_the_packets_of_the_peers_behind_it() {
    let options = Options { nodes: 3, subnets: 3, backend: Backend::Auto, ..Options::named("t-uplinks") };
    let Some(lab) = lab(options) else { return };
    pods(&lab);
    let prober = plug_second_cables(&lab);
    until("both go by the second uplink", || {
        way(&lab, 1, "n2") == "host-gw eth1" && way(&lab, 2, "n1") == "host-gw eth1"
    });
    assert_eq!(way(&lab, 1, "n3"), "vxlan ript1", "the third is behind the first");
    assert!(talks(&lab, "p1", "p3") && talks(&lab, "p2", "p3"));
    std::thread::sleep(std::time::Duration::from_millis(500));
    let report = prober.stop().unwrap();
    assert!(report.sent > 100 && report.errors.is_empty(), "{report:?}");
    assert_eq!((report.lost, report.dup), (0, 0), "nothing is lost by a new uplink: {report:?}");

    router(&lab, "link set s2 down");
    until("both go by the first again", || way(&lab, 1, "n2") == "vxlan ript1" && way(&lab, 2, "n1") == "vxlan ript1");
    until("pods talk by the first", || talks(&lab, "p1", "p2"));

    router(&lab, "link set s2 up");
    router(&lab, "link set n2 down");
    until("what is left is the second", || way(&lab, 1, "n2") == "host-gw eth1" && talks(&lab, "p1", "p2"));
    let addresses = rows(&lab, 1, "/v1/nodes").into_iter().find(|row| row["name"] == "n2").unwrap();
    assert_eq!(addresses["addresses"], serde_json::json!(["10.90.0.12"]), "an uplink without a carrier is not named");
    router(&lab, "link set n2 up");
    ip(&lab, 2, "route replace default via 172.30.2.1 dev eth0");
    until("the third reaches it again", || talks(&lab, "p3", "p2") && talks(&lab, "p2", "p3"));
    until("nothing is left to do", || [1, 2, 3].iter().all(|node| rows(&lab, *node, "/v1/plan").is_empty()));
    lab.down().unwrap();
}

/// A tunnel between the first uplinks goes by the second ones where these share a subnet, and nothing else does.
#[test]
fn a_tunnel_leaves_by_the_uplink_that_shares_the_peers_subnet() {
    let options = Options { nodes: 2, subnets: 2, backend: Backend::Vxlan, ..Options::named("t-uplink-vx") };
    let Some(lab) = lab(options) else { return };
    pods(&lab);
    let index = |node| lab.exec(&Target::Node(node), &["cat", "/sys/class/net/ript1/ifindex"]).unwrap();
    let before = (index(1), index(2));
    let prober = plug_second_cables(&lab);
    let outer = |node, dst: &str| {
        lab.exec(&Target::Node(node), &["bridge", "fdb", "show", "dev", "ript1"]).unwrap().contains(dst)
    };
    until("both send to the second", || outer(1, "10.90.0.12") && outer(2, "10.90.0.11"));
    std::thread::sleep(std::time::Duration::from_millis(500));
    let capture = lab.capture(&Target::Node(1), Some("eth1")).unwrap();
    assert!(talks(&lab, "p1", "p2"));
    std::thread::sleep(std::time::Duration::from_millis(100));
    let sources: Vec<[u8; 4]> = capture
        .stop()
        .unwrap()
        .iter()
        .filter(|packet| packet.data.len() > 38 && packet.data[36..38] == 8472u16.to_be_bytes())
        .map(|packet| packet.data[26..30].try_into().unwrap())
        .collect();
    assert!(sources.contains(&[10, 90, 0, 11]) && sources.contains(&[10, 90, 0, 12]), "{sources:?}");
    let report = prober.stop().unwrap();
    assert_eq!((report.lost, report.dup), (0, 0), "{report:?}");
    assert_eq!((index(1), index(2)), before, "it is the same device, whatever its source");
    lab.down().unwrap();
}

/// A node's cable is put into another subnet, and it gets an address there.
#[test]
fn a_node_that_moves_behind_the_router_is_reached_by_a_tunnel() {
    let options = Options { nodes: 3, subnets: 2, backend: Backend::Auto, ..Options::named("t-uplink-mv") };
    let Some(lab) = lab(options) else { return };
    pods(&lab);
    assert_eq!((way(&lab, 1, "n3"), way(&lab, 2, "n3")), ("host-gw eth0".into(), "vxlan ript1".into()));
    router(&lab, "link set n3 master sub2");
    ip(&lab, 3, "addr replace 172.30.2.99/24 dev eth0");
    ip(&lab, 3, "addr del 172.30.1.13/24 dev eth0");
    ip(&lab, 3, "route replace default via 172.30.2.1 dev eth0");
    until("each takes the other way", || way(&lab, 1, "n3") == "vxlan ript1" && way(&lab, 2, "n3") == "host-gw eth0");
    until("pods talk", || talks(&lab, "p1", "p3") && talks(&lab, "p3", "p2") && talks(&lab, "p2", "p1"));
    lab.down().unwrap();
}
