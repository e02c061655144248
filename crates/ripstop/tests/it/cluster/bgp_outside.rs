//! Routers of others as peers of nodes with the backend `bgp`: what goes to them, what is taken, and what breaks.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use ripstop_lab::probe::Pairs;
use ripstop_lab::{Backend, Lab, Options, PodSpec, Target};
use serde_json::Value;

use super::bgp::{options, routes, sessions};
use super::routers::{Router, has_bird, has_frr};
use super::{apply, inside, ip, lab, pods, range_of, rows, talks, until};
use crate::fake::run;

/// BIRD at the middle, which speaks to both nodes and announces these prefixes.
fn bird_conf(asn: u32, announced: &[&str], more: &str) -> String {
    let statics: String = announced.iter().map(|prefix| format!("  route {prefix} unreachable;\n")).collect();
    let node = |n: u32| format!("protocol bgp n{n} from node {{ neighbor 172.30.1.1{n} as 64512; }}\n");
    format!(
        "log stderr all;\nrouter id 172.30.1.1;\nprotocol device {{}}\nprotocol bfd {{ interface \"*\" {{ interval 50 ms; multiplier 3; }}; }}\n\
         protocol kernel {{ merge paths on; ipv4 {{ import none; export where source = RTS_BGP; }}; }}\n\
         protocol static {{ ipv4;\n{statics}}}\n\
         template bgp node {{ local 172.30.1.1 as {asn}; graceful restart on; error wait time 1, 2; connect retry time 2; {more}\n  \
         ipv4 {{ import all; export where source = RTS_STATIC; next hop self; }}; }}\n{}{}",
        node(1),
        node(2)
    )
}

