//! Mutated inputs: whatever comes in, what comes out is a result or an error of the specification.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

use crate::agent::Agent;
use crate::program::{Ended, Run, programs};

fn full_config() -> String {
    json!({
        "cniVersion": "1.1.0",
        "name": "net",
        "type": "ripstop-cni",
        "network": "default",
        "mtu": 1450,
        "agentTimeout": "2s",
        "dns": {"nameservers": ["10.96.0.10"], "search": ["a.b"]},
        "args": {"cni": {"labels": [{"key": "app", "value": "web"}], "ips": ["10.244.1.9/24"]}},
        "runtimeConfig": {
            "ips": ["10.244.1.9", "fd00::9/64"],
            "mac": "0a:58:0a:f4:01:02",
            "ipRanges": [[{"subnet": "10.1.2.0/24", "rangeStart": "10.1.2.3", "gateway": "10.1.2.1"}]],
            "bandwidth": {"ingressRate": 1_000_000, "ingressBurst": 8_000},
            "portMappings": []
        },
        "prevResult": {
            "cniVersion": "1.1.0",
            "interfaces": [{"name": "eth0", "mac": "0a:58:0a:f4:01:02", "sandbox": "/run/netns/a", "mtu": 1450}],
            "ips": [{"address": "10.244.1.9/32", "gateway": "169.254.1.1", "interface": 0}],
            "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1", "priority": 5}]
        },
        "cni.dev/valid-attachments": [{"containerID": "c-1", "ifname": "eth0"}]
    })
    .to_string()
}

/// One change to a text: bytes put in place of others.
#[derive(Debug, Clone)]
struct Edit {
    at: prop::sample::Index,
    remove: usize,
    insert: Vec<u8>,
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let tokens = prop::sample::select(vec![
        "{", "}", "[", "]", ",", ":", "\"", "null", "-1", "1e999", "true", "\\u0000", "\\ud800", "\n", "0", "\"a\":1,",
        "🦀",
    ]);
    let insert = prop_oneof![
        tokens.prop_map(|t| t.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..4),
        Just(Vec::new())
    ];
    let edit = (any::<prop::sample::Index>(), 0usize..12, insert);
    prop::collection::vec(edit.prop_map(|(at, remove, insert)| Edit { at, remove, insert }), 0..5)
}

fn apply(text: &str, edits: &[Edit]) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    for edit in edits {
        let at = edit.at.index(bytes.len() + 1);
        let end = (at + edit.remove).min(bytes.len());
        bytes.splice(at..end, edit.insert.iter().copied());
    }
    bytes
}

/// Both builds say the same, and what they say conforms.
fn conform(runs: [Ended; 2]) {
    let [ended, shipped] = &runs;
    assert_eq!((ended.status, &ended.stdout), (shipped.status, &shipped.stdout));
    match ended.status {
        Some(0) if ended.stdout.is_empty() => {}
        Some(0) => assert!(serde_json::from_str::<Value>(&ended.stdout).unwrap()["cniVersion"].is_string()),
        _ => {
            ended.error();
        }
    }
}

#[test]
fn whatever_comes_in_the_answer_conforms() {
    let agent = Agent::honest();
    let config = full_config();
    let verbs = prop::sample::select(vec!["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"]);
    let mut runner = TestRunner::new_with_rng(
        Config { cases: 300, failure_persistence: None, ..Config::default() },
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    );
    let outcome = runner.run(&(verbs, edits()), |(verb, edits)| {
        conform(programs().map(|program| {
            Run::complete(program, verb, &agent.socket(), &Value::Null).input(apply(&config, &edits)).end()
        }));
        Ok(())
    });
    outcome.unwrap();
}

#[test]
fn whatever_the_environment_is_the_answer_conforms() {
    let agent = Agent::honest();
    let config = full_config();
    let names = prop::sample::select(vec![
        "CNI_COMMAND",
        "CNI_CONTAINERID",
        "CNI_NETNS",
        "CNI_IFNAME",
        "CNI_ARGS",
        "CNI_PATH",
        "CNI_NETNS_OVERRIDE",
    ]);
    let value = prop_oneof![
        prop::collection::vec(1u8.., 0..24),
        "[A-Z_0-9=;./a-z]{0,40}".prop_map(String::into_bytes),
        Just(b"IgnoreUnknown=1;K8S_POD_NAME=a".to_vec()),
    ];
    let mut runner = TestRunner::new_with_rng(
        Config { cases: 150, failure_persistence: None, ..Config::default() },
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    );
    let outcome =
        runner.run(&(names, value, prop::sample::select(vec!["ADD", "DEL", "CHECK"])), |(name, value, verb)| {
            conform(programs().map(|program| {
                let run = Run::complete(program, verb, &agent.socket(), &Value::Null).input(config.clone());
                run.env(name, OsString::from_vec(value.clone())).end()
            }));
            Ok(())
        });
    outcome.unwrap();
}
