//! What an agent reads of its own last run, and what it is told on its sockets.

use std::future::Future;

use ripstop_agent::untrusted::{self, Agent};
use ripstop_objects::{AgentConfig, NodeIdentity};
use ripstop_tables::{Moment, Recording, Snapshot, Start};
use ripstop_types::Millis;
use serde_json::Value;

use crate::text;

/// The HTTP socket.
pub fn http(data: &[u8]) {
    let Some(mut agent) = fresh(None) else { return };
    let answer = wait(agent.http(data));
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "{}", String::from_utf8_lossy(&answer));
}

/// The plugins' socket.
pub fn plugin(data: &[u8]) {
    let Some(mut agent) = fresh(None) else { return };
    let answer = wait(agent.plugin(data));
    if !answer.is_empty() {
        let read = ripstop_cni_spec::wire::Response::parse(&answer);
        assert!(answer.ends_with(b"\n") && read.is_ok(), "{}", String::from_utf8_lossy(&answer));
    }
}

/// A pod's file of this boot.
pub fn lease(data: &[u8]) {
    let Some(Ok(row)) = text(data).map(untrusted::pod_row) else { return };
    let Ok(written) = serde_json::to_string(&row) else { panic!("cannot be written: {row:?}") };
    assert_eq!(untrusted::pod_row(&written).ok(), Some(row.clone()), "written as {written}");
    let Some(mut start) = start(None) else { return };
    start.identity.boot_id = row.boot_id.to_string();
    start.pods = vec![row];
    let _ = wait(Agent::new(moment(), start).http(b"GET /v1/pods HTTP/1.0\r\n\r\n"));
}

/// The snapshot, and a start with it.
pub fn snapshot(data: &[u8]) {
    let Ok(node) = "n1".parse() else { return };
    match Snapshot::decode(data, &node) {
        Ok(snapshot) => {
            let Ok(written) = serde_json::to_vec(&snapshot) else { panic!("cannot be written: {snapshot:?}") };
            assert_eq!(Snapshot::decode(&written, &node).ok(), Some(snapshot.clone()));
            let Some(mut agent) = fresh(Some(snapshot)) else { return };
            let _ = wait(agent.http(b"GET /v1/paths HTTP/1.0\r\n\r\n"));
        }
        Err(fault) => assert!(!fault.to_string().is_empty()),
    }
}

/// A recording, which `ripstop replay` reads.
pub fn recording(data: &[u8]) {
    for stamped in Recording::read(data).filter_map(Result::ok) {
        let mut line = Vec::new();
        assert!(Recording::write(&mut line, &stamped).is_ok());
        let name = stamped.input.name();
        match Recording::read(&line[..]).next() {
            Some(Ok(read)) => assert_eq!(read.input.name(), name),
            other => panic!("what was written cannot be read: {other:?}"),
        }
    }
    let _ = untrusted::recording(data);
}

fn moment() -> Moment {
    Moment { now: Millis(1_000), wall: Millis(1_700_000_000_000) }
}

fn fresh(snapshot: Option<Snapshot>) -> Option<Agent> {
    Some(Agent::new(moment(), start(snapshot)?))
}

/// A start of node n1 with an uplink. None only where this function itself is wrong, which the test tells.
pub(crate) fn start(snapshot: Option<Snapshot>) -> Option<Start> {
    let facts: Value = serde_json::json!({
        "links": {"eth0": {"running": true, "mtu": 1500, "mac": "02:00:00:00:00:11", "addresses": [["172.30.1.11", 24]]}},
        "default_links": {"4": "eth0"},
        "bridge_netfilter": null,
        "foreign_drops": [],
        "ipv6": true,
    });
    Some(Start {
        config: AgentConfig::decode("node: n1\n").ok()?.0,
        node: "n1".parse().ok()?,
        identity: NodeIdentity { machine_id: "machine".into(), boot_id: "boot".into() },
        run: 1,
        version: "0".into(),
        facts: serde_json::from_value(facts).ok()?,
        observed: Vec::new(),
        pods: Vec::new(),
        lost: Vec::new(),
        preferred: Vec::new(),
        snapshot,
        held: false,
    })
}

/// Drives a future on this thread, where a panic in it is seen.
#[allow(clippy::expect_used, reason = "without a runtime nothing can be fuzzed")]
pub(crate) fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime of this thread").block_on(future)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_of_the_targets_answers() {
        let mut agent = fresh(None).unwrap();
        let answer = wait(agent.http(b"GET /v1/networks HTTP/1.0\r\n\r\n"));
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.0 200") && answer.trim_end().ends_with(']'), "{answer}");
        let answer = wait(agent.plugin(b"{\"protocol\":9}\n"));
        assert!(String::from_utf8(answer).unwrap().contains("version 9"));
    }
}
