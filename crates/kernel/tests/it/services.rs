//! The tables of Services in the kernel: real connections to a ClusterIP, a node port and what nobody serves.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use ripstop_desired::services;
use ripstop_netmodel::{Entry, IptablesBackend, Key, Model, NFT_IPVS_TABLE, NFT_SERVICES_TABLE, Object};
use ripstop_objects::IpvsConfig;
use ripstop_objects::service::{EndpointSlice, Service};
use ripstop_services::Node as ServiceNode;
use ripstop_tables::ServiceTables;
use ripstop_types::Revision;
use rustix::net::{self, sockopt, sockopt::Timeout};
use serde_json::{Value, json};

use crate::support::*;

pub const CLIENT: &str = "10.244.1.2";
pub const SERVERS: [&str; 3] = ["10.244.1.11", "10.244.1.12", "10.244.1.13"];

/// A compiler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    Nftables,
    Iptables(IptablesBackend),
    Ipvs,
}

impl By {
    /// Its table of nftables.
    pub fn table(self) -> &'static str {
        if self == Self::Ipvs { NFT_IPVS_TABLE } else { NFT_SERVICES_TABLE }
    }
}

fn place(backend: IptablesBackend) -> services::iptables::Place {
    services::iptables::Place { backend, ipv6: true }
}

/// A client and three servers, pods on one node, each with its own link.
pub struct Scene {
    by: By,
    pub node: Node,
    pub pods: BTreeMap<&'static str, Pod>,
    listeners: Vec<TcpListener>,
    pub tables: ServiceTables,
    base: Vec<Entry>,
    pub model: Model,
}

impl Scene {
    pub fn new(node: Node) -> Self {
        Self::by(node, By::Nftables)
    }

    /// By one of the compilers.
    pub fn by(node: Node, by: By) -> Self {
        for name in ["net.ipv4.ip_forward", "net.ipv4.conf.all.forwarding"] {
            run("sysctl", &["-qw", &format!("{name}=1")]);
        }
        ip("link add rip0 type bridge");
        ip("address add 192.0.2.1/24 dev rip0");
        ip("link set rip0 up");
        // What the node sends to a ClusterIP needs a route before it is rewritten.
        ip("route add default via 192.0.2.254");
        let mut pods = BTreeMap::new();
        for (n, address) in [CLIENT].into_iter().chain(SERVERS).enumerate() {
            let pod = Pod::new();
            ip(&format!("link add v{n} type veth peer name eth0 netns {}", pod.path));
            ip(&format!("link set v{n} up"));
            ip(&format!("address add 169.254.1.{}/32 dev v{n}", n + 1));
            for line in [
                "link set lo up",
                "link set eth0 up",
                &format!("address add {address}/32 dev eth0"),
                &format!("route add 169.254.1.{}/32 dev eth0", n + 1),
                &format!("route add default via 169.254.1.{}", n + 1),
            ] {
                pod.run("ip", &line.split_whitespace().collect::<Vec<_>>());
            }
            ip(&format!("route add {address}/32 dev v{n}"));
            pods.insert(address, pod);
        }
        let mut scene = Self {
            by,
            node,
            pods,
            listeners: Vec::new(),
            tables: ServiceTables::default(),
            base: Vec::new(),
            model: Model::default(),
        };
        for server in SERVERS {
            scene.serve(server);
        }
        let (pods, ranges) = ([prefix("10.244.1.0/24")], [prefix("10.96.0.0/16")]);
        let rules = services::Rules::default();
        scene.base = match by {
            By::Nftables => services::nftables::base(&pods, &ranges, &rules),
            By::Iptables(backend) => {
                services::iptables::base(place(backend), &[addr("192.0.2.1")], &pods, &ranges, &rules)
            }
            By::Ipvs => services::ipvs::base(IpvsConfig::default(), &pods, &ranges, &rules),
        };
        let wanted: Model = scene.base.iter().cloned().collect();
        scene.follow(wanted);
        scene
    }

