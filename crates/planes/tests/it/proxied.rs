//! Policies and Services together, with real packets: whatever serves Services, a policy sees the pod behind one, and the sender as long as
//! its address is not masqueraded on another node.

use std::net::IpAddr;

use ripstop_conformance::policy::scene::{Scene, Sending, Served, service_of};
use ripstop_conformance::policy::{Change, DataPlane, Fate, Run, Stop, compare, run};
use ripstop_netmodel::IptablesBackend;
use ripstop_objects::policy::{ClusterNetworkPolicy, NetworkPolicy};
use ripstop_objects::service::{EndpointSlice, Protocol, Service};
use ripstop_oracle::policy::{Packet, State, Traffic, World, judge};
use ripstop_oracle::services::World as Proxy;
use ripstop_planes::{Compiler, Policed, Proxied};
use serde_json::{Value, json};

use crate::{has_ipvs, is_long, made};

/// What Services have, of the ports that cases and scenarios ask for.
const PORTS: [(Protocol, u16); 7] = [
    (Protocol::Tcp, 80),
    (Protocol::Tcp, 81),
    (Protocol::Tcp, 90),
    (Protocol::Udp, 80),
    (Protocol::Udp, 81),
    (Protocol::Udp, 90),
    (Protocol::Sctp, 80),
];
/// Packets drawn, in the normal tier and in the long one.
const DRAWN: [usize; 2] = [150, 4_000];
/// Cases in the normal tier: a machine that is emulated is slow, and the others ask for nothing more of Services. In the long one all.
const SOME: [&str; 4] = ["advisory", "cnp", "cyclonus/action", "cyclonus/example"];
/// Of their packets one of so many.
const EVERY: usize = 40;
const JOBS: usize = 4;

/// The address of number `last` on a node, and a node's own.
fn pod(node: u8, last: u8) -> [IpAddr; 2] {
    [IpAddr::from([10, 244, node, last]), IpAddr::from([0xfd00, node.into(), 0, 0, 0, 0, 0, last.into()])]
}

fn node(number: u8) -> [IpAddr; 2] {
    [IpAddr::from([192, 0, 2, number]), IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, number.into()])]
}

/// A Service of one endpoint in both families, and its slices.
fn service(
    name: &str,
    endpoint: [IpAddr; 2],
    on: u8,
    spec: &Value,
    balancer: &[String],
) -> (Service, Vec<EndpointSlice>) {
    let port = |(protocol, number): &(Protocol, u16)| {
        let called = format!("{}-{number}", protocol.as_str().to_lowercase());
        json!({"name": called, "protocol": protocol.as_str(), "port": number})
    };
    let ports: Vec<Value> = PORTS.iter().map(port).collect();
    let mut object = json!({"metadata": {"name": name}, "spec": {"ports": ports}});
    object["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    let ingress: Vec<Value> = balancer.iter().map(|ip| json!({"ip": ip})).collect();
    object["status"] = json!({"loadBalancer": {"ingress": ingress}});
    let (service, faults) = Service::from_value(object).unwrap();
    faults.into_result().unwrap();
    let slice = |(family, ip): (&str, IpAddr)| {
        let metadata = json!({"name": format!("{name}-{}", family.to_lowercase()), "labels": {"kubernetes.io/service-name": name}});
        let endpoints = json!([{"addresses": [ip], "nodeName": format!("n{on}")}]);
        let object = json!({"metadata": metadata, "addressType": family, "ports": ports, "endpoints": endpoints});
        let (slice, faults) = EndpointSlice::from_value(object).unwrap();
        faults.into_result().unwrap();
        slice
    };
    (service, ["IPv4", "IPv6"].into_iter().zip(endpoint).map(slice).collect())
}

/// What each node's proxy knows.
fn proxies(objects: &[(Service, Vec<EndpointSlice>)], masquerade_all: bool) -> Vec<Proxy> {
    let of = |number: u8| {
        let ranges = [format!("10.244.{number}.0/24"), format!("fd00:{number}::/32")];
        let world = json!({"node": format!("n{number}"), "addresses": node(number), "podRanges": ranges});
        let mut world: Proxy = serde_json::from_value(world).unwrap();
        world.masquerade_all = masquerade_all;
        for (service, slices) in objects {
            world.services.push(service.clone());
            world.slices.extend(slices.iter().cloned());
        }
        world
    };
    (1..=3).map(of).collect()
}

/// A ClusterIP for each pod that cases and scenarios have, and for nodes.
fn one_each(compiler: Compiler) -> Proxied {
    let drawn = (1..=2).flat_map(|on| (1..=4).map(move |last| (on, pod(on, last))));
    let of_cases = (0..12).map(|place| (place % 3 + 1, pod(place % 3 + 1, 16 + 4 * place)));
    let nodes = (1..=3).map(|on| (on, node(on)));
    let (mut objects, mut served) = (Vec::new(), Served::new());
    for (place, (on, ips)) in drawn.chain(of_cases).chain(nodes).enumerate() {
        let spec = json!({"clusterIPs": ips.map(|ip| service_of(ip).unwrap())});
        objects.push(service(&format!("s{place}"), ips, on, &spec, &[]));
        served.extend(ips.into_iter().flat_map(|ip| PORTS.map(|(protocol, port)| (ip, protocol, port))));
    }
    Proxied { compiler, worlds: proxies(&objects, false), served }
}

fn judged_by(compiler: Compiler) {
    let make = || -> Result<Box<dyn DataPlane>, Stop> {
        Ok(Box::new(Scene::new(Box::new(Policed::serving(one_each(compiler))?))?))
    };
    if made(make()).is_none() {
        return;
    }
    match compare(&make, JOBS, 23, DRAWN[usize::from(is_long())]) {
        Ok(sent) => println!("{sent} packets, no difference"),
        Err(divergence) => panic!("{divergence}"),
    }
    let only = if is_long() { Vec::new() } else { SOME.map(String::from).to_vec() };
    let rows = run(&make, Run { only: &only, jobs: JOBS, every: EVERY }, &|_| ()).unwrap();
    let failed = rows.iter().filter_map(|row| Some(format!("{}: {}", row.id, row.reason.as_ref()?)));
    let failed: Vec<String> = failed.collect();
    assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), rows.len(), failed.join("\n"));
    println!("{} cases passed", rows.len());
}

