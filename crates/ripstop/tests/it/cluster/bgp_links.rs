//! Peers of nodes with the backend `bgp` that are whoever is on a link: nothing there has an address but those of the link itself.

use std::time::{Duration, Instant};

use ripstop_lab::{Families, Lab, Options, PodSpec, Target};

use super::bgp::{options, routes};
use super::bgp_outside::{configuration, filter, peer, session};
use super::routers::{Router, has_bird, has_frr};
use super::{apply, ip, lab, patiently, pods, range_of, rows, talks, until};

/// A link-local address, once it may be used.
fn link_local(shown: impl Fn() -> String) -> String {
    let mut found = None;
    until("the link has its address", || {
        let shown = shown();
        found = shown.split_whitespace().skip_while(|word| *word != "inet6").nth(1).map(str::to_owned);
        found.is_some()
    });
    found.unwrap().split('/').next().unwrap().to_owned()
}

fn of_node(lab: &Lab, node: u32, link: &str) -> String {
    let line = ["ip", "-6", "-o", "addr", "show", "dev", link, "scope", "link", "-tentative"];
    link_local(|| lab.exec(&Target::Node(node), &line).unwrap())
}

/// Gives the router an address of the world, and ways to the nodes' own addresses: pods are seen by these.
fn has_the_world(lab: &Lab, leaf: &Router, nodes: &[u32]) {
    leaf.ip("addr add 203.0.113.1/32 dev lo");
    nodes.iter().for_each(|node| has_a_way(lab, leaf, *node));
}

fn has_a_way(lab: &Lab, leaf: &Router, node: u32) {
    let by = of_node(lab, node, "leaf");
    leaf.ip(&format!("route replace 172.30.1.1{node}/32 via inet6 {by} dev to{node}"));
}

fn stands(lab: &Lab, node: u32) {
    patiently(&format!("node {node} speaks with whoever is on its link"), || {
        session(lab, node, "leaf")["state"] == "established"
    });
}

fn pings(lab: &Lab, pod: &str, to: &str) -> bool {
    lab.exec(&Target::Pod(pod.into()), &["ping", "-c", "1", "-W", "1", to]).is_ok()
}

/// FRR that speaks with both nodes, as AS 65000.
fn frr_leaf(lab: &Lab) -> Router {
    let mut leaf = Router::on_links(lab, "leaf", &[1, 2]);
    has_the_world(lab, &leaf, &[1, 2]);
    leaf.frr(
        "router bgp 65000\n bgp router-id 203.0.113.1\n no bgp ebgp-requires-policy\n no bgp network import-check\n \
         neighbor to1 interface remote-as external\n neighbor to2 interface remote-as external\n \
         address-family ipv4 unicast\n  network 203.0.113.0/24\n",
    );
    leaf
}

/// BIRD that does, as AS 65009. It advertises itself on one of the links only, and connects to the node on the other one.
fn bird_leaf(lab: &Lab) -> Router {
    let mut leaf = Router::on_links(lab, "leaf", &[1, 2]);
    has_the_world(lab, &leaf, &[1, 2]);
    let neighbour = |node: u32, more: &str| {
        let ours = of_node(lab, node, "leaf");
        format!("protocol bgp n{node} from node {{ neighbor {ours}%to{node} as 64512; {more} }}\n")
    };
    leaf.bird(&format!(
        "log stderr all;\nrouter id 203.0.113.2;\nprotocol device {{}}\n\
         protocol radv {{ interface \"to1\" {{ default lifetime 0; min ra interval 3; max ra interval 4; }}; }}\n\
         protocol kernel {{ ipv4 {{ import none; export where source = RTS_BGP; }}; }}\n\
         protocol static {{ ipv4; route 203.0.113.0/24 unreachable; }}\n\
         template bgp node {{ local as 65009; error wait time 1, 2; connect retry time 1;\n  \
         ipv4 {{ import all; export where source = RTS_STATIC; extended next hop on; }}; }}\n{}{}",
        neighbour(1, "passive on;"),
        neighbour(2, "")
    ));
    leaf
}

/// A node's packets go by the leaf, at an address of the other family, and nothing is left to do.
fn goes_by(lab: &Lab, leaf: &Router, node: u32) {
    let theirs = link_local(|| leaf.ip(&format!("-6 -o addr show dev to{node} scope link -tentative")));
    let row = session(lab, node, "leaf");
    assert_eq!((&row["interface"], &row["address"]), (&"leaf".into(), &theirs.as_str().into()), "{row}");
    let way = format!("via inet6 {theirs} dev leaf");
    until("the route is in the kernel", || {
        let known = routes(lab, node, "-4");
        known.lines().any(|line| line.starts_with("203.0.113.0/24 nhid") && line.contains(&way))
    });
    until("pods reach the world", || pings(lab, &format!("p{node}"), "203.0.113.1"));
    until("nothing is left to do", || rows(lab, node, "/v1/plan").is_empty());
}

