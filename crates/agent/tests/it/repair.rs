//! What is changed by hand comes back within a second; what is not ours is not touched.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ripstop_kernel::{Applier, Monitor, Netns};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::Value;

use crate::support::ns::{Ns, is_root};
use crate::support::packets::{Echo, ask};
use crate::support::within;
use crate::support::world::{Families, Plan, StoreAt, World, at};

/// What somebody else has on this node.
const FOREIGN: &str = "link add dum0 type veth peer name dum1\nlink set dum0 up\nlink set dum1 up\naddr add 10.77.0.1/24 dev dum0\n\
    route add 10.78.0.0/16 via 10.77.0.2 dev dum0\nroute add 10.244.99.0/24 via 10.77.0.3 dev dum0 proto 99\n\
    nexthop add id 7777 via 10.77.0.4 dev dum0\nneigh add 10.77.0.9 lladdr 02:00:00:00:00:07 dev dum0 nud permanent\n";

/// Everything of others, as text.
fn foreign(world: &World) -> String {
    let rules = world.node.run("nft", &["-nn", "list", "table", "inet", "theirs"]);
    let of_dum0 = ["addr show dev dum0", "route show dev dum0", "nexthop show id 7777", "neigh show dev dum0"];
    let links = world.node.ip("-d link show dum0");
    of_dum0.map(|what| world.node.ip(what)).concat() + &rules + &links
}

/// Everything of ours, without what counts and without indexes: a repair must bring back just this.
fn ours(world: &World) -> String {
    // What is looked at may just not be there.
    let sorted = |program: &str, line: &str, keep: &dyn Fn(&str) -> Option<String>| {
        let text = world.node.tried(program, &line.split_whitespace().collect::<Vec<_>>()).1;
        let mut lines: Vec<String> = text.lines().filter_map(keep).collect();
        lines.sort();
        lines.join("\n")
    };
    let all = |line: &str| Some(line.trim().to_owned());
    let address = |line: &str| {
        let line = line.split_once(": ")?.1;
        (line.starts_with("rip") && !line.contains("scope link proto kernel_ll")).then(|| line.to_owned())
    };
    let uncounted = |line: &str| match line.split_once("counter packets") {
        Some((head, tail)) => Some(format!("{head}{}", tail.split_whitespace().skip(3).collect::<Vec<_>>().join(" "))),
        None => Some(line.to_owned()),
    };
    let setting = |path: &str| world.node.inside(|| std::fs::read_to_string(format!("/proc/sys/net/{path}")).unwrap());
    [
        sorted("ip", "-o -d link show", &link_words),
        sorted("ip", "-o addr show", &address),
        sorted("ip", "-4 route show proto 82", &all),
        sorted("ip", "-6 route show proto 82", &all),
        sorted("ip", "nexthop show proto 82", &all),
        sorted("ip", "neigh show nud permanent", &all),
        sorted("bridge", "fdb show dev ript1", &all),
        sorted("bridge", "-d link show", &|line| line.contains("hairpin").then(|| line.trim().to_owned())),
        setting("ipv4/ip_forward"),
        setting("ipv6/conf/all/forwarding"),
        // Sets are printed in the kernel's order, which changes: lines are enough.
        sorted("nft", "-nn list ruleset", &uncounted),
    ]
    .join("\n--\n")
}

/// Name, state, address and kind of a link of ours.
fn link_words(line: &str) -> Option<String> {
    let rest = line.split_once(": ")?.1;
    if !rest.starts_with("rip") {
        return None;
    }
    let keep = |word: &&str| word.starts_with("rip") || word.contains(':') || ["mtu", "id", "local"].contains(word);
    // The carrier comes and goes by itself.
    let up = rest.split(['<', '>']).nth(1).is_some_and(|flags| flags.split(',').any(|flag| flag == "UP"));
    let flags: Vec<&str> = rest.split_whitespace().filter(keep).collect();
    let number = |name: &str| {
        let mut words = rest.split_whitespace().skip_while(|word| *word != name);
        words.nth(1).unwrap_or_default().to_owned()
    };
    Some(format!("{} up {up} mtu {} id {}", flags.join(" "), number("mtu"), number("id")))
}

fn by_hand(world: &World, program: &str, line: &str) -> String {
    if program == "sh" {
        return world.node.run("sh", &["-c", line]);
    }
    world.node.run(program, &line.split_whitespace().collect::<Vec<_>>())
}

