//! What can be broken, and healed.

use std::collections::BTreeMap;
use std::time::Duration;

use ripstop_lab::process::ProcessId;
use ripstop_lab::{AgentCommand, Lab, Node, PodSpec, Target};

use super::{bare, until, up};

/// A program that stays, in the agent's place: what is tested is who keeps it running.
fn supervise(node: Node<'_>, seconds: &str) -> ProcessId {
    let argv = vec!["sleep".into(), seconds.into()];
    node.replace_agent(AgentCommand { argv, env: BTreeMap::new() }).unwrap();
    running(node)
}

fn running(node: Node<'_>) -> ProcessId {
    until("a running program", || node.agent().unwrap().is_some());
    node.agent().unwrap().unwrap()
}

fn command_line(process: ProcessId) -> String {
    let bytes = std::fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ").trim().to_owned()
}

fn state(process: ProcessId) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.pid)).unwrap();
    stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
}

#[test]
fn a_killed_agent_is_started_again_unless_held() {
    let Some(options) = bare("kill") else { return };
    let lab = up(&options);
    let node = lab.node(1);
    assert!(node.kill_agent(false).unwrap_err().to_string().contains("does not run"));
    let first = supervise(node, "1001");
    for _ in 0..5 {
        let before = running(node);
        node.kill_agent(false).unwrap();
        until("the next one", || node.agent().unwrap().is_some_and(|now| now != before));
    }
    assert!(!first.alive());
    let report = node.report().unwrap();
    assert_eq!((report.starts, report.last_end.as_deref()), (6, Some("signal 9")));

    let before = running(node);
    node.replace_agent(AgentCommand { argv: vec!["sleep".into(), "1002".into()], env: BTreeMap::new() }).unwrap();
    assert_eq!(node.agent().unwrap(), Some(before), "an upgrade waits for the end of the old one");
    node.stop_agent(true).unwrap();
    until("its end", || node.report().unwrap().pid.is_none());
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(node.agent().unwrap(), None, "held");
    node.release_agent().unwrap();
    assert_eq!(command_line(running(node)), "sleep 1002");
}

#[test]
fn a_paused_agent_stands_still() {
    let Some(options) = bare("pause") else { return };
    let lab = up(&options);
    let node = lab.node(2);
    let agent = supervise(node, "1003");
    node.pause_agent().unwrap();
    until("a standstill", || state(agent) == 'T');
    node.resume_agent().unwrap();
    until("a go", || state(agent) == 'S');
    assert_eq!(node.agent().unwrap(), Some(agent));
}

#[test]
fn a_cut_cable_carries_nothing_until_it_is_mended() {
    let Some(options) = bare("cut") else { return };
    let lab = up(&options);
    let reaches = |lab: &Lab, from: &Target| {
        lab.output(from, &["ping", "-n", "-q", "-c", "1", "-W", "1", "172.30.1.12"]).unwrap().status.success()
    };
    assert!(lab.node(2).plugged() && reaches(&lab, &Target::Node(1)) && reaches(&lab, &Target::Outside));
    lab.node(2).cut().unwrap();
    assert!(!lab.node(2).plugged() && !reaches(&lab, &Target::Node(1)));
    lab.node(2).mend().unwrap();
    until("the way back", || reaches(&lab, &Target::Node(1)));
    lab.plug_outside(false).unwrap();
    assert!(!reaches(&lab, &Target::Outside));
    lab.plug_outside(true).unwrap();
    until("the way back", || reaches(&lab, &Target::Outside));
}

#[test]
fn power_takes_pods_and_run_but_not_the_disk() {
    let Some(options) = bare("power") else { return };
    let lab = up(&options);
    lab.pod_add(&PodSpec::new("web", 1)).unwrap();
    lab.pod_add(&PodSpec::new("other", 2)).unwrap();
    lab.exec(&Target::Node(1), &["sh", "-c", "echo a > /run/ripstop/lease; echo b > /var/lib/ripstop/disk"]).unwrap();
    // A program of this process, dead and not waited for, must not keep the machine from ending.
    let _child = lab.spawn(&Target::Node(1), std::process::Command::new("sleep").arg("1004")).unwrap();
    let init = lab.node(1).record().unwrap().init.unwrap();
    lab.node(1).off().unwrap();
    assert!(!init.alive());
    assert_eq!(lab.pods().unwrap().iter().map(|pod| pod.name.as_str()).collect::<Vec<_>>(), ["other"]);
    assert!(lab.exec(&Target::Node(1), &["true"]).unwrap_err().to_string().contains("switched off"));
    assert!(lab.pod_add(&PodSpec::new("web", 1)).is_err());
    lab.node(1).on().unwrap();
    assert_eq!(
        lab.exec(&Target::Node(1), &["ls", "/run/ripstop", "/var/lib/ripstop"]).unwrap(),
        "/run/ripstop:\n\n/var/lib/ripstop:\ndisk\n"
    );
    lab.exec(&Target::Node(1), &["ping", "-n", "-q", "-c", "1", "-W", "5", "172.30.1.12"]).unwrap();
    lab.pod_add(&PodSpec::new("web", 1)).unwrap();
}

#[test]
fn a_lost_pod_is_gone_without_a_word() {
    let Some(options) = bare("lose") else { return };
    let lab = up(&options);
    let sandbox = lab.pod_add(&PodSpec::new("web", 1)).unwrap().sandbox.unwrap();
    lab.pod_lose("web").unwrap();
    assert!(!sandbox.alive() && lab.pods().unwrap().is_empty());
}
