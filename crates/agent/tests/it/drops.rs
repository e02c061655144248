//! What an agent says of packets that policies refused: real packets, its rows and its log.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::policies::{CLOSED, Scene, connects, policy, scene};
use crate::support::ns::{Ns, is_root};
use crate::support::packets::{pings, send};
use crate::support::soon;
use crate::support::world::{Families, Plan, World};

/// What lets the friend come to the port that is called http.
const OPEN: &str = "{podSelector: {matchLabels: {role: web}},\n\
    ingress: [{from: [{podSelector: {matchLabels: {role: friend}}}], ports: [{port: http}]}]}";

/// The row of a rule, or of what stands in its place.
fn row(world: &World, name: Value, direction: &str, rule: Value) -> Value {
    let is_it = |row: &Value| row["name"] == name && row["direction"] == direction && row["rule"] == rule;
    world.rows("/v1/drops").into_iter().find(is_it).unwrap_or_default()
}

fn packets(row: &Value) -> u64 {
    row["packets"].as_u64().unwrap_or_default()
}

fn all(world: &World) -> u64 {
    world.rows("/v1/drops").iter().map(packets).sum()
}

/// The line of the log about two pods and a port.
fn line(scene: &Scene, from: &str, to: &str, port: &str) -> Option<String> {
    let text = scene.world.agent().log_text();
    let (from, to, port) = (format!(" default/{from} ("), format!(" -> default/{to} ("), format!(") {port}: "));
    text.lines().find(|line| line.contains(&from) && line.contains(&to) && line.contains(&port)).map(str::to_owned)
}

#[track_caller]
fn told(scene: &Scene, [from, to, port]: [&str; 3], words: &[&str]) {
    assert!(soon(|| line(scene, from, to, port).is_some()), "{}", scene.world.agent().log_text());
    let line = line(scene, from, to, port).unwrap();
    assert!(line.contains("INFO") && line.contains("refused 1 packet"), "{line}");
    words.iter().for_each(|word| assert!(line.contains(word), "{word}: {line}"));
}

fn are_counted(plan: Plan) {
    let scene = scene(plan);
    let (world, six) = (&scene.world, !scene.world.plan.families.four());
    world.apply(&policy("open", OPEN));
    scene.expect(8080, "friend");
    let of_open = || row(world, json!("open"), "ingress", json!(0));
    assert!(soon(|| packets(&of_open()) > 0), "{:#?}", world.rows("/v1/drops"));
    let before = packets(&of_open());

    // By a rule that is not met, whatever of it.
    assert!(!connects(&scene.friend.ns, &scene.web.at(9090)));
    send(&scene.stranger.ns, None, scene.web.at(53).parse().unwrap(), "x");
    assert!(!pings(&scene.stranger.ns, &scene.web.ip()));
    let closest = "closest rule: networkpolicy/default/open ingress[0]";
    told(&scene, ["friend", "web", "9090/TCP"], &["isolated for ingress", closest, "port name"]);
    told(&scene, ["stranger", "web", "53/UDP"], &[closest, "pod labels: the rule wants role=friend"]);
    told(&scene, ["stranger", "web", if six { "ICMPv6" } else { "ICMP" }], &[closest, "pod labels"]);
    let now = of_open();
    assert!(packets(&now) >= before + 3, "{now}");
    assert_eq!((&now["kind"], &now["namespace"]), (&json!("NetworkPolicy"), &json!("default")));
    assert!(
        now["since"].as_str() < now["last"].as_str() && now["destination"].as_str().unwrap().contains("default/web")
    );

    // Where there is no rule, and on the way out.
    world.apply(&policy("shut", "{podSelector: {matchLabels: {role: friend}}, policyTypes: [Egress]}"));
    assert!(soon(|| !connects(&scene.friend.ns, &scene.stranger.at(9090))));
    assert!(soon(|| packets(&row(world, json!("shut"), "egress", json!(null))) > 0));
    let words = ["egress of default/friend", "networkpolicy/default/shut", "none of them has a rule for egress"];
    told(&scene, ["friend", "stranger", "9090/TCP"], &words);

    // By a rule that denies, whatever NetworkPolicies would say.
    world.apply(
        "{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: guard},\n\
         spec: {tier: Admin, priority: 7, subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {role: stranger}}}},\n\
         egress: [{action: Pass, to: [{networks: [192.0.2.99/32]}]}, {action: Deny, to: [{namespaces: {}}]}]}}",
    );
    assert!(soon(|| !connects(&scene.stranger.ns, &scene.friend.at(9090))));
    assert!(soon(|| packets(&row(world, json!("guard"), "egress", json!(1))) > 0), "{:#?}", world.rows("/v1/drops"));
    told(&scene, ["stranger", "friend", "9090/TCP"], &["clusternetworkpolicy/guard", "egress[1]: Deny"]);
    let of_policies = world.rows("/v1/clusternetworkpolicies");
    assert!(of_policies[0]["drops"].as_u64() > Some(0) && scene.row("shut")["drops"].as_u64() > Some(0));
    let metrics = world.ask("GET", "/metrics", "").unwrap().body;
    let counter = "ripstop_refused_packets_total{kind=\"NetworkPolicy\",namespace=\"default\",name=\"open\",direction=\"ingress\",rule=\"0\"}";
    assert!(metrics.contains(counter), "{metrics}");
    world.settle();
}