#[test]
fn policies_see_pods_behind_services_of_nftables() {
    judged_by(Compiler::Nftables);
}

#[test]
fn policies_see_pods_behind_services_of_iptables() {
    judged_by(Compiler::Iptables(IptablesBackend::Nft));
}

#[test]
fn policies_see_pods_behind_services_of_ipvs() {
    if has_ipvs() {
        judged_by(Compiler::Ipvs);
    }
}

/// How somebody reaches a Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    ClusterIp,
    /// At this node.
    NodePort(u8),
    /// At a load balancer's address, which leads to this node.
    Balancer(u8),
}

/// Those who are reached: number, node and address.
const ENDPOINTS: [(u8, u8, u8); 2] = [(1, 1, 1), (2, 2, 1)];

/// The Service of an endpoint with an external policy.
fn number_of(endpoint: u8, is_local: bool) -> u8 {
    10 * endpoint + u8::from(is_local)
}

fn balancer(number: u8) -> [IpAddr; 2] {
    [IpAddr::from([203, 0, 113, number]), IpAddr::from([0x2001, 0xdb8, 0x113, 0, 0, 0, 0, number.into()])]
}

fn cluster_ip(number: u8) -> [IpAddr; 2] {
    [IpAddr::from([10, 98, 0, number]), IpAddr::from([0xfd98, 0, 0, 0, 0, 0, 0, number.into()])]
}

fn node_port(number: u8) -> u16 {
    30_000 + u16::from(number)
}

/// Services of all kinds for each endpoint.
fn of_all_kinds(compiler: Compiler, masquerade_all: bool) -> Proxied {
    let mut objects = Vec::new();
    for (endpoint, on, last) in ENDPOINTS {
        for is_local in [false, true] {
            let number = number_of(endpoint, is_local);
            let port = json!({"name": "tcp-80", "port": 80, "protocol": "TCP", "nodePort": node_port(number)});
            let policy = if is_local { "Local" } else { "Cluster" };
            let spec = json!({
                "type": "LoadBalancer", "clusterIPs": cluster_ip(number), "externalTrafficPolicy": policy, "ports": [port],
            });
            let ips = balancer(number).map(|ip| ip.to_string());
            objects.push(service(&format!("s{number}"), pod(on, last), on, &spec, &ips));
        }
    }
    Proxied { compiler, worlds: proxies(&objects, masquerade_all), served: Served::new() }
}