pub fn peer(name: &str, spec: &str) -> String {
    format!("---\napiVersion: ripstop.io/v1alpha1\nkind: BgpPeer\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}

pub fn configuration(spec: &str) -> String {
    format!("---\napiVersion: ripstop.io/v1alpha1\nkind: BgpConfiguration\nmetadata: {{name: default}}\nspec: {spec}\n")
}

pub fn filter(name: &str, prefix: &str) -> String {
    format!(
        "---\napiVersion: ripstop.io/v1alpha1\nkind: BgpFilter\nmetadata: {{name: {name}}}\nspec:\n  importV4:\n  - {{action: Accept, cidr: {prefix}, matchOperator: In}}\n"
    )
}

/// A node's row of a session.
pub fn session(lab: &Lab, node: u32, address: &str) -> Value {
    rows(lab, node, "/v1/bgp/peers").into_iter().find(|row| row["peer"] == address).unwrap_or(Value::Null)
}

fn stands(lab: &Lab, node: u32, address: &str) {
    until(&format!("node {node} has a session with {address}"), || {
        session(lab, node, address)["state"] == "established"
    });
}

fn because(lab: &Lab, node: u32, prefix: &str) -> String {
    let explained = lab.agent_json(node, &format!("/v1/bgp/explain/{prefix}")).unwrap();
    explained["paths"].to_string()
}

fn flaps(lab: &Lab, node: u32) -> Vec<(String, u64)> {
    let rows = rows(lab, node, "/v1/bgp/peers");
    rows.iter().map(|row| (row["peer"].to_string(), row["flaps"].as_u64().unwrap())).collect()
}

#[test]
fn a_router_learns_ranges_of_pods_and_nodes_take_what_filters_let_in_and_agents_may_die() {
    if !has_bird() {
        return;
    }
    let Some(lab) = lab(options("t-bgp-tor", 2)) else { return };
    pods(&lab);
    let mut tor = Router::at_the_middle(&lab);
    let told = ["172.31.0.0/24", "198.51.100.0/24", "10.244.77.0/24", "172.30.1.128/25", "0.0.0.0/0"];
    tor.bird(&bird_conf(65_000, &told, ""));
    apply(
        &lab,
        1,
        &(filter("outside", "172.31.0.0/24")
            + &peer("tor", "{peerIP: 172.30.1.1, asNumber: 65000, filters: [outside]}")),
    );
    for node in [1, 2] {
        stands(&lab, node, "172.30.1.1");
        until("what the filter lets in is in the kernel", || {
            let known = routes(&lab, node, "-4");
            known.lines().any(|line| line.starts_with("172.31.0.0/24 nhid") && line.contains("via 172.30.1.1 dev eth0"))
        });
        let known = routes(&lab, node, "-4");
        let refused = ["198.51.100", "10.244.77", "172.30.1.128", "default"];
        assert!(refused.iter().all(|prefix| !known.contains(prefix)), "{known}");
    }
    let ranges = [("172.30.1.11", range_of(&lab, "n1")), ("172.30.1.12", range_of(&lab, "n2"))];
    for (via, range) in &ranges {
        until("the router has a route by the range's own node alone", || {
            tor.ip("route show proto bird").contains(&format!("{range} via {via} dev sub1"))
        });
    }
    let why = because(&lab, 1, "198.51.100.0/24");
    assert!(why.contains("filter"), "{why}");

    // What would cut the cluster off is refused whatever filters say.
    apply(&lab, 1, &filter("outside", "0.0.0.0/0"));
    until("the default route is there", || routes(&lab, 1, "-4").contains("default nhid"));
    for (prefix, word) in [("10.244.77.0/24", "guard"), ("172.30.1.128/25", "guard")] {
        let why = because(&lab, 1, prefix);
        assert!(why.contains(word), "{prefix}: {why}");
        assert!(!routes(&lab, 1, "-4").contains(prefix));
    }
    assert_eq!(flaps(&lab, 1), [("\"172.30.1.1\"".to_owned(), 0), ("\"172.30.1.12\"".to_owned(), 0)]);

    // From outside to a pod by its own address, and back, while agents die.
    let out = |pod: &str| (Target::Outside, Target::Pod(pod.into()));
    let prober = lab.probe(200, &Pairs::Of(vec![out("p1"), out("p2")])).unwrap();
    let pairs = (Target::Pod("p1".into()), Target::Pod("p2".into()));
    let among = lab.probe(500, &Pairs::Of(vec![pairs.clone(), (pairs.1, pairs.0)])).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    for node in [1, 2] {
        lab.node(node).kill_agent(false).unwrap();
        std::thread::sleep(Duration::from_millis(1500));
        lab.wait_ready(&[1, 2], Duration::from_secs(10)).unwrap();
    }
    for node in [1, 2] {
        stands(&lab, node, "172.30.1.1");
    }
    std::thread::sleep(Duration::from_secs(2));
    for (report, what) in [(prober.stop().unwrap(), "from outside"), (among.stop().unwrap(), "between pods")] {
        assert!(report.sent > 500 && report.errors.is_empty(), "{what}: {report:?}");
        assert_eq!((report.lost, report.dup), (0, 0), "{what}: {report:?}");
    }
    drop(tor);
    lab.down().unwrap();
}

fn pool(name: &str, addresses: &str, way: &str) -> String {
    format!(
        "---\n{{apiVersion: ripstop.io/v1alpha1, kind: AddressPool, metadata: {{name: {name}}}, spec: {{addresses: [{addresses}], announce: [{{by: bgp, {way}}}]}}}}\n"
    )
}

fn service(name: &str, pool: &str, policy: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}, annotations: {{ripstop.io/address-pool: {pool}}}}}, spec: {{type: LoadBalancer, externalTrafficPolicy: {policy}, ports: [{{port: 80}}]}}}}\n"
    )
}

fn slice(name: &str, endpoints: &str) -> String {
    format!(
        "---\n{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: {name}, labels: {{kubernetes.io/service-name: {name}}}}}, addressType: IPv4, ports: [{{port: 80}}], endpoints: [{endpoints}]}}\n"
    )
}

/// What BIRD has of a prefix by each of two nodes.
fn ways(tor: &Router, prefix: &str) -> [Option<String>; 2] {
    let all = tor.birdc(&format!("show route {prefix} all"));
    [1, 2].map(|n| all.split("unicast [").find(|way| way.starts_with(&format!("n{n} "))).map(str::to_owned))
}

