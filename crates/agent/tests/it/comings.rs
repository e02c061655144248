//! Pods that come and go while policies about them change: nothing passes that these forbid, from a pod's first moment to its last.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use crate::policies::{Scene, pod_object, policy, scene};
use crate::support::ns::{Ns, is_root};
use crate::support::soon;
use crate::support::world::Plan;

/// Where pods that come and go send to, and where somebody sends to them.
const OUT: u16 = 8081;
const INTO: u16 = 7000;

/// An ear at a port of all addresses.
fn ear(ns: &Ns, port: u16) -> UdpSocket {
    let socket = ns.inside(|| UdpSocket::bind(("0.0.0.0", port)).unwrap());
    socket.set_nonblocking(true).unwrap();
    socket
}

fn heard(ear: &UdpSocket) -> usize {
    std::iter::from_fn(|| ear.recv(&mut [0; 8]).ok()).count()
}

/// A pod comes and goes, which sends from the first moment of its namespace to the last, and is sent to: how many datagrams get to the web,
/// and how many to it. `last` is the last pod's address; the next has one of those behind it.
fn passed(scene: &Scene, name: &str, web: &UdpSocket, last: &AtomicU32) -> [usize; 2] {
    let (ns, is_over) = (Ns::new(), AtomicBool::new(false));
    let own = ear(&ns, INTO);
    let to: SocketAddr = scene.web.at(OUT).parse().unwrap();
    let [pod, stranger] = [&ns, &scene.stranger.ns].map(|ns| ns.inside(|| UdpSocket::bind("0.0.0.0:0").unwrap()));
    std::thread::scope(|s| {
        s.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let _ = pod.send_to(b"?", to);
                let next = last.load(Ordering::Relaxed);
                for place in 0..4 {
                    let _ = stranger.send_to(b"?", (Ipv4Addr::from(next + place), INTO));
                }
            }
        });
        let pod = scene.world.pod_in(ns, name, |call| call);
        last.store(u32::from(pod.ip().parse::<Ipv4Addr>().unwrap()), Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(2));
        scene.world.del(&pod);
        is_over.store(true, Ordering::Relaxed);
    });
    [heard(web), heard(&own)]
}

/// Nothing gets out of pods and into them that policies forbid, from their first moment to their last, while policies about them change.
#[test]
fn nothing_leaks_while_pods_come_and_go() {
    if !is_root() {
        return;
    }
    const PODS: u32 = 60;
    let scene = scene(Plan::default());
    let world = &scene.world;
    let closed = "{podSelector: {matchLabels: {role: new}}, policyTypes: [Ingress, Egress]}";
    let beside = |number: u32| {
        let spec = "podSelector: {matchLabels: {role: new}}, ingress";
        policy("beside", &format!("{{{spec}: [{{ports: [{{port: {}}}]}}]}}", 10_000 + number))
    };
    let objects: Vec<String> = (0..=PODS).map(|n| pod_object(&format!("new-{n}"), "new")).collect();
    world.apply(&[objects.concat(), policy("closed", closed), beside(0)].concat());
    assert!(soon(|| scene.row("closed")["realised"] == true), "{}", scene.row("closed"));
    let web = ear(&scene.web.ns, OUT);
    let last = AtomicU32::new(scene.stranger.ip().parse::<Ipv4Addr>().unwrap().into());
    let passed = |number: u32| passed(&scene, &format!("new-{number}"), &web, &last);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|s| {
        let changes = s.spawn(|| {
            let mut changes = 0;
            while !is_over.load(Ordering::Relaxed) {
                changes += 1;
                world.apply(&beside(changes % 1_000));
                std::thread::sleep(Duration::from_millis(4));
            }
            changes
        });
        let all = (0..PODS).map(|number| (number, passed(number)));
        let leaks: Vec<(u32, [usize; 2])> = all.filter(|(_, passed)| *passed != [0; 2]).collect();
        is_over.store(true, Ordering::Relaxed);
        println!("{PODS} pods beside {} changes", changes.join().unwrap());
        assert_eq!(leaks, [], "pods with what got out of them and into them");
    });
    scene.delete(&policy("closed", closed));
    scene.delete(&beside(0));
    assert!(soon(|| !world.node.run("nft", &["list", "tables"]).contains("ripstop-policy")));
    let open = passed(PODS);
    assert!(open.iter().all(|passed| *passed > 0), "nothing gets through, whatever policies say: {open:?}");
}