/// Who sends: addresses, and the node that they are on.
fn senders() -> [([IpAddr; 2], Option<u8>); 6] {
    let client = [IpAddr::from([198, 51, 100, 7]), IpAddr::from([0x2001, 0xdb8, 5, 0, 0, 0, 0, 7])];
    [
        (client, None),
        (pod(1, 1), Some(1)),
        (pod(1, 2), Some(1)),
        (pod(2, 2), Some(2)),
        (node(1), Some(1)),
        (node(3), Some(3)),
    ]
}

/// What is sent, and whether it must arrive. A packet is changed on its way into the cluster: at that node a policy sees the sender and the
/// pod. At another node it sees as the sender the first node, where the sender was masqueraded there.
fn all_ways(world: &World, masquerade_all: bool) -> Vec<(String, Sending, bool)> {
    let mut all = Vec::new();
    for ((ips, home), (endpoint, on, last)) in senders().into_iter().flat_map(|from| ENDPOINTS.map(|to| (from, to))) {
        for is_local in [false, true] {
            // From outside a local policy leads to endpoints of that node alone; who is on a node is served there.
            let entries = home.map_or_else(|| if is_local { vec![on] } else { vec![1, 2, 3] }, |home| vec![home]);
            let ways = entries.iter().flat_map(|entry| {
                [Way::ClusterIp, Way::NodePort(*entry), Way::Balancer(*entry)].map(|way| (way, *entry))
            });
            for ((way, entry), family) in ways.flat_map(|way| [(way, 0), (way, 1)]) {
                let number = number_of(endpoint, is_local);
                let (to, port) = match way {
                    Way::ClusterIp => (cluster_ip(number), 80),
                    Way::NodePort(entry) => (node(entry), node_port(number)),
                    Way::Balancer(_) => (balancer(number), 80),
                };
                let is_of_pod = home.is_some() && !ips.contains(&node(entry)[family]);
                let is_masqueraded = match way {
                    Way::ClusterIp => masquerade_all || !is_of_pod,
                    _ => !is_local || home.is_some() && !is_of_pod,
                };
                let packet = Packet {
                    source: ips[family],
                    destination: pod(on, last)[family],
                    traffic: Traffic::Port(Protocol::Tcp, 80),
                    state: State::New,
                    by_service: true,
                };
                let is_hidden = is_masqueraded && entry != on;
                let there = if is_hidden { Packet { source: node(entry)[family], ..packet } } else { packet };
                let is_accepted =
                    |decision: Option<ripstop_oracle::policy::Decision>| decision.is_none_or(|it| it.accepted);
                let arrives = is_accepted(judge(world, &packet).egress) && is_accepted(judge(world, &there).ingress);
                let by = usize::from(entry) - 1;
                let own = Some(node(entry)[family]);
                let sending = Sending { packet, to: to[family], port: Some(port), by, masqueraded: own };
                all.push((
                    format!("{} by {way:?}, local {is_local}, to {}", ips[family], packet.destination),
                    sending,
                    arrives,
                ));
            }
        }
    }
    all
}

/// Pods `a` are reached, `c` and `d` send. Each policy is about one of them.
fn start() -> Vec<Change> {
    let of = |name: &str, on: u8, last: u8| {
        json!({"name": format!("x/{name}"), "uid": "", "labels": {"app": &name[..1]}, "node": format!("n{on}"),
               "ips": pod(on, last), "phase": "Running"})
    };
    let node = |number: u8| json!({"name": format!("n{number}"), "podCIDRs": [], "addresses": node(number)});
    let pods = [of("a1", 1, 1), of("a2", 2, 1), of("c", 1, 2), of("d", 2, 2)];
    let world = json!({"nodes": [node(1), node(2), node(3)], "namespaces": [{"name": "x"}], "pods": pods});
    Change::all_of(&serde_json::from_value(world).unwrap())
}

