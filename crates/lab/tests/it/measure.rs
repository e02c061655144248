//! Probes, streams and captures on real packets.

use std::time::Duration;

use ripstop_lab::capture::Packet;
use ripstop_lab::pcapng::Direction;
use ripstop_lab::streams::TcpStreams;
use ripstop_lab::{Endpoint, Lab, Options, Prober, Target};

use super::wires::{attach, connect};
use super::{bare, run, text, until, up};

/// Two nodes with two pods each, and every pair of them.
fn four_pods(options: &Options) -> (Lab, Vec<(Endpoint, Endpoint)>) {
    let lab = up(options);
    connect(&lab);
    let pods = [("a", 1, 11), ("b", 1, 12), ("c", 2, 13), ("d", 2, 14)];
    let sides: Vec<Endpoint> = pods.iter().map(|(name, node, last)| attach(&lab, name, *node, *last)).collect();
    let mut pairs = Vec::new();
    for (n, from) in sides.iter().enumerate() {
        pairs.extend(sides[n + 1..].iter().map(|to| (from.clone(), to.clone())));
    }
    (lab, pairs)
}

fn nft(lab: &Lab, node: u32, rule: &str) {
    let script =
        format!("nft add table ip t && nft 'add chain ip t c {{ {} }}' && nft 'add rule ip t c {}'", hook(rule), rule);
    lab.exec(&Target::Node(node), &["sh", "-c", &script]).unwrap();
}

fn hook(rule: &str) -> &'static str {
    if rule.contains("masquerade") {
        "type nat hook postrouting priority 100;"
    } else {
        "type filter hook forward priority 0;"
    }
}

fn flush(lab: &Lab, node: u32) {
    lab.exec(&Target::Node(node), &["nft", "delete", "table", "ip", "t"]).unwrap();
}

#[test]
fn a_whole_network_loses_nothing() {
    let Some(options) = bare("probe") else { return };
    let (_lab, pairs) = four_pods(&options);
    let prober = Prober::start(1000, &pairs).unwrap();
    until("a thousand echoes of each pair", || prober.received() > 6_000);
    let report = prober.stop().unwrap();
    assert_eq!((report.lost, report.dup, report.translated), (0, 0, 0), "{report:?}");
    assert_eq!(report.sent, report.received);
    assert_eq!(report.pairs.len(), 6);
    assert!(report.pairs.iter().all(|pair| pair.sent > 100 && pair.family == "4"), "{report:?}");
    assert!(report.rtt_p50_us.is_some() && report.max_gap_ms > 0.0 && report.errors.is_empty());
}

#[test]
fn what_is_dropped_is_counted_where_it_is_dropped() {
    let Some(options) = bare("drop") else { return };
    let (lab, pairs) = four_pods(&options);
    let prober = Prober::start(500, &pairs).unwrap();
    until("a steady flow", || prober.received() > 300);
    nft(&lab, 2, "ip daddr 10.244.2.13 drop");
    let before = prober.sent();
    until("two hundred probes of each pair", || prober.sent() > before + 1_200);
    flush(&lab, 2);
    let healed = prober.received();
    until("a steady flow again", || prober.received() > healed + 300);
    let report = prober.stop().unwrap();
    for pair in &report.pairs {
        let hit = pair.from == "c" || pair.to == "c";
        assert_eq!(hit, pair.lost > 100, "{pair:?}");
        assert_eq!(pair.sent, pair.received + pair.lost);
    }
}

#[test]
fn an_address_that_was_rewritten_is_noticed() {
    let Some(options) = bare("nat") else { return };
    let (lab, pairs) = four_pods(&options);
    nft(&lab, 1, "oifname eth0 masquerade");
    let prober = Prober::start(500, &pairs).unwrap();
    until("a steady flow", || prober.received() > 300);
    let report = prober.stop().unwrap();
    assert_eq!(report.lost, 0, "masquerade loses nothing");
    assert!(report.translated > 100, "{report:?}");
}

#[test]
fn a_duplicate_is_counted() {
    let Some(options) = bare("dup") else { return };
    let (lab, pairs) = four_pods(&options);
    // Packets from node 1 to pod c take the cable twice: once routed, once copied to the same next hop.
    let rule = "nft add table ip t && nft 'add chain ip t c { type filter hook prerouting priority -300; }' && \
                nft 'add rule ip t c iifname eth0 ip daddr 10.244.2.13 dup to 10.244.2.13 device p13'";
    lab.exec(&Target::Node(2), &["sh", "-c", rule]).unwrap();
    let to_c: Vec<_> = pairs.into_iter().filter(|(from, to)| from.name == "a" && to.name == "c").collect();
    let prober = Prober::start(500, &to_c).unwrap();
    until("a steady flow", || prober.received() > 300);
    let report = prober.stop().unwrap();
    assert_eq!(report.lost, 0);
    assert!(report.dup > 100, "{report:?}");
}

