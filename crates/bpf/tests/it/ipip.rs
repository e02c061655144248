//! Two nodes without an IPIP device, each a namespace with a pod behind it, as the agent sets them up.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Command, Output};

use ripstop_bpf::ipip::{Setup, Tunnel, mac_of};

const LOCAL: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)];
const MAC: [u8; 6] = [0x0a, 0, 0, 0, 0, 9];

fn run(line: &str) -> Output {
    let words: Vec<&str> = line.split(' ').collect();
    Command::new(words[0]).args(&words[1..]).output().unwrap()
}

#[track_caller]
fn ok(line: &str) -> String {
    let done = run(line);
    assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// The names of namespaces of one test, which go with it.
struct Nodes {
    name: String,
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for n in 0..2 {
            self.inside(n, |tunnel| drop(tunnel.clear()));
            for ns in [self.node(n), self.pod(n)] {
                run(&format!("ip netns del {ns}"));
            }
        }
    }
}

impl Nodes {
    fn node(&self, n: usize) -> String {
        format!("{}-n{n}", self.name)
    }

    fn pod(&self, n: usize) -> String {
        format!("{}-p{n}", self.name)
    }

    fn new(name: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() || !ripstop_bpf::is_supported() {
            println!("SKIPPED: it needs root and Linux 6.6");
            return None;
        }
        let nodes = Self { name: format!("rbpf-{}-{name}", std::process::id()) };
        for n in 0..2 {
            ok(&format!("ip netns add {}", nodes.node(n)));
            ok(&format!("ip netns add {}", nodes.pod(n)));
        }
        let [a, b] = [0, 1].map(|n| nodes.node(n));
        ok(&format!("ip -n {a} link add eth0 type veth peer name eth0 netns {b}"));
        for n in 0..2 {
            nodes.build(n);
        }
        Some(nodes)
    }

    fn build(&self, n: usize) {
        let (node, pod) = (self.node(n), self.pod(n));
        let (here, there) = (n + 1, 2 - n);
        let on = |line: &str| ok(&format!("ip -n {node} {line}"));
        on(&format!("addr add {}/24 dev eth0", LOCAL[n]));
        on("link set eth0 up");
        on(&format!("link add pod type veth peer name eth0 netns {pod}"));
        on("link set pod up");
        on("link add ripipip0 address 0a:00:00:00:00:09 mtu 1480 type ifb");
        on("link set ripipip0 up");
        on(&format!("route add 10.9.{here}.2/32 dev pod"));
        let peer = LOCAL[1 - n];
        let mac = mac_of(peer).map(|byte| format!("{byte:02x}")).join(":");
        on(&format!("neigh add {peer} lladdr {mac} dev ripipip0 nud permanent"));
        on(&format!("addr add 10.9.{here}.1/32 dev ripipip0"));
        on(&format!("route add 10.9.{there}.0/24 via {peer} dev ripipip0 onlink src 10.9.{here}.1"));
        for (setting, value) in [
            ("ip_forward", "1"),
            ("conf.pod.proxy_arp", "1"),
            ("neigh.pod.proxy_delay", "0"),
            ("conf.all.rp_filter", "0"),
            ("conf.ripipip0.rp_filter", "1"),
        ] {
            ok(&format!("ip netns exec {node} sysctl -q net.ipv4.{setting}={value}"));
        }
        let in_pod = |line: &str| ok(&format!("ip -n {pod} {line}"));
        in_pod(&format!("addr add 10.9.{here}.2/32 dev eth0"));
        in_pod("link set eth0 mtu 1480 up");
        in_pod("route add default dev eth0");
        self.inside(n, |tunnel| {
            let link = (self.index(n, "ripipip0"), "ripipip0".to_owned());
            tunnel.set(&Setup { link, mac: MAC, local: LOCAL[n], uplinks: BTreeSet::from(["eth0".into()]) }).unwrap();
            tunnel.add_peer(peer, self.index(n, "eth0")).unwrap();
        });
    }

    fn index(&self, n: usize, link: &str) -> u32 {
        let text = ok(&format!("ip -n {} -o link show {link}", self.node(n)));
        text.split(':').next().unwrap().parse().unwrap()
    }

    /// Calls it with the node's programs, in the node's namespace.
    fn inside<T: Send>(&self, n: usize, call: impl FnOnce(&Tunnel) -> T + Send) -> T {
        let file = std::fs::File::open(PathBuf::from("/run/netns").join(self.node(n))).unwrap();
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let kind = rustix::thread::LinkNameSpaceType::Network;
                rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(kind)).unwrap();
                call(&Tunnel::at(&ripstop_bpf::folder().unwrap()))
            });
            thread.join().unwrap()
        })
    }

    /// Whether the first pod's packets of this length come to the second and back.
    fn pings(&self, size: u32) -> bool {
        let payload = size - 28;
        run(&format!("ip netns exec {} ping -q -c 3 -i 0.05 -W 1 -M do -s {payload} 10.9.2.2", self.pod(0)))
            .status
            .success()
    }
}