/// Policies of one cluster, as Kubernetes writes them, and of packets of a client in IPv4 to a node port whether they arrive: at the endpoint's
/// own node, at another one, and at the own one where the external policy is local.
fn policies() -> Vec<(&'static str, Change, [bool; 3])> {
    let network = |name: &'static str, spec: Value, arrive| {
        let object = json!({"metadata": {"namespace": "x", "name": "p"}, "spec": spec});
        let (policy, faults) = NetworkPolicy::from_value(&object).unwrap();
        faults.into_result().unwrap();
        (name, Change::Policy(policy), arrive)
    };
    let cluster = |name: &'static str, spec: Value, arrive| {
        let (policy, faults) =
            ClusterNetworkPolicy::from_value(&json!({"metadata": {"name": "p"}, "spec": spec})).unwrap();
        faults.into_result().unwrap();
        (name, Change::ClusterPolicy(policy), arrive)
    };
    let from = |peers: Value| json!({"podSelector": {"matchLabels": {"app": "a"}}, "ingress": [{"from": peers}]});
    let block = |cidrs: [&str; 2]| json!(cidrs.map(|cidr| json!({"ipBlock": {"cidr": cidr}})));
    let admin =
        |egress: Value| json!({"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, "egress": egress});
    let to_pods = json!({"action": "Accept", "to": [{"pods": {"namespaceSelector": {}, "podSelector": {}}}]});
    let to = |networks: [&str; 2]| json!({"action": "Deny", "to": [{"networks": networks}]});
    vec![
        network("nobody comes in", from(json!([{"podSelector": {"matchLabels": {"app": "none"}}}])), [false; 3]),
        network("the client's address", from(block(["198.51.100.7/32", "2001:db8:5::7/128"])), [true, false, true]),
        network("a node's address", from(block(["192.0.2.2/32", "2001:db8::2/128"])), [false, true, false]),
        network(
            "all but nodes",
            from(json!([
                {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["192.0.2.0/24"]}},
                {"ipBlock": {"cidr": "::/0", "except": ["2001:db8::/64"]}},
            ])),
            [true, false, true],
        ),
        network("a pod", from(json!([{"podSelector": {"matchLabels": {"app": "d"}}}])), [false; 3]),
        network(
            "out to addresses of Services alone",
            json!({
                "podSelector": {}, "policyTypes": ["Egress"],
                "egress": [{"to": block(["10.98.0.0/16", "fd98::/16"])}, {"to": block(["203.0.113.0/24", "2001:db8:113::/64"])}],
            }),
            [true; 3],
        ),
        cluster("out to pods and nowhere else", admin(json!([to_pods, to(["0.0.0.0/0", "::/0"])])), [true; 3]),
        cluster(
            "not out to addresses of Services",
            admin(json!([to(["10.98.0.0/16", "fd98::/16"]), to(["203.0.113.0/24", "2001:db8:113::/64"]),])),
            [true; 3],
        ),
    ]
}

fn all_ways_by(compiler: Compiler, masquerade_all: bool) {
    let scene =
        Policed::serving(of_all_kinds(compiler, masquerade_all)).and_then(|policed| Scene::new(Box::new(policed)));
    let Some(mut scene) = made(scene) else { return };
    let mut sent = 0;
    for (name, policy, [at_its_own, at_another, local]) in policies() {
        let mut world = World::default();
        let changes: Vec<Change> = start().into_iter().chain([policy]).collect();
        changes.iter().for_each(|change| change.apply(&mut world));
        scene.begin().unwrap();
        scene.follow(&changes).unwrap();
        let ways = all_ways(&world, masquerade_all);
        // What the documents say of it, beside the model.
        for (what, expected) in [
            ("NodePort(1), local false", at_its_own),
            ("NodePort(2), local false", at_another),
            ("NodePort(1), local true", local),
        ] {
            let called = format!("198.51.100.7 by {what}, to 10.244.1.1");
            let found = ways.iter().find(|(name, ..)| *name == called).unwrap_or_else(|| panic!("{called}"));
            assert_eq!(found.2, expected, "{name}: {called}");
        }
        let fates = scene.send_all(&ways.iter().map(|(_, sending, _)| *sending).collect::<Vec<_>>()).unwrap();
        let wrong: Vec<String> = (ways.iter().zip(&fates))
            .filter(|((.., arrives), fate)| **fate != if *arrives { Fate::Arrived } else { Fate::Nothing })
            .map(|((name, ..), fate)| format!("{name}: {}", fate.as_str()))
            .collect();
        assert!(wrong.is_empty(), "{compiler:?}, {name}: {} of {}:\n{}", wrong.len(), ways.len(), wrong.join("\n"));
        sent += ways.len();
    }
    println!("{sent} packets by {compiler:?} arrived as they should");
}

#[test]
fn policies_see_senders_by_all_ways_of_nftables() {
    [false, true].into_iter().for_each(|all| all_ways_by(Compiler::Nftables, all));
}

#[test]
fn policies_see_senders_by_all_ways_of_iptables() {
    [false, true].into_iter().for_each(|all| all_ways_by(Compiler::Iptables(IptablesBackend::Nft), all));
}

#[test]
fn policies_see_senders_by_all_ways_of_ipvs() {
    if has_ipvs() {
        [false, true].into_iter().for_each(|all| all_ways_by(Compiler::Ipvs, all));
    }
}