/// What nobody serves of addresses that are told of is refused, and goes round for nobody; what is served the node itself reaches, too.
fn refuses_what_nobody_serves(lab: &Lab) {
    for (address, why) in [("198.51.100.12", "which nobody has"), ("203.0.113.1", "where nobody serves this protocol")]
    {
        let ping = format!("ping -c 1 -W 2 {address}; true");
        let said = lab.exec(&Target::Outside, &["sh", "-c", &ping]).unwrap();
        assert!(said.contains("Destination Host Unreachable"), "{address}, {why}: {said}");
    }
    let served = inside(&lab.layout().netns_path("p2"), || {
        TcpListener::bind("0.0.0.0:80").and_then(|listener| listener.accept()).map(|_| ()).unwrap();
    });
    let from_node = inside(&lab.layout().netns_path("n1"), || {
        let to = "198.51.100.8:80".parse().unwrap();
        (0..50).any(|_| TcpStream::connect_timeout(&to, Duration::from_millis(200)).is_ok())
    });
    assert!(from_node.join().unwrap(), "a process of the node reaches an address of an aggregate");
    served.join().unwrap();
}

/// Another proxy takes over on both nodes.
fn hands_services_over(lab: &Lab) {
    let name = lab.layout().lab().to_owned();
    for node in ["1", "2"] {
        let ended = run(&["migrate", "proxy", "none", "--lab", &name, "--node", node]);
        assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
    }
}

/// Addresses of Services: told by nodes that can serve them, asked to be avoided before they are withdrawn, and only to whom they are for.
#[test]
fn a_router_has_ways_to_addresses_of_services_by_nodes_that_serve_them() {
    if !has_bird() {
        return;
    }
    let agent_config = serde_json::json!({"services": {"proxy": "nftables", "serviceCIDRs": ["10.96.0.0/16"]}});
    let Some(lab) = lab(Options { agent_config, ..options("t-bgp-lb", 2) }) else { return };
    pods(&lab);
    let mut tor = Router::at_the_middle(&lab);
    tor.bird(&bird_conf(65_000, &["172.31.0.0/24"], ""));
    let endpoint = |n: u32, conditions: &str| {
        let ip = ip(&lab, &format!("p{n}"));
        format!("{{addresses: [{ip}], nodeName: n{n}, conditions: {{{conditions}}}}}")
    };
    let (ready, ends) = ("ready: true", "ready: false, serving: true, terminating: true");
    let both = |first: &str| [endpoint(1, first), endpoint(2, ready)].join(", ");
    let manifest = [
        peer("tor", "{peerIP: 172.30.1.1, asNumber: 65000}"),
        pool("single", "203.0.113.1", "peers: [tor], communities: [\"64512:77\"]"),
        pool("whole", "198.51.100.8-198.51.100.9", "aggregationLength: 29"),
        pool("hidden", "192.0.2.9", "peers: [other]"),
        service("local", "single", "Local"),
        service("any", "whole", "Cluster"),
        service("secret", "hidden", "Cluster"),
        slice("local", &both(ready)),
        slice("any", &endpoint(2, ready)),
        slice("secret", &endpoint(2, ready)),
    ];
    apply(&lab, 1, &manifest.concat());
    let has = |way: &Option<String>, word: &str| way.as_ref().is_some_and(|way| way.contains(word));
    until("both nodes tell of the address", || {
        ways(&tor, "203.0.113.1/32").iter().all(|way| has(way, "(64512,77)") && !has(way, "(65535,0)"))
    });
    until("and of the prefix", || ways(&tor, "198.51.100.8/29").iter().all(Option::is_some));
    assert_eq!(ways(&tor, "192.0.2.9/32"), [None, None], "what is for another peer");
    refuses_what_nobody_serves(&lab);
    let between = because(&lab, 1, "203.0.113.1/32");
    assert!(!between.contains("172.30.1.12"), "nodes do not tell each other: {between}");

    hands_services_over(&lab);

    // The endpoint of one node ends: routers prefer the other, and then have it alone.
    apply(&lab, 1, &slice("local", &both(ends)));
    until("it asks to be avoided", || {
        let [one, two] = ways(&tor, "203.0.113.1/32");
        has(&one, "(65535,0)") && has(&two, "(64512,77)") && !has(&two, "(65535,0)")
    });
    apply(&lab, 1, &slice("local", &endpoint(2, ready)));
    until("it is withdrawn", || {
        let [one, two] = ways(&tor, "203.0.113.1/32");
        one.is_none() && two.is_some()
    });
    let row = |node| {
        let rows = rows(&lab, node, "/v1/loadbalancers");
        rows.into_iter().find(|row| row["name"] == "local").unwrap()
    };
    assert_eq!((&row(2)["told"], &row(1)["told"]), (&"203.0.113.1/32 with 64512:77".into(), &Value::Null));
    apply(&lab, 1, &(slice("local", "") + &slice("any", &endpoint(2, "ready: false, serving: false"))));
    for prefix in ["203.0.113.1/32", "198.51.100.8/29"] {
        until("nobody serves it, and nobody tells of it", || ways(&tor, prefix).iter().all(Option::is_none));
    }
    assert!(flaps(&lab, 1).iter().chain(&flaps(&lab, 2)).all(|(_, flaps)| *flaps == 0), "no session began anew");
    drop(tor);
    lab.down().unwrap();
}