    /// The last server has more addresses than fit into a table's prepared chains; at their port it says which one was asked.
    pub fn crowd(&mut self) {
        let server = *SERVERS.last().unwrap();
        ip(&format!("route add 10.244.2.0/23 dev v{}", SERVERS.len()));
        self.pods[server].run("ip", &["route", "add", "local", "10.244.2.0/23", "dev", "lo"]);
        let listener = self.pods[server].inside(|| TcpListener::bind("0.0.0.0:8081").unwrap());
        let clone = listener.try_clone().unwrap();
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = clone.accept() {
                let _ = write!(stream, "{}", stream.local_addr().unwrap().ip());
            }
        });
        self.listeners.push(listener);
    }

    /// Connects from the client without a pause while `work` runs; gives what came of each connection.
    pub fn under_load(&mut self, to: &str, work: impl FnOnce(&mut Self)) -> Vec<String> {
        let to: SocketAddr = to.parse().unwrap();
        let path = self.pods[CLIENT].path.clone();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let load = std::thread::spawn(move || {
            let mut tried: Vec<String> = Vec::new();
            ripstop_kernel::Netns::open(&path)
                .unwrap()
                .run(|| {
                    while stopped.try_recv().is_err() && tried.len() < 100_000 {
                        tried.push(connect(to));
                    }
                })
                .unwrap();
            tried
        });
        work(self);
        stop.send(()).unwrap();
        load.join().unwrap()
    }

    /// The one server that all connections come to.
    pub fn sticks_to(&self, from: Option<&str>, to: &str) -> String {
        let seen = self.ask(from, to);
        let servers: BTreeSet<&str> = seen.iter().filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(servers.len(), 1, "{seen:?}");
        servers.into_iter().next().unwrap().to_owned()
    }

    /// A server that says its name, and whom it sees.
    fn serve(&mut self, server: &'static str) {
        self.serve_at(server, server);
        let socket = self.pods[server].inside(|| UdpSocket::bind((addr(server), 8080)).unwrap());
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(server.as_bytes(), peer);
            }
        });
    }

    /// The same for streams to one address of it.
    pub fn serve_at(&mut self, server: &str, at: &'static str) {
        let listener = self.pods[server].inside(|| TcpListener::bind((addr(at), 8080)).unwrap());
        let clone = listener.try_clone().unwrap();
        std::thread::spawn(move || {
            while let Ok((mut stream, peer)) = clone.accept() {
                let _ = write!(stream, "{at} {}", peer.ip());
            }
        });
        self.listeners.push(listener);
    }

    /// A client's socket, always the same, so that all it sends is one connection.
    pub fn client(&self) -> UdpSocket {
        self.pods[CLIENT].inside(|| UdpSocket::bind((addr(CLIENT), 4000)).unwrap())
    }

    /// Takes objects in and applies what follows.
    pub fn change(&mut self, service: Option<Value>, slice: Option<Value>) {
        if let Some(service) = service {
            self.tables.put_service(Service::from_value(service).unwrap().0, Revision(1));
        }
        if let Some(slice) = slice {
            self.tables.put_slice(EndpointSlice::from_value(slice).unwrap().0);
        }
        let node = ServiceNode {
            name: "n1".parse().unwrap(),
            zone: None,
            addresses: vec![addr("192.0.2.1")],
            node_port_addresses: vec![addr("192.0.2.1")],
            localhost: false,
            pods_by_link: false,
            pods: vec![prefix("10.244.1.0/24")],
            external_ips: false,
            proxy_name: None,
        };
        let name = "web".parse().unwrap();
        let entries = match self.by {
            By::Nftables => services::nftables::objects(&node, &self.tables, &name, &self.model),
            By::Iptables(backend) => services::iptables::objects(place(backend), None, &node, &self.tables, &name),
            By::Ipvs => services::ipvs::objects(IpvsConfig::default(), &node, &self.tables, &name),
        };
        self.follow(self.base.iter().cloned().chain(entries).collect());
    }

    /// Carries a plan out that takes what is there to this.
    pub fn follow(&mut self, wanted: Model) {
        let plan = ripstop_plan::diff_all(&self.model, &wanted, &|_: &Key, _: &Entry| Ok(()));
        for outcome in self.node.run(&plan.steps) {
            outcome.result.unwrap();
        }
        let gone = self.model.iter().filter(|(key, _)| wanted.get(key).is_none());
        let gone: Vec<Object> = gone.map(|(_, entry)| entry.object.clone()).collect();
        self.model = wanted;
        let all: Vec<Object> = self.model.iter().map(|(_, entry)| entry.object.clone()).collect();
        self.node.assert_there(&all);
        self.node.assert_gone(&gone);
    }

    /// What connections from a pod, or the node itself, come to: who answered, and whom that saw.
    pub fn ask(&self, from: Option<&str>, to: &str) -> BTreeSet<String> {
        let to: SocketAddr = to.parse().unwrap();
        let work = move || (0..24).map(|_| connect(to)).collect();
        match from {
            Some(pod) => self.pods[pod].inside(work),
            None => work(),
        }
    }
}

