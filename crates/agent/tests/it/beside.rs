//! What an agent that serves Services does beside its rules: health checks, settings of connection tracking, node ports at loopback
//! addresses.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use crate::kubernetes::{become_user, is_possible, node_object, setup, status, wait_for};
use crate::server::{AGENT, ApiServer};
use crate::support::ns::{Ns, is_root};
use crate::support::soon;
use crate::support::web::{Answer, exchange};
use crate::support::world::{Families, Plan, StoreAt, World};

/// Asks from a namespace; `None` where nobody answers.
fn get(from: &Ns, at: &str, path: &str) -> Option<Answer> {
    let (at, path) = (at.to_owned(), path.to_owned());
    from.inside(move || {
        let mut stream = TcpStream::connect_timeout(&at.parse().unwrap(), Duration::from_secs(5)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        exchange(&mut stream, "GET", &path, "")
    })
}

#[track_caller]
fn answers(from: &Ns, at: &str, path: &str, status: u16) {
    let mut last = None;
    let right = soon(|| {
        last = get(from, at, path);
        last.as_ref().is_some_and(|answer| answer.status == status)
    });
    assert!(right, "{at}{path} answers {last:?} instead of {status}");
}

fn setting(ns: &Ns, name: &str) -> String {
    let path = format!("/proc/sys/net/{name}");
    ns.inside(move || std::fs::read_to_string(path).unwrap().trim().to_owned())
}

#[test]
fn a_port_that_is_taken_is_named_and_answers_once_it_is_free() {
    if !is_root() {
        return;
    }
    let config = vec!["services: {proxy: nftables}".to_owned()];
    let mut world = World::make(Plan { config, families: Families::Dual, ..Plan::default() });
    let other = world.node.inside(|| TcpListener::bind("0.0.0.0:10256").unwrap());
    world.start_agent();
    world.wait_ready();
    wait_for(&world, "warnings", &["0.0.0.0:10256", "in use"]);
    answers(&world.router, "[fd30:1::11]:10256", "/livez", 200);
    drop(other);
    answers(&world.router, "172.30.1.11:10256", "/livez", 200);
    answers(&world.router, "172.30.1.11:10256", "/healthz", 200);
    answers(&world.router, "172.30.1.11:10256", "/other", 404);
    let body = |at: &str, path: &str| get(&world.node, at, path).unwrap().body;
    assert_eq!(body("127.0.0.1:10249", "/proxyMode"), "nftables");
    answers(&world.node, "127.0.0.1:10249", "/other", 404);
    let said = body("127.0.0.1:10256", "/healthz");
    assert!(["lastUpdated", "currentTime"].iter().all(|name| said.contains(&format!("\"{name}\":\"20"))), "{said}");
    assert!(soon(|| !status(&world)["warnings"].to_string().contains("10256")), "{}", status(&world));
    // Who holds his connection and says nothing keeps nobody else out.
    let silent: Vec<TcpStream> =
        world.router.inside(|| (0..8).map(|_| TcpStream::connect("172.30.1.11:10256").unwrap()).collect());
    answers(&world.router, "172.30.1.11:10256", "/livez", 200);
    drop(silent);
}

#[test]
fn settings_of_connection_tracking_are_raised_and_never_lowered() {
    if !is_root() {
        return;
    }
    let conntrack = "services: {proxy: nftables, conntrack: {udpStreamTimeout: 10m, tcpEstablishedTimeout: 1h}}";
    let mut world = World::make(Plan { config: vec![conntrack.to_owned()], ..Plan::default() });
    let close_wait = "netfilter/nf_conntrack_tcp_timeout_close_wait";
    let established = "netfilter/nf_conntrack_tcp_timeout_established";
    assert_eq!((setting(&world.node, close_wait), setting(&world.node, established)), ("60".into(), "432000".into()));
    world.start_agent();
    world.wait_ready();
    assert!(soon(|| setting(&world.node, close_wait) == "3600"), "{}", setting(&world.node, close_wait));
    assert!(soon(|| setting(&world.node, "netfilter/nf_conntrack_udp_timeout_stream") == "600"));
    assert_eq!(setting(&world.node, established), "432000", "it was greater");
    assert_eq!(setting(&world.node, "netfilter/nf_conntrack_udp_timeout"), "30", "zero leaves it alone");
    // Somebody lowers one and raises another.
    let write = |name: &str, value: &str| {
        let (path, value) = (format!("/proc/sys/net/{name}"), value.to_owned());
        world.node.inside(move || std::fs::write(path, value).unwrap());
    };
    write(established, "500000");
    write(close_wait, "10");
    assert!(soon(|| setting(&world.node, close_wait) == "3600"), "{}", setting(&world.node, close_wait));
    assert_eq!(setting(&world.node, established), "500000");
    world.settle();
}

#[test]
fn what_of_them_cannot_be_set_is_said() {
    if !is_root() {
        return;
    }
    // The size of the table is the machine's: no other namespace can set it.
    let config = vec!["services: {proxy: nftables, conntrack: {min: 1000000000}}".to_owned()];
    let mut world = World::make(Plan { config, ..Plan::default() });
    world.start_agent();
    world.wait_ready();
    wait_for(&world, "warnings", &["net.netfilter.nf_conntrack_max is", "Services want 1000000000"]);
    assert_eq!(status(&world)["failed"].as_array().unwrap().len(), 0, "{}", status(&world));
}

fn slice(name: &str, family: &str, ips: &[String]) -> String {
    let endpoints: Vec<String> = ips.iter().map(|ip| format!("{{addresses: [\"{ip}\"], nodeName: n1}}")).collect();
    format!(
        "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: {name}, namespace: default, labels: \
         {{kubernetes.io/service-name: web}}}}, addressType: {family}, ports: [{{name: http, port: 8080}}], endpoints: [{}]}}\n",
        endpoints.join(", ")
    )
}

const WEB: &str = "{apiVersion: v1, kind: Service, metadata: {name: web, namespace: default}, spec: {type: LoadBalancer, \
    externalTrafficPolicy: Local, healthCheckNodePort: 31000, ipFamilyPolicy: PreferDualStack, ports: [{name: http, port: 80, \
    targetPort: 8080, nodePort: 30080}]}}\n";

/// A node with an API server, a Service and a pod of it that says who asked.
fn with_web() -> (World, ApiServer, Vec<String>) {
    let plan = Plan {
        store: StoreAt::Kubernetes,
        families: Families::Dual,
        spec: vec!["rangeMode: pod-cidr".into()],
        config: vec!["services: {proxy: nftables, nodePortAddresses: [primary, localhost]}".into()],
        ..Plan::default()
    };
    let mut world = World::make(plan);
    let args = vec!["--service-cluster-ip-range=10.96.0.0/16,fd00:96::/112".into()];
    let server = ApiServer::start(crate::server::Setup { args, ..setup(&world) });
    become_user(&world, &server, AGENT);
    server.apply(&node_object("{podCIDR: 10.244.7.0/24, podCIDRs: [10.244.7.0/24, \"fd00:244:0:7::/64\"]}"));
    server.apply(WEB);
    world.start_agent();
    world.wait_ready();
    let pod = world.pod("web");
    let serving = pod.ns.inside(|| TcpListener::bind("[::]:8080").unwrap());
    std::thread::spawn(move || {
        for stream in serving.incoming() {
            let Ok(mut stream) = stream else { break };
            let from = stream.peer_addr().unwrap().ip().to_canonical();
            let _ = stream.write_all(format!("{from}").as_bytes());
        }
    });
    (world, server, pod.ips())
}

const HEALTH: &str = "172.30.1.11:31000";

#[test]
fn load_balancers_hear_of_endpoints_of_this_node_and_whether_it_leaves() {
    if !is_possible("health checks of Services with store kubernetes") {
        return;
    }
    let (world, server, ips) = with_web();
    answers(&world.router, HEALTH, "/", 503);
    server.apply(&slice("web-4", "IPv4", &ips[..1]));
    answers(&world.router, HEALTH, "/", 200);
    let answer = get(&world.router, HEALTH, "/any/path").unwrap();
    assert_eq!(
        answer.json(),
        serde_json::json!({"service": {"namespace": "default", "name": "web"}, "localEndpoints": 1, "serviceProxyHealthy": true})
    );
    answers(&world.router, "[fd30:1::11]:31000", "/", 503);
    server.apply(&slice("web-6", "IPv6", &ips[1..]));
    answers(&world.router, "[fd30:1::11]:31000", "/", 200);

    let taint = |taints: &str| {
        server.kubectl(&[
            "patch",
            "node",
            "n1",
            "--type=merge",
            "-p",
            &format!(r#"{{"spec": {{"taints": {taints}}}}}"#),
        ]);
    };
    let healthz = "172.30.1.11:10256";
    answers(&world.router, healthz, "/healthz", 200);
    taint(r#"[{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]"#);
    answers(&world.router, healthz, "/healthz", 503);
    answers(&world.router, healthz, "/livez", 200);
    answers(&world.router, HEALTH, "/", 200);
    taint("[]");
    answers(&world.router, healthz, "/healthz", 200);
    server.kubectl(&["delete", "service", "web"]);
    assert!(soon(|| get(&world.router, HEALTH, "/").is_none()), "the port is still open");
}

#[test]
fn the_node_reaches_node_ports_at_loopback_addresses_until_all_is_taken_out() {
    if !is_possible("node ports at loopback addresses with store kubernetes") {
        return;
    }
    let (world, server, ips) = with_web();
    server.apply(&slice("web-4", "IPv4", &ips[..1]));
    server.apply(&slice("web-6", "IPv6", &ips[1..]));
    // By the kernel, and by a relay.
    for at in ["127.0.0.1:30080", "[::1]:30080"] {
        let hello = || {
            world.node.inside(|| {
                let mut stream = TcpStream::connect_timeout(&at.parse().unwrap(), Duration::from_secs(3)).ok()?;
                stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                let mut text = String::new();
                stream.read_to_string(&mut text).ok()?;
                Some(text).filter(|text| !text.is_empty())
            })
        };
        let mut said = None;
        let is_answered = soon(|| {
            said = hello();
            said.is_some()
        });
        assert!(is_answered, "nobody answers at {at}");
        assert!(!["127.0.0.1", "::1"].contains(&said.as_deref().unwrap()), "{said:?}");
    }
    assert_eq!(setting(&world.node, "ipv4/conf/all/route_localnet"), "1");
    // What was let out of the node goes with what guards it.
    let purged = world.ask("POST", "/v1/purge", "{}").unwrap();
    assert_eq!(purged.status, 200, "{}", purged.body);
    assert_eq!(setting(&world.node, "ipv4/conf/all/route_localnet"), "0");
    assert!(soon(|| get(&world.router, "172.30.1.11:10256", "/livez").is_none()), "it is served still");
    assert!(soon(|| tcp_is_refused(&world)), "the relay still listens");
}

fn tcp_is_refused(world: &World) -> bool {
    world.node.inside(|| TcpStream::connect("[::1]:30080")).is_err()
}
