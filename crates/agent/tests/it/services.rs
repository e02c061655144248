//! Services that an agent takes from the API of Kubernetes: objects as kubectl applies them, and connections to them.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

use crate::kubernetes::{become_user, is_possible, node_object, setup, wait_for};
use crate::node_life::{event, is_over, says};
use crate::server::{AGENT, ApiServer};
use crate::support::ns::Ns;
use crate::support::soon;
use crate::support::world::{Plan, Pod, StoreAt, World};

const VIP: &str = "10.96.0.50:80";

/// A TCP server that says its name to each client.
pub struct Named {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Named {
    pub fn start(ns: &Ns, at: &str, name: &'static str) -> Self {
        let at: SocketAddr = at.parse().unwrap();
        let listener = ns.inside(|| TcpListener::bind(at)).unwrap_or_else(|e| panic!("{at}: {e}"));
        listener.set_nonblocking(true).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let ends = stop.clone();
        let thread = std::thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((mut client, _)) => drop(client.write_all(name.as_bytes())),
                    Err(_) => std::thread::sleep(Duration::from_millis(2)),
                }
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Who answers a new connection, or how it fails.
pub fn who(ns: &Ns, to: &str) -> Result<String, ErrorKind> {
    let to: SocketAddr = to.parse().unwrap();
    let mut stream = ns.inside(|| TcpStream::connect_timeout(&to, Duration::from_secs(2))).map_err(|e| e.kind())?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).map_err(|e| e.kind())?;
    let mut name = String::new();
    stream.read_to_string(&mut name).map_err(|e| e.kind())?;
    Ok(name)
}

/// Everybody who answers some new connections.
pub fn all(ns: &Ns, to: &str) -> Vec<String> {
    let mut names: Vec<String> = (0..24).map(|_| who(ns, to).unwrap_or_else(|kind| kind.to_string())).collect();
    names.sort();
    names.dedup();
    names
}

fn web(more: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: web, namespace: default}},\n\
         spec: {{clusterIP: 10.96.0.50, ports: [{{name: http, port: 80, targetPort: 8080}}]{more}}}}}\n"
    )
}

/// Endpoints of a Service at port 8080, with their conditions.
fn slice(service: &str, endpoints: &[(&Pod, &str)]) -> String {
    let endpoints: Vec<String> = endpoints
        .iter()
        .map(|(pod, conditions)| format!("{{addresses: [{}], nodeName: n1, conditions: {conditions}}}", pod.ip()))
        .collect();
    format!(
        "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, ports: [{{name: http, port: 8080}}],\n\
         metadata: {{name: {service}-1, namespace: default, labels: {{kubernetes.io/service-name: {service}}}}},\n\
         endpoints: [{}]}}\n",
        endpoints.join(", ")
    )
}

const READY: &str = "{ready: true}";

struct Scene {
    // Dropped from first to last: servers before the pods they are in.
    _servers: [Named; 2],
    a: Pod,
    b: Pod,
    client: Pod,
    world: World,
    server: ApiServer,
}

/// A node that serves Services, two pods that answer at 8080, and one that asks.
fn scene() -> Scene {
    let spec = vec!["rangeMode: pod-cidr".to_owned()];
    let config = vec!["services: {proxy: nftables, serviceCIDRs: [10.96.0.0/16]}".to_owned()];
    let mut world = World::make(Plan { store: StoreAt::Kubernetes, spec, config, ..Plan::default() });
    let server = ApiServer::start(setup(&world));
    become_user(&world, &server, AGENT);
    server.apply(&node_object("{podCIDR: 10.244.7.0/24, podCIDRs: [10.244.7.0/24]}"));
    world.start_agent();
    world.wait_ready();
    let [a, b, client] = ["a", "b", "client"].map(|name| world.pod(name));
    let servers = [(&a, "a"), (&b, "b")].map(|(pod, name)| Named::start(&pod.ns, "0.0.0.0:8080", name));
    Scene { _servers: servers, a, b, client, world, server }
}

impl Scene {
    /// Connections of the client go to these.
    #[track_caller]
    fn expect(&self, to: &str, names: &[&str]) {
        let came = soon(|| all(&self.client.ns, to) == names);
        assert!(came, "{to}: {:?} instead of {names:?}\n{}", all(&self.client.ns, to), self.row("web"));
    }

