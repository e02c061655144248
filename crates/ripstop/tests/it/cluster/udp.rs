//! The backend `udp` in whole clusters: its forwarder dies, is replaced, is missing, is lied to, and has a plain forwarder
//! for a peer.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use ripstop_forwarder::Client;
use ripstop_forwarder::control::{Reason, Stats};
use ripstop_forwarder::plain::Plain;
use ripstop_lab::probe::Pairs;
use ripstop_lab::space::in_netns;
use ripstop_lab::{Backend, Families, Lab, Options, PodSpec, Program, Target};
use serde_json::json;

use super::{ip, lab, pods, put, range_of, rows, talks, until};

fn by_udp(name: &str) -> Options {
    Options { nodes: 2, backend: Backend::Udp, ..Options::named(name) }
}

/// The forwarder of a node, asked from the host. One that has just been started does not listen yet.
fn forwarder(lab: &Lab, node: u32) -> Client {
    let socket = lab.layout().machine_dir(&format!("n{node}")).join("run/udp-forward.sock");
    let mut client = None;
    until("the forwarder listens", || {
        client = Client::connect(&socket).ok();
        client.is_some()
    });
    client.unwrap()
}

fn stats(lab: &Lab, node: u32) -> Stats {
    forwarder(lab, node).stats().unwrap()
}

fn pid(lab: &Lab, node: u32) -> Option<i32> {
    lab.node(node).report_of(Program::Forwarder).unwrap().pid
}

fn path_state(lab: &Lab, node: u32) -> String {
    let paths = rows(lab, node, "/v1/paths");
    paths.first().and_then(|path| path["state"].as_str()).unwrap_or_default().to_owned()
}

#[test]
fn a_killed_forwarder_costs_a_moment_and_a_replaced_one_nothing() {
    let Some(lab) = lab(by_udp("t-udp-kill")) else { return };
    pods(&lab);
    let streams = lab.streams(20, &Pairs::All).unwrap();
    // Started while another answers, it takes over; the supervisor's next one takes over from it, and it ends.
    let prober = lab.probe(1000, &Pairs::All).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    for node in [1, 2] {
        let before = pid(&lab, node);
        let mut second = Command::new(env!("CARGO_BIN_EXE_ripstop"));
        let second = lab.spawn(&Target::Node(node), second.arg("udp-forward")).unwrap();
        assert!(second.wait().unwrap().success());
        until("the supervisor's own forwards", || pid(&lab, node).is_some_and(|pid| Some(pid) != before));
    }
    std::thread::sleep(Duration::from_millis(300));
    let report = prober.stop().unwrap();
    assert!(report.sent > 300 && report.errors.is_empty(), "{report:?}");
    assert_eq!((report.lost, report.dup, report.translated), (0, 0, 0), "{report:?}");
    // Killed, it comes back with what it had.
    let prober = lab.probe(1000, &Pairs::All).unwrap();
    for node in [1, 2] {
        std::thread::sleep(Duration::from_millis(300));
        let before = pid(&lab, node);
        lab.node(node).signal(Program::Forwarder, libc::SIGKILL, false).unwrap();
        until("it is back", || pid(&lab, node).is_some_and(|pid| Some(pid) != before));
    }
    std::thread::sleep(Duration::from_millis(700));
    let (report, streams) = (prober.stop().unwrap(), streams.stop().unwrap());
    println!("killed forwarders: longest gap {:.1} ms, {} probes lost", report.max_gap_ms, report.lost);
    assert!(report.max_gap_ms < 2_000.0, "{report:?}");
    assert_eq!((streams.broken, streams.mismatched), (0, 0), "{:?}", streams.faults);
    for node in [1, 2] {
        until("nothing is left to do", || rows(&lab, node, "/v1/plan").is_empty());
        assert_eq!(path_state(&lab, node), "realised");
    }
    lab.down().unwrap();
}

