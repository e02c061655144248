//! A running cluster goes from one backend to another, and loses nothing: under short and longest packets between all
//! pods, streams between pods and from nodes to pods, with agents killed and the store away in the middle.

use std::process::{Command, Output};
use std::time::Duration;

use ripstop_lab::probe::{Pairs, Prober};
use ripstop_lab::streams::TcpStreams;
use ripstop_lab::{Backend, Families, Lab, Options, PodSpec, Program, Target, Wiring};
use rustix::process::Signal;

use super::{lab, pods, rows, until};

/// A migration that takes longer has failed.
const LIMIT: &str = "60s";

/// What goes on in the cluster meanwhile.
struct Load {
    short: Prober,
    long: Prober,
    pods: TcpStreams,
    nodes: TcpStreams,
    /// Of the first and of the second.
    counts: [usize; 2],
}

const STREAMS: usize = 160;
const NODE_STREAMS: usize = 40;

impl Load {
    fn start(lab: &Lab, rate: u32) -> Self {
        Self::of(lab, rate, [STREAMS, NODE_STREAMS])
    }

    fn of(lab: &Lab, rate: u32, counts: [usize; 2]) -> Self {
        let nodes = lab.state().unwrap().nodes().map(|(number, _)| number).collect::<Vec<_>>();
        let from_nodes = nodes
            .iter()
            .flat_map(|node| nodes.iter().filter(move |other| *other != node).map(move |other| (*node, *other)))
            .map(|(node, other)| (Target::Node(node), format!("p{other}").parse().unwrap()))
            .collect();
        Self {
            short: lab.probe(rate, &Pairs::All).unwrap(),
            long: lab.probe_long(rate / 5, &Pairs::All).unwrap(),
            pods: lab.streams(counts[0], &Pairs::All).unwrap(),
            nodes: lab.streams(counts[1], &Pairs::Of(from_nodes)).unwrap(),
            counts,
        }
    }

    /// Stops it, and demands that nothing was lost.
    fn stop(self, name: &str) {
        std::thread::sleep(Duration::from_secs(1));
        for (what, prober) in [("short", self.short), ("longest", self.long)] {
            let mut report = prober.stop().unwrap();
            report.pairs.retain(|pair| pair.lost > 0);
            assert!(report.sent > 1000 && report.errors.is_empty(), "{what}: {report:?}");
            assert_eq!((report.lost, report.dup, report.translated), (0, 0, 0), "{what}: {report:?}");
            println!("{name}: {} {what} probes, longest gap {:.1} ms", report.sent, report.max_gap_ms);
        }
        for (what, count, streams) in [("pod", self.counts[0], self.pods), ("node", self.counts[1], self.nodes)] {
            let streams = streams.stop().unwrap();
            assert_eq!((streams.streams, streams.broken, streams.mismatched), (count, 0, 0), "{:?}", streams.faults);
            assert!(streams.bytes > 0);
            println!("{name}: {count} {what} streams, longest stall {} ms", streams.max_stall_ms);
        }
    }
}

/// Runs `ripstop migrate` on an agent.
fn migrate(lab: &Lab, node: u32, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ripstop"))
        .args(["--lab", lab.layout().lab(), "--node", &node.to_string(), "migrate", "backend"])
        .args(args)
        .output()
        .unwrap()
}

