//! Policies of a cluster: pods of two nodes, the nodes themselves and their labels, by each backend and in both wirings.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use ripstop_lab::{Backend, Families, Lab, Options, PodSpec, Wiring};
use serde_json::json;

use super::{inside, lab, rows, until};

/// A denied connection is one that nobody answers for so long.
const DENIED: Duration = Duration::from_millis(500);
const PORT: u16 = 8080;

/// On the first node web, near and other; on the second far and distant.
const PODS: [(&str, u32, &str); 5] =
    [("web", 1, "web"), ("near", 1, "friend"), ("other", 1, "other"), ("far", 2, "friend"), ("distant", 2, "other")];

struct Scene {
    lab: Lab,
    v6: bool,
    _listeners: Vec<TcpListener>,
}

impl Scene {
    fn netns(&self, who: &str) -> PathBuf {
        self.lab.layout().netns_path(who)
    }

    fn pod(&self, name: &str) -> SocketAddr {
        let ips = self.lab.state().unwrap().pods[name].ips().to_vec();
        let ip = ips.into_iter().find(|ip| ip.is_ipv6() == self.v6).unwrap();
        SocketAddr::new(ip, PORT)
    }

    fn node(&self, number: u32) -> SocketAddr {
        let rows = rows(&self.lab, 1, "/v1/nodes");
        let row = rows.iter().find(|row| row["name"] == format!("n{number}")).unwrap();
        let ips = row["addresses"].as_array().unwrap().iter().map(|ip| ip.as_str().unwrap().parse::<IpAddr>().unwrap());
        SocketAddr::new(ips.into_iter().find(|ip| ip.is_ipv6() == self.v6).unwrap(), PORT)
    }

    /// Whether a connection is made, or nobody answers. A refusal is neither.
    fn connects(&self, from: &str, to: SocketAddr) -> std::thread::JoinHandle<bool> {
        let from_whom = from.to_owned();
        inside(&self.netns(from), move || match TcpStream::connect_timeout(&to, DENIED) {
            Ok(_) => true,
            Err(error) if error.kind() == ErrorKind::TimedOut => false,
            Err(error) => panic!("{from_whom} to {to}: {error}"),
        })
    }

    /// Who reaches the web.
    fn reach(&self) -> String {
        let all = ["near", "other", "far", "distant", "n1", "n2"];
        let tried = all.map(|from| self.connects(from, self.pod("web")));
        let passed = all.into_iter().zip(tried).filter_map(|(name, tried)| tried.join().unwrap().then_some(name));
        passed.collect::<Vec<_>>().join(" ")
    }

    /// Whom of the pods far away and of the nodes the web reaches.
    fn goes_to(&self) -> String {
        let all = [("distant", self.pod("distant")), ("n1", self.node(1)), ("n2", self.node(2))];
        let tried = all.map(|(name, to)| (name, self.connects("web", to)));
        let passed = tried.into_iter().filter_map(|(name, tried)| tried.join().unwrap().then_some(name));
        passed.collect::<Vec<_>>().join(" ")
    }

    fn apply(&self, manifest: &str) {
        super::apply(&self.lab, 2, manifest);
    }

    #[track_caller]
    fn expect(&self, who: &str) {
        let mut last = String::new();
        until(who, || {
            last = self.reach();
            last == who || {
                println!("{last} instead of {who}");
                false
            }
        });
    }
}

fn scene(options: Options) -> Option<Scene> {
    let v6 = options.families == Families::V6;
    let lab = lab(Options { nodes: 2, agent_config: json!({"labels": {"rack": "a"}}), ..options })?;
    for (name, node, _) in PODS {
        lab.pod_add(&PodSpec::new(name, node)).unwrap();
    }
    let places = PODS.iter().map(|(name, ..)| *name).chain(["n1", "n2"]);
    let any: SocketAddr = if v6 { ([0u16; 8], PORT).into() } else { ([0, 0, 0, 0], PORT).into() };
    let listen =
        |name: &str| inside(&lab.layout().netns_path(name), move || TcpListener::bind(any).unwrap()).join().unwrap();
    let listeners = places.map(listen).collect();
    let scene = Scene { lab, v6, _listeners: listeners };
    let pods = PODS.map(|(name, node, role)| {
        format!(
            "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{role: {role}}}}},\n\
             spec: {{nodeName: n{node}, containers: [{{name: c, image: i, ports: [{{name: http, containerPort: {PORT}}}]}}]}}}}\n"
        )
    });
    scene.apply(&pods.concat());
    Some(scene)
}

const EVERYBODY: &str = "near other far distant n1 n2";

fn policies_hold(options: Options) {
    let Some(scene) = scene(options) else { return };
    assert_eq!(scene.reach(), EVERYBODY);
    assert_eq!(scene.goes_to(), "distant n1 n2");
    // A pod of the node's own network is the node, whatever its labels.
    scene.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: agent, labels: {{role: friend}}}},\n\
         spec: {{nodeName: n2, hostNetwork: true, containers: [{{name: c, image: i}}]}},\n\
         status: {{podIP: \"{0}\", podIPs: [{{ip: \"{0}\"}}]}}}}",
        scene.node(2).ip()
    ));
    let open = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: open}, spec: {\n\
        podSelector: {matchLabels: {role: web}},\n\
        ingress: [{from: [{podSelector: {matchLabels: {role: friend}}}], ports: [{port: http}]}]}}";
    scene.apply(open);
    scene.expect("near far n1");
    for node in [1, 2] {
        until("both nodes have it in force", || {
            rows(&scene.lab, node, "/v1/networkpolicies").iter().any(|row| row["realised"] == true)
        });
    }
    // Pods come, and are known to the other node; one that comes again has another address.
    scene.lab.pod_del("far").unwrap();
    scene.lab.pod_add(&PodSpec::new("far", 2)).unwrap();
    scene.expect("near far n1");

    // Nodes by their labels, and no others.
    let guard = |action: &str, rack: &str| {
        format!(
            "{{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {{name: guard}}, spec: {{\n\
             tier: Admin, priority: 10, subject: {{pods: {{namespaceSelector: {{}}, podSelector: {{matchLabels: {{role: web}}}}}}}},\n\
             egress: [{{action: {action}, to: [{{nodes: {{matchLabels: {{rack: {rack}}}}}}}]}}]}}}}"
        )
    };
    scene.apply(&guard("Deny", "b"));
    scene.expect("near far n1");
    assert_eq!(scene.goes_to(), "distant n1 n2");
    scene.apply(&guard("Deny", "a"));
    until("no node is reached", || scene.goes_to() == "distant");
    scene.apply(&guard("Accept", "a"));
    until("nodes are reached", || scene.goes_to() == "distant n1 n2");
    scene.lab.down().unwrap();
}

#[test]
fn policies_hold_over_vxlan() {
    policies_hold(Options { subnets: 2, backend: Backend::Vxlan, ..Options::named("t-pol-vx") });
}

#[test]
fn policies_hold_over_host_gw_between_bridges_in_ipv6() {
    let (backend, wiring, families) = (Backend::HostGw, Wiring::Bridge, Families::V6);
    policies_hold(Options { backend, wiring, families, ..Options::named("t-pol-gw") });
}

#[test]
fn policies_hold_over_ipip() {
    policies_hold(Options {
        subnets: 2,
        backend: Backend::Ipip,
        families: Families::V4,
        ..Options::named("t-pol-ipip")
    });
}

#[test]
fn policies_hold_over_udp() {
    policies_hold(Options { subnets: 2, backend: Backend::Udp, ..Options::named("t-pol-udp") });
}