#[test]
fn packets_are_spread_over_two_routers_and_bfd_takes_the_silent_one_out() {
    if !has_bird() || !has_frr() {
        return;
    }
    let Some(lab) = lab(options("t-bgp-ecmp", 2)) else { return };
    pods(&lab);
    let mut one = Router::at_the_middle(&lab);
    one.bird(&bird_conf(65_000, &["203.0.113.0/24"], "bfd on;"));
    one.ip("addr add 203.0.113.1/32 dev lo");
    let mut two = Router::beside(&lab, "tor2", "172.30.1.2");
    two.ip("addr add 203.0.113.1/32 dev lo");
    let neighbour = |n: u32| format!(" neighbor 172.30.1.1{n} remote-as 64512\n neighbor 172.30.1.1{n} bfd 3 50 50\n");
    two.frr(&format!(
        "router bgp 65000\n bgp router-id 172.30.1.2\n no bgp ebgp-requires-policy\n no bgp network import-check\n{}{} address-family ipv4 unicast\n  network 203.0.113.0/24\n",
        neighbour(1),
        neighbour(2)
    ));
    let spec = |address: &str| {
        format!(
            "{{peerIP: {address}, asNumber: 65000, filters: [any], bfd: {{transmitIntervalMs: 50, receiveIntervalMs: 50, multiplier: 3}}}}"
        )
    };
    apply(
        &lab,
        1,
        &(filter("any", "203.0.113.0/24") + &peer("one", &spec("172.30.1.1")) + &peer("two", &spec("172.30.1.2"))),
    );
    let ways = || {
        let all = routes(&lab, 1, "-4");
        let mine = all.lines().skip_while(|line| !line.starts_with("203.0.113.0/24"));
        let mine: Vec<&str> =
            mine.enumerate().take_while(|(n, line)| *n == 0 || line.starts_with('\t')).map(|(_, line)| line).collect();
        let mine = mine.join(" ");
        (mine.contains("via 172.30.1.1 "), mine.contains("via 172.30.1.2 "))
    };
    until("both are used", || ways() == (true, true));
    until("BFD is up to both", || ["172.30.1.1", "172.30.1.2"].iter().all(|to| session(&lab, 1, to)["bfd"] == "up"));
    let group = lab.exec(&Target::Node(1), &["ip", "nexthop", "show"]).unwrap();
    assert!(group.lines().any(|line| line.contains(" group ") && line.contains("proto 82")), "{group}");
    assert!(lab.exec(&Target::Pod("p1".into()), &["ping", "-c", "1", "-W", "1", "203.0.113.1"]).is_ok());

    // Nothing gets in or out, and no link goes down.
    two.run("nft", &["add table inet cut; add chain inet cut in { type filter hook ingress device eth0 priority 0; policy drop; }".replace("inet", "netdev").as_str()]);
    let cut = Instant::now();
    until("the silent one is out", || ways() == (true, false));
    println!("the silent one was out after {} ms", cut.elapsed().as_millis());
    assert!(cut.elapsed() < Duration::from_millis(1_500), "{:?}", cut.elapsed());
    for _ in 0..5 {
        assert!(lab.exec(&Target::Pod("p1".into()), &["ping", "-c", "1", "-W", "1", "203.0.113.1"]).is_ok());
    }
    two.run("nft", &["delete table netdev cut"]);
    until("it is back", || ways() == (true, true));
    let other = session(&lab, 1, "172.30.1.1");
    assert_eq!((&other["state"], &other["flaps"]), (&"established".into(), &0.into()), "{other}");
    drop((one, two));
    lab.down().unwrap();
}

