//! Runs that are to be repeated.

use std::collections::BTreeSet;

use ripstop_cni_spec::wire::{PROTOCOL, Request};
use ripstop_netmodel::{Entry, Kind, Ns, Sysctl};
use ripstop_objects::{Record, Wiring};
use ripstop_tables::{
    FaultCause, Input, Moment, Recording, RecordingFault, Shaping, Stamped, Start, StepFault, StoreInput, StoreKind,
    StoreResult, Withdrawn,
};
use ripstop_types::{Millis, Owner, Revision};
use serde_json::{Value, json, value::to_raw_value};

use crate::scenario::{Scenario, facts, kept, network, node, node_record, pod_row, start};

fn at(now: u64) -> Moment {
    Moment { now: Millis(now), wall: Millis(1_700_000_000_000 + now) }
}

fn request(config: &Value) -> Request {
    let mut env = ripstop_cni_spec::env::Environment::default();
    for (name, value) in [("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", "c1"), ("CNI_ARGS", "K8S_POD_NAME=web")] {
        env.set(name, value);
    }
    Request {
        protocol: PROTOCOL,
        id: "r1".into(),
        attempt: 1,
        timeout_ms: 10_000,
        plugin: "1.0.0".into(),
        env,
        config: to_raw_value(config).unwrap(),
    }
}

fn cni(config: &Value) -> Input {
    Input::Cni { call: 3, request: request(config) }
}

fn setting() -> Entry {
    let object = Sysctl { ns: Ns::Host, link: None, path: "net/ipv4/ip_forward".into(), value: "1".into() }.into();
    Entry { object, owner: Some(Owner::agent()) }
}

/// At least one of every input, with every way in which it can be filled.
fn every_input() -> Vec<Input> {
    let mut begin = start(facts());
    begin.config.networks = vec![network("default", &["10.244.0.0/16", "fd00:10::/48"], |_| {})];
    begin.observed = vec![setting(), Entry { owner: None, ..setting() }];
    let mut limited = pod_row("a", "default", &["10.244.1.7", "fd00:10::7"], Wiring::Bridge);
    limited.bandwidth.egress = Some(Shaping { rate: 1, burst: 2 });
    begin.pods = vec![limited, pod_row("b", "default", &[], Wiring::Routed)];
    let s = Scenario::synced().network("default", &["10.244.0.0/16"], |_| {}).peer("n2", &["172.30.1.12/24"], &[]);
    let revision = Revision(7);
    let record = node_record("n2", &["172.30.1.12/24"]).encode();
    let fault = |cause| Some(Err(StepFault { text: "no link rippa".into(), cause }));
    let kind = StoreKind::Nodes;
    vec![
        Input::Start(Box::new(begin)),
        Input::Start(Box::new(Start { snapshot: Some(kept(&s.tables, None)), held: true, ..start(facts()) })),
        Input::Store(StoreInput::Put { kind, key: "n2".into(), value: record.clone().into(), revision }),
        Input::Store(StoreInput::Delete { kind, key: "n2".into(), revision }),
        Input::Store(StoreInput::Reset { kind }),
        Input::Store(StoreInput::Synced { kind, revision }),
        Input::Store(StoreInput::Away { reason: "gone".into() }),
        Input::Store(StoreInput::Back),
        Input::Facts(facts()),
        Input::Observed { kinds: BTreeSet::from([Kind::Link, Kind::NftElement]), entries: vec![setting()] },
        Input::Inspected { call: 1, found: Ok(vec![setting()]) },
        Input::Inspected { call: 2, found: Err("no such namespace".into()) },
        cni(&json!({"cniVersion": "1.1.0", "name": "ripstop", "type": "ripstop-cni"})),
        Input::Applied {
            plan: 4,
            results: vec![
                Some(Ok(())),
                fault(FaultCause::Namespace),
                fault(FaultCause::Foreign),
                fault(FaultCause::Permission),
                fault(FaultCause::Other),
                None,
            ],
        },
        Input::Stored {
            plan: 5,
            results: vec![
                StoreResult::Done(revision),
                StoreResult::Conflict(None),
                StoreResult::Conflict(Some((record, revision))),
                StoreResult::Failed("timeout".into()),
            ],
        },
        Input::Saved { generation: 6 },
        Input::Resume,
        Input::Release { call: 7, claim: "10.244.3.0/24".into() },
        Input::DeleteNode { call: 9, node: node("n3") },
        Input::Withdraw { call: 8, what: Withdrawn::Everything, release: true },
        Input::Tick,
    ]
}

