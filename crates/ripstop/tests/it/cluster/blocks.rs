//! Range mode `blocks` on real packets: as many pods as addresses over three nodes, borrowed across nodes, agents killed in
//! between, pods that come and go; a pod in two networks.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ripstop_lab::probe::Pairs;
use ripstop_lab::{Backend, Lab, Options, PodSpec, RangeMode};
use serde_json::{Value, json};

use super::{lab, rows, until};

/// 16 addresses in four blocks; the nodes' own addresses lie elsewhere.
fn tiny(name: &str, backend: Backend, subnets: u32) -> Options {
    Options {
        nodes: 3,
        subnets,
        backend,
        range_mode: RangeMode::Blocks,
        network_spec: json!({
            "ranges": ["10.99.0.0/28"],
            "cooldownSeconds": 0,
            "blocks": { "len": { "v4": 30 }, "nodeRanges": ["10.98.0.0/24"] },
        }),
        ..Options::named(name)
    }
}

/// Adds a pod as a runtime does, which tries again what did not work for want of an address, or of an agent.
fn add(lab: &Lab, pod: &str, node: u32) -> IpAddr {
    let begun = Instant::now();
    loop {
        match lab.pod_add(&PodSpec::new(pod, node)) {
            Ok(made) => return made.ips()[0],
            Err(error) if begun.elapsed() > Duration::from_secs(60) => panic!("{pod}: {error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(200)),
        }
    }
}

fn states(lab: &Lab) -> BTreeMap<String, (String, String)> {
    let ipam = lab.agent_json(1, "/v1/ipam").unwrap();
    let text = |row: &Value, field: &str| row[field].as_str().unwrap_or_default().to_owned();
    let claims = ipam["claims"].as_array().unwrap().iter();
    claims.map(|row| (text(row, "range"), (text(row, "state"), text(row, "node")))).collect()
}

fn borrowed(lab: &Lab) -> BTreeSet<String> {
    states(lab).into_iter().filter(|(_, (state, _))| state == "borrowed").map(|(range, _)| range).collect()
}

/// Every pod reaches every other.
fn all_reach_all(lab: &Lab, what: &str) {
    let begun = Instant::now();
    loop {
        let prober = lab.probe(20, &Pairs::All).unwrap();
        std::thread::sleep(Duration::from_millis(500));
        let report = prober.stop().unwrap();
        if report.sent > 0 && report.lost == 0 && report.errors.is_empty() {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}: {report:?}");
    }
}

#[test]
fn every_address_of_a_pool_by_vxlan() {
    every_address("t-blocks-v", Backend::Vxlan, 2);
}

#[test]
fn every_address_of_a_pool_by_host_gw() {
    every_address("t-blocks-h", Backend::HostGw, 1);
}

fn every_address(name: &str, backend: Backend, subnets: u32) {
    let Some(lab) = lab(tiny(name, backend, subnets)) else { return };
    // Twelve of sixteen pods are on the first node, whose agent dies between them.
    let node_of = |n: u32| if n < 12 { 1 } else { 2 + n % 2 };
    let mut pods: BTreeMap<String, IpAddr> = BTreeMap::new();
    for n in 0..16 {
        let pod = format!("p{n}");
        let ip = add(&lab, &pod, node_of(n));
        pods.insert(pod, ip);
        if n % 5 == 4 {
            for node in 1..=3 {
                lab.node(node).kill_agent(false).unwrap();
            }
        }
    }
    let ips: BTreeSet<IpAddr> = pods.values().copied().collect();
    assert_eq!(ips.len(), 16, "{pods:?}");
    lab.wait_ready(&[1, 2, 3], Duration::from_secs(20)).unwrap();
    all_reach_all(&lab, "as many pods as addresses");
    let lent = borrowed(&lab);
    assert!(lent.len() >= 4, "{:?}", states(&lab));
    // What is borrowed is a route of its own on every other node, and a row of `get leases`.
    let range = lent.first().unwrap();
    let holder = &states(&lab)[range].1;
    let routes = |node| rows(&lab, node, "/v1/routes").iter().any(|row| row["dst"] == **range);
    until("the route on all nodes", || (1..=3).all(routes));
    let leased = || rows(&lab, 2, "/v1/leases").iter().any(|row| row["range"] == **range && row["node"] == **holder);
    until("the lease of the borrowed address", leased);
    let problems = lab.agent_json(1, "/v1/ipam/check").unwrap();
    let severe = |row: &&Value| row["severity"] == "error";
    assert!(problems["problems"].as_array().unwrap().iter().find(severe).is_none(), "{problems}");
    // Pods go and come on other nodes, with agents killed in between; every address is found again.
    for round in 0..3u32 {
        for n in [round, round + 4, round + 8] {
            lab.pod_del(&format!("p{n}")).unwrap();
            lab.node(1 + n % 3).kill_agent(false).unwrap();
            let ip = add(&lab, &format!("p{n}"), 1 + (node_of(n) + round) % 3);
            pods.insert(format!("p{n}"), ip);
        }
        let ips: BTreeSet<IpAddr> = pods.values().copied().collect();
        assert_eq!(ips.len(), 16, "round {round}: {pods:?}");
    }
    lab.wait_ready(&[1, 2, 3], Duration::from_secs(20)).unwrap();
    all_reach_all(&lab, "after pods went and came");
    // All go: nothing is lent or borrowed any more, and no pod is left.
    for pod in pods.keys() {
        lab.pod_del(pod).unwrap();
    }
    until("nothing is borrowed", || {
        std::thread::sleep(Duration::from_millis(500));
        borrowed(&lab).is_empty()
    });
    for node in 1..=3 {
        assert_eq!(rows(&lab, node, "/v1/pods"), Vec::<Value>::new());
    }
    lab.down().unwrap();
}

/// As `ripstop lab up --range-mode blocks --block-length 29 --pool 10.60.0.0/24,namespace=team-a,label=tier=db` has it.
#[test]
fn a_lab_has_the_block_length_and_the_pools_it_was_told() {
    let options = Options {
        nodes: 2,
        range_mode: RangeMode::Blocks,
        block_lengths: vec![29],
        pools: vec!["10.60.0.0/24,namespace=team-a,label=tier=db".parse().unwrap()],
        ..Options::named("t-blocks-opt")
    };
    let Some(lab) = lab(options) else { return };
    for node in [1, 2] {
        let labels = [("tier".to_owned(), "db".to_owned())].into();
        let spec = PodSpec { namespace: "team-a".into(), labels, ..PodSpec::new(&format!("db{node}"), node) };
        let IpAddr::V4(ip) = lab.pod_add(&spec).unwrap().ips()[0] else { panic!("IPv4") };
        assert_eq!(ip.octets()[..3], [10, 60, 0], "a pod of the pool");
        let IpAddr::V4(ip) = add(&lab, &format!("p{node}"), node) else { panic!("IPv4") };
        assert_eq!(ip.octets()[..2], [10, 244], "another pod");
    }
    let states = states(&lab);
    let blocks = states.keys().filter(|range| range.ends_with("/29")).count();
    assert_eq!(blocks, 4, "a block a node and pool: {states:?}");
    all_reach_all(&lab, "two pools");
    lab.down().unwrap();
}

/// The same with a thousand pods of ten nodes, an agent killed behind every other pod.
#[test]
#[ignore = "long: a thousand pods, and agents killed all the time"]
fn a_thousand_pods_have_a_thousand_addresses() {
    let spec = json!({
        "ranges": ["10.99.0.0/22"],
        "exclude": ["10.99.1.0/28", "10.99.3.248/29"],
        "cooldownSeconds": 0,
        "blocks": { "nodeRanges": ["10.98.0.0/24"] },
    });
    let options = Options { nodes: 10, network_spec: spec, ..tiny("t-blocks-1000", Backend::Vxlan, 1) };
    let Some(lab) = lab(Options { ready_timeout: Duration::from_secs(120), ..options }) else { return };
    let mut ips = BTreeSet::new();
    for n in 0..1_000u32 {
        // Two of three pods are on the first three nodes, which must borrow.
        let node = if n % 3 < 2 { 1 + n % 3 } else { 1 + n / 3 % 10 };
        assert!(ips.insert(add(&lab, &format!("p{n}"), node)), "pod {n} has an address twice");
        if n % 2 == 1 {
            lab.node(1 + n / 2 % 10).kill_agent(false).unwrap();
        }
    }
    assert_eq!(ips.len(), 1_000);
    for n in 0..1_000 {
        let begun = Instant::now();
        while let Err(error) = lab.pod_del(&format!("p{n}")) {
            assert!(begun.elapsed() < Duration::from_secs(60), "p{n}: {error}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
    let begun = Instant::now();
    while !borrowed(&lab).is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(120), "{:?}", borrowed(&lab));
        std::thread::sleep(Duration::from_secs(1));
    }
    lab.down().unwrap();
}