#[test]
fn reflectors_are_chosen_and_changed_live_and_nothing_is_lost() {
    let Some(lab) = lab(options("t-bgp-rr", 3)) else { return };
    pods(&lab);
    let label = |node: u32, value: &str| {
        apply(
            &lab,
            1,
            &format!("apiVersion: v1\nkind: Node\nmetadata: {{name: n{node}, labels: {{reflector: \"{value}\"}}}}\n"),
        );
    };
    label(1, "yes");
    let prober = lab.probe(500, &Pairs::All).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let configure = |spec: &str| apply(&lab, 1, &configuration(spec));
    let has = |node: u32, peers: &[u32]| {
        let all: Vec<(String, String)> =
            peers.iter().map(|peer| (format!("172.30.1.1{peer}"), "established".to_owned())).collect();
        super::patiently(&format!("node {node} speaks with {peers:?}"), || sessions(&lab, node) == all);
    };
    configure("{routeReflectors: {nodeSelector: {matchLabels: {reflector: \"yes\"}}}}");
    has(1, &[2, 3]);
    has(2, &[1]);
    has(3, &[1]);
    label(2, "yes");
    has(3, &[1, 2]);
    label(1, "no");
    has(1, &[2]);
    has(3, &[2]);
    configure("{}");
    has(1, &[2, 3]);
    has(2, &[1, 3]);
    std::thread::sleep(Duration::from_millis(500));
    let report = prober.stop().unwrap();
    assert!(report.sent > 1000 && report.errors.is_empty(), "{report:?}");
    assert_eq!((report.lost, report.dup), (0, 0), "{report:?}");
    lab.down().unwrap();
}

#[test]
fn what_is_wrong_with_a_peer_is_said_and_no_other_session_ends() {
    if !has_bird() {
        return;
    }
    let Some(lab) = lab(options("t-bgp-bad", 2)) else { return };
    let mut tor = Router::at_the_middle(&lab);
    tor.bird(&bird_conf(65_000, &["203.0.113.0/24"], "password \"word\";"));
    let reason = |words: &str| {
        super::patiently(words, || {
            let row = session(&lab, 1, "172.30.1.1");
            row["state"] != "established" && row["reason"].as_str().is_some_and(|why| why.contains(words))
        });
    };
    let key = lab.layout().dir().join("bgp-key");
    let with_key = |asn: u32, more: &str| {
        let path = key.display();
        peer("tor", &format!("{{peerIP: 172.30.1.1, asNumber: {asn}, password: {{file: {path}}}, {more}}}"))
    };
    apply(&lab, 1, &with_key(65_000, ""));
    reason("cannot be read");
    std::fs::write(&key, "word\n").unwrap();
    // Another one is read when something changes.
    apply(&lab, 1, &with_key(65_000, "maxPrefixes: 10"));
    stands(&lab, 1, "172.30.1.1");
    apply(&lab, 1, &with_key(65_001, ""));
    reason("AS");
    apply(&lab, 1, &(filter("none", "192.0.2.0/24") + &with_key(65_000, "filters: [none]")));
    stands(&lab, 1, "172.30.1.1");
    until("the filter says why", || because(&lab, 1, "203.0.113.0/24").contains("filter"));
    assert!(!routes(&lab, 1, "-4").contains("203.0.113"));
    apply(&lab, 1, &with_key(65_000, "filters: [missing]"));
    until("a filter that is not there is named", || {
        lab.agent_json(1, "/v1/status").unwrap()["warnings"].to_string().contains("there is no BgpFilter missing")
    });
    let mesh = session(&lab, 1, "172.30.1.12");
    assert_eq!((&mesh["state"], &mesh["flaps"]), (&"established".into(), &0.into()), "{mesh}");

    // The objects say it as well.
    let object = |kind: &str, name: &str| {
        let there = rows(&lab, 1, kind);
        there.into_iter().find(|row| row["name"] == name).unwrap_or(Value::Null)
    };
    let tor_row = object("/v1/bgppeers", "tor");
    assert!(tor_row["reason"].as_str().is_some_and(|why| why.contains("BgpFilter missing")), "{tor_row}");
    assert_eq!((&tor_row["peer"], &tor_row["sessions"]), (&"172.30.1.1".into(), &"1/1".into()), "{tor_row}");
    apply(&lab, 1, &configuration("{asNumber: 64512}"));
    until("what holds for all is known", || object("/v1/bgpconfigurations", "default") != Value::Null);
    let default = object("/v1/bgpconfigurations", "default");
    assert_eq!((&default["as"], &default["sessions"]), (&64_512.into(), &"1/1".into()), "{default}");
    assert_eq!(object("/v1/bgpfilters", "none")["reason"], "no BgpPeer names it");
    let told = lab.agent_json(1, "/v1/describe/bgppeer/tor").unwrap()["text"].to_string();
    assert!(told.contains("BgpFilter missing") && told.contains("Session 172.30.1.1: established, AS 65000"), "{told}");
    drop(tor);
    lab.down().unwrap();
}

