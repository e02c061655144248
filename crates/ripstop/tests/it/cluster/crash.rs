//! Nothing is torn by a crash: agents killed, ended, replaced, and left without a store, under packets between all pods.

use std::time::Duration;

use ripstop_lab::probe::Pairs;
use ripstop_lab::{Backend, Families, Lab, Options, Wiring};
use rustix::process::Signal;

use super::{lab, pods, rows, until};

const RATE: u32 = 1000;
const STREAMS: usize = 100;

#[test]
fn routed_pods_by_vxlan_lose_nothing() {
    nothing_is_lost("t-crash-rv", Wiring::Routed, Backend::Vxlan);
}

#[test]
fn routed_pods_by_host_gw_lose_nothing() {
    nothing_is_lost("t-crash-rh", Wiring::Routed, Backend::HostGw);
}

#[test]
fn bridged_pods_by_vxlan_lose_nothing() {
    nothing_is_lost("t-crash-bv", Wiring::Bridge, Backend::Vxlan);
}

#[test]
fn bridged_pods_by_host_gw_lose_nothing() {
    nothing_is_lost("t-crash-bh", Wiring::Bridge, Backend::HostGw);
}

#[test]
fn routed_pods_by_udp_lose_nothing() {
    nothing_is_lost("t-crash-ru", Wiring::Routed, Backend::Udp);
}

fn nothing_is_lost(name: &str, wiring: Wiring, backend: Backend) {
    let options = Options { nodes: 2, wiring, backend, families: Families::Dual, ..Options::named(name) };
    let Some(lab) = lab(options) else { return };
    pods(&lab);
    // In user space a packet costs more: of what this machine has no time for, some would be dropped whoever dies.
    let (rate, count) = if backend == Backend::Udp { (RATE / 4, STREAMS / 5) } else { (RATE, STREAMS) };
    let prober = lab.probe(rate, &Pairs::All).unwrap();
    let streams = lab.streams(count, &Pairs::All).unwrap();
    rest();
    for node in [1, 2] {
        lab.node(node).kill_agent(false).unwrap();
    }
    back(&lab, "kill -9");
    for node in [1, 2] {
        lab.node(node).stop_agent(false).unwrap();
    }
    back(&lab, "a restart");
    replace_binary(&lab);
    back(&lab, "a replaced binary");
    restart_without_store(&lab);
    rest();
    let (report, streams) = (prober.stop().unwrap(), streams.stop().unwrap());
    assert!(report.sent > 1000 && report.errors.is_empty(), "{report:?}");
    assert_eq!((report.lost, report.dup, report.translated), (0, 0, 0), "{report:?}");
    assert_eq!((streams.streams, streams.broken, streams.mismatched), (count, 0, 0), "{:?}", streams.faults);
    assert!(streams.bytes > 0);
    println!(
        "{name}: {} probes, longest gap {:.1} ms; {count} streams, {} MB, longest stall {} ms",
        report.sent,
        report.max_gap_ms,
        streams.bytes >> 20,
        streams.max_stall_ms
    );
    lab.down().unwrap();
}

fn rest() {
    std::thread::sleep(Duration::from_millis(700));
}

/// Every agent is back, and finds nothing to do.
fn back(lab: &Lab, after: &str) {
    rest();
    lab.wait_ready(&[1, 2], Duration::from_secs(10)).unwrap();
    for node in [1, 2] {
        let plan = rows(lab, node, "/v1/plan");
        assert!(plan.is_empty(), "node {node} after {after}: {plan:?}");
    }
}

/// An upgrade: another file, the same program.
fn replace_binary(lab: &Lab) {
    let copy = std::env::temp_dir().join(format!("ripstop-upgrade-{}-{}", std::process::id(), lab.layout().lab()));
    std::fs::copy(env!("CARGO_BIN_EXE_ripstop"), &copy).unwrap();
    for node in [1, 2] {
        let mut command = lab.agent_command(&lab.state().unwrap().options);
        command.argv[0] = copy.display().to_string();
        lab.node(node).replace_agent(command).unwrap();
        lab.node(node).stop_agent(false).unwrap();
    }
    rest();
    lab.wait_ready(&[1, 2], Duration::from_secs(10)).unwrap();
    for node in [1, 2] {
        let agent = lab.node(node).agent().unwrap().unwrap();
        let program = std::fs::read_link(format!("/proc/{}/exe", agent.pid)).unwrap();
        assert_eq!(program, copy, "the agent runs the new file");
    }
    // The running agents keep the file's content.
    std::fs::remove_file(&copy).unwrap();
    for node in [1, 2] {
        let command = lab.agent_command(&lab.state().unwrap().options);
        lab.node(node).replace_agent(command).unwrap();
    }
}

/// The store is away before the agents die and stays away until they are up: they live on their snapshots.
fn restart_without_store(lab: &Lab) {
    lab.store_signal(Signal::KILL).unwrap();
    for node in [1, 2] {
        until("the agent notices that the store is away", || {
            lab.agent_json(node, "/v1/status").unwrap()["store"].as_str().is_some_and(|store| store.starts_with("away"))
        });
        lab.node(node).kill_agent(false).unwrap();
    }
    rest();
    lab.wait_ready(&[1, 2], Duration::from_secs(10)).unwrap();
    // A pod comes and goes meanwhile.
    lab.pod_add(&ripstop_lab::PodSpec::new("orphaned", 1)).unwrap();
    lab.pod_del("orphaned").unwrap();
    for node in [1, 2] {
        let plan = rows(lab, node, "/v1/plan");
        assert!(plan.is_empty(), "node {node} without a store: {plan:?}");
    }
    lab.store_heal().unwrap();
    for node in [1, 2] {
        until("the agent finds the store again", || lab.agent_json(node, "/v1/status").unwrap()["store"] == "here");
    }
}
