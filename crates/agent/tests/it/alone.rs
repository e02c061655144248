//! Services without Kubernetes: manifests in a store of Ripstop's own, endpoints that follow pods, and connections to them.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

use crate::services::{Named, all, who};
use crate::support::ns::Ns;
use crate::support::soon;
use crate::support::store::TestStore;
use crate::support::world::{Plan, Pod, StoreAt, World};

/// A server of HTTP that says it is well, or not.
struct Health {
    well: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Health {
    fn start(ns: &Ns) -> Self {
        let listener = ns.inside(|| TcpListener::bind("0.0.0.0:8081")).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (well, stop) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
        let (is_well, ends) = (well.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                let Ok((mut client, _)) = listener.accept() else {
                    std::thread::sleep(Duration::from_millis(2));
                    continue;
                };
                let mut request = [0; 512];
                let _ = client.set_read_timeout(Some(Duration::from_secs(1)));
                let got = client.read(&mut request).unwrap_or_default();
                let asks = request[..got].starts_with(b"GET /healthz HTTP/1.1\r\nHost: ");
                let status = if asks && is_well.load(Ordering::Relaxed) { "204 No Content" } else { "503 Not Well" };
                let _ = write!(client, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
            }
        });
        Self { well, stop, thread: Some(thread) }
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn world(services: &str, store: StoreAt) -> World {
    World::start(Plan { store, config: vec![format!("services: {services}")], ..Plan::default() })
}

const SERVED: &str = "{proxy: nftables, serviceCIDRs: [10.96.0.0/16]}";

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}]
";

fn pod_manifest(name: &str, probe: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: web}}}}\nspec:\n  nodeName: n1\n  containers:\n  \
         - {{name: c, image: none, ports: [{{name: http, containerPort: 8080}}]{probe}}}\n"
    )
}

const PROBE: &str = ", readinessProbe: {httpGet: {path: /healthz, port: 8081}, periodSeconds: 1, failureThreshold: 2}";

impl World {
    #[track_caller]
    pub fn apply(&self, manifest: &str) -> Vec<Value> {
        let answer = self.ask("POST", "/v1/apply", manifest).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()["results"].as_array().unwrap().clone()
    }

    #[track_caller]
    fn refusal(&self, manifest: &str) -> String {
        let answer = self.ask("POST", "/v1/apply", manifest).unwrap();
        assert_eq!(answer.status, 422, "{}", answer.body);
        answer.json()["error"].as_str().unwrap().to_owned()
    }

    fn service_row(&self, name: &str) -> Option<Value> {
        self.rows("/v1/services").into_iter().find(|row| row["name"] == name)
    }

    /// A Service's first ClusterIP, once the agent has it.
    #[track_caller]
    fn vip(&self, name: &str) -> String {
        assert!(soon(|| self.service_row(name).is_some()), "no Service {name}");
        self.service_row(name).unwrap()["ips"][0].as_str().unwrap().to_owned()
    }
}

#[track_caller]
fn expect(world: &World, client: &Pod, to: &str, names: &[&str]) {
    let came = soon(|| all(&client.ns, to) == names);
    let rows = (world.rows("/v1/services"), world.rows("/v1/endpoints"), world.agent().log_text());
    assert!(came, "{to}: {:?} instead of {names:?}\n{rows:#?}", all(&client.ns, to));
}

