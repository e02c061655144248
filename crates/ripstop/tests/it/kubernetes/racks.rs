//! A real Kubernetes in two racks whose pods are routed by BGP: BIRD at the top of both, and no session between the nodes.

use ripstop_lab::{Backend, Cni, Families, Options, Target};
use serde_json::json;

use super::super::cluster::{patiently, routers, rows};
use super::{cluster, create, everybody_reaches_everybody, kubectl, takes_down, texts, turn, web};

const NODES: u32 = 2;

#[test]
#[ignore = "long: a real Kubernetes, make test-k8s"]
fn racks_are_routed_by_bgp_with_a_router_at_their_top() {
    let _turn = turn();
    if !routers::has_bird() {
        return;
    }
    let options = Options { nodes: NODES, subnets: NODES, backend: Backend::Bgp, ..Options::named("t-k8s-bgp") };
    let Some(lab) = cluster(options, Cni::Ripstop) else { return };
    let tor = routers::Router::of_racks(&lab);
    let object = |kind: &str, name: &str, spec: serde_json::Value| json!({ "apiVersion": "ripstop.io/v1alpha1", "kind": kind, "metadata": { "name": name }, "spec": spec });
    create(&lab, &object("BgpConfiguration", "default", json!({ "nodeToNodeMeshEnabled": false })));
    for node in 1..=NODES {
        let spec = json!({ "node": format!("n{node}"), "peerIP": format!("172.30.{node}.1"), "asNumber": 64512 });
        create(&lab, &object("BgpPeer", &format!("rack{node}"), spec));
    }
    for node in 1..=NODES {
        let router = format!("172.30.{node}.1");
        patiently("the router at the top is the one peer", || {
            let peers = rows(&lab, node, "/v1/bgp/peers");
            peers.len() == 1 && peers[0]["peer"] == *router && peers[0]["state"] == "established"
        });
    }
    web(&lab, NODES, Families::V4);
    everybody_reaches_everybody(&lab, NODES);
    // The outside reaches a pod by its own address: the router has its route of our node.
    for node in 1..=NODES {
        let ip = texts(&lab, &["pod", &format!("web-{node}")], ".status.podIP").remove(0);
        let url = format!("http://{ip}:8080/hostname");
        let answer = lab.exec(&Target::Outside, &["curl", "-gsS", "--max-time", "5", &url]).unwrap();
        assert_eq!(answer, format!("web-{node}"));
    }
    // What no AS can be does not come so far, and the sessions there are stay.
    let bad = object("BgpPeer", "bad", json!({ "peerIP": "172.30.1.1", "asNumber": 0 }));
    let file = lab.layout().dir().join("bad.json");
    std::fs::write(&file, bad.to_string()).unwrap();
    let refused = kubectl(&lab, &["create", "-f", &file.display().to_string()]).unwrap_err();
    assert!(refused.contains("asNumber"), "{refused}");
    for node in 1..=NODES {
        let peers = rows(&lab, node, "/v1/bgp/peers");
        assert_eq!((&peers[0]["state"], &peers[0]["flaps"]), (&"established".into(), &0.into()), "{peers:?}");
    }
    drop(tor);
    takes_down(lab);
}
