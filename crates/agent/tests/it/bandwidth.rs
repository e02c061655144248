//! The capability `bandwidth`: TCP through the token bucket, both directions, the burst left out.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::ns::{Ns, is_root};
use crate::support::packets::{Sink, Source};
use crate::support::world::{NODE, Plan, World, at};

/// Bits per second that a link received, as the kernel counts bytes with their Ethernet headers, and of TCP's payload.
fn rate(receiver: &Ns, link: &str, sink: &Sink, warm: Duration, time: Duration) -> (f64, f64) {
    let counter = || {
        let text = receiver.ip(&format!("-s -j link show dev {link}"));
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        value[0]["stats64"]["rx"]["bytes"].as_u64().unwrap()
    };
    std::thread::sleep(warm);
    let mut best = (0.0, 0.0);
    // A busy machine starves the sender in some windows; the fastest shows the shaper.
    for _ in 0..WINDOWS {
        let (begin, wire, payload) = (Instant::now(), counter(), sink.bytes.load(Relaxed));
        std::thread::sleep(time);
        let (wire, payload) = (counter() - wire, sink.bytes.load(Relaxed) - payload);
        let seconds = begin.elapsed().as_secs_f64();
        let seen = (wire as f64 * 8.0 / seconds, payload as f64 * 8.0 / seconds);
        if seen.0 > best.0 {
            best = seen;
        }
    }
    best
}

/// How often a rate is measured.
const WINDOWS: usize = 4;

fn measure(mbit: u64) {
    let world = World::start(Plan::default());
    let limit = mbit * 1_000_000;
    let runtime = json!({"bandwidth": {"ingressRate": limit, "egressRate": limit}});
    let pod = world.pod_with("web", |call| call.with("runtimeConfig", runtime));
    let (warm, time) = (Duration::from_millis(700), Duration::from_millis(1500));
    let into = {
        let sink = Sink::start(&pod.ns, &pod.at(7000));
        let _source = Source::start(&world.node, sink.at);
        rate(&pod.ns, "eth0", &sink, warm, time)
    };
    let out = {
        let sink = Sink::start(&world.node, &at(NODE[0], 7001));
        let _source = Source::start(&pod.ns, sink.at);
        rate(&world.node, &pod.host_link(), &sink, warm, time)
    };
    for (direction, (wire, payload)) in [("ingress", into), ("egress", out)] {
        println!(
            "{direction} {mbit} Mbit/s: {:.2} on the wire ({:+.2} %), {:.2} of payload ({:+.2} %)",
            wire / 1e6,
            (wire / limit as f64 - 1.0) * 100.0,
            payload / 1e6,
            (payload / limit as f64 - 1.0) * 100.0
        );
        assert!((wire / limit as f64 - 1.0).abs() <= 0.05, "{direction} {mbit} Mbit/s: {wire}");
    }
    world.check(&pod).done();
    pod.ns.run("tc", &["qdisc", "del", "dev", "eth0", "root"]);
    let (code, text) = world.check(&pod).refused();
    assert!(code == 103 && text.contains("qdisc"), "{code} {text}");
    world.settle();
    world.del(&pod);
}

#[test]
fn ten_megabits() {
    if is_root() {
        measure(10);
    }
}

#[test]
fn two_hundred_megabits() {
    if is_root() {
        measure(200);
    }
}
