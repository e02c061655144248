//! Addresses of Services told by BGP in both families, to BIRD as another AS and to FRR as a peer of the nodes' own: who tells whom of what,
//! and what a client's flow loses while a node is drained.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ripstop_lab::{Families, Lab, Options};
use serde_json::Value;

use super::bgp::options;
use super::bgp_outside::{peer, session};
use super::routers::{Router, has_bird, has_frr};
use super::{apply, inside, lab, patiently, pods, rows};

const MS: Duration = Duration::from_millis(1);

const NODES: [u32; 2] = [1, 2];
const READY: &str = "ready: true";
const ENDS: &str = "ready: false, serving: true, terminating: true";
const UNREADY: &str = "ready: false, serving: false";

/// BIRD at the middle, with a session of each family with both nodes; it asks to be told who is to be avoided, and does.
fn bird_conf() -> String {
    let family = |channel: &str, own: &str, nodes: &str| {
        let node =
            |n: u32| format!("protocol bgp {channel}n{n} from {channel}node {{ neighbor {nodes}1{n} as 64512; }}\n");
        format!(
            "protocol kernel {{ merge paths on; {channel} {{ import none; export where source = RTS_BGP; }}; }}\n\
             template bgp {channel}node {{ local {own} as 65000; graceful restart on; error wait time 1, 2; connect retry time 2;\n  \
             {channel} {{ import filter avoided; export none; }}; }}\n{}{}",
            node(1),
            node(2)
        )
    };
    format!(
        "log stderr all;\nrouter id 172.30.1.1;\nprotocol device {{}}\n\
         filter avoided {{ if (65535, 0) ~ bgp_community then bgp_local_pref = 0; accept; }}\n{}{}",
        family("ipv4", "172.30.1.1", "172.30.1."),
        family("ipv6", "fd00:30:1::1", "fd00:30:1::")
    )
}

/// FRR beside the nodes, in their AS.
fn frr_conf() -> String {
    let all = NODES.iter().flat_map(|n| [format!("172.30.1.1{n}"), format!("fd00:30:1::1{n}")]);
    let neighbours: String = all.map(|at| format!(" neighbor {at} remote-as 64512\n")).collect();
    let six = |word: &str| NODES.map(|n| format!("  {word}neighbor fd00:30:1::1{n} activate\n")).concat();
    format!(
        "router bgp 64512\n bgp router-id 172.30.1.2\n{neighbours} address-family ipv4 unicast\n{} exit-address-family\n \
         address-family ipv6 unicast\n{} exit-address-family\n",
        six("no "),
        six("")
    )
}

/// A pool of both families.
fn pool(name: &str, addresses: &str, way: &str) -> String {
    format!(
        "---\n{{apiVersion: ripstop.io/v1alpha1, kind: AddressPool, metadata: {{name: {name}}}, spec: {{addresses: [{addresses}], announce: [{{by: bgp{way}}}]}}}}\n"
    )
}

fn service(name: &str, policy: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}, annotations: {{ripstop.io/address-pool: {name}}}}}, spec: {{type: LoadBalancer, \
         ipFamilyPolicy: RequireDualStack, externalTrafficPolicy: {policy}, ports: [{{port: 7007, protocol: UDP}}]}}}}\n"
    )
}

/// Both routers as peers in both families; FRR is told how much a way is preferred.
fn peers() -> String {
    let rule = |family: &str| {
        format!("  export{family}:\n  - {{action: Accept, operations: [{{setLocalPreference: 250}}]}}\n")
    };
    let filter = "---\napiVersion: ripstop.io/v1alpha1\nkind: BgpFilter\nmetadata: {name: preferred}\nspec:\n";
    let to_frr = |at: &str| format!("{{peerIP: \"{at}\", asNumber: internal, filters: [preferred]}}");
    [
        filter.to_owned() + &rule("V4") + &rule("V6"),
        peer("bird4", "{peerIP: 172.30.1.1, asNumber: 65000}"),
        peer("bird6", "{peerIP: \"fd00:30:1::1\", asNumber: 65000}"),
        peer("frr4", &to_frr("172.30.1.2")),
        peer("frr6", &to_frr("fd00:30:1::2")),
    ]
    .concat()
}