#[test]
fn refused_packets_are_counted_by_policy_and_rule() {
    if is_root() {
        are_counted(Plan::default());
    }
}

#[test]
fn refused_packets_are_counted_by_policy_and_rule_by_ipv6() {
    if is_root() {
        are_counted(Plan { families: Families::V6, ..Plan::default() });
    }
}

/// An agent that starts takes in what the kernel has counted meanwhile, and says so where the policy has gone.
#[test]
fn what_was_refused_while_no_agent_ran_is_counted() {
    if !is_root() {
        return;
    }
    let mut scene = scene(Plan::default());
    scene.world.apply(&[policy("open", OPEN), policy("out", &CLOSED.replace("web", "friend"))].concat());
    scene.expect(8080, "friend");
    assert!(soon(|| !connects(&scene.stranger.ns, &scene.friend.at(9090))));
    let of_open = |scene: &Scene| packets(&row(&scene.world, json!("open"), "ingress", json!(0)));
    assert!(soon(|| of_open(&scene) > 0));
    scene.world.kill_agent();
    for port in 100..103 {
        send(&scene.stranger.ns, None, scene.web.at(port).parse().unwrap(), "x");
        send(&scene.stranger.ns, None, scene.friend.at(port).parse().unwrap(), "x");
    }
    assert!(!connects(&scene.stranger.ns, &scene.web.at(8080)), "nobody keeps it closed");
    // The other policy goes while nobody looks.
    scene.world.store.as_ref().unwrap().delete(ripstop_store::Kind::NetworkPolicies, "default/out");
    scene.world.start_agent();
    scene.world.wait_ready();
    assert!(soon(|| of_open(&scene) >= 4), "{:#?}", scene.world.rows("/v1/drops"));
    let gone = "by a policy, or for a pod, that is no more";
    let of_gone = |row: &Value| row["why"] == gone && packets(row) >= 3 && row["name"].is_null();
    assert!(soon(|| scene.world.rows("/v1/drops").iter().any(of_gone)), "{:#?}", scene.world.rows("/v1/drops"));
    told(&scene, ["stranger", "friend", "101/UDP"], &[gone]);
    let before = of_open(&scene);
    assert!(!connects(&scene.stranger.ns, &scene.web.at(8080)));
    assert!(soon(|| of_open(&scene) > before), "it does not go on counting");
}

fn flood(ns: &Ns, to: impl Fn(u64) -> SocketAddr + Send, goes_on: impl Fn(u64) -> bool + Send) -> u64 {
    ns.inside(move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let mut sent = 0;
        while goes_on(sent) {
            sent += u64::from(socket.send_to(b"x", to(sent)).is_ok());
        }
        sent
    })
}

