//! A cluster of real flanneld is moved node by node while its pods talk.

use std::path::PathBuf;

use ripstop_lab::streams::TcpStreams;
use ripstop_lab::{Cni, Endpoint, Families, Lab, Options, Prober, Target};
use serde_json::{Value, json};

use super::super::cluster::patiently;
use super::{cluster, create, everybody_reaches_everybody, get, kubectl, pod, takes_down, texts, turn, web};

const NODES: u32 = 3;

/// The command for this cluster, as its administrator.
fn migrate(lab: &Lab, args: &[&str]) -> Result<String, String> {
    let config = lab.kubeconfig().display().to_string();
    let words = ["migrate", "from", "flannel", "--kubeconfig", &config];
    let argv = [&[env!("CARGO_BIN_EXE_ripstop")], &words[..], args].concat();
    lab.exec(&Target::Control, &argv).map_err(|error| error.to_string())
}

fn states(lab: &Lab) -> Vec<String> {
    let rows: Vec<Value> = serde_json::from_str(&migrate(lab, &["--status", "-o", "json"]).unwrap()).unwrap();
    rows.iter().map(|row| row["state"].as_str().unwrap().to_owned()).collect()
}

fn on(lab: &Lab, node: u32, script: &str) -> String {
    lab.exec(&lab.node(node).target(), &["sh", "-c", script]).unwrap()
}

fn ip_of(lab: &Lab, pod: &str) -> String {
    texts(lab, &["pod", pod], ".status.podIP").remove(0)
}

/// A pod as a side of streams and probes, whoever gave it its network: found by its address.
fn side(lab: &Lab, node: u32, pod: &str) -> Endpoint {
    let ip = ip_of(lab, pod);
    let script = format!(
        "for ns in /run/netns/*; do nsenter --net=$ns ip -4 -o addr show | grep -qw {ip} && echo $ns; done; true"
    );
    let netns = on(lab, node, &script).trim().trim_start_matches('/').to_owned();
    assert!(netns.starts_with("run/netns/") && !netns.contains('\n'), "{pod} at {ip}: {netns:?}");
    let init = lab.node(node).record().unwrap().init.unwrap();
    let root = PathBuf::from(format!("/proc/{}/root", init.pid));
    Endpoint { name: pod.to_owned(), netns: root.join(netns), ips: vec![ip.parse().unwrap()], pod: true }
}

/// Every ordered pair of different pods.
fn pairs(sides: &[Endpoint]) -> Vec<(Endpoint, Endpoint)> {
    let all = sides.iter().flat_map(|from| sides.iter().map(move |to| (from, to)));
    all.filter(|(from, to)| from.name != to.name).map(|(from, to)| (from.clone(), to.clone())).collect()
}

/// A new pod of a node, made after it was moved.
fn add(lab: &Lab, node: u32) {
    let name = format!("new-{node}");
    let mut object = pod(&name, node);
    object["metadata"]["labels"] = json!({"app": "new"});
    create(lab, &object);
    kubectl(lab, &["wait", "--for=condition=Ready", "pod", &name, "--timeout=120s"]).unwrap();
}

/// Pods answer each other, both ways.
fn reach(lab: &Lab, one: &[String], others: &[String]) {
    for (from, to) in one.iter().flat_map(|one| others.iter().flat_map(move |other| [(one, other), (other, one)])) {
        let url = format!("http://{}:8080/hostname", ip_of(lab, to));
        assert_eq!(get(lab, from, &url).as_deref(), Ok(to.as_str()), "{from} to {to}");
    }
}