fn world(plan: Plan) -> World {
    let world = World::start(Plan { store: StoreAt::Here, ..plan });
    world.node.ips(FOREIGN);
    world.node.run("nft", &["add table inet theirs { set s { type ipv4_addr; elements = { 10.1.2.3 }; }; chain c { type filter hook forward priority 5; ip saddr @s counter accept; }; }"]);
    world.add_peer();
    // The foreign pair is one more uplink, as soon as it has a carrier, and the tunnel's own address goes with that: it is no
    // part of what is changed.
    let is_named = |row: &Value| row["name"] == "n1" && row["addresses"].to_string().contains("10.77.0.1");
    assert!(within(Duration::from_secs(20), || world.rows("/v1/nodes").iter().any(is_named)));
    world
}

/// In which time what was changed must be back.
const LIMIT: Duration = Duration::from_secs(1);

/// What changes without an event, or by one that does not say enough: settings, and addresses, local IPv4 ones among the
/// routes.
const SILENT: [&str; 4] = [
    "/proc/sys/net/ipv4/ip_forward",
    "/proc/sys/net/ipv6/conf/all/forwarding",
    "/proc/thread-self/net/if_inet6",
    "/proc/thread-self/net/fib_trie",
];

/// Notes when something of ours last changed in a node's kernel, whoever changed it. Reading everything takes programs much
/// longer than a repair takes.
struct Watch {
    last: Arc<Mutex<Instant>>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    fn start(ns: &Ns) -> Self {
        let (last, ends) = (Arc::new(Mutex::new(Instant::now())), Arc::new(AtomicBool::new(false)));
        let (note, stop, netns) = (last.clone(), ends.clone(), Netns::open(&ns.path).unwrap());
        let (ready, is_ready) = std::sync::mpsc::channel();
        let work = move || {
            // Another applier than the agent's: to it, what the agent does is done by others.
            let mut monitor = Monitor::open(Applier::open().unwrap().own()).unwrap();
            let silent = || SILENT.map(|path| std::fs::read_to_string(path).unwrap());
            let mut before = silent();
            ready.send(()).unwrap();
            while !stop.load(Ordering::Relaxed) {
                let mut fds = [PollFd::new(&monitor, PollFlags::IN)];
                let time = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
                let heard = poll(&mut fds, Some(&time)).unwrap() > 0 && !monitor.read().unwrap().is_empty();
                let now = silent();
                if heard || now != before {
                    *note.lock().unwrap() = Instant::now();
                }
                before = now;
            }
        };
        let thread = std::thread::spawn(move || netns.run(work).unwrap());
        is_ready.recv().unwrap();
        Self { last, ends, thread: Some(thread) }
    }

