//! Requests as the agent decodes them.

use ripstop_cni_spec::env::Environment;
use ripstop_cni_spec::wire::{PROTOCOL, Request};
use ripstop_cni_spec::{Call, CniVersion, Code, TypedCall, Verb};
use serde_json::value::RawValue;
use serde_json::{Value, json};

fn request(verb: &str, vars: &[(&str, &str)], config: &Value) -> Request {
    let mut env = Environment::default();
    env.set("CNI_COMMAND", verb);
    for (name, value) in vars {
        env.set(name, value);
    }
    Request {
        protocol: PROTOCOL,
        id: "7f".into(),
        attempt: 2,
        timeout_ms: 900,
        plugin: "0.1.0".into(),
        env,
        config: RawValue::from_string(config.to_string()).unwrap(),
    }
}

const VARS: [(&str, &str); 3] = [("CNI_CONTAINERID", "c-1"), ("CNI_NETNS", "/run/netns/c"), ("CNI_IFNAME", "eth0")];

fn config() -> Value {
    json!({"cniVersion": "1.1.0", "name": "net", "type": "ripstop-cni", "cni.dev/valid-attachments": []})
}

#[test]
fn each_verb_has_its_parameters() {
    let decode =
        |verb: &str| request(verb, &[&VARS[..], &[("CNI_PATH", "/bin")]].concat(), &config()).decode().unwrap();
    for verb in Verb::ALL.into_iter().filter(|verb| *verb != Verb::Version) {
        let typed = decode(verb.as_str());
        assert_eq!(typed.call.verb(), verb);
        assert_eq!((typed.id.as_str(), typed.attempt, typed.timeout_ms), ("7f", 2, 900));
        let attached = matches!(verb, Verb::Add | Verb::Del | Verb::Check);
        assert_eq!(typed.call.attachment().map(ToString::to_string), attached.then(|| "c-1/eth0".to_owned()));
        assert_eq!(typed.call.netns(), attached.then_some("/run/netns/c"));
        assert_eq!(typed.conf.valid_attachments.is_some(), verb == Verb::Gc);
        let json = serde_json::to_string(&typed).unwrap();
        assert_eq!(serde_json::from_str::<TypedCall>(&json).unwrap(), typed, "a recorded call is the same again");
    }
}

#[test]
fn a_del_needs_no_namespace() {
    for netns in [None, Some(("CNI_NETNS", ""))] {
        let vars: Vec<_> = [VARS[0], VARS[2]].into_iter().chain(netns).collect();
        let typed = request("DEL", &vars, &config()).decode().unwrap();
        assert!(matches!(typed.call, Call::Del { netns: None, .. }));
    }
}

#[test]
fn the_newer_way_of_asking_wins() {
    let args = ("CNI_ARGS", "IP=10.0.0.3;MAC=0a:00:00:00:00:03");
    let vars: Vec<_> = VARS.into_iter().chain([args]).collect();
    let mut config = config();
    let asked = |config: &Value| {
        let typed = request("ADD", &vars, config).decode().unwrap();
        (typed.requested_ips()[0].to_string(), typed.requested_mac().unwrap().to_string())
    };
    assert_eq!(asked(&config), ("10.0.0.3".into(), "0a:00:00:00:00:03".into()));
    config["args"] = json!({"cni": {"ips": ["10.0.0.2/24"], "mac": "0a:00:00:00:00:02"}});
    assert_eq!(asked(&config), ("10.0.0.2/24".into(), "0a:00:00:00:00:02".into()));
    config["runtimeConfig"] = json!({"ips": ["10.0.0.1"], "mac": "0a:00:00:00:00:01"});
    assert_eq!(asked(&config), ("10.0.0.1".into(), "0a:00:00:00:00:01".into()));
}

#[test]
fn the_agent_refuses_what_the_plugin_let_through() {
    let error = request("ADD", &VARS[..2], &config()).decode().unwrap_err();
    assert!(error.code == Code::InvalidEnvironment && error.msg.contains("CNI_IFNAME"), "{error}");
    let error = request("ADD", &VARS, &json!([])).decode().unwrap_err();
    assert_eq!(error.code, Code::Decoding);
}

#[test]
fn an_answer_has_a_version_even_where_the_configuration_has_none() {
    assert_eq!(request("ADD", &VARS, &json!({"cniVersion": "0.4.0"})).version(), CniVersion::V0_4_0);
    for bad in [json!({}), json!([]), json!({"cniVersion": "9"}), json!({"cniVersion": 4})] {
        assert_eq!(request("ADD", &VARS, &bad).version(), CniVersion::LATEST);
    }
}