pub fn connect(to: SocketAddr) -> String {
    match TcpStream::connect_timeout(&to, Duration::from_millis(700)) {
        Ok(mut stream) => {
            let mut said = String::new();
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            stream.read_to_string(&mut said).unwrap();
            said
        }
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => "refused".into(),
        Err(error) if error.kind() == ErrorKind::TimedOut => "nothing".into(),
        Err(error) => panic!("{to}: {error}"),
    }
}

pub fn service(spec: Value) -> Option<Value> {
    let mut all = json!({"clusterIP": "10.96.0.10", "ports": [{"port": 80, "nodePort": 30080}]});
    all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    Some(json!({"metadata": {"name": "web"}, "spec": all}))
}

pub fn slice(servers: &[&str]) -> Option<Value> {
    let endpoints: Vec<Value> = servers.iter().map(|ip| json!({"addresses": [ip], "nodeName": "n1"})).collect();
    Some(json!({"metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv4",
        "ports": [{"port": 8080}], "endpoints": endpoints}))
}

/// Who answers a datagram on this socket; nobody within half a second, or a refusal, is nobody.
pub fn answers(socket: &UdpSocket, to: &str) -> Option<String> {
    let mut buffer = [0; 64];
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    socket.send_to(b"?", to).ok()?;
    let len = socket.recv(&mut buffer).ok()?;
    Some(String::from_utf8_lossy(&buffer[..len]).into_owned())
}

pub fn udp(servers: &[&str]) -> Option<Value> {
    let mut slice = slice(servers).unwrap();
    slice["ports"] = json!([{"port": 8080, "protocol": "UDP"}]);
    Some(slice)
}

#[test]
fn datagrams_leave_an_endpoint_that_is_gone_at_once_and_no_other() {
    datagrams_leave(By::Nftables);
}

/// The same by a compiler.
pub fn datagrams_leave(by: By) {
    on_a_node(move |node| {
        let mut scene = Scene::by(node, by);
        let ports = json!({"ports": [{"port": 53, "protocol": "UDP", "nodePort": 30053}]});
        scene.change(service(ports.clone()), udp(&SERVERS));
        let (socket, to) = (scene.client(), "10.96.0.10:53");
        for _ in 0..4 {
            let first = answers(&socket, to).unwrap();
            assert_eq!(answers(&socket, to).as_deref(), Some(&*first), "one connection has one endpoint");
            // Others come and go, and where they take other slots it stays.
            let others: Vec<&str> = SERVERS.into_iter().filter(|server| *server != first).collect();
            scene.change(None, udp(&[&*first, others[1]]));
            assert_eq!(answers(&socket, to).as_deref(), Some(&*first));
            scene.change(None, udp(&SERVERS));
            assert_eq!(answers(&socket, to).as_deref(), Some(&*first));
            scene.change(None, udp(&others));
            let next = answers(&socket, to).unwrap();
            assert!(others.contains(&&*next), "{next} instead of {first}");
            scene.change(None, udp(&SERVERS));
        }
        // Without endpoints it is refused, and with one again served.
        scene.change(None, udp(&[]));
        assert_eq!(answers(&socket, to), None);
        scene.change(None, udp(&SERVERS[1..2]));
        // The refusal of before waits at the socket.
        let _ = answers(&socket, to);
        assert_eq!(answers(&socket, to).as_deref(), Some(SERVERS[1]));
        // The Service goes: whoever has the endpoint's address next hears nothing of its clients.
        scene.change(None, udp(&SERVERS[1..2]));
        scene.tables.remove_service(&"web".parse().unwrap());
        scene.change(None, None);
        assert_eq!(answers(&socket, to), None);
        let kind = match by {
            By::Nftables => "map",
            By::Ipvs => "set",
            By::Iptables(_) => return,
        };
        let listed = run("nft", &["list", kind, "ip", by.table(), "endpoints"]);
        assert!(!listed.contains("10.244."), "{listed}");
    });
}

#[test]
fn what_changed_while_nobody_looked_is_found_at_the_start() {
    on_a_node(|node| {
        let mut scene = Scene::new(node);
        let ports = json!({"ports": [{"port": 53, "protocol": "UDP"}]});
        scene.change(service(ports), udp(&SERVERS[..1]));
        let (socket, to) = (scene.client(), "10.96.0.10:53");
        assert_eq!(answers(&socket, to).as_deref(), Some(SERVERS[0]));
        // Another hand, as a crash between two steps leaves it.
        let set = |server: &str| format!("{{ 10.96.0.10 . udp . 53 . 0x0 : {server} . 8080 }}");
        let key = "{ 10.96.0.10 . udp . 53 . 0x0 }";
        run("nft", &["delete", "element", "ip", "ripstop-services", "endpoints", key]);
        run("nft", &["add", "element", "ip", "ripstop-services", "endpoints", &set(SERVERS[1])]);
        assert_eq!(answers(&socket, to).as_deref(), Some(SERVERS[0]), "the connection stands");
        scene.node.make(&[ripstop_netmodel::ServiceFlows.into()]);
        assert_eq!(answers(&socket, to).as_deref(), Some(SERVERS[1]));
        scene.node.make(&[ripstop_netmodel::ServiceFlows.into()]);
        assert_eq!(answers(&socket, to).as_deref(), Some(SERVERS[1]), "what is right stays");
    });
}