    /// When something last changed, as seen now.
    fn last(&self) -> Instant {
        std::thread::sleep(Duration::from_millis(20));
        *self.last.lock().unwrap()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Makes a change and says after what time the last of it was back.
fn repair_time(world: &World, watch: &Watch, program: &str, line: &str, before: &str) -> Duration {
    let begin = Instant::now();
    by_hand(world, program, line);
    let changed = Instant::now();
    let mut now = String::new();
    let back = within(Duration::from_secs(10), || {
        now = ours(world);
        now == before
    });
    // A change and its repair may come as one.
    let took = watch.last().max(changed) - begin;
    let differ: Vec<_> = before.lines().zip(now.lines()).filter(|(before, now)| before != now).take(5).collect();
    assert!(back, "{program} {line}: not repaired: {differ:#?}\n{:#}", world.get("/v1/status"));
    took
}

/// Makes changes by hand, each of which must be undone in time.
fn repaired(world: &World, changes: &[(&str, &str)]) {
    let families = usize::from(world.plan.families.four()) + usize::from(world.plan.families.six());
    assert!(within(Duration::from_secs(20), || {
        let paths = world.rows("/v1/paths");
        paths.len() == families && paths.iter().all(|path| path["state"] == "realised")
    }));
    world.settle();
    let (before, theirs, watch) = (ours(world), foreign(world), Watch::start(&world.node));
    let mut slowest = Duration::ZERO;
    for (program, line) in changes {
        let took = repair_time(world, &watch, program, line, &before);
        println!("{took:7.1?} {program} {line}");
        assert!(took <= LIMIT, "{program} {line}: repaired after {took:?}");
        slowest = slowest.max(took);
    }
    assert_eq!(foreign(world), theirs, "what others have is as it was");
    println!("{} changes by hand, the slowest repaired within {slowest:?}", changes.len());
    world.settle();
}

#[test]
fn routed_host_gw() {
    if !is_root() {
        return;
    }
    let world = world(Plan { families: Families::V4, ..Plan::default() });
    let pod = world.pod("web");
    let (ip, link, range) = (pod.ip(), pod.host_link(), world.own_range(false));
    let own = world.own_ip(false);
    repaired(
        &world,
        &[
            ("ip", "route del 10.244.200.0/24"),
            ("ip", &format!("route del {ip}")),
            ("ip", &format!("route del unreachable {range}")),
            (
                "sh",
                "ip route show proto 82 | sed 's/ nhid.*//;s/ dev.*//;s/ proto.*//' | sed 's/^/route del /' | ip -batch -",
            ),
            ("ip", "route replace 10.244.200.0/24 via 172.30.1.1 proto 82"),
            ("ip", "nexthop flush proto 82"),
            ("ip", &format!("neigh del {ip} dev {link}")),
            ("ip", &format!("neigh replace {ip} lladdr 02:00:00:00:00:01 dev {link} nud permanent")),
            ("ip", &format!("link set {link} down")),
            ("ip", &format!("link set {link} mtu 1400")),
            ("ip", &format!("link set {link} address 02:00:00:00:00:02")),
            ("ip", "link set rip0 down"),
            ("ip", "link del rip0"),
            ("ip", &format!("addr del {own}/32 dev rip0")),
            ("ip", "addr flush dev rip0"),
            ("nft", "delete table inet ripstop"),
            ("nft", &format!("delete table netdev ripstop-{link}")),
            ("nft", &format!("delete chain netdev ripstop-{link} from-pod")),
            ("nft", &format!("flush chain netdev ripstop-{link} from-pod")),
            ("nft", &format!("insert rule netdev ripstop-{link} from-pod accept")),
            ("nft", "flush chain inet ripstop postrouting"),
            ("nft", "add rule inet ripstop postrouting counter"),
            ("nft", "add element inet ripstop plain4 { 8.8.8.8 }"),
            ("sysctl", "-w net.ipv4.ip_forward=0"),
        ],
    );
    let echo = Echo::start(&pod.ns, &pod.at(7000));
    assert_eq!(ask(&world.node, None, echo.at), Some(own));
}

#[test]
fn bridged_vxlan_dual_stack() {
    if !is_root() {
        return;
    }
    let world = world(Plan { wiring: "bridge", backend: "vxlan", families: Families::Dual, ..Plan::default() });
    let pod = world.pod("web");
    let (link, own, own6) = (pod.host_link(), world.own_ip(false), world.own_ip(true));
    let changes = [
        ("ip", "link del ript1".to_owned()),
        ("ip", "link set ript1 down".into()),
        ("ip", "link set ript1 address 02:00:00:00:00:03".into()),
        ("bridge", "fdb del 0a:52:49:50:02:02 dev ript1 dst 172.30.1.2".into()),
        ("bridge", "fdb replace 0a:52:49:50:02:02 dev ript1 dst 172.30.1.9".into()),
        ("ip", "neigh del 10.244.200.1 dev ript1".into()),
        ("ip", "neigh flush fe80::/10 dev ript1 nud permanent".into()),
        ("ip", "neigh flush dev ript1 nud permanent".into()),
        ("ip", "-6 route del fd00:244:0:c8::/64".into()),
        (
            "sh",
            "ip -6 route show proto 82 | sed 's/ nhid.*//;s/ dev.*//' | sed 's/^/route del /' | ip -6 -batch -".into(),
        ),
        ("ip", format!("link set {link} nomaster")),
        ("bridge", format!("link set dev {link} hairpin off")),
        ("ip", format!("addr del {own}/24 dev rip0")),
        ("ip", format!("addr del {own6}/64 dev rip0")),
        ("ip", "link set rip0 down".into()),
        ("ip", "link del rip0".into()),
        ("sh", format!("nft delete table inet ripstop && nft delete table netdev ripstop-{link}")),
        ("nft", format!("delete table netdev ripstop-{link}")),
        ("nft", format!("flush chain netdev ripstop-{link} from-pod")),
        ("nft", "flush set inet ripstop nodes4".into()),
        ("nft", "flush chain inet ripstop tunnel-in".into()),
        ("sysctl", "-w net.ipv6.conf.all.forwarding=0".into()),
    ];
    let changes: Vec<(&str, &str)> = changes.iter().map(|(program, line)| (*program, line.as_str())).collect();
    repaired(&world, &changes);
    let echo = Echo::start(&pod.ns, &pod.at(7000));
    assert_eq!(ask(&world.node, None, echo.at), Some(own));
    let echo = Echo::start(&pod.ns, &at(&pod.ips()[1], 7000));
    assert_eq!(ask(&world.node, None, echo.at), Some(own6));
}

#[test]
fn the_uplink() {
    if !is_root() {
        return;
    }
    let world = world(Plan::default());
    let pod = world.pod("web");
    let before = || world.node.ip("route show proto 82");
    assert!(within(Duration::from_secs(20), || before().contains("10.244.200.0/24")));
    world.settle();
    let (routes, watch) = (before(), Watch::start(&world.node));
    // It flaps.
    world.node.ip("link set eth0 down");
    let begin = Instant::now();
    world.node.ips("link set eth0 up\nroute replace default via 172.30.1.1\n");
    assert!(within(Duration::from_secs(5), || before() == routes), "{}", before());
    let took = watch.last().saturating_duration_since(begin);
    println!("{took:7.1?} a link that flaps");
    assert!(took <= LIMIT, "a link that flaps: {took:?}");
    let echo = Echo::start(&world.router, &at("10.244.200.10", 7000));
    world.router.ip("route add 10.244.0.0/16 via 172.30.1.11");
    assert_eq!(ask(&pod.ns, None, echo.at), Some(pod.ip()));
    // The node's address changes.
    world.node.ips("addr add 172.30.1.99/24 dev eth0\naddr del 172.30.1.11/24 dev eth0\n");
    let begin = Instant::now();
    world.node.ips("addr replace 172.30.1.99/24 dev eth0\nroute replace default via 172.30.1.1\n");
    let store = world.store.as_ref().unwrap();
    let published = || store.get(ripstop_store::Kind::Nodes, "n1").unwrap()["addresses"][0]["ip"] == "172.30.1.99";
    assert!(within(Duration::from_secs(5), published));
    let told = begin.elapsed();
    assert!(within(Duration::from_secs(5), || before() == routes), "{}", before());
    let took = told.max(watch.last().saturating_duration_since(begin));
    println!("{took:7.1?} a changed address of the node, told to others after {told:.1?}");
    assert!(took <= LIMIT, "a changed address: {took:?}");
    world.settle();
}

/// A cable that is unplugged, for a moment and for longer than failures pause, at the other end: the link itself stays up.
#[test]
fn the_uplinks_cable() {
    if !is_root() {
        return;
    }
    let world = world(Plan::default());
    let pod = world.pod("web");
    let routes = || world.node.ip("route show proto 82");
    assert!(within(Duration::from_secs(20), || routes().contains("10.244.200.0/24")));
    world.settle();
    world.router.ip("route add 10.244.0.0/16 via 172.30.1.11");
    let (before, echo) = (routes(), Echo::start(&world.router, &at("10.244.200.10", 7000)));
    for pause in [0, 50, 7_000] {
        world.router.ip("link set eth0 down");
        world.node.ip("link show eth0");
        std::thread::sleep(Duration::from_millis(pause));
        let watch = Watch::start(&world.node);
        let begin = Instant::now();
        world.router.ips("link set eth0 up\nroute replace 10.244.0.0/16 via 172.30.1.11\n");
        world.node.ip("link show eth0");
        assert!(within(Duration::from_secs(8), || routes() == before), "after {pause} ms: {}", routes());
        let took = watch.last().saturating_duration_since(begin);
        println!("{took:7.1?} a cable that was unplugged for {pause} ms");
        assert!(took <= LIMIT, "a cable that was unplugged for {pause} ms: {took:?}");
        assert_eq!(ask(&pod.ns, None, echo.at), Some(pod.ip()));
        world.settle();
    }
}