/// Runs it and demands that it succeeds.
fn migrated(lab: &Lab, node: u32, args: &[&str]) {
    let output = migrate(lab, node, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The cluster is as if it had always had this backend.
fn is_whole(lab: &Lab, backend: &str, mtu: u64) {
    let nodes: Vec<u32> = lab.state().unwrap().nodes().map(|(number, _)| number).collect();
    for node in nodes {
        let mut left = Vec::new();
        let begun = std::time::Instant::now();
        while begun.elapsed() < Duration::from_secs(20) {
            left = rows(lab, node, "/v1/migrations");
            left.extend(rows(lab, node, "/v1/plan"));
            if left.is_empty() {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let said = lab.agent_json(node, "/v1/status").unwrap();
        assert!(left.is_empty(), "node {node} has left to do: {left:#?}\n{said:#}");
        let paths = rows(lab, node, "/v1/paths");
        assert!(paths.iter().all(|path| path["state"] == "realised"), "{paths:#?}");
        if backend == "ipip" {
            let by_family = |path: &serde_json::Value| if path["family"] == "4" { "ipip" } else { "host-gw" };
            assert!(paths.iter().all(|path| path["backend"] == by_family(path)), "{paths:#?}");
        } else if backend != "auto" {
            assert!(paths.iter().all(|path| path["backend"] == backend), "{paths:#?}");
        }
        let space = lab.node(node).netns();
        let run = |args: &[&str]| {
            let name = space.file_name().unwrap().to_str().unwrap();
            let output = Command::new("ip").args(["-n", name]).args(args).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        for (kind, backends) in [("vxlan", &["vxlan", "auto"][..]), ("tun", &["udp"])] {
            let devices = run(&["-o", "link", "show", "type", kind]).lines().count();
            assert_eq!(devices, usize::from(backends.contains(&backend)), "{kind} devices of node {node}");
        }
        let devices = run(&["-o", "link", "show"]).matches(" ripipip0: ").count();
        assert_eq!(devices, usize::from(backend.starts_with("ipip")), "IPIP devices of node {node}");
        let socket = lab.layout().machine_dir(&format!("n{node}")).join("run/udp-forward.sock");
        let setup = ripstop_forwarder::Client::connect(&socket).unwrap().get().unwrap();
        assert_eq!(setup.is_some(), backend == "udp", "{setup:?}");
        for link in run(&["-o", "link", "show", "type", "veth"]).lines().filter(|link| link.contains("ripp")) {
            assert!(link.contains(&format!(" mtu {mtu} ")), "{link}");
        }
    }
    for pod in lab.pods().unwrap() {
        for family in ["-4", "-6"] {
            // What is launched is done for the plan; removals are the last to be done.
            until("no route of a pod says an MTU of its own", || {
                !lab_exec(lab, &pod.name, &["ip", family, "route"]).contains(" mtu ")
            });
        }
    }
}

fn lab_exec(lab: &Lab, pod: &str, argv: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_ripstop"))
        .args(["lab", "exec", "--name", lab.layout().lab(), pod, "--"])
        .args(argv)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn five_nodes_in_two_subnets_lose_nothing() {
    let options = Options {
        nodes: 5,
        subnets: 2,
        backend: Backend::Vxlan,
        families: Families::V4,
        ..Options::named("t-mig-two")
    };
    let Some(lab) = lab(options) else { return };
    pods(&lab);
    let load = Load::start(&lab, 1000);
    let refused = migrate(&lab, 1, &["host-gw"]);
    assert_eq!(refused.status.code(), Some(1));
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(why.contains("a router stands between") && why.contains("auto, vxlan, udp"), "{why}");
    migrated(&lab, 1, &["auto", "--timeout", LIMIT]);
    is_whole(&lab, "auto", 1450);
    std::thread::sleep(Duration::from_secs(1));
    migrated(&lab, 4, &["vxlan", "--timeout", LIMIT]);
    is_whole(&lab, "vxlan", 1450);
    load.stop("two subnets");
    lab.down().unwrap();
}

#[test]
fn five_nodes_in_one_subnet_lose_nothing_and_change_their_mtu() {
    up_and_down("t-mig-one", Wiring::Routed, Families::V4);
}

#[test]
fn bridged_pods_lose_nothing() {
    up_and_down("t-mig-br", Wiring::Bridge, Families::Dual);
}

fn up_and_down(name: &str, wiring: Wiring, families: Families) {
    let nodes = if families == Families::Dual { 3 } else { 5 };
    let options = Options { nodes, wiring, backend: Backend::Vxlan, families, ..Options::named(name) };
    let Some(lab) = lab(options) else { return };
    pods(&lab);
    strict_reverse_path_filter(&lab);
    let load = Load::start(&lab, 1000);
    migrated(&lab, 1, &["host-gw", "--timeout", LIMIT]);
    is_whole(&lab, "host-gw", 1500);
    std::thread::sleep(Duration::from_secs(1));
    // Shorter packets: the agents of all nodes are killed one after the other meanwhile, and the store is.
    migrated(&lab, 1, &["vxlan", "--timeout", "0s"]);
    for node in 1..=nodes {
        lab.node(node).kill_agent(false).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        if node == 2 {
            lab.store_signal(Signal::KILL).unwrap();
            std::thread::sleep(Duration::from_millis(300));
            lab.store_heal().unwrap();
        }
    }
    lab.wait_ready(&(1..=nodes).collect::<Vec<_>>(), Duration::from_secs(10)).unwrap();
    is_whole(&lab, "vxlan", 1450);
    load.stop(name);
    lab.down().unwrap();
}

#[test]
fn to_and_from_udp_nothing_is_lost() {
    let options =
        Options { nodes: 3, backend: Backend::Vxlan, families: Families::Dual, ..Options::named("t-mig-udp") };
    let Some(lab) = lab(options) else { return };
    pods(&lab);
    strict_reverse_path_filter(&lab);
    // Where a node has no forwarder it is refused, and nothing happens.
    lab.node(3).signal(Program::Forwarder, libc::SIGKILL, true).unwrap();
    until("that is known", || !forwards(&lab, 1, "n3"));
    let refused = migrate(&lab, 1, &["udp"]);
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{why}");
    assert!(why.contains("no forwarder runs on node/n3") && why.contains("start `ripstop udp-forward`"), "{why}");
    lab.node(3).release(Program::Forwarder).unwrap();
    until("it runs again", || forwards(&lab, 1, "n3"));
    // In user space a packet costs more than in the kernel.
    let load = Load::of(&lab, 250, [30, 10]);
    // Agents are killed in the middle of the first.
    migrated(&lab, 1, &["udp", "--timeout", "0s"]);
    kill_agents(&lab);
    is_whole(&lab, "udp", 1472);
    migrated(&lab, 2, &["host-gw", "--timeout", LIMIT]);
    is_whole(&lab, "host-gw", 1500);
    // A forwarder is replaced by another in the middle of this one.
    migrated(&lab, 1, &["udp", "--timeout", "0s"]);
    let mut second = Command::new(env!("CARGO_BIN_EXE_ripstop"));
    let second = lab.spawn(&Target::Node(2), second.arg("udp-forward")).unwrap();
    assert!(second.wait().unwrap().success());
    is_whole(&lab, "udp", 1472);
    migrated(&lab, 3, &["auto", "--timeout", LIMIT]);
    is_whole(&lab, "auto", 1450);
    load.stop("udp");
    lab.down().unwrap();
}

/// One after the other is killed and comes back.
fn kill_agents(lab: &Lab) {
    for node in 1..=3 {
        lab.node(node).kill_agent(false).unwrap();
        std::thread::sleep(Duration::from_millis(100));
    }
    lab.wait_ready(&[1, 2, 3], Duration::from_secs(10)).unwrap();
}

#[test]
fn to_and_from_ipip_nothing_is_lost() {
    let options =
        Options { nodes: 3, backend: Backend::Vxlan, families: Families::Dual, ..Options::named("t-mig-ipip") };
    let Some(lab) = lab(options) else { return };
    pods(&lab);
    strict_reverse_path_filter(&lab);
    let load = Load::of(&lab, 250, [30, 10]);
    // Agents are killed in the middle of the first.
    migrated(&lab, 1, &["ipip", "--timeout", "0s"]);
    kill_agents(&lab);
    is_whole(&lab, "ipip", 1480);
    migrated(&lab, 2, &["host-gw", "--timeout", LIMIT]);
    is_whole(&lab, "host-gw", 1500);
    migrated(&lab, 1, &["ipip", "--timeout", LIMIT]);
    is_whole(&lab, "ipip", 1480);
    migrated(&lab, 3, &["vxlan", "--timeout", LIMIT]);
    is_whole(&lab, "vxlan", 1450);
    load.stop("ipip");
    lab.down().unwrap();
}

/// Whether a node has heard that another has a forwarder.
fn forwards(lab: &Lab, node: u32, other: &str) -> bool {
    let state = lab.agent_json(node, "/v1/nodes").unwrap();
    state.as_array().unwrap().iter().any(|row| row["name"] == other && row["forwarder"] == true)
}

/// What hardened hosts have: a packet whose answer would leave by another link is dropped.
fn strict_reverse_path_filter(lab: &Lab) {
    for (number, _) in lab.state().unwrap().nodes() {
        let space = lab.node(number).netns();
        let name = space.file_name().unwrap().to_str().unwrap();
        for which in ["all", "default"] {
            let setting = format!("net.ipv4.conf.{which}.rp_filter=1");
            let done = Command::new("ip").args(["netns", "exec", name, "sysctl", "-qw", &setting]).status().unwrap();
            assert!(done.success());
        }
    }
}

#[test]
fn a_migration_can_be_stopped_and_taken_back_and_a_silent_node_skipped() {
    let options = Options { nodes: 3, backend: Backend::Vxlan, ..Options::named("t-mig-back") };
    let Some(lab) = lab(options) else { return };
    pods(&lab);
    let prober = lab.probe(200, &Pairs::All).unwrap();
    // A node that does not answer holds it up.
    lab.node(3).kill_agent(true).unwrap();
    let output = migrate(&lab, 1, &["host-gw", "--timeout", "3s"]);
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{why}");
    assert!(why.contains("n3 preparing"), "{why}");
    let state = |node: &str| {
        let rows = rows(&lab, 1, "/v1/migrations");
        rows.iter().find(|row| row["node"] == node).map(|row| row["state"].as_str().unwrap().to_owned())
    };
    assert_eq!(state("n3").as_deref(), Some("preparing"));
    // A second one, to a third backend, is refused.
    let second = migrate(&lab, 2, &["auto"]);
    let why = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(second.status.code() == Some(1) && why.contains("on its way from vxlan to host-gw"), "{why}");
    migrated(&lab, 2, &["--stop"]);
    until("the stop is known", || state("n1").as_deref() == Some("stopped"));
    migrated(&lab, 2, &["--continue", "--timeout", "0s"]);
    let alive = migrate(&lab, 1, &["--skip", "n2", "--timeout", "0s"]);
    assert!(String::from_utf8_lossy(&alive.stderr).contains("is alive"), "{alive:?}");
    // Back: what was moved returns, and the silent node is still waited for.
    migrated(&lab, 1, &["--back", "--timeout", "0s"]);
    lab.node(3).release_agent().unwrap();
    lab.wait_ready(&[1, 2, 3], Duration::from_secs(10)).unwrap();
    is_whole(&lab, "vxlan", 1450);
    // A node dies, and one joins in the middle.
    lab.node(3).kill_agent(true).unwrap();
    until("the node is seen as gone", || {
        rows(&lab, 1, "/v1/nodes").iter().any(|row| row["name"] == "n3" && row["ready"] == false)
    });
    migrated(&lab, 1, &["host-gw", "--timeout", "0s"]);
    let joined = lab.node_add().unwrap();
    lab.wait_ready(&[joined], Duration::from_secs(10)).unwrap();
    lab.pod_add(&PodSpec::new("late", joined)).unwrap();
    let late = lab.probe(200, &Pairs::Of(vec![("late".parse().unwrap(), "p1".parse().unwrap())])).unwrap();
    migrated(&lab, 1, &["--skip", "n3", "--timeout", LIMIT]);
    let report = late.stop().unwrap();
    assert_eq!((report.lost, report.errors.len()), (0, 0), "{report:?}");
    // The node that was passed over comes back and joins.
    lab.node(3).release_agent().unwrap();
    lab.wait_ready(&[3], Duration::from_secs(10)).unwrap();
    is_whole(&lab, "host-gw", 1500);
    let report = prober.stop().unwrap();
    let bystanders: u64 =
        report.pairs.iter().filter(|pair| pair.from != "p3" && pair.to != "p3").map(|pair| pair.lost).sum();
    assert_eq!(bystanders, 0, "{report:?}");
    lab.down().unwrap();
}
