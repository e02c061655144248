//! Families × backends × wirings on a real Kubernetes: pods on two nodes reach each other, and a Service by kube-proxy.
//!
//! A cluster a family is enough. It has two networks, one routed and one on a bridge, each with a pod on each node, and goes
//! from backend to backend as it runs. So each of the 18 is seen, and the ways from one wiring to the other with them.

use std::process::Command;

use ripstop_lab::{Backend, Cni, Families, Lab, Options};
use serde_json::{Value, json};

use super::super::cluster::{patiently, rows};
use super::{cluster, create, in_url, kubectl, outside_asks, pod, service, takes_down, texts, turn};

/// The networks, by wiring: name, range of each family.
const NETWORKS: [(&str, &str, &str, &str); 2] = [
    ("default", "routed", "10.244.0.0/17", "fd00:244::/49"),
    ("second", "bridge", "10.244.128.0/17", "fd00:244:0:8000::/49"),
];
const NODES: u32 = 2;
/// The cluster begins with the first.
const BACKENDS: [&str; 3] = ["vxlan", "host-gw", "udp"];
/// So many questions to a Service with four pods leave one of them out once in eight million times.
const QUESTIONS: u32 = 60;

fn networks(families: Families) -> Value {
    let network = |(name, wiring, v4, v6): (&str, &str, &str, &str)| {
        let ranges = [(families.v4(), v4), (families.v6(), v6)];
        let ranges: Vec<&str> = ranges.into_iter().filter(|(wanted, _)| *wanted).map(|(_, range)| range).collect();
        json!({
            "metadata": {"name": name},
            "spec": {"ranges": ranges, "wiring": wiring, "backend": {"type": BACKENDS[0]}},
        })
    };
    NETWORKS.map(network).into()
}

/// New pods of the node hang on this network from now on.
fn chooses(lab: &Lab, node: u32, network: &str) {
    let list = "/etc/cni/net.d/05-second.conflist";
    let words = format!(r#"s/"type": "ripstop-cni"/&, "network": "{network}"/"#);
    // The runtime looks at a file as soon as it has a name that counts.
    let script = format!("sed '{words}' /etc/cni/net.d/10-ripstop.conflist >{list}.new && mv {list}.new {list}");
    lab.exec(&lab.node(node).target(), &["sh", "-c", &script]).unwrap();
}

/// A web server on a node, on a network. The runtime may take a moment to see a new list: a pod that hangs on the other
/// network is made anew.
fn serves(lab: &Lab, node: u32, network: &str) {
    let name = format!("{network}-{node}");
    let pod = pod(&name, node);
    patiently("the pod hangs on its network", || {
        create(lab, &pod);
        kubectl(lab, &["wait", "--for=condition=Ready", "pod", &name, "--timeout=60s"]).unwrap();
        if rows(lab, node, "/v1/pods").iter().any(|row| row["name"] == name && row["network"] == network) {
            return true;
        }
        kubectl(lab, &["delete", "pod", &name, "--wait=true", "--timeout=60s"]).unwrap();
        false
    });
}

fn names() -> Vec<String> {
    NETWORKS.iter().flat_map(|(network, ..)| (1..=NODES).map(move |node| format!("{network}-{node}"))).collect()
}

/// Each pod gets an answer from each of the others by every address, and from the Service those of all, by its addresses and
/// its name; the outside gets one from each node.
fn everybody_answers(lab: &Lab, doing: &str) {
    let targets: Vec<(String, String)> = names()
        .into_iter()
        .flat_map(|name| {
            let ips = texts(lab, &["pod", &name], ".status.podIPs[*].ip");
            ips.into_iter().map(move |ip| (name.clone(), format!("http://{}:8080/hostname", in_url(&ip))))
        })
        .collect();
    let services = texts(lab, &["service", "web"], ".spec.clusterIPs[*]");
    let services = services.iter().map(|ip| in_url(ip)).chain(["web.default.svc.cluster.local".into()]);
    let services: Vec<String> = services.map(|host| format!("http://{host}/hostname")).collect();
    for pod in names() {
        let urls: Vec<String> = targets.iter().map(|(_, url)| url.clone()).collect();
        let expected: Vec<&str> = targets.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(ask(lab, &pod, &urls, 1), expected, "{doing}: {pod} asks {urls:?}");
        for url in &services {
            let mut answers = ask(lab, &pod, std::slice::from_ref(url), QUESTIONS);
            assert_eq!(answers.len(), QUESTIONS as usize, "{doing}: {pod} asks {url}");
            answers.sort();
            answers.dedup();
            assert_eq!(answers, names(), "{doing}: {pod} asks {url}");
        }
    }
    for (url, answer) in outside_asks(lab) {
        assert!(names().contains(&answer), "{doing}: the outside asks {url}: {answer}");
    }
}

/// What a pod gets from each of them, each asked so many times on a connection of its own.
fn ask(lab: &Lab, pod: &str, urls: &[String], times: u32) -> Vec<String> {
    let script = format!(
        "for url in {}; do for n in $(seq {times}); do curl -gsS --max-time 5 \"$url\" 2>&1; echo; done; done",
        urls.join(" ")
    );
    let answers = kubectl(lab, &["exec", pod, "--", "sh", "-c", &script]).unwrap();
    answers.lines().map(str::to_owned).collect()
}

/// Both networks go by it, on each node.
fn migrates(lab: &Lab, families: Families, backend: &str) {
    for (network, ..) in NETWORKS {
        let output = Command::new(env!("CARGO_BIN_EXE_ripstop"))
            .args(["--lab", lab.layout().lab(), "--node", "1", "migrate", "backend", backend])
            .args(["--network", network, "--timeout", "2m"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{network} to {backend}: {}", String::from_utf8_lossy(&output.stderr));
    }
    goes_by(lab, families, backend);
}

fn goes_by(lab: &Lab, families: Families, backend: &str) {
    let families = usize::from(families.v4()) + usize::from(families.v6());
    for node in 1..=NODES {
        let mut paths = Vec::new();
        patiently("all paths go by the backend", || {
            paths = rows(lab, node, "/v1/paths");
            let right = |row: &Value| row["backend"] == backend && row["state"] == "realised";
            paths.len() >= families && paths.iter().all(right)
        });
    }
}

fn all_of(families: Families, name: &str) {
    let _turn = turn();
    let agent_config = json!({ "networks": networks(families) });
    let options = Options { nodes: NODES, backend: Backend::Vxlan, families, agent_config, ..Options::named(name) };
    let Some(lab) = cluster(options, Cni::Ripstop) else { return };
    create(&lab, &service(families));
    for (network, ..) in NETWORKS {
        for node in 1..=NODES {
            chooses(&lab, node, network);
            serves(&lab, node, network);
        }
    }
    for (step, backend) in BACKENDS.into_iter().enumerate() {
        if step == 0 {
            goes_by(&lab, families, backend);
        } else {
            migrates(&lab, families, backend);
        }
        everybody_answers(&lab, backend);
    }
    takes_down(lab);
}

#[test]
#[ignore = "long: a real Kubernetes, make test-k8s"]
fn all_backends_and_wirings_carry_ipv4() {
    all_of(Families::V4, "t-k8s-all4");
}

#[test]
#[ignore = "long: a real Kubernetes, make test-k8s"]
fn all_backends_and_wirings_carry_ipv6() {
    all_of(Families::V6, "t-k8s-all6");
}

#[test]
#[ignore = "long: a real Kubernetes, make test-k8s"]
fn all_backends_and_wirings_carry_both() {
    all_of(Families::Dual, "t-k8s-alld");
}