/// More pairs than are counted by name: all are counted, none passes, and the log stays short.
#[test]
fn more_pairs_than_there_is_room_for_are_dropped_and_counted() {
    if !is_root() {
        return;
    }
    let scene = scene(Plan::default());
    let world = &scene.world;
    world.apply(&policy("closed", CLOSED));
    scene.expect(8080, "");
    let listeners = [60_001, 60_002].map(|port| {
        let at: SocketAddr = scene.web.at(port).parse().unwrap();
        scene.web.ns.inside(|| UdpSocket::bind(at)).unwrap()
    });
    let before = all(world);
    let begin = Instant::now();
    let to = |sent: u64| scene.web.at(10_000 + u16::try_from(sent).unwrap()).parse().unwrap();
    let sent = flood(&scene.stranger.ns, to, |sent| {
        if sent % 32 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        sent < 10_000
    });
    // There is no room for these.
    for port in [60_001, 60_002].repeat(20) {
        send(&scene.stranger.ns, None, scene.web.at(port).parse().unwrap(), "x");
    }
    let sent = sent + 40;
    assert!(
        soon(|| all(world) >= before + sent * 95 / 100),
        "{} of {sent}: {:#?}",
        all(world),
        world.rows("/v1/drops")
    );
    assert!(all(world) <= before + sent + 50, "{} of {sent}", all(world));
    let unnamed = world.rows("/v1/drops").into_iter().find(|row| row["why"].as_str().unwrap().contains("too many"));
    assert!(packets(&unnamed.unwrap_or_default()) > 5_000, "{:#?}", world.rows("/v1/drops"));
    for listener in listeners {
        listener.set_nonblocking(true).unwrap();
        assert!(listener.recv_from(&mut [0; 9]).is_err(), "it came through where there was no room to count it");
    }
    assert!(!connects(&scene.stranger.ns, &scene.web.at(8080)));
    let text = world.agent().log_text();
    let lines = text.lines().filter(|line| line.contains(" refused ")).count() as u64;
    assert!(lines <= 50 + 10 * (begin.elapsed().as_secs() + 30), "{lines} lines");
    assert!(text.contains("more packets were refused by policies"), "{text}");
}

/// Refused packets are the kernel's work: who sends many of them does not burden the agent.
#[test]
fn many_refused_packets_a_second_are_no_burden() {
    if !is_root() {
        return;
    }
    let scene = scene(Plan::default());
    let world = &scene.world;
    world.apply(&policy("closed", CLOSED));
    scene.expect(8080, "");
    let before = all(world);
    let targets: Vec<SocketAddr> = (0..30_000).map(|n| scene.web.at(10_000 + n).parse().unwrap()).collect();
    let (begin, cpu) = (Instant::now(), world.agent().cpu_ns());
    let time = Duration::from_secs(10);
    let sent: u64 = std::thread::scope(|s| {
        let senders: Vec<_> = [&scene.stranger, &scene.friend]
            .map(|pod| {
                let targets = &targets;
                s.spawn(move || {
                    flood(&pod.ns, |sent| targets[sent as usize % targets.len()], |_| begin.elapsed() < time)
                })
            })
            .into();
        senders.into_iter().map(|sender| sender.join().unwrap()).sum()
    });
    let (passed, cpu) = (begin.elapsed(), world.agent().cpu_ns() - cpu);
    let core = cpu as f64 / passed.as_nanos() as f64;
    let rate = sent as f64 / passed.as_secs_f64();
    println!("{rate:.0} refused packets a second of 60,000 pairs: the agent takes {:.1} % of a core", core * 100.0);
    assert!(core < 0.5, "{core} cores");
    assert!(soon(|| all(world) > before + sent / 2), "{} of {sent}", all(world));
    assert!(!connects(&scene.stranger.ns, &scene.web.at(8080)));
    world.settle();
}
