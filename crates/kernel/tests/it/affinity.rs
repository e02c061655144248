//! Session affinity in the kernel: which server a client comes to.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::services::{By, CLIENT, SERVERS, Scene, answers, connect, service, slice, udp};
use crate::support::*;

const CLUSTER_IP: &str = "10.96.0.10:80";
const NODE_PORT: &str = "192.0.2.1:30080";

fn sticky(seconds: u32, spec: Value) -> Option<Value> {
    let config = json!({"clientIP": {"timeoutSeconds": seconds}});
    let mut all = json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": config});
    all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    service(all)
}

fn others(than: &str) -> Vec<&'static str> {
    SERVERS.into_iter().filter(|server| *server != than).collect()
}

/// The clients that a map of the Service has entries of, and how many seconds those still have.
fn entries(map: &str) -> Vec<(String, u64)> {
    let listed: Value =
        serde_json::from_str(&run("nft", &["-j", "list", "map", "ip", "ripstop-services", map])).unwrap();
    let elements = listed["nftables"].as_array().unwrap().iter().find_map(|one| one["map"]["elem"].as_array().cloned());
    let entry = |one: &Value| (one[0]["elem"]["val"].to_string(), one[0]["elem"]["expires"].as_u64().unwrap_or(0));
    elements.unwrap_or_default().iter().map(entry).collect()
}

#[test]
fn a_client_keeps_its_endpoint_whatever_address_it_asks() {
    a_client_keeps(By::Nftables);
}

/// The same by a compiler.
pub fn a_client_keeps(by: By) {
    on_a_node(move |node| {
        let mut scene = Scene::by(node, by);
        scene.change(sticky(10_800, json!({})), slice(&SERVERS));
        let server = scene.sticks_to(Some(CLIENT), CLUSTER_IP);
        assert_eq!(scene.sticks_to(Some(CLIENT), NODE_PORT), server);
        // Others may have another, and keep that. A pod may come to itself.
        for other in SERVERS {
            let first = scene.sticks_to(Some(other), NODE_PORT);
            assert_eq!(scene.sticks_to(Some(other), CLUSTER_IP), first);
        }
        let own = scene.sticks_to(None, CLUSTER_IP);
        assert_eq!(scene.sticks_to(None, CLUSTER_IP), own);
        assert_eq!(scene.sticks_to(Some(CLIENT), CLUSTER_IP), server);
        if by != By::Nftables {
            return;
        }
        let text = run("nft", &["list", "table", "ip", "ripstop-services"]);
        for line in [
            "10.96.0.10 . tcp . 80 comment \"service/default/web\" : goto affinity/default_web_",
            "10.96.0.10 . tcp . 80 : goto endpoints-3",
            "10.96.0.10 . 80 : jump affinity/default_web_/learn",
            "update @affinity/default_web_ { ip saddr timeout 3h : ip daddr . th dport }",
            "dnat to ip saddr map @affinity/default_web_",
        ] {
            let plain = text.replace("dnat ip to", "dnat to").replace("dnat ip addr . port to", "dnat to");
            assert!(plain.contains(line), "{line}\n{text}");
        }
    });
}

#[test]
fn who_loses_its_endpoint_gets_another_at_once_and_keeps_that() {
    who_loses_its_endpoint(By::Nftables);
}

/// The same by a compiler.
pub fn who_loses_its_endpoint(by: By) {
    on_a_node(move |node| {
        let mut scene = Scene::by(node, by);
        scene.change(sticky(10_800, json!({})), slice(&SERVERS));
        let first = scene.sticks_to(Some(CLIENT), CLUSTER_IP);
        let left = others(&first);
        scene.change(None, slice(&left));
        let second = scene.sticks_to(Some(CLIENT), CLUSTER_IP);
        assert_ne!(second, first);
        scene.change(None, slice(&SERVERS));
        assert_eq!(scene.sticks_to(Some(CLIENT), CLUSTER_IP), second);
        // Under load each connection comes to an endpoint that is there, or was a moment ago, and the client has one again.
        let tried = scene.under_load(CLUSTER_IP, |scene| {
            for turn in 0..12 {
                scene.change(None, slice(&others(SERVERS[turn % 3])));
            }
        });
        let failed: BTreeSet<&String> = tried.iter().filter(|line| !line.starts_with("10.244.1.")).collect();
        assert!(failed.is_empty(), "{failed:?} of {} connections", tried.len());
        let last = scene.sticks_to(Some(CLIENT), CLUSTER_IP);
        scene.change(None, slice(&[]));
        assert!(!run("nft", &["list", "table", "ip", by.table()]).contains("affinity/"));
        scene.change(None, slice(&others(&last)));
        assert_ne!(scene.sticks_to(Some(CLIENT), CLUSTER_IP), last);
    });
}