#[test]
fn endpoints_follow_pods_by_label_and_readiness() {
    let mut world = world(SERVED, StoreAt::File);
    let [a, b, client] = ["a", "b", "client"].map(|name| world.pod(name));
    let servers = [(&a, "a"), (&b, "b")].map(|(pod, name)| Named::start(&pod.ns, "0.0.0.0:8080", name));
    let health = Health::start(&b.ns);
    let results = world.apply(&[SERVICE.into(), pod_manifest("a", ""), pod_manifest("b", PROBE)].concat());
    let said: Vec<String> = results.iter().map(|row| format!("{} {}", row["object"], row["action"])).collect();
    assert_eq!(
        said,
        ["\"service/default/web\" \"created\"", "\"pod/default/a\" \"created\"", "\"pod/default/b\" \"created\""]
    );
    let ip = world.vip("web");
    assert_eq!(ip, "10.96.0.1");
    let vip = format!("{ip}:80");
    expect(&world, &client, &vip, &["a", "b"]);

    // A probe that fails takes its pod out, and one that succeeds again brings it back.
    health.well.store(false, Ordering::Relaxed);
    expect(&world, &client, &vip, &["a"]);
    health.well.store(true, Ordering::Relaxed);
    expect(&world, &client, &vip, &["a", "b"]);

    // An agent that starts anew takes nobody out who was ready.
    world.restart();
    let ready = |world: &World| world.rows("/v1/endpoints").iter().filter(|row| row["service"] == "web").count();
    assert!(soon(|| ready(&world) == 2));
    for _ in 0..20 {
        assert_eq!(ready(&world), 2);
        std::thread::sleep(Duration::from_millis(50));
    }
    expect(&world, &client, &vip, &["a", "b"]);

    // A pod without a label, or without an interface, is no endpoint.
    world.apply(&pod_manifest("a", "").replace("app: web", "app: other"));
    expect(&world, &client, &vip, &["b"]);
    world.apply(&pod_manifest("a", ""));
    expect(&world, &client, &vip, &["a", "b"]);
    drop(health);
    world.del(&b);
    expect(&world, &client, &vip, &["a"]);
    drop(servers);
    world.del(&a);
    let refused = soon(|| who(&client.ns, &vip) == Err(ErrorKind::ConnectionRefused));
    assert!(refused, "{:?}: {:#?}", who(&client.ns, &vip), world.rows("/v1/endpoints"));

    // What is deleted is gone, and its address another's.
    let gone = world.ask("POST", "/v1/delete", SERVICE).unwrap();
    assert_eq!(gone.json()["results"][0]["action"], "deleted", "{}", gone.body);
    assert!(soon(|| world.service_row("web").is_none()));
    world.apply(&SERVICE.replace("name: web}", "name: other}"));
    assert_eq!(world.vip("other"), "10.96.0.1");
    world.settle();
}

#[test]
fn slices_of_a_node_that_is_gone_do_not_count() {
    let world = world(SERVED, StoreAt::Here);
    let store = world.store.as_ref().unwrap();
    let slice = |ip: &str| {
        serde_json::json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"namespace": "default", "name": "web.ipv4.n2",
                "labels": {"kubernetes.io/service-name": "web", "ripstop.io/node": "n2"}},
            "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
            "endpoints": [{"addresses": [ip], "nodeName": "n2", "conditions": {"ready": true}}],
        })
    };
    world.apply(SERVICE);
    store.peer(&world.peer());
    store.put(ripstop_store::Kind::EndpointSlices, "default/web.ipv4.n2", &slice("10.244.200.10"));
    let count = |world: &World| world.rows("/v1/endpoints").len();
    let mut sequence = 0;
    let mut live = || {
        sequence += 1;
        let beat = serde_json::json!({"node": "n2", "sequence": sequence, "bootId": "boot-1"});
        store.put(ripstop_store::Kind::Alive, "n2", &beat);
    };
    assert!(soon(|| {
        live();
        count(&world) == 1
    }));
    assert!(soon(|| count(&world) == 0), "it is silent");
    assert!(soon(|| {
        live();
        count(&world) == 1
    }));
    // Deleted, it takes its slices along.
    assert!(soon(|| world.ask("POST", "/v1/delete/node/n2", "").is_some_and(|answer| answer.status == 200)));
    assert_eq!(count(&world), 0);
    assert!(soon(|| store.get(ripstop_store::Kind::EndpointSlices, "default/web.ipv4.n2").is_none()));
}