/// That the node of each rack has the router at its top as a peer.
fn tops_of_racks() -> String {
    let top = |node: u32| {
        peer(&format!("rack{node}"), &format!("{{node: n{node}, peerIP: 172.30.{node}.1, asNumber: 64512}}"))
    };
    top(1) + &top(2)
}

#[test]
fn auto_needs_no_tunnel_as_long_as_routers_know_where_pods_are() {
    if !has_bird() {
        return;
    }
    let options = Options { backend: Backend::Auto, subnets: 2, network_spec: Value::Null, ..options("t-bgp-auto", 2) };
    let Some(lab) = lab(options) else { return };
    pods(&lab);
    let are_all = |backend: &str, device: &str| {
        let mut paths = [1, 2].into_iter().flat_map(|node| rows(&lab, node, "/v1/paths"));
        paths.all(|path| path["backend"] == backend && path["device"] == device && path["state"] == "realised")
    };
    until("packets are wrapped", || are_all("vxlan", "ript1"));
    let prober = lab.probe(200, &Pairs::All).unwrap();
    let tor = Router::of_racks(&lab);
    apply(&lab, 1, &tops_of_racks());
    super::patiently("packets go as they are, by the routers", || are_all("bgp", "eth0"));
    std::thread::sleep(Duration::from_secs(1));
    // It is killed, and what it made in its kernel stays.
    drop(tor);
    super::patiently("packets are wrapped again", || are_all("vxlan", "ript1"));
    std::thread::sleep(Duration::from_secs(1));
    let report = prober.stop().unwrap();
    assert!(report.sent > 500 && report.errors.is_empty(), "{report:?}");
    assert_eq!((report.lost, report.dup), (0, 0), "{report:?}");
    lab.down().unwrap();
}

/// A peer that says it is of that AS and has that router id.
fn open(asn: u16, router_id: [u8; 4]) -> Vec<u8> {
    [&[0xff; 16][..], &[0, 29, 1, 4], &asn.to_be_bytes(), &[0, 180], &router_id, &[0]].concat()
}

#[test]
fn who_cannot_be_a_peer_is_told_and_the_node_says_why() {
    let Some(lab) = lab(options("t-bgp-who", 2)) else { return };
    apply(&lab, 1, &peer("by-hand", "{node: n1, peerIP: 172.30.1.1, asNumber: internal, passive: true}"));
    let cases = [
        (open(0, [9, 9, 9, 9]), "the peer says it is AS 0, which nobody may be", [2, 2]),
        (open(64_512, [172, 30, 1, 11]), "the peer has this node's router id 172.30.1.11", [2, 3]),
        (open(65_009, [9, 9, 9, 9]), "the peer says it is AS 65009, configured is this node's own, 64512", [2, 2]),
    ];
    for (open, words, told) in cases {
        let mut heard = Vec::new();
        super::patiently(words, || {
            // Behind each failure the node rests for a while.
            let (router, open) = (lab.layout().netns_path("router"), open.clone());
            let talk = move || {
                let mut stream = TcpStream::connect("172.30.1.11:179").unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                let mut heard = Vec::new();
                // Who hangs up at once takes nothing.
                let _ = stream.write_all(&open).and_then(|()| stream.read_to_end(&mut heard));
                heard
            };
            heard = super::inside(&router, talk).join().unwrap();
            session(&lab, 1, "172.30.1.1")["reason"].as_str().is_some_and(|why| why.contains(words))
        });
        // The node's OPEN, then a NOTIFICATION.
        let last = heard.windows(19).rposition(|window| window[..16] == [0xff; 16] && window[18] == 3);
        assert!(last.is_some_and(|at| heard[at + 19..].starts_with(&told)), "{words}: {heard:?}");
        assert_ne!(session(&lab, 1, "172.30.1.1")["state"], "established");
    }
    let mesh = session(&lab, 1, "172.30.1.12");
    assert_eq!((&mesh["state"], &mesh["flaps"]), (&"established".into(), &0.into()), "{mesh}");
    lab.down().unwrap();
}

