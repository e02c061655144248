//! What a runtime hands over: variables, a network configuration, a configuration list, a previous result.

use ripstop_cni_spec::env::Environment;
use ripstop_cni_spec::list::Parameters;
use ripstop_cni_spec::wire::{MAX_LINE, Request, Response, Settings};
use ripstop_cni_spec::{Attachment, CniArgs, CniResult, CniVersion, ConfList, NetConf, TypedCall, Verb};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::{head, text};

const VERBS: [Verb; 6] = [Verb::Add, Verb::Check, Verb::Del, Verb::Gc, Verb::Status, Verb::Version];
const VERSIONS: [CniVersion; 5] =
    [CniVersion::V0_3_0, CniVersion::V0_3_1, CniVersion::V0_4_0, CniVersion::V1_0_0, CniVersion::V1_1_0];

/// The variable `CNI_ARGS`.
pub fn args(data: &[u8]) {
    let Some(text) = text(data) else { return };
    for verb in VERBS {
        let read = CniArgs::parse(text, verb);
        assert!(read.is_ok() || verb != Verb::Del, "a DEL never fails for its arguments: {read:?}");
    }
}

/// A network configuration, with its previous result, on standard input.
pub fn config(data: &[u8]) {
    let Some(text) = text(data) else { return };
    for verb in VERBS {
        if let Ok(conf) = NetConf::decode(text, verb) {
            let _ = conf.dns();
            conf.prev_result.iter().for_each(every_version);
        }
    }
    if let Ok(raw) = serde_json::from_str::<&RawValue>(text)
        && let Ok(settings) = Settings::read(raw)
    {
        let _ = (settings.check(Verb::Add), settings.timeout_ms());
    }
}

/// A result in a version's form is read back as what the form can hold, and writing that again changes nothing.
fn every_version(result: &CniResult) {
    for version in VERSIONS {
        let written = result.to_json(version);
        let Ok(read) = CniResult::from_json(&written, version) else {
            panic!("what was written in {version} cannot be read: {written}");
        };
        assert_eq!(read.to_json(version), written, "written again in {version}");
    }
}

/// A configuration list, and what its plugins are given.
pub fn list(data: &[u8]) {
    let Some(list) = text(data).and_then(|text| ConfList::parse(text).ok()) else { return };
    let (Ok(container_id), Ok(ifname)) = ("c1".parse(), "eth0".parse()) else { return };
    let attachment = Attachment { container_id, ifname };
    let parameters = Parameters {
        attachment: attachment.clone(),
        netns: Some("/run/netns/a".into()),
        args: [("K8S_POD_NAME".to_owned(), "web".to_owned())].into(),
        capability_args: [("mac".to_owned(), Value::from("0a:58:0a:f4:01:02"))].into(),
    };
    for verb in VERBS {
        for plugin in list.order(verb).into_iter().map(|at| &list.plugins[at]) {
            let given = list.attachment_stdin(plugin, verb, &parameters, Some(&Value::Object(serde_json::Map::new())));
            let _ = NetConf::decode(&given.to_string(), verb);
            let _ = NetConf::decode(&list.gc_stdin(plugin, std::slice::from_ref(&attachment)).to_string(), verb);
            let _ = NetConf::decode(&list.status_stdin(plugin).to_string(), verb);
        }
    }
}

/// A call as a runtime makes it: lines `NAME=VALUE`, an empty line, the configuration. It goes to the agent and back.
pub fn request(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let (variables, config) = head(text);
    let mut env = Environment::default();
    for (name, value) in variables.lines().filter_map(|line| line.split_once('=')) {
        env.set(name, value);
    }
    let Ok(config) = RawValue::from_string(config.trim().to_owned()) else { return };
    let request = Request { protocol: 1, id: "00".into(), attempt: 1, timeout_ms: 1, plugin: "1".into(), env, config };
    let called = request.decode();
    let Ok(line) = request.to_line() else { return };
    assert!(line.len() <= MAX_LINE && line.iter().filter(|byte| **byte == b'\n').count() == 1);
    match Request::parse(&line) {
        Ok(read) => {
            assert_eq!((&read.env, &read.id, read.version()), (&request.env, &request.id, request.version()));
            assert_eq!(read.decode(), called, "the same call on both ends");
        }
        Err(error) => panic!("what the plugin wrote cannot be read: {error}"),
    }
    if let Ok(call) = &called {
        judge(call);
    }
    let answer = match called {
        Ok(_) => Response::done(),
        Err(error) => {
            let printed: Value = serde_json::from_str(&error.to_json(request.version())).unwrap_or_default();
            assert!(printed["code"].is_u64() && printed["msg"].is_string(), "{printed}");
            Response::failed(error)
        }
    };
    if let Ok(line) = answer.to_line() {
        assert!(Response::parse(&line).is_ok(), "what the agent wrote cannot be read");
    }
}

fn judge(call: &TypedCall) {
    let _ = (call.requested_ips(), call.requested_mac(), call.call.args(), call.call.netns());
    if let Some(attachment) = call.call.attachment() {
        assert!((1..=15).contains(&attachment.ifname.as_str().len()), "{attachment:?}");
    }
}