#[test]
fn two_applies_never_give_one_address_twice() {
    let world = world("{proxy: nftables, serviceCIDRs: [10.96.0.0/27, \"fd00:96::/120\"]}", StoreAt::Here);
    let manifest = |n: usize| {
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: s{n}}}, spec: {{type: NodePort, ipFamilyPolicy: \
             PreferDualStack, ports: [{{port: 80}}]}}}}"
        )
    };
    std::thread::scope(|scope| {
        for n in 0..12 {
            scope.spawn({
                let (world, manifest) = (&world, &manifest);
                move || world.apply(&manifest(n))
            });
        }
    });
    assert!(soon(|| world.rows("/v1/services").len() == 12));
    let rows = world.rows("/v1/services");
    let mut ips: Vec<String> =
        rows.iter().flat_map(|row| row["ips"].as_array().unwrap()).map(Value::to_string).collect();
    let mut ports: Vec<String> = rows.iter().map(|row| row["ports"].to_string()).collect();
    for list in [&mut ips, &mut ports] {
        list.sort();
        list.dedup();
    }
    assert_eq!((ips.len(), ports.len()), (24, 12), "{ips:?} {ports:?}");
    // What a Service has it keeps, and what is said again changes nothing.
    let before = rows.iter().find(|row| row["name"] == "s3").unwrap()["ips"].clone();
    assert_eq!(world.apply(&manifest(3))[0]["action"], "unchanged");
    assert_eq!(world.service_row("s3").unwrap()["ips"], before);
    let claims = world.store.as_ref().unwrap().list(ripstop_store::Kind::ServiceClaims).len();
    assert_eq!(claims, 36);
    // When none is left, nothing is half done.
    for n in 12..30 {
        world.apply(&manifest(n));
    }
    let none = world.refusal(&manifest(31).replace("PreferDualStack", "SingleStack"));
    assert!(none.starts_with("service/default/s31: spec.clusterIPs: found no IPv4 address that is free in"), "{none}");
    let all = world.store.as_ref().unwrap().list(ripstop_store::Kind::ServiceClaims);
    assert!(all.iter().all(|(_, value, _)| value["service"] != "default/s31"), "{all:?}");
}

const HOST: &str = "an address of a host, not unspecified, loopback, link-local or multicast";
const AFFINITY: &str = "1 to 86400 seconds; 10800 is used";

/// The `spec` of a Service, what is wrong with it, and what is accepted.
const WRONG: &[(&str, &str, &str)] = &[
    ("clusterIP: 10.96.0.300, ports: [{port: 80}]", "spec.clusterIPs[0]: found 10.96.0.300", HOST),
    ("clusterIP: 127.0.0.1, ports: [{port: 80}]", "spec.clusterIPs[0]: found 127.0.0.1", HOST),
    (
        "clusterIP: 10.97.0.1, ports: [{port: 80}]",
        "spec.clusterIPs[0]: found 10.97.0.1",
        "an address of services.serviceCIDRs, 10.96.0.0/16",
    ),
    (
        "clusterIP: 10.96.0.9, ports: [{port: 80}]",
        "spec.clusterIPs[0]: found 10.96.0.9, which service default/holder has",
        "an address that no other Service has",
    ),
    (
        "ipFamilies: [IPv6], clusterIP: 10.96.0.7, ports: [{port: 80}]",
        "spec.clusterIPs[0]: found 10.96.0.7",
        "an address of IPv6, as in spec.ipFamilies",
    ),
    (
        "ipFamilies: [IPv6], ports: [{port: 80}]",
        "spec.clusterIPs: found no IPv6 address that is free in 10.96.0.0/16",
        "a family of which services.serviceCIDRs has a free address",
    ),
    ("ports: [{port: 0}]", "spec.ports[0].port: found 0", "1 to 65535"),
    ("ports: [{port: 65536}]", "spec.ports[0].port: found 65536", "1 to 65535"),
    ("type: ClusterIP", "spec.ports: found no port", "one or more"),
    (
        "ports: [{port: 80}], sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}",
        "spec.sessionAffinityConfig.clientIP.timeoutSeconds: found 0",
        AFFINITY,
    ),
    (
        "ports: [{port: 80}], sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 86401}}",
        "spec.sessionAffinityConfig.clientIP.timeoutSeconds: found 86401",
        AFFINITY,
    ),
    (
        "type: NodePort, ports: [{port: 80, nodePort: 30080}]",
        "spec.ports[0].nodePort: found 30080/TCP, which service default/holder has",
        "a node port that no other Service has",
    ),
    (
        "type: NodePort, ports: [{name: a, port: 1, nodePort: 30081}, {name: b, port: 2, nodePort: 30081}]",
        "spec.ports[1].nodePort: found 30081/TCP again",
        "each node port once",
    ),
    ("type: NodePort, ports: [{port: 80, nodePort: 80}]", "spec.ports[0].nodePort: found 80", "30000 to 32767"),
    (
        "ports: [{port: 80, nodePort: 30082}]",
        "spec.ports[0].nodePort: found 30082",
        "none, or a Service of type NodePort or LoadBalancer",
    ),
];

