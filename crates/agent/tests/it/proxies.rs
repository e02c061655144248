//! Services are served by another proxy, while connections come and go on.

use std::time::Duration;

use serde_json::{Value, json};

use crate::kubernetes::{become_user, is_possible, node_object, setup};
use crate::server::{AGENT, ApiServer};
use crate::support::agent::How;
use crate::support::load::{Load, Servant};
use crate::support::soon;
use crate::support::world::{Plan, Pod, StoreAt, World};

const TCP: &str = "10.96.0.50:80";
const UDP: &str = "10.96.0.50:53";

const WEB: &str = "{apiVersion: v1, kind: Service, metadata: {name: web, namespace: default},\n\
    spec: {clusterIP: 10.96.0.50, ports: [{name: http, port: 80, targetPort: 8080}, {name: dns, protocol: UDP, port: 53, targetPort: 8053}]}}\n";

pub struct Scene {
    _servants: [Servant; 2],
    _pods: [Pod; 2],
    client: Pod,
    pub world: World,
    pub server: ApiServer,
}

fn services(proxy: &str) -> String {
    format!("services: {{proxy: {proxy}, iptablesBackend: nft, serviceCIDRs: [10.96.0.0/16]}}")
}

/// A node with two endpoints of a Service and a pod that asks them.
pub fn scene(proxy: &str, how: &How) -> Scene {
    let spec = vec!["rangeMode: pod-cidr".to_owned()];
    let config = vec![services(proxy)];
    let mut world = World::make(Plan { store: StoreAt::Kubernetes, spec, config, ..Plan::default() });
    let server = ApiServer::start(setup(&world));
    become_user(&world, &server, AGENT);
    server.apply(&node_object("{podCIDR: 10.244.7.0/24, podCIDRs: [10.244.7.0/24]}"));
    world.start_agent_as(how);
    world.wait_ready();
    let [a, b, client] = ["a", "b", "client"].map(|name| world.pod(name));
    let servants = [(&a, b'a'), (&b, b'b')].map(|(pod, letter)| Servant::start(&pod.ns, 8080, 8053, letter));
    server.apply(WEB);
    let endpoints =
        [&a, &b].map(|pod| format!("{{addresses: [{}], nodeName: n1, conditions: {{ready: true}}}}", pod.ip()));
    server.apply(&format!(
        "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4,\n\
         ports: [{{name: http, port: 8080}}, {{name: dns, protocol: UDP, port: 8053}}],\n\
         metadata: {{name: web-1, namespace: default, labels: {{kubernetes.io/service-name: web}}}},\n\
         endpoints: [{}]}}\n",
        endpoints.join(", ")
    ));
    Scene { _servants: servants, _pods: [a, b], client, world, server }
}

impl Scene {
    /// Whether a connection comes to an endpoint.
    pub fn is_served(&self) -> bool {
        let patience = Duration::from_secs(2);
        self.client.ns.inside(|| std::net::TcpStream::connect_timeout(&TCP.parse().unwrap(), patience)).is_ok()
    }

    pub fn load(&self) -> Load {
        assert!(soon(|| self.is_served()), "{}", self.row());
        assert!(soon(|| self.world.get("/v1/proxy")["leaving"].is_null()), "{}", self.world.get("/v1/proxy"));
        let clients = [("pod", &self.client.ns), ("node", &self.world.node)];
        let load = Load::start(&clients, TCP.parse().unwrap(), UDP.parse().unwrap());
        load.go_on(100);
        load
    }

    fn row(&self) -> Value {
        self.world.rows("/v1/services").into_iter().find(|row| row["name"] == "web").unwrap_or_default()
    }

    fn ask(&self, proxy: &str) -> (u16, String) {
        let answer = self.world.ask("POST", "/v1/proxy", &json!({"proxy": proxy}).to_string()).unwrap();
        (answer.status, answer.body)
    }

    #[track_caller]
    fn switch(&self, proxy: &str) {
        let (status, body) = self.ask(proxy);
        assert_eq!(status, 200, "{body}");
        self.expect(proxy);
    }

    /// Services are served by this alone, and nothing of another is left.
    #[track_caller]
    pub fn expect(&self, proxy: &str) {
        let view = || self.world.get("/v1/proxy");
        let is_done = || view()["proxy"] == proxy && view()["leaving"].is_null();
        assert!(soon(is_done), "{}\n{}", view(), self.world.agent().log_text());
        self.world.settle();
        assert_eq!((self.has_table(), self.has_chains()), (proxy == "nftables", proxy == "iptables"), "{proxy}");
    }

    fn has_table(&self) -> bool {
        self.world.node.run("nft", &["list", "tables"]).contains("ripstop-services")
    }