#[test]
fn a_forwarder_that_forgot_or_has_something_else_is_told_anew() {
    let Some(lab) = lab(by_udp("t-udp-tell")) else { return };
    pods(&lab);
    let right = forwarder(&lab, 1).get().unwrap().unwrap();
    let state = lab.layout().machine_dir("n1").join("run/udp-forward.json");
    let mut wrong = right.clone();
    wrong.peers[0].to.set_port(9);
    let is_right = || forwarder(&lab, 1).get().is_ok_and(|setup| setup.as_ref() == Some(&right));
    for text in [None, Some(serde_json::to_string(&wrong).unwrap()), Some("nonsense".into())] {
        match &text {
            Some(text) => std::fs::write(&state, text).unwrap(),
            None => std::fs::remove_file(&state).unwrap(),
        }
        let before = pid(&lab, 1);
        lab.node(1).signal(Program::Forwarder, libc::SIGKILL, false).unwrap();
        until("it is back", || pid(&lab, 1).is_some_and(|pid| Some(pid) != before));
        until("it has what it should", is_right);
        until("pods talk", || talks(&lab, "p1", "p2"));
    }
    // Its device went behind its back.
    lab.exec(&Target::Node(1), &["ip", "link", "del", "ripudp0"]).unwrap();
    until("the path is whole again", || path_state(&lab, 1) == "realised" && rows(&lab, 1, "/v1/plan").is_empty());
    until("pods talk", || talks(&lab, "p1", "p2") && talks(&lab, "p2", "p1"));
    lab.down().unwrap();
}

#[test]
fn a_missing_forwarder_is_named_on_both_ends_and_harms_nothing_else() {
    let Some(lab) = lab(by_udp("t-udp-miss")) else { return };
    pods(&lab);
    lab.node(1).signal(Program::Forwarder, libc::SIGKILL, true).unwrap();
    until("node 1 says so", || path_state(&lab, 1).starts_with("pending: no forwarder runs on this node"));
    until("node 2 says so", || path_state(&lab, 2).starts_with("pending: no forwarder runs on n1"));
    let status = lab.agent_json(1, "/v1/status").unwrap();
    assert_eq!(status["ready"], true, "{status:#}");
    assert!(status["warnings"][0].as_str().unwrap().contains("start `ripstop udp-forward`"), "{status:#}");
    let receives = |node: &str| {
        let nodes = rows(&lab, 2, "/v1/nodes");
        nodes.iter().find(|row| row["name"] == node).unwrap()["receives"].clone()
    };
    assert_eq!((receives("n1"), receives("n2")), (json!(["host-gw"]), json!(["host-gw", "udp/8285"])));
    lab.pod_add(&PodSpec::new("late", 1)).unwrap();
    assert!(talks(&lab, "late", "near") && !talks(&lab, "late", "p2"));
    // An agent that starts meanwhile says the same.
    lab.node(1).kill_agent(false).unwrap();
    lab.wait_ready(&[1], Duration::from_secs(10)).unwrap();
    assert!(path_state(&lab, 1).starts_with("pending: no forwarder runs on this node"), "{}", path_state(&lab, 1));
    lab.node(1).release(Program::Forwarder).unwrap();
    for node in [1, 2] {
        until("the path is back", || path_state(&lab, node) == "realised" && rows(&lab, node, "/v1/plan").is_empty());
    }
    until("pods talk", || talks(&lab, "late", "p2"));
    lab.down().unwrap();
}

/// Everything of ours on a node, but for what its forwarder keeps open.
fn ours(lab: &Lab, node: u32) -> Vec<String> {
    let run = |words: &str| lab.exec(&Target::Node(node), &words.split(' ').collect::<Vec<_>>()).unwrap();
    let links = run("ip -o link show");
    let links = links.lines().filter_map(|line| line.split(": ").nth(1)).filter(|name| name.starts_with("rip"));
    let mut found: Vec<String> = links.map(str::to_owned).collect();
    for words in ["ip -4 route show table all proto 82", "ip -6 route show table all proto 82", "ip nexthop show"] {
        found.extend(run(words).lines().map(str::to_owned));
    }
    found.extend(run("nft list tables").lines().filter(|line| line.contains("ripstop")).map(str::to_owned));
    found
}