#[test]
fn streams_carry_every_byte_and_a_reset_breaks_them() {
    let Some(options) = bare("streams") else { return };
    let (lab, pairs) = four_pods(&options);
    let streams = TcpStreams::start(30, &pairs).unwrap();
    until("some data of each", || streams.bytes() > 600_000);
    let report = streams.stop().unwrap();
    assert_eq!((report.streams, report.broken, report.mismatched), (30, 0, 0), "{report:?}");
    assert!(report.bytes > 600_000);

    let streams = TcpStreams::start(6, &pairs).unwrap();
    until("some data", || streams.bytes() > 50_000);
    nft(&lab, 2, "ip daddr 10.244.2.13 tcp flags ack reject with tcp reset");
    let seen = streams.bytes();
    until("more data", || streams.bytes() > seen + 50_000);
    let report = streams.stop().unwrap();
    assert_eq!(report.broken, 3, "{report:?}");
    assert!(report.faults.iter().all(|fault| fault.contains('c')), "{report:?}");
}

fn is_probe(packet: &Packet, marker: &[u8]) -> bool {
    packet.data.windows(marker.len()).any(|window| window == marker)
}

#[test]
fn a_capture_shows_packets_with_interface_and_direction() {
    let Some(options) = bare("capture") else { return };
    let lab = up(&options);
    let capture = lab.capture(&Target::Node(1), None).unwrap();
    lab.exec(&Target::Node(1), &["ping", "-n", "-q", "-c", "3", "-i", "0.01", "-p", "524950", "172.30.1.12"]).unwrap();
    let packets = capture.stop().unwrap();
    let marked: Vec<&Packet> = packets.iter().filter(|packet| is_probe(packet, b"RIPRIPRIP")).collect();
    let ways = |way| marked.iter().filter(|packet| packet.way == way).count();
    assert_eq!((ways(Direction::Out), ways(Direction::In)), (3, 3));
    assert!(marked.iter().all(|packet| packet.interface == "eth0" && packet.ethernet && packet.at > 0));
    assert!(lab.capture(&Target::Node(1), Some("nosuch")).is_err());
}

#[test]
fn a_captured_file_is_read_by_others() {
    let Some(options) = bare("pcap") else { return };
    let lab = up(&options);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.pcapng");
    let capture = lab.capture_to(&Target::Node(1), Some("eth0"), &file).unwrap();
    lab.exec(&Target::Node(1), &["ping", "-n", "-q", "-c", "4", "-i", "0.01", "172.30.1.12"]).unwrap();
    let summary = capture.stop().unwrap();
    assert!(summary.packets >= 8 && summary.dropped == 0, "{summary:?}");
    let read = std::process::Command::new("tcpdump").args(["-n", "-r"]).arg(&file).arg("icmp").output();
    let Ok(read) = read else {
        super::say("SKIPPED: tcpdump is not installed");
        return;
    };
    let lines = text(&read.stdout);
    assert_eq!(lines.lines().count(), 8, "{lines} {}", text(&read.stderr));
    assert!(lines.contains("172.30.1.11 > 172.30.1.12: ICMP echo request"), "{lines}");
}

#[test]
fn the_commands_measure_too() {
    let Some(options) = bare("cli") else { return };
    let _lab = up(&options);
    let name = options.name.as_str();
    let probe = run(&[
        "--name",
        name,
        "probe",
        "--rate",
        "200",
        "--pairs",
        "node/1:node/2,outside:node/1",
        "--for",
        "500ms",
        "-o",
        "json",
    ]);
    let report: serde_json::Value = serde_json::from_slice(&probe.stdout).unwrap();
    assert_eq!((&report["lost"], &report["dup"]), (&0.into(), &0.into()), "{report}");
    assert!(report["sent"].as_u64().unwrap() > 20 && report["max_gap_ms"].is_number());
    assert_eq!(report["pairs"][1]["from"], "outside");
    assert_eq!(run(&["--name", name, "probe", "--for", "1s"]).status.code(), Some(2), "no pods, no pairs");
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("x.pcapng");
    let capture = run(&[
        "--name",
        name,
        "capture",
        "node/1",
        "--out",
        out.to_str().unwrap(),
        "--for",
        Duration::from_millis(300).as_secs_f32().to_string().as_str(),
    ]);
    assert!(capture.status.success(), "{}", text(&capture.stderr));
    assert!(std::fs::metadata(out).unwrap().len() >= 28);
}