#[test]
fn an_entry_is_refreshed_by_connections_and_ends_without() {
    on_a_node(|node| {
        let mut scene = Scene::new(node);
        scene.change(sticky(60, json!({})), slice(&SERVERS));
        let ask = |scene: &Scene| scene.pods[CLIENT].inside(|| connect(CLUSTER_IP.parse().unwrap()));
        let left = || entries("affinity/default_web_").first().map_or(0, |(_, left)| *left);
        ask(&scene);
        let end = Instant::now() + Duration::from_secs(30);
        while left() > 57 && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(200));
        }
        let before = left();
        ask(&scene);
        assert!(left() > before, "{before} s were left, and are now {}", left());
        // Another time changes the part where it stands: who has an entry keeps it.
        let server = scene.sticks_to(Some(CLIENT), CLUSTER_IP);
        scene.change(sticky(1, json!({})), None);
        assert_eq!(entries("affinity/default_web_").len(), 1);
        assert_eq!(scene.sticks_to(Some(CLIENT), CLUSTER_IP), server);
        scene.change(None, slice(&[]));
        scene.change(None, slice(&SERVERS));
        ask(&scene);
        let end = Instant::now() + Duration::from_secs(30);
        while !entries("affinity/default_web_").is_empty() {
            assert!(Instant::now() < end, "it does not end: {:?}", entries("affinity/default_web_"));
            std::thread::sleep(Duration::from_millis(200));
        }
    });
}

#[test]
fn affinity_comes_and_goes_without_a_lost_connection() {
    on_a_node(|node| {
        let mut scene = Scene::new(node);
        scene.change(service(json!({})), slice(&SERVERS));
        let tried = scene.under_load(CLUSTER_IP, |scene| {
            for turn in 0..10 {
                let spec = if turn % 2 == 0 { sticky(10_800 + turn, json!({})) } else { service(json!({})) };
                scene.change(spec, None);
            }
        });
        let failed: BTreeSet<&String> = tried.iter().filter(|line| !line.starts_with("10.244.1.")).collect();
        assert!(failed.is_empty(), "{failed:?} of {} connections", tried.len());
        assert_eq!(scene.ask(Some(CLIENT), CLUSTER_IP).len(), 3);
        let text = run("nft", &["list", "table", "ip", "ripstop-services"]);
        assert!(!text.contains("affinity/"), "{text}");
    });
}

#[test]
fn datagrams_of_a_client_go_to_one_endpoint() {
    on_a_node(|node| {
        let mut scene = Scene::new(node);
        let spec = json!({"ports": [{"port": 80, "protocol": "UDP"}]});
        let answer_all = |scene: &Scene| -> BTreeSet<String> {
            let to: SocketAddr = CLUSTER_IP.parse().unwrap();
            scene.pods[CLIENT].inside(move || (0..24).map(|_| answer(to)).collect())
        };
        scene.change(service(spec.clone()), udp(&SERVERS));
        assert_eq!(answer_all(&scene).len(), 3);
        scene.change(sticky(10_800, spec), None);
        let sticks: BTreeSet<String> = answer_all(&scene);
        assert_eq!(sticks.len(), 1, "{sticks:?}");
        assert_eq!(answer_all(&scene), sticks);
        // A connection leaves an endpoint that goes, and does not come back to it by its client's entry.
        let socket = scene.client();
        for _ in 0..4 {
            let first = answers(&socket, CLUSTER_IP).unwrap();
            scene.change(None, udp(&others(&first)));
            let next = answers(&socket, CLUSTER_IP).unwrap();
            assert_ne!(next, first);
            scene.change(None, udp(&SERVERS));
            assert_eq!(answers(&socket, CLUSTER_IP).as_ref(), Some(&next));
        }
    });
}

