//! What others write under our keys is named, and changes nothing.

use std::process::Command;

use ripstop_lab::{Backend, Lab, Options};

use super::{PATIENCE, ctl, ip, lab, patiently, pods, reaches, rows};

fn status(lab: &Lab, node: u32) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_ripstop"))
        .args(["--lab", lab.layout().lab(), "--node", &node.to_string(), "status"])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn foreign_objects_under_our_keys_are_named_and_the_last_good_state_stays() {
    let Some(lab) = lab(Options { nodes: 2, backend: Backend::Vxlan, ..Options::named("t-etcd-odd") }) else { return };
    pods(&lab);
    let good = ["nodes/n2", "networks/default"]
        .map(|key| (key, ctl(&lab, &["get", "--print-value-only", &format!("/ripstop/{key}")])));
    // Neither JSON, nor a record, nor one of this key, nor a kind of ours.
    for (key, value) in [
        ("nodes/n2", "not json"),
        ("nodes/n9", r#"{"name": "n9", "addresses": 5}"#),
        ("networks/default", r#"{"metadata": {"name": "default"}, "spec": {"ranges": ["10.0.0.0/33"]}}"#),
        ("claims/default/10.244.77.0_24", r#"{"network": "default", "range": "10.244.78.0/24"}"#),
        ("elsewhere/x", "1"),
    ] {
        ctl(&lab, &["put", &format!("/ripstop/{key}"), value]);
    }
    for node in [1, 2] {
        patiently("status names each record", || {
            let said = status(&lab, node);
            let names = ["nodes/n2", "nodes/n9", "networks/default", "claims/default/10.244.77.0_24"];
            names.iter().all(|name| said.contains(name))
        });
    }
    let said = status(&lab, 1);
    assert!(!said.contains("\\n"), "a record's faults stand in one sentence: {said}");
    patiently("the log names the key that is no kind of ours", || {
        std::fs::read_to_string(lab.layout().agent_log(1)).unwrap().contains("/ripstop/elsewhere/x")
    });
    reaches(&lab, "p1", &ip(&lab, "p2"));
    assert!(rows(&lab, 1, "/v1/paths").iter().all(|path| path["state"] == "realised"));
    assert_eq!(rows(&lab, 1, "/v1/nodes").len(), 2, "n2 as it was, and no n9");
    assert_eq!(rows(&lab, 1, "/v1/networks").len(), 1);
    // An agent that starts with nothing but this goes on as well, and what is put right is right.
    lab.node(1).kill_agent(false).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    lab.wait_ready(&[1], PATIENCE).unwrap();
    reaches(&lab, "p1", &ip(&lab, "p2"));
    for (key, value) in &good {
        ctl(&lab, &["put", &format!("/ripstop/{key}"), value.trim()]);
    }
    for key in ["nodes/n9", "claims/default/10.244.77.0_24", "elsewhere/x"] {
        ctl(&lab, &["del", &format!("/ripstop/{key}")]);
    }
    for node in [1, 2] {
        patiently("nothing is wrong any more", || !status(&lab, node).contains("Warning"));
    }
    reaches(&lab, "p2", &ip(&lab, "p1"));
    lab.down().unwrap();
}
