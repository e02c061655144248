//! A forwarder that is killed, replaced, or without an agent.

use std::net::UdpSocket;
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ripstop_forwarder::control::Answer;
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{DEVICE, Node, inner, nodes, stream_both_ways};

/// Numbered packets at 1 kHz from one node to the other.
struct Probe {
    stop: Arc<AtomicBool>,
    sender: JoinHandle<u64>,
    receiver: JoinHandle<Vec<(u64, Instant)>>,
}

impl Probe {
    fn start(from: &Node, to: &Node) -> Self {
        let (source, sink) = (from.udp(inner(from.number, true), 0), to.udp(inner(to.number, true), 0));
        let target = sink.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let sender = std::thread::spawn(move || {
            let (begun, mut number) = (Instant::now(), 0u64);
            while !flag.load(Ordering::Relaxed) {
                while begun.elapsed() >= Duration::from_millis(number) {
                    source.send_to(&number.to_be_bytes(), target).unwrap();
                    number += 1;
                }
                std::thread::sleep(Duration::from_micros(300));
            }
            number
        });
        let receiver = std::thread::spawn(move || receive(&sink));
        std::thread::sleep(Duration::from_millis(200));
        Self { stop, sender, receiver }
    }

    /// Sent, and received with their times.
    fn end(self) -> (u64, Vec<(u64, Instant)>) {
        std::thread::sleep(Duration::from_millis(200));
        self.stop.store(true, Ordering::Relaxed);
        (self.sender.join().unwrap(), self.receiver.join().unwrap())
    }
}

/// Until nothing has come for 2 s.
fn receive(sink: &UdpSocket) -> Vec<(u64, Instant)> {
    sink.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let (mut got, mut number) = (Vec::new(), [0; 8]);
    while sink.recv(&mut number).is_ok() {
        got.push((u64::from_be_bytes(number), Instant::now()));
    }
    got
}

fn end_of(child: &mut Child) -> Option<i32> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "it does not end");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_forwarder_is_replaced_without_a_lost_packet() {
    let Some([one, two]) = nodes(1500) else { return };
    let mut running = one.forward(true);
    let _other = two.forward(true);
    let probes = [Probe::start(&one, &two), Probe::start(&two, &one)];
    let before = one.stats().peers["n2"].sent;
    for _ in 0..10 {
        let next = one.spawn();
        assert_eq!(end_of(&mut running.0), Some(0), "the old one ends by itself");
        running = next;
        std::thread::sleep(Duration::from_millis(50));
    }
    for probe in probes {
        let (sent, got) = probe.end();
        let numbers: Vec<u64> = got.into_iter().map(|(number, _)| number).collect();
        assert!(sent > 500, "{sent}");
        assert_eq!(numbers, (0..sent).collect::<Vec<_>>(), "each once, in order");
    }
    assert!(one.stats().peers["n2"].sent > before, "counters go on");
    assert_eq!(one.client().get().unwrap(), Some(one.setup(true)));
    stream_both_ways(&one, &two, true, 1_000_000);
}

#[test]
fn streams_pass_while_forwarders_are_replaced() {
    let Some([one, two]) = nodes(1500) else { return };
    let (mut running, _other) = (one.forward(true), two.forward(true));
    std::thread::scope(|scope| {
        let streams = scope.spawn(|| (0..4).for_each(|_| stream_both_ways(&one, &two, true, 10_000_000)));
        while !streams.is_finished() {
            let next = one.spawn();
            assert_eq!(end_of(&mut running.0), Some(0));
            running = next;
        }
    });
}

