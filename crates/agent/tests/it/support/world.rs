//! One node with its uplink to a router that is also the outside and every peer, its store, its agent, its pods.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use super::agent::{Agent, How};
use super::cni::Call;
use super::ns::Ns;
use super::packets::Echo;
use super::store::{Peer, TestStore};
use super::web::{self, Answer};
use super::{packets, soon};

/// The node's addresses, the router's, and one of somebody far away.
pub const NODE: [&str; 2] = ["172.30.1.11", "fd30:1::11"];
pub const ROUTER: [&str; 2] = ["172.30.1.1", "fd30:1::1"];
pub const PEER: [&str; 2] = ["172.30.1.2", "fd30:1::2"];
pub const OUTSIDE: [&str; 2] = ["192.0.2.1", "2001:db8::1"];

/// Address families of a node and its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Families {
    V4,
    V6,
    Dual,
}

impl Families {
    pub fn four(self) -> bool {
        self != Self::V6
    }

    pub fn six(self) -> bool {
        self != Self::V4
    }
}

/// Where records are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreAt {
    /// In this process, on a socket.
    Here,
    /// In a file that the agent opens.
    File,
    /// On a socket where nobody listens.
    Nowhere,
    /// In the API of Kubernetes, by a kubeconfig in the world's folder.
    Kubernetes,
    /// The same by a pod's service account.
    InCluster,
}

/// What a world is like.
#[derive(Debug, Clone)]
pub struct Plan {
    pub wiring: &'static str,
    pub backend: &'static str,
    pub families: Families,
    pub store: StoreAt,
    /// More lines of the network's `spec`.
    pub spec: Vec<String>,
    /// More lines of the configuration.
    pub config: Vec<String>,
    /// Without: the configuration names no network.
    pub network: bool,
    /// The node's number, which its name and its addresses end in.
    pub number: u8,
}

impl Plan {
    /// Services served by each proxy that can be here.
    pub fn by_each_proxy() -> impl Iterator<Item = (&'static str, Self)> {
        let can_be = |proxy: &&str| {
            let is_there = *proxy != "ipvs" || ripstop_kernel::has_ipvs();
            if !is_there {
                println!("SKIPPED: this kernel has no IPVS, or its module ip_vs is not loaded");
            }
            is_there
        };
        let plan = |proxy: &'static str| {
            let config = vec![format!("services: {{proxy: {proxy}, serviceCIDRs: [10.96.0.0/16]}}")];
            (proxy, Self { config, ..Self::default() })
        };
        ["nftables", "iptables", "ipvs"].into_iter().filter(can_be).map(plan)
    }
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            wiring: "routed",
            backend: "host-gw",
            families: Families::V4,
            store: StoreAt::File,
            spec: Vec::new(),
            config: Vec::new(),
            network: true,
            number: 1,
        }
    }
}

pub struct World {
    pub plan: Plan,
    pub agent: Option<Agent>,
    pub store: Option<TestStore>,
    pub node: Ns,
    pub router: Ns,
    pub dir: tempfile::TempDir,
    number: AtomicU64,
}

/// A pod that was added.
pub struct Pod {
    pub ns: Ns,
    pub container: String,
    pub result: Value,
}

impl World {
    /// Namespaces, links, configuration; no agent yet.
    pub fn make(plan: Plan) -> Self {
        let (router, node) = (Ns::new(), Ns::new());
        for ns in [&router, &node] {
            ns.inside(|| {
                for name in ["all/forwarding", "default/accept_dad", "default/dad_transmits"] {
                    let value = if name == "all/forwarding" && std::ptr::eq(ns, &raw const router) { "1" } else { "0" };
                    std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}"), value).unwrap();
                }
            });
        }
        router.inside(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")).unwrap();
        let pair =
            format!("link set lo up\nlink add eth0 mtu 1500 type veth peer name eth0 mtu 1500 netns {}\n", node.path);
        let (mut there, mut here) = (pair, "link set lo up\nlink set eth0 up\n".to_owned());
        there.push_str("link set eth0 up\n");
        if plan.families.four() {
            there.push_str(
                "addr add 172.30.1.1/24 dev eth0\naddr add 172.30.1.2/24 dev eth0\naddr add 192.0.2.1/32 dev lo\n",
            );
            here.push_str(&format!("addr add 172.30.1.1{}/24 dev eth0\n", plan.number));
            here.push_str("route add default via 172.30.1.1\n");
        }
        if plan.families.six() {
            there.push_str("addr add fd30:1::1/64 dev eth0 nodad\naddr add fd30:1::2/64 dev eth0 nodad\n");
            there.push_str("addr add 2001:db8::1/128 dev lo nodad\n");
            here.push_str(&format!("addr add fd30:1::1{}/64 dev eth0 nodad\n", plan.number));
            here.push_str("route add default via fd30:1::1\n");
        }
        router.ips(&there);
        node.ips(&here);
        let dir = tempfile::tempdir().unwrap();
        let store = (plan.store == StoreAt::Here).then(|| TestStore::new(&dir.path().join("store.sock")));
        let world = Self { plan, agent: None, store, node, router, dir, number: AtomicU64::new(1) };
        world.write_config();
        world
    }