/// A node with a label, and with more in its `spec`.
fn node(n: u32, announces: bool, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Node, metadata: {{name: n{n}, labels: {{announces: \"{announces}\"}}}}, spec: {{{spec}}}}}\n"
    )
}

const LEAVES: &str = "taints: [{key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule}]";

struct Scene {
    lab: Lab,
    bird: Router,
    frr: Router,
    ends: Arc<AtomicBool>,
    /// How many datagrams came to the pod of each node.
    asked: [Arc<AtomicUsize>; 2],
}

impl Scene {
    /// Two nodes with a pod each that echoes, and both routers.
    fn start(name: &str) -> Option<Self> {
        if !has_bird() || !has_frr() {
            return None;
        }
        let agent_config =
            serde_json::json!({"services": {"proxy": "nftables", "serviceCIDRs": ["10.96.0.0/16", "fd00:96::/112"]}});
        let lab = lab(Options { families: Families::Dual, agent_config, ..options(name, 2) })?;
        pods(&lab);
        let mut bird = Router::at_the_middle(&lab);
        for setting in ["net.ipv4.fib_multipath_hash_policy=1", "net.ipv6.fib_multipath_hash_policy=1"] {
            bird.run("sysctl", &["-qw", setting]);
        }
        bird.bird(&bird_conf());
        let mut frr = Router::beside(&lab, "tor2", "172.30.1.2");
        frr.ip("addr add fd00:30:1::2/64 dev eth0 nodad");
        frr.frr(&frr_conf());
        let ends = Arc::new(AtomicBool::new(false));
        let asked = NODES.map(|n| {
            let (over, count) = (ends.clone(), Arc::new(AtomicUsize::new(0)));
            let counted = count.clone();
            inside(&lab.layout().netns_path(&format!("p{n}")), move || {
                let socket = UdpSocket::bind("[::]:7007").unwrap();
                socket.set_read_timeout(Some(100 * MS)).unwrap();
                let mut buffer = [0; 64];
                while !over.load(Ordering::Relaxed) {
                    if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                        counted.fetch_add(1, Ordering::Relaxed);
                        let _ = socket.send_to(&buffer[..length], from);
                    }
                }
            });
            count
        });
        let scene = Self { lab, bird, frr, ends, asked };
        apply(&scene.lab, 1, &peers());
        for at in ["172.30.1.1", "fd00:30:1::1", "172.30.1.2", "fd00:30:1::2"] {
            let stands = |n: &u32| session(&scene.lab, *n, at)["state"] == "established";
            patiently(&format!("sessions with {at}"), || NODES.iter().all(stands));
        }
        Some(scene)
    }

    fn apply(&self, manifests: &[String]) {
        apply(&self.lab, 1, &manifests.concat());
    }

    /// Slices of both families with an endpoint on each of these nodes.
    fn slices(&self, name: &str, endpoints: &[(u32, &str)]) -> String {
        let state = self.lab.state().unwrap();
        let slice = |family: &str, v6: bool| {
            let endpoint = |(n, conditions): &(u32, &str)| {
                let ips = state.pods[&format!("p{n}")].ips();
                let ip = ips.iter().find(|ip| ip.is_ipv6() == v6).unwrap();
                format!("{{addresses: [\"{ip}\"], nodeName: n{n}, conditions: {{{conditions}}}}}")
            };
            let all: Vec<String> = endpoints.iter().map(endpoint).collect();
            format!(
                "---\n{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: {name}-{}, labels: {{kubernetes.io/service-name: {name}}}}}, \
                 addressType: {family}, ports: [{{port: 7007, protocol: UDP}}], endpoints: [{}]}}\n",
                family.to_lowercase(),
                all.join(", ")
            )
        };
        slice("IPv4", false) + &slice("IPv6", true)
    }

    /// What BIRD has of a prefix by each node.
    fn in_bird(&self, prefix: &str) -> [Option<String>; 2] {
        let all = self.bird.birdc(&format!("show route {prefix} all"));
        let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
        NODES.map(|n| all.split("unicast [").find(|way| way.starts_with(&format!("{family}n{n} "))).map(str::to_owned))
    }

    /// The same of FRR.
    fn in_frr(&self, prefix: &str) -> [Option<Value>; 2] {
        let (family, network) = if prefix.contains(':') { ("ipv6", "fd00:30:1::") } else { ("ipv4", "172.30.1.") };
        let answer = self.frr.vtysh(&format!("show bgp {family} unicast {prefix} json"));
        let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
        let paths = answer["paths"].as_array().cloned().unwrap_or_default();
        NODES.map(|n| paths.iter().find(|path| path["peer"]["peerId"] == format!("{network}1{n}")).cloned())
    }

    /// Waits until both routers have ways to both prefixes by these nodes alone.
    #[track_caller]
    fn has(&self, prefixes: [&str; 2], nodes: &[u32]) {
        let wanted = NODES.map(|n| nodes.contains(&n));
        for prefix in prefixes {
            patiently(&format!("both routers have {prefix} by {nodes:?}"), || {
                self.in_bird(prefix).map(|way| way.is_some()) == wanted
                    && self.in_frr(prefix).map(|way| way.is_some()) == wanted
            });
        }
    }

    /// Waits until BIRD has this word in the way by each of these nodes, and in no other's.
    #[track_caller]
    fn says(&self, prefixes: [&str; 2], word: &str, nodes: &[u32]) {
        for prefix in prefixes {
            patiently(&format!("{word} stands in the ways of {nodes:?} to {prefix}"), || {
                let ways = self.in_bird(prefix).map(|way| way.is_some_and(|way| way.contains(word)));
                ways == NODES.map(|n| nodes.contains(&n))
            });
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
    }
}

/// Pools that are told as one with communities, to BIRD alone, and by chosen nodes, with a Service each.
fn said() -> [String; 8] {
    let way = ", aggregationLength: 28, aggregationLengthV6: 124, communities: [\"64512:77\", \"64512:1:2\"]";
    [
        node(1, true, ""),
        node(2, false, ""),
        pool("whole", "203.0.113.4-203.0.113.6, \"2001:db8:1::4-2001:db8:1::6\"", way),
        pool("single", "198.51.100.1, \"2001:db8:2::1\"", ", peers: [bird4, bird6]"),
        pool("chosen", "198.51.100.16, \"2001:db8:3::1\"", ", nodeSelectors: [{matchLabels: {announces: \"true\"}}]"),
        service("whole", "Local"),
        service("single", "Cluster"),
        service("chosen", "Cluster"),
    ]
}

#[test]
fn routers_of_both_kinds_are_told_in_both_families_what_pools_say_and_nothing_else() {
    let Some(scene) = Scene::start("t-bgp-pools") else { return };
    let both = |ready: &str| [(1, ready.to_owned()), (2, ready.to_owned())];
    let slices = |name: &str, of: &[(u32, String)]| {
        scene.slices(name, &of.iter().map(|(n, ready)| (*n, ready.as_str())).collect::<Vec<_>>())
    };
    let (whole, single, chosen) = (
        ["203.0.113.0/28", "2001:db8:1::/124"],
        ["198.51.100.1/32", "2001:db8:2::1/128"],
        ["198.51.100.16/32", "2001:db8:3::1/128"],
    );
    scene.apply(&said());
    scene.apply(&["whole", "single", "chosen"].map(|name| slices(name, &both(READY))));
    scene.has(whole, &NODES);
    scene.has(chosen, &[1]);
    for prefix in whole {
        for way in scene.in_bird(prefix).map(Option::unwrap) {
            assert!(way.contains("(64512,77)") && way.contains("(64512, 1, 2)") && !way.contains("(65535,0)"), "{way}");
        }
        for path in scene.in_frr(prefix).map(Option::unwrap) {
            assert_eq!(path["locPrf"], 250, "{path:#}");
            assert_eq!(path["community"]["string"], "64512:77", "{path:#}");
            assert_eq!(path["largeCommunity"]["string"], "64512:1:2", "{path:#}");
        }
    }
    for prefix in single {
        patiently("BIRD alone is told", || scene.in_bird(prefix).iter().all(Option::is_some));
        assert_eq!(scene.in_frr(prefix), [None, None]);
    }
    for hidden in ["203.0.113.4/32", "2001:db8:1::4/128"] {
        assert_eq!(scene.in_bird(hidden), [None, None], "inside of what is told as one");
    }

    // Another node is chosen.
    scene.apply(&[node(1, false, ""), node(2, true, "")]);
    scene.has(chosen, &[2]);

    // By a Local policy only nodes with an endpoint tell; by none that is ready nobody does, until one is.
    scene.apply(&[slices("whole", &[(2, READY.to_owned())])]);
    scene.has(whole, &[2]);
    scene.apply(&["whole", "single", "chosen"].map(|name| slices(name, &both(UNREADY))));
    for prefixes in [whole, single, chosen] {
        scene.has(prefixes, &[]);
    }
    scene.apply(&["whole", "chosen"].map(|name| slices(name, &[(1, READY.to_owned())])));
    scene.has(whole, &[1]);
    scene.has(chosen, &[2]);
    let flaps = |n: u32| rows(&scene.lab, n, "/v1/bgp/peers").iter().all(|row| row["flaps"] == 0);
    assert!(NODES.into_iter().all(flaps), "no session began anew");
}

/// Datagrams of a client outside to some addresses, from several ports each.
fn flows(lab: &Lab, to: &[SocketAddr], ends: Arc<AtomicBool>) -> JoinHandle<(usize, usize)> {
    let to = to.to_vec();
    inside(&lab.layout().netns_path("outside"), move || {
        let sockets: Vec<UdpSocket> = to
            .iter()
            .flat_map(|to| (0..8).map(move |_| to))
            .map(|to| {
                let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
                socket.connect(to).unwrap();
                socket.set_nonblocking(true).unwrap();
                socket
            })
            .collect();
        let (mut sent, mut heard, mut buffer, mut next, mut end) = (0, 0, [0; 64], Instant::now(), None);
        while end.is_none_or(|end| Instant::now() < end) {
            if ends.load(Ordering::Relaxed) && end.is_none() {
                end = Some(Instant::now() + Duration::from_secs(1));
            }
            if Instant::now() >= next && end.is_none() {
                next = Instant::now() + 10 * MS;
                // What cannot be sent is as good as lost.
                sockets.iter().for_each(|socket| drop(socket.send(b"?")));
                sent += sockets.len();
            }
            heard += sockets
                .iter()
                .map(|socket| std::iter::repeat_with(|| socket.recv(&mut buffer)).take_while(Result::is_ok).count())
                .sum::<usize>();
            std::thread::sleep(MS);
        }
        (sent, heard)
    })
}

#[test]
fn a_drained_node_is_avoided_then_withdrawn_and_a_clients_flow_loses_nothing() {
    let Some(scene) = Scene::start("t-bgp-drain") else { return };
    let prefixes = ["198.51.100.1/32", "2001:db8:2::1/128"];
    let both = |one: &str| scene.slices("drained", &[(1, one), (2, READY)]);
    scene.apply(&[pool("drained", "198.51.100.1, \"2001:db8:2::1\"", ""), service("drained", "Local"), both(READY)]);
    scene.has(prefixes, &NODES);
    let by = |n: u32| {
        let shown = |family: &str, prefix: &str, via: &str| {
            scene.bird.ip(&format!("{family} route show {prefix}")).contains(via)
        };
        let (four, six) = (format!("via 172.30.1.1{n} "), format!("via fd00:30:1::1{n} "));
        [shown("-4", "198.51.100.1", &four), shown("-6", "2001:db8:2::1", &six)]
    };
    patiently("the router's kernel sends to both", || NODES.map(by) == [[true; 2]; 2]);

    let ends = Arc::new(AtomicBool::new(false));
    let to = ["198.51.100.1:7007", "[2001:db8:2::1]:7007"].map(|at| at.parse().unwrap());
    let flow = flows(&scene.lab, &to, ends.clone());
    patiently("pods of both nodes are asked", || scene.asked.iter().all(|asked| asked.load(Ordering::Relaxed) > 50));

    // The node is about to go: it asks to be avoided, and serves on.
    scene.apply(&[node(1, true, LEAVES)]);
    scene.says(prefixes, "(65535,0)", &[1]);
    patiently("the router's kernel sends to the other", || NODES.map(by) == [[false; 2], [true; 2]]);
    scene.has(prefixes, &NODES);
    // Its pod ends, and goes.
    scene.apply(&[both(ENDS)]);
    scene.says(prefixes, "(65535,0)", &[1]);
    scene.apply(&[scene.slices("drained", &[(2, READY)])]);
    scene.has(prefixes, &[2]);
    let before = scene.asked[0].load(Ordering::Relaxed);
    // Nobody needs it any more.
    scene.lab.node(1).stop_agent(true).unwrap();
    scene.lab.node(1).cut().unwrap();
    std::thread::sleep(500 * MS);
    ends.store(true, Ordering::Relaxed);
    let (sent, heard) = flow.join().unwrap();
    println!("{sent} sent, {heard} heard");
    assert!(sent > 1_000, "{sent}");
    assert_eq!(sent, heard, "nothing is lost");
    assert_eq!(scene.asked[0].load(Ordering::Relaxed), before, "its pod was asked no more");

    // It comes back.
    scene.lab.node(1).mend().unwrap();
    scene.lab.node(1).release_agent().unwrap();
    apply(&scene.lab, 2, &[node(1, true, ""), both(READY)].concat());
    scene.has(prefixes, &NODES);
    scene.says(prefixes, "(65535,0)", &[]);
}