fn service(spec: &str) -> String {
    format!("{{apiVersion: v1, kind: Service, metadata: {{name: web}}, spec: {{{spec}}}}}")
}

fn slice(address: &str) -> String {
    format!(
        "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: s}}, addressType: IPv4, endpoints: \
         [{{addresses: [\"{address}\"]}}]}}"
    )
}

/// What is wrong in other objects, with the whole sentence.
fn others() -> Vec<(String, String)> {
    let ports: Vec<String> = (1..=1000).map(|n| format!("{{name: p{n}, port: {n}}}")).collect();
    let digit = service("ports: [{port: 80}]").replace("name: web", "name: 1web");
    let exec = pod_manifest("p", ", readinessProbe: {exec: {command: [\"true\"]}}");
    let port = pod_manifest("p", ", readinessProbe: {tcpSocket: {port: 70000}}");
    let name = "lower-case letters, digits and '-', at most 63, first a letter, last a letter or digit";
    let label = "lower-case letters, digits and '-', at most 63, first and last a letter or digit";
    let probe = "pod/default/p: spec.containers[0].readinessProbe";
    let address = "endpointslice/default/s: endpoints[0].addresses[0]";
    let checks = "tcpSocket or httpGet: the agent runs no process and speaks no gRPC";
    let most = "at most 100: as many as an EndpointSlice has";
    vec![
        (
            service(&format!("ports: [{}]", ports.join(", "))),
            format!("service/default/web: spec.ports: found 1000 ports, accepted: {most}"),
        ),
        (digit, format!("service/default/1web: metadata.name: found 1web, accepted: {name}")),
        (slice("fd00::1"), format!("{address}: found fd00::1, accepted: an address of the slice's addressType")),
        (slice("10.0.0"), format!("{address}: found 10.0.0, accepted: {HOST}")),
        (exec, format!("{probe}: found no check that can be made, accepted: {checks}")),
        (port, format!("{probe}.tcpSocket.port: found 70000, accepted: 1 to 65535")),
        (
            "{apiVersion: v1, kind: Namespace, metadata: {name: a.b}}".into(),
            format!("namespace/a.b: metadata.name: found a.b, accepted: {label}"),
        ),
    ]
}

