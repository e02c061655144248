//! The capability `bandwidth`: TCP through token buckets, both directions and families, the burst left out.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::ns::is_root;
use crate::support::packets::{Sink, Source, ask};
use crate::support::soon;
use crate::support::world::{Families, NODE, Plan, Pod, World, at};

/// Over this time a rate must hold, and by so much it may be off.
const WINDOW: Duration = Duration::from_secs(10);
const TOLERANCE: f64 = 0.05;

/// On a machine that others keep busy a sender may starve: so long the windows are moved on.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a bucket holds at first has passed by then.
const WARM: Duration = Duration::from_millis(1_500);

const MTU: f64 = 1500.0;

/// One connection through one shaper.
struct Flow {
    name: String,
    /// Bits per second.
    limit: f64,
    /// Bytes of Ethernet frames for each byte of TCP's payload: that is how a shaper counts.
    framing: f64,
    sink: Sink,
    _source: Source,
}

impl Flow {
    fn into_pod(world: &World, pod: &Pod, mbit: u64, six: bool) -> Self {
        let sink = Sink::start(&pod.ns, &at(&pod.ips()[usize::from(six)], 7000));
        let source = Source::start(&world.node, sink.at);
        Self::of("into the pod", mbit, six, sink, source)
    }

    fn out_of_pod(world: &World, pod: &Pod, mbit: u64, six: bool) -> Self {
        let port = 7000 + u16::try_from(mbit).unwrap();
        let sink = Sink::start(&world.node, &at(NODE[usize::from(six)], port));
        let source = Source::start(&pod.ns, sink.at);
        Self::of("out of the pod", mbit, six, sink, source)
    }

    fn of(direction: &str, mbit: u64, six: bool, sink: Sink, source: Source) -> Self {
        // IP, TCP, timestamps (RFC 7323).
        let headers = if six { 40.0 } else { 20.0 } + 20.0 + 12.0;
        Self {
            name: format!("{mbit} Mbit/s {direction} by IPv{}", if six { 6 } else { 4 }),
            limit: mbit as f64 * 1e6,
            framing: (MTU + 14.0) / (MTU - headers),
            sink,
            _source: source,
        }
    }

    /// By how much the rate between two counts is off.
    fn error(&self, bytes: u64, time: Duration) -> f64 {
        bytes as f64 * self.framing * 8.0 / time.as_secs_f64() / self.limit - 1.0
    }
}

/// No window's rate may be above its limit, and each flow must have one that is not below either, as far as the machine
/// could carry it.
fn all_hold(world: &World, flows: Vec<Flow>) {
    let (best, held) = rates(&flows);
    for line in lines(&flows, &best) {
        println!("{line}");
    }
    if held {
        return;
    }
    let late = |(flow, error): (&Flow, &f64)| (*error < -TOLERANCE).then_some(flow.limit);
    let most = flows.iter().zip(&best).filter_map(late).fold(0.0, f64::max);
    drop(flows);
    let free = without_limit(world);
    let words = format!("without a limit {:.0} Mbit/s pass at the moment", free / 1e6);
    assert!(free < 2.0 * most, "too slow: {words}");
    println!("SKIPPED: this machine is too busy for {:.0} Mbit/s: {words}", most / 1e6);
}

/// Bits per second that pass between the node and a pod that has no limit.
fn without_limit(world: &World) -> f64 {
    let pod = world.pod("free");
    let sink = Sink::start(&pod.ns, &pod.at(7000));
    let _source = Source::start(&world.node, sink.at);
    std::thread::sleep(WARM);
    let (begin, before) = (Instant::now(), sink.bytes.load(Relaxed));
    std::thread::sleep(WINDOW / 3);
    (sink.bytes.load(Relaxed) - before) as f64 * 8.0 / begin.elapsed().as_secs_f64()
}

/// By how much each flow was off in its fastest window, and whether all held in time.
fn rates(flows: &[Flow]) -> (Vec<f64>, bool) {
    std::thread::sleep(WARM);
    let count = || flows.iter().map(|flow| flow.sink.bytes.load(Relaxed)).collect::<Vec<_>>();
    let mut counts = vec![(Instant::now(), count())];
    let (begin, mut best) = (Instant::now(), vec![f64::NEG_INFINITY; flows.len()]);
    while best.iter().any(|error| *error < -TOLERANCE) {
        if begin.elapsed() >= PATIENCE {
            return (best, false);
        }
        std::thread::sleep(Duration::from_millis(200));
        let (now, latest) = (Instant::now(), count());
        if let Some((then, earlier)) = counts.iter().rev().find(|(then, _)| now - *then >= WINDOW) {
            for ((flow, best), (latest, earlier)) in flows.iter().zip(&mut best).zip(latest.iter().zip(earlier)) {
                let error = flow.error(latest - earlier, now - *then);
                assert!(error <= TOLERANCE, "{}: {:+.2} %", flow.name, error * 100.0);
                *best = best.max(error);
            }
        }
        counts.push((now, latest));
    }
    (best, true)
}