fn says(lab: &Lab, words: &str) {
    until(words, || {
        let row = session(lab, 1, "leaf");
        row["state"] != "established" && row["reason"].as_str().is_some_and(|why| why.contains(words))
    });
}

#[test]
fn a_leaf_without_addresses_carries_packets_and_is_exchanged_and_comes_back() {
    if !has_bird() || !has_frr() {
        return;
    }
    let Some(lab) = lab(options("t-bgp-link", 2)) else { return };
    pods(&lab);
    let spec = "{interface: leaf, asNumber: external, filters: [world]}";
    apply(&lab, 1, &(filter("world", "203.0.113.0/24") + &peer("leaf", spec)));
    says(&lab, "this node has no link leaf");
    let leaf = frr_leaf(&lab);
    for node in [1, 2] {
        stands(&lab, node);
        goes_by(&lab, &leaf, node);
    }
    let range = range_of(&lab, "n1");
    until("the leaf has the node's range by the link", || {
        leaf.ip(&format!("-4 route show {range}")).contains(&format!("via inet6 {}", of_node(&lab, 1, "leaf")))
    });
    leaf.run("ping", &["-c", "1", "-W", "1", "-I", "203.0.113.1", &ip(&lab, "p1")]);

    // The link of one node goes and comes back; the other one is not touched.
    leaf.ip("link set to1 down");
    let cut = Instant::now();
    says(&lab, "the link leaf is down");
    // By the mesh the other node tells it how it gets there.
    until("and the way", || !routes(&lab, 1, "-4").contains("dev leaf"));
    println!("a link that went took its route along in {} ms", cut.elapsed().as_millis());
    leaf.ip("link set to1 up");
    stands(&lab, 1);
    has_a_way(&lab, &leaf, 1);
    until("pods reach the world again", || pings(&lab, "p1", "203.0.113.1"));
    assert_eq!(session(&lab, 2, "leaf")["flaps"], 0);

    // Another machine in its place.
    leaf.remove();
    let leaf = bird_leaf(&lab);
    for node in [1, 2] {
        patiently("the other machine is the peer", || {
            let row = session(&lab, node, "leaf");
            row["state"] == "established" && row["as"] == 65_009
        });
        goes_by(&lab, &leaf, node);
    }
    let mesh = session(&lab, 1, "172.30.1.12");
    assert_eq!((&mesh["state"], &mesh["flaps"]), (&"established".into(), &0.into()), "{mesh}");
    leaf.remove();
    lab.down().unwrap();
}

#[test]
fn nodes_find_each_other_on_a_link_and_pods_packets_go_by_it() {
    let Some(lab) = lab(Options { families: Families::Dual, ..options("t-bgp-pair", 2) }) else { return };
    let there = lab.layout().netns("n2");
    for (node, line) in [
        (1, format!("link add pair type veth peer name pair netns {there}")),
        (1, "link set pair up".to_owned()),
        (2, "link set pair up".to_owned()),
    ] {
        let words: Vec<&str> = ["ip"].into_iter().chain(line.split(' ')).collect();
        lab.exec(&Target::Node(node), &words).unwrap();
    }
    let bfd = "bfd: {transmitIntervalMs: 100, receiveIntervalMs: 100, multiplier: 5}";
    apply(
        &lab,
        1,
        &(configuration("{nodeToNodeMeshEnabled: false}")
            + &peer("pair", &format!("{{interface: pair, asNumber: internal, {bfd}}}"))),
    );
    for node in [1, 2] {
        lab.pod_add(&PodSpec::new(&format!("p{node}"), node)).unwrap();
    }
    patiently("pods reach each other", || talks(&lab, "p1", "p2") && talks(&lab, "p2", "p1"));
    for node in [1, 2] {
        until("BFD is up", || session(&lab, node, "pair")["bfd"] == "up");
        for family in ["-4", "-6"] {
            // Sessions of the mesh go on for some seconds.
            patiently("all ranges of the other one go by the link alone", || {
                let known = routes(&lab, node, family);
                let by = |link: &str| known.lines().any(|line| line.contains("via") && line.contains(link));
                by("dev pair") && known.contains("fe80::") && !by("dev eth0")
            });
        }
        until("nothing is left to do", || rows(&lab, node, "/v1/plan").is_empty());
    }
    let capture = lab.capture(&Target::Node(2), Some("pair")).unwrap();
    let addresses: Vec<String> = lab.state().unwrap().pods["p2"].ips().iter().map(ToString::to_string).collect();
    for address in &addresses {
        assert!(pings(&lab, "p1", address), "{address}");
    }
    std::thread::sleep(Duration::from_millis(200));
    let packets = capture.stop().unwrap();
    let source: std::net::Ipv4Addr = ip(&lab, "p1").parse().unwrap();
    let seen = packets.iter().filter(|packet| packet.data.get(26..30) == Some(&source.octets()[..])).count();
    assert!(addresses.len() == 2 && seen > 0, "pods' packets go by the link, as they are");
    lab.down().unwrap();
}