#[test]
fn racks_with_routers_between_them_need_no_mesh() {
    if !has_bird() {
        return;
    }
    let Some(lab) = lab(Options { subnets: 2, network_spec: Value::Null, ..options("t-bgp-racks", 2) }) else { return };
    let tor = Router::of_racks(&lab);
    apply(&lab, 1, &(configuration("{nodeToNodeMeshEnabled: false}") + &tops_of_racks()));
    for node in [1, 2] {
        lab.pod_add(&PodSpec::new(&format!("p{node}"), node)).unwrap();
    }
    super::patiently("pods of both racks reach each other", || talks(&lab, "p1", "p2") && talks(&lab, "p2", "p1"));
    let capture = lab.capture(&Target::Node(2), Some("eth0")).unwrap();
    assert!(talks(&lab, "p1", "p2"));
    std::thread::sleep(Duration::from_millis(100));
    let source: std::net::Ipv4Addr = ip(&lab, "p1").parse().unwrap();
    let bare = capture.stop().unwrap();
    let bare = bare.iter().filter(|packet| packet.data.get(26..30) == Some(&source.octets()[..])).count();
    assert!(bare > 0, "pods' packets travel as they are");
    drop(tor);
    lab.down().unwrap();
}

#[test]
fn a_network_goes_to_bgp_and_back_and_loses_nothing() {
    let Some(lab) = lab(Options { backend: Backend::Vxlan, ..options("t-bgp-mig", 2) }) else { return };
    pods(&lab);
    let prober = lab.probe(500, &Pairs::All).unwrap();
    for (backend, shown) in [("bgp", "bgp"), ("vxlan", "vxlan")] {
        let ended = crate::fake::run(&[
            "migrate",
            "backend",
            backend,
            "--lab",
            lab.layout().lab(),
            "--node",
            "1",
            "--timeout",
            "60s",
        ]);
        assert_eq!(ended.code, Some(0), "{backend}: {}{}", ended.stdout, ended.stderr);
        let paths = rows(&lab, 1, "/v1/paths");
        assert!(paths.iter().all(|path| path["backend"] == shown && path["state"] == "realised"), "{paths:?}");
    }
    let report = prober.stop().unwrap();
    assert!(report.sent > 1000 && report.errors.is_empty(), "{report:?}");
    assert_eq!((report.lost, report.dup), (0, 0), "{report:?}");
    lab.down().unwrap();
}

#[test]
fn a_hundred_changes_reach_the_router_and_no_session_ends() {
    if !has_bird() {
        return;
    }
    let Some(lab) = lab(options("t-bgp-many", 2)) else { return };
    let mut tor = Router::at_the_middle(&lab);
    tor.bird(&bird_conf(65_000, &["203.0.113.0/24"], ""));
    apply(&lab, 1, &peer("tor", "{peerIP: 172.30.1.1, asNumber: 65000}"));
    stands(&lab, 1, "172.30.1.1");
    stands(&lab, 2, "172.30.1.1");
    let range = range_of(&lab, "n1");
    let mut slowest = Duration::ZERO;
    for n in 1..=100 {
        let advertised = format!("{{prefixAdvertisements: [{{cidr: 10.244.0.0/16, communities: [\"64512:{n}\"]}}]}}");
        apply(&lab, 1, &configuration(&advertised));
        let begun = Instant::now();
        let words = format!("(64512,{n})");
        until(&words, || tor.birdc(&format!("show route {range} all")).contains(&words));
        slowest = slowest.max(begun.elapsed());
    }
    println!("the slowest of a hundred changes was seen by BIRD {} ms after it was applied", slowest.as_millis());
    for node in [1, 2] {
        assert!(flaps(&lab, node).iter().all(|(_, flaps)| *flaps == 0), "{:?}", flaps(&lab, node));
    }
    drop(tor);
    lab.down().unwrap();
}