#[test]
fn one_that_was_to_take_over_and_died_leaves_the_old_one_forwarding() {
    use std::io::{BufRead, BufReader, Write};
    let Some([one, two]) = nodes(1500) else { return };
    let _running = [one.forward(true), two.forward(true)];
    let probe = Probe::start(&one, &two);
    for last in ["handOver", "stop"] {
        let mut raw = BufReader::new(std::os::unix::net::UnixStream::connect(one.socket()).unwrap());
        let mut line = String::new();
        raw.get_mut().write_all(b"\"handOver\"\n").unwrap();
        raw.read_line(&mut line).unwrap();
        assert!(matches!(serde_json::from_str(&line).unwrap(), Answer::HandOver { queues: 2, .. }), "{line}");
        if last == "stop" {
            raw.get_mut().write_all(b"\"stop\"\n").unwrap();
            line.clear();
            raw.read_line(&mut line).unwrap();
            assert!(line.starts_with(r#"{"stats":"#), "{line}");
        }
    }
    let (sent, got) = probe.end();
    assert_eq!(got.len() as u64, sent);
    stream_both_ways(&one, &two, true, 1_000_000);
}

/// The issue's limit: 200 ms.
#[test]
fn a_killed_forwarder_costs_200_ms_at_most_and_needs_no_agent() {
    let Some([one, two]) = nodes(1500) else { return };
    let (mut running, _other) = (one.forward(true), two.forward(true));
    let carrier = one.space.inside(|| ripstop_forwarder::hold(&DEVICE.parse().unwrap()).unwrap());
    one.space.ip("nexthop add id 7 dev ripudp0\nroute replace 10.244.2.0/24 nhid 7 src 10.244.1.1");
    let probes = [Probe::start(&one, &two), Probe::start(&two, &one)];
    for _ in 0..5 {
        running.0.kill().unwrap();
        running.0.wait().unwrap();
        // The supervisor starts another at once, and nobody says `set`.
        running = one.spawn();
        std::thread::sleep(Duration::from_millis(400));
    }
    let mut longest = Duration::ZERO;
    for probe in probes {
        let (sent, got) = probe.end();
        assert!(got.len() as u64 <= sent && got.len() > 1_000, "{} of {sent}", got.len());
        let gap = got.windows(2).map(|pair| pair[1].1 - pair[0].1).max().unwrap();
        longest = longest.max(gap);
    }
    println!("longest gap of a kill: {longest:?}");
    assert!(longest <= Duration::from_millis(200), "{longest:?}");
    assert!(one.space.run("ip nexthop show id 7").contains("dev ripudp0"), "the carrier was held");
    drop(carrier);
}

#[test]
fn sigterm_ends_it_in_order() {
    let Some([one, _two]) = nodes(1500) else { return };
    let mut running = one.forward(true);
    kill_process(Pid::from_raw(running.0.id() as i32).unwrap(), Signal::TERM).unwrap();
    assert_eq!(end_of(&mut running.0), Some(0));
    assert!(!one.socket().exists());
}

#[test]
fn a_device_that_was_made_anew_is_opened_again() {
    let Some([one, two]) = nodes(1500) else { return };
    let _running = [one.forward(true), two.forward(true)];
    stream_both_ways(&one, &two, true, 100_000);
    one.space.ip("link del ripudp0");
    one.space.inside(|| ripstop_forwarder::create(&DEVICE.parse().unwrap()).unwrap());
    one.space.ip("link set ripudp0 mtu 1452 addrgenmode none up\naddr add 10.244.1.1/32 dev ripudp0\n\
         route add 10.244.2.0/24 dev ripudp0 src 10.244.1.1");
    one.client().set(&one.setup(true)).unwrap();
    stream_both_ways(&one, &two, true, 100_000);
}

#[test]
fn a_changed_address_of_the_node_needs_no_restart() {
    let Some([one, two]) = nodes(1500) else { return };
    let _running = [one.forward(true), two.forward(true)];
    one.space.ip("addr add 172.30.0.11/24 dev eth0");
    let (mut here, mut there) = (one.setup(true), two.setup(true));
    here.listen[0].set_ip([172, 30, 0, 11].into());
    there.peers[0].to.set_ip([172, 30, 0, 11].into());
    two.client().set(&there).unwrap();
    one.client().set(&here).unwrap();
    // The old address is a stranger's now.
    stream_both_ways(&one, &two, true, 1_000_000);
}