#[test]
#[ignore = "long: a real Kubernetes, make test-k8s"]
fn a_cluster_of_flanneld_is_moved_node_by_node_and_no_stream_breaks() {
    let _turn = turn();
    let options = Options { nodes: NODES, subnets: 2, ..Options::named("t-k8s-takeover") };
    let Some(lab) = cluster(options, Cni::Flannel) else { return };
    web(&lab, NODES, Families::V4);
    everybody_reaches_everybody(&lab, NODES);
    what_cannot_be_is_refused(&lab);
    let known =
        |lab: &Lab| texts(lab, &["nodes"], r".items[*].metadata.annotations.flannel\.alpha\.coreos\.com/backend-data");
    let before = known(&lab);

    let old: Vec<String> = (1..=NODES).map(|node| format!("web-{node}")).collect();
    let sides: Vec<Endpoint> = (1..=NODES).map(|node| side(&lab, node, &format!("web-{node}"))).collect();
    let pairs = pairs(&sides);
    let (streams, prober) = (TcpStreams::start(24, &pairs).unwrap(), Prober::start(50, &pairs).unwrap());
    let mut new: Vec<String> = Vec::new();
    for node in 1..=NODES {
        let said = migrate(&lab, &["--node", &format!("n{node}")]).unwrap();
        assert!(said.contains(&format!("node/n{node} moved")), "{said}");
        for (at, state) in (1..).zip(states(&lab)) {
            assert_eq!(state, if at <= node { "moved" } else { "flannel" }, "n{at} after n{node}");
        }
        add(&lab, node);
        reach(&lab, &[format!("new-{node}")], &[&old[..], &new[..]].concat());
        new.push(format!("new-{node}"));
    }
    let (streams, probes) = (streams.stop().unwrap(), prober.stop().unwrap());
    println!("{streams:?}\n{probes:?}");
    assert_eq!((streams.streams, streams.broken), (24, 0), "{streams:?}");
    assert!(streams.bytes > 0 && probes.sent > 0);
    // Each node's device stays the same, so that nothing has a moment in which to be lost.
    assert!(probes.lost * 1000 <= probes.sent, "{probes:?}");
    everybody_reaches_everybody(&lab, NODES);

    // Nothing of Flannel's is left but what its pods hang on, and what its nodes know each other by.
    let sets = texts(&lab, &["daemonsets", "-A"], ".items[*].metadata.name");
    assert!(!sets.iter().any(|set| set == "kube-flannel-ds"), "{sets:?}");
    let labels = texts(&lab, &["nodes", "-l", "ripstop.io/from-flannel"], ".items[*].metadata.name");
    assert_eq!(labels, Vec::<String>::new());
    assert_eq!(known(&lab), before);
    for node in 1..=NODES {
        assert_eq!(on(&lab, node, "ip link show flannel.1 2>/dev/null; true"), "");
        assert!(on(&lab, node, "ip link show cni0").contains("ripstop.taken.default"));
    }
    assert!(migrate(&lab, &[]).unwrap().contains("nothing is left to move"));
    the_bridge_goes_with_its_last_pod(&lab, &new);
    takes_down(lab);
}

fn what_cannot_be_is_refused(lab: &Lab) {
    let refusal = migrate(lab, &["--daemonset", "kube-flannel/none"]).unwrap_err();
    assert!(refusal.contains("there is no daemonset kube-flannel/none"), "{refusal}");
    let refusal = migrate(lab, &["--node", "n9"]).unwrap_err();
    assert!(refusal.contains("--node: found n9, accepted are n1, n2, n3"), "{refusal}");
    let map = ["-n", "kube-flannel", "patch", "configmap", "kube-flannel-cfg", "--type=merge", "-p"];
    let conf = |kind: &str| {
        let text = json!({"Network": "10.244.0.0/16", "Backend": {"Type": kind}}).to_string();
        let patch = json!({"data": {"net-conf.json": text}}).to_string();
        kubectl(lab, &[&map[..], &[&patch]].concat()).unwrap();
    };
    conf("host-gw");
    let refusal = migrate(lab, &[]).unwrap_err();
    assert!(refusal.contains("Backend.Type: found host-gw, accepted is vxlan"), "{refusal}");
    conf("vxlan");
    let plan = migrate(lab, &["--dry-run"]).unwrap();
    assert!(plan.contains("node/n3: start an agent beside flanneld, then end flanneld"), "{plan}");
    assert_eq!(states(lab), ["flannel"; 3]);
    let namespaces = texts(lab, &["namespaces"], ".items[*].metadata.name");
    assert!(!namespaces.iter().any(|name| name == "ripstop"), "a refusal and a rehearsal write nothing");
}

/// Pods of Flannel's that go are not replaced on its bridge.
fn the_bridge_goes_with_its_last_pod(lab: &Lab, new: &[String]) {
    let selectors = [("default", "app=web"), ("kube-system", "k8s-app=kube-dns")];
    for (namespace, selector) in selectors {
        kubectl(lab, &["-n", namespace, "delete", "pod", "-l", selector, "--wait=true", "--timeout=60s"]).unwrap();
    }
    for node in 1..=NODES {
        patiently("the bridge is gone", || on(lab, node, "ip link show cni0 2>/dev/null; true").is_empty());
    }
    reach(lab, &new[..1], &new[1..]);
    kubectl(lab, &["delete", "service", "web"]).unwrap();
    web(lab, NODES, Families::V4);
    everybody_reaches_everybody(lab, NODES);
}