    #[track_caller]
    fn expect_same(&self, name: &str) {
        assert_eq!(all(&self.client.ns, VIP), [name]);
    }

    /// A Service's row of the agent.
    fn row(&self, name: &str) -> Value {
        let rows = self.world.rows("/v1/services");
        rows.into_iter().find(|row| row["name"] == name).unwrap_or_default()
    }

    /// The tables with the kernel's own numbers: what is written anew gets others.
    fn tables(&self) -> String {
        let numbered = ["-a", "list", "table", "ip", "ripstop-services"];
        let text = self.world.node.run("nft", &numbered);
        // Sets are printed in the kernel's order.
        let mut lines: Vec<String> = text
            .split(['\n', ','])
            .map(|line| line.replace("elements = {", "").trim().to_owned())
            .filter(|line| !line.contains("expires"))
            .collect();
        lines.sort();
        lines.join("\n")
    }
}

#[test]
fn connections_follow_the_endpoints_that_kubernetes_names() {
    if !is_possible("Services of an API server") {
        return;
    }
    let scene = scene();
    let log = || scene.world.agent().log_text();
    let place = |words: &str| log().find(words);
    assert!(soon(|| place("Services are served").is_some()), "{}", log());
    assert!(place("EndpointSlices are read") < place("Services are served"), "{}", log());
    scene.server.apply(&web(""));
    // Nothing is behind it yet.
    assert!(soon(|| who(&scene.client.ns, VIP) == Err(ErrorKind::ConnectionRefused)), "{}", scene.row("web"));
    scene.server.apply(&slice("web", &[(&scene.a, READY)]));
    scene.expect(VIP, &["a"]);
    scene.server.apply(&slice("web", &[(&scene.a, READY), (&scene.b, READY)]));
    scene.expect(VIP, &["a", "b"]);
    assert!(soon(|| scene.row("web")["realised"] == true), "{}", scene.row("web"));
    assert_eq!(scene.row("web")["endpoints"], 2);
    // One that ends takes no new connection while another is ready, and does where none is.
    let ending = "{ready: false, serving: true, terminating: true}";
    scene.server.apply(&slice("web", &[(&scene.a, ending), (&scene.b, READY)]));
    scene.expect(VIP, &["b"]);
    scene.server.apply(&slice("web", &[(&scene.a, ending)]));
    scene.expect(VIP, &["a"]);
    // A port that the Service has not, and an address that no Service has.
    assert_eq!(who(&scene.client.ns, "10.96.0.50:81"), Err(ErrorKind::ConnectionRefused));
    assert_eq!(who(&scene.client.ns, "10.96.9.9:80"), Err(ErrorKind::TimedOut));
    scene.server.kubectl(&["delete", "service", "web"]);
    assert!(soon(|| who(&scene.client.ns, VIP) == Err(ErrorKind::TimedOut)));
}

#[test]
fn a_frontend_that_two_services_want_is_told() {
    if !is_possible("Services of an API server") {
        return;
    }
    let scene = scene();
    let balanced = |name: &str| {
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: default}},\n\
             spec: {{type: LoadBalancer, ports: [{{name: http, port: 80, targetPort: 8080}}]}}}}\n"
        )
    };
    for (name, pod) in [("one", &scene.a), ("two", &scene.b)] {
        scene.server.apply(&balanced(name));
        scene.server.apply(&slice(name, &[(pod, READY)]));
        let status = r#"{"status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.9"}]}}}"#;
        scene.server.kubectl(&["patch", "service", name, "--subresource=status", "--type=merge", "-p", status]);
    }
    scene.expect("198.51.100.9:80", &["a"]);
    let told = || scene.row("two")["reason"].as_str().unwrap_or_default().to_owned();
    let words = ["198.51.100.9", "default/one"];
    assert!(soon(|| words.iter().all(|word| told().contains(word))), "{}", told());
    let of_two = ["Service", "two", "AddressOrPortTaken"];
    event(&scene.server, of_two, |event| says(event, &words) && !is_over(event));
    // The other addresses of the loser are served, and with the holder's end it has this one too.
    let ip = scene.server.kubectl(&["get", "service", "two", "-o", "jsonpath={.spec.clusterIP}"]);
    scene.expect(&format!("{ip}:80"), &["b"]);
    scene.server.kubectl(&["delete", "service", "one"]);
    scene.expect("198.51.100.9:80", &["b"]);
    assert!(soon(|| scene.row("two")["realised"] == true), "{}", scene.row("two"));
    event(&scene.server, of_two, is_over);
    // An address of the node's own is served, which may be more than was meant.
    let status = r#"{"status": {"loadBalancer": {"ingress": [{"ip": "172.30.1.11"}]}}}"#;
    scene.server.kubectl(&["patch", "service", "two", "--subresource=status", "--type=merge", "-p", status]);
    scene.expect("172.30.1.11:80", &["b"]);
    let own = ["Service", "two", "AddressIsNodes"];
    event(&scene.server, own, |event| says(event, &["172.30.1.11", "80/TCP"]) && !is_over(event));
}

