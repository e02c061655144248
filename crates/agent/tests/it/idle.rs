//! What an agent costs when nothing happens.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::ns::is_root;
use crate::support::store::Peer;
use crate::support::world::{Plan, StoreAt, World};

const NAMES: [&str; 9] = ["p1", "p2", "p3", "p4", "p5", "p6", "p7", "p8", "p9"];

#[test]
fn ten_nodes() {
    if !is_root() {
        return;
    }
    // The default intervals, which the figure is for.
    let config = vec!["timings: {}".to_owned()];
    let world = World::start(Plan { store: StoreAt::Here, backend: "vxlan", config, ..Plan::default() });
    let store = world.store.as_ref().unwrap();
    for (n, name) in NAMES.into_iter().enumerate() {
        let leak = |text: String| -> &'static str { text.leak() };
        store.peer(&Peer {
            name,
            addresses: vec![leak(format!("172.30.1.{}/24", 100 + n))],
            ranges: vec![leak(format!("10.244.{}.0/24", 100 + n))],
            vtep: Some(leak(format!("0a:52:49:50:03:{n:02}"))),
        });
    }
    let _pods: Vec<_> = (0..10).map(|_| world.pod("web")).collect();
    world.settle();
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            let mut sequence = 0;
            while !stop.load(Ordering::Relaxed) {
                sequence += 1;
                for name in NAMES {
                    let beat = json!({"node": name, "sequence": sequence, "bootId": "boot-1"});
                    store.put(ripstop_store::Kind::Alive, name, &beat);
                    std::thread::sleep(Duration::from_millis(220));
                }
            }
        });
        std::thread::sleep(Duration::from_secs(1));
        let (begin, cpu) = (Instant::now(), world.agent().cpu_ns());
        std::thread::sleep(Duration::from_secs(8));
        let (time, cpu) = (begin.elapsed(), world.agent().cpu_ns() - cpu);
        stop.store(true, Ordering::Relaxed);
        let milli = cpu as f64 / time.as_nanos() as f64 * 1_000.0;
        println!("idle with 10 nodes and 10 pods: {milli:.2} mCPU, {} KiB resident", world.agent().rss() / 1024);
        // Processor time, which others on the machine do not add to. Nothing in this build is optimised for speed.
        assert!(milli <= 5.0, "{milli:.2} mCPU");
    });
}