    fn has_chains(&self) -> bool {
        self.world.node.run("iptables-nft-save", &["-t", "nat"]).contains("RIPSTOP-")
    }
}

#[test]
fn no_connection_fails_while_the_proxy_is_switched_and_the_agent_is_killed_meanwhile() {
    if !is_possible("Services of an API server") {
        return;
    }
    let mut scene = scene("nftables", &How::default());
    scene.world.node.run("iptables-nft", &["-t", "nat", "-A", "PREROUTING", "-d", "192.0.2.9/32", "-j", "RETURN"]);
    let load = scene.load();
    scene.switch("iptables");
    load.go_on(100);
    let view = scene.world.get("/v1/proxy");
    assert_eq!((&view["configured"], &view["proxy"]), (&json!("nftables"), &json!("iptables")));
    assert!(view["reason"].as_str().unwrap().contains("ripstop migrate proxy nftables"), "{view}");
    assert_eq!(scene.world.get("/v1/status")["proxy"], view);
    assert_eq!(scene.row()["proxy"], "iptables");
    // It outlives the agent, and so does what is under way.
    scene.world.kill_agent();
    scene.world.start_agent();
    scene.world.wait_ready();
    scene.expect("iptables");
    for (proxy, pause) in [("nftables", 0), ("iptables", 20), ("nftables", 60), ("iptables", 150)] {
        let (status, body) = scene.ask(proxy);
        assert_eq!(status, 200, "{body}");
        std::thread::sleep(Duration::from_millis(pause));
        scene.world.kill_agent();
        scene.world.start_agent();
        scene.world.wait_ready();
        let now = scene.world.get("/v1/proxy")["proxy"].as_str().unwrap().to_owned();
        // Killed before it was written down, it was not begun.
        scene.expect(&now);
        scene.switch(proxy);
    }
    // A return in the middle.
    assert_eq!(scene.ask("nftables").0, 200);
    assert_eq!(scene.ask("iptables").0, 200);
    scene.expect("iptables");
    scene.switch("nftables");
    assert_eq!(scene.world.get("/v1/proxy")["reason"], Value::Null);
    load.go_on(100);
    // The next agent's configuration is new.
    for proxy in ["iptables", "nftables"] {
        scene.world.kill_agent();
        scene.world.plan.config = vec![services(proxy)];
        scene.world.write_config();
        scene.world.start_agent();
        scene.world.wait_ready();
        scene.expect(proxy);
    }
    load.go_on(100);
    assert_eq!(load.end(), Vec::<String>::new());
    let rules = scene.world.node.run("iptables-nft-save", &["-t", "nat"]);
    assert!(rules.contains("-A PREROUTING -d 192.0.2.9/32 -j RETURN"), "{rules}");
}

#[test]
fn a_node_that_served_nothing_begins_to_and_ends() {
    if !is_possible("Services of an API server") {
        return;
    }
    let scene = scene("none", &How::default());
    scene.switch("nftables");
    let load = scene.load();
    scene.server.kubectl(&["create", "service", "clusterip", "other", "--tcp=80"]);
    load.go_on(50);
    assert_eq!(load.end(), Vec::<String>::new());
    scene.switch("none");
}

#[test]
fn a_proxy_that_cannot_work_changes_nothing() {
    if !is_possible("Services of an API server") {
        return;
    }
    let empty = tempfile::tempdir().unwrap();
    let scene = scene("nftables", &How { programs: Some(empty.path().to_owned()), ..How::default() });
    let load = scene.load();
    let before = scene.world.node.run("nft", &["-a", "list", "table", "ip", "ripstop-services"]).lines().count();
    let mut cases = vec![("iptables", "no program iptables-nft-save"), ("tables", "unknown variant `tables`")];
    if ripstop_kernel::has_ipvs() {
        println!("SKIPPED ipvs: this kernel has it");
    } else {
        cases.push(("ipvs", "this kernel has no IPVS; load its module with `modprobe ip_vs` on the node"));
    }
    for (proxy, sentence) in cases {
        let (status, body) = scene.ask(proxy);
        assert!((400..500).contains(&status) && body.contains(sentence), "{proxy}: {status} {body}");
        let view = scene.world.get("/v1/proxy");
        assert_eq!((&view["proxy"], &view["leaving"]), (&json!("nftables"), &Value::Null), "{view}");
    }
    assert_eq!(scene.world.get("/v1/plan"), json!([]));
    assert_eq!(load.end(), Vec::<String>::new());
    let after = scene.world.node.run("nft", &["-a", "list", "table", "ip", "ripstop-services"]).lines().count();
    assert_eq!(after, before);
}