fn write(inputs: Vec<Input>) -> String {
    let mut out = Vec::new();
    for (n, input) in (0u64..).zip(inputs) {
        Recording::write(&mut out, &Stamped { at: at(n), input, more: false }).unwrap();
    }
    String::from_utf8(out).unwrap()
}

#[test]
fn every_input_is_read_as_it_was_written() {
    let written = write(every_input());
    let names: BTreeSet<&str> = every_input().iter().map(Input::name).collect();
    assert_eq!(names.len(), 14, "one of each variant: {names:?}");
    let read: Vec<Stamped> = Recording::read(written.as_bytes()).collect::<Result<_, _>>().unwrap();
    assert_eq!(read.len(), every_input().len());
    for ((n, stamped), was) in (0u64..).zip(&read).zip(every_input()) {
        assert_eq!(stamped.at, at(n));
        assert_eq!(format!("{:?}", stamped.input), format!("{was:?}"), "a {}", was.name());
    }
    assert_eq!(write(read.into_iter().map(|stamped| stamped.input).collect()), written);
}

#[test]
fn an_input_is_one_line_under_its_own_name() {
    for (line, input) in write(every_input()).lines().zip(every_input()) {
        let value: Value = serde_json::from_str(line).unwrap();
        let found = match &value["input"] {
            Value::String(name) => name.clone(),
            Value::Object(fields) => fields.keys().next().unwrap().clone(),
            other => panic!("{other}"),
        };
        assert_eq!(found, input.name());
    }
}

#[test]
fn secrets_of_a_configuration_are_not_written() {
    let config = json!({
        "name": "ripstop",
        "type": "ripstop-cni",
        "args": {"Password": "hunter2", "deep": [{"api-token": "hunter2"}, {"PRIVATE_KEY": {"pem": "hunter2"}}]},
        "clientSecret": ["hunter2"],
        "runtimeConfig": {"bandwidth": {"ingressRate": 1}},
        "passphrase": "hunter2",
        "credentials": "hunter2",
        "apiKey": "hunter2",
        "Authorization": "Bearer hunter2",
    });
    let line = write(vec![cni(&config)]);
    assert!(!line.contains("hunter2"), "{line}");
    assert!(line.contains("redacted") && line.contains("ingressRate"), "the rest is there: {line}");
    // What was given is left as it was: only the recording is redacted.
    let stamped = Stamped { at: at(0), input: cni(&config), more: false };
    Recording::write(&mut Vec::new(), &stamped).unwrap();
    let Input::Cni { request, .. } = &stamped.input else { panic!("{stamped:?}") };
    assert!(request.config.get().contains("hunter2"));
}

#[test]
fn a_line_that_is_no_input_is_named_and_the_others_are_read() {
    let good = write(vec![Input::Tick]);
    let text = format!("{good}\n   \n{{\"at\":1}}\n{good}not json\n");
    let lines: Vec<Result<Stamped, RecordingFault>> = Recording::read(text.as_bytes()).collect();
    assert_eq!(lines.iter().filter(|line| line.is_ok()).count(), 2);
    let faults: Vec<String> = lines.iter().filter_map(|line| line.as_ref().err()).map(ToString::to_string).collect();
    assert_eq!(faults.len(), 2);
    assert!(faults[0].starts_with("line 4 of the recording is not an input of this version"), "{}", faults[0]);
    assert!(faults[1].starts_with("line 6 "), "{}", faults[1]);
}

/// A recording that ends in the middle of a line, as one of a killed agent does.
#[test]
fn a_recording_may_be_cut() {
    let written = write(every_input());
    let cut = &written[..written.len() - 4];
    let lines: Vec<_> = Recording::read(cut.as_bytes()).collect();
    assert_eq!(lines.iter().filter(|line| line.is_ok()).count(), every_input().len() - 1);
    assert!(lines.last().unwrap().is_err());
}