fn lines(flows: &[Flow], errors: &[f64]) -> Vec<String> {
    flows.iter().zip(errors).map(|(flow, error)| format!("{}: {:+.2} %", flow.name, error * 100.0)).collect()
}

fn limited(world: &World, mbit: u64) -> Pod {
    let limit = mbit * 1_000_000;
    let runtime = json!({"bandwidth": {"ingressRate": limit, "egressRate": limit}});
    world.pod_with(&format!("pod-{mbit}"), |call| call.with("runtimeConfig", runtime))
}

/// These limits, beside each other.
fn measure(rates: &[u64]) {
    let world = World::start(Plan { families: Families::Dual, ..Plan::default() });
    let pods: Vec<(u64, Pod)> = rates.iter().map(|mbit| (*mbit, limited(&world, *mbit))).collect();
    let long = std::env::var_os("RIPSTOP_LONG").is_some();
    for six in [false, true] {
        // One direction at a time: acknowledgements are frames too.
        if long || !six {
            all_hold(&world, pods.iter().map(|(mbit, pod)| Flow::into_pod(&world, pod, *mbit, six)).collect());
        }
        if long || six {
            all_hold(&world, pods.iter().map(|(mbit, pod)| Flow::out_of_pod(&world, pod, *mbit, six)).collect());
        }
    }
    for (_, pod) in &pods {
        world.check(pod).done();
    }
    world.settle();
}

#[test]
fn from_one_to_two_hundred_megabits() {
    if is_root() {
        measure(&[1, 10, 100, 200]);
    }
}

#[test]
fn a_gigabit() {
    if is_root() {
        measure(&[1000]);
    }
}

/// The device that holds what a pod sends.
fn shaper(pod: &Pod) -> String {
    pod.host_link().replacen("ripp", "rips", 1)
}

/// Whatever a pod does to its own interface, and in bridge wiring too, its rate is held on the host's side.
#[test]
fn a_pod_cannot_take_its_limit_away() {
    if !is_root() {
        return;
    }
    let world = World::start(Plan { wiring: "bridge", families: Families::Dual, ..Plan::default() });
    let pod = limited(&world, 20);
    let own = pod.ns.run("tc", &["qdisc", "show", "dev", "eth0"]);
    assert!(!own.contains("tbf"), "{own}");
    pod.ns.run("tc", &["qdisc", "replace", "dev", "eth0", "root", "pfifo"]);
    for six in [false, true] {
        all_hold(&world, vec![Flow::out_of_pod(&world, &pod, 20, six)]);
    }
    world.check(&pod).done();
    world.settle();
    world.del(&pod);
    world.settle();
    let links = world.node.ip("-o link show");
    assert!(!links.contains(": rips") && !links.contains(": ripp"), "{links}");
}

#[test]
fn a_shaper_that_was_removed_comes_back() {
    if !is_root() {
        return;
    }
    let mut world = World::start(Plan::default());
    let pod = limited(&world, 20);
    let (shaper, echo) = (shaper(&pod), world.node_echo(&at(NODE[0], 7000)));
    let index = |world: &World| world.node.tried("ip", &["-o", "link", "show", &shaper]).1;
    let index = |world: &World| index(world).split(':').next().unwrap_or_default().to_owned();
    let before = index(&world);
    let bucket = |world: &World| world.node.tried("tc", &["qdisc", "show", "dev", &shaper]).1.contains("tbf 5200:");
    assert!(bucket(&world) && !before.is_empty());
    for change in [format!("link del {shaper}"), format!("link set {shaper} down")] {
        world.node.ip(&change);
        let whole = || index(&world) == before && bucket(&world) && world.node.ip("-o link show").contains(&shaper);
        assert!(soon(|| whole() && ask(&pod.ns, None, echo.at) == Some(pod.ip())), "after {change}");
    }
    world.node.run("tc", &["qdisc", "del", "dev", &shaper, "root"]);
    assert!(soon(|| bucket(&world)));
    world.settle();
    world.check(&pod).done();
    // An agent that starts finds it as it is.
    world.restart();
    world.settle();
    let journal = world.rows("/v1/journal");
    assert!(journal.iter().all(|step| step["object"].as_str().unwrap().starts_with("record")), "{journal:#?}");
    assert_eq!(index(&world), before);
    all_hold(&world, vec![Flow::out_of_pod(&world, &pod, 20, false)]);
    world.del(&pod);
}
