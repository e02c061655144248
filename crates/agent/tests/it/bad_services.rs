//! Services and slices that are not as they should be, and those that are greater than others: each has an outcome that is told, and none
//! disturbs another.

use std::net::UdpSocket;
use std::path::Path;

use ripstop_store::Kind;
use serde_json::{Value, json};

use crate::services::{Named, all, who};
use crate::support::ns::is_root;
use crate::support::soon;
use crate::support::store::TestStore;
use crate::support::world::{Plan, Pod, StoreAt, World};

const GOOD: &str = "10.96.0.50:80";

/// What endpoints are that are neither pods nor few: the router answers for all of them.
const FAR: &str = "10.200";

fn object(kind: &str, name: &str, rest: Value) -> (Kind, String, Value) {
    let (kind, version, word) = match kind {
        "Service" => (Kind::Services, "v1", kind),
        _ => (Kind::EndpointSlices, "discovery.k8s.io/v1", "EndpointSlice"),
    };
    let mut whole = json!({"apiVersion": version, "kind": word, "metadata": {"namespace": "default", "name": name}});
    for (key, value) in rest.as_object().unwrap() {
        match whole[key].as_object_mut() {
            Some(there) => there.extend(value.as_object().unwrap().clone()),
            None => whole[key] = value.clone(),
        }
    }
    (kind, format!("default/{name}"), whole)
}

fn service(name: &str, ip: &str, ports: Value, more: Value) -> (Kind, String, Value) {
    let mut spec = json!({"clusterIP": ip, "clusterIPs": [ip], "ports": ports});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    object("Service", name, json!({"spec": spec}))
}

fn slice(name: &str, of: &str, addresses: &[String], ports: Value) -> (Kind, String, Value) {
    let endpoints: Vec<Value> = addresses.iter().map(|ip| json!({"addresses": [ip], "nodeName": "n1"})).collect();
    let labels = json!({"labels": {"kubernetes.io/service-name": of}});
    object("Slice", name, json!({"metadata": labels, "addressType": "IPv4", "ports": ports, "endpoints": endpoints}))
}

