//! Clusters on etcd that loses its process, its leader, its history.

use std::process::Command;
use std::time::{Duration, Instant};

use ripstop_lab::probe::{Pairs, Prober};
use ripstop_lab::{Backend, Families, Lab, Options, PodSpec};
use rustix::process::Signal;

use super::{PATIENCE, ctl, ip, lab, page, patiently, pods, reaches, requests, rows, store_is, until};

/// Stops a prober and demands that nothing was lost.
fn nothing_lost(prober: Prober) {
    let report = prober.stop().unwrap();
    assert!(report.sent > 500 && report.errors.is_empty(), "{report:?}");
    assert_eq!((report.lost, report.dup, report.translated), (0, 0, 0), "{report:?}");
}

fn settled(lab: &Lab, nodes: &[u32]) {
    for node in nodes {
        until("nothing is left to do", || rows(lab, *node, "/v1/plan").is_empty());
    }
}

#[test]
fn a_cluster_takes_nodes_and_pods_and_loses_nothing_while_etcd_is_killed() {
    let options = Options { nodes: 2, backend: Backend::Vxlan, families: Families::Dual, ..Options::named("t-etcd") };
    let Some(lab) = lab(options) else { return };
    pods(&lab);
    let prober = lab.probe(500, &Pairs::All).unwrap();
    // A node joins the cluster by what etcd holds.
    assert_eq!(lab.node_add().unwrap(), 3);
    lab.pod_add(&PodSpec::new("p3", 3)).unwrap();
    reaches(&lab, "p1", &ip(&lab, "p3"));
    // What an agent needs to start without the store is in its snapshot a second after it came about.
    std::thread::sleep(Duration::from_millis(1500));
    // etcd dies: pods come and go within their node's range, and agents die and come back.
    lab.store_signal(Signal::KILL).unwrap();
    for node in [1, 2, 3] {
        store_is(&lab, node, false);
    }
    lab.pod_add(&PodSpec::new("meanwhile", 2)).unwrap();
    reaches(&lab, "meanwhile", &ip(&lab, "p3"));
    lab.pod_del("meanwhile").unwrap();
    lab.node(1).kill_agent(false).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    lab.wait_ready(&[1], PATIENCE).unwrap();
    lab.store_heal().unwrap();
    for node in [1, 2, 3] {
        store_is(&lab, node, true);
    }
    settled(&lab, &[1, 2, 3]);
    assert_eq!(ctl(&lab, &["get", "--prefix", "--keys-only", "/ripstop/claims/"]).split_whitespace().count(), 6);
    nothing_lost(prober);
    lab.down().unwrap();
}

#[test]
fn an_agent_that_was_away_over_a_compaction_goes_on_with_the_present() {
    let options = Options { nodes: 2, backend: Backend::Vxlan, ..Options::named("t-etcd-past") };
    let Some(lab) = lab(options) else { return };
    lab.pod_add(&PodSpec::new("p2", 2)).unwrap();
    // Its watch is lost, and what it has not seen is forgotten before it asks again.
    lab.node(2).pause_agent().unwrap();
    lab.store_signal(Signal::KILL).unwrap();
    lab.store_heal().unwrap();
    assert_eq!(lab.node_add().unwrap(), 3);
    lab.pod_add(&PodSpec::new("p3", 3)).unwrap();
    let present: serde_json::Value = serde_json::from_str(&ctl(&lab, &["get", "x", "-w", "json"])).unwrap();
    ctl(&lab, &["compact", &present["header"]["revision"].to_string(), "--physical"]);
    lab.node(2).resume_agent().unwrap();
    store_is(&lab, 2, true);
    patiently("node 2 has a path to node 3", || {
        rows(&lab, 2, "/v1/paths").iter().any(|path| path["peer"] == "n3" && path["state"] == "realised")
    });
    reaches(&lab, "p2", &ip(&lab, "p3"));
    // Its watch is whole again: it hears of what changes now.
    lab.node(3).remove().unwrap();
    // Whether a node is silent takes a while to know.
    patiently("node 3 can be deleted", || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ripstop"));
        command.args(["--lab", lab.layout().lab(), "--node", "1", "delete", "node", "n3"]);
        command.output().unwrap().status.success()
    });
    patiently("node 2 forgets node 3", || rows(&lab, 2, "/v1/paths").iter().all(|path| path["peer"] != "n3"));
    settled(&lab, &[1, 2]);
    lab.down().unwrap();
}

