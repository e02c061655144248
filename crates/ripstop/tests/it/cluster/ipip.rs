//! The backend ipip: what outlives an agent, what strangers send, and what is left in the end.

use std::process::Command;
use std::time::Duration;

use ripstop_lab::probe::Pairs;
use ripstop_lab::{Backend, Families, Lab, Options, Target};

use super::{ip, lab, pods, rows, talks, until};

fn up(name: &str) -> Option<Lab> {
    let families = Families::V4;
    lab(Options { nodes: 2, subnets: 2, backend: Backend::Ipip, families, ..Options::named(name) })
}

/// Pins of a node's programs, each with what tells it from one made anew; none where its kernel has the device.
fn pins(lab: &Lab, node: u32) -> Vec<String> {
    let search = ["find", "/sys/fs/bpf", "-path", "*/ipip/*", "-type", "f", "-printf", "%p %i %C@\\n"];
    let mut found: Vec<_> = lab.exec(&Target::Node(node), &search).unwrap().lines().map(str::to_owned).collect();
    found.sort();
    found
}

/// Whether programs of ours carry a node's packets, and not the kernel's device. One of both does.
fn by_programs(lab: &Lab, node: u32) -> bool {
    let link = lab.exec(&Target::Node(node), &["ip", "-d", "link", "show", "ripipip0"]).unwrap();
    let found = [" ifb ", " ipip "].map(|kind| link.contains(kind));
    assert!(found[0] != found[1], "{link}");
    found[0]
}

#[test]
fn packets_pass_while_agents_are_killed_and_the_next_ones_change_nothing() {
    let Some(lab) = up("t-ipip-kill") else { return };
    pods(&lab);
    let before = [1, 2].map(|node| pins(&lab, node));
    for (node, pins) in (1..).zip(&before) {
        // Two maps, two programs, and their places at the link and the uplink.
        assert_eq!(pins.len(), if by_programs(&lab, node) { 6 } else { 0 }, "{pins:?}");
    }
    let prober = lab.probe(500, &Pairs::All).unwrap();
    for _ in 0..2 {
        for node in [1, 2] {
            lab.node(node).kill_agent(false).unwrap();
        }
        std::thread::sleep(Duration::from_millis(500));
        lab.wait_ready(&[1, 2], Duration::from_secs(10)).unwrap();
    }
    for node in [1, 2] {
        until("nothing is left to do", || rows(&lab, node, "/v1/plan").is_empty());
    }
    let report = prober.stop().unwrap();
    assert!(report.sent > 500 && report.errors.is_empty(), "{report:?}");
    assert_eq!((report.lost, report.dup, report.translated), (0, 0, 0), "{report:?}");
    assert_eq!(before, [1, 2].map(|node| pins(&lab, node)));
    lab.down().unwrap();
}

/// The router between the nodes is none: it has a device of its own kind where the kernel makes one, and else sends by a socket.
#[test]
fn what_strangers_send_in_packets_comes_to_no_pod() {
    let Some(lab) = up("t-ipip-odd") else { return };
    pods(&lab);
    let dropped = || -> u64 {
        let table =
            lab.exec(&Target::Node(1), &["nft", "-j", "list", "chain", "inet", "ripstop", "tunnel-in"]).unwrap();
        let json: serde_json::Value = serde_json::from_str(&table).unwrap();
        fn counters(value: &serde_json::Value) -> u64 {
            match value {
                serde_json::Value::Object(map) => {
                    let own = map.get("counter").and_then(|counter| counter["packets"].as_u64()).unwrap_or(0);
                    own + map.values().map(counters).sum::<u64>()
                }
                serde_json::Value::Array(all) => all.iter().map(counters).sum(),
                _ => 0,
            }
        }
        counters(&json)
    };
    let pod: std::net::Ipv4Addr = ip(&lab, "p1").parse().unwrap();
    let capture = lab.capture(&Target::Pod("p1".into()), None).unwrap();
    let before = dropped();
    let space = lab.layout().netns_path("router");
    let sent = super::inside(&space, move || send_ipip("172.30.1.11".parse().unwrap(), pod, 5)).join().unwrap();
    assert!(sent.is_ok(), "{sent:?}");
    until("they are counted", || dropped() >= before + 5);
    std::thread::sleep(Duration::from_millis(200));
    let packets = capture.stop().unwrap();
    let strange = packets.iter().filter(|packet| packet.data.windows(4).any(|bytes| bytes == [198, 51, 100, 7]));
    assert_eq!(strange.count(), 0, "a stranger's packet came to the pod");
    assert!(talks(&lab, "p1", "p2"));
    lab.down().unwrap();
}

/// Sends ICMP echo requests from 198.51.100.7 to a pod in packets of protocol 4 to a node.
fn send_ipip(node: std::net::Ipv4Addr, pod: std::net::Ipv4Addr, count: u32) -> std::io::Result<()> {
    use std::os::fd::{AsFd, FromRawFd, OwnedFd};
    // SAFETY: plain integers; the answer is a new descriptor or -1.
    let raw = unsafe { libc::socket(libc::AF_INET, libc::SOCK_RAW, 4) };
    if raw < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: it was just made, and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    let mut inner = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 1, 0, 0];
    inner.extend([198, 51, 100, 7]);
    inner.extend(pod.octets());
    let sum: u32 = inner.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap_or(0);
    inner[10..12].copy_from_slice(&sum.to_be_bytes());
    inner.extend([8, 0, 0xf7, 0xff, 0, 0, 0, 0]);
    for _ in 0..count {
        rustix::net::sendto(
            socket.as_fd(),
            &inner,
            rustix::net::SendFlags::empty(),
            &std::net::SocketAddr::from((node, 0)),
        )?;
    }
    Ok(())
}

#[test]
fn nothing_of_it_is_left_when_the_node_is_purged_or_leaves_the_backend() {
    let Some(lab) = up("t-ipip-end") else { return };
    pods(&lab);
    let has_link = |node: u32| lab.exec(&Target::Node(node), &["ip", "link", "show", "ripipip0"]).is_ok();
    assert!([1, 2].into_iter().all(has_link));
    let migrate = |backend: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_ripstop"))
            .args(["--lab", lab.layout().lab(), "--node", "1", "migrate", "backend", backend, "--timeout", "60s"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    migrate("auto");
    for node in [1, 2] {
        until("the link is gone", || !has_link(node));
        until("the pins are gone", || pins(&lab, node).is_empty());
    }
    assert!(talks(&lab, "p1", "p2"));
    migrate("ipip");
    assert!([1, 2].into_iter().all(has_link));
    assert!(talks(&lab, "p1", "p2"));
    assert_eq!(pins(&lab, 1).is_empty(), !by_programs(&lab, 1));
    lab.pod_del("p1").unwrap();
    let ripstop = env!("CARGO_BIN_EXE_ripstop");
    lab.exec(&Target::Node(1), &[ripstop, "uninstall", "--purge", "--root", "/run/image"]).unwrap();
    until("the link is gone", || !has_link(1));
    until("the pins are gone", || pins(&lab, 1).is_empty());
    lab.down().unwrap();
}