#[test]
fn who_called_before_anybody_served_is_served_from_the_same_port() {
    on_a_node(|node| {
        let mut scene = Scene::new(node);
        // An address outside the ranges of Services goes out as any other until it is a frontend.
        let balanced = || {
            let mut service = service(json!({"type": "LoadBalancer"})).unwrap();
            service["status"] = json!({"loadBalancer": {"ingress": [{"ip": "198.51.100.7"}]}});
            Some(service)
        };
        let call = |scene: &Scene| {
            scene.pods[CLIENT].inside(|| {
                let socket = net::socket(net::AddressFamily::INET, net::SocketType::STREAM, None).unwrap();
                sockopt::set_socket_reuseaddr(&socket, true).unwrap();
                sockopt::set_socket_timeout(&socket, Timeout::Send, Some(Duration::from_millis(300))).unwrap();
                net::bind(&socket, &SocketAddr::from((addr(CLIENT), 4000))).unwrap();
                net::connect(&socket, &"198.51.100.7:80".parse::<SocketAddr>().unwrap()).is_ok()
            })
        };
        // The way out leads somewhere, so that it is tracked.
        run("ip", &["neigh", "add", "192.0.2.254", "lladdr", "02:00:00:00:00:01", "dev", "rip0"]);
        assert!(!call(&scene), "nobody serves");
        scene.change(balanced(), slice(&SERVERS));
        assert!(!call(&scene), "the connection that is tracked leads out");
        scene.node.make(&[ripstop_netmodel::ServiceFlows.into()]);
        assert!(call(&scene));
    });
}

#[test]
fn streams_to_an_endpoint_that_goes_end_as_they_please_or_are_reset() {
    streams_end(By::Nftables);
}

/// The same by a compiler.
pub fn streams_end(by: By) {
    on_a_node(move |node| {
        let mut scene = Scene::by(node, by);
        scene.change(service(json!({})), slice(&SERVERS[..1]));
        for is_reset in [false, true] {
            let mut object = service(json!({})).unwrap();
            if is_reset {
                object["metadata"]["annotations"] = json!({"ripstop.io/on-endpoint-removal": "reset"});
            }
            scene.change(Some(object), slice(&SERVERS[..1]));
            let echo = scene.pods[SERVERS[0]].inside(|| TcpListener::bind((addr(SERVERS[0]), 8081)).unwrap());
            let mut only = slice(&SERVERS[..1]).unwrap();
            only["ports"] = json!([{"port": 8081}]);
            scene.change(None, Some(only));
            let mut stream = scene.pods[CLIENT].inside(|| TcpStream::connect("10.96.0.10:80").unwrap());
            let (mut served, _) = echo.accept().unwrap();
            let mut buffer = [0; 4];
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            stream.write_all(b"ping").unwrap();
            served.read_exact(&mut buffer).unwrap();
            scene.change(None, slice(&SERVERS[1..]));
            let sent = stream.write_all(b"ping");
            served.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
            let heard = served.read_exact(&mut buffer);
            assert_eq!(heard.is_ok(), !is_reset, "{sent:?} {heard:?}");
            if is_reset {
                let ended = stream.read(&mut buffer);
                assert!(ended.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionReset), "{ended:?}");
            }
        }
    });
}

pub fn said<const N: usize>(lines: [&str; N]) -> BTreeSet<String> {
    lines.into_iter().map(str::to_owned).collect()
}

#[test]
fn connections_go_to_endpoints_and_nowhere_else() {
    connections_go(By::Nftables);
}