/// What a purge leaves of a network by udp: the forwarder, which is its supervisor's, and which forwards nothing.
#[test]
fn a_purge_takes_out_what_the_forwarder_was_told_and_its_device() {
    let Some(lab) = lab(by_udp("t-udp-purge")) else { return };
    pods(&lab);
    let (node, ripstop) = (Target::Node(1), env!("CARGO_BIN_EXE_ripstop"));
    let state = lab.layout().machine_dir("n1").join("run/udp-forward.json");
    let before = ours(&lab, 1);
    for what in ["ripudp0", " dev ripudp0 ", "table inet ripstop"] {
        assert!(before.iter().any(|line| line.contains(what)), "{what}: {before:?}");
    }
    assert!(forwarder(&lab, 1).get().unwrap().is_some() && state.exists());
    let running = pid(&lab, 1);
    // An image's folder: no file is removed, only what the agent made.
    lab.exec(&node, &[ripstop, "uninstall", "--purge", "--root", "/run/image"]).unwrap();
    assert_eq!(ours(&lab, 1), Vec::<String>::new());
    assert_eq!((forwarder(&lab, 1).get().unwrap(), state.exists()), (None, false));
    assert_eq!(pid(&lab, 1), running, "the forwarder runs as before");
    // Started again it has everything again.
    lab.node(1).kill_agent(false).unwrap();
    lab.wait_ready(&[1], Duration::from_secs(10)).unwrap();
    until("the path is back", || path_state(&lab, 1) == "realised" && rows(&lab, 1, "/v1/plan").is_empty());
    assert!(ours(&lab, 1).iter().any(|line| line == "ripudp0") && forwarder(&lab, 1).get().unwrap().is_some());
    lab.down().unwrap();
}

/// The same where no agent runs, by the command itself: a forwarder that runs says what became of it, and one that is dead has
/// nothing to begin with again.
#[test]
fn where_no_agent_runs_a_purge_leaves_nothing_of_udp() {
    let Some(lab) = lab(by_udp("t-udp-away")) else { return };
    pods(&lab);
    let run = lab.layout().machine_dir("n1").join("run");
    let gone = "told to forward nothing any more";
    for forwards in [true, false] {
        lab.node(1).kill_agent(true).unwrap();
        if !forwards {
            lab.node(1).signal(Program::Forwarder, libc::SIGKILL, true).unwrap();
            until("it is dead", || pid(&lab, 1).is_none());
        }
        let before = ours(&lab, 1);
        assert!(before.iter().any(|line| line == "ripudp0") && run.join("udp-forward.json").exists(), "{before:?}");
        purge_without_agent(&lab, 1);
        assert_eq!(ours(&lab, 1), Vec::<String>::new());
        assert!(!run.join("udp-forward.json").exists());
        if forwards {
            assert_eq!(forwarder(&lab, 1).get().unwrap(), None);
            let log = std::fs::read_to_string(run.with_file_name("forwarder.log")).unwrap();
            assert_eq!(log.matches(gone).count(), 1, "{log}");
            assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
        } else {
            lab.node(1).release(Program::Forwarder).unwrap();
            assert_eq!(forwarder(&lab, 1).get().unwrap(), None);
        }
        // A second one finds nothing, and an agent that starts makes everything again.
        purge_without_agent(&lab, 1);
        lab.node(1).release_agent().unwrap();
        lab.wait_ready(&[1], Duration::from_secs(10)).unwrap();
        until("the path is back", || path_state(&lab, 1) == "realised" && rows(&lab, 1, "/v1/plan").is_empty());
    }
    lab.down().unwrap();
}