/// What a new socket's datagram is answered with. Of a port that was in use a moment ago the connection is still known.
fn answer(to: SocketAddr) -> String {
    static PORT: AtomicU16 = AtomicU16::new(20_000);
    let socket = UdpSocket::bind(("0.0.0.0", PORT.fetch_add(1, Ordering::Relaxed))).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket.send_to(b"?", to).unwrap();
    let mut buffer = [0; 64];
    let (length, _) = socket.recv_from(&mut buffer).unwrap();
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

#[test]
fn endpoints_of_this_node_and_of_all_nodes_have_maps_of_their_own() {
    on_a_node(|node| {
        let mut scene = Scene::new(node);
        // A client from outside of the cluster.
        let outside = Pod::new();
        ip(&format!("link add out0 type veth peer name eth0 netns {}", outside.path));
        ip("link set out0 up");
        ip("address add 203.0.113.1/24 dev out0");
        for line in ["link set eth0 up", "address add 203.0.113.2/24 dev eth0", "route add default via 203.0.113.1"] {
            outside.run("ip", &line.split_whitespace().collect::<Vec<_>>());
        }
        scene.pods.insert("outside", outside);
        let mut mixed = slice(&SERVERS).unwrap();
        mixed["endpoints"][2]["nodeName"] = json!("n2");
        let local = |policy: Value| sticky(10_800, policy);
        scene.change(local(json!({"externalTrafficPolicy": "Local"})), Some(mixed.clone()));
        let near = scene.sticks_to(Some("outside"), NODE_PORT);
        assert!(SERVERS[..2].contains(&near.as_str()), "{near}");
        assert_eq!(entries("affinity/default_web_/local").len(), 1);
        assert!(entries("affinity/default_web_").is_empty());
        // Until it comes to the endpoint elsewhere, which a local map must never hold.
        let any = scene.sticks_to(Some(CLIENT), NODE_PORT);
        assert_eq!(scene.sticks_to(Some(CLIENT), CLUSTER_IP), any);
        assert_eq!(entries("affinity/default_web_").len(), 1);
        assert_eq!(scene.sticks_to(Some("outside"), NODE_PORT), near);
        // Its endpoint moves to another node.
        let at = SERVERS.iter().position(|server| *server == near).unwrap();
        mixed["endpoints"][at]["nodeName"] = json!("n2");
        scene.change(None, Some(mixed.clone()));
        assert_ne!(scene.sticks_to(Some("outside"), NODE_PORT), near);
        // Inside too, by policy: then the ClusterIP has the map of this node's.
        scene.change(local(json!({"internalTrafficPolicy": "Local"})), None);
        let near = scene.sticks_to(Some(CLIENT), CLUSTER_IP);
        assert!(SERVERS[..2].contains(&near.as_str()) && near != SERVERS[at], "{near}");
        assert_eq!(scene.sticks_to(Some(CLIENT), NODE_PORT), any);
    });
}

#[test]
fn clients_of_ipv6_keep_their_endpoint_too() {
    on_a_node(|node| {
        let mut scene = Scene::new(node);
        run("sysctl", &["-qw", "net.ipv6.conf.all.forwarding=1"]);
        for (n, pod) in [CLIENT].into_iter().chain(SERVERS).enumerate() {
            ip(&format!("-6 address add fd00:ff:{n}::1/64 dev v{n} nodad"));
            for line in [
                format!("-6 address add fd00:ff:{n}::2/64 dev eth0 nodad"),
                format!("-6 route add default via fd00:ff:{n}::1"),
            ] {
                scene.pods[pod].run("ip", &line.split_whitespace().collect::<Vec<_>>());
            }
        }
        let servers = ["fd00:ff:1::2", "fd00:ff:2::2", "fd00:ff:3::2"];
        for (server, six) in SERVERS.into_iter().zip(servers) {
            scene.serve_at(server, six);
        }
        let mut all = slice(&servers).unwrap();
        all["addressType"] = json!("IPv6");
        let spec = json!({"clusterIP": "fd00:96::10", "ipFamilies": ["IPv6"]});
        let to = "[fd00:96::10]:80";
        scene.change(service(spec.clone()), Some(all.clone()));
        assert_eq!(scene.ask(Some(CLIENT), to).len(), 3);
        scene.change(sticky(10_800, spec), None);
        let first = scene.sticks_to(Some(CLIENT), to);
        assert_eq!(scene.sticks_to(Some(CLIENT), to), first);
        let at = servers.iter().position(|server| *server == first).unwrap();
        all["endpoints"].as_array_mut().unwrap().remove(at);
        scene.change(None, Some(all));
        assert_ne!(scene.sticks_to(Some(CLIENT), to), first);
    });
}