/// The same by a compiler.
pub fn connections_go(by: By) {
    on_a_node(move |node| {
        let mut scene = Scene::by(node, by);
        scene.change(service(json!({})), slice(&SERVERS));
        let seen = scene.ask(Some(CLIENT), "10.96.0.10:80");
        assert_eq!(seen, said(SERVERS.map(|ip| format!("{ip} {CLIENT}")).each_ref().map(String::as_str)));
        // One that asks itself sees the node.
        let own = scene.ask(Some(SERVERS[0]), "10.96.0.10:80");
        let hairpin: Vec<&String> = own.iter().filter(|line| line.starts_with(SERVERS[0])).collect();
        assert!(hairpin.len() == 1 && !hairpin[0].ends_with(SERVERS[0]), "{own:?}");
        assert!(own.contains(&format!("{} {}", SERVERS[1], SERVERS[0])), "{own:?}");
        // By a node port the source is the node, whoever asks; and so it is for the node itself.
        for seen in [scene.ask(Some(CLIENT), "192.0.2.1:30080"), scene.ask(None, "10.96.0.10:80")] {
            assert_eq!(seen.len(), 3, "{seen:?}");
            assert!(seen.iter().all(|line| !line.ends_with(CLIENT)), "{seen:?}");
        }
        assert_eq!(scene.ask(None, "192.0.2.1:30080").len(), 3);
        assert_eq!(connect_from(&scene, "10.96.0.10:81"), "refused", "no Service has this port");
        assert_eq!(connect_from(&scene, "10.96.0.11:80"), "nothing", "no Service has this address");
        scene.change(None, slice(&SERVERS[..1]));
        assert_eq!(scene.ask(Some(CLIENT), "10.96.0.10:80"), said([&format!("{} {CLIENT}", SERVERS[0])]));
        scene.change(None, slice(&[]));
        assert_eq!(connect_from(&scene, "10.96.0.10:80"), "refused");
        assert_eq!(connect_from(&scene, "192.0.2.1:30080"), "refused");
        let text = run("nft", &["list", "table", "ip", by.table()]);
        assert!(by != By::Nftables || text.contains("numgen random mod 3 map @endpoints"), "{text}");
        assert!(text.contains("10.96.0.10 . tcp . 80 comment \"service/default/web\" : goto refuse"), "{text}");
    });
}

pub fn connect_from(scene: &Scene, to: &str) -> String {
    let to = to.parse().unwrap();
    scene.pods[CLIENT].inside(move || connect(to))
}

#[test]
fn while_endpoints_come_and_go_no_connection_fails() {
    no_connection_fails(By::Nftables);
}

/// The same by a compiler.
pub fn no_connection_fails(by: By) {
    on_a_node(move |node| {
        let mut scene = Scene::by(node, by);
        scene.change(service(json!({})), slice(&SERVERS));
        let mut turn = 0;
        let tried = scene.under_load("10.96.0.10:80", |scene| {
            let begun = Instant::now();
            while turn <= 10 || begun.elapsed() < Duration::from_secs(2) {
                let left = [&SERVERS[..], &SERVERS[..2], &SERVERS[1..], &SERVERS[2..]][turn % 4];
                scene.change(None, slice(left));
                turn += 1;
            }
        });
        let failed: BTreeSet<&String> = tried.iter().filter(|line| !line.starts_with("10.244.1.")).collect();
        assert!(turn > 10 && tried.len() > 50, "{turn} changes, {} connections", tried.len());
        assert!(failed.is_empty(), "{failed:?} of {} connections in {turn} changes", tried.len());
    });
}

#[test]
fn sources_policies_and_families_count() {
    sources_count(By::Nftables);
}

/// The same by a compiler.
pub fn sources_count(by: By) {
    on_a_node(move |node| {
        let mut scene = Scene::by(node, by);
        let balanced = |ranges: Value| {
            let mut service = service(json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ranges})).unwrap();
            service["status"] = json!({"loadBalancer": {"ingress": [{"ip": "198.51.100.7"}]}});
            Some(service)
        };
        scene.change(balanced(json!(["10.244.1.0/30", "10.244.1.0/29"])), slice(&SERVERS[..1]));
        assert!(connect_from(&scene, "198.51.100.7:80").starts_with(SERVERS[0]));
        scene.change(balanced(json!(["10.9.0.0/16"])), None);
        assert_eq!(connect_from(&scene, "198.51.100.7:80"), "nothing");
        assert!(connect_from(&scene, "192.0.2.1:30080").starts_with(SERVERS[0]), "node ports are open to all");
        // Endpoints of other nodes only: what comes from a pod of this node goes to them all the same.
        let mut elsewhere = slice(&SERVERS[..1]).unwrap();
        elsewhere["endpoints"][0]["nodeName"] = json!("n2");
        scene.change(service(json!({"externalTrafficPolicy": "Local"})), Some(elsewhere.clone()));
        assert_eq!(connect_from(&scene, "192.0.2.1:30080"), format!("{} {CLIENT}", SERVERS[0]));
        scene.change(service(json!({"internalTrafficPolicy": "Local"})), Some(elsewhere));
        assert_eq!(connect_from(&scene, "10.96.0.10:80"), "nothing");
    });
}