#[test]
fn an_agents_death_costs_no_connection_and_its_start_writes_nothing() {
    if !is_possible("Services of an API server") {
        return;
    }
    let mut scene = scene();
    scene.server.apply(&web(", sessionAffinity: ClientIP"));
    scene.server.apply(&slice("web", &[(&scene.a, READY), (&scene.b, READY)]));
    let first = {
        assert!(soon(|| who(&scene.client.ns, VIP).is_ok()), "{}", scene.row("web"));
        who(&scene.client.ns, VIP).unwrap()
    };
    scene.world.settle();
    let before = scene.tables();
    scene.world.kill_agent();
    scene.expect_same(&first);
    scene.world.start_agent();
    scene.world.wait_ready();
    assert!(soon(|| scene.row("web")["realised"] == true), "{}", scene.row("web"));
    scene.world.settle();
    scene.expect_same(&first);
    assert_eq!(scene.tables(), before, "something was written anew");
    // The same where nobody says which Services there are, once what the node has been given is in its file.
    let saved = || std::fs::read_to_string(scene.world.dir.path().join("state/snapshot.json")).unwrap_or_default();
    assert!(soon(|| saved().contains("\"held\":[[{")), "{}", saved());
    scene.world.kill_agent();
    scene.server.kill();
    scene.world.start_agent();
    scene.world.wait_ready();
    wait_for(&scene.world, "warnings", &["the store is away"]);
    scene.expect_same(&first);
    assert_eq!(scene.tables(), before, "something was written anew");
    scene.server.restart();
    scene.server.apply(&slice("web", &[(&scene.b, READY)]));
    scene.expect(VIP, &["b"]);
}

#[test]
fn what_another_hand_changes_comes_back() {
    if !is_possible("Services of an API server") {
        return;
    }
    let scene = scene();
    scene.server.apply(&web(""));
    scene.server.apply(&slice("web", &[(&scene.a, READY)]));
    scene.expect(VIP, &["a"]);
    scene.world.settle();
    let listed = || {
        let text = scene.world.node.tried("nft", &["list", "table", "ip", "ripstop-services"]).1;
        let mut lines: Vec<String> =
            text.split(['\n', ',']).map(|line| line.replace("elements = {", "").trim().to_owned()).collect();
        lines.sort();
        lines.join("\n")
    };
    let before = listed();
    for by_hand in [
        "delete table ip ripstop-services",
        "flush map ip ripstop-services frontends",
        "flush map ip ripstop-services endpoints",
        "flush chain ip ripstop-services services",
        "flush chain ip ripstop-services endpoints-1",
        "flush chain ip ripstop-services learning",
        "add element ip ripstop-services cluster-ips { 10.96.7.7 }",
        "add element ip ripstop-services frontends { 10.96.0.51 . tcp . 80 : drop }",
        "add rule ip ripstop-services services drop",
    ] {
        scene.world.node.run("nft", &by_hand.split_whitespace().collect::<Vec<_>>());
        let since = std::time::Instant::now();
        assert!(soon(|| listed() == before), "after {by_hand}:\n{}", listed());
        println!("{:<8.1?}{by_hand}", since.elapsed());
        scene.expect(VIP, &["a"]);
    }
}