#[test]
fn a_lost_leader_of_three_costs_no_packet_and_no_pod() {
    let options = Options { nodes: 2, backend: Backend::HostGw, etcd_members: 3, ..Options::named("t-etcd-three") };
    let Some(lab) = lab(options) else { return };
    pods(&lab);
    let prober = lab.probe(500, &Pairs::All).unwrap();
    for round in 0..2 {
        let leader = leader(&lab);
        lab.store_member_signal(leader, Signal::KILL).unwrap();
        // Within its range a node asks nobody.
        let pod = format!("new{round}");
        lab.pod_add(&PodSpec::new(&pod, 1)).unwrap();
        reaches(&lab, &pod, &ip(&lab, "p2"));
        // With a new leader the cluster takes a node.
        let node = lab.node_add().unwrap();
        for other in [1, 2] {
            store_is(&lab, other, true);
            patiently("the others know it", || {
                let name = format!("n{node}");
                rows(&lab, other, "/v1/paths")
                    .iter()
                    .any(|path| path["peer"] == name.as_str() && path["state"] == "realised")
            });
        }
        lab.store_heal().unwrap();
    }
    settled(&lab, &[1, 2, 3, 4]);
    nothing_lost(prober);
    lab.down().unwrap();
}

/// The member that leads.
fn leader(lab: &Lab) -> u16 {
    let mut found = None;
    patiently("a member leads", || {
        let leads = |member: &u16| {
            page(lab, *member, "metrics").is_some_and(|metrics| metrics.contains("\netcd_server_is_leader 1"))
        };
        found = (0..3).find(leads);
        found.is_some()
    });
    found.unwrap()
}

#[test]
fn idle_nodes_ask_etcd_for_nothing_but_put_their_sign_of_life() {
    const NODES: f64 = 3.0;
    const QUIET: u64 = 10;
    let options = Options { nodes: 3, backend: Backend::Vxlan, ..Options::named("t-etcd-idle") };
    let Some(lab) = lab(options) else { return };
    pods(&lab);
    settled(&lab, &[1, 2, 3]);
    std::thread::sleep(Duration::from_secs(3));
    // A machine that stands still for long may cost a connection, which is asked for anew; not three times.
    let mut told = Vec::new();
    for _ in 0..3 {
        let (more, took) = taken_within(&lab, Duration::from_secs(QUIET));
        println!("in {took:.1} s of three idle nodes: {more:?}");
        // One every two seconds a node, and one that was due at each end.
        let most = NODES * (took / 2.0 + 2.0);
        if let [(method, count)] = &more[..]
            && method == "Put"
            && (1.0..=most).contains(count)
        {
            lab.down().unwrap();
            return;
        }
        told.push(more);
    }
    panic!("more than signs of life: {told:?}");
}

/// How many requests of which method etcd takes within a time, and how long that was in seconds.
fn taken_within(lab: &Lab, time: Duration) -> (Vec<(String, f64)>, f64) {
    let (before, begun) = (requests(lab, 0), Instant::now());
    std::thread::sleep(time);
    let (after, took) = (requests(lab, 0), begun.elapsed().as_secs_f64());
    let more = after.into_iter().map(|(method, count)| {
        let earlier = before.get(&method).copied().unwrap_or_default();
        (method, count - earlier)
    });
    (more.filter(|(_, count)| *count > 0.0).collect(), took)
}
