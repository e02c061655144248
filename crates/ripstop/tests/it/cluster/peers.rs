//! Peers come, go and change, and a Linux VTEP set up by hand is one of them.

use std::time::{Duration, Instant};

use ripstop_lab::probe::Pairs;
use ripstop_lab::{Backend, Options, PodSpec, Target};
use serde_json::json;

use super::{ip, lab, pods, put, range_of, rows, talks, until};

#[test]
fn a_nodes_new_address_reaches_its_peers_within_a_second() {
    let options = Options { nodes: 2, backend: Backend::Vxlan, ..Options::named("t-readdr") };
    let Some(lab) = lab(options) else { return };
    pods(&lab);
    let node = Target::Node(2);
    lab.exec(&node, &["ip", "addr", "del", "172.30.1.12/24", "dev", "eth0"]).unwrap();
    lab.exec(&node, &["ip", "addr", "add", "172.30.1.99/24", "dev", "eth0"]).unwrap();
    // The kernel took the default route along with the address.
    lab.exec(&node, &["ip", "route", "replace", "default", "via", "172.30.1.1", "dev", "eth0"]).unwrap();
    let begun = Instant::now();
    until("node 1 sends to the new address", || {
        let fdb = lab.exec(&Target::Node(1), &["bridge", "fdb", "show", "dev", "ript1"]).unwrap();
        fdb.contains("172.30.1.99")
    });
    println!("a new address was in force after {} ms", begun.elapsed().as_millis());
    until("pods talk again", || talks(&lab, "p1", "p2"));
    lab.down().unwrap();
}

#[test]
fn a_removed_nodes_range_stays_its_own_and_a_new_node_gets_another() {
    let options = Options { nodes: 3, backend: Backend::HostGw, ..Options::named("t-leave") };
    let Some(lab) = lab(options) else { return };
    let range = range_of(&lab, "n2");
    lab.node(2).remove().unwrap();
    let fourth = lab.node_add().unwrap();
    until("node 1 knows the new node", || rows(&lab, 1, "/v1/nodes").iter().any(|row| row["name"] == "n4"));
    assert_eq!(fourth, 4);
    assert_ne!(range, range_of(&lab, "n4"));
    let claims = rows(&lab, 1, "/v1/leases");
    assert!(claims.iter().any(|claim| claim["range"] == range.as_str()), "the dead machine's range stays claimed");
    lab.down().unwrap();
}

#[test]
fn a_linux_vtep_set_up_by_hand_is_a_peer() {
    let options = Options { nodes: 1, backend: Backend::Vxlan, ..Options::named("t-vtep") };
    let Some(lab) = lab(options) else { return };
    lab.pod_add(&PodSpec::new("p1", 1)).unwrap();
    let outside = Target::Outside;
    let inner = "10.244.200.1";
    let own = range_of(&lab, "n1");
    let gateway = own.replace(".0/24", ".1");
    let mac = "0a:00:00:00:00:77";
    let own_mac = lab.exec(&Target::Node(1), &["cat", "/sys/class/net/ript1/address"]).unwrap();
    for command in [
        "ip link add vx type vxlan id 1 dstport 8472 local 172.31.0.10 nolearning",
        &format!("ip link set vx address {mac} mtu 1450 up"),
        &format!("ip addr add {inner}/32 dev vx"),
        &format!("ip route add {own} via {gateway} dev vx onlink"),
        &format!("ip neigh add {gateway} lladdr {} dev vx nud permanent", own_mac.trim()),
        &format!("bridge fdb append {} dev vx dst 172.30.1.11", own_mac.trim()),
    ] {
        let words: Vec<&str> = command.split_whitespace().collect();
        lab.exec(&outside, &words).unwrap();
    }
    let record = json!({
        "name": "byhand", "identity": {"machineId": "byhand", "bootId": "byhand"},
        "addresses": [{"ip": "172.31.0.10", "prefix": "172.31.0.0/24"}],
        "receives": [{"type": "vxlan", "vni": 1, "port": 8472, "mac": mac, "outerV4": "172.31.0.10", "innerV4": inner}],
    });
    let claim = json!({
        "network": "default", "range": "10.244.200.0/24", "node": "byhand", "machine": "byhand", "boot": "byhand",
        "run": 1, "state": "held",
    });
    put(&lab, ripstop_store::Kind::Nodes, "byhand", &record);
    put(&lab, ripstop_store::Kind::Claims, "default/10.244.200.0_24", &claim);
    until("the path is realised", || rows(&lab, 1, "/v1/paths").iter().any(|path| path["state"] == "realised"));
    until("the pod reaches the hand-made VTEP", || {
        lab.exec(&Target::Pod("p1".into()), &["ping", "-c", "1", "-W", "1", inner]).is_ok()
    });
    lab.exec(&outside, &["ping", "-c", "1", "-W", "2", &ip(&lab, "p1")]).unwrap();
    lab.down().unwrap();
}

#[test]
fn a_flapping_cable_heals_by_itself() {
    let options = Options { nodes: 2, backend: Backend::Vxlan, ..Options::named("t-flap") };
    let Some(lab) = lab(options) else { return };
    pods(&lab);
    for _ in 0..3 {
        lab.exec(&Target::Node(2), &["ip", "link", "set", "eth0", "down"]).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        lab.exec(&Target::Node(2), &["ip", "link", "set", "eth0", "up"]).unwrap();
    }
    lab.exec(&Target::Node(2), &["ip", "route", "replace", "default", "via", "172.30.1.1", "dev", "eth0"]).unwrap();
    until("pods talk again", || talks(&lab, "p1", "p2"));
    // What the node said of itself while it had no cable still goes round; when that is over nothing is lost any more.
    until("nothing is lost for half a second", || {
        let pair = (Target::Pod("p1".into()), Target::Pod("p2".into()));
        let prober = lab.probe(500, &Pairs::Of(vec![pair])).unwrap();
        std::thread::sleep(Duration::from_millis(500));
        let report = prober.stop().unwrap();
        report.received > 0 && (report.lost, report.dup) == (0, 0)
    });
    until("nothing is left to do", || [1, 2].iter().all(|node| rows(&lab, *node, "/v1/plan").is_empty()));
    lab.down().unwrap();
}
