//! Ways that carry shorter packets than the links on both ends take, without a word to the sender: found by probes, and
//! heeded by pods that run, in each family, encapsulation and wiring.
//!
//! The hole is a rule at the router's ends of the cables. So that what a cable carries is what a wire would, nodes do not
//! leave segmentation to it.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use ripstop_lab::{Backend, Families, Lab, Options, Target, Wiring};
use serde_json::json;

use super::{inside, lab, pods, rows};

/// How long is waited for what should come within ten seconds: this machine may be busy with other things.
const LIMIT: Duration = Duration::from_secs(60);

/// Bytes that each stream must carry in each case.
const FAR: u64 = 300_000;

fn within_limit(what: &str, mut is: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
    begun.elapsed()
}

/// A stream of full segments from one pod to another, for as long as it is wanted.
struct Stream {
    bytes: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Stream {
    fn start(from: &Path, to: &Path, address: IpAddr) -> Self {
        let listener = inside(to, move || TcpListener::bind(SocketAddr::new(address, 0)).unwrap()).join().unwrap();
        let to = listener.local_addr().unwrap();
        let (bytes, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (read, over) = (bytes.clone(), stop.clone());
        std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut buffer = vec![0; 64 << 10];
            while !over.load(Relaxed) {
                match socket.read(&mut buffer) {
                    Ok(0) | Err(_) => break,
                    Ok(n) => drop(read.fetch_add(n as u64, Relaxed)),
                }
            }
        });
        let over = stop.clone();
        inside(from, move || {
            let mut socket = TcpStream::connect(to).unwrap();
            let chunk = vec![7; 16 << 10];
            while !over.load(Relaxed) && socket.write_all(&chunk).is_ok() {
                std::thread::sleep(Duration::from_millis(15));
            }
        });
        Self { bytes, stop }
    }

    fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

fn run_in(netns: &str, words: &[&str]) -> (bool, String) {
    let output = Command::new("ip").args(["netns", "exec", netns]).args(words).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

fn must(netns: &str, line: &str) {
    let (done, said) = run_in(netns, &line.split_whitespace().collect::<Vec<_>>());
    assert!(done, "{line}: {said}");
}

/// Cables carry true frames, and the router drops those that are longer than a hole.
struct Wire {
    router: String,
    cables: Vec<String>,
}

impl Wire {
    fn of(lab: &Lab, nodes: u32) -> Self {
        for node in 1..=nodes {
            let netns = lab.layout().netns(&format!("n{node}"));
            must(&netns, "ethtool -K eth0 tso off gso off tx-udp-segmentation off tx-udp_tnl-segmentation off");
            must(&netns, "ethtool -K eth0 tx-udp_tnl-csum-segmentation off");
        }
        let cables = (1..=nodes).map(|node| format!("n{node}")).collect();
        Self { router: lab.layout().netns("router"), cables }
    }

    /// Lets packets of this length pass, and no longer ones.
    fn narrow(&self, mtu: u32) {
        let chain = |cable: &String| {
            format!(
                "chain {cable} {{ type filter hook ingress device \"{cable}\" priority 0; meta length > {mtu} counter drop; }}"
            )
        };
        let chains: String = self.cables.iter().map(|cable| chain(cable) + "\n").collect();
        let rules = format!("add table netdev hole\ndelete table netdev hole\ntable netdev hole {{\n{chains}}}\n");
        let mut child = Command::new("ip")
            .args(["netns", "exec", &self.router, "nft", "-f", "-"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "{rules}");
    }
}

struct Pair {
    lab: Lab,
    wire: Wire,
    netns: [PathBuf; 2],
    /// Both directions, of each family.
    streams: Vec<(IpAddr, Stream)>,
}

impl Pair {
    fn of(lab: Lab) -> Self {
        pods(&lab);
        let wire = Wire::of(&lab, 2);
        let netns = ["p1", "p2"].map(|pod| lab.layout().netns_path(pod));
        let state = lab.state().unwrap();
        let mut streams = Vec::new();
        for (from, to, name) in [(0, 1, "p2"), (1, 0, "p1")] {
            for ip in state.pods[name].ips().iter().copied() {
                streams.push((ip, Stream::start(&netns[from], &netns[to], ip)));
            }
        }
        Self { lab, wire, netns, streams }
    }

    fn mtu(&self, node: u32, family: &str) -> u64 {
        let rows = rows(&self.lab, node, "/v1/paths");
        let row = rows.iter().find(|row| row["family"] == family && row["peer"] != format!("n{node}"));
        row.and_then(|row| row["mtu"].as_u64()).unwrap_or(0)
    }

    /// Whether a packet of a length gets from `p1` to `p2` that nobody may fragment and for which no memory of the pod counts.
    fn fits(&self, to: IpAddr, length: u64) -> bool {
        let payload = vec![0; usize::try_from(length).unwrap() - if to.is_ipv4() { 28 } else { 48 }];
        let ear = inside(&self.netns[1], move || UdpSocket::bind(SocketAddr::new(to, 0)).unwrap()).join().unwrap();
        ear.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let address = ear.local_addr().unwrap();
        let sender = inside(&self.netns[0], move || {
            let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
            let socket = UdpSocket::bind(SocketAddr::new(any, 0)).unwrap();
            let (level, name, value) = match to {
                IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE),
                IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE),
            };
            // SAFETY: the value is an integer of the length that is told, only read.
            let done = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), 4) };
            assert_eq!(done, 0);
            for _ in 0..3 {
                if let Err(error) = socket.send_to(&payload, address) {
                    println!("{} bytes: {error}", payload.len());
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        let mut buffer = vec![0; 10_000];
        let arrived = ear.recv(&mut buffer).is_ok();
        sender.join().unwrap();
        arrived
    }

    /// What a pod knows of the way to an address.
    fn pod_route(&self, to: IpAddr) -> String {
        let netns = self.netns[0].file_name().unwrap().to_str().unwrap();
        run_in(netns, &["ip", "route", "get", &to.to_string()]).1
    }
}

/// What one hole makes of a pair's ways: a case for each family.
fn case(pair: &Pair, name: &str, hole: u32, overhead: u32, pods: u32) -> usize {
    let begun = Instant::now();
    let before: Vec<u64> = pair.streams.iter().map(|(_, stream)| stream.bytes()).collect();
    pair.wire.narrow(hole);
    let expected = u64::from((hole - overhead).min(pods));
    let families: &[&str] = match pair.streams.len() {
        2 if pair.streams[0].0.is_ipv4() => &["4"],
        2 => &["6"],
        _ => &["4", "6"],
    };
    within_limit(&format!("{name}: hole {hole}, pods {expected}"), || {
        families.iter().all(|family| pair.mtu(1, family) == expected && pair.mtu(2, family) == expected)
    });
    let found = begun.elapsed();
    within_limit(&format!("{name}: hole {hole}: streams go on"), || {
        pair.streams.iter().zip(&before).all(|((_, stream), before)| stream.bytes() >= before + FAR)
    });
    let healed = begun.elapsed();
    for family in families {
        let is_v4 = *family == "4";
        let (to, _) = pair.streams.iter().take(families.len()).find(|(ip, _)| ip.is_ipv4() == is_v4).unwrap();
        if !(0..3).any(|_| pair.fits(*to, expected)) {
            let node = pair.lab.layout().netns("n1");
            let routes = run_in(&node, &["ip", "route", "show", "proto", "82"]).1;
            let (pod, paths) = (pair.pod_route(*to), rows(&pair.lab, 1, "/v1/paths"));
            panic!("{name}: {expected} bytes to {to} do not pass a way of {hole}: {pod}; {routes}; {paths:?}");
        }
        if expected < u64::from(pods) {
            assert!(!pair.fits(*to, expected + 1), "{name}: {} bytes to {to} pass a way of {hole}", expected + 1);
            let known = pair.pod_route(*to);
            assert!(known.contains(&format!("mtu {expected}")), "{name}: the pod was told: {known}");
        }
        println!(
            "{name:24} IPv{family} way {hole:5}  pods {expected:5}  found {:4.1} s  streams healed {:4.1} s",
            found.as_secs_f32(),
            healed.as_secs_f32()
        );
    }
    families.len()
}

/// What a lab is like, the ways it gets, and what its backend adds.
struct Row {
    name: &'static str,
    backend: Backend,
    wiring: Wiring,
    families: Families,
    subnets: u32,
    overhead: u32,
    holes: &'static [u32],
}

const PLAIN: &[u32] = &[1492, 1450, 1400, 1280, 1500];
const INSIDE: &[u32] = &[1492, 1450, 1400, 1330, 1500];

fn table() -> Vec<Row> {
    use Families::{Dual, V6};
    use Wiring::{Bridge, Routed};
    let row = |name, backend, wiring, families, subnets, overhead, holes| Row {
        name,
        backend,
        wiring,
        families,
        subnets,
        overhead,
        holes,
    };
    vec![
        row("host-gw routed", Backend::HostGw, Routed, Dual, 1, 0, PLAIN),
        row("host-gw bridge", Backend::HostGw, Bridge, Dual, 1, 0, PLAIN),
        row("vxlan routed, router", Backend::Vxlan, Routed, Dual, 2, 50, INSIDE),
        row("vxlan bridge", Backend::Vxlan, Bridge, Dual, 1, 50, INSIDE),
        row("udp routed, router", Backend::Udp, Routed, Dual, 2, 28, INSIDE),
        row("udp bridge", Backend::Udp, Bridge, Families::V4, 1, 28, &[1450, 1330, 1500]),
        row("udp over IPv6, router", Backend::Udp, Routed, V6, 2, 48, &[1450, 1400, 1350, 1500]),
        row("vxlan over IPv6, router", Backend::Vxlan, Routed, V6, 2, 70, &[1450, 1400, 1350, 1500]),
    ]
}

fn probing_often() -> serde_json::Value {
    json!({ "probing": { "interval": "500ms" } })
}

/// 61 cases: the exact length is found by each node, full packets of it pass, longer ones are answered by the node, and
/// streams in both directions that stood before go on.
#[test]
fn pods_heed_the_length_of_the_way_whatever_the_hole() {
    let rows = table();
    let cases: usize = std::thread::scope(|scope| {
        let begin = |(n, row): (usize, &Row)| {
            let options = Options {
                nodes: 2,
                subnets: row.subnets,
                backend: row.backend,
                wiring: row.wiring,
                families: row.families,
                agent_config: probing_often(),
                ..Options::named(&format!("t-narrow-{n}"))
            };
            let (name, overhead, holes) = (row.name, row.overhead, row.holes);
            scope.spawn(move || {
                let Some(lab) = lab(options) else { return 0 };
                let pair = Pair::of(lab);
                let cases = holes.iter().map(|hole| case(&pair, name, *hole, overhead, 1500 - overhead)).sum::<usize>();
                let Pair { lab, .. } = pair;
                lab.down().unwrap();
                cases
            })
        };
        // Two labs at a time: more would keep two processors busy with themselves.
        rows.chunks(2)
            .enumerate()
            .map(|(m, two)| {
                let threads: Vec<_> = two.iter().enumerate().map(|(n, row)| begin((2 * m + n, row))).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
            })
            .sum()
    });
    println!("{cases} cases");
    assert!(cases == 0 || cases == 61, "{cases}");
}

/// As it is installed: a hole that appears is named and heeded, an agent that starts anew keeps to it, and one that goes is
/// named too.
#[test]
fn a_hole_is_named_survives_a_restart_and_is_taken_back() {
    let options = Options { nodes: 2, subnets: 2, backend: Backend::Vxlan, ..Options::named("t-hole") };
    let Some(lab) = lab(options) else { return };
    let pair = Pair::of(lab);
    std::thread::sleep(Duration::from_millis(500));
    let warnings = |node| pair.lab.agent_json(node, "/v1/status").unwrap()["warnings"].to_string();
    assert!(!warnings(1).contains("the way to") && pair.mtu(1, "4") == 1450, "{}", warnings(1));
    case(&pair, "as installed", 1400, 50, 1450);
    let named = "the way to n2 at 172.30.2.12 carries packets of 1400 bytes at most, though the link here takes 1500";
    assert!(warnings(1).contains(named), "{}", warnings(1));
    let log = || std::fs::read_to_string(pair.lab.layout().agent_log(1)).unwrap();
    assert_eq!(log().matches(named).count(), 1, "once in the log");
    pair.lab.node(1).kill_agent(false).unwrap();
    let route = || pair.lab.exec(&Target::Node(1), &["ip", "route", "show", "proto", "82"]).unwrap();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        assert!(route().contains("mtu 1350"), "the route keeps its length: {}", route());
        std::thread::sleep(Duration::from_millis(20));
    }
    case(&pair, "hole is gone", 1500, 50, 1450);
    within_limit("no warning is left", || !warnings(1).contains("the way to"));
    within_limit("the route has no length of its own", || !route().contains("mtu"));
    assert!(log().contains("the way to n2 at 172.30.2.12 carries packets as long as its link here takes again"));
    let Pair { lab, .. } = pair;
    lab.down().unwrap();
}

/// Larger packets on one side than the other takes, and a way too narrow for what IPv6 demands.
#[test]
fn jumbo_on_one_side_and_too_narrow_for_ipv6() {
    let options = Options {
        nodes: 2,
        subnets: 2,
        backend: Backend::Vxlan,
        families: Families::Dual,
        agent_config: probing_often(),
        ..Options::named("t-jumbo")
    };
    let Some(lab) = lab(options) else { return };
    let pair = Pair::of(lab);
    let router = pair.lab.layout().netns("router");
    must(&router, "ip link set n1 mtu 9000");
    must(&router, "ip link set sub1 mtu 9000");
    must(&pair.lab.layout().netns("n1"), "ip link set eth0 mtu 9000");
    for family in ["4", "6"] {
        within_limit("one side's pods take 8950, the way 1450", || {
            pair.mtu(1, family) == 1450 && pair.mtu(2, family) == 1450
        });
    }
    let to = pair.streams[0].0;
    within_limit("a full packet passes", || pair.fits(to, 1450));
    assert!(!pair.fits(to, 1451));
    pair.wire.narrow(1300);
    within_limit("IPv4 heeds the way", || pair.mtu(1, "4") == 1250);
    let warnings = || pair.lab.agent_json(1, "/v1/status").unwrap()["warnings"].to_string();
    within_limit("it is said what IPv6 needs", || warnings().contains("is too narrow for IPv6 packets in vxlan"));
    assert_eq!(pair.mtu(1, "6"), 1280);
    let Pair { lab, .. } = pair;
    lab.down().unwrap();
}