/// Objects that come together.
struct Case {
    what: &'static str,
    objects: Vec<(Kind, String, Value)>,
    /// Whose row says what of it.
    said: Vec<(&'static str, &'static str)>,
    /// Where the pod, or who is meant, is reached nevertheless.
    reached: Vec<(&'static str, &'static str)>,
    /// Endpoints in a row.
    endpoints: Option<(&'static str, u64)>,
}

fn case(
    what: &'static str,
    objects: Vec<(Kind, String, Value)>,
    said: Vec<(&'static str, &'static str)>,
    reached: Vec<(&'static str, &'static str)>,
) -> Case {
    Case { what, objects, said, reached, endpoints: None }
}

fn port(port: u64) -> Value {
    json!([{"port": port}])
}

fn node_port(port: u64) -> Value {
    json!([{"port": 80, "nodePort": port}])
}

/// A Service with an address of a load balancer.
fn balanced(name: &str, ip: &str, at: &str, port: u64) -> (Kind, String, Value) {
    let (kind, key, mut value) = service(name, ip, self::port(port), json!({"type": "LoadBalancer"}));
    value["status"] = json!({"loadBalancer": {"ingress": [{"ip": at}]}});
    (kind, key, value)
}

/// A Service whose clients stay for so many seconds.
fn affine(name: &str, ip: &str, seconds: i64) -> (Kind, String, Value) {
    let config = json!({"clientIP": {"timeoutSeconds": seconds}});
    service(name, ip, port(80), json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": config}))
}

struct Scene {
    _servers: [Named; 3],
    pod: Pod,
    client: Pod,
    world: World,
}

impl Scene {
    fn start() -> Self {
        let services = "services: {proxy: nftables, serviceCIDRs: [10.96.0.0/16]}".to_owned();
        let world = World::start(Plan { store: StoreAt::Here, config: vec![services], ..Plan::default() });
        let [pod, client] = ["a", "client"].map(|name| world.pod(name));
        world.router.ip(&format!("route add local {FAR}.0.0/16 dev lo"));
        let servers = [
            Named::start(&pod.ns, "0.0.0.0:8080", "a"),
            Named::start(&world.router, "0.0.0.0:8080", "far"),
            Named::start(&world.node, "0.0.0.0:8098", "node"),
        ];
        Self { _servers: servers, pod, client, world }
    }

    fn store(&self) -> &TestStore {
        self.world.store.as_ref().unwrap()
    }

    fn put(&self, objects: &[(Kind, String, Value)]) {
        for (kind, key, value) in objects {
            self.store().put(*kind, key, value);
        }
    }

    fn row(&self, name: &str) -> Value {
        let rows = self.world.rows("/v1/services");
        rows.into_iter().find(|row| row["name"] == name).unwrap_or_default()
    }

    fn warnings(&self) -> String {
        self.world.get("/v1/status")["warnings"].to_string()
    }

    /// The pod's slice of a Service.
    fn own(&self, of: &str) -> (Kind, String, Value) {
        slice(&format!("{of}-1"), of, &[self.pod.ip()], json!([{"port": 8080}]))
    }

    #[track_caller]
    fn try_case(&self, case: &Case) {
        let what = case.what;
        self.put(&case.objects);
        for (name, words) in &case.said {
            let said = || self.row(name)["reason"].as_str().unwrap_or_default().contains(words);
            assert!(soon(said), "{what}: {} instead of {words}", self.row(name));
            assert!(self.warnings().contains(words), "{what}: {}", self.warnings());
        }
        for (to, name) in &case.reached {
            let names = [(*name).to_owned()];
            assert!(soon(|| all(&self.client.ns, to) == names), "{what}: {to}: {:?}", all(&self.client.ns, to));
        }
        if let Some((name, count)) = case.endpoints {
            let is_so = || self.row(name)["endpoints"] == count && self.row(name)["realised"] == true;
            assert!(soon(is_so), "{what}: {}", self.row(name));
        }
        assert_eq!(who(&self.client.ns, GOOD).as_deref(), Ok("a"), "{what} disturbs another");
        assert_eq!(self.row("good")["realised"], true, "{what}");
        for (kind, key, _) in &case.objects {
            self.store().delete(*kind, key);
        }
        assert!(soon(|| self.world.rows("/v1/services").len() == 1), "{what}: {:?}", self.world.rows("/v1/services"));
        assert!(soon(|| !self.warnings().contains("service default/")), "{what}: {}", self.warnings());
    }

    /// Objects that are wrong by themselves.
    fn wrong(&self) -> Vec<Case> {
        let mixed = slice("mixed-2", "mixed", &["fd00::1".into(), "10.0.0".into(), "127.0.0.1".into()], port(8080));
        vec![
            case(
                "an address that is none",
                vec![service("bad", "10.96.0.300", port(80), json!({})), self.own("bad")],
                vec![("bad", "spec.clusterIPs[0]: found 10.96.0.300")],
                vec![],
            ),
            case(
                "endpoints of another family, and some that are none",
                vec![service("mixed", "10.96.1.1", port(80), json!({})), self.own("mixed"), mixed],
                vec![
                    (
                        "mixed",
                        "endpoints[0].addresses[0]: found fd00::1, accepted: an address of the slice's addressType",
                    ),
                    ("mixed", "endpoints[1].addresses[0]: found 10.0.0"),
                    ("mixed", "endpoints[2].addresses[0]: found 127.0.0.1"),
                ],
                vec![("10.96.1.1:80", "a")],
            ),
            case(
                "ports that are none",
                vec![
                    service("ports", "10.96.1.2", json!([{"port": 0}, {"port": 65536}, {"port": 80}]), json!({})),
                    self.own("ports"),
                ],
                vec![("ports", "spec.ports[0].port: found 0"), ("ports", "spec.ports[1].port: found 65536")],
                vec![("10.96.1.2:80", "a")],
            ),
            case(
                "times that nobody stays",
                vec![
                    affine("short", "10.96.1.3", 0),
                    affine("long", "10.96.1.4", 86_401),
                    self.own("short"),
                    self.own("long"),
                ],
                vec![
                    ("short", "timeoutSeconds: found 0, accepted: 1 to 86400 seconds; 10800 is used"),
                    ("long", "timeoutSeconds: found 86401, accepted: 1 to 86400 seconds; 10800 is used"),
                ],
                vec![("10.96.1.3:80", "a"), ("10.96.1.4:80", "a")],
            ),
        ]
    }

    /// Places that somebody else has.
    fn rivals(&self) -> Vec<Case> {
        vec![
            case(
                "a node port of two",
                vec![
                    service("one", "10.96.1.5", node_port(30080), json!({"type": "NodePort"})),
                    service("two", "10.96.1.6", node_port(30080), json!({"type": "NodePort"})),
                    self.own("one"),
                    slice("two-1", "two", &[format!("{FAR}.0.1")], port(8080)),
                ],
                vec![("two", "node port 30080/TCP over IPv4 is that of service default/one, whose name comes first")],
                vec![("172.30.1.11:30080", "a"), ("10.96.1.6:80", "far")],
            ),
            case(
                "a ClusterIP of two",
                vec![
                    service("one", "10.96.1.7", port(80), json!({})),
                    service(
                        "two",
                        "10.96.1.7",
                        json!([{"name": "a", "port": 80}, {"name": "b", "port": 81}]),
                        json!({}),
                    ),
                    self.own("one"),
                    slice(
                        "two-1",
                        "two",
                        &[format!("{FAR}.0.1")],
                        json!([{"name": "a", "port": 8080}, {"name": "b", "port": 8080}]),
                    ),
                ],
                vec![("two", "10.96.1.7:80/TCP is that of service default/one, whose name comes first")],
                vec![("10.96.1.7:80", "a"), ("10.96.1.7:81", "far")],
            ),
            case(
                "a load balancer's address that is the node's own",
                vec![balanced("own", "10.96.1.8", "172.30.1.11", 8099), self.own("own")],
                vec![(
                    "own",
                    "its address 172.30.1.11 is this node's own: packets to 8099/TCP there go to its endpoints",
                )],
                vec![("172.30.1.11:8099", "a"), ("172.30.1.11:8098", "node"), ("10.96.1.8:8099", "a")],
            ),
            case(
                "an address said outright where a node port is another's",
                vec![
                    balanced("own", "10.96.1.9", "172.30.1.11", 30081),
                    service("a-port", "10.96.1.10", node_port(30081), json!({"type": "NodePort"})),
                    self.own("own"),
                    slice("a-port-1", "a-port", &[format!("{FAR}.0.1")], port(8080)),
                ],
                vec![("a-port", "172.30.1.11:30081/TCP is that of service default/own, which names the address")],
                vec![("172.30.1.11:30081", "a"), ("10.96.1.10:80", "far")],
            ),
        ]
    }

    /// A name that not every server takes, and what is no object.
    fn odd(&self) -> Vec<Case> {
        vec![
            case(
                "a name that begins with a digit",
                vec![service("1web", "10.96.1.11", port(80), json!({})), self.own("1web")],
                vec![],
                vec![("10.96.1.11:80", "a")],
            ),
            case(
                "what is no object at all",
                vec![
                    (Kind::Services, "default/none".into(), json!({})),
                    (Kind::Services, "default/other".into(), json!({"metadata": {"name": "another"}})),
                    (Kind::Services, "default/word".into(), json!("no")),
                    (
                        Kind::EndpointSlices,
                        "default/good-2".into(),
                        json!({"metadata": {"name": "good-2"}, "endpoints": 7}),
                    ),
                ],
                vec![],
                vec![],
            ),
        ]
    }

    fn ports(&self) -> Case {
        let ports: Vec<Value> = (1..=1000).map(|n| json!({"name": format!("p{n}"), "port": n})).collect();
        let targets: Vec<Value> = (1..=1000).map(|n| json!({"name": format!("p{n}"), "port": 8080})).collect();
        let objects = vec![
            service("ports", "10.96.1.12", ports.into(), json!({})),
            slice("ports-1", "ports", &[self.pod.ip()], targets.into()),
        ];
        let reached = vec![("10.96.1.12:1", "a"), ("10.96.1.12:500", "a"), ("10.96.1.12:1000", "a")];
        Case { what: "a thousand ports", objects, said: vec![], reached, endpoints: None }
    }

    fn endpoints(&self) -> Case {
        let far = |n: usize| format!("{FAR}.{}.{}", n / 250, n % 250 + 1);
        let part = |part: usize| {
            let addresses: Vec<String> = (part * 1000..part * 1000 + 1000).map(far).collect();
            slice(&format!("many-{part}"), "many", &addresses, json!([{"port": 8080}]))
        };
        let mut objects: Vec<_> = (0..10).map(part).collect();
        objects.push(service("many", "10.96.1.13", json!([{"port": 80}]), json!({})));
        Case {
            what: "ten thousand endpoints",
            objects,
            said: vec![],
            reached: vec![("10.96.1.13:80", "far")],
            endpoints: Some(("many", 10_000)),
        }
    }
}

#[test]
fn each_bad_service_has_its_outcome_and_disturbs_no_other() {
    if !is_root() {
        return;
    }
    let scene = Scene::start();
    scene.put(&[service("good", "10.96.0.50", json!([{"port": 80}]), json!({})), scene.own("good")]);
    assert!(soon(|| all(&scene.client.ns, GOOD) == ["a"]), "{}", scene.row("good"));
    let cases = [scene.wrong(), scene.rivals(), scene.odd(), vec![scene.ports(), scene.endpoints()]];
    for case in cases.into_iter().flatten() {
        let since = std::time::Instant::now();
        scene.try_case(&case);
        println!("{:>8.1?} {}", since.elapsed(), case.what);
    }
    scene.world.settle();
}

/// How many connections are tracked at most, on the whole machine.
const MOST: &str = "/proc/sys/net/netfilter/nf_conntrack_max";

#[test]
fn of_a_full_connection_table_status_tells() {
    if !is_root() {
        return;
    }
    if !Path::new("/run/altkernel").exists() {
        println!("SKIPPED: the limit is the whole machine's, and only the emulated kernel's stage may lower it");
        return;
    }
    let scene = Scene::start();
    scene.put(&[service("good", "10.96.0.50", json!([{"port": 80}]), json!({})), scene.own("good")]);
    assert!(soon(|| all(&scene.client.ns, GOOD) == ["a"]), "{}", scene.row("good"));
    let before = std::fs::read_to_string(MOST).unwrap();
    std::fs::write(MOST, "200").unwrap();
    let socket = scene.world.node.inside(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    let told = soon(|| {
        (1..=250).for_each(|port| drop(socket.send_to(b"?", ("192.0.2.1", port))));
        scene.warnings().contains("connection tracking holds about as many connections as it may, 200")
    });
    std::fs::write(MOST, before.trim()).unwrap();
    assert!(told, "{}", scene.warnings());
    assert!(soon(|| !scene.warnings().contains("connection tracking holds")), "{}", scene.warnings());
    assert!(soon(|| who(&scene.client.ns, GOOD).as_deref() == Ok("a")), "{}", scene.row("good"));
}