#[test]
fn what_is_wrong_has_its_sentence_and_nothing_is_stored() {
    let world = world(SERVED, StoreAt::Here);
    let taken = "clusterIP: 10.96.0.9, type: NodePort, ports: [{port: 80, nodePort: 30080}]";
    world.apply(&service(taken).replace("name: web", "name: holder"));
    let services = WRONG
        .iter()
        .map(|(spec, found, accepted)| (service(spec), format!("service/default/web: {found}, accepted: {accepted}")));
    for (manifest, sentence) in services.chain(others()) {
        assert_eq!(world.refusal(&manifest), sentence);
        // A good object beside a bad one is not stored either.
        world.refusal(&format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: beside}}}}\n---\n{manifest}"));
    }
    let store = world.store.as_ref().unwrap();
    for kind in ripstop_store::Kind::OBJECTS {
        let keys: Vec<String> = store.list(kind).into_iter().map(|(key, ..)| key).collect();
        let expected: &[&str] = if kind == ripstop_store::Kind::Services { &["default/holder"] } else { &[] };
        assert_eq!(keys, expected, "{kind}");
    }
    assert_eq!(store.list(ripstop_store::Kind::ServiceClaims).len(), 2);
}

/// A node that has just been started, and whose agent has not been told of Services: what goes to them is nobody's to drop.
#[test]
fn nothing_is_dropped_before_services_are_known() {
    if !crate::support::ns::is_root() {
        return;
    }
    for proxy in ["nftables", "iptables"] {
        let services = format!("services: {{proxy: {proxy}, serviceCIDRs: [10.96.0.0/16]}}");
        let mut world = World::make(Plan { store: StoreAt::Nowhere, config: vec![services], ..Plan::default() });
        world.router.ip("addr add 10.96.0.50/32 dev lo");
        let _server = Named::start(&world.router, "10.96.0.50:80", "elsewhere");
        world.start_agent();
        let rules = |world: &World| match proxy {
            "nftables" => world.node.tried("nft", &["list", "table", "ip", "ripstop-services"]).1,
            _ => world.node.tried("iptables-nft-save", &["-t", "filter"]).1,
        };
        let has = |word: &str| soon(|| rules(&world).contains(word));
        assert!(has(if proxy == "nftables" { "frontends" } else { "RIPSTOP-FORWARDED" }), "{}", rules(&world));
        let wait = || world.get("/v1/proxy")["reason"].as_str().unwrap_or_default().to_owned();
        assert!(soon(|| wait().contains("Services have not been read yet")), "{}", wait());
        for _ in 0..20 {
            assert_eq!(who(&world.node, "10.96.0.50:80").as_deref(), Ok("elsewhere"), "{proxy}: {}", rules(&world));
            std::thread::sleep(Duration::from_millis(20));
        }
        // They are listed, and nobody has this address.
        world.store = Some(TestStore::new(&world.dir.path().join("store.sock")));
        assert!(soon(|| who(&world.node, "10.96.0.50:80") == Err(ErrorKind::TimedOut)), "{proxy}: {}", rules(&world));
        assert_eq!(world.get("/v1/proxy")["leaving"], Value::Null);
        // An agent that starts later finds its rules, and has them stand.
        world.kill_agent();
        world.store.as_mut().unwrap().close();
        world.start_agent();
        assert!(soon(|| world.ask("GET", "/v1/proxy", "").is_some()));
        assert_eq!(who(&world.node, "10.96.0.50:80"), Err(ErrorKind::TimedOut), "{proxy}: {}", rules(&world));
    }
}

#[test]
fn the_example_of_the_readme_works() {
    let text = include_str!("../../../../README.md");
    let section = text.split("### Services without Kubernetes").nth(1).unwrap();
    let manifest = section.split("```").nth(1).unwrap();
    let world = world(SERVED, StoreAt::File);
    let [web, client] = ["web-1", "client"].map(|name| world.pod(name));
    world.apply(manifest);
    let vip = format!("{}:80", world.vip("web"));
    // Nobody listens yet.
    assert!(soon(|| who(&client.ns, &vip) == Err(ErrorKind::ConnectionRefused)));
    let _server = Named::start(&web.ns, "0.0.0.0:8080", "web-1");
    expect(&world, &client, &vip, &["web-1"]);
}