/// `ripstop uninstall --purge` on a node, with folders of its own before those of this machine whose files it would remove. The
/// configuration, which goes too, is put back.
fn purge_without_agent(lab: &Lab, node: u32) {
    let script = format!(
        "for dir in /opt /etc/cni /etc/systemd /etc/NetworkManager; do\n\
         if test -d $dir; then mount -t tmpfs none $dir; fi; done\n\
         exec {} uninstall --purge --prefix /run/nothing",
        env!("CARGO_BIN_EXE_ripstop")
    );
    let config = lab.layout().machine_dir(&format!("n{node}")).join("etc/config.yaml");
    let text = std::fs::read(&config).unwrap();
    lab.exec(&Target::Node(node), &["unshare", "--mount", "sh", "-c", &script]).unwrap();
    assert!(!config.exists());
    std::fs::write(config, text).unwrap();
}

/// What is sent from a namespace, to the port of a node's forwarder.
fn send(lab: &Lab, from: &Target, to: &str, bytes: &[u8]) {
    let space = lab.netns_of(from).unwrap();
    let sent = in_netns(&space, || UdpSocket::bind("0.0.0.0:0")?.send_to(bytes, (to, 8285)));
    sent.unwrap().unwrap();
}

/// An IPv4 packet without anything in it, of protocol 253 (RFC 3692).
fn packet(from: IpAddr, to: IpAddr) -> Vec<u8> {
    let (IpAddr::V4(from), IpAddr::V4(to)) = (from, to) else { panic!("IPv4") };
    let mut bytes = vec![0x45, 0, 0, 20, 0, 0, 0x40, 0, 64, 253, 0, 0];
    bytes.extend(from.octets());
    bytes.extend(to.octets());
    let sum: u32 = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    bytes[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    bytes
}

#[test]
fn strangers_pods_and_nonsense_get_nothing_through_the_tunnel() {
    let options = Options { subnets: 2, ..by_udp("t-udp-strange") };
    let Some(lab) = lab(options) else { return };
    pods(&lab);
    let [p1, p2, near] = ["p1", "p2", "near"].map(|pod| ip(&lab, pod).parse().unwrap());
    let capture = lab.capture(&Target::Pod("p1".into()), None).unwrap();
    let n1 = "172.30.1.11";
    // From outside, from a pod of the node itself and from one of another: the node's table stops them.
    for from in [Target::Outside, Target::Pod("near".into()), Target::Pod("p2".into())] {
        send(&lab, &from, n1, &packet(p2, p1));
    }
    // From a node, whose word counts for its own pods only.
    let peer = Target::Node(2);
    send(&lab, &peer, n1, &packet(near, p1));
    for nonsense in [&b""[..], b"E", b"GET / HTTP/1.1", &packet(p2, p1)[..19]] {
        send(&lab, &peer, n1, nonsense);
    }
    until("they are counted", || {
        let stats = stats(&lab, 1);
        let dropped = |reason| {
            let of_peers: u64 = stats.peers.values().filter_map(|peer| peer.dropped.get(&reason)).sum();
            of_peers + stats.dropped.get(&reason).copied().unwrap_or_default()
        };
        (dropped(Reason::WrongSource), dropped(Reason::Malformed)) == (1, 4)
    });
    assert_eq!(stats(&lab, 1).dropped.get(&Reason::Stranger), None, "they did not come as far as the forwarder");
    // What is honest comes through on the same way, and nothing came before it.
    send(&lab, &peer, n1, &packet(p2, p1));
    let is_ours = |data: &[u8]| data.len() >= 34 && data[23] == 253;
    until("the honest packet", || stats(&lab, 1).peers["default/n2"].received > 0);
    std::thread::sleep(Duration::from_millis(200));
    let came = capture.stop().unwrap().iter().filter(|packet| is_ours(&packet.data)).count();
    assert_eq!(came, 1);
    lab.down().unwrap();
}

/// A program that holds the port, then a link of another that has the device's name: the migration waits, says why, touches
/// neither, and goes on when they are gone.
#[test]
fn what_is_in_the_way_of_the_forwarder_is_named_and_left_alone() {
    let options = Options { backend: Backend::Vxlan, ..by_udp("t-udp-way") };
    let Some(lab) = lab(options) else { return };
    pods(&lab);
    let node = Target::Node(1);
    lab.exec(&node, &["ip", "link", "add", "ripudp0", "type", "veth", "peer", "name", "other0"]).unwrap();
    let space = lab.node(1).netns();
    let squatter = in_netns(&space, || UdpSocket::bind("172.30.1.11:8285")).unwrap().unwrap();
    let migrate = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ripstop"));
        command.args(["--lab", lab.layout().lab(), "--node", "2", "migrate", "backend"]);
        command.args(args).output().unwrap()
    };
    assert!(migrate(&["udp", "--timeout", "0s"]).status.success());
    let says = |text: &str| {
        let status = lab.agent_json(1, "/v1/status").unwrap();
        status["failed"].as_array().unwrap().iter().any(|line| line.as_str().unwrap().contains(text))
    };
    until("the link is named", || says("a link ripudp0 of kind veth, which is not ours, is in the way"));
    assert_eq!(rows(&lab, 2, "/v1/migrations")[0]["state"], "preparing");
    let addresses = lab.exec(&node, &["ip", "-o", "addr", "show", "dev", "ripudp0"]).unwrap();
    assert_eq!(addresses, "", "nothing was put on another's link");
    assert_eq!(forwarder(&lab, 1).get().unwrap(), None, "and nothing sent to it");
    lab.exec(&node, &["ip", "link", "del", "ripudp0"]).unwrap();
    let named = "listen: 172.30.1.11:8285: Address already in use (os error 98); another program has the port";
    until("the port is named", || says(named));
    assert_eq!(path_state(&lab, 1), "realised", "the old way stays");
    drop(squatter);
    let done = migrate(&["udp", "--timeout", "60s"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    until("the new way", || rows(&lab, 1, "/v1/paths")[0]["backend"] == "udp" && path_state(&lab, 1) == "realised");
    until("pods talk", || talks(&lab, "p1", "p2"));
    lab.down().unwrap();
}

#[test]
fn a_forwarder_that_reads_one_packet_at_a_time_is_a_peer() {
    let options = Options { nodes: 1, families: Families::V4, ..by_udp("t-udp-plain") };
    let Some(lab) = lab(options) else { return };
    lab.pod_add(&PodSpec::new("p1", 1)).unwrap();
    let (outside, inner) = (Target::Outside, "10.244.200.1");
    let ends = ["172.31.0.10:8285", "172.30.1.11:8285"].map(|end| end.parse::<SocketAddr>().unwrap());
    let space = lab.netns_of(&outside).unwrap();
    let _plain = in_netns(&space, || Plain::start(&"plain0".parse().unwrap(), ends[0], ends[1]).unwrap()).unwrap();
    let own = range_of(&lab, "n1");
    for command in [
        "ip link set plain0 mtu 1472 up",
        &format!("ip addr add {inner}/32 dev plain0"),
        &format!("ip route add {own} dev plain0 src {inner}"),
    ] {
        let words: Vec<&str> = command.split_whitespace().collect();
        lab.exec(&outside, &words).unwrap();
    }
    let record = json!({
        "name": "plain", "identity": {"machineId": "plain", "bootId": "plain"},
        "addresses": [{"ip": "172.31.0.10", "prefix": "172.31.0.0/24"}],
        "receives": [{"type": "udp", "port": 8285, "outerV4": "172.31.0.10"}],
    });
    let claim = json!({
        "network": "default", "range": "10.244.200.0/24", "node": "plain", "machine": "plain", "boot": "plain",
        "run": 1, "state": "held",
    });
    put(&lab, ripstop_store::Kind::Nodes, "plain", &record);
    put(&lab, ripstop_store::Kind::Claims, "default/10.244.200.0_24", &claim);
    until("the path is realised", || path_state(&lab, 1) == "realised");
    let to_plain = ["ping", "-c", "3", "-i", "0.2", "-M", "do", "-s", "1444", "-W", "2", inner];
    until("the pod reaches it", || lab.exec(&Target::Pod("p1".into()), &to_plain).is_ok());
    lab.exec(&outside, &["ping", "-c", "1", "-W", "2", &ip(&lab, "p1")]).unwrap();
    lab.down().unwrap();
}