    /// A world whose agent is ready.
    pub fn start(plan: Plan) -> Self {
        let mut world = Self::make(plan);
        world.start_agent();
        world.wait_ready();
        world
    }

    /// The network's ranges.
    pub fn ranges(&self) -> &'static str {
        match self.plan.families {
            Families::V4 => "[10.244.0.0/16]",
            Families::V6 => "[\"fd00:244::/48\"]",
            Families::Dual => "[10.244.0.0/16, \"fd00:244::/48\"]",
        }
    }

    pub fn write_config(&self) {
        let dir = self.dir.path().display();
        let store = match self.plan.store {
            StoreAt::File => format!("embedded: {{path: {dir}/store.redb}}"),
            StoreAt::Here | StoreAt::Nowhere => format!("embedded: {{socket: {dir}/store.sock}}"),
            StoreAt::Kubernetes => format!("kubernetes: {{kubeconfig: {dir}/kubeconfig, timeout: 3s}}"),
            StoreAt::InCluster => "kubernetes: {timeout: 3s}".to_owned(),
        };
        let mut text = format!(
            "node: n{}\nrunDir: {dir}/run\nstateDir: {dir}/state\ncniConfDir: {dir}/net.d\nstore: {{{store}}}\n",
            self.plan.number
        );
        if !self.plan.config.iter().any(|line| line.starts_with("timings")) {
            text.push_str("timings: {aliveInterval: 300ms, staleAfter: 1s, orphanInterval: 1s}\n");
        }
        for line in &self.plan.config {
            text.push_str(line);
            text.push('\n');
        }
        if self.plan.network {
            let (ranges, wiring, backend) = (self.ranges(), self.plan.wiring, self.plan.backend);
            text.push_str("networks:\n- metadata: {name: default}\n  spec:\n");
            text.push_str(&format!("    ranges: {ranges}\n    wiring: {wiring}\n"));
            if !self.plan.spec.iter().any(|line| line.starts_with("backend")) {
                text.push_str(&format!("    backend: {backend}\n"));
            }
            for line in &self.plan.spec {
                text.push_str(&format!("    {line}\n"));
            }
        }
        std::fs::write(self.config(), text).unwrap();
    }

    pub fn config(&self) -> PathBuf {
        self.dir.path().join("config.yaml")
    }

    pub fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    pub fn start_agent(&mut self) {
        self.start_agent_as(&How::default());
    }

    pub fn start_agent_as(&mut self, how: &How) {
        let agent = Agent::start(&self.node, &self.config(), &self.dir.path().join("agent.log"), how);
        self.agent = Some(agent);
    }

    pub fn agent(&self) -> &Agent {
        self.agent.as_ref().unwrap()
    }

    pub fn kill_agent(&mut self) {
        self.agent.take().unwrap().kill();
    }

    /// `kill -9` and a new start, until it is ready.
    pub fn restart(&mut self) {
        self.kill_agent();
        self.start_agent();
        self.wait_ready();
    }

    pub fn wait_ready(&self) {
        let ready = soon(|| self.ask("GET", "/readyz", "").is_some_and(|answer| answer.status == 200));
        assert!(ready, "not ready: {:?}", self.ask("GET", "/readyz", "").map(|answer| answer.body));
    }

    /// Waits until the agent answers on its socket, ready or not.
    pub fn wait_up(&self) {
        assert!(soon(|| self.ask("GET", "/healthz", "").is_some()), "the agent does not answer");
    }

    pub fn ask(&self, method: &str, path: &str, body: &str) -> Option<Answer> {
        web::ask(&self.run_dir().join("agent.sock"), method, path, body)
    }

    /// Rows of the agent's socket.
    pub fn get(&self, path: &str) -> Value {
        let answer = self.ask("GET", path, "").expect("an answer");
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        answer.json()
    }

    pub fn rows(&self, path: &str) -> Vec<Value> {
        self.get(path).as_array().unwrap().clone()
    }

    /// Waits until nothing is left to do.
    pub fn settle(&self) {
        let mut left = Value::Null;
        let settled = soon(|| {
            left = self.get("/v1/plan");
            // A step that runs stands in the journal only.
            left == json!([]) && self.rows("/v1/journal").iter().all(|row| row["state"] != "running")
        });
        assert!(settled, "still to do: {left:#}");
    }

    /// A call for a container's `eth0`.
    pub fn call(&self, verb: &'static str, container: &str, netns: &str) -> Call {
        let mut call = Call::new(&self.run_dir().join("cni.sock"), verb);
        if !container.is_empty() {
            call = call.env("CNI_CONTAINERID", container).env("CNI_IFNAME", "eth0");
        }
        if netns.is_empty() { call } else { call.env("CNI_NETNS", netns) }
    }

    /// A container name that no other has.
    pub fn fresh(&self, what: &str) -> String {
        format!("{what}-{}", self.number.fetch_add(1, Ordering::Relaxed))
    }

    pub fn pod(&self, name: &str) -> Pod {
        self.pod_with(name, |call| call)
    }

    /// A pod whose ADD is not the plain one.
    pub fn pod_with(&self, name: &str, how: impl FnOnce(Call) -> Call) -> Pod {
        self.pod_in(Ns::new(), name, how)
    }

    /// The same in a namespace that is there.
    pub fn pod_in(&self, ns: Ns, name: &str, how: impl FnOnce(Call) -> Call) -> Pod {
        let container = self.fresh(name);
        let args = format!("K8S_POD_NAMESPACE=default;K8S_POD_NAME={name}");
        let result = how(self.call("ADD", &container, &ns.path).env("CNI_ARGS", args)).done();
        Pod { ns, container, result }
    }

    pub fn del(&self, pod: &Pod) {
        self.call("DEL", &pod.container, &pod.ns.path).done();
    }

    /// A CHECK with the result of its ADD.
    pub fn check(&self, pod: &Pod) -> Call {
        self.call("CHECK", &pod.container, &pod.ns.path).with("prevResult", pod.result.clone())
    }

    /// A peer at the router's second address, whose pods are the router's too.
    pub fn peer(&self) -> Peer {
        let (four, six) = (self.plan.families.four(), self.plan.families.six());
        let pick = |v4: &'static str, v6: &'static str| {
            [four.then_some(v4), six.then_some(v6)].into_iter().flatten().collect::<Vec<_>>()
        };
        Peer {
            name: "n2",
            addresses: pick("172.30.1.2/24", "fd30:1::2/64"),
            ranges: pick("10.244.200.0/24", "fd00:244:0:c8::/64"),
            vtep: (self.plan.backend != "host-gw").then_some("0a:52:49:50:02:02"),
        }
    }

    /// Puts the peer into the store and makes its pods' addresses and routes to this node in the router.
    pub fn add_peer(&self) -> Peer {
        let peer = self.peer();
        self.store.as_ref().unwrap().peer(&peer);
        let mut lines = String::new();
        for (family, ip, bits) in [(4, "10.244.200.10", 32), (6, "fd00:244:0:c8::10", 128)] {
            if (family == 4 && self.plan.families.four()) || (family == 6 && self.plan.families.six()) {
                lines.push_str(&format!("addr add {ip}/{bits} dev lo\n"));
            }
        }
        self.router.ips(&lines);
        peer
    }

    /// This node's range of a family, as the agent says.
    pub fn own_range(&self, six: bool) -> String {
        let nodes = self.rows("/v1/nodes");
        let own = nodes.iter().find(|node| node["name"] == "n1").expect("this node's row");
        let ranges = own["ranges"].as_array().unwrap().iter().filter_map(Value::as_str);
        ranges.filter(|range| range.contains(':') == six).map(str::to_owned).next().expect("a range")
    }

    /// This node's own address in its range.
    pub fn own_ip(&self, six: bool) -> String {
        let range: ripstop_types::Prefix = self.own_range(six).parse().unwrap();
        range.nth(1).unwrap().to_string()
    }

    /// An echo server in the node's own namespace.
    pub fn node_echo(&self, at: &str) -> Echo {
        packets::Echo::start(&self.node, at)
    }
}

impl Pod {
    /// Its addresses, IPv4 first.
    pub fn ips(&self) -> Vec<String> {
        let ips = self.result["ips"].as_array().unwrap();
        ips.iter().map(|ip| ip["address"].as_str().unwrap().split('/').next().unwrap().to_owned()).collect()
    }

    pub fn ip(&self) -> String {
        self.ips().remove(0)
    }

    /// Its address with a port, as a socket address is written.
    pub fn at(&self, port: u16) -> String {
        at(&self.ip(), port)
    }

    /// The host's end of its pair.
    pub fn host_link(&self) -> String {
        let interfaces = self.result["interfaces"].as_array().unwrap();
        let host = interfaces.iter().find(|i| i["sandbox"].is_null()).unwrap();
        host["name"].as_str().unwrap().to_owned()
    }

    pub fn mac(&self) -> String {
        let interfaces = self.result["interfaces"].as_array().unwrap();
        let inside = interfaces.iter().find(|i| !i["sandbox"].is_null()).unwrap();
        inside["mac"].as_str().unwrap().to_owned()
    }
}

/// An address with a port, as a socket address is written.
pub fn at(ip: &str, port: u16) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}