#[test]
fn packets_get_an_outer_header_and_lose_it_at_the_peer() {
    let Some(nodes) = Nodes::new("wire") else { return };
    assert!(nodes.pings(84));
    let node = nodes.node(0);
    let mut capture = Command::new("ip")
        .args(["netns", "exec", &node, "timeout", "10", "tcpdump", "-c", "2", "-nn", "-v", "-i", "eth0", "ip proto 4"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(700));
    assert!(nodes.pings(1480), "the longest packet");
    assert!(!nodes.pings(1481), "one byte more");
    let mut text = String::new();
    std::io::Read::read_to_string(&mut capture.stdout.take().unwrap(), &mut text).unwrap();
    capture.wait().unwrap();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains("ttl 64, id 0, offset 0, flags [DF], proto IPIP (4), length 1500"), "{text}");
    assert!(text.contains("192.0.2.1 > 192.0.2.2: IP (tos 0x0, ttl 63"), "{text}");
    assert!(text.contains("10.9.1.2 > 10.9.2.2: ICMP echo request"), "{text}");
    assert!(!text.contains("bad cksum"), "{text}");
}

/// Streams are handed on in packets of 64 KiB, and cut as if they were plain.
#[test]
fn streams_pass_whole_and_cut() {
    let Some(nodes) = Nodes::new("stream") else { return };
    for offload in ["on", "off"] {
        for n in 0..2 {
            let segments = if offload == "on" { "tso on gso on" } else { "tso off tx-udp-segmentation off" };
            ok(&format!("ip netns exec {} ethtool -K eth0 {segments}", nodes.node(n)));
        }
        let mut server = Command::new("ip")
            .args(["netns", "exec", &nodes.pod(1), "iperf3", "-s", "-1"])
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(400));
        let told = ok(&format!("ip netns exec {} iperf3 -J -t 1 -c 10.9.2.2", nodes.pod(0)));
        server.wait().unwrap();
        let rate = told
            .rsplit("\"bits_per_second\":")
            .next()
            .unwrap()
            .trim()
            .split(',')
            .next()
            .unwrap()
            .parse::<f64>()
            .unwrap();
        println!("offload {offload}: {:.2} Gbit/s", rate / 1e9);
        assert!(rate > 1e8, "{rate}");
    }
}

#[test]
fn strangers_are_left_to_the_stack_and_nobody_else_sends_by_the_link() {
    let Some(nodes) = Nodes::new("strange") else { return };
    assert!(nodes.pings(84));
    nodes.inside(1, |tunnel| tunnel.remove_peer(LOCAL[0]).unwrap());
    assert!(!nodes.pings(84), "the node that sends is no peer");
    nodes.inside(1, |tunnel| tunnel.add_peer(LOCAL[0], nodes.index(1, "eth0")).unwrap());
    assert!(nodes.pings(84));
}

#[test]
fn who_comes_later_takes_up_what_is_there() {
    let Some(nodes) = Nodes::new("again") else { return };
    let eth0 = nodes.index(0, "eth0");
    let setup = nodes.inside(0, |tunnel| tunnel.read()).unwrap();
    assert_eq!(setup.link, (nodes.index(0, "ripipip0"), "ripipip0".into()));
    assert_eq!((setup.mac, setup.local, setup.uplinks.clone()), (MAC, LOCAL[0], BTreeSet::from(["eth0".into()])));
    nodes.inside(0, |tunnel| {
        assert_eq!(tunnel.peers(), BTreeMap::from([(LOCAL[1], eth0)]));
        tunnel.set(&setup).unwrap();
        assert_eq!(tunnel.read(), Some(setup.clone()));
        assert_eq!(tunnel.peers().len(), 1);
    });
    // An uplink that went and came is looked at by nobody until that is set again.
    ok(&format!("ip -n {} link add other type veth peer name far", nodes.node(0)));
    let both = Setup { uplinks: BTreeSet::from(["eth0".into(), "other".into()]), ..setup.clone() };
    nodes.inside(0, |tunnel| {
        tunnel.set(&both).unwrap();
        assert_eq!(tunnel.read(), Some(both.clone()));
    });
    ok(&format!("ip -n {} link del other", nodes.node(0)));
    ok(&format!("ip -n {} link add other type veth peer name far", nodes.node(0)));
    nodes.inside(0, |tunnel| {
        assert_eq!(tunnel.read(), Some(setup.clone()));
        tunnel.set(&both).unwrap();
        assert_eq!(tunnel.read(), Some(both.clone()));
        tunnel.set(&setup).unwrap();
        assert_eq!(tunnel.read(), Some(setup.clone()));
    });
    assert!(nodes.pings(84));
    nodes.inside(0, |tunnel| {
        tunnel.clear().unwrap();
        assert_eq!((tunnel.read(), tunnel.peers().len()), (None, 0));
        assert!(!ripstop_bpf::folder().unwrap().exists());
        tunnel.clear().unwrap();
    });
    assert!(!nodes.pings(84));
}
